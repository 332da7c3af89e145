//! The simulated network: listeners, and connections between a shard and a client of the test.
//!
//! Each direction of a connection is a pipe with a window: bytes under way and bytes that arrived
//! but were not taken count against it. Bytes never overtake each other. At most one receive and
//! one send wait on a socket.

mod client;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use rustix::io::Errno;

use super::chaos::Chaos;
use super::execute::Flight;
use super::{Event, Object, State, Waiter, id_of};
use crate::clock::Instant;
use crate::io::op::{Completion, Handle, Op, Output, Socket};
use crate::io::system;

pub use client::Client;

/// First port that the world chooses for port 0 and for clients.
const FIRST_PORT: u16 = 32_768;
/// Most bytes that one step of a send takes from a file.
const FILE_PIECE_BYTES: u64 = 64 * 1024;
/// Most bytes of a small receive.
const SMALL_RECEIVE_BYTES: u64 = 16;

/// Which way the bytes of a pipe go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    ToServer,
    ToClient,
}

enum Piece {
    Bytes(Bytes),
    End,
    Reset,
}

#[derive(Default)]
struct Pipe {
    under_way: VecDeque<(Instant, Piece)>,
    arrived: VecDeque<Bytes>,
    arrived_bytes: usize,
    /// Bytes that were sent and not yet taken.
    held: usize,
    has_ended: bool,
    last_arrival: Instant,
}

impl Pipe {
    /// Sends a piece; returns when it arrives.
    fn push(&mut self, piece: Piece, chaos: &mut Chaos) -> Instant {
        if let Piece::Bytes(bytes) = &piece {
            self.held += bytes.len();
        }
        self.last_arrival = self.last_arrival.max(chaos.arrival());
        self.under_way.push_back((self.last_arrival, piece));
        self.last_arrival
    }

    fn room(&self, chaos: &Chaos) -> usize {
        chaos.config.network.window_bytes.saturating_sub(self.held)
    }

    fn arrive(&mut self, bytes: Bytes) {
        self.arrived_bytes += bytes.len();
        self.arrived.push_back(bytes);
    }

    fn take(&mut self, count: usize, buffer: &mut BytesMut) {
        let mut rest = count;
        while rest > 0
            && let Some(first) = self.arrived.front_mut()
        {
            let count = first.len().min(rest);
            buffer.extend_from_slice(&first[..count]);
            first.advance(count);
            rest -= count;
            if first.is_empty() {
                self.arrived.pop_front();
            }
        }
        self.arrived_bytes -= count - rest;
        self.held -= count - rest;
    }

    /// Drops what has arrived: nobody will take it.
    fn drop_arrived(&mut self) {
        self.arrived.clear();
        self.held -= std::mem::take(&mut self.arrived_bytes);
    }

    fn clear(&mut self) {
        self.under_way.clear();
        self.drop_arrived();
        self.held = 0;
    }
}

struct Connection {
    client_address: SocketAddr,
    dialled: SocketAddr,
    to_server: Pipe,
    to_client: Pipe,
    /// What the client has sent beyond the window, and whether it has closed behind it.
    outbox: VecDeque<Bytes>,
    receive: Option<Waiter>,
    send: Option<Waiter>,
    /// The server holds its socket.
    server_is_open: bool,
    /// The server has shut its socket down.
    is_shut: bool,
    client_is_open: bool,
    /// A reset has arrived at the server, at the client.
    server_is_reset: bool,
    client_is_reset: bool,
}

struct Listening {
    address: SocketAddr,
    backlog: VecDeque<u64>,
    accepts: Vec<Waiter>,
}

/// The network of a world.
#[derive(Default)]
pub(super) struct Network {
    listeners: BTreeMap<u64, Listening>,
    /// By the number of the server's socket.
    connections: BTreeMap<u64, Connection>,
    ports: u16,
}

impl Network {
    fn next_port(&mut self) -> u16 {
        self.ports = (self.ports + 1) % (u16::MAX - FIRST_PORT);
        FIRST_PORT + self.ports
    }

    fn listener_at(&self, address: SocketAddr) -> Option<u64> {
        let is_there = |listening: &Listening| {
            let bound = listening.address;
            bound == address || (bound.ip().is_unspecified() && bound.port() == address.port())
        };
        let mut found = self.listeners.iter().filter(|(_, l)| is_there(l));
        found.next().map(|(id, _)| *id)
    }
}

impl State {
    // ---- listeners ---------------------------------------------------------------------------

    pub(super) fn listen(&mut self, mut address: SocketAddr) -> io::Result<(Object, SocketAddr)> {
        while address.port() == 0 {
            let mut candidate = address;
            candidate.set_port(self.network.next_port());
            if self.network.listener_at(candidate).is_none() {
                address = candidate;
            }
        }
        if self.network.listener_at(address).is_some() {
            return Err(Errno::ADDRINUSE.into());
        }
        let object = self.object();
        let listening = Listening {
            address,
            backlog: VecDeque::new(),
            accepts: Vec::new(),
        };
        self.network.listeners.insert(object.id, listening);
        Ok((object, address))
    }

