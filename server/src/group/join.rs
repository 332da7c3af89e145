//! JoinGroup, version 0 to 9.
//!
//! | version | what changes |
//! |---|---|
//! | 0 | no rebalance timeout: the session timeout stands in (KIP-62) |
//! | 1 | rebalance timeout |
//! | 4 | a member without id gets MEMBER_ID_REQUIRED and joins again with its new id (KIP-394) |
//! | 5 | group.instance.id: static members (KIP-345) |
//! | 6 | flexible |
//! | 7 | protocol type in the answer, protocol name null rather than empty (KIP-559) |
//! | 8 | reason, for logs only (KIP-800) |
//! | 9 | skip assignment, for the static leader of a stable group (KIP-814) |

use super::action::{Caller, GroupResponse};
use super::context::{Context, PendingAppend, StaticReplacement, own, store_group_error};
use super::group_state::{Group, GroupState};
use super::member::Member;
use super::rebalance::NEW_MEMBER_JOIN_TIMEOUT_MS;
use super::timers::TimerKey;
use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};
use kafka_protocol::protocol::StrBytes;
use std::collections::{BTreeMap, BTreeSet};

/// The longest client id or instance id from which a member id ("-" and a UUID behind it) fits into
/// Kafka's i16 string length.
const MEMBER_ID_PREFIX_BYTES_MAX: usize = i16::MAX as usize - 37;

/// What a member is told when it has joined.
pub(super) struct Generation {
    generation: i32,
    protocol_type: Option<StrBytes>,
    protocol_name: Option<StrBytes>,
    leader: StrBytes,
    member_id: StrBytes,
    members: Vec<JoinGroupResponseMember>,
    skip_assignment: bool,
}

/// The answer to a member that has joined.
pub(super) fn response(version: i16, generation: Generation) -> GroupResponse {
    // Null protocol names exist from version 7 on, and there an empty one is null
    // (JoinGroupResponse.java).
    let protocol_name = match generation.protocol_name {
        None if version < 7 => Some(StrBytes::default()),
        Some(name) if version >= 7 && name.is_empty() => None,
        name => name,
    };
    GroupResponse::JoinGroup(
        JoinGroupResponse::default()
            .with_generation_id(generation.generation)
            .with_protocol_type(generation.protocol_type)
            .with_protocol_name(protocol_name)
            .with_leader(generation.leader)
            .with_skip_assignment(generation.skip_assignment && version >= 9)
            .with_member_id(generation.member_id)
            .with_members(generation.members),
    )
}

/// The answer to a member that has not joined.
pub(super) fn error_response(
    version: i16,
    member_id: StrBytes,
    error: ResponseError,
) -> GroupResponse {
    GroupResponse::JoinGroup(
        JoinGroupResponse::default()
            .with_error_code(error.code())
            .with_protocol_name((version < 7).then(StrBytes::default))
            .with_member_id(member_id),
    )
}

/// A JoinGroup under way: its ticket and copies of its fields.
pub(super) struct Joining {
    pub(super) ticket: u64,
    pub(super) version: i16,
    pub(super) member_id: StrBytes,
    instance_id: Option<StrBytes>,
    client_id: StrBytes,
    client_host: StrBytes,
    /// Rebalance and session timeout.
    timeouts_ms: (i32, i32),
    protocol_type: StrBytes,
    protocols: Vec<(StrBytes, Bytes)>,
}

impl Joining {
    /// Copies the request, or tells why no group can take it.
    pub(super) fn new(
        caller: &Caller<'_>,
        request: &JoinGroupRequest,
    ) -> Result<Self, ResponseError> {
        let instance_id = request.group_instance_id.as_ref().map(|id| own(id));
        let prefix = instance_id.as_deref().unwrap_or(caller.client_id);
        let too_long = |text: &str| text.len() > i16::MAX as usize;
        if prefix.len() > MEMBER_ID_PREFIX_BYTES_MAX
            || caller.client_id.len() > MEMBER_ID_PREFIX_BYTES_MAX
            || too_long(caller.client_host)
            || too_long(&request.protocol_type)
            || request
                .protocols
                .iter()
                .any(|protocol| too_long(&protocol.name))
        {
            return Err(ResponseError::InvalidRequest);
        }
        // A name that comes twice would be counted twice as supported.
        let mut seen = BTreeSet::new();
        let protocols = request
            .protocols
            .iter()
            .filter(|protocol| seen.insert(&protocol.name));
        Ok(Self {
            ticket: caller.ticket,
            version: caller.version,
            member_id: own(&request.member_id),
            client_id: own(caller.client_id),
            client_host: own(caller.client_host),
            timeouts_ms: if caller.version == 0 {
                (request.session_timeout_ms, request.session_timeout_ms)
            } else {
                (request.rebalance_timeout_ms, request.session_timeout_ms)
            },
            protocol_type: own(&request.protocol_type),
            protocols: protocols
                .map(|protocol| {
                    (
                        own(&protocol.name),
                        Bytes::copy_from_slice(&protocol.metadata),
                    )
                })
                .collect(),
            instance_id,
        })
    }

