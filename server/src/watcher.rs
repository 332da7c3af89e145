//! An event of one shard: somebody waits, somebody else tells.

use std::cell::{Cell, RefCell};
use std::task::{Poll, Waker};

/// Remembers one notification until it is taken, for one who waits.
#[derive(Default)]
pub struct Watcher {
    notified: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Watcher {
    /// Tells whoever waits, now or later.
    pub fn notify(&self) {
        self.notified.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Waits for a notification and takes it.
    pub async fn notified(&self) {
        std::future::poll_fn(|context| {
            if self.notified.take() {
                return Poll::Ready(());
            }
            self.waker.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}
