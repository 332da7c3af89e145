//! Opening a partition's directory: which bytes can be believed.
//!
//! After a clean stop the indexes are, and only the batches after the last index entry are looked at.
//! Else every segment from the recovery point on is read whole, each batch's CRC checked, and the log
//! is cut at the first bad one; indexes are built anew. Compactions that were under way are finished
//! or taken back (Kafka: LogLoader.java). What lies below the recovery point was promised to be on
//! stable storage: batches that are damaged there stay where they are and are told, and everything
//! around them is served; if the end is missing, the log is not opened, unless the caller accepts the
//! loss.

use std::io;
use std::path::{Path, PathBuf};

use super::directory::{
    PARTITION_METADATA_FILE, SegmentFileKind, read_partition_metadata, segment_path,
};
use super::error::{IoContext, LogError};
use super::load::read_indexes;
use super::opening::{Opening, Recovery, Truncated};
use super::scan::{Scan, ScanError, ScanRequest, Scanner, Visitor, scan_on, scan_segment};
use super::segment::Segment;
use super::verify::{DamageKind, Start, Step, Verifier};
use super::{DamagedBatches, Log, LogConfig, SegmentFiles, State, create_segment_file};
use crate::io::{File, Io, OpenMode};

/// Bytes of one read of the recovery.
const CHUNK_BYTES: usize = 1 << 20;
/// Bytes of one read when only the tail is looked at.
pub(super) const TAIL_CHUNK_BYTES: usize = 64 * 1024;

// ---- the directory -----------------------------------------------------------------------------

/// The state of an opening.
pub(super) struct Opener<'a> {
    files: &'a SegmentFiles,
    number: u64,
    pub(super) directory: &'a Path,
    pub(super) config: &'a LogConfig,
    pub(super) opening: Opening,
    pub(super) recovery: Recovery,
    segments: Vec<Segment>,
    log_end_offset: i64,
}

impl Log {
    /// Opens the directory of a partition. `on_batch` sees every batch of the segments that are read
    /// whole, with its bytes: the partition rebuilds its producer state from them.
    ///
    /// # Errors
    /// What the I/O answered, or what in the directory is no log or damaged beyond what a crash
    /// explains; nothing was cut then.
    pub async fn open(
        files: &SegmentFiles,
        directory: &Path,
        config: LogConfig,
        opening: Opening,
        on_batch: &mut dyn FnMut(&crate::record::BatchHeader, &[u8]),
    ) -> Result<(Log, Recovery), LogError> {
        let topic_id = read_partition_metadata(files.io(), directory).await?;
        let mut opener = Opener {
            files,
            number: files.number(),
            directory,
            config: &config,
            opening,
            recovery: Recovery::default(),
            segments: Vec::new(),
            log_end_offset: 0,
        };
        let bases = opener.tidy().await?;
        let opened = opener.load(&bases, on_batch).await;
        if opened.is_err() {
            files.forget_log(opener.number);
        }
        opened?;
        let first = opener.segments[0].base_offset;
        opener.segments.shrink_to_fit(); // one, mostly, and room for four
        let state = State {
            directory: directory.to_owned(),
            log_start_offset: opening.log_start_offset.unwrap_or(first).max(first),
            log_end_offset: opener.log_end_offset,
            recovery_point: if opening.clean {
                opener.log_end_offset
            } else {
                opening.recovery_point.min(opener.log_end_offset)
            },
            segments: std::mem::take(&mut opener.segments),
            poison: None,
            tail: std::collections::VecDeque::new(),
            rested_at: -1,
        };
        let (number, recovery) = (opener.number, std::mem::take(&mut opener.recovery));
        let log = Log::assemble(files, number, config, topic_id, state);
        log.untold.replace(recovery.damaged.clone());
        Ok((log, recovery))
    }
}

