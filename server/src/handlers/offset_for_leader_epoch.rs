//! OffsetForLeaderEpoch (23), versions 0-4: where an epoch of leadership ended (KIP-101), by which
//! a consumer sees that its position was cut off (KIP-320).
//!
//! - 1: the epoch found. 2: the epoch that the client knows. 3: who asks. 4: flexible.

use std::collections::BTreeMap;
use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use kafka_protocol::protocol::StrBytes;
use ringlog_engine::log::checkpoint::{self, EpochEntry};

use crate::dispatch::{Answer, Call, Handled, Refused};
use crate::handlers::fetch::read::check_leader;
use crate::shard::Shard;

/// Kafka's "none", of epochs and of offsets.
const UNDEFINED_EPOCH: i32 = -1;
const UNDEFINED_OFFSET: i64 = -1;

#[derive(Clone)]
struct Question {
    slot: (usize, usize),
    topic: StrBytes,
    index: i32,
    current_epoch: i32,
    epoch: i32,
}

pub(crate) fn handle(call: Call) -> Handled {
    Box::pin(offset_for_leader_epoch(call))
}

async fn offset_for_leader_epoch(call: Call) -> Result<Answer, Refused> {
    let request: OffsetForLeaderEpochRequest = call.decode()?;
    let version = call.request.version;
    let mut plan: BTreeMap<usize, Vec<Question>> = BTreeMap::new();
    let mut response = OffsetForLeaderEpochResponse::default();
    for (topic_slot, topic) in request.topics.iter().enumerate() {
        let mut places = Vec::with_capacity(topic.partitions.len());
        for (slot, partition) in topic.partitions.iter().enumerate() {
            places.push(EpochEndOffset::default());
            let owner = call.shard.owner(&topic.topic, partition.partition);
            plan.entry(owner).or_default().push(Question {
                slot: (topic_slot, slot),
                topic: topic.topic.0.clone(),
                index: partition.partition,
                current_epoch: if version >= 2 {
                    partition.current_leader_epoch
                } else {
                    UNDEFINED_EPOCH
                },
                epoch: partition.leader_epoch,
            });
        }
        response.topics.push(
            OffsetForLeaderTopicResult::default()
                .with_topic(topic.topic.clone())
                .with_partitions(places),
        );
    }
    for (owner, questions) in plan {
        let asked = questions.clone();
        let job = move |shard: Rc<Shard>| async move {
            let mut answers = Vec::with_capacity(asked.len());
            for question in asked {
                answers.push(answer(&shard, &question).await);
            }
            answers
        };
        call.shard.count_hop(owner);
        let answers = call.shard.on(owner, job).await.unwrap_or_else(|_| {
            let gone = |_: &Question| Err(ResponseError::NotLeaderOrFollower);
            questions.iter().map(gone).collect()
        });
        for (question, answer) in questions.iter().zip(answers) {
            let (error_code, (epoch, offset)) = match answer {
                Ok(end) => (0, end),
                Err(error) => (error.code(), (UNDEFINED_EPOCH, UNDEFINED_OFFSET)),
            };
            let place = &mut response.topics[question.slot.0].partitions[question.slot.1];
            *place = EpochEndOffset::default()
                .with_partition(question.index)
                .with_error_code(error_code)
                .with_end_offset(offset);
            if version >= 1 {
                place.leader_epoch = epoch;
            }
        }
    }
    call.ready(&response)
}

async fn answer(shard: &Shard, question: &Question) -> Result<(i32, i64), ResponseError> {
    let Question { topic, index, .. } = question;
    let partition = check_leader(shard, topic, *index, question.current_epoch).await?;
    // Written by a broker of Apache Kafka that had the directory before.
    let directory = partition.log.directory();
    let written = checkpoint::read_epochs(&shard.io, &directory).await;
    let mut epochs = written.unwrap_or_default();
    let own = EpochEntry {
        epoch: partition.leader_epoch(),
        start_offset: partition.log.log_start_offset(),
    };
    if epochs.last().is_none_or(|last| last.epoch < own.epoch) {
        epochs.push(own);
    }
    Ok(epoch_end(
        &epochs,
        question.epoch,
        partition.log.log_end_offset(),
    ))
}

/// Epoch and end offset of an epoch (Kafka's `LeaderEpochFileCache.endOffsetFor`): the newest ends
/// with the log, one that is not known is answered by the one before it.
fn epoch_end(epochs: &[EpochEntry], asked: i32, log_end_offset: i64) -> (i32, i64) {
    let undefined = (UNDEFINED_EPOCH, UNDEFINED_OFFSET);
    let Some(newest) = epochs.last() else {
        return undefined;
    };
    if asked < 0 || asked > newest.epoch {
        return undefined;
    }
    if asked == newest.epoch {
        return (asked, log_end_offset);
    }
    let after = epochs.partition_point(|entry| entry.epoch <= asked);
    let end = epochs[after].start_offset;
    match after.checked_sub(1) {
        Some(before) => (epochs[before].epoch, end),
        None => (asked, end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_ends_where_the_next_one_begins() {
        let entry = |(epoch, start_offset)| EpochEntry {
            epoch,
            start_offset,
        };
        let epochs: Vec<EpochEntry> = [(2, 10), (4, 20), (7, 30)].map(entry).to_vec();
        for (asked, expected) in [
            (-1, (-1, -1)),
            (0, (0, 10)),
            (2, (2, 20)),
            (3, (2, 20)),
            (4, (4, 30)),
            (6, (4, 30)),
            (7, (7, 99)),
            (8, (-1, -1)),
        ] {
            assert_eq!(epoch_end(&epochs, asked, 99), expected, "{asked}");
        }
        assert_eq!(epoch_end(&[], 0, 99), (-1, -1));
    }
}
