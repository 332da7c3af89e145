//! Metadata and ApiVersions: every version, null and empty topic lists, automatic creation, bad names.

use std::time::Duration;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, MetadataRequest, MetadataResponse};
use ringlog_tests::broker::{Broker, unique, wait_for};
use ringlog_tests::call::{create_topic, text, topic_id, topic_name};
use ringlog_tests::wire::{self, Client};
use uuid::Uuid;

use crate::error;

const VERSIONS: std::ops::RangeInclusive<i16> = 0..=12;

fn request_of(version: i16, names: &[&str], create: bool) -> MetadataRequest {
    let topics = names
        .iter()
        .map(|name| MetadataRequestTopic::default().with_name(Some(topic_name(name))));
    let request = MetadataRequest::default().with_topics(Some(topics.collect()));
    if version >= 4 {
        request.with_allow_auto_topic_creation(create)
    } else {
        request
    }
}

fn find<'a>(response: &'a MetadataResponse, name: &str) -> Option<&'a MetadataResponseTopic> {
    response
        .topics
        .iter()
        .find(|topic| topic.name == Some(topic_name(name)))
}

#[test]
fn every_version_describes_the_broker_and_its_topics() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let name = unique("described");
    let id = create_topic(&mut client, &name, 3, &[]);
    for version in VERSIONS {
        let response = client.call(version, &request_of(version, &[&name], false));
        assert_eq!(response.brokers.len(), 1, "v{version}: {response:?}");
        let node = &response.brokers[0];
        let advertised = wait_for("the advertised address", Duration::from_secs(5), || {
            format!("{}:{}", node.host, node.port)
                .parse()
                .ok()
                .or_else(|| (node.host.as_str() == "localhost").then_some(broker.address()))
        });
        assert_eq!(
            broker.address(),
            advertised,
            "v{version}: clients are sent to the address they know"
        );
        if version >= 1 {
            assert_eq!(
                response.controller_id, node.node_id,
                "v{version}: {response:?}"
            );
        }
        if version >= 2 {
            assert!(
                response
                    .cluster_id
                    .as_ref()
                    .is_some_and(|id| !id.is_empty()),
                "v{version}: {response:?}"
            );
        }
        assert_eq!(response.topics.len(), 1, "v{version}: {response:?}");
        let topic = &response.topics[0];
        assert_eq!(
            (topic.error_code, &topic.name),
            (0, &Some(topic_name(&name))),
            "v{version}"
        );
        assert_eq!(
            topic.topic_id,
            if version >= 10 { id } else { Uuid::nil() },
            "v{version}"
        );
        let mut indexes: Vec<_> = topic
            .partitions
            .iter()
            .map(|partition| partition.partition_index)
            .collect();
        indexes.sort_unstable();
        assert_eq!(indexes, [0, 1, 2], "v{version}");
        for partition in &topic.partitions {
            assert_eq!(
                (partition.error_code, partition.leader_id),
                (0, node.node_id),
                "v{version}"
            );
            assert_eq!(partition.replica_nodes, [node.node_id], "v{version}");
            assert_eq!(partition.isr_nodes, [node.node_id], "v{version}");
            assert!(partition.offline_replicas.is_empty(), "v{version}");
            if version >= 7 {
                assert!(partition.leader_epoch >= 0, "v{version}: {partition:?}");
            }
        }
    }
}

#[test]
fn all_topics_are_asked_for_by_an_empty_list_in_version_0_and_by_null_afterwards() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let name = unique("all");
    create_topic(&mut client, &name, 1, &[]);
    let response = client.call(0, &request_of(0, &[], false));
    assert!(find(&response, &name).is_some(), "v0: {response:?}");
    for version in VERSIONS.skip(1) {
        let response = client.call(version, &request_of(version, &[], true));
        assert!(
            response.topics.is_empty(),
            "v{version}: an empty list asks for no topic: {response:?}"
        );
        let request = request_of(version, &[], true).with_topics(None);
        let response = client.call(version, &request);
        assert!(
            find(&response, &name).is_some(),
            "v{version}: null asks for all: {response:?}"
        );
    }
}

#[test]
fn a_topic_asked_for_is_created_in_every_version_that_allows_it() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    for version in VERSIONS {
        let name = unique(&format!("auto-v{version}"));
        let topic = wait_for(
            &format!("{name} by Metadata v{version}"),
            Duration::from_secs(30),
            || {
                let response = client.call(version, &request_of(version, &[&name], true));
                let topic = find(&response, &name)
                    .unwrap_or_else(|| panic!("not named: {response:?}"))
                    .clone();
                let led = topic
                    .partitions
                    .iter()
                    .all(|partition| partition.error_code == 0);
                (topic.error_code == 0 && led && !topic.partitions.is_empty()).then_some(topic)
            },
        );
        assert_eq!(topic.partitions.len(), 1, "num.partitions");
    }
}

