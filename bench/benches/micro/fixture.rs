//! What all groups work on: batches, a scratch folder, the drivers of this machine.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use ringlog_engine::io::Io;
use ringlog_engine::io::probe::{DriverKind, choose};
use ringlog_engine::record::{BatchBuilder, Compression};

/// Of every record.
pub(crate) const TIMESTAMP_MS: i64 = 1_700_000_000_000;

/// A batch of so many records of so many bytes each.
pub(crate) fn batch_of(records: usize, value_bytes: usize) -> Bytes {
    batch_at(TIMESTAMP_MS, records, value_bytes)
}

/// The same with a timestamp of its own.
pub(crate) fn batch_at(timestamp_ms: i64, records: usize, value_bytes: usize) -> Bytes {
    let value = vec![0xa5; value_bytes];
    let mut builder = BatchBuilder::new(Compression::None);
    for _ in 0..records {
        let appended = builder.append(timestamp_ms, Some(b"key"), Some(&value), &[]);
        appended.expect("these records are small");
    }
    builder.build().expect("it has a record").freeze()
}

/// The batches of the append groups: what a loop that sends one by one makes, and a full one.
pub(crate) fn batches() -> [(&'static str, Bytes); 2] {
    [
        ("1 record", batch_of(1, 100)),
        ("16 KiB", batch_of(15, 1024)),
    ]
}

/// Both drivers, or the one that can be had here; that and why is told once.
#[expect(
    clippy::print_stderr,
    reason = "a line about the machine, beside criterion's"
)]
pub(crate) fn drivers() -> Vec<(&'static str, DriverKind)> {
    let poll = ("poll", DriverKind::Poll);
    match choose(DriverKind::Uring) {
        Ok(_) => vec![("uring", DriverKind::Uring), poll],
        Err(why) => {
            eprintln!("SKIP the uring driver: {why}");
            vec![poll]
        }
    }
}

/// Runs `work` on a shard of its own, on this thread.
pub(crate) fn on_shard<T: 'static, F: Future<Output = T> + 'static>(
    kind: DriverKind,
    work: impl FnOnce(Io) -> F,
) -> T {
    let io = Io::new(kind).expect("the driver could be had a moment ago");
    let result = io.block_on(work(io.clone()));
    io.clear_tasks();
    result
}

/// A folder that is removed in the end.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// An empty one.
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringlog-micro-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("TMPDIR can be written");
        Self(path)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left behind in TMPDIR harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
