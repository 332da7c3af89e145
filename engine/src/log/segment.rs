//! What is known in memory of one segment, and when it is full.

use super::LogConfig;
use super::cold::Doubt;
use super::files::Ahead;
use super::index::{Indexes, TimestampOffset};
use crate::io::File;

/// One segment. Its file is opened through [`super::SegmentFiles`].
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) base_offset: i64,
    /// The log's generation when its bytes last became others: with the base offset what it is.
    pub(crate) generation: u64,
    /// Bytes of whole batches: where the next append goes. The file may be longer (preallocated, or
    /// with the rest of a failed write).
    pub(crate) size: u32,
    /// Up to where no more blocks are asked for: they are there, or cannot be had.
    pub(crate) reserved: u32,
    /// The blocks ahead of the end.
    pub(crate) ahead: Option<Ahead>,
    /// Bytes known to be on stable storage.
    pub(crate) synced: u32,
    /// Whether what was preallocated has been cut off, and that is not on stable storage yet.
    pub(crate) has_new_length: bool,
    /// Whether the file's directory entry is on stable storage.
    pub(crate) is_entry_durable: bool,
    /// The indexes of the active segment, and of a rolled one until the next flush; else they are on
    /// disk, or were loaded into [`super::SegmentFiles`].
    pub(crate) indexes: Option<Indexes>,
    /// Whether the index files hold what `indexes` holds.
    pub(crate) are_indexes_written: bool,
    /// Largest timestamp of all batches, once known.
    pub(crate) largest: Option<TimestampOffset>,
    /// Largest timestamp of the first batch, once known: time-based rolls count from it.
    pub(crate) first_timestamp: Option<i64>,
    /// When the first append of this process came, for rolls without record timestamps.
    pub(crate) created_ms: Option<i64>,
    pub(crate) bytes_since_index: u32,
    /// The file, while its name leads elsewhere: a compaction is being swapped in, or it is being
    /// deleted and may still be read.
    pub(crate) pinned: Option<File>,
    /// Bytes below are cold: neither appended nor checked by this process, but for what `doubt` says.
    pub(crate) cold_end: u32,
    /// What is known of cold bytes.
    pub(crate) doubt: Option<Box<Doubt>>,
}

impl Segment {
    /// A segment without bytes.
    pub(crate) fn empty(base_offset: i64) -> Segment {
        Segment {
            base_offset,
            generation: 0,
            size: 0,
            reserved: 0,
            ahead: None,
            synced: 0,
            has_new_length: false,
            is_entry_durable: false,
            indexes: Some(Indexes::new(base_offset)),
            are_indexes_written: false,
            largest: Some(Indexes::new(base_offset).last_time()),
            first_timestamp: None,
            created_ms: None,
            bytes_since_index: 0,
            pinned: None,
            cold_end: 0,
            doubt: None,
        }
    }

    /// A segment that was closed before this process began, and is on stable storage.
    pub(crate) fn old(base_offset: i64, size: u32) -> Segment {
        Segment {
            size,
            synced: size,
            cold_end: size,
            is_entry_durable: true,
            indexes: None,
            are_indexes_written: true,
            largest: None,
            ..Segment::empty(base_offset)
        }
    }

    /// Whether `append` must go into a new segment (Kafka: LogSegment.shouldRoll). Never for an empty
    /// segment, whose name the new one would have.
    pub(crate) fn should_roll(&self, config: &LogConfig, append: &RollParameters) -> bool {
        if self.size == 0 {
            return false;
        }
        let waited_ms = match self.first_timestamp {
            Some(first) if first >= 0 => append.max_timestamp.saturating_sub(first),
            _ => self
                .created_ms
                .map_or(0, |created| append.now_ms.saturating_sub(created)),
        };
        let wait_ms_max = config.segment_ms - roll_jitter_ms(config, self.base_offset);
        let is_index_full = self
            .indexes
            .as_ref()
            .is_some_and(|indexes| indexes.is_full(config.index_bytes_max));
        u64::from(self.size) + append.bytes > u64::from(config.segment_bytes)
            || waited_ms > wait_ms_max
            || is_index_full
            || append.last_offset - self.base_offset > i64::from(i32::MAX)
    }

    /// Notes an appended batch at the segment's end (Kafka: LogSegment.append).
    pub(crate) fn note_batch(&mut self, batch: &BatchPlace, index_interval_bytes: u32) {
        assert_eq!(
            batch.position, self.size,
            "batch {batch:?} is not at the end"
        );
        if self.size == 0 {
            self.first_timestamp = Some(batch.max_timestamp);
        }
        let largest = match self.largest {
            Some(largest) if largest.timestamp >= batch.max_timestamp => largest,
            _ => TimestampOffset {
                timestamp: batch.max_timestamp,
                offset: batch.last_offset,
            },
        };
        self.largest = Some(largest);
        if self.bytes_since_index > index_interval_bytes {
            if let Some(indexes) = &mut self.indexes {
                indexes.append(batch.last_offset, batch.position, largest);
            }
            self.bytes_since_index = 0;
        }
        self.are_indexes_written = false;
        self.size += batch.size;
        self.bytes_since_index = self.bytes_since_index.saturating_add(batch.size);
    }

    /// Notes the largest timestamp in the time index, as Kafka does when a segment is closed.
    pub(crate) fn finish_indexes(&mut self) {
        if let (Some(indexes), Some(largest)) = (&mut self.indexes, self.largest) {
            indexes.append_time(largest);
            indexes.shrink();
        }
    }
}

/// What an append would bring.
pub(crate) struct RollParameters {
    pub(crate) bytes: u64,
    pub(crate) last_offset: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) now_ms: i64,
}

/// A batch and where it lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchPlace {
    pub(crate) base_offset: i64,
    pub(crate) last_offset: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) position: u32,
    pub(crate) size: u32,
}

/// Spreads the rolls of many partitions over `segment_jitter_ms`: the same for the same segment, so
/// that a history can be replayed.
fn roll_jitter_ms(config: &LogConfig, base_offset: i64) -> i64 {
    let jitter = config.segment_jitter_ms.min(config.segment_ms);
    if jitter <= 0 {
        return 0;
    }
    // Fibonacci hashing: one multiplication mixes well enough to spread.
    let mixed =
        (config.jitter_seed ^ base_offset.cast_unsigned()).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 1;
    mixed.cast_signed() % jitter
}
