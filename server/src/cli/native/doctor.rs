//! `ringlog doctor`: is this machine fit for the broker? What was found, its effect, the remedy.
//!
//! It reads `/proc` and writes one small file to the data directory, which it removes again. It
//! changes nothing.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use ringlog_engine::io::probe::{DriverKind, choose};
use serde_json::{Value, json};

use crate::cli::Exit;
use crate::cli::tool::stdout;

/// `ringlog doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Directory for the data, where the disk is tried
    #[arg(long, default_value = "./data", value_name = "DIR")]
    data: PathBuf,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Ok,
    Warning,
    Problem,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing looked at.
#[derive(Clone, Debug)]
struct Finding {
    what: &'static str,
    level: Level,
    found: String,
    effect: &'static str,
    remedy: &'static str,
}

impl Finding {
    fn ok(what: &'static str, found: String) -> Self {
        Self {
            what,
            level: Level::Ok,
            found,
            effect: "",
            remedy: "",
        }
    }
}

/// Runs it; a problem is a failure.
pub(crate) fn run(args: &DoctorArgs) -> Exit {
    let findings = [
        kernel(),
        io_uring(),
        open_files(),
        locked_memory(),
        memory(),
        file_system(&args.data),
        disk(&args.data),
    ];
    let mut out = stdout();
    let written = if args.json {
        let list: Vec<_> = findings.iter().map(to_json).collect();
        writeln!(out, "{}", json!({ "findings": list }))
    } else {
        findings
            .iter()
            .try_for_each(|finding| print(finding, &mut out))
    };
    let has_problem = findings
        .iter()
        .any(|finding| finding.level == Level::Problem);
    match written.and_then(|()| out.flush()) {
        Ok(()) if !has_problem => Exit::Ok,
        _ => Exit::Failure,
    }
}

fn print(finding: &Finding, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(
        out,
        "{:<8} {:<14} {}",
        finding.level.name(),
        finding.what,
        finding.found
    )?;
    if !finding.effect.is_empty() {
        writeln!(out, "{:<8} {:<14} effect: {}", "", "", finding.effect)?;
        writeln!(out, "{:<8} {:<14} remedy: {}", "", "", finding.remedy)?;
    }
    Ok(())
}

fn to_json(finding: &Finding) -> Value {
    json!({
        "what": finding.what,
        "level": finding.level.name(),
        "found": finding.found,
        "effect": finding.effect,
        "remedy": finding.remedy,
    })
}

fn proc(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn kernel() -> Finding {
    let release = proc("/proc/sys/kernel/osrelease");
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let mut finding = Finding::ok("kernel", release);
    if version < (6, 1) {
        finding.level = Level::Warning;
        finding.effect = "single-issuer rings with deferred task work are missing: epoll is used";
        finding.remedy = "Linux 6.1 or later";
    }
    finding
}

fn io_uring() -> Finding {
    match choose(DriverKind::Uring) {
        Ok(choice) => Finding::ok("io_uring", choice.line),
        Err(reason) => Finding {
            what: "io_uring",
            level: Level::Warning,
            found: reason,
            effect: "the broker runs on epoll and plain system calls: same behaviour, more CPU",
            remedy: "as said above; or --io poll, to have no warning",
        },
    }
}

/// Soft and hard limit from `/proc/self/limits`; `None` is unlimited.
fn limit(name: &str) -> Option<(Option<u64>, Option<u64>)> {
    let limits = proc("/proc/self/limits");
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    let mut values = line.split_whitespace().map(|word| word.parse().ok());
    Some((values.next()?, values.next()?))
}

fn limit_text(value: Option<u64>) -> String {
    value.map_or("unlimited".to_owned(), |value| value.to_string())
}

fn open_files() -> Finding {
    let Some((soft, hard)) = limit("Max open files") else {
        return Finding::ok("open files", "unknown".to_owned());
    };
    let found = format!("{} (hard {})", limit_text(soft), limit_text(hard));
    let mut finding = Finding::ok("open files", found);
    if soft.is_some_and(|soft| soft < 10_000) {
        finding.level = Level::Warning;
        finding.effect =
            "every connection and open segment needs one: clients are refused at the limit";
        finding.remedy = "`ulimit -n 100000`, or LimitNOFILE=100000 in the unit file";
    }
    finding
}

fn locked_memory() -> Finding {
    let Some((soft, _)) = limit("Max locked memory") else {
        return Finding::ok("locked memory", "unknown".to_owned());
    };
    let mut finding = Finding::ok("locked memory", limit_text(soft));
    if soft.is_some_and(|soft| soft < 8 << 20) {
        finding.level = Level::Warning;
        finding.effect = "registered buffers may not fit, and io_uring may be refused";
        finding.remedy = "`ulimit -l unlimited`, or LimitMEMLOCK=infinity in the unit file";
    }
    finding
}

fn memory() -> Finding {
    let info = proc("/proc/meminfo");
    let kib = |name: &str| -> u64 {
        let line = info.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.unwrap_or(0)
    };
    let (total, available) = (kib("MemTotal:") / 1024, kib("MemAvailable:") / 1024);
    let mut finding = Finding::ok("memory", format!("{available} of {total} MiB available"));
    if available < 512 {
        finding.level = Level::Warning;
        finding.effect = "little page cache: consumers that lag read from the disk";
        finding.remedy = "leave a gigabyte or more to the system";
    }
    finding
}

/// The directory, or the nearest one above that is there.
fn existing(dir: &Path) -> PathBuf {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let mut found = absolute.as_path();
    while !found.is_dir() {
        match found.parent() {
            Some(parent) => found = parent,
            None => break,
        }
    }
    found.to_owned()
}

fn file_system(data: &Path) -> Finding {
    let dir = existing(data);
    let mounts = proc("/proc/self/mounts");
    let mount = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            Some((words.next()?, words.next()?))
        })
        .filter(|(point, _)| dir.starts_with(point))
        .max_by_key(|(point, _)| point.len());
    let kind = mount.map_or("unknown", |(_, kind)| kind);
    let mut found = format!("{kind} at {}", dir.display());
    if let Ok(space) = rustix::fs::statvfs(&dir) {
        let gib = space.f_bavail.saturating_mul(space.f_frsize) >> 30;
        found.push_str(&format!(", {gib} GiB free"));
    }
    let mut finding = Finding::ok("file system", found);
    match kind {
        "ext4" | "xfs" => {}
        "tmpfs" | "ramfs" => {
            finding.level = Level::Warning;
            finding.effect = "the data is gone with the machine's power";
            finding.remedy = "a directory on ext4 or xfs for anything but tests";
        }
        "nfs" | "nfs4" | "cifs" | "fuse" | "9p" => {
            finding.level = Level::Problem;
            finding.effect = "fdatasync over a network is slow, and locks are not to be trusted";
            finding.remedy = "a directory on a local ext4 or xfs";
        }
        _ => {
            finding.level = Level::Warning;
            finding.effect = "not measured on this file system: speed and durability are its own";
            finding.remedy = "ext4 or xfs are what the project measures";
        }
    }
    finding
}

