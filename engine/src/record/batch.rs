//! The header of a record batch (magic 2) as a view of bytes: parse, validate, patch, walk.
//!
//! A batch is validated once, on produce, and never re-encoded: base offset and leader epoch lie
//! outside the CRC and are patched in place. Records are not decoded here (see `reader`). Entries of
//! old message sets (magic 0 and 1) are recognised, because directories adopted from Kafka hold
//! them; their insides belong to `message_set`.
//!
//! ```text
//! record batch, magic 2 (Kafka: DefaultRecordBatch.java); all fields big-endian
//! offset size field
//!      0    8 base_offset             outside the CRC: patched on append
//!      8    4 batch_length            bytes after this field
//!     12    4 partition_leader_epoch  outside the CRC: patched on append
//!     16    1 magic                   2 (at 16 in all three formats)
//!     17    4 crc                     CRC-32C of everything from 21 on
//!     21    2 attributes              bits 0-2 codec, 3 log append time, 4 transactional,
//!                                     5 control, 6 delete horizon; the rest unused
//!     23    4 last_offset_delta       kept by compaction
//!     27    8 base_timestamp          the delete horizon if bit 6 is set
//!     35    8 max_timestamp           the append time if bit 3 is set
//!     43    8 producer_id
//!     51    2 producer_epoch
//!     53    4 base_sequence
//!     57    4 record_count
//!     61      records, compressed as one stream if a codec is set
//!
//! message set entry, magic 0 and 1 (Kafka: LegacyRecord.java); all fields big-endian
//!      0    8 offset                  of the last record inside, if compressed
//!      8    4 message_size            bytes after this field
//!     12    4 crc                     CRC-32 (zlib) of everything from 16 on
//!     16    1 magic                   0 or 1
//!     17    1 attributes              bits 0-2 codec, 3 log append time (magic 1)
//!     18    8 timestamp               magic 1 only
//!  18/26      key, value              each an i32 length (-1: null) and bytes
//! ```

use super::compression::Compression;
use super::cursor::Cursor;
use super::message_set;
use super::{BatchError, NO_PRODUCER_ID, NO_SEQUENCE};

/// Bytes of a record batch before its records.
pub const HEADER_BYTES: usize = 61;
/// Offset and length: the bytes that the length field of any format does not count.
pub const LOG_OVERHEAD: usize = 12;
/// Bytes that tell offset, size and magic of any format.
pub const MAGIC_PREFIX_BYTES: usize = 17;

const BASE_OFFSET: usize = 0;
const BATCH_LENGTH: usize = 8;
const PARTITION_LEADER_EPOCH: usize = 12;
const MAGIC: usize = 16;
const CRC: usize = 17;
const ATTRIBUTES: usize = 21;
const LAST_OFFSET_DELTA: usize = 23;
const BASE_TIMESTAMP: usize = 27;
const MAX_TIMESTAMP: usize = 35;
const PRODUCER_ID: usize = 43;
const PRODUCER_EPOCH: usize = 51;
const BASE_SEQUENCE: usize = 53;
const RECORD_COUNT: usize = 57;

const _: () = assert!(BASE_OFFSET + 8 == BATCH_LENGTH && BATCH_LENGTH + 4 == LOG_OVERHEAD);
const _: () =
    assert!(LOG_OVERHEAD == PARTITION_LEADER_EPOCH && PARTITION_LEADER_EPOCH + 4 == MAGIC);
const _: () = assert!(MAGIC + 1 == MAGIC_PREFIX_BYTES && MAGIC + 1 == CRC && CRC + 4 == ATTRIBUTES);
const _: () =
    assert!(ATTRIBUTES + 2 == LAST_OFFSET_DELTA && LAST_OFFSET_DELTA + 4 == BASE_TIMESTAMP);
const _: () = assert!(BASE_TIMESTAMP + 8 == MAX_TIMESTAMP && MAX_TIMESTAMP + 8 == PRODUCER_ID);
const _: () = assert!(PRODUCER_ID + 8 == PRODUCER_EPOCH && PRODUCER_EPOCH + 2 == BASE_SEQUENCE);
const _: () = assert!(BASE_SEQUENCE + 4 == RECORD_COUNT && RECORD_COUNT + 4 == HEADER_BYTES);

const CODEC_MASK: i16 = 0x07;
const LOG_APPEND_TIME_BIT: i16 = 0x08;
const TRANSACTIONAL_BIT: i16 = 0x10;
const CONTROL_BIT: i16 = 0x20;
const DELETE_HORIZON_BIT: i16 = 0x40;

