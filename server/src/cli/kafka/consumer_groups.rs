//! `kafka-consumer-groups`: list, describe, delete, reset (Kafka: `ConsumerGroupCommand`).

use std::collections::BTreeMap;
use std::io::{self, Write};

use kafka_protocol::messages::describe_groups_response::DescribedGroup;

use super::options::{Options, Spec, flag, one, optional};
use super::{Tool, bootstrap, delete_groups, reset_offsets};
use crate::cli::Exit;
use crate::cli::tool::{ToolError, ToolResult};
use crate::client::group::assigned_partitions;
use crate::client::{Client, LATEST, Node, TopicPartition, code};

/// `kafka-consumer-groups`.
pub const TOOL: Tool = Tool {
    name: "kafka-consumer-groups",
    about: "This tool helps to list all consumer groups, describe a consumer group, delete consumer group info, or reset consumer group offsets.",
    options: OPTIONS,
    run,
    tell,
};

const OPTIONS: &[Spec] = &[
    flag("all-groups", "Every group"),
    flag(
        "all-topics",
        "With --reset-offsets: every topic the group has offsets of",
    ),
    one("bootstrap-server", "host:port", "The broker to talk to"),
    one(
        "by-duration",
        "PnDTnHnMnS",
        "Reset to the offsets of so long ago",
    ),
    one("command-config", "file", "Properties for the connection"),
    flag("delete", "Delete groups"),
    flag("delete-offsets", "Delete a group's offsets of --topic"),
    flag(
        "describe",
        "Show a group: offsets and lag, --members or --state",
    ),
    flag(
        "dry-run",
        "Only show what --reset-offsets would do (the default)",
    ),
    flag("execute", "Do the reset"),
    flag("export", "Print the reset as CSV"),
    one("from-file", "file", "Reset to the offsets of a CSV file"),
    one("group", "id", "The group; may be repeated"),
    flag("list", "List groups"),
    flag("members", "With --describe: the members"),
    flag("new-consumer", "Accepted: there are only such groups"),
    flag("offsets", "With --describe: offsets and lag (the default)"),
    flag(
        "reset-offsets",
        "Set a group's offsets; it must have no members",
    ),
    one("shift-by", "n", "Reset by n, forward or backward"),
    optional(
        "state",
        "states",
        "With --list: states, of these only; with --describe: the state",
    ),
    one("timeout", "ms", "Accepted: every call has its own limit"),
    flag("to-current", "Reset to the current offsets"),
    one(
        "to-datetime",
        "YYYY-MM-DDThh:mm:ss.sss",
        "Reset to the offsets of a time",
    ),
    flag("to-earliest", "Reset to the first records"),
    flag("to-latest", "Reset behind the last records"),
    one("to-offset", "n", "Reset to this offset"),
    one("topic", "topic[:partitions]", "The topic; may be repeated"),
    optional(
        "type",
        "types",
        "With --list: the type of group, of these only",
    ),
    flag(
        "validate-regex",
        "Accepted: there are no server-side expressions",
    ),
    flag("verbose", "With --members: their partitions"),
];

const STATES: [&str; 7] = [
    "PreparingRebalance",
    "CompletingRebalance",
    "Stable",
    "Dead",
    "Empty",
    "Assigning",
    "Reconciling",
];

fn tell(
    _options: &Options,
    error: &ToolError,
    out: &mut dyn Write,
    _err: &mut dyn Write,
) -> io::Result<()> {
    writeln!(
        out,
        "\nError: Executing consumer group command failed due to {error}"
    )
}

fn run(options: &Options, out: &mut dyn Write) -> ToolResult<Exit> {
    const ACTIONS: [&str; 5] = [
        "list",
        "describe",
        "delete",
        "reset-offsets",
        "delete-offsets",
    ];
    let given: Vec<_> = ACTIONS.iter().filter(|name| options.has(name)).collect();
    let [action] = given.as_slice() else {
        return Err(ToolError::Usage(
            "Command must include exactly one action: --list, --describe, --delete, --reset-offsets, --delete-offsets"
                .to_owned(),
        ));
    };
    if **action != "list" && !options.has("group") && !options.has("all-groups") {
        return Err(ToolError::Usage(format!(
            "Option [{action}] takes one of these options: [all-groups], [group]"
        )));
    }
    let mut client = Client::connect(&bootstrap(options)?, "kafka-consumer-groups")?;
    match **action {
        "list" => list(&mut client, options, out)?,
        "describe" => describe(&mut client, options, out)?,
        "delete" => delete_groups::delete(&mut client, options, out)?,
        "reset-offsets" => reset_offsets::run(&mut client, options, out)?,
        _ => delete_groups::delete_offsets(&mut client, options, out)?,
    }
    Ok(Exit::Ok)
}

