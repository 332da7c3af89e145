//! The durability journal of a shard: one ring of files, one write and one flush for everything
//! that arrived in any of its partitions meanwhile (group commit).
//!
//! | file | what it holds |
//! |---|---|
//! | `format.rs` | the bytes: stream, groups, entries |
//! | `group_commit.rs` | append, the filling groups, the writer task, who waits for what |
//! | `ring.rs` | the files: prepared ahead, used, recycled |
//! | `checkpoint.rs` | the loop that syncs segments and lets the ring go on |
//! | `replay.rs`, `inventory.rs` | after a crash: find what is valid, write it into the segments |
//!
//! Invariants:
//! - What [`Journal::durable`] resolved for is on stable storage: replay brings it into its segment,
//!   in order, also if the machine loses power at any moment, replay included.
//! - One group is in flight; sequence numbers rise by one. So at most the last group can be torn,
//!   and a bad group before a good one is damage, which replay reports and never passes over.
//! - A file is written again only after a group that carries a checkpoint at or above its end is
//!   durable: what has no other durable copy is never overwritten.
//! - The first failed write or flush poisons the journal until the next start; nothing is retried.
//!
//! The files are `.ringlog-journal-<shard>-<6 digits>` in the first log directory: Apache Kafka
//! refuses a log directory with unknown sub-directories, and ignores plain files.
//!
//! What the caller owes (the journal cannot see it):
//! - A change is made in the segment (a gather buffer counts) before it is appended here, so that a
//!   checkpoint that starts between the two misses nothing.
//! - A checkpoint syncs *every* byte appended before [`Journal::start_checkpoint`], what a gather
//!   buffer still holds and the directory entries of new segments included.
//! - Before segment files are replaced (compaction) or removed (retention, deletion of a
//!   partition), their bytes and their directory entries are synced, or not wanted any more, and a
//!   [`Journal::append_forget`] is durable: replay would write old bytes into the new file, or bring
//!   the old file back.
//! - What is written to a segment past the journal (large appends) may follow a
//!   [`Journal::append_truncate`] of that partition only after a checkpoint: replaying the truncation
//!   cuts it off.
//! - A partition belongs to one shard for as long as the process lives.
//!
//! It knows nothing of record batches, offsets or replicas.

mod checkpoint;
mod event;
mod format;
mod group_commit;
mod inspect;
mod inventory;
mod replay;
mod ring;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use crate::io::Io;
use event::Event;
use format::{EntryHeader, EntryKind, Geometry};
use group_commit::State;
use ring::Ring;

pub use checkpoint::run_checkpoints;
pub use group_commit::Reservation;
pub use inspect::inspect;
pub use replay::{Damage, JournalReport, ReplayReport, Target, replay};

/// A position in the endless stream of a journal's bytes, headers and padding included. That of an
/// append is its end: the append is durable when the durable position has reached it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// Where a journal lives and how large it may get.
#[derive(Clone, Debug)]
pub struct JournalOptions {
    /// The first log directory.
    pub directory: PathBuf,
    /// The shard; part of the file names.
    pub shard: u32,
    /// Length of one file: a multiple of 4096, at most 4 GiB. Larger ones switch less often, but
    /// are freed in larger pieces.
    pub file_bytes: u64,
    /// Length of all files: at least two of them. Bounds the time of a replay, and how far
    /// segments may lag behind.
    pub ring_bytes: u64,
    /// Appended bytes that may wait in memory for the group in flight; above it
    /// [`Journal::reserve`] waits.
    pub pending_bytes_max: usize,
}

impl JournalOptions {
    /// 16 files of 16 MiB, 8 MiB in memory.
    pub fn new(directory: impl Into<PathBuf>, shard: u32) -> JournalOptions {
        JournalOptions {
            directory: directory.into(),
            shard,
            file_bytes: 16 << 20,
            ring_bytes: 256 << 20,
            pending_bytes_max: 8 << 20,
        }
    }
}

/// Bytes that went, or are about to go, into a segment.
#[derive(Clone, Copy, Debug)]
pub struct Append<'a> {
    /// The topic's id, not its name: a deleted and re-created topic is another one.
    pub topic_id: Uuid,
    /// The partition's number.
    pub partition: i32,
    /// Base offset of the segment, which is the name of its file.
    pub segment_base: i64,
    /// Position of the first byte in the segment's file.
    pub position: u64,
    /// The bytes, exactly as in the segment.
    pub buffers: &'a [Bytes],
}

