//! The paced checkpoint and the clean close.
//!
//! A flush covers what was appended before the call and may run while appends go on. Order of
//! effects: the data of a segment, then its index files if it was rolled, then the directory's
//! entries, then the recovery point. At most [`SYNC_STEP_BYTES`] are in flight at a time: one big
//! fdatasync keeps everything else on the device waiting for 100 ms and more.

use std::io::ErrorKind;
use std::path::Path;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::Log;
use super::append::reserve_from;
use super::directory::{SegmentFileKind, remove_file_if_there};
use super::error::{IoContext, LogError};
use super::index::Indexes;
use crate::io::{INLINE_WRITE_BYTES_MAX, Io, OpenMode};

/// Bytes of one `sync_range`.
const SYNC_STEP_BYTES: u64 = 1 << 20;

/// What a flush has to do for one segment.
struct Due {
    base_offset: i64,
    synced: u32,
    size: u32,
    has_new_length: bool,
    is_rolled: bool,
}

impl Log {
    /// Brings everything that was appended before the call to stable storage, and returns the new
    /// recovery point, which the caller writes to the checkpoint file.
    ///
    /// # Errors
    /// What the I/O answered; the log is poisoned then, and the recovery point stays.
    pub async fn flush(&self) -> Result<i64, LogError> {
        let _turn = self.flush_lock.lock().await;
        self.flush_in_turn().await
    }

    pub(super) async fn flush_in_turn(&self) -> Result<i64, LogError> {
        // A log that lost a write must not claim more than it has on stable storage.
        self.check_writable()?;
        let target = self.log_end_offset();
        loop {
            let (due, is_entry_due) = self.flush_due();
            for segment in &due {
                let flushed = self.flush_segment(segment).await;
                self.poison_on_error(flushed)?;
            }
            if is_entry_due {
                let directory = self.directory();
                let synced = self.io().sync_directory(&directory).await;
                self.poison_on_error(synced.at("sync", &directory))?;
            }
            let mut state = self.state.borrow_mut();
            for segment in due.iter().filter(|_| is_entry_due) {
                if let Some(segment) = state.segment_mut(segment.base_offset) {
                    segment.is_entry_durable = true;
                }
            }
            // A segment that was rolled meanwhile exactly at the target would not be read again by a
            // recovery, and its indexes are not written yet.
            let is_late = state
                .segments
                .windows(2)
                .any(|pair| pair[1].base_offset <= target && pair[0].indexes.is_some());
            if !is_late {
                state.recovery_point = state.recovery_point.max(target);
                return Ok(state.recovery_point);
            }
        }
    }

    fn flush_due(&self) -> (Vec<Due>, bool) {
        let state = self.state.borrow();
        let last = state.segments.len() - 1;
        let mut is_entry_due = false;
        let mut due = Vec::new();
        for (i, segment) in state.segments.iter().enumerate() {
            let is_rolled = i < last;
            let is_index_due = is_rolled && segment.indexes.is_some();
            // New index files are new entries too.
            is_entry_due |= !segment.is_entry_durable || is_index_due;
            let is_data_due = segment.synced < segment.size || segment.has_new_length;
            if is_data_due || !segment.is_entry_durable || is_index_due {
                due.push(Due {
                    base_offset: segment.base_offset,
                    synced: segment.synced,
                    size: segment.size,
                    has_new_length: segment.has_new_length,
                    is_rolled,
                });
            }
        }
        (due, is_entry_due)
    }

    async fn flush_segment(&self, due: &Due) -> Result<(), LogError> {
        let base_offset = due.base_offset;
        if due.synced < due.size || due.has_new_length {
            let file = self.file(base_offset).await?;
            let path = self.path(base_offset, SegmentFileKind::Log);
            let mut position = u64::from(due.synced);
            while position < due.size.into() {
                let step = SYNC_STEP_BYTES.min(u64::from(due.size) - position);
                self.io()
                    .sync_range(&file, position, step)
                    .await
                    .at("sync a range of", &path)?;
                position += step;
            }
            self.io().sync_data(&file).await.at("sync", &path)?;
            if let Some(segment) = self.state.borrow_mut().segment_mut(base_offset) {
                segment.synced = segment.synced.max(due.size);
                // One that was cut meanwhile is due again.
                segment.has_new_length &= !due.has_new_length;
            }
        }
        if due.is_rolled {
            self.write_rolled_indexes(base_offset).await?;
        }
        Ok(())
    }

    /// Writes the indexes of a rolled segment and moves them from the segment to the bounded cache.
    async fn write_rolled_indexes(&self, base_offset: i64) -> Result<(), LogError> {
        let indexes = {
            let state = self.state.borrow();
            let segment = state.segment(base_offset);
            segment.and_then(|segment| segment.indexes.clone())
        };
        let Some(indexes) = indexes else {
            return Ok(());
        };
        let (_, following) = self.extent(base_offset);
        if following <= self.recovery_point() {
            // Built anew because they could not be read. The next start believes what it finds here,
            // also if this is interrupted.
            for kind in [SegmentFileKind::Index, SegmentFileKind::TimeIndex] {
                remove_file_if_there(self.io(), &self.path(base_offset, kind)).await?;
            }
            let directory = self.directory();
            let synced = self.io().sync_directory(&directory).await;
            synced.at("sync", &directory)?;
        }
        match self.write_indexes(base_offset, &indexes).await {
            // A start builds them from the log: no reason to take no appends any more.
            Err(LogError::Io { source, .. }) if source.kind() == ErrorKind::StorageFull => {
                for kind in [SegmentFileKind::Index, SegmentFileKind::TimeIndex] {
                    remove_file_if_there(self.io(), &self.path(base_offset, kind)).await?;
                }
            }
            other => other?,
        }
        if let Some(segment) = self.state.borrow_mut().segment_mut(base_offset) {
            segment.indexes = None;
            segment.are_indexes_written = true;
        }
        let key = (self.number, base_offset);
        self.files.keep_indexes(key, &Rc::new(indexes));
        Ok(())
    }

