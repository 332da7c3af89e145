//! `ringlog top`: what the shards do, from two looks at `/metrics`.

mod stages;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use clap::Args;

use crate::cli::tool::{ToolError, ToolResult, print_table, stdout};

/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than any broker says: 5000 partitions of 256 shards would be less.
const ANSWER_BYTES_MAX: u64 = 1 << 30;
/// Groups that are shown, those with the largest lag.
const GROUPS: usize = 10;

/// `ringlog top`.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Where the broker serves /metrics (ringlog.http.listen)
    #[arg(default_value = "127.0.0.1:9404", value_name = "HOST:PORT")]
    http: String,
    /// Seconds between two looks
    #[arg(short, long, default_value_t = 1.0, value_name = "SECONDS")]
    interval: f64,
    /// End after so many tables
    #[arg(short = 'n', long, value_name = "COUNT")]
    count: Option<u64>,
}

/// Runs `ringlog top`.
pub(crate) fn run(args: &TopArgs) -> ToolResult {
    if !(0.1..=3600.0).contains(&args.interval) {
        return Err(ToolError::Usage(
            "--interval must be 0.1 to 3600 seconds".to_owned(),
        ));
    }
    let interval = Duration::from_secs_f64(args.interval);
    let mut out = stdout();
    let is_terminal = std::io::stdout().is_terminal();
    let mut before = look(&args.http)?;
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        std::thread::sleep(interval);
        let now = look(&args.http)?;
        if is_terminal {
            // Home, and clear what is below.
            write!(out, "\x1b[H\x1b[J")?;
        }
        show(&mut *out, &before, &now)?;
        out.flush()?;
        before = now;
        left -= 1;
    }
    Ok(())
}

/// The samples of one look, by their whole name with labels.
struct Look {
    at: Instant,
    samples: BTreeMap<String, f64>,
}

impl Look {
    fn get(&self, name: &str) -> f64 {
        self.samples.get(name).copied().unwrap_or(0.0)
    }

    /// All series whose names begin so.
    fn family<'a>(&'a self, family: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let of_family = self.samples.range(family.to_owned()..);
        let of_family = of_family.map(|(name, value)| (name.as_str(), *value));
        of_family.take_while(move |(name, _)| name.starts_with(family))
    }

    /// The values that a label takes in a family.
    fn labels<'a>(&'a self, family: &'a str, label: &'a str) -> impl Iterator<Item = &'a str> {
        let start = format!("{family}{{{label}=\"");
        let of_family = self.samples.range(start.clone()..);
        of_family
            .map_while(move |(name, _)| name.strip_prefix(start.as_str()))
            .filter_map(|rest| rest.split('"').next())
    }
}

fn look(address: &str) -> ToolResult<Look> {
    let failed = |what: String| {
        ToolError::Failed(format!(
            "no metrics from http://{address}/metrics: {what}\n   | the broker serves them at \
             ringlog.http.listen (--http HOST:PORT), by default on 127.0.0.1:9404 if its port is 9092"
        ))
    };
    let text = get(address).map_err(|error| failed(error.to_string()))?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or_else(|| failed("what answers speaks no HTTP".to_owned()))?;
    if head.split(' ').nth(1) != Some("200") {
        return Err(failed(body.trim().to_owned()));
    }
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    });
    Ok(Look {
        at: Instant::now(),
        samples: samples.collect(),
    })
}

