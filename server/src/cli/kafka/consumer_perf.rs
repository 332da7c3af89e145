//! `kafka-consumer-perf-test`: how fast records are read (Kafka: `ConsumerPerformance`).
//!
//! Partitions are read directly; with `--group` the tool is a member, and the time that joining
//! took is the `rebalance.time.ms` of the line.

use std::io::Write;
use std::time::{Duration, Instant};

use super::console_consumer::{all_partitions, positions};
use super::options::{Options, Spec, flag, one, optional};
use super::{Tool, bootstrap, tell_plainly};
use crate::cli::Exit;
use crate::cli::tool::{ToolError, ToolResult, now_ms};
use crate::client::consumer::{Consumer, FetchOptions};
use crate::client::group::Member;
use crate::client::{Client, EARLIEST, LATEST};

/// `kafka-consumer-perf-test`.
pub const TOOL: Tool = Tool {
    name: "kafka-consumer-perf-test",
    about: "This tool is used to verify the consumer performance.",
    options: OPTIONS,
    run,
    tell: tell_plainly,
};

const OPTIONS: &[Spec] = &[
    one("bootstrap-server", "host:port", "The broker to talk to"),
    one(
        "broker-list",
        "host:port",
        "Older name of --bootstrap-server",
    ),
    one("command-config", "file", "Properties of the consumer"),
    one(
        "command-property",
        "k=v",
        "Accepted: properties of a Java client",
    ),
    one(
        "consumer.config",
        "file",
        "Accepted: properties of a Java client",
    ),
    one(
        "date-format",
        "format",
        "Accepted: times are yyyy-MM-dd HH:mm:ss:SSS",
    ),
    one("fetch-size", "bytes", "Bytes of a partition in a fetch"),
    flag("from-latest", "Begin behind the last record"),
    one("group", "id", "Read as a member of this group"),
    flag("hide-header", "No header line"),
    one("include", "regex", "Topics to read"),
    one("messages", "n", "Records to read"),
    flag("new-consumer", "Accepted: there is only one"),
    one("num-fetch-threads", "n", "Accepted (0.10)"),
    one("num-records", "n", "Newer name of --messages"),
    flag(
        "print-metrics",
        "Accepted: there are no metrics of a Java client",
    ),
    one(
        "reporting-interval",
        "ms",
        "Between two lines with --show-detailed-stats (5000)",
    ),
    flag("show-detailed-stats", "A line per interval"),
    one(
        "socket-buffer-size",
        "bytes",
        "Accepted: the system chooses",
    ),
    one("threads", "n", "Accepted (0.10)"),
    optional(
        "timeout",
        "ms",
        "End if no record comes for so long (10000)",
    ),
    one("topic", "name", "The topic"),
];

/// The command line, checked.
#[derive(Debug)]
struct Plan {
    servers: String,
    topic: String,
    wanted: u64,
    timeout_ms: u64,
    interval: Option<Duration>,
    reset: i64,
    fetch: FetchOptions,
    group: Option<String>,
}

fn plan(options: &Options) -> ToolResult<Plan> {
    let Some(topic) = options.last("topic").or(options.last("include")) else {
        return Err(ToolError::Usage(
            "Missing required argument \"[topic]\"".to_owned(),
        ));
    };
    let wanted = options.number::<u64>("num-records")?;
    let Some(wanted) = wanted.or(options.number("messages")?) else {
        return Err(ToolError::Usage(
            "Missing required argument \"[messages]\"".to_owned(),
        ));
    };
    let interval: u64 = options.number("reporting-interval")?.unwrap_or(5000);
    if interval == 0 {
        return Err(ToolError::Usage(
            "Reporting interval must be greater than 0.".to_owned(),
        ));
    }
    let is_detailed = options.has("show-detailed-stats");
    Ok(Plan {
        servers: bootstrap(options)?,
        topic: topic.to_owned(),
        wanted,
        timeout_ms: options.number("timeout")?.unwrap_or(10_000),
        interval: is_detailed.then(|| Duration::from_millis(interval)),
        reset: if options.has("from-latest") {
            LATEST
        } else {
            EARLIEST
        },
        fetch: FetchOptions {
            partition_bytes: options.number("fetch-size")?.unwrap_or(1 << 20),
            max_wait: Duration::from_millis(100),
            ..FetchOptions::default()
        },
        group: options.last("group").map(str::to_owned),
    })
}

