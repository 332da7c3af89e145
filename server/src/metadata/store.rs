//! Carries the controller's decisions out: directories and logs on the owners' shards, the image
//! to all shards. Lives on shard 0; any shard may ask.
//!
//! In this release the topics are those found in the log directories. What has no place there
//! stands in two plain files of the first log directory (Apache Kafka ignores plain files):
//! `.ringlog-topics` (settings of topics) and `.ringlog-producer-ids` (the next block of producer
//! ids). Both are replaced atomically and durably before anything that depends on them is answered.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use ringlog_engine::io::Io;
use ringlog_engine::log::checkpoint::{self, OffsetEntry};
use ringlog_engine::log::directory::partition_directory_name;
use uuid::Uuid;

use super::controller::{Controller, Refusal};
use super::state::{GROUP_TOPIC, Image, Topic};
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
    controller: RefCell<Controller>,
    directories: Vec<PathBuf>,
    places: RefCell<Places>,
    recovery_points: RefCell<BTreeMap<(String, i32), i64>>,
    /// Next producer id, and the end of the block that is reserved on disk.
    producer_ids: Cell<(i64, i64)>,
    /// One change at a time.
    turnstile: Turnstile,
    /// One write of the recovery points at a time.
    checkpoints: Turnstile,
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
            producer_ids: Cell::new((producer_id, producer_id)),
            turnstile: Turnstile::default(),
            checkpoints: Turnstile::default(),
        }
    }

    /// The log directory with the fewest partitions, as Kafka chooses.
    fn emptiest_directory(&self) -> usize {
        let mut counts = vec![0usize; self.directories.len()];
        for place in self.places.borrow().values() {
            counts[*place] += 1;
        }
        let by_count = |index: &usize| counts[*index];
        (0..counts.len()).min_by_key(by_count).unwrap_or(0)
    }
}

fn storage_error(message: impl Into<String>) -> Refusal {
    Refusal {
        error: ResponseError::KafkaStorageError,
        message: message.into(),
    }
}

fn gone(_: ShardGone) -> Refusal {
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
    if !topic.overrides.is_empty() {
        write_topics(&shard.io, &store, Some(&topic)).await?;
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
        Ok(Err(message)) => Some(message),
        Err(ShardGone) => Some("the broker is stopping".to_owned()),
    });
    if let Some(message) = failed {
        log::error!("Cannot create topic {}: {message}", topic.name);
        remove_partitions(shard, &topic).await;
        return Err(storage_error(message));
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

fn new_topic_id(shard: &Shard) -> Uuid {
    let bytes = shard.random.borrow_mut().u128(..).to_be_bytes();
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

async fn open_new(
    shard: &Rc<Shard>,
    topic: Arc<Topic>,
    index: i32,
    directory: &Path,
) -> Result<(), String> {
    let config = partition::log_config(&topic, index);
    let log = ringlog_engine::log::Log::create(&shard.files, directory, topic.id, config)
        .await
        .map_err(|error| error.to_string())?;
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
    let image = store.controller.borrow_mut().deleted(name);
    publish(shard, &image).await;
    remove_partitions(shard, &topic).await;
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
    log::info!("Deleted topic {name}, id {}", topic.id);
    Ok(topic.id)
}

async fn remove_partitions(shard: &Rc<Shard>, topic: &Topic) {
    let store = shard.store();
    let removals = (0..topic.partitions).map(|index| {
        let name = topic.name.clone();
        store.places.borrow_mut().remove(&(name.clone(), index));
        store
            .recovery_points
            .borrow_mut()
            .remove(&(name.clone(), index));
        let target = shard.owner(&name, index);
        let job = move |shard: Rc<Shard>| async move { remove_here(&shard, &name, index).await };
        shard.on(target, job)
    });
    future::join_all(removals).await;
}

/// The directory's new name says that it goes; its files go when nobody reads them any more.
async fn remove_here(shard: &Rc<Shard>, name: &str, index: i32) {
    let Some(partition) = shard.remove_partition(name, index) else {
        return;
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
                let removed =
                    ringlog_engine::log::directory::remove_directory_tree(&io, &directory).await;
                if let Err(error) = removed {
                    log::error!("Deleting {}: {error}", directory.display());
                }
            });
        }
        Err(error) => log::error!("Deleting {name}-{index}: {error}"),
    }
}

/// Gives the image to all shards; at return all of them answer from it.
async fn publish(shard: &Rc<Shard>, image: &Arc<Image>) {
    let publications = (0..shard.shard_count()).map(|target| {
        let image = image.clone();
        shard.on(target, move |shard: Rc<Shard>| async move {
            shard.publish(image)
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
pub async fn record_recovery_points(shard: &Rc<Shard>, points: Vec<((String, i32), i64)>) {
    let job = move |shard: Rc<Shard>| async move {
        let store = shard.store();
        {
            let places = store.places.borrow();
            let mut known = store.recovery_points.borrow_mut();
            known.extend(
                points
                    .into_iter()
                    .filter(|(key, _)| places.contains_key(key)),
            );
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

async fn write_recovery_points(
    io: &Io,
    store: &Store,
) -> Result<(), ringlog_engine::log::LogError> {
    for (place, directory) in store.directories.iter().enumerate() {
        let entries: Vec<OffsetEntry> = {
            let places = store.places.borrow();
            let points = store.recovery_points.borrow();
            let here = points
                .iter()
                .filter(|(key, _)| places.get(key) == Some(&place));
            here.map(|((topic, partition), offset)| OffsetEntry {
                topic: topic.clone(),
                partition: *partition,
                offset: *offset,
            })
            .collect()
        };
        checkpoint::write_offsets(
            io,
            &directory.join(checkpoint::RECOVERY_POINT_FILE),
            &entries,
        )
        .await?;
    }
    Ok(())
}

// ---- .ringlog-topics -------------------------------------------------------------------------

async fn write_topics(io: &Io, store: &Store, added: Option<&Topic>) -> Result<(), Refusal> {
    let image = store.controller.borrow().image().clone();
    let topics = image.topics().map(Arc::as_ref).chain(added);
    let mut text = String::new();
    for topic in topics {
        for (key, value) in &topic.overrides {
            if value.contains('\n') {
                let message = format!("The value of {key} has a line break.");
                return Err(Refusal {
                    error: ResponseError::InvalidConfig,
                    message,
                });
            }
            text.push_str(&format!("{} {key}={value}\n", topic.name));
        }
    }
    let path = store.directories[0].join(TOPICS_FILE);
    let written = io.replace_file(&path, Bytes::from(text)).await;
    written.map_err(|error| storage_error(format!("{}: {error}", path.display())))
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
