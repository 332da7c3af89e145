//! A partition's directory after anything: segments, indexes and topic id cut, garbled, exchanged,
//! removed. It is opened as after a clean stop or a crash, read, appended to, closed and opened again.
//!
//! Fails on a panic, on a batch that is served though it never was written like that, and if what was
//! recovered once is not there again.
#![no_main]

#[path = "disk.rs"]
mod disk;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::OnceLock;

use bytes::BytesMut;
use disk::{Input, damaged};
use libfuzzer_sys::fuzz_target;
use ringlog_engine::io::Io;
use ringlog_engine::io::sim::World;
use ringlog_engine::log::{
    AppendBatch, AppendTime, Log, LogConfig, LogError, Opening, SegmentFiles,
};
use ringlog_engine::record::batch::iterate;
use ringlog_engine::record::{BatchBuilder, BatchHeader, Compression, TimestampType};
use uuid::Uuid;

const DIRECTORY: &str = "/d/t-0";
/// Where the CRC begins, and what it covers.
const CRC: usize = 17;
/// No directory of this target has so many batches.
const STEPS_MAX: usize = 10_000;

struct Written {
    files: Vec<(String, Vec<u8>)>,
    /// From the CRC on.
    batches: BTreeSet<Vec<u8>>,
    end: i64,
}

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 2048,
        index_interval_bytes: 300,
        ..LogConfig::default()
    }
}

fn batch(number: u32) -> AppendBatch {
    let mut builder = BatchBuilder::new(Compression::None);
    for record in 0..=number % 3 {
        let value = vec![number as u8; 20 + (number as usize * 7 + record as usize) % 90];
        let appended = builder.append(1000 + i64::from(number), None, Some(&value), &[]);
        appended.expect("a small record");
    }
    let bytes = builder.build().expect("a small batch").freeze();
    let header = BatchHeader::parse(&bytes).expect("just built");
    AppendBatch { header, bytes }
}

fn time() -> AppendTime {
    AppendTime {
        now_ms: 5000,
        timestamp_type: TimestampType::CreateTime,
    }
}

/// A log of several segments, closed cleanly.
fn written() -> &'static Written {
    static WRITTEN: OnceLock<Written> = OnceLock::new();
    WRITTEN.get_or_init(|| {
        let world = World::new(7);
        let io = Io::simulated(&world);
        let files = SegmentFiles::new(&io, 8, 1 << 20);
        let end = world.block_on(&[io.clone()], async move {
            io.create_directory(Path::new("/d")).await.expect("is new");
            let id = Uuid::from_u128(5);
            let log = Log::create(&files, Path::new(DIRECTORY), id, config());
            let log = log.await.expect("is new");
            for number in 0..40 {
                let appended = log.append(vec![batch(number)], 0, time()).await;
                appended.expect("the world has room");
            }
            log.close().await.expect("the world has room")
        });
        let contents = |(path, _): (String, u64)| {
            let bytes = world.read_file(&path).expect("just listed");
            (path, bytes)
        };
        let batches = (0..41).map(|number| batch(number).bytes[CRC..].to_vec());
        Written {
            files: world.files().into_iter().map(contents).collect(),
            batches: batches.collect(),
            end,
        }
    })
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let written = written();
    let Some(how) = input.byte() else { return };
    let opening = Opening {
        clean: how & 1 > 0,
        recovery_point: [0, 17, written.end, 20][usize::from(how >> 1 & 3)],
        log_start_offset: [None, Some(0), Some(9), Some(60)][usize::from(how >> 3 & 3)],
        compacts_below_recovery_point: how & 64 > 0,
        accept_loss: how & 32 > 0,
    };
    let world = damaged(&written.files, &mut input);
    if world.files().is_empty() {
        return;
    }
    let io = Io::simulated(&world);
    world.block_on(&[io.clone()], async move {
        let files = SegmentFiles::new(&io, 8, 1 << 20);
        let path = Path::new(DIRECTORY);
        let opened = Log::open(&files, path, config(), opening, &mut |_, _| {}).await;
        let Ok((log, _)) = opened else { return };
        read(&io, &log, &written.batches).await;
        // A damaged batch at the end may keep it from appending; then it says so.
        let appended = log.append(vec![batch(40)], 0, time()).await;
        read(&io, &log, &written.batches).await;
        let Ok(end) = log.close().await else { return };
        if appended.is_err() {
            return;
        }
        let start = log.log_start_offset();
        drop(log);
        let opening = Opening {
            clean: true,
            recovery_point: end,
            log_start_offset: Some(start),
            compacts_below_recovery_point: false,
            accept_loss: false,
        };
        let again = Log::open(&files, path, config(), opening, &mut |_, _| {}).await;
        let (again, _) = again.expect("what was recovered and closed can be opened");
        assert_eq!(again.log_end_offset(), end);
        read(&io, &again, &written.batches).await;
    });
});

/// Reads everything that is served.
async fn read(io: &Io, log: &Log, batches: &BTreeSet<Vec<u8>>) {
    let end = log.end_position();
    let mut next = log.log_start_offset();
    for _ in 0..STEPS_MAX {
        if next >= end.offset {
            return;
        }
        let slice = match log.read(next, 1 << 20, end, true).await {
            Ok(Some(slice)) => slice,
            Ok(None) => return,
            Err(LogError::Corrupt { .. }) => match log.offset_behind_damage(next) {
                Some(behind) if behind > next => {
                    next = behind;
                    continue;
                }
                _ => return,
            },
            Err(_) => return,
        };
        let length = slice.length as usize;
        let bytes = io.read_at(&slice.file, BytesMut::new(), slice.position, length);
        let bytes = bytes.await.expect("the slice is there");
        let before = next;
        for batch in iterate(&bytes).map_while(Result::ok) {
            assert!(
                batches.contains(&batch.bytes[CRC..]),
                "a batch that was never written is served at {}",
                batch.header.base_offset
            );
            next = next.max(batch.header.next_offset());
        }
        assert!(next > before, "nothing is served at {next}");
    }
    panic!("reading does not end");
}
