//! Produce and Fetch: every version, acks, order and offsets, long polls, sessions, limits, errors.

use std::time::{Duration, Instant};

use kafka_protocol::messages::fetch_request::ForgottenTopic;
use kafka_protocol::messages::{FetchRequest, ProduceRequest};
use ringlog_tests::broker::{Broker, unique, wait_for};
use ringlog_tests::call::{
    Fetch, create_topic, fetch_all, fetch_to_end, list_offset, log_end_offset, only_partition,
    produce, produce_request, produce_values, topic_name,
};
use ringlog_tests::records::{Batch, Codec, Record, message_set};
use ringlog_tests::wire::Client;
use uuid::Uuid;

use crate::error;

const PRODUCE_VERSIONS: std::ops::RangeInclusive<i16> = 0..=11;
const FETCH_VERSIONS: std::ops::RangeInclusive<i16> = 0..=17;

/// A message set or a record batch, as a client of that Produce version sends it.
fn records_of_version(version: i16, codec: Codec, values: &[&str]) -> Vec<u8> {
    match version {
        0 | 1 => message_set(0, codec, 0, values),
        2 => message_set(1, codec, 1_700_000_000_000, values),
        _ => Batch::of(values)
            .at(1_700_000_000_000)
            .compressed(codec)
            .encode(),
    }
}

fn texts(records: &[Record]) -> Vec<String> {
    records.iter().map(Record::text).collect()
}

fn setup(topic: &str) -> (Broker, Client, String, Uuid) {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let name = unique(topic);
    let id = create_topic(&mut client, &name, 1, &[]);
    (broker, client, name, id)
}

#[test]
fn every_produce_version_appends_in_order_and_every_fetch_version_reads_it() {
    let (_broker, mut client, topic, id) = setup("versions");
    let mut expected = Vec::new();
    for version in PRODUCE_VERSIONS {
        let values = [format!("v{version} first"), format!("v{version} second")];
        let values: Vec<_> = values.iter().map(String::as_str).collect();
        let base = i64::try_from(expected.len()).unwrap();
        let answer = produce(
            &mut client,
            version,
            &topic,
            0,
            records_of_version(version, Codec::None, &values),
        );
        assert_eq!(
            (answer.error_code, answer.base_offset),
            (0, base),
            "Produce v{version}: {answer:?}"
        );
        assert_eq!(
            answer.log_append_time_ms, -1,
            "CreateTime has no append time"
        );
        if version >= 5 {
            assert_eq!(answer.log_start_offset, 0, "Produce v{version}");
        }
        expected.extend(values.iter().map(|&value| value.to_owned()));
    }
    for version in FETCH_VERSIONS {
        let fetch = Fetch::of(&topic, id, 0);
        let data = fetch.call(&mut client, version);
        let end = i64::try_from(expected.len()).unwrap();
        assert_eq!(data.high_watermark, end, "Fetch v{version}: high watermark");
        if version >= 4 {
            assert_eq!(
                data.last_stable_offset, end,
                "Fetch v{version}: last stable offset"
            );
        }
        if version >= 5 {
            assert_eq!(
                data.log_start_offset, 0,
                "Fetch v{version}: log start offset"
            );
        }
        let contents = fetch.contents(&mut client, version);
        assert_eq!(texts(&contents.records), expected, "Fetch v{version}");
        let offsets: Vec<_> = contents
            .records
            .iter()
            .map(|record| record.offset)
            .collect();
        assert_eq!(offsets, (0..end).collect::<Vec<_>>(), "Fetch v{version}");
        // A client gets no newer format than its version knows (KIP-31, KIP-98).
        let magic = match version {
            0 | 1 => 0,
            2 | 3 => 1,
            _ => 2,
        };
        assert!(
            contents.magics.iter().all(|&found| found == magic),
            "Fetch v{version}: {:?}",
            contents.magics
        );
        assert!(
            contents.leader_epochs.iter().all(|&epoch| epoch >= 0),
            "the broker sets the leader epoch"
        );
        // Magic 0 carried no time: it stays absent through both conversions.
        let time = contents.records[0].timestamp;
        assert_eq!(time, -1, "Fetch v{version}: timestamp of a magic 0 message");
        let time = contents.records[5].timestamp;
        let known = if magic == 0 { -1 } else { 1_700_000_000_001 };
        assert_eq!(
            time, known,
            "Fetch v{version}: timestamp of a magic 1 message"
        );
    }
}

