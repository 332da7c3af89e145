//! Helper threads of a driver for calls that block: names, whole files, syncs.
//!
//! Two threads a driver, started at the first such call. io_uring has operations for some of these
//! calls, but not for all, and they are rare; the `uring` driver keeps those that are frequent
//! (sync, read, durable write) in the ring.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use crossbeam_queue::SegQueue;
use rustix::fd::OwnedFd;

use super::op::{Completion, FileOp, Token};
use super::system;

const THREADS: usize = 2;

struct Shared {
    jobs: Mutex<Jobs>,
    wanted: Condvar,
    done: SegQueue<(Token, Completion)>,
    eventfd: OwnedFd,
}

#[derive(Default)]
struct Jobs {
    queue: VecDeque<(Token, FileOp)>,
    closed: bool,
}

/// The helper threads of one driver.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    started: bool,
}

impl Worker {
    /// `eventfd` is written when a job is done.
    pub(crate) fn new(eventfd: OwnedFd) -> Worker {
        let shared = Shared {
            jobs: Mutex::default(),
            wanted: Condvar::new(),
            done: SegQueue::new(),
            eventfd,
        };
        Worker {
            shared: Arc::new(shared),
            started: false,
        }
    }

    pub(crate) fn start(&mut self, token: Token, op: FileOp) {
        if !self.started {
            self.started = true;
            for _ in 0..THREADS {
                let shared = self.shared.clone();
                thread::Builder::new()
                    .name("ringlog-files".to_owned())
                    .spawn(move || run(&shared))
                    .expect("a thread can be started");
            }
        }
        self.shared
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .queue
            .push_back((token, op));
        self.shared.wanted.notify_one();
    }

    pub(crate) fn take(&self, completions: &mut Vec<(Token, Completion)>) {
        while let Some(done) = self.shared.done.pop() {
            completions.push(done);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .closed = true;
        self.shared.wanted.notify_all();
    }
}

fn run(shared: &Shared) {
    loop {
        let (token, op) = {
            let mut jobs = shared.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                if let Some(job) = jobs.queue.pop_front() {
                    break job;
                }
                if jobs.closed {
                    return;
                }
                jobs = shared
                    .wanted
                    .wait(jobs)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        };
        shared.done.push((token, system::file_op(op)));
        let _ = rustix::io::write(&shared.eventfd, &1u64.to_be_bytes());
    }
}
