//! CPU, memory, and whether the machine is a virtual one.

use std::collections::BTreeSet;
use std::fs;

use serde::{Deserialize, Serialize};

use super::setting;

/// The processors.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Cpu {
    pub(super) model: String,
    /// Online.
    pub(super) cpus: usize,
    sockets: usize,
    numa_nodes: usize,
    /// Threads of a core.
    threads_per_core: Option<usize>,
    /// `on`, `off`, `forceoff`, `notsupported`, `notimplemented`.
    smt: Option<String>,
    /// Of the first CPU; virtual machines mostly have none.
    governor: Option<String>,
    megahertz: Option<f64>,
    last_level_cache: Option<String>,
    microcode: Option<String>,
    flags: String,
}

impl Cpu {
    pub(super) fn capture(cpuinfo: &str) -> Self {
        let cpu0 = "/sys/devices/system/cpu/cpu0";
        let siblings = setting(&format!("{cpu0}/topology/thread_siblings_list"));
        let cache = |index| setting(&format!("{cpu0}/cache/index{index}/size"));
        let packages = all(cpuinfo, "physical id").collect::<BTreeSet<_>>();
        let model = first(cpuinfo, "model name").or_else(|| first(cpuinfo, "Model"));
        Self {
            model: model.unwrap_or("unknown").to_owned(),
            cpus: all(cpuinfo, "processor").count(),
            sockets: packages.len().max(1),
            numa_nodes: nodes().max(1),
            threads_per_core: siblings.map(|list| count(&list)),
            smt: setting("/sys/devices/system/cpu/smt/control"),
            governor: setting(&format!("{cpu0}/cpufreq/scaling_governor")),
            megahertz: first(cpuinfo, "cpu MHz").and_then(|text| text.parse().ok()),
            last_level_cache: (0..5).rev().find_map(cache),
            microcode: first(cpuinfo, "microcode").map(str::to_owned),
            flags: first(cpuinfo, "flags")
                .or_else(|| first(cpuinfo, "Features"))
                .unwrap_or("unknown")
                .to_owned(),
        }
    }

    pub(super) fn line(&self) -> String {
        let governor = self.governor.as_deref().unwrap_or("unknown");
        let smt = match self.threads_per_core {
            Some(1) => "one thread a core".to_owned(),
            Some(threads) => format!("{threads} threads a core"),
            None => "SMT unknown".to_owned(),
        };
        format!("{} x {}, {smt}, governor {governor}", self.cpus, self.model)
    }
}

/// Memory and swap.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Memory {
    pub(super) total_bytes: u64,
    swap_bytes: u64,
    page_bytes: usize,
}

impl Memory {
    pub(super) fn capture() -> Self {
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let bytes = |label: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(label));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            kib.unwrap_or_default() * 1024
        };
        Self {
            total_bytes: bytes("MemTotal:"),
            swap_bytes: bytes("SwapTotal:"),
            page_bytes: rustix::param::page_size(),
        }
    }
}

/// Virtual machine and container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Virtualization {
    /// Whether the CPU says that it runs under a hypervisor.
    hypervisor: bool,
    /// What the firmware calls the machine.
    product: Option<String>,
    /// Share of all CPU time since the boot that the hypervisor took.
    steal_share_since_boot: Option<f64>,
    /// `container` of the environment, or what the root's marker files say.
    container: Option<String>,
}

impl Virtualization {
    pub(super) fn capture(cpuinfo: &str) -> Self {
        let flags = first(cpuinfo, "flags").unwrap_or_default();
        let marker = |path: &str, name: &str| fs::metadata(path).is_ok().then(|| name.to_owned());
        Self {
            hypervisor: flags.split(' ').any(|flag| flag == "hypervisor"),
            product: setting("/sys/class/dmi/id/product_name"),
            steal_share_since_boot: steal(&fs::read_to_string("/proc/stat").unwrap_or_default()),
            container: marker("/.dockerenv", "docker")
                .or_else(|| marker("/run/.containerenv", "podman")),
        }
    }

    pub(super) fn line(&self) -> String {
        let mut line = String::new();
        if self.hypervisor {
            line.push_str(", virtual");
        }
        if let Some(container) = &self.container {
            line.push_str(&format!(", in {container}"));
        }
        line
    }
}

fn all<'a>(cpuinfo: &'a str, label: &'a str) -> impl Iterator<Item = &'a str> {
    cpuinfo.lines().filter_map(move |line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == label).then(|| value.trim())
    })
}

fn first<'a>(cpuinfo: &'a str, label: &'a str) -> Option<&'a str> {
    all(cpuinfo, label).next()
}

fn nodes() -> usize {
    let entries = fs::read_dir("/sys/devices/system/node")
        .into_iter()
        .flatten()
        .flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let number = |name: &String| {
        let digits = name.strip_prefix("node").unwrap_or_default();
        !digits.is_empty() && digits.chars().all(|digit| digit.is_ascii_digit())
    };
    names.filter(number).count()
}

/// How many a list such as `0,4-7` names.
fn count(list: &str) -> usize {
    let span = |part: &str| match part.split_once('-') {
        Some((from, to)) => {
            let (from, to) = (from.parse::<usize>(), to.parse::<usize>());
            from.ok()
                .zip(to.ok())
                .map_or(1, |(from, to)| to.saturating_sub(from) + 1)
        }
        None => 1,
    };
    list.split(',').map(span).sum()
}

fn steal(stat: &str) -> Option<f64> {
    let fields: Vec<f64> = stat
        .lines()
        .next()?
        .split_whitespace()
        .flat_map(str::parse)
        .collect();
    let total: f64 = fields.iter().take(8).sum();
    let steal = fields.get(7)?;
    (total > 0.0).then(|| (steal / total * 1e6).round() / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_counted() {
        assert_eq!(count("0"), 1);
        assert_eq!(count("0,4"), 2);
        assert_eq!(count("0-3,8"), 5);
    }

    #[test]
    fn the_share_of_steal_is_of_all_time() {
        assert_eq!(steal("cpu  10 0 10 70 0 0 0 10 0 0\n"), Some(0.1));
        assert_eq!(steal(""), None);
    }
}
