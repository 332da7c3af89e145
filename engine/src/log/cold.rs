//! Cold bytes: those of a segment that this process has neither appended nor checked. Their batches
//! are verified when they are read first, once; what is appended is trusted from the beginning, and
//! verified bytes are sent with `sendfile` like any others.
//!
//! What turns out to be damaged is remembered, told once ([`Log::take_damage`]), answered with
//! `Corrupt`, and stepped over by whoever reads on behind it. [`Log::scrub`] reads everything again,
//! cold or not.
//!
//! Memory: two numbers for each stretch of bytes that was verified, at most [`STRETCHES_MAX`] of them
//! a segment; what is forgotten is verified again. At most [`DAMAGES_MAX`] damages a segment.

use super::directory::SegmentFileKind;
use super::error::{IoContext, LogError};
use super::index::Indexes;
use super::scan::Scanner;
use super::segment::Segment;
use super::verify::{Damage, Start, Step, Verifier};
use super::{Log, State};
use crate::io::{File, OpenMode};
use crate::record::BatchHeader;

/// Bytes of one read.
const CHUNK_BYTES: usize = 256 * 1024;
/// Most bytes that one read verifies before it answers.
pub(super) const COLD_READ_BYTES_MAX: u32 = 4 << 20;
/// Stretches of verified bytes that are remembered of a segment.
const STRETCHES_MAX: usize = 256;
/// Damages that are remembered of a segment: of more, the closest are taken together, with what good
/// batches there are between.
const DAMAGES_MAX: usize = 256;
/// Index entries that are tried before a segment is read from its beginning.
const ENTRIES_TRIED_MAX: usize = 32;

const REMEDY: &str = "restore the partition from a replica or backup; or have consumers seek behind \
                      the damage; or stop the broker and see what `ringlog fsck` can save";

/// What is known of the bytes of a segment that are in doubt.
#[derive(Debug, Default)]
pub(crate) struct Doubt {
    /// Stretches of good batches, in order, apart.
    verified: Vec<(u32, u32)>,
    /// By position.
    damaged: Vec<Damage>,
}

impl Doubt {
    fn verify(&mut self, from: u32, to: u32) {
        if from >= to {
            return;
        }
        let first = self.verified.partition_point(|(_, end)| *end < from);
        let last = self.verified.partition_point(|(start, _)| *start <= to);
        let merged = self.verified[first..last]
            .iter()
            .fold((from, to), |(a, b), (start, end)| {
                (a.min(*start), b.max(*end))
            });
        self.verified.splice(first..last, [merged]);
        if self.verified.len() > STRETCHES_MAX {
            let length = |at: &usize| self.verified[*at].1 - self.verified[*at].0;
            let shortest = (0..self.verified.len()).min_by_key(length);
            self.verified.remove(shortest.unwrap_or(0));
        }
    }

    /// The end of the verified stretch that has the byte.
    fn verified_until(&self, position: u32) -> Option<u32> {
        let after = self
            .verified
            .partition_point(|(start, _)| *start <= position);
        let (_, end) = self.verified.get(after.checked_sub(1)?)?;
        (*end > position).then_some(*end)
    }

    fn distrust(&mut self, from: u32, to: u32) {
        let kept = self
            .verified
            .iter()
            .flat_map(|(start, end)| [(*start, (*end).min(from)), ((*start).max(to), *end)]);
        self.verified = kept.filter(|(start, end)| start < end).collect();
    }

    fn damage_at(&self, position: u32) -> Option<&Damage> {
        let at = |damage: &Damage| damage.position;
        let found = self.damaged.binary_search_by_key(&position.into(), at);
        found.ok().map(|found| &self.damaged[found])
    }

    /// `false` if it was known, or lies in what is.
    fn remember(&mut self, damage: &Damage) -> bool {
        let after = self
            .damaged
            .partition_point(|known| known.position <= damage.position);
        let before = after.checked_sub(1).map(|before| &self.damaged[before]);
        let is_known =
            |known: &Damage| known.position == damage.position || damage.end <= known.end;
        if before.is_some_and(is_known) {
            return false;
        }
        self.damaged.insert(after, damage.clone());
        if self.damaged.len() > DAMAGES_MAX {
            self.merge_closest();
        }
        true
    }

