//! CreateTopics (19), versions 0-7.
//!
//! - 1: `validate_only`, error messages. 4: default partitions and replication factor (-1,
//!   KIP-464). 5: flexible, the configuration in the answer (KIP-525). 7: topic ids (KIP-516).
//!
//! The answer leaves when every partition can be produced to.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult,
};
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse};
use kafka_protocol::protocol::StrBytes;

use crate::config::topic::describe;
use crate::dispatch::{Answer, Call, Handled, Refused};
use crate::metadata::controller::Refusal;
use crate::metadata::state::Topic;
use crate::metadata::store;

pub(crate) fn handle(call: Call) -> Handled {
    Box::pin(create_topics(call))
}

async fn create_topics(call: Call) -> Result<Answer, Refused> {
    let request: CreateTopicsRequest = call.decode()?;
    let version = call.request.version;
    let mut times: BTreeMap<StrBytes, usize> = BTreeMap::new();
    for wish in &request.topics {
        *times.entry(wish.name.0.clone()).or_default() += 1;
    }
    let mut response = CreateTopicsResponse::default();
    for wish in request.topics {
        let name = wish.name.clone();
        if response.topics.iter().any(|answered| answered.name == name) {
            continue;
        }
        let result = if times[&name.0] > 1 {
            let message = format!("Duplicate topic name: {}", name.as_str());
            Err(Refusal {
                error: ResponseError::InvalidRequest,
                message,
            })
        } else if wish.num_partitions == -1 && wish.assignments.is_empty() && version < 4 {
            let message = "Default partitions need CreateTopics version 4 or later".to_owned();
            Err(Refusal {
                error: ResponseError::InvalidPartitions,
                message,
            })
        } else if request.validate_only {
            store::validate(&call.shard, wish).await
        } else {
            store::create(&call.shard, wish).await
        };
        let result = match result {
            Ok(topic) => created(&call, &topic, request.validate_only),
            Err(Refusal { error, message }) => CreatableTopicResult::default()
                .with_error_code(error.code())
                .with_error_message(Some(StrBytes::from_string(message)))
                .with_num_partitions(-1)
                .with_replication_factor(-1),
        };
        response.topics.push(result.with_name(name));
    }
    call.ready(&response)
}

fn created(call: &Call, topic: &Topic, validate_only: bool) -> CreatableTopicResult {
    let result = CreatableTopicResult::default();
    if call.request.version < 5 {
        return result;
    }
    let configs = describe(&call.shard.broker.config.settings, &topic.overrides);
    let configs = configs.into_iter().map(|described| {
        CreatableTopicConfigs::default()
            .with_name(StrBytes::from_static_str(described.name))
            .with_value(described.value.map(StrBytes::from_string))
            .with_config_source(described.source as i8)
    });
    result
        .with_topic_id(if validate_only {
            uuid::Uuid::nil()
        } else {
            topic.id
        })
        .with_num_partitions(topic.partitions)
        .with_replication_factor(1)
        .with_configs(Some(configs.collect()))
}
