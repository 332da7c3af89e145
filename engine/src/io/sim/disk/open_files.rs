//! What is done to open files, with the faults that strike there; and what the test does to files
//! behind the shards' backs.

use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use rustix::io::Errno;

use super::super::chaos::Chaos;
use super::super::config::Fault;
use super::super::file::{Capture, Contents, PAGE_BYTES, Survival};
use super::{Answer, Disk, Kind, NodeId, OpenFile, ROOT};
use crate::io::op::{OpenMode, Volume};

fn writable(open: &OpenFile) -> Answer<()> {
    match open.mode {
        OpenMode::Read => Err(Errno::BADF),
        OpenMode::Write | OpenMode::Create | OpenMode::CreateNew | OpenMode::CreateDirect => Ok(()),
    }
}

impl Disk {
    fn handle(&self, handle: u64) -> Answer<&OpenFile> {
        self.handles.get(&handle).ok_or(Errno::BADF)
    }

    fn contents(&mut self, id: NodeId) -> &mut Contents {
        match self.nodes.get_mut(&id).map(|node| &mut node.kind) {
            Some(Kind::File(contents)) => contents,
            _ => panic!("node {id} is open, so it is a file that is there"),
        }
    }

    /// The path that a file was opened by, to choose faults by.
    pub(in crate::io::sim) fn path(&self, handle: u64) -> String {
        self.handle(handle)
            .map(|open| open.path.clone())
            .unwrap_or_default()
    }

    /// fstat(2).
    pub(in crate::io::sim) fn length(&mut self, handle: u64) -> Answer<u64> {
        let node = self.handle(handle)?.node;
        Ok(self.contents(node).length())
    }

    fn free_pages(&self, chaos: &Chaos) -> u64 {
        let capacity = chaos.config.disk.capacity_bytes / PAGE_BYTES as u64;
        capacity.saturating_sub(self.used_pages)
    }

    /// statvfs(3).
    pub(in crate::io::sim) fn volume(&self, chaos: &Chaos) -> Volume {
        Volume {
            total_bytes: chaos.config.disk.capacity_bytes,
            usable_bytes: self.free_pages(chaos) * PAGE_BYTES as u64,
        }
    }

    /// How many of `total` bytes a write may write before it fails, and what it answers then.
    fn write_limit(open: &OpenFile, total: u64, chaos: &mut Chaos) -> (u64, Errno) {
        if chaos.strikes(Fault::WriteError, &open.path) {
            (0, Errno::IO)
        } else if chaos.strikes(Fault::NoSpace, &open.path) {
            (0, Errno::NOSPC)
        } else if chaos.strikes(Fault::ShortWrite, &open.path) {
            (chaos.rng.below(total), Errno::IO)
        } else {
            (total, Errno::NOSPC)
        }
    }

    /// pwritev(2) of all of `buffers`, through the page cache.
    pub(in crate::io::sim) fn write(
        &mut self,
        handle: u64,
        buffers: &[Bytes],
        position: u64,
        chaos: &mut Chaos,
    ) -> Answer<()> {
        let open = self.handle(handle)?.clone();
        writable(&open)?;
        if open.mode == OpenMode::CreateDirect {
            return Err(Errno::INVAL);
        }
        let total: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        if position.saturating_add(total) > i64::MAX.unsigned_abs() {
            return Err(Errno::FBIG);
        }
        let (limit, error) = Self::write_limit(&open, total, chaos);
        let mut rest = usize::try_from(limit).unwrap_or(usize::MAX);
        let limited: Vec<Bytes> = buffers
            .iter()
            .map(|buffer| {
                let count = buffer.len().min(rest);
                rest -= count;
                buffer.slice(..count)
            })
            .collect();
        let version = self.next_version();
        let before = self.free_pages(chaos);
        let mut free = before;
        let contents = self.contents(open.node);
        let written = contents.write(position, &limited, version, &mut free, chaos);
        self.used_pages += before - free;
        if written < limit {
            chaos.count("disk full");
        }
        if written < total { Err(error) } else { Ok(()) }
    }

