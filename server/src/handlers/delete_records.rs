//! DeleteRecords (21), versions 0-2: raises the log start offset (KIP-107).
//!
//! - 2: flexible.
//!
//! The new log start offsets are durable in Kafka's checkpoint file before the logs take them over
//! and whole old segments go ([`crate::retention`]).

use std::collections::BTreeMap;
use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use kafka_protocol::protocol::StrBytes;

use crate::dispatch::{Answer, Call, Handled, Refused};
use crate::handlers::fetch::read::check_leader;
use crate::metadata::checkpoints;
use crate::metadata::state::{GROUP_TOPIC, TRANSACTION_TOPIC};
use crate::partition::Partition;
use crate::retention;
use crate::shard::Shard;

/// The offset that means the high watermark.
const HIGH_WATERMARK: i64 = -1;
/// Kafka's low watermark of a partition that was refused.
const INVALID_LOW_WATERMARK: i64 = -1;

#[derive(Clone)]
struct Wish {
    slot: (usize, usize),
    topic: StrBytes,
    index: i32,
    offset: i64,
}

pub(crate) fn handle(call: Call) -> Handled {
    Box::pin(delete_records(call))
}

async fn delete_records(call: Call) -> Result<Answer, Refused> {
    let request: DeleteRecordsRequest = call.decode()?;
    let mut plan: BTreeMap<usize, Vec<Wish>> = BTreeMap::new();
    let mut response = DeleteRecordsResponse::default();
    for (topic_slot, topic) in request.topics.iter().enumerate() {
        let mut places = Vec::with_capacity(topic.partitions.len());
        for (slot, partition) in topic.partitions.iter().enumerate() {
            let index = partition.partition_index;
            places.push(DeleteRecordsPartitionResult::default().with_partition_index(index));
            plan.entry(call.shard.owner(&topic.name, index))
                .or_default()
                .push(Wish {
                    slot: (topic_slot, slot),
                    topic: topic.name.0.clone(),
                    index,
                    offset: partition.offset,
                });
        }
        response.topics.push(
            DeleteRecordsTopicResult::default()
                .with_name(topic.name.clone())
                .with_partitions(places),
        );
    }
    for (owner, wishes) in plan {
        let asked = wishes.clone();
        let job = move |shard: Rc<Shard>| async move { delete_here(&shard, &asked).await };
        call.shard.count_hop(owner);
        let results = call.shard.on(owner, job).await.unwrap_or_else(|_| {
            let gone = |_: &Wish| Err(ResponseError::NotLeaderOrFollower);
            wishes.iter().map(gone).collect()
        });
        for (wish, result) in wishes.iter().zip(results) {
            let (topic, slot) = wish.slot;
            let place = &mut response.topics[topic].partitions[slot];
            match result {
                Ok(low_watermark) => place.low_watermark = low_watermark,
                Err(error) => {
                    place.low_watermark = INVALID_LOW_WATERMARK;
                    place.error_code = error.code();
                }
            }
        }
    }
    call.ready(&response)
}

/// The new log start offset of each partition, or why it stays.
async fn delete_here(shard: &Rc<Shard>, wishes: &[Wish]) -> Vec<Result<i64, ResponseError>> {
    let mut plan = Vec::with_capacity(wishes.len());
    for wish in wishes {
        let mut planned = target(shard, wish).await;
        if let Ok((partition, _)) = &planned
            && let Err(error) = retention::keep_producers(shard, partition).await
        {
            log::error!("DeleteRecords of {}-{}: {error}", wish.topic, wish.index);
            planned = Err(ResponseError::KafkaStorageError);
        }
        plan.push(planned);
    }
    let raised = |(partition, target): &(Rc<Partition>, i64)| {
        let topic = partition.topic();
        let key = (topic.name.clone(), partition.index);
        (*target > partition.log.log_start_offset()).then_some((key, topic.id, *target))
    };
    let starts: Vec<_> = plan.iter().flatten().filter_map(raised).collect();
    let is_durable = if starts.is_empty() {
        Ok(())
    } else {
        checkpoints::raise_log_starts(shard, starts).await
    };
    let mut results = Vec::with_capacity(wishes.len());
    for (wish, planned) in wishes.iter().zip(plan) {
        results.push(match (planned, &is_durable) {
            (Err(error), _) => Err(error),
            (Ok(_), Err(refusal)) => {
                log::error!(
                    "DeleteRecords of {}-{}: {}",
                    wish.topic,
                    wish.index,
                    refusal.message
                );
                Err(ResponseError::KafkaStorageError)
            }
            (Ok((partition, target)), Ok(())) => raise(shard, &partition, target).await,
        });
    }
    results
}

/// The partition and the offset that its log is to begin with.
async fn target(shard: &Shard, wish: &Wish) -> Result<(Rc<Partition>, i64), ResponseError> {
    let partition = check_leader(shard, &wish.topic, wish.index, -1).await?;
    if wish.topic.as_str() == GROUP_TOPIC || wish.topic.as_str() == TRANSACTION_TOPIC {
        return Err(ResponseError::InvalidTopicException);
    }
    if !partition.topic().config.cleanup_policy.delete {
        return Err(ResponseError::PolicyViolation);
    }
    let high_watermark = partition.high_watermark().offset;
    let offset = match wish.offset {
        HIGH_WATERMARK => high_watermark,
        offset => offset,
    };
    if (0..=high_watermark).contains(&offset) {
        Ok((partition, offset))
    } else {
        Err(ResponseError::OffsetOutOfRange)
    }
}

async fn raise(
    shard: &Rc<Shard>,
    partition: &Rc<Partition>,
    offset: i64,
) -> Result<i64, ResponseError> {
    let raised = retention::raise(shard, partition, offset).await;
    let start = partition.log.log_start_offset();
    if let Err(error) = raised {
        let (name, index) = (partition.topic().name.clone(), partition.index);
        log::error!("Deleting old segments of {name}-{index}: {error}");
        if start < offset {
            return Err(ResponseError::KafkaStorageError);
        }
    }
    // The records are gone for everybody; the rest only frees space.
    Ok(start)
}
