//! The committed offsets of one group: what is committed, what is on its way to the log, and when
//! it expires.

use super::context::TopicPartition;
use kafka_protocol::protocol::StrBytes;
use std::collections::{BTreeMap, BTreeSet};

/// A committed offset with all that Kafka keeps beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetAndMetadata {
    /// The offset that the consumer will read next.
    pub offset: i64,
    /// The leader epoch of the last record read (KIP-320); -1 if it was not told.
    pub leader_epoch: i32,
    /// The consumer's own words.
    pub metadata: StrBytes,
    /// When it was committed.
    pub commit_timestamp_ms: i64,
    /// When it expires, if the commit said so (OffsetCommit v2 to v4); otherwise the retention of
    /// the broker applies.
    pub expire_timestamp_ms: Option<i64>,
}

#[derive(Debug)]
struct Committed {
    value: OffsetAndMetadata,
    /// The place of its record in the log, as the order of the appends: an append that ends late
    /// does not overwrite a later one.
    order: u64,
}

/// From when on the retention of the broker counts.
#[derive(Debug, Clone, Copy)]
pub(super) enum RetentionBase {
    /// From the commit of each offset.
    Commit,
    /// From this point in time, for all offsets of the group.
    Since(i64),
}

/// See the head of the file.
#[derive(Debug, Default)]
pub(super) struct Offsets {
    committed: BTreeMap<TopicPartition, Committed>,
    /// The orders of the commits under way, per partition.
    pending: BTreeMap<TopicPartition, Vec<u64>>,
}

impl Offsets {
    /// Neither committed nor under way.
    pub(super) fn is_empty(&self) -> bool {
        self.committed.is_empty() && self.pending.is_empty()
    }

    /// The committed offset.
    pub(super) fn get(&self, partition: &TopicPartition) -> Option<&OffsetAndMetadata> {
        self.committed
            .get(partition)
            .map(|committed| &committed.value)
    }

    /// All committed offsets in order of topic and partition.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&TopicPartition, &OffsetAndMetadata)> {
        self.committed
            .iter()
            .map(|(partition, committed)| (partition, &committed.value))
    }

    /// A commit is on its way.
    pub(super) fn is_pending(&self, partition: &TopicPartition) -> bool {
        self.pending.contains_key(partition)
    }

    /// A commit sets out for the log, with the order of its append.
    pub(super) fn begin_commit(&mut self, partition: TopicPartition, order: u64) {
        self.pending.entry(partition).or_default().push(order);
    }

    /// A commit ended, with its value if it was appended. A partition that was removed meanwhile
    /// stays removed: its tombstone lies behind the commit in the log.
    pub(super) fn end_commit(
        &mut self,
        partition: &TopicPartition,
        order: u64,
        appended: Option<OffsetAndMetadata>,
    ) {
        let Some(orders) = self.pending.get_mut(partition) else {
            return;
        };
        let Some(index) = orders.iter().position(|pending| *pending == order) else {
            return;
        };
        orders.remove(index);
        if orders.is_empty() {
            self.pending.remove(partition);
        }
        if let Some(value) = appended
            && self
                .committed
                .get(partition)
                .is_none_or(|committed| committed.order <= order)
        {
            self.committed
                .insert(partition.clone(), Committed { value, order });
        }
    }

    /// An offset that was read from the log.
    pub(super) fn restore(&mut self, partition: TopicPartition, value: OffsetAndMetadata) {
        self.committed
            .insert(partition, Committed { value, order: 0 });
    }

    /// Forgets a partition; whether it needs a tombstone. A commit under way does too: its record
    /// lies before the tombstone and would come back with the next load.
    pub(super) fn remove(&mut self, partition: &TopicPartition) -> bool {
        let pending = self.pending.remove(partition).is_some();
        self.committed.remove(partition).is_some() || pending
    }

    /// Forgets everything and tells which partitions need a tombstone.
    pub(super) fn remove_all(&mut self) -> BTreeSet<TopicPartition> {
        let committed = std::mem::take(&mut self.committed).into_keys();
        let pending = std::mem::take(&mut self.pending).into_keys();
        committed.chain(pending).collect()
    }

    /// Forgets what has expired and tells which partitions those were. Partitions with a commit
    /// under way and topics that the group is subscribed to do not expire.
    pub(super) fn expire(
        &mut self,
        now_ms: i64,
        retention_ms: i64,
        base: RetentionBase,
        subscribed: Option<&BTreeSet<StrBytes>>,
    ) -> Vec<TopicPartition> {
        let expired = |value: &OffsetAndMetadata| match (value.expire_timestamp_ms, base) {
            (Some(expire_ms), _) => now_ms >= expire_ms,
            (None, RetentionBase::Commit) => {
                now_ms.saturating_sub(value.commit_timestamp_ms) >= retention_ms
            }
            (None, RetentionBase::Since(since_ms)) => {
                now_ms.saturating_sub(since_ms) >= retention_ms
            }
        };
        let gone: Vec<TopicPartition> = self
            .committed
            .iter()
            .filter(|(partition, committed)| {
                !self.pending.contains_key(*partition)
                    && !subscribed.is_some_and(|topics| topics.contains(&partition.0))
                    && expired(&committed.value)
            })
            .map(|(partition, _)| partition.clone())
            .collect();
        for partition in &gone {
            self.committed.remove(partition);
        }
        gone
    }
}
