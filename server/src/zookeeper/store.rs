//! The durable copy of the tree and the sessions, in a `redb` file.
//!
//! Three tables: nodes by path, sessions by id, and `meta` with the format and the last zxid. One
//! commit holds everything that changed since the last one, so what arrived together shares one
//! fdatasync. Invariants: what [`Store::save`] returned for is on stable storage; a file that
//! exists is either read whole, every page's checksum checked, or refused; data are never dropped
//! to get on, and a new file appears under its name only when it is complete.
//!
//! Exempt from the first is a store that is not settled yet ([`Store::settle`]): nothing of it has been
//! told to anyone but this very process, which may forget it in a crash.
//!
//! redb, not a log of our own: the issue asks for a kept-up embedded store, and the rate of
//! changes is that of a control plane.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use redb::{
    Builder, Database, DatabaseError, Durability, ReadableDatabase as _, ReadableTable as _,
    StorageError, TableDefinition,
};

mod unnamed;

use unnamed::Unnamed;

use super::jute::{JuteError, Reader, Writer};
use super::node::{Node, NodeStat};
use super::protocol::{read_acls, write_acls};
use super::session::{Password, Session, Sessions};
use super::tree::Tree;

/// The store's file in `dataDir`.
pub const STORE_FILE: &str = "ringlog-zookeeper.redb";
/// Version of the records below.
const FORMAT: i64 = 1;
/// Pages redb may keep; the tree itself is in memory.
const CACHE_BYTES: usize = 4 << 20;

const NODES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("nodes");
const SESSIONS: TableDefinition<'_, i64, &[u8]> = TableDefinition::new("sessions");
const META: TableDefinition<'_, &str, i64> = TableDefinition::new("meta");

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory or the file cannot be made or opened.
    #[error(
        "ZooKeeper data {path}: {error}\n   | make dataDir writable for this user, or give another"
    )]
    Unusable {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Another process has it.
    #[error(
        "ZooKeeper data {0} is in use by another process\n   | stop that one (ringlog or \
         bin/zookeeper-server-stop.sh), or give another dataDir"
    )]
    InUse(PathBuf),
    /// Its bytes are not what was written.
    #[error(
        "ZooKeeper data {path} is damaged: {what}\n   | nothing was changed; restore the file from \
         a backup, or move it away to start with an empty tree (topics, configs and consumer \
         offsets kept in ZooKeeper are then lost)"
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How it shows.
        what: String,
    },
    /// A later release wrote it.
    #[error(
        "ZooKeeper data {path} has format {found}, this release knows {FORMAT}\n   | use the \
         release that wrote it"
    )]
    Format {
        /// Which.
        path: PathBuf,
        /// Its format.
        found: i64,
    },
    /// The directory is Apache ZooKeeper's.
    #[error(
        "{0} holds the data of Apache ZooKeeper, which cannot be read here\n   | give another \
         dataDir, or move this one away"
    )]
    Foreign(PathBuf),
    /// A commit failed, so nothing more may be acknowledged.
    #[error(
        "ZooKeeper data {path} cannot be written: {what}\n   | free space on the disk or repair it, \
         then start again; nothing that was acknowledged is lost"
    )]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        what: String,
    },
}

/// The open store.
pub struct Store {
    database: Database,
    path: PathBuf,
    /// A new store that has no name yet.
    unnamed: Option<Unnamed>,
    is_settled: bool,
}

/// What was stored.
#[derive(Debug, Default)]
pub struct Stored {
    /// All nodes, by path.
    pub nodes: Vec<(Rc<str>, Node)>,
    /// All sessions: id, password, timeout in ms.
    pub sessions: Vec<(i64, Password, u32)>,
    /// The last transaction.
    pub zxid: i64,
}

