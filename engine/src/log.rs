//! The log of a partition on disk, in Apache Kafka's format.
//!
//! | file | what lives there |
//! |---|---|
//! | `log` (this file) | [`Log`]: what it knows, create, delete |
//! | `append` | assign offsets, write, roll |
//! | `read` | slices for `sendfile`, look-ups by offset and timestamp, visits of batches |
//! | `cold` | verification of what was not written by this process, at its first read |
//! | `load` | indexes: in memory, from disk, built anew |
//! | `flush` | the paced checkpoint, and the clean close |
//! | `truncate` | cut the end |
//! | `retention` | which old segments may go, and how they go |
//! | `compaction`, `cleaner` | how dirty a log is, the swap; one round over its batches |
//! | `key_map`, `transactions` | the last offset of each key; what was aborted |
//! | `opening`, `recovery` | open a directory: what is known before and found; what of it can be believed |
//! | `verify` | which batches are good, and which bytes are none |
//! | `left_overs` | deletions and compactions that a stop has cut short |
//! | `segment`, `index`, `scan` | one segment in memory; its indexes; its batches by position |
//! | `files`, `lock` | open files within a bound; who is next |
//! | `directory`, `checkpoint` | names and small files, byte for byte as Kafka's |
//!
//! Invariants:
//! - Bytes below the log end offset never change; what a reader is given stays valid while it is sent
//!   (also over a delete or a roll), since it holds the [`File`].
//! - Log end offset and end position move only after the write completed, in order: appends are
//!   serialised.
//! - The recovery point moves only after data, directory entries and indexes up to it are synced.
//! - A failed write or sync poisons the log: no append succeeds until it is opened again. Reads go on.
//! - Nothing here reads a clock, and no `RefCell` is borrowed over an await.
//!
//! It does not know of acknowledgements, producers, high watermarks or retention times: the partition
//! does. Waiting readers are woken by the partition too.

mod append;
pub mod checkpoint;
mod cleaner;
mod cold;
mod compaction;
pub mod directory;
mod error;
mod files;
mod flush;
mod index;
mod key_map;
mod left_overs;
mod load;
mod lock;
mod opening;
mod read;
mod recovery;
mod retention;
mod scan;
mod segment;
mod transactions;
mod truncate;
mod verify;

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use futures_util::future::join;
use uuid::Uuid;

use crate::io::{File, Io, OpenMode};
use directory::{SegmentFileKind, segment_path};
use error::IoContext;
use lock::Lock;
use segment::{BatchPlace, Segment};

pub use append::{AppendBatch, AppendTime, Appended};
pub use cold::{DamagedBatches, ScrubPosition};
pub use compaction::{CleanerSettings, Compacted, CompactionLimits, Dirt, LastRecord};
pub use error::LogError;
pub use files::SegmentFiles;
pub use index::{OFFSET_ENTRY_BYTES, TIME_ENTRY_BYTES, TimestampOffset};
pub use opening::{Opening, Recovery, Truncated};
pub use read::FileSlice;
pub use retention::{Deleted, Due, Retention};
pub use verify::{Damage, DamageKind, SegmentCheck, SegmentReport, check_segment};

/// Appended batches whose positions are remembered: a consumer at the tail costs no read.
const TAIL_BATCHES: usize = 64;

/// Settings of one log; names and meanings as Kafka's topic settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `segment.bytes`: largest size of a .log file, at most `i32::MAX`.
    pub segment_bytes: u32,
    /// `segment.ms`: a segment is rolled when record timestamps (or the clock) have gone so far.
    pub segment_ms: i64,
    /// `segment.jitter.ms`: largest time by which a roll comes earlier.
    pub segment_jitter_ms: i64,
    /// What makes the jitter of this partition differ from that of others.
    pub jitter_seed: u64,
    /// `index.interval.bytes`: bytes of batches between two index entries.
    pub index_interval_bytes: u32,
    /// `segment.index.bytes`: largest size of an index file.
    pub index_bytes_max: u32,
    /// `preallocate`: reserve `segment_bytes` when a segment is created.
    pub preallocate: bool,
    /// Whether compaction may have left gaps between segments. If not, a gap above the recovery point
    /// is a lost tail, and the log is cut there.
    pub is_compacted: bool,
}

impl Default for LogConfig {
    /// Kafka's defaults.
    fn default() -> LogConfig {
        LogConfig {
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 60 * 60 * 1000,
            segment_jitter_ms: 0,
            jitter_seed: 0,
            index_interval_bytes: 4096,
            index_bytes_max: 10 << 20,
            preallocate: false,
            is_compacted: false,
        }
    }
}

