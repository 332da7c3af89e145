//! Repairs, on demand only: damaged bytes are taken out of a log, and kept beside it.
//!
//! - `cut`: the log ends where the first damage begins.
//! - `quarantine`: only the damaged bytes go. Offsets that were in them are bridged by a batch without
//!   records, as compaction leaves them, so that consumers go on behind the gap.
//!
//! What is taken away stays in the partition's directory as `<file>.<position>.quarantine`, or
//! `<file>.quarantine` for whole segments, with `.1`, `.2`, .. behind where an earlier repair has taken
//! the name: no broker reads such names. Order of effects: the bytes are
//! safe under the new name before they go from the old one; a rewritten segment replaces the old one
//! atomically; checkpoints come last. A repair that is cut short can be run again.

use std::io;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use ringlog_engine::io::{File, Io, OpenMode};
use ringlog_engine::log::checkpoint::{self, OffsetEntry};
use ringlog_engine::log::directory::{SegmentFileKind, segment_path};
use ringlog_engine::log::{Damage, DamageKind, LogError};
use ringlog_engine::record::{BatchBuilder, Compression};

use super::{Finding, Found, Fsck, Known, Level};

/// Bytes of one copy.
const COPY_BYTES: usize = 256 * 1024;

/// What to do with damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// End each damaged log where its first damage begins; what is behind is kept aside
    Cut,
    /// Take only the damaged bytes out of the logs and keep them aside
    Quarantine,
}

impl Fsck {
    /// Repairs what was found in a partition, and says what is lost.
    pub(super) async fn repair_partition(
        &mut self,
        mode: Mode,
        path: &Path,
        key: &(String, i32),
        known: &Known,
        found: &Found,
    ) -> Result<(), LogError> {
        let recovery_point = known.recovery_points.get(key).copied().unwrap_or(0);
        let is_short = found.damage.is_empty() && found.end < recovery_point;
        // A batch whose checksum is right is nobody's to take out.
        let is_ours = |(_, damage): &&(i64, Damage)| damage.kind != DamageKind::RecordCount;
        let found = Found {
            damage: found.damage.iter().filter(is_ours).cloned().collect(),
            ..found.clone()
        };
        if found.damage.is_empty() && found.bad_indexes.is_empty() && !is_short {
            return Ok(());
        }
        if self.has_journal {
            let finding =
                Finding::new(Level::Damage, "not-repaired", path, "a journal has content").remedy(
                    "start the broker and stop it, so that the journal is empty; then repair",
                );
            self.found(&finding);
            return Ok(());
        }
        for base_offset in &found.bad_indexes {
            self.remove_indexes(path, *base_offset).await?;
            self.totals.mended = self.totals.mended.saturating_sub(1);
            self.totals.repaired += 1;
        }
        if found.damage.is_empty() && !is_short {
            return Ok(());
        }
        match mode {
            Mode::Cut => self.cut(path, key, recovery_point, &found).await,
            Mode::Quarantine => self.quarantine(path, key, recovery_point, &found).await,
        }
    }

    fn repaired(&mut self, count: u64, finding: &Finding) {
        let damaged = self.totals.damaged.min(count);
        self.totals.damaged -= damaged;
        self.totals.mended = self.totals.mended.saturating_sub(count - damaged);
        self.totals.repaired += count;
        (self.tell)(finding);
    }

    async fn remove_indexes(&self, path: &Path, base_offset: i64) -> Result<(), LogError> {
        for kind in [SegmentFileKind::Index, SegmentFileKind::TimeIndex] {
            let file = segment_path(path, base_offset, kind);
            match self.io.remove_file(&file).await {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => at("remove", &file, other)?,
            }
        }
        at("sync", path, self.io.sync_directory(path).await)
    }

    // ---- cut ---------------------------------------------------------------------------------

