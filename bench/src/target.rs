//! The broker under test: one that is there, a `ringlog` of ours, or Apache Kafka by its jars.
//!
//! A started broker gets an empty directory of its own and is pinned to the first CPU if there are
//! two; the generator takes the second. Affinity is inherited at fork, so no tool is needed for it.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::failure::Failure;
use crate::resources;

/// A start or a stop that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// The `ringlog` binary.
    Ringlog,
    /// Apache Kafka.
    Kafka,
}

/// What `acks=all` is to mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Durability {
    /// In the page cache: Apache Kafka's default.
    PageCache,
    /// On stable storage: Ringlog's default, Kafka's `log.flush.interval.messages=1`.
    Durable,
}

impl Durability {
    /// As it stands in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PageCache => "page-cache",
            Self::Durable => "durable",
        }
    }
}

/// How brokers are started.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SpawnArgs {
    /// The ringlog binary [default: beside this one]
    #[arg(long, value_name = "FILE")]
    pub(crate) ringlog: Option<PathBuf>,
    /// The script that starts and stops Apache Kafka
    #[arg(long, value_name = "FILE", default_value = "tests/oracle/kafka")]
    pub(crate) kafka_script: PathBuf,
    /// The version of Apache Kafka
    #[arg(long, value_name = "VERSION", default_value = "3.9.1")]
    pub(crate) kafka_version: String,
    /// Where data directories are made [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) work_dir: Option<PathBuf>,
    /// One more argument of the started broker (ringlog serve, or the Kafka script); may be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) broker_arg: Vec<String>,
    /// Leave threads where the system puts them
    #[arg(long)]
    pub(crate) no_pin: bool,
    /// What `ringlog serve` is run by: words before the binary.
    #[arg(skip)]
    pub(crate) wrapper: Vec<String>,
}

impl SpawnArgs {
    /// The directory for data directories.
    pub(crate) fn work_dir(&self) -> PathBuf {
        self.work_dir.clone().unwrap_or_else(std::env::temp_dir)
    }
}

/// A broker to load.
#[derive(Debug)]
pub(crate) struct Target {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Its process, if known.
    pub(crate) pid: Option<u32>,
    /// What was started, as a person would type it.
    pub(crate) command: String,
    /// When the process began.
    pub(crate) spawned: Instant,
    process: Process,
}

#[derive(Debug)]
enum Process {
    Foreign,
    Ringlog {
        child: Child,
        directory: Directory,
    },
    Kafka {
        script: PathBuf,
        directory: Directory,
    },
}

/// A directory that goes with its broker.
#[derive(Debug)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    /// An empty one in the working directory of `args`.
    pub(crate) fn new(args: &SpawnArgs, name: &str) -> Result<Self, Failure> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("ringlog-bench-{}-{number}-{name}", std::process::id());
        let path = args.work_dir().join(name);
        fs::create_dir_all(&path).map_err(Failure::system(format!("making {}", path.display())))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    fn log_tail(&self) -> String {
        let logs = ["broker.log", "server.log"].map(|name| fs::read_to_string(self.0.join(name)));
        let text = logs.into_iter().flatten().collect::<String>();
        let short = |line: &str| line.chars().take(200).collect::<String>();
        let lines: Vec<_> = text.lines().map(short).collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Best effort: what is left behind lies in the temporary directory and is named after us.
        fs::remove_dir_all(&self.0).ok();
    }
}

impl Target {
    /// A broker that somebody else runs.
    pub(crate) fn foreign(bootstrap: &str, pid: Option<u32>) -> Result<Self, Failure> {
        let addresses = bootstrap.to_socket_addrs();
        let mut addresses = addresses.map_err(Failure::system(format!("resolving {bootstrap}")))?;
        let none = || Failure::Usage(format!("{bootstrap} names no IPv4 address"));
        Ok(Self {
            address: addresses.find(SocketAddr::is_ipv4).ok_or_else(none)?,
            pid,
            command: format!("foreign broker at {bootstrap}"),
            spawned: Instant::now(),
            process: Process::Foreign,
        })
    }

    /// Starts a broker; it may not be ready to answer yet, but its port is known.
    pub(crate) async fn spawn(
        kind: Kind,
        durability: Durability,
        args: &SpawnArgs,
    ) -> Result<Self, Failure> {
        match kind {
            Kind::Ringlog => spawn_ringlog(durability, args).await,
            Kind::Kafka => spawn_kafka(durability, args),
        }
    }

    /// Ends a broker that was started here, cleanly, and removes its data.
    pub(crate) fn stop(mut self) -> Result<(), Failure> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Failure> {
        match &mut self.process {
            Process::Foreign => Ok(()),
            Process::Ringlog { child, directory } => {
                if let Some(status) = child.try_wait().map_err(Failure::system("waiting"))? {
                    let what = format!("the broker ended ({status}):\n{}", directory.log_tail());
                    return Err(Failure::Target(what));
                }
                terminate(child)
            }
            Process::Kafka { script, directory } => {
                let mut command = Command::new(&*script);
                command.arg("stop").arg("--dir").arg(&directory.0);
                run(&mut command).map(drop)
            }
        }
    }

