//! Array counts and lengths of 2^31-1 in every place of every request: nothing is allocated for them.

use bytes::BytesMut;
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, CreateTopicsRequest, DeleteGroupsRequest, DeleteTopicsRequest,
    DescribeGroupsRequest, FetchRequest, FindCoordinatorRequest, HeartbeatRequest,
    InitProducerIdRequest, JoinGroupRequest, LeaveGroupRequest, ListGroupsRequest,
    ListOffsetsRequest, MetadataRequest, OffsetCommitRequest, OffsetFetchRequest, SyncGroupRequest,
};
use kafka_protocol::messages::{
    create_topics_request as create, fetch_request as fetch, join_group_request as join,
    list_offsets_request as list, metadata_request as metadata, offset_commit_request as commit,
    offset_fetch_request as committed, sync_group_request as sync,
};
use kafka_protocol::protocol::Request;
use ringlog_tests::broker::unique;
use ringlog_tests::call::{produce_request, text, topic_name};
use ringlog_tests::wire;

use crate::scene::{CLOSE_PATIENCE, Scene};

/// One request of every API with something in each array, for `mutated`.
#[expect(clippy::too_many_lines, reason = "one request per API, nothing else")]
fn bodies(topic: &str) -> Vec<(i16, i16, BytesMut, i16)> {
    fn push<R: Request>(all: &mut Vec<(i16, i16, BytesMut, i16)>, make: impl Fn(i16) -> R) {
        for version in R::VERSIONS.min..=R::VERSIONS.max {
            let mut bytes = BytesMut::new();
            // A field that the version lacks is the maker's mistake, and `make` gets the version.
            make(version)
                .encode(&mut bytes, version)
                .unwrap_or_else(|error| panic!("API {} v{version}: {error}", R::KEY));
            all.push((R::KEY, version, bytes, R::header_version(version)));
        }
    }
    let group = || text(&unique("mutated")).into();
    let mut all = Vec::new();
    push(&mut all, |_| produce_request(topic, 0, 0, vec![0; 40]));
    push::<FetchRequest>(&mut all, |version| {
        let mut request =
            ringlog_tests::call::Fetch::of(topic, uuid::Uuid::from_u128(1), 0).request(version);
        if version >= 7 {
            let mut forgotten = fetch::ForgottenTopic::default().with_partitions(vec![1]);
            if version < 13 {
                forgotten = forgotten.with_topic(topic_name(topic));
            }
            request.forgotten_topics_data = vec![forgotten];
        }
        request
    });
    push::<ListOffsetsRequest>(&mut all, |_| {
        let partition = list::ListOffsetsPartition::default();
        let topic = list::ListOffsetsTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(vec![partition]);
        ListOffsetsRequest::default()
            .with_replica_id((-1).into())
            .with_topics(vec![topic])
    });
    push::<MetadataRequest>(&mut all, |_| {
        let topic = metadata::MetadataRequestTopic::default().with_name(Some(topic_name(topic)));
        MetadataRequest::default().with_topics(Some(vec![topic]))
    });
    push::<OffsetCommitRequest>(&mut all, |_| {
        let topic = commit::OffsetCommitRequestTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(vec![commit::OffsetCommitRequestPartition::default()]);
        OffsetCommitRequest::default()
            .with_group_id(group())
            .with_topics(vec![topic])
    });
    push::<OffsetFetchRequest>(&mut all, |version| {
        if version >= 8 {
            let topics = committed::OffsetFetchRequestTopics::default()
                .with_name(topic_name(topic))
                .with_partition_indexes(vec![0]);
            let asked = committed::OffsetFetchRequestGroup::default()
                .with_group_id(group())
                .with_topics(Some(vec![topics]));
            return OffsetFetchRequest::default().with_groups(vec![asked]);
        }
        let topics = committed::OffsetFetchRequestTopic::default()
            .with_name(topic_name(topic))
            .with_partition_indexes(vec![0]);
        OffsetFetchRequest::default()
            .with_group_id(group())
            .with_topics(Some(vec![topics]))
    });
    push::<FindCoordinatorRequest>(&mut all, |version| {
        if version >= 4 {
            return FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g")]);
        }
        FindCoordinatorRequest::default().with_key(text("g"))
    });
    push::<JoinGroupRequest>(&mut all, |_| {
        let protocol = join::JoinGroupRequestProtocol::default().with_name(text("range"));
        JoinGroupRequest::default()
            .with_group_id(group())
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol])
    });
    push::<HeartbeatRequest>(&mut all, |_| {
        HeartbeatRequest::default().with_group_id(group())
    });
    push::<LeaveGroupRequest>(&mut all, |version| {
        let request = LeaveGroupRequest::default().with_group_id(group());
        if version < 3 {
            request
        } else {
            request.with_members(vec![Default::default()])
        }
    });
    push::<SyncGroupRequest>(&mut all, |_| {
        let assignment = sync::SyncGroupRequestAssignment::default().with_member_id(text("m"));
        SyncGroupRequest::default()
            .with_group_id(group())
            .with_assignments(vec![assignment])
    });
    push::<DescribeGroupsRequest>(&mut all, |_| {
        DescribeGroupsRequest::default().with_groups(vec![group()])
    });
    push::<ListGroupsRequest>(&mut all, |version| {
        let mut request = ListGroupsRequest::default();
        if version >= 4 {
            request.states_filter = vec![text("Stable")];
        }
        request
    });
    push::<ApiVersionsRequest>(&mut all, |version| {
        if version < 3 {
            return ApiVersionsRequest::default();
        }
        ApiVersionsRequest::default()
            .with_client_software_name(text("a"))
            .with_client_software_version(text("1"))
    });
    push::<CreateTopicsRequest>(&mut all, |_| {
        let config = create::CreatableTopicConfig::default().with_name(text("no.such.config"));
        let assignment =
            create::CreatableReplicaAssignment::default().with_broker_ids(vec![99.into()]);
        let topic = create::CreatableTopic::default()
            .with_name(topic_name("a/b"))
            .with_assignments(vec![assignment])
            .with_configs(vec![config]);
        CreateTopicsRequest::default().with_topics(vec![topic])
    });
    push::<DeleteTopicsRequest>(&mut all, |version| {
        let name = topic_name(&unique("absent"));
        if version >= 6 {
            return DeleteTopicsRequest::default().with_topics(vec![Default::default()]);
        }
        DeleteTopicsRequest::default().with_topic_names(vec![name])
    });
    push::<InitProducerIdRequest>(&mut all, |_| {
        InitProducerIdRequest::default().with_transactional_id(None)
    });
    push::<DeleteGroupsRequest>(&mut all, |_| {
        DeleteGroupsRequest::default().with_groups_names(vec![group()])
    });
    all
}

