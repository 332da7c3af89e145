//! One connection: frames in, requests dispatched in order, answers out in the same order.
//!
//! Two tasks. The reader takes one frame at a time, runs the first half of its handler (for a
//! produce request: up to the append) and queues the answer; the writer waits for the answers one
//! after the other and sends them. The queue is bounded: a client that does not read its answers
//! is not read from.
//!
//! A frame's buffer grows with the bytes that have arrived, never by the length announced.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_channel::mpsc;
use futures_util::{FutureExt, SinkExt, StreamExt};
use kafka_protocol::protocol::StrBytes;
use ringlog_engine::clock::Instant;
use ringlog_engine::io::{Io, Socket};
use slab::Slab;

use super::foreign_protocol::ForeignProtocol;
use super::response::{Part, Response};
use crate::dispatch::{self, Answer, Call, Refused};
use crate::shard::Shard;

/// First receive buffer of a connection, in bytes; idle connections keep no more.
const BUFFER_BYTES_MIN: usize = 4 * 1024;
/// A frame up to this size gets its whole buffer at once, larger ones double from here.
const BUFFER_BYTES_AT_ONCE: usize = 256 * 1024;
/// How often connections are checked for `connections.max.idle.ms`.
const IDLE_CHECK: Duration = Duration::from_secs(10);
/// Answers that are ready are sent together up to this many bytes in memory.
const GATHER_BYTES_MAX: usize = 256 * 1024;

/// The connections of a shard.
#[derive(Default)]
pub struct Connections {
    open: RefCell<Slab<Rc<Connection>>>,
}

impl Connections {
    /// Ends all connections.
    pub fn close_all(&self, io: &Io) {
        for (_, connection) in &*self.open.borrow() {
            io.shutdown(&connection.socket);
        }
    }

    /// Number of open connections.
    pub fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.open.borrow().is_empty()
    }
}

/// What handlers may know of a connection.
pub struct Connection {
    socket: Socket,
    /// Which listener it came in on.
    pub listener: usize,
    /// The client's address.
    pub peer: SocketAddr,
    /// The address that the client dialled.
    pub dialled: SocketAddr,
    /// Name and version of the client's software, from ApiVersions v3 and later (KIP-511).
    pub software: RefCell<Option<(StrBytes, StrBytes)>>,
    active: Cell<Instant>,
}

/// Why a connection ends.
#[derive(Debug)]
enum End {
    /// The peer has closed it, or it broke.
    Peer,
    /// The peer sent something that is not a request.
    Garbage(String),
    /// The broker stops or the writer has ended.
    Broker,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        End::Peer
    }
}

struct Queued {
    correlation_id: i32,
    flexible: bool,
    answer: Answer,
}

/// Serves a connection until it ends.
pub fn start(shard: &Rc<Shard>, socket: Socket, peer: SocketAddr, listener: usize) {
    let network = &shard.broker.config.network;
    shard.io.set_buffer_sizes(
        &socket,
        network.send_buffer_bytes,
        network.receive_buffer_bytes,
    );
    let connection = Rc::new(Connection {
        dialled: shard.io.local_address(&socket).unwrap_or(peer),
        socket,
        listener,
        peer,
        software: RefCell::default(),
        active: Cell::new(shard.io.now()),
    });
    let key = shard
        .connections
        .open
        .borrow_mut()
        .insert(connection.clone());
    let in_flight = (network.in_flight_requests_max as usize).max(1);
    let (sender, receiver) = mpsc::channel(in_flight);
    let (reader, reading) = (shard.clone(), connection.clone());
    shard.io.spawn(async move {
        let end = read(&reader, &reading, sender).await;
        if let End::Garbage(what) = end {
            log::info!("Closing the connection of {}: {what}", reading.peer);
        }
    });
    let writer = shard.clone();
    shard.io.spawn(async move {
        // A send that fails means that the peer has gone.
        let _ = write(&writer.io, &connection, receiver).await;
        writer.io.shutdown(&connection.socket);
        writer.connections.open.borrow_mut().remove(key);
        writer.broker.dismiss(connection.peer.ip());
    });
}

/// Ends connections that have been idle for too long.
pub async fn close_idle(shard: Rc<Shard>) {
    let Some(limit_ms) = shard.broker.config.network.idle_ms_max else {
        return;
    };
    let limit = Duration::from_millis(limit_ms.unsigned_abs());
    while !shard.is_stopping() {
        shard.io.sleep(IDLE_CHECK.min(limit)).await;
        for (_, connection) in &*shard.connections.open.borrow() {
            if shard.io.now().since(connection.active.get()) >= limit {
                shard.io.shutdown(&connection.socket);
            }
        }
    }
}

