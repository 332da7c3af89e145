//! The schemas of the requests that the server handles: one per API, in Kafka's order.
//!
//! Facts from Kafka 3.9 `clients/src/main/resources/common/message/*Request.json`. A request
//! that has no row here is refused before it is decoded, so a new handler needs a new row.
//!
//! Reading a row: `versions_to(n)` means 0 to n; a field is in all of them but for `since` and
//! `until`; `nullable` means in every version that has the field. Field names are Kafka's, in
//! snake case as the message crate has them.

use super::field::{
    BOOL, BYTES, FLOAT64, INT8, INT16, INT32, INT32_ARRAY, INT64, INT64_ARRAY, STRING, STRING_ARRAY,
    Schema, UUID, api, field, structs, structure,
};

/// The schema of an API, or `None` for one that the server does not handle.
pub fn schema(api_key: i16) -> Option<&'static Schema> {
    Some(match api_key {
        0 => &PRODUCE,
        1 => &FETCH,
        2 => &LIST_OFFSETS,
        3 => &METADATA,
        8 => &OFFSET_COMMIT,
        9 => &OFFSET_FETCH,
        10 => &FIND_COORDINATOR,
        11 => &JOIN_GROUP,
        12 => &HEARTBEAT,
        13 => &LEAVE_GROUP,
        14 => &SYNC_GROUP,
        15 => &DESCRIBE_GROUPS,
        16 => &LIST_GROUPS,
        17 => &SASL_HANDSHAKE,
        18 => &API_VERSIONS,
        19 => &CREATE_TOPICS,
        20 => &DELETE_TOPICS,
        21 => &DELETE_RECORDS,
        22 => &INIT_PRODUCER_ID,
        23 => &OFFSET_FOR_LEADER_EPOCH,
        24 => &ADD_PARTITIONS_TO_TXN,
        25 => &ADD_OFFSETS_TO_TXN,
        26 => &END_TXN,
        27 => &WRITE_TXN_MARKERS,
        28 => &TXN_OFFSET_COMMIT,
        29 => &DESCRIBE_ACLS,
        30 => &CREATE_ACLS,
        31 => &DELETE_ACLS,
        32 => &DESCRIBE_CONFIGS,
        33 => &ALTER_CONFIGS,
        35 => &DESCRIBE_LOG_DIRS,
        37 => &CREATE_PARTITIONS,
        42 => &DELETE_GROUPS,
        43 => &ELECT_LEADERS,
        44 => &INCREMENTAL_ALTER_CONFIGS,
        45 => &ALTER_PARTITION_REASSIGNMENTS,
        46 => &LIST_PARTITION_REASSIGNMENTS,
        47 => &OFFSET_DELETE,
        48 => &DESCRIBE_CLIENT_QUOTAS,
        49 => &ALTER_CLIENT_QUOTAS,
        50 => &DESCRIBE_USER_SCRAM_CREDENTIALS,
        60 => &DESCRIBE_CLUSTER,
        61 => &DESCRIBE_PRODUCERS,
        65 => &DESCRIBE_TRANSACTIONS,
        66 => &LIST_TRANSACTIONS,
        75 => &DESCRIBE_TOPIC_PARTITIONS,
        _ => return None,
    })
}

static PRODUCE: Schema = api("Produce", 0).versions_to(11).flexible_since(9).fields(&[
    field("transactional_id", STRING).since(3).nullable(),
    field("acks", INT16),
    field("timeout_ms", INT32),
    field("topic_data", structs(&[
        field("name", STRING),
        field("partition_data", structs(&[
            field("index", INT32),
            field("records", BYTES).nullable(),
        ])),
    ])),
]);

static FETCH: Schema = api("Fetch", 1).versions_to(17).flexible_since(12).fields(&[
    field("cluster_id", STRING).since(12).nullable().tag(0),
    field("replica_id", INT32).until(14),
    field("replica_state", structure(&[
        field("replica_id", INT32).since(15),
        field("replica_epoch", INT64).since(15),
    ])).since(15).tag(1),
    field("max_wait_ms", INT32),
    field("min_bytes", INT32),
    field("max_bytes", INT32).since(3),
    field("isolation_level", INT8).since(4),
    field("session_id", INT32).since(7),
    field("session_epoch", INT32).since(7),
    field("topics", structs(&[
        field("topic", STRING).until(12),
        field("topic_id", UUID).since(13),
        field("partitions", structs(&[
            field("partition", INT32),
            field("current_leader_epoch", INT32).since(9),
            field("fetch_offset", INT64),
            field("last_fetched_epoch", INT32).since(12),
            field("log_start_offset", INT64).since(5),
            field("partition_max_bytes", INT32),
            field("replica_directory_id", UUID).since(17).tag(0),
        ])),
    ])),
    field("forgotten_topics_data", structs(&[
        field("topic", STRING).since(7).until(12),
        field("topic_id", UUID).since(13),
        field("partitions", INT32_ARRAY).since(7),
    ])).since(7),
    field("rack_id", STRING).since(11),
]);

