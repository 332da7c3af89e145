//! Consumer groups over the wire: join, sync, heartbeat, commit, fetch, leave; rebalance; restart.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    DescribeGroupsRequest, FindCoordinatorRequest, GroupId, HeartbeatRequest, JoinGroupRequest,
    JoinGroupResponse, LeaveGroupRequest, ListGroupsRequest, OffsetCommitRequest,
    OffsetFetchRequest, SyncGroupRequest, SyncGroupResponse,
};
use ringlog_tests::broker::{Broker, Options, unique, wait_for};
use ringlog_tests::call::{create_topic, text, topic_name};
use ringlog_tests::wire::Client;

use crate::error;

const PATIENCE: Duration = Duration::from_secs(60);

/// The versions of the group APIs that one generation of clients uses together.
#[derive(Clone, Copy, Debug)]
struct Versions {
    find: i16,
    join: i16,
    sync: i16,
    heartbeat: i16,
    leave: i16,
    commit: i16,
    fetch: i16,
}

const LOWEST: Versions = Versions {
    find: 0,
    join: 0,
    sync: 0,
    heartbeat: 0,
    leave: 0,
    commit: 1,
    fetch: 1,
};
const OLD: Versions = Versions {
    find: 1,
    join: 2,
    sync: 1,
    heartbeat: 1,
    leave: 1,
    commit: 3,
    fetch: 3,
};
const MIDDLE: Versions = Versions {
    find: 2,
    join: 5,
    sync: 3,
    heartbeat: 3,
    leave: 3,
    commit: 7,
    fetch: 5,
};
const NEWER: Versions = Versions {
    find: 3,
    join: 7,
    sync: 5,
    heartbeat: 4,
    leave: 4,
    commit: 8,
    fetch: 7,
};
const HIGHEST: Versions = Versions {
    find: 6,
    join: 9,
    sync: 5,
    heartbeat: 4,
    leave: 5,
    commit: 9,
    fetch: 9,
};
const ALL: [Versions; 5] = [LOWEST, OLD, MIDDLE, NEWER, HIGHEST];

/// Waits until the group has a coordinator (a fresh Apache Kafka first creates its offsets topic).
fn await_coordinator(client: &mut Client, versions: Versions, group: &str) {
    let version = versions.find;
    wait_for(&format!("coordinator of {group}"), PATIENCE, || {
        let request = if version >= 4 {
            FindCoordinatorRequest::default().with_coordinator_keys(vec![text(group)])
        } else {
            FindCoordinatorRequest::default().with_key(text(group))
        };
        let response = client.call(version, &request);
        let (error_code, port) = match response.coordinators.first() {
            Some(coordinator) => (coordinator.error_code, coordinator.port),
            None => (response.error_code, response.port),
        };
        if error_code == error::COORDINATOR_NOT_AVAILABLE {
            return None;
        }
        assert_eq!(
            (error_code, port),
            (0, i32::from(client.address().port())),
            "v{version}: {response:?}"
        );
        let loading = OffsetFetchRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_topics(Some(Vec::new()));
        let answer = client.call(5, &loading);
        let not_yet = [
            error::COORDINATOR_LOAD_IN_PROGRESS,
            error::COORDINATOR_NOT_AVAILABLE,
            error::NOT_COORDINATOR,
        ];
        (!not_yet.contains(&answer.error_code)).then_some(())
    });
}

/// A consumer's subscription to the topic "t" with user data (`ConsumerProtocolSubscription.json` v0).
fn subscription(user_data: &str) -> Bytes {
    let mut bytes = vec![0, 0, 0, 0, 0, 1, 0, 1, b't'];
    bytes.extend(i32::try_from(user_data.len()).expect("short").to_be_bytes());
    bytes.extend(user_data.as_bytes());
    bytes.into()
}

fn join_request(version: i16, group: &str, member: &str) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(subscription(member));
    let mut request = JoinGroupRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_session_timeout_ms(30_000)
        .with_member_id(text(member))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    if version >= 1 {
        request.rebalance_timeout_ms = 30_000;
    }
    request
}

