//! `kafka-topics`: over a broker, and with `--zookeeper` over ZooKeeper (Kafka: `TopicCommand`).

use std::io::{self, Write};

use regex::Regex;

use super::options::{Options, Spec, flag, one};
use super::{Tool, bootstrap};
use crate::cli::Exit;
use crate::cli::tool::{ToolError, ToolResult};
use crate::cli::zookeeper_topics;
use crate::client::admin::{
    NewTopic, PartitionDescription, Reassignment, TOPIC_RESOURCE, TopicDescription, id_text,
};
use crate::client::{Client, ClientError, TopicPartition, code};

/// `kafka-topics`.
pub const TOOL: Tool = Tool {
    name: "kafka-topics",
    about: "Create, delete, describe, or change a topic.",
    options: OPTIONS,
    run,
    tell,
};

const OPTIONS: &[Spec] = &[
    flag("alter", "Raise the number of partitions of a topic"),
    flag(
        "at-min-isr-partitions",
        "With --describe: partitions with exactly min.insync.replicas in sync",
    ),
    one("bootstrap-server", "host:port", "The broker to talk to"),
    one("command-config", "file", "Properties for the connection"),
    one(
        "config",
        "name=value",
        "A topic config for --create; may be repeated",
    ),
    flag("create", "Create a topic"),
    flag("delete", "Delete a topic"),
    one(
        "delete-config",
        "name",
        "Remove a topic config (with --zookeeper and --alter)",
    ),
    flag("describe", "Show topics and their partitions"),
    flag(
        "disable-rack-aware",
        "Accepted: placement does not look at racks",
    ),
    flag("exclude-internal", "Leave out Kafka's own topics"),
    flag("force", "Accepted: nothing is asked"),
    flag("if-exists", "No error if the topic is not there"),
    flag("if-not-exists", "No error if the topic is there already"),
    flag("list", "Names of all topics"),
    one(
        "partition-size-limit-per-response",
        "n",
        "Accepted: answers are read whole",
    ),
    one("partitions", "n", "Number of partitions"),
    one(
        "replica-assignment",
        "ids",
        "Brokers per partition: 1:2,2:3",
    ),
    one("replication-factor", "n", "Number of replicas"),
    one(
        "topic",
        "name",
        "The topic; a regular expression except for --create",
    ),
    one("topic-id", "id", "With --describe: the topic of this id"),
    flag(
        "topics-with-overrides",
        "With --describe: only topics with configs of their own",
    ),
    flag(
        "unavailable-partitions",
        "With --describe: partitions without a leader",
    ),
    flag(
        "under-min-isr-partitions",
        "With --describe: partitions with fewer than min.insync.replicas in sync",
    ),
    flag(
        "under-replicated-partitions",
        "With --describe: partitions with replicas out of sync",
    ),
    one(
        "zookeeper",
        "host:port",
        "ZooKeeper, as up to Kafka 2.8, instead of a broker",
    ),
];

fn tell(
    _options: &Options,
    error: &ToolError,
    out: &mut dyn Write,
    _err: &mut dyn Write,
) -> io::Result<()> {
    writeln!(out, "Error while executing topic command : {error}")
}

/// The command line, checked.
#[derive(Clone, Debug)]
pub struct TopicArgs {
    /// The name or expression.
    pub topic: Option<String>,
    /// `--partitions`.
    pub partitions: Option<i32>,
    /// `--replication-factor`.
    pub replication_factor: Option<i16>,
    /// `--replica-assignment`.
    pub assignment: Vec<Vec<i32>>,
    /// `--config`.
    pub configs: Vec<(String, String)>,
    /// `--delete-config`.
    pub deleted_configs: Vec<String>,
    /// `--if-exists`, `--if-not-exists`.
    pub is_lenient: bool,
    /// `--exclude-internal`.
    pub exclude_internal: bool,
}

fn run(options: &Options, out: &mut dyn Write) -> ToolResult<Exit> {
    const ACTIONS: [&str; 5] = ["create", "list", "alter", "describe", "delete"];
    let given: Vec<_> = ACTIONS.iter().filter(|name| options.has(name)).collect();
    let [action] = given.as_slice() else {
        return Err(ToolError::Usage(
            "Command must include exactly one action: --list, --describe, --create, --alter or --delete"
                .to_owned(),
        ));
    };
    let args = check_args(options, action)?;
    if let Some(zookeeper) = options.last("zookeeper") {
        return zookeeper_topics::run(zookeeper, action, &args, options, out);
    }
    if options.last("bootstrap-server").is_none() && options.last("command-config").is_none() {
        return Err(ToolError::Usage(
            "--bootstrap-server must be specified".to_owned(),
        ));
    }
    let mut client = Client::connect(&bootstrap(options)?, "kafka-topics")?;
    match **action {
        "create" => create(&mut client, &args, out)?,
        "list" => list(&mut client, &args, out)?,
        "alter" => alter(&mut client, &args)?,
        "describe" => describe(&mut client, &args, options, out)?,
        _ => delete(&mut client, &args)?,
    }
    Ok(Exit::Ok)
}

