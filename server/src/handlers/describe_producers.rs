//! DescribeProducers (61), version 0 (KIP-664): the idempotent producers of partitions.

use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::{DescribeProducersRequest, DescribeProducersResponse, ProducerId};
use kafka_protocol::protocol::StrBytes;

use crate::dispatch::{Answer, Call, Handled, Refused};
use crate::handlers::fetch::read::check_leader;
use crate::metadata::state::validate_name;
use crate::producer_state::ActiveProducer;
use crate::shard::Shard;

pub(crate) fn handle(call: Call) -> Handled {
    Box::pin(describe_producers(call))
}

async fn describe_producers(call: Call) -> Result<Answer, Refused> {
    let request: DescribeProducersRequest = call.decode()?;
    let mut response = DescribeProducersResponse::default();
    for topic in &request.topics {
        let invalid = validate_name(&topic.name).err();
        let mut partitions = Vec::with_capacity(topic.partition_indexes.len());
        for index in &topic.partition_indexes {
            let answer = PartitionResponse::default().with_partition_index(*index);
            partitions.push(match &invalid {
                Some(message) => answer
                    .with_error_code(ResponseError::InvalidTopicException.code())
                    .with_error_message(Some(StrBytes::from_string(message.clone()))),
                None => match producers(&call.shard, topic.name.0.clone(), *index).await {
                    Ok(producers) => {
                        answer.with_active_producers(producers.into_iter().map(state).collect())
                    }
                    Err(error) => answer.with_error_code(error.code()),
                },
            });
        }
        response.topics.push(
            TopicResponse::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions),
        );
    }
    call.ready(&response)
}

async fn producers(
    shard: &Rc<Shard>,
    topic: StrBytes,
    index: i32,
) -> Result<Vec<ActiveProducer>, ResponseError> {
    let owner = shard.owner(&topic, index);
    let job = move |shard: Rc<Shard>| async move {
        let partition = check_leader(&shard, &topic, index, -1).await?;
        let active = partition.producers().borrow().active();
        Ok(active)
    };
    let gone = |_| Err(ResponseError::NotLeaderOrFollower);
    shard.count_hop(owner);
    shard.on(owner, job).await.unwrap_or_else(gone)
}

/// Without transactions there is no coordinator and no open transaction: -1.
fn state(producer: ActiveProducer) -> ProducerState {
    ProducerState::default()
        .with_producer_id(ProducerId(producer.id))
        .with_producer_epoch(producer.epoch.into())
        .with_last_sequence(producer.last_sequence)
        .with_last_timestamp(producer.last_timestamp)
        .with_coordinator_epoch(-1)
        .with_current_txn_start_offset(-1)
}
