//! What a loop took: wall clock, and CPU time of all threads of the process.
//!
//! The kernel's io_uring workers belong to the process that set the ring up, so that their time is in
//! it too; what the kernel writes back later is in nobody's.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Began.
pub(crate) struct Meter {
    wall: Instant,
    cpu: Duration,
}

/// Of a whole loop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// From the first append to the end of the last.
    pub(crate) wall: Duration,
    /// Of the process, meanwhile.
    pub(crate) cpu: Duration,
}

impl Meter {
    /// From now on.
    pub(crate) fn start() -> Self {
        Self {
            cpu: cpu(),
            wall: Instant::now(),
        }
    }

    /// Until now.
    pub(crate) fn stop(self) -> Cost {
        Cost {
            wall: self.wall.elapsed(),
            cpu: cpu().saturating_sub(self.cpu),
        }
    }
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
