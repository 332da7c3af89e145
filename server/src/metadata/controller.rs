//! The controller: decides which topics may be created, altered and deleted, and draws the next
//! image.
//!
//! Pure: a request in, the checked change out. Who calls it carries the change out (directories,
//! logs) and publishes the image only then. Error texts follow Kafka's ReplicationControlManager
//! and AdminZkClient, since people and tools read them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::BrokerId;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use uuid::Uuid;

use super::config_change::{ConfigChange, Keys};
use super::state::{GROUP_TOPIC, Image, Topic, validate_name};
use crate::broker::Broker;
use crate::config::{Settings, dynamic, topic};

/// Most partitions that one request may create in one topic.
pub const PARTITIONS_MAX: i32 = 100_000;

/// A refusal, in Kafka's terms.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// Kafka's error.
    pub error: ResponseError,
    /// What is wrong, for the person who reads it.
    pub message: String,
}

fn refuse<T>(error: ResponseError, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal {
        error,
        message: message.into(),
    })
}

/// The state of the controller: the newest image.
pub struct Controller {
    broker: Arc<Broker>,
    image: Arc<Image>,
}

impl Controller {
    /// A controller that starts from what was found.
    pub fn new(broker: Arc<Broker>, image: Arc<Image>) -> Controller {
        Controller { broker, image }
    }

    /// The newest image.
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    fn settings(&self) -> &Settings {
        self.image.settings(&self.broker.config.settings)
    }

    /// Checks a wish for a topic against the image and gives the topic that would be created.
    /// `id` is the id that it gets.
    ///
    /// # Errors
    /// Kafka's error and the reason.
    pub fn plan_topic(&self, wish: &CreatableTopic, id: Uuid) -> Result<Topic, Refusal> {
        let name = wish.name.as_str();
        if let Err(message) = validate_name(name) {
            return refuse(ResponseError::InvalidTopicException, message);
        }
        if self.image.topic(name).is_some() {
            let message = format!("Topic '{name}' already exists.");
            return refuse(ResponseError::TopicAlreadyExists, message);
        }
        self.check_collision(name)?;
        let partitions = self.partition_count(wish)?;
        self.check_replicas(wish)?;
        let overrides: BTreeMap<String, String> = wish
            .configs
            .iter()
            .filter_map(|config| {
                Some((config.name.to_string(), config.value.as_ref()?.to_string()))
            })
            .collect();
        Self::resolve(self.settings(), name, id, partitions, overrides)
    }

    /// A topic with its effective configuration.
    ///
    /// # Errors
    /// INVALID_CONFIG with the reason.
    pub fn resolve(
        settings: &Settings,
        name: &str,
        id: Uuid,
        partitions: i32,
        overrides: BTreeMap<String, String>,
    ) -> Result<Topic, Refusal> {
        match topic::validate(settings, &overrides) {
            Ok(config) => Ok(Topic {
                name: name.to_owned(),
                id,
                partitions,
                overrides,
                config: Arc::new(config),
            }),
            Err(error) => refuse(ResponseError::InvalidConfig, error.to_string()),
        }
    }

    /// Kafka refuses names that differ only in `.` and `_`, since its metrics fold them.
    fn check_collision(&self, name: &str) -> Result<(), Refusal> {
        let folded = name.replace('.', "_");
        match self
            .image
            .topics()
            .find(|topic| topic.name.replace('.', "_") == folded)
        {
            Some(other) if name.contains(['.', '_']) => refuse(
                ResponseError::InvalidTopicException,
                format!(
                    "Topic '{name}' collides with existing topic: {}",
                    other.name
                ),
            ),
            _ => Ok(()),
        }
    }

