//! The answers of one connection, between the reader that queues them and the writer that sends them.
//!
//! Both live in one task, in which the reader is polled before the writer: a push needs to wake
//! nobody. The queue is bounded, and a writer that makes room wakes the task for its reader.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::task::{Poll, Waker};

/// The other side has ended.
#[derive(Debug)]
pub(super) struct Ended;

struct State<T> {
    answers: VecDeque<T>,
    room_wanted: Option<Waker>,
    has_ended: bool,
}

/// The queue.
pub(super) struct Answers<T> {
    limit: usize,
    state: RefCell<State<T>>,
}

impl<T> Answers<T> {
    /// A queue of at most `limit` answers.
    pub(super) fn new(limit: usize) -> Answers<T> {
        let state = State {
            answers: VecDeque::new(),
            room_wanted: None,
            has_ended: false,
        };
        Answers {
            limit,
            state: RefCell::new(state),
        }
    }

    /// Queues an answer when there is room.
    ///
    /// # Errors
    /// [`Ended`] if it will not be sent.
    pub(super) async fn push(&self, answer: T) -> Result<(), Ended> {
        let mut answer = Some(answer);
        std::future::poll_fn(|context| {
            let state = &mut *self.state.borrow_mut();
            if state.has_ended {
                return Poll::Ready(Err(Ended));
            }
            if state.answers.len() >= self.limit {
                state.room_wanted = Some(context.waker().clone());
                return Poll::Pending;
            }
            state.answers.extend(answer.take());
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// The next answer; `None` after the last one.
    pub(super) async fn pop(&self) -> Option<T> {
        std::future::poll_fn(|_| match self.try_pop() {
            Some(answer) => Poll::Ready(Some(answer)),
            None if self.state.borrow().has_ended => Poll::Ready(None),
            None => Poll::Pending,
        })
        .await
    }

    /// Whether no answer is there.
    pub(super) fn is_empty(&self) -> bool {
        self.state.borrow().answers.is_empty()
    }

    /// The next answer, if it is there.
    pub(super) fn try_pop(&self) -> Option<T> {
        let state = &mut *self.state.borrow_mut();
        if let Some(waker) = state.room_wanted.take() {
            waker.wake();
        }
        state.answers.pop_front()
    }

    /// One side has ended: what is queued may still be popped, nothing more is queued.
    pub(super) fn end(&self) {
        let mut state = self.state.borrow_mut();
        state.has_ended = true;
        if let Some(waker) = state.room_wanted.take() {
            waker.wake();
        }
    }
}
