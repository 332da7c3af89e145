//! Kafka's znodes: their paths and their JSON (Kafka 3.9, `core/src/main/scala/kafka/zk/ZkData.scala`;
//! `/work` of tools back to 0.10 is read, too). Pure: text in, values out, and back.
//!
//! Members this release does not know are passed over when read, as Kafka does.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use ringlog_engine::log::directory::{decode_uuid, encode_uuid};

use crate::config::topic::Overrides;

/// Topics, one node each.
pub const TOPICS: &str = "/brokers/topics";
/// Where tools write what the controller is to do.
pub const ADMIN: &str = "/admin";
/// Partitions that are to move to other brokers.
pub const REASSIGNMENTS: &str = "/admin/reassign_partitions";
/// Partitions that their preferred replica is to lead.
pub const ELECTIONS: &str = "/admin/preferred_replica_election";
/// Topics that are to be deleted.
pub const DELETIONS: &str = "/admin/delete_topics";
/// Notifications about changed settings, numbered.
pub const CONFIG_CHANGES: &str = "/config/changes";
/// Settings of topics.
pub const TOPIC_CONFIGS: &str = "/config/topics";
/// Settings of brokers.
pub const BROKER_CONFIGS: &str = "/config/brokers";
/// Brokers that are alive, ephemeral.
pub const BROKER_IDS: &str = "/brokers/ids";
/// The elected controller, ephemeral.
pub const CONTROLLER: &str = "/controller";
/// How many controllers there have been.
pub const CONTROLLER_EPOCH: &str = "/controller_epoch";
/// The cluster's id.
pub const CLUSTER_ID: &str = "/cluster/id";
/// The last block of producer ids that was given to a broker.
pub const PRODUCER_IDS: &str = "/latest_producer_id_block";
/// Kafka's name of all brokers.
pub const ALL_BROKERS: &str = "<default>";

/// What every broker makes sure of at its start, parents first (`ZkData.PersistentZkPaths`).
pub const PERSISTENT: [&str; 18] = [
    "/consumers",
    "/brokers",
    BROKER_IDS,
    TOPICS,
    "/brokers/seqid",
    "/config",
    CONFIG_CHANGES,
    TOPIC_CONFIGS,
    "/config/clients",
    "/config/users",
    BROKER_CONFIGS,
    "/config/ips",
    ADMIN,
    DELETIONS,
    "/isr_change_notification",
    PRODUCER_IDS,
    "/log_dir_event_notification",
    "/cluster",
];

/// A topic's node.
#[must_use]
pub fn topic_path(topic: &str) -> String {
    format!("{TOPICS}/{topic}")
}

/// The wish that a topic be deleted.
#[must_use]
pub fn deletion_path(topic: &str) -> String {
    format!("{DELETIONS}/{topic}")
}

/// The node of a topic's settings.
#[must_use]
pub fn topic_config_path(topic: &str) -> String {
    format!("{TOPIC_CONFIGS}/{topic}")
}

/// The nodes above the state of a partition, and that node.
#[must_use]
pub fn state_path(topic: &str, partition: i32) -> String {
    format!("{TOPICS}/{topic}/partitions/{partition}/state")
}

/// A topic as its node has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicNode {
    /// Its id; tools write none, the controller adds one.
    pub id: Option<Uuid>,
    /// The replicas of each partition, by its number.
    pub partitions: BTreeMap<i32, Vec<i32>>,
}

impl TopicNode {
    /// Partitions `0..count` on one broker.
    #[must_use]
    pub fn on_one_broker(id: Uuid, count: i32, broker: i32) -> TopicNode {
        TopicNode {
            id: Some(id),
            partitions: (0..count).map(|index| (index, vec![broker])).collect(),
        }
    }

