//! The tail of produce's latency beside the broker's other work: segment rolls, checkpoints, retention,
//! compaction, readers of what is on the device only.

use std::time::Duration;

use rustix::process::Signal;

use super::Rows;
use super::node::Node;
use crate::cli::LimitsArgs;
use crate::client::Client;
use crate::failure::Failure;
use crate::fetch::{FETCH_BYTES_MAX, Reader};
use crate::live::{device_read_bytes, forget, log_directories};
use crate::phase::Limit;
use crate::records::Keys;
use crate::report::say;
use crate::run::{self, Broker};
use crate::schedule::{Arrival, Pace};
use crate::transport::Transport;
use crate::verify::LogCheck;
use crate::workload::{Workload, records_that_fit};

/// The project's mark: beside other work to quiet.
const RATIO: f64 = 1.3;
const RATE: f64 = 10_000.0;
const COLD_READERS: usize = 4;
const COLD_TOPIC: &str = "cold";
/// Each reader asks for so much, and then waits so long: 25 MB/s.
const COLD_EVERY: Duration = Duration::from_millis(40);

/// Work of the broker, and the settings that make it come often.
struct Work {
    name: &'static str,
    settings: &'static [&'static str],
    cold_readers: usize,
    /// A file below the log directory whose offsets tell that it came.
    trace: Option<&'static str>,
}

const QUIET: Work = Work {
    name: "nothing",
    settings: &[],
    cold_readers: 0,
    trace: None,
};

const OTHER: [Work; 5] = [
    Work {
        name: "segment rolls",
        settings: &["log.segment.bytes=131072"],
        ..QUIET
    },
    Work {
        name: "checkpoints",
        settings: &[
            "ringlog.journal.bytes=16777216",
            "ringlog.journal.file.bytes=1048576",
        ],
        trace: Some("recovery-point-offset-checkpoint"),
        ..QUIET
    },
    Work {
        name: "retention",
        settings: &[
            "log.segment.bytes=131072",
            "log.retention.bytes=262144",
            "log.retention.check.interval.ms=100",
            "log.segment.delete.delay.ms=100",
        ],
        trace: Some("log-start-offset-checkpoint"),
        ..QUIET
    },
    Work {
        name: "compaction",
        settings: &[
            "log.cleanup.policy=compact",
            "log.segment.bytes=131072",
            "log.cleaner.min.cleanable.ratio=0.1",
            "log.cleaner.backoff.ms=100",
        ],
        trace: Some("cleaner-offset-checkpoint"),
        ..QUIET
    },
    Work {
        name: "4 cold readers",
        cold_readers: COLD_READERS,
        ..QUIET
    },
];

/// One repetition: quiet, then each.
pub(super) async fn beside_other_work<T: Transport>(
    args: &LimitsArgs,
    rows: &mut Rows,
) -> Result<(), Failure> {
    let quiet_us = p99_9_us::<T>(args, &QUIET, rows).await?;
    for work in &OTHER {
        let beside_us = p99_9_us::<T>(args, work, rows).await?;
        let name = format!("p99.9 of produce beside {} / nothing", work.name);
        rows.add(&name, "", Some(RATIO), beside_us / quiet_us);
    }
    Ok(())
}

