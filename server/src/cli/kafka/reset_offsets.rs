//! `kafka-consumer-groups --reset-offsets`: where the offsets shall go, shown, exported, committed.

use std::collections::BTreeMap;
use std::io::Write;

use jiff::civil::DateTime;
use jiff::{SignedDuration, Timestamp};

use super::consumer_groups::{groups, parse_topic_partitions};
use super::options::Options;
use crate::cli::tool::{ToolError, ToolResult, now_ms};
use crate::client::error_text::error_text;
use crate::client::{Client, EARLIEST, LATEST, TopicPartition};

type Offsets = BTreeMap<TopicPartition, i64>;

/// Runs the reset for every group asked for.
///
/// # Errors
/// If the arguments contradict each other, or a broker refuses.
pub fn run(client: &mut Client, options: &Options, out: &mut dyn Write) -> ToolResult {
    let mut all = Vec::new();
    let names = groups(client, options)?;
    for group in &names {
        let state = client.describe_group(group)?.group_state.to_string();
        if !matches!(state.as_str(), "Empty" | "Dead") {
            writeln!(
                out,
                "\nError: Assignments can only be reset if the group '{group}' is inactive, but the current state is {state}."
            )?;
            all.push((group.clone(), Offsets::new()));
            continue;
        }
        let partitions = scope(client, group, options)?;
        let offsets = prepare(client, group, &partitions, options, out)?;
        if options.has("execute") && !options.has("dry-run") {
            let results = client.commit_offsets(group, (-1, ""), &offsets)?;
            if let Some(error) = results.values().find(|error| **error != 0) {
                return Err(ToolError::failed(error_text(*error)));
            }
        }
        all.push((group.clone(), offsets));
    }
    if options.has("export") {
        let has_group_column = names.len() != 1;
        for (group, offsets) in &all {
            for (partition, offset) in offsets {
                let group = if has_group_column {
                    format!("{group},")
                } else {
                    String::new()
                };
                writeln!(
                    out,
                    "{group}{},{},{offset}",
                    partition.topic, partition.partition
                )?;
            }
        }
        writeln!(out)?;
        return Ok(());
    }
    write_line(out, ["GROUP", "TOPIC", "PARTITION", "NEW-OFFSET"])?;
    for (group, offsets) in &all {
        for (partition, offset) in offsets {
            let (number, offset) = (partition.partition.to_string(), offset.to_string());
            write_line(out, [group, &partition.topic, &number, &offset])?;
        }
    }
    writeln!(out)?;
    Ok(())
}

fn write_line(out: &mut dyn Write, [group, topic, partition, offset]: [&str; 4]) -> ToolResult {
    write!(
        out,
        "\n{group:<30} {topic:<30} {partition:<10} {offset:<15}"
    )?;
    Ok(())
}

fn scope(client: &mut Client, group: &str, options: &Options) -> ToolResult<Vec<TopicPartition>> {
    if options.has("all-topics") {
        return Ok(client.committed_offsets(group)?.into_keys().collect());
    }
    if options.has("topic") {
        return parse_topic_partitions(client, options.all("topic"));
    }
    if options.has("from-file") {
        return Ok(Vec::new());
    }
    Err(ToolError::Usage(
        "One of the reset scopes should be defined: --all-topics, --topic.".to_owned(),
    ))
}

fn prepare(
    client: &mut Client,
    group: &str,
    partitions: &[TopicPartition],
    options: &Options,
    out: &mut dyn Write,
) -> ToolResult<Offsets> {
    if let Some(offset) = options.number::<i64>("to-offset")? {
        let wanted = partitions
            .iter()
            .map(|partition| (partition.clone(), offset));
        return in_range(client, wanted.collect());
    }
    if options.has("to-earliest") {
        return offsets_of(client, partitions, EARLIEST);
    }
    if options.has("to-latest") {
        return offsets_of(client, partitions, LATEST);
    }
    if let Some(shift) = options.number::<i64>("shift-by")? {
        let committed = client.committed_offsets(group)?;
        let mut wanted = Offsets::new();
        for partition in partitions {
            let Some(offset) = committed.get(partition) else {
                return Err(ToolError::Usage(format!(
                    "Cannot shift offset for partition {partition} since there is no current committed offset"
                )));
            };
            wanted.insert(partition.clone(), offset.saturating_add(shift));
        }
        return in_range(client, wanted);
    }
    if let Some(text) = options.last("to-datetime") {
        let timestamp = parse_time(text)?;
        return offsets_at(client, partitions, timestamp, out);
    }
    if let Some(text) = options.last("by-duration") {
        let timestamp = now_ms().saturating_sub(parse_duration_ms(text)?);
        return offsets_at(client, partitions, timestamp, out);
    }
    if let Some(path) = options.last("from-file") {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ToolError::failed(format!("{path}: {error}")))?;
        return in_range(client, parse_plan(&text, group, path)?);
    }
    if options.has("to-current") {
        let committed = client.committed_offsets(group)?;
        let mut wanted = offsets_of(client, partitions, LATEST)?;
        for (partition, offset) in &mut wanted {
            *offset = committed.get(partition).copied().unwrap_or(*offset);
        }
        return Ok(wanted);
    }
    Err(ToolError::Usage(
        "Option '[reset-offsets]' requires one of the following scenarios: [to-offset], \
         [to-earliest], [to-latest], [shift-by], [to-datetime], [by-duration], [from-file], [to-current]"
            .to_owned(),
    ))
}

fn offsets_of(
    client: &mut Client,
    partitions: &[TopicPartition],
    timestamp: i64,
) -> ToolResult<Offsets> {
    super::console_consumer::positions(client, partitions, timestamp)
}

