//! Medians and spread per append, with the machine they were measured on.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Serialize;

use crate::meter::Cost;
use crate::scene::Scene;
use crate::told;

/// A number per append over the repetitions.
#[derive(Debug, Clone, Copy, Serialize)]
struct Spread {
    median_us: f64,
    min_us: f64,
    max_us: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = Duration>, appends: u64) -> Option<Self> {
        let mut values: Vec<_> = values
            .map(|value| value.as_secs_f64() * 1e6 / appends as f64)
            .collect();
        values.sort_by(f64::total_cmp);
        Some(Self {
            median_us: *values.get(values.len() / 2)?,
            min_us: *values.first()?,
            max_us: *values.last()?,
        })
    }

    fn told(self) -> String {
        let Self {
            median_us,
            min_us,
            max_us,
        } = self;
        format!("{median_us:.2} [{min_us:.2} to {max_us:.2}]")
    }
}

/// One runtime in one scene.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    scene: &'static str,
    runtime: &'static str,
    appends: u64,
    bytes_per_append: usize,
    runs: usize,
    wall: Spread,
    cpu: Spread,
}

impl Row {
    /// Of all runs; `None` without any.
    pub(crate) fn new(scene: &Scene, runtime: &'static str, costs: &[Cost]) -> Option<Self> {
        Some(Self {
            scene: scene.name,
            runtime,
            appends: scene.appends,
            bytes_per_append: scene.frames().bytes(),
            runs: costs.len(),
            wall: Spread::of(costs.iter().map(|cost| cost.wall), scene.appends)?,
            cpu: Spread::of(costs.iter().map(|cost| cost.cpu), scene.appends)?,
        })
    }
}

/// Everything, as it goes into `result.json`.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    schema: &'static str,
    environment: Vec<(&'static str, String)>,
    /// Lines about runtimes that cannot run here.
    pub(crate) skipped: Vec<String>,
    /// Scene by scene.
    pub(crate) rows: Vec<Row>,
}

impl Table {
    /// An empty one; in a test nobody asks for the machine.
    pub(crate) fn new(is_bench: bool) -> Self {
        Self {
            schema: "runtimes/1",
            environment: if is_bench { environment() } else { Vec::new() },
            skipped: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// Markdown, which reads well on a terminal too.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut scene = "";
        for row in &self.rows {
            if row.scene != scene {
                scene = row.scene;
                lines.push(String::new());
                lines.push(format!(
                    "**{scene}**: {} appends of {} bytes, {} runs",
                    row.appends, row.bytes_per_append, row.runs
                ));
                lines.push(String::new());
                lines.push(format!(
                    "| {:<22} | {:<28} | {:<28} |",
                    "runtime", "wall, us per append", "CPU, us per append"
                ));
                lines.push("|---|---|---|".to_owned());
            }
            lines.push(format!(
                "| {:<22} | {:<28} | {:<28} |",
                row.runtime,
                row.wall.told(),
                row.cpu.told()
            ));
        }
        lines
    }

    /// README.md and result.json.
    pub(crate) fn write(&self, directory: &Path) -> Result<(), String> {
        let mut text = vec!["# The append loop on several runtimes\n".to_owned()];
        let environment = self.environment.iter();
        text.extend(environment.map(|(name, value)| format!("- {name}: {value}")));
        text.push(
            "\nMedian over the runs, in brackets the smallest and the largest. Runs go in turns, each \
             round beginning with another runtime; the file of every run was read back and had the \
             same length and CRC. What each runtime does for a write and for a durable answer stands \
             at the head of `bench/benches/runtimes/reactors.rs`: glommio's writes are O_DIRECT and \
             have reached the device also where the others' are in the page cache."
                .to_owned(),
        );
        text.extend(self.lines());
        text.extend(self.skipped.iter().map(|line| format!("\n{line}")));
        let json = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        fs::create_dir_all(directory).map_err(|error| told(directory, &error))?;
        for (name, text) in [("README.md", text.join("\n")), ("result.json", json)] {
            let path = directory.join(name);
            fs::write(&path, text + "\n").map_err(|error| told(&path, &error))?;
        }
        Ok(())
    }
}

fn environment() -> Vec<(&'static str, String)> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name| cpuinfo.lines().find(|line| line.starts_with(name));
    let model = field("model name").and_then(|line| line.split_once(": "));
    let model = model.map_or("unknown", |(_, model)| model);
    let cpus = cpuinfo.lines().filter(|line| line.starts_with("processor"));
    let temporary = std::env::temp_dir();
    let file_system = output("df", &["--output=fstype", &temporary.to_string_lossy()]);
    let file_system = file_system.lines().next_back().unwrap_or_default();
    let changes = output("git", &["-C", root, "status", "--porcelain", "-uno"]);
    let dirty = if changes.is_empty() { "" } else { "-dirty" };
    let commit = output("git", &["-C", root, "rev-parse", "--short=12", "HEAD"]);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let words: Vec<_> = std::env::args().skip(1).collect();
    let command = format!(
        "cargo bench -p ringlog-bench --bench runtimes -- {}",
        words.join(" ").replace("--bench", "").trim()
    );
    vec![
        ("command", format!("`{command}`")),
        ("commit", format!("{commit}{dirty}")),
        ("compiler", output("rustc", &["--version"])),
        ("machine", format!("{} x {model}", cpus.count())),
        ("kernel", output("uname", &["-sr"])),
        (
            "files on",
            format!("{} ({file_system})", temporary.display()),
        ),
        ("load average before", load.trim().to_owned()),
        ("started", output("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"])),
    ]
}

/// What a program prints, or "unknown".
fn output(program: &str, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "unknown".to_owned(),
    }
}
