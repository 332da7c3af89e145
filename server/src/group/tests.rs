//! Scripts against the coordinator: a harness that plays the log, the clients and the clock.

mod admin;
mod load;
mod membership;
mod offsets;
mod random;
mod record_bytes;
mod static_members;

use super::*;
use bytes::{Bytes, BytesMut};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Encodable, StrBytes};
use std::collections::{BTreeMap, BTreeSet};

const PARTITIONS: i32 = 4;
const SESSION_MS: i32 = 10_000;
const REBALANCE_MS: i32 = 60_000;

/// A member as its client knows it.
#[derive(Debug, Clone, Default)]
struct Client {
    version: i16,
    member_id: String,
    instance_id: Option<String>,
    topics: Vec<String>,
    protocols: Vec<String>,
    session_ms: i32,
    rebalance_ms: i32,
    generation: i32,
}

impl Client {
    fn new(version: i16) -> Self {
        Self {
            version,
            topics: vec!["orders".into()],
            protocols: vec!["range".into()],
            session_ms: SESSION_MS,
            rebalance_ms: REBALANCE_MS,
            generation: -1,
            ..Self::default()
        }
    }

    fn with_instance(version: i16, instance_id: &str) -> Self {
        Self {
            instance_id: Some(instance_id.into()),
            ..Self::new(version)
        }
    }

    fn subscription(&self) -> Bytes {
        let mut out = vec![0, 0];
        out.extend(i32::try_from(self.topics.len()).unwrap().to_be_bytes());
        for topic in &self.topics {
            out.extend(i16::try_from(topic.len()).unwrap().to_be_bytes());
            out.extend(topic.as_bytes());
        }
        out.into()
    }

    fn join_request(&self) -> GroupRequest {
        let protocols = self.protocols.iter().map(|name| {
            JoinGroupRequestProtocol::default()
                .with_name(text(name))
                .with_metadata(self.subscription())
        });
        GroupRequest::JoinGroup(
            JoinGroupRequest::default()
                .with_group_id(text("g").into())
                .with_session_timeout_ms(self.session_ms)
                .with_rebalance_timeout_ms(self.rebalance_ms)
                .with_member_id(text(&self.member_id))
                .with_group_instance_id(self.instance_id.as_deref().map(text))
                .with_protocol_type(text("consumer"))
                .with_protocols(protocols.collect()),
        )
    }
}

/// The caller of the coordinator: everything at hand, nothing real.
struct Harness {
    coordinator: Coordinator,
    now_ms: i64,
    ticket_last: u64,
    versions: BTreeMap<u64, i16>,
    replies: BTreeMap<u64, GroupResponse>,
    log: Vec<GroupRecord>,
    /// Appends wait here while set.
    holds_appends: bool,
    held: Vec<(AppendToken, Vec<GroupRecord>)>,
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// Uuids that count, so that scripts are repeatable.
fn counting_uuids() -> Box<dyn FnMut() -> [u8; 16]> {
    let mut count = 0u128;
    Box::new(move || {
        count += 1;
        count.to_be_bytes()
    })
}

impl Harness {
    fn new() -> Self {
        Self::with_config(GroupConfig::default())
    }

    fn with_config(config: GroupConfig) -> Self {
        let mut harness = Self {
            coordinator: Coordinator::new(config, PARTITIONS, counting_uuids()),
            now_ms: 1_000_000,
            ticket_last: 0,
            versions: BTreeMap::new(),
            replies: BTreeMap::new(),
            log: Vec::new(),
            holds_appends: false,
            held: Vec::new(),
        };
        for partition in 0..PARTITIONS {
            let (actions, _) = harness
                .coordinator
                .load(harness.now_ms, partition, Vec::new());
            assert!(actions.is_empty());
        }
        harness
    }

