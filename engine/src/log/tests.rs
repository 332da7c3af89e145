//! Tests of the log on the poll driver, in a temporary directory.

mod cold;
mod compaction;
mod format;
mod power_loss;
mod recovery;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use uuid::Uuid;

use super::directory::{SegmentFileKind, segment_path};
use super::*;
use crate::io::{DriverKind, OpenMode};
use crate::record::{BatchBuilder, BatchHeader, Compression, TimestampType};

pub(super) const TOPIC_ID: Uuid = Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);

/// A directory that goes away with the test.
pub(super) struct Place(pub(super) PathBuf);

impl Place {
    pub(super) fn new() -> Place {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringlog-log-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Place(path)
    }

    pub(super) fn partition(&self) -> PathBuf {
        self.0.join("t-0")
    }

    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.partition())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a test on the poll driver.
pub(super) fn run<F: Future<Output = ()> + 'static>(test: impl FnOnce(SegmentFiles) -> F) {
    let io = Io::new(DriverKind::Poll).unwrap();
    let files = SegmentFiles::new(&io, 8, 1 << 20);
    let done = Rc::new(Cell::new(false));
    let is_done = done.clone();
    let test = test(files);
    io.spawn(async move {
        test.await;
        is_done.set(true);
    });
    while !done.get() {
        io.turn(false);
        std::thread::yield_now();
    }
}

/// A small generator; the seed is printed by the tests that use it.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

pub(super) fn seed() -> u64 {
    let seed = std::env::var("RINGLOG_SEED").ok();
    let seed = seed.map_or(0x5eed_1234, |seed| seed.parse().unwrap());
    eprintln!("RINGLOG_SEED={seed}");
    seed
}

pub(super) fn small() -> LogConfig {
    LogConfig {
        segment_bytes: 4096,
        index_interval_bytes: 300,
        ..LogConfig::default()
    }
}

/// One batch with a record for each timestamp.
pub(super) fn batch(timestamps: &[i64], value_bytes: usize) -> AppendBatch {
    let mut builder = BatchBuilder::new(Compression::None);
    for timestamp in timestamps {
        let value = vec![b'v'; value_bytes];
        builder
            .append(*timestamp, Some(b"k"), Some(&value), &[])
            .unwrap();
    }
    let bytes = builder.build().unwrap().freeze();
    let header = BatchHeader::parse(&bytes).unwrap();
    AppendBatch { header, bytes }
}

pub(super) fn at(now_ms: i64) -> AppendTime {
    AppendTime {
        now_ms,
        timestamp_type: TimestampType::CreateTime,
    }
}

pub(super) async fn append(log: &Log, timestamps: &[i64], value_bytes: usize) -> Appended {
    log.append(vec![batch(timestamps, value_bytes)], 7, at(1000))
        .await
        .unwrap()
}

pub(super) fn clean(recovery_point: i64) -> Opening {
    Opening {
        clean: true,
        recovery_point,
        log_start_offset: None,
        compacts_below_recovery_point: false,
        accept_loss: false,
    }
}

pub(super) fn unclean(recovery_point: i64) -> Opening {
    Opening {
        clean: false,
        ..clean(recovery_point)
    }
}

pub(super) async fn open(
    files: &SegmentFiles,
    directory: &Path,
    opening: Opening,
) -> Result<(Log, Recovery), LogError> {
    Log::open(files, directory, small(), opening, &mut |_, _| {}).await
}

/// All bytes that reads of `max_bytes` give from `offset` on.
pub(super) async fn read_all(log: &Log, mut offset: i64, max_bytes: u32) -> Vec<BatchHeader> {
    let mut headers = Vec::new();
    let end = log.end_position();
    while let Some(slice) = log.read(offset, max_bytes, end, true).await.unwrap() {
        let bytes = slice_bytes(log, &slice).await;
        let mut progress = false;
        for batch in crate::record::batch::iterate(&bytes) {
            let Ok(batch) = batch else { break };
            batch.header.check_crc(batch.bytes).unwrap();
            if batch.header.last_offset() >= offset {
                offset = batch.header.next_offset();
                headers.push(batch.header);
            }
            progress = true;
        }
        assert!(progress, "{slice:?} has no batch");
    }
    assert_eq!(offset, end.offset);
    headers
}