impl Store {
    /// Opens the store of a directory, or makes one with `first` in it. It is not settled.
    ///
    /// # Errors
    /// What is wrong with which path, and what to do.
    pub fn open(data_dir: &Path, first: &mut Tree) -> Result<(Self, Stored), StoreError> {
        let path = data_dir.join(STORE_FILE);
        let unusable = |error| StoreError::Unusable {
            path: path.clone(),
            error,
        };
        fs::create_dir_all(data_dir).map_err(unusable)?;
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES);
        let (database, unnamed) = if path.try_exists().map_err(unusable)? {
            if fs::metadata(&path).map_err(unusable)?.len() == 0 {
                // redb would take an empty file for a new store.
                return Err(StoreError::Damaged {
                    path,
                    what: "the file is empty".to_owned(),
                });
            }
            builder.set_check_integrity_on_open(true);
            let database = builder.open(&path).map_err(|error| refused(&path, error))?;
            (database, None)
        } else {
            refuse_foreign(data_dir)?;
            let (unnamed, backend) = Unnamed::create(data_dir)?;
            let database = builder.create_with_backend(backend);
            let database = database.map_err(|error| refused(&path, error))?;
            (database, Some(unnamed))
        };
        let store = Self {
            database,
            path,
            unnamed,
            is_settled: false,
        };
        if store.unnamed.is_some() {
            store.save(0, first, &mut Sessions::new(1, 0))?;
        }
        let stored = store.load()?;
        Ok((store, stored))
    }

    /// Makes all that was saved durable, under its name; from now on each save is.
    ///
    /// # Errors
    /// Then nothing of it may be told to anyone, and the process must start again.
    pub fn settle(&mut self) -> Result<(), StoreError> {
        self.is_settled = true;
        match self.unnamed.take() {
            Some(unnamed) => unnamed.name(&self.path),
            None => settle(&self.database).map_err(|error| self.unwritten(&error)),
        }
    }

    fn unwritten(&self, error: &redb::Error) -> StoreError {
        StoreError::Write {
            path: self.path.clone(),
            what: error.to_string(),
        }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes what changed; when it returns, that is on stable storage, if the store is settled.
    ///
    /// # Errors
    /// Then nothing of it may be told to anyone, and the process must start again.
    pub fn save(
        &self,
        zxid: i64,
        tree: &mut Tree,
        sessions: &mut Sessions,
    ) -> Result<(), StoreError> {
        // What has no name yet need not be put off: the file syncs nothing.
        let durability = if self.is_settled || self.unnamed.is_some() {
            Durability::Immediate
        } else {
            Durability::None
        };
        let saved = save(&self.database, durability, zxid, tree, sessions);
        saved.map_err(|error| self.unwritten(&error))
    }

    fn load(&self) -> Result<Stored, StoreError> {
        let damaged = |what: String| StoreError::Damaged {
            path: self.path.clone(),
            what,
        };
        let broken = |error: redb::Error| damaged(error.to_string());
        let transaction = self
            .database
            .begin_read()
            .map_err(|error| broken(error.into()))?;
        let meta = transaction
            .open_table(META)
            .map_err(|error| broken(error.into()))?;
        let number = |name: &str| -> Result<i64, StoreError> {
            let value = meta.get(name).map_err(|error| broken(error.into()))?;
            Ok(value
                .ok_or_else(|| damaged(format!("it has no '{name}'")))?
                .value())
        };
        let found = number("format")?;
        if found != FORMAT {
            return Err(StoreError::Format {
                path: self.path.clone(),
                found,
            });
        }
        let mut stored = Stored {
            zxid: number("zxid")?,
            ..Stored::default()
        };
        let nodes = transaction
            .open_table(NODES)
            .map_err(|error| broken(error.into()))?;
        for entry in nodes.iter().map_err(|error| broken(error.into()))? {
            let (path, record) = entry.map_err(|error| broken(error.into()))?;
            let node = decode_node(record.value())
                .map_err(|error| damaged(format!("node '{}': {error}", path.value())))?;
            stored.nodes.push((path.value().into(), node));
        }
        let sessions = transaction
            .open_table(SESSIONS)
            .map_err(|error| broken(error.into()))?;
        for entry in sessions.iter().map_err(|error| broken(error.into()))? {
            let (id, record) = entry.map_err(|error| broken(error.into()))?;
            let (password, timeout_ms) = decode_session(record.value())
                .ok_or_else(|| damaged(format!("session 0x{:x} is malformed", id.value())))?;
            stored.sessions.push((id.value(), password, timeout_ms));
        }
        Ok(stored)
    }
}

