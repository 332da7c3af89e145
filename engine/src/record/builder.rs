//! A new record batch (magic 2) from records.
//!
//! For what the broker itself writes (internal topics, converted message sets, compacted batches,
//! transaction markers), for tests, and for the load generator. Produced batches never pass here.

use bytes::{Bytes, BytesMut};

use super::batch::{Attributes, BatchHeader, HEADER_BYTES, LOG_OVERHEAD, TimestampType};
use super::compression::{self, Compression};
use super::cursor::{Cursor, put_varint, put_varlong, varlong_bytes};
use super::reader::{Header, Record};
use super::{
    BatchError, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE,
    NO_TIMESTAMP,
};

/// Collects records, then builds the batch around them.
///
/// ```
/// use ringlog_engine::record::{BatchBuilder, BatchReader, Compression};
/// let mut builder = BatchBuilder::new(Compression::Lz4).base_offset(7);
/// builder.append(1_700_000_000_000, Some(b"key"), Some(b"value"), &[])?;
/// let batch = builder.build()?;
/// let reader = BatchReader::open(&batch, 1024)?;
/// assert_eq!(reader.records().next().unwrap()?.offset, 7);
/// # Ok::<(), ringlog_engine::record::BatchError>(())
/// ```
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    header: BatchHeader,
    compression: Compression,
    timestamp_type: TimestampType,
    is_transactional: bool,
    is_control: bool,
    delete_horizon_ms: Option<i64>,
    last_offset: Option<i64>,
    /// What stands in the header if no record comes.
    empty_max_timestamp: i64,
    /// Room for the header, then the records uncompressed.
    buffer: Vec<u8>,
}

