//! Behaviour on the real file system with the `poll` driver; power loss is in the tests on the
//! simulator.

mod power_loss;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::format::{
    BLOCK_BYTES, FILE_HEADER_BYTES, FileHeader, FirstBlock, GROUP_HEADER_BYTES, GroupHeader,
};
use super::*;
use crate::io::DriverKind;

const TOPIC: Uuid = Uuid::from_u128(0x1234_5678);

/// A log directory that is removed at the end of the test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringlog-journal-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    fn journal_files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().path());
        let is_journal = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            name.starts_with(".ringlog-journal-")
        };
        let mut files: Vec<PathBuf> = entries.filter(is_journal).collect();
        files.sort();
        files
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn io() -> Io {
    Io::new(DriverKind::Poll).unwrap()
}

/// Small files, so that everything happens often.
fn options(directory: &Path, files: u64) -> JournalOptions {
    JournalOptions {
        file_bytes: 64 << 10,
        ring_bytes: files * (64 << 10),
        ..JournalOptions::new(directory, 0)
    }
}

fn partition_directory(directory: &Path, partition: i32) -> PathBuf {
    directory.join(format!("topic-{partition}"))
}

fn segment(directory: &Path, partition: i32, base: i64) -> PathBuf {
    partition_directory(directory, partition).join(format!("{base:020}.log"))
}

fn locate(directory: &Path) -> impl Fn(Uuid, i32) -> Option<Target> + use<> {
    let directory = directory.to_owned();
    move |topic_id, partition| {
        (topic_id == TOPIC).then(|| Target {
            directory: partition_directory(&directory, partition),
            log_start_offset: 0,
        })
    }
}

fn replay_now(directory: &Path) -> Result<ReplayReport, JournalError> {
    let (io, directory) = (io(), directory.to_owned());
    io.clone().block_on(async move {
        let locate = locate(&directory);
        replay(&io, &directory, locate).await
    })
}

fn append(journal: &Journal, partition: i32, position: u64, bytes: &[u8]) -> Lsn {
    let buffers = [Bytes::copy_from_slice(bytes)];
    let append = Append {
        topic_id: TOPIC,
        partition,
        segment_base: 0,
        position,
        buffers: &buffers,
    };
    journal.append(&append).unwrap()
}

/// Runs `work` on a shard of its own, which then ends as in a kill -9: tasks are dropped.
fn run<T: 'static, F: Future<Output = T> + 'static>(work: impl FnOnce(Io) -> F) -> T {
    let io = io();
    let result = io.block_on(work(io.clone()));
    io.clear_tasks();
    result
}

#[test]
fn what_is_durable_is_replayed_and_the_journal_removed() {
    let directory = Directory::new();
    let path = directory.0.clone();
    let lsn = run(|io| async move {
        let journal = Journal::open(&io, options(&path, 4)).await.unwrap();
        append(&journal, 0, 0, b"first");
        append(&journal, 1, 100, b"other partition");
        let lsn = append(&journal, 0, 5, b" second");
        assert!(journal.durable_lsn() < lsn);
        journal.durable(lsn).await.unwrap();
        assert_eq!(journal.next_durable(Lsn(0)).await.unwrap(), Lsn(4096));
        assert_eq!(journal.stats().groups, 1);
        lsn
    });
    assert!(lsn < Lsn(4096));
    let report = replay_now(&directory.0).unwrap();
    assert_eq!(report.damaged, []);
    assert_eq!(report.journals[0].entries, 3);
    assert_eq!(report.journals[0].bytes, 27);
    assert_eq!(report.partitions.len(), 2);
    assert_eq!(
        fs::read(segment(&directory.0, 0, 0)).unwrap(),
        b"first second"
    );
    let other = fs::read(segment(&directory.0, 1, 0)).unwrap();
    assert_eq!(&other[100..], b"other partition");
    assert_eq!(directory.journal_files(), Vec::<PathBuf>::new());
    assert_eq!(replay_now(&directory.0).unwrap(), ReplayReport::default());
}