/// The groups asked for.
///
/// # Errors
/// If they have to be listed and cannot.
pub fn groups(client: &mut Client, options: &Options) -> ToolResult<Vec<String>> {
    if !options.has("all-groups") {
        return Ok(options.all("group").to_vec());
    }
    let groups = client.list_groups()?.into_iter();
    let consumers = groups.filter(|g| matches!(g.protocol_type.as_str(), "consumer" | ""));
    Ok(consumers.map(|group| group.group_id.to_string()).collect())
}

fn list(client: &mut Client, options: &Options, out: &mut dyn Write) -> ToolResult {
    let mut groups = client.list_groups()?;
    groups.retain(|g| matches!(g.protocol_type.as_str(), "consumer" | ""));
    let (with_type, with_state) = (options.has("type"), options.has("state"));
    if !with_type && !with_state {
        for group in groups {
            writeln!(out, "{}", group.group_id.0)?;
        }
        return Ok(());
    }
    if let Some(wanted) = options.last("state").filter(|states| !states.is_empty()) {
        let wanted: Vec<_> = wanted.split(',').map(str::trim).collect();
        for state in &wanted {
            if !STATES.iter().any(|known| known.eq_ignore_ascii_case(state)) {
                return Err(ToolError::Usage(format!(
                    "Invalid state list '{}'. Valid states are: {}",
                    wanted.join(","),
                    STATES.join(", ")
                )));
            }
        }
        groups.retain(|g| wanted.iter().any(|s| g.group_state.eq_ignore_ascii_case(s)));
    }
    if let Some(wanted) = options.last("type") {
        groups.retain(|g| {
            wanted
                .split(',')
                .any(|t| type_of(&g.group_type).eq_ignore_ascii_case(t.trim()))
        });
    }
    let longest = groups.iter().map(|g| g.group_id.0.len()).max().unwrap_or(0);
    let width = longest.max(15) + 10;
    let mut line = |id: &str, kind: &str, state: &str| {
        let mut text = format!("{id:<width$}");
        if with_type {
            text.push_str(&format!(" {kind:<20}"));
        }
        if with_state {
            text.push_str(&format!(" {state:<20}"));
        }
        writeln!(out, "{text}")
    };
    line("GROUP", "TYPE", "STATE")?;
    for group in &groups {
        line(
            &group.group_id.0,
            type_of(&group.group_type),
            &group.group_state,
        )?;
    }
    Ok(())
}

/// The type as Kafka prints it; brokers before 3.7 tell none.
fn type_of(told: &str) -> &str {
    match told {
        "classic" => "Classic",
        "consumer" => "Consumer",
        "" => "Unknown",
        other => other,
    }
}

/// What goes before the table, to standard error as Kafka has it; `false` if there is no table.
fn tell_state(group: &str, state: &str, rows: usize, out: &mut dyn Write) -> io::Result<bool> {
    match state {
        "Dead" => {
            writeln!(out, "\nError: Consumer group '{group}' does not exist.")?;
            return Ok(false);
        }
        "Empty" => eprintln!("\nConsumer group '{group}' has no active members."),
        "PreparingRebalance" | "CompletingRebalance" | "Assigning" | "Reconciling" => {
            eprintln!("\nWarning: Consumer group '{group}' is rebalancing.");
        }
        _ => {}
    }
    Ok(rows > 0)
}

fn describe(client: &mut Client, options: &Options, out: &mut dyn Write) -> ToolResult {
    let mut names = groups(client, options)?;
    names.sort();
    for name in names {
        let group = client.describe_group(&name)?;
        if options.has("members") {
            print_members(&group, options.has("verbose"), out)?;
        } else if options.has("state") {
            let coordinator = client.coordinator(&name)?;
            print_state(&group, &coordinator, out)?;
        } else {
            let rows = offset_rows(client, &group)?;
            if tell_state(&name, &group.group_state, rows.len(), out)? {
                print_offsets(&rows, out)?;
            }
        }
    }
    Ok(())
}

/// A line of `--describe`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffsetRow {
    /// The group.
    pub group: String,
    /// The partition.
    pub partition: Option<TopicPartition>,
    /// The committed offset.
    pub offset: Option<i64>,
    /// The log end offset.
    pub end: Option<i64>,
    /// Who reads it: member, host, client id; "-" if nobody.
    pub member: [String; 3],
}

impl OffsetRow {
    /// Records not yet consumed.
    #[must_use]
    pub fn lag(&self) -> Option<i64> {
        Some(self.end?.saturating_sub(self.offset?))
    }
}

