//! A whole broker under the gate: instructions per request by callgrind, and its CPU time.
//!
//! One request in flight on a connection, so that every request takes the same way; what differs
//! between two counts is timers, which fire by the clock. The poll driver stands in for io_uring,
//! which valgrind cannot run in a program with threads: the drivers' own cost is in the CPU time.

use std::time::Duration;

use super::baseline::{Cost, Entry};
use super::callgrind::{self, Counts};
use super::is_wanted;
use super::scenes::{BATCHES, ONE_RECORD, SCENES, Scene};
use crate::cli::GateArgs;
use crate::failure::Failure;
use crate::phase::Limit;
use crate::report::{Spread, Summary};
use crate::run::{self, Broker, Run};
use crate::target::{Directory, Kind, SpawnArgs, Target};
use crate::transport::Transport;
use crate::workload::Workload;

/// Repeats differ by 0.1 %.
const FETCH_LIMIT: f64 = 0.03;
/// CPU time of a short run on a shared machine; see results/ for how far it goes by itself.
const FACTOR: f64 = 2.0;
/// Runs of a cost; the median counts.
const COST_RUNS: usize = 3;

/// A log that is read again and again.
#[derive(Clone, Copy)]
struct Fetch {
    name: &'static str,
    /// Its batches.
    filled_with: Scene,
    fill_bytes: u64,
    /// What an answer may have, but for its first batch.
    bytes_max: i32,
    /// How often the shorter run reads it, and how much more often the longer one.
    passes: (u64, u64),
}

const FETCHES: [Fetch; 2] = [
    Fetch {
        name: "broker: fetch 64 KiB",
        filled_with: BATCHES,
        fill_bytes: 8 << 20,
        // Small enough for the socket: how often a sendfile(2) finds it full is the reader's doing.
        bytes_max: 64 << 10,
        // 5 % of them is a whole one.
        passes: (4, 20),
    },
    Fetch {
        name: "broker: fetch 1 record",
        filled_with: ONE_RECORD,
        fill_bytes: 16 << 10,
        bytes_max: 1,
        passes: (2, 10),
    },
];

/// Instructions of a broker per request.
pub(super) async fn count<T: Transport>(args: &GateArgs) -> Result<Vec<Entry>, Failure> {
    let mut entries = Vec::new();
    for scene in SCENES {
        if is_wanted(args, scene.name) {
            let few = scene_under_callgrind::<T>(args, scene, scene.requests).await?;
            let many = scene_under_callgrind::<T>(args, scene, 3 * scene.requests).await?;
            let item = few.per_item(many, 2 * scene.requests);
            entries.push(Entry::new(scene.name.to_owned(), item, scene.limit));
        }
    }
    for fetch in FETCHES {
        if is_wanted(args, fetch.name) {
            let (few, more) = fetch.passes;
            // A planted slow-down fetches all of it so many per cent more often than is told.
            let planted = more * args.plant / 100;
            let (less, requests) = fetch_under_callgrind::<T>(args, fetch, few).await?;
            let passes = few + more + planted;
            let (many, more_requests) = fetch_under_callgrind::<T>(args, fetch, passes).await?;
            let told = (more_requests - requests) * more / (more + planted);
            let item = less.per_item(many, told);
            entries.push(Entry::new(fetch.name.to_owned(), item, FETCH_LIMIT));
        }
    }
    Ok(entries)
}

/// A broker whose callgrind writes into the directory when it ends.
async fn spawn(args: &GateArgs, scene: Scene, directory: &Directory) -> Result<Target, Failure> {
    let mut spawn_args: SpawnArgs = args.spawn_args.clone();
    spawn_args.wrapper = callgrind::wrapper(directory.path());
    scene.arrange(&mut spawn_args);
    // Valgrind 3.19 runs one thread at a time and holds it through an io_uring_enter(2) that waits.
    // Nor does it serve what it counts: a page costs instructions, too.
    let words = ["--io", "poll", "--http", "none"].map(str::to_owned);
    spawn_args.broker_arg.splice(0..0, words);
    Target::spawn(Kind::Ringlog, scene.durability, &spawn_args).await
}

async fn scene_under_callgrind<T: Transport>(
    args: &GateArgs,
    scene: Scene,
    requests: u64,
) -> Result<Counts, Failure> {
    let directory = Directory::new(&args.spawn_args, "gate")?;
    let target = spawn(args, scene, &directory).await?;
    let planted = requests * args.plant / 100;
    scene.run::<T>(&target, requests + planted).await?;
    target.stop()?;
    callgrind::read(directory.path())
}

async fn fetch_under_callgrind<T: Transport>(
    args: &GateArgs,
    fetch: Fetch,
    passes: u64,
) -> Result<(Counts, u64), Failure> {
    let directory = Directory::new(&args.spawn_args, "gate")?;
    let target = spawn(args, fetch.filled_with, &directory).await?;
    let load = Workload {
        fetch_bytes_max: fetch.bytes_max,
        ..fetch.filled_with.workload()?
    };
    let run = run::fetch::<T>(broker(&target), &load, fetch.fill_bytes, passes as usize).await?;
    target.stop()?;
    Ok((callgrind::read(directory.path())?, run.summary.requests))
}

pub(super) fn broker(target: &Target) -> Broker {
    Broker {
        address: target.address,
        pid: target.pid,
    }
}

/// CPU time of short runs: a coarse net for what instructions do not show, the kernel's part above all.
pub(super) async fn costs<T: Transport>(args: &GateArgs) -> Result<Vec<Cost>, Failure> {
    let per_gigabyte = |summary: &Summary| summary.broker_cpu_s_per_gigabyte;
    let per_request = |summary: &Summary| summary.broker_cpu_us_per_request;
    let mut costs = Vec::new();
    let name = "broker CPU, 16 KiB batches, s/GB";
    if is_wanted(args, name) {
        costs.push(cost::<T>(args, name, BATCHES, per_gigabyte).await?);
    }
    let name = "broker CPU, requests of 1 record, us";
    if is_wanted(args, name) {
        costs.push(cost::<T>(args, name, ONE_RECORD, per_request).await?);
    }
    Ok(costs)
}

async fn cost<T: Transport>(
    args: &GateArgs,
    name: &str,
    scene: Scene,
    value: impl Fn(&Summary) -> Option<f64>,
) -> Result<Cost, Failure> {
    let mut values = Vec::new();
    for _ in 0..COST_RUNS {
        let target = Target::spawn(Kind::Ringlog, scene.durability, &args.spawn_args).await?;
        let load = Workload {
            partitions: 4,
            connections: 4,
            in_flight: 4,
            ..scene.workload()?
        };
        let limit = Limit {
            duration: Some(Duration::from_millis(1500)),
            requests: None,
        };
        let warm_up = Duration::from_millis(500);
        let Run { summary, reasons } =
            run::produce::<T>(broker(&target), &load, warm_up, limit).await?;
        target.stop()?;
        if !reasons.is_empty() {
            return Err(Failure::Target(format!("INVALID: {}", reasons.join("; "))));
        }
        values.extend(value(&summary));
    }
    let spread = Spread::of(&values);
    let none = || Failure::Target(format!("{name}: no CPU time was measured"));
    Ok(Cost {
        name: name.to_owned(),
        value: spread.ok_or_else(none)?.median,
        factor: FACTOR,
    })
}