static LIST_OFFSETS: Schema = api("ListOffsets", 2).versions_to(9).flexible_since(6).fields(&[
    field("replica_id", INT32),
    field("isolation_level", INT8).since(2),
    field("topics", structs(&[
        field("name", STRING),
        field("partitions", structs(&[
            field("partition_index", INT32),
            field("current_leader_epoch", INT32).since(4),
            field("timestamp", INT64),
            field("max_num_offsets", INT32).until(0),
        ])),
    ])),
]);

static METADATA: Schema = api("Metadata", 3).versions_to(12).flexible_since(9).fields(&[
    field("topics", structs(&[
        field("topic_id", UUID).since(10),
        field("name", STRING).nullable_since(10),
    ])).nullable_since(1),
    field("allow_auto_topic_creation", BOOL).since(4),
    field("include_cluster_authorized_operations", BOOL).since(8).until(10),
    field("include_topic_authorized_operations", BOOL).since(8),
]);

static OFFSET_COMMIT: Schema = api("OffsetCommit", 8).versions_to(9).flexible_since(8).fields(&[
    field("group_id", STRING),
    field("generation_id_or_member_epoch", INT32).since(1),
    field("member_id", STRING).since(1),
    field("group_instance_id", STRING).since(7).nullable(),
    field("retention_time_ms", INT64).since(2).until(4),
    field("topics", structs(&[
        field("name", STRING),
        field("partitions", structs(&[
            field("partition_index", INT32),
            field("committed_offset", INT64),
            field("committed_leader_epoch", INT32).since(6),
            field("commit_timestamp", INT64).since(1).until(1),
            field("committed_metadata", STRING).nullable(),
        ])),
    ])),
]);

static OFFSET_FETCH: Schema = api("OffsetFetch", 9).versions_to(9).flexible_since(6).fields(&[
    field("group_id", STRING).until(7),
    field("topics", structs(&[
        field("name", STRING).until(7),
        field("partition_indexes", INT32_ARRAY).until(7),
    ])).until(7).nullable_since(2),
    field("groups", structs(&[
        field("group_id", STRING).since(8),
        field("member_id", STRING).since(9).nullable(),
        field("member_epoch", INT32).since(9),
        field("topics", structs(&[
            field("name", STRING).since(8),
            field("partition_indexes", INT32_ARRAY).since(8),
        ])).since(8).nullable(),
    ])).since(8),
    field("require_stable", BOOL).since(7),
]);

static FIND_COORDINATOR: Schema = api("FindCoordinator", 10).versions_to(6).flexible_since(3).fields(&[
    field("key", STRING).until(3),
    field("key_type", INT8).since(1),
    field("coordinator_keys", STRING_ARRAY).since(4),
]);

static JOIN_GROUP: Schema = api("JoinGroup", 11).versions_to(9).flexible_since(6).fields(&[
    field("group_id", STRING),
    field("session_timeout_ms", INT32),
    field("rebalance_timeout_ms", INT32).since(1),
    field("member_id", STRING),
    field("group_instance_id", STRING).since(5).nullable(),
    field("protocol_type", STRING),
    field("protocols", structs(&[
        field("name", STRING),
        field("metadata", BYTES),
    ])),
    field("reason", STRING).since(8).nullable(),
]);

static HEARTBEAT: Schema = api("Heartbeat", 12).versions_to(4).flexible_since(4).fields(&[
    field("group_id", STRING),
    field("generation_id", INT32),
    field("member_id", STRING),
    field("group_instance_id", STRING).since(3).nullable(),
]);

static LEAVE_GROUP: Schema = api("LeaveGroup", 13).versions_to(5).flexible_since(4).fields(&[
    field("group_id", STRING),
    field("member_id", STRING).until(2),
    field("members", structs(&[
        field("member_id", STRING).since(3),
        field("group_instance_id", STRING).since(3).nullable(),
        field("reason", STRING).since(5).nullable(),
    ])).since(3),
]);