    fn merge_closest(&mut self) {
        let gap = |at: &usize| {
            let [first, second] = [&self.damaged[*at], &self.damaged[*at + 1]];
            second.position.saturating_sub(first.end)
        };
        let Some(at) = (0..self.damaged.len().saturating_sub(1)).min_by_key(gap) else {
            return;
        };
        let second = self.damaged.remove(at + 1);
        let first = &mut self.damaged[at];
        if second.end > first.end {
            first.end = second.end;
            first.next_offset = second.next_offset;
        }
    }
}

impl Segment {
    /// Up to where bytes are trusted from `position` on, if that one is.
    pub(super) fn trusted_until(&self, position: u32) -> Option<u32> {
        if position >= self.cold_end {
            return Some(self.size);
        }
        let end = self.doubt.as_ref()?.verified_until(position)?;
        Some(if end >= self.cold_end { self.size } else { end })
    }

    /// Takes note of damage; `false` if it was known.
    pub(super) fn note_damage(&mut self, damage: &Damage) -> bool {
        let (Ok(from), Ok(to)) = (u32::try_from(damage.position), u32::try_from(damage.end)) else {
            return false;
        };
        let cold_end = self.cold_end;
        let doubt = self.doubt.get_or_insert_default();
        if to > cold_end {
            // What was trusted without a look, so far.
            doubt.verify(cold_end, to);
            self.cold_end = to;
        }
        doubt.distrust(from, to);
        doubt.remember(damage)
    }

    /// The segment ends at `size` now.
    pub(super) fn forget_doubts_from(&mut self, size: u32) {
        self.cold_end = self.cold_end.min(size);
        if let Some(doubt) = &mut self.doubt {
            doubt.distrust(size, u32::MAX);
            doubt
                .damaged
                .retain(|damage| damage.position < u64::from(size));
        }
    }
}

/// Damage that was found in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedBatches {
    /// The segment's .log file.
    pub file: std::path::PathBuf,
    /// Where, which offsets, and what is wrong.
    pub damage: Damage,
}

/// How far a scrub has come in a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubPosition {
    segment_base: i64,
    /// Of the segment.
    generation: u64,
    position: u64,
    expected: i64,
}

impl ScrubPosition {
    /// Leaves out what is left of the segment, as after an error of reading.
    pub fn skip_segment(&mut self) {
        *self = ScrubPosition {
            segment_base: self.segment_base.saturating_add(1),
            ..ScrubPosition::default()
        };
    }
}

/// A walk over the batches of a segment, from one batch to the next.
pub(super) struct Walk {
    segment_base: i64,
    pub(super) scanner: Scanner,
    /// The log's, when the walk began.
    generation: u64,
    position: u32,
    expected: i64,
    /// Offsets up to the scanner's end are below this.
    following: i64,
    turn_at: u32,
}

/// What is at a place of a walk.
pub(super) enum Found {
    Batch(u32, BatchHeader),
    Damage(Damage),
}

impl Log {
    /// Damage that was found since the last call, each once.
    pub fn take_damage(&self) -> Vec<DamagedBatches> {
        self.untold.take()
    }

    /// The offset at which reading can go on, if `offset` lies in bytes known to be damaged.
    pub fn offset_behind_damage(&self, offset: i64) -> Option<i64> {
        let state = self.state.borrow();
        let after = state.segments.partition_point(|s| s.base_offset <= offset);
        let segment = state.segments.get(after.checked_sub(1)?)?;
        let mut damaged = segment.doubt.as_ref()?.damaged.iter();
        let damage = damaged.find(|damage| damage.covers(offset))?;
        let following = state.segments.get(after).map(|next| next.base_offset);
        let next = damage.next_offset.or(following);
        Some(next.unwrap_or(state.log_end_offset)).filter(|next| *next > offset)
    }

    // ---- walking -----------------------------------------------------------------------------