const PROBE_WRITES: usize = 32;

/// Writes 4 KiB and syncs, as the journal does, and takes the median.
fn disk(data: &Path) -> Finding {
    let dir = existing(data);
    let path = dir.join(format!(".ringlog-doctor-{}", std::process::id()));
    let result = probe(&path);
    let _ = fs::remove_file(&path);
    let mut times = match result {
        Ok(times) => times,
        Err(error) => {
            return Finding {
                what: "fdatasync",
                level: Level::Problem,
                found: format!("{}: {error}", path.display()),
                effect: "the broker cannot keep data there",
                remedy: "another --data-dir directory, or permission to write to this one",
            };
        }
    };
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let worst = times.last().copied().unwrap_or_default();
    let found = format!(
        "4 KiB write and fdatasync: median {} us, worst of {PROBE_WRITES} {} us",
        median.as_micros(),
        worst.as_micros()
    );
    let mut finding = Finding::ok("fdatasync", found);
    if median < Duration::from_micros(15) {
        finding.level = Level::Warning;
        finding.effect = "faster than a disk can be: something acknowledges before it is stored";
        finding.remedy = "check the write cache of the (virtual) disk if acks=all has to mean it";
    } else if median > Duration::from_millis(10) {
        finding.level = Level::Warning;
        finding.effect = "acks=all waits at least so long; group commit keeps the throughput";
        finding.remedy = "a disk with power-loss protection, or ringlog.durability=page-cache";
    }
    finding
}

fn probe(path: &Path) -> std::io::Result<Vec<Duration>> {
    let file = File::options().create_new(true).write(true).open(path)?;
    let block = [0x5a_u8; 4096];
    // Space first, so that the figure is that of data and not of growing a file.
    let zeros = vec![0_u8; 4096 * PROBE_WRITES];
    file.write_all_at(&zeros, 0)?;
    file.sync_all()?;
    let mut times = Vec::new();
    let mut position = 0;
    for _ in 0..PROBE_WRITES {
        let start = Instant::now();
        file.write_all_at(&block, position)?;
        file.sync_data()?;
        times.push(start.elapsed());
        position += 4096;
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_but_ok_says_effect_and_remedy() {
        let dir = std::env::temp_dir();
        for finding in [
            kernel(),
            io_uring(),
            open_files(),
            locked_memory(),
            memory(),
            file_system(&dir),
            disk(&dir),
        ] {
            let is_ok = finding.level == Level::Ok;
            assert_eq!(is_ok, finding.remedy.is_empty(), "{finding:?}");
            assert!(!finding.found.is_empty(), "{finding:?}");
        }
    }

    #[test]
    fn a_directory_that_is_not_there_yet_is_judged_by_its_parent() {
        let missing = std::env::temp_dir().join("no/such/dir");
        assert_eq!(existing(&missing), std::env::temp_dir());
    }
}
