//! `kafka-console-consumer`: records to standard output (Kafka: `ConsoleConsumer`).
//!
//! Without `--group` the partitions are read directly: the stock tool joins a throw-away group for
//! the same effect, and waits for its rebalance. With `--group` it is a member that commits every
//! five seconds and at the end, as `enable.auto.commit` does.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use super::message_formatter::Formatter;
use super::options::{Options, Spec, flag, one};
use super::{Tool, bootstrap, load_properties, tell_plainly};
use crate::cli::Exit;
use crate::cli::kafka::topics::topic_filter;
use crate::cli::tool::{Interrupt, ToolError, ToolResult};
use crate::client::consumer::{Consumer, FetchOptions, reset_of};
use crate::client::group::Member;
use crate::client::{Client, ClientError, EARLIEST, LATEST, TopicPartition};

/// `kafka-console-consumer`.
pub const TOOL: Tool = Tool {
    name: "kafka-console-consumer",
    about: "This tool helps to read data from Kafka topics and outputs it to standard output.",
    options: OPTIONS,
    run,
    tell: tell_plainly,
};

const OPTIONS: &[Spec] = &[
    one(
        "blacklist",
        "regex",
        "Topics to leave out (0.10's consumer)",
    ),
    one("bootstrap-server", "host:port", "The broker to talk to"),
    one("command-config", "file", "Properties of the consumer"),
    one(
        "command-property",
        "key=value",
        "A property of the consumer",
    ),
    one(
        "consumer-property",
        "key=value",
        "A property of the consumer: group.id, auto.offset.reset, ...",
    ),
    one("consumer.config", "file", "Properties of the consumer"),
    flag("csv-reporter-enabled", "Accepted: there are no CSV metrics"),
    flag(
        "delete-consumer-offsets",
        "Accepted: it is about offsets in ZooKeeper",
    ),
    flag(
        "enable-systest-events",
        "Print shutdown_complete at the end",
    ),
    one(
        "formatter",
        "class",
        "Only the default and NoOpMessageFormatter",
    ),
    one("formatter-config", "file", "Properties of the formatter"),
    one("formatter-property", "key=value", "As --property"),
    flag(
        "from-beginning",
        "From the first record there is, if the group has no offset",
    ),
    one("group", "id", "The consumer group"),
    one("include", "regex", "Topics to read"),
    one(
        "isolation-level",
        "level",
        "read_committed or read_uncommitted",
    ),
    one(
        "key-deserializer",
        "class",
        "LongDeserializer, IntegerDeserializer, ... or bytes",
    ),
    one("max-messages", "n", "End after so many"),
    one("metrics-dir", "dir", "Accepted: there are no CSV metrics"),
    flag("new-consumer", "Accepted: there is only one consumer"),
    one(
        "offset",
        "offset",
        "With --partition: earliest, latest or a number",
    ),
    one("partition", "n", "Read this partition only"),
    one(
        "property",
        "key=value",
        "print.key, print.timestamp, print.offset, print.partition, print.headers, key.separator, ...",
    ),
    flag(
        "skip-message-on-error",
        "Go on behind a record that cannot be formatted",
    ),
    one("timeout-ms", "ms", "End if no record comes for so long"),
    one("topic", "name", "The topic"),
    one("value-deserializer", "class", "As --key-deserializer"),
    one("whitelist", "regex", "Older name of --include"),
    one(
        "zookeeper",
        "host:port",
        "The old consumer's; brokers are looked up there",
    ),
];

const COMMIT_INTERVAL: Duration = Duration::from_secs(5);
const NEW_PARTITIONS_INTERVAL: Duration = Duration::from_secs(30);

/// How to consume.
#[derive(Debug)]
struct Plan {
    topics: Vec<String>,
    group: Option<String>,
    partition: Option<(i32, i64)>,
    reset: i64,
    max_messages: Option<u64>,
    timeout: Option<Duration>,
    auto_commit: bool,
}

