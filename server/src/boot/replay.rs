//! What a crash has left in the journals, into the logs.

use std::collections::BTreeMap;
use std::path::Path;

use ringlog_engine::io::Io;
use ringlog_engine::journal::{self, JournalError, Target};
use uuid::Uuid;

use super::cluster::Cluster;
use super::{OnDisk, REACHABLE};

/// Brings what the journals have into the logs, before any of them is opened.
pub(super) async fn replay(
    io: &Io,
    journal_directory: &Path,
    on_disk: &[OnDisk],
    cluster: &Cluster,
) -> Result<(), String> {
    let mut targets: BTreeMap<(Uuid, i32), Target> = BTreeMap::new();
    for found in on_disk {
        // One that has lost its `partition.metadata` is not to lose its records.
        let Some(id) = found
            .seen
            .id
            .or_else(|| cluster.topic_id(&found.seen.key.0))
        else {
            continue;
        };
        let (key, target) = (
            (id, found.seen.key.1),
            Target {
                directory: found.seen.directory.clone(),
                log_start_offset: found.opening.log_start_offset.unwrap_or(0),
            },
        );
        if let Some(twin) = targets.insert(key, target) {
            return Err(format!(
                "{} and {} are the same partition: move the stale one away",
                twin.directory.display(),
                found.seen.directory.display()
            ));
        }
    }
    let locate = |id: Uuid, index: i32| targets.get(&(id, index)).cloned();
    let report = journal::replay(io, journal_directory, locate).await;
    let report = report.map_err(|error| match error {
        JournalError::Io { .. } => format!("{error}\n   | {REACHABLE}"),
        other => other.to_string(),
    })?;
    for cut in &report.shortened {
        log::warn!(
            "Journal {} is damaged: it ends at byte {}, {} before its end; what may have stood there \
             is lost",
            cut.path.display(),
            cut.position,
            cut.bytes
        );
    }
    for journal in &report.journals {
        log::info!(
            "Replayed the journal of shard {}: {} groups, {} appends, {} bytes",
            journal.shard,
            journal.groups,
            journal.entries,
            journal.bytes
        );
    }
    for damage in &report.damaged {
        log::error!(
            "Journal {} is damaged at byte {}: at least {} bytes that may have been acknowledged \
             are lost",
            damage.path.display(),
            damage.position,
            damage.bytes
        );
    }
    Ok(())
}
