//! The simulated disk: names, directories and who has what open. What is done to open files is in
//! `open_files`, their contents in `file`.
//!
//! Invariants:
//! - A name that was made, moved or removed is durable only after a sync of its directory; until
//!   then it is one of the `changes`, which a crash keeps or drops one by one. The kernel may make
//!   the oldest ones durable by itself at any time.
//! - A node has at most one durable name (there are no hard links), so a rename is atomic.
//! - A node lives as long as a handle, a visible or durable name, or a change points to it.

mod open_files;

use std::collections::BTreeMap;
use std::path::{Component, Path};

use rustix::io::Errno;

use super::chaos::Chaos;
use super::config::Fault;
use super::file::{Contents, Survival};
use crate::io::op::{DirectoryEntry, OpenMode};

type NodeId = u64;
type Answer<T> = Result<T, Errno>;

const ROOT: NodeId = 0;
/// NAME_MAX.
const NAME_BYTES_MAX: usize = 255;
/// The kernel's journal commits by itself at the latest after so many changes of names.
const CHANGES_MAX: usize = 256;
const COMMIT_ONE_IN: u64 = 64;

#[derive(Default)]
struct Directory {
    visible: BTreeMap<String, NodeId>,
    durable: BTreeMap<String, NodeId>,
}

enum Kind {
    File(Contents),
    Directory(Directory),
}

struct Node {
    kind: Kind,
    handles: u32,
    is_linked: bool,
    durable_name: Option<(NodeId, String)>,
    /// How many of the changes point here.
    changes: u32,
}

impl Node {
    fn new(kind: Kind) -> Node {
        Node {
            kind,
            handles: 0,
            is_linked: true,
            durable_name: None,
            changes: 0,
        }
    }
}

/// A change of names that is not durable yet.
enum Change {
    Link(NodeId, String, NodeId),
    Unlink(NodeId, String, NodeId),
    /// From directory, to directory and name, node.
    Rename(NodeId, NodeId, String, NodeId),
}

impl Change {
    fn node(&self) -> NodeId {
        match self {
            Change::Link(_, _, node) | Change::Unlink(_, _, node) => *node,
            Change::Rename(_, _, _, node) => *node,
        }
    }

    fn touches(&self, directory: NodeId) -> bool {
        match self {
            Change::Link(parent, ..) | Change::Unlink(parent, ..) => *parent == directory,
            Change::Rename(from, to, ..) => *from == directory || *to == directory,
        }
    }
}

/// An open file.
#[derive(Clone)]
struct OpenFile {
    node: NodeId,
    mode: OpenMode,
    path: String,
}

/// The disk of a world.
pub(super) struct Disk {
    nodes: BTreeMap<NodeId, Node>,
    node_count: NodeId,
    changes: Vec<Change>,
    handles: BTreeMap<u64, OpenFile>,
    used_pages: u64,
    version: u64,
}

fn name_of(component: Component<'_>) -> Option<Answer<&str>> {
    match component {
        Component::RootDir | Component::CurDir => None,
        Component::Normal(name) if name.len() > NAME_BYTES_MAX => Some(Err(Errno::NAMETOOLONG)),
        Component::Normal(name) => Some(name.to_str().ok_or(Errno::INVAL)),
        Component::ParentDir | Component::Prefix(_) => Some(Err(Errno::INVAL)),
    }
}

impl Disk {
    pub(super) fn new() -> Disk {
        let mut root = Node::new(Kind::Directory(Directory::default()));
        root.durable_name = Some((ROOT, String::new()));
        Disk {
            nodes: BTreeMap::from([(ROOT, root)]),
            node_count: 1,
            changes: Vec::new(),
            handles: BTreeMap::new(),
            used_pages: 0,
            version: 0,
        }
    }

    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    // ---- names -------------------------------------------------------------------------------

    fn directory(&self, id: NodeId) -> Answer<&Directory> {
        match self.nodes.get(&id).map(|node| &node.kind) {
            Some(Kind::Directory(directory)) => Ok(directory),
            Some(Kind::File(_)) => Err(Errno::NOTDIR),
            None => Err(Errno::NOENT),
        }
    }

