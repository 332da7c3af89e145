//! Carries changes of what there is out: settings of topics and brokers, more partitions, log start
//! offsets. Lives on shard 0, as all of [`super::store`]; any shard may ask.
//!
//! Settings of brokers stand in `.ringlog-brokers` of the first log directory, as those of topics in
//! `.ringlog-topics`; both are durable before they act and before the change is answered.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use ringlog_engine::io::Io;
use ringlog_engine::log::directory::partition_directory_name;

use super::config_change::ConfigChange;
use super::controller::Refusal;
use super::state::{BrokerOverrides, Topic};
use super::store::{self, Store, gone, storage_error};
use crate::boot::FoundPartition;

use crate::config::keys::{self, Effect};
use crate::shard::{Shard, ShardGone};

/// Settings of brokers that were changed while they ran, in the first log directory.
pub const BROKERS_FILE: &str = ".ringlog-brokers";
/// Kafka's name of all brokers, as of its znode.
const ALL_BROKERS: &str = "<default>";

// ---- settings of topics --------------------------------------------------------------------------

/// Changes the settings of a topic; at return all its partitions have them.
///
/// # Errors
/// Kafka's error and the reason.
pub async fn topic_configs(
    shard: &Rc<Shard>,
    name: String,
    change: ConfigChange,
    validate_only: bool,
) -> Result<(), Refusal> {
    let job = move |shard: Rc<Shard>| async move {
        let store = shard.store();
        let _turn = store.turnstile.enter().await;
        let topic = store
            .controller
            .borrow()
            .plan_topic_configs(&name, &change)?;
        if validate_only {
            return Ok(());
        }
        store::write_topics(&shard.io, &store, Some(&topic)).await?;
        log::info!("Topic {name} has now {:?}", topic.overrides);
        let image = store.controller.borrow_mut().created(topic);
        store::publish(&shard, &image).await;
        Ok(())
    };
    shard.on(0, job).await.map_err(gone)?
}

// ---- settings of brokers -------------------------------------------------------------------------

/// Changes the settings of this broker, or of all brokers; at return all shards have them.
///
/// # Errors
/// Kafka's error and the reason.
pub async fn broker_configs(
    shard: &Rc<Shard>,
    is_this_broker: bool,
    change: ConfigChange,
    validate_only: bool,
) -> Result<(), Refusal> {
    let job = move |shard: Rc<Shard>| async move {
        let store = shard.store();
        let _turn = store.turnstile.enter().await;
        let image = store
            .controller
            .borrow()
            .plan_broker_configs(is_this_broker, &change)?;
        if validate_only {
            return Ok(());
        }
        let overrides = image.broker_overrides();
        let node_id = shard.broker.config.node_id.to_string();
        let mut text = String::new();
        store::add_settings(&mut text, ALL_BROKERS, &overrides.all)?;
        store::add_settings(&mut text, &node_id, &overrides.this)?;
        let path = store.directories[0].join(BROKERS_FILE);
        let written = shard.io.replace_file(&path, Bytes::from(text)).await;
        written.map_err(|error| storage_error(format!("{}: {error}", path.display())))?;
        tell(overrides);
        let image = store.controller.borrow_mut().altered(image);
        store::publish(&shard, &image).await;
        limit_connections(&shard);
        Ok(())
    };
    shard.on(0, job).await.map_err(gone)?
}

/// As at a start: what was set, and what of it does nothing.
fn tell(overrides: &BrokerOverrides) {
    log::info!(
        "Changed settings: of all brokers {:?}, of this broker {:?}",
        overrides.all,
        overrides.this
    );
    for name in overrides.all.keys().chain(overrides.this.keys()) {
        if let Some(Effect::AcceptedIgnored(instead)) = keys::find(name).map(|key| key.effect) {
            log::warn!("'{name}' has no effect: {instead}");
        }
    }
}

/// Reads the settings of brokers.
///
/// # Errors
/// The file and what is wrong with it.
pub async fn read_broker_overrides(
    io: &Io,
    directory: &Path,
    node_id: i32,
) -> Result<BrokerOverrides, String> {
    let path = directory.join(BROKERS_FILE);
    let text = store::read_text(io, &path).await?;
    let mut brokers = store::parse_topics(&text)
        .map_err(|error| format!("{}: {}", path.display(), error.replace("topic ", "broker ")))?;
    Ok(BrokerOverrides {
        all: brokers.remove(ALL_BROKERS).unwrap_or_default(),
        this: brokers.remove(&node_id.to_string()).unwrap_or_default(),
    })
}

/// The limits of the settings in force hold for the next connection.
pub fn limit_connections(shard: &Shard) {
    let image = shard.image();
    let settings = image.settings(&shard.broker.config.settings);
    let number = |name| settings.integer(name).and_then(|n| u32::try_from(n).ok());
    let (max, per_ip_max) = (number("max.connections"), number("max.connections.per.ip"));
    shard
        .broker
        .limit_connections(max.unwrap_or(u32::MAX), per_ip_max.unwrap_or(u32::MAX));
}

