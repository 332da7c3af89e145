//! Appends: assign offsets, roll if due, one vectored write at the segment's end, index.
//!
//! Record bytes are not copied. A batch is written as two buffers: a new prefix of its header (base
//! offset, length, leader epoch; the whole header where the timestamp type changes) and the rest of
//! the caller's bytes. All prefixes of one append share an allocation.

use bytes::{Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};

use super::directory::SegmentFileKind;
use super::error::{IoContext, LogError};
use super::segment::{BatchPlace, RollParameters, Segment};
use super::{Log, LogConfig, LogPosition, TAIL_BATCHES, create_segment_file};
use crate::io::File;
use crate::record::batch::{self, HEADER_BYTES};
use crate::record::{BatchHeader, TimestampType};

/// Base offset, length and leader epoch: what an append changes outside the CRC.
const PREFIX_BYTES: usize = 16;
/// Where the crc field ends, and the bytes that it covers begin.
const CRC_END: usize = 21;
/// A segment that has this many bytes, or is a quarter full, gets blocks ahead of its end: as much again, as
/// far as its shard has some left ([`super::SegmentFiles::take_ahead`]).
const RESERVE_FROM: u32 = 1 << 20;
/// How far a segment goes without, where its shard has none left, before it asks again.
const WITHOUT_BYTES: u32 = 1 << 20;

/// A validated batch, with its bytes.
#[derive(Clone, Debug)]
pub struct AppendBatch {
    /// The header of `bytes`.
    pub header: BatchHeader,
    /// Exactly the batch.
    pub bytes: Bytes,
}

/// The time of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendTime {
    /// Wall clock.
    pub now_ms: i64,
    /// `message.timestamp.type`: with `LogAppendTime` all records get `now_ms`.
    pub timestamp_type: TimestampType,
}

/// What became of an append.
#[derive(Clone, Debug)]
pub struct Appended {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Offset of the last record.
    pub last_offset: i64,
    /// The records' timestamp, if the log sets it; else -1.
    pub log_append_time: i64,
    /// Segment that has the batches.
    pub segment_base: i64,
    /// Where they begin in the .log file.
    pub position: u32,
    /// What was written, in order.
    pub buffers: Vec<Bytes>,
    /// The file that was written, for a caller that syncs it.
    pub file: File,
    /// The log's end after this append.
    pub end: LogPosition,
}

enum Offsets {
    Assign { leader_epoch: i32 },
    Keep,
}

/// An append ready to be written.
struct Prepared {
    buffers: Vec<Bytes>,
    places: Vec<BatchPlace>,
    bytes: u64,
}

impl Log {
    /// Appends batches as the leader: assigns offsets and the leader epoch. The batches were validated
    /// ([`batch::validate`]). They are visible to readers at return, and durable after a
    /// [`Log::flush`] or what the caller's journal says.
    ///
    /// The future must be run to its end: dropped inside a write it poisons the log.
    ///
    /// # Errors
    /// `TooLarge`, `InvalidBatch` and a failed roll leave the log as it was; a failed write poisons it.
    pub async fn append(
        &self,
        batches: Vec<AppendBatch>,
        leader_epoch: i32,
        time: AppendTime,
    ) -> Result<Appended, LogError> {
        self.append_as(batches, &Offsets::Assign { leader_epoch }, time)
            .await
    }

