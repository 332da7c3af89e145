//! `kafka-topics --zookeeper`: topics as znodes, the way the tools up to Kafka 2.8 write them
//! (Kafka 2.8: `TopicCommand.scala`, `AdminZkClient.scala`; layout: `ZkData.scala`).
//!
//! One kindness beyond Kafka: `--create` waits, bounded, until the controller has made the
//! partitions, so that the next command can use the topic.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error};

use super::Exit;
use super::kafka::options::Options;
use super::kafka::topics::{TopicArgs, ids, topic_filter, warn_of_collisions};
use super::tool::{ToolError, ToolResult};
use crate::client::admin::is_internal;

const SESSION: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(10);
const PARTITION_PATIENCE: Duration = Duration::from_secs(10);
const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());

/// Runs one connection's worth of work.
///
/// # Errors
/// If no ZooKeeper answers, or the work's own.
pub fn with_zookeeper<T>(
    cluster: &str,
    work: impl AsyncFnOnce(&Client) -> ToolResult<T>,
) -> ToolResult<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let connector = Client::connector()
            .with_session_timeout(SESSION)
            .with_connection_timeout(Duration::from_secs(3));
        let connecting = connector.connect(cluster);
        let reason = match tokio::time::timeout(CONNECT, connecting).await {
            Ok(Ok(client)) => {
                return work(&client).await;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        Err(ToolError::failed(format!(
            "nothing answers at {cluster} ({reason})\n   | start ZooKeeper with \
             `bin/zookeeper-server-start.sh config/zookeeper.properties`"
        )))
    })
}

/// An error of ZooKeeper's, with the path it is about.
fn at(path: &str) -> impl FnOnce(Error) -> ToolError + '_ {
    move |error| ToolError::failed(format!("{path}: {error}"))
}

/// Runs the action over ZooKeeper.
///
/// # Errors
/// What Kafka's tool fails with, too.
pub fn run(
    cluster: &str,
    action: &str,
    args: &TopicArgs,
    options: &Options,
    out: &mut dyn Write,
) -> ToolResult<Exit> {
    with_zookeeper(cluster, async |client| match action {
        "create" => create(client, args, out).await,
        "list" => list(client, args, out).await,
        "alter" => alter(client, args, out).await,
        "describe" => describe(client, args, options, out).await,
        _ => delete(client, args, out).await,
    })?;
    Ok(Exit::Ok)
}

async fn children(client: &Client, path: &str) -> ToolResult<Vec<String>> {
    match client.list_children(path).await {
        Ok(mut names) => {
            names.sort();
            Ok(names)
        }
        Err(Error::NoNode) => Ok(Vec::new()),
        Err(error) => Err(at(path)(error)),
    }
}

async fn read_json(client: &Client, path: &str) -> ToolResult<Option<Value>> {
    match client.get_data(path).await {
        Ok((data, _)) => {
            let value = serde_json::from_slice(&data);
            value
                .map(Some)
                .map_err(|error| ToolError::failed(format!("{path}: {error}")))
        }
        Err(Error::NoNode) => Ok(None),
        Err(error) => Err(at(path)(error)),
    }
}

async fn matching(client: &Client, args: &TopicArgs) -> ToolResult<Vec<String>> {
    let mut topics = children(client, "/brokers/topics").await?;
    topics.retain(|topic| !(args.exclude_internal && is_internal(topic)));
    if let Some(pattern) = &args.topic {
        let filter = topic_filter(pattern)?;
        topics.retain(|topic| filter.is_match(topic));
        if topics.is_empty() && !args.is_lenient && !pattern.is_empty() {
            return Err(ToolError::failed(format!(
                "Topic '{pattern}' does not exist as expected"
            )));
        }
    }
    Ok(topics)
}

