//! Old message sets to record batches (old producers) and back (old consumers).
//!
//! The only place where batches are re-encoded; everything else keeps the producer's bytes. Kafka:
//! `LogValidator.java` (up), `RecordsUtil.java` and `LazyDownConversionRecords.java` (down).

use bytes::{Bytes, BytesMut};

use super::batch::{self, Batch, BatchHeader, TimestampType};
use super::builder::BatchBuilder;
use super::compression::Compression;
use super::message_set::{MessageFormat, OpenMessage};
use super::reader::{BatchReader, Record};
use super::{BatchError, NO_TIMESTAMP};

/// How large a conversion may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConversionLimits {
    /// Up: `max.message.bytes`, for each entry and each batch made. Down: the answer's size, which
    /// only its first message or wrapper may exceed, so that a consumer always gets on.
    pub bytes_max: usize,
    /// Bytes that one compressed entry or batch may decompress to.
    pub decompressed_bytes_max: usize,
}

/// Whether a produce payload is an old message set: its first entry decides.
#[must_use]
pub fn is_message_set(payload: &[u8]) -> bool {
    matches!(payload.get(16), Some(0 | 1))
}

/// Makes record batches of a producer's message set (magic 0 or 1), after full validation.
///
/// One batch per wrapper, with its codec, and one per run of plain messages (more if it would exceed
/// the limit). Offsets are assigned anew from 0 across the batches, since some old clients write
/// wrong ones; `patch` moves them. Magic 0 has no timestamps: the records get -1. A wrapper of magic
/// 1 with log append time passes its timestamp to the messages inside, as in Kafka, and the batch
/// says `CreateTime`: the topic decides, not the producer.
///
/// # Errors
/// What Kafka answers: see [`BatchError::code`]. Nothing is converted then.
pub fn up_convert(payload: &[u8], limits: &ConversionLimits) -> Result<Vec<BytesMut>, BatchError> {
    let mut up = UpConversion {
        batches: Vec::new(),
        plain: None,
        next_offset: 0,
        limits,
    };
    let mut magic = None;
    for entry in batch::iterate(payload) {
        let Batch { header, bytes } = entry?;
        if header.magic >= 2 || *magic.get_or_insert(header.magic) != header.magic {
            return Err(BatchError::InvalidRecord(format!(
                "magic {} at offset {} in a message set that began with magic {}",
                header.magic,
                header.base_offset,
                magic.unwrap_or(header.magic)
            )));
        }
        if bytes.len() > limits.bytes_max {
            return Err(BatchError::MessageTooLarge {
                what: "message",
                size: bytes.len(),
                limit: limits.bytes_max,
            });
        }
        header.check_crc(bytes)?;
        let open = OpenMessage::open(bytes, limits.decompressed_bytes_max)?;
        up.append(header.compression()?, &open)?;
    }
    up.flush_plain()?;
    if up.batches.is_empty() {
        return Err(BatchError::InvalidRecord(
            "message set without messages".to_owned(),
        ));
    }
    Ok(up.batches)
}

/// A message set becoming record batches.
struct UpConversion<'a> {
    batches: Vec<BytesMut>,
    /// The batch of the plain messages seen last.
    plain: Option<BatchBuilder>,
    next_offset: i64,
    limits: &'a ConversionLimits,
}

impl UpConversion<'_> {
    fn append(&mut self, codec: Compression, open: &OpenMessage<'_>) -> Result<(), BatchError> {
        let mut builder = match self.plain.take() {
            Some(plain) if codec == Compression::None => plain,
            Some(plain) => {
                self.finish(plain)?;
                self.builder(codec)
            }
            None => self.builder(codec),
        };
        let mut messages = open.messages();
        while let Some(message) = messages.next() {
            let message = message?;
            if codec == Compression::None
                && builder.record_count() > 0
                && self.would_exceed(&builder, &message)
            {
                let full = std::mem::replace(&mut builder, self.builder(codec));
                self.finish(full)?;
            }
            builder.append(message.timestamp, message.key, message.value, &[])?;
            self.next_offset = self.next_offset.saturating_add(1);
        }
        if codec == Compression::None {
            self.plain = Some(builder);
            Ok(())
        } else {
            self.finish(builder)
        }
    }

    fn builder(&self, codec: Compression) -> BatchBuilder {
        BatchBuilder::new(codec).base_offset(self.next_offset)
    }

    /// A little early: 40 bytes are more than any record adds to its key and value.
    fn would_exceed(&self, builder: &BatchBuilder, message: &Record<'_>) -> bool {
        let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        builder
            .size_in_bytes()
            .saturating_add(length(message.key))
            .saturating_add(length(message.value))
            .saturating_add(40)
            > self.limits.bytes_max
    }

    fn flush_plain(&mut self) -> Result<(), BatchError> {
        match self.plain.take() {
            Some(plain) => self.finish(plain),
            None => Ok(()),
        }
    }

    fn finish(&mut self, builder: BatchBuilder) -> Result<(), BatchError> {
        let batch = builder.build()?;
        if batch.len() > self.limits.bytes_max {
            return Err(BatchError::MessageTooLarge {
                what: "converted record batch",
                size: batch.len(),
                limit: self.limits.bytes_max,
            });
        }
        self.batches.push(batch);
        Ok(())
    }
}

