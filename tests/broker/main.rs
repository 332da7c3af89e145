//! Black-box tests of a broker over its port: what a Kafka client may rely on, and what no client sends.
//!
//! Validated against Apache Kafka 3.9.1 (`RINGLOG_TEST_BOOTSTRAP=host:port cargo test -p ringlog-tests
//! --test broker`, see tests/oracle/kafka); where Ringlog is to do better, the test says so.
#![forbid(unsafe_code)]

mod admin;
mod admin_configs;
mod bad_counts;
mod bad_input;
mod bad_records;
mod compaction;
mod durability;
mod group_admin;
mod groups;
mod idempotence;
mod list_offsets;
mod metadata;
mod metrics;
mod pipelining;
mod produce_fetch;
mod retention;
mod scene;
mod shards_as_brokers;
mod stages;
mod startup;
mod topics;

/// Kafka's error codes, as far as the tests name them (`Errors.java`).
mod error {
    pub(crate) const UNKNOWN_SERVER_ERROR: i16 = -1;
    pub(crate) const OFFSET_OUT_OF_RANGE: i16 = 1;
    pub(crate) const CORRUPT_MESSAGE: i16 = 2;
    pub(crate) const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
    pub(crate) const MESSAGE_TOO_LARGE: i16 = 10;
    pub(crate) const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
    pub(crate) const COORDINATOR_NOT_AVAILABLE: i16 = 15;
    pub(crate) const NOT_COORDINATOR: i16 = 16;
    pub(crate) const INVALID_TOPIC_EXCEPTION: i16 = 17;
    pub(crate) const INVALID_REQUIRED_ACKS: i16 = 21;
    pub(crate) const ILLEGAL_GENERATION: i16 = 22;
    pub(crate) const INCONSISTENT_GROUP_PROTOCOL: i16 = 23;
    pub(crate) const INVALID_GROUP_ID: i16 = 24;
    pub(crate) const UNKNOWN_MEMBER_ID: i16 = 25;
    pub(crate) const INVALID_SESSION_TIMEOUT: i16 = 26;
    pub(crate) const REBALANCE_IN_PROGRESS: i16 = 27;
    pub(crate) const UNSUPPORTED_VERSION: i16 = 35;
    pub(crate) const TOPIC_ALREADY_EXISTS: i16 = 36;
    pub(crate) const INVALID_PARTITIONS: i16 = 37;
    pub(crate) const INVALID_REPLICATION_FACTOR: i16 = 38;
    pub(crate) const INVALID_REPLICA_ASSIGNMENT: i16 = 39;
    pub(crate) const INVALID_CONFIG: i16 = 40;
    pub(crate) const INVALID_REQUEST: i16 = 42;
    pub(crate) const POLICY_VIOLATION: i16 = 44;
    pub(crate) const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
    pub(crate) const INVALID_PRODUCER_EPOCH: i16 = 47;
    pub(crate) const SECURITY_DISABLED: i16 = 54;
    pub(crate) const NON_EMPTY_GROUP: i16 = 68;
    pub(crate) const GROUP_ID_NOT_FOUND: i16 = 69;
    pub(crate) const FETCH_SESSION_ID_NOT_FOUND: i16 = 70;
    pub(crate) const INVALID_FETCH_SESSION_EPOCH: i16 = 71;
    pub(crate) const UNKNOWN_LEADER_EPOCH: i16 = 75;
    pub(crate) const UNSUPPORTED_COMPRESSION_TYPE: i16 = 76;
    pub(crate) const MEMBER_ID_REQUIRED: i16 = 79;
    pub(crate) const ELECTION_NOT_NEEDED: i16 = 84;
    pub(crate) const NO_REASSIGNMENT_IN_PROGRESS: i16 = 85;
    pub(crate) const INVALID_RECORD: i16 = 87;
    pub(crate) const PRODUCER_FENCED: i16 = 90;
    pub(crate) const RESOURCE_NOT_FOUND: i16 = 91;
    pub(crate) const UNKNOWN_TOPIC_ID: i16 = 100;
    pub(crate) const TRANSACTIONAL_ID_NOT_FOUND: i16 = 105;
}
