//! What a run leaves behind, read back; and the commands that need no broker, with bad input too.
#![forbid(unsafe_code)]

mod support;

use std::path::PathBuf;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::Value;
use support::{bench_in, ringlog};

/// An empty directory that goes when the test has passed.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("ringlog-report-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    fn read(&self, name: &str) -> String {
        let path = self.0.join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).expect("a file in it");
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }
}

fn decode(text: &str) -> Histogram<u64> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .expect("base64");
    Deserializer::new()
        .deserialize(&mut bytes.as_slice())
        .expect("a histogram")
}

const LOAD: &str = "--messages 300 --record-bytes 100 --batch-bytes 1 --warm-up 50ms --no-pin \
                    --durability page-cache --connections 2 --partitions 2";

#[test]
fn a_run_leaves_a_folder_that_can_be_read_back_and_drawn_again() {
    let scratch = Scratch::new("run");
    let ringlog = ringlog().display().to_string();
    let mut words = vec!["produce", "--ringlog", &ringlog, "--name", "tiny"];
    let all = "ringlog.trace.sample.every=1";
    words.extend(["--broker-arg=--override", "--broker-arg", all]);
    words.extend(LOAD.split_whitespace());
    let done = bench_in(&scratch.0, &words);
    assert_eq!(done.code, Some(0), "{}", done.text);
    let results: Vec<_> = std::fs::read_dir(scratch.0.join("results"))
        .unwrap()
        .flatten()
        .collect();
    let [folder] = results.as_slice() else {
        panic!("{results:?}\n{}", done.text);
    };
    let name = folder.file_name().to_string_lossy().into_owned();
    assert!(name.ends_with("-tiny"), "{name}");
    let file = |file: &str| scratch.read(&format!("results/{name}/{file}"));

    let result: Value = serde_json::from_str(&file("result.json")).unwrap();
    assert_eq!(result["schema"], "bench/2");
    assert_eq!(
        (&result["status"], &result["name"]),
        (&"valid".into(), &"tiny".into())
    );
    let measurement = &result["measurements"][0];
    assert_eq!(measurement["workload"]["connections"], 2);
    let summary = &measurement["summary"];
    assert_eq!(summary["records"], 300);
    let whole = decode(summary["latency"]["hdr_v2_deflate"].as_str().unwrap());
    assert_eq!(whole.len(), 300);
    let p99_us = summary["latency"]["p99_us"].as_f64().unwrap();
    assert_eq!(whole.value_at_quantile(0.99) as f64 / 1e3, p99_us);
    // Counted or not, with the reason: never a bare 0.
    let resources = &summary["resources"];
    for counter in ["broker_system_calls", "broker_ring_entries"] {
        let told = &resources[counter];
        let counted = told["counted"]["count"].as_u64() > Some(0);
        assert!(
            counted || told["unavailable"].is_string(),
            "{counter}: {told}"
        );
    }

    // The stages are the whole time.
    let told = &resources["broker_stages"][0];
    assert_eq!(
        (&told["request"], &told["samples"]),
        (&"Produce".into(), &300.into())
    );
    let us = |times: &Value| times["mean_us"].as_f64().unwrap();
    let stages = told["stages"].as_array().unwrap();
    let sum: f64 = stages.iter().map(us).sum();
    assert!(
        sum > 0.0 && (sum / us(&told["whole"]) - 1.0).abs() < 1e-6,
        "{told}"
    );
    done.says(&["where the time of Produce went", "  append", "  whole"]);

    let log = file("latency.hlog").into_bytes();
    let mut logged = 0;
    for entry in IntervalLogIterator::new(&log).map(Result::unwrap) {
        let LogEntry::Interval(interval) = entry else {
            continue;
        };
        if interval.tag().is_some_and(|tag| tag.as_str() == "latency") {
            logged += decode(interval.encoded_histogram()).len();
        }
    }
    assert_eq!(logged, 300, "the intervals are the whole");

    let environment: Value = serde_json::from_str(&file("env.json")).unwrap();
    assert_eq!(environment, result["environment"]);
    assert!(file("README.md").contains("- valid\n"));
    let page = file("report.html");
    assert!(page.starts_with("<!doctype html>") && page.contains("<svg"));

    let both = [
        "report",
        &format!("results/{name}"),
        &format!("results/{name}/result.json"),
        "-o",
        "both.html",
    ];
    let drawn = bench_in(&scratch.0, &both);
    assert_eq!(drawn.code, Some(0), "{}", drawn.text);
    assert!(scratch.read("both.html").contains("id=\"result-1\""));
}

