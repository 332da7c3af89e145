//! Compaction: against a model of what must stay, with transactions, and with the power failing at any
//! step of it. On the simulator.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::io::sim::World;
use crate::record::builder::TransactionMarker;
use crate::record::{BatchReader, Record};

const HOUR_MS: i64 = 3_600_000;

/// What a test knows of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    timestamp: i64,
}

type Contents = BTreeMap<i64, Seen>;

fn compacted() -> LogConfig {
    LogConfig {
        is_compacted: true,
        ..small()
    }
}

fn settings(now_ms: i64) -> CleanerSettings {
    CleanerSettings {
        now_ms,
        delete_retention_ms: HOUR_MS,
        map_bytes: 1 << 20,
        map_load_factor: 0.9,
        chunk_bytes: 4096,
        bytes_per_second: None,
        salt: 5,
    }
}

fn limits(log: &Log, clean_to: Option<i64>) -> CompactionLimits {
    CompactionLimits {
        clean_to,
        high_watermark: log.log_end_offset(),
        now_ms: 1,
        lag_ms_min: 0,
        lag_ms_max: i64::MAX,
    }
}

async fn compact(log: &Log, clean_to: Option<i64>, settings: &CleanerSettings) -> i64 {
    log.flush().await.unwrap();
    let dirt = log.dirt(&limits(log, clean_to)).await.unwrap().unwrap();
    let done = log.compact(&dirt, settings, &BTreeMap::new()).await;
    let Some(done) = done.unwrap() else {
        return dirt.first_dirty;
    };
    for deleted in done.deleted {
        deleted.remove_files(log.io()).await.unwrap();
    }
    done.clean_to
}

/// All data records, and the headers; each batch's CRC is checked.
async fn contents(log: &Log) -> (Contents, Vec<BatchHeader>) {
    let mut records = Contents::new();
    let mut headers = Vec::new();
    let mut offset = log.log_start_offset();
    let end = log.end_position();
    while let Some(slice) = log.read(offset, 1 << 20, end, true).await.unwrap() {
        let bytes = slice_bytes(log, &slice).await;
        for batch in crate::record::batch::iterate(&bytes) {
            let batch = batch.unwrap();
            batch.header.check_crc(batch.bytes).unwrap();
            offset = batch.header.next_offset();
            headers.push(batch.header);
            if batch.header.is_control() {
                continue;
            }
            let reader = BatchReader::open(batch.bytes, 1 << 20).unwrap();
            for record in reader.records() {
                let Record {
                    offset,
                    timestamp,
                    key,
                    value,
                    ..
                } = record.unwrap();
                let seen = Seen {
                    key: key.unwrap_or_default().to_vec(),
                    value: value.map(<[u8]>::to_vec),
                    timestamp,
                };
                assert_eq!(records.insert(offset, seen), None, "offset {offset} twice");
            }
        }
    }
    (records, headers)
}

/// Appends a batch of random keys; gives its records.
async fn append_random(log: &Log, random: &mut Random, time_ms: i64) -> Contents {
    let codecs = [
        Compression::None,
        Compression::Lz4,
        Compression::Zstd,
        Compression::Gzip,
        Compression::Snappy,
    ];
    let codec = codecs[random.below(5) as usize];
    let mut builder = BatchBuilder::new(codec);
    let mut seen = Vec::new();
    for i in 0..1 + random.below(5) as i64 {
        let key = random.below(40).to_be_bytes().to_vec();
        let value = vec![random.next() as u8; random.below(200) as usize];
        let value = (random.below(4) > 0).then_some(value);
        let timestamp = time_ms + i;
        builder
            .append(timestamp, Some(&key), value.as_deref(), &[])
            .unwrap();
        seen.push(Seen {
            key,
            value,
            timestamp,
        });
    }
    let bytes = builder.build().unwrap().freeze();
    let header = BatchHeader::parse(&bytes).unwrap();
    let batches = vec![AppendBatch { header, bytes }];
    let appended = log.append(batches, 3, at(time_ms)).await.unwrap();
    (appended.base_offset..).zip(seen).collect()
}

