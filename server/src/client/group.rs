//! Membership in a consumer group, and the calls of the group tools.
//!
//! The classic protocol (JoinGroup, SyncGroup, Heartbeat) with the range assignor, which every
//! Kafka client can be in one group with. No thread: the owner calls [`Member::tick`] between
//! fetches, and a fetch is never longer than a fraction of the session.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, DeleteGroupsRequest,
    DescribeGroupsRequest, GroupId, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest,
    ListGroupsRequest, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest,
    SyncGroupRequest,
    consumer_protocol_assignment::TopicPartition as AssignedTopic,
    describe_groups_response::DescribedGroup,
    join_group_request::JoinGroupRequestProtocol,
    join_group_response::JoinGroupResponse,
    leave_group_request::MemberIdentity,
    list_groups_response::ListedGroup,
    offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
    offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic},
    offset_fetch_request::OffsetFetchRequestGroup,
    sync_group_request::SyncGroupRequestAssignment,
};
use kafka_protocol::protocol::{Decodable, Encodable};

use super::{Client, ClientError, REQUEST_TIMEOUT, TopicPartition, check, code, text, topic_name};

const SESSION: Duration = Duration::from_secs(45);
const HEARTBEAT: Duration = Duration::from_secs(3);
const REBALANCE: Duration = Duration::from_secs(60);

fn group_id(group: &str) -> GroupId {
    GroupId(text(group))
}

/// A member of a group.
#[derive(Debug)]
pub struct Member {
    group: String,
    topics: Vec<String>,
    member_id: String,
    generation: i32,
    last_heartbeat: Instant,
}

impl Member {
    /// A member that has not joined yet.
    #[must_use]
    pub fn new(group: &str, topics: &[String]) -> Self {
        Self {
            group: group.to_owned(),
            topics: topics.to_vec(),
            member_id: String::new(),
            generation: -1,
            last_heartbeat: Instant::now(),
        }
    }

