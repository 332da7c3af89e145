//! The records inside a batch, whatever its magic.
//!
//! Uncompressed records are slices of the batch; compressed ones of a buffer that is bounded by a
//! limit. The CRC is not checked here: what is appended is validated, what is recovered is too.

use std::borrow::Cow;

use super::BatchError;
use super::batch::{BatchHeader, HEADER_BYTES, TimestampType};
use super::compression::{self, Compression};
use super::cursor::Cursor;
use super::message_set::{Messages, OpenMessage};

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record<'a> {
    /// Offset in the partition.
    pub offset: i64,
    /// Milliseconds since 1970, -1 for none.
    pub timestamp: i64,
    /// Key, if not null.
    pub key: Option<&'a [u8]>,
    /// Value; null is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers, in order; keys may repeat.
    pub headers: Vec<Header<'a>>,
}

/// One header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// Key: UTF-8 by Kafka's rule, not checked.
    pub key: &'a [u8],
    /// Value, if not null.
    pub value: Option<&'a [u8]>,
}

/// A batch opened for reading.
#[derive(Debug)]
pub struct BatchReader<'a> {
    header: BatchHeader,
    body: Body<'a>,
}

#[derive(Debug)]
enum Body<'a> {
    Records(Cow<'a, [u8]>),
    Message(OpenMessage<'a>),
}

impl<'a> BatchReader<'a> {
    /// Opens `batch`, which is exactly one batch, decompressing to at most `decompressed_bytes_max`.
    ///
    /// # Errors
    /// If the header or the compressed bytes are damaged, or at the limit.
    pub fn open(batch: &'a [u8], decompressed_bytes_max: usize) -> Result<Self, BatchError> {
        let header = BatchHeader::parse(batch)?;
        let size = header.size_in_bytes();
        let bytes = batch.get(..size).ok_or(BatchError::Truncated {
            needed: size,
            available: batch.len(),
        })?;
        let body = if header.magic < 2 {
            Body::Message(OpenMessage::open(bytes, decompressed_bytes_max)?)
        } else {
            let records = bytes.get(HEADER_BYTES..).unwrap_or_default();
            match header.compression()? {
                Compression::None => Body::Records(Cow::Borrowed(records)),
                // Compaction can leave a batch without records, and without a stream.
                _ if header.record_count == 0 => Body::Records(Cow::Borrowed(&[])),
                codec => Body::Records(Cow::Owned(compression::decompress(
                    codec,
                    records,
                    decompressed_bytes_max,
                )?)),
            }
        };
        Ok(Self { header, body })
    }

    /// The header of the batch.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The records in order; ends after the first error.
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        Records(match &self.body {
            Body::Records(bytes) => Inner::Records(BatchRecords {
                header: self.header,
                cursor: Cursor::new(bytes),
                left: self.header.record_count,
            }),
            Body::Message(message) => Inner::Messages(message.messages()),
        })
    }
}

/// See [`BatchReader::records`].
#[derive(Debug)]
pub struct Records<'a>(Inner<'a>);

#[derive(Debug)]
enum Inner<'a> {
    Records(BatchRecords<'a>),
    Messages(Messages<'a>),
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Inner::Records(records) => records.next(),
            Inner::Messages(messages) => messages.next(),
        }
    }
}

#[derive(Debug)]
struct BatchRecords<'a> {
    header: BatchHeader,
    cursor: Cursor<'a>,
    left: i32,
}

impl<'a> BatchRecords<'a> {
    fn next(&mut self) -> Option<Result<Record<'a>, BatchError>> {
        if self.left == 0 {
            let rest = self.cursor.remaining();
            self.cursor = Cursor::new(&[]);
            return (rest > 0).then(|| Err(self.invalid(&format!("{rest} bytes after the last"))));
        }
        let record = self.read();
        if record.is_ok() {
            self.left = self.left.saturating_sub(1);
        } else {
            self.left = 0;
            self.cursor = Cursor::new(&[]);
        }
        Some(record)
    }

    // The inner loop of conversion and of compaction; with several callers it is not inlined by itself
    // (half as many instructions again, by the gate).
    #[inline(always)]
    fn read(&mut self) -> Result<Record<'a>, BatchError> {
        let available = self.cursor.remaining();
        let Some(Some(body)) = self.cursor.varint_bytes() else {
            return Err(self.invalid(&format!("does not fit the {available} bytes left")));
        };
        let (offset_delta, mut record) = parse_record(body)
            .ok_or_else(|| self.invalid(&format!("fields do not fit its {} bytes", body.len())))?;
        if offset_delta < 0 || offset_delta > self.header.last_offset_delta {
            return Err(self.invalid(&format!("offset delta {offset_delta} is out of range")));
        }
        record.offset = self
            .header
            .base_offset
            .wrapping_add(i64::from(offset_delta));
        record.timestamp = match self.header.timestamp_type() {
            TimestampType::CreateTime => self.header.base_timestamp.wrapping_add(record.timestamp),
            TimestampType::LogAppendTime => self.header.max_timestamp,
        };
        Ok(record)
    }

    #[cold]
    fn invalid(&self, what: &str) -> BatchError {
        let BatchHeader {
            base_offset,
            record_count,
            ..
        } = self.header;
        let index = record_count.wrapping_sub(self.left);
        BatchError::InvalidRecord(format!(
            "record {index} of {record_count} in the batch at offset {base_offset}: {what}"
        ))
    }
}

/// The offset delta, and a record whose timestamp is still a delta (Kafka: `DefaultRecord.java`).
#[inline(always)]
fn parse_record(body: &[u8]) -> Option<(i32, Record<'_>)> {
    let mut cursor = Cursor::new(body);
    let _unused_attributes = cursor.u8()?;
    let timestamp_delta = cursor.varlong()?;
    let offset_delta = cursor.varint()?;
    let mut record = Record {
        offset: 0,
        timestamp: timestamp_delta,
        key: cursor.varint_bytes()?,
        value: cursor.varint_bytes()?,
        headers: Vec::new(),
    };
    let header_count = u32::try_from(cursor.varint()?).ok()?;
    for _ in 0..header_count {
        let key = cursor.varint_bytes()??;
        let value = cursor.varint_bytes()?;
        record.headers.push(Header { key, value });
    }
    cursor.is_empty().then_some((offset_delta, record))
}
