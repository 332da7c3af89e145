//! From PreparingRebalance to the next generation, and what deadlines do to a group. The group's way:
//!
//! ```text
//! Empty --join--> PreparingRebalance --all joined or time over--> CompletingRebalance
//!                   ^  |  no member left                             | assignment in the log
//!                   |  +-----------> Empty                           v
//!                   +---- join, leave, failure, leader rejoins ---- Stable
//! ```

use super::context::{Context, PendingAppend};
use super::group_state::{Group, GroupState, JoinWait};
use super::join;
use super::sync;
use super::timers::TimerKey;
use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;

/// How long the first JoinGroup of a member may wait before the member is dropped: it does not know
/// its id, so that each retry of a client that went away adds another member (GroupCoordinator.scala,
/// NewMemberJoinTimeoutMs).
pub(super) const NEW_MEMBER_JOIN_TIMEOUT_MS: i64 = 5 * 60 * 1_000;

/// The least wait between two tries to complete a rebalance that nobody joined: a client may tell a
/// rebalance timeout of 0, and then Kafka spins.
const RETRY_JOIN_MS_MIN: i64 = 100;

impl Group {
    /// Sets the member's deadline anew: it showed a sign of life.
    pub(super) fn touch(&self, context: &mut Context, member_id: &StrBytes) {
        if let Some(member) = self.members.get(member_id) {
            let timeout_ms = i64::from(member.session_timeout_ms.max(0));
            let key = TimerKey::Session(self.id.clone(), member.id.clone());
            context.timers.set(key, context.now_ms + timeout_ms);
        }
    }

    /// Begins a rebalance unless one is being prepared.
    pub(super) fn maybe_prepare_rebalance(&mut self, context: &mut Context) {
        if self.state != GroupState::PreparingRebalance {
            self.prepare_rebalance(context);
        }
    }

    /// To PreparingRebalance; members that wait for the assignment have to join again.
    pub(super) fn prepare_rebalance(&mut self, context: &mut Context) {
        if self.state == GroupState::CompletingRebalance {
            self.reset_assignment(context, ResponseError::RebalanceInProgress);
        }
        self.pending_sync.clear();
        context.timers.cancel(&TimerKey::Sync(self.id.clone()));
        let was_empty = self.state == GroupState::Empty;
        self.transition_to(GroupState::PreparingRebalance, context.now_ms);
        if was_empty {
            let delay_ms = i64::from(context.config.group_initial_rebalance_delay_ms.max(0));
            let remaining_ms = (self.rebalance_timeout_ms() - delay_ms).max(0);
            self.new_member_added = false;
            self.wait_for_joins(
                context,
                JoinWait::Initial {
                    delay_ms,
                    remaining_ms,
                },
                delay_ms,
            );
            if delay_ms == 0 {
                self.complete_join(context);
            }
        } else {
            self.wait_for_joins(context, JoinWait::AllMembers, self.rebalance_timeout_ms());
            self.maybe_complete_join(context);
        }
    }

    fn wait_for_joins(&mut self, context: &mut Context, wait: JoinWait, timeout_ms: i64) {
        self.join_wait = wait;
        context
            .timers
            .set(TimerKey::Join(self.id.clone()), context.now_ms + timeout_ms);
    }

    /// Ends the wait if all members have joined; the initial delay always runs to its end.
    pub(super) fn maybe_complete_join(&mut self, context: &mut Context) {
        if self.state == GroupState::PreparingRebalance
            && self.join_wait == JoinWait::AllMembers
            && self.has_all_members_joined()
        {
            self.complete_join(context);
        }
    }

    /// The wait for joins is over by time.
    pub(super) fn on_join_timeout(&mut self, context: &mut Context) {
        if self.state != GroupState::PreparingRebalance {
            return;
        }
        match self.join_wait {
            JoinWait::Initial {
                delay_ms,
                remaining_ms,
            } if self.new_member_added && remaining_ms > 0 => {
                self.new_member_added = false;
                let configured_ms = i64::from(context.config.group_initial_rebalance_delay_ms);
                let next_ms = configured_ms.max(0).min(remaining_ms);
                let wait = JoinWait::Initial {
                    delay_ms: next_ms,
                    remaining_ms: (remaining_ms - delay_ms).max(0),
                };
                self.wait_for_joins(context, wait, next_ms);
            }
            JoinWait::Initial { .. } | JoinWait::AllMembers => self.complete_join(context),
        }
    }

    /// Drops dynamic members that have not joined and begins the next generation with the others.
    /// Static members stay until their session ends (KIP-345).
    fn complete_join(&mut self, context: &mut Context) {
        let late: Vec<StrBytes> = self
            .members
            .values()
            .filter(|member| member.awaiting_join.is_none() && member.instance_id.is_none())
            .map(|member| member.id.clone())
            .collect();
        for member_id in &late {
            self.remove(context, member_id);
        }
        if !self.elect_joined_leader() && !self.members.is_empty() {
            // Only silent static members are left: wait until one joins or their sessions end.
            let timeout_ms = self.rebalance_timeout_ms().max(RETRY_JOIN_MS_MIN);
            self.wait_for_joins(context, JoinWait::AllMembers, timeout_ms);
            return;
        }
        context.timers.cancel(&TimerKey::Join(self.id.clone()));
        self.init_next_generation(context.now_ms);
        if self.state == GroupState::Empty {
            // If this append fails, the previous generation comes back with the next load and its
            // members time out: nobody has to wait for it. Nor can the format refuse it: what is in
            // it was in the log or was checked by JoinGroup.
            if let Ok(record) = self.metadata_record(&BTreeMap::new()) {
                context.append(self.partition, vec![record], PendingAppend::Nobody);
            }
            return;
        }
        self.answer_joins(context);
        context.timers.set(
            TimerKey::Sync(self.id.clone()),
            context.now_ms + self.rebalance_timeout_ms(),
        );
    }

