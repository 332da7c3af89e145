//! The broker's configuration: `server.properties`, `--override`, environment and flags, read into
//! one typed value.
//!
//! ```text
//! properties   text -> entries with places          keys      what is known about each key
//! settings     layers -> values with sources        listeners what to bind and to advertise
//! problem      what, where, what to do              topic     what holds for one topic
//! dynamic      what may change while the broker runs
//! ```
//!
//! Invariants: a [`BrokerConfig`] is valid as a whole; every finding names its place and what to
//! do; all findings of a start are told at once. Nothing here opens a socket or a data directory.

pub mod dynamic;
pub mod keys;
pub mod listeners;
pub mod problem;
pub mod properties;
pub mod settings;
pub mod topic;

mod machine;
mod nodes;

use std::fmt;
use std::path::PathBuf;

pub use listeners::{Advertised, EndPoint, Listener};
pub use problem::{Level, Problem};
pub use settings::{Layers, Settings};
pub use topic::TopicConfig;

/// The configuration of a running broker.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// `node.id` or `broker.id`; never negative.
    pub node_id: i32,
    /// What to bind, at least one.
    pub listeners: Vec<Listener>,
    /// Where the bound addresses are written after the start, for tests that bind port 0.
    pub port_file: Option<PathBuf>,
    /// Serves one program from a temporary directory, and tells it where.
    pub is_ephemeral: bool,
    /// Data directories, at least one.
    pub log_dirs: Vec<PathBuf>,
    /// `num.partitions`.
    pub num_partitions: i32,
    /// `auto.create.topics.enable`.
    pub auto_create_topics_enable: bool,
    /// `delete.topic.enable`.
    pub delete_topic_enable: bool,
    /// `default.replication.factor`, capped at the one node there is.
    pub default_replication_factor: i16,
    /// `producer.id.expiration.ms`.
    pub producer_id_expiration_ms: i64,
    /// What topics have unless they say otherwise.
    pub topic_defaults: TopicConfig,
    /// `offsets.*`.
    pub offsets: OffsetsConfig,
    /// `group.*`.
    pub group: GroupConfig,
    /// Sockets and requests.
    pub network: NetworkConfig,
    /// `ringlog.*`.
    pub ringlog: RinglogConfig,
    /// `zookeeper.*`.
    pub zookeeper: ZookeeperSettings,
    /// All values with their sources, for `DescribeConfigs`.
    pub settings: Settings,
}

/// `offsets.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetsConfig {
    /// `offsets.topic.num.partitions`.
    pub topic_num_partitions: i32,
    /// `offsets.topic.replication.factor`, capped at the one node there is.
    pub topic_replication_factor: i16,
    /// `offsets.retention.minutes`, in milliseconds.
    pub retention_ms: i64,
    /// `offsets.topic.segment.bytes`.
    pub topic_segment_bytes: u32,
    /// `offset.metadata.max.bytes`.
    pub metadata_max_bytes: u32,
}

/// `group.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// `group.initial.rebalance.delay.ms`.
    pub initial_rebalance_delay_ms: i32,
    /// `group.min.session.timeout.ms`.
    pub session_timeout_ms_min: i32,
    /// `group.max.session.timeout.ms`.
    pub session_timeout_ms_max: i32,
    /// `group.max.size`.
    pub members_max: u32,
}

/// Sockets and requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// `socket.request.max.bytes`.
    pub request_bytes_max: u32,
    /// `socket.send.buffer.bytes`; `None` leaves it to the system.
    pub send_buffer_bytes: Option<u32>,
    /// `socket.receive.buffer.bytes`; `None` leaves it to the system.
    pub receive_buffer_bytes: Option<u32>,
    /// `socket.listen.backlog.size`.
    pub listen_backlog: u32,
    /// `max.connections`.
    pub connections_max: u32,
    /// `max.connections.per.ip`.
    pub connections_per_ip_max: u32,
    /// `connections.max.idle.ms`; `None` means never.
    pub idle_ms_max: Option<i64>,
    /// `queued.max.requests`, of one shard.
    pub in_flight_requests_max: u32,
    /// `fetch.max.bytes`.
    pub fetch_bytes_max: u32,
    /// `max.incremental.fetch.session.cache.slots`.
    pub fetch_sessions_max: u32,
}

/// Which I/O driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoMode {
    /// io_uring where it is to be had, else [`IoMode::Poll`].
    Auto,
    /// io_uring or a failed start.
    Uring,
    /// epoll and plain system calls.
    Poll,
}

