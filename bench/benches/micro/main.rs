//! What the parts of the hot path take, each by itself: `cargo bench -p ringlog-bench --bench micro`.
//!
//! | file | groups |
//! |---|---|
//! | `record` | `crc32c`, `batch`: checksum, header, validation, building |
//! | `codec` | `compress`, `decompress`, `convert`: the four codecs, old message sets |
//! | `log` | `append`, `index`, `fetch`: the log in the page cache, on both drivers |
//! | `journal` | `journal`: a group of 1, 16 and 256 entries on stable storage |
//! | `mailbox` | `mailbox`: a job to another shard's thread and back |
//!
//! Wall-clock, so a change is only believed with `--save-baseline` and `--baseline` on a quiet
//! machine; the gate counts instructions instead. `cargo test` runs each once. Files go to TMPDIR.
#![forbid(unsafe_code)]

mod codec;
mod fixture;
mod journal;
mod log;
mod mailbox;
mod record;

use criterion::{Criterion, criterion_group, criterion_main};

criterion_group!(
    name = memory;
    config = Criterion::default();
    targets = record::crc, record::batches, codec::compression, codec::conversion
);
// Files and threads wait for the kernel: fewer samples of more iterations.
criterion_group!(
    name = kernel;
    config = Criterion::default().sample_size(20);
    targets = log::append, log::index, log::fetch, journal::groups, mailbox::hops
);
criterion_main!(memory, kernel);
