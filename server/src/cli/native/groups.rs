//! `ringlog groups`.

use std::io::Write;

use clap::Args;

use super::ServerArgs;
use crate::cli::kafka::consumer_groups::offset_rows;
use crate::cli::tool::{ToolError, ToolResult, print_table, stdout};

/// `ringlog groups`.
#[derive(Debug, Args)]
pub(crate) struct GroupsArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// A group: its partitions, offsets, lag and members
    group: Option<String>,
    /// Delete the group
    #[arg(long, requires = "group")]
    delete: bool,
}

/// Runs it.
pub(crate) fn run(args: &GroupsArgs) -> ToolResult {
    let mut client = args.server.connect()?;
    let mut out = stdout();
    let Some(name) = &args.group else {
        let mut rows = Vec::new();
        for listed in client.list_groups()? {
            let name = listed.group_id.to_string();
            let group = client.describe_group(&name)?;
            let offsets = offset_rows(&mut client, &group)?;
            let lag: i64 = offsets.iter().filter_map(|row| row.lag()).sum();
            rows.push(vec![
                name,
                group.group_state.to_string(),
                group.members.len().to_string(),
                lag.to_string(),
            ]);
        }
        if rows.is_empty() {
            writeln!(out, "no consumer groups yet")?;
        } else {
            print_table(&mut out, &["GROUP", "STATE", "MEMBERS", "LAG"], &rows)?;
        }
        out.flush()?;
        return Ok(());
    };
    if args.delete {
        client.delete_group(name)?;
        writeln!(out, "Deleted group {name}.")?;
        out.flush()?;
        return Ok(());
    }
    let group = client.describe_group(name)?;
    if group.group_state.as_str() == "Dead" {
        return Err(ToolError::failed(format!(
            "no group '{name}'\n   | `ringlog groups` lists them"
        )));
    }
    writeln!(
        out,
        "{name}  {}  {} members",
        group.group_state,
        group.members.len()
    )?;
    let text = |value: Option<i64>| value.map_or("-".to_owned(), |value| value.to_string());
    let mut rows = Vec::new();
    for row in offset_rows(&mut client, &group)? {
        let [member, host, _] = row.member.clone();
        rows.push(vec![
            row.partition
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            text(row.offset),
            text(row.end),
            text(row.lag()),
            member,
            host,
        ]);
    }
    let header = ["PARTITION", "COMMITTED", "NEXT", "LAG", "MEMBER", "HOST"];
    print_table(&mut out, &header, &rows)?;
    out.flush()?;
    Ok(())
}