    fn entries(&mut self, id: NodeId) -> &mut Directory {
        match self.nodes.get_mut(&id).map(|node| &mut node.kind) {
            Some(Kind::Directory(directory)) => directory,
            _ => panic!("node {id} was checked to be a directory"),
        }
    }

    fn walk(&self, path: &Path) -> Answer<NodeId> {
        let mut id = ROOT;
        for name in path.components().filter_map(name_of) {
            id = *self.directory(id)?.visible.get(name?).ok_or(Errno::NOENT)?;
        }
        Ok(id)
    }

    /// The directory that `path` lies in, its name there, and what has this name.
    fn look_up(&self, path: &Path) -> Answer<(NodeId, String, Option<NodeId>)> {
        let last = path.components().next_back().and_then(name_of);
        let name = last.ok_or(Errno::BUSY)??.to_owned();
        let parent = self.walk(path.parent().unwrap_or(Path::new("")))?;
        let node = self.directory(parent)?.visible.get(&name).copied();
        Ok((parent, name, node))
    }

    fn is_directory(&self, id: NodeId) -> bool {
        self.directory(id).is_ok()
    }

    fn create(&mut self, parent: NodeId, name: String, kind: Kind, chaos: &mut Chaos) -> NodeId {
        let id = self.node_count;
        self.node_count += 1;
        self.nodes.insert(id, Node::new(kind));
        self.entries(parent).visible.insert(name.clone(), id);
        self.change(Change::Link(parent, name, id), chaos);
        id
    }

    fn change(&mut self, change: Change, chaos: &mut Chaos) {
        self.nodes
            .get_mut(&change.node())
            .expect("a change is made of a node that is there")
            .changes += 1;
        self.changes.push(change);
        if self.changes.len() >= CHANGES_MAX || chaos.rng.one_in(COMMIT_ONE_IN) {
            let oldest = self.changes.len().div_ceil(2);
            let changes: Vec<Change> = self.changes.drain(..oldest).collect();
            self.make_durable(changes);
        }
    }

    fn make_durable(&mut self, changes: Vec<Change>) {
        for change in changes {
            let id = change.node();
            match change {
                Change::Link(parent, name, _) | Change::Rename(_, parent, name, _) => {
                    self.link_durably(parent, name, id);
                }
                Change::Unlink(parent, name, _) => {
                    if self.durable_name(id) == Some(&(parent, name)) {
                        self.unlink_durably(id);
                    }
                }
            }
            self.drop_change(id);
        }
    }

    fn durable_name(&self, id: NodeId) -> Option<&(NodeId, String)> {
        self.nodes.get(&id)?.durable_name.as_ref()
    }

