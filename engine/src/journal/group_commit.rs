//! Group commit: appends are copied into the filling group; while one group is in flight, the next
//! one fills, and is written as soon as the device has answered.
//!
//! A longer wait for more appends buys nothing (one flush is about 100 us, `results/`), but one turn
//! of the shard does: the writer lets all tasks that are ready run before it seals a group.
//!
//! The place of a group is known when it begins to fill, because files are filled to the last
//! block: an append that does not fit into what is left of the file is cut in two entries.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};

use super::format::{
    BLOCK_BYTES, ENTRY_HEADER_BYTES, EntryHeader, GROUP_HEADER_BYTES, GroupHeader,
    SEGMENT_BYTES_MAX, crc_value, padded,
};
use super::{JournalError, JournalStats, Lsn, Shared};
use crate::io::AlignedBuffer;

/// Longest group: what a replay may have to throw away as torn, and the longest single write.
const GROUP_BYTES_MAX: u64 = 8 << 20;
/// Length of one piece of a group's memory.
const CHUNK_BYTES: usize = 128 * 1024;
/// Pieces that are kept for the next groups: two full groups.
const POOL_CHUNKS_MAX: usize = 128;
/// Kept free in a full ring for the groups that carry the checkpoints.
const RING_RESERVE_BYTES: u64 = 4 * BLOCK_BYTES as u64;

/// A group in memory.
struct Group {
    lsn: Lsn,
    /// Most bytes that fit, header included.
    bytes_max: u64,
    bytes: u64,
    entries: u32,
    digest: Digest,
    chunks: Vec<AlignedBuffer>,
}

impl Group {
    fn end(&self) -> Lsn {
        Lsn(self.lsn.0 + self.bytes)
    }

    fn room(&self) -> u64 {
        self.bytes_max - self.bytes
    }

    fn push(&mut self, mut bytes: &[u8], pool: &mut Vec<AlignedBuffer>) {
        self.digest.update(bytes);
        while !bytes.is_empty() {
            let at = usize::try_from(self.bytes).expect("at most GROUP_BYTES_MAX") % CHUNK_BYTES;
            if at == 0 {
                self.chunks.push(take_chunk(pool));
            }
            let chunk = self.chunks.last_mut().expect("pushed above");
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - at));
            chunk[at..at + now.len()].copy_from_slice(now);
            self.bytes += now.len() as u64;
            bytes = later;
        }
    }

    /// Pads to whole blocks and writes the header.
    fn seal(&mut self, header: impl FnOnce(GroupHeader) -> GroupHeader) {
        let at = usize::try_from(self.bytes).expect("at most GROUP_BYTES_MAX") % CHUNK_BYTES;
        if at > 0 {
            let end = at.next_multiple_of(BLOCK_BYTES);
            let last = self.chunks.last_mut().expect("a group has its header");
            last[at..end].fill(0);
            last.set_length(end);
        }
        let payload_bytes = self.bytes - GROUP_HEADER_BYTES as u64;
        let header = header(GroupHeader {
            shard: 0,
            incarnation: 0,
            sequence: 0,
            lsn: self.lsn,
            checkpoint_lsn: Lsn(0),
            payload_bytes: u32::try_from(payload_bytes).expect("at most GROUP_BYTES_MAX"),
            entries: self.entries,
            payload_crc: crc_value(self.digest.finalize()),
        });
        header.encode(&mut self.chunks[0]);
    }
}

fn take_chunk(pool: &mut Vec<AlignedBuffer>) -> AlignedBuffer {
    pool.pop()
        .unwrap_or_else(|| AlignedBuffer::zeroed(CHUNK_BYTES))
}

