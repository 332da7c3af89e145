//! The engine moves bytes: the shard runtime, the I/O drivers, record batches, the log, the journal.

pub mod record;