    /// The port file has a line `NAME://address:port` for each listener; it appears whole.
    async fn await_port_file(&mut self, path: &Path) -> Result<SocketAddr, Failure> {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if let Ok(text) = fs::read_to_string(path) {
                let address = parse_port_file(&text);
                return address.ok_or_else(|| Failure::Target(format!("port file says {text:?}")));
            }
            if let Process::Ringlog { child, .. } = &mut self.process
                && let Some(status) = child.try_wait().map_err(Failure::system("waiting"))?
            {
                let what = format!(
                    "the broker ended at its start ({status}):\n{}",
                    self.log_tail()
                );
                return Err(Failure::Target(what));
            }
            pause().await;
        }
        let what = format!("the broker was not ready within 60 s:\n{}", self.log_tail());
        Err(Failure::Target(what))
    }

    /// Where a broker that was started here keeps its data.
    pub(crate) fn directory(&self) -> Option<&Path> {
        match &self.process {
            Process::Foreign => None,
            Process::Ringlog { directory, .. } | Process::Kafka { directory, .. } => {
                Some(directory.path())
            }
        }
    }

    /// The end of the broker's log, for the report of a failure.
    pub(crate) fn log_tail(&self) -> String {
        match &self.process {
            Process::Foreign => String::new(),
            Process::Ringlog { directory, .. } | Process::Kafka { directory, .. } => {
                directory.log_tail()
            }
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // After `stop` both find nothing to end; after a failure the failure is what is told.
        match &mut self.process {
            Process::Foreign => {}
            Process::Ringlog { child, .. } => {
                child.kill().ok();
                child.wait().ok();
            }
            Process::Kafka { .. } => {
                self.end().ok();
            }
        }
    }
}

fn terminate(child: &mut Child) -> Result<(), Failure> {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        kill_process(pid, Signal::TERM)
            .map_err(|error| Failure::system("ending the broker")(error.into()))?;
    }
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().map_err(Failure::system("waiting"))? {
            return if status.success() {
                Ok(())
            } else {
                Err(Failure::Target(format!("the broker stopped with {status}")))
            };
        }
        std::thread::sleep(Duration::from_millis(5)); // the poll's pause
    }
    Err(Failure::Target(
        "the broker did not stop within 60 s after SIGTERM".to_owned(),
    ))
}

/// Who is to be pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Broker,
    Generator,
}

/// Moves this thread to the second of the CPUs that it may use, if there are two.
pub(crate) fn pin_generator() -> Result<(), Failure> {
    pin(Side::Generator)
}

fn pin(side: Side) -> Result<(), Failure> {
    // What was allowed at first: a pinned generator starts brokers on the other CPU.
    static ALLOWED: OnceLock<CpuSet> = OnceLock::new();
    let now = affinity()?;
    let allowed = ALLOWED.get_or_init(|| now);
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    let (Some(first), Some(second)) = (cpus.next(), cpus.next()) else {
        return Ok(());
    };
    let mut set = CpuSet::new();
    set.set(match side {
        Side::Broker => first,
        Side::Generator => second,
    });
    sched_setaffinity(None, &set).map_err(|error| pin_failed(error.into()))
}

/// Starts a process on the broker's CPU: it inherits what this thread has for the moment.
pub(crate) fn on_brokers_cpu<R>(
    args: &SpawnArgs,
    start: impl FnOnce() -> Result<R, Failure>,
) -> Result<R, Failure> {
    if args.no_pin {
        return start();
    }
    let own = affinity()?;
    pin(Side::Broker)?;
    let started = start();
    sched_setaffinity(None, &own).map_err(|error| pin_failed(error.into()))?;
    started
}

fn affinity() -> Result<CpuSet, Failure> {
    sched_getaffinity(None).map_err(|error| pin_failed(error.into()))
}

fn pin_failed(error: std::io::Error) -> Failure {
    Failure::system("pinning to a CPU (try --no-pin)")(error)
}