/// What the appends and the writer share.
#[derive(Default)]
pub(super) struct State {
    /// The groups behind the one in flight; only the last one still fills.
    groups: VecDeque<Group>,
    pool: Vec<AlignedBuffer>,
    /// Where the group after the last one that is complete begins.
    next_lsn: Lsn,
    next_sequence: u64,
    pub(super) durable_lsn: Lsn,
    checkpoint_lsn: Lsn,
    /// The highest checkpoint that a sealed group carries.
    published_checkpoint_lsn: Lsn,
    reserved_bytes: u64,
    /// Who waits for a reservation, first come first.
    tickets: VecDeque<u64>,
    next_ticket: u64,
    ring_is_wanted: bool,
    waiters: BTreeMap<(Lsn, u64), Waker>,
    next_waiter: u64,
    pub(super) poisoned: Option<Arc<str>>,
    closing: bool,
    writer_stopped: bool,
    stats: JournalStats,
}

impl State {
    fn append_lsn(&self) -> Lsn {
        self.groups.back().map_or(self.next_lsn, Group::end)
    }

    fn check(&self) -> Result<(), JournalError> {
        match &self.poisoned {
            Some(reason) => Err(JournalError::Poisoned(reason.clone())),
            None if self.closing => Err(JournalError::Closed),
            None => Ok(()),
        }
    }

    fn pending_bytes(&self) -> u64 {
        self.groups.iter().map(|group| group.bytes).sum()
    }

    fn begin_group(&mut self, lsn: Lsn, left_in_file: u64) {
        self.next_lsn = lsn;
        self.groups.push_back(Group {
            lsn,
            bytes_max: left_in_file.min(GROUP_BYTES_MAX),
            bytes: GROUP_HEADER_BYTES as u64,
            entries: 0,
            digest: Digest::new(CrcAlgorithm::Crc32Iscsi),
            chunks: vec![take_chunk(&mut self.pool)],
        });
    }

    /// Appends one entry, which fits.
    fn push_entry(&mut self, header: EntryHeader, parts: &[&[u8]]) {
        let group = self.groups.back_mut().expect("a group fills");
        group.push(&header.encode(), &mut self.pool);
        for part in parts {
            group.push(part, &mut self.pool);
        }
        group.entries += 1;
        self.stats.entries += 1;
        self.stats.entry_bytes += u64::from(header.length);
    }

    /// Takes the group to write next; an empty one at `lsn` if only a checkpoint is to be told.
    fn take_group(&mut self, left_in_file: impl FnOnce(Lsn) -> u64) -> Group {
        if self.groups.is_empty() {
            self.begin_group(self.next_lsn, left_in_file(self.next_lsn));
        }
        let group = self.groups.pop_front().expect("begun above");
        if self.groups.is_empty() {
            self.next_lsn = Lsn(group.lsn.0 + padded(group.bytes));
        }
        group
    }

    fn wake_durable(&mut self) -> Vec<Waker> {
        let later = self.waiters.split_off(&(Lsn(self.durable_lsn.0 + 1), 0));
        let ready = std::mem::replace(&mut self.waiters, later);
        ready.into_values().collect()
    }
}

impl Shared {
    pub(super) fn append_lsn(&self) -> Lsn {
        self.state.borrow().append_lsn()
    }

    pub(super) fn is_ending(&self) -> bool {
        let state = self.state.borrow();
        state.poisoned.is_some() || state.closing
    }

    /// Copies one entry, cut where a group ends.
    pub(super) fn append(
        &self,
        mut header: EntryHeader,
        buffers: &[Bytes],
    ) -> Result<Lsn, JournalError> {
        let mut state = self.state.borrow_mut();
        state.check()?;
        let mut left: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        let end = header.position.saturating_add(left);
        assert!(
            header.segment_base >= 0 && end <= SEGMENT_BYTES_MAX,
            "{header:?} with {left} bytes"
        );
        let mut cursor = (0, 0);
        loop {
            let least = ENTRY_HEADER_BYTES as u64 + left.min(1);
            match state.groups.back() {
                Some(group) if group.room() >= least => {}
                Some(group) => {
                    let next = Lsn(group.lsn.0 + padded(group.bytes));
                    state.begin_group(next, self.geometry.left_in_file(next));
                }
                None => {
                    let next = state.next_lsn;
                    state.begin_group(next, self.geometry.left_in_file(next));
                }
            }
            let room = state.groups.back().map_or(0, Group::room) - ENTRY_HEADER_BYTES as u64;
            let length = left.min(room);
            header.length = u32::try_from(length).expect("at most GROUP_BYTES_MAX");
            state.push_entry(header, &slices(buffers, &mut cursor, length));
            header.position += length;
            left -= length;
            if left == 0 {
                break;
            }
        }
        let lsn = state.append_lsn();
        drop(state);
        self.work.notify();
        Ok(lsn)
    }

