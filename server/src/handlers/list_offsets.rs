//! ListOffsets (2), versions 0-9: offsets by timestamp.
//!
//! - 0: a list of offsets, newest first, at most `max_num_offsets`; from 1 on one offset with its
//!   timestamp (KIP-79). 2: isolation level (KIP-98). 4: leader epochs (KIP-320). 6: flexible.
//!   7: -3 = the record with the largest timestamp (KIP-734). 8: -4 = earliest local offset
//!   (KIP-405). 9: -5 = latest tiered offset (KIP-1005).

use std::collections::BTreeMap;
use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};
use kafka_protocol::protocol::StrBytes;

use crate::dispatch::{Answer, Call, Handled, Refused};
use crate::handlers::fetch::read::check_leader;
use crate::shard::Shard;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

#[derive(Clone)]
struct Question {
    slot: (usize, usize),
    topic: StrBytes,
    index: i32,
    timestamp: i64,
    epoch: i32,
    max_offsets: i32,
}

pub(crate) fn handle(call: Call) -> Handled {
    Box::pin(list_offsets(call))
}

async fn list_offsets(call: Call) -> Result<Answer, Refused> {
    let request: ListOffsetsRequest = call.decode()?;
    let version = call.request.version;
    let mut plan: BTreeMap<usize, Vec<Question>> = BTreeMap::new();
    let mut response = ListOffsetsResponse::default();
    for (topic_slot, topic) in request.topics.iter().enumerate() {
        let mut places = Vec::with_capacity(topic.partitions.len());
        for (slot, partition) in topic.partitions.iter().enumerate() {
            places.push(ListOffsetsPartitionResponse::default());
            let owner = call.shard.owner(&topic.name, partition.partition_index);
            plan.entry(owner).or_default().push(Question {
                slot: (topic_slot, slot),
                topic: topic.name.0.clone(),
                index: partition.partition_index,
                timestamp: partition.timestamp,
                epoch: if version >= 4 {
                    partition.current_leader_epoch
                } else {
                    -1
                },
                max_offsets: partition.max_num_offsets,
            });
        }
        response.topics.push(
            ListOffsetsTopicResponse::default()
                .with_name(topic.name.clone())
                .with_partitions(places),
        );
    }
    for (owner, questions) in plan {
        let asked = questions.clone();
        let job = move |shard: Rc<Shard>| async move {
            let mut answers = Vec::with_capacity(asked.len());
            for question in asked {
                let answer = answer(&shard, &question, version).await;
                answers.push((question.slot, answer));
            }
            answers
        };
        call.shard.count_hop(owner);
        let answers = call.shard.on(owner, job).await.unwrap_or_else(|_| {
            let gone = |question: Question| {
                (
                    question.slot,
                    failed(question.index, ResponseError::NotLeaderOrFollower),
                )
            };
            questions.into_iter().map(gone).collect()
        });
        for ((topic, slot), answer) in answers {
            response.topics[topic].partitions[slot] = answer;
        }
    }
    call.ready(&response)
}

fn failed(index: i32, error: ResponseError) -> ListOffsetsPartitionResponse {
    ListOffsetsPartitionResponse::default()
        .with_partition_index(index)
        .with_error_code(error.code())
        .with_timestamp(-1)
        .with_offset(-1)
        .with_leader_epoch(-1)
}

async fn answer(shard: &Shard, question: &Question, version: i16) -> ListOffsetsPartitionResponse {
    let index = question.index;
    let partition = match check_leader(shard, &question.topic, index, question.epoch).await {
        Ok(partition) => partition,
        Err(error) => return failed(index, error),
    };
    let (start, end) = (
        partition.log.log_start_offset(),
        partition.high_watermark().offset,
    );
    let found = match question.timestamp {
        LATEST => Some((-1, end)),
        EARLIEST | EARLIEST_LOCAL => Some((-1, start)),
        LATEST_TIERED => None,
        timestamp => {
            let lookup = if timestamp == MAX_TIMESTAMP {
                partition.log.max_timestamp().await
            } else {
                partition.log.offset_for_timestamp(timestamp).await
            };
            match lookup {
                Ok(found) => found
                    .filter(|f| f.offset < end)
                    .map(|found| (found.timestamp, found.offset)),
                Err(error) => {
                    log::error!("ListOffsets of {}-{index}: {error}", question.topic);
                    return failed(index, ResponseError::KafkaStorageError);
                }
            }
        }
    };
    let mut answer = failed(index, ResponseError::UnknownServerError).with_error_code(0);
    if version == 0 {
        answer.old_style_offsets = old_style(question, found, start, end);
    } else if let Some((timestamp, offset)) = found {
        answer.timestamp = timestamp;
        answer.offset = offset;
        if version >= 4 {
            answer.leader_epoch = partition.leader_epoch();
        }
    }
    answer
}

/// Version 0 asks for the offsets of segments before a time, newest first; the end of the log
/// counts as one. Only the ends are given for the two special times, as clients ask for no others.
fn old_style(question: &Question, found: Option<(i64, i64)>, start: i64, end: i64) -> Vec<i64> {
    let mut offsets = match question.timestamp {
        LATEST if end > start => vec![end, start],
        LATEST => vec![end],
        EARLIEST => vec![start],
        _ => found.map(|(_, offset)| offset).into_iter().collect(),
    };
    offsets.truncate(usize::try_from(question.max_offsets).unwrap_or(0));
    offsets
}
