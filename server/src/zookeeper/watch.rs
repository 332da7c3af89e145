//! Watches: who waits for which change of which path. Pure; the rules are those of ZooKeeper's
//! `WatchManager`.
//!
//! A watch belongs to a connection, not to a session: a client that comes back sets its watches
//! anew (`setWatches`). A standard watch fires once; persistent ones stay, and a recursive one
//! fires for everything below its path too. Invariant: the bytes that all watches take are counted
//! and bounded, per connection and in all.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::path;
use super::protocol::ErrorCode;

/// A connection's number, never used twice.
pub type ConnectionId = u64;

/// What a watch costs beside its path.
const WATCH_BYTES: usize = 96;

/// How long a watch lasts and how far it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Fires once.
    Standard = 1,
    /// Fires for every change.
    Persistent = 2,
    /// Fires for every change of the path and of what is below.
    Recursive = 4,
}

/// Which watches `removeWatches` and `checkWatches` mean (`Watcher.WatcherType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Standard watches for children.
    Children,
    /// Standard watches for data and existence.
    Data,
    /// All of them.
    Any,
    /// Persistent ones.
    Persistent,
    /// Recursive ones.
    PersistentRecursive,
}

/// How many bytes watches may take.
#[derive(Clone, Copy, Debug)]
pub struct WatchLimits {
    /// Of one connection.
    pub connection_bytes_max: usize,
    /// Of all connections.
    pub bytes_max: usize,
}

#[derive(Debug, Default)]
struct Side {
    by_path: BTreeMap<Rc<str>, BTreeMap<ConnectionId, u8>>,
    by_connection: BTreeMap<ConnectionId, BTreeSet<Rc<str>>>,
    recursive: usize,
}

/// All watches.
#[derive(Debug)]
pub struct Watches {
    data: Side,
    children: Side,
    limits: WatchLimits,
    bytes: usize,
    bytes_of: BTreeMap<ConnectionId, usize>,
}

/// Numbers for `wchs` and `mntr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchSummary {
    /// Connections with watches.
    pub connections: usize,
    /// Paths watched.
    pub paths: usize,
    /// Watches.
    pub watches: usize,
}

impl Watches {
    /// No watches yet.
    #[must_use]
    pub fn new(limits: WatchLimits) -> Self {
        Self {
            data: Side::default(),
            children: Side::default(),
            limits,
            bytes: 0,
            bytes_of: BTreeMap::new(),
        }
    }

    /// Watches a path's data or existence.
    ///
    /// # Errors
    /// THROTTLEDOP at a limit.
    pub fn watch_data(
        &mut self,
        connection: ConnectionId,
        path: &str,
        mode: Mode,
    ) -> Result<(), ErrorCode> {
        self.room(connection, path)?;
        if self.data.add(connection, path, mode) {
            self.count(connection, path, true);
        }
        Ok(())
    }

    /// Watches a path's children.
    ///
    /// # Errors
    /// THROTTLEDOP at a limit.
    pub fn watch_children(
        &mut self,
        connection: ConnectionId,
        path: &str,
        mode: Mode,
    ) -> Result<(), ErrorCode> {
        self.room(connection, path)?;
        if self.children.add(connection, path, mode) {
            self.count(connection, path, true);
        }
        Ok(())
    }

    /// Adds a watch that stays, as `addWatch` does.
    ///
    /// # Errors
    /// THROTTLEDOP at a limit.
    pub fn watch_for_good(
        &mut self,
        connection: ConnectionId,
        path: &str,
        mode: Mode,
    ) -> Result<(), ErrorCode> {
        self.watch_data(connection, path, mode)?;
        match mode {
            Mode::Recursive => Ok(()),
            Mode::Standard | Mode::Persistent => self.watch_children(connection, path, mode),
        }
    }

    /// Who is to be told of a change of a path's data or existence.
    pub fn fire_data(&mut self, path: &str) -> BTreeSet<ConnectionId> {
        let (told, gone) = self.data.fire(path);
        gone.iter()
            .for_each(|connection| self.count(*connection, path, false));
        told
    }

    /// Who is to be told of a change of a path's children.
    pub fn fire_children(&mut self, path: &str) -> BTreeSet<ConnectionId> {
        let (told, gone) = self.children.fire(path);
        gone.iter()
            .for_each(|connection| self.count(*connection, path, false));
        told
    }

    /// Whether there is such a watch.
    #[must_use]
    pub fn contains(&self, connection: ConnectionId, path: &str, kind: Kind) -> bool {
        let data = self.data.modes(connection, path);
        let children = self.children.modes(connection, path);
        match kind {
            Kind::Children => children & Mode::Standard as u8 != 0,
            Kind::Data => data & Mode::Standard as u8 != 0,
            Kind::Persistent => data & Mode::Persistent as u8 != 0,
            Kind::PersistentRecursive => data & Mode::Recursive as u8 != 0,
            Kind::Any => data | children != 0,
        }
    }

