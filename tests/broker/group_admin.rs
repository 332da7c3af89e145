//! What administrators do to consumer groups over the wire: delete committed offsets, delete groups.

use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::{DeleteGroupsRequest, GroupId, OffsetDeleteRequest};
use ringlog_tests::broker::{Broker, Options, unique};
use ringlog_tests::call::{create_topic, text, topic_name};
use ringlog_tests::wire::Client;

use crate::error;
use crate::groups::{HIGHEST, await_coordinator, commit, committed, join, leave};

const NOBODY: (i32, &str) = (-1, "");
const NOT_COMMITTED: i64 = -1;

/// The error of the group, and of partition 0 of each topic.
fn delete_offsets(client: &mut Client, group: &str, topics: &[&str]) -> (i16, Vec<i16>) {
    let topics = topics.iter().map(|topic| {
        let partition = OffsetDeleteRequestPartition::default().with_partition_index(0);
        OffsetDeleteRequestTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(vec![partition])
    });
    let request = OffsetDeleteRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_topics(topics.collect());
    let response = client.call(0, &request);
    let errors = response.topics.iter();
    let errors = errors.map(|topic| topic.partitions[0].error_code);
    (response.error_code, errors.collect())
}

fn delete_group(client: &mut Client, version: i16, group: &str) -> i16 {
    let request = DeleteGroupsRequest::default().with_groups_names(vec![GroupId(text(group))]);
    let response = client.call(version, &request);
    assert_eq!(response.results[0].group_id.as_str(), group, "v{version}");
    response.results[0].error_code
}

fn offset(client: &mut Client, group: &str, topic: &str) -> i64 {
    committed(client, 9, group, topic).0
}

#[test]
fn deleted_offsets_are_gone_and_the_others_stay_also_after_a_crash() {
    let Some(mut broker) = Broker::own(Options::default()) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    let (kept, deleted) = (unique("kept"), unique("deleted"));
    let group = unique("forgetful");
    create_topic(&mut client, &kept, 1, &[]);
    create_topic(&mut client, &deleted, 1, &[]);
    await_coordinator(&mut client, HIGHEST, &group);
    for topic in [&kept, &deleted] {
        assert_eq!(commit(&mut client, 9, &group, topic, 7, NOBODY), 0);
    }
    assert_eq!(
        delete_offsets(&mut client, &group, &[&deleted]),
        (0, vec![0])
    );
    for crash in [true, false] {
        assert_eq!(offset(&mut client, &group, &deleted), NOT_COMMITTED);
        assert_eq!(offset(&mut client, &group, &kept), 7);
        broker.end(crash);
        broker.restart();
        client = Client::connect(broker.address());
        await_coordinator(&mut client, HIGHEST, &group);
    }
}

#[test]
fn offsets_of_a_group_that_does_not_exist_cannot_be_deleted() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let (group, topic) = (unique("nobody"), unique("topic"));
    await_coordinator(&mut client, HIGHEST, &group);
    let (error, _) = delete_offsets(&mut client, &group, &[&topic]);
    assert_eq!(error, error::GROUP_ID_NOT_FOUND);
}

#[test]
fn an_empty_group_is_deleted_in_every_version_and_one_with_members_is_not() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let topic = unique("grouped");
    create_topic(&mut client, &topic, 1, &[]);
    for version in 0..=2 {
        let group = unique("short-lived");
        await_coordinator(&mut client, HIGHEST, &group);
        assert_eq!(
            delete_group(&mut client, version, &group),
            error::GROUP_ID_NOT_FOUND,
            "v{version}"
        );
        assert_eq!(commit(&mut client, 9, &group, &topic, 3, NOBODY), 0);
        let joined = join(&mut client, HIGHEST.join, &group);
        assert_eq!(joined.error_code, 0, "{joined:?}");
        assert_eq!(
            delete_group(&mut client, version, &group),
            error::NON_EMPTY_GROUP,
            "v{version}"
        );
        assert_eq!(leave(&mut client, 5, &group, &joined.member_id), 0);
        assert_eq!(delete_group(&mut client, version, &group), 0, "v{version}");
        assert_eq!(offset(&mut client, &group, &topic), NOT_COMMITTED);
        assert_eq!(
            delete_group(&mut client, version, &group),
            error::GROUP_ID_NOT_FOUND,
            "v{version}"
        );
    }
}