    /// Joins (again) and answers the partitions assigned.
    ///
    /// # Errors
    /// If the coordinator refuses.
    pub fn join(&mut self, client: &mut Client) -> Result<Vec<TopicPartition>, ClientError> {
        let deadline = Instant::now() + REBALANCE + REQUEST_TIMEOUT;
        loop {
            match self.try_join(client) {
                Ok(partitions) => {
                    self.last_heartbeat = Instant::now();
                    return Ok(partitions);
                }
                Err(ClientError::Kafka { code, .. })
                    if self.can_rejoin(code) && Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn can_rejoin(&mut self, error: i16) -> bool {
        match error {
            code::UNKNOWN_MEMBER_ID => {
                self.member_id.clear();
                true
            }
            code::NOT_COORDINATOR
            | code::COORDINATOR_NOT_AVAILABLE
            | code::COORDINATOR_LOAD_IN_PROGRESS => {
                std::thread::sleep(Duration::from_millis(100));
                true
            }
            code::REBALANCE_IN_PROGRESS | code::ILLEGAL_GENERATION | code::MEMBER_ID_REQUIRED => {
                true
            }
            _ => false,
        }
    }

    fn try_join(&mut self, client: &mut Client) -> Result<Vec<TopicPartition>, ClientError> {
        let topics = self.topics.iter().map(|topic| text(topic)).collect();
        let subscription = ConsumerProtocolSubscription::default().with_topics(topics);
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(versioned(&subscription, 1)?);
        let milliseconds = |time: Duration| i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
        let request = JoinGroupRequest::default()
            .with_group_id(group_id(&self.group))
            .with_session_timeout_ms(milliseconds(SESSION))
            .with_rebalance_timeout_ms(milliseconds(REBALANCE))
            .with_member_id(text(&self.member_id))
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        let coordinator = client.coordinator(&self.group)?.id;
        let answer = client
            .node(coordinator)?
            .call(&request, REBALANCE + REQUEST_TIMEOUT)?;
        if answer.error_code == code::MEMBER_ID_REQUIRED {
            self.member_id = answer.member_id.to_string();
        }
        check(answer.error_code, None)?;
        self.member_id = answer.member_id.to_string();
        self.generation = answer.generation_id;
        let mut assignments = Vec::new();
        if answer.leader == answer.member_id {
            assignments = lead(client, &answer)?;
        }
        let request = SyncGroupRequest::default()
            .with_group_id(group_id(&self.group))
            .with_generation_id(self.generation)
            .with_member_id(text(&self.member_id))
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text("range")))
            .with_assignments(assignments);
        let answer = client
            .node(coordinator)?
            .call(&request, REBALANCE + REQUEST_TIMEOUT)?;
        check(answer.error_code, None)?;
        Ok(assigned_partitions(&answer.assignment))
    }

    /// Sends a heartbeat if one is due; `true` if the member has to join again.
    ///
    /// # Errors
    /// If the coordinator cannot be reached or refuses.
    pub fn tick(&mut self, client: &mut Client) -> Result<bool, ClientError> {
        if self.last_heartbeat.elapsed() < HEARTBEAT {
            return Ok(false);
        }
        self.last_heartbeat = Instant::now();
        let request = HeartbeatRequest::default()
            .with_group_id(group_id(&self.group))
            .with_generation_id(self.generation)
            .with_member_id(text(&self.member_id));
        let answer = client.call_coordinator(&self.group, &request)?;
        match answer.error_code {
            0 => Ok(false),
            error if self.can_rejoin(error) => Ok(true),
            error => Err(ClientError::kafka(error, None)),
        }
    }

    /// Commits positions as this member.
    ///
    /// # Errors
    /// The coordinator's refusal; one that a rebalance explains is none.
    pub fn commit(
        &mut self,
        client: &mut Client,
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Result<(), ClientError> {
        let member = (self.generation, self.member_id.as_str());
        let results = client.commit_offsets(&self.group, member, offsets)?;
        for error in results.into_values() {
            let is_rebalance = matches!(
                error,
                0 | code::REBALANCE_IN_PROGRESS | code::ILLEGAL_GENERATION
            );
            if !is_rebalance {
                check(error, None)?;
            }
        }
        Ok(())
    }

    /// Leaves, so that the others need not wait for the session to end.
    ///
    /// # Errors
    /// If the coordinator cannot be reached.
    pub fn leave(&mut self, client: &mut Client) -> Result<(), ClientError> {
        let coordinator = client.coordinator(&self.group)?.id;
        let version = client.node(coordinator)?.version::<LeaveGroupRequest>()?;
        let mut request = LeaveGroupRequest::default().with_group_id(group_id(&self.group));
        if version >= 3 {
            request.members = vec![MemberIdentity::default().with_member_id(text(&self.member_id))];
        } else {
            request.member_id = text(&self.member_id);
        }
        client.call_node(coordinator, &request).map(|_| ())
    }
}

/// A structure of the consumer protocol with its version in front.
fn versioned<M: Encodable>(message: &M, version: i16) -> Result<Bytes, ClientError> {
    let mut out = BytesMut::new();
    out.put_i16(version);
    message
        .encode(&mut out, version)
        .map_err(|error| ClientError::BadAnswer {
            address: "this tool".to_owned(),
            api: "consumer protocol".to_owned(),
            what: error.to_string(),
        })?;
    Ok(out.freeze())
}

/// Topics a member subscribes to; none if its metadata is not the consumer protocol's.
fn subscribed_topics(metadata: &Bytes) -> Vec<String> {
    let mut bytes = metadata.clone();
    if bytes.len() < 2 {
        return Vec::new();
    }
    let version = bytes.get_i16().min(3);
    let subscription = ConsumerProtocolSubscription::decode(&mut bytes, version);
    let topics = subscription.map(|found| found.topics).unwrap_or_default();
    topics.iter().map(ToString::to_string).collect()
}

/// Partitions of an assignment; none if it is not the consumer protocol's.
#[must_use]
pub fn assigned_partitions(assignment: &Bytes) -> Vec<TopicPartition> {
    let mut bytes = assignment.clone();
    if bytes.len() < 2 {
        return Vec::new();
    }
    let version = bytes.get_i16().min(3);
    let Ok(assignment) = ConsumerProtocolAssignment::decode(&mut bytes, version) else {
        return Vec::new();
    };
    let topics = assignment.assigned_partitions.iter();
    let mut partitions: Vec<_> = topics
        .flat_map(|topic| {
            let partitions = topic.partitions.iter();
            partitions.map(|partition| TopicPartition::new(topic.topic.0.as_str(), *partition))
        })
        .collect();
    partitions.sort();
    partitions
}

/// The leader's part: the assignment of every member.
fn lead(
    client: &mut Client,
    joined: &JoinGroupResponse,
) -> Result<Vec<SyncGroupRequestAssignment>, ClientError> {
    let mut subscriptions = BTreeMap::new();
    for member in &joined.members {
        subscriptions.insert(
            member.member_id.to_string(),
            subscribed_topics(&member.metadata),
        );
    }
    let topics: BTreeSet<_> = subscriptions.values().flatten().cloned().collect();
    let topics: Vec<_> = topics.into_iter().collect();
    let mut counts = BTreeMap::new();
    for topic in client.metadata(Some(&topics))?.topics {
        let name = topic.name.map(|name| name.to_string()).unwrap_or_default();
        counts.insert(name, topic.partitions.len());
    }
    let mut answers = Vec::new();
    for (member, partitions) in assign_range(&subscriptions, &counts) {
        let mut topics: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for partition in partitions {
            topics
                .entry(partition.topic)
                .or_default()
                .push(partition.partition);
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            AssignedTopic::default()
                .with_topic(topic_name(&topic))
                .with_partitions(partitions)
        });
        let assignment =
            ConsumerProtocolAssignment::default().with_assigned_partitions(topics.collect());
        answers.push(
            SyncGroupRequestAssignment::default()
                .with_member_id(text(&member))
                .with_assignment(versioned(&assignment, 1)?),
        );
    }
    Ok(answers)
}

/// Kafka's range assignor: per topic, contiguous shares in the order of the member ids, the first
/// members one more if it does not divide (Kafka: `RangeAssignor.java`).
fn assign_range(
    subscriptions: &BTreeMap<String, Vec<String>>,
    counts: &BTreeMap<String, usize>,
) -> BTreeMap<String, Vec<TopicPartition>> {
    let mut assigned: BTreeMap<String, Vec<TopicPartition>> = BTreeMap::new();
    for member in subscriptions.keys() {
        assigned.entry(member.clone()).or_default();
    }
    for (topic, count) in counts {
        let members = subscriptions
            .iter()
            .filter(|(_, topics)| topics.contains(topic));
        let members: Vec<_> = members.map(|(member, _)| member).collect();
        let share = count.checked_div(members.len()).unwrap_or(0);
        let more = count.checked_rem(members.len()).unwrap_or(0);
        let mut next = 0;
        for (index, member) in members.into_iter().enumerate() {
            let end = next + share + usize::from(index < more);
            let partitions = (next..end).filter_map(|partition| i32::try_from(partition).ok());
            let list = assigned.entry(member.clone()).or_default();
            list.extend(partitions.map(|partition| TopicPartition::new(topic, partition)));
            next = end;
        }
    }
    assigned
}

impl Client {
    /// The groups of all brokers, by name.
    ///
    /// # Errors
    /// If a broker cannot be reached.
    pub fn list_groups(&mut self) -> Result<Vec<ListedGroup>, ClientError> {
        let mut groups = Vec::new();
        for node in self.nodes()? {
            let answer = self.call_node(node.id, &ListGroupsRequest::default())?;
            check(answer.error_code, None)?;
            groups.extend(answer.groups);
        }
        groups.sort_by(|a, b| a.group_id.0.cmp(&b.group_id.0));
        Ok(groups)
    }