    /// Version 3 of the node.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let partitions: Map<String, Value> = self
            .partitions
            .iter()
            .map(|(index, replicas)| (index.to_string(), json!(replicas)))
            .collect();
        let mut node = json!({
            "partitions": partitions,
            "adding_replicas": {},
            "removing_replicas": {},
            "version": 3,
        });
        if let Some(id) = self.id {
            node["topic_id"] = json!(encode_uuid(id));
        }
        bytes(&node)
    }

    /// Versions 1 to 3.
    ///
    /// # Errors
    /// What the node lacks.
    pub fn decode(data: &[u8]) -> Result<TopicNode, String> {
        let node = object(data)?;
        let partition = |(index, value): (&String, &Value)| {
            let index: i32 = index.parse().ok().filter(|index| *index >= 0)?;
            Some((index, ids(value)?))
        };
        let partitions = node
            .get("partitions")
            .and_then(Value::as_object)
            .ok_or("it has no 'partitions'")?;
        let partitions = partitions.iter().map(partition);
        let partitions: Option<BTreeMap<i32, Vec<i32>>> = partitions.collect();
        let partitions = partitions.ok_or("its 'partitions' are not lists of broker ids")?;
        let id = match node.get("topic_id").and_then(Value::as_str) {
            Some(text) => Some(decode_uuid(text).ok_or("its 'topic_id' is none")?),
            None => None,
        };
        Ok(TopicNode { id, partitions })
    }

    /// Whether all of it is on one broker by its stored id: another id of the same process is good for
    /// as long as this process has it.
    #[must_use]
    pub fn is_on(&self, broker: i32) -> bool {
        let replicas = &mut self.partitions.values();
        replicas.all(|replicas| replicas == &[broker])
    }

    /// The number of partitions, if they are `0..n` and all of them have this broker as their one
    /// replica.
    ///
    /// # Errors
    /// Why this broker cannot serve the topic.
    pub fn partitions_of(&self, broker: i32, is_own: impl Fn(i32) -> bool) -> Result<i32, String> {
        let mut count = 0;
        for (index, replicas) in &self.partitions {
            if *index != count {
                return Err(format!("partition {count} is missing"));
            }
            if !matches!(replicas[..], [id] if is_own(id)) {
                return Err(format!(
                    "partition {index} is assigned to the brokers {replicas:?}, this is broker \
                     {broker} and the only one"
                ));
            }
            count += 1;
        }
        if count == 0 {
            return Err("it has no partition".to_owned());
        }
        Ok(count)
    }
}

/// The state of a partition whose only replica leads it (version 1).
#[must_use]
pub fn state(leader: i32, leader_epoch: i32, controller_epoch: i32) -> Bytes {
    bytes(&json!({
        "controller_epoch": controller_epoch,
        "leader": leader,
        "version": 1,
        "leader_epoch": leader_epoch,
        "isr": [leader],
    }))
}

/// A partition that [`REASSIGNMENTS`] or [`ELECTIONS`] names; only the former tells its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// The brokers where it is to be.
    pub replicas: Option<Vec<i32>>,
}

/// The partitions of [`REASSIGNMENTS`] or [`ELECTIONS`] (version 1 of both).
///
/// # Errors
/// What is wrong with the node.
pub fn decode_wishes(data: &[u8]) -> Result<Vec<Wish>, String> {
    let node = object(data)?;
    let wish = |value: &Value| {
        let replicas = match value.get("replicas") {
            Some(replicas) => Some(ids(replicas)?),
            None => None,
        };
        Some(Wish {
            topic: value.get("topic")?.as_str()?.to_owned(),
            partition: i32::try_from(value.get("partition")?.as_i64()?).ok()?,
            replicas,
        })
    };
    let partitions = node.get("partitions").and_then(Value::as_array);
    let wishes: Option<Vec<Wish>> = partitions
        .ok_or("it has no 'partitions'")?
        .iter()
        .map(wish)
        .collect();
    wishes.ok_or_else(|| "its 'partitions' are not topics with partitions".to_owned())
}

/// Settings of a topic or a broker.
#[must_use]
pub fn config(overrides: &Overrides) -> Bytes {
    bytes(&json!({"version": 1, "config": overrides}))
}

/// Reads what [`config`] writes.
///
/// # Errors
/// What is wrong with the node.
pub fn decode_config(data: &[u8]) -> Result<Overrides, String> {
    if data.is_empty() {
        return Ok(Overrides::new());
    }
    let node = object(data)?;
    let Some(config) = node.get("config") else {
        return Ok(Overrides::new());
    };
    let config = config.as_object().ok_or("its 'config' is no object")?;
    let setting = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    let settings: Option<Overrides> = config.iter().map(setting).collect();
    settings.ok_or_else(|| "its 'config' has values that are no strings".to_owned())
}

