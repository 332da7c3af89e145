//! The parts of the hot path as loops without a clock and without chance, for callgrind to count.
//!
//! `ringlog-hot-paths` lists them as `count<TAB>name`; `ringlog-hot-paths NAME COUNT DIRECTORY` runs
//! one. Each does the same work COUNT times after its set-up; the gate runs it twice with different
//! counts, and the difference has no set-up in it. Logs use the poll driver: no ring, no thread
//! takes part in an append there, and it exists everywhere. A crate of its own, so that a release
//! build of it needs nothing but the engine.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use bytes::Bytes;
use ringlog_engine::io::Io;
use ringlog_engine::io::probe::DriverKind;
use ringlog_engine::journal::{Append, Journal, JournalOptions};
use ringlog_engine::log::{AppendBatch, AppendTime, Log, LogConfig, SegmentFiles};
use ringlog_engine::record::batch::{self, ProduceLimits, crc32c};
use ringlog_engine::record::conversion::{ConversionLimits, down_convert, up_convert};
use ringlog_engine::record::{BatchBuilder, BatchReader, Compression, TimestampType};
use uuid::Uuid;

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

const HOT_PATHS: [HotPath; 12] = [
    path("crc-32c of 16 KiB", 500, crc),
    path("validate a batch of 1 record", 2000, validate_1),
    path("validate a batch of 16 KiB", 500, validate_16k),
    path("build a batch of 16 KiB", 200, build_16k),
    path("read the records of a batch of 16 KiB", 200, read_records),
    path("convert a message set of 10 messages", 500, up_convert_10),
    path("append a batch of 1 record", 1000, append_1),
    path("append a batch of 16 KiB", 1000, append_16k),
    path("find a fetch slice at the tail", 10_000, slice_at_tail),
    path("find a fetch slice by the index", 2000, slice_by_index),
    path("write a group of 1 entry to the journal", 300, group_of_1),
    path(
        "write a group of 16 entries to the journal",
        100,
        group_of_16,
    ),
];

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
    let path = HOT_PATHS.iter().find(|path| path.name == name);
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
const CONVERSION: ConversionLimits = ConversionLimits {
    bytes_max: 1 << 20,
    decompressed_bytes_max: 1 << 20,
};

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

fn crc(_: &Path, count: u64) {
    let bytes = vec![0x5a; 16 << 10];
    for _ in 0..count {
        black_box(crc32c(black_box(&bytes)));
    }
}

fn validate(batch: &Bytes, count: u64) {
    for _ in 0..count {
        black_box(batch::validate(black_box(batch), &LIMITS)).expect("the batch is valid");
    }
}

fn validate_1(_: &Path, count: u64) {
    validate(&batch_1(), count);
}

fn validate_16k(_: &Path, count: u64) {
    validate(&batch_16k(), count);
}

fn build_16k(_: &Path, count: u64) {
    for _ in 0..count {
        black_box(batch_16k());
    }
}

fn read_records(_: &Path, count: u64) {
    let batch = batch_16k();
    for _ in 0..count {
        let reader = BatchReader::open(black_box(&batch), 1 << 20).expect("the batch is valid");
        let bytes = reader.records().map(|record| {
            let record = record.expect("the batch is valid");
            record.value.map_or(0, |value| value.len())
        });
        black_box(bytes.sum::<usize>());
    }
}

fn up_convert_10(_: &Path, count: u64) {
    let old = down_convert(&batch_of(10, 100), 1, 0, &CONVERSION).expect("the batch is valid");
    for _ in 0..count {
        black_box(up_convert(black_box(&old.messages), &CONVERSION)).expect("the set is valid");
    }
}

/// Runs `work` on a log of its own.
fn with_log<F: Future<Output = ()> + 'static>(
    directory: &Path,
    work: impl FnOnce(Log) -> F + 'static,
) {
    let io = Io::new(DriverKind::Poll).expect("epoll is always there");
    let files = SegmentFiles::new(&io, 100, 1 << 20);
    let directory = directory.join("gate-0");
    io.block_on(async move {
        let created = Log::create(&files, &directory, Uuid::nil(), LogConfig::default());
        work(created.await.expect("the directory is empty")).await;
    });
    io.clear_tasks();
}

/// What a produce does to a partition: validate, then append.
async fn append(log: &Log, batch: &Bytes) {
    let header = batch::validate(black_box(batch), &LIMITS).expect("the batch is valid");
    let time = AppendTime {
        now_ms: TIMESTAMP_MS,
        timestamp_type: TimestampType::CreateTime,
    };
    let batch = AppendBatch {
        header,
        bytes: batch.clone(),
    };
    let appended = log.append(vec![batch], 0, time).await;
    black_box(appended.expect("the disk takes it"));
}

fn append_many(directory: &Path, batch: Bytes, count: u64) {
    with_log(directory, move |log| async move {
        for _ in 0..count {
            append(&log, &batch).await;
        }
    });
}

fn append_1(directory: &Path, count: u64) {
    append_many(directory, batch_1(), count);
}

fn append_16k(directory: &Path, count: u64) {
    append_many(directory, batch_16k(), count);
}

/// Looks up `count` slices, each `back` batches of 16 KiB before the end of 200.
fn slices(directory: &Path, count: u64, back: fn(u64) -> i64) {
    const BATCHES: usize = 200;
    with_log(directory, move |log| async move {
        let batch = batch_16k();
        for _ in 0..BATCHES {
            append(&log, &batch).await;
        }
        for number in 0..count {
            let offset = log.log_end_offset() - 15 * back(number);
            let slice = log.read(offset, 1 << 20, log.end_position(), true).await;
            black_box(slice.expect("the offset is in the log"));
        }
    });
}

fn slice_at_tail(directory: &Path, count: u64) {
    slices(directory, count, |number| 1 + (number % 8).cast_signed());
}

fn slice_by_index(directory: &Path, count: u64) {
    slices(directory, count, |number| 100 + (number % 64).cast_signed());
}

/// Groups of `entries` appends of one record each, every group waited for.
fn groups(directory: &Path, entries: i32, count: u64) {
    let io = Io::new(DriverKind::Poll).expect("epoll is always there");
    let options = JournalOptions::new(directory, 0);
    let handle = io.clone();
    io.block_on(async move {
        let opened = Journal::open(&handle, options).await;
        let journal = opened.expect("the directory is empty");
        let buffers = [batch_1()];
        for number in 0..count {
            let mut last = journal.start_checkpoint();
            for partition in 0..entries {
                let append = Append {
                    topic_id: Uuid::nil(),
                    partition,
                    segment_base: 0,
                    position: number * 200,
                    buffers: black_box(&buffers),
                };
                last = journal.append(&append).expect("the journal is open");
            }
            journal.durable(last).await.expect("the disk takes it");
        }
        journal.finish_checkpoint(journal.start_checkpoint());
        journal.close().await.expect("the disk takes it");
    });
    io.clear_tasks();
}

fn group_of_1(directory: &Path, count: u64) {
    groups(directory, 1, count);
}

fn group_of_16(directory: &Path, count: u64) {
    groups(directory, 16, count);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_hot_path_runs() {
        let root = std::env::temp_dir().join(format!("ringlog-hot-paths-{}", std::process::id()));
        for (number, path) in HOT_PATHS.iter().enumerate() {
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
