//! The data directory before anything is read of it: made if it is missing, refused if it is somebody
//! else's.

use std::path::Path;

use ringlog_engine::io::{DirectoryEntry, Io};
use ringlog_engine::log::directory::{self, META_PROPERTIES_FILE, PartitionDirectory};

use crate::config::BrokerConfig;

/// Creates the directories that are missing, durably, and looks whether the log directories may be
/// used at all, before anything is written into them.
///
/// # Errors
/// Which one is unusable, and why.
pub async fn create_directories_of(io: &Io, config: &BrokerConfig) -> Result<(), String> {
    refuse_foreign_data(io, &config.ringlog.data_dir).await?;
    for log_directory in &config.log_dirs {
        create_directories(io, log_directory).await?;
        refuse_foreign(io, log_directory).await?;
    }
    create_directories(io, &config.ringlog.journal_dir).await
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