#[test]
fn a_broker_that_is_not_there_leaves_a_result_that_says_so() {
    let scratch = Scratch::new("nobody");
    // Bound and not listening: nobody else takes it, and it refuses.
    let port = std::net::UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let bootstrap = format!("127.0.0.1:{port}");
    let words = [
        "produce",
        "--bootstrap",
        &bootstrap,
        "--no-pin",
        "-o",
        "out",
    ];
    let done = bench_in(&scratch.0, &words);
    assert_eq!(done.code, Some(1), "{}", done.text);
    let result: Value = serde_json::from_str(&scratch.read("out/result.json")).unwrap();
    assert_eq!(result["status"], "failed");
    assert!(
        result["reasons"][0].as_str().unwrap().contains(&bootstrap),
        "{result}"
    );
    assert!(scratch.read("out/report.html").contains("failed"));
}

#[test]
fn a_folder_of_somebody_else_stops_the_run_before_it_begins() {
    let scratch = Scratch::new("foreign");
    scratch.write("precious.txt", "mine");
    let words = ["produce", "--no-pin", "-o", "."];
    let done = bench_in(&scratch.0, &words);
    assert_eq!(done.code, Some(2), "{}", done.text);
    assert!(
        done.text.contains("holds files but no result"),
        "{}",
        done.text
    );
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 1);
    assert_eq!(scratch.read("precious.txt"), "mine");
}

#[test]
fn what_others_measured_comes_into_the_same_page() {
    let scratch = Scratch::new("import");
    scratch.write(
        "kafka.txt",
        "500 records sent, 100.0 records/sec (0.10 MB/sec), 2.0 ms avg latency, 30.0 ms max latency.\n\
         1000 records sent, 100.000000 records/sec (0.10 MB/sec), 2.10 ms avg latency, 40.00 ms max latency, \
         2 ms 50th, 4 ms 95th, 9 ms 99th, 31 ms 99.9th.\n",
    );
    let done = bench_in(&scratch.0, &["import", "kafka.txt", "-o", "kafka"]);
    assert_eq!(done.code, Some(0), "{}", done.text);
    let result: Value = serde_json::from_str(&scratch.read("kafka/result.json")).unwrap();
    assert_eq!(result["imported_from"], "kafka.txt");
    let latency = &result["measurements"][0]["summary"]["latency"];
    assert_eq!(
        (&latency["p99_us"], &latency["p90_us"]),
        (&9000.0.into(), &Value::Null)
    );
    let drawn = bench_in(&scratch.0, &["report", "kafka", "-o", "page.html"]);
    assert_eq!(drawn.code, Some(0), "{}", drawn.text);
    assert!(scratch.read("page.html").contains("imported"));
}

#[test]
fn files_that_are_no_results_are_refused_with_their_path_and_a_remedy() {
    let scratch = Scratch::new("bad");
    scratch.write(
        "old.json",
        "{\"schema\": \"bench/1\", \"kind\": \"produce\"}",
    );
    scratch.write("half.json", "{\"schema\": \"bench/2\", \"kind\": ");
    scratch.write("list.yaml", "- a\n- b\n");
    std::fs::create_dir(scratch.0.join("empty")).unwrap();
    // 1 is what the system refuses, 2 is what cannot be meant.
    for (words, told, code) in [
        (
            &["report", "old.json"][..],
            "old.json: has schema bench/1",
            2,
        ),
        (&["report", "half.json"], "half.json: no result", 2),
        (&["report", "empty"], "empty/result.json", 1),
        (&["report", "none"], "none", 1),
        (&["import", "list.yaml"], "list.yaml: line 1", 2),
        (&["import", "none.txt"], "none.txt", 1),
        (&["import", "/dev/zero"], "/dev/zero is no file", 2),
    ] {
        let refused = bench_in(&scratch.0, words);
        assert_eq!(refused.code, Some(code), "{words:?}: {}", refused.text);
        assert!(refused.text.contains(told), "{words:?}: {}", refused.text);
        assert!(
            !refused.text.contains("panicked"),
            "{words:?}: {}",
            refused.text
        );
    }
    assert!(!scratch.0.join("report.html").exists(), "nothing was drawn");
}

#[test]
fn the_environment_is_told_in_words_and_as_json() {
    let scratch = Scratch::new("env");
    let told = bench_in(&scratch.0, &["env"]);
    assert_eq!(told.code, Some(0), "{}", told.text);
    for name in [
        "cpu.model",
        "kernel.release",
        "io_uring.",
        "storage.file_system",
        "limits.open_files",
    ] {
        assert!(told.text.contains(name), "no {name} in\n{}", told.text);
    }
    let json = bench_in(&scratch.0, &["env", "--json"]);
    let environment: Value = serde_json::from_str(&json.text).unwrap();
    assert!(
        environment["cpu"]["cpus"].as_u64() > Some(0),
        "{}",
        json.text
    );
}