    pub(super) fn connect(&mut self, address: SocketAddr) -> io::Result<u64> {
        let listener = self.network.listener_at(address);
        let listener = listener.ok_or(Errno::CONNREFUSED)?;
        let id = self.next_serial();
        let port = self.network.next_port();
        let connection = Connection {
            client_address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            dialled: address,
            to_server: Pipe::default(),
            to_client: Pipe::default(),
            outbox: VecDeque::new(),
            receive: None,
            send: None,
            server_is_open: true,
            is_shut: false,
            client_is_open: true,
            server_is_reset: false,
            client_is_reset: false,
        };
        self.network.connections.insert(id, connection);
        let time = self.chaos.arrival();
        self.schedule(time, Event::Knock(listener, id));
        Ok(id)
    }

    /// A connection arrives at its listener.
    pub(super) fn knock(&mut self, listener: u64, connection: u64) {
        let Some(listening) = self.network.listeners.get_mut(&listener) else {
            self.reset(connection);
            return;
        };
        if listening.accepts.is_empty() {
            listening.backlog.push_back(connection);
            return;
        }
        let index = self.chaos.rng.index(listening.accepts.len());
        let waiter = listening.accepts.swap_remove(index);
        self.flights.remove(&waiter);
        let completion = self.accepted(connection);
        self.complete(waiter, completion);
    }

    fn accepted(&mut self, connection: u64) -> Completion {
        let peer = match self.network.connections.get(&connection) {
            Some(connection) => connection.client_address,
            None => return Err(Errno::CONNABORTED.into()),
        };
        let object = Object {
            id: connection,
            closed: self.closed.clone(),
        };
        let socket = Socket(Arc::new(Handle::Simulated(object)));
        Ok(Output::Connection(socket, peer))
    }

    // ---- operations --------------------------------------------------------------------------

    pub(super) fn start_on_network(
        &mut self,
        waiter: Waiter,
        flight: Flight,
    ) -> Option<Completion> {
        let serial = flight.serial;
        match &flight.op {
            Op::Accept(_) => {}
            Op::Receive(socket, ..) => {
                let connection = self.network.connections.get_mut(&id_of(&socket.0));
                if let Some(connection) = connection {
                    let other = connection.receive.replace(waiter);
                    assert!(other.is_none(), "two receives on {socket:?}");
                }
            }
            Op::Send(socket, _) | Op::Writable(socket) | Op::SendFile(socket, ..) => {
                let connection = self.network.connections.get_mut(&id_of(&socket.0));
                if let Some(connection) = connection {
                    let other = connection.send.replace(waiter);
                    assert!(other.is_none(), "two sends on {socket:?}");
                }
            }
            other => panic!("{other:?} is not an operation of the network"),
        }
        let is_file = matches!(flight.op, Op::SendFile(..));
        // As the ring and epoll do: at once, or at the next entry into the kernel.
        if !is_file && self.chaos.rng.coin() {
            return self.continue_on_network(waiter, flight);
        }
        let time = if is_file {
            self.chaos.disk_completion("", false)
        } else {
            self.chaos.now
        };
        self.flights.insert(waiter, flight);
        self.schedule(time, Event::Step(waiter, serial));
        None
    }

    /// Does what can be done of an operation; parks it if that is not all.
    pub(super) fn continue_on_network(
        &mut self,
        waiter: Waiter,
        mut flight: Flight,
    ) -> Option<Completion> {
        let completion = match &flight.op {
            Op::Accept(listener) => self.try_accept(waiter, id_of(&listener.0)),
            Op::Receive(socket, ..) => {
                let id = id_of(&socket.0);
                self.try_receive(id, &mut flight)
            }
            Op::Send(socket, _) | Op::Writable(socket) | Op::SendFile(socket, ..) => {
                let id = id_of(&socket.0);
                self.try_send(id, &mut flight)
            }
            other => panic!("{other:?} is not an operation of the network"),
        };
        if completion.is_some() {
            self.forget_on_network(waiter, Some(&flight));
        } else {
            self.flights.insert(waiter, flight);
        }
        completion
    }