#[test]
fn an_append_larger_than_a_file_is_cut_and_comes_back_whole() {
    let directory = Directory::new();
    let bytes: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
    let (path, expected) = (directory.0.clone(), bytes.clone());
    run(|io| async move {
        let journal = Journal::open(&io, options(&path, 8)).await.unwrap();
        let parts: Vec<Bytes> = bytes.chunks(777).map(Bytes::copy_from_slice).collect();
        let append = Append {
            topic_id: TOPIC,
            partition: 0,
            segment_base: 0,
            position: 3,
            buffers: &parts,
        };
        let lsn = journal.append(&append).unwrap();
        journal.durable(lsn).await.unwrap();
        assert!(journal.stats().groups >= 4, "{:?}", journal.stats());
    });
    let report = replay_now(&directory.0).unwrap();
    assert_eq!(
        (report.damaged.len(), report.journals[0].bytes),
        (0, 200_000)
    );
    assert_eq!(
        &fs::read(segment(&directory.0, 0, 0)).unwrap()[3..],
        expected
    );
}

#[test]
fn a_closed_journal_leaves_nothing_behind() {
    let directory = Directory::new();
    let path = directory.0.clone();
    run(|io| async move {
        let journal = Journal::open(&io, options(&path, 4)).await.unwrap();
        let lsn = append(&journal, 0, 0, &[1; 100_000]);
        journal.close().await.unwrap();
        assert!(journal.durable(lsn).await.is_ok());
        assert!(matches!(
            journal.durable(Lsn(lsn.0 + 1_000_000)).await,
            Err(JournalError::Closed)
        ));
        assert!(matches!(
            journal.reserve(1).await,
            Err(JournalError::Closed)
        ));
        assert!(matches!(journal.close().await, Err(JournalError::Closed)));
    });
    assert_eq!(directory.journal_files(), Vec::<PathBuf>::new());
}

#[test]
fn truncated_forgotten_and_deleted_partitions_stay_that_way() {
    let directory = Directory::new();
    let path = directory.0.clone();
    fs::create_dir_all(partition_directory(&path, 0)).unwrap();
    fs::write(segment(&path, 0, 7), b"above the cut").unwrap();
    fs::write(segment(&path, 0, 7).with_extension("index"), b"x").unwrap();
    run(|io| async move {
        let journal = Journal::open(&io, options(&path, 4)).await.unwrap();
        append(&journal, 0, 0, b"0123456789");
        journal.append_truncate(TOPIC, 0, 0, 4).unwrap();
        append(&journal, 0, 4, b"xy");
        append(&journal, 1, 0, b"gone");
        journal.append_forget(TOPIC, 1, i64::MAX).unwrap();
        let other = Append {
            topic_id: Uuid::from_u128(9),
            partition: 0,
            segment_base: 0,
            position: 0,
            buffers: &[Bytes::from_static(b"a deleted topic of the same name")],
        };
        let lsn = journal.append(&other).unwrap();
        journal.durable(lsn).await.unwrap();
    });
    let report = replay_now(&directory.0).unwrap();
    assert_eq!(report.journals[0].entries_skipped, 2);
    assert_eq!(fs::read(segment(&directory.0, 0, 0)).unwrap(), b"0123xy");
    assert!(!segment(&directory.0, 0, 7).exists());
    assert!(!segment(&directory.0, 0, 7).with_extension("index").exists());
    assert!(!segment(&directory.0, 1, 0).exists());
}

#[test]
fn segments_below_the_log_start_are_not_brought_back() {
    let directory = Directory::new();
    let path = directory.0.clone();
    run(|io| async move {
        let journal = Journal::open(&io, options(&path, 4)).await.unwrap();
        let mut last = Lsn(0);
        for segment_base in [0, 10, 20, 30] {
            let append = Append {
                topic_id: TOPIC,
                partition: 0,
                segment_base,
                position: 0,
                buffers: &[Bytes::from_static(b"data")],
            };
            last = journal.append(&append).unwrap();
        }
        journal.durable(last).await.unwrap();
    });
    let path = directory.0.clone();
    run(|io| async move {
        let locate = |_, partition| {
            Some(Target {
                directory: partition_directory(&path, partition),
                log_start_offset: 25,
            })
        };
        replay(&io, &path, locate).await.unwrap();
    });
    let exists = [0, 10, 20, 30].map(|base| segment(&directory.0, 0, base).exists());
    assert_eq!(exists, [false, false, true, true]);
}