#[test]
fn every_codec_of_every_record_format_is_read_back_by_old_and_new_fetches() {
    let (_broker, mut client, topic, id) = setup("codecs");
    let long = "a longer value that repeats, ".repeat(20);
    let cases = [
        (0, Codec::Gzip),
        (0, Codec::Snappy),
        (0, Codec::SnappyXerial),
        (0, Codec::Lz4),
        (0, Codec::Lz4Broken),
        (2, Codec::Gzip),
        (2, Codec::Snappy),
        (2, Codec::SnappyXerial),
        (2, Codec::Lz4),
        (7, Codec::Gzip),
        (7, Codec::Snappy),
        (7, Codec::SnappyXerial),
        (7, Codec::Lz4),
    ];
    let mut expected = Vec::new();
    for (version, codec) in cases {
        let names: Vec<_> = (0..3)
            .map(|n| format!("{codec:?} v{version} {n} {long}"))
            .collect();
        let values: Vec<_> = names.iter().map(String::as_str).collect();
        let answer = produce(
            &mut client,
            version,
            &topic,
            0,
            records_of_version(version, codec, &values),
        );
        let base = i64::try_from(expected.len()).unwrap();
        assert_eq!(
            (answer.error_code, answer.base_offset),
            (0, base),
            "{codec:?} by Produce v{version}: {answer:?}"
        );
        expected.extend(names);
    }
    for version in [0, 2, 3, 4, 10, 12, 17] {
        let records = fetch_to_end(&mut client, version, Fetch::of(&topic, id, 0));
        assert_eq!(texts(&records), expected, "Fetch v{version}");
        let offsets: Vec<_> = records.iter().map(|record| record.offset).collect();
        let end = i64::try_from(expected.len()).unwrap();
        assert_eq!(offsets, (0..end).collect::<Vec<_>>(), "Fetch v{version}");
    }
    // A fetch may begin in the middle of a compressed batch; old clients skip to their offset themselves.
    for version in [0, 2, 4, 17] {
        let records = fetch_to_end(&mut client, version, Fetch::of(&topic, id, 10));
        assert_eq!(
            texts(&records),
            expected[10..],
            "Fetch v{version} from offset 10"
        );
    }
}

#[test]
fn zstd_is_for_versions_that_know_it_kip_110() {
    let (_broker, mut client, topic, id) = setup("zstd");
    let batch = Batch::of(&["zstd"]).compressed(Codec::Zstd).encode();
    for version in [3, 6] {
        let answer = produce(&mut client, version, &topic, 0, batch.clone());
        assert_eq!(
            answer.error_code,
            error::UNSUPPORTED_COMPRESSION_TYPE,
            "Produce v{version}"
        );
    }
    for (base, version) in [(0, 7), (1, 11)] {
        let answer = produce(&mut client, version, &topic, 0, batch.clone());
        assert_eq!(
            (answer.error_code, answer.base_offset),
            (0, base),
            "Produce v{version}"
        );
    }
    // Down-conversion has no zstd to convert to. From version 4 Kafka 3.9 sends the batch as it is,
    // unless the topic's own compression.type is zstd.
    for version in [0, 1, 2, 3] {
        let data = Fetch::of(&topic, id, 0).call(&mut client, version);
        assert_eq!(
            data.error_code,
            error::UNSUPPORTED_COMPRESSION_TYPE,
            "Fetch v{version}"
        );
    }
    for version in [10, 17] {
        let records = Fetch::of(&topic, id, 0)
            .contents(&mut client, version)
            .records;
        assert_eq!(texts(&records), ["zstd", "zstd"], "Fetch v{version}");
    }
}

