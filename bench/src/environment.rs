//! Where a number was measured: machine, kernel, file system, commit, compiler, command line.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Written into every result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Environment {
    cpu: String,
    cpus: usize,
    memory_bytes: u64,
    kernel: String,
    hypervisor: bool,
    io_uring_disabled: String,
    transparent_hugepage: String,
    /// Type and mount options of what holds the data directories.
    file_system: String,
    /// Of the project, with `-dirty` if the work tree differs.
    commit: String,
    rustc: String,
    profile: String,
    argv: Vec<String>,
    started_utc: String,
}

impl Environment {
    /// Looks around; what cannot be read is "unknown".
    pub(crate) fn capture(data_directory: &Path) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
        let model = model.and_then(|line| line.split_once(": "));
        let uname = rustix::system::uname();
        Self {
            cpu: model.map_or("unknown", |(_, name)| name).to_owned(),
            cpus: cpuinfo
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count(),
            memory_bytes: memory_bytes(),
            kernel: format!(
                "{} {}",
                uname.sysname().to_string_lossy(),
                uname.release().to_string_lossy()
            ),
            hypervisor: cpuinfo.contains(" hypervisor"),
            io_uring_disabled: setting("/proc/sys/kernel/io_uring_disabled"),
            transparent_hugepage: setting("/sys/kernel/mm/transparent_hugepage/enabled"),
            file_system: file_system(data_directory),
            commit: commit(),
            rustc: output("rustc", &["--version"]),
            profile: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            }
            .to_owned(),
            argv: std::env::args().collect(),
            started_utc: utc(now_s()),
        }
    }

    /// A word for folder names: `amd-epyc-2cpu`.
    pub(crate) fn machine(&self) -> String {
        let words = self.cpu.to_lowercase();
        let words = words.split(|letter: char| !letter.is_ascii_alphanumeric());
        let words = words.filter(|word| !["", "r", "tm", "cpu", "processor"].contains(word));
        let words: Vec<_> = words.take(3).collect();
        format!("{}-{}cpu", words.join("-"), self.cpus)
    }

    /// Of the project.
    pub(crate) fn commit(&self) -> &str {
        &self.commit
    }

    /// The compiler here.
    pub(crate) fn rustc(&self) -> &str {
        &self.rustc
    }

    /// `2026-11-22`.
    pub(crate) fn date(&self) -> &str {
        self.started_utc.split('T').next().unwrap_or_default()
    }

    /// Lines of a README.
    pub(crate) fn lines(&self) -> Vec<String> {
        let virtual_machine = if self.hypervisor { ", virtual" } else { "" };
        vec![
            format!("command: `{}`", self.argv.join(" ")),
            format!("commit: {} ({}, {})", self.commit, self.profile, self.rustc),
            format!(
                "machine: {} x {}{virtual_machine}, {} MiB, {}",
                self.cpus,
                self.cpu,
                self.memory_bytes >> 20,
                self.kernel
            ),
            format!("data on: {}", self.file_system),
            format!("started: {}", self.started_utc),
        ]
    }
}

fn setting(path: &str) -> String {
    fs::read_to_string(path).map_or("unknown".to_owned(), |text| text.trim().to_owned())
}

fn memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

fn file_system(directory: &Path) -> String {
    let directory = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let holds = |line: &&str| {
        let mount_point = line.split(' ').nth(1).unwrap_or("-");
        directory.starts_with(mount_point)
    };
    let longest = mounts.lines().filter(holds);
    let longest = longest.max_by_key(|line| line.split(' ').nth(1).map(str::len));
    let words: Vec<_> = longest.unwrap_or_default().split(' ').collect();
    match words[..] {
        [device, _, kind, options, ..] => format!("{kind} on {device} ({options})"),
        _ => "unknown".to_owned(),
    }
}

fn commit() -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let hash = output("git", &["-C", root, "rev-parse", "--short=12", "HEAD"]);
    let changes = output(
        "git",
        &["-C", root, "status", "--porcelain", "--untracked-files=no"],
    );
    match changes.as_str() {
        "" | "unknown" => hash,
        _ => format!("{hash}-dirty"),
    }
}

/// What a program prints, or "unknown".
pub(crate) fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "unknown".to_owned(),
    }
}

fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// `2026-11-22`.
pub(crate) fn today() -> String {
    let now = utc(now_s());
    now.split('T').next().unwrap_or_default().to_owned()
}

/// Seconds since 1970 as ISO 8601 (Howard Hinnant: chrono-compatible low-level date algorithms).
fn utc(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_the_calendars() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_795_375_488), "2026-11-22T19:24:48Z");
    }

    #[test]
    fn this_machine_is_known() {
        let environment = Environment::capture(Path::new("/tmp"));
        assert!(environment.cpus > 0 && environment.memory_bytes > 0);
        assert!(
            environment.machine().ends_with("cpu"),
            "{}",
            environment.machine()
        );
        assert_ne!(environment.file_system, "unknown");
    }
}
