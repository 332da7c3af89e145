//! The time of a moment within a turn, for who measures what a turn is spent on.

use super::{Driver, Io};
use crate::clock::{self, Instant};

impl Io {
    /// The monotonic time of this moment: reads the clock, which [`Io::now`] does not. No system call, but
    /// some 20 to 40 ns where the clock is the TSC.
    pub fn instant(&self) -> Instant {
        match &*self.inner.driver.borrow() {
            Driver::Sim(driver) => driver.clock().0,
            Driver::Uring(_) | Driver::Poll(_) => clock::monotonic(),
        }
    }
}
