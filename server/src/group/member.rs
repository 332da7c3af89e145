//! One member of a group.

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;

/// A member: what it told in JoinGroup, what the leader assigned to it, and what it waits for.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) id: StrBytes,
    pub(super) instance_id: Option<StrBytes>,
    pub(super) client_id: StrBytes,
    pub(super) client_host: StrBytes,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) session_timeout_ms: i32,
    /// In the member's order of preference, each name once.
    pub(super) protocols: Vec<(StrBytes, Bytes)>,
    pub(super) assignment: Bytes,
    /// The ticket of the JoinGroup that waits for the generation.
    pub(super) awaiting_join: Option<u64>,
    /// The ticket of the SyncGroup that waits for the assignment.
    pub(super) awaiting_sync: Option<u64>,
    /// It joined for the first time and no generation has completed since: its deadline counts even
    /// while its JoinGroup waits (Kafka's NewMemberJoinTimeoutMs).
    pub(super) is_new: bool,
    /// Its client can come back as this member, because it knows its id or its instance id.
    pub(super) can_return: bool,
}

impl Member {
    /// What the member said under this protocol.
    pub(super) fn metadata(&self, protocol: &StrBytes) -> Option<&Bytes> {
        self.protocols
            .iter()
            .find(|(name, _)| name == protocol)
            .map(|(_, metadata)| metadata)
    }

    /// A member that waits for the coordinator is alive by that, unless it is new.
    pub(super) fn may_expire(&self) -> bool {
        self.is_new || (self.awaiting_join.is_none() && self.awaiting_sync.is_none())
    }
}
