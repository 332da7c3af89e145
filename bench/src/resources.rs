//! What a process and the machine used, from `/proc` (proc(5), proc_pid_stat(5)).
//!
//! The CPU time of a process is the sum over its thread group, in which io_uring's workers (io-wq)
//! are threads like others. Not in it: the kernel's own threads (write-back, ksoftirqd). Times come
//! in clock ticks of 10 ms, so that a measured phase should use seconds. What cannot be counted is
//! told as unavailable with the reason, never as 0.

mod calls;
mod device;
mod metrics;
mod ring;
mod sampler;
mod stages;

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::series::Sample;

use calls::CallCounter;
pub(crate) use calls::{PERF, request_system_calls};
use device::Device;
pub(crate) use device::{DeviceUsage, block_device};
pub(crate) use metrics::Page;
use sampler::Sampler;
pub(crate) use stages::{Breakdown, Times as StageTimes};

/// Something that may not be countable here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Count {
    /// It was counted.
    Counted {
        /// How many.
        count: u64,
        /// By what.
        source: String,
    },
    /// It was not, and why.
    Unavailable(String),
}

impl Count {
    /// The number, if there is one.
    pub(crate) fn count(&self) -> Option<u64> {
        match self {
            Self::Counted { count, .. } => Some(*count),
            Self::Unavailable(_) => None,
        }
    }
}

/// A reading of a process.
#[derive(Debug, Clone, Copy, Default)]
struct Reading {
    user_ticks: u64,
    system_ticks: u64,
    switches: u64,
    written_bytes: u64,
    resident_bytes: u64,
    resident_bytes_max: u64,
    threads: u64,
}

/// What a process used between two readings.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// In user space.
    pub(crate) cpu_user_s: f64,
    /// In the kernel.
    pub(crate) cpu_system_s: f64,
    /// Voluntary and involuntary, of the threads that live on.
    pub(crate) context_switches: u64,
    /// `write_bytes` of /proc/PID/io: handed to the block layer or to be so.
    pub(crate) write_bytes: u64,
    /// At the end.
    pub(crate) resident_bytes: u64,
    /// The highest ever (`VmHWM`).
    pub(crate) resident_bytes_max: u64,
    /// At the end.
    pub(crate) threads: u64,
}

impl Usage {
    /// User and system.
    pub(crate) fn cpu_s(&self) -> f64 {
        self.cpu_user_s + self.cpu_system_s
    }
}

/// What the machine did besides.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Surroundings {
    /// Between the readings.
    pub(crate) elapsed_s: f64,
    /// CPUs of the machine.
    pub(crate) cpus: usize,
    /// CPU time of all other processes and of the kernel's own threads.
    pub(crate) foreign_cpu_s: f64,
    /// Taken by the hypervisor.
    pub(crate) steal_s: f64,
}

impl Surroundings {
    /// What others and the hypervisor took of all CPUs, 0 to 1.
    pub(crate) fn foreign_share(&self) -> f64 {
        (self.foreign_cpu_s + self.steal_s) / (self.elapsed_s * self.cpus as f64)
    }
}

/// Both sides and the surroundings of a measured phase.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Resources {
    /// The broker; `None` if its process is not known.
    pub(crate) broker: Option<Usage>,
    /// This process, and the CPU time of the clients that it started.
    pub(crate) generator: Usage,
    /// The rest of the machine.
    pub(crate) machine: Surroundings,
    /// The device under the files that the broker writes; `None` if that cannot be seen.
    pub(crate) device: Option<DeviceUsage>,
    /// What the broker put into its rings.
    pub(crate) broker_ring_entries: Count,
    /// What this process put into its own.
    pub(crate) generator_ring_entries: Count,
    /// System calls of the broker.
    pub(crate) broker_system_calls: Count,
    /// Where the time of the broker's sampled requests went, by API; empty if it does not tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) broker_stages: Vec<Breakdown>,
    /// What was used when.
    pub(crate) samples: Vec<Sample>,
}

