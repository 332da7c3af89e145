//! Idempotent producers of one partition: which batches have been appended already.
//!
//! For each producer id the epoch and the last five batches are kept (KIP-98, KIP-185; Kafka's
//! ProducerStateManager and ProducerStateEntry): a retry of one of them is answered with its first
//! offset, a gap is refused. The state is a function of the log: feeding its
//! batch headers to [`ProducerState::appended`] rebuilds it after a crash.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ringlog_engine::log::LastRecord;
use ringlog_engine::record::BatchHeader;
use ringlog_engine::record::batch::crc32c;

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

/// An idempotent producer, as DescribeProducers shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveProducer {
    /// Producer id.
    pub id: i64,
    /// Its newest epoch.
    pub epoch: i16,
    /// Sequence number of its last record, -1 if that is not known.
    pub last_sequence: i32,
    /// When its last batch was appended, wall clock in milliseconds.
    pub last_timestamp: i64,
}

/// Producers whose first batch was refused, of which a note is kept.
const REFUSED_MAX: usize = 1024;

/// The producers of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerState {
    producers: BTreeMap<i64, Producer>,
    /// Producers that have no batch here, with the epoch and the sequence number of one that was refused: of
    /// those that were sent behind it none may be the first, or its retry would be taken for an old one.
    refused: BTreeMap<i64, (i16, i32)>,
}

/// The sequence number after `sequence`: they wrap from 2^31-1 to 0.
fn next_sequence(sequence: i32) -> i32 {
    if sequence == i32::MAX {
        0
    } else {
        sequence + 1
    }
}

impl ProducerState {
    /// What to do with a batch; headers without a producer id are always new.
    pub fn check(&self, header: &BatchHeader) -> Verdict {
        if header.producer_id < 0 {
            return Verdict::New;
        }
        // Kafka accepts the first batch of a producer that it does not know at any sequence
        // number: the state may have expired.
        let Some(producer) = self.producers.get(&header.producer_id) else {
            let (epoch, sequence) = (header.producer_epoch, header.base_sequence);
            let refused = self.refused.get(&header.producer_id);
            return match refused {
                Some(refused) if refused.0 == epoch && refused.1 < sequence => Verdict::OutOfOrder,
                _ => Verdict::New,
            };
        };
        if header.producer_epoch < producer.epoch {
            return Verdict::Fenced;
        }
        if header.producer_epoch > producer.epoch {
            return if header.base_sequence == 0 {
                Verdict::New
            } else {
                Verdict::OutOfOrder
            };
        }
        let (base, last) = (header.base_sequence, header.last_sequence());
        let same = |mark: &&BatchMark| mark.base_sequence == base && mark.last_sequence == last;
        if let Some(mark) = producer.batches.iter().find(same) {
            return Verdict::Duplicate {
                base_offset: mark.base_offset,
            };
        }
        let Some(newest) = producer.batches.back() else {
            return Verdict::New;
        };
        if base == next_sequence(newest.last_sequence) {
            return Verdict::New;
        }
        let oldest = producer
            .batches
            .front()
            .map_or(i32::MAX, |mark| mark.base_sequence);
        if last < oldest {
            Verdict::Old
        } else {
            Verdict::OutOfOrder
        }
    }

    /// Takes note of a batch that was not appended.
    pub fn refused(&mut self, header: &BatchHeader) {
        let id = header.producer_id;
        if id < 0 || self.producers.contains_key(&id) {
            return;
        }
        let (epoch, sequence) = (header.producer_epoch, header.base_sequence);
        let first = self.refused.entry(id).or_insert((epoch, sequence));
        if first.0 < epoch || (first.0 == epoch && sequence < first.1) {
            *first = (epoch, sequence);
        }
        if self.refused.len() > REFUSED_MAX {
            self.refused.pop_first();
        }
    }

    /// All producers, by id.
    pub fn active(&self) -> Vec<ActiveProducer> {
        let active = |(id, producer): (&i64, &Producer)| ActiveProducer {
            id: *id,
            epoch: producer.epoch,
            last_sequence: producer
                .batches
                .back()
                .map_or(-1, |mark| mark.last_sequence),
            last_timestamp: producer.appended_ms,
        };
        self.producers.iter().map(active).collect()
    }

    /// What compaction must leave of each producer.
    pub fn last_records(&self) -> BTreeMap<i64, LastRecord> {
        let last = |(id, producer): (&i64, &Producer)| {
            let last = LastRecord {
                data_offsets: producer
                    .batches
                    .iter()
                    .map(|mark| mark.last_offset)
                    .collect(),
                epoch: producer.epoch,
            };
            (*id, last)
        };
        self.producers.iter().map(last).collect()
    }

