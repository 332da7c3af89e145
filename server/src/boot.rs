//! From log directories to a running broker: what is found, replayed, opened.
//!
//! All of it goes through [`Io`], so that the simulator can crash at any point of it. Order:
//! identity, partitions and their topic ids, journals replayed into segments, what ZooKeeper says of
//! them; then each shard opens its partitions ([`open_partitions`]), recovers those that need it and
//! makes those that are missing.

mod adopted;
pub mod cluster;
mod directories;
mod epochs;
mod openings;
mod partitions;
mod replay;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures_util::{StreamExt, TryStreamExt, stream};
use ringlog_engine::io::Io;
use ringlog_engine::log::directory::{
    self, DELETE_DIRECTORY_SUFFIX, META_PROPERTIES_FILE, MetaProperties, PARTITION_METADATA_FILE,
    PartitionDirectory,
};
use ringlog_engine::log::{LogError, Opening};
use uuid::Uuid;

use crate::config::BrokerConfig;
use crate::metadata::reconcile;
use crate::metadata::state::{Image, METADATA_TOPIC, Topic, new_topic_id};
use crate::metadata::store::Places;

use cluster::Cluster;
use directories::unusable;
pub use directories::{Names, create_directories_of};
use openings::Openings;
pub(crate) use openings::checkpoint_entry;
pub use partitions::{open_partitions, write_durable_snapshot, write_snapshot};

/// Partitions whose small files are read at the same time.
const READ_AT_ONCE: usize = 64;

/// A partition of this broker.
#[derive(Clone, Debug)]
pub struct FoundPartition {
    /// Where it is, or is to be made.
    pub directory: PathBuf,
    /// How its log is to be opened; `None` if it is to be made.
    pub opening: Option<Opening>,
    /// Whether compaction may have left gaps between its segments, whatever the settings are now.
    pub has_gaps: bool,
}

/// What ZooKeeper and the log directories hold.
#[derive(Debug)]
pub struct Found {
    /// Id of the cluster.
    pub cluster_id: String,
    /// ZooKeeper knows of no cluster yet.
    pub is_new_cluster: bool,
    /// Topics of the image that ZooKeeper does not have, or not with their ids.
    pub unenrolled: Vec<String>,
    /// All topics.
    pub image: Image,
    /// Which log directory has which partition.
    pub places: Places,
    /// All partitions, by topic and number.
    pub partitions: BTreeMap<(String, i32), FoundPartition>,
}

/// A partition's directory as it is on disk.
struct Seen {
    key: (String, i32),
    directory: PathBuf,
    id: Option<Uuid>,
    /// The newest of `leader-epoch-checkpoint`, which only Apache Kafka writes.
    leader_epoch: i32,
}

/// What [`look`] has seen.
pub struct Looked {
    /// The cluster that the directories are of, if they know.
    cluster_id: Option<String>,
    /// By log directory.
    partitions: Vec<Vec<Seen>>,
}

/// A partition directory on disk, and how it is to be opened.
struct OnDisk {
    seen: Seen,
    place: usize,
    opening: Opening,
    has_gaps: bool,
}

/// Looks through the log directories, before ZooKeeper is asked: that has to come up, too.
///
/// # Errors
/// What is wrong, where, and what to do.
pub async fn look(io: &Io, config: &BrokerConfig) -> Result<Looked, String> {
    let mut cluster_id = None;
    let mut partitions = Vec::new();
    for log_directory in &config.log_dirs {
        let found = find_partitions(io, log_directory).await?;
        identify(io, config, log_directory, &mut cluster_id, found.is_empty()).await?;
        let read = found.into_iter().map(async |(key, directory)| {
            Ok::<_, String>(Seen {
                id: read_topic_id(io, &directory).await?,
                leader_epoch: epochs::newest(io, &directory).await,
                key,
                directory,
            })
        });
        let read = stream::iter(read).buffered(READ_AT_ONCE);
        partitions.push(read.try_collect().await?);
    }
    Ok(Looked {
        cluster_id,
        partitions,
    })
}

