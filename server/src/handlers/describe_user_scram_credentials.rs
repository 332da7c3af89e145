//! DescribeUserScramCredentials (50), version 0 (KIP-554): there are no users.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_user_scram_credentials_response::DescribeUserScramCredentialsResult;
use kafka_protocol::messages::{
    DescribeUserScramCredentialsRequest, DescribeUserScramCredentialsResponse,
};
use kafka_protocol::protocol::StrBytes;

use crate::dispatch::{Call, Handled};

pub(crate) fn handle(call: Call) -> Handled {
    Box::pin(async move {
        let request: DescribeUserScramCredentialsRequest = call.decode()?;
        let users = request.users.unwrap_or_default();
        let mut times: BTreeMap<StrBytes, usize> = BTreeMap::new();
        for user in users {
            *times.entry(user.name).or_default() += 1;
        }
        let result = |(user, times): (StrBytes, usize)| {
            let name = user.as_str();
            let (error, message) = if times > 1 {
                (
                    ResponseError::DuplicateResource,
                    format!(
                        "Cannot describe SCRAM credentials for the same user twice in a single request: {name}"
                    ),
                )
            } else {
                (
                    ResponseError::ResourceNotFound,
                    format!("Attempt to describe a user credential that does not exist: {name}"),
                )
            };
            DescribeUserScramCredentialsResult::default()
                .with_user(user)
                .with_error_code(error.code())
                .with_error_message(Some(StrBytes::from_string(message)))
        };
        let results = times.into_iter().map(result).collect();
        call.ready(&DescribeUserScramCredentialsResponse::default().with_results(results))
    })
}
