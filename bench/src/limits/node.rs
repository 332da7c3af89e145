//! A broker that is started, killed and started again on one directory.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use super::Rows;
use crate::cli::LimitsArgs;
use crate::client::{Client, Inbox, accept};
use crate::failure::Failure;
use crate::frames::{PRODUCE_VERSION, parse_produce, produce_frame};
use crate::phase::Limit;
use crate::report::Summary;
use crate::resources::resident_bytes;
use crate::run::{self, Broker};
use crate::target::{self, Directory, SpawnArgs, pause};
use crate::transport::{Connection, Transport};
use crate::workload::{Workload, build_pools};

/// With 100,000 partitions a first start or a clean stop takes a while.
const PATIENCE: Duration = Duration::from_secs(400);
/// The topic that is written to: the last by name, so that no start is lucky.
pub(super) const HOT: &str = "z-hot";

/// The broker.
pub(super) struct Node {
    binary: PathBuf,
    arguments: Vec<String>,
    no_pin: bool,
    handles_max: Option<u64>,
    child: Option<Child>,
    pub(super) address: SocketAddr,
    /// When its process began.
    pub(super) spawned: Instant,
    // Goes last: what runs in it has ended by then.
    directory: Directory,
}

/// How long a start took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Started {
    /// Until its port was told.
    pub(super) answers_ms: f64,
    /// Until a record was acknowledged.
    pub(super) acknowledges_ms: f64,
}

impl Node {
    /// A broker that is not started yet, with more arguments of `serve`.
    pub(super) fn new(args: &SpawnArgs, arguments: &[&str]) -> Result<Node, Failure> {
        let beside = std::env::current_exe().map(|path| path.with_file_name("ringlog"));
        let beside = beside.map_err(Failure::system("finding this binary"))?;
        let more = args.broker_arg.iter().cloned();
        Ok(Node {
            binary: args.ringlog.clone().unwrap_or(beside),
            arguments: arguments
                .iter()
                .copied()
                .map(str::to_owned)
                .chain(more)
                .collect(),
            no_pin: args.no_pin,
            handles_max: None,
            child: None,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            spawned: Instant::now(),
            directory: Directory::new(args, "limits")?,
        })
    }

    /// The same with so many file handles.
    pub(super) fn with_handles(mut self, handles_max: u64) -> Node {
        self.handles_max = Some(handles_max);
        self
    }