#[test]
fn acks_none_one_and_all_append_and_other_acks_are_refused() {
    let (_broker, mut client, topic, id) = setup("acks");
    for version in PRODUCE_VERSIONS {
        let records = records_of_version(version, Codec::None, &["acks 0"]);
        client
            .send(version, &produce_request(&topic, 0, 0, records))
            .unwrap();
    }
    // No answer to acks=0: the next answer on the connection is the next request's.
    let answer = client.call(
        9,
        &produce_request(&topic, 0, 1, Batch::of(&["acks 1"]).encode()),
    );
    let partition = &answer.responses[0].partition_responses[0];
    assert_eq!(
        (partition.error_code, partition.base_offset),
        (0, 12),
        "{answer:?}"
    );
    let answer = produce(&mut client, 9, &topic, 0, Batch::of(&["acks all"]).encode());
    assert_eq!(
        (answer.error_code, answer.base_offset),
        (0, 13),
        "{answer:?}"
    );
    for acks in [-2, 2, i16::MAX] {
        let answer = client.call(
            9,
            &produce_request(&topic, 0, acks, Batch::of(&["no"]).encode()),
        );
        let partition = &answer.responses[0].partition_responses[0];
        assert_eq!(
            partition.error_code,
            error::INVALID_REQUIRED_ACKS,
            "acks={acks}: {answer:?}"
        );
        assert_eq!(partition.base_offset, -1, "acks={acks}: {answer:?}");
    }
    assert_eq!(
        Fetch::of(&topic, id, 0)
            .contents(&mut client, 17)
            .records
            .len(),
        14
    );
}

#[test]
fn a_failed_produce_with_acks_none_closes_the_connection_the_only_sign_there_is() {
    let (_broker, mut client, _topic, _id) = setup("acks-none-error");
    let request = produce_request(&unique("absent"), 0, 0, Batch::of(&["x"]).encode());
    client.send(9, &request).unwrap();
    assert!(
        client.is_closed_within(Duration::from_secs(10)),
        "KafkaApis closes it, as producers count on"
    );
}

#[test]
fn one_request_for_several_topics_and_partitions_is_answered_for_each() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let names = [unique("several-a"), unique("several-b")];
    for name in &names {
        create_topic(&mut client, name, 3, &[]);
    }
    for round in 0..3 {
        let mut topics = Vec::new();
        for name in &names {
            let mut partitions = Vec::new();
            for partition in [2, 0, 7] {
                let records = Batch::of(&[format!("{name}-{partition} {round}")]).encode();
                let mut one = produce_request(name, partition, -1, records);
                partitions.append(&mut one.topic_data[0].partition_data);
            }
            let mut one = produce_request(name, 0, -1, Vec::new());
            topics.push(one.topic_data.remove(0).with_partition_data(partitions));
        }
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(30_000)
            .with_topic_data(topics);
        let answer = client.call(9, &request);
        assert_eq!(answer.responses.len(), 2, "{answer:?}");
        for topic in &answer.responses {
            let mut results: Vec<_> = topic
                .partition_responses
                .iter()
                .map(|partition| (partition.index, partition.error_code, partition.base_offset))
                .collect();
            results.sort_unstable();
            let unknown = (7, error::UNKNOWN_TOPIC_OR_PARTITION, -1);
            assert_eq!(
                results,
                [(0, 0, round), (2, 0, round), unknown],
                "{answer:?}"
            );
        }
    }
    for name in &names {
        for (partition, count) in [(0, 3), (1, 0), (2, 3)] {
            let found = texts(&fetch_all(&mut client, name, partition));
            let expected: Vec<_> = (0..count)
                .map(|round| format!("{name}-{partition} {round}"))
                .collect();
            assert_eq!(found, expected);
        }
    }
}

#[test]
fn produce_to_an_unknown_topic_or_partition_says_so_and_creates_nothing() {
    let (_broker, mut client, topic, _id) = setup("known");
    let absent = unique("absent");
    for version in PRODUCE_VERSIONS {
        for (name, partition) in [(&absent, 0), (&topic, 1), (&topic, -1)] {
            let records = records_of_version(version, Codec::None, &["x"]);
            let answer = produce(&mut client, version, name, partition, records);
            assert_eq!(
                answer.error_code,
                error::UNKNOWN_TOPIC_OR_PARTITION,
                "v{version} {name}-{partition}: {answer:?}"
            );
            assert_eq!(answer.base_offset, -1, "v{version}: {answer:?}");
        }
    }
    assert_eq!(ringlog_tests::call::topic_id(&mut client, &absent), None);
}

