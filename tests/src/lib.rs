//! Helpers of the tests: start a broker, speak the wire protocol, print what a failing test needs.
//!
//! The tests are black-box: what they know of a broker is its command line, its port and its log.
//! With `RINGLOG_TEST_BOOTSTRAP=host:port` the wire tests run against a broker that is already there
//! (an Apache Kafka from `tests/oracle/kafka`), which is how their expectations were validated; what
//! needs a process of our own (crashes, configuration) then ends at once with a line that says so.
#![forbid(unsafe_code)]

pub mod broker;
pub mod call;
pub mod random;
pub mod records;
pub mod wire;
