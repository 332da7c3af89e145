//! The files of a journal: prepared ahead of need, filled one after the other, recycled.
//!
//! A prepared (zero-written or recycled) file makes the O_DIRECT + RWF_DSYNC write of a group 2.5
//! times cheaper than one that is only allocated, whose extents the file system must convert with
//! each flush. So a task of its own writes zeros into the next files; if it is late, an
//! allocated file is used.
//!
//! The name of a file is its slot and says nothing about its place in the stream; the header, which
//! is written together with the first group, does.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::format::{BLOCK_BYTES, FileHeader};
use super::{JournalError, JournalOptions, Lsn, Shared};
use crate::io::{AlignedBuffer, File, Io, OpenMode};

/// Files that the preparer keeps ready.
const PREPARED_FILES: usize = 2;
/// Largest piece of zeros in one write: what may delay a group.
const ZERO_BYTES: u64 = 1 << 20;
const NAME_PREFIX: &str = ".ringlog-journal-";

/// The name of a journal file.
pub(super) fn file_name(shard: u32, slot: u64) -> String {
    format!("{NAME_PREFIX}{shard}-{slot:06}")
}

/// The shard and the slot that a file name tells, if it is one of a journal file.
pub(super) fn parse_file_name(name: &str) -> Option<(u32, u64)> {
    let (shard, slot) = name.strip_prefix(NAME_PREFIX)?.split_once('-')?;
    let parsed = (shard.parse().ok()?, slot.parse().ok()?);
    (file_name(parsed.0, parsed.1) == name).then_some(parsed)
}

pub(super) struct RingFile {
    path: PathBuf,
    file: File,
    /// Place in the stream, once in use.
    sequence: u64,
    /// Whether its directory entry is durable, which must be before a group in it counts.
    entry_durable: bool,
}

/// The files, by what they are used for.
pub(super) struct Ring {
    /// Full and not freed, oldest first.
    filled: VecDeque<RingFile>,
    /// The file that groups are written to; none before the first group.
    active: Option<RingFile>,
    /// Ready to be used, the oldest first.
    spare: VecDeque<RingFile>,
    /// Files that there may be. Falls to what there is if the disk has no room for more.
    files_max: u64,
    next_slot: u64,
    preparing: bool,
    preparer_stopped: bool,
}

impl Ring {
    pub(super) async fn open(
        io: &Io,
        options: &JournalOptions,
        files_max: u64,
    ) -> Result<Ring, JournalError> {
        let first = allocate(io, options, 0).await?;
        Ok(Ring {
            filled: VecDeque::new(),
            active: None,
            spare: VecDeque::from([first]),
            files_max,
            next_slot: 1,
            preparing: false,
            preparer_stopped: false,
        })
    }

    pub(super) fn files(&self) -> u64 {
        let active = usize::from(self.active.is_some()) + usize::from(self.preparing);
        (self.filled.len() + self.spare.len() + active) as u64
    }

    pub(super) fn files_max(&self) -> u64 {
        self.files_max
    }

    /// Sequence number of the oldest file that is not freed.
    pub(super) fn oldest_sequence(&self) -> u64 {
        let oldest = self.filled.front().or(self.active.as_ref());
        oldest.map_or(0, |file| file.sequence)
    }

    fn wants_file(&self) -> bool {
        self.active.is_some()
            && !self.preparing
            && self.spare.len() < PREPARED_FILES
            && self.files() < self.files_max
    }

    fn take_slot(&mut self) -> u64 {
        self.next_slot += 1;
        self.next_slot - 1
    }

    /// Frees the files whose last byte is below `checkpoint_lsn`, and returns the paths of those
    /// that are too many.
    fn free_below(&mut self, checkpoint_lsn: Lsn, data_bytes: u64) -> Vec<PathBuf> {
        let mut surplus = Vec::new();
        while let Some(file) = self.filled.pop_front() {
            if checkpoint_lsn.0 / data_bytes <= file.sequence {
                self.filled.push_front(file);
                break;
            }
            if self.files() >= self.files_max {
                surplus.push(file.path);
            } else {
                self.spare.push_back(file);
            }
        }
        surplus
    }

