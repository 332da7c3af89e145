//! A small blocking Kafka client, for the command line tools.
//!
//! One thread, one connection per broker, versions negotiated with ApiVersions, so that it works
//! with any Kafka from 0.10 on, not only with this broker. Invariants: every wait has a deadline;
//! an answer is never trusted with an allocation (a frame is bounded by [`FRAME_BYTES_MAX`]).
//! Deliberately no TLS, no SASL, no background threads: the tools live for milliseconds.

pub mod admin;
pub mod connection;
pub mod consumer;
pub mod error;
pub mod error_text;
pub mod group;
pub mod partitioner;
pub mod producer;

use std::collections::BTreeMap;
use std::net::ToSocketAddrs;
use std::thread;
use std::time::{Duration, Instant};

use kafka_protocol::messages::{
    FindCoordinatorRequest, ListOffsetsRequest, MetadataRequest, TopicName,
    list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
    metadata_request::MetadataRequestTopic,
    metadata_response::{MetadataResponse, MetadataResponseTopic},
};
use kafka_protocol::protocol::{Request, StrBytes};

use connection::Connection;
pub use error::{ClientError, check, code};

/// Longest answer taken: twice what a broker sends for a fetch by default.
pub const FRAME_BYTES_MAX: usize = 128 << 20;

/// How long to look for a broker before giving up.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How long one answer may take; requests with a time of their own add it.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A broker of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    /// Its id; below 0 for an address of the bootstrap list.
    pub id: i32,
    /// Host to dial.
    pub host: String,
    /// Port to dial.
    pub port: u16,
    /// Its rack.
    pub rack: Option<String>,
}

impl Node {
    /// `host:port`
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// A partition, in Kafka's order: by topic, then by number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
}

impl TopicPartition {
    /// A partition of `topic`.
    #[must_use]
    pub fn new(topic: &str, partition: i32) -> Self {
        Self {
            topic: topic.to_owned(),
            partition,
        }
    }
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// ListOffsets' special timestamps (Kafka: `ListOffsetsRequest.java`).
pub const LATEST: i64 = -1;
/// The log start offset.
pub const EARLIEST: i64 = -2;

/// A string of the protocol.
#[must_use]
pub fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

/// A topic name of the protocol.
#[must_use]
pub fn topic_name(value: &str) -> TopicName {
    TopicName(text(value))
}

/// A client of one cluster.
#[derive(Debug)]
pub struct Client {
    bootstrap: String,
    client_id: String,
    seeds: Vec<Node>,
    connections: BTreeMap<i32, Connection>,
    metadata: Option<MetadataResponse>,
}

impl Client {
    /// Finds a broker of the list `host:port,host:port`; tries for ten seconds.
    ///
    /// # Errors
    /// If an address is malformed or nothing answers.
    pub fn connect(bootstrap: &str, client_id: &str) -> Result<Self, ClientError> {
        let mut client = Self {
            bootstrap: bootstrap.to_owned(),
            client_id: client_id.to_owned(),
            seeds: parse_bootstrap(bootstrap)?,
            connections: BTreeMap::new(),
            metadata: None,
        };
        client.dial_any()?;
        Ok(client)
    }

    /// Dials the seeds until one answers. A broker that is just starting is worth a wait, a name
    /// that does not resolve is not.
    fn dial_any(&mut self) -> Result<(), ClientError> {
        let deadline = Instant::now() + CONNECT_DEADLINE;
        let mut has_told = false;
        loop {
            let mut reason = String::new();
            for seed in self.seeds.clone() {
                match Connection::dial(&seed, &self.client_id) {
                    Ok(connection) => {
                        self.connections.insert(seed.id, connection);
                        return Ok(());
                    }
                    Err(ClientError::Connection { what, .. }) => reason = what,
                    Err(error) => return Err(error),
                }
            }
            let is_hopeless = !self.seeds.iter().any(resolves);
            if is_hopeless || Instant::now() >= deadline {
                return Err(ClientError::NothingAnswers {
                    address: self.bootstrap.clone(),
                    reason,
                });
            }
            if !has_told {
                has_told = true;
                let seconds = CONNECT_DEADLINE.as_secs();
                eprintln!(
                    "nothing answers at {} yet ({reason}); trying for {seconds} s",
                    self.bootstrap
                );
            }
            thread::sleep(RETRY_PAUSE);
        }
    }

