//! Compaction: how dirty a log is, and the swap of what `cleaner` wrote for what there was.
//!
//! As Kafka 3.9 (LogCleanerManager.scala, UnifiedLog.replaceSegments). The swap is three steps, each
//! durable before the next, and readers never see an in-between: they hold the new file itself.
//! 1. `.cleaned` files become `.swap`: from here on a start finishes the swap, before it takes it back.
//!    The file reaches into the last segment that it replaces, so that the start knows them all (in
//!    Kafka it may end before: then replaced segments come back).
//! 2. The old files become `.deleted`.
//! 3. `.swap` files get their final names.
//!
//! What the caller owes: everything up to the plan's end is flushed, its recovery point is durable
//! (gaps above one look like lost data), and a journal has durably forgotten the segments: replay
//! would write old bytes into the new files. Nothing here knows producers, topics or policies.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::cleaner::{Cleaned, Cleaner, Group, group};
use super::directory::{PendingSuffix, SegmentFileKind, remove_file_if_there};
use super::error::{IoContext, LogError};
use super::retention::Deleted;
use super::{Log, SegmentInfo};
use crate::clock::Instant;
use crate::io::Io;

/// What bounds a compaction, from the topic's settings and the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionLimits {
    /// Up to where earlier rounds came (`cleaner-offset-checkpoint`), if there were any.
    pub clean_to: Option<i64>,
    /// Nothing at or above this offset is compacted.
    pub high_watermark: i64,
    /// The wall clock.
    pub now_ms: i64,
    /// `min.compaction.lag.ms`.
    pub lag_ms_min: i64,
    /// `max.compaction.lag.ms`.
    pub lag_ms_max: i64,
}

/// How dirty a log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dirt {
    /// Offset of the first record that no round has seen.
    pub first_dirty: i64,
    /// Base offset of the first segment that may not be compacted yet.
    pub first_uncleanable: i64,
    /// Bytes below the first dirty offset.
    pub clean_bytes: u64,
    /// Bytes from there to the first segment that may not be compacted.
    pub dirty_bytes: u64,
    /// Something is older than `max.compaction.lag.ms`.
    pub is_overdue: bool,
}

impl Dirt {
    /// The dirty part, 0 to 1.
    pub fn ratio(&self) -> f64 {
        let all = self.clean_bytes + self.dirty_bytes;
        if all == 0 {
            0.0
        } else {
            self.dirty_bytes as f64 / all as f64
        }
    }

    /// Whether it is time for a round (`min.cleanable.dirty.ratio`).
    pub fn is_due(&self, ratio_min: f64) -> bool {
        (self.is_overdue && self.dirty_bytes > 0) || self.ratio() > ratio_min
    }
}

/// How a round of compaction works.
#[derive(Clone, Debug)]
pub struct CleanerSettings {
    /// The wall clock.
    pub now_ms: i64,
    /// `delete.retention.ms`: how long tombstones stay after they were first compacted.
    pub delete_retention_ms: i64,
    /// Memory of the map of keys.
    pub map_bytes: u64,
    /// How full the map may get.
    pub map_load_factor: f64,
    /// Bytes of one read.
    pub chunk_bytes: usize,
    /// Bound on reads and writes together, if there is one.
    pub bytes_per_second: Option<f64>,
    /// Makes the hashes of keys unforeseeable.
    pub salt: u64,
}

/// What must stay known of a producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastRecord {
    /// Offsets of the last records of its last batches: those that a retry is recognised by (Kafka
    /// keeps the last batch only, and takes a retry of the one before it for out of order).
    pub data_offsets: Vec<i64>,
    /// Its epoch.
    pub epoch: i16,
}

/// What a round has done.
#[derive(Debug, Default)]
pub struct Compacted {
    /// The log is clean below this offset.
    pub clean_to: i64,
    /// Segments before and after.
    pub segments: (usize, usize),
    /// Bytes before and after.
    pub bytes: (u64, u64),
    /// The map of keys was full: another round has to go on.
    pub is_partial: bool,
    /// The old files.
    pub deleted: Vec<Deleted>,
}