#[test]
fn a_topic_is_not_created_where_the_request_forbids_it() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let name = unique("forbidden");
    for version in VERSIONS.skip(4) {
        for _ in 0..2 {
            let response = client.call(version, &request_of(version, &[&name], false));
            let topic =
                find(&response, &name).unwrap_or_else(|| panic!("v{version}: {response:?}"));
            assert_eq!(
                topic.error_code,
                error::UNKNOWN_TOPIC_OR_PARTITION,
                "v{version}"
            );
            assert!(topic.partitions.is_empty(), "v{version}");
        }
    }
    assert_eq!(topic_id(&mut client, &name), None);
}

#[test]
fn invalid_names_are_refused_and_not_created() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let long = "x".repeat(250);
    for version in VERSIONS {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "with space",
            "ünï",
            long.as_str(),
            "../../etc",
        ] {
            let response = client.call(version, &request_of(version, &[name], true));
            let topic = find(&response, name)
                .unwrap_or_else(|| panic!("v{version} {name:?}: {response:?}"));
            assert_eq!(
                topic.error_code,
                error::INVALID_TOPIC_EXCEPTION,
                "v{version} {name:?}"
            );
        }
    }
    let response = client.call(12, &request_of(12, &[], true).with_topics(None));
    assert!(find(&response, "a/b").is_none());
}

#[test]
fn a_topic_is_found_by_its_id_from_version_12() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let name = unique("by-id");
    let id = create_topic(&mut client, &name, 1, &[]);
    let by_id = |id| {
        let topic = MetadataRequestTopic::default()
            .with_name(None)
            .with_topic_id(id);
        MetadataRequest::default()
            .with_topics(Some(vec![topic]))
            .with_allow_auto_topic_creation(false)
    };
    let response = client.call(12, &by_id(id));
    assert_eq!(response.topics[0].error_code, 0, "{response:?}");
    assert_eq!(
        response.topics[0].name,
        Some(topic_name(&name)),
        "{response:?}"
    );
    let response = client.call(12, &by_id(Uuid::from_u128(99)));
    assert_eq!(
        response.topics[0].error_code,
        error::UNKNOWN_TOPIC_ID,
        "{response:?}"
    );
}

#[test]
fn every_version_of_api_versions_lists_what_is_served() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    // What clients need of the first issue, from the lowest to the highest version they use.
    let needed = [
        (ApiKey::Produce, 0, 11),
        (ApiKey::Fetch, 0, 17),
        (ApiKey::ListOffsets, 0, 9),
        (ApiKey::Metadata, 0, 12),
        (ApiKey::OffsetCommit, 0, 9),
        (ApiKey::OffsetFetch, 0, 9),
        (ApiKey::FindCoordinator, 0, 6),
        (ApiKey::JoinGroup, 0, 9),
        (ApiKey::Heartbeat, 0, 4),
        (ApiKey::LeaveGroup, 0, 5),
        (ApiKey::SyncGroup, 0, 5),
        (ApiKey::DescribeGroups, 0, 5),
        (ApiKey::ListGroups, 0, 5),
        (ApiKey::ApiVersions, 0, 4),
        (ApiKey::CreateTopics, 0, 7),
        (ApiKey::DeleteTopics, 0, 6),
        (ApiKey::InitProducerId, 0, 5),
    ];
    for version in 0..=4 {
        let request = if version >= 3 {
            ApiVersionsRequest::default()
                .with_client_software_name(text("ringlog-tests"))
                .with_client_software_version(text("1"))
        } else {
            ApiVersionsRequest::default()
        };
        let response = client.call(version, &request);
        assert_eq!(response.error_code, 0, "v{version}");
        for (key, min, max) in needed {
            let range = response
                .api_keys
                .iter()
                .find(|range| range.api_key == key as i16);
            let range = range.unwrap_or_else(|| panic!("v{version}: {key:?} is missing"));
            assert_eq!(
                (range.min_version, range.max_version),
                (min, max),
                "v{version}: {key:?}"
            );
        }
    }
}

#[test]
fn an_unknown_version_of_api_versions_is_answered_in_version_0_kip_511() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    for version in [5, 99, i16::MAX] {
        let correlation_id = client.correlation_id();
        let mut frame =
            wire::header(ApiKey::ApiVersions as i16, version, correlation_id, 2).to_vec();
        frame.extend_from_slice(&[2, b'x', 2, b'1', 0]);
        client.write(&wire::sized(&frame)).unwrap();
        let answer = client.receive_frame().unwrap();
        let answer = wire::decode::<ApiVersionsRequest>(0, correlation_id, answer);
        assert_eq!(
            answer.error_code,
            error::UNSUPPORTED_VERSION,
            "v{version}: {answer:?}"
        );
        let own = answer
            .api_keys
            .iter()
            .find(|range| range.api_key == ApiKey::ApiVersions as i16);
        assert!(
            own.is_some_and(|range| range.max_version >= 3),
            "v{version}: {answer:?}"
        );
        // The connection lives on: this is how clients find the version to use.
        assert_eq!(client.call(0, &ApiVersionsRequest::default()).error_code, 0);
    }
}