    fn fail(&self, context: &mut Context, member_id: StrBytes, error: ResponseError) {
        context.reply(self.ticket, |version| {
            error_response(version, member_id, error)
        });
    }
}

impl Group {
    /// The generation as this member is told it: only the leader gets the members.
    pub(super) fn generation_of(&self, member_id: &StrBytes) -> Generation {
        let members = if self.is_leader(member_id) {
            self.member_metadata()
        } else {
            Vec::new()
        };
        Generation {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol_name.clone(),
            leader: self.leader_or_empty(),
            member_id: member_id.clone(),
            members,
            skip_assignment: false,
        }
    }

    /// JoinGroup: a new member, a known one, or one that is refused.
    pub(super) fn join(&mut self, context: &mut Context, joining: Joining) {
        if !self.accepts(context, &joining.member_id) {
            let member_id = joining.member_id.clone();
            self.remove(context, &member_id);
            joining.fail(
                context,
                StrBytes::default(),
                ResponseError::GroupMaxSizeReached,
            );
        } else if !self.supports_protocols(&joining.protocol_type, &joining.protocols) {
            let member_id = joining.member_id.clone();
            joining.fail(context, member_id, ResponseError::InconsistentGroupProtocol);
        } else if joining.member_id.is_empty() {
            self.join_new(context, joining);
        } else {
            self.join_known(context, joining);
        }
        self.maybe_complete_join(context);
    }

    /// `group.max.size`. While members gather, those that have joined count, so that a group that is
    /// too big loses its last ones; and `members_max` over all groups.
    fn accepts(&self, context: &Context, member_id: &StrBytes) -> bool {
        let max = context.config.group_max_size;
        let known = self.members.get(member_id);
        let fits = match self.state {
            GroupState::Empty | GroupState::Dead => true,
            GroupState::PreparingRebalance => {
                known.is_some_and(|member| member.awaiting_join.is_some())
                    || self.awaiting_join() < max
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                known.is_some() || self.members.len() < max
            }
        };
        let counted = !member_id.is_empty();
        fits && (counted || context.population < context.config.members_max)
    }

    fn join_new(&mut self, context: &mut Context, joining: Joining) {
        let prefix = joining.instance_id.as_ref().unwrap_or(&joining.client_id);
        let new_id = context.member_id(prefix);
        let known_instance = joining
            .instance_id
            .as_ref()
            .and_then(|id| self.static_members.get(id))
            .cloned();
        if let Some(old_id) = known_instance {
            self.rejoin_static(context, joining, &old_id, &new_id);
        } else if joining.instance_id.is_none() && joining.version >= 4 {
            self.pending_members.insert(new_id.clone());
            let key = TimerKey::PendingMember(self.id.clone(), new_id.clone());
            context
                .timers
                .set(key, context.now_ms + i64::from(joining.timeouts_ms.1));
            joining.fail(context, new_id, ResponseError::MemberIdRequired);
        } else {
            self.add_and_rebalance(context, joining, new_id);
        }
    }

    fn join_known(&mut self, context: &mut Context, joining: Joining) {
        let member_id = joining.member_id.clone();
        if self.pending_members.contains(&member_id) {
            // A pending member is dynamic; with an instance id the request contradicts itself.
            if joining.instance_id.is_some() {
                return joining.fail(context, member_id, ResponseError::UnknownMemberId);
            }
            self.remove_pending(context, &member_id);
            return self.add_and_rebalance(context, joining, member_id);
        }
        if let Err(error) = self.validate_member(&member_id, joining.instance_id.as_ref()) {
            return joining.fail(context, member_id, error);
        }
        let same = self
            .members
            .get(&member_id)
            .is_some_and(|member| member.protocols == joining.protocols);
        // A follower with unchanged metadata, or a member that missed the answer of this generation,
        // just gets it again. The leader of a stable group rejoins to trigger a rebalance.
        let again = match self.state {
            GroupState::CompletingRebalance => same,
            GroupState::Stable => same && !self.is_leader(&member_id),
            GroupState::PreparingRebalance => false,
            GroupState::Empty | GroupState::Dead => {
                return joining.fail(context, member_id, ResponseError::UnknownMemberId);
            }
        };
        if again {
            let generation = self.generation_of(&member_id);
            return context.reply(joining.ticket, |version| response(version, generation));
        }
        self.update_member(context, &member_id, joining.protocols, joining.timeouts_ms);
        self.park_join(context, &member_id, joining.ticket);
        self.maybe_prepare_rebalance(context);
    }

    fn add_and_rebalance(&mut self, context: &mut Context, joining: Joining, member_id: StrBytes) {
        let can_return = !joining.member_id.is_empty() || joining.instance_id.is_some();
        let member = Member {
            id: member_id.clone(),
            instance_id: joining.instance_id,
            client_id: joining.client_id,
            client_host: joining.client_host,
            rebalance_timeout_ms: joining.timeouts_ms.0,
            session_timeout_ms: joining.timeouts_ms.1,
            protocols: joining.protocols,
            assignment: Bytes::new(),
            awaiting_join: None,
            awaiting_sync: None,
            is_new: true,
            can_return,
        };
        if self.state == GroupState::PreparingRebalance && self.generation == 0 {
            self.new_member_added = true;
        }
        self.add(&joining.protocol_type, member);
        self.park_join(context, &member_id, joining.ticket);
        let key = TimerKey::Session(self.id.clone(), member_id);
        context
            .timers
            .set(key, context.now_ms + NEW_MEMBER_JOIN_TIMEOUT_MS);
        self.maybe_prepare_rebalance(context);
    }

