//! What a fetch of hot data costs the broker beside a bare sendfile(2) loop: the same log files, as many
//! connections, answers of the same size, one under way on each.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::sendfile;
use rustix::io::Errno;
use rustix::process::Signal;

use super::Rows;
use super::node::Node;
use crate::cli::LimitsArgs;
use crate::client::Inbox;
use crate::failure::Failure;
use crate::fetch::FETCH_BYTES_MAX;
use crate::live::log_directories;
use crate::report::say;
use crate::resources::Meter;
use crate::run;
use crate::target;
use crate::transport::{Connection, Transport};
use crate::workload::{Workload, records_that_fit};

/// The project's mark: the broker to the bare loop.
const RATIO: f64 = 1.15;
const TOPIC: &str = "hot";
const CONNECTIONS: usize = 4;
const FILL_BYTES: u64 = 256 << 20;
const PASSES: usize = 16;
const ANSWER_BYTES: usize = FETCH_BYTES_MAX as usize;
const ANSWERS: usize = (FILL_BYTES as usize / CONNECTIONS / ANSWER_BYTES - 1) * PASSES;
/// As a fetch of one partition has.
const REQUEST_BYTES: usize = 100;

/// One repetition: the broker, then the loop over the same files.
pub(super) async fn beside_sendfile<T: Transport>(
    args: &LimitsArgs,
    rows: &mut Rows,
) -> Result<(), Failure> {
    let spawn = &args.spawn_args;
    let mut node = Node::new(spawn, &["--durability", "page-cache"])?;
    node.start(spawn).await?;
    let workload = Workload {
        topic: TOPIC.to_owned(),
        partitions: CONNECTIONS,
        connections: CONNECTIONS,
        records_per_batch: records_that_fit(1024, 16 << 10)?,
        // The loop's client looks at nothing either.
        verify: false,
        seed: args.seed,
        ..Workload::default()
    };
    let run = run::fetch::<T>(node.broker(), &workload, FILL_BYTES, PASSES).await?;
    for reason in &run.reasons {
        rows.doubt("hot fetch", reason);
    }
    let none = || Failure::Target("the broker's CPU time is not known".to_owned());
    let broker = run.summary.broker_cpu_s_per_gigabyte.ok_or_else(none)?;
    rows.add("hot fetch: CPU of the broker", "s/GB", None, broker);
    let data = node.data();
    let mut files = log_directories(node.broker(), Some(&data), TOPIC)?;
    files
        .iter_mut()
        .for_each(|directory| directory.push("00000000000000000000.log"));
    let bare = bare_s_per_gigabyte::<T>(args, &files).await?;
    rows.add("hot fetch: CPU of a bare sendfile loop", "s/GB", None, bare);
    let name = "CPU of a hot fetch, broker / bare sendfile loop";
    rows.add(name, "", Some(RATIO), broker / bare);
    node.end(Signal::KILL).map(drop)
}

/// The loop's process. It ends when its connections do.
struct Loop(Child);

impl Drop for Loop {
    fn drop(&mut self) {
        self.0.kill().ok(); // by its own pid; it may have ended
        self.0.wait().ok();
    }
}

