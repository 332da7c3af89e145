//! What is known about a partition's directory before its log is opened, and what opening it found.

use std::path::PathBuf;

use super::DamagedBatches;

/// What is known about a directory before it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Whether `.kafka_cleanshutdown` was there.
    pub clean: bool,
    /// From `recovery-point-offset-checkpoint`, else 0.
    pub recovery_point: i64,
    /// From `log-start-offset-checkpoint`, if it has the partition.
    pub log_start_offset: Option<i64>,
    /// Whether whoever wrote last compacts below its recovery point only, as we do: a gap above it is a
    /// loss then, also in a compacted log. Apache Kafka compacts above it, too.
    pub compacts_below_recovery_point: bool,
    /// Whether to go on if data below the recovery point is damaged or missing.
    pub accept_loss: bool,
}

/// What opening a log has found and done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Segments that were read whole.
    pub scanned_segments: u64,
    /// Bytes that were read whole.
    pub scanned_bytes: u64,
    /// Batches in them.
    pub scanned_batches: u64,
    /// Zeros of preallocated segments that were cut.
    pub zero_bytes: u64,
    /// What was cut because it was bad.
    pub truncated: Option<Truncated>,
    /// Damage in what was on stable storage: it stays, and what is around it is served.
    pub damaged: Vec<DamagedBatches>,
    /// Files that were removed or renamed: left-overs of deletions and compactions, later segments.
    pub changed_files: Vec<String>,
}

/// Where and why a log was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncated {
    /// The segment's .log file.
    pub file: PathBuf,
    /// Where the bad bytes began.
    pub position: u64,
    /// The log end offset after the cut.
    pub offset: i64,
    /// Bytes cut from this file; later segments are among the changed files.
    pub bytes: u64,
    /// What was bad.
    pub reason: String,
}
