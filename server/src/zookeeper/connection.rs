//! One client's connection: packets in, packets out.
//!
//! Invariants: memory grows only with bytes that came, and to at most one packet and what waits to
//! be sent; while a client does not read, it is not read either, and events that pile up for it
//! cut it off. Garbage ends only its own connection, with one log line.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use log::{debug, info, warn};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::processor::ConnectError;
use super::server::Service;
use super::watch::ConnectionId;
use super::words::{self, ConnectionFacts, OTHER_WORDS, Word};

/// A client is not read while more than this waits for it.
const QUEUED_BYTES_PAUSE: usize = 1 << 20;
/// A client is cut off when more than this waits for it.
const QUEUED_BYTES_MAX: usize = 16 << 20;
/// The same while the whole service is crowded.
const QUEUED_BYTES_CROWDED: usize = 64 << 10;
/// Longest connect request; real ones have 45 bytes.
const FIRST_PACKET_BYTES_MAX: usize = 1024;
/// A connection without a session ends after this (`zookeeper.nio.sessionlessCnxnTimeout`).
const FIRST_PACKET_TIMEOUT: Duration = Duration::from_secs(10);
/// Read at a time.
const READ_BYTES: usize = 16 << 10;
/// How long a closing connection may take for its last packets.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The end of a connection that the service holds.
pub(super) struct Link {
    pub(super) id: ConnectionId,
    pub(super) address: SocketAddr,
    pub(super) facts: RefCell<ConnectionFacts>,
    /// When the requests came that have no reply yet, in ms.
    pub(super) waiting: RefCell<VecDeque<u64>>,
    /// Bytes put out for the client and not sent.
    pub(super) queued_bytes: Cell<usize>,
    outbox: RefCell<VecDeque<Bytes>>,
    is_closing: Cell<bool>,
    is_cut: Cell<bool>,
    wake: Notify,
}

impl Link {
    pub(super) fn new(id: ConnectionId, address: SocketAddr, established_ms: i64) -> Self {
        let facts = ConnectionFacts {
            address: format!("/{address}"),
            established_ms,
            last_operation: "NA",
            ..ConnectionFacts::default()
        };
        Self {
            id,
            address,
            facts: RefCell::new(facts),
            waiting: RefCell::default(),
            queued_bytes: Cell::new(0),
            outbox: RefCell::default(),
            is_closing: Cell::new(false),
            is_cut: Cell::new(false),
            wake: Notify::new(),
        }
    }

    /// Queues a packet; tells if the client was cut off instead. One packet may have any size.
    pub(super) fn push(&self, packet: Bytes, is_crowded: bool) -> bool {
        let bytes_max = if is_crowded {
            QUEUED_BYTES_CROWDED
        } else {
            QUEUED_BYTES_MAX
        };
        let mut outbox = self.outbox.borrow_mut();
        if self.is_cut.get() {
            return true;
        }
        if self.queued_bytes.get() > bytes_max && self.queued_bytes.get() > packet.len() {
            drop(outbox);
            self.cut();
            return false;
        }
        outbox.push_back(packet);
        self.wake.notify_one();
        true
    }

    /// Ends the connection behind what is queued.
    pub(super) fn close(&self) {
        self.is_closing.set(true);
        self.wake.notify_one();
    }

    /// Ends the connection at once.
    pub(super) fn cut(&self) {
        self.is_cut.set(true);
        self.outbox.borrow_mut().clear();
        self.wake.notify_one();
    }
}

/// Why a connection ends.
enum Ending {
    /// The client or the service is done.
    Done,
    /// The socket failed.
    Io(io::Error),
    /// What came is not the protocol.
    Garbage(String),
    /// The session was refused.
    Refused(ConnectError),
}

