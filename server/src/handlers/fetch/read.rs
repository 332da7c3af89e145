//! The part of a fetch that runs on the shard of the partitions: slices, and waits for more.

use std::pin::pin;
use std::rc::Rc;

use futures_util::future;
use kafka_protocol::ResponseError;
use kafka_protocol::protocol::StrBytes;
use ringlog_engine::clock::Instant;
use ringlog_engine::log::{FileSlice, LogError};

use super::session::Wanted;
use crate::partition::Partition;
use crate::scrub::tell_damage;
use crate::shard::Shard;
use crate::watcher::Watcher;

/// A question to one partition.
#[derive(Clone, Debug)]
pub struct Read {
    slot: usize,
    topic: StrBytes,
    index: i32,
    fetch_offset: i64,
    leader_epoch: i32,
    max_bytes: u32,
}

impl Read {
    /// The question behind place `slot` of the request.
    pub fn new(slot: usize, wanted: &Wanted) -> Read {
        Read {
            slot,
            topic: wanted.topic.clone(),
            index: wanted.index,
            fetch_offset: wanted.fetch_offset,
            leader_epoch: wanted.leader_epoch,
            max_bytes: wanted.max_bytes,
        }
    }
}

/// What a partition answered.
#[derive(Debug)]
pub struct Found {
    /// Kafka's error, if it refused.
    pub error: Option<ResponseError>,
    /// -1 with an error.
    pub high_watermark: i64,
    /// The high watermark up to which it was looked; who wants more waits for another one.
    pub looked_to: i64,
    /// -1 with an error.
    pub log_start_offset: i64,
    /// Records, if there are any.
    pub slice: Option<FileSlice>,
}

impl Found {
    /// A refusal.
    pub fn failed(error: ResponseError) -> Found {
        Found {
            error: Some(error),
            high_watermark: -1,
            looked_to: -1,
            log_start_offset: -1,
            slice: None,
        }
    }

    /// Bytes of records found.
    pub fn bytes(&self) -> u64 {
        self.slice
            .as_ref()
            .map_or(0, |slice| u64::from(slice.length))
    }
}

/// The partition, if this broker leads it and the client's epoch (-1: not told) is the current one.
///
/// # Errors
/// Kafka's error for the client.
pub async fn check_leader(
    shard: &Shard,
    topic: &str,
    index: i32,
    epoch: i32,
) -> Result<Rc<Partition>, ResponseError> {
    let Some(partition) = shard.partition_when_open(topic, index).await else {
        let image = shard.image();
        let known = image
            .topic(topic)
            .is_some_and(|topic| (0..topic.partitions).contains(&index));
        return Err(if known {
            ResponseError::NotLeaderOrFollower
        } else {
            ResponseError::UnknownTopicOrPartition
        });
    };
    match epoch {
        -1 => Ok(partition),
        epoch if epoch < partition.leader_epoch() => Err(ResponseError::FencedLeaderEpoch),
        epoch if epoch > partition.leader_epoch() => Err(ResponseError::UnknownLeaderEpoch),
        _ => Ok(partition),
    }
}

/// Answers for partitions of this shard, in the order asked, within `budget` bytes; the first
/// batch comes whole, whatever its size, if `at_least_one`.
pub async fn read_here(
    shard: &Shard,
    reads: &[Read],
    mut budget: u32,
    mut at_least_one: bool,
) -> Vec<(usize, Found)> {
    let mut results = Vec::with_capacity(reads.len());
    for read in reads {
        let found = read_one(shard, read, budget, at_least_one).await;
        let bytes = found.slice.as_ref().map_or(0, |slice| slice.length);
        budget = budget.saturating_sub(bytes);
        at_least_one &= bytes == 0;
        results.push((read.slot, found));
    }
    results
}

async fn read_one(shard: &Shard, read: &Read, budget: u32, at_least_one: bool) -> Found {
    let partition = match check_leader(shard, &read.topic, read.index, read.leader_epoch).await {
        Ok(partition) => partition,
        Err(error) => return Found::failed(error),
    };
    let limit = partition.high_watermark();
    let start = partition.log.log_start_offset();
    if read.fetch_offset < start || read.fetch_offset > partition.log.log_end_offset() {
        return Found::failed(ResponseError::OffsetOutOfRange);
    }
    let max_bytes = read.max_bytes.min(budget);
    let slice = if read.fetch_offset >= limit.offset || (max_bytes == 0 && !at_least_one) {
        None
    } else {
        match partition
            .log
            .read(read.fetch_offset, max_bytes, limit, at_least_one)
            .await
        {
            Ok(slice) => slice.filter(|slice| slice.length > 0),
            Err(LogError::OffsetOutOfRange { .. }) => {
                return Found::failed(ResponseError::OffsetOutOfRange);
            }
            Err(LogError::Corrupt { .. }) => {
                tell_damage(&partition);
                return Found::failed(ResponseError::CorruptMessage);
            }
            Err(error) => {
                log::error!("Fetch of {}-{}: {error}", read.topic, read.index);
                return Found::failed(ResponseError::KafkaStorageError);
            }
        }
    };
    Found {
        error: None,
        // A compaction meanwhile may have put what lay behind the limit into the segment before it: all
        // of that is below the high watermark of now (tests/sim, seed 143).
        high_watermark: partition.high_watermark().offset,
        looked_to: limit.offset,
        log_start_offset: start,
        slice,
    }
}

/// Returns when the high watermark of one of the partitions is no longer the one that was seen, or
/// at the deadline.
pub async fn wait_here(shard: &Shard, seen: &[(String, i32, i64)], deadline: Instant) {
    let watcher = Rc::new(Watcher::default());
    for (topic, index, high_watermark) in seen {
        match shard.partition(topic, *index) {
            Some(partition) if partition.high_watermark().offset == *high_watermark => {
                partition.watch(&watcher);
            }
            _ => return,
        }
    }
    future::select(pin!(watcher.notified()), shard.io.sleep_until(deadline)).await;
}
