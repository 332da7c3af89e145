//! SyncGroup, version 0 to 5, and Heartbeat, version 0 to 4.
//!
//! | version | what changes |
//! |---|---|
//! | SyncGroup 3, Heartbeat 3 | group.instance.id: a fenced static member is told so (KIP-345) |
//! | SyncGroup 4, Heartbeat 4 | flexible |
//! | SyncGroup 5 | protocol type and name must be told and fit; both are in the answer (KIP-559) |

use super::action::GroupResponse;
use super::context::{Context, PendingAppend, store_group_error};
use super::group_state::{Group, GroupState};
use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{
    HeartbeatRequest, HeartbeatResponse, SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;

/// The answer without an assignment.
pub(super) fn error_response(error: ResponseError) -> GroupResponse {
    GroupResponse::SyncGroup(SyncGroupResponse::default().with_error_code(error.code()))
}

/// The answer to a Heartbeat.
pub(super) fn heartbeat_response(result: Result<(), ResponseError>) -> GroupResponse {
    let code = result.map_or_else(|error| error.code(), |()| 0);
    GroupResponse::Heartbeat(HeartbeatResponse::default().with_error_code(code))
}

/// From version 5 on the protocol type and name are mandatory (SyncGroupRequest.java,
/// areMandatoryProtocolTypeAndNamePresent).
pub(super) fn lacks_protocol(version: i16, request: &SyncGroupRequest) -> bool {
    version >= 5 && (request.protocol_type.is_none() || request.protocol_name.is_none())
}

impl Group {
    /// The member's assignment in this generation.
    pub(super) fn sync_response(&self, member_id: &StrBytes) -> GroupResponse {
        let assignment = self
            .members
            .get(member_id)
            .map(|member| member.assignment.clone());
        GroupResponse::SyncGroup(
            SyncGroupResponse::default()
                .with_protocol_type(self.protocol_type.clone())
                .with_protocol_name(self.protocol_name.clone())
                .with_assignment(assignment.unwrap_or_default()),
        )
    }

    /// SyncGroup: waits for the leader's assignment, or tells it.
    pub(super) fn sync(&mut self, context: &mut Context, ticket: u64, request: &SyncGroupRequest) {
        let member_id = &request.member_id;
        if let Err(error) = self.validate_sync(request) {
            return context.reply(ticket, |_| error_response(error));
        }
        match self.state {
            GroupState::Empty | GroupState::Dead => {
                context.reply(ticket, |_| error_response(ResponseError::UnknownMemberId));
            }
            GroupState::PreparingRebalance => {
                context.reply(ticket, |_| {
                    error_response(ResponseError::RebalanceInProgress)
                });
            }
            GroupState::CompletingRebalance => {
                self.park_sync(context, member_id, ticket);
                if self.is_leader(member_id) && !self.assignment_in_flight {
                    self.store_assignment(context, request);
                }
            }
            GroupState::Stable => {
                self.sync_received(context, member_id);
                let response = self.sync_response(member_id);
                context.reply(ticket, |_| response);
                self.touch(context, member_id);
            }
        }
    }

    fn validate_sync(&self, request: &SyncGroupRequest) -> Result<(), ResponseError> {
        self.validate_member(&request.member_id, request.group_instance_id.as_ref())?;
        if request.generation_id != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        let differs =
            |told: &Option<StrBytes>, own: &Option<StrBytes>| told.is_some() && told != own;
        if differs(&request.protocol_type, &self.protocol_type)
            || differs(&request.protocol_name, &self.protocol_name)
        {
            return Err(ResponseError::InconsistentGroupProtocol);
        }
        Ok(())
    }

    /// A SyncGroup of the member that waits still is answered with REBALANCE_IN_PROGRESS (Kafka drops
    /// it; a ticket has to be answered).
    fn park_sync(&mut self, context: &mut Context, member_id: &StrBytes, ticket: u64) {
        self.answer_sync(context, member_id, || {
            error_response(ResponseError::RebalanceInProgress)
        });
        if let Some(member) = self.members.get_mut(member_id) {
            member.awaiting_sync = Some(ticket);
        }
        self.sync_received(context, member_id);
    }

    /// Members that the leader left out get an empty assignment; others than members are ignored.
    fn store_assignment(&mut self, context: &mut Context, request: &SyncGroupRequest) {
        let mut assignments: BTreeMap<StrBytes, Bytes> = self
            .members
            .keys()
            .map(|member_id| (member_id.clone(), Bytes::new()))
            .collect();
        for assigned in &request.assignments {
            if let Some(assignment) = assignments.get_mut(&assigned.member_id) {
                *assignment = Bytes::copy_from_slice(&assigned.assignment);
            }
        }
        match self.metadata_record(&assignments) {
            Ok(record) => {
                self.assignment_in_flight = true;
                let group = self.key();
                let generation = self.generation;
                let then = PendingAppend::Assignment {
                    group,
                    generation,
                    assignments,
                };
                context.append(self.partition, vec![record], then);
            }
            Err(_) => self.assignment_failed(context, ResponseError::UnknownServerError),
        }
    }

    /// The assignment is in the log, or not. Nothing if another rebalance began meanwhile.
    pub(super) fn assignment_stored(
        &mut self,
        context: &mut Context,
        generation: i32,
        assignments: &BTreeMap<StrBytes, Bytes>,
        result: Result<(), ResponseError>,
    ) {
        if self.state != GroupState::CompletingRebalance || generation != self.generation {
            return;
        }
        match result {
            Ok(()) => self.set_assignment(context, assignments),
            Err(error) => self.assignment_failed(context, store_group_error(error)),
        }
    }

    fn assignment_failed(&mut self, context: &mut Context, error: ResponseError) {
        self.reset_assignment(context, error);
        self.maybe_prepare_rebalance(context);
    }

    /// Heartbeat: a sign of life, answered with what the member has to do.
    pub(super) fn heartbeat(
        &mut self,
        context: &mut Context,
        request: &HeartbeatRequest,
    ) -> Result<(), ResponseError> {
        let member_id = &request.member_id;
        self.validate_member(member_id, request.group_instance_id.as_ref())?;
        if request.generation_id != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        self.touch(context, member_id);
        match self.state {
            GroupState::Empty | GroupState::Dead => Err(ResponseError::UnknownMemberId),
            GroupState::PreparingRebalance => Err(ResponseError::RebalanceInProgress),
            GroupState::CompletingRebalance | GroupState::Stable => Ok(()),
        }
    }
}