/// What `acks=all` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On stable storage.
    Durable,
    /// In the page cache: Apache Kafka's promise.
    PageCache,
}

/// Where metrics are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpListen {
    /// Nowhere.
    None,
    /// At an address.
    At {
        /// `HOST:PORT`.
        address: String,
        /// Somebody has set it: where it is taken, the broker does not start.
        is_asked: bool,
    },
}

/// Where ZooKeeper is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZookeeperSettings {
    /// `zookeeper.connect`. The place of the service in this process, if it has one.
    pub connect: String,
    /// `zookeeper.session.timeout.ms`.
    pub session_timeout_ms: u32,
    /// `ringlog.zookeeper.port`, of the service in this process, if there shall be one.
    pub own_port: Option<u16>,
}

/// `ringlog.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RinglogConfig {
    /// `ringlog.data.dir`: everything but, where they are set, the log directories.
    pub data_dir: PathBuf,
    /// The journals of all shards, below `data_dir`.
    pub journal_dir: PathBuf,
    /// `ringlog.cores`, the number of shards.
    pub cores: usize,
    /// `ringlog.shards.as.brokers`.
    pub shards_as_brokers: bool,
    /// `ringlog.io`.
    pub io: IoMode,
    /// `ringlog.http.listen`.
    pub http: HttpListen,
    /// `ringlog.durability`.
    pub durability: Durability,
    /// `ringlog.journal.bytes`, of one shard.
    pub journal_bytes: u64,
    /// `ringlog.journal.file.bytes`; at most half of `journal_bytes`, a multiple of 4096.
    pub journal_file_bytes: u64,
    /// `ringlog.open.files.max`, of all shards.
    pub open_files_max: usize,
    /// `ringlog.disk.reserve.bytes`; 0 for none.
    pub disk_reserve_bytes: u64,
    /// `ringlog.scrub.bytes.per.second`, of all shards; 0 for no scrub.
    pub scrub_bytes_per_second: u64,
    /// `ringlog.trace.sample.every`; 0 for none.
    pub trace_sample_every: u32,
}

/// A configuration with what is worth saying about it.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: BrokerConfig,
    /// Warnings and notes, for the log.
    pub notes: Vec<Problem>,
}

/// A configuration that the broker cannot start with. Shows all findings, the errors first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// All findings; at least one is an error.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_level = |level| self.problems.iter().filter(move |p| p.level == level);
        let mut all = of_level(Level::Error).chain(of_level(Level::Warn));
        if let Some(first) = all.next() {
            write!(f, "{first}")?;
        }
        all.try_for_each(|problem| write!(f, "\n{problem}"))
    }
}

impl std::error::Error for ConfigError {}

impl BrokerConfig {
    /// Reads and checks all layers.
    ///
    /// # Errors
    /// Everything that is wrong, if an error is among it.
    pub fn load(layers: &Layers) -> Result<Loaded, ConfigError> {
        let mut problems = Vec::new();
        let mut settings = Settings::load(layers, &mut problems);
        settle(&mut settings);
        let listeners = listeners::resolve(&mut settings, &mut problems);
        let first_port = listeners.first().map(|listener| listener.bind.port);
        let own_zookeeper = if first_port == Some(0) { "0" } else { "2181" };
        if settings.set("zookeeper.connect").is_none() {
            settings.settle("ringlog.zookeeper.port", own_zookeeper);
        }
        if first_port == Some(9092) {
            settings.settle("ringlog.http.listen", "127.0.0.1:9404");
        }
        let config = Self::build(settings, listeners, &mut problems);
        let has_error = problems.iter().any(|problem| problem.level == Level::Error);
        match config {
            Some(config) if !has_error => Ok(Loaded {
                config,
                notes: problems,
            }),
            _ => Err(ConfigError { problems }),
        }
    }

