//! From log directories to a running broker: what is found, replayed, opened.
//!
//! All of it goes through [`Io`], so that the simulator can crash at any point of it. Order:
//! identity, partitions and their topic ids, journals replayed into segments, then each shard
//! opens its partitions ([`open_partitions`]) and recovers those that need it.

mod openings;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use futures_util::future;
use ringlog_engine::io::{DirectoryEntry, Io};
use ringlog_engine::journal::{self, Target};
use ringlog_engine::log::directory::{
    self, DELETE_DIRECTORY_SUFFIX, META_PROPERTIES_FILE, MetaProperties, PartitionDirectory,
    SegmentFileKind, SegmentFileName, segment_path,
};
use ringlog_engine::log::{Log, Opening, SegmentFiles};
use uuid::Uuid;

use crate::config::BrokerConfig;
use crate::group::driver;
use crate::metadata::alter;
use crate::metadata::controller::Controller;
use crate::metadata::doomed;
use crate::metadata::state::{GROUP_TOPIC, Image, Topic};
use crate::metadata::store::{PRODUCER_IDS_FILE, Places, TOPICS_FILE, parse_topics, read_text};
use crate::partition::{Partition, log_config};
use crate::producer_state::ProducerState;
use crate::shard::Shard;

use openings::Openings;
pub(crate) use openings::checkpoint_entry;

/// Partitions that are opened at the same time on one shard.
const OPENED_AT_ONCE: usize = 64;
/// Largest producer snapshot that is read.
const SNAPSHOT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A partition directory that was found.
#[derive(Clone, Debug)]
pub struct FoundPartition {
    /// Where it is.
    pub directory: PathBuf,
    /// How its log is to be opened.
    pub opening: Opening,
}

/// What the log directories hold.
#[derive(Debug)]
pub struct Found {
    /// Id of the cluster.
    pub cluster_id: String,
    /// All topics.
    pub image: Image,
    /// Which log directory has which partition.
    pub places: Places,
    /// All partitions, by topic and number.
    pub partitions: BTreeMap<(String, i32), FoundPartition>,
    /// First producer id that is free.
    pub producer_id: i64,
}

/// Looks through the log directories, makes new ones ready, and replays the journals.
///
/// # Errors
/// What is wrong, where, and what to do.
pub async fn find(
    io: &Io,
    config: &BrokerConfig,
    random: &mut fastrand::Rng,
) -> Result<Found, String> {
    let mut cluster_id = None;
    let mut partitions = BTreeMap::new();
    let mut places = Places::new();
    let first = &config.log_dirs[0];
    let doomed = doomed::read(io, first).await?;
    for (place, log_directory) in config.log_dirs.iter().enumerate() {
        let mut found = find_partitions(io, log_directory).await?;
        identify(io, config, log_directory, &mut cluster_id, found.is_empty()).await?;
        doomed::bury(io, &doomed, &mut found).await?;
        let openings = Openings::read(io, log_directory).await?;
        openings.forget_missing(io, log_directory, &found).await?;
        for (key, directory) in found {
            let opening = openings.of(&key);
            if let Some(twin) =
                partitions.insert(key.clone(), FoundPartition { directory, opening })
            {
                let (topic, index) = key;
                return Err(format!(
                    "partition {topic}-{index} is in two log directories, one is {}: move the \
                     stale one away",
                    twin.directory.display()
                ));
            }
            places.insert(key, place);
        }
    }
    let cluster_id = match cluster_id {
        Some(id) => id,
        None => directory::encode_uuid(
            uuid::Builder::from_random_bytes(random.u128(..).to_be_bytes()).into_uuid(),
        ),
    };
    complete_identity(io, config, &cluster_id).await?;
    if !doomed.is_empty() {
        doomed::clear(io, first).await?;
    }
    let ids = topic_ids(io, &partitions, random).await?;
    replay(io, first, &partitions, &ids).await?;
    let settings = read_text(io, &first.join(TOPICS_FILE)).await?;
    let settings = parse_topics(&settings)
        .map_err(|error| format!("{}: {error}", first.join(TOPICS_FILE).display()))?;
    let producer_ids = read_text(io, &first.join(PRODUCER_IDS_FILE)).await?;
    let mut image = Image::default();
    let brokers = alter::read_broker_overrides(io, first, config.node_id).await?;
    image.set_broker_overrides(brokers, &config.settings);
    add_topics(&mut image, config, &ids, &partitions, &settings)?;
    Ok(Found {
        cluster_id,
        image,
        places,
        partitions,
        producer_id: producer_ids.trim().parse().unwrap_or(0),
    })
}

