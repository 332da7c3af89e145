//! Many partitions: memory and handles of each, restarts, the latency of a hot one; topics that come and
//! go.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::Rows;
use super::node::{HOT, Node, produce_one, with_hot_topic};
use crate::cli::LimitsArgs;
use crate::client::Client;
use crate::failure::Failure;
use crate::transport::Transport;
use crate::workload::Workload;

/// Partitions of a topic.
const OF_TOPIC: usize = 1000;
/// The project's marks.
const BYTES_OF_PARTITION: f64 = 4096.0;
const RESIDENT_MIB: f64 = 1024.0;
const HANDLES: f64 = 20_000.0;
const RESTART_MS: f64 = 300.0;
/// The first is to fill the allocator's stock.
const ROUNDS: usize = 6;

/// Everything at one number of partitions.
pub(super) async fn at_scale<T: Transport>(
    args: &LimitsArgs,
    count: usize,
    rows: &mut Rows,
) -> Result<(), Failure> {
    let spawn = &args.spawn_args;
    let mut node = Node::new(spawn, &[])?;
    node.start(spawn).await?;
    let mut client = with_hot_topic::<T>(&node, 1).await?;
    produce_one::<T>(node.address).await?;
    hot_latency::<T>(args, &node, "1 partition", rows).await?;
    settle().await;
    let before = node.resident_bytes()?;
    let began = Instant::now();
    for (number, partitions) in topics(count) {
        client.create_topic(&topic(number), partitions).await?;
        node.check_alive()?;
    }
    let of = format!("{count} partitions");
    let mut add = |what: &str, unit, mark, value| {
        rows.add(&format!("{of}: {what}"), unit, mark, value);
    };
    let created_ms = began.elapsed().as_secs_f64() * 1e3;
    add("created, each", "ms", None, created_ms / count as f64);
    settle().await;
    let grown = node.resident_bytes()? - before;
    let each = grown / count as f64;
    add("memory of each, made", "B", Some(BYTES_OF_PARTITION), each);
    let resident = node.resident_bytes()? / MIB;
    add("resident, made", "MiB", Some(RESIDENT_MIB), resident);
    let handles = node.handles()? as f64;
    add("handles, made", "", Some(HANDLES), handles);
    hot_latency::<T>(args, &node, &of, rows).await?;
    drop(client);
    for (signal, how) in [(Signal::TERM, "stop"), (Signal::KILL, "kill -9")] {
        for _ in 0..args.repetitions {
            let name = |what: &str| format!("{of}: {what} after {how}");
            let ended_ms = node.end(signal)?;
            if signal == Signal::TERM {
                rows.add(&format!("{of}: clean stop"), "ms", None, ended_ms);
            }
            let started = node.restart::<T>(spawn).await?;
            rows.add(&name("answers"), "ms", None, started.answers_ms);
            let mark = Some(RESTART_MS).filter(|_| count <= 10_000);
            rows.add(&name("first record"), "ms", mark, started.acknowledges_ms);
            let mut client = Client::connect::<T>(node.address).await?;
            for (number, partitions) in topics(count) {
                client.log_end_offsets(&topic(number), partitions).await?;
            }
            let served_ms = node.since_spawn_ms();
            rows.add(&name("all are served"), "ms", None, served_ms);
        }
        settle().await;
        let resident = node.resident_bytes()?;
        let each = (resident - before) / count as f64;
        let name = format!("{of}: memory of each, after {how} and restart");
        rows.add(&name, "B", Some(BYTES_OF_PARTITION), each);
        let name = format!("{of}: resident, after {how} and restart");
        rows.add(&name, "MiB", Some(RESIDENT_MIB), resident / MIB);
        let name = format!("{of}: handles, after {how} and restart");
        rows.add(&name, "", Some(HANDLES), node.handles()? as f64);
    }
    node.end(Signal::KILL).map(drop)
}

const MIB: f64 = 1048576.0;

/// The topics of so many partitions: number and partitions of each.
fn topics(count: usize) -> impl Iterator<Item = (usize, usize)> {
    let number = count.div_ceil(OF_TOPIC);
    (0..number).map(move |topic| (topic, OF_TOPIC.min(count - topic * OF_TOPIC)))
}

fn topic(number: usize) -> String {
    format!("many-{number}")
}

/// What is under way comes to its end.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(2)).await;
}

/// One connection, one record of 1 KiB under way, to the one partition of [`HOT`].
async fn hot_latency<T: Transport>(
    args: &LimitsArgs,
    node: &Node,
    of: &str,
    rows: &mut Rows,
) -> Result<(), Failure> {
    let workload = Workload {
        topic: HOT.to_owned(),
        verify: false,
        seed: args.seed,
        ..Workload::default()
    };
    for _ in 0..args.repetitions {
        let of_load = (&workload, args.duration / 4);
        let summary = node.load::<T>(args, of_load, of, rows).await?;
        let latency = &summary.latency;
        let name = |which: &str| format!("hot partition beside {of}: produce {which}");
        rows.add(&name("p50"), "us", None, latency.p50_us());
        rows.add(&name("p99"), "us", None, latency.p99_us());
    }
    Ok(())
}

/// Topics that are made and deleted leave nothing.
pub(super) async fn create_and_delete<T: Transport>(
    args: &LimitsArgs,
    rows: &mut Rows,
) -> Result<(), Failure> {
    let spawn = &args.spawn_args;
    let mut node = Node::new(spawn, &[])?;
    node.start(spawn).await?;
    let mut client = with_hot_topic::<T>(&node, 1).await?;
    produce_one::<T>(node.address).await?;
    let count = args.topics;
    let (handles, files) = (node.partition_handles()?, node.files()?);
    let mut after = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        for number in 0..count {
            client.create_topic(&topic(number), 1).await?;
        }
        let name = format!("{count} topics: created, each");
        let each_ms = |began: Instant| began.elapsed().as_secs_f64() * 1e3 / count as f64;
        rows.add(&name, "ms", None, each_ms(began));
        let began = Instant::now();
        for number in 0..count {
            client.delete_topic(&topic(number)).await?;
        }
        rows.add(
            &format!("{count} topics: deleted, each"),
            "ms",
            None,
            each_ms(began),
        );
        settle().await;
        after.push(node.resident_bytes()?);
    }
    let left = |now: usize, before: usize| now as f64 - before as f64;
    let (first, last) = (after[0], after[ROUNDS - 1]);
    let name = |what: &str| format!("{count} topics made and deleted: {what} left behind");
    rows.add(
        &name("handles"),
        "",
        Some(0.0),
        left(node.partition_handles()?, handles),
    );
    rows.add(&name("files"), "", Some(0.0), left(node.files()?, files));
    let grown = (last - first) / (count * (ROUNDS - 1)) as f64;
    rows.add(&name("memory of each"), "B", Some(64.0), grown);
    node.end(Signal::TERM).map(drop)
}
