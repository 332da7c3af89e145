//! What one group holds: its state, generation, protocol, members and offsets, and the changes of
//! them that keep its counters true. Effects are in `rebalance.rs` and the handlers.

use super::action::{GroupRecord, GroupResponse};
use super::context::{Context, GroupKey, own};
use super::join;
use super::member::Member;
use super::offsets::Offsets;
use super::record_format::{
    FormatError, GroupMetadataValue, MemberMetadataValue, decode_subscribed_topics,
    encode_group_key, encode_group_value,
};
use super::sync;
use super::timers::TimerKey;
use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::protocol::StrBytes;
use std::collections::{BTreeMap, BTreeSet};

/// The states of Kafka's GroupMetadata.scala. A dead group is dropped at once, so that Dead only
/// occurs in the answers of DescribeGroups about groups that do not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupState {
    /// No members; offsets may linger.
    Empty,
    /// Waiting for the members to (re)join.
    PreparingRebalance,
    /// Waiting for the leader's assignment.
    CompletingRebalance,
    /// Every member has its assignment.
    Stable,
    /// Does not exist.
    Dead,
}

impl GroupState {
    /// The name in DescribeGroups and ListGroups.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }
}

/// How a group in PreparingRebalance waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JoinWait {
    /// Until all members joined or the rebalance timeout is over (Kafka's DelayedJoin).
    AllMembers,
    /// Out of Empty: until the initial delay is over, prolonged while new members come (Kafka's
    /// InitialDelayedJoin).
    Initial { delay_ms: i64, remaining_ms: i64 },
}

/// The protocol type of consumers, whose metadata the coordinator can read.
pub(super) const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

/// See the head of the file.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: StrBytes,
    pub(super) partition: i32,
    pub(super) incarnation: u64,
    pub(super) state: GroupState,
    /// None if the log is older than the field.
    pub(super) state_since_ms: Option<i64>,
    pub(super) protocol_type: Option<StrBytes>,
    pub(super) protocol_name: Option<StrBytes>,
    pub(super) generation: i32,
    pub(super) leader: Option<StrBytes>,
    pub(super) members: BTreeMap<StrBytes, Member>,
    /// Member ids by instance id.
    pub(super) static_members: BTreeMap<StrBytes, StrBytes>,
    /// Member ids that were given out and have not joined (KIP-394).
    pub(super) pending_members: BTreeSet<StrBytes>,
    /// Members whose SyncGroup of this generation has not come.
    pub(super) pending_sync: BTreeSet<StrBytes>,
    /// Topics that the members are subscribed to, if the coordinator could read it.
    pub(super) subscribed_topics: Option<BTreeSet<StrBytes>>,
    pub(super) join_wait: JoinWait,
    /// A member came while the initial delay ran.
    pub(super) new_member_added: bool,
    /// The leader's assignment of this generation is on its way to the log.
    pub(super) assignment_in_flight: bool,
    pub(super) offsets: Offsets,
    /// How many members' JoinGroup waits.
    awaiting_join: usize,
    /// How many members support each protocol.
    supported: BTreeMap<StrBytes, usize>,
}

impl Group {
    /// A group without members.
    pub(super) fn new(context: &mut Context, id: &str, partition: i32) -> Self {
        Self {
            id: own(id),
            partition,
            incarnation: context.next_incarnation(),
            state: GroupState::Empty,
            state_since_ms: Some(context.now_ms),
            protocol_type: None,
            protocol_name: None,
            generation: 0,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending_members: BTreeSet::new(),
            pending_sync: BTreeSet::new(),
            subscribed_topics: None,
            join_wait: JoinWait::AllMembers,
            new_member_added: false,
            assignment_in_flight: false,
            offsets: Offsets::default(),
            awaiting_join: 0,
            supported: BTreeMap::new(),
        }
    }

    /// The name of this incarnation.
    pub(super) fn key(&self) -> GroupKey {
        GroupKey {
            id: self.id.clone(),
            incarnation: self.incarnation,
        }
    }

