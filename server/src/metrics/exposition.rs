//! The shards' reports as Prometheus text (version 0.0.4). Pure.
//!
//! Names are those of the JMX exporter's example for Kafka (`kafka_<domain>_<type>_<name>`) and of
//! kafka_exporter for the lag, so that dashboards find them; what only this broker has begins with
//! `ringlog_`. Lines of text without a library: one function writes them all.

pub(crate) mod stages;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::{Report, Requests};

/// The content type of [`text`].
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const QUANTILES: [f64; 4] = [0.5, 0.95, 0.99, 0.999];

#[derive(Default)]
struct Text(String);

/// Labels of one series.
type Labels<'a> = &'a [(&'a str, &'a str)];

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: f64) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.0.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"");
            for character in text.chars() {
                match character {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    other => self.0.push(other),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus has no other numbers; counts stay far below 2^53"
)]
fn number(count: u64) -> f64 {
    count as f64
}

/// All series of the broker.
pub(crate) fn text(reports: &[Report]) -> String {
    let mut text = Text::default();
    traffic(&mut text, reports);
    requests(&mut text, reports);
    stages::write(&mut text, reports);
    partitions(&mut text, reports);
    groups(&mut text, reports);
    shards(&mut text, reports);
    journals(&mut text, reports);
    text.0
}

fn traffic(text: &mut Text, reports: &[Report]) {
    let sum = |value: fn(&Report) -> u64| number(reports.iter().map(value).sum());
    for (name, help, value) in [
        (
            "kafka_server_brokertopicmetrics_messagesin_total",
            "Records appended",
            sum(|report| report.traffic.0),
        ),
        (
            "kafka_server_brokertopicmetrics_bytesin_total",
            "Bytes of record batches appended",
            sum(|report| report.traffic.1),
        ),
        (
            "kafka_server_brokertopicmetrics_bytesout_total",
            "Bytes of record batches in answers to fetch requests",
            sum(|report| report.traffic.2),
        ),
    ] {
        text.single(name, "counter", help, value);
    }
    let topics = reports.iter().map(|report| report.topics).max();
    let gauges = [
        ("kafka_server_kafkaserver_brokerstate", "3: running", 3),
        (
            "kafka_server_replicamanager_partitioncount",
            "Partitions of this broker",
            sum(|report| report.partition_count as u64) as u64,
        ),
        (
            "kafka_controller_kafkacontroller_globaltopiccount",
            "Topics",
            topics.unwrap_or(0) as u64,
        ),
    ];
    for (name, help, value) in gauges {
        text.single(name, "gauge", help, number(value));
    }
}

