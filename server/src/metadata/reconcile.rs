//! Takes over what others have changed in ZooKeeper: topics of `kafka-topics --zookeeper`, their
//! deletions, more partitions, changed settings, wishes that partitions move or change their leader. The broker's own changes come back the same way
//! and find nothing to do. Lives on shard 0.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use uuid::Uuid;

use super::alter;
use super::controller::Controller;
use super::deletion;
use super::ensemble::{EnsembleError, Znode};
use super::state::{BrokerOverrides, Image, Topic};
use super::store::{self, Store};
use super::znode::{self, TopicNode, Wish};
use crate::config::BrokerConfig;
use crate::config::topic::Overrides;
use crate::shard::Shard;
use crate::zookeeper::transaction::Change as NodeChange;

/// Notifications older than this are removed (Kafka's `ZkNodeChangeNotificationListener`: 15 min),
/// but as numbers: their age is not asked for.
const NOTIFICATIONS_KEPT: i64 = 1000;

/// What may have changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Anything: a session has begun.
    Everything,
    /// There are new topics.
    Topics,
    /// A topic may have more partitions.
    Topic(String),
    /// A topic is to be deleted.
    Deletions,
    /// Settings have changed.
    Configs,
    /// Partitions are to move to other brokers, or to be led by their preferred replica.
    Wishes,
}

impl Change {
    /// What a change of a node means; those of deeper nodes are the controller's own.
    #[must_use]
    pub fn of(node: NodeChange, path: &str) -> Option<Change> {
        if [znode::REASSIGNMENTS, znode::ELECTIONS].contains(&path) {
            return (node != NodeChange::Deleted).then_some(Change::Wishes);
        }
        if path.starts_with(znode::DELETIONS) {
            return (node == NodeChange::Created).then_some(Change::Deletions);
        }
        if path.starts_with(znode::CONFIG_CHANGES) {
            return (node == NodeChange::Created).then_some(Change::Configs);
        }
        let topic = path.strip_prefix(znode::TOPICS)?.strip_prefix('/')?;
        match node {
            _ if topic.contains('/') => None,
            NodeChange::Created => Some(Change::Topics),
            NodeChange::DataChanged => Some(Change::Topic(topic.to_owned())),
            NodeChange::Deleted => None,
        }
    }
}

/// Takes note of a change; [`run`] looks at it.
pub fn tell(shard: &Rc<Shard>, change: Change) {
    let store = shard.store();
    store.changes.borrow_mut().insert(change);
    store.changed.notify();
}

/// Looks at all changes, one after the other, until the shard stops.
pub async fn run(shard: Rc<Shard>) {
    let store = shard.store();
    while !shard.is_stopping() {
        let next = store.changes.borrow_mut().pop_first();
        let Some(change) = next else {
            store.changed.notified().await;
            continue;
        };
        if let Err(error) = look(&shard, &store, &change).await {
            if matches!(error, EnsembleError::Unanswered(_)) {
                log::warn!("Looking at {change:?} in ZooKeeper: {error}; it is tried again");
                store.changes.borrow_mut().insert(change);
            } else {
                log::error!("Looking at {change:?} in ZooKeeper: {error}");
            }
        }
    }
}

async fn look(shard: &Rc<Shard>, store: &Store, change: &Change) -> Result<(), EnsembleError> {
    match change {
        Change::Everything => {
            configs(shard, store, true).await?;
            let nodes = topics(shard, store).await?;
            for (name, node) in &nodes {
                let image = store.controller.borrow().image().clone();
                let known = image.topic(name).map(|topic| topic.partitions);
                let found = counted(&shard.broker.config, node);
                if found.map_or(true, |(count, _)| Some(count) > known) {
                    more_partitions(shard, store, name).await?;
                }
            }
            store::complete_states(shard, store).await?;
            deletions(shard, store).await?;
            wishes(shard, store).await
        }
        Change::Topics => topics(shard, store).await.map(drop),
        Change::Topic(name) => more_partitions(shard, store, name).await,
        Change::Deletions => deletions(shard, store).await,
        Change::Configs => configs(shard, store, false).await,
        Change::Wishes => wishes(shard, store).await,
    }
}