    async fn cut(
        &mut self,
        path: &Path,
        key: &(String, i32),
        recovery_point: i64,
        found: &Found,
    ) -> Result<(), LogError> {
        let count = found.damage.len().max(1) as u64;
        let Some((base_offset, damage)) = found.damage.first() else {
            if found.end < recovery_point {
                lower_checkpoints(&self.io, path, key, found.end).await?;
                let reason = format!("offsets {} to {} are lost", found.end, recovery_point - 1);
                self.repaired(
                    1,
                    &done("missing-end", path, reason, "the checkpoints say so now"),
                );
            }
            return Ok(());
        };
        let file = segment_path(path, *base_offset, SegmentFileKind::Log);
        let source = at("open", &file, self.io.open(&file, OpenMode::Write).await)?;
        let length = at("stat", &file, self.io.length(&source).await)?;
        let lost = Stretch {
            source: &source,
            path: &file,
            position: damage.position,
            end: length,
        };
        let kept = aside(&self.io, &file, Some(&lost)).await?;
        let target = Target::create(&self.io, &kept).await?;
        target.copy(&source, &file, damage.position, length).await?;
        target.finish(path).await?;
        // From the end, so that a repair that is cut short leaves no gap.
        let later = found
            .bases
            .iter()
            .rev()
            .filter(|base| **base > *base_offset);
        let mut moved = 0;
        for base in later {
            let segment = segment_path(path, *base, SegmentFileKind::Log);
            let kept = aside(&self.io, &segment, None).await?;
            let renamed = self.io.rename(&segment, &kept).await;
            at("rename", &segment, renamed)?;
            self.remove_indexes(path, *base).await?;
            moved += 1;
        }
        at(
            "truncate",
            &file,
            self.io.truncate(&source, damage.position).await,
        )?;
        at("sync", &file, self.io.sync_data(&source).await)?;
        self.remove_indexes(path, *base_offset).await?;
        lower_checkpoints(&self.io, path, key, damage.offset).await?;
        let reason = format!(
            "the log ends at offset {} now; cut: {} bytes of {} from byte {} on and {moved} later \
             segments; lost: offsets {} to {}",
            damage.offset,
            length - damage.position,
            file.display(),
            damage.position,
            damage.offset,
            found.end.max(recovery_point).max(damage.offset) - 1
        );
        let remedy = format!(
            "what was cut is kept as {} and *.log.quarantine",
            kept.display()
        );
        self.repaired(count, &done("cut", path, reason, &remedy));
        Ok(())
    }

    // ---- quarantine --------------------------------------------------------------------------

    async fn quarantine(
        &mut self,
        path: &Path,
        key: &(String, i32),
        recovery_point: i64,
        found: &Found,
    ) -> Result<(), LogError> {
        if found.damage.is_empty() && found.end < recovery_point {
            // Nothing is there that could be set aside.
            return self.cut(path, key, recovery_point, found).await;
        }
        for base_offset in &found.bases {
            let of_segment = found.damage.iter().filter(|(base, _)| base == base_offset);
            let damages: Vec<&Damage> = of_segment.map(|(_, damage)| damage).collect();
            if !damages.is_empty() {
                self.rewrite(path, *base_offset, &damages, recovery_point)
                    .await?;
            }
        }
        Ok(())
    }

    /// Writes the segment again without the damaged bytes.
    async fn rewrite(
        &mut self,
        path: &Path,
        base_offset: i64,
        damages: &[&Damage],
        recovery_point: i64,
    ) -> Result<(), LogError> {
        let file = segment_path(path, base_offset, SegmentFileKind::Log);
        let source = at("open", &file, self.io.open(&file, OpenMode::Read).await)?;
        let length = at("stat", &file, self.io.length(&source).await)?;
        let mut fresh = file.clone().into_os_string();
        fresh.push(".repaired");
        let fresh = PathBuf::from(fresh);
        let target = Target::create(&self.io, &fresh).await?;
        let mut position = 0;
        for damage in damages {
            target
                .copy(&source, &file, position, damage.position)
                .await?;
            let lost = Stretch {
                source: &source,
                path: &file,
                position: damage.position,
                end: damage.end,
            };
            let kept = aside(&self.io, &file, Some(&lost)).await?;
            let aside = Target::create(&self.io, &kept).await?;
            aside
                .copy(&source, &file, damage.position, damage.end)
                .await?;
            aside.finish(path).await?;
            // At the end of the log the recovery point tells what had been there.
            let next = damage.next_offset.or(Some(recovery_point));
            let next = next.filter(|next| *next > damage.offset);
            if let Some(next) = next {
                target.write(filler(damage.offset, next - 1)?).await?;
            }
            position = damage.end;
            let lost = match next {
                Some(next) => format!("lost: offsets {} to {}", damage.offset, next - 1),
                None => format!(
                    "lost: nothing that is known from offset {} on",
                    damage.offset
                ),
            };
            let reason = format!(
                "{} bytes from byte {} on are taken out; {lost}",
                damage.end - damage.position,
                damage.position
            );
            let remedy = format!("they are kept as {}", kept.display());
            self.repaired(1, &done("quarantine", &file, reason, &remedy));
        }
        target.copy(&source, &file, position, length).await?;
        target.finish(path).await?;
        self.remove_indexes(path, base_offset).await?;
        at("rename", &fresh, self.io.rename(&fresh, &file).await)?;
        at("sync", path, self.io.sync_directory(path).await)
    }
}

/// A batch without records: `first` to `last` are no more (Kafka: DefaultRecordBatch.writeEmptyHeader).
fn filler(first: i64, last: i64) -> Result<Bytes, LogError> {
    let batch = BatchBuilder::new(Compression::None)
        .base_offset(first)
        .last_offset(last)
        .build();
    batch
        .map(BytesMut::freeze)
        .map_err(|error| LogError::InvalidBatch {
            reason: format!("offsets {first} to {last}: {error}"),
        })
}

fn done(kind: &'static str, path: &Path, reason: String, remedy: &str) -> Finding {
    Finding::new(Level::Note, kind, path, reason).remedy(remedy)
}

