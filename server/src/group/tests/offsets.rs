//! Commits, fetches, deletion and expiry of offsets.

use super::*;
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

fn simple_consumer() -> Client {
    Client {
        version: 2,
        ..Client::new(2)
    }
}

#[test]
fn a_commit_is_visible_only_when_it_is_in_the_log() {
    let mut harness = Harness::new();
    let client = simple_consumer();
    assert_eq!(harness.commit(&client, 0, 1), None);
    harness.holds_appends = true;
    let ticket = harness.begin_commit(&client, 0, 2);
    assert!(harness.waits(ticket));
    assert_eq!(harness.offsets(), [(0, 1)]);
    let unstable = harness
        .fetch_all(true)
        .topics
        .remove(0)
        .partitions
        .remove(0);
    assert_eq!(
        unstable.error_code,
        ResponseError::UnstableOffsetCommit.code()
    );
    assert_eq!(unstable.committed_offset, -1);
    harness.end_append(0, Ok(()));
    assert_eq!(harness.committed(ticket), None);
    assert_eq!(harness.offsets(), [(0, 2)]);
    assert_eq!(
        harness.fetch_all(true).topics[0].partitions[0].error_code,
        0
    );
}

#[test]
fn a_failed_commit_changes_nothing() {
    let mut harness = Harness::new();
    let client = simple_consumer();
    harness.holds_appends = true;
    for (log_error, told) in [
        (
            ResponseError::NotLeaderOrFollower,
            ResponseError::NotCoordinator,
        ),
        (
            ResponseError::NotEnoughReplicas,
            ResponseError::CoordinatorNotAvailable,
        ),
        (
            ResponseError::MessageTooLarge,
            ResponseError::InvalidCommitOffsetSize,
        ),
        (
            ResponseError::RequestTimedOut,
            ResponseError::RequestTimedOut,
        ),
    ] {
        let ticket = harness.begin_commit(&client, 0, 2);
        harness.end_append(0, Err(log_error));
        assert_eq!(harness.committed(ticket), Some(told));
        assert_eq!(
            harness.state(),
            "Dead",
            "the group came with the commit and goes with it"
        );
    }
}

#[test]
fn appends_that_end_out_of_order_leave_the_last_commit() {
    let mut harness = Harness::new();
    let client = simple_consumer();
    harness.holds_appends = true;
    harness.begin_commit(&client, 0, 1);
    harness.begin_commit(&client, 0, 2);
    harness.end_append(1, Ok(()));
    assert_eq!(harness.offsets(), [(0, 2)]);
    harness.end_append(0, Ok(()));
    assert_eq!(harness.offsets(), [(0, 2)]);
}

#[test]
fn every_version_commits_and_fetches() {
    for version in 0..=9 {
        let mut harness = Harness::new();
        let client = Client {
            version,
            ..Client::new(version)
        };
        assert_eq!(harness.commit(&client, 3, 33), None);
        let request = if version >= 8 {
            let topic = offset_fetch_request::OffsetFetchRequestTopics::default()
                .with_name(text("orders").into())
                .with_partition_indexes(vec![3, 4]);
            let group = offset_fetch_request::OffsetFetchRequestGroup::default()
                .with_group_id(text("g").into())
                .with_topics(Some(vec![topic]));
            OffsetFetchRequest::default().with_groups(vec![group.clone(), group])
        } else {
            let topic = OffsetFetchRequestTopic::default()
                .with_name(text("orders").into())
                .with_partition_indexes(vec![3, 4]);
            OffsetFetchRequest::default()
                .with_group_id(text("g").into())
                .with_topics(Some(vec![topic]))
        };
        let ticket = harness.send(version, GroupRequest::OffsetFetch(request));
        let GroupResponse::OffsetFetch(response) = harness.reply(ticket) else {
            panic!()
        };
        let offsets: Vec<i64> = if version >= 8 {
            assert_eq!(response.groups.len(), 2);
            let partitions = &response.groups[1].topics[0].partitions;
            partitions
                .iter()
                .map(|partition| partition.committed_offset)
                .collect()
        } else {
            let partitions = &response.topics[0].partitions;
            partitions
                .iter()
                .map(|partition| partition.committed_offset)
                .collect()
        };
        assert_eq!(offsets, [33, -1], "version {version}");
    }
}

#[test]
fn a_group_that_is_elsewhere_answers_in_the_shape_of_the_version() {
    let mut harness = Harness::new();
    let partition = partition_for_group("g", PARTITIONS);
    harness.coordinator.unload(harness.now_ms, partition);
    for version in [1, 2] {
        let topic = OffsetFetchRequestTopic::default()
            .with_name(text("orders").into())
            .with_partition_indexes(vec![3]);
        let request = OffsetFetchRequest::default()
            .with_group_id(text("g").into())
            .with_topics(Some(vec![topic]));
        let ticket = harness.send(version, GroupRequest::OffsetFetch(request));
        let GroupResponse::OffsetFetch(response) = harness.reply(ticket) else {
            panic!()
        };
        let code = ResponseError::NotCoordinator.code();
        if version == 1 {
            assert_eq!(response.topics[0].partitions[0].error_code, code);
        } else {
            assert_eq!(response.error_code, code);
        }
    }
}

