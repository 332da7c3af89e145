//! Reads: slices for `sendfile`, look-ups by offset and by timestamp, visits of batch headers.
//!
//! An offset is found through the offset index and a scan of headers from there, usually with one
//! read of `index.interval.bytes`; at the tail, where most consumers are, without any read. Record
//! bytes are read only where a timestamp is looked for inside a batch.

use super::cold::{COLD_READ_BYTES_MAX, Found};
use super::directory::SegmentFileKind;
use super::error::{IoContext, LogError};
use super::index::{Indexes, TimestampOffset};
use super::scan::{ScanError, Scanner};
use super::{Log, LogPosition, State, out_of_range};
use crate::io::File;
use crate::record::batch::HEADER_BYTES;
use crate::record::{BatchHeader, BatchReader, NO_TIMESTAMP};

/// Bytes of one read when many headers are visited.
pub(super) const VISIT_CHUNK_BYTES: usize = 256 * 1024;
/// Index files larger than this are not believed: Kafka's limit is `segment.index.bytes`, 10 MiB by
/// default.
pub(super) const INDEX_FILE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest decompressed batch that is searched for a timestamp.
const DECOMPRESSED_BYTES_MAX: usize = 128 * 1024 * 1024;

const DAMAGED_REMEDY: &str =
    "restore the partition from a replica or backup, or delete the records up to here";

/// Bytes of a segment that may be sent as they are.
#[derive(Clone, Debug)]
pub struct FileSlice {
    /// Keeps the segment open.
    pub file: File,
    /// Where the first batch begins.
    pub position: u64,
    /// Bytes; the last batch may be cut, as Kafka's fetch does.
    pub length: u32,
    /// Base offset of the first batch, at or below the offset that was asked for.
    pub first_offset: i64,
    /// Segment of the slice.
    pub segment_base: i64,
}

/// The first batch that ends at or after an offset.
struct Located {
    file: File,
    segment_base: i64,
    /// Up to where the segment may be read.
    end: u32,
    position: u32,
    base_offset: i64,
    size: u32,
    /// Whether what follows may not have been verified yet.
    is_cold: bool,
}

impl Log {
    /// The batches from `offset` on, up to `limit`, to the segment's end, and to `max_bytes`; with
    /// `at_least_one` the whole first batch however large it is. `None` if there is nothing below
    /// `limit`.
    ///
    /// # Errors
    /// `OffsetOutOfRange` below the log start offset or above the log end offset; `Corrupt` if the
    /// batch is damaged: [`Log::offset_behind_damage`] tells where reading can go on.
    pub async fn read(
        &self,
        offset: i64,
        max_bytes: u32,
        limit: LogPosition,
        at_least_one: bool,
    ) -> Result<Option<FileSlice>, LogError> {
        loop {
            self.check_range(offset)?;
            if offset >= limit.offset || (max_bytes == 0 && !at_least_one) {
                return Ok(None);
            }
            let generation = self.generation.get();
            let Some(found) = self.locate(offset, limit).await? else {
                return Ok(None);
            };
            let available = found.end - found.position;
            let mut length = available.min(max_bytes);
            if length < found.size && at_least_one {
                length = found.size.min(available);
            }
            if found.is_cold {
                length = self.verified_length(&found, length).await?;
                if self.generation.get() != generation {
                    continue;
                }
            }
            return Ok((length > 0).then_some(FileSlice {
                file: found.file,
                position: found.position.into(),
                length,
                first_offset: found.base_offset,
                segment_base: found.segment_base,
            }));
        }
    }

    /// How many bytes of a slice may be sent: up to the first damage, and not too much at a time.
    async fn verified_length(&self, found: &Located, length: u32) -> Result<u32, LogError> {
        let due = length.min(COLD_READ_BYTES_MAX).max(found.size);
        let until = found.end.min(found.position.saturating_add(due));
        let (at, base) = ((found.position, found.base_offset), found.segment_base);
        let trusted = {
            let state = self.state.borrow();
            let segment = state.segment(base);
            segment.and_then(|segment| segment.trusted_until(found.position))
        };
        if let Some(end) = trusted.filter(|end| *end >= until) {
            return Ok(length.min(end - found.position));
        }
        let good = self.good_until(base, &found.file, at, until).await?;
        Ok(length.min(good - found.position))
    }

    /// Where the batch that has `offset` begins: turns an offset (a high watermark, a last stable
    /// offset) into a limit for [`Log::read`]. An offset inside a batch gives that batch's start.
    ///
    /// # Errors
    /// `OffsetOutOfRange` below the log start offset or above the log end offset.
    pub async fn position_of(&self, offset: i64) -> Result<LogPosition, LogError> {
        self.check_range(offset)?;
        let end = self.end_position();
        if offset >= end.offset {
            return Ok(end);
        }
        let found = self.locate(offset, end).await?;
        Ok(found.map_or(end, |found| LogPosition {
            offset,
            segment_base: found.segment_base,
            position: found.position,
        }))
    }