    /// One group; state `Dead` if it does not exist.
    ///
    /// # Errors
    /// The coordinator's refusal.
    pub fn describe_group(&mut self, group: &str) -> Result<DescribedGroup, ClientError> {
        let request = DescribeGroupsRequest::default().with_groups(vec![group_id(group)]);
        let answer = self.call_coordinator(group, &request)?;
        let Some(mut found) = answer.groups.into_iter().next() else {
            return Err(ClientError::kafka(code::GROUP_ID_NOT_FOUND, None));
        };
        // From version 6 on, and on 4.x: an error instead of the state (KIP-1043).
        if found.error_code == code::GROUP_ID_NOT_FOUND {
            found.group_state = text("Dead");
            found.error_code = 0;
        }
        check(found.error_code, None)?;
        Ok(found)
    }

    /// What a group committed; `None` of its topics means all.
    ///
    /// # Errors
    /// The coordinator's refusal.
    pub fn committed_offsets(
        &mut self,
        group: &str,
    ) -> Result<BTreeMap<TopicPartition, i64>, ClientError> {
        let coordinator = self.coordinator(group)?.id;
        let version = self.node(coordinator)?.version::<OffsetFetchRequest>()?;
        let mut request = OffsetFetchRequest::default();
        if version >= 8 {
            let wanted = OffsetFetchRequestGroup::default()
                .with_group_id(group_id(group))
                .with_member_epoch(-1)
                .with_topics(None);
            request.groups = vec![wanted];
        } else {
            request.group_id = group_id(group);
            request.topics = None;
        }
        let answer = self.call_node(coordinator, &request)?;
        let mut offsets = BTreeMap::new();
        check(answer.error_code, None)?;
        for topic in answer.topics {
            for p in topic.partitions.iter().filter(|p| p.committed_offset >= 0) {
                let partition = TopicPartition::new(topic.name.0.as_str(), p.partition_index);
                offsets.insert(partition, p.committed_offset);
            }
        }
        for found in answer.groups {
            check(found.error_code, None)?;
            for topic in found.topics {
                for p in topic.partitions.iter().filter(|p| p.committed_offset >= 0) {
                    let partition = TopicPartition::new(topic.name.0.as_str(), p.partition_index);
                    offsets.insert(partition, p.committed_offset);
                }
            }
        }
        Ok(offsets)
    }