pub(super) async fn slice_bytes(log: &Log, slice: &FileSlice) -> Bytes {
    let length = slice.length as usize;
    let bytes = log
        .io()
        .read_at(&slice.file, bytes::BytesMut::new(), slice.position, length)
        .await
        .unwrap();
    assert_eq!(bytes.len(), length);
    bytes.freeze()
}

#[test]
fn what_is_appended_is_read_back_in_order() {
    let place = Place::new();
    let path = place.partition();
    run(|files| async move {
        let log = Log::create(&files, &path, TOPIC_ID, small()).await.unwrap();
        assert_eq!(log.end_position().offset, 0);
        let mut expected = Vec::new();
        for i in 0..200 {
            let batches = (0..1 + i % 3).map(|j| batch(&[i, i + j], 40)).collect();
            let appended = log.append(batches, 3, at(i)).await.unwrap();
            assert_eq!(appended.base_offset, i64::try_from(expected.len()).unwrap());
            expected.extend(appended.base_offset..=appended.last_offset);
            assert_eq!(appended.end, log.end_position());
        }
        assert!(log.segments().len() > 5, "{:?}", log.segments());
        for max_bytes in [1, 100, 1000, 1 << 20] {
            let headers = read_all(&log, 0, max_bytes).await;
            let offsets: Vec<i64> = headers
                .iter()
                .flat_map(|h| h.base_offset..=h.last_offset())
                .collect();
            assert_eq!(offsets, expected);
            assert!(headers.iter().all(|h| h.partition_leader_epoch == 3));
        }
        let end = log.log_end_offset();
        let none = log.read(end, 100, log.end_position(), true).await.unwrap();
        assert!(none.is_none());
        for offset in [-1, end + 1] {
            let error = log.read(offset, 100, log.end_position(), true).await;
            assert!(matches!(error, Err(LogError::OffsetOutOfRange { .. })));
        }
    });
}

#[test]
fn a_read_never_reaches_its_limit() {
    let place = Place::new();
    let path = place.partition();
    run(|files| async move {
        let log = Log::create(&files, &path, TOPIC_ID, small()).await.unwrap();
        let mut places = vec![log.end_position()];
        for i in 0..60 {
            places.push(append(&log, &[i], 100).await.end);
        }
        for limit in &places {
            assert_eq!(
                log.position_of(limit.offset).await.unwrap().offset,
                limit.offset
            );
            for offset in 0..limit.offset {
                let slice = log
                    .read(offset, 1 << 20, *limit, true)
                    .await
                    .unwrap()
                    .unwrap();
                assert_eq!(slice.first_offset, offset);
                let last = slice.position + u64::from(slice.length);
                let is_below =
                    slice.segment_base < limit.segment_base || last <= u64::from(limit.position);
                assert!(is_below, "{slice:?} {limit:?}");
            }
            let none = log.read(limit.offset, 1 << 20, *limit, true).await.unwrap();
            assert!(none.is_none());
        }
    });
}

#[test]
fn offsets_are_found_as_a_full_scan_finds_them() {
    let place = Place::new();
    let path = place.partition();
    let mut random = Random(seed());
    run(|files| async move {
        let log = Log::create(&files, &path, TOPIC_ID, small()).await.unwrap();
        let mut expected = BTreeMap::new();
        for _ in 0..300 {
            let records = vec![5; 1 + random.below(4) as usize];
            let appended = append(&log, &records, random.below(900) as usize).await;
            for offset in appended.base_offset..=appended.last_offset {
                let place = (
                    appended.segment_base,
                    appended.position,
                    appended.base_offset,
                );
                expected.insert(offset, place);
            }
            if random.below(20) == 0 {
                log.flush().await.unwrap();
            }
        }
        for pass in 0..2 {
            for (offset, (segment_base, position, base_offset)) in &expected {
                let end = log.end_position();
                let slice = log
                    .read(*offset, 1 << 20, end, true)
                    .await
                    .unwrap()
                    .unwrap();
                assert_eq!(
                    slice.segment_base, *segment_base,
                    "pass {pass} offset {offset}"
                );
                assert_eq!(slice.position, u64::from(*position));
                assert_eq!(slice.first_offset, *base_offset);
            }
            log.flush().await.unwrap();
        }
        assert!(files.open_count() <= 8, "{} open", files.open_count());
    });
}

