//! What a crash left: every journal file of a directory, and every group in it that is valid.
//!
//! The scan does not stop at the first bad group, but looks at every block of the files that may
//! matter, so that a torn tail (nothing valid behind it) and damage (something valid behind it) can
//! be told apart. Files wholly below a checkpoint that a later file's header tells are not read.
//!
//! Memory: 64 bytes for each group; bytes are read in windows of 256 KiB, never by a length that
//! the disk tells. Nothing is changed here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};

use super::format::{
    BLOCK_BYTES, FileHeader, FirstBlock, GROUP_HEADER_BYTES, Geometry, GroupHeader, crc_value,
    is_file_bytes,
};
use super::replay::Damage;
use super::{JournalError, Lsn, ring};
use crate::io::{File, Io, OpenMode};

/// Bytes that are read at once.
pub(super) const WINDOW_BYTES: usize = 256 * 1024;

/// One file with the name of a journal file.
pub(super) struct FoundFile {
    pub(super) path: PathBuf,
    pub(super) shard: u32,
    pub(super) slot: u64,
    pub(super) header: Option<FileHeader>,
    length: u64,
    /// Nothing was ever written to it.
    pub(super) is_unused: bool,
}

/// A valid group.
#[derive(Clone, Copy, Debug)]
pub(super) struct FoundGroup {
    pub(super) header: GroupHeader,
    /// Index of its file in the inventory.
    pub(super) file: usize,
    pub(super) position: u64,
}

impl FoundGroup {
    /// Where the next group begins, if it is in the same file.
    pub(super) fn end(&self) -> u64 {
        self.position + self.header.bytes_on_disk()
    }

    /// Whether there is room for another group behind this one in its file.
    pub(super) fn ends_within(&self, files: &[FoundFile]) -> bool {
        let header = files[self.file].header;
        header.is_none_or(|header| self.end() < header.geometry.file_bytes)
    }
}

/// A group whose header is valid and whose payload is not.
#[derive(Clone, Copy, Debug)]
pub(super) struct TornGroup {
    pub(super) lsn: Lsn,
    pub(super) file: usize,
    pub(super) position: u64,
    pub(super) bytes: u64,
}

/// What is left of one life of one shard's journal.
#[derive(Default)]
pub(super) struct FoundJournal {
    /// In the order of the stream.
    pub(super) groups: Vec<FoundGroup>,
    pub(super) torn: Vec<TornGroup>,
    /// The highest checkpoint that a valid header tells.
    pub(super) checkpoint_lsn: Lsn,
    /// The file with the highest sequence number.
    pub(super) last_file: Option<(FileHeader, usize)>,
}

/// All journals of a directory, by shard and incarnation.
pub(super) struct Inventory {
    pub(super) files: Vec<FoundFile>,
    pub(super) journals: BTreeMap<(u32, u64), FoundJournal>,
}

impl Inventory {
    pub(super) async fn take(io: &Io, directory: &Path) -> Result<Inventory, JournalError> {
        let entries = io.list_directory(directory).await;
        let entries = entries.map_err(JournalError::io("list", directory))?;
        let mut inventory = Inventory {
            files: Vec::new(),
            journals: BTreeMap::new(),
        };
        for entry in entries {
            if let Some((shard, slot)) = ring::parse_file_name(&entry.name) {
                let path = directory.join(&entry.name);
                if entry.is_directory {
                    return Err(JournalError::Foreign { path });
                }
                inventory.add_file(io, path, shard, slot).await?;
            }
        }
        for index in 0..inventory.files.len() {
            if !inventory.is_skipped(index) {
                inventory.scan(io, index).await?;
            }
        }
        for journal in inventory.journals.values_mut() {
            journal.groups.sort_by_key(|group| group.header.lsn);
            // Two files that claim the same place: only if somebody copied one.
            journal.groups.dedup_by_key(|group| group.header.lsn);
        }
        Ok(inventory)
    }

    async fn add_file(
        &mut self,
        io: &Io,
        path: PathBuf,
        shard: u32,
        slot: u64,
    ) -> Result<(), JournalError> {
        let mut reader = Reader::open(io, &path).await?;
        let length = reader.length;
        let first = reader.read(0, BLOCK_BYTES).await?;
        let header = match FileHeader::decode(&first) {
            FirstBlock::Header(header) if header.shard == shard => Some(header),
            FirstBlock::Unused | FirstBlock::Damaged => None,
            FirstBlock::Version(version) => return Err(JournalError::Version { path, version }),
            FirstBlock::Header(_) | FirstBlock::Foreign => {
                return Err(JournalError::Foreign { path });
            }
        };
        let second = reader.read(BLOCK_BYTES as u64, BLOCK_BYTES).await?;
        let is_unused = [&first, &second]
            .iter()
            .all(|block| block.iter().all(|byte| *byte == 0));
        if let Some(header) = header {
            let journal = self.journals.entry((shard, header.incarnation));
            let journal = journal.or_default();
            journal.checkpoint_lsn = journal.checkpoint_lsn.max(header.checkpoint_lsn);
            let is_later = |(last, _): &(FileHeader, usize)| last.sequence < header.sequence;
            if journal.last_file.as_ref().is_none_or(is_later) {
                journal.last_file = Some((header, self.files.len()));
            }
        }
        self.files.push(FoundFile {
            path,
            shard,
            slot,
            header,
            length,
            is_unused,
        });
        Ok(())
    }

