//! System calls, wrapped: what both real drivers use.

use std::ffi::OsStr;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};
use rustix::net::{AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType, sockopt};

use super::INLINE_WRITE_BYTES_MAX;
use super::buffer::AlignedBuffer;
use super::counters::call;
use super::files::within;
use super::op::{
    Completion, DirectoryEntry, File, FileOp, Handle, OpenMode, Output, Socket, Volume,
};

/// Most buffers of one vectored call (IOV_MAX is 1024).
const IO_SLICES_MAX: usize = 64;

pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    use rustix::event::EventfdFlags;
    Ok(rustix::event::eventfd(
        0,
        EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
    )?)
}

pub(crate) fn listen(address: SocketAddr, backlog: i32) -> io::Result<(OwnedFd, SocketAddr)> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let fd = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    rustix::net::bind(&fd, &address)?;
    rustix::net::listen(&fd, backlog)?;
    let bound = SocketAddr::try_from(rustix::net::getsockname(&fd)?)?;
    Ok((fd, bound))
}

/// Prepares an accepted socket: no Nagle delay (answers are written whole).
pub(crate) fn accepted(fd: OwnedFd) -> io::Result<(Socket, SocketAddr)> {
    let peer = SocketAddr::try_from(rustix::net::getpeername(&fd)?.ok_or(Errno::NOTCONN)?)?;
    sockopt::set_tcp_nodelay(&fd, true)?;
    Ok((Socket(Arc::new(Handle::System(fd))), peer))
}

pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<(Socket, SocketAddr)> {
    accepted(rustix::net::accept_with(
        listener,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
    )?)
}

pub(crate) fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    Ok(SocketAddr::try_from(rustix::net::getsockname(
        socket.0.fd(),
    )?)?)
}

pub(crate) fn set_buffer_sizes(socket: &Socket, send: Option<u32>, receive: Option<u32>) {
    // The kernel caps what is too large (socket(7)); an odd size is no reason to end a connection.
    if let Some(bytes) = send {
        let _ = sockopt::set_socket_send_buffer_size(socket.0.fd(), bytes as usize);
    }
    if let Some(bytes) = receive {
        let _ = sockopt::set_socket_recv_buffer_size(socket.0.fd(), bytes as usize);
    }
}

pub(crate) fn shutdown(socket: &Socket) {
    // ENOTCONN: the peer was faster.
    let _ = rustix::net::shutdown(socket.0.fd(), Shutdown::Both);
}

pub(crate) fn receive(socket: &Socket, buffer: &mut BytesMut, limit: usize) -> io::Result<usize> {
    let spare = buffer.spare_capacity_mut();
    let limit = limit.min(spare.len());
    let flags = rustix::net::RecvFlags::DONTWAIT;
    call();
    let ((received, _), _) = rustix::net::recv(socket.0.fd(), &mut spare[..limit], flags)?;
    let count = received.len();
    // SAFETY: recv(2) has initialised the first `count` bytes of the spare capacity.
    unsafe { buffer.advance_mut(count) };
    Ok(count)
}

/// One send(2) or sendmsg(2) of the buffers from byte `offset` of the first one on.
pub(crate) fn send(socket: &Socket, buffers: &[Bytes], offset: usize) -> io::Result<usize> {
    call();
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    if let [one] = buffers {
        return Ok(rustix::net::send(socket.0.fd(), &one[offset..], flags)?);
    }
    let slices = io_slices(buffers, offset, usize::MAX);
    let mut control = rustix::net::SendAncillaryBuffer::default();
    Ok(rustix::net::sendmsg(
        socket.0.fd(),
        &slices,
        &mut control,
        flags,
    )?)
}

fn io_slices(buffers: &[Bytes], mut offset: usize, mut limit: usize) -> Vec<IoSlice<'_>> {
    let mut slices = Vec::with_capacity(buffers.len().min(IO_SLICES_MAX));
    for buffer in buffers {
        if slices.len() == IO_SLICES_MAX || limit == 0 {
            break;
        }
        let rest = &buffer[offset.min(buffer.len())..];
        offset = 0;
        let rest = &rest[..rest.len().min(limit)];
        limit -= rest.len();
        slices.push(IoSlice::new(rest));
    }
    slices
}

/// Drops the first `count` bytes of `buffers` by moving the cursor `(index, offset)` on.
pub(crate) fn advance(buffers: &[Bytes], cursor: &mut (usize, usize), mut count: usize) {
    loop {
        let Some(buffer) = buffers.get(cursor.0) else {
            return;
        };
        let rest = buffer.len() - cursor.1;
        if count < rest {
            cursor.1 += count;
            return;
        }
        count -= rest;
        *cursor = (cursor.0 + 1, 0);
    }
}

pub(crate) fn send_file(
    socket: &Socket,
    file: &File,
    position: u64,
    length: u64,
) -> io::Result<u64> {
    let mut offset = position;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    call();
    let sent = rustix::fs::sendfile(socket.0.fd(), file.0.fd(), Some(&mut offset), length)?;
    Ok(sent as u64)
}

