//! In which epochs Apache Kafka has led the partitions of the log directories: they are led on in those.
//! Nothing is written here, and a partition that Kafka never had is led in epoch 0.

use std::collections::BTreeMap;
use std::path::Path;

use ringlog_engine::io::Io;
use ringlog_engine::log::checkpoint;
use uuid::Uuid;

use super::OnDisk;
use crate::metadata::state::Image;

/// In which epoch a partition was led last. Without the file, or with one that cannot be read, it is 0:
/// the records are served all the same.
pub(super) async fn newest(io: &Io, directory: &Path) -> i32 {
    match checkpoint::read_epochs(io, directory).await {
        Ok(epochs) => epochs.last().map_or(0, |entry| entry.epoch.max(0)),
        Err(error) => {
            log::warn!("{error}; its partition is led in epoch 0");
            0
        }
    }
}

/// Those above 0, by topic id and partition, of the partitions that the topics of the image have.
pub(super) fn of(image: &Image, on_disk: &[OnDisk]) -> BTreeMap<(Uuid, i32), i32> {
    let known = |found: &OnDisk| {
        let topic = image.topic(&found.seen.key.0)?;
        let is_same = found.seen.id.is_none_or(|id| id == topic.id);
        let epoch = Some(found.seen.leader_epoch).filter(|epoch| is_same && *epoch > 0)?;
        Some(((topic.id, found.seen.key.1), epoch))
    };
    on_disk.iter().filter_map(known).collect()
}
