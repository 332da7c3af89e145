//! A client of the simulated world, driven by the test and not by a shard.

use std::fmt;

use bytes::{Bytes, BytesMut};

use super::{Direction, Piece};
use crate::io::sim::{State, World};

/// The client's end of a connection to a shard. Dropping it closes it.
pub struct Client {
    world: World,
    connection: u64,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client(connection {})", self.connection)
    }
}

impl Client {
    pub(in crate::io::sim) fn new(world: World, connection: u64) -> Client {
        Client { world, connection }
    }

    /// Sends bytes; they leave in order as the window lets them. Lost if the connection is closed.
    pub fn send(&self, bytes: &[u8]) {
        self.world.lock().client_send(self.connection, bytes);
    }

    /// Bytes of [`Self::send`] that the server's window has not let go yet.
    pub fn unsent(&self) -> usize {
        self.world.lock().client_unsent(self.connection)
    }

    /// Takes the bytes that have arrived since the last call, which opens the server's window.
    pub fn received(&self) -> Vec<u8> {
        self.world.lock().client_received(self.connection)
    }

    /// Whether the connection has ended, by either side; bytes that arrived before may still be
    /// there to take.
    pub fn is_closed(&self) -> bool {
        self.world.lock().client_is_closed(self.connection)
    }

    /// Closes the connection: the server reads what was sent, then the end.
    pub fn close(&self) {
        self.world.lock().client_close(self.connection);
    }

    /// Resets the connection: the server gets ECONNRESET.
    pub fn reset(&self) {
        self.world.lock().client_reset(self.connection);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.close();
    }
}

impl State {
    /// Lets go what the client has sent, as far as the window reaches.
    pub(super) fn pump_client(&mut self, id: u64) {
        while let Some(connection) = self.network.connections.get_mut(&id) {
            let room = connection.to_server.room(&self.chaos);
            let Some(first) = connection.outbox.front_mut() else {
                return;
            };
            if first.is_empty() {
                // The mark of a close.
                connection.outbox.pop_front();
                self.push(id, Direction::ToServer, Piece::End);
                continue;
            }
            if room == 0 {
                return;
            }
            let mut count = first.len().min(room);
            if count > 1 && self.chaos.rng.one_in(8) {
                count = self.chaos.rng.index(count) + 1;
            }
            let piece = first.split_to(count);
            if first.is_empty() {
                connection.outbox.pop_front();
            }
            if self.chaos.happens(self.chaos.config.network.reset) {
                self.chaos.count("connection reset");
                self.reset(id);
                self.wake_both(id);
                return;
            }
            self.push(id, Direction::ToServer, Piece::Bytes(piece));
        }
    }

    fn client_send(&mut self, id: u64, bytes: &[u8]) {
        if let Some(connection) = self.network.connections.get_mut(&id)
            && connection.client_is_open
            && !connection.client_is_reset
            && !bytes.is_empty()
        {
            connection.outbox.push_back(Bytes::copy_from_slice(bytes));
            self.pump_client(id);
        }
    }

    fn client_unsent(&self, id: u64) -> usize {
        let connection = self.network.connections.get(&id);
        connection.map_or(0, |connection| {
            connection.outbox.iter().map(Bytes::len).sum()
        })
    }

    fn client_received(&mut self, id: u64) -> Vec<u8> {
        let Some(connection) = self.network.connections.get_mut(&id) else {
            return Vec::new();
        };
        let pipe = &mut connection.to_client;
        let mut taken = BytesMut::new();
        pipe.take(pipe.arrived_bytes, &mut taken);
        if !taken.is_empty() {
            let send = connection.send;
            self.wake(send);
        }
        taken.to_vec()
    }

    fn client_is_closed(&self, id: u64) -> bool {
        let connection = self.network.connections.get(&id);
        connection.is_none_or(|connection| {
            !connection.client_is_open
                || connection.client_is_reset
                || connection.to_client.has_ended
        })
    }

    fn client_close(&mut self, id: u64) {
        if let Some(connection) = self.network.connections.get_mut(&id)
            && std::mem::replace(&mut connection.client_is_open, false)
        {
            connection.to_client.drop_arrived();
            // An empty piece marks the end behind what is still to be sent.
            connection.outbox.push_back(Bytes::new());
            let send = connection.send;
            self.pump_client(id);
            self.wake(send);
            self.bury(id);
        }
    }

    fn client_reset(&mut self, id: u64) {
        self.reset(id);
        self.wake_both(id);
        if let Some(connection) = self.network.connections.get_mut(&id) {
            connection.client_is_open = false;
        }
        self.bury(id);
    }
}
