//! What `doctor` looks at of kernel and CPUs: io_uring, clock, frequency, wake-ups, backlog.

use std::hint::black_box;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ringlog_engine::io::probe::{DriverKind, choose};

use super::{Finding, Level, Step, proc};

pub(super) fn kernel() -> Finding {
    let release = proc("/proc/sys/kernel/osrelease");
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let mut finding = Finding::ok("kernel", release);
    if version < (6, 1) {
        finding.level = Level::Warning;
        finding.effect = "single-issuer rings with deferred task work are missing: epoll is used";
        finding.remedy = "Linux 6.1 or later";
    }
    finding
}

pub(super) fn io_uring() -> Finding {
    match choose(DriverKind::Uring) {
        Ok(choice) => Finding::ok("io_uring", choice.line),
        Err(reason) => Finding {
            level: Level::Warning,
            effect: "the broker runs on epoll and plain system calls: same behaviour, more CPU",
            remedy: "as said above; or --io poll, to have no warning",
            ..Finding::ok("io_uring", reason)
        },
    }
}

const CLOCK_READS: u32 = 20_000;
/// The vDSO's clocks take 20 to 50 ns, a system call several hundred.
const CLOCK_SLOW_NS: u128 = 150;

/// Each turn of a shard reads the clock.
pub(super) fn clock() -> Finding {
    let begin = Instant::now();
    for _ in 0..CLOCK_READS {
        black_box(Instant::now());
    }
    let nanos = begin.elapsed().as_nanos() / u128::from(CLOCK_READS);
    let base = "/sys/devices/system/clocksource/clocksource0";
    let source = proc(&format!("{base}/current_clocksource"));
    let mut finding = Finding::ok("clock", format!("{source}: {nanos} ns to read"));
    if nanos > CLOCK_SLOW_NS {
        finding.level = Level::Warning;
        finding.effect = "reading it is a system call, and each turn of a shard reads it";
        finding.remedy = "clocksource tsc, if the machine has it";
        if proc(&format!("{base}/available_clocksource")).contains("tsc") {
            finding.step = Step::write(&format!("{base}/current_clocksource"), "tsc", &source);
        }
    }
    finding
}

/// The frequency governor of the first CPU; virtual machines have none.
pub(super) fn frequency() -> Finding {
    let governor = proc("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    if governor.is_empty() {
        return Finding::ok("CPU frequency", "no governor here".to_owned());
    }
    let mut finding = Finding::ok("CPU frequency", format!("governor {governor}"));
    if governor != "performance" {
        finding.level = Level::Hint;
        finding.effect = "after a pause a shard runs at a low frequency for some milliseconds";
        finding.remedy = "governor performance, for low and steady latencies";
        let every = "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor";
        finding.step = Step::write_each(every, "performance", &governor);
    }
    finding
}

const WAKE_UPS: usize = 200;
/// Beyond that a core sleeps deeply, or the hypervisor takes it away.
const WAKE_UP_SLOW: Duration = Duration::from_micros(100);

/// How long a sleeping thread takes to answer another one: what a hop between shards costs at rest.
pub(super) fn wake_up() -> Finding {
    let (ask, asked) = mpsc::channel::<Instant>();
    let (answer, answered) = mpsc::channel();
    let echo = std::thread::spawn(move || {
        while let Ok(sent) = asked.recv() {
            if answer.send(sent.elapsed()).is_err() {
                return;
            }
        }
    });
    let mut times = Vec::with_capacity(WAKE_UPS);
    for _ in 0..WAKE_UPS {
        // Long enough to fall asleep.
        std::thread::sleep(Duration::from_micros(200));
        if ask.send(Instant::now()).is_err() {
            break;
        }
        times.extend(answered.recv());
    }
    drop(ask);
    let is_whole = echo.join().is_ok() && !times.is_empty();
    times.sort_unstable();
    let at = |share: usize| {
        times
            .get(times.len() * share / 100)
            .copied()
            .unwrap_or_default()
    };
    let (median, high) = (at(50), at(99));
    let found = format!(
        "median {} us, p99 {} us",
        median.as_micros(),
        high.as_micros()
    );
    let mut finding = Finding::ok("wake-up", found);
    if is_whole && median > WAKE_UP_SLOW {
        finding.level = Level::Warning;
        finding.effect = "each request at rest, and each hop between shards, waits so long";
        finding.remedy =
            "no deep idle states: `cpupower idle-set -D 20`, or processor.max_cstate=1";
    }
    finding
}

/// What a broker asks of listen(2) is cut to this.
pub(super) fn backlog() -> Finding {
    let name = "net.core.somaxconn";
    let value = proc("/proc/sys/net/core/somaxconn");
    let mut finding = Finding::ok("backlog", format!("{name} {value}"));
    if value.parse().is_ok_and(|value: u32| value < BACKLOG_MIN) {
        finding.level = Level::Warning;
        finding.effect = "when all clients reconnect at once some of them wait a second or more";
        finding.remedy = "sysctl net.core.somaxconn=4096";
        finding.step = Step::sysctl(name, "4096", &value);
    }
    finding
}

const BACKLOG_MIN: u32 = 1024;
