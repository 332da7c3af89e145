//! Record batches and message sets: Kafka's bytes, read and patched in place.
//!
//! | file | what lives there |
//! |---|---|
//! | `batch` | the header of a record batch (magic 2): parse, validate, patch, walk |
//! | `builder` | a new record batch from records |
//! | `reader` | the records inside a batch of any magic |
//! | `message_set` | one entry of an old message set (magic 0 and 1) |
//! | `conversion` | old message sets to record batches and back |
//! | `compression` | the five codecs, each bounded by a limit |
//!
//! Invariants: every byte may come from a client or a damaged disk, so whatever does not fit is a
//! [`BatchError`] and never a panic; no length that the bytes announce allocates by itself; nothing
//! here does I/O, reads a clock or logs.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

pub mod batch;
pub mod builder;
pub mod compression;
pub mod conversion;
mod cursor;
mod message_set;
pub mod reader;

#[cfg(test)]
mod tests;

pub use batch::{Batch, BatchHeader, Batches, ProduceLimits, TimestampType};
pub use builder::BatchBuilder;
pub use compression::Compression;
pub use reader::{BatchReader, Header, Record};

/// Kafka's "no timestamp".
pub const NO_TIMESTAMP: i64 = -1;
/// Kafka's "no producer id".
pub const NO_PRODUCER_ID: i64 = -1;
/// Kafka's "no producer epoch".
pub const NO_PRODUCER_EPOCH: i16 = -1;
/// Kafka's "no sequence".
pub const NO_SEQUENCE: i32 = -1;
/// Kafka's "no partition leader epoch".
pub const NO_PARTITION_LEADER_EPOCH: i32 = -1;

/// Why bytes are not a batch that may be stored or read. Each variant has one Kafka error code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The bytes end inside a batch: at the end of a segment this is a torn or not yet read tail.
    #[error("batch is cut off: needs {needed} bytes, {available} are there")]
    Truncated {
        /// Bytes that the batch (or its header) needs.
        needed: usize,
        /// Bytes that are there.
        available: usize,
    },
    /// Length, magic, checksum or compressed bytes are wrong.
    #[error("corrupt message: {0}")]
    CorruptMessage(String),
    /// The bytes are whole, but Kafka does not allow what they say.
    #[error("invalid record: {0}")]
    InvalidRecord(String),
    /// The codec is unknown, or not allowed where it stands.
    #[error("unsupported compression type: {0}")]
    UnsupportedCompressionType(String),
    /// The batch, or what it decompresses to, is larger than allowed.
    #[error("message too large: {what} needs {size} bytes or more, {limit} are allowed")]
    MessageTooLarge {
        /// Which bytes were measured.
        what: &'static str,
        /// Their size as far as it is known.
        size: usize,
        /// The limit that they exceed.
        limit: usize,
    },
    /// A timestamp or timestamp type that a producer may not send.
    #[error("invalid timestamp: {0}")]
    InvalidTimestamp(String),
    /// The message format cannot carry what is asked of it.
    #[error("unsupported for message format: {0}")]
    UnsupportedForMessageFormat(String),
}

impl BatchError {
    /// The error code on the wire (Kafka's `Errors.java`).
    #[must_use]
    pub fn code(&self) -> i16 {
        match self {
            Self::Truncated { .. } | Self::CorruptMessage(_) => 2,
            Self::MessageTooLarge { .. } => 10,
            Self::InvalidTimestamp(_) => 32,
            Self::UnsupportedForMessageFormat(_) => 43,
            Self::UnsupportedCompressionType(_) => 76,
            Self::InvalidRecord(_) => 87,
        }
    }
}
