//! Connections that want too much: ten thousand that are idle, fifty that announce 90 MB and stall, more
//! than there are file handles.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::Rows;
use super::node::{HOT, Node, produce_one, with_hot_topic};
use crate::cli::LimitsArgs;
use crate::client::Client;
use crate::failure::Failure;
use crate::report::say;
use crate::transport::Transport;
use crate::workload::Workload;

const MIB: f64 = 1048576.0;
const STALLED: usize = 50;
const ANNOUNCED_BYTES: i32 = 90_000_000;
const SENT_BYTES: usize = 64 << 10;
/// The project's marks.
const ACCEPTED_S: f64 = 3.0;
const BYTES_OF_CONNECTION: f64 = 16_384.0;
const STALLED_MIB: f64 = 256.0;
/// Handles of a broker that is to run out of them.
const FEW_HANDLES: u64 = 256;
const PATIENCE: Duration = Duration::from_secs(60);

/// Many connections that say nothing.
pub(super) async fn idle_connections<T: Transport>(
    args: &LimitsArgs,
    rows: &mut Rows,
) -> Result<(), Failure> {
    let spawn = &args.spawn_args;
    let mut node = Node::new(spawn, &[])?;
    node.start(spawn).await?;
    drop(with_hot_topic::<T>(&node, 1).await?);
    produce_one::<T>(node.address).await?;
    tokio::time::sleep(Duration::from_secs(1)).await; // the start's last work
    let (resident, handles) = (node.resident_bytes()?, node.handles()?);
    let (count, began) = (args.connections, Instant::now());
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        let connection = TcpStream::connect(node.address);
        connections.push(connection.map_err(Failure::system("connecting"))?);
    }
    while node.handles()? < handles + count {
        if began.elapsed() > PATIENCE {
            let accepted = node.handles()? - handles;
            let what = format!("{accepted} of {count} connections are accepted after 60 s");
            return Err(Failure::Target(what));
        }
        std::thread::sleep(Duration::from_millis(1)); // the poll's pause
    }
    let name = |what: &str| format!("{count} idle connections: {what}");
    let accepted_s = began.elapsed().as_secs_f64();
    rows.add(&name("accepted"), "s", Some(ACCEPTED_S), accepted_s);
    tokio::time::sleep(Duration::from_secs(1)).await; // what accepting them took is given back
    let each = (node.resident_bytes()? - resident) / count as f64;
    rows.add(
        &name("memory of each"),
        "B",
        Some(BYTES_OF_CONNECTION),
        each,
    );
    let began = Instant::now();
    produce_one::<T>(node.address).await?;
    let one_ms = began.elapsed().as_secs_f64() * 1e3;
    rows.add(&name("one more, and a record"), "ms", None, one_ms);
    drop(connections);
    node.end(Signal::TERM).map(drop)
}

/// Connections that announce much and send little, and others beside them.
pub(super) async fn stalled_connections<T: Transport>(
    args: &LimitsArgs,
    rows: &mut Rows,
) -> Result<(), Failure> {
    let spawn = &args.spawn_args;
    let mut node = Node::new(spawn, &[])?;
    node.start(spawn).await?;
    drop(with_hot_topic::<T>(&node, 4).await?);
    load::<T>(args, &node, "no stalled connection", rows).await?;
    let resident = node.resident_bytes()?;
    let mut stalled = Vec::new();
    let sent = vec![0; SENT_BYTES];
    for _ in 0..STALLED {
        let connection = TcpStream::connect(node.address);
        let mut connection = connection.map_err(Failure::system("connecting"))?;
        // A Produce header, so that the frame is one that may be that long.
        let head = [&ANNOUNCED_BYTES.to_be_bytes()[..], &[0, 0, 0, 7]].concat();
        let written = connection.write_all(&head);
        let written = written.and_then(|()| connection.write_all(&sent));
        written.map_err(Failure::system("announcing"))?;
        stalled.push(connection);
    }
    let of = format!("{STALLED} stalled connections");
    load::<T>(args, &node, &of, rows).await?;
    let grown = (node.resident_bytes()? - resident) / MIB;
    let name = format!("{of}: resident memory grows");
    rows.add(&name, "MiB", Some(STALLED_MIB), grown);
    drop(stalled);
    node.end(Signal::TERM).map(drop)
}

async fn load<T: Transport>(
    args: &LimitsArgs,
    node: &Node,
    beside: &str,
    rows: &mut Rows,
) -> Result<(), Failure> {
    let workload = Workload {
        topic: HOT.to_owned(),
        partitions: 4,
        connections: 4,
        verify: false,
        seed: args.seed,
        ..Workload::default()
    };
    let of_load = (&workload, args.duration / 4);
    let summary = node.load::<T>(args, of_load, beside, rows).await?;
    let latency = &summary.latency;
    let name = |which: &str| format!("produce beside {beside}: {which}");
    rows.add(&name("p50"), "us", None, latency.p50_us());
    rows.add(&name("p99"), "us", None, latency.p99_us());
    Ok(())
}

/// More connections than handles: those who were there are served, and segments are still made.
pub(super) async fn few_handles<T: Transport>(
    args: &LimitsArgs,
    rows: &mut Rows,
) -> Result<(), Failure> {
    let spawn = &args.spawn_args;
    let arguments = ["--override", "log.segment.bytes=1100"];
    let mut node = Node::new(spawn, &arguments)?.with_handles(FEW_HANDLES);
    node.start(spawn).await?;
    let mut client = with_hot_topic::<T>(&node, 1).await?;
    let mut connections = Vec::new();
    for _ in 0..2 * FEW_HANDLES {
        if let Ok(connection) = TcpStream::connect_timeout(&node.address, Duration::from_secs(1)) {
            connections.push(connection);
        }
    }
    // Whoever was there before goes on, and every topic needs new files.
    let mut made = 0;
    for number in 0..20 {
        client.create_topic(&format!("late-{number}"), 1).await?;
        made += 1;
    }
    node.check_alive()?;
    let of = format!("{FEW_HANDLES} handles, {} connections", 2 * FEW_HANDLES);
    let name = |what: &str| format!("{of}: {what}");
    rows.add(
        &name("topics made meanwhile"),
        "of 20",
        None,
        f64::from(made),
    );
    let refused = connections.iter_mut().filter_map(|connection| {
        connection.set_nonblocking(true).ok()?;
        // Closed, or an error other than that there is nothing yet.
        match connection.read(&mut [0]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            _ => Some(()),
        }
    });
    let refused = refused.count();
    rows.add(&name("connections refused"), "", None, refused as f64);
    let log = node.log();
    let is_refusal = |line: &&str| line.contains(" WARN ") && line.contains("connection");
    match log.lines().find(is_refusal) {
        Some(line) => say(&format!("it says: {line}")),
        None => say("it says nothing of refused connections"),
    }
    let told = log.lines().filter(is_refusal).count();
    rows.add(&name("lines in the log that say so"), "", None, told as f64);
    drop(connections);
    let began = Instant::now();
    loop {
        match Client::connect::<T>(node.address).await {
            Ok(_) => break,
            Err(error) if began.elapsed() > PATIENCE => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await, // the poll's pause
        }
    }
    let again_ms = began.elapsed().as_secs_f64() * 1e3;
    rows.add(&name("served again after they went"), "ms", None, again_ms);
    drop(client);
    node.end(Signal::TERM).map(drop)
}