/// Joins as a new member; from version 4 that takes two requests (KIP-394).
fn join(client: &mut Client, version: i16, group: &str) -> JoinGroupResponse {
    let response = client.call(version, &join_request(version, group, ""));
    if version < 4 {
        return response;
    }
    assert_eq!(
        response.error_code,
        error::MEMBER_ID_REQUIRED,
        "v{version}: {response:?}"
    );
    assert!(
        !response.member_id.is_empty(),
        "v{version}: the id to join with is told: {response:?}"
    );
    client.call(version, &join_request(version, group, &response.member_id))
}

fn sync_request(
    version: i16,
    group: &str,
    generation: i32,
    member: &str,
    all: &[&str],
) -> SyncGroupRequest {
    let assignments = all.iter().map(|member| {
        SyncGroupRequestAssignment::default()
            .with_member_id(text(member))
            .with_assignment(Bytes::from(format!("assignment of {member}")))
    });
    let mut request = SyncGroupRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id(generation)
        .with_member_id(text(member))
        .with_assignments(assignments.collect());
    if version >= 5 {
        request.protocol_type = Some(text("consumer"));
        request.protocol_name = Some(text("range"));
    }
    request
}

fn assignment_of(member: &str) -> Bytes {
    Bytes::from(format!("assignment of {member}"))
}

fn heartbeat(client: &mut Client, version: i16, group: &str, generation: i32, member: &str) -> i16 {
    let request = HeartbeatRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id(generation)
        .with_member_id(text(member));
    client.call(version, &request).error_code
}

fn leave(client: &mut Client, version: i16, group: &str, member: &str) -> i16 {
    let mut request = LeaveGroupRequest::default().with_group_id(GroupId(text(group)));
    if version >= 3 {
        request.members = vec![MemberIdentity::default().with_member_id(text(member))];
    } else {
        request.member_id = text(member);
    }
    let response = client.call(version, &request);
    match response.members.first() {
        Some(member) if response.error_code == 0 => member.error_code,
        _ => response.error_code,
    }
}

/// Commits the offset of partition 0; generation -1 and no member for a consumer without group management.
fn commit(
    client: &mut Client,
    version: i16,
    group: &str,
    topic: &str,
    offset: i64,
    member: (i32, &str),
) -> i16 {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(0)
        .with_committed_offset(offset)
        .with_committed_metadata(Some(text("note")));
    let topic = OffsetCommitRequestTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(vec![partition]);
    let mut request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_topics(vec![topic]);
    if version >= 1 {
        request.generation_id_or_member_epoch = member.0;
        request.member_id = text(member.1);
    }
    let response = client.call(version, &request);
    response.topics[0].partitions[0].error_code
}

