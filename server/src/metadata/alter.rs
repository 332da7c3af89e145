//! Carries changes of what there is out: settings of topics and brokers, more partitions.
//! Lives on shard 0, as all of [`super::store`]; any shard may ask.
//!
//! Settings stand in `/config/topics` and `/config/brokers` of ZooKeeper before they act and before
//! the change is answered; a notification below `/config/changes` tells other readers.

use std::rc::Rc;
use std::sync::Arc;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;

use super::config_change::ConfigChange;
use super::controller::Refusal;
use super::state::{BrokerOverrides, Image, Topic};
use super::store::{self, Store, gone, no_ensemble, storage_error};
use super::znode::{self, TopicNode};
use crate::config::keys::{self, Effect};
use crate::config::topic::Overrides;
use crate::shard::Shard;

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
        let _turn = store.turn(&shard).await;
        let topic = store
            .controller
            .borrow()
            .plan_topic_configs(&name, &change)?;
        if validate_only {
            return Ok(());
        }
        put_config(&store, &format!("topics/{name}"), &topic.overrides).await?;
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
        let _turn = store.turn(&shard).await;
        let image = store
            .controller
            .borrow()
            .plan_broker_configs(is_this_broker, &change)?;
        if validate_only {
            return Ok(());
        }
        let overrides = image.broker_overrides();
        let (entity, changed) = if is_this_broker {
            (shard.broker.config.node_id.to_string(), &overrides.this)
        } else {
            (znode::ALL_BROKERS.to_owned(), &overrides.all)
        };
        put_config(&store, &format!("brokers/{entity}"), changed).await?;
        take_over(&shard, &store, image).await;
        Ok(())
    };
    shard.on(0, job).await.map_err(gone)?
}

/// Takes over settings of brokers that others have written. What cannot be is told and left out.
pub(super) async fn take_broker_overrides(
    shard: &Rc<Shard>,
    store: &Store,
    overrides: BrokerOverrides,
) {
    if *store.controller.borrow().image().broker_overrides() == overrides {
        return;
    }
    for (is_this_broker, changed) in [(false, overrides.all), (true, overrides.this)] {
        let change = ConfigChange::Replace(changed);
        let planned = store
            .controller
            .borrow()
            .plan_broker_configs(is_this_broker, &change);
        match planned {
            Ok(image) => take_over(shard, store, image).await,
            Err(refusal) => log::error!(
                "Settings of brokers in ZooKeeper are not taken: {}",
                refusal.message
            ),
        }
    }
}

async fn take_over(shard: &Rc<Shard>, store: &Store, image: Image) {
    tell(image.broker_overrides());
    let image = store.controller.borrow_mut().altered(image);
    store::publish(shard, &image).await;
    limit_connections(shard);
}

/// The node of `topics/<name>` or `brokers/<id>`, and the notification about it.
async fn put_config(store: &Store, entity: &str, overrides: &Overrides) -> Result<(), Refusal> {
    let path = format!("/config/{entity}");
    let put = store.ensemble.put(&path, znode::config(overrides)).await;
    put.map_err(no_ensemble)?;
    let prefix = format!("{}/config_change_", znode::CONFIG_CHANGES);
    let notification = znode::config_change(entity);
    let told = store
        .ensemble
        .create_sequential(&prefix, notification)
        .await;
    told.map_err(no_ensemble)
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
        let _turn = store.turn(&shard).await;
        let topic = store.controller.borrow().plan_partitions(&wish)?;
        if validate_only {
            return Ok(());
        }
        add_partitions(&shard, &store, Arc::new(topic)).await
    };
    shard.on(0, job).await.map_err(gone)?
}

/// The topic's node first: what is not made after that, the next start makes.
async fn add_partitions(
    shard: &Rc<Shard>,
    store: &Store,
    topic: Arc<Topic>,
) -> Result<(), Refusal> {
    let path = znode::topic_path(&topic.name);
    let refused = |reason: &str| storage_error(format!("{path}: {reason}"));
    let before = store.ensemble.get(&path).await.map_err(no_ensemble)?;
    let before = before.ok_or_else(|| refused("it is gone from ZooKeeper"))?;
    let node = TopicNode::decode(&before.data).map_err(|error| refused(&error))?;
    let config = &shard.broker.config;
    let node_id = config.node_id;
    let first = node
        .partitions_of(node_id, |id| config.is_own_node(id))
        .map_err(|error| refused(&error))?;
    let after = TopicNode::on_one_broker(topic.id, topic.partitions, node_id);
    let replaced = store
        .ensemble
        .replace(&path, after.encode(), before.version)
        .await;
    if !replaced.map_err(no_ensemble)? {
        return Err(refused("somebody else changes it; try again"));
    }
    let taken = store::take_up(shard, store, topic.clone(), first).await;
    if let Err(refusal) = &taken {
        log::error!(
            "Cannot add partitions to {}: {}",
            topic.name,
            refusal.message
        );
        // If that fails, too, the next start makes them.
        if let Err(error) = store.ensemble.put(&path, before.data).await {
            log::error!("{path}: {error}");
        }
    }
    taken
}
