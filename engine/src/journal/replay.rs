//! Replay: after a crash, what the journals of all shards hold is written into the segments, before
//! any log is opened.
//!
//! Idempotent: whatever the kernel had written back of the segments, and wherever an earlier replay
//! was cut off, the result is the same. The journals are removed only when all that was touched is
//! synced, and behind a file header whose checkpoint is above everything, so that no remnant is
//! ever replayed again.
//!
//! Does not check record batches or rebuild indexes: that is the log's recovery of the partitions
//! which the report names.

mod segments;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use self::segments::Segments;
use super::format::{
    BLOCK_BYTES, ENTRY_HEADER_BYTES, EntryHeader, EntryKind, FileHeader, GROUP_HEADER_BYTES,
};
use super::inventory::{FoundFile, FoundGroup, FoundJournal, Inventory, Reader, TornGroup};
use super::{JournalError, Lsn, ring};
use crate::io::{AlignedBuffer, Io, OpenMode};

/// Where a partition lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its directory; created if it is missing.
    pub directory: PathBuf,
    /// Its log start offset: segments that lie wholly below it are not brought back.
    pub log_start_offset: i64,
}

/// What a replay found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayReport {
    /// One for each journal that had been in use.
    pub journals: Vec<JournalReport>,
    /// The partitions whose segments were touched and must be recovered, by topic id and number.
    pub partitions: BTreeSet<(Uuid, i32)>,
    /// Journal bytes that are lost before valid ones: acknowledged records may be among them.
    pub damaged: Vec<Damage>,
    /// Files in use that are shorter than they were made.
    pub shortened: Vec<Damage>,
}

/// What was in one journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalReport {
    /// The shard that wrote it.
    pub shard: u32,
    /// Groups above the last checkpoint.
    pub groups: u64,
    /// Entries applied.
    pub entries: u64,
    /// Bytes written into segments.
    pub bytes: u64,
    /// Entries of partitions or segments that are gone on purpose.
    pub entries_skipped: u64,
    /// Length of the torn last group, which nobody was told is durable; 0 = none, or no trace.
    pub torn_tail_bytes: u64,
}

/// A place where a journal is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where in it the damage begins.
    pub position: u64,
    /// Journal bytes lost, at least, headers and padding included.
    pub bytes: u64,
}

/// Replays and removes all journals of `directory`. `locate` tells where a partition lives, `None`
/// if it does not exist any more.
///
/// # Errors
/// A file that is not ours or of another version, or what the system answered: it can be run again.
pub async fn replay(
    io: &Io,
    directory: &Path,
    locate: impl Fn(Uuid, i32) -> Option<Target>,
) -> Result<ReplayReport, JournalError> {
    let inventory = Inventory::take(io, directory).await?;
    let mut report = ReplayReport::default();
    let mut segments = Segments::new(io);
    for ((shard, _), journal) in &inventory.journals {
        let live = check(journal, &inventory.files, &mut report);
        let mut journal_report = JournalReport {
            shard: *shard,
            groups: live.len() as u64,
            torn_tail_bytes: torn_tail(journal),
            ..JournalReport::default()
        };
        let mut entries = Entries::new(io, &inventory.files, live, journal.checkpoint_lsn);
        let plan = Plan::make(&mut entries, &locate, &mut segments).await?;
        report.damaged.append(&mut entries.damaged);
        let mut entries = Entries::new(io, &inventory.files, live, journal.checkpoint_lsn);
        while let Some(entry) = entries.next().await? {
            if segments.is_wanted(&entry, &plan) {
                segments.apply(&entry, &mut entries).await?;
                journal_report.entries += 1;
                journal_report.bytes += u64::from(entry.header.length);
            } else {
                journal_report.entries_skipped += 1;
            }
        }
        report.journals.push(journal_report);
    }
    report.partitions = segments.sync().await?;
    report.shortened = inventory.shortened();
    remove(io, directory, &inventory).await?;
    Ok(report)
}

