//! One round of compaction: reads the dirty part of a log into a map of keys, then writes segment by
//! segment what stays (Kafka 3.9: Cleaner in LogCleaner.scala, MemoryRecords.filterTo).
//!
//! Memory: the map, one chunk of reading, one of writing, one batch opened. Between chunks the shard
//! goes on. Every batch's CRC and offsets are checked: what is damaged is never sealed anew, the round ends with
//! `Corrupt` and nothing is replaced. Batches of which all stays are copied as they are.
//!
//! It writes `.cleaned` files beside the log and does not touch the log: `compaction` swaps them in.
//! Where a message set entry (magic 0 or 1) must be shortened, it becomes a batch of magic 2.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};

use super::compaction::{CleanerSettings, LastRecord, Pace};
use super::directory::{PendingSuffix, SegmentFileKind};
use super::error::{IoContext, LogError};
use super::key_map::KeyMap;
use super::scan::Scanner;
use super::segment::{BatchPlace, Segment};
use super::transactions::{TransactionScan, TransactionWalk};
use super::{Log, SegmentInfo};
use crate::io::{File, INLINE_WRITE_BYTES_MAX, OpenMode};
use crate::record::batch::HEADER_BYTES;
use crate::record::{BatchBuilder, BatchHeader, BatchReader, Record};

/// Most bytes that a compressed batch may unpack to.
const DECOMPRESSED_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Bytes of one `sync_range` of what was written.
const SYNC_STEP_BYTES: u64 = 1 << 20;

/// Segments that become one.
pub(super) type Group = Vec<SegmentInfo>;

/// A `.cleaned` segment that is complete and on stable storage.
pub(super) struct Cleaned {
    /// As it will be in the log.
    pub(super) segment: Segment,
    pub(super) file: File,
    /// The kinds of files that were written.
    pub(super) kinds: Vec<SegmentFileKind>,
}

/// What became of a batch.
enum Kept<'a> {
    Nothing,
    Whole(&'a [u8]),
    Rewritten(Bytes),
}

/// Which of the batch's parts may go.
struct Verdict {
    /// All records.
    discards: bool,
    /// A batch without records stays, for its last offset and sequence.
    keeps_empty: bool,
    /// It is a marker that will go when its delete horizon has passed.
    is_marker_of_nothing: bool,
}

/// A round.
pub(super) struct Cleaner<'a> {
    log: &'a Log,
    settings: &'a CleanerSettings,
    producers: &'a BTreeMap<i64, LastRecord>,
    pace: Pace,
    map: KeyMap,
    /// The end of what may be compacted: the batch that ends here stays, if empty.
    upper: i64,
    /// Bytes in the group that is being written.
    written: u64,
}

