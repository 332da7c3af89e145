//! ElectLeaders (43), versions 0-2.
//!
//! - 0: the preferred leader only (KIP-183). 1: type of the election, error of the whole answer
//!   (KIP-460). 2: flexible.
//!
//! The one broker leads everything already. An election of all partitions answers only those that
//! changed, so none.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{ElectLeadersRequest, ElectLeadersResponse};
use kafka_protocol::protocol::StrBytes;

use crate::dispatch::{Call, Handled};

pub(crate) fn handle(call: Call) -> Handled {
    Box::pin(async move {
        let request: ElectLeadersRequest = call.decode()?;
        let image = call.shard.image();
        let mut response = ElectLeadersResponse::default();
        // Preferred and unclean.
        if !(0..=1).contains(&request.election_type) {
            response.error_code = ResponseError::InvalidRequest.code();
            return call.ready(&response);
        }
        for topic in request.topic_partitions.iter().flatten() {
            let known = image
                .topic(&topic.topic)
                .map_or(0, |topic| topic.partitions);
            let results = topic.partitions.iter().map(|index| {
                let (error, message) = if (0..known).contains(index) {
                    (
                        ResponseError::ElectionNotNeeded,
                        "Leader election not needed for topic partition.",
                    )
                } else {
                    (
                        ResponseError::UnknownTopicOrPartition,
                        "The partition does not exist.",
                    )
                };
                PartitionResult::default()
                    .with_partition_id(*index)
                    .with_error_code(error.code())
                    .with_error_message(Some(StrBytes::from_static_str(message)))
            });
            response.replica_election_results.push(
                ReplicaElectionResult::default()
                    .with_topic(topic.topic.clone())
                    .with_partition_result(results.collect()),
            );
        }
        call.ready(&response)
    })
}