    /// Starts it, and waits until its port is known.
    pub(super) async fn start(&mut self, args: &SpawnArgs) -> Result<(), Failure> {
        let port_file = self.directory.path().join("port");
        match fs::remove_file(&port_file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::system("removing the port file")(error));
            }
            _ => {}
        }
        let mut command = self.command();
        command.arg("--port-file").arg(&port_file);
        command.args(&self.arguments);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path());
        let log = log.map_err(Failure::system("making the broker's log"))?;
        let also = log
            .try_clone()
            .map_err(Failure::system("sharing the log"))?;
        command.stdin(Stdio::null()).stdout(log).stderr(also);
        self.spawned = Instant::now();
        let failed = format!(
            "starting {} (cargo build --release?)",
            self.binary.display()
        );
        let start = || command.spawn().map_err(Failure::system(failed));
        self.child = Some(target::on_brokers_cpu(args, start)?);
        while self.spawned.elapsed() < PATIENCE {
            if let Ok(text) = fs::read_to_string(&port_file) {
                let address = target::parse_port_file(&text);
                let none = || Failure::Target(format!("port file says {text:?}"));
                self.address = address.ok_or_else(none)?;
                return Ok(());
            }
            self.check_alive()?;
            pause().await;
        }
        Err(Failure::Target(
            "the broker was not ready in time".to_owned(),
        ))
    }

    /// Starts it again, and produces to a topic that was there.
    pub(super) async fn restart<T: Transport>(
        &mut self,
        args: &SpawnArgs,
    ) -> Result<Started, Failure> {
        self.start(args).await?;
        let answers_ms = self.since_spawn_ms();
        produce_one::<T>(self.address).await?;
        let acknowledges_ms = self.since_spawn_ms();
        Ok(Started {
            answers_ms,
            acknowledges_ms,
        })
    }

    pub(super) fn since_spawn_ms(&self) -> f64 {
        self.spawned.elapsed().as_secs_f64() * 1e3
    }

    fn command(&self) -> Command {
        let mut command = match self.handles_max {
            None => Command::new(&self.binary),
            Some(handles_max) => {
                let mut command = Command::new("sh");
                let script = format!("ulimit -n {handles_max}; exec \"$0\" \"$@\"");
                command.arg("-c").arg(script).arg(&self.binary);
                command
            }
        };
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--zookeeper-port", "0"])
            .arg("--data-dir")
            .arg(self.data());
        if !self.no_pin {
            command.args(["--cores", "1"]);
        }
        command
    }

    /// Fails with the end of the log if the process has ended.
    pub(super) fn check_alive(&mut self) -> Result<(), Failure> {
        let Some(child) = &mut self.child else {
            return Ok(());
        };
        match child.try_wait().map_err(Failure::system("waiting"))? {
            None => Ok(()),
            Some(status) => {
                let log = self.log();
                let lines: Vec<_> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(15)..].join("\n");
                Err(Failure::Target(format!(
                    "the broker ended ({status}):\n{tail}"
                )))
            }
        }
    }

    /// SIGTERM, or `kill -9`; gives how long it took.
    pub(super) fn end(&mut self, signal: Signal) -> Result<f64, Failure> {
        let began = Instant::now();
        let Some(mut child) = self.child.take() else {
            return Ok(0.0);
        };
        kill_process(Pid::from_child(&child), signal)
            .map_err(|error| Failure::system("ending the broker")(error.into()))?;
        while began.elapsed() < PATIENCE {
            if let Some(status) = child.try_wait().map_err(Failure::system("waiting"))? {
                if signal == Signal::TERM && !status.success() {
                    return Err(Failure::Target(format!("the broker stopped with {status}")));
                }
                return Ok(began.elapsed().as_secs_f64() * 1e3);
            }
            std::thread::sleep(Duration::from_millis(1)); // the poll's pause
        }
        child.kill().ok(); // it may have ended just now
        Err(Failure::Target(
            "the broker did not stop in time".to_owned(),
        ))
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// As runs see it.
    pub(super) fn broker(&self) -> Broker {
        Broker {
            address: self.address,
            pid: Some(self.pid()),
        }
    }

    /// Produces for as long as the flags say, after a warm-up.
    pub(super) async fn load<T: Transport>(
        &self,
        args: &LimitsArgs,
        (workload, warm_up): (&Workload, Duration),
        of: &str,
        rows: &mut Rows,
    ) -> Result<Summary, Failure> {
        let limit = Limit {
            duration: Some(args.duration),
            requests: None,
        };
        let run = run::produce::<T>(self.broker(), workload, warm_up, limit).await?;
        for reason in &run.reasons {
            rows.doubt(of, reason);
        }
        Ok(run.summary)
    }

    pub(super) fn resident_bytes(&self) -> Result<f64, Failure> {
        Ok(resident_bytes(self.pid())? as f64)
    }

    /// Handles that its process holds.
    pub(super) fn handles(&self) -> Result<usize, Failure> {
        Ok(self.descriptors()?.count())
    }

    /// Handles of partitions' files.
    pub(super) fn partition_handles(&self) -> Result<usize, Failure> {
        let logs = self.data().join("logs");
        // One may be closed while we look.
        let targets = self
            .descriptors()?
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        // A partition's file is in its directory, a journal's is not.
        let is_partitions = |target: &PathBuf| {
            let inside = target.strip_prefix(&logs);
            inside.is_ok_and(|inside| inside.components().count() > 1)
        };
        Ok(targets.filter(is_partitions).count())
    }

    fn descriptors(&self) -> Result<fs::ReadDir, Failure> {
        let path = format!("/proc/{}/fd", self.pid());
        fs::read_dir(&path).map_err(Failure::system(path))
    }

    pub(super) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Files and directories below its log directory.
    pub(super) fn files(&self) -> Result<usize, Failure> {
        count(&self.data().join("logs"))
    }

    /// The sum of the offsets in one of its checkpoint files; 0 without the file.
    pub(super) fn checkpointed(&self, file: &str) -> Result<u64, Failure> {
        let path = self.data().join("logs").join(file);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text
                .lines()
                .filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok())
                .sum()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(Failure::system(path.display().to_string())(error)),
        }
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("broker.log")
    }

    /// All that it logged.
    pub(super) fn log(&self) -> String {
        let bytes = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok(); // by its own pid; it may have ended
            child.wait().ok();
        }
    }
}

fn count(directory: &Path) -> Result<usize, Failure> {
    let failed = || Failure::system(format!("listing {}", directory.display()));
    let mut found = 0;
    for entry in fs::read_dir(directory).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        found += 1;
        if entry.file_type().map_err(failed())?.is_dir() {
            found += count(&entry.path())?;
        }
    }
    Ok(found)
}

/// One record to [`HOT`], acks=all.
pub(super) async fn produce_one<T: Transport>(address: SocketAddr) -> Result<(), Failure> {
    let workload = Workload {
        record_bytes: 100,
        ..Workload::default()
    };
    let pools = build_pools(&workload, 1)?;
    let frame = produce_frame(PRODUCE_VERSION, (HOT, 0), -1, &pools[0][0]);
    let connection = T::connect(address).await;
    let connection = connection.map_err(Failure::system("connecting"))?;
    let (written, _) = connection.write_all(frame).await;
    written.map_err(Failure::system("writing to the broker"))?;
    let mut inbox = Inbox::new(4096);
    let Some(answer) = inbox.next(&connection).await? else {
        return Err(Failure::Closed {
            connection: "one record".to_owned(),
            in_flight: 1,
        });
    };
    accept("Produce", parse_produce(inbox.bytes(answer))?.error_code)
}

/// A client, and the topic [`HOT`] with so many partitions.
pub(super) async fn with_hot_topic<T: Transport>(
    node: &Node,
    partitions: usize,
) -> Result<Client<T::Connection>, Failure> {
    let mut client = Client::connect::<T>(node.address).await?;
    client.create_topic(HOT, partitions).await?;
    Ok(client)
}

/// As many handles for this process as it may have.
pub(super) fn raise_handles() -> Result<(), Failure> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    let raised = setrlimit(Resource::Nofile, limit);
    raised.map_err(|error| Failure::system("raising RLIMIT_NOFILE")(error.into()))
}
