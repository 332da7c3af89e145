//! CreateTopics and DeleteTopics: every version, validation, errors, deletion by name and by id.

use std::time::Duration;

use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, DeleteTopicsRequest, MetadataRequest,
};
use ringlog_tests::broker::{Broker, unique, wait_for};
use ringlog_tests::call::{
    Fetch, create_topic, fetch_all, log_end_offset, produce_values, text, topic_id, topic_name,
};
use ringlog_tests::wire::Client;
use uuid::Uuid;

use crate::error;

const CREATE_VERSIONS: std::ops::RangeInclusive<i16> = 0..=7;
const DELETE_VERSIONS: std::ops::RangeInclusive<i16> = 0..=6;

fn topic(name: &str, partitions: i32, replicas: i16) -> CreatableTopic {
    CreatableTopic::default()
        .with_name(topic_name(name))
        .with_num_partitions(partitions)
        .with_replication_factor(replicas)
}

fn create_all(
    client: &mut Client,
    version: i16,
    topics: Vec<CreatableTopic>,
    validate_only: bool,
) -> Vec<CreatableTopicResult> {
    let mut request = CreateTopicsRequest::default()
        .with_topics(topics)
        .with_timeout_ms(30_000);
    if version >= 1 {
        request = request.with_validate_only(validate_only);
    }
    client.call(version, &request).topics
}

fn create(client: &mut Client, version: i16, topic: CreatableTopic) -> CreatableTopicResult {
    let mut results = create_all(client, version, vec![topic], false);
    assert_eq!(results.len(), 1, "{results:?}");
    results.remove(0)
}

/// Deletes by name; (error code, the name answered).
fn delete(client: &mut Client, version: i16, name: &str) -> i16 {
    let mut request = DeleteTopicsRequest::default().with_timeout_ms(30_000);
    if version >= 6 {
        request.topics = vec![DeleteTopicState::default().with_name(Some(topic_name(name)))];
    } else {
        request.topic_names = vec![topic_name(name)];
    }
    let response = client.call(version, &request);
    assert_eq!(response.responses.len(), 1, "v{version}: {response:?}");
    assert_eq!(
        response.responses[0].name,
        Some(topic_name(name)),
        "v{version}: {response:?}"
    );
    response.responses[0].error_code
}

fn partitions_of(client: &mut Client, name: &str) -> Option<usize> {
    let wanted = MetadataRequestTopic::default().with_name(Some(topic_name(name)));
    let request = MetadataRequest::default().with_topics(Some(vec![wanted]));
    let response = client.call(12, &request.with_allow_auto_topic_creation(false));
    (response.topics[0].error_code == 0).then(|| response.topics[0].partitions.len())
}

fn wait_until_gone(client: &mut Client, name: &str) {
    wait_for(&format!("end of {name}"), Duration::from_secs(30), || {
        partitions_of(client, name).is_none().then_some(())
    });
}

#[test]
fn every_version_creates_and_every_version_deletes() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    for version in CREATE_VERSIONS {
        let name = unique(&format!("create-v{version}"));
        let result = create(&mut client, version, topic(&name, 3, 1));
        assert_eq!(
            (result.error_code, &result.name),
            (0, &topic_name(&name)),
            "v{version}: {result:?}"
        );
        if version >= 5 {
            assert_eq!(
                (result.num_partitions, result.replication_factor),
                (3, 1),
                "v{version}: {result:?}"
            );
            let configs = result.configs.as_deref().unwrap_or_default();
            assert!(
                configs
                    .iter()
                    .any(|config| config.name.as_str() == "retention.ms"),
                "v{version}: {configs:?}"
            );
        }
        let id = wait_for("leaders", Duration::from_secs(30), || {
            topic_id(&mut client, &name)
        });
        if version >= 7 {
            assert_eq!(result.topic_id, id, "v{version}");
        }
        assert_eq!(partitions_of(&mut client, &name), Some(3), "v{version}");
    }
    for version in DELETE_VERSIONS {
        let name = unique(&format!("delete-v{version}"));
        create_topic(&mut client, &name, 2, &[]);
        assert_eq!(delete(&mut client, version, &name), 0, "v{version}");
        wait_until_gone(&mut client, &name);
        assert_eq!(
            delete(&mut client, version, &name),
            error::UNKNOWN_TOPIC_OR_PARTITION,
            "v{version}"
        );
    }
}

