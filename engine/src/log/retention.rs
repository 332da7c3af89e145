//! Retention: which old segments may go, and how they go.
//!
//! Which: as Kafka 3.9 (UnifiedLog.deleteOldSegments): segments wholly below the log start offset,
//! then the oldest while the rest is still as large as `retention.bytes`, then the oldest while
//! their largest timestamp is older than `retention.ms`; none at or above the high watermark, and
//! the active one only after a roll.
//!
//! How: renamed to `.deleted` from the oldest on, which is durable at return; removed by the caller
//! after `file.delete.delay.ms`, or by the next start. Slices that are being sent keep their file.
//!
//! It reads no clock: the caller says what is too old. It does not write the log start offset
//! checkpoint and knows no journal: the caller makes the new log start offset durable before, and
//! raises it. Where he has not, segments that may still be read go: the log start offset is raised when
//! they are gone durably, and until then they are read as ever.

use std::io;
use std::path::PathBuf;

use super::directory::{PendingSuffix, remove_file_if_there};
use super::error::{IoContext, LogError};
use super::segment::Segment;
use super::truncate::SEGMENT_FILES;
use super::{Log, LogPosition};
use crate::io::Io;

/// Segments that go at a time while they may still be read: their files are held open.
const HELD_OPEN_MAX: usize = 16;

/// What of a log has to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// `retention.bytes`, if the log is to be bounded.
    pub bytes_max: Option<u64>,
    /// Segments whose largest timestamp lies before this are too old (now - `retention.ms`).
    pub oldest_ms: Option<i64>,
    /// Nothing at or above this offset may go.
    pub high_watermark: i64,
}

/// Segments that may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The log start offset without them.
    pub offset: i64,
    /// How many they are.
    pub segments: usize,
    /// Bytes of their batches.
    pub bytes: u64,
    /// The end of the log if the active segment is among them: it must be rolled there first
    /// ([`Log::roll_segment_at`]), and stays if anything has been appended meanwhile.
    pub roll: Option<LogPosition>,
}

/// Segments that were taken out of a log, and the names that their files have now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// How many they are.
    pub segments: usize,
    files: Vec<PathBuf>,
}

impl Deleted {
    /// Removes the files; one that is gone with its directory is no error. Not synced: what a crash
    /// brings back is removed by the next start.
    ///
    /// # Errors
    /// What unlink(2) answered.
    pub async fn remove_files(self, io: &Io) -> Result<(), LogError> {
        for file in &self.files {
            remove_file_if_there(io, file).await?;
        }
        Ok(())
    }
}

impl Log {
    /// The segments that may go; `None` if there are none.
    ///
    /// # Errors
    /// What reading a time index answered.
    pub async fn due_segments(&self, keep: &Retention) -> Result<Option<Due>, LogError> {
        let generation = self.generation.get();
        let due = self.due_segments_once(keep).await;
        // What a deletion or a truncation meanwhile has left is looked at another time.
        if self.generation.get() == generation {
            due
        } else {
            Ok(None)
        }
    }

    async fn due_segments_once(&self, keep: &Retention) -> Result<Option<Due>, LogError> {
        let (start, end) = (self.log_start_offset(), self.end_position());
        let segments = self.segments();
        let is_below = |segment: &&super::SegmentInfo| {
            segment.next_offset <= keep.high_watermark
                && (segment.size > 0 || segment.base_offset != end.segment_base)
        };
        let may_go = segments.iter().take_while(is_below).count();
        let following = segments.iter().skip(1);
        let below_start = following.take_while(|next| next.base_offset <= start);
        let mut count = below_start.count().min(may_go);
        if let Some(bytes_max) = keep.bytes_max {
            let bytes: u64 = segments[count..].iter().map(|s| u64::from(s.size)).sum();
            let mut excess = bytes.checked_sub(bytes_max);
            for segment in &segments[count..may_go] {
                excess = excess.and_then(|excess| excess.checked_sub(segment.size.into()));
                if excess.is_none() {
                    break;
                }
                count += 1;
            }
        }
        if let Some(oldest_ms) = keep.oldest_ms {
            while count < may_go && self.age_ms(segments[count].base_offset).await? < oldest_ms {
                count += 1;
            }
        }
        if count == 0 {
            return Ok(None);
        }
        let next = segments.get(count);
        Ok(Some(Due {
            offset: next.map_or(end.offset, |next| next.base_offset),
            segments: count,
            bytes: segments[..count].iter().map(|s| u64::from(s.size)).sum(),
            roll: next.is_none().then_some(end),
        }))
    }

    /// The largest timestamp of a segment; where its records have none, when it was written last.
    pub(super) async fn age_ms(&self, base_offset: i64) -> Result<i64, LogError> {
        let largest = self.largest_timestamp(base_offset).await?.timestamp;
        if largest >= 0 {
            return Ok(largest);
        }
        let file = self.file(base_offset).await?;
        match self.io().modified_ms(&file).await {
            // The simulated disk does not know: then it is kept.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(i64::MAX),
            other => {
                let path = self.path(base_offset, super::SegmentFileKind::Log);
                other.at("stat", &path)
            }
        }
    }

