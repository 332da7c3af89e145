//! What goes into the tree, a transaction's operations, and what comes out: outcomes and events.

use std::rc::Rc;

use bytes::Bytes;

use super::acl::{Acl, Id};
use super::protocol::{ErrorCode, Stat};

/// How long a created node lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is deleted.
    Persistent,
    /// Until its session ends.
    Ephemeral,
    /// Until it has lost its last child.
    Container,
}

/// One change, or a check, of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Creates a node.
    Create {
        /// Its path, or the front of it if `is_sequential`.
        path: String,
        /// Its data.
        data: Option<Bytes>,
        /// Its list, as the client gave it.
        acl: Vec<Acl>,
        /// How long it lives.
        lifetime: Lifetime,
        /// Whether ten digits are put behind the path.
        is_sequential: bool,
    },
    /// Deletes a node that has this version; -1 is any.
    Delete {
        /// Its path.
        path: String,
        /// Its version.
        version: i32,
    },
    /// Sets the data of a node that has this version.
    SetData {
        /// Its path.
        path: String,
        /// The data.
        data: Option<Bytes>,
        /// Its version.
        version: i32,
    },
    /// Sets the list of a node whose list has this version.
    SetAcl {
        /// Its path.
        path: String,
        /// The list, as the client gave it.
        acl: Vec<Acl>,
        /// The version of the list.
        version: i32,
    },
    /// Changes nothing, but fails the transaction if the node has not this version.
    Check {
        /// Its path.
        path: String,
        /// Its version.
        version: i32,
    },
}

/// Who asks, and what the transaction is stamped with.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The session, the owner of ephemerals.
    pub session: i64,
    /// The client's ids.
    pub ids: &'a [Id],
    /// The transaction's id, above all before.
    pub zxid: i64,
    /// Wall time in ms.
    pub time_ms: i64,
}

/// The result of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Created under this path.
    Created(Rc<str>, Stat),
    /// Deleted.
    Deleted,
    /// Data or list set.
    Set(Stat),
    /// The version was right.
    Checked,
}

/// What happened to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was created, so its parent's children changed.
    Created,
    /// It was deleted, so its parent's children changed.
    Deleted,
    /// Its data was set.
    DataChanged,
}

/// A change that watches may be waiting for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub change: Change,
    /// To which node.
    pub path: Rc<str>,
    /// The node's list at that time: who may not read it gets no event.
    pub acl: Rc<[Acl]>,
    /// The parent's list, for the event about its children.
    pub parent_acl: Rc<[Acl]>,
}

/// A transaction that took effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// One for each operation.
    pub outcomes: Vec<Outcome>,
    /// In the order in which they happened.
    pub events: Vec<Event>,
}

/// A transaction that did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The operation that failed.
    pub index: usize,
    /// Why.
    pub code: ErrorCode,
}