    /// Removes such watches; tells whether there was one.
    pub fn remove(&mut self, connection: ConnectionId, path: &str, kind: Kind) -> bool {
        let (data, children) = match kind {
            Kind::Children => (0, Mode::Standard as u8),
            Kind::Data => (Mode::Standard as u8, 0),
            Kind::Persistent => (Mode::Persistent as u8, Mode::Persistent as u8),
            Kind::PersistentRecursive => (Mode::Recursive as u8, 0),
            Kind::Any => (u8::MAX, u8::MAX),
        };
        let mut is_removed = false;
        for (side, modes) in [(&mut self.data, data), (&mut self.children, children)] {
            let (has_changed, is_gone) = side.remove(connection, path, modes);
            is_removed |= has_changed;
            if is_gone {
                let cost = WATCH_BYTES + path.len();
                self.bytes = self.bytes.saturating_sub(cost);
                if let Some(bytes) = self.bytes_of.get_mut(&connection) {
                    *bytes = bytes.saturating_sub(cost);
                }
            }
        }
        is_removed
    }

    /// Forgets a connection.
    pub fn remove_connection(&mut self, connection: ConnectionId) {
        self.data.remove_connection(connection);
        self.children.remove_connection(connection);
        let bytes = self.bytes_of.remove(&connection).unwrap_or(0);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// What `wchs` tells: of data watches, as ZooKeeper's does.
    #[must_use]
    pub fn summary(&self) -> WatchSummary {
        let watches = self.data.by_path.values().map(BTreeMap::len);
        WatchSummary {
            connections: self.data.by_connection.len(),
            paths: self.data.by_path.len(),
            watches: watches.sum(),
        }
    }

    /// Number of watches of both sorts.
    #[must_use]
    pub fn len(&self) -> usize {
        let children = self.children.by_path.values().map(BTreeMap::len);
        self.summary().watches + children.sum::<usize>()
    }

    /// Whether nobody watches anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.data.by_path.is_empty() && self.children.by_path.is_empty()
    }

    fn room(&self, connection: ConnectionId, path: &str) -> Result<(), ErrorCode> {
        path::check_limits(path)?;
        let cost = WATCH_BYTES + path.len();
        let own = self.bytes_of.get(&connection).copied().unwrap_or(0);
        if own + cost > self.limits.connection_bytes_max
            || self.bytes + cost > self.limits.bytes_max
        {
            return Err(ErrorCode::ThrottledOp);
        }
        Ok(())
    }

    fn count(&mut self, connection: ConnectionId, path: &str, is_added: bool) {
        let cost = WATCH_BYTES + path.len();
        let own = self.bytes_of.entry(connection).or_default();
        if is_added {
            *own += cost;
            self.bytes += cost;
        } else {
            *own = own.saturating_sub(cost);
            self.bytes = self.bytes.saturating_sub(cost);
        }
    }
}

impl Side {
    fn modes(&self, connection: ConnectionId, path: &str) -> u8 {
        let watchers = self.by_path.get(path);
        watchers
            .and_then(|watchers| watchers.get(&connection))
            .copied()
            .unwrap_or(0)
    }

    /// Tells whether the connection did not watch the path before.
    fn add(&mut self, connection: ConnectionId, path: &str, mode: Mode) -> bool {
        let path = match self.by_path.get_key_value(path) {
            Some((path, _)) => Rc::clone(path),
            None => path.into(),
        };
        let watchers = self.by_path.entry(Rc::clone(&path)).or_default();
        let modes = watchers.entry(connection).or_default();
        if mode == Mode::Recursive && *modes & Mode::Recursive as u8 == 0 {
            self.recursive += 1;
        }
        let is_new = *modes == 0;
        *modes |= mode as u8;
        self.by_connection
            .entry(connection)
            .or_default()
            .insert(path);
        is_new
    }

    /// Who is told, and who no longer watches the path.
    fn fire(&mut self, path: &str) -> (BTreeSet<ConnectionId>, Vec<ConnectionId>) {
        let mut told = BTreeSet::new();
        let mut gone = Vec::new();
        if let Some(watchers) = self.by_path.get(path) {
            told.extend(watchers.keys());
            let once = |(connection, modes): (&ConnectionId, &u8)| {
                (*modes & Mode::Standard as u8 != 0).then_some(*connection)
            };
            let once: Vec<ConnectionId> = watchers.iter().filter_map(once).collect();
            for connection in once {
                if self.remove(connection, path, Mode::Standard as u8).1 {
                    gone.push(connection);
                }
            }
        }
        if self.recursive > 0 {
            let mut above = path;
            while let Some(parent) = path::parent(above).filter(|parent| *parent != above) {
                let watchers = self.by_path.get(parent).into_iter().flatten();
                let recursive = watchers.filter(|(_, modes)| **modes & Mode::Recursive as u8 != 0);
                told.extend(recursive.map(|(connection, _)| *connection));
                above = parent;
            }
        }
        (told, gone)
    }