    /// `None` only together with an error in `problems`.
    fn build(
        settings: Settings,
        listeners: Vec<Listener>,
        problems: &mut Vec<Problem>,
    ) -> Option<Self> {
        let topic_defaults = match topic::validate(&settings, &topic::Overrides::new()) {
            Ok(config) => config,
            Err(error) => {
                let hint = "the broker's keys give the defaults of every topic; mend them";
                problems.push(Problem::new(Level::Error, error.0, hint));
                return None;
            }
        };
        nodes::check(&settings, &listeners, problems);
        check_retention(&settings, problems);
        check_min_insync(&settings, problems);
        check_compression(&settings, problems);
        Some(Self {
            node_id: node_id(&settings, problems),
            listeners,
            port_file: None,
            is_ephemeral: false,
            log_dirs: log_dirs(&settings, problems),
            num_partitions: int(&settings, "num.partitions"),
            auto_create_topics_enable: settings.boolean("auto.create.topics.enable"),
            delete_topic_enable: settings.boolean("delete.topic.enable"),
            default_replication_factor: capped(&settings, "default.replication.factor", problems),
            producer_id_expiration_ms: long(&settings, "producer.id.expiration.ms"),
            topic_defaults,
            offsets: OffsetsConfig {
                topic_num_partitions: int(&settings, "offsets.topic.num.partitions"),
                topic_replication_factor: capped(
                    &settings,
                    "offsets.topic.replication.factor",
                    problems,
                ),
                retention_ms: long(&settings, "offsets.retention.minutes") * 60_000,
                topic_segment_bytes: size(&settings, "offsets.topic.segment.bytes"),
                metadata_max_bytes: size(&settings, "offset.metadata.max.bytes"),
            },
            group: group(&settings, problems),
            network: network(&settings),
            ringlog: ringlog(&settings, problems),
            zookeeper: zookeeper(&settings, problems),
            settings,
        })
    }
}

/// Defaults that depend on how the broker was started and on the machine.
fn settle(settings: &mut Settings) {
    let is_set = |settings: &Settings, name| settings.set(name).is_some();
    if !is_set(settings, "ringlog.data.dir") {
        let has_own = is_set(settings, "log.dirs") || is_set(settings, "log.dir");
        if has_own || settings.has_file() {
            let first = log_dirs_text(settings).1;
            let first = first.split(',').next().unwrap_or_default().trim();
            let beside = format!("{}.ringlog", first.trim_end_matches('/'));
            settings.settle("ringlog.data.dir", &beside);
        } else {
            settings.settle("ringlog.data.dir", "./data");
        }
    }
    if !settings.has_file() || is_set(settings, "ringlog.data.dir") {
        let data = settings.text("ringlog.data.dir").unwrap_or_default();
        settings.settle("log.dir", &format!("{data}/logs"));
    }
    if !is_set(settings, "node.id") && !is_set(settings, "broker.id") {
        settings.settle("node.id", "0");
        settings.settle("broker.id", "0");
    }
    settings.settle("ringlog.cores", &machine::usable_cores().to_string());
    let open_files = machine::open_files_limit() / 5 * 2;
    let open_files = open_files.clamp(16, i32::MAX.unsigned_abs().into());
    settings.settle("ringlog.open.files.max", &open_files.to_string());
}

fn long(settings: &Settings, name: &str) -> i64 {
    settings
        .integer(name)
        .expect("keys read here are numbers with a default, which a test of this file checks")
}

fn int(settings: &Settings, name: &str) -> i32 {
    i32::try_from(long(settings, name)).unwrap_or(i32::MAX)
}

fn size(settings: &Settings, name: &str) -> u32 {
    u32::try_from(long(settings, name)).unwrap_or(0)
}

/// A number where -1 means "none".
fn optional_size(settings: &Settings, name: &str) -> Option<u32> {
    u32::try_from(long(settings, name)).ok()
}

/// Old and new name of one thing; Kafka refuses two values, too.
fn node_id(settings: &Settings, problems: &mut Vec<Problem>) -> i32 {
    let set = |name| settings.set(name).and_then(|_| settings.integer(name));
    let (node, broker) = (set("node.id"), set("broker.id"));
    if let (Some(node), Some(broker)) = (node, broker)
        && node != broker
    {
        let what = format!("'node.id' is {node} and 'broker.id' is {broker}");
        let hint = "they name the same thing; keep one";
        problems.push(settings.problem(Level::Error, "node.id", &what, hint));
    }
    match node.or(broker).and_then(|id| i32::try_from(id).ok()) {
        Some(id) if id >= 0 => id,
        _ => 0,
    }
}

/// The key that holds, and its value.
fn log_dirs_text(settings: &Settings) -> (&'static str, String) {
    let key = match settings.text("log.dirs") {
        Some(_) => "log.dirs",
        None => "log.dir",
    };
    (key, settings.text(key).unwrap_or_default())
}

