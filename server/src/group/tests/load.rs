//! Loading and unloading of partitions.

use ringlog_engine::record::builder::TransactionMarker;

use super::*;
use crate::group::offsets::OffsetAndMetadata;

/// A new coordinator from the log of this one.
fn restart(harness: &Harness, config: GroupConfig) -> (Harness, LoadReport) {
    let mut again = Harness::with_config(config);
    again.now_ms = harness.now_ms;
    let partition = partition_for_group("g", PARTITIONS);
    let (actions, report) =
        again
            .coordinator
            .load(again.now_ms, partition, harness.log.iter().cloned());
    again.log = harness.log.clone();
    again.absorb(actions);
    (again, report)
}

#[test]
fn a_restart_brings_back_members_and_offsets() {
    let mut harness = Harness::new();
    let mut clients = vec![Client::new(9), Client::with_instance(9, "inst")];
    harness.stable_group(&mut clients);
    harness.commit(&clients[0], 0, 10);
    harness.commit(&clients[0], 1, 11);
    harness.commit(&clients[0], 0, 12);
    let (mut again, report) = restart(&harness, GroupConfig::default());
    assert_eq!(
        (report.groups, report.offsets, report.records_bad),
        (1, 2, 0)
    );
    assert_eq!(again.describe(), harness.describe());
    assert_eq!(again.fetch_all(false), harness.fetch_all(false));
    for client in &clients {
        assert_eq!(again.heartbeat(client), None);
    }
    let sync = again.begin_sync(&clients[1], &[]);
    assert_eq!(again.synced(sync).as_deref(), Ok("b"));
    // Sessions begin with the load.
    again.sleep(i64::from(SESSION_MS));
    assert_eq!(
        again.heartbeat(&clients[0]),
        Some(ResponseError::UnknownMemberId)
    );
    // And the generation goes on.
    let mut new = Client::new(9);
    let ticket = again.start(&mut new);
    assert!(again.joined(&mut new, ticket).generation_id > clients[0].generation);
}

#[test]
fn an_empty_group_and_a_simple_consumer_come_back() {
    let mut harness = Harness::new();
    let mut clients = vec![Client::new(9)];
    harness.stable_group(&mut clients);
    harness.commit(&clients[0], 0, 10);
    harness.leave(&clients[0]);
    let (mut again, report) = restart(&harness, GroupConfig::default());
    assert_eq!((report.groups, report.offsets), (1, 1));
    assert_eq!(again.describe(), harness.describe());
    assert_eq!(again.offsets(), [(0, 10)]);

    let mut harness = Harness::new();
    harness.commit(&Client::new(2), 0, 5);
    let (mut again, _) = restart(&harness, GroupConfig::default());
    assert_eq!(again.state(), "Empty");
    assert_eq!(again.offsets(), [(0, 5)]);
}

#[test]
fn a_group_over_the_limit_is_rebalanced_after_the_load() {
    let mut harness = Harness::new();
    let mut clients = vec![Client::new(9), Client::new(9)];
    harness.stable_group(&mut clients);
    let config = GroupConfig {
        group_max_size: 1,
        ..GroupConfig::default()
    };
    let (mut again, _) = restart(&harness, config);
    assert_eq!(
        again.heartbeat(&clients[0]),
        Some(ResponseError::RebalanceInProgress)
    );
    let first = again.begin_join(&clients[0]);
    let second = again.begin_join(&clients[1]);
    let code = ResponseError::GroupMaxSizeReached.code();
    assert_eq!(again.join_reply(second).error_code, code);
    assert_eq!(again.joined(&mut clients[0], first).members.len(), 1);
}

#[test]
fn while_loading_each_api_answers_as_kafka_does() {
    let mut harness = Harness::new();
    let partition = partition_for_group("g", PARTITIONS);
    harness.coordinator.begin_load(harness.now_ms, partition);
    let client = Client {
        member_id: "m".into(),
        generation: 1,
        ..Client::new(9)
    };
    let loading = Some(ResponseError::CoordinatorLoadInProgress);
    let ticket = harness.begin_join(&client);
    assert_eq!(error(harness.join_reply(ticket).error_code), loading);
    let ticket = harness.begin_sync(&client, &[]);
    assert_eq!(
        harness.synced(ticket),
        Err(ResponseError::RebalanceInProgress)
    );
    assert_eq!(harness.heartbeat(&client), None);
    assert_eq!(harness.leave(&client), loading);
    assert_eq!(harness.commit(&client, 0, 1), loading);
    assert_eq!(error(harness.fetch_all(false).error_code), loading);
    assert_eq!(error(harness.describe().error_code), loading);
}