/// Partitions of members (those with most first), then the offsets nobody reads.
///
/// # Errors
/// If a broker cannot be asked.
pub fn offset_rows(client: &mut Client, group: &DescribedGroup) -> ToolResult<Vec<OffsetRow>> {
    let name = group.group_id.to_string();
    let mut committed = match client.committed_offsets(&name) {
        Ok(committed) => committed,
        Err(error) if error.code() == Some(code::GROUP_ID_NOT_FOUND) => BTreeMap::new(),
        Err(error) => return Err(error.into()),
    };
    let mut members: Vec<_> = group
        .members
        .iter()
        .map(|member| (member, assigned_partitions(&member.member_assignment)))
        .filter(|(_, partitions)| !partitions.is_empty())
        .collect();
    members.sort_by_key(|(_, partitions)| std::cmp::Reverse(partitions.len()));
    let mut wanted: Vec<TopicPartition> = committed.keys().cloned().collect();
    wanted.extend(
        members
            .iter()
            .flat_map(|(_, partitions)| partitions.clone()),
    );
    wanted.sort();
    wanted.dedup();
    let ends = client.list_offsets(&wanted, LATEST)?;
    let end_of = |partition: &TopicPartition| {
        ends.get(partition)
            .and_then(|end| end.as_ref().ok())
            .copied()
    };
    let mut rows = Vec::new();
    for (member, mut partitions) in members {
        partitions.sort_by_key(|p| p.partition);
        for partition in partitions {
            rows.push(OffsetRow {
                group: name.clone(),
                offset: committed.remove(&partition),
                end: end_of(&partition),
                partition: Some(partition),
                member: [
                    member.member_id.to_string(),
                    member.client_host.to_string(),
                    member.client_id.to_string(),
                ],
            });
        }
    }
    let mut rest: Vec<_> = committed.into_iter().collect();
    rest.sort_by_key(|(partition, _)| partition.partition);
    for (partition, offset) in rest {
        rows.push(OffsetRow {
            group: name.clone(),
            offset: Some(offset),
            end: end_of(&partition),
            partition: Some(partition),
            member: ["-", "-", "-"].map(str::to_owned),
        });
    }
    Ok(rows)
}

fn print_offsets(rows: &[OffsetRow], out: &mut dyn Write) -> io::Result<()> {
    let or_dash = |value: Option<i64>| value.map_or("-".to_owned(), |v| v.to_string());
    let mut cells = vec![
        [
            "GROUP",
            "TOPIC",
            "PARTITION",
            "CURRENT-OFFSET",
            "LOG-END-OFFSET",
            "LAG",
            "CONSUMER-ID",
            "HOST",
            "CLIENT-ID",
        ]
        .map(str::to_owned),
    ];
    for row in rows {
        let partition = row.partition.as_ref();
        let [member, host, client] = row.member.clone();
        cells.push([
            row.group.clone(),
            partition.map_or("-".to_owned(), |p| p.topic.clone()),
            partition.map_or("-".to_owned(), |p| p.partition.to_string()),
            or_dash(row.offset),
            or_dash(row.end),
            or_dash(row.lag()),
            member,
            host,
            client,
        ]);
    }
    let width = |column: usize| {
        let lengths = cells
            .iter()
            .filter_map(|row| row.get(column))
            .map(String::len);
        lengths.max().unwrap_or(0).max(15)
    };
    let (group_width, topic_width, member_width, host_width) =
        (width(0), width(1), width(6), width(7));
    for [
        group,
        topic,
        partition,
        offset,
        end,
        lag,
        member,
        host,
        client,
    ] in &cells
    {
        write!(
            out,
            "\n{group:<group_width$} {topic:<topic_width$} {partition:<10} {offset:<15} {end:<15} {lag:<15} {member:<member_width$} {host:<host_width$} {client}"
        )?;
    }
    writeln!(out)
}

fn print_members(group: &DescribedGroup, verbose: bool, out: &mut dyn Write) -> io::Result<()> {
    let name = group.group_id.0.as_str();
    tell_state(name, &group.group_state, group.members.len(), out)?;
    let instances: Vec<_> = group
        .members
        .iter()
        .map(|member| member.group_instance_id.as_deref().unwrap_or_default())
        .collect();
    let has_instances = instances.iter().any(|instance| !instance.is_empty());
    let longest = |texts: Vec<&str>, least: usize| {
        texts
            .iter()
            .map(|text| text.len())
            .max()
            .unwrap_or(0)
            .max(least)
    };
    let members = &group.members;
    let group_width = longest(vec![name], 15);
    let id_width = longest(members.iter().map(|m| m.member_id.as_str()).collect(), 15);
    let instance_width = longest(instances.clone(), 17);
    let host_width = longest(members.iter().map(|m| m.client_host.as_str()).collect(), 15);
    let client_width = longest(members.iter().map(|m| m.client_id.as_str()).collect(), 15);
    writeln!(out)?;
    let mut line = |cells: [&str; 6], assignment: &str| {
        let [group, id, instance, host, client, count] = cells;
        let instance = if has_instances {
            format!("{instance:<instance_width$} ")
        } else {
            String::new()
        };
        let assignment = if verbose { assignment } else { "" };
        writeln!(
            out,
            "{group:<group_width$} {id:<id_width$} {instance}{host:<host_width$} {client:<client_width$} {count:<15} {assignment}"
        )
    };
    let header = [
        "GROUP",
        "CONSUMER-ID",
        "GROUP-INSTANCE-ID",
        "HOST",
        "CLIENT-ID",
        "#PARTITIONS",
    ];
    line(header, "ASSIGNMENT")?;
    for (member, instance) in members.iter().zip(instances) {
        let partitions = assigned_partitions(&member.member_assignment);
        let count = partitions.len().to_string();
        let cells = [
            name,
            &member.member_id,
            instance,
            &member.client_host,
            &member.client_id,
            &count,
        ];
        line(cells, &assignment_text(&partitions))?;
    }
    Ok(())
}