#[test]
fn an_existing_topic_is_not_created_again() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let name = unique("exists");
    create_topic(&mut client, &name, 2, &[]);
    for version in CREATE_VERSIONS {
        let result = create(&mut client, version, topic(&name, 5, 1));
        assert_eq!(
            result.error_code,
            error::TOPIC_ALREADY_EXISTS,
            "v{version}: {result:?}"
        );
        if version >= 1 {
            assert!(
                result
                    .error_message
                    .is_some_and(|message| message.contains(name.as_str())),
                "v{version}"
            );
        }
    }
    assert_eq!(partitions_of(&mut client, &name), Some(2));
}

#[test]
fn validate_only_says_the_same_and_creates_nothing() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let exists = unique("exists");
    create_topic(&mut client, &exists, 1, &[]);
    for version in CREATE_VERSIONS.skip(1) {
        let name = unique("validated");
        let topics = vec![
            topic(&name, 1, 1),
            topic(&exists, 1, 1),
            topic("a/b", 1, 1),
            topic(&unique("none"), 0, 1),
        ];
        let codes: Vec<_> = create_all(&mut client, version, topics, true)
            .iter()
            .map(|result| result.error_code)
            .collect();
        let expected = [
            0,
            error::TOPIC_ALREADY_EXISTS,
            error::INVALID_TOPIC_EXCEPTION,
            error::INVALID_PARTITIONS,
        ];
        let mut sorted = codes.clone();
        sorted.sort_unstable();
        let mut expected_sorted = expected.to_vec();
        expected_sorted.sort_unstable();
        assert_eq!(sorted, expected_sorted, "v{version}: {codes:?}");
        assert_eq!(partitions_of(&mut client, &name), None, "v{version}");
    }
}

#[test]
fn a_name_twice_in_a_request_is_invalid_and_the_others_are_created() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    for version in CREATE_VERSIONS {
        let (twice, once) = (unique("twice"), unique("once"));
        let results = create_all(
            &mut client,
            version,
            vec![topic(&twice, 1, 1), topic(&once, 1, 1), topic(&twice, 2, 1)],
            false,
        );
        assert_eq!(
            results.len(),
            2,
            "v{version}: each name is answered once: {results:?}"
        );
        for result in &results {
            let expected = if result.name == topic_name(&twice) {
                error::INVALID_REQUEST
            } else {
                0
            };
            assert_eq!(result.error_code, expected, "v{version}: {results:?}");
        }
        assert_eq!(partitions_of(&mut client, &twice), None, "v{version}");
        wait_for("leaders", Duration::from_secs(30), || {
            topic_id(&mut client, &once)
        });
    }
}

