//! What a broker asks of the kernel per request: ring entries, system calls, writes, syncs, helper jobs.
//!
//! One connection with one request in flight on io_uring, so that every request takes the same way; the
//! broker itself counts (`/metrics`). Two loads on one broker, the second of them longer: the difference
//! has no connecting and no creating of topics in it. What is left of the clock are timers.

use super::baseline::Counter;
use super::is_wanted;
use super::scenes::{SCENES, Scene};
use crate::cli::GateArgs;
use crate::failure::Failure;
use crate::report::say;
use crate::resources::Page;
use crate::target::{Kind, SpawnArgs, Target};
use crate::transport::Transport;

/// Every entry of this file begins with it.
pub(super) const NAME_PREFIX: &str = "kernel: ";
/// Requests of the shorter load; the longer one has three times as many.
const REQUESTS: u64 = 500;
/// What is counted, and the family of `/metrics` that tells it.
const FAMILIES: [(&str, &str); 5] = [
    ("ring entries", "ringlog_shard_ring_entries_total"),
    ("system calls", "ringlog_shard_system_calls_total"),
    ("writes", "ringlog_shard_writes_total"),
    ("syncs", "ringlog_shard_syncs_total"),
    ("helper jobs", "ringlog_shard_helper_jobs_total"),
];

/// The counters per request of each scene.
pub(super) async fn count<T: Transport>(args: &GateArgs) -> Result<Vec<Counter>, Failure> {
    let mut counters = Vec::new();
    for scene in SCENES.into_iter().filter(|scene| scene.asks_the_same) {
        let names = FAMILIES.map(|(what, _)| format!("{NAME_PREFIX}{}, {what}", scene.load()));
        if !names.iter().any(|name| is_wanted(args, name)) {
            continue;
        }
        let counted = per_request::<T>(args, scene).await?;
        if counted[0] == 0.0 {
            say("SKIP counting what a broker asks of the kernel: it has no io_uring here");
            return Ok(Vec::new());
        }
        let named = names.into_iter().zip(counted);
        let wanted = named.filter(|(name, _)| is_wanted(args, name));
        counters.extend(wanted.map(|(name, value)| Counter::new(name, value)));
    }
    Ok(counters)
}

/// In the order of [`FAMILIES`].
async fn per_request<T: Transport>(
    args: &GateArgs,
    scene: Scene,
) -> Result<[f64; FAMILIES.len()], Failure> {
    let mut spawn_args: SpawnArgs = args.spawn_args.clone();
    scene.arrange(&mut spawn_args);
    let target = Target::spawn(Kind::Ringlog, scene.durability, &spawn_args).await?;
    let before = read(&target)?;
    let planted = |requests: u64| requests + requests * args.plant / 100;
    scene.run::<T>(&target, planted(REQUESTS)).await?;
    let between = read(&target)?;
    scene.run::<T>(&target, planted(3 * REQUESTS)).await?;
    let after = read(&target)?;
    target.stop()?;
    let of = |index: usize| {
        let (few, many) = (
            between[index] - before[index],
            after[index] - between[index],
        );
        (many as f64 - few as f64) / (2 * REQUESTS) as f64
    };
    Ok(std::array::from_fn(of))
}

fn read(target: &Target) -> Result<[u64; FAMILIES.len()], Failure> {
    let page = Page::of(target.pid).map_err(Failure::Target)?;
    let mut values = [0; FAMILIES.len()];
    for (value, (_, family)) in values.iter_mut().zip(FAMILIES) {
        *value = page.sum(family).map_err(Failure::Target)?;
    }
    Ok(values)
}
