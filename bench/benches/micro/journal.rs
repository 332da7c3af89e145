//! A group commit: entries into the journal, and the wait until they are on stable storage.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use ringlog_engine::io::Io;
use ringlog_engine::journal::{Append, Journal, JournalOptions};
use uuid::Uuid;

use crate::fixture::{Scratch, batches, drivers, on_shard};

const ENTRIES: [i32; 3] = [1, 16, 256];

/// Small, so that a bench soon goes round in written files, as a broker does.
fn options(scratch: &Scratch) -> JournalOptions {
    JournalOptions {
        file_bytes: 4 << 20,
        ring_bytes: 32 << 20,
        ..JournalOptions::new(scratch.path(), 0)
    }
}

/// The time of `count` groups, each waited for. Segments are not part of it: a checkpoint is only
/// declared.
async fn commit(io: Io, batch: Bytes, entries: i32, count: u64) -> Duration {
    let scratch = Scratch::new();
    let opened = Journal::open(&io, options(&scratch)).await;
    let journal = opened.expect("the folder is empty");
    let buffers = [batch];
    let bytes = buffers[0].len() * usize::try_from(entries).unwrap_or(1);
    let began = Instant::now();
    for number in 0..count {
        let reserved = journal.reserve(bytes).await;
        let reservation = reserved.expect("the journal is open");
        let mut last = journal.durable_lsn();
        for partition in 0..entries {
            let append = Append {
                topic_id: Uuid::nil(),
                partition,
                segment_base: 0,
                position: number * buffers[0].len() as u64,
                buffers: black_box(&buffers),
            };
            last = journal.append(&append).expect("the journal is open");
        }
        drop(reservation);
        journal.durable(last).await.expect("the disk takes it");
        if journal.needs_checkpoint() {
            journal.finish_checkpoint(journal.start_checkpoint());
        }
    }
    let took = began.elapsed();
    journal.finish_checkpoint(journal.start_checkpoint());
    journal.close().await.expect("the disk takes it");
    took
}

/// Groups of entries, of one record each and of 16 KiB each, by driver.
pub(crate) fn groups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal");
    for (driver, kind) in drivers() {
        for (name, batch) in batches() {
            for entries in ENTRIES {
                let bytes = batch.len() as u64 * u64::from(entries.unsigned_abs());
                group.throughput(Throughput::Bytes(bytes));
                let what = format!("{driver}, entries of {name}");
                group.bench_function(BenchmarkId::new(what, entries), |bencher| {
                    bencher.iter_custom(|count| {
                        let batch = batch.clone();
                        on_shard(kind, |io| commit(io, batch, entries, count))
                    });
                });
            }
        }
    }
    group.finish();
}