#[test]
fn impossible_topics_are_refused_each_with_its_error() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let config = |key: &str, value: &str| {
        let config = CreatableTopicConfig::default()
            .with_name(text(key))
            .with_value(Some(text(value)));
        topic(&unique("config"), 1, 1).with_configs(vec![config])
    };
    for version in CREATE_VERSIONS {
        let cases = [
            (
                topic(&unique("partitions"), 0, 1),
                error::INVALID_PARTITIONS,
            ),
            (
                topic(&unique("partitions"), -2, 1),
                error::INVALID_PARTITIONS,
            ),
            (
                topic(&unique("replicas"), 1, 0),
                error::INVALID_REPLICATION_FACTOR,
            ),
            (
                topic(&unique("replicas"), 1, 2),
                error::INVALID_REPLICATION_FACTOR,
            ),
            (
                topic(&unique("replicas"), 1, -2),
                error::INVALID_REPLICATION_FACTOR,
            ),
            (topic("", 1, 1), error::INVALID_TOPIC_EXCEPTION),
            (topic("a/b", 1, 1), error::INVALID_TOPIC_EXCEPTION),
            (topic("..", 1, 1), error::INVALID_TOPIC_EXCEPTION),
            (
                topic(&"x".repeat(250), 1, 1),
                error::INVALID_TOPIC_EXCEPTION,
            ),
            (config("no.such.config", "1"), error::INVALID_CONFIG),
            (config("retention.ms", "soon"), error::INVALID_CONFIG),
            (config("cleanup.policy", "burn"), error::INVALID_CONFIG),
            (config("segment.bytes", "1"), error::INVALID_CONFIG),
        ];
        for (topic, expected) in cases {
            let result = create(&mut client, version, topic.clone());
            assert_eq!(
                result.error_code, expected,
                "v{version} {topic:?}: {result:?}"
            );
            assert_eq!(
                partitions_of(&mut client, &topic.name),
                None,
                "v{version} {topic:?}"
            );
        }
    }
}

#[test]
fn an_absurd_number_of_partitions_is_refused_without_building_any() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    for count in [i32::MAX, 100_000_000] {
        let name = unique("absurd");
        let result = create(&mut client, 7, topic(&name, count, 1));
        assert_ne!(result.error_code, 0, "{count} partitions: {result:?}");
        assert_eq!(partitions_of(&mut client, &name), None);
    }
}

#[test]
fn manual_assignments_are_checked() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let node = client
        .call(
            12,
            &MetadataRequest::default().with_topics(Some(Vec::new())),
        )
        .brokers[0]
        .node_id;
    let assigned = |partitions: &[(i32, &[BrokerId])]| {
        let assignments = partitions.iter().map(|(index, brokers)| {
            CreatableReplicaAssignment::default()
                .with_partition_index(*index)
                .with_broker_ids(brokers.to_vec())
        });
        topic(&unique("assigned"), -1, -1).with_assignments(assignments.collect())
    };
    let stranger = BrokerId(node.0 + 77);
    for version in CREATE_VERSIONS {
        let good = assigned(&[(0, &[node]), (1, &[node])]);
        assert_eq!(
            create(&mut client, version, good.clone()).error_code,
            0,
            "v{version}"
        );
        wait_for("two partitions", Duration::from_secs(30), || {
            (partitions_of(&mut client, &good.name) == Some(2)).then_some(())
        });
        for bad in [
            assigned(&[(0, &[stranger])]),
            assigned(&[(1, &[node])]),
            assigned(&[(0, &[node]), (2, &[node])]),
            assigned(&[(0, &[])]),
            assigned(&[(0, &[node, node])]),
            assigned(&[(0, &[node]), (0, &[node])]),
        ] {
            let result = create(&mut client, version, bad.clone());
            assert_eq!(
                result.error_code,
                error::INVALID_REPLICA_ASSIGNMENT,
                "v{version} {bad:?}: {result:?}"
            );
        }
        let both = assigned(&[(0, &[node])])
            .with_num_partitions(1)
            .with_replication_factor(1);
        assert_eq!(
            create(&mut client, version, both).error_code,
            error::INVALID_REQUEST,
            "v{version}"
        );
    }
}

#[test]
fn minus_one_takes_the_brokers_defaults_kip_464() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    for version in CREATE_VERSIONS.skip(4) {
        let name = unique("defaults");
        let result = create(&mut client, version, topic(&name, -1, -1));
        assert_eq!(result.error_code, 0, "v{version}: {result:?}");
        wait_for("one partition", Duration::from_secs(30), || {
            (partitions_of(&mut client, &name) == Some(1)).then_some(())
        });
    }
}