/// A place between two batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPosition {
    /// Offset of the next batch.
    pub offset: i64,
    /// Base offset of the segment that has it, or will have it.
    pub segment_base: i64,
    /// Where it begins in the .log file.
    pub position: u32,
}

/// What is known of one segment without reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Offset that names it.
    pub base_offset: i64,
    /// Base offset of the next segment, or the log end offset.
    pub next_offset: i64,
    /// Bytes of batches.
    pub size: u32,
    /// Largest timestamp, if it is in memory; else ask [`Log::largest_timestamp`].
    pub largest_timestamp: Option<i64>,
}

#[derive(Debug)]
struct State {
    directory: PathBuf,
    /// By base offset; the last is the active one. Never empty.
    segments: Vec<Segment>,
    log_start_offset: i64,
    log_end_offset: i64,
    recovery_point: i64,
    poison: Option<String>,
    /// The last batches that were appended to the active segment.
    tail: VecDeque<BatchPlace>,
    /// The log end offset at the last [`Log::rest`].
    rested_at: i64,
}

impl State {
    fn active(&self) -> &Segment {
        self.segments.last().expect("a log has a segment")
    }

    fn active_mut(&mut self) -> &mut Segment {
        self.segments.last_mut().expect("a log has a segment")
    }

    fn segment(&self, base_offset: i64) -> Option<&Segment> {
        let at = self
            .segments
            .binary_search_by_key(&base_offset, |segment| segment.base_offset);
        at.ok().map(|at| &self.segments[at])
    }

    fn segment_mut(&mut self, base_offset: i64) -> Option<&mut Segment> {
        let at = self
            .segments
            .binary_search_by_key(&base_offset, |segment| segment.base_offset);
        at.ok().map(|at| &mut self.segments[at])
    }

    fn end(&self) -> LogPosition {
        let active = self.active();
        LogPosition {
            offset: self.log_end_offset,
            segment_base: active.base_offset,
            position: active.size,
        }
    }
}

/// The log of one partition. Bound to its shard; methods take `&self`.
pub struct Log {
    files: SegmentFiles,
    number: u64,
    config: RefCell<Rc<LogConfig>>,
    topic_id: Cell<Option<Uuid>>,
    state: RefCell<State>,
    /// Changes whenever bytes or segments go away: a look-up that saw it change begins again.
    generation: Cell<u64>,
    /// Closed, or being deleted: its files are no longer its own.
    has_ended: Cell<bool>,
    append_lock: Lock,
    flush_lock: Lock,
    /// Damage that nobody was told of yet.
    untold: RefCell<Vec<DamagedBatches>>,
}

impl Log {
    /// Creates the directory of a new partition with `partition.metadata` and an empty segment at
    /// offset 0. Durable at return.
    ///
    /// # Errors
    /// What the I/O answered; `Foreign` if the directory is there.
    pub async fn create(
        files: &SegmentFiles,
        directory: &Path,
        topic_id: Uuid,
        config: LogConfig,
    ) -> Result<Log, LogError> {
        let io = files.io();
        let mut made = io.create_directory(directory).await;
        if is_there(&made) && directory::is_half_made(io, directory).await? {
            directory::remove_directory_tree(io, directory).await?;
            made = io.create_directory(directory).await;
        }
        if is_there(&made) {
            return Err(LogError::Foreign {
                path: directory.to_owned(),
                reason: "a new partition is to be here, and something is here already".to_owned(),
                remedy: "move it away",
            });
        }
        made.at("create", directory)?;
        let number = files.number();
        let inside = async {
            create_segment_file(files, (number, 0), directory, &config).await?;
            // Its end syncs the directory, and with it the segment's entry.
            directory::write_partition_metadata(io, directory, topic_id).await
        };
        let (parent, inside) = join(directory::sync_parent(io, directory), inside).await;
        parent.and(inside)?;
        let mut segment = Segment::empty(0);
        segment.is_entry_durable = true;
        let state = State {
            directory: directory.to_owned(),
            segments: vec![segment],
            log_start_offset: 0,
            log_end_offset: 0,
            recovery_point: 0,
            poison: None,
            tail: VecDeque::new(),
            rested_at: -1,
        };
        Ok(Log::assemble(files, number, config, Some(topic_id), state))
    }