fn save(
    database: &Database,
    durability: Durability,
    zxid: i64,
    tree: &mut Tree,
    sessions: &mut Sessions,
) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(durability)?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert("format", FORMAT)?;
        meta.insert("zxid", zxid)?;
        let mut table = transaction.open_table(NODES)?;
        for (path, node) in tree.take_changed() {
            match node {
                Some(node) => drop(table.insert(&*path, encode_node(node).as_slice())?),
                None => drop(table.remove(&*path)?),
            }
        }
        let mut table = transaction.open_table(SESSIONS)?;
        for (id, session) in sessions.take_changed() {
            match session {
                Some(session) => drop(table.insert(id, encode_session(session).as_slice())?),
                None => drop(table.remove(id)?),
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

/// A commit that takes all before it along.
fn settle(database: &Database) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.open_table(META)?.insert("format", FORMAT)?;
    transaction.commit()?;
    Ok(())
}

/// A directory with snapshots or logs of Apache ZooKeeper (`FileTxnSnapLog`) is somebody's data.
fn refuse_foreign(data_dir: &Path) -> Result<(), StoreError> {
    let Ok(entries) = fs::read_dir(data_dir.join("version-2")) else {
        return Ok(());
    };
    let is_data = |name: &str| name.starts_with("log.") || name.starts_with("snapshot.");
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(is_data) {
            return Err(StoreError::Foreign(data_dir.to_owned()));
        }
    }
    Ok(())
}

fn refused(path: &Path, error: DatabaseError) -> StoreError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            StoreError::InUse(path)
        }
        DatabaseError::Storage(StorageError::Io(error))
            if !matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            StoreError::Unusable { path, error }
        }
        other => StoreError::Damaged {
            path,
            what: other.to_string(),
        },
    }
}

/// Six longs and three ints of the stat, the list, the data; jute throughout.
fn encode_node(node: &Node) -> Vec<u8> {
    let mut writer = Writer::new();
    let stat = &node.stat;
    for long in [
        stat.czxid,
        stat.mzxid,
        stat.pzxid,
        stat.ctime,
        stat.mtime,
        stat.ephemeral_owner,
    ] {
        writer.i64(long);
    }
    for int in [stat.version, stat.cversion, stat.aversion] {
        writer.i32(int);
    }
    write_acls(&mut writer, &node.acl);
    writer.buffer(node.data.as_deref());
    writer.into_bytes()
}

fn decode_node(record: &[u8]) -> Result<Node, JuteError> {
    let mut reader = Reader::new(record);
    let stat = NodeStat {
        czxid: reader.i64()?,
        mzxid: reader.i64()?,
        pzxid: reader.i64()?,
        ctime: reader.i64()?,
        mtime: reader.i64()?,
        ephemeral_owner: reader.i64()?,
        version: reader.i32()?,
        cversion: reader.i32()?,
        aversion: reader.i32()?,
    };
    let acl = read_acls(&mut reader)?;
    let data = reader.buffer()?.map(Bytes::copy_from_slice);
    if reader.remaining() > 0 {
        return Err(JuteError::Short);
    }
    Ok(Node::new(data, acl.into(), stat))
}

/// Timeout, password.
fn encode_session(session: &Session) -> Vec<u8> {
    [&session.timeout_ms.to_be_bytes()[..], &session.password].concat()
}

fn decode_session(record: &[u8]) -> Option<(Password, u32)> {
    let (timeout, password) = record.split_first_chunk()?;
    Some((password.try_into().ok()?, u32::from_be_bytes(*timeout)))
}

#[cfg(test)]
mod tests;