    /// Visits the headers of all batches from the one that has `offset` up to the log end at the
    /// call. Control batches come with all their bytes, others with their header at least.
    ///
    /// # Errors
    /// `OffsetOutOfRange`, or what reading answered.
    pub async fn visit_batches(
        &self,
        offset: i64,
        visitor: &mut dyn FnMut(&BatchHeader, &[u8]),
    ) -> Result<(), LogError> {
        self.check_range(offset)?;
        let end = self.end_position();
        let mut next = offset;
        while next < end.offset {
            let found = match self.locate(next, end).await {
                Err(LogError::Corrupt { .. }) if self.offset_behind_damage(next).is_some() => {
                    next = self.offset_behind_damage(next).unwrap_or(end.offset);
                    continue;
                }
                other => other?,
            };
            let Some(found) = found else {
                return Ok(());
            };
            let base = found.segment_base;
            let mut scanner = self.scanner(&found.file, found.end, VISIT_CHUNK_BYTES);
            let mut position = u64::from(found.position);
            let (mut good, mut expected) = (found.position, found.base_offset);
            while position < found.end.into() {
                let at = u32::try_from(position).unwrap_or(u32::MAX);
                if at >= good {
                    let until = found.end.min(at.saturating_add(VISIT_CHUNK_BYTES as u32));
                    let from = (at, expected);
                    good = self.good_until(base, &found.file, from, until).await?;
                    if good <= at {
                        // Damaged: the next look-up steps over it.
                        break;
                    }
                }
                let header = self.scan_header(&mut scanner, base, position).await?;
                let wanted = if header.is_control() {
                    header.size_in_bytes()
                } else {
                    HEADER_BYTES.min(header.size_in_bytes())
                };
                let path = self.path(base, SegmentFileKind::Log);
                let bytes = scanner.bytes(position, wanted).await.at("read", &path)?;
                visitor(&header, &bytes[..wanted.min(bytes.len())]);
                position += header.size_in_bytes() as u64;
                next = header.next_offset();
                expected = next;
            }
        }
        Ok(())
    }

    // ---- timestamps --------------------------------------------------------------------------

    /// The first record at or after the log start offset whose timestamp is at least `timestamp`.
    ///
    /// # Errors
    /// What reading answered.
    pub async fn offset_for_timestamp(
        &self,
        timestamp: i64,
    ) -> Result<Option<TimestampOffset>, LogError> {
        loop {
            let generation = self.generation.get();
            let found = self.offset_for_timestamp_once(timestamp).await;
            if self.generation.get() == generation {
                return found;
            }
        }
    }

