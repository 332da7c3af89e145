//! Names in a log directory and in a partition's directory, and the small files beside the segments:
//! `partition.metadata`, `meta.properties`, `.kafka_cleanshutdown`, and our `.ringlog-ran-last`.
//!
//! Names and bytes are Kafka's (LogFileUtils.java, LocalLog.scala, PartitionMetadataFile.java,
//! MetaProperties.java, CleanShutdownFileHandler.java). The checkpoint files are in `checkpoint`.

use std::io;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use super::checkpoint::HIGH_WATERMARK_FILE;
use super::error::{IoContext, LogError};
use crate::io::{Io, OpenMode};

/// Directory suffix of a partition that is being deleted.
pub const DELETE_DIRECTORY_SUFFIX: &str = "-delete";
/// Directory suffix of a partition that is being moved here from another log directory.
pub const FUTURE_DIRECTORY_SUFFIX: &str = "-future";
/// Directory suffix of a partition that this broker no longer has.
pub const STRAY_DIRECTORY_SUFFIX: &str = "-stray";
/// The topic id of a partition.
pub const PARTITION_METADATA_FILE: &str = "partition.metadata";
/// Who a log directory belongs to.
pub const META_PROPERTIES_FILE: &str = "meta.properties";
/// There only after a clean stop.
pub const CLEAN_SHUTDOWN_FILE: &str = ".kafka_cleanshutdown";
/// Ringlog ran last in this directory, and all its logs were known to it: from its first start with an empty
/// directory, from a start after a clean stop, or from the end of the recovery after another broker's crash,
/// to the next clean stop. A gap at or above a recovery point is no compaction's then.
pub const RAN_LAST_FILE: &str = ".ringlog-ran-last";

/// A UUID without its dashes, before `-delete` and the others.
const UNIQUE_LETTERS: usize = 32;
/// Longest file name of the common file systems (NAME_MAX).
const NAME_BYTES_MAX: usize = 255;
/// The small files have a few hundred bytes; what is larger is none of them.
const SMALL_FILE_BYTES_MAX: usize = 64 * 1024;

/// The kinds of files that belong to a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SegmentFileKind {
    /// Record batches.
    Log,
    /// Offset index.
    Index,
    /// Time index.
    TimeIndex,
    /// Aborted transactions.
    TransactionIndex,
    /// Producer state at the base offset; outlives no segment but may lie between two.
    Snapshot,
}

impl SegmentFileKind {
    /// All kinds.
    pub const ALL: [SegmentFileKind; 5] = [
        SegmentFileKind::Log,
        SegmentFileKind::Index,
        SegmentFileKind::TimeIndex,
        SegmentFileKind::TransactionIndex,
        SegmentFileKind::Snapshot,
    ];

    /// The file name's ending.
    pub fn suffix(self) -> &'static str {
        match self {
            SegmentFileKind::Log => ".log",
            SegmentFileKind::Index => ".index",
            SegmentFileKind::TimeIndex => ".timeindex",
            SegmentFileKind::TransactionIndex => ".txnindex",
            SegmentFileKind::Snapshot => ".snapshot",
        }
    }
}

/// A further ending that says what is to become of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingSuffix {
    /// `.deleted`: to be removed.
    Deleted,
    /// `.cleaned`: a compaction that was not finished.
    Cleaned,
    /// `.swap`: a finished compaction that replaces what it covers.
    Swap,
}

impl PendingSuffix {
    /// The ending.
    pub fn suffix(self) -> &'static str {
        match self {
            PendingSuffix::Deleted => ".deleted",
            PendingSuffix::Cleaned => ".cleaned",
            PendingSuffix::Swap => ".swap",
        }
    }
}

/// `<20 digits>.<kind>` in `directory`.
pub fn segment_path(directory: &Path, base_offset: i64, kind: SegmentFileKind) -> PathBuf {
    directory.join(format!("{base_offset:020}{}", kind.suffix()))
}

/// What a file name in a partition's directory says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFileName {
    /// Base offset of the segment, or offset of the snapshot.
    pub offset: i64,
    /// Which file of the segment.
    pub kind: SegmentFileKind,
    /// Whether something is to become of it.
    pub pending: Option<PendingSuffix>,
}

