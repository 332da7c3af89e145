//! An answer on its way out: bytes in memory and slices of files, in order.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::Encodable;
use ringlog_engine::log::FileSlice;

/// A part of an answer.
#[derive(Debug)]
pub enum Part {
    /// Sent from memory.
    Bytes(Bytes),
    /// Sent with sendfile(2), never read.
    File(FileSlice),
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Part::Bytes(bytes) => bytes.len(),
            Part::File(slice) => slice.length as usize,
        }
    }
}

/// The body of an answer.
#[derive(Debug, Default)]
pub struct Response {
    /// Its parts, in order.
    pub parts: Vec<Part>,
}

impl Response {
    /// Encodes a message of the crate.
    ///
    /// # Errors
    /// What the encoder said: a field that this version does not have.
    pub fn encode<M: Encodable>(message: &M, version: i16) -> Result<Response, String> {
        let failed = |error| format!("encoding version {version}: {error}");
        let mut bytes = BytesMut::with_capacity(message.compute_size(version).map_err(failed)?);
        message.encode(&mut bytes, version).map_err(failed)?;
        Ok(Response {
            parts: vec![Part::Bytes(bytes.freeze())],
        })
    }

    /// The frame up to the body: size, correlation id, and the empty tagged fields of a flexible
    /// header.
    pub fn head(&self, correlation_id: i32, flexible: bool) -> Bytes {
        let body: usize = self.parts.iter().map(Part::len).sum();
        let header = 4 + usize::from(flexible);
        let mut head = BytesMut::with_capacity(4 + header);
        head.put_i32(i32::try_from(header + body).expect("limited by fetch.max.bytes"));
        head.put_i32(correlation_id);
        if flexible {
            head.put_u8(0);
        }
        head.freeze()
    }
}