async fn read(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    mut queue: mpsc::Sender<Queued>,
) -> End {
    let mut buffer = BytesMut::new();
    loop {
        let frame = match next_frame(shard, connection, &mut buffer).await {
            Ok(frame) => frame,
            Err(end) => {
                if let End::Garbage(_) = &end
                    && let Some(foreign) = ForeignProtocol::guess(&buffer)
                {
                    let answer = Answer::Raw(Bytes::from(foreign.answer()));
                    let last = Queued {
                        correlation_id: 0,
                        flexible: false,
                        answer,
                    };
                    // The writer may have gone already.
                    let _ = queue.send(last).await;
                    return End::Garbage(foreign.hint().to_owned());
                }
                return end;
            }
        };
        connection.active.set(shard.io.now());
        let queued = match handle(shard, connection, frame).await {
            Ok(queued) => queued,
            Err(end) => return end,
        };
        if queue.send(queued).await.is_err() {
            return End::Broker;
        }
    }
}

/// The next whole frame, without its length.
async fn next_frame(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    buffer: &mut BytesMut,
) -> Result<Bytes, End> {
    let limit = shard.broker.config.network.request_bytes_max as usize;
    while buffer.len() < 4 {
        fill(&shard.io, &connection.socket, buffer, BUFFER_BYTES_MIN).await?;
    }
    let announced = i32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
    let length = match usize::try_from(announced) {
        Ok(length) if (1..=limit).contains(&length) => length,
        _ => {
            return Err(End::Garbage(format!(
                "a request of {announced} bytes was announced, 1 to {limit} are allowed \
                 (socket.request.max.bytes)"
            )));
        }
    };
    let whole = 4 + length;
    while buffer.len() < whole {
        let missing = whole - buffer.len();
        let grant = missing.min(BUFFER_BYTES_AT_ONCE.max(buffer.len()));
        fill(&shard.io, &connection.socket, buffer, grant).await?;
    }
    buffer.advance(4);
    Ok(buffer.split_to(length).freeze())
}

async fn fill(io: &Io, socket: &Socket, buffer: &mut BytesMut, room: usize) -> Result<(), End> {
    buffer.reserve(room.max(BUFFER_BYTES_MIN / 4));
    let (filled, count) = io
        .receive(socket, std::mem::take(buffer), usize::MAX)
        .await?;
    *buffer = filled;
    if count == 0 { Err(End::Peer) } else { Ok(()) }
}

async fn handle(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    frame: Bytes,
) -> Result<Queued, End> {
    let request = dispatch::parse(frame).map_err(End::Garbage)?;
    let (correlation_id, flexible) = (request.correlation_id, request.flexible_answer);
    let call = Call {
        shard: shard.clone(),
        connection: connection.clone(),
        request,
    };
    match dispatch::dispatch(call).await {
        Ok(answer) => Ok(Queued {
            correlation_id,
            flexible,
            answer,
        }),
        Err(Refused(reason)) => Err(End::Garbage(reason)),
    }
}

async fn write(
    io: &Io,
    connection: &Connection,
    mut queue: mpsc::Receiver<Queued>,
) -> io::Result<()> {
    let mut gathered = Vec::new();
    let mut bytes = 0;
    loop {
        let queued = if gathered.is_empty() {
            queue.next().await
        } else {
            // More answers may be ready: one system call for all of them.
            match queue.next().now_or_never() {
                Some(next) => next,
                None => {
                    flush(io, connection, &mut gathered).await?;
                    bytes = 0;
                    queue.next().await
                }
            }
        };
        let Some(Queued {
            correlation_id,
            flexible,
            answer,
        }) = queued
        else {
            return flush(io, connection, &mut gathered).await;
        };
        let response = match answer {
            Answer::None => continue,
            Answer::Ready(response) => response,
            Answer::Raw(raw) => {
                gathered.push(raw);
                continue;
            }
            Answer::Later(mut later) => match (&mut later).now_or_never() {
                Some(response) => response,
                None => {
                    flush(io, connection, &mut gathered).await?;
                    bytes = 0;
                    later.await
                }
            },
        };
        let Some(response) = response else {
            return flush(io, connection, &mut gathered).await;
        };
        connection.active.set(io.now());
        bytes += gather(
            io,
            connection,
            &mut gathered,
            response.head(correlation_id, flexible),
            response,
        )
        .await?;
        if bytes >= GATHER_BYTES_MAX {
            flush(io, connection, &mut gathered).await?;
            bytes = 0;
        }
    }
}

async fn gather(
    io: &Io,
    connection: &Connection,
    gathered: &mut Vec<Bytes>,
    head: Bytes,
    response: Response,
) -> io::Result<usize> {
    let mut bytes = head.len();
    gathered.push(head);
    for part in response.parts {
        match part {
            Part::Bytes(part) => {
                bytes += part.len();
                gathered.push(part);
            }
            Part::File(slice) => {
                flush(io, connection, gathered).await?;
                let length = u64::from(slice.length);
                io.send_file(&connection.socket, &slice.file, slice.position, length)
                    .await?;
                bytes = 0;
            }
        }
    }
    Ok(bytes)
}

async fn flush(io: &Io, connection: &Connection, gathered: &mut Vec<Bytes>) -> io::Result<()> {
    if gathered.is_empty() {
        return Ok(());
    }
    io.send(&connection.socket, std::mem::take(gathered)).await
}