    fn assemble(
        files: &SegmentFiles,
        number: u64,
        config: LogConfig,
        topic_id: Option<Uuid>,
        state: State,
    ) -> Log {
        Log {
            files: files.clone(),
            number,
            config: RefCell::new(Rc::new(config)),
            topic_id: Cell::new(topic_id),
            state: RefCell::new(state),
            generation: Cell::new(0),
            has_ended: Cell::new(false),
            append_lock: Lock::default(),
            flush_lock: Lock::default(),
            untold: RefCell::default(),
        }
    }

    // ---- what it knows -----------------------------------------------------------------------

    /// First offset that may be read.
    pub fn log_start_offset(&self) -> i64 {
        self.state.borrow().log_start_offset
    }

    /// Offset that the next record gets.
    pub fn log_end_offset(&self) -> i64 {
        self.state.borrow().log_end_offset
    }

    /// Where the next batch goes.
    pub fn end_position(&self) -> LogPosition {
        self.state.borrow().end()
    }

    /// Everything below this offset is on stable storage.
    pub fn recovery_point(&self) -> i64 {
        self.state.borrow().recovery_point
    }

    /// Bytes of all batches.
    pub fn size_bytes(&self) -> u64 {
        let state = self.state.borrow();
        state.segments.iter().map(|s| u64::from(s.size)).sum()
    }

    /// Number of segments.
    pub fn segment_count(&self) -> usize {
        self.state.borrow().segments.len()
    }

