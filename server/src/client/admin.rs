//! The calls that change or describe a cluster: topics, configs, records, log directories.
//!
//! Results are plain structs of this module or Kafka's own answers; nothing here prints.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeConfigsRequest, DescribeLogDirsRequest, DescribeTopicPartitionsRequest,
    IncrementalAlterConfigsRequest, ListPartitionReassignmentsRequest,
    create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic},
    create_topics_request::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig},
    delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic},
    delete_topics_request::DeleteTopicState,
    describe_configs_request::DescribeConfigsResource,
    describe_configs_response::DescribeConfigsResourceResult,
    describe_log_dirs_response::DescribeLogDirsResult,
    describe_topic_partitions_request::TopicRequest,
    incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
};

use super::{Client, ClientError, TopicPartition, check, code, text, topic_name};

const TIMEOUT_MS: i32 = 30_000;
const VISIBLE_PATIENCE: Duration = Duration::from_secs(10);

/// `DescribeConfigs` resource type of a topic.
pub const TOPIC_RESOURCE: i8 = 2;
/// `DescribeConfigs` resource type of a broker.
pub const BROKER_RESOURCE: i8 = 4;

/// A topic to create.
#[derive(Clone, Debug, Default)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// Partitions; the broker's num.partitions if `None`.
    pub partitions: Option<i32>,
    /// Replicas; the broker's default.replication.factor if `None`.
    pub replication_factor: Option<i16>,
    /// Brokers per partition, instead of both.
    pub assignment: Vec<Vec<i32>>,
    /// Config overrides.
    pub configs: Vec<(String, String)>,
}

/// A partition as `describe` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionDescription {
    /// Its number.
    pub partition: i32,
    /// Its leader, below 0 if none.
    pub leader: i32,
    /// Replicas in order of preference.
    pub replicas: Vec<i32>,
    /// The in-sync ones.
    pub isr: Vec<i32>,
    /// KIP-966's lists, if the broker speaks DescribeTopicPartitions.
    pub eligible_leader_replicas: Option<Vec<i32>>,
    /// As above.
    pub last_known_elr: Option<Vec<i32>>,
}

/// A topic as `describe` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicDescription {
    /// Its name.
    pub name: String,
    /// Its id; zero before Kafka 2.8.
    pub id: uuid::Uuid,
    /// Whether it is Kafka's own.
    pub is_internal: bool,
    /// By number.
    pub partitions: Vec<PartitionDescription>,
}

/// A reassignment under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reassignment {
    /// Replicas that join.
    pub adding: Vec<i32>,
    /// Replicas that leave.
    pub removing: Vec<i32>,
}

/// One change of a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigChange {
    /// Set a key.
    Set(String, String),
    /// Back to the default.
    Delete(String),
}

