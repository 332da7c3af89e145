//! What goes wrong in a generation of the broker, and when.

use std::rc::Rc;
use std::time::Duration;

use ringlog_engine::io::sim::{Chance, Config, Fault, World};
use ringlog_tests::random::Random;

use crate::scene::{Scene, one_in, pick, within};

/// Parts of paths that a planned fault waits for; the empty one fits all.
const PATHS: [&str; 7] = [
    "",
    ".ringlog-journal",
    ".log",
    ".index",
    "checkpoint",
    "__consumer_offsets",
    "gamma",
];
const FAULTS: [Fault; 5] = [
    Fault::ReadError,
    Fault::WriteError,
    Fault::ShortWrite,
    Fault::NoSpace,
    Fault::SyncError,
];

/// The weather of one generation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// Disk operations fail by chance.
    is_failing: bool,
    /// Single faults are planned.
    has_accidents: bool,
    /// The disk is small.
    is_full: bool,
    has_stalls: bool,
    /// The wall clock jumps.
    has_jumps: bool,
    /// The process stands still for a while.
    has_pauses: bool,
    has_resets: bool,
    has_delays: bool,
}

impl Weather {
    /// Nothing goes wrong.
    pub(crate) const FAIR: Weather = Weather {
        is_failing: false,
        has_accidents: false,
        is_full: false,
        has_stalls: false,
        has_jumps: false,
        has_pauses: false,
        has_resets: false,
        has_delays: false,
    };

    /// Drawn from the seed.
    pub(crate) fn draw(random: &mut Random) -> Weather {
        Weather {
            is_failing: one_in(random, 8),
            has_accidents: one_in(random, 5),
            is_full: one_in(random, 12),
            has_stalls: one_in(random, 4),
            has_jumps: one_in(random, 4),
            has_pauses: one_in(random, 5),
            has_resets: one_in(random, 2),
            has_delays: one_in(random, 3),
        }
    }

    /// Whether operations of the disk may fail.
    pub(crate) fn is_troubled(&self) -> bool {
        self.is_failing || self.has_accidents || self.is_full
    }

    /// Lets it begin.
    pub(crate) fn begin(self, world: &World, random: &mut Random) {
        let mut config = Config::default();
        let disk = &mut config.disk;
        disk.stall_max = Duration::from_millis(300);
        if self.has_stalls {
            disk.stall = Chance::one_in(300);
        }
        if self.is_failing {
            let kind = pick(random, &FAULTS);
            let rare = u32::try_from(within(random, 100, 4000)).expect("small");
            let chance = Chance::one_in(rare);
            match kind {
                Fault::ReadError => disk.read_error = chance,
                Fault::WriteError => disk.write_error = chance,
                Fault::ShortWrite => disk.short_write = chance,
                _ => disk.sync_error = chance,
            }
        }
        if self.is_full {
            let used: u64 = world.files().iter().map(|(_, length)| length).sum();
            disk.capacity_bytes = used + within(random, 0, 2_000_000);
        }
        if self.has_resets {
            config.network.reset = Chance::one_in(400);
        }
        if self.has_delays {
            config.network.delay = Chance::one_in(50);
            config.network.delay_max = Duration::from_millis(100);
        }
        world.configure(|now| *now = config);
        world.fail_no_more();
    }

    /// Accidents while the generation runs.
    pub(crate) async fn accidents(self, scene: Rc<Scene>, mut random: Random) {
        let generation = scene.generation.get();
        let has_any = self.has_accidents || self.has_stalls || self.is_full;
        if !has_any && !self.has_jumps && !self.has_pauses {
            return;
        }
        loop {
            scene.pause(within(&mut random, 1, 300)).await;
            if scene.generation.get() != generation {
                return;
            }
            if self.has_accidents {
                let (fault, path) = (pick(&mut random, &FAULTS), pick(&mut random, &PATHS));
                scene.tell(&format!("weather: the next {fault:?} strikes {path:?}"));
                scene.crowd.world().fail_next(fault, path);
            }
            // Before it serves, whatever the clock says is its time.
            if self.has_jumps && scene.gate.get() && one_in(&mut random, 2) {
                let furthest = 3 * 24 * 3600;
                let seconds = pick(&mut random, &[0, 1, 3599, 3 * 3600, furthest]);
                // Back again everything before would be old.
                let is_back = !scene.ledger.borrow().keeps_all && one_in(&mut random, 2);
                let seconds = if is_back { -seconds } else { seconds };
                scene.tell(&format!("weather: the wall clock jumps to {seconds} s off"));
                scene.set_wall(seconds * 1000);
                scene.ledger.borrow_mut().count("jumps of the clock", 1);
            }
            if self.has_pauses && one_in(&mut random, 4) {
                let pause = Duration::from_millis(within(&mut random, 20, 4000));
                scene.pause.set(pause);
            }
            if self.is_full && one_in(&mut random, 6) {
                scene.tell("weather: the disk has room again");
                let roomy = Config::default().disk.capacity_bytes;
                let world = scene.crowd.world();
                world.configure(|config| config.disk.capacity_bytes = roomy);
            }
            if self.has_stalls && one_in(&mut random, 3) {
                let stall = Duration::from_millis(within(&mut random, 1, 200));
                scene.crowd.world().stall_disk(stall);
            }
        }
    }
}