    /// The bootstrap list as given.
    #[must_use]
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// The connection to any broker.
    fn any(&mut self) -> Result<&mut Connection, ClientError> {
        if self.connections.is_empty() {
            self.dial_any()?;
        }
        let Some(connection) = self.connections.values_mut().next() else {
            return Err(ClientError::BadAddress(self.bootstrap.clone()));
        };
        Ok(connection)
    }

    /// The connection to one broker, dialled at need.
    ///
    /// # Errors
    /// If it is not in the metadata or cannot be reached.
    pub fn node(&mut self, id: i32) -> Result<&mut Connection, ClientError> {
        if !self.connections.contains_key(&id) {
            let node = self.nodes()?.into_iter().find(|node| node.id == id);
            let Some(node) = node else {
                return Err(ClientError::Connection {
                    address: format!("broker {id}"),
                    what: "is not among the live brokers".to_owned(),
                });
            };
            let connection =
                Connection::dial(&node, &self.client_id).map_err(|error| match error {
                    ClientError::Connection { address, what } => ClientError::Connection {
                        address,
                        what: format!(
                            "{what}\n   | broker {id} advertises this address: check \
                             advertised.listeners in its server.properties"
                        ),
                    },
                    other => other,
                })?;
            self.connections.insert(id, connection);
        }
        match self.connections.get_mut(&id) {
            Some(connection) => Ok(connection),
            None => Err(ClientError::BadAddress(format!("broker {id}"))),
        }
    }

    /// Calls any broker.
    ///
    /// # Errors
    /// If the connection breaks or the version is not supported.
    pub fn call<R: Request>(&mut self, request: &R) -> Result<R::Response, ClientError> {
        let result = self.any()?.call(request, REQUEST_TIMEOUT);
        self.forget_broken();
        result
    }

    /// Calls the broker `id`.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn call_node<R: Request>(
        &mut self,
        id: i32,
        request: &R,
    ) -> Result<R::Response, ClientError> {
        let result = self.node(id)?.call(request, REQUEST_TIMEOUT);
        self.forget_broken();
        result
    }