    /// Commits offsets; generation -1 and no member is how a tool does it to an empty group.
    ///
    /// # Errors
    /// If the coordinator cannot be reached; its codes per partition are the answer.
    pub fn commit_offsets(
        &mut self,
        group: &str,
        (generation, member_id): (i32, &str),
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Result<BTreeMap<TopicPartition, i16>, ClientError> {
        let mut topics: Vec<OffsetCommitRequestTopic> = Vec::new();
        for (partition, offset) in offsets {
            let entry = OffsetCommitRequestPartition::default()
                .with_partition_index(partition.partition)
                .with_committed_offset(*offset)
                .with_committed_leader_epoch(-1)
                .with_commit_timestamp(-1)
                .with_committed_metadata(Some(text("")));
            let name = topic_name(&partition.topic);
            match topics.last_mut().filter(|topic| topic.name == name) {
                Some(topic) => topic.partitions.push(entry),
                None => topics.push(
                    OffsetCommitRequestTopic::default()
                        .with_name(name)
                        .with_partitions(vec![entry]),
                ),
            }
        }
        let request = OffsetCommitRequest::default()
            .with_group_id(group_id(group))
            .with_generation_id_or_member_epoch(generation)
            .with_member_id(text(member_id))
            .with_retention_time_ms(-1)
            .with_topics(topics);
        let answer = self.call_coordinator(group, &request)?;
        let mut results = BTreeMap::new();
        for topic in answer.topics {
            for p in topic.partitions {
                let partition = TopicPartition::new(topic.name.0.as_str(), p.partition_index);
                results.insert(partition, p.error_code);
            }
        }
        Ok(results)
    }

    /// Deletes a group.
    ///
    /// # Errors
    /// The coordinator's refusal.
    pub fn delete_group(&mut self, group: &str) -> Result<(), ClientError> {
        let request = DeleteGroupsRequest::default().with_groups_names(vec![group_id(group)]);
        let answer = self.call_coordinator(group, &request)?;
        for result in answer.results {
            check(result.error_code, None)?;
        }
        Ok(())
    }

    /// Deletes committed offsets; answers the code of the whole and per partition.
    ///
    /// # Errors
    /// If the coordinator cannot be reached.
    pub fn delete_offsets(
        &mut self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<(i16, BTreeMap<TopicPartition, i16>), ClientError> {
        let topics = partitions.iter().map(|partition| {
            let entry =
                OffsetDeleteRequestPartition::default().with_partition_index(partition.partition);
            OffsetDeleteRequestTopic::default()
                .with_name(topic_name(&partition.topic))
                .with_partitions(vec![entry])
        });
        let request = OffsetDeleteRequest::default()
            .with_group_id(group_id(group))
            .with_topics(topics.collect());
        let answer = self.call_coordinator(group, &request)?;
        let mut results = BTreeMap::new();
        for topic in answer.topics {
            for p in topic.partitions {
                let partition = TopicPartition::new(topic.name.0.as_str(), p.partition_index);
                results.insert(partition, p.error_code);
            }
        }
        Ok((answer.error_code, results))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_gives_the_first_members_one_more() {
        let topics = vec!["t".to_owned()];
        let members = ["a", "b", "c"].map(|m| (m.to_owned(), topics.clone()));
        let counts = BTreeMap::from([("t".to_owned(), 7)]);
        let assigned = assign_range(&BTreeMap::from(members), &counts);
        let sizes: Vec<_> = assigned.values().map(Vec::len).collect();
        assert_eq!(sizes, [3, 2, 2]);
        assert_eq!(assigned["b"][0], TopicPartition::new("t", 3));
    }

    #[test]
    fn foreign_metadata_is_nothing_rather_than_a_panic() {
        assert!(subscribed_topics(&Bytes::from_static(b"\x00")).is_empty());
        assert!(
            assigned_partitions(&Bytes::from_static(b"\x00\x00\xff\xff\xff\xff\x01")).is_empty()
        );
    }
}