/// The committed (offset, metadata, error code) of partition 0; -1 if there is none.
fn committed(client: &mut Client, version: i16, group: &str, topic: &str) -> (i64, String, i16) {
    let mut request = OffsetFetchRequest::default();
    if version >= 8 {
        let topics = OffsetFetchRequestTopics::default()
            .with_name(topic_name(topic))
            .with_partition_indexes(vec![0]);
        let asked = OffsetFetchRequestGroup::default()
            .with_group_id(GroupId(text(group)))
            .with_topics(Some(vec![topics]));
        request.groups = vec![asked];
    } else {
        let topics = OffsetFetchRequestTopic::default()
            .with_name(topic_name(topic))
            .with_partition_indexes(vec![0]);
        request = request
            .with_group_id(GroupId(text(group)))
            .with_topics(Some(vec![topics]));
    }
    let response = client.call(version, &request);
    let told = |metadata: &Option<_>| {
        metadata
            .as_ref()
            .map_or_else(String::new, ToString::to_string)
    };
    if version >= 8 {
        assert_eq!(response.groups[0].error_code, 0, "v{version}: {response:?}");
        let partition = &response.groups[0].topics[0].partitions[0];
        (
            partition.committed_offset,
            told(&partition.metadata),
            partition.error_code,
        )
    } else {
        let partition = &response.topics[0].partitions[0];
        (
            partition.committed_offset,
            told(&partition.metadata),
            partition.error_code,
        )
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one conversation, told in its order")]
fn one_member_joins_syncs_commits_and_leaves_in_all_generations_of_the_protocol() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let topic = unique("grouped");
    create_topic(&mut client, &topic, 1, &[]);
    for versions in ALL {
        let group = unique("alone");
        await_coordinator(&mut client, versions, &group);
        let joined = join(&mut client, versions.join, &group);
        assert_eq!(
            (joined.error_code, joined.generation_id),
            (0, 1),
            "{versions:?}: {joined:?}"
        );
        let member = joined.member_id.to_string();
        assert_eq!(joined.leader.as_str(), member, "{versions:?}: {joined:?}");
        assert_eq!(
            joined.protocol_name,
            Some(text("range")),
            "{versions:?}: {joined:?}"
        );
        assert_eq!(
            joined.members.len(),
            1,
            "{versions:?}: the leader sees all: {joined:?}"
        );
        let metadata = subscription(if versions.join < 4 { "" } else { &member });
        assert_eq!(joined.members[0].metadata, metadata, "{versions:?}");

        let request = sync_request(versions.sync, &group, 1, &member, &[&member]);
        let synced = client.call(versions.sync, &request);
        assert_eq!(
            (synced.error_code, synced.assignment),
            (0, assignment_of(&member)),
            "{versions:?}"
        );
        assert_eq!(
            heartbeat(&mut client, versions.heartbeat, &group, 1, &member),
            0,
            "{versions:?}"
        );

        assert_eq!(
            committed(&mut client, versions.fetch, &group, &topic),
            (-1, String::new(), 0),
            "{versions:?}"
        );
        assert_eq!(
            commit(
                &mut client,
                versions.commit,
                &group,
                &topic,
                42,
                (1, &member)
            ),
            0,
            "{versions:?}"
        );
        assert_eq!(
            committed(&mut client, versions.fetch, &group, &topic),
            (42, "note".into(), 0),
            "{versions:?}"
        );

        assert_eq!(
            leave(&mut client, versions.leave, &group, &member),
            0,
            "{versions:?}"
        );
        let after = heartbeat(&mut client, versions.heartbeat, &group, 1, &member);
        assert_eq!(
            after,
            error::UNKNOWN_MEMBER_ID,
            "{versions:?}: after leaving"
        );
        let again = leave(&mut client, versions.leave, &group, &member);
        assert_eq!(
            again,
            error::UNKNOWN_MEMBER_ID,
            "{versions:?}: after leaving"
        );
        assert_eq!(
            committed(&mut client, versions.fetch, &group, &topic).0,
            42,
            "{versions:?}: after leaving"
        );
    }
}

#[test]
fn every_version_of_offset_commit_and_offset_fetch_agrees() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let topic = unique("commits");
    create_topic(&mut client, &topic, 1, &[]);
    let group = unique("every-version");
    await_coordinator(&mut client, HIGHEST, &group);
    // Version 0 kept offsets in ZooKeeper; Ringlog keeps all in __consumer_offsets. It is asked of an
    // Apache Kafka only in ZooKeeper mode (RINGLOG_TEST_ZOOKEEPER=1) and may differ there.
    let first = if broker.is_own() { 0 } else { 1 };
    for commit_version in first..=9_i16 {
        let offset = 100 + i64::from(commit_version);
        let error_code = commit(
            &mut client,
            commit_version,
            &group,
            &topic,
            offset,
            (-1, ""),
        );
        assert_eq!(error_code, 0, "OffsetCommit v{commit_version}");
        for fetch_version in first..=9 {
            let found = committed(&mut client, fetch_version, &group, &topic);
            assert_eq!(
                found,
                (offset, "note".into(), 0),
                "commit v{commit_version}, fetch v{fetch_version}"
            );
        }
    }
    // All topics of a group: null from version 2.
    for version in 2..=7 {
        let request = OffsetFetchRequest::default()
            .with_group_id(GroupId(text(&group)))
            .with_topics(None);
        let response = client.call(version, &request);
        assert_eq!(
            (response.error_code, response.topics.len()),
            (0, 1),
            "v{version}: {response:?}"
        );
        assert_eq!(
            response.topics[0].partitions[0].committed_offset, 109,
            "v{version}"
        );
    }
}