/// Why a journal refuses.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// A write or flush failed earlier: nothing is acknowledged any more, reads may go on.
    #[error(
        "the journal is poisoned until restart (what it had acknowledged is safe): {0}; \
         check the device, then restart"
    )]
    Poisoned(Arc<str>),
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
    /// One reservation is larger than the ring can ever take.
    #[error("{bytes} bytes at once do not fit into the journal, limit {limit}")]
    TooLarge {
        /// Bytes asked for.
        bytes: u64,
        /// Most bytes that one reservation may ask for.
        limit: u64,
    },
    /// The options contradict themselves.
    #[error("journal options: {0}")]
    Options(&'static str),
    /// A file with the name of a journal file is none.
    #[error(
        "{} is not a journal file of Ringlog; if nothing else needs it, move it out of the log \
         directory and start again",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A journal was written by another version of Ringlog.
    #[error(
        "{} has journal format version {version}, this Ringlog reads only version {}; start the \
         version that wrote it once and stop it cleanly, which empties the journal",
        path.display(),
        format::VERSION
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The version found.
        version: u16,
    },
    /// A system call failed.
    #[error("journal: {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system answered.
        source: Arc<io::Error>,
    },
}

impl JournalError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
        let path = path.to_owned();
        move |source| JournalError::Io {
            what,
            path,
            source: Arc::new(source),
        }
    }
}

/// What a journal has done since its start, and how full it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalStats {
    /// Groups written.
    pub groups: u64,
    /// Bytes written, headers and padding included, without the preparation of files.
    pub bytes_written: u64,
    /// Entries appended.
    pub entries: u64,
    /// Bytes appended.
    pub entry_bytes: u64,
    /// Reservations that had to wait.
    pub waits: u64,
    /// Time that they waited, all together.
    pub wait_time: Duration,
    /// Bytes of the group in flight.
    pub in_flight_bytes: u64,
    /// Bytes of the groups behind it.
    pub pending_bytes: u64,
    /// Bytes of the ring that cannot be written again yet.
    pub used_bytes: u64,
    /// Bytes that the ring can hold.
    pub capacity_bytes: u64,
    /// Files on disk.
    pub files: u64,
}

/// A shard's journal. Clones are handles to the same one.
#[derive(Clone)]
pub struct Journal {
    shared: Rc<Shared>,
}

/// What the handles and the two tasks (writer, preparer) share.
struct Shared {
    io: Io,
    options: JournalOptions,
    geometry: Geometry,
    incarnation: u64,
    state: RefCell<State>,
    ring: RefCell<Ring>,
    /// Something to write, or the end of it.
    work: Event,
    /// Room in memory or in the ring, files wanted or ready, a checkpoint needed, a task ended.
    change: Event,
}

impl Journal {
    /// Opens an empty journal; [`replay()`] must have run before. Only reserves the first file, so
    /// that the start is not delayed: its first groups cost more than those of prepared files.
    ///
    /// # Errors
    /// Options that contradict themselves, or what the system answered.
    pub async fn open(io: &Io, options: JournalOptions) -> Result<Journal, JournalError> {
        if !format::is_file_bytes(options.file_bytes) {
            return Err(JournalError::Options(
                "the length of a file must be a multiple of 4096 between 8 KiB and 4 GiB",
            ));
        }
        let files_max = options.ring_bytes / options.file_bytes;
        if files_max < 2 {
            return Err(JournalError::Options("the ring needs at least two files"));
        }
        let geometry = Geometry {
            file_bytes: options.file_bytes,
        };
        let ring = Ring::open(io, &options, files_max).await?;
        let shared = Rc::new(Shared {
            io: io.clone(),
            geometry,
            incarnation: u64::try_from(io.wall_ms()).unwrap_or(0),
            options,
            state: RefCell::new(State::default()),
            ring: RefCell::new(ring),
            work: Event::default(),
            change: Event::default(),
        });
        io.spawn(group_commit::write_groups(shared.clone()));
        io.spawn(ring::prepare_files(shared.clone()));
        Ok(Journal { shared })
    }

    /// Waits until the journal takes `bytes` more, in memory and in the ring; first come, first
    /// served. Hold the reservation while appending, up to the last byte.
    ///
    /// # Errors
    /// Poisoned, closed, or more than the ring can ever take.
    pub async fn reserve(&self, bytes: usize) -> Result<Reservation, JournalError> {
        Shared::reserve(&self.shared, bytes).await
    }

