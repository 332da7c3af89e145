//! `kafka-configs`: describe and alter configs of topics and brokers (Kafka: `ConfigCommand`).

use std::io::{self, Write};

use super::options::{Options, Spec, flag, one};
use super::{Tool, bootstrap, load_properties};
use crate::cli::Exit;
use crate::cli::tool::{ToolError, ToolResult};
use crate::client::Client;
use crate::client::admin::{BROKER_RESOURCE, ConfigChange, TOPIC_RESOURCE};

/// `kafka-configs`.
pub const TOOL: Tool = Tool {
    name: "kafka-configs",
    about: "This tool helps to manipulate and describe entity config for a topic, client, user, broker, ip, client-metrics or group",
    options: OPTIONS,
    run,
    tell,
};

const OPTIONS: &[Spec] = &[
    one(
        "add-config",
        "k=v,...",
        "Configs to set; [a,b] groups values that have commas",
    ),
    one("add-config-file", "file", "Configs to set, as properties"),
    flag("all", "With --describe: defaults and static configs, too"),
    flag("alter", "Change configs"),
    one("bootstrap-server", "host:port", "The broker to talk to"),
    one("broker", "id", "A broker"),
    flag("broker-defaults", "The defaults of all brokers"),
    one("command-config", "file", "Properties for the connection"),
    one("delete-config", "k,...", "Configs to remove"),
    flag("describe", "Show configs"),
    flag("entity-default", "The default of the type"),
    one(
        "entity-name",
        "name",
        "Name of the topic, or id of the broker",
    ),
    one("entity-type", "type", "topics or brokers"),
    flag("force", "Accepted: nothing is asked"),
    one("topic", "name", "A topic"),
];

/// Kafka's names of config sources, by their numbers (Kafka: `DescribeConfigsResponse.java`).
const SOURCES: [&str; 9] = [
    "UNKNOWN",
    "DYNAMIC_TOPIC_CONFIG",
    "DYNAMIC_BROKER_CONFIG",
    "DYNAMIC_DEFAULT_BROKER_CONFIG",
    "STATIC_BROKER_CONFIG",
    "DEFAULT_CONFIG",
    "DYNAMIC_BROKER_LOGGER_CONFIG",
    "DYNAMIC_CLIENT_METRICS_CONFIG",
    "DYNAMIC_GROUP_CONFIG",
];

/// The name of a config source.
#[must_use]
pub fn source_name(source: i8) -> &'static str {
    let index = usize::try_from(source).unwrap_or(0);
    SOURCES.get(index).copied().unwrap_or("UNKNOWN")
}

fn tell(
    _options: &Options,
    error: &ToolError,
    _out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<()> {
    match error {
        ToolError::Client(error) if error.code().is_some() => {
            writeln!(err, "Error while executing config command: {error}")
        }
        other => writeln!(err, "{other}"),
    }
}

#[derive(Clone, Debug)]
struct Entity {
    resource_type: i8,
    type_name: &'static str,
    /// `None` for all of the type, empty for its default.
    name: Option<String>,
}

fn run(options: &Options, out: &mut dyn Write) -> ToolResult<Exit> {
    let is_alter = options.has("alter");
    if is_alter == options.has("describe") {
        return Err(ToolError::Usage(
            "Command must include exactly one action: --describe, --alter".to_owned(),
        ));
    }
    let entity = parse_entity(options)?;
    let changes = parse_changes(options)?;
    if is_alter && entity.name.is_none() {
        return Err(ToolError::failed(
            "An entity name must be specified with --alter of topics or brokers",
        ));
    }
    if is_alter && changes.is_empty() {
        return Err(ToolError::Usage(
            "At least one of --add-config, --add-config-file, or --delete-config must be specified with --alter"
                .to_owned(),
        ));
    }
    let mut client = Client::connect(&bootstrap(options)?, "kafka-configs")?;
    if is_alter {
        alter(&mut client, &entity, &changes, out)?;
    } else {
        describe(&mut client, &entity, options.has("all"), out)?;
    }
    Ok(Exit::Ok)
}

fn parse_entity(options: &Options) -> ToolResult<Entity> {
    let of_topic = |name| Entity {
        resource_type: TOPIC_RESOURCE,
        type_name: "topics",
        name,
    };
    let of_broker = |name| Entity {
        resource_type: BROKER_RESOURCE,
        type_name: "brokers",
        name,
    };
    if let Some(topic) = options.last("topic") {
        return Ok(of_topic(Some(topic.to_owned())));
    }
    if let Some(broker) = options.last("broker") {
        return Ok(of_broker(Some(broker.to_owned())));
    }
    if options.has("broker-defaults") {
        return Ok(of_broker(Some(String::new())));
    }
    let name = if options.has("entity-default") {
        Some(String::new())
    } else {
        options.last("entity-name").map(str::to_owned)
    };
    match options.last("entity-type") {
        Some("topics") => Ok(of_topic(name)),
        Some("brokers") => {
            if name
                .as_ref()
                .is_some_and(|n| !n.is_empty() && n.parse::<i32>().is_err())
            {
                return Err(ToolError::failed(format!(
                    "The entity name for brokers must be a valid integer broker id, found: {}",
                    name.unwrap_or_default()
                )));
            }
            Ok(of_broker(name))
        }
        Some(other) => Err(ToolError::failed(format!(
            "entity type '{other}' is not managed by this broker: topics and brokers are"
        ))),
        None => Err(ToolError::Usage(
            "At least one entity type must be specified".to_owned(),
        )),
    }
}

fn parse_changes(options: &Options) -> ToolResult<Vec<ConfigChange>> {
    let mut changes = Vec::new();
    if let Some(path) = options.last("add-config-file") {
        let pairs = load_properties(path)?.into_iter();
        changes.extend(pairs.map(|(key, value)| ConfigChange::Set(key, value)));
    }
    if let Some(list) = options.last("add-config") {
        for pair in split_outside_brackets(list) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(ToolError::failed(
                    "requirement failed: Invalid entity config: all configs to be added must be in the format \"key=val\".",
                ));
            };
            let value = value.replace(['[', ']'], "");
            changes.push(ConfigChange::Set(
                key.trim().to_owned(),
                value.trim().to_owned(),
            ));
        }
    }
    for list in options.all("delete-config") {
        let keys = list.split(',').map(str::trim).filter(|key| !key.is_empty());
        changes.extend(keys.map(|key| ConfigChange::Delete(key.to_owned())));
    }
    Ok(changes)
}

