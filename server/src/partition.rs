//! A partition: a log with Kafka's meaning.
//!
//! Order of an append: bytes checked (or an old message set converted), turn taken, sequence
//! numbers checked, log written, producer state updated, journal fed. The high watermark is the
//! end of what is durable in durable mode, and the end of the log in page-cache mode.

use std::cell::{Cell, Ref, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use ringlog_engine::journal::Lsn;
use ringlog_engine::log::{AppendBatch, AppendTime, Log, LogConfig, LogError, LogPosition};
use ringlog_engine::record::batch::{self, ProduceLimits, iterate, validate};
use ringlog_engine::record::{
    BatchBuilder, BatchError, BatchHeader, BatchReader, Compression, conversion,
};

use crate::config::topic::{CompressionType, TimestampType, TopicConfig};
use crate::metadata::state::Topic;
use crate::metrics::trace::{Stage, Trace, stamp};
use crate::producer_state::{ProducerState, Verdict};
use crate::room::{self, Appender};
use crate::shard::Shard;
use crate::turnstile::Turnstile;
use crate::watcher::Watcher;

/// Most bytes that the compressed parts of one produced message set or batch may unpack to, where
/// they must be unpacked at all.
const DECOMPRESSED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// An open partition of which this broker is the leader.
pub struct Partition {
    /// Number of the partition in its topic.
    pub index: i32,
    /// Its log on disk.
    pub log: Log,
    topic: RefCell<Arc<Topic>>,
    producers: RefCell<ProducerState>,
    high_watermark: Cell<LogPosition>,
    leader_epoch: i32,
    turnstile: Turnstile,
    /// Snapshots of the producers are written one after the other: each removes older ones.
    pub(crate) snapshots: Turnstile,
    watchers: RefCell<Vec<Weak<Watcher>>>,
}

/// Who appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A produce request of this version.
    Client {
        /// Version of the produce request: 3 and later carry exactly one batch of magic 2.
        version: i16,
    },
    /// A coordinator of this broker.
    Coordinator,
}

/// A successful append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Offset after the last record.
    pub next_offset: i64,
    /// Timestamp given by the broker, -1 with CreateTime.
    pub log_append_time: i64,
    /// What to wait for before the append is durable; `None` if nothing.
    pub lsn: Option<Lsn>,
}

/// Why an append was refused.
#[derive(Clone, Debug, PartialEq)]
pub struct AppendError {
    /// Kafka's error.
    pub error: ResponseError,
    /// For the producer's log.
    pub message: String,
}

impl AppendError {
    fn new(error: ResponseError, message: impl Into<String>) -> AppendError {
        AppendError {
            error,
            message: message.into(),
        }
    }
}

impl From<BatchError> for AppendError {
    fn from(error: BatchError) -> AppendError {
        let code =
            ResponseError::try_from_code(error.code()).unwrap_or(ResponseError::CorruptMessage);
        AppendError::new(code, error.to_string())
    }
}

impl From<LogError> for AppendError {
    fn from(error: LogError) -> AppendError {
        // As Kafka: not worth a retry, unlike an error of the storage.
        let code = match error {
            LogError::TooLarge { .. } => ResponseError::RecordListTooLarge,
            _ => ResponseError::KafkaStorageError,
        };
        AppendError::new(code, error.to_string())
    }
}

impl Partition {
    /// A partition around an opened log whose whole content is durable.
    pub fn new(
        topic: Arc<Topic>,
        index: i32,
        leader_epoch: i32,
        log: Log,
        producers: ProducerState,
    ) -> Rc<Partition> {
        let high_watermark = Cell::new(log.end_position());
        Rc::new(Partition {
            index,
            log,
            topic: RefCell::new(topic),
            producers: RefCell::new(producers),
            high_watermark,
            leader_epoch,
            turnstile: Turnstile::default(),
            snapshots: Turnstile::default(),
            watchers: RefCell::default(),
        })
    }

