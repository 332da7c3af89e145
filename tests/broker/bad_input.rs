//! What no client sends: absurd frames, unknown APIs, broken record batches, bombs, other protocols.
//!
//! Each is sent while a healthy client goes on; the bad one gets Kafka's error or is closed, nothing is
//! appended, and the broker's memory grows by less than 64 MiB.

use std::time::Duration;

use bytes::BytesMut;
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, CreateTopicsRequest, DeleteGroupsRequest, DeleteTopicsRequest,
    DescribeGroupsRequest, FetchRequest, FindCoordinatorRequest, HeartbeatRequest,
    InitProducerIdRequest, JoinGroupRequest, LeaveGroupRequest, ListGroupsRequest, ListOffsetsRequest,
    MetadataRequest, OffsetCommitRequest, OffsetFetchRequest, ProduceRequest, SyncGroupRequest,
};
use kafka_protocol::messages::{
    create_topics_request as create, fetch_request as fetch, join_group_request as join,
    list_offsets_request as list, metadata_request as metadata, offset_commit_request as commit,
    offset_fetch_request as committed, sync_group_request as sync,
};
use kafka_protocol::protocol::Request;
use ringlog_tests::broker::{Broker, Options, unique};
use ringlog_tests::call::{
    create_topic, log_end_offset, produce, produce_request, produce_values, text, topic_name,
};
use ringlog_tests::random::Random;
use ringlog_tests::records::{Batch, Codec, crc32, message, message_set, patch, position, put_varlong, seal};
use ringlog_tests::wire::{self, Client};

use crate::error;

const CLOSE_PATIENCE: Duration = Duration::from_secs(10);
const GROWTH_MAX: u64 = 64 << 20;

/// A broker, a client that must not notice anything, and the memory before.
struct Scene {
    broker: Broker,
    healthy: Client,
    topic: String,
    produced: i64,
    resident_before: Option<u64>,
}

impl Scene {
    fn new(topic: &str) -> Self {
        Self::of(Broker::start(), topic)
    }

    fn of(broker: Broker, topic: &str) -> Self {
        let mut healthy = Client::connect(broker.address());
        let topic = unique(topic);
        create_topic(&mut healthy, &topic, 1, &[]);
        produce_values(&mut healthy, &topic, &["warm-up"]);
        // A foreign broker is a JVM: its resident memory says nothing.
        let resident_before = if broker.is_own() { broker.resident_bytes() } else { None };
        Self { broker, healthy, topic, produced: 1, resident_before }
    }

    fn stranger(&self) -> Client {
        Client::connect(self.broker.address())
    }

    /// The healthy client produces: its offset shows that nothing else was appended.
    fn check(&mut self, after: &str) {
        let base = produce_values(&mut self.healthy, &self.topic, &[after]);
        assert_eq!(base, self.produced, "{after}: something was appended");
        self.produced += 1;
        let (Some(before), Some(now)) = (self.resident_before, self.broker.resident_bytes()) else { return };
        assert!(now < before + GROWTH_MAX, "{after}: resident bytes grew from {before} to {now}");
    }
}

#[test]
fn absurd_lengths_close_the_connection() {
    let mut scene = Scene::new("lengths");
    for length in [-1, i32::MIN, i32::MAX, 0, 1, 7, 104_857_601] {
        let mut stranger = scene.stranger();
        stranger.write(&length.to_be_bytes()).unwrap();
        stranger.write(&[0; 32]).ok(); // the connection may be closed already
        if length > 0 && length <= 104_857_600 {
            stranger.end_of_requests();
        }
        assert!(stranger.is_closed_within(CLOSE_PATIENCE), "length {length}");
        scene.check(&format!("length {length}"));
    }
}

#[test]
fn large_announced_frames_take_no_memory_before_their_bytes_come() {
    // Apache Kafka allocates what is announced and runs out of heap: only asked of Ringlog.
    let Some(broker) = Broker::own(Options::default()) else { return };
    let mut scene = Scene::of(broker, "announced");
    let mut waiting = Vec::new();
    for number in 0..100 {
        let mut stranger = scene.stranger();
        stranger.write(&104_857_600_i32.to_be_bytes()).unwrap();
        stranger.write(&wire::header(0, 9, number, 2)).unwrap();
        waiting.push(stranger);
    }
    scene.check("100 announced frames of 100 MiB");
    drop(waiting);
    scene.check("the end of 100 announced frames");
}