#[test]
fn segments_roll_by_time_and_by_index_size() {
    let place = Place::new();
    let path = place.partition();
    run(|files| async move {
        let config = LogConfig {
            segment_ms: 1000,
            ..small()
        };
        let log = Log::create(&files, &path, TOPIC_ID, config).await.unwrap();
        append(&log, &[10_000], 10).await;
        append(&log, &[11_000], 10).await;
        assert_eq!(log.segments().len(), 1);
        append(&log, &[11_001], 10).await;
        assert_eq!(log.segments().len(), 2);
        log.set_config(LogConfig {
            index_interval_bytes: 0,
            index_bytes_max: 36,
            ..small()
        });
        for _ in 0..10 {
            append(&log, &[20_000], 10).await;
        }
        assert!(log.segments().len() > 3, "{:?}", log.segments());
        let too_large = log.append(vec![batch(&[1], 5000)], 0, at(0)).await;
        assert!(
            matches!(too_large, Err(LogError::TooLarge { .. })),
            "{too_large:?}"
        );
        assert!(log.poisoned().is_none());
    });
}

#[test]
fn timestamps_are_found_as_brute_force_finds_them() {
    let place = Place::new();
    let path = place.partition();
    let mut random = Random(seed());
    run(|files| async move {
        let log = Log::create(&files, &path, TOPIC_ID, small()).await.unwrap();
        let mut records = Vec::new();
        for i in 0..150 {
            let timestamps: Vec<i64> = (0..1 + random.below(3))
                .map(|_| (i * 10 + random.below(60)).cast_signed())
                .collect();
            let appended = append(&log, &timestamps, 50).await;
            let offsets = appended.base_offset..;
            records.extend(timestamps.into_iter().zip(offsets));
        }
        log.flush().await.unwrap();
        log.set_log_start_offset(9).unwrap();
        for target in 0..1600 {
            let expected = records
                .iter()
                .find(|(timestamp, offset)| *timestamp >= target && *offset >= 9)
                .map(|(timestamp, offset)| (*timestamp, *offset));
            let found = log.offset_for_timestamp(target).await.unwrap();
            let found = found.map(|found| (found.timestamp, found.offset));
            assert_eq!(found, expected, "timestamp {target}");
        }
        let largest = records.iter().map(|(timestamp, _)| *timestamp).max();
        let expected = records.iter().find(|r| Some(r.0) == largest).copied();
        let found = log.max_timestamp().await.unwrap();
        assert_eq!(found.map(|f| (f.timestamp, f.offset)), expected);
    });
}

#[test]
fn log_append_time_rewrites_header_and_crc() {
    let place = Place::new();
    let path = place.partition();
    run(|files| async move {
        let log = Log::create(&files, &path, TOPIC_ID, small()).await.unwrap();
        let time = AppendTime {
            now_ms: 777,
            timestamp_type: TimestampType::LogAppendTime,
        };
        let batches = vec![batch(&[1, 2], 10), batch(&[3], 300)];
        let appended = log.append(batches, 1, time).await.unwrap();
        assert_eq!(appended.log_append_time, 777);
        let headers = read_all(&log, 0, 1 << 20).await;
        assert_eq!(headers.len(), 2);
        for header in headers {
            assert_eq!(header.max_timestamp, 777);
            assert_eq!(header.timestamp_type(), TimestampType::LogAppendTime);
        }
        let found = log.offset_for_timestamp(777).await.unwrap().unwrap();
        assert_eq!((found.timestamp, found.offset), (777, 0));
    });
}

#[test]
fn replicated_batches_keep_their_offsets() {
    let place = Place::new();
    let path = place.partition();
    run(|files| async move {
        let log = Log::create(&files, &path, TOPIC_ID, small()).await.unwrap();
        let with_offset = |base_offset: i64| {
            let mut builder = BatchBuilder::new(Compression::None)
                .base_offset(base_offset)
                .partition_leader_epoch(5);
            builder.append(1, None, Some(b"x"), &[]).unwrap();
            let bytes = builder.build().unwrap().freeze();
            let header = BatchHeader::parse(&bytes).unwrap();
            AppendBatch { header, bytes }
        };
        log.append_replicated(vec![with_offset(0), with_offset(10)], 0)
            .await
            .unwrap();
        assert_eq!(log.log_end_offset(), 11);
        let below = log.append_replicated(vec![with_offset(10)], 0).await;
        assert!(matches!(below, Err(LogError::InvalidBatch { .. })));
        // An offset in the gap gives the batch after it.
        for offset in 1..=10 {
            let end = log.end_position();
            let slice = log.read(offset, 1, end, true).await.unwrap().unwrap();
            assert_eq!(slice.first_offset, 10);
        }
    });
}

