//! The simulated driver: a seeded world of disk, network and clock in memory.

use std::io;
use std::net::SocketAddr;

use super::op::{Completion, Listener, Op, Socket, Token};
use crate::clock::Instant;

/// An object of the simulated world: a file, a socket, a listener.
#[derive(Debug)]
pub(crate) struct Object {}

/// The simulated world that shards live in.
#[derive(Clone, Debug)]
pub struct World {}

impl World {
    pub(crate) fn driver(&self) -> Driver {
        Driver {}
    }
}

/// One shard's side of the world.
pub(crate) struct Driver {}

impl Driver {
    /// Starts an operation; `Some` if it completed at once.
    pub(crate) fn start(&mut self, _token: Token, _op: Op) -> Option<Completion> {
        Some(Err(io::ErrorKind::Unsupported.into()))
    }

    /// The future of the operation was dropped. Returns whether it will never complete; if not, it
    /// completes later into nothing.
    pub(crate) fn cancel(&mut self, _token: Token) -> bool {
        true
    }

    /// Moves the completions that have happened for this shard to `completions`.
    pub(crate) fn take(&mut self, _completions: &mut Vec<(Token, Completion)>) {}

    /// Monotonic time and wall clock in milliseconds.
    pub(crate) fn clock(&self) -> (Instant, i64) {
        (Instant::default(), 0)
    }

    pub(crate) fn listen(&mut self, _address: SocketAddr) -> io::Result<(Listener, SocketAddr)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn local_address(&self, _socket: &Socket) -> io::Result<SocketAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn shutdown(&mut self, _socket: &Socket) {}
}
