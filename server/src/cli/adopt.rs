//! `ringlog serve --adopt DIR`: takes over the log directory of an Apache Kafka, as a copy.
//!
//! The copy (sharing its blocks with the original where the file system can) becomes `logs` of the data
//! directory: it is made under another name, synced, and renamed when it is whole, so that a start that
//! is cut short begins again. The original is only read, and locked meanwhile; it must not be in use.
//! What is Kafka's own business stays behind: the metadata log of KRaft, and directories that were
//! being deleted or moved. Topics get the partitions that are there; of their settings see
//! `boot/adopted`.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ringlog_engine::io::lock_file;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use ringlog_engine::log::directory::{META_PROPERTIES_FILE, MetaProperties, PartitionDirectory};

use super::holder::name_holder;
use crate::metadata::state::METADATA_TOPIC;

/// Behind the name of a copy that is not whole yet.
const UNFINISHED: &str = ".adopting";

/// Copies the log directory `from` to `logs`, for the broker `node_id`. Does nothing if `logs` has a
/// copy of an earlier start already.
///
/// # Errors
/// What is wrong, where, and what to do.
pub(super) fn adopt(from: &Path, logs: &Path, node_id: i32) -> Result<(), String> {
    let failed = |path: &Path, error: io::Error| {
        format!(
            "cannot adopt {}: {}: {error}",
            from.display(),
            path.display()
        )
    };
    let from = fs::canonicalize(from).map_err(|error| failed(from, error))?;
    check(&from)?;
    if has_entries(logs) {
        return Err(format!(
            "{} is not empty: nothing was adopted\n   | start without --adopt if {} was adopted \
             before, or give another --data-dir",
            logs.display(),
            from.display()
        ));
    }
    let mut unfinished = logs.as_os_str().to_owned();
    unfinished.push(UNFINISHED);
    let unfinished = PathBuf::from(unfinished);
    let place = resolve(&unfinished).map_err(|error| failed(&unfinished, error))?;
    if place.starts_with(&from) || from.starts_with(&place) {
        return Err(format!(
            "cannot adopt {}: the copy is made as {}, which is not apart from it\n   | give another \
             --data-dir, or move the directory that is to be adopted",
            from.display(),
            unfinished.display()
        ));
    }
    let _lock = lock(&from)?;
    let copied = (|| {
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        fs::create_dir_all(&unfinished)?;
        copy_directory(&from, &unfinished, true)?;
        own(&unfinished, node_id)?;
        if logs.exists() {
            fs::remove_dir(logs)?;
        }
        fs::rename(&unfinished, logs)?;
        let parent = logs
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    })();
    copied.map_err(|error| failed(&unfinished, error))?;
    log::info!("Adopted a copy of {} as {}", from.display(), logs.display());
    Ok(())
}

/// The path without links, also of what is not there yet.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    for ancestor in path.ancestors() {
        match fs::canonicalize(ancestor) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => {
                let rest = path.strip_prefix(ancestor).map_err(io::Error::other)?;
                let found = found?;
                return Ok(if rest.as_os_str().is_empty() {
                    found
                } else {
                    found.join(rest)
                });
            }
        }
    }
    Ok(path)
}

/// Keeps a broker out of the original. Nothing is created there: a directory without the file of the
/// lock has no broker, and no broker writes where the file system can only be read.
fn lock(from: &Path) -> Result<Option<OwnedFd>, String> {
    let path = from.join(".lock");
    if fs::symlink_metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    match lock_file(&path) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ReadOnlyFilesystem => Ok(None),
            io::ErrorKind::WouldBlock => Err(format!(
                "{} is in use: {} holds {}\n   | stop that broker first",
                from.display(),
                name_holder(&path),
                path.display()
            )),
            _ => Err(format!(
                "{}: {error}\n   | run this as the owner of {}",
                path.display(),
                from.display()
            )),
        },
    }
}

/// Whether this is a log directory of Kafka.
fn check(from: &Path) -> Result<(), String> {
    let path = from.join(META_PROPERTIES_FILE);
    let text = fs::read_to_string(&path).map_err(|error| {
        format!(
            "{}: {error}\n   | give a directory of log.dirs of a Kafka, which has this file",
            path.display()
        )
    })?;
    MetaProperties::parse(&text).map(drop).map_err(|reason| {
        format!(
            "{}: {reason}\n   | restore it before the directory is adopted",
            path.display()
        )
    })
}

fn has_entries(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
}

fn naming(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn copy_directory(from: &Path, to: &Path, is_log_directory: bool) -> io::Result<()> {
    for entry in fs::read_dir(from).map_err(|error| naming(from, &error))? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        // Behind links, which lead to other disks: a partition must not stay behind unsaid.
        let kind = fs::metadata(&path).map_err(|error| naming(&path, &error))?;
        let target = to.join(&name);
        if kind.is_file() && name != ".lock" {
            copy_file(&path, &target).map_err(|error| naming(&path, &error))?;
            File::open(&target)?.sync_all()?;
        } else if kind.is_dir() && is_log_directory {
            let parsed = name.to_str().and_then(PartitionDirectory::parse);
            let is_served =
                |it: &PartitionDirectory| it.suffix.is_none() && it.topic != METADATA_TOPIC;
            if parsed.as_ref().is_some_and(is_served) {
                fs::create_dir(&target)?;
                copy_directory(&path, &target, false)?;
            } else {
                log::info!("Not adopted: {}", path.display());
            }
        }
    }
    File::open(to)?.sync_all()
}

/// Holes stay holes: the two indexes of each partition that a killed Kafka leaves are of 10 MiB, of which
/// a few pages are written.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let told = source.metadata()?;
    if told.blocks() * 512 >= told.len() {
        // copy_file_range(2): on XFS and Btrfs the copy shares the blocks.
        return fs::copy(from, to).map(drop);
    }
    let mut target = File::create(to)?;
    target.set_permissions(told.permissions())?;
    target.set_len(told.len())?;
    let mut position = 0;
    loop {
        let begin = match rustix::fs::seek(&source, SeekFrom::Data(position)) {
            Err(Errno::NXIO) => return Ok(()), // nothing but a hole is left
            other => other?,
        };
        position = rustix::fs::seek(&source, SeekFrom::Hole(begin))?;
        source.seek(io::SeekFrom::Start(begin))?;
        target.seek(io::SeekFrom::Start(begin))?;
        io::copy(&mut (&mut source).take(position - begin), &mut target)?;
    }
}

/// The copy belongs to this broker, of the same cluster.
fn own(logs: &Path, node_id: i32) -> io::Result<()> {
    let path = logs.join(META_PROPERTIES_FILE);
    let properties = MetaProperties::parse(&fs::read_to_string(&path)?);
    let properties = properties.map_err(io::Error::other)?;
    let ours = MetaProperties {
        version: 0,
        cluster_id: properties.cluster_id,
        node_id: Some(node_id),
        directory_id: None,
        others: Vec::new(),
    };
    fs::write(&path, ours.encode())?;
    File::open(&path)?.sync_all()
}