/// Makes new log directories ready, replays the journals, and holds what is there against what ZooKeeper
/// says.
///
/// # Errors
/// What is wrong, where, and what to do.
pub async fn find(
    io: &Io,
    config: &BrokerConfig,
    looked: Looked,
    cluster: &Cluster,
    random: &mut fastrand::Rng,
) -> Result<Found, String> {
    let is_new_cluster = cluster.id.is_none();
    let mut on_disk = Vec::new();
    let seen = config.log_dirs.iter().zip(looked.partitions);
    for (place, (log_directory, mut found)) in seen.enumerate() {
        let is_doomed = |seen: &Seen| cluster.is_doomed(config, &seen.key.0);
        bury(io, is_doomed, &mut found).await?;
        let openings = Openings::read(io, log_directory, !found.is_empty()).await?;
        openings.forget_missing(io, log_directory, &found).await?;
        on_disk.extend(found.into_iter().map(|seen| OnDisk {
            opening: openings.of(&seen.key),
            // Which topics of another cluster are compacted, only its ZooKeeper knows.
            has_gaps: is_new_cluster || openings.was_compacted(&seen.key),
            seen,
            place,
        }));
    }
    let cluster_id = match (&cluster.id, looked.cluster_id) {
        (Some(id), Some(known)) if *id != known => {
            return Err(wrong_cluster(config, id, &known));
        }
        (Some(id), _) => id.clone(),
        (None, Some(known)) => known,
        (None, None) => directory::encode_uuid(new_topic_id(random)),
    };
    complete_identity(io, config, &cluster_id, &on_disk).await?;
    replay::replay(io, &config.ringlog.journal_dir, &on_disk, cluster).await?;
    for found in &mut on_disk {
        // A new cluster may have got these directories from another broker.
        found.opening.compacts_below_recovery_point &= !is_new_cluster;
    }
    let mut image = Image::default();
    let brokers = reconcile::broker_overrides(&cluster.broker_configs, config.node_id)?;
    image.set_broker_overrides(brokers, &config.settings);
    let mut unenrolled = Vec::new();
    if is_new_cluster {
        let ids = ids_on_disk(&on_disk, random)?;
        adopted::add_topics(&mut image, config, &on_disk, &ids, cluster)?;
        unenrolled.extend(ids.into_keys());
    } else {
        unenrolled = add_known_topics(&mut image, config, cluster, &on_disk, random);
    }
    image.set_leader_epochs(epochs::of(&image, &on_disk));
    let (places, partitions) = assign(io, config, &image, on_disk).await?;
    Ok(Found {
        cluster_id,
        is_new_cluster,
        unenrolled,
        image,
        places,
        partitions,
    })
}

/// What is wrong with a file, and what to do where only the system's answer is known.
fn explain(error: LogError) -> String {
    match error {
        LogError::Io { .. } => format!("{error}\n   | {REACHABLE}"),
        other => other.to_string(),
    }
}

/// The same in one line.
fn explain_in_line(error: LogError) -> String {
    match error {
        LogError::Io { .. } => format!("{error}; {REACHABLE}"),
        other => other.to_string(),
    }
}

/// What to do about a file that cannot be opened.
const REACHABLE: &str = "make it readable and writable for the user of the broker; if it is something \
                         else that is in its place, move that away";

/// Kafka's InconsistentClusterIdException.
fn wrong_cluster(config: &BrokerConfig, id: &str, known: &str) -> String {
    format!(
        "{} is of cluster {known}, but ZooKeeper at {} has cluster {id}\n   | give the data \
         directory or the zookeeper.connect that belong together",
        config.log_dirs[0].join(META_PROPERTIES_FILE).display(),
        config.zookeeper.connect
    )
}

