//! A member of a consumer group, as clients are one: find the coordinator, join, sync, heartbeat, commit,
//! leave. The classic protocol with the eager `range` assignment; versions are those of a 0.10 client or
//! newer ones, and the oldest that the broker serves where it has dropped these.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::join_group_response::JoinGroupResponse;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ApiKey, FindCoordinatorRequest, GroupId, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest,
    OffsetCommitRequest, OffsetFetchRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::StrBytes;

use crate::client::{Client, accept, topic_name};
use crate::failure::Failure;
use crate::transport::Connection;

/// A member that is not heard of for so long is out.
const SESSION_TIMEOUT_MS: i32 = 30_000;
const PROTOCOL: &str = "range";
const PROTOCOL_TYPE: &str = "consumer";
const COORDINATOR_LOADING: i16 = 14;
const COORDINATOR_NOT_AVAILABLE: i16 = 15;
const NOT_COORDINATOR: i16 = 16;
const ILLEGAL_GENERATION: i16 = 22;
const UNKNOWN_MEMBER: i16 = 25;
const REBALANCE_IN_PROGRESS: i16 = 27;
const MEMBER_ID_REQUIRED: i16 = 79;

/// The age of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Age {
    /// 0.10.0.
    Old,
    /// 2.3 and later, before the flexible versions.
    New,
}

/// The versions of a group's requests.
#[derive(Debug, Clone, Copy)]
struct Versions {
    find_coordinator: i16,
    join: i16,
    sync: i16,
    heartbeat: i16,
    commit: i16,
    offset_fetch: i16,
    leave: i16,
}

impl Versions {
    fn of<C: Connection>(age: Age, client: &Client<C>) -> Self {
        let version = |key: ApiKey, old, new| {
            client.version_or_oldest(key as i16, if age == Age::Old { old } else { new })
        };
        Self {
            find_coordinator: version(ApiKey::FindCoordinator, 0, 2),
            join: version(ApiKey::JoinGroup, 0, 5),
            sync: version(ApiKey::SyncGroup, 0, 3),
            heartbeat: version(ApiKey::Heartbeat, 0, 3),
            commit: version(ApiKey::OffsetCommit, 2, 7),
            offset_fetch: version(ApiKey::OffsetFetch, 1, 5),
            leave: version(ApiKey::LeaveGroup, 0, 2),
        }
    }
}

/// What a member got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Joined {
    /// Counts the group's rebalances.
    pub(crate) generation: i32,
    /// The member's own.
    pub(crate) partitions: Vec<i32>,
    /// How many are in the group; only the leader is told.
    pub(crate) members: Option<usize>,
}

/// One member, and its connection to the coordinator.
#[derive(Debug)]
pub(crate) struct Member<C> {
    client: Client<C>,
    group: GroupId,
    topic: String,
    partitions: i32,
    versions: Versions,
    member_id: StrBytes,
    generation: i32,
}

impl<C: Connection> Member<C> {
    /// Asks for the coordinator, which must be the broker that is asked.
    pub(crate) async fn new(
        mut client: Client<C>,
        group: &str,
        (topic, partitions): (&str, usize),
        age: Age,
    ) -> Result<Self, Failure> {
        let versions = Versions::of(age, &client);
        let request =
            FindCoordinatorRequest::default().with_key(StrBytes::from_string(group.to_owned()));
        let mut attempts_left = 1000;
        loop {
            let answer = client.call(&request, versions.find_coordinator).await?;
            match answer.error_code {
                // The first group of a broker makes __consumer_offsets.
                COORDINATOR_NOT_AVAILABLE | COORDINATOR_LOADING if attempts_left > 0 => {
                    attempts_left -= 1;
                    tokio::time::sleep(Duration::from_millis(5)).await; // the poll's pause, at most 5 s
                }
                code => break accept(&format!("FindCoordinator {group}"), code)?,
            }
        }
        Ok(Self {
            client,
            group: GroupId(StrBytes::from_string(group.to_owned())),
            topic: topic.to_owned(),
            partitions: i32::try_from(partitions).expect("checked against its limit"),
            versions,
            member_id: StrBytes::default(),
            generation: -1,
        })
    }