async fn bare_s_per_gigabyte<T: Transport>(
    args: &LimitsArgs,
    files: &[PathBuf],
) -> Result<f64, Failure> {
    let own = std::env::current_exe().map_err(Failure::system("finding this binary"))?;
    let mut command = Command::new(own);
    command
        .arg("sendfile-loop")
        .args(files)
        .stdout(Stdio::piped());
    let failed = || Failure::system("starting the sendfile loop");
    let started = target::on_brokers_cpu(&args.spawn_args, || command.spawn().map_err(failed()));
    let mut child = Loop(started?);
    let mut line = String::new();
    let told = child.0.stdout.take().map(BufReader::new);
    if let Some(mut told) = told {
        told.read_line(&mut line).map_err(failed())?;
    }
    let unknown = || Failure::Target(format!("the sendfile loop says {line:?}"));
    let address: SocketAddr = line.trim().parse().map_err(|_| unknown())?;
    let mut connections = Vec::new();
    for _ in files {
        let connection = T::connect(address).await.map_err(failed())?;
        connections.push((connection, Inbox::new(2 << 20)));
    }
    let meter = Meter::start(Some(child.0.id()))?;
    let readers = connections.into_iter().map(|(connection, mut inbox)| {
        tokio::task::spawn_local(async move {
            for _ in 0..ANSWERS {
                let (written, _) = connection.write_all(vec![0; REQUEST_BYTES]).await;
                written.map_err(Failure::system("asking the sendfile loop"))?;
                let answer = inbox.next(&connection).await?;
                if answer.is_none_or(|answer| answer.len() != ANSWER_BYTES) {
                    return Err(Failure::Target("the sendfile loop ended early".to_owned()));
                }
            }
            Ok(connection)
        })
    });
    let readers: Vec<_> = readers.collect();
    let mut open = Vec::new();
    for reader in readers {
        open.push(
            reader
                .await
                .expect("a task of the generator does not panic")?,
        );
    }
    let none = || Failure::Target("the sendfile loop's CPU time is not known".to_owned());
    let used = meter.stop()?.broker.ok_or_else(none)?;
    let bytes = ANSWERS * ANSWER_BYTES * open.len();
    Ok(used.cpu_s() / (bytes as f64 / 1e9))
}

/// A client of the loop.
struct Served {
    stream: TcpStream,
    file: File,
    /// How often the file has a whole answer, and which comes next.
    answers: u64,
    next: u64,
    /// Of the answer under way.
    left: usize,
    is_there: bool,
}

impl Served {
    fn new(stream: TcpStream, path: &Path) -> std::io::Result<Served> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let file = File::open(path)?;
        let answers = file.metadata()?.len() / ANSWER_BYTES as u64;
        Ok(Served {
            stream,
            file,
            answers: answers.max(1),
            next: 0,
            left: 0,
            is_there: true,
        })
    }

    /// Takes a request, and sends of the answer what the socket has room for.
    fn turn(&mut self) -> std::io::Result<()> {
        if self.left == 0 {
            let mut request = [0; REQUEST_BYTES];
            match self.stream.read(&mut request) {
                Ok(0) => self.is_there = false,
                // A request is written in one piece, and so it comes over loopback.
                Ok(_) => {
                    self.left = ANSWER_BYTES;
                    self.stream
                        .write_all(&(ANSWER_BYTES as u32).to_be_bytes())?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        while self.left > 0 {
            let done = (ANSWER_BYTES - self.left) as u64;
            let mut offset = self.next % self.answers * ANSWER_BYTES as u64 + done;
            match sendfile(&self.stream, &self.file, Some(&mut offset), self.left) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(sent) => self.left -= sent,
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            self.next += u64::from(self.left == 0);
        }
        Ok(())
    }
}

/// The loop itself: a connection for each file, until all of them are closed. Tells its address first.
pub(crate) fn sendfile_loop(files: &[PathBuf]) -> Result<(), Failure> {
    let serve = || {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        say(&listener.local_addr()?.to_string());
        let mut served = Vec::new();
        for path in files {
            served.push(Served::new(listener.accept()?.0, path)?);
        }
        while !served.is_empty() {
            let wanted = |one: &Served| match one.left {
                0 => PollFlags::IN,
                _ => PollFlags::OUT,
            };
            let polled = served
                .iter()
                .map(|one| PollFd::new(&one.stream, wanted(one)));
            let mut ready: Vec<_> = polled.collect();
            poll(&mut ready, None)?;
            let ready: Vec<_> = ready.iter().map(|one| !one.revents().is_empty()).collect();
            for (one, _) in served
                .iter_mut()
                .zip(ready)
                .filter(|(_, is_ready)| *is_ready)
            {
                one.turn()?;
            }
            served.retain(|one| one.is_there);
        }
        Ok(())
    };
    serve().map_err(Failure::system("the sendfile loop"))
}
