//! How long a start takes, by what there is and by what was not checkpointed.

use rustix::process::Signal;

use super::Rows;
use super::node::{HOT, Node, produce_one, with_hot_topic};
use crate::cli::LimitsArgs;
use crate::client::Client;
use crate::failure::Failure;
use crate::phase::Limit;
use crate::run;
use crate::transport::Transport;
use crate::workload::{Workload, records_that_fit};

/// Partitions that the segments are spread over.
const PARTITIONS: usize = 100;
/// Each batch gets a segment of its own.
const SEGMENT_BYTES: usize = 1100;
/// The project's mark.
const RESTART_MS: f64 = 300.0;

/// Many segments.
pub(super) async fn of_segments<T: Transport>(
    args: &LimitsArgs,
    rows: &mut Rows,
) -> Result<(), Failure> {
    let segment_bytes = format!("log.segment.bytes={SEGMENT_BYTES}");
    let spawn = &args.spawn_args;
    let mut node = Node::new(spawn, &["--override", &segment_bytes])?;
    node.start(spawn).await?;
    let client = with_hot_topic::<T>(&node, PARTITIONS).await?;
    let workload = Workload {
        topic: HOT.to_owned(),
        partitions: PARTITIONS,
        connections: PARTITIONS,
        record_bytes: 1000,
        verify: false,
        seed: args.seed,
        ..Workload::default()
    };
    fill::<T>(&node, &workload, args.segments as u64).await?;
    drop(client);
    let of = format!("{} segments", args.segments);
    for (signal, how, mark) in [
        (Signal::KILL, "kill -9 right behind them", None),
        (Signal::TERM, "stop", Some(RESTART_MS)),
        // Of what was stopped before, and got one record since.
        (Signal::KILL, "kill -9", Some(RESTART_MS)),
    ] {
        node.end(signal)?;
        let of = (of.as_str(), how, PARTITIONS);
        timed_restart::<T>(args, &mut node, of, mark, rows).await?;
    }
    node.end(Signal::KILL).map(drop)
}

/// So many bytes of records in one partition, and a crash right after.
pub(super) async fn of_bytes<T: Transport>(
    args: &LimitsArgs,
    bytes: u64,
    rows: &mut Rows,
) -> Result<(), Failure> {
    let spawn = &args.spawn_args;
    let mut node = Node::new(spawn, &[])?;
    node.start(spawn).await?;
    let client = with_hot_topic::<T>(&node, 1).await?;
    let batch_bytes = 64 << 10;
    let workload = Workload {
        topic: HOT.to_owned(),
        connections: 4,
        in_flight: 4,
        records_per_batch: records_that_fit(1024, batch_bytes)?,
        verify: false,
        seed: args.seed,
        ..Workload::default()
    };
    fill::<T>(&node, &workload, bytes / batch_bytes as u64).await?;
    drop(client);
    let of = format!("{} MiB of records", bytes >> 20);
    node.end(Signal::KILL)?;
    let of = (of.as_str(), "kill -9 right behind them", 1);
    timed_restart::<T>(args, &mut node, of, None, rows).await?;
    node.end(Signal::KILL).map(drop)
}

async fn fill<T: Transport>(
    node: &Node,
    workload: &Workload,
    requests: u64,
) -> Result<(), Failure> {
    let broker = node.broker();
    let limit = Limit {
        duration: None,
        requests: Some(requests),
    };
    let nothing = std::time::Duration::ZERO;
    run::produce::<T>(broker, workload, nothing, limit).await?;
    produce_one::<T>(node.address).await
}

async fn timed_restart<T: Transport>(
    args: &LimitsArgs,
    node: &mut Node,
    (of, how, partitions): (&str, &str, usize),
    mark: Option<f64>,
    rows: &mut Rows,
) -> Result<(), Failure> {
    let started = node.restart::<T>(&args.spawn_args).await?;
    let mut client = Client::connect::<T>(node.address).await?;
    client.log_end_offsets(HOT, partitions).await?;
    let served_ms = node.since_spawn_ms();
    let name = |what: &str| format!("{of}: {what} after {how}");
    rows.add(&name("answers"), "ms", None, started.answers_ms);
    let first_ms = started.acknowledges_ms;
    rows.add(&name("first record"), "ms", mark, first_ms);
    rows.add(&name("all are served"), "ms", None, served_ms);
    Ok(())
}
