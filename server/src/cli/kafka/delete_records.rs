//! `kafka-delete-records`: forget the records before given offsets (Kafka: `DeleteRecordsCommand`).

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::Value;

use super::options::{Options, Spec, one};
use super::{Tool, bootstrap, tell_plainly};
use crate::cli::Exit;
use crate::cli::tool::{ToolError, ToolResult};
use crate::client::{Client, TopicPartition};

/// `kafka-delete-records`.
pub const TOOL: Tool = Tool {
    name: "kafka-delete-records",
    about: "This tool helps to delete records of the given partitions down to the specified offset.",
    options: OPTIONS,
    run,
    tell: tell_plainly,
};

const OPTIONS: &[Spec] = &[
    one("bootstrap-server", "host:port", "The broker to talk to"),
    one("command-config", "file", "Properties for the connection"),
    one(
        "offset-json-file",
        "file",
        r#"{"partitions": [{"topic": "t", "partition": 0, "offset": 1}], "version": 1}"#,
    ),
];

fn run(options: &Options, out: &mut dyn Write) -> ToolResult<Exit> {
    let servers = bootstrap(options)?;
    let Some(path) = options.last("offset-json-file") else {
        return Err(ToolError::Usage(
            "Missing required argument \"[offset-json-file]\"".to_owned(),
        ));
    };
    let text = std::fs::read_to_string(path)
        .map_err(|_| ToolError::failed(format!("Unable to read file {path}")))?;
    let offsets = parse(&text)?;
    let mut client = Client::connect(&servers, "kafka-delete-records")?;
    writeln!(out, "Executing records delete operation")?;
    let results = client.delete_records(&offsets)?;
    writeln!(out, "Records delete operation completed:")?;
    for (partition, result) in results {
        match result {
            Ok(low) => writeln!(out, "partition: {partition}\tlow_watermark: {low}")?,
            Err(error) => writeln!(out, "partition: {partition}\terror: {error}")?,
        }
    }
    Ok(Exit::Ok)
}

/// Reads the file's JSON.
///
/// # Errors
/// Kafka's messages for what is missing or twice there.
pub fn parse(text: &str) -> ToolResult<BTreeMap<TopicPartition, i64>> {
    let value: Value = serde_json::from_str(text)
        .map_err(|_| ToolError::failed("The input string is not a valid JSON"))?;
    match value.get("version") {
        None => {}
        Some(version) if version.as_i64() == Some(1) => {}
        Some(version) => {
            return Err(ToolError::failed(format!(
                "Not supported version field value {version}"
            )));
        }
    }
    let Some(partitions) = value.get("partitions").and_then(Value::as_array) else {
        return Err(ToolError::failed("Missing partitions field"));
    };
    let mut offsets = BTreeMap::new();
    let mut duplicates = Vec::new();
    for entry in partitions {
        let topic = entry.get("topic").and_then(Value::as_str);
        let partition = entry.get("partition").and_then(Value::as_i64);
        let offset = entry.get("offset").and_then(Value::as_i64);
        let partition = partition.and_then(|number| i32::try_from(number).ok());
        let (Some(topic), Some(partition), Some(offset)) = (topic, partition, offset) else {
            return Err(ToolError::failed(format!(
                "{entry} needs \"topic\", \"partition\" and \"offset\""
            )));
        };
        let partition = TopicPartition::new(topic, partition);
        if offsets.insert(partition.clone(), offset).is_some() {
            duplicates.push(partition.to_string());
        }
    }
    if !duplicates.is_empty() {
        return Err(ToolError::failed(format!(
            "Offset json file contains duplicate topic partitions: {}",
            duplicates.join(",")
        )));
    }
    Ok(offsets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_checked_as_kafka_does() {
        let good = r#"{"partitions":[{"topic":"t","partition":0,"offset":3}],"version":1}"#;
        assert_eq!(parse(good).unwrap()[&TopicPartition::new("t", 0)], 3);
        let twice = r#"{"partitions":[{"topic":"t","partition":0,"offset":3},{"topic":"t","partition":0,"offset":4}]}"#;
        let cases = [
            ("x", "The input string is not a valid JSON"),
            ("{}", "Missing partitions field"),
            (r#"{"version":2}"#, "Not supported version field value 2"),
            (
                twice,
                "Offset json file contains duplicate topic partitions: t-0",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).unwrap_err().to_string(), expected);
        }
    }
}
