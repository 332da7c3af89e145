//! DescribeConfigs (32), versions 0-4: the settings of topics, of brokers, and the log level.
//!
//! - 0: `is_default` in place of the source. 1: source and synonyms (KIP-226). 3: type and
//!   documentation (KIP-569). 4: flexible.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use kafka_protocol::protocol::StrBytes;

use crate::config::settings::{ConfigSource, Described, Synonym};
use crate::config::{dynamic, topic};
use crate::dispatch::{Answer, Call, Handled, Refused};
use crate::handlers::broker_logger;
use crate::metadata::controller::Refusal;
use crate::metadata::state::validate_name;
use crate::shard::Shard;

/// Kafka's numbers of the resources that have settings (`ConfigResource.Type`).
pub(crate) const TOPIC: i8 = 2;
pub(crate) const BROKER: i8 = 4;
pub(crate) const BROKER_LOGGER: i8 = 8;

pub(crate) fn handle(call: Call) -> Handled {
    Box::pin(async move {
        let request: DescribeConfigsRequest = call.decode()?;
        let shown = Shown {
            version: call.request.version,
            synonyms: request.include_synonyms,
            documentation: request.include_documentation,
        };
        let results = request
            .resources
            .iter()
            .map(|resource| describe(&call.shard, resource, &shown));
        call.describe(results.collect())
    })
}

impl Call {
    fn describe(&self, results: Vec<DescribeConfigsResult>) -> Result<Answer, Refused> {
        self.ready(&DescribeConfigsResponse::default().with_results(results))
    }
}

/// What the answer shows.
struct Shown {
    version: i16,
    synonyms: bool,
    documentation: bool,
}

fn describe(
    shard: &Shard,
    resource: &DescribeConfigsResource,
    shown: &Shown,
) -> DescribeConfigsResult {
    let wanted = resource.configuration_keys.as_deref().unwrap_or_default();
    let is_wanted =
        |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted.as_str() == name);
    let found = match resource.resource_type {
        TOPIC => topic_configs(shard, &resource.resource_name),
        BROKER => broker_configs(shard, &resource.resource_name),
        BROKER_LOGGER => broker_logger::describe(shard, &resource.resource_name),
        other => Err(Refusal {
            error: ResponseError::InvalidRequest,
            message: format!("Unsupported resource type: {other}"),
        }),
    };
    let result = DescribeConfigsResult::default()
        .with_resource_type(resource.resource_type)
        .with_resource_name(resource.resource_name.clone());
    match found {
        Ok(rows) => {
            let rows = rows.into_iter().filter(|row| is_wanted(row.described.name));
            result.with_configs(rows.map(|row| entry(row, shown)).collect())
        }
        Err(Refusal { error, message }) => result
            .with_error_code(error.code())
            .with_error_message(Some(StrBytes::from_string(message))),
    }
}

/// One setting, and whether it can be changed.
pub(crate) struct Row {
    pub(crate) described: Described,
    pub(crate) source: i8,
    pub(crate) is_read_only: bool,
}

fn topic_configs(shard: &Shard, name: &str) -> Result<Vec<Row>, Refusal> {
    if let Err(message) = validate_name(name) {
        let error = ResponseError::InvalidTopicException;
        return Err(Refusal { error, message });
    }
    let image = shard.image();
    let Some(found) = image.topic(name) else {
        return Err(Refusal {
            error: ResponseError::UnknownTopicOrPartition,
            message: "This server does not host this topic-partition.".to_owned(),
        });
    };
    let settings = image.settings(&shard.broker.config.settings);
    let row = |described: Described| Row {
        source: described.source as i8,
        described,
        is_read_only: false,
    };
    let rows = topic::describe(settings, &found.overrides);
    Ok(rows.into_iter().map(row).collect())
}

/// Without a name: what was set for all brokers while they ran.
fn broker_configs(shard: &Shard, name: &str) -> Result<Vec<Row>, Refusal> {
    let image = shard.image();
    let is_one_broker = !name.is_empty();
    if is_one_broker {
        check_broker_id(shard, name, " or empty string,")?;
    }
    let rows = image.settings(&shard.broker.config.settings).describe();
    let of_all = |synonym: &Synonym| synonym.source == ConfigSource::DynamicDefaultBroker;
    let mut shown = Vec::new();
    for mut described in rows {
        if !is_one_broker {
            described.synonyms.retain(of_all);
            let Some(synonym) = described.synonyms.first() else {
                continue;
            };
            described.value.clone_from(&synonym.value);
            described.source = synonym.source;
        }
        shown.push(Row {
            is_read_only: dynamic::scope(described.name).is_none(),
            source: described.source as i8,
            described,
        });
    }
    Ok(shown)
}

/// Whether a resource is this broker.
pub(crate) fn check_broker_id(shard: &Shard, name: &str, or: &str) -> Result<(), Refusal> {
    let config = &shard.broker.config;
    let node_id = config.node_id;
    let message = match name.parse::<i32>() {
        Ok(id) if config.is_own_node(id) => return Ok(()),
        Ok(_) => format!("Unexpected broker id, expected {node_id}{or} but received {name}"),
        Err(_) => format!("Broker id must be an integer, but it is: {name}"),
    };
    Err(Refusal {
        error: ResponseError::InvalidRequest,
        message,
    })
}

fn entry(row: Row, shown: &Shown) -> DescribeConfigsResourceResult {
    let Row {
        described,
        source,
        is_read_only,
    } = row;
    let mut entry = DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(described.name))
        .with_value(described.value.map(StrBytes::from_string))
        .with_read_only(is_read_only)
        .with_is_sensitive(described.is_sensitive);
    if shown.version == 0 {
        return entry.with_is_default(described.source == ConfigSource::Default);
    }
    entry.config_source = source;
    if shown.synonyms {
        let synonym = |synonym: Synonym| {
            DescribeConfigsSynonym::default()
                .with_name(StrBytes::from_static_str(synonym.name))
                .with_value(synonym.value.map(StrBytes::from_string))
                .with_source(synonym.source as i8)
        };
        entry.synonyms = described.synonyms.into_iter().map(synonym).collect();
    }
    if shown.version >= 3 {
        entry.config_type = described.kind.wire_code();
        if shown.documentation {
            entry.documentation = Some(StrBytes::from_static_str(described.documentation));
        }
    }
    entry
}
