//! Follows what others change in ZooKeeper, and tells shard 0.
//!
//! Persistent recursive watches (ZooKeeper 3.6) on the three places where tools write. Events may be
//! lost with a connection, so after each loss everything is looked at again.

use futures_channel::mpsc;
use futures_util::SinkExt;
use zookeeper_client::{AddWatchMode, Client, EventType, SessionState, WatchedEvent};

use crate::metadata::reconcile::{self, Change};
use crate::metadata::znode;
use crate::metrics::http::Shards;
use crate::shard::Job;
use crate::zookeeper::transaction::Change as NodeChange;

/// Ends with the session.
pub(super) async fn follow(client: &Client, mut attached: Shards) {
    let watched = [znode::TOPICS, znode::ADMIN, znode::CONFIG_CHANGES];
    let mut watchers = Vec::new();
    for path in watched {
        match client.watch(path, AddWatchMode::PersistentRecursive).await {
            Ok(watcher) => watchers.push(watcher),
            Err(error) => {
                log::error!(
                    "ZooKeeper does not watch {path}: {error}\n   | ZooKeeper 3.6 or newer is needed"
                );
                return;
            }
        }
    }
    let first = match attached.wait_for(Option::is_some).await {
        Ok(shards) => shards.iter().flatten().next().cloned(),
        // The broker stops.
        Err(_) => return,
    };
    let Some(mut shard) = first else { return };
    tell(&mut shard, Change::Everything).await;
    let [topics, admin, configs] = &mut watchers[..] else {
        return;
    };
    loop {
        let event = tokio::select! {
            event = topics.changed() => event,
            event = admin.changed() => event,
            event = configs.changed() => event,
        };
        if event.event_type == EventType::Session {
            if event.session_state.is_terminated() {
                return;
            }
            if event.session_state == SessionState::SyncConnected {
                tell(&mut shard, Change::Everything).await;
            }
        } else if let Some(change) =
            node_change(&event).and_then(|node| Change::of(node, &event.path))
        {
            tell(&mut shard, change).await;
        }
    }
}

/// What has become of a node; recursive watches tell nothing else.
fn node_change(event: &WatchedEvent) -> Option<NodeChange> {
    match event.event_type {
        EventType::NodeCreated => Some(NodeChange::Created),
        EventType::NodeDataChanged => Some(NodeChange::DataChanged),
        EventType::NodeDeleted => Some(NodeChange::Deleted),
        EventType::Session | EventType::NodeChildrenChanged => None,
    }
}

async fn tell(shard: &mut mpsc::Sender<Job>, change: Change) {
    let job: Job = Box::new(move |shard| reconcile::tell(shard, change));
    // A shard that has ended needs no message.
    let _ = shard.send(job).await;
}