/// Bytes of a segment that are about to be taken out.
struct Stretch<'a> {
    source: &'a File,
    path: &'a Path,
    position: u64,
    end: u64,
}

impl Stretch<'_> {
    /// Whether a file consists of just these bytes.
    async fn is_in(&self, io: &Io, file: &File, path: &Path) -> Result<bool, LogError> {
        let length = at("stat", path, io.length(file).await)?;
        if length != self.end - self.position {
            return Ok(false);
        }
        let mut done = 0;
        while done < length {
            let most = usize::try_from(length - done).unwrap_or(usize::MAX);
            let most = most.min(COPY_BYTES);
            let position = self.position + done;
            let ours = io.read_at(self.source, BytesMut::new(), position, most);
            let ours = at("read", self.path, ours.await)?;
            let theirs = io.read_at(file, BytesMut::new(), done, ours.len()).await;
            if ours.is_empty() || at("read", path, theirs)? != ours {
                return Ok(false);
            }
            done += ours.len() as u64;
        }
        Ok(true)
    }
}

/// Where bytes, or a whole file, are kept: the first name that is free, or that has these bytes from a
/// repair that was cut short. What an earlier repair has kept is never written over.
async fn aside(io: &Io, file: &Path, bytes: Option<&Stretch<'_>>) -> Result<PathBuf, LogError> {
    let mut name = file.as_os_str().to_owned();
    if let Some(stretch) = bytes {
        name.push(format!(".{}", stretch.position));
    }
    name.push(".quarantine");
    let mut number = 0_u64;
    loop {
        let mut path = name.clone();
        if number > 0 {
            path.push(format!(".{number}"));
        }
        let path = PathBuf::from(path);
        let there = match io.open(&path, OpenMode::Read).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
            other => at("open", &path, other)?,
        };
        if let Some(stretch) = bytes
            && stretch.is_in(io, &there, &path).await?
        {
            return Ok(path);
        }
        number += 1;
    }
}

fn at<T>(operation: &'static str, path: &Path, result: io::Result<T>) -> Result<T, LogError> {
    result.map_err(|source| LogError::Io {
        operation,
        path: path.to_owned(),
        source,
    })
}

/// No checkpoint of the partition may be above its end: a start would miss what is not there.
async fn lower_checkpoints(
    io: &Io,
    partition: &Path,
    (topic, index): &(String, i32),
    end: i64,
) -> Result<(), LogError> {
    let Some(log_directory) = partition.parent() else {
        return Ok(());
    };
    for file in [
        checkpoint::RECOVERY_POINT_FILE,
        checkpoint::HIGH_WATERMARK_FILE,
        checkpoint::LOG_START_OFFSET_FILE,
        checkpoint::CLEANER_OFFSET_FILE,
    ] {
        let path = log_directory.join(file);
        let mut entries = checkpoint::read_offsets(io, &path).await?;
        let is_above = |entry: &&mut OffsetEntry| {
            entry.topic == *topic && entry.partition == *index && entry.offset > end
        };
        let mut changed = false;
        for entry in entries.iter_mut().filter(is_above) {
            entry.offset = end;
            changed = true;
        }
        if changed {
            checkpoint::write_offsets(io, &path, &entries).await?;
        }
    }
    Ok(())
}

/// A file that is being written from its beginning.
struct Target {
    io: Io,
    path: PathBuf,
    file: File,
    length: std::cell::Cell<u64>,
}

impl Target {
    async fn create(io: &Io, path: &Path) -> Result<Target, LogError> {
        let file = at("create", path, io.open(path, OpenMode::Create).await)?;
        at("truncate", path, io.truncate(&file, 0).await)?;
        Ok(Target {
            io: io.clone(),
            path: path.to_owned(),
            file,
            length: std::cell::Cell::new(0),
        })
    }

    async fn write(&self, bytes: Bytes) -> Result<(), LogError> {
        let position = self.length.get();
        self.length.set(position + bytes.len() as u64);
        let written = self.io.write_at(&self.file, vec![bytes], position).await;
        at("write", &self.path, written)
    }

    async fn copy(&self, source: &File, path: &Path, from: u64, to: u64) -> Result<(), LogError> {
        let mut position = from;
        while position < to {
            let left = usize::try_from(to - position).unwrap_or(usize::MAX);
            let buffer = BytesMut::new();
            let read = self
                .io
                .read_at(source, buffer, position, left.min(COPY_BYTES))
                .await;
            let bytes = at("read", path, read)?.freeze();
            if bytes.is_empty() {
                return at("read", path, Err(io::ErrorKind::UnexpectedEof.into()));
            }
            position += bytes.len() as u64;
            self.write(bytes).await?;
        }
        Ok(())
    }

    async fn finish(&self, directory: &Path) -> Result<(), LogError> {
        at("sync", &self.path, self.io.sync_data(&self.file).await)?;
        at("sync", directory, self.io.sync_directory(directory).await)
    }
}
