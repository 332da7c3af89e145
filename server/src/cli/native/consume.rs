//! `ringlog consume` and `ringlog tail`.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::ServerArgs;
use crate::cli::kafka::console_consumer::{all_partitions, positions};
use crate::cli::kafka::reset_offsets::{parse_duration_ms, parse_time};
use crate::cli::tool::{Interrupt, ToolError, ToolResult, now_ms, stdout};
use crate::client::consumer::{Consumer, FetchOptions, InRecord};
use crate::client::{Client, ClientError, EARLIEST, LATEST, TopicPartition};

/// `ringlog consume`.
#[derive(Debug, Args)]
pub(crate) struct ConsumeArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The topic
    topic: String,
    /// From the first record there is
    #[arg(long)]
    from_beginning: bool,
    /// From an offset: a number, earliest, latest, or -N for the last N of every partition
    #[arg(
        short,
        long,
        allow_hyphen_values = true,
        conflicts_with = "from_beginning"
    )]
    offset: Option<String>,
    /// From a time (2026-11-22T14:24:05) or for so long back (1h, 30m)
    #[arg(short, long, value_name = "TIME", conflicts_with_all = ["from_beginning", "offset"])]
    since: Option<String>,
    /// Only this partition
    #[arg(short, long)]
    partition: Option<i32>,
    /// End after so many records
    #[arg(short = 'n', long, value_name = "N")]
    max: Option<u64>,
    /// Stay at the end and wait for more
    #[arg(short, long)]
    follow: bool,
    /// How to print a record
    #[arg(short = 'F', long, value_enum, default_value_t = Format::Pretty)]
    format: Format,
    /// Only records of committed transactions
    #[arg(long)]
    committed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Partition, offset, time, key and value on one line
    Pretty,
    /// A JSON object a line
    Json,
    /// The value and a line end, nothing else
    Value,
}

/// Runs it; `is_tail` begins at the end and stays there.
pub(crate) fn run(args: &ConsumeArgs, is_tail: bool) -> ToolResult {
    let interrupt = Interrupt::listen()?;
    let mut client = args.server.connect()?;
    client
        .await_topic(&args.topic, false, Duration::ZERO)
        .map_err(|error| match error.code() {
            Some(crate::client::code::UNKNOWN_TOPIC_OR_PARTITION) => ToolError::failed(format!(
                "no topic '{}'\n   | `ringlog topics` lists them",
                args.topic
            )),
            _ => error.into(),
        })?;
    let mut partitions = all_partitions(&mut client, std::slice::from_ref(&args.topic))?;
    partitions.retain(|p| args.partition.is_none_or(|wanted| wanted == p.partition));
    if partitions.is_empty() {
        return Err(ToolError::failed(format!(
            "topic '{}' has no such partition",
            args.topic
        )));
    }
    let start = start(&mut client, args, is_tail, &partitions)?;
    let options = FetchOptions {
        read_committed: args.committed,
        ..FetchOptions::default()
    };
    let mut consumer = Consumer::new(options, EARLIEST);
    consumer.assign(start);
    let follows = args.follow || is_tail;
    let mut out = stdout();
    let mut count = 0;
    while !interrupt.is_set() && args.max.is_none_or(|max| count < max) {
        if let Some(record) = consumer.next_ready() {
            write_record(args.format, &record, &mut out)?;
            count += 1;
            continue;
        }
        out.flush()?;
        if !follows && consumer.is_at_end() {
            break;
        }
        match consumer.poll(&mut client) {
            Ok(()) => {}
            Err(ClientError::Connection { .. }) if follows => {
                std::thread::sleep(Duration::from_millis(200));
            }
            Err(error) => return Err(error.into()),
        }
    }
    out.flush()?;
    Ok(())
}

