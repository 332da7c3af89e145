//! How many entries a process put into its io_uring rings, from `/proc/PID/fdinfo`.
//!
//! The kernel tells every ring's submission tail there (`SqTail`), which counts all entries ever
//! put in, modulo 2^32. It costs the process nothing. Not in it: rings that a process opened and
//! closed between two readings.

use std::collections::BTreeMap;
use std::fs;

use super::{Count, labelled};

/// The submission tails of a process's rings, by file descriptor.
#[derive(Debug)]
pub(super) struct Rings {
    pid: Option<u32>,
    tails: Result<BTreeMap<u32, u32>, String>,
}

impl Rings {
    /// Reads them now.
    pub(super) fn of(pid: Option<u32>) -> Self {
        let unknown = || Err("the broker's process is not known (--pid)".to_owned());
        Self {
            pid,
            tails: pid.map_or_else(unknown, read),
        }
    }

    /// Entries since then.
    pub(super) fn since(&self) -> Count {
        let after = Self::of(self.pid);
        let (before, after) = match (&self.tails, &after.tails) {
            (Ok(before), Ok(after)) => (before, after),
            (Err(reason), _) | (_, Err(reason)) => return Count::Unavailable(reason.clone()),
        };
        if after.is_empty() {
            return Count::Unavailable("the process has no io_uring".to_owned());
        }
        let count = after.iter().map(|(descriptor, tail)| {
            let before = before.get(descriptor).copied().unwrap_or_default();
            u64::from(tail.wrapping_sub(before))
        });
        Count::Counted {
            count: count.sum(),
            source: "SqTail of /proc/PID/fdinfo".to_owned(),
        }
    }
}

fn read(pid: u32) -> Result<BTreeMap<u32, u32>, String> {
    let directory = format!("/proc/{pid}/fd");
    let entries = fs::read_dir(&directory).map_err(|error| format!("{directory}: {error}"))?;
    let mut tails = BTreeMap::new();
    for entry in entries.flatten() {
        let ring =
            fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == "anon_inode:[io_uring]");
        let descriptor = entry.file_name().to_string_lossy().parse::<u32>();
        let (true, Ok(descriptor)) = (ring, descriptor) else {
            continue;
        };
        let path = format!("/proc/{pid}/fdinfo/{descriptor}");
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let tail = labelled(&text, "SqTail:").ok_or_else(|| format!("{path} tells no SqTail"))?;
        tails.insert(descriptor, u32::try_from(tail).unwrap_or_default());
    }
    Ok(tails)
}
