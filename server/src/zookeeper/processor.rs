//! From requests to replies: the tree, the sessions and the watches put together. Pure: time and
//! passwords are passed in, packets to send come out.
//!
//! Invariants: replies of a connection are in the order of its requests; an event comes before
//! every reply that shows its change, as both leave through one queue; a zxid is used by exactly
//! one transaction that changed something, and replies carry the newest. What comes out may be
//! sent only when what [`Processor::is_dirty`] tells of is durable.

mod look;

use std::collections::BTreeMap;
use std::net::IpAddr;

use bytes::Bytes;

use super::acl::{self, Id};
use super::jute::{JuteError, Reader, Writer};
use super::node::Node;
use super::path;
use super::protocol::{
    self, ConnectRequest, ErrorCode, EventType, NO_ZXID, PING_XID, Read, Request, WatchLists, op,
};
use super::session::{Password, Sessions};
use super::transaction::{Change, Context, Event, Operation, Outcome, Refused};
use super::tree::Tree;
use super::watch::{ConnectionId, Mode, WatchLimits, Watches};

/// Ids one connection may prove; more are refused.
const IDS_MAX: usize = 64;

/// The time, read once per packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// From an arbitrary start, never backwards: for timeouts.
    pub monotonic_ms: u64,
    /// Of the calendar: for `ctime` and `mtime`.
    pub wall_ms: i64,
}

/// What is to be done on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this answer to a request.
    Reply(ConnectionId, Bytes),
    /// Send this event.
    Event(ConnectionId, Bytes),
    /// Close it behind what was sent.
    Close(ConnectionId),
}

/// The numbers a processor keeps to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Shortest session timeout.
    pub timeout_ms_min: u32,
    /// Longest session timeout.
    pub timeout_ms_max: u32,
    /// Most sessions.
    pub sessions_max: usize,
    /// Longest reply to a multiRead; there one request can ask for a node many times.
    pub multi_read_bytes_max: usize,
    /// Of watches.
    pub watches: WatchLimits,
}

/// Why a connection gets no session and no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The first packet is no connect request.
    #[error("the first packet is no ZooKeeper connect request: {0}")]
    Malformed(#[from] JuteError),
    /// The client has seen more than this server has.
    #[error(
        "the client has seen zxid 0x{seen:x}, but the last one here is 0x{last:x}: it comes from \
         another ZooKeeper, or this one lost its data"
    )]
    Ahead {
        /// By the client.
        seen: i64,
        /// Here.
        last: i64,
    },
    /// No room for another session.
    #[error("there are {0} sessions already")]
    TooMany(usize),
}

/// A request that was answered; for the statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Its operation number.
    pub number: i32,
    /// The client's number of it.
    pub xid: i32,
}

struct Client {
    session: i64,
    ids: Vec<Id>,
}

/// The service without its sockets and its disk.
pub struct Processor {
    tree: Tree,
    sessions: Sessions,
    watches: Watches,
    clients: BTreeMap<ConnectionId, Client>,
    outputs: Vec<Output>,
    last_zxid: i64,
    limits: Limits,
}

impl Processor {
    /// A processor of what was stored.
    #[must_use]
    pub fn new(tree: Tree, sessions: Sessions, last_zxid: i64, limits: Limits) -> Self {
        Self {
            tree,
            sessions,
            watches: Watches::new(limits.watches),
            clients: BTreeMap::new(),
            outputs: Vec::new(),
            last_zxid,
            limits,
        }
    }

    /// The tree, to look at.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The sessions, to look at.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The watches, to look at.
    #[must_use]
    pub fn watches(&self) -> &Watches {
        &self.watches
    }

    /// The last transaction.
    #[must_use]
    pub fn last_zxid(&self) -> i64 {
        self.last_zxid
    }

    /// The session of a connection.
    #[must_use]
    pub fn session_of(&self, connection: ConnectionId) -> Option<i64> {
        self.clients.get(&connection).map(|client| client.session)
    }

