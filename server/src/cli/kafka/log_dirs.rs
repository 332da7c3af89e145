//! `kafka-log-dirs`: sizes of partitions per directory, as JSON (Kafka: `LogDirsCommand`).

use std::io::Write;

use kafka_protocol::messages::describe_log_dirs_response::DescribeLogDirsResult;
use serde_json::{Value, json};

use super::options::{Options, Spec, flag, one};
use super::topics::ids;
use super::{Tool, tell_plainly};
use crate::cli::Exit;
use crate::cli::tool::{ToolError, ToolResult};
use crate::client::Client;
use crate::client::error_text::error_text;

/// `kafka-log-dirs`.
pub const TOOL: Tool = Tool {
    name: "kafka-log-dirs",
    about: "This tool helps to query log directory usage on the specified brokers.",
    options: OPTIONS,
    run,
    tell: tell_plainly,
};

const OPTIONS: &[Spec] = &[
    one("bootstrap-server", "host:port", "The broker to talk to"),
    one("broker-list", "ids", "Brokers to ask; all if not given"),
    one("command-config", "file", "Properties for the connection"),
    flag("describe", "Show the log directories"),
    one("topic-list", "topics", "Topics to show; all if not given"),
];

fn run(options: &Options, out: &mut dyn Write) -> ToolResult<Exit> {
    // Here --broker-list is ids of brokers, not addresses.
    let Some(servers) = options.last("bootstrap-server") else {
        return Err(ToolError::Usage(
            "Missing required argument \"[bootstrap-server]\"".to_owned(),
        ));
    };
    if !options.has("describe") {
        return Err(ToolError::Usage(
            "Missing required argument \"[describe]\"".to_owned(),
        ));
    }
    let split = |name: &str| -> Vec<String> {
        let list = options.last(name).unwrap_or_default().split(',');
        list.filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let topics = split("topic-list");
    let mut wanted = Vec::new();
    for id in split("broker-list") {
        let id: i32 = id
            .parse()
            .map_err(|_| ToolError::failed(format!("For input string: \"{id}\"")))?;
        wanted.push(id);
    }
    let mut client = Client::connect(servers, "log-dirs-tool")?;
    let live: Vec<_> = client.nodes()?.into_iter().map(|node| node.id).collect();
    let missing: Vec<_> = wanted
        .iter()
        .copied()
        .filter(|id| !live.contains(id))
        .collect();
    if !missing.is_empty() {
        return Err(ToolError::failed(format!(
            "ERROR: The given brokers do not exist from --broker-list: {}. Current existent brokers: {}",
            ids(&missing),
            ids(&live)
        )));
    }
    let brokers = if wanted.is_empty() { live } else { wanted };
    writeln!(out, "Querying brokers for log directories information")?;
    let mut answers = Vec::new();
    for id in &brokers {
        answers.push(broker_json(*id, &client.log_dirs(*id)?, &topics));
    }
    writeln!(
        out,
        "Received log directory information from brokers {}",
        ids(&brokers)
    )?;
    writeln!(out, "{}", json!({"brokers": answers, "version": 1}))?;
    Ok(Exit::Ok)
}

fn broker_json(id: i32, dirs: &[DescribeLogDirsResult], topics: &[String]) -> Value {
    let dirs: Vec<_> = dirs
        .iter()
        .map(|dir| {
            let mut partitions = Vec::new();
            for topic in &dir.topics {
                let name = topic.name.0.as_str();
                if !topics.is_empty() && !topics.iter().any(|wanted| wanted == name) {
                    continue;
                }
                for p in &topic.partitions {
                    partitions.push(json!({
                        "partition": format!("{name}-{}", p.partition_index),
                        "size": p.partition_size,
                        "offsetLag": p.offset_lag,
                        "isFuture": p.is_future_key,
                    }));
                }
            }
            let error = (dir.error_code != 0).then(|| error_text(dir.error_code));
            json!({"partitions": partitions, "error": error, "logDir": dir.log_dir.as_str()})
        })
        .collect();
    json!({"broker": id, "logDirs": dirs})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{text, topic_name};
    use kafka_protocol::messages::describe_log_dirs_response::{
        DescribeLogDirsPartition, DescribeLogDirsTopic,
    };

    /// The order of keys is that of Apache Kafka 3.9.1.
    #[test]
    fn the_json_is_kafkas() {
        let partition = DescribeLogDirsPartition::default().with_partition_size(7);
        let topic = DescribeLogDirsTopic::default()
            .with_name(topic_name("t"))
            .with_partitions(vec![partition]);
        let dir = DescribeLogDirsResult::default()
            .with_log_dir(text("/d"))
            .with_topics(vec![topic]);
        let expected = r#"{"broker":1,"logDirs":[{"partitions":[{"partition":"t-0","size":7,"offsetLag":0,"isFuture":false}],"error":null,"logDir":"/d"}]}"#;
        assert_eq!(
            broker_json(1, std::slice::from_ref(&dir), &[]).to_string(),
            expected
        );
        let none = broker_json(1, &[dir], &["u".to_owned()]).to_string();
        assert!(none.contains(r#""partitions":[]"#));
    }
}
