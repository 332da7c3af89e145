//! What a shard has asked of the kernel, counted. One thread writes and reads; no atomics.

use std::cell::Cell;
use std::time::Duration;

use super::op::{FileOp, Op};
use super::{Driver, Io};

/// Counts since the start of the shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoCounters {
    /// Turns of the executor.
    pub turns: u64,
    /// Entries submitted to the ring; 0 with the poll driver.
    pub ring_entries: u64,
    /// io_uring_enter(2), or epoll_pwait2(2).
    pub enters: u64,
    /// System calls of the shard's thread that move data, wait or wake, `enters` among them. What
    /// helper threads do is not in it.
    pub system_calls: u64,
    /// Receives that were asked for.
    pub receives: u64,
    /// Sends from memory.
    pub sends: u64,
    /// Pieces sent with sendfile(2).
    pub send_file_pieces: u64,
    /// Writes to the page cache.
    pub writes: u64,
    /// Writes that come back durable (RWF_DSYNC), and syncs of files or ranges.
    pub syncs: u64,
    /// Reads from files.
    pub reads: u64,
    /// Pieces that had to be read from the disk before they could be sent.
    pub cold_pieces: u64,
    /// Jobs of the helper threads: names, directories, whole files.
    pub helper_jobs: u64,
    /// Time spent waiting for the kernel with nothing to do.
    pub idle: Duration,
}

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

/// A system call of this thread.
pub(super) fn call() {
    CALLS.set(CALLS.get() + 1);
}

/// The counters of a shard that its room counts in.
#[derive(Default)]
pub(super) struct Counters(Cell<IoCounters>);

impl Counters {
    pub(super) fn get(&self) -> IoCounters {
        IoCounters {
            system_calls: CALLS.get(),
            ..self.0.get()
        }
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut IoCounters)) {
        let mut counters = self.0.get();
        change(&mut counters);
        self.0.set(counters);
    }

    /// An operation is started.
    pub(super) fn started(&self, op: &Op) {
        self.count(|counters| match op {
            Op::Receive(..) => counters.receives += 1,
            Op::Send(..) => counters.sends += 1,
            Op::WriteAt(..) => counters.writes += 1,
            Op::File(FileOp::SyncData(_) | FileOp::SyncRange(..) | FileOp::WriteDurable(..)) => {
                counters.syncs += 1;
            }
            Op::File(FileOp::ReadAt(..)) => counters.reads += 1,
            Op::File(_) => counters.helper_jobs += 1,
            Op::Accept(_) | Op::Writable(_) | Op::SendFile(..) => {}
        });
    }
}

impl Io {
    /// What the shard has asked of the kernel so far.
    pub fn counters(&self) -> IoCounters {
        let counters = self.inner.counters.get();
        match &*self.inner.driver.borrow() {
            Driver::Uring(driver) => {
                let (ring_entries, enters) = driver.submitted();
                IoCounters {
                    ring_entries,
                    enters,
                    ..counters
                }
            }
            Driver::Poll(_) => IoCounters {
                enters: counters.turns,
                ..counters
            },
            Driver::Sim(_) => counters,
        }
    }
}