fn on<T: 'static, F: Future<Output = T> + 'static>(
    world: &World,
    test: impl FnOnce(SegmentFiles) -> F,
) -> T {
    let io = Io::simulated(world);
    let files = SegmentFiles::new(&io, 8, 1 << 20);
    let result = world.block_on(std::slice::from_ref(&io), test(files));
    io.clear_tasks();
    result
}

async fn create(files: &SegmentFiles) -> Log {
    let log = Log::create(files, Path::new("/t-0"), TOPIC_ID, compacted());
    log.await.unwrap()
}

async fn open_again(files: &SegmentFiles, recovery_point: i64) -> Log {
    let opening = unclean(recovery_point);
    let directory = Path::new("/t-0");
    let visitor = &mut |_: &BatchHeader, _: &[u8]| {};
    let log = Log::open(files, directory, compacted(), opening, visitor);
    log.await.unwrap().0
}

/// What must be there: the last record of each key (a tombstone may be gone), all from `clean_to` on;
/// what must not: records with a later one of the same key below `clean_to`, and what was not written.
fn check(written: &Contents, found: &Contents, clean_to: i64, has_tombstones: bool, context: &str) {
    let last_below = last_of_keys(written, clean_to);
    let last = last_of_keys(written, i64::MAX);
    for (offset, seen) in written {
        let found = found.get(offset);
        assert!(
            found.is_none_or(|found| found == seen),
            "{context}: offset {offset}"
        );
        let is_new = *offset >= clean_to;
        let is_value = seen.value.is_some() || has_tombstones;
        if is_new || last[&*seen.key] == *offset && is_value {
            assert!(found.is_some(), "{context}: offset {offset} is missing");
        } else if last_below[&*seen.key] != *offset {
            assert!(found.is_none(), "{context}: offset {offset} should be gone");
        }
    }
    let foreign = found.keys().find(|offset| !written.contains_key(offset));
    assert_eq!(foreign, None, "{context}");
}

/// The last offset below `end` of each key.
fn last_of_keys(written: &Contents, end: i64) -> BTreeMap<&[u8], i64> {
    let range = written.range(..end);
    range.map(|(offset, seen)| (&*seen.key, *offset)).collect()
}

#[test]
fn the_last_record_of_each_key_stays() {
    for seed in 1..40_u64 {
        let world = World::new(seed);
        on(&world, async move |files| {
            let mut random = Random(seed);
            let log = create(&files).await;
            let (mut written, mut clean_to, mut now_ms) = (Contents::new(), None, 1000);
            for round in 0..6 {
                for _ in 0..random.below(80) {
                    now_ms += 1;
                    written.extend(append_random(&log, &mut random, now_ms).await);
                }
                let mut settings = settings(now_ms);
                if random.below(3) == 0 {
                    // Room for few keys: a round comes to the middle of a segment.
                    settings.map_bytes = 256 * 24 * 4 + random.below(1000);
                    settings.map_load_factor = 0.01;
                }
                let end = log.log_end_offset();
                let reached = compact(&log, clean_to, &settings).await;
                assert!(reached >= clean_to.unwrap_or(0), "seed {seed}");
                clean_to = Some(reached);
                let context = format!("seed {seed} round {round}, clean to {reached}");
                let (found, headers) = contents(&log).await;
                check(&written, &found, reached, true, &context);
                assert_eq!(log.log_end_offset(), end);
                let is_ordered = |pair: &[BatchHeader]| pair[0].last_offset() < pair[1].base_offset;
                assert!(headers.windows(2).all(is_ordered), "{context}");
                // What is gone stays out of it.
                written.retain(|offset, _| found.contains_key(offset));
            }
            let clean_to = clean_to.unwrap();
            let (found, _) = contents(&log).await;
            let end = log.close().await.unwrap();
            drop(log);
            let opening = clean(end);
            let directory = Path::new("/t-0");
            let visitor = &mut |_: &BatchHeader, _: &[u8]| {};
            let log = Log::open(&files, directory, compacted(), opening, visitor);
            let log = log.await.unwrap().0;
            assert_eq!(contents(&log).await.0, found, "seed {seed} opened again");
            // Two rounds later, when their time has come, tombstones are gone.
            for round in 1..3 {
                for _ in 0..30 {
                    written.extend(append_random(&log, &mut random, now_ms).await);
                }
                let settings = settings(now_ms + round * 2 * HOUR_MS);
                let reached = compact(&log, Some(clean_to), &settings).await;
                let (found, _) = contents(&log).await;
                check(
                    &written,
                    &found,
                    reached,
                    false,
                    &format!("seed {seed} later {round}"),
                );
                let is_old = |offset: &i64| *offset < clean_to;
                let old = found.iter().filter(|(offset, _)| is_old(offset));
                if round == 2 {
                    assert!(
                        old.clone().all(|(_, seen)| seen.value.is_some()),
                        "seed {seed}"
                    );
                }
                written.retain(|offset, _| found.contains_key(offset));
            }
        });
    }
}

