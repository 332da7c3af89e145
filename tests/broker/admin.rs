//! The admin APIs but for settings: partitions, deleted records, log directories, leader epochs, the
//! cluster, producers, and the clean answers for what one broker without security does not have.

use std::time::Duration;

use kafka_protocol::messages::alter_client_quotas_request as alter_quotas;
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::describe_client_quotas_request::ComponentData;
use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::describe_user_scram_credentials_request::UserName;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{
    AlterClientQuotasRequest, AlterPartitionReassignmentsRequest, BrokerId, CreateAclsRequest,
    CreatePartitionsRequest, DeleteAclsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeAclsRequest, DescribeClientQuotasRequest, DescribeClusterRequest,
    DescribeLogDirsRequest, DescribeProducersRequest, DescribeTransactionsRequest,
    DescribeUserScramCredentialsRequest, ElectLeadersRequest, ListPartitionReassignmentsRequest,
    ListTransactionsRequest, MetadataRequest, OffsetForLeaderEpochRequest, TransactionalId,
};
use ringlog_tests::broker::{Broker, Options, unique, wait_for};
use ringlog_tests::call::{
    Fetch, create_topic, fetch_to_end, list_offset, log_end_offset, produce, produce_values, text,
    topic_name,
};
use ringlog_tests::records::Batch;
use ringlog_tests::wire::Client;
use uuid::Uuid;

use crate::error;

fn node_id(client: &mut Client) -> BrokerId {
    let request = MetadataRequest::default().with_topics(Some(Vec::new()));
    client.call(12, &request).brokers[0].node_id
}

// ---- CreatePartitions ------------------------------------------------------------------------------

fn add_partitions(
    client: &mut Client,
    version: i16,
    topics: Vec<CreatePartitionsTopic>,
    validate_only: bool,
) -> Vec<CreatePartitionsTopicResult> {
    let request = CreatePartitionsRequest::default()
        .with_topics(topics)
        .with_timeout_ms(30_000)
        .with_validate_only(validate_only);
    client.call(version, &request).results
}

fn grown(name: &str, count: i32) -> CreatePartitionsTopic {
    CreatePartitionsTopic::default()
        .with_name(topic_name(name))
        .with_count(count)
        .with_assignments(None)
}

#[test]
fn every_version_adds_partitions_that_can_be_produced_to() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let node = node_id(&mut client);
    for version in 0..=3 {
        let name = unique(&format!("grown-v{version}"));
        create_topic(&mut client, &name, 2, &[("max.message.bytes", "1000")]);
        produce_values(&mut client, &name, &["before"]);
        let results = add_partitions(&mut client, version, vec![grown(&name, 5)], true);
        assert_eq!(results[0].error_code, 0, "v{version}: {results:?}");
        assert_ne!(
            list_offset(&mut client, 1, &name, 2, -1).0,
            0,
            "only validated"
        );
        let results = add_partitions(&mut client, version, vec![grown(&name, 5)], false);
        assert_eq!(results[0].error_code, 0, "v{version}: {results:?}");
        for partition in 2..5 {
            wait_for("the new partition", Duration::from_secs(30), || {
                let answer = produce(&mut client, 9, &name, partition, Batch::of(&["x"]).encode());
                (answer.error_code == 0).then_some(())
            });
            let big = Batch::of(&["x".repeat(2000)]).encode();
            let answer = produce(&mut client, 9, &name, partition, big);
            assert_eq!(
                answer.error_code,
                error::MESSAGE_TOO_LARGE,
                "the topic's settings"
            );
        }
        assert_eq!(
            log_end_offset(&mut client, &name, 0),
            1,
            "the old one stays"
        );
        let assignment = CreatePartitionsAssignment::default().with_broker_ids(vec![node]);
        let assigned = grown(&name, 6).with_assignments(Some(vec![assignment]));
        let results = add_partitions(&mut client, version, vec![assigned], false);
        assert_eq!(results[0].error_code, 0, "v{version}: {results:?}");
    }
}