/// A notification that settings were changed, of `topics/<name>` or `brokers/<id>` (version 2).
#[must_use]
pub fn config_change(entity_path: &str) -> Bytes {
    bytes(&json!({"version": 2, "entity_path": entity_path}))
}

/// The entity that a notification is about, as `topics/<name>`; version 1 is read, too.
#[must_use]
pub fn decode_config_change(data: &[u8]) -> Option<String> {
    let node = object(data).ok()?;
    let text = |name: &str| node.get(name).and_then(Value::as_str);
    match text("entity_path") {
        Some(path) => Some(path.to_owned()),
        None => Some(format!("{}/{}", text("entity_type")?, text("entity_name")?)),
    }
}

/// The number of a sequential node.
#[must_use]
pub fn sequence(name: &str) -> Option<i64> {
    name.get(name.len().checked_sub(10)?..)?.parse().ok()
}

/// `/cluster/id`. Its version is a string, Kafka's own slip.
#[must_use]
pub fn cluster_id(id: &str) -> Bytes {
    bytes(&json!({"version": "1", "id": id}))
}

/// The cluster's id.
///
/// # Errors
/// What the node lacks.
pub fn decode_cluster_id(data: &[u8]) -> Result<String, String> {
    let node = object(data)?;
    let id = node.get("id").and_then(Value::as_str);
    id.map(str::to_owned)
        .ok_or_else(|| "it has no 'id'".to_owned())
}

/// A listener as a registration has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredEndPoint {
    /// Its name.
    pub name: String,
    /// Host that clients are told.
    pub host: String,
    /// Port that clients are told.
    pub port: i32,
}

/// `/brokers/ids/<id>`, version 5.
#[must_use]
pub fn broker(end_points: &[RegisteredEndPoint], rack: Option<&str>, timestamp_ms: i64) -> Bytes {
    let protocols: Map<String, Value> = end_points
        .iter()
        .map(|end_point| (end_point.name.clone(), json!("PLAINTEXT")))
        .collect();
    let texts: Vec<String> = end_points
        .iter()
        .map(|RegisteredEndPoint { name, host, port }| format!("{name}://{host}:{port}"))
        .collect();
    let first = end_points.first();
    let mut node = json!({
        "features": {},
        "listener_security_protocol_map": protocols,
        "endpoints": texts,
        "jmx_port": -1,
        "port": first.map_or(-1, |first| first.port),
        "host": first.map(|first| &first.host),
        "version": 5,
        "timestamp": timestamp_ms.to_string(),
    });
    if let Some(rack) = rack {
        node["rack"] = json!(rack);
    }
    bytes(&node)
}

/// `/controller`, version 2.
#[must_use]
pub fn controller(broker: i32, timestamp_ms: i64) -> Bytes {
    bytes(&json!({
        "version": 2,
        "brokerid": broker,
        "timestamp": timestamp_ms.to_string(),
        "kraftControllerEpoch": -1,
    }))
}

/// `/latest_producer_id_block`, version 1: the block `start..=end` is given to `broker`.
#[must_use]
pub fn producer_ids(broker: i32, start: i64, end: i64) -> Bytes {
    bytes(&json!({
        "version": 1,
        "broker": broker,
        "block_start": start.to_string(),
        "block_end": end.to_string(),
    }))
}

/// The last id of the block that was given last; `None` if none was.
///
/// # Errors
/// What is wrong with the node.
pub fn decode_producer_ids(data: &[u8]) -> Result<Option<i64>, String> {
    if data.is_empty() {
        return Ok(None);
    }
    let node = object(data)?;
    let end = node.get("block_end").and_then(Value::as_str);
    let end = end.and_then(|text| text.parse().ok());
    end.map(Some)
        .ok_or_else(|| "it has no 'block_end'".to_owned())
}

/// A list of brokers.
fn ids(value: &Value) -> Option<Vec<i32>> {
    let list = value.as_array()?.iter();
    list.map(|id| i32::try_from(id.as_i64()?).ok()).collect()
}

fn bytes(node: &Value) -> Bytes {
    Bytes::from(node.to_string())
}

