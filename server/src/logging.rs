//! Log lines in Kafka's pattern, the readiness lines that other programs wait for, and the banner.
//!
//! Invariants: one line is one write, so lines of several shards never mix; a disabled level costs
//! one atomic load and no formatting; a closed standard output loses lines, never the broker. All
//! levels go to standard output, as Kafka's console appender sends them. It rotates no files: who
//! runs the broker redirects its output.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use log::{LevelFilter, Log, Metadata, Record};

/// The variable that sets the level.
pub const LEVEL_ENV: &str = "RINGLOG_LOG";

/// Kafka's time pattern, `yyyy-MM-dd HH:mm:ss,SSS`, without the milliseconds.
const TIME_FORMAT: &str = "%Y-%m-%d %H:%M:%S";

struct ConsoleLogger;

static LOGGER: ConsoleLogger = ConsoleLogger;
static IS_ON_STDERR: AtomicBool = AtomicBool::new(false);

impl Log for ConsoleLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let level = record.level().as_str();
            let logger = logger_name(record.target());
            print_line(&line(&now(), level, record.args(), &logger));
        }
    }

    fn flush(&self) {
        let _ = io::stdout().flush();
    }
}

fn now() -> Zoned {
    static ZONE: OnceLock<TimeZone> = OnceLock::new();
    Timestamp::now().to_zoned(ZONE.get_or_init(local_zone).clone())
}

/// The zone of `/etc/localtime`, read directly: the crate's own look-up lists the whole zone database
/// first to find its name, which took a tenth of the broker's start.
fn local_zone() -> TimeZone {
    if std::env::var_os("TZ").is_some() {
        return TimeZone::system();
    }
    let zone = std::fs::read("/etc/localtime").ok();
    let zone = zone.and_then(|bytes| TimeZone::tzif("Local", &bytes).ok());
    zone.unwrap_or_else(TimeZone::system)
}

/// Sets the level from the value of [`LEVEL_ENV`] and begins to log. A second call only sets the
/// level.
///
/// # Errors
/// The message to show if the value is no level.
pub fn init(level: Option<&str>) -> Result<(), String> {
    let filter = parse_level(level)?;
    // Fails only if a logger is set already, which is then this one or that of a test.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(filter);
    Ok(())
}

fn parse_level(level: Option<&str>) -> Result<LevelFilter, String> {
    match level.map(str::trim).unwrap_or_default() {
        "" => Ok(LevelFilter::Info),
        text if text.eq_ignore_ascii_case("debug") => Ok(LevelFilter::Debug),
        text if text.eq_ignore_ascii_case("info") => Ok(LevelFilter::Info),
        text if text.eq_ignore_ascii_case("warn") => Ok(LevelFilter::Warn),
        text if text.eq_ignore_ascii_case("error") => Ok(LevelFilter::Error),
        _ => Err(format!(
            "invalid value of {LEVEL_ENV}\n   | expected debug, info, warn or error"
        )),
    }
}

/// Lines that name no logger carry their module path; it reads like one with dots.
fn logger_name(target: &str) -> String {
    target.replace("::", ".")
}

/// `[2026-11-22 14:24:05,123] INFO message (logger)`
fn line(now: &Zoned, level: &str, message: &dyn fmt::Display, logger: &str) -> String {
    let mut line = String::with_capacity(160);
    let time = now.strftime(TIME_FORMAT);
    let ms = now.millisecond();
    // Only a Display implementation can fail here, and then the line is cut, not lost.
    let _ = writeln!(line, "[{time},{ms:03}] {level} {message} ({logger})");
    if !line.ends_with('\n') {
        line.push('\n');
    }
    line
}