    // ---- room ----------------------------------------------------------------------------------

    fn capacity(&self) -> u64 {
        self.ring.borrow().files_max() * self.geometry.data_bytes()
    }

    fn used(&self) -> u64 {
        let oldest = self.ring.borrow().oldest_sequence();
        self.append_lsn().0 - self.geometry.first_lsn(oldest).0
    }

    /// Whether `bytes` more fit into memory, and into the ring.
    fn has_room(&self, bytes: u64) -> (bool, bool) {
        let (pending, reserved) = {
            let state = self.state.borrow();
            (state.pending_bytes(), state.reserved_bytes)
        };
        let waiting = pending + reserved;
        let in_memory = waiting == 0 || waiting + bytes <= self.options.pending_bytes_max as u64;
        let in_ring = self.used() + reserved + bytes + RING_RESERVE_BYTES <= self.capacity();
        (in_memory, in_ring)
    }

    pub(super) async fn reserve(
        this: &Rc<Shared>,
        bytes: usize,
    ) -> Result<Reservation, JournalError> {
        // An entry header for each piece, and at most a block of padding for each group.
        let bytes = bytes as u64 + BLOCK_BYTES as u64 * (1 + bytes as u64 / (1 << 20));
        // After a checkpoint at the very end, the file in use, and what told it, are still taken.
        let limit =
            (this.capacity() - this.geometry.data_bytes()).saturating_sub(2 * RING_RESERVE_BYTES);
        if bytes > limit {
            return Err(JournalError::TooLarge { bytes, limit });
        }
        let started = this.io.now();
        let mut waited = false;
        let ticket = Ticket::take(this.clone());
        let granted = this.change.until(|| {
            if let Err(error) = this.state.borrow().check() {
                return Some(Err(error));
            }
            let is_first = this.state.borrow().tickets.front() == Some(&ticket.number);
            let (in_memory, in_ring) = this.has_room(bytes);
            if is_first && in_memory && in_ring {
                return Some(Ok(()));
            }
            waited = true;
            if is_first && !in_ring && !this.state.borrow().ring_is_wanted {
                this.state.borrow_mut().ring_is_wanted = true;
                this.change.notify();
            }
            None
        });
        let granted = granted.await;
        let mut state = this.state.borrow_mut();
        if waited {
            state.stats.waits += 1;
            state.stats.wait_time += this.io.now().since(started);
        }
        granted?;
        state.reserved_bytes += bytes;
        drop(state);
        let shared = this.clone();
        Ok(Reservation { shared, bytes })
    }

    // ---- checkpoints -----------------------------------------------------------------------------

    pub(super) fn needs_checkpoint(&self) -> bool {
        let state = self.state.borrow();
        let behind = state.append_lsn().0 - state.checkpoint_lsn.0;
        let wanted = state.ring_is_wanted;
        drop(state);
        // One block behind is the group that told the last checkpoint: another one frees nothing.
        (wanted && behind > BLOCK_BYTES as u64) || behind > self.capacity() / 2
    }

    pub(super) async fn checkpoint_needed(&self) -> Result<(), JournalError> {
        let needed = self.change.until(|| match self.state.borrow().check() {
            Err(error) => Some(Err(error)),
            Ok(()) => {
                // What was told last must have had its effect before the ring is judged again.
                let told = {
                    let state = self.state.borrow();
                    state.checkpoint_lsn == state.published_checkpoint_lsn
                };
                (told && self.needs_checkpoint()).then_some(Ok(()))
            }
        });
        needed.await
    }