    /// Whether something changed that is not stored.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.tree.is_changed() || self.sessions.is_changed()
    }

    /// What changed, to be stored; it counts as stored from now on.
    pub fn take_changed(&mut self) -> (i64, &mut Tree, &mut Sessions) {
        (self.last_zxid, &mut self.tree, &mut self.sessions)
    }

    /// What is to be sent, in order.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// Opens a session, or attaches the one the client had. `password` is for a new one.
    ///
    /// # Errors
    /// The connection is to be closed without an answer.
    pub fn connect(
        &mut self,
        connection: ConnectionId,
        address: IpAddr,
        record: &[u8],
        password: Password,
        now: Now,
    ) -> Result<(), ConnectError> {
        let request = ConnectRequest::decode(record)?;
        if request.last_zxid_seen > self.last_zxid {
            let (seen, last) = (request.last_zxid_seen, self.last_zxid);
            return Err(ConnectError::Ahead { seen, last });
        }
        let wanted = u32::try_from(request.timeout_ms).unwrap_or(0);
        let timeout_ms = wanted.clamp(self.limits.timeout_ms_min, self.limits.timeout_ms_max);
        let session = if request.session == 0 {
            if self.sessions.len() >= self.limits.sessions_max {
                return Err(ConnectError::TooMany(self.sessions.len()));
            }
            self.last_zxid += 1;
            self.sessions.open(password, timeout_ms, now.monotonic_ms)
        } else {
            request.session
        };
        let known = self.sessions.get(session).map(|session| session.password);
        let is_new = request.session == 0;
        let Some(password) = known.filter(|known| is_new || *known == request.password) else {
            // Session 0 with timeout 0 tells the client that its session has expired.
            let expired = protocol::connect_response(0, 0, &[0; 16], request.has_read_only);
            self.outputs.push(Output::Reply(connection, expired));
            self.outputs.push(Output::Close(connection));
            return Ok(());
        };
        if let Some(before) = self.sessions.attach(session, connection, timeout_ms) {
            self.forget(before);
            self.outputs.push(Output::Close(before));
        }
        self.sessions.touch(session, now.monotonic_ms);
        let ids = vec![Id::new("ip", &address.to_string())];
        self.clients.insert(connection, Client { session, ids });
        let response =
            protocol::connect_response(timeout_ms, session, &password, request.has_read_only);
        self.outputs.push(Output::Reply(connection, response));
        Ok(())
    }

    /// Answers a request. Nothing is to be done for a connection that is being closed; a packet
    /// without a whole header closes it.
    pub fn request(&mut self, connection: ConnectionId, packet: &[u8], now: Now) -> Option<Done> {
        let session = self.clients.get(&connection)?.session;
        self.sessions.touch(session, now.monotonic_ms);
        let mut reader = Reader::new(packet);
        let (Ok(xid), Ok(number)) = (reader.i32(), reader.i32()) else {
            self.close(connection);
            return None;
        };
        let record = packet.get(8..).unwrap_or_default();
        match Request::decode(number, record) {
            Ok(request) => self.handle(connection, xid, request, now),
            Err(code) => {
                self.reply(connection, xid, Err(code));
                if number == op::AUTH || number == op::SASL {
                    self.close(connection);
                }
            }
        }
        Some(Done { number, xid })
    }

    /// The connection is gone. Its session lives on until it expires.
    pub fn disconnect(&mut self, connection: ConnectionId) {
        if let Some(session) = self.session_of(connection) {
            self.sessions.detach(session, connection);
        }
        self.forget(connection);
    }

    /// Ends the sessions whose time is over; gives them with their timeouts.
    pub fn expire(&mut self, now: Now) -> Vec<(i64, u32)> {
        let expired = self.sessions.expired(now.monotonic_ms);
        let end = |session: i64| {
            let timeout_ms = self.sessions.get(session)?.timeout_ms;
            if let Some(connection) = self.end_session(session) {
                self.close(connection);
            }
            Some((session, timeout_ms))
        };
        expired.into_iter().filter_map(end).collect()
    }

    /// Gives all sessions their whole timeout again; see [`Sessions::touch_all`].
    pub fn touch_all(&mut self, now: Now) {
        self.sessions.touch_all(now.monotonic_ms);
    }

    /// Deletes containers that lost their last child (`ContainerManager`).
    pub fn delete_empty_containers(&mut self) {
        for path in self.tree.empty_containers() {
            self.last_zxid += 1;
            let events = self.tree.delete_container(&path, self.last_zxid);
            self.publish(events);
        }
    }

    fn forget(&mut self, connection: ConnectionId) {
        self.clients.remove(&connection);
        self.watches.remove_connection(connection);
    }

    fn close(&mut self, connection: ConnectionId) {
        self.disconnect(connection);
        self.outputs.push(Output::Close(connection));
    }

    /// Ends a session and gives the connection it was attached to.
    fn end_session(&mut self, session: i64) -> Option<ConnectionId> {
        self.last_zxid += 1;
        let events = self.tree.end_session(session, self.last_zxid);
        let connection = self
            .sessions
            .close(session)
            .and_then(|session| session.connection);
        self.publish(events);
        connection
    }

    fn handle(&mut self, connection: ConnectionId, xid: i32, request: Request<'_>, now: Now) {
        match request {
            Request::Ping => self.reply(connection, PING_XID, Ok(Writer::new())),
            Request::CloseSession => {
                if let Some(session) = self.session_of(connection) {
                    self.end_session(session);
                }
                self.reply(connection, xid, Ok(Writer::new()));
                self.close(connection);
            }
            Request::Auth(scheme, credentials) => {
                self.authenticate(connection, xid, scheme, credentials);
            }
            Request::Unknown => {
                self.reply(connection, xid, Err(ErrorCode::Unimplemented));
                self.close(connection);
            }
            Request::Write(number, operation) => {
                let result = self.write(connection, number, operation, now);
                self.reply(connection, xid, result);
            }
            Request::Multi(numbers, operations) => {
                let record = self.multi(connection, &numbers, &operations, now);
                self.reply(connection, xid, Ok(record));
            }
            Request::SetWatches(lists) => {
                let result = self.set_watches(connection, &lists);
                self.reply(connection, xid, result.map(|()| Writer::new()));
            }
            read => {
                let result = self.look(connection, read);
                self.reply(connection, xid, result);
            }
        }
    }

    fn reply(&mut self, connection: ConnectionId, xid: i32, result: Result<Writer, ErrorCode>) {
        let mut packet =
            protocol::reply_header(xid, self.last_zxid, result.as_ref().err().copied());
        if let Ok(record) = result {
            packet.append(&record);
        }
        self.outputs
            .push(Output::Reply(connection, packet.into_packet().into()));
    }

    fn authenticate(
        &mut self,
        connection: ConnectionId,
        xid: i32,
        scheme: &str,
        credentials: &[u8],
    ) {
        let client = self.clients.get_mut(&connection);
        let id = match scheme {
            "digest" => std::str::from_utf8(credentials).ok().map(acl::digest),
            // Every connection has its ip id from the start.
            "ip" => client
                .as_ref()
                .and_then(|client| client.ids.first().cloned()),
            _ => None,
        };
        let is_accepted = match (client, id) {
            (Some(client), Some(id)) if client.ids.contains(&id) => true,
            (Some(client), Some(id)) if client.ids.len() < IDS_MAX => {
                client.ids.push(id);
                true
            }
            _ => false,
        };
        let error = (!is_accepted).then_some(ErrorCode::AuthFailed);
        let packet = protocol::reply_header(xid, 0, error).into_packet();
        self.outputs.push(Output::Reply(connection, packet.into()));
        if !is_accepted {
            self.close(connection);
        }
    }

    fn apply(
        &mut self,
        connection: ConnectionId,
        operations: &[Operation],
        now: Now,
    ) -> Result<Vec<Outcome>, Refused> {
        let client = self.clients.get(&connection);
        let zxid = self.last_zxid + 1;
        let context = Context {
            session: client.map_or(0, |client| client.session),
            ids: client
                .map(|client| client.ids.as_slice())
                .unwrap_or_default(),
            zxid,
            time_ms: now.wall_ms,
        };
        let applied = self.tree.apply(context, operations)?;
        if applied
            .outcomes
            .iter()
            .any(|outcome| *outcome != Outcome::Checked)
        {
            self.last_zxid = zxid;
        }
        self.publish(applied.events);
        Ok(applied.outcomes)
    }

    fn write(
        &mut self,
        connection: ConnectionId,
        number: i32,
        operation: Operation,
        now: Now,
    ) -> Result<Writer, ErrorCode> {
        let operations = [operation];
        let outcomes = self
            .apply(connection, &operations, now)
            .map_err(|refused| refused.code)?;
        let mut record = Writer::new();
        for outcome in &outcomes {
            write_outcome(&mut record, number, outcome);
        }
        if let ([Outcome::Checked], [Operation::Check { path, .. }]) = (&outcomes[..], &operations)
        {
            self.node(path)?.client_stat().write(&mut record);
        }
        Ok(record)
    }

    fn multi(
        &mut self,
        connection: ConnectionId,
        numbers: &[i32],
        operations: &[Operation],
        now: Now,
    ) -> Writer {
        let mut record = Writer::new();
        match self.apply(connection, operations, now) {
            Ok(outcomes) => {
                for (number, outcome) in numbers.iter().zip(&outcomes) {
                    let shown = match *number {
                        op::CREATE_CONTAINER => op::CREATE2,
                        number => number,
                    };
                    protocol::write_multi_header(&mut record, shown, 0);
                    write_outcome(&mut record, shown, outcome);
                }
            }
            // Before the failed operation 0, behind it RUNTIMEINCONSISTENCY: none took effect.
            Err(refused) => {
                for index in 0..operations.len() {
                    let error = match index.cmp(&refused.index) {
                        std::cmp::Ordering::Less => 0,
                        std::cmp::Ordering::Equal => refused.code as i32,
                        std::cmp::Ordering::Greater => ErrorCode::RuntimeInconsistency as i32,
                    };
                    protocol::write_multi_error(&mut record, error);
                }
            }
        }
        protocol::write_multi_end(&mut record);
        record
    }

    /// Fires the watches of a transaction's events.
    fn publish(&mut self, events: Vec<Event>) {
        for Event {
            change,
            path,
            acl,
            parent_acl,
        } in events
        {
            let parent = path::parent(&path).unwrap_or("/");
            let told = self.watches.fire_data(&path);
            match change {
                Change::DataChanged => self.send(told, EventType::NodeDataChanged, &path, &acl),
                Change::Created => {
                    self.send(told, EventType::NodeCreated, &path, &acl);
                    let told = self.watches.fire_children(parent);
                    self.send(told, EventType::NodeChildrenChanged, parent, &parent_acl);
                }
                Change::Deleted => {
                    // Who watched both its data and its children is told once.
                    let mut all = self.watches.fire_children(&path);
                    all.extend(told);
                    self.send(all, EventType::NodeDeleted, &path, &acl);
                    let told = self.watches.fire_children(parent);
                    self.send(told, EventType::NodeChildrenChanged, parent, &parent_acl);
                }
            }
        }
    }

    /// Who may not read a node learns nothing of it.
    fn send(
        &mut self,
        connections: impl IntoIterator<Item = ConnectionId>,
        event: EventType,
        path: &str,
        acl: &[acl::Acl],
    ) {
        let mut packet = None;
        for connection in connections {
            let client = self.clients.get(&connection);
            if client.is_some_and(|client| acl::check(acl, acl::READ, &client.ids).is_ok()) {
                let packet = packet
                    .get_or_insert_with(|| protocol::notification(event, path, self.last_zxid));
                self.outputs.push(Output::Event(connection, packet.clone()));
            }
        }
    }
}

fn write_outcome(record: &mut Writer, number: i32, outcome: &Outcome) {
    match outcome {
        Outcome::Created(path, stat) => {
            record.text(path);
            if number != op::CREATE {
                stat.write(record);
            }
        }
        Outcome::Set(stat) => stat.write(record),
        Outcome::Deleted | Outcome::Checked => {}
    }
}

#[cfg(test)]
mod tests;
