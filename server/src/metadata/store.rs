//! Carries the controller's decisions out: znodes in ZooKeeper, directories and logs on the owners'
//! shards, the image to all shards. Lives on shard 0; any shard may ask.
//!
//! ZooKeeper is the truth. A topic is there once its node is: what a crash keeps from being made
//! after that, the next start makes. A deletion is decided once its node below
//! `/admin/delete_topics` is there: the next start brings it to its end. A topic's nodes go after
//! its directories have been renamed, so that none is left which nobody knows.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use ringlog_engine::log::LogError;
use ringlog_engine::log::directory::{self, partition_directory_name};
use uuid::Uuid;

use super::controller::{Controller, Refusal};
use super::ensemble::{Ensemble, EnsembleError};
use super::reconcile::Change;
use super::state::{self, GROUP_TOPIC, Image, Topic};
use super::znode::{self, TopicNode};
use super::{checkpoints, deletion};
use crate::group::driver;
use crate::partition::{self, Partition};
use crate::producer_state::ProducerState;
use crate::room;
use crate::shard::{Shard, ShardGone};
use crate::turnstile::{Turn, Turnstile};
use crate::watcher::Watcher;

/// Data of the nodes above a partition's state.
pub(super) const NOTHING: Bytes = Bytes::new();

/// Which log directory has a partition, as an index of the configured ones.
pub type Places = BTreeMap<(String, i32), usize>;

/// The state behind the controller.
pub struct Store {
    pub(super) ensemble: Ensemble,
    pub(super) controller: RefCell<Controller>,
    pub(super) directories: Vec<PathBuf>,
    pub(super) places: RefCell<Places>,
    pub(super) recovery_points: RefCell<BTreeMap<(String, i32), i64>>,
    /// Of the partitions whose log does not begin with offset 0.
    pub(super) log_starts: RefCell<BTreeMap<(String, i32), i64>>,
    /// A topic whose partitions are being made: they are there before the image has it.
    making: RefCell<Option<(String, Uuid)>>,
    /// The checkpoint files may still have partitions that were deleted.
    pub(super) has_stale_checkpoints: Cell<bool>,
    /// Next producer id, and the end of the block that is reserved in ZooKeeper.
    pub(super) producer_ids: Cell<(i64, i64)>,
    /// What others may have changed in ZooKeeper, for [`super::reconcile`].
    pub(super) changes: RefCell<BTreeSet<Change>>,
    pub(super) changed: Watcher,
    /// Number of the newest notification about settings that was looked at.
    pub(super) config_change: Cell<i64>,
    /// Nodes of topics that this broker cannot serve; each is told of once.
    pub(super) unservable: RefCell<BTreeMap<String, Bytes>>,
    /// Of [`Store::turn`].
    turnstile: Turnstile,
    /// One write of checkpoint files at a time.
    pub(super) checkpoints: Turnstile,
    /// No checkpoint file is to be written any more.
    pub(super) has_ended: Cell<bool>,
}

impl Store {
    /// A store that starts from what was found in ZooKeeper and in the directories.
    pub fn new(
        ensemble: Ensemble,
        controller: Controller,
        directories: Vec<PathBuf>,
        places: Places,
    ) -> Store {
        Store {
            ensemble,
            controller: RefCell::new(controller),
            directories,
            places: RefCell::new(places),
            recovery_points: RefCell::default(),
            log_starts: RefCell::default(),
            making: RefCell::default(),
            has_stale_checkpoints: Cell::default(),
            producer_ids: Cell::new((0, 0)),
            changes: RefCell::default(),
            changed: Watcher::default(),
            config_change: Cell::new(-1),
            unservable: RefCell::default(),
            turnstile: Turnstile::default(),
            checkpoints: Turnstile::default(),
            has_ended: Cell::default(),
        }
    }