#[test]
fn truncation_leaves_what_is_below() {
    let seed = seed();
    for offset in (0..150).step_by(7) {
        let place = Place::new();
        let path = place.partition();
        run(move |files| async move {
            let log = Log::create(&files, &path, TOPIC_ID, small()).await.unwrap();
            let mut random = Random(seed);
            let mut ends = vec![0];
            while log.log_end_offset() < 150 {
                let records = vec![5; 1 + random.below(4) as usize];
                append(&log, &records, random.below(300) as usize).await;
                ends.push(log.log_end_offset());
            }
            log.flush().await.unwrap();
            let before = read_all(&log, 0, 1 << 20).await;
            let end = log.truncate_to(offset).await.unwrap();
            assert_eq!(
                Some(end),
                ends.iter().copied().filter(|e| *e <= offset).max()
            );
            let expected: Vec<BatchHeader> = before
                .into_iter()
                .filter(|header| header.last_offset() < end)
                .collect();
            assert_eq!(read_all(&log, 0, 1 << 20).await, expected);
            assert!(log.recovery_point() <= end);
            append(&log, &[9_000], 10).await;
            append(&log, &[9_001], 10).await;
            assert_eq!(read_all(&log, 0, 100).await.len(), expected.len() + 2);
            let found = log.offset_for_timestamp(9_001).await.unwrap().unwrap();
            assert_eq!(found.offset, end + 1);
            drop(log);
            let (log, recovery) = open(&files, &path, unclean(0)).await.unwrap();
            assert_eq!(recovery.truncated, None);
            assert_eq!(log.log_end_offset(), end + 2);
        });
    }
}

#[test]
fn old_segments_go_while_their_slices_stay() {
    let place = Place::new();
    let path = place.partition();
    run(|files| async move {
        let log = Log::create(&files, &path, TOPIC_ID, small()).await.unwrap();
        for i in 0..100 {
            append(&log, &[i], 200).await;
        }
        log.flush().await.unwrap();
        let slice = log
            .read(0, 4096, log.end_position(), true)
            .await
            .unwrap()
            .unwrap();
        let before = slice_bytes(&log, &slice).await;
        let third = log.segments()[3].base_offset;
        let deleted = log.delete_old_segments(third + 1).await.unwrap();
        assert_eq!(deleted.segments, 3);
        assert_eq!(log.log_start_offset(), third);
        assert_eq!(slice_bytes(&log, &slice).await, before);
        let error = log.read(0, 100, log.end_position(), true).await;
        assert!(matches!(error, Err(LogError::OffsetOutOfRange { .. })));
        read_all(&log, third, 1000).await;
        log.truncate_fully_and_start_at(5000).await.unwrap();
        assert_eq!(log.segments().len(), 1);
        assert_eq!(append(&log, &[1], 10).await.base_offset, 5000);
    });
}

#[test]
fn deletion_leaves_nothing() {
    let place = Place::new();
    let path = place.partition();
    let parent = place.0.clone();
    run(|files| async move {
        let log = Log::create(&files, &path, TOPIC_ID, small()).await.unwrap();
        append(&log, &[1], 10).await;
        let again = Log::create(&files, &path, TOPIC_ID, small()).await;
        assert!(matches!(again, Err(LogError::Foreign { .. })));
        log.delete(Uuid::from_u128(1)).await.unwrap();
        assert_eq!(std::fs::read_dir(parent).unwrap().count(), 0);
        assert_eq!(files.open_count(), 0);
    });
}

#[test]
fn a_poisoned_log_reads_but_takes_no_appends() {
    let place = Place::new();
    let path = place.partition();
    run(|files| async move {
        let log = Log::create(&files, &path, TOPIC_ID, small()).await.unwrap();
        append(&log, &[1], 10).await;
        log.poison("disk on fire");
        log.poison("later");
        let refused = log.append(vec![batch(&[1], 1)], 0, at(0)).await;
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("disk on fire"), "{text}");
        assert!(log.flush().await.is_err());
        assert!(log.close().await.is_err());
        assert_eq!(read_all(&log, 0, 100).await.len(), 1);
    });
}