/// The groups above the checkpoint; gaps go into the report.
pub(super) fn check<'a>(
    journal: &'a FoundJournal,
    files: &[FoundFile],
    report: &mut ReplayReport,
) -> &'a [FoundGroup] {
    let checkpoint = journal.checkpoint_lsn;
    let is_below = |group: &FoundGroup| group.header.end_lsn() <= checkpoint;
    let live = &journal.groups[journal.groups.partition_point(is_below)..];
    let mut lost = |bytes: u64, file: usize, position: u64| {
        let path = files[file].path.clone();
        report.damaged.push(Damage {
            path,
            position,
            bytes,
        });
    };
    let mut end = checkpoint;
    let mut before: Option<&FoundGroup> = None;
    for group in live {
        let is_next = before
            .is_none_or(|before| group.header.sequence == before.header.sequence.wrapping_add(1));
        if group.header.lsn > end || !is_next {
            let (file, position) = match before {
                Some(before) if before.ends_within(files) => (before.file, before.end()),
                Some(_) | None => (group.file, BLOCK_BYTES as u64),
            };
            lost(group.header.lsn.0.saturating_sub(end.0), file, position);
        }
        end = group.header.end_lsn();
        before = Some(group);
    }
    for torn in journal.torn.iter().filter(|torn| torn.lsn > end) {
        // One group is in flight: when this one was begun, the one before it had been durable.
        lost(torn.bytes, torn.file, torn.position);
    }
    if let Some((header, file)) = &journal.last_file {
        let first = header.geometry.first_lsn(header.sequence);
        if first > end {
            lost(first.0 - end.0, *file, 0);
        }
    }
    live
}

/// Length of the group in flight at the crash, if its header made it to the disk.
pub(super) fn torn_tail(journal: &FoundJournal) -> u64 {
    let last = journal.groups.last();
    let end = last.map_or(Lsn(0), |group| group.header.end_lsn());
    let is_tail = |torn: &TornGroup| torn.lsn >= end && torn.lsn <= journal.checkpoint_lsn.max(end);
    let tail = journal.torn.iter().find(|torn| is_tail(torn));
    tail.map_or(0, |torn| torn.bytes)
}

/// Removes all files, behind a header that voids them.
async fn remove(io: &Io, directory: &Path, inventory: &Inventory) -> Result<(), JournalError> {
    // First those that nothing was written to: a full disk has room for the header then.
    let unused = inventory.files.iter().filter(|file| file.is_unused);
    let unused = unused.map(|file| file.path.clone()).collect();
    ring::remove_files(io, directory, unused, None).await?;
    let mut shards: BTreeMap<u32, Vec<&FoundFile>> = BTreeMap::new();
    for file in inventory.files.iter().filter(|file| !file.is_unused) {
        shards.entry(file.shard).or_default().push(file);
    }
    for (shard, files) in shards {
        let mut older: Vec<PathBuf> = files.iter().map(|file| file.path.clone()).collect();
        let mut slot = files.iter().map(|file| file.slot).max().unwrap_or(0) + 1;
        let used = inventory
            .journals
            .iter()
            .filter(|((other, _), _)| *other == shard);
        let mut last = Vec::new();
        for ((_, incarnation), journal) in used {
            let Some((header, _)) = &journal.last_file else {
                continue;
            };
            let path = directory.join(ring::file_name(shard, slot));
            slot += 1;
            let end = journal.groups.last().map(|group| group.header.end_lsn());
            let end_sequence = end.map_or(0, |end| header.geometry.place(end).0);
            let sequence = header.sequence.max(end_sequence).saturating_add(1);
            let voiding = FileHeader {
                sequence,
                incarnation: *incarnation,
                checkpoint_lsn: header.geometry.first_lsn(sequence),
                ..*header
            };
            write_header(io, &path, &voiding).await?;
            last.push(path);
        }
        if !last.is_empty() {
            let synced = io.sync_directory(directory).await;
            synced.map_err(JournalError::io("sync", directory))?;
        }
        let last_one = last.pop();
        ring::remove_files(io, directory, std::mem::take(&mut older), None).await?;
        ring::remove_files(io, directory, last, last_one).await?;
    }
    Ok(())
}

async fn write_header(io: &Io, path: &Path, header: &FileHeader) -> Result<(), JournalError> {
    let file = io.open(path, OpenMode::CreateDirect).await;
    let file = file.map_err(JournalError::io("create", path))?;
    let mut block = AlignedBuffer::zeroed(BLOCK_BYTES);
    header.encode(&mut block);
    let written = io.write_durable(&file, vec![block], 0).await;
    written.map_err(JournalError::io("write", path))?;
    Ok(())
}

type Partition = (Uuid, i32);

/// An entry, and where its bytes are.
struct Entry {
    header: EntryHeader,
    end_lsn: Lsn,
    position: u64,
}

