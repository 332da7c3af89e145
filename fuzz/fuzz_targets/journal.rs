//! The files of a shard's journal after anything: cut, garbled, exchanged, removed. They are inspected
//! and replayed, twice.
//!
//! Fails on a panic, on bytes in a segment that were not appended there, and if a second replay finds
//! anything.
#![no_main]

#[path = "disk.rs"]
mod disk;

use std::path::Path;
use std::sync::OnceLock;

use bytes::Bytes;
use disk::{Input, damaged};
use libfuzzer_sys::fuzz_target;
use ringlog_engine::io::Io;
use ringlog_engine::io::sim::World;
use ringlog_engine::journal::{Append, Journal, JournalOptions, Target, inspect, replay};
use uuid::Uuid;

const JOURNAL: &str = "/j";
const TOPIC: Uuid = Uuid::from_u128(5);
const PARTITIONS: i32 = 3;

/// The files of a journal that was killed, and the segments of its partitions as they should be.
struct Written {
    files: Vec<(String, Vec<u8>)>,
    segments: Vec<Vec<u8>>,
}

fn written() -> &'static Written {
    static WRITTEN: OnceLock<Written> = OnceLock::new();
    WRITTEN.get_or_init(|| {
        let world = World::new(7);
        let io = Io::simulated(&world);
        let shard = io.clone();
        let segments = world.block_on(&[io.clone()], async move {
            let io = shard;
            io.create_directory(Path::new(JOURNAL))
                .await
                .expect("is new");
            let mut options = JournalOptions::new(JOURNAL, 0);
            options.file_bytes = 32 << 10;
            options.ring_bytes = 8 * options.file_bytes;
            let journal = Journal::open(&io, options).await.expect("is new");
            let mut segments = vec![Vec::new(); PARTITIONS as usize];
            for number in 0..60_usize {
                let partition = number % PARTITIONS as usize;
                let bytes = vec![1 + number as u8; 200 + number * 37 % 1500];
                let append = Append {
                    topic_id: TOPIC,
                    partition: partition as i32,
                    segment_base: 0,
                    position: segments[partition].len() as u64,
                    buffers: &[Bytes::from(bytes.clone())],
                };
                let lsn = journal.append(&append).expect("it is open");
                segments[partition].extend(bytes);
                if number % 4 == 0 {
                    journal.durable(lsn).await.expect("the world has room");
                }
            }
            let last = journal.start_checkpoint();
            journal.durable(last).await.expect("the world has room");
            segments
        });
        world.kill();
        io.clear_tasks();
        let contents = |(path, _): (String, u64)| {
            let bytes = world.read_file(&path).expect("just listed");
            (path, bytes)
        };
        Written {
            files: world.files().into_iter().map(contents).collect(),
            segments,
        }
    })
}

fn segment(partition: i32) -> String {
    format!("/d/t-{partition}/{:020}.log", 0)
}

fuzz_target!(|bytes: &[u8]| {
    let written = written();
    let world = damaged(&written.files, &mut Input(bytes));
    for partition in 0..PARTITIONS {
        let made = world.write_file(segment(partition), Bytes::new());
        made.expect("the world has room");
    }
    let io = Io::simulated(&world);
    let is_replayed = world.block_on(&[io.clone()], async move {
        let directory = Path::new(JOURNAL);
        if io.list_directory(directory).await.is_err() {
            return false;
        }
        let locate = |id: Uuid, partition: i32| {
            (id == TOPIC).then(|| Target {
                directory: format!("/d/t-{partition}").into(),
                log_start_offset: 0,
            })
        };
        let seen = inspect(&io, directory).await;
        let replayed = replay(&io, directory, locate).await;
        // A file that is none, or of another version: nothing was touched.
        if replayed.is_err() {
            return false;
        }
        let seen = seen.expect("the replay could read it");
        let groups = |report: &ringlog_engine::journal::ReplayReport| {
            report.journals.iter().map(|j| j.groups).sum::<u64>()
        };
        let replayed = replayed.expect("looked at above");
        assert_eq!(groups(&seen), groups(&replayed));
        let again = replay(&io, directory, locate).await;
        assert_eq!(groups(&again.expect("it is empty")), 0, "found again");
        true
    });
    if !is_replayed {
        return;
    }
    for (partition, expected) in (0..).zip(&written.segments) {
        let found = world.read_file(segment(partition)).expect("is there");
        assert!(found.len() <= expected.len(), "t-{partition} is too long");
        for (position, (found, expected)) in found.iter().zip(expected).enumerate() {
            // What was lost is a hole.
            assert!(
                found == expected || *found == 0,
                "byte {position} of t-{partition} is {found}, not {expected}"
            );
        }
    }
});
