//! FindCoordinator (10), versions 0-6: who coordinates a group or a transactional id.
//!
//! - 1: key type, error message. 3: flexible. 4: several keys (KIP-699). 5: new error code of
//!   transactions (KIP-890). 6: share groups (KIP-932).
//!
//! There is one broker: it; or, where shards are brokers, the shard that has the group. The question creates `__consumer_offsets` if it is not there.

use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{
    BrokerId, FindCoordinatorRequest, FindCoordinatorResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use crate::dispatch::{Answer, Call, Handled, Refused};
use crate::handlers::group;
use crate::metadata::state::GROUP_TOPIC;
use crate::metadata::store;
use crate::shard::Shard;

const KEY_TYPE_GROUP: i8 = 0;
const KEY_TYPE_TRANSACTION: i8 = 1;

pub(crate) fn handle(call: Call) -> Handled {
    Box::pin(find_coordinator(call))
}

async fn find_coordinator(call: Call) -> Result<Answer, Refused> {
    let request: FindCoordinatorRequest = call.decode()?;
    let version = call.request.version;
    let result = match request.key_type {
        KEY_TYPE_GROUP => ensure_group_topic(&call.shard).await,
        // Transactions are not served yet, and InitProducerId says so.
        KEY_TYPE_TRANSACTION => Ok(()),
        _ => Err(ResponseError::InvalidRequest),
    };
    let is_group = request.key_type == KEY_TYPE_GROUP;
    let place = |key: &str| match result {
        Ok(()) => {
            let shard = &call.shard;
            let owner = if is_group {
                group::owner(shard, key)
            } else {
                shard.id
            };
            let connection = &call.connection;
            let node = shard
                .broker
                .node_for(owner, connection.listener, connection.dialled);
            (node.id, StrBytes::from_string(node.host), node.port)
        }
        Err(_) => (-1, StrBytes::default(), -1),
    };
    let error_code = result.as_ref().err().map_or(0, ResponseError::code);
    let response = if version >= 4 {
        let coordinators = request.coordinator_keys.into_iter().map(|key| {
            let (node_id, host, port) = place(&key);
            Coordinator::default()
                .with_key(key)
                .with_error_code(error_code)
                .with_node_id(BrokerId(node_id))
                .with_host(host)
                .with_port(port)
        });
        FindCoordinatorResponse::default().with_coordinators(coordinators.collect())
    } else {
        let (node_id, host, port) = place(&request.key);
        FindCoordinatorResponse::default()
            .with_error_code(error_code)
            .with_node_id(BrokerId(node_id))
            .with_host(host)
            .with_port(port)
    };
    call.ready(&response)
}

/// Creates `__consumer_offsets` at the first need, with Kafka's settings
/// (GroupCoordinator.groupMetadataTopicConfigs).
async fn ensure_group_topic(shard: &Rc<Shard>) -> Result<(), ResponseError> {
    if shard.image().topic(GROUP_TOPIC).is_some() {
        return Ok(());
    }
    let setting = |name: &'static str, value: String| {
        CreatableTopicConfig::default()
            .with_name(StrBytes::from_static_str(name))
            .with_value(Some(StrBytes::from_string(value)))
    };
    let offsets = &shard.broker.config.offsets;
    let wish = CreatableTopic::default()
        .with_name(TopicName(StrBytes::from_static_str(GROUP_TOPIC)))
        .with_num_partitions(offsets.topic_num_partitions)
        .with_replication_factor(-1)
        .with_configs(vec![
            setting("cleanup.policy", "compact".to_owned()),
            setting("compression.type", "producer".to_owned()),
            setting("segment.bytes", offsets.topic_segment_bytes.to_string()),
        ]);
    match store::create(shard, wish).await {
        Ok(_) => Ok(()),
        Err(refusal) if refusal.error == ResponseError::TopicAlreadyExists => Ok(()),
        Err(refusal) => {
            log::error!("Cannot create {GROUP_TOPIC}: {}", refusal.message);
            Err(ResponseError::CoordinatorNotAvailable)
        }
    }
}