impl Resources {
    /// Of another tool: nothing is known.
    pub(crate) fn unmeasured() -> Self {
        let unknown = || Count::Unavailable("imported".to_owned());
        Self {
            broker: None,
            generator: difference(Reading::default(), Reading::default()),
            machine: Surroundings {
                elapsed_s: 0.0,
                cpus: 0,
                foreign_cpu_s: 0.0,
                steal_s: 0.0,
            },
            device: None,
            broker_ring_entries: unknown(),
            generator_ring_entries: unknown(),
            broker_system_calls: unknown(),
            broker_stages: Vec::new(),
            samples: Vec::new(),
        }
    }

    /// Whether it is [`unmeasured`](Self::unmeasured): no machine is without a CPU.
    pub(crate) fn is_unmeasured(&self) -> bool {
        self.machine.cpus == 0
    }
}

/// Who counts the broker's system calls: perf if it was asked for, else the broker itself.
#[derive(Debug)]
enum Calls {
    Perf(Result<CallCounter, String>),
    Broker(Result<metrics::Scrape, String>),
}

impl Calls {
    fn start(broker: Option<u32>) -> Self {
        if calls::are_requested() {
            Self::Perf(CallCounter::start(broker))
        } else {
            Self::Broker(metrics::Scrape::of(broker))
        }
    }

    fn stop(self) -> Count {
        let counted = match self {
            Self::Perf(counter) => counter.map(CallCounter::stop),
            Self::Broker(scrape) => scrape.map(|scrape| scrape.since()),
        };
        counted.unwrap_or_else(Count::Unavailable)
    }
}

/// Measures from [`start`](Self::start) to [`stop`](Self::stop).
#[derive(Debug)]
pub(crate) struct Meter {
    broker: Option<(u32, Reading)>,
    generator: Reading,
    /// User and system ticks of the children that this process waited for, if they are the generator too.
    children: Option<(u64, u64)>,
    rings: (ring::Rings, ring::Rings),
    device: Option<(Device, DeviceUsage)>,
    calls: Calls,
    stages: Option<stages::Watch>,
    sampler: Sampler,
    machine: (u64, u64),
    begin: Instant,
}

impl Meter {
    /// Takes the first readings.
    pub(crate) fn start(broker: Option<u32>) -> Result<Self, Failure> {
        let own = std::process::id();
        // A counter takes its time to attach: before the readings.
        let calls = Calls::start(broker);
        let stages = stages::Watch::start(broker);
        let device = broker.and_then(Device::of_process);
        let rings = (ring::Rings::of(broker), ring::Rings::of(Some(own)));
        let sampler = Sampler::start(broker, device.clone())?;
        let broker = match broker {
            Some(pid) => Some((pid, read_process(pid)?)),
            None => None,
        };
        Ok(Self {
            broker,
            generator: read_process(own)?,
            children: None,
            rings,
            device: device.and_then(|device| Some((device.clone(), device.read()?))),
            calls,
            stages,
            sampler,
            machine: read_machine()?,
            begin: Instant::now(),
        })
    }

    /// The load comes from processes that this one starts and waits for before [`stop`](Self::stop): their
    /// CPU time is the generator's.
    pub(crate) fn with_children(mut self) -> Result<Self, Failure> {
        self.children = Some(read_children()?);
        Ok(self)
    }

    /// Without the broker, which is no longer there.
    pub(crate) fn without_broker(mut self) -> Self {
        self.broker = None;
        self.stages = None;
        self
    }