/// Offsets of a time; behind the last record where there is none that late.
fn offsets_at(
    client: &mut Client,
    partitions: &[TopicPartition],
    timestamp: i64,
    out: &mut dyn Write,
) -> ToolResult<Offsets> {
    let mut found = offsets_of(client, partitions, timestamp)?;
    let ends = offsets_of(client, partitions, LATEST)?;
    for (partition, offset) in &mut found {
        if *offset < 0 {
            writeln!(
                out,
                "\nWarn: Partition {} from topic {} is empty. Falling back to latest known offset.",
                partition.partition, partition.topic
            )?;
            *offset = ends.get(partition).copied().unwrap_or(0);
        }
    }
    Ok(found)
}

fn in_range(client: &mut Client, mut wanted: Offsets) -> ToolResult<Offsets> {
    let partitions: Vec<_> = wanted.keys().cloned().collect();
    let starts = offsets_of(client, &partitions, EARLIEST)?;
    let ends = offsets_of(client, &partitions, LATEST)?;
    for (partition, offset) in &mut wanted {
        let start = starts.get(partition).copied().unwrap_or(0);
        let end = ends.get(partition).copied().unwrap_or(i64::MAX);
        let within = (*offset).clamp(start, end.max(start));
        if within != *offset {
            let (how, which) = if *offset > within {
                ("higher", "latest")
            } else {
                ("lower", "earliest")
            };
            eprintln!(
                "WARN New offset ({offset}) is {how} than {which} offset for topic partition {partition}. Value will be set to {within}"
            );
            *offset = within;
        }
    }
    Ok(wanted)
}

/// `topic,partition,offset`, or with the group in front.
fn parse_plan(text: &str, group: &str, path: &str) -> ToolResult<Offsets> {
    let mut plan = Offsets::new();
    for (line, number) in text.lines().zip(1..) {
        let cells: Vec<_> = line
            .split(',')
            .map(|cell| cell.trim().trim_matches('"'))
            .collect();
        let (of_group, rest) = match cells.as_slice() {
            [""] => continue,
            [topic, partition, offset] => (group, [*topic, *partition, *offset]),
            [of_group, topic, partition, offset] => (*of_group, [*topic, *partition, *offset]),
            _ => {
                return Err(ToolError::failed(format!(
                    "{path}:{number}: not topic,partition,offset"
                )));
            }
        };
        let [topic, partition, offset] = rest;
        match (partition.parse(), offset.parse()) {
            (Ok(partition), Ok(offset)) => {
                if of_group == group {
                    plan.insert(TopicPartition::new(topic, partition), offset);
                }
            }
            _ => {
                return Err(ToolError::failed(format!(
                    "{path}:{number}: not topic,partition,offset"
                )));
            }
        }
    }
    if plan.is_empty() {
        return Err(ToolError::failed(format!(
            "No reset plan for group {group} found"
        )));
    }
    Ok(plan)
}

/// `2026-11-22T14:24:05.123`, with or without a zone; UTC without (Kafka: `Utils.getDateTime`).
///
/// # Errors
/// If it is no time.
pub fn parse_time(text: &str) -> ToolResult<i64> {
    let text = text.trim();
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Ok(timestamp.as_millisecond());
    }
    let time: DateTime = text.parse().map_err(|_| {
        ToolError::failed(format!(
            "'{text}' is no time: give one as 2026-11-22T14:24:05.000"
        ))
    })?;
    let zoned = time.to_zoned(jiff::tz::TimeZone::UTC);
    let zoned = zoned.map_err(|error| ToolError::failed(format!("'{text}': {error}")))?;
    Ok(zoned.timestamp().as_millisecond())
}

/// `P1DT2H` and friends, or jiff's `1h 30m`.
///
/// # Errors
/// If it is no duration.
pub fn parse_duration_ms(text: &str) -> ToolResult<i64> {
    let bad = || ToolError::failed(format!("'{text}' is no duration: give one as PT1H30M"));
    if let Ok(duration) = text.parse::<SignedDuration>() {
        return i64::try_from(duration.as_millis()).map_err(|_| bad());
    }
    let span: jiff::Span = text.parse().map_err(|_| bad())?;
    let days = jiff::SpanRelativeTo::days_are_24_hours();
    let total = span
        .total((jiff::Unit::Millisecond, days))
        .map_err(|_| bad())?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "as casts saturate, and a span is bounded"
    )]
    let milliseconds = total as i64;
    Ok(milliseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_durations_are_those_of_kafka() {
        assert_eq!(parse_time("1970-01-01T00:00:01.500").unwrap(), 1500);
        assert_eq!(parse_time("1970-01-01T01:00:01+01:00").unwrap(), 1000);
        assert_eq!(parse_duration_ms("P1DT1H").unwrap(), 25 * 3_600_000);
        assert_eq!(parse_duration_ms("PT5M").unwrap(), 300_000);
        assert!(parse_time("yesterday").is_err() && parse_duration_ms("x").is_err());
    }

    #[test]
    fn plans_are_read_with_and_without_groups() {
        let plan = parse_plan("t,0,5\n\n", "g", "f").unwrap();
        assert_eq!(plan[&TopicPartition::new("t", 0)], 5);
        let plan = parse_plan("g,t,0,5\nh,t,1,6\n", "h", "f").unwrap();
        assert_eq!(plan.len(), 1);
        assert!(
            parse_plan("t,x,5", "g", "f")
                .unwrap_err()
                .to_string()
                .starts_with("f:1")
        );
    }
}
