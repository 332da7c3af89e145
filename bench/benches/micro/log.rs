//! The log of a partition in the page cache: append, look up, find what a fetch sends.

use std::hint::black_box;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use ringlog_engine::io::Io;
use ringlog_engine::io::probe::DriverKind;
use ringlog_engine::log::{AppendBatch, AppendTime, Log, LogConfig, SegmentFiles};
use ringlog_engine::record::TimestampType;
use ringlog_engine::record::batch::{self, ProduceLimits};
use uuid::Uuid;

use crate::fixture::{Scratch, TIMESTAMP_MS, batch_at, batches, drivers, on_shard};

const LIMITS: ProduceLimits = ProduceLimits {
    batch_bytes_max: 1 << 20,
    zstd_allowed: true,
};
/// After so many bytes an append goes on in a new log: the disk shall not fill, nor write back.
const LOG_BYTES_MAX: u64 = 64 << 20;
/// Of the log that is read.
const BATCHES: i64 = 4000;
const RECORDS_PER_BATCH: usize = 15;
/// Of a fetch: `max.partition.fetch.bytes` of Kafka's consumers.
const FETCH_BYTES: u32 = 1 << 20;

async fn create(io: &Io, scratch: &Scratch) -> Log {
    let files = SegmentFiles::new(io, 100, 1 << 20);
    let directory = scratch.path().join("micro-0");
    let created = Log::create(&files, &directory, Uuid::nil(), LogConfig::default()).await;
    created.expect("the folder is empty")
}

/// What a produce does to a partition: validate, then append.
async fn append_one(log: &Log, batch: &Bytes, now_ms: i64) {
    let header = batch::validate(black_box(batch), &LIMITS).expect("the batch is valid");
    let time = AppendTime {
        now_ms,
        timestamp_type: TimestampType::CreateTime,
    };
    let batch = AppendBatch {
        header,
        bytes: batch.clone(),
    };
    let appended = log.append(vec![batch], 0, time).await;
    black_box(appended.expect("the disk takes it"));
}

/// The time of `count` appends, without that of the logs' creation and removal.
async fn append_many(io: Io, batch: Bytes, count: u64) -> Duration {
    let per_log = (LOG_BYTES_MAX / batch.len() as u64).max(1);
    let mut left = count;
    let mut took = Duration::ZERO;
    while left > 0 {
        let scratch = Scratch::new();
        let log = create(&io, &scratch).await;
        let now = left.min(per_log);
        let began = Instant::now();
        for _ in 0..now {
            append_one(&log, &batch, TIMESTAMP_MS).await;
        }
        took += began.elapsed();
        left -= now;
    }
    took
}

/// Page-cache appends, one after the other.
pub(crate) fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    for (driver, kind) in drivers() {
        for (name, batch) in batches() {
            group.throughput(Throughput::Bytes(batch.len() as u64));
            group.bench_function(BenchmarkId::new(driver, name), |bencher| {
                bencher.iter_custom(|count| {
                    let batch = batch.clone();
                    on_shard(kind, |io| append_many(io, batch, count))
                });
            });
        }
    }
    group.finish();
}

/// Base offset of a batch of the log that is read.
fn offset_of(batch: i64) -> i64 {
    batch * RECORDS_PER_BATCH as i64
}

/// A log of 64 MB with an index entry for every batch, on a shard that stays.
struct Filled {
    io: Io,
    log: Rc<Log>,
    /// After the log, which has it open.
    _scratch: Scratch,
}

impl Filled {
    fn new(kind: DriverKind) -> Self {
        let io = Io::new(kind).expect("the driver could be had a moment ago");
        let scratch = Scratch::new();
        let inside = io.clone();
        let (log, scratch) = io.block_on(async move {
            let log = create(&inside, &scratch).await;
            for number in 0..BATCHES {
                let batch = batch_at(TIMESTAMP_MS + number, RECORDS_PER_BATCH, 1024);
                append_one(&log, &batch, TIMESTAMP_MS + number).await;
            }
            (log, scratch)
        });
        let log = Rc::new(log);
        Self {
            io,
            log,
            _scratch: scratch,
        }
    }

    /// The time of `count` calls of `look`, each for another batch of the `range`.
    fn time<F: Future<Output = ()>>(
        &self,
        count: u64,
        range: std::ops::Range<i64>,
        look: impl Fn(Rc<Log>, i64) -> F + 'static,
    ) -> Duration {
        let log = self.log.clone();
        self.io.block_on(async move {
            let began = Instant::now();
            let mut at = 0;
            for _ in 0..count {
                // A step that meets all batches in an order that no read-ahead foresees.
                at = (at + 2_654_435_761) % (range.end - range.start);
                look(log.clone(), range.start + at).await;
            }
            began.elapsed()
        })
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        self.io.clear_tasks();
    }
}

/// From an offset, and from a timestamp, to a place in the segment.
pub(crate) fn index(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("index");
    for (driver, kind) in drivers() {
        let filled = Filled::new(kind);
        group.bench_function(
            BenchmarkId::new("position of an offset", driver),
            |bencher| {
                bencher.iter_custom(|count| {
                    filled.time(count, 0..BATCHES, |log, batch| async move {
                        let found = log.position_of(offset_of(batch) + 7).await;
                        black_box(found.expect("the offset is in the log"));
                    })
                });
            },
        );
        group.bench_function(
            BenchmarkId::new("offset of a timestamp", driver),
            |bencher| {
                bencher.iter_custom(|count| {
                    filled.time(count, 0..BATCHES, |log, batch| async move {
                        let found = log.offset_for_timestamp(TIMESTAMP_MS + batch).await;
                        black_box(found.expect("the index leads there"));
                    })
                });
            },
        );
    }
    group.finish();
}

/// The slice that answers a fetch; sendfile(2) is not in it.
pub(crate) fn fetch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fetch");
    let places = [
        ("slice at the tail", BATCHES - 32..BATCHES),
        ("slice by the index", 0..BATCHES - 100),
    ];
    for (driver, kind) in drivers() {
        let filled = Filled::new(kind);
        for (name, range) in &places {
            group.bench_function(BenchmarkId::new(*name, driver), |bencher| {
                bencher.iter_custom(|count| {
                    filled.time(count, range.clone(), |log, batch| async move {
                        let (offset, end) = (offset_of(batch), log.end_position());
                        let slice = log.read(offset, FETCH_BYTES, end, true).await;
                        let slice = slice.expect("the offset is in the log");
                        assert!(slice.is_some_and(|slice| slice.first_offset == offset));
                    })
                });
            });
        }
    }
    group.finish();
}