    /// A static member that lost its member id, by a restart, gets a new one in place of the old
    /// one. In a stable group that does not change the protocol there is no rebalance: that is what
    /// static members are for.
    fn rejoin_static(
        &mut self,
        context: &mut Context,
        joining: Joining,
        old_id: &StrBytes,
        new_id: &StrBytes,
    ) {
        let Some(old) = self.members.get(old_id).cloned() else {
            return;
        };
        let replacement = StaticReplacement {
            group: self.key(),
            ticket: joining.ticket,
            old_member_id: old_id.clone(),
            new_member_id: new_id.clone(),
            old_leader: self.leader_or_empty(),
            old_protocols: old.protocols,
            old_rebalance_timeout_ms: old.rebalance_timeout_ms,
            old_session_timeout_ms: old.session_timeout_ms,
        };
        self.replace_static_member(context, old_id, new_id);
        self.update_member(context, new_id, joining.protocols, joining.timeouts_ms);
        self.touch(context, new_id);
        self.park_join(context, new_id, joining.ticket);
        match self.state {
            GroupState::Stable if self.protocol_name == self.select_protocol() => {
                self.store_static_member(context, replacement);
            }
            GroupState::Stable => self.prepare_rebalance(context),
            // The leader may have the old id already and assign to it: start over.
            GroupState::CompletingRebalance => self.prepare_rebalance(context),
            GroupState::PreparingRebalance | GroupState::Empty | GroupState::Dead => {}
        }
    }

    fn store_static_member(&mut self, context: &mut Context, replacement: StaticReplacement) {
        match self.metadata_record(&BTreeMap::new()) {
            Ok(record) => {
                let then = PendingAppend::StaticMember(Box::new(replacement));
                context.append(self.partition, vec![record], then);
            }
            Err(_) => {
                let error = ResponseError::UnknownServerError;
                self.static_member_stored(context, replacement, Err(error));
            }
        }
    }

    /// The record of the replaced static member is in the log, or not. If a rebalance began
    /// meanwhile, that answers the member.
    pub(super) fn static_member_stored(
        &mut self,
        context: &mut Context,
        replacement: StaticReplacement,
        result: Result<(), ResponseError>,
    ) {
        let new_id = &replacement.new_member_id;
        let waits = self
            .members
            .get(new_id)
            .is_some_and(|member| member.awaiting_join == Some(replacement.ticket));
        if self.state != GroupState::Stable || !waits {
            return;
        }
        let mut generation = self.generation_of(new_id);
        match result {
            // Before version 9 the leader must not notice that it is one: its assignment would
            // reach nobody, since the group stays stable. The old leader id in the answer sees to it.
            Ok(()) => {
                self.answer_join(context, new_id, |version| {
                    if version >= 9 {
                        generation.skip_assignment = generation.leader == generation.member_id;
                    } else {
                        generation.leader = replacement.old_leader;
                        generation.members = Vec::new();
                    }
                    response(version, generation)
                });
                self.touch(context, new_id);
            }
            Err(error) => {
                self.answer_join(context, new_id, |version| {
                    error_response(version, StrBytes::default(), store_group_error(error))
                });
                let timeouts_ms = (
                    replacement.old_rebalance_timeout_ms,
                    replacement.old_session_timeout_ms,
                );
                self.update_member(context, new_id, replacement.old_protocols, timeouts_ms);
                self.replace_static_member(context, new_id, &replacement.old_member_id);
                self.touch(context, &replacement.old_member_id);
            }
        }
    }

    /// The caller of a JoinGroup that waits has gone. Like Kafka, a member that can come back counts
    /// as joined; one whose client never learnt its id would only hold up the others.
    pub(super) fn join_cancelled(
        &mut self,
        context: &mut Context,
        member_id: &StrBytes,
        ticket: u64,
    ) {
        if self
            .members
            .get(member_id)
            .is_some_and(|member| member.awaiting_join == Some(ticket) && !member.can_return)
        {
            self.remove_and_rebalance(context, member_id);
        }
    }

    /// Whether the member is in the group, and its instance id is this member's (KIP-345).
    pub(super) fn validate_member(
        &self,
        member_id: &StrBytes,
        instance_id: Option<&StrBytes>,
    ) -> Result<(), ResponseError> {
        if let Some(instance_id) = instance_id {
            match self.static_members.get(instance_id) {
                None => return Err(ResponseError::UnknownMemberId),
                Some(current) if current != member_id => {
                    return Err(ResponseError::FencedInstanceId);
                }
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) {
            Ok(())
        } else {
            Err(ResponseError::UnknownMemberId)
        }
    }
}
