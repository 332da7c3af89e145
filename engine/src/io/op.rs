//! The operations of a driver: what is asked, and what comes back.
//!
//! An operation owns its buffers and handles from the submission to the completion, whatever
//! becomes of the future that waits for it: the kernel may write into them until then.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

use super::buffer::AlignedBuffer;
use super::sim;

/// Identifies an operation between its submission and its completion.
pub(crate) type Token = usize;

/// An open kernel object, or its double in the simulator.
#[derive(Debug)]
pub(crate) enum Handle {
    System(OwnedFd),
    Simulated(sim::Object),
}

impl Handle {
    /// The file descriptor; an operation on a simulated handle never reaches a real driver.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Handle::System(fd) => fd.as_fd(),
            Handle::Simulated(object) => panic!("{object:?} handed to a real driver"),
        }
    }
}

/// An open file. Clones share the descriptor, which is closed with the last of them.
#[derive(Clone, Debug)]
pub struct File(pub(crate) Arc<Handle>);

/// A connected stream socket. Clones share the descriptor.
#[derive(Clone, Debug)]
pub struct Socket(pub(crate) Arc<Handle>);

/// A listening socket; shards share one and accept from it each by itself.
#[derive(Clone, Debug)]
pub struct Listener(pub(crate) Arc<Handle>);

/// How a file is opened (open(2)). All files are opened with O_CLOEXEC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Must exist; read only.
    Read,
    /// Must exist; read and write.
    Write,
    /// Created if missing (mode 0644); read and write.
    Create,
    /// Must not exist; read and write.
    CreateNew,
    /// Created if missing; read and write with O_DIRECT where the file system has it. Writes go
    /// through [`super::Io::write_durable`] only.
    CreateDirect,
}

/// Operations on names and whole files, rare and possibly slow: the real drivers run them on a
/// helper thread, the simulator on its disk.
#[derive(Debug)]
pub(crate) enum FileOp {
    Open(PathBuf, OpenMode),
    Length(File),
    /// When the file was written last (fstat(2)).
    Modified(File),
    Truncate(File, u64),
    /// fallocate(2), mode 0: the length grows to at least the given one.
    Allocate(File, u64),
    /// fallocate(2), FALLOC_FL_KEEP_SIZE: blocks for so many bytes from a position on, the length stays.
    Reserve(File, u64, u64),
    Rename(PathBuf, PathBuf),
    RemoveFile(PathBuf),
    CreateDirectory(PathBuf),
    RemoveDirectory(PathBuf),
    ListDirectory(PathBuf),
    /// statvfs(3) of the file system that has the path.
    Volume(PathBuf),
    /// fsync(2) of a directory: makes its entries durable.
    SyncDirectory(PathBuf),
    SyncData(File),
    SyncRange(File, u64, u64),
    WriteDurable(File, Vec<AlignedBuffer>, u64),
    ReadAt(File, BytesMut, u64, usize),
    /// A whole file of at most so many bytes: open, fstat, pread and close in one job.
    ReadFile(PathBuf, usize),
}

/// Size of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Volume {
    /// All its bytes.
    pub total_bytes: u64,
    /// Bytes that an ordinary user may still write.
    pub usable_bytes: u64,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirectoryEntry {
    /// File name without its directory; names that are not UTF-8 are left out of a listing.
    pub name: String,
    /// Whether it is a directory.
    pub is_directory: bool,
}

#[derive(Debug)]
pub(crate) enum Op {
    Accept(Listener),
    /// Appends up to `limit` bytes to the buffer, within its spare capacity.
    Receive(Socket, BytesMut, usize),
    /// Sends all bytes of all buffers.
    Send(Socket, Vec<Bytes>),
    /// Ready when the socket takes bytes again.
    Writable(Socket),
    /// Simulator only; the real drivers compose it from sendfile(2) and `Writable`.
    SendFile(Socket, File, u64, u64),
    /// Writes all buffers at the position, through the page cache.
    WriteAt(File, Vec<Bytes>, u64),
    File(FileOp),
}

/// What an operation gives back. Every operation has one kind of output.
#[derive(Debug)]
pub(crate) enum Output {
    Nothing,
    Connection(Socket, SocketAddr),
    /// The buffer of a receive or a read; `usize` = bytes added, 0 at the end of the stream.
    Buffer(BytesMut, usize),
    Aligned(Vec<AlignedBuffer>),
    File(File),
    Length(u64),
    /// Wall clock in milliseconds since 1970.
    Time(i64),
    Entries(Vec<DirectoryEntry>),
    Volume(Volume),
}

pub(crate) type Completion = io::Result<Output>;
