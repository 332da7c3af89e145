//! Data directories that were hurt, and what the broker and its tools make of them.
//!
//! | file | what it holds |
//! |---|---|
//! | `place.rs` | a directory with known records, and ways to hurt it |
//! | `fsck.rs` | `ringlog fsck`: every damage is named, repairs lose what they say |
#![forbid(unsafe_code)]

mod fsck;
mod place;
