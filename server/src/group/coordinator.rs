//! The entry points: requests, ends of appends, time, loading and unloading of partitions. One
//! coordinator serves all groups of a shard, that is of the partitions of `__consumer_offsets` that
//! the shard owns. A request goes through [`Coordinator::handle`] to the handler of its API; the
//! handlers change one group and say through the context what is to be done.

use super::action::{
    Action, AppendToken, Caller, GroupConfig, GroupRecord, GroupRequest, GroupResponse,
};
use super::context::{Context, GroupKey, PendingAppend};
use super::group_state::{Group, GroupState};
use super::join::Joining;
use super::load::{LoadReport, LoadedGroups};
use super::offsets::RetentionBase;
use super::timers::TimerKey;
use super::{commit, fetch, join, leave, partition_for_group, sync};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, OffsetCommitRequest,
    OffsetDeleteRequest, OffsetFetchRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::StrBytes;

use crate::metrics::GroupOffset;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartitionState {
    Loading,
    Active,
}

/// The group coordinator of a shard. See the head of [`super`].
pub struct Coordinator {
    pub(super) groups: BTreeMap<StrBytes, Group>,
    /// The partitions of `__consumer_offsets` that are ours.
    pub(super) partitions: BTreeMap<i32, PartitionState>,
    /// How many partitions `__consumer_offsets` has.
    partition_count: i32,
    pub(super) context: Context,
}

impl std::fmt::Debug for Coordinator {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Coordinator")
            .field("partitions", &self.partitions)
            .field("groups", &self.groups.len())
            .finish_non_exhaustive()
    }
}

impl Coordinator {
    /// A coordinator that owns no partition yet. `partition_count` is that of `__consumer_offsets`;
    /// `uuid_source` gives the random bytes of member ids.
    pub fn new(
        config: GroupConfig,
        partition_count: i32,
        uuid_source: Box<dyn FnMut() -> [u8; 16]>,
    ) -> Self {
        Self {
            groups: BTreeMap::new(),
            partitions: BTreeMap::new(),
            partition_count,
            context: Context::new(config, uuid_source),
        }
    }

    /// The topic has as many partitions as it has, whatever the configuration would give a new one.
    pub fn set_partition_count(&mut self, count: i32) {
        self.partition_count = count;
    }

    /// All committed offsets.
    pub fn committed(&self) -> impl Iterator<Item = GroupOffset> {
        self.groups.values().flat_map(|group| {
            let of_group = group.offsets.iter();
            of_group.map(|((topic, partition), value)| GroupOffset {
                group: group.id.to_string(),
                topic: topic.to_string(),
                partition: *partition,
                offset: value.offset,
            })
        })
    }

    /// A request. Its ticket is answered by an action of this call or of a later one.
    pub fn handle(
        &mut self,
        now_ms: i64,
        caller: &Caller<'_>,
        request: GroupRequest,
    ) -> Vec<Action> {
        self.context.now_ms = now_ms;
        self.context.open(caller.ticket, caller.version);
        match request {
            GroupRequest::JoinGroup(request) => self.join_group(caller, &request),
            GroupRequest::SyncGroup(request) => self.sync_group(caller, &request),
            GroupRequest::Heartbeat(request) => self.heartbeat(caller.ticket, &request),
            GroupRequest::LeaveGroup(request) => self.leave_group(caller, request),
            GroupRequest::OffsetCommit(request) => self.offset_commit(caller.ticket, &request),
            GroupRequest::OffsetFetch(request) => self.offset_fetch(caller, request),
            GroupRequest::OffsetDelete(request) => self.offset_delete(caller.ticket, &request),
            GroupRequest::DescribeGroups(request) => self.describe_groups(caller.ticket, request),
            GroupRequest::ListGroups(request) => self.list_groups(caller.ticket, &request),
            GroupRequest::DeleteGroups(request) => self.delete_groups(caller.ticket, request),
        }
        self.context.take_actions()
    }