    /// The paths of all files but the one in use, and that of the one in use.
    pub(super) fn take_paths(&mut self) -> (Vec<PathBuf>, Option<PathBuf>) {
        let older = self.filled.drain(..).chain(self.spare.drain(..));
        let older = older.map(|file| file.path).collect();
        (older, self.active.take().map(|file| file.path))
    }
}

async fn allocate(io: &Io, options: &JournalOptions, slot: u64) -> Result<RingFile, JournalError> {
    let path = options.directory.join(file_name(options.shard, slot));
    let file = io.open(&path, OpenMode::CreateDirect).await;
    let file = file.map_err(JournalError::io("create", &path))?;
    if let Err(error) = io.allocate(&file, options.file_bytes).await {
        let _ = io.remove_file(&path).await;
        return Err(JournalError::io("allocate", &path)(error));
    }
    Ok(RingFile {
        path,
        file,
        sequence: 0,
        entry_durable: false,
    })
}

/// Removes journal files that hold nothing of value any more: `last` carries a checkpoint above
/// all the others' entries, so whatever subset a crash leaves behind, nothing is replayed from it.
pub(super) async fn remove_files(
    io: &Io,
    directory: &Path,
    older: Vec<PathBuf>,
    last: Option<PathBuf>,
) -> Result<(), JournalError> {
    for paths in [older, last.into_iter().collect()] {
        if paths.is_empty() {
            continue;
        }
        for path in &paths {
            let removed = io.remove_file(path).await;
            removed.map_err(JournalError::io("remove", path))?;
        }
        let synced = io.sync_directory(directory).await;
        synced.map_err(JournalError::io("sync", directory))?;
    }
    Ok(())
}

impl Shared {
    /// The file for a group at `lsn`, and the header block to write before it if it is the file's
    /// first one.
    pub(super) async fn file_for(
        &self,
        lsn: Lsn,
        checkpoint_lsn: Lsn,
    ) -> Result<(File, Option<AlignedBuffer>), JournalError> {
        let (sequence, position) = self.geometry.place(lsn);
        let is_first = position == BLOCK_BYTES as u64;
        if is_first {
            self.switch_file(sequence).await?;
        }
        let (file, entry_durable) = {
            let ring = self.ring.borrow();
            let active = ring.active.as_ref().expect("a file is in use");
            assert_eq!(active.sequence, sequence, "group at {lsn:?}");
            (active.file.clone(), active.entry_durable)
        };
        if !entry_durable {
            let directory = &self.options.directory;
            let synced = self.io.sync_directory(directory).await;
            synced.map_err(JournalError::io("sync", directory))?;
            if let Some(active) = &mut self.ring.borrow_mut().active {
                active.entry_durable = true;
            }
        }
        let header = is_first.then(|| {
            let mut block = AlignedBuffer::zeroed(BLOCK_BYTES);
            let header = FileHeader {
                shard: self.options.shard,
                incarnation: self.incarnation,
                sequence,
                geometry: self.geometry,
                checkpoint_lsn,
            };
            header.encode(&mut block);
            block
        });
        Ok((file, header))
    }

    async fn switch_file(&self, sequence: u64) -> Result<(), JournalError> {
        let full = self.ring.borrow_mut().active.take();
        self.ring.borrow_mut().filled.extend(full);
        // The last file of the ring may be in preparation: wait for it rather than exceed the ring.
        let prepared = self.change.until(|| {
            let mut ring = self.ring.borrow_mut();
            let wait = ring.spare.is_empty() && ring.preparing && ring.files() >= ring.files_max;
            (!wait).then(|| ring.spare.pop_front())
        });
        let mut next = match prepared.await {
            Some(file) => file,
            None => {
                let slot = self.ring.borrow_mut().take_slot();
                allocate(&self.io, &self.options, slot).await?
            }
        };
        next.sequence = sequence;
        self.ring.borrow_mut().active = Some(next);
        self.change.notify();
        Ok(())
    }