#[test]
fn without_checkpoints_appends_wait_and_the_ring_keeps_its_length() {
    let directory = Directory::new();
    let path = directory.0.clone();
    run(|io| async move {
        let journal = Journal::open(&io, options(&path, 4)).await.unwrap();
        let position = Rc::new(RefCell::new(0));
        let (writer, moved) = (journal.clone(), position.clone());
        io.spawn(async move {
            for _ in 0..100 {
                let room = writer.reserve(10_000).await.unwrap();
                let at = moved.replace_with(|at| *at + 10_000);
                append(&writer, 0, at, &[7; 10_000]);
                drop(room);
            }
        });
        io.sleep(Duration::from_millis(200)).await;
        let stuck = *position.borrow();
        assert!((100_000..240_000).contains(&stuck), "{stuck}");
        assert!(journal.needs_checkpoint());
        assert!(journal.stats().files <= 4);
        io.sleep(Duration::from_millis(50)).await;
        assert_eq!(stuck, *position.borrow());
        let too_large = journal.reserve(300_000).await;
        assert!(matches!(too_large, Err(JournalError::TooLarge { .. })));

        io.spawn({
            let journal = journal.clone();
            async move {
                run_checkpoints(journal, async || Ok(())).await.unwrap();
            }
        });
        while *position.borrow() < 1_000_000 {
            io.sleep(Duration::from_millis(1)).await;
            assert!(journal.stats().files <= 4, "{:?}", journal.stats());
        }
        assert!(journal.stats().waits > 0 && !journal.stats().wait_time.is_zero());
        journal.close().await.unwrap();
    });
    assert_eq!(directory.journal_files(), Vec::<PathBuf>::new());
}

#[test]
fn a_failed_checkpoint_or_write_poisons() {
    let directory = Directory::new();
    let path = directory.0.clone();
    run(|io| async move {
        let journal = Journal::open(&io, options(&path, 4)).await.unwrap();
        let lsn = append(&journal, 0, 0, &[1; 1000]);
        journal.durable(lsn).await.unwrap();
        append(&journal, 0, 1000, &[1; 150_000]);
        let failing = async || Err(io::Error::from_raw_os_error(5));
        let end = run_checkpoints(journal.clone(), failing).await;
        assert!(matches!(end, Err(JournalError::Poisoned(_))), "{end:?}");
        let late = journal.append_forget(TOPIC, 0, 0);
        assert!(matches!(late, Err(JournalError::Poisoned(_))), "{late:?}");
        assert!(journal.durable(lsn).await.is_ok());
        assert!(matches!(
            journal.close().await,
            Err(JournalError::Poisoned(_))
        ));
    });
    let report = replay_now(&directory.0).unwrap();
    assert!(report.journals[0].entries >= 1);
    assert_eq!(report.damaged, []);
}

/// Writes durable groups of one block each; returns the files that hold them, in order.
fn write_groups(directory: &Directory, groups: u64) -> Vec<PathBuf> {
    let path = directory.0.clone();
    run(|io| async move {
        let journal = Journal::open(&io, options(&path, 8)).await.unwrap();
        for i in 0..groups {
            let lsn = append(&journal, 0, i * 10, &[b'0' + (i % 10) as u8; 10]);
            journal.durable(lsn).await.unwrap();
        }
        while journal.stats().files < 3 {
            io.sleep(Duration::from_millis(1)).await;
        }
    });
    let sequence = |path: PathBuf| match FileHeader::decode(&fs::read(&path).unwrap()) {
        FirstBlock::Header(header) => Some((header.sequence, path)),
        _ => None,
    };
    let files = directory.journal_files().into_iter();
    let files: BTreeMap<u64, PathBuf> = files.filter_map(sequence).collect();
    files.into_values().collect()
}