#[test]
fn only_members_commit_into_a_live_group() {
    let mut harness = Harness::new();
    assert_eq!(harness.commit(&simple_consumer(), 0, 1), None);
    let stale = Client {
        generation: 3,
        member_id: "old".into(),
        ..Client::new(9)
    };
    assert_eq!(
        harness.commit(&stale, 0, 9),
        Some(ResponseError::UnknownMemberId)
    );
    let mut clients = vec![Client::new(9)];
    harness.stable_group(&mut clients);
    assert_eq!(
        harness.commit(&simple_consumer(), 0, 9),
        Some(ResponseError::UnknownMemberId)
    );
    assert_eq!(harness.commit(&clients[0], 0, 2), None);
    assert_eq!(harness.offsets(), [(0, 2)]);
}

#[test]
fn a_commit_with_a_generation_needs_a_group() {
    let mut harness = Harness::new();
    let stale = Client {
        generation: 3,
        member_id: "old".into(),
        ..Client::new(9)
    };
    assert_eq!(
        harness.commit(&stale, 0, 9),
        Some(ResponseError::IllegalGeneration)
    );
}

#[test]
fn metadata_that_is_too_large_is_refused_partition_by_partition() {
    let config = GroupConfig {
        offset_metadata_max_bytes: 4,
        ..GroupConfig::default()
    };
    let mut harness = Harness::with_config(config);
    let partition = |index: i32, metadata: Option<&str>| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(index)
            .with_committed_metadata(metadata.map(text))
    };
    // Four characters of eight bytes count as four, as in Java.
    let partitions = vec![
        partition(0, Some("12345")),
        partition(1, Some("\u{e4}\u{f6}\u{fc}\u{df}")),
        partition(2, None),
    ];
    let topic = OffsetCommitRequestTopic::default()
        .with_name(text("t").into())
        .with_partitions(partitions);
    let request = OffsetCommitRequest::default()
        .with_group_id(text("g").into())
        .with_topics(vec![topic]);
    let ticket = harness.send(2, GroupRequest::OffsetCommit(request));
    let GroupResponse::OffsetCommit(response) = harness.reply(ticket) else {
        panic!()
    };
    let partitions = response.topics[0].partitions.iter();
    let codes: Vec<i16> = partitions.map(|partition| partition.error_code).collect();
    assert_eq!(codes, [ResponseError::OffsetMetadataTooLarge.code(), 0, 0]);
    assert_eq!(harness.offsets().len(), 2);
}

#[test]
fn timestamps_and_retention_of_old_versions_are_kept() {
    let mut harness = Harness::new();
    let partition = OffsetCommitRequestPartition::default().with_commit_timestamp(77);
    let topic = OffsetCommitRequestTopic::default()
        .with_name(text("t").into())
        .with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(text("g").into())
        .with_topics(vec![topic]);
    harness.send(1, GroupRequest::OffsetCommit(request.clone()));
    let value = record_format::decode_offset_value(harness.log[0].1.as_ref().unwrap()).unwrap();
    assert_eq!(value.commit_timestamp_ms, 77);
    let mut request = request.with_retention_time_ms(500);
    request.topics[0].partitions[0].commit_timestamp = -1;
    harness.send(2, GroupRequest::OffsetCommit(request));
    let value = record_format::decode_offset_value(harness.log[1].1.as_ref().unwrap()).unwrap();
    assert_eq!(value.commit_timestamp_ms, harness.now_ms);
    assert_eq!(value.expire_timestamp_ms, Some(harness.now_ms + 500));
    // It goes at the next look after its own time, not after the broker's retention.
    harness.sleep(600_000);
    assert_eq!(harness.state(), "Dead");
    assert_eq!(harness.log.last().unwrap().1, None);
}

#[test]
fn offsets_of_an_empty_group_expire_from_when_it_became_empty() {
    let mut harness = Harness::new();
    let mut clients = vec![Client::new(9)];
    harness.stable_group(&mut clients);
    assert_eq!(harness.commit(&clients[0], 0, 1), None);
    for _ in 0..(8 * DAY_MS / 9_000) {
        harness.sleep(9_000);
        assert_eq!(harness.heartbeat(&clients[0]), None);
    }
    assert_eq!(harness.offsets(), [(0, 1)], "it is subscribed to the topic");
    assert_eq!(harness.leave(&clients[0]), None);
    harness.sleep(7 * DAY_MS - 1);
    assert_eq!(harness.offsets(), [(0, 1)]);
    harness.sleep(600_000);
    assert!(harness.offsets().is_empty());
    assert_eq!(harness.state(), "Dead");
    let keys: Vec<_> = harness.log.iter().rev().take(2).collect();
    assert!(
        keys.iter().all(|(_, value)| value.is_none()),
        "tombstones of offset and group"
    );
}