    /// A group with this checkpoint is durable: recycles what lies below it.
    pub(super) async fn free_files(&self, checkpoint_lsn: Lsn) {
        let data_bytes = self.geometry.data_bytes();
        let surplus = self
            .ring
            .borrow_mut()
            .free_below(checkpoint_lsn, data_bytes);
        for path in surplus {
            // It holds nothing that a replay would apply; if it stays, the next start removes it.
            let _ = self.io.remove_file(&path).await;
        }
    }

    pub(super) fn preparer_stopped(&self) -> bool {
        self.ring.borrow().preparer_stopped
    }
}

/// The preparer: a task for as long as the journal lives.
pub(super) async fn prepare_files(shared: Rc<Shared>) {
    name_first_file(&shared).await;
    loop {
        let wanted = shared.change.until(|| {
            let mut ring = shared.ring.borrow_mut();
            if shared.is_ending() {
                return Some(None);
            }
            ring.wants_file().then(|| {
                ring.preparing = true;
                Some(ring.take_slot())
            })
        });
        let Some(slot) = wanted.await else {
            break;
        };
        let prepared = prepare(&shared, slot).await;
        let mut ring = shared.ring.borrow_mut();
        ring.preparing = false;
        match prepared {
            Ok(file) => ring.spare.push_back(file),
            // Most likely ENOSPC: go on with a shorter ring, which means more checkpoints. If even
            // the second file cannot be had, the writer will say so.
            Err(_) => ring.files_max = ring.files().max(2),
        }
        drop(ring);
        shared.change.notify();
    }
    shared.ring.borrow_mut().preparer_stopped = true;
    shared.change.notify();
}

/// The first file's name is durable before a group waits for it, most often.
async fn name_first_file(shared: &Shared) {
    let options = &shared.options;
    let synced = shared.io.sync_directory(&options.directory).await;
    if let Err(error) = synced {
        let error = JournalError::io("sync", &options.directory)(error);
        return shared.poison(&error.to_string());
    }
    let first = options.directory.join(file_name(options.shard, 0));
    let mut ring = shared.ring.borrow_mut();
    let Ring { spare, active, .. } = &mut *ring;
    let files = spare.iter_mut().chain(active);
    for file in files.filter(|file| file.path == first) {
        file.entry_durable = true;
    }
}

async fn prepare(shared: &Shared, slot: u64) -> Result<RingFile, JournalError> {
    let (io, options) = (&shared.io, &shared.options);
    let mut file = allocate(io, options, slot).await?;
    let piece = ZERO_BYTES.min(options.file_bytes);
    let piece = usize::try_from(piece).expect("at most ZERO_BYTES");
    let mut zeros = vec![AlignedBuffer::zeroed(piece)];
    let mut position = 0;
    while position < options.file_bytes && !shared.is_ending() {
        let length = (options.file_bytes - position).min(piece as u64);
        zeros[0].set_length(usize::try_from(length).expect("at most ZERO_BYTES"));
        zeros = match io.write_durable(&file.file, zeros, position).await {
            Ok(zeros) => zeros,
            Err(error) => {
                let _ = io.remove_file(&file.path).await;
                return Err(JournalError::io("prepare", &file.path)(error));
            }
        };
        position += length;
    }
    // Here and not when it is first used: off the path of a group.
    if let Err(error) = io.sync_directory(&options.directory).await {
        let error = JournalError::io("sync", &options.directory)(error);
        shared.poison(&error.to_string());
        return Err(error);
    }
    file.entry_durable = true;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_names_are_journal_files() {
        assert_eq!(file_name(2, 17), ".ringlog-journal-2-000017");
        assert_eq!(parse_file_name(".ringlog-journal-2-000017"), Some((2, 17)));
        for name in [
            ".ringlog-journal-2-17",
            ".ringlog-journal--000017",
            ".ringlog-journal-2-000017.bak",
            ".ringlog-journal-+2-000017",
            "ringlog-journal-2-000017",
        ] {
            assert_eq!(parse_file_name(name), None, "{name}");
        }
    }
}