    /// Tells whether a mode was removed, and whether the connection no longer watches the path.
    fn remove(&mut self, connection: ConnectionId, path: &str, modes: u8) -> (bool, bool) {
        let Some(watchers) = self.by_path.get_mut(path) else {
            return (false, false);
        };
        let Some(present) = watchers.get_mut(&connection) else {
            return (false, false);
        };
        let removed = *present & modes;
        if removed & Mode::Recursive as u8 != 0 {
            self.recursive -= 1;
        }
        *present &= !modes;
        if *present != 0 {
            return (removed != 0, false);
        }
        watchers.remove(&connection);
        if watchers.is_empty() {
            self.by_path.remove(path);
        }
        if let Some(paths) = self.by_connection.get_mut(&connection) {
            paths.remove(path);
            if paths.is_empty() {
                self.by_connection.remove(&connection);
            }
        }
        (removed != 0, true)
    }

    fn remove_connection(&mut self, connection: ConnectionId) {
        for path in self.by_connection.remove(&connection).unwrap_or_default() {
            let Some(watchers) = self.by_path.get_mut(&path) else {
                continue;
            };
            let modes = watchers.remove(&connection).unwrap_or(0);
            if modes & Mode::Recursive as u8 != 0 {
                self.recursive -= 1;
            }
            if watchers.is_empty() {
                self.by_path.remove(&path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watches() -> Watches {
        Watches::new(WatchLimits {
            connection_bytes_max: 1000,
            bytes_max: 1500,
        })
    }

    #[test]
    fn a_standard_watch_fires_once() {
        let mut watches = watches();
        watches.watch_data(1, "/a", Mode::Standard).unwrap();
        watches.watch_data(1, "/a", Mode::Standard).unwrap();
        watches.watch_data(2, "/a", Mode::Standard).unwrap();
        assert_eq!(
            watches.summary(),
            WatchSummary {
                connections: 2,
                paths: 1,
                watches: 2
            }
        );
        assert_eq!(watches.fire_data("/a"), BTreeSet::from([1, 2]));
        assert_eq!(watches.fire_data("/a"), BTreeSet::new());
        assert!(watches.is_empty());
        assert_eq!(watches.bytes, 0);
    }

    #[test]
    fn persistent_and_recursive_watches_stay() {
        let mut watches = watches();
        watches.watch_for_good(1, "/a", Mode::Persistent).unwrap();
        watches.watch_for_good(2, "/a", Mode::Recursive).unwrap();
        watches.watch_for_good(3, "/", Mode::Recursive).unwrap();
        for _ in 0..2 {
            assert_eq!(watches.fire_data("/a"), BTreeSet::from([1, 2, 3]));
            assert_eq!(watches.fire_children("/a"), BTreeSet::from([1]));
            assert_eq!(watches.fire_data("/a/b/c"), BTreeSet::from([2, 3]));
        }
        assert!(watches.remove(2, "/a", Kind::PersistentRecursive));
        assert!(!watches.remove(2, "/a", Kind::Any));
        assert_eq!(watches.fire_data("/a/b/c"), BTreeSet::from([3]));
        watches.remove_connection(3);
        watches.remove_connection(1);
        assert_eq!(
            (watches.data.recursive, watches.bytes, watches.len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn modes_of_one_path_are_apart() {
        let mut watches = watches();
        watches.watch_data(1, "/a", Mode::Standard).unwrap();
        watches.watch_for_good(1, "/a", Mode::Persistent).unwrap();
        assert!(
            watches.contains(1, "/a", Kind::Data) && watches.contains(1, "/a", Kind::Persistent)
        );
        assert_eq!(watches.fire_data("/a"), BTreeSet::from([1]));
        assert!(!watches.contains(1, "/a", Kind::Data));
        assert!(watches.contains(1, "/a", Kind::Any));
        assert!(watches.remove(1, "/a", Kind::Persistent));
        assert!(watches.is_empty());
        assert_eq!(watches.bytes, 0);
    }

    #[test]
    fn limits_hold() {
        let mut watches = watches();
        let fill = |watches: &mut Watches, connection| {
            (0..)
                .take_while(|i| {
                    watches
                        .watch_data(connection, &format!("/{i}"), Mode::Standard)
                        .is_ok()
                })
                .count()
        };
        assert_eq!(fill(&mut watches, 1), 10);
        assert_eq!(fill(&mut watches, 2), 5);
        watches.remove_connection(1);
        assert_eq!(fill(&mut watches, 3), 10);
    }
}
