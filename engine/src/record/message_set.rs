//! One entry of an old message set (magic 0 and 1): read, open, write.
//!
//! The layout is drawn in `batch`. A compressed entry is a wrapper: its value is a message set of
//! uncompressed messages of the same magic. The wrapper's offset is that of the last message inside;
//! the offsets inside are absolute with magic 0, and with magic 1 relative to the first (KIP-31).
//! Kafka: `LegacyRecord.java`, `AbstractLegacyRecordBatch.java`. Conversion is in `conversion`.

use std::borrow::Cow;

use super::batch::{BatchHeader, LOG_OVERHEAD, TimestampType, timestamp_type_bit};
use super::compression::{self, Compression, Lz4HeaderChecksum};
use super::cursor::Cursor;
use super::reader::Record;
use super::{
    BatchError, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE,
    NO_TIMESTAMP,
};

const CRC_FROM: usize = 16;
/// Offset, size, crc, magic, attributes and two null lengths.
const MESSAGE_BYTES_MIN_V0: usize = 26;
/// The same and a timestamp.
const MESSAGE_BYTES_MIN_V1: usize = 34;

const _: () = assert!(CRC_FROM == LOG_OVERHEAD + 4);
const _: () = assert!(MESSAGE_BYTES_MIN_V0 == CRC_FROM + 1 + 1 + 4 + 4);
const _: () = assert!(MESSAGE_BYTES_MIN_V1 == MESSAGE_BYTES_MIN_V0 + 8);

/// Bytes of a message without key and value.
pub(super) fn message_bytes_min(magic: i8) -> usize {
    if magic == 0 {
        MESSAGE_BYTES_MIN_V0
    } else {
        MESSAGE_BYTES_MIN_V1
    }
}

/// The header of the entry at the start of `bytes`, of which the first 26 or 34 must be there.
pub(super) fn parse_header(
    bytes: &[u8],
    offset: i64,
    message_size: i32,
    magic: i8,
) -> Result<BatchHeader, BatchError> {
    let mut header = BatchHeader {
        base_offset: offset,
        batch_length: message_size,
        partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
        magic,
        crc: 0,
        attributes: 0,
        last_offset_delta: 0,
        base_timestamp: NO_TIMESTAMP,
        max_timestamp: NO_TIMESTAMP,
        producer_id: NO_PRODUCER_ID,
        producer_epoch: NO_PRODUCER_EPOCH,
        base_sequence: NO_SEQUENCE,
        record_count: 1,
    };
    let bytes_min = message_bytes_min(magic);
    if header.size_in_bytes() < bytes_min {
        return Err(BatchError::CorruptMessage(format!(
            "size {message_size} of the message at offset {offset} is less than its overhead"
        )));
    }
    let cut_off = || BatchError::Truncated {
        needed: bytes_min,
        available: bytes.len(),
    };
    let mut cursor = Cursor::new(bytes.get(..bytes_min).ok_or_else(cut_off)?);
    cursor.take(LOG_OVERHEAD).ok_or_else(cut_off)?;
    header.crc = cursor.u32().ok_or_else(cut_off)?;
    cursor.i8().ok_or_else(cut_off)?;
    header.attributes = i16::from(cursor.u8().ok_or_else(cut_off)?);
    if magic == 1 {
        header.max_timestamp = cursor.i64().ok_or_else(cut_off)?;
        header.base_timestamp = header.max_timestamp;
    } else {
        // Magic 0 has no timestamp type: the bit is not defined there.
        header.attributes &= 0x07;
    }
    if header.attributes & 0x07 != 0 {
        header.record_count = 0;
    }
    Ok(header)
}

/// CRC-32 (zlib) of a whole entry, as its crc field should have it.
pub(super) fn crc(entry: &[u8]) -> u32 {
    crc_fast::crc32_iso_hdlc(entry.get(CRC_FROM..).unwrap_or_default())
}

