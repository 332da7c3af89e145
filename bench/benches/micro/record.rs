//! Checksum, header, validation of a batch, building one.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use ringlog_engine::record::batch::{self, BatchHeader, ProduceLimits, crc32c};

use crate::fixture::batch_of;

const SIZES: [usize; 3] = [1 << 10, 16 << 10, 256 << 10];
const LIMITS: ProduceLimits = ProduceLimits {
    batch_bytes_max: 1 << 20,
    zstd_allowed: true,
};

fn batch_of_bytes(bytes: usize) -> bytes::Bytes {
    batch_of((bytes / 1024).max(1), 1000)
}

/// Both crates: `crc-fast` is what validation uses.
pub(crate) fn crc(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("crc32c");
    for size in SIZES {
        let bytes = vec![0x5a; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("crc-fast", size), |bencher| {
            bencher.iter(|| crc32c(black_box(&bytes)));
        });
        group.bench_function(BenchmarkId::new("crc32c", size), |bencher| {
            bencher.iter(|| crc32c::crc32c(black_box(&bytes)));
        });
    }
    group.finish();
}

/// What a produce does to a batch before the log has it, and what a producer does.
pub(crate) fn batches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch");
    for size in SIZES {
        let bytes = batch_of_bytes(size);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::new("validate", size), |bencher| {
            bencher.iter(|| batch::validate(black_box(&bytes), &LIMITS));
        });
        group.bench_function(BenchmarkId::new("build", size), |bencher| {
            bencher.iter(|| batch_of_bytes(black_box(size)));
        });
    }
    let bytes = batch_of_bytes(16 << 10);
    group.throughput(Throughput::Elements(1));
    group.bench_function("header", |bencher| {
        bencher.iter(|| BatchHeader::parse(black_box(&bytes)));
    });
    let mut patched = bytes.to_vec();
    group.bench_function("patch", |bencher| {
        bencher.iter(|| batch::patch(black_box(&mut patched), 42, 7));
    });
    group.finish();
}
