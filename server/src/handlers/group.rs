//! The APIs of consumer groups: OffsetCommit (8), OffsetFetch (9), JoinGroup (11), Heartbeat (12),
//! LeaveGroup (13), SyncGroup (14), DescribeGroups (15), ListGroups (16), DeleteGroups (42),
//! OffsetDelete (47). Each is carried to the shard of its group's `__consumer_offsets` partition;
//! what they mean, and their versions, stand in [`crate::group`].
//!
//! Requests that name several groups are split by shard and their answers joined, in the order
//! asked.

use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, ListGroupsRequest, ListGroupsResponse,
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetFetchRequest,
    OffsetFetchResponse, SyncGroupRequest, TopicName,
};
use kafka_protocol::protocol::Encodable;

use crate::dispatch::{Answer, Call, Handled};
use crate::group::driver::{Asker, ask};
use crate::group::{GroupRequest, GroupResponse, partition_for_group};
use crate::metadata::state::GROUP_TOPIC;
use crate::net::response::Response;
use crate::shard::Shard;

/// The shard of a group's coordinator; this one, if there are no groups at all yet: its
/// coordinator owns no partition and says so.
pub(crate) fn owner(shard: &Shard, group_id: &str) -> usize {
    match shard.image().topic(GROUP_TOPIC) {
        Some(topic) => shard.owner(GROUP_TOPIC, partition_for_group(group_id, topic.partitions)),
        None => shard.id,
    }
}

fn asker(call: &Call) -> Asker {
    Asker {
        version: call.request.version,
        client_id: call.client_id().to_owned(),
        client_host: format!("/{}", call.connection.peer.ip().to_canonical()),
    }
}

/// Asks the coordinator on shard `target`.
async fn ask_on(call: &Call, target: usize, request: GroupRequest) -> Option<GroupResponse> {
    let asker = asker(call);
    let job = move |shard: Rc<Shard>| async move { ask(&shard, &asker, request).await };
    call.shard.count_hop(target);
    call.shard.on(target, job).await.ok().flatten()
}

/// A handler of an API with one group: decode, ask, encode.
macro_rules! of_one_group {
    ($name:ident, $request:ty, $variant:ident) => {
        pub(crate) fn $name(call: Call) -> Handled {
            Box::pin(async move {
                let request: $request = call.decode()?;
                let target = owner(&call.shard, &request.group_id);
                Ok(Answer::Later(Box::pin(async move {
                    let answer = ask_on(&call, target, GroupRequest::$variant(request)).await;
                    let Some(GroupResponse::$variant(response)) = answer else {
                        return None;
                    };
                    later(&call, &response)
                })))
            })
        }
    };
}

of_one_group!(join_group, JoinGroupRequest, JoinGroup);
of_one_group!(sync_group, SyncGroupRequest, SyncGroup);
of_one_group!(heartbeat, HeartbeatRequest, Heartbeat);
of_one_group!(leave_group, LeaveGroupRequest, LeaveGroup);
of_one_group!(offset_delete, OffsetDeleteRequest, OffsetDelete);

fn later<M: Encodable>(call: &Call, message: &M) -> Option<Response> {
    Response::encode(message, call.request.version)
        .map_err(|error| log::error!("answer of key {}: {error}", call.request.api_key))
        .ok()
}

/// Offsets of topics that do not exist are refused, the others go to the coordinator.
pub(crate) fn offset_commit(call: Call) -> Handled {
    Box::pin(async move {
        let mut request: OffsetCommitRequest = call.decode()?;
        let image = call.shard.image();
        let mut refused = Vec::new();
        for topic in &mut request.topics {
            let known = image.topic(&topic.name).map_or(0, |topic| topic.partitions);
            let is_known = |index: i32| (0..known).contains(&index);
            let mut unknown = Vec::new();
            topic.partitions.retain(|partition| {
                let keep = is_known(partition.partition_index);
                if !keep {
                    unknown.push(partition.partition_index);
                }
                keep
            });
            if !unknown.is_empty() {
                refused.push((topic.name.clone(), unknown));
            }
        }
        request.topics.retain(|topic| !topic.partitions.is_empty());
        let target = owner(&call.shard, &request.group_id);
        Ok(Answer::Later(Box::pin(async move {
            let answer = ask_on(&call, target, GroupRequest::OffsetCommit(request)).await;
            let Some(GroupResponse::OffsetCommit(mut response)) = answer else {
                return None;
            };
            for (name, indexes) in refused {
                add_unknown(&mut response, name, &indexes);
            }
            later(&call, &response)
        })))
    })
}

