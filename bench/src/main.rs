//! `ringlog-bench`: the load generator.
#![forbid(unsafe_code)]

fn main() {}
