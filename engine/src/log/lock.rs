//! A first-come-first-served lock for tasks of one shard.
//!
//! Order matters here: two appends of one producer that wait for a roll must be written in the order
//! in which their sequences were checked.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

#[derive(Default)]
struct State {
    held: bool,
    next_ticket: u64,
    waiters: VecDeque<(u64, Waker)>,
}

/// The lock; [`Lock::lock`] waits for the turn.
#[derive(Default)]
pub(crate) struct Lock {
    state: RefCell<State>,
}

impl Lock {
    /// Waits until all who asked before are done.
    pub(crate) fn lock(&self) -> Waiting<'_> {
        Waiting {
            lock: self,
            ticket: None,
        }
    }

    fn wake_first(state: &State) {
        if let Some((_, waker)) = state.waiters.front() {
            waker.wake_by_ref();
        }
    }
}

/// The future of [`Lock::lock`].
pub(crate) struct Waiting<'a> {
    lock: &'a Lock,
    ticket: Option<u64>,
}

impl<'a> Future for Waiting<'a> {
    type Output = Turn<'a>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Turn<'a>> {
        let lock = self.lock;
        let mut state = lock.state.borrow_mut();
        let first = state.waiters.front().map(|(ticket, _)| *ticket);
        if !state.held && first == self.ticket {
            if self.ticket.take().is_some() {
                state.waiters.pop_front();
            }
            state.held = true;
            return Poll::Ready(Turn { lock });
        }
        if let Some(mine) = self.ticket {
            if let Some((_, waker)) = state.waiters.iter_mut().find(|(other, _)| *other == mine) {
                waker.clone_from(context.waker());
            }
        } else {
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            state.waiters.push_back((ticket, context.waker().clone()));
            self.ticket = Some(ticket);
        }
        Poll::Pending
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(mine) = self.ticket {
            let mut state = self.lock.state.borrow_mut();
            state.waiters.retain(|(other, _)| *other != mine);
            if !state.held {
                Lock::wake_first(&state);
            }
        }
    }
}

/// The right to go on; its drop lets the next one in.
pub(crate) struct Turn<'a> {
    lock: &'a Lock,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.lock.state.borrow_mut();
        state.held = false;
        Lock::wake_first(&state);
    }
}