fn corrupt(path: &Path, position: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[position] ^= 0x55;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_torn_last_group_is_cut_also_at_the_start_of_a_file() {
    // 15 groups fill a file; the first group of the next one lies at its first block.
    for (groups, file, block) in [(10, 0, 10), (15, 0, 15), (16, 1, 1)] {
        let directory = Directory::new();
        let files = write_groups(&directory, groups);
        corrupt(&files[file], block * BLOCK_BYTES + GROUP_HEADER_BYTES + 50);
        let report = replay_now(&directory.0).unwrap();
        assert_eq!(report.damaged, [], "{groups} groups");
        assert_eq!(report.journals[0].torn_tail_bytes, 4096);
        assert_eq!(report.journals[0].groups, groups - 1);
        let bytes = fs::read(segment(&directory.0, 0, 0)).unwrap();
        assert_eq!(bytes.len() as u64, (groups - 1) * 10);
    }
}

#[test]
fn damage_before_valid_groups_is_reported_and_the_rest_replayed() {
    let cases = [
        ("payload", 0, 5 * BLOCK_BYTES + GROUP_HEADER_BYTES + 50, 1),
        ("group header", 0, 5 * BLOCK_BYTES + 30, 1),
        ("last group of a file", 0, 15 * BLOCK_BYTES + 30, 1),
        ("first group of a file", 1, BLOCK_BYTES + 30, 1),
        ("file header", 1, FILE_HEADER_BYTES - 10, 0),
    ];
    for (what, file, position, lost) in cases {
        let directory = Directory::new();
        let files = write_groups(&directory, 20);
        corrupt(&files[file], position);
        let report = replay_now(&directory.0).unwrap();
        assert_eq!(report.damaged.len(), lost, "{what}: {report:?}");
        assert_eq!(report.journals[0].groups, 20 - lost as u64, "{what}");
        if let Some(damage) = report.damaged.first() {
            assert_eq!(damage.bytes, 4096, "{what}");
            assert_eq!(damage.path, files[file], "{what}");
        }
        let bytes = fs::read(segment(&directory.0, 0, 0)).unwrap();
        assert_eq!(bytes.len(), 200, "{what}");
        assert_eq!(directory.journal_files(), Vec::<PathBuf>::new());
    }
}

#[test]
fn foreign_files_and_other_versions_are_named() {
    let directory = Directory::new();
    let file = directory.0.join(".ringlog-journal-0-000000");
    fs::write(&file, b"somebody else's notes").unwrap();
    let message = replay_now(&directory.0).unwrap_err().to_string();
    assert!(message.contains(file.to_str().unwrap()), "{message}");
    let files = {
        fs::remove_file(&file).unwrap();
        write_groups(&directory, 1)
    };
    let mut bytes = fs::read(&files[0]).unwrap();
    bytes[9] = 2;
    fs::write(&files[0], bytes).unwrap();
    let message = replay_now(&directory.0).unwrap_err().to_string();
    assert!(message.contains("format version 2"), "{message}");
    assert!(files[0].exists());
}

#[test]
fn record_bytes_that_look_like_a_group_are_not_one() {
    let directory = Directory::new();
    let files = write_groups(&directory, 3);
    let stolen = fs::read(&files[0]).unwrap();
    let group = GroupHeader::decode(&stolen[2 * BLOCK_BYTES..]).unwrap();
    assert_eq!(group.sequence, 1);
    // A group whose payload contains older groups at block boundaries, and which is torn.
    let mut file = stolen.clone();
    file[6 * BLOCK_BYTES..9 * BLOCK_BYTES].copy_from_slice(&stolen[BLOCK_BYTES..4 * BLOCK_BYTES]);
    fs::write(&files[0], file).unwrap();
    let report = replay_now(&directory.0).unwrap();
    assert_eq!(report.damaged, []);
    assert_eq!(report.journals[0].groups, 3);
}

#[test]
fn appends_of_one_turn_share_a_group() {
    let directory = Directory::new();
    let path = directory.0.clone();
    run(|io| async move {
        let journal = Journal::open(&io, options(&path, 4)).await.unwrap();
        let done = Rc::new(RefCell::new(0));
        for partition in 0..50 {
            let (journal, done) = (journal.clone(), done.clone());
            io.spawn(async move {
                let lsn = append(&journal, partition, 0, &[1; 100]);
                journal.durable(lsn).await.unwrap();
                *done.borrow_mut() += 1;
            });
        }
        while *done.borrow() < 50 {
            io.yield_now().await;
        }
        assert!(journal.stats().groups <= 2, "{:?}", journal.stats());
    });
}

/// A small generator (xorshift64*), so that a failing history is repeated by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }
}