    /// Begins at a byte where a batch begins; offsets from there on are `expected` or more.
    pub(super) fn walk(
        &self,
        segment_base: i64,
        file: &File,
        at: (u32, i64),
        chunk: usize,
    ) -> Walk {
        let (position, expected) = at;
        let (end, following) = self.extent(segment_base);
        Walk {
            segment_base,
            scanner: self.scanner(file, end, chunk),
            generation: self.generation.get(),
            position,
            expected,
            following,
            turn_at: position.saturating_add(CHUNK_BYTES as u32),
        }
    }

    /// What comes next; `None` at the end of the segment.
    pub(super) async fn next_of(&self, walk: &mut Walk) -> Result<Option<Found>, LogError> {
        let (position, base) = (walk.position, walk.segment_base);
        if u64::from(position) >= walk.scanner.end() {
            return Ok(None);
        }
        let known = {
            let state = self.state.borrow();
            let segment = state.segment(base);
            let damage = segment.and_then(|s| s.doubt.as_ref()?.damage_at(position).cloned());
            let is_trusted = segment.is_some_and(|s| s.trusted_until(position).is_some());
            damage.ok_or(is_trusted)
        };
        let step = match known {
            Ok(damage) => Step::Damaged(damage),
            Err(true) => Step::Good(
                self.scan_header(&mut walk.scanner, base, position.into())
                    .await?,
            ),
            Err(false) => self.verify_next(walk).await?,
        };
        match step {
            Step::Good(header) => {
                walk.position += u32::try_from(header.size_in_bytes()).unwrap_or(u32::MAX);
                walk.expected = header.next_offset();
                Ok(Some(Found::Batch(position, header)))
            }
            Step::Damaged(damage) => {
                walk.position = u32::try_from(damage.end).unwrap_or(u32::MAX);
                Ok(Some(Found::Damage(damage)))
            }
        }
    }

    async fn verify_next(&self, walk: &mut Walk) -> Result<Step, LogError> {
        let base = walk.segment_base;
        let start = Start {
            segment_base: base,
            position: walk.position.into(),
            expected: walk.expected,
            following: Some(walk.following),
        };
        let path = self.path(base, SegmentFileKind::Log);
        let mut verifier = Verifier::new(&mut walk.scanner, start);
        let step = verifier.step().await.at("read", &path)?;
        let end = u32::try_from(verifier.position()).unwrap_or(u32::MAX);
        let step = step
            .ok_or_else(|| LogError::io("read", &path, std::io::ErrorKind::UnexpectedEof.into()))?;
        if self.generation.get() == walk.generation {
            match &step {
                Step::Good(_) => self.note_verified(base, walk.position, end),
                Step::Damaged(damage) => self.note_damage(base, damage),
            }
        }
        Ok(step)
    }

    /// Where a segment ends now, and the offset that those up to there are below. Both at once: an
    /// append that comes later must not lie in what a damage at the end is said to hold.
    pub(super) fn extent(&self, base_offset: i64) -> (u32, i64) {
        let state = self.state.borrow();
        let size = state.segment(base_offset).map_or(0, |segment| segment.size);
        let after = state
            .segments
            .partition_point(|s| s.base_offset <= base_offset);
        let next = state.segments.get(after).map(|next| next.base_offset);
        (size, next.unwrap_or(state.log_end_offset))
    }

    fn note_verified(&self, base_offset: i64, from: u32, to: u32) {
        if let Some(segment) = self.state.borrow_mut().segment_mut(base_offset) {
            segment.doubt.get_or_insert_default().verify(from, to);
        }
    }

    pub(super) fn note_damage(&self, base_offset: i64, damage: &Damage) {
        let is_new = {
            let mut state = self.state.borrow_mut();
            state.tail.clear();
            let segment = state.segment_mut(base_offset);
            segment.is_some_and(|segment| segment.note_damage(damage))
        };
        if is_new {
            self.untold.borrow_mut().push(DamagedBatches {
                file: self.path(base_offset, SegmentFileKind::Log),
                damage: damage.clone(),
            });
        }
    }

