//! I/O of a shard: one set of operations, three drivers, one single-threaded executor.
//!
//! All unsafe code and all kernel words live in this room. [`Io`] is the handle that the rest of
//! the engine and the server hold: it spawns tasks and offers the leaf futures; there are no
//! others. Which driver answers is decided once, at the start ([`DriverKind`]):
//! `uring` (io_uring), `poll` (epoll and plain calls), `sim` (a seeded world in memory).
//!
//! Invariants:
//! - An operation owns its buffers and handles until its completion, also if its future is dropped.
//! - Nothing here blocks the shard, but for writes to the page cache, which are made inline in
//!   pieces of at most [`INLINE_WRITE_BYTES_MAX`] (every buffered write submitted as an sqe would be
//!   punted to a kernel worker on ext4) and `sendfile` of cached pages.
//! - Time is read once per turn; who measures what is in a turn asks for more ([`Io::instant`]).

mod buffer;
mod counters;
mod executor;
mod files;
mod moment;
mod op;
mod poll;
pub mod probe;
pub mod sim;
mod system;
mod uring;
mod worker;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use slab::Slab;

use crate::clock::{self, Instant};
use counters::Counters;
use executor::Executor;
use op::{Completion, Handle, Op, Output, Token};

pub use buffer::{AlignedBuffer, DIRECT_IO_ALIGNMENT};
pub use counters::IoCounters;
pub use op::{DirectoryEntry, File, Listener, OpenMode, Socket, Volume};
pub use probe::DriverKind;
pub use system::{
    lock_file, open_file_limit, pin_to_core, raise_open_file_limit, reserve_descriptors,
    usable_cores,
};

/// Largest piece of one inline write to the page cache, in bytes: larger ones get expensive
/// (`results/`, and the design's "Runtime crates").
pub const INLINE_WRITE_BYTES_MAX: usize = 256 * 1024;

/// Largest piece of one inline `sendfile`, in bytes: 1 MiB has kept a shard for 3.5 ms.
const SEND_FILE_BYTES_MAX: u64 = 256 * 1024;

enum Driver {
    Uring(Box<uring::Uring>),
    Poll(Box<poll::Poll>),
    Sim(sim::Driver),
}

/// Where the result of an operation waits for its future.
enum Slot {
    Waiting(Option<Waker>),
    Done(Completion),
    Abandoned,
}

struct Inner {
    driver: RefCell<Driver>,
    slots: RefCell<Slab<Slot>>,
    executor: Executor,
    timers: RefCell<Timers>,
    now: Cell<Instant>,
    wall_ms: Cell<i64>,
    counters: Counters,
    completions: RefCell<Vec<(Token, Completion)>>,
    /// Tasks that let all others go first.
    yielded: RefCell<Vec<Waker>>,
}

#[derive(Default)]
struct Timers {
    due: BTreeMap<(Instant, u64), Waker>,
    sequence: u64,
}

/// A shard's handle to its driver and executor. Cheap to clone; bound to its thread.
///
/// Tasks hold clones of it, so the shard ends, and its ring or epoll with it, only after
/// [`Io::clear_tasks`].
#[derive(Clone)]
pub struct Io {
    inner: Rc<Inner>,
}

impl Io {
    /// Sets up the driver that `kind` names; `DriverKind::Auto` must be resolved before
    /// ([`probe::choose`]).
    ///
    /// # Errors
    /// What io_uring_setup(2) or epoll_create(2) answered.
    pub fn new(kind: DriverKind) -> io::Result<Io> {
        let eventfd = system::eventfd()?;
        let executor = Executor::new(Some(eventfd));
        let driver = match kind {
            DriverKind::Poll => Driver::Poll(Box::new(poll::Poll::new(executor.queue())?)),
            DriverKind::Auto | DriverKind::Uring => {
                Driver::Uring(Box::new(uring::Uring::new(executor.queue())?))
            }
        };
        Ok(Self::assemble(driver, executor))
    }

    /// A shard inside the simulated `world`.
    pub fn simulated(world: &sim::World) -> Io {
        Self::assemble(Driver::Sim(world.driver()), Executor::new(None))
    }

    fn assemble(driver: Driver, executor: Executor) -> Io {
        let inner = Inner {
            driver: RefCell::new(driver),
            slots: RefCell::new(Slab::new()),
            executor,
            timers: RefCell::new(Timers::default()),
            now: Cell::new(Instant::default()),
            wall_ms: Cell::new(0),
            counters: Counters::default(),
            completions: RefCell::default(),
            yielded: RefCell::default(),
        };
        let io = Io {
            inner: Rc::new(inner),
        };
        io.read_clock();
        io
    }

    // ---- tasks and time ----------------------------------------------------------------------