/// New topics get their ids, logs and states.
async fn topics(
    shard: &Rc<Shard>,
    store: &Store,
) -> Result<BTreeMap<String, Znode>, EnsembleError> {
    let nodes = store.ensemble.children(znode::TOPICS).await?;
    for name in nodes.keys() {
        let is_known = store.controller.borrow().image().topic(name).is_some();
        if !is_known {
            new_topic(shard, store, name).await?;
        }
    }
    Ok(nodes)
}

/// What was read before the turnstile may be over: it is read again.
async fn new_topic(shard: &Rc<Shard>, store: &Store, name: &str) -> Result<(), EnsembleError> {
    let _turn = store.turn(shard).await;
    if store.controller.borrow().image().topic(name).is_some() {
        return Ok(());
    }
    let path = znode::topic_path(name);
    let Some(node) = store.ensemble.get(&path).await? else {
        return Ok(());
    };
    let is_doomed = store
        .ensemble
        .get(&znode::deletion_path(name))
        .await?
        .is_some();
    if is_doomed || store.unservable.borrow().get(name) == Some(&node.data) {
        return Ok(());
    }
    let settings = store.ensemble.get(&znode::topic_config_path(name)).await?;
    let image = store.controller.borrow().image().clone();
    let planned = plan(
        &shard.broker.config,
        &image,
        name,
        &node.data,
        settings.as_ref(),
    );
    let (mut topic, mut with_id) = match planned {
        Ok(planned) => planned,
        Err(reason) => {
            log::error!("Topic {name} of ZooKeeper is not served: {reason}");
            let unservable = (name.to_owned(), node.data);
            store.unservable.borrow_mut().extend([unservable]);
            return Ok(());
        }
    };
    let node_id = shard.broker.config.node_id;
    if with_id.id.is_none() || !with_id.is_on(node_id) {
        if with_id.id.is_none() {
            topic.id = store::new_topic_id(shard);
        }
        with_id = TopicNode::on_one_broker(topic.id, topic.partitions, node_id);
        let replaced = store
            .ensemble
            .replace(&path, with_id.encode(), node.version);
        if !replaced.await? {
            // Somebody changes it right now: there is another event.
            return Ok(());
        }
    }
    if let Err(refusal) = store::take_up(shard, store, Arc::new(topic), 0).await {
        log::error!(
            "Topic {name} of ZooKeeper is not served: {}",
            refusal.message
        );
    }
    Ok(())
}

/// The topic of a node and of the node of its settings. Settings that cannot be do not keep it
/// from being served.
///
/// # Errors
/// Why this broker cannot serve it.
pub fn plan(
    config: &BrokerConfig,
    image: &Image,
    name: &str,
    data: &[u8],
    settings: Option<&Znode>,
) -> Result<(Topic, TopicNode), String> {
    super::state::validate_name(name)?;
    let node = TopicNode::decode(data)?;
    let partitions = node.partitions_of(config.node_id, |id| config.is_own_node(id))?;
    let overrides = settings.map_or(Ok(Overrides::new()), |node| {
        znode::decode_config(&node.data)
    });
    let id = node.id.unwrap_or(Uuid::nil());
    let in_force = image.settings(&config.settings);
    let resolved = overrides.and_then(|overrides| {
        Controller::resolve(in_force, name, id, partitions, overrides)
            .map_err(|refusal| refusal.message)
    });
    let topic = resolved.or_else(|reason| {
        log::error!("The settings of topic {name} in ZooKeeper are not taken: {reason}");
        Controller::resolve(in_force, name, id, partitions, Overrides::new())
            .map_err(|refusal| refusal.message)
    })?;
    Ok((topic, node))
}

