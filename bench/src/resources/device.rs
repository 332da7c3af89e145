//! The block device under the files that a process writes, and what it wrote for all its users.

use std::collections::BTreeMap;
use std::fs;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The kernel counts in sectors of this, whatever the device's own are (Documentation/block/stat.rst).
const SECTOR_BYTES: u64 = 512;

/// A device of `/sys/dev/block`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Device {
    name: String,
    stat: PathBuf,
}

/// What a device did, or did between two readings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DeviceUsage {
    /// `vda`.
    pub(crate) name: String,
    /// Write requests completed.
    pub(crate) writes: u64,
    /// Bytes written.
    pub(crate) write_bytes: u64,
    /// Flushes of its write cache; `None` before Linux 5.5.
    pub(crate) flushes: Option<u64>,
}

/// The name and `/sys` directory of the block device that holds `path`.
pub(crate) fn block_device(path: &Path) -> Option<(String, PathBuf)> {
    of_number(fs::metadata(path).ok()?.st_dev())
}

fn of_number(device: u64) -> Option<(String, PathBuf)> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    // Anonymous devices (tmpfs, overlay) have no entry.
    let link = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let name = link.file_name()?.to_string_lossy().into_owned();
    Some((name, link))
}

impl Device {
    /// Under most of the files that a process has open for writing.
    pub(super) fn of_process(pid: u32) -> Option<Self> {
        let mut votes = BTreeMap::<u64, usize>::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten() {
            let Ok(metadata) = fs::metadata(entry.path()) else {
                continue;
            };
            let info = entry.file_name().to_string_lossy().into_owned();
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{info}"));
            if metadata.is_file() && info.is_ok_and(|info| writes(&info)) {
                *votes.entry(metadata.st_dev()).or_default() += 1;
            }
        }
        let (device, _) = votes.into_iter().max_by_key(|(_, votes)| *votes)?;
        let (name, directory) = of_number(device)?;
        let stat = directory.join("stat");
        Some(Self { name, stat })
    }

    /// Since the boot.
    pub(super) fn read(&self) -> Option<DeviceUsage> {
        let text = fs::read_to_string(&self.stat).ok()?;
        parse(&self.name, &text)
    }

    /// Since a reading.
    pub(super) fn since(&self, before: &DeviceUsage) -> Option<DeviceUsage> {
        let after = self.read()?;
        Some(DeviceUsage {
            writes: after.writes.saturating_sub(before.writes),
            write_bytes: after.write_bytes.saturating_sub(before.write_bytes),
            flushes: after
                .flushes
                .zip(before.flushes)
                .map(|(after, before)| after.saturating_sub(before)),
            name: after.name,
        })
    }
}

/// `flags:` is octal; its last two bits are the access mode (open(2)).
fn writes(fdinfo: &str) -> bool {
    let flags = fdinfo.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u64::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & 3 != 0)
}

/// Fields 5, 7 and 16 of Documentation/block/stat.rst.
fn parse(name: &str, stat: &str) -> Option<DeviceUsage> {
    let fields: Vec<u64> = stat.split_whitespace().flat_map(str::parse).collect();
    Some(DeviceUsage {
        name: name.to_owned(),
        writes: *fields.get(4)?,
        write_bytes: fields.get(6)? * SECTOR_BYTES,
        flushes: fields.get(15).copied(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_device_gives_writes_bytes_and_flushes() {
        let line = " 1 2 3 4 50 6 700 8 0 10 11 12 13 14 15 160 17\n";
        let usage = parse("vda", line).unwrap();
        assert_eq!((usage.writes, usage.write_bytes), (50, 700 * 512));
        assert_eq!(usage.flushes, Some(160));
        assert_eq!(parse("vda", "1 2 3"), None);
        assert_eq!(
            parse("old", "1 2 3 4 5 6 7 8 9 10 11").unwrap().flushes,
            None
        );
    }

    #[test]
    fn only_files_open_for_writing_count() {
        assert!(writes("pos:\t0\nflags:\t0100001\n") && writes("flags:\t02\n"));
        assert!(!writes("flags:\t0100000\n") && !writes("pos:\t0\n"));
    }
}
