//! What can go wrong with a partition log, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// Why a log operation failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A system call failed.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// The call, as a verb.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The offset is below the log start offset or above the log end offset.
    #[error("offset {offset} is outside the log, which has {start} to {end}")]
    OffsetOutOfRange {
        /// The offset that was asked for.
        offset: i64,
        /// Log start offset.
        start: i64,
        /// Log end offset.
        end: i64,
    },
    /// Bytes on disk are not what they must be.
    #[error("{} is damaged at byte {position}: {reason}; {remedy}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        position: u64,
        /// What is wrong there.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Something in the directory does not belong to a log.
    #[error("{}: {reason}; {remedy}", path.display())]
    Foreign {
        /// The file or directory.
        path: PathBuf,
        /// Why it cannot be taken.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// An earlier write or sync failed, or the log was closed: appends are refused until restart.
    #[error("{} takes no appends: {reason}", directory.display())]
    Poisoned {
        /// The partition's directory.
        directory: PathBuf,
        /// What happened first.
        reason: String,
    },
    /// One append is larger than a segment.
    #[error("append of {size} bytes, a segment has at most {limit} (segment.bytes)")]
    TooLarge {
        /// Bytes of the append.
        size: u64,
        /// `segment.bytes`.
        limit: u64,
    },
    /// The caller handed in batches that may not be appended.
    #[error("batch cannot be appended: {reason}")]
    InvalidBatch {
        /// What is wrong with them.
        reason: String,
    },
}

impl LogError {
    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> LogError {
        LogError::Io {
            operation,
            path: path.to_owned(),
            source,
        }
    }
}

/// Names the operation and the path of an I/O error.
pub(crate) trait IoContext<T> {
    fn at(self, operation: &'static str, path: &Path) -> Result<T, LogError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, operation: &'static str, path: &Path) -> Result<T, LogError> {
        self.map_err(|source| LogError::io(operation, path, source))
    }
}
