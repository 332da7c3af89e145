//! Loops over files: append, look-ups, fetch slices, compaction, the journal.
//!
//! All on the poll driver: no ring, no thread takes part in an append there, and it exists
//! everywhere.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;

use bytes::Bytes;
use ringlog_engine::io::Io;
use ringlog_engine::io::probe::DriverKind;
use ringlog_engine::journal::{Append, Journal, JournalOptions};
use ringlog_engine::log::{
    AppendBatch, AppendTime, CleanerSettings, CompactionLimits, Log, LogConfig, SegmentFiles,
};
use ringlog_engine::record::{BatchBuilder, Compression, TimestampType, batch};
use uuid::Uuid;

use crate::{LIMITS, TIMESTAMP_MS, batch_1, batch_16k, batch_256k};

/// A batch of 10 records with this timestamp, whose keys no batch with another number has.
fn batch_at(timestamp_ms: i64, number: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for record in 0..10 {
        let key = format!("key-{number:04}-{record:04}");
        let appended = builder.append(timestamp_ms, Some(key.as_bytes()), Some(&[0xa5; 100]), &[]);
        appended.expect("these records are small");
    }
    builder.build().expect("it has a record").freeze()
}

/// Runs `work` on so many logs of its own.
fn with_logs<F: Future<Output = ()> + 'static>(
    directory: &Path,
    (logs, config): (usize, LogConfig),
    work: impl FnOnce(Io, Vec<Log>) -> F + 'static,
) {
    let io = Io::new(DriverKind::Poll).expect("epoll is always there");
    let (shard, directory) = (io.clone(), directory.to_owned());
    io.block_on(async move {
        let files = SegmentFiles::new(&shard, 100, 1 << 20);
        let mut created = Vec::new();
        for number in 0..logs {
            let directory = directory.join(format!("gate-{number}"));
            let log = Log::create(&files, &directory, Uuid::nil(), config.clone()).await;
            created.push(log.expect("the directory is empty"));
        }
        work(shard, created).await;
    });
    io.clear_tasks();
}