    /// The time index first: where there is an offset index, the time index is whole. Entries that an
    /// offset index lacks cost a longer search only; those that a time index lacks hide records.
    async fn write_indexes(&self, base_offset: i64, indexes: &Indexes) -> Result<(), LogError> {
        let times = self.path(base_offset, SegmentFileKind::TimeIndex);
        write_file(self.io(), &times, indexes.encode_times()).await?;
        let offsets = self.path(base_offset, SegmentFileKind::Index);
        write_file(self.io(), &offsets, indexes.encode_offsets()).await
    }

    /// Writes again everything from the recovery point on, so that the next flush really syncs it.
    ///
    /// For a start after an unclean end. A sync that fails leaves pages clean that are not on disk
    /// (fsync(2); <https://wiki.postgresql.org/wiki/Fsync_Errors>): a process that is started again on
    /// the same page cache reads them, and its own sync of them does nothing. Costs a read and a
    /// write of what a checkpoint had not reached.
    ///
    /// # Errors
    /// What the I/O answered; the log is poisoned then.
    pub async fn rewrite_unsynced(&self) -> Result<(), LogError> {
        let from = self.recovery_point().max(self.log_start_offset());
        let begin = self.position_of(from).await?;
        let segments: Vec<(i64, u64)> = {
            let state = self.state.borrow();
            let late = state.segments.iter();
            let late = late.filter(|segment| segment.base_offset >= begin.segment_base);
            late.map(|segment| (segment.base_offset, u64::from(segment.size)))
                .collect()
        };
        for (base_offset, size) in segments {
            let is_first = base_offset == begin.segment_base;
            let position = if is_first { begin.position.into() } else { 0 };
            let rewritten = self.rewrite(base_offset, position, size).await;
            self.poison_on_error(rewritten)?;
        }
        Ok(())
    }

    async fn rewrite(&self, base_offset: i64, from: u64, size: u64) -> Result<(), LogError> {
        let file = self.file(base_offset).await?;
        let path = self.path(base_offset, SegmentFileKind::Log);
        let mut position = from;
        while position < size {
            let length = usize::try_from(size - position).unwrap_or(usize::MAX);
            let buffer = BytesMut::with_capacity(length.min(INLINE_WRITE_BYTES_MAX));
            let limit = buffer.capacity().min(length);
            let bytes = self.io().read_at(&file, buffer, position, limit).await;
            let bytes = bytes.at("read", &path)?.freeze();
            if bytes.is_empty() {
                return Err(LogError::io(
                    "read",
                    &path,
                    std::io::ErrorKind::UnexpectedEof.into(),
                ));
            }
            let next = position + bytes.len() as u64;
            let written = self.io().write_at(&file, vec![bytes], position).await;
            written.at("write", &path)?;
            position = next;
        }
        Ok(())
    }

    /// Closes the log for a clean stop: flushes, cuts what was preallocated or reserved, writes the indexes of
    /// the active segment. Appends are refused from here on; reads still work. Returns the recovery point,
    /// which is the log end offset.
    ///
    /// # Errors
    /// What the I/O answered, or that the log was poisoned: then the stop was not clean.
    pub async fn close(&self) -> Result<i64, LogError> {
        let _append = self.append_lock.lock().await;
        let _flush = self.flush_lock.lock().await;
        self.flush_in_turn().await?;
        let closed = self.close_active().await;
        self.poison_on_error(closed)?;
        self.end("the log is closed");
        Ok(self.recovery_point())
    }

    async fn close_active(&self) -> Result<(), LogError> {
        let end = self.end_position();
        let base_offset = end.segment_base;
        let indexes = {
            let mut state = self.state.borrow_mut();
            let active = state.active_mut();
            if active.are_indexes_written {
                return Ok(());
            }
            active.finish_indexes();
            active.ahead = None;
            active.indexes.clone().unwrap_or_default()
        };
        let file = self.file(base_offset).await?;
        let path = self.path(base_offset, SegmentFileKind::Log);
        let length = self.io().length(&file).await.at("stat", &path)?;
        if length != end.position.into() {
            self.io()
                .truncate(&file, end.position.into())
                .await
                .at("truncate", &path)?;
            self.io().sync_data(&file).await.at("sync", &path)?;
        } else if end.position >= reserve_from(&self.config()) {
            // Blocks behind the end; the length stays.
            let _ = self.io().truncate(&file, end.position.into()).await;
        }
        self.write_indexes(base_offset, &indexes).await?;
        let directory = self.directory();
        self.io()
            .sync_directory(&directory)
            .await
            .at("sync", &directory)?;
        self.state.borrow_mut().active_mut().are_indexes_written = true;
        Ok(())
    }
}

/// Writes a whole file and syncs it. Not atomic: index files are believed only once the recovery
/// point, or the clean stop, says so.
pub(super) async fn write_file(io: &Io, path: &Path, contents: Bytes) -> Result<(), LogError> {
    let file = io.open(path, OpenMode::Create).await.at("open", path)?;
    io.truncate(&file, contents.len() as u64)
        .await
        .at("truncate", path)?;
    let mut position = 0;
    while position < contents.len() {
        let end = contents.len().min(position + INLINE_WRITE_BYTES_MAX);
        io.write_at(&file, vec![contents.slice(position..end)], position as u64)
            .await
            .at("write", path)?;
        position = end;
        io.yield_now().await;
    }
    io.sync_data(&file).await.at("sync", path)
}