/// The result of [`down_convert`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownConverted {
    /// The message set; empty if nothing in the input can be shown to such a consumer.
    pub messages: BytesMut,
    /// Offset after what was converted or skipped: where to read on if `messages` is empty.
    pub next_offset: i64,
}

/// Makes a message set of magic 0 or 1 of consecutive batches, for a Fetch from `first_offset`.
///
/// Headers and control batches are left out; offsets keep the gaps of compaction. As in Kafka, plain
/// records below `first_offset` are dropped (librdkafka relies on it), compressed batches stay whole.
/// Batches that are old enough are copied. A batch that is cut off ends the conversion, and so does
/// an error after the first message: the consumer meets it with its next fetch.
///
/// # Errors
/// `UnsupportedCompressionType` for zstd, else what is wrong with the first batch.
pub fn down_convert(
    batches: &[u8],
    to_magic: i8,
    first_offset: i64,
    limits: &ConversionLimits,
) -> Result<DownConverted, BatchError> {
    let mut down = DownConversion {
        out: Vec::new(),
        next_offset: first_offset,
        to_magic,
        first_offset,
        limits,
    };
    for batch in batch::iterate(batches) {
        let step = match batch {
            Ok(batch) => down.append(&batch),
            Err(BatchError::Truncated { .. }) => break,
            Err(error) => Err(error),
        };
        match step {
            Ok(true) => {}
            Ok(false) => break,
            Err(_) if !down.out.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(DownConverted {
        messages: BytesMut::from(Bytes::from(down.out)),
        next_offset: down.next_offset,
    })
}

/// Record batches becoming a message set.
struct DownConversion<'a> {
    out: Vec<u8>,
    next_offset: i64,
    to_magic: i8,
    first_offset: i64,
    limits: &'a ConversionLimits,
}

impl DownConversion<'_> {
    /// False if there is no room for (all of) the batch.
    fn append(&mut self, batch: &Batch<'_>) -> Result<bool, BatchError> {
        let header = &batch.header;
        let has_room = if header.last_offset() < self.first_offset || header.is_control() {
            true
        } else if header.magic <= self.to_magic {
            self.push(batch.bytes)
        } else {
            self.convert(batch)?
        };
        if has_room {
            self.next_offset = self.next_offset.max(header.next_offset());
        }
        Ok(has_room)
    }

    fn convert(&mut self, batch: &Batch<'_>) -> Result<bool, BatchError> {
        let codec = batch.header.compression()?;
        if codec == Compression::Zstd {
            return Err(BatchError::UnsupportedCompressionType(format!(
                "the zstd batch at offset {} cannot be converted to magic {}",
                batch.header.base_offset, self.to_magic
            )));
        }
        let reader = BatchReader::open(batch.bytes, self.limits.decompressed_bytes_max)?;
        if codec == Compression::None {
            self.convert_plain(&reader)
        } else {
            self.convert_compressed(codec, &reader)
        }
    }

    fn convert_plain(&mut self, reader: &BatchReader<'_>) -> Result<bool, BatchError> {
        let format = self.format(reader.header());
        let mut message = Vec::new();
        for record in reader.records() {
            let record = record?;
            if record.offset < self.first_offset {
                continue;
            }
            message.clear();
            format.put_message(&mut message, Compression::None, &record)?;
            if !self.push(&message) {
                return Ok(false);
            }
            self.next_offset = self.next_offset.max(record.offset.saturating_add(1));
        }
        Ok(true)
    }

    fn convert_compressed(
        &mut self,
        codec: Compression,
        reader: &BatchReader<'_>,
    ) -> Result<bool, BatchError> {
        let format = self.format(reader.header());
        let mut messages = Vec::new();
        let mut base_offset = None;
        let mut last_offset = 0;
        let mut max_timestamp = NO_TIMESTAMP;
        for record in reader.records() {
            let mut record = record?;
            last_offset = record.offset;
            max_timestamp = max_timestamp.max(record.timestamp);
            if self.to_magic == 1 {
                let base_offset = *base_offset.get_or_insert(record.offset);
                record.offset = record.offset.wrapping_sub(base_offset);
            }
            format.put_message(&mut messages, Compression::None, &record)?;
        }
        if messages.is_empty() {
            return Ok(true);
        }
        let mut wrapper = Vec::new();
        format.put_wrapper(&mut wrapper, codec, &messages, (last_offset, max_timestamp))?;
        Ok(self.push(&wrapper))
    }

    fn format(&self, header: &BatchHeader) -> MessageFormat {
        let timestamp_type = if self.to_magic == 0 {
            TimestampType::CreateTime
        } else {
            header.timestamp_type()
        };
        MessageFormat {
            magic: self.to_magic,
            timestamp_type,
        }
    }

    /// Appends whole messages if there is room, and always the first ones.
    fn push(&mut self, messages: &[u8]) -> bool {
        let size = self.out.len().saturating_add(messages.len());
        let has_room = self.out.is_empty() || size <= self.limits.bytes_max;
        if has_room {
            self.out.extend_from_slice(messages);
        }
        has_room
    }
}