/// Runs `work` on a log of its own.
fn with_log<F: Future<Output = ()> + 'static>(
    directory: &Path,
    config: LogConfig,
    work: impl FnOnce(Io, Log) -> F + 'static,
) {
    with_logs(directory, (1, config), |io, mut logs| {
        work(io, logs.pop().expect("there is one"))
    });
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

fn append_many(directory: &Path, config: LogConfig, batch: Bytes, count: u64) {
    with_log(directory, config, move |_, log| async move {
        for _ in 0..count {
            append(&log, &batch).await;
        }
    });
}

pub(crate) fn append_1(directory: &Path, count: u64) {
    append_many(directory, LogConfig::default(), batch_1(), count);
}

/// Every batch gets its entry in both indexes, as far as its timestamp allows.
pub(crate) fn append_1_indexed(directory: &Path, count: u64) {
    let config = LogConfig {
        index_interval_bytes: 1,
        ..LogConfig::default()
    };
    append_many(directory, config, batch_1(), count);
}

pub(crate) fn append_16k(directory: &Path, count: u64) {
    append_many(directory, LogConfig::default(), batch_16k(), count);
}

pub(crate) fn append_256k(directory: &Path, count: u64) {
    append_many(directory, LogConfig::default(), batch_256k(), count);
}

/// A segment for each batch: what the append that finds one full does besides.
pub(crate) fn append_1_rolling(directory: &Path, count: u64) {
    with_log(directory, LogConfig::default(), move |_, log| async move {
        let batch = batch_1();
        for _ in 0..count {
            append(&log, &batch).await;
            let rolled = log.roll_segment_at(log.end_position()).await;
            assert!(rolled.expect("the disk takes it"));
        }
    });
}

/// Looks up `count` slices, each `back` batches of 16 KiB before the end of 200.
fn slices(directory: &Path, count: u64, back: fn(u64) -> i64) {
    const BATCHES: usize = 200;
    with_log(directory, LogConfig::default(), move |_, log| async move {
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

pub(crate) fn slice_at_tail(directory: &Path, count: u64) {
    slices(directory, count, |number| 1 + (number % 8).cast_signed());
}

pub(crate) fn slice_by_index(directory: &Path, count: u64) {
    slices(directory, count, |number| 100 + (number % 64).cast_signed());
}

/// What a fetch of 16 partitions asks for: a slice of each, while its bytes last.
pub(crate) fn slices_of_16(directory: &Path, count: u64) {
    let logs = (16, LogConfig::default());
    with_logs(directory, logs, move |_, logs| async move {
        let batch = batch_16k();
        for log in &logs {
            for _ in 0..4 {
                append(log, &batch).await;
            }
        }
        for _ in 0..count {
            let mut left = 1 << 20;
            for log in &logs {
                let offset = log.log_end_offset() - 15;
                let slice = log.read(offset, left, log.end_position(), true).await;
                let slice = slice.expect("the offset is in the log");
                left -= black_box(slice).map_or(0, |slice| slice.length);
            }
        }
    });
}

pub(crate) fn offset_of_timestamp(directory: &Path, count: u64) {
    const BATCHES: i64 = 200;
    with_log(directory, LogConfig::default(), move |_, log| async move {
        for number in 0..BATCHES {
            append(&log, &batch_at(TIMESTAMP_MS + number, 0)).await;
        }
        for number in 0..count {
            let timestamp = TIMESTAMP_MS + (number % 64).cast_signed() + 100;
            let found = log.offset_for_timestamp(timestamp).await;
            let found = found.expect("the log can be read");
            assert!(black_box(found).is_some_and(|found| found.timestamp == timestamp));
        }
    });
}

/// Rounds of compaction over 640 records in 8 segments whose keys are all different, so that every
/// round has the same to do: the map of keys, each record looked up in it, all of it written anew.
pub(crate) fn compact_64(directory: &Path, count: u64) {
    const BATCHES: usize = 64;
    let config = LogConfig {
        is_compacted: true,
        ..LogConfig::default()
    };
    with_log(directory, config, move |io, log| async move {
        for number in 0..BATCHES {
            append(&log, &batch_at(TIMESTAMP_MS, number)).await;
            if number % 8 == 7 {
                let rolled = log.roll_segment_at(log.end_position()).await;
                assert!(rolled.expect("the disk takes it"));
            }
        }
        for _ in 0..count {
            compact(&io, &log).await;
        }
    });
}

async fn compact(io: &Io, log: &Log) {
    log.flush().await.expect("the disk takes it");
    let limits = CompactionLimits {
        clean_to: None,
        high_watermark: log.log_end_offset(),
        now_ms: TIMESTAMP_MS,
        lag_ms_min: 0,
        lag_ms_max: i64::MAX,
    };
    let settings = CleanerSettings {
        now_ms: TIMESTAMP_MS,
        delete_retention_ms: 1,
        map_bytes: 1 << 20,
        map_load_factor: 0.9,
        chunk_bytes: 64 << 10,
        bytes_per_second: None,
        salt: 5,
    };
    let dirt = log.dirt(&limits).await.expect("the log can be read");
    let dirt = dirt.expect("nobody else works on the log");
    let done = log.compact(&dirt, &settings, &BTreeMap::new()).await;
    let done = done.expect("the log is not damaged");
    let done = done.expect("nobody else works on the log");
    assert_eq!(done.bytes.0, done.bytes.1, "all keys differ");
    for deleted in done.deleted {
        deleted.remove_files(io).await.expect("the disk takes it");
    }
}

/// Groups of `entries` appends of a batch each, every group waited for.
fn groups(directory: &Path, entries: i32, batch: Bytes, count: u64) {
    let io = Io::new(DriverKind::Poll).expect("epoll is always there");
    let options = JournalOptions::new(directory, 0);
    let handle = io.clone();
    io.block_on(async move {
        let opened = Journal::open(&handle, options).await;
        let journal = opened.expect("the directory is empty");
        let position = batch.len() as u64;
        let buffers = [batch];
        for number in 0..count {
            let mut last = journal.start_checkpoint();
            for partition in 0..entries {
                let append = Append {
                    topic_id: Uuid::nil(),
                    partition,
                    segment_base: 0,
                    position: number * position,
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

pub(crate) fn group_of_1(directory: &Path, count: u64) {
    groups(directory, 1, batch_1(), count);
}

pub(crate) fn group_of_16(directory: &Path, count: u64) {
    groups(directory, 16, batch_1(), count);
}

pub(crate) fn group_of_256(directory: &Path, count: u64) {
    groups(directory, 256, batch_1(), count);
}

pub(crate) fn group_of_256k(directory: &Path, count: u64) {
    groups(directory, 1, batch_256k(), count);
}
