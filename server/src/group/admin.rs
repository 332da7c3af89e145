//! DescribeGroups, version 0 to 5, ListGroups, version 0 to 5, and DeleteGroups, version 0 to 2.
//!
//! | version | what changes |
//! |---|---|
//! | DescribeGroups 3 | authorized operations: filled in by who knows the ACLs (KIP-430) |
//! | DescribeGroups 4 | group.instance.id of members (KIP-345) |
//! | DescribeGroups 5, ListGroups 3, DeleteGroups 2 | flexible |
//! | ListGroups 4 | filter by states, and the state of each group (KIP-518) |
//! | ListGroups 5 | filter by types, and the type of each group (KIP-848) |

use super::action::{GroupRecord, GroupResponse};
use super::context::{PendingAppend, PendingDelete, own};
use super::coordinator::{Coordinator, PartitionState};
use super::group_state::{Group, GroupState};
use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    GroupId, ListGroupsRequest, ListGroupsResponse,
};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeSet;

/// The type of every group here.
const GROUP_TYPE: &str = "classic";

impl Coordinator {
    /// DescribeGroups.
    pub(super) fn describe_groups(&mut self, ticket: u64, request: DescribeGroupsRequest) {
        let groups = request.groups.into_iter().map(|group_id| {
            match self.ready_partition(&group_id, true) {
                Err(error) => describe_error(group_id, error),
                Ok(_) => describe(self.groups.get(&group_id.0), group_id),
            }
        });
        let response = DescribeGroupsResponse::default().with_groups(groups.collect());
        self.context
            .reply(ticket, |_| GroupResponse::DescribeGroups(response));
    }

    /// ListGroups; with the groups so far while partitions are loading.
    pub(super) fn list_groups(&mut self, ticket: u64, request: &ListGroupsRequest) {
        let loading = self
            .partitions
            .values()
            .any(|state| *state == PartitionState::Loading);
        let code = if loading {
            ResponseError::CoordinatorLoadInProgress.code()
        } else {
            0
        };
        let groups = self
            .groups
            .values()
            .filter(|group| is_listed(group, request));
        let response = ListGroupsResponse::default()
            .with_error_code(code)
            .with_groups(groups.map(listed).collect());
        self.context
            .reply(ticket, |_| GroupResponse::ListGroups(response));
    }

    /// DeleteGroups: only empty groups go; answered when all tombstones are in the log.
    pub(super) fn delete_groups(&mut self, ticket: u64, request: DeleteGroupsRequest) {
        let mut response = DeleteGroupsResponse::default();
        let mut appends = 0;
        let mut seen = BTreeSet::new();
        for group_id in request.groups_names {
            if !seen.insert(group_id.clone()) {
                continue;
            }
            let result = match self.ready_partition(&group_id, true) {
                Err(error) => Err(error),
                Ok(partition) => self.delete_group(&group_id).map(|tombstones| {
                    if !tombstones.is_empty() {
                        let index = response.results.len();
                        let then = PendingAppend::DeleteGroup { ticket, index };
                        self.context.append(partition, tombstones, then);
                        appends += 1;
                    }
                }),
            };
            response
                .results
                .push(deleted(own(&group_id).into(), result));
        }
        if appends == 0 {
            self.context
                .reply(ticket, |_| GroupResponse::DeleteGroups(response));
        } else {
            self.context
                .deletes
                .insert(ticket, PendingDelete { appends, response });
        }
    }

    fn delete_group(&mut self, group_id: &StrBytes) -> Result<Vec<GroupRecord>, ResponseError> {
        let group = self
            .groups
            .get_mut(group_id)
            .ok_or(ResponseError::GroupIdNotFound)?;
        if group.state != GroupState::Empty {
            return Err(ResponseError::NonEmptyGroup);
        }
        let mut tombstones = group.delete_all_offsets();
        tombstones.extend(group.group_tombstone());
        self.drop_group(group_id);
        Ok(tombstones)
    }

    /// The tombstones of one group are in the log, or not; the answer goes out with the last one.
    pub(super) fn group_deleted(
        &mut self,
        ticket: u64,
        index: usize,
        result: Result<(), ResponseError>,
    ) {
        let Some(delete) = self.context.deletes.get_mut(&ticket) else {
            return;
        };
        if let (Err(error), Some(group)) = (result, delete.response.results.get_mut(index)) {
            group.error_code = error.code();
        }
        delete.appends -= 1;
        if delete.appends == 0
            && let Some(delete) = self.context.deletes.remove(&ticket)
        {
            self.context
                .reply(ticket, |_| GroupResponse::DeleteGroups(delete.response));
        }
    }
}

/// The answer about a group that cannot be asked.
fn describe_error(group_id: GroupId, error: ResponseError) -> DescribedGroup {
    DescribedGroup::default()
        .with_group_id(group_id)
        .with_error_code(error.code())
}

/// The answer about a group; one that does not exist is Dead. Only a stable group tells what its
/// members said and were assigned.
fn describe(group: Option<&Group>, group_id: GroupId) -> DescribedGroup {
    let described = DescribedGroup::default().with_group_id(group_id);
    let Some(group) = group else {
        return described.with_group_state(StrBytes::from_static_str(GroupState::Dead.name()));
    };
    let stable = group.state == GroupState::Stable;
    let members = group.members.values().map(|member| {
        let (metadata, assignment) = if stable {
            (group.metadata_of(member), member.assignment.clone())
        } else {
            (Bytes::new(), Bytes::new())
        };
        DescribedGroupMember::default()
            .with_member_id(member.id.clone())
            .with_group_instance_id(member.instance_id.clone())
            .with_client_id(member.client_id.clone())
            .with_client_host(member.client_host.clone())
            .with_member_metadata(metadata)
            .with_member_assignment(assignment)
    });
    let protocol = group.protocol_name.clone().filter(|_| stable);
    described
        .with_group_state(StrBytes::from_static_str(group.state.name()))
        .with_protocol_type(group.protocol_type.clone().unwrap_or_default())
        .with_protocol_data(protocol.unwrap_or_default())
        .with_members(members.collect())
}

/// Whether the request asks for this group; names are compared without case, as by Kafka.
fn is_listed(group: &Group, request: &ListGroupsRequest) -> bool {
    let passes = |filter: &[StrBytes], name: &str| {
        filter.is_empty()
            || filter
                .iter()
                .any(|wanted| wanted.eq_ignore_ascii_case(name))
    };
    passes(&request.states_filter, group.state.name()) && passes(&request.types_filter, GROUP_TYPE)
}

/// The line of a group.
fn listed(group: &Group) -> ListedGroup {
    ListedGroup::default()
        .with_group_id(group.id.clone().into())
        .with_protocol_type(group.protocol_type.clone().unwrap_or_default())
        .with_group_state(StrBytes::from_static_str(group.state.name()))
        .with_group_type(StrBytes::from_static_str(GROUP_TYPE))
}

/// The result for one group of a DeleteGroups.
fn deleted(group_id: GroupId, result: Result<(), ResponseError>) -> DeletableGroupResult {
    let code = result.map_or_else(|error| error.code(), |()| 0);
    DeletableGroupResult::default()
        .with_group_id(group_id)
        .with_error_code(code)
}
