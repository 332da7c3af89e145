//! What ZooKeeper holds at a start, and what a new cluster takes over from the log directories.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::Found;
use crate::config::BrokerConfig;
use crate::metadata::ensemble::{Ensemble, EnsembleError, Znode};
use crate::metadata::znode::{self, TopicNode};

/// The nodes that a start needs.
#[derive(Debug, Default)]
pub struct Cluster {
    /// `/cluster/id`; a new cluster has none.
    pub id: Option<String>,
    /// `/brokers/topics`.
    pub topics: BTreeMap<String, Znode>,
    /// `/config/topics`.
    pub topic_configs: BTreeMap<String, Znode>,
    /// `/config/brokers`.
    pub broker_configs: BTreeMap<String, Znode>,
    /// Topics that are to be deleted.
    pub deletions: BTreeSet<String>,
}

impl Cluster {
    /// Reads them.
    ///
    /// # Errors
    /// ZooKeeper's silence, or the node that makes no sense.
    pub async fn read(ensemble: &Ensemble) -> Result<Cluster, String> {
        let failed = |error: EnsembleError| error.to_string();
        let id = match ensemble.get(znode::CLUSTER_ID).await.map_err(failed)? {
            Some(node) => {
                let id = znode::decode_cluster_id(&node.data);
                Some(id.map_err(|error| format!("{}: {error}", znode::CLUSTER_ID))?)
            }
            None => None,
        };
        let children = async |path| ensemble.children(path).await.map_err(failed);
        Ok(Cluster {
            id,
            topics: children(znode::TOPICS).await?,
            topic_configs: children(znode::TOPIC_CONFIGS).await?,
            broker_configs: children(znode::BROKER_CONFIGS).await?,
            deletions: children(znode::DELETIONS).await?.into_keys().collect(),
        })
    }
}

/// Writes what was found and ZooKeeper does not have yet: all of a new cluster, whose id comes last,
/// so that a start that is cut short is begun again; and ids of topics that older tools have made.
///
/// # Errors
/// ZooKeeper's silence or refusal.
pub async fn enroll(
    ensemble: &Ensemble,
    config: &BrokerConfig,
    found: &Found,
) -> Result<(), String> {
    let failed = |error: EnsembleError| error.to_string();
    for name in &found.unenrolled {
        let Some(topic) = found.image.topic(name) else {
            continue;
        };
        log::info!("Topic {name} of the log directories is entered in ZooKeeper");
        let node = TopicNode::on_one_broker(topic.id, topic.partitions, config.node_id);
        // Before the topic, which is not looked at again once it is there.
        if found.is_new_cluster && !topic.overrides.is_empty() {
            let (path, settings) = (
                znode::topic_config_path(name),
                znode::config(&topic.overrides),
            );
            ensemble.put(&path, settings).await.map_err(failed)?;
        }
        let path = znode::topic_path(name);
        let put = ensemble.put(&path, node.encode()).await;
        put.map_err(failed)?;
    }
    if found.is_new_cluster {
        let parents = znode::PERSISTENT.map(|path| (path.to_owned(), Bytes::new()));
        ensemble.create(parents.to_vec()).await.map_err(failed)?;
        let id = znode::cluster_id(&found.cluster_id);
        ensemble.put(znode::CLUSTER_ID, id).await.map_err(failed)?;
    }
    Ok(())
}
