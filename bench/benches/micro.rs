//! In-process costs of the hot path's parts: checksum, header, validation of a batch, building one.
//!
//! `cargo bench -p ringlog-bench --bench micro`; with `--test` each runs once.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringlog_engine::record::batch::{self, BatchHeader, ProduceLimits, crc32c};
use ringlog_engine::record::{BatchBuilder, Compression};

const SIZES: [usize; 3] = [1 << 10, 16 << 10, 256 << 10];

fn batch_of(bytes: usize) -> Vec<u8> {
    let value = [0xa5; 1000];
    let mut builder = BatchBuilder::new(Compression::None);
    loop {
        let appended = builder.append(1_700_000_000_000, None, Some(&value), &[]);
        appended.expect("a record of 1000 bytes is not too large");
        if builder.size_in_bytes() + value.len() > bytes {
            return builder.build().expect("it has a record").to_vec();
        }
    }
}

fn crc(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("crc32c");
    for size in SIZES {
        let bytes = vec![0x5a; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(
            BenchmarkId::new("crc-fast", size),
            &bytes,
            |bencher, bytes| {
                bencher.iter(|| crc32c(black_box(bytes)));
            },
        );
        group.bench_with_input(
            BenchmarkId::new("crc32c", size),
            &bytes,
            |bencher, bytes| {
                bencher.iter(|| crc32c::crc32c(black_box(bytes)));
            },
        );
    }
    group.finish();
}

fn batches(criterion: &mut Criterion) {
    let limits = ProduceLimits {
        batch_bytes_max: 1 << 20,
        zstd_allowed: true,
    };
    let mut group = criterion.benchmark_group("batch");
    for size in SIZES {
        let bytes = batch_of(size);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_with_input(
            BenchmarkId::new("validate", size),
            &bytes,
            |bencher, bytes| {
                bencher.iter(|| batch::validate(black_box(bytes), &limits));
            },
        );
        group.bench_function(BenchmarkId::new("build", size), |bencher| {
            bencher.iter(|| batch_of(black_box(size)));
        });
    }
    let bytes = batch_of(16 << 10);
    group.throughput(Throughput::Elements(1));
    group.bench_function("header", |bencher| {
        bencher.iter(|| BatchHeader::parse(black_box(&bytes)));
    });
    let mut patched = bytes.clone();
    group.bench_function("patch", |bencher| {
        bencher.iter(|| batch::patch(black_box(&mut patched), 42, 7));
    });
    group.finish();
}

criterion_group!(micro, crc, batches);
criterion_main!(micro);