    /// Members and pending members: what counts towards `members_max`.
    pub(super) fn population(&self) -> usize {
        self.members.len() + self.pending_members.len()
    }

    /// Nothing would be lost with this group: it came into being by a request that failed.
    pub(super) fn is_blank(&self) -> bool {
        self.state == GroupState::Empty
            && self.generation == 0
            && self.pending_members.is_empty()
            && self.offsets.is_empty()
    }

    /// Whether the member leads.
    pub(super) fn is_leader(&self, member_id: &str) -> bool {
        self.leader
            .as_ref()
            .is_some_and(|leader| leader.as_str() == member_id)
    }

    /// The leader's member id, empty if there is none.
    pub(super) fn leader_or_empty(&self) -> StrBytes {
        self.leader.clone().unwrap_or_default()
    }

    /// How many members' JoinGroup waits.
    pub(super) fn awaiting_join(&self) -> usize {
        self.awaiting_join
    }

    /// Every known member has sent JoinGroup and no id is out.
    pub(super) fn has_all_members_joined(&self) -> bool {
        self.members.len() == self.awaiting_join && self.pending_members.is_empty()
    }

    /// The longest rebalance timeout of the members.
    pub(super) fn rebalance_timeout_ms(&self) -> i64 {
        self.members
            .values()
            .map(|member| i64::from(member.rebalance_timeout_ms))
            .fold(0, i64::max)
    }

    /// Changes the state.
    pub(super) fn transition_to(&mut self, state: GroupState, now_ms: i64) {
        self.state = state;
        self.state_since_ms = Some(now_ms);
    }

    /// Whether a member with these protocols can be in the group.
    pub(super) fn supports_protocols(
        &self,
        protocol_type: &str,
        protocols: &[(StrBytes, Bytes)],
    ) -> bool {
        if self.state == GroupState::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type
            .as_ref()
            .is_some_and(|own_type| own_type.as_str() == protocol_type)
            && protocols.iter().any(|(name, _)| {
                self.supported.get(name).copied().unwrap_or(0) == self.members.len()
            })
    }

    /// Adds a member; the first one is the leader and decides the protocol type.
    pub(super) fn add(&mut self, protocol_type: &StrBytes, member: Member) {
        if self.members.is_empty() {
            self.protocol_type = Some(protocol_type.clone());
        }
        if let Some(instance_id) = &member.instance_id {
            self.static_members
                .insert(instance_id.clone(), member.id.clone());
        }
        if self.leader.is_none() {
            self.leader = Some(member.id.clone());
        }
        self.pending_members.remove(&member.id);
        self.count_protocols(&member.protocols, true);
        self.awaiting_join += usize::from(member.awaiting_join.is_some());
        let replaced = self.members.insert(member.id.clone(), member);
        assert!(
            replaced.is_none(),
            "{replaced:?} was added twice to group {}",
            self.id
        );
    }

    /// Removes a member or pending member with all its deadlines. What it waits for is answered with
    /// UNKNOWN_MEMBER_ID and without a member id, so that a live client starts anew.
    pub(super) fn remove(&mut self, context: &mut Context, member_id: &StrBytes) {
        let unknown = ResponseError::UnknownMemberId;
        self.answer_join(context, member_id, |version| {
            join::error_response(version, StrBytes::default(), unknown)
        });
        self.answer_sync(context, member_id, || sync::error_response(unknown));
        if let Some(member) = self.members.remove(member_id) {
            self.count_protocols(&member.protocols, false);
            if let Some(instance_id) = &member.instance_id {
                self.static_members.remove(instance_id);
            }
            context
                .timers
                .cancel(&TimerKey::Session(self.id.clone(), member_id.clone()));
        }
        if self.is_leader(member_id) {
            self.leader = self.members.keys().next().cloned();
        }
        self.remove_pending(context, member_id);
        self.pending_sync.remove(member_id);
    }

    /// Takes back a member id that was given out.
    pub(super) fn remove_pending(&mut self, context: &mut Context, member_id: &StrBytes) {
        if self.pending_members.remove(member_id) {
            context
                .timers
                .cancel(&TimerKey::PendingMember(self.id.clone(), member_id.clone()));
        }
    }

