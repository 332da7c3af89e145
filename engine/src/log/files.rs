//! The open segment files and loaded indexes of a shard, each kept within a bound.
//!
//! 100,000 partitions must fit into the process's descriptor limit and memory: files are opened when
//! they are needed and the least recently used ones are closed. A [`File`] is counted by reference,
//! so a slice that is being sent stays open. A write error that no open descriptor has seen is still
//! reported by the next fdatasync of a newly opened one, as long as the kernel keeps the inode
//! (errseq_t, Linux 4.16), which it does while pages are dirty.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use super::error::{IoContext, LogError};
use super::index::Indexes;
use crate::io::{File, Io, OpenMode};

/// Which segment: the number of the log in this shard, and the segment's base offset.
pub(crate) type SegmentKey = (u64, i64);

struct Entry<V> {
    used: u64,
    weight: u64,
    value: V,
}

/// Values by segment; the least recently used ones go when the weights exceed the bound.
struct Lru<V> {
    entries: BTreeMap<SegmentKey, Entry<V>>,
    order: BTreeMap<u64, SegmentKey>,
    clock: u64,
    weight: u64,
    weight_max: u64,
}

impl<V: Clone> Lru<V> {
    fn new(weight_max: u64) -> Lru<V> {
        Lru {
            entries: BTreeMap::new(),
            order: BTreeMap::new(),
            clock: 0,
            weight: 0,
            weight_max,
        }
    }

    fn get(&mut self, key: SegmentKey) -> Option<V> {
        let entry = self.entries.get_mut(&key)?;
        // The newest stays where it is: the common case of a busy partition costs one look-up.
        if entry.used != self.clock {
            self.order.remove(&entry.used);
            self.clock += 1;
            entry.used = self.clock;
            self.order.insert(entry.used, key);
        }
        Some(entry.value.clone())
    }

    fn insert(&mut self, key: SegmentKey, value: V, weight: u64) {
        self.remove(key);
        self.clock += 1;
        let used = self.clock;
        self.order.insert(used, key);
        self.weight += weight;
        let entry = Entry {
            used,
            weight,
            value,
        };
        self.entries.insert(key, entry);
        while self.weight > self.weight_max && self.entries.len() > 1 {
            let Some((_, oldest)) = self.order.first_key_value() else {
                break;
            };
            self.remove(*oldest);
        }
    }

    fn remove(&mut self, key: SegmentKey) {
        if let Some(entry) = self.entries.remove(&key) {
            self.order.remove(&entry.used);
            self.weight -= entry.weight;
        }
    }

    fn remove_log(&mut self, log: u64) {
        let keys: Vec<SegmentKey> = self
            .entries
            .range((log, i64::MIN)..=(log, i64::MAX))
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            self.remove(key);
        }
    }
}

/// All blocks that the segments of a shard have ahead of their ends: little beside what a broker keeps free
/// of a disk, however many partitions there are.
const AHEAD_BYTES_MAX: u64 = 16 << 20;
/// Of what is left of it a segment gets a quarter, at least so much.
const AHEAD_BYTES_MIN: u64 = 128 << 10;

/// Blocks that a segment has ahead of its end, as far as they were asked for: counted until this is dropped.
pub(crate) struct Ahead {
    inner: Rc<Inner>,
    bytes: u64,
}

impl std::fmt::Debug for Ahead {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Ahead({})", self.bytes)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.inner.ahead_bytes.update(|bytes| bytes - self.bytes);
    }
}

struct Inner {
    io: Io,
    files: RefCell<Lru<File>>,
    indexes: RefCell<Lru<Rc<Indexes>>>,
    next_log: Cell<u64>,
    ahead_bytes: Cell<u64>,
}

/// A shard's open segment files and loaded indexes. Cheap to clone.
#[derive(Clone)]
pub struct SegmentFiles {
    inner: Rc<Inner>,
}

impl SegmentFiles {
    /// Keeps at most `files_max` files open and `index_bytes_max` bytes of indexes of old segments
    /// in memory (one of each stays whatever the bound).
    pub fn new(io: &Io, files_max: usize, index_bytes_max: u64) -> SegmentFiles {
        let inner = Inner {
            io: io.clone(),
            files: RefCell::new(Lru::new(files_max as u64)),
            indexes: RefCell::new(Lru::new(index_bytes_max)),
            next_log: Cell::new(0),
            ahead_bytes: Cell::new(0),
        };
        SegmentFiles {
            inner: Rc::new(inner),
        }
    }

    /// The shard's I/O.
    pub fn io(&self) -> &Io {
        &self.inner.io
    }

    /// How many files are kept open now.
    pub fn open_count(&self) -> usize {
        self.inner.files.borrow().entries.len()
    }

    /// A number for a new log, so that paths need not be compared.
    pub(crate) fn number(&self) -> u64 {
        let number = self.inner.next_log.get();
        self.inner.next_log.set(number + 1);
        number
    }

    /// Room for blocks ahead, at most `wanted` bytes: how many, if there is any.
    pub(crate) fn take_ahead(&self, wanted: u64) -> Option<(u64, Ahead)> {
        let taken = &self.inner.ahead_bytes;
        let bytes = wanted.min((AHEAD_BYTES_MAX - taken.get()) / 4);
        if bytes < wanted.min(AHEAD_BYTES_MIN) || bytes == 0 {
            return None;
        }
        taken.update(|taken| taken + bytes);
        let inner = self.inner.clone();
        Some((bytes, Ahead { inner, bytes }))
    }

    /// The open file of a segment, if it is open.
    pub(crate) fn get(&self, key: SegmentKey) -> Option<File> {
        self.inner.files.borrow_mut().get(key)
    }

    /// Opens a file and keeps it.
    pub(crate) async fn open(
        &self,
        key: SegmentKey,
        path: &Path,
        mode: OpenMode,
    ) -> Result<File, LogError> {
        let file = self.inner.io.open(path, mode).await.at("open", path)?;
        self.inner.files.borrow_mut().insert(key, file.clone(), 1);
        Ok(file)
    }

    pub(crate) fn indexes(&self, key: SegmentKey) -> Option<Rc<Indexes>> {
        self.inner.indexes.borrow_mut().get(key)
    }

    pub(crate) fn keep_indexes(&self, key: SegmentKey, indexes: &Rc<Indexes>) {
        let weight = indexes.memory_bytes();
        self.inner
            .indexes
            .borrow_mut()
            .insert(key, indexes.clone(), weight);
    }

    /// Forgets a segment that was deleted.
    pub(crate) fn forget(&self, key: SegmentKey) {
        self.inner.files.borrow_mut().remove(key);
        self.inner.indexes.borrow_mut().remove(key);
    }

    /// Forgets all segments of a log.
    pub(crate) fn forget_log(&self, log: u64) {
        self.inner.files.borrow_mut().remove_log(log);
        self.inner.indexes.borrow_mut().remove_log(log);
    }
}
