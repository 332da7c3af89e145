//! Carries the controller's decisions out: directories and logs on the owners' shards, the image
//! to all shards. Lives on shard 0; any shard may ask.
//!
//! In this release the topics are those found in the log directories. What has no place there
//! stands in plain files of the first log directory (Apache Kafka ignores plain files):
//! `.ringlog-topics` (settings of topics) and `.ringlog-producer-ids` (the next block of producer
//! ids). Both are replaced atomically and durably before anything that depends on them is answered.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use ringlog_engine::io::Io;
use ringlog_engine::log::LogError;
use ringlog_engine::log::checkpoint::{
    self, LOG_START_OFFSET_FILE, OffsetEntry, RECOVERY_POINT_FILE,
};
use ringlog_engine::log::directory::{self, partition_directory_name};
use uuid::Uuid;

use super::controller::{Controller, Refusal};
use super::doomed::{Doomed, DoomedTopics};
use super::state::{GROUP_TOPIC, Image, Topic};
use crate::boot::checkpoint_entry;
use crate::config::topic::Overrides;
use crate::group::driver;
use crate::partition::{self, Partition};
use crate::producer_state::ProducerState;
use crate::shard::{Shard, ShardGone};
use crate::turnstile::Turnstile;

/// Settings of topics, in the first log directory.
pub const TOPICS_FILE: &str = ".ringlog-topics";
/// The first producer id that was not handed out, in the first log directory.
pub const PRODUCER_IDS_FILE: &str = ".ringlog-producer-ids";
/// Producer ids reserved with one write (Kafka's ProducerIdsBlock.PRODUCER_ID_BLOCK_SIZE).
const PRODUCER_ID_BLOCK: i64 = 1000;
/// Largest of these files that is read.
const FILE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Which log directory has a partition, as an index of the configured ones.
pub type Places = BTreeMap<(String, i32), usize>;

/// The state behind the controller.
pub struct Store {
    pub(super) controller: RefCell<Controller>,
    pub(super) directories: Vec<PathBuf>,
    pub(super) places: RefCell<Places>,
    pub(super) recovery_points: RefCell<BTreeMap<(String, i32), i64>>,
    /// Of the partitions whose log does not begin with offset 0.
    pub(super) log_starts: RefCell<BTreeMap<(String, i32), i64>>,
    /// The checkpoint files may still have partitions that were deleted.
    has_stale_checkpoints: Cell<bool>,
    /// Next producer id, and the end of the block that is reserved on disk.
    producer_ids: Cell<(i64, i64)>,
    /// Taken with the turnstile only.
    doomed: RefCell<DoomedTopics>,
    /// One change at a time.
    pub(super) turnstile: Turnstile,
    /// One write of checkpoint files at a time.
    pub(super) checkpoints: Turnstile,
}

impl Store {
    /// A store that starts from what was found in the directories.
    pub fn new(
        controller: Controller,
        directories: Vec<PathBuf>,
        places: Places,
        producer_id: i64,
    ) -> Store {
        Store {
            controller: RefCell::new(controller),
            directories,
            places: RefCell::new(places),
            recovery_points: RefCell::default(),
            log_starts: RefCell::default(),
            has_stale_checkpoints: Cell::default(),
            producer_ids: Cell::new((producer_id, producer_id)),
            doomed: RefCell::default(),
            turnstile: Turnstile::default(),
            checkpoints: Turnstile::default(),
        }
    }

    /// The log directory with the fewest partitions, as Kafka chooses.
    pub(super) fn emptiest_directory(&self) -> usize {
        let mut counts = vec![0usize; self.directories.len()];
        for place in self.places.borrow().values() {
            counts[*place] += 1;
        }
        let by_count = |index: &usize| counts[*index];
        (0..counts.len()).min_by_key(by_count).unwrap_or(0)
    }
}

pub(super) fn storage_error(message: impl Into<String>) -> Refusal {
    Refusal {
        error: ResponseError::KafkaStorageError,
        message: message.into(),
    }
}

