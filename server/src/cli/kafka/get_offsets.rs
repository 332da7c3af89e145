//! `kafka-get-offsets`: `topic:partition:offset` lines (Kafka: `GetOffsetShell`).

use std::io::{self, Write};

use regex::Regex;

use super::options::{Options, Spec, flag, one};
use super::topics::topic_filter;
use super::{Tool, bootstrap};
use crate::cli::Exit;
use crate::cli::tool::{ToolError, ToolResult};
use crate::client::{Client, TopicPartition};

/// `kafka-get-offsets`.
pub const TOOL: Tool = Tool {
    name: "kafka-get-offsets",
    about: "An interactive shell for getting topic-partition offsets.",
    options: OPTIONS,
    run,
    tell,
};

const OPTIONS: &[Spec] = &[
    one("bootstrap-server", "host:port", "The broker to talk to"),
    one(
        "broker-list",
        "host:port",
        "Older name of --bootstrap-server",
    ),
    one("command-config", "file", "Properties for the connection"),
    flag("exclude-internal-topics", "Leave out Kafka's own topics"),
    one("max-wait-ms", "ms", "Accepted (0.10)"),
    one("offsets", "n", "Accepted (0.10): one offset is told"),
    one("partitions", "ids", "Only these partitions"),
    one(
        "time",
        "time",
        "latest (-1), earliest (-2), max-timestamp (-3), or milliseconds",
    ),
    one("topic", "regex", "Topics; all if not given"),
    one(
        "topic-partitions",
        "patterns",
        "topic1:1,topic2:0-3,topic3,topic4:5-,topic5:-3",
    ),
];

fn tell(
    _options: &Options,
    error: &ToolError,
    _out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<()> {
    writeln!(err, "Error occurred: {error}")
}

fn run(options: &Options, out: &mut dyn Write) -> ToolResult<Exit> {
    let has_filter = options.has("topic") || options.has("partitions");
    let servers = bootstrap(options)?;
    if options.has("topic-partitions") && has_filter {
        return Err(ToolError::failed(
            "--topic-partitions cannot be used with --topic or --partitions",
        ));
    }
    let time = parse_time(options.last("time").unwrap_or("latest"))?;
    let rules = match options.last("topic-partitions") {
        Some(list) => list
            .split(',')
            .map(Rule::parse)
            .collect::<ToolResult<Vec<_>>>()?,
        None => rules_of(options.last("topic"), options.last("partitions"))?,
    };
    let mut client = Client::connect(&servers, "GetOffsetShell")?;
    let mut partitions = Vec::new();
    for topic in client.topics()? {
        if topic.is_internal && options.has("exclude-internal-topics") {
            continue;
        }
        for partition in topic.partitions {
            if rules
                .iter()
                .any(|rule| rule.matches(&topic.name, partition.partition))
            {
                partitions.push(TopicPartition::new(&topic.name, partition.partition));
            }
        }
    }
    if partitions.is_empty() {
        return Err(ToolError::failed(
            "Could not match any topic-partitions with the specified filters",
        ));
    }
    let mut lines = Vec::new();
    for (partition, offset) in client.list_offsets(&partitions, time)? {
        match offset {
            Ok(offset) if offset >= 0 => lines.push((partition.to_string(), partition, offset)),
            Ok(_) => {}
            Err(error) => eprintln!(
                "Skip getting offsets for topic-partition {partition} due to error: {error}"
            ),
        }
    }
    // The stock tool sorts by the text `topic-partition`.
    lines.sort();
    for (_, partition, offset) in lines {
        writeln!(out, "{}:{}:{offset}", partition.topic, partition.partition)?;
    }
    Ok(Exit::Ok)
}

fn parse_time(text: &str) -> ToolResult<i64> {
    match text {
        "latest" => Ok(-1),
        "earliest" => Ok(-2),
        "max-timestamp" => Ok(-3),
        "earliest-local" => Ok(-4),
        "latest-tiered" => Ok(-5),
        number => number.parse().map_err(|_| {
            ToolError::failed(format!(
                "Malformed time argument {number}. Please use -1 or latest / -2 or earliest / -3 or max-timestamp / -4 or earliest-local / -5 or latest-tiered, or a specified long format timestamp"
            ))
        }),
    }
}

/// A topic pattern and a range of partitions, the end not included.
#[derive(Debug)]
struct Rule {
    topic: Regex,
    first: i32,
    end: i32,
}

impl Rule {
    /// `topic`, `topic:1`, `topic:0-3`, `topic:5-`, `topic:-3`, `:1`.
    fn parse(text: &str) -> ToolResult<Self> {
        let invalid = || ToolError::failed(format!("Invalid rule specification: {text}"));
        let (topic, range) = text.split_once(':').unwrap_or((text, ""));
        let number = |text: &str, default: i32| match text {
            "" => Ok(default),
            text => text.parse().map_err(|_| invalid()),
        };
        let (first, end) = match range.split_once('-') {
            Some((first, end)) => (number(first, 0)?, number(end, i32::MAX)?),
            None if range.is_empty() => (0, i32::MAX),
            None => {
                let one = number(range, 0)?;
                (one, one.saturating_add(1))
            }
        };
        let topic = topic_filter(if topic.is_empty() { ".*" } else { topic })?;
        Ok(Self { topic, first, end })
    }

    fn matches(&self, topic: &str, partition: i32) -> bool {
        (self.first..self.end).contains(&partition) && self.topic.is_match(topic)
    }
}

fn rules_of(topic: Option<&str>, partitions: Option<&str>) -> ToolResult<Vec<Rule>> {
    let whole = Rule {
        topic: topic_filter(topic.unwrap_or(".*"))?,
        first: 0,
        end: i32::MAX,
    };
    let Some(list) = partitions.filter(|list| !list.is_empty()) else {
        return Ok(vec![whole]);
    };
    let mut rules = Vec::new();
    for id in list.split(',') {
        let first: i32 = id.trim().parse().map_err(|_| {
            ToolError::failed(format!("--partitions expects a comma separated list of numeric partition ids, but received: {list}"))
        })?;
        rules.push(Rule {
            topic: whole.topic.clone(),
            first,
            end: first.saturating_add(1),
        });
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_follow_kafkas_pattern() {
        let cases = [
            ("a", 0, true),
            ("a:1", 1, true),
            ("a:1", 2, false),
            ("a:0-3", 3, false),
            ("a:5-", 7, true),
            ("a:-3", 2, true),
            (":1", 1, true),
        ];
        for (rule, partition, expected) in cases {
            assert_eq!(
                Rule::parse(rule).unwrap().matches("a", partition),
                expected,
                "{rule}"
            );
        }
        assert!(Rule::parse("a:x").is_err());
    }

    #[test]
    fn times_have_names_and_numbers() {
        assert_eq!(parse_time("earliest").unwrap(), -2);
        assert_eq!(parse_time("1700000000000").unwrap(), 1_700_000_000_000);
        assert!(parse_time("soon").is_err());
    }
}