impl Opener<'_> {
    pub(super) fn io(&self) -> &Io {
        self.files.io()
    }

    fn path(&self, base_offset: i64) -> PathBuf {
        segment_path(self.directory, base_offset, SegmentFileKind::Log)
    }

    pub(super) fn request(&self, base_offset: i64, check_crc: bool) -> ScanRequest {
        ScanRequest {
            base_offset,
            index_interval_bytes: self.config.index_interval_bytes,
            check_crc,
            end_max: None,
            whole_to: None,
        }
    }

    // ---- segments ----------------------------------------------------------------------------

    async fn load(&mut self, bases: &[i64], visitor: &mut Visitor<'_>) -> Result<(), LogError> {
        let recovery_point = self.opening.recovery_point;
        // The segment that holds the recovery point, and all after it.
        let below = bases.partition_point(|base| *base <= recovery_point);
        let first_scanned = if self.opening.clean {
            bases.len().saturating_sub(1)
        } else {
            below.saturating_sub(1)
        };
        for (i, base_offset) in bases.iter().enumerate() {
            let (file, size) = self.open_file(*base_offset).await?;
            // A roll cuts what was preallocated, and a flush syncs that. Of a roll exactly at the
            // recovery point it may be lost in a crash although everything in the segment had been
            // synced before, and zeros would be read before the next segment.
            let may_be_untrimmed =
                self.config.preallocate && !self.opening.clean && i + 1 == first_scanned;
            // One that was rolled exactly at the recovery point need not have index files yet, or has
            // those of a clean stop when it had less.
            let is_last_below = !self.opening.clean
                && i + 1 == first_scanned
                && bases[first_scanned] == recovery_point;
            let next = bases.get(i + 1).copied();
            if is_last_below
                && self
                    .load_clean_tail(*base_offset, &file, size, next)
                    .await?
            {
                let rolled = self.segments.last_mut().expect("just loaded");
                rolled.finish_indexes();
                continue;
            }
            if i < first_scanned && !may_be_untrimmed {
                if size == 0 {
                    self.refuse_emptied(*base_offset, bases[i + 1]).await?;
                }
                self.segments.push(Segment::old(*base_offset, size));
                continue;
            }
            let is_sound = self.opening.clean || i < first_scanned;
            if is_sound
                && self
                    .load_clean_tail(*base_offset, &file, size, next)
                    .await?
            {
                continue;
            }
            if !self
                .recover(*base_offset, &file, size, next, visitor)
                .await?
            {
                self.remove_later(&bases[i + 1..]).await?;
                break;
            }
        }
        let log_start_offset = self.opening.log_start_offset.unwrap_or(0);
        // Of what DeleteRecords has deleted nothing can be lost: a crash may have come while the log was begun
        // anew at its start offset, as below.
        let is_end_lost = self.log_end_offset < recovery_point
            && log_start_offset < recovery_point
            && !self.opening.accept_loss;
        if is_end_lost && !(bases.is_empty() && self.is_made_by_hand().await?) {
            return Err(LogError::Corrupt {
                path: self.directory.to_owned(),
                position: 0,
                reason: format!(
                    "the log ends at offset {}, but was on stable storage up to {recovery_point}",
                    self.log_end_offset
                ),
                remedy: LOSS_REMEDY,
            });
        }
        if self.segments.is_empty() || log_start_offset > self.log_end_offset {
            // All that is left was deleted by DeleteRecords before (Kafka: LogLoader,
            // deleteSegmentsIfLogStartGreaterThanLogEnd).
            self.segments.clear();
            self.remove_later(bases).await?;
            let key = (self.number, log_start_offset);
            create_segment_file(self.files, key, self.directory, self.config).await?;
            self.segments.push(Segment::empty(log_start_offset));
            self.log_end_offset = log_start_offset;
        }
        Ok(())
    }

    /// A segment that was closed has records; only compaction can have left none, and no index entries
    /// either.
    async fn refuse_emptied(&self, base_offset: i64, following: i64) -> Result<(), LogError> {
        let start = self.opening.log_start_offset.unwrap_or(0);
        if following <= start || self.opening.accept_loss {
            return Ok(());
        }
        for kind in [SegmentFileKind::Index, SegmentFileKind::TimeIndex] {
            let path = segment_path(self.directory, base_offset, kind);
            let Ok(index) = self.io().open(&path, OpenMode::Read).await else {
                continue;
            };
            if self.io().length(&index).await.at("stat", &path)? > 0 {
                return Err(LogError::Corrupt {
                    path: self.path(base_offset),
                    position: 0,
                    reason: "the segment is empty, but its index is not".to_owned(),
                    remedy: LOSS_REMEDY,
                });
            }
        }
        Ok(())
    }

    /// Nothing is in the directory but what this start has written: somebody wants the partition anew.
    async fn is_made_by_hand(&self) -> Result<bool, LogError> {
        let entries = self.io().list_directory(self.directory).await;
        let entries = entries.at("list", self.directory)?;
        Ok(entries
            .iter()
            .all(|entry| entry.name == PARTITION_METADATA_FILE))
    }

    async fn open_file(&self, base_offset: i64) -> Result<(File, u32), LogError> {
        let path = self.path(base_offset);
        let key = (self.number, base_offset);
        let file = self.files.open(key, &path, OpenMode::Write).await?;
        let length = self.io().length(&file).await.at("stat", &path)?;
        match i32::try_from(length) {
            Ok(size) => Ok((file, size.unsigned_abs())),
            Err(_) => Err(LogError::Corrupt {
                path,
                position: i32::MAX.unsigned_abs().into(),
                reason: format!("{length} bytes, a segment has less than 2 GiB"),
                remedy: "move the file away if it is no segment, or restore it",
            }),
        }
    }

    /// Of what was synced: believes the indexes and looks at the batches after their last entry.
    /// `false` if anything does not fit.
    async fn load_clean_tail(
        &mut self,
        base_offset: i64,
        file: &File,
        size: u32,
        next: Option<i64>,
    ) -> Result<bool, LogError> {
        let indexes = read_indexes(self.io(), self.directory, base_offset, size).await?;
        let Some(indexes) = indexes else {
            return Ok(false);
        };
        let mut scanner = Scanner::new(self.io(), file, size.into(), TAIL_CHUNK_BYTES);
        let mut position = indexes.last_position();
        let mut next_offset = base_offset;
        let mut largest = indexes.last_time();
        while position < size {
            let header = match scanner.header(position.into()).await {
                Ok(header) if header.base_offset >= next_offset => header,
                Ok(_) | Err(ScanError::Batch(_)) => return Ok(false),
                Err(ScanError::Io(error)) => {
                    return Err(LogError::io("read", &self.path(base_offset), error));
                }
            };
            if header.max_timestamp > largest.timestamp {
                largest.timestamp = header.max_timestamp;
                largest.offset = header.last_offset();
            }
            next_offset = header.next_offset();
            position += u32::try_from(header.size_in_bytes()).unwrap_or(u32::MAX);
        }
        let is_beyond = indexes
            .last_offset()
            .is_some_and(|last| last >= next_offset);
        let fits = next_offset - base_offset <= 1 + i64::from(i32::MAX);
        // Nothing stands behind the last batch that contradicts its offsets.
        let end = next.or(self.known_end());
        let is_late = end.is_some_and(|end| next_offset > end);
        if is_beyond || !fits || is_late {
            return Ok(false);
        }
        self.segments.push(Segment {
            bytes_since_index: size - indexes.last_position(),
            indexes: Some(indexes),
            largest: Some(largest),
            ..Segment::old(base_offset, size)
        });
        self.log_end_offset = next_offset;
        Ok(true)
    }

    /// Where a clean stop has left the end of the log.
    fn known_end(&self) -> Option<i64> {
        let is_known = self.opening.clean && self.opening.recovery_point > 0;
        is_known.then_some(self.opening.recovery_point)
    }

    /// Up to where no offset is missing after a crash, if the log was never compacted.
    fn whole_to(&self) -> Option<i64> {
        let is_known = !self.opening.clean && !self.config.is_compacted;
        is_known.then_some(self.opening.recovery_point)
    }

    /// Reads a segment whole and cuts it at the first bad batch. `false` if later segments must go.
    async fn recover(
        &mut self,
        base_offset: i64,
        file: &File,
        size: u32,
        next: Option<i64>,
        visitor: &mut Visitor<'_>,
    ) -> Result<bool, LogError> {
        let path = self.path(base_offset);
        if self.log_end_offset > base_offset {
            return Err(LogError::Corrupt {
                path,
                position: 0,
                reason: format!("the segment before ends at offset {}", self.log_end_offset),
                remedy: "move the segment that does not belong here out of the directory",
            });
        }
        let mut scanner = Scanner::new(self.io(), file, size.into(), CHUNK_BYTES);
        let mut request = self.request(base_offset, true);
        request.end_max = next.or(self.known_end());
        request.whole_to = self.whole_to();
        let scan = scan_segment(&mut scanner, &request, visitor).await;
        let mut scan = scan.at("read", &path)?;
        while scan.bad.is_some() && self.step_over(&mut scanner, &mut scan, next).await? {
            let more = scan_on(&mut scanner, &request, &mut scan, visitor).await;
            more.at("read", &path)?;
        }
        let good = scan.segment.size;
        self.recovery.scanned_segments += 1;
        self.recovery.scanned_bytes += u64::from(good);
        self.recovery.scanned_batches += scan.batches;
        // Nothing may be missing between what was not yet synced, unless compaction has removed it.
        let is_gap = |next: &i64| {
            (!self.config.is_compacted || self.opening.compacts_below_recovery_point)
                && *next > scan.next_offset
                && *next > self.opening.recovery_point
        };
        let gap = next.filter(is_gap);
        if let Some(reason) = &scan.bad {
            let is_zero = scanner.is_zero(good.into()).await.at("read", &path)?;
            let is_whole = is_zero && next == Some(scan.next_offset);
            if !is_whole {
                self.check_loss(&scan, reason)?;
            }
            if is_zero {
                self.recovery.zero_bytes += u64::from(size - good);
                scan.bad = None;
            } else {
                self.check_plausible(&mut scanner, &scan, reason).await?;
            }
        }
        if let Some(next) = gap.filter(|_| scan.bad.is_none()) {
            let reason = format!("its end is missing: the next segment begins at offset {next}");
            self.check_loss(&scan, &reason)?;
            scan.bad = Some(reason);
        }
        if good < size {
            let truncated = self.io().truncate(file, good.into()).await;
            truncated.at("truncate", &path)?;
            self.io().sync_data(file).await.at("sync", &path)?;
        }
        self.log_end_offset = scan.next_offset;
        let is_whole = scan.bad.is_none();
        if let Some(reason) = scan.bad {
            self.recovery.truncated = Some(Truncated {
                file: path,
                position: good.into(),
                offset: scan.next_offset,
                bytes: u64::from(size - good),
                reason,
            });
        } else if next.is_some() {
            scan.segment.finish_indexes();
        }
        self.segments.push(scan.segment);
        Ok(is_whole)
    }

    /// Steps over damage in what was on stable storage, if what follows shows where it ends: a batch
    /// at or below the recovery point, the next segment, or the end of the log: after a clean stop it
    /// is known, else the damaged batch's own header tells it.
    async fn step_over(
        &mut self,
        scanner: &mut Scanner,
        scan: &mut Scan,
        next: Option<i64>,
    ) -> Result<bool, LogError> {
        let (recovery_point, clean) = (self.opening.recovery_point, self.opening.clean);
        let base_offset = scan.segment.base_offset;
        let path = self.path(base_offset);
        if scan.next_offset >= recovery_point {
            return Ok(false);
        }
        let (position, file_end) = (u64::from(scan.segment.size), scanner.end());
        // Nothing stands behind the last batch to contradict its base offset, which has no checksum.
        let header = scanner.header(position).await.ok();
        let is_last_batch =
            header.is_some_and(|header| position + header.size_in_bytes() as u64 == file_end);
        let whole_to = self.whole_to().filter(|_| is_last_batch);
        let start = Start {
            segment_base: base_offset,
            position,
            expected: scan.next_offset,
            following: next.or(self.known_end()).or(whole_to),
        };
        let step = Verifier::new(scanner, start).step().await;
        let Some(Step::Damaged(mut damage)) = step.at("read", &path)? else {
            return Ok(false);
        };
        let is_last = damage.end == file_end && next.is_none();
        if is_last && clean && damage.kind != DamageKind::Zeros {
            damage.next_offset = Some(recovery_point);
        }
        // After a crash the header must show that nothing is missing up to the recovery point.
        if is_last && !clean && matches!(damage.kind, DamageKind::Crc | DamageKind::OffsetOrder) {
            let is_end = header.filter(|_| is_last_batch).is_some_and(|header| {
                let count = header.next_offset() - header.base_offset;
                match damage.kind {
                    // The base offset is what is wrong, and the rest of the header is not.
                    DamageKind::OffsetOrder => damage.offset + count <= recovery_point,
                    _ => {
                        header.base_offset >= damage.offset
                            && header.next_offset() == recovery_point
                    }
                }
            });
            damage.next_offset = is_end.then_some(recovery_point);
        }
        let is_inside = damage
            .next_offset
            .is_some_and(|next| next <= recovery_point);
        if !is_inside || damage.kind == DamageKind::Zeros {
            return Ok(false);
        }
        scan.step_over(damage.end);
        // What follows stands behind the damage, not behind a gap.
        if let Some(next) = damage.next_offset {
            scan.next_offset = next;
        }
        scan.segment.note_damage(&damage);
        let file = path;
        self.recovery.damaged.push(DamagedBatches { file, damage });
        scan.bad = None;
        Ok(true)
    }

    /// Refuses to cut what was on stable storage.
    fn check_loss(&self, scan: &Scan, reason: &str) -> Result<(), LogError> {
        let recovery_point = self.opening.recovery_point;
        if self.opening.accept_loss || scan.next_offset >= recovery_point {
            return Ok(());
        }
        Err(LogError::Corrupt {
            path: self.path(scan.segment.base_offset),
            position: scan.segment.size.into(),
            reason: format!(
                "{reason}; offset {} was on stable storage, as everything below {recovery_point}",
                scan.next_offset
            ),
            remedy: LOSS_REMEDY,
        })
    }

    /// Refuses to cut a file that never was this segment.
    async fn check_plausible(
        &self,
        scanner: &mut Scanner,
        scan: &Scan,
        reason: &str,
    ) -> Result<(), LogError> {
        if scan.segment.size > 0 || self.opening.accept_loss {
            return Ok(());
        }
        let base_offset = scan.segment.base_offset;
        let path = self.path(base_offset);
        let first = scanner.bytes(0, PLAUSIBLE_BYTES).await.at("read", &path)?;
        if may_begin_segment(first, base_offset) {
            return Ok(());
        }
        Err(LogError::Foreign {
            path,
            reason: format!("its first bytes are no batch: {reason}"),
            remedy: "move the file away if it is no segment, or restore it",
        })
    }

    /// Removes segments after a cut, from the end, so that a crash in between leaves no gap.
    async fn remove_later(&mut self, bases: &[i64]) -> Result<(), LogError> {
        for base_offset in bases.iter().rev() {
            self.files.forget((self.number, *base_offset));
            for kind in SegmentFileKind::ALL {
                // The snapshot at the first base is the producer state at the cut.
                if kind == SegmentFileKind::Snapshot && base_offset == &bases[0] {
                    continue;
                }
                let path = segment_path(self.directory, *base_offset, kind);
                match self.io().remove_file(&path).await {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    other => {
                        other.at("remove", &path)?;
                        let name = path.file_name().unwrap_or_default();
                        let name = name.to_string_lossy().into_owned();
                        self.recovery.changed_files.push(name);
                    }
                }
            }
        }
        let synced = self.io().sync_directory(self.directory).await;
        synced.at("sync", self.directory)
    }
}

const LOSS_REMEDY: &str =
    "restore the partition from a replica or backup, or accept the loss of what follows";

/// Bytes up to the magic.
const PLAUSIBLE_BYTES: usize = 17;

/// Whether a torn or lost write could have left these first bytes of a segment: zeros (a page that
/// was not written), or the start of a batch with the segment's offset.
fn may_begin_segment(bytes: &[u8], base_offset: i64) -> bool {
    let head = &bytes[..bytes.len().min(PLAUSIBLE_BYTES)];
    if head.iter().all(|byte| *byte == 0) {
        return true;
    }
    let Some((offset, rest)) = head.split_first_chunk::<8>() else {
        return base_offset.to_be_bytes().starts_with(head);
    };
    let relative = i64::from_be_bytes(*offset).checked_sub(base_offset);
    let is_offset = relative.is_some_and(|relative| (0..=i64::from(i32::MAX)).contains(&relative));
    let is_length = rest
        .first_chunk::<4>()
        .is_none_or(|l| i32::from_be_bytes(*l) >= 0);
    let is_magic = rest.get(8).is_none_or(|magic| *magic <= 2);
    is_offset && is_length && is_magic
}
