//! What topics there are and where their partitions live.
//!
//! [`state::Image`] is an immutable picture that every shard holds; [`controller::Controller`] is
//! the pure state machine that draws the next one; [`store`] carries it out, [`alter`] its changes,
//! [`deletion`] its end; [`checkpoints`] are Kafka's files of offsets, [`producer_ids`] gives those of idempotent producers. ZooKeeper is the truth: [`znode`] knows Kafka's
//! nodes, [`ensemble`] asks, [`reconcile`] takes over what others have written.

pub mod alter;
pub mod checkpoints;
pub mod config_change;
pub mod controller;
pub mod deletion;
pub mod ensemble;
pub mod producer_ids;
pub mod reconcile;
pub mod state;
pub mod store;
pub mod znode;