    /// One change at a time; what it writes finds the room on disk looked at.
    pub(super) async fn turn(&self, shard: &Shard) -> Turn<'_> {
        if shard.broker.room.is_quiet() {
            room::wake(shard).await;
        }
        self.turnstile.enter().await
    }

    /// The id of a topic that has partitions.
    pub(super) fn topic_id(&self, name: &str) -> Option<Uuid> {
        let controller = self.controller.borrow();
        let making = self.making.borrow();
        let of_making = || making.as_ref().filter(|(made, _)| made == name);
        let topic = controller.image().topic(name).map(|topic| topic.id);
        topic.or_else(|| of_making().map(|(_, id)| *id))
    }

    /// Whether a partition of a topic is in a log directory.
    pub(super) fn has_places(&self, name: &str) -> bool {
        let from = (name.to_owned(), 0);
        let places = self.places.borrow();
        let next = places.range(from..).next();
        next.is_some_and(|((topic, _), _)| topic == name)
    }

    /// How many partitions each log directory has: the next goes where there are fewest, as in Kafka.
    fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.directories.len()];
        (self.places.borrow().values()).for_each(|place| counts[*place] += 1);
        counts
    }
}

pub(super) fn storage_error(message: impl Into<String>) -> Refusal {
    Refusal {
        error: ResponseError::KafkaStorageError,
        message: message.into(),
    }
}