    /// pwritev2(2) with RWF_DSYNC of all of `buffers`.
    pub(in crate::io::sim) fn write_direct(
        &mut self,
        handle: u64,
        buffers: &[&[u8]],
        position: u64,
        chaos: &mut Chaos,
    ) -> Answer<()> {
        let open = self.handle(handle)?.clone();
        writable(&open)?;
        if !position.is_multiple_of(PAGE_BYTES as u64) {
            return Err(Errno::INVAL);
        }
        let total: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        let (limit, error) = Self::write_limit(&open, total, chaos);
        let mut rest = limit / PAGE_BYTES as u64 * PAGE_BYTES as u64;
        let limited: Vec<&[u8]> = buffers
            .iter()
            .map(|buffer| {
                let count = (buffer.len() as u64).min(rest);
                rest -= count;
                &buffer[..usize::try_from(count).expect("at most the buffer's length")]
            })
            .collect();
        let version = self.next_version();
        let before = self.free_pages(chaos);
        let mut free = before;
        let contents = self.contents(open.node);
        let written = contents.write_direct(position, &limited, version, &mut free);
        self.used_pages += before - free;
        if limit == total && written < total {
            chaos.count("disk full");
        }
        if written < total { Err(error) } else { Ok(()) }
    }

    /// pread(2); returns the number of bytes appended to `out`.
    pub(in crate::io::sim) fn read(
        &mut self,
        handle: u64,
        (position, length): (u64, u64),
        out: &mut BytesMut,
        chaos: &mut Chaos,
    ) -> Answer<u64> {
        let open = self.handle(handle)?.clone();
        if open.mode == OpenMode::CreateDirect {
            // A read past the page cache wants an aligned buffer, which a `BytesMut` is not.
            return Err(Errno::INVAL);
        }
        if chaos.strikes(Fault::ReadError, &open.path) {
            return Err(Errno::IO);
        }
        Ok(self.contents(open.node).read(position, length, out))
    }

    /// ftruncate(2).
    pub(in crate::io::sim) fn truncate(&mut self, handle: u64, length: u64) -> Answer<()> {
        let open = self.handle(handle)?.clone();
        writable(&open).map_err(|_| Errno::INVAL)?;
        if length > i64::MAX.unsigned_abs() {
            return Err(Errno::INVAL);
        }
        let version = self.next_version();
        let contents = self.contents(open.node);
        let before = contents.page_count();
        contents.truncate(length, version);
        let after = contents.page_count();
        self.used_pages = self.used_pages + after - before;
        Ok(())
    }

    /// fallocate(2), mode 0 or, if the length is not to grow, FALLOC_FL_KEEP_SIZE.
    pub(in crate::io::sim) fn allocate(
        &mut self,
        handle: u64,
        (position, length): (u64, u64),
        grows: bool,
        chaos: &mut Chaos,
    ) -> Answer<()> {
        let open = self.handle(handle)?.clone();
        writable(&open)?;
        let end = position.saturating_add(length);
        if length == 0 || end > i64::MAX.unsigned_abs() {
            return Err(Errno::INVAL);
        }
        let free = self.free_pages(chaos);
        let no_space = chaos.strikes(Fault::NoSpace, &open.path);
        let contents = self.contents(open.node);
        let before = contents.page_count();
        if no_space || !contents.allocate(end, grows, free) {
            chaos.count("disk full");
            return Err(Errno::NOSPC);
        }
        let after = contents.page_count();
        self.used_pages += after - before;
        Ok(())
    }

    /// A sync starts: what it will make durable. `None` if the handle is not one of a file.
    pub(in crate::io::sim) fn capture(&mut self, handle: u64) -> Option<Capture> {
        let version = self.next_version();
        let node = self.handle(handle).ok()?.node;
        Some(self.contents(node).capture(version))
    }

