//! The driver without io_uring: epoll(7) for sockets, helper threads for what blocks.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

use super::counters::call;
use super::executor::ReadyQueue;
use super::op::{Completion, Op, Output, Token};
use super::system;
use super::worker::Worker;

const EVENTS_MAX: usize = 256;
/// `EventData` of the eventfds; descriptors are never negative, so it collides with none.
const WAKE: u64 = u64::MAX;

/// An operation that waits for its socket, with the position of a send.
struct Pending {
    op: Op,
    cursor: (usize, usize),
}

/// The operations that wait on one descriptor; at most one for each direction.
#[derive(Default)]
struct Interest {
    read: Option<Token>,
    write: Option<Token>,
}

/// State of the driver.
pub(crate) struct Poll {
    epoll: OwnedFd,
    queue: Arc<ReadyQueue>,
    pending: BTreeMap<Token, Pending>,
    interests: BTreeMap<RawFd, Interest>,
    worker: Worker,
    /// Kept from wait to wait for its memory.
    events: Vec<epoll::Event>,
}

impl Poll {
    pub(crate) fn new(queue: &Arc<ReadyQueue>) -> io::Result<Poll> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let eventfd = queue.eventfd().expect("a real shard has an eventfd");
        epoll::add(
            &epoll,
            eventfd,
            EventData::new_u64(WAKE),
            EventFlags::IN | EventFlags::ET,
        )?;
        let worker = Worker::new(rustix::io::dup(eventfd)?);
        Ok(Poll {
            epoll,
            queue: queue.clone(),
            pending: BTreeMap::new(),
            interests: BTreeMap::new(),
            worker,
            events: Vec::with_capacity(EVENTS_MAX),
        })
    }

    pub(crate) fn start(&mut self, token: Token, op: Op) -> Option<Completion> {
        if let Op::Accept(listener) = &op
            && let Err(error) = rustix::io::ioctl_fionbio(listener.0.fd(), true)
        {
            return Some(Err(error.into()));
        }
        match op {
            Op::File(op) => {
                self.worker.start(token, op);
                None
            }
            Op::WriteAt(file, buffers, position) => {
                Some(system::write_at(&file, &buffers, position).map(|()| Output::Nothing))
            }
            // The caller has just seen EAGAIN.
            Op::Writable(_) => self.park(token, Pending { op, cursor: (0, 0) }),
            op => self.attempt(token, Pending { op, cursor: (0, 0) }),
        }
    }

    fn attempt(&mut self, token: Token, mut pending: Pending) -> Option<Completion> {
        match attempt(&mut pending) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.park(token, pending),
            completion => Some(completion),
        }
    }

    fn park(&mut self, token: Token, pending: Pending) -> Option<Completion> {
        let (fd, is_write) = descriptor(&pending.op);
        let raw = fd.as_raw_fd();
        let interest = self.interests.entry(raw).or_default();
        let side = if is_write {
            &mut interest.write
        } else {
            &mut interest.read
        };
        assert!(
            side.is_none(),
            "two operations of one kind on descriptor {raw}"
        );
        *side = Some(token);
        let result = register(&self.epoll, fd, interest);
        self.pending.insert(token, pending);
        if let Err(error) = result {
            self.forget(token);
            return Some(Err(error));
        }
        None
    }

    fn forget(&mut self, token: Token) -> Option<Pending> {
        let pending = self.pending.remove(&token)?;
        let raw = descriptor(&pending.op).0.as_raw_fd();
        if let Some(interest) = self.interests.get_mut(&raw) {
            interest.read = interest.read.filter(|other| *other != token);
            interest.write = interest.write.filter(|other| *other != token);
            if interest.read.is_none() && interest.write.is_none() {
                self.interests.remove(&raw);
            }
        }
        Some(pending)
    }

    /// Drops a waiting operation; helper threads finish theirs into nothing.
    pub(crate) fn cancel(&mut self, token: Token) -> bool {
        self.forget(token).is_some()
    }

    pub(crate) fn wait(
        &mut self,
        timeout: Option<Duration>,
        completions: &mut Vec<(Token, Completion)>,
    ) {
        let timeout = timeout.map(|timeout| rustix::time::Timespec {
            tv_sec: timeout.as_secs().cast_signed(),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let mut events = std::mem::take(&mut self.events);
        let spare = rustix::buffer::spare_capacity(&mut events);
        call();
        match epoll::wait(&self.epoll, spare, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("epoll_wait: {error}"),
        }
        for event in events.drain(..) {
            let raw = event.data.u64();
            if raw == WAKE {
                self.drain_eventfd();
            } else {
                self.socket_ready(raw as RawFd, event.flags, completions);
            }
        }
        self.events = events;
        self.worker.take(completions);
    }

    fn drain_eventfd(&self) {
        let eventfd = self.queue.eventfd().expect("a real shard has an eventfd");
        // Edge-triggered: a counter that is left non-zero would still wake, but read it anyway, so
        // that it cannot overflow.
        let _ = rustix::io::read(eventfd, &mut [0u8; 8]);
    }

    fn socket_ready(
        &mut self,
        raw: RawFd,
        flags: EventFlags,
        completions: &mut Vec<(Token, Completion)>,
    ) {
        let Some(interest) = self.interests.get(&raw) else {
            return;
        };
        let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        let read = interest
            .read
            .filter(|_| broken || flags.intersects(EventFlags::IN));
        let write = interest
            .write
            .filter(|_| broken || flags.intersects(EventFlags::OUT));
        let mut rearm = true;
        for token in [read, write].into_iter().flatten() {
            let Some(pending) = self.forget(token) else {
                continue;
            };
            if let Some(completion) = self.attempt(token, pending) {
                completions.push((token, completion));
            } else {
                rearm = false;
            }
        }
        if rearm && let Some(interest) = self.interests.get(&raw) {
            let token = interest
                .read
                .or(interest.write)
                .expect("an interest has an operation");
            let fd = descriptor(&self.pending[&token].op).0;
            if let Err(error) = register(&self.epoll, fd, interest) {
                completions.push((token, Err(error)));
                self.forget(token);
            }
        }
    }
}

fn register(epoll: &OwnedFd, fd: BorrowedFd<'_>, interest: &Interest) -> io::Result<()> {
    let mut flags = EventFlags::ONESHOT;
    flags.set(EventFlags::IN, interest.read.is_some());
    flags.set(EventFlags::OUT, interest.write.is_some());
    let data = EventData::new_u64(u64::from(fd.as_raw_fd().unsigned_abs()));
    call();
    match epoll::modify(epoll, fd, data, flags) {
        Err(Errno::NOENT) => Ok(epoll::add(epoll, fd, data, flags)?),
        other => Ok(other?),
    }
}

/// The descriptor that an operation waits for, and whether it wants to write.
fn descriptor(op: &Op) -> (BorrowedFd<'_>, bool) {
    match op {
        Op::Accept(listener) => (listener.0.fd(), false),
        Op::Receive(socket, ..) => (socket.0.fd(), false),
        Op::Send(socket, _) | Op::Writable(socket) | Op::SendFile(socket, ..) => {
            (socket.0.fd(), true)
        }
        Op::WriteAt(..) | Op::File(_) => panic!("{op:?} does not wait for a socket"),
    }
}

fn attempt(pending: &mut Pending) -> Completion {
    match &mut pending.op {
        Op::Accept(listener) => {
            loop {
                match system::accept(listener.0.fd().as_fd()) {
                    // The peer has left already: wait for another one.
                    Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    other => {
                        return other.map(|(socket, peer)| Output::Connection(socket, peer));
                    }
                }
            }
        }
        Op::Receive(socket, buffer, limit) => {
            let count = system::receive(socket, buffer, *limit)?;
            Ok(Output::Buffer(std::mem::take(buffer), count))
        }
        Op::Send(socket, buffers) => {
            let is_left = |cursor: &(usize, usize), buffers: &[Bytes]| cursor.0 < buffers.len();
            while is_left(&pending.cursor, buffers) {
                let (index, offset) = pending.cursor;
                let sent = system::send(socket, &buffers[index..], offset)?;
                system::advance(buffers, &mut pending.cursor, sent);
            }
            Ok(Output::Nothing)
        }
        Op::Writable(_) => Ok(Output::Nothing),
        Op::SendFile(..) | Op::WriteAt(..) | Op::File(_) => {
            panic!("{:?} does not wait for a socket", pending.op)
        }
    }
}
