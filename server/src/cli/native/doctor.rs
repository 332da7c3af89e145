//! `ringlog doctor`: is this machine fit for the broker? What was found, its effect, the remedy.
//! `ringlog tune`: the same, as a shell script to be read, and run by whoever wants to.
//!
//! Both read `/proc` and `/sys`, let a thread wake another one, and write one small file to the data
//! directory, which is removed again. Nothing is changed.

mod disk;
mod limits;
mod system;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
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

/// `ringlog tune`.
#[derive(Debug, Args)]
pub(crate) struct TuneArgs {
    /// Directory for the data, whose disk is meant
    #[arg(long, default_value = "./data", value_name = "DIR")]
    data: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Ok,
    /// Worth a measurement; the broker does well without.
    Hint,
    Warning,
    Problem,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Hint => "hint",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// How a finding is changed, and changed back.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// A shell command, and the one that undoes it.
    Command { run: String, undo: String },
    /// A line of the unit's `[Service]` section.
    Unit(&'static str),
}

impl Step {
    #[expect(clippy::unnecessary_wraps, reason = "a finding has a step or none")]
    fn command(run: String, undo: String) -> Option<Self> {
        Some(Self::Command { run, undo })
    }

    fn sysctl(name: &str, value: &str, before: &str) -> Option<Self> {
        let of = |value: &str| format!("sysctl -w {name}={value}");
        Self::command(of(value), of(before))
    }

    fn write(path: &str, value: &str, before: &str) -> Option<Self> {
        let of = |value: &str| format!("echo {value} > {path}");
        Self::command(of(value), of(before))
    }

    /// To all files of a shell pattern.
    fn write_each(pattern: &str, value: &str, before: &str) -> Option<Self> {
        let of = |value: &str| format!("echo {value} | tee {pattern} > /dev/null");
        Self::command(of(value), of(before))
    }

    #[expect(clippy::unnecessary_wraps, reason = "a finding has a step or none")]
    fn unit(line: &'static str) -> Option<Self> {
        Some(Self::Unit(line))
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
    step: Option<Step>,
}

impl Finding {
    fn ok(what: &'static str, found: String) -> Self {
        Self {
            what,
            level: Level::Ok,
            found,
            effect: "",
            remedy: "",
            step: None,
        }
    }
}

/// All that is looked at, from the kernel to the disk.
fn findings(data: &Path) -> Vec<Finding> {
    vec![
        system::kernel(),
        system::io_uring(),
        system::clock(),
        system::frequency(),
        system::wake_up(),
        system::backlog(),
        limits::open_files(),
        limits::locked_memory(),
        limits::cpu_quota(),
        limits::memory(),
        limits::swap(),
        limits::huge_pages(),
        disk::file_system(data),
        disk::scheduler(data),
        disk::readahead(data),
        disk::write_cache(data),
        disk::disk(data),
    ]
}

/// Runs it; a problem is a failure.
pub(crate) fn run(args: &DoctorArgs) -> Exit {
    let findings = findings(&args.data);
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

/// Prints the script.
pub(crate) fn tune(args: &TuneArgs) -> Exit {
    let mut out = stdout();
    let written = script(&findings(&args.data), &mut out);
    match written.and_then(|()| out.flush()) {
        Ok(()) => Exit::Ok,
        Err(_) => Exit::Failure,
    }
}

fn script(findings: &[Finding], out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "#!/bin/sh")?;
    writeln!(
        out,
        "# Made by `ringlog tune`, which changes nothing. Read it, measure it (docs/tuning.md), then run it as\n\
         # root. Settings are gone after a restart of the machine unless /etc/sysctl.d or udev keeps them."
    )?;
    let open: Vec<_> = findings
        .iter()
        .filter(|finding| finding.level != Level::Ok)
        .collect();
    if open.is_empty() {
        return writeln!(
            out,
            "\n# Nothing to do: all {} findings are ok.",
            findings.len()
        );
    }
    writeln!(out, "set -e")?;
    for finding in &open {
        writeln!(
            out,
            "\n# {} ({}): {}\n# effect: {}",
            finding.what,
            finding.level.name(),
            finding.found,
            finding.effect
        )?;
        match &finding.step {
            Some(Step::Command { run, undo }) => writeln!(out, "# undo: {undo}\n{run}")?,
            Some(Step::Unit(line)) => writeln!(
                out,
                "# in the unit file, or for a shell: {}\n# [Service]\n# {line}",
                finding.remedy
            )?,
            None => writeln!(out, "# by hand: {}", finding.remedy)?,
        }
    }
    Ok(())
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
    let command = match &finding.step {
        Some(Step::Command { run, .. }) => Some(run.as_str()),
        Some(Step::Unit(line)) => Some(*line),
        None => None,
    };
    json!({
        "what": finding.what,
        "level": finding.level.name(),
        "found": finding.found,
        "effect": finding.effect,
        "remedy": finding.remedy,
        "command": command,
    })
}

fn proc(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_but_ok_says_effect_and_remedy() {
        for finding in findings(&std::env::temp_dir()) {
            let is_ok = finding.level == Level::Ok;
            assert_eq!(is_ok, finding.remedy.is_empty(), "{finding:?}");
            assert_eq!(is_ok, finding.effect.is_empty(), "{finding:?}");
            assert!(!finding.found.is_empty(), "{finding:?}");
        }
    }

    fn written(findings: &[Finding]) -> String {
        let mut out = Vec::new();
        script(findings, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_script_has_each_step_with_its_undoing_and_is_a_script() {
        let warned = |step| Finding {
            level: Level::Warning,
            effect: "slow",
            remedy: "by some means",
            step,
            ..Finding::ok("swap", "on".to_owned())
        };
        let text = written(&[
            Finding::ok("clock", "tsc".to_owned()),
            warned(Step::sysctl("vm.swappiness", "1", "60")),
            warned(Step::write("/sys/x", "none", "bfq")),
            warned(Step::unit("LimitNOFILE=100000")),
            warned(None),
        ]);
        for part in [
            "# undo: sysctl -w vm.swappiness=60\nsysctl -w vm.swappiness=1\n",
            "# undo: echo bfq > /sys/x\necho none > /sys/x\n",
            "# [Service]\n# LimitNOFILE=100000\n",
            "# by hand: by some means\n",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert!(!text.contains("clock"), "{text}");
        let mut shell = std::process::Command::new("sh");
        let status = shell.args(["-n", "-c", &text]).status().unwrap();
        assert!(status.success(), "{text}");
        assert!(written(&[]).contains("Nothing to do"));
    }
}
