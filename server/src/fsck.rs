//! Checks a data directory offline: every file of every partition, the checkpoints, the journals.
//!
//! Each damaged stretch is told as it is found, by file, position, offset and reason; nothing is held
//! in memory but the damage of one partition. Nothing is changed unless a repair was asked for
//! ([`repair`]). What it cannot know: whether a topic is compacted, so that a gap between two segments
//! is told as a note; and the partition leader epochs of batches, which no checksum covers.

pub mod repair;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ringlog_engine::io::Io;
use ringlog_engine::journal;
use ringlog_engine::log::checkpoint::{
    self, CLEANER_OFFSET_FILE, HIGH_WATERMARK_FILE, LOG_START_OFFSET_FILE, OffsetEntry,
    RECOVERY_POINT_FILE,
};
use ringlog_engine::log::directory::{
    self, CLEAN_SHUTDOWN_FILE, META_PROPERTIES_FILE, PartitionDirectory, SegmentFileKind,
    SegmentFileName, segment_path,
};
use ringlog_engine::log::{Damage, DamageKind, LogError, SegmentCheck, check_segment};

use crate::producer_state::ProducerState;
use repair::Mode;

/// Largest producer snapshot that is read.
const SNAPSHOT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of an entry of a `.txnindex` (Kafka: AbortedTxn).
const ABORTED_BYTES: u64 = 34;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Worth knowing, nothing is lost.
    Note,
    /// A start of the broker mends it by itself.
    Mended,
    /// Something is damaged.
    Damage,
}

impl Level {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Level::Note => "note",
            Level::Mended => "mended-by-start",
            Level::Damage => "damage",
        }
    }
}

/// One thing that was found.
#[derive(Clone, Debug)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// In one word: `crc`, `length`, `torn-tail`, `index`, ..
    pub kind: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// Where in the file.
    pub position: Option<u64>,
    /// How many bytes.
    pub bytes: Option<u64>,
    /// First offset that may be lost.
    pub offset: Option<i64>,
    /// First offset behind it.
    pub next_offset: Option<i64>,
    /// What is wrong.
    pub reason: String,
    /// What to do, or what was done.
    pub remedy: String,
}

impl Finding {
    fn new(level: Level, kind: &'static str, path: &Path, reason: impl Into<String>) -> Finding {
        Finding {
            level,
            kind,
            path: path.to_owned(),
            position: None,
            bytes: None,
            offset: None,
            next_offset: None,
            reason: reason.into(),
            remedy: String::new(),
        }
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Finding {
        self.remedy = remedy.into();
        self
    }
}

/// What there was, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Partitions looked at.
    pub partitions: u64,
    /// Segments read.
    pub segments: u64,
    /// Good batches.
    pub batches: u64,
    /// Bytes of segments.
    pub bytes: u64,
    /// Findings that are damage, and were not repaired.
    pub damaged: u64,
    /// Findings that a start mends.
    pub mended: u64,
    /// Findings that were repaired.
    pub repaired: u64,
}

/// Where to look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Log directories.
    pub log_directories: Vec<PathBuf>,
    /// The directories of the journals.
    pub journals: Vec<PathBuf>,
    /// Only this partition's directory.
    pub only: Option<PathBuf>,
}

/// What of a log directory's small files matters for its partitions.
#[derive(Default)]
struct Known {
    is_clean: bool,
    recovery_points: BTreeMap<(String, i32), i64>,
    log_starts: BTreeMap<(String, i32), i64>,
    compacted: BTreeMap<(String, i32), i64>,
}

/// What a check of one partition has found.
#[derive(Clone, Default)]
struct Found {
    /// Damage by base offset of the segment.
    damage: Vec<(i64, Damage)>,
    /// Base offsets of all segments.
    bases: Vec<i64>,
    /// Segments whose indexes do not agree.
    bad_indexes: Vec<i64>,
    /// Offset after the last good batch.
    end: i64,
    /// Whether something could not be read, so that all of this is not known.
    is_unreadable: bool,
}

/// A check of a data directory.
pub struct Fsck {
    io: Io,
    repair: Option<Mode>,
    tell: Box<dyn FnMut(&Finding)>,
    totals: Totals,
    /// Whether a journal holds what a start would write into the segments.
    has_journal: bool,
}

impl Fsck {
    /// Tells findings to `tell` as they come.
    pub fn new(io: &Io, repair: Option<Mode>, tell: Box<dyn FnMut(&Finding)>) -> Fsck {
        Fsck {
            io: io.clone(),
            repair,
            tell,
            totals: Totals::default(),
            has_journal: false,
        }
    }