    /// Calls the controller; to an old broker that does not say who it is, any.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn call_controller<R: Request>(&mut self, request: &R) -> Result<R::Response, ClientError> {
        let metadata = self.metadata(Some(&[]))?;
        match metadata.controller_id.0 {
            id if id >= 0 => self.call_node(id, request),
            _ => self.call(request),
        }
    }

    fn forget_broken(&mut self) {
        self.connections
            .retain(|_, connection| connection.is_usable());
    }

    /// Forgets what is known of leaders.
    pub fn invalidate(&mut self) {
        self.metadata = None;
    }

    /// Metadata of the named topics; of all with `None`, of none with an empty list.
    ///
    /// # Errors
    /// As [`call`](Self::call); errors of topics stand in the answer.
    pub fn metadata(&mut self, topics: Option<&[String]>) -> Result<MetadataResponse, ClientError> {
        self.fetch_metadata(topics, false)
    }

    fn fetch_metadata(
        &mut self,
        topics: Option<&[String]>,
        auto_create: bool,
    ) -> Result<MetadataResponse, ClientError> {
        let mut request = MetadataRequest::default().with_allow_auto_topic_creation(auto_create);
        request.topics = topics.map(|topics| {
            let names = topics.iter();
            names
                .map(|name| MetadataRequestTopic::default().with_name(Some(topic_name(name))))
                .collect()
        });
        // Version 0 says "all" with an empty list.
        let is_none = topics.is_some_and(<[String]>::is_empty);
        let version = self.any()?.version::<MetadataRequest>()?;
        if topics.is_none() && version == 0 {
            request.topics = Some(Vec::new());
        }
        let mut answer = self.call(&request)?;
        if is_none && version == 0 {
            answer.topics.clear();
        }
        let mut kept = answer.clone();
        if let Some(old) = self.metadata.take() {
            let named: Vec<_> = answer
                .topics
                .iter()
                .map(|topic| topic.name.clone())
                .collect();
            let others = old.topics.into_iter();
            kept.topics
                .extend(others.filter(|topic| !named.contains(&topic.name)));
        }
        self.metadata = Some(kept);
        Ok(answer)
    }

    /// The live brokers, by id.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn nodes(&mut self) -> Result<Vec<Node>, ClientError> {
        if self.metadata.is_none() {
            self.metadata(Some(&[]))?;
        }
        let brokers = self.metadata.iter().flat_map(|metadata| &metadata.brokers);
        let mut nodes: Vec<_> = brokers
            .map(|broker| Node {
                id: broker.node_id.0,
                host: broker.host.to_string(),
                port: u16::try_from(broker.port).unwrap_or(0),
                rack: broker.rack.as_ref().map(ToString::to_string),
            })
            .collect();
        nodes.sort();
        Ok(nodes)
    }

    /// Waits until every partition of the topic has a leader, creating it if the broker may.
    ///
    /// # Errors
    /// The topic's error once the patience is over.
    pub fn await_topic(
        &mut self,
        topic: &str,
        auto_create: bool,
        patience: Duration,
    ) -> Result<MetadataResponseTopic, ClientError> {
        let deadline = Instant::now() + patience;
        let names = [topic.to_owned()];
        loop {
            let answer = self.fetch_metadata(Some(&names), auto_create)?;
            let Some(found) = answer.topics.into_iter().next() else {
                return Err(ClientError::kafka(code::UNKNOWN_TOPIC_OR_PARTITION, None));
            };
            let error = match found.error_code {
                0 => found
                    .partitions
                    .iter()
                    .find(|partition| partition.leader_id.0 < 0)
                    .map_or(0, |_| code::LEADER_NOT_AVAILABLE),
                other => other,
            };
            let is_worth_a_wait = error == code::LEADER_NOT_AVAILABLE
                || (auto_create && error == code::UNKNOWN_TOPIC_OR_PARTITION);
            match error {
                0 => return Ok(found),
                _ if is_worth_a_wait && Instant::now() < deadline => thread::sleep(RETRY_PAUSE),
                _ => return Err(ClientError::kafka(error, None)),
            }
        }
    }

    /// The leader of a partition, from what is known or asked anew.
    ///
    /// # Errors
    /// If the partition does not exist or has no leader.
    pub fn leader(&mut self, partition: &TopicPartition) -> Result<i32, ClientError> {
        if let Some(leader) = self.known_leader(partition) {
            return Ok(leader);
        }
        self.await_topic(&partition.topic, false, REQUEST_TIMEOUT)?;
        match self.known_leader(partition) {
            Some(leader) => Ok(leader),
            None => Err(ClientError::kafka(code::UNKNOWN_TOPIC_OR_PARTITION, None)),
        }
    }

    fn known_leader(&self, partition: &TopicPartition) -> Option<i32> {
        let topics = &self.metadata.as_ref()?.topics;
        let topic = topics.iter().find(|topic| {
            topic.error_code == 0
                && topic
                    .name
                    .as_ref()
                    .is_some_and(|name| name.0.as_str() == partition.topic)
        })?;
        let found = topic
            .partitions
            .iter()
            .find(|found| found.partition_index == partition.partition)?;
        (found.leader_id.0 >= 0).then_some(found.leader_id.0)
    }

    /// The id a topic has in the metadata known; zero if none.
    #[must_use]
    pub fn known_topic_id(&self, name: &str) -> uuid::Uuid {
        let topics = self.metadata.iter().flat_map(|metadata| &metadata.topics);
        let mut topics = topics.filter(|topic| {
            topic
                .name
                .as_ref()
                .is_some_and(|found| found.0.as_str() == name)
        });
        topics
            .next()
            .map(|topic| topic.topic_id)
            .unwrap_or_default()
    }

    /// The broker that coordinates a group.
    ///
    /// # Errors
    /// The coordinator's error once the patience (for a broker that just starts) is over.
    pub fn coordinator(&mut self, group: &str) -> Result<Node, ClientError> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        loop {
            let version = self.any()?.version::<FindCoordinatorRequest>()?;
            let request = if version >= 4 {
                FindCoordinatorRequest::default().with_coordinator_keys(vec![text(group)])
            } else {
                FindCoordinatorRequest::default().with_key(text(group))
            };
            let answer = self.call(&request)?;
            let (error, node) = match answer.coordinators.into_iter().next() {
                Some(found) => (found.error_code, (found.node_id, found.host, found.port)),
                None => (
                    answer.error_code,
                    (answer.node_id, answer.host, answer.port),
                ),
            };
            match error {
                0 => {
                    return Ok(Node {
                        id: node.0.0,
                        host: node.1.to_string(),
                        port: u16::try_from(node.2).unwrap_or(0),
                        rack: None,
                    });
                }
                code::COORDINATOR_NOT_AVAILABLE | code::COORDINATOR_LOAD_IN_PROGRESS
                    if Instant::now() < deadline =>
                {
                    thread::sleep(RETRY_PAUSE);
                }
                _ => return Err(ClientError::kafka(error, None)),
            }
        }
    }

    /// Calls a group's coordinator.
    ///
    /// # Errors
    /// As [`call`](Self::call) and [`coordinator`](Self::coordinator).
    pub fn call_coordinator<R: Request>(
        &mut self,
        group: &str,
        request: &R,
    ) -> Result<R::Response, ClientError> {
        let id = self.coordinator(group)?.id;
        self.call_node(id, request)
    }

    /// The offsets of `timestamp` (or [`LATEST`], [`EARLIEST`], ..), -1 where there is none, with
    /// Kafka's error per partition.
    ///
    /// # Errors
    /// If a broker cannot be reached.
    pub fn list_offsets(
        &mut self,
        partitions: &[TopicPartition],
        timestamp: i64,
    ) -> Result<BTreeMap<TopicPartition, Result<i64, ClientError>>, ClientError> {
        let mut found = BTreeMap::new();
        let mut by_leader: BTreeMap<i32, Vec<&TopicPartition>> = BTreeMap::new();
        for partition in partitions {
            match self.leader(partition) {
                Ok(leader) => by_leader.entry(leader).or_default().push(partition),
                Err(error @ ClientError::Kafka { .. }) => {
                    found.insert(partition.clone(), Err(error));
                }
                Err(error) => return Err(error),
            }
        }
        for (leader, partitions) in by_leader {
            let version = self.node(leader)?.version::<ListOffsetsRequest>()?;
            let mut topics: Vec<ListOffsetsTopic> = Vec::new();
            for partition in partitions {
                let entry = ListOffsetsPartition::default()
                    .with_partition_index(partition.partition)
                    .with_current_leader_epoch(-1)
                    .with_max_num_offsets(1)
                    .with_timestamp(timestamp);
                let name = topic_name(&partition.topic);
                match topics.last_mut().filter(|topic| topic.name == name) {
                    Some(topic) => topic.partitions.push(entry),
                    None => topics.push(
                        ListOffsetsTopic::default()
                            .with_name(name)
                            .with_partitions(vec![entry]),
                    ),
                }
            }
            let request = ListOffsetsRequest::default()
                .with_replica_id((-1).into())
                .with_topics(topics);
            for topic in self.call_node(leader, &request)?.topics {
                for answer in topic.partitions {
                    let partition =
                        TopicPartition::new(topic.name.0.as_str(), answer.partition_index);
                    let offset = match version {
                        0 => answer.old_style_offsets.first().copied().unwrap_or(-1),
                        _ => answer.offset,
                    };
                    let result = check(answer.error_code, None).map(|()| offset);
                    found.insert(partition, result);
                }
            }
        }
        Ok(found)
    }
}

