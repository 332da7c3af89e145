//! Fields of a pre-built batch that change with every send: the sequence of its producer, the time.
//!
//! Both lie under the batch's CRC, and computing that again would read the whole batch. A CRC is linear:
//! for two texts of one length `crc(a ^ d) = crc(a) ^ crc(d) ^ crc(0)`. So each bit of a field has a mask
//! that its flip puts onto the CRC, computed once; a change costs one xor for each bit that flips.

use ringlog_engine::record::batch::crc32c;

/// Where the CRC stands (record format v2).
const CRC_AT: usize = 17;
/// What the CRC covers begins here.
const COVERED_FROM: usize = 21;
/// The base sequence.
const SEQUENCE_AT: usize = 53;
/// The records.
const RECORDS_AT: usize = 61;

/// A big-endian field of a batch in a frame.
#[derive(Debug, Clone)]
struct Field {
    at: usize,
    /// By bit, the lowest first.
    masks: Vec<u32>,
}

impl Field {
    /// Of `width` bytes at `at` in a batch of `length` bytes.
    fn new(at: usize, width: usize, length: usize) -> Self {
        let mut text = vec![0; length - COVERED_FROM];
        let zero = crc32c(&text);
        let mut masks = Vec::with_capacity(width * 8);
        for bit in 0..width * 8 {
            let byte = at - COVERED_FROM + width - 1 - bit / 8;
            text[byte] = 1 << (bit % 8);
            masks.push(crc32c(&text) ^ zero);
            text[byte] = 0;
        }
        Self { at, masks }
    }

    fn set(&self, batch: &mut [u8], value: u64) {
        let width = self.masks.len() / 8;
        let field = &mut batch[self.at..self.at + width];
        let mut raw = [0; 8];
        raw[8 - width..].copy_from_slice(field);
        field.copy_from_slice(&value.to_be_bytes()[8 - width..]);
        let mut flipped = u64::from_be_bytes(raw) ^ value;
        let mut change = 0;
        while flipped != 0 {
            change ^= self.masks[flipped.trailing_zeros() as usize];
            flipped &= flipped - 1;
        }
        for (byte, mask) in batch[CRC_AT..].iter_mut().zip(change.to_be_bytes()) {
            *byte ^= mask;
        }
    }
}

/// What changes in the batches of one length and shape.
#[derive(Debug, Clone)]
pub(crate) struct Fields {
    length: usize,
    sequence: Option<Field>,
    stamp: Option<Field>,
}

impl Fields {
    /// Of a plain batch (magic 2, not compressed) whose first record ends with the stamp if it has one.
    pub(crate) fn of(batch: &[u8], has_sequence: bool, has_stamp: bool) -> Self {
        let field = |at, width| Field::new(at, width, batch.len());
        Self {
            length: batch.len(),
            sequence: has_sequence.then(|| field(SEQUENCE_AT, 4)),
            stamp: has_stamp.then(|| field(first_record_end(batch) - 8, 8)),
        }
    }

    /// Whether they are also the fields of `batch`.
    pub(crate) fn fit(&self, batch: &[u8]) -> bool {
        let stamp_at = self.stamp.as_ref().map(|stamp| stamp.at + 8);
        self.length == batch.len() && stamp_at.is_none_or(|at| at == first_record_end(batch))
    }

    /// The sequence of the first record.
    pub(crate) fn set_sequence(&self, batch: &mut [u8], sequence: i32) {
        if let Some(field) = &self.sequence {
            field.set(batch, u64::from(sequence.cast_unsigned()));
        }
    }

    /// When the batch was meant to leave.
    pub(crate) fn set_stamp(&self, batch: &mut [u8], nanoseconds: u64) {
        if let Some(field) = &self.stamp {
            field.set(batch, nanoseconds);
        }
    }
}

/// A record begins with its length, a zigzag varint.
fn first_record_end(batch: &[u8]) -> usize {
    let (mut length, mut at) = (0, RECORDS_AT);
    for shift in (0..35).step_by(7) {
        let byte = batch[at];
        length |= usize::from(byte & 0x7f) << shift;
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    at + length / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Form, Keys, Recipe, STAMP_KEY, Values};
    use ringlog_engine::record::{BatchReader, Compression};

    #[test]
    fn a_patched_batch_has_its_fields_and_a_crc_that_fits() {
        for size in [1, 60, 300, 20_000] {
            let recipe = Recipe {
                keys: Keys::Batch,
                values: Values::Random,
                sizes: size..=size,
                seed: 3,
            };
            let form = Form {
                compression: Compression::None,
                produce_version: 7,
                producer: Some((17, 2, 0)),
                stamp: Some(0),
            };
            let mut batch = form.encode(&recipe.records(1, 1, 3)[0][0]).unwrap();
            let fields = Fields::of(&batch, true, true);
            assert!(fields.fit(&batch));
            for (sequence, stamp) in [(3, 1_234_567_890_123), (i32::MAX, u64::MAX), (0, 0)] {
                fields.set_sequence(&mut batch, sequence);
                fields.set_stamp(&mut batch, stamp);
                let reader = BatchReader::open(&batch, 0).unwrap();
                reader.header().check_crc(&batch).unwrap();
                assert_eq!(reader.header().base_sequence, sequence);
                let first = reader.records().next().unwrap().unwrap();
                assert_eq!(first.headers[0].key, STAMP_KEY);
                assert_eq!(first.headers[0].value, Some(&stamp.to_be_bytes()[..]));
            }
        }
    }
}