impl SegmentFileName {
    /// `None` for a name that is not a segment file's: not exactly 20 digits, or another ending.
    pub fn parse(name: &str) -> Option<SegmentFileName> {
        let pendings = [
            PendingSuffix::Deleted,
            PendingSuffix::Cleaned,
            PendingSuffix::Swap,
        ];
        let (name, pending) = pendings
            .into_iter()
            .find_map(|pending| Some((name.strip_suffix(pending.suffix())?, Some(pending))))
            .unwrap_or((name, None));
        let (digits, kind) = SegmentFileKind::ALL
            .into_iter()
            .find_map(|kind| Some((name.strip_suffix(kind.suffix())?, kind)))?;
        if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(SegmentFileName {
            offset: digits.parse().ok()?,
            kind,
            pending,
        })
    }
}

/// What the name of a directory inside a log directory says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDirectory {
    /// Topic name; may be cut short in a `-delete` or `-stray` name.
    pub topic: String,
    /// Partition number.
    pub partition: i32,
    /// `-delete`, `-future` or `-stray`, if the name ends so.
    pub suffix: Option<&'static str>,
}

impl PartitionDirectory {
    /// `None` for a name that is not a partition's.
    pub fn parse(name: &str) -> Option<PartitionDirectory> {
        let suffixes = [
            DELETE_DIRECTORY_SUFFIX,
            FUTURE_DIRECTORY_SUFFIX,
            STRAY_DIRECTORY_SUFFIX,
        ];
        let suffix = suffixes.into_iter().find(|suffix| name.ends_with(suffix));
        let name = match suffix {
            Some(suffix) => {
                let (name, unique) = name.strip_suffix(suffix)?.rsplit_once('.')?;
                // Nobody else's directory is deleted because of its name.
                if unique.len() != UNIQUE_LETTERS
                    || !unique.bytes().all(|byte| byte.is_ascii_hexdigit())
                {
                    return None;
                }
                name
            }
            None => name,
        };
        let (topic, partition) = name.rsplit_once('-')?;
        let is_number = !partition.is_empty() && partition.bytes().all(|b| b.is_ascii_digit());
        if topic.is_empty() || !is_number {
            return None;
        }
        Some(PartitionDirectory {
            topic: topic.to_owned(),
            partition: partition.parse().ok()?,
            suffix,
        })
    }
}

/// `<topic>-<partition>`.
pub fn partition_directory_name(topic: &str, partition: i32) -> String {
    format!("{topic}-{partition}")
}

/// `<topic>-<partition>.<unique>-delete`, with the topic cut so that it fits into a file name.
pub fn delete_directory_name(name: &str, unique: Uuid) -> String {
    suffixed_directory_name(name, unique, DELETE_DIRECTORY_SUFFIX)
}

/// `<topic>-<partition>.<unique>-stray`, cut like [`delete_directory_name`].
pub fn stray_directory_name(name: &str, unique: Uuid) -> String {
    suffixed_directory_name(name, unique, STRAY_DIRECTORY_SUFFIX)
}

fn suffixed_directory_name(name: &str, unique: Uuid, suffix: &str) -> String {
    let (topic, partition) = name.rsplit_once('-').unwrap_or((name, "0"));
    let rest = format!("-{partition}.{}{suffix}", unique.as_simple());
    let mut length = topic.len().min(NAME_BYTES_MAX.saturating_sub(rest.len()));
    while !topic.is_char_boundary(length) {
        length -= 1;
    }
    format!("{}{rest}", &topic[..length])
}

/// Removes a directory with everything in it, at most two levels deep, and makes that durable.
/// What is gone already is no error.
///
/// # Errors
/// What listing, unlink(2) or rmdir(2) answered.
pub async fn remove_directory_tree(io: &Io, directory: &Path) -> Result<(), LogError> {
    for entry in io.list_directory(directory).await.at("list", directory)? {
        let path = directory.join(&entry.name);
        if entry.is_directory {
            for inner in io.list_directory(&path).await.at("list", &path)? {
                remove_file_if_there(io, &path.join(&inner.name)).await?;
            }
            io.remove_directory(&path).await.at("remove", &path)?;
        } else {
            remove_file_if_there(io, &path).await?;
        }
    }
    io.remove_directory(directory)
        .await
        .at("remove", directory)?;
    sync_parent(io, directory).await
}