    /// What a member told in a new JoinGroup. A JoinGroup of it that waits still is answered with
    /// REBALANCE_IN_PROGRESS (Kafka drops it; a ticket has to be answered).
    pub(super) fn update_member(
        &mut self,
        context: &mut Context,
        member_id: &StrBytes,
        protocols: Vec<(StrBytes, Bytes)>,
        timeouts_ms: (i32, i32),
    ) {
        self.answer_join(context, member_id, |version| {
            join::error_response(
                version,
                member_id.clone(),
                ResponseError::RebalanceInProgress,
            )
        });
        let Some(member) = self.members.get_mut(member_id) else {
            return;
        };
        let old = std::mem::replace(&mut member.protocols, protocols);
        (member.rebalance_timeout_ms, member.session_timeout_ms) = timeouts_ms;
        let new = member.protocols.clone();
        self.count_protocols(&old, false);
        self.count_protocols(&new, true);
    }

    /// The member's JoinGroup waits from now on.
    pub(super) fn park_join(&mut self, context: &mut Context, member_id: &StrBytes, ticket: u64) {
        let Some(member) = self.members.get_mut(member_id) else {
            return;
        };
        if member.awaiting_join.replace(ticket).is_none() {
            self.awaiting_join += 1;
        }
        context.park_join(ticket, &self.id, member_id);
    }

    /// Answers the member's JoinGroup if one waits.
    pub(super) fn answer_join(
        &mut self,
        context: &mut Context,
        member_id: &StrBytes,
        response: impl FnOnce(i16) -> GroupResponse,
    ) -> bool {
        let Some(ticket) = self
            .members
            .get_mut(member_id)
            .and_then(|member| member.awaiting_join.take())
        else {
            return false;
        };
        self.awaiting_join -= 1;
        context.reply(ticket, response);
        true
    }

    /// Answers the member's SyncGroup if one waits.
    pub(super) fn answer_sync(
        &mut self,
        context: &mut Context,
        member_id: &StrBytes,
        response: impl FnOnce() -> GroupResponse,
    ) -> bool {
        let Some(ticket) = self
            .members
            .get_mut(member_id)
            .and_then(|member| member.awaiting_sync.take())
        else {
            return false;
        };
        context.reply(ticket, |_| response());
        true
    }

    /// A static member comes back under another member id; everything else of it stays. Requests
    /// that wait under the old id belong to another process with the same instance id, and are fenced.
    pub(super) fn replace_static_member(
        &mut self,
        context: &mut Context,
        old_id: &StrBytes,
        new_id: &StrBytes,
    ) {
        let fenced = ResponseError::FencedInstanceId;
        self.answer_join(context, old_id, |version| {
            join::error_response(version, old_id.clone(), fenced)
        });
        self.answer_sync(context, old_id, || sync::error_response(fenced));
        let Some(mut member) = self.members.remove(old_id) else {
            return;
        };
        context
            .timers
            .cancel(&TimerKey::Session(self.id.clone(), old_id.clone()));
        member.id = new_id.clone();
        if let Some(instance_id) = &member.instance_id {
            self.static_members
                .insert(instance_id.clone(), new_id.clone());
        }
        if self.is_leader(old_id) {
            self.leader = Some(new_id.clone());
        }
        // Kafka leaves the old id here, and the sync timeout then rebalances a healthy group.
        if self.pending_sync.remove(old_id) {
            self.pending_sync.insert(new_id.clone());
        }
        self.members.insert(new_id.clone(), member);
    }

    /// The leader must have joined to get the members; if it has not, another one that has is
    /// elected. False if there is no member or none joined.
    pub(super) fn elect_joined_leader(&mut self) -> bool {
        let joined = |member: &Member| member.awaiting_join.is_some();
        let Some(leader) = &self.leader else {
            return false;
        };
        if self.members.get(leader).is_some_and(joined) {
            return true;
        }
        match self.members.values().find(|member| joined(member)) {
            Some(member) => {
                self.leader = Some(member.id.clone());
                true
            }
            None => false,
        }
    }