pub(super) fn gone(_: ShardGone) -> Refusal {
    storage_error("the broker is stopping")
}

/// Checks whether a topic could be created.
///
/// # Errors
/// Kafka's error and the reason.
pub async fn validate(shard: &Rc<Shard>, wish: CreatableTopic) -> Result<Arc<Topic>, Refusal> {
    let job = move |shard: Rc<Shard>| async move {
        let store = shard.store();
        store
            .controller
            .borrow()
            .plan_topic(&wish, Uuid::nil())
            .map(Arc::new)
    };
    shard.on(0, job).await.map_err(gone)?
}

/// Creates a topic; at return all its partitions can be produced to.
///
/// # Errors
/// Kafka's error and the reason.
pub async fn create(shard: &Rc<Shard>, wish: CreatableTopic) -> Result<Arc<Topic>, Refusal> {
    shard
        .on(
            0,
            move |shard| async move { create_here(&shard, &wish).await },
        )
        .await
        .map_err(gone)?
}

async fn create_here(shard: &Rc<Shard>, wish: &CreatableTopic) -> Result<Arc<Topic>, Refusal> {
    let store = shard.store();
    let _turn = store.turnstile.enter().await;
    let id = new_topic_id(shard);
    let topic = Arc::new(store.controller.borrow().plan_topic(wish, id)?);
    drop_stale_checkpoints(&shard.io, &store).await?;
    if !topic.overrides.is_empty() {
        write_topics(&shard.io, &store, Some(&topic)).await?;
    }
    // One directory is there or not, of several some may be.
    if topic.partitions > 1 {
        doom(shard, &store, &topic).await?;
    }
    let mut openings = Vec::new();
    for index in 0..topic.partitions {
        let place = store.emptiest_directory();
        store
            .places
            .borrow_mut()
            .insert((topic.name.clone(), index), place);
        let name = partition_directory_name(&topic.name, index);
        let (topic, directory) = (topic.clone(), store.directories[place].join(name));
        let target = shard.owner(&topic.name, index);
        let job =
            move |shard: Rc<Shard>| async move { open_new(&shard, topic, index, &directory).await };
        openings.push(shard.on(target, job));
    }
    let results = future::join_all(openings).await;
    let failed = results.into_iter().find_map(|result| match result {
        Ok(Ok(())) => None,
        Ok(Err(message)) => Some(storage_error(message)),
        Err(gone_shard) => Some(gone(gone_shard)),
    });
    let mut done = failed.map_or(Ok(()), Err);
    if done.is_ok() && topic.partitions > 1 {
        done = spare(shard, &store, &topic).await;
    }
    if let Err(refusal) = done {
        log::error!("Cannot create topic {}: {}", topic.name, refusal.message);
        // It stays doomed: should something be left, the next start removes it.
        remove_partitions(shard, &topic.name, 0..topic.partitions).await;
        return Err(refusal);
    }
    let image = store.controller.borrow_mut().created((*topic).clone());
    publish(shard, &image).await;
    log::info!(
        "Created topic {} with {} partitions, id {}",
        topic.name,
        topic.partitions,
        topic.id
    );
    Ok(topic)
}

/// The topic must be gone after a crash; see [`super::doomed`].
async fn doom(shard: &Shard, store: &Store, topic: &Topic) -> Result<(), Refusal> {
    let doomed = Doomed {
        name: topic.name.clone(),
        id: topic.id,
        first_partition: 0,
    };
    let mut lines = store.doomed.take();
    let written = lines.add(&shard.io, &store.directories[0], doomed).await;
    store.doomed.replace(lines);
    written
}

/// The topic is complete, or completely gone.
async fn spare(shard: &Shard, store: &Store, topic: &Topic) -> Result<(), Refusal> {
    let mut lines = store.doomed.take();
    let written = lines
        .remove(&shard.io, &store.directories[0], topic.id)
        .await;
    store.doomed.replace(lines);
    written
}

