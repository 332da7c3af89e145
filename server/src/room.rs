//! Room on disk: below `ringlog.disk.reserve.bytes` of free space produce requests are refused at once,
//! so that what must go on can go on: checkpoints, deletions, committed offsets, a clean stop.
//!
//! | free space | what is refused |
//! |---|---|
//! | the reserve, or more | nothing |
//! | less | appends of clients |
//! | less than half of it | appends of coordinators, too |
//!
//! The **ballast** is a file in the data directory, as large as a start and a look of retention need.
//! It is given up when the disk is full all the same (others write there, too, or it was full at the
//! start), and made again when there is room; while it is not there, the reserve is larger by its
//! size, so that no record takes its place. Shard 0 looks, the more often the less is left: at least
//! as often as a fast disk could fill what is above the reserve.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use ringlog_engine::io::{Io, OpenMode};

use crate::broker::Broker;
use crate::config::{BrokerConfig, Durability};
use crate::shard::Shard;

/// Name of the ballast, below the data directory.
pub const BALLAST_FILE: &str = ".ringlog-ballast";
/// What checkpoints, ZooKeeper's store and new segments' files may need at a start, beside journals.
const BALLAST_BYTES: u64 = 16 << 20;
/// Nothing fills a disk faster.
const FILL_BYTES_PER_SECOND: u64 = 2 << 30;
const LOOK_MIN: Duration = Duration::from_millis(20);
const LOOK_MAX: Duration = Duration::from_secs(1);

const ENOUGH: u8 = 0;
const LOW: u8 = 1;
const VERY_LOW: u8 = 2;

/// Who wants to append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appender {
    /// A producer.
    Client,
    /// A coordinator of this broker.
    Coordinator,
}

/// How much room the broker's directories have; shared by all shards.
#[derive(Debug)]
pub struct Room {
    reserve_bytes: u64,
    /// The log directories, and last, if there are any, the directory of the journals.
    places: Vec<(PathBuf, AtomicU8)>,
    log_directories: usize,
    /// The lowest of all.
    lowest: AtomicU8,
}

impl Room {
    /// Room enough, until somebody looks.
    #[must_use]
    pub fn new(config: &BrokerConfig) -> Room {
        let mut directories = config.log_dirs.clone();
        let log_directories = directories.len();
        if config.ringlog.durability == Durability::Durable {
            directories.push(config.ringlog.journal_dir.clone());
        }
        let place = |directory| (directory, AtomicU8::new(ENOUGH));
        Room {
            reserve_bytes: config.ringlog.disk_reserve_bytes,
            places: directories.into_iter().map(place).collect(),
            log_directories,
            lowest: AtomicU8::new(ENOUGH),
        }
    }

    /// Why an append to a partition's directory is refused, if it is. One load where there is room.
    pub fn refusal(&self, partition: impl Fn() -> PathBuf, appender: Appender) -> Option<String> {
        let limit = match appender {
            Appender::Client => LOW,
            Appender::Coordinator => VERY_LOW,
        };
        if self.lowest.load(Ordering::Relaxed) < limit {
            return None;
        }
        let partition = partition();
        let log_directory = partition.parent();
        // The journal takes the records of all log directories.
        let (logs, journal) = self.places.split_at(self.log_directories);
        let own = logs
            .iter()
            .filter(|(path, _)| Some(path.as_path()) == log_directory);
        let (path, _) = own
            .chain(journal)
            .find(|(_, level)| level.load(Ordering::Relaxed) >= limit)?;
        Some(format!(
            "{} has less free space than ringlog.disk.reserve.bytes={} leaves to records: they are \
             taken again as soon as there is room",
            path.display(),
            self.reserve_bytes
        ))
    }

    /// Takes note of the free bytes of a place; gives whether its level has changed.
    fn note(&self, at: usize, usable_bytes: u64, reserve_bytes: u64) -> Option<u8> {
        let level = match usable_bytes {
            _ if usable_bytes >= reserve_bytes => ENOUGH,
            _ if usable_bytes >= reserve_bytes / 2 => LOW,
            _ => VERY_LOW,
        };
        let before = self.places[at].1.swap(level, Ordering::Relaxed);
        let levels = self
            .places
            .iter()
            .map(|(_, level)| level.load(Ordering::Relaxed));
        self.lowest
            .store(levels.max().unwrap_or(ENOUGH), Ordering::Relaxed);
        (before != level).then_some(level)
    }
}