#[test]
fn counts_and_lengths_of_2_31_anywhere_in_any_request_allocate_nothing() {
    let mut scene = Scene::new("counts");
    let topic = scene.topic.clone();
    let mut frames = 0;
    for (key, version, body, header_version) in bodies(&topic) {
        let mut stranger = scene.stranger();
        for position in 0..body.len() {
            // Non-flexible versions count in four bytes, flexible ones in a varint (KIP-482).
            let absurd: &[u8] = if header_version < 2 {
                if position + 4 > body.len() {
                    continue;
                }
                &[0x7f, 0xff, 0xff, 0xff]
            } else {
                &[0xff, 0xff, 0xff, 0xff, 0x07]
            };
            let skipped = if header_version < 2 { 4 } else { 1 };
            let mut frame = wire::header(key, version, 1, header_version).to_vec();
            frame.extend_from_slice(&body[..position]);
            frame.extend_from_slice(absurd);
            frame.extend_from_slice(&body[position + skipped..]);
            frames += 1;
            // Not waiting for answers: a mutated timeout may be 24 days long. The next connection is
            // taken when this one was closed.
            if stranger.write(&wire::sized(&frame)).is_err() || position % 4 == 0 {
                stranger = scene.stranger();
            }
        }
        scene.check(&format!("API {key} v{version}"));
    }
    assert!(frames > 5000, "{frames} frames");
}

#[test]
fn the_largest_array_count_first_in_every_body_closes_the_connection_or_is_an_error() {
    let mut scene = Scene::new("first-count");
    for (key, version, first) in [
        (ApiKey::Metadata, 0, 0),
        (ApiKey::Metadata, 8, 0),
        (ApiKey::CreateTopics, 0, 0),
        (ApiKey::CreateTopics, 4, 0),
        (ApiKey::DeleteTopics, 0, 0),
        (ApiKey::DescribeGroups, 0, 0),
        (ApiKey::Produce, 0, 6),
        (ApiKey::ListOffsets, 0, 4),
        (ApiKey::Fetch, 0, 12),
    ] {
        let mut stranger = scene.stranger();
        let mut frame = wire::header(key as i16, version, 1, 1).to_vec();
        frame.extend(std::iter::repeat_n(0, first));
        frame.extend_from_slice(&i32::MAX.to_be_bytes());
        stranger.write(&wire::sized(&frame)).unwrap();
        assert!(
            stranger.is_closed_within(CLOSE_PATIENCE),
            "{key:?} v{version}"
        );
        scene.check(&format!("{key:?} v{version}"));
    }
}