fn print_line(line: &str) {
    if IS_ON_STDERR.load(Ordering::Relaxed) {
        let _ = io::stderr().lock().write_all(line.as_bytes());
        return;
    }
    let mut out = io::stdout().lock();
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

/// Sends all lines to standard error from now on, so that standard output has only
/// [`ephemeral_ready`]'s.
pub fn use_stderr() {
    IS_ON_STDERR.store(true, Ordering::Relaxed);
}

/// Tells a program that started a broker for itself where it is: a line of JSON, on standard output.
pub fn ephemeral_ready(kafka: &str, zookeeper: &str) {
    let pid = std::process::id();
    let line = serde_json::json!({"kafka": kafka, "zookeeper": zookeeper, "pid": pid});
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Tells that the broker serves, in the lines that container libraries and scripts wait for
/// (testcontainers for Java, Go, Rust and Python, and Kafka's own), each once and in this order.
/// They are written at every level: a program that waits for them would wait for ever.
pub fn broker_ready(node_id: i32) {
    let now = now();
    for (message, logger) in ready_lines(node_id) {
        print_line(&line(&now, "INFO", &message, logger));
    }
}

fn ready_lines(node_id: i32) -> [(String, &'static str); 4] {
    [
        (
            format!(
                "[BrokerLifecycleManager id={node_id}] The broker has been unfenced. \
                 Transitioning from RECOVERY to RUNNING."
            ),
            "kafka.server.BrokerLifecycleManager",
        ),
        (
            concat!(
                "Kafka version: 3.9.x-compatible (ringlog ",
                env!("CARGO_PKG_VERSION"),
                ")"
            )
            .to_owned(),
            "org.apache.kafka.common.utils.AppInfoParser",
        ),
        (
            format!("[KafkaServer id={node_id}] started"),
            "kafka.server.KafkaServer",
        ),
        (
            format!("[KafkaRaftServer nodeId={node_id}] Kafka Server started"),
            "kafka.server.KafkaRaftServer",
        ),
    ]
}

/// Tells that the ZooKeeper service serves, in the line that scripts wait for; at every level.
pub fn zookeeper_ready(host: &str, port: u16) {
    let message = format!("binding to port {host}/{host}:{port}");
    let logger = "org.apache.zookeeper.server.NIOServerCnxnFactory";
    print_line(&line(&now(), "INFO", &message, logger));
}

/// What the banner says.
#[derive(Clone, Debug)]
pub struct BannerFacts {
    /// Number of shards.
    pub cores: usize,
    /// The I/O driver and its features, as in `io_uring (DEFER_TASKRUN)`.
    pub driver: String,
    /// What `acks=all` means, as in `acks=all waits for stable storage`.
    pub durability: String,
    /// The bound addresses.
    pub listeners: Vec<String>,
    /// Where ZooKeeper is.
    pub zookeeper: String,
    /// Where metrics are, if anywhere.
    pub http: Option<std::net::SocketAddr>,
    /// The data directories.
    pub data: String,
    /// Time from the start to readiness.
    pub ready_ms: u64,
}

/// Shows the banner if standard output is a terminal; logs have the readiness lines.
pub fn banner(facts: &BannerFacts) {
    if io::IsTerminal::is_terminal(&io::stdout()) {
        print_line(&facts.to_string());
    }
}

impl fmt::Display for BannerFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = env!("CARGO_PKG_VERSION");
        let cores = match self.cores {
            1 => "1 core".to_owned(),
            several => format!("{several} cores"),
        };
        writeln!(
            f,
            "ringlog {version} · Kafka 0.10-4.x wire · {cores} · {} · ready in {} ms",
            self.driver, self.ready_ms
        )?;
        writeln!(f, "  kafka      {}", self.listeners.join("  "))?;
        writeln!(f, "  zookeeper  {}", self.zookeeper)?;
        if let Some(http) = self.http {
            writeln!(f, "  http       http://{http}/metrics")?;
        }
        writeln!(f, "  data       {}", self.data)?;
        writeln!(f, "  promise    {}", self.durability)?;
        let first = self.listeners.first().map_or("", String::as_str);
        writeln!(
            f,
            "try:  bin/kafka-topics.sh --create --topic first --bootstrap-server {first}\n      \
             ringlog produce first      ringlog tail first -f      ringlog doctor      ringlog top"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Zoned {
        text.parse().expect("a valid time")
    }

    #[test]
    fn line_has_kafkas_pattern() {
        let now = at("2026-11-22T14:24:05.0239+00[UTC]");
        assert_eq!(
            line(
                &now,
                "INFO",
                &"[KafkaServer id=0] started",
                "kafka.server.KafkaServer"
            ),
            "[2026-11-22 14:24:05,023] INFO [KafkaServer id=0] started (kafka.server.KafkaServer)\n"
        );
        assert_eq!(
            logger_name("ringlog::net::listener"),
            "ringlog.net.listener"
        );
    }

    #[test]
    fn readiness_lines_satisfy_each_waiter_exactly_once() {
        let now = at("2026-11-22T14:24:05.123+00[UTC]");
        let all: String = ready_lines(7)
            .iter()
            .map(|(message, logger)| line(&now, "INFO", message, logger))
            .collect();
        for wanted in [
            "Transitioning from RECOVERY to RUNNING",
            "The broker has been unfenced. Transitioning from RECOVERY to RUNNING",
            "Kafka version: 3.9.x-compatible",
            "[KafkaServer id=7] started",
            "started (kafka.server.KafkaServer)",
            "Kafka Server started",
        ] {
            assert_eq!(all.matches(wanted).count(), 1, "{wanted} in\n{all}");
        }
        let place = |text| all.find(text).expect("present");
        assert!(place("RUNNING") < place("Kafka version"));
        assert!(place("Kafka version") < place("[KafkaServer id=7]"));
        assert!(place("[KafkaServer id=7]") < place("Kafka Server started"));
    }

    #[test]
    fn levels_are_read_and_others_refused() {
        assert_eq!(parse_level(None), Ok(LevelFilter::Info));
        assert_eq!(parse_level(Some("WARN")), Ok(LevelFilter::Warn));
        assert!(parse_level(Some("loud")).is_err());
    }

    #[test]
    fn banner_says_driver_and_promise() {
        let facts = BannerFacts {
            cores: 2,
            driver: "io_uring (DEFER_TASKRUN)".to_owned(),
            durability: "acks=all waits for stable storage".to_owned(),
            listeners: vec!["127.0.0.1:9092".to_owned()],
            zookeeper: "127.0.0.1:2181".to_owned(),
            http: Some(([127, 0, 0, 1], 9404).into()),
            data: "./data".to_owned(),
            ready_ms: 14,
        };
        assert_eq!(
            facts.to_string(),
            format!(
                "ringlog {} · Kafka 0.10-4.x wire · 2 cores · io_uring (DEFER_TASKRUN) · ready in 14 ms\n  \
                 kafka      127.0.0.1:9092\n  zookeeper  127.0.0.1:2181\n  \
                 http       http://127.0.0.1:9404/metrics\n  data       ./data\n  \
                 promise    acks=all waits for stable storage\n\
                 try:  bin/kafka-topics.sh --create --topic first --bootstrap-server 127.0.0.1:9092\n      \
                 ringlog produce first      ringlog tail first -f      ringlog doctor      \
                 ringlog top\n",
                env!("CARGO_PKG_VERSION")
            )
        );
    }
}