/// Looks at all places once; gives the fewest bytes that any has above the reserve.
pub async fn look(io: &Io, broker: &Broker) -> u64 {
    let room = &broker.room;
    let mut spare = u64::MAX;
    let mut reserve = room.reserve_bytes;
    if reserve > 0 && !is_there(io, &broker.config.ringlog.data_dir).await {
        reserve += ballast_bytes(&broker.config);
    }
    for (at, (path, _)) in room.places.iter().enumerate() {
        // A directory that cannot be looked at is found out by whoever writes there.
        let Ok(volume) = io.volume(path).await else {
            continue;
        };
        let usable = volume.usable_bytes;
        spare = spare.min(usable.saturating_sub(reserve));
        match room.note(at, usable, reserve) {
            None => {}
            Some(ENOUGH) => log::info!(
                "{} has {usable} bytes of free space: records are taken again",
                path.display()
            ),
            Some(_) => log::warn!(
                "{} has {usable} bytes of free space, less than ringlog.disk.reserve.bytes={}: records \
                 are refused with KAFKA_STORAGE_ERROR until there is more; delete topics or records, \
                 lower retention, or enlarge the disk",
                path.display(),
                room.reserve_bytes
            ),
        }
    }
    spare
}

/// Looks until the shard stops.
pub async fn run(shard: Rc<Shard>) {
    if shard.broker.config.ringlog.disk_reserve_bytes == 0 {
        return;
    }
    while !shard.is_stopping() {
        let spare = look(&shard.io, &shard.broker).await;
        mind_ballast(&shard.io, &shard.broker.config).await;
        let milliseconds = spare / (FILL_BYTES_PER_SECOND / 1000);
        let pause = Duration::from_millis(milliseconds).clamp(LOOK_MIN, LOOK_MAX);
        shard.io.sleep(pause).await;
    }
}

// ---- ballast -----------------------------------------------------------------------------------

fn ballast_bytes(config: &BrokerConfig) -> u64 {
    let journals = config.ringlog.cores as u64 * config.ringlog.journal_file_bytes;
    match config.ringlog.durability {
        Durability::Durable => BALLAST_BYTES + journals,
        Durability::PageCache => BALLAST_BYTES,
    }
}

/// Gives the ballast up if its disk is full, and makes it again if there is room for it twice above the
/// reserve. Without a reserve there is none.
pub async fn mind_ballast(io: &Io, config: &BrokerConfig) {
    let reserve = config.ringlog.disk_reserve_bytes;
    let (path, wanted) = (
        config.ringlog.data_dir.join(BALLAST_FILE),
        ballast_bytes(config),
    );
    let Ok(volume) = io.volume(&config.ringlog.data_dir).await else {
        return;
    };
    let is_there = is_there(io, &config.ringlog.data_dir).await;
    if is_there && volume.usable_bytes < reserve / 2 {
        match io.remove_file(&path).await {
            Ok(()) => log::warn!(
                "{} is given up: {wanted} bytes for checkpoints, deletions and the next start",
                path.display()
            ),
            Err(error) => log::warn!("{}: {error}", path.display()),
        }
    } else if !is_there && reserve > 0 && volume.usable_bytes > reserve.saturating_add(2 * wanted) {
        let made = async {
            let file = io.open(&path, OpenMode::Create).await?;
            io.allocate(&file, wanted).await
        };
        if let Err(error) = made.await {
            log::warn!("No ballast {}: {error}", path.display());
            let _ = io.remove_file(&path).await;
        }
    }
}

async fn is_there(io: &Io, data_dir: &Path) -> bool {
    let open = io.open(&data_dir.join(BALLAST_FILE), OpenMode::Read).await;
    open.is_ok()
}
