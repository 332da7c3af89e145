//! Kafka's checkpoint files: up to where each log is durable, and where it begins. Lives on shard 0,
//! as all of [`super::store`]; any shard may tell.
//!
//! What is told comes with the topic's id: it may have been on its way while the topic was deleted and
//! created again, and the new one's log ends below it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use ringlog_engine::io::Io;
use ringlog_engine::log::LogError;
use ringlog_engine::log::checkpoint::{
    self, LOG_START_OFFSET_FILE, OffsetEntry, RECOVERY_POINT_FILE,
};
use uuid::Uuid;

use super::controller::Refusal;
use super::store::{Store, gone, storage_error};
use crate::boot::{FoundPartition, checkpoint_entry};
use crate::shard::{Shard, ShardGone};
use crate::turnstile::Turn;

impl Store {
    /// No checkpoint file is written from here on: the end of the broker writes them itself.
    pub async fn end_checkpoints(&self) {
        let _turn = self.checkpoints.enter().await;
        self.has_ended.set(true);
    }

    /// The turn to write checkpoint files; none if the broker ends.
    async fn checkpoint_turn(&self) -> Option<Turn<'_>> {
        let turn = self.checkpoints.enter().await;
        (!self.has_ended.get()).then_some(turn)
    }

    fn all_places(&self) -> BTreeSet<usize> {
        (0..self.directories.len()).collect()
    }

    /// Takes note of the log start offsets and recovery points that were found: who is deleted must
    /// take his along.
    pub fn know_checkpoints(&self, found: &BTreeMap<(String, i32), FoundPartition>) {
        let start = |(key, found): (&(String, i32), &FoundPartition)| {
            Some((key.clone(), found.opening?.log_start_offset?))
        };
        let starts = found.iter().filter_map(start);
        self.log_starts.borrow_mut().extend(starts);
        let point = |(key, found): (&(String, i32), &FoundPartition)| {
            let point = found.opening?.recovery_point;
            (point > 0).then(|| (key.clone(), point))
        };
        let points = found.iter().filter_map(point);
        self.recovery_points.borrow_mut().extend(points);
    }
}

/// Writes log start offsets to Kafka's checkpoint file; at return they are durable. They never go
/// down. The caller raises those of the logs then, and not before: what a crash would undo was
/// never seen.
///
/// # Errors
/// KAFKA_STORAGE_ERROR if they could not be written.
pub async fn raise_log_starts(
    shard: &Rc<Shard>,
    starts: Vec<((String, i32), Uuid, i64)>,
) -> Result<(), Refusal> {
    let job = move |shard: Rc<Shard>| async move {
        let store = shard.store();
        let Some(_turn) = store.checkpoint_turn().await else {
            return Err(gone(ShardGone));
        };
        // The other log directories may be full, and theirs say what they said.
        let mut touched = BTreeSet::new();
        let mut before = Vec::new();
        {
            let mut known = store.log_starts.borrow_mut();
            for (key, id, offset) in starts {
                if store.topic_id(&key.0) == Some(id) {
                    touched.extend(store.places.borrow().get(&key));
                    let start = known.entry(key.clone()).or_default();
                    before.push((key, *start));
                    *start = offset.max(*start);
                }
            }
        }
        let written = write_log_starts(&shard.io, &store, &touched).await;
        if written.is_err() {
            // What was refused must not come true with the next write. Who was deleted meanwhile is gone.
            let mut known = store.log_starts.borrow_mut();
            for (key, start) in before.into_iter().rev() {
                match start {
                    0 => drop(known.remove(&key)),
                    _ => drop(known.entry(key).and_modify(|known| *known = start)),
                }
            }
        }
        written.map_err(|error| storage_error(error.to_string()))
    };
    shard.on(0, job).await.map_err(gone)?
}

/// A new partition must not get the checkpoints of a deleted one of its name: its records would
/// count as damage after a crash.
///
/// # Errors
/// KAFKA_STORAGE_ERROR if they could not be written: no partition may be made then.
pub(super) async fn drop_stale(io: &Io, store: &Store) -> Result<(), Refusal> {
    if !store.has_stale_checkpoints.get() {
        return Ok(());
    }
    let Some(_turn) = store.checkpoint_turn().await else {
        return Err(gone(ShardGone));
    };
    let points = write_recovery_points(io, store).await;
    let starts = write_log_starts(io, store, &store.all_places()).await;
    points
        .and(starts)
        .map_err(|error| storage_error(error.to_string()))?;
    store.has_stale_checkpoints.set(false);
    Ok(())
}

/// Takes note of how far the logs of a shard are durable, and writes Kafka's checkpoint files.
/// Whether the file is durable now; else that is told, and the next recovery reads more than it would
/// have to.
pub async fn record_recovery_points(
    shard: &Rc<Shard>,
    points: Vec<((String, i32), Uuid, i64)>,
) -> bool {
    let job = move |shard: Rc<Shard>| async move {
        let store = shard.store();
        {
            let mut known = store.recovery_points.borrow_mut();
            for (key, id, point) in points {
                if store.topic_id(&key.0) == Some(id) {
                    known.insert(key, point);
                }
            }
        }
        // At its end the broker writes them itself.
        let Some(_turn) = store.checkpoint_turn().await else {
            return false;
        };
        let written = write_recovery_points(&shard.io, &store).await;
        if let Err(error) = &written {
            log::error!("Writing recovery points: {error}");
        }
        written.is_ok()
    };
    // Not if the broker stops: its end writes them.
    shard.on(0, job).await.unwrap_or(false)
}

async fn write_recovery_points(io: &Io, store: &Store) -> Result<(), LogError> {
    let (points, places) = (&store.recovery_points, store.all_places());
    write_checkpoints(io, store, &places, RECOVERY_POINT_FILE, points).await
}

async fn write_log_starts(
    io: &Io,
    store: &Store,
    places: &BTreeSet<usize>,
) -> Result<(), LogError> {
    write_checkpoints(io, store, places, LOG_START_OFFSET_FILE, &store.log_starts).await
}

async fn write_checkpoints(
    io: &Io,
    store: &Store,
    places: &BTreeSet<usize>,
    file: &str,
    offsets: &RefCell<BTreeMap<(String, i32), i64>>,
) -> Result<(), LogError> {
    for place in places.iter().copied() {
        let directory = &store.directories[place];
        let entries: Vec<OffsetEntry> = {
            let (places, offsets) = (store.places.borrow(), offsets.borrow());
            let here = offsets
                .iter()
                .filter(|(key, _)| places.get(key) == Some(&place));
            here.map(checkpoint_entry).collect()
        };
        checkpoint::write_offsets(io, &directory.join(file), &entries).await?;
    }
    Ok(())
}
