//! OffsetFetch, version 0 to 9.
//!
//! | version | what changes |
//! |---|---|
//! | 0, 1 | one group, errors per partition only; Kafka reads version 0 from ZooKeeper, we do not |
//! | 2 | null topics: all that the group has committed; an error for the group (KIP-88) |
//! | 5 | leader epoch (KIP-320) |
//! | 6 | flexible |
//! | 7 | require stable: UNSTABLE_OFFSET_COMMIT while a commit is under way (KIP-447) |
//! | 8 | several groups (KIP-709) |
//! | 9 | member id and epoch, for the KIP-848 protocol; they do not matter here |

use super::context::own;
use super::group_state::Group;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{OffsetFetchRequest, OffsetFetchResponse};
use kafka_protocol::protocol::StrBytes;

/// The groups of the request in the shape of version 8.
pub(super) fn requested_groups(
    version: i16,
    request: OffsetFetchRequest,
) -> Vec<OffsetFetchRequestGroup> {
    if version >= 8 {
        return request.groups;
    }
    let topics = request.topics.map(|topics| {
        let topics = topics.into_iter().map(|topic| {
            OffsetFetchRequestTopics::default()
                .with_name(topic.name)
                .with_partition_indexes(topic.partition_indexes)
        });
        topics.collect()
    });
    vec![
        OffsetFetchRequestGroup::default()
            .with_group_id(request.group_id)
            .with_topics(topics),
    ]
}

/// The answer in the shape of the version.
pub(super) fn response(version: i16, groups: Vec<OffsetFetchResponseGroup>) -> OffsetFetchResponse {
    if version >= 8 {
        return OffsetFetchResponse::default().with_groups(groups);
    }
    let Some(group) = groups.into_iter().next() else {
        return OffsetFetchResponse::default();
    };
    let topics = group.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|partition| {
            OffsetFetchResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_committed_offset(partition.committed_offset)
                .with_committed_leader_epoch(partition.committed_leader_epoch)
                .with_metadata(partition.metadata)
                .with_error_code(partition.error_code)
        });
        OffsetFetchResponseTopic::default()
            .with_name(topic.name)
            .with_partitions(partitions.collect())
    });
    OffsetFetchResponse::default()
        .with_topics(topics.collect())
        .with_error_code(group.error_code)
}

/// The answer for a group that cannot be asked. Before version 2 only partitions have errors.
pub(super) fn error_group(
    version: i16,
    request: OffsetFetchRequestGroup,
    error: ResponseError,
) -> OffsetFetchResponseGroup {
    let response = OffsetFetchResponseGroup::default().with_group_id(request.group_id);
    if version >= 2 {
        return response.with_error_code(error.code());
    }
    let topics = request.topics.unwrap_or_default();
    response.with_topics(answer_topics(topics, |_, _| no_offset(error.code())))
}

/// The answer for a group; one that does not exist has committed nothing.
pub(super) fn fetch_offsets(
    group: Option<&Group>,
    request: OffsetFetchRequestGroup,
    require_stable: bool,
) -> OffsetFetchResponseGroup {
    let topics = match request.topics {
        Some(topics) => topics,
        None => group.map(all_topics).unwrap_or_default(),
    };
    let topics = answer_topics(topics, |topic, partition| {
        let Some(group) = group else {
            return no_offset(0);
        };
        let partition = (topic.clone(), partition);
        if require_stable && group.offsets.is_pending(&partition) {
            return no_offset(ResponseError::UnstableOffsetCommit.code());
        }
        match group.offsets.get(&partition) {
            None => no_offset(0),
            Some(value) => OffsetFetchResponsePartitions::default()
                .with_committed_offset(value.offset)
                .with_committed_leader_epoch(value.leader_epoch)
                .with_metadata(Some(value.metadata.clone())),
        }
    });
    OffsetFetchResponseGroup::default()
        .with_group_id(request.group_id)
        .with_topics(topics)
}

fn answer_topics(
    topics: Vec<OffsetFetchRequestTopics>,
    answer: impl Fn(&StrBytes, i32) -> OffsetFetchResponsePartitions,
) -> Vec<OffsetFetchResponseTopics> {
    topics
        .into_iter()
        .map(|topic| {
            let name = own(&topic.name);
            let partitions = topic
                .partition_indexes
                .into_iter()
                .map(|index| answer(&name, index).with_partition_index(index));
            let partitions = partitions.collect();
            OffsetFetchResponseTopics::default()
                .with_name(name.into())
                .with_partitions(partitions)
        })
        .collect()
}

fn no_offset(code: i16) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions::default()
        .with_committed_offset(-1)
        .with_metadata(Some(StrBytes::default()))
        .with_error_code(code)
}

fn all_topics(group: &Group) -> Vec<OffsetFetchRequestTopics> {
    let mut topics: Vec<OffsetFetchRequestTopics> = Vec::new();
    for ((topic, partition), _) in group.offsets.iter() {
        match topics.last_mut() {
            Some(last) if last.name.0 == *topic => last.partition_indexes.push(*partition),
            Some(_) | None => topics.push(
                OffsetFetchRequestTopics::default()
                    .with_name(topic.clone().into())
                    .with_partition_indexes(vec![*partition]),
            ),
        }
    }
    topics
}