impl Client {
    /// All topics with their partitions, by name.
    ///
    /// # Errors
    /// If no broker answers.
    pub fn topics(&mut self) -> Result<Vec<TopicDescription>, ClientError> {
        let answer = self.metadata(None)?;
        let mut topics: Vec<_> = answer
            .topics
            .into_iter()
            .filter(|topic| topic.error_code == 0 || topic.error_code == code::LEADER_NOT_AVAILABLE)
            .map(|topic| {
                let partitions = topic.partitions.into_iter().map(|p| PartitionDescription {
                    partition: p.partition_index,
                    leader: p.leader_id.0,
                    replicas: p.replica_nodes.iter().map(|id| id.0).collect(),
                    isr: p.isr_nodes.iter().map(|id| id.0).collect(),
                    ..PartitionDescription::default()
                });
                let mut partitions: Vec<_> = partitions.collect();
                partitions.sort_by_key(|p| p.partition);
                let name = topic.name.map(|name| name.to_string()).unwrap_or_default();
                TopicDescription {
                    is_internal: topic.is_internal || is_internal(&name),
                    name,
                    id: topic.topic_id,
                    partitions,
                }
            })
            .collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// Adds KIP-966's lists to the descriptions, if the broker has them to tell.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn add_elr(&mut self, topics: &mut [TopicDescription]) -> Result<(), ClientError> {
        if topics.is_empty() || !self.any()?.supports::<DescribeTopicPartitionsRequest>() {
            return Ok(());
        }
        let mut cursor = None;
        loop {
            let names = topics.iter();
            let request = DescribeTopicPartitionsRequest::default()
                .with_response_partition_limit(2000)
                .with_cursor(cursor.take())
                .with_topics(
                    names
                        .map(|topic| TopicRequest::default().with_name(topic_name(&topic.name)))
                        .collect(),
                );
            let answer = self.call(&request)?;
            for told in answer.topics {
                let name = told.name.map(|name| name.to_string()).unwrap_or_default();
                let Some(topic) = topics.iter_mut().find(|topic| topic.name == name) else {
                    continue;
                };
                for p in told.partitions {
                    let found = topic
                        .partitions
                        .iter_mut()
                        .find(|known| known.partition == p.partition_index);
                    let Some(known) = found else { continue };
                    let ids = |list: Option<Vec<kafka_protocol::messages::BrokerId>>| {
                        Some(list.unwrap_or_default().iter().map(|id| id.0).collect())
                    };
                    known.eligible_leader_replicas = ids(p.eligible_leader_replicas);
                    known.last_known_elr = ids(p.last_known_elr);
                }
            }
            let Some(next) = answer.next_cursor else {
                return Ok(());
            };
            let next_cursor =
                kafka_protocol::messages::describe_topic_partitions_request::Cursor::default()
                    .with_topic_name(next.topic_name)
                    .with_partition_index(next.partition_index);
            cursor = Some(next_cursor);
        }
    }