    /// Its topic, as of the newest image.
    pub fn topic(&self) -> Ref<'_, Arc<Topic>> {
        self.topic.borrow()
    }

    /// Takes over changed settings; they hold from the next append on. Gives whether they differ.
    pub fn set_topic(&self, topic: Arc<Topic>) -> bool {
        if Arc::ptr_eq(&self.topic.borrow(), &topic) {
            return false;
        }
        self.log.set_config(log_config(&topic, self.index));
        let before = self.topic.replace(topic);
        before.config != self.topic.borrow().config
    }

    /// Up to where consumers may read.
    pub fn high_watermark(&self) -> LogPosition {
        self.high_watermark.get()
    }

    /// Epoch of this broker's leadership.
    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }

    /// The idempotent producers, for snapshots and expiry.
    pub fn producers(&self) -> &RefCell<ProducerState> {
        &self.producers
    }

    /// Moves the high watermark on and wakes who waits for data.
    pub fn advance_high_watermark(&self, end: LogPosition) {
        if end.offset > self.high_watermark.get().offset {
            self.high_watermark.set(end);
            self.wake_watchers();
        }
    }

    /// `watcher` is told of the next move of the high watermark, once.
    pub fn watch(&self, watcher: &Rc<Watcher>) {
        let mut watchers = self.watchers.borrow_mut();
        if watchers.len() == watchers.capacity() {
            watchers.retain(|watcher| watcher.strong_count() > 0);
        }
        watchers.push(Rc::downgrade(watcher));
    }

    /// Wakes who waits for data, as when the partition is deleted.
    pub fn wake_watchers(&self) {
        if self.watchers.borrow().is_empty() {
            return;
        }
        for watcher in self.watchers.take().iter().filter_map(Weak::upgrade) {
            watcher.notify();
        }
    }

    /// Appends the records of one partition of a produce request.
    ///
    /// # Errors
    /// Kafka's error with the reason; nothing has been appended then.
    pub async fn append(
        self: &Rc<Self>,
        shard: &Shard,
        records: Bytes,
        origin: Origin,
        trace: Option<&Trace>,
    ) -> Result<Outcome, AppendError> {
        let appender = match origin {
            Origin::Client { .. } => Appender::Client,
            Origin::Coordinator => Appender::Coordinator,
        };
        // The ticket before anything that may wait: requests come in the order of their connection.
        let turn = self.turnstile.enter();
        if shard.broker.room.is_quiet() {
            room::wake(shard).await;
        }
        if let Some(reason) = shard.broker.room.refusal(|| self.log.directory(), appender) {
            if let Ok(header) = BatchHeader::parse(&records) {
                self.producers.borrow_mut().refused(&header);
            }
            return Err(AppendError::new(ResponseError::KafkaStorageError, reason));
        }
        let config = self.topic().config.clone();
        let batches = checked_batches(records, origin, &config, shard.io.wall_ms())?;
        let bytes = batches.iter().map(|batch| batch.bytes.len()).sum();
        let turn = turn.await;
        let storage = |reason: crate::shard::NotDurable| {
            AppendError::new(ResponseError::KafkaStorageError, reason.0)
        };
        let trace = trace.filter(|_| shard.journal().is_some());
        stamp(trace, Stage::Append, &shard.io);
        let reservation = shard.reserve(bytes).await.map_err(storage)?;
        stamp(trace, Stage::Journal, &shard.io);
        if let Some(duplicate) = self.check_sequences(&batches)? {
            return Ok(Outcome {
                lsn: self.duplicate_lsn(shard),
                ..duplicate
            });
        }
        let mut headers: Vec<BatchHeader> = batches.iter().map(|batch| batch.header).collect();
        let now_ms = shard.io.wall_ms();
        let timestamp_type = match config.message_timestamp_type {
            TimestampType::CreateTime => batch::TimestampType::CreateTime,
            TimestampType::LogAppendTime => batch::TimestampType::LogAppendTime,
        };
        let time = AppendTime {
            now_ms,
            timestamp_type,
        };
        let appended = self.log.append(batches, self.leader_epoch, time).await;
        if appended.is_err() {
            self.producers.borrow_mut().refused(&headers[0]);
        }
        let appended = appended?;
        self.take_note(&mut headers, appended.base_offset, now_ms);
        let (messages, so_far) = shard.counters.appended.get();
        let added = appended.last_offset + 1 - appended.base_offset;
        let appended_now = (messages + added.unsigned_abs(), so_far + bytes as u64);
        shard.counters.appended.set(appended_now);
        let lsn = shard.appended(self, &appended).map_err(storage)?;
        drop((reservation, turn));
        if shard.journal().is_none() {
            self.flush_by_count(&config).await?;
        }
        Ok(Outcome {
            base_offset: appended.base_offset,
            next_offset: appended.last_offset + 1,
            log_append_time: appended.log_append_time,
            lsn,
        })
    }

    /// The producers' side of an append: their batches with the offsets that they got.
    fn take_note(&self, headers: &mut [BatchHeader], base_offset: i64, now_ms: i64) {
        let mut producers = self.producers.borrow_mut();
        let mut offset = base_offset;
        for header in headers {
            header.base_offset = offset;
            offset = header.next_offset();
            producers.appended(header, now_ms);
        }
    }

    /// `flush.messages` of page-cache mode.
    async fn flush_by_count(&self, config: &TopicConfig) -> Result<(), AppendError> {
        if self.log.log_end_offset() - self.log.recovery_point() >= config.flush_messages {
            self.log.flush().await?;
        }
        Ok(())
    }

    fn check_sequences(&self, batches: &[AppendBatch]) -> Result<Option<Outcome>, AppendError> {
        let producers = self.producers.borrow();
        for AppendBatch { header, .. } in batches {
            let (id, epoch, base) = (
                header.producer_id,
                header.producer_epoch,
                header.base_sequence,
            );
            match producers.check(header) {
                Verdict::New => {}
                Verdict::Duplicate { base_offset } => {
                    let next_offset = base_offset + i64::from(header.record_count);
                    let (log_append_time, lsn) = (-1, None);
                    return Ok(Some(Outcome {
                        base_offset,
                        next_offset,
                        log_append_time,
                        lsn,
                    }));
                }
                Verdict::OutOfOrder => {
                    return Err(AppendError::new(
                        ResponseError::OutOfOrderSequenceNumber,
                        format!("Out of order sequence number for producer {id}: {base}"),
                    ));
                }
                Verdict::Old => {
                    return Err(AppendError::new(
                        ResponseError::DuplicateSequenceNumber,
                        format!("Producer {id} sent sequence {base} long ago"),
                    ));
                }
                Verdict::Fenced => {
                    return Err(AppendError::new(
                        ResponseError::InvalidProducerEpoch,
                        format!("Epoch {epoch} of producer {id} is smaller than the last seen"),
                    ));
                }
            }
        }
        Ok(None)
    }

    /// A retry may be answered only when the first try is durable.
    fn duplicate_lsn(&self, shard: &Shard) -> Option<Lsn> {
        if self.high_watermark.get().offset >= self.log.log_end_offset() {
            return None;
        }
        shard.newest_undurable()
    }
}