/// Each null or bytes.
type KeyAndValue<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// Key and value of an entry, which must be all of `entry`.
fn parse_body<'a>(entry: &'a [u8], header: &BatchHeader) -> Result<KeyAndValue<'a>, BatchError> {
    let fields = || {
        let mut cursor = Cursor::new(entry);
        // All but the two lengths.
        cursor.take(message_bytes_min(header.magic).saturating_sub(8))?;
        let key = cursor.i32_bytes()?;
        let value = cursor.i32_bytes()?;
        cursor.is_empty().then_some((key, value))
    };
    fields().ok_or_else(|| {
        BatchError::CorruptMessage(format!(
            "key and value of the message at offset {} do not fit its {} bytes",
            header.base_offset,
            entry.len()
        ))
    })
}

/// An entry opened for reading: a message, or the messages inside a wrapper.
#[derive(Debug)]
pub(super) struct OpenMessage<'a> {
    header: BatchHeader,
    /// The entry itself, or the decompressed message set.
    entries: Cow<'a, [u8]>,
    /// What to add to the offsets inside.
    offset_base: i64,
    /// The wrapper's timestamp, if it counts for all messages inside.
    timestamp: Option<i64>,
}

impl<'a> OpenMessage<'a> {
    /// Opens `entry`, checking everything inside a wrapper; the CRC of `entry` itself is not checked.
    pub(super) fn open(entry: &'a [u8], decompressed_bytes_max: usize) -> Result<Self, BatchError> {
        let header = BatchHeader::parse(entry)?;
        let (_, value) = parse_body(entry, &header)?;
        let codec = header.compression()?;
        let mut open = Self {
            header,
            entries: Cow::Borrowed(entry),
            offset_base: 0,
            timestamp: None,
        };
        if codec == Compression::None {
            return Ok(open);
        }
        if codec == Compression::Zstd {
            return Err(BatchError::UnsupportedCompressionType(format!(
                "zstd in a message of magic {}",
                header.magic
            )));
        }
        let value = value.ok_or_else(|| open.invalid("compressed value is null"))?;
        open.entries = Cow::Owned(compression::decompress(
            codec,
            value,
            decompressed_bytes_max,
        )?);
        let last_inner_offset = open.check_entries()?;
        open.offset_base = open.offset_base(last_inner_offset)?;
        if header.timestamp_type() == TimestampType::LogAppendTime {
            open.timestamp = Some(header.max_timestamp);
        }
        Ok(open)
    }

    /// Checks the messages inside and returns the offset of the last, as it is written there.
    fn check_entries(&self) -> Result<i64, BatchError> {
        let mut last_offset = None;
        for entry in super::batch::iterate(&self.entries) {
            // Inside one value nothing may be cut off (Kafka drops such a tail silently).
            let entry = entry.map_err(|error| self.invalid(&error.to_string()))?;
            if entry.header.magic != self.header.magic {
                let magic = entry.header.magic;
                return Err(self.invalid(&format!("a message of magic {magic} inside")));
            }
            if entry.header.compression()? != Compression::None {
                return Err(self.invalid("compressed messages inside compressed ones"));
            }
            entry.header.check_crc(entry.bytes)?;
            parse_body(entry.bytes, &entry.header)?;
            last_offset = Some(entry.header.base_offset);
        }
        last_offset.ok_or_else(|| self.invalid("no messages inside"))
    }

    fn offset_base(&self, last_inner_offset: i64) -> Result<i64, BatchError> {
        let wrapper_offset = self.header.base_offset;
        // Some versions of librdkafka produce wrappers at offset 0.
        if self.header.magic == 0 || wrapper_offset == 0 {
            return Ok(0);
        }
        wrapper_offset
            .checked_sub(last_inner_offset)
            .filter(|base| *base >= 0)
            .ok_or_else(|| {
                self.invalid(&format!(
                    "relative offset {last_inner_offset} of the last message inside"
                ))
            })
    }

