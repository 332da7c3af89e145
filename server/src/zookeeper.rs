//! The embedded ZooKeeper service: a durable, single-node server of ZooKeeper's wire protocol.
//!
//! It runs on its own thread (control plane). A request's way: `connection` -> `server` ->
//! `processor` -> `tree`, `session`, `watch`; a change's: `server` -> `store`, and only then the
//! reply and the events. Everything but `server`, `connection` and `store` is pure. It is one node:
//! no ensemble, no observers, no reconfiguration, no TLS, no SASL, no time-to-live nodes; quotas
//! below `/zookeeper/quota` are kept and not counted.

pub mod acl;
pub mod config;
mod connection;
mod doors;
pub mod jute;
pub mod node;
pub mod path;
pub mod processor;
pub mod protocol;
mod server;
pub mod session;
pub mod store;
pub mod transaction;
pub mod tree;
pub mod watch;
pub mod words;

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use crate::logging;
use config::ZookeeperConfig;
use store::StoreError;
use tokio::sync::{oneshot, watch as stop};

/// Why the service did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ZookeeperError {
    /// Its address is not to be had.
    #[error(
        "ZooKeeper service: cannot listen on {address}: {error}\n   | is another ZooKeeper running \
         there? stop it (bin/zookeeper-server-stop.sh), or set another clientPort"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// Its data are not to be had.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system gives no thread or no runtime.
    #[error(
        "ZooKeeper service: no thread to run on: {0}\n   | raise the limits on processes and open files"
    )]
    Thread(io::Error),
    /// A fault of the program.
    #[error(
        "ZooKeeper service: it ended by a fault of the program\n   | report it with the lines above"
    )]
    Fault,
}

/// A running service. Dropping it stops it.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    own_address: SocketAddr,
    /// Until the others are let in.
    held: Option<Hold>,
    stop: stop::Sender<bool>,
    thread: Option<JoinHandle<Result<(), ZookeeperError>>>,
}

/// The other end of [`doors::Held`].
#[derive(Debug)]
struct Hold {
    release: Option<oneshot::Sender<()>>,
    settled: mpsc::Receiver<()>,
}

/// Starts the service; when it returns, clients can connect.
///
/// # Errors
/// What kept it from starting, where, and what to do.
pub fn start(config: ZookeeperConfig) -> Result<Running, ZookeeperError> {
    run(config, None, None)
}

/// Starts the service for this process alone, which comes by [`Running::own_address`]. Others wait for
/// [`Running::let_others_in`], and nothing is durable before.
///
/// # Errors
/// As [`start`].
pub fn start_held(config: ZookeeperConfig) -> Result<Running, ZookeeperError> {
    let (release, released) = oneshot::channel();
    let (done, settled) = mpsc::channel();
    let held = doors::Held {
        release: released,
        settled: done,
    };
    let release = Some(release);
    run(config, Some(held), Some(Hold { release, settled }))
}

fn run(
    config: ZookeeperConfig,
    held: Option<doors::Held>,
    hold: Option<Hold>,
) -> Result<Running, ZookeeperError> {
    let (stop, told) = stop::channel(false);
    let (ready, bound) = mpsc::channel();
    let body = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(ZookeeperError::Thread)?;
        let announce = move |address, own_address| {
            // The receiver waits for exactly this.
            let _ = ready.send((address, own_address));
        };
        runtime.block_on(server::run(config, held, announce, told))
    };
    let thread = thread::Builder::new()
        .name("zookeeper".to_owned())
        .spawn(body);
    let thread = thread.map_err(ZookeeperError::Thread)?;
    match bound.recv() {
        Ok((address, own_address)) => {
            logging::zookeeper_ready(&address.ip().to_string(), address.port());
            Ok(Running {
                address,
                own_address,
                held: hold,
                stop,
                thread: Some(thread),
            })
        }
        // It ended before it was ready.
        Err(_) => Err(join(thread).err().unwrap_or(ZookeeperError::Fault)),
    }
}

fn join(thread: JoinHandle<Result<(), ZookeeperError>>) -> Result<(), ZookeeperError> {
    thread.join().unwrap_or(Err(ZookeeperError::Fault))
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where this process reaches it, before all others.
    #[must_use]
    pub fn own_address(&self) -> SocketAddr {
        self.own_address
    }

    /// Makes what this process has done durable, and lets others in then; does not wait for either.
    pub fn let_others_in(&mut self) {
        if let Some(release) = self.held.as_mut().and_then(|hold| hold.release.take()) {
            // If it has ended, who waits for it learns that.
            let _ = release.send(());
        }
    }

    /// Waits until what was done before [`Running::let_others_in`] is durable.
    ///
    /// # Errors
    /// What has ended the service.
    pub fn wait_until_durable(&mut self) -> Result<(), ZookeeperError> {
        let Some(hold) = self.held.take() else {
            return Ok(());
        };
        match hold.settled.recv() {
            Ok(()) => Ok(()),
            Err(_) => {
                let ended = self.thread.take().map_or(Ok(()), join);
                Err(ended.err().unwrap_or(ZookeeperError::Fault))
            }
        }
    }

    /// Whether it has ended by itself; [`Running::wait`] then says why.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops it. Sessions live on: clients may come back to them after the next start.
    ///
    /// # Errors
    /// What had ended it before, or kept its last changes from the disk.
    pub fn stop(self) -> Result<(), ZookeeperError> {
        self.stop.send_replace(true);
        self.wait()
    }

    /// Waits until it ends: by a signal, if it was configured so, or by a failure.
    ///
    /// # Errors
    /// What ended it.
    pub fn wait(mut self) -> Result<(), ZookeeperError> {
        self.thread.take().map_or(Ok(()), join)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.stop.send_replace(true);
            let _ = join(thread);
        }
    }
}
