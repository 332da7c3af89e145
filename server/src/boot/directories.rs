//! The data directory before anything is read of it: made if it is missing, refused if it is somebody
//! else's.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use futures_util::future;
use ringlog_engine::io::{DirectoryEntry, Io};
use ringlog_engine::log::directory::{self, META_PROPERTIES_FILE, PartitionDirectory};

use crate::config::BrokerConfig;

/// Directories with names in them that may not be durable yet.
#[derive(Debug, Default)]
#[must_use = "the names are to be made durable before `meta.properties` is there"]
pub struct Names {
    parents: BTreeSet<PathBuf>,
}

impl Names {
    /// Makes them durable, all at once.
    ///
    /// # Errors
    /// Which directory cannot be synced, and why.
    pub async fn sync(self, io: &Io) -> Result<(), String> {
        let syncs = self.parents.iter().map(|parent| sync(io, parent));
        future::try_join_all(syncs).await.map(drop)
    }
}

/// Creates the directories that are missing, and looks whether the log directories may be used at all,
/// before anything is written into them. The names of the last two levels may not be durable at return.
///
/// # Errors
/// Which one is unusable, and why.
pub async fn create_directories_of(io: &Io, config: &BrokerConfig) -> Result<Names, String> {
    let mut names = Names::default();
    refuse_foreign_data(io, &config.ringlog.data_dir).await?;
    for log_directory in &config.log_dirs {
        create_directories(io, log_directory, &mut names).await?;
        refuse_foreign(io, log_directory).await?;
    }
    create_directories(io, &config.ringlog.journal_dir, &mut names).await?;
    Ok(names)
}

/// One level after the other, each synced before the next, but for the last two: those are what a start
/// that was killed can have left without a durable name. So the names of the last two are synced at
/// each start that finds no `meta.properties`, which is written only after them.
async fn create_directories(io: &Io, path: &Path, names: &mut Names) -> Result<(), String> {
    let mut missing = Vec::new();
    let mut has_identity = false;
    let mut next = Some(path);
    while let Some(directory) = next.filter(|directory| !directory.as_os_str().is_empty()) {
        match io.list_directory(directory).await {
            Ok(entries) => {
                let is_identity = |entry: &DirectoryEntry| entry.name == META_PROPERTIES_FILE;
                has_identity = directory == path && entries.iter().any(is_identity);
                break;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => missing.push(directory),
            Err(error) => return Err(unusable(directory, &error)),
        }
        next = directory.parent();
    }
    if has_identity {
        return Ok(());
    }
    let last = [Some(path), path.parent()];
    for directory in missing.into_iter().rev() {
        io.create_directory(directory)
            .await
            .map_err(|error| unusable(directory, &error))?;
        if !last.contains(&Some(directory))
            && let Some(parent) = parent(directory)
        {
            sync(io, parent).await?;
        }
    }
    let parents = last.into_iter().flatten().filter_map(parent);
    names.parents.extend(parents.map(Path::to_owned));
    Ok(())
}

/// The directory that a directory's name stands in.
fn parent(directory: &Path) -> Option<&Path> {
    match directory.parent() {
        Some(parent) if parent.as_os_str().is_empty() && !directory.as_os_str().is_empty() => {
            Some(Path::new("."))
        }
        parent => parent,
    }
}

async fn sync(io: &Io, parent: &Path) -> Result<(), String> {
    match io.sync_directory(parent).await {
        // Whose parent we may not read is not of our making.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced.map_err(|error| unusable(parent, &error)),
    }
}

pub(super) fn unusable(path: &Path, error: &std::io::Error) -> String {
    format!(
        "data directory {}: {error}\n   | give another one with --data-dir DIR or log.dirs, or make \
         this one writable for this user",
        path.display()
    )
}

/// A directory that is not empty and has nothing of ours is not made our home.
async fn refuse_foreign_data(io: &Io, data_dir: &Path) -> Result<(), String> {
    let entries = match io.list_directory(data_dir).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unusable(data_dir, &error)),
    };
    let is_ours = |name: &str| ["logs", "journal", "zookeeper", ".lock"].contains(&name);
    if entries.is_empty() || entries.iter().any(|entry| is_ours(&entry.name)) {
        return Ok(());
    }
    let has_identity = |entry: &DirectoryEntry| entry.name == directory::META_PROPERTIES_FILE;
    let hint = if entries.iter().any(has_identity) {
        "it is a log directory of a Kafka: give it with log.dirs"
    } else {
        "give an empty or a new directory"
    };
    Err(format!(
        "{} is not empty and no data directory: it has {}\n   | {hint}",
        data_dir.display(),
        entries[0].name
    ))
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