    /// Takes the waiter off what it waits for.
    pub(super) fn forget_on_network(&mut self, waiter: Waiter, flight: Option<&Flight>) {
        match flight.map(|flight| &flight.op) {
            Some(Op::Accept(listener)) => {
                if let Some(listening) = self.network.listeners.get_mut(&id_of(&listener.0)) {
                    listening.accepts.retain(|other| *other != waiter);
                }
            }
            Some(Op::Receive(socket, ..)) => {
                if let Some(connection) = self.network.connections.get_mut(&id_of(&socket.0)) {
                    connection.receive = None;
                }
            }
            Some(Op::Send(socket, _) | Op::Writable(socket) | Op::SendFile(socket, ..)) => {
                if let Some(connection) = self.network.connections.get_mut(&id_of(&socket.0)) {
                    connection.send = None;
                }
            }
            _ => {}
        }
    }

    /// Lets an operation go on after something has changed for it.
    fn wake(&mut self, waiter: Option<Waiter>) {
        if let Some(waiter) = waiter
            && let Some(flight) = self.flights.remove(&waiter)
            && let Some(completion) = self.continue_on_network(waiter, flight)
        {
            self.complete(waiter, completion);
        }
    }

    fn try_accept(&mut self, waiter: Waiter, listener: u64) -> Option<Completion> {
        let Some(listening) = self.network.listeners.get_mut(&listener) else {
            return Some(Err(Errno::BADF.into()));
        };
        if let Some(connection) = listening.backlog.pop_front() {
            return Some(self.accepted(connection));
        }
        if !listening.accepts.contains(&waiter) {
            listening.accepts.push(waiter);
        }
        None
    }

    fn try_receive(&mut self, id: u64, flight: &mut Flight) -> Option<Completion> {
        let Op::Receive(_, buffer, limit) = &mut flight.op else {
            panic!("{:?} does not receive", flight.op)
        };
        let Some(connection) = self.network.connections.get_mut(&id) else {
            return Some(Err(Errno::BADF.into()));
        };
        let there = connection.to_server.arrived_bytes;
        let count = if there > 0 {
            let spare = buffer.capacity() - buffer.len();
            let most = there.min(spare).min(*limit);
            let count = if self.chaos.happens(self.chaos.config.network.small_receive) {
                let small = self.chaos.rng.within(1, SMALL_RECEIVE_BYTES);
                most.min(usize::try_from(small).expect("at most SMALL_RECEIVE_BYTES"))
            } else {
                most
            };
            connection.to_server.take(count, buffer);
            count
        } else if connection.server_is_reset {
            return Some(Err(Errno::CONNRESET.into()));
        } else if connection.to_server.has_ended || connection.is_shut {
            0
        } else {
            return None;
        };
        let buffer = std::mem::take(buffer);
        self.pump_client(id);
        Some(Ok(Output::Buffer(buffer, count)))
    }

    fn try_send(&mut self, id: u64, flight: &mut Flight) -> Option<Completion> {
        loop {
            let Some(connection) = self.network.connections.get(&id) else {
                return Some(Err(Errno::BADF.into()));
            };
            if connection.is_shut {
                return Some(Err(Errno::PIPE.into()));
            }
            if connection.server_is_reset {
                let errors = [Errno::PIPE, Errno::CONNRESET];
                return Some(Err(errors[self.chaos.rng.index(2)].into()));
            }
            let room = connection.to_client.room(&self.chaos);
            let piece = match self.next_piece(flight, room) {
                Ok(Some(piece)) => piece,
                Ok(None) => return Some(Ok(Output::Nothing)),
                Err(error) => return Some(Err(error)),
            };
            if room == 0 {
                return None;
            }
            if self.chaos.happens(self.chaos.config.network.reset) {
                self.chaos.count("connection reset");
                self.reset(id);
                return Some(Err(Errno::CONNRESET.into()));
            }
            self.push(id, Direction::ToClient, Piece::Bytes(piece));
        }
    }

    /// The next bytes of a send, at most `room`, and empty if that is 0; `None` at the end.
    fn next_piece(&mut self, flight: &mut Flight, room: usize) -> io::Result<Option<Bytes>> {
        match &mut flight.op {
            Op::Send(_, buffers) => {
                system::advance(buffers, &mut flight.cursor, 0);
                let (index, offset) = flight.cursor;
                let Some(buffer) = buffers.get(index) else {
                    return Ok(None);
                };
                let mut count = (buffer.len() - offset).min(room);
                if count > 1 && self.chaos.rng.one_in(8) {
                    count = self.chaos.rng.index(count) + 1;
                }
                let piece = buffer.slice(offset..offset + count);
                system::advance(buffers, &mut flight.cursor, count);
                Ok(Some(piece))
            }
            Op::SendFile(_, file, position, length) => {
                if *length == 0 {
                    return Ok(None);
                }
                let count = (*length).min(room as u64).min(FILE_PIECE_BYTES);
                let mut bytes = BytesMut::new();
                let range = (*position, count);
                let read = self
                    .disk
                    .read(id_of(&file.0), range, &mut bytes, &mut self.chaos)?;
                if read == 0 && count > 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                *position += read;
                *length -= read;
                Ok(Some(bytes.freeze()))
            }
            _ if room > 0 => Ok(None),
            _ => Ok(Some(Bytes::new())),
        }
    }

