//! Compaction of a shard's partitions: the dirtiest log of a topic with `cleanup.policy=compact` is
//! compacted, one at a time, until none is dirty enough; then the cleaner pauses for
//! `log.cleaner.backoff.ms` (Kafka: LogCleaner, LogCleanerManager). `engine/log/compaction` does it.
//!
//! Before a round: the log is flushed, its recovery point is durable in the checkpoint file, and the
//! journal has durably forgotten the segments. How far logs are clean stands in Kafka's
//! `cleaner-offset-checkpoint` of each log directory, which shard 0 writes; a lost entry costs one
//! more round.
//!
//! A log with a damaged batch is left alone until the next start. The dynamic keys hold from the next
//! round on; each shard has its share of `log.cleaner.dedupe.buffer.size` and of
//! `log.cleaner.io.max.bytes.per.second`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use ringlog_engine::log::checkpoint::{self, CLEANER_OFFSET_FILE, OffsetEntry};
use ringlog_engine::log::{CleanerSettings, CompactionLimits, Dirt, LogError};
use uuid::Uuid;

use crate::config::keys::{self, Value};
use crate::metadata::checkpoints;
use crate::partition::Partition;
use crate::shard::Shard;

/// Partitions that are looked at before other tasks of the shard have a turn.
const LOOKED_AT_ONCE: usize = 64;

/// How far partitions are clean, by topic id and number; a topic of the same name is another one.
type Points = BTreeMap<(Uuid, i32), i64>;

/// What `cleaner-offset-checkpoint` files hold, on shard 0: by log directory.
pub type Checkpoints = BTreeMap<PathBuf, Points>;

/// Compacts the shard's partitions until it stops.
pub async fn run(shard: Rc<Shard>) {
    if !shard.broker.config.settings.boolean("log.cleaner.enable") {
        return;
    }
    let mut cleaner = Cleaner {
        points: Points::new(),
        refused: BTreeSet::new(),
        shard: shard.clone(),
    };
    let known = shard.on(0, |first| async move { known_points(&first).await });
    cleaner.points = known.await.unwrap_or_default();
    while !shard.is_stopping() {
        if !cleaner.clean_dirtiest().await {
            let backoff_ms = cleaner.setting("log.cleaner.backoff.ms");
            let backoff = Duration::from_millis(backoff_ms.max(1.0) as u64);
            shard.io.sleep(backoff).await;
        }
    }
}

/// The cleaner of a shard.
struct Cleaner {
    shard: Rc<Shard>,
    points: Points,
    /// Logs that cannot be compacted.
    refused: BTreeSet<(Uuid, i32)>,
}

impl Cleaner {
    /// The value in force of a key with a number.
    fn setting(&self, name: &str) -> f64 {
        let image = self.shard.image();
        let settings = image.settings(&self.shard.broker.config.settings);
        match keys::find(name).and_then(|key| settings.get(key)) {
            Some(setting) => match setting.value {
                Value::Integer(number) => number as f64,
                Value::Double(number) => number,
                _ => 0.0,
            },
            None => 0.0,
        }
    }

    /// One round over the dirtiest log, if one is dirty enough. Whether something was compacted.
    async fn clean_dirtiest(&mut self) -> bool {
        let mut dirtiest: Option<(Rc<Partition>, Dirt)> = None;
        for (count, partition) in self.shard.partitions().into_iter().enumerate() {
            if count % LOOKED_AT_ONCE == LOOKED_AT_ONCE - 1 {
                self.shard.io.yield_now().await;
            }
            let config = partition.topic().config.clone();
            let key = key(&partition);
            let is_open = partition.log.poisoned().is_none();
            if !config.cleanup_policy.compact || self.refused.contains(&key) || !is_open {
                continue;
            }
            let limits = CompactionLimits {
                clean_to: self.points.get(&key).copied(),
                high_watermark: partition.high_watermark().offset,
                now_ms: self.shard.io.wall_ms(),
                lag_ms_min: config.min_compaction_lag_ms,
                lag_ms_max: config.max_compaction_lag_ms,
            };
            match partition.log.dirt(&limits).await {
                Ok(Some(dirt)) if dirt.is_due(config.min_cleanable_dirty_ratio) => {
                    let is_dirtier = |best: &(Rc<Partition>, Dirt)| dirt.ratio() > best.1.ratio();
                    if dirtiest.as_ref().is_none_or(is_dirtier) {
                        dirtiest = Some((partition, dirt));
                    }
                }
                Ok(_) => {}
                Err(error) => self.tell(&partition, &error),
            }
        }
        let Some((partition, dirt)) = dirtiest else {
            return false;
        };
        match self.clean(&partition, &dirt).await {
            Ok(is_done) => is_done,
            Err(error) => {
                self.tell(&partition, &error);
                false
            }
        }
    }

    fn tell(&mut self, partition: &Rc<Partition>, error: &LogError) {
        // A log that is closed or deleted meanwhile refuses.
        if self.shard.is_stopping() || !self.shard.has(partition) {
            return;
        }
        let (name, index) = (partition.topic().name.clone(), partition.index);
        log::error!("Compacting {name}-{index}: {error}");
        if matches!(
            error,
            LogError::Corrupt { .. } | LogError::InvalidBatch { .. }
        ) {
            log::error!("{name}-{index} is not compacted any more until the next start");
            self.refused.insert(key(partition));
        }
    }