    /// The append under this token has ended: durable, or failed with the error of the log. Has to
    /// be called once for every [`Action::Append`].
    pub fn appended(
        &mut self,
        now_ms: i64,
        token: AppendToken,
        result: Result<(), ResponseError>,
    ) -> Vec<Action> {
        self.context.now_ms = now_ms;
        match self.context.take_append(token) {
            Some(PendingAppend::Assignment {
                group,
                generation,
                assignments,
            }) => {
                self.with_incarnation(&group, |context, group| {
                    group.assignment_stored(context, generation, &assignments, result);
                });
            }
            Some(PendingAppend::StaticMember(replacement)) => {
                let key = replacement.group.clone();
                self.with_incarnation(&key, |context, group| {
                    group.static_member_stored(context, *replacement, result);
                });
            }
            Some(PendingAppend::OffsetCommit {
                group,
                ticket,
                offsets,
                response,
            }) => {
                self.with_incarnation(&group, |_, group| {
                    group.commit_stored(token.0, offsets, result.is_ok());
                });
                self.drop_if_blank(&group.id);
                self.context
                    .reply(ticket, |_| commit::stored_response(response, result));
            }
            Some(PendingAppend::DeleteGroup { ticket, index }) => {
                self.group_deleted(ticket, index, result);
            }
            Some(PendingAppend::OffsetDelete { ticket, response }) => {
                let response = match result {
                    Ok(()) => response,
                    Err(error) => commit::delete_error_response(error),
                };
                self.context
                    .reply(ticket, |_| GroupResponse::OffsetDelete(response));
            }
            Some(PendingAppend::Nobody) | None => {}
        }
        self.context.take_actions()
    }

    /// The caller of this ticket has gone; no action will name it any more. What its request began
    /// goes on.
    pub fn cancel(&mut self, now_ms: i64, ticket: u64) -> Vec<Action> {
        self.context.now_ms = now_ms;
        if let Some((group_id, member_id)) = self.context.close(ticket) {
            self.with_group(&group_id, |context, group| {
                group.join_cancelled(context, &member_id, ticket);
            });
        }
        self.context.take_actions()
    }

    /// When [`Self::tick`] has to be called next.
    pub fn next_deadline(&self) -> Option<i64> {
        self.context.timers.next()
    }

    /// Time has passed: ends sessions and waits that are over.
    pub fn tick(&mut self, now_ms: i64) -> Vec<Action> {
        self.context.now_ms = now_ms;
        for due in self.context.timers.take_due(now_ms) {
            match due {
                TimerKey::Session(group, member) => {
                    self.with_group(&group, |context, group| {
                        group.on_session_timeout(context, &member);
                    });
                }
                TimerKey::PendingMember(group_id, member) => {
                    self.with_group(&group_id, |context, group| {
                        group.drop_pending_member(context, &member);
                    });
                    self.drop_if_blank(&group_id);
                }
                TimerKey::Join(group) => {
                    self.with_group(&group, |context, group| group.on_join_timeout(context));
                }
                TimerKey::Sync(group) => {
                    self.with_group(&group, |context, group| group.on_sync_timeout(context));
                }
                TimerKey::OffsetExpiry => self.expire_offsets(),
            }
        }
        self.context.take_actions()
    }

    /// The partition of `__consumer_offsets` is ours and its log is being read: its groups answer
    /// COORDINATOR_LOAD_IN_PROGRESS. What is still held of it goes, as by [`Self::unload`].
    pub fn begin_load(&mut self, now_ms: i64, partition: i32) -> Vec<Action> {
        let actions = self.unload(now_ms, partition);
        self.partitions.insert(partition, PartitionState::Loading);
        actions
    }

    /// The log has been read: the groups are there, their members with fresh sessions. Without
    /// effect if the partition was unloaded meanwhile.
    pub fn finish_load(
        &mut self,
        now_ms: i64,
        partition: i32,
        loaded: LoadedGroups,
    ) -> (Vec<Action>, LoadReport) {
        self.context.now_ms = now_ms;
        let (groups, report) = loaded.into_groups(&mut self.context, partition);
        if self.partitions.get(&partition) != Some(&PartitionState::Loading) {
            return (Vec::new(), report);
        }
        for group in groups {
            let id = group.id.clone();
            self.context.population += group.population();
            let replaced = self.groups.insert(id.clone(), group);
            assert!(
                replaced.is_none(),
                "group {id} was there before partition {partition}"
            );
            self.with_group(&id, |context, group| {
                if group.members.len() > context.config.group_max_size {
                    group.prepare_rebalance(context);
                }
                for member_id in group.members.keys() {
                    group.touch(context, member_id);
                }
            });
        }
        self.partitions.insert(partition, PartitionState::Active);
        if !self.context.timers.is_set(&TimerKey::OffsetExpiry) {
            self.schedule_expiry();
        }
        (self.context.take_actions(), report)
    }