impl BatchBuilder {
    /// An empty batch at offset 0, without a producer, with the records' own timestamps.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        Self {
            header: BatchHeader {
                base_offset: 0,
                batch_length: 0,
                partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
                magic: 2,
                crc: 0,
                attributes: 0,
                last_offset_delta: -1,
                base_timestamp: NO_TIMESTAMP,
                max_timestamp: NO_TIMESTAMP,
                producer_id: NO_PRODUCER_ID,
                producer_epoch: NO_PRODUCER_EPOCH,
                base_sequence: NO_SEQUENCE,
                record_count: 0,
            },
            compression,
            timestamp_type: TimestampType::CreateTime,
            is_transactional: false,
            is_control: false,
            delete_horizon_ms: None,
            last_offset: None,
            empty_max_timestamp: NO_TIMESTAMP,
            buffer: vec![0; HEADER_BYTES],
        }
    }

    /// An empty batch with all that `original` says but its records, for some of these: compaction
    /// keeps the last offset, so that the last sequence of its producer stays known. A message set
    /// entry becomes a batch, which begins with the first record that is appended.
    ///
    /// # Errors
    /// `UnsupportedCompressionType` if the codec is unknown.
    pub fn like(original: &BatchHeader) -> Result<Self, BatchError> {
        let mut builder = Self::new(original.compression()?);
        builder.header.base_offset = original.base_offset;
        builder.header.partition_leader_epoch = original.partition_leader_epoch;
        builder.header.producer_id = original.producer_id;
        builder.header.producer_epoch = original.producer_epoch;
        builder.header.base_sequence = original.base_sequence;
        builder.is_transactional = original.is_transactional();
        builder.is_control = original.is_control();
        builder.delete_horizon_ms = original.delete_horizon_ms();
        builder.last_offset = Some(original.last_offset());
        builder.empty_max_timestamp = original.max_timestamp;
        if original.timestamp_type() == TimestampType::LogAppendTime {
            builder = builder.log_append_time(original.max_timestamp);
        }
        Ok(builder)
    }

    /// The offset of the first record. Set it before records are appended.
    #[must_use]
    pub fn base_offset(mut self, base_offset: i64) -> Self {
        self.header.base_offset = base_offset;
        self
    }

    /// The epoch of the leader that appends the batch.
    #[must_use]
    pub fn partition_leader_epoch(mut self, epoch: i32) -> Self {
        self.header.partition_leader_epoch = epoch;
        self
    }

    /// The producer and the sequence of the first record.
    #[must_use]
    pub fn producer(mut self, id: i64, epoch: i16, base_sequence: i32) -> Self {
        self.header.producer_id = id;
        self.header.producer_epoch = epoch;
        self.header.base_sequence = base_sequence;
        self
    }

    /// Makes the batch part of its producer's transaction.
    #[must_use]
    pub fn transactional(mut self) -> Self {
        self.is_transactional = true;
        self
    }

    /// Makes the batch a control batch.
    #[must_use]
    pub fn control(mut self) -> Self {
        self.is_control = true;
        self
    }

    /// All records get this timestamp, and the timestamp type `LogAppendTime`.
    #[must_use]
    pub fn log_append_time(mut self, now_ms: i64) -> Self {
        self.timestamp_type = TimestampType::LogAppendTime;
        self.header.max_timestamp = now_ms;
        self
    }

    /// When compaction may drop the tombstones inside (KIP-534). Set it before records are appended.
    #[must_use]
    pub fn delete_horizon_ms(mut self, delete_horizon_ms: i64) -> Self {
        self.delete_horizon_ms = Some(delete_horizon_ms);
        self
    }

    /// Keeps the last offset of a batch that compaction shortens; such a batch may be empty.
    #[must_use]
    pub fn last_offset(mut self, last_offset: i64) -> Self {
        self.last_offset = Some(last_offset);
        self
    }

    /// Bytes of the batch so far, before compression.
    #[must_use]
    pub fn size_in_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Records so far.
    #[must_use]
    pub fn record_count(&self) -> i32 {
        self.header.record_count
    }

    /// Appends a record at the next offset.
    ///
    /// # Errors
    /// `MessageTooLarge` if a length does not fit Kafka's 31 bits.
    pub fn append(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> Result<(), BatchError> {
        let offset_delta = self
            .header
            .last_offset_delta
            .checked_add(1)
            .ok_or_else(too_large)?;
        self.put(offset_delta, timestamp, key, value, headers)
    }

    /// Appends a record at its own offset: gaps that compaction left stay gaps.
    ///
    /// # Errors
    /// `InvalidRecord` if the offset is not after the last one, else as [`append`](Self::append).
    pub fn append_record(&mut self, record: &Record<'_>) -> Result<(), BatchError> {
        let offset_delta = record.offset.checked_sub(self.header.base_offset);
        let offset_delta = offset_delta.and_then(|delta| i32::try_from(delta).ok());
        match offset_delta {
            Some(delta) if delta > self.header.last_offset_delta => self.put(
                delta,
                record.timestamp,
                record.key,
                record.value,
                &record.headers,
            ),
            _ => Err(BatchError::InvalidRecord(format!(
                "offset {} after {} in the batch at offset {}",
                record.offset,
                self.header.last_offset(),
                self.header.base_offset
            ))),
        }
    }

    fn put(
        &mut self,
        offset_delta: i32,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> Result<(), BatchError> {
        if self.header.record_count == 0 {
            self.header.base_timestamp = self.delete_horizon_ms.unwrap_or(timestamp);
        }
        let timestamp_delta = timestamp.wrapping_sub(self.header.base_timestamp);
        let header_count = i32::try_from(headers.len()).map_err(|_| too_large())?;
        let size = record_bytes(timestamp_delta, offset_delta, key, value, headers);
        let record_length = i32::try_from(size).map_err(|_| too_large())?;

        let out = &mut self.buffer;
        out.reserve(size.saturating_add(5));
        put_varint(out, record_length);
        out.push(0);
        put_varlong(out, timestamp_delta);
        put_varint(out, offset_delta);
        put_bytes(out, key);
        put_bytes(out, value);
        put_varint(out, header_count);
        for header in headers {
            put_bytes(out, Some(header.key));
            put_bytes(out, header.value);
        }

        self.header.record_count = self.header.record_count.saturating_add(1);
        self.header.last_offset_delta = offset_delta;
        if self.timestamp_type == TimestampType::CreateTime {
            self.header.max_timestamp = self.header.max_timestamp.max(timestamp);
        }
        Ok(())
    }

    /// Compresses and seals the batch.
    ///
    /// # Errors
    /// `InvalidRecord` if there is no record and no last offset to keep, `MessageTooLarge` past
    /// Kafka's 31 bits.
    pub fn build(mut self) -> Result<BytesMut, BatchError> {
        if let Some(last_offset) = self.last_offset {
            self.header.last_offset_delta = last_offset
                .checked_sub(self.header.base_offset)
                .and_then(|delta| i32::try_from(delta).ok())
                .filter(|delta| *delta >= self.header.last_offset_delta.max(0))
                .ok_or_else(|| {
                    BatchError::InvalidRecord(format!("last offset {last_offset} is no such"))
                })?;
        } else if self.header.record_count == 0 {
            return Err(BatchError::InvalidRecord(
                "a batch without records".to_owned(),
            ));
        }
        if self.header.record_count == 0 {
            self.compression = Compression::None;
            // Without records there is nothing that a delete horizon could be for.
            self.delete_horizon_ms = None;
            self.header.base_timestamp = NO_TIMESTAMP;
            self.header.max_timestamp = self.header.max_timestamp.max(self.empty_max_timestamp);
        }
        let mut batch = if self.compression == Compression::None {
            self.buffer
        } else {
            let mut batch = vec![0; HEADER_BYTES];
            let records = self.buffer.get(HEADER_BYTES..).unwrap_or_default();
            compression::compress(self.compression, records, &mut batch)?;
            batch
        };
        self.header.batch_length =
            i32::try_from(batch.len().saturating_sub(LOG_OVERHEAD)).map_err(|_| too_large())?;
        self.header.attributes = Attributes {
            compression: self.compression,
            timestamp_type: self.timestamp_type,
            transactional: self.is_transactional,
            control: self.is_control,
            delete_horizon: self.delete_horizon_ms.is_some(),
        }
        .bits();
        self.header.write(&mut batch);
        Ok(BytesMut::from(Bytes::from(batch)))
    }
}

/// How a transaction ended: the control record that Kafka calls its marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionMarker {
    /// 0
    Abort,
    /// 1
    Commit,
}

