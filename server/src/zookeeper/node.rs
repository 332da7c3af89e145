//! A znode: its data, its list, its history and the names of its children.

use std::collections::BTreeSet;
use std::rc::Rc;

use bytes::Bytes;

use super::acl::Acl;
use super::protocol::Stat;

/// The `ephemeralOwner` of a container node (`EphemeralType.CONTAINER_EPHEMERAL_OWNER`).
pub const CONTAINER_OWNER: i64 = i64::MIN;
/// What a node costs beside its path, data and list; for the bound on the tree's memory.
const NODE_BYTES: usize = 256;

/// What the server keeps of a node's `Stat`; the rest follows from the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeStat {
    /// Transaction that created it.
    pub czxid: i64,
    /// Transaction that last set its data.
    pub mzxid: i64,
    /// Transaction that last created or deleted a child.
    pub pzxid: i64,
    /// Wall time of its creation, in ms.
    pub ctime: i64,
    /// Wall time of the last setting of its data, in ms.
    pub mtime: i64,
    /// Version of its data.
    pub version: i32,
    /// Number of children ever created: the next sequence number.
    pub cversion: i32,
    /// Version of its list.
    pub aversion: i32,
    /// The session of an ephemeral, 0 for a persistent node, [`CONTAINER_OWNER`] for a container.
    pub ephemeral_owner: i64,
}

/// A znode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its data; null and empty differ.
    pub data: Option<Bytes>,
    /// Its access control list.
    pub acl: Rc<[Acl]>,
    /// Its history.
    pub stat: NodeStat,
    /// Names of its children.
    pub children: BTreeSet<Rc<str>>,
}

impl Node {
    /// A node without children.
    #[must_use]
    pub fn new(data: Option<Bytes>, acl: Rc<[Acl]>, stat: NodeStat) -> Self {
        Self {
            data,
            acl,
            stat,
            children: BTreeSet::new(),
        }
    }

    /// The `Stat` a client gets. Its `cversion` counts deletions too (`DataNode.copyStat`): for
    /// every child created there is one deleted, but for those still there.
    #[must_use]
    pub fn client_stat(&self) -> Stat {
        let children = i32::try_from(self.children.len()).unwrap_or(i32::MAX);
        let data_length = self.data.as_ref().map_or(0, Bytes::len);
        Stat {
            czxid: self.stat.czxid,
            mzxid: self.stat.mzxid,
            ctime: self.stat.ctime,
            mtime: self.stat.mtime,
            version: self.stat.version,
            cversion: self.stat.cversion.wrapping_mul(2).wrapping_sub(children),
            aversion: self.stat.aversion,
            ephemeral_owner: self.stat.ephemeral_owner,
            data_length: i32::try_from(data_length).unwrap_or(i32::MAX),
            num_children: children,
            pzxid: self.stat.pzxid,
        }
    }

    /// What it costs in memory, about.
    #[must_use]
    pub fn cost(&self, path: &str) -> usize {
        NODE_BYTES + 2 * path.len() + self.data.as_ref().map_or(0, Bytes::len) + 64 * self.acl.len()
    }
}
