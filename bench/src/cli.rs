//! The command line: flags in human units, one struct for each subcommand.

mod limits;
mod load;
pub(crate) mod preset;
mod values;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use limits::{LimitsArgs, Part};
pub(crate) use load::{LoadArgs, MaxArgs, ProduceArgs, Rate, RatedArgs, SweepArgs};
use values::{bytes, count, duration, share};

use crate::compare::Measure;
use crate::failure::Failure;
use crate::fetch::FETCH_BYTES_LIMIT;
use crate::folder::OutputArgs;
use crate::live::{CatchUp, Readers};
use crate::phase::Limit;
use crate::side::{Settings, Side};
use crate::target::{Durability, Kind, SpawnArgs};
use crate::tutorial::Driver;
use crate::workload::Workload;

/// Loads a Kafka broker and tells what it cost; a run that lost, doubled or reordered a message fails
#[derive(Debug, Parser)]
#[command(
    name = "ringlog-bench",
    version,
    max_term_width = 100,
    args_override_self = true
)]
pub(crate) struct Cli {
    /// How the generator talks to the kernel
    #[arg(long, global = true, value_enum, default_value = "uring")]
    pub(crate) io: Io,
    /// Tell no progress
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Count the broker's system calls too (by perf, needs root): it slows every call of the machine
    #[arg(long, global = true)]
    pub(crate) count_system_calls: bool,
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
    /// Producers and consumer groups together, or what --preset names
    Run(RunArgs),
    /// The tutorial's loop at several scales, on several brokers, with several clients
    Tutorial(TutorialArgs),
    /// Produce batches over many connections
    Produce(ProduceArgs),
    /// The same load at several rates
    Sweep(SweepArgs),
    /// The highest rate that keeps a latency objective
    Max(MaxArgs),
    /// Fill a topic, then read it from the page cache
    Fetch(FetchArgs),
    /// Time from the start of the broker to its first acknowledged produce, its idle memory and wake-ups
    Startup(StartupArgs),
    /// The marks of the project, Ringlog and Apache Kafka interleaved, written to results/
    Marks(MarksArgs),
    /// Partitions, restarts, connections and file handles: how far one Ringlog goes, written to results/
    Limits(LimitsArgs),
    /// Two brokers in turns under one load: ratios with intervals, and a verdict
    #[command(after_help = COMPARE_EXIT_CODES)]
    Compare(CompareArgs),
    /// Stop a broker for known times and hold what is measured against what was done
    SelfTest(SelfTestArgs),
    /// Instructions and CPU time of the hot paths against the committed baseline
    Gate(GateArgs),
    /// Draw results again, or several side by side in one page
    Report(ReportArgs),
    /// Bring in what other tools know: OpenMessaging workloads and results, kafka-producer-perf-test
    Import(ImportArgs),
    /// What results record of this machine
    Env(EnvArgs),
    /// Sends files to who asks, by sendfile(2): what `limits --only fetch` holds the broker against
    #[command(hide = true)]
    SendfileLoop {
        /// One for each connection
        files: Vec<PathBuf>,
    },
}

/// `report`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ReportArgs {
    /// Folders of results, or result.json files
    #[arg(required = true, value_name = "DIR|result.json")]
    pub(crate) results: Vec<PathBuf>,
    /// The page [default: report.html in the folder of a single result, else here]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// `import`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ImportArgs {
    /// An OpenMessaging workload (YAML), its result (JSON), or the output of kafka-producer-perf-test
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Where a result goes.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `env`.
#[derive(Debug, Clone, Args)]
pub(crate) struct EnvArgs {
    /// As env.json has it
    #[arg(long)]
    pub(crate) json: bool,
    /// Where data directories would be made [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) work_dir: Option<PathBuf>,
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
    /// Where the result goes.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl TargetArgs {
    /// What curves and tables call it.
    pub(crate) fn name(&self) -> String {
        match (&self.bootstrap, self.spawn) {
            (Some(bootstrap), _) => bootstrap.clone(),
            (None, Kind::Ringlog) => "Ringlog".to_owned(),
            (None, Kind::Kafka) => format!("Apache Kafka {}", self.spawn_args.kafka_version),
        }
    }
}

/// `run`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// A load by name, to which other flags add: tutorial, tailing, fan-out, catch-up, catch-up-cold,
    /// many-partitions
    // Expanded before the flags are read.
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// The load.
    #[command(flatten)]
    pub(crate) load: ProduceArgs,
    /// Groups, each of which reads everything
    #[arg(long, default_value_t = 1)]
    pub(crate) groups: usize,
    /// Members of each group
    #[arg(long, default_value_t = 1)]
    pub(crate) consumers: usize,
    /// Bytes that a consumer asks for at once (max.partition.fetch.bytes)
    #[arg(long, value_parser = bytes, default_value = "1MiB")]
    pub(crate) fetch_bytes: u64,
    /// First fill the topic, then let the groups read it: from the page cache (hot) or the device (cold)
    #[arg(long, value_enum)]
    pub(crate) catch_up: Option<CatchUp>,
    /// Bytes of batches to fill the topic with
    #[arg(long, value_parser = bytes, default_value = "256MiB", requires = "catch_up")]
    pub(crate) fill: u64,
}