    /// [`Self::begin_load`] and [`Self::finish_load`] in one, for records at hand.
    pub fn load(
        &mut self,
        now_ms: i64,
        partition: i32,
        records: impl IntoIterator<Item = GroupRecord>,
    ) -> (Vec<Action>, LoadReport) {
        let mut actions = self.begin_load(now_ms, partition);
        let mut loaded = LoadedGroups::default();
        for (key, value) in records {
            loaded.record(&key, value.as_deref());
        }
        let (more, report) = self.finish_load(now_ms, partition, loaded);
        actions.extend(more);
        (actions, report)
    }

    /// The partition is not ours any more: who waits is sent to look for the new coordinator.
    pub fn unload(&mut self, now_ms: i64, partition: i32) -> Vec<Action> {
        self.context.now_ms = now_ms;
        self.partitions.remove(&partition);
        let ids = self
            .groups
            .values()
            .filter(|group| group.partition == partition);
        let ids: Vec<StrBytes> = ids.map(|group| group.id.clone()).collect();
        for id in ids {
            self.with_group(&id, |context, group| group.unload(context));
            self.drop_group(&id);
        }
        self.context.take_actions()
    }

    /// These partitions, of topics that were deleted, are no more: their offsets go from all groups
    /// (GroupCoordinator.handleDeletedPartitions).
    pub fn partitions_deleted(
        &mut self,
        now_ms: i64,
        partitions: &[(StrBytes, i32)],
    ) -> Vec<Action> {
        self.context.now_ms = now_ms;
        self.clean_up(|group| {
            let removed = partitions
                .iter()
                .filter(|partition| group.offsets.remove(partition));
            removed.cloned().collect()
        });
        self.context.take_actions()
    }

    fn join_group(&mut self, caller: &Caller<'_>, request: &JoinGroupRequest) {
        let config = &self.context.config;
        let sessions_ms = config.group_min_session_timeout_ms..=config.group_max_session_timeout_ms;
        let joining = self
            .ready_partition(&request.group_id, false)
            .and_then(|partition| {
                if !sessions_ms.contains(&request.session_timeout_ms) {
                    return Err(ResponseError::InvalidSessionTimeout);
                }
                let joining = Joining::new(caller, request)?;
                let exists = self.groups.contains_key(&request.group_id.0);
                if !exists && !joining.member_id.is_empty() {
                    return Err(ResponseError::UnknownMemberId);
                }
                self.create_group(&request.group_id, partition)?;
                Ok(joining)
            });
        match joining {
            Ok(joining) => {
                self.with_group(&request.group_id, |context, group| {
                    group.join(context, joining);
                });
                self.drop_if_blank(&request.group_id);
            }
            Err(error) => {
                let member_id = request.member_id.clone();
                self.context.reply(caller.ticket, |version| {
                    join::error_response(version, member_id, error)
                });
            }
        }
    }

    fn sync_group(&mut self, caller: &Caller<'_>, request: &SyncGroupRequest) {
        let ready = match self.ready_partition(&request.group_id, false) {
            // The rebalance of before the load is lost, and old clients do not know the error of
            // loading (GroupCoordinator.handleSyncGroup).
            Err(ResponseError::CoordinatorLoadInProgress) => {
                Err(ResponseError::RebalanceInProgress)
            }
            Err(error) => Err(error),
            Ok(_) if sync::lacks_protocol(caller.version, request) => {
                Err(ResponseError::InconsistentGroupProtocol)
            }
            Ok(_) => Ok(()),
        };
        let ticket = caller.ticket;
        let found = ready.and_then(|()| {
            self.with_group(&request.group_id, |context, group| {
                group.sync(context, ticket, request);
            })
            .ok_or(ResponseError::UnknownMemberId)
        });
        if let Err(error) = found {
            self.context.reply(ticket, |_| sync::error_response(error));
        }
    }

    fn heartbeat(&mut self, ticket: u64, request: &HeartbeatRequest) {
        let result = match self.ready_partition(&request.group_id, false) {
            // While loading, nobody knows better.
            Err(ResponseError::CoordinatorLoadInProgress) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => self
                .with_group(&request.group_id, |context, group| {
                    group.heartbeat(context, request)
                })
                .unwrap_or(Err(ResponseError::UnknownMemberId)),
        };
        self.context
            .reply(ticket, |_| sync::heartbeat_response(result));
    }

