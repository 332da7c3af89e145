//! What all shards know of the broker: its configuration, its identity, its listeners.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use crate::config::{Advertised, BrokerConfig};

/// A bound listener.
#[derive(Clone, Debug)]
pub struct BoundListener {
    /// Its name, as `PLAINTEXT`.
    pub name: String,
    /// The address that was really bound.
    pub address: SocketAddr,
    /// What its clients are told.
    pub advertised: Advertised,
}

/// The broker, immutable but for the count of connections.
pub struct Broker {
    /// The configuration in force.
    pub config: BrokerConfig,
    /// Id of the cluster, from `meta.properties`.
    pub cluster_id: String,
    /// The bound listeners, in the order of the configuration.
    pub listeners: Vec<BoundListener>,
    /// Connections of all shards. A lock, taken once when a connection begins and once when it
    /// ends, never on a request.
    connections: Mutex<ConnectionCounts>,
}

#[derive(Default)]
struct ConnectionCounts {
    total: u32,
    by_address: BTreeMap<IpAddr, u32>,
}

impl Broker {
    /// A broker that listens.
    pub fn new(config: BrokerConfig, cluster_id: String, listeners: Vec<BoundListener>) -> Broker {
        Broker {
            config,
            cluster_id,
            listeners,
            connections: Mutex::default(),
        }
    }

    /// Counts a new connection, unless a limit is reached.
    ///
    /// # Errors
    /// The name of the key whose limit is reached.
    pub fn admit(&self, address: IpAddr) -> Result<(), &'static str> {
        let network = &self.config.network;
        let mut counts = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if counts.total >= network.connections_max {
            return Err("max.connections");
        }
        let of_address = counts.by_address.entry(address).or_default();
        if *of_address >= network.connections_per_ip_max {
            return Err("max.connections.per.ip");
        }
        *of_address += 1;
        counts.total += 1;
        Ok(())
    }

    /// A connection has ended.
    pub fn dismiss(&self, address: IpAddr) {
        let mut counts = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        counts.total = counts.total.saturating_sub(1);
        if let Some(of_address) = counts.by_address.get_mut(&address) {
            *of_address -= 1;
            if *of_address == 0 {
                counts.by_address.remove(&address);
            }
        }
    }

    /// Host and port that a client of this listener is told to connect to.
    pub fn advertised(&self, listener: usize, dialled: SocketAddr) -> (String, i32) {
        let bound = &self.listeners[listener];
        let host = match &bound.advertised.host {
            Some(host) => host.clone(),
            None => dialled.ip().to_canonical().to_string(),
        };
        let port = match bound.advertised.port {
            0 => bound.address.port(),
            port => port,
        };
        (host, i32::from(port))
    }
}