#[test]
fn requests_cut_at_every_byte_are_errors_or_closed_never_more() {
    let mut scene = Scene::new("cut");
    let request = produce_request(&scene.topic, 0, -1, Batch::of(&["cut"]).encode());
    for version in [0, 3, 9] {
        let whole = wire::frame(1, version, &request);
        for end in 4..whole.len() {
            let mut stranger = scene.stranger();
            // The size is right for what is sent: the body ends before its fields do.
            stranger.write(&wire::sized(&whole[4..end])).unwrap();
            stranger.end_of_requests();
            assert!(stranger.is_closed_within(CLOSE_PATIENCE), "v{version} cut at {end}");
        }
        for end in [1, 3, 4, 10, whole.len() - 1] {
            let mut stranger = scene.stranger();
            stranger.write(&whole[..end]).unwrap();
            stranger.end_of_requests();
            assert!(stranger.is_closed_within(CLOSE_PATIENCE), "v{version} ended at {end}");
        }
        scene.check("cut requests");
    }
}

#[test]
fn unknown_api_keys_and_versions_close_the_connection() {
    let mut scene = Scene::new("unknown");
    let unknown = [
        (-1, 0), (9999, 0), (i16::MAX, i16::MAX), (i16::MIN, 0),
        (0, 99), (0, -1), (1, 99), (3, 99), (3, -1), (11, 99), (19, i16::MIN),
    ];
    for (key, version) in unknown {
        let mut stranger = scene.stranger();
        let mut frame = wire::header(key, version, 1, 1).to_vec();
        frame.extend_from_slice(&[0; 16]);
        stranger.write(&wire::sized(&frame)).unwrap();
        assert!(stranger.is_closed_within(CLOSE_PATIENCE), "key {key} version {version}");
        scene.check(&format!("key {key} version {version}"));
    }
}

#[test]
fn http_and_tls_on_the_port_are_turned_away() {
    let mut scene = Scene::new("protocols");
    // The first bytes of a TLS 1.2 ClientHello record.
    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0x20, 0x41, 0x42, 0x43, 0x44];
    let requests: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: localhost:9092\r\n\r\n",
        b"POST /topics HTTP/1.0\r\nContent-Length: 0\r\n\r\n",
        &hello,
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ];
    for request in requests {
        let mut stranger = scene.stranger();
        stranger.write(request).unwrap();
        let said = stranger.read_to_end_within(CLOSE_PATIENCE);
        let said = String::from_utf8_lossy(&said).into_owned();
        // Better than Kafka, which closes without a word: HTTP may get a 400 with a hint.
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 400"), "{request:?}: {said:?}");
        scene.check("another protocol");
    }
}

#[test]
fn random_bytes_never_disturb_the_others() {
    let mut scene = Scene::new("random");
    let mut random = Random::seeded("random_bytes_never_disturb_the_others");
    for _ in 0..300 {
        let length = usize::try_from(random.below(200)).expect("small");
        let bytes = random.bytes(length);
        let mut stranger = scene.stranger();
        let key = i16::try_from(random.below(70)).expect("small");
        let version = i16::try_from(random.below(13)).expect("small");
        let header_version = if random.below(2) == 0 { 1 } else { 2 };
        // No acks, no wait: random fields of these could hold the connection for long.
        let mut frame = wire::header(key, version, 7, header_version).to_vec();
        frame.extend_from_slice(&bytes);
        stranger.write(&wire::sized(&frame)).unwrap();
    }
    scene.check("random bytes");
}

/// Produces a broken batch; the code must be one of `expected`, the log's end must stay.
fn refused(scene: &mut Scene, what: &str, version: i16, records: Vec<u8>, expected: &[i16]) {
    let mut stranger = scene.stranger();
    let end = log_end_offset(&mut stranger, &scene.topic, 0);
    let topic = scene.topic.clone();
    let answer = produce(&mut stranger, version, &topic, 0, records);
    // Apache Kafka answers UNKNOWN_SERVER_ERROR to some; Ringlog must have a proper code.
    let known = expected.contains(&answer.error_code);
    let kafka = !scene.broker.is_own() && answer.error_code == error::UNKNOWN_SERVER_ERROR;
    assert!(known || kafka, "{what}: {answer:?}, expected one of {expected:?}");
    assert_eq!(answer.base_offset, -1, "{what}: {answer:?}");
    assert_eq!(log_end_offset(&mut stranger, &topic, 0), end, "{what}: the log end moved");
    scene.check(what);
}

