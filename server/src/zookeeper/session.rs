//! Sessions: who they are, to which connection they are attached, and when they expire. Pure: time
//! is passed in.
//!
//! As in ZooKeeper's `SessionTrackerImpl`, expiry is rounded up to whole ticks, so that sessions
//! expire in batches and never early. Invariant: every session has exactly one deadline.

use std::collections::{BTreeMap, BTreeSet};

use super::watch::ConnectionId;

/// What a client shows to come back to its session.
pub type Password = [u8; 16];

/// One session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// What the client must show to attach again.
    pub password: Password,
    /// Negotiated timeout.
    pub timeout_ms: u32,
    /// The connection it is attached to.
    pub connection: Option<ConnectionId>,
    deadline_ms: u64,
}

/// All sessions.
#[derive(Debug)]
pub struct Sessions {
    by_id: BTreeMap<i64, Session>,
    deadlines: BTreeSet<(u64, i64)>,
    tick_ms: u64,
    next_id: i64,
    /// Sessions that differ from what was stored last.
    changed: BTreeSet<i64>,
}

impl Sessions {
    /// No sessions yet. `wall_ms` makes ids that no earlier run has given.
    #[must_use]
    pub fn new(tick_ms: u32, wall_ms: i64) -> Self {
        Self {
            by_id: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            tick_ms: u64::from(tick_ms.max(1)),
            next_id: first_id(wall_ms),
            changed: BTreeSet::new(),
        }
    }

    /// Takes a stored session back; its timeout starts anew.
    pub fn restore(&mut self, id: i64, password: Password, timeout_ms: u32, now_ms: u64) {
        self.next_id = self.next_id.max(id.saturating_add(1));
        self.insert(id, password, timeout_ms, now_ms);
    }

    /// Opens a session and gives its id.
    pub fn open(&mut self, password: Password, timeout_ms: u32, now_ms: u64) -> i64 {
        let id = self.next_id;
        self.next_id += 1;
        self.insert(id, password, timeout_ms, now_ms);
        self.changed.insert(id);
        id
    }

    fn insert(&mut self, id: i64, password: Password, timeout_ms: u32, now_ms: u64) {
        let deadline_ms = self.deadline(now_ms, timeout_ms);
        self.deadlines.insert((deadline_ms, id));
        let session = Session {
            password,
            timeout_ms,
            connection: None,
            deadline_ms,
        };
        self.by_id.insert(id, session);
    }

    /// A session.
    #[must_use]
    pub fn get(&self, id: i64) -> Option<&Session> {
        self.by_id.get(&id)
    }

    /// All sessions, by id.
    pub fn iter(&self) -> impl Iterator<Item = (i64, &Session)> {
        self.by_id.iter().map(|(id, session)| (*id, session))
    }

    /// Number of sessions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Attaches a session to a connection with a new timeout; tells the connection it had before.
    pub fn attach(
        &mut self,
        id: i64,
        connection: ConnectionId,
        timeout_ms: u32,
    ) -> Option<ConnectionId> {
        let session = self.by_id.get_mut(&id)?;
        if session.timeout_ms != timeout_ms {
            session.timeout_ms = timeout_ms;
            self.changed.insert(id);
        }
        session.connection.replace(connection)
    }

    /// Detaches a session from a connection that is gone, unless it has moved on.
    pub fn detach(&mut self, id: i64, connection: ConnectionId) {
        if let Some(session) = self.by_id.get_mut(&id)
            && session.connection == Some(connection)
        {
            session.connection = None;
        }
    }

    /// Moves a session's deadline, as every packet does.
    pub fn touch(&mut self, id: i64, now_ms: u64) {
        let tick_ms = self.tick_ms;
        let Some(session) = self.by_id.get_mut(&id) else {
            return;
        };
        let deadline_ms = deadline(now_ms, session.timeout_ms, tick_ms);
        if deadline_ms != session.deadline_ms {
            self.deadlines.remove(&(session.deadline_ms, id));
            self.deadlines.insert((deadline_ms, id));
            session.deadline_ms = deadline_ms;
        }
    }

