//! The deadlines of all groups of a coordinator in one ordered set: one entry per key, exact, so
//! that memory is bounded by groups and members and the next deadline is one look-up.

use kafka_protocol::protocol::StrBytes;
use std::collections::{BTreeMap, BTreeSet};

/// What a deadline is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TimerKey {
    /// The member is failed unless it shows a sign of life: (group, member).
    Session(StrBytes, StrBytes),
    /// The member id was given out (KIP-394), but nobody joined with it: (group, member).
    PendingMember(StrBytes, StrBytes),
    /// The members have to rejoin by then.
    Join(StrBytes),
    /// The members have to send SyncGroup by then.
    Sync(StrBytes),
    /// The periodic look for expired offsets.
    OffsetExpiry,
}

/// See the head of the file.
#[derive(Debug, Default)]
pub(super) struct Timers {
    deadlines: BTreeMap<TimerKey, i64>,
    queue: BTreeSet<(i64, TimerKey)>,
}

impl Timers {
    /// Sets the one deadline of `key`, in place of an earlier one.
    pub(super) fn set(&mut self, key: TimerKey, deadline_ms: i64) {
        if let Some(old_ms) = self.deadlines.insert(key.clone(), deadline_ms) {
            self.queue.remove(&(old_ms, key.clone()));
        }
        self.queue.insert((deadline_ms, key));
    }

    /// Forgets the deadline of `key`, if it has one.
    pub(super) fn cancel(&mut self, key: &TimerKey) {
        if let Some(old_ms) = self.deadlines.remove(key) {
            self.queue.remove(&(old_ms, key.clone()));
        }
    }

    /// Whether `key` has a deadline.
    pub(super) fn is_set(&self, key: &TimerKey) -> bool {
        self.deadlines.contains_key(key)
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<i64> {
        self.queue.first().map(|(deadline_ms, _)| *deadline_ms)
    }

    /// Takes everything that is due, in order of deadlines.
    pub(super) fn take_due(&mut self, now_ms: i64) -> Vec<TimerKey> {
        let mut due = Vec::new();
        while self.next().is_some_and(|deadline_ms| deadline_ms <= now_ms) {
            let Some((_, key)) = self.queue.pop_first() else {
                break;
            };
            self.deadlines.remove(&key);
            due.push(key);
        }
        due
    }

    /// How many deadlines there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.deadlines.len(), self.queue.len());
        self.queue.len()
    }
}