/// One GET over loopback: the broker closes the connection behind its answer, so that no HTTP client
/// is needed.
fn get(address: &str) -> std::io::Result<String> {
    let resolved = address.to_socket_addrs()?.next();
    let resolved = resolved.ok_or_else(|| std::io::Error::other("the name has no address"))?;
    let mut stream = TcpStream::connect_timeout(&resolved, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(std::io::Error::other)
}

fn show(out: &mut dyn Write, before: &Look, now: &Look) -> ToolResult {
    let seconds = now.at.duration_since(before.at).as_secs_f64();
    let rate = |name: &str| (now.get(name) - before.get(name)) / seconds;
    let topic_rate = |name: &str| rate(&format!("kafka_server_brokertopicmetrics_{name}_total"));
    writeln!(
        out,
        "records in {}/s   bytes in {}B/s   bytes out {}B/s   topics {}   partitions {}\n",
        short(topic_rate("messagesin")),
        short(topic_rate("bytesin")),
        short(topic_rate("bytesout")),
        now.get("kafka_controller_kafkacontroller_globaltopiccount"),
        now.get("kafka_server_replicamanager_partitioncount"),
    )?;
    let head = [
        "SHARD",
        "BUSY",
        "CONNECTIONS",
        "CALLS/S",
        "RING/S",
        "SENDS/S",
        "WRITES/S",
        "SYNCS/S",
        "GROUP",
        "JOURNAL",
        "COLD/S",
    ];
    let mut rows = Vec::new();
    for shard in now.labels("ringlog_shard_turns_total", "shard") {
        rows.push(shard_row(before, now, shard, seconds));
    }
    print_table(out, &head, &rows)?;
    writeln!(out)?;
    let head = [
        "REQUEST",
        "PER S",
        "P50",
        "P99",
        "P99.9",
        "FIRST PART P99",
        "SECOND PART P99",
    ];
    let mut rows = Vec::new();
    for api in now.labels("kafka_network_requestmetrics_requests_total", "request") {
        let counted = rate(&format!(
            "kafka_network_requestmetrics_requests_total{{request=\"{api}\"}}"
        ));
        let quantile = |part: &str, quantile: &str| {
            let name = format!(
                "kafka_network_requestmetrics_{part}{{request=\"{api}\",quantile=\"{quantile}\"}}"
            );
            format!("{:.3} ms", now.get(&name))
        };
        rows.push(vec![
            api.to_owned(),
            short(counted),
            quantile("totaltimems", "0.5"),
            quantile("totaltimems", "0.99"),
            quantile("totaltimems", "0.999"),
            quantile("localtimems", "0.99"),
            quantile("remotetimems", "0.99"),
        ]);
    }
    print_table(out, &head, &rows)?;
    writeln!(
        out,
        "(times since the start of the broker; first part: decode and append or look up, second: the \
         journal or the wait for data)"
    )?;
    stages::show(out, before, now)?;
    show_groups(out, now)
}

fn shard_row(before: &Look, now: &Look, shard: &str, seconds: f64) -> Vec<String> {
    let of = |look: &Look, name: &str| look.get(&format!("ringlog_{name}{{shard=\"{shard}\"}}"));
    let rate = |name: &str| (of(now, name) - of(before, name)) / seconds;
    let up = of(now, "shard_uptime_seconds") - of(before, "shard_uptime_seconds");
    let idle = of(now, "shard_idle_seconds_total") - of(before, "shard_idle_seconds_total");
    let busy = if up > 0.0 {
        (1.0 - idle / up).max(0.0)
    } else {
        0.0
    };
    let groups = rate("journal_groups_total");
    let capacity = of(now, "journal_capacity_bytes");
    vec![
        shard.to_owned(),
        format!("{:.1} %", busy * 100.0),
        short(of(now, "shard_connections")),
        short(rate("shard_system_calls_total")),
        short(rate("shard_ring_entries_total")),
        short(rate("shard_sends_total") + rate("shard_sendfile_pieces_total")),
        short(rate("shard_writes_total")),
        short(rate("shard_syncs_total")),
        if groups > 0.0 {
            format!("{:.1} appends", rate("journal_entries_total") / groups)
        } else {
            "-".to_owned()
        },
        if capacity > 0.0 {
            format!(
                "{:.0} % full",
                of(now, "journal_used_bytes") / capacity * 100.0
            )
        } else {
            "-".to_owned()
        },
        short(rate("shard_cold_pieces_total")),
    ]
}

fn show_groups(out: &mut dyn Write, now: &Look) -> ToolResult {
    let mut lags: BTreeMap<&str, f64> = BTreeMap::new();
    let family = "kafka_consumergroup_lag{consumergroup=\"";
    for (name, lag) in now.samples.range(family.to_owned()..) {
        let Some(rest) = name.strip_prefix(family) else {
            break;
        };
        *lags
            .entry(rest.split('"').next().unwrap_or_default())
            .or_default() += lag;
    }
    if lags.is_empty() {
        return Ok(());
    }
    let mut lags: Vec<_> = lags.into_iter().collect();
    lags.sort_by(|a, b| b.1.total_cmp(&a.1));
    let shown = lags.iter().take(GROUPS);
    let rows: Vec<_> = shown
        .map(|(group, lag)| vec![(*group).to_owned(), short(*lag)])
        .collect();
    writeln!(out)?;
    Ok(print_table(out, &["GROUP", "LAG"], &rows)?)
}

/// Three digits and a letter.
fn short(value: f64) -> String {
    for (unit, letter) in [(1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if value >= unit * 10.0 {
            return format!("{:.1} {letter}", value / unit);
        }
    }
    if value >= 100.0 || value == value.trunc() {
        format!("{value:.0}")
    } else {
        format!("{value:.1}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn of(text: &str, at: Instant) -> Look {
        let samples = text.lines().filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Look {
            at,
            samples: samples.collect(),
        }
    }

    #[test]
    fn rates_are_of_the_time_between_two_looks() {
        let start = Instant::now();
        let before = of(
            "ringlog_shard_turns_total{shard=\"0\"} 5\nringlog_shard_uptime_seconds{shard=\"0\"} 10\n\
             ringlog_shard_idle_seconds_total{shard=\"0\"} 9\n",
            start,
        );
        let now = of(
            "kafka_server_brokertopicmetrics_messagesin_total 50\n\
             kafka_network_requestmetrics_requests_total{request=\"Produce\"} 20\n\
             kafka_consumergroup_lag{consumergroup=\"g\",topic=\"t\",partition=\"0\"} 7\n\
             kafka_consumergroup_lag{consumergroup=\"g\",topic=\"t\",partition=\"1\"} 8\n\
             ringlog_shard_turns_total{shard=\"0\"} 5\nringlog_shard_uptime_seconds{shard=\"0\"} 12\n\
             ringlog_shard_idle_seconds_total{shard=\"0\"} 10.5\n",
            start + Duration::from_secs(2),
        );
        let mut text = Vec::new();
        show(&mut text, &before, &now).unwrap();
        let text = String::from_utf8(text).unwrap();
        for part in ["records in 25/s", "25.0 %", "Produce", "10", "g      15"] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
    }

    #[test]
    fn numbers_stay_short() {
        assert_eq!(
            [12.0, 1.25, 9999.0, 12_345.0].map(short),
            ["12", "1.2", "9999", "12.3 k"]
        );
    }
}
