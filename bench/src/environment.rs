//! Where a number was measured: machine, kernel, io_uring, file system, device, limits, build, command.
//!
//! What cannot be read is "unknown" or missing, never guessed. What the kernel's command line hands to
//! init (behind ` -- `) is left out: it is no setting of the kernel and may name what is private.

mod hardware;
mod kernel;
mod storage;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use hardware::{Cpu, Memory, Virtualization};
use kernel::{IoUring, Kernel};
use storage::Storage;

/// Written into every result, and into `env.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Environment {
    /// The command line.
    argv: Vec<String>,
    started_utc: String,
    tool: Tool,
    cpu: Cpu,
    memory: Memory,
    virtualization: Virtualization,
    kernel: Kernel,
    io_uring: IoUring,
    /// What holds the data directories.
    storage: Storage,
    /// Soft and hard, of this process; a broker that it starts inherits them.
    limits: BTreeMap<String, String>,
    /// Of the last minute, before anything was started.
    load_average: f64,
}

/// This program.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Tool {
    version: String,
    /// Of the project.
    commit: String,
    /// Whether the work tree differs from it; `None` if that is unknown.
    dirty: Option<bool>,
    rustc: String,
    profile: String,
}

impl Environment {
    /// Looks around; `data_directory` is where brokers keep their data.
    pub(crate) fn capture(data_directory: &Path) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            argv: std::env::args().collect(),
            started_utc: utc(now_s()),
            tool: Tool::capture(),
            cpu: Cpu::capture(&cpuinfo),
            memory: Memory::capture(),
            virtualization: Virtualization::capture(&cpuinfo),
            kernel: Kernel::capture(),
            io_uring: IoUring::capture(),
            storage: Storage::capture(data_directory),
            limits: limits(&fs::read_to_string("/proc/self/limits").unwrap_or_default()),
            load_average: setting("/proc/loadavg")
                .and_then(|text| text.split(' ').next()?.parse().ok())
                .unwrap_or_default(),
        }
    }

    /// A word for folder names: `amd-epyc-2cpu`.
    pub(crate) fn machine(&self) -> String {
        let words = self.cpu.model.to_lowercase();
        let words = words.split(|letter: char| !letter.is_ascii_alphanumeric());
        let words = words.filter(|word| !["", "r", "tm", "cpu", "processor"].contains(word));
        let words: Vec<_> = words.take(3).collect();
        format!("{}-{}cpu", words.join("-"), self.cpu.cpus)
    }

    /// Of the project, with `-dirty` if the work tree differs.
    pub(crate) fn commit(&self) -> &str {
        &self.tool.commit
    }

    /// The compiler here.
    pub(crate) fn rustc(&self) -> &str {
        &self.tool.rustc
    }

    /// `debug` or `release`.
    pub(crate) fn profile(&self) -> &str {
        &self.tool.profile
    }

    /// `2026-11-22T19:24:48Z`.
    pub(crate) fn started(&self) -> &str {
        &self.started_utc
    }

    /// `2026-11-22`.
    pub(crate) fn date(&self) -> &str {
        self.started_utc.split('T').next().unwrap_or_default()
    }

    /// What one types to have the run again.
    pub(crate) fn command(&self) -> String {
        let word = |word: &String| match word.chars().all(is_plain) && !word.is_empty() {
            true => word.clone(),
            false => format!("'{}'", word.replace('\'', "'\\''")),
        };
        let program = self
            .argv
            .first()
            .map_or("", |program| program.rsplit('/').next().unwrap_or_default());
        let words = self.argv.iter().skip(1).map(word);
        let words: Vec<_> = std::iter::once(program.to_owned()).chain(words).collect();
        words.join(" ")
    }

    /// Lines of a README.
    pub(crate) fn lines(&self) -> Vec<String> {
        let tool = &self.tool;
        vec![
            format!("command: `{}`", self.command()),
            format!("commit: {} ({}, {})", tool.commit, tool.profile, tool.rustc),
            format!("machine: {}", self.machine_line()),
            format!("kernel: {}", self.kernel.line()),
            format!("io_uring: {}", self.io_uring.line()),
            format!("data on: {}", self.storage.line()),
            format!("started: {}", self.started_utc),
        ]
    }

    /// CPUs, memory, virtual or not.
    pub(crate) fn machine_line(&self) -> String {
        format!(
            "{}, {} MiB{}",
            self.cpu.line(),
            self.memory.total_bytes >> 20,
            self.virtualization.line()
        )
    }

    /// Everything, as dotted names and words: what `env` prints and what two results differ in.
    pub(crate) fn flat(&self) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        let value = serde_json::to_value(self).unwrap_or_default();
        flatten("", &value, &mut rows);
        rows
    }
}