fn new_topic_id(shard: &Shard) -> Uuid {
    let bytes = shard.random.borrow_mut().u128(..).to_be_bytes();
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

pub(super) async fn open_new(
    shard: &Rc<Shard>,
    topic: Arc<Topic>,
    index: i32,
    directory: &Path,
) -> Result<(), String> {
    let config = partition::log_config(&topic, index);
    let created = ringlog_engine::log::Log::create(&shard.files, directory, topic.id, config).await;
    let created = match created {
        // The stop has closed the logs that there were; this one it would leave unsynced.
        Ok(_) if shard.is_stopping() => Err("the broker is stopping".to_owned()),
        created => created.map_err(|error| error.to_string()),
    };
    let log = match created {
        Ok(log) => log,
        Err(error) => {
            // Half a partition must not be in the way of the next try.
            let _ = directory::remove_directory_tree(&shard.io, directory).await;
            return Err(error);
        }
    };
    let is_group = topic.name == GROUP_TOPIC;
    let partition = Partition::new(topic, index, log, ProducerState::default());
    shard.add_partition(partition.clone());
    if is_group {
        driver::load(shard, &partition).await;
    }
    Ok(())
}

/// Deletes a topic and gives its id; at return no client finds it any more.
///
/// # Errors
/// Kafka's error and the reason.
pub async fn delete(shard: &Rc<Shard>, name: String) -> Result<Uuid, Refusal> {
    shard
        .on(
            0,
            move |shard| async move { delete_here(&shard, &name).await },
        )
        .await
        .map_err(gone)?
}

async fn delete_here(shard: &Rc<Shard>, name: &str) -> Result<Uuid, Refusal> {
    let store = shard.store();
    let _turn = store.turnstile.enter().await;
    if !shard.broker.config.delete_topic_enable {
        let message = "Topic deletion is disabled (delete.topic.enable).".to_owned();
        return Err(Refusal {
            error: ResponseError::TopicDeletionDisabled,
            message,
        });
    }
    let Some(topic) = store.controller.borrow().image().topic(name).cloned() else {
        let message = "This server does not host this topic-partition.".to_owned();
        return Err(Refusal {
            error: ResponseError::UnknownTopicOrPartition,
            message,
        });
    };
    doom(shard, &store, &topic).await?;
    let image = store.controller.borrow_mut().deleted(name);
    publish(shard, &image).await;
    let is_gone = remove_partitions(shard, &topic.name, 0..topic.partitions).await;
    let forgets = (0..shard.shard_count()).map(|target| {
        let (name, partitions) = (topic.name.clone(), topic.partitions);
        shard.on(target, move |shard: Rc<Shard>| async move {
            driver::partitions_deleted(&shard, &name, partitions);
        })
    });
    future::join_all(forgets).await;
    if !topic.overrides.is_empty() {
        write_topics(&shard.io, &store, None).await?;
    }
    if is_gone {
        // If not, the next start looks for it in vain.
        let _ = spare(shard, &store, &topic).await;
    }
    log::info!("Deleted topic {name}, id {}", topic.id);
    Ok(topic.id)
}

/// Returns whether all of them are gone from the disk.
pub(super) async fn remove_partitions(shard: &Rc<Shard>, name: &str, indexes: Range<i32>) -> bool {
    let store = shard.store();
    let removals = indexes.clone().map(|index| {
        let name = name.to_owned();
        let target = shard.owner(&name, index);
        let job = move |shard: Rc<Shard>| async move { remove_here(&shard, &name, index).await };
        shard.on(target, job)
    });
    let results = future::join_all(removals).await;
    let mut has_checkpoint = false;
    for index in indexes {
        let key = (name.to_owned(), index);
        store.places.borrow_mut().remove(&key);
        has_checkpoint |= store.recovery_points.borrow_mut().remove(&key).is_some();
        has_checkpoint |= store.log_starts.borrow_mut().remove(&key).is_some();
    }
    if has_checkpoint {
        store.has_stale_checkpoints.set(true);
        if let Err(refusal) = drop_stale_checkpoints(&shard.io, &store).await {
            log::error!("Writing checkpoints without {name}: {}", refusal.message);
        }
    }
    results.into_iter().all(|result| result == Ok(true))
}

/// A new partition must not get the checkpoints of a deleted one of its name: its records would
/// count as damage after a crash.
///
/// # Errors
/// KAFKA_STORAGE_ERROR if they could not be written: no partition may be made then.
pub(super) async fn drop_stale_checkpoints(io: &Io, store: &Store) -> Result<(), Refusal> {
    if !store.has_stale_checkpoints.get() {
        return Ok(());
    }
    let _turn = store.checkpoints.enter().await;
    let points = write_recovery_points(io, store).await;
    let starts = write_log_starts(io, store).await;
    points
        .and(starts)
        .map_err(|error| storage_error(error.to_string()))?;
    store.has_stale_checkpoints.set(false);
    Ok(())
}

/// The directory's new name says that it goes; its files go when nobody reads them any more.
async fn remove_here(shard: &Rc<Shard>, name: &str, index: i32) -> bool {
    let Some(partition) = shard.remove_partition(name, index) else {
        return true;
    };
    partition.wake_watchers();
    let topic_id = partition.topic().id;
    if let Some(journal) = shard.journal() {
        // A journal that has failed refuses; then nothing of it is replayed for a topic that is
        // not there any more either.
        let _ = journal.append_forget(topic_id, index, i64::MAX);
    }
    if name == GROUP_TOPIC {
        driver::unload(shard, index);
    }
    let unique = new_topic_id(shard);
    match partition.log.rename_for_delete(unique).await {
        Ok(directory) => {
            let io = shard.io.clone();
            shard.io.spawn(async move {
                let removed = directory::remove_directory_tree(&io, &directory).await;
                if let Err(error) = removed {
                    log::error!("Deleting {}: {error}", directory.display());
                }
            });
            true
        }
        Err(error) => {
            log::error!("Deleting {name}-{index}: {error}");
            false
        }
    }
}

/// Gives the image to all shards; at return all of them answer from it.
pub(super) async fn publish(shard: &Rc<Shard>, image: &Arc<Image>) {
    let publications = (0..shard.shard_count()).map(|target| {
        let image = image.clone();
        shard.on(target, move |shard: Rc<Shard>| async move {
            shard.publish(image);
        })
    });
    future::join_all(publications).await;
}

/// A producer id that was never given before.
///
/// # Errors
/// KAFKA_STORAGE_ERROR if the next block cannot be reserved on disk.
pub async fn next_producer_id(shard: &Rc<Shard>) -> Result<i64, Refusal> {
    let job = |shard: Rc<Shard>| async move {
        let store = shard.store();
        let _turn = store.turnstile.enter().await;
        let (next, end) = store.producer_ids.get();
        if next < end {
            store.producer_ids.set((next + 1, end));
            return Ok(next);
        }
        let end = next + PRODUCER_ID_BLOCK;
        let path = store.directories[0].join(PRODUCER_IDS_FILE);
        let written = shard
            .io
            .replace_file(&path, Bytes::from(format!("{end}\n")))
            .await;
        written.map_err(|error| storage_error(format!("{}: {error}", path.display())))?;
        store.producer_ids.set((next + 1, end));
        Ok(next)
    };
    shard.on(0, job).await.map_err(gone)?
}

/// Takes note of how far the logs of a shard are durable, and writes Kafka's checkpoint files.
///
/// Each point comes with its topic's id: it may have been on its way while the topic was deleted
/// and created again, and the new one's log ends below it.
pub async fn record_recovery_points(shard: &Rc<Shard>, points: Vec<((String, i32), Uuid, i64)>) {
    let job = move |shard: Rc<Shard>| async move {
        let store = shard.store();
        {
            let image = store.controller.borrow().image().clone();
            let mut known = store.recovery_points.borrow_mut();
            for (key, id, point) in points {
                if image.topic(&key.0).is_some_and(|topic| topic.id == id) {
                    known.insert(key, point);
                }
            }
        }
        let _turn = store.checkpoints.enter().await;
        if let Err(error) = write_recovery_points(&shard.io, &store).await {
            // Not fatal: the next recovery reads more than it would have to.
            log::error!("Writing recovery points: {error}");
        }
    };
    // The broker stops: its end writes them.
    let _ = shard.on(0, job).await;
}

async fn write_recovery_points(io: &Io, store: &Store) -> Result<(), LogError> {
    write_checkpoints(io, store, RECOVERY_POINT_FILE, &store.recovery_points).await
}

pub(super) async fn write_log_starts(io: &Io, store: &Store) -> Result<(), LogError> {
    write_checkpoints(io, store, LOG_START_OFFSET_FILE, &store.log_starts).await
}

async fn write_checkpoints(
    io: &Io,
    store: &Store,
    file: &str,
    offsets: &RefCell<BTreeMap<(String, i32), i64>>,
) -> Result<(), LogError> {
    for (place, directory) in store.directories.iter().enumerate() {
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

// ---- .ringlog-topics -------------------------------------------------------------------------

/// `changed` is written in place of the topic of its name, or beside the others.
pub(super) async fn write_topics(
    io: &Io,
    store: &Store,
    changed: Option<&Topic>,
) -> Result<(), Refusal> {
    let image = store.controller.borrow().image().clone();
    let is_old = |topic: &&Topic| changed.is_none_or(|changed| changed.name != topic.name);
    let topics = image.topics().map(Arc::as_ref).filter(is_old);
    let mut text = String::new();
    for topic in topics.chain(changed) {
        add_settings(&mut text, &topic.name, &topic.overrides)?;
    }
    let path = store.directories[0].join(TOPICS_FILE);
    let written = io.replace_file(&path, Bytes::from(text)).await;
    written.map_err(|error| storage_error(format!("{}: {error}", path.display())))
}

/// Adds the lines of one topic or broker, as [`parse_topics`] reads them.
pub(super) fn add_settings(
    text: &mut String,
    name: &str,
    overrides: &Overrides,
) -> Result<(), Refusal> {
    for (key, value) in overrides {
        if value.contains('\n') {
            let message = format!("The value of {key} has a line break.");
            return Err(Refusal {
                error: ResponseError::InvalidConfig,
                message,
            });
        }
        text.push_str(&format!("{name} {key}={value}\n"));
    }
    Ok(())
}

/// Settings by topic, from the file's text.
///
/// # Errors
/// Number and text of the first line that is none.
pub fn parse_topics(text: &str) -> Result<BTreeMap<String, BTreeMap<String, String>>, String> {
    let mut topics: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let fields = line
            .split_once(' ')
            .and_then(|(topic, setting)| Some((topic, setting.split_once('=')?)));
        let Some((topic, (key, value))) = fields else {
            return Err(format!(
                "line {}: '{line}' is not 'topic key=value'",
                number + 1
            ));
        };
        topics
            .entry(topic.to_owned())
            .or_default()
            .insert(key.to_owned(), value.to_owned());
    }
    Ok(topics)
}

/// Reads one of the store's files; empty if it is not there.
///
/// # Errors
/// Path and reason.
pub async fn read_text(io: &Io, path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    match io.read_file(path, FILE_BYTES_MAX).await {
        Ok(bytes) => String::from_utf8(bytes.to_vec())
            .map_err(|_| format!("{} is not a text file of Ringlog", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topics_file_is_read_back_and_garbage_is_named() {
        let topics = parse_topics("a retention.ms=5\na cleanup.policy=compact\nb x=y=z\n").unwrap();
        assert_eq!(topics["a"]["cleanup.policy"], "compact");
        assert_eq!(topics["b"]["x"], "y=z");
        assert_eq!(
            parse_topics("a b=c\ngarbage\n").unwrap_err(),
            "line 2: 'garbage' is not 'topic key=value'"
        );
    }
}
