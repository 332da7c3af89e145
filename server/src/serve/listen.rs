//! Binds the listeners, of the one node or of each shard.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use ringlog_engine::io::{self, Listener};

use crate::broker::BoundListener;
use crate::cli::port::{explain_port_taken, is_held};
use crate::config::BrokerConfig;

/// How long a port that no process holds is waited for, and how often it is tried.
const PORT_PATIENCE: Duration = Duration::from_secs(5);
const PORT_PAUSE: Duration = Duration::from_millis(2);
/// The listeners of each node that clients see.
pub(super) type Listeners = (Vec<Vec<Listener>>, Vec<Vec<BoundListener>>);

/// Binds all listeners of all nodes.
///
/// # Errors
/// What cannot be bound, and what to do.
pub(super) fn listen(config: &BrokerConfig) -> Result<Listeners, String> {
    let nodes = 0..u16::try_from(config.node_count()).unwrap_or(1);
    let listeners = nodes.map(|node| listen_as(config, node));
    let listeners: Result<Vec<_>, String> = listeners.collect();
    Ok(listeners?.into_iter().unzip())
}

/// The listeners of one node: ports are counted on, unless the system chooses.
fn listen_as(
    config: &BrokerConfig,
    node: u16,
) -> Result<(Vec<Listener>, Vec<BoundListener>), String> {
    let count_on = |port: u16| {
        if port == 0 {
            0
        } else {
            port.saturating_add(node)
        }
    };
    let mut listeners = Vec::new();
    let mut bound = Vec::new();
    for listener in &config.listeners {
        let mut end_point = listener.bind.clone();
        end_point.port = count_on(end_point.port);
        let address = resolve(&end_point.host, end_point.port)?;
        let backlog = i32::try_from(config.network.listen_backlog).unwrap_or(i32::MAX);
        let (socket, address) =
            listen_when_free(address, backlog).map_err(|error| match error.kind() {
                std::io::ErrorKind::AddrInUse => explain_port_taken(end_point.port),
                _ => format!(
                    "cannot listen on {end_point}: {error}\n   | give another address with \
                     --listen HOST:PORT or listeners"
                ),
            })?;
        listeners.push(socket);
        let mut advertised = listener.advertised.clone();
        advertised.port = count_on(advertised.port);
        let name = end_point.name;
        bound.push(BoundListener {
            name,
            address,
            advertised,
        });
    }
    Ok((listeners, bound))
}

/// Listens; waits a little for a port that nobody holds any more: after a broker was killed the
/// kernel takes its rings down, and with them its sockets, behind the end of the process.
fn listen_when_free(address: SocketAddr, backlog: i32) -> std::io::Result<(Listener, SocketAddr)> {
    let began = Instant::now();
    loop {
        match io::listen(address, backlog) {
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse
                    && began.elapsed() < PORT_PATIENCE
                    && !is_held(address.port()) =>
            {
                std::thread::sleep(PORT_PAUSE);
            }
            other => return other,
        }
    }
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr, String> {
    if host.is_empty() {
        return Ok(SocketAddr::from(([0, 0, 0, 0], port)));
    }
    let resolved = (host, port).to_socket_addrs();
    let mut addresses = resolved.map_err(|error| {
        format!("cannot resolve the listener's host '{host}': {error}\n   | give an address")
    })?;
    addresses
        .next()
        .ok_or_else(|| format!("the listener's host '{host}' has no address"))
}
