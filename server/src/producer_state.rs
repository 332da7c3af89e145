//! Idempotent producers of one partition: which batches have been appended already.
//!
//! For each producer id the epoch and the last five batches are kept (KIP-98, KIP-185; Kafka's
//! ProducerStateManager and ProducerStateEntry): a retry of one of them is answered with its first
//! offset, a gap is refused. The state is a function of the log: [`ProducerState::replay`] of its
//! batch headers rebuilds it after a crash.

use std::collections::{BTreeMap, VecDeque};

use ringlog_engine::record::BatchHeader;

/// How many batches a producer may have in flight and retry (`max.in.flight.requests` <= 5).
const BATCHES_KEPT: usize = 5;

/// What to do with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Append it.
    New,
    /// It has been appended before, at this offset and with this timestamp.
    Duplicate {
        /// Offset that its first record got.
        base_offset: i64,
    },
    /// OUT_OF_ORDER_SEQUENCE_NUMBER: batches before it are missing.
    OutOfOrder,
    /// DUPLICATE_SEQUENCE_NUMBER does not exist in a log: an old batch that is no longer kept.
    Old,
    /// INVALID_PRODUCER_EPOCH: a newer instance of the producer has written.
    Fenced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BatchMark {
    base_sequence: i32,
    last_sequence: i32,
    base_offset: i64,
    last_offset: i64,
}

/// One producer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Producer {
    epoch: i16,
    batches: VecDeque<BatchMark>,
    /// Of the last batch, wall clock in milliseconds; for the expiration.
    appended_ms: i64,
}

/// The producers of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerState {
    producers: BTreeMap<i64, Producer>,
}

/// The sequence number after `sequence`: they wrap from 2^31-1 to 0.
fn next_sequence(sequence: i32) -> i32 {
    if sequence == i32::MAX { 0 } else { sequence + 1 }
}

impl ProducerState {
    /// What to do with a batch; headers without a producer id are always new.
    pub fn check(&self, header: &BatchHeader) -> Verdict {
        if header.producer_id < 0 {
            return Verdict::New;
        }
        // Kafka accepts the first batch of a producer that it does not know at any sequence
        // number: the state may have expired.
        let Some(producer) = self.producers.get(&header.producer_id) else { return Verdict::New };
        if header.producer_epoch < producer.epoch {
            return Verdict::Fenced;
        }
        if header.producer_epoch > producer.epoch {
            return if header.base_sequence == 0 { Verdict::New } else { Verdict::OutOfOrder };
        }
        let (base, last) = (header.base_sequence, header.last_sequence());
        let same = |mark: &&BatchMark| mark.base_sequence == base && mark.last_sequence == last;
        if let Some(mark) = producer.batches.iter().find(same) {
            return Verdict::Duplicate { base_offset: mark.base_offset };
        }
        let Some(newest) = producer.batches.back() else { return Verdict::New };
        if base == next_sequence(newest.last_sequence) {
            return Verdict::New;
        }
        let oldest = producer.batches.front().map_or(i32::MAX, |mark| mark.base_sequence);
        if last < oldest { Verdict::Old } else { Verdict::OutOfOrder }
    }

    /// Takes note of an appended batch, whose header carries its offset in the log.
    pub fn appended(&mut self, header: &BatchHeader, now_ms: i64) {
        if header.producer_id < 0 || header.is_control() {
            return;
        }
        let producer = self.producers.entry(header.producer_id).or_insert_with(|| Producer {
            epoch: header.producer_epoch,
            batches: VecDeque::new(),
            appended_ms: now_ms,
        });
        if producer.epoch != header.producer_epoch {
            producer.epoch = header.producer_epoch;
            producer.batches.clear();
        }
        if producer.batches.len() == BATCHES_KEPT {
            producer.batches.pop_front();
        }
        producer.batches.push_back(BatchMark {
            base_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset: header.base_offset,
            last_offset: header.last_offset(),
        });
        producer.appended_ms = now_ms;
    }

    /// Forgets producers that have not written for `expiration_ms` (`producer.id.expiration.ms`).
    pub fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        self.producers.retain(|_, producer| now_ms - producer.appended_ms < expiration_ms);
    }

    /// Number of producers known.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether no producer is known.
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }
}