    /// Checks everything in the scope.
    ///
    /// # Errors
    /// What kept it from looking, with the path.
    pub async fn run(mut self, scope: &Scope) -> Result<Totals, LogError> {
        for journal in &scope.journals {
            self.check_journal(journal).await;
        }
        for log_directory in &scope.log_directories {
            self.check_log_directory(log_directory, scope.only.as_deref())
                .await?;
        }
        Ok(self.totals)
    }

    fn found(&mut self, finding: &Finding) {
        match finding.level {
            Level::Note => {}
            Level::Mended => self.totals.mended += 1,
            Level::Damage => self.totals.damaged += 1,
        }
        (self.tell)(finding);
    }

    // ---- journals ----------------------------------------------------------------------------

    async fn check_journal(&mut self, directory: &Path) {
        if let Err(error) = self.io.list_directory(directory).await {
            if error.kind() != std::io::ErrorKind::NotFound {
                self.has_journal = true;
                let finding = Finding::new(Level::Damage, "journal", directory, error.to_string());
                self.found(&finding);
            }
            return;
        }
        let report = match journal::inspect(&self.io, directory).await {
            Ok(report) => report,
            Err(error) => {
                let finding = Finding::new(Level::Damage, "journal", directory, error.to_string());
                self.has_journal = true;
                return self.found(&finding);
            }
        };
        for one in report.journals.iter().filter(|one| one.groups > 0) {
            self.has_journal = true;
            let reason = format!(
                "the journal of shard {} has {} groups that are not in the segments yet",
                one.shard, one.groups
            );
            let finding = Finding::new(Level::Note, "journal", directory, reason)
                .remedy("the next start writes them there; segments may look torn until then");
            self.found(&finding);
        }
        for damage in &report.damaged {
            self.has_journal = true;
            let reason = "a group that something valid follows is damaged: records that were \
                          acknowledged may be lost";
            let mut finding = Finding::new(Level::Damage, "journal", &damage.path, reason).remedy(
                "restore the file from a backup before the next start, which goes on without",
            );
            finding.position = Some(damage.position);
            finding.bytes = Some(damage.bytes);
            self.found(&finding);
        }
    }

    // ---- log directories ---------------------------------------------------------------------

    async fn check_log_directory(
        &mut self,
        log_directory: &Path,
        only: Option<&Path>,
    ) -> Result<(), LogError> {
        let entries = self.io.list_directory(log_directory).await;
        let entries = entries.map_err(|source| LogError::Io {
            operation: "list",
            path: log_directory.to_owned(),
            source,
        })?;
        let known = self.check_small_files(log_directory, &entries).await;
        for entry in entries.iter().filter(|entry| entry.is_directory) {
            let path = log_directory.join(&entry.name);
            if only.is_some_and(|only| only != path) {
                continue;
            }
            match PartitionDirectory::parse(&entry.name) {
                Some(PartitionDirectory {
                    topic,
                    partition,
                    suffix: None,
                }) => {
                    self.check_partition(&path, &(topic, partition), &known)
                        .await?;
                }
                Some(_) => {
                    let finding = Finding::new(Level::Note, "pending", &path, "is not in use")
                        .remedy("a start removes what ends with -delete and leaves the rest alone");
                    self.found(&finding);
                }
                None if entry.name == "lost+found" => {}
                None => {
                    let reason = "not a partition's directory (<topic>-<partition>)";
                    let finding = Finding::new(Level::Damage, "foreign", &path, reason)
                        .remedy("move it away: no broker starts on it");
                    self.found(&finding);
                }
            }
        }
        Ok(())
    }

    async fn check_small_files(
        &mut self,
        log_directory: &Path,
        entries: &[ringlog_engine::io::DirectoryEntry],
    ) -> Known {
        let has = |name: &str| entries.iter().any(|entry| entry.name == name);
        let path = log_directory.join(META_PROPERTIES_FILE);
        match directory::read_meta_properties(&self.io, log_directory).await {
            Ok(Some(_)) => {}
            Ok(None) => {
                let finding = Finding::new(Level::Note, "meta-properties", &path, "is missing")
                    .remedy("a start writes a new one");
                self.found(&finding);
            }
            Err(error) => self.found_error("meta-properties", &path, &error),
        }
        Known {
            is_clean: has(CLEAN_SHUTDOWN_FILE),
            recovery_points: self.offsets(log_directory, RECOVERY_POINT_FILE).await,
            log_starts: self.offsets(log_directory, LOG_START_OFFSET_FILE).await,
            compacted: {
                // Only to be told of.
                self.offsets(log_directory, HIGH_WATERMARK_FILE).await;
                self.offsets(log_directory, CLEANER_OFFSET_FILE).await
            },
        }
    }

    async fn offsets(&mut self, log_directory: &Path, file: &str) -> BTreeMap<(String, i32), i64> {
        let path = log_directory.join(file);
        match checkpoint::read_offsets(&self.io, &path).await {
            Ok(entries) => {
                let by_partition = |e: OffsetEntry| ((e.topic, e.partition), e.offset);
                entries.into_iter().map(by_partition).collect()
            }
            Err(error) => {
                self.found_error("checkpoint", &path, &error);
                BTreeMap::new()
            }
        }
    }