    pub(super) fn finish_checkpoint(&self, lsn: Lsn) {
        let mut state = self.state.borrow_mut();
        assert!(
            lsn <= state.append_lsn(),
            "checkpoint {lsn:?} of the future"
        );
        // Nothing may be told any more, least of all that something needs no replay.
        if state.poisoned.is_some() {
            return;
        }
        state.checkpoint_lsn = state.checkpoint_lsn.max(lsn);
        drop(state);
        self.work.notify();
    }

    // ---- the end ---------------------------------------------------------------------------------

    pub(super) fn poison(&self, reason: &str) {
        let waiters = {
            let mut state = self.state.borrow_mut();
            state.poisoned.get_or_insert_with(|| reason.into());
            std::mem::take(&mut state.waiters)
        };
        waiters.into_values().for_each(Waker::wake);
        self.work.notify();
        self.change.notify();
    }

    /// Writes what is there and a last checkpoint above all of it, and ends both tasks.
    pub(super) async fn finish_writing(&self) -> Result<(), JournalError> {
        {
            let mut state = self.state.borrow_mut();
            state.check()?;
            state.closing = true;
        }
        self.work.notify();
        self.change.notify();
        let stopped = self.change.until(|| {
            let stopped = self.state.borrow().writer_stopped && self.preparer_stopped();
            stopped.then_some(())
        });
        stopped.await;
        match &self.state.borrow().poisoned {
            Some(reason) => Err(JournalError::Poisoned(reason.clone())),
            None => Ok(()),
        }
    }

    pub(super) fn stats(&self) -> JournalStats {
        let state = self.state.borrow();
        let mut stats = state.stats;
        stats.pending_bytes = state.pending_bytes();
        drop(state);
        stats.used_bytes = self.used();
        stats.capacity_bytes = self.capacity();
        stats.files = self.ring.borrow().files();
        stats
    }

    // ---- the writer ------------------------------------------------------------------------------

    async fn work_to_do(&self) -> bool {
        let look = || {
            let state = self.state.borrow();
            if state.poisoned.is_some() {
                return Some(false);
            }
            let has_work = !state.groups.is_empty()
                || state.checkpoint_lsn > state.published_checkpoint_lsn
                || state.closing;
            has_work.then_some(true)
        };
        self.work.until(look).await
    }

    /// Writes one group; whether it was the last one.
    async fn write_group(&self) -> Result<bool, JournalError> {
        let (mut group, checkpoint_lsn, is_last) = {
            let mut state = self.state.borrow_mut();
            let is_last = state.closing && state.groups.is_empty();
            let group = state.take_group(|lsn| self.geometry.left_in_file(lsn));
            if is_last {
                state.checkpoint_lsn = group.lsn;
            }
            state.published_checkpoint_lsn = state.checkpoint_lsn;
            state.stats.in_flight_bytes = padded(group.bytes);
            (group, state.checkpoint_lsn, is_last)
        };
        self.change.notify();
        let sequence = self.state.borrow().next_sequence;
        group.seal(|header| GroupHeader {
            shard: self.options.shard,
            incarnation: self.incarnation,
            sequence,
            checkpoint_lsn,
            ..header
        });
        let (_, position) = self.geometry.place(group.lsn);
        let (file, file_header) = self.file_for(group.lsn, checkpoint_lsn).await?;
        let with_header = file_header.is_some();
        let mut buffers = Vec::with_capacity(group.chunks.len() + 1);
        buffers.extend(file_header);
        buffers.append(&mut group.chunks);
        let start = if with_header { 0 } else { position };
        let written = self.io.write_durable(&file, buffers, start).await;
        let directory = &self.options.directory;
        let buffers = written.map_err(JournalError::io("write to a file in", directory))?;
        self.group_is_durable(&group, buffers);
        self.free_files(checkpoint_lsn).await;
        self.change.notify();
        Ok(is_last)
    }