#[test]
fn broken_record_batches_are_refused_each_with_a_proper_error() {
    let mut scene = Scene::new("batches");
    const BAD: [i16; 2] = [error::CORRUPT_MESSAGE, error::INVALID_RECORD];
    let good = Batch::of(&["a", "b", "c"]).encode();
    let gzip = Batch::of(&["a", "b", "c"]).compressed(Codec::Gzip).encode();
    let with = |position, bytes: &[u8]| patch(good.clone(), position, bytes);
    let sealed = |position, bytes: &[u8]| seal(patch(good.clone(), position, bytes));
    let cases = vec![
        ("wrong CRC", with(position::CRC, &[1, 2, 3, 4])),
        ("a changed byte", with(good.len() - 2, b"X")),
        ("magic 3", with(position::MAGIC, &[3])),
        ("magic -1", with(position::MAGIC, &[0xff])),
        ("magic 127", with(position::MAGIC, &[127])),
        ("record count 2 of 3", sealed(position::COUNT, &2_i32.to_be_bytes())),
        ("record count 4 of 3", sealed(position::COUNT, &4_i32.to_be_bytes())),
        ("record count 0", sealed(position::COUNT, &0_i32.to_be_bytes())),
        ("record count -1", sealed(position::COUNT, &(-1_i32).to_be_bytes())),
        ("record count 2^31-1", sealed(position::COUNT, &i32::MAX.to_be_bytes())),
        ("last offset delta too large", sealed(position::LAST_OFFSET_DELTA, &7_i32.to_be_bytes())),
        ("last offset delta negative", sealed(position::LAST_OFFSET_DELTA, &(-1_i32).to_be_bytes())),
        ("count and delta 2^31-1", {
            let batch = patch(good.clone(), position::COUNT, &i32::MAX.to_be_bytes());
            seal(patch(batch, position::LAST_OFFSET_DELTA, &(i32::MAX - 1).to_be_bytes()))
        }),
        ("codec 7", sealed(position::ATTRIBUTES, &7_i16.to_be_bytes())),
        ("codec 5", sealed(position::ATTRIBUTES, &5_i16.to_be_bytes())),
        ("length 2^31-1", with(position::LENGTH, &i32::MAX.to_be_bytes())),
        ("length 0", with(position::LENGTH, &0_i32.to_be_bytes())),
        ("length -1", with(position::LENGTH, &(-1_i32).to_be_bytes())),
        ("length 10", with(position::LENGTH, &10_i32.to_be_bytes())),
        ("cut in the header", good[..40].to_vec()),
        ("cut before the length", good[..6].to_vec()),
        ("cut in the records", good[..good.len() - 3].to_vec()),
        ("header only", good[..position::RECORDS].to_vec()),
        ("two batches", [good.clone(), good.clone()].concat()),
        ("a batch and a piece", [good.clone(), good[..30].to_vec()].concat()),
        ("no batch", Vec::new()),
        ("zeros", vec![0; 200]),
        ("garbage", b"this is no record batch at all, it is only text that goes on and on for a while".to_vec()),
        ("a message set where a batch must be", message_set(1, Codec::None, 0, &["old"])),
        ("a control batch of a client", sealed(position::ATTRIBUTES, &0x20_i16.to_be_bytes())),
        ("cut gzip batch", gzip[..gzip.len() - 5].to_vec()),
    ];
    for (what, records) in cases {
        for version in [3, 9, 11] {
            let mut expected = BAD.to_vec();
            expected.extend([error::UNSUPPORTED_COMPRESSION_TYPE, error::INVALID_REQUEST]);
            // "Unsupported for message format" is Kafka's word for an old magic in a new request.
            expected.extend([43]);
            refused(&mut scene, what, version, records.clone(), &expected);
        }
    }
}

