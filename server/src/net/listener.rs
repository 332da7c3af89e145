//! Accepts connections. Every shard accepts from the same listening sockets; a connection stays
//! where it was accepted.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use ringlog_engine::io::Listener;

use super::connection;
use crate::shard::Shard;

/// After an accept that failed for want of descriptors or memory, before the next.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Accepts until the broker stops.
pub async fn run(shard: Rc<Shard>, listener: Listener, index: usize) {
    let mut refused = 0u64;
    while !shard.is_stopping() {
        match shard.io.accept(&listener).await {
            Ok((socket, peer)) => match shard.broker.admit(peer.ip()) {
                Ok(()) => connection::start(&shard, socket, peer, index),
                Err(key) => {
                    refused += 1;
                    if refused.is_power_of_two() {
                        log::warn!(
                            "Refused a connection of {peer}: the limit {key} is reached \
                             ({refused} refused so far); raise {key}, or find who keeps so many open"
                        );
                    }
                }
            },
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                log::error!(
                    "Cannot accept connections: {error}; running ones go on (is the limit of open \
                     files, `ulimit -n`, reached?)"
                );
                shard.io.sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
}

/// The peer was gone before it was accepted (accept(2), "ERRORS").
fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NotConnected
            | io::ErrorKind::Interrupted
    )
}
