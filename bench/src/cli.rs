//! The command line: flags in human units, one struct for each subcommand.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::compare::{Measure, Side};
use crate::failure::Failure;
use crate::fetch::FETCH_BYTES_LIMIT;
use crate::folder::OutputArgs;
use crate::phase::Limit;
use crate::schedule::{Arrival, Pace};
use crate::target::{Durability, Kind, SpawnArgs};
use crate::workload::{Workload, records_that_fit};

/// Loads a Kafka broker and tells what it cost; a run that lost, doubled or reordered a message fails
#[derive(Debug, Parser)]
#[command(name = "ringlog-bench", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// How the generator talks to the kernel
    #[arg(long, global = true, value_enum, default_value = "uring")]
    pub(crate) io: Io,
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
    /// Draw results again, or several side by side in one page
    Report(ReportArgs),
    /// Bring in what other tools know: OpenMessaging workloads and results, kafka-producer-perf-test
    Import(ImportArgs),
    /// What results record of this machine
    Env(EnvArgs),
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

/// The shape of the load.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    /// The topic; made if it is not there
    #[arg(long, default_value = "bench")]
    pub(crate) topic: String,
    /// Partitions; connection i takes partition i modulo their number
    #[arg(long, default_value_t = 1)]
    pub(crate) partitions: usize,
    /// Connections
    #[arg(long, default_value_t = 1)]
    pub(crate) connections: usize,
    /// Bytes of a record's value
    #[arg(long, value_name = "BYTES", value_parser = bytes, default_value = "1KiB")]
    pub(crate) record_bytes: u64,
    /// Size of a batch: as many records as fit, at least one
    #[arg(long, value_name = "BYTES", value_parser = bytes, default_value = "16KiB")]
    pub(crate) batch_bytes: u64,
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
        let record_bytes = size(self.record_bytes)?;
        let workload = Workload {
            topic: self.topic.clone(),
            partitions: self.partitions,
            connections: self.connections,
            record_bytes,
            records_per_batch: records_that_fit(record_bytes, size(self.batch_bytes)?)?,
            seed: self.seed,
            verify: !self.no_verify,
            ..Workload::default()
        };
        workload.check()?;
        Ok(workload)
    }
}

fn size(bytes: u64) -> Result<usize, Failure> {
    let limit = 64 << 20;
    let size = usize::try_from(bytes).ok().filter(|size| *size <= limit);
    size.ok_or_else(|| Failure::Usage(format!("{bytes} bytes are more than the {limit} allowed")))
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
    /// Requests in flight on each connection
    #[arg(long, default_value_t = 1)]
    pub(crate) in_flight: usize,
    /// 0, 1 or all
    #[arg(long, value_parser = acks, default_value = "all", allow_hyphen_values = true)]
    pub(crate) acks: i16,
    /// Requests a second over all connections (open loop: latency counts from the intended time), or max
    #[arg(long, value_name = "N|max", value_parser = rate, default_value = "max")]
    pub(crate) rate: Rate,
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
        workload.in_flight = self.in_flight;
        workload.acks = self.acks;
        workload.pace = match self.rate {
            Rate::Max => Pace::Closed,
            Rate::PerSecond(rate) => Pace::Open {
                rate,
                arrival: self.arrival,
            },
        };
        workload.check()?;
        let per_batch = workload.records_per_batch as u64;
        let requests = self.messages.map(|messages| messages.div_ceil(per_batch));
        let default = requests.is_none().then_some(Duration::from_secs(10));
        let limit = Limit {
            duration: self.duration.or(default),
            requests,
        };
        Ok((workload, limit))
    }
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

/// `64`, `10k`, `16KiB`, `1M`, `2GB`: k, M, G are decimal, Ki, Mi, Gi binary.
fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim_end_matches('B');
    let units = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("k", 1_000),
        ("K", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("", 1),
    ];
    for (unit, factor) in units {
        if let Some(number) = text.strip_suffix(unit) {
            let number: u64 = number
                .parse()
                .map_err(|_| "not a number with an optional unit like k, M, KiB, MiB".to_owned())?;
            return number
                .checked_mul(factor)
                .ok_or_else(|| "too large".to_owned());
        }
    }
    Err("empty".to_owned())
}

/// `1000`, `10k`, `1M`.
fn count(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        0 => Err("must be at least 1".to_owned()),
        count => Ok(count),
    }
}

/// `500ms`, `5s`, `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    for (unit, factor) in [("ms", 1e-3), ("s", 1.0), ("m", 60.0)] {
        if let Some(number) = text.strip_suffix(unit) {
            let number: f64 = number
                .parse()
                .map_err(|_| "not a number before the unit".to_owned())?;
            return Duration::try_from_secs_f64(number * factor).map_err(|error| error.to_string());
        }
    }
    Err("needs a unit: ms, s or m".to_owned())
}

/// `5%` or `0.05`.
fn share(text: &str) -> Result<f64, String> {
    let (number, unit) = match text.strip_suffix('%') {
        Some(number) => (number, 100.0),
        None => (text, 1.0),
    };
    let share = number.parse::<f64>().map(|number| number / unit);
    let share = share.ok().filter(|share| (0.0..=10.0).contains(share));
    share.ok_or_else(|| "must be a share such as 5% or 0.05".to_owned())
}

fn acks(text: &str) -> Result<i16, String> {
    match text {
        "all" | "-1" => Ok(-1),
        "0" => Ok(0),
        "1" => Ok(1),
        _ => Err("must be 0, 1 or all".to_owned()),
    }
}

fn rate(text: &str) -> Result<Rate, String> {
    match text {
        "max" => Ok(Rate::Max),
        number => Ok(Rate::PerSecond(count(number)? as f64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("16KiB"), Ok(16 << 10));
        assert_eq!(bytes("10k"), Ok(10_000));
        assert_eq!(bytes("2GB"), Ok(2_000_000_000));
        assert_eq!(bytes("7"), Ok(7));
        assert!(bytes("KiB").is_err() && bytes("-1").is_err() && bytes("99999999999G").is_err());
        assert!(count("0").is_err());
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("5").is_err() && duration("-5s").is_err() && duration("xs").is_err());
    }

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
