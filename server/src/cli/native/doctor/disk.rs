//! What `doctor` looks at below the data directory: file system, block device, a write that has to last.

use std::fs::{self, File};
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Finding, Level, Step, proc};

/// Of the kernel's readahead: with 1 MiB produce's p99 beside cold readers was about that of a quiet broker, with
/// 8 MiB ten times as long (results/2026-11-23-amd-epyc-2cpu-tails).
const READAHEAD_KIB_MAX: u32 = 1024;

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

pub(super) fn file_system(data: &Path) -> Finding {
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
pub(super) fn disk(data: &Path) -> Finding {
    let dir = existing(data);
    let path = dir.join(format!(".ringlog-doctor-{}", std::process::id()));
    let result = probe(&path);
    let _ = fs::remove_file(&path);
    let mut times = match result {
        Ok(times) => times,
        Err(error) => {
            return Finding {
                level: Level::Problem,
                effect: "the broker cannot keep data there",
                remedy: "another --data-dir directory, or permission to write to this one",
                ..Finding::ok("fdatasync", format!("{}: {error}", path.display()))
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

/// The queue of the block device under the directory, as `/sys` names it; a partition has its disk's.
fn queue(data: &Path) -> Option<(String, PathBuf)> {
    let device = fs::metadata(existing(data)).ok()?.st_dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let place = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let disk = [place.as_path(), place.parent()?]
        .into_iter()
        .find(|place| place.join("queue").is_dir())?;
    let name = disk.file_name()?.to_string_lossy().into_owned();
    Some((name, disk.join("queue")))
}

/// The I/O scheduler, which a fast device needs none of.
pub(super) fn scheduler(data: &Path) -> Finding {
    let Some((device, queue)) = queue(data) else {
        return Finding::ok("I/O scheduler", "no block device is seen here".to_owned());
    };
    let path = queue.join("scheduler");
    let choices = proc(&path.to_string_lossy());
    let chosen = choices
        .split(['[', ']'])
        .nth(1)
        .unwrap_or(&choices)
        .to_owned();
    let mut finding = Finding::ok("I/O scheduler", format!("{chosen} for {device}"));
    if chosen != "none" && choices.contains("none") {
        finding.level = Level::Hint;
        finding.effect =
            "each write of the journal passes a queue that a fast device needs none of";
        finding.remedy =
            "`none` for NVMe and virtual disks: see docs/tuning.md for how to measure it";
        finding.step = Step::write(&path.to_string_lossy(), "none", &chosen);
    }
    finding
}

/// How far the kernel reads ahead of each reader of cold data.
pub(super) fn readahead(data: &Path) -> Finding {
    let Some((device, queue)) = queue(data) else {
        return Finding::ok("readahead", "no block device is seen here".to_owned());
    };
    let path = queue.join("read_ahead_kb");
    judge_readahead(&device, &path, &proc(&path.to_string_lossy()))
}

fn judge_readahead(device: &str, path: &Path, kib: &str) -> Finding {
    let mut finding = Finding::ok("readahead", format!("{kib} KiB for {device}"));
    let is_far = |kib: u32| kib > READAHEAD_KIB_MAX;
    if kib.parse().is_ok_and(is_far) {
        finding.level = Level::Hint;
        finding.effect = "each consumer of cold data keeps the device busy with so much at once, and the \
                          journal's next write comes behind all of it";
        finding.remedy = "1024: cold consumers read a little slower, and producers beside them wait for \
                          less (docs/tuning.md has both, measured)";
        finding.step = Step::write(&path.to_string_lossy(), "1024", kib);
    }
    finding
}

/// Whether the device may lose what it has acknowledged unless it is told to flush.
pub(super) fn write_cache(data: &Path) -> Finding {
    let Some((device, queue)) = queue(data) else {
        return Finding::ok("write cache", "no block device is seen here".to_owned());
    };
    let kind = proc(&queue.join("write_cache").to_string_lossy());
    let meaning = match kind.as_str() {
        "write back" => "each durable write costs a flush, or goes through (FUA)",
        "write through" => "what is written is stored: no flush is needed",
        _ => "unknown",
    };
    Finding::ok("write cache", format!("{kind} of {device}: {meaning}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_reads_far_ahead_is_told_of() {
        let path = Path::new("/sys/block/vda/queue/read_ahead_kb");
        let of = |kib| judge_readahead("vda", path, kib);
        let far = of("8192");
        assert_eq!(
            (far.level, far.found.as_str()),
            (Level::Hint, "8192 KiB for vda")
        );
        assert_eq!(
            far.step,
            Step::write(&path.to_string_lossy(), "1024", "8192")
        );
        for kib in ["0", "128", "1024", ""] {
            assert_eq!(of(kib).level, Level::Ok, "{kib}");
        }
    }

    #[test]
    fn a_directory_that_is_not_there_yet_is_judged_by_its_parent() {
        let missing = std::env::temp_dir().join("no/such/dir");
        assert_eq!(existing(&missing), std::env::temp_dir());
    }
}
