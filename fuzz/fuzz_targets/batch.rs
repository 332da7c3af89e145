//! Record batches and message sets as a producer may send them or a disk return them.
//!
//! Checksums are put right first, or nothing behind them would ever be reached. Fails on a panic, on
//! a codec that goes beyond its limit, on a batch that changes when it should not, and on a
//! conversion whose result our own validation refuses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringlog_engine::record::batch::{Batch, ProduceLimits, crc32c, iterate, patch, validate};
use ringlog_engine::record::conversion::{
    ConversionLimits, down_convert, is_message_set, up_convert,
};
use ringlog_engine::record::{BatchHeader, BatchReader};

const DECOMPRESSED_BYTES_MAX: usize = 1 << 20;

const PRODUCE_LIMITS: ProduceLimits = ProduceLimits {
    batch_bytes_max: 1 << 20,
    zstd_allowed: true,
};

const CONVERSION_LIMITS: ConversionLimits = ConversionLimits {
    bytes_max: 1 << 20,
    decompressed_bytes_max: DECOMPRESSED_BYTES_MAX,
};

fuzz_target!(|input: &[u8]| {
    let bytes = with_right_checksums(input);
    for batch in iterate(&bytes) {
        let Ok(batch) = batch else {
            break;
        };
        read(&batch);
        if let Ok(header) = validate(batch.bytes, &PRODUCE_LIMITS) {
            append(&header, batch.bytes);
        }
    }
    for magic in [0, 1] {
        let _ = down_convert(&bytes, magic, 0, &CONVERSION_LIMITS);
    }
    if is_message_set(&bytes)
        && let Ok(batches) = up_convert(&bytes, &CONVERSION_LIMITS)
    {
        for batch in batches {
            validate(&batch, &PRODUCE_LIMITS).expect("a converted batch may be appended");
            let header = BatchHeader::parse(&batch).expect("just validated");
            let reader = BatchReader::open(&batch, usize::MAX).expect("a converted batch opens");
            let records = reader.records().map(|record| record.expect("is whole"));
            assert_eq!(records.count(), header.record_count as usize);
        }
    }
});

/// All records, which lie within the batch's offsets.
fn read(batch: &Batch<'_>) {
    let Ok(reader) = BatchReader::open(batch.bytes, DECOMPRESSED_BYTES_MAX) else {
        return;
    };
    for record in reader.records().flatten() {
        if batch.header.magic == 2 && batch.header.last_offset() < i64::MAX {
            assert!(batch.header.base_offset <= record.offset);
            assert!(record.offset <= batch.header.last_offset());
        }
    }
}

/// What an append changes lies outside the checksum and leaves the rest alone.
fn append(header: &BatchHeader, bytes: &[u8]) {
    let mut appended = bytes.to_vec();
    patch(&mut appended, 1 << 40, 7);
    let after = BatchHeader::parse(&appended).expect("it parsed before");
    after
        .check_crc(&appended)
        .expect("the checksum covers neither");
    let expected = BatchHeader {
        base_offset: 1 << 40,
        partition_leader_epoch: 7,
        ..*header
    };
    assert_eq!(after, expected);
}

/// Entries of magic 0 and 1 have CRC-32 from byte 16 at 12, those of magic 2 CRC-32C from byte 21
/// at 17.
fn with_right_checksums(input: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    let mut positions = Vec::new();
    let mut batches = iterate(input);
    loop {
        let start = batches.position();
        match batches.next() {
            Some(Ok(batch)) => positions.push((start, batch.bytes.len(), batch.header.magic)),
            Some(Err(_)) | None => break,
        }
    }
    for (start, size, magic) in positions {
        let batch = &mut bytes[start..start + size];
        if magic == 2 {
            let crc = crc32c(&batch[21..]);
            batch[17..21].copy_from_slice(&crc.to_be_bytes());
        } else {
            let crc = crc32fast::hash(&batch[16..]);
            batch[12..16].copy_from_slice(&crc.to_be_bytes());
        }
    }
    bytes
}
