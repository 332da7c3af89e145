//! A client of the simulated world, driven by the test and not by a shard.

use std::fmt;

use super::World;

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
    pub(super) fn new(world: World, connection: u64) -> Client {
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
