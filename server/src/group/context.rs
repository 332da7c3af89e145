//! What one step of the coordinator may do to the outside, apart from the groups themselves: answer
//! tickets, begin appends, set timers. Every effect of a step goes through here.

use super::action::{Action, AppendToken, GroupConfig, GroupRecord, GroupResponse};
use super::offsets::OffsetAndMetadata;
use super::timers::Timers;
use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{DeleteGroupsResponse, OffsetCommitResponse, OffsetDeleteResponse};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;

/// A request that has no answer yet.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    /// Version of the request.
    version: i16,
    /// Of a JoinGroup that waits: its group and member.
    joining: Option<(StrBytes, StrBytes)>,
}

/// An incarnation of a group: a deleted and recreated group is another one, so that the end of an
/// append that the old one began does not reach the new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GroupKey {
    pub(super) id: StrBytes,
    pub(super) incarnation: u64,
}

/// What to undo if the record of a replaced static member cannot be written.
#[derive(Debug)]
pub(super) struct StaticReplacement {
    pub(super) group: GroupKey,
    pub(super) ticket: u64,
    pub(super) old_member_id: StrBytes,
    pub(super) new_member_id: StrBytes,
    pub(super) old_leader: StrBytes,
    pub(super) old_protocols: Vec<(StrBytes, Bytes)>,
    pub(super) old_rebalance_timeout_ms: i32,
    pub(super) old_session_timeout_ms: i32,
}

/// A topic and one of its partitions.
pub(super) type TopicPartition = (StrBytes, i32);

/// What waits for the end of an append.
#[derive(Debug)]
pub(super) enum PendingAppend {
    /// The assignment of a generation; then the group is Stable.
    Assignment {
        group: GroupKey,
        generation: i32,
        assignments: BTreeMap<StrBytes, Bytes>,
    },
    /// A static member that came back to a Stable group.
    StaticMember(Box<StaticReplacement>),
    /// Offsets; the answer holds the errors of the partitions that were not written.
    OffsetCommit {
        group: GroupKey,
        ticket: u64,
        offsets: Vec<(TopicPartition, OffsetAndMetadata)>,
        response: OffsetCommitResponse,
    },
    /// Tombstones of one group of a DeleteGroups.
    DeleteGroup { ticket: u64, index: usize },
    /// Tombstones of an OffsetDelete.
    OffsetDelete {
        ticket: u64,
        response: OffsetDeleteResponse,
    },
    /// Nobody waits: the empty generation of a group, the tombstones of expired offsets.
    Nobody,
}

/// A DeleteGroups whose tombstones are under way, one append per group.
#[derive(Debug)]
pub(super) struct PendingDelete {
    pub(super) appends: usize,
    pub(super) response: DeleteGroupsResponse,
}

/// See the head of the file.
pub(super) struct Context {
    pub(super) config: GroupConfig,
    pub(super) now_ms: i64,
    pub(super) timers: Timers,
    pub(super) deletes: BTreeMap<u64, PendingDelete>,
    /// Members and pending members of all groups.
    pub(super) population: usize,
    uuid_source: Box<dyn FnMut() -> [u8; 16]>,
    waiting: BTreeMap<u64, Waiting>,
    appends: BTreeMap<u64, PendingAppend>,
    token_last: u64,
    incarnation_last: u64,
    actions: Vec<Action>,
}

impl Context {
    pub(super) fn new(config: GroupConfig, uuid_source: Box<dyn FnMut() -> [u8; 16]>) -> Self {
        Self {
            config,
            now_ms: 0,
            timers: Timers::default(),
            deletes: BTreeMap::new(),
            population: 0,
            uuid_source,
            waiting: BTreeMap::new(),
            appends: BTreeMap::new(),
            token_last: 0,
            incarnation_last: 0,
            actions: Vec::new(),
        }
    }

    /// The actions of the step that ends.
    pub(super) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// A request came in; from now on it waits for an answer.
    pub(super) fn open(&mut self, ticket: u64, version: i16) {
        let replaced = self.waiting.insert(
            ticket,
            Waiting {
                version,
                joining: None,
            },
        );
        assert!(replaced.is_none(), "ticket {ticket} was handed in twice");
    }

