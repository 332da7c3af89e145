//! A client's connection to the simulated broker: Kafka's frames over [`sim::Client`].
//!
//! Every answer is decoded to its last byte and must carry the next correlation id.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::protocol::Request;
use ringlog_engine::io::sim;
use ringlog_tests::wire::{decode, frame};

use crate::crowd::Crowd;

/// Largest answer; a larger size prefix is a fault of the broker.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// No answer came: the connection has ended, or the client's patience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost;

/// One connection.
pub(crate) struct Connection {
    crowd: Crowd,
    client: sim::Client,
    received: BytesMut,
    next_correlation_id: i32,
    patience: Duration,
}

/// A request that was sent and whose answer is to be received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    version: i16,
    correlation_id: i32,
}

impl Connection {
    /// Connects; the broker may be down.
    pub(crate) fn open(
        crowd: &Crowd,
        address: SocketAddr,
        patience: Duration,
    ) -> Result<Self, Lost> {
        let client = crowd.world().connect(address).map_err(|_| Lost)?;
        Ok(Connection {
            crowd: crowd.clone(),
            client,
            received: BytesMut::new(),
            next_correlation_id: 1,
            patience,
        })
    }

    /// Sends a request without waiting.
    pub(crate) fn send<R: Request>(&mut self, version: i16, request: &R) -> Ticket {
        let correlation_id = self.next_correlation_id;
        self.next_correlation_id += 1;
        self.client.send(&frame(correlation_id, version, request));
        Ticket {
            version,
            correlation_id,
        }
    }

    /// Waits for the answer of the oldest request that has one coming.
    pub(crate) async fn receive<R: Request>(
        &mut self,
        ticket: Ticket,
    ) -> Result<R::Response, Lost> {
        let frame = self.frame().await?;
        Ok(decode::<R>(ticket.version, ticket.correlation_id, frame))
    }

    /// One request, its answer.
    pub(crate) async fn call<R: Request>(
        &mut self,
        version: i16,
        request: &R,
    ) -> Result<R::Response, Lost> {
        let ticket = self.send(version, request);
        self.receive::<R>(ticket).await
    }

    /// Ends it with a reset, as a client that has crashed.
    pub(crate) fn reset(self) {
        self.client.reset();
    }

    async fn frame(&mut self) -> Result<Bytes, Lost> {
        let deadline = self.crowd.now() + self.patience;
        let (client, received) = (&self.client, &mut self.received);
        let result = self.crowd.until(deadline, || {
            // Asked first: what arrived before the end is still taken.
            let is_closed = client.is_closed();
            received.extend_from_slice(&client.received());
            match take_frame(received) {
                Some(frame) => Some(Ok(frame)),
                None if is_closed => Some(Err(Lost)),
                None => None,
            }
        });
        result.await.unwrap_or(Err(Lost))
    }
}

fn take_frame(received: &mut BytesMut) -> Option<Bytes> {
    let size = usize::try_from((&received[..]).try_get_i32().ok()?);
    let size = size.expect("the size of an answer is not negative");
    assert!(
        size <= ANSWER_BYTES_MAX,
        "the broker sent a frame of {size} bytes"
    );
    if received.len() < 4 + size {
        return None;
    }
    received.advance(4);
    Some(received.split_to(size).freeze())
}