/// The smallest record: length, attributes, two deltas, two null lengths, no headers.
const RECORD_BYTES_MIN: usize = 7;

/// What the timestamps of a batch mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// Each record has the producer's timestamp.
    CreateTime,
    /// All records have the broker's timestamp, which stands in `max_timestamp`.
    LogAppendTime,
}

/// The fields of a batch header, whatever its magic.
///
/// An entry of an old message set fills what it has: `base_offset` is its only offset (the last one,
/// if it is compressed), `record_count` is 1, or 0 for "unknown" if it is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record (magic 2) or of the entry (magic 0 and 1).
    pub base_offset: i64,
    /// Bytes after the length field; never negative.
    pub batch_length: i32,
    /// Epoch of the leader that appended the batch.
    pub partition_leader_epoch: i32,
    /// 0, 1 or 2.
    pub magic: i8,
    /// CRC-32C from byte 21 (magic 2), CRC-32 from byte 16 (magic 0 and 1).
    pub crc: u32,
    /// Codec and flags.
    pub attributes: i16,
    /// Last offset less base offset; never negative.
    pub last_offset_delta: i32,
    /// Timestamp that the records' deltas count from, or the delete horizon.
    pub base_timestamp: i64,
    /// Largest timestamp, or the append time.
    pub max_timestamp: i64,
    /// Producer id, -1 for none.
    pub producer_id: i64,
    /// Producer epoch, -1 for none.
    pub producer_epoch: i16,
    /// Sequence of the first record, -1 for none.
    pub base_sequence: i32,
    /// Records inside; compaction may leave 0.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`, cheaply: no CRC, no look at the records.
    ///
    /// Needs [`HEADER_BYTES`] for magic 2 and fewer for magic 0 and 1.
    ///
    /// # Errors
    /// `Truncated` if more bytes are needed, `CorruptMessage` if no batch can start here.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some((base_offset, batch_length, magic)) = parse_prefix(bytes) else {
            return Err(BatchError::Truncated {
                needed: MAGIC_PREFIX_BYTES,
                available: bytes.len(),
            });
        };
        match magic {
            0 | 1 => message_set::parse_header(bytes, base_offset, batch_length, magic),
            2 => Self::parse_v2(bytes),
            _ => Err(BatchError::CorruptMessage(format!(
                "unknown magic {magic} at offset {base_offset}, length {batch_length}"
            ))),
        }
    }

    fn parse_v2(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some(raw) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(BatchError::Truncated {
                needed: HEADER_BYTES,
                available: bytes.len(),
            });
        };
        let header = Self {
            base_offset: i64::from_be_bytes(field(raw, BASE_OFFSET)),
            batch_length: i32::from_be_bytes(field(raw, BATCH_LENGTH)),
            partition_leader_epoch: i32::from_be_bytes(field(raw, PARTITION_LEADER_EPOCH)),
            magic: i8::from_be_bytes(field(raw, MAGIC)),
            crc: u32::from_be_bytes(field(raw, CRC)),
            attributes: i16::from_be_bytes(field(raw, ATTRIBUTES)),
            last_offset_delta: i32::from_be_bytes(field(raw, LAST_OFFSET_DELTA)),
            base_timestamp: i64::from_be_bytes(field(raw, BASE_TIMESTAMP)),
            max_timestamp: i64::from_be_bytes(field(raw, MAX_TIMESTAMP)),
            producer_id: i64::from_be_bytes(field(raw, PRODUCER_ID)),
            producer_epoch: i16::from_be_bytes(field(raw, PRODUCER_EPOCH)),
            base_sequence: i32::from_be_bytes(field(raw, BASE_SEQUENCE)),
            record_count: i32::from_be_bytes(field(raw, RECORD_COUNT)),
        };
        if header.size_in_bytes() < HEADER_BYTES {
            return Err(BatchError::CorruptMessage(format!(
                "length {} of the batch at offset {} is less than its header",
                header.batch_length, header.base_offset
            )));
        }
        if header.last_offset_delta < 0 || header.record_count < 0 {
            return Err(BatchError::CorruptMessage(format!(
                "batch at offset {} has last offset delta {} and {} records",
                header.base_offset, header.last_offset_delta, header.record_count
            )));
        }
        Ok(header)
    }

    /// Writes the 61 bytes of a magic 2 header, with the CRC of `batch` as it then stands.
    ///
    /// # Panics
    /// If `batch` is shorter than a header: only the builder calls this, on its own buffer.
    pub(super) fn write(&self, batch: &mut [u8]) {
        let raw = header_mut(batch);
        put_field(raw, BASE_OFFSET, self.base_offset.to_be_bytes());
        put_field(raw, BATCH_LENGTH, self.batch_length.to_be_bytes());
        put_field(
            raw,
            PARTITION_LEADER_EPOCH,
            self.partition_leader_epoch.to_be_bytes(),
        );
        put_field(raw, MAGIC, self.magic.to_be_bytes());
        put_field(raw, ATTRIBUTES, self.attributes.to_be_bytes());
        put_field(raw, LAST_OFFSET_DELTA, self.last_offset_delta.to_be_bytes());
        put_field(raw, BASE_TIMESTAMP, self.base_timestamp.to_be_bytes());
        put_field(raw, MAX_TIMESTAMP, self.max_timestamp.to_be_bytes());
        put_field(raw, PRODUCER_ID, self.producer_id.to_be_bytes());
        put_field(raw, PRODUCER_EPOCH, self.producer_epoch.to_be_bytes());
        put_field(raw, BASE_SEQUENCE, self.base_sequence.to_be_bytes());
        put_field(raw, RECORD_COUNT, self.record_count.to_be_bytes());
        seal(batch);
    }

    /// Bytes of the whole batch, header included.
    #[must_use]
    pub fn size_in_bytes(&self) -> usize {
        LOG_OVERHEAD.saturating_add(usize::try_from(self.batch_length).unwrap_or(0))
    }

    /// Offset of the last record (also if compaction has removed it).
    #[must_use]
    pub fn last_offset(&self) -> i64 {
        self.base_offset
            .saturating_add(i64::from(self.last_offset_delta))
    }

    /// Offset after the last record: the base offset of the next batch.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    /// Sequence of the last record, wrapping from `i32::MAX` to 0; -1 for none.
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return NO_SEQUENCE;
        }
        // Both are non-negative, so clearing the sign bit is the reduction modulo 2^31.
        self.base_sequence.wrapping_add(self.last_offset_delta) & i32::MAX
    }

    /// The codec of the records.
    ///
    /// # Errors
    /// `UnsupportedCompressionType` for the ids 5 to 7.
    pub fn compression(&self) -> Result<Compression, BatchError> {
        let id = self.attributes & CODEC_MASK;
        Compression::from_id(id as u8).ok_or_else(|| {
            BatchError::UnsupportedCompressionType(format!(
                "codec {id} of the batch at offset {}",
                self.base_offset
            ))
        })
    }

    /// What the timestamps mean.
    #[must_use]
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & LOG_APPEND_TIME_BIT == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// Whether the batch belongs to a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whether the batch holds a control record, such as the end of a transaction.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// When compaction may drop the tombstones inside (KIP-534), if that is decided.
    #[must_use]
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON_BIT != 0).then_some(self.base_timestamp)
    }

    /// Whether an idempotent or transactional producer wrote the batch.
    #[must_use]
    pub fn has_producer_id(&self) -> bool {
        self.producer_id > NO_PRODUCER_ID
    }

    /// Compares the stored checksum with that of `batch`, which is exactly this batch (any magic).
    ///
    /// # Errors
    /// `CorruptMessage` with both checksums, or if `batch` has another length.
    pub fn check_crc(&self, batch: &[u8]) -> Result<(), BatchError> {
        if batch.len() != self.size_in_bytes() {
            return Err(BatchError::CorruptMessage(format!(
                "batch at offset {} says {} bytes, {} are there",
                self.base_offset,
                self.size_in_bytes(),
                batch.len()
            )));
        }
        let computed = if self.magic == 2 {
            crc32c(batch.get(ATTRIBUTES..).unwrap_or_default())
        } else {
            message_set::crc(batch)
        };
        if computed == self.crc {
            return Ok(());
        }
        Err(BatchError::CorruptMessage(format!(
            "batch at offset {}, {} bytes: stored crc {:#010x}, computed crc {computed:#010x}",
            self.base_offset,
            batch.len(),
            self.crc
        )))
    }
}