#[test]
fn commits_to_partitions_that_do_not_exist_are_refused_and_metadata_is_limited() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let group = unique("bad-commits");
    await_coordinator(&mut client, HIGHEST, &group);
    for version in [1, 5, 9] {
        let error_code = commit(&mut client, version, &group, &unique("absent"), 1, (-1, ""));
        assert_eq!(error_code, error::UNKNOWN_TOPIC_OR_PARTITION, "v{version}");
    }
}

#[test]
fn strangers_and_old_generations_are_refused() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let topic = unique("grouped");
    create_topic(&mut client, &topic, 1, &[]);
    for versions in ALL {
        let group = unique("strict");
        await_coordinator(&mut client, versions, &group);
        let request = join_request(versions.join, &group, "nobody");
        assert_eq!(
            client.call(versions.join, &request).error_code,
            error::UNKNOWN_MEMBER_ID,
            "{versions:?}"
        );
        let request = join_request(versions.join, "", "");
        assert_eq!(
            client.call(versions.join, &request).error_code,
            error::INVALID_GROUP_ID,
            "{versions:?}"
        );
        for timeout in [-1, 0, 5999, i32::MAX] {
            let request = join_request(versions.join, &group, "").with_session_timeout_ms(timeout);
            let error_code = client.call(versions.join, &request).error_code;
            assert_eq!(
                error_code,
                error::INVALID_SESSION_TIMEOUT,
                "{versions:?} {timeout} ms"
            );
        }
        let joined = join(&mut client, versions.join, &group);
        let member = joined.member_id.to_string();
        let sync = sync_request(versions.sync, &group, 1, &member, &[&member]);
        assert_eq!(
            client.call(versions.sync, &sync).error_code,
            0,
            "{versions:?}"
        );

        assert_eq!(
            heartbeat(&mut client, versions.heartbeat, &group, 1, "nobody"),
            error::UNKNOWN_MEMBER_ID
        );
        assert_eq!(
            heartbeat(&mut client, versions.heartbeat, &group, 7, &member),
            error::ILLEGAL_GENERATION
        );
        let sync = sync_request(versions.sync, &group, 7, &member, &[]);
        assert_eq!(
            client.call(versions.sync, &sync).error_code,
            error::ILLEGAL_GENERATION,
            "{versions:?}"
        );
        let refused = commit(
            &mut client,
            versions.commit,
            &group,
            &topic,
            1,
            (7, &member),
        );
        assert_eq!(refused, error::ILLEGAL_GENERATION, "{versions:?}");
        let refused = commit(
            &mut client,
            versions.commit,
            &group,
            &topic,
            1,
            (1, "nobody"),
        );
        assert_eq!(refused, error::UNKNOWN_MEMBER_ID, "{versions:?}");
        let refused = commit(&mut client, versions.commit, &group, &topic, 1, (-1, ""));
        assert_eq!(
            refused,
            error::UNKNOWN_MEMBER_ID,
            "{versions:?}: the group is not empty"
        );
        let mut other = join_request(versions.join, &group, "");
        other.protocols[0].name = text("another");
        let refused = client.call(versions.join, &other).error_code;
        assert_eq!(refused, error::INCONSISTENT_GROUP_PROTOCOL, "{versions:?}");
        assert_eq!(leave(&mut client, versions.leave, &group, &member), 0);
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one conversation, told in its order")]
fn a_second_member_makes_the_group_rebalance_and_a_leaving_one_again() {
    let broker = Broker::start();
    for versions in ALL {
        let mut first = Client::connect(broker.address());
        let mut second = Client::connect(broker.address());
        let group = unique("pair");
        await_coordinator(&mut first, versions, &group);
        let joined = join(&mut first, versions.join, &group);
        let one = joined.member_id.to_string();
        let sync = sync_request(versions.sync, &group, 1, &one, &[&one]);
        assert_eq!(
            first.call(versions.sync, &sync).error_code,
            0,
            "{versions:?}"
        );

        // The second join waits until the first member has joined again.
        let mut request = join_request(versions.join, &group, "");
        if versions.join >= 4 {
            let told = second.call(versions.join, &request);
            assert_eq!(told.error_code, error::MEMBER_ID_REQUIRED, "{versions:?}");
            request = join_request(versions.join, &group, &told.member_id);
        }
        let waiting = second.send(versions.join, &request).unwrap();
        wait_for("the rebalance", PATIENCE, || {
            let told = heartbeat(&mut first, versions.heartbeat, &group, 1, &one);
            (told == error::REBALANCE_IN_PROGRESS).then_some(())
        });
        let again = first.call(versions.join, &join_request(versions.join, &group, &one));
        assert_eq!(
            (again.error_code, again.generation_id),
            (0, 2),
            "{versions:?}: {again:?}"
        );
        let other = second.receive::<JoinGroupRequest>(versions.join, waiting);
        assert_eq!(
            (other.error_code, other.generation_id),
            (0, 2),
            "{versions:?}: {other:?}"
        );
        let two = other.member_id.to_string();
        assert_eq!(
            (again.leader.as_str(), other.leader.as_str()),
            (one.as_str(), one.as_str()),
            "{versions:?}"
        );
        assert_eq!(
            (again.members.len(), other.members.len()),
            (2, 0),
            "{versions:?}: only the leader sees all"
        );

        // The follower's sync waits for the leader's assignments.
        let follower = sync_request(versions.sync, &group, 2, &two, &[]);
        let waiting = second.send(versions.sync, &follower).unwrap();
        let leader = sync_request(versions.sync, &group, 2, &one, &[&one, &two]);
        assert_eq!(
            first.call(versions.sync, &leader).assignment,
            assignment_of(&one),
            "{versions:?}"
        );
        let synced: SyncGroupResponse = second.receive::<SyncGroupRequest>(versions.sync, waiting);
        assert_eq!(
            (synced.error_code, synced.assignment),
            (0, assignment_of(&two)),
            "{versions:?}"
        );
        assert_eq!(
            heartbeat(&mut first, versions.heartbeat, &group, 2, &one),
            0,
            "{versions:?}"
        );
        assert_eq!(
            heartbeat(&mut second, versions.heartbeat, &group, 2, &two),
            0,
            "{versions:?}"
        );

        assert_eq!(
            leave(&mut first, versions.leave, &group, &one),
            0,
            "{versions:?}"
        );
        wait_for("the second rebalance", PATIENCE, || {
            let told = heartbeat(&mut second, versions.heartbeat, &group, 2, &two);
            (told == error::REBALANCE_IN_PROGRESS).then_some(())
        });
        let alone = second.call(versions.join, &join_request(versions.join, &group, &two));
        assert_eq!(
            (alone.error_code, alone.generation_id),
            (0, 3),
            "{versions:?}: {alone:?}"
        );
        assert_eq!(
            (alone.leader.as_str(), alone.members.len()),
            (two.as_str(), 1),
            "{versions:?}"
        );
        assert_eq!(
            leave(&mut second, versions.leave, &group, &two),
            0,
            "{versions:?}"
        );
    }
}

/// Apache Kafka 3.9.1's classic coordinator parses the subscription when a generation is complete; an
/// exception there is lost and the join is never answered. For Ringlog the metadata are only bytes.
#[test]
fn metadata_that_is_no_subscription_does_not_stop_a_group() {
    let Some(broker) = Broker::own(Options::default()) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    for metadata in [
        &b""[..],
        b"\x7f\xff\xff\xff",
        b"metadata of a member",
        &[0xff; 64],
    ] {
        let group = unique("garbage");
        await_coordinator(&mut client, LOWEST, &group);
        let mut request = join_request(0, &group, "");
        request.protocols[0].metadata = Bytes::copy_from_slice(metadata);
        let joined = client.call(0, &request);
        assert_eq!(
            (joined.error_code, joined.generation_id),
            (0, 1),
            "{metadata:?}: {joined:?}"
        );
        assert_eq!(joined.members[0].metadata, metadata);
        assert_eq!(leave(&mut client, 0, &group, &joined.member_id), 0);
    }
}

#[test]
fn a_member_that_stops_heartbeating_is_removed_after_its_session_timeout() {
    let broker = Broker::start();
    let mut first = Client::connect(broker.address());
    let group = unique("silent");
    await_coordinator(&mut first, MIDDLE, &group);
    let told = first.call(5, &join_request(5, &group, ""));
    let silent = told.member_id.to_string();
    let request = join_request(5, &group, &silent).with_session_timeout_ms(6000);
    let joined = first.call(5, &request);
    assert_eq!(joined.error_code, 0, "{joined:?}");
    let sync = sync_request(3, &group, 1, &silent, &[&silent]);
    assert_eq!(first.call(3, &sync).error_code, 0);
    // The next join is held until the silent member's session ends, then it leads alone.
    let mut second = Client::connect(broker.address());
    let joined = join(&mut second, 5, &group);
    assert_eq!(
        (joined.error_code, joined.generation_id),
        (0, 2),
        "{joined:?}"
    );
    assert_eq!(joined.members.len(), 1, "{joined:?}");
    assert_eq!(
        heartbeat(&mut first, 3, &group, 2, &silent),
        error::UNKNOWN_MEMBER_ID
    );
}

#[test]
fn groups_are_listed_and_described_in_every_version() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let group = unique("described");
    await_coordinator(&mut client, HIGHEST, &group);
    let joined = join(&mut client, 9, &group);
    let member = joined.member_id.to_string();
    let sync = sync_request(5, &group, 1, &member, &[&member]);
    assert_eq!(client.call(5, &sync).error_code, 0);
    let absent = unique("absent");
    for version in 0..=5 {
        let listed = client.call(version, &ListGroupsRequest::default());
        let found = listed
            .groups
            .iter()
            .find(|listed| listed.group_id == GroupId(text(&group)));
        let found = found.unwrap_or_else(|| panic!("v{version}: {listed:?}"));
        assert_eq!(found.protocol_type.as_str(), "consumer", "v{version}");
        if version >= 4 {
            assert_eq!(found.group_state.as_str(), "Stable", "v{version}");
        }
        let request = DescribeGroupsRequest::default()
            .with_groups(vec![GroupId(text(&group)), GroupId(text(&absent))]);
        let described = client.call(version, &request);
        let stable = &described.groups[0];
        assert_eq!(
            (stable.error_code, stable.group_state.as_str()),
            (0, "Stable"),
            "v{version}: {described:?}"
        );
        assert_eq!(stable.protocol_data.as_str(), "range", "v{version}");
        assert_eq!(stable.members.len(), 1, "v{version}");
        assert_eq!(stable.members[0].member_id.as_str(), member, "v{version}");
        assert_eq!(
            stable.members[0].client_id.as_str(),
            "ringlog-tests",
            "v{version}"
        );
        assert_eq!(
            stable.members[0].member_assignment,
            assignment_of(&member),
            "v{version}"
        );
        let dead = &described.groups[1];
        assert_eq!(
            (dead.error_code, dead.group_state.as_str()),
            (0, "Dead"),
            "v{version}: {described:?}"
        );
    }
    let filtered = ListGroupsRequest::default().with_states_filter(vec![text("Empty")]);
    let listed = client.call(4, &filtered);
    assert!(
        !listed
            .groups
            .iter()
            .any(|listed| listed.group_id == GroupId(text(&group))),
        "{listed:?}"
    );
}

#[test]
fn commits_survive_a_clean_restart_and_a_crash() {
    let Some(mut broker) = Broker::own(Options::default()) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    let topic = unique("commits");
    create_topic(&mut client, &topic, 1, &[]);
    let groups: Vec<_> = (0..20)
        .map(|number| (unique("restart"), number * 7))
        .collect();
    for (group, offset) in &groups {
        await_coordinator(&mut client, MIDDLE, group);
        let joined = join(&mut client, 5, group);
        let member = joined.member_id.to_string();
        let sync = sync_request(3, group, 1, &member, &[&member]);
        assert_eq!(client.call(3, &sync).error_code, 0);
        for offset in [offset / 2, *offset] {
            assert_eq!(
                commit(&mut client, 7, group, &topic, offset, (1, &member)),
                0
            );
        }
    }
    for crash in [true, false, true] {
        broker.end(crash);
        broker.restart();
        let mut client = Client::connect(broker.address());
        for (group, offset) in &groups {
            await_coordinator(&mut client, MIDDLE, group);
            let found = committed(&mut client, 5, group, &topic);
            assert_eq!(
                found,
                (*offset, "note".into(), 0),
                "{group} after crash={crash}"
            );
        }
    }
}
