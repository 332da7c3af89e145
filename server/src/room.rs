//! Room on disk: below `ringlog.disk.reserve.bytes` of free space produce requests are refused at once,
//! so that what must go on can go on: checkpoints, deletions, committed offsets, a clean stop.
//!
//! | free space | what is refused |
//! |---|---|
//! | the reserve, or more | nothing |
//! | less | appends of clients |
//! | less than half of it | appends of coordinators, too |
//!
//! The **ballast** is a file in the data directory, as large as a start and a look of retention need, but
//! no larger than the reserve and a small part of the disk. It is given up when the disk is full all the
//! same (others write there, too, or it was full at the start), and made again when there is room; while
//! it is not there, the reserve on its disk is larger by its size, so that no record takes its place.
//! Where it cannot be made, or would take memory (tmpfs), none is wanted. Shard 0 looks, the more often
//! the less is left: at least as often as a fast disk could fill what is above the reserve.
//!
//! **Rest**: where there is room and nothing was appended since the last look, shard 0 looks only now and
//! then ([`REST`]), for the ballast's sake. The first append that comes then looks itself before it goes
//! on ([`wake`]), since others may have filled the disk meanwhile; so does each change of metadata.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future;
use ringlog_engine::io::{Io, OpenMode, Volume};

use crate::broker::Broker;
use crate::config::{BrokerConfig, Durability};
use crate::shard::Shard;

/// Name of the ballast, below the data directory.
pub const BALLAST_FILE: &str = ".ringlog-ballast";
/// What checkpoints, ZooKeeper's store and new segments' files may need at a start, beside journals.
const BALLAST_BYTES: u64 = 16 << 20;
/// No ballast takes more than this part of its disk.
const BALLAST_PART_OF_DISK: u64 = 64;
/// File systems that are memory: a ballast there takes it from everybody (statfs(2)).
const TMPFS_MAGIC: i64 = 0x0102_1994;
const RAMFS_MAGIC: i64 = 0x8584_58f6;
/// Nothing fills a disk faster.
const FILL_BYTES_PER_SECOND: u64 = 2 << 30;
const LOOK_MIN: Duration = Duration::from_millis(20);
const LOOK_MAX: Duration = Duration::from_secs(1);
/// How often shard 0 looks at rest: the ballast goes so long after others have filled the disk.
const REST: Duration = Duration::from_secs(60);

const ENOUGH: u8 = 0;
const LOW: u8 = 1;
const VERY_LOW: u8 = 2;

/// Something was appended since the last look.
const IN_USE: u8 = 0;
/// Nothing was; the next append only says so.
const QUIET: u8 = 1;
/// Nothing was for longer; the next append looks first.
const RESTING: u8 = 2;

/// Who wants to append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appender {
    /// A producer.
    Client,
    /// A coordinator of this broker.
    Coordinator,
}

/// A directory that takes records.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    /// Whether the ballast is on the same disk, or may be.
    is_with_ballast: bool,
    level: AtomicU8,
    /// Free bytes below which the last look refused appends of clients.
    limit_bytes: AtomicU64,
}

/// How much room the broker's directories have; shared by all shards.
#[derive(Debug)]
pub struct Room {
    reserve_bytes: u64,
    /// The log directories, and last, if there are any, the directory of the journals.
    places: Vec<Place>,
    log_directories: usize,
    /// The lowest of all.
    lowest: AtomicU8,
    /// Whether appends come.
    use_of_late: AtomicU8,
    ballast: Ballast,
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
        let of_ballast = device(&config.ringlog.data_dir);
        let place = |path: PathBuf| Place {
            is_with_ballast: of_ballast
                .zip(device(&path))
                .is_none_or(|(ballast, place)| ballast == place),
            path,
            level: AtomicU8::new(ENOUGH),
            limit_bytes: AtomicU64::new(config.ringlog.disk_reserve_bytes),
        };
        Room {
            reserve_bytes: config.ringlog.disk_reserve_bytes,
            places: directories.into_iter().map(place).collect(),
            log_directories,
            lowest: AtomicU8::new(ENOUGH),
            use_of_late: AtomicU8::new(IN_USE),
            ballast: Ballast::new(config),
        }
    }

    /// Whether [`wake`] is to be called before an append. One load, of what seldom changes.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.use_of_late.load(Ordering::Relaxed) != IN_USE
    }

    /// Called after each look of shard 0; whether it may rest: there was room, and nothing was appended
    /// since the look before. An append that slips in between goes by a look of this very moment.
    fn may_rest(&self) -> bool {
        let next = match self.use_of_late.load(Ordering::Relaxed) {
            _ if self.lowest.load(Ordering::Relaxed) != ENOUGH => QUIET,
            IN_USE => QUIET,
            _ => RESTING,
        };
        if next != RESTING {
            self.use_of_late.store(next, Ordering::Relaxed);
            return false;
        }
        // Not over an append's IN_USE of this moment: nobody would end the rest.
        let order = Ordering::Relaxed;
        let begun = self
            .use_of_late
            .compare_exchange(QUIET, RESTING, order, order);
        matches!(begun, Ok(_) | Err(RESTING))
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
            .filter(|place| Some(place.path.as_path()) == log_directory);
        let place = own
            .chain(journal)
            .find(|place| place.level.load(Ordering::Relaxed) >= limit)?;
        Some(format!(
            "{} has less free space than the {} bytes that are kept from records \
             (ringlog.disk.reserve.bytes={}): they are taken again as soon as there is room",
            place.path.display(),
            place.limit_bytes.load(Ordering::Relaxed),
            self.reserve_bytes
        ))
    }

    /// Takes note of the free bytes of a place; gives its level, if that has changed.
    fn note(&self, place: &Place, usable_bytes: u64, limit_bytes: u64) -> Option<u8> {
        let level = match usable_bytes {
            _ if usable_bytes >= limit_bytes => ENOUGH,
            _ if usable_bytes >= limit_bytes / 2 => LOW,
            _ => VERY_LOW,
        };
        place.limit_bytes.store(limit_bytes, Ordering::Relaxed);
        let before = place.level.swap(level, Ordering::Relaxed);
        let levels = self
            .places
            .iter()
            .map(|place| place.level.load(Ordering::Relaxed));
        self.lowest
            .store(levels.max().unwrap_or(ENOUGH), Ordering::Relaxed);
        (before != level).then_some(level)
    }
}

