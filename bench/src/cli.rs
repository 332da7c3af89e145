//! The command line: flags in human units, one struct for each subcommand.

mod load;
mod values;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use load::{LoadArgs, PaceArgs, ProduceArgs, Rate};
use values::{bytes, duration, share};

use crate::compare::{Measure, Side};
use crate::failure::Failure;
use crate::fetch::FETCH_BYTES_LIMIT;
use crate::target::{Durability, Kind, SpawnArgs};
use crate::workload::Workload;

/// Loads a Kafka broker and tells what it cost; a run that lost, doubled or reordered a message fails
#[derive(Debug, Parser)]
#[command(name = "ringlog-bench", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// How the generator talks to the kernel
    #[arg(long, global = true, value_enum, default_value = "uring")]
    pub(crate) io: Io,
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The generator's transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Io {
    /// io_uring, by tokio-uring
    Uring,
    /// epoll, by plain tokio: the control group
    Epoll,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Produce pre-built batches over many connections
    Produce(ProduceArgs),
    /// Fill a topic, then read it from the page cache
    Fetch(FetchArgs),
    /// Time from the start of the broker to its first acknowledged produce, and its idle memory
    Startup(StartupArgs),
    /// The marks of the project, Ringlog and Apache Kafka interleaved, written to results/
    Marks(MarksArgs),
    /// Two brokers in turns under one load: ratios with intervals, and a verdict
    #[command(after_help = COMPARE_EXIT_CODES)]
    Compare(CompareArgs),
    /// Stop a broker for known times and hold what is measured against what was done
    SelfTest(SelfTestArgs),
    /// Instructions and CPU time of the hot paths against the committed baseline
    Gate(GateArgs),
}

/// Which broker, and where the result goes.
#[derive(Debug, Clone, Args)]
pub(crate) struct TargetArgs {
    /// A broker that runs already, instead of one that is started
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) bootstrap: Option<String>,
    /// Its process, to measure it
    #[arg(long, requires = "bootstrap")]
    pub(crate) pid: Option<u32>,
    /// The broker to start
    #[arg(
        long,
        value_enum,
        default_value = "ringlog",
        conflicts_with = "bootstrap"
    )]
    pub(crate) spawn: Kind,
    /// What acks=all is to mean in a broker that is started
    #[arg(long, value_enum, default_value = "durable")]
    pub(crate) durability: Durability,
    /// How brokers are started.
    #[command(flatten)]
    pub(crate) spawn_args: SpawnArgs,
    /// Also write result.json into this folder
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
}

/// `fetch`.
#[derive(Debug, Clone, Args)]
pub(crate) struct FetchArgs {
    /// The broker.
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// The load.
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// Bytes of batches to fill the topic with
    #[arg(long, value_parser = bytes, default_value = "256MiB")]
    pub(crate) fill: u64,
    /// Bytes that a consumer asks for at once (max.partition.fetch.bytes)
    #[arg(long, value_parser = bytes, default_value = "1MiB")]
    pub(crate) fetch_bytes: u64,
    /// How often each connection reads its partition
    #[arg(long, default_value_t = 8)]
    pub(crate) passes: usize,
}

impl FetchArgs {
    /// The topic, its filling, and how it is fetched.
    pub(crate) fn workload(&self) -> Result<Workload, Failure> {
        let bytes = i32::try_from(self.fetch_bytes).unwrap_or(i32::MAX);
        Ok(Workload {
            fetch_bytes_max: bytes.min(FETCH_BYTES_LIMIT),
            ..self.load.workload()?
        })
    }
}

/// `startup`.
#[derive(Debug, Clone, Args)]
pub(crate) struct StartupArgs {
    /// The broker to start
    #[arg(long, value_enum, default_value = "ringlog")]
    pub(crate) spawn: Kind,
    /// What acks=all is to mean
    #[arg(long, value_enum, default_value = "durable")]
    pub(crate) durability: Durability,
    /// How brokers are started.
    #[command(flatten)]
    pub(crate) spawn_args: SpawnArgs,
    /// How many starts
    #[arg(long, default_value_t = 10)]
    pub(crate) runs: usize,
    /// Also write result.json into this folder
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
}