/// What cannot be seen without opening a compressed or record-level body. Kafka validates records, which
/// costs it a decode per record; Ringlog validates the batch once (ARCHITECTURE.md, invariant 4) and may
/// take these: then a consumer gets the producer's own bytes back, and no other client is disturbed.
#[test]
fn broken_records_inside_a_sealed_batch_disturb_nobody() {
    let mut scene = Scene::new("inside");
    let good = Batch::of(&["aaaa", "bbbb"]).encode();
    let plain_as_gzip = seal(patch(good.clone(), position::ATTRIBUTES, &1_i16.to_be_bytes()));
    let long_record = seal(patch(good.clone(), position::RECORDS, &[0x7e]));
    let negative_record = seal(patch(good.clone(), position::RECORDS, &[0x01]));
    let mut endless = good[..position::RECORDS].to_vec();
    put_varlong(&mut endless, i64::MAX);
    let endless = seal(endless);
    for (what, records) in [
        ("plain bytes called gzip", plain_as_gzip),
        ("a record longer than its batch", long_record),
        ("a record of negative length", negative_record),
        ("a record of 2^63 bytes", endless),
    ] {
        let mut stranger = scene.stranger();
        let topic = unique("inside-target");
        create_topic(&mut stranger, &topic, 1, &[]);
        let answer = produce(&mut stranger, 9, &topic, 0, records);
        let end = log_end_offset(&mut stranger, &topic, 0);
        let taken = answer.error_code == 0;
        assert_eq!(end, if taken { 2 } else { 0 }, "{what}: {answer:?}");
        // Old clients make the broker open the batch: an error or nothing, never the end of the broker.
        for version in [0, 3, 12] {
            let fetch = ringlog_tests::call::Fetch::of(&topic, uuid::Uuid::nil(), 0);
            let mut reader = scene.stranger();
            reader.try_call(version, &fetch.request(version)).ok(); // closing it is an answer too
        }
        scene.check(what);
    }
}

#[test]
fn broken_message_sets_are_refused_each_with_a_proper_error() {
    let mut scene = Scene::new("message-sets");
    let good = message_set(1, Codec::None, 0, &["a", "b"]);
    let expected = [error::CORRUPT_MESSAGE, error::INVALID_RECORD, error::UNSUPPORTED_COMPRESSION_TYPE, error::MESSAGE_TOO_LARGE];
    let wrapped = |codec: u8, bytes: &[u8]| message(1, codec, 0, 0, bytes);
    let nested = wrapped(1, &Codec::Gzip.compress(&message_set(1, Codec::Gzip, 0, &["deep"])));
    for (what, records) in [
        ("wrong CRC", patch(good.clone(), 12, &[1, 2, 3, 4])),
        ("size -1", patch(good.clone(), 8, &(-1_i32).to_be_bytes())),
        ("size 2^31-1", patch(good.clone(), 8, &i32::MAX.to_be_bytes())),
        ("size 3", patch(good.clone(), 8, &3_i32.to_be_bytes())),
        ("value of 2^31-1 bytes", {
            let mut bytes = message(1, 0, 0, 0, b"value");
            bytes = patch(bytes, 30, &i32::MAX.to_be_bytes());
            let crc = crc32(&bytes[16..]).to_be_bytes();
            patch(bytes, 12, &crc)
        }),
        ("garbage called gzip", wrapped(1, b"no gzip at all")),
        ("garbage called snappy", wrapped(2, b"no snappy at all")),
        ("garbage called lz4", wrapped(3, b"no lz4 at all")),
        ("zstd in a message set (KIP-110)", wrapped(4, &Codec::Zstd.compress(&good))),
        ("codec 6", wrapped(6, b"?")),
        ("a wrapper in a wrapper", nested),
        ("an empty wrapper", wrapped(1, &Codec::Gzip.compress(b""))),
        ("a wrapper with a cut message", wrapped(1, &Codec::Gzip.compress(&good[..good.len() - 3]))),
        ("a wrapper without value", patch_null_value()),
    ] {
        for version in [0, 2] {
            refused(&mut scene, what, version, records.clone(), &expected);
        }
    }
}

/// A gzip wrapper whose value is null.
fn patch_null_value() -> Vec<u8> {
    let bytes = patch(message(1, 1, 0, 0, b""), 30, &(-1_i32).to_be_bytes());
    let crc = crc32(&bytes[16..]).to_be_bytes();
    patch(bytes, 12, &crc)
}

