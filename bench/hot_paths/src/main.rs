//! The parts of the hot path as loops without a clock and without chance, for callgrind to count.
//!
//! `ringlog-hot-paths` lists them as `count<TAB>name`; `ringlog-hot-paths NAME COUNT DIRECTORY` runs
//! one. Each does the same work COUNT times after its set-up; the gate runs it twice with different
//! counts, and the difference has no set-up in it. A crate of its own, so that a release build of it
//! needs nothing but the engine.
//!
//! | file | loops |
//! |---|---|
//! | `memory` | checksum, validation, building, conversion, codecs |
//! | `disk` | append, look-ups, fetch slices, compaction, the journal |
#![forbid(unsafe_code)]

mod disk;
mod memory;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use bytes::Bytes;
use ringlog_engine::record::batch::ProduceLimits;
use ringlog_engine::record::{BatchBuilder, Compression};

/// A loop that is counted.
#[derive(Debug, Clone, Copy)]
struct HotPath {
    /// As it stands in the baseline.
    name: &'static str,
    /// How often the shorter of the two runs does it.
    count: u64,
    /// Does it so often; the directory is empty.
    run: fn(&Path, u64),
}

const HOT_PATHS: [HotPath; 29] = [
    path("crc-32c of 16 KiB", 500, memory::crc),
    path("validate a batch of 1 record", 2000, memory::validate_1),
    path("validate a batch of 16 KiB", 500, memory::validate_16k),
    path("build a batch of 16 KiB", 200, memory::build_16k),
    path(
        "read the records of a batch of 16 KiB",
        200,
        memory::read_records,
    ),
    path(
        "convert a message set of 10 messages",
        500,
        memory::up_convert_10,
    ),
    path(
        "convert a batch to 10 messages",
        500,
        memory::down_convert_10,
    ),
    path("compress 16 KiB with gzip", 10, memory::compress_gzip),
    path("compress 16 KiB with snappy", 50, memory::compress_snappy),
    path("compress 16 KiB with lz4", 50, memory::compress_lz4),
    path("compress 16 KiB with zstd", 20, memory::compress_zstd),
    path("decompress 16 KiB with gzip", 20, memory::decompress_gzip),
    path(
        "decompress 16 KiB with snappy",
        50,
        memory::decompress_snappy,
    ),
    path("decompress 16 KiB with lz4", 50, memory::decompress_lz4),
    path("decompress 16 KiB with zstd", 50, memory::decompress_zstd),
    path("append a batch of 1 record", 1000, disk::append_1),
    path(
        "append a batch of 1 record, indexed",
        1000,
        disk::append_1_indexed,
    ),
    path("append a batch of 16 KiB", 1000, disk::append_16k),
    path("append a batch of 256 KiB", 40, disk::append_256k),
    path(
        "append a batch of 1 record, and roll",
        50,
        disk::append_1_rolling,
    ),
    path(
        "find a fetch slice at the tail",
        10_000,
        disk::slice_at_tail,
    ),
    path(
        "find a fetch slice by the index",
        2000,
        disk::slice_by_index,
    ),
    path(
        "find the fetch slices of 16 partitions",
        500,
        disk::slices_of_16,
    ),
    path(
        "find the offset of a timestamp",
        500,
        disk::offset_of_timestamp,
    ),
    path(
        "compact a log of 64 batches of 10 records",
        10,
        disk::compact_64,
    ),
    path(
        "write a group of 1 entry to the journal",
        300,
        disk::group_of_1,
    ),
    path(
        "write a group of 16 entries to the journal",
        100,
        disk::group_of_16,
    ),
    path(
        "write a group of 256 entries to the journal",
        20,
        disk::group_of_256,
    ),
    path(
        "write a group of 256 KiB to the journal",
        60,
        disk::group_of_256k,
    ),
];

/// Not listed: what the gate must find (its `--plant-copy`).
const PLANTED: [HotPath; 1] = [path(
    "validate a batch of 16 KiB, copied once more",
    500,
    memory::validate_16k_copied,
)];

const fn path(name: &'static str, count: u64, run: fn(&Path, u64)) -> HotPath {
    HotPath { name, count, run }
}

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    match &words[..] {
        [] => list(),
        [name, count, directory] => run(name, count, directory),
        _ => complain("usage: ringlog-hot-paths [NAME COUNT DIRECTORY]"),
    }
}

fn list() -> ExitCode {
    for path in HOT_PATHS {
        if writeln!(std::io::stdout(), "{}\t{}", path.count, path.name).is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn run(name: &str, count: &str, directory: &str) -> ExitCode {
    let path = HOT_PATHS
        .iter()
        .chain(&PLANTED)
        .find(|path| path.name == name);
    match (path, count.parse()) {
        (Some(path), Ok(count)) => {
            (path.run)(Path::new(directory), count);
            ExitCode::SUCCESS
        }
        _ => complain(&format!("no hot path {name:?}, or {count:?} is no count")),
    }
}

#[expect(clippy::print_stderr, reason = "the one place where failures are told")]
fn complain(what: &str) -> ExitCode {
    eprintln!("ringlog-hot-paths: {what}");
    ExitCode::FAILURE
}

const TIMESTAMP_MS: i64 = 1_700_000_000_000;
const LIMITS: ProduceLimits = ProduceLimits {
    batch_bytes_max: 1 << 20,
    zstd_allowed: true,
};

/// A batch of records that all have the same key.
fn batch_of(records: usize, value_bytes: usize) -> Bytes {
    let value = vec![0xa5; value_bytes];
    let mut builder = BatchBuilder::new(Compression::None);
    for _ in 0..records {
        let appended = builder.append(TIMESTAMP_MS, Some(b"key"), Some(&value), &[]);
        appended.expect("these records are small");
    }
    builder.build().expect("it has a record").freeze()
}

fn batch_1() -> Bytes {
    batch_of(1, 100)
}

fn batch_16k() -> Bytes {
    batch_of(15, 1024)
}

fn batch_256k() -> Bytes {
    batch_of(247, 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_hot_path_runs() {
        let root = std::env::temp_dir().join(format!("ringlog-hot-paths-{}", std::process::id()));
        for (number, path) in HOT_PATHS.iter().chain(&PLANTED).enumerate() {
            let directory = root.join(number.to_string());
            std::fs::create_dir_all(&directory).unwrap();
            (path.run)(&directory, 3);
        }
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn names_are_distinct() {
        let names: BTreeSet<_> = HOT_PATHS.iter().map(|path| path.name).collect();
        assert_eq!(names.len(), HOT_PATHS.len());
    }
}