/// The batches of a produce request, checked; old message sets become batches.
fn checked_batches(
    records: Bytes,
    origin: Origin,
    config: &TopicConfig,
    now_ms: i64,
) -> Result<Vec<AppendBatch>, AppendError> {
    let version = match origin {
        Origin::Client { version } => version,
        Origin::Coordinator => i16::MAX,
    };
    let limits = ProduceLimits {
        batch_bytes_max: config.max_message_bytes as usize,
        zstd_allowed: version >= 7,
    };
    let mut batches = Vec::new();
    if conversion::is_message_set(&records) {
        if version >= 3 {
            return Err(AppendError::new(
                ResponseError::InvalidRecord,
                format!("Produce requests with version {version} carry batches of magic 2 only"),
            ));
        }
        let conversion_limits = conversion::ConversionLimits {
            bytes_max: DECOMPRESSED_BYTES_MAX,
            decompressed_bytes_max: DECOMPRESSED_BYTES_MAX,
        };
        for converted in conversion::up_convert(&records, &conversion_limits)? {
            let bytes = converted.freeze();
            batches.push(AppendBatch {
                header: validate(&bytes, &limits)?,
                bytes,
            });
        }
    } else {
        for batch in iterate(&records) {
            let batch = batch?;
            let bytes = records.slice_ref(batch.bytes);
            batches.push(AppendBatch {
                header: validate(&bytes, &limits)?,
                bytes,
            });
        }
        if version >= 3 && batches.len() != 1 {
            return Err(AppendError::new(
                ResponseError::InvalidRecord,
                format!("Produce requests with version {version} carry exactly one batch"),
            ));
        }
    }
    if batches.is_empty() {
        return Err(AppendError::new(
            ResponseError::InvalidRecord,
            "No record batch was sent",
        ));
    }
    for batch in &mut batches {
        check_timestamps(&batch.header, config, now_ms)?;
        if config.cleanup_policy.compact && origin != Origin::Coordinator {
            check_keys(batch)?;
        }
        if let Some(codec) = codec(config.compression_type) {
            recompress(batch, codec)?;
        }
    }
    Ok(batches)
}

