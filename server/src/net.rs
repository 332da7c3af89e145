//! Connections: accepted, framed, guarded, answered in order.

pub mod connection;
pub mod listener;
pub mod protocol_hint;
pub mod response;
pub mod schema;