/// Whether the first and the last byte of the range are in the page cache, by a read that may not
/// wait (preadv2(2), RWF_NOWAIT). Where the file system cannot say, the answer is yes.
pub(crate) fn is_cached(file: &File, position: u64, length: u64) -> bool {
    let probe = |position: u64| {
        let mut byte = [0u8];
        let mut slices = [IoSliceMut::new(&mut byte)];
        let flags = ReadWriteFlags::NOWAIT;
        call();
        rustix::io::preadv2(file.0.fd(), &mut slices, position, flags) != Err(Errno::AGAIN)
    };
    probe(position) && (length <= 4096 || probe(position + length - 1))
}

/// Writes all buffers through the page cache, inline.
pub(crate) fn write_at(file: &File, buffers: &[Bytes], mut position: u64) -> io::Result<()> {
    let mut cursor = (0, 0);
    while cursor.0 < buffers.len() {
        let slices = io_slices(&buffers[cursor.0..], cursor.1, INLINE_WRITE_BYTES_MAX);
        if slices.iter().all(|slice| slice.is_empty()) {
            cursor = (cursor.0 + slices.len(), 0);
            continue;
        }
        call();
        match rustix::io::pwritev(file.0.fd(), &slices, position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                position += written as u64;
                advance(buffers, &mut cursor, written);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Runs one of the operations that may block. Called on helper threads only.
pub(crate) fn file_op(op: FileOp) -> Completion {
    match op {
        FileOp::Open(path, mode) => open(&path, mode),
        FileOp::Length(file) => {
            let length = rustix::fs::fstat(file.0.fd())?.st_size;
            Ok(Output::Length(u64::try_from(length).unwrap_or(0)))
        }
        FileOp::Modified(file) => {
            let stat = rustix::fs::fstat(file.0.fd())?;
            let milliseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or(0) / 1_000_000;
            Ok(Output::Time(
                stat.st_mtime.saturating_mul(1000) + milliseconds,
            ))
        }
        FileOp::Truncate(file, length) => nothing(rustix::fs::ftruncate(file.0.fd(), length)),
        FileOp::Allocate(file, length) => nothing(rustix::fs::fallocate(
            file.0.fd(),
            FallocateFlags::empty(),
            0,
            length,
        )),
        FileOp::Reserve(file, position, length) => nothing(rustix::fs::fallocate(
            file.0.fd(),
            FallocateFlags::KEEP_SIZE,
            position,
            length,
        )),
        FileOp::Rename(from, to) => nothing(rustix::fs::rename(&from, &to)),
        FileOp::RemoveFile(path) => nothing(rustix::fs::unlink(&path)),
        FileOp::CreateDirectory(path) => nothing(rustix::fs::mkdir(&path, Mode::from(0o755))),
        FileOp::RemoveDirectory(path) => nothing(rustix::fs::rmdir(&path)),
        FileOp::ListDirectory(path) => list_directory(&path),
        FileOp::Volume(path) => volume(&path),
        FileOp::SyncDirectory(path) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::open(&path, flags, Mode::empty())?;
            nothing(rustix::fs::fsync(&directory))
        }
        FileOp::SyncData(file) => nothing(rustix::fs::fdatasync(file.0.fd())),
        FileOp::SyncRange(file, position, length) => sync_range(&file, position, length),
        FileOp::WriteDurable(file, buffers, position) => write_durable(&file, buffers, position),
        FileOp::ReadAt(file, buffer, position, length) => {
            read_at(file.0.fd(), buffer, position, length)
        }
        FileOp::ReadFile(path, limit) => read_file(&path, limit),
    }
}

fn nothing(result: Result<(), Errno>) -> Completion {
    result?;
    Ok(Output::Nothing)
}

fn open(path: &Path, mode: OpenMode) -> Completion {
    let fd = open_descriptor(path, mode)?;
    Ok(Output::File(File(Arc::new(Handle::System(fd)))))
}

fn open_descriptor(path: &Path, mode: OpenMode) -> io::Result<OwnedFd> {
    let flags = OFlags::CLOEXEC
        | match mode {
            OpenMode::Read => OFlags::RDONLY,
            OpenMode::Write => OFlags::RDWR,
            OpenMode::Create => OFlags::RDWR | OFlags::CREATE,
            OpenMode::CreateNew => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
            OpenMode::CreateDirect => OFlags::RDWR | OFlags::CREATE | OFlags::DIRECT,
        };
    let permissions = Mode::from(0o644);
    match rustix::fs::open(path, flags, permissions) {
        // Some file systems have no O_DIRECT; RWF_DSYNC alone keeps the promise there.
        Err(Errno::INVAL) if mode == OpenMode::CreateDirect => {
            Ok(rustix::fs::open(path, flags - OFlags::DIRECT, permissions)?)
        }
        other => Ok(other?),
    }
}

fn list_directory(path: &Path) -> Completion {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    let mut entries = Vec::new();
    for entry in rustix::fs::Dir::read_from(&directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        if name == "." || name == ".." {
            continue;
        }
        let is_directory = match entry.file_type() {
            rustix::fs::FileType::Directory => true,
            rustix::fs::FileType::Unknown | rustix::fs::FileType::Symlink => {
                path.join(OsStr::from_bytes(name.as_bytes())).is_dir()
            }
            _ => false,
        };
        entries.push(DirectoryEntry {
            name: name.to_owned(),
            is_directory,
        });
    }
    entries.sort();
    Ok(Output::Entries(entries))
}

fn volume(path: &Path) -> Completion {
    let found = rustix::fs::statvfs(path)?;
    Ok(Output::Volume(Volume {
        total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
        usable_bytes: found.f_bavail.saturating_mul(found.f_frsize),
    }))
}

fn sync_range(file: &File, position: u64, length: u64) -> Completion {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    let (position, length) = (position.cast_signed(), length.cast_signed());
    // SAFETY: a call on an open descriptor without pointers.
    let result = unsafe { libc::sync_file_range(file.0.fd().as_raw_fd(), position, length, flags) };
    if result == 0 {
        Ok(Output::Nothing)
    } else {
        Err(io::Error::last_os_error())
    }
}

fn write_durable(file: &File, buffers: Vec<AlignedBuffer>, position: u64) -> Completion {
    let mut position = position;
    let mut index = 0;
    let mut offset = 0;
    while index < buffers.len() {
        let slices: Vec<IoSlice<'_>> = buffers[index..]
            .iter()
            .take(IO_SLICES_MAX)
            .enumerate()
            .map(|(i, buffer)| IoSlice::new(if i == 0 { &buffer[offset..] } else { buffer }))
            .collect();
        match rustix::io::pwritev2(file.0.fd(), &slices, position, ReadWriteFlags::DSYNC) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(mut written) => {
                position += written as u64;
                while index < buffers.len() && written >= buffers[index].len() - offset {
                    written -= buffers[index].len() - offset;
                    offset = 0;
                    index += 1;
                }
                offset += written;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Output::Aligned(buffers))
}

fn read_file(path: &Path, limit: usize) -> Completion {
    let fd = open_descriptor(path, OpenMode::Read)?;
    let length = u64::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(0);
    let length = within(path, length, limit)?;
    read_at(fd.as_fd(), BytesMut::with_capacity(length), 0, length)
}

fn read_at(
    fd: BorrowedFd<'_>,
    mut buffer: BytesMut,
    mut position: u64,
    length: usize,
) -> Completion {
    let mut rest = length;
    while rest > 0 {
        let spare: &mut [MaybeUninit<u8>] = &mut buffer.spare_capacity_mut()[..rest];
        match rustix::io::pread(fd, spare, position) {
            Ok(([], _)) => break,
            Ok((read, _)) => {
                let count = read.len();
                // SAFETY: pread(2) has initialised `count` bytes of the spare capacity.
                unsafe { buffer.advance_mut(count) };
                position += count as u64;
                rest -= count;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Output::Buffer(buffer, length - rest))
}

/// Takes an exclusive lock on a file, created if missing, for as long as it is kept open
/// (flock(2)): what Kafka's `.lock` does. Blocking; for the start of the process.
///
/// # Errors
/// `WouldBlock` if another process holds the lock, else what open(2) answered.
pub fn lock_file(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::from(0o644))?;
    // Java's FileChannel.lock is an fcntl(2) record lock: take that one as well, so that a
    // running Apache Kafka and Ringlog keep each other out.
    rustix::fs::fcntl_lock(&fd, FlockOperation::NonBlockingLockExclusive)?;
    rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
    Ok(fd)
}

/// The cores that this process may run on, in ascending order (sched_getaffinity(2)).
pub fn usable_cores() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU)
            .filter(|core| set.is_set(*core))
            .collect(),
        Err(_) => vec![0],
    }
}

/// Pins the calling thread to one core (sched_setaffinity(2)).
///
/// # Errors
/// What sched_setaffinity answered, EINVAL for a core that is not there.
pub fn pin_to_core(core: usize) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Makes the process's table of descriptors large enough for `count`. The kernel doubles it as it fills,
/// and with several threads each doubling waits for all CPUs (fs/file.c, expand_fdtable): connections
/// that arrive meanwhile overrun the backlog and try again after a second. Before there are threads it
/// costs nothing.
///
/// # Errors
/// What dup(2) answered, EINVAL if `count` is above the limit of open files.
pub fn reserve_descriptors(count: u64) -> io::Result<()> {
    let last = count.saturating_sub(1);
    let last = i32::try_from(last).map_err(|_| io::ErrorKind::InvalidInput)?;
    let some = eventfd()?;
    drop(rustix::io::fcntl_dupfd_cloexec(&some, last)?);
    Ok(())
}

/// How many descriptors this process may open (getrlimit(2), RLIMIT_NOFILE, the soft limit).
pub fn open_file_limit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(u64::MAX)
}

/// Raises the soft limit of open files to the hard one and returns it.
pub fn raise_open_file_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Without the right to raise it the old limit stays, which is then what we report.
    let _ = setrlimit(Resource::Nofile, raised);
    open_file_limit()
}