fn run(options: &Options, out: &mut dyn Write) -> ToolResult<Exit> {
    let plan = plan(options)?;
    if !options.has("hide-header") {
        let first = if plan.interval.is_some() {
            "time, threadId"
        } else {
            "start.time, end.time"
        };
        writeln!(
            out,
            "{first}, data.consumed.in.MB, MB.sec, data.consumed.in.nMsg, nMsg.sec, \
             rebalance.time.ms, fetch.time.ms, fetch.MB.sec, fetch.nMsg.sec"
        )?;
        out.flush()?;
    }
    let mut client = Client::connect(&plan.servers, "perf-consumer-client")?;
    let (start_ms, start) = (now_ms(), Instant::now());
    let topics = vec![plan.topic.clone()];
    client.await_topic(&plan.topic, true, Duration::from_secs(60))?;
    let mut member = plan.group.as_ref().map(|group| Member::new(group, &topics));
    let partitions = match &mut member {
        Some(member) => member.join(&mut client)?,
        None => all_partitions(&mut client, &topics)?,
    };
    let joined = if member.is_some() {
        start.elapsed()
    } else {
        Duration::ZERO
    };
    let mut run = Run {
        consumer: Consumer::new(plan.fetch, plan.reset),
        total: Count::default(),
        window: Count::default(),
        window_start: Instant::now(),
        interval: plan.interval,
    };
    let positions = positions(&mut client, &partitions, plan.reset)?;
    run.consumer.assign(positions);
    let timeout = Duration::from_millis(plan.timeout_ms);
    run.consume(&mut client, &mut member, (plan.wanted, timeout), out)?;
    if run.total.records < plan.wanted {
        writeln!(
            out,
            "WARNING: Exiting before consuming the expected number of messages: timeout ({} ms) \
             exceeded. You can use the --timeout option to increase the timeout.",
            plan.timeout_ms
        )?;
    }
    if plan.interval.is_none() {
        let line = run.total.figures(start.elapsed(), joined);
        writeln!(
            out,
            "{}, {}, {line}",
            time_text(start_ms),
            time_text(now_ms())
        )?;
    }
    if let Some(member) = &mut member {
        let positions = run.consumer.positions().clone();
        member.commit(&mut client, &positions)?;
        member.leave(&mut client)?;
    }
    Ok(Exit::Ok)
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    records: u64,
    bytes: u64,
}

impl Count {
    /// The columns behind the times.
    #[expect(clippy::cast_precision_loss, reason = "figures for a person")]
    fn figures(self, elapsed: Duration, joined: Duration) -> String {
        let mib = self.bytes as f64 / (1024.0 * 1024.0);
        let records = self.records as f64;
        let seconds = elapsed.as_secs_f64().max(0.001);
        let fetch = elapsed.saturating_sub(joined);
        let fetch_seconds = fetch.as_secs_f64().max(0.001);
        format!(
            "{mib:.4}, {:.4}, {}, {:.4}, {}, {}, {:.4}, {:.4}",
            mib / seconds,
            self.records,
            records / seconds,
            joined.as_millis(),
            fetch.as_millis(),
            mib / fetch_seconds,
            records / fetch_seconds,
        )
    }
}

#[derive(Debug)]
struct Run {
    consumer: Consumer,
    total: Count,
    window: Count,
    window_start: Instant,
    interval: Option<Duration>,
}

impl Run {
    fn consume(
        &mut self,
        client: &mut Client,
        member: &mut Option<Member>,
        (wanted, timeout): (u64, Duration),
        out: &mut dyn Write,
    ) -> ToolResult {
        let mut last_record = Instant::now();
        while self.total.records < wanted && last_record.elapsed() <= timeout {
            self.consumer.poll(client)?;
            while let Some(record) = self.consumer.next_ready() {
                last_record = Instant::now();
                let key = record.key.as_ref().map_or(0, Vec::len);
                let value = record.value.as_ref().map_or(0, Vec::len);
                let bytes = u64::try_from(key + value).unwrap_or(0);
                for count in [&mut self.total, &mut self.window] {
                    count.records += 1;
                    count.bytes += bytes;
                }
            }
            if let Some(member) = member {
                member.tick(client)?;
            }
            let elapsed = self.window_start.elapsed();
            if self.interval.is_some_and(|interval| elapsed >= interval) {
                let line = self.window.figures(elapsed, Duration::ZERO);
                writeln!(out, "{}, 0, {line}", time_text(now_ms()))?;
                out.flush()?;
                self.window = Count::default();
                self.window_start = Instant::now();
            }
        }
        Ok(())
    }
}

/// `yyyy-MM-dd HH:mm:ss:SSS`, local time.
fn time_text(milliseconds: i64) -> String {
    let Ok(timestamp) = jiff::Timestamp::from_millisecond(milliseconds) else {
        return milliseconds.to_string();
    };
    let zoned = timestamp.to_zoned(jiff::tz::TimeZone::system());
    format!(
        "{}:{:03}",
        zoned.strftime("%Y-%m-%d %H:%M:%S"),
        milliseconds.rem_euclid(1000)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_are_kafkas() {
        let count = Count {
            records: 1000,
            bytes: 2 << 20,
        };
        let line = count.figures(Duration::from_secs(2), Duration::from_secs(1));
        assert_eq!(
            line,
            "2.0000, 1.0000, 1000, 500.0000, 1000, 1000, 2.0000, 1000.0000"
        );
    }
}