/// `producer.id.expiration.ms` in force.
pub fn producer_id_expiration_ms(shard: &Shard) -> i64 {
    let fixed = &shard.broker.config;
    let image = shard.image();
    let settings = image.settings(&fixed.settings);
    let in_force = settings.integer("producer.id.expiration.ms");
    in_force.unwrap_or(fixed.producer_id_expiration_ms)
}

// ---- partitions ----------------------------------------------------------------------------------

/// Adds partitions to a topic; at return all of them can be produced to.
///
/// # Errors
/// Kafka's error and the reason.
pub async fn partitions(
    shard: &Rc<Shard>,
    wish: CreatePartitionsTopic,
    validate_only: bool,
) -> Result<(), Refusal> {
    let job = move |shard: Rc<Shard>| async move {
        let store = shard.store();
        let _turn = store.turnstile.enter().await;
        let topic = store.controller.borrow().plan_partitions(&wish)?;
        if validate_only {
            return Ok(());
        }
        add_partitions(&shard, &store, Arc::new(topic)).await
    };
    shard.on(0, job).await.map_err(gone)?
}

async fn add_partitions(
    shard: &Rc<Shard>,
    store: &Store,
    topic: Arc<Topic>,
) -> Result<(), Refusal> {
    let known = store
        .controller
        .borrow()
        .image()
        .topic(&topic.name)
        .cloned();
    let before = known.map_or(0, |known| known.partitions);
    store::drop_stale_checkpoints(&shard.io, store).await?;
    // One after the other: a crash in between must not leave a gap in the numbers.
    for index in before..topic.partitions {
        let place = store.emptiest_directory();
        let key = (topic.name.clone(), index);
        store.places.borrow_mut().insert(key, place);
        let name = partition_directory_name(&topic.name, index);
        let directory = store.directories[place].join(name);
        let target = shard.owner(&topic.name, index);
        let new = topic.clone();
        let job = move |shard: Rc<Shard>| async move {
            store::open_new(&shard, new, index, &directory).await
        };
        let failed = match shard.on(target, job).await {
            Ok(Ok(())) => continue,
            Ok(Err(message)) => message,
            Err(ShardGone) => "the broker is stopping".to_owned(),
        };
        log::error!("Cannot add partition {index} to {}: {failed}", topic.name);
        store::remove_partitions(shard, &topic.name, before..index + 1).await;
        return Err(storage_error(failed));
    }
    let image = store.controller.borrow_mut().created((*topic).clone());
    store::publish(shard, &image).await;
    log::info!(
        "Topic {} has now {} partitions",
        topic.name,
        topic.partitions
    );
    Ok(())
}

// ---- log start offsets ---------------------------------------------------------------------------

impl Store {
    /// No checkpoint file is written from here on: the end of the broker writes them itself.
    pub async fn end_checkpoints(&self) {
        std::mem::forget(self.checkpoints.enter().await);
    }

    /// Takes note of the log start offsets and recovery points that were found: who is deleted must
    /// take his along.
    pub fn know_checkpoints(&self, found: &BTreeMap<(String, i32), FoundPartition>) {
        let start = |(key, found): (&(String, i32), &FoundPartition)| {
            Some((key.clone(), found.opening.log_start_offset?))
        };
        let starts = found.iter().filter_map(start);
        self.log_starts.borrow_mut().extend(starts);
        let points = found
            .iter()
            .filter(|(_, found)| found.opening.recovery_point > 0);
        let points = points.map(|(key, found)| (key.clone(), found.opening.recovery_point));
        self.recovery_points.borrow_mut().extend(points);
    }
}

/// Writes log start offsets to Kafka's checkpoint file; at return they are durable. They never go
/// down. The caller raises those of the logs then, and not before: what a crash would undo was
/// never seen.
///
/// # Errors
/// KAFKA_STORAGE_ERROR if they could not be written.
pub async fn log_starts(
    shard: &Rc<Shard>,
    starts: Vec<((String, i32), i64)>,
) -> Result<(), Refusal> {
    let job = move |shard: Rc<Shard>| async move {
        let store = shard.store();
        let _turn = store.checkpoints.enter().await;
        {
            let places = store.places.borrow();
            let mut known = store.log_starts.borrow_mut();
            for (key, offset) in starts {
                if places.contains_key(&key) {
                    let start = known.entry(key).or_default();
                    *start = offset.max(*start);
                }
            }
        }
        let written = store::write_log_starts(&shard.io, &store).await;
        written.map_err(|error| storage_error(error.to_string()))
    };
    shard.on(0, job).await.map_err(gone)?
}