fn run(options: &Options, out: &mut dyn Write) -> ToolResult<Exit> {
    let properties = consumer_properties(options)?;
    let formatter = Formatter::from_options(options)?;
    let servers = match options.last("zookeeper") {
        Some(zookeeper) if !options.has("bootstrap-server") => {
            crate::cli::zookeeper_brokers::find(zookeeper)?
        }
        _ => bootstrap(options)?,
    };
    let mut client = Client::connect(&servers, "console-consumer")?;
    let plan = plan(&mut client, options, &properties)?;
    let interrupt = Interrupt::listen()?;
    let isolation = properties.get("isolation.level").map(String::as_str);
    let fetch = FetchOptions {
        read_committed: options.last("isolation-level").or(isolation) == Some("read_committed"),
        ..FetchOptions::default()
    };
    let mut session = Session {
        consumer: Consumer::new(fetch, plan.reset),
        member: None,
        plan,
        formatter,
        count: 0,
    };
    let result = session.run(&mut client, &interrupt, out);
    let flushed = out.flush();
    eprintln!("Processed a total of {} messages", session.count);
    session.close(&mut client);
    if options.has("enable-systest-events") {
        writeln!(out, "shutdown_complete")?;
    }
    match result {
        // The stock tool logs its TimeoutException and ends with 0.
        Ok(()) => {}
        Err(ToolError::Io(_)) => eprintln!("Unable to write to standard out, closing consumer."),
        Err(error) => return Err(error),
    }
    flushed?;
    Ok(Exit::Ok)
}

fn consumer_properties(options: &Options) -> ToolResult<BTreeMap<String, String>> {
    let mut properties = BTreeMap::new();
    for name in ["consumer.config", "command-config"] {
        if let Some(path) = options.last(name) {
            properties.extend(load_properties(path)?);
        }
    }
    for name in ["consumer-property", "command-property"] {
        properties.extend(options.pairs(name));
    }
    Ok(properties)
}

fn plan(
    client: &mut Client,
    options: &Options,
    properties: &BTreeMap<String, String>,
) -> ToolResult<Plan> {
    let topics = match (
        options.last("topic"),
        options.last("include").or(options.last("whitelist")),
    ) {
        (Some(topic), None) => {
            client.await_topic(topic, true, Duration::from_secs(60))?;
            vec![topic.to_owned()]
        }
        (None, Some(pattern)) => {
            let filter = topic_filter(pattern)?;
            let found = client.topics()?.into_iter().map(|topic| topic.name);
            found.filter(|name| filter.is_match(name)).collect()
        }
        _ => {
            return Err(ToolError::Usage(
                "Exactly one of --include/--topic is required. ".to_owned(),
            ));
        }
    };
    let group = options.last("group").map(str::to_owned);
    let group = group.or_else(|| properties.get("group.id").cloned());
    let partition: Option<i32> = options.number("partition")?;
    let from_beginning = options.has("from-beginning");
    let offset = match options.last("offset").map(str::to_lowercase).as_deref() {
        None if from_beginning => EARLIEST,
        None | Some("latest") => LATEST,
        Some("earliest") => EARLIEST,
        Some(number) => number.parse().ok().filter(|n| *n >= 0).ok_or_else(|| {
            ToolError::Usage(format!(
                "The provided offset value '{number}' is incorrect. Valid values are 'earliest', 'latest', or a non-negative long."
            ))
        })?,
    };
    if options.has("offset") && partition.is_none() {
        return Err(ToolError::Usage(
            "The partition is required when offset is specified.".to_owned(),
        ));
    }
    let reset = match properties.get("auto.offset.reset").map(String::as_str) {
        Some("earliest" | "smallest") => EARLIEST,
        Some(_) => LATEST,
        None => reset_of(from_beginning),
    };
    let max_messages: Option<i64> = options.number("max-messages")?;
    let timeout: Option<i64> = options.number("timeout-ms")?;
    let auto_commit = properties.get("enable.auto.commit");
    Ok(Plan {
        topics,
        group,
        partition: partition.map(|partition| (partition, offset)),
        reset,
        max_messages: max_messages.and_then(|count| u64::try_from(count).ok()),
        timeout: timeout
            .and_then(|ms| u64::try_from(ms).ok())
            .map(Duration::from_millis),
        auto_commit: auto_commit.is_none_or(|value| value == "true"),
    })
}

#[derive(Debug)]
struct Session {
    consumer: Consumer,
    member: Option<Member>,
    plan: Plan,
    formatter: Formatter,
    count: u64,
}