fn resolves(node: &Node) -> bool {
    (node.host.as_str(), node.port)
        .to_socket_addrs()
        .is_ok_and(|mut found| found.next().is_some())
}

/// `host:port,[v6]:port,PLAINTEXT://host:port`, negative ids as Kafka's clients give them.
fn parse_bootstrap(list: &str) -> Result<Vec<Node>, ClientError> {
    let bad = || ClientError::BadAddress(list.to_owned());
    let mut seeds = Vec::new();
    for (index, address) in list.split(',').map(str::trim).enumerate() {
        if address.is_empty() {
            continue;
        }
        let address = address.split_once("://").map_or(address, |(_, rest)| rest);
        let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.parse().map_err(|_| bad())?;
        if host.is_empty() {
            return Err(bad());
        }
        let id = i32::try_from(index).map_err(|_| bad())?;
        seeds.push(Node {
            id: -1 - id,
            host: host.to_owned(),
            port,
            rack: None,
        });
    }
    if seeds.is_empty() {
        return Err(bad());
    }
    Ok(seeds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bootstrap_lists_take_all_spellings() {
        let seeds = parse_bootstrap("a:1, PLAINTEXT://b:2,[::1]:3").unwrap();
        let found: Vec<_> = seeds
            .iter()
            .map(|n| (n.id, n.host.as_str(), n.port))
            .collect();
        assert_eq!(found, [(-1, "a", 1), (-2, "b", 2), (-3, "::1", 3)]);
        for bad in ["", "a", "a:x", ":1", "a:70000"] {
            assert!(parse_bootstrap(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn errors_carry_the_brokers_message_or_kafkas_text() {
        let told = ClientError::kafka(36, Some("Topic 'a' already exists."));
        assert_eq!(told.to_string(), "Topic 'a' already exists.");
        let text = ClientError::kafka(3, None).to_string();
        assert_eq!(text, "This server does not host this topic-partition.");
    }
}
