//! What ZooKeeper holds at a start, and what a new cluster takes over from the log directories.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use uuid::Uuid;

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
    /// The id that a topic has.
    #[must_use]
    pub fn topic_id(&self, name: &str) -> Option<Uuid> {
        let node = self.topics.get(name)?;
        TopicNode::decode(&node.data).ok()?.id
    }

    /// Whether a topic is to be deleted. Where none may be, its wish goes once the broker runs.
    pub(super) fn is_doomed(&self, config: &BrokerConfig, name: &str) -> bool {
        config.delete_topic_enable && self.deletions.contains(name)
    }

    /// Reads them.
    ///
    /// # Errors
    /// ZooKeeper's silence, or the node that makes no sense.
    pub async fn read(ensemble: &Ensemble) -> Result<Cluster, String> {
        let failed = |error: EnsembleError| error.to_string();
        let children = async |path| ensemble.children(path).await.map_err(failed);
        let (id, topics, topic_configs, broker_configs, deletions) = futures_util::try_join!(
            async { ensemble.get(znode::CLUSTER_ID).await.map_err(failed) },
            children(znode::TOPICS),
            children(znode::TOPIC_CONFIGS),
            children(znode::BROKER_CONFIGS),
            children(znode::DELETIONS),
        )?;
        let id = match id {
            Some(node) => {
                let id = znode::decode_cluster_id(&node.data);
                Some(id.map_err(|error| format!("{}: {error}", znode::CLUSTER_ID))?)
            }
            None => None,
        };
        Ok(Cluster {
            id,
            topics,
            topic_configs,
            broker_configs,
            deletions: deletions.into_keys().collect(),
        })
    }
}

/// A partition whose state ZooKeeper has was led once, so its directory was there. That it is not is no
/// reason to begin it anew: a disk may not be mounted.
///
/// # Errors
/// Which directory is missing and what to do; ZooKeeper's silence.
pub async fn refuse_lost(ensemble: &Ensemble, found: &Found) -> Result<(), String> {
    let missing = found.partitions.iter();
    for ((name, index), partition) in missing.filter(|(_, found)| found.opening.is_none()) {
        let state = ensemble.get(&znode::state_path(name, *index)).await;
        if state.map_err(|error| error.to_string())?.is_none() {
            continue;
        }
        let directory = &partition.directory;
        return Err(format!(
            "{} is not there or is no directory, but ZooKeeper knows that it was\n   | maybe the disk \
             of {} is not mounted: mount it; else restore the directory; to begin the partition anew, \
             without its records, make it an empty directory",
            directory.display(),
            directory.parent().unwrap_or(directory).display()
        ));
    }
    Ok(())
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
        if !found.unenrolled.is_empty() {
            log::warn!(
                "ZooKeeper knows of no cluster: {} topics of the log directories are taken over, with \
                 the broker's settings, for their own stood in ZooKeeper",
                found.unenrolled.len()
            );
        }
        let parents = znode::PERSISTENT.map(|path| (path.to_owned(), Bytes::new()));
        ensemble.create(parents.to_vec()).await.map_err(failed)?;
        let id = znode::cluster_id(&found.cluster_id);
        ensemble.put(znode::CLUSTER_ID, id).await.map_err(failed)?;
    }
    Ok(())
}
