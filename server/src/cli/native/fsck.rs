//! `ringlog fsck`: checks a data directory that no broker uses, and repairs it on demand.

use std::cell::RefCell;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use clap::Args;
use ringlog_engine::io::{DriverKind, Io, lock_file};
use ringlog_engine::log::directory::{
    CLEAN_SHUTDOWN_FILE, META_PROPERTIES_FILE, PartitionDirectory,
};
use serde_json::json;

use crate::cli::Exit;
use crate::cli::holder::name_holder;
use crate::cli::tool::{ToolError, ToolResult, finish, stdout};
use crate::fsck::repair::Mode;
use crate::fsck::{Finding, Fsck, Scope, Totals};

/// `ringlog fsck`.
#[derive(Debug, Args)]
pub(crate) struct FsckArgs {
    /// A data directory, a log directory of Kafka or Ringlog, or the directory of one partition
    #[arg(default_value = "./data", value_name = "DIR")]
    directory: PathBuf,
    /// Take damaged bytes out of the logs; they are kept aside, and what is lost is told
    #[arg(long, value_enum, value_name = "HOW")]
    repair: Option<Mode>,
    /// Directory of the journals, if it is not beside the log directory
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// A JSON object a line: the findings, then the totals
    #[arg(long)]
    json: bool,
}

/// Runs it; damage is a failure.
pub(crate) fn run(args: &FsckArgs) -> Exit {
    match check(args) {
        Ok(totals) if totals.damaged > 0 || totals.mended > 0 => Exit::Failure,
        Ok(_) => Exit::Ok,
        Err(error) => finish(Err(error)),
    }
}

fn check(args: &FsckArgs) -> ToolResult<Totals> {
    let mut scope = scope(&args.directory)?;
    if let Some(journal) = &args.journal {
        std::fs::read_dir(journal).map_err(|error| {
            ToolError::failed(format!(
                "{}: {error}\n   | give the directory of the journals, as --journal DIR",
                journal.display()
            ))
        })?;
        scope.journals = vec![journal.clone()];
    }
    if args.repair.is_some() {
        journals_are_known(&scope)?;
    }
    let _locks = lock(&scope, args.repair.is_some())?;
    let out = Rc::new(RefCell::new(stdout()));
    let (told, as_json) = (out.clone(), args.json);
    let tell = move |finding: &Finding| {
        let line = if as_json {
            to_json(finding)
        } else {
            to_text(finding)
        };
        // A closed pipe: the exit code still tells.
        let _ = writeln!(told.borrow_mut(), "{line}");
    };
    let io = Io::new(DriverKind::Poll)?;
    let fsck = Fsck::new(&io, args.repair, Box::new(tell));
    let totals = io.block_on(async move { fsck.run(&scope).await });
    let totals = totals.map_err(|error| ToolError::failed(error.to_string()))?;
    let mut out = out.borrow_mut();
    writeln!(out, "{}", summary(&totals, args.json))?;
    out.flush()?;
    Ok(totals)
}

/// A start writes what a journal holds into the segments, at the positions that they had: none may be
/// rewritten before. A broker that was stopped cleanly has emptied its journals.
fn journals_are_known(scope: &Scope) -> ToolResult<()> {
    let unclean = |directory: &&PathBuf| !directory.join(CLEAN_SHUTDOWN_FILE).exists();
    match scope.log_directories.iter().find(unclean) {
        Some(directory) if scope.journals.is_empty() => Err(ToolError::failed(format!(
            "{} was not stopped cleanly (it has no {CLEAN_SHUTDOWN_FILE}), and no journal was found \
             beside it: a start could write the journal over what is repaired\n   | start the broker \
             and stop it; or give the directory of its journals, as --journal DIR (for a Kafka, which \
             has none: an empty directory)",
            directory.display()
        ))),
        _ => Ok(()),
    }
}

// ---- where -------------------------------------------------------------------------------------

