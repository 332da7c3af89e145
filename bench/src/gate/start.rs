//! What a start costs, and what a broker does when nobody asks it: coarse, as all that the clock measures.

use super::baseline::Cost;
use super::is_wanted;
use crate::cli::GateArgs;
use crate::failure::Failure;
use crate::report::Spread;
use crate::startup::{self, Start};
use crate::target::{Durability, Kind, Target};
use crate::transport::Transport;

struct Row {
    name: &'static str,
    /// How many times the baseline it may be.
    factor: f64,
    value: fn(&Start) -> f64,
}

const ROWS: [Row; 3] = [
    Row {
        name: "start to the first record, ms",
        factor: 3.0,
        value: |start| start.first_produce_ms,
    },
    Row {
        name: "idle wake-ups of all threads, 1/s",
        factor: 2.0,
        value: |start| start.idle_wake_ups_per_s,
    },
    Row {
        name: "idle resident memory, MiB",
        factor: 1.5,
        value: |start| start.idle_resident_mib,
    },
];
/// Starts; the medians count.
const STARTS: usize = 3;

/// A durable broker of one shard.
pub(super) async fn costs<T: Transport>(args: &GateArgs) -> Result<Vec<Cost>, Failure> {
    let wanted = ROWS.iter().filter(|row| is_wanted(args, row.name));
    let wanted: Vec<_> = wanted.collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let target = Target::spawn(Kind::Ringlog, Durability::Durable, &args.spawn_args).await?;
        starts.push(startup::measure::<T>(&target).await?);
        target.stop()?;
    }
    let cost = |row: &Row| {
        let values: Vec<f64> = starts.iter().map(row.value).collect();
        let none = || Failure::Target(format!("{}: nothing was measured", row.name));
        Ok(Cost {
            name: row.name.to_owned(),
            value: Spread::of(&values).ok_or_else(none)?.median,
            factor: row.factor,
        })
    };
    wanted.into_iter().map(cost).collect()
}