#[test]
fn impossible_partitions_are_refused() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let name = unique("not-grown");
    create_topic(&mut client, &name, 3, &[]);
    let node = node_id(&mut client);
    let assigned = |lists: &[&[BrokerId]]| {
        let one =
            |ids: &&[BrokerId]| CreatePartitionsAssignment::default().with_broker_ids(ids.to_vec());
        grown(&name, 4).with_assignments(Some(lists.iter().map(one).collect()))
    };
    for version in 0..=3 {
        for (wish, expected) in [
            (grown(&name, 3), error::INVALID_PARTITIONS),
            (grown(&name, 2), error::INVALID_PARTITIONS),
            (grown(&name, 0), error::INVALID_PARTITIONS),
            (grown(&name, i32::MIN), error::INVALID_PARTITIONS),
            (grown("no-such-topic", 9), error::UNKNOWN_TOPIC_OR_PARTITION),
            (assigned(&[]), error::INVALID_REPLICA_ASSIGNMENT),
            (
                assigned(&[&[BrokerId(node.0 + 7)]]),
                error::INVALID_REPLICA_ASSIGNMENT,
            ),
            (
                assigned(&[&[node], &[node]]),
                error::INVALID_REPLICA_ASSIGNMENT,
            ),
            (assigned(&[&[]]), error::INVALID_REPLICA_ASSIGNMENT),
        ] {
            let results = add_partitions(&mut client, version, vec![wish.clone()], false);
            assert_eq!(
                results[0].error_code, expected,
                "v{version} {wish:?}: {results:?}"
            );
        }
        let twice = vec![grown(&name, 4), grown(&name, 5)];
        let results = add_partitions(&mut client, version, twice, false);
        assert_eq!(
            (results.len(), results[0].error_code),
            (1, error::INVALID_REQUEST),
            "v{version}: {results:?}"
        );
    }
    if broker.is_own() {
        let results = add_partitions(&mut client, 3, vec![grown(&name, i32::MAX)], false);
        assert_eq!(
            results[0].error_code,
            error::INVALID_PARTITIONS,
            "{results:?}"
        );
    }
    assert_ne!(
        list_offset(&mut client, 1, &name, 3, -1).0,
        0,
        "none was added"
    );
}

#[test]
fn added_partitions_survive_a_crash() {
    let Some(mut broker) = Broker::own(Options::default()) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    let name = unique("grown");
    create_topic(&mut client, &name, 1, &[("retention.ms", "123456789")]);
    assert_eq!(
        add_partitions(&mut client, 3, vec![grown(&name, 4)], false)[0].error_code,
        0
    );
    for partition in 0..4 {
        assert_eq!(
            produce(&mut client, 9, &name, partition, Batch::of(&["x"]).encode()).error_code,
            0
        );
    }
    for crash in [true, false] {
        broker.end(crash);
        broker.restart();
        let mut client = Client::connect(broker.address());
        for partition in 0..4 {
            assert_eq!(
                log_end_offset(&mut client, &name, partition),
                1,
                "crash={crash}"
            );
        }
    }
}

// ---- DeleteRecords ---------------------------------------------------------------------------------

/// (error code, low watermark).
fn delete_records(
    client: &mut Client,
    version: i16,
    name: &str,
    partition: i32,
    offset: i64,
) -> (i16, i64) {
    let partition = DeleteRecordsPartition::default()
        .with_partition_index(partition)
        .with_offset(offset);
    let topic = DeleteRecordsTopic::default()
        .with_name(topic_name(name))
        .with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(30_000);
    let response = client.call(version, &request);
    let answer = &response.topics[0].partitions[0];
    (answer.error_code, answer.low_watermark)
}

fn start_offset(client: &mut Client, name: &str) -> i64 {
    list_offset(client, 1, name, 0, -2).2
}