    /// Appends batches that have their offsets and leader epochs already, as a follower or a journal
    /// replay does. The first base offset may lie above the log end offset, not below.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub async fn append_replicated(
        &self,
        batches: Vec<AppendBatch>,
        now_ms: i64,
    ) -> Result<Appended, LogError> {
        let time = AppendTime {
            now_ms,
            timestamp_type: TimestampType::CreateTime,
        };
        self.append_as(batches, &Offsets::Keep, time).await
    }

    async fn append_as(
        &self,
        batches: Vec<AppendBatch>,
        offsets: &Offsets,
        time: AppendTime,
    ) -> Result<Appended, LogError> {
        let _turn = self.append_lock.lock().await;
        self.check_writable()?;
        let mut prepared = prepare(&batches, self.log_end_offset(), offsets, time)?;
        drop(batches);
        self.roll_if_due(&prepared, time.now_ms).await?;
        let end = self.end_position();
        let file = self.file(end.segment_base).await?;
        if self.is_ahead_due(end.position, prepared.bytes) {
            // Seldom: its future is no part of that of every append.
            Box::pin(self.reserve_ahead(&file, end.position, prepared.bytes)).await;
        }
        let mut position = end.position;
        for place in &mut prepared.places {
            place.position = position;
            position += place.size;
        }
        let unfinished = Unfinished(Some(self));
        let written = self
            .io()
            .write_at(&file, prepared.buffers.clone(), end.position.into())
            .await;
        unfinished.finish();
        if let Err(error) = written {
            let path = self.path(end.segment_base, SegmentFileKind::Log);
            // No page was lost: without what was written of it, the log is as it was.
            if error.kind() == std::io::ErrorKind::StorageFull
                && self.io().truncate(&file, end.position.into()).await.is_ok()
            {
                let state = &mut *self.state.borrow_mut();
                let active = state.active_mut();
                (active.reserved, active.ahead) = (u32::MAX, None);
                return Err(LogError::io("write", &path, error));
            }
            return self.poison_on_error(Err(LogError::io("write", &path, error)));
        }
        self.note(&prepared.places, time.now_ms);
        let log_append_time = match time.timestamp_type {
            TimestampType::CreateTime => crate::record::NO_TIMESTAMP,
            TimestampType::LogAppendTime => time.now_ms,
        };
        let (first, last) = (
            prepared.places[0],
            prepared.places[prepared.places.len() - 1],
        );
        Ok(Appended {
            base_offset: first.base_offset,
            last_offset: last.last_offset,
            log_append_time,
            segment_base: end.segment_base,
            position: end.position,
            buffers: prepared.buffers,
            file,
            end: self.end_position(),
        })
    }

    /// Whether an append of so many bytes goes beyond the blocks that were asked for.
    fn is_ahead_due(&self, position: u32, bytes: u64) -> bool {
        let config = self.config.borrow();
        let is_beyond =
            || u64::from(position) + bytes > self.state.borrow().active().reserved.into();
        position >= reserve_from(&config) && !config.preallocate && is_beyond()
    }

    /// Asks for the blocks of what comes next in one piece: a write into blocks that are there costs less
    /// than one for which the file system sets each aside. A matter of speed only.
    async fn reserve_ahead(&self, file: &File, position: u32, bytes: u64) {
        let end = u64::from(position) + bytes;
        let room = {
            let limit = u64::from(self.config.borrow().segment_bytes).min(i32::MAX as u64);
            let state = &mut *self.state.borrow_mut();
            let active = state.active_mut();
            // What was ahead is written by now.
            active.ahead = None;
            let wanted = limit.saturating_sub(end).min(position.into());
            let taken = self.files.take_ahead(wanted);
            if taken.is_none() {
                active.reserved = position.saturating_add(WITHOUT_BYTES);
            }
            taken
        };
        let Some((ahead, guard)) = room else {
            return;
        };
        let length = end + ahead - u64::from(position);
        let reserved = self.io().reserve(file, position.into(), length).await;
        if reserved.is_err() {
            // A full disk, or a file system that cannot: no more for this segment, and what was got goes back.
            let unfinished = Unfinished(Some(self));
            let _ = self.io().truncate(file, position.into()).await;
            unfinished.finish();
        }
        let state = &mut *self.state.borrow_mut();
        let active = state.active_mut();
        (active.reserved, active.ahead) = match reserved {
            Ok(()) => (u32::try_from(end + ahead).unwrap_or(u32::MAX), Some(guard)),
            Err(_) => (u32::MAX, None),
        };
    }

    /// Moves the log end: from here on readers see the batches.
    fn note(&self, places: &[BatchPlace], now_ms: i64) {
        let index_interval_bytes = self.config.borrow().index_interval_bytes;
        let state = &mut *self.state.borrow_mut();
        for place in places {
            let active = state.active_mut();
            active.created_ms.get_or_insert(now_ms);
            active.note_batch(place, index_interval_bytes);
            if state.tail.len() == TAIL_BATCHES {
                state.tail.pop_front();
            }
            state.tail.push_back(*place);
            assert!(
                place.base_offset >= state.log_end_offset,
                "batch {place:?} below the log end offset {}",
                state.log_end_offset
            );
            state.log_end_offset = place.last_offset + 1;
        }
    }

    async fn roll_if_due(&self, append: &Prepared, now_ms: i64) -> Result<(), LogError> {
        let config = self.config();
        let limit = u64::from(config.segment_bytes).min(i32::MAX as u64);
        if append.bytes > limit {
            return Err(LogError::TooLarge {
                size: append.bytes,
                limit,
            });
        }
        self.load_first_timestamp().await?;
        let last = append.places[append.places.len() - 1];
        let parameters = RollParameters {
            bytes: append.bytes,
            last_offset: last.last_offset,
            max_timestamp: append
                .places
                .iter()
                .map(|place| place.max_timestamp)
                .max()
                .unwrap_or(crate::record::NO_TIMESTAMP),
            now_ms,
        };
        if self
            .state
            .borrow()
            .active()
            .should_roll(&config, &parameters)
        {
            self.roll(append.places[0].base_offset).await?;
        }
        let base_offset = self.state.borrow().active().base_offset;
        if last.last_offset - base_offset > i64::from(i32::MAX) {
            return Err(LogError::InvalidBatch {
                reason: format!(
                    "offset {} does not fit into the segment {base_offset}",
                    last.last_offset
                ),
            });
        }
        Ok(())
    }

    /// Closes the active segment and begins a new one, if the log still ends at `end` and the active
    /// segment has anything in it; else `false`. For retention.
    ///
    /// # Errors
    /// What the I/O answered; the log is as it was.
    pub async fn roll_segment_at(&self, end: LogPosition) -> Result<bool, LogError> {
        let _turn = self.append_lock.lock().await;
        self.check_writable()?;
        if end.position == 0 || self.end_position() != end {
            return Ok(false);
        }
        self.roll(end.offset).await?;
        Ok(true)
    }

    /// Costs one open, and of a large segment a cut of what it has ahead: the indexes of the closed segment
    /// are written by the next flush, which also syncs the directory entry before the recovery point passes it.
    async fn roll(&self, base_offset: i64) -> Result<(), LogError> {
        let config = self.config();
        let directory = self.directory();
        let old = self.end_position();
        let key = (self.number, base_offset);
        // What may fail for want of a handle comes before the new name, which would be in the way later. A
        // process that was killed may have reserved what this one knows nothing of.
        if config.preallocate || old.position >= reserve_from(&config) {
            let file = self.file(old.segment_base).await?;
            let path = self.path(old.segment_base, SegmentFileKind::Log);
            let length = self.io().length(&file).await.at("stat", &path)?;
            let is_longer = length != old.position.into();
            // A cut that comes late would take what was appended meanwhile.
            let unfinished = Unfinished(Some(self));
            let trimmed = self.io().truncate(&file, old.position.into()).await;
            unfinished.finish();
            if is_longer {
                self.poison_on_error(trimmed.at("truncate", &path))?;
            }
            let state = &mut *self.state.borrow_mut();
            let active = state.active_mut();
            (active.reserved, active.ahead) = (0, None);
            // Before the recovery point passes the segment, its new length must be synced: a start would
            // take the zeros behind it for batches.
            active.has_new_length |= is_longer;
        }
        create_segment_file(&self.files, key, &directory, &config).await?;
        let state = &mut *self.state.borrow_mut();
        state.active_mut().finish_indexes();
        state.segments.push(Segment {
            generation: self.generation.get(),
            ..Segment::empty(base_offset)
        });
        state.tail.clear();
        Ok(())
    }

    /// After a start the timestamp of the active segment's first batch is read once, when the first
    /// append comes.
    async fn load_first_timestamp(&self) -> Result<(), LogError> {
        let base_offset = {
            let state = self.state.borrow();
            let active = state.active();
            if active.size == 0 || active.first_timestamp.is_some() {
                return Ok(());
            }
            active.base_offset
        };
        let first = match self.header_at(base_offset, 0).await {
            Ok(header) => header.max_timestamp,
            // Damaged: who reads it is told. Rolls go by the clock.
            Err(LogError::Corrupt { .. }) => crate::record::NO_TIMESTAMP,
            Err(error) => return Err(error),
        };
        self.state.borrow_mut().active_mut().first_timestamp = Some(first);
        Ok(())
    }
}

