//! What the defaults need to know of this machine and process.

use std::fs;

/// Soft limit that is assumed where `/proc` is not to be read; Linux's own default.
const OPEN_FILES_ASSUMED: u64 = 1024;

/// Cores that this process may use, by affinity and cgroup quota.
pub(crate) fn usable_cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(256))
}

/// The soft limit of open files (`ulimit -n`).
pub(crate) fn open_files_limit() -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    parse_open_files(&limits).unwrap_or(OPEN_FILES_ASSUMED)
}

fn parse_open_files(limits: &str) -> Option<u64> {
    let mut lines = limits.lines();
    let fields = lines.find_map(|line| line.strip_prefix("Max open files"))?;
    match fields.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_limit_is_the_soft_one() {
        let limits =
            "Limit   Soft Limit  Hard Limit  Units\nMax open files   20000   524288   files\n";
        assert_eq!(parse_open_files(limits), Some(20000));
        assert_eq!(
            parse_open_files("Max open files unlimited unlimited files"),
            Some(u64::MAX)
        );
        assert_eq!(parse_open_files("Max open files"), None);
        assert!(usable_cores() >= 1 && open_files_limit() >= 16);
    }
}
