//! The real driver: one io_uring per shard, single issuer, deferred task work (Linux 6.1 or later).
//!
//! Completions are taken only when the shard enters the kernel, so all that a turn asked for goes
//! in with one system call. Buffered writes are not submitted but made inline (see
//! [`super::Io::write_at`]), and so is a send while the socket takes it: it would complete inside
//! the submission anyway, and its completion would only wake the shard once more. Names and whole
//! files go to the helper threads.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::BufMut;
use io_uring::types::{CancelBuilder, Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::counters::call;
use super::executor::ReadyQueue;
use super::op::{Completion, FileOp, Op, Output, Token};
use super::system;
use super::worker::Worker;

const SUBMISSION_ENTRIES: u32 = 256;
const COMPLETION_ENTRIES: u32 = 4096;
/// `user_data` of the read of the eventfd and of cancellations; tokens are slab indexes, far below.
const WAKE: u64 = u64::MAX;
const CANCELLATION: u64 = u64::MAX - 1;
/// `ioprio` of a receive that first waits for bytes (IORING_RECVSEND_POLL_FIRST).
const POLL_FIRST: u16 = 1;
/// Most buffers of one sqe.
const IO_SLICES_MAX: usize = 64;

/// An operation in flight: what the kernel may touch lives here until its completion.
struct InFlight {
    op: Op,
    /// Buffers that are done, and bytes of the next one.
    cursor: (usize, usize),
    vectors: Vec<libc::iovec>,
    header: Option<Box<libc::msghdr>>,
}

/// State of the driver.
pub(crate) struct Uring {
    ring: IoUring,
    /// By token: tokens are the indexes of a slab, which stays dense.
    in_flight: Vec<Option<InFlight>>,
    /// By descriptor: whether the last receive has left bytes behind. If not, the next one need not
    /// try before it waits. A stale answer costs one look more, nothing else.
    has_more: Vec<bool>,
    queue: Arc<ReadyQueue>,
    worker: Worker,
    wake_counter: Box<[u8; 8]>,
    wake_armed: bool,
    /// Entries submitted, and calls of io_uring_enter(2).
    submitted: (u64, Cell<u64>),
}

fn build(submission: u32, completion: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(completion)
        .build(submission)
}

impl Uring {
    /// Sets up a ring of the kind a shard needs, and gives it back.
    pub(crate) fn probe() -> io::Result<()> {
        build(SUBMISSION_ENTRIES, COMPLETION_ENTRIES).map(|_| ())
    }

    pub(crate) fn new(queue: &Arc<ReadyQueue>) -> io::Result<Uring> {
        let eventfd = queue.eventfd().expect("a real shard has an eventfd");
        Ok(Uring {
            ring: build(SUBMISSION_ENTRIES, COMPLETION_ENTRIES)?,
            in_flight: Vec::new(),
            has_more: Vec::new(),
            worker: Worker::new(rustix::io::dup(eventfd)?),
            queue: queue.clone(),
            wake_counter: Box::new([0; 8]),
            wake_armed: false,
            submitted: (0, Cell::new(0)),
        })
    }

    pub(crate) fn start(&mut self, token: Token, op: Op) -> Option<Completion> {
        match op {
            Op::WriteAt(file, buffers, position) => {
                return Some(system::write_at(&file, &buffers, position).map(|()| Output::Nothing));
            }
            Op::File(op) if !in_ring(&op) => self.worker.start(token, op),
            Op::Send(socket, buffers) => match system::send(&socket, &buffers, 0) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Some(Err(error));
                }
                sent => {
                    let mut cursor = (0, 0);
                    system::advance(&buffers, &mut cursor, sent.unwrap_or(0));
                    if cursor.0 == buffers.len() {
                        return Some(Ok(Output::Nothing));
                    }
                    self.submit(token, Op::Send(socket, buffers), cursor);
                }
            },
            op => self.submit(token, op, (0, 0)),
        }
        None
    }

    fn submit(&mut self, token: Token, op: Op, cursor: (usize, usize)) {
        let (vectors, header) = (Vec::new(), None);
        let in_flight = InFlight {
            op,
            cursor,
            vectors,
            header,
        };
        self.push_rest(token, in_flight);
    }

    /// Submits what is left of an operation.
    fn push_rest(&mut self, token: Token, mut in_flight: InFlight) {
        let entry = in_flight.entry(&self.has_more);
        if self.in_flight.len() <= token {
            self.in_flight.resize_with(token + 1, || None);
        }
        self.in_flight[token] = Some(in_flight);
        self.push(&entry.user_data(token as u64));
    }

    fn take(&mut self, token: Token) -> Option<InFlight> {
        self.in_flight.get_mut(token)?.take()
    }

    /// Whether the last receive on a descriptor has left bytes behind.
    pub(crate) fn has_more(&self, fd: RawFd) -> bool {
        self.has_more.get(index_of(fd)).copied().unwrap_or(false)
    }

    fn note_more(&mut self, fd: RawFd, has_more: bool) {
        let index = index_of(fd);
        if self.has_more.len() <= index {
            self.has_more.resize(index + 1, false);
        }
        self.has_more[index] = has_more;
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: what the entry points to is owned by `self.in_flight` (or `self`) until its
            // completion has been taken.
            let pushed = unsafe { self.ring.submission().push(entry) };
            if pushed.is_ok() {
                self.submitted.0 += 1;
                return;
            }
            self.enter(0, None);
        }
    }

    /// Asks the kernel to give the operation up; its completion still comes.
    pub(crate) fn cancel(&mut self, token: Token) -> bool {
        if self.in_flight.get(token).is_some_and(Option::is_some) {
            let entry = opcode::AsyncCancel::new(token as u64)
                .build()
                .user_data(CANCELLATION);
            self.push(&entry);
        }
        false
    }

    pub(crate) fn wait(
        &mut self,
        timeout: Option<Duration>,
        completions: &mut Vec<(Token, Completion)>,
    ) {
        if !self.wake_armed {
            self.arm_wake();
        }
        if timeout == Some(Duration::ZERO) {
            let submission = self.ring.submission();
            let idle = submission.is_empty() && !submission.taskrun() && !submission.cq_overflow();
            drop(submission);
            if !idle {
                self.enter(0, None);
            }
        } else {
            self.enter(1, timeout);
        }
        self.reap(completions);
        self.worker.take(completions);
    }

    /// Entries submitted, and calls of io_uring_enter(2).
    pub(crate) fn submitted(&self) -> (u64, u64) {
        (self.submitted.0, self.submitted.1.get())
    }

    fn arm_wake(&mut self) {
        let eventfd = self
            .queue
            .eventfd()
            .expect("a real shard has an eventfd")
            .as_raw_fd();
        let entry = opcode::Read::new(Fd(eventfd), self.wake_counter.as_mut_ptr(), 8).build();
        self.push(&entry.user_data(WAKE));
        self.wake_armed = true;
    }

    fn enter(&self, want: usize, timeout: Option<Duration>) {
        call();
        self.submitted.1.update(|calls| calls + 1);
        let submitter = self.ring.submitter();
        let result = if want == 0 {
            // Deferred task work runs only with GETEVENTS, which the crate sets only if it waits.
            const GETEVENTS: u32 = 1;
            // SAFETY: no argument is passed; the entries are owned as `push` says.
            unsafe { self.enter_raw(GETEVENTS) }
        } else if let Some(timeout) = timeout {
            let time = Timespec::new()
                .sec(timeout.as_secs())
                .nsec(timeout.subsec_nanos());
            submitter.submit_with_args(want, &SubmitArgs::new().timespec(&time))
        } else {
            submitter.submit_and_wait(want)
        };
        match result.map_err(|error| error.raw_os_error()) {
            Ok(_) | Err(Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {}
            Err(error) => panic!("io_uring_enter: errno {error:?}"),
        }
    }

    /// io_uring_enter(2) that submits everything and waits for nothing.
    ///
    /// # Safety
    /// What the submitted entries point to must live until their completions.
    unsafe fn enter_raw(&self, flags: u32) -> io::Result<usize> {
        // SAFETY: a shared view of the queue, used only to count on the thread that owns the ring.
        let pending = unsafe { self.ring.submission_shared() }.len();
        let pending = u32::try_from(pending).expect("at most SUBMISSION_ENTRIES");
        // SAFETY: handed on to the caller.
        unsafe {
            self.ring
                .submitter()
                .enter::<libc::sigset_t>(pending, 0, flags, None)
        }
    }

    fn reap(&mut self, completions: &mut Vec<(Token, Completion)>) {
        loop {
            let Some(cqe) = self.ring.completion().next() else {
                return;
            };
            match cqe.user_data() {
                WAKE => self.wake_armed = false,
                CANCELLATION => {}
                token => self.completed(token as Token, &cqe, completions),
            }
        }
    }

    fn completed(
        &mut self,
        token: Token,
        cqe: &cqueue::Entry,
        completions: &mut Vec<(Token, Completion)>,
    ) {
        let Some(mut in_flight) = self.take(token) else {
            panic!("completion of the unknown operation {token}")
        };
        if let Op::Receive(socket, ..) = &in_flight.op {
            let fd = socket.0.fd().as_raw_fd();
            self.note_more(fd, cqueue::sock_nonempty(cqe.flags()));
        }
        match in_flight.finish(cqe.result()) {
            Some(completion) => completions.push((token, completion)),
            None => self.push_rest(token, in_flight),
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let any = CancelBuilder::any();
        let _ = self.ring.submitter().register_sync_cancel(None, any);
        for _ in 0..1000 {
            if self.in_flight.iter().all(Option::is_none) {
                return;
            }
            self.enter(1, Some(Duration::from_millis(1)));
            while let Some(cqe) = self.ring.completion().next() {
                // What is left of a half-done send must not be submitted again; an accepted
                // descriptor must be closed.
                let token = usize::try_from(cqe.user_data()).unwrap_or(Token::MAX);
                if let Some(mut in_flight) = self.in_flight.get_mut(token).and_then(Option::take) {
                    in_flight.finish(cqe.result());
                }
            }
        }
        // The kernel may still write into these buffers: a leak at the end is the lesser evil.
        std::mem::forget(std::mem::take(&mut self.in_flight));
    }
}

fn index_of(fd: RawFd) -> usize {
    usize::try_from(fd).expect("a descriptor is not negative")
}

fn in_ring(op: &FileOp) -> bool {
    match op {
        FileOp::SyncData(_) | FileOp::WriteDurable(..) | FileOp::ReadAt(..) => true,
        FileOp::SyncRange(_, _, length) => u32::try_from(*length).is_ok(),
        FileOp::Open(..)
        | FileOp::Length(_)
        | FileOp::Modified(_)
        | FileOp::Truncate(..)
        | FileOp::Allocate(..)
        | FileOp::Reserve(..)
        | FileOp::Rename(..)
        | FileOp::RemoveFile(_)
        | FileOp::CreateDirectory(_)
        | FileOp::RemoveDirectory(_)
        | FileOp::ListDirectory(_)
        | FileOp::Volume(_)
        | FileOp::ReadFile(..)
        | FileOp::SyncDirectory(_) => false,
    }
}

fn vector(bytes: &[u8]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    }
}