/// How many bytes a segment has before it gets blocks ahead.
pub(super) fn reserve_from(config: &LogConfig) -> u32 {
    RESERVE_FROM.min(config.segment_bytes / 4)
}

/// Poisons the log when an append is dropped inside its write: the bytes may still be on their way to
/// the place where the next append would go.
struct Unfinished<'a>(Option<&'a Log>);

impl Unfinished<'_> {
    fn finish(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(log) = self.0 {
            log.poison("an append was given up inside its write");
        }
    }
}

fn prepare(
    batches: &[AppendBatch],
    log_end_offset: i64,
    offsets: &Offsets,
    time: AppendTime,
) -> Result<Prepared, LogError> {
    let invalid = |reason: String| Err(LogError::InvalidBatch { reason });
    if batches.is_empty() {
        return invalid("there is none".to_owned());
    }
    let keep_bytes = match (offsets, time.timestamp_type) {
        (Offsets::Keep, _) => 0,
        (Offsets::Assign { .. }, TimestampType::CreateTime) => PREFIX_BYTES,
        (Offsets::Assign { .. }, TimestampType::LogAppendTime) => HEADER_BYTES,
    };
    let mut prefixes = BytesMut::with_capacity(batches.len() * keep_bytes);
    let mut places = Vec::with_capacity(batches.len());
    let mut next_offset = log_end_offset;
    let mut bytes = 0;
    for AppendBatch { header, bytes: raw } in batches {
        if header.size_in_bytes() != raw.len() || raw.is_empty() {
            return invalid(format!(
                "header says {} bytes, {} are there",
                header.size_in_bytes(),
                raw.len()
            ));
        }
        let base_offset = match offsets {
            Offsets::Keep if header.base_offset < next_offset => {
                return invalid(format!(
                    "base offset {} is below the log end offset {next_offset}",
                    header.base_offset
                ));
            }
            Offsets::Keep => header.base_offset,
            Offsets::Assign { .. } if header.magic != 2 => {
                return invalid(format!("magic {}", header.magic));
            }
            Offsets::Assign { .. } => next_offset,
        };
        let mut max_timestamp = header.max_timestamp;
        if let Offsets::Assign { leader_epoch } = offsets {
            if time.timestamp_type == TimestampType::LogAppendTime {
                max_timestamp = time.now_ms;
                prefixes.extend_from_slice(&append_time_header(raw, max_timestamp));
            } else {
                prefixes.extend_from_slice(&raw[..PREFIX_BYTES]);
            }
            let at = prefixes.len() - keep_bytes;
            prefixes[at..at + 8].copy_from_slice(&base_offset.to_be_bytes());
            prefixes[at + 12..at + 16].copy_from_slice(&leader_epoch.to_be_bytes());
        }
        let place = BatchPlace {
            base_offset,
            last_offset: base_offset + i64::from(header.last_offset_delta),
            max_timestamp,
            position: 0,
            size: u32::try_from(raw.len()).unwrap_or(u32::MAX),
        };
        next_offset = place.last_offset + 1;
        bytes += raw.len() as u64;
        places.push(place);
    }
    Ok(Prepared {
        buffers: interleave(batches, prefixes.freeze(), keep_bytes),
        places,
        bytes,
    })
}

