//! What stands between a socket and a handler: frames are checked here before they are decoded.

pub mod foreign_protocol;
pub mod schema;