    fn partition_count(&self, wish: &CreatableTopic) -> Result<i32, Refusal> {
        if !wish.assignments.is_empty() {
            if wish.num_partitions != -1 || wish.replication_factor != -1 {
                return refuse(
                    ResponseError::InvalidRequest,
                    "Both numPartitions or replicationFactor and replicasAssignments were set. \
                     Both cannot be used at the same time.",
                );
            }
            return self.assigned_partitions(wish);
        }
        match wish.num_partitions {
            -1 => Ok(self.broker.config.num_partitions),
            count if count < 1 => refuse(
                ResponseError::InvalidPartitions,
                "Number of partitions was set to an invalid non-positive value.",
            ),
            count if count > PARTITIONS_MAX => refuse(
                ResponseError::InvalidPartitions,
                format!("{count} partitions in one topic: at most {PARTITIONS_MAX} are allowed."),
            ),
            count => Ok(count),
        }
    }

    fn assigned_partitions(&self, wish: &CreatableTopic) -> Result<i32, Refusal> {
        let mut seen = BTreeSet::new();
        for assignment in &wish.assignments {
            let ids = &assignment.broker_ids;
            if ids.len() != 1 || !self.broker.config.is_own_node(ids[0].0) {
                return refuse(
                    ResponseError::InvalidReplicaAssignment,
                    format!(
                        "The manual partition assignment of partition {} must be the one broker \
                         of this cluster, {}.",
                        assignment.partition_index, self.broker.config.node_id
                    ),
                );
            }
            seen.insert(assignment.partition_index);
        }
        let count = i32::try_from(wish.assignments.len()).unwrap_or(i32::MAX);
        if seen.len() != wish.assignments.len() || !seen.iter().copied().eq(0..count) {
            return refuse(
                ResponseError::InvalidReplicaAssignment,
                "Partitions should be a consecutive 0-based integer sequence.",
            );
        }
        Ok(count)
    }

    fn check_replicas(&self, wish: &CreatableTopic) -> Result<(), Refusal> {
        match wish.replication_factor {
            -1 | 1 => Ok(()),
            factor if factor < 1 => refuse(
                ResponseError::InvalidReplicationFactor,
                "Replication factor must be larger than 0.",
            ),
            factor => refuse(
                ResponseError::InvalidReplicationFactor,
                format!("Replication factor: {factor} larger than available brokers: 1."),
            ),
        }
    }

    /// The topic with more partitions.
    ///
    /// # Errors
    /// Kafka's error and the reason.
    pub fn plan_partitions(&self, wish: &CreatePartitionsTopic) -> Result<Topic, Refusal> {
        let topic = self.known(&wish.name)?;
        let (before, count) = (topic.partitions, wish.count);
        if count < before {
            let message = format!(
                "Topic currently has {before} partitions, which is higher than the requested \
                 {count}."
            );
            return refuse(ResponseError::InvalidPartitions, message);
        }
        if count == before {
            let message = format!("Topic already has {before} partitions.");
            return refuse(ResponseError::InvalidPartitions, message);
        }
        if count > PARTITIONS_MAX {
            let message =
                format!("{count} partitions in one topic: at most {PARTITIONS_MAX} are allowed.");
            return refuse(ResponseError::InvalidPartitions, message);
        }
        // A group's coordinator is found by a hash over their number.
        if topic.name == GROUP_TOPIC {
            let message = "The number of partitions for the offsets topic cannot be changed.";
            return refuse(ResponseError::InvalidPartitions, message);
        }
        if let Some(assignments) = &wish.assignments {
            let lists = assignments.iter().map(|a| a.broker_ids.as_slice());
            self.check_assigned(lists, count.abs_diff(before))?;
        }
        Ok(Topic {
            partitions: count,
            ..(**topic).clone()
        })
    }