/// The codec that the topic wants, if it does not leave it to the producer.
fn codec(compression_type: CompressionType) -> Option<Compression> {
    match compression_type {
        CompressionType::Producer => None,
        CompressionType::Uncompressed => Some(Compression::None),
        CompressionType::Gzip => Some(Compression::Gzip),
        CompressionType::Snappy => Some(Compression::Snappy),
        CompressionType::Lz4 => Some(Compression::Lz4),
        CompressionType::Zstd => Some(Compression::Zstd),
    }
}

fn check_timestamps(
    header: &BatchHeader,
    config: &TopicConfig,
    now_ms: i64,
) -> Result<(), AppendError> {
    if config.message_timestamp_type == TimestampType::LogAppendTime || header.max_timestamp < 0 {
        return Ok(());
    }
    let after = header.max_timestamp.saturating_sub(now_ms);
    let before = now_ms.saturating_sub(header.base_timestamp.min(header.max_timestamp));
    if after > config.message_timestamp_after_max_ms
        || before > config.message_timestamp_before_max_ms
    {
        return Err(AppendError::new(
            ResponseError::InvalidTimestamp,
            format!(
                "Timestamp {} of message is out of range: within {} ms before and {} ms after {}",
                header.max_timestamp,
                config.message_timestamp_before_max_ms,
                config.message_timestamp_after_max_ms,
                now_ms
            ),
        ));
    }
    Ok(())
}

fn check_keys(batch: &AppendBatch) -> Result<(), AppendError> {
    let reader = BatchReader::open(&batch.bytes, DECOMPRESSED_BYTES_MAX)?;
    for record in reader.records() {
        if record?.key.is_none() {
            return Err(AppendError::new(
                ResponseError::InvalidRecord,
                "Compacted topic cannot accept message without key",
            ));
        }
    }
    Ok(())
}

/// `compression.type` of the topic other than `producer`: the batch is written anew.
fn recompress(batch: &mut AppendBatch, codec: Compression) -> Result<(), AppendError> {
    let header = &batch.header;
    if header.compression()? == codec {
        return Ok(());
    }
    let reader = BatchReader::open(&batch.bytes, DECOMPRESSED_BYTES_MAX)?;
    let mut builder = BatchBuilder::new(codec);
    if header.has_producer_id() {
        builder = builder.producer(
            header.producer_id,
            header.producer_epoch,
            header.base_sequence,
        );
    }
    if header.is_transactional() {
        builder = builder.transactional();
    }
    for record in reader.records() {
        builder.append_record(&record?)?;
    }
    let bytes = builder.build()?.freeze();
    let header = BatchHeader::parse(&bytes)?;
    *batch = AppendBatch { header, bytes };
    Ok(())
}

/// The settings of a partition's log, from those of its topic.
pub fn log_config(topic: &Topic, index: i32) -> LogConfig {
    let config = &topic.config;
    // What is in the active segment is not compacted (Kafka: LogConfig.maxSegmentMs).
    let segment_ms = if config.cleanup_policy.compact {
        config.segment_ms.min(config.max_compaction_lag_ms)
    } else {
        config.segment_ms
    };
    LogConfig {
        segment_bytes: config.segment_bytes,
        segment_ms,
        segment_jitter_ms: config.segment_jitter_ms,
        jitter_seed: u64::from(topic.id.as_fields().0) ^ u64::from(index.unsigned_abs()),
        index_interval_bytes: config.index_interval_bytes,
        index_bytes_max: config.segment_index_bytes,
        preallocate: config.preallocate,
        is_compacted: config.cleanup_policy.compact,
    }
}
