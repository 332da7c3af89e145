//! A workload file of the OpenMessaging Benchmark (Workload.java), as the command line here that is
//! nearest to it. What has no equal here is told in notes, never dropped in silence.
//!
//! The files are flat: `key: value` lines and comments. That much YAML is read, and nothing else.

use std::collections::BTreeMap;

/// Larger files are no workloads.
const LINES_MAX: usize = 1000;

/// A command line, and what it leaves out.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// After `ringlog-bench`.
    pub(super) words: Vec<String>,
    /// In sentences.
    pub(super) notes: Vec<String>,
}

/// Keys that have no meaning here, and why.
const MEANINGLESS: [(&str, &str); 4] = [
    (
        "payloadFile",
        "one payload of this size, random instead of the file's bytes",
    ),
    (
        "randomizedPayloadPoolSize",
        "the pool is as large as the cache lets it be",
    ),
    ("backlogDrainRatio", "a catch-up reads everything"),
    ("useRandomizedPayloads", "payloads are random"),
];

/// The command line of a workload file.
pub(super) fn read(text: &str) -> Result<Plan, String> {
    let mut values = parse(text)?;
    let mut take = |key: &str| values.remove(key);
    let name = take("name").unwrap_or("unnamed".to_owned());
    let mut plan = Plan::default();
    plan.notes.push(format!("OpenMessaging workload {name:?}"));
    let topics = number(take("topics"), "topics")?.unwrap_or(1);
    let partitions = number(take("partitionsPerTopic"), "partitionsPerTopic")?;
    let partitions = partitions.ok_or("has no partitionsPerTopic")?;
    let size = number(take("messageSize"), "messageSize")?.ok_or("has no messageSize")?;
    let producers = number(take("producersPerTopic"), "producersPerTopic")?.unwrap_or(1);
    let groups = number(take("subscriptionsPerTopic"), "subscriptionsPerTopic")?.unwrap_or(0);
    let consumers = number(take("consumerPerSubscription"), "consumerPerSubscription")?;
    let rate = number(take("producerRate"), "producerRate")?.unwrap_or(0);
    let minutes = number(take("testDurationMinutes"), "testDurationMinutes")?.unwrap_or(1);
    let warm_up = number(take("warmupDurationMinutes"), "warmupDurationMinutes")?.unwrap_or(1);
    let backlog = number(take("consumerBacklogSizeGB"), "consumerBacklogSizeGB")?.unwrap_or(0);
    let keys = take("keyDistributor").unwrap_or("NO_KEY".to_owned());

    let product = |a: u64, b: u64, what: &str| {
        a.checked_mul(b)
            .ok_or_else(|| format!("{what}: {a} times {b} is too much"))
    };
    plan.words
        .push(if groups > 0 { "run" } else { "produce" }.to_owned());
    let flags = [
        (
            "--partitions",
            product(topics, partitions, "partitions")?.to_string(),
        ),
        (
            "--connections",
            product(topics, producers, "producers")?.to_string(),
        ),
        ("--record-bytes", size.to_string()),
        // One record a request, so that the rate of requests is the rate of messages.
        ("--batch-bytes", "1".to_owned()),
        ("--acks", "all".to_owned()),
        (
            "--rate",
            if rate == 0 {
                "max".to_owned()
            } else {
                rate.to_string()
            },
        ),
        ("--duration", format!("{minutes}m")),
        ("--warm-up", format!("{warm_up}m")),
        ("--keys", key_word(&keys)?.to_owned()),
    ];
    plan.words.extend(
        flags
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value]),
    );
    if groups > 0 {
        let consumers = product(topics, consumers.unwrap_or(1), "consumers")?;
        plan.words
            .extend(["--groups".to_owned(), groups.to_string()]);
        plan.words
            .extend(["--consumers".to_owned(), consumers.to_string()]);
        if backlog > 0 {
            let fill = format!("{backlog}GiB");
            plan.words
                .extend(["--catch-up", "cold", "--fill", &fill].map(str::to_owned));
            plan.notes.push(
                "the backlog is read alone, without load beside it: --rate, --duration and --warm-up have no \
                 effect there; without --catch-up and --fill it is the load alone"
                    .to_owned(),
            );
        }
    }
    plan.notes.extend(notes(topics, rate));
    for (key, why) in MEANINGLESS {
        plan.notes
            .extend(values.remove(key).map(|_| format!("{key}: {why}")));
    }
    let left = values
        .iter()
        .map(|(key, value)| format!("{key}: {value} has no equal here"));
    plan.notes.extend(left);
    Ok(plan)
}

fn notes(topics: u64, rate: u64) -> Vec<String> {
    let mut notes = vec![
        "one record a request, as --rate counts requests: to batch as a client with linger does, give \
         --batch-bytes 16KiB and divide --rate by the records of a batch"
            .to_owned(),
        "acks and the number of replicas are in OpenMessaging's driver file, not in its workload: here all"
            .to_owned(),
    ];
    if topics > 1 {
        notes.push(format!(
            "{topics} topics become one with as many partitions"
        ));
    }
    if rate == 0 {
        notes.push(
            "producerRate 0 searches for the highest rate: here a closed loop; `ringlog-bench max --slo \
             'p99<10ms'` searches within an objective"
                .to_owned(),
        );
    }
    notes
}

fn key_word(distributor: &str) -> Result<&'static str, String> {
    match distributor {
        "NO_KEY" => Ok("none"),
        "KEY_ROUND_ROBIN" => Ok("seq"),
        "RANDOM_NANO" => Ok("random"),
        other => Err(format!(
            "keyDistributor {other} is none of NO_KEY, KEY_ROUND_ROBIN, RANDOM_NANO"
        )),
    }
}

fn number(value: Option<String>, key: &str) -> Result<Option<u64>, String> {
    let parse = |value: String| {
        let plain = value.replace('_', "");
        plain
            .parse::<u64>()
            .map_err(|_| format!("{key}: {value} is no whole number"))
    };
    value.map(parse).transpose()
}

fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut values = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        if number > LINES_MAX {
            return Err(format!("has more than {LINES_MAX} lines"));
        }
        if without_comment(line).trim().is_empty() || line.trim_end() == "---" {
            continue;
        }
        let wrong = || format!("line {number} is no `key: value` at the left edge");
        let (key, value) = line.split_once(':').ok_or_else(wrong)?;
        let value = scalar(value).ok_or_else(wrong)?;
        if key.is_empty() || !key.chars().all(|letter| letter.is_ascii_alphanumeric()) {
            return Err(wrong());
        }
        if values.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(format!("line {number} gives {key} again"));
        }
    }
    if values.is_empty() {
        return Err("has no `key: value` lines".to_owned());
    }
    Ok(values)
}

/// A word or words, plain or in quotes, with a comment behind or not; lists and maps are none.
fn scalar(text: &str) -> Option<&str> {
    let text = text.trim();
    if let Some(quote) = text.chars().next().filter(|first| "\"'".contains(*first)) {
        let (inner, rest) = text[1..].split_once(quote)?;
        return without_comment(rest).trim().is_empty().then_some(inner);
    }
    let plain = without_comment(text).trim();
    (!plain.is_empty() && !plain.starts_with(['[', '{', '&', '*', '|', '>'])).then_some(plain)
}

/// A `#` begins a comment at the begin of the line or behind a space.
fn without_comment(line: &str) -> &str {
    let starts = |at: &usize| *at == 0 || line[..*at].ends_with([' ', '\t']);
    let hash = line.match_indices('#').map(|(at, _)| at).find(starts);
    hash.map_or(line, |at| &line[..at])
}
