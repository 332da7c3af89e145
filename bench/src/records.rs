//! What the records of a load hold: keys, values, sizes; and how records become what a request carries.
//!
//! Records are a pure function of the shape and the seed: what was sent is known without keeping it, and
//! the default shape (random values, one key a batch) gives the same bytes as it always has. Message
//! sets (Produce v0 to v2) are made by the engine's own conversion.

use std::ops::RangeInclusive;
use std::rc::Rc;

use ringlog_engine::record::conversion::{self, ConversionLimits};
use ringlog_engine::record::{BatchBuilder, BatchError, Compression, Header};

use crate::failure::Failure;
use crate::schedule::SplitMix64;

/// One create time for all records: a time that moves would be part of the CRC.
pub(crate) const TIMESTAMP_MS: i64 = 1_700_000_000_000;
/// The header that says when a record was meant to leave: nanoseconds, 8 bytes.
pub(crate) const STAMP_KEY: &[u8] = b"t";
/// A record set may have so many bytes, compressed or not.
pub(crate) const BATCH_BYTES_MAX: usize = 64 << 20;

/// The keys of the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Keys {
    /// 8 bytes that tell batches apart.
    #[default]
    Batch,
    /// Null.
    None,
    /// 8 bytes, counting up over the round.
    Sequence,
    /// 8 bytes, one of so many.
    Random(u64),
}

/// The values of the records.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Values {
    /// Bytes that do not compress.
    #[default]
    Random,
    /// `{"num": 0}` and so on, as the tutorial's loop sends.
    Json,
    /// The lines of a file, round and round.
    Lines(#[serde(skip)] Rc<Vec<Vec<u8>>>),
}

/// A record that is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Null or 8 bytes.
    pub(crate) key: Option<[u8; 8]>,
    /// Never null.
    pub(crate) value: Vec<u8>,
}

/// How the records of a load are made.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    /// The keys.
    pub(crate) keys: Keys,
    /// The values.
    pub(crate) values: Values,
    /// Bytes of a random value.
    pub(crate) sizes: RangeInclusive<usize>,
    /// Of everything random.
    pub(crate) seed: u64,
}

impl Recipe {
    /// The records of `connections` rounds of `batches` batches of `count` records.
    pub(crate) fn records(
        &self,
        connections: usize,
        batches: usize,
        count: usize,
    ) -> Vec<Vec<Vec<Sent>>> {
        let mut random = SplitMix64::new(self.seed);
        let mut round = |connection: usize| {
            let mut batch = |place: usize| {
                let mut record = |index: usize| {
                    let number = place * count + index;
                    let value = self.value(number, &mut random);
                    let key = self.key((connection, place), number, &mut random);
                    Sent { key, value }
                };
                (0..count).map(&mut record).collect()
            };
            (0..batches).map(&mut batch).collect()
        };
        (0..connections).map(&mut round).collect()
    }

    fn value(&self, number: usize, random: &mut SplitMix64) -> Vec<u8> {
        match &self.values {
            Values::Json => format!("{{\"num\": {number}}}").into_bytes(),
            Values::Lines(lines) => lines[number % lines.len()].clone(),
            Values::Random => {
                let (least, most) = (*self.sizes.start(), *self.sizes.end());
                let size = if least == most {
                    most
                } else {
                    least + random.below(most - least + 1)
                };
                let mut value = vec![0; size];
                for chunk in value.chunks_mut(8) {
                    chunk.copy_from_slice(&random.next().to_be_bytes()[..chunk.len()]);
                }
                value
            }
        }
    }

    fn key(
        &self,
        (connection, place): (usize, usize),
        number: usize,
        random: &mut SplitMix64,
    ) -> Option<[u8; 8]> {
        let key = match self.keys {
            Keys::None => return None,
            Keys::Batch => (connection as u64) << 32 | place as u64,
            Keys::Sequence => number as u64,
            Keys::Random(cardinality) => random.next() % cardinality,
        };
        Some(key.to_be_bytes())
    }

    /// The longest value there can be.
    pub(crate) fn value_bytes_max(&self, records: usize) -> usize {
        match &self.values {
            Values::Random => *self.sizes.end(),
            Values::Json => format!("{{\"num\": {records}}}").len(),
            Values::Lines(lines) => lines.iter().map(Vec::len).max().unwrap_or_default(),
        }
    }
}

/// The form in which records leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    /// The codec.
    pub(crate) compression: Compression,
    /// Of Produce: below 3 it carries message sets.
    pub(crate) produce_version: i16,
    /// Producer id, its epoch, and the sequence of the first record.
    pub(crate) producer: Option<(i64, i16, i32)>,
    /// When the first record was meant to leave: its last header, and so the last bytes of the record.
    pub(crate) stamp: Option<u64>,
}

