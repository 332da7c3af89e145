//! The arguments of `ringlog serve`; running it is `crate::serve`.

use std::path::PathBuf;

use clap::Args;

use crate::config::Layers;

/// `ringlog serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// A Kafka server.properties file
    pub config: Option<PathBuf>,
    /// Flags, also taken without the word `serve`.
    #[command(flatten)]
    pub flags: ServeFlags,
}

/// Flags of `serve`. Values are read with the keys they set, so that a slip is told in one way,
/// whether it comes from a flag, the environment or a file.
#[derive(Debug, Default, Args)]
pub struct ServeFlags {
    /// Set a key of the configuration; may be repeated
    #[arg(long = "override", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Address to serve on; port 0 lets the system choose [env: RINGLOG_LISTEN] [listeners]
    #[arg(long, value_name = "[HOST:]PORT")]
    pub listen: Option<String>,
    /// Address to serve on, as the first half of --listen
    #[arg(long, value_name = "HOST", conflicts_with = "listen")]
    pub host: Option<String>,
    /// Port to serve on, as the second half of --listen
    #[arg(long, value_name = "PORT", conflicts_with = "listen")]
    pub port: Option<u16>,
    /// Data directory: logs, journal, zookeeper [env: RINGLOG_DATA_DIR] [ringlog.data.dir]
    #[arg(long, alias = "data", value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Port of the ZooKeeper service in this process [env: RINGLOG_ZOOKEEPER_PORT]
    /// [ringlog.zookeeper.port]
    #[arg(long, value_name = "PORT")]
    pub zookeeper_port: Option<String>,
    /// Address of /metrics and /healthz, or none [env: RINGLOG_HTTP] [ringlog.http.listen]
    #[arg(long, value_name = "[HOST:]PORT")]
    pub http: Option<String>,
    /// Serve from a temporary directory on free ports; print them as a line of JSON when ready
    #[arg(long, conflicts_with_all = ["data_dir", "listen", "host", "port", "zookeeper_port"])]
    pub ephemeral: bool,
    /// Number of shards, each a pinned thread [env: RINGLOG_CORES] [ringlog.cores]
    #[arg(long, value_name = "N")]
    pub cores: Option<String>,
    /// Show every shard as a broker of its own, with the next node id and port
    /// [env: RINGLOG_SHARDS_AS_BROKERS] [ringlog.shards.as.brokers]
    #[arg(long)]
    pub shards_as_brokers: bool,
    /// I/O driver: auto, uring or poll [env: RINGLOG_IO] [ringlog.io]
    #[arg(long, value_name = "DRIVER")]
    pub io: Option<String>,
    /// What acks=all means: durable or page-cache [env: RINGLOG_DURABILITY] [ringlog.durability]
    #[arg(long, value_name = "MODE")]
    pub durability: Option<String>,
    /// Size of a shard's journal [env: RINGLOG_JOURNAL_BYTES] [ringlog.journal.bytes]
    #[arg(long, value_name = "BYTES")]
    pub journal_bytes: Option<String>,
    /// Size of a file of the journal [env: RINGLOG_JOURNAL_FILE_BYTES] [ringlog.journal.file.bytes]
    #[arg(long, value_name = "BYTES")]
    pub journal_file_bytes: Option<String>,
    /// Log files held open at a time [env: RINGLOG_OPEN_FILES_MAX] [ringlog.open.files.max]
    #[arg(long, value_name = "N")]
    pub open_files_max: Option<String>,
    /// Serve a copy of the log directory of an Apache Kafka that was stopped; DIR is only read
    #[arg(long, value_name = "DIR")]
    pub adopt: Option<PathBuf>,
    /// With --adopt: serve DIR itself, no copy
    #[arg(long, requires = "adopt")]
    pub in_place: bool,
    /// Write the bound addresses to this file once the broker serves
    #[arg(long, value_name = "FILE")]
    pub port_file: Option<PathBuf>,
}

impl ServeFlags {
    /// The layers of configuration of one start.
    #[must_use]
    pub fn into_layers(self, file: Option<PathBuf>, env: Vec<(String, String)>) -> Layers {
        let listen = match (self.listen, self.host, self.port) {
            (None, None, None) => None,
            (Some(listen), ..) => Some(listen),
            (None, Some(host), port) => Some(format!("{host}:{}", port.unwrap_or(9092))),
            (None, None, Some(port)) => Some(port.to_string()),
        };
        let flags = [
            ("listeners", listen),
            ("ringlog.data.dir", self.data_dir),
            ("ringlog.zookeeper.port", self.zookeeper_port),
            ("ringlog.http.listen", self.http),
            ("ringlog.cores", self.cores),
            (
                "ringlog.shards.as.brokers",
                self.shards_as_brokers.then(|| "true".to_owned()),
            ),
            ("ringlog.io", self.io),
            ("ringlog.durability", self.durability),
            ("ringlog.journal.bytes", self.journal_bytes),
            ("ringlog.journal.file.bytes", self.journal_file_bytes),
            ("ringlog.open.files.max", self.open_files_max),
        ];
        let given = flags.into_iter();
        let given = given.filter_map(|(key, value)| value.map(|value| (key, value)));
        Layers {
            flags: given.collect(),
            env,
            overrides: self.overrides,
            file,
        }
    }
}
