//! CreatePartitions (37), versions 0-3.
//!
//! - 2: flexible. 3: may be refused by a quota (KIP-599), which there is none of.
//!
//! The answer leaves when every new partition can be produced to.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;

use crate::dispatch::{Call, Handled};
use crate::metadata::alter;
use crate::metadata::controller::Refusal;

pub(crate) fn handle(call: Call) -> Handled {
    Box::pin(async move {
        let request: CreatePartitionsRequest = call.decode()?;
        let mut times: BTreeMap<TopicName, usize> = BTreeMap::new();
        for wish in &request.topics {
            *times.entry(wish.name.clone()).or_default() += 1;
        }
        let mut response = CreatePartitionsResponse::default();
        for wish in request.topics {
            let name = wish.name.clone();
            let result = match times.get(&name) {
                // Answered once.
                None => continue,
                Some(1) => alter::partitions(&call.shard, wish, request.validate_only).await,
                Some(_) => Err(Refusal {
                    error: ResponseError::InvalidRequest,
                    message: "Duplicate topic in request.".to_owned(),
                }),
            };
            times.remove(&name);
            let answer = CreatePartitionsTopicResult::default().with_name(name);
            response.results.push(match result {
                Ok(()) => answer,
                Err(Refusal { error, message }) => answer
                    .with_error_code(error.code())
                    .with_error_message(Some(StrBytes::from_string(message))),
            });
        }
        call.ready(&response)
    })
}
