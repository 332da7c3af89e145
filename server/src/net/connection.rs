//! One connection: frames in, requests dispatched in order, answers out in the same order.
//!
//! One task, with two halves. The reader takes one frame at a time, runs the first half of its
//! handler (for a produce request: up to the append) and queues the answer; the writer waits for
//! the answers one after the other and sends them, those that are ready together. The queue is
//! bounded: a client that does not read its answers is not read from.
//!
//! A frame's buffer grows with the bytes that have arrived, never by the length announced.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::join;
use kafka_protocol::protocol::StrBytes;
use ringlog_engine::clock::Instant;
use ringlog_engine::io::{Io, Socket};
use ringlog_engine::log::FileSlice;
use slab::Slab;

use super::answers::{Answers, Ended};
use super::foreign_protocol::ForeignProtocol;
use super::response::Part;
use crate::dispatch::{self, Answer, Call, Refused};
use crate::metrics::Halves;
use crate::metrics::trace::{Stage, Trace, stamp};
use crate::shard::Shard;

/// First receive buffer of a connection, in bytes; idle connections keep no more.
const BUFFER_BYTES_MIN: usize = 4 * 1024;
/// A frame up to this size gets its whole buffer at once, larger ones double from here.
const BUFFER_BYTES_AT_ONCE: usize = 256 * 1024;
/// What is received at once between frames where bytes wait: those of a client that pipelines.
const BUFFER_BYTES_BUSY: usize = 64 * 1024;
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
    /// Which API, and when; none for bytes of another protocol.
    halves: Option<(i16, Halves)>,
    /// The stamps of a sampled request.
    trace: Option<Rc<Trace>>,
}

/// What was received and is no frame yet.
#[derive(Default)]
struct Incoming {
    buffer: BytesMut,
    /// When its first byte came.
    begun: Instant,
    /// When its last byte came.
    filled: Instant,
}

/// A whole frame, without its length.
struct Frame {
    bytes: Bytes,
    /// When its first byte came.
    begun: Instant,
    /// When its last byte came.
    whole: Instant,
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
    let shard = shard.clone();
    shard.io.clone().spawn(async move {
        let answers = Answers::new(in_flight);
        let reader = async {
            let end = read(&shard, &connection, &answers).await;
            answers.end();
            if let End::Garbage(what) = end {
                log::info!("Closing the connection of {}: {what}", connection.peer);
            }
        };
        let writer = async {
            // A send that fails means that the peer has gone.
            let _ = write(&shard, &connection, &answers).await;
            answers.end();
            shard.io.shutdown(&connection.socket);
        };
        join(reader, writer).await;
        shard.connections.open.borrow_mut().remove(key);
        shard.broker.dismiss(connection.peer.ip());
    });
}

/// Ends connections that have been idle for too long.
pub async fn close_idle(shard: Rc<Shard>) {
    let Some(limit_ms) = shard.broker.config.network.idle_ms_max else {
        return;
    };
    let limit = Duration::from_millis(limit_ms.unsigned_abs());
    // One that begins during a sleep is idle for too long only after it.
    let mut pause = limit;
    while !shard.is_stopping() {
        shard.io.sleep(pause).await;
        let now = shard.io.now();
        pause = limit;
        for (_, connection) in &*shard.connections.open.borrow() {
            let idle = now.since(connection.active.get());
            if idle >= limit {
                shard.io.shutdown(&connection.socket);
            } else {
                pause = pause.min(limit - idle);
            }
        }
        pause = pause.max(IDLE_CHECK.min(limit));
    }
}