static SYNC_GROUP: Schema = api("SyncGroup", 14).versions_to(5).flexible_since(4).fields(&[
    field("group_id", STRING),
    field("generation_id", INT32),
    field("member_id", STRING),
    field("group_instance_id", STRING).since(3).nullable(),
    field("protocol_type", STRING).since(5).nullable(),
    field("protocol_name", STRING).since(5).nullable(),
    field("assignments", structs(&[
        field("member_id", STRING),
        field("assignment", BYTES),
    ])),
]);

static DESCRIBE_GROUPS: Schema = api("DescribeGroups", 15).versions_to(5).flexible_since(5).fields(&[
    field("groups", STRING_ARRAY),
    field("include_authorized_operations", BOOL).since(3),
]);

static LIST_GROUPS: Schema = api("ListGroups", 16).versions_to(5).flexible_since(3).fields(&[
    field("states_filter", STRING_ARRAY).since(4),
    field("types_filter", STRING_ARRAY).since(5),
]);

static SASL_HANDSHAKE: Schema = api("SaslHandshake", 17).versions_to(1).fields(&[
    field("mechanism", STRING),
]);

static API_VERSIONS: Schema = api("ApiVersions", 18).versions_to(4).flexible_since(3).fields(&[
    field("client_software_name", STRING).since(3),
    field("client_software_version", STRING).since(3),
]);

static CREATE_TOPICS: Schema = api("CreateTopics", 19).versions_to(7).flexible_since(5).fields(&[
    field("topics", structs(&[
        field("name", STRING),
        field("num_partitions", INT32),
        field("replication_factor", INT16),
        field("assignments", structs(&[
            field("partition_index", INT32),
            field("broker_ids", INT32_ARRAY),
        ])),
        field("configs", structs(&[
            field("name", STRING),
            field("value", STRING).nullable(),
        ])),
    ])),
    field("timeout_ms", INT32),
    field("validate_only", BOOL).since(1),
]);

static DELETE_TOPICS: Schema = api("DeleteTopics", 20).versions_to(6).flexible_since(4).fields(&[
    field("topics", structs(&[
        field("name", STRING).since(6).nullable(),
        field("topic_id", UUID).since(6),
    ])).since(6),
    field("topic_names", STRING_ARRAY).until(5),
    field("timeout_ms", INT32),
]);

static DELETE_RECORDS: Schema = api("DeleteRecords", 21).versions_to(2).flexible_since(2).fields(&[
    field("topics", structs(&[
        field("name", STRING),
        field("partitions", structs(&[
            field("partition_index", INT32),
            field("offset", INT64),
        ])),
    ])),
    field("timeout_ms", INT32),
]);

static INIT_PRODUCER_ID: Schema = api("InitProducerId", 22).versions_to(5).flexible_since(2).fields(&[
    field("transactional_id", STRING).nullable(),
    field("transaction_timeout_ms", INT32),
    field("producer_id", INT64).since(3),
    field("producer_epoch", INT16).since(3),
]);

static OFFSET_FOR_LEADER_EPOCH: Schema = api("OffsetForLeaderEpoch", 23).versions_to(4).flexible_since(4).fields(&[
    field("replica_id", INT32).since(3),
    field("topics", structs(&[
        field("topic", STRING),
        field("partitions", structs(&[
            field("partition", INT32),
            field("current_leader_epoch", INT32).since(2),
            field("leader_epoch", INT32),
        ])),
    ])),
]);

static ADD_PARTITIONS_TO_TXN: Schema = api("AddPartitionsToTxn", 24).versions_to(5).flexible_since(3).fields(&[
    field("transactions", structs(&[
        field("transactional_id", STRING).since(4),
        field("producer_id", INT64).since(4),
        field("producer_epoch", INT16).since(4),
        field("verify_only", BOOL).since(4),
        field("topics", structs(&[
            field("name", STRING),
            field("partitions", INT32_ARRAY),
        ])).since(4),
    ])).since(4),
    field("v3_and_below_transactional_id", STRING).until(3),
    field("v3_and_below_producer_id", INT64).until(3),
    field("v3_and_below_producer_epoch", INT16).until(3),
    field("v3_and_below_topics", structs(&[
        field("name", STRING),
        field("partitions", INT32_ARRAY),
    ])).until(3),
]);

