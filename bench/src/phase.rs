//! One stretch of load: when it ends, what it counted, and whether the broker still answers.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use tokio::task::JoinHandle;

use crate::failure::Failure;
use crate::series::{Recorded, Recorder};
use crate::transport::Connection;

/// A broker that answers nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Nanoseconds up to two minutes, three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 120_000_000_000, 3).expect("the bounds are valid constants")
}

/// When a phase ends: at whichever limit comes first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    /// No request leaves later.
    pub(crate) duration: Option<Duration>,
    /// No more requests than these, over all connections.
    pub(crate) requests: Option<u64>,
}

/// What a phase counted.
#[derive(Debug)]
pub(crate) struct Counted {
    /// Requests that were answered (or, with acks=0, sent).
    pub(crate) requests: u64,
    /// From the begin to the last answer.
    pub(crate) elapsed: Duration,
    /// From the intended time (open loop) or the send (closed loop) to the answer.
    pub(crate) latency: Histogram<u64>,
    /// From the send to the answer.
    pub(crate) service: Histogram<u64>,
    /// How late the generator itself was: from when a request was due and had room, to its send.
    pub(crate) lag: Histogram<u64>,
    /// When it began, in seconds since 1970.
    pub(crate) began_unix_s: f64,
    /// The length of an interval, and what was counted in each.
    pub(crate) intervals: (Duration, Vec<Recorded>),
}

/// How far a phase is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Position {
    /// Requests.
    pub(crate) answered: u64,
    /// Requests.
    pub(crate) in_flight: usize,
    /// Since its begin.
    pub(crate) elapsed: Duration,
    /// Of the limit that is nearer, 0 to 1; `None` without a limit.
    pub(crate) share: Option<f64>,
}

/// What the tasks of a phase share.
#[derive(Debug)]
pub(crate) struct Phase {
    begin: Instant,
    deadline: Option<Instant>,
    requests: Option<u64>,
    requests_left: Cell<u64>,
    stopped: Cell<bool>,
    answered: Cell<u64>,
    in_flight: Cell<usize>,
    last: Cell<Instant>,
    latency: RefCell<Histogram<u64>>,
    service: RefCell<Histogram<u64>>,
    lag: RefCell<Histogram<u64>>,
    began_unix_s: f64,
    recorder: RefCell<Recorder>,
}

impl Phase {
    /// Begins now.
    pub(crate) fn begin(limit: Limit) -> Rc<Self> {
        let begin = Instant::now();
        Rc::new(Self {
            begin,
            // What the clock cannot count to never comes.
            deadline: limit
                .duration
                .and_then(|duration| begin.checked_add(duration)),
            requests: limit.requests,
            requests_left: Cell::new(limit.requests.unwrap_or(u64::MAX)),
            stopped: Cell::new(false),
            answered: Cell::new(0),
            in_flight: Cell::new(0),
            last: Cell::new(begin),
            latency: RefCell::new(histogram()),
            service: RefCell::new(histogram()),
            lag: RefCell::new(histogram()),
            began_unix_s: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0.0, |since| since.as_secs_f64()),
            recorder: RefCell::new(Recorder::new(begin)),
        })
    }

    /// When it began.
    pub(crate) fn began(&self) -> Instant {
        self.begin
    }

    /// Takes the right to send one more request at `time`.
    pub(crate) fn may_send(&self, time: Instant) -> bool {
        let left = self.requests_left.get();
        let late = self.deadline.is_some_and(|deadline| time >= deadline);
        if self.stopped.get() || left == 0 || late {
            return false;
        }
        self.requests_left.set(left - 1);
        true
    }

    /// How far it is, for who watches.
    pub(crate) fn position(&self) -> Position {
        let elapsed = self.begin.elapsed();
        let of_time = self.deadline.map(|deadline| {
            elapsed.as_secs_f64() / (deadline - self.begin).as_secs_f64().max(1e-9)
        });
        let answered = self.answered.get();
        let of_requests = self
            .requests
            .map(|requests| answered as f64 / requests.max(1) as f64);
        Position {
            answered,
            in_flight: self.in_flight.get(),
            elapsed,
            share: [of_time, of_requests]
                .into_iter()
                .flatten()
                .reduce(f64::max),
        }
    }

    /// After an error of any task the others end.
    pub(crate) fn stop(&self) {
        self.stopped.set(true);
    }

    /// A request leaves; `due` is when it could have.
    pub(crate) fn sent(&self, due: Instant, now: Instant) {
        self.in_flight.set(self.in_flight.get() + 1);
        record(&self.lag, now.saturating_duration_since(due));
    }

    /// Its answer is there. With acks=0 it is as good as answered when written, and has no latency.
    pub(crate) fn answered(&self, times: Option<(Instant, Instant)>) {
        let now = Instant::now();
        let mut latency_ns = None;
        if let Some((intended, sent)) = times {
            latency_ns = Some(record(
                &self.latency,
                now.saturating_duration_since(intended),
            ));
            record(&self.service, now.saturating_duration_since(sent));
        }
        self.recorder.borrow_mut().answered(now, latency_ns);
        self.last.set(now);
        self.in_flight.set(self.in_flight.get() - 1);
        self.answered.set(self.answered.get() + 1);
    }

    /// Waits for all tasks and gives what they give; the first error ends the phase.
    pub(crate) async fn join<R>(
        &self,
        tasks: Vec<JoinHandle<Result<R, Failure>>>,
    ) -> Result<Vec<R>, Failure> {
        let mut results = Vec::with_capacity(tasks.len());
        let mut first = None;
        for mut task in tasks {
            loop {
                let before = self.answered.get();
                match tokio::time::timeout(PATIENCE, &mut task).await {
                    Ok(joined) => {
                        match joined.expect("a task of the generator does not panic") {
                            Ok(result) => results.push(result),
                            Err(error) => first = first.or(Some(error)),
                        }
                        break;
                    }
                    Err(_) if self.answered.get() == before && self.in_flight.get() > 0 => {
                        return Err(first.unwrap_or(Failure::Stalled {
                            seconds: PATIENCE.as_secs(),
                            in_flight: self.in_flight.get(),
                        }));
                    }
                    Err(_) => {}
                }
            }
        }
        match first {
            Some(error) => Err(error),
            None => Ok(results),
        }
    }

    /// After [`join`](Self::join).
    pub(crate) fn counted(&self) -> Counted {
        Counted {
            requests: self.answered.get(),
            elapsed: self.last.get() - self.begin,
            latency: self.latency.replace(histogram()),
            service: self.service.replace(histogram()),
            lag: self.lag.replace(histogram()),
            began_unix_s: self.began_unix_s,
            intervals: self.recorder.replace(Recorder::new(self.begin)).finish(),
        }
    }
}

