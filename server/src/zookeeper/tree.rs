//! The tree of znodes: a pure state machine. A transaction goes in, results and events come out.
//!
//! Invariants: a transaction takes effect whole or not at all; every node but the root has a
//! parent that lists it; an ephemeral has no children and stands in its session's list; results
//! depend only on the transactions, the zxids and the times passed in. The order of checks is that
//! of ZooKeeper's `PrepRequestProcessor`, so that a request with several faults gets the same
//! error. It reads no clock, does no I/O, and knows neither connections nor watches.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::rc::Rc;

use bytes::Bytes;

use super::acl::{self, Acl};
use super::node::{CONTAINER_OWNER, Node, NodeStat};
use super::path;
use super::protocol::ErrorCode;
use super::transaction::{Applied, Change, Context, Event, Lifetime, Operation, Outcome, Refused};

/// How to take back one step of a transaction.
enum Undo {
    Create(Rc<str>),
    Delete(Rc<str>, Node),
    /// Everything of a node but its children.
    Set(Rc<str>, Option<Bytes>, Rc<[Acl]>, NodeStat),
}

/// All nodes.
#[derive(Debug)]
pub struct Tree {
    nodes: BTreeMap<Rc<str>, Node>,
    ephemerals: BTreeMap<i64, BTreeSet<Rc<str>>>,
    containers: BTreeSet<Rc<str>>,
    /// What the nodes cost in memory, and how much they may.
    bytes: usize,
    bytes_max: usize,
    /// Nodes that differ from what was stored last.
    changed: BTreeSet<Rc<str>>,
}

/// Why stored nodes are no tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node '{path}' {what}")]
pub struct Inconsistent {
    path: String,
    what: &'static str,
}

