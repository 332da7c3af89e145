//! The server gives the bytes Kafka's meaning: wire, partitions, groups, metadata.
//!
//! A produce request's way: [`net::connection`] -> [`dispatch`] -> [`handlers::produce`] ->
//! [`partition`] -> `ringlog_engine::log` and, in durable mode, `ringlog_engine::journal`.
#![forbid(unsafe_code)]

pub mod boot;
pub mod broker;
pub mod cli;
pub mod client;
pub mod compaction;
pub mod config;
pub mod control;
pub mod dispatch;
pub mod fsck;
pub mod group;
pub mod handlers;
pub mod life;
pub mod logging;
pub mod mailbox;
pub mod metadata;
pub mod metrics;
pub mod net;
pub mod opening;
pub mod partition;
pub mod producer_state;
pub mod retention;
pub mod room;
pub mod scrub;
pub mod serve;
pub mod shard;
mod turnstile;
pub mod watcher;
pub mod zookeeper;
