//! The `ringlog` binary.
#![forbid(unsafe_code)]

fn main() {}