/// Creates the log directories that are missing, durably, and looks whether the others may be used
/// at all, before anything is written into them.
///
/// # Errors
/// Which one is unusable, and why.
pub async fn create_log_directories(io: &Io, log_dirs: &[PathBuf]) -> Result<(), String> {
    for log_directory in log_dirs {
        create_directories(io, log_directory).await?;
        refuse_foreign(io, log_directory).await?;
    }
    Ok(())
}

/// One level after the other, each synced before the next: a start that was killed can have left at
/// most the last one that exists without a durable name.
async fn create_directories(io: &Io, path: &Path) -> Result<(), String> {
    let mut missing = Vec::new();
    let mut next = Some(path);
    while let Some(directory) = next.filter(|directory| !directory.as_os_str().is_empty()) {
        match io.list_directory(directory).await {
            Ok(entries) => {
                let is_identity = |entry: &DirectoryEntry| entry.name == META_PROPERTIES_FILE;
                if directory != path || !entries.iter().any(is_identity) {
                    sync_name(io, directory).await?;
                }
                break;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => missing.push(directory),
            Err(error) => return Err(unusable(directory, &error)),
        }
        next = directory.parent();
    }
    for directory in missing.into_iter().rev() {
        io.create_directory(directory)
            .await
            .map_err(|error| unusable(directory, &error))?;
        sync_name(io, directory).await?;
    }
    Ok(())
}

/// Makes the name of a directory durable.
async fn sync_name(io: &Io, directory: &Path) -> Result<(), String> {
    let parent = match directory.parent() {
        None => return Ok(()),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    match io.sync_directory(parent).await {
        // Whose parent we may not read is not of our making.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced.map_err(|error| unusable(parent, &error)),
    }
}

fn unusable(path: &Path, error: &std::io::Error) -> String {
    format!(
        "data directory {}: {error}\n   | give another one with --data DIR or log.dirs, or make \
         this one writable for this user",
        path.display()
    )
}

/// The partition directories of a log directory; what was being deleted is deleted.
async fn find_partitions(
    io: &Io,
    log_directory: &Path,
) -> Result<Vec<((String, i32), PathBuf)>, String> {
    let entries = io
        .list_directory(log_directory)
        .await
        .map_err(|error| unusable(log_directory, &error))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = log_directory.join(&entry.name);
        if !entry.is_directory {
            continue;
        }
        match PartitionDirectory::parse(&entry.name) {
            Some(PartitionDirectory {
                topic,
                partition,
                suffix: None,
            }) => {
                found.push(((topic, partition), path));
            }
            Some(PartitionDirectory {
                suffix: Some(DELETE_DIRECTORY_SUFFIX),
                ..
            }) => {
                directory::remove_directory_tree(io, &path)
                    .await
                    .map_err(|error| error.to_string())?;
            }
            Some(_) => log::warn!("Leaving {} alone: it is not in use", path.display()),
            // `lost+found`; others have been refused before anything was written.
            None => {}
        }
    }
    Ok(found)
}

/// A directory with other things in it than Kafka's is not taken: nothing in it is touched.
async fn refuse_foreign(io: &Io, log_directory: &Path) -> Result<(), String> {
    let entries = io.list_directory(log_directory).await;
    let entries = entries.map_err(|error| unusable(log_directory, &error))?;
    let has = |name: &str| entries.iter().any(|entry| entry.name == name);
    let has_identity = has(directory::META_PROPERTIES_FILE);
    for entry in &entries {
        if entry.is_directory {
            if PartitionDirectory::parse(&entry.name).is_none() && entry.name != "lost+found" {
                return Err(format!(
                    "{} is not a partition's directory (<topic>-<partition>)\n   | is {} really a \
                     data directory? if so, move this one away",
                    log_directory.join(&entry.name).display(),
                    log_directory.display()
                ));
            }
        } else if !has_identity && !is_ours(&entry.name) {
            return Err(format!(
                "{} is not empty and no data directory: it has {} but no {}\n   | give an empty or \
                 a new directory",
                log_directory.display(),
                entry.name,
                directory::META_PROPERTIES_FILE
            ));
        }
    }
    Ok(())
}

/// Files that a first start may have left before it wrote `meta.properties`.
fn is_ours(name: &str) -> bool {
    name.starts_with('.') || name.ends_with("-checkpoint") || name.ends_with(".tmp")
}

/// Checks `meta.properties` of a log directory against the configuration and the other ones.
async fn identify(
    io: &Io,
    config: &BrokerConfig,
    log_directory: &Path,
    cluster_id: &mut Option<String>,
    is_empty: bool,
) -> Result<(), String> {
    let path = log_directory.join(directory::META_PROPERTIES_FILE);
    let found = directory::read_meta_properties(io, log_directory)
        .await
        .map_err(|error| error.to_string())?;
    let Some(found) = found else {
        if !is_empty {
            log::warn!("{} was missing: a new one is written", path.display());
        }
        return Ok(());
    };
    if let Some(id) = found.node_id
        && id != config.node_id
    {
        return Err(format!(
            "{} belongs to broker {id}, this is broker {}\n   | set broker.id={id}, or give \
             another data directory",
            path.display(),
            config.node_id
        ));
    }
    match (cluster_id.as_ref(), found.cluster_id) {
        (Some(known), Some(other)) if *known != other => Err(format!(
            "{} is of cluster {other}, another log directory of cluster {known}\n   | all of \
             log.dirs must be of one cluster",
            path.display()
        )),
        (None, Some(id)) => {
            *cluster_id = Some(id);
            Ok(())
        }
        _ => Ok(()),
    }
}

async fn complete_identity(io: &Io, config: &BrokerConfig, cluster_id: &str) -> Result<(), String> {
    for log_directory in &config.log_dirs {
        let failed = |error: ringlog_engine::log::LogError| error.to_string();
        if directory::read_meta_properties(io, log_directory)
            .await
            .map_err(failed)?
            .is_some()
        {
            continue;
        }
        // Version 0 is what a broker with ZooKeeper writes and reads, up to Kafka 3.9.
        let properties = MetaProperties {
            version: 0,
            cluster_id: Some(cluster_id.to_owned()),
            node_id: Some(config.node_id),
            directory_id: None,
            others: Vec::new(),
        };
        directory::write_meta_properties(io, log_directory, &properties)
            .await
            .map_err(failed)?;
    }
    Ok(())
}

/// The topic ids of `partition.metadata`; directories from before topic ids get one.
async fn topic_ids(
    io: &Io,
    partitions: &BTreeMap<(String, i32), FoundPartition>,
    random: &mut fastrand::Rng,
) -> Result<BTreeMap<String, Uuid>, String> {
    let mut ids: BTreeMap<String, Uuid> = BTreeMap::new();
    let mut without = Vec::new();
    for ((topic, index), found) in partitions {
        let id = directory::read_partition_metadata(io, &found.directory)
            .await
            .map_err(|error| error.to_string())?;
        match (id, ids.get(topic)) {
            (None, _) => without.push((topic, found)),
            (Some(id), Some(known)) if id != *known => {
                return Err(format!(
                    "{topic}-{index} and its siblings have different topic ids\n   | one of them is \
                     left from a deleted topic: move the stale directory away"
                ));
            }
            (Some(id), _) => {
                ids.insert(topic.clone(), id);
            }
        }
    }
    for (topic, found) in without {
        let id = *ids.entry(topic.clone()).or_insert_with(|| {
            uuid::Builder::from_random_bytes(random.u128(..).to_be_bytes()).into_uuid()
        });
        directory::write_partition_metadata(io, &found.directory, id)
            .await
            .map_err(|error| error.to_string())?;
    }
    Ok(ids)
}

async fn replay(
    io: &Io,
    log_directory: &Path,
    partitions: &BTreeMap<(String, i32), FoundPartition>,
    ids: &BTreeMap<String, Uuid>,
) -> Result<(), String> {
    let names: BTreeMap<Uuid, &String> = ids.iter().map(|(name, id)| (*id, name)).collect();
    let locate = |id: Uuid, index: i32| {
        let found = partitions.get(&((*names.get(&id)?).clone(), index))?;
        Some(Target {
            directory: found.directory.clone(),
            log_start_offset: found.opening.log_start_offset.unwrap_or(0),
        })
    };
    let report = journal::replay(io, log_directory, locate)
        .await
        .map_err(|e| e.to_string())?;
    for journal in &report.journals {
        log::info!(
            "Replayed the journal of shard {}: {} groups, {} appends, {} bytes",
            journal.shard,
            journal.groups,
            journal.entries,
            journal.bytes
        );
    }
    for damage in &report.damaged {
        log::error!(
            "Journal {} is damaged at byte {}: at least {} bytes that may have been acknowledged \
             are lost",
            damage.path.display(),
            damage.position,
            damage.bytes
        );
    }
    Ok(())
}

fn add_topics(
    image: &mut Image,
    config: &BrokerConfig,
    ids: &BTreeMap<String, Uuid>,
    partitions: &BTreeMap<(String, i32), FoundPartition>,
    settings: &BTreeMap<String, BTreeMap<String, String>>,
) -> Result<(), String> {
    for (name, id) in ids {
        let highest = partitions
            .range((name.clone(), 0)..=(name.clone(), i32::MAX))
            .next_back()
            .map_or(0, |((_, index), _)| *index);
        let overrides = settings.get(name).cloned().unwrap_or_default();
        let in_force = image.settings(&config.settings);
        let topic: Topic = Controller::resolve(in_force, name, *id, highest + 1, overrides)
            .map_err(|refusal| format!("topic {name}: {}", refusal.message))?;
        image.insert(topic);
    }
    Ok(())
}

/// Opens the partitions of a shard and takes them into service, each as soon as it is recovered.
///
/// # Errors
/// The first log that cannot be opened: what, where, what to do.
pub async fn open_partitions(
    shard: &Rc<Shard>,
    partitions: &BTreeMap<(String, i32), FoundPartition>,
) -> Result<(), String> {
    let image = shard.image();
    let mut openings = Vec::new();
    for topic in image.topics() {
        for index in 0..topic.partitions {
            if shard.owner(&topic.name, index) != shard.id {
                continue;
            }
            let key = (topic.name.clone(), index);
            match partitions.get(&key) {
                Some(found) => openings.push((topic.clone(), index, found.clone())),
                None => {
                    return Err(format!(
                        "the directory of partition {}-{index} is missing, but {} has {} \
                         partitions\n   | restore it; or, if its records may be lost, create an \
                         empty directory of that name",
                        topic.name, topic.name, topic.partitions
                    ));
                }
            }
        }
    }
    for chunk in openings.chunks(OPENED_AT_ONCE) {
        let opened = chunk
            .iter()
            .map(|(topic, index, found)| open(shard, topic, *index, found));
        for result in future::join_all(opened).await {
            result?;
        }
    }
    Ok(())
}

async fn open(
    shard: &Rc<Shard>,
    topic: &std::sync::Arc<Topic>,
    index: i32,
    found: &FoundPartition,
) -> Result<(), String> {
    let config = log_config(topic, index);
    let (log, recovery) = Log::open(
        &shard.files,
        &found.directory,
        config,
        found.opening,
        &mut |_, _| {},
    )
    .await
    .map_err(|error| error.to_string())?;
    if let Some(cut) = &recovery.truncated {
        log::warn!(
            "{}-{index}: cut {} bytes of {} from byte {} on ({}); the log ends at offset {}",
            topic.name,
            cut.bytes,
            cut.file.display(),
            cut.position,
            cut.reason,
            cut.offset
        );
    }
    // What was recovered from the page cache alone must not be lost by the next crash.
    if shard.journal().is_some() && !found.opening.clean {
        log.rewrite_unsynced()
            .await
            .map_err(|error| error.to_string())?;
    }
    log.flush().await.map_err(|error| error.to_string())?;
    let producers = rebuild_producers(&shard.files, &log).await?;
    let partition = Partition::new(topic.clone(), index, log, producers);
    shard.add_partition(partition.clone());
    if topic.name == GROUP_TOPIC {
        driver::load(shard, &partition).await;
    }
    Ok(())
}

/// The newest snapshot that can be read, and the log behind it.
async fn rebuild_producers(files: &SegmentFiles, log: &Log) -> Result<ProducerState, String> {
    let io = files.io();
    let directory = log.directory();
    let entries = io
        .list_directory(&directory)
        .await
        .map_err(|error| error.to_string())?;
    let mut offsets: Vec<i64> = entries
        .iter()
        .filter_map(|entry| SegmentFileName::parse(&entry.name))
        .filter(|name| name.kind == SegmentFileKind::Snapshot && name.pending.is_none())
        .map(|name| name.offset)
        .filter(|offset| *offset <= log.log_end_offset())
        .collect();
    offsets.sort_unstable_by(|a, b| b.cmp(a));
    let mut from = log.log_start_offset();
    let mut producers = ProducerState::default();
    for offset in offsets {
        let path = segment_path(&directory, offset, SegmentFileKind::Snapshot);
        let read = io.read_file(&path, SNAPSHOT_BYTES_MAX).await.ok();
        if let Some(state) = read.and_then(|bytes| ProducerState::from_snapshot(&bytes)) {
            producers = state;
            from = from.max(offset);
            break;
        }
    }
    log.visit_batches(from, &mut |header, _| {
        producers.appended(header, header.max_timestamp);
    })
    .await
    .map_err(|error| error.to_string())?;
    Ok(producers)
}

/// Writes the producers of a partition beside its log, for a fast next start; older snapshots go.
/// Not synced: a torn one is recognised, and the log has it all.
pub async fn write_snapshot(shard: &Shard, partition: &Partition) -> std::io::Result<()> {
    let io = &shard.io;
    let directory = partition.log.directory();
    // The state belongs to the end of the log: both are read without an await between.
    let offset = partition.log.log_end_offset();
    let snapshot: Bytes = partition.producers().borrow().snapshot();
    let entries = io.list_directory(&directory).await?;
    let path = segment_path(&directory, offset, SegmentFileKind::Snapshot);
    let file = io.open(&path, ringlog_engine::io::OpenMode::Create).await?;
    io.truncate(&file, snapshot.len() as u64).await?;
    io.write_at(&file, vec![snapshot], 0).await?;
    let mut older: Vec<i64> = entries
        .iter()
        .filter_map(|entry| SegmentFileName::parse(&entry.name))
        .filter(|name| name.kind == SegmentFileKind::Snapshot && name.offset < offset)
        .map(|name| name.offset)
        .collect();
    older.sort_unstable();
    older.pop();
    for offset in older {
        io.remove_file(&segment_path(&directory, offset, SegmentFileKind::Snapshot))
            .await?;
    }
    Ok(())
}
