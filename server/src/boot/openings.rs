//! How the logs of one log directory are to be opened: by Kafka's checkpoint files and the mark of
//! a clean stop.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ringlog_engine::io::Io;
use ringlog_engine::log::checkpoint::{
    self, CLEANER_OFFSET_FILE, LOG_START_OFFSET_FILE, OffsetEntry, RECOVERY_POINT_FILE,
};
use ringlog_engine::log::{Opening, directory};

use super::directories::unusable;
use super::{Seen, explain};

/// What the files say.
pub(super) struct Openings {
    clean: bool,
    /// Ringlog ran last.
    was_ours: bool,
    recovery_points: BTreeMap<(String, i32), i64>,
    log_starts: BTreeMap<(String, i32), i64>,
    clean_ends: BTreeMap<(String, i32), i64>,
}

impl Openings {
    /// A log directory without partitions and entries is new: nothing is read that must be durable.
    pub(super) async fn read(
        io: &Io,
        log_directory: &Path,
        has_partitions: bool,
    ) -> Result<Openings, String> {
        let read = async |file: &str| {
            let entries = checkpoint::read_offsets(io, &log_directory.join(file)).await;
            let entries = entries.map_err(explain)?.into_iter();
            let by_partition = entries.map(|e| ((e.topic, e.partition), e.offset));
            let by_partition: BTreeMap<(String, i32), i64> = by_partition.collect();
            Ok::<_, String>(by_partition)
        };
        // Before the mark goes: a start that is refused for one of these leaves it.
        let recovery_points = read(RECOVERY_POINT_FILE).await?;
        let log_starts = read(LOG_START_OFFSET_FILE).await?;
        let clean = directory::take_clean_shutdown(io, log_directory).await;
        let clean = clean.map_err(explain)?;
        let is_new = !has_partitions && recovery_points.is_empty() && log_starts.is_empty();
        if !clean && !is_new {
            // A process that was killed may have left names that are not durable: what is read here must be.
            io.sync_directory(log_directory)
                .await
                .map_err(|error| unusable(log_directory, &error))?;
        }
        let was_ours = directory::ran_last(io, log_directory).await;
        Ok(Openings {
            clean,
            was_ours: was_ours.map_err(explain)?,
            recovery_points,
            log_starts,
            // The cleaner tells of one that cannot be read, and begins anew.
            clean_ends: read(CLEANER_OFFSET_FILE).await.unwrap_or_default(),
        })
    }

    pub(super) fn of(&self, key: &(String, i32)) -> Opening {
        Opening {
            clean: self.clean,
            recovery_point: self.recovery_points.get(key).copied().unwrap_or(0),
            log_start_offset: self.log_starts.get(key).copied(),
            // Of a log that was compacted its recovery point must be known, too.
            compacts_below_recovery_point: self.was_ours
                && (self.recovery_points.contains_key(key) || !self.was_compacted(key)),
            accept_loss: false,
        }
    }

    /// Whether the log has been compacted at some time.
    pub(super) fn was_compacted(&self, key: &(String, i32)) -> bool {
        self.clean_ends.contains_key(key)
    }

    /// Checkpoints of partitions that are not there go, lest a topic of the same name that is
    /// created later gets them: they would hide its records after a crash.
    pub(super) async fn forget_missing(
        &self,
        io: &Io,
        log_directory: &Path,
        found: &[Seen],
    ) -> Result<(), String> {
        let is_there: BTreeSet<&(String, i32)> = found.iter().map(|seen| &seen.key).collect();
        for (file, offsets) in [
            (RECOVERY_POINT_FILE, &self.recovery_points),
            (LOG_START_OFFSET_FILE, &self.log_starts),
        ] {
            if offsets.keys().all(|key| is_there.contains(key)) {
                continue;
            }
            let kept = offsets.iter().filter(|(key, _)| is_there.contains(key));
            let entries: Vec<OffsetEntry> = kept.map(checkpoint_entry).collect();
            checkpoint::write_offsets(io, &log_directory.join(file), &entries)
                .await
                .map_err(explain)?;
        }
        Ok(())
    }
}

/// A line of a checkpoint file.
pub(crate) fn checkpoint_entry(
    ((topic, partition), offset): (&(String, i32), &i64),
) -> OffsetEntry {
    OffsetEntry {
        topic: topic.clone(),
        partition: *partition,
        offset: *offset,
    }
}
