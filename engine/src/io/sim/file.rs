//! The contents of a simulated file in its layers: what readers see, what of it is dirty, and what
//! a crash leaves.
//!
//! Invariants:
//! - Visible bytes beyond the visible length are zero.
//! - Pages are shared between the layers until one of them changes; nothing copies whole files.
//! - A version is the world's number of a change; a page never becomes durable over a newer one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::chaos::Chaos;

/// Size of a page; what the page cache writes, and what O_DIRECT is aligned to.
pub(super) const PAGE_BYTES: usize = 4096;
const PAGE: u64 = PAGE_BYTES as u64;
/// What a device writes whole or not at all.
const SECTOR_BYTES: usize = 512;
const SECTOR: u64 = SECTOR_BYTES as u64;
/// A dirty page that is written again has gone to the disk before once in so many times.
const WRITEBACK_ONE_IN: u64 = 16;

type Page = Arc<[u8; PAGE_BYTES]>;
type Layer = BTreeMap<u64, Versioned>;

#[derive(Clone)]
struct Versioned {
    version: u64,
    page: Page,
}

/// What of a file's dirty data and length a sync has promised to make durable.
pub(super) struct Capture {
    version: u64,
    length: u64,
    pages: Vec<(u64, Versioned)>,
}

/// How much of the unsynced data a crash keeps.
#[derive(Clone, Copy)]
pub(super) struct Survival {
    /// Of 100 pages so many are kept.
    pub(super) percent: u64,
}

impl Survival {
    fn keeps(self, chaos: &mut Chaos) -> bool {
        chaos.rng.below(100) < self.percent
    }
}

/// The contents of one file.
#[derive(Default)]
pub(super) struct Contents {
    visible: Layer,
    length: u64,
    dirty: BTreeSet<u64>,
    durable: Layer,
    durable_length: u64,
    /// Truncations that no sync has covered: version and length. A sync that is under way may yet
    /// make a length durable that is beyond them.
    cuts: Vec<(u64, u64)>,
    /// Version of the newest capture that was committed.
    synced: u64,
    /// Version of the newest direct write.
    direct: u64,
    /// Pages from the start that fallocate(2) has reserved.
    allocated: u64,
}

fn zeros() -> Page {
    Arc::new([0; PAGE_BYTES])
}

/// Splits `count` bytes from `position` on into pages: number, start in the page, count.
fn spans(position: u64, count: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = position + count;
    let mut at = position;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let start = at % PAGE;
        let count = (PAGE - start).min(end - at);
        let span = (at / PAGE, start as usize, count as usize);
        at += count;
        Some(span)
    })
}

fn cut_layer(layer: &mut Layer, length: u64) {
    layer.split_off(&length.div_ceil(PAGE));
    if let Some(last) = layer.get_mut(&(length / PAGE)) {
        let tail = &mut Arc::make_mut(&mut last.page)[(length % PAGE) as usize..];
        tail.fill(0);
    }
}

impl Contents {
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Pages that the file takes from the disk.
    pub(super) fn page_count(&self) -> u64 {
        self.allocated + self.visible.range(self.allocated..).count() as u64
    }