    fn group_is_durable(&self, group: &Group, buffers: Vec<AlignedBuffer>) {
        let waiters = {
            let mut state = self.state.borrow_mut();
            state.durable_lsn = Lsn(group.lsn.0 + padded(group.bytes));
            state.next_sequence += 1;
            state.stats.groups += 1;
            state.stats.in_flight_bytes = 0;
            for mut buffer in buffers {
                state.stats.bytes_written += buffer.len() as u64;
                if buffer.capacity() == CHUNK_BYTES && state.pool.len() < POOL_CHUNKS_MAX {
                    buffer.set_length(CHUNK_BYTES);
                    state.pool.push(buffer);
                }
            }
            state.wake_durable()
        };
        waiters.into_iter().for_each(Waker::wake);
    }
}

/// The writer: a task for as long as the journal lives.
pub(super) async fn write_groups(shared: Rc<Shared>) {
    while shared.work_to_do().await {
        shared.io.yield_now().await;
        if shared.state.borrow().poisoned.is_some() {
            break;
        }
        match shared.write_group().await {
            Ok(false) => {}
            Ok(true) => break,
            Err(error) => shared.poison(&error.to_string()),
        }
    }
    shared.state.borrow_mut().writer_stopped = true;
    // Those who were too late for the last group hear that it was the last.
    let waiters = std::mem::take(&mut shared.state.borrow_mut().waiters);
    waiters.into_values().for_each(Waker::wake);
    shared.change.notify();
}

/// Room for appended bytes, in memory and in the ring. Dropping it gives back what was not used.
#[must_use = "room is reserved only while this is held"]
pub struct Reservation {
    shared: Rc<Shared>,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shared.state.borrow_mut().reserved_bytes -= self.bytes;
        self.shared.change.notify();
    }
}

/// A place in the queue for reservations.
struct Ticket {
    shared: Rc<Shared>,
    number: u64,
}

impl Ticket {
    fn take(shared: Rc<Shared>) -> Ticket {
        let number = {
            let mut state = shared.state.borrow_mut();
            state.next_ticket += 1;
            let number = state.next_ticket;
            state.tickets.push_back(number);
            number
        };
        Ticket { shared, number }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.shared.state.borrow_mut();
        state.tickets.retain(|number| *number != self.number);
        state.ring_is_wanted = false;
        let others = !state.tickets.is_empty();
        drop(state);
        if others {
            self.shared.change.notify();
        }
    }
}

/// The future of [`super::Journal::durable`].
pub(super) struct Durable {
    shared: Rc<Shared>,
    lsn: Lsn,
    key: Option<(Lsn, u64)>,
}

impl Durable {
    pub(super) fn new(shared: Rc<Shared>, lsn: Lsn) -> Durable {
        let key = None;
        Durable { shared, lsn, key }
    }
}

impl Future for Durable {
    type Output = Result<(), JournalError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (lsn, old) = (self.lsn, self.key.take());
        let mut state = self.shared.state.borrow_mut();
        if let Some(old) = old {
            state.waiters.remove(&old);
        }
        if state.durable_lsn >= lsn {
            return Poll::Ready(Ok(()));
        }
        if let Some(reason) = &state.poisoned {
            return Poll::Ready(Err(JournalError::Poisoned(reason.clone())));
        }
        if state.writer_stopped {
            return Poll::Ready(Err(JournalError::Closed));
        }
        state.next_waiter += 1;
        let key = (lsn, state.next_waiter);
        state.waiters.insert(key, context.waker().clone());
        drop(state);
        self.key = Some(key);
        Poll::Pending
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.shared.state.borrow_mut().waiters.remove(&key);
        }
    }
}

/// The next `length` bytes of `buffers` from the cursor (index, offset) on, which moves.
fn slices<'a>(buffers: &'a [Bytes], cursor: &mut (usize, usize), length: u64) -> Vec<&'a [u8]> {
    let mut left = usize::try_from(length).expect("at most GROUP_BYTES_MAX");
    let mut slices = Vec::new();
    while left > 0 {
        let rest = &buffers[cursor.0][cursor.1..];
        let now = rest.len().min(left);
        slices.push(&rest[..now]);
        left -= now;
        *cursor = if now == rest.len() {
            (cursor.0 + 1, 0)
        } else {
            (cursor.0, cursor.1 + now)
        };
    }
    slices
}

const _: () = assert!(CHUNK_BYTES.is_multiple_of(BLOCK_BYTES));