fn check_args(options: &Options, action: &str) -> ToolResult<TopicArgs> {
    let topic = options.last("topic").map(str::to_owned);
    if topic.is_none() && matches!(action, "create" | "alter" | "delete") {
        return Err(ToolError::Usage(
            "Missing required argument \"[topic]\"".to_owned(),
        ));
    }
    for name in [
        "config",
        "partitions",
        "replication-factor",
        "replica-assignment",
    ] {
        if options.has(name) && matches!(action, "list" | "describe" | "delete") {
            return Err(ToolError::Usage(format!(
                "Option \"[{name}]\" can't be used with option \"[{action}]\""
            )));
        }
    }
    if options.has("replica-assignment")
        && action == "create"
        && (options.has("partitions") || options.has("replication-factor"))
    {
        return Err(ToolError::Usage(
            "Option \"[replica-assignment]\" can't be used with option \"[partitions]\"".to_owned(),
        ));
    }
    let partitions: Option<i32> = options.number("partitions")?;
    if partitions.is_some_and(|count| count < 1) {
        return Err(ToolError::failed("The partitions must be greater than 0"));
    }
    let replication_factor: Option<i32> = options.number("replication-factor")?;
    let replication_factor = match replication_factor.map(i16::try_from) {
        None => None,
        Some(Ok(factor)) if factor >= 1 => Some(factor),
        Some(_) => {
            return Err(ToolError::failed(
                "The replication factor must be between 1 and 32767 inclusive",
            ));
        }
    };
    let mut configs = Vec::new();
    for pair in options.all("config") {
        match pair.split_once('=') {
            Some((key, value)) if !value.trim().is_empty() => {
                configs.push((key.trim().to_owned(), value.trim().to_owned()));
            }
            _ => {
                return Err(ToolError::failed(
                    "requirement failed: Invalid topic config: all configs to be added must be in \
                     the format \"key=val\".",
                ));
            }
        }
    }
    Ok(TopicArgs {
        topic,
        partitions,
        replication_factor,
        assignment: parse_assignment(options.last("replica-assignment").unwrap_or_default())?,
        configs,
        deleted_configs: options.all("delete-config").to_vec(),
        is_lenient: options.has("if-exists") || options.has("if-not-exists"),
        exclude_internal: options.has("exclude-internal"),
    })
}

/// `1:2,2:3`: brokers per partition.
fn parse_assignment(list: &str) -> ToolResult<Vec<Vec<i32>>> {
    let mut partitions: Vec<Vec<i32>> = Vec::new();
    for part in list.split(',').filter(|part| !part.trim().is_empty()) {
        let mut brokers = Vec::new();
        for id in part.split(':') {
            let id = id.trim().parse();
            let id = id.map_err(|_| ToolError::failed(format!("For input string: \"{part}\"")))?;
            if brokers.contains(&id) {
                return Err(ToolError::failed(format!(
                    "Partition replica lists may not contain duplicate entries: {id}"
                )));
            }
            brokers.push(id);
        }
        if partitions
            .first()
            .is_some_and(|first| first.len() != brokers.len())
        {
            return Err(ToolError::failed(format!(
                "Partition {} has different replication factor: {brokers:?}",
                partitions.len()
            )));
        }
        partitions.push(brokers);
    }
    Ok(partitions)
}

/// Kafka's `--topic` filter: commas are alternatives, and the whole name has to match
/// (Kafka: `TopicFilter.java`).
///
/// # Errors
/// If it is no regular expression.
pub fn topic_filter(pattern: &str) -> ToolResult<Regex> {
    let pattern = pattern.trim().replace(',', "|").replace(' ', "");
    let pattern = pattern.trim_matches(['"', '\'']);
    Regex::new(&format!("^(?:{pattern})$"))
        .map_err(|_| ToolError::failed(format!("{pattern} is an invalid regex.")))
}

/// Topics that `--topic` and `--exclude-internal` leave.
fn matching(client: &mut Client, args: &TopicArgs) -> ToolResult<Vec<TopicDescription>> {
    let mut topics = client.topics()?;
    topics.retain(|topic| !(args.exclude_internal && topic.is_internal));
    if let Some(pattern) = &args.topic {
        let filter = topic_filter(pattern)?;
        topics.retain(|topic| filter.is_match(&topic.name));
    }
    Ok(topics)
}