    /// Takes the segments that end at or below `offset` out of the log, never the active one. The log
    /// start offset is at least the first that stays then, and never one that a crash takes back. Durable
    /// at return. Slices of them that are being sent stay valid. A log that takes no appends any more can
    /// still be shortened below its log start offset.
    ///
    /// # Errors
    /// What the I/O answered: then the files may be back at the next start. `Poisoned` if the log
    /// was closed or is being deleted.
    pub async fn delete_old_segments(&self, offset: i64) -> Result<Deleted, LogError> {
        let _flush = self.flush_lock.lock().await;
        self.check_open()?;
        self.sync_first_kept(offset).await?;
        let (old, is_readable) = self.old_segments(offset);
        let mut at_once = old.len().max(1);
        if is_readable {
            // A sync that has failed is not tried again.
            self.check_writable()?;
            at_once = HELD_OPEN_MAX;
        }
        let mut deleted = Deleted::default();
        for (count, bases) in old.chunks(at_once).enumerate() {
            match self.delete_segments(bases, is_readable, &mut deleted).await {
                Ok(()) => {}
                // The files of those before are to go; the next look meets the error again, and tells it.
                Err(_) if count > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(deleted)
    }

    /// Some of the first segments.
    async fn delete_segments(
        &self,
        bases: &[i64],
        is_readable: bool,
        deleted: &mut Deleted,
    ) -> Result<(), LogError> {
        if is_readable {
            self.hold_open(bases).await?;
        } else {
            self.take_out(bases);
        }
        // From the oldest on: a crash in between leaves no gap in the middle.
        for base_offset in bases {
            self.rename_deleted(*base_offset, deleted).await?;
        }
        let directory = self.directory();
        let synced = self.io().sync_directory(&directory).await;
        let synced = synced.at("sync", &directory);
        if is_readable {
            self.poison_on_error(synced)?;
            self.take_out(bases);
            return Ok(());
        }
        synced
    }

    /// The segments that end at or below `offset`, and whether some of them may still be read.
    fn old_segments(&self, offset: i64) -> (Vec<i64>, bool) {
        let state = self.state.borrow();
        let bases = || state.segments.iter().map(|segment| segment.base_offset);
        let count = bases().skip(1).take_while(|next| *next <= offset).count();
        let first_kept = state.segments[count].base_offset;
        let is_readable = count > 0 && first_kept > state.log_start_offset;
        (bases().take(count).collect(), is_readable)
    }

    /// Segments whose names are about to go can be read until they are taken out.
    async fn hold_open(&self, bases: &[i64]) -> Result<(), LogError> {
        for base_offset in bases {
            let file = self.file(*base_offset).await?;
            if let Some(segment) = self.state.borrow_mut().segment_mut(*base_offset) {
                segment.pinned = Some(file);
            }
        }
        Ok(())
    }

    /// Takes the first segments out of the log, which begins behind them from here on.
    fn take_out(&self, bases: &[i64]) {
        let mut state = self.state.borrow_mut();
        state.segments.drain(..bases.len());
        let first = state.segments[0].base_offset;
        state.log_start_offset = state.log_start_offset.max(first);
        drop(state);
        for base_offset in bases {
            self.files.forget((self.number, *base_offset));
        }
        self.generation.set(self.generation.get() + 1);
    }

    /// The old segments may be gone after a loss of power, so the next one must be there.
    async fn sync_first_kept(&self, offset: i64) -> Result<(), LogError> {
        let is_due = |segment: &Segment| segment.base_offset <= offset && !segment.is_entry_durable;
        let bases: Vec<i64> = {
            let state = self.state.borrow();
            let due = state.segments.iter().filter(|segment| is_due(segment));
            due.map(|segment| segment.base_offset).collect()
        };
        if bases.is_empty() {
            return Ok(());
        }
        let directory = self.directory();
        let synced = self.io().sync_directory(&directory).await;
        self.poison_on_error(synced.at("sync", &directory))?;
        let mut state = self.state.borrow_mut();
        for base_offset in bases {
            if let Some(segment) = state.segment_mut(base_offset) {
                segment.is_entry_durable = true;
            }
        }
        Ok(())
    }

    /// Gives the files of a segment their `.deleted` names.
    pub(super) async fn rename_deleted(
        &self,
        base_offset: i64,
        deleted: &mut Deleted,
    ) -> Result<(), LogError> {
        deleted.segments += 1;
        for kind in SEGMENT_FILES {
            let path = self.path(base_offset, kind);
            let mut target = path.clone().into_os_string();
            target.push(PendingSuffix::Deleted.suffix());
            match self.io().rename(&path, target.as_ref()).await {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => {
                    other.at("rename", &path)?;
                    deleted.files.push(target.into());
                }
            }
        }
        Ok(())
    }
}
