//! `kafka-broker-api-versions`: what every broker speaks (Kafka: `BrokerApiVersionsCommand`,
//! `NodeApiVersions.toString`).

use std::collections::BTreeMap;
use std::io::Write;

use kafka_protocol::messages::ApiKey;

use super::options::{Options, Spec, one};
use super::{Tool, bootstrap, tell_plainly};
use crate::cli::Exit;
use crate::cli::tool::ToolResult;
use crate::client::Client;
use crate::client::connection::api_name;

/// `kafka-broker-api-versions`.
pub const TOOL: Tool = Tool {
    name: "kafka-broker-api-versions",
    about: "This tool helps to retrieve broker version information.",
    options: OPTIONS,
    run,
    tell: tell_plainly,
};

const OPTIONS: &[Spec] = &[
    one("bootstrap-server", "host:port", "The broker to talk to"),
    one("command-config", "file", "Properties for the connection"),
];

fn run(options: &Options, out: &mut dyn Write) -> ToolResult<Exit> {
    let mut client = Client::connect(&bootstrap(options)?, "api-versions")?;
    for node in client.nodes()? {
        let rack = node.rack.as_deref().unwrap_or("null");
        let broker = format!("{} (id: {} rack: {rack})", node.address(), node.id);
        match client.node(node.id) {
            Ok(connection) => {
                let lines = describe(connection.versions());
                writeln!(out, "{broker} -> (\n\t{}\n)", lines.join(",\n\t"))?;
            }
            Err(error) => writeln!(out, "{broker} -> ERROR: {error}")?,
        }
    }
    Ok(Exit::Ok)
}

/// One line per API, by key.
#[must_use]
pub fn describe(versions: &BTreeMap<i16, (i16, i16)>) -> Vec<String> {
    let mut lines: BTreeMap<i16, String> = BTreeMap::new();
    for (key, (min, max)) in versions {
        let range = if min == max {
            min.to_string()
        } else {
            format!("{min} to {max}")
        };
        let line = match ApiKey::try_from(*key) {
            Err(()) => format!("UNKNOWN({key}): {range}"),
            Ok(api) => {
                let ours = api.valid_versions();
                let usable = if ours.max < *min {
                    "unusable: node too new".to_owned()
                } else if *max < ours.min {
                    "unusable: node too old".to_owned()
                } else {
                    format!("usable: {}", ours.max.min(*max))
                };
                format!("{}({key}): {range} [{usable}]", api_name(*key))
            }
        };
        lines.insert(*key, line);
    }
    lines.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_the_stock_tool() {
        let versions = BTreeMap::from([(0, (0, 11)), (16, (0, 5)), (999, (1, 1))]);
        let lines = describe(&versions);
        assert_eq!(lines[0], "Produce(0): 0 to 11 [usable: 11]");
        assert_eq!(lines[1], "ListGroups(16): 0 to 5 [usable: 5]");
        assert_eq!(lines[2], "UNKNOWN(999): 1");
    }
}