impl InFlight {
    /// The sqe of what is left of the operation. The pointers in it stay valid while this value
    /// moves: they lead to the heap, to buffers, `vectors` or `header`.
    fn entry(&mut self, has_more: &[bool]) -> squeue::Entry {
        let (index, offset) = self.cursor;
        match &mut self.op {
            Op::Accept(listener) => {
                let fd = Fd(listener.0.fd().as_raw_fd());
                opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut())
                    .flags(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK)
                    .build()
            }
            Op::Receive(socket, buffer, limit) => {
                let spare = buffer.spare_capacity_mut();
                let length = u32::try_from(spare.len().min(*limit)).unwrap_or(u32::MAX);
                let pointer = spare.as_mut_ptr().cast();
                let fd = socket.0.fd().as_raw_fd();
                let has_more = has_more.get(index_of(fd)).copied().unwrap_or(false);
                opcode::Recv::new(Fd(fd), pointer, length)
                    .ioprio(if has_more { 0 } else { POLL_FIRST })
                    .build()
            }
            Op::Send(socket, buffers) => {
                let fd = Fd(socket.0.fd().as_raw_fd());
                let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
                self.vectors.clear();
                let rest = buffers[index..].iter().take(IO_SLICES_MAX).enumerate();
                self.vectors.extend(
                    rest.map(|(i, bytes)| vector(if i == 0 { &bytes[offset..] } else { bytes })),
                );
                if let [one] = self.vectors[..] {
                    let length = u32::try_from(one.iov_len).unwrap_or(u32::MAX);
                    return opcode::Send::new(fd, one.iov_base.cast(), length)
                        .flags(flags)
                        .build();
                }
                // SAFETY: all-zero is a valid msghdr.
                let mut header: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
                header.msg_iov = self.vectors.as_mut_ptr();
                header.msg_iovlen = self.vectors.len();
                let header = self.header.insert(header);
                opcode::SendMsg::new(fd, &raw const **header)
                    .flags(flags.cast_unsigned())
                    .build()
            }
            Op::Writable(socket) => {
                let fd = Fd(socket.0.fd().as_raw_fd());
                opcode::PollAdd::new(fd, u32::from(libc::POLLOUT.cast_unsigned())).build()
            }
            Op::File(op) => file_entry(op, &mut self.cursor, &mut self.vectors),
            Op::SendFile(..) | Op::WriteAt(..) => panic!("{:?} is not submitted", self.op),
        }
    }

    /// Takes the result of the sqe; `None` if a part is left to submit.
    fn finish(&mut self, result: i32) -> Option<Completion> {
        let Ok(count) = usize::try_from(result) else {
            let errno = result.wrapping_neg();
            if errno == libc::EINTR || errno == libc::EAGAIN {
                return None;
            }
            return Some(Err(io::Error::from_raw_os_error(errno)));
        };
        let output = match &mut self.op {
            Op::Accept(_) => {
                // SAFETY: the kernel has just given this descriptor to us, to nobody else.
                let fd = unsafe { OwnedFd::from_raw_fd(result) };
                return match system::accepted(fd) {
                    // The peer has left already: wait for another one.
                    Err(error) if error.kind() == io::ErrorKind::NotConnected => None,
                    other => Some(other.map(|(socket, peer)| Output::Connection(socket, peer))),
                };
            }
            Op::Receive(_, buffer, _) => {
                // SAFETY: the kernel has initialised `count` bytes of the spare capacity.
                unsafe { buffer.advance_mut(count) };
                Output::Buffer(std::mem::take(buffer), count)
            }
            Op::Send(_, buffers) => {
                system::advance(buffers, &mut self.cursor, count);
                if self.cursor.0 < buffers.len() {
                    return None;
                }
                Output::Nothing
            }
            Op::File(FileOp::ReadAt(_, buffer, position, length)) => {
                // SAFETY: as for a receive.
                unsafe { buffer.advance_mut(count) };
                *position += count as u64;
                *length -= count;
                if count > 0 && *length > 0 {
                    return None;
                }
                let read = buffer.len();
                Output::Buffer(std::mem::take(buffer), read)
            }
            Op::File(FileOp::WriteDurable(_, buffers, position)) => {
                *position += count as u64;
                let lengths = buffers.iter().map(|buffer| buffer.len());
                advance_lengths(lengths, &mut self.cursor, count);
                if self.cursor.0 < buffers.len() {
                    return if count == 0 {
                        Some(Err(io::ErrorKind::WriteZero.into()))
                    } else {
                        None
                    };
                }
                Output::Aligned(std::mem::take(buffers))
            }
            _ => Output::Nothing,
        };
        Some(Ok(output))
    }
}