fn is_plain(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "-_./:=,@%+".contains(letter)
}

/// Dotted names and words.
pub(crate) fn flatten(name: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    let text = match value {
        Value::Object(map) => {
            for (key, value) in map {
                let dot = if name.is_empty() { "" } else { "." };
                flatten(&format!("{name}{dot}{key}"), value, rows);
            }
            return;
        }
        Value::Array(values) => {
            let words = values.iter().map(|value| match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            });
            words.collect::<Vec<_>>().join(" ")
        }
        Value::String(text) => text.clone(),
        Value::Null => "unknown".to_owned(),
        other => other.to_string(),
    };
    rows.push((name.to_owned(), text));
}

impl Tool {
    fn capture() -> Self {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        let git = |words: &[&str]| run("git", &[&["-C", root], words].concat());
        let hash = git(&["rev-parse", "--short=12", "HEAD"]);
        let changes = git(&["status", "--porcelain", "--untracked-files=no"]);
        let dirty = changes.map(|changes| !changes.is_empty());
        let mark = if dirty == Some(true) { "-dirty" } else { "" };
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: hash.map_or("unknown".to_owned(), |hash| format!("{hash}{mark}")),
            dirty,
            rustc: output("rustc", &["--version"]),
            profile: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            }
            .to_owned(),
        }
    }
}

/// A file of one line.
fn setting(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Of `always [madvise] never`, the one in brackets; of other words, all.
fn chosen(text: &str) -> String {
    let inner = text
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    inner.map_or(text, |(inner, _)| inner).to_owned()
}

/// The lines of /proc/PID/limits that a broker can run into.
fn limits(text: &str) -> BTreeMap<String, String> {
    const TOLD: [&str; 5] = [
        "Max open files",
        "Max locked memory",
        "Max processes",
        "Max address space",
        "Max file size",
    ];
    let row = |line: &str| {
        let name = TOLD.iter().find(|name| line.starts_with(**name))?;
        let mut words = line[name.len()..].split_whitespace();
        let (soft, hard) = (words.next()?, words.next()?);
        let key = name.trim_start_matches("Max ").replace(' ', "_");
        Some((key, format!("{soft} / {hard}")))
    };
    text.lines().filter_map(row).collect()
}

/// What a program prints, or "unknown".
pub(crate) fn output(program: &str, arguments: &[&str]) -> String {
    run(program, arguments).unwrap_or("unknown".to_owned())
}

fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(text)
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
        assert!(environment.cpu.cpus > 0 && environment.memory.total_bytes > 0);
        assert!(
            environment.machine().ends_with("cpu"),
            "{}",
            environment.machine()
        );
        let flat = environment.flat();
        let told = |name: &str| {
            flat.iter()
                .find(|(key, _)| key == name)
                .map(|(_, text)| text)
        };
        for name in [
            "kernel.release",
            "storage.file_system",
            "cpu.flags",
            "limits.open_files",
        ] {
            assert!(
                told(name).is_some_and(|text| text != "unknown"),
                "{name}: {flat:?}"
            );
        }
    }

    #[test]
    fn it_is_read_back_as_it_was_written() {
        let environment = Environment::capture(Path::new("/"));
        let text = serde_json::to_string(&environment).unwrap();
        let read: Environment = serde_json::from_str(&text).unwrap();
        assert_eq!(read.flat(), environment.flat());
    }

    #[test]
    fn the_command_can_be_pasted() {
        let mut environment = Environment::capture(Path::new("/"));
        environment.argv = ["/x/ringlog-bench", "a b", "it's", "--c=1"]
            .map(str::to_owned)
            .to_vec();
        assert_eq!(
            environment.command(),
            r"ringlog-bench 'a b' 'it'\''s' --c=1"
        );
    }

    #[test]
    fn a_setting_with_brackets_is_the_word_in_them() {
        assert_eq!(chosen("always [madvise] never"), "madvise");
        assert_eq!(chosen("write back"), "write back");
    }
}
