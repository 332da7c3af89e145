//! A shard's partitions at its start: opened, recovered where that is needed, made where they are
//! missing; and the producers of each, from its snapshots and its log.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use ringlog_engine::io::{File, OpenMode};
use ringlog_engine::log::directory::{SegmentFileKind, SegmentFileName, segment_path};
use ringlog_engine::log::{Log, SegmentFiles};

use super::{FoundPartition, explain_in_line};
use crate::group::driver;
use crate::metadata::checkpoints;
use crate::metadata::state::{GROUP_TOPIC, Topic};
use crate::metadata::store;
use crate::partition::{Partition, log_config};
use crate::producer_state::ProducerState;
use crate::scrub::tell_damage;
use crate::shard::Shard;

/// Partitions that are opened at the same time on one shard.
const OPENED_AT_ONCE: usize = 64;
/// Largest producer snapshot that is read.
const SNAPSHOT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A partition that is still to be opened.
type Unopened = (Arc<Topic>, FoundPartition);
/// Those of a shard.
type Pending = BTreeMap<(String, i32), Unopened>;

/// Begins to open the partitions of a shard, and takes each into service as soon as it is recovered;
/// requests for the others wait, and what is asked for is opened first. One that cannot be opened is told
/// of and answers with errors.
pub fn open_partitions(shard: &Rc<Shard>, partitions: &BTreeMap<(String, i32), FoundPartition>) {
    let image = shard.image();
    let mut pending = Pending::new();
    for (key, found) in partitions {
        let topic = image.topic(&key.0);
        if let Some(topic) = topic.filter(|_| shard.owner(&key.0, key.1) == shard.id) {
            pending.insert(key.clone(), (topic.clone(), found.clone()));
        }
    }
    shard.openings.begin(pending.keys().cloned());
    let pending = Rc::new(RefCell::new(pending));
    for _ in 0..OPENED_AT_ONCE.min(pending.borrow().len()) {
        let (opener, pending) = (shard.clone(), pending.clone());
        shard.io.spawn(async move {
            while let Some((key, (topic, found))) = next(&opener, &pending) {
                if let Err(error) = open(&opener, &topic, key.1, &found).await {
                    log::error!("Partition {}-{} is not served: {error}", key.0, key.1);
                    opener.openings.could_not_open(&key, found.opening);
                }
                opener.openings.end(&key);
            }
        });
    }
}

/// One that somebody waits for, else the first.
fn next(shard: &Shard, pending: &RefCell<Pending>) -> Option<((String, i32), Unopened)> {
    let mut pending = pending.borrow_mut();
    while let Some(wanted) = shard.openings.next_wanted() {
        if let Some(found) = pending.remove_entry(&wanted) {
            return Some(found);
        }
    }
    pending.pop_first()
}

async fn open(
    shard: &Rc<Shard>,
    topic: &Arc<Topic>,
    index: i32,
    found: &FoundPartition,
) -> Result<(), String> {
    let Some(opening) = found.opening else {
        return store::open_new(shard, topic.clone(), index, &found.directory).await;
    };
    let mut config = log_config(topic, index);
    config.is_compacted |= found.has_gaps;
    let (log, recovery) = Log::open(
        &shard.files,
        &found.directory,
        config,
        opening,
        &mut |_, _| {},
    )
    .await
    .map_err(explain_in_line)?;
    if let Some(cut) = &recovery.truncated {
        log::warn!(
            "{}-{index}: cut {} bytes of {} from byte {} on ({}); the log ends at offset {}",
            topic.name,
            cut.bytes,
            cut.file.display(),
            cut.position,
            cut.reason,
            cut.offset
        );
    }
    // What was recovered from the page cache alone must not be lost by the next crash.
    if shard.journal().is_some() && !opening.clean {
        log.rewrite_unsynced().await.map_err(explain_in_line)?;
    }
    log.flush().await.map_err(explain_in_line)?;
    if found.has_gaps && !opening.clean && !opening.compacts_below_recovery_point {
        // The next start may not know any more that it may have gaps.
        let point = ((topic.name.clone(), index), topic.id, log.recovery_point());
        if !checkpoints::record_recovery_points(shard, vec![point]).await {
            return Err("its recovery point cannot be written".to_owned());
        }
    }
    log.set_config(log_config(topic, index));
    let producers = if opening.clean && log.log_end_offset() == 0 {
        ProducerState::default()
    } else {
        rebuild_producers(&shard.files, &log).await?
    };
    // Its settings may have been changed meanwhile.
    let topic = shard
        .image()
        .topic(&topic.name)
        .cloned()
        .unwrap_or(topic.clone());
    let epoch = shard.image().leader_epoch(topic.id, index);
    let partition = Partition::new(topic.clone(), index, epoch, log, producers);
    tell_damage(&partition);
    shard.add_partition(partition.clone());
    if topic.name == GROUP_TOPIC {
        driver::load(shard, &partition).await;
    }
    Ok(())
}