    pub(super) fn corrupt(&self, base_offset: i64, damage: &Damage) -> LogError {
        LogError::Corrupt {
            path: self.path(base_offset, SegmentFileKind::Log),
            position: damage.position,
            reason: damage.reason.clone(),
            remedy: REMEDY,
        }
    }

    // ---- looking up --------------------------------------------------------------------------

    /// The first batch of a segment that ends at or after `offset`, every batch on the way verified.
    pub(super) async fn locate_cold(
        &self,
        segment_base: i64,
        file: &File,
        offset: i64,
    ) -> Result<Option<Found>, LogError> {
        let at = self.believable_start(segment_base, file, offset).await?;
        let mut walk = self.walk(segment_base, file, at, self.index_chunk());
        while let Some(found) = self.next_of(&mut walk).await? {
            let is_it = match &found {
                Found::Batch(_, header) => header.last_offset() >= offset,
                Found::Damage(damage) => damage.covers(offset),
            };
            if is_it {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// A place to look for an offset from. The index has no checksum, and the batch that it names may
    /// be damaged: an entry is believed if a good batch begins there and its offsets fit.
    pub(super) async fn believable_start(
        &self,
        segment_base: i64,
        file: &File,
        offset: i64,
    ) -> Result<(u32, i64), LogError> {
        let beginning = (0, segment_base);
        let look_up = |indexes: &Indexes| indexes.entries_down_from(offset, ENTRIES_TRIED_MAX);
        let entries = self.with_indexes(segment_base, look_up).await?;
        let path = self.path(segment_base, SegmentFileKind::Log);
        for (entry_offset, position, expected) in entries {
            let end = self.segment_size(segment_base);
            let mut scanner = self.scanner(file, end, self.index_chunk());
            if self
                .is_known_batch(segment_base, position, offset, &mut scanner)
                .await?
            {
                return Ok((position, expected));
            }
            let start = Start {
                segment_base,
                position: position.into(),
                expected,
                following: Some(entry_offset.saturating_add(1)),
            };
            let mut verifier = Verifier::new(&mut scanner, start);
            if verifier.is_good().await.at("read", &path)? {
                return Ok((position, expected));
            }
        }
        Ok(beginning)
    }

    /// Whether verified bytes begin with a header that fits here.
    async fn is_known_batch(
        &self,
        segment_base: i64,
        position: u32,
        offset: i64,
        scanner: &mut Scanner,
    ) -> Result<bool, LogError> {
        let is_trusted = {
            let state = self.state.borrow();
            let segment = state.segment(segment_base);
            segment.is_some_and(|segment| segment.trusted_until(position).is_some())
        };
        if !is_trusted {
            return Ok(false);
        }
        match self
            .scan_header(scanner, segment_base, position.into())
            .await
        {
            Ok(header) => Ok((segment_base..=offset).contains(&header.base_offset)),
            Err(LogError::Corrupt { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Verifies from a place where a batch begins, and the offset that is due there, until `until` or
    /// the first damage; gives the end of what is good.
    pub(super) async fn good_until(
        &self,
        segment_base: i64,
        file: &File,
        at: (u32, i64),
        until: u32,
    ) -> Result<u32, LogError> {
        let is_trusted = {
            let state = self.state.borrow();
            let segment = state.segment(segment_base);
            let end = segment.and_then(|segment| segment.trusted_until(at.0));
            end.is_some_and(|end| end >= until)
        };
        if is_trusted {
            return Ok(until);
        }
        let chunk = CHUNK_BYTES.min((until - at.0) as usize + self.index_chunk());
        let mut walk = self.walk(segment_base, file, at, chunk);
        while walk.position < until && self.generation.get() == walk.generation {
            let good = walk.position;
            if good >= walk.turn_at {
                walk.turn_at = good.saturating_add(CHUNK_BYTES as u32);
                self.io().yield_now().await;
            }
            match self.next_of(&mut walk).await? {
                Some(Found::Batch(..)) => {}
                Some(Found::Damage(_)) | None => return Ok(good),
            }
        }
        Ok(walk.position)
    }

    // ---- scrubbing ---------------------------------------------------------------------------

    /// Verifies about `bytes` more of the log, whether they were verified before or not, from where
    /// `at` says; gives how many were read, `None` at the end of the log. Damage is told by
    /// [`Log::take_damage`].
    ///
    /// # Errors
    /// What reading answered; a segment that goes away meanwhile is no error.
    pub async fn scrub(&self, at: &mut ScrubPosition, bytes: u64) -> Result<Option<u64>, LogError> {
        let Some((base, size, following)) = self.scrub_segment(at) else {
            return Ok(None);
        };
        if at.position >= u64::from(size) {
            // The next call goes on with the next segment.
            *at = ScrubPosition {
                segment_base: base.saturating_add(1),
                ..ScrubPosition::default()
            };
            return Ok(Some(0));
        }
        let generation = self.generation.get();
        let path = self.path(base, SegmentFileKind::Log);
        let Some(file) = self.scrub_file(base).await? else {
            *at = ScrubPosition {
                segment_base: base.saturating_add(1),
                ..ScrubPosition::default()
            };
            return Ok(Some(0));
        };
        if self.generation.get() != generation {
            // What was opened may be another segment's: the next call looks again.
            return Ok(Some(0));
        }
        let mut scanner = Scanner::new(self.io(), &file, size.into(), CHUNK_BYTES);
        let start = Start {
            segment_base: base,
            position: at.position,
            expected: at.expected.max(base),
            following: Some(following),
        };
        let began = at.position;
        let mut verifier = Verifier::new(&mut scanner, start);
        while verifier.position() < began + bytes {
            let position = verifier.position();
            let step = verifier.step().await;
            if self.generation.get() != generation {
                // Other bytes may be there now: the segment is looked at again from its beginning.
                at.position = 0;
                at.expected = 0;
                return Ok(Some(position - began));
            }
            match step.at("read", &path)? {
                None => break,
                Some(Step::Damaged(damage)) => self.note_damage(base, &damage),
                Some(Step::Good(_)) => {
                    let ends = (u32::try_from(position), u32::try_from(verifier.position()));
                    if let (Ok(from), Ok(to)) = ends {
                        self.note_scrubbed(base, from, to);
                    }
                }
            }
        }
        at.position = verifier.position();
        at.expected = verifier.expected();
        Ok(Some(at.position - began))
    }

    /// The file of a segment, if it is still there.
    async fn scrub_file(&self, base: i64) -> Result<Option<File>, LogError> {
        let pinned = |segment: &Segment| segment.pinned.clone();
        let pinned = self.state.borrow().segment(base).and_then(pinned);
        if pinned.is_some() {
            return Ok(pinned);
        }
        let path = self.path(base, SegmentFileKind::Log);
        // Not through the cache of open files: what is busy stays in it.
        match self.io().open(&path, OpenMode::Read).await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            other => other.at("open", &path).map(Some),
        }
    }

    /// The segment in which the scrub goes on, its size now, and what its offsets are below.
    fn scrub_segment(&self, at: &mut ScrubPosition) -> Option<(i64, u32, i64)> {
        let state: &State = &self.state.borrow();
        let from = state
            .segments
            .partition_point(|s| s.base_offset < at.segment_base);
        let segment = state.segments.get(from)?;
        let is_same = segment.base_offset == at.segment_base && segment.generation == at.generation;
        if !is_same {
            *at = ScrubPosition {
                segment_base: segment.base_offset,
                generation: segment.generation,
                ..ScrubPosition::default()
            };
        }
        let next = state.segments.get(from + 1).map(|next| next.base_offset);
        let following = next.unwrap_or(state.log_end_offset);
        Some((segment.base_offset, segment.size, following))
    }

    fn note_scrubbed(&self, base_offset: i64, from: u32, to: u32) {
        if let Some(segment) = self.state.borrow_mut().segment_mut(base_offset)
            && from < segment.cold_end
        {
            segment.doubt.get_or_insert_default().verify(from, to);
        }
    }
}
