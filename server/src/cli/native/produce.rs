//! `ringlog produce`.

use std::io::{self, BufRead, IsTerminal};

use clap::Args;
use ringlog_engine::record::Compression;

use super::ServerArgs;
use crate::cli::tool::{ToolError, ToolResult, now_ms};
use crate::client::producer::{OutRecord, Producer, ProducerOptions};

const BATCH_RECORDS_MAX: usize = 1000;

/// `ringlog produce`.
#[derive(Debug, Args)]
pub(crate) struct ProduceArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The topic
    topic: String,
    /// One value; without it, every line of standard input is a record
    value: Option<String>,
    /// Key of the value given
    #[arg(short, long, requires = "value")]
    key: Option<String>,
    /// Lines are KEY, this, VALUE
    #[arg(short = 'K', long, value_name = "SEPARATOR", conflicts_with = "value")]
    key_separator: Option<String>,
    /// A header, as in trace=42; may be repeated
    #[arg(short = 'H', long, value_name = "NAME=VALUE")]
    header: Vec<String>,
    /// Send to this partition
    #[arg(short, long)]
    partition: Option<i32>,
    /// 0, 1 or all
    #[arg(long, default_value = "all")]
    acks: String,
    /// none, gzip, snappy, lz4 or zstd
    #[arg(short = 'z', long, default_value = "none")]
    compression: String,
}

/// Runs it.
pub(crate) fn run(args: &ProduceArgs) -> ToolResult {
    let mut options = ProducerOptions {
        acks: match args.acks.as_str() {
            "all" | "-1" => -1,
            "0" => 0,
            "1" => 1,
            other => return Err(ToolError::failed(format!("acks '{other}': 0, 1 or all"))),
        },
        ..ProducerOptions::default()
    };
    options.compression = Compression::from_name(&args.compression).ok_or_else(|| {
        ToolError::failed(format!(
            "compression '{}': none, gzip, snappy, lz4 or zstd",
            args.compression
        ))
    })?;
    let mut headers = Vec::new();
    for header in &args.header {
        let Some((name, value)) = header.split_once('=') else {
            return Err(ToolError::failed(format!(
                "header '{header}': give it as NAME=VALUE"
            )));
        };
        headers.push((name.to_owned(), Some(value.as_bytes().to_vec())));
    }
    let client = args.server.connect()?;
    let mut producer = Producer::new(client, &args.topic, options)?;
    let record = |key: Option<&[u8]>, value: &[u8]| OutRecord {
        key: key.map(<[u8]>::to_vec),
        value: Some(value.to_vec()),
        headers: headers.clone(),
        partition: args.partition,
    };
    if let Some(value) = &args.value {
        let key = args.key.as_ref().map(String::as_bytes);
        for (partition, offset) in producer.send(&[record(key, value.as_bytes())], now_ms())? {
            eprintln!("{} partition {partition} offset {offset}", args.topic);
        }
        return Ok(());
    }
    let input = io::stdin();
    let batch_max = if input.is_terminal() {
        1
    } else {
        BATCH_RECORDS_MAX
    };
    let mut batch = Vec::new();
    let mut count = 0_u64;
    let mut send = |batch: &mut Vec<OutRecord>| -> ToolResult {
        if !batch.is_empty() {
            producer.send(batch, now_ms())?;
            batch.clear();
        }
        Ok(())
    };
    for line in input.lock().lines() {
        let line = line?;
        let pair = args
            .key_separator
            .as_ref()
            .map(|separator| line.split_once(separator.as_str()));
        batch.push(match pair {
            None => record(None, line.as_bytes()),
            Some(Some((key, value))) => record(Some(key.as_bytes()), value.as_bytes()),
            Some(None) => {
                return Err(ToolError::failed(format!(
                    "line {} has no key separator: '{line}'",
                    count + 1
                )));
            }
        });
        count += 1;
        if batch.len() >= batch_max {
            send(&mut batch)?;
        }
    }
    send(&mut batch)?;
    eprintln!("{count} records to {}", args.topic);
    Ok(())
}