/// Whether a directory has nothing in it but what making a partition begins with.
pub(crate) async fn is_half_made(io: &Io, directory: &Path) -> Result<bool, LogError> {
    let Ok(entries) = io.list_directory(directory).await else {
        return Ok(false); // a file, or nothing that we may read
    };
    for entry in entries {
        let path = directory.join(&entry.name);
        let is_segment = SegmentFileName::parse(&entry.name).is_some() && !entry.is_directory;
        if is_segment {
            let file = io.open(&path, OpenMode::Read).await.at("open", &path)?;
            if io.length(&file).await.at("stat", &path)? > 0 {
                return Ok(false);
            }
        } else if !entry.name.starts_with(PARTITION_METADATA_FILE) {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(crate) async fn remove_file_if_there(io: &Io, path: &Path) -> Result<(), LogError> {
    match io.remove_file(path).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.at("remove", path),
    }
}

pub(crate) async fn sync_parent(io: &Io, path: &Path) -> Result<(), LogError> {
    match path.parent() {
        Some(parent) => io.sync_directory(parent).await.at("sync", parent),
        None => Ok(()),
    }
}

/// Reads a small text file; `None` if it is not there.
pub(crate) async fn read_text(io: &Io, path: &Path) -> Result<Option<String>, LogError> {
    read_text_limited(io, path, SMALL_FILE_BYTES_MAX).await
}

/// Reads a whole file; `None` if it is not there.
pub(crate) async fn read_bytes(
    io: &Io,
    path: &Path,
    limit: usize,
) -> Result<Option<BytesMut>, LogError> {
    match io.read_file(path, limit).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.at("read", path).map(Some),
    }
}

pub(crate) async fn read_text_limited(
    io: &Io,
    path: &Path,
    limit: usize,
) -> Result<Option<String>, LogError> {
    let Some(bytes) = read_bytes(io, path, limit).await? else {
        return Ok(None);
    };
    match String::from_utf8(bytes.to_vec()) {
        Ok(text) => Ok(Some(text)),
        Err(error) => Err(LogError::Corrupt {
            path: path.to_owned(),
            position: error.utf8_error().valid_up_to() as u64,
            reason: "not text".to_owned(),
            remedy: "restore the file, or remove it if it is of no use",
        }),
    }
}

pub(crate) async fn replace_text(io: &Io, path: &Path, text: String) -> Result<(), LogError> {
    io.replace_file(path, Bytes::from(text))
        .await
        .at("replace", path)
}

fn malformed(path: &Path, reason: String, remedy: &'static str) -> LogError {
    LogError::Corrupt {
        path: path.to_owned(),
        position: 0,
        reason,
        remedy,
    }
}

// ---- topic ids ---------------------------------------------------------------------------------

const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Kafka's text form of a UUID: 22 characters of URL-safe base64 without padding (Uuid.java).
pub fn encode_uuid(id: Uuid) -> String {
    let value = u128::from_be_bytes(*id.as_bytes());
    let mut text = String::with_capacity(22);
    for i in 0..22 {
        // 128 bits are 21 groups of six and one of two, which is filled up with zeros.
        let group = if i < 21 {
            value >> (122 - 6 * i)
        } else {
            value << 4
        };
        text.push(char::from(BASE64_URL[(group & 63) as usize]));
    }
    text
}

/// Reads what [`encode_uuid`] writes.
pub fn decode_uuid(text: &str) -> Option<Uuid> {
    let text = text.trim_end_matches('=').as_bytes();
    if text.len() != 22 {
        return None;
    }
    let mut value = 0u128;
    for (i, byte) in text.iter().enumerate() {
        let digit = BASE64_URL.iter().position(|other| other == byte)? as u128;
        value = if i < 21 {
            value << 6 | digit
        } else {
            value << 2 | digit >> 4
        };
    }
    Some(Uuid::from_bytes(value.to_be_bytes()))
}

/// Reads the topic id from a partition's directory; `None` if there is no `partition.metadata`.
///
/// # Errors
/// If the file cannot be read, or is none.
pub async fn read_partition_metadata(io: &Io, directory: &Path) -> Result<Option<Uuid>, LogError> {
    let path = directory.join(PARTITION_METADATA_FILE);
    let Some(text) = read_text(io, &path).await? else {
        return Ok(None);
    };
    let value = |name: &str| {
        text.lines()
            .find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
    };
    let version = value("version").and_then(|version| version.parse::<i32>().ok());
    let topic_id = value("topic_id").and_then(decode_uuid);
    match (version, topic_id) {
        (Some(0..), Some(topic_id)) if !topic_id.is_nil() => Ok(Some(topic_id)),
        _ => Err(malformed(
            &path,
            format!("no version and topic id in {text:?}"),
            "write the topic's id into it, as `version: 0` and `topic_id: <id>`",
        )),
    }
}

/// Writes `partition.metadata`, durably.
///
/// # Errors
/// What the I/O answered.
pub async fn write_partition_metadata(
    io: &Io,
    directory: &Path,
    topic_id: Uuid,
) -> Result<(), LogError> {
    let text = format!("version: 0\ntopic_id: {}", encode_uuid(topic_id));
    replace_text(io, &directory.join(PARTITION_METADATA_FILE), text).await
}

// ---- meta.properties ---------------------------------------------------------------------------

/// Contents of `meta.properties`: version 0 (ZooKeeper) has `broker.id`, version 1 (KRaft) has
/// `node.id`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetaProperties {
    /// 0 or 1.
    pub version: i32,
    /// Cluster id; always there in version 1.
    pub cluster_id: Option<String>,
    /// `broker.id` or `node.id`; always there in version 1.
    pub node_id: Option<i32>,
    /// Id of this log directory (Kafka 3.7 and later).
    pub directory_id: Option<Uuid>,
    /// What else stands in the file, kept as it is, in order.
    pub others: Vec<(String, String)>,
}