    fn check_assigned<'a>(
        &self,
        lists: impl ExactSizeIterator<Item = &'a [BrokerId]>,
        increment: u32,
    ) -> Result<(), Refusal> {
        let count = lists.len();
        for list in lists {
            let config = &self.broker.config;
            let message = match list {
                [BrokerId(id)] if config.is_own_node(*id) => continue,
                [] => "A replica list of the assignment is empty.".to_owned(),
                _ => match list.iter().find(|id| !config.is_own_node(id.0)) {
                    Some(id) => format!("Unknown broker(s) in replica assignment: {}.", id.0),
                    None => "Duplicate brokers in a replica list of the assignment.".to_owned(),
                },
            };
            return refuse(ResponseError::InvalidReplicaAssignment, message);
        }
        if u32::try_from(count) != Ok(increment) {
            return refuse(
                ResponseError::InvalidReplicaAssignment,
                format!(
                    "Increasing the number of partitions by {increment} but {count} assignments \
                     provided."
                ),
            );
        }
        Ok(())
    }

    fn known(&self, name: &str) -> Result<&Arc<Topic>, Refusal> {
        match self.image.topic(name) {
            Some(topic) => Ok(topic),
            None => refuse(
                ResponseError::UnknownTopicOrPartition,
                format!("The topic '{name}' does not exist."),
            ),
        }
    }

    /// The topic with changed settings.
    ///
    /// # Errors
    /// Kafka's error and the reason.
    pub fn plan_topic_configs(&self, name: &str, change: &ConfigChange) -> Result<Topic, Refusal> {
        let topic = self.known(name)?;
        let overrides = change.apply(&topic.overrides, Keys::Topic)?;
        Self::resolve(self.settings(), name, topic.id, topic.partitions, overrides)
    }

    /// The image with changed settings of this broker (or of all brokers, if not
    /// `is_this_broker`): what they are the default of changes in all topics.
    ///
    /// # Errors
    /// Kafka's error and the reason. INVALID_REQUEST for a value that cannot be, as Kafka
    /// (KAFKA-13609).
    pub fn plan_broker_configs(
        &self,
        is_this_broker: bool,
        change: &ConfigChange,
    ) -> Result<Image, Refusal> {
        let mut overrides = self.image.broker_overrides().clone();
        let changed = if is_this_broker {
            &mut overrides.this
        } else {
            &mut overrides.all
        };
        *changed = change.apply(changed, Keys::Broker)?;
        if let Err(error) = dynamic::validate(changed, is_this_broker) {
            return refuse(ResponseError::InvalidRequest, error.to_string());
        }
        let mut image = (*self.image).clone();
        image.set_broker_overrides(overrides, &self.broker.config.settings);
        for topic in self.image.topics() {
            let settings = image.settings(&self.broker.config.settings);
            let Topic { name, id, .. } = &**topic;
            let overrides = topic.overrides.clone();
            match Self::resolve(settings, name, *id, topic.partitions, overrides) {
                Ok(topic) => image.insert(topic),
                Err(refusal) => {
                    let message = format!("Topic {name}: {}", refusal.message);
                    return refuse(ResponseError::InvalidRequest, message);
                }
            }
        }
        // Also where no topic shows it: the next one must not be refused for it.
        let settings = image.settings(&self.broker.config.settings);
        if let Err(error) = topic::validate(settings, &topic::Overrides::new()) {
            return refuse(ResponseError::InvalidRequest, error.to_string());
        }
        Ok(image)
    }

    /// Takes over an image that was planned and carried out.
    pub fn altered(&mut self, image: Image) -> Arc<Image> {
        self.image = Arc::new(image);
        self.image.clone()
    }

    /// Takes the topic into the image, after it has been created or altered.
    pub fn created(&mut self, topic: Topic) -> Arc<Image> {
        let mut image = (*self.image).clone();
        image.insert(topic);
        self.image = Arc::new(image);
        self.image.clone()
    }

    /// Takes the topic out of the image, before its logs are deleted.
    pub fn deleted(&mut self, name: &str) -> Arc<Image> {
        let mut image = (*self.image).clone();
        image.remove(name);
        self.image = Arc::new(image);
        self.image.clone()
    }
}
