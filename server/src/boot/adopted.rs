//! Topics of log directories that ZooKeeper does not know: those of another cluster, or of one whose
//! ZooKeeper was lost. Their settings stand in that ZooKeeper or in KRaft's metadata, not in the
//! directories. So that nothing is deleted which was to be kept, they are entered with
//! `retention.ms=-1`, unless the configuration says how long records are kept; Kafka's own topics with
//! the policy that Kafka gives them. Compaction is not guessed at: it would drop records.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::OnDisk;
use super::cluster::Cluster;
use crate::config::BrokerConfig;
use crate::config::topic::Overrides;
use crate::metadata::ensemble::Znode;
use crate::metadata::reconcile;
use crate::metadata::state::{GROUP_TOPIC, Image, TRANSACTION_TOPIC};
use crate::metadata::znode::{self, TopicNode};

/// Any of them says how long records are kept.
const RETENTION: [&str; 3] = [
    "log.retention.ms",
    "log.retention.minutes",
    "log.retention.hours",
];

/// A new cluster has the topics of the log directories.
pub(super) fn add_topics(
    image: &mut Image,
    config: &BrokerConfig,
    on_disk: &[OnDisk],
    ids: &BTreeMap<String, Uuid>,
    cluster: &Cluster,
) -> Result<(), String> {
    let mut kept = 0;
    for (name, id) in ids {
        let of_topic = on_disk.iter().filter(|found| found.seen.key.0 == *name);
        let highest = of_topic.map(|found| found.seen.key.1).max().unwrap_or(0);
        let node = TopicNode::on_one_broker(*id, highest + 1, config.node_id).encode();
        let guessed = Znode {
            data: znode::config(&cautious(config, name)),
            version: 0,
        };
        let known = cluster.topic_configs.get(name);
        let (topic, _) = reconcile::plan(config, image, name, &node, known.or(Some(&guessed)))
            .map_err(|reason| format!("topic {name}: {reason}"))?;
        kept += usize::from(known.is_none() && topic.overrides.contains_key("retention.ms"));
        image.insert(topic);
    }
    if kept > 0 {
        log::warn!(
            "The settings of {kept} topics are not known: nothing of them is deleted \
             (retention.ms=-1)\n   | set them with kafka-configs.sh, or give log.retention.hours"
        );
    }
    Ok(())
}

fn cautious(config: &BrokerConfig, topic: &str) -> Overrides {
    let setting = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let has_retention = || {
        RETENTION
            .iter()
            .any(|key| config.settings.set(key).is_some())
    };
    let settings = if [GROUP_TOPIC, TRANSACTION_TOPIC].contains(&topic) {
        vec![
            setting("cleanup.policy", "compact"),
            setting("compression.type", "producer"),
            (
                "segment.bytes".to_owned(),
                config.offsets.topic_segment_bytes.to_string(),
            ),
        ]
    } else if has_retention() {
        Vec::new()
    } else {
        vec![setting("retention.ms", "-1")]
    };
    settings.into_iter().collect()
}
