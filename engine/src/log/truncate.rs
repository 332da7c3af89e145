//! Cutting the end of the log.
//!
//! Waits for the append and the flush that are under way, and changes the generation, so that a
//! look-up that was under way begins again. Slices that are being sent keep their file; those of a
//! cut end may then hold other bytes than they had, which is why only followers cut (Kafka's rule).

use super::directory::{SegmentFileKind, remove_file_if_there, segment_path};
use super::error::{IoContext, LogError};
use super::segment::Segment;
use super::{Log, LogPosition, create_segment_file};

impl Log {
    /// Removes all records from `offset` on, and the whole batch if `offset` lies inside one. Returns
    /// the new log end offset. Durable at return. Write the recovery point checkpoint before: a
    /// recovery point above the log end is taken for lost data at the next start.
    ///
    /// # Errors
    /// What the I/O answered; the log is poisoned then.
    pub async fn truncate_to(&self, offset: i64) -> Result<i64, LogError> {
        let _append = self.append_lock.lock().await;
        let _flush = self.flush_lock.lock().await;
        self.check_writable()?;
        if offset >= self.log_end_offset() {
            return Ok(self.log_end_offset());
        }
        let first = self.state.borrow().segments[0].base_offset;
        let result = if offset <= first.max(self.log_start_offset()) {
            self.restart_at(offset).await
        } else {
            self.cut(offset).await
        };
        self.poison_on_error(result)?;
        Ok(self.log_end_offset())
    }

    /// Removes everything and begins again with an empty segment at `offset`, below or above what
    /// there was: a follower whose leader no longer has the next record does so.
    ///
    /// # Errors
    /// What the I/O answered; the log is poisoned then.
    pub async fn truncate_fully_and_start_at(&self, offset: i64) -> Result<(), LogError> {
        let _append = self.append_lock.lock().await;
        let _flush = self.flush_lock.lock().await;
        self.check_writable()?;
        let result = self.restart_at(offset).await;
        self.poison_on_error(result)
    }

    /// Unlinks the files of segments and syncs the directory.
    async fn remove_segments(&self, bases: &[i64]) -> Result<(), LogError> {
        let directory = self.directory();
        for base_offset in bases {
            self.files.forget((self.number, *base_offset));
            for kind in SEGMENT_FILES {
                let path = segment_path(&directory, *base_offset, kind);
                remove_file_if_there(self.io(), &path).await?;
            }
        }
        self.io()
            .sync_directory(&directory)
            .await
            .at("sync", &directory)
    }

    async fn cut(&self, offset: i64) -> Result<(), LogError> {
        let (segment_base, position, end_offset) = self.cut_position(offset).await?;
        let later: Vec<i64> = {
            let mut state = self.state.borrow_mut();
            let keep = state
                .segments
                .partition_point(|segment| segment.base_offset <= segment_base);
            let later = state.segments.drain(keep..);
            // From the end, so that a crash in between leaves no gap.
            later.rev().map(|segment| segment.base_offset).collect()
        };
        self.generation.set(self.generation.get() + 1);
        self.remove_segments(&later).await?;
        // The indexes of what becomes the active segment again are needed in memory.
        let is_loaded = self.state.borrow().active().indexes.is_some();
        let indexes = if is_loaded {
            None
        } else {
            Some(self.load_or_rebuild(segment_base).await?)
        };
        let file = self.file(segment_base).await?;
        let path = self.path(segment_base, SegmentFileKind::Log);
        let io = self.io();
        io.truncate(&file, position.into())
            .await
            .at("truncate", &path)?;
        io.sync_data(&file).await.at("sync", &path)?;
        self.note_cut(end_offset, position, indexes);
        self.rescan_largest(segment_base).await
    }

    /// The segment that becomes the last one, its new size, and the new log end offset.
    async fn cut_position(&self, offset: i64) -> Result<(i64, u32, i64), LogError> {
        let LogPosition {
            segment_base,
            position,
            ..
        } = self.position_of(offset).await?;
        if segment_base > offset {
            // In the gap that compaction left at a segment's end: that segment stays whole.
            let state = self.state.borrow();
            let after = state
                .segments
                .partition_point(|segment| segment.base_offset <= offset);
            let segment = &state.segments[after.saturating_sub(1)];
            return Ok((segment.base_offset, segment.size, offset));
        }
        let header = self.header_at(segment_base, position).await?;
        // In a gap between two batches the end is as asked for.
        Ok((segment_base, position, header.base_offset.min(offset)))
    }

    fn note_cut(&self, end_offset: i64, position: u32, indexes: Option<super::index::Indexes>) {
        let mut state = self.state.borrow_mut();
        let active = state.active_mut();
        if indexes.is_some() {
            active.indexes = indexes;
        }
        active.size = position;
        (active.reserved, active.ahead) = (0, None);
        active.generation = self.generation.get();
        active.forget_doubts_from(position);
        active.synced = active.synced.min(position);
        active.are_indexes_written = false;
        if position == 0 {
            active.first_timestamp = None;
            active.created_ms = None;
        }
        if let Some(indexes) = &mut active.indexes {
            indexes.truncate(end_offset, position);
            active.bytes_since_index = position - indexes.last_position();
        }
        active.largest = None;
        state.tail.clear();
        state.log_end_offset = end_offset;
        state.recovery_point = state.recovery_point.min(end_offset);
    }

    /// Finds the largest timestamp again: that of the time index, or of a batch after its last entry.
    async fn rescan_largest(&self, segment_base: i64) -> Result<(), LogError> {
        let (mut largest, from, end) = {
            let state = self.state.borrow();
            let active = state.active();
            let indexes = active.indexes.as_ref().expect("loaded by the cut");
            let largest = indexes.last_time();
            (largest, indexes.position(largest.offset), active.size)
        };
        let mut position = from;
        while position < end {
            let header = self.header_at(segment_base, position).await?;
            if header.max_timestamp > largest.timestamp {
                largest.timestamp = header.max_timestamp;
                largest.offset = header.last_offset();
            }
            position += u32::try_from(header.size_in_bytes()).unwrap_or(u32::MAX);
        }
        self.state.borrow_mut().active_mut().largest = Some(largest);
        Ok(())
    }

    async fn restart_at(&self, offset: i64) -> Result<(), LogError> {
        let bases: Vec<i64> = {
            let state = self.state.borrow();
            let segments = state.segments.iter().rev();
            segments.map(|segment| segment.base_offset).collect()
        };
        self.generation.set(self.generation.get() + 1);
        self.remove_segments(&bases).await?;
        {
            let mut state = self.state.borrow_mut();
            state.segments = vec![Segment {
                generation: self.generation.get(),
                ..Segment::empty(offset)
            }];
            state.tail.clear();
            state.log_start_offset = offset;
            state.log_end_offset = offset;
            state.recovery_point = offset;
        }
        let (directory, config) = (self.directory(), self.config());
        create_segment_file(&self.files, (self.number, offset), &directory, &config).await?;
        let synced = self.io().sync_directory(&directory).await;
        synced.at("sync", &directory)?;
        self.state.borrow_mut().active_mut().is_entry_durable = true;
        Ok(())
    }
}

/// What belongs to a segment and goes with it. Producer snapshots are the partition's business.
pub(super) const SEGMENT_FILES: [SegmentFileKind; 4] = [
    SegmentFileKind::Log,
    SegmentFileKind::Index,
    SegmentFileKind::TimeIndex,
    SegmentFileKind::TransactionIndex,
];
