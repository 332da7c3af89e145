//! The clients' side of a history: tasks that no crash of the broker ends, polled by the harness
//! after every turn of the world.
//!
//! No wakers: a task is polled each time, which is cheap with a dozen of them, and its order is the
//! order in which the tasks were added, so that a seed repeats.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ringlog_engine::clock::Instant;
use ringlog_engine::io::sim::World;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Runs the clients.
#[derive(Clone)]
pub(crate) struct Crowd {
    world: World,
    tasks: Rc<RefCell<Vec<Task>>>,
    added: Rc<RefCell<Vec<Task>>>,
    /// The earliest time that a task sleeps for, of the last round of polls.
    deadline: Rc<Cell<Option<Instant>>>,
}

impl Crowd {
    /// No clients yet.
    pub(crate) fn new(world: &World) -> Crowd {
        Crowd {
            world: world.clone(),
            tasks: Rc::default(),
            added: Rc::default(),
            deadline: Rc::default(),
        }
    }

    /// Adds a client.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.added.borrow_mut().push(Box::pin(task));
    }

    /// Gives every client its turn; returns the earliest time that one sleeps for.
    pub(crate) fn poll(&self) -> Option<Instant> {
        self.deadline.set(None);
        let mut tasks = self.tasks.take();
        tasks.append(&mut self.added.borrow_mut());
        let mut context = Context::from_waker(Waker::noop());
        tasks.retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
        self.tasks.replace(tasks);
        self.deadline.get()
    }

    /// Whether all clients have ended.
    pub(crate) fn is_empty(&self) -> bool {
        self.tasks.borrow().is_empty() && self.added.borrow().is_empty()
    }

    /// The time.
    pub(crate) fn now(&self) -> Instant {
        self.world.now()
    }

    /// The world that the clients live in.
    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// Takes note that a task must be polled at `deadline`, if nothing happens before.
    pub(crate) fn wake_at(&self, deadline: Instant) {
        let earliest = self.deadline.get().map_or(deadline, |at| at.min(deadline));
        self.deadline.set(Some(earliest));
    }

    /// Waits.
    pub(crate) async fn sleep(&self, duration: Duration) {
        let deadline = self.now() + duration;
        self.until(deadline, || None::<()>).await;
    }

    /// Waits until `probe` gives something; `None` if that is not before `deadline`.
    pub(crate) async fn until<T>(
        &self,
        deadline: Instant,
        mut probe: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        std::future::poll_fn(|_| {
            if let Some(value) = probe() {
                return Poll::Ready(Some(value));
            }
            if self.now() >= deadline {
                return Poll::Ready(None);
            }
            self.wake_at(deadline);
            Poll::Pending
        })
        .await
    }
}
