//! A fair lock inside one shard: who asks first goes first, across awaits.
//!
//! Appends to a partition must reach the log in the order in which their requests arrived, also
//! where a write does not complete at once. No atomics, no threads: single-shard only.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// The lock.
#[derive(Default)]
pub(crate) struct Turnstile {
    next_ticket: Cell<u64>,
    serving: Cell<u64>,
    waiting: RefCell<BTreeMap<u64, Waker>>,
    given_up: RefCell<BTreeSet<u64>>,
}

impl Turnstile {
    /// Takes a ticket now; ready when all earlier ones have passed.
    pub(crate) fn enter(&self) -> Enter<'_> {
        let ticket = self.next_ticket.get();
        self.next_ticket.set(ticket + 1);
        Enter {
            turnstile: self,
            ticket,
            passed: false,
        }
    }

    fn leave(&self) {
        let mut serving = self.serving.get() + 1;
        while self.given_up.borrow_mut().remove(&serving) {
            serving += 1;
        }
        self.serving.set(serving);
        if let Some(waker) = self.waiting.borrow_mut().remove(&serving) {
            waker.wake();
        }
    }
}

/// Waits for its turn.
pub(crate) struct Enter<'a> {
    turnstile: &'a Turnstile,
    ticket: u64,
    passed: bool,
}

impl<'a> Future for Enter<'a> {
    type Output = Turn<'a>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Turn<'a>> {
        if self.turnstile.serving.get() == self.ticket {
            self.passed = true;
            return Poll::Ready(Turn(self.turnstile));
        }
        self.turnstile
            .waiting
            .borrow_mut()
            .insert(self.ticket, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Enter<'_> {
    fn drop(&mut self) {
        if self.passed {
            return;
        }
        self.turnstile.waiting.borrow_mut().remove(&self.ticket);
        if self.turnstile.serving.get() == self.ticket {
            self.turnstile.leave();
        } else {
            self.turnstile.given_up.borrow_mut().insert(self.ticket);
        }
    }
}

/// The turn; ends when dropped.
pub(crate) struct Turn<'a>(&'a Turnstile);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn turns_come_in_the_order_of_the_tickets_and_given_up_ones_are_skipped() {
        let turnstile = Turnstile::default();
        let first = turnstile.enter().now_or_never().unwrap();
        let mut second = Box::pin(turnstile.enter());
        let third = Box::pin(turnstile.enter());
        let mut fourth = Box::pin(turnstile.enter());
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut fourth).now_or_never().is_none());
        drop(third);
        drop(first);
        assert!((&mut fourth).now_or_never().is_none());
        let turn = (&mut second).now_or_never().unwrap();
        drop(turn);
        assert!((&mut fourth).now_or_never().is_some());
    }
}