impl Tree {
    /// The tree of a new server: `/` and the nodes below `/zookeeper`.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        let open: Rc<[Acl]> = Acl::anyone(acl::ALL).into();
        let read_only: Rc<[Acl]> = Acl::anyone(acl::READ).into();
        let node = |acl: &Rc<[Acl]>, aversion| {
            let stat = NodeStat {
                aversion,
                ..NodeStat::default()
            };
            Node::new(Some(Bytes::new()), Rc::clone(acl), stat)
        };
        let nodes = vec![
            (Rc::from("/"), node(&open, 0)),
            (Rc::from("/zookeeper"), node(&open, 0)),
            // Set by an ACL change to version -1 (DataTree.addConfigNode).
            (Rc::from("/zookeeper/config"), node(&read_only, -1)),
            (Rc::from("/zookeeper/quota"), node(&open, 0)),
        ];
        let mut tree = Self::from_nodes(nodes, bytes_max).expect("these four nodes are a tree");
        tree.changed = tree.nodes.keys().cloned().collect();
        tree
    }

    /// The tree of stored nodes; their children are found here.
    ///
    /// # Errors
    /// The first node without a parent, with an invalid path or under an ephemeral.
    pub fn from_nodes(
        stored: Vec<(Rc<str>, Node)>,
        bytes_max: usize,
    ) -> Result<Self, Inconsistent> {
        let mut tree = Self {
            nodes: stored.into_iter().collect(),
            ephemerals: BTreeMap::new(),
            containers: BTreeSet::new(),
            bytes: 0,
            bytes_max,
            changed: BTreeSet::new(),
        };
        let paths: Vec<Rc<str>> = tree.nodes.keys().cloned().collect();
        for path in &paths {
            let wrong = |what| Inconsistent {
                path: path.to_string(),
                what,
            };
            path::validate(path).map_err(|_| wrong("has an invalid path"))?;
            let node = tree.nodes.get(path).ok_or_else(|| wrong("is missing"))?;
            let owner = node.stat.ephemeral_owner;
            tree.bytes += node.cost(path);
            tree.own(path, owner);
            if &**path != "/" {
                let parent = path::parent(path).unwrap_or_default();
                let parent = tree
                    .nodes
                    .get_mut(parent)
                    .ok_or_else(|| wrong("has no parent"))?;
                if is_ephemeral(parent.stat.ephemeral_owner) {
                    return Err(wrong("is below an ephemeral node"));
                }
                parent.children.insert(path::name(path).into());
            }
        }
        if !tree.nodes.contains_key("/") {
            return Err(Inconsistent {
                path: "/".to_owned(),
                what: "is missing",
            });
        }
        Ok(tree)
    }

    /// A node.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// Number of nodes, the root included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is nothing; never so, as the root cannot be deleted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// What the nodes cost in memory, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of nodes below a path.
    #[must_use]
    pub fn descendants(&self, path: &str) -> usize {
        if path == "/" {
            return self.nodes.len() - 1;
        }
        let front = format!("{path}/");
        let from = (Bound::Included(front.as_str()), Bound::Unbounded);
        let below = self.nodes.range::<str, _>(from);
        below
            .take_while(|(path, _)| path.starts_with(&front))
            .count()
    }

    /// The ephemerals of a session, in order.
    pub fn ephemerals(&self, session: i64) -> impl Iterator<Item = &Rc<str>> {
        self.ephemerals.get(&session).into_iter().flatten()
    }

    /// The sessions with ephemerals, and these.
    pub fn owners(&self) -> impl Iterator<Item = (i64, &BTreeSet<Rc<str>>)> {
        self.ephemerals
            .iter()
            .map(|(session, paths)| (*session, paths))
    }

    /// Whether there is a container node.
    #[must_use]
    pub fn has_containers(&self) -> bool {
        !self.containers.is_empty()
    }

    /// Containers that had children and have none now.
    #[must_use]
    pub fn empty_containers(&self) -> Vec<Rc<str>> {
        let is_done = |path: &&Rc<str>| {
            let node = self.nodes.get(*path);
            node.is_some_and(|node| node.stat.cversion > 0 && node.children.is_empty())
        };
        self.containers.iter().filter(is_done).cloned().collect()
    }

    /// The nodes changed since the last call; a path without a node was deleted.
    pub fn take_changed(&mut self) -> Vec<(Rc<str>, Option<&Node>)> {
        let changed = std::mem::take(&mut self.changed);
        let with_node = |path: Rc<str>| {
            let node = self.nodes.get(&path);
            (path, node)
        };
        changed.into_iter().map(with_node).collect()
    }

    /// Whether there are nodes that [`Tree::take_changed`] would give.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Carries a transaction out.
    ///
    /// # Errors
    /// The first operation that fails; then nothing has changed.
    pub fn apply(
        &mut self,
        context: Context<'_>,
        operations: &[Operation],
    ) -> Result<Applied, Refused> {
        let mut applied = Applied::default();
        let mut undo = Vec::new();
        let was_changed = self.is_changed();
        for (index, operation) in operations.iter().enumerate() {
            match self.step(context, operation, &mut applied.events, &mut undo) {
                Ok(outcome) => applied.outcomes.push(outcome),
                Err(code) => {
                    self.roll_back(undo);
                    if !was_changed {
                        self.changed.clear();
                    }
                    return Err(Refused { index, code });
                }
            }
        }
        Ok(applied)
    }

    /// Deletes all ephemerals of a session.
    pub fn end_session(&mut self, session: i64, zxid: i64) -> Vec<Event> {
        let paths = self.ephemerals.get(&session).cloned().unwrap_or_default();
        let mut events = Vec::with_capacity(paths.len());
        for path in paths {
            self.remove(&path, zxid, &mut events, &mut Vec::new());
        }
        events
    }

    /// Deletes a container, whatever its version and its parent's list.
    pub fn delete_container(&mut self, path: &str, zxid: i64) -> Vec<Event> {
        let mut events = Vec::new();
        self.remove(path, zxid, &mut events, &mut Vec::new());
        events
    }

    fn step(
        &mut self,
        context: Context<'_>,
        operation: &Operation,
        events: &mut Vec<Event>,
        undo: &mut Vec<Undo>,
    ) -> Result<Outcome, ErrorCode> {
        match operation {
            Operation::Create {
                path,
                data,
                acl,
                lifetime,
                is_sequential,
            } => {
                let parent = path::parent(path).filter(|_| !path.contains('\0'));
                let parent = parent.ok_or(ErrorCode::BadArguments)?;
                let acl = acl::fix_up(acl, context.ids)?;
                let path = self.free_path(context, path, parent, *is_sequential)?;
                let node = self.new_node(context, (data, acl), *lifetime, parent);
                self.insert(&path, node, context.zxid, events, undo)
            }
            Operation::Delete { path, version } => {
                self.check_delete(context, path, *version)?;
                self.remove(path, context.zxid, events, undo);
                Ok(Outcome::Deleted)
            }
            Operation::SetData {
                path,
                data,
                version,
            } => {
                let node = self.checked(context, path, acl::WRITE)?;
                let version = next_version(node.stat.version, *version)?;
                self.make_room(data.as_ref().map_or(0, Bytes::len))?;
                let (path, node) = self.change(path, undo)?;
                node.data.clone_from(data);
                node.stat.version = version;
                node.stat.mzxid = context.zxid;
                node.stat.mtime = context.time_ms;
                let event = Event {
                    change: Change::DataChanged,
                    path,
                    acl: Rc::clone(&node.acl),
                    parent_acl: Rc::clone(&node.acl),
                };
                let stat = node.client_stat();
                self.recount(undo);
                events.push(event);
                Ok(Outcome::Set(stat))
            }
            Operation::SetAcl { path, acl, version } => {
                path::validate(path)?;
                let fixed = acl::fix_up(acl, context.ids)?;
                let node = self.checked(context, path, acl::ADMIN)?;
                let version = next_version(node.stat.aversion, *version)?;
                let (_, node) = self.change(path, undo)?;
                node.acl = fixed.into();
                node.stat.aversion = version;
                let stat = node.client_stat();
                self.recount(undo);
                Ok(Outcome::Set(stat))
            }
            Operation::Check { path, version } => {
                let node = self.checked(context, path, acl::READ)?;
                next_version(node.stat.version, *version)?;
                Ok(Outcome::Checked)
            }
        }
    }

    /// An existing node on which the client has a permission.
    fn checked(
        &self,
        context: Context<'_>,
        path: &str,
        permission: i32,
    ) -> Result<&Node, ErrorCode> {
        path::validate(path)?;
        let node = self.nodes.get(path).ok_or(ErrorCode::NoNode)?;
        acl::check(&node.acl, permission, context.ids)?;
        Ok(node)
    }

    /// The path under which a node may be created.
    fn free_path(
        &self,
        context: Context<'_>,
        path: &str,
        parent: &str,
        is_sequential: bool,
    ) -> Result<Rc<str>, ErrorCode> {
        path::check_limits(path)?;
        let parent = self.nodes.get(parent).ok_or(ErrorCode::NoNode)?;
        acl::check(&parent.acl, acl::CREATE, context.ids)?;
        let path: Rc<str> = if is_sequential {
            format!("{path}{:010}", parent.stat.cversion).into()
        } else {
            path.into()
        };
        path::validate(&path)?;
        if self.nodes.contains_key(&path) {
            return Err(ErrorCode::NodeExists);
        }
        if is_ephemeral(parent.stat.ephemeral_owner) {
            return Err(ErrorCode::NoChildrenForEphemerals);
        }
        Ok(path)
    }

    fn new_node(
        &self,
        context: Context<'_>,
        (data, acl): (&Option<Bytes>, Vec<Acl>),
        lifetime: Lifetime,
        parent: &str,
    ) -> Node {
        // Most lists are their parent's: one copy serves all of them.
        let inherited = self.nodes.get(parent).filter(|parent| *parent.acl == *acl);
        let acl = inherited.map_or_else(|| acl.into(), |parent| Rc::clone(&parent.acl));
        let ephemeral_owner = match lifetime {
            Lifetime::Persistent => 0,
            Lifetime::Ephemeral => context.session,
            Lifetime::Container => CONTAINER_OWNER,
        };
        let stat = NodeStat {
            czxid: context.zxid,
            mzxid: context.zxid,
            pzxid: context.zxid,
            ctime: context.time_ms,
            mtime: context.time_ms,
            ephemeral_owner,
            ..NodeStat::default()
        };
        Node::new(data.clone(), acl, stat)
    }

    fn insert(
        &mut self,
        path: &Rc<str>,
        node: Node,
        zxid: i64,
        events: &mut Vec<Event>,
        undo: &mut Vec<Undo>,
    ) -> Result<Outcome, ErrorCode> {
        let cost = node.cost(path);
        self.make_room(cost)?;
        let parent = path::parent(path).unwrap_or("/");
        let (_, parent) = self.change(parent, undo)?;
        parent.children.insert(path::name(path).into());
        parent.stat.cversion = parent.stat.cversion.wrapping_add(1);
        parent.stat.pzxid = zxid;
        events.push(Event {
            change: Change::Created,
            path: Rc::clone(path),
            acl: Rc::clone(&node.acl),
            parent_acl: Rc::clone(&parent.acl),
        });
        let outcome = Outcome::Created(Rc::clone(path), node.client_stat());
        self.bytes += cost;
        self.own(path, node.stat.ephemeral_owner);
        self.nodes.insert(Rc::clone(path), node);
        self.changed.insert(Rc::clone(path));
        undo.push(Undo::Create(Rc::clone(path)));
        Ok(outcome)
    }

    fn check_delete(
        &self,
        context: Context<'_>,
        path: &str,
        version: i32,
    ) -> Result<(), ErrorCode> {
        let parent = path::parent(path).filter(|_| !path.contains('\0') && !path::is_special(path));
        let parent = parent.ok_or(ErrorCode::BadArguments)?;
        let parent = self.nodes.get(parent).ok_or(ErrorCode::NoNode)?;
        acl::check(&parent.acl, acl::DELETE, context.ids)?;
        let node = self.nodes.get(path).ok_or(ErrorCode::NoNode)?;
        next_version(node.stat.version, version)?;
        if node.children.is_empty() {
            Ok(())
        } else {
            Err(ErrorCode::NotEmpty)
        }
    }

    fn remove(&mut self, path: &str, zxid: i64, events: &mut Vec<Event>, undo: &mut Vec<Undo>) {
        let Some((path, node)) = self.nodes.remove_entry(path) else {
            return;
        };
        self.bytes = self.bytes.saturating_sub(node.cost(&path));
        self.disown(&path, node.stat.ephemeral_owner);
        self.changed.insert(Rc::clone(&path));
        let parent = path::parent(&path).unwrap_or("/").to_owned();
        let mut parent_acl = Rc::clone(&node.acl);
        if let Ok((_, parent)) = self.change(&parent, undo) {
            parent.children.remove(path::name(&path));
            parent.stat.pzxid = zxid;
            parent_acl = Rc::clone(&parent.acl);
        }
        events.push(Event {
            change: Change::Deleted,
            path: Rc::clone(&path),
            acl: Rc::clone(&node.acl),
            parent_acl,
        });
        undo.push(Undo::Delete(path, node));
    }

    /// A node about to be changed; how it was goes to `undo`.
    fn change(
        &mut self,
        path: &str,
        undo: &mut Vec<Undo>,
    ) -> Result<(Rc<str>, &mut Node), ErrorCode> {
        let (path, _) = self.nodes.get_key_value(path).ok_or(ErrorCode::NoNode)?;
        let path = Rc::clone(path);
        self.changed.insert(Rc::clone(&path));
        let node = self.nodes.get_mut(&path).ok_or(ErrorCode::NoNode)?;
        let (data, acl) = (node.data.clone(), Rc::clone(&node.acl));
        undo.push(Undo::Set(Rc::clone(&path), data, acl, node.stat));
        Ok((path, node))
    }

    /// Brings the byte count up to date with the change that stands last in `undo`.
    fn recount(&mut self, undo: &[Undo]) {
        let Some(Undo::Set(path, data, acl, stat)) = undo.last() else {
            return;
        };
        let before = Node::new(data.clone(), Rc::clone(acl), *stat).cost(path);
        let after = self.nodes.get(path).map_or(0, |node| node.cost(path));
        self.bytes = (self.bytes + after).saturating_sub(before);
    }

    /// Takes a transaction's steps back, last first.
    fn roll_back(&mut self, undo: Vec<Undo>) {
        for step in undo.into_iter().rev() {
            match step {
                Undo::Create(path) => {
                    if let Some(node) = self.nodes.remove(&path) {
                        self.bytes = self.bytes.saturating_sub(node.cost(&path));
                        self.disown(&path, node.stat.ephemeral_owner);
                    }
                    self.child_of_parent(&path, false);
                }
                Undo::Delete(path, node) => {
                    self.bytes += node.cost(&path);
                    self.own(&path, node.stat.ephemeral_owner);
                    self.child_of_parent(&path, true);
                    self.nodes.insert(path, node);
                }
                Undo::Set(path, data, acl, stat) => {
                    if let Some(node) = self.nodes.get_mut(&path) {
                        let after = node.cost(&path);
                        (node.data, node.acl, node.stat) = (data, acl, stat);
                        self.bytes = (self.bytes + node.cost(&path)).saturating_sub(after);
                    }
                }
            }
        }
    }

    fn child_of_parent(&mut self, path: &str, is_child: bool) {
        let parent = path::parent(path).unwrap_or("/");
        if let Some(parent) = self.nodes.get_mut(parent) {
            if is_child {
                parent.children.insert(path::name(path).into());
            } else {
                parent.children.remove(path::name(path));
            }
        }
    }

    fn make_room(&self, bytes: usize) -> Result<(), ErrorCode> {
        if self.bytes.saturating_add(bytes) > self.bytes_max {
            return Err(ErrorCode::QuotaExceeded);
        }
        Ok(())
    }

    fn own(&mut self, path: &Rc<str>, owner: i64) {
        if owner == CONTAINER_OWNER {
            self.containers.insert(Rc::clone(path));
        } else if owner != 0 {
            self.ephemerals
                .entry(owner)
                .or_default()
                .insert(Rc::clone(path));
        }
    }

    fn disown(&mut self, path: &str, owner: i64) {
        if owner == CONTAINER_OWNER {
            self.containers.remove(path);
        } else if let Some(paths) = self.ephemerals.get_mut(&owner) {
            paths.remove(path);
            if paths.is_empty() {
                self.ephemerals.remove(&owner);
            }
        }
    }
}

fn is_ephemeral(owner: i64) -> bool {
    owner != 0 && owner != CONTAINER_OWNER
}

/// The version after a change of what has version `current`, if that is the one expected.
fn next_version(current: i32, expected: i32) -> Result<i32, ErrorCode> {
    if expected != -1 && expected != current {
        return Err(ErrorCode::BadVersion);
    }
    Ok(current.wrapping_add(1))
}

#[cfg(test)]
mod tests;
