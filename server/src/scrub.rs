//! Scrub: reads all logs of a shard in the background, at `ringlog.scrub.bytes.per.second`, so that
//! damage is found before a consumer finds it. Each damaged stretch is told once, with what to do.
//!
//! What is in the page cache is read from there. A pass goes over the partitions one after the other;
//! the next one begins [`PAUSE`] after its end.

use std::rc::Rc;
use std::time::Duration;

use ringlog_engine::log::ScrubPosition;

use crate::partition::Partition;
use crate::shard::Shard;

/// Between two passes: a small data directory is not read all the time.
const PAUSE: Duration = Duration::from_secs(60 * 60);
/// Largest step; a step is a quarter of a second's share.
const STEP_BYTES_MAX: u64 = 1 << 20;
/// What a look at a segment costs at least, so that many empty ones keep to the rate, too.
const STEP_BYTES_MIN: u64 = 4096;

/// Reads until the shard stops; at once nothing, if the rate is 0.
pub async fn run(shard: Rc<Shard>) {
    let of_all = shard.broker.config.ringlog.scrub_bytes_per_second;
    if of_all == 0 {
        return;
    }
    let rate = (of_all / shard.shard_count() as u64).max(1);
    shard.openings.all_opened().await;
    while !shard.is_stopping() {
        for partition in shard.partitions() {
            scrub(&shard, &partition, rate).await;
            if shard.is_stopping() {
                return;
            }
        }
        shard.io.sleep(PAUSE).await;
    }
}

async fn scrub(shard: &Rc<Shard>, partition: &Rc<Partition>, rate: u64) {
    let step = (rate / 4).clamp(STEP_BYTES_MIN, STEP_BYTES_MAX);
    let mut at = ScrubPosition::default();
    while !shard.is_stopping() && shard.has(partition) {
        let read = match partition.log.scrub(&mut at, step).await {
            Ok(Some(read)) => read,
            Ok(None) => return,
            Err(error) => {
                if !shard.has(partition) {
                    return;
                }
                let name = partition.topic().name.clone();
                log::warn!(
                    "Scrub of {name}-{}: {error}: it goes on with the next segment",
                    partition.index
                );
                at.skip_segment();
                0
            }
        };
        tell_damage(partition);
        let nanoseconds = u128::from(read.max(STEP_BYTES_MIN)) * 1_000_000_000 / u128::from(rate);
        let pause = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        shard.io.sleep(pause).await;
    }
}

/// Tells what damage was found in a partition since the last call.
pub fn tell_damage(partition: &Partition) {
    for found in partition.log.take_damage() {
        let (name, damage) = (partition.topic().name.clone(), &found.damage);
        let behind = match damage.next_offset {
            Some(next) => format!("consumers can go on at offset {next}"),
            None => "nothing is behind it".to_owned(),
        };
        log::error!(
            "{name}-{}: {} is damaged at byte {}, {} bytes, from offset {} on ({}): fetches of it get \
             CORRUPT_MESSAGE, {behind}; restore the file from a backup, or stop the broker and see \
             `ringlog fsck`",
            partition.index,
            found.file.display(),
            damage.position,
            damage.end - damage.position,
            damage.offset,
            damage.reason,
        );
    }
}
