//! Retention of a shard's partitions: every `log.retention.check.interval.ms`, and at once when a
//! topic's settings change, the segments that are too many, too old, or below the log start offset
//! go. `engine/log/retention` says which and how.
//!
//! In this order, so that no crash brings back what was seen to be gone, leaves a hole, or forgets a
//! producer: a snapshot of the idempotent producers is durable, and all that it knows; the new log
//! start offsets are durable in Kafka's checkpoint file; the logs take them over; the journal has
//! durably forgotten the segments (replay would bring them back); their files are renamed to
//! `.deleted`, and removed after `file.delete.delay.ms`.
//!
//! A full disk takes no checkpoint file. Then the segments are synced, forgotten and renamed first, and
//! only when that is durable the log begins behind them for everybody.
//!
//! A wall clock that jumps ahead makes everything old at once. Retention by time pauses for
//! [`DOUBT`] then; if the clock still says so, it is believed.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future;
use ringlog_engine::clock::Instant;
use ringlog_engine::log::{Due, Retention};

use crate::boot;
use crate::metadata::checkpoints;
use crate::partition::Partition;
use crate::shard::Shard;

/// Partitions that are looked at before other tasks of the shard have a turn.
const LOOKED_AT_ONCE: usize = 64;
/// How far the wall clock may run ahead of the monotonic one between two looks: more than any slew,
/// and than local time taken for UTC by a daylight saving hour.
const JUMP_MS: i64 = 2 * 60 * 60 * 1000;
/// A disk with less room is full: checkpoint files and snapshots could not be written.
const CHECKPOINT_BYTES: u64 = 1 << 20;
/// How long a clock that has jumped is not believed.
const DOUBT: Duration = Duration::from_secs(60 * 60);

/// Looks after the partitions of the shard until it stops.
pub async fn run(shard: Rc<Shard>) {
    let settings = &shard.broker.config.settings;
    let interval_ms = settings.integer("log.retention.check.interval.ms");
    let interval_ms = interval_ms.and_then(|ms| u64::try_from(ms).ok());
    let interval = Duration::from_millis(interval_ms.unwrap_or(300_000));
    let mut clock = TrustedClock::default();
    // A jump before the first look is one, too.
    clock.look(shard.io.now(), shard.io.wall_ms());
    while !shard.is_stopping() {
        let changed = pin!(shard.retention_changed.notified());
        future::select(changed, shard.io.sleep(interval)).await;
        let now_ms = clock.look(shard.io.now(), shard.io.wall_ms());
        look(&shard, now_ms).await;
    }
}

/// One look at all partitions; without `now_ms` nothing is too old.
async fn look(shard: &Rc<Shard>, now_ms: Option<i64>) {
    let mut due = Vec::new();
    for (count, partition) in shard.partitions().into_iter().enumerate() {
        if count % LOOKED_AT_ONCE == LOOKED_AT_ONCE - 1 {
            shard.io.yield_now().await;
        }
        let found = match what_is_due(&partition, now_ms).await {
            Ok(Some(found)) => found,
            Ok(None) => continue,
            Err(error) => {
                tell(shard, &partition, &error);
                continue;
            }
        };
        match keep_producers(shard, &partition).await {
            Ok(()) => due.push((partition, found)),
            // Only a producer that has been silent since then could be forgotten by a crash.
            Err(error) if is_disk_full(shard, &[(partition.clone(), found)]).await => {
                if let Some(found) = but_the_newest(&partition, found) {
                    log::warn!("Retention goes on without a {error}");
                    due.push((partition, found));
                }
            }
            Err(error) => tell(shard, &partition, &error),
        }
    }
    // The records go for everybody once this is written: one write for all partitions.
    let raised = |(partition, due): &(Rc<Partition>, Due)| {
        let topic = partition.topic();
        let key = (topic.name.clone(), partition.index);
        (due.offset > partition.log.log_start_offset()).then_some((key, topic.id, due.offset))
    };
    let starts: Vec<_> = due.iter().filter_map(raised).collect();
    let mut delay = Delay::OfTopic;
    if !starts.is_empty()
        && let Err(refusal) = checkpoints::raise_log_starts(shard, starts).await
    {
        log::warn!("Retention: {}", refusal.message);
        // At a stop shard 0 may have ended before: then nothing goes.
        if shard.is_stopping() || !is_disk_full(shard, &due).await {
            return;
        }
        // The file only repeats what the first segment that stays says, once the others have gone
        // durably: whole segments may go without it, and make the room that it needs.
        log::warn!("Retention: the disk is full, old segments go first and at once");
        delay = Delay::None;
    }
    for (partition, due) in due {
        if !shard.has(&partition) {
            continue;
        }
        log::info!(
            "{}-{}: deleting {} segments of {} bytes, the log begins at offset {} then",
            partition.topic().name,
            partition.index,
            due.segments,
            due.bytes,
            due.offset
        );
        if let Err(error) = raise_after(shard, &partition, due.offset, delay).await {
            tell(shard, &partition, &error);
        }
    }
}