    /// The protocol with the most votes among those that all members support; each member votes for
    /// the one it prefers. Kafka breaks ties by chance, we by name.
    pub(super) fn select_protocol(&self) -> Option<StrBytes> {
        let supported_by_all =
            |name: &StrBytes| self.supported.get(name) == Some(&self.members.len());
        let mut votes: BTreeMap<&StrBytes, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some((name, _)) = member
                .protocols
                .iter()
                .find(|(name, _)| supported_by_all(name))
            {
                *votes.entry(name).or_default() += 1;
            }
        }
        let most = votes.values().copied().max()?;
        votes
            .into_iter()
            .find(|(_, count)| *count == most)
            .map(|(name, _)| name.clone())
    }

    /// The next generation: CompletingRebalance with members, Empty without.
    pub(super) fn init_next_generation(&mut self, now_ms: i64) {
        // After i32::MAX Kafka goes on with negative numbers, which mean "no generation".
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.protocol_name = self.select_protocol();
        self.subscribed_topics = self.compute_subscribed_topics();
        self.pending_sync.clear();
        self.assignment_in_flight = false;
        let empty = self.members.is_empty();
        let state = if empty {
            GroupState::Empty
        } else {
            GroupState::CompletingRebalance
        };
        self.transition_to(state, now_ms);
    }

    /// What the members are subscribed to; None if that cannot be known.
    pub(super) fn compute_subscribed_topics(&self) -> Option<BTreeSet<StrBytes>> {
        if self
            .protocol_type
            .as_ref()
            .is_none_or(|name| name.as_str() != CONSUMER_PROTOCOL_TYPE)
        {
            return None;
        }
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            let metadata = member.metadata(self.protocol_name.as_ref()?)?;
            topics.extend(decode_subscribed_topics(metadata).ok()?);
        }
        Some(topics)
    }

    /// To be safe, a topic counts as subscribed if that is not known.
    pub(super) fn is_subscribed_to(&self, topic: &StrBytes) -> bool {
        self.subscribed_topics
            .as_ref()
            .is_none_or(|topics| topics.contains(topic))
    }

    /// The members as the leader gets them.
    pub(super) fn member_metadata(&self) -> Vec<JoinGroupResponseMember> {
        self.members
            .values()
            .map(|member| {
                JoinGroupResponseMember::default()
                    .with_member_id(member.id.clone())
                    .with_group_instance_id(member.instance_id.clone())
                    .with_metadata(self.metadata_of(member))
            })
            .collect()
    }

    /// What a member said under the protocol of the generation.
    pub(super) fn metadata_of(&self, member: &Member) -> Bytes {
        let protocol = self.protocol_name.as_ref();
        protocol
            .and_then(|name| member.metadata(name))
            .cloned()
            .unwrap_or_default()
    }

    /// The record of the generation with these assignments; of a member that has none here, its
    /// present one.
    pub(super) fn metadata_record(
        &self,
        assignments: &BTreeMap<StrBytes, Bytes>,
    ) -> Result<GroupRecord, FormatError> {
        let members = self.members.values().map(|member| MemberMetadataValue {
            member_id: member.id.clone(),
            group_instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: member.session_timeout_ms,
            subscription: self.metadata_of(member),
            assignment: assignments
                .get(&member.id)
                .unwrap_or(&member.assignment)
                .clone(),
        });
        let value = GroupMetadataValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol_name.clone(),
            leader: self.leader.clone(),
            current_state_timestamp_ms: self.state_since_ms.unwrap_or(-1),
            members: members.collect(),
        };
        Ok((
            encode_group_key(&self.id)?,
            Some(encode_group_value(&value)?),
        ))
    }

    fn count_protocols(&mut self, protocols: &[(StrBytes, Bytes)], more: bool) {
        for (name, _) in protocols {
            let count = self.supported.entry(name.clone()).or_default();
            if more {
                *count += 1;
            } else {
                *count -= 1;
            }
            if *count == 0 {
                self.supported.remove(name);
            }
        }
    }
}
