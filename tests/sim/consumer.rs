//! Consumers without a group: long polls at the high watermark, and looks at the offsets.

use std::collections::BTreeMap;
use std::rc::Rc;

use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, ListOffsetsRequest};
use ringlog_tests::call::{Fetch, only_partition, topic_name};
use ringlog_tests::random::Random;
use ringlog_tests::records::{Record, read};
use uuid::Uuid;

use crate::connection::{Connection, Lost};
use crate::producer::Target;
use crate::scene::{STABLE_TOPICS, Scene, one_in, pick, within};

/// What the batches of a fetch hold.
pub(crate) struct Batches {
    /// All their records.
    pub(crate) records: Vec<Record>,
    /// The offset behind the last one, if there is any.
    pub(crate) next: Option<i64>,
    /// The high watermark.
    pub(crate) end: i64,
}

/// What one fetch brought.
pub(crate) enum Fetched {
    /// Records.
    Records(Batches),
    /// An error.
    Error(i16),
}

/// One fetch of one partition.
pub(crate) async fn fetch(
    connection: &mut Connection,
    version: i16,
    fetch: &Fetch,
) -> Result<Fetched, Lost> {
    let answer = connection.call(version, &fetch.request(version)).await?;
    let data = only_partition(answer);
    if data.error_code != 0 {
        return Ok(Fetched::Error(data.error_code));
    }
    let contents = read(data.records.as_deref().unwrap_or_default());
    Ok(Fetched::Records(Batches {
        records: contents.records,
        next: contents.next_offset,
        end: data.high_watermark,
    }))
}

/// A fetch of a topic by its name.
pub(crate) fn of(scene: &Scene, (topic, partition): Target, offset: i64) -> Fetch {
    let name = scene.ledger.borrow().topic(topic).name.clone();
    let mut fetch = Fetch::of(&name, Uuid::nil(), offset);
    fetch.partition = partition;
    fetch
}

/// ListOffsets of one partition: error code and offset.
pub(crate) async fn list_offset(
    scene: &Scene,
    connection: &mut Connection,
    target: Target,
    timestamp: i64,
) -> Result<(i16, i64), Lost> {
    let (code, offset, _) = offset_at(scene, connection, target, timestamp).await?;
    Ok((code, offset))
}

/// The same with the timestamp of the answer.
async fn offset_at(
    scene: &Scene,
    connection: &mut Connection,
    (topic, partition): Target,
    timestamp: i64,
) -> Result<(i16, i64, i64), Lost> {
    let name = scene.ledger.borrow().topic(topic).name.clone();
    let partition = ListOffsetsPartition::default()
        .with_partition_index(partition)
        .with_timestamp(timestamp);
    let topic = ListOffsetsTopic::default()
        .with_name(topic_name(&name))
        .with_partitions(vec![partition]);
    let request = ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_topics(vec![topic]);
    let answer = connection.call(1, &request).await?;
    let partition = &answer.topics[0].partitions[0];
    Ok((partition.error_code, partition.offset, partition.timestamp))
}

/// Reads random ones of `targets` until the end.
pub(crate) async fn consume(scene: Rc<Scene>, targets: Vec<Target>, mut random: Random) {
    let mut positions: BTreeMap<Target, i64> = BTreeMap::new();
    while scene.is_open().await {
        let Ok(mut connection) = scene.connect() else {
            scene.pause(within(&mut random, 1, 20)).await;
            continue;
        };
        for _ in 0..within(&mut random, 1, 60) {
            let target = pick(&mut random, &targets);
            let step = if one_in(&mut random, 8) {
                look(&scene, &mut connection, target).await
            } else if one_in(&mut random, 8) {
                look_up_time(&scene, &mut connection, target, &mut random).await
            } else {
                poll(&scene, &mut connection, target, &mut positions, &mut random).await
            };
            if step.is_err() || !scene.is_open().await {
                break;
            }
            scene.pause(random.below(6)).await;
        }
        if one_in(&mut random, 2) {
            connection.reset();
        }
    }
}

/// The ends of a partition.
async fn look(scene: &Scene, connection: &mut Connection, target: Target) -> Result<(), Lost> {
    let before = scene.ledger.borrow().high_watermark(target.0, target.1);
    let start = scene.ledger.borrow().log_start(target.0, target.1);
    let (code, earliest) = list_offset(scene, connection, target, -2).await?;
    if code != 0 {
        scene.tolerate("ListOffsets", code);
        return Ok(());
    }
    scene
        .ledger
        .borrow_mut()
        .show_log_start(target.0, target.1, earliest, start);
    let (code, latest) = list_offset(scene, connection, target, -1).await?;
    if code != 0 {
        scene.tolerate("ListOffsets", code);
        return Ok(());
    }
    let mut ledger = scene.ledger.borrow_mut();
    ledger.show_high_watermark(target.0, target.1, latest, before);
    ledger.count("looks at offsets", 1);
    Ok(())
}

/// The files of a topic's logs; of time indexes what they hold.
fn time_indexes(scene: &Scene, topic: &str) -> String {
    let world = scene.crowd.world();
    let mut lines = String::new();
    for (path, length) in world.files() {
        if path.contains(&format!("/{topic}-")) {
            lines += &format!("{path} {length}");
            if path.ends_with(".timeindex") {
                let bytes = world.read_file(&path).unwrap_or_default();
                for entry in bytes.chunks_exact(12) {
                    let (time, offset) = entry.split_at(8);
                    let time = i64::from_be_bytes(time.try_into().expect("8 bytes"));
                    let offset = u32::from_be_bytes(offset.try_into().expect("4 bytes"));
                    lines += &format!(" +{offset}={time}");
                }
            }
            lines.push('\n');
        }
    }
    lines
}