#[test]
fn every_version_deletes_records() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    for version in 0..=2 {
        let name = unique(&format!("cut-v{version}"));
        create_topic(&mut client, &name, 1, &[]);
        for _ in 0..5 {
            produce_values(&mut client, &name, &["a", "b"]);
        }
        assert_eq!(
            delete_records(&mut client, version, &name, 0, 3),
            (0, 3),
            "v{version}"
        );
        assert_eq!(start_offset(&mut client, &name), 3, "v{version}");
        let below = Fetch::of(&name, Uuid::nil(), 2).call(&mut client, 11);
        assert_eq!(
            below.error_code,
            error::OFFSET_OUT_OF_RANGE,
            "v{version}: {below:?}"
        );
        let records = fetch_to_end(&mut client, 11, Fetch::of(&name, Uuid::nil(), 3));
        assert_eq!(records.first().map(|r| r.offset), Some(3), "v{version}");
        // Below the start nothing happens; -1 is the high watermark.
        assert_eq!(
            delete_records(&mut client, version, &name, 0, 1),
            (0, 3),
            "v{version}"
        );
        for bad in [11, i64::MAX, -2, i64::MIN] {
            let answer = delete_records(&mut client, version, &name, 0, bad);
            assert_eq!(answer, (error::OFFSET_OUT_OF_RANGE, -1), "v{version} {bad}");
        }
        assert_eq!(
            delete_records(&mut client, version, &name, 0, -1),
            (0, 10),
            "v{version}"
        );
        assert_eq!(
            produce_values(&mut client, &name, &["after"]),
            10,
            "v{version}"
        );
        for (topic, partition) in [(name.as_str(), 1), ("no-such-topic", 0), (&name, -1)] {
            let answer = delete_records(&mut client, version, topic, partition, 0);
            assert_eq!(
                answer,
                (error::UNKNOWN_TOPIC_OR_PARTITION, -1),
                "v{version}"
            );
        }
    }
}

#[test]
fn records_of_a_compacted_topic_are_not_deleted() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let name = unique("compacted");
    create_topic(&mut client, &name, 1, &[("cleanup.policy", "compact")]);
    assert_eq!(
        delete_records(&mut client, 2, &name, 0, 0),
        (error::POLICY_VIOLATION, -1)
    );
}

#[test]
fn deleted_records_stay_deleted_and_their_segments_go() {
    for durability in ["durable", "page-cache"] {
        let options = Options::default().set("ringlog.durability", durability);
        let Some(mut broker) = Broker::own(options) else {
            return;
        };
        let mut client = Client::connect(broker.address());
        let (name, other) = (unique("cut"), unique("other"));
        create_topic(&mut client, &name, 1, &[("segment.bytes", "4096")]);
        create_topic(&mut client, &other, 1, &[]);
        for number in 0..40 {
            produce_values(
                &mut client,
                &name,
                &[format!("{number} {}", "x".repeat(500))],
            );
            produce_values(&mut client, &other, &["x"]);
        }
        let data = broker.logs();
        let count_segments = || {
            let files = std::fs::read_dir(data.join(format!("{name}-0")))
                .expect("the partition's directory");
            let files = files.filter_map(Result::ok);
            files
                .filter(|file| file.path().extension().is_some_and(|ext| ext == "log"))
                .count()
        };
        let before = count_segments();
        assert_eq!(delete_records(&mut client, 2, &other, 0, 7), (0, 7));
        assert_eq!(delete_records(&mut client, 2, &name, 0, 25), (0, 25));
        let after = count_segments();
        assert!(
            after < before && after >= 2,
            "{before} segments, then {after}"
        );
        for crash in [true, true, false, false] {
            broker.end(crash);
            broker.restart();
            let mut client = Client::connect(broker.address());
            assert_eq!(
                start_offset(&mut client, &name),
                25,
                "{durability} crash={crash}"
            );
            assert_eq!(
                start_offset(&mut client, &other),
                7,
                "{durability} crash={crash}"
            );
            let records = fetch_to_end(&mut client, 11, Fetch::of(&name, Uuid::nil(), 25));
            let offsets: Vec<i64> = records.iter().map(|record| record.offset).collect();
            assert_eq!(
                offsets,
                (25..40).collect::<Vec<_>>(),
                "{durability} crash={crash}"
            );
            assert_eq!(count_segments(), after, "no old segment comes back");
        }
    }
}