    /// Ends a session.
    pub fn close(&mut self, id: i64) -> Option<Session> {
        let session = self.by_id.remove(&id)?;
        self.deadlines.remove(&(session.deadline_ms, id));
        self.changed.insert(id);
        Some(session)
    }

    /// The sessions whose time is over.
    #[must_use]
    pub fn expired(&self, now_ms: u64) -> Vec<i64> {
        let over = self
            .deadlines
            .iter()
            .take_while(|(deadline, _)| *deadline <= now_ms);
        over.map(|(_, id)| *id).collect()
    }

    /// When the next session expires, if it is not touched.
    #[must_use]
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Gives all sessions their whole timeout again. For a server that was itself asleep (stopped,
    /// or stuck in a slow disk) and could not hear its clients.
    pub fn touch_all(&mut self, now_ms: u64) {
        let ids: Vec<i64> = self.by_id.keys().copied().collect();
        ids.into_iter().for_each(|id| self.touch(id, now_ms));
    }

    /// The sessions changed since the last call; an id without a session was closed.
    pub fn take_changed(&mut self) -> Vec<(i64, Option<&Session>)> {
        let changed = std::mem::take(&mut self.changed);
        changed
            .into_iter()
            .map(|id| (id, self.by_id.get(&id)))
            .collect()
    }

    /// Whether there are sessions that [`Sessions::take_changed`] would give.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    fn deadline(&self, now_ms: u64, timeout_ms: u32) -> u64 {
        deadline(now_ms, timeout_ms, self.tick_ms)
    }
}

/// The end of the tick in which the timeout ends (`ExpiryQueue.roundToNextInterval`).
fn deadline(now_ms: u64, timeout_ms: u32, tick_ms: u64) -> u64 {
    ((now_ms + u64::from(timeout_ms)) / tick_ms + 1) * tick_ms
}

/// As `SessionTrackerImpl.initializeNextSessionId` with server id 0: 40 bits of milliseconds, then
/// 16 bits to count; ids of later runs are larger.
fn first_id(wall_ms: i64) -> i64 {
    let shifted = (wall_ms.cast_unsigned() << 24) >> 8;
    shifted.cast_signed().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_expires_only_when_untouched() {
        let mut sessions = Sessions::new(2000, 1_700_000_000_000);
        let id = sessions.open([7; 16], 4000, 100);
        assert_eq!(sessions.expired(5999), Vec::<i64>::new());
        assert_eq!(sessions.expired(6000), vec![id]);
        sessions.touch(id, 5000);
        assert_eq!(sessions.expired(9999), Vec::<i64>::new());
        assert_eq!(sessions.next_deadline_ms(), Some(10_000));
        sessions.touch_all(20_000);
        assert_eq!(sessions.next_deadline_ms(), Some(26_000));
        assert!(sessions.close(id).is_some());
        assert_eq!(sessions.next_deadline_ms(), None);
    }

    #[test]
    fn ids_do_not_come_twice() {
        let mut sessions = Sessions::new(2000, 1);
        sessions.restore(1 << 60, [0; 16], 4000, 0);
        assert_eq!(sessions.open([0; 16], 4000, 0), (1 << 60) + 1);
        let earlier = Sessions::new(2000, 1_700_000_000_000).next_id;
        assert!(Sessions::new(2000, 1_700_000_000_001).next_id > earlier);
    }

    #[test]
    fn a_late_detach_does_not_hurt_a_session_that_moved() {
        let mut sessions = Sessions::new(2000, 1);
        let id = sessions.open([0; 16], 4000, 0);
        assert_eq!(sessions.attach(id, 1, 4000), None);
        assert_eq!(sessions.attach(id, 2, 4000), Some(1));
        sessions.detach(id, 1);
        assert_eq!(sessions.get(id).unwrap().connection, Some(2));
    }

    #[test]
    fn changes_are_given_once() {
        let mut sessions = Sessions::new(2000, 1);
        let id = sessions.open([0; 16], 4000, 0);
        assert!(matches!(sessions.take_changed()[..], [(one, Some(_))] if one == id));
        assert!(!sessions.is_changed());
        sessions.close(id);
        assert_eq!(sessions.take_changed(), vec![(id, None)]);
    }
}