/// The newest snapshot that can be read, and the log behind it.
async fn rebuild_producers(files: &SegmentFiles, log: &Log) -> Result<ProducerState, String> {
    let io = files.io();
    let directory = log.directory();
    let entries = io
        .list_directory(&directory)
        .await
        .map_err(|error| error.to_string())?;
    let mut offsets: Vec<i64> = entries
        .iter()
        .filter_map(|entry| SegmentFileName::parse(&entry.name))
        .filter(|name| name.kind == SegmentFileKind::Snapshot && name.pending.is_none())
        .map(|name| name.offset)
        .collect();
    offsets.sort_unstable_by(|a, b| b.cmp(a));
    // Those above the end know records that a crash has lost: others will have these offsets.
    let lost = offsets
        .iter()
        .filter(|offset| **offset > log.log_end_offset());
    for offset in lost {
        let path = segment_path(&directory, *offset, SegmentFileKind::Snapshot);
        let removed = io.remove_file(&path).await;
        removed.map_err(|error| format!("cannot remove {}: {error}", path.display()))?;
    }
    // Those below the start do not know records that a full disk had deleted without a snapshot: their
    // producers could never go on (tests/sim, seed 272). Unknown ones can (Kafka:
    // ProducerStateManager.truncateAndReload).
    let range = log.log_start_offset()..=log.log_end_offset();
    offsets.retain(|offset| range.contains(offset));
    let mut from = log.log_start_offset();
    let mut producers = ProducerState::default();
    for offset in offsets {
        let path = segment_path(&directory, offset, SegmentFileKind::Snapshot);
        let read = io.read_file(&path, SNAPSHOT_BYTES_MAX).await.ok();
        if let Some(state) = read.and_then(|bytes| ProducerState::from_snapshot(&bytes)) {
            producers = state;
            from = from.max(offset);
            break;
        }
    }
    log.visit_batches(from, &mut |header, _| {
        producers.appended(header, header.max_timestamp);
    })
    .await
    .map_err(|error| error.to_string())?;
    Ok(producers)
}

/// Writes the producers of a partition beside its log, for a fast next start; older snapshots go.
/// Not synced: a torn one is recognised, and the log has it all.
pub async fn write_snapshot(shard: &Shard, partition: &Partition) -> std::io::Result<()> {
    let _turn = partition.snapshots.enter().await;
    replace_snapshot(shard, partition).await?;
    Ok(())
}

/// The same, synced: for when records that the snapshot knows are about to go.
pub async fn write_durable_snapshot(shard: &Shard, partition: &Partition) -> std::io::Result<()> {
    let _turn = partition.snapshots.enter().await;
    let file = replace_snapshot(shard, partition).await?;
    shard.io.sync_data(&file).await?;
    shard.io.sync_directory(&partition.log.directory()).await
}

async fn replace_snapshot(shard: &Shard, partition: &Partition) -> std::io::Result<File> {
    let io = &shard.io;
    let directory = partition.log.directory();
    // The state belongs to the end of the log: both are read without an await between.
    let offset = partition.log.log_end_offset();
    let snapshot: Bytes = partition.producers().borrow().snapshot();
    let entries = io.list_directory(&directory).await?;
    let path = segment_path(&directory, offset, SegmentFileKind::Snapshot);
    let file = io.open(&path, OpenMode::Create).await?;
    io.truncate(&file, snapshot.len() as u64).await?;
    io.write_at(&file, vec![snapshot], 0).await?;
    let mut older: Vec<i64> = entries
        .iter()
        .filter_map(|entry| SegmentFileName::parse(&entry.name))
        .filter(|name| name.kind == SegmentFileKind::Snapshot && name.offset < offset)
        .map(|name| name.offset)
        .collect();
    older.sort_unstable();
    older.pop();
    for offset in older {
        io.remove_file(&segment_path(&directory, offset, SegmentFileKind::Snapshot))
            .await?;
    }
    Ok(file)
}