    async fn clean(&mut self, partition: &Rc<Partition>, dirt: &Dirt) -> Result<bool, LogError> {
        let (shard, log) = (self.shard.clone(), &partition.log);
        log.flush().await?;
        let id = partition.topic().id;
        let name = (partition.topic().name.clone(), partition.index);
        let point = (name.clone(), id, log.recovery_point());
        // Only then a gap above it is known to be a loss.
        if !checkpoints::record_recovery_points(&shard, vec![point]).await {
            return Ok(false);
        }
        if let Some(journal) = shard.journal() {
            let lsn = journal.append_forget(id, partition.index, dirt.first_uncleanable);
            let is_durable = match lsn {
                Ok(lsn) => journal.durable(lsn).await,
                Err(error) => Err(error),
            };
            if let Err(error) = is_durable {
                log::error!("Compacting {}-{}: {error}", name.0, name.1);
                return Ok(false);
            }
        }
        let settings = self.cleaner_settings(partition);
        let producers = partition.producers().borrow().last_records();
        let Some(done) = log.compact(dirt, &settings, &producers).await? else {
            return Ok(false);
        };
        log::info!(
            "Compacted {}-{} up to offset {}: {} segments of {} bytes are {} of {} bytes now{}",
            name.0,
            name.1,
            done.clean_to,
            done.segments.0,
            done.bytes.0,
            done.segments.1,
            done.bytes.1,
            if done.is_partial {
                ", and another round follows: the map of keys was full"
            } else {
                ""
            }
        );
        self.points.insert(key(partition), done.clean_to);
        let directory = log.directory();
        let place = directory.parent().unwrap_or(&directory).to_owned();
        let (at, clean_to) = (key(partition), done.clean_to);
        let noted = shard.on(0, move |first| async move {
            note_point(&first, &place, at, clean_to).await;
        });
        // The broker stops: the next start compacts again.
        let _ = noted.await;
        let delay_ms = partition.topic().config.file_delete_delay_ms;
        let delay = Duration::from_millis(u64::try_from(delay_ms).unwrap_or(0));
        let io = shard.io.clone();
        shard.io.spawn(async move {
            io.sleep(delay).await;
            for deleted in done.deleted {
                if let Err(error) = deleted.remove_files(&io).await {
                    log::error!("Removing old segments: {error}; the next start tries again");
                }
            }
        });
        Ok(true)
    }

    fn cleaner_settings(&self, partition: &Partition) -> CleanerSettings {
        let shards = self.shard.shard_count() as f64;
        let rate = self.setting("log.cleaner.io.max.bytes.per.second");
        CleanerSettings {
            now_ms: self.shard.io.wall_ms(),
            delete_retention_ms: partition.topic().config.delete_retention_ms,
            map_bytes: (self.setting("log.cleaner.dedupe.buffer.size") / shards) as u64,
            map_load_factor: self.setting("log.cleaner.io.buffer.load.factor"),
            chunk_bytes: self.setting("log.cleaner.io.buffer.size") as usize,
            bytes_per_second: (rate < f64::MAX).then_some(rate / shards),
            salt: self.shard.random.borrow_mut().u64(..),
        }
    }
}

fn key(partition: &Partition) -> (Uuid, i32) {
    (partition.topic().id, partition.index)
}

// ---- cleaner-offset-checkpoint, on shard 0 -------------------------------------------------------

/// All points of all log directories.
async fn known_points(first: &Rc<Shard>) -> Points {
    load(first).await;
    let checkpoints = first.cleaner_checkpoints.borrow();
    let points = checkpoints.iter().flat_map(Checkpoints::values);
    points
        .flatten()
        .map(|(key, offset)| (*key, *offset))
        .collect()
}

/// Reads the files, once. What cannot be read costs a round.
async fn load(first: &Rc<Shard>) {
    if first.cleaner_checkpoints.borrow().is_some() {
        return;
    }
    let image = first.image();
    let mut checkpoints = Checkpoints::new();
    for directory in &first.broker.config.log_dirs {
        let path = directory.join(CLEANER_OFFSET_FILE);
        let entries = match checkpoint::read_offsets(&first.io, &path).await {
            Ok(entries) => entries,
            Err(error) => {
                log::warn!("{error}; compaction begins anew");
                Vec::new()
            }
        };
        let point = |entry: OffsetEntry| {
            let id = image.topic(&entry.topic)?.id;
            Some(((id, entry.partition), entry.offset))
        };
        let points = entries.into_iter().filter_map(point).collect();
        checkpoints.insert(directory.clone(), points);
    }
    // Another shard may have been as quick; it has read the same.
    let mut known = first.cleaner_checkpoints.borrow_mut();
    known.get_or_insert(checkpoints);
}

/// Takes note of how far a log is clean, and writes the file of its log directory.
async fn note_point(first: &Rc<Shard>, directory: &Path, key: (Uuid, i32), clean_to: i64) {
    load(first).await;
    let _turn = first.cleaner_turn.enter().await;
    let names: BTreeMap<Uuid, String> = {
        let image = first.image();
        let topics = image.topics();
        topics.map(|topic| (topic.id, topic.name.clone())).collect()
    };
    let entries: Vec<OffsetEntry> = {
        let mut checkpoints = first.cleaner_checkpoints.borrow_mut();
        let checkpoints = checkpoints.get_or_insert_default();
        let points = checkpoints.entry(directory.to_owned()).or_default();
        points.insert(key, clean_to);
        // Topics that are gone go from the file, too.
        points.retain(|(id, _), _| names.contains_key(id));
        let entry = |((id, partition), offset): (&(Uuid, i32), &i64)| OffsetEntry {
            topic: names[id].clone(),
            partition: *partition,
            offset: *offset,
        };
        points.iter().map(entry).collect()
    };
    let path = directory.join(CLEANER_OFFSET_FILE);
    if let Err(error) = checkpoint::write_offsets(&first.io, &path, &entries).await {
        // Not fatal: the next start compacts again.
        log::error!("Writing how far logs are clean: {error}");
    }
}