/// The id in `partition.metadata`. A damaged one is set aside: ZooKeeper and the other partitions know
/// the id, too.
async fn read_topic_id(io: &Io, directory: &Path) -> Result<Option<Uuid>, String> {
    let error = match directory::read_partition_metadata(io, directory).await {
        Err(error @ LogError::Corrupt { .. }) => error,
        read => return read.map_err(explain),
    };
    let path = directory.join(PARTITION_METADATA_FILE);
    let aside = path.with_extension("metadata.damaged");
    let renamed = io.rename(&path, &aside).await;
    renamed.map_err(|error| format!("{}: {error}\n   | {REACHABLE}", path.display()))?;
    log::warn!(
        "{error}. Here it is written anew, and what it was is kept as {}",
        aside.display()
    );
    Ok(None)
}

/// Brings deletions that were cut short to their end.
async fn bury(
    io: &Io,
    is_doomed: impl Fn(&Seen) -> bool,
    found: &mut Vec<Seen>,
) -> Result<(), String> {
    for Seen { directory, .. } in found.iter().filter(|seen| is_doomed(seen)) {
        log::info!(
            "Removing {}: its topic is being deleted",
            directory.display()
        );
        let removed = directory::remove_directory_tree(io, directory).await;
        removed.map_err(explain)?;
    }
    found.retain(|found| !is_doomed(found));
    Ok(())
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
            Some(of) if of.topic == METADATA_TOPIC => {
                log::info!("Leaving {} alone: it is KRaft's", path.display());
            }
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
                    .map_err(explain)?;
            }
            Some(_) => log::warn!("Leaving {} alone: it is not in use", path.display()),
            // `lost+found`; others have been refused before anything was written.
            None => {}
        }
    }
    Ok(found)
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
        .map_err(explain)?;
    let found = match found {
        Some(found) if found != MetaProperties::default() => found,
        Some(_) => {
            log::warn!("{} was empty: a new one is written", path.display());
            return Ok(());
        }
        None => {
            if !is_empty {
                log::warn!("{} was missing: a new one is written", path.display());
            }
            return Ok(());
        }
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

/// A new log directory gets its `meta.properties`, and is ours from then on if it is empty.
async fn complete_identity(
    io: &Io,
    config: &BrokerConfig,
    cluster_id: &str,
    on_disk: &[OnDisk],
) -> Result<(), String> {
    for (place, log_directory) in config.log_dirs.iter().enumerate() {
        if directory::read_meta_properties(io, log_directory)
            .await
            .map_err(explain)?
            .is_some_and(|found| found != MetaProperties::default())
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
        if on_disk.iter().all(|found| found.place != place) {
            directory::mark_ran_last(io, log_directory)
                .await
                .map_err(explain)?;
        }
        directory::write_meta_properties(io, log_directory, &properties)
            .await
            .map_err(explain)?;
    }
    Ok(())
}

/// The topic ids of `partition.metadata`; topics from before topic ids get one.
fn ids_on_disk(
    on_disk: &[OnDisk],
    random: &mut fastrand::Rng,
) -> Result<BTreeMap<String, Uuid>, String> {
    let mut ids: BTreeMap<String, Option<Uuid>> = BTreeMap::new();
    for OnDisk {
        seen: Seen { key, id, .. },
        ..
    } in on_disk
    {
        let known = ids.entry(key.0.clone()).or_default();
        match (&known, id) {
            (Some(known), Some(id)) if known != id => {
                return Err(format!(
                    "{}-{} and its siblings have different topic ids\n   | one of them is left from \
                     a deleted topic: move the stale directory away",
                    key.0, key.1
                ));
            }
            (_, None) => {}
            (_, Some(id)) => *known = Some(*id),
        }
    }
    let named =
        |(name, id): (String, Option<Uuid>)| (name, id.unwrap_or_else(|| new_topic_id(random)));
    Ok(ids.into_iter().map(named).collect())
}

/// The topics of ZooKeeper; gives those whose id it does not have. A topic without an id and
/// without a directory is taken up after the start, as any that a tool makes.
fn add_known_topics(
    image: &mut Image,
    config: &BrokerConfig,
    cluster: &Cluster,
    on_disk: &[OnDisk],
    random: &mut fastrand::Rng,
) -> Vec<String> {
    let mut unenrolled = Vec::new();
    for (name, node) in &cluster.topics {
        if cluster.is_doomed(config, name) {
            continue;
        }
        let settings = cluster.topic_configs.get(name);
        let Ok((mut topic, node)) = reconcile::plan(config, image, name, &node.data, settings)
        else {
            // Told of after the start.
            continue;
        };
        if node.id.is_none() {
            let mut here = on_disk
                .iter()
                .filter(|found| found.seen.key.0 == *name)
                .peekable();
            if here.peek().is_none() {
                continue;
            }
            topic.id = here
                .find_map(|found| found.seen.id)
                .unwrap_or_else(|| new_topic_id(random));
            unenrolled.push(name.clone());
        }
        if node.id.is_some() && !node.is_on(config.node_id) {
            unenrolled.push(name.clone());
        }
        image.insert(topic);
    }
    unenrolled
}

/// Each partition of the image gets its directory, found or to be made. What is found beside that
/// is a stray, renamed and kept (as Kafka 3.9 does it).
async fn assign(
    io: &Io,
    config: &BrokerConfig,
    image: &Image,
    on_disk: Vec<OnDisk>,
) -> Result<(Places, BTreeMap<(String, i32), FoundPartition>), String> {
    let mut places = Places::new();
    let mut partitions: BTreeMap<(String, i32), FoundPartition> = BTreeMap::new();
    let mut counts = vec![0usize; config.log_dirs.len()];
    for found in on_disk {
        let topic = image.topic(&found.seen.key.0);
        let topic = topic.filter(|topic| found.seen.key.1 < topic.partitions);
        let is_same =
            |topic: &&std::sync::Arc<Topic>| found.seen.id.is_none_or(|id| id == topic.id);
        let Some(topic) = topic.filter(is_same) else {
            set_aside(io, &found).await?;
            continue;
        };
        if found.seen.id.is_none() {
            directory::write_partition_metadata(io, &found.seen.directory, topic.id)
                .await
                .map_err(explain)?;
        }
        if let Some(twin) = partitions.get(&found.seen.key) {
            return Err(format!(
                "partition {}-{} is in two log directories, one is {}: move the stale one away",
                found.seen.key.0,
                found.seen.key.1,
                twin.directory.display()
            ));
        }
        counts[found.place] += 1;
        places.insert(found.seen.key.clone(), found.place);
        let partition = FoundPartition {
            directory: found.seen.directory,
            opening: Some(found.opening),
            has_gaps: found.has_gaps,
        };
        partitions.insert(found.seen.key, partition);
    }
    for topic in image.topics() {
        for index in 0..topic.partitions {
            let key = (topic.name.clone(), index);
            if partitions.contains_key(&key) {
                continue;
            }
            let by_count = |place: &usize| counts[*place];
            let place = (0..counts.len()).min_by_key(by_count).unwrap_or(0);
            counts[place] += 1;
            let name = directory::partition_directory_name(&key.0, key.1);
            let directory = config.log_dirs[place].join(name);
            places.insert(key.clone(), place);
            let made = FoundPartition {
                directory,
                opening: None,
                has_gaps: false,
            };
            partitions.insert(key, made);
        }
    }
    Ok((places, partitions))
}

async fn set_aside(io: &Io, found: &OnDisk) -> Result<(), String> {
    let (topic, index) = &found.seen.key;
    let name = directory::partition_directory_name(topic, *index);
    let unique = found.seen.id.unwrap_or(Uuid::nil());
    let stray = directory::stray_directory_name(&name, unique);
    let path = found.seen.directory.with_file_name(stray);
    log::warn!(
        "ZooKeeper has no partition {topic}-{index} of topic id {unique}: its directory is set aside \
         as {}",
        path.display()
    );
    let failed = |error: std::io::Error| format!("{}: {error}", found.seen.directory.display());
    io.rename(&found.seen.directory, &path)
        .await
        .map_err(failed)?;
    match path.parent() {
        Some(parent) => io.sync_directory(parent).await.map_err(failed),
        None => Ok(()),
    }
}