#[test]
fn a_log_without_records_goes_on_and_a_topic_of_its_name_begins_anew() {
    for durability in ["durable", "page-cache"] {
        let options = Options::default().set("ringlog.durability", durability);
        let Some(mut broker) = Broker::own(options) else {
            return;
        };
        let mut client = Client::connect(broker.address());
        let name = unique("emptied");
        create_topic(&mut client, &name, 1, &[]);
        for _ in 0..40 {
            produce_values(&mut client, &name, &["x"]);
        }
        assert_eq!(delete_records(&mut client, 2, &name, 0, -1), (0, 40));
        broker.kill();
        broker.restart();
        let mut client = Client::connect(broker.address());
        assert_eq!(
            (
                start_offset(&mut client, &name),
                log_end_offset(&mut client, &name, 0)
            ),
            (40, 40)
        );
        assert_eq!(produce_values(&mut client, &name, &["next"]), 40);
        // A topic of the same name gets nothing of it.
        let request = DeleteTopicsRequest::default()
            .with_topic_names(vec![topic_name(&name)])
            .with_timeout_ms(30_000);
        assert_eq!(client.call(5, &request).responses[0].error_code, 0);
        create_topic(&mut client, &name, 1, &[]);
        produce_values(&mut client, &name, &["new"]);
        broker.kill();
        broker.restart();
        let mut client = Client::connect(broker.address());
        assert_eq!(
            (
                start_offset(&mut client, &name),
                log_end_offset(&mut client, &name, 0)
            ),
            (0, 1)
        );
    }
}

// ---- DescribeLogDirs, OffsetForLeaderEpoch, DescribeCluster, DescribeProducers --------------------------

#[test]
fn log_directories_are_described_in_every_version() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let name = unique("sized");
    create_topic(&mut client, &name, 3, &[]);
    produce_values(&mut client, &name, &["x".repeat(5000)]);
    for version in 0..=4 {
        for wanted in [None, Some(vec![0, 2])] {
            let topic = |partitions: Vec<i32>| {
                let topic = DescribableLogDirTopic::default().with_topic(topic_name(&name));
                vec![topic.with_partitions(partitions)]
            };
            let request = DescribeLogDirsRequest::default().with_topics(wanted.clone().map(topic));
            let response = client.call(version, &request);
            assert_eq!(
                (response.error_code, response.results.len()),
                (0, 1),
                "v{version}: {response:?}"
            );
            let directory = &response.results[0];
            assert!(
                directory.log_dir.starts_with('/'),
                "v{version}: {directory:?}"
            );
            if broker.is_own() {
                assert_eq!(
                    directory.log_dir.as_str(),
                    broker.logs().to_str().expect("UTF-8")
                );
            }
            let mut topics = directory.topics.iter();
            let found = topics.find(|topic| topic.name == topic_name(&name));
            let found = found.unwrap_or_else(|| panic!("v{version}: {directory:?}"));
            let mut partitions: Vec<_> = found.partitions.iter().collect();
            partitions.sort_by_key(|partition| partition.partition_index);
            let indexes: Vec<_> = partitions.iter().map(|p| p.partition_index).collect();
            assert_eq!(indexes, wanted.unwrap_or(vec![0, 1, 2]), "v{version}");
            assert!(
                partitions[0].partition_size > 5000,
                "v{version}: {partitions:?}"
            );
            assert_eq!(partitions[1].partition_size, 0, "v{version}");
            assert!(
                partitions
                    .iter()
                    .all(|p| p.offset_lag == 0 && !p.is_future_key),
                "v{version}"
            );
            if version >= 4 {
                assert!(
                    directory.total_bytes >= directory.usable_bytes && directory.usable_bytes > 0
                );
            }
        }
    }
}