/// What a partition accepts from producers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProduceLimits {
    /// `max.message.bytes`: bytes of one batch, header included.
    pub batch_bytes_max: usize,
    /// False before Produce version 7 (KIP-110): such a client's consumers cannot read zstd.
    pub zstd_allowed: bool,
}

/// Checks one batch of a producer, which must be all of `batch`: after this it may be appended.
///
/// Records are not decoded. Of what Kafka's `LogValidator.java` checks per record this leaves out the
/// keys of a compacted topic and the timestamps (compare `max_timestamp` with the clock for those).
///
/// # Errors
/// What Kafka answers: see [`BatchError::code`].
pub fn validate(batch: &[u8], limits: &ProduceLimits) -> Result<BatchHeader, BatchError> {
    if batch.len() > limits.batch_bytes_max {
        return Err(BatchError::MessageTooLarge {
            what: "record batch",
            size: batch.len(),
            limit: limits.batch_bytes_max,
        });
    }
    let header = BatchHeader::parse(batch)?;
    if header.magic != 2 {
        return Err(BatchError::InvalidRecord(format!(
            "magic {} where only record batches of magic 2 are allowed",
            header.magic
        )));
    }
    header.check_crc(batch)?;
    validate_attributes(&header, limits)?;
    validate_records(&header, batch.get(HEADER_BYTES..).unwrap_or_default())?;
    validate_producer(&header)?;
    Ok(header)
}