async fn create(client: &Client, args: &TopicArgs, out: &mut dyn Write) -> ToolResult {
    let topic = args.topic.clone().unwrap_or_default();
    check_name(&topic)?;
    warn_of_collisions(&topic, out)?;
    let brokers = broker_ids(client).await?;
    let path = format!("/brokers/topics/{topic}");
    if client.check_stat(&path).await.map_err(at(&path))?.is_some() {
        if args.is_lenient {
            return Ok(());
        }
        return Err(ToolError::failed(format!(
            "Topic '{topic}' already exists."
        )));
    }
    let partitions = if args.assignment.is_empty() {
        // The stock tool refuses to go without --partitions; a broker's default is 1.
        let count = args.partitions.unwrap_or(1);
        let factor = args.replication_factor.unwrap_or(1);
        assign_replicas(&brokers, count, factor, 0)?
    } else {
        args.assignment.clone()
    };
    write_config(client, &topic, &args.configs).await?;
    let data = topic_json(&partitions).to_string();
    let created = client.create(&path, data.as_bytes(), &PERSISTENT).await;
    match created {
        Ok(_) => {}
        Err(Error::NodeExists) => {
            return Err(ToolError::failed(format!(
                "Topic '{topic}' already exists."
            )));
        }
        Err(error) => return Err(at(&path)(error)),
    }
    await_partitions(client, &topic, partitions.len()).await?;
    writeln!(out, "Created topic {topic}.")?;
    Ok(())
}

/// Kafka's rule for names (Kafka: `Topic.java`).
fn check_name(topic: &str) -> ToolResult {
    let is_legal = topic
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    let what = match topic {
        "" => "it can't be empty".to_owned(),
        "." | ".." => "it can't be \".\" or \"..\"".to_owned(),
        _ if topic.len() > 249 => {
            format!("the length of '{topic}' is longer than the max allowed length 249")
        }
        _ if !is_legal => format!(
            "'{topic}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
        ),
        _ => return Ok(()),
    };
    Err(ToolError::failed(format!("Topic name is invalid: {what}")))
}