    /// The request waits as the JoinGroup of this member.
    pub(super) fn park_join(&mut self, ticket: u64, group: &StrBytes, member: &StrBytes) {
        if let Some(waiting) = self.waiting.get_mut(&ticket) {
            waiting.joining = Some((group.clone(), member.clone()));
        }
    }

    /// The caller has gone: whatever comes for this ticket is dropped. Tells the group and member if
    /// it was a JoinGroup that waited.
    pub(super) fn close(&mut self, ticket: u64) -> Option<(StrBytes, StrBytes)> {
        self.waiting.remove(&ticket)?.joining
    }

    /// Answers a ticket, unless it was closed; `response` gets the version of the request.
    pub(super) fn reply(&mut self, ticket: u64, response: impl FnOnce(i16) -> GroupResponse) {
        if let Some(waiting) = self.waiting.remove(&ticket) {
            self.actions.push(Action::Reply {
                ticket,
                response: response(waiting.version),
            });
        }
    }

    /// Begins an append.
    pub(super) fn append(
        &mut self,
        partition: i32,
        records: Vec<GroupRecord>,
        then: PendingAppend,
    ) -> AppendToken {
        assert!(
            !records.is_empty(),
            "an append without records on partition {partition}"
        );
        self.token_last += 1;
        let token = AppendToken(self.token_last);
        self.appends.insert(token.0, then);
        self.actions.push(Action::Append {
            partition,
            records,
            token,
        });
        token
    }

    /// The append under this token has ended; nothing if it never began or ended before.
    pub(super) fn take_append(&mut self, token: AppendToken) -> Option<PendingAppend> {
        self.appends.remove(&token.0)
    }

    /// The number of a new group's incarnation.
    pub(super) fn next_incarnation(&mut self) -> u64 {
        self.incarnation_last += 1;
        self.incarnation_last
    }

    /// A member id as Kafka makes it: the client id or the instance id, and a random UUID (RFC 9562
    /// version 4, as `java.util.UUID.randomUUID`).
    pub(super) fn member_id(&mut self, prefix: &str) -> StrBytes {
        let mut uuid = (self.uuid_source)();
        uuid[6] = (uuid[6] & 0x0f) | 0x40;
        uuid[8] = (uuid[8] & 0x3f) | 0x80;
        let mut id = String::with_capacity(prefix.len() + 37);
        id.push_str(prefix);
        for (index, byte) in uuid.iter().enumerate() {
            if matches!(index, 0 | 4 | 6 | 8 | 10) {
                id.push('-');
            }
            for nibble in [byte >> 4, byte & 0x0f] {
                id.push(char::from_digit(u32::from(nibble), 16).expect("a nibble is below 16"));
            }
        }
        StrBytes::from_string(id)
    }

    /// Tickets without an answer.
    #[cfg(test)]
    pub(super) fn waiting_tickets(&self) -> Vec<u64> {
        self.waiting.keys().copied().collect()
    }
}

/// A copy that does not pin the frame of the request.
pub(super) fn own(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// The error of a failed append of group metadata, as Kafka translates it for JoinGroup and
/// SyncGroup (GroupMetadataManager.storeGroup).
pub(super) fn store_group_error(error: ResponseError) -> ResponseError {
    use ResponseError as E;
    match error {
        E::UnknownTopicOrPartition | E::NotEnoughReplicas | E::NotEnoughReplicasAfterAppend => {
            E::CoordinatorNotAvailable
        }
        E::NotLeaderOrFollower | E::KafkaStorageError => E::NotCoordinator,
        E::RequestTimedOut => E::RebalanceInProgress,
        E::MessageTooLarge | E::RecordListTooLarge | E::InvalidFetchSize => E::UnknownServerError,
        other => other,
    }
}

/// The error of a failed append of offsets (GroupMetadataManager.maybeConvertOffsetCommitError).
pub(super) fn store_offsets_error(error: ResponseError) -> ResponseError {
    use ResponseError as E;
    match error {
        E::NetworkException => E::CoordinatorLoadInProgress,
        E::UnknownTopicOrPartition | E::NotEnoughReplicas | E::NotEnoughReplicasAfterAppend => {
            E::CoordinatorNotAvailable
        }
        E::NotLeaderOrFollower | E::KafkaStorageError => E::NotCoordinator,
        E::MessageTooLarge | E::RecordListTooLarge | E::InvalidFetchSize => {
            E::InvalidCommitOffsetSize
        }
        other => other,
    }
}