fn must_exist(args: &TopicArgs, topics: &[TopicDescription]) -> ToolResult {
    match &args.topic {
        Some(topic) if !topic.is_empty() && topics.is_empty() && !args.is_lenient => {
            // The Java of 3.x prints its Optional, too.
            Err(ToolError::failed(format!(
                "Topic 'Optional[{topic}]' does not exist as expected"
            )))
        }
        _ => Ok(()),
    }
}

/// Kafka's warning for names that metrics cannot tell apart.
///
/// # Errors
/// If standard output is closed.
pub fn warn_of_collisions(topic: &str, out: &mut dyn Write) -> io::Result<()> {
    if topic.contains(['.', '_']) {
        writeln!(
            out,
            "WARNING: Due to limitations in metric names, topics with a period ('.') or underscore \
             ('_') could collide. To avoid issues it is best to use either, but not both."
        )?;
    }
    Ok(())
}

fn create(client: &mut Client, args: &TopicArgs, out: &mut dyn Write) -> ToolResult {
    let name = args.topic.clone().unwrap_or_default();
    warn_of_collisions(&name, out)?;
    let topic = NewTopic {
        name: name.clone(),
        partitions: args.partitions,
        replication_factor: args.replication_factor,
        assignment: args.assignment.clone(),
        configs: args.configs.clone(),
    };
    match client.create_topic(&topic) {
        Ok(()) => writeln!(out, "Created topic {name}.")?,
        Err(error) if args.is_lenient && error.code() == Some(code::TOPIC_ALREADY_EXISTS) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn list(client: &mut Client, args: &TopicArgs, out: &mut dyn Write) -> ToolResult {
    let topics = matching(client, args)?;
    let names: Vec<_> = topics.iter().map(|topic| topic.name.as_str()).collect();
    writeln!(out, "{}", names.join("\n"))?;
    Ok(())
}

fn alter(client: &mut Client, args: &TopicArgs) -> ToolResult {
    let topics = matching(client, args)?;
    must_exist(args, &topics)?;
    let Some(count) = args.partitions else {
        return Err(ToolError::Usage(
            "Missing required argument \"[partitions]\"".to_owned(),
        ));
    };
    for topic in topics {
        let assignment = args
            .assignment
            .get(topic.partitions.len()..)
            .unwrap_or_default();
        client.create_partitions(&topic.name, count, assignment)?;
    }
    Ok(())
}

fn delete(client: &mut Client, args: &TopicArgs) -> ToolResult {
    let topics = matching(client, args)?;
    must_exist(args, &topics)?;
    let names: Vec<_> = topics.into_iter().map(|topic| topic.name).collect();
    if !names.is_empty() {
        client.delete_topics(&names)?;
    }
    Ok(())
}

fn describe(
    client: &mut Client,
    args: &TopicArgs,
    options: &Options,
    out: &mut dyn Write,
) -> ToolResult {
    let mut topics = if let Some(id) = options.last("topic-id") {
        let mut topics = client.topics()?;
        topics.retain(|topic| id_text(topic.id) == id);
        if topics.is_empty() && !args.is_lenient {
            return Err(ToolError::failed(format!(
                "TopicId '{id}' does not exist as expected"
            )));
        }
        topics
    } else {
        let topics = matching(client, args)?;
        must_exist(args, &topics)?;
        topics
    };
    client.add_elr(&mut topics)?;
    let reassignments = client.reassignments()?;
    let live: Vec<_> = client.nodes()?.into_iter().map(|node| node.id).collect();
    let shows_topics = ![
        "unavailable-partitions",
        "under-replicated-partitions",
        "under-min-isr-partitions",
        "at-min-isr-partitions",
    ]
    .iter()
    .any(|name| options.has(name));
    for topic in topics {
        // Brokers before 0.11 have no such call: they are described without configs.
        let configs = match client.describe_configs(TOPIC_RESOURCE, &topic.name) {
            Err(ClientError::Unsupported { .. }) => Vec::new(),
            other => other?,
        };
        let min_isr = configs
            .iter()
            .find(|c| c.name.as_str() == "min.insync.replicas");
        let min_isr = min_isr
            .and_then(|c| c.value.as_ref()?.parse().ok())
            .unwrap_or(1);
        let own = configs.iter().filter(|c| !c.is_default);
        let own: Vec<_> = own
            .map(|c| format!("{}={}", c.name, c.value.as_deref().unwrap_or("null")))
            .collect();
        if shows_topics && (!options.has("topics-with-overrides") || !own.is_empty()) {
            writeln!(out, "{}", topic_line(&topic, &own.join(",")))?;
        }
        if options.has("topics-with-overrides") {
            continue;
        }
        for partition in &topic.partitions {
            let is_shown = shows_topics || is_reported(options, partition, min_isr, &live);
            if is_shown {
                let key = TopicPartition::new(&topic.name, partition.partition);
                let line = partition_line(&topic.name, partition, reassignments.get(&key));
                writeln!(out, "{line}")?;
            }
        }
    }
    Ok(())
}

fn is_reported(
    options: &Options,
    partition: &PartitionDescription,
    min_isr: usize,
    live: &[i32],
) -> bool {
    let has_leader = partition.leader >= 0;
    let in_sync = partition.isr.len();
    (options.has("under-replicated-partitions") && partition.replicas.len() > in_sync)
        || (options.has("unavailable-partitions")
            && (!has_leader || !live.contains(&partition.leader)))
        || (options.has("under-min-isr-partitions") && (!has_leader || in_sync < min_isr))
        || (options.has("at-min-isr-partitions") && in_sync == min_isr)
}

fn topic_line(topic: &TopicDescription, configs: &str) -> String {
    let id = if topic.id.is_nil() {
        String::new()
    } else {
        format!("\tTopicId: {}", id_text(topic.id))
    };
    let replicas = topic.partitions.first().map_or(0, |p| p.replicas.len());
    format!(
        "Topic: {}{id}\tPartitionCount: {}\tReplicationFactor: {replicas}\tConfigs: {configs}",
        topic.name,
        topic.partitions.len()
    )
}

fn partition_line(
    topic: &str,
    partition: &PartitionDescription,
    reassignment: Option<&Reassignment>,
) -> String {
    let leader = match partition.leader {
        id if id < 0 => "none".to_owned(),
        id => id.to_string(),
    };
    let changing = reassignment.map_or(String::new(), |change| {
        format!(
            "\tAdding Replicas: {}\tRemoving Replicas: {}",
            ids(&change.adding),
            ids(&change.removing)
        )
    });
    let known = |list: &Option<Vec<i32>>| list.as_deref().map_or("N/A".to_owned(), ids);
    format!(
        "\tTopic: {topic}\tPartition: {}\tLeader: {leader}\tReplicas: {}\tIsr: {}{changing}\
         \tElr: {}\tLastKnownElr: {}",
        partition.partition,
        ids(&partition.replicas),
        ids(&partition.isr),
        known(&partition.eligible_leader_replicas),
        known(&partition.last_known_elr),
    )
}

/// `1,2,3`
#[must_use]
pub fn ids(list: &[i32]) -> String {
    let list: Vec<_> = list.iter().map(ToString::to_string).collect();
    list.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of Apache Kafka 3.9.1, KRaft and ZooKeeper mode.
    #[test]
    fn describe_lines_are_kafkas() {
        let mut partition = PartitionDescription {
            replicas: vec![1, 2],
            isr: vec![1],
            leader: 1,
            ..PartitionDescription::default()
        };
        assert_eq!(
            partition_line("t", &partition, None),
            "\tTopic: t\tPartition: 0\tLeader: 1\tReplicas: 1,2\tIsr: 1\tElr: N/A\tLastKnownElr: N/A"
        );
        partition.eligible_leader_replicas = Some(Vec::new());
        partition.last_known_elr = Some(Vec::new());
        partition.leader = -1;
        assert_eq!(
            partition_line("t", &partition, None),
            "\tTopic: t\tPartition: 0\tLeader: none\tReplicas: 1,2\tIsr: 1\tElr: \tLastKnownElr: "
        );
        let topic = TopicDescription {
            name: "t".to_owned(),
            partitions: vec![partition],
            ..TopicDescription::default()
        };
        assert_eq!(
            topic_line(&topic, "a=b"),
            "Topic: t\tPartitionCount: 1\tReplicationFactor: 2\tConfigs: a=b"
        );
    }

    #[test]
    fn topic_expressions_match_whole_names() {
        let filter = topic_filter("a.*, b").unwrap();
        assert!(filter.is_match("ab") && filter.is_match("b") && !filter.is_match("cb"));
        assert!(topic_filter("(").is_err());
    }

    #[test]
    fn assignments_are_checked() {
        assert_eq!(parse_assignment("1:2,2:1").unwrap(), [[1, 2], [2, 1]]);
        for bad in ["1:1", "1:2,3", "x"] {
            assert!(parse_assignment(bad).is_err(), "{bad}");
        }
    }
}
