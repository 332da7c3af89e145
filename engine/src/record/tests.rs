//! Tests of all record formats: round trips, bytes of other writers, and damage of every kind.
#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test that is wrong about its own bytes shall panic"
)]

mod damage;
mod vectors;

use bytes::BytesMut;

use super::batch::{HEADER_BYTES, crc32c, iterate, patch, patch_timestamp_type, validate};
use super::builder::TransactionMarker;
use super::compression::{Lz4HeaderChecksum, compress, compress_lz4, decompress};
use super::conversion::{ConversionLimits, down_convert, is_message_set, up_convert};
use super::*;
use vectors::{BY_HAND, KAFKA_PYTHON, unhex};

const MIB: usize = 1 << 20;
const PRODUCE: ProduceLimits = ProduceLimits {
    batch_bytes_max: MIB,
    zstd_allowed: true,
};
const CONVERSION: ConversionLimits = ConversionLimits {
    bytes_max: MIB,
    decompressed_bytes_max: MIB,
};
const NOW: i64 = 1_500_000_000_000;

/// The owned records of every batch or entry, in order.
fn read_all(bytes: &[u8]) -> Result<Vec<OwnedRecord>, BatchError> {
    let mut all = Vec::new();
    for batch in iterate(bytes) {
        let batch = batch?;
        let reader = BatchReader::open(batch.bytes, MIB)?;
        for record in reader.records() {
            let record = record?;
            all.push(OwnedRecord {
                offset: record.offset,
                timestamp: record.timestamp,
                key: record.key.map(<[u8]>::to_vec),
                value: record.value.map(<[u8]>::to_vec),
                headers: record.headers.len(),
            });
        }
    }
    Ok(all)
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct OwnedRecord {
    offset: i64,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: usize,
}

fn owned(offset: i64, timestamp: i64, key: Option<&str>, value: Option<&str>) -> OwnedRecord {
    OwnedRecord {
        offset,
        timestamp,
        key: key.map(|key| key.as_bytes().to_vec()),
        value: value.map(|value| value.as_bytes().to_vec()),
        headers: 0,
    }
}

/// What the vectors of kafka-python hold.
fn expected(magic: i8, codec: u8) -> Vec<OwnedRecord> {
    let two = "two".repeat(12);
    let mut records = vec![
        owned(0, NOW, Some("k"), Some("one")),
        owned(1, NOW + 1, None, Some(&two)),
        owned(2, NOW + 2, Some("k"), None),
    ];
    match (magic, codec) {
        (0, _) => records
            .iter_mut()
            .for_each(|record| record.timestamp = NO_TIMESTAMP),
        (2, _) => {
            records[0].headers = 2;
            records[2].timestamp = NOW - 1;
        }
        _ => {}
    }
    records
}

/// `count` records with keys, values, tombstones, headers and falling timestamps.
fn sample(builder: BatchBuilder, count: i64) -> BytesMut {
    let mut builder = builder;
    for index in 0..count {
        let key = format!("key-{index}");
        let value = format!("value {index} ").repeat(index as usize % 50);
        let headers = [
            Header {
                key: b"trace",
                value: Some(b"1234"),
            },
            Header {
                key: b"",
                value: None,
            },
        ];
        let key = (index % 3 != 0).then_some(key.as_bytes());
        let value = (index % 5 != 0).then_some(value.as_bytes());
        builder
            .append(NOW - index, key, value, &headers[..index as usize % 3])
            .unwrap();
    }
    builder.build().unwrap()
}

#[test]
fn header_of_a_batch_made_by_hand() {
    let bytes = unhex(BY_HAND);
    let header = validate(&bytes, &PRODUCE).unwrap();
    assert_eq!(header.base_offset, 5);
    assert_eq!(header.partition_leader_epoch, 3);
    assert_eq!((header.last_offset(), header.next_offset()), (5, 6));
    assert_eq!(header.size_in_bytes(), bytes.len());
    assert_eq!((header.base_timestamp, header.max_timestamp), (10, 10));
    assert_eq!(header.compression(), Ok(Compression::None));
    assert_eq!(header.timestamp_type(), TimestampType::CreateTime);
    assert!(!header.is_transactional() && !header.is_control() && !header.has_producer_id());
    assert_eq!(
        (header.last_sequence(), header.delete_horizon_ms()),
        (NO_SEQUENCE, None)
    );
    let reader = BatchReader::open(&bytes, 0).unwrap();
    let records: Vec<_> = reader.records().map(Result::unwrap).collect();
    let headers = vec![Header {
        key: b"a",
        value: Some(b"b"),
    }];
    let record = Record {
        offset: 5,
        timestamp: 10,
        key: Some(b"k"),
        value: None,
        headers,
    };
    assert_eq!(records, std::slice::from_ref(&record));

    let mut builder = BatchBuilder::new(Compression::None)
        .base_offset(5)
        .partition_leader_epoch(3);
    builder.append_record(&record).unwrap();
    assert_eq!(builder.size_in_bytes(), bytes.len());
    assert_eq!(builder.build().unwrap(), bytes);
}

#[test]
fn bytes_of_kafka_python_are_read() {
    for (magic, codec, hex) in KAFKA_PYTHON {
        let bytes = unhex(hex);
        for batch in iterate(&bytes) {
            let batch = batch.unwrap();
            assert_eq!(batch.header.magic, magic);
            assert_eq!(batch.header.compression().unwrap().id(), codec);
            batch.header.check_crc(batch.bytes).unwrap();
        }
        assert_eq!(
            read_all(&bytes).unwrap(),
            expected(magic, codec),
            "{magic} {codec}"
        );
        if magic == 2 {
            let header = validate(&bytes, &PRODUCE).unwrap();
            assert_eq!((header.producer_id, header.producer_epoch), (4660, 7));
            assert_eq!((header.base_sequence, header.last_sequence()), (9, 11));
            assert_eq!(header.max_timestamp, NOW + 1);
            assert!(header.is_transactional());
        } else {
            let error = validate(
                &bytes[..iterate(&bytes).next().unwrap().unwrap().bytes.len()],
                &PRODUCE,
            );
            assert_eq!(error.unwrap_err().code(), 87);
        }
    }
}

#[test]
fn uncompressed_builder_writes_the_bytes_of_kafka_python() {
    let (_, _, hex) = KAFKA_PYTHON[8];
    let two = b"two".repeat(12);
    let headers = [
        Header {
            key: b"h",
            value: Some(b"v"),
        },
        Header {
            key: b"h",
            value: None,
        },
    ];
    let mut builder = BatchBuilder::new(Compression::None)
        .partition_leader_epoch(0)
        .producer(4660, 7, 9)
        .transactional();
    builder
        .append(NOW, Some(b"k"), Some(b"one"), &headers)
        .unwrap();
    builder.append(NOW + 1, None, Some(&two), &[]).unwrap();
    builder.append(NOW - 1, Some(b"k"), None, &[]).unwrap();
    assert_eq!(builder.build().unwrap(), unhex(hex));
}

#[test]
fn crcs_agree_on_random_inputs() {
    let mut random = damage::Random::from_seed_printed("crcs");
    for _ in 0..2000 {
        let length = random.below(5000);
        let bytes = random.bytes(length);
        assert_eq!(crc32c(&bytes), ::crc32c::crc32c(&bytes), "{length} bytes");
        let mut zlib = flate2::Crc::new();
        zlib.update(&bytes);
        assert_eq!(
            crc_fast::crc32_iso_hdlc(&bytes),
            zlib.sum(),
            "{length} bytes"
        );
    }
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn round_trip_of_every_codec() {
    for codec in Compression::ALL {
        assert_eq!(Compression::from_name(codec.name()), Some(codec));
        for count in [1, 2, 100, 3000] {
            let producer = BatchBuilder::new(codec)
                .base_offset(1 << 40)
                .producer(7, 1, i32::MAX);
            let bytes = sample(producer, count);
            let header = validate(&bytes, &PRODUCE).unwrap();
            assert_eq!(i64::from(header.record_count), count);
            assert_eq!(header.next_offset(), (1 << 40) + count);
            assert_eq!(header.max_timestamp, NOW);
            let wrapped = (i64::from(i32::MAX) + count - 1) & i64::from(i32::MAX);
            assert_eq!(i64::from(header.last_sequence()), wrapped);
            let reader = BatchReader::open(&bytes, MIB).unwrap();
            let mut again = BatchBuilder::new(Compression::None).base_offset(1 << 40);
            for record in reader.records() {
                again.append_record(&record.unwrap()).unwrap();
            }
            assert_eq!(
                again.build().unwrap(),
                sample(
                    BatchBuilder::new(Compression::None).base_offset(1 << 40),
                    count
                )
            );
        }
    }
}

#[test]
fn patching_keeps_the_batch_valid() {
    let mut bytes = sample(BatchBuilder::new(Compression::Zstd), 10);
    patch(&mut bytes, 1000, 17);
    let header = validate(&bytes, &PRODUCE).unwrap();
    assert_eq!(
        (header.base_offset, header.partition_leader_epoch),
        (1000, 17)
    );
    assert_eq!(header.last_offset(), 1009);

    patch_timestamp_type(&mut bytes, TimestampType::LogAppendTime, 99);
    let header = BatchHeader::parse(&bytes).unwrap();
    header.check_crc(&bytes).unwrap();
    assert_eq!(header.timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!(header.max_timestamp, 99);
    assert_eq!(header.compression(), Ok(Compression::Zstd));
    assert!(
        read_all(&bytes)
            .unwrap()
            .iter()
            .all(|record| record.timestamp == 99)
    );
    assert_eq!(validate(&bytes, &PRODUCE).unwrap_err().code(), 32);

    patch_timestamp_type(&mut bytes, TimestampType::CreateTime, NOW);
    assert_eq!(validate(&bytes, &PRODUCE).unwrap().max_timestamp, NOW);
}

/// A valid batch with `change` made and the CRC set right again.
fn changed(builder: BatchBuilder, change: impl FnOnce(&mut [u8])) -> BytesMut {
    let mut bytes = sample(builder, 3);
    change(&mut bytes);
    let crc = crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

#[test]
fn validate_answers_with_kafkas_codes() {
    let plain = || BatchBuilder::new(Compression::None);
    let code = |bytes: &[u8]| validate(bytes, &PRODUCE).unwrap_err().code();
    let good = sample(plain(), 3);
    assert_eq!(code(&good[..good.len() - 1]), 2, "cut off");
    assert_eq!(code(&[&good[..], &[0]].concat()), 2, "trailing byte");
    assert_eq!(code(&[&good[..], &good[..]].concat()), 2, "two batches");
    assert_eq!(code(&[]), 2, "empty");
    assert_eq!(code(&changed(plain(), |bytes| bytes[16] = 3)), 2, "magic 3");
    assert_eq!(
        code(&changed(plain(), |bytes| bytes[16] = 0xff)),
        2,
        "magic -1"
    );
    assert_eq!(
        code(&changed(plain(), |bytes| bytes[22] = 5)),
        76,
        "codec 5"
    );
    assert_eq!(
        code(&changed(plain(), |bytes| bytes[22] = 1)),
        2,
        "gzip that is plain"
    );
    assert_eq!(
        code(&changed(plain(), |bytes| bytes[22] = 4)),
        2,
        "zstd that is plain"
    );
    assert_eq!(
        code(&changed(plain(), |bytes| bytes[22] = 0x20)),
        87,
        "control"
    );
    assert_eq!(
        code(&changed(plain(), |bytes| bytes[22] = 0x40)),
        87,
        "delete horizon"
    );
    assert_eq!(
        code(&changed(plain(), |bytes| bytes[22] = 0x10)),
        87,
        "no transactional id"
    );
    assert_eq!(
        code(&changed(plain(), |bytes| bytes[22] = 0x08)),
        32,
        "log append time"
    );
    assert_eq!(code(&changed(plain(), |bytes| bytes[60] = 4)), 87, "count");
    assert_eq!(
        code(&changed(plain(), |bytes| bytes[26] = 4)),
        87,
        "last offset delta"
    );
    assert_eq!(
        code(&changed(plain(), |bytes| bytes[23] = 0x80)),
        2,
        "negative delta"
    );
    let many = changed(plain(), |bytes| {
        bytes[23..27].copy_from_slice(&999_999i32.to_be_bytes());
        bytes[57..61].copy_from_slice(&1_000_000i32.to_be_bytes());
    });
    assert_eq!(code(&many), 87, "more records than bytes");
}

#[test]
fn validate_checks_producers_and_limits() {
    let plain = || BatchBuilder::new(Compression::None);
    let code = |bytes: &[u8]| validate(bytes, &PRODUCE).unwrap_err().code();
    let good = sample(plain(), 3);
    assert_eq!(
        code(&sample(plain().producer(7, 0, -1), 1)),
        87,
        "no sequence"
    );
    assert_eq!(code(&sample(plain().producer(7, -1, 0), 1)), 87, "no epoch");
    let limits = ProduceLimits {
        batch_bytes_max: good.len() - 1,
        zstd_allowed: true,
    };
    assert_eq!(validate(&good, &limits).unwrap_err().code(), 10);
    let limits = ProduceLimits {
        zstd_allowed: false,
        ..PRODUCE
    };
    let zstd = sample(BatchBuilder::new(Compression::Zstd), 3);
    assert_eq!(validate(&zstd, &limits).unwrap_err().code(), 76);
    validate(&good, &limits).unwrap();
}

#[test]
fn walking_stops_at_a_torn_tail() {
    let one = sample(BatchBuilder::new(Compression::None), 3);
    let two = sample(BatchBuilder::new(Compression::Lz4).base_offset(3), 2);
    let all = [&one[..], &two[..]].concat();
    let offsets: Vec<_> = iterate(&all)
        .map(|batch| batch.unwrap().header.next_offset())
        .collect();
    assert_eq!(offsets, [3, 5]);
    for cut in one.len() + 1..all.len() {
        let mut batches = iterate(&all[..cut]);
        batches.next().unwrap().unwrap();
        let error = batches.next().unwrap().unwrap_err();
        assert!(
            matches!(error, BatchError::Truncated { available, .. } if available == cut - one.len())
        );
        assert_eq!(batches.position(), one.len());
        assert!(batches.next().is_none());
    }
}

#[test]
fn compaction_keeps_gaps_ends_and_delete_horizons() {
    let mut builder = BatchBuilder::new(Compression::Gzip)
        .base_offset(100)
        .last_offset(109)
        .delete_horizon_ms(NOW + 5);
    let record = |offset| Record {
        offset,
        timestamp: NOW,
        key: Some(b"k"),
        ..Record::default()
    };
    builder.append_record(&record(102)).unwrap();
    builder.append_record(&record(107)).unwrap();
    assert_eq!(builder.append_record(&record(107)).unwrap_err().code(), 87);
    let bytes = builder.build().unwrap();
    let header = BatchHeader::parse(&bytes).unwrap();
    assert_eq!(
        (
            header.base_offset,
            header.last_offset(),
            header.record_count
        ),
        (100, 109, 2)
    );
    assert_eq!(header.delete_horizon_ms(), Some(NOW + 5));
    let expected = [
        owned(102, NOW, Some("k"), None),
        owned(107, NOW, Some("k"), None),
    ];
    assert_eq!(read_all(&bytes).unwrap(), expected);

    let empty = BatchBuilder::new(Compression::Gzip)
        .base_offset(9)
        .last_offset(12);
    let empty = empty.producer(1, 2, 3).build().unwrap();
    let header = BatchHeader::parse(&empty).unwrap();
    header.check_crc(&empty).unwrap();
    assert_eq!(
        (empty.len(), header.record_count, header.last_sequence()),
        (HEADER_BYTES, 0, 6)
    );
    assert_eq!(read_all(&empty).unwrap(), []);
    assert!(BatchBuilder::new(Compression::None).build().is_err());
}

#[test]
fn transaction_markers() {
    for marker in [TransactionMarker::Abort, TransactionMarker::Commit] {
        let bytes = marker.build(77, (9, 3), 5, NOW).unwrap();
        let header = BatchHeader::parse(&bytes).unwrap();
        assert!(header.is_control() && header.is_transactional());
        assert_eq!((header.producer_id, header.producer_epoch), (9, 3));
        let records = read_all(&bytes).unwrap();
        assert_eq!(
            TransactionMarker::from_key(records[0].key.as_ref().unwrap()),
            Some(marker)
        );
        assert_eq!(records[0].value.as_ref().unwrap(), &[0, 0, 0, 0, 0, 5]);
    }
    assert_eq!(TransactionMarker::from_key(&[0, 0, 0, 9]), None);
}

#[test]
fn decompression_stops_at_the_limit() {
    let zeros = vec![0; 4 * MIB];
    for codec in Compression::ALL {
        let mut bytes = Vec::new();
        compress(codec, &zeros, &mut bytes).unwrap();
        assert_eq!(decompress(codec, &bytes, zeros.len()).unwrap(), zeros);
        for limit in [0, 1, 65_536, zeros.len() - 1] {
            let error = decompress(codec, &bytes, limit).unwrap_err();
            assert_eq!(error.code(), 10, "{codec:?} {limit}: {error}");
        }
    }
}

#[test]
fn announced_lengths_are_not_believed() {
    let huge_snappy = [0xff, 0xff, 0xff, 0x7f, 0];
    assert_eq!(
        decompress(Compression::Snappy, &huge_snappy, usize::MAX)
            .unwrap_err()
            .code(),
        2
    );
    let xerial = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\x7f\xff\xff\xff";
    assert_eq!(
        decompress(Compression::Snappy, xerial, usize::MAX)
            .unwrap_err()
            .code(),
        2
    );
    let mut lz4 = Vec::new();
    compress(Compression::Lz4, b"abc", &mut lz4).unwrap();
    lz4[7..11].copy_from_slice(&0x8000_ffffu32.to_le_bytes());
    assert_eq!(
        decompress(Compression::Lz4, &lz4, usize::MAX)
            .unwrap_err()
            .code(),
        2
    );
}

#[test]
fn snappy_is_read_raw_and_concatenated() {
    let raw = snap::raw::Encoder::new().compress_vec(b"hello").unwrap();
    assert_eq!(decompress(Compression::Snappy, &raw, 5).unwrap(), b"hello");
    let mut stream = Vec::new();
    compress(Compression::Snappy, &[7; 100_000], &mut stream).unwrap();
    compress(Compression::Snappy, b"tail", &mut stream).unwrap();
    let all = decompress(Compression::Snappy, &stream, MIB).unwrap();
    assert_eq!((all.len(), &all[100_000..]), (100_004, &b"tail"[..]));
}

#[test]
fn lz4_frames_of_other_writers() {
    // python: lz4.frame.compress(b"ringlog " * 20000, block_size=lz4.frame.BLOCKSIZE_MAX64KB,
    //   block_linked=True, content_checksum=True, block_checksum=True, store_size=True)
    let linked = unhex(vectors::LZ4_LINKED);
    let text = b"ringlog ".repeat(20_000);
    assert_eq!(decompress(Compression::Lz4, &linked, MIB).unwrap(), text);
    for at in 0..linked.len() {
        let mut flipped = linked.clone();
        flipped[at] ^= 1;
        assert!(
            decompress(Compression::Lz4, &flipped, MIB).is_err(),
            "byte {at}"
        );
        assert!(
            decompress(Compression::Lz4, &linked[..at], MIB).is_err(),
            "prefix {at}"
        );
    }
    let mut magic0 = Vec::new();
    compress_lz4(&text, Lz4HeaderChecksum::Magic0, &mut magic0).unwrap();
    assert_eq!(decompress(Compression::Lz4, &magic0, MIB).unwrap(), text);
    magic0[6] ^= 0x55;
    assert_eq!(
        decompress(Compression::Lz4, &magic0, MIB)
            .unwrap_err()
            .code(),
        2
    );
}

#[test]
fn message_sets_become_record_batches() {
    for (magic, codec, hex) in KAFKA_PYTHON.into_iter().filter(|(magic, ..)| *magic < 2) {
        let bytes = unhex(hex);
        assert!(is_message_set(&bytes));
        let batches = up_convert(&bytes, &CONVERSION).unwrap();
        assert_eq!(batches.len(), 1);
        let header = validate(&batches[0], &PRODUCE).unwrap();
        assert_eq!(header.compression().unwrap().id(), codec);
        assert_eq!(read_all(&batches[0]).unwrap(), expected(magic, codec));
    }
}

#[test]
fn plain_runs_and_wrappers_alternate() {
    let plain = unhex(KAFKA_PYTHON[4].2);
    let gzip = unhex(KAFKA_PYTHON[5].2);
    let lz4 = unhex(KAFKA_PYTHON[7].2);
    let payload = [&plain[..], &plain[..], &gzip[..], &lz4[..], &plain[..]].concat();
    let batches = up_convert(&payload, &CONVERSION).unwrap();
    let headers: Vec<_> = batches
        .iter()
        .map(|batch| validate(batch, &PRODUCE).unwrap())
        .collect();
    let shape: Vec<_> = headers
        .iter()
        .map(|header| {
            (
                header.base_offset,
                header.record_count,
                header.compression().unwrap().id(),
            )
        })
        .collect();
    assert_eq!(shape, [(0, 6, 0), (6, 3, 1), (9, 3, 3), (12, 3, 0)]);

    let limits = ConversionLimits {
        bytes_max: 200,
        ..CONVERSION
    };
    let batches = up_convert(&plain.repeat(10), &limits).unwrap();
    assert!(batches.len() > 1 && batches.iter().all(|batch| batch.len() <= 200));
    assert_eq!(
        batches
            .iter()
            .map(|batch| read_all(batch).unwrap().len())
            .sum::<usize>(),
        30
    );
}

#[test]
fn bad_message_sets_are_refused() {
    let code = |bytes: &[u8]| up_convert(bytes, &CONVERSION).unwrap_err().code();
    let (v0, v1) = (unhex(KAFKA_PYTHON[0].2), unhex(KAFKA_PYTHON[4].2));
    assert_eq!(code(&[]), 87);
    assert_eq!(code(&[&v0[..], &v1[..]].concat()), 87, "two magics");
    assert_eq!(code(&unhex(BY_HAND)), 87, "magic 2");
    assert_eq!(code(&v1[..v1.len() - 1]), 2, "cut off");
    let gzip = unhex(KAFKA_PYTHON[5].2);
    let limits = ConversionLimits {
        bytes_max: gzip.len() - 1,
        ..CONVERSION
    };
    assert_eq!(up_convert(&gzip, &limits).unwrap_err().code(), 10);
    let limits = ConversionLimits {
        decompressed_bytes_max: 100,
        ..CONVERSION
    };
    assert_eq!(up_convert(&gzip, &limits).unwrap_err().code(), 10);
}

#[test]
fn record_batches_become_message_sets() {
    for to_magic in [0, 1] {
        for codec in [
            Compression::None,
            Compression::Gzip,
            Compression::Snappy,
            Compression::Lz4,
        ] {
            let mut builder = BatchBuilder::new(codec).base_offset(40);
            for offset in [40, 42, 43, 49] {
                let headers = vec![Header {
                    key: b"h",
                    value: None,
                }];
                let value = Some(&b"v"[..]);
                let timestamp = NOW + offset;
                let record = Record {
                    offset,
                    timestamp,
                    key: None,
                    value,
                    headers,
                };
                builder.append_record(&record).unwrap();
            }
            let bytes = builder.build().unwrap();
            let down = down_convert(&bytes, to_magic, 42, &CONVERSION).unwrap();
            assert_eq!(down.next_offset, 50);
            let first = if codec == Compression::None { 42 } else { 40 };
            let stamp = |offset: i64| {
                if to_magic == 0 {
                    NO_TIMESTAMP
                } else {
                    NOW + offset
                }
            };
            let expected: Vec<_> = [40, 42, 43, 49]
                .into_iter()
                .filter(|offset| *offset >= first)
                .map(|offset| owned(offset, stamp(offset), None, Some("v")))
                .collect();
            assert_eq!(
                read_all(&down.messages).unwrap(),
                expected,
                "{to_magic} {codec:?}"
            );
            for entry in iterate(&down.messages) {
                let entry = entry.unwrap();
                assert_eq!(entry.header.magic, to_magic);
                assert_eq!(entry.header.compression(), Ok(codec));
                entry.header.check_crc(entry.bytes).unwrap();
            }
            // And magic 1 down to magic 0.
            let again = down_convert(&down.messages, 0, 42, &CONVERSION).unwrap();
            assert!(iterate(&again.messages).all(|entry| entry.unwrap().header.magic == 0));
            assert_eq!(read_all(&again.messages).unwrap().len(), expected.len());
        }
    }
}

#[test]
fn log_append_time_survives_down_conversion() {
    for codec in [Compression::None, Compression::Lz4] {
        let bytes = sample(BatchBuilder::new(codec).log_append_time(NOW + 9), 4);
        let down = down_convert(&bytes, 1, 0, &CONVERSION).unwrap();
        let first = iterate(&down.messages).next().unwrap().unwrap();
        assert_eq!(first.header.timestamp_type(), TimestampType::LogAppendTime);
        let records = read_all(&down.messages).unwrap();
        assert_eq!(records.len(), 4);
        assert!(records.iter().all(|record| record.timestamp == NOW + 9));
    }
}

#[test]
fn down_conversion_skips_stops_and_is_bounded() {
    let plain = |offset| sample(BatchBuilder::new(Compression::None).base_offset(offset), 10);
    let zstd = sample(BatchBuilder::new(Compression::Zstd).base_offset(10), 1);
    let marker = TransactionMarker::Commit.build(0, (1, 1), 1, NOW).unwrap();

    let only_marker = down_convert(&marker, 1, 0, &CONVERSION).unwrap();
    assert!(only_marker.messages.is_empty());
    assert_eq!(only_marker.next_offset, 1);

    assert_eq!(
        down_convert(&zstd, 1, 10, &CONVERSION).unwrap_err().code(),
        76
    );
    let mixed = [&plain(0)[..], &zstd[..], &plain(11)[..]].concat();
    let down = down_convert(&mixed, 1, 0, &CONVERSION).unwrap();
    assert_eq!(
        (read_all(&down.messages).unwrap().len(), down.next_offset),
        (10, 10)
    );
    let past = down_convert(&mixed, 1, 11, &CONVERSION).unwrap();
    assert_eq!(
        (read_all(&past.messages).unwrap().len(), past.next_offset),
        (10, 21)
    );

    let all = [&plain(0)[..], &plain(10)[..]].concat();
    let torn = down_convert(&all[..all.len() - 1], 0, 0, &CONVERSION).unwrap();
    assert_eq!(
        (read_all(&torn.messages).unwrap().len(), torn.next_offset),
        (10, 10)
    );
    for bytes_max in 0..1000 {
        let limits = ConversionLimits {
            bytes_max,
            ..CONVERSION
        };
        let down = down_convert(&all, 1, 5, &limits).unwrap();
        let records = read_all(&down.messages).unwrap();
        assert!(records.len() == 1 || down.messages.len() <= bytes_max);
        assert_eq!(records.first().unwrap().offset, 5);
        assert_eq!(records.last().unwrap().offset + 1, down.next_offset);
    }
}
