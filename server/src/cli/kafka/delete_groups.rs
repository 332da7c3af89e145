//! `kafka-consumer-groups --delete` and `--delete-offsets`.

use std::io::Write;

use super::consumer_groups::{groups, parse_topic_partitions};
use super::options::Options;
use crate::cli::tool::{ToolError, ToolResult};
use crate::client::error_text::error_text;
use crate::client::{Client, code};

/// Deletes the groups asked for.
///
/// # Errors
/// If a broker cannot be asked.
pub fn delete(client: &mut Client, options: &Options, out: &mut dyn Write) -> ToolResult {
    let mut done = Vec::new();
    let mut failed = Vec::new();
    for group in groups(client, options)? {
        match client.delete_group(&group) {
            Ok(()) => done.push(group),
            Err(error) => failed.push((group, error)),
        }
    }
    let done: Vec<_> = done.iter().map(|group| format!("'{group}'")).collect();
    if failed.is_empty() {
        writeln!(
            out,
            "Deletion of requested consumer groups ({}) was successful.",
            done.join(", ")
        )?;
        return Ok(());
    }
    write!(out, "\nError: Deletion of some consumer groups failed:")?;
    for (group, error) in &failed {
        let class = error_class(error.code().unwrap_or(-1));
        write!(
            out,
            "\n* Group '{group}' could not be deleted due to: java.util.concurrent.ExecutionException: org.apache.kafka.common.errors.{class}: {error}"
        )?;
    }
    writeln!(out)?;
    if !done.is_empty() {
        writeln!(
            out,
            "\nThese consumer groups were deleted successfully: {}",
            done.join(", ")
        )?;
    }
    Ok(())
}

fn error_class(code: i16) -> &'static str {
    match code {
        68 => "GroupNotEmptyException",
        69 => "GroupIdNotFoundException",
        24 => "InvalidGroupIdException",
        16 => "NotCoordinatorException",
        30 => "GroupAuthorizationException",
        _ => "UnknownServerException",
    }
}

/// Deletes the group's offsets of topics.
///
/// # Errors
/// If a broker cannot be asked.
pub fn delete_offsets(client: &mut Client, options: &Options, out: &mut dyn Write) -> ToolResult {
    let topics = options.all("topic");
    if topics.is_empty() {
        return Err(ToolError::Usage(
            "Option [delete-offsets] takes the following options: [group], [topic]".to_owned(),
        ));
    }
    let group = options.last("group").unwrap_or_default();
    let partitions = parse_topic_partitions(client, topics)?;
    let (whole, results) = client.delete_offsets(group, &partitions)?;
    let first = results
        .values()
        .copied()
        .find(|error| *error != 0)
        .unwrap_or(0);
    let error = if whole == 0 { first } else { whole };
    match error {
        0 => writeln!(
            out,
            "Request succeed for deleting offsets with topic {} group {group}",
            topics.join(", ")
        )?,
        24 => writeln!(out, "\nError: '{group}' is not valid.")?,
        code::GROUP_ID_NOT_FOUND => writeln!(out, "\nError: '{group}' does not exist.")?,
        30 => writeln!(out, "\nError: Access to '{group}' is not authorized.")?,
        68 => writeln!(
            out,
            "\nError: Deleting offsets of a consumer group '{group}' is forbidden if the group is not empty."
        )?,
        3 | 29 | 86 => writeln!(
            out,
            "\nError: Encounter some partition level error, see the follow-up details:"
        )?,
        other => writeln!(
            out,
            "\nError: Encounter some unknown error: {}",
            error_text(other)
        )?,
    }
    write!(
        out,
        "\n{:<30} {:<15} {:<15}",
        "TOPIC", "PARTITION", "STATUS"
    )?;
    for partition in partitions {
        let error = if whole == 0 {
            results.get(&partition).copied().unwrap_or(0)
        } else {
            whole
        };
        let status = match error {
            0 => "Successful".to_owned(),
            error => format!("Error: :{}", error_text(error)),
        };
        write!(
            out,
            "\n{:<30} {:<15} {status:<15}",
            partition.topic, partition.partition
        )?;
    }
    writeln!(out)?;
    Ok(())
}
