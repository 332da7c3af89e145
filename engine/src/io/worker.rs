//! Helper threads of a driver for calls that block: names, whole files, syncs.
//!
//! Two threads a driver, started at the first such call. io_uring has operations for some of these
//! calls, but not for all, and they are rare; the `uring` driver keeps those that are frequent
//! (sync, read, durable write) in the ring.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// The driver was woken and has not looked since: a second write to the eventfd would say no more.
    is_told: AtomicBool,
    eventfd: OwnedFd,
}

#[derive(Default)]
struct Jobs {
    queue: VecDeque<(Token, FileOp)>,
    /// Threads that wait for a job: without any, nobody is to be woken.
    idle: usize,
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
            is_told: AtomicBool::new(false),
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
        let shared = &self.shared;
        let mut jobs = shared.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.queue.push_back((token, op));
        if jobs.idle > 0 {
            drop(jobs);
            shared.wanted.notify_one();
        }
    }

    pub(crate) fn take(&self, completions: &mut Vec<(Token, Completion)>) {
        // A swap only where it is due: most turns of a shard have no job.
        let is_told = &self.shared.is_told;
        if !is_told.load(Ordering::Acquire) {
            return;
        }
        // Before the look, so that what comes after it is told of anew.
        is_told.swap(false, Ordering::AcqRel);
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
                jobs.idle += 1;
                jobs = shared
                    .wanted
                    .wait(jobs)
                    .unwrap_or_else(PoisonError::into_inner);
                jobs.idle -= 1;
            }
        };
        shared.done.push((token, system::file_op(op)));
        if !shared.is_told.swap(true, Ordering::AcqRel) {
            let _ = rustix::io::write(&shared.eventfd, &1u64.to_be_bytes());
        }
    }
}