impl RunArgs {
    /// The load, its end, and who reads.
    pub(crate) fn plan(&self) -> Result<(Workload, Limit, Readers), Failure> {
        let (mut workload, limit) = self.load.plan()?;
        for (name, value, most) in [
            ("--groups", self.groups, 1000),
            ("--consumers", self.consumers, 1000),
        ] {
            if value == 0 || value > most {
                return Err(Failure::Usage(format!(
                    "{name} must be 1 to {most}, not {value}"
                )));
            }
        }
        if self.catch_up.is_none() {
            workload.stamped = true;
            workload.check()?;
        }
        let bytes = i32::try_from(self.fetch_bytes).unwrap_or(i32::MAX);
        let readers = Readers {
            groups: self.groups,
            consumers: self.consumers,
            fetch_bytes_max: bytes.min(FETCH_BYTES_LIMIT),
        };
        Ok((workload, limit, readers))
    }
}

/// `tutorial`.
#[derive(Debug, Clone, Args)]
pub(crate) struct TutorialArgs {
    /// ringlog[=FILE], kafka[=VERSION] or HOST:PORT[@PID]; several give several rows
    #[arg(long, value_delimiter = ',', default_value = "ringlog")]
    pub(crate) target: Vec<Side>,
    /// How many times the loop's messages: 1,10,100,1000
    #[arg(long, value_delimiter = ',', default_value = "1")]
    pub(crate) scale: Vec<u64>,
    /// Who runs the loop
    #[arg(long, value_enum, value_delimiter = ',', default_value = "native")]
    pub(crate) driver: Vec<Driver>,
    /// Messages of the loop
    #[arg(long, value_parser = count, default_value = "1000")]
    pub(crate) messages: u64,
    /// What acks=all is to mean in a broker that is started; the loop has acks=1
    #[arg(long, value_enum, default_value = "durable")]
    pub(crate) durability: Durability,
    /// How brokers are started.
    #[command(flatten)]
    pub(crate) spawn_args: SpawnArgs,
    /// What installs the literal clients
    #[arg(long, value_name = "FILE", default_value = "bench/drivers/prepare")]
    pub(crate) driver_script: PathBuf,
    /// Seed of what is random
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// Do not read the logs back
    #[arg(long)]
    pub(crate) no_verify: bool,
    /// Where the result goes.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
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
    /// Where the result goes.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
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
    /// Bytes that a measurement of produce may write at most
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
    /// A shell command before each run of A: a setting of the machine, say
    #[arg(long, value_name = "COMMAND")]
    pub(crate) a_setup: Option<String>,
    /// The same before each run of B
    #[arg(long, value_name = "COMMAND")]
    pub(crate) b_setup: Option<String>,
    /// One more argument of broker A only; may be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) a_arg: Vec<String>,
    /// The same of broker B
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) b_arg: Vec<String>,
    /// What acks=all is to mean in broker A, if not --durability
    #[arg(long, value_enum)]
    pub(crate) a_durability: Option<Durability>,
    /// The same in broker B
    #[arg(long, value_enum)]
    pub(crate) b_durability: Option<Durability>,
    /// The load.
    #[command(flatten)]
    pub(crate) load: ProduceArgs,
}

impl CompareArgs {
    /// The broker of side 'A' or 'B', and what it has of its own.
    pub(crate) fn side(&self, side: char) -> (&Side, Settings) {
        let (broker, setup, arguments, durability) = match side {
            'A' => (&self.a, &self.a_setup, &self.a_arg, self.a_durability),
            _ => (&self.b, &self.b_setup, &self.b_arg, self.b_durability),
        };
        let settings = Settings {
            setup: setup.clone(),
            arguments: arguments.clone(),
            durability,
        };
        (broker, settings)
    }

    /// A side as tables name it.
    pub(crate) fn named(&self, side: char) -> String {
        let (broker, settings) = self.side(side);
        settings.named(broker)
    }
}

/// `self-test`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SelfTestArgs {
    /// How the broker is started.
    #[command(flatten)]
    pub(crate) spawn_args: SpawnArgs,
    /// Where the result goes.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
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
    /// Only entries with this word in their name; may be given several times
    #[arg(long, value_name = "WORD")]
    pub(crate) only: Vec<String>,
    /// The ringlog-hot-paths binary [default: beside this one]
    #[arg(long, value_name = "FILE")]
    pub(crate) hot_paths: Option<PathBuf>,
    /// Only the hot paths: no broker is started
    #[arg(long)]
    pub(crate) no_broker: bool,
    /// Do so many per cent more work than is told: what a slow-down looks like
    #[arg(long, value_name = "PERCENT", default_value_t = 0, hide = true)]
    pub(crate) plant: u64,
    /// Count hot paths that copy their item once more than is told
    #[arg(long, hide = true)]
    pub(crate) plant_copy: bool,
    /// How often is the gate wrong: so many runs of the same, and as many with 5 % and with 10 % more
    /// work, each against one run at the start
    #[arg(long, value_name = "RUNS", value_parser = clap::value_parser!(u64).range(1..), conflicts_with_all = ["update", "plant", "plant_copy"])]
    pub(crate) study: Option<u64>,
    /// Where the study goes: README.md and result.json
    #[arg(short, long, value_name = "DIR", requires = "study")]
    pub(crate) output: Option<PathBuf>,
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