#[test]
fn the_end_of_a_leader_epoch_is_told_in_every_version() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let name = unique("epochs");
    create_topic(&mut client, &name, 1, &[]);
    produce_values(&mut client, &name, &["a", "b", "c"]);
    for version in 0..=4 {
        let mut ask = |topic: &str, current: i32, epoch: i32| {
            let mut partition = OffsetForLeaderPartition::default().with_leader_epoch(epoch);
            if version >= 2 {
                partition.current_leader_epoch = current;
            }
            let topic = OffsetForLeaderTopic::default()
                .with_topic(topic_name(topic))
                .with_partitions(vec![partition]);
            let mut request = OffsetForLeaderEpochRequest::default().with_topics(vec![topic]);
            if version >= 3 {
                request.replica_id = BrokerId(-1);
            }
            let response = client.call(version, &request);
            let answer = &response.topics[0].partitions[0];
            let epoch = if version >= 1 { answer.leader_epoch } else { 0 };
            (answer.error_code, epoch, answer.end_offset)
        };
        let none = if version >= 1 { -1 } else { 0 };
        assert_eq!(ask(&name, -1, 0), (0, 0, 3), "v{version}");
        assert_eq!(ask(&name, -1, 1), (0, none, -1), "v{version}");
        assert_eq!(ask(&name, -1, -1), (0, none, -1), "v{version}");
        let (code, ..) = ask("no-such-topic", -1, 0);
        assert_eq!(code, error::UNKNOWN_TOPIC_OR_PARTITION, "v{version}");
        if version >= 2 {
            assert_eq!(ask(&name, 0, 0), (0, 0, 3), "v{version}");
            assert_eq!(
                ask(&name, 9, 0).0,
                error::UNKNOWN_LEADER_EPOCH,
                "v{version}"
            );
        }
    }
}

#[test]
fn the_cluster_is_described_in_every_version() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let node = node_id(&mut client);
    for version in 0..=1 {
        let mut request = DescribeClusterRequest::default();
        if version >= 1 {
            request.endpoint_type = 1;
        }
        let response = client.call(version, &request);
        assert_eq!(response.error_code, 0, "v{version}: {response:?}");
        assert!(!response.cluster_id.is_empty(), "v{version}");
        assert_eq!(response.controller_id, node, "v{version}");
        let known: Vec<_> = response
            .brokers
            .iter()
            .map(|b| (b.broker_id, b.port))
            .collect();
        assert_eq!(
            known,
            [(node, broker.address().port().into())],
            "v{version}"
        );
        assert_eq!(
            response.cluster_authorized_operations,
            i32::MIN,
            "v{version}"
        );
        request.include_cluster_authorized_operations = true;
        assert!(
            client.call(version, &request).cluster_authorized_operations > 0,
            "v{version}"
        );
    }
    for (endpoint, expected) in [(2, 114), (9, 115)] {
        let request = DescribeClusterRequest::default().with_endpoint_type(endpoint);
        assert_eq!(client.call(1, &request).error_code, expected);
    }
}

#[test]
fn idempotent_producers_are_described() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let name = unique("producers");
    create_topic(&mut client, &name, 2, &[]);
    let batch = Batch::of(&["a", "b"])
        .at_present()
        .by_producer(4711, 3, 0)
        .encode();
    assert_eq!(produce(&mut client, 9, &name, 1, batch).error_code, 0);
    let topics = [name.as_str(), "no-such-topic", "a/b"].map(|name| {
        TopicRequest::default()
            .with_name(topic_name(name))
            .with_partition_indexes(vec![0, 1])
    });
    let response = client.call(
        0,
        &DescribeProducersRequest::default().with_topics(topics.to_vec()),
    );
    let [known, unknown, invalid] = &response.topics[..] else {
        panic!("{response:?}");
    };
    assert_eq!(known.partitions[0].active_producers, []);
    let producer = &known.partitions[1].active_producers[0];
    assert_eq!(
        (
            producer.producer_id.0,
            producer.producer_epoch,
            producer.last_sequence
        ),
        (4711, 3, 1)
    );
    assert_eq!(producer.current_txn_start_offset, -1);
    assert!(producer.last_timestamp > 0);
    assert_eq!(
        unknown.partitions[0].error_code,
        error::UNKNOWN_TOPIC_OR_PARTITION
    );
    assert_eq!(
        invalid.partitions[0].error_code,
        error::INVALID_TOPIC_EXCEPTION
    );
}

