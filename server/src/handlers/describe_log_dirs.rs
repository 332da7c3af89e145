//! DescribeLogDirs (35), versions 0-4: which partitions each log directory has, and their sizes.
//!
//! - 2: flexible. 3: an error of the whole answer. 4: size of the volume (KIP-827).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;

use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;

use crate::dispatch::{Answer, Call, Handled, Refused};
use crate::shard::Shard;

/// Kafka's "not known" of a volume's bytes.
const UNKNOWN_BYTES: i64 = -1;

/// Sizes by topic and partition.
type Sizes = BTreeMap<String, BTreeMap<i32, i64>>;

pub(crate) fn handle(call: Call) -> Handled {
    Box::pin(describe_log_dirs(call))
}

async fn describe_log_dirs(call: Call) -> Result<Answer, Refused> {
    let request: DescribeLogDirsRequest = call.decode()?;
    let mut wanted: BTreeSet<(String, i32)> = BTreeSet::new();
    for topic in request.topics.iter().flatten() {
        let name = topic.topic.as_str();
        wanted.extend(topic.partitions.iter().map(|i| (name.to_owned(), *i)));
    }
    let is_all = request.topics.is_none();
    let mut by_directory: BTreeMap<PathBuf, Sizes> = BTreeMap::new();
    for target in call.shard.shards_of_node() {
        // A shard that has stopped serves nothing any more.
        let found = call.shard.on(target, sizes_here).await.unwrap_or_default();
        for (directory, (topic, index), size) in found {
            let of_directory = by_directory.entry(directory).or_default();
            let key = (topic, index);
            if is_all || wanted.contains(&key) {
                of_directory.entry(key.0).or_default().insert(index, size);
            }
        }
    }
    let mut response = DescribeLogDirsResponse::default();
    for directory in &call.shard.broker.config.log_dirs {
        let sizes = by_directory.remove(directory).unwrap_or_default();
        let shown = std::path::absolute(directory).unwrap_or_else(|_| directory.clone());
        let name = StrBytes::from_string(shown.display().to_string());
        let mut result = DescribeLogDirsResult::default()
            .with_log_dir(name)
            .with_topics(sizes.into_iter().map(topic).collect());
        if call.request.version >= 4 {
            let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
            let volume = call.shard.io.volume(directory).await;
            (result.total_bytes, result.usable_bytes) = match volume {
                Ok(volume) => (bytes(volume.total_bytes), bytes(volume.usable_bytes)),
                Err(_) => (UNKNOWN_BYTES, UNKNOWN_BYTES),
            };
        }
        response.results.push(result);
    }
    call.ready(&response)
}

type Found = Vec<(PathBuf, (String, i32), i64)>;

async fn sizes_here(shard: Rc<Shard>) -> Found {
    let mut found = Found::new();
    for partition in shard.partitions() {
        let directory = partition.log.directory();
        let parent = directory.parent().unwrap_or(&directory).to_owned();
        let key = (partition.topic().name.clone(), partition.index);
        let size = i64::try_from(partition.log.size_bytes()).unwrap_or(i64::MAX);
        found.push((parent, key, size));
    }
    found
}

fn topic((name, sizes): (String, BTreeMap<i32, i64>)) -> DescribeLogDirsTopic {
    let partition = |(index, size): (i32, i64)| {
        DescribeLogDirsPartition::default()
            .with_partition_index(index)
            .with_partition_size(size)
    };
    DescribeLogDirsTopic::default()
        .with_name(TopicName(StrBytes::from_string(name)))
        .with_partitions(sizes.into_iter().map(partition).collect())
}