    async fn offset_for_timestamp_once(
        &self,
        timestamp: i64,
    ) -> Result<Option<TimestampOffset>, LogError> {
        let start = self.log_start_offset();
        for segment in self.segments() {
            let base = segment.base_offset;
            if segment.next_offset <= start
                || self.largest_timestamp(base).await?.timestamp < timestamp
            {
                continue;
            }
            let from = self
                .with_indexes(base, |indexes| indexes.time(timestamp).offset.max(start))
                .await?;
            let found = self
                .find_record(
                    base,
                    from,
                    |header| header.max_timestamp >= timestamp && header.last_offset() >= start,
                    |record| record.timestamp >= timestamp && record.offset >= start,
                )
                .await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The record with the largest timestamp (ListOffsets -3); the first of them.
    ///
    /// # Errors
    /// What reading answered.
    pub async fn max_timestamp(&self) -> Result<Option<TimestampOffset>, LogError> {
        loop {
            let generation = self.generation.get();
            let found = self.max_timestamp_once().await;
            if self.generation.get() == generation {
                return found;
            }
        }
    }

    async fn max_timestamp_once(&self) -> Result<Option<TimestampOffset>, LogError> {
        let mut best: Option<(i64, TimestampOffset)> = None;
        for segment in self.segments() {
            let largest = self.largest_timestamp(segment.base_offset).await?;
            if largest.timestamp > best.map_or(NO_TIMESTAMP, |(_, best)| best.timestamp) {
                best = Some((segment.base_offset, largest));
            }
        }
        let Some((base, largest)) = best else {
            return Ok(None);
        };
        self.find_record(
            base,
            largest.offset,
            |header| header.max_timestamp == largest.timestamp,
            |record| record.timestamp == largest.timestamp,
        )
        .await
    }

    /// The largest timestamp in a segment, with the last offset of its batch; -1 for none.
    ///
    /// # Errors
    /// What reading the time index answered.
    pub async fn largest_timestamp(&self, base_offset: i64) -> Result<TimestampOffset, LogError> {
        let known = self
            .state
            .borrow()
            .segment(base_offset)
            .and_then(|segment| segment.largest);
        if let Some(largest) = known {
            return Ok(largest);
        }
        let largest = self.with_indexes(base_offset, Indexes::last_time).await?;
        if let Some(segment) = self.state.borrow_mut().segment_mut(base_offset) {
            segment.largest = Some(largest);
        }
        Ok(largest)
    }

    /// The first record that `record_fits`, in the batches about the offset `from` and later that
    /// `batch_fits`. Damaged ones are left out.
    async fn find_record(
        &self,
        base_offset: i64,
        from: i64,
        batch_fits: impl Fn(&BatchHeader) -> bool,
        record_fits: impl Fn(&crate::record::Record<'_>) -> bool,
    ) -> Result<Option<TimestampOffset>, LogError> {
        let file = self.file(base_offset).await?;
        let at = self.believable_start(base_offset, &file, from).await?;
        let mut walk = self.walk(base_offset, &file, at, self.index_chunk());
        while let Some(found) = self.next_of(&mut walk).await? {
            let Found::Batch(position, header) = found else {
                continue;
            };
            let position = u64::from(position);
            if batch_fits(&header) {
                let damaged = |reason: String| self.damaged(base_offset, position, reason);
                let bytes = match walk.scanner.batch(position, &header).await {
                    Ok(bytes) => bytes,
                    Err(error) => return Err(self.scan_error(base_offset, position, error)),
                };
                let batch = BatchReader::open(bytes, DECOMPRESSED_BYTES_MAX)
                    .map_err(|error| damaged(error.to_string()))?;
                for record in batch.records() {
                    let record = record.map_err(|error| damaged(error.to_string()))?;
                    if record_fits(&record) {
                        return Ok(Some(TimestampOffset {
                            timestamp: record.timestamp,
                            offset: record.offset,
                        }));
                    }
                }
            }
        }
        Ok(None)
    }

    // ---- positions ---------------------------------------------------------------------------

    fn check_range(&self, offset: i64) -> Result<(), LogError> {
        let state = self.state.borrow();
        if offset < state.log_start_offset || offset > state.log_end_offset {
            return Err(out_of_range(&state, offset));
        }
        Ok(())
    }

    /// Finds the first batch below `limit` that ends at or after `offset`. Begins again if a segment
    /// went away or was cut meanwhile.
    async fn locate(&self, offset: i64, limit: LogPosition) -> Result<Option<Located>, LogError> {
        loop {
            let generation = self.generation.get();
            let found = self.locate_once(offset, limit).await;
            if self.generation.get() == generation {
                return found;
            }
            self.check_range(offset)?;
        }
    }

    async fn locate_once(
        &self,
        offset: i64,
        limit: LogPosition,
    ) -> Result<Option<Located>, LogError> {
        let first = {
            let state = self.state.borrow();
            let after = state
                .segments
                .partition_point(|segment| segment.base_offset <= offset);
            state.segments[after.saturating_sub(1)].base_offset
        };
        let mut next = Some(first);
        while let Some(base_offset) = next {
            let (end, following) = {
                let state = self.state.borrow();
                readable(&state, base_offset, limit)
            };
            if let Some(end) = end
                && let Some(found) = self.locate_in(base_offset, offset, end).await?
            {
                return Ok(Some(found));
            }
            next = following.filter(|following| *following <= limit.segment_base);
        }
        Ok(None)
    }

    async fn locate_in(
        &self,
        segment_base: i64,
        offset: i64,
        end: u32,
    ) -> Result<Option<Located>, LogError> {
        let file = self.file(segment_base).await?;
        let located = |position: u32, base_offset: i64, size: u32| {
            (position < end).then_some(Located {
                file: file.clone(),
                segment_base,
                end,
                position,
                base_offset,
                size,
                is_cold: self.is_cold(segment_base, position),
            })
        };
        if let Some((position, base_offset, size)) = self.locate_in_tail(segment_base, offset) {
            return Ok(located(position, base_offset, size));
        }
        let mut rebuilt = false;
        loop {
            let start = self
                .with_indexes(segment_base, |indexes| indexes.position(offset))
                .await?;
            let found = if self.is_cold(segment_base, start) {
                self.locate_cold(segment_base, &file, offset).await
            } else {
                let found = self.scan_for(segment_base, &file, start, offset).await;
                found.map(|found| found.map(|(at, header)| Found::Batch(at, header)))
            };
            match found {
                Ok(Some(Found::Damage(damage))) => {
                    return Err(self.corrupt(segment_base, &damage));
                }
                Ok(Some(Found::Batch(position, header))) => {
                    let size = u32::try_from(header.size_in_bytes()).unwrap_or(u32::MAX);
                    return Ok(located(position, header.base_offset, size));
                }
                Ok(None) => return Ok(None),
                // The index has no checksum: before the log is called damaged, the index is.
                Err(LogError::Corrupt { .. }) if start > 0 && !rebuilt => {
                    rebuilt = true;
                    self.rebuild_indexes(segment_base).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn is_cold(&self, segment_base: i64, position: u32) -> bool {
        let state = self.state.borrow();
        let segment = state.segment(segment_base);
        segment.is_some_and(|segment| position < segment.cold_end)
    }

    /// The answer from memory, if the offset is among the last batches.
    fn locate_in_tail(&self, segment_base: i64, offset: i64) -> Option<(u32, i64, u32)> {
        let state = self.state.borrow();
        let tail = &state.tail;
        if segment_base != state.active().base_offset {
            return None;
        }
        let at = tail.partition_point(|batch| batch.last_offset < offset);
        let batch = tail.get(at)?;
        (at > 0 || batch.base_offset <= offset).then_some((
            batch.position,
            batch.base_offset,
            batch.size,
        ))
    }

    async fn scan_for(
        &self,
        segment_base: i64,
        file: &File,
        start: u32,
        offset: i64,
    ) -> Result<Option<(u32, BatchHeader)>, LogError> {
        let end = self.segment_size(segment_base);
        let mut scanner = self.scanner(file, end, self.index_chunk());
        let mut position = start;
        while position < end {
            let header = self
                .scan_header(&mut scanner, segment_base, position.into())
                .await?;
            let is_first = position == start && start > 0;
            if header.base_offset < segment_base || (is_first && header.base_offset > offset) {
                let reason = format!("base offset {} is not possible here", header.base_offset);
                return Err(self.damaged(segment_base, position.into(), reason));
            }
            if header.last_offset() >= offset {
                return Ok(Some((position, header)));
            }
            position += u32::try_from(header.size_in_bytes()).unwrap_or(u32::MAX);
        }
        Ok(None)
    }

    // ---- scans -------------------------------------------------------------------------------

    pub(super) fn segment_size(&self, base_offset: i64) -> u32 {
        let state = self.state.borrow();
        state.segment(base_offset).map_or(0, |segment| segment.size)
    }

    pub(super) fn index_chunk(&self) -> usize {
        self.config.borrow().index_interval_bytes as usize + HEADER_BYTES
    }

    pub(super) fn scanner(&self, file: &File, end: u32, chunk: usize) -> Scanner {
        Scanner::new(self.io(), file, end.into(), chunk)
    }

    pub(super) async fn scan_header(
        &self,
        scanner: &mut Scanner,
        base_offset: i64,
        position: u64,
    ) -> Result<BatchHeader, LogError> {
        match scanner.header(position).await {
            Ok(header) => Ok(header),
            Err(error) => Err(self.scan_error(base_offset, position, error)),
        }
    }

    /// The header at a position that is known to begin a batch.
    pub(super) async fn header_at(
        &self,
        base_offset: i64,
        position: u32,
    ) -> Result<BatchHeader, LogError> {
        let file = self.file(base_offset).await?;
        let mut scanner = self.scanner(&file, self.segment_size(base_offset), HEADER_BYTES);
        self.scan_header(&mut scanner, base_offset, position.into())
            .await
    }

    pub(super) fn scan_error(&self, base_offset: i64, position: u64, error: ScanError) -> LogError {
        match error {
            ScanError::Io(error) => {
                let path = self.path(base_offset, SegmentFileKind::Log);
                LogError::io("read", &path, error)
            }
            ScanError::Batch(error) => self.damaged(base_offset, position, error.to_string()),
        }
    }

    pub(super) fn damaged(&self, base_offset: i64, position: u64, reason: String) -> LogError {
        LogError::Corrupt {
            path: self.path(base_offset, SegmentFileKind::Log),
            position,
            reason,
            remedy: DAMAGED_REMEDY,
        }
    }
}

/// Up to where a segment may be read, if at all, and which one follows.
fn readable(state: &State, base_offset: i64, limit: LogPosition) -> (Option<u32>, Option<i64>) {
    let at = state
        .segments
        .partition_point(|segment| segment.base_offset < base_offset);
    let following = state.segments.get(at + 1).map(|next| next.base_offset);
    let Some(segment) = state.segments.get(at) else {
        return (None, following);
    };
    let end = match base_offset.cmp(&limit.segment_base) {
        std::cmp::Ordering::Less => Some(segment.size),
        std::cmp::Ordering::Equal => Some(segment.size.min(limit.position)),
        std::cmp::Ordering::Greater => None,
    };
    (end, following)
}
