//! Draws what happens, counts the faults, and keeps the hash of the history.

use std::collections::BTreeMap;
use std::time::Duration;

use super::config::{Chance, Config, Fault};
use super::rng::Rng;
use crate::clock::Instant;

/// The chance of a world: seeded numbers, what they may do, and what they did.
pub(super) struct Chaos {
    pub(super) rng: Rng,
    pub(super) config: Config,
    pub(super) now: Instant,
    /// The disk answers nothing before this time.
    pub(super) disk_stalled_until: Instant,
    pub(super) faults: BTreeMap<&'static str, u64>,
    /// Faults asked for, each with a part of the path that it waits for.
    pub(super) planned: Vec<(Fault, String)>,
    trace: u64,
}

impl Chaos {
    pub(super) fn new(seed: u64, config: Config, now: Instant) -> Chaos {
        Chaos {
            rng: Rng::new(seed),
            config,
            now,
            disk_stalled_until: Instant::default(),
            faults: BTreeMap::new(),
            planned: Vec::new(),
            trace: 0xCBF2_9CE4_8422_2325,
        }
    }

    /// Adds one step of the history to its hash.
    pub(super) fn note(&mut self, step: &[u64]) {
        for number in [self.now.0].iter().chain(step) {
            self.trace = (self.trace ^ number).wrapping_mul(0x0000_0100_0000_01B3);
            self.trace ^= self.trace >> 29;
        }
    }

    /// The hash of the history and of the place in the stream of numbers.
    pub(super) fn trace_hash(&self) -> u64 {
        self.trace ^ self.rng.clone().next()
    }

    pub(super) fn count(&mut self, fault: &'static str) {
        *self.faults.entry(fault).or_default() += 1;
    }

    /// Whether something of this probability happens now.
    pub(super) fn happens(&mut self, chance: Chance) -> bool {
        chance != Chance::NEVER && self.rng.below(1_000_000) < chance.per_million()
    }

    /// Whether the fault strikes an operation on `path`, which it then does: it is counted.
    pub(super) fn strikes(&mut self, fault: Fault, path: &str) -> bool {
        let disk = &self.config.disk;
        let chance = match fault {
            Fault::ReadError => disk.read_error,
            Fault::WriteError => disk.write_error,
            Fault::ShortWrite => disk.short_write,
            Fault::NoSpace => Chance::NEVER,
            Fault::SyncError => disk.sync_error,
            Fault::Stall => disk.stall,
        };
        let planned = self
            .planned
            .iter()
            .position(|(planned, part)| *planned == fault && path.contains(part.as_str()));
        if let Some(index) = planned {
            self.planned.remove(index);
        } else if !self.happens(chance) {
            return false;
        }
        self.count(fault.name());
        true
    }

    fn up_to(&mut self, longest: Duration) -> Duration {
        let nanos = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.rng.within(0, nanos))
    }

    /// When an operation of the disk on `path` that starts now completes.
    pub(super) fn disk_completion(&mut self, path: &str, is_sync: bool) -> Instant {
        let longest = if is_sync {
            self.config.disk.sync_latency_max
        } else {
            self.config.disk.latency_max
        };
        let mut time = self.now.max(self.disk_stalled_until) + self.up_to(longest);
        if self.strikes(Fault::Stall, path) {
            time = time + self.up_to(self.config.disk.stall_max);
        }
        time
    }

    /// When a piece that is sent now arrives.
    pub(super) fn arrival(&mut self) -> Instant {
        let mut time = self.now + self.up_to(self.config.network.latency_max);
        if self.happens(self.config.network.delay) {
            self.count("delayed delivery");
            time = time + self.up_to(self.config.network.delay_max);
        }
        time
    }
}