    /// Joins, and joins again as long as others do at the same time.
    pub(crate) async fn join(&mut self) -> Result<Joined, Failure> {
        for _ in 0..1000 {
            let answer = self.ask_to_join().await?;
            match answer.error_code {
                0 => {}
                MEMBER_ID_REQUIRED => {
                    self.member_id = answer.member_id;
                    continue;
                }
                UNKNOWN_MEMBER | ILLEGAL_GENERATION => {
                    self.member_id = StrBytes::default();
                    continue;
                }
                COORDINATOR_LOADING | COORDINATOR_NOT_AVAILABLE | NOT_COORDINATOR => {
                    tokio::time::sleep(Duration::from_millis(5)).await; // the poll's pause, at most 5 s
                    continue;
                }
                code => accept("JoinGroup", code)?,
            }
            self.generation = answer.generation_id;
            self.member_id.clone_from(&answer.member_id);
            let members = (answer.leader == answer.member_id).then_some(answer.members.len());
            let Some(partitions) = self.sync(&answer).await? else {
                continue;
            };
            return Ok(Joined {
                generation: self.generation,
                partitions,
                members,
            });
        }
        let what = format!("the group {} never settled", self.group.0);
        Err(Failure::Target(what))
    }

    async fn ask_to_join(&mut self) -> Result<JoinGroupResponse, Failure> {
        let mut subscription = BytesMut::new();
        subscription.put_i16(0); // version
        subscription.put_i32(1);
        put_string(&mut subscription, &self.topic);
        subscription.put_i32(0); // user_data
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(StrBytes::from_static_str(PROTOCOL))
            .with_metadata(subscription.freeze());
        let mut request = JoinGroupRequest::default()
            .with_group_id(self.group.clone())
            .with_session_timeout_ms(SESSION_TIMEOUT_MS)
            .with_member_id(self.member_id.clone())
            .with_protocol_type(StrBytes::from_static_str(PROTOCOL_TYPE))
            .with_protocols(vec![protocol]);
        if self.versions.join > 0 {
            request = request.with_rebalance_timeout_ms(SESSION_TIMEOUT_MS);
        }
        self.client.call(&request, self.versions.join).await
    }

    /// `None` if another rebalance has begun.
    async fn sync(&mut self, joined: &JoinGroupResponse) -> Result<Option<Vec<i32>>, Failure> {
        let count = joined.members.len().max(1);
        let assign = |(place, member): (usize, &_)| {
            let member: &kafka_protocol::messages::join_group_response::JoinGroupResponseMember =
                member;
            SyncGroupRequestAssignment::default()
                .with_member_id(member.member_id.clone())
                .with_assignment(self.assignment(&range(self.partitions, place, count)))
        };
        let mut members: Vec<_> = joined.members.iter().collect();
        members.sort_by(|one, other| one.member_id.cmp(&other.member_id));
        let assignments: Vec<_> = members.into_iter().enumerate().map(assign).collect();
        let is_leader = joined.leader == joined.member_id;
        let request = SyncGroupRequest::default()
            .with_group_id(self.group.clone())
            .with_generation_id(self.generation)
            .with_member_id(self.member_id.clone())
            .with_assignments(if is_leader { assignments } else { Vec::new() });
        let answer = self.client.call(&request, self.versions.sync).await?;
        match answer.error_code {
            REBALANCE_IN_PROGRESS | ILLEGAL_GENERATION | UNKNOWN_MEMBER => Ok(None),
            code => {
                accept("SyncGroup", code)?;
                assigned(answer.assignment, self.partitions)
                    .map(Some)
                    .ok_or_else(|| Failure::Protocol("an assignment that is none".to_owned()))
            }
        }
    }

