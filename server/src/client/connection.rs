//! One TCP connection to a broker: frames, correlation ids, and the versions both sides speak.
//!
//! Invariant: after any error on the socket the connection is not usable again; its owner drops it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Message, Request};

use super::{ClientError, FRAME_BYTES_MAX, Node, REQUEST_TIMEOUT, code, text};

const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection whose versions are negotiated.
#[derive(Debug)]
pub struct Connection {
    address: String,
    stream: TcpStream,
    client_id: String,
    versions: BTreeMap<i16, (i16, i16)>,
    correlation_id: i32,
    is_broken: bool,
}

impl Connection {
    /// Dials and negotiates.
    ///
    /// # Errors
    /// If nothing answers, or what answers is no Kafka.
    pub fn dial(node: &Node, client_id: &str) -> Result<Self, ClientError> {
        let address = node.address();
        let failed = |error: &io::Error| ClientError::Connection {
            address: address.clone(),
            what: plain_reason(error),
        };
        let found = (node.host.as_str(), node.port)
            .to_socket_addrs()
            .map_err(|error| failed(&error))?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let mut stream = None;
        // localhost is often ::1 first, and the broker on 127.0.0.1 only.
        for candidate in found {
            match TcpStream::connect_timeout(&candidate, DIAL_TIMEOUT) {
                Ok(connected) => {
                    stream = Some(connected);
                    break;
                }
                Err(error) => last = error,
            }
        }
        let stream = stream.ok_or_else(|| failed(&last))?;
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        stream
            .set_write_timeout(Some(REQUEST_TIMEOUT))
            .map_err(|error| failed(&error))?;
        let mut connection = Self {
            address,
            stream,
            client_id: client_id.to_owned(),
            versions: BTreeMap::new(),
            correlation_id: 0,
            is_broken: false,
        };
        connection.negotiate()?;
        Ok(connection)
    }

