//! `ringlog offsets` and `ringlog delete-records`.

use std::collections::BTreeMap;
use std::io::Write;

use clap::Args;

use super::ServerArgs;
use crate::cli::kafka::console_consumer::{all_partitions, positions};
use crate::cli::tool::{ToolError, ToolResult, print_table, stdout};
use crate::client::{EARLIEST, LATEST, TopicPartition};

/// `ringlog offsets`.
#[derive(Debug, Args)]
pub(crate) struct OffsetsArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Topics [default: all but Kafka's own]
    topics: Vec<String>,
}

/// `ringlog delete-records`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The topic
    topic: String,
    /// The partition
    partition: i32,
    /// Delete the records before this offset; -1 for all there are
    #[arg(allow_hyphen_values = true)]
    before: i64,
}

/// Runs `ringlog offsets`.
pub(crate) fn run(args: &OffsetsArgs) -> ToolResult {
    let mut client = args.server.connect()?;
    let mut topics = args.topics.clone();
    if topics.is_empty() {
        let all = client
            .topics()?
            .into_iter()
            .filter(|topic| !topic.is_internal);
        topics = all.map(|topic| topic.name).collect();
    }
    let partitions = all_partitions(&mut client, &topics)?;
    let starts = positions(&mut client, &partitions, EARLIEST)?;
    let ends = positions(&mut client, &partitions, LATEST)?;
    let mut rows = Vec::new();
    for (partition, end) in &ends {
        let start = starts.get(partition).copied().unwrap_or(0);
        rows.push(vec![
            partition.topic.clone(),
            partition.partition.to_string(),
            start.to_string(),
            end.to_string(),
            (end - start).to_string(),
        ]);
    }
    let mut out = stdout();
    print_table(
        &mut out,
        &["TOPIC", "PARTITION", "FIRST", "NEXT", "RECORDS"],
        &rows,
    )?;
    out.flush()?;
    Ok(())
}

/// Runs `ringlog delete-records`.
pub(crate) fn run_delete(args: &DeleteArgs) -> ToolResult {
    if args.before < -1 {
        return Err(ToolError::failed("the offset is -1 (all records) or more"));
    }
    let mut client = args.server.connect()?;
    let partition = TopicPartition::new(&args.topic, args.partition);
    let mut out = stdout();
    for (partition, low) in client.delete_records(&BTreeMap::from([(partition, args.before)]))? {
        writeln!(out, "{partition} begins at offset {}", low?)?;
    }
    out.flush()?;
    Ok(())
}