// ---- what one broker without security does not have ------------------------------------------------------

#[test]
fn every_leader_is_the_preferred_one() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let name = unique("led");
    create_topic(&mut client, &name, 2, &[]);
    for version in 0..=2 {
        let topic = TopicPartitions::default()
            .with_topic(topic_name(&name))
            .with_partitions(vec![0, 1, 2]);
        let request = ElectLeadersRequest::default()
            .with_timeout_ms(30_000)
            .with_topic_partitions(Some(vec![topic]));
        let response = client.call(version, &request);
        assert_eq!(response.error_code, 0, "v{version}");
        let mut results: Vec<_> = response.replica_election_results[0]
            .partition_result
            .iter()
            .map(|result| (result.partition_id, result.error_code))
            .collect();
        results.sort_unstable();
        let expected = [
            (0, error::ELECTION_NOT_NEEDED),
            (1, error::ELECTION_NOT_NEEDED),
            (2, error::UNKNOWN_TOPIC_OR_PARTITION),
        ];
        assert_eq!(results, expected, "v{version}");
        let response = client.call(version, &request.with_topic_partitions(None));
        let results = response.replica_election_results.iter();
        let changed: usize = results.map(|topic| topic.partition_result.len()).sum();
        assert_eq!((response.error_code, changed), (0, 0), "v{version}");
    }
}

#[test]
fn a_partition_is_assigned_to_where_it_is_and_nowhere_else() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let name = unique("assigned");
    create_topic(&mut client, &name, 1, &[]);
    let node = node_id(&mut client);
    for (partition, replicas, expected) in [
        (0, Some(vec![node]), 0),
        (0, None, error::NO_REASSIGNMENT_IN_PROGRESS),
        (0, Some(vec![]), error::INVALID_REPLICA_ASSIGNMENT),
        (0, Some(vec![node, node]), error::INVALID_REPLICA_ASSIGNMENT),
        (
            0,
            Some(vec![node, BrokerId(node.0 + 7)]),
            error::INVALID_REPLICA_ASSIGNMENT,
        ),
        (
            0,
            Some(vec![BrokerId(-3)]),
            error::INVALID_REPLICA_ASSIGNMENT,
        ),
        (1, Some(vec![node]), error::UNKNOWN_TOPIC_OR_PARTITION),
    ] {
        let asked = ReassignablePartition::default()
            .with_partition_index(partition)
            .with_replicas(replicas.clone());
        let topic = ReassignableTopic::default()
            .with_name(topic_name(&name))
            .with_partitions(vec![asked]);
        let request = AlterPartitionReassignmentsRequest::default()
            .with_timeout_ms(30_000)
            .with_topics(vec![topic]);
        let response = client.call(0, &request);
        let answer = &response.responses[0].partitions[0];
        assert_eq!(
            (response.error_code, answer.error_code),
            (0, expected),
            "{replicas:?}: {response:?}"
        );
    }
    let request = ListPartitionReassignmentsRequest::default()
        .with_timeout_ms(30_000)
        .with_topics(None);
    let response = client.call(0, &request);
    assert_eq!(
        (response.error_code, response.topics.len()),
        (0, 0),
        "{response:?}"
    );
}

#[test]
fn without_an_authorizer_security_is_disabled() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    for version in 0..=3 {
        // Any, of any name, matching any pattern.
        let mut request = DescribeAclsRequest::default()
            .with_resource_type_filter(1)
            .with_operation(1)
            .with_permission_type(1);
        let mut filter = DeleteAclsFilter::default()
            .with_resource_type_filter(1)
            .with_operation(1)
            .with_permission_type(1);
        let creation = AclCreation::default()
            .with_resource_type(2)
            .with_resource_name(text("t"))
            .with_principal(text("User:a"))
            .with_host(text("*"))
            .with_operation(3)
            .with_permission_type(3);
        if version >= 1 {
            request.pattern_type_filter = 1;
            filter.pattern_type_filter = 1;
        }
        let response = client.call(version, &request);
        assert_eq!(
            response.error_code,
            error::SECURITY_DISABLED,
            "v{version}: {response:?}"
        );
        let request = CreateAclsRequest::default().with_creations(vec![creation.clone(), creation]);
        let response = client.call(version, &request);
        let codes: Vec<_> = response.results.iter().map(|r| r.error_code).collect();
        assert_eq!(codes, [error::SECURITY_DISABLED; 2], "v{version}");
        let response = client.call(
            version,
            &DeleteAclsRequest::default().with_filters(vec![filter]),
        );
        let codes: Vec<_> = response
            .filter_results
            .iter()
            .map(|r| r.error_code)
            .collect();
        assert_eq!(codes, [error::SECURITY_DISABLED], "v{version}");
    }
}

