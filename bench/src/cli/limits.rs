//! The flags of `limits`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::values::{bytes, duration};
use crate::target::SpawnArgs;

/// A part of `limits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Idle connections, stalled ones, few file handles
    Overload,
    /// Topics that are made and deleted
    Topics,
    /// Restarts with many segments
    Segments,
    /// Restarts after a crash, by the bytes that there are
    Recovery,
    /// Memory, handles, restarts and latency with many partitions
    Partitions,
    /// What a request costs with one and with many connections and partitions
    Requests,
    /// What a hot fetch costs beside a bare sendfile loop
    Fetch,
    /// The tail of produce's latency beside the broker's other work
    Tails,
}

/// `limits`.
#[derive(Debug, Clone, Args)]
pub(crate) struct LimitsArgs {
    /// How brokers are started.
    #[command(flatten)]
    pub(crate) spawn_args: SpawnArgs,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) only: Vec<Part>,
    /// How often each part is repeated; medians are told
    #[arg(long, default_value_t = 3)]
    pub(crate) repetitions: usize,
    /// Numbers of partitions
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000")]
    pub(crate) partitions: Vec<usize>,
    /// Topics that are made and deleted
    #[arg(long, default_value_t = 1000)]
    pub(crate) topics: usize,
    /// Segments of a restart
    #[arg(long, default_value_t = 10_000)]
    pub(crate) segments: usize,
    /// Connections, idle or busy
    #[arg(long, default_value_t = 10_000)]
    pub(crate) connections: usize,
    /// Bytes of records before a crash
    #[arg(long, value_parser = bytes, value_delimiter = ',', default_value = "64MiB,256MiB,1GiB")]
    pub(crate) recovery_bytes: Vec<u64>,
    /// Each measurement of latencies
    #[arg(long, value_parser = duration, default_value = "4s")]
    pub(crate) duration: Duration,
    /// Seed of payloads
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// Where the folder `<date>-<machine>-limits` is made
    #[arg(long, value_name = "DIR", default_value = "results")]
    pub(crate) results: PathBuf,
    /// The machine's name in it [default: from its CPU]
    #[arg(long)]
    pub(crate) machine: Option<String>,
}
