//! What topics there are and where their partitions live.
//!
//! [`state::Image`] is an immutable picture that every shard holds; [`controller::Controller`] is
//! the pure state machine that draws the next one; [`store`] is its edge to the disk. The next
//! release replaces only the store, by ZooKeeper's znodes.

pub mod alter;
pub mod config_change;
pub mod controller;
pub mod doomed;
pub mod state;
pub mod store;