async fn p99_9_us<T: Transport>(
    args: &LimitsArgs,
    work: &Work,
    rows: &mut Rows,
) -> Result<f64, Failure> {
    let spawn = &args.spawn_args;
    let settings = work.settings.iter();
    let flags: Vec<_> = settings.flat_map(|it| ["--override", *it]).collect();
    let mut node = Node::new(spawn, &flags)?;
    node.start(spawn).await?;
    let broker = node.broker();
    let mut readers = Vec::new();
    if work.cold_readers > 0 {
        let bytes = COLD_TOPIC_BYTES_A_SECOND * args.duration.as_secs_f64() * 2.0;
        for log in fill::<T>(args, &node, bytes as u64).await? {
            readers.push(tokio::task::spawn_local(read_slowly::<T>(broker, log)));
        }
    }
    let workload = Workload {
        partitions: 16,
        connections: 16,
        in_flight: 64,
        pace: Pace::Open {
            rate: RATE,
            arrival: Arrival::Fixed,
        },
        keys: Keys::Random(1000),
        // Compaction and retention take records away.
        verify: false,
        seed: args.seed,
        ..Workload::default()
    };
    let of = format!("beside {}", work.name);
    let device_before = device_read_bytes(broker.pid);
    let of_load = (&workload, args.duration / 4);
    let summary = node.load::<T>(args, of_load, &of, rows).await?;
    let device_after = device_read_bytes(broker.pid);
    for line in summary.lines() {
        say(&format!("  {line}"));
    }
    let measured = summary.intervals.iter().filter(|second| !second.warm_up);
    let greatest: Vec<_> = measured
        .map(|second| format!("{:.1}", second.max_us / 1e3))
        .collect();
    say(&format!(
        "  greatest of each second, ms: {}",
        greatest.join(" ")
    ));
    for reader in readers {
        if reader.is_finished() {
            let ended = reader
                .await
                .expect("a task of the generator does not panic");
            let early = || Failure::Target("a cold reader was done before the load".to_owned());
            return Err(ended.err().unwrap_or_else(early));
        }
        reader.abort();
    }
    if let Some(trace) = work.trace {
        let offsets = node.checkpointed(trace)?;
        rows.add(
            &format!("{of}: offsets of {trace}"),
            "",
            None,
            offsets as f64,
        );
        if offsets == 0 {
            rows.doubt(&of, &format!("it never came: {trace} has nothing"));
        }
    }
    let latency = &summary.latency;
    let name = |which: &str| format!("{of}: produce {which}");
    rows.add(&name("p50"), "us", None, latency.p50_us());
    rows.add(&name("p99"), "us", None, latency.p99_us());
    rows.add(&name("p99.9"), "us", None, latency.p99_9_us);
    if let (true, Some((before, after))) = (work.cold_readers > 0, device_before.zip(device_after))
    {
        let read = (after - before) as f64 / 1e6;
        rows.add(&name("read from the device"), "MB", None, read);
    }
    node.end(Signal::KILL)?;
    Ok(latency.p99_9_us)
}

/// All readers together.
const COLD_TOPIC_BYTES_A_SECOND: f64 =
    COLD_READERS as f64 * FETCH_BYTES_MAX as f64 * 1e3 / COLD_EVERY.as_millis() as f64;

/// A partition, from where it is read, and where it ends.
type Log = (usize, i64, i64);

/// Writes a log for each reader, and lets the kernel forget it.
async fn fill<T: Transport>(
    args: &LimitsArgs,
    node: &Node,
    bytes: u64,
) -> Result<Vec<Log>, Failure> {
    let broker = node.broker();
    let workload = Workload {
        topic: COLD_TOPIC.to_owned(),
        partitions: COLD_READERS,
        connections: COLD_READERS,
        in_flight: 4,
        records_per_batch: records_that_fit(1024, 256 << 10)?,
        verify: false,
        seed: args.seed,
        ..Workload::default()
    };
    let limit = Limit {
        duration: None,
        requests: Some(bytes / (256 << 10)),
    };
    run::produce::<T>(broker, &workload, Duration::ZERO, limit).await?;
    let mut client = Client::connect::<T>(node.address).await?;
    let ends = client.log_end_offsets(COLD_TOPIC, COLD_READERS).await?;
    forget(&log_directories(broker, Some(&node.data()), COLD_TOPIC)?)?;
    let logs = ends.into_iter().enumerate();
    Ok(logs.map(|(partition, end)| (partition, 0, end)).collect())
}

/// Reads a log at its pace.
async fn read_slowly<T: Transport>(
    broker: Broker,
    (partition, begin, end): Log,
) -> Result<(), Failure> {
    let reader = Reader::<T>::connect(broker.address, COLD_TOPIC, partition, FETCH_BYTES_MAX);
    let mut reader = reader.await?;
    let mut check = LogCheck::new(partition, begin, COLD_READERS);
    let mut due = tokio::time::interval(COLD_EVERY);
    while check.next_offset() < end {
        due.tick().await;
        let next = check.next_offset() + 1;
        reader.read_log(&mut check, next, None, |_, _| {}).await?;
    }
    Ok(())
}