fn advance_lengths(
    lengths: impl Iterator<Item = usize>,
    cursor: &mut (usize, usize),
    mut count: usize,
) {
    for length in lengths.skip(cursor.0) {
        let rest = length - cursor.1;
        if count < rest {
            cursor.1 += count;
            return;
        }
        count -= rest;
        *cursor = (cursor.0 + 1, 0);
    }
}

fn file_entry(
    op: &mut FileOp,
    cursor: &mut (usize, usize),
    vectors: &mut Vec<libc::iovec>,
) -> squeue::Entry {
    match op {
        FileOp::SyncData(file) => opcode::Fsync::new(Fd(file.0.fd().as_raw_fd()))
            .flags(FsyncFlags::DATASYNC)
            .build(),
        FileOp::SyncRange(file, position, length) => {
            let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
                | libc::SYNC_FILE_RANGE_WRITE
                | libc::SYNC_FILE_RANGE_WAIT_AFTER;
            let length = u32::try_from(*length).expect("checked by `in_ring`");
            opcode::SyncFileRange::new(Fd(file.0.fd().as_raw_fd()), length)
                .offset(*position)
                .flags(flags)
                .build()
        }
        FileOp::WriteDurable(file, buffers, position) => {
            let (index, offset) = *cursor;
            vectors.clear();
            let rest = buffers[index..].iter().take(IO_SLICES_MAX).enumerate();
            vectors.extend(
                rest.map(|(i, bytes)| vector(if i == 0 { &bytes[offset..] } else { bytes })),
            );
            let length = u32::try_from(vectors.len()).expect("at most IO_SLICES_MAX");
            opcode::Writev::new(Fd(file.0.fd().as_raw_fd()), vectors.as_ptr(), length)
                .offset(*position)
                .rw_flags(libc::RWF_DSYNC)
                .build()
        }
        FileOp::ReadAt(file, buffer, position, length) => {
            let spare = buffer.spare_capacity_mut();
            let length = u32::try_from(spare.len().min(*length)).unwrap_or(u32::MAX);
            let pointer = spare.as_mut_ptr().cast();
            opcode::Read::new(Fd(file.0.fd().as_raw_fd()), pointer, length)
                .offset(*position)
                .build()
        }
        other => panic!("{other:?} is not submitted"),
    }
}