#[test]
fn a_topic_is_deleted_by_its_id_kip_516() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let name = unique("by-id");
    let id = create_topic(&mut client, &name, 1, &[]);
    let by_id = |id| {
        let state = DeleteTopicState::default().with_topic_id(id);
        DeleteTopicsRequest::default()
            .with_topics(vec![state])
            .with_timeout_ms(30_000)
    };
    let response = client.call(6, &by_id(Uuid::from_u128(5)));
    assert_eq!(
        response.responses[0].error_code,
        error::UNKNOWN_TOPIC_ID,
        "{response:?}"
    );
    let response = client.call(6, &by_id(id));
    let result = &response.responses[0];
    assert_eq!(
        (result.error_code, result.topic_id),
        (0, id),
        "{response:?}"
    );
    assert_eq!(result.name, Some(topic_name(&name)), "{response:?}");
    wait_until_gone(&mut client, &name);
    let response = client.call(6, &by_id(id));
    assert_eq!(
        response.responses[0].error_code,
        error::UNKNOWN_TOPIC_ID,
        "{response:?}"
    );
}

#[test]
fn a_topic_deleted_and_created_again_is_empty_and_has_another_id() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let name = unique("again");
    for _ in 0..5 {
        let id = create_topic(&mut client, &name, 1, &[]);
        assert_eq!(log_end_offset(&mut client, &name, 0), 0);
        assert_eq!(produce_values(&mut client, &name, &["a", "b"]), 0);
        assert_eq!(fetch_all(&mut client, &name, 0).len(), 2);
        assert_eq!(delete(&mut client, 5, &name), 0);
        wait_until_gone(&mut client, &name);
        wait_for("the old id unknown", Duration::from_secs(30), || {
            let data = Fetch::of(&name, id, 0).call(&mut client, 17);
            (data.error_code == error::UNKNOWN_TOPIC_ID).then_some(())
        });
    }
}

/// What the deletion left on its way (ZooKeeper's events of its own wish) must not meet the new topic.
#[test]
fn a_topic_created_as_soon_as_its_predecessor_is_deleted_stays() {
    let Some(mut broker) = Broker::own(ringlog_tests::broker::Options::default()) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    let name = unique("successor");
    for round in 0..40 {
        create_topic(&mut client, &name, 1 + round % 3, &[]);
        assert_eq!(delete(&mut client, 5, &name), 0, "round {round}");
    }
    let id = create_topic(&mut client, &name, 2, &[]);
    assert_eq!(produce_values(&mut client, &name, &["a", "b"]), 0);
    broker.kill();
    broker.restart();
    let mut client = Client::connect(broker.address());
    let found = wait_for("leaders", Duration::from_secs(30), || {
        topic_id(&mut client, &name)
    });
    assert_eq!(found, id);
    assert_eq!(partitions_of(&mut client, &name), Some(2));
    assert_eq!(fetch_all(&mut client, &name, 0).len(), 2);
}

#[test]
fn topics_and_their_ids_survive_a_clean_restart_and_a_crash() {
    let Some(mut broker) = Broker::own(ringlog_tests::broker::Options::default()) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    let (kept, gone) = (unique("kept"), unique("gone"));
    let id = create_topic(&mut client, &kept, 3, &[("retention.ms", "123456")]);
    create_topic(&mut client, &gone, 3, &[]);
    assert_eq!(delete(&mut client, 5, &gone), 0);
    for crash in [false, true] {
        broker.end(crash);
        broker.restart();
        let mut client = Client::connect(broker.address());
        let found = wait_for("leaders", Duration::from_secs(30), || {
            topic_id(&mut client, &kept)
        });
        assert_eq!(found, id, "crash={crash}");
        assert_eq!(partitions_of(&mut client, &kept), Some(3), "crash={crash}");
        assert_eq!(partitions_of(&mut client, &gone), None, "crash={crash}");
    }
}