/// Whether the log directories of what is due have no room for a checkpoint file.
async fn is_disk_full(shard: &Shard, due: &[(Rc<Partition>, Due)]) -> bool {
    for (partition, _) in due {
        let volume = shard.io.volume(&partition.log.directory()).await;
        if volume.is_ok_and(|volume| volume.usable_bytes < CHECKPOINT_BYTES) {
            return true;
        }
    }
    false
}

fn tell(shard: &Shard, partition: &Rc<Partition>, error: &str) {
    // A log that is closed or deleted meanwhile refuses.
    if shard.is_stopping() || !shard.has(partition) {
        return;
    }
    let (name, index) = (partition.topic().name.clone(), partition.index);
    log::error!("Deleting old segments of {name}-{index}: {error}");
}

/// What may go by the settings in force. An active segment of which all may go is rolled here.
async fn what_is_due(partition: &Partition, now_ms: Option<i64>) -> Result<Option<Due>, String> {
    let config = partition.topic().config.clone();
    let deletes = config.cleanup_policy.delete;
    let oldest = |(now_ms, retention_ms): (i64, i64)| now_ms.saturating_sub(retention_ms);
    let keep = Retention {
        bytes_max: config.retention_bytes.filter(|_| deletes),
        oldest_ms: now_ms
            .zip(config.retention_ms.filter(|_| deletes))
            .map(oldest),
        high_watermark: partition.high_watermark().offset,
    };
    let failed = |error: ringlog_engine::log::LogError| error.to_string();
    let due = partition.log.due_segments(&keep).await.map_err(failed)?;
    let Some(end) = due.and_then(|due| due.roll) else {
        return Ok(due);
    };
    if partition.log.poisoned().is_none() {
        // Not if something has been appended meanwhile: the next look judges that.
        let rolled = partition.log.roll_segment_at(end).await.map_err(failed)?;
        return Ok(due.filter(|_| rolled));
    }
    // It takes no appends, and its last segment stays.
    Ok(due.and_then(|due| but_the_newest(partition, due)))
}

/// The same without the newest segment that has records.
fn but_the_newest(partition: &Partition, due: Due) -> Option<Due> {
    let segments = partition.log.segments();
    let newest = segments.iter().rfind(|segment| segment.size > 0)?;
    if due.offset <= newest.base_offset {
        return Some(due);
    }
    (due.segments > 1).then(|| Due {
        offset: newest.base_offset,
        segments: due.segments - 1,
        bytes: due.bytes.saturating_sub(newest.size.into()),
        roll: None,
    })
}

/// Before a log start offset is raised, durably or not: a retry of what goes must still be known
/// after a crash, though a start finds producers only in a snapshot and from the log start offset on.
///
/// # Errors
/// What kept the snapshot from being durable: then the log start offset must stay.
pub async fn keep_producers(shard: &Rc<Shard>, partition: &Partition) -> Result<(), String> {
    if partition.producers().borrow().is_empty() {
        return Ok(());
    }
    let written = boot::write_durable_snapshot(shard, partition).await;
    written.map_err(|error| format!("producer snapshot: {error}"))?;
    // A snapshot above the end of the recovered log would not be believed.
    if let Some(lsn) = shard.newest_undurable() {
        shard.durable(lsn).await.map_err(|error| error.0)?;
    }
    Ok(())
}

/// Raises the log start offset, which is durable in the checkpoint file already, and deletes the
/// segments below it. An error is one of the deletion: the records are gone for everybody.
///
/// # Errors
/// What kept segments from being deleted; a later look tries again.
pub async fn raise(
    shard: &Rc<Shard>,
    partition: &Rc<Partition>,
    offset: i64,
) -> Result<(), String> {
    raise_after(shard, partition, offset, Delay::OfTopic).await
}

/// When the files of what was deleted go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delay {
    /// After `file.delete.delay.ms`.
    OfTopic,
    /// At once: somebody needs the room, and the checkpoint file could not be written.
    None,
}