    /// An error that names the file, position and remedy itself.
    fn found_error(&mut self, kind: &'static str, path: &Path, error: &LogError) {
        let mut finding = Finding::new(Level::Damage, kind, path, error.to_string());
        if let LogError::Corrupt {
            position,
            reason,
            remedy,
            ..
        } = error
        {
            finding.position = Some(*position);
            finding.reason.clone_from(reason);
            finding.remedy = (*remedy).to_owned();
        }
        self.found(&finding);
    }

    // ---- partitions --------------------------------------------------------------------------

    async fn check_partition(
        &mut self,
        path: &Path,
        key: &(String, i32),
        known: &Known,
    ) -> Result<(), LogError> {
        self.totals.partitions += 1;
        if let Err(error) = directory::read_partition_metadata(&self.io, path).await {
            let file = path.join(directory::PARTITION_METADATA_FILE);
            self.found_error("partition-metadata", &file, &error);
        }
        if let Err(error) = checkpoint::read_epochs(&self.io, path).await {
            let file = path.join(checkpoint::LEADER_EPOCH_FILE);
            self.found_error("checkpoint", &file, &error);
        }
        let entries = match self.io.list_directory(path).await {
            Ok(entries) => entries,
            Err(error) => {
                self.unreadable(path, error.to_string());
                return Ok(());
            }
        };
        let mut found = Found::default();
        for entry in &entries {
            let file = path.join(&entry.name);
            match SegmentFileName::parse(&entry.name) {
                Some(name) if name.pending.is_some() => {}
                Some(name) if name.kind == SegmentFileKind::Log => found.bases.push(name.offset),
                Some(name) => self.check_beside(&file, name.kind).await,
                None if entry.name.ends_with(SegmentFileKind::Log.suffix()) => {
                    let reason = "its name is not 20 digits and .log";
                    let finding = Finding::new(Level::Damage, "foreign", &file, reason)
                        .remedy("move it out of the partition's directory");
                    self.found(&finding);
                }
                None => {}
            }
        }
        found.bases.sort_unstable();
        self.check_segments(path, key, known, &mut found).await;
        if found.is_unreadable {
            return Ok(());
        }
        self.check_end(path, key, known, &found);
        if let Some(mode) = self.repair {
            self.repair_partition(mode, path, key, known, &found)
                .await?;
        }
        Ok(())
    }

    async fn check_beside(&mut self, file: &Path, kind: SegmentFileKind) {
        let flaw = match kind {
            SegmentFileKind::Snapshot => match self.io.read_file(file, SNAPSHOT_BYTES_MAX).await {
                Ok(bytes) => ProducerState::from_snapshot(&bytes)
                    .is_none()
                    .then(|| ("snapshot", "version, length or CRC is wrong".to_owned())),
                Err(error) => Some(("snapshot", error.to_string())),
            },
            SegmentFileKind::TransactionIndex => {
                let open = self.io.open(file, ringlog_engine::io::OpenMode::Read).await;
                match open {
                    Ok(opened) => match self.io.length(&opened).await {
                        Ok(length) => (!length.is_multiple_of(ABORTED_BYTES)).then(|| {
                            (
                                "transaction-index",
                                format!("{length} bytes, not whole entries"),
                            )
                        }),
                        Err(error) => Some(("transaction-index", error.to_string())),
                    },
                    Err(error) => Some(("transaction-index", error.to_string())),
                }
            }
            SegmentFileKind::Log | SegmentFileKind::Index | SegmentFileKind::TimeIndex => None,
        };
        if let Some((kind, reason)) = flaw {
            let finding = Finding::new(Level::Mended, kind, file, reason)
                .remedy("nothing: a start does without it, and builds it from the log");
            self.found(&finding);
        }
    }

