//! AlterPartitionReassignments (45) and ListPartitionReassignments (46), version 0 (KIP-455).
//!
//! With one broker a partition can only be assigned to where it is: that succeeds, all else is
//! refused as Kafka's controller does, and nothing is ever under way.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::alter_partition_reassignments_request::ReassignablePartition;
use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, BrokerId,
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
};
use kafka_protocol::protocol::StrBytes;

use crate::config::BrokerConfig;
use crate::dispatch::{Call, Handled};
use crate::metadata::controller::Refusal;

pub(crate) fn alter(call: Call) -> Handled {
    Box::pin(async move {
        let request: AlterPartitionReassignmentsRequest = call.decode()?;
        let image = call.shard.image();
        let config = &call.shard.broker.config;
        let mut response = AlterPartitionReassignmentsResponse::default();
        for topic in &request.topics {
            let known = image.topic(&topic.name).map_or(0, |topic| topic.partitions);
            let partitions = topic.partitions.iter().map(|partition| {
                let answer = ReassignablePartitionResponse::default()
                    .with_partition_index(partition.partition_index);
                match check(partition, known, config) {
                    Ok(()) => answer,
                    Err(Refusal { error, message }) => answer
                        .with_error_code(error.code())
                        .with_error_message(Some(StrBytes::from_string(message))),
                }
            });
            response.responses.push(
                ReassignableTopicResponse::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions.collect()),
            );
        }
        call.ready(&response)
    })
}

fn check(
    partition: &ReassignablePartition,
    known: i32,
    config: &BrokerConfig,
) -> Result<(), Refusal> {
    let is_own = |id: &BrokerId| config.is_own_node(id.0);
    let ids = |replicas: &[BrokerId]| {
        let ids: Vec<String> = replicas.iter().map(|id| id.0.to_string()).collect();
        ids.join(", ")
    };
    let (error, message) = match partition.replicas.as_deref() {
        _ if !(0..known).contains(&partition.partition_index) => (
            ResponseError::UnknownTopicOrPartition,
            "The partition does not exist.".to_owned(),
        ),
        None => (
            ResponseError::NoReassignmentInProgress,
            "No partition reassignment is in progress.".to_owned(),
        ),
        Some([]) => (
            ResponseError::InvalidReplicaAssignment,
            "Empty replica list specified in partition reassignment.".to_owned(),
        ),
        Some([id]) if is_own(id) => return Ok(()),
        Some(replicas) if replicas.iter().all(is_own) => (
            ResponseError::InvalidReplicaAssignment,
            format!(
                "Duplicate replica ids in partition reassignment replica list: {}",
                ids(replicas)
            ),
        ),
        Some(replicas) if replicas.iter().any(|id| id.0 < 0) => (
            ResponseError::InvalidReplicaAssignment,
            format!("Invalid broker id in replica list: {}", ids(replicas)),
        ),
        Some(replicas) => (
            ResponseError::InvalidReplicaAssignment,
            format!(
                "Replica assignment has brokers that are not alive. Replica list: List({}), live \
                 broker list: Set({})",
                ids(replicas),
                config.node_id
            ),
        ),
    };
    Err(Refusal { error, message })
}

pub(crate) fn list(call: Call) -> Handled {
    Box::pin(async move {
        let _: ListPartitionReassignmentsRequest = call.decode()?;
        call.ready(&ListPartitionReassignmentsResponse::default())
    })
}
