//! Data directories that were hurt, and what the broker and its tools make of them.
//!
//! | file | what it holds |
//! |---|---|
//! | `place.rs` | a directory with known records, and ways to hurt it |
//! | `cold.rs` | damage that a consumer or the scrub comes upon |
//! | `fsck.rs` | `ringlog fsck`: every damage is named, repairs lose what they say |
#![forbid(unsafe_code)]

mod cold;
mod fsck;
mod place;
