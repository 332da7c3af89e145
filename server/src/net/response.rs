//! An answer on its way out: bytes in memory and slices of files, in order.

use bytes::{Buf, BufMut, Bytes, BytesMut};
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

/// Room for a frame's head: size, correlation id, and the empty tagged fields of a flexible header.
pub const HEAD_BYTES_MAX: usize = 4 + 4 + 1;

/// An answer: its head still to be written.
#[derive(Debug)]
pub struct Response {
    /// [`HEAD_BYTES_MAX`] bytes of room, and the body up to the first slice of a file.
    pub start: BytesMut,
    /// What follows, in order.
    pub parts: Vec<Part>,
}

impl Response {
    /// Room for the head, and for `bytes` of a body.
    pub fn room(bytes: usize) -> BytesMut {
        let mut start = BytesMut::with_capacity(HEAD_BYTES_MAX + bytes);
        start.put_bytes(0, HEAD_BYTES_MAX);
        start
    }

    /// Encodes a message of the crate.
    ///
    /// # Errors
    /// What the encoder said: a field that this version does not have.
    pub fn encode<M: Encodable>(message: &M, version: i16) -> Result<Response, String> {
        let failed = |error| format!("encoding version {version}: {error}");
        let mut start = Response::room(message.compute_size(version).map_err(failed)?);
        message.encode(&mut start, version).map_err(failed)?;
        let parts = Vec::new();
        Ok(Response { start, parts })
    }

    /// The whole frame: its bytes up to the first slice of a file, and what follows.
    pub fn into_frame(self, correlation_id: i32, flexible: bool) -> (Bytes, Vec<Part>) {
        let Response { mut start, parts } = self;
        let unused = usize::from(!flexible);
        let frame = start.len() - unused + parts.iter().map(Part::len).sum::<usize>();
        let size = i32::try_from(frame - 4).expect("limited by fetch.max.bytes");
        start.advance(unused);
        start[..4].copy_from_slice(&size.to_be_bytes());
        start[4..8].copy_from_slice(&correlation_id.to_be_bytes());
        (start.freeze(), parts)
    }
}
