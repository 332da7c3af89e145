//! Connections: accepted, framed, guarded, answered in order.

mod answers;
pub mod connection;
pub mod foreign_protocol;
pub mod listener;
pub mod response;
pub mod schema;
