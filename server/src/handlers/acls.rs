//! DescribeAcls (29), CreateAcls (30), DeleteAcls (31), versions 0-3: there is no authorizer, and
//! Kafka says so with SECURITY_DISABLED, which tools understand.
//!
//! - 1: pattern types (KIP-290). 2: flexible.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_acls_response::AclCreationResult;
use kafka_protocol::messages::delete_acls_response::DeleteAclsFilterResult;
use kafka_protocol::messages::{
    CreateAclsRequest, CreateAclsResponse, DeleteAclsRequest, DeleteAclsResponse,
    DescribeAclsRequest, DescribeAclsResponse,
};
use kafka_protocol::protocol::StrBytes;

use crate::dispatch::{Call, Handled};

fn disabled() -> (i16, Option<StrBytes>) {
    let message = "No Authorizer is configured.";
    (
        ResponseError::SecurityDisabled.code(),
        Some(StrBytes::from_static_str(message)),
    )
}

pub(crate) fn describe(call: Call) -> Handled {
    Box::pin(async move {
        let _: DescribeAclsRequest = call.decode()?;
        let (code, message) = disabled();
        let response = DescribeAclsResponse::default()
            .with_error_code(code)
            .with_error_message(message);
        call.ready(&response)
    })
}

pub(crate) fn create(call: Call) -> Handled {
    Box::pin(async move {
        let request: CreateAclsRequest = call.decode()?;
        let results = request.creations.iter().map(|_| {
            let (code, message) = disabled();
            AclCreationResult::default()
                .with_error_code(code)
                .with_error_message(message)
        });
        call.ready(&CreateAclsResponse::default().with_results(results.collect()))
    })
}

pub(crate) fn delete(call: Call) -> Handled {
    Box::pin(async move {
        let request: DeleteAclsRequest = call.decode()?;
        let results = request.filters.iter().map(|_| {
            let (code, message) = disabled();
            DeleteAclsFilterResult::default()
                .with_error_code(code)
                .with_error_message(message)
        });
        call.ready(&DeleteAclsResponse::default().with_filter_results(results.collect()))
    })
}
