//! Requests that look and change nothing but watches.
//!
//! Each checks the list of the node it names before it tells anything of it.

use super::{
    ConnectionId, ErrorCode, EventType, Mode, NO_ZXID, Node, Output, Processor, Read, Request,
    WatchLists, Writer, acl, op, protocol,
};

impl Processor {
    pub(super) fn node(&self, path: &str) -> Result<&Node, ErrorCode> {
        self.tree.get(path).ok_or(ErrorCode::NoNode)
    }

    fn allowed(
        &self,
        connection: ConnectionId,
        node: &Node,
        permission: i32,
    ) -> Result<(), ErrorCode> {
        let client = self.clients.get(&connection);
        let ids = client
            .map(|client| client.ids.as_slice())
            .unwrap_or_default();
        acl::check(&node.acl, permission, ids)
    }

    fn readable(&self, connection: ConnectionId, path: &str) -> Result<&Node, ErrorCode> {
        let node = self.node(path)?;
        self.allowed(connection, node, acl::READ)?;
        Ok(node)
    }

    /// Requests that change nothing but watches.
    pub(super) fn look(
        &mut self,
        connection: ConnectionId,
        request: Request<'_>,
    ) -> Result<Writer, ErrorCode> {
        let mut record = Writer::new();
        match request {
            Request::Read(read) => self.read(connection, &read, &mut record)?,
            Request::MultiRead(reads) => self.multi_read(connection, &reads, &mut record)?,
            Request::Children2(path, is_watched) => {
                self.read(connection, &Read::Children(path, is_watched), &mut record)?;
                self.node(path)?.client_stat().write(&mut record);
            }
            Request::Exists(path, is_watched) => {
                self.exists(connection, path, is_watched, &mut record)?;
            }
            Request::GetAcl(path) => self.get_acl(connection, path, &mut record)?,
            Request::Sync(path) => record.text(path),
            Request::AddWatch(path, mode) => {
                self.watches.watch_for_good(connection, path, mode)?;
                record.i32(0);
            }
            Request::CheckWatches(path, kind) => {
                if !self.watches.contains(connection, path, kind) {
                    return Err(ErrorCode::NoWatcher);
                }
            }
            Request::RemoveWatches(path, kind) => {
                if !self.watches.remove(connection, path, kind) {
                    return Err(ErrorCode::NoWatcher);
                }
            }
            Request::GetEphemerals(front) => self.ephemerals(connection, front, &mut record),
            Request::AllChildrenNumber(path) => {
                self.readable(connection, path)?;
                record.length(self.tree.descendants(path));
            }
            Request::WhoAmI => {
                let ids = self
                    .clients
                    .get(&connection)
                    .map(|client| client.ids.as_slice());
                let ids = ids.unwrap_or_default();
                record.length(ids.len());
                for id in ids {
                    record.text(&id.scheme);
                    record.text(id.user());
                }
            }
            Request::Write(..)
            | Request::Multi(..)
            | Request::SetWatches(..)
            | Request::Auth(..)
            | Request::Ping
            | Request::CloseSession
            | Request::Unknown => {
                return Err(ErrorCode::Unimplemented);
            }
        }
        Ok(record)
    }

    fn read(
        &mut self,
        connection: ConnectionId,
        read: &Read<'_>,
        record: &mut Writer,
    ) -> Result<(), ErrorCode> {
        match *read {
            Read::Data(path, is_watched) => {
                let node = self.readable(connection, path)?;
                record.buffer(node.data.as_deref());
                node.client_stat().write(record);
                if is_watched {
                    self.watches.watch_data(connection, path, Mode::Standard)?;
                }
            }
            Read::Children(path, is_watched) => {
                let node = self.readable(connection, path)?;
                record.length(node.children.len());
                node.children.iter().for_each(|child| record.text(child));
                if is_watched {
                    self.watches
                        .watch_children(connection, path, Mode::Standard)?;
                }
            }
        }
        Ok(())
    }

