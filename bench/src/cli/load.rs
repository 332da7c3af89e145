//! The flags of a load: what is sent, and how it is paced.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ringlog_engine::record::Compression;

use super::TargetArgs;
use super::values::{
    Grid, acks, bytes, compression, count, duration, grid, keys, precision, rate, rate_number,
    sizes,
};
use crate::failure::Failure;
use crate::frames::PRODUCE_VERSION;
use crate::phase::Limit;
use crate::records::{Keys, Values, read_lines};
use crate::schedule::{Arrival, Pace};
use crate::sweep::{Objective, objective};
use crate::workload::{Build, Workload, records_that_fit};

/// The shape of the load.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    /// The topic; made if it is not there
    #[arg(long, default_value = "bench")]
    pub(crate) topic: String,
    /// Partitions; connection i takes partition i modulo their number
    #[arg(long, default_value_t = 1)]
    pub(crate) partitions: usize,
    /// Connections that produce
    #[arg(long, visible_alias = "producers", default_value_t = 1)]
    pub(crate) connections: usize,
    /// Bytes of a record's value, or LEAST..MOST: as many of each size
    #[arg(long, value_name = "BYTES", value_parser = sizes, default_value = "1KiB")]
    pub(crate) record_bytes: RangeInclusive<u64>,
    /// Size of a batch: as many records as fit, at least one
    #[arg(long, value_name = "BYTES", value_parser = bytes, default_value = "16KiB")]
    pub(crate) batch_bytes: u64,
    /// batch (8 bytes that tell batches apart), none, seq or random[:HOW-MANY]
    #[arg(long, value_parser = keys, default_value = "batch")]
    pub(crate) keys: Keys,
    /// Take the lines of this file as values, round and round
    #[arg(long, value_name = "FILE", conflicts_with = "record_bytes")]
    pub(crate) payload_file: Option<PathBuf>,
    /// none, gzip, snappy, lz4 or zstd
    #[arg(long, value_parser = compression, default_value = "none")]
    pub(crate) compression: Compression,
    /// Version of Produce: 3 to 8 carry record batches, 2 and less the message sets of 0.10 and before
    #[arg(long, value_name = "N", default_value_t = PRODUCE_VERSION)]
    pub(crate) produce_version: i16,
    /// Ask for a producer id and number the batches
    #[arg(long)]
    pub(crate) idempotent: bool,
    /// Build batches before the load, or each when it is due as clients do
    #[arg(long, value_enum, default_value = "once")]
    pub(crate) build: Build,
    /// Seed of payloads and arrivals
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// Do not read the log back
    #[arg(long)]
    pub(crate) no_verify: bool,
}

impl LoadArgs {
    /// As a workload, closed loop.
    pub(crate) fn workload(&self) -> Result<Workload, Failure> {
        let (least, most) = (
            size(*self.record_bytes.start())?,
            size(*self.record_bytes.end())?,
        );
        let values = match &self.payload_file {
            Some(path) => read_lines(path)?,
            None => Values::Random,
        };
        let longest = match &values {
            Values::Lines(lines) => lines.iter().map(Vec::len).max().unwrap_or_default(),
            Values::Random | Values::Json => most,
        };
        let workload = Workload {
            topic: self.topic.clone(),
            partitions: self.partitions,
            connections: self.connections,
            record_bytes: most,
            record_bytes_least: (least < most).then_some(least),
            records_per_batch: records_that_fit(longest, size(self.batch_bytes)?)?,
            keys: self.keys,
            values,
            compression: self.compression,
            produce_version: self.produce_version,
            idempotent: self.idempotent,
            build: self.build,
            seed: self.seed,
            verify: !self.no_verify,
            ..Workload::default()
        };
        Ok(workload)
    }
}

fn size(bytes: u64) -> Result<usize, Failure> {
    let limit = 64 << 20;
    let size = usize::try_from(bytes).ok().filter(|size| *size <= limit);
    size.ok_or_else(|| Failure::Usage(format!("{bytes} bytes are more than the {limit} allowed")))
}

/// What is sent when, but for the rate.
#[derive(Debug, Clone, Args)]
pub(crate) struct PaceArgs {
    /// Requests in flight on each connection
    #[arg(long, default_value_t = 1)]
    pub(crate) in_flight: usize,
    /// 0, 1 or all
    #[arg(long, value_parser = acks, default_value = "all", allow_hyphen_values = true)]
    pub(crate) acks: i16,
    /// How an open loop's requests are spaced
    #[arg(long, value_enum, default_value = "fixed")]
    pub(crate) arrival: Arrival,
    /// How long to measure [default: 10s, or no limit with --messages]
    #[arg(long, value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// How many records to send
    #[arg(long, value_parser = count)]
    pub(crate) messages: Option<u64>,
    /// Load before the measurement
    #[arg(long, value_parser = duration, default_value = "2s")]
    pub(crate) warm_up: Duration,
}