    /// Tells all members the new generation and waits for their SyncGroup.
    fn answer_joins(&mut self, context: &mut Context) {
        let member_ids: Vec<StrBytes> = self.members.keys().cloned().collect();
        for member_id in member_ids {
            let generation = self.generation_of(&member_id);
            self.answer_join(context, &member_id, |version| {
                join::response(version, generation)
            });
            if let Some(member) = self.members.get_mut(&member_id) {
                member.is_new = false;
                member.can_return = true;
            }
            self.touch(context, &member_id);
            self.pending_sync.insert(member_id);
        }
    }

    /// The member has sent its SyncGroup of this generation.
    pub(super) fn sync_received(&mut self, context: &mut Context, member_id: &StrBytes) {
        self.pending_sync.remove(member_id);
        if self.pending_sync.is_empty() {
            context.timers.cancel(&TimerKey::Sync(self.id.clone()));
        }
    }

    /// Members that have not sent SyncGroup within the rebalance timeout are dropped.
    pub(super) fn on_sync_timeout(&mut self, context: &mut Context) {
        if !matches!(
            self.state,
            GroupState::CompletingRebalance | GroupState::Stable
        ) || self.pending_sync.is_empty()
        {
            return;
        }
        for member_id in std::mem::take(&mut self.pending_sync) {
            self.remove(context, &member_id);
        }
        self.prepare_rebalance(context);
    }

    /// The member's session is over, or its first JoinGroup waited too long.
    pub(super) fn on_session_timeout(&mut self, context: &mut Context, member_id: &StrBytes) {
        if self
            .members
            .get(member_id)
            .is_some_and(super::member::Member::may_expire)
        {
            self.remove_and_rebalance(context, member_id);
        }
    }

    /// Nobody joined in time with a member id that was given out, or its owner leaves.
    pub(super) fn drop_pending_member(&mut self, context: &mut Context, member_id: &StrBytes) {
        self.remove_pending(context, member_id);
        self.maybe_complete_join(context);
    }

    /// A member leaves or has failed.
    pub(super) fn remove_and_rebalance(&mut self, context: &mut Context, member_id: &StrBytes) {
        self.remove(context, member_id);
        match self.state {
            GroupState::Stable | GroupState::CompletingRebalance => self.prepare_rebalance(context),
            GroupState::PreparingRebalance => self.maybe_complete_join(context),
            GroupState::Empty | GroupState::Dead => {}
        }
    }

    /// The assignment is in the log: the group is Stable.
    pub(super) fn set_assignment(
        &mut self,
        context: &mut Context,
        assignments: &BTreeMap<StrBytes, Bytes>,
    ) {
        for member in self.members.values_mut() {
            member.assignment = assignments.get(&member.id).cloned().unwrap_or_default();
        }
        self.answer_syncs(context, None);
        self.transition_to(GroupState::Stable, context.now_ms);
    }

    /// There is no assignment in this generation.
    pub(super) fn reset_assignment(&mut self, context: &mut Context, error: ResponseError) {
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
        }
        self.answer_syncs(context, Some(error));
    }

    /// Answers every SyncGroup that waits. Their sessions begin anew, since no deadline counted
    /// while they waited.
    fn answer_syncs(&mut self, context: &mut Context, error: Option<ResponseError>) {
        let member_ids: Vec<StrBytes> = self.members.keys().cloned().collect();
        for member_id in member_ids {
            let response = match error {
                Some(error) => sync::error_response(error),
                None => self.sync_response(&member_id),
            };
            if self.answer_sync(context, &member_id, || response) {
                self.touch(context, &member_id);
            }
        }
    }

    /// The partition has moved: whoever waits looks for the new coordinator.
    pub(super) fn unload(&mut self, context: &mut Context) {
        let error = ResponseError::NotCoordinator;
        let member_ids: Vec<StrBytes> = self.members.keys().cloned().collect();
        for member_id in member_ids {
            self.answer_join(context, &member_id, |version| {
                join::error_response(version, member_id.clone(), error)
            });
            self.answer_sync(context, &member_id, || sync::error_response(error));
        }
    }

    /// Takes out everybody, with all deadlines, before the group is dropped.
    pub(super) fn clear(&mut self, context: &mut Context) {
        let members = self.members.keys().chain(&self.pending_members);
        let member_ids: Vec<StrBytes> = members.cloned().collect();
        for member_id in member_ids {
            self.remove(context, &member_id);
        }
        context.timers.cancel(&TimerKey::Join(self.id.clone()));
        context.timers.cancel(&TimerKey::Sync(self.id.clone()));
    }
}