    fn multi_read(
        &mut self,
        connection: ConnectionId,
        reads: &[Read<'_>],
        record: &mut Writer,
    ) -> Result<(), ErrorCode> {
        for read in reads {
            let number = match read {
                Read::Data(..) => op::GET_DATA,
                Read::Children(..) => op::GET_CHILDREN,
            };
            let mut result = Writer::new();
            match self.read(connection, read, &mut result) {
                Ok(()) => {
                    protocol::write_multi_header(record, number, 0);
                    record.append(&result);
                }
                Err(code) => protocol::write_multi_error(record, code as i32),
            }
            if record.len() > self.limits.multi_read_bytes_max {
                return Err(ErrorCode::ThrottledOp);
            }
        }
        protocol::write_multi_end(record);
        Ok(())
    }

    fn exists(
        &mut self,
        connection: ConnectionId,
        path: &str,
        is_watched: bool,
        record: &mut Writer,
    ) -> Result<(), ErrorCode> {
        if path.contains('\0') {
            return Err(ErrorCode::BadArguments);
        }
        if let Some(node) = self.tree.get(path) {
            self.allowed(connection, node, acl::READ)?;
        }
        if is_watched {
            self.watches.watch_data(connection, path, Mode::Standard)?;
        }
        self.node(path)?.client_stat().write(record);
        Ok(())
    }

    fn get_acl(
        &self,
        connection: ConnectionId,
        path: &str,
        record: &mut Writer,
    ) -> Result<(), ErrorCode> {
        let node = self.node(path)?;
        self.allowed(connection, node, acl::READ | acl::ADMIN)?;
        if self.allowed(connection, node, acl::ADMIN).is_ok() {
            protocol::write_acls(record, &node.acl);
        } else {
            protocol::write_acls(record, &acl::without_secrets(&node.acl));
        }
        node.client_stat().write(record);
        Ok(())
    }

    fn ephemerals(&self, connection: ConnectionId, front: &str, record: &mut Writer) {
        let front = if matches!(front.trim(), "" | "/") {
            ""
        } else {
            front
        };
        let session = self.session_of(connection).unwrap_or(0);
        let paths = self
            .tree
            .ephemerals(session)
            .filter(|path| path.starts_with(front));
        let paths: Vec<_> = paths.collect();
        record.length(paths.len());
        paths.iter().for_each(|path| record.text(path));
    }

    /// Watches of a client that comes back: what changed while it was away is told at once
    /// (`DataTree.setWatches`).
    pub(super) fn set_watches(
        &mut self,
        connection: ConnectionId,
        lists: &WatchLists<'_>,
    ) -> Result<(), ErrorCode> {
        let seen = lists.relative_zxid;
        for path in &lists.data {
            match self.tree.get(path).map(|node| node.stat.mzxid) {
                None => self.tell(connection, EventType::NodeDeleted, path),
                Some(mzxid) if mzxid > seen => {
                    self.tell(connection, EventType::NodeDataChanged, path);
                }
                Some(_) => self.watches.watch_data(connection, path, Mode::Standard)?,
            }
        }
        for path in &lists.exist {
            match self.tree.get(path) {
                Some(_) => self.tell(connection, EventType::NodeCreated, path),
                None => self.watches.watch_data(connection, path, Mode::Standard)?,
            }
        }
        for path in &lists.child {
            match self.tree.get(path).map(|node| node.stat.pzxid) {
                None => self.tell(connection, EventType::NodeDeleted, path),
                Some(pzxid) if pzxid > seen => {
                    self.tell(connection, EventType::NodeChildrenChanged, path);
                }
                Some(_) => self
                    .watches
                    .watch_children(connection, path, Mode::Standard)?,
            }
        }
        for path in &lists.persistent {
            self.watches
                .watch_for_good(connection, path, Mode::Persistent)?;
        }
        for path in &lists.recursive {
            self.watches
                .watch_for_good(connection, path, Mode::Recursive)?;
        }
        Ok(())
    }

    /// An event for one connection that no transaction caused.
    fn tell(&mut self, connection: ConnectionId, event: EventType, path: &str) {
        let node = self.tree.get(path);
        if node.is_none_or(|node| self.allowed(connection, node, acl::READ).is_ok()) {
            let packet = protocol::notification(event, path, NO_ZXID);
            self.outputs.push(Output::Event(connection, packet));
        }
    }
}