/// Nothing was changed, or nobody knows.
pub(super) fn no_ensemble(error: EnsembleError) -> Refusal {
    Refusal {
        error: ResponseError::RequestTimedOut,
        message: error.to_string(),
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
    let _turn = store.turn(shard).await;
    let id = new_topic_id(shard);
    let topic = Arc::new(store.controller.borrow().plan_topic(wish, id)?);
    let (path, config) = (
        znode::topic_path(&topic.name),
        znode::config(&topic.overrides),
    );
    let node = TopicNode::on_one_broker(id, topic.partitions, shard.broker.config.node_id).encode();
    enter(&store, &topic.name, (path, node), config).await?;
    if let Err(refusal) = take_up(shard, &store, topic.clone(), 0).await {
        log::error!("Cannot create topic {}: {}", topic.name, refusal.message);
        // If that fails, too, the next start makes the topic.
        if let Err(error) = deletion::forget_nodes(&store, &topic.name).await {
            log::error!("Taking topic {} back: {error}", topic.name);
        }
        return Err(refusal);
    }
    Ok(topic)
}

/// Enters a new topic in ZooKeeper: its settings, and the node that makes it one.
async fn enter(
    store: &Store,
    name: &str,
    (path, node): (String, Bytes),
    config: Bytes,
) -> Result<(), Refusal> {
    let ensemble = &store.ensemble;
    // A wish that nobody has granted yet would be granted to the new topic.
    let doomed = ensemble.get(&znode::deletion_path(name)).await;
    if doomed.map_err(no_ensemble)?.is_some() {
        let message = format!("Topic '{name}' is marked for deletion.");
        return Err(storage_error(message));
    }
    let config_path = znode::topic_config_path(name);
    let both = vec![
        (config_path.clone(), config.clone()),
        (path.clone(), node.clone()),
    ];
    if ensemble.create_together(both).await.map_err(no_ensemble)? {
        return Ok(());
    }
    // Settings of an earlier topic, most often.
    let put = ensemble.put(&config_path, config).await;
    put.map_err(no_ensemble)?;
    let is_new = ensemble.create(vec![(path.clone(), node.clone())]).await;
    if is_new.map_err(no_ensemble)? {
        return Ok(());
    }
    let found = ensemble.get(&path).await.map_err(no_ensemble)?;
    // An answer may have been lost; else a tool was faster, and its event is on its way.
    if found.is_none_or(|found| found.data != node) {
        return Err(Refusal {
            error: ResponseError::TopicAlreadyExists,
            message: format!("Topic '{name}' already exists."),
        });
    }
    Ok(())
}

/// Makes the partitions of a topic from `first` on and publishes it; at return all of them can be
/// produced to, and ZooKeeper has their states. With the turnstile only.
///
/// # Errors
/// Kafka's error and the reason. Then none of these partitions is there.
pub(super) async fn take_up(
    shard: &Rc<Shard>,
    store: &Store,
    topic: Arc<Topic>,
    first: i32,
) -> Result<(), Refusal> {
    checkpoints::drop_stale(&shard.io, store).await?;
    (store.making).replace(Some((topic.name.clone(), topic.id)));
    let done = match make_partitions(shard, store, &topic, first).await {
        Ok(()) => {
            let states = states(shard, store, &topic, first);
            store
                .ensemble
                .create(states)
                .await
                .map(drop)
                .map_err(no_ensemble)
        }
        Err(refusal) => Err(refusal),
    };
    store.making.take();
    if let Err(refusal) = done {
        deletion::remove_partitions(shard, &topic.name, first..topic.partitions).await;
        return Err(refusal);
    }
    let image = store.controller.borrow_mut().created((*topic).clone());
    publish(shard, &image).await;
    let Topic {
        name,
        partitions,
        id,
        ..
    } = &*topic;
    match first {
        0 => log::info!("Created topic {name} with {partitions} partitions, id {id}"),
        _ => log::info!("Topic {name} has now {partitions} partitions"),
    }
    Ok(())
}

async fn make_partitions(
    shard: &Rc<Shard>,
    store: &Store,
    topic: &Arc<Topic>,
    first: i32,
) -> Result<(), Refusal> {
    let mut openings = Vec::new();
    let mut counts = store.counts();
    for index in first..topic.partitions {
        let by_count = |place: &usize| counts[*place];
        let place = (0..counts.len()).min_by_key(by_count).unwrap_or(0);
        counts[place] += 1;
        let key = (topic.name.clone(), index);
        store.places.borrow_mut().insert(key, place);
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
    failed.map_or(Ok(()), Err)
}

/// The nodes of the states of a topic's partitions, parents first.
fn states(shard: &Shard, store: &Store, topic: &Topic, first: i32) -> Vec<(String, Bytes)> {
    let epoch = store.ensemble.controller_epoch();
    let image = shard.image();
    let mut nodes = Vec::new();
    let above = format!("{}/partitions", znode::topic_path(&topic.name));
    if first == 0 {
        nodes.push((above.clone(), NOTHING));
    }
    for index in first..topic.partitions {
        nodes.push((format!("{above}/{index}"), NOTHING));
        let leader_epoch = image.leader_epoch(topic.id, index);
        let state = znode::state(shard.broker.config.node_id, leader_epoch, epoch);
        nodes.push((znode::state_path(&topic.name, index), state));
    }
    nodes
}

/// States that a crash has kept from being written. They are written in order: who has the last one
/// has all.
pub(super) async fn complete_states(shard: &Rc<Shard>, store: &Store) -> Result<(), EnsembleError> {
    let image = store.controller.borrow().image().clone();
    for topic in image.topics() {
        let last = znode::state_path(&topic.name, topic.partitions - 1);
        if store.ensemble.get(&last).await?.is_none() {
            let _turn = store.turn(shard).await;
            let topic = store
                .controller
                .borrow()
                .image()
                .topic(&topic.name)
                .cloned();
            if let Some(topic) = topic {
                let states = states(shard, store, &topic, 0);
                store.ensemble.create(states).await?;
            }
        }
    }
    Ok(())
}

pub(super) fn new_topic_id(shard: &Shard) -> Uuid {
    state::new_topic_id(&mut shard.random.borrow_mut())
}

pub(crate) async fn open_new(
    shard: &Rc<Shard>,
    topic: Arc<Topic>,
    index: i32,
    directory: &Path,
) -> Result<(), String> {
    let config = partition::log_config(&topic, index);
    let created = ringlog_engine::log::Log::create(&shard.files, directory, topic.id, config).await;
    let is_foreign = matches!(&created, Err(LogError::Foreign { .. }));
    let created = match created {
        // The stop has closed the logs that there were; this one it would leave unsynced.
        Ok(_) if shard.is_stopping() => Err("the broker is stopping".to_owned()),
        created => created.map_err(|error| error.to_string()),
    };
    let log = match created {
        Ok(log) => log,
        Err(error) => {
            // Half a partition must not be in the way of the next try.
            if !is_foreign {
                let _ = directory::remove_directory_tree(&shard.io, directory).await;
            }
            return Err(error);
        }
    };
    let is_group = topic.name == GROUP_TOPIC;
    let partition = Partition::new(topic, index, 0, log, ProducerState::default());
    shard.add_partition(partition.clone());
    if is_group {
        driver::load(shard, &partition).await;
    }
    Ok(())
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