fn device(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|found| found.dev())
}

/// The free space of a place, if that is known: network file systems may tell nothing.
async fn volume(io: &Io, path: &Path) -> Option<Volume> {
    let found = io.volume(path).await.ok();
    found.filter(|volume| volume.total_bytes > 0)
}

/// Looks at all places and for the ballast once; gives the fewest bytes that any has above the reserve.
pub async fn look(io: &Io, broker: &Broker) -> u64 {
    broker.room.ballast.count_missing(io).await;
    look_at_places(io, broker).await
}

async fn look_at_places(io: &Io, broker: &Broker) -> u64 {
    let room = &broker.room;
    let mut spare = u64::MAX;
    let missing = room.ballast.missing_bytes.load(Ordering::Relaxed);
    for place in &room.places {
        let path = place.path.display();
        let more = if place.is_with_ballast { missing } else { 0 };
        let limit = room.reserve_bytes.saturating_add(more);
        let Some(volume) = volume(io, &place.path).await else {
            // Whoever writes there finds out; nobody is refused for what is not known.
            if room.note(place, u64::MAX, limit).is_some() {
                log::info!("{path} does not tell its free space: records are taken again");
            }
            continue;
        };
        let usable = volume.usable_bytes;
        spare = spare.min(usable.saturating_sub(limit));
        match room.note(place, usable, limit) {
            None => {}
            Some(ENOUGH) => {
                log::info!("{path} has {usable} bytes of free space: records are taken again");
            }
            Some(_) => log::warn!(
                "{path} has {usable} bytes of free space, less than the {limit} that are kept from \
                 records (ringlog.disk.reserve.bytes={}, {more} for the ballast): they are refused with \
                 KAFKA_STORAGE_ERROR until there is more; delete topics or records, lower retention, or \
                 enlarge the disk",
                room.reserve_bytes
            ),
        }
    }
    spare
}

/// Ends the rest, on any shard and before what it wants to write: after a look, which no write may
/// overtake.
pub async fn wake(shard: &Shard) {
    let (broker, room) = (&shard.broker, &shard.broker.room);
    let was = room.use_of_late.load(Ordering::Relaxed);
    if was == RESTING {
        look_at_places(&shard.io, broker).await;
        if room.lowest.load(Ordering::Relaxed) != ENOUGH {
            room.ballast.release(&shard.io).await;
        }
    }
    let before = room.use_of_late.swap(IN_USE, Ordering::Relaxed);
    if was == RESTING || before == RESTING {
        shard.tell_first(|first| first.room_wanted.notify()).await;
    }
}

/// Looks until the shard stops.
pub async fn run(shard: Rc<Shard>) {
    let room = &shard.broker.room;
    if room.reserve_bytes == 0 {
        return;
    }
    while !shard.is_stopping() {
        let mut spare = look(&shard.io, &shard.broker).await;
        room.ballast.mind(&shard.io).await;
        while room.may_rest() && !shard.is_stopping() {
            let wanted = pin!(shard.room_wanted.notified());
            future::select(wanted, shard.io.sleep(REST)).await;
            spare = look_at_places(&shard.io, &shard.broker).await;
            room.ballast.release_if_known(&shard.io).await;
        }
        let milliseconds = spare / (FILL_BYTES_PER_SECOND / 1000);
        let pause = Duration::from_millis(milliseconds).clamp(LOOK_MIN, LOOK_MAX);
        shard.io.sleep(pause).await;
    }
}

// ---- ballast -----------------------------------------------------------------------------------

