//! Kafka's checkpoint files: line 1 is the version 0, line 2 the number of entries, then one entry a
//! line (CheckpointFile.java). An empty file has no entries.

use std::path::Path;

use super::directory::{read_text_limited, replace_text};
use super::error::LogError;
use crate::io::Io;

/// Per partition: everything below this offset is on stable storage.
pub const RECOVERY_POINT_FILE: &str = "recovery-point-offset-checkpoint";
/// Per partition: the first offset that may be read.
pub const LOG_START_OFFSET_FILE: &str = "log-start-offset-checkpoint";
/// Per partition: the high watermark.
pub const HIGH_WATERMARK_FILE: &str = "replication-offset-checkpoint";
/// Per partition: up to where compaction has come.
pub const CLEANER_OFFSET_FILE: &str = "cleaner-offset-checkpoint";
/// In a partition's directory: the leader epochs and where each begins.
pub const LEADER_EPOCH_FILE: &str = "leader-epoch-checkpoint";

/// 100,000 partitions with names of 249 characters fit; what is larger is no checkpoint.
const CHECKPOINT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// One line of an offset checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OffsetEntry {
    /// Topic name.
    pub topic: String,
    /// Partition number.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// One line of `leader-epoch-checkpoint`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEntry {
    /// Leader epoch.
    pub epoch: i32,
    /// First offset of that epoch.
    pub start_offset: i64,
}

/// Reads an offset checkpoint of a log directory; no entries if the file is not there.
///
/// # Errors
/// If the file cannot be read, or is none.
pub async fn read_offsets(io: &Io, path: &Path) -> Result<Vec<OffsetEntry>, LogError> {
    read(io, path, |line| {
        let mut fields = line.split_whitespace();
        let entry = OffsetEntry {
            topic: fields.next()?.to_owned(),
            partition: fields.next()?.parse().ok()?,
            offset: fields.next()?.parse().ok()?,
        };
        (fields.next().is_none() && entry.partition >= 0 && entry.offset >= 0).then_some(entry)
    })
    .await
}

/// Writes an offset checkpoint, durably.
///
/// # Errors
/// What the I/O answered.
pub async fn write_offsets(io: &Io, path: &Path, entries: &[OffsetEntry]) -> Result<(), LogError> {
    let lines = entries
        .iter()
        .map(|entry| format!("{} {} {}\n", entry.topic, entry.partition, entry.offset));
    write(io, path, entries.len(), lines).await
}

/// Reads `leader-epoch-checkpoint` of a partition's directory; no entries if it is not there.
///
/// # Errors
/// If the file cannot be read, or is none.
pub async fn read_epochs(io: &Io, directory: &Path) -> Result<Vec<EpochEntry>, LogError> {
    read(io, &directory.join(LEADER_EPOCH_FILE), |line| {
        let (epoch, start_offset) = line.split_once(char::is_whitespace)?;
        Some(EpochEntry {
            epoch: epoch.parse().ok()?,
            start_offset: start_offset.trim().parse().ok()?,
        })
    })
    .await
}

/// Writes `leader-epoch-checkpoint`, durably.
///
/// # Errors
/// What the I/O answered.
pub async fn write_epochs(
    io: &Io,
    directory: &Path,
    entries: &[EpochEntry],
) -> Result<(), LogError> {
    let lines = entries
        .iter()
        .map(|entry| format!("{} {}\n", entry.epoch, entry.start_offset));
    write(io, &directory.join(LEADER_EPOCH_FILE), entries.len(), lines).await
}

async fn write(
    io: &Io,
    path: &Path,
    count: usize,
    lines: impl Iterator<Item = String>,
) -> Result<(), LogError> {
    let mut text = format!("0\n{count}\n");
    text.extend(lines);
    replace_text(io, path, text).await
}

async fn read<T>(
    io: &Io,
    path: &Path,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, LogError> {
    let Some(text) = read_text_limited(io, path, CHECKPOINT_BYTES_MAX).await? else {
        return Ok(Vec::new());
    };
    parse_lines(&text, parse).map_err(|(line, reason)| LogError::Corrupt {
        path: path.to_owned(),
        position: text.lines().take(line).map(|line| line.len() as u64 + 1).sum(),
        reason: format!("line {}: {reason}", line + 1),
        remedy: "restore it, or remove it: as without a checkpoint, all of the logs is recovered then, \
                 and records that were deleted may be back",
    })
}

fn parse_lines<T>(
    text: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, (usize, String)> {
    let mut lines = text.lines().enumerate();
    match lines.next() {
        None => return Ok(Vec::new()),
        Some((_, version)) if version.trim() == "0" => {}
        Some((line, version)) => {
            return Err((line, format!("version {version:?}, 0 is known")));
        }
    }
    let Some((line, count)) = lines.next() else {
        return Ok(Vec::new());
    };
    let expected: usize = count
        .trim()
        .parse()
        .map_err(|_| (line, format!("{count:?} is not a number of entries")))?;
    let mut entries = Vec::new();
    for (line, text) in lines {
        let entry = parse(text).ok_or_else(|| (line, format!("{text:?} is not an entry")))?;
        entries.push(entry);
    }
    if entries.len() != expected {
        let reason = format!("{expected} entries announced, {} are there", entries.len());
        return Err((line, reason));
    }
    Ok(entries)
}