/// Commas between brackets belong to the value.
fn split_outside_brackets(list: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0_u32;
    for letter in list.chars() {
        match letter {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = parts.last_mut() {
            last.push(letter);
        }
    }
    parts.retain(|part| !part.trim().is_empty());
    parts
}

fn alter(
    client: &mut Client,
    entity: &Entity,
    changes: &[ConfigChange],
    out: &mut dyn Write,
) -> ToolResult {
    let name = entity.name.clone().unwrap_or_default();
    let dynamic = dynamic_source(entity);
    let current = client.describe_configs(entity.resource_type, &name)?;
    let missing: Vec<_> = changes
        .iter()
        .filter_map(|change| match change {
            ConfigChange::Delete(key) => Some(key.as_str()),
            ConfigChange::Set(..) => None,
        })
        .filter(|key| {
            !current
                .iter()
                .any(|c| c.name.as_str() == *key && c.config_source == dynamic)
        })
        .collect();
    if !missing.is_empty() {
        return Err(ToolError::failed(format!(
            "Invalid config(s): {}",
            missing.join(",")
        )));
    }
    client.alter_configs(entity.resource_type, &name, changes)?;
    if name.is_empty() {
        writeln!(
            out,
            "Completed updating default config for {} in the cluster.",
            entity.type_name
        )?;
    } else {
        writeln!(
            out,
            "Completed updating config for {} {name}.",
            singular(entity.type_name)
        )?;
    }
    Ok(())
}

fn singular(type_name: &str) -> &str {
    type_name.strip_suffix('s').unwrap_or(type_name)
}

/// The source of what `--alter` sets.
fn dynamic_source(entity: &Entity) -> i8 {
    match (entity.resource_type, entity.name.as_deref()) {
        (TOPIC_RESOURCE, _) => 1,
        (_, Some("")) => 3,
        _ => 2,
    }
}

fn describe(client: &mut Client, entity: &Entity, all: bool, out: &mut dyn Write) -> ToolResult {
    let names = match (&entity.name, entity.resource_type) {
        (Some(name), _) => vec![name.clone()],
        (None, TOPIC_RESOURCE) => client
            .topics()?
            .into_iter()
            .map(|topic| topic.name)
            .collect(),
        (None, _) => {
            let nodes = client.nodes()?.into_iter();
            nodes
                .map(|node| node.id.to_string())
                .chain([String::new()])
                .collect()
        }
    };
    for name in names {
        if name.is_empty() {
            writeln!(
                out,
                "Default configs for {} in the cluster are:",
                entity.type_name
            )?;
        } else {
            let which = if all { "All" } else { "Dynamic" };
            writeln!(
                out,
                "{which} configs for {} {name} are:",
                singular(entity.type_name)
            )?;
        }
        let entity = Entity {
            name: Some(name.clone()),
            ..entity.clone()
        };
        let dynamic = dynamic_source(&entity);
        let mut configs = client.describe_configs(entity.resource_type, &name)?;
        configs.retain(|config| all || config.config_source == dynamic);
        configs.sort_by(|a, b| a.name.cmp(&b.name));
        for config in configs {
            let synonyms: Vec<_> = config
                .synonyms
                .iter()
                .map(|synonym| {
                    let value = synonym.value.as_deref().unwrap_or("null");
                    format!("{}:{}={value}", source_name(synonym.source), synonym.name)
                })
                .collect();
            writeln!(
                out,
                "  {}={} sensitive={} synonyms={{{}}}",
                config.name,
                config.value.as_deref().unwrap_or("null"),
                config.is_sensitive,
                synonyms.join(", ")
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_group_values_with_commas() {
        assert_eq!(
            split_outside_brackets("a=1,cleanup.policy=[compact,delete],b=2"),
            ["a=1", "cleanup.policy=[compact,delete]", "b=2"]
        );
    }
}