fn log_dirs(settings: &Settings, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let (key, text) = log_dirs_text(settings);
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    let mut dirs: Vec<PathBuf> = Vec::new();
    for dir in parts.map(PathBuf::from) {
        if dirs.contains(&dir) {
            let what = format!("data directory '{}' is named twice", dir.display());
            problems.push(settings.problem(Level::Warn, key, &what, "it is used once"));
        } else {
            dirs.push(dir);
        }
    }
    if dirs.is_empty() {
        let what = "no data directory is set";
        let hint = "name one, as in log.dirs=/var/lib/ringlog";
        problems.push(settings.problem(Level::Error, key, what, hint));
    }
    dirs
}

/// Kafka's own default of the offsets topic is 3, so only a set value is worth a line.
fn capped(settings: &Settings, name: &str, problems: &mut Vec<Problem>) -> i16 {
    let wanted = long(settings, name);
    if wanted > 1 && settings.set(name).is_some() {
        let what = format!("'{name}={wanted}' is read as 1");
        let hint = "there is one node, and it holds one replica";
        problems.push(settings.problem(Level::Info, name, &what, hint));
    }
    1
}

fn check_min_insync(settings: &Settings, problems: &mut Vec<Problem>) {
    let name = "min.insync.replicas";
    let wanted = long(settings, name);
    if wanted > 1 {
        let what = format!("'{name}={wanted}' refuses every produce with acks=all");
        let hint = "there is one replica, and NOT_ENOUGH_REPLICAS is Kafka's answer; set it to 1";
        problems.push(settings.problem(Level::Warn, name, &what, hint));
    }
}

/// Recompressing would open every batch on the produce path.
fn check_compression(settings: &Settings, problems: &mut Vec<Problem>) {
    let name = "compression.type";
    let codec = settings.text(name).unwrap_or_default();
    if codec != "producer" {
        let what = format!("'{name}={codec}' is read as 'producer'");
        let hint = "batches are stored as the producer compressed them; set its compression.type";
        problems.push(settings.problem(Level::Warn, name, &what, hint));
    }
}

/// Kafka takes -1 and 1 and more in each unit, and nothing between.
fn check_retention(settings: &Settings, problems: &mut Vec<Problem>) {
    for name in [
        "log.retention.ms",
        "log.retention.minutes",
        "log.retention.hours",
    ] {
        if settings.integer(name) == Some(0) {
            let what = format!("invalid value '0' for '{name}'");
            let hint = "expected -1 (for ever) or at least 1";
            problems.push(settings.problem(Level::Error, name, &what, hint));
        }
    }
}

fn group(settings: &Settings, problems: &mut Vec<Problem>) -> GroupConfig {
    let config = GroupConfig {
        initial_rebalance_delay_ms: int(settings, "group.initial.rebalance.delay.ms"),
        session_timeout_ms_min: int(settings, "group.min.session.timeout.ms"),
        session_timeout_ms_max: int(settings, "group.max.session.timeout.ms"),
        members_max: size(settings, "group.max.size"),
    };
    let (min, max) = (config.session_timeout_ms_min, config.session_timeout_ms_max);
    if min > max {
        let name = "group.min.session.timeout.ms";
        let what = format!("'{name}' is {min}, more than 'group.max.session.timeout.ms', {max}");
        let hint = "no consumer could join; raise the second or lower the first";
        problems.push(settings.problem(Level::Error, name, &what, hint));
    }
    config
}

fn network(settings: &Settings) -> NetworkConfig {
    let idle_ms = long(settings, "connections.max.idle.ms");
    NetworkConfig {
        request_bytes_max: size(settings, "socket.request.max.bytes"),
        send_buffer_bytes: optional_size(settings, "socket.send.buffer.bytes"),
        receive_buffer_bytes: optional_size(settings, "socket.receive.buffer.bytes"),
        listen_backlog: size(settings, "socket.listen.backlog.size"),
        connections_max: size(settings, "max.connections"),
        connections_per_ip_max: size(settings, "max.connections.per.ip"),
        idle_ms_max: (idle_ms >= 0).then_some(idle_ms),
        in_flight_requests_max: size(settings, "queued.max.requests"),
        fetch_bytes_max: size(settings, "fetch.max.bytes"),
        fetch_sessions_max: size(settings, "max.incremental.fetch.session.cache.slots"),
    }
}