    async fn check_segments(
        &mut self,
        path: &Path,
        key: &(String, i32),
        known: &Known,
        found: &mut Found,
    ) {
        let recovery_point = known.recovery_points.get(key).copied().unwrap_or(0);
        for (i, base_offset) in found.bases.clone().into_iter().enumerate() {
            let following = found.bases.get(i + 1).copied();
            let file = segment_path(path, base_offset, SegmentFileKind::Log);
            let check = SegmentCheck {
                directory: path,
                base_offset,
                expected: base_offset,
                following,
            };
            let mut damages = Vec::new();
            let mut checked =
                check_segment(&self.io, &check, &mut |damage| damages.push(damage)).await;
            // Nothing stands behind the last batch that contradicts its offsets, but what a clean stop says.
            let is_beyond = matches!(&checked, Ok(report) if report.next_offset > recovery_point);
            if is_beyond && following.is_none() && known.is_clean && recovery_point > 0 {
                let check = SegmentCheck {
                    following: Some(recovery_point),
                    ..check
                };
                damages.clear();
                checked = check_segment(&self.io, &check, &mut |damage| damages.push(damage)).await;
            }
            let report = match checked {
                Ok(report) => report,
                Err(error) => {
                    self.unreadable(&file, error.to_string());
                    found.is_unreadable = true;
                    continue;
                }
            };
            self.totals.segments += 1;
            self.totals.batches += report.batches;
            self.totals.bytes += report.bytes;
            for damage in damages {
                let is_expected = following.is_none()
                    && damage.end == report.bytes
                    && !known.is_clean
                    && damage.offset >= recovery_point;
                self.tell_damage(&file, &damage, is_expected);
                if !is_expected || self.repair.is_some() {
                    found.damage.push((base_offset, damage));
                }
            }
            if let Some(flaw) = report.index_flaw {
                let index = segment_path(path, base_offset, SegmentFileKind::Index);
                let finding = Finding::new(Level::Mended, "index", &index, flaw)
                    .remedy("remove .index and .timeindex of the segment: they are built anew");
                self.found(&finding);
                found.bad_indexes.push(base_offset);
            }
            let has_gap = following.is_some_and(|next| next > report.next_offset)
                && !known.compacted.contains_key(key)
                && !key.0.starts_with("__")
                && !found.damage.iter().any(|(base, _)| *base == base_offset);
            if let Some(next) = following.filter(|_| has_gap) {
                let reason = format!(
                    "ends at offset {}, the next segment begins at {next}",
                    report.next_offset
                );
                let mut finding = Finding::new(Level::Note, "gap", &file, reason)
                    .remedy("nothing if the topic is or was compacted; else a segment is missing");
                finding.offset = Some(report.next_offset);
                finding.next_offset = Some(next);
                self.found(&finding);
            }
            found.end = report.next_offset;
        }
    }

    fn unreadable(&mut self, path: &Path, reason: String) {
        let finding = Finding::new(Level::Damage, "unreadable", path, reason).remedy(
            "see to the disk, or restore the partition from a backup: --repair leaves it as it is",
        );
        self.found(&finding);
    }

    fn tell_damage(&mut self, file: &Path, damage: &Damage, is_expected: bool) {
        let level = if is_expected {
            Level::Mended
        } else {
            Level::Damage
        };
        let remedy = if damage.kind == DamageKind::RecordCount {
            "consumers cannot read the batch; its checksum is right, so that it is what a producer sent: \
             --repair leaves it as it is"
                .to_owned()
        } else if is_expected {
            "nothing: it was written when the broker ended without a clean stop, and was not \
             acknowledged unless a journal has it; a start cuts it"
                .to_owned()
        } else {
            match damage.next_offset {
                Some(next) => format!(
                    "restore the file; or have consumers go on at offset {next}; or, with the loss, \
                     --repair quarantine (or cut)"
                ),
                None => "restore the file; or, with the loss, --repair cut".to_owned(),
            }
        };
        let finding = Finding {
            level,
            kind: damage.kind.name(),
            path: file.to_owned(),
            position: Some(damage.position),
            bytes: Some(damage.end - damage.position),
            offset: Some(damage.offset),
            next_offset: damage.next_offset,
            reason: damage.reason.clone(),
            remedy,
        };
        self.found(&finding);
    }

    /// Holds the end of the log against the checkpoints.
    fn check_end(&mut self, path: &Path, key: &(String, i32), known: &Known, found: &Found) {
        let is_damaged_tail = found.damage.iter().any(|(_, d)| d.next_offset.is_none());
        let recovery_point = known.recovery_points.get(key).copied().unwrap_or(0);
        if found.end < recovery_point && !is_damaged_tail {
            let reason = format!(
                "the log ends at offset {}, but was on stable storage up to {recovery_point}",
                found.end
            );
            let mut finding = Finding::new(Level::Damage, "missing-end", path, reason).remedy(
                "restore the missing segments; or, with the loss, --repair cut, which lowers the \
                 checkpoint",
            );
            finding.offset = Some(found.end);
            finding.next_offset = Some(recovery_point);
            self.found(&finding);
        }
        let start = known.log_starts.get(key).copied().unwrap_or(0);
        let first = found.bases.first().copied().unwrap_or(0);
        if first > start && start > 0 {
            let reason = format!("the log begins at offset {start}, its first segment at {first}");
            let mut finding = Finding::new(Level::Damage, "missing-start", path, reason)
                .remedy("restore the missing segments, or go on without: consumers begin later");
            finding.offset = Some(start);
            finding.next_offset = Some(first);
            self.found(&finding);
        }
    }
}