    /// The address that the client of a connection has dialled.
    pub(super) fn local_address(&self, id: u64) -> io::Result<SocketAddr> {
        let connection = self.network.connections.get(&id);
        Ok(connection.ok_or(Errno::NOTCONN)?.dialled)
    }

    /// shutdown(2) of both directions.
    pub(super) fn shutdown(&mut self, id: u64) {
        let Some(connection) = self.network.connections.get_mut(&id) else {
            return;
        };
        if std::mem::replace(&mut connection.is_shut, true) {
            return;
        }
        let (receive, send) = (connection.receive, connection.send);
        self.push(id, Direction::ToClient, Piece::End);
        self.wake(receive);
        self.wake(send);
    }

    // ---- pieces ------------------------------------------------------------------------------

    fn push(&mut self, id: u64, direction: Direction, piece: Piece) {
        let Some(connection) = self.network.connections.get_mut(&id) else {
            return;
        };
        let pipe = match direction {
            Direction::ToServer => &mut connection.to_server,
            Direction::ToClient => &mut connection.to_client,
        };
        let time = pipe.push(piece, &mut self.chaos);
        self.schedule(time, Event::Arrival(id, direction));
    }

    /// A piece arrives.
    pub(super) fn arrive(&mut self, id: u64, direction: Direction) {
        let Some(connection) = self.network.connections.get_mut(&id) else {
            return;
        };
        let (pipe, is_open) = match direction {
            Direction::ToServer => (&mut connection.to_server, connection.server_is_open),
            Direction::ToClient => (&mut connection.to_client, connection.client_is_open),
        };
        let Some((_, piece)) = pipe.under_way.pop_front() else {
            return;
        };
        self.chaos.note(&[5, id, direction as u64]);
        match piece {
            Piece::Bytes(bytes) if is_open => pipe.arrive(bytes),
            Piece::Bytes(bytes) => {
                // Nobody is there to take it: the kernel answers with a reset.
                pipe.held -= bytes.len();
                match direction {
                    Direction::ToServer => self.push(id, Direction::ToClient, Piece::Reset),
                    Direction::ToClient => self.push(id, Direction::ToServer, Piece::Reset),
                }
            }
            Piece::End => pipe.has_ended = true,
            Piece::Reset => match direction {
                Direction::ToServer => connection.server_is_reset = true,
                Direction::ToClient => connection.client_is_reset = true,
            },
        }
        self.wake_both(id);
        self.bury(id);
    }

    fn wake_both(&mut self, id: u64) {
        if let Some(connection) = self.network.connections.get(&id) {
            let (receive, send) = (connection.receive, connection.send);
            self.wake(receive);
            self.wake(send);
        }
    }

    /// The connection breaks for both sides at once; what was under way is lost.
    fn reset(&mut self, id: u64) {
        if let Some(connection) = self.network.connections.get_mut(&id) {
            connection.to_server.clear();
            connection.to_client.under_way.clear();
            connection.outbox.clear();
            connection.server_is_reset = true;
            connection.client_is_reset = true;
            // The operation that notices it completes by itself.
            let receive = connection.receive;
            self.wake(receive);
        }
    }

    // ---- the server's end --------------------------------------------------------------------

    /// The last clone of a listener or socket was dropped.
    pub(super) fn close_network_object(&mut self, id: u64) {
        if let Some(listening) = self.network.listeners.remove(&id) {
            for connection in listening.backlog {
                self.reset(connection);
            }
            return;
        }
        let Some(connection) = self.network.connections.get_mut(&id) else {
            return;
        };
        connection.server_is_open = false;
        let unread = connection.to_server.arrived_bytes > 0;
        let was_shut = connection.is_shut;
        connection.to_server.drop_arrived();
        if unread {
            self.push(id, Direction::ToClient, Piece::Reset);
        } else if !was_shut {
            self.push(id, Direction::ToClient, Piece::End);
        }
        self.bury(id);
    }

    /// Every connection breaks: the servers have ended.
    pub(super) fn break_connections(&mut self) {
        self.network.listeners.clear();
        let ids: Vec<u64> = self.network.connections.keys().copied().collect();
        for id in ids {
            self.reset(id);
            if let Some(connection) = self.network.connections.get_mut(&id) {
                connection.server_is_open = false;
                connection.receive = None;
                connection.send = None;
            }
            self.bury(id);
        }
    }

    /// Forgets a connection that neither side holds any more.
    fn bury(&mut self, id: u64) {
        if let Some(connection) = self.network.connections.get(&id)
            && !connection.server_is_open
            && !connection.client_is_open
        {
            self.network.connections.remove(&id);
        }
    }
}
