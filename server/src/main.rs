//! The `ringlog` binary.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ringlog::cli::run(ringlog::serve::serve)
}
