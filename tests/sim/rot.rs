//! Bit rot: one bit of a log is flipped behind the broker's back, and everything is read back. Wrong
//! bytes may never come; the damaged batch is refused with CORRUPT_MESSAGE, and all around it is served.

use std::cell::Cell;
use std::rc::Rc;

use ringlog_engine::io::sim::World;
use ringlog_tests::random::Random;

use crate::connection::{Connection, Lost};
use crate::consumer::{Batches, Fetched, fetch, list_offset, of};
use crate::producer::Target;
use crate::scene::{COMPACTED_TOPIC, STABLE_TOPICS, Scene, pick};

const OFFSET_OUT_OF_RANGE: i16 = 1;
const CORRUPT_MESSAGE: i16 = 2;
const NOT_LEADER_OR_FOLLOWER: i16 = 6;
/// Most records that one batch of the clients has.
const BATCH_RECORDS_MAX: u64 = 20;

/// Flips a bit of a log of one of the stable topics, and gives its path; `None` if there is nothing.
pub(crate) fn flip(world: &World, random: &mut Random) -> Option<String> {
    let is_log = |path: &str| {
        let is_stable = |(name, _): &(&str, i32)| path.contains(&format!("/{name}-"));
        path.ends_with(".log") && STABLE_TOPICS.iter().any(is_stable)
    };
    let files = world.files().into_iter();
    let logs: Vec<(String, u64)> = files
        .filter(|(path, length)| *length > 0 && is_log(path))
        .collect();
    if logs.is_empty() {
        return None;
    }
    let places: Vec<usize> = (0..logs.len()).collect();
    let (path, length) = &logs[pick(random, &places)];
    let byte = random.below(*length);
    // Gaps are allowed there, and no checksum covers the base offset of a batch.
    if path.contains(&format!("/{COMPACTED_TOPIC}-")) && is_base_offset(world, path, byte) {
        return None;
    }
    let bit = u32::try_from(random.below(8)).expect("below 8");
    world.flip_bit(path, byte, bit).ok()?;
    crate::scene::tell(&format!(
        "bit {bit} of byte {byte} of {path} ({length} bytes) is flipped"
    ));
    Some(path.clone())
}

/// Whether a byte of a log belongs to the base offset of a batch.
fn is_base_offset(world: &World, path: &str, byte: u64) -> bool {
    let bytes = world.read_file(path).expect("just listed");
    let byte = usize::try_from(byte).expect("inside of the file");
    let mut start = 0;
    while let Some(length) = bytes.get(start + 8..start + 12) {
        let length = u32::from_be_bytes(length.try_into().expect("four bytes"));
        let end = start + 12 + length as usize;
        if byte < end {
            return byte < start + 8;
        }
        start = end;
    }
    false
}

/// Reads all stable topics; `rotten` is the file with the flipped bit.
pub(crate) async fn read_around(scene: Rc<Scene>, rotten: String, is_done: Rc<Cell<bool>>) {
    loop {
        if let Ok(mut connection) = scene.connect()
            && read_all(&scene, &mut connection, &rotten).await.is_ok()
        {
            is_done.set(true);
            return;
        }
        scene.pause(5).await;
    }
}

async fn read_all(scene: &Scene, connection: &mut Connection, rotten: &str) -> Result<(), Lost> {
    for (topic, (name, partitions)) in STABLE_TOPICS.into_iter().enumerate() {
        for partition in 0..partitions {
            let is_rotten = rotten.contains(&format!("/{name}-{partition}/"));
            read(scene, connection, (topic, partition), is_rotten).await?;
        }
    }
    Ok(())
}

async fn read(
    scene: &Scene,
    connection: &mut Connection,
    target: Target,
    is_rotten: bool,
) -> Result<(), Lost> {
    let is_compacted = scene.ledger.borrow().topic(target.0).is_compacted;
    let may_have_holes = scene.ledger.borrow().may_have_holes(target.0);
    let (code, start) = list_offset(scene, connection, target, -2).await?;
    if is_rotten && code == NOT_LEADER_OR_FOLLOWER {
        // A bit of the length of the last batch: where the log ended nobody knows any more, so it is not
        // opened, which its broker tells.
        scene
            .ledger
            .borrow_mut()
            .count("partitions not opened after a flipped bit", 1);
        return Ok(());
    }
    assert_eq!(code, 0, "ListOffsets of {target:?}, rotten: {is_rotten}");
    let mut position = start;
    let mut missing = 0;
    loop {
        match fetch(connection, 11, &of(scene, target, position)).await? {
            Fetched::Records(Batches { records, next, end }) => {
                let mut ledger = scene.ledger.borrow_mut();
                ledger.fetched(target.0, target.1, &records, end);
                let Some(next) = next.filter(|next| *next > position) else {
                    assert!(
                        position >= end || may_have_holes,
                        "nothing at {position} of {target:?}, which ends at {end}"
                    );
                    break;
                };
                let first = records.first().map_or(next, |first| first.offset);
                assert!(
                    is_compacted || first <= position,
                    "{position} of {target:?} was asked for, {first} came"
                );
                position = next;
            }
            Fetched::Error(CORRUPT_MESSAGE) if is_rotten => {
                missing += 1;
                position += 1;
            }
            // Retention was faster.
            Fetched::Error(OFFSET_OUT_OF_RANGE) => {
                let (_, start) = list_offset(scene, connection, target, -2).await?;
                assert!(start > position, "{position} of {target:?} is out of range");
                position = start;
            }
            Fetched::Error(code) => {
                panic!("fetch of {position} of {target:?}, rotten: {is_rotten}: error {code}")
            }
        }
    }
    assert!(
        missing <= BATCH_RECORDS_MAX || is_compacted,
        "{missing} records of {target:?} are lost with one bit"
    );
    let what = if missing > 0 {
        "flipped bits refused"
    } else {
        "partitions read after a flipped bit"
    };
    scene.ledger.borrow_mut().count(what, 1);
    Ok(())
}
