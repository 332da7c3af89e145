//! Files as the tools write them, and files that nobody wrote.

use super::*;
use clap::Parser;

const PERF_TEST: &str = "\
[2026-11-23 01:02:03,123] WARN something (org.apache.kafka.Something)
49984 records sent, 9996.8 records/sec (0.95 MB/sec), 1.4 ms avg latency, 210.0 ms max latency.
50016 records sent, 10003.2 records/sec (0.95 MB/sec), 0.6 ms avg latency, 12.0 ms max latency.
100000 records sent, 9999.000100 records/sec (0.95 MB/sec), 1.01 ms avg latency, 210.00 ms max latency, 1 ms 50th, 2 ms 95th, 14 ms 99th, 88 ms 99.9th.
";

fn results(name: &str, text: &str) -> (Vec<Measurement>, Vec<String>) {
    match read(Path::new(name), text).unwrap() {
        Imported::Results(measurements, reasons) => (measurements, reasons),
        Imported::Workload(plan) => panic!("a workload: {plan:?}"),
    }
}

#[test]
fn the_output_of_the_producer_perf_test_is_read() {
    let (measurements, reasons) = results("kafka-3.9.txt", PERF_TEST);
    assert!(reasons.is_empty(), "{reasons:?}");
    let [of] = measurements.as_slice() else {
        panic!("{measurements:?}");
    };
    assert_eq!(of.label, "kafka-3.9");
    let summary = &of.summary;
    assert_eq!((summary.records, summary.intervals.len()), (100_000, 2));
    assert_eq!(
        (summary.latency.p50_us, summary.latency.p99_9_us),
        (1000.0, 88_000.0)
    );
    assert!(summary.latency.p90_us.is_nan(), "the tool does not tell it");
    assert!((summary.megabytes_per_s - 0.95 * 1.048_576).abs() < 1e-9);
}

#[test]
fn of_two_last_lines_that_of_the_steady_state_counts() {
    let steady = "90000 steady state records sent, 9000.0 records/sec (1.00 MB/sec), 2.0 ms avg latency, \
                  9.00 ms max latency, 2 ms 50th, 3 ms 95th, 4 ms 99th, 5 ms 99.9th.\n";
    let (measurements, _) = results("x", &format!("{steady}{PERF_TEST}"));
    assert_eq!(measurements[0].summary.records, 90_000);
}

#[test]
fn an_output_without_its_last_line_is_marked_as_a_part() {
    let lines: Vec<_> = PERF_TEST.lines().take(3).collect();
    let (measurements, reasons) = results("x", &lines.join("\n"));
    assert!(reasons[0].contains("ended early"), "{reasons:?}");
    let summary = &measurements[0].summary;
    assert!(summary.latency.p50_us.is_nan() && summary.latency.max_us == 210_000.0);
}

const RESULT: &str = r#"{"workload": "1-topic", "driver": "Kafka", "messageSize": 1000, "topics": 1,
    "partitions": 1, "producersPerTopic": 1, "consumersPerTopic": 1,
    "publishRate": [1000.0, 1002.0], "consumeRate": [999.0, 1001.0], "backlog": [0, 1],
    "publishLatency50pct": [1.5, 1.6], "publishLatency99pct": [5.0, 6.0], "publishLatencyMax": [9.0, 11.0],
    "aggregatedPublishLatencyAvg": 1.7, "aggregatedPublishLatency50pct": 1.55,
    "aggregatedPublishLatency99pct": 5.5, "aggregatedPublishLatencyMax": 11.0,
    "aggregatedPublishLatencyQuantiles": {"0.0": 0.8, "50.0": 1.55, "90.625": 3.25, "100.0": 11.0},
    "aggregatedEndToEndLatency50pct": 2.5, "aggregatedEndToEndLatencyMax": 20.0}"#;