static ADD_OFFSETS_TO_TXN: Schema = api("AddOffsetsToTxn", 25).versions_to(4).flexible_since(3).fields(&[
    field("transactional_id", STRING),
    field("producer_id", INT64),
    field("producer_epoch", INT16),
    field("group_id", STRING),
]);

static END_TXN: Schema = api("EndTxn", 26).versions_to(4).flexible_since(3).fields(&[
    field("transactional_id", STRING),
    field("producer_id", INT64),
    field("producer_epoch", INT16),
    field("committed", BOOL),
]);

static WRITE_TXN_MARKERS: Schema = api("WriteTxnMarkers", 27).versions_to(1).flexible_since(1).fields(&[
    field("markers", structs(&[
        field("producer_id", INT64),
        field("producer_epoch", INT16),
        field("transaction_result", BOOL),
        field("topics", structs(&[
            field("name", STRING),
            field("partition_indexes", INT32_ARRAY),
        ])),
        field("coordinator_epoch", INT32),
    ])),
]);

static TXN_OFFSET_COMMIT: Schema = api("TxnOffsetCommit", 28).versions_to(4).flexible_since(3).fields(&[
    field("transactional_id", STRING),
    field("group_id", STRING),
    field("producer_id", INT64),
    field("producer_epoch", INT16),
    field("generation_id", INT32).since(3),
    field("member_id", STRING).since(3),
    field("group_instance_id", STRING).since(3).nullable(),
    field("topics", structs(&[
        field("name", STRING),
        field("partitions", structs(&[
            field("partition_index", INT32),
            field("committed_offset", INT64),
            field("committed_leader_epoch", INT32).since(2),
            field("committed_metadata", STRING).nullable(),
        ])),
    ])),
]);

static DESCRIBE_ACLS: Schema = api("DescribeAcls", 29).versions_to(3).flexible_since(2).fields(&[
    field("resource_type_filter", INT8),
    field("resource_name_filter", STRING).nullable(),
    field("pattern_type_filter", INT8).since(1),
    field("principal_filter", STRING).nullable(),
    field("host_filter", STRING).nullable(),
    field("operation", INT8),
    field("permission_type", INT8),
]);

static CREATE_ACLS: Schema = api("CreateAcls", 30).versions_to(3).flexible_since(2).fields(&[
    field("creations", structs(&[
        field("resource_type", INT8),
        field("resource_name", STRING),
        field("resource_pattern_type", INT8).since(1),
        field("principal", STRING),
        field("host", STRING),
        field("operation", INT8),
        field("permission_type", INT8),
    ])),
]);

static DELETE_ACLS: Schema = api("DeleteAcls", 31).versions_to(3).flexible_since(2).fields(&[
    field("filters", structs(&[
        field("resource_type_filter", INT8),
        field("resource_name_filter", STRING).nullable(),
        field("pattern_type_filter", INT8).since(1),
        field("principal_filter", STRING).nullable(),
        field("host_filter", STRING).nullable(),
        field("operation", INT8),
        field("permission_type", INT8),
    ])),
]);

static DESCRIBE_CONFIGS: Schema = api("DescribeConfigs", 32).versions_to(4).flexible_since(4).fields(&[
    field("resources", structs(&[
        field("resource_type", INT8),
        field("resource_name", STRING),
        field("configuration_keys", STRING_ARRAY).nullable(),
    ])),
    field("include_synonyms", BOOL).since(1),
    field("include_documentation", BOOL).since(3),
]);

static ALTER_CONFIGS: Schema = api("AlterConfigs", 33).versions_to(2).flexible_since(2).fields(&[
    field("resources", structs(&[
        field("resource_type", INT8),
        field("resource_name", STRING),
        field("configs", structs(&[
            field("name", STRING),
            field("value", STRING).nullable(),
        ])),
    ])),
    field("validate_only", BOOL),
]);

static DESCRIBE_LOG_DIRS: Schema = api("DescribeLogDirs", 35).versions_to(4).flexible_since(2).fields(&[
    field("topics", structs(&[
        field("topic", STRING),
        field("partitions", INT32_ARRAY),
    ])).nullable(),
]);

static CREATE_PARTITIONS: Schema = api("CreatePartitions", 37).versions_to(3).flexible_since(2).fields(&[
    field("topics", structs(&[
        field("name", STRING),
        field("count", INT32),
        field("assignments", structs(&[
            field("broker_ids", INT32_ARRAY),
        ])).nullable(),
    ])),
    field("timeout_ms", INT32),
    field("validate_only", BOOL),
]);

