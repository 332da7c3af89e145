//! `ringlog topics`.

use std::io::Write;

use clap::{Args, Subcommand};

use super::ServerArgs;
use crate::cli::tool::{ToolError, ToolResult, print_table, stdout};
use crate::client::admin::{NewTopic, TOPIC_RESOURCE, id_text};
use crate::client::{Client, EARLIEST, LATEST, TopicPartition, code};

/// `ringlog topics`.
#[derive(Debug, Args)]
pub(crate) struct TopicsArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Names, partitions and replicas of all topics (the default)
    List {
        /// Kafka's own topics, too
        #[arg(short, long)]
        all: bool,
    },
    /// Create a topic
    Create {
        /// Its name
        topic: String,
        /// Number of partitions [default: the broker's num.partitions]
        #[arg(short, long, value_parser = clap::value_parser!(i32).range(1..))]
        partitions: Option<i32>,
        /// Number of replicas [default: the broker's default.replication.factor]
        #[arg(short, long, value_parser = clap::value_parser!(i16).range(1..))]
        replication_factor: Option<i16>,
        /// A config, as in retention.ms=86400000; may be repeated
        #[arg(short, long, value_name = "KEY=VALUE")]
        config: Vec<String>,
        /// No error if it is there already
        #[arg(long)]
        if_not_exists: bool,
    },
    /// Partitions, offsets and configs of a topic
    Describe {
        /// Its name
        topic: String,
    },
    /// Raise the number of partitions
    Grow {
        /// Its name
        topic: String,
        /// The new number
        partitions: i32,
    },
    /// Delete topics
    Delete {
        /// Their names
        #[arg(required = true)]
        topics: Vec<String>,
    },
}

/// Runs it.
pub(crate) fn run(args: &TopicsArgs) -> ToolResult {
    let mut client = args.server.connect()?;
    let mut out = stdout();
    match args.action.as_ref().unwrap_or(&Action::List { all: false }) {
        Action::List { all } => list(&mut client, *all, &mut out)?,
        Action::Create {
            topic,
            partitions,
            replication_factor,
            config,
            if_not_exists,
        } => {
            let mut configs = Vec::new();
            for pair in config {
                let Some((key, value)) = pair.split_once('=') else {
                    return Err(ToolError::failed(format!(
                        "'{pair}' is no config\n   | give it as KEY=VALUE"
                    )));
                };
                configs.push((key.to_owned(), value.to_owned()));
            }
            let new = NewTopic {
                name: topic.clone(),
                partitions: *partitions,
                replication_factor: *replication_factor,
                assignment: Vec::new(),
                configs,
            };
            match client.create_topic(&new) {
                Ok(()) => writeln!(out, "Created topic {topic}.")?,
                Err(error)
                    if *if_not_exists && error.code() == Some(code::TOPIC_ALREADY_EXISTS) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Action::Describe { topic } => describe(&mut client, topic, &mut out)?,
        Action::Grow { topic, partitions } => {
            client.create_partitions(topic, *partitions, &[])?;
            writeln!(out, "Topic {topic} has {partitions} partitions.")?;
        }
        Action::Delete { topics } => {
            client.delete_topics(topics)?;
            for topic in topics {
                writeln!(out, "Deleted topic {topic}.")?;
            }
        }
    }
    out.flush()?;
    Ok(())
}

fn list(client: &mut Client, all: bool, out: &mut dyn Write) -> ToolResult {
    let mut topics = client.topics()?;
    topics.retain(|topic| all || !topic.is_internal);
    if topics.is_empty() {
        writeln!(out, "no topics yet: `ringlog topics create NAME` makes one")?;
        return Ok(());
    }
    let rows: Vec<_> = topics
        .iter()
        .map(|topic| {
            let replicas = topic.partitions.first().map_or(0, |p| p.replicas.len());
            vec![
                topic.name.clone(),
                topic.partitions.len().to_string(),
                replicas.to_string(),
            ]
        })
        .collect();
    print_table(out, &["TOPIC", "PARTITIONS", "REPLICAS"], &rows)?;
    Ok(())
}

fn describe(client: &mut Client, name: &str, out: &mut dyn Write) -> ToolResult {
    let topics = client.topics()?;
    let Some(topic) = topics.iter().find(|topic| topic.name == name) else {
        let nearest = topics
            .iter()
            .min_by_key(|topic| strsim::damerau_levenshtein(&topic.name, name))
            .filter(|topic| strsim::damerau_levenshtein(&topic.name, name) <= 3);
        let hint = nearest.map_or("`ringlog topics` lists them".to_owned(), |topic| {
            format!("did you mean '{}'?", topic.name)
        });
        return Err(ToolError::failed(format!("no topic '{name}'\n   | {hint}")));
    };
    writeln!(out, "{}  id {}", topic.name, id_text(topic.id))?;
    let partitions: Vec<_> = topic
        .partitions
        .iter()
        .map(|p| TopicPartition::new(name, p.partition))
        .collect();
    let starts = client.list_offsets(&partitions, EARLIEST)?;
    let ends = client.list_offsets(&partitions, LATEST)?;
    let mut rows = Vec::new();
    for (partition, key) in topic.partitions.iter().zip(&partitions) {
        let start = starts
            .get(key)
            .and_then(|found| found.as_ref().ok())
            .copied();
        let end = ends.get(key).and_then(|found| found.as_ref().ok()).copied();
        let text = |value: Option<i64>| value.map_or("-".to_owned(), |value| value.to_string());
        let count = start.zip(end).map(|(start, end)| end - start);
        rows.push(vec![
            partition.partition.to_string(),
            partition.leader.to_string(),
            format!("{:?}", partition.replicas),
            format!("{:?}", partition.isr),
            text(start),
            text(end),
            text(count),
        ]);
    }
    let header = [
        "PARTITION",
        "LEADER",
        "REPLICAS",
        "ISR",
        "FIRST",
        "NEXT",
        "RECORDS",
    ];
    print_table(out, &header, &rows)?;
    for config in client.describe_configs(TOPIC_RESOURCE, name)? {
        if !config.is_default {
            writeln!(
                out,
                "{}={}",
                config.name,
                config.value.as_deref().unwrap_or("null")
            )?;
        }
    }
    Ok(())
}
