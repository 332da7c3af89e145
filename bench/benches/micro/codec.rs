//! The codecs on 16 KiB of JSON, and old message sets to batches and back.

use std::fmt::Write;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use ringlog_engine::record::Compression;
use ringlog_engine::record::compression::{compress, decompress};
use ringlog_engine::record::conversion::{ConversionLimits, down_convert, up_convert};

use crate::fixture::batch_of;

const BYTES_MAX: usize = 1 << 20;
const LIMITS: ConversionLimits = ConversionLimits {
    bytes_max: BYTES_MAX,
    decompressed_bytes_max: BYTES_MAX,
};

/// Lines that are alike but not the same, as events are.
fn json(bytes: usize) -> Vec<u8> {
    let mut text = String::new();
    let mut number = 0_u64;
    while text.len() < bytes {
        let user = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44;
        let line = write!(
            text,
            r#"{{"number":{number},"user":"u{user}","action":"view","ok":true}}"#
        );
        line.expect("a String takes everything");
        number += 1;
    }
    text.truncate(bytes);
    text.into_bytes()
}

/// Throughput is that of the plain bytes, both ways.
pub(crate) fn compression(criterion: &mut Criterion) {
    let plain = json(16 << 10);
    let codecs = Compression::ALL;
    let codecs = codecs.iter().filter(|codec| **codec != Compression::None);
    for codec in codecs.copied() {
        let mut packed = Vec::new();
        compress(codec, &plain, &mut packed).expect("codecs take all bytes");
        let mut group = criterion.benchmark_group("compress");
        group.throughput(Throughput::Bytes(plain.len() as u64));
        group.bench_function(codec.name(), |bencher| {
            let mut out = Vec::with_capacity(plain.len());
            bencher.iter(|| {
                out.clear();
                compress(codec, black_box(&plain), &mut out)
            });
        });
        group.finish();
        let mut group = criterion.benchmark_group("decompress");
        group.throughput(Throughput::Bytes(plain.len() as u64));
        group.bench_function(codec.name(), |bencher| {
            bencher.iter(|| decompress(codec, black_box(&packed), BYTES_MAX));
        });
        group.finish();
        let unpacked = decompress(codec, &packed, BYTES_MAX);
        assert_eq!(unpacked.as_ref(), Ok(&plain), "{}", codec.name());
    }
}

/// A message set of 100 messages becoming a batch (a produce of the 0.10 era), and a batch a message
/// set (its fetch).
pub(crate) fn conversion(criterion: &mut Criterion) {
    let batch = batch_of(100, 100);
    let mut group = criterion.benchmark_group("convert");
    for magic in [0, 1] {
        let set = down_convert(&batch, magic, 0, &LIMITS).expect("the batch is valid");
        let set = set.messages;
        group.throughput(Throughput::Bytes(set.len() as u64));
        group.bench_function(BenchmarkId::new("magic to 2 from", magic), |bencher| {
            bencher.iter(|| up_convert(black_box(&set), &LIMITS));
        });
        group.throughput(Throughput::Bytes(batch.len() as u64));
        group.bench_function(BenchmarkId::new("magic from 2 to", magic), |bencher| {
            bencher.iter(|| down_convert(black_box(&batch), magic, 0, &LIMITS));
        });
    }
    group.finish();
}