/// The first record since some time: none that is known to be since then may stand before it.
async fn look_up_time(
    scene: &Scene,
    connection: &mut Connection,
    target: Target,
    random: &mut Random,
) -> Result<(), Lost> {
    let (topic, partition) = target;
    let known = scene
        .ledger
        .borrow()
        .some_timestamp(topic, partition, random.number());
    let Some(known) = known.filter(|_| !scene.ledger.borrow().topic(topic).is_compacted) else {
        return Ok(());
    };
    let wanted = known + pick(random, &[0, 0, 1, -1]);
    let before = scene.ledger.borrow().high_watermark(topic, partition);
    let (code, found, timestamp) = offset_at(scene, connection, target, wanted).await?;
    // What went meanwhile does not count.
    let (later_code, start) = list_offset(scene, connection, target, -2).await?;
    if code != 0 || later_code != 0 {
        scene.tolerate("ListOffsets", code.max(later_code));
        return Ok(());
    }
    let mut ledger = scene.ledger.borrow_mut();
    let first = ledger.first_since(target, wanted, (start, before));
    assert!(
        first.is_none_or(|first| (0..=first).contains(&found)),
        "the first record of {target:?} since {wanted} is said to be {found}, {first:?} is\n{}",
        time_indexes(scene, STABLE_TOPICS[topic].0)
    );
    if found >= 0 {
        let stamped = ledger.timestamp_at(topic, partition, found);
        assert!(
            timestamp >= wanted && stamped.is_none_or(|stamped| stamped == timestamp),
            "offset {found} of {target:?} is said to be of {timestamp}, it is of {stamped:?}, \
             {wanted} was asked for"
        );
    }
    ledger.count("times looked up", 1);
    Ok(())
}

async fn poll(
    scene: &Scene,
    connection: &mut Connection,
    target: Target,
    positions: &mut BTreeMap<Target, i64>,
    random: &mut Random,
) -> Result<(), Lost> {
    let position = positions.entry(target).or_default();
    if one_in(random, 10) {
        *position = scene.ledger.borrow().log_start(target.0, target.1);
    }
    let mut wish = of(scene, target, *position);
    wish.max_wait_ms = pick(random, &[0, 10, 100, 500]);
    wish.min_bytes = pick(random, &[0, 1, 1, 2000]);
    wish.partition_max_bytes = pick(random, &[1, 5000, 1 << 20]);
    let version = pick(random, &[4, 5, 6, 7, 9, 10, 11, 12]);
    let before = scene.ledger.borrow().high_watermark(target.0, target.1);
    let fetched = fetch(connection, version, &wish).await?;
    let Batches { records, next, end } = match fetched {
        Fetched::Records(batches) => batches,
        Fetched::Error(1) => {
            let start = scene.ledger.borrow().log_start(target.0, target.1);
            let (code, earliest) = list_offset(scene, connection, target, -2).await?;
            if code != 0 {
                scene.tolerate("ListOffsets", code);
                return Ok(());
            }
            let mut ledger = scene.ledger.borrow_mut();
            ledger.show_log_start(target.0, target.1, earliest, start);
            assert!(
                *position > before || *position < earliest,
                "offset {position} of {target:?} is out of range, the log begins at {earliest}, \
                 the high watermark was {before}"
            );
            *position = earliest;
            return Ok(());
        }
        Fetched::Error(code) => {
            scene.tolerate("fetch", code);
            return Ok(());
        }
    };
    let mut ledger = scene.ledger.borrow_mut();
    ledger.count("fetch requests", 1);
    ledger.show_high_watermark(target.0, target.1, end, before);
    ledger.fetched(target.0, target.1, &records, end);
    let is_compacted = ledger.topic(target.0).is_compacted;
    match next {
        Some(next) => {
            let first = records.first().map_or(next, |first| first.offset);
            assert!(
                (is_compacted || first <= *position) && *position < next,
                "offset {position} was asked for, {first}..{next} came"
            );
            *position = next;
        }
        None => assert!(
            // A compaction meanwhile may have left nothing below what the broker took for the limit.
            *position >= before || is_compacted,
            "offset {position} of {target:?} is below the high watermark {before}, nothing came"
        ),
    }
    Ok(())
}

/// What a partition has.
pub(crate) struct Contents {
    /// The log start offset.
    pub(crate) start: i64,
    /// All records from there to the high watermark.
    pub(crate) records: Vec<Record>,
    /// The high watermark.
    pub(crate) end: i64,
}

/// Reads all records of a partition, or gives the error.
pub(crate) async fn read_all(
    scene: &Scene,
    connection: &mut Connection,
    target: Target,
) -> Result<Result<Contents, i16>, Lost> {
    'again: loop {
        let (code, start) = list_offset(scene, connection, target, -2).await?;
        if code != 0 {
            return Ok(Err(code));
        }
        let mut records: Vec<Record> = Vec::new();
        let mut next = start;
        loop {
            let mut wish = of(scene, target, next);
            wish.max_bytes = 1 << 20;
            wish.partition_max_bytes = 1 << 20;
            match fetch(connection, 11, &wish).await? {
                // Retention was faster.
                Fetched::Error(1) => continue 'again,
                Fetched::Error(code) => return Ok(Err(code)),
                Fetched::Records(more) => {
                    let end = more.end;
                    let new = more.records.into_iter();
                    records.extend(new.filter(|record| record.offset >= next));
                    let before = next;
                    next = more.next.unwrap_or(next);
                    if next <= before || next >= end {
                        return Ok(Ok(Contents {
                            start,
                            records,
                            end,
                        }));
                    }
                }
            }
        }
    }
}