    fn absorb(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Reply { ticket, response } => {
                    let version = self.versions.remove(&ticket);
                    let version = version.unwrap_or_else(|| panic!("no ticket {ticket} waits"));
                    assert_encodable(&response, version);
                    self.replies.insert(ticket, response);
                }
                Action::Append { records, token, .. } if self.holds_appends => {
                    self.held.push((token, records));
                }
                Action::Append { records, token, .. } => {
                    self.log.extend(records);
                    let actions = self.coordinator.appended(self.now_ms, token, Ok(()));
                    self.absorb(actions);
                }
            }
        }
    }

    fn end_append(&mut self, index: usize, result: Result<(), ResponseError>) {
        let (token, records) = self.held.remove(index);
        if result.is_ok() {
            self.log.extend(records);
        }
        let actions = self.coordinator.appended(self.now_ms, token, result);
        self.absorb(actions);
    }

    fn send(&mut self, version: i16, request: GroupRequest) -> u64 {
        self.ticket_last += 1;
        let ticket = self.ticket_last;
        self.versions.insert(ticket, version);
        let caller = Caller {
            ticket,
            version,
            client_id: "cli",
            client_host: "/127.0.0.1",
        };
        let actions = self.coordinator.handle(self.now_ms, &caller, request);
        self.absorb(actions);
        ticket
    }

    fn waits(&self, ticket: u64) -> bool {
        self.versions.contains_key(&ticket)
    }

    fn reply(&mut self, ticket: u64) -> GroupResponse {
        self.replies
            .remove(&ticket)
            .unwrap_or_else(|| panic!("ticket {ticket} has no answer"))
    }

    /// Lets time pass, deadline by deadline.
    fn sleep(&mut self, ms: i64) {
        let end_ms = self.now_ms + ms;
        while let Some(deadline_ms) = self.coordinator.next_deadline() {
            if deadline_ms > end_ms {
                break;
            }
            self.now_ms = self.now_ms.max(deadline_ms);
            let actions = self.coordinator.tick(self.now_ms);
            self.absorb(actions);
        }
        self.now_ms = end_ms;
    }

    fn begin_join(&mut self, client: &Client) -> u64 {
        self.send(client.version, client.join_request())
    }

    fn join_reply(&mut self, ticket: u64) -> JoinGroupResponse {
        match self.reply(ticket) {
            GroupResponse::JoinGroup(response) => response,
            other => panic!("{other:?}"),
        }
    }

    /// The answer of a join that succeeded, noted by the client.
    fn joined(&mut self, client: &mut Client, ticket: u64) -> JoinGroupResponse {
        let response = self.join_reply(ticket);
        assert_eq!(response.error_code, 0, "{response:?}");
        client.member_id = response.member_id.to_string();
        client.generation = response.generation_id;
        response
    }

    /// Gets a member id if the version asks for it, then joins. The join may wait.
    fn start(&mut self, client: &mut Client) -> u64 {
        let ticket = self.begin_join(client);
        if client.version < 4 || client.instance_id.is_some() || !client.member_id.is_empty() {
            return ticket;
        }
        let response = self.join_reply(ticket);
        assert_eq!(response.error_code, ResponseError::MemberIdRequired.code());
        client.member_id = response.member_id.to_string();
        self.begin_join(client)
    }

    fn begin_sync(&mut self, client: &Client, assignments: &[(&str, &'static str)]) -> u64 {
        let assignments = assignments.iter().map(|(member_id, assignment)| {
            SyncGroupRequestAssignment::default()
                .with_member_id(text(member_id))
                .with_assignment(Bytes::from_static(assignment.as_bytes()))
        });
        let named = client.version >= 5;
        self.send(
            client.version.min(5),
            GroupRequest::SyncGroup(
                SyncGroupRequest::default()
                    .with_group_id(text("g").into())
                    .with_generation_id(client.generation)
                    .with_member_id(text(&client.member_id))
                    .with_group_instance_id(client.instance_id.as_deref().map(text))
                    .with_protocol_type(named.then(|| text("consumer")))
                    .with_protocol_name(named.then(|| text(&client.protocols[0])))
                    .with_assignments(assignments.collect()),
            ),
        )
    }

    fn synced(&mut self, ticket: u64) -> Result<String, ResponseError> {
        match self.reply(ticket) {
            GroupResponse::SyncGroup(response) => match error(response.error_code) {
                None => Ok(String::from_utf8(response.assignment.to_vec()).unwrap()),
                Some(error) => Err(error),
            },
            other => panic!("{other:?}"),
        }
    }

    fn heartbeat(&mut self, client: &Client) -> Option<ResponseError> {
        let ticket = self.send(
            client.version.min(4),
            GroupRequest::Heartbeat(
                HeartbeatRequest::default()
                    .with_group_id(text("g").into())
                    .with_generation_id(client.generation)
                    .with_member_id(text(&client.member_id))
                    .with_group_instance_id(client.instance_id.as_deref().map(text)),
            ),
        );
        match self.reply(ticket) {
            GroupResponse::Heartbeat(response) => error(response.error_code),
            other => panic!("{other:?}"),
        }
    }

    fn leave(&mut self, client: &Client) -> Option<ResponseError> {
        let version = client.version.min(5);
        let request = LeaveGroupRequest::default().with_group_id(text("g").into());
        let member_id = text(&client.member_id);
        let request = if version < 3 {
            request.with_member_id(member_id)
        } else {
            request.with_members(vec![
                MemberIdentity::default()
                    .with_member_id(member_id)
                    .with_group_instance_id(client.instance_id.as_deref().map(text)),
            ])
        };
        let ticket = self.send(version, GroupRequest::LeaveGroup(request));
        match self.reply(ticket) {
            GroupResponse::LeaveGroup(response) => {
                let members = response.members.iter().map(|member| member.error_code);
                error(
                    members
                        .chain([response.error_code])
                        .find(|code| *code != 0)
                        .unwrap_or(0),
                )
            }
            other => panic!("{other:?}"),
        }
    }

    fn begin_commit(&mut self, client: &Client, partition: i32, offset: i64) -> u64 {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(partition)
            .with_committed_offset(offset)
            .with_committed_metadata(Some(text("note")));
        self.send(
            client.version.min(9),
            GroupRequest::OffsetCommit(
                OffsetCommitRequest::default()
                    .with_group_id(text("g").into())
                    .with_generation_id_or_member_epoch(client.generation)
                    .with_member_id(text(&client.member_id))
                    .with_group_instance_id(client.instance_id.as_deref().map(text))
                    .with_topics(vec![
                        OffsetCommitRequestTopic::default()
                            .with_name(text("orders").into())
                            .with_partitions(vec![partition]),
                    ]),
            ),
        )
    }

    fn committed(&mut self, ticket: u64) -> Option<ResponseError> {
        match self.reply(ticket) {
            GroupResponse::OffsetCommit(response) => {
                error(response.topics[0].partitions[0].error_code)
            }
            other => panic!("{other:?}"),
        }
    }

    fn commit(&mut self, client: &Client, partition: i32, offset: i64) -> Option<ResponseError> {
        let ticket = self.begin_commit(client, partition, offset);
        self.committed(ticket)
    }

    /// Everything that the group has committed: (topic, partition, offset or error).
    fn fetch_all(&mut self, require_stable: bool) -> OffsetFetchResponseGroup {
        let group = offset_fetch_request::OffsetFetchRequestGroup::default()
            .with_group_id(text("g").into())
            .with_topics(None);
        let request = OffsetFetchRequest::default()
            .with_groups(vec![group])
            .with_require_stable(require_stable);
        let ticket = self.send(8, GroupRequest::OffsetFetch(request));
        match self.reply(ticket) {
            GroupResponse::OffsetFetch(mut response) => response.groups.remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn offsets(&mut self) -> Vec<(i32, i64)> {
        let topics = self.fetch_all(false).topics.into_iter();
        let partitions = topics.flat_map(|topic| topic.partitions);
        partitions
            .map(|partition| (partition.partition_index, partition.committed_offset))
            .collect()
    }

    fn describe(&mut self) -> describe_groups_response::DescribedGroup {
        let request = DescribeGroupsRequest::default().with_groups(vec![text("g").into()]);
        let ticket = self.send(5, GroupRequest::DescribeGroups(request));
        match self.reply(ticket) {
            GroupResponse::DescribeGroups(mut response) => response.groups.remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn state(&mut self) -> String {
        self.describe().group_state.to_string()
    }

    /// A stable group of these clients; the first one leads.
    fn stable_group(&mut self, clients: &mut [Client]) {
        let mut waiting: Vec<u64> = Vec::new();
        for index in 0..clients.len() {
            waiting.push(self.start(&mut clients[index]));
            // Those that are in the group notice and join again.
            for earlier in 0..index {
                if !self.waits(waiting[earlier]) {
                    self.replies.remove(&waiting[earlier]);
                    waiting[earlier] = self.begin_join(&clients[earlier]);
                }
            }
            if !self.waits(waiting[0]) {
                for (client, ticket) in clients.iter_mut().zip(&waiting) {
                    let reply = self.replies[ticket].clone();
                    let GroupResponse::JoinGroup(reply) = reply else {
                        panic!("{reply:?}")
                    };
                    client.member_id = reply.member_id.to_string();
                    client.generation = reply.generation_id;
                }
            }
        }
        let ids: Vec<String> = clients
            .iter()
            .map(|client| client.member_id.clone())
            .collect();
        let names = ["a", "b", "c", "d", "e"];
        let assignments: Vec<(&str, &'static str)> =
            ids.iter().map(String::as_str).zip(names).collect();
        let tickets: Vec<u64> = clients
            .iter()
            .enumerate()
            .rev()
            .map(|(index, client)| {
                self.begin_sync(client, if index == 0 { &assignments } else { &[] })
            })
            .collect();
        for (ticket, name) in tickets.into_iter().rev().zip(names) {
            assert_eq!(self.synced(ticket).as_deref(), Ok(name));
        }
        assert_eq!(self.state(), "Stable");
    }
}

fn error(code: i16) -> Option<ResponseError> {
    ResponseError::try_from_code(code)
}

/// A field that does not exist in the version would make the encoder refuse.
fn assert_encodable(response: &GroupResponse, version: i16) {
    let mut out = BytesMut::new();
    let encoded = match response {
        GroupResponse::JoinGroup(response) => response.encode(&mut out, version),
        GroupResponse::SyncGroup(response) => response.encode(&mut out, version),
        GroupResponse::Heartbeat(response) => response.encode(&mut out, version),
        GroupResponse::LeaveGroup(response) => response.encode(&mut out, version),
        GroupResponse::OffsetCommit(response) => response.encode(&mut out, version),
        GroupResponse::OffsetFetch(response) => response.encode(&mut out, version),
        GroupResponse::OffsetDelete(response) => response.encode(&mut out, version),
        GroupResponse::DescribeGroups(response) => response.encode(&mut out, version),
        GroupResponse::ListGroups(response) => response.encode(&mut out, version),
        GroupResponse::DeleteGroups(response) => response.encode(&mut out, version),
    };
    encoded.unwrap_or_else(|error| panic!("version {version} of {response:?}: {error}"));
}

#[test]
fn groups_map_to_partitions_as_in_java() {
    // Hashes printed by OpenJDK 17; the last but one is Integer.MIN_VALUE, which Utils.abs maps to 0.
    for (group, partition) in [
        ("", 0),
        ("console-consumer-12345", 6),
        ("gr\u{fc}ppe", 12),
        ("\u{1f600}", 49),
        ("polygenelubricants", 0),
        ("test-group", 12),
    ] {
        assert_eq!(partition_for_group(group, 50), partition, "{group}");
    }
}