impl PaceArgs {
    /// Puts the pace into a workload.
    pub(crate) fn apply(&self, rate: Rate, workload: &mut Workload) {
        workload.in_flight = self.in_flight;
        workload.acks = self.acks;
        workload.pace = match rate {
            Rate::Max => Pace::Closed,
            Rate::PerSecond(rate) => self.at(rate),
        };
    }

    /// An open loop of so many requests a second.
    pub(crate) fn at(&self, rate: f64) -> Pace {
        Pace::Open {
            rate,
            arrival: self.arrival,
        }
    }

    /// When the measurement ends.
    pub(crate) fn limit(&self, workload: &Workload) -> Limit {
        let per_batch = workload.records_per_batch as u64;
        let requests = self.messages.map(|messages| messages.div_ceil(per_batch));
        let default = requests.is_none().then_some(Duration::from_secs(10));
        Limit {
            duration: self.duration.or(default),
            requests,
        }
    }
}

/// `produce`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ProduceArgs {
    /// The broker.
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// The load.
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// Its pace.
    #[command(flatten)]
    pub(crate) pace: PaceArgs,
    /// Requests a second over all connections (open loop: latency counts from the intended time), or max
    #[arg(long, value_name = "N|max", value_parser = rate, default_value = "max")]
    pub(crate) rate: Rate,
}

/// `--rate`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rate {
    /// Closed loop.
    Max,
    /// Open loop.
    PerSecond(f64),
}

impl ProduceArgs {
    /// The workload and its limit.
    pub(crate) fn plan(&self) -> Result<(Workload, Limit), Failure> {
        let mut workload = self.load.workload()?;
        self.pace.apply(self.rate, &mut workload);
        workload.check()?;
        let limit = self.pace.limit(&workload);
        Ok((workload, limit))
    }
}

/// A load whose rate is somebody else's.
#[derive(Debug, Clone, Args)]
pub(crate) struct RatedArgs {
    /// The broker.
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// The load.
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// Its pace.
    #[command(flatten)]
    pub(crate) pace: PaceArgs,
}

impl RatedArgs {
    /// The load at a rate.
    pub(crate) fn workload(&self, rate: f64) -> Result<Workload, Failure> {
        let mut workload = self.load.workload()?;
        self.pace.apply(Rate::PerSecond(rate), &mut workload);
        Ok(workload)
    }
}

/// `sweep`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SweepArgs {
    /// The load at each rate.
    #[command(flatten)]
    pub(crate) rated: RatedArgs,
    /// Requests a second: 1k,5k,10k or 1k..100k:x2 or 1k..5k:+500
    #[arg(long, value_name = "GRID", value_parser = grid)]
    pub(crate) rate: Grid,
}

/// `max`.
#[derive(Debug, Clone, Args)]
pub(crate) struct MaxArgs {
    /// The load at each rate.
    #[command(flatten)]
    pub(crate) rated: RatedArgs,
    /// What latency, counted from the intended time, must keep: p99<5ms
    #[arg(long, value_parser = objective)]
    pub(crate) slo: Objective,
    /// The first rate, requests a second
    #[arg(long, value_parser = rate_number, default_value = "1k")]
    pub(crate) from: f64,
    /// How near to the limit the search goes: 5%
    #[arg(long, value_name = "PERCENT", value_parser = precision, default_value = "5%")]
    pub(crate) precision: f64,
    /// How often the rate that was found must keep the objective again
    #[arg(long, default_value_t = 3)]
    pub(crate) confirmations: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    #[test]
    fn a_produce_command_becomes_a_plan() {
        let words =
            "ringlog-bench produce --messages 1k --record-bytes 100 --batch-bytes 1 --rate 5k";
        let Command::Produce(args) = Cli::try_parse_from(words.split(' ')).unwrap().command else {
            panic!("not produce");
        };
        let (workload, limit) = args.plan().unwrap();
        assert_eq!(
            (workload.records_per_batch, limit.requests),
            (1, Some(1000))
        );
        assert_eq!(limit.duration, None);
        assert!(matches!(workload.pace, Pace::Open { rate: 5000.0, .. }));
    }
}