    fn assignment(&self, partitions: &[i32]) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_i16(0); // version
        bytes.put_i32(1);
        put_string(&mut bytes, &self.topic);
        bytes.put_i32(i32::try_from(partitions.len()).expect("checked against its limit"));
        partitions
            .iter()
            .for_each(|partition| bytes.put_i32(*partition));
        bytes.put_i32(0); // user_data
        bytes.freeze()
    }

    /// Says that the member lives; false if it must join again.
    pub(crate) async fn heartbeat(&mut self) -> Result<bool, Failure> {
        let request = HeartbeatRequest::default()
            .with_group_id(self.group.clone())
            .with_generation_id(self.generation)
            .with_member_id(self.member_id.clone());
        let answer = self.client.call(&request, self.versions.heartbeat).await?;
        match answer.error_code {
            REBALANCE_IN_PROGRESS | ILLEGAL_GENERATION | UNKNOWN_MEMBER => Ok(false),
            code => accept("Heartbeat", code).map(|()| true),
        }
    }

    /// The group's offsets of these partitions; `None` where it has none.
    pub(crate) async fn committed(
        &mut self,
        partitions: &[i32],
    ) -> Result<Vec<Option<i64>>, Failure> {
        let topic = OffsetFetchRequestTopic::default()
            .with_name(topic_name(&self.topic))
            .with_partition_indexes(partitions.to_vec());
        let request = OffsetFetchRequest::default()
            .with_group_id(self.group.clone())
            .with_topics(Some(vec![topic]));
        let answer = self
            .client
            .call(&request, self.versions.offset_fetch)
            .await?;
        accept("OffsetFetch", answer.error_code)?;
        let mut offsets = vec![None; partitions.len()];
        for found in answer.topics.into_iter().flat_map(|topic| topic.partitions) {
            accept("OffsetFetch", found.error_code)?;
            let place = partitions
                .iter()
                .position(|it| *it == found.partition_index);
            if let Some(place) = place.filter(|_| found.committed_offset >= 0) {
                offsets[place] = Some(found.committed_offset);
            }
        }
        Ok(offsets)
    }

    /// Commits where to read on.
    pub(crate) async fn commit(&mut self, offsets: &[(i32, i64)]) -> Result<(), Failure> {
        let partition = |(partition, offset): &(i32, i64)| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(*partition)
                .with_committed_offset(*offset)
                .with_committed_metadata(Some(StrBytes::default()))
        };
        let topic = OffsetCommitRequestTopic::default()
            .with_name(topic_name(&self.topic))
            .with_partitions(offsets.iter().map(partition).collect());
        let request = OffsetCommitRequest::default()
            .with_group_id(self.group.clone())
            .with_generation_id_or_member_epoch(self.generation)
            .with_member_id(self.member_id.clone())
            .with_topics(vec![topic]);
        let answer = self.client.call(&request, self.versions.commit).await?;
        for committed in answer.topics.into_iter().flat_map(|topic| topic.partitions) {
            accept("OffsetCommit", committed.error_code)?;
        }
        Ok(())
    }

    /// Says farewell, so that the group need not wait for the session's end.
    pub(crate) async fn leave(&mut self) -> Result<(), Failure> {
        let request = LeaveGroupRequest::default()
            .with_group_id(self.group.clone())
            .with_member_id(self.member_id.clone());
        let answer = self.client.call(&request, self.versions.leave).await?;
        accept("LeaveGroup", answer.error_code)
    }
}

/// Kafka's `RangeAssignor` for one topic: the first members get one more.
fn range(partitions: i32, place: usize, members: usize) -> Vec<i32> {
    let (place, members) = (
        i32::try_from(place).unwrap_or(i32::MAX),
        i32::try_from(members).unwrap_or(i32::MAX),
    );
    let (each, more) = (partitions / members, partitions % members);
    let from = each * place + place.min(more);
    (from..from + each + i32::from(place < more)).collect()
}

/// Of one topic with `partitions`: version, topics [name, partitions], user data.
fn assigned(mut bytes: Bytes, partitions: i32) -> Option<Vec<i32>> {
    if bytes.is_empty() {
        return Some(Vec::new()); // more members than partitions
    }
    bytes.try_get_i16().ok()?;
    if bytes.try_get_i32().ok()? < 1 {
        return Some(Vec::new());
    }
    let name = usize::try_from(bytes.try_get_i16().ok()?).ok()?;
    if bytes.remaining() < name {
        return None;
    }
    bytes.advance(name);
    let count = bytes.try_get_i32().ok()?;
    let mut next = || {
        let partition = bytes.try_get_i32().ok()?;
        (0..partitions).contains(&partition).then_some(partition)
    };
    (0..count).map(|_| next()).collect()
}

fn put_string(out: &mut BytesMut, text: &str) {
    out.put_i16(i16::try_from(text.len()).expect("names are short"));
    out.put_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_gives_every_partition_to_one_member() {
        assert_eq!(range(7, 0, 3), [0, 1, 2]);
        assert_eq!(range(7, 1, 3), [3, 4]);
        assert_eq!(range(7, 2, 3), [5, 6]);
        assert!(range(1, 1, 2).is_empty());
    }

    const NEGATIVE: [u8; 17] = [0, 0, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 255, 255, 255, 255];

    #[test]
    fn an_assignment_is_read_and_garbage_is_not() {
        let bytes = [
            &[0, 0, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 2][..],
            &[0; 4],
            &[0, 0, 0, 5],
        ];
        assert_eq!(assigned(Bytes::from(bytes.concat()), 6), Some(vec![0, 5]));
        // Nobody else's partitions: they are looked up in lists of this topic's.
        assert_eq!(assigned(Bytes::from(bytes.concat()), 5), None);
        assert_eq!(assigned(Bytes::from_static(&NEGATIVE), 5), None);
        assert_eq!(assigned(Bytes::new(), 1), Some(vec![]));
        assert_eq!(
            assigned(Bytes::from_static(&[0, 0, 0, 0, 0, 1, 9, 9]), 1),
            None
        );
    }
}
