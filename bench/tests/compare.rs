//! `compare` on real brokers: the runs, the files it leaves, the exit codes that need no clock.
#![forbid(unsafe_code)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn bench(words: &[&str]) -> (Output, String) {
    let program = env!("CARGO_BIN_EXE_ringlog-bench");
    let output = Command::new(program)
        .args(words)
        .output()
        .expect("the generator was built");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (output, text)
}

/// The broker of `.ci/run`, or the one beside the generator.
fn ringlog() -> String {
    let beside = Path::new(env!("CARGO_BIN_EXE_ringlog-bench")).with_file_name("ringlog");
    let named = std::env::var_os("RINGLOG_TEST_BINARY").map(PathBuf::from);
    let binary = named.unwrap_or(beside);
    assert!(
        binary.exists(),
        "no {}: cargo build -p ringlog",
        binary.display()
    );
    binary.display().to_string()
}

const SMALL: &str =
    "--pairs 6 --messages 300 --record-bytes 100 --batch-bytes 1 --warm-up 0s --no-pin";

#[test]
fn two_brokers_are_loaded_in_turns_and_the_verdict_is_the_exit_code() {
    let output = std::env::temp_dir().join(format!("ringlog-compare-{}", std::process::id()));
    let side = format!("ringlog={}", ringlog());
    let directory = output.display().to_string();
    let mut words = vec!["--io", "epoll", "compare", &side, &side, "-o", &directory];
    words.extend(SMALL.split(' '));
    words.extend(["--measure", "p50", "--durability", "page-cache"]);
    let (done, text) = bench(&words);
    // Which of the verdicts it is, is the machine's business.
    assert!(matches!(done.status.code(), Some(0 | 3 | 4)), "{text}");
    for side in ["A 1/6", "B 1/6", "B 2/6", "A 2/6", "A 6/6"] {
        assert!(text.contains(side), "no {side} in\n{text}");
    }
    let place = |side: &str| text.find(side).unwrap();
    assert!(place("B 2/6") < place("A 2/6"), "not in turns:\n{text}");
    let json = std::fs::read_to_string(output.join("result.json")).unwrap();
    assert!(json.contains("\"b_to_a\"") && json.contains("\"verified_records\": 300"));
    let readme = std::fs::read_to_string(output.join("README.md")).unwrap();
    assert!(readme.contains("latency p50, us (decides)"), "{readme}");
    std::fs::remove_dir_all(&output).unwrap();
}

#[test]
fn one_running_broker_can_be_both_sides_more_than_once() {
    let broker = support::Broker::start();
    let side = broker.bootstrap();
    for round in 0..2 {
        let output = broker.directory.join(&format!("result-{round}"));
        let directory = output.display().to_string();
        let mut words = vec!["--io", "epoll", "compare", &side, &side, "-o", &directory];
        words.extend(SMALL.split(' '));
        words.extend(["--measure", "p50"]);
        let (done, text) = bench(&words);
        assert!(matches!(done.status.code(), Some(0 | 3 | 4)), "{text}");
        let readme = std::fs::read_to_string(output.join("README.md")).unwrap();
        assert!(
            readme.contains("running brokers, a fresh topic"),
            "{readme}"
        );
    }
    let logs = broker.directory.join("data/logs");
    let logs = std::fs::read_dir(logs).unwrap().flatten();
    let names: Vec<_> = logs.map(|log| log.file_name()).collect();
    let of_a_run = |name: &&std::ffi::OsString| name.to_string_lossy().starts_with("bench-");
    let logs = names.iter().filter(of_a_run).count();
    assert_eq!(logs, 24, "a log for each run of each side: {names:?}");
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let (few, text) = bench(&["compare", "ringlog", "ringlog", "--pairs", "2"]);
    assert_eq!(few.status.code(), Some(2), "{text}");
    assert!(text.contains("--pairs must be at least 6"), "{text}");
    let (unknown, text) = bench(&["compare", "ringlog", "pigeon"]);
    assert_eq!(unknown.status.code(), Some(2), "{text}");
    assert!(text.contains("HOST:PORT[@PID]"), "{text}");
    let words = "compare ringlog=/no/such/file ringlog --io epoll";
    let (missing, text) = bench(&words.split(' ').collect::<Vec<_>>());
    assert_eq!(missing.status.code(), Some(1), "{text}");
    assert!(text.contains("/no/such/file"), "{text}");
}
