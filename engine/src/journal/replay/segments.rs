//! The segments that a replay writes to: opened, written, cut, and synced at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use futures_util::future;
use uuid::Uuid;

use super::{Entries, Entry, Partition, Plan, Target};
use crate::io::{File, Io, OpenMode};
use crate::journal::JournalError;
use crate::journal::format::EntryKind;
use crate::journal::inventory::WINDOW_BYTES;

/// Files that are synced at the same time: the file system commits them together.
const SYNCED_AT_ONCE: usize = 64;
/// Segment files that are kept open.
const OPEN_FILES_MAX: usize = 256;
/// The files of a segment (Kafka's names) that go with its `.log`.
const SEGMENT_SUFFIXES: [&str; 4] = ["log", "index", "timeindex", "txnindex"];

/// The state of one partition's directory.
struct Directory {
    target: Target,
    /// Base offsets of the segments that are there.
    bases: BTreeSet<i64>,
    /// The highest base at or below the log start offset: segments below it hold nothing alive.
    floor: i64,
}

/// The segments that are written to.
pub(super) struct Segments {
    io: Io,
    directories: BTreeMap<Partition, Option<Directory>>,
    open: BTreeMap<(Partition, i64), File>,
    /// Segments to be synced at the end; partitions are touched if they are in here or truncated.
    written: BTreeSet<(Partition, i64)>,
    touched: BTreeSet<Partition>,
    directories_to_sync: BTreeSet<PathBuf>,
}

impl Segments {
    pub(super) fn new(io: &Io) -> Segments {
        Segments {
            io: io.clone(),
            directories: BTreeMap::new(),
            open: BTreeMap::new(),
            written: BTreeSet::new(),
            touched: BTreeSet::new(),
            directories_to_sync: BTreeSet::new(),
        }
    }

    /// Looks a partition up, once.
    pub(super) async fn visit(
        &mut self,
        partition: Partition,
        locate: &impl Fn(Uuid, i32) -> Option<Target>,
    ) -> Result<(), JournalError> {
        if self.directories.contains_key(&partition) {
            return Ok(());
        }
        let directory = match locate(partition.0, partition.1) {
            None => None,
            Some(target) => {
                let bases = self.list(&target.directory).await?;
                let below = bases.range(..=target.log_start_offset.max(0));
                Some(Directory {
                    floor: below.last().copied().unwrap_or(0),
                    bases,
                    target,
                })
            }
        };
        self.directories.insert(partition, directory);
        Ok(())
    }