/// The file that is given up on a full disk.
#[derive(Debug)]
pub struct Ballast {
    data_dir: PathBuf,
    reserve_bytes: u64,
    /// What a start and a look of retention need; 0 in memory.
    needed_bytes: u64,
    /// What a start cannot do without, whatever the size of the disk: the journals' first files.
    least_bytes: u64,
    /// Whether it was there when it was last looked for.
    is_known: AtomicBool,
    /// What was to be kept free then so that it can be made.
    missing_bytes: AtomicU64,
    /// Whether it could not be made since there was room for it.
    has_failed: AtomicBool,
    /// Whether a failure was told.
    is_told: AtomicBool,
}

impl Ballast {
    /// The ballast of this broker, which may not be there yet.
    #[must_use]
    pub fn new(config: &BrokerConfig) -> Ballast {
        let journals = config.ringlog.cores as u64 * config.ringlog.journal_file_bytes;
        let needed = match config.ringlog.durability {
            _ if is_memory(&config.ringlog.data_dir) => 0,
            Durability::Durable => BALLAST_BYTES + journals,
            Durability::PageCache => BALLAST_BYTES,
        };
        Ballast {
            data_dir: config.ringlog.data_dir.clone(),
            reserve_bytes: config.ringlog.disk_reserve_bytes,
            needed_bytes: needed,
            least_bytes: journals + (1 << 20),
            is_known: AtomicBool::new(false),
            missing_bytes: AtomicU64::new(0),
            has_failed: AtomicBool::new(false),
            is_told: AtomicBool::new(false),
        }
    }

    async fn is_disk_full(&self, io: &Io) -> bool {
        let volume = volume(io, &self.data_dir).await;
        volume.is_some_and(|volume| volume.usable_bytes < self.reserve_bytes / 2)
    }

    /// As [`Ballast::release`], where the last look has seen one: opens nothing before it must.
    async fn release_if_known(&self, io: &Io) {
        if self.is_known.load(Ordering::Relaxed) && self.is_disk_full(io).await {
            self.release(io).await;
        }
    }

    /// Gives the ballast up if its disk is full, or if there is no reserve.
    pub async fn release(&self, io: &Io) {
        if !self.is_there(io).await {
            return;
        }
        let path = self.data_dir.join(BALLAST_FILE);
        let is_full = self.is_disk_full(io).await;
        if self.reserve_bytes > 0 && !is_full {
            return;
        }
        match io.remove_file(&path).await {
            Ok(()) if is_full => log::warn!(
                "{} is given up, for checkpoints, deletions and the next start",
                path.display()
            ),
            Ok(()) => log::info!(
                "{} is removed: ringlog.disk.reserve.bytes=0",
                path.display()
            ),
            Err(error) => log::warn!("{}: {error}", path.display()),
        }
    }

    /// Gives the ballast up if it must be, and makes it again if there is room for it twice above the
    /// reserve.
    async fn mind(&self, io: &Io) {
        self.release(io).await;
        let Some(volume) = volume(io, &self.data_dir).await else {
            return;
        };
        let wanted = self.wanted_bytes(&volume);
        if wanted == 0 || self.is_there(io).await {
            return;
        }
        if volume.usable_bytes <= self.reserve_bytes.saturating_add(2 * wanted) {
            // When there is room again, it may be tried again.
            self.has_failed.store(false, Ordering::Relaxed);
            return;
        }
        if self.has_failed.load(Ordering::Relaxed) {
            return;
        }
        let path = self.data_dir.join(BALLAST_FILE);
        let made = async {
            let file = io.open(&path, OpenMode::Create).await?;
            io.allocate(&file, wanted).await
        };
        if let Err(error) = made.await {
            let _ = io.remove_file(&path).await;
            self.has_failed.store(true, Ordering::Relaxed);
            if !self.is_told.swap(true, Ordering::Relaxed) {
                log::warn!(
                    "{}: {error}: there is no ballast of {wanted} bytes, so a start on a full disk may \
                     fail",
                    path.display()
                );
            }
        }
    }

    fn wanted_bytes(&self, volume: &Volume) -> u64 {
        let most = volume.total_bytes / BALLAST_PART_OF_DISK;
        self.needed_bytes
            .min(self.reserve_bytes)
            .min(most.max(self.least_bytes))
    }

    /// Counts what is to be kept free so that it can be made.
    async fn count_missing(&self, io: &Io) {
        let missing = if self.has_failed.load(Ordering::Relaxed) || self.is_there(io).await {
            0
        } else {
            let volume = volume(io, &self.data_dir).await;
            volume.map_or(0, |volume| self.wanted_bytes(&volume))
        };
        self.missing_bytes.store(missing, Ordering::Relaxed);
    }

    async fn is_there(&self, io: &Io) -> bool {
        let path = self.data_dir.join(BALLAST_FILE);
        let is_there = io.open(&path, OpenMode::Read).await.is_ok();
        self.is_known.store(is_there, Ordering::Relaxed);
        is_there
    }
}

fn is_memory(path: &Path) -> bool {
    // The type is as wide as the machine's word.
    #[expect(
        clippy::unnecessary_cast,
        reason = "f_type is not an i64 on every machine"
    )]
    let kind = rustix::fs::statfs(path).map(|found| found.f_type as i64);
    kind.is_ok_and(|kind| kind == TMPFS_MAGIC || kind == RAMFS_MAGIC)
}