/// The prefixes, `prefix_bytes` each, and the rest of each batch.
fn interleave(batches: &[AppendBatch], prefixes: Bytes, prefix_bytes: usize) -> Vec<Bytes> {
    if prefix_bytes == 0 {
        return batches.iter().map(|batch| batch.bytes.clone()).collect();
    }
    let mut buffers = Vec::with_capacity(batches.len() * 2);
    for (i, batch) in batches.iter().enumerate() {
        buffers.push(prefixes.slice(i * prefix_bytes..(i + 1) * prefix_bytes));
        if batch.bytes.len() > prefix_bytes {
            buffers.push(batch.bytes.slice(prefix_bytes..));
        }
    }
    buffers
}

/// The header of `raw` with the timestamp type LogAppendTime, and the CRC that goes with it.
fn append_time_header(raw: &Bytes, now_ms: i64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header.copy_from_slice(&raw[..HEADER_BYTES]);
    batch::patch_timestamp_type(&mut header, TimestampType::LogAppendTime, now_ms);
    // What `patch_timestamp_type` sealed is the header alone; the records are elsewhere.
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&header[CRC_END..]);
    digest.update(&raw[HEADER_BYTES..]);
    let crc = digest.finalize() as u32;
    header[CRC_END - 4..CRC_END].copy_from_slice(&crc.to_be_bytes());
    header
}