#[test]
fn a_batch_above_max_message_bytes_is_too_large_and_the_next_one_is_taken() {
    let (_broker, mut client, topic, _id) = setup("large");
    let fits = vec![b'x'; 1_048_588 - 200];
    let large = vec![b'x'; 1_048_588];
    assert_eq!(
        produce_values(&mut client, &topic, std::slice::from_ref(&fits)),
        0
    );
    let answer = produce(&mut client, 9, &topic, 0, Batch::of(&[large]).encode());
    assert_eq!(
        (answer.error_code, answer.base_offset),
        (error::MESSAGE_TOO_LARGE, -1),
        "{answer:?}"
    );
    assert_eq!(produce_values(&mut client, &topic, &["small"]), 1);
}

#[test]
fn log_append_time_topics_stamp_records_with_the_brokers_clock() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let topic = unique("append-time");
    let id = create_topic(
        &mut client,
        &topic,
        1,
        &[("message.timestamp.type", "LogAppendTime")],
    );
    for (base, version, codec) in [
        (0, 2, Codec::None),
        (2, 2, Codec::Gzip),
        (4, 9, Codec::None),
        (6, 9, Codec::Lz4),
    ] {
        let answer = produce(
            &mut client,
            version,
            &topic,
            0,
            records_of_version(version, codec, &["a", "b"]),
        );
        assert_eq!(
            (answer.error_code, answer.base_offset),
            (0, base),
            "v{version}: {answer:?}"
        );
        assert!(
            answer.log_append_time_ms > 1_704_067_200_000,
            "v{version}: {answer:?}"
        );
        let records = Fetch::of(&topic, id, base)
            .contents(&mut client, 12)
            .records;
        assert_eq!(
            records[0].timestamp, answer.log_append_time_ms,
            "v{version} {codec:?}"
        );
        assert_eq!(
            records[1].timestamp, answer.log_append_time_ms,
            "v{version} {codec:?}"
        );
    }
}

#[test]
fn an_empty_partition_holds_a_fetch_back_until_max_wait() {
    let (_broker, mut client, topic, id) = setup("max-wait");
    for version in FETCH_VERSIONS {
        let mut fetch = Fetch::of(&topic, id, 0);
        (fetch.max_wait_ms, fetch.min_bytes) = (150, 1);
        let started = Instant::now();
        assert!(fetch.contents(&mut client, version).records.is_empty());
        // The clocks of both sides round to milliseconds.
        assert!(
            started.elapsed() >= Duration::from_millis(140),
            "v{version}: {:?}",
            started.elapsed()
        );
    }
    let mut fetch = Fetch::of(&topic, id, 0);
    (fetch.max_wait_ms, fetch.min_bytes) = (50_000, 0);
    let started = Instant::now();
    assert!(
        fetch.contents(&mut client, 12).records.is_empty(),
        "min_bytes 0 does not wait"
    );
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn an_append_wakes_a_waiting_fetch() {
    let (broker, mut client, topic, id) = setup("wake");
    let mut producer = Client::connect(broker.address());
    for version in [0, 3, 4, 11, 17] {
        let end = log_end_offset(&mut producer, &topic, 0);
        let mut fetch = Fetch::of(&topic, id, end);
        (fetch.max_wait_ms, fetch.min_bytes) = (50_000, 1);
        let correlation_id = client.send(version, &fetch.request(version)).unwrap();
        produce_values(&mut producer, &topic, &["woken"]);
        let started = Instant::now();
        let answer = client.receive::<FetchRequest>(version, correlation_id);
        let records = only_partition(answer).records.unwrap_or_default();
        let found = ringlog_tests::records::read(&records).records;
        assert_eq!(texts(&found), ["woken"], "v{version}");
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "v{version}: {:?}",
            started.elapsed()
        );
    }
}