fn add_unknown(response: &mut OffsetCommitResponse, name: TopicName, indexes: &[i32]) {
    let unknown = indexes.iter().map(|index| {
        OffsetCommitResponsePartition::default()
            .with_partition_index(*index)
            .with_error_code(ResponseError::UnknownTopicOrPartition.code())
    });
    match response.topics.iter_mut().find(|topic| topic.name == name) {
        Some(topic) => topic.partitions.extend(unknown),
        None => response.topics.push(
            OffsetCommitResponseTopic::default()
                .with_name(name)
                .with_partitions(unknown.collect()),
        ),
    }
}

/// From version 8 on a request names several groups: each is asked by itself.
pub(crate) fn offset_fetch(call: Call) -> Handled {
    Box::pin(async move {
        let request: OffsetFetchRequest = call.decode()?;
        Ok(Answer::Later(Box::pin(async move {
            if call.request.version < 8 {
                let target = owner(&call.shard, &request.group_id);
                let answer = ask_on(&call, target, GroupRequest::OffsetFetch(request)).await;
                let Some(GroupResponse::OffsetFetch(response)) = answer else {
                    return None;
                };
                return later(&call, &response);
            }
            let mut joined = OffsetFetchResponse::default();
            for group in &request.groups {
                let target = owner(&call.shard, &group.group_id);
                let one = request.clone().with_groups(vec![group.clone()]);
                let answer = ask_on(&call, target, GroupRequest::OffsetFetch(one)).await;
                let Some(GroupResponse::OffsetFetch(response)) = answer else {
                    return None;
                };
                joined.groups.extend(response.groups);
            }
            later(&call, &joined)
        })))
    })
}

pub(crate) fn describe_groups(call: Call) -> Handled {
    Box::pin(async move {
        let request: DescribeGroupsRequest = call.decode()?;
        Ok(Answer::Later(Box::pin(async move {
            let mut joined = DescribeGroupsResponse::default();
            for group in &request.groups {
                let target = owner(&call.shard, group);
                let one = request.clone().with_groups(vec![group.clone()]);
                let answer = ask_on(&call, target, GroupRequest::DescribeGroups(one)).await;
                let Some(GroupResponse::DescribeGroups(response)) = answer else {
                    return None;
                };
                joined.groups.extend(response.groups);
            }
            later(&call, &joined)
        })))
    })
}

pub(crate) fn delete_groups(call: Call) -> Handled {
    Box::pin(async move {
        let request: DeleteGroupsRequest = call.decode()?;
        Ok(Answer::Later(Box::pin(async move {
            let mut joined = DeleteGroupsResponse::default();
            for group in &request.groups_names {
                let target = owner(&call.shard, group);
                let one = DeleteGroupsRequest::default().with_groups_names(vec![group.clone()]);
                let answer = ask_on(&call, target, GroupRequest::DeleteGroups(one)).await;
                let Some(GroupResponse::DeleteGroups(response)) = answer else {
                    return None;
                };
                joined.results.extend(response.results);
            }
            later(&call, &joined)
        })))
    })
}

/// The groups of all shards; of this one, where each is a broker, for clients ask all brokers.
pub(crate) fn list_groups(call: Call) -> Handled {
    Box::pin(async move {
        let request: ListGroupsRequest = call.decode()?;
        Ok(Answer::Later(Box::pin(async move {
            let mut joined = ListGroupsResponse::default();
            for target in call.shard.shards_of_node() {
                let asked = GroupRequest::ListGroups(request.clone());
                let answer = ask_on(&call, target, asked).await;
                let Some(GroupResponse::ListGroups(response)) = answer else {
                    return None;
                };
                joined.error_code = joined.error_code.max(response.error_code);
                joined.groups.extend(response.groups);
            }
            later(&call, &joined)
        })))
    })
}