    fn link_durably(&mut self, parent: NodeId, name: String, id: NodeId) {
        self.unlink_durably(id);
        // The directory may be gone, if its removal became durable first.
        let Some(Kind::Directory(directory)) = self.nodes.get_mut(&parent).map(|n| &mut n.kind)
        else {
            return;
        };
        let displaced = directory.durable.insert(name.clone(), id);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.durable_name = Some((parent, name));
        }
        if let Some(displaced) = displaced {
            if let Some(node) = self.nodes.get_mut(&displaced) {
                node.durable_name = None;
            }
            self.release(displaced);
        }
    }

    fn unlink_durably(&mut self, id: NodeId) {
        let name = self
            .nodes
            .get_mut(&id)
            .and_then(|node| node.durable_name.take());
        if let Some((parent, name)) = name
            && let Some(Kind::Directory(directory)) =
                self.nodes.get_mut(&parent).map(|node| &mut node.kind)
        {
            directory.durable.remove(&name);
        }
    }

    fn drop_change(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.changes -= 1;
        }
        self.release(id);
    }

    /// Frees what nobody can see any more, and forgets what not even a crash can bring back.
    fn release(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        if node.is_linked || node.handles > 0 {
            return;
        }
        if let Kind::File(contents) = &mut node.kind {
            self.used_pages -= contents.page_count();
            contents.hide();
        }
        if node.durable_name.is_none() && node.changes == 0 {
            self.nodes.remove(&id);
        }
    }

    fn unlink(&mut self, parent: NodeId, name: String, id: NodeId, chaos: &mut Chaos) {
        self.entries(parent).visible.remove(&name);
        self.change(Change::Unlink(parent, name, id), chaos);
        self.hide(id);
    }

    fn hide(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.is_linked = false;
        }
        self.release(id);
    }

    /// open(2); `handle` is the number that the caller gives to the open file.
    pub(super) fn open(
        &mut self,
        path: &Path,
        mode: OpenMode,
        handle: u64,
        chaos: &mut Chaos,
    ) -> Answer<()> {
        let (parent, name, node) = self.look_up(path)?;
        let node = match (node, mode) {
            (Some(_), OpenMode::CreateNew) => return Err(Errno::EXIST),
            (Some(node), _) if self.is_directory(node) => return Err(Errno::ISDIR),
            (Some(node), _) => node,
            (None, OpenMode::Read | OpenMode::Write) => return Err(Errno::NOENT),
            (None, OpenMode::Create | OpenMode::CreateNew | OpenMode::CreateDirect) => {
                self.create(parent, name, Kind::File(Contents::default()), chaos)
            }
        };
        if let Some(node) = self.nodes.get_mut(&node) {
            node.handles += 1;
        }
        let path = path.to_string_lossy().into_owned();
        self.handles.insert(handle, OpenFile { node, mode, path });
        Ok(())
    }

    /// The last clone of an open file was dropped. False if the handle is not one of a file.
    pub(super) fn close(&mut self, handle: u64) -> bool {
        let Some(open) = self.handles.remove(&handle) else {
            return false;
        };
        if let Some(node) = self.nodes.get_mut(&open.node) {
            node.handles -= 1;
        }
        self.release(open.node);
        true
    }

    /// rename(2).
    pub(super) fn rename(&mut self, from: &Path, to: &Path, chaos: &mut Chaos) -> Answer<()> {
        let (from_parent, from_name, node) = self.look_up(from)?;
        let node = node.ok_or(Errno::NOENT)?;
        let (parent, name, replaced) = self.look_up(to)?;
        if self.is_directory(node) && to.starts_with(from) && to != from {
            return Err(Errno::INVAL);
        }
        if let Some(replaced) = replaced {
            match (self.is_directory(node), self.directory(replaced)) {
                _ if replaced == node => return Ok(()),
                (false, Ok(_)) => return Err(Errno::ISDIR),
                (true, Err(_)) => return Err(Errno::NOTDIR),
                (true, Ok(directory)) if !directory.visible.is_empty() => {
                    return Err(Errno::NOTEMPTY);
                }
                _ => {}
            }
        }
        self.entries(from_parent).visible.remove(&from_name);
        self.entries(parent).visible.insert(name.clone(), node);
        self.change(Change::Rename(from_parent, parent, name, node), chaos);
        if let Some(replaced) = replaced {
            self.hide(replaced);
        }
        Ok(())
    }

    /// unlink(2).
    pub(super) fn remove_file(&mut self, path: &Path, chaos: &mut Chaos) -> Answer<()> {
        let (parent, name, node) = self.look_up(path)?;
        let node = node.ok_or(Errno::NOENT)?;
        if self.is_directory(node) {
            return Err(Errno::ISDIR);
        }
        self.unlink(parent, name, node, chaos);
        Ok(())
    }

    /// mkdir(2).
    pub(super) fn create_directory(&mut self, path: &Path, chaos: &mut Chaos) -> Answer<()> {
        let (parent, name, node) = match self.look_up(path) {
            Err(Errno::BUSY) => return Err(Errno::EXIST),
            other => other?,
        };
        if node.is_some() {
            return Err(Errno::EXIST);
        }
        self.create(parent, name, Kind::Directory(Directory::default()), chaos);
        Ok(())
    }

    /// rmdir(2).
    pub(super) fn remove_directory(&mut self, path: &Path, chaos: &mut Chaos) -> Answer<()> {
        let (parent, name, node) = self.look_up(path)?;
        let node = node.ok_or(Errno::NOENT)?;
        if !self.directory(node)?.visible.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.unlink(parent, name, node, chaos);
        Ok(())
    }

    /// The entries of a directory, sorted by name.
    pub(super) fn list(&self, path: &Path) -> Answer<Vec<DirectoryEntry>> {
        let directory = self.directory(self.walk(path)?)?;
        let entry = |(name, id): (&String, &NodeId)| DirectoryEntry {
            name: name.clone(),
            is_directory: self.is_directory(*id),
        };
        Ok(directory.visible.iter().map(entry).collect())
    }

    /// fsync(2) of a directory.
    pub(super) fn sync_directory(&mut self, path: &Path, chaos: &mut Chaos) -> Answer<()> {
        let id = self.walk(path)?;
        self.directory(id)?;
        if chaos.strikes(Fault::SyncError, &path.to_string_lossy()) {
            return Err(Errno::IO);
        }
        // A node's changes in two directories must not become durable in the wrong order: where
        // one was moved, everything goes together, as a journaling file system would do it.
        let is_move = |change: &Change| {
            matches!(change, Change::Rename(from, to, ..) if from != to) && change.touches(id)
        };
        let everything = self.changes.iter().any(is_move);
        let (synced, rest) = std::mem::take(&mut self.changes)
            .into_iter()
            .partition(|change: &Change| everything || change.touches(id));
        self.changes = rest;
        self.make_durable(synced);
        Ok(())
    }

    /// Whether a file was shortened and the truncation is not durable yet.
    pub(super) fn has_unsynced_cut(&self) -> bool {
        let is_cut = |node: &Node| match &node.kind {
            Kind::File(file) => file.pending_cut().is_some(),
            Kind::Directory(_) => false,
        };
        self.nodes.values().any(is_cut)
    }

    // ---- the end -----------------------------------------------------------------------------

    /// All handles are closed, as at the end of a process.
    pub(super) fn close_all(&mut self) {
        let handles: Vec<u64> = self.handles.keys().copied().collect();
        for handle in handles {
            self.close(handle);
        }
    }

    /// The power fails.
    pub(super) fn crash(&mut self, survival: Survival, chaos: &mut Chaos) {
        self.handles.clear();
        let changes = std::mem::take(&mut self.changes);
        // Either the file system's journal is cut at one place, or each change fends for itself.
        let cut = chaos.rng.coin().then(|| chaos.rng.index(changes.len() + 1));
        let mut kept = Vec::new();
        for (index, change) in changes.into_iter().enumerate() {
            let is_kept = match cut {
                Some(cut) => index < cut,
                None => chaos.rng.coin(),
            };
            if is_kept {
                kept.push(change);
            } else {
                chaos.count("crash: lost change of names");
                if let Some(node) = self.nodes.get_mut(&change.node()) {
                    node.changes -= 1;
                }
            }
        }
        self.make_durable(kept);
        self.forget_cache(survival, chaos);
    }

    fn forget_cache(&mut self, survival: Survival, chaos: &mut Chaos) {
        let mut reachable = BTreeMap::new();
        let mut pending = vec![ROOT];
        self.used_pages = 0;
        while let Some(id) = pending.pop() {
            let Some(mut node) = self.nodes.remove(&id) else {
                continue;
            };
            node.handles = 0;
            node.is_linked = true;
            match &mut node.kind {
                Kind::File(contents) => {
                    contents.crash(survival, chaos);
                    self.used_pages += contents.page_count();
                }
                Kind::Directory(directory) => {
                    directory.visible.clone_from(&directory.durable);
                    pending.extend(directory.durable.values());
                }
            }
            reachable.insert(id, node);
        }
        self.nodes = reachable;
    }
}
