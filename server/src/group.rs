//! The consumer group coordinator: Kafka's classic group protocol and the committed offsets, as a
//! pure state machine. An event goes in ([`Coordinator::handle`], [`Coordinator::appended`],
//! [`Coordinator::tick`], ..), [`Action`]s come out; no I/O, no clock, no randomness of its own.
//!
//! The behaviour is that of Apache Kafka 3.9, `core/src/main/scala/kafka/coordinator/group/`
//! (GroupCoordinator, GroupMetadata, GroupMetadataManager) and, for what depends on the version of
//! a request, `core/src/main/scala/kafka/server/KafkaApis.scala`.
//!
//! | file | what it is |
//! |---|---|
//! | `coordinator.rs` | the entry points, and which partitions of `__consumer_offsets` are ours |
//! | `join.rs` `sync.rs` `leave.rs` `commit.rs` `fetch.rs` `admin.rs` | the handlers |
//! | `rebalance.rs` | from PreparingRebalance to the next generation, and what timers do to a group |
//! | `group_state.rs` `member.rs` `offsets.rs` | what one group holds |
//! | `load.rs` | the log replayed into groups |
//! | `record_format.rs` | the records of `__consumer_offsets`, byte for byte |
//! | `driver.rs` | runs it all on a shard: appends, timers, replies |
//! | `context.rs` `timers.rs` `action.rs` | waiting tickets, appends under way, deadlines, the interface's types |
//!
//! Invariants:
//! - A ticket is answered exactly once, unless [`Coordinator::cancel`] took it back or the caller
//!   lost the append that it waits for.
//! - A generation only grows while its group lives; a group has at most one leader, and it is a member.
//! - An offset is visible to OffsetFetch only after the append of its record was reported.
//! - Long-lived state never holds a slice of a request: that would pin the whole frame.
//!
//! What it does not do: authorisation, throttling, and whether a topic exists (the handlers filter
//! before), transactional offset commits, and the KIP-848 protocol.

mod action;
mod admin;
mod commit;
mod context;
mod coordinator;
pub mod driver;
mod fetch;
mod group_state;
mod join;
mod leave;
mod load;
mod member;
mod offsets;
mod rebalance;
pub mod record_format;
mod sync;
mod timers;

#[cfg(test)]
mod tests;

pub use action::{
    Action, AppendToken, Caller, GroupConfig, GroupRecord, GroupRequest, GroupResponse,
};
pub use coordinator::Coordinator;
pub use group_state::GroupState;
pub use load::{LoadReport, LoadedGroups};
pub use offsets::OffsetAndMetadata;

/// The partition of `__consumer_offsets` that holds a group: Java's `String.hashCode` of the group
/// id, `Utils.abs` of it (which maps `Integer.MIN_VALUE` to 0), modulo the number of partitions.
///
/// `partitions` below 1 counts as 1.
pub fn partition_for_group(group_id: &str, partitions: i32) -> i32 {
    let hash = group_id.encode_utf16().fold(0i32, |hash, unit| {
        hash.wrapping_mul(31).wrapping_add(i32::from(unit))
    });
    hash.checked_abs().unwrap_or(0) % partitions.max(1)
}