fn requests(text: &mut Text, reports: &[Report]) {
    let mut by_api: BTreeMap<String, Requests> = BTreeMap::new();
    for (key, requests) in reports.iter().flat_map(|report| &report.requests) {
        let all = by_api.entry(format!("{key:?}")).or_default();
        all.total.merge(&requests.total);
        all.local.merge(&requests.local);
        all.remote.merge(&requests.remote);
    }
    let name = "kafka_network_requestmetrics_requests_total";
    text.family(name, "counter", "Requests answered");
    for (api, requests) in &by_api {
        text.sample(name, &[("request", api)], number(requests.total.count()));
    }
    type Of = fn(&Requests) -> &super::Histogram;
    let parts: [(&str, &str, Of); 3] = [
        ("totaltimems", "From a whole request to its answer", |all| {
            &all.total
        }),
        (
            "localtimems",
            "The first part: decoding, and the append or the look-up, other shards included",
            |all| &all.local,
        ),
        (
            "remotetimems",
            "The second part: the journal, or the wait for data",
            |all| &all.remote,
        ),
    ];
    for (part, help, of) in parts {
        let name = format!("kafka_network_requestmetrics_{part}");
        let help = format!("{help}; ms, quantiles at most 25 % too high");
        text.family(&name, "summary", &help);
        for (api, requests) in &by_api {
            let histogram = of(requests);
            for quantile in QUANTILES {
                let labels = [
                    ("request", api.as_str()),
                    ("quantile", &quantile.to_string()),
                ];
                text.sample(&name, &labels, milliseconds(histogram.quantile(quantile)));
            }
            let labels = [("request", api.as_str())];
            text.sample(&format!("{name}_sum"), &labels, milliseconds(histogram.sum));
            let count = number(histogram.count());
            text.sample(&format!("{name}_count"), &labels, count);
        }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[expect(
    clippy::cast_precision_loss,
    reason = "an offset beyond 2^53 would be off by one in a graph"
)]
fn partitions(text: &mut Text, reports: &[Report]) {
    type Of = fn(&super::PartitionReport) -> f64;
    let families: [(&str, &str, Of); 5] = [
        (
            "kafka_log_log_logstartoffset",
            "First offset",
            |partition| partition.offsets.0 as f64,
        ),
        (
            "kafka_log_log_logendoffset",
            "Offset after the last record that consumers may read",
            |partition| partition.offsets.1 as f64,
        ),
        (
            "kafka_topic_partition_current_offset",
            "The same, by kafka_exporter's name",
            |partition| partition.offsets.1 as f64,
        ),
        ("kafka_log_log_size", "Bytes of the log", |partition| {
            number(partition.size_bytes)
        }),
        ("kafka_log_log_numlogsegments", "Segments", |partition| {
            partition.segments as f64
        }),
    ];
    for (name, help, of) in families {
        text.family(name, "gauge", help);
        for partition in reports.iter().flat_map(|report| &report.partitions) {
            let index = partition.index.to_string();
            let labels = [("topic", partition.topic.as_str()), ("partition", &index)];
            text.sample(name, &labels, of(partition));
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "an offset beyond 2^53 would be off by one in a graph"
)]
fn groups(text: &mut Text, reports: &[Report]) {
    let partitions = reports.iter().flat_map(|report| &report.partitions);
    let ends: BTreeMap<(&str, i32), i64> = partitions
        .map(|partition| {
            (
                (partition.topic.as_str(), partition.index),
                partition.offsets.1,
            )
        })
        .collect();
    let offsets: Vec<_> = reports.iter().flat_map(|report| &report.groups).collect();
    for (name, help, is_lag) in [
        (
            "kafka_consumergroup_current_offset",
            "Offset that the group has committed",
            false,
        ),
        (
            "kafka_consumergroup_lag",
            "Records between the committed offset and the end",
            true,
        ),
    ] {
        text.family(name, "gauge", help);
        for offset in &offsets {
            let end = ends.get(&(offset.topic.as_str(), offset.partition));
            let value = match (is_lag, end) {
                (false, _) => offset.offset,
                (true, Some(end)) => (end - offset.offset).max(0),
                (true, None) => continue,
            };
            let index = offset.partition.to_string();
            let labels = [
                ("consumergroup", offset.group.as_str()),
                ("topic", &offset.topic),
                ("partition", &index),
            ];
            text.sample(name, &labels, value as f64);
        }
    }
}

fn shards(text: &mut Text, reports: &[Report]) {
    let families: [Family<Report>; 15] = [
        ("uptime_seconds", "Since the shard's start", |report| {
            report.uptime.as_secs_f64()
        }),
        (
            "idle_seconds_total",
            "Time that the shard waited with nothing to do; the rest of its uptime it was busy",
            |report| report.io.idle.as_secs_f64(),
        ),
        ("turns_total", "Turns of the executor", |report| {
            number(report.io.turns)
        }),
        (
            "ring_entries_total",
            "Entries submitted to io_uring",
            |report| number(report.io.ring_entries),
        ),
        ("enters_total", "io_uring_enter or epoll_pwait2", |report| {
            number(report.io.enters)
        }),
        (
            "system_calls_total",
            "System calls of the shard's thread that move data, wait or wake",
            |report| number(report.io.system_calls),
        ),
        ("receives_total", "Receives asked for", |report| {
            number(report.io.receives)
        }),
        ("sends_total", "Sends from memory", |report| {
            number(report.io.sends)
        }),
        (
            "sendfile_pieces_total",
            "Pieces sent with sendfile",
            |report| number(report.io.send_file_pieces),
        ),
        (
            "cold_pieces_total",
            "Pieces that had to be read from the disk before they could be sent",
            |report| number(report.io.cold_pieces),
        ),
        ("writes_total", "Writes to the page cache", |report| {
            number(report.io.writes)
        }),
        (
            "syncs_total",
            "Durable writes, and syncs of files",
            |report| number(report.io.syncs),
        ),
        (
            "helper_jobs_total",
            "Jobs of the helper threads: names, directories, whole files",
            |report| number(report.io.helper_jobs),
        ),
        (
            "hops_total",
            "Parts of requests that went to another shard, which has their partitions or their group",
            |report| number(report.hops),
        ),
        ("connections", "Open connections", |report| {
            number(report.connections as u64)
        }),
    ];
    by_shard(text, "ringlog_shard_", reports, &families, |report| {
        Some(report)
    });
}

fn journals(text: &mut Text, reports: &[Report]) {
    use ringlog_engine::journal::JournalStats;
    let families: [Family<JournalStats>; 8] = [
        (
            "groups_total",
            "Groups committed, one durable write each",
            |stats| number(stats.groups),
        ),
        ("entries_total", "Appends that went through it", |stats| {
            number(stats.entries)
        }),
        ("entry_bytes_total", "Their bytes", |stats| {
            number(stats.entry_bytes)
        }),
        (
            "written_bytes_total",
            "Bytes written, headers and padding included",
            |stats| number(stats.bytes_written),
        ),
        (
            "waits_total",
            "Appends that had to wait for room",
            |stats| number(stats.waits),
        ),
        ("wait_seconds_total", "Time that they waited", |stats| {
            stats.wait_time.as_secs_f64()
        }),
        (
            "used_bytes",
            "Bytes that cannot be written again yet",
            |stats| number(stats.used_bytes),
        ),
        ("capacity_bytes", "Bytes that it can hold", |stats| {
            number(stats.capacity_bytes)
        }),
    ];
    by_shard(text, "ringlog_journal_", reports, &families, |report| {
        report.journal.as_ref()
    });
}

/// Name, help and value of a family.
type Family<T> = (&'static str, &'static str, fn(&T) -> f64);

/// Families with one series for each shard that has the part.
fn by_shard<T>(
    text: &mut Text,
    prefix: &str,
    reports: &[Report],
    families: &[Family<T>],
    part: impl Fn(&Report) -> Option<&T>,
) {
    for (name, help, of) in families {
        let kind = if name.ends_with("_total") {
            "counter"
        } else {
            "gauge"
        };
        let name = format!("{prefix}{name}");
        text.family(&name, kind, help);
        for report in reports {
            if let Some(part) = part(report) {
                let shard = report.shard.to_string();
                text.sample(&name, &[("shard", &shard)], of(part));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiKey;
    use ringlog_engine::clock::Instant;
    use ringlog_engine::io::IoCounters;

    use super::super::trace::{Stage, Traces};
    use super::super::{GroupOffset, PartitionReport};
    use super::*;

    /// Of which one request is a sample.
    fn report(shard: usize) -> Report {
        let mut produced = Requests::default();
        produced.total.record(Duration::from_micros(100));
        let traces = Traces::new(1, 0);
        let at = |micros: u64| Instant(micros * 1000);
        let trace = traces.begin(0, at(10), at(11), at(13));
        trace.stamp(Stage::Append, at(20));
        traces.end(&trace, at(25));
        Report {
            shard,
            uptime: Duration::from_secs(2),
            io: IoCounters {
                ring_entries: 7,
                ..IoCounters::default()
            },
            journal: None,
            hops: 3,
            connections: 1,
            requests: vec![(ApiKey::Produce, produced)],
            traffic: (10, 2000, 500),
            partition_count: 1,
            partitions: vec![PartitionReport {
                topic: format!("t\"{shard}"),
                index: 3,
                offsets: (2, 12),
                size_bytes: 2000,
                segments: 1,
            }],
            groups: Vec::new(),
            topics: 2,
            now: at(1_000_025),
            traced: traces.report(at(1_000_025)),
        }
    }

    #[test]
    fn shards_are_summed_where_kafka_has_no_shards_and_told_apart_where_only_we_have_them() {
        let mut reports = vec![report(0), report(1)];
        reports[0].groups.push(GroupOffset {
            group: "g".to_owned(),
            topic: "t\"1".to_owned(),
            partition: 3,
            offset: 5,
        });
        let text = text(&reports);
        for line in [
            "kafka_server_brokertopicmetrics_messagesin_total 20",
            "kafka_server_replicamanager_partitioncount 2",
            "kafka_network_requestmetrics_requests_total{request=\"Produce\"} 2",
            "kafka_network_requestmetrics_totaltimems_count{request=\"Produce\"} 2",
            "kafka_log_log_logendoffset{topic=\"t\\\"0\",partition=\"3\"} 12",
            "kafka_consumergroup_lag{consumergroup=\"g\",topic=\"t\\\"1\",partition=\"3\"} 7",
            "ringlog_shard_ring_entries_total{shard=\"1\"} 7",
            "ringlog_request_sampled_seconds_bucket{request=\"Produce\",shard=\"0\",le=\"0.000012\"} 0",
            "ringlog_request_sampled_seconds_bucket{request=\"Produce\",shard=\"0\",le=\"0.000016\"} 1",
            "ringlog_request_sampled_seconds_sum{request=\"Produce\",shard=\"0\"} 0.000015",
            "ringlog_request_stage_seconds_sum{request=\"Produce\",shard=\"1\",stage=\"append\"} 0.000007",
            "ringlog_request_stage_seconds_count{request=\"Produce\",shard=\"1\",stage=\"hop\"} 1",
            "ringlog_request_slowest_seconds{request=\"Produce\",shard=\"0\",rank=\"0\",stage=\"queue\"} \
             0.000002",
            "ringlog_request_slowest_age_seconds{request=\"Produce\",shard=\"0\",rank=\"0\"} 1",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "no {line} in\n{text}"
            );
        }
        assert!(!text.contains("ringlog_journal_groups_total{"));
    }

    #[test]
    fn every_sample_belongs_to_a_family_that_was_announced() {
        let text = text(&[report(0)]);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            let family = ["_sum", "_count", "_bucket"]
                .iter()
                .fold(name, |name, end| name.trim_end_matches(end));
            let is_announced = text.contains(&format!("# TYPE {family} "));
            assert!(
                is_announced || text.contains(&format!("# TYPE {name} ")),
                "{line}"
            );
        }
    }
}
