//! The engine moves bytes: the shard runtime, the I/O drivers, record batches, the log, the journal.

pub mod clock;
#[expect(unsafe_code, reason = "the one room that talks to the kernel")]
pub mod io;
pub mod journal;
pub mod log;
pub mod record;
