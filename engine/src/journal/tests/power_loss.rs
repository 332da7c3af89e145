//! Random histories in the simulated world: power loss, kill -9 and failing writes at any moment, of
//! the journal, the checkpoint and the replay. What was acknowledged must be in the segments.
//!
//! A history goes through several lives of one shard. The order of a step is the log's: first the
//! segment, then the journal.

use super::super::*;
use super::{Random, TOPIC};
use crate::io::sim::{Config, Fault, World};
use crate::io::{File, OpenMode};
use std::collections::BTreeMap;
use std::time::Duration;

const DIRECTORY: &str = "/log";
const PARTITIONS: u64 = 4;

/// A segment as the test knows it.
#[derive(Clone, Default)]
struct Known {
    /// What was written, acknowledged or not.
    bytes: Vec<u8>,
    /// Bytes that were acknowledged.
    promised: usize,
    /// What a compaction in progress may have replaced it by.
    replacement: Option<Vec<u8>>,
}

type Key = (i32, i64);

#[derive(Default)]
struct Model {
    segments: BTreeMap<Key, Known>,
    /// Appends that wait for their acknowledgement, with the segment's length after it.
    waiting: Vec<(Lsn, Key, usize)>,
    appended: u64,
}

impl Model {
    fn acknowledge(&mut self, durable: Lsn) {
        let (done, waiting) = self
            .waiting
            .drain(..)
            .partition(|(lsn, ..)| *lsn <= durable);
        self.waiting = waiting;
        let done: Vec<(Lsn, Key, usize)> = done;
        for (_, key, length) in done {
            if let Some(known) = self.segments.get_mut(&key) {
                known.promised = known.promised.max(length);
            }
        }
    }

    fn active(&self, partition: i32) -> i64 {
        let mut of_partition = self.segments.range((partition, 0)..=(partition, i64::MAX));
        of_partition.next_back().map_or(0, |((_, base), _)| *base)
    }
}

type Shared = Rc<RefCell<Model>>;

fn path(key: Key) -> PathBuf {
    PathBuf::from(format!("{DIRECTORY}/topic-{}/{:020}.log", key.0, key.1))
}

fn options() -> JournalOptions {
    super::options(Path::new(DIRECTORY), 3)
}

async fn replay_all(io: Io) -> Result<ReplayReport, JournalError> {
    let locate = super::locate(Path::new(DIRECTORY));
    replay(&io, Path::new(DIRECTORY), locate).await
}

/// What the recovery of a log does: cuts what was not acknowledged, and syncs.
async fn recover(io: &Io, model: &Shared) -> io::Result<()> {
    let known: Vec<(Key, usize)> = {
        let mut model = model.borrow_mut();
        model.waiting.clear();
        model.segments.retain(|_, known| known.promised > 0);
        let lengths = model.segments.iter_mut().map(|(key, known)| {
            known.bytes.truncate(known.promised);
            (*key, known.promised)
        });
        lengths.collect()
    };
    for partition in 0..PARTITIONS as i32 {
        let directory = PathBuf::from(format!("{DIRECTORY}/topic-{partition}"));
        for entry in io.list_directory(&directory).await? {
            let is_known = known
                .iter()
                .any(|(key, _)| path(*key) == directory.join(&entry.name));
            if !is_known {
                io.remove_file(&directory.join(&entry.name)).await?;
            }
        }
        io.sync_directory(&directory).await?;
    }
    for (key, length) in known {
        let file = io.open(&path(key), OpenMode::Write).await?;
        io.truncate(&file, length as u64).await?;
        io.sync_data(&file).await?;
    }
    Ok(())
}

