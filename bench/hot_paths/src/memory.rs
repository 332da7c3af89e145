//! Loops in memory: checksum, validation, building, conversion, codecs.

use std::hint::black_box;
use std::path::Path;

use bytes::Bytes;
use ringlog_engine::record::batch::{self, crc32c};
use ringlog_engine::record::compression::{compress, decompress};
use ringlog_engine::record::conversion::{ConversionLimits, down_convert, up_convert};
use ringlog_engine::record::{BatchReader, Compression};

use crate::{LIMITS, batch_1, batch_16k, batch_of};

const BYTES_MAX: usize = 1 << 20;
const CONVERSION: ConversionLimits = ConversionLimits {
    bytes_max: BYTES_MAX,
    decompressed_bytes_max: BYTES_MAX,
};

pub(crate) fn crc(_: &Path, count: u64) {
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

pub(crate) fn validate_1(_: &Path, count: u64) {
    validate(&batch_1(), count);
}

pub(crate) fn validate_16k(_: &Path, count: u64) {
    validate(&batch_16k(), count);
}

pub(crate) fn build_16k(_: &Path, count: u64) {
    for _ in 0..count {
        black_box(batch_16k());
    }
}

pub(crate) fn read_records(_: &Path, count: u64) {
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

pub(crate) fn up_convert_10(_: &Path, count: u64) {
    let old = down_convert(&batch_of(10, 100), 1, 0, &CONVERSION).expect("the batch is valid");
    for _ in 0..count {
        black_box(up_convert(black_box(&old.messages), &CONVERSION)).expect("the set is valid");
    }
}

pub(crate) fn down_convert_10(_: &Path, count: u64) {
    let batch = batch_of(10, 100);
    for _ in 0..count {
        let converted = down_convert(black_box(&batch), 1, 0, &CONVERSION);
        black_box(converted).expect("the batch is valid");
    }
}

/// What the gate must find: the bytes are copied before they are validated.
pub(crate) fn validate_16k_copied(_: &Path, count: u64) {
    let batch = batch_16k();
    let mut copy = batch.to_vec();
    for _ in 0..count {
        copy.copy_from_slice(black_box(&batch));
        black_box(batch::validate(black_box(&copy), &LIMITS)).expect("the batch is valid");
    }
}

/// Lines that are alike but not the same, as events are.
fn json() -> Vec<u8> {
    let mut text = Vec::new();
    for number in 0_u64.. {
        if text.len() >= 16 << 10 {
            break;
        }
        let user = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44;
        let line = format!(r#"{{"number":{number},"user":"u{user}","action":"view","ok":true}}"#);
        text.extend_from_slice(line.as_bytes());
    }
    text.truncate(16 << 10);
    text
}

fn packed(codec: Compression, plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    compress(codec, plain, &mut out).expect("codecs take all bytes");
    out
}

fn compress_many(codec: Compression, count: u64) {
    let plain = json();
    for _ in 0..count {
        black_box(packed(codec, black_box(&plain)));
    }
}

fn decompress_many(codec: Compression, count: u64) {
    let packed = packed(codec, &json());
    for _ in 0..count {
        let plain = decompress(codec, black_box(&packed), BYTES_MAX);
        assert_eq!(
            black_box(plain.expect("it was just compressed")).len(),
            16 << 10
        );
    }
}

pub(crate) fn compress_gzip(_: &Path, count: u64) {
    compress_many(Compression::Gzip, count);
}

pub(crate) fn compress_snappy(_: &Path, count: u64) {
    compress_many(Compression::Snappy, count);
}

pub(crate) fn compress_lz4(_: &Path, count: u64) {
    compress_many(Compression::Lz4, count);
}

pub(crate) fn compress_zstd(_: &Path, count: u64) {
    compress_many(Compression::Zstd, count);
}

pub(crate) fn decompress_gzip(_: &Path, count: u64) {
    decompress_many(Compression::Gzip, count);
}

pub(crate) fn decompress_snappy(_: &Path, count: u64) {
    decompress_many(Compression::Snappy, count);
}

pub(crate) fn decompress_lz4(_: &Path, count: u64) {
    decompress_many(Compression::Lz4, count);
}

pub(crate) fn decompress_zstd(_: &Path, count: u64) {
    decompress_many(Compression::Zstd, count);
}
