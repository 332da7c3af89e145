//! The controller: decides which topics may be created and deleted, and draws the next image.
//!
//! Pure: a request in, the checked change out. Who calls it carries the change out (directories,
//! logs) and publishes the image only then. Error texts follow Kafka's ReplicationControlManager
//! and AdminZkClient, since people and tools read them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use uuid::Uuid;

use super::state::{Image, Topic, validate_name};
use crate::broker::Broker;
use crate::config::BrokerConfig;
use crate::config::topic;

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
        Self::resolve(&self.broker.config, name, id, partitions, overrides)
    }

    /// A topic with its effective configuration.
    ///
    /// # Errors
    /// INVALID_CONFIG with the reason.
    pub fn resolve(
        config: &BrokerConfig,
        name: &str,
        id: Uuid,
        partitions: i32,
        overrides: BTreeMap<String, String>,
    ) -> Result<Topic, Refusal> {
        match topic::validate(&config.settings, &overrides) {
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
            if assignment.broker_ids.len() != 1
                || assignment.broker_ids[0].0 != self.broker.config.node_id
            {
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

    /// Takes the topic into the image, after it has been created.
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