/// What a directory is, by what is in it.
fn scope(directory: &Path) -> ToolResult<Scope> {
    let failed = |error: std::io::Error| {
        ToolError::failed(format!(
            "{}: {error}\n   | give a data directory, as `ringlog fsck DIR`",
            directory.display()
        ))
    };
    let given = std::path::absolute(directory).map_err(failed)?;
    let directory = std::fs::canonicalize(directory).map_err(failed)?;
    let names = names(&directory).map_err(failed)?;
    let has = |name: &str| names.iter().any(|known| known == name);
    if has("logs") && directory.join("logs").is_dir() {
        return Ok(Scope {
            journals: journals_beside(&[directory.join("logs"), given.join("logs")]),
            log_directories: vec![directory.join("logs")],
            only: None,
        });
    }
    let is_partition =
        |name: &String| PartitionDirectory::parse(name).is_some() && directory.join(name).is_dir();
    if has(META_PROPERTIES_FILE) || names.iter().any(is_partition) {
        return Ok(Scope {
            journals: journals_beside(&[directory.clone(), given]),
            log_directories: vec![directory],
            only: None,
        });
    }
    let name = directory.file_name().and_then(|name| name.to_str());
    let is_named = name.is_some_and(|name| PartitionDirectory::parse(name).is_some());
    let has_segments = names.iter().any(|name| name.ends_with(".log"));
    match directory.parent() {
        Some(parent) if is_named && has_segments => Ok(Scope {
            log_directories: vec![parent.to_owned()],
            journals: journals_beside(&[parent.to_owned()]),
            only: Some(directory),
        }),
        _ => Err(ToolError::failed(format!(
            "{} is no data directory: it has neither logs, nor {META_PROPERTIES_FILE}, nor \
             directories of partitions\n   | give one, as `ringlog fsck DIR`",
            directory.display()
        ))),
    }
}

/// Where a broker with this log directory keeps its journals: in the data directory that has it as
/// `logs`, or beside the first of `log.dirs`. A directory that is given by a link has two names.
fn journals_beside(log_directories: &[PathBuf]) -> Vec<PathBuf> {
    let mut journals = Vec::new();
    for directory in log_directories {
        let mut own = directory.clone().into_os_string();
        own.push(".ringlog");
        let parents = [directory.parent().map(Path::to_owned), Some(own.into())];
        for parent in parents.into_iter().flatten() {
            let found = std::fs::canonicalize(parent.join("journal"));
            journals.extend(found.ok().filter(|journal| journal.is_dir()));
        }
    }
    journals.sort();
    journals.dedup();
    journals
}

fn names(directory: &Path) -> std::io::Result<Vec<String>> {
    let entries = std::fs::read_dir(directory)?;
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Keeps brokers out. Without a repair nothing is created: a directory without the file of the lock
/// has no broker.
fn lock(scope: &Scope, is_repair: bool) -> ToolResult<Vec<OwnedFd>> {
    let mut directories = scope.log_directories.clone();
    let data = scope.journals.iter().filter_map(|journal| journal.parent());
    directories.extend(data.map(Path::to_owned));
    let mut locks = Vec::new();
    for directory in directories {
        let path = directory.join(".lock");
        if !is_repair && !path.exists() {
            continue;
        }
        match lock_file(&path) {
            Ok(lock) => locks.push(lock),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                return Err(ToolError::failed(format!(
                    "{} is in use: {} holds {}\n   | stop that broker first",
                    directory.display(),
                    name_holder(&path),
                    path.display()
                )));
            }
            // Who may only read may still look.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied && !is_repair => {}
            Err(error) => {
                return Err(ToolError::failed(format!(
                    "{}: {error}\n   | run this as the user of the broker",
                    path.display()
                )));
            }
        }
    }
    Ok(locks)
}

// ---- what is told ------------------------------------------------------------------------------

fn to_text(finding: &Finding) -> String {
    let mut text = format!(
        "{} {} {}",
        finding.level.name(),
        finding.kind,
        finding.path.display()
    );
    if let (Some(position), bytes) = (finding.position, finding.bytes.unwrap_or(0)) {
        text.push_str(&format!(" at byte {position}, {bytes} bytes"));
    }
    match (finding.offset, finding.next_offset) {
        (Some(offset), Some(next)) => text.push_str(&format!(", offsets {offset} up to {next}")),
        (Some(offset), None) => text.push_str(&format!(", from offset {offset} on")),
        (None, _) => {}
    }
    text.push_str(&format!(": {}", finding.reason));
    if !finding.remedy.is_empty() {
        text.push_str(&format!("\n   | {}", finding.remedy));
    }
    text
}

fn to_json(finding: &Finding) -> String {
    json!({
        "level": finding.level.name(),
        "kind": finding.kind,
        "path": finding.path.display().to_string(),
        "position": finding.position,
        "bytes": finding.bytes,
        "offset": finding.offset,
        "next_offset": finding.next_offset,
        "reason": finding.reason,
        "remedy": finding.remedy,
    })
    .to_string()
}

fn summary(totals: &Totals, as_json: bool) -> String {
    if as_json {
        return json!({
            "level": "total",
            "partitions": totals.partitions,
            "segments": totals.segments,
            "batches": totals.batches,
            "bytes": totals.bytes,
            "damaged": totals.damaged,
            "mended_by_start": totals.mended,
            "repaired": totals.repaired,
        })
        .to_string();
    }
    format!(
        "{} partitions, {} segments, {} batches, {} bytes: {} damaged, {} mended by a start, {} \
         repaired",
        totals.partitions,
        totals.segments,
        totals.batches,
        totals.bytes,
        totals.damaged,
        totals.mended,
        totals.repaired
    )
}
