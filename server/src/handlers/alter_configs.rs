//! AlterConfigs (33), versions 0-2, and IncrementalAlterConfigs (44), versions 0-1 (KIP-339).
//!
//! - AlterConfigs replaces all settings of a resource, IncrementalAlterConfigs changes those that
//!   it names. 33 is flexible from 2 on, 44 from 1 on.
//!
//! Settings of topics and brokers are durable and act when the answer leaves. Checks and their
//! order as Kafka 3.9's `ConfigAdminManager.preprocess`.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::ResponseError;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse as IncrementalResourceResponse;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
};
use kafka_protocol::protocol::StrBytes;

use crate::dispatch::{Call, Handled};
use crate::handlers::broker_logger;
use crate::handlers::describe_configs::{BROKER, BROKER_LOGGER, TOPIC};
use crate::metadata::alter;
use crate::metadata::config_change::{ConfigChange, Operation};
use crate::metadata::controller::Refusal;

/// Of `AlterConfigOp.OpType`.
const SET: i8 = 0;
const DELETE: i8 = 1;

/// What is asked of one resource.
struct Wish {
    resource_type: i8,
    resource_name: StrBytes,
    /// Name, operation, value.
    configs: Vec<(String, i8, Option<String>)>,
    is_incremental: bool,
}

fn invalid<T>(message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal {
        error: ResponseError::InvalidRequest,
        message: message.into(),
    })
}

pub(crate) fn handle(call: Call) -> Handled {
    Box::pin(async move {
        let request: AlterConfigsRequest = call.decode()?;
        let wishes = request.resources.into_iter().map(|resource| Wish {
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
            configs: resource
                .configs
                .into_iter()
                .map(|config| (config.name.to_string(), SET, text(config.value)))
                .collect(),
            is_incremental: false,
        });
        let answers = alter_all(&call, wishes.collect(), request.validate_only).await;
        let answers = answers.into_iter().map(|answer| {
            AlterConfigsResourceResponse::default()
                .with_resource_type(answer.resource_type)
                .with_resource_name(answer.resource_name)
                .with_error_code(answer.error_code)
                .with_error_message(answer.error_message)
        });
        call.ready(&AlterConfigsResponse::default().with_responses(answers.collect()))
    })
}

pub(crate) fn handle_incremental(call: Call) -> Handled {
    Box::pin(async move {
        let request: IncrementalAlterConfigsRequest = call.decode()?;
        let wishes = request.resources.into_iter().map(|resource| Wish {
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
            configs: resource
                .configs
                .into_iter()
                .map(|config| {
                    let (name, value) = (config.name.to_string(), text(config.value));
                    (name, config.config_operation, value)
                })
                .collect(),
            is_incremental: true,
        });
        let answers = alter_all(&call, wishes.collect(), request.validate_only).await;
        let answers = answers.into_iter().map(|answer| {
            IncrementalResourceResponse::default()
                .with_resource_type(answer.resource_type)
                .with_resource_name(answer.resource_name)
                .with_error_code(answer.error_code)
                .with_error_message(answer.error_message)
        });
        call.ready(&IncrementalAlterConfigsResponse::default().with_responses(answers.collect()))
    })
}

fn text(value: Option<StrBytes>) -> Option<String> {
    value.map(|value| value.to_string())
}

/// The answer for one resource, of both APIs.
struct Altered {
    resource_type: i8,
    resource_name: StrBytes,
    error_code: i16,
    error_message: Option<StrBytes>,
}

async fn alter_all(call: &Call, wishes: Vec<Wish>, validate_only: bool) -> Vec<Altered> {
    let mut times: BTreeMap<(i8, StrBytes), usize> = BTreeMap::new();
    for wish in &wishes {
        let key = (wish.resource_type, wish.resource_name.clone());
        *times.entry(key).or_default() += 1;
    }
    let mut answers = Vec::with_capacity(wishes.len());
    for wish in wishes {
        let (resource_type, resource_name) = (wish.resource_type, wish.resource_name.clone());
        let result = if times[&(resource_type, resource_name.clone())] > 1 {
            invalid("Each resource must appear at most once.")
        } else {
            alter_one(call, wish, validate_only).await
        };
        let (error_code, error_message) = match result {
            Ok(()) => (0, None),
            Err(Refusal { error, message }) => (error.code(), Some(StrBytes::from_string(message))),
        };
        answers.push(Altered {
            resource_type,
            resource_name,
            error_code,
            error_message,
        });
    }
    answers
}

async fn alter_one(call: &Call, wish: Wish, validate_only: bool) -> Result<(), Refusal> {
    let (shard, name) = (&call.shard, wish.resource_name.to_string());
    let is_incremental = wish.is_incremental;
    let resource_type = wish.resource_type;
    let operations = operations(wish.configs)?;
    if resource_type == BROKER_LOGGER && is_incremental {
        return broker_logger::alter(shard, &name, &operations, validate_only);
    }
    let change = if is_incremental {
        ConfigChange::Operations(operations)
    } else {
        let pairs = operations.into_iter();
        ConfigChange::Replace(pairs.map(|(name, _, value)| (name, value)).collect())
    };
    match resource_type {
        TOPIC if name.is_empty() => invalid("Default topic resources are not allowed."),
        TOPIC => alter::topic_configs(shard, name, change, validate_only).await,
        BROKER => {
            let config = &shard.broker.config;
            let node_id = config.node_id;
            let is_this_broker = !name.is_empty();
            match name.parse::<i32>() {
                _ if name.is_empty() => {}
                Ok(id) if config.is_own_node(id) => {}
                Ok(_) => {
                    return invalid(format!(
                        "Unexpected broker id, expected {node_id}, but received {name}"
                    ));
                }
                Err(_) => {
                    return invalid(format!("Node id must be an integer, but it is: {name}"));
                }
            }
            alter::broker_configs(shard, is_this_broker, change, validate_only).await
        }
        other => invalid(format!("Unknown resource type {other}")),
    }
}

fn operations(
    configs: Vec<(String, i8, Option<String>)>,
) -> Result<Vec<(String, Operation, String)>, Refusal> {
    let names: BTreeSet<&str> = configs.iter().map(|(name, ..)| name.as_str()).collect();
    if names.len() < configs.len() {
        return invalid("Error due to duplicate config keys");
    }
    let null = |(name, code, value): &(String, i8, Option<String>)| {
        (*code != DELETE && value.is_none()).then_some(name.clone())
    };
    let nulls: Vec<String> = configs.iter().filter_map(null).collect();
    if !nulls.is_empty() {
        let names = nulls.join(", ");
        return invalid(format!("Null value not supported for : {names}"));
    }
    let mut operations = Vec::with_capacity(configs.len());
    for (name, code, value) in configs {
        let Some(operation) = Operation::from_code(code) else {
            return invalid(format!("Unknown operations type {code}"));
        };
        operations.push((name, operation, value.unwrap_or_default()));
    }
    Ok(operations)
}