/// What a crash has left: everything, or what compaction leaves, or for some keys this and for others
/// that. The last record of each key is there.
fn outcome(seed: u64, found: &Contents, written: &Contents, uncleanable: i64) -> &'static str {
    let last = last_of_keys(written, uncleanable);
    for (offset, seen) in written {
        let must = *offset >= uncleanable || last[&*seen.key] == *offset;
        let found = found.get(offset);
        assert!(
            !must || found == Some(seen),
            "seed {seed}: offset {offset} is missing"
        );
    }
    assert!(found.keys().all(|offset| written.contains_key(offset)));
    // Group by group: in between, some are compacted and others not yet.
    let is_after = found
        .range(..uncleanable)
        .all(|(offset, seen)| last[&*seen.key] == *offset);
    match (found == written, is_after) {
        (true, _) => "before",
        (false, false) => "in between",
        (false, true) => "after",
    }
}

/// A round of compaction for that many steps of the world; whether it was done by then.
fn compact_for(world: &World, io: &Io, log: &Rc<Log>, mut steps: u64) -> bool {
    let round = log.clone();
    let is_done = Rc::new(Cell::new(false));
    let done = is_done.clone();
    io.spawn(async move {
        compact(&round, None, &settings(1000)).await;
        done.set(true);
    });
    world.run(std::slice::from_ref(io), Duration::from_secs(3600), || {
        steps -= 1;
        steps == 0 || is_done.get()
    });
    is_done.get()
}