#[test]
fn offsets_of_a_simple_consumer_expire_from_their_commit() {
    let mut harness = Harness::new();
    let client = simple_consumer();
    assert_eq!(harness.commit(&client, 0, 1), None);
    harness.sleep(4 * DAY_MS);
    assert_eq!(harness.commit(&client, 1, 1), None);
    harness.sleep(3 * DAY_MS + 600_000);
    assert_eq!(harness.offsets(), [(1, 1)]);
    harness.sleep(4 * DAY_MS + 600_000);
    assert_eq!(harness.state(), "Dead");
}

#[test]
fn a_topic_that_nobody_is_subscribed_to_any_more_expires_in_a_live_group() {
    let mut harness = Harness::new();
    let mut clients = vec![Client {
        topics: vec!["other".into()],
        ..Client::new(9)
    }];
    harness.stable_group(&mut clients);
    assert_eq!(harness.commit(&clients[0], 0, 1), None);
    for _ in 0..(7 * DAY_MS / 9_000 + 100) {
        harness.sleep(9_000);
        assert_eq!(harness.heartbeat(&clients[0]), None);
    }
    assert!(harness.offsets().is_empty());
    assert_eq!(harness.state(), "Stable");
}

fn delete(harness: &mut Harness, topic: &str, partition: i32) -> OffsetDeleteResponse {
    let partition = OffsetDeleteRequestPartition::default().with_partition_index(partition);
    let topic = OffsetDeleteRequestTopic::default()
        .with_name(text(topic).into())
        .with_partitions(vec![partition]);
    let request = OffsetDeleteRequest::default()
        .with_group_id(text("g").into())
        .with_topics(vec![topic]);
    let ticket = harness.send(0, GroupRequest::OffsetDelete(request));
    match harness.reply(ticket) {
        GroupResponse::OffsetDelete(response) => response,
        other => panic!("{other:?}"),
    }
}

#[test]
fn deleting_the_last_offset_of_an_empty_group_removes_the_group() {
    let mut harness = Harness::new();
    let mut clients = vec![Client::new(9)];
    harness.stable_group(&mut clients);
    assert_eq!(harness.commit(&clients[0], 0, 1), None);
    assert_eq!(harness.commit(&clients[0], 1, 1), None);
    let subscribed = delete(&mut harness, "orders", 0);
    let code = ResponseError::GroupSubscribedToTopic.code();
    assert_eq!(subscribed.topics[0].partitions[0].error_code, code);
    harness.leave(&clients[0]);
    let deleted = delete(&mut harness, "orders", 0);
    assert_eq!(
        (
            deleted.error_code,
            deleted.topics[0].partitions[0].error_code
        ),
        (0, 0)
    );
    assert_eq!(harness.state(), "Empty");
    delete(&mut harness, "orders", 1);
    assert_eq!(harness.state(), "Dead");
    let code = ResponseError::GroupIdNotFound.code();
    assert_eq!(delete(&mut harness, "orders", 1).error_code, code);
    assert!(
        LoadedFrom::log(&harness).is_empty(),
        "nothing comes back with the next load"
    );
}

#[test]
fn an_offset_that_is_deleted_while_its_commit_is_under_way_stays_deleted() {
    let mut harness = Harness::new();
    harness.holds_appends = true;
    let ticket = harness.begin_commit(&simple_consumer(), 0, 1);
    let partition = OffsetDeleteRequestPartition::default();
    let topic = OffsetDeleteRequestTopic::default()
        .with_name(text("orders").into())
        .with_partitions(vec![partition]);
    let request = OffsetDeleteRequest::default()
        .with_group_id(text("g").into())
        .with_topics(vec![topic]);
    let deletion = harness.send(0, GroupRequest::OffsetDelete(request));
    harness.end_append(0, Ok(()));
    harness.end_append(0, Ok(()));
    assert_eq!(harness.committed(ticket), None);
    assert!(!harness.waits(deletion));
    assert!(harness.offsets().is_empty());
    assert!(LoadedFrom::log(&harness).is_empty());
}

/// The keys that are alive after compaction of the log.
struct LoadedFrom;

impl LoadedFrom {
    fn log(harness: &Harness) -> BTreeSet<Bytes> {
        let mut alive = BTreeSet::new();
        for (key, value) in &harness.log {
            match value {
                Some(_) => alive.insert(key.clone()),
                None => alive.remove(key),
            };
        }
        alive
    }
}

#[test]
fn offsets_of_deleted_partitions_go() {
    let mut harness = Harness::new();
    let client = simple_consumer();
    harness.commit(&client, 0, 1);
    harness.commit(&client, 1, 1);
    let gone = [(text("orders"), 1), (text("orders"), 2)];
    let actions = harness
        .coordinator
        .partitions_deleted(harness.now_ms, &gone);
    harness.absorb(actions);
    assert_eq!(harness.offsets(), [(0, 1)]);
    assert_eq!(LoadedFrom::log(&harness).len(), 1);
}
