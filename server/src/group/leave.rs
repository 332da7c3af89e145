//! LeaveGroup, version 0 to 5.
//!
//! | version | what changes |
//! |---|---|
//! | 0 to 2 | one member, its error is the error of the answer |
//! | 3 | several members, by id or by instance id; errors per member (KIP-345) |
//! | 4 | flexible |
//! | 5 | reason, for logs only (KIP-800) |

use super::action::GroupResponse;
use super::context::Context;
use super::group_state::Group;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};

/// The answer for the group as a whole.
pub(super) fn error_response(error: ResponseError) -> GroupResponse {
    GroupResponse::LeaveGroup(LeaveGroupResponse::default().with_error_code(error.code()))
}

/// The leaving members in the shape of version 3.
pub(super) fn leaving_members(version: i16, request: LeaveGroupRequest) -> Vec<MemberIdentity> {
    if version >= 3 {
        return request.members;
    }
    vec![
        MemberIdentity::default()
            .with_member_id(request.member_id)
            .with_group_instance_id(None),
    ]
}

/// The answer for each member: `leave` takes one out.
pub(super) fn response(
    version: i16,
    leaving: Vec<MemberIdentity>,
    mut leave: impl FnMut(&MemberIdentity) -> Result<(), ResponseError>,
) -> GroupResponse {
    let members: Vec<MemberResponse> = leaving
        .into_iter()
        .map(|member| {
            let code = leave(&member).map_or_else(|error| error.code(), |()| 0);
            MemberResponse::default()
                .with_member_id(member.member_id)
                .with_group_instance_id(member.group_instance_id)
                .with_error_code(code)
        })
        .collect();
    let response = LeaveGroupResponse::default();
    GroupResponse::LeaveGroup(if version >= 3 {
        response.with_members(members)
    } else {
        response.with_error_code(members.first().map_or(0, |member| member.error_code))
    })
}

impl Group {
    /// One member leaves. An administrator may remove a static member by its instance id alone.
    pub(super) fn leave(
        &mut self,
        context: &mut Context,
        leaving: &MemberIdentity,
    ) -> Result<(), ResponseError> {
        if leaving.member_id.is_empty() {
            let instance_id = leaving.group_instance_id.as_ref();
            let member_id = instance_id
                .and_then(|id| self.static_members.get(id))
                .cloned();
            let member_id = member_id.ok_or(ResponseError::UnknownMemberId)?;
            self.remove_and_rebalance(context, &member_id);
            return Ok(());
        }
        if self.pending_members.contains(&leaving.member_id) {
            self.drop_pending_member(context, &leaving.member_id);
            return Ok(());
        }
        self.validate_member(&leaving.member_id, leaving.group_instance_id.as_ref())?;
        self.remove_and_rebalance(context, &leaving.member_id);
        Ok(())
    }
}