async fn broker_ids(client: &Client) -> ToolResult<Vec<i32>> {
    let names = children(client, "/brokers/ids").await?;
    let mut ids: Vec<i32> = names.iter().filter_map(|name| name.parse().ok()).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Spreads replicas over the brokers as Kafka does without racks (Kafka: `AdminUtils`): the first
/// replicas round robin from a random broker, the others shifted.
fn assign_replicas(
    brokers: &[i32],
    count: i32,
    factor: i16,
    first_partition: usize,
) -> ToolResult<Vec<Vec<i32>>> {
    let factor = usize::try_from(factor).unwrap_or(0);
    if factor == 0 || factor > brokers.len() {
        return Err(ToolError::failed(format!(
            "Replication factor: {factor} larger than available brokers: {}.",
            brokers.len()
        )));
    }
    let size = brokers.len();
    let start = fastrand::usize(..size);
    let mut shift = fastrand::usize(..size);
    let mut partitions = Vec::new();
    for index in 0..usize::try_from(count).unwrap_or(0) {
        let partition = first_partition + index;
        if partition > 0 && partition.is_multiple_of(size) {
            shift += 1;
        }
        let first = (partition + start) % size;
        let mut replicas: Vec<i32> = brokers.get(first).copied().into_iter().collect();
        for replica in 0..factor - 1 {
            let step = 1 + (shift + replica) % (size - 1).max(1);
            replicas.extend(brokers.get((first + step) % size));
        }
        partitions.push(replicas);
    }
    Ok(partitions)
}

/// Version 2, as the tools of 2.4 to 2.8 write it; the controller adds a topic id.
fn topic_json(partitions: &[Vec<i32>]) -> Value {
    let pairs = partitions.iter().enumerate();
    let pairs = pairs.map(|(index, replicas)| (index.to_string(), json!(replicas)));
    json!({
        "version": 2,
        "partitions": pairs.collect::<Map<_, _>>(),
        "adding_replicas": {},
        "removing_replicas": {},
    })
}

async fn write_config(client: &Client, topic: &str, configs: &[(String, String)]) -> ToolResult {
    let path = format!("/config/topics/{topic}");
    let pairs = configs
        .iter()
        .map(|(key, value)| (key.clone(), json!(value)));
    let config: Map<String, Value> = pairs.collect();
    let data = json!({"version": 1, "config": config}).to_string();
    match client.set_data(&path, data.as_bytes(), None).await {
        Ok(_) => Ok(()),
        Err(Error::NoNode) => {
            client
                .mkdir("/config/topics", &PERSISTENT)
                .await
                .map_err(at(&path))?;
            let created = client.create(&path, data.as_bytes(), &PERSISTENT).await;
            created.map(|_| ()).map_err(at(&path))
        }
        Err(error) => Err(at(&path)(error)),
    }
}

async fn await_partitions(client: &Client, topic: &str, count: usize) -> ToolResult {
    let deadline = Instant::now() + PARTITION_PATIENCE;
    for partition in 0..count {
        let path = format!("/brokers/topics/{topic}/partitions/{partition}/state");
        while client.check_stat(&path).await.map_err(at(&path))?.is_none() {
            if Instant::now() >= deadline {
                eprintln!(
                    "warning: topic '{topic}' is registered, but no controller has made its \
                     partitions after {} s: is a broker running?",
                    PARTITION_PATIENCE.as_secs()
                );
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(())
}

async fn list(client: &Client, args: &TopicArgs, out: &mut dyn Write) -> ToolResult {
    let args = TopicArgs {
        is_lenient: true,
        ..args.clone()
    };
    let deleted = children(client, "/admin/delete_topics").await?;
    for topic in matching(client, &args).await? {
        if deleted.contains(&topic) {
            writeln!(out, "{topic} - marked for deletion")?;
        } else {
            writeln!(out, "{topic}")?;
        }
    }
    Ok(())
}

async fn delete(client: &Client, args: &TopicArgs, out: &mut dyn Write) -> ToolResult {
    for topic in matching(client, args).await? {
        if is_internal(&topic) {
            return Err(ToolError::failed(format!(
                "Topic {topic} is a kafka internal topic and is not allowed to be marked for deletion."
            )));
        }
        let path = format!("/admin/delete_topics/{topic}");
        match client.create(&path, b"", &PERSISTENT).await {
            Ok(_) => {
                writeln!(out, "Topic {topic} is marked for deletion.")?;
                writeln!(
                    out,
                    "Note: This will have no impact if delete.topic.enable is not set to true."
                )?;
            }
            Err(Error::NodeExists) => {
                writeln!(out, "Topic {topic} is already marked for deletion.")?;
            }
            Err(error) => return Err(at(&path)(error)),
        }
    }
    Ok(())
}

async fn alter(client: &Client, args: &TopicArgs, out: &mut dyn Write) -> ToolResult {
    for topic in matching(client, args).await? {
        if !args.configs.is_empty() || !args.deleted_configs.is_empty() {
            writeln!(
                out,
                "WARNING: Altering topic configuration from this script has been deprecated and may be removed in future releases."
            )?;
            writeln!(
                out,
                "         Going forward, please use kafka-configs.sh for this functionality"
            )?;
            let mut configs = configs_of(client, &topic).await?;
            configs.extend(args.configs.iter().cloned());
            configs.retain(|key, _| !args.deleted_configs.contains(key));
            let configs: Vec<_> = configs.into_iter().collect();
            write_config(client, &topic, &configs).await?;
            let change =
                json!({"version": 2, "entity_path": format!("topics/{topic}")}).to_string();
            let path = "/config/changes/config_change_";
            let sequential = CreateMode::PersistentSequential.with_acls(Acls::anyone_all());
            let created = client.create(path, change.as_bytes(), &sequential).await;
            created.map_err(at(path))?;
            writeln!(out, "Updated config for topic {topic}.")?;
        }
        if let Some(count) = args.partitions {
            writeln!(
                out,
                "WARNING: If partitions are increased for a topic that has a key, the partition logic or ordering of the messages will be affected"
            )?;
            add_partitions(client, &topic, count, args).await?;
            writeln!(out, "Adding partitions succeeded!")?;
        }
    }
    Ok(())
}

async fn add_partitions(client: &Client, topic: &str, count: i32, args: &TopicArgs) -> ToolResult {
    let path = format!("/brokers/topics/{topic}");
    let (data, stat) = client.get_data(&path).await.map_err(at(&path))?;
    let mut value: Value = serde_json::from_slice(&data)
        .map_err(|error| ToolError::failed(format!("{path}: {error}")))?;
    let Some(partitions) = value.get_mut("partitions").and_then(Value::as_object_mut) else {
        return Err(ToolError::failed(format!("{path}: has no partitions")));
    };
    let existing = partitions.len();
    let more = count.saturating_sub(i32::try_from(existing).unwrap_or(i32::MAX));
    if more <= 0 {
        return Err(ToolError::failed(format!(
            "The number of partitions for a topic can only be increased. Topic {topic} currently has {existing} partitions, {count} would not be an increase."
        )));
    }
    let factor = partitions
        .get("0")
        .and_then(Value::as_array)
        .map_or(1, Vec::len);
    let new = if args.assignment.is_empty() {
        let brokers = broker_ids(client).await?;
        assign_replicas(&brokers, more, i16::try_from(factor).unwrap_or(1), existing)?
    } else {
        args.assignment.get(existing..).unwrap_or_default().to_vec()
    };
    for (index, replicas) in new.iter().enumerate() {
        partitions.insert((existing + index).to_string(), json!(replicas));
    }
    let total = partitions.len();
    let data = value.to_string();
    let written = client
        .set_data(&path, data.as_bytes(), Some(stat.version))
        .await;
    written.map_err(at(&path))?;
    await_partitions(client, topic, total).await
}

async fn configs_of(client: &Client, topic: &str) -> ToolResult<BTreeMap<String, String>> {
    let value = read_json(client, &format!("/config/topics/{topic}")).await?;
    let config = value
        .as_ref()
        .and_then(|value| value.get("config")?.as_object());
    let pairs = config.into_iter().flatten();
    Ok(pairs
        .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect())
}

async fn describe(
    client: &Client,
    args: &TopicArgs,
    options: &Options,
    out: &mut dyn Write,
) -> ToolResult {
    let live = broker_ids(client).await?;
    let deleted = children(client, "/admin/delete_topics").await?;
    for topic in matching(client, args).await? {
        let value = read_json(client, &format!("/brokers/topics/{topic}")).await?;
        let Some(value) = value else { continue };
        let mut partitions: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for (index, replicas) in value["partitions"].as_object().into_iter().flatten() {
            partitions.insert(index.parse().unwrap_or(0), numbers(replicas));
        }
        let configs = configs_of(client, &topic).await?;
        let configs: Vec<_> = configs.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let mark = if deleted.contains(&topic) {
            "\tMarkedForDeletion: true"
        } else {
            ""
        };
        let reports = ["under-replicated-partitions", "unavailable-partitions"];
        let shows_topics = !reports.iter().any(|name| options.has(name));
        let only_overrides = options.has("topics-with-overrides");
        if shows_topics && (!only_overrides || !configs.is_empty()) {
            let id = value["topic_id"].as_str();
            let id = id.map_or(String::new(), |id| format!("\tTopicId: {id}"));
            let replicas = partitions.values().next().map_or(0, Vec::len);
            writeln!(
                out,
                "Topic: {topic}{id}\tPartitionCount: {}\tReplicationFactor: {replicas}\tConfigs: {}{mark}",
                partitions.len(),
                configs.join(",")
            )?;
        }
        for (partition, replicas) in partitions {
            let path = format!("/brokers/topics/{topic}/partitions/{partition}/state");
            let state = read_json(client, &path).await?;
            let leader = state
                .as_ref()
                .and_then(|s| s["leader"].as_i64())
                .unwrap_or(-1);
            let isr = state.as_ref().map_or(Vec::new(), |s| numbers(&s["isr"]));
            let is_live = live.iter().any(|id| i64::from(*id) == leader);
            let is_reported = (options.has("under-replicated-partitions")
                && isr.len() < replicas.len())
                || (options.has("unavailable-partitions") && !is_live);
            if (shows_topics && !only_overrides) || is_reported {
                let leader = if leader < 0 {
                    "none".to_owned()
                } else {
                    leader.to_string()
                };
                writeln!(
                    out,
                    "\tTopic: {topic}\tPartition: {partition}\tLeader: {leader}\tReplicas: {}\tIsr: {}{mark}",
                    ids(&replicas),
                    ids(&isr)
                )?;
            }
        }
    }
    Ok(())
}

fn numbers(value: &Value) -> Vec<i32> {
    let list = value.as_array().into_iter().flatten();
    list.filter_map(|id| i32::try_from(id.as_i64()?).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_znode_is_the_one_kafka_2_8_writes() {
        assert_eq!(
            topic_json(&[vec![0], vec![1]]).to_string(),
            r#"{"version":2,"partitions":{"0":[0],"1":[1]},"adding_replicas":{},"removing_replicas":{}}"#
        );
    }

    #[test]
    fn replicas_of_a_partition_are_different_brokers() {
        let brokers = [1, 2, 3];
        for partition in assign_replicas(&brokers, 20, 3, 0).unwrap() {
            let mut sorted = partition.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, brokers);
        }
        let error = assign_replicas(&brokers, 1, 4, 0).unwrap_err().to_string();
        assert_eq!(
            error,
            "Replication factor: 4 larger than available brokers: 3."
        );
    }

    #[test]
    fn names_are_checked_as_kafka_does() {
        assert!(check_name("a.b_c-1").is_ok());
        for bad in ["", ".", "..", "a b", "a/b"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(check_name(&"x".repeat(250)).is_err());
    }
}
