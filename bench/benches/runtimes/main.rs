//! The same append loop on several runtimes.
#![forbid(unsafe_code)]
fn main() {}