    /// All segments, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let state = self.state.borrow();
        let following = state.segments.iter().skip(1).map(|s| s.base_offset);
        let ends = following.chain([state.log_end_offset]);
        let info = |(segment, next_offset): (&Segment, i64)| SegmentInfo {
            base_offset: segment.base_offset,
            next_offset,
            size: segment.size,
            largest_timestamp: segment.largest.map(|largest| largest.timestamp),
        };
        state.segments.iter().zip(ends).map(info).collect()
    }

    /// Gives back the memory that only a busy log needs, if there was no append since the last call.
    pub fn rest(&self) {
        let mut state = self.state.borrow_mut();
        let end = state.log_end_offset;
        if std::mem::replace(&mut state.rested_at, end) == end {
            state.tail = VecDeque::new();
        }
    }

    /// Whether [`Log::flush`] has anything to do.
    pub fn is_dirty(&self) -> bool {
        let state = self.state.borrow();
        let last = state.segments.len() - 1;
        state.recovery_point < state.log_end_offset
            || state.segments.iter().enumerate().any(|(i, segment)| {
                let is_index_due = i < last && segment.indexes.is_some();
                let is_data_due = segment.synced < segment.size || segment.has_new_length;
                is_data_due || !segment.is_entry_durable || is_index_due
            })
    }

    /// Bytes that the next [`Log::flush`] has to sync.
    pub fn unsynced_bytes(&self) -> u64 {
        let state = self.state.borrow();
        let unsynced = |segment: &Segment| u64::from(segment.size - segment.synced);
        state.segments.iter().map(unsynced).sum()
    }

    /// The partition's directory.
    pub fn directory(&self) -> PathBuf {
        self.state.borrow().directory.clone()
    }

    /// The topic id of `partition.metadata`; `None` in a directory from before topic ids.
    pub fn topic_id(&self) -> Option<Uuid> {
        self.topic_id.get()
    }

    /// The settings in force.
    pub fn config(&self) -> Rc<LogConfig> {
        self.config.borrow().clone()
    }

    /// Changes the settings; holds from the next append on.
    pub fn set_config(&self, config: LogConfig) {
        self.config.replace(Rc::new(config));
    }

    /// Raises the log start offset (DeleteRecords, retention); never lowers it. Whole segments below
    /// it are removed by [`Log::delete_old_segments`]. The caller writes the checkpoint file.
    ///
    /// # Errors
    /// `OffsetOutOfRange` above the log end offset; `Poisoned` once the log is closed or deleted.
    pub fn set_log_start_offset(&self, offset: i64) -> Result<(), LogError> {
        if self.has_ended.get() {
            // A stop has noted where the log begins: consumers must not see more go.
            self.check_writable()?;
        }
        let mut state = self.state.borrow_mut();
        if offset > state.log_end_offset {
            return Err(out_of_range(&state, offset));
        }
        state.log_start_offset = state.log_start_offset.max(offset);
        Ok(())
    }

    // ---- failure -----------------------------------------------------------------------------

    /// Refuses appends from now on; the first reason stays.
    pub fn poison(&self, reason: &str) {
        let mut state = self.state.borrow_mut();
        state.poison.get_or_insert_with(|| reason.to_owned());
    }

    /// Why appends are refused, if they are.
    pub fn poisoned(&self) -> Option<String> {
        self.state.borrow().poison.clone()
    }

    /// Ends the log: neither appends nor deletions from now on.
    fn end(&self, reason: &str) {
        self.has_ended.set(true);
        self.poison(reason);
    }

    fn check_writable(&self) -> Result<(), LogError> {
        let state = self.state.borrow();
        match &state.poison {
            None => Ok(()),
            Some(reason) => Err(LogError::Poisoned {
                directory: state.directory.clone(),
                reason: reason.clone(),
            }),
        }
    }

    fn check_open(&self) -> Result<(), LogError> {
        if self.has_ended.get() {
            return self.check_writable();
        }
        Ok(())
    }

    fn poison_on_error<T>(&self, result: Result<T, LogError>) -> Result<T, LogError> {
        if let Err(error) = &result {
            self.poison(&error.to_string());
        }
        result
    }

    // ---- files -------------------------------------------------------------------------------

    fn io(&self) -> &Io {
        self.files.io()
    }

    fn path(&self, base_offset: i64, kind: SegmentFileKind) -> PathBuf {
        segment_path(&self.state.borrow().directory, base_offset, kind)
    }

    async fn file(&self, base_offset: i64) -> Result<File, LogError> {
        let key = (self.number, base_offset);
        let pinned = || {
            let state = self.state.borrow();
            state.segment(base_offset)?.pinned.clone()
        };
        if let Some(file) = pinned().or_else(|| self.files.get(key)) {
            return Ok(file);
        }
        loop {
            let generation = self.generation.get();
            let path = self.path(base_offset, SegmentFileKind::Log);
            let opened = self.files.open(key, &path, OpenMode::Write).await;
            // Its name may have gone meanwhile.
            let file = opened.or_else(|error| pinned().ok_or(error))?;
            if self.generation.get() == generation {
                return Ok(file);
            }
            // What was opened may be a segment that has gone meanwhile: it must not stay open.
            self.files.forget(key);
        }
    }

    /// Moves the directory to `<topic>-<partition>.<unique>-delete`, durably: the partition is gone
    /// for the next start. Appends are refused from here on, slices that are being sent stay valid.
    ///
    /// # Errors
    /// What rename(2) or fsync(2) answered.
    pub async fn rename_for_delete(&self, unique: Uuid) -> Result<PathBuf, LogError> {
        let _append = self.append_lock.lock().await;
        let _flush = self.flush_lock.lock().await;
        self.end("the log is being deleted");
        let directory = self.directory();
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        let renamed = directory.with_file_name(directory::delete_directory_name(&name, unique));
        let io = self.io();
        io.rename(&directory, &renamed)
            .await
            .at("rename", &directory)?;
        self.state.borrow_mut().directory.clone_from(&renamed);
        directory::sync_parent(io, &renamed).await?;
        Ok(renamed)
    }

    /// Deletes the log: renames its directory, then removes it.
    ///
    /// # Errors
    /// What the I/O answered. After the rename the directory's name says that it is to be deleted.
    pub async fn delete(self, unique: Uuid) -> Result<(), LogError> {
        let renamed = self.rename_for_delete(unique).await?;
        self.files.forget_log(self.number);
        directory::remove_directory_tree(self.io(), &renamed).await
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.files.forget_log(self.number);
    }
}

fn is_there(made: &std::io::Result<()>) -> bool {
    let is_so = |error: &std::io::Error| error.kind() == std::io::ErrorKind::AlreadyExists;
    made.as_ref().is_err_and(is_so)
}

fn out_of_range(state: &State, offset: i64) -> LogError {
    LogError::OffsetOutOfRange {
        offset,
        start: state.log_start_offset,
        end: state.log_end_offset,
    }
}

/// Creates the .log file of a segment; the caller syncs the directory, now or before the recovery
/// point passes the segment.
async fn create_segment_file(
    files: &SegmentFiles,
    key: (u64, i64),
    directory: &Path,
    config: &LogConfig,
) -> Result<File, LogError> {
    let path = segment_path(directory, key.1, SegmentFileKind::Log);
    let file = files.open(key, &path, OpenMode::CreateNew).await?;
    if config.preallocate {
        // A matter of speed only. A full disk must not keep retention from rolling, and a name taken
        // back here could come back in a crash, inside of what is appended meanwhile.
        let length = u64::from(config.segment_bytes);
        let _ = files.io().allocate(&file, length).await;
    }
    Ok(file)
}