#[test]
fn a_fetch_waits_until_min_bytes_are_there() {
    let (broker, mut client, topic, id) = setup("min-bytes");
    let mut producer = Client::connect(broker.address());
    let value = vec![b'x'; 1000];
    let mut fetch = Fetch::of(&topic, id, 0);
    (fetch.max_wait_ms, fetch.min_bytes) = (50_000, 3000);
    let correlation_id = client.send(11, &fetch.request(11)).unwrap();
    for _ in 0..3 {
        produce_values(&mut producer, &topic, std::slice::from_ref(&value));
    }
    let answer = client.receive::<FetchRequest>(11, correlation_id);
    let records = only_partition(answer).records.unwrap_or_default();
    assert!(records.len() >= 3000, "{} bytes", records.len());
}

#[test]
fn limits_cut_an_answer_but_never_the_first_batch() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let topic = unique("limits");
    let id = create_topic(&mut client, &topic, 1, &[]);
    let value = vec![b'x'; 10_000];
    for _ in 0..5 {
        produce_values(&mut client, &topic, std::slice::from_ref(&value));
    }
    for version in FETCH_VERSIONS {
        let mut fetch = Fetch::of(&topic, id, 1);
        fetch.partition_max_bytes = 25_000;
        let contents = fetch.contents(&mut client, version);
        assert_eq!(
            contents.records.len(),
            2,
            "v{version}: two whole batches fit in 25000 bytes"
        );
        assert_eq!(contents.records[0].offset, 1, "v{version}");
        if version < 3 {
            continue; // no max_bytes, and no first batch beyond the limit (KIP-74)
        }
        for limit in [1, 0] {
            let mut fetch = Fetch::of(&topic, id, 1);
            fetch.partition_max_bytes = limit;
            let contents = fetch.contents(&mut client, version);
            assert_eq!(
                contents.records.len(),
                1,
                "v{version}: partition_max_bytes={limit}"
            );
            let mut fetch = Fetch::of(&topic, id, 1);
            fetch.max_bytes = limit;
            let contents = fetch.contents(&mut client, version);
            assert_eq!(contents.records.len(), 1, "v{version}: max_bytes={limit}");
        }
    }
}

#[test]
fn max_bytes_is_shared_by_the_partitions_of_a_request() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let topic = unique("shared-limit");
    let id = create_topic(&mut client, &topic, 3, &[]);
    let value = vec![b'x'; 10_000];
    for partition in 0..3 {
        let answer = produce(
            &mut client,
            9,
            &topic,
            partition,
            Batch::of(&[&value]).encode(),
        );
        assert_eq!(answer.error_code, 0, "{answer:?}");
    }
    let mut fetch = Fetch::of(&topic, id, 0);
    fetch.max_bytes = 5000;
    let mut request = fetch.request(12);
    let partition = request.topics[0].partitions[0].clone();
    request.topics[0].partitions = (0..3)
        .map(|index| partition.clone().with_partition(index))
        .collect();
    let answer = client.call(12, &request);
    let sizes: Vec<_> = answer.responses[0]
        .partitions
        .iter()
        .map(|partition| partition.records.as_ref().map_or(0, bytes::Bytes::len))
        .collect();
    assert_eq!(sizes.len(), 3, "each partition is answered: {sizes:?}");
    assert_eq!(
        sizes.iter().filter(|&&size| size > 10_000).count(),
        1,
        "{sizes:?}"
    );
    assert_eq!(
        sizes.iter().filter(|&&size| size == 0).count(),
        2,
        "{sizes:?}"
    );
}

#[test]
fn an_offset_outside_the_log_is_out_of_range_in_every_version() {
    let (_broker, mut client, topic, id) = setup("range");
    produce_values(&mut client, &topic, &["a", "b"]);
    for version in FETCH_VERSIONS {
        for offset in [3, 1 << 40, -1] {
            let data = Fetch::of(&topic, id, offset).call(&mut client, version);
            assert_eq!(
                data.error_code,
                error::OFFSET_OUT_OF_RANGE,
                "v{version} offset {offset}: {data:?}"
            );
            assert_eq!(data.records.unwrap_or_default().len(), 0);
        }
        let at_end = Fetch::of(&topic, id, 2).call(&mut client, version);
        assert_eq!(
            (at_end.error_code, at_end.high_watermark),
            (0, 2),
            "v{version}: {at_end:?}"
        );
    }
}