    /// Reassignments under way; none if the broker does not know the call.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn reassignments(&mut self) -> Result<BTreeMap<TopicPartition, Reassignment>, ClientError> {
        let mut found = BTreeMap::new();
        if !self.any()?.supports::<ListPartitionReassignmentsRequest>() {
            return Ok(found);
        }
        let request = ListPartitionReassignmentsRequest::default()
            .with_timeout_ms(TIMEOUT_MS)
            .with_topics(None);
        let answer = self.call_controller(&request)?;
        if answer.error_code != 0 {
            return Ok(found);
        }
        for topic in answer.topics {
            for p in topic.partitions {
                let partition = TopicPartition::new(topic.name.0.as_str(), p.partition_index);
                let reassignment = Reassignment {
                    adding: p.adding_replicas.iter().map(|id| id.0).collect(),
                    removing: p.removing_replicas.iter().map(|id| id.0).collect(),
                };
                found.insert(partition, reassignment);
            }
        }
        Ok(found)
    }

    /// Creates a topic, and returns when it can be produced to.
    ///
    /// # Errors
    /// The broker's refusal.
    pub fn create_topic(&mut self, topic: &NewTopic) -> Result<(), ClientError> {
        // KIP-464: -1 means the broker's default from version 4 on.
        let has_defaults = self.any()?.version::<CreateTopicsRequest>()? >= 4;
        let (partitions, replicas) = if topic.assignment.is_empty() {
            let default: i16 = if has_defaults { -1 } else { 1 };
            (
                topic.partitions.unwrap_or(i32::from(default)),
                topic.replication_factor.unwrap_or(default),
            )
        } else {
            (-1, -1)
        };
        let assignments = topic.assignment.iter().zip(0..).map(|(brokers, index)| {
            CreatableReplicaAssignment::default()
                .with_partition_index(index)
                .with_broker_ids(brokers.iter().map(|id| (*id).into()).collect())
        });
        let configs = topic.configs.iter().map(|(key, value)| {
            CreatableTopicConfig::default()
                .with_name(text(key))
                .with_value(Some(text(value)))
        });
        let creatable = CreatableTopic::default()
            .with_name(topic_name(&topic.name))
            .with_num_partitions(partitions)
            .with_replication_factor(replicas)
            .with_assignments(assignments.collect())
            .with_configs(configs.collect());
        let request = CreateTopicsRequest::default()
            .with_timeout_ms(TIMEOUT_MS)
            .with_topics(vec![creatable]);
        let answer = self.call_controller(&request)?;
        for result in &answer.topics {
            check(result.error_code, result.error_message.as_ref())?;
        }
        // The controller answers before every broker has heard of it; a producer that starts now
        // should not see UNKNOWN_TOPIC_OR_PARTITION.
        let deadline = Instant::now() + VISIBLE_PATIENCE;
        while Instant::now() < deadline {
            match self.await_topic(&topic.name, false, VISIBLE_PATIENCE) {
                Ok(_) => return Ok(()),
                Err(error) if error.code() == Some(code::UNKNOWN_TOPIC_OR_PARTITION) => {
                    thread::sleep(Duration::from_millis(20));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Deletes topics; stops at the first that the broker refuses.
    ///
    /// # Errors
    /// The broker's refusal.
    pub fn delete_topics(&mut self, names: &[String]) -> Result<(), ClientError> {
        let states = names
            .iter()
            .map(|name| DeleteTopicState::default().with_name(Some(topic_name(name))));
        let version = self.any()?.version::<DeleteTopicsRequest>()?;
        let mut request = DeleteTopicsRequest::default().with_timeout_ms(TIMEOUT_MS);
        if version >= 6 {
            request.topics = states.collect();
        } else {
            request.topic_names = names.iter().map(|name| topic_name(name)).collect();
        }
        let answer = self.call_controller(&request)?;
        self.invalidate();
        for result in &answer.responses {
            check(result.error_code, result.error_message.as_ref())?;
        }
        Ok(())
    }

    /// Raises the number of partitions.
    ///
    /// # Errors
    /// The broker's refusal.
    pub fn create_partitions(
        &mut self,
        topic: &str,
        count: i32,
        assignment: &[Vec<i32>],
    ) -> Result<(), ClientError> {
        let assignments = assignment.iter().map(|brokers| {
            CreatePartitionsAssignment::default()
                .with_broker_ids(brokers.iter().map(|id| (*id).into()).collect())
        });
        let assignments: Vec<_> = assignments.collect();
        let wanted = CreatePartitionsTopic::default()
            .with_name(topic_name(topic))
            .with_count(count)
            .with_assignments((!assignments.is_empty()).then_some(assignments));
        let request = CreatePartitionsRequest::default()
            .with_timeout_ms(TIMEOUT_MS)
            .with_topics(vec![wanted]);
        let answer = self.call_controller(&request)?;
        self.invalidate();
        for result in &answer.results {
            check(result.error_code, result.error_message.as_ref())?;
        }
        Ok(())
    }

    /// All configs of a topic or broker.
    ///
    /// # Errors
    /// The broker's refusal.
    pub fn describe_configs(
        &mut self,
        resource_type: i8,
        name: &str,
    ) -> Result<Vec<DescribeConfigsResourceResult>, ClientError> {
        let resource = DescribeConfigsResource::default()
            .with_resource_type(resource_type)
            .with_resource_name(text(name))
            .with_configuration_keys(None);
        let request = DescribeConfigsRequest::default()
            .with_resources(vec![resource])
            .with_include_synonyms(true);
        let answer = match (resource_type, name.parse::<i32>()) {
            (BROKER_RESOURCE, Ok(id)) => self.call_node(id, &request)?,
            _ => self.call(&request)?,
        };
        let mut configs = Vec::new();
        for result in answer.results {
            check(result.error_code, result.error_message.as_ref())?;
            configs.extend(result.configs);
        }
        // Before KIP-226 (version 1) there is only `is_default`.
        for config in &mut configs {
            if config.config_source == -1 {
                config.config_source = if config.is_default { 5 } else { 1 };
            }
            config.is_default = config.config_source == 5;
        }
        Ok(configs)
    }

    /// Changes single keys (KIP-339).
    ///
    /// # Errors
    /// The broker's refusal.
    pub fn alter_configs(
        &mut self,
        resource_type: i8,
        name: &str,
        changes: &[ConfigChange],
    ) -> Result<(), ClientError> {
        let configs = changes.iter().map(|change| match change {
            ConfigChange::Set(key, value) => AlterableConfig::default()
                .with_name(text(key))
                .with_config_operation(0)
                .with_value(Some(text(value))),
            ConfigChange::Delete(key) => AlterableConfig::default()
                .with_name(text(key))
                .with_config_operation(1)
                .with_value(None),
        });
        let resource = AlterConfigsResource::default()
            .with_resource_type(resource_type)
            .with_resource_name(text(name))
            .with_configs(configs.collect());
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let answer = match (resource_type, name.parse::<i32>()) {
            (BROKER_RESOURCE, Ok(id)) => self.call_node(id, &request)?,
            _ => self.call_controller(&request)?,
        };
        for result in &answer.responses {
            check(result.error_code, result.error_message.as_ref())?;
        }
        Ok(())
    }

    /// Deletes the records before an offset (-1: all); answers the new log start offsets.
    ///
    /// # Errors
    /// If a broker cannot be reached.
    pub fn delete_records(
        &mut self,
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Result<BTreeMap<TopicPartition, Result<i64, ClientError>>, ClientError> {
        let mut found = BTreeMap::new();
        for (partition, offset) in offsets {
            let leader = match self.leader(partition) {
                Ok(leader) => leader,
                Err(error @ ClientError::Kafka { .. }) => {
                    found.insert(partition.clone(), Err(error));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let wanted = DeleteRecordsPartition::default()
                .with_partition_index(partition.partition)
                .with_offset(*offset);
            let topic = DeleteRecordsTopic::default()
                .with_name(topic_name(&partition.topic))
                .with_partitions(vec![wanted]);
            let request = DeleteRecordsRequest::default()
                .with_timeout_ms(TIMEOUT_MS)
                .with_topics(vec![topic]);
            let answer = self.call_node(leader, &request)?;
            for result in answer.topics.iter().flat_map(|topic| &topic.partitions) {
                let result = check(result.error_code, None).map(|()| result.low_watermark);
                found.insert(partition.clone(), result);
            }
        }
        Ok(found)
    }

    /// The log directories of a broker.
    ///
    /// # Errors
    /// If the broker cannot be reached.
    pub fn log_dirs(&mut self, broker: i32) -> Result<Vec<DescribeLogDirsResult>, ClientError> {
        let request = DescribeLogDirsRequest::default().with_topics(None);
        let answer = self.call_node(broker, &request)?;
        check(answer.error_code, None)?;
        Ok(answer.results)
    }
}

/// Kafka's own topics (Kafka: `Topic.java`).
#[must_use]
pub fn is_internal(topic: &str) -> bool {
    matches!(
        topic,
        "__consumer_offsets" | "__transaction_state" | "__share_group_state"
    )
}

/// An id as Kafka prints it: 22 characters of URL-safe base64 (Kafka: `Uuid.java`).
#[must_use]
pub fn id_text(id: uuid::Uuid) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = id.as_u128();
    // 128 bits are 21 groups of 6 and one of 2, which is padded below.
    let mut out = String::with_capacity(22);
    for group in 0..22_u32 {
        let shift = 122_u32.saturating_sub(6 * group);
        let value = if group == 21 {
            (bits << 4) & 63
        } else {
            (bits >> shift) & 63
        };
        let index = usize::try_from(value).unwrap_or(0);
        out.push(char::from(ALPHABET.get(index).copied().unwrap_or(b'A')));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_printed_as_java_prints_them() {
        // Observed from Apache Kafka 3.9.1: kafka-topics.sh --describe against its metadata.
        let id = uuid::Uuid::from_bytes([
            0x2f, 0x4a, 0xce, 0x66, 0x6f, 0x7f, 0x47, 0x1e, 0xaf, 0x9b, 0x19, 0xbc, 0x66, 0x45,
            0x3f, 0xea,
        ]);
        assert_eq!(id_text(id), "L0rOZm9_Rx6vmxm8ZkU_6g");
        assert_eq!(id_text(uuid::Uuid::nil()), "A".repeat(22));
    }
}