#[test]
fn compression_bombs_in_message_sets_are_stopped_by_a_limit() {
    // Apache Kafka opens them until its heap is full: only asked of Ringlog.
    let Some(broker) = Broker::own(Options::default()) else { return };
    let mut scene = Scene::of(broker, "bombs");
    let block = message(1, 0, 0, 0, &vec![0; 1 << 20]);
    let many = block.repeat(256); // 256 MiB
    for codec in [Codec::Gzip, Codec::Lz4, Codec::SnappyXerial] {
        let bits = match codec { Codec::Gzip => 1, Codec::Lz4 => 3, _ => 2 };
        let plain = if codec == Codec::Gzip { &many } else { &many[..block.len() * 64] };
        let bomb = message(1, bits, 0, 0, &codec.compress(plain));
        let expected = [error::MESSAGE_TOO_LARGE, error::CORRUPT_MESSAGE, error::INVALID_RECORD];
        eprintln!("{codec:?}: {} bytes become {}", bomb.len(), plain.len());
        refused(&mut scene, &format!("{codec:?} bomb"), 2, bomb, &expected);
    }
    // A snappy block that announces 4 GiB and an LZ4 frame of one endless zero run.
    let announces = message(1, 2, 0, 0, &[0xff, 0xff, 0xff, 0xff, 0x0f, 0, b'x']);
    let expected = [error::MESSAGE_TOO_LARGE, error::CORRUPT_MESSAGE, error::INVALID_RECORD];
    refused(&mut scene, "snappy that announces 4 GiB", 2, announces, &expected);
}

#[test]
fn compression_bombs_in_batches_are_stopped_when_an_old_client_has_them_opened() {
    let Some(broker) = Broker::own(Options::default()) else { return };
    let mut scene = Scene::of(broker, "batch-bombs");
    let topic = unique("bomb-target");
    create_topic(&mut scene.healthy, &topic, 1, &[]);
    for codec in [Codec::Gzip, Codec::Zstd] {
        let value = vec![0; 200 << 20];
        let bomb = Batch::of(&[value]).compressed(codec).encode();
        assert!(bomb.len() < 1_000_000, "{codec:?}: {} bytes", bomb.len());
        produce(&mut scene.healthy, 9, &topic, 0, bomb);
    }
    for version in [0, 1, 2, 3] {
        let fetch = ringlog_tests::call::Fetch::of(&topic, uuid::Uuid::nil(), 0);
        let mut reader = scene.stranger();
        reader.try_call(version, &fetch.request(version)).ok(); // an error code or a closed connection
        scene.check(&format!("Fetch v{version} of a bomb"));
    }
}

