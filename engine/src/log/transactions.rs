//! Transactions as compaction sees them: which batches belong to aborted ones, and when a marker may
//! go (Kafka: CleanedTransactionMetadata).
//!
//! What was aborted is found by a scan of batch headers and markers, not in `.txnindex` files: they
//! are not there for all that a log may hold. Memory: one entry for each aborted transaction.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{BufMut, BytesMut};

use crate::record::builder::TransactionMarker;
use crate::record::{BatchHeader, BatchReader};

/// A marker is a record of a few bytes.
const MARKER_BYTES_MAX: usize = 64 * 1024;

/// An aborted transaction, an entry of a `.txnindex` file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Aborted {
    pub(super) producer_id: i64,
    pub(super) first_offset: i64,
    pub(super) last_offset: i64,
    pub(super) last_stable_offset: i64,
}

impl Aborted {
    /// Writes the entry (Kafka: AbortedTxn.java): version 0 and four offsets, big-endian.
    pub(super) fn encode(&self, bytes: &mut BytesMut) {
        bytes.put_i16(0);
        bytes.put_i64(self.producer_id);
        bytes.put_i64(self.first_offset);
        bytes.put_i64(self.last_offset);
        bytes.put_i64(self.last_stable_offset);
    }
}

/// The marker in a control batch, `None` if it is empty or another one.
fn marker(batch: &[u8]) -> Option<TransactionMarker> {
    let reader = BatchReader::open(batch, MARKER_BYTES_MAX).ok()?;
    let record = reader.records().next()?.ok()?;
    TransactionMarker::from_key(record.key?)
}

/// A scan of a log's headers: which transactions were aborted, which are open at its end.
#[derive(Default)]
pub(super) struct TransactionScan {
    open: BTreeMap<i64, i64>,
    aborted: Vec<Aborted>,
}

impl TransactionScan {
    /// The next batch; the bytes of a control batch are all there.
    pub(super) fn batch(&mut self, header: &BatchHeader, bytes: &[u8]) {
        if header.is_control() {
            let first = self.open.remove(&header.producer_id);
            if let (Some(first_offset), Some(TransactionMarker::Abort)) = (first, marker(bytes)) {
                let oldest_open = self.open.values().copied().min();
                self.aborted.push(Aborted {
                    producer_id: header.producer_id,
                    first_offset,
                    last_offset: header.last_offset(),
                    last_stable_offset: oldest_open.unwrap_or(header.next_offset()),
                });
            }
        } else if header.is_transactional() {
            let open = self.open.entry(header.producer_id);
            open.or_insert(header.base_offset);
        }
    }

    /// Where the oldest transaction that is still open begins.
    pub(super) fn first_open(&self) -> Option<i64> {
        self.open.values().copied().min()
    }

    /// The aborted transactions, for a walk over the same batches from offset `from` on.
    pub(super) fn walk(&self, from: i64) -> TransactionWalk {
        let mut aborted = self.aborted.clone();
        aborted.retain(|aborted| aborted.last_offset >= from);
        aborted.sort_by_key(|aborted| aborted.first_offset);
        TransactionWalk {
            aborted: aborted.into(),
            ..TransactionWalk::default()
        }
    }
}

/// A walk over batches with the knowledge of what was aborted.
#[derive(Default)]
pub(super) struct TransactionWalk {
    /// By first offset; those that the walk has not reached.
    aborted: VecDeque<Aborted>,
    /// By producer: the aborted transaction that it is in, and whether a batch of it was seen.
    in_aborted: BTreeMap<i64, (Aborted, bool)>,
    in_committed: BTreeSet<i64>,
    /// Aborted transactions of which batches are left.
    pub(super) left: Vec<Aborted>,
}

impl TransactionWalk {
    fn reach(&mut self, offset: i64) {
        while let Some(next) = self.aborted.front()
            && next.first_offset <= offset
        {
            self.in_aborted
                .entry(next.producer_id)
                .or_insert((*next, false));
            self.aborted.pop_front();
        }
    }

    /// The next batch. Whether it may go: its transaction was aborted, or it is the marker of one of
    /// which no batch is left.
    pub(super) fn may_go(&mut self, header: &BatchHeader, bytes: &[u8]) -> bool {
        self.reach(header.last_offset());
        if header.is_control() {
            return match marker(bytes) {
                Some(TransactionMarker::Abort) => {
                    match self.in_aborted.remove(&header.producer_id) {
                        Some((aborted, true)) => {
                            self.left.push(aborted);
                            false
                        }
                        _ => true,
                    }
                }
                Some(TransactionMarker::Commit) => !self.in_committed.remove(&header.producer_id),
                // One that was emptied before may go; another control record stays.
                None => header.record_count == 0,
            };
        }
        if !header.is_transactional() {
            return false;
        }
        match self.in_aborted.get_mut(&header.producer_id) {
            Some((_, is_seen)) => {
                *is_seen = true;
                true
            }
            None => {
                self.in_committed.insert(header.producer_id);
                false
            }
        }
    }
}