    async fn list(&mut self, directory: &Path) -> Result<BTreeSet<i64>, JournalError> {
        match self.io.list_directory(directory).await {
            Ok(entries) => Ok(entries
                .iter()
                .filter_map(|entry| entry.name.strip_suffix(".log"))
                .filter(|stem| stem.len() == 20)
                .filter_map(|stem| stem.parse().ok())
                .collect()),
            // Created, but its entry was not durable: what was acknowledged must not be lost by it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let created = self.io.create_directory(directory).await;
                created.map_err(JournalError::io("create", directory))?;
                let parent = directory.parent().map(Path::to_owned);
                self.directories_to_sync.extend(parent);
                Ok(BTreeSet::new())
            }
            Err(error) => Err(JournalError::io("list", directory)(error)),
        }
    }

    pub(super) fn raise_floor(&mut self, partition: Partition, base: i64) {
        if let Some(Some(directory)) = self.directories.get_mut(&partition)
            && base <= directory.target.log_start_offset
        {
            directory.floor = directory.floor.max(base);
        }
    }

    fn directory(&self, partition: Partition) -> Option<&Directory> {
        self.directories.get(&partition)?.as_ref()
    }

    pub(super) fn is_wanted(&self, entry: &Entry, plan: &Plan) -> bool {
        let Some(directory) = self.directory(entry.partition()) else {
            return false;
        };
        let base = entry.header.segment_base;
        let is_deleted = base < directory.floor && !directory.bases.contains(&base);
        !is_deleted && !plan.is_forgotten(entry)
    }

    pub(super) async fn apply(
        &mut self,
        entry: &Entry,
        entries: &mut Entries<'_>,
    ) -> Result<(), JournalError> {
        match entry.header.kind {
            EntryKind::Append => self.write(entry, entries).await,
            EntryKind::Truncate => self.truncate(entry).await,
            EntryKind::Forget => Ok(()),
        }
    }

    async fn write(
        &mut self,
        entry: &Entry,
        entries: &mut Entries<'_>,
    ) -> Result<(), JournalError> {
        let key = (entry.partition(), entry.header.segment_base);
        let file = self.segment(key).await?;
        let mut done = 0;
        while done < entry.header.length {
            let length = (entry.header.length - done).min(WINDOW_BYTES as u32);
            let from = entry.position + u64::from(done);
            let reader = entries.current().await?;
            let bytes = reader.read(from, length as usize).await?;
            if bytes.is_empty() {
                let error = io::ErrorKind::UnexpectedEof.into();
                return Err(JournalError::io("read", &self.path(key))(error));
            }
            let position = entry.header.position + u64::from(done);
            done += u32::try_from(bytes.len()).expect("at most a window");
            let written = self.io.write_at(&file, vec![bytes], position).await;
            written.map_err(|error| JournalError::io("write", &self.path(key))(error))?;
        }
        Ok(())
    }

    async fn truncate(&mut self, entry: &Entry) -> Result<(), JournalError> {
        let partition = entry.partition();
        let base = entry.header.segment_base;
        let Some(Some(directory)) = self.directories.get_mut(&partition) else {
            return Ok(());
        };
        self.touched.insert(partition);
        let above = directory.bases.split_off(&base.saturating_add(1));
        let has_base = directory.bases.contains(&base);
        for base in above {
            self.open.remove(&(partition, base));
            self.written.remove(&(partition, base));
            self.remove_segment((partition, base)).await?;
        }
        if has_base {
            let file = self.segment((partition, base)).await?;
            let path = self.path((partition, base));
            let length = self.io.length(&file).await;
            let length = length.map_err(JournalError::io("stat", &path))?;
            if length > entry.header.position {
                let cut = self.io.truncate(&file, entry.header.position).await;
                cut.map_err(JournalError::io("truncate", &path))?;
            }
        }
        Ok(())
    }

    async fn remove_segment(&mut self, key: (Partition, i64)) -> Result<(), JournalError> {
        let path = self.path(key);
        self.directories_to_sync
            .extend(path.parent().map(Path::to_owned));
        for suffix in SEGMENT_SUFFIXES {
            let path = path.with_extension(suffix);
            match self.io.remove_file(&path).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(JournalError::io("remove", &path)(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// The file of a segment, created if missing.
    async fn segment(&mut self, key: (Partition, i64)) -> Result<File, JournalError> {
        if let Some(file) = self.open.get(&key) {
            return Ok(file.clone());
        }
        if self.open.len() >= OPEN_FILES_MAX {
            self.open.clear();
        }
        let path = self.path(key);
        let file = self.io.open(&path, OpenMode::Create).await;
        let file = file.map_err(JournalError::io("open", &path))?;
        // Also if it was there: after a kill -9 a directory entry is visible, but not yet durable.
        let ancestors = path.ancestors().skip(1).take(2);
        self.directories_to_sync
            .extend(ancestors.map(Path::to_owned));
        if let Some(Some(directory)) = self.directories.get_mut(&key.0) {
            directory.bases.insert(key.1);
        }
        self.written.insert(key);
        self.touched.insert(key.0);
        self.open.insert(key, file.clone());
        Ok(file)
    }

    fn path(&self, (partition, base): (Partition, i64)) -> PathBuf {
        let directory = self
            .directory(partition)
            .map(|found| &found.target.directory);
        let directory = directory.expect("only partitions that were located");
        directory.join(format!("{base:020}.log"))
    }

    /// Makes all that was touched durable.
    pub(super) async fn sync(&mut self) -> Result<BTreeSet<Partition>, JournalError> {
        let written: Vec<_> = std::mem::take(&mut self.written).into_iter().collect();
        for some in written.chunks(SYNCED_AT_ONCE) {
            let mut files = Vec::with_capacity(some.len());
            for key in some {
                files.push((self.segment(*key).await?, self.path(*key)));
            }
            let synced = files.iter().map(async |(file, path)| {
                let synced = self.io.sync_data(file).await;
                synced.map_err(JournalError::io("sync", path))
            });
            future::try_join_all(synced).await?;
        }
        let directories: Vec<_> = self.directories_to_sync.iter().collect();
        for some in directories.chunks(SYNCED_AT_ONCE) {
            let synced = some.iter().map(async |directory| {
                let synced = self.io.sync_directory(directory).await;
                synced.map_err(JournalError::io("sync", directory))
            });
            future::try_join_all(synced).await?;
        }
        Ok(std::mem::take(&mut self.touched))
    }
}
