//! `compare` on real brokers: the runs, the files it leaves, the exit codes that need no clock.
#![forbid(unsafe_code)]

mod support;

use std::fs;

use support::{Broker, Directory, bench, bench_in, ringlog};

const SMALL: &str = "--pairs 6 --messages 300 --record-bytes 100 --batch-bytes 1 --warm-up 0s --no-pin \
                     --measure p50";
/// Same or faster, slower, cannot tell: which of them it is, is the machine's business.
const VERDICTS: [Option<i32>; 3] = [Some(0), Some(3), Some(4)];

/// Our broker, as a side.
fn side() -> String {
    format!("ringlog={}", ringlog().display())
}

#[test]
fn two_brokers_are_loaded_in_turns_and_the_verdict_is_the_exit_code() {
    let directory = Directory::new();
    let (side, folder) = (side(), directory.join("result"));
    let words = format!("compare {side} {side} {SMALL} --durability page-cache");
    let done = bench(&format!("{words} -o {}", folder.display()));
    assert!(VERDICTS.contains(&done.code), "{}", done.text);
    done.says(&["A 1/6", "B 1/6", "B 2/6", "A 2/6", "A 6/6"]);
    let place = |side: &str| done.text.find(side).unwrap();
    assert!(place("B 2/6") < place("A 2/6"), "no turns: {}", done.text);
    let json = fs::read_to_string(folder.join("result.json")).unwrap();
    assert!(json.contains("\"b_to_a\"") && json.contains("\"verified_records\": 300"));
    let readme = fs::read_to_string(folder.join("README.md")).unwrap();
    assert!(readme.contains("latency p50, us (decides)"), "{readme}");
}

#[test]
fn a_side_may_have_a_setting_of_its_own() {
    let directory = Directory::new();
    let side = side();
    let mut words = vec!["compare", &side, &side, "-o", "result"];
    words.extend(SMALL.split_whitespace());
    words.extend(["--a-durability", "page-cache", "--b-durability", "durable"]);
    words.extend(["--b-arg=--io=poll", "--b-setup", "echo B >> told"]);
    let done = bench_in(&directory.join(""), &words);
    assert!(VERDICTS.contains(&done.code), "{}", done.text);
    let told = fs::read_to_string(directory.join("told")).unwrap();
    assert_eq!(told, "B\n".repeat(6));
    let readme = fs::read_to_string(directory.join("result/README.md")).unwrap();
    for part in [", page-cache (A)", "--io=poll, durable, after `echo B"] {
        assert!(readme.contains(part), "no {part:?} in\n{readme}");
    }
}

#[test]
fn a_setting_that_cannot_be_made_ends_the_comparison() {
    let directory = Directory::new();
    let side = side();
    let mut words = vec!["compare", &side, &side, "--a-setup", "exit 7"];
    words.extend(SMALL.split_whitespace());
    let done = bench_in(&directory.join(""), &words);
    assert_eq!(done.code, Some(1), "{}", done.text);
    done.says(&["`exit 7` ended with", "7"]);
}

#[test]
fn one_running_broker_can_be_both_sides_more_than_once() {
    let broker = Broker::start();
    let side = broker.bootstrap();
    for round in 0..2 {
        let folder = broker.directory.join(&format!("result-{round}"));
        let words = format!("compare {side} {side} {SMALL}");
        let done = bench(&format!("{words} -o {}", folder.display()));
        assert!(VERDICTS.contains(&done.code), "{}", done.text);
        let readme = fs::read_to_string(folder.join("README.md")).unwrap();
        let told = "running brokers, a fresh topic";
        assert!(readme.contains(told), "{readme}");
    }
    let logs = fs::read_dir(broker.directory.join("data/logs")).unwrap();
    let names: Vec<_> = logs.flatten().map(|log| log.file_name()).collect();
    let of_a_run = |name: &&std::ffi::OsString| name.to_string_lossy().starts_with("bench-");
    let logs = names.iter().filter(of_a_run).count();
    assert_eq!(logs, 24, "a log for each run of each side: {names:?}");
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let few = bench("compare ringlog ringlog --pairs 2");
    assert_eq!(few.code, Some(2), "{}", few.text);
    few.says(&["--pairs must be at least 6"]);
    let unknown = bench("compare ringlog pigeon");
    assert_eq!(unknown.code, Some(2), "{}", unknown.text);
    unknown.says(&["HOST:PORT[@PID]"]);
    let missing = bench("compare ringlog=/no/such/file ringlog");
    assert_eq!(missing.code, Some(1), "{}", missing.text);
    missing.says(&["/no/such/file"]);
}