    /// A sync ends.
    pub(in crate::io::sim) fn sync(
        &mut self,
        handle: u64,
        capture: Option<Capture>,
        chaos: &mut Chaos,
    ) -> Answer<()> {
        let open = self.handle(handle)?.clone();
        let capture = capture.ok_or(Errno::BADF)?;
        let contents = self.contents(open.node);
        if chaos.strikes(Fault::SyncError, &open.path) {
            contents.fail(capture, chaos);
            return Err(Errno::IO);
        }
        contents.commit(capture);
        Ok(())
    }

    /// sync_file_range(2).
    pub(in crate::io::sim) fn write_back(
        &mut self,
        handle: u64,
        (position, length): (u64, u64),
        chaos: &mut Chaos,
    ) -> Answer<()> {
        let node = self.handle(handle)?.node;
        self.contents(node).write_back(position, length, chaos);
        Ok(())
    }

    /// A durable write is in flight when the power fails.
    pub(in crate::io::sim) fn tear_direct(
        &mut self,
        handle: u64,
        buffers: &[&[u8]],
        position: u64,
        survival: Survival,
        chaos: &mut Chaos,
    ) {
        if let Ok(open) = self.handle(handle).cloned()
            && writable(&open).is_ok()
            && position.is_multiple_of(PAGE_BYTES as u64)
        {
            let contents = self.contents(open.node);
            contents.tear_direct(position, buffers, survival, chaos);
        }
    }

    // ---- for the harness ---------------------------------------------------------------------

    fn file_at(&mut self, path: &Path) -> Answer<&mut Contents> {
        let id = self.walk(path)?;
        if self.is_directory(id) {
            return Err(Errno::ISDIR);
        }
        Ok(self.contents(id))
    }

    /// The visible bytes of a file, read by no shard.
    pub(in crate::io::sim) fn peek(&mut self, path: &Path) -> Answer<BytesMut> {
        let contents = self.file_at(path)?;
        let mut out = BytesMut::new();
        contents.read(0, u64::MAX, &mut out);
        Ok(out)
    }

    /// Creates or replaces a file, with its directories, all durable.
    pub(in crate::io::sim) fn plant(
        &mut self,
        path: &Path,
        bytes: Bytes,
        chaos: &mut Chaos,
    ) -> Answer<()> {
        let mut directory = PathBuf::new();
        for component in path.parent().into_iter().flat_map(Path::components) {
            directory.push(component);
            match self.create_directory(&directory, chaos) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
        self.open(path, OpenMode::Create, u64::MAX, chaos)?;
        let version = self.next_version();
        let node = self.handle(u64::MAX)?.node;
        let contents = self.contents(node);
        let before = contents.page_count();
        contents.truncate(0, version);
        contents.write(0, &[bytes], version, &mut u64::MAX.clone(), chaos);
        contents.settle(version + 1);
        let after = contents.page_count();
        self.version += 1;
        self.used_pages = self.used_pages + after - before;
        self.close(u64::MAX);
        let changes = std::mem::take(&mut self.changes);
        self.make_durable(changes);
        Ok(())
    }

    pub(in crate::io::sim) fn flip_bit(
        &mut self,
        path: &Path,
        position: u64,
        bit: u32,
    ) -> Answer<()> {
        if self.file_at(path)?.flip_bit(position, bit) {
            Ok(())
        } else {
            Err(Errno::INVAL)
        }
    }

    /// All files with their visible lengths, sorted by path.
    pub(in crate::io::sim) fn files(&mut self) -> Vec<(String, u64)> {
        let mut found = Vec::new();
        let mut pending = vec![(String::new(), ROOT)];
        while let Some((path, id)) = pending.pop() {
            match self.nodes.get(&id).map(|node| &node.kind) {
                Some(Kind::File(contents)) => found.push((path, contents.length())),
                Some(Kind::Directory(directory)) => pending.extend(
                    directory
                        .visible
                        .iter()
                        .map(|(name, id)| (format!("{path}/{name}"), *id)),
                ),
                None => {}
            }
        }
        found.sort();
        found
    }
}
