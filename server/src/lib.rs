//! The server gives the bytes Kafka's meaning.
#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod logging;
pub mod serve;
