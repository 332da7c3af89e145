//! The types of the coordinator's interface: configuration, requests in, actions out.

use bytes::Bytes;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse, OffsetCommitRequest,
    OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest,
    OffsetFetchResponse, SyncGroupRequest, SyncGroupResponse,
};

/// The keys of `server.properties` that the coordinator obeys, with Kafka's defaults unless noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupConfig {
    /// `group.min.session.timeout.ms`: a JoinGroup below it is refused.
    pub group_min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`: a JoinGroup above it is refused.
    pub group_max_session_timeout_ms: i32,
    /// `group.max.size`: members of one group.
    pub group_max_size: usize,
    /// `group.initial.rebalance.delay.ms`: how long an empty group waits for more members before
    /// its first generation. Kafka's built-in default is 3000; its shipped `server.properties`
    /// says 0, and so do we.
    pub group_initial_rebalance_delay_ms: i32,
    /// `offset.metadata.max.bytes`: like Kafka, counted in UTF-16 units.
    pub offset_metadata_max_bytes: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`.
    pub offsets_retention_check_interval_ms: i64,
    /// Groups of this coordinator, ours: at the limit a new group gets COORDINATOR_NOT_AVAILABLE,
    /// which every client retries.
    pub groups_max: usize,
    /// Members and pending members of all groups of this coordinator, ours: at the limit a new
    /// member gets GROUP_MAX_SIZE_REACHED. Kafka bounds pending members (KIP-394) by nothing.
    pub members_max: usize,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            group_min_session_timeout_ms: 6_000,
            group_max_session_timeout_ms: 1_800_000,
            group_max_size: i32::MAX as usize,
            group_initial_rebalance_delay_ms: 0,
            offset_metadata_max_bytes: 4_096,
            offsets_retention_ms: 7 * 24 * 60 * 60 * 1_000,
            offsets_retention_check_interval_ms: 600_000,
            groups_max: 100_000,
            members_max: 100_000,
        }
    }
}

/// Who asks, and in which version of the API.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Names the waiting request; unique among those that wait.
    pub ticket: u64,
    /// The version of the request, from its header.
    pub version: i16,
    /// The client id, from the header of the request; empty if it has none.
    pub client_id: &'a str,
    /// The client's address as Java prints an `InetAddress` without a name: `/127.0.0.1`.
    pub client_host: &'a str,
}

/// A request to the coordinator.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each variant is the API of its name")]
pub enum GroupRequest {
    JoinGroup(JoinGroupRequest),
    SyncGroup(SyncGroupRequest),
    Heartbeat(HeartbeatRequest),
    LeaveGroup(LeaveGroupRequest),
    OffsetCommit(OffsetCommitRequest),
    OffsetFetch(OffsetFetchRequest),
    OffsetDelete(OffsetDeleteRequest),
    DescribeGroups(DescribeGroupsRequest),
    ListGroups(ListGroupsRequest),
    DeleteGroups(DeleteGroupsRequest),
}

/// An answer, fit to be encoded in the version of its request.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each variant is the API of its name")]
pub enum GroupResponse {
    JoinGroup(JoinGroupResponse),
    SyncGroup(SyncGroupResponse),
    Heartbeat(HeartbeatResponse),
    LeaveGroup(LeaveGroupResponse),
    OffsetCommit(OffsetCommitResponse),
    OffsetFetch(OffsetFetchResponse),
    OffsetDelete(OffsetDeleteResponse),
    DescribeGroups(DescribeGroupsResponse),
    ListGroups(ListGroupsResponse),
    DeleteGroups(DeleteGroupsResponse),
}

/// A record of `__consumer_offsets`: its key and its value, or a tombstone.
pub type GroupRecord = (Bytes, Option<Bytes>);

/// Names an append under way; later appends have greater tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppendToken(pub u64);

/// What the caller has to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Answer the request that waits under `ticket`.
    Reply {
        /// The ticket of [`Caller`].
        ticket: u64,
        /// The answer.
        response: GroupResponse,
    },
    /// Append the records as one batch, with `now_ms` as their timestamp, to this partition of
    /// `__consumer_offsets`, and report the end by [`super::Coordinator::appended`].
    Append {
        /// The partition of `__consumer_offsets`.
        partition: i32,
        /// What to append; never empty.
        records: Vec<GroupRecord>,
        /// What to report it under.
        token: AppendToken,
    },
}