/// `marks`.
#[derive(Debug, Clone, Args)]
pub(crate) struct MarksArgs {
    /// How brokers are started.
    #[command(flatten)]
    pub(crate) spawn_args: SpawnArgs,
    /// Which brokers, in turns
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "ringlog,kafka"
    )]
    pub(crate) targets: Vec<Kind>,
    /// How often the whole is repeated; medians are told
    #[arg(long, default_value_t = 3)]
    pub(crate) repetitions: usize,
    /// Load before each measurement
    #[arg(long, value_parser = duration, default_value = "10s")]
    pub(crate) warm_up: Duration,
    /// Each measurement
    #[arg(long, value_parser = duration, default_value = "5s")]
    pub(crate) duration: Duration,
    /// Bytes that a measurement of 16 KiB batches may write at most
    #[arg(long, value_parser = bytes, default_value = "2GiB")]
    pub(crate) produce_bytes_max: u64,
    /// Bytes of the topic that is fetched
    #[arg(long, value_parser = bytes, default_value = "256MiB")]
    pub(crate) fetch_fill: u64,
    /// How often each connection fetches it
    #[arg(long, default_value_t = 16)]
    pub(crate) fetch_passes: usize,
    /// Seed of payloads
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// Where the folder `<date>-<machine>-marks` is made
    #[arg(long, value_name = "DIR", default_value = "results")]
    pub(crate) results: PathBuf,
    /// The machine's name in it [default: from its CPU]
    #[arg(long)]
    pub(crate) machine: Option<String>,
}

const COMPARE_EXIT_CODES: &str = "Exit codes: 0 B is the same or faster, 1 failed or invalid, 2 usage, 3 B is slower, 4 cannot tell";

/// `compare`.
#[derive(Debug, Clone, Args)]
pub(crate) struct CompareArgs {
    /// ringlog[=FILE], kafka[=VERSION] or HOST:PORT[@PID]
    pub(crate) a: Side,
    /// The other side
    pub(crate) b: Side,
    /// How many pairs of runs
    #[arg(long, default_value_t = 8)]
    pub(crate) pairs: usize,
    /// A change up to here does not matter: 2%
    #[arg(long, value_name = "PERCENT", value_parser = share, default_value = "2%")]
    pub(crate) margin: f64,
    /// What the exit code goes by
    #[arg(long, value_enum, default_value = "cpu")]
    pub(crate) measure: Measure,
    /// The load.
    #[command(flatten)]
    pub(crate) load: ProduceArgs,
}

/// `self-test`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SelfTestArgs {
    /// How the broker is started.
    #[command(flatten)]
    pub(crate) spawn_args: SpawnArgs,
    /// Also write result.json into this folder
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
}

/// `gate`.
#[derive(Debug, Clone, Args)]
pub(crate) struct GateArgs {
    /// How brokers are started.
    #[command(flatten)]
    pub(crate) spawn_args: SpawnArgs,
    /// The committed numbers
    #[arg(long, value_name = "FILE", default_value = "results/baseline.json")]
    pub(crate) baseline: PathBuf,
    /// Accept what is measured as the new baseline
    #[arg(long)]
    pub(crate) update: bool,
    /// Only entries with this word in their name
    #[arg(long, value_name = "WORD")]
    pub(crate) only: Option<String>,
    /// The ringlog-hot-paths binary [default: beside this one]
    #[arg(long, value_name = "FILE")]
    pub(crate) hot_paths: Option<PathBuf>,
    /// Only the hot paths: no broker is started
    #[arg(long)]
    pub(crate) no_broker: bool,
    /// Do so many per cent more work than is told: what a slow-down looks like
    #[arg(long, value_name = "PERCENT", default_value_t = 0, hide = true)]
    pub(crate) plant: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_fit_together() {
        Cli::command().debug_assert();
    }
}
