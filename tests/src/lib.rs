//! Helpers of the tests: start a broker, speak the wire protocol, print what a failing test needs.
#![forbid(unsafe_code)]
