//! Ids of idempotent producers: blocks of them are reserved in ZooKeeper, and given out one by one.

use std::rc::Rc;

use bytes::Bytes;

use super::controller::Refusal;
use super::store::{Store, gone, no_ensemble, storage_error};
use super::znode;
use crate::shard::Shard;

/// Reserved with one write (Kafka: ProducerIdsBlock).
const PRODUCER_ID_BLOCK: i64 = 1000;

/// A producer id that was never given before.
///
/// # Errors
/// REQUEST_TIMED_OUT if ZooKeeper does not answer.
pub async fn next_producer_id(shard: &Rc<Shard>) -> Result<i64, Refusal> {
    let job = |shard: Rc<Shard>| async move {
        let store = shard.store();
        let _turn = store.turn(&shard).await;
        let (next, end) = store.producer_ids.get();
        if next < end {
            store.producer_ids.set((next + 1, end));
            return Ok(next);
        }
        let next = reserve_producer_ids(&shard, &store).await?;
        store.producer_ids.set((next + 1, next + PRODUCER_ID_BLOCK));
        Ok(next)
    };
    shard.on(0, job).await.map_err(gone)?
}

/// The first of a block that no broker has (Kafka 3.9: `ZkProducerIdManager`).
async fn reserve_producer_ids(shard: &Shard, store: &Store) -> Result<i64, Refusal> {
    let (path, ensemble) = (znode::PRODUCER_IDS, &store.ensemble);
    loop {
        let found = ensemble.get(path).await.map_err(no_ensemble)?;
        let Some(found) = found else {
            let nodes = vec![(path.to_owned(), Bytes::new())];
            ensemble.create(nodes).await.map_err(no_ensemble)?;
            continue;
        };
        let last = znode::decode_producer_ids(&found.data);
        let last = last.map_err(|error| storage_error(format!("{path}: {error}")))?;
        let first = last.map_or(0, |last| last + 1);
        let end = first + PRODUCER_ID_BLOCK - 1;
        let block = znode::producer_ids(shard.broker.config.node_id, first, end);
        let replaced = ensemble.replace(path, block, found.version).await;
        if replaced.map_err(no_ensemble)? {
            return Ok(first);
        }
    }
}