#[test]
fn fetch_of_an_unknown_topic_partition_id_or_epoch_says_which() {
    let (_broker, mut client, topic, id) = setup("unknown");
    let absent = unique("absent");
    for version in FETCH_VERSIONS {
        let data = Fetch::of(&absent, Uuid::from_u128(7), 0).call(&mut client, version);
        let unknown = if version >= 13 {
            error::UNKNOWN_TOPIC_ID
        } else {
            error::UNKNOWN_TOPIC_OR_PARTITION
        };
        assert_eq!(data.error_code, unknown, "v{version}: {data:?}");
        let mut fetch = Fetch::of(&topic, id, 0);
        fetch.partition = 5;
        let data = fetch.call(&mut client, version);
        assert_eq!(
            data.error_code,
            error::UNKNOWN_TOPIC_OR_PARTITION,
            "v{version}: {data:?}"
        );
        if version >= 9 {
            let mut fetch = Fetch::of(&topic, id, 0);
            fetch.leader_epoch = 1000;
            let data = fetch.call(&mut client, version);
            assert_eq!(
                data.error_code,
                error::UNKNOWN_LEADER_EPOCH,
                "v{version}: {data:?}"
            );
        }
    }
}

#[test]
fn an_error_in_one_partition_answers_a_long_poll_at_once() {
    let (_broker, mut client, topic, id) = setup("error-now");
    let mut fetch = Fetch::of(&topic, id, 99);
    (fetch.max_wait_ms, fetch.min_bytes) = (50_000, 1);
    let started = Instant::now();
    assert_eq!(
        fetch.call(&mut client, 11).error_code,
        error::OFFSET_OUT_OF_RANGE
    );
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
}

/// A session over two topics (KIP-227), opened by a full fetch.
fn open_session(client: &mut Client, version: i16, topics: &[(String, Uuid)]) -> i32 {
    let mut opening = Fetch::of(&topics[0].0, topics[0].1, 0);
    opening.session_epoch = 0;
    let mut request = opening.request(version);
    for (name, id) in &topics[1..] {
        request
            .topics
            .append(&mut Fetch::of(name, *id, 0).request(version).topics);
    }
    let answer = client.call(version, &request);
    assert_eq!(answer.error_code, 0, "v{version}: {answer:?}");
    assert_ne!(answer.session_id, 0, "v{version}: a session was opened");
    assert_eq!(
        answer.responses.len(),
        topics.len(),
        "a full answer names every partition"
    );
    answer.session_id
}

fn incremental(topic: &str, id: Uuid, session_id: i32, session_epoch: i32) -> Fetch {
    Fetch {
        session_id,
        session_epoch,
        ..Fetch::of(topic, id, 0)
    }
}

#[test]
fn a_fetch_session_answers_only_what_changed_kip_227() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let mut producer = Client::connect(broker.address());
    for version in [7, 11, 12, 13, 17] {
        let names = [unique("session-a"), unique("session-b")];
        let topics = names.map(|name| {
            let id = create_topic(&mut producer, &name, 1, &[]);
            (name, id)
        });
        let [(a, a_id), (b, b_id)] = &topics;
        let session = open_session(&mut client, version, &topics);
        let next = |epoch| incremental(a, *a_id, session, epoch).session_request(version);

        let answer = client.call(version, &next(1));
        assert_eq!(
            (answer.error_code, answer.responses.len()),
            (0, 0),
            "v{version}: nothing new: {answer:?}"
        );
        assert_eq!(answer.session_id, session, "v{version}");

        produce_values(&mut producer, b, &["new"]);
        let answer = client.call(version, &next(2));
        assert_eq!(
            answer.responses.len(),
            1,
            "v{version}: only what changed: {answer:?}"
        );
        let changed = &answer.responses[0];
        let named = if version >= 13 {
            changed.topic_id == *b_id
        } else {
            changed.topic == topic_name(b)
        };
        assert!(named, "v{version}: {answer:?}");
        assert_eq!(only_partition(answer).high_watermark, 1, "v{version}");

        // The session moves to offset 1 of b, and drops a.
        let mut request = incremental(b, *b_id, session, 3).request(version);
        request.topics[0].partitions[0].fetch_offset = 1;
        let mut forgotten = ForgottenTopic::default().with_partitions(vec![0]);
        if version >= 13 {
            forgotten = forgotten.with_topic_id(*a_id);
        } else {
            forgotten = forgotten.with_topic(topic_name(a));
        }
        request.forgotten_topics_data = vec![forgotten];
        client.call(version, &request);
        produce_values(&mut producer, a, &["unseen"]);
        let answer = client.call(version, &next(4));
        assert_eq!(
            (answer.error_code, answer.responses.len()),
            (0, 0),
            "v{version}: a is forgotten: {answer:?}"
        );
    }
}