#[test]
fn a_crash_at_any_step_leaves_the_log_before_or_after() {
    let mut outcomes = BTreeSet::new();
    for seed in 1..400_u64 {
        let world = World::new(seed);
        let io = Io::simulated(&world);
        let files = SegmentFiles::new(&io, 8, 1 << 20);
        let ios = [io.clone()];
        let setup = async move {
            let mut random = Random(seed * 977);
            let log = create(&files).await;
            let mut written = Contents::new();
            for i in 0..60 {
                written.extend(append_random(&log, &mut random, i).await);
            }
            log.flush().await.unwrap();
            (Rc::new(log), written)
        };
        let (log, written) = world.block_on(&ios, setup);
        let (end, recovery_point) = (log.log_end_offset(), log.recovery_point());
        let uncleanable = log.segments().last().unwrap().base_offset;
        // Any number of steps, few as likely as many.
        let mut random = Random(seed);
        let bits = 1 + random.below(9);
        compact_for(&world, &io, &log, 1 + random.below(1 << bits));
        if random.below(3) == 0 {
            world.kill();
        } else {
            world.crash();
        }
        io.clear_tasks();
        drop(log);
        // The second start may be cut short, too.
        for attempt in 0..2 {
            let io = Io::simulated(&world);
            let ios = [io.clone()];
            let files = SegmentFiles::new(&io, 8, 1 << 20);
            let opened = Rc::new(Cell::new(false));
            let is_open = opened.clone();
            if attempt == 0 && random.below(2) == 0 {
                io.spawn(async move {
                    open_again(&files, recovery_point).await;
                    is_open.set(true);
                });
                let mut steps = 1 + random.below(40);
                world.run(&ios, Duration::from_secs(3600), || {
                    steps -= 1;
                    steps == 0 || opened.get()
                });
                world.crash();
                io.clear_tasks();
                continue;
            }
            let found = world.block_on(&ios, async move {
                let log = open_again(&files, recovery_point).await;
                assert_eq!(log.log_end_offset(), end, "seed {seed}");
                contents(&log).await.0
            });
            io.clear_tasks();
            outcomes.insert(outcome(seed, &found, &written, uncleanable));
        }
    }
    eprintln!("{outcomes:?}");
    assert_eq!(outcomes, BTreeSet::from(["before", "in between", "after"]));
}

/// tests/sim, seed 8481: the start removed only the segments up to the last record that had stayed.
#[test]
fn a_start_removes_all_that_is_replaced_also_where_no_record_has_stayed() {
    let mut outcomes = BTreeSet::new();
    for limit in 1..400 {
        let world = World::new(1);
        let io = Io::simulated(&world);
        let files = SegmentFiles::new(&io, 8, 1 << 20);
        let ios = [io.clone()];
        let setup = async move {
            let log = create(&files).await;
            // Two that become one, of which nothing stays; one that has no room beside them.
            for value_bytes in [10, 10, 3900] {
                append(&log, &[1], value_bytes).await;
                assert!(log.roll_segment_at(log.end_position()).await.unwrap());
            }
            append(&log, &[2], 10).await;
            log.flush().await.unwrap();
            Rc::new(log)
        };
        let log = world.block_on(&ios, setup);
        let recovery_point = log.recovery_point();
        let is_done = compact_for(&world, &io, &log, limit);
        world.kill();
        io.clear_tasks();
        drop(log);
        let found = on(&world, async move |files| {
            let log = open_again(&files, recovery_point).await;
            contents(&log).await.0
        });
        let offsets: Vec<i64> = found.into_keys().collect();
        outcomes.insert(offsets);
        if is_done {
            break;
        }
    }
    assert_eq!(outcomes, BTreeSet::from([vec![0, 1, 2, 3], vec![2, 3]]));
}

/// One batch of a producer: a key for each of `keys`.
async fn append_transactional(log: &Log, producer: (i64, i32), keys: &[&str], value: &str) -> i64 {
    let mut builder = BatchBuilder::new(Compression::None)
        .producer(producer.0, 0, producer.1)
        .transactional();
    for key in keys {
        let (key, value) = (Some(key.as_bytes()), Some(value.as_bytes()));
        builder.append(5, key, value, &[]).unwrap();
    }
    let bytes = builder.build().unwrap().freeze();
    let header = BatchHeader::parse(&bytes).unwrap();
    let batches = vec![AppendBatch { header, bytes }];
    log.append(batches, 3, at(5)).await.unwrap().base_offset
}

async fn end(log: &Log, producer: i64, how: TransactionMarker) -> i64 {
    let bytes = how.build(0, (producer, 0), 0, 5).unwrap().freeze();
    let header = BatchHeader::parse(&bytes).unwrap();
    let batches = vec![AppendBatch { header, bytes }];
    log.append(batches, 3, at(5)).await.unwrap().base_offset
}

/// Fills the active segment and rolls it, so that all before it may be compacted.
async fn roll(log: &Log, name: &str) {
    append_transactional(log, (99, 0), &[name], "fill").await;
    end(log, 99, TransactionMarker::Commit).await;
    assert!(log.roll_segment_at(log.end_position()).await.unwrap());
}

