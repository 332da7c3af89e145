//! What can go wrong in a world, and how often.
//!
//! The default has latencies, reordering and small receives, which are no faults, but nothing
//! fails. A crash tears and loses what was not durable whatever is configured here.

use std::time::Duration;

use super::rng::Rng;

/// A probability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chance {
    per_million: u32,
}

impl Chance {
    /// It does not happen.
    pub const NEVER: Chance = Chance { per_million: 0 };
    /// It happens each time.
    pub const ALWAYS: Chance = Chance {
        per_million: 1_000_000,
    };

    /// Once in `n` times; `n` must not be 0.
    pub const fn one_in(n: u32) -> Chance {
        Chance {
            per_million: 1_000_000 / n,
        }
    }

    pub(super) fn per_million(self) -> u64 {
        self.per_million.into()
    }
}

/// How the world behaves. Can be changed while it runs: [`super::World::configure`].
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The disk.
    pub disk: DiskConfig,
    /// The network.
    pub network: NetworkConfig,
}

impl Config {
    /// A configuration with faults, drawn from a seed: each kind is absent, rare or frequent, so
    /// that many seeds together meet many mixtures.
    pub fn drawn(seed: u64) -> Config {
        let mut rng = Rng::new(seed);
        let mut config = Config::default();
        let (disk, network) = (&mut config.disk, &mut config.network);
        for chance in [
            &mut disk.stall,
            &mut disk.read_error,
            &mut disk.write_error,
            &mut disk.short_write,
            &mut disk.sync_error,
            &mut network.delay,
            &mut network.reset,
        ] {
            *chance = match rng.below(4) {
                0 => Chance::one_in(2000),
                1 => Chance::one_in(100),
                _ => Chance::NEVER,
            };
        }
        disk.latency_max *= 1 << rng.below(6);
        disk.sync_latency_max *= 1 << rng.below(6);
        network.latency_max *= 1 << rng.below(6);
        network.window_bytes = 1024 << rng.below(10);
        config
    }
}

/// How the disk behaves.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// Size of the disk; beyond it writes get ENOSPC.
    pub capacity_bytes: u64,
    /// An operation takes up to this long (uniform); different operations overtake each other.
    pub latency_max: Duration,
    /// A sync or durable write takes up to this long.
    pub sync_latency_max: Duration,
    /// An operation takes up to [`Self::stall_max`] longer.
    pub stall: Chance,
    /// Longest stall.
    pub stall_max: Duration,
    /// A read answers EIO.
    pub read_error: Chance,
    /// A write answers EIO and has written nothing.
    pub write_error: Chance,
    /// A write writes a part and answers EIO.
    pub short_write: Chance,
    /// A sync answers EIO, and forgets that the pages were dirty: a later sync says OK.
    pub sync_error: Chance,
    /// A page that is written at a crash is torn by sector.
    pub torn_page: Chance,
}

impl Default for DiskConfig {
    fn default() -> Self {
        DiskConfig {
            capacity_bytes: 1 << 40,
            latency_max: Duration::from_micros(200),
            sync_latency_max: Duration::from_millis(2),
            stall: Chance::NEVER,
            stall_max: Duration::from_secs(2),
            read_error: Chance::NEVER,
            write_error: Chance::NEVER,
            short_write: Chance::NEVER,
            sync_error: Chance::NEVER,
            torn_page: Chance::one_in(4),
        }
    }
}

/// How the network behaves.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Bytes of one direction of a connection that are under way or not yet received; a send
    /// beyond it waits.
    pub window_bytes: usize,
    /// Bytes take up to this long (uniform); they never overtake each other.
    pub latency_max: Duration,
    /// A receive gives only a few of the bytes that are there.
    pub small_receive: Chance,
    /// A piece takes up to [`Self::delay_max`] longer.
    pub delay: Chance,
    /// Longest delay.
    pub delay_max: Duration,
    /// A piece does not arrive, the connection is reset instead.
    pub reset: Chance,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        NetworkConfig {
            window_bytes: 64 * 1024,
            latency_max: Duration::from_micros(100),
            small_receive: Chance::one_in(8),
            delay: Chance::NEVER,
            delay_max: Duration::from_millis(500),
            reset: Chance::NEVER,
        }
    }
}

/// A fault that can be asked for by name: [`super::World::fail_next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// See [`DiskConfig::read_error`].
    ReadError,
    /// See [`DiskConfig::write_error`].
    WriteError,
    /// See [`DiskConfig::short_write`].
    ShortWrite,
    /// ENOSPC though there is room.
    NoSpace,
    /// See [`DiskConfig::sync_error`].
    SyncError,
    /// See [`DiskConfig::stall`].
    Stall,
}

impl Fault {
    pub(super) fn name(self) -> &'static str {
        match self {
            Fault::ReadError => "read error",
            Fault::WriteError => "write error",
            Fault::ShortWrite => "short write",
            Fault::NoSpace => "no space",
            Fault::SyncError => "sync error",
            Fault::Stall => "stall",
        }
    }
}