impl Entry {
    fn partition(&self) -> Partition {
        (self.header.topic_id, self.header.partition)
    }
}

/// The entries of groups, in order, from the checkpoint on.
struct Entries<'a> {
    io: &'a Io,
    files: &'a [FoundFile],
    groups: &'a [FoundGroup],
    checkpoint_lsn: Lsn,
    /// Bytes of the first group's payload that are done.
    done: u64,
    reader: Option<(usize, Reader)>,
    damaged: Vec<Damage>,
}

impl<'a> Entries<'a> {
    fn new(
        io: &'a Io,
        files: &'a [FoundFile],
        groups: &'a [FoundGroup],
        checkpoint_lsn: Lsn,
    ) -> Self {
        Entries {
            io,
            files,
            groups,
            checkpoint_lsn,
            done: 0,
            reader: None,
            damaged: Vec::new(),
        }
    }

    async fn reader(&mut self, file: usize) -> Result<&mut Reader, JournalError> {
        if self.reader.as_ref().is_none_or(|(open, _)| *open != file) {
            let reader = Reader::open(self.io, &self.files[file].path).await?;
            self.reader = Some((file, reader));
        }
        Ok(&mut self.reader.as_mut().expect("opened above").1)
    }

    async fn next(&mut self) -> Result<Option<Entry>, JournalError> {
        while let Some(group) = self.groups.first().copied() {
            let payload_bytes = u64::from(group.header.payload_bytes);
            if self.done == payload_bytes {
                self.groups = &self.groups[1..];
                self.done = 0;
                continue;
            }
            let at = group.position + GROUP_HEADER_BYTES as u64 + self.done;
            let bytes = self
                .reader(group.file)
                .await?
                .read(at, ENTRY_HEADER_BYTES)
                .await?;
            let whole = |header: &EntryHeader| {
                let bytes = ENTRY_HEADER_BYTES as u64 + u64::from(header.length);
                bytes <= payload_bytes - self.done
            };
            let Some(header) = EntryHeader::decode(&bytes).filter(whole) else {
                // The checksum holds, so it was written like that: keep what is around it.
                self.damaged.push(Damage {
                    path: self.files[group.file].path.clone(),
                    position: at,
                    bytes: payload_bytes - self.done,
                });
                self.done = payload_bytes;
                continue;
            };
            self.done += ENTRY_HEADER_BYTES as u64 + u64::from(header.length);
            let into = GROUP_HEADER_BYTES as u64 + self.done;
            let end = group.header.lsn.0.saturating_add(into);
            if end > self.checkpoint_lsn.0 {
                return Ok(Some(Entry {
                    header,
                    end_lsn: Lsn(end),
                    position: at + ENTRY_HEADER_BYTES as u64,
                }));
            }
        }
        Ok(None)
    }

    /// The file of the entry that `next` gave last.
    async fn current(&mut self) -> Result<&mut Reader, JournalError> {
        let file = self.groups.first().map_or(0, |group| group.file);
        self.reader(file).await
    }
}

/// What later entries say about earlier ones.
struct Plan {
    /// Entries before the LSN, for segments below the base, are void.
    forgotten: BTreeMap<Partition, Vec<(Lsn, i64)>>,
}

impl Plan {
    async fn make(
        entries: &mut Entries<'_>,
        locate: &impl Fn(Uuid, i32) -> Option<Target>,
        segments: &mut Segments,
    ) -> Result<Plan, JournalError> {
        let mut forgotten: BTreeMap<Partition, Vec<(Lsn, i64)>> = BTreeMap::new();
        while let Some(entry) = entries.next().await? {
            let partition = entry.partition();
            let base = entry.header.segment_base;
            segments.visit(partition, locate).await?;
            match entry.header.kind {
                EntryKind::Append => segments.raise_floor(partition, base),
                EntryKind::Truncate => {}
                EntryKind::Forget => forgotten
                    .entry(partition)
                    .or_default()
                    .push((entry.end_lsn, base)),
            }
        }
        Ok(Plan { forgotten })
    }

    fn is_forgotten(&self, entry: &Entry) -> bool {
        let orders = self.forgotten.get(&entry.partition());
        orders.is_some_and(|orders| {
            let is_void = |(lsn, base): &(Lsn, i64)| {
                entry.end_lsn < *lsn && entry.header.segment_base < *base
            };
            orders.iter().any(is_void)
        })
    }
}