/// One request of every API with something in each array, for `mutated`.
fn bodies(topic: &str) -> Vec<(i16, i16, BytesMut, i16)> {
    fn push<R: Request>(all: &mut Vec<(i16, i16, BytesMut, i16)>, make: impl Fn(i16) -> R) {
        for version in R::VERSIONS.min..=R::VERSIONS.max {
            let mut bytes = BytesMut::new();
            // A field that the version lacks is the maker's mistake, and `make` gets the version.
            make(version).encode(&mut bytes, version).unwrap_or_else(|error| panic!("API {} v{version}: {error}", R::KEY));
            all.push((R::KEY, version, bytes, R::header_version(version)));
        }
    }
    let group = || text(&unique("mutated")).into();
    let mut all = Vec::new();
    push(&mut all, |_| produce_request(topic, 0, 0, vec![0; 40]));
    push::<FetchRequest>(&mut all, |version| {
        let mut request = ringlog_tests::call::Fetch::of(topic, uuid::Uuid::from_u128(1), 0).request(version);
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
        let topic = list::ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition]);
        ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic])
    });
    push::<MetadataRequest>(&mut all, |_| {
        let topic = metadata::MetadataRequestTopic::default().with_name(Some(topic_name(topic)));
        MetadataRequest::default().with_topics(Some(vec![topic]))
    });
    push::<OffsetCommitRequest>(&mut all, |_| {
        let topic = commit::OffsetCommitRequestTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(vec![commit::OffsetCommitRequestPartition::default()]);
        OffsetCommitRequest::default().with_group_id(group()).with_topics(vec![topic])
    });
    push::<OffsetFetchRequest>(&mut all, |version| {
        if version >= 8 {
            let topics = committed::OffsetFetchRequestTopics::default().with_name(topic_name(topic)).with_partition_indexes(vec![0]);
            let asked = committed::OffsetFetchRequestGroup::default().with_group_id(group()).with_topics(Some(vec![topics]));
            return OffsetFetchRequest::default().with_groups(vec![asked]);
        }
        let topics = committed::OffsetFetchRequestTopic::default().with_name(topic_name(topic)).with_partition_indexes(vec![0]);
        OffsetFetchRequest::default().with_group_id(group()).with_topics(Some(vec![topics]))
    });
    push::<FindCoordinatorRequest>(&mut all, |version| {
        if version >= 4 {
            return FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g")]);
        }
        FindCoordinatorRequest::default().with_key(text("g"))
    });
    push::<JoinGroupRequest>(&mut all, |_| {
        let protocol = join::JoinGroupRequestProtocol::default().with_name(text("range"));
        JoinGroupRequest::default().with_group_id(group()).with_protocol_type(text("consumer")).with_protocols(vec![protocol])
    });
    push::<HeartbeatRequest>(&mut all, |_| HeartbeatRequest::default().with_group_id(group()));
    push::<LeaveGroupRequest>(&mut all, |version| {
        let request = LeaveGroupRequest::default().with_group_id(group());
        if version < 3 { request } else { request.with_members(vec![Default::default()]) }
    });
    push::<SyncGroupRequest>(&mut all, |_| {
        let assignment = sync::SyncGroupRequestAssignment::default().with_member_id(text("m"));
        SyncGroupRequest::default().with_group_id(group()).with_assignments(vec![assignment])
    });
    push::<DescribeGroupsRequest>(&mut all, |_| DescribeGroupsRequest::default().with_groups(vec![group()]));
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
        ApiVersionsRequest::default().with_client_software_name(text("a")).with_client_software_version(text("1"))
    });
    push::<CreateTopicsRequest>(&mut all, |_| {
        let config = create::CreatableTopicConfig::default().with_name(text("no.such.config"));
        let assignment = create::CreatableReplicaAssignment::default().with_broker_ids(vec![99.into()]);
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
    push::<InitProducerIdRequest>(&mut all, |_| InitProducerIdRequest::default().with_transactional_id(None));
    push::<DeleteGroupsRequest>(&mut all, |_| DeleteGroupsRequest::default().with_groups_names(vec![group()]));
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
        (ApiKey::Metadata, 0, 0), (ApiKey::Metadata, 8, 0), (ApiKey::CreateTopics, 0, 0), (ApiKey::CreateTopics, 4, 0),
        (ApiKey::DeleteTopics, 0, 0), (ApiKey::DescribeGroups, 0, 0), (ApiKey::Produce, 0, 6), (ApiKey::ListOffsets, 0, 4),
        (ApiKey::Fetch, 0, 12),
    ] {
        let mut stranger = scene.stranger();
        let mut frame = wire::header(key as i16, version, 1, 1).to_vec();
        frame.extend(std::iter::repeat_n(0, first));
        frame.extend_from_slice(&i32::MAX.to_be_bytes());
        stranger.write(&wire::sized(&frame)).unwrap();
        assert!(stranger.is_closed_within(CLOSE_PATIENCE), "{key:?} v{version}");
        scene.check(&format!("{key:?} v{version}"));
    }
}

#[test]
fn a_thousand_connections_that_say_nothing_cost_little() {
    let mut scene = Scene::new("silent");
    let silent: Vec<_> = (0..1000).map(|_| scene.stranger()).collect();
    scene.check("1000 silent connections");
    drop(silent);
    scene.check("the end of 1000 silent connections");
}

#[test]
fn a_null_record_field_is_an_error_or_closed() {
    let mut scene = Scene::new("null-records");
    for version in 0..=11 {
        let mut request: ProduceRequest = produce_request(&scene.topic, 0, -1, Vec::new());
        request.topic_data[0].partition_data[0].records = None;
        let mut stranger = scene.stranger();
        if let Ok(answer) = stranger.try_call(version, &request) {
            let partition = &answer.responses[0].partition_responses[0];
            assert_ne!(partition.error_code, 0, "v{version}: {answer:?}");
        }
        scene.check("null records");
    }
}