impl<'a> Cleaner<'a> {
    pub(super) fn new(
        log: &'a Log,
        settings: &'a CleanerSettings,
        producers: &'a BTreeMap<i64, LastRecord>,
        upper: i64,
    ) -> Cleaner<'a> {
        let map = KeyMap::new(settings.map_bytes, settings.map_load_factor, settings.salt);
        Cleaner {
            log,
            settings,
            producers,
            pace: Pace::new(log.io(), settings.bytes_per_second),
            map,
            upper,
            written: 0,
        }
    }

    /// Less may be compacted than was thought.
    pub(super) fn end_at(&mut self, upper: i64) {
        self.upper = upper;
    }

    /// The open `.log` of a source segment.
    async fn source(&self, segment: &SegmentInfo) -> Result<Scanner, LogError> {
        let file = self.log.file(segment.base_offset).await?;
        let (end, chunk) = (segment.size.into(), self.settings.chunk_bytes.max(4096));
        Ok(Scanner::new(self.log.io(), &file, end, chunk))
    }

    /// The header at a position, where offsets are `expected` or more; lets others run, and gives up
    /// if the log has ended.
    async fn header(
        &mut self,
        scanner: &mut Scanner,
        segment: &SegmentInfo,
        (position, expected): (u64, i64),
    ) -> Result<BatchHeader, LogError> {
        self.log.check_open()?;
        let read = scanner.header(position).await;
        let base_offset = segment.base_offset;
        let header = read.map_err(|error| self.log.scan_error(base_offset, position, error))?;
        // The base offset lies outside the CRC.
        let (first, last) = (header.base_offset, header.last_offset());
        if first < expected || last >= segment.next_offset {
            let end = segment.next_offset;
            let reason =
                format!("offsets {first} to {last} where {expected} to {end} are possible");
            return Err(self.log.damaged(base_offset, position, reason));
        }
        self.pace.took(header.size_in_bytes() as u64).await;
        Ok(header)
    }

    // ---- what is there -----------------------------------------------------------------------

    /// Looks for transactions in the segments.
    pub(super) async fn scan_transactions(
        &mut self,
        segments: &[SegmentInfo],
    ) -> Result<TransactionScan, LogError> {
        let mut scan = TransactionScan::default();
        for segment in segments {
            let mut scanner = self.source(segment).await?;
            let (mut position, mut expected) = (0, segment.base_offset);
            while position < u64::from(segment.size) {
                let due = (position, expected);
                let header = self.header(&mut scanner, segment, due).await?;
                if header.is_control() {
                    let batch = scanner.batch(position, &header).await;
                    let batch = batch.map_err(|error| {
                        self.log.scan_error(segment.base_offset, position, error)
                    })?;
                    scan.batch(&header, batch);
                } else {
                    scan.batch(&header, &[]);
                }
                position += header.size_in_bytes() as u64;
                expected = header.next_offset();
            }
        }
        Ok(scan)
    }

    /// Reads the keys of the records from `from` on. Gives the offset up to which the map is complete.
    pub(super) async fn map_keys(
        &mut self,
        segments: &[SegmentInfo],
        from: i64,
        mut walk: TransactionWalk,
    ) -> Result<i64, LogError> {
        self.map.reached(from - 1);
        for segment in segments {
            let mut scanner = self.source(segment).await?;
            let (mut position, mut expected) = (0, segment.base_offset);
            while position < u64::from(segment.size) {
                let due = (position, expected);
                let header = self.header(&mut scanner, segment, due).await?;
                let at = (segment.base_offset, position);
                if !self
                    .map_batch(&mut scanner, at, &header, from, &mut walk)
                    .await?
                {
                    return Ok(self.map.latest_offset() + 1);
                }
                position += header.size_in_bytes() as u64;
                expected = header.next_offset();
            }
            self.map.reached(segment.next_offset.min(self.upper) - 1);
        }
        Ok(self.map.latest_offset() + 1)
    }

    /// `false` if the map is full.
    async fn map_batch(
        &mut self,
        scanner: &mut Scanner,
        (base_offset, position): (i64, u64),
        header: &BatchHeader,
        from: i64,
        walk: &mut TransactionWalk,
    ) -> Result<bool, LogError> {
        let is_transaction = header.is_control() || header.is_transactional();
        if header.last_offset() < from && !is_transaction {
            return Ok(true);
        }
        let batch = scanner.batch(position, header).await;
        let batch = batch.map_err(|error| self.log.scan_error(base_offset, position, error))?;
        let damaged = |reason: String| self.log.damaged(base_offset, position, reason);
        header
            .check_crc(batch)
            .map_err(|e| damaged(e.to_string()))?;
        let may_go = walk.may_go(header, batch);
        if !header.is_control() && !may_go && header.last_offset() >= from {
            let reader = BatchReader::open(batch, DECOMPRESSED_BYTES_MAX);
            let reader = reader.map_err(|error| damaged(error.to_string()))?;
            for record in reader.records() {
                let record = record.map_err(|error| damaged(error.to_string()))?;
                if let Some(key) = record.key
                    && record.offset >= from
                    && !self.map.put(key, record.offset)
                {
                    return Ok(false);
                }
            }
        }
        if header.last_offset() >= from {
            self.map.reached(header.last_offset());
        }
        Ok(true)
    }

    // ---- what stays --------------------------------------------------------------------------

    /// Writes what stays of a group into a `.cleaned` segment, and syncs it.
    ///
    /// It reaches into the last segment of the group that has batches, if only with an empty one: a
    /// start that finishes the swap knows no other way which segments the file replaces.
    pub(super) async fn clean(
        &mut self,
        group: &Group,
        walk: &mut TransactionWalk,
    ) -> Result<Cleaned, LogError> {
        let base_offset = group[0].base_offset;
        let path = self.cleaned_path(base_offset, SegmentFileKind::Log);
        let io = self.log.io().clone();
        let file = io.open(&path, OpenMode::Create).await.at("create", &path)?;
        io.truncate(&file, 0).await.at("truncate", &path)?;
        let mut segment = Segment::empty(base_offset);
        let filled = group.iter().rfind(|source| source.size > 0);
        let last_base = filled.map_or(base_offset, |source| source.base_offset);
        // As `Opener::finish_swaps` will take it.
        let mut reached = base_offset + 1;
        self.written = 0;
        let mut buffer = BytesMut::new();
        for source in group {
            let mut scanner = self.source(source).await?;
            let (mut position, mut expected) = (0, source.base_offset);
            while position < u64::from(source.size) {
                let due = (position, expected);
                let header = self.header(&mut scanner, source, due).await?;
                let at = source.base_offset;
                let batch = scanner.batch(position, &header).await;
                let batch = batch.map_err(|error| self.log.scan_error(at, position, error))?;
                let damaged = |reason: String| self.log.damaged(at, position, reason);
                header
                    .check_crc(batch)
                    .map_err(|e| damaged(e.to_string()))?;
                let next = position + header.size_in_bytes() as u64;
                let ends_group = at == last_base && next >= u64::from(source.size);
                let must_stay = ends_group && reached <= at;
                let kept = self.keep(&header, batch, must_stay, walk);
                let kept = kept.map_err(|error| damaged(error.to_string()))?;
                if !matches!(kept, Kept::Nothing) {
                    reached = header.next_offset();
                }
                match kept {
                    Kept::Nothing => {}
                    Kept::Whole(bytes) => self.take(&mut segment, &mut buffer, bytes)?,
                    Kept::Rewritten(bytes) => self.take(&mut segment, &mut buffer, &bytes)?,
                }
                if buffer.len() >= INLINE_WRITE_BYTES_MAX {
                    self.write(&file, &path, &mut buffer).await?;
                }
                position = next;
                expected = header.next_offset();
            }
        }
        self.write(&file, &path, &mut buffer).await?;
        let mut position = 0;
        while position < self.written {
            let step = SYNC_STEP_BYTES.min(self.written - position);
            let synced = io.sync_range(&file, position, step).await;
            synced.at("sync a range of", &path)?;
            position += step;
        }
        io.sync_data(&file).await.at("sync", &path)?;
        let kinds = self.write_indexes(&mut segment, walk).await?;
        segment.synced = segment.size;
        segment.is_entry_durable = true;
        segment.are_indexes_written = true;
        Ok(Cleaned {
            segment,
            file,
            kinds,
        })
    }

    fn cleaned_path(&self, base_offset: i64, kind: SegmentFileKind) -> PathBuf {
        let mut path = self.log.path(base_offset, kind).into_os_string();
        path.push(PendingSuffix::Cleaned.suffix());
        path.into()
    }

    /// Notes a batch that stays.
    fn take(
        &self,
        segment: &mut Segment,
        buffer: &mut BytesMut,
        bytes: &[u8],
    ) -> Result<(), LogError> {
        let invalid = |reason: String| LogError::InvalidBatch { reason };
        let header = BatchHeader::parse(bytes).map_err(|error| invalid(error.to_string()))?;
        let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if u64::from(segment.size) + u64::from(size) > i32::MAX as u64 {
            let limit = i32::MAX as u64;
            return Err(LogError::TooLarge {
                size: u64::from(segment.size) + u64::from(size),
                limit,
            });
        }
        let place = BatchPlace {
            base_offset: header.base_offset,
            last_offset: header.last_offset(),
            max_timestamp: header.max_timestamp,
            position: segment.size,
            size,
        };
        segment.note_batch(&place, self.log.config().index_interval_bytes);
        buffer.extend_from_slice(bytes);
        Ok(())
    }

    async fn write(
        &mut self,
        file: &File,
        path: &std::path::Path,
        buffer: &mut BytesMut,
    ) -> Result<(), LogError> {
        while !buffer.is_empty() {
            let piece = buffer.split_to(buffer.len().min(INLINE_WRITE_BYTES_MAX));
            let length = piece.len() as u64;
            let written = self
                .log
                .io()
                .write_at(file, vec![piece.freeze()], self.written);
            written.await.at("write", path)?;
            self.written += length;
            self.pace.took(length).await;
        }
        Ok(())
    }

    /// Writes and syncs the index files; tells which files there are now.
    async fn write_indexes(
        &self,
        segment: &mut Segment,
        walk: &mut TransactionWalk,
    ) -> Result<Vec<SegmentFileKind>, LogError> {
        segment.finish_indexes();
        let indexes = segment.indexes.clone().unwrap_or_default();
        let mut files = vec![
            (SegmentFileKind::Index, indexes.encode_offsets()),
            (SegmentFileKind::TimeIndex, indexes.encode_times()),
        ];
        if !walk.left.is_empty() {
            let mut bytes = BytesMut::new();
            for aborted in walk.left.drain(..) {
                aborted.encode(&mut bytes);
            }
            files.push((SegmentFileKind::TransactionIndex, bytes.freeze()));
        }
        let mut kinds = vec![SegmentFileKind::Log];
        for (kind, bytes) in files {
            let path = self.cleaned_path(segment.base_offset, kind);
            super::flush::write_file(self.log.io(), &path, bytes).await?;
            kinds.push(kind);
        }
        Ok(kinds)
    }

    /// What stays of a batch: something, if it `must_stay`.
    fn keep<'b>(
        &self,
        header: &BatchHeader,
        batch: &'b [u8],
        must_stay: bool,
        walk: &mut TransactionWalk,
    ) -> Result<Kept<'b>, crate::record::BatchError> {
        let mut verdict = self.judge(header, batch, walk);
        verdict.keeps_empty |= must_stay;
        if verdict.discards && !verdict.keeps_empty {
            return Ok(Kept::Nothing);
        }
        let reader = BatchReader::open(batch, DECOMPRESSED_BYTES_MAX)?;
        let mut records = Vec::new();
        let (mut is_whole, mut has_tombstone) = (true, false);
        for record in reader.records() {
            let record = record?;
            let stays = !verdict.discards && (header.is_control() || self.stays(header, &record));
            if stays {
                has_tombstone |= record.value.is_none();
                records.push(record);
            } else {
                is_whole = false;
            }
        }
        if records.is_empty() && !verdict.keeps_empty {
            return Ok(Kept::Nothing);
        }
        let is_horizon_due = !records.is_empty()
            && (has_tombstone || verdict.is_marker_of_nothing)
            && header.delete_horizon_ms().is_none();
        if is_whole && !records.is_empty() && !is_horizon_due {
            return Ok(Kept::Whole(batch));
        }
        let mut builder = BatchBuilder::like(header)?;
        if header.magic < 2
            && let Some(first) = records.first()
        {
            builder = builder.base_offset(first.offset);
        }
        if is_horizon_due {
            let settings = self.settings;
            let horizon_ms = settings.now_ms.saturating_add(settings.delete_retention_ms);
            builder = builder.delete_horizon_ms(horizon_ms);
        }
        for record in &records {
            builder.append_record(record)?;
        }
        Ok(Kept::Rewritten(builder.build()?.freeze()))
    }

    fn judge(&self, header: &BatchHeader, batch: &[u8], walk: &mut TransactionWalk) -> Verdict {
        let may_go = walk.may_go(header, batch);
        let is_past = |horizon_ms: i64| horizon_ms <= self.settings.now_ms;
        let is_last_of_producer = header.has_producer_id()
            && self.producers.get(&header.producer_id).is_some_and(|last| {
                match last.data_offsets.is_empty() {
                    false => last.data_offsets.contains(&header.last_offset()),
                    true => header.is_control() && header.producer_epoch == last.epoch,
                }
            });
        Verdict {
            discards: if header.is_control() {
                may_go && header.delete_horizon_ms().is_some_and(is_past)
            } else {
                may_go
            },
            keeps_empty: is_last_of_producer || header.next_offset() == self.upper,
            is_marker_of_nothing: may_go && header.is_control(),
        }
    }

    /// Whether a record stays (Kafka: shouldRetainRecord).
    fn stays(&self, header: &BatchHeader, record: &Record<'_>) -> bool {
        if record.offset > self.map.latest_offset() {
            return true;
        }
        let Some(key) = record.key else {
            return false;
        };
        let is_last = self.map.get(key).is_none_or(|last| record.offset >= last);
        let is_before = |horizon_ms: i64| self.settings.now_ms < horizon_ms;
        let is_kept_tombstone = || header.delete_horizon_ms().is_none_or(is_before);
        is_last && (record.value.is_some() || is_kept_tombstone())
    }
}

/// Cuts segments into groups that fit into one segment each (Kafka: groupSegmentsBySize).
pub(super) fn group(segments: &[SegmentInfo], limits: &super::LogConfig) -> Vec<Group> {
    let bytes_max = u64::from(limits.segment_bytes).min(i32::MAX as u64);
    // A time index entry is the larger one, and there is at most one in each interval.
    let interval = u64::from(limits.index_interval_bytes).max(HEADER_BYTES as u64);
    let entries_max = u64::from(limits.index_bytes_max) / super::TIME_ENTRY_BYTES as u64;
    let mut groups: Vec<Group> = Vec::new();
    let mut bytes = 0;
    for segment in segments {
        let size = u64::from(segment.size);
        let fits = groups.last().is_some_and(|group| {
            let span = segment.next_offset - group[0].base_offset;
            bytes + size <= bytes_max
                && (bytes + size) / interval < entries_max
                && (size == 0 || span <= i64::from(i32::MAX))
        });
        match groups.last_mut() {
            Some(group) if fits => {
                group.push(*segment);
                bytes += size;
            }
            _ => {
                groups.push(vec![*segment]);
                bytes = size;
            }
        }
    }
    groups
}
