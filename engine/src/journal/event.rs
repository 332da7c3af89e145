//! A change that tasks of the shard wait for: all are woken, each looks again.
//!
//! For few waiters and rare changes; those who wait for the durable position have a sorted map.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// The tasks that wait for one kind of change.
#[derive(Default)]
pub(super) struct Event {
    wakers: RefCell<Vec<Waker>>,
}

impl Event {
    pub(super) fn notify(&self) {
        for waker in self.wakers.take() {
            waker.wake();
        }
    }

    /// Waits until `look` finds something.
    pub(super) async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        poll_fn(|context| {
            if let Some(found) = look() {
                return Poll::Ready(found);
            }
            let mut wakers = self.wakers.borrow_mut();
            if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                wakers.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}
