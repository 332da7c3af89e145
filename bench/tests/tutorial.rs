//! The tutorial's rows against a started broker: what belongs to a row, and what is kept when a stop fails.
#![forbid(unsafe_code)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use support::{Directory, Done, bench, ringlog};

/// A folder's result, and the exit of the command that made it.
fn kept(words: &str, directory: &Directory) -> (Done, Value) {
    let folder = directory.join("result");
    let done = bench(&format!("{words} --no-pin -o {}", folder.display()));
    let text = fs::read_to_string(folder.join("result.json"));
    let text = text.unwrap_or_else(|error| panic!("{error}: {}", done.text));
    (done, serde_json::from_str(&text).expect("a result"))
}

/// A `ringlog` that works, and whose stop fails.
fn stubborn(directory: &Directory) -> String {
    let path = directory.join("stubborn");
    let script = format!(
        "#!/bin/sh\ntrap 'kill $broker; wait $broker; exit 3' TERM\n{} \"$@\" & broker=$!\nwait $broker\n",
        ringlog().display()
    );
    fs::write(&path, script).expect("the directory was made");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it was made here");
    path.display().to_string()
}

#[test]
fn what_a_row_used_is_of_the_loop_and_not_of_the_check_after_it() {
    let directory = Directory::new();
    let words = "tutorial --messages 200 --target ringlog=";
    let (done, result) = kept(&format!("{words}{}", ringlog().display()), &directory);
    assert_eq!(done.code, Some(0), "{}", done.text);
    let row = &result["rows"][0];
    assert!(row["second_loop_s"].as_f64() > Some(0.0), "{row}");
    assert_eq!(
        row["resources"]["machine"]["elapsed_s"], row["second_loop_s"],
        "{row}"
    );
    let client = row["client"].as_str().expect("a client");
    for told in ["acks=1", "one message a request", "at most 5 in flight"] {
        assert!(client.contains(told), "no {told} in {client}");
    }
    let picture = fs::read_to_string(directory.join("result/picture.svg")).expect("a picture");
    assert!(picture.contains(">ringlog="), "{picture}");
}

#[test]
fn a_broker_that_does_not_start_leaves_a_result_that_says_so() {
    for words in [
        "produce --ringlog /bin/false",
        "fetch --ringlog /bin/false",
        "run --ringlog /bin/false",
    ] {
        let directory = Directory::new();
        let (done, result) = kept(words, &directory);
        assert_eq!(done.code, Some(1), "{words}: {}", done.text);
        assert_eq!(result["status"], "failed", "{words}");
        let reason = result["reasons"][0].as_str().unwrap_or_default();
        assert!(reason.contains("ended at its start"), "{words}: {reason}");
    }
}

#[test]
fn what_was_measured_is_kept_when_the_broker_does_not_end_well() {
    for (words, measured) in [
        (
            "produce --messages 50 --warm-up 10ms --ringlog ",
            "/measurements/0/summary/records",
        ),
        (
            "tutorial --messages 50 --target ringlog=",
            "/rows/0/second_loop_s",
        ),
    ] {
        let directory = Directory::new();
        let (done, result) = kept(&format!("{words}{}", stubborn(&directory)), &directory);
        assert_eq!(done.code, Some(1), "{words}: {}", done.text);
        done.says(&["the broker stopped with"]);
        assert_eq!(result["status"], "failed", "{words}");
        let value = result.pointer(measured);
        let value = value.unwrap_or_else(|| panic!("{words}: no {measured} in {result}"));
        assert!(value.as_f64() > Some(0.0), "{words}: {value}");
    }
}