async fn raise_after(
    shard: &Rc<Shard>,
    partition: &Rc<Partition>,
    offset: i64,
    delay: Delay,
) -> Result<(), String> {
    let log = &partition.log;
    // A crash may leave the segments in place after the journal has forgotten them.
    if delay == Delay::None
        && let Some(journal) = shard.journal()
    {
        if let Some(reason) = journal.poisoned() {
            return Err(reason);
        }
        log.flush().await.map_err(|error| error.to_string())?;
    }
    // Without the checkpoint file nothing but that they are gone says durably where the log begins, and
    // they may not go after all: the deletion raises it then, at its end (tests/sim, seed 20856).
    if delay == Delay::OfTopic {
        let raised = log.set_log_start_offset(offset);
        raised.map_err(|error| error.to_string())?;
    }
    let start = offset.max(log.log_start_offset());
    let bases: Vec<i64> = log.segments().iter().map(|s| s.base_offset).collect();
    let first_kept = bases.iter().copied().filter(|base| *base <= start).max();
    let Some(first_kept) = first_kept.filter(|kept| bases.first() < Some(kept)) else {
        return Ok(());
    };
    if let Some(journal) = shard.journal() {
        let topic_id = partition.topic().id;
        let lsn = journal.append_forget(topic_id, partition.index, first_kept);
        let lsn = lsn.map_err(|error| error.to_string())?;
        let durable = journal.durable(lsn).await;
        durable.map_err(|error| error.to_string())?;
    }
    // Not by the log start offset: a roll meanwhile must not let more go than was forgotten.
    let deleted = log.delete_old_segments(first_kept).await;
    let deleted = deleted.map_err(|error| error.to_string())?;
    let delay_ms = match delay {
        Delay::OfTopic => partition.topic().config.file_delete_delay_ms,
        Delay::None => 0,
    };
    let delay = Duration::from_millis(u64::try_from(delay_ms).unwrap_or(0));
    let io = shard.io.clone();
    shard.io.spawn(async move {
        io.sleep(delay).await;
        if let Err(error) = deleted.remove_files(&io).await {
            log::error!("Removing old segments: {error}; the next start tries again");
        }
    });
    Ok(())
}

/// The wall clock, as far as it agrees with the monotonic one.
#[derive(Default)]
struct TrustedClock {
    /// Wall clock less monotonic time, as last believed.
    difference_ms: Option<i64>,
    doubted_since: Option<Instant>,
}

impl TrustedClock {
    /// The time for retention; `None` while the wall clock is not believed.
    fn look(&mut self, now: Instant, wall_ms: i64) -> Option<i64> {
        let monotonic_ms = i64::try_from(now.0 / 1_000_000).unwrap_or(i64::MAX);
        let difference = wall_ms.saturating_sub(monotonic_ms);
        let believed = *self.difference_ms.get_or_insert(difference);
        if difference.saturating_sub(believed) <= JUMP_MS {
            self.doubted_since = None;
        } else {
            let ahead_ms = difference.saturating_sub(believed);
            let since = *self.doubted_since.get_or_insert_with(|| {
                log::warn!(
                    "The wall clock has jumped ahead by {ahead_ms} ms: for {} minutes no segment \
                     is deleted for its age; set the clock right, or do nothing if it is right now",
                    DOUBT.as_secs() / 60
                );
                now
            });
            if now.since(since) < DOUBT {
                return None;
            }
            self.doubted_since = None;
        }
        self.difference_ms = Some(difference);
        Some(wall_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 60 * 60 * 1000;

    fn at(milliseconds: i64) -> Instant {
        Instant(u64::try_from(milliseconds).unwrap() * 1_000_000)
    }

    #[test]
    fn a_clock_that_jumps_ahead_is_believed_after_a_while_only() {
        let mut clock = TrustedClock::default();
        let start = 1_700_000_000_000;
        assert_eq!(clock.look(at(5), start), Some(start));
        // Slewed, set back, and set right again.
        assert_eq!(clock.look(at(1005), start + 1010), Some(start + 1010));
        assert_eq!(clock.look(at(2005), start - HOUR_MS), Some(start - HOUR_MS));
        assert_eq!(clock.look(at(3005), start + 3000), Some(start + 3000));
        let jump = 30 * 24 * HOUR_MS;
        for minute in 0..60 {
            let passed = 4005 + minute * 60_000;
            assert_eq!(clock.look(at(passed), start + passed + jump), None);
        }
        let passed = 4005 + HOUR_MS;
        let wall = start + passed + jump;
        assert_eq!(clock.look(at(passed), wall), Some(wall));
        assert_eq!(clock.look(at(passed + 1), wall + 1), Some(wall + 1));
        // A jump that is taken back in time deletes nothing.
        assert_eq!(clock.look(at(passed + 2), wall + jump), None);
        assert_eq!(clock.look(at(passed + 3), wall + 3), Some(wall + 3));
    }
}