fn validate_attributes(header: &BatchHeader, limits: &ProduceLimits) -> Result<(), BatchError> {
    if header.compression()? == Compression::Zstd && !limits.zstd_allowed {
        return Err(BatchError::UnsupportedCompressionType(
            "zstd needs Produce version 7 or later".to_owned(),
        ));
    }
    if header.is_control() {
        return Err(BatchError::InvalidRecord(
            "clients may not write control records".to_owned(),
        ));
    }
    if header.delete_horizon_ms().is_some() {
        // Stricter than Kafka, which stores it: compaction would take the timestamp for its own.
        return Err(BatchError::InvalidRecord(
            "clients may not set a delete horizon".to_owned(),
        ));
    }
    if header.timestamp_type() == TimestampType::LogAppendTime {
        return Err(BatchError::InvalidTimestamp(
            "producers may not set the timestamp type LogAppendTime".to_owned(),
        ));
    }
    Ok(())
}

fn validate_records(header: &BatchHeader, records: &[u8]) -> Result<(), BatchError> {
    let count = header.record_count;
    if count < 1 || i64::from(header.last_offset_delta).saturating_add(1) != i64::from(count) {
        return Err(BatchError::InvalidRecord(format!(
            "{count} records, but last offset delta {}",
            header.last_offset_delta
        )));
    }
    // Cheap lies end here: a count that the bytes cannot hold would burn offsets, and a codec that
    // the bytes do not begin like would reach every consumer.
    let codec = header.compression()?;
    let bytes_min = usize::try_from(count)
        .unwrap_or(usize::MAX)
        .saturating_mul(RECORD_BYTES_MIN);
    if codec == Compression::None && bytes_min > records.len() {
        return Err(BatchError::InvalidRecord(format!(
            "{count} records cannot lie in {} bytes",
            records.len()
        )));
    }
    if !codec.may_begin(records) {
        return Err(BatchError::CorruptMessage(format!(
            "records do not begin like {} data",
            codec.name()
        )));
    }
    Ok(())
}

fn validate_producer(header: &BatchHeader) -> Result<(), BatchError> {
    let BatchHeader {
        producer_id,
        producer_epoch,
        base_sequence,
        ..
    } = *header;
    if header.has_producer_id() && (base_sequence < 0 || producer_epoch < 0) {
        return Err(BatchError::InvalidRecord(format!(
            "producer id {producer_id} with epoch {producer_epoch} and sequence {base_sequence}"
        )));
    }
    if header.is_transactional() && !header.has_producer_id() {
        return Err(BatchError::InvalidRecord(format!(
            "transactional batch with producer id {producer_id}"
        )));
    }
    Ok(())
}

/// Gives a validated batch its place in the log: both fields lie outside the CRC.
///
/// # Panics
/// If `batch` is shorter than a header, which [`validate`] excludes.
pub fn patch(batch: &mut [u8], base_offset: i64, partition_leader_epoch: i32) {
    let raw = header_mut(batch);
    put_field(raw, BASE_OFFSET, base_offset.to_be_bytes());
    put_field(
        raw,
        PARTITION_LEADER_EPOCH,
        partition_leader_epoch.to_be_bytes(),
    );
}