fn record(histogram: &RefCell<Histogram<u64>>, time: Duration) -> u64 {
    let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
    histogram.borrow_mut().saturating_record(nanoseconds);
    nanoseconds
}

/// A request that is under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    /// Its number on the connection.
    pub(crate) correlation_id: i32,
    /// When it was meant to leave.
    pub(crate) intended: Instant,
    /// When it left.
    pub(crate) sent: Instant,
}

/// The requests in flight on one connection: its writer waits for room, its reader for work.
#[derive(Debug)]
pub(crate) struct Window {
    limit: usize,
    pending: RefCell<std::collections::VecDeque<Pending>>,
    closed: Cell<bool>,
    writer: RefCell<Option<Waker>>,
    reader: RefCell<Option<Waker>>,
}

impl Window {
    /// Of `limit` requests.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            pending: RefCell::default(),
            closed: Cell::new(false),
            writer: RefCell::default(),
            reader: RefCell::default(),
        }
    }

    /// Whether one more may be in flight.
    pub(crate) fn has_room(&self) -> bool {
        self.pending.borrow().len() < self.limit
    }

    /// How many are in flight.
    pub(crate) fn len(&self) -> usize {
        self.pending.borrow().len()
    }

    /// Waits until [`has_room`](Self::has_room).
    pub(crate) async fn room(&self) {
        poll_fn(|context| {
            if self.has_room() {
                return Poll::Ready(());
            }
            *self.writer.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// One more is in flight.
    pub(crate) fn push(&self, pending: Pending) {
        self.pending.borrow_mut().push_back(pending);
        wake(&self.reader);
    }

    /// No more will come.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        wake(&self.reader);
    }

    /// Waits until an answer is owed; false if none will be.
    pub(crate) async fn owed(&self) -> bool {
        poll_fn(|context| {
            if self.len() > 0 {
                return Poll::Ready(true);
            }
            if self.closed.get() {
                return Poll::Ready(false);
            }
            *self.reader.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// The oldest is answered.
    pub(crate) fn pop(&self) -> Option<Pending> {
        let pending = self.pending.borrow_mut().pop_front();
        wake(&self.writer);
        pending
    }
}

fn wake(waker: &RefCell<Option<Waker>>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// Waits until `time`: the runtime's timers know milliseconds, so the last of it is spent polling, and
/// every turn of it hands what other connections want to send to the kernel.
pub(crate) async fn wait_until(connection: &impl Connection, time: Instant) {
    const TIMER: Duration = Duration::from_millis(2);
    loop {
        let left = time.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        if left > TIMER {
            tokio::time::sleep(left - TIMER).await;
        } else {
            connection.turn().await;
            // What else waits for this CPU goes first: the kernel ends a durable write on the CPU that took
            // the disk's interrupt, and would wait there for as long as a thread that spins is in its slice.
            rustix::thread::sched_yield();
        }
    }
}