impl TransactionMarker {
    /// Reads the key of a control record; other control records are `None`.
    #[must_use]
    pub fn from_key(key: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::new(key);
        let version = cursor.i16()?;
        match cursor.i16()? {
            0 if version >= 0 => Some(Self::Abort),
            1 if version >= 0 => Some(Self::Commit),
            _ => None,
        }
    }

    /// The control batch that ends the transaction of `producer` (id and epoch).
    ///
    /// # Errors
    /// None in practice: a marker always fits.
    pub fn build(
        self,
        base_offset: i64,
        producer: (i64, i16),
        coordinator_epoch: i32,
        timestamp: i64,
    ) -> Result<BytesMut, BatchError> {
        // Kafka: ControlRecordType.java and EndTransactionMarker.java, both of version 0.
        let kind: i16 = match self {
            Self::Abort => 0,
            Self::Commit => 1,
        };
        let key = [0i16.to_be_bytes(), kind.to_be_bytes()].concat();
        let value = [
            &0i16.to_be_bytes()[..],
            &coordinator_epoch.to_be_bytes()[..],
        ]
        .concat();
        let mut builder = BatchBuilder::new(Compression::None)
            .base_offset(base_offset)
            .producer(producer.0, producer.1, NO_SEQUENCE)
            .transactional()
            .control();
        builder.append(timestamp, Some(&key), Some(&value), &[])?;
        builder.build()
    }
}

fn too_large() -> BatchError {
    BatchError::MessageTooLarge {
        what: "record batch",
        size: i32::MAX as usize,
        limit: i32::MAX as usize,
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        // The record's length was checked against 31 bits, and it counts these bytes.
        Some(bytes) => {
            put_varlong(out, i64::try_from(bytes.len()).unwrap_or(i64::MAX));
            out.extend_from_slice(bytes);
        }
        None => put_varint(out, -1),
    }
}

fn field_bytes(bytes: Option<&[u8]>) -> usize {
    let length = bytes.map_or(0, <[u8]>::len);
    let prefix = bytes.map_or(-1, |bytes| i64::try_from(bytes.len()).unwrap_or(i64::MAX));
    varlong_bytes(prefix).saturating_add(length)
}

fn record_bytes(
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[Header<'_>],
) -> usize {
    let count = i64::try_from(headers.len()).unwrap_or(i64::MAX);
    let fixed = [
        1,
        varlong_bytes(timestamp_delta),
        varlong_bytes(i64::from(offset_delta)),
        field_bytes(key),
        field_bytes(value),
        varlong_bytes(count),
    ];
    let headers = headers
        .iter()
        .map(|header| field_bytes(Some(header.key)).saturating_add(field_bytes(header.value)));
    fixed
        .into_iter()
        .chain(headers)
        .fold(0, usize::saturating_add)
}