#[test]
fn a_result_of_openmessaging_is_publish_and_end_to_end() {
    let (measurements, _) = results("omb.json", RESULT);
    let [publish, end_to_end] = measurements.as_slice() else {
        panic!("{measurements:?}");
    };
    let latency = &publish.summary.latency;
    assert_eq!(
        (latency.p50_us, latency.p90_us, latency.max_us),
        (1550.0, 3250.0, 11_000.0)
    );
    assert_eq!(publish.summary.intervals[1].p99_us, 6000.0);
    assert_eq!(publish.summary.records, 20_020);
    assert_eq!(end_to_end.label, "omb: end to end");
    assert_eq!(end_to_end.summary.latency.max_us, 20_000.0);
}

#[test]
fn what_was_not_told_is_null_in_the_result_and_read_back() {
    let (measurements, reasons) = results("omb.json", RESULT);
    let document = Document::imported("omb.json", reasons, measurements);
    let text = serde_json::to_string(&document).unwrap();
    assert!(
        text.contains("\"p95_us\":null") && !text.contains("\"resources\""),
        "{text}"
    );
    let read: Document = serde_json::from_str(&text).unwrap();
    assert!(read.measurements[0].summary.latency.p95_us.is_nan());
    assert!(!read.measurements[0].summary.is_measured());
}

#[test]
fn a_workload_becomes_a_command_line_and_what_is_left_out_is_told() {
    let text = "---\nname: \"1 topic / 16 partitions # 1KB\"\n\n# comment\ntopics: 2\npartitionsPerTopic: 8\n\
                keyDistributor: RANDOM_NANO # ours\nmessageSize: 1024\npayloadFile: payload/1Kb.data\n\
                subscriptionsPerTopic: 1\nconsumerPerSubscription: 1\nproducersPerTopic: 2\n\
                producerRate: 50_000\nconsumerBacklogSizeGB: 0\ntestDurationMinutes: 15\nsurprise: 7\n";
    let Imported::Workload(plan) = read(Path::new("x.yaml"), text).unwrap() else {
        panic!("no workload");
    };
    let line = plan.words.join(" ");
    let expected = "run --partitions 16 --connections 4 --record-bytes 1024 --batch-bytes 1 --acks all \
                    --rate 50000 --duration 15m --warm-up 1m --keys random --groups 1 --consumers 2";
    assert_eq!(line, expected);
    let words = std::iter::once("ringlog-bench").chain(plan.words.iter().map(String::as_str));
    crate::cli::Cli::try_parse_from(words).unwrap();
    let catch_up = "partitionsPerTopic: 1\nmessageSize: 9\nsubscriptionsPerTopic: 1\nconsumerBacklogSizeGB: 2\n";
    let backlog = workload::read(catch_up).unwrap();
    let words = std::iter::once("ringlog-bench").chain(backlog.words.iter().map(String::as_str));
    crate::cli::Cli::try_parse_from(words).unwrap();
    let notes = plan.notes.join("\n");
    for told in [
        "1 topic / 16 partitions # 1KB",
        "2 topics become one",
        "surprise: 7",
        "payloadFile",
    ] {
        assert!(notes.contains(told), "no {told} in\n{notes}");
    }
}

#[test]
fn what_is_none_of_these_is_refused_with_the_line() {
    for (text, told) in [
        ("", "key: value"),
        ("name: x\n  nested: y\n", "line 2"),
        ("name: x\nname: y\n", "again"),
        ("name: x\n", "no partitionsPerTopic"),
        (
            "partitionsPerTopic: many\nmessageSize: 1\n",
            "no whole number",
        ),
        (
            "topics: 9999999999\npartitionsPerTopic: 9999999999\nmessageSize: 1\n",
            "too much",
        ),
        (
            "partitionsPerTopic: 1\nmessageSize: 1\nkeyDistributor: X\n",
            "NO_KEY",
        ),
        ("{\"a\": 1}", "OpenMessaging"),
        ("{\"publishRate\": []}", "0 values"),
        ("{\"schema\": \"bench/2\"}", "report"),
        ("{broken", "JSON"),
        ("x records sent, 1 records/sec", "line 1"),
        (
            "0 records sent, 0,0 records/sec (0,00 MB/sec), 1,4 ms avg latency, 2 ms max latency.",
            "line 1",
        ),
    ] {
        let refused = read(Path::new("x"), text).unwrap_err();
        assert!(refused.contains(told), "{text:?}: {refused}");
    }
}