    /// Takes note of an appended batch, whose header carries its offset in the log.
    pub fn appended(&mut self, header: &BatchHeader, now_ms: i64) {
        if header.producer_id < 0 || header.is_control() {
            return;
        }
        let refused = &mut self.refused;
        let producer = self.producers.entry(header.producer_id).or_insert_with(|| {
            refused.remove(&header.producer_id);
            Producer {
                epoch: header.producer_epoch,
                batches: VecDeque::new(),
                appended_ms: now_ms,
            }
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
        self.producers
            .retain(|_, producer| now_ms - producer.appended_ms < expiration_ms);
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

// ---- snapshots -------------------------------------------------------------------------------

/// Bytes of one entry of a snapshot.
const ENTRY_BYTES: usize = 8 + 2 + 4 + 8 + 4 + 8 + 4 + 8;
/// Offset of the entries: version (i16), CRC-32C of what follows it (u32), number of entries (i32).
const ENTRIES_OFFSET: usize = 2 + 4 + 4;
const SNAPSHOT_VERSION: i16 = 1;

impl ProducerState {
    /// The state as a `.snapshot` file of Kafka (ProducerStateManager.java, schema version 1):
    ///
    /// ```text
    /// offset size  field
    ///      0    2  version = 1
    ///      2    4  CRC-32C of everything behind it
    ///      6    4  number of entries
    ///     10   46  each: producer_id i64, epoch i16, last_sequence i32, last_offset i64,
    ///              offset_delta i32, timestamp i64, coordinator_epoch i32,
    ///              current_txn_first_offset i64
    /// ```
    /// Only the last batch of each producer has a place in it.
    pub fn snapshot(&self) -> Bytes {
        let known = self
            .producers
            .iter()
            .filter_map(|(id, p)| Some((id, p, p.batches.back()?)));
        let entries: Vec<(&i64, &Producer, &BatchMark)> = known.collect();
        let mut bytes = BytesMut::with_capacity(ENTRIES_OFFSET + entries.len() * ENTRY_BYTES);
        bytes.put_i16(SNAPSHOT_VERSION);
        bytes.put_u32(0);
        bytes.put_i32(i32::try_from(entries.len()).unwrap_or(i32::MAX));
        for (id, producer, last) in entries {
            bytes.put_i64(*id);
            bytes.put_i16(producer.epoch);
            bytes.put_i32(last.last_sequence);
            bytes.put_i64(last.last_offset);
            bytes.put_i32(i32::try_from(last.last_offset - last.base_offset).unwrap_or(0));
            bytes.put_i64(producer.appended_ms);
            bytes.put_i32(-1);
            bytes.put_i64(-1);
        }
        let crc = crc32c(&bytes[6..]);
        bytes[2..6].copy_from_slice(&crc.to_be_bytes());
        bytes.freeze()
    }

    /// Reads a snapshot; `None` if it is damaged or of another version, in which case an older one
    /// or the log itself has to do.
    pub fn from_snapshot(bytes: &[u8]) -> Option<ProducerState> {
        let mut rest = bytes;
        let version = rest.try_get_i16().ok()?;
        let crc = rest.try_get_u32().ok()?;
        if version != SNAPSHOT_VERSION || crc != crc32c(rest) {
            return None;
        }
        let count = usize::try_from(rest.try_get_i32().ok()?).ok()?;
        if rest.len() != count.checked_mul(ENTRY_BYTES)? {
            return None;
        }
        let mut state = ProducerState::default();
        for _ in 0..count {
            let id = rest.get_i64();
            let epoch = rest.get_i16();
            let last_sequence = rest.get_i32();
            let last_offset = rest.get_i64();
            let delta = rest.get_i32();
            let appended_ms = rest.get_i64();
            let (_coordinator_epoch, _transaction_start) = (rest.get_i32(), rest.get_i64());
            let base_offset = last_offset.checked_sub(delta.into());
            let mark = BatchMark {
                base_sequence: previous_sequence(last_sequence, delta),
                last_sequence,
                base_offset: base_offset.filter(|_| delta >= 0)?,
                last_offset,
            };
            let batches = VecDeque::from([mark]);
            state.producers.insert(
                id,
                Producer {
                    epoch,
                    batches,
                    appended_ms,
                },
            );
        }
        Some(state)
    }
}

/// The sequence number `delta` before `sequence`, with the wrap from 0 to 2^31-1.
fn previous_sequence(sequence: i32, delta: i32) -> i32 {
    let sequence = (i64::from(sequence) - i64::from(delta)).rem_euclid(1 << 31);
    i32::try_from(sequence).expect("a remainder of 2^31")
}

#[cfg(test)]
mod tests {
    use ringlog_engine::record::{BatchBuilder, Compression};

    use super::*;

    fn header(id: i64, epoch: i16, base_sequence: i32, records: i32, offset: i64) -> BatchHeader {
        let mut builder = BatchBuilder::new(Compression::None).producer(id, epoch, base_sequence);
        for _ in 0..records {
            builder.append(0, None, Some(b"x"), &[]).unwrap();
        }
        let mut header = BatchHeader::parse(&builder.build().unwrap()).unwrap();
        header.base_offset = offset;
        header
    }

    #[test]
    fn behind_a_first_batch_that_was_refused_nothing_comes_first() {
        let mut state = ProducerState::default();
        state.refused(&header(9, 1, 4, 2, 0));
        state.refused(&header(9, 1, 0, 4, 0));
        assert_eq!(state.check(&header(9, 1, 4, 2, 0)), Verdict::OutOfOrder);
        assert_eq!(state.check(&header(9, 2, 0, 2, 0)), Verdict::New);
        assert_eq!(state.check(&header(8, 1, 4, 2, 0)), Verdict::New);
        let first = header(9, 1, 0, 4, 0);
        assert_eq!(state.check(&first), Verdict::New);
        state.appended(&first, 5);
        assert_eq!(state.check(&header(9, 1, 4, 2, 0)), Verdict::New);
        assert!(state.refused.is_empty());
        for id in 0..5000 {
            state.refused(&header(id, 0, 0, 1, 0));
        }
        assert_eq!(state.refused.len(), REFUSED_MAX);
    }

    #[test]
    fn a_retry_is_recognised_a_gap_refused_an_old_epoch_fenced() {
        let mut state = ProducerState::default();
        for batch in 0..7 {
            let header = header(9, 1, batch * 2, 2, i64::from(batch) * 2);
            assert_eq!(state.check(&header), Verdict::New);
            state.appended(&header, 5);
        }
        for batch in 2..7 {
            let verdict = state.check(&header(9, 1, batch * 2, 2, 0));
            assert_eq!(
                verdict,
                Verdict::Duplicate {
                    base_offset: i64::from(batch) * 2
                }
            );
        }
        assert_eq!(state.check(&header(9, 1, 0, 2, 0)), Verdict::Old);
        assert_eq!(state.check(&header(9, 1, 16, 2, 0)), Verdict::OutOfOrder);
        assert_eq!(state.check(&header(9, 0, 14, 2, 0)), Verdict::Fenced);
        assert_eq!(state.check(&header(9, 2, 3, 2, 0)), Verdict::OutOfOrder);
        assert_eq!(state.check(&header(9, 2, 0, 2, 0)), Verdict::New);
        assert_eq!(state.check(&header(8, 0, 77, 2, 0)), Verdict::New);
    }

    #[test]
    fn sequence_numbers_wrap() {
        let mut state = ProducerState::default();
        state.appended(&header(9, 0, i32::MAX - 1, 2, 0), 5);
        assert_eq!(state.check(&header(9, 0, 0, 1, 0)), Verdict::New);
        assert_eq!(previous_sequence(0, 1), i32::MAX);
        assert_eq!(previous_sequence(1, 3), i32::MAX - 1);
    }

    #[test]
    fn a_snapshot_keeps_the_last_batch_and_damage_is_seen() {
        let mut state = ProducerState::default();
        state.appended(&header(9, 3, 4, 2, 10), 5);
        state.appended(&header(7, 0, 0, 1, 12), 6);
        let snapshot = state.snapshot();
        assert_eq!(ProducerState::from_snapshot(&snapshot), Some(state));
        for position in 0..snapshot.len() {
            let mut damaged = snapshot.to_vec();
            damaged[position] ^= 1;
            assert_eq!(
                ProducerState::from_snapshot(&damaged),
                None,
                "byte {position}"
            );
            assert_eq!(ProducerState::from_snapshot(&snapshot[..position]), None);
        }
    }

    #[test]
    fn producers_that_are_silent_for_long_are_forgotten() {
        let mut state = ProducerState::default();
        state.appended(&header(9, 3, 4, 2, 10), 1000);
        state.expire(1999, 1000);
        assert_eq!(state.len(), 1);
        state.expire(2000, 1000);
        assert!(state.is_empty());
    }
}