impl MetaProperties {
    /// Parses the text of the file.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<MetaProperties, String> {
        let mut properties = MetaProperties::default();
        let mut version = None;
        for line in text.lines() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', '!']) {
                continue;
            }
            // java.util.Properties escapes ':' and '=' in values; keys here have neither.
            let Some((key, value)) = line.split_once(['=', ':']) else {
                return Err(format!("line {line:?} is not key=value"));
            };
            let (key, value) = (key.trim(), value.trim().replace('\\', ""));
            let number = || {
                value
                    .parse::<i32>()
                    .map_err(|_| format!("{key}={value} is not a number"))
            };
            match key {
                "version" => version = Some(number()?),
                "cluster.id" => properties.cluster_id = Some(value),
                "broker.id" | "node.id" => properties.node_id = Some(number()?),
                "directory.id" => {
                    let id = decode_uuid(&value)
                        .ok_or_else(|| format!("directory.id={value} is not an id"))?;
                    properties.directory_id = Some(id);
                }
                _ => properties.others.push((key.to_owned(), value)),
            }
        }
        properties.version = version.unwrap_or(0);
        match properties.version {
            0 => Ok(properties),
            1 if properties.cluster_id.is_none() => Err("cluster.id is missing".to_owned()),
            1 if properties.node_id.is_none() => Err("node.id is missing".to_owned()),
            1 => Ok(properties),
            other => Err(format!("version={other} is unknown, 0 and 1 are known")),
        }
    }

    /// The text of the file.
    pub fn encode(&self) -> String {
        let mut text = format!("#\nversion={}\n", self.version);
        let id_key = if self.version == 0 {
            "broker.id"
        } else {
            "node.id"
        };
        let mut line = |key: &str, value: &str| text.push_str(&format!("{key}={value}\n"));
        if let Some(cluster_id) = &self.cluster_id {
            line("cluster.id", cluster_id);
        }
        if let Some(node_id) = self.node_id {
            line(id_key, &node_id.to_string());
        }
        if let Some(directory_id) = self.directory_id {
            line("directory.id", &encode_uuid(directory_id));
        }
        for (key, value) in &self.others {
            line(key, value);
        }
        text
    }
}