/// Holds back reads and writes to a number of bytes per second.
pub(super) struct Pace {
    io: Io,
    bytes_per_second: Option<f64>,
    next: Instant,
    since_yield: u64,
}

/// Bytes of work after which other tasks have a turn.
const YIELD_BYTES: u64 = 256 * 1024;

impl Pace {
    pub(super) fn new(io: &Io, bytes_per_second: Option<f64>) -> Pace {
        Pace {
            io: io.clone(),
            bytes_per_second: bytes_per_second.filter(|rate| rate.is_finite() && *rate > 0.0),
            next: io.now(),
            since_yield: 0,
        }
    }

    /// So many bytes were read or written.
    pub(super) async fn took(&mut self, bytes: u64) {
        if let Some(rate) = self.bytes_per_second {
            let nanoseconds = (bytes as f64 / rate * 1e9).min(3.6e12);
            let from = self.next.max(self.io.now());
            self.next = from + Duration::from_nanos(nanoseconds as u64);
        }
        self.since_yield += bytes;
        if self.since_yield < YIELD_BYTES {
            return;
        }
        self.since_yield = 0;
        if self.next > self.io.now() {
            self.io.sleep_until(self.next).await;
        } else {
            self.io.yield_now().await;
        }
    }
}

impl Log {
    /// How dirty the log is, and up to where it may be compacted.
    ///
    /// # Errors
    /// What reading an index or a header answered.
    pub async fn dirt(&self, limits: &CompactionLimits) -> Result<Option<Dirt>, LogError> {
        let generation = self.generation.get();
        let dirt = self.dirt_once(limits).await;
        if self.generation.get() == generation {
            dirt.map(Some)
        } else {
            Ok(None)
        }
    }

    async fn dirt_once(&self, limits: &CompactionLimits) -> Result<Dirt, LogError> {
        let (start, end) = (self.log_start_offset(), self.log_end_offset());
        let is_valid = |offset: &i64| (start..=end).contains(offset);
        let first_dirty = limits.clean_to.filter(is_valid).unwrap_or(start);
        let mut segments = self.segments();
        let active = segments.pop().map_or(end, |active| active.base_offset);
        let is_dirty = |segment: &&SegmentInfo| segment.next_offset > first_dirty;
        let dirty: Vec<SegmentInfo> = segments.iter().filter(is_dirty).copied().collect();
        let mut bound = limits.high_watermark.min(active);
        if limits.lag_ms_min > 0 {
            let newest_ms = limits.now_ms.saturating_sub(limits.lag_ms_min);
            for segment in &dirty {
                if self.age_ms(segment.base_offset).await? > newest_ms {
                    bound = bound.min(segment.base_offset);
                    break;
                }
            }
        }
        let bound = bound.max(first_dirty);
        let holds_bound = |segment: &&SegmentInfo| segment.next_offset > bound;
        let first_uncleanable = segments.iter().find(holds_bound);
        let first_uncleanable = first_uncleanable.map_or(active, |segment| segment.base_offset);
        let size = |segment: &SegmentInfo| u64::from(segment.size);
        let clean = segments.iter().filter(|s| s.base_offset < first_dirty);
        let cleanable = dirty.iter().filter(|s| s.base_offset < first_uncleanable);
        Ok(Dirt {
            first_dirty,
            first_uncleanable,
            clean_bytes: clean.map(size).sum(),
            dirty_bytes: cleanable.map(size).sum(),
            is_overdue: self.is_overdue(&dirty, limits).await?,
        })
    }