#[test]
fn unloading_answers_who_waits() {
    let mut harness = Harness::new();
    let mut clients = vec![Client::new(9), Client::new(9)];
    harness.stable_group(&mut clients);
    let join = harness.begin_join(&clients[0]);
    let partition = partition_for_group("g", PARTITIONS);
    let actions = harness.coordinator.unload(harness.now_ms, partition);
    harness.absorb(actions);
    let not_coordinator = ResponseError::NotCoordinator;
    assert_eq!(harness.join_reply(join).error_code, not_coordinator.code());
    assert_eq!(harness.heartbeat(&clients[1]), Some(not_coordinator));
    assert_eq!(harness.coordinator.context.population, 0);
    assert_eq!(harness.coordinator.context.timers.len(), 1);
}

#[test]
fn bad_and_unknown_records_are_counted_and_skipped() {
    let mut loaded = LoadedGroups::default();
    let key = record_format::encode_group_key("g").unwrap();
    let offset = record_format::encode_offset_key("g", "t", 0).unwrap();
    loaded.record(&[0, 3, 0, 1], Some(&[0]));
    loaded.record(&[0], Some(&[0]));
    loaded.record(&key, Some(&[0, 9]));
    loaded.record(&offset, Some(&[0, 3, 1]));
    let mut harness = Harness::new();
    let partition = partition_for_group("g", PARTITIONS);
    harness.coordinator.begin_load(0, partition);
    let (actions, report) = harness.coordinator.finish_load(0, partition, loaded);
    assert!(actions.is_empty());
    assert_eq!((report.records_unknown, report.records_bad), (1, 3));
    assert_eq!(
        report.first_error,
        Some(record_format::FormatError::Truncated)
    );
    assert_eq!(report.groups, 0);
}

#[test]
fn a_load_that_ends_after_an_unload_has_no_effect() {
    let mut harness = Harness::new();
    let partition = partition_for_group("g", PARTITIONS);
    harness.commit(&Client::new(2), 0, 5);
    let mut loaded = LoadedGroups::default();
    for (key, value) in &harness.log {
        loaded.record(key, value.as_deref());
    }
    harness.coordinator.begin_load(harness.now_ms, partition);
    harness.coordinator.unload(harness.now_ms, partition);
    harness
        .coordinator
        .finish_load(harness.now_ms, partition, loaded);
    assert_eq!(
        error(harness.describe().error_code),
        Some(ResponseError::NotCoordinator)
    );
    assert!(harness.coordinator.groups.is_empty());
}

/// Kafka commits offsets within transactions (`sendOffsetsToTransaction`); what was aborted or never
/// ended is in the log, too.
#[test]
fn offsets_of_transactions_count_once_they_are_committed() {
    let offset = |offset| {
        record_format::encode_offset_value(&OffsetAndMetadata {
            offset,
            leader_epoch: -1,
            metadata: StrBytes::default(),
            commit_timestamp_ms: 0,
            expire_timestamp_ms: None,
        })
        .unwrap()
    };
    let key = |partition| record_format::encode_offset_key("g", "t", partition).unwrap();
    let (commit, abort) = (TransactionMarker::Commit, TransactionMarker::Abort);
    let mut loaded = LoadedGroups::default();
    loaded.record(&key(0), Some(&offset(1)));
    loaded.record(&key(3), Some(&offset(3)));
    // Two producers, mixed: one aborts.
    loaded.transactional_record(7, &key(0), Some(&offset(10)));
    loaded.transactional_record(8, &key(1), Some(&offset(20)));
    loaded.transactional_record(7, &key(2), Some(&offset(30)));
    loaded.end_transaction(8, abort);
    // What comes behind a record that is still pending is newer.
    loaded.record(&key(2), Some(&offset(31)));
    loaded.end_transaction(7, commit);
    loaded.end_transaction(7, commit);
    loaded.transactional_record(7, &key(3), None);
    loaded.transactional_record(7, &key(0), Some(&offset(11)));
    loaded.end_transaction(7, abort);
    loaded.transactional_record(9, &key(3), Some(&offset(40)));
    let mut harness = Harness::new();
    let partition = partition_for_group("g", PARTITIONS);
    harness.coordinator.begin_load(0, partition);
    let (_, report) = harness.coordinator.finish_load(0, partition, loaded);
    assert_eq!((report.groups, report.offsets), (1, 3));
    assert_eq!(harness.offsets(), [(0, 10), (2, 31), (3, 3)]);
}