/// Reads `meta.properties` of a log directory; `None` if it is not there.
///
/// # Errors
/// If the file cannot be read, or is none.
pub async fn read_meta_properties(
    io: &Io,
    log_directory: &Path,
) -> Result<Option<MetaProperties>, LogError> {
    let path = log_directory.join(META_PROPERTIES_FILE);
    let Some(text) = read_text(io, &path).await? else {
        return Ok(None);
    };
    let remedy = "restore it from another log directory of this broker, or use the release that \
                  wrote it";
    MetaProperties::parse(&text)
        .map(Some)
        .map_err(|reason| malformed(&path, reason, remedy))
}

/// Writes `meta.properties`, durably.
///
/// # Errors
/// What the I/O answered.
pub async fn write_meta_properties(
    io: &Io,
    log_directory: &Path,
    properties: &MetaProperties,
) -> Result<(), LogError> {
    let path = log_directory.join(META_PROPERTIES_FILE);
    replace_text(io, &path, properties.encode()).await
}

// ---- .kafka_cleanshutdown ----------------------------------------------------------------------

/// Tells whether the mark of a clean stop was there, and makes it the one that says that Ringlog ran last.
/// Durable at return: a crash after this start must not look clean.
///
/// # Errors
/// What rename(2) or fsync(2) answered.
pub async fn take_clean_shutdown(io: &Io, log_directory: &Path) -> Result<bool, LogError> {
    let path = log_directory.join(CLEAN_SHUTDOWN_FILE);
    match io.rename(&path, &log_directory.join(RAN_LAST_FILE)).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other.at("rename", &path)?,
    }
    io.sync_directory(log_directory)
        .await
        .at("sync", log_directory)?;
    Ok(true)
}

/// Whether Ringlog ran last in a log directory; see [`RAN_LAST_FILE`]. Apache Kafka writes the high
/// watermarks every five seconds, Ringlog only before it stops: if they are newer than the mark, it was Kafka.
///
/// # Errors
/// What open(2) answered.
pub async fn ran_last(io: &Io, log_directory: &Path) -> Result<bool, LogError> {
    let modified_ms = async |name: &str| {
        let path = log_directory.join(name);
        match io.open(&path, OpenMode::Read).await {
            // The simulator has no Kafka, and does not know.
            Ok(file) => Ok(Some(io.modified_ms(&file).await.unwrap_or(0))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("open", &path),
        }
    };
    let Some(marked_ms) = modified_ms(RAN_LAST_FILE).await? else {
        return Ok(false);
    };
    let others_ms = modified_ms(HIGH_WATERMARK_FILE).await?;
    Ok(others_ms.is_none_or(|others_ms| others_ms <= marked_ms))
}

/// Says that Ringlog runs last in a log directory, from now on; durable with the directory.
///
/// # Errors
/// What unlink(2) or open(2) answered.
pub async fn mark_ran_last(io: &Io, log_directory: &Path) -> Result<(), LogError> {
    forget_ran_last(io, log_directory).await?;
    let path = log_directory.join(RAN_LAST_FILE);
    io.open(&path, OpenMode::CreateNew)
        .await
        .at("create", &path)?;
    Ok(())
}

async fn forget_ran_last(io: &Io, log_directory: &Path) -> Result<(), LogError> {
    let path = log_directory.join(RAN_LAST_FILE);
    match io.remove_file(&path).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.at("remove", &path).map(drop),
    }
}

/// Writes the mark of a clean stop, durably: only after every log was closed without an error. Whoever
/// comes next is the last one then.
///
/// # Errors
/// What the I/O answered.
pub async fn write_clean_shutdown(
    io: &Io,
    log_directory: &Path,
    broker_epoch: i64,
) -> Result<(), LogError> {
    forget_ran_last(io, log_directory).await?;
    let text = format!("{{\"version\":0,\"brokerEpoch\":{broker_epoch}}}");
    replace_text(io, &log_directory.join(CLEAN_SHUTDOWN_FILE), text).await
}