static DELETE_GROUPS: Schema = api("DeleteGroups", 42).versions_to(2).flexible_since(2).fields(&[
    field("groups_names", STRING_ARRAY),
]);

static ELECT_LEADERS: Schema = api("ElectLeaders", 43).versions_to(2).flexible_since(2).fields(&[
    field("election_type", INT8).since(1),
    field("topic_partitions", structs(&[
        field("topic", STRING),
        field("partitions", INT32_ARRAY),
    ])).nullable(),
    field("timeout_ms", INT32),
]);

static INCREMENTAL_ALTER_CONFIGS: Schema = api("IncrementalAlterConfigs", 44).versions_to(1).flexible_since(1).fields(&[
    field("resources", structs(&[
        field("resource_type", INT8),
        field("resource_name", STRING),
        field("configs", structs(&[
            field("name", STRING),
            field("config_operation", INT8),
            field("value", STRING).nullable(),
        ])),
    ])),
    field("validate_only", BOOL),
]);

static ALTER_PARTITION_REASSIGNMENTS: Schema = api("AlterPartitionReassignments", 45).versions_to(0).flexible_since(0).fields(&[
    field("timeout_ms", INT32),
    field("topics", structs(&[
        field("name", STRING),
        field("partitions", structs(&[
            field("partition_index", INT32),
            field("replicas", INT32_ARRAY).nullable(),
        ])),
    ])),
]);

static LIST_PARTITION_REASSIGNMENTS: Schema = api("ListPartitionReassignments", 46).versions_to(0).flexible_since(0).fields(&[
    field("timeout_ms", INT32),
    field("topics", structs(&[
        field("name", STRING),
        field("partition_indexes", INT32_ARRAY),
    ])).nullable(),
]);

static OFFSET_DELETE: Schema = api("OffsetDelete", 47).versions_to(0).fields(&[
    field("group_id", STRING),
    field("topics", structs(&[
        field("name", STRING),
        field("partitions", structs(&[
            field("partition_index", INT32),
        ])),
    ])),
]);

static DESCRIBE_CLIENT_QUOTAS: Schema = api("DescribeClientQuotas", 48).versions_to(1).flexible_since(1).fields(&[
    field("components", structs(&[
        field("entity_type", STRING),
        field("match_type", INT8),
        field("match", STRING).nullable(),
    ])),
    field("strict", BOOL),
]);

static ALTER_CLIENT_QUOTAS: Schema = api("AlterClientQuotas", 49).versions_to(1).flexible_since(1).fields(&[
    field("entries", structs(&[
        field("entity", structs(&[
            field("entity_type", STRING),
            field("entity_name", STRING).nullable(),
        ])),
        field("ops", structs(&[
            field("key", STRING),
            field("value", FLOAT64),
            field("remove", BOOL),
        ])),
    ])),
    field("validate_only", BOOL),
]);

static DESCRIBE_USER_SCRAM_CREDENTIALS: Schema = api("DescribeUserScramCredentials", 50).versions_to(0).flexible_since(0).fields(&[
    field("users", structs(&[
        field("name", STRING),
    ])).nullable(),
]);

static DESCRIBE_CLUSTER: Schema = api("DescribeCluster", 60).versions_to(1).flexible_since(0).fields(&[
    field("include_cluster_authorized_operations", BOOL),
    field("endpoint_type", INT8).since(1),
]);

static DESCRIBE_PRODUCERS: Schema = api("DescribeProducers", 61).versions_to(0).flexible_since(0).fields(&[
    field("topics", structs(&[
        field("name", STRING),
        field("partition_indexes", INT32_ARRAY),
    ])),
]);

static DESCRIBE_TRANSACTIONS: Schema = api("DescribeTransactions", 65).versions_to(0).flexible_since(0).fields(&[
    field("transactional_ids", STRING_ARRAY),
]);

static LIST_TRANSACTIONS: Schema = api("ListTransactions", 66).versions_to(1).flexible_since(0).fields(&[
    field("state_filters", STRING_ARRAY),
    field("producer_id_filters", INT64_ARRAY),
    field("duration_filter", INT64).since(1),
]);

static DESCRIBE_TOPIC_PARTITIONS: Schema = api("DescribeTopicPartitions", 75).versions_to(0).flexible_since(0).fields(&[
    field("topics", structs(&[
        field("name", STRING),
    ])),
    field("response_partition_limit", INT32),
    field("cursor", structure(&[
        field("topic_name", STRING),
        field("partition_index", INT32),
    ])).nullable(),
]);
