//! `kill -9` of `ringlog zookeeper`: what was acknowledged is there, and zxids go on.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use ringlog::zookeeper::jute::Reader;
use ringlog::zookeeper::protocol::op;

use super::fresh_directory;
use super::wire::{Bare, create, path_and_watch};

/// How long a writer may take for its next node.
const PATIENCE: Duration = Duration::from_secs(60);

struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    fn start(directory: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ringlog"))
            .args(["zookeeper", "--port", "0", "--data"])
            .arg(directory)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let ready = lines.find_map(|line| {
            let line = line.expect("text");
            let (_, port) = line.split_once("binding to port 127.0.0.1/127.0.0.1:")?;
            port.split(' ').next()?.parse::<u16>().ok()
        });
        // The pipe must not fill.
        thread::spawn(move || lines.for_each(drop));
        let address = SocketAddr::from(([127, 0, 0, 1], ready.expect("the readiness line")));
        Self { child, address }
    }

    fn kill(mut self) {
        self.child.kill().expect("kill -9");
        self.child.wait().expect("it ended");
    }
}

/// Creates nodes until the service dies; gives the number acknowledged and the last zxid.
fn write_until_killed(
    address: SocketAddr,
    writer: usize,
    round: usize,
    dead: &AtomicBool,
    told: &Sender<usize>,
) -> (usize, i64) {
    let mut client = Bare::open(address, 30_000);
    let (mut acknowledged, mut last) = (0, 0);
    while !dead.load(Ordering::Relaxed) {
        let path = format!("/w{writer}-{round}-{acknowledged}");
        match client.ask(op::CREATE, create(&path, path.as_bytes(), 0)) {
            Ok((_, zxid, 0, _)) => {
                (acknowledged, last) = (acknowledged + 1, zxid);
                told.send(writer).expect("the test listens");
            }
            Ok(other) => panic!("{path}: {other:?}"),
            Err(_) => break,
        }
    }
    (acknowledged, last)
}

#[test]
fn acknowledged_writes_survive_kill_9() {
    let directory = fresh_directory();
    let mut written: Vec<Vec<usize>> = Vec::new();
    let mut zxid_before = 0;
    for round in 0..5 {
        let process = Process::start(&directory);
        let address = process.address;
        let dead = AtomicBool::new(false);
        let results = thread::scope(|scope| {
            let dead = &dead;
            let (told, heard) = mpsc::channel();
            let writers: Vec<_> = (0..4)
                .map(|writer| {
                    let told = told.clone();
                    scope.spawn(move || write_until_killed(address, writer, round, dead, &told))
                })
                .collect();
            drop(told);
            // In the midst of it, later in each round.
            let mut counts = [0; 4];
            while counts.iter().any(|count| *count < 20 + 10 * round) {
                let writer = heard.recv_timeout(PATIENCE);
                counts[writer.expect("all of them write")] += 1;
                assert!(counts.iter().sum::<usize>() < 1_000_000, "{counts:?}");
            }
            process.kill();
            dead.store(true, Ordering::Relaxed);
            writers
                .into_iter()
                .map(|writer| writer.join().expect("no panic"))
                .collect::<Vec<_>>()
        });
        let acknowledged: Vec<usize> = results.iter().map(|(count, _)| *count).collect();
        assert!(
            acknowledged.iter().all(|count| *count > 0),
            "nothing was written: {acknowledged:?}"
        );
        let zxid = results.iter().map(|(_, zxid)| *zxid).max().unwrap_or(0);
        assert!(
            zxid > zxid_before,
            "zxids went back: {zxid} after {zxid_before}"
        );
        zxid_before = zxid;
        written.push(acknowledged);
    }
    let process = Process::start(&directory);
    let mut client = Bare::open(process.address, 30_000);
    let mut total = 0;
    for (round, counts) in written.iter().enumerate() {
        for (writer, count) in counts.iter().enumerate() {
            for number in 0..*count {
                let path = format!("/w{writer}-{round}-{number}");
                let (_, zxid, error, record) = client
                    .ask(op::GET_DATA, path_and_watch(&path, false))
                    .unwrap();
                assert_eq!(error, 0, "{path} was acknowledged and is lost");
                assert_eq!(
                    Reader::new(&record).buffer().unwrap(),
                    Some(path.as_bytes())
                );
                assert!(zxid > zxid_before);
                total += 1;
            }
        }
    }
    eprintln!("{total} acknowledged writes, 5 kills, none lost");
    process.kill();
    let _ = fs::remove_dir_all(&directory);
}

#[test]
fn a_term_signal_stops_it_in_good_order() {
    let directory = fresh_directory();
    let mut process = Process::start(&directory);
    let mut client = Bare::open(process.address, 30_000);
    assert_eq!(client.create("/kept", 0), 0);
    let pid = rustix::process::Pid::from_child(&process.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is ours");
    let status = process.child.wait().expect("it ended");
    assert!(status.success(), "{status}");
    let process = Process::start(&directory);
    assert_eq!(Bare::open(process.address, 30_000).exists("/kept"), 0);
    process.kill();
    let _ = fs::remove_dir_all(&directory);
}

#[test]
fn a_damaged_store_is_told_with_its_path_and_a_remedy() {
    let directory = fresh_directory();
    Process::start(&directory).kill();
    let path = directory.join("ringlog-zookeeper.redb");
    fs::write(&path, b"scribble").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ringlog"))
        .args(["zookeeper", "--port", "0", "--data"])
        .arg(&directory)
        .output()
        .expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains(path.to_str().unwrap())
            && text.contains("is damaged")
            && text.contains("restore"),
        "{text}"
    );
    assert_eq!(fs::read(&path).unwrap(), b"scribble");
    let _ = fs::remove_dir_all(&directory);
}