    /// Copies the bytes into the filling group and returns at once: they are durable when
    /// [`Self::durable`] says so. Appends without a [`Reservation`] are safe, but the ring grows
    /// beyond its length rather than to overwrite anything.
    ///
    /// # Errors
    /// Poisoned or closed.
    pub fn append(&self, append: &Append<'_>) -> Result<Lsn, JournalError> {
        let header = EntryHeader {
            kind: EntryKind::Append,
            topic_id: append.topic_id,
            partition: append.partition,
            segment_base: append.segment_base,
            position: append.position,
            length: 0,
        };
        self.shared.append(header, append.buffers)
    }

    /// The partition was cut: `position` is the new length of the segment `segment_base`, and the
    /// segments above it are gone.
    ///
    /// # Errors
    /// Poisoned or closed.
    pub fn append_truncate(
        &self,
        topic_id: Uuid,
        partition: i32,
        segment_base: i64,
        position: u64,
    ) -> Result<Lsn, JournalError> {
        let header = EntryHeader {
            kind: EntryKind::Truncate,
            topic_id,
            partition,
            segment_base,
            position,
            length: 0,
        };
        self.shared.append(header, &[])
    }

    /// Earlier entries for segments of the partition with a base offset below `segment_base` are
    /// void: `i64::MAX` for a deleted partition, the new log start's segment for retention, the
    /// first segment that was not compacted for compaction.
    ///
    /// # Errors
    /// Poisoned or closed.
    pub fn append_forget(
        &self,
        topic_id: Uuid,
        partition: i32,
        segment_base: i64,
    ) -> Result<Lsn, JournalError> {
        let header = EntryHeader {
            kind: EntryKind::Forget,
            topic_id,
            partition,
            segment_base,
            position: 0,
            length: 0,
        };
        self.shared.append(header, &[])
    }

    /// Waits until everything up to `lsn` is on stable storage.
    ///
    /// # Errors
    /// Poisoned or closed before that: it may or may not be there after a restart.
    pub async fn durable(&self, lsn: Lsn) -> Result<(), JournalError> {
        group_commit::Durable::new(self.shared.clone(), lsn).await
    }

    /// Waits until the durable position has passed `after`, and returns it.
    ///
    /// # Errors
    /// Poisoned or closed before that.
    pub async fn next_durable(&self, after: Lsn) -> Result<Lsn, JournalError> {
        self.durable(Lsn(after.0 + 1)).await?;
        Ok(self.durable_lsn())
    }

    /// Everything up to here is on stable storage.
    pub fn durable_lsn(&self) -> Lsn {
        self.shared.state.borrow().durable_lsn
    }

    /// Whether the ring is more than half full, or somebody waits for room in it.
    pub fn needs_checkpoint(&self) -> bool {
        self.shared.needs_checkpoint()
    }

    /// Waits until [`Self::needs_checkpoint`].
    ///
    /// # Errors
    /// Poisoned or closed.
    pub async fn checkpoint_needed(&self) -> Result<(), JournalError> {
        self.shared.checkpoint_needed().await
    }

    /// Begins a checkpoint: the caller now makes everything that was appended so far durable in
    /// the segments, and hands the position to [`Self::finish_checkpoint`].
    pub fn start_checkpoint(&self) -> Lsn {
        self.shared.append_lsn()
    }

    /// Everything below `lsn` is durable in its segments. The files below it are recycled when the
    /// next group, which says so, is durable; an empty one is written if nothing else comes.
    pub fn finish_checkpoint(&self, lsn: Lsn) {
        self.shared.finish_checkpoint(lsn);
    }

    /// Ends writing for good, for a failure outside the journal that its promise depends on, such
    /// as the sync of a segment in a checkpoint.
    pub fn poison(&self, reason: &str) {
        self.shared.poison(reason);
    }

    /// Why the journal takes nothing until the next start, if it does not.
    pub fn poisoned(&self) -> Option<String> {
        let state = self.shared.state.borrow();
        state.poisoned.as_deref().map(str::to_owned)
    }

    /// What the journal has done, for metrics.
    pub fn stats(&self) -> JournalStats {
        self.shared.stats()
    }

    /// Ends the journal; all that was appended must be synced into the segments already. Leaves no
    /// file behind.
    ///
    /// # Errors
    /// Poisoned (the files stay, for the replay at the next start), or what the system answered.
    pub async fn close(&self) -> Result<(), JournalError> {
        self.shared.finish_writing().await?;
        let (older, last) = self.shared.ring.borrow_mut().take_paths();
        ring::remove_files(&self.shared.io, &self.shared.options.directory, older, last).await
    }
}