    /// Writes all of `buffers` to the page cache, as far as `free_pages` go, which it lowers.
    /// Returns the number of bytes written.
    pub(super) fn write(
        &mut self,
        position: u64,
        buffers: &[Bytes],
        version: u64,
        free_pages: &mut u64,
        chaos: &mut Chaos,
    ) -> u64 {
        let mut at = position;
        'all: for buffer in buffers {
            let mut rest = &buffer[..];
            for (number, start, count) in spans(at, buffer.len() as u64) {
                if !self.charge(number, free_pages) {
                    break 'all;
                }
                self.write_back_early(number, chaos);
                let (head, tail) = rest.split_at(count);
                let cached = self.page_for_write(number, version);
                cached[start..start + count].copy_from_slice(head);
                self.dirty.insert(number);
                rest = tail;
                at += count as u64;
            }
        }
        if at > position {
            self.length = self.length.max(at);
        }
        at - position
    }

    fn charge(&self, number: u64, free_pages: &mut u64) -> bool {
        if number < self.allocated || self.visible.contains_key(&number) {
            return true;
        }
        let is_free = *free_pages > 0;
        *free_pages = free_pages.saturating_sub(1);
        is_free
    }

    fn page_for_write(&mut self, number: u64, version: u64) -> &mut [u8; PAGE_BYTES] {
        let cached = self.visible.entry(number).or_insert_with(|| Versioned {
            version,
            page: zeros(),
        });
        cached.version = version;
        Arc::make_mut(&mut cached.page)
    }

    /// The kernel writes dirty pages when it likes: what is overwritten now may be on the disk.
    fn write_back_early(&mut self, number: u64, chaos: &mut Chaos) {
        if self.dirty.contains(&number)
            && self.pending_cut().is_none()
            && chaos.rng.one_in(WRITEBACK_ONE_IN)
        {
            self.durable.insert(number, self.visible[&number].clone());
        }
    }

    /// Writes all of `buffers` past the page cache, durable at once.
    pub(super) fn write_direct(
        &mut self,
        position: u64,
        buffers: &[&[u8]],
        version: u64,
        free_pages: &mut u64,
    ) -> u64 {
        self.apply_cuts(u64::MAX);
        let mut at = position;
        'all: for buffer in buffers {
            let mut rest = *buffer;
            for (number, start, count) in spans(at, buffer.len() as u64) {
                if !self.charge(number, free_pages) {
                    break 'all;
                }
                let (head, tail) = rest.split_at(count);
                self.page_for_write(number, version)[start..start + count].copy_from_slice(head);
                let written = self.visible[&number].clone();
                self.durable.insert(number, written);
                self.dirty.remove(&number);
                rest = tail;
                at += count as u64;
            }
        }
        if at > position {
            self.length = self.length.max(at);
            self.durable_length = self.durable_length.max(at);
            self.direct = version;
        }
        at - position
    }

    /// Some of the sectors of a durable write that was in flight at a crash reach the disk.
    pub(super) fn tear_direct(
        &mut self,
        position: u64,
        buffers: &[&[u8]],
        survival: Survival,
        chaos: &mut Chaos,
    ) {
        let mut at = position;
        let mut missing = false;
        for sector in buffers
            .iter()
            .flat_map(|buffer| buffer.chunks(SECTOR_BYTES))
        {
            if survival.keeps(chaos) {
                for (number, start, count) in spans(at, sector.len() as u64) {
                    self.patch_durable(number, start, &sector[..count]);
                }
            } else {
                missing = true;
            }
            at += sector.len() as u64;
        }
        if missing {
            chaos.count("crash: torn durable write");
        }
        if at > self.durable_length {
            self.durable_length = draw_length(self.durable_length, at, survival, chaos);
        }
    }

    fn patch_durable(&mut self, number: u64, start: usize, bytes: &[u8]) {
        let stored = self.durable.entry(number).or_insert_with(|| Versioned {
            version: 0,
            page: zeros(),
        });
        Arc::make_mut(&mut stored.page)[start..start + bytes.len()].copy_from_slice(bytes);
    }

    /// Appends up to `length` visible bytes from `position` to `out`; returns how many.
    pub(super) fn read(&self, position: u64, length: u64, out: &mut BytesMut) -> u64 {
        let count = self.length.saturating_sub(position).min(length);
        for (number, start, count) in spans(position, count) {
            match self.visible.get(&number) {
                Some(cached) => out.extend_from_slice(&cached.page[start..start + count]),
                None => out.extend_from_slice(&[0; PAGE_BYTES][..count]),
            }
        }
        count
    }

    /// ftruncate(2).
    pub(super) fn truncate(&mut self, length: u64, version: u64) {
        if length < self.length {
            let last = length / PAGE;
            if !length.is_multiple_of(PAGE) && self.visible.contains_key(&last) {
                let tail = &mut self.page_for_write(last, version)[(length % PAGE) as usize..];
                tail.fill(0);
                self.dirty.insert(last);
            }
            self.visible.split_off(&length.div_ceil(PAGE));
            self.dirty.split_off(&length.div_ceil(PAGE));
            // Pages that the kernel wrote early, beyond the durable end, are freed with the rest.
            cut_layer(&mut self.durable, length.max(self.durable_length));
            self.cuts.push((version, length));
        }
        if length <= self.length {
            self.allocated = self.allocated.min(length.div_ceil(PAGE));
        }
        self.length = length;
    }

    /// fallocate(2) from the start to `length`, which the file's length reaches then if it `grows`. False
    /// if `free_pages` do not suffice.
    pub(super) fn allocate(&mut self, length: u64, grows: bool, free_pages: u64) -> bool {
        let pages = length.div_ceil(PAGE);
        if pages > self.allocated {
            let present = self.visible.range(self.allocated..pages).count() as u64;
            if pages - self.allocated - present > free_pages {
                return false;
            }
            self.allocated = pages;
        }
        if grows {
            self.length = self.length.max(length);
        }
        true
    }

    /// What a sync that starts now will make durable.
    pub(super) fn capture(&self, version: u64) -> Capture {
        let pages = self.dirty.iter();
        Capture {
            version,
            length: self.length,
            pages: pages
                .map(|number| (*number, self.visible[number].clone()))
                .collect(),
        }
    }

    /// The sync has succeeded.
    pub(super) fn commit(&mut self, capture: Capture) {
        if capture.version < self.synced {
            return;
        }
        self.synced = capture.version;
        self.apply_cuts(capture.version);
        for (number, written) in capture.pages {
            if let Some(cached) = self.visible.get(&number)
                && cached.version == written.version
            {
                self.dirty.remove(&number);
            }
            self.make_durable(number, written);
        }
        self.durable_length = if self.direct > capture.version {
            self.durable_length.max(capture.length)
        } else {
            capture.length
        };
        self.durable
            .split_off(&self.durable_length.max(self.length).div_ceil(PAGE));
    }

    fn make_durable(&mut self, number: u64, written: Versioned) {
        let is_newer = |stored: &Versioned| stored.version > written.version;
        if !self.durable.get(&number).is_some_and(is_newer) {
            self.durable.insert(number, written);
        }
    }

    /// Where the durable file will be cut, if a truncation is not durable yet.
    pub(super) fn pending_cut(&self) -> Option<u64> {
        let lengths = self.cuts.iter().map(|cut| cut.1);
        lengths.min().filter(|cut| *cut < self.durable_length)
    }

    /// Truncations up to `version` are durable. Pages that were written after them, and that the
    /// kernel wrote early, stay.
    fn apply_cuts(&mut self, version: u64) {
        let (settled, open) = std::mem::take(&mut self.cuts)
            .into_iter()
            .partition(|cut: &(u64, u64)| cut.0 <= version);
        self.cuts = open;
        for (version, length) in settled {
            let tail = self.durable.split_off(&length.div_ceil(PAGE));
            let newer = tail.into_iter().filter(|(_, page)| page.version > version);
            self.durable.extend(newer);
            if let Some(last) = self.durable.get_mut(&(length / PAGE))
                && last.version < version
            {
                Arc::make_mut(&mut last.page)[(length % PAGE) as usize..].fill(0);
            }
            self.durable_length = self.durable_length.min(length);
        }
    }

    /// The sync has failed: some pages are on the disk, none is dirty any more.
    pub(super) fn fail(&mut self, capture: Capture, chaos: &mut Chaos) {
        let may_be_written = self.pending_cut().is_none();
        for (number, written) in capture.pages {
            if let Some(cached) = self.visible.get(&number)
                && cached.version == written.version
            {
                self.dirty.remove(&number);
                if may_be_written && chaos.rng.one_in(4) {
                    self.make_durable(number, written);
                }
            }
        }
    }

    /// sync_file_range(2): the device has the pages, and may or may not keep them.
    pub(super) fn write_back(&mut self, position: u64, length: u64, chaos: &mut Chaos) {
        if self.pending_cut().is_some() {
            return;
        }
        let end = match length {
            0 => u64::MAX,
            length => position.saturating_add(length).div_ceil(PAGE),
        };
        for number in self.dirty.range(position / PAGE..end) {
            if chaos.rng.coin() {
                self.durable.insert(*number, self.visible[number].clone());
            }
        }
    }

    /// The power fails: of what was not synced, each page is kept, lost or torn.
    pub(super) fn crash(&mut self, survival: Survival, chaos: &mut Chaos) {
        let mut limit = u64::MAX;
        let mut target = self.durable_length;
        if let Some(cut) = self.pending_cut() {
            if survival.keeps(chaos) {
                self.apply_cuts(u64::MAX);
                target = self.durable_length;
            } else {
                chaos.count("crash: lost truncation");
                limit = cut;
            }
        }
        if limit == u64::MAX && self.length > target {
            target = draw_length(target, self.length, survival, chaos);
        }
        for number in std::mem::take(&mut self.dirty) {
            self.crash_page(number, limit, survival, chaos);
        }
        cut_layer(&mut self.durable, target);
        self.durable_length = target;
        self.allocated = self.allocated.min(target.div_ceil(PAGE));
        self.forget_cache();
    }

    fn crash_page(&mut self, number: u64, limit: u64, survival: Survival, chaos: &mut Chaos) {
        let cached = self.visible[&number].clone();
        let is_kept = survival.keeps(chaos);
        let torn_page = chaos.config.disk.torn_page;
        if survival.percent > 0 && survival.percent < 100 && chaos.happens(torn_page) {
            chaos.count("crash: torn page");
            for sector in 0..PAGE_BYTES / SECTOR_BYTES {
                let start = sector * SECTOR_BYTES;
                let end = number * PAGE + start as u64 + SECTOR;
                if end <= limit && chaos.rng.coin() {
                    let bytes = &cached.page[start..start + SECTOR_BYTES];
                    self.patch_durable(number, start, bytes);
                }
            }
        } else if !is_kept {
            chaos.count("crash: lost page");
        } else if (number + 1) * PAGE <= limit {
            self.durable.insert(number, cached);
        } else if limit > number * PAGE {
            let count = (limit - number * PAGE) / SECTOR * SECTOR;
            self.patch_durable(number, 0, &cached.page[..count as usize]);
        }
    }

    fn forget_cache(&mut self) {
        self.visible = self.durable.clone();
        self.length = self.durable_length;
        self.dirty.clear();
        self.cuts.clear();
    }

    /// Nobody can see the file any more, but a crash may bring it back.
    pub(super) fn hide(&mut self) {
        self.visible.clear();
        self.dirty.clear();
        self.allocated = 0;
    }

    /// Everything visible becomes durable.
    pub(super) fn settle(&mut self, version: u64) {
        let capture = self.capture(version);
        self.commit(capture);
    }

    /// Flips a bit on the disk, and in the page cache unless the page is dirty. False if the byte
    /// is not on the disk.
    pub(super) fn flip_bit(&mut self, position: u64, bit: u32) -> bool {
        if position >= self.durable_length {
            return false;
        }
        let number = position / PAGE;
        let mask = 1u8 << (bit % 8);
        let flip = |layer: &mut Layer| {
            let stored = layer.entry(number).or_insert_with(|| Versioned {
                version: 0,
                page: zeros(),
            });
            Arc::make_mut(&mut stored.page)[(position % PAGE) as usize] ^= mask;
        };
        flip(&mut self.durable);
        if !self.dirty.contains(&number) && position < self.length {
            flip(&mut self.visible);
        }
        true
    }
}

/// Length after a crash: old, new or in between, zero-filled.
fn draw_length(old: u64, new: u64, survival: Survival, chaos: &mut Chaos) -> u64 {
    match survival.percent {
        0 => old,
        100 => new,
        _ => match chaos.rng.below(3) {
            0 => old,
            1 => new,
            _ => chaos.rng.within(old, new),
        },
    }
}