/// The number of a topic's partitions in its node, and whether all are on this broker alone.
///
/// # Errors
/// Why this broker cannot serve it.
fn counted(config: &BrokerConfig, node: &Znode) -> Result<(i32, bool), String> {
    let found = TopicNode::decode(&node.data)?;
    let count = found.partitions_of(config.node_id, |id| config.is_own_node(id))?;
    Ok((count, found.is_on(config.node_id)))
}

/// The node is read when it is this one's turn: a topic of that name may have been deleted and created
/// again meanwhile.
async fn more_partitions(
    shard: &Rc<Shard>,
    store: &Store,
    name: &str,
) -> Result<(), EnsembleError> {
    let _turn = store.turn(shard).await;
    let known = store.controller.borrow().image().topic(name).cloned();
    let Some(known) = known else { return Ok(()) };
    let Some(node) = store.ensemble.get(&znode::topic_path(name)).await? else {
        return Ok(());
    };
    let config = &shard.broker.config;
    match counted(config, &node) {
        Ok((count, is_on_this)) if count > known.partitions => {
            let (path, wanted) = (
                znode::topic_path(name),
                TopicNode::on_one_broker(known.id, count, config.node_id),
            );
            let ensemble = &store.ensemble;
            if !is_on_this
                && !ensemble
                    .replace(&path, wanted.encode(), node.version)
                    .await?
            {
                // Somebody changes it right now: there is another event.
                return Ok(());
            }
            let topic = Topic {
                partitions: count,
                ..(*known).clone()
            };
            let taken = store::take_up(shard, store, Arc::new(topic), known.partitions).await;
            if let Err(refusal) = taken {
                log::error!("More partitions of {name}: {}", refusal.message);
            }
        }
        Ok(_) => {}
        Err(reason) => log::error!("Topic {name} in ZooKeeper: {reason}; it stays as it is"),
    }
    Ok(())
}

async fn deletions(shard: &Rc<Shard>, store: &Store) -> Result<(), EnsembleError> {
    for name in store.ensemble.children(znode::DELETIONS).await?.into_keys() {
        deletion::grant(shard, store, &name).await?;
    }
    Ok(())
}

/// A broker that is alone has nothing to move, and leads everything. The nodes go, as they do in
/// Kafka once all is done: that is what the tools wait for.
async fn wishes(shard: &Rc<Shard>, store: &Store) -> Result<(), EnsembleError> {
    let config = &shard.broker.config;
    for path in [znode::REASSIGNMENTS, znode::ELECTIONS] {
        let Some(node) = store.ensemble.get(path).await? else {
            continue;
        };
        match znode::decode_wishes(&node.data) {
            Ok(wishes) => {
                let image = store.controller.borrow().image().clone();
                for wish in wishes {
                    if let Err(reason) = grant(&image, config, &wish) {
                        let Wish {
                            topic, partition, ..
                        } = wish;
                        log::error!("{path}: partition {topic}-{partition} stays: {reason}");
                    }
                }
            }
            Err(reason) => log::error!("{path} is dropped: {reason}"),
        }
        store.ensemble.delete_all(path).await?;
    }
    Ok(())
}

/// Whether a wish has come true, for nothing is to be done.
fn grant(image: &Image, config: &BrokerConfig, wish: &Wish) -> Result<(), String> {
    let topic = image.topic(&wish.topic).ok_or("there is no such topic")?;
    if !(0..topic.partitions).contains(&wish.partition) {
        return Err(format!("the topic has {} partitions", topic.partitions));
    }
    match &wish.replicas {
        Some(replicas) if !matches!(replicas[..], [id] if config.is_own_node(id)) => Err(format!(
            "it is to be on the brokers {replicas:?}, this is broker {} and the only one",
            config.node_id
        )),
        _ => Ok(()),
    }
}