#[test]
fn aborted_records_go_markers_go_later_and_open_transactions_wait() {
    let world = World::new(1);
    on(&world, async |files| {
        let log = create(&files).await;
        let committed = append_transactional(&log, (1, 0), &["a", "b"], "committed").await;
        let commit = end(&log, 1, TransactionMarker::Commit).await;
        let aborted = append_transactional(&log, (2, 0), &["a", "c"], "aborted").await;
        let abort = end(&log, 2, TransactionMarker::Abort).await;
        roll(&log, "x").await;
        let open = append_transactional(&log, (3, 0), &["b"], "open").await;
        roll(&log, "y").await;
        roll(&log, "z").await;

        let reached = compact(&log, None, &settings(1000)).await;
        assert!(reached <= open, "an open transaction was compacted");
        let (found, headers) = contents(&log).await;
        // The aborted "a" is no reason for the committed one to go.
        assert_eq!(found[&committed].value.as_deref(), Some(&b"committed"[..]));
        assert!(!found.contains_key(&aborted) && !found.contains_key(&(aborted + 1)));
        assert!(found.contains_key(&open));
        let marker = |headers: &[BatchHeader], offset: i64| {
            let is_it = |header: &&BatchHeader| header.base_offset == offset;
            headers.iter().find(is_it).copied()
        };
        assert!(marker(&headers, commit).is_some_and(|m| m.delete_horizon_ms().is_none()));
        // Of the aborted one there was data in this round, so its marker stays without a date.
        assert!(marker(&headers, abort).is_some_and(|m| m.delete_horizon_ms().is_none()));

        end(&log, 3, TransactionMarker::Abort).await;
        roll(&log, "w").await;
        let reached = compact(&log, Some(reached), &settings(2000)).await;
        let (found, headers) = contents(&log).await;
        assert!(!found.contains_key(&open) && reached > open);
        let horizon = marker(&headers, abort).and_then(|m| m.delete_horizon_ms());
        assert_eq!(
            horizon,
            Some(2000 + HOUR_MS),
            "nothing of it is left: it may go in an hour"
        );
        assert!(marker(&headers, commit).is_some_and(|m| m.delete_horizon_ms().is_none()));

        roll(&log, "v").await;
        compact(&log, Some(reached), &settings(2000 + HOUR_MS)).await;
        let (found, headers) = contents(&log).await;
        assert!(marker(&headers, abort).is_none());
        assert!(
            marker(&headers, commit).is_some(),
            "its records are still there"
        );
        assert!(found.contains_key(&committed));
    });
}

#[test]
fn the_last_batch_of_a_producer_and_of_the_round_stays_without_records() {
    let world = World::new(1);
    on(&world, async |files| {
        let log = create(&files).await;
        append_transactional(&log, (1, 0), &["a"], "1").await;
        end(&log, 1, TransactionMarker::Commit).await;
        let last = append_transactional(&log, (1, 1), &["a"], "2").await;
        end(&log, 1, TransactionMarker::Commit).await;
        append(&log, &[7], 10).await;
        log.roll_segment_at(log.end_position()).await.unwrap();
        let upper = log.log_end_offset();
        append_transactional(&log, (2, 0), &["a", "k"], "3").await;
        end(&log, 2, TransactionMarker::Commit).await;
        assert!(log.roll_segment_at(log.end_position()).await.unwrap());
        log.flush().await.unwrap();
        let dirt = log.dirt(&limits(&log, None)).await.unwrap().unwrap();
        let known = LastRecord {
            data_offsets: vec![last],
            epoch: 0,
        };
        let producers = BTreeMap::from([(1, known)]);
        let done = log.compact(&dirt, &settings(1000), &producers).await;
        assert_eq!(done.unwrap().unwrap().clean_to, log.log_end_offset());
        let (found, headers) = contents(&log).await;
        assert_eq!(found.len(), 2, "{found:?}");
        let kept = headers.iter().find(|header| header.base_offset == last);
        let kept = kept.expect("the producer's last batch");
        assert_eq!((kept.record_count, kept.base_sequence), (0, 1));
        assert!(headers.iter().all(|header| header.base_offset != upper - 1));
    });
}