#[test]
fn a_session_fetch_waits_and_is_woken_by_any_of_its_partitions() {
    let (broker, mut client, topic, id) = setup("session-wake");
    let mut producer = Client::connect(broker.address());
    let session = open_session(&mut client, 12, &[(topic.clone(), id)]);
    let mut fetch = incremental(&topic, id, session, 1);
    (fetch.max_wait_ms, fetch.min_bytes) = (50_000, 1);
    let correlation_id = client.send(12, &fetch.session_request(12)).unwrap();
    produce_values(&mut producer, &topic, &["woken"]);
    let answer = client.receive::<FetchRequest>(12, correlation_id);
    let records = only_partition(answer).records.unwrap_or_default();
    assert_eq!(
        texts(&ringlog_tests::records::read(&records).records),
        ["woken"]
    );
}

#[test]
fn a_fetch_session_with_a_wrong_id_or_epoch_is_refused_and_a_closed_one_is_gone() {
    let (_broker, mut client, topic, id) = setup("session-errors");
    for version in [7, 12, 17] {
        let session = open_session(&mut client, version, &[(topic.clone(), id)]);
        let call = |client: &mut Client, session, epoch| {
            client.call(
                version,
                &incremental(&topic, id, session, epoch).session_request(version),
            )
        };
        let answer = call(&mut client, session, 5);
        assert_eq!(
            answer.error_code,
            error::INVALID_FETCH_SESSION_EPOCH,
            "v{version}: {answer:?}"
        );
        let answer = call(&mut client, session.wrapping_add(77) | 1, 1);
        assert_eq!(
            answer.error_code,
            error::FETCH_SESSION_ID_NOT_FOUND,
            "v{version}: {answer:?}"
        );
        let answer = call(&mut client, 0, 3);
        assert_eq!(
            answer.error_code,
            error::FETCH_SESSION_ID_NOT_FOUND,
            "v{version}: {answer:?}"
        );
        let answer = call(&mut client, session, -1);
        assert_eq!(
            (answer.error_code, answer.session_id),
            (0, 0),
            "v{version}: closed: {answer:?}"
        );
        let answer = call(&mut client, session, 1);
        assert_eq!(
            answer.error_code,
            error::FETCH_SESSION_ID_NOT_FOUND,
            "v{version}: {answer:?}"
        );
    }
}

#[test]
fn ten_thousand_small_batches_keep_their_order_and_offsets() {
    let (broker, mut client, topic, _id) = setup("order");
    let mut reader = Client::connect(broker.address());
    let mut ids = Vec::new();
    for number in 0..10_000 {
        let request = produce_request(&topic, 0, 1, Batch::of(&[format!("{number}")]).encode());
        ids.push(client.send(9, &request).unwrap());
        if ids.len() == 100 {
            for id in ids.drain(..) {
                let answer = client.receive::<ProduceRequest>(9, id);
                assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
            }
        }
    }
    wait_for("all records", Duration::from_secs(30), || {
        (list_offset(&mut reader, 1, &topic, 0, -1).2 == 10_000).then_some(())
    });
    let records = fetch_all(&mut reader, &topic, 0);
    for (number, record) in (0..).zip(&records) {
        assert_eq!((record.offset, record.text()), (number, number.to_string()));
    }
    assert_eq!(records.len(), 10_000);
}