/// Settings that notifications speak of, or all.
async fn configs(shard: &Rc<Shard>, store: &Store, all: bool) -> Result<(), EnsembleError> {
    let notifications = store.ensemble.children(znode::CONFIG_CHANGES).await?;
    let seen = store.config_change.get();
    let mut newest = seen;
    let mut entities = BTreeSet::new();
    for (name, node) in &notifications {
        let Some(number) = znode::sequence(name) else {
            continue;
        };
        if number > seen {
            entities.extend(znode::decode_config_change(&node.data));
        }
        newest = newest.max(number);
    }
    let mut brokers_changed = all;
    if all {
        let _turn = store.turn(shard).await;
        let nodes = store.ensemble.children(znode::TOPIC_CONFIGS).await?;
        let image = store.controller.borrow().image().clone();
        for topic in image.topics() {
            topic_config(shard, store, &topic.name, nodes.get(&topic.name)).await;
        }
    } else {
        for entity in entities {
            match entity.split_once('/') {
                Some(("topics", name)) => {
                    let _turn = store.turn(shard).await;
                    let path = znode::topic_config_path(name);
                    let node = store.ensemble.get(&path).await?;
                    topic_config(shard, store, name, node.as_ref()).await;
                }
                Some(("brokers", _)) => brokers_changed = true,
                // Quotas and users: nothing that this release has.
                _ => {}
            }
        }
    }
    if brokers_changed {
        broker_configs(shard, store).await?;
    }
    store.config_change.set(newest);
    for name in notifications.keys() {
        if znode::sequence(name).is_some_and(|number| number < newest - NOTIFICATIONS_KEPT) {
            let path = format!("{}/{name}", znode::CONFIG_CHANGES);
            store.ensemble.delete_all(&path).await?;
        }
    }
    Ok(())
}

/// With the turnstile only, which was entered before the node was read.
async fn topic_config(shard: &Rc<Shard>, store: &Store, name: &str, node: Option<&Znode>) {
    let image = store.controller.borrow().image().clone();
    let Some(known) = image.topic(name) else {
        return;
    };
    let overrides = node.map_or(Ok(Overrides::new()), |node| {
        znode::decode_config(&node.data)
    });
    let resolved = overrides.and_then(|overrides| {
        if overrides == known.overrides {
            return Ok(None);
        }
        let in_force = image.settings(&shard.broker.config.settings);
        Controller::resolve(in_force, name, known.id, known.partitions, overrides)
            .map(Some)
            .map_err(|refusal| refusal.message)
    });
    match resolved {
        Ok(None) => {}
        Ok(Some(topic)) => {
            log::info!("Topic {name} has now {:?}", topic.overrides);
            let image = store.controller.borrow_mut().created(topic);
            store::publish(shard, &image).await;
        }
        Err(reason) => {
            log::error!("The settings of topic {name} in ZooKeeper are not taken: {reason}");
        }
    }
}

async fn broker_configs(shard: &Rc<Shard>, store: &Store) -> Result<(), EnsembleError> {
    let _turn = store.turn(shard).await;
    let nodes = store.ensemble.children(znode::BROKER_CONFIGS).await?;
    let overrides = match broker_overrides(&nodes, shard.broker.config.node_id) {
        Ok(overrides) => overrides,
        Err(reason) => {
            log::error!("The settings of brokers in ZooKeeper are not taken: {reason}");
            return Ok(());
        }
    };
    alter::take_broker_overrides(shard, store, overrides).await;
    Ok(())
}

/// The settings of brokers, from the children of their node.
///
/// # Errors
/// The node and what is wrong with it.
pub fn broker_overrides(
    nodes: &BTreeMap<String, Znode>,
    node_id: i32,
) -> Result<BrokerOverrides, String> {
    let read = |name: &str| {
        let node = nodes.get(name);
        let read = node.map_or(Ok(Overrides::new()), |node| {
            znode::decode_config(&node.data)
        });
        read.map_err(|error| format!("{}/{name}: {error}", znode::BROKER_CONFIGS))
    };
    Ok(BrokerOverrides {
        all: read(znode::ALL_BROKERS)?,
        this: read(&node_id.to_string())?,
    })
}