#[test]
fn a_damaged_batch_ends_the_round_and_nothing_is_replaced() {
    let world = World::new(3);
    let damage = world.clone();
    on(&world, async move |files| {
        let mut random = Random(3);
        let log = create(&files).await;
        for i in 0..60 {
            append_random(&log, &mut random, i).await;
        }
        log.flush().await.unwrap();
        let before = log.segments();
        damage
            .flip_bit("/t-0/00000000000000000000.log", 200, 1)
            .unwrap();
        let dirt = log.dirt(&limits(&log, None)).await.unwrap().unwrap();
        let done = log.compact(&dirt, &settings(1000), &BTreeMap::new()).await;
        assert!(matches!(done, Err(LogError::Corrupt { .. })), "{done:?}");
        assert_eq!(log.segments(), before);
        assert_eq!(log.poisoned(), None);
    });
}

/// Every other batch has the same key, and each another size.
async fn append_half_superseded(log: &Log, batches: u32) {
    for i in 0..batches {
        let own = i.to_be_bytes();
        let key: &[u8] = if i % 2 == 0 { b"k" } else { &own };
        let mut builder = BatchBuilder::new(Compression::None);
        let value = vec![b'v'; 50 + i as usize];
        builder.append(1000, Some(key), Some(&value), &[]).unwrap();
        let bytes = builder.build().unwrap().freeze();
        let header = BatchHeader::parse(&bytes).unwrap();
        let batches = vec![AppendBatch { header, bytes }];
        log.append(batches, 3, at(1000)).await.unwrap();
    }
}

#[test]
fn a_scrub_begins_a_compacted_segment_again() {
    on(&World::new(1), async |files| {
        let log = create(&files).await;
        append_half_superseded(&log, 60).await;
        let mut at = crate::log::ScrubPosition::default();
        assert!(log.scrub(&mut at, 1).await.unwrap() > Some(0));
        let before = log.size_bytes();
        compact(&log, None, &settings(2000)).await;
        assert!(log.size_bytes() < before);
        let mut read = 0;
        while let Some(bytes) = log.scrub(&mut at, 1000).await.unwrap() {
            read += bytes;
        }
        assert_eq!(log.take_damage(), []);
        assert_eq!(read, log.size_bytes());
    });
}

#[test]
fn a_base_offset_that_cannot_be_ends_the_round() {
    // Beyond the segment, and below the batch before.
    for byte_and_bit in [(5, 1), (7, 2)] {
        let place = Place::new();
        let path = place.partition();
        run(move |files| async move {
            let log = Log::create(&files, &path, TOPIC_ID, compacted());
            let log = log.await.unwrap();
            append_half_superseded(&log, 60).await;
            log.flush().await.unwrap();
            let file = segment_path(&path, 0, SegmentFileKind::Log);
            let mut bytes = std::fs::read(&file).unwrap();
            let third = crate::record::batch::iterate(&bytes).take(2);
            let third: usize = third.map(|batch| batch.unwrap().bytes.len()).sum();
            assert_eq!(bytes[third + 7], 2);
            bytes[third + byte_and_bit.0] ^= byte_and_bit.1;
            std::fs::write(&file, &bytes).unwrap();
            let dirt = log.dirt(&limits(&log, None)).await.unwrap().unwrap();
            let done = log.compact(&dirt, &settings(2000), &BTreeMap::new()).await;
            assert!(matches!(done, Err(LogError::Corrupt { .. })), "{done:?}");
            assert_eq!(std::fs::read(&file).unwrap(), bytes);
        });
    }
}