async fn flush(io: Io, model: Shared) -> io::Result<()> {
    let keys: Vec<Key> = model.borrow().segments.keys().copied().collect();
    for key in keys {
        match io.open(&path(key), OpenMode::Write).await {
            Ok(file) => io.sync_data(&file).await?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    for partition in 0..PARTITIONS {
        let directory = format!("{DIRECTORY}/topic-{partition}");
        io.sync_directory(Path::new(&directory)).await?;
    }
    Ok(())
}

/// The life of one shard: ends only by a crash or an error.
struct Life {
    io: Io,
    journal: Journal,
    random: Random,
    model: Shared,
}

impl Life {
    async fn run(mut self) -> Result<(), JournalError> {
        loop {
            let partition = self.random.below(PARTITIONS) as i32;
            match self.random.below(60) {
                0 => self.truncate(partition).await?,
                1 => self.compact(partition).await?,
                2..5 => self.acknowledge().await?,
                5..8 => {
                    let pause = Duration::from_micros(self.random.below(3000));
                    self.io.sleep(pause).await;
                }
                _ => self.append(partition).await?,
            }
        }
    }

    async fn append(&mut self, partition: i32) -> Result<(), JournalError> {
        let length = match self.random.below(12) {
            0 => self.random.below(25_000),
            1..4 => self.random.below(5_000),
            _ => self.random.below(300),
        } as usize;
        let room = self.journal.reserve(length).await?;
        let mut base = self.model.borrow().active(partition);
        if self.random.below(30) == 0 {
            base += 1 + self.random.below(1000) as i64;
        }
        let fill = self.random.below(256) as u8;
        let bytes: Vec<u8> = (0..length).map(|at| fill.wrapping_add(at as u8)).collect();
        let bytes = Bytes::from(bytes);
        let key = (partition, base);
        let position = {
            let mut model = self.model.borrow_mut();
            let known = model.segments.entry(key).or_default();
            known.bytes.extend(&bytes);
            known.bytes.len() - length
        };
        let file = self.open(key).await?;
        let written = self
            .io
            .write_at(&file, vec![bytes.clone()], position as u64)
            .await;
        written.map_err(JournalError::io("write", &path(key)))?;
        let lsn = self.journal.append(&Append {
            topic_id: TOPIC,
            partition,
            segment_base: base,
            position: position as u64,
            buffers: &[bytes.slice(..length / 3), bytes.slice(length / 3..)],
        })?;
        drop(room);
        let mut model = self.model.borrow_mut();
        model.appended += length as u64;
        model.waiting.push((lsn, key, position + length));
        Ok(())
    }

    async fn open(&self, key: Key) -> Result<File, JournalError> {
        let path = path(key);
        let file = self.io.open(&path, OpenMode::Create).await;
        file.map_err(JournalError::io("open", &path))
    }

    async fn acknowledge(&mut self) -> Result<(), JournalError> {
        let Some((lsn, ..)) = self.model.borrow().waiting.last().copied() else {
            return Ok(());
        };
        self.journal.durable(lsn).await?;
        self.model
            .borrow_mut()
            .acknowledge(self.journal.durable_lsn());
        Ok(())
    }

    /// Cuts the partition in its last or last but one segment.
    async fn truncate(&mut self, partition: i32) -> Result<(), JournalError> {
        self.acknowledge().await?;
        let (key, cut, above) = {
            let mut model = self.model.borrow_mut();
            let of_partition = model.segments.range((partition, 0)..=(partition, i64::MAX));
            let bases: Vec<i64> = of_partition.map(|((_, base), _)| *base).collect();
            let keep = bases
                .len()
                .saturating_sub(1 + self.random.below(2) as usize);
            let Some(base) = bases.get(keep).copied() else {
                return Ok(());
            };
            let key = (partition, base);
            let known = model.segments.get_mut(&key).unwrap();
            let cut = self.random.below(known.bytes.len() as u64 + 1) as usize;
            // From now on less is promised: until the cut is durable, either is right.
            known.bytes.truncate(cut);
            known.promised = known.promised.min(cut);
            let above = bases[keep + 1..].to_vec();
            model
                .segments
                .retain(|(other, at), _| *other != partition || *at <= base);
            (key, cut as u64, above)
        };
        let file = self.open(key).await?;
        let done = self.io.truncate(&file, cut).await;
        done.map_err(JournalError::io("truncate", &path(key)))?;
        for base in above {
            let above = path((partition, base));
            let removed = self.io.remove_file(&above).await;
            removed.map_err(JournalError::io("remove", &above))?;
        }
        let lsn = self.journal.append_truncate(TOPIC, partition, key.1, cut)?;
        self.journal.durable(lsn).await
    }

    /// Replaces the first segment of a partition, if it is not the one in use.
    async fn compact(&mut self, partition: i32) -> Result<(), JournalError> {
        self.acknowledge().await?;
        let key = {
            let model = self.model.borrow();
            let mut of_partition = model.segments.range((partition, 0)..=(partition, i64::MAX));
            match (of_partition.next(), of_partition.next()) {
                (Some((key, _)), Some(_)) => *key,
                _ => return Ok(()),
            }
        };
        let file = self.open(key).await?;
        let synced = self.io.sync_data(&file).await;
        synced.map_err(JournalError::io("sync", &path(key)))?;
        let directory = path(key).parent().unwrap().to_owned();
        let synced = self.io.sync_directory(&directory).await;
        synced.map_err(JournalError::io("sync", &directory))?;
        let lsn = self.journal.append_forget(TOPIC, partition, key.1 + 1)?;
        self.journal.durable(lsn).await?;
        let new: Vec<u8> = {
            let mut model = self.model.borrow_mut();
            let known = model.segments.get_mut(&key).unwrap();
            let new: Vec<u8> = known.bytes.iter().step_by(2).map(|byte| !byte).collect();
            known.replacement = Some(new.clone());
            new
        };
        let replaced = self.io.replace_file(&path(key), Bytes::from(new)).await;
        replaced.map_err(JournalError::io("replace", &path(key)))?;
        let mut model = self.model.borrow_mut();
        let known = model.segments.get_mut(&key).unwrap();
        known.bytes = known.replacement.take().unwrap();
        known.promised = known.bytes.len();
        Ok(())
    }
}

/// What is promised must be on the disk; a compaction in progress is settled by what is there.
fn verify(world: &World, model: &Shared, what: &str) {
    let mut model = model.borrow_mut();
    for (key, known) in &mut model.segments {
        let replacement = known.replacement.take();
        if known.promised == 0 && replacement.is_none() {
            continue;
        }
        let found = world.read_file(path(*key)).unwrap_or_default();
        if let Some(replacement) = replacement.filter(|bytes| *bytes == found) {
            known.promised = replacement.len();
            known.bytes = replacement;
            continue;
        }
        let expected = &known.bytes[..known.promised];
        let same = found
            .iter()
            .zip(expected)
            .take_while(|(a, b)| a == b)
            .count();
        assert_eq!(
            same, known.promised,
            "{what}: bytes that hold of segment {key:?}"
        );
    }
}

fn start(world: &World) -> Io {
    Io::simulated(world)
}

/// Replays until it was not interrupted; says how often it was.
fn replay_with_interruptions(world: &World, random: &mut Random, what: &str) -> (Io, u64) {
    let mut interruptions = 0;
    loop {
        let io = start(world);
        let result = Rc::new(RefCell::new(None));
        let (slot, shard) = (result.clone(), io.clone());
        io.spawn(async move {
            let report = replay_all(shard).await;
            slot.replace(Some(report));
        });
        let patience = match random.below(3) {
            0 if interruptions < 5 => Duration::from_micros(random.below(20_000)),
            _ => Duration::from_secs(3600),
        };
        if world.run(std::slice::from_ref(&io), patience, || {
            result.borrow().is_some()
        }) {
            match result.take().unwrap() {
                Ok(report) => {
                    assert_eq!(report.damaged, [], "{what}");
                    return (io, interruptions);
                }
                // A fault that was planned for the life before; the next start tries again.
                Err(error) => assert!(error.to_string().contains("os error 5"), "{error}"),
            }
        }
        interruptions += 1;
        world.crash();
        io.clear_tasks();
    }
}

fn has_journal_files(world: &World) -> bool {
    let files = world.files();
    files
        .iter()
        .any(|(name, _)| name.contains(".ringlog-journal-"))
}

/// Several lives in one world; returns bytes appended, checkpoints' bytes and interruptions.
fn history(seed: u64) -> (u64, u64, u64) {
    let world = World::with_config(seed, Config::default());
    for partition in 0..PARTITIONS {
        let file = format!("{DIRECTORY}/topic-{partition}/partition.metadata");
        world.write_file(file, "version: 0").unwrap();
    }
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let model = Shared::default();
    let (mut written, mut interruptions) = (0, 0);
    for life in 0..4 {
        let what = format!("seed {seed}, life {life}");
        let (io, interrupted) = replay_with_interruptions(&world, &mut random, &what);
        interruptions += interrupted;
        verify(&world, &model, &what);
        assert!(!has_journal_files(&world), "{what}");
        if random.below(3) == 0 {
            // What a replay has brought back is durable, and the journal does not come back.
            world.crash();
            io.clear_tasks();
            let (_, _) = replay_with_interruptions(&world, &mut random, &what);
            verify(&world, &model, &what);
        }
        let io = start(&world);
        let shards = [io.clone()];
        let (shard, shared) = (io.clone(), model.clone());
        let recovered = world.block_on(&shards, async move { recover(&shard, &shared).await });
        recovered.unwrap();
        let shard = io.clone();
        let opened = world.block_on(
            &shards,
            async move { Journal::open(&shard, options()).await },
        );
        let journal = opened.unwrap();
        let (handle, shard, shared) = (journal.clone(), io.clone(), model.clone());
        io.spawn(async move {
            let flush = async || flush(shard.clone(), shared.clone()).await;
            let _ = run_checkpoints(handle, flush).await;
        });
        let life = Life {
            io: io.clone(),
            journal: journal.clone(),
            random: Random(random.below(u64::MAX) | 1),
            model: model.clone(),
        };
        io.spawn(async move {
            let _ = life.run().await;
        });
        if random.below(4) == 0 {
            world.run_for(&shards, Duration::from_micros(random.below(100_000)));
            world.fail_next(Fault::WriteError, ".ringlog-journal-");
        }
        world.run_for(&shards, Duration::from_micros(random.below(400_000)));
        model.borrow_mut().acknowledge(journal.durable_lsn());
        written += journal.stats().bytes_written;
        if random.below(3) == 0 {
            world.kill();
        } else {
            world.crash();
        }
        io.clear_tasks();
    }
    (model.borrow().appended, written, interruptions)
}

#[test]
fn nothing_acknowledged_is_lost_in_random_histories() {
    let seeds: u64 = std::env::var("RINGLOG_SEEDS").map_or(60, |text| text.parse().unwrap());
    let (mut appended, mut written, mut interruptions) = (0, 0, 0);
    for seed in 1..=seeds {
        let (more, bytes, times) = history(seed);
        appended += more;
        written += bytes;
        interruptions += times;
    }
    // The histories must be worth something: the ring went round, replays were cut off.
    assert!(appended > seeds * 200_000, "{appended} bytes appended");
    assert!(
        written > appended && interruptions > seeds / 4,
        "{interruptions} interruptions"
    );
}

#[test]
fn a_failed_group_is_never_acknowledged_nor_retried() {
    let world = World::new(7);
    world
        .write_file(format!("{DIRECTORY}/meta.properties"), "")
        .unwrap();
    let io = start(&world);
    let (shard, outside) = (io.clone(), world.clone());
    world.block_on(std::slice::from_ref(&io), async move {
        let journal = Journal::open(&shard, options()).await.unwrap();
        let first = super::append(&journal, 0, 0, b"safe");
        journal.durable(first).await.unwrap();
        outside.fail_next(Fault::WriteError, ".ringlog-journal-0-000000");
        let second = super::append(&journal, 0, 4, b"lost");
        let failed = journal.durable(second).await;
        assert!(
            matches!(failed, Err(JournalError::Poisoned(_))),
            "{failed:?}"
        );
        assert_eq!(journal.stats().groups, 1);
        assert!(journal.reserve(1).await.is_err());
    });
}
