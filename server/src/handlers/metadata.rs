//! Metadata (3), versions 0-12: brokers, topics, partitions and who leads them.
//!
//! - 0: an empty list asks for all topics; from 1 on null does, and an empty list asks for none.
//!   1: rack, controller, internal. 2: cluster id. 4: `allow_auto_topic_creation`. 5: offline
//!   replicas. 7: leader epoch. 8-10: authorized operations (KIP-430). 9: flexible.
//!   10, 12: topics by id (KIP-516).

use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::dispatch::{Answer, Call, Handled, Refused};
use crate::metadata::state::{Image, Topic, validate_name};
use crate::metadata::store;
use crate::shard::Shard;

/// Kafka's "not asked for" of the authorized operations.
pub(crate) const OPERATIONS_NOT_ASKED: i32 = i32::MIN;
/// All operations, since there is no authorizer: of the cluster and of a topic, as Kafka's bit
/// sets of AclOperation codes.
pub(crate) const CLUSTER_OPERATIONS: i32 = 0b0001_1111_1000_0000;
const TOPIC_OPERATIONS: i32 = 0b0000_1101_1111_1000;

pub(crate) fn handle(call: Call) -> Handled {
    Box::pin(metadata(call))
}

async fn metadata(call: Call) -> Result<Answer, Refused> {
    let request: MetadataRequest = call.decode()?;
    let version = call.request.version;
    let shard = &call.shard;
    let all = match &request.topics {
        None => true,
        Some(topics) => version == 0 && topics.is_empty(),
    };
    let mut topics: Vec<MetadataResponseTopic> = if all {
        shard
            .image()
            .topics()
            .map(|topic| describe(shard, topic))
            .collect()
    } else {
        let may_create = shard.broker.config.auto_create_topics_enable
            && (version < 4 || request.allow_auto_topic_creation);
        let mut topics = Vec::new();
        for wanted in request.topics.iter().flatten() {
            topics.push(match &wanted.name {
                Some(name) => by_name(shard, name, may_create).await,
                None => by_id(shard, wanted.topic_id),
            });
        }
        topics
    };
    if version >= 8 && request.include_topic_authorized_operations {
        for topic in topics.iter_mut().filter(|topic| topic.error_code == 0) {
            topic.topic_authorized_operations = TOPIC_OPERATIONS;
        }
    }
    let cluster_operations =
        (8..=10).contains(&version) && request.include_cluster_authorized_operations;
    let nodes = shard
        .broker
        .nodes_for(call.connection.listener, call.connection.dialled);
    let brokers = nodes.into_iter().map(|node| {
        MetadataResponseBroker::default()
            .with_node_id(BrokerId(node.id))
            .with_host(StrBytes::from_string(node.host))
            .with_port(node.port)
            .with_rack(node.rack.map(StrBytes::from_string))
    });
    let response = MetadataResponse::default()
        .with_brokers(brokers.collect())
        .with_cluster_id(Some(StrBytes::from_string(shard.broker.cluster_id.clone())))
        .with_controller_id(BrokerId(shard.broker.config.node_id))
        .with_topics(topics)
        .with_cluster_authorized_operations(if cluster_operations {
            CLUSTER_OPERATIONS
        } else {
            OPERATIONS_NOT_ASKED
        });
    call.ready(&response)
}

fn failed(name: Option<TopicName>, error: ResponseError) -> MetadataResponseTopic {
    MetadataResponseTopic::default()
        .with_error_code(error.code())
        .with_name(name)
        .with_topic_authorized_operations(OPERATIONS_NOT_ASKED)
}

async fn by_name(shard: &Rc<Shard>, name: &TopicName, may_create: bool) -> MetadataResponseTopic {
    if let Some(topic) = shard.image().topic(name) {
        return describe(shard, topic);
    }
    if validate_name(name).is_err() {
        return failed(Some(name.clone()), ResponseError::InvalidTopicException);
    }
    if !may_create {
        return failed(Some(name.clone()), ResponseError::UnknownTopicOrPartition);
    }
    let wish = CreatableTopic::default()
        .with_name(name.clone())
        .with_num_partitions(-1)
        .with_replication_factor(-1);
    match store::create(shard, wish).await {
        Ok(topic) => describe(shard, &topic),
        // Somebody else was faster.
        Err(refusal) if refusal.error == ResponseError::TopicAlreadyExists => {
            let image: &Image = &shard.image();
            match image.topic(name) {
                Some(topic) => describe(shard, topic),
                None => failed(Some(name.clone()), ResponseError::LeaderNotAvailable),
            }
        }
        Err(refusal) => failed(Some(name.clone()), refusal.error),
    }
}

fn by_id(shard: &Shard, id: Uuid) -> MetadataResponseTopic {
    match shard.image().topic_by_id(id) {
        Some(topic) => describe(shard, topic),
        None => failed(None, ResponseError::UnknownTopicId).with_topic_id(id),
    }
}

fn describe(shard: &Shard, topic: &Topic) -> MetadataResponseTopic {
    let image = shard.image();
    let partitions = (0..topic.partitions).map(|index| {
        let owner = shard.owner(&topic.name, index);
        let node_id = BrokerId(shard.broker.config.node_of(owner));
        MetadataResponsePartition::default()
            .with_partition_index(index)
            .with_leader_id(node_id)
            .with_leader_epoch(image.leader_epoch(topic.id, index))
            .with_replica_nodes(vec![node_id])
            .with_isr_nodes(vec![node_id])
    });
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(StrBytes::from_string(topic.name.clone()))))
        .with_topic_id(topic.id)
        .with_is_internal(topic.is_internal())
        .with_partitions(partitions.collect())
        .with_topic_authorized_operations(OPERATIONS_NOT_ASKED)
}
