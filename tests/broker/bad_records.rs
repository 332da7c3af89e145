//! Record batches and message sets that are not what they say: refused with a proper error, not appended.

use kafka_protocol::messages::ProduceRequest;
use ringlog_tests::broker::{Broker, Options, unique};
use ringlog_tests::call::{create_topic, fetch_all, log_end_offset, produce, produce_request};
use ringlog_tests::records::{
    Batch, Codec, crc32, message, message_set, patch, position, put_varlong, seal,
};
use ringlog_tests::wire::Client;

use crate::error;
use crate::scene::Scene;

/// Produces a broken batch; the code must be one of `expected`, the log's end must stay.
fn refused(scene: &mut Scene, what: &str, version: i16, records: Vec<u8>, expected: &[i16]) {
    let mut stranger = scene.stranger();
    let end = log_end_offset(&mut stranger, &scene.topic, 0);
    let topic = scene.topic.clone();
    let answer = produce(&mut stranger, version, &topic, 0, records);
    // Apache Kafka answers UNKNOWN_SERVER_ERROR to some; Ringlog must have a proper code.
    let known = expected.contains(&answer.error_code);
    let kafka = !scene.broker.is_own() && answer.error_code == error::UNKNOWN_SERVER_ERROR;
    assert!(
        known || kafka,
        "{what}: {answer:?}, expected one of {expected:?}"
    );
    assert_eq!(answer.base_offset, -1, "{what}: {answer:?}");
    assert_eq!(
        log_end_offset(&mut stranger, &topic, 0),
        end,
        "{what}: the log end moved"
    );
    scene.check(what);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
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
        (
            "record count 2 of 3",
            sealed(position::COUNT, &2_i32.to_be_bytes()),
        ),
        (
            "record count 4 of 3",
            sealed(position::COUNT, &4_i32.to_be_bytes()),
        ),
        (
            "record count 0",
            sealed(position::COUNT, &0_i32.to_be_bytes()),
        ),
        (
            "record count -1",
            sealed(position::COUNT, &(-1_i32).to_be_bytes()),
        ),
        (
            "record count 2^31-1",
            sealed(position::COUNT, &i32::MAX.to_be_bytes()),
        ),
        (
            "last offset delta too large",
            sealed(position::LAST_OFFSET_DELTA, &7_i32.to_be_bytes()),
        ),
        (
            "last offset delta negative",
            sealed(position::LAST_OFFSET_DELTA, &(-1_i32).to_be_bytes()),
        ),
        ("count and delta 2^31-1", {
            let batch = patch(good.clone(), position::COUNT, &i32::MAX.to_be_bytes());
            seal(patch(
                batch,
                position::LAST_OFFSET_DELTA,
                &(i32::MAX - 1).to_be_bytes(),
            ))
        }),
        (
            "codec 7",
            sealed(position::ATTRIBUTES, &7_i16.to_be_bytes()),
        ),
        (
            "codec 5",
            sealed(position::ATTRIBUTES, &5_i16.to_be_bytes()),
        ),
        (
            "length 2^31-1",
            with(position::LENGTH, &i32::MAX.to_be_bytes()),
        ),
        ("length 0", with(position::LENGTH, &0_i32.to_be_bytes())),
        ("length -1", with(position::LENGTH, &(-1_i32).to_be_bytes())),
        ("length 10", with(position::LENGTH, &10_i32.to_be_bytes())),
        ("cut in the header", good[..40].to_vec()),
        ("cut before the length", good[..6].to_vec()),
        ("cut in the records", good[..good.len() - 3].to_vec()),
        ("header only", good[..position::RECORDS].to_vec()),
        ("two batches", [good.clone(), good.clone()].concat()),
        ("no batch", Vec::new()),
        ("zeros", vec![0; 200]),
        (
            "garbage",
            b"this is no record batch at all, it is only text that goes on and on for a while"
                .to_vec(),
        ),
        (
            "a message set where a batch must be",
            message_set(1, Codec::None, 0, &["old"]),
        ),
        (
            "a control batch of a client",
            sealed(position::ATTRIBUTES, &0x20_i16.to_be_bytes()),
        ),
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
    let plain_as_gzip = seal(patch(
        good.clone(),
        position::ATTRIBUTES,
        &1_i16.to_be_bytes(),
    ));
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
    let expected = [
        error::CORRUPT_MESSAGE,
        error::INVALID_RECORD,
        error::UNSUPPORTED_COMPRESSION_TYPE,
        error::MESSAGE_TOO_LARGE,
    ];
    let wrapped = |codec: u8, bytes: &[u8]| message(1, codec, 0, 0, bytes);
    let nested = wrapped(
        1,
        &Codec::Gzip.compress(&message_set(1, Codec::Gzip, 0, &["deep"])),
    );
    for (what, records) in [
        ("wrong CRC", patch(good.clone(), 12, &[1, 2, 3, 4])),
        ("size -1", patch(good.clone(), 8, &(-1_i32).to_be_bytes())),
        (
            "size 2^31-1",
            patch(good.clone(), 8, &i32::MAX.to_be_bytes()),
        ),
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
        (
            "zstd in a message set (KIP-110)",
            wrapped(4, &Codec::Zstd.compress(&good)),
        ),
        ("codec 6", wrapped(6, b"?")),
        ("a wrapper in a wrapper", nested),
        ("an empty wrapper", wrapped(1, &Codec::Gzip.compress(b""))),
        ("a wrapper without value", patch_null_value()),
    ] {
        for version in [0, 2] {
            refused(&mut scene, what, version, records.clone(), &expected);
        }
    }
}

