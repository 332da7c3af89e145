//! DescribeClientQuotas (48) and AlterClientQuotas (49), versions 0-1 (KIP-546): clients are not
//! throttled, so there are no quotas to describe, and none can be set.
//!
//! - 1: flexible.

use std::collections::BTreeSet;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::alter_client_quotas_request::EntryData as Wish;
use kafka_protocol::messages::alter_client_quotas_response::{EntityData, EntryData};
use kafka_protocol::messages::{
    AlterClientQuotasRequest, AlterClientQuotasResponse, DescribeClientQuotasRequest,
    DescribeClientQuotasResponse,
};
use kafka_protocol::protocol::StrBytes;

use crate::dispatch::{Call, Handled};
use crate::metadata::controller::Refusal;

/// Kafka's entities that may have quotas.
const ENTITIES: [&str; 3] = ["user", "client-id", "ip"];

fn refuse<T>(error: ResponseError, message: String) -> Result<T, Refusal> {
    Err(Refusal { error, message })
}

pub(crate) fn describe(call: Call) -> Handled {
    Box::pin(async move {
        let request: DescribeClientQuotasRequest = call.decode()?;
        let types = request.components.iter().map(|c| c.entity_type.as_str());
        let response = DescribeClientQuotasResponse::default();
        call.ready(&match check_types(types) {
            Ok(()) => response.with_entries(Some(Vec::new())),
            Err(Refusal { error, message }) => response
                .with_error_code(error.code())
                .with_error_message(Some(StrBytes::from_string(message)))
                .with_entries(None),
        })
    })
}

fn check_types<'a>(types: impl Iterator<Item = &'a str>) -> Result<(), Refusal> {
    let mut seen = BTreeSet::new();
    for name in types {
        if name.is_empty() {
            let message = "Unexpected empty filter component entity type".to_owned();
            return refuse(ResponseError::InvalidRequest, message);
        }
        if !ENTITIES.contains(&name) {
            let message = format!("Custom entity type '{name}' not supported");
            return refuse(ResponseError::UnsupportedVersion, message);
        }
        if !seen.insert(name) {
            let message = format!("Duplicate {name} filter component entity type");
            return refuse(ResponseError::InvalidRequest, message);
        }
    }
    Ok(())
}

pub(crate) fn alter(call: Call) -> Handled {
    Box::pin(async move {
        let request: AlterClientQuotasRequest = call.decode()?;
        let answer = |wish: Wish| {
            let result = check(&wish);
            let entity = wish.entity.into_iter().map(|entity| {
                EntityData::default()
                    .with_entity_type(entity.entity_type)
                    .with_entity_name(entity.entity_name)
            });
            let answer = EntryData::default().with_entity(entity.collect());
            match result {
                Ok(()) => answer,
                Err(Refusal { error, message }) => answer
                    .with_error_code(error.code())
                    .with_error_message(Some(StrBytes::from_string(message))),
            }
        };
        let entries = request.entries.into_iter().map(answer).collect();
        call.ready(&AlterClientQuotasResponse::default().with_entries(entries))
    })
}

/// To remove a quota that is not there succeeds, as in Kafka.
fn check(wish: &Wish) -> Result<(), Refusal> {
    if wish.entity.is_empty() {
        let message = "Invalid empty client quota entity".to_owned();
        return refuse(ResponseError::InvalidRequest, message);
    }
    for entity in &wish.entity {
        let name = entity.entity_type.as_str();
        if !ENTITIES.contains(&name) {
            let message = format!("Unhandled client quota entity type: {name}");
            return refuse(ResponseError::InvalidRequest, message);
        }
    }
    match wish.ops.iter().find(|op| !op.remove) {
        None => Ok(()),
        Some(op) => {
            let message = format!(
                "{} cannot be set: this broker does not throttle clients",
                op.key
            );
            refuse(ResponseError::UnsupportedVersion, message)
        }
    }
}