#[test]
fn there_are_no_quotas_and_none_can_be_set() {
    let Some(broker) = Broker::own(Options::default()) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    for version in 0..=1 {
        let component = |name: &str| {
            let component = ComponentData::default().with_entity_type(text(name));
            component.with_match_type(2)
        };
        for (components, expected) in [
            (vec![], 0),
            (vec![component("user"), component("client-id")], 0),
            (
                vec![component("user"), component("user")],
                error::INVALID_REQUEST,
            ),
            (vec![component("")], error::INVALID_REQUEST),
            (vec![component("planet")], error::UNSUPPORTED_VERSION),
        ] {
            let request = DescribeClientQuotasRequest::default().with_components(components);
            let response = client.call(version, &request);
            assert_eq!(response.error_code, expected, "v{version}: {response:?}");
            let entries = response.entries.map(|entries| entries.len());
            assert_eq!(entries, (expected == 0).then_some(0), "v{version}");
        }
        for (remove, expected) in [(true, 0), (false, error::UNSUPPORTED_VERSION)] {
            let entity = alter_quotas::EntityData::default()
                .with_entity_type(text("user"))
                .with_entity_name(Some(text("a")));
            let op = alter_quotas::OpData::default()
                .with_key(text("producer_byte_rate"))
                .with_value(1000.0)
                .with_remove(remove);
            let entry = alter_quotas::EntryData::default()
                .with_entity(vec![entity])
                .with_ops(vec![op]);
            let request = AlterClientQuotasRequest::default().with_entries(vec![entry]);
            let response = client.call(version, &request);
            assert_eq!(
                response.entries[0].error_code, expected,
                "v{version}: {response:?}"
            );
            assert_eq!(
                response.entries[0].entity[0].entity_name,
                Some(text("a")),
                "v{version}"
            );
        }
    }
}

#[test]
fn there_are_no_transactions_and_no_users() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let ids = vec![TransactionalId(text("nobody"))];
    let request = DescribeTransactionsRequest::default().with_transactional_ids(ids);
    let response = client.call(0, &request);
    let code = response.transaction_states[0].error_code;
    // Kafka has no coordinator as long as nobody began a transaction.
    let has_none = code == error::NOT_COORDINATOR && !broker.is_own();
    assert!(
        code == error::TRANSACTIONAL_ID_NOT_FOUND || has_none,
        "{response:?}"
    );
    for version in 0..=1 {
        let states = vec![text("Ongoing"), text("Bored")];
        let mut request = ListTransactionsRequest::default().with_state_filters(states);
        if version >= 1 {
            request.duration_filter = 5;
        }
        let response = client.call(version, &request);
        assert_eq!(
            (response.error_code, response.transaction_states.len()),
            (0, 0),
            "v{version}"
        );
        assert_eq!(
            response.unknown_state_filters,
            [text("Bored")],
            "v{version}"
        );
    }
    let request = DescribeUserScramCredentialsRequest::default();
    let response = client.call(0, &request.clone().with_users(None));
    assert_eq!(
        (response.error_code, response.results.len()),
        (0, 0),
        "{response:?}"
    );
    let users = vec![UserName::default().with_name(text("alice"))];
    let response = client.call(0, &request.with_users(Some(users)));
    assert_eq!(
        response.results[0].error_code,
        error::RESOURCE_NOT_FOUND,
        "{response:?}"
    );
}
