//! A small blocking client of Kafka's wire protocol over one TCP connection.
//!
//! Every answer must be consumed to its last byte by the codec: trailing bytes fail the test. The raw
//! half (`write`, `receive_frame`) is for what no client sends. No retry and no reconnect: a test says
//! itself what it tolerates.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

/// How long an answer may take before the test fails; long polls of the tests stay far below.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// No answer of these tests is larger; a larger size prefix is a fault of the broker.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// One connection to a broker.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    address: SocketAddr,
    next_correlation_id: i32,
}

impl Client {
    /// Connects, and fails the test if nobody listens.
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"))
    }

    /// Connects.
    pub fn try_connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self {
            stream,
            address,
            next_correlation_id: 1,
        })
    }

    /// The broker's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bounds the wait for an answer.
    pub fn answer_within(&mut self, timeout: Duration) {
        let set = self.stream.set_read_timeout(Some(timeout));
        set.expect("a positive timeout is accepted");
    }

    /// One request, its answer.
    pub fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.try_call(version, request)
            .unwrap_or_else(|error| panic!("API {} v{version}: no answer: {error}", R::KEY))
    }

    /// One request, its answer; an error if the connection is closed.
    pub fn try_call<R: Request>(&mut self, version: i16, request: &R) -> io::Result<R::Response> {
        let correlation_id = self.send(version, request)?;
        let frame = self.receive_frame()?;
        Ok(decode::<R>(version, correlation_id, frame))
    }

    /// Sends one request and gives its correlation id.
    pub fn send<R: Request>(&mut self, version: i16, request: &R) -> io::Result<i32> {
        let correlation_id = self.correlation_id();
        self.write(&frame(correlation_id, version, request))?;
        Ok(correlation_id)
    }

    /// The answer to the request of `send`.
    pub fn receive<R: Request>(&mut self, version: i16, correlation_id: i32) -> R::Response {
        let frame = self.receive_frame().unwrap_or_else(|error| {
            panic!(
                "API {} v{version}, correlation id {correlation_id}: no answer: {error}",
                R::KEY
            )
        });
        decode::<R>(version, correlation_id, frame)
    }

    /// A correlation id not yet used on this connection.
    pub fn correlation_id(&mut self) -> i32 {
        let id = self.next_correlation_id;
        self.next_correlation_id += 1;
        id
    }

    /// Sends bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The bytes of one answer without its size.
    pub fn receive_frame(&mut self) -> io::Result<Bytes> {
        let mut size = [0; 4];
        self.stream.read_exact(&mut size)?;
        let size = usize::try_from(i32::from_be_bytes(size));
        let size = size.unwrap_or_else(|_| panic!("the broker sent a negative size"));
        assert!(
            size <= ANSWER_BYTES_MAX,
            "the broker sent a frame of {size} bytes"
        );
        let mut frame = vec![0; size];
        self.stream.read_exact(&mut frame)?;
        Ok(frame.into())
    }

    /// Whether the broker closes the connection within `timeout`, reading past what it still says.
    pub fn is_closed_within(&mut self, timeout: Duration) -> bool {
        self.answer_within(timeout);
        let mut sink = [0; 4096];
        loop {
            match self.stream.read(&mut sink) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if is_timeout(&error) => return false,
                Err(_) => return true, // reset: closed with bytes of ours unread
            }
        }
    }

    /// What the broker says until it closes the connection (for a client that speaks no Kafka).
    pub fn read_to_end_within(&mut self, timeout: Duration) -> Vec<u8> {
        self.answer_within(timeout);
        let mut said = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = self.stream.read(&mut piece) {
            said.extend_from_slice(&piece[..count]);
        }
        said
    }

    /// Says that nothing more will be sent.
    pub fn end_of_requests(&mut self) {
        self.stream.shutdown(std::net::Shutdown::Write).ok(); // already closed is fine too
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// A whole request with its size.
pub fn frame<R: Request>(correlation_id: i32, version: i16, request: &R) -> Vec<u8> {
    let header_version = R::header_version(version);
    let mut body = header(R::KEY, version, correlation_id, header_version);
    request.encode(&mut body, version).unwrap_or_else(|error| {
        panic!("the codec cannot write API {} v{version}: {error}", R::KEY)
    });
    sized(&body)
}

/// A request header of any key and version; `header_version` 0, 1 or 2.
pub fn header(key: i16, version: i16, correlation_id: i32, header_version: i16) -> BytesMut {
    let mut bytes = BytesMut::new();
    let header = RequestHeader::default()
        .with_request_api_key(key)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(StrBytes::from_static_str("ringlog-tests")));
    header
        .encode(&mut bytes, header_version)
        .expect("the codec writes a request header");
    bytes
}

/// Puts the size before a frame.
pub fn sized(frame: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + frame.len());
    bytes.put_i32(i32::try_from(frame.len()).expect("a test's frame is below 2 GiB"));
    bytes.extend_from_slice(frame);
    bytes
}

/// Reads an answer; its correlation id and its last byte must fit.
pub fn decode<R: Request>(version: i16, correlation_id: i32, mut frame: Bytes) -> R::Response {
    let whole = frame.clone();
    let header = ResponseHeader::decode(&mut frame, R::Response::header_version(version))
        .unwrap_or_else(|error| panic!("API {} v{version}: header: {error}: {whole:02x?}", R::KEY));
    assert_eq!(
        header.correlation_id,
        correlation_id,
        "API {} v{version}: order",
        R::KEY
    );
    let response = R::Response::decode(&mut frame, version)
        .unwrap_or_else(|error| panic!("API {} v{version}: body: {error}: {whole:02x?}", R::KEY));
    assert_eq!(
        frame.remaining(),
        0,
        "API {} v{version}: bytes after the end: {whole:02x?}",
        R::KEY
    );
    response
}