#[test]
fn a_flush_runs_while_appends_go_on() {
    let place = Place::new();
    let path = place.partition();
    run(|files| async move {
        let log = Rc::new(Log::create(&files, &path, TOPIC_ID, small()).await.unwrap());
        append(&log, &[1], 100).await;
        let appender = log.clone();
        let done = Rc::new(Cell::new(false));
        let is_done = done.clone();
        files.io().spawn(async move {
            for i in 0..300 {
                append(&appender, &[i], 100).await;
                appender.io().yield_now().await;
            }
            is_done.set(true);
        });
        while !done.get() {
            let before = log.log_end_offset();
            assert!(log.flush().await.unwrap() >= before);
            // With nothing to sync, a flush does not wait for anything: the appends need their turn.
            log.io().yield_now().await;
        }
        assert_eq!(log.flush().await.unwrap(), log.log_end_offset());
        assert!(!log.is_dirty());
        assert_eq!(log.unsynced_bytes(), 0);
    });
}

#[test]
fn the_lock_is_first_come_first_served() {
    run(|files| async move {
        let lock = Rc::new(Lock::default());
        let order = Rc::new(RefCell::new(Vec::new()));
        let turn = lock.lock().await;
        for i in 0..5 {
            let (lock, order, io) = (lock.clone(), order.clone(), files.io().clone());
            files.io().spawn(async move {
                if i == 2 {
                    // Asks and goes away.
                    let mut waiting = Box::pin(lock.lock());
                    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                    assert!(waiting.as_mut().poll(&mut context).is_pending());
                    return;
                }
                let _turn = lock.lock().await;
                io.yield_now().await;
                order.borrow_mut().push(i);
            });
        }
        files.io().yield_now().await;
        files.io().yield_now().await;
        drop(turn);
        while order.borrow().len() < 4 {
            files.io().yield_now().await;
        }
        assert_eq!(*order.borrow(), [0, 1, 3, 4]);
    });
}

#[test]
fn blocks_are_reserved_ahead_and_given_back() {
    use std::os::unix::fs::MetadataExt;
    let place = Place::new();
    let path = place.partition();
    run(move |files| async move {
        let config = LogConfig {
            segment_bytes: 3 << 20,
            ..LogConfig::default()
        };
        let log = Log::create(&files, &path, TOPIC_ID, config).await.unwrap();
        // Bytes of the blocks, and the length.
        let sizes = |base_offset: i64| {
            let path = segment_path(&path, base_offset, SegmentFileKind::Log);
            let data = std::fs::metadata(path).unwrap();
            (data.blocks() * 512, data.len())
        };
        let is_reserved = |base_offset| {
            let (blocks, length) = sizes(base_offset);
            blocks >= length + (512 << 10)
        };
        let probe = path.join("probe");
        let file = files.io().open(&probe, OpenMode::CreateNew).await.unwrap();
        files.io().reserve(&file, 0, 1 << 20).await.unwrap_or(());
        let can_reserve = std::fs::metadata(&probe).unwrap().blocks() > 0;
        append(&log, &[1], 700_000).await;
        assert!(!is_reserved(0), "a small log takes no more than it has");
        append(&log, &[2], 700_000).await;
        append(&log, &[3], 10).await;
        if !can_reserve {
            eprintln!("SKIP: this file system does not reserve");
            return;
        }
        assert!(is_reserved(0));
        let length = sizes(0).1;
        assert_eq!(length, u64::from(log.end_position().position));
        assert!(sizes(0).0 <= (3 << 20) + 8192, "{:?}", sizes(0));
        // What is cut off takes what was reserved behind it along, and the next append asks anew.
        log.truncate_to(2).await.unwrap();
        append(&log, &[4], 10).await;
        assert!(is_reserved(0));
        append(&log, &[5], 2_000_000).await;
        log.flush().await.unwrap();
        let (blocks, length) = sizes(0);
        assert_eq!(log.segments().len(), 2);
        assert!(blocks < length + 65_536, "rolled: {blocks} for {length}");
        append(&log, &[6], 10).await;
        assert!(is_reserved(3));
        log.close().await.unwrap();
        let (blocks, length) = sizes(3);
        assert!(blocks < length + 65_536, "closed: {blocks} for {length}");
    });
}
