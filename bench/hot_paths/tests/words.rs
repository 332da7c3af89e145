//! What the gate relies on: the list's form, and an error for what is not on it.
#![forbid(unsafe_code)]

use std::process::{Command, Output};

fn hot_paths(words: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_ringlog-hot-paths");
    Command::new(program)
        .args(words)
        .output()
        .expect("it was built")
}

#[test]
fn the_list_has_a_count_and_a_name_on_each_line() {
    let output = hot_paths(&[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.lines().count() >= 10);
    for line in text.lines() {
        let (count, name) = line.split_once('\t').unwrap();
        assert!(count.parse::<u64>().unwrap() > 0 && !name.is_empty());
    }
}

#[test]
fn an_unknown_name_is_an_error_that_names_it() {
    let output = hot_paths(&["teleport", "1", "/tmp"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("teleport"));
}