/// `t(0,1), u(2)` as 3.9 prints it: `(0,1), (2)`, sorted as text.
fn assignment_text(partitions: &[TopicPartition]) -> String {
    let mut topics: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for partition in partitions {
        let list = topics.entry(&partition.topic).or_default();
        list.push(partition.partition.to_string());
    }
    if topics.is_empty() {
        return "-".to_owned();
    }
    let mut groups: Vec<_> = topics
        .into_iter()
        .map(|(topic, mut list)| {
            list.sort();
            format!("{topic}({})", list.join(","))
        })
        .collect();
    groups.sort();
    groups.join(", ")
}

fn print_state(group: &DescribedGroup, coordinator: &Node, out: &mut dyn Write) -> io::Result<()> {
    let name = group.group_id.0.as_str();
    if !tell_state(name, &group.group_state, 1, out)? {
        return Ok(());
    }
    let coordinator = format!("{}  ({})", coordinator.address(), coordinator.id);
    let width = coordinator.len().max(25);
    let members = group.members.len().to_string();
    let lines = [
        [
            "GROUP",
            "COORDINATOR (ID)",
            "ASSIGNMENT-STRATEGY",
            "STATE",
            "#MEMBERS",
        ],
        [
            name,
            &coordinator,
            &group.protocol_data,
            &group.group_state,
            &members,
        ],
    ];
    for [group, coordinator, strategy, state, members] in lines {
        write!(
            out,
            "\n{group:<width$} {coordinator:<25} {strategy:<20} {state:<15} {members}"
        )?;
    }
    writeln!(out)
}

/// `topic`, or `topic:0,1`, as partitions.
///
/// # Errors
/// If a number is none, or the topic is not there.
pub fn parse_topic_partitions(
    client: &mut Client,
    topics: &[String],
) -> ToolResult<Vec<TopicPartition>> {
    let mut partitions = Vec::new();
    for arg in topics {
        let Some((topic, list)) = arg.split_once(':') else {
            let found = client.await_topic(arg, false, std::time::Duration::ZERO)?;
            let numbers = found.partitions.iter().map(|p| p.partition_index);
            partitions.extend(numbers.map(|number| TopicPartition::new(arg, number)));
            continue;
        };
        for number in list.split(',') {
            let parsed = number.trim().parse().map_err(|_| {
                ToolError::Usage(format!(
                    "Invalid partition '{number}' specified in topic arg '{arg}''"
                ))
            })?;
            partitions.push(TopicPartition::new(topic, parsed));
        }
    }
    partitions.sort();
    partitions.dedup();
    Ok(partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_offsets_is_kafkas() {
        let row = OffsetRow {
            group: "g1".to_owned(),
            partition: Some(TopicPartition::new("st_a", 0)),
            offset: Some(3),
            end: Some(4),
            member: ["-", "-", "-"].map(str::to_owned),
        };
        let mut out = Vec::new();
        print_offsets(&[row], &mut out).unwrap();
        let expected = "\nGROUP           TOPIC           PARTITION  CURRENT-OFFSET  LOG-END-OFFSET  LAG             CONSUMER-ID     HOST            CLIENT-ID\
            \ng1              st_a            0          3               4               1               -               -               -\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_group_that_is_not_there_is_told_on_standard_output() {
        let mut out = Vec::new();
        assert!(!tell_state("g", "Dead", 0, &mut out).unwrap());
        assert_eq!(out, b"\nError: Consumer group 'g' does not exist.\n");
    }

    #[test]
    fn assignments_are_grouped_by_topic() {
        let partitions = [
            TopicPartition::new("a", 0),
            TopicPartition::new("a", 1),
            TopicPartition::new("b", 2),
        ];
        assert_eq!(assignment_text(&partitions), "a(0,1), b(2)");
        assert_eq!(assignment_text(&[]), "-");
    }
}