    /// Takes the second readings. A broker that is gone is an error.
    pub(crate) fn stop(self) -> Result<Resources, Failure> {
        let elapsed_s = self.begin.elapsed().as_secs_f64();
        let (busy, steal) = read_machine()?;
        let mut generator = difference(self.generator, read_process(std::process::id())?);
        if let Some((user, system)) = self.children {
            let (user_now, system_now) = read_children()?;
            generator.cpu_user_s += seconds(user_now.saturating_sub(user));
            generator.cpu_system_s += seconds(system_now.saturating_sub(system));
        }
        let broker = match self.broker {
            Some((pid, before)) => Some(difference(before, read_process(pid)?)),
            None => None,
        };
        let device = self
            .device
            .and_then(|(device, before)| device.since(&before));
        let samples = self.sampler.stop();
        let broker_system_calls = self.calls.stop();
        let broker_stages = self.stages.map(stages::Watch::stop).unwrap_or_default();
        let own_s = generator.cpu_s() + broker.map_or(0.0, |broker| broker.cpu_s());
        let busy_s = seconds(busy.saturating_sub(self.machine.0));
        Ok(Resources {
            broker,
            generator,
            machine: Surroundings {
                elapsed_s,
                cpus: cpus()?,
                foreign_cpu_s: (busy_s - own_s).max(0.0),
                steal_s: seconds(steal.saturating_sub(self.machine.1)),
            },
            device,
            broker_ring_entries: self.rings.0.since(),
            generator_ring_entries: self.rings.1.since(),
            broker_system_calls,
            broker_stages,
            samples,
        })
    }
}

fn cpus() -> Result<usize, Failure> {
    // One line for the whole, then one for each CPU.
    let stat = read("/proc/stat")?;
    let lines = stat.lines().filter(|line| line.starts_with("cpu"));
    Ok(lines.count().saturating_sub(1).max(1))
}

/// Resident memory of a process now.
pub(crate) fn resident_bytes(pid: u32) -> Result<u64, Failure> {
    Ok(read_process(pid)?.resident_bytes)
}

/// How long a process has been there, to a clock tick.
pub(crate) fn age_s(pid: u32) -> Result<f64, Failure> {
    let stat = read(&format!("/proc/{pid}/stat"))?;
    let start = stat_field(&stat, 22).ok_or_else(|| unreadable("stat"))?;
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Ok(now.tv_sec as f64 + now.tv_nsec as f64 / 1e9 - seconds(start))
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

fn difference(before: Reading, after: Reading) -> Usage {
    Usage {
        cpu_user_s: seconds(after.user_ticks.saturating_sub(before.user_ticks)),
        cpu_system_s: seconds(after.system_ticks.saturating_sub(before.system_ticks)),
        context_switches: after.switches.saturating_sub(before.switches),
        write_bytes: after.written_bytes.saturating_sub(before.written_bytes),
        resident_bytes: after.resident_bytes,
        resident_bytes_max: after.resident_bytes_max,
        threads: after.threads,
    }
}

fn read_process(pid: u32) -> Result<Reading, Failure> {
    let stat = read(&format!("/proc/{pid}/stat"))?;
    let status = read(&format!("/proc/{pid}/status"))?;
    let io = read(&format!("/proc/{pid}/io"))?;
    let ticks = |number| stat_field(&stat, number).ok_or_else(|| unreadable("stat"));
    Ok(Reading {
        user_ticks: ticks(14)?,
        system_ticks: ticks(15)?,
        switches: context_switches(pid)?,
        written_bytes: labelled(&io, "write_bytes:").ok_or_else(|| unreadable("io"))?,
        resident_bytes: labelled(&status, "VmRSS:").unwrap_or_default() * 1024,
        resident_bytes_max: labelled(&status, "VmHWM:").unwrap_or_default() * 1024,
        threads: labelled(&status, "Threads:").unwrap_or_default(),
    })
}

/// `cutime` and `cstime` of this process.
fn read_children() -> Result<(u64, u64), Failure> {
    let stat = read("/proc/self/stat")?;
    let ticks = |number| stat_field(&stat, number).ok_or_else(|| unreadable("stat"));
    Ok((ticks(16)?, ticks(17)?))
}

/// How often the threads of a process have gone to sleep so far, each by its thread id: voluntary context
/// switches.
pub(crate) fn sleeps(pid: u32) -> Result<BTreeMap<String, u64>, Failure> {
    let path = format!("/proc/{pid}/task");
    let tasks = fs::read_dir(&path).map_err(Failure::system(path))?;
    let of_task = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let count = labelled(&status, "voluntary_ctxt_switches:").unwrap_or_default();
        (task.file_name().to_string_lossy().into_owned(), count)
    };
    Ok(tasks.flatten().map(of_task).collect())
}