async fn read(shard: &Rc<Shard>, connection: &Rc<Connection>, answers: &Answers<Queued>) -> End {
    let mut incoming = Incoming::default();
    loop {
        let frame = match next_frame(shard, connection, &mut incoming).await {
            Ok(frame) => frame,
            Err(end) => {
                if let End::Garbage(_) = &end
                    && let Some(foreign) = ForeignProtocol::guess(&incoming.buffer)
                {
                    let answer = Answer::Raw(Bytes::from(foreign.answer()));
                    let last = Queued {
                        correlation_id: 0,
                        flexible: false,
                        answer,
                        halves: None,
                        trace: None,
                    };
                    // The writer may have gone already.
                    let _ = answers.push(last).await;
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
        if let Err(Ended) = answers.push(queued).await {
            return End::Broker;
        }
    }
}

/// The next whole frame.
async fn next_frame(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    incoming: &mut Incoming,
) -> Result<Frame, End> {
    let limit = shard.broker.config.network.request_bytes_max as usize;
    while incoming.buffer.len() < 4 {
        let room = if shard.io.has_more(&connection.socket) {
            BUFFER_BYTES_BUSY
        } else {
            BUFFER_BYTES_MIN
        };
        fill(&shard.io, &connection.socket, incoming, room).await?;
    }
    let buffer = &incoming.buffer;
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
    while incoming.buffer.len() < whole {
        let received = incoming.buffer.len();
        let grant = (whole - received).min(BUFFER_BYTES_AT_ONCE.max(received));
        fill(&shard.io, &connection.socket, incoming, grant).await?;
    }
    incoming.buffer.advance(4);
    let frame = Frame {
        bytes: incoming.buffer.split_to(length).freeze(),
        begun: incoming.begun,
        whole: incoming.filled,
    };
    // What is left came with the end of this one.
    incoming.begun = incoming.filled;
    Ok(frame)
}

async fn fill(io: &Io, socket: &Socket, incoming: &mut Incoming, room: usize) -> Result<(), End> {
    let was_empty = incoming.buffer.is_empty();
    incoming.buffer.reserve(room.max(BUFFER_BYTES_MIN / 4));
    let (filled, count) = io
        .receive(socket, std::mem::take(&mut incoming.buffer), usize::MAX)
        .await?;
    incoming.buffer = filled;
    incoming.filled = io.now();
    if was_empty {
        incoming.begun = incoming.filled;
    }
    if count == 0 { Err(End::Peer) } else { Ok(()) }
}

async fn handle(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    frame: Frame,
) -> Result<Queued, End> {
    let request = dispatch::parse(frame.bytes).map_err(End::Garbage)?;
    let (correlation_id, flexible) = (request.correlation_id, request.flexible_answer);
    let (api_key, received) = (request.api_key, shard.io.now());
    let traces = &shard.counters.traces;
    let trace = traces
        .is_due(api_key)
        .then(|| traces.begin(api_key, frame.begun, frame.whole, shard.io.instant()));
    let call = Call {
        shard: shard.clone(),
        connection: connection.clone(),
        request,
        trace: trace.clone(),
    };
    match dispatch::dispatch(call).await {
        Ok(answer) => Ok(Queued {
            correlation_id,
            flexible,
            answer,
            halves: Some((
                api_key,
                Halves {
                    received,
                    handled: shard.io.now(),
                },
            )),
            trace,
        }),
        Err(Refused(reason)) => Err(End::Garbage(reason)),
    }
}

async fn write(
    shard: &Shard,
    connection: &Connection,
    answers: &Answers<Queued>,
) -> io::Result<()> {
    let io = &shard.io;
    let mut gathered = Gathered::default();
    loop {
        if answers.is_empty() && gathered.may_wait() {
            // The requests of this turn come first, those of other connections too: a client that
            // pipelines is then answered once, and sends once (18 % of the broker's CPU for 8
            // requests in flight, and half of the client's).
            io.yield_now().await;
        }
        let next = match answers.try_pop() {
            Some(next) => Some(next),
            // No more is ready: one system call for all that was.
            None => {
                gathered.flush(shard, connection).await?;
                answers.pop().await
            }
        };
        let Some(Queued {
            correlation_id,
            flexible,
            answer,
            halves,
            trace,
        }) = next
        else {
            return Ok(());
        };
        let response = match answer {
            Answer::None => continue,
            Answer::Ready(response) => response,
            Answer::Raw(raw) => {
                gathered.buffers.push(raw);
                continue;
            }
            Answer::Later(mut later) => match (&mut later).now_or_never() {
                Some(response) => response,
                None => {
                    gathered.flush(shard, connection).await?;
                    later.await
                }
            },
        };
        if let Some((api_key, halves)) = halves {
            shard.counters.answered(api_key, halves, io.now());
        }
        let Some(response) = response else {
            return gathered.flush(shard, connection).await;
        };
        connection.active.set(io.now());
        let (start, parts) = response.into_frame(correlation_id, flexible);
        gathered.push(shard, connection, start).await?;
        for part in parts {
            match part {
                Part::Bytes(part) => gathered.push(shard, connection, part).await?,
                Part::File(slice) => {
                    gathered.flush(shard, connection).await?;
                    send_slice(io, connection, &slice, trace.as_deref()).await?;
                }
            }
        }
        if let Some(trace) = trace {
            gathered.ends(shard, trace);
        }
    }
}

/// Sends a slice of a file. What of it had to be read from the disk is told apart.
async fn send_slice(
    io: &Io,
    connection: &Connection,
    slice: &FileSlice,
    trace: Option<&Trace>,
) -> io::Result<()> {
    stamp(trace, Stage::Reply, io);
    let (socket, length) = (&connection.socket, u64::from(slice.length));
    let cold = io.send_file(socket, &slice.file, slice.position, length);
    let cold = cold.await?;
    if let Some(trace) = trace {
        trace.longer(Stage::Read, cold);
    }
    Ok(())
}

/// Bytes that wait to be sent together.
#[derive(Default)]
struct Gathered {
    buffers: Vec<Bytes>,
    bytes: usize,
    has_waited: bool,
    /// Sampled requests whose answers end in here.
    traces: Vec<Rc<Trace>>,
}

impl Gathered {
    /// Whether there is something to send that has not yet let others go first.
    fn may_wait(&mut self) -> bool {
        !self.buffers.is_empty() && !std::mem::replace(&mut self.has_waited, true)
    }

    async fn push(
        &mut self,
        shard: &Shard,
        connection: &Connection,
        bytes: Bytes,
    ) -> io::Result<()> {
        self.bytes += bytes.len();
        self.buffers.push(bytes);
        if self.bytes >= GATHER_BYTES_MAX {
            self.flush(shard, connection).await?;
        }
        Ok(())
    }

    /// The answer of a sampled request ends here: it is sent with what waits, or has been sent.
    fn ends(&mut self, shard: &Shard, trace: Rc<Trace>) {
        self.traces.push(trace);
        if self.buffers.is_empty() {
            self.sent(shard);
        }
    }

    async fn flush(&mut self, shard: &Shard, connection: &Connection) -> io::Result<()> {
        self.bytes = 0;
        self.has_waited = false;
        if self.buffers.is_empty() {
            return Ok(());
        }
        let buffers = std::mem::take(&mut self.buffers);
        shard.io.send(&connection.socket, buffers).await?;
        if !self.traces.is_empty() {
            self.sent(shard);
        }
        Ok(())
    }

    fn sent(&mut self, shard: &Shard) {
        let now = shard.io.instant();
        for trace in self.traces.drain(..) {
            shard.counters.traces.end(&trace, now);
        }
    }
}