/// Sets timestamp type and maximum timestamp of a validated batch, and its CRC, which covers both.
///
/// For a topic with `message.timestamp.type=LogAppendTime`: costs a second pass over the bytes.
///
/// # Panics
/// If `batch` is shorter than a header, which [`validate`] excludes.
pub fn patch_timestamp_type(batch: &mut [u8], timestamp_type: TimestampType, max_timestamp: i64) {
    let raw = header_mut(batch);
    let attributes = i16::from_be_bytes(field(raw, ATTRIBUTES)) & !LOG_APPEND_TIME_BIT;
    let attributes = attributes | timestamp_type_bit(timestamp_type);
    put_field(raw, ATTRIBUTES, attributes.to_be_bytes());
    put_field(raw, MAX_TIMESTAMP, max_timestamp.to_be_bytes());
    seal(batch);
}

/// One batch (or entry of an old message set) and its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// The parsed header.
    pub header: BatchHeader,
    /// All bytes of the batch, header included.
    pub bytes: &'a [u8],
}

/// Walks consecutive batches, as a produce payload or a segment holds them; no CRC is checked.
///
/// Ends after the first error: [`BatchError::Truncated`] for a batch that is not all there.
#[must_use]
pub fn iterate(bytes: &[u8]) -> Batches<'_> {
    Batches {
        rest: bytes,
        position: 0,
    }
}

/// See [`iterate`].
#[derive(Debug, Clone)]
pub struct Batches<'a> {
    rest: &'a [u8],
    position: usize,
}

impl Batches<'_> {
    /// Where the next batch begins; after an error, where the good bytes end.
    #[must_use]
    pub fn position(&self) -> usize {
        self.position
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<Batch<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = std::mem::take(&mut self.rest);
        if rest.is_empty() {
            return None;
        }
        let header = match BatchHeader::parse(rest) {
            Ok(header) => header,
            Err(error) => return Some(Err(error)),
        };
        let size = header.size_in_bytes();
        let Some((bytes, rest)) = rest.split_at_checked(size) else {
            return Some(Err(BatchError::Truncated {
                needed: size,
                available: rest.len(),
            }));
        };
        self.rest = rest;
        self.position = self.position.saturating_add(size);
        Some(Ok(Batch { header, bytes }))
    }
}

/// CRC-32C (Castagnoli, RFC 3720), as record batches have it.
///
/// `crc-fast` finds the CPU's features once and then reads them from statics; at 16 KiB it is four
/// times as fast as the crate `crc32c`, which the tests hold against it.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// The attributes of a magic 2 header.
pub(super) struct Attributes {
    pub(super) compression: Compression,
    pub(super) timestamp_type: TimestampType,
    pub(super) transactional: bool,
    pub(super) control: bool,
    pub(super) delete_horizon: bool,
}

impl Attributes {
    pub(super) fn bits(&self) -> i16 {
        let flag = |set: bool, bit: i16| if set { bit } else { 0 };
        i16::from(self.compression.id())
            | timestamp_type_bit(self.timestamp_type)
            | flag(self.transactional, TRANSACTIONAL_BIT)
            | flag(self.control, CONTROL_BIT)
            | flag(self.delete_horizon, DELETE_HORIZON_BIT)
    }
}

/// The attribute bit of a timestamp type, the same in magic 1 and 2.
pub(super) fn timestamp_type_bit(timestamp_type: TimestampType) -> i16 {
    match timestamp_type {
        TimestampType::CreateTime => 0,
        TimestampType::LogAppendTime => LOG_APPEND_TIME_BIT,
    }
}

fn parse_prefix(bytes: &[u8]) -> Option<(i64, i32, i8)> {
    let mut cursor = Cursor::new(bytes);
    let offset = cursor.i64()?;
    let length = cursor.i32()?;
    cursor.take(4)?;
    Some((offset, length, cursor.i8()?))
}

fn seal(batch: &mut [u8]) {
    let crc = crc32c(batch.get(ATTRIBUTES..).unwrap_or_default());
    put_field(header_mut(batch), CRC, crc.to_be_bytes());
}

fn header_mut(batch: &mut [u8]) -> &mut [u8; HEADER_BYTES] {
    batch
        .first_chunk_mut()
        .expect("only whole batches are patched, and they have a header")
}

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "every `at` is a constant above, and the const asserts keep it inside the header"
)]
fn field<const N: usize>(raw: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&raw[at..at + N]);
    value
}

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "every `at` is a constant above, and the const asserts keep it inside the header"
)]
fn put_field<const N: usize>(raw: &mut [u8; HEADER_BYTES], at: usize, value: [u8; N]) {
    raw[at..at + N].copy_from_slice(&value);
}
