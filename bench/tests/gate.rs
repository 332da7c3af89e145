//! The gate as CI runs it: it passes on the same code, fails on a slow-down, says when it cannot count.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder with a baseline, removed at the end.
struct Scene(PathBuf);

impl Scene {
    fn new(name: &str) -> Self {
        let name = format!("ringlog-gate-test-{}-{name}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("the temporary directory is writable");
        Self(directory)
    }

    /// The cheapest hot paths, without a broker.
    fn gate(&self, words: &[&str]) -> Command {
        self.gate_of("1 record", words)
    }

    fn gate_of(&self, entries: &str, words: &[&str]) -> Command {
        let own = Path::new(env!("CARGO_BIN_EXE_ringlog-bench"));
        let hot_paths = own.with_file_name("ringlog-hot-paths");
        assert!(
            hot_paths.exists(),
            "no {}: cargo build -p ringlog-hot-paths",
            hot_paths.display()
        );
        let mut command = Command::new(own);
        command.args(["--io", "epoll", "gate", "--no-broker", "--no-pin"]);
        command.args(["--only", entries, "--baseline"]);
        command
            .arg(self.0.join("baseline.json"))
            .arg("--work-dir")
            .arg(&self.0);
        command.args(words);
        command
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn output(command: &mut Command) -> (Output, String) {
    let output = command.output().expect("the generator was built");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (output, text)
}

#[test]
fn the_same_code_passes_and_a_slow_down_of_5_per_cent_fails() {
    let scene = Scene::new("plant");
    let (made, text) = output(&mut scene.gate(&["--update"]));
    assert!(made.status.success(), "{text}");
    let (same, text) = output(&mut scene.gate(&[]));
    assert!(same.status.success(), "{text}");
    assert!(text.contains("gate passed"), "{text}");
    if text.contains("SKIP") {
        return; // no valgrind here: there is nothing to compare
    }
    let (slower, text) = output(&mut scene.gate(&["--plant", "5"]));
    assert_eq!(slower.status.code(), Some(1), "{text}");
    for part in ["4 of 4 entries regressed", "--update"] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert!(text.contains("+5.0") || text.contains("+4.9"), "{text}");

    let (accepted, text) = output(&mut scene.gate(&["--plant", "5", "--update"]));
    assert!(accepted.status.success(), "{text}");
    let (slower, text) = output(&mut scene.gate(&["--plant", "5"]));
    assert!(slower.status.success(), "{text}");
    let (faster, text) = output(&mut scene.gate(&[]));
    assert!(faster.status.success(), "{text}");
    assert!(text.contains("better"), "{text}");
}

#[test]
fn an_entry_that_is_gone_fails_until_it_is_accepted() {
    let scene = Scene::new("gone");
    let (made, text) = output(&mut scene.gate_of("crc", &["--update"]));
    assert!(made.status.success(), "{text}");
    let path = scene.0.join("baseline.json");
    let baseline = std::fs::read_to_string(&path).unwrap();
    let mut baseline: serde_json::Value = serde_json::from_str(&baseline).unwrap();
    let Some(first) = baseline["entries"].get(0).cloned() else {
        return; // no valgrind here: nothing was counted
    };
    let entries = baseline["entries"].as_array_mut().unwrap();
    for name in ["crc of yesterday", "broker: crc", "another"] {
        let mut gone = first.clone();
        gone["name"] = name.into();
        entries.push(gone);
    }
    std::fs::write(&path, baseline.to_string()).unwrap();
    // Neither the broker's, as none is started, nor what was not asked for.
    let (gone, text) = output(&mut scene.gate_of("crc", &[]));
    assert_eq!(gone.status.code(), Some(1), "{text}");
    assert!(text.contains("1 of 2 entries regressed"), "{text}");
    assert!(text.contains("REGRESSED  crc of yesterday"), "{text}");
    let (accepted, text) = output(&mut scene.gate_of("crc", &["--update"]));
    assert!(accepted.status.success(), "{text}");
    let (same, text) = output(&mut scene.gate_of("crc", &[]));
    assert!(same.status.success(), "{text}");
    let kept = std::fs::read_to_string(&path).unwrap();
    assert!(
        !kept.contains("crc of yesterday") && kept.contains("\"another\""),
        "{kept}"
    );
}

#[test]
fn a_study_of_no_runs_is_refused() {
    let scene = Scene::new("none-studied");
    let (refused, text) = output(&mut scene.gate_of("crc", &["--study", "0"]));
    assert_eq!(refused.status.code(), Some(2), "{text}");
}

#[test]
fn a_copy_more_of_what_passes_fails_and_is_named() {
    let scene = Scene::new("copy");
    let gate = |words: &[&str]| output(&mut scene.gate_of("validate a batch of 16 KiB", words));
    let (made, text) = gate(&["--update"]);
    assert!(made.status.success(), "{text}");
    let (same, text) = gate(&[]);
    assert!(same.status.success(), "{text}");
    if text.contains("SKIP") {
        return; // no valgrind here: there is nothing to compare
    }
    let (copied, text) = gate(&["--plant-copy"]);
    assert_eq!(copied.status.code(), Some(1), "{text}");
    let (_, copying) = text.split_once("copying ").expect("it tells of copies");
    let mut words = copying.lines().next().unwrap_or_default().split(" -> ");
    let mut next = || words.next().unwrap().parse::<f64>().unwrap();
    let (before, now) = (next(), next());
    // Of 15 KiB, 2 to 30 bytes an instruction: once, and not more often.
    assert!((500.0..8000.0).contains(&(now - before)), "{text}");
}

#[test]
fn a_study_finds_what_it_plants_and_keeps_what_it_saw() {
    let scene = Scene::new("study");
    let kept = scene.0.join("kept");
    let mut command = scene.gate_of("validate", &["--study", "2", "-o"]);
    let (studied, text) = output(command.arg(&kept));
    if text.contains("SKIP") {
        assert_eq!(studied.status.code(), Some(2), "{text}");
        return; // no valgrind here: there is nothing to study
    }
    assert!(studied.status.success(), "{text}");
    let readme = std::fs::read_to_string(kept.join("README.md")).unwrap();
    for part in [
        "**0 of 2 (0.0 to 65.8 %)**",
        "| 10 % | validate a batch of 1 record | 2 of 2",
    ] {
        assert!(readme.contains(part), "no {part:?} in\n{readme}");
    }
    let json = std::fs::read_to_string(kept.join("result.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["runs"].as_array().map(Vec::len), Some(6), "{json}");
    assert_eq!(json["runs"][1]["planted_percent"], 5, "{json}");
}

#[test]
fn without_valgrind_the_gate_says_that_it_counts_nothing() {
    let scene = Scene::new("skip");
    let mut command = scene.gate(&["--update"]);
    let (made, text) = output(command.env("PATH", "/nonexistent"));
    assert!(made.status.success(), "{text}");
    assert!(text.contains("SKIP counting instructions"), "{text}");
}

#[test]
fn without_a_baseline_the_gate_says_how_to_make_one() {
    let scene = Scene::new("none");
    let mut command = scene.gate(&[]);
    let (refused, text) = output(command.env("PATH", "/nonexistent"));
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(text.contains("make one by --update"), "{text}");
}