fn object(data: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_slice(data) {
        Ok(Value::Object(node)) => Ok(node),
        Ok(_) => Err("it is no JSON object".to_owned()),
        Err(error) => Err(format!("it is no JSON: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_read_back_and_so_are_the_older_versions() {
        let id = Uuid::from_u128(7);
        let node = TopicNode::on_one_broker(id, 2, 5);
        assert_eq!(TopicNode::decode(&node.encode()), Ok(node.clone()));
        assert_eq!(node.partitions_of(5, |id| id == 5), Ok(2));
        let old = br#"{"version":1,"partitions":{"1":[0],"0":[0]}}"#;
        let old = TopicNode::decode(old).unwrap();
        let count = old.partitions_of(0, |id| id == 0);
        assert_eq!((old.id, count), (None, Ok(2)));
    }

    #[test]
    fn a_topic_that_cannot_be_served_says_why() {
        for (data, part) in [
            ("", "no JSON"),
            ("[]", "no JSON object"),
            ("{}", "no 'partitions'"),
            (r#"{"partitions":{"x":[1]}}"#, "not lists"),
            (r#"{"partitions":{"0":[99999999999]}}"#, "not lists"),
            (r#"{"partitions":{"0":[1]},"topic_id":"?"}"#, "'topic_id'"),
        ] {
            let error = TopicNode::decode(data.as_bytes()).unwrap_err();
            assert!(error.contains(part), "{data}: {error}");
        }
        for (data, part) in [
            (r#"{"partitions":{}}"#, "no partition"),
            (r#"{"partitions":{"1":[0]}}"#, "partition 0 is missing"),
            (r#"{"partitions":{"0":[0,1]}}"#, "[0, 1]"),
        ] {
            let node = TopicNode::decode(data.as_bytes()).unwrap();
            let error = node.partitions_of(0, |id| id == 0).unwrap_err();
            assert!(error.contains(part), "{data}: {error}");
        }
    }

    #[test]
    fn wishes_of_both_kinds_are_read_and_others_say_why_not() {
        let wish = |replicas| Wish {
            topic: "a".to_owned(),
            partition: 1,
            replicas,
        };
        let moved = br#"{"version":1,"partitions":[{"topic":"a","partition":1,"replicas":[3]}]}"#;
        assert_eq!(decode_wishes(moved), Ok(vec![wish(Some(vec![3]))]));
        let led = br#"{"version":1,"partitions":[{"topic":"a","partition":1}]}"#;
        assert_eq!(decode_wishes(led), Ok(vec![wish(None)]));
        for (data, part) in [
            ("{}", "no 'partitions'"),
            (r#"{"partitions":[{"topic":"a"}]}"#, "not topics"),
            (
                r#"{"partitions":[{"topic":1,"partition":1}]}"#,
                "not topics",
            ),
            (
                r#"{"partitions":[{"topic":"a","partition":1,"replicas":"x"}]}"#,
                "not topics",
            ),
        ] {
            let error = decode_wishes(data.as_bytes()).unwrap_err();
            assert!(error.contains(part), "{data}: {error}");
        }
    }

    #[test]
    fn settings_and_notifications_are_read_back() {
        let overrides = Overrides::from([("retention.ms".to_owned(), "5".to_owned())]);
        assert_eq!(decode_config(&config(&overrides)), Ok(overrides));
        assert!(decode_config(br#"{"config":{"a":1}}"#).is_err());
        let change = config_change("topics/a");
        assert_eq!(decode_config_change(&change).as_deref(), Some("topics/a"));
        let old = br#"{"version":1,"entity_type":"topics","entity_name":"b"}"#;
        assert_eq!(decode_config_change(old).as_deref(), Some("topics/b"));
        assert_eq!(sequence("config_change_0000000012"), Some(12));
        assert_eq!(sequence("config"), None);
    }

    #[test]
    fn ids_are_read_back() {
        assert_eq!(decode_cluster_id(&cluster_id("x")).as_deref(), Ok("x"));
        let ids = producer_ids(0, 1000, 1999);
        assert_eq!(decode_producer_ids(&ids), Ok(Some(1999)));
        assert_eq!(decode_producer_ids(b""), Ok(None));
        assert!(decode_producer_ids(b"{}").is_err());
    }
}