fn zookeeper(settings: &Settings, problems: &mut Vec<Problem>) -> ZookeeperSettings {
    let name = "zookeeper.connect";
    let own_port = settings.integer("ringlog.zookeeper.port");
    let own_port = own_port.and_then(|port| u16::try_from(port).ok());
    let connect = match (settings.text(name), own_port) {
        (Some(connect), Some(port)) => {
            let what = format!("'{name}={connect}' is not used");
            let hint = format!("the ZooKeeper service in this process is, on port {port}");
            problems.push(settings.problem(Level::Info, name, &what, &hint));
            String::new()
        }
        (Some(connect), None) => connect,
        (None, _) => String::new(),
    };
    let (servers, chroot) = connect.split_at(connect.find('/').unwrap_or(connect.len()));
    let is_server = |server: &str| match server.rsplit_once(':') {
        Some((host, port)) => !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0),
        None => !server.is_empty(),
    };
    let is_right = servers.split(',').all(is_server) && !chroot.contains("//");
    if own_port.is_none() && !is_right {
        let what = format!("invalid value '{connect}' for '{name}'");
        let hint = "expected host:port, several with commas between, and perhaps a chroot: \
                    a:2181,b:2181/kafka";
        problems.push(settings.problem(Level::Error, name, &what, hint));
    }
    ZookeeperSettings {
        connect: connect.split_whitespace().collect(),
        session_timeout_ms: size(settings, "zookeeper.session.timeout.ms"),
        own_port,
    }
}

fn http(settings: &Settings, problems: &mut Vec<Problem>) -> HttpListen {
    let name = "ringlog.http.listen";
    let text = settings.text(name).unwrap_or_default();
    let text = text.trim();
    if text.is_empty() || text == "none" {
        return HttpListen::None;
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("127.0.0.1", text));
    if host.is_empty() || port.parse::<u16>().is_err() {
        let what = format!("invalid value '{text}' for '{name}'");
        let hint = "expected [HOST:]PORT, or none";
        problems.push(settings.problem(Level::Error, name, &what, hint));
    }
    HttpListen::At {
        address: format!("{host}:{port}"),
        is_asked: settings.set(name).is_some(),
    }
}

fn ringlog(settings: &Settings, problems: &mut Vec<Problem>) -> RinglogConfig {
    let bytes = |name| u64::try_from(long(settings, name)).unwrap_or(0);
    let data_dir = PathBuf::from(settings.text("ringlog.data.dir").unwrap_or_default());
    let config = RinglogConfig {
        journal_dir: data_dir.join("journal"),
        data_dir,
        cores: usize::try_from(long(settings, "ringlog.cores")).unwrap_or(1),
        shards_as_brokers: settings.boolean("ringlog.shards.as.brokers"),
        io: match settings.text("ringlog.io").as_deref() {
            Some("uring") => IoMode::Uring,
            Some("poll") => IoMode::Poll,
            _ => IoMode::Auto,
        },
        http: http(settings, problems),
        durability: match settings.text("ringlog.durability").as_deref() {
            Some("page-cache") => Durability::PageCache,
            _ => Durability::Durable,
        },
        journal_bytes: bytes("ringlog.journal.bytes"),
        journal_file_bytes: bytes("ringlog.journal.file.bytes"),
        open_files_max: usize::try_from(long(settings, "ringlog.open.files.max")).unwrap_or(16),
        disk_reserve_bytes: bytes("ringlog.disk.reserve.bytes"),
        scrub_bytes_per_second: bytes("ringlog.scrub.bytes.per.second"),
        trace_sample_every: u32::try_from(long(settings, "ringlog.trace.sample.every"))
            .unwrap_or(0),
    };
    let (journal, file) = (config.journal_bytes, config.journal_file_bytes);
    let name = "ringlog.journal.file.bytes";
    if !file.is_multiple_of(4096) {
        let what = format!("invalid value '{file}' for '{name}'");
        let hint = "expected a multiple of 4096, for O_DIRECT writes whole blocks";
        problems.push(settings.problem(Level::Error, name, &what, hint));
    }
    if file > journal / 2 {
        let what =
            format!("'{name}' is {file}, more than half of 'ringlog.journal.bytes', {journal}");
        let hint =
            "the journal is a ring of at least two files; lower the first or raise the second";
        problems.push(settings.problem(Level::Error, name, &what, hint));
    }
    let usable = machine::usable_cores();
    if config.cores > usable {
        let what = format!(
            "'ringlog.cores' is {}, and {usable} cores are usable",
            config.cores
        );
        let hint = "shards that share a core slow each other down";
        problems.push(settings.problem(Level::Warn, "ringlog.cores", &what, hint));
    }
    config
}

#[cfg(test)]
mod tests;