fn context_switches(pid: u32) -> Result<u64, Failure> {
    let path = format!("/proc/{pid}/task");
    let tasks = fs::read_dir(&path).map_err(Failure::system(path))?;
    let mut switches = 0;
    for task in tasks.flatten() {
        // A thread may end between the listing and the reading.
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        for label in ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"] {
            switches += labelled(&status, label).unwrap_or_default();
        }
    }
    Ok(switches)
}

/// Busy and stolen ticks of all CPUs since boot.
fn read_machine() -> Result<(u64, u64), Failure> {
    let stat = read("/proc/stat")?;
    parse_machine(&stat).ok_or_else(|| unreadable("/proc/stat"))
}

/// `cpu user nice system idle iowait irq softirq steal guest guest_nice`; guest lies in user.
fn parse_machine(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().next()?;
    let fields = line.split_whitespace().skip(1).map(str::parse);
    let fields = fields.collect::<Result<Vec<u64>, _>>().ok()?;
    let [user, nice, system, _, _, irq, softirq, steal, ..] = fields[..] else {
        return None;
    };
    Some((user + nice + system + irq + softirq, steal))
}

/// Field `number` of /proc/PID/stat, from 1; the name in field 2 may hold spaces and brackets.
fn stat_field(stat: &str, number: usize) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split_whitespace()
        .nth(number.checked_sub(3)?)?
        .parse()
        .ok()
}

fn labelled(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_whitespace().next()?.parse().ok()
}

fn read(path: &str) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(Failure::system(format!(
        "reading {path} (did the broker end?)"
    )))
}

fn unreadable(what: &str) -> Failure {
    Failure::Target(format!("{what} of /proc is not as proc(5) says"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_brackets_does_not_shift_the_fields() {
        let stat = "42 (a ) b) S 1 2 3 4 5 6 7 8 9 10 111 222 0 0 20 0 7 0 3333 9 9";
        assert_eq!(stat_field(stat, 14), Some(111));
        assert_eq!(stat_field(stat, 15), Some(222));
        assert_eq!(stat_field(stat, 22), Some(3333));
    }

    #[test]
    fn the_machines_line_gives_busy_and_steal() {
        let stat = "cpu  10 1 20 900 5 2 3 7 0 0\ncpu0 1 1 1 1\n";
        assert_eq!(parse_machine(stat), Some((36, 7)));
    }

    #[test]
    fn a_busy_loop_shows_as_cpu_time_of_this_process() {
        let meter = Meter::start(Some(std::process::id())).unwrap();
        let begin = Instant::now();
        while begin.elapsed().as_millis() < 100 {
            std::hint::spin_loop();
        }
        let resources = meter.stop().unwrap();
        let broker = resources.broker.unwrap();
        assert!(broker.cpu_s() >= 0.02, "{broker:?}");
        assert!(broker.resident_bytes > 1 << 20, "{broker:?}");
        assert!(age_s(std::process::id()).unwrap() >= 0.08);
    }

    #[test]
    fn the_cpu_time_of_clients_is_the_generators() {
        let own = || Meter::start(None).unwrap();
        let (alone, with_children) = (own(), own().with_children().unwrap());
        let mut client = std::process::Command::new("sh");
        client.args(["-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"]);
        assert!(client.status().unwrap().success());
        let (alone, with_children) = (alone.stop().unwrap(), with_children.stop().unwrap());
        let of = |resources: &Resources| resources.generator.cpu_s();
        assert!(
            of(&with_children) >= of(&alone) + 0.02,
            "{with_children:?}\n{alone:?}"
        );
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert!(Meter::start(Some(u32::MAX)).is_err());
    }
}