    fn leave_group(&mut self, caller: &Caller<'_>, request: LeaveGroupRequest) {
        if let Err(error) = self.ready_partition(&request.group_id, false) {
            return self
                .context
                .reply(caller.ticket, |_| leave::error_response(error));
        }
        let group_id = request.group_id.0.clone();
        let leaving = leave::leaving_members(caller.version, request);
        let response = leave::response(caller.version, leaving, |member| {
            self.with_group(&group_id, |context, group| group.leave(context, member))
                .unwrap_or(Err(ResponseError::UnknownMemberId))
        });
        self.drop_if_blank(&group_id);
        self.context.reply(caller.ticket, |_| response);
    }

    fn offset_commit(&mut self, ticket: u64, request: &OffsetCommitRequest) {
        let ready = self
            .ready_partition(&request.group_id, true)
            .and_then(|partition| {
                let exists = self.groups.contains_key(&request.group_id.0);
                if !exists && request.generation_id_or_member_epoch >= 0 {
                    return Err(ResponseError::IllegalGeneration);
                }
                self.create_group(&request.group_id, partition)
            });
        if let Err(error) = ready {
            let response = commit::error_response(request, error);
            return self
                .context
                .reply(ticket, |_| GroupResponse::OffsetCommit(response));
        }
        self.with_group(&request.group_id, |context, group| {
            group.commit(context, ticket, request);
        });
        self.drop_if_blank(&request.group_id);
    }

    fn offset_fetch(&mut self, caller: &Caller<'_>, request: OffsetFetchRequest) {
        let version = caller.version;
        let require_stable = request.require_stable;
        let groups = fetch::requested_groups(version, request)
            .into_iter()
            .map(
                |requested| match self.ready_partition(&requested.group_id, true) {
                    Err(error) => fetch::error_group(version, requested, error),
                    Ok(_) => {
                        let group = self.groups.get(&requested.group_id.0);
                        fetch::fetch_offsets(group, requested, require_stable)
                    }
                },
            );
        let response = fetch::response(version, groups.collect());
        self.context
            .reply(caller.ticket, |_| GroupResponse::OffsetFetch(response));
    }

    fn offset_delete(&mut self, ticket: u64, request: &OffsetDeleteRequest) {
        let deleted = self
            .ready_partition(&request.group_id, false)
            .and_then(|_| {
                self.with_group(&request.group_id, |_, group| group.delete_offsets(request))
                    .unwrap_or(Err(ResponseError::GroupIdNotFound))
            });
        let (response, mut tombstones) = match deleted {
            Ok(deleted) => deleted,
            Err(error) => (commit::delete_error_response(error), Vec::new()),
        };
        // With its last offset an empty group goes, too.
        tombstones.extend(self.drop_if_done(&request.group_id));
        let partition = partition_for_group(&request.group_id, self.partition_count);
        if tombstones.is_empty() {
            self.context
                .reply(ticket, |_| GroupResponse::OffsetDelete(response));
        } else {
            let then = PendingAppend::OffsetDelete { ticket, response };
            self.context.append(partition, tombstones, then);
        }
    }

    fn schedule_expiry(&mut self) {
        let check_ms = self
            .context
            .config
            .offsets_retention_check_interval_ms
            .max(1);
        let deadline_ms = self.context.now_ms.saturating_add(check_ms);
        self.context.timers.set(TimerKey::OffsetExpiry, deadline_ms);
    }

    /// What is old goes (GroupMetadata.removeExpiredOffsets), and groups that hold nothing more.
    fn expire_offsets(&mut self) {
        self.schedule_expiry();
        let now_ms = self.context.now_ms;
        let retention_ms = self.context.config.offsets_retention_ms;
        self.clean_up(|group| group.expire_offsets(now_ms, retention_ms));
    }