    async fn is_overdue(
        &self,
        dirty: &[SegmentInfo],
        limits: &CompactionLimits,
    ) -> Result<bool, LogError> {
        let oldest_ms = limits.now_ms.saturating_sub(limits.lag_ms_max.max(0));
        if oldest_ms <= 0 {
            return Ok(false);
        }
        for segment in dirty.iter().filter(|segment| segment.size > 0) {
            let first_ms = match self.header_at(segment.base_offset, 0).await {
                Ok(header) => header.max_timestamp,
                // Damaged: others must tell of their age.
                Err(LogError::Corrupt { .. }) => continue,
                Err(error) => return Err(error),
            };
            if first_ms > 0 && first_ms < oldest_ms {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Compacts the log as far as `dirt` allows, segment by segment; see above for what the caller
    /// must have done before. Appends, reads and flushes go on meanwhile. `None` if the log has
    /// changed so that another look must be taken first.
    ///
    /// # Errors
    /// `Corrupt` if a batch is damaged, `Poisoned` if the log ends meanwhile, or what the I/O
    /// answered: the rest of the log is as it was. A failure inside the swap poisons the log, and the
    /// next start finishes the swap.
    pub async fn compact(
        &self,
        dirt: &Dirt,
        settings: &CleanerSettings,
        producers: &BTreeMap<i64, LastRecord>,
    ) -> Result<Option<Compacted>, LogError> {
        self.check_writable()?;
        self.drop_leftovers().await?;
        let mut segments = self.segments();
        let before = segments.len();
        segments.retain(|segment| segment.next_offset <= dirt.first_uncleanable);
        if segments.len() == before {
            // The active segment is never among them.
            segments.pop();
        }
        let mut cleaner = Cleaner::new(self, settings, producers, dirt.first_uncleanable);
        let scan = cleaner.scan_transactions(&segments).await?;
        let mut upper = dirt.first_uncleanable;
        if let Some(first_open) = scan.first_open() {
            // A transaction that may yet be aborted: its segment and all after it have to wait.
            segments.retain(|segment| segment.next_offset <= first_open);
            upper = segments
                .last()
                .map_or(dirt.first_dirty, |last| last.next_offset);
            cleaner.end_at(upper);
        }
        let is_dirty = |segment: &&SegmentInfo| segment.next_offset > dirt.first_dirty;
        let dirty: Vec<SegmentInfo> = segments.iter().filter(is_dirty).copied().collect();
        let Some(first) = dirty.first() else {
            return Ok(None);
        };
        let walk = scan.walk(first.base_offset);
        let clean_to = cleaner.map_keys(&dirty, dirt.first_dirty, walk).await?;
        if clean_to <= dirt.first_dirty {
            return Err(LogError::InvalidBatch {
                reason: "the map of keys has no room for one batch; raise \
                         log.cleaner.dedupe.buffer.size"
                    .to_owned(),
            });
        }
        segments.retain(|segment| segment.base_offset < clean_to);
        let mut done = Compacted {
            clean_to,
            is_partial: clean_to < upper,
            ..Compacted::default()
        };
        let mut walk = scan.walk(i64::MIN);
        for group in group(&segments, &self.config()) {
            let cleaned = cleaner.clean(&group, &mut walk).await?;
            done.segments.0 += group.len();
            done.segments.1 += 1;
            done.bytes.0 += group.iter().map(|s| u64::from(s.size)).sum::<u64>();
            done.bytes.1 += u64::from(cleaned.segment.size);
            match self.swap(&group, cleaned).await? {
                Some(deleted) => done.deleted.push(deleted),
                None => return Ok(None),
            }
        }
        Ok(Some(done))
    }

    // ---- the swap ----------------------------------------------------------------------------

    /// `None` if the log has changed meanwhile: what was written is removed then.
    async fn swap(&self, group: &Group, cleaned: Cleaned) -> Result<Option<Deleted>, LogError> {
        let _flush = self.flush_lock.lock().await;
        self.check_open()?;
        self.check_writable()?;
        let base_offset = cleaned.segment.base_offset;
        let kinds = cleaned.kinds.clone();
        if !self.has(group) {
            self.drop_cleaned(base_offset).await?;
            return Ok(None);
        }
        let directory = self.directory();
        let io = self.io();
        let to_swap = (
            PendingSuffix::Cleaned.suffix(),
            PendingSuffix::Swap.suffix(),
        );
        let mut prepared = self.rename_all(base_offset, &kinds, to_swap).await;
        if prepared.is_ok() {
            prepared = io.sync_directory(&directory).await.at("sync", &directory);
        }
        if let Err(error) = prepared {
            // As it was, if the names can be taken back; if not, the next start decides.
            let dropped = self.drop_cleaned(base_offset).await;
            self.poison_on_error(dropped)?;
            return Err(error);
        }
        self.replace_in_memory(group, cleaned);
        let swapped = self.replace_on_disk(group, &kinds).await;
        let deleted = self.poison_on_error(swapped)?;
        if let Some(segment) = self.state.borrow_mut().segment_mut(base_offset) {
            // From here on the name leads to the same file.
            segment.pinned = None;
            segment.indexes = None;
        }
        Ok(Some(deleted))
    }

    /// Whether the segments of the group are still those that were read.
    fn has(&self, group: &Group) -> bool {
        let state = self.state.borrow();
        let has = |info: &SegmentInfo| {
            let segment = state.segment(info.base_offset);
            segment.is_some_and(|segment| segment.size == info.size)
        };
        let last = state.active().base_offset;
        group.iter().all(has) && group.iter().all(|info| info.base_offset != last)
    }

    fn replace_in_memory(&self, group: &Group, cleaned: Cleaned) {
        let base_offset = cleaned.segment.base_offset;
        for old in group {
            self.files.forget((self.number, old.base_offset));
        }
        let mut state = self.state.borrow_mut();
        let from = state
            .segments
            .partition_point(|segment| segment.base_offset < base_offset);
        let mut segment = cleaned.segment;
        segment.pinned = Some(cleaned.file);
        segment.generation = self.generation.get() + 1;
        let to = from + group.len();
        state.segments.splice(from..to, [segment]);
        self.generation.set(self.generation.get() + 1);
    }

    async fn replace_on_disk(
        &self,
        group: &Group,
        kinds: &[SegmentFileKind],
    ) -> Result<Deleted, LogError> {
        let directory = self.directory();
        let mut deleted = Deleted::default();
        for old in group {
            self.rename_deleted(old.base_offset, &mut deleted).await?;
        }
        let io = self.io();
        io.sync_directory(&directory).await.at("sync", &directory)?;
        let to_final = (PendingSuffix::Swap.suffix(), "");
        let base_offset = group[0].base_offset;
        self.rename_all(base_offset, kinds, to_final).await?;
        io.sync_directory(&directory).await.at("sync", &directory)?;
        Ok(deleted)
    }

    async fn rename_all(
        &self,
        base_offset: i64,
        kinds: &[SegmentFileKind],
        (from, to): (&str, &str),
    ) -> Result<(), LogError> {
        for kind in kinds {
            let plain = self.path(base_offset, *kind);
            let (from, to) = (with_suffix(&plain, from), with_suffix(&plain, to));
            self.io().rename(&from, &to).await.at("rename", &from)?;
        }
        Ok(())
    }

    /// Removes what an earlier round has left: a start that finds a `.cleaned` file takes back what
    /// is being swapped in.
    async fn drop_leftovers(&self) -> Result<(), LogError> {
        let directory = self.directory();
        let entries = self.io().list_directory(&directory).await;
        let mut any = false;
        for entry in entries.at("list", &directory)? {
            if entry.name.ends_with(PendingSuffix::Cleaned.suffix()) {
                remove_file_if_there(self.io(), &directory.join(&entry.name)).await?;
                any = true;
            }
        }
        if any {
            let synced = self.io().sync_directory(&directory).await;
            synced.at("sync", &directory)?;
        }
        Ok(())
    }

    /// Removes what a round has written and not swapped in.
    async fn drop_cleaned(&self, base_offset: i64) -> Result<(), LogError> {
        // A .swap file alone would be taken for a finished compaction.
        for suffix in [
            PendingSuffix::Swap.suffix(),
            PendingSuffix::Cleaned.suffix(),
        ] {
            for kind in SegmentFileKind::ALL {
                let path = with_suffix(&self.path(base_offset, kind), suffix);
                remove_file_if_there(self.io(), &path).await?;
            }
        }
        let directory = self.directory();
        let synced = self.io().sync_directory(&directory).await;
        synced.at("sync", &directory)
    }
}

fn with_suffix(path: &std::path::Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}
