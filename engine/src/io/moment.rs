//! The time of a moment within a turn, for who measures what a turn is spent on.

use super::{Driver, Io};
use crate::clock::{self, Instant};

impl Io {
    /// The monotonic time of this moment: reads the clock, which [`Io::now`] does not. No system call where
    /// the kernel lets user space read its clock source (vdso(7)).
    pub fn instant(&self) -> Instant {
        match &*self.inner.driver.borrow() {
            Driver::Sim(driver) => driver.clock().0,
            Driver::Uring(_) | Driver::Poll(_) => clock::monotonic(),
        }
    }
}