async fn spawn_ringlog(durability: Durability, args: &SpawnArgs) -> Result<Target, Failure> {
    let beside = std::env::current_exe().map(|path| path.with_file_name("ringlog"));
    let beside = beside.map_err(Failure::system("finding this binary"))?;
    let binary = args.ringlog.clone().unwrap_or(beside);
    let directory = Directory::new(args, "ringlog")?;
    let log = directory.0.join("broker.log");
    let log = File::create(&log).map_err(Failure::system(format!("making {}", log.display())))?;
    let error_log = log
        .try_clone()
        .map_err(Failure::system("sharing the log"))?;
    let port_file = directory.0.join("port");
    let mut words = args.wrapper.iter().map(std::ffi::OsString::from);
    let mut command = match words.next() {
        Some(first) => {
            let mut command = Command::new(first);
            command.args(words).arg(&binary);
            command
        }
        None => Command::new(&binary),
    };
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--port-file"])
        .arg(&port_file)
        .arg("--data-dir")
        .arg(directory.0.join("data"))
        .args(["--durability", durability.name()]);
    if !args.no_pin {
        command.args(["--cores", "1"]);
    }
    if !args
        .broker_arg
        .iter()
        .any(|word| word.starts_with("--http"))
    {
        // Asked before and after what is measured: system calls, and where the time went.
        command.args(["--http", "127.0.0.1:0"]);
    }
    command.args(&args.broker_arg);
    command.stdin(Stdio::null()).stdout(log).stderr(error_log);
    let text = typed(&command);
    let spawned = Instant::now();
    let failed = format!("starting {} (cargo build --release?)", binary.display());
    let start = || command.spawn().map_err(Failure::system(failed));
    let child = on_brokers_cpu(args, start)?;
    let mut target = Target {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        pid: Some(child.id()),
        command: text,
        spawned,
        process: Process::Ringlog { child, directory },
    };
    target.address = target.await_port_file(&port_file).await?;
    Ok(target)
}

/// Between two looks at a broker that starts: finer than the runtime's timers, which know milliseconds.
pub(crate) async fn pause() {
    std::thread::sleep(Duration::from_micros(200));
    tokio::task::yield_now().await;
}

/// The address of the first listener in a port file.
pub(crate) fn parse_port_file(text: &str) -> Option<SocketAddr> {
    let line = text.lines().next()?;
    let address = line.rsplit_once("//").map_or(line, |(_, address)| address);
    match address.parse::<u16>() {
        Ok(port) => Some(SocketAddr::from(([127, 0, 0, 1], port))),
        Err(_) => address.parse().ok(),
    }
}

fn spawn_kafka(durability: Durability, args: &SpawnArgs) -> Result<Target, Failure> {
    let directory = Directory::new(args, "kafka")?;
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = free.map_err(Failure::system("finding a free port"))?;
    let mut command = Command::new(&args.kafka_script);
    command
        .args(["start", "--version", &args.kafka_version, "--port"])
        .arg(address.port().to_string())
        .arg("--dir")
        .arg(&directory.0);
    if durability == Durability::Durable {
        command.args(["--override", "log.flush.interval.messages=1"]);
    }
    command.args(&args.broker_arg);
    let text = typed(&command);
    on_brokers_cpu(args, || run(&mut command))?;
    let pid = fs::read_to_string(directory.0.join("pid")).unwrap_or_default();
    let no_pid = |_| Failure::Target("the Kafka script left no pid".to_owned());
    let pid: u32 = pid.trim().parse().map_err(no_pid)?;
    // The script formats the directory first; only the age of the process is the broker's start.
    let age = Duration::from_secs_f64(resources::age_s(pid)?.max(0.0));
    Ok(Target {
        address,
        pid: Some(pid),
        command: text,
        spawned: Instant::now() - age,
        process: Process::Kafka {
            script: args.kafka_script.clone(),
            directory,
        },
    })
}

fn run(command: &mut Command) -> Result<String, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(Failure::system(format!(
            "running {program} (--kafka-script names it)"
        )))?;
    if !output.status.success() {
        let what = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Failure::Target(format!(
            "{program}: {}: {what}",
            output.status
        )));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn typed(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::run_epoll;

    #[test]
    fn a_port_file_names_the_listener_or_only_the_port() {
        let expected: SocketAddr = "127.0.0.1:4711".parse().unwrap();
        for text in ["PLAINTEXT://127.0.0.1:4711\n", "127.0.0.1:4711", "4711\n"] {
            assert_eq!(parse_port_file(text), Some(expected), "{text}");
        }
        assert_eq!(parse_port_file("soon"), None);
    }

    #[test]
    fn a_broker_that_cannot_be_started_is_named() {
        let args = SpawnArgs {
            ringlog: Some("/no/such/ringlog".into()),
            kafka_script: "/no/such/kafka".into(),
            kafka_version: "3.9.1".to_owned(),
            work_dir: None,
            broker_arg: Vec::new(),
            no_pin: true,
            wrapper: Vec::new(),
        };
        for kind in [Kind::Ringlog, Kind::Kafka] {
            let spawned = Target::spawn(kind, Durability::PageCache, &args);
            let error = run_epoll(spawned).unwrap().unwrap_err();
            assert!(error.to_string().contains("/no/such/"), "{error}");
        }
    }

    #[test]
    fn a_broker_that_ends_at_once_shows_its_status() {
        let args = SpawnArgs {
            ringlog: Some("/bin/false".into()),
            kafka_script: "/bin/false".into(),
            kafka_version: "3.9.1".to_owned(),
            work_dir: None,
            broker_arg: Vec::new(),
            no_pin: true,
            wrapper: Vec::new(),
        };
        for kind in [Kind::Ringlog, Kind::Kafka] {
            let spawned = Target::spawn(kind, Durability::Durable, &args);
            let error = run_epoll(spawned).unwrap().unwrap_err();
            assert!(error.to_string().contains("exit status: 1"), "{error}");
        }
    }
}
