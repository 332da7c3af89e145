//! The checkpoint loop: segments are synced, then the journal behind them is freed.
//!
//! Pacing is the flush's business (`Log::flush`: about 1 MiB in flight), because the kernel's own
//! flusher or one large fdatasync stalls the journal's writes for 100-350 ms.

use std::io;

use super::{Journal, JournalError};

/// Runs checkpoints whenever the ring is half full, until the journal is closed or poisoned.
/// `flush` makes all that was appended before its call durable in the segments. If it fails, the
/// journal is poisoned: it may never be freed past what could not be synced, and would otherwise
/// keep all appends waiting for ever.
///
/// # Errors
/// Why the journal is poisoned; a closed one is the good end.
pub async fn run_checkpoints(
    journal: Journal,
    mut flush: impl AsyncFnMut() -> io::Result<()>,
) -> Result<(), JournalError> {
    loop {
        match journal.checkpoint_needed().await {
            Ok(()) => {}
            Err(JournalError::Closed) => return Ok(()),
            Err(error) => return Err(error),
        }
        let lsn = journal.start_checkpoint();
        if let Err(error) = flush().await {
            journal.poison(&format!(
                "a checkpoint could not sync the segments: {error}"
            ));
        }
        journal.finish_checkpoint(lsn);
    }
}