    /// Takes offsets out of every group and writes their tombstones, one append per group
    /// (GroupMetadataManager.cleanupGroupMetadata).
    fn clean_up(&mut self, mut take: impl FnMut(&mut Group) -> Vec<(StrBytes, i32)>) {
        let ids: Vec<(StrBytes, i32)> = self
            .groups
            .values()
            .map(|group| (group.id.clone(), group.partition))
            .collect();
        for (id, partition) in ids {
            let tombstones = self.with_group(&id, |_, group| {
                let taken = take(group);
                group.offset_tombstones(taken)
            });
            let mut tombstones = tombstones.unwrap_or_default();
            tombstones.extend(self.drop_if_done(&id));
            if !tombstones.is_empty() {
                self.context
                    .append(partition, tombstones, PendingAppend::Nobody);
            }
        }
    }

    /// The group's partition, if it is ours and loaded. Only the offset APIs and the administrative
    /// ones know the empty group id (GroupCoordinator.isValidGroupId).
    pub(super) fn ready_partition(
        &self,
        group_id: &str,
        may_be_empty: bool,
    ) -> Result<i32, ResponseError> {
        // Longer ids do not fit into the keys of the log.
        if (group_id.is_empty() && !may_be_empty) || group_id.len() > i16::MAX as usize {
            return Err(ResponseError::InvalidGroupId);
        }
        let partition = partition_for_group(group_id, self.partition_count);
        match self.partitions.get(&partition) {
            None => Err(ResponseError::NotCoordinator),
            Some(PartitionState::Loading) => Err(ResponseError::CoordinatorLoadInProgress),
            Some(PartitionState::Active) => Ok(partition),
        }
    }

    fn create_group(&mut self, group_id: &StrBytes, partition: i32) -> Result<(), ResponseError> {
        if self.groups.contains_key(group_id) {
            return Ok(());
        }
        if self.groups.len() >= self.context.config.groups_max {
            return Err(ResponseError::CoordinatorNotAvailable);
        }
        let group = Group::new(&mut self.context, group_id, partition);
        self.groups.insert(group.id.clone(), group);
        Ok(())
    }

    /// Runs a step on a group and keeps the count of members.
    fn with_group<T>(
        &mut self,
        group_id: &StrBytes,
        step: impl FnOnce(&mut Context, &mut Group) -> T,
    ) -> Option<T> {
        let group = self.groups.get_mut(group_id)?;
        let before = group.population();
        let result = step(&mut self.context, group);
        self.context.population = self.context.population - before + group.population();
        Some(result)
    }

    fn with_incarnation(&mut self, key: &GroupKey, step: impl FnOnce(&mut Context, &mut Group)) {
        if self
            .groups
            .get(&key.id)
            .is_some_and(|group| group.incarnation == key.incarnation)
        {
            self.with_group(&key.id, step);
        }
    }

    /// Drops a group that only a failed request had brought into being.
    fn drop_if_blank(&mut self, group_id: &StrBytes) {
        if self.groups.get(group_id).is_some_and(Group::is_blank) {
            self.drop_group(group_id);
        }
    }

    /// Drops an empty group without offsets; its tombstone, if it needs one.
    fn drop_if_done(&mut self, group_id: &StrBytes) -> Option<GroupRecord> {
        let group = self.groups.get(group_id)?;
        let done = group.state == GroupState::Empty
            && group.offsets.is_empty()
            && group.pending_members.is_empty();
        if !done {
            return None;
        }
        let tombstone = group.group_tombstone();
        self.drop_group(group_id);
        tombstone
    }

    pub(super) fn drop_group(&mut self, group_id: &StrBytes) {
        self.with_group(group_id, |context, group| group.clear(context));
        self.groups.remove(group_id);
    }
}

impl Group {
    /// Which offsets are over. In an empty group the retention counts from when it became empty, in
    /// a stable one or one without members ever from each commit (KIP-211).
    fn expire_offsets(&mut self, now_ms: i64, retention_ms: i64) -> Vec<(StrBytes, i32)> {
        let (base, subscribed) = match (&self.protocol_type, self.state) {
            (None, _) => (RetentionBase::Commit, None),
            (Some(_), GroupState::Empty) => (
                self.state_since_ms
                    .map_or(RetentionBase::Commit, RetentionBase::Since),
                None,
            ),
            // Only consumers' subscriptions can be known.
            (Some(_), GroupState::Stable) if self.subscribed_topics.is_some() => {
                (RetentionBase::Commit, self.subscribed_topics.as_ref())
            }
            (Some(_), _) => return Vec::new(),
        };
        self.offsets.expire(now_ms, retention_ms, base, subscribed)
    }
}