    fn invalid(&self, what: &str) -> BatchError {
        let BatchHeader {
            base_offset, magic, ..
        } = self.header;
        BatchError::InvalidRecord(format!(
            "message of magic {magic} at offset {base_offset}: {what}"
        ))
    }

    /// The messages in order.
    pub(super) fn messages(&self) -> Messages<'_> {
        Messages {
            batches: super::batch::iterate(&self.entries),
            offset_base: self.offset_base,
            timestamp: self.timestamp,
        }
    }
}

/// See [`OpenMessage::messages`].
#[derive(Debug)]
pub(super) struct Messages<'a> {
    batches: super::batch::Batches<'a>,
    offset_base: i64,
    timestamp: Option<i64>,
}

impl<'a> Messages<'a> {
    pub(super) fn next(&mut self) -> Option<Result<Record<'a>, BatchError>> {
        let entry = match self.batches.next()? {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error)),
        };
        Some(
            parse_body(entry.bytes, &entry.header).map(|(key, value)| Record {
                offset: self.offset_base.wrapping_add(entry.header.base_offset),
                timestamp: self.timestamp.unwrap_or(entry.header.max_timestamp),
                key,
                value,
                headers: Vec::new(),
            }),
        )
    }
}

/// What all messages of one conversion have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct MessageFormat {
    pub(super) magic: i8,
    pub(super) timestamp_type: TimestampType,
}

impl MessageFormat {
    /// Bytes that [`put_message`](Self::put_message) writes.
    pub(super) fn message_bytes(self, key: Option<&[u8]>, value: Option<&[u8]>) -> usize {
        let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        message_bytes_min(self.magic)
            .saturating_add(length(key))
            .saturating_add(length(value))
    }

    /// Appends one message.
    pub(super) fn put_message(
        self,
        out: &mut Vec<u8>,
        codec: Compression,
        record: &Record<'_>,
    ) -> Result<(), BatchError> {
        let start = out.len();
        let size = self.message_bytes(record.key, record.value);
        let message_size = i32::try_from(size.saturating_sub(LOG_OVERHEAD)).map_err(|_| {
            BatchError::MessageTooLarge {
                what: "message",
                size,
                limit: i32::MAX as usize,
            }
        })?;
        out.reserve(size);
        out.extend_from_slice(&record.offset.to_be_bytes());
        out.extend_from_slice(&message_size.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.magic.to_be_bytes());
        if self.magic == 0 {
            out.push(codec.id());
        } else {
            out.push(codec.id() | timestamp_type_bit(self.timestamp_type) as u8);
            out.extend_from_slice(&record.timestamp.to_be_bytes());
        }
        for bytes in [record.key, record.value] {
            // The message's size was checked against 31 bits, and it counts these bytes.
            let length = bytes.map_or(-1, |bytes| i32::try_from(bytes.len()).unwrap_or(i32::MAX));
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(bytes.unwrap_or_default());
        }
        let entry = out.get_mut(start..).unwrap_or_default();
        let crc = crc(entry).to_be_bytes();
        if let Some(field) = entry.get_mut(LOG_OVERHEAD..CRC_FROM) {
            field.copy_from_slice(&crc);
        }
        Ok(())
    }

    /// Appends a wrapper around `messages`, a message set whose last message is at `last_offset`.
    pub(super) fn put_wrapper(
        self,
        out: &mut Vec<u8>,
        codec: Compression,
        messages: &[u8],
        (last_offset, timestamp): (i64, i64),
    ) -> Result<(), BatchError> {
        let mut value = Vec::new();
        if codec == Compression::Lz4 && self.magic == 0 {
            compression::compress_lz4(messages, Lz4HeaderChecksum::Magic0, &mut value)?;
        } else {
            compression::compress(codec, messages, &mut value)?;
        }
        let wrapper = Record {
            offset: last_offset,
            timestamp: if self.magic == 0 {
                NO_TIMESTAMP
            } else {
                timestamp
            },
            key: None,
            value: Some(&value),
            headers: Vec::new(),
        };
        self.put_message(out, codec, &wrapper)
    }
}