impl From<io::Error> for Ending {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Serves a connection to its end.
pub(super) async fn serve(service: Rc<Service>, mut stream: TcpStream, link: Rc<Link>) {
    let address = link.address;
    let _ = stream.set_nodelay(true);
    match talk(&service, &mut stream, &link).await {
        Ending::Done => {}
        Ending::Io(error) => debug!("{address}: {error}"),
        Ending::Garbage(what) => warn!("{address}: {what}; closed"),
        Ending::Refused(error) => info!("{address}: session refused: {error}"),
    }
    service.gone(&link);
    if !link.is_cut.get() {
        linger(&mut stream).await;
    }
}

async fn talk(service: &Service, stream: &mut TcpStream, link: &Link) -> Ending {
    let mut buffer = BytesMut::new();
    let first = tokio::select! {
        first = timeout(FIRST_PACKET_TIMEOUT, first_packet(service, stream, &mut buffer)) => first,
        // Only a stopping service closes a connection without a session.
        () = link.wake.notified() => return Ending::Done,
    };
    let packet = match first {
        Ok(Ok(Some(packet))) => packet,
        Ok(Ok(None)) => return Ending::Done,
        Ok(Err(ending)) => return ending,
        Err(_) => return Ending::Done,
    };
    if let Err(error) = service.connect(link, &packet) {
        return match error {
            ConnectError::Malformed(_) => Ending::Garbage(error.to_string()),
            ConnectError::Ahead { .. } | ConnectError::TooMany(_) => Ending::Refused(error),
        };
    }
    match exchange(service, stream, link, &mut buffer).await {
        Ok(()) => Ending::Done,
        Err(ending) => ending,
    }
}

/// The connect request; nothing if it was a word instead, or the client left.
async fn first_packet(
    service: &Service,
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
) -> Result<Option<Bytes>, Ending> {
    let mut is_first = true;
    loop {
        if is_first && let Some(head) = buffer.first_chunk::<4>() {
            if let Some(text) = word(service, *head) {
                service.count_word();
                stream.write_all(text.as_bytes()).await?;
                return Ok(None);
            }
            is_first = false;
        }
        if let Some(packet) = take_packet(buffer, FIRST_PACKET_BYTES_MAX).map_err(|_| {
            let shown = buffer.get(..buffer.len().min(16)).unwrap_or_default();
            Ending::Garbage(format!(
                "no ZooKeeper client, it began with \"{}\"",
                shown.escape_ascii()
            ))
        })? {
            return Ok(Some(packet));
        }
        buffer.reserve(FIRST_PACKET_BYTES_MAX);
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

/// The answer to four bytes that are a word.
fn word(service: &Service, head: [u8; 4]) -> Option<String> {
    let name = std::str::from_utf8(&head).ok()?;
    match Word::from_name(name) {
        Some(word) if service.config.words.contains(&word) => {
            Some(words::answer(word, &service.facts()))
        }
        Some(_) => Some(not_allowed(name)),
        None => OTHER_WORDS.contains(&name).then(|| not_allowed(name)),
    }
}

fn not_allowed(name: &str) -> String {
    format!("{name} is not executed because it is not in the whitelist.\n")
}

async fn exchange(
    service: &Service,
    stream: &mut TcpStream,
    link: &Link,
    buffer: &mut BytesMut,
) -> Result<(), Ending> {
    let packet_bytes_max = service.config.packet_bytes_max;
    let (mut reader, mut writer) = stream.split();
    let mut sending = Bytes::new();
    loop {
        let is_open = !link.is_closing.get() && !link.is_cut.get();
        let mut may_read = is_open && link.queued_bytes.get() < QUEUED_BYTES_PAUSE;
        while may_read {
            let Some(packet) = take_packet(buffer, packet_bytes_max).map_err(|length| {
                Ending::Garbage(format!(
                    "a packet of {length} bytes is malformed or too large, jute.maxbuffer is \
                     {packet_bytes_max}"
                ))
            })?
            else {
                break;
            };
            service.receive(link, &packet);
            may_read = !link.is_closing.get() && link.queued_bytes.get() < QUEUED_BYTES_PAUSE;
        }
        if link.is_cut.get() {
            return Ok(());
        }
        if sending.is_empty() {
            sending = link.outbox.borrow_mut().pop_front().unwrap_or_default();
        }
        if sending.is_empty() && link.is_closing.get() {
            return Ok(());
        }
        prepare(buffer, packet_bytes_max);
        tokio::select! {
            result = writer.write(&sending), if !sending.is_empty() => {
                let sent = result?;
                sending.advance(sent);
                service.unqueue(link, sent);
            }
            result = reader.read_buf(buffer), if may_read => {
                if result? == 0 {
                    return Ok(());
                }
            }
            () = link.wake.notified() => {}
            () = tokio::time::sleep(CLOSE_TIMEOUT), if link.is_closing.get() => return Ok(()),
        }
    }
}

/// Gives the buffer room for what is known to come, a piece at a time, and takes a large one back
/// when it is empty.
fn prepare(buffer: &mut BytesMut, packet_bytes_max: usize) {
    if buffer.is_empty() && buffer.capacity() > 4 * READ_BYTES {
        *buffer = BytesMut::new();
    }
    let missing = match buffer.first_chunk::<4>() {
        Some(head) => (u32::from_be_bytes(*head) as usize + 4).saturating_sub(buffer.len()),
        None => 0,
    };
    buffer.reserve(missing.clamp(READ_BYTES / 4, (4 * READ_BYTES).min(packet_bytes_max + 4)));
}

/// The next whole packet without its length; the length if no packet may have it.
fn take_packet(buffer: &mut BytesMut, bytes_max: usize) -> Result<Option<Bytes>, i32> {
    let Some(head) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let told = i32::from_be_bytes(*head);
    let length = usize::try_from(told).map_err(|_| told)?;
    if length > bytes_max {
        return Err(told);
    }
    if buffer.len() < length + 4 {
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// Closing a socket with unread bytes sends a reset, which can overtake the last packets; so the
/// client is given the chance to close first.
async fn linger(stream: &mut TcpStream) {
    let drained = async {
        stream.shutdown().await?;
        let mut scrap = [0; 1024];
        let mut left = 64;
        while left > 0 && stream.read(&mut scrap).await? > 0 {
            left -= 1;
        }
        io::Result::Ok(())
    };
    let _ = timeout(CLOSE_TIMEOUT, drained).await;
}