/// Apache Kafka drops a cut message at the end of a wrapper and acknowledges the rest, as if it had
/// taken all; the producer loses a record without a word. Ringlog refuses the whole.
#[test]
fn a_wrapper_that_ends_inside_a_message_is_refused_as_a_whole() {
    let Some(broker) = Broker::own(Options::default()) else {
        return;
    };
    let mut scene = Scene::of(broker, "cut-wrapper");
    let inner = message_set(1, Codec::None, 0, &["a", "b"]);
    let records = message(1, 1, 0, 0, &Codec::Gzip.compress(&inner[..inner.len() - 3]));
    let expected = [error::CORRUPT_MESSAGE, error::INVALID_RECORD];
    refused(
        &mut scene,
        "a wrapper with a cut message",
        2,
        records,
        &expected,
    );
}

/// Apache Kafka trims an incomplete entry after the last whole one (`LogValidator`, `trimInvalidBytes`);
/// refusing it is as good. The piece itself must never reach the log.
#[test]
fn a_piece_of_a_batch_after_a_batch_never_reaches_the_log() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let topic = unique("piece");
    create_topic(&mut client, &topic, 1, &[]);
    let good = Batch::of(&["a", "b", "c"]).encode();
    let old = message_set(1, Codec::None, 0, &["a", "b", "c"]);
    for (version, records) in [
        (2, [old.clone(), old[..20].to_vec()].concat()),
        (9, [good.clone(), good[..30].to_vec()].concat()),
        (11, [good.clone(), good[..good.len() - 1].to_vec()].concat()),
    ] {
        let before = log_end_offset(&mut client, &topic, 0);
        let answer = produce(&mut client, version, &topic, 0, records);
        let added = log_end_offset(&mut client, &topic, 0) - before;
        assert_eq!(
            added,
            if answer.error_code == 0 { 3 } else { 0 },
            "v{version}: {answer:?}"
        );
        let stored = fetch_all(&mut client, &topic, 0);
        assert!(
            stored
                .iter()
                .all(|record| ["a", "b", "c"].contains(&record.text().as_str()))
        );
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
    let Some(broker) = Broker::own(Options::default()) else {
        return;
    };
    let mut scene = Scene::of(broker, "bombs");
    let block = message(1, 0, 0, 0, &vec![0; 1 << 20]);
    let many = block.repeat(256); // 256 MiB
    for codec in [Codec::Gzip, Codec::Lz4, Codec::SnappyXerial] {
        let bits = match codec {
            Codec::Gzip => 1,
            Codec::Lz4 => 3,
            _ => 2,
        };
        let plain = if codec == Codec::Gzip {
            &many
        } else {
            &many[..block.len() * 64]
        };
        let bomb = message(1, bits, 0, 0, &codec.compress(plain));
        let expected = [
            error::MESSAGE_TOO_LARGE,
            error::CORRUPT_MESSAGE,
            error::INVALID_RECORD,
        ];
        eprintln!("{codec:?}: {} bytes become {}", bomb.len(), plain.len());
        refused(&mut scene, &format!("{codec:?} bomb"), 2, bomb, &expected);
    }
    // A snappy block that announces 4 GiB and an LZ4 frame of one endless zero run.
    let announces = message(1, 2, 0, 0, &[0xff, 0xff, 0xff, 0xff, 0x0f, 0, b'x']);
    let expected = [
        error::MESSAGE_TOO_LARGE,
        error::CORRUPT_MESSAGE,
        error::INVALID_RECORD,
    ];
    refused(
        &mut scene,
        "snappy that announces 4 GiB",
        2,
        announces,
        &expected,
    );
}

#[test]
fn compression_bombs_in_batches_are_stopped_when_an_old_client_has_them_opened() {
    let Some(broker) = Broker::own(Options::default()) else {
        return;
    };
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

#[test]
fn a_null_record_field_is_an_error_or_closed() {
    // Apache Kafka 3.9.1 never answers: only asked of Ringlog.
    let Some(broker) = Broker::own(Options::default()) else {
        return;
    };
    let mut scene = Scene::of(broker, "null-records");
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
