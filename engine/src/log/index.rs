//! The offset index and the time index of a segment.
//!
//! ```text
//! .index, all fields big-endian (Kafka: OffsetIndex.java)
//! offset size field
//!      0    4 relative_offset   last offset of a batch less the segment's base offset
//!      4    4 position          where that batch begins in the .log file
//! .timeindex, all fields big-endian (Kafka: TimeIndex.java)
//!      0    8 timestamp         largest timestamp up to here
//!      8    4 relative_offset   last offset of the batch that brought it
//! ```
//!
//! Entries of both strictly increase. Neither file has a checksum: after an unclean stop they are
//! rebuilt, and what is loaded is checked in order and against the length of the .log file.

use bytes::{BufMut, Bytes, BytesMut};

use crate::record::NO_TIMESTAMP;

/// Bytes of one entry of an offset index file.
pub const OFFSET_ENTRY_BYTES: usize = 8;
/// Bytes of one entry of a time index file.
pub const TIME_ENTRY_BYTES: usize = 12;

/// A timestamp and the last offset of the batch that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampOffset {
    /// Milliseconds since 1970, -1 for none.
    pub timestamp: i64,
    /// Last offset of the batch.
    pub offset: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OffsetEntry {
    relative_offset: u32,
    position: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TimeEntry {
    timestamp: i64,
    relative_offset: u32,
}

/// Both indexes of one segment, in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Indexes {
    base_offset: i64,
    offsets: Vec<OffsetEntry>,
    times: Vec<TimeEntry>,
}

impl Indexes {
    pub(crate) fn new(base_offset: i64) -> Indexes {
        Indexes {
            base_offset,
            offsets: Vec::new(),
            times: Vec::new(),
        }
    }

    /// Reads both files; `None` if anything about them is impossible for a .log file of `size`
    /// bytes. Zeros at the end are what a preallocated, not trimmed file has.
    pub(crate) fn decode(
        base_offset: i64,
        offsets: &[u8],
        times: &[u8],
        size: u32,
    ) -> Option<Indexes> {
        let mut indexes = Indexes::new(base_offset);
        let (entries, rest) = offsets.as_chunks::<OFFSET_ENTRY_BYTES>();
        if !rest.is_empty() {
            return None;
        }
        for entry in trim_zeros(entries) {
            let (relative_offset, position) = entry.split_at(4);
            let entry = OffsetEntry {
                relative_offset: u32::from_be_bytes(relative_offset.try_into().ok()?),
                position: u32::from_be_bytes(position.try_into().ok()?),
            };
            let follows = indexes.offsets.last().is_none_or(|last| {
                last.relative_offset < entry.relative_offset && last.position < entry.position
            });
            if !follows || entry.position >= size || entry.relative_offset > i32::MAX as u32 {
                return None;
            }
            indexes.offsets.push(entry);
        }
        let (entries, rest) = times.as_chunks::<TIME_ENTRY_BYTES>();
        if !rest.is_empty() {
            return None;
        }
        for entry in trim_zeros(entries) {
            let (timestamp, relative_offset) = entry.split_at(8);
            let entry = TimeEntry {
                timestamp: i64::from_be_bytes(timestamp.try_into().ok()?),
                relative_offset: u32::from_be_bytes(relative_offset.try_into().ok()?),
            };
            let follows = indexes.times.last().is_none_or(|last| {
                last.timestamp < entry.timestamp && last.relative_offset <= entry.relative_offset
            });
            if !follows || entry.relative_offset > i32::MAX as u32 || size == 0 {
                return None;
            }
            indexes.times.push(entry);
        }
        Some(indexes)
    }

