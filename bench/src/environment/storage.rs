//! File system and device of the data directories.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{chosen, setting};
use crate::resources::block_device;

/// Settings of a device's queue (Documentation/ABI/stable/sysfs-block).
const QUEUE: [&str; 12] = [
    "discard_max_bytes",
    "fua",
    "io_poll",
    "logical_block_size",
    "max_sectors_kb",
    "nr_requests",
    "physical_block_size",
    "read_ahead_kb",
    "rotational",
    "scheduler",
    "wbt_lat_usec",
    "write_cache",
];

/// What holds the data directories.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Storage {
    path: String,
    file_system: String,
    mounted: String,
    options: String,
    free_bytes: Option<u64>,
    /// `None` if there is no block device under it (tmpfs, overlay).
    device: Option<BlockDevice>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct BlockDevice {
    name: String,
    model: Option<String>,
    size_bytes: Option<u64>,
    /// As in `/sys/block/NAME/queue`; those that are there.
    queue: BTreeMap<String, String>,
}

impl Storage {
    pub(super) fn capture(directory: &Path) -> Self {
        let path = existing(directory);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let (file_system, mounted, options) = mount(&mounts, &path).unwrap_or_else(|| {
            let unknown = || "unknown".to_owned();
            (unknown(), unknown(), unknown())
        });
        Self {
            path: path.display().to_string(),
            file_system,
            mounted,
            options,
            free_bytes: rustix::fs::statvfs(&path)
                .ok()
                .map(|told| told.f_bavail * told.f_frsize),
            device: block_device(&path)
                .map(|(name, directory)| BlockDevice::read(name, &directory)),
        }
    }

    pub(super) fn line(&self) -> String {
        let device = self
            .device
            .as_ref()
            .map_or("no block device".to_owned(), |device| {
                let of = |key: &str| device.queue.get(key).map_or("unknown", String::as_str);
                format!(
                    "{}, scheduler {}, readahead {} KiB, write cache: {}",
                    device.name,
                    of("scheduler"),
                    of("read_ahead_kb"),
                    of("write_cache")
                )
            });
        format!(
            "{} on {} ({}); {device}",
            self.file_system, self.mounted, self.options
        )
    }
}

impl BlockDevice {
    fn read(name: String, directory: &Path) -> Self {
        // A partition has its queue in the disk that it is of.
        let own = directory.join("queue");
        let queue = match own.is_dir() {
            true => own,
            false => directory.join("../queue"),
        };
        let row = |key: &&str| {
            let value = setting(&queue.join(key).to_string_lossy())?;
            Some(((*key).to_owned(), chosen(&value)))
        };
        let told = |name: &str| setting(&directory.join(name).to_string_lossy());
        Self {
            name,
            model: told("device/model"),
            size_bytes: told("size").and_then(|sectors| Some(sectors.parse::<u64>().ok()? * 512)),
            queue: QUEUE.iter().filter_map(row).collect(),
        }
    }
}

/// The directory, or what of it is there already.
fn existing(directory: &Path) -> PathBuf {
    let absolute = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    let found = absolute
        .ancestors()
        .find_map(|path| fs::canonicalize(path).ok());
    found.unwrap_or(absolute)
}

/// Type, device and options of the mount that holds `path`: the longest, and of equal ones the last.
fn mount(mounts: &str, path: &Path) -> Option<(String, String, String)> {
    let rows = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let holds = rows.filter(|words| {
        let at = words.get(1).map(|at| at.replace("\\040", " "));
        at.is_some_and(|at| path.starts_with(at))
    });
    let longest = holds.max_by_key(|words| words.get(1).map(|at| at.len()))?;
    let [device, _, kind, options, ..] = longest[..] else {
        return None;
    };
    Some((kind.to_owned(), device.to_owned(), options.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_and_latest_mount_counts() {
        let mounts =
            "/dev/a / ext4 rw 0 0\nx /data tmpfs ro 0 0\n/dev/b /data xfs rw,noatime 0 0\n";
        let of = |path: &str| mount(mounts, Path::new(path)).unwrap();
        assert_eq!(of("/data/x").0, "xfs");
        assert_eq!(of("/database").0, "ext4");
        assert_eq!(mount("", Path::new("/")), None);
    }

    #[test]
    fn a_directory_that_is_not_there_yet_is_on_its_parents_file_system() {
        let there = Storage::capture(Path::new("/tmp"));
        let not_yet = Storage::capture(Path::new("/tmp/no/such/directory/yet"));
        assert_eq!(there.file_system, not_yet.file_system);
    }
}