    /// Runs `future` as a task of this shard.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.inner.executor.spawn(future);
    }

    /// Number of tasks that have not ended.
    pub fn task_count(&self) -> usize {
        self.inner.executor.task_count()
    }

    /// Drops all tasks of the shard; what they had in flight completes into nothing.
    pub fn clear_tasks(&self) {
        self.inner.executor.clear();
    }

    /// The monotonic time at the start of this turn.
    pub fn now(&self) -> Instant {
        self.inner.now.get()
    }

    /// The wall clock at the start of this turn, in milliseconds since 1970.
    pub fn wall_ms(&self) -> i64 {
        self.inner.wall_ms.get()
    }

    /// Completes at `deadline`.
    pub fn sleep_until(&self, deadline: Instant) -> Sleep {
        Sleep {
            io: self.clone(),
            deadline,
            key: None,
        }
    }

    /// Completes after `duration`.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.now() + duration)
    }

    /// Runs the shard until `future` is ready. Only with a real driver; a simulated shard is run
    /// by [`sim::World::block_on`].
    pub fn block_on<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
        // The shard may not have turned for a while: its first timers must not start in the past.
        self.read_clock();
        let result = Rc::new(RefCell::new(None));
        let slot = result.clone();
        self.spawn(async move {
            let value = future.await;
            slot.replace(Some(value));
        });
        loop {
            // A shard that has nothing left to wait for must not fall asleep over the result.
            self.turn_if(|| result.borrow().is_none());
            if let Some(value) = result.take() {
                return value;
            }
        }
    }

    /// One turn: runs tasks until none is ready, submits what they asked for, takes completions and
    /// due timers. Waits in the kernel if nothing is ready and `may_wait`. Returns whether anything
    /// ran, completed or came due.
    pub fn turn(&self, may_wait: bool) -> bool {
        self.turn_if(|| may_wait)
    }

    /// A turn that waits if, after the ready tasks have run, `may_wait` says so.
    fn turn_if(&self, may_wait: impl FnOnce() -> bool) -> bool {
        self.inner.counters.count(|counters| counters.turns += 1);
        let mut progress = self.inner.executor.run_ready();
        let yielded = self.inner.yielded.take();
        if !yielded.is_empty() {
            yielded.into_iter().for_each(Waker::wake);
            progress |= self.inner.executor.run_ready();
        }
        let queue = self.inner.executor.queue();
        let is_idle = self.inner.yielded.borrow().is_empty();
        let sleep = is_idle && may_wait() && queue.prepare_sleep();
        let slept_at = sleep.then(clock::monotonic);
        let timeout = match slept_at {
            Some(now) => self.next_deadline().map(|deadline| deadline.since(now)),
            None => Some(Duration::ZERO),
        };
        let mut completions = self.inner.completions.take();
        match &mut *self.inner.driver.borrow_mut() {
            Driver::Uring(driver) => driver.wait(timeout, &mut completions),
            Driver::Poll(driver) => driver.wait(timeout, &mut completions),
            Driver::Sim(driver) => driver.take(&mut completions),
        }
        if sleep {
            queue.finish_sleep();
        }
        self.read_clock();
        if let Some(slept_at) = slept_at {
            let idle = self.now().since(slept_at);
            self.inner.counters.count(|counters| counters.idle += idle);
        }
        progress |= !completions.is_empty();
        for (token, completion) in completions.drain(..) {
            self.complete(token, completion);
        }
        self.inner.completions.replace(completions);
        progress | self.fire_timers()
    }

    /// When the next timer of this shard is due, if there is one.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.inner
            .timers
            .borrow()
            .due
            .first_key_value()
            .map(|((deadline, _), _)| *deadline)
    }

    fn read_clock(&self) {
        let (now, wall_ms) = match &*self.inner.driver.borrow() {
            Driver::Sim(driver) => driver.clock(),
            Driver::Uring(_) | Driver::Poll(_) => (clock::monotonic(), clock::wall_ms()),
        };
        self.inner.now.set(now);
        self.inner.wall_ms.set(wall_ms);
    }

    fn fire_timers(&self) -> bool {
        let now = self.now();
        let mut any = false;
        loop {
            let waker = {
                let mut timers = self.inner.timers.borrow_mut();
                match timers.due.first_entry() {
                    Some(entry) if entry.key().0 <= now => entry.remove(),
                    _ => return any,
                }
            };
            any = true;
            waker.wake();
        }
    }

    fn complete(&self, token: Token, completion: Completion) {
        let mut slots = self.inner.slots.borrow_mut();
        let waker = match std::mem::replace(&mut slots[token], Slot::Done(completion)) {
            Slot::Waiting(waker) => waker,
            Slot::Abandoned => {
                let abandoned = slots.remove(token);
                drop(slots);
                drop(abandoned);
                return;
            }
            Slot::Done(_) => panic!("operation {token} completed twice"),
        };
        drop(slots);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn start(&self, op: Op) -> Operation {
        self.inner.counters.started(&op);
        let token = self.inner.slots.borrow_mut().insert(Slot::Waiting(None));
        let completion = match &mut *self.inner.driver.borrow_mut() {
            Driver::Uring(driver) => driver.start(token, op),
            Driver::Poll(driver) => driver.start(token, op),
            Driver::Sim(driver) => driver.start(token, op),
        };
        if let Some(completion) = completion {
            self.inner.slots.borrow_mut()[token] = Slot::Done(completion);
        }
        Operation {
            io: self.clone(),
            token: Some(token),
        }
    }

    fn cancel(&self, token: Token) {
        let mut slots = self.inner.slots.borrow_mut();
        if let Slot::Done(_) = slots[token] {
            let done = slots.remove(token);
            drop(slots);
            drop(done);
            return;
        }
        slots[token] = Slot::Abandoned;
        drop(slots);
        // A task may be dropped while its driver is at work only in a simulated crash, where the
        // world forgets everything anyway.
        let forgotten = match self.inner.driver.try_borrow_mut().as_deref_mut() {
            Ok(Driver::Uring(driver)) => driver.cancel(token),
            Ok(Driver::Poll(driver)) => driver.cancel(token),
            Ok(Driver::Sim(driver)) => driver.cancel(token),
            Err(_) => false,
        };
        if forgotten {
            self.inner.slots.borrow_mut().remove(token);
        }
    }

    /// Whether the shard still runs: always, but for one that a simulated crash has ended.
    fn is_powered(&self) -> bool {
        match &*self.inner.driver.borrow() {
            Driver::Sim(driver) => driver.is_alive(),
            Driver::Uring(_) | Driver::Poll(_) => true,
        }
    }

    fn is_simulated(&self) -> bool {
        matches!(&*self.inner.driver.borrow(), Driver::Sim(_))
    }

    // ---- sockets -----------------------------------------------------------------------------

    /// Binds and listens; `port` 0 lets the kernel choose. SO_REUSEADDR, never SO_REUSEPORT: a
    /// taken port must be an error.
    ///
    /// # Errors
    /// What socket(2), bind(2) or listen(2) answered.
    pub fn listen(&self, address: SocketAddr, backlog: i32) -> io::Result<(Listener, SocketAddr)> {
        match &mut *self.inner.driver.borrow_mut() {
            Driver::Sim(driver) => driver.listen(address),
            Driver::Uring(_) | Driver::Poll(_) => listen(address, backlog),
        }
    }

    /// Waits for a connection (accept4(2)).
    ///
    /// # Errors
    /// What accept4 answered; EMFILE and ENFILE mean that this process has no descriptors left.
    pub async fn accept(&self, listener: &Listener) -> io::Result<(Socket, SocketAddr)> {
        match self.start(Op::Accept(listener.clone())).await? {
            Output::Connection(socket, peer) => Ok((socket, peer)),
            other => panic!("accept gave {other:?}"),
        }
    }

    /// Appends up to `limit` received bytes to `buffer`, within its spare capacity (which must not
    /// be zero). Gives the buffer back with the number of bytes; 0 = the peer sends no more.
    ///
    /// # Errors
    /// What recv(2) answered; the buffer is lost then.
    pub async fn receive(
        &self,
        socket: &Socket,
        buffer: BytesMut,
        limit: usize,
    ) -> io::Result<(BytesMut, usize)> {
        assert!(
            buffer.capacity() > buffer.len() && limit > 0,
            "no room to receive into"
        );
        match self
            .start(Op::Receive(socket.clone(), buffer, limit))
            .await?
        {
            Output::Buffer(buffer, count) => Ok((buffer, count)),
            other => panic!("receive gave {other:?}"),
        }
    }

    /// Whether the last receive is known to have left bytes behind, so that the next one will not
    /// wait. Only io_uring tells.
    pub fn has_more(&self, socket: &Socket) -> bool {
        match &*self.inner.driver.borrow() {
            Driver::Uring(driver) => driver.has_more(socket.0.fd().as_raw_fd()),
            Driver::Poll(_) | Driver::Sim(_) => false,
        }
    }

    /// Sends all bytes of `buffers`, in order. One send at a time on a socket.
    ///
    /// # Errors
    /// What sendmsg(2) answered; a part may have been sent.
    pub async fn send(&self, socket: &Socket, buffers: Vec<Bytes>) -> io::Result<()> {
        self.start(Op::Send(socket.clone(), buffers))
            .await
            .map(|_| ())
    }

    /// Sends `length` bytes of `file` from `position` with sendfile(2), in turns of 256 KiB.
    /// Pages that are not in the page cache are read through the driver first: a cold inline
    /// sendfile froze a shard for up to 38 ms. Gives the time that these reads took.
    ///
    /// # Errors
    /// What sendfile answered; `UnexpectedEof` if the file is shorter.
    pub async fn send_file(
        &self,
        socket: &Socket,
        file: &File,
        mut position: u64,
        mut length: u64,
    ) -> io::Result<Duration> {
        let mut cold = Duration::ZERO;
        if self.is_simulated() {
            let op = Op::SendFile(socket.clone(), file.clone(), position, length);
            return self.start(op).await.map(|_| cold);
        }
        while length > 0 {
            let piece = length.min(SEND_FILE_BYTES_MAX);
            self.inner
                .counters
                .count(|counters| counters.send_file_pieces += 1);
            if !system::is_cached(file, position, piece) {
                self.inner
                    .counters
                    .count(|counters| counters.cold_pieces += 1);
                let (begun, bytes) = (self.instant(), usize::try_from(piece).unwrap_or(0));
                self.read_at(file, BytesMut::with_capacity(bytes), position, bytes)
                    .await?;
                cold += self.instant().since(begun);
            }
            match system::send_file(socket, file, position, piece) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(sent) => {
                    position += sent;
                    length -= sent;
                    if length > 0 && sent == piece {
                        self.yield_now().await;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.start(Op::Writable(socket.clone())).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(cold)
    }

    /// Lets the other ready tasks of the shard run.
    pub async fn yield_now(&self) {
        let mut yielded = false;
        std::future::poll_fn(|context| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// The local address of a connection: what its client has dialled (getsockname(2)).
    ///
    /// # Errors
    /// What getsockname answered.
    pub fn local_address(&self, socket: &Socket) -> io::Result<SocketAddr> {
        match &mut *self.inner.driver.borrow_mut() {
            Driver::Sim(driver) => driver.local_address(socket),
            Driver::Uring(_) | Driver::Poll(_) => system::local_address(socket),
        }
    }

    /// Sets SO_SNDBUF and SO_RCVBUF of a connection; `None` leaves the kernel's own sizing.
    pub fn set_buffer_sizes(&self, socket: &Socket, send: Option<u32>, receive: Option<u32>) {
        if !self.is_simulated() {
            system::set_buffer_sizes(socket, send, receive);
        }
    }

    /// Shuts both directions down, which ends a pending receive (shutdown(2)).
    pub fn shutdown(&self, socket: &Socket) {
        match &mut *self.inner.driver.borrow_mut() {
            Driver::Sim(driver) => driver.shutdown(socket),
            Driver::Uring(_) | Driver::Poll(_) => system::shutdown(socket),
        }
    }
}

/// Binds and listens outside a shard, so that a taken port is known before the shards start.
///
/// # Errors
/// What socket(2), bind(2) or listen(2) answered.
pub fn listen(address: SocketAddr, backlog: i32) -> io::Result<(Listener, SocketAddr)> {
    let (fd, address) = system::listen(address, backlog)?;
    Ok((Listener(Arc::new(Handle::System(fd))), address))
}

/// The future of an operation in flight.
struct Operation {
    io: Io,
    token: Option<Token>,
}

impl Future for Operation {
    type Output = Completion;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Completion> {
        let token = self.token.expect("polled after completion");
        let mut slots = self.io.inner.slots.borrow_mut();
        if let Slot::Waiting(waker) = &mut slots[token] {
            if !waker
                .as_ref()
                .is_some_and(|waker| waker.will_wake(context.waker()))
            {
                *waker = Some(context.waker().clone());
            }
            return Poll::Pending;
        }
        let Slot::Done(completion) = slots.remove(token) else {
            panic!("operation {token} was abandoned and polled")
        };
        drop(slots);
        self.token = None;
        Poll::Ready(completion)
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if let Some(token) = self.token {
            self.io.cancel(token);
        }
    }
}

/// The future of [`Io::sleep_until`].
pub struct Sleep {
    io: Io,
    deadline: Instant,
    key: Option<(Instant, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if let Some(key) = self.key.take() {
            self.io.inner.timers.borrow_mut().due.remove(&key);
        }
        if self.io.now() >= self.deadline {
            return Poll::Ready(());
        }
        let key = {
            let mut timers = self.io.inner.timers.borrow_mut();
            timers.sequence += 1;
            let key = (self.deadline, timers.sequence);
            timers.due.insert(key, context.waker().clone());
            key
        };
        self.key = Some(key);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.io.inner.timers.borrow_mut().due.remove(&key);
        }
    }
}