    /// The files in use that are shorter than they were made: a file has its full length before its
    /// first group is written.
    pub(super) fn shortened(&self) -> Vec<Damage> {
        let cut = |file: &FoundFile| {
            let whole = file.header?.geometry.file_bytes;
            (file.length < whole).then(|| Damage {
                path: file.path.clone(),
                position: file.length,
                bytes: whole - file.length,
            })
        };
        self.files.iter().filter_map(cut).collect()
    }

    /// Whether a file cannot hold anything that a replay would apply.
    fn is_skipped(&self, index: usize) -> bool {
        let file = &self.files[index];
        let is_below = file.header.is_some_and(|header| {
            let checkpoint = self.journals[&(file.shard, header.incarnation)].checkpoint_lsn;
            header.geometry.first_lsn(header.sequence.saturating_add(1)) <= checkpoint
        });
        file.is_unused || is_below
    }

    async fn scan(&mut self, io: &Io, index: usize) -> Result<(), JournalError> {
        let file = &self.files[index];
        let (shard, header, length) = (file.shard, file.header, file.length);
        let geometry = header.map_or(Geometry { file_bytes: length }, |header| header.geometry);
        if !is_file_bytes(geometry.file_bytes) {
            return Ok(());
        }
        let end = length.min(geometry.file_bytes);
        let mut reader = Reader::open(io, &file.path).await?;
        let mut position = BLOCK_BYTES as u64;
        while position < end {
            let step = BLOCK_BYTES as u64;
            let found = GroupHeader::decode(&reader.read(position, GROUP_HEADER_BYTES).await?);
            let in_place = found.filter(|group| {
                let (sequence, at) = geometry.place(group.lsn);
                let is_here = header.is_none_or(|header| {
                    (header.sequence, header.incarnation) == (sequence, group.incarnation)
                });
                at == position
                    && is_here
                    && group.shard == shard
                    && group.bytes_on_disk() <= geometry.file_bytes - position
            });
            let Some(group) = in_place else {
                position += step;
                continue;
            };
            let journal = self.journals.entry((shard, group.incarnation)).or_default();
            if reader.crc_of_payload(position, &group).await? == Some(group.payload_crc) {
                journal.checkpoint_lsn = journal.checkpoint_lsn.max(group.checkpoint_lsn);
                journal.groups.push(FoundGroup {
                    header: group,
                    file: index,
                    position,
                });
                position += group.bytes_on_disk();
            } else {
                journal.torn.push(TornGroup {
                    lsn: group.lsn,
                    file: index,
                    position,
                    bytes: group.bytes_on_disk(),
                });
                position += step;
            }
        }
        Ok(())
    }
}

/// Reads a file in windows.
pub(super) struct Reader {
    io: Io,
    path: PathBuf,
    file: File,
    length: u64,
    start: u64,
    window: Bytes,
}

impl Reader {
    pub(super) async fn open(io: &Io, path: &Path) -> Result<Reader, JournalError> {
        let file = io.open(path, OpenMode::Read).await;
        let file = file.map_err(JournalError::io("open", path))?;
        let length = io.length(&file).await;
        Ok(Reader {
            io: io.clone(),
            path: path.to_owned(),
            length: length.map_err(JournalError::io("stat", path))?,
            file,
            start: 0,
            window: Bytes::new(),
        })
    }

    /// The `length` bytes from `position` on, fewer at the end of the file; at most
    /// [`WINDOW_BYTES`].
    pub(super) async fn read(
        &mut self,
        position: u64,
        length: usize,
    ) -> Result<Bytes, JournalError> {
        assert!(length <= WINDOW_BYTES, "{length}");
        let is_inside = |reader: &Reader| {
            position >= reader.start
                && position + length as u64 <= reader.start + reader.window.len() as u64
        };
        if !is_inside(self) {
            let read = self
                .io
                .read_at(&self.file, BytesMut::new(), position, WINDOW_BYTES);
            let read = read.await.map_err(JournalError::io("read", &self.path))?;
            self.start = position;
            self.window = read.freeze();
        }
        let from = usize::try_from(position - self.start).expect("inside the window");
        let to = self.window.len().min(from + length);
        Ok(self.window.slice(from..to))
    }

    /// The checksum of a group's payload; `None` if the file ends before.
    async fn crc_of_payload(
        &mut self,
        position: u64,
        group: &GroupHeader,
    ) -> Result<Option<u32>, JournalError> {
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        let mut position = position + GROUP_HEADER_BYTES as u64;
        let mut left = group.payload_bytes as usize;
        while left > 0 {
            let bytes = self.read(position, left.min(WINDOW_BYTES)).await?;
            if bytes.is_empty() {
                return Ok(None);
            }
            digest.update(&bytes);
            position += bytes.len() as u64;
            left -= bytes.len();
        }
        Ok(Some(crc_value(digest.finalize())))
    }
}
