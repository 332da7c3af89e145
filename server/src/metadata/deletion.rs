//! Deletes topics: of clients' requests and of the wishes below `/admin/delete_topics`, which is
//! where both stand before anything is done. Lives on shard 0, as all of [`super::store`].

use std::ops::Range;
use std::rc::Rc;

use futures_util::future;
use kafka_protocol::ResponseError;
use ringlog_engine::log::directory;
use uuid::Uuid;

use super::checkpoints;
use super::controller::Refusal;
use super::ensemble::EnsembleError;
use super::state::GROUP_TOPIC;
use super::store::{NOTHING, Store, gone, new_topic_id, no_ensemble, publish};
use super::znode;
use crate::group::driver;
use crate::shard::Shard;

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
    let _turn = store.turn(shard).await;
    remove(shard, &store, name).await
}

/// Carries out the wish of somebody else, or one of before a crash. The broker's own are carried out
/// already, and a topic of that name may have been created again: what counts is what ZooKeeper says
/// now that nobody else's turn it is.
///
/// # Errors
/// ZooKeeper's.
pub(super) async fn grant(
    shard: &Rc<Shard>,
    store: &Store,
    name: &str,
) -> Result<(), EnsembleError> {
    let _turn = store.turn(shard).await;
    let wish = znode::deletion_path(name);
    if store.ensemble.get(&wish).await?.is_none() {
        return Ok(());
    }
    match remove(shard, store, name).await {
        Ok(_) => Ok(()),
        Err(refusal) if refusal.error == ResponseError::UnknownTopicOrPartition => {
            // Directories that could not be renamed need the next start, and the wish.
            if store.has_places(name) {
                return Ok(());
            }
            forget_nodes(store, name).await
        }
        Err(refusal) => {
            log::error!("Topic {name} is not deleted: {}", refusal.message);
            // Kafka drops the wish, too, where topics may not be deleted.
            if refusal.error == ResponseError::TopicDeletionDisabled {
                store.ensemble.delete_all(&wish).await?;
            }
            Ok(())
        }
    }
}

/// With the turnstile only.
async fn remove(shard: &Rc<Shard>, store: &Store, name: &str) -> Result<Uuid, Refusal> {
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
    let wish = vec![(znode::deletion_path(name), NOTHING)];
    store.ensemble.create(wish).await.map_err(no_ensemble)?;
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
    // If not, the next start does both.
    if is_gone && let Err(error) = forget_nodes(store, name).await {
        log::error!("Deleting topic {name} from ZooKeeper: {error}");
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
    for (index, result) in indexes.zip(&results) {
        let key = (name.to_owned(), index);
        if *result == Ok(true) {
            store.places.borrow_mut().remove(&key);
        }
        has_checkpoint |= store.recovery_points.borrow_mut().remove(&key).is_some();
        has_checkpoint |= store.log_starts.borrow_mut().remove(&key).is_some();
    }
    if has_checkpoint {
        store.has_stale_checkpoints.set(true);
        if let Err(refusal) = checkpoints::drop_stale(&shard.io, &store).await {
            log::error!("Writing checkpoints without {name}: {}", refusal.message);
        }
    }
    results.iter().all(|result| *result == Ok(true))
}

/// A topic is gone: so are its nodes, the wish to delete it last.
pub(super) async fn forget_nodes(store: &Store, name: &str) -> Result<(), EnsembleError> {
    store.ensemble.delete_all(&znode::topic_path(name)).await?;
    store
        .ensemble
        .delete_all(&znode::topic_config_path(name))
        .await?;
    store.ensemble.delete_all(&znode::deletion_path(name)).await
}

/// The directory's new name says that it goes; its files go when nobody reads them any more.
async fn remove_here(shard: &Rc<Shard>, name: &str, index: i32) -> bool {
    shard.partition_when_open(name, index).await;
    let Some(partition) = shard.remove_partition(name, index) else {
        shard.openings.forget_unopened(name, index);
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
