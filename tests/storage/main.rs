//! Data directories that were hurt, and what the broker and its tools make of them.
//!
//! | file | what it holds |
//! |---|---|
//! | `limits.rs` | file handles: none is left behind, and logs get theirs first |
//! | `place.rs` | a directory with known records, and ways to hurt it |
//! | `adopt.rs` | directories that another broker left |
//! | `bad_directory.rs` | every kind of file, hurt in every way |
//! | `cold.rs` | damage that a consumer or the scrub comes upon |
//! | `full_disk.rs` | a full disk: what is refused and what goes on |
//! | `gaps.rs` | what compaction of a crashed Kafka left out is no loss |
//! | `golden.rs` | directories of releases, which later ones must open |
//! | `fsck.rs` | `ringlog fsck`: every damage is named, repairs lose what they say |
#![forbid(unsafe_code)]

mod adopt;
mod bad_directory;
mod cold;
mod fsck;
mod full_disk;
mod gaps;
mod golden;
mod limits;
mod place;