impl Session {
    fn run(
        &mut self,
        client: &mut Client,
        interrupt: &Interrupt,
        out: &mut dyn Write,
    ) -> ToolResult {
        self.assign(client)?;
        let mut last_record = Instant::now();
        let mut last_commit = Instant::now();
        let mut last_look = Instant::now();
        loop {
            while let Some(record) = self.consumer.next_ready() {
                self.formatter.write(&record, out)?;
                self.count += 1;
                last_record = Instant::now();
                if self.plan.max_messages.is_some_and(|max| self.count >= max) {
                    return Ok(());
                }
                if interrupt.is_set() {
                    return Ok(());
                }
            }
            // The reader of a pipe wants the records now, not with the next buffer.
            out.flush()?;
            if interrupt.is_set() || self.plan.max_messages == Some(0) {
                return Ok(());
            }
            if self
                .plan
                .timeout
                .is_some_and(|timeout| last_record.elapsed() > timeout)
            {
                eprintln!(
                    "ERROR Error processing message, terminating consumer process: org.apache.kafka.common.errors.TimeoutException"
                );
                return Ok(());
            }
            if last_commit.elapsed() >= COMMIT_INTERVAL {
                last_commit = Instant::now();
                self.commit(client)?;
            }
            let has_to_join = match &mut self.member {
                Some(member) => member.tick(client)?,
                None => false,
            };
            if has_to_join {
                self.commit(client)?;
                self.assign(client)?;
            } else if self.member.is_none() && last_look.elapsed() >= NEW_PARTITIONS_INTERVAL {
                last_look = Instant::now();
                self.add_new_partitions(client)?;
            }
            match self.consumer.poll(client) {
                Ok(()) => {}
                // A broker that restarts: ask again, as the Java client does.
                Err(ClientError::Connection { .. }) => {
                    std::thread::sleep(Duration::from_millis(200));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Finds out where to read: the group's assignment, the one partition, or all of them.
    fn assign(&mut self, client: &mut Client) -> ToolResult {
        let plan = &self.plan;
        let positions = match (&plan.group, plan.partition) {
            (_, Some((partition, offset))) => {
                let topic = plan.topics.first().cloned().unwrap_or_default();
                let partition = TopicPartition::new(&topic, partition);
                if offset >= 0 {
                    BTreeMap::from([(partition, offset)])
                } else {
                    positions(client, &[partition], offset)?
                }
            }
            (Some(group), None) => {
                let group = group.clone();
                let member = self
                    .member
                    .get_or_insert_with(|| Member::new(&group, &plan.topics));
                let assigned = member.join(client)?;
                let mut committed = client.committed_offsets(&group)?;
                committed.retain(|partition, _| assigned.contains(partition));
                let fresh: Vec<_> = assigned
                    .into_iter()
                    .filter(|partition| !committed.contains_key(partition))
                    .collect();
                committed.extend(positions(client, &fresh, plan.reset)?);
                committed
            }
            (None, None) => {
                let partitions = all_partitions(client, &plan.topics)?;
                positions(client, &partitions, plan.reset)?
            }
        };
        self.consumer.assign(positions);
        Ok(())
    }

    fn add_new_partitions(&mut self, client: &mut Client) -> ToolResult {
        if self.plan.partition.is_some() {
            return Ok(());
        }
        let mut known = self.consumer.positions().clone();
        let fresh = all_partitions(client, &self.plan.topics)?.into_iter();
        let fresh: Vec<_> = fresh
            .filter(|partition| !known.contains_key(partition))
            .collect();
        if !fresh.is_empty() {
            known.extend(positions(client, &fresh, EARLIEST)?);
            self.consumer.assign(known);
        }
        Ok(())
    }

    fn commit(&mut self, client: &mut Client) -> ToolResult {
        let positions = self.consumer.positions().clone();
        if let Some(member) = &mut self.member
            && self.plan.auto_commit
            && !positions.is_empty()
        {
            member.commit(client, &positions)?;
        }
        Ok(())
    }

    fn close(&mut self, client: &mut Client) {
        if let Err(error) = self.commit(client) {
            eprintln!("WARN the last offsets could not be committed: {error}");
        }
        if let Some(member) = &mut self.member {
            // The session's end says the same, later.
            let _ = member.leave(client);
        }
    }
}

/// All partitions of the topics.
///
/// # Errors
/// If no broker answers.
pub fn all_partitions(client: &mut Client, topics: &[String]) -> ToolResult<Vec<TopicPartition>> {
    let mut partitions = Vec::new();
    for topic in client.metadata(Some(topics))?.topics {
        let name = topic.name.map(|name| name.to_string()).unwrap_or_default();
        let found = topic.partitions.iter();
        partitions.extend(found.map(|p| TopicPartition::new(&name, p.partition_index)));
    }
    partitions.sort();
    Ok(partitions)
}

/// Offsets of a special or real timestamp, which have to be there.
///
/// # Errors
/// If one is not to be had.
pub fn positions(
    client: &mut Client,
    partitions: &[TopicPartition],
    timestamp: i64,
) -> ToolResult<BTreeMap<TopicPartition, i64>> {
    let mut found = BTreeMap::new();
    for (partition, offset) in client.list_offsets(partitions, timestamp)? {
        found.insert(partition, offset?);
    }
    Ok(found)
}
