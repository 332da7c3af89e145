//! What `doctor` looks at of limits and memory: handles, locked memory, swap, huge pages, CPU quota.

use super::{Finding, Level, Step, proc};

/// Soft and hard limit from `/proc/self/limits`; `None` is unlimited.
fn limit(name: &str) -> Option<(Option<u64>, Option<u64>)> {
    let limits = proc("/proc/self/limits");
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    let mut values = line.split_whitespace().map(|word| word.parse().ok());
    Some((values.next()?, values.next()?))
}

fn limit_text(value: Option<u64>) -> String {
    value.map_or("unlimited".to_owned(), |value| value.to_string())
}

pub(super) fn open_files() -> Finding {
    let Some((soft, hard)) = limit("Max open files") else {
        return Finding::ok("open files", "unknown".to_owned());
    };
    let found = format!("{} (hard {})", limit_text(soft), limit_text(hard));
    let mut finding = Finding::ok("open files", found);
    if soft.is_some_and(|soft| soft < 10_000) {
        finding.level = Level::Warning;
        finding.effect =
            "every connection and open segment needs one: clients are refused at the limit";
        finding.remedy = "`ulimit -n 100000`, or LimitNOFILE=100000 in the unit file";
        finding.step = Step::unit("LimitNOFILE=100000");
    }
    finding
}

pub(super) fn locked_memory() -> Finding {
    let Some((soft, _)) = limit("Max locked memory") else {
        return Finding::ok("locked memory", "unknown".to_owned());
    };
    let mut finding = Finding::ok("locked memory", limit_text(soft));
    if soft.is_some_and(|soft| soft < 8 << 20) {
        finding.level = Level::Warning;
        finding.effect = "registered buffers may not fit, and io_uring may be refused";
        finding.remedy = "`ulimit -l unlimited`, or LimitMEMLOCK=infinity in the unit file";
        finding.step = Step::unit("LimitMEMLOCK=infinity");
    }
    finding
}

pub(super) fn memory() -> Finding {
    let info = proc("/proc/meminfo");
    let kib = |name: &str| -> u64 {
        let line = info.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.unwrap_or(0)
    };
    let (total, available) = (kib("MemTotal:") / 1024, kib("MemAvailable:") / 1024);
    let mut finding = Finding::ok("memory", format!("{available} of {total} MiB available"));
    if available < 512 {
        finding.level = Level::Warning;
        finding.effect = "little page cache: consumers that lag read from the disk";
        finding.remedy = "leave a gigabyte or more to the system";
    }
    finding
}

/// Swap takes pages of the broker for pages of files.
pub(super) fn swap() -> Finding {
    let areas = proc("/proc/swaps").lines().skip(1).count();
    let swappiness = proc("/proc/sys/vm/swappiness");
    if areas == 0 {
        return Finding::ok("swap", "none".to_owned());
    }
    let found = format!("{areas} area(s), vm.swappiness {swappiness}");
    let mut finding = Finding::ok("swap", found);
    if swappiness.parse().is_ok_and(|value: u32| value > 1) {
        finding.level = Level::Warning;
        finding.effect = "a scan of old data may put the broker's own memory on the disk";
        finding.remedy = "sysctl vm.swappiness=1, or no swap";
        finding.step = Step::sysctl("vm.swappiness", "1", &swappiness);
    }
    finding
}

/// `always` backs heaps of a few kilobytes with 2 MiB pages.
pub(super) fn huge_pages() -> Finding {
    let path = "/sys/kernel/mm/transparent_hugepage/enabled";
    let choices = proc(path);
    let chosen = choices.split(['[', ']']).nth(1).unwrap_or("unknown");
    let mut finding = Finding::ok("huge pages", format!("transparent: {chosen}"));
    if chosen == "always" {
        finding.level = Level::Hint;
        finding.effect = "more resident memory per connection and partition";
        finding.remedy = "madvise";
        finding.step = Step::write(path, "madvise", chosen);
    }
    finding
}

/// A quota stops all threads of the group at once, in the middle of whatever they do.
pub(super) fn cpu_quota() -> Finding {
    let group = proc("/proc/self/cgroup");
    let own = group.lines().find_map(|line| line.strip_prefix("0::"));
    let max = own.map(|own| {
        proc(&format!(
            "/sys/fs/cgroup{}/cpu.max",
            own.trim_end_matches('/')
        ))
    });
    let max = max.unwrap_or_default();
    let mut words = max.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(quota)), Some(Ok(period))) = (words.next(), words.next()) else {
        return Finding::ok("CPU quota", "none".to_owned());
    };
    let hundredths = quota.saturating_mul(100) / period.max(1);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let found = format!(
        "{}.{:02} CPUs of {cores}, in periods of {period} us",
        hundredths / 100,
        hundredths % 100
    );
    let mut finding = Finding::ok("CPU quota", found);
    if hundredths < 100 * cores as u64 {
        finding.level = Level::Warning;
        finding.effect = "once it is used up all shards stand still until the period ends";
        finding.remedy = "whole CPUs by a cpuset, and --cores with as many";
    }
    finding
}