fn start(
    client: &mut Client,
    args: &ConsumeArgs,
    is_tail: bool,
    partitions: &[TopicPartition],
) -> ToolResult<BTreeMap<TopicPartition, i64>> {
    if let Some(since) = &args.since {
        let time = match parse_duration_ms(since) {
            Ok(back) => now_ms().saturating_sub(back),
            Err(_) => parse_time(since)?,
        };
        let mut found = positions(client, partitions, time)?;
        let ends = positions(client, partitions, LATEST)?;
        for (partition, offset) in &mut found {
            if *offset < 0 {
                *offset = ends.get(partition).copied().unwrap_or(0);
            }
        }
        return Ok(found);
    }
    let begins_at_end = is_tail && !args.from_beginning;
    match args.offset.as_deref() {
        None if begins_at_end => positions(client, partitions, LATEST),
        None | Some("earliest") => positions(client, partitions, EARLIEST),
        Some("latest") => positions(client, partitions, LATEST),
        Some(text) => {
            let offset: i64 = text.parse().map_err(|_| {
                ToolError::failed(format!(
                    "offset '{text}': a number, earliest, latest, or -N"
                ))
            })?;
            if offset >= 0 {
                return Ok(partitions.iter().map(|p| (p.clone(), offset)).collect());
            }
            let starts = positions(client, partitions, EARLIEST)?;
            let mut ends = positions(client, partitions, LATEST)?;
            for (partition, end) in &mut ends {
                let first = starts.get(partition).copied().unwrap_or(0);
                *end = end.saturating_add(offset).max(first);
            }
            Ok(ends)
        }
    }
}

fn write_record(format: Format, record: &InRecord, out: &mut dyn Write) -> ToolResult {
    match format {
        Format::Value => {
            out.write_all(record.value.as_deref().unwrap_or_default())?;
            out.write_all(b"\n")?;
        }
        Format::Json => writeln!(out, "{}", json_of(record))?,
        Format::Pretty => {
            let time = jiff::Timestamp::from_millisecond(record.timestamp);
            let time = time.map_or("-".to_owned(), |time| format!("{time:.3}"));
            let key = record.key.as_deref().map(String::from_utf8_lossy);
            let key = key.map_or(String::new(), |key| format!("  {key}"));
            let headers = record.headers.iter().map(|(name, value)| {
                let value = value
                    .as_deref()
                    .map(String::from_utf8_lossy)
                    .unwrap_or_default();
                format!("  {name}={value}")
            });
            let value = record.value.as_deref().map(String::from_utf8_lossy);
            writeln!(
                out,
                "{}:{}  {time}{key}{}  {}",
                record.partition.partition,
                record.offset,
                headers.collect::<String>(),
                value.unwrap_or("(null)".into())
            )?;
        }
    }
    Ok(())
}

/// Bytes that are no UTF-8 come as a list of numbers, so that nothing is lost.
fn bytes_json(bytes: Option<&[u8]>) -> Value {
    match bytes.map(std::str::from_utf8) {
        None => Value::Null,
        Some(Ok(text)) => json!(text),
        Some(Err(_)) => json!(bytes),
    }
}

fn json_of(record: &InRecord) -> Value {
    let headers = record.headers.iter();
    let headers: Map<_, _> = headers
        .map(|(name, value)| (name.clone(), bytes_json(value.as_deref())))
        .collect();
    json!({
        "topic": record.partition.topic,
        "partition": record.partition.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": bytes_json(record.key.as_deref()),
        "value": bytes_json(record.value.as_deref()),
        "headers": headers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_printed_in_every_format() {
        let record = InRecord {
            partition: TopicPartition::new("t", 1),
            offset: 2,
            timestamp: 0,
            timestamp_type: None,
            leader_epoch: 0,
            key: Some(b"k".to_vec()),
            value: Some(vec![0xff]),
            headers: vec![("h".to_owned(), None)],
        };
        let print = |format| {
            let mut out = Vec::new();
            write_record(format, &record, &mut out).unwrap();
            out
        };
        assert_eq!(print(Format::Value), b"\xff\n");
        let pretty = String::from_utf8(print(Format::Pretty)).unwrap();
        assert_eq!(pretty, "1:2  1970-01-01T00:00:00.000Z  k  h=  \u{fffd}\n");
        let json = String::from_utf8(print(Format::Json)).unwrap();
        assert!(
            json.contains(r#""value":[255]"#) && json.contains(r#""key":"k""#),
            "{json}"
        );
    }
}
