//! What all shards know of the broker: its configuration, its identity, its listeners.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use crate::config::{Advertised, BrokerConfig};
use crate::room::Room;

/// File handles that are for neither logs nor clients: rings, journals, ZooKeeper, checkpoint files,
/// HTTP; so many and this part of all.
const HANDLES_BESIDE: u64 = 64;
const HANDLES_BESIDE_PART: u64 = 20;

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

/// The broker, immutable but for the connections, their count and limits, and the room on its disks.
pub struct Broker {
    /// The configuration of the start. What was changed since stands in the metadata image.
    pub config: BrokerConfig,
    /// Id of the cluster, from `meta.properties`.
    pub cluster_id: String,
    /// The brokers that clients see ([`BrokerConfig::node_of`]), each with its bound listeners in the
    /// order of the configuration.
    pub nodes: Vec<Vec<BoundListener>>,
    /// Where all of them are.
    pub rack: Option<String>,
    /// How much room its directories have.
    pub room: Room,
    /// Connections of all shards. A lock, taken once when a connection begins and once when it
    /// ends, never on a request.
    connections: Mutex<ConnectionCounts>,
}

struct ConnectionCounts {
    total: u32,
    by_address: BTreeMap<IpAddr, u32>,
    /// `max.connections`.
    max: u32,
    /// `max.connections.per.ip`.
    per_ip_max: u32,
    /// For which there are file handles.
    handles: u32,
}

impl Broker {
    /// A broker that listens, as one node or more.
    pub fn new(config: BrokerConfig, cluster_id: String, nodes: Vec<Vec<BoundListener>>) -> Broker {
        let counts = ConnectionCounts {
            total: 0,
            by_address: BTreeMap::new(),
            max: config.network.connections_max,
            per_ip_max: config.network.connections_per_ip_max,
            handles: u32::MAX,
        };
        Broker {
            room: Room::new(&config),
            rack: rack(&config),
            config,
            cluster_id,
            nodes,
            connections: Mutex::new(counts),
        }
    }

    /// Changes the limits; connections that there are stay.
    pub fn limit_connections(&self, max: u32, per_ip_max: u32) {
        let mut counts = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (counts.max, counts.per_ip_max) = (max, per_ip_max);
    }

    /// Leaves connections what logs and everything else do not need of the file handles that the process
    /// may have: more connections must not keep a segment from being opened.
    pub fn share_handles(&self, handles: u64) {
        let files = self.config.ringlog.open_files_max as u64;
        let rest = HANDLES_BESIDE + handles / HANDLES_BESIDE_PART;
        let left = handles.saturating_sub(files + rest).max(1);
        let mut counts = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        counts.handles = u32::try_from(left).unwrap_or(u32::MAX);
    }

    /// Counts a new connection, unless a limit is reached.
    ///
    /// # Errors
    /// The name of the key whose limit is reached.
    pub fn admit(&self, address: IpAddr) -> Result<(), &'static str> {
        let mut counts = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if counts.total >= counts.max {
            return Err("max.connections");
        }
        if counts.total >= counts.handles {
            return Err("ulimit -n (less ringlog.open.files.max, which logs need)");
        }
        let per_ip_max = counts.per_ip_max;
        let of_address = counts.by_address.entry(address).or_default();
        if *of_address >= per_ip_max {
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

    /// What a client of this listener is told of all nodes.
    pub fn nodes_for(&self, listener: usize, dialled: SocketAddr) -> Vec<Node> {
        let shards = 0..self.nodes.len();
        shards
            .map(|shard| self.node_for(shard, listener, dialled))
            .collect()
    }

    /// What a client of this listener is told of the node of a shard.
    pub fn node_for(&self, shard: usize, listener: usize, dialled: SocketAddr) -> Node {
        let index = shard.min(self.nodes.len() - 1);
        let (host, port) = advertised(&self.nodes[index][listener], dialled);
        Node {
            id: self.config.node_of(shard),
            host,
            port,
            rack: self.rack.clone(),
        }
    }
}

/// The rack of all nodes. Shards that are brokers are in one, their machine, if nothing else is said:
/// replicas on two of them would be lost together.
pub fn rack(config: &BrokerConfig) -> Option<String> {
    let machine = || {
        let uname = rustix::system::uname();
        uname.nodename().to_string_lossy().into_owned()
    };
    let set = config.settings.text("broker.rack");
    set.or_else(|| config.ringlog.shards_as_brokers.then(machine))
}

/// A node as clients are told of it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its id.
    pub id: i32,
    /// Where to connect to.
    pub host: String,
    /// Where to connect to.
    pub port: i32,
    /// Its rack.
    pub rack: Option<String>,
}

/// Host and port that a client of this listener is told to connect to.
fn advertised(bound: &BoundListener, dialled: SocketAddr) -> (String, i32) {
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
