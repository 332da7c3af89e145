//! The server gives the bytes Kafka's meaning.
#![forbid(unsafe_code)]

pub mod group;