    /// The offset index as its file has it.
    pub(crate) fn encode_offsets(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.offsets.len() * OFFSET_ENTRY_BYTES);
        for entry in &self.offsets {
            bytes.put_u32(entry.relative_offset);
            bytes.put_u32(entry.position);
        }
        bytes.freeze()
    }

    /// The time index as its file has it.
    pub(crate) fn encode_times(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.times.len() * TIME_ENTRY_BYTES);
        for entry in &self.times {
            bytes.put_i64(entry.timestamp);
            bytes.put_u32(entry.relative_offset);
        }
        bytes.freeze()
    }

    /// Notes a batch; its last offset and position lie after those of all entries.
    pub(crate) fn append(&mut self, last_offset: i64, position: u32, largest: TimestampOffset) {
        let entry = OffsetEntry {
            relative_offset: self.relative(last_offset),
            position,
        };
        if let Some(last) = self.offsets.last() {
            assert!(
                last.relative_offset < entry.relative_offset && last.position < position,
                "index entry {entry:?} after {last:?}"
            );
        }
        self.offsets.push(entry);
        self.append_time(largest);
    }

    /// Notes the largest timestamp so far, if it is larger than the last noted one.
    pub(crate) fn append_time(&mut self, largest: TimestampOffset) {
        if largest.timestamp > self.last_time().timestamp {
            let relative_offset = self.relative(largest.offset);
            self.times.push(TimeEntry {
                timestamp: largest.timestamp,
                relative_offset,
            });
        }
    }

    fn relative(&self, offset: i64) -> u32 {
        let relative = offset - self.base_offset;
        assert!(
            (0..=i64::from(i32::MAX)).contains(&relative),
            "offset {offset} in the index of segment {}",
            self.base_offset
        );
        relative as u32
    }

    /// Position to scan from to find `offset`: that of the last entry at or below it.
    pub(crate) fn position(&self, offset: i64) -> u32 {
        let count = self
            .offsets
            .partition_point(|entry| self.base_offset + i64::from(entry.relative_offset) <= offset);
        count.checked_sub(1).map_or(0, |i| self.offsets[i].position)
    }

    /// Entries at or below an offset, from the last one down, at most `count`: offset, position, and
    /// the first offset that may be there.
    pub(crate) fn entries_down_from(&self, offset: i64, count: usize) -> Vec<(i64, u32, i64)> {
        let absolute = |entry: &OffsetEntry| self.base_offset + i64::from(entry.relative_offset);
        let after = self
            .offsets
            .partition_point(|entry| absolute(entry) <= offset);
        let entry = |at: usize| {
            let before = at
                .checked_sub(1)
                .map(|before| absolute(&self.offsets[before]) + 1);
            let entry = &self.offsets[at];
            let expected = before.unwrap_or(self.base_offset);
            (absolute(entry), entry.position, expected)
        };
        (0..after).rev().take(count).map(entry).collect()
    }

    /// Offset and position of each entry, in order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (i64, u32)> {
        let offset = |entry: &OffsetEntry| self.base_offset + i64::from(entry.relative_offset);
        self.offsets
            .iter()
            .map(move |entry| (offset(entry), entry.position))
    }

    /// The largest offset that any entry names.
    pub(crate) fn last_offset(&self) -> Option<i64> {
        let offset = self.offsets.last().map(|entry| entry.relative_offset);
        let time = self.times.last().map(|entry| entry.relative_offset);
        let last = offset.max(time)?;
        Some(self.base_offset + i64::from(last))
    }

    /// Position of the last entry, 0 if there is none.
    pub(crate) fn last_position(&self) -> u32 {
        self.offsets.last().map_or(0, |entry| entry.position)
    }

    /// The last time index entry with a timestamp at or below `timestamp`.
    pub(crate) fn time(&self, timestamp: i64) -> TimestampOffset {
        let count = self
            .times
            .partition_point(|entry| entry.timestamp <= timestamp);
        self.time_entry(count)
    }

    /// The last time index entry: the largest timestamp, once the segment is closed.
    pub(crate) fn last_time(&self) -> TimestampOffset {
        self.time_entry(self.times.len())
    }

    fn time_entry(&self, count: usize) -> TimestampOffset {
        match count.checked_sub(1) {
            Some(i) => TimestampOffset {
                timestamp: self.times[i].timestamp,
                offset: self.base_offset + i64::from(self.times[i].relative_offset),
            },
            None => TimestampOffset {
                timestamp: NO_TIMESTAMP,
                offset: self.base_offset,
            },
        }
    }

    /// Whether either file has reached `index_bytes_max`; one time entry stays free for the roll.
    pub(crate) fn is_full(&self, index_bytes_max: u32) -> bool {
        let limit = index_bytes_max as usize;
        self.offsets.len() >= limit / OFFSET_ENTRY_BYTES
            || self.times.len() + 1 >= limit / TIME_ENTRY_BYTES
    }

    /// Forgets the entries of `offset` and later, which lie from `position` on.
    pub(crate) fn truncate(&mut self, offset: i64, position: u32) {
        let base_offset = self.base_offset;
        self.offsets.retain(|entry| {
            base_offset + i64::from(entry.relative_offset) < offset && entry.position < position
        });
        self.times
            .retain(|entry| base_offset + i64::from(entry.relative_offset) < offset);
    }

    /// Bytes of memory that this takes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let bytes = size_of::<Indexes>()
            + self.offsets.capacity() * size_of::<OffsetEntry>()
            + self.times.capacity() * size_of::<TimeEntry>();
        bytes as u64
    }

    /// Gives spare memory back, once nothing more is appended.
    pub(crate) fn shrink(&mut self) {
        self.offsets.shrink_to_fit();
        self.times.shrink_to_fit();
    }
}

fn trim_zeros<const N: usize>(entries: &[[u8; N]]) -> &[[u8; N]] {
    let end = entries.iter().rposition(|entry| *entry != [0; N]);
    &entries[..end.map_or(0, |last| last + 1)]
}