/// What the segments (base 0) of some partitions should hold, and how far each byte is promised.
#[derive(Default)]
struct Model {
    partitions: BTreeMap<i32, Vec<u8>>,
    /// (LSN, partition, length of the partition after it)
    lengths: Vec<(Lsn, i32, usize)>,
}

/// Only checkpoints bring bytes into segments: all the rest must come from the journal.
fn write_segments(directory: &Path, model: &Model) {
    for (partition, bytes) in &model.partitions {
        fs::create_dir_all(partition_directory(directory, *partition)).unwrap();
        fs::write(segment(directory, *partition, 0), bytes).unwrap();
    }
}

/// One history: appends, truncations, checkpoints; stops at a random moment.
async fn history(io: Io, path: PathBuf, seed: u64, model: Rc<RefCell<Model>>) -> Lsn {
    let mut random = Random(seed);
    let journal = Journal::open(&io, options(&path, 3)).await.unwrap();
    let (segments, all, handle) = (path.clone(), model.clone(), journal.clone());
    io.spawn(async move {
        let flush = async || {
            write_segments(&segments, &all.borrow());
            Ok(())
        };
        run_checkpoints(handle, flush).await.unwrap();
    });
    for _ in 0..random.below(400) {
        let partition = random.below(5) as i32;
        let length = match random.below(10) {
            0 => random.below(30_000),
            1..4 => random.below(5_000),
            _ => random.below(200),
        };
        let room = journal.reserve(length as usize).await.unwrap();
        let bytes: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
        let (lsn, len) = {
            let mut model = model.borrow_mut();
            let held = model.partitions.entry(partition).or_default();
            let lsn = append(&journal, partition, held.len() as u64, &bytes);
            held.extend(&bytes);
            (lsn, held.len())
        };
        drop(room);
        model.borrow_mut().lengths.push((lsn, partition, len));
        match random.below(20) {
            0 | 1 => journal.durable(lsn).await.unwrap(),
            2 => {
                let cut = random.below(len as u64 + 1);
                let lsn = journal.append_truncate(TOPIC, partition, 0, cut).unwrap();
                {
                    let mut model = model.borrow_mut();
                    let held = model.partitions.get_mut(&partition).unwrap();
                    held.truncate(cut as usize);
                    model.lengths.retain(|(_, other, _)| *other != partition);
                    model.lengths.push((lsn, partition, cut as usize));
                }
                journal.durable(lsn).await.unwrap();
            }
            3 => io.yield_now().await,
            _ => {}
        }
        if random.below(50) == 0 {
            let lsn = journal.start_checkpoint();
            write_segments(&path, &model.borrow());
            journal.finish_checkpoint(lsn);
        }
    }
    journal.durable_lsn()
}

#[test]
fn random_histories_lose_nothing_that_was_durable() {
    for seed in 1..=15u64 {
        let directory = Directory::new();
        let model = Rc::new(RefCell::new(Model::default()));
        let (path, shared) = (directory.0.clone(), model.clone());
        let durable = run(|io| history(io, path, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), shared));
        // The group in flight may still be on its way from a helper thread to the disk.
        std::thread::sleep(Duration::from_millis(5));
        let report = replay_now(&directory.0).unwrap();
        assert_eq!(report.damaged, [], "seed {seed}");
        let model = model.borrow();
        for (lsn, partition, length) in &model.lengths {
            if *lsn > durable || *length == 0 {
                continue;
            }
            let bytes = fs::read(segment(&directory.0, *partition, 0)).unwrap();
            let expected = &model.partitions[partition];
            assert!(
                bytes.len() >= *length,
                "seed {seed}, partition {partition}, {lsn:?}"
            );
            let first_wrong = (0..*length).find(|at| bytes[*at] != expected[*at]);
            assert_eq!(
                first_wrong, None,
                "seed {seed}, partition {partition}, {lsn:?}"
            );
        }
    }
}
