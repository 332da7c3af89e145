//! The metadata image: an immutable picture of the cluster, shared by all shards.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use crate::config::Settings;
use crate::config::topic::{Overrides, TopicConfig};

/// The topic that keeps consumer groups and their committed offsets.
pub const GROUP_TOPIC: &str = "__consumer_offsets";
/// The topic that keeps transactions.
pub const TRANSACTION_TOPIC: &str = "__transaction_state";
/// The metadata log of KRaft: a partition's directory, but no topic.
pub const METADATA_TOPIC: &str = "__cluster_metadata";

/// A topic. Its partitions are numbered from 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    /// Name: 1 to 249 of `[a-zA-Z0-9._-]`.
    pub name: String,
    /// Topic id (KIP-516), never zero.
    pub id: Uuid,
    /// Number of partitions, at least 1.
    pub partitions: i32,
    /// The settings that were given for this topic, by Kafka's names.
    pub overrides: BTreeMap<String, String>,
    /// The settings in force: overrides on top of the broker's.
    pub config: Arc<TopicConfig>,
}

impl Topic {
    /// Whether the topic belongs to Kafka itself.
    pub fn is_internal(&self) -> bool {
        self.name == GROUP_TOPIC || self.name == TRANSACTION_TOPIC
    }
}

/// Settings of brokers that were changed while they ran (KIP-226), by Kafka's names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerOverrides {
    /// Of all brokers.
    pub all: Overrides,
    /// Of this one; they go first.
    pub this: Overrides,
}

/// All that a broker answers metadata requests from.
#[derive(Clone, Debug, Default)]
pub struct Image {
    topics: BTreeMap<String, Arc<Topic>>,
    names: BTreeMap<Uuid, String>,
    /// Those above 0, by topic id and partition.
    leader_epochs: Arc<BTreeMap<(Uuid, i32), i32>>,
    broker_overrides: Arc<BrokerOverrides>,
    /// The broker's settings with these overrides; `None` as long as there are none.
    settings: Option<Arc<Settings>>,
}

impl Image {
    /// The topic of that name.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    /// The topic of that id.
    pub fn topic_by_id(&self, id: Uuid) -> Option<&Arc<Topic>> {
        self.topics.get(self.names.get(&id)?)
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    /// The epoch of this broker's leadership of a partition: the one in which Apache Kafka has left it,
    /// else 0. Consumers refuse a leader whose epoch is below that of a record that they have seen, or
    /// of an offset that their group has committed (KIP-320).
    pub fn leader_epoch(&self, topic: Uuid, partition: i32) -> i32 {
        let known = self.leader_epochs.get(&(topic, partition));
        known.copied().unwrap_or(0)
    }

    /// Takes over the epochs that the log directories tell, by topic id and partition.
    pub fn set_leader_epochs(&mut self, epochs: BTreeMap<(Uuid, i32), i32>) {
        self.leader_epochs = Arc::new(epochs);
    }

    /// Settings of brokers that were changed while they ran.
    pub fn broker_overrides(&self) -> &BrokerOverrides {
        &self.broker_overrides
    }

    /// The broker's settings in force, where `fixed` are those of its start.
    pub fn settings<'a>(&'a self, fixed: &'a Settings) -> &'a Settings {
        self.settings.as_deref().unwrap_or(fixed)
    }

    /// Takes over changed settings of brokers. The topics keep what they have.
    pub fn set_broker_overrides(&mut self, overrides: BrokerOverrides, fixed: &Settings) {
        let is_none = overrides == BrokerOverrides::default();
        let settings = || Arc::new(fixed.with_dynamic(&overrides.all, &overrides.this));
        self.settings = (!is_none).then(settings);
        self.broker_overrides = Arc::new(overrides);
    }

    /// Adds a topic or replaces the one of its name.
    pub fn insert(&mut self, topic: Topic) {
        if let Some(old) = self.topics.get(&topic.name) {
            self.names.remove(&old.id);
        }
        self.names.insert(topic.id, topic.name.clone());
        self.topics.insert(topic.name.clone(), Arc::new(topic));
    }

    /// Takes a topic out.
    pub fn remove(&mut self, name: &str) -> Option<Arc<Topic>> {
        let topic = self.topics.remove(name)?;
        self.names.remove(&topic.id);
        Some(topic)
    }
}

/// A topic id that none has yet. As Kafka's (`Uuid.randomUuid`) its text never begins with a dash,
/// which tools would take for an option.
pub fn new_topic_id(random: &mut fastrand::Rng) -> Uuid {
    loop {
        let bytes = random.u128(..).to_be_bytes();
        let id = uuid::Builder::from_random_bytes(bytes).into_uuid();
        // The first of the 22 letters is the upper six bits; a dash is the 62nd.
        if id.as_bytes()[0] >> 2 != 62 {
            return id;
        }
    }
}

/// The shard that owns a partition: spread by topic, then one after the other.
pub fn owner_shard(topic: &str, partition: i32, shards: usize) -> usize {
    let hash = topic.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let index = (hash >> 32).wrapping_add(u64::from(partition.unsigned_abs()));
    usize::try_from(index % shards as u64).unwrap_or(0)
}

/// Whether a topic may have this name, with Kafka's words if not
/// (org.apache.kafka.common.internals.Topic).
///
/// # Errors
/// Why the name is not allowed.
pub fn validate_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("Topic name is invalid: the empty string is not allowed".to_owned());
    }
    if name == "." || name == ".." {
        return Err("Topic name is invalid: '.' or '..' is not allowed".to_owned());
    }
    if name.len() > 249 {
        return Err(format!(
            "Topic name is invalid: the length of '{name}' is longer than the max allowed length \
             249"
        ));
    }
    if !name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    {
        return Err(format!(
            "Topic name is invalid: '{name}' contains one or more characters other than ASCII \
             alphanumerics, '.', '_' and '-'"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kafkas_rules() {
        for good in ["a", "first", "A.b_c-9", &"x".repeat(249)] {
            assert_eq!(validate_name(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "a b", "ä", "a/b", &"x".repeat(250)] {
            assert!(validate_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_topic_id_begins_with_a_dash() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..2000 {
            let text = ringlog_engine::log::directory::encode_uuid(new_topic_id(&mut random));
            assert!(!text.starts_with('-'), "{text}");
        }
    }

    #[test]
    fn neighbouring_partitions_lie_on_different_shards() {
        for shards in 1..5 {
            let owners: Vec<usize> = (0..4).map(|p| owner_shard("first", p, shards)).collect();
            assert!(owners.iter().all(|owner| *owner < shards));
            for pair in owners.windows(2) {
                assert!(shards == 1 || pair[0] != pair[1], "{owners:?}");
            }
        }
    }
}
