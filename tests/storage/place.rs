//! A directory with known records: where each batch lies, and ways to hurt it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ringlog_engine::record::BatchHeader;
use ringlog_tests::broker::{Broker, Options, binary};
use ringlog_tests::call::{create_topic, produce_values};
use ringlog_tests::wire::Client;

/// Batches that are produced; each has [`RECORDS`] records.
pub(crate) const BATCHES: i64 = 60;
pub(crate) const RECORDS: i64 = 3;
pub(crate) const TOPIC: &str = "hurt";

/// Where a batch lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) position: usize,
    pub(crate) header: BatchHeader,
}

/// A broker that has made a topic of several segments, and another one beside it.
pub(crate) fn filled(options: Options) -> Option<Broker> {
    let broker = Broker::own(options)?;
    let mut client = Client::connect(broker.address());
    create_topic(&mut client, TOPIC, 1, &[("segment.bytes", "16384")]);
    create_topic(&mut client, "sound", 1, &[]);
    for number in 0..BATCHES {
        produce_values(&mut client, TOPIC, &values(number));
    }
    produce_values(&mut client, "sound", &["a", "b"]);
    Some(broker)
}

/// What a batch holds.
pub(crate) fn values(number: i64) -> Vec<String> {
    let value = |part| format!("{number}.{part} {}", "x".repeat(300));
    (0..RECORDS).map(value).collect()
}

/// The segments of the topic, oldest first.
pub(crate) fn segments(logs: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(logs.join(format!("{TOPIC}-0"))).expect("the partition is there");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let mut paths: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|suffix| suffix == "log"))
        .collect();
    paths.sort();
    paths
}

/// The batches of a segment that is sound.
pub(crate) fn places(segment: &Path) -> Vec<Place> {
    let bytes = fs::read(segment).expect("the segment is there");
    let mut position = 0;
    let mut places = Vec::new();
    while position < bytes.len() {
        let header = BatchHeader::parse(&bytes[position..]).expect("a sound segment");
        places.push(Place { position, header });
        position += header.size_in_bytes();
    }
    places
}

/// Changes the bytes of a file.
pub(crate) fn hurt(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    change(&mut bytes);
    fs::write(file, bytes).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

/// All files below a directory, with their bytes.
pub(crate) fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let bytes = fs::read(&path).expect("readable");
                found.push((path, bytes));
            }
        }
    }
    found.sort();
    found
}

/// Writes what [`contents`] read, and removes what was not there.
pub(crate) fn restore(directory: &Path, kept: &[(PathBuf, Vec<u8>)]) {
    for (path, _) in contents(directory) {
        fs::remove_file(path).expect("ours");
    }
    for (path, bytes) in kept {
        fs::write(path, bytes).expect("ours");
    }
}

/// `ringlog fsck`: its exit code, and the objects that `--json` prints.
pub(crate) fn fsck(directory: &Path, more: &[&str]) -> (Option<i32>, Vec<serde_json::Value>) {
    let mut command = Command::new(binary());
    command.arg("fsck").arg(directory).arg("--json").args(more);
    let output = command.output().expect("the binary is there");
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!error.contains("panicked"), "{error}");
    let objects = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}")));
    let mut objects: Vec<serde_json::Value> = objects.collect();
    if !error.is_empty() {
        objects.push(serde_json::json!({ "error": error }));
    }
    (output.status.code(), objects)
}