    /// KIP-35 and KIP-511: version 3 names the client; a broker that does not know 3 answers in
    /// the form of version 0 with error 35.
    fn negotiate(&mut self) -> Result<(), ClientError> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(text("ringlog"))
            .with_client_software_version(text(env!("CARGO_PKG_VERSION")));
        self.send(&request, 3)?;
        let mut frame = self.receive(REQUEST_TIMEOUT)?;
        frame.advance(frame.len().min(4));
        let error = frame
            .get(..2)
            .map(|bytes| i16::from_be_bytes([bytes[0], bytes[1]]));
        let answer = if error == Some(code::UNSUPPORTED_VERSION) {
            self.send(&ApiVersionsRequest::default(), 0)?;
            let frame = self.receive(REQUEST_TIMEOUT)?;
            self.decode::<ApiVersionsRequest>(frame, 0)?
        } else {
            self.decode_body::<ApiVersionsResponse>(frame, 3, ApiVersionsRequest::KEY)?
        };
        super::check(answer.error_code, None)?;
        let versions = answer.api_keys.iter();
        self.versions = versions
            .map(|api| (api.api_key, (api.min_version, api.max_version)))
            .collect();
        Ok(())
    }

    /// The broker's `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether it can take another request.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        !self.is_broken
    }

    /// What the broker says it speaks: key to lowest and highest version.
    #[must_use]
    pub fn versions(&self) -> &BTreeMap<i16, (i16, i16)> {
        &self.versions
    }

    /// Whether there is a common version of the API.
    #[must_use]
    pub fn supports<R: Request>(&self) -> bool {
        self.version::<R>().is_ok()
    }

    /// The highest version of `R` that both sides speak.
    ///
    /// # Errors
    /// If there is none.
    pub fn version<R: Request>(&self) -> Result<i16, ClientError> {
        let (min, max) = (R::VERSIONS.min, R::VERSIONS.max);
        let theirs = self.versions.get(&R::KEY).copied();
        match theirs {
            Some((low, high)) if low <= max && high >= min => Ok(high.min(max)),
            _ => Err(ClientError::Unsupported {
                address: self.address.clone(),
                api: api_name(R::KEY),
                theirs: theirs.map_or("none".to_owned(), |(low, high)| format!("{low} to {high}")),
                ours: format!("{min} to {max}"),
            }),
        }
    }

    /// Keeps to older versions of `R`, for a caller that reads answers by their layout.
    pub fn cap_version<R: Request>(&mut self, max: i16) {
        if let Some((_, high)) = self.versions.get_mut(&R::KEY) {
            *high = (*high).min(max);
        }
    }

    /// Sends and waits for the answer.
    ///
    /// # Errors
    /// If there is no common version, or the connection breaks, or the time is over.
    pub fn call<R: Request>(
        &mut self,
        request: &R,
        timeout: Duration,
    ) -> Result<R::Response, ClientError> {
        let version = self.version::<R>()?;
        self.send(request, version)?;
        let frame = self.receive(timeout)?;
        self.decode::<R>(frame, version)
    }

    /// Sends without waiting; an answer, if one is due, comes from [`receive`](Self::receive).
    ///
    /// # Errors
    /// If the request does not fit the version, or the connection breaks.
    pub fn send<R: Request>(&mut self, request: &R, version: i16) -> Result<(), ClientError> {
        self.correlation_id = self.correlation_id.wrapping_add(1) & i32::MAX;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(text(&self.client_id)));
        let mut frame = BytesMut::with_capacity(1024);
        frame.put_i32(0);
        let encoded = header
            .encode(&mut frame, R::header_version(version))
            .and_then(|()| request.encode(&mut frame, version));
        encoded.map_err(|error| ClientError::Unsupported {
            address: self.address.clone(),
            api: api_name(R::KEY),
            theirs: format!("version {version}"),
            ours: format!("{}-{} ({error})", R::VERSIONS.min, R::VERSIONS.max),
        })?;
        let length = i32::try_from(frame.len() - 4).unwrap_or(i32::MAX);
        if let Some(prefix) = frame.get_mut(..4) {
            prefix.copy_from_slice(&length.to_be_bytes());
        }
        let written = self.stream.write_all(&frame);
        written.map_err(|error| self.broke(R::KEY, &error))
    }

    /// The next frame, without its length.
    ///
    /// # Errors
    /// If the connection breaks or the time is over.
    pub fn receive(&mut self, timeout: Duration) -> Result<Bytes, ClientError> {
        let result = self
            .stream
            .set_read_timeout(Some(timeout))
            .and_then(|()| read_frame(&mut self.stream));
        result.map_err(|error| self.broke(-1, &error))
    }

    /// A second handle of the socket, for a thread that reads answers while this one sends.
    ///
    /// # Errors
    /// If the system has no descriptor left.
    pub fn reader(&self) -> io::Result<TcpStream> {
        let stream = self.stream.try_clone()?;
        stream.set_read_timeout(None)?;
        Ok(stream)
    }

    /// Reads an answer's header and body.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn decode<R: Request>(
        &self,
        mut frame: Bytes,
        version: i16,
    ) -> Result<R::Response, ClientError> {
        let header_version = <R::Response as HeaderVersion>::header_version(version);
        let header = ResponseHeader::decode(&mut frame, header_version);
        header.map_err(|error| self.bad_answer(R::KEY, &error.to_string()))?;
        self.decode_body::<R::Response>(frame, version, R::KEY)
    }

    fn decode_body<M: Message + Decodable>(
        &self,
        mut frame: Bytes,
        version: i16,
        key: i16,
    ) -> Result<M, ClientError> {
        M::decode(&mut frame, version).map_err(|error| self.bad_answer(key, &error.to_string()))
    }

    fn bad_answer(&self, key: i16, what: &str) -> ClientError {
        ClientError::BadAnswer {
            address: self.address.clone(),
            api: api_name(key),
            what: what.to_owned(),
        }
    }

    fn broke(&mut self, key: i16, error: &io::Error) -> ClientError {
        self.is_broken = true;
        let mut what = plain_reason(error);
        if self.versions.is_empty() {
            what =
                format!("{what}; is this the port of a Kafka broker (0.10 or newer, PLAINTEXT)?");
        } else if key >= 0 {
            what = format!("{what} (on {})", api_name(key));
        }
        ClientError::Connection {
            address: self.address.clone(),
            what,
        }
    }
}

/// One frame; its length is believed only up to [`FRAME_BYTES_MAX`], and memory grows with what
/// really arrives.
pub fn read_frame(stream: &mut TcpStream) -> io::Result<Bytes> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "an answer that is not Kafka's",
        ));
    }
    let mut frame = Vec::with_capacity(length.min(1 << 20));
    let limit = u64::try_from(length).unwrap_or(u64::MAX);
    stream.take(limit).read_to_end(&mut frame)?;
    if frame.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(frame.into())
}

fn plain_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time".to_owned(),
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => "the broker closed the connection".to_owned(),
        _ => error.to_string(),
    }
}

/// Kafka's name of an API.
#[must_use]
pub fn api_name(key: i16) -> String {
    ApiKey::try_from(key).map_or_else(
        |()| format!("API {key}"),
        |api| format!("{api:?}").replace("Key", ""),
    )
}
