//! A shard's single-threaded executor: tasks, their wakers, and the queue of those that can run.
//!
//! Tasks never leave their thread. Wakers may: a wake from another thread pushes the task on the
//! ready queue and, only if the shard sleeps in the kernel, writes its eventfd (8-10 us on a
//! sleeping core against 30 ns on a busy one: `results/` and the design's "Runtime crates").

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

use rustix::fd::{BorrowedFd, OwnedFd};
use slab::Slab;

/// Most rounds of ready tasks between two visits of the driver.
const ROUNDS_MAX: usize = 64;

type TaskFuture = Pin<Box<dyn Future<Output = ()>>>;

/// The tasks of one shard that were woken, shared with every waker of the shard.
pub(crate) struct ReadyQueue {
    ready: Mutex<Vec<usize>>,
    sleeping: AtomicBool,
    eventfd: Option<OwnedFd>,
}

impl ReadyQueue {
    fn push(&self, task: usize) {
        self.ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(task);
        // Sequentially consistent on purpose: either the sleeper sees the task (`prepare_sleep`)
        // or we see that it sleeps.
        if self.sleeping.swap(false, Ordering::SeqCst) {
            self.unpark();
        }
    }

    fn unpark(&self) {
        if let Some(eventfd) = &self.eventfd {
            // EAGAIN means that the counter is full: the shard is being woken anyway.
            super::counters::call();
            let _ = rustix::io::write(eventfd, &1u64.to_be_bytes());
        }
    }

    /// Announces that the shard is about to wait in the kernel. Returns false, and takes the
    /// announcement back, if a task became ready meanwhile.
    pub(crate) fn prepare_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        if self.is_empty() {
            return true;
        }
        self.sleeping.store(false, Ordering::SeqCst);
        false
    }

    /// Ends the announcement of [`Self::prepare_sleep`].
    pub(crate) fn finish_sleep(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    fn swap(&self, batch: &mut Vec<usize>) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut *ready, batch);
    }

    /// The eventfd that a wake from another thread writes, if this queue has one.
    pub(crate) fn eventfd(&self) -> Option<BorrowedFd<'_>> {
        self.eventfd.as_ref().map(std::os::fd::AsFd::as_fd)
    }
}

struct TaskWaker {
    task: usize,
    queued: AtomicBool,
    queue: Arc<ReadyQueue>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.queue.push(self.task);
        }
    }
}

struct Task {
    /// Taken out while it is polled, so that a task may spawn others.
    future: Option<TaskFuture>,
    header: Arc<TaskWaker>,
    waker: Waker,
}

/// The tasks of one shard.
pub(crate) struct Executor {
    tasks: RefCell<Slab<Task>>,
    queue: Arc<ReadyQueue>,
    batch: RefCell<Vec<usize>>,
}

impl Executor {
    pub(crate) fn new(eventfd: Option<OwnedFd>) -> Executor {
        let queue = ReadyQueue {
            ready: Mutex::new(Vec::new()),
            sleeping: AtomicBool::new(false),
            eventfd,
        };
        Executor {
            tasks: RefCell::new(Slab::new()),
            queue: Arc::new(queue),
            batch: RefCell::new(Vec::new()),
        }
    }

    pub(crate) fn queue(&self) -> &Arc<ReadyQueue> {
        &self.queue
    }

    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let mut tasks = self.tasks.borrow_mut();
        let entry = tasks.vacant_entry();
        let header = Arc::new(TaskWaker {
            task: entry.key(),
            queued: AtomicBool::new(true),
            queue: self.queue.clone(),
        });
        self.queue.push(entry.key());
        let waker = Waker::from(header.clone());
        entry.insert(Task {
            future: Some(Box::pin(future)),
            header,
            waker,
        });
    }

    /// Polls the tasks that are ready, and those that they make ready, until there is none.
    /// Returns whether there was one.
    pub(crate) fn run_ready(&self) -> bool {
        let mut batch = self.batch.take();
        let mut any = false;
        // Tasks that wake each other for ever must not keep the driver from its turn.
        for _ in 0..ROUNDS_MAX {
            self.queue.swap(&mut batch);
            if batch.is_empty() {
                break;
            }
            any = true;
            for task in batch.drain(..) {
                self.poll_task(task);
            }
        }
        self.batch.replace(batch);
        any
    }

    fn poll_task(&self, id: usize) {
        let (mut future, header, waker) = {
            let mut tasks = self.tasks.borrow_mut();
            let Some(task) = tasks.get_mut(id) else {
                return;
            };
            task.header.queued.store(false, Ordering::Release);
            let Some(future) = task.future.take() else {
                return;
            };
            (future, task.header.clone(), task.waker.clone())
        };
        let done = future
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_ready();
        let mut tasks = self.tasks.borrow_mut();
        // The task may have ended itself and all others (`clear`), and another one have its place.
        let is_same = |task: &&mut Task| Arc::ptr_eq(&task.header, &header);
        let mut ended = None;
        if let Some(task) = tasks.get_mut(id).filter(is_same) {
            if done {
                ended = Some(tasks.remove(id));
            } else {
                task.future = Some(future);
                return;
            }
        }
        // The futures are dropped only after the slab is free again: their drop may spawn or wake.
        drop(tasks);
        drop(ended);
        drop(future);
    }

    /// Number of tasks that have not ended.
    pub(crate) fn task_count(&self) -> usize {
        self.tasks.borrow().len()
    }

    /// Drops every task, as at the end of a shard or a simulated crash.
    pub(crate) fn clear(&self) {
        loop {
            let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
            if tasks.is_empty() {
                return;
            }
            drop(tasks);
        }
    }
}
