//! Reads what both sides use once a second, on a thread of its own: a generator that spins does not
//! starve it, and it costs about a hundred microseconds a second of the generator's CPU.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::device::{Device, DeviceUsage};
use super::{labelled, read, read_machine, seconds, stat_field};
use crate::failure::Failure;
use crate::series::Sample;

const INTERVAL: Duration = Duration::from_secs(1);
/// Later samples are dropped: an hour.
const SAMPLES_MAX: usize = 3600;

/// The thread.
#[derive(Debug)]
pub(super) struct Sampler {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Sample>>>,
}

#[derive(Debug)]
struct Reading {
    at: Instant,
    broker_ticks: Option<u64>,
    broker_resident_bytes: Option<u64>,
    generator_ticks: u64,
    machine: (u64, u64),
    device: Option<DeviceUsage>,
}

impl Sampler {
    /// Begins now.
    pub(super) fn start(broker: Option<u32>, device: Option<Device>) -> Result<Self, Failure> {
        let ends = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&ends);
        let thread = std::thread::Builder::new().name("sampler".to_owned());
        let thread = thread
            .spawn(move || sample(broker, device.as_ref(), &stopped))
            .map_err(Failure::system("starting the sampler"))?;
        Ok(Self {
            ends,
            thread: Some(thread),
        })
    }

    /// All samples; the last one is of the time since the one before.
    pub(super) fn stop(mut self) -> Vec<Sample> {
        self.end()
    }

    fn end(&mut self) -> Vec<Sample> {
        self.ends.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else {
            return Vec::new();
        };
        thread.thread().unpark();
        thread.join().unwrap_or_default()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.end();
    }
}

fn sample(broker: Option<u32>, device: Option<&Device>, ends: &AtomicBool) -> Vec<Sample> {
    let mut samples = Vec::new();
    let Some(mut before) = Reading::take(broker, device) else {
        return samples;
    };
    let begin = before.at;
    let mut due = begin + INTERVAL;
    loop {
        while !ends.load(Ordering::Acquire) && Instant::now() < due {
            std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
        }
        let ended = ends.load(Ordering::Acquire);
        // A broker that is gone ends the samples; the run itself tells that it is.
        let Some(after) = Reading::take(broker, device) else {
            return samples;
        };
        // Ticks are 10 ms: a shorter sample would tell nothing.
        if after.at - before.at >= INTERVAL / 5 && samples.len() < SAMPLES_MAX {
            samples.push(between(begin, &before, &after));
            before = after;
        }
        if ended {
            return samples;
        }
        due += INTERVAL;
    }
}

impl Reading {
    fn take(broker: Option<u32>, device: Option<&Device>) -> Option<Self> {
        let ticks = |pid: u32| {
            let stat = read(&format!("/proc/{pid}/stat")).ok()?;
            Some(stat_field(&stat, 14)? + stat_field(&stat, 15)?)
        };
        let resident = |pid: u32| {
            let status = read(&format!("/proc/{pid}/status")).ok()?;
            Some(labelled(&status, "VmRSS:")? * 1024)
        };
        Some(Self {
            at: Instant::now(),
            broker_ticks: match broker {
                Some(pid) => Some(ticks(pid)?),
                None => None,
            },
            broker_resident_bytes: broker.and_then(resident),
            generator_ticks: ticks(std::process::id())?,
            machine: read_machine().ok()?,
            device: device.and_then(Device::read),
        })
    }
}

fn between(begin: Instant, before: &Reading, after: &Reading) -> Sample {
    let elapsed_s = (after.at - before.at).as_secs_f64();
    let cpus = |before: u64, after: u64| seconds(after.saturating_sub(before)) / elapsed_s;
    let broker = before.broker_ticks.zip(after.broker_ticks);
    let broker_cpus = broker.map(|(before, after)| cpus(before, after));
    let generator_cpus = cpus(before.generator_ticks, after.generator_ticks);
    let busy_cpus = cpus(before.machine.0, after.machine.0);
    let own_cpus = generator_cpus + broker_cpus.unwrap_or_default();
    let device = before.device.as_ref().zip(after.device.as_ref());
    Sample {
        at_s: (after.at - begin).as_secs_f64(),
        broker_cpus,
        generator_cpus,
        foreign_cpus: (busy_cpus - own_cpus).max(0.0),
        steal_cpus: cpus(before.machine.1, after.machine.1),
        broker_resident_bytes: after.broker_resident_bytes,
        device_write_megabytes_per_s: device.map(|(before, after)| {
            after.write_bytes.saturating_sub(before.write_bytes) as f64 / 1e6 / elapsed_s
        }),
    }
}