impl Form {
    /// The bytes of one request's records.
    ///
    /// # Errors
    /// `BatchError` if they do not fit, or the old format has no such codec.
    pub(crate) fn encode(&self, records: &[Sent]) -> Result<Vec<u8>, BatchError> {
        let mut builder = BatchBuilder::new(self.compression);
        if let Some((id, epoch, sequence)) = self.producer {
            builder = builder.producer(id, epoch, sequence);
        }
        let stamp = self.stamp.map(u64::to_be_bytes);
        let mut headers = stamp.as_ref().map(|stamp| Header {
            key: STAMP_KEY,
            value: Some(stamp),
        });
        for record in records {
            let key = record.key.as_ref().map(|key| &key[..]);
            let headers = headers.take();
            builder.append(TIMESTAMP_MS, key, Some(&record.value), headers.as_slice())?;
        }
        let batch = builder.build()?;
        if self.produce_version >= 3 {
            return Ok(batch.to_vec());
        }
        let magic = if self.produce_version < 2 { 0 } else { 1 };
        let limits = ConversionLimits {
            bytes_max: BATCH_BYTES_MAX,
            decompressed_bytes_max: BATCH_BYTES_MAX,
        };
        Ok(conversion::down_convert(&batch, magic, 0, &limits)?
            .messages
            .to_vec())
    }
}

/// The lines of a payload file.
pub(crate) fn read_lines(path: &std::path::Path) -> Result<Values, Failure> {
    const FILE_BYTES_MAX: u64 = 256 << 20;
    let failed = |what: &str| format!("{what} {}", path.display());
    let size = std::fs::metadata(path).map_err(Failure::system(failed("reading")))?;
    if size.len() > FILE_BYTES_MAX {
        let what = format!("{}: more than {FILE_BYTES_MAX} bytes", path.display());
        return Err(Failure::Usage(what));
    }
    let bytes = std::fs::read(path).map_err(Failure::system(failed("reading")))?;
    let lines = bytes.split(|byte| *byte == b'\n');
    let lines: Vec<_> = lines
        .filter(|line| !line.is_empty())
        .map(<[u8]>::to_vec)
        .collect();
    if lines.is_empty() {
        return Err(Failure::Usage(failed("no line with a value in")));
    }
    Ok(Values::Lines(Rc::new(lines)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringlog_engine::record::{BatchReader, batch};

    fn recipe(keys: Keys, values: Values) -> Recipe {
        Recipe {
            keys,
            values,
            sizes: 10..=30,
            seed: 1,
        }
    }

    #[test]
    fn keys_and_sizes_are_what_was_asked_for() {
        let all = |keys| {
            let records = recipe(keys, Values::Random).records(2, 8, 5);
            records
                .into_iter()
                .flatten()
                .flatten()
                .collect::<Vec<Sent>>()
        };
        let keys = |keys| {
            let keys = all(keys).into_iter().filter_map(|record| record.key);
            keys.map(u64::from_be_bytes).collect::<Vec<_>>()
        };
        assert!(keys(Keys::None).is_empty());
        assert_eq!(keys(Keys::Sequence)[..3], [0, 1, 2]);
        assert_eq!(keys(Keys::Batch)[..6], [0, 0, 0, 0, 0, 1]);
        let random = keys(Keys::Random(4));
        assert!((0..4).all(|key| random.contains(&key)) && random.iter().all(|key| *key < 4));
        let sizes: Vec<_> = all(Keys::None)
            .iter()
            .map(|record| record.value.len())
            .collect();
        assert!(sizes.iter().all(|size| (10..=30).contains(size)));
        assert!(sizes.iter().min() < sizes.iter().max());
    }

    #[test]
    fn every_form_holds_the_records() {
        let records = recipe(Keys::None, Values::Json).records(1, 2, 3).remove(0);
        for compression in Compression::ALL {
            for produce_version in [1, 2, 3, 7] {
                if compression == Compression::Zstd && produce_version < 7 {
                    continue; // KIP-110
                }
                let form = Form {
                    compression,
                    produce_version,
                    producer: None,
                    stamp: None,
                };
                let bytes = form.encode(&records[1]).unwrap();
                let magic = if produce_version < 3 {
                    produce_version as i8 - 1
                } else {
                    2
                };
                let mut values = Vec::new();
                for stored in batch::iterate(&bytes) {
                    let stored = stored.unwrap();
                    assert_eq!(stored.header.magic, magic);
                    let reader = BatchReader::open(stored.bytes, 1 << 20).unwrap();
                    let each = reader.records();
                    values.extend(each.map(|record| record.unwrap().value.unwrap().to_vec()));
                }
                let expected = ["{\"num\": 3}", "{\"num\": 4}", "{\"num\": 5}"];
                assert_eq!(values, expected.map(|text| text.as_bytes().to_vec()));
            }
        }
    }
}
