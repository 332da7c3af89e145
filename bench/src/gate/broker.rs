//! A whole broker under the gate: instructions per request by callgrind, and its CPU time.
//!
//! One connection with one request in flight, so that every request takes the same way; what differs
//! between two counts is timers, which fire by the clock. The poll driver stands in for io_uring,
//! which valgrind cannot run in a program with threads: the drivers' own cost is in the CPU time.

use std::time::Duration;

use super::baseline::{Cost, Entry};
use super::callgrind::{self, Counts};
use super::is_wanted;
use crate::cli::GateArgs;
use crate::failure::Failure;
use crate::phase::Limit;
use crate::report::{Spread, Summary};
use crate::run::{self, Broker, Run};
use crate::target::{Directory, Durability, Kind, SpawnArgs, Target};
use crate::transport::Transport;
use crate::workload::{Workload, records_that_fit};

/// Repeats differ by 0.1 %.
const LIMIT: f64 = 0.03;
/// CPU time of a short run on a shared machine; see results/ for how far it goes by itself.
const FACTOR: f64 = 2.0;
/// Runs of a cost; the median counts.
const COST_RUNS: usize = 3;

/// What is sent so often.
#[derive(Clone, Copy)]
pub(super) struct Scene {
    name: &'static str,
    pub(super) durability: Durability,
    record_bytes: usize,
    batch_bytes: usize,
    /// Requests of the shorter run; the longer one has three times as many.
    requests: u64,
}

impl Scene {
    /// Its name without [`NAME_PREFIX`].
    pub(super) fn load(self) -> &'static str {
        self.name.trim_start_matches(NAME_PREFIX)
    }
}

pub(super) const SCENES: [Scene; 3] = [
    Scene {
        name: "broker: produce 1 record, page-cache",
        durability: Durability::PageCache,
        record_bytes: 100,
        batch_bytes: 1,
        requests: 1000,
    },
    Scene {
        name: "broker: produce 1 record, durable",
        durability: Durability::Durable,
        record_bytes: 100,
        batch_bytes: 1,
        requests: 300,
    },
    Scene {
        name: "broker: produce 16 KiB, page-cache",
        durability: Durability::PageCache,
        record_bytes: 1024,
        batch_bytes: 16 << 10,
        requests: 500,
    },
];
/// Every entry of this file begins with it.
pub(super) const NAME_PREFIX: &str = "broker: ";
const FETCH: &str = "broker: fetch 64 KiB";
/// Small enough for the socket: how often a sendfile(2) finds it full is the reader's doing.
const FETCH_BYTES_MAX: i32 = 64 << 10;
/// How often the longer run fetches all of it more than the shorter one: 5 % of them is a whole one.
const FETCH_PASSES: u64 = 20;

/// Instructions of a broker per request.
pub(super) async fn count<T: Transport>(args: &GateArgs) -> Result<Vec<Entry>, Failure> {
    let mut entries = Vec::new();
    for scene in SCENES {
        if is_wanted(args, scene.name) {
            let few = produce_under_callgrind::<T>(args, scene, scene.requests).await?;
            let many = produce_under_callgrind::<T>(args, scene, 3 * scene.requests).await?;
            entries.push(entry(scene.name, few, many, 2 * scene.requests));
        }
    }
    if is_wanted(args, FETCH) {
        // A planted slow-down fetches all of it so many per cent more often than is told.
        let planted = FETCH_PASSES * args.plant / 100;
        let (few, requests) = fetch_under_callgrind::<T>(args, 4).await?;
        let passes = 4 + FETCH_PASSES + planted;
        let (many, more_requests) = fetch_under_callgrind::<T>(args, passes).await?;
        let told = (more_requests - requests) * FETCH_PASSES / (FETCH_PASSES + planted);
        entries.push(entry(FETCH, few, many, told));
    }
    Ok(entries)
}

fn entry(name: &str, few: Counts, many: Counts, items: u64) -> Entry {
    Entry::new(name.to_owned(), few.per_item(many, items), LIMIT)
}

/// A broker whose callgrind writes into the directory when it ends.
async fn spawn(
    args: &GateArgs,
    durability: Durability,
    directory: &Directory,
) -> Result<Target, Failure> {
    let mut spawn_args: SpawnArgs = args.spawn_args.clone();
    spawn_args.wrapper = callgrind::wrapper(directory.path());
    // Valgrind 3.19 runs one thread at a time and holds it through an io_uring_enter(2) that waits.
    // Nor does it serve what it counts: a page costs instructions, too.
    let mut words = vec!["--io", "poll", "--http", "none"];
    if spawn_args.no_pin {
        words.extend(["--cores", "1"]);
    }
    let words = words.into_iter().map(str::to_owned);
    spawn_args.broker_arg.splice(0..0, words);
    Target::spawn(Kind::Ringlog, durability, &spawn_args).await
}

pub(super) fn workload(scene: Scene) -> Result<Workload, Failure> {
    Ok(Workload {
        record_bytes: scene.record_bytes,
        records_per_batch: records_that_fit(scene.record_bytes, scene.batch_bytes)?,
        verify: false,
        ..Workload::default()
    })
}

async fn produce_under_callgrind<T: Transport>(
    args: &GateArgs,
    scene: Scene,
    requests: u64,
) -> Result<Counts, Failure> {
    let directory = Directory::new(&args.spawn_args, "gate")?;
    let target = spawn(args, scene.durability, &directory).await?;
    let limit = Limit {
        duration: None,
        requests: Some(requests + requests * args.plant / 100),
    };
    run::produce::<T>(broker(&target), &workload(scene)?, Duration::ZERO, limit).await?;
    target.stop()?;
    callgrind::read(directory.path())
}

async fn fetch_under_callgrind<T: Transport>(
    args: &GateArgs,
    passes: u64,
) -> Result<(Counts, u64), Failure> {
    let directory = Directory::new(&args.spawn_args, "gate")?;
    let target = spawn(args, Durability::PageCache, &directory).await?;
    let load = Workload {
        fetch_bytes_max: FETCH_BYTES_MAX,
        ..workload(SCENES[2])?
    };
    let run = run::fetch::<T>(broker(&target), &load, 8 << 20, passes as usize).await?;
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
        costs.push(cost::<T>(args, name, SCENES[2], per_gigabyte).await?);
    }
    let name = "broker CPU, requests of 1 record, us";
    if is_wanted(args, name) {
        costs.push(cost::<T>(args, name, SCENES[0], per_request).await?);
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
            ..workload(scene)?
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
