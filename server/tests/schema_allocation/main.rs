//! The schemas against the message crate: what `check` accepts the crate decodes, with memory in
//! proportion to the bytes; what lies about a length is refused without any.
//!
//! Random tests print their seed; `RINGLOG_TEST_SEED=<number>` replays one.
#![forbid(unsafe_op_in_unsafe_fn)]

mod allocations;
mod decoders;
mod generator;

use allocations::allocated;
use bytes::{Bytes, BytesMut};
use decoders::decode;
use generator::{Length, Random, Width, body, varint};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    ApiKey, FetchRequest, MetadataRequest, ProduceRequest, RequestHeader, TopicName,
};
use kafka_protocol::protocol::{Encodable, StrBytes};
use ringlog::net::schema::{Limits, Problem, Schema, SchemaError, apis, check, request_header};

fn seed() -> u64 {
    let seed = std::env::var("RINGLOG_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(0x0005_eed0);
    eprintln!("RINGLOG_TEST_SEED={seed}");
    seed
}

fn schemas() -> impl Iterator<Item = &'static Schema> {
    (i16::MIN..=i16::MAX).filter_map(apis::schema)
}

fn accepts(schema: &Schema, version: i16, bytes: &[u8]) -> Result<(), SchemaError> {
    check(schema.api_key, version, bytes, &Limits::default())
}

#[test]
fn every_schema_has_the_versions_and_headers_of_the_crate() {
    let handled = [
        0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27,
        28, 29, 30, 31, 32, 33, 35, 37, 42, 43, 44, 45, 46, 47, 48, 49, 50, 60, 61, 65, 66, 75,
    ];
    let keys: Vec<i16> = schemas().map(|schema| schema.api_key).collect();
    assert_eq!(keys, handled);
    for key in handled {
        let schema = apis::schema(key).expect("just found");
        assert_eq!(schema.api_key, key);
        let api = ApiKey::try_from(key).expect("an API of the crate");
        assert_eq!(format!("{api:?}"), schema.name);
        let versions = api.valid_versions();
        assert_eq!(schema.versions(), versions.min..=versions.max, "{api:?}");
        for version in schema.versions() {
            let header_version = if version >= schema.flexible_since {
                2
            } else {
                1
            };
            assert_eq!(
                api.request_header_version(version),
                header_version,
                "{api:?} {version}"
            );
        }
    }
}

#[test]
fn what_the_schema_describes_is_what_the_crate_decodes_and_encodes() {
    let mut random = Random(seed());
    for schema in schemas() {
        for version in schema.versions() {
            for _ in 0..50 {
                let bytes = body(schema, version, &mut random).bytes;
                let context = format!("{} v{version} {bytes:02x?}", schema.name);
                assert_eq!(accepts(schema, version, &bytes), Ok(()), "{context}");
                let body = Bytes::from(bytes);
                let decoded = decode(schema.api_key, version, body.clone(), true)
                    .unwrap_or_else(|| panic!("the crate refuses {context}"));
                assert_eq!(decoded.left, 0, "{context}");
                let encoded = decoded
                    .encoded
                    .unwrap_or_else(|| panic!("the crate does not encode {context}"));
                assert_eq!(encoded, body, "{context}");
            }
        }
    }
}

#[test]
fn a_request_that_is_cut_anywhere_is_refused_without_allocation() {
    let mut random = Random(seed());
    for schema in schemas() {
        for version in schema.versions() {
            let mut bytes = body(schema, version, &mut random).bytes;
            for end in 0..bytes.len() {
                let (result, asked) = allocated(|| accepts(schema, version, &bytes[..end]));
                assert!(result.is_err(), "{} v{version} {end}", schema.name);
                assert_eq!(asked, 0);
            }
            // librdkafka sends a byte too many in Metadata version 12, and Kafka lets it pass.
            bytes.push(0);
            assert!(
                accepts(schema, version, &bytes).is_ok(),
                "{} v{version}",
                schema.name
            );
        }
    }
}

/// Values for `length` that no bytes can prove.
fn hostile(length: &Length, bytes_after: usize) -> Vec<Vec<u8>> {
    let beyond = bytes_after + 1;
    let mut values = match length.width {
        Width::Int16 => [i16::MAX, i16::MIN, -2]
            .map(|value| value.to_be_bytes().to_vec())
            .to_vec(),
        Width::Int32 => {
            let beyond = i32::try_from(beyond).expect("small");
            [i32::MAX, i32::MAX / 2, i32::MIN, -2, beyond]
                .map(|value| value.to_be_bytes().to_vec())
                .to_vec()
        }
        Width::Varint => {
            let beyond = u32::try_from(beyond + usize::from(!length.tags)).expect("small");
            vec![
                varint(u32::MAX),
                varint(u32::MAX / 2),
                varint(beyond),
                vec![0xff; 5],
                vec![0x80, 0x80, 0x80, 0x80, 0x10],
            ]
        }
    };
    if !length.nullable && !length.tags {
        values.push(match length.width {
            Width::Int16 => vec![0xff; 2],
            Width::Int32 => vec![0xff; 4],
            Width::Varint => vec![0],
        });
    }
    values
}

#[test]
fn a_length_that_the_bytes_do_not_prove_is_refused_without_allocation() {
    let mut random = Random(seed());
    let mut tried = 0;
    for schema in schemas() {
        for version in schema.versions() {
            for _ in 0..10 {
                let body = body(schema, version, &mut random);
                for length in &body.lengths {
                    let end = length.offset + length.size;
                    for value in hostile(length, body.bytes.len() - end) {
                        let mut bytes = body.bytes[..length.offset].to_vec();
                        bytes.extend(&value);
                        bytes.extend(&body.bytes[end..]);
                        let (result, asked) = allocated(|| accepts(schema, version, &bytes));
                        assert!(
                            result.is_err(),
                            "{} v{version} {} at {}: {value:02x?} in {bytes:02x?}",
                            schema.name,
                            length.field,
                            length.offset
                        );
                        assert_eq!(asked, 0);
                        tried += 1;
                    }
                }
            }
        }
    }
    eprintln!("{tried} hostile lengths");
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    const TELLING: [u8; 8] = [0, 1, 2, 0x0f, 0x7f, 0x80, 0xfe, 0xff];
    for _ in 0..=random.below(3) {
        if bytes.is_empty() {
            bytes.push(TELLING[random.below(8)]);
        }
        let at = random.below(bytes.len());
        match random.below(7) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = TELLING[random.below(8)],
            2 => bytes.insert(at, TELLING[random.below(8)]),
            3 => drop(bytes.remove(at)),
            4 => bytes[at] = bytes[at].wrapping_add(1),
            5 => bytes.truncate(at),
            _ => {
                let size = 1 + random.below((bytes.len() - at).min(16));
                let slice = bytes[at..at + size].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, slice);
            }
        }
    }
}

/// The unknown tagged fields in an accepted body: the least limit that lets it pass.
fn unknown_tagged_fields(schema: &Schema, version: i16, bytes: &[u8]) -> usize {
    (0..10_000)
        .find(|&unknown_tagged_fields| {
            let limits = Limits {
                unknown_tagged_fields,
                ..Limits::default()
            };
            check(schema.api_key, version, bytes, &limits).is_ok()
        })
        .expect("it passed with the default limit") as usize
}

#[test]
fn what_is_accepted_after_mutation_decodes_with_memory_in_proportion() {
    let seed = seed();
    let (mut accepted, mut total, mut worst) = (0_usize, 0_usize, 0.0_f64);
    for schema in schemas() {
        let mut random = Random(seed ^ schema.api_key as u64);
        for _ in 0..20_000 {
            let version = i16::try_from(random.below(schema.versions().count())).expect("few");
            let mut bytes = body(schema, version, &mut random).bytes;
            mutate(&mut bytes, &mut random);
            let (result, asked) = allocated(|| accepts(schema, version, &bytes));
            assert_eq!(asked, 0);
            total += 1;
            if result.is_err() {
                continue;
            }
            accepted += 1;
            let context = format!("{} v{version} {bytes:02x?}", schema.name);
            let tagged = unknown_tagged_fields(schema, version, &bytes);
            let size = bytes.len();
            let body = Bytes::from(bytes);
            let (decoded, asked) =
                allocated(|| decode(schema.api_key, version, body, false).map(|it| it.left));
            assert!(
                decoded.is_some_and(|left| left <= 4),
                "the crate disagrees on {context}: {decoded:?}"
            );
            assert!(
                asked <= 64 * size + 512 * tagged + 64,
                "{asked} bytes allocated for {size}: {context}"
            );
            if tagged == 0 && size > 0 {
                worst = worst.max(asked as f64 / size as f64);
            }
        }
    }
    eprintln!("{accepted} of {total} accepted, at most {worst:.1} bytes allocated per byte");
    assert!(accepted > total / 100, "the mutations are too wild to test");
}

fn text(text: String) -> StrBytes {
    StrBytes::from_string(text)
}

fn encode(request: &impl Encodable, version: i16) -> Bytes {
    let mut bytes = BytesMut::new();
    request
        .encode(&mut bytes, version)
        .expect("a request of this version");
    bytes.freeze()
}

#[test]
fn requests_of_100_000_partitions_pass_the_default_limits() {
    let limits = Limits::default();
    let topics = (0..100_000)
        .map(|n| {
            MetadataRequestTopic::default().with_name(Some(TopicName(text(format!("topic-{n}")))))
        })
        .collect();
    let metadata = MetadataRequest::default().with_topics(Some(topics));
    for version in [1, 4, 9, 12] {
        let bytes = encode(&metadata, version);
        assert_eq!(check(3, version, &bytes, &limits), Ok(()));
    }
    let topics = (0..100_000)
        .map(|n| {
            FetchTopic::default()
                .with_topic(TopicName(text(format!("topic-{n}"))))
                .with_partitions(vec![FetchPartition::default().with_partition(n)])
        })
        .collect();
    let fetch = FetchRequest::default().with_topics(topics);
    for version in [0, 4, 11, 12, 17] {
        let fetch = if version >= 13 {
            let mut fetch = fetch.clone();
            for topic in &mut fetch.topics {
                topic.topic = TopicName::default();
            }
            fetch
        } else {
            fetch.clone()
        };
        let bytes = encode(&fetch, version);
        assert_eq!(check(1, version, &bytes, &limits), Ok(()));
    }
}

#[test]
fn too_many_elements_are_refused_although_their_bytes_are_there() {
    let topics = vec![MetadataRequestTopic::default().with_name(Some(TopicName::default())); 11];
    let metadata = MetadataRequest::default().with_topics(Some(topics));
    let bytes = encode(&metadata, 12);
    let limits = |elements| Limits {
        elements,
        ..Limits::default()
    };
    assert_eq!(check(3, 12, &bytes, &limits(11)), Ok(()));
    assert!(matches!(
        check(3, 12, &bytes, &limits(10)),
        Err(SchemaError::Malformed {
            problem: Problem::TooManyElements,
            field: "topics",
            ..
        })
    ));
}

#[test]
fn a_produce_request_of_the_crate_passes_in_every_version() {
    let partition = |index| {
        PartitionProduceData::default()
            .with_index(index)
            .with_records(Some(Bytes::from_static(&[7; 100])))
    };
    let topic = |name: &str| {
        TopicProduceData::default()
            .with_name(TopicName(text(name.to_owned())))
            .with_partition_data(vec![partition(0), partition(1).with_records(None)])
    };
    let produce = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(30_000)
        .with_topic_data(vec![topic("a"), topic("b")]);
    for version in 0..=11 {
        let bytes = encode(&produce, version);
        assert_eq!(check(0, version, &bytes, &Limits::default()), Ok(()));
    }
}

#[test]
fn the_header_is_read_as_the_crate_wrote_it_for_every_api_that_the_crate_has() {
    for key in 0..100 {
        let Ok(api) = ApiKey::try_from(key) else {
            continue;
        };
        // One version beyond the last: ApiVersions must be answered then too.
        for version in 0..=api.valid_versions().max + 1 {
            let header_version = api.request_header_version(version);
            for client_id in [None, Some(StrBytes::from_static_str("console-producer"))] {
                let mut header = RequestHeader::default()
                    .with_request_api_key(key)
                    .with_request_api_version(version)
                    .with_correlation_id(-7)
                    .with_client_id(client_id.clone());
                if header_version == 2 {
                    header = header.with_unknown_tagged_field(3, Bytes::from_static(b"tag"));
                }
                let header_bytes = encode(&header, header_version);
                let frame = [&header_bytes[..], b"body"].concat();
                let (read, asked) = allocated(|| request_header(&frame, &Limits::default()));
                assert_eq!(asked, 0);
                let read = read.expect("a header of the crate");
                assert_eq!((read.api_key, read.api_version), (key, version));
                assert_eq!(read.correlation_id, -7);
                let expected = if header_version == 0 { None } else { client_id };
                assert_eq!(read.client_id, expected.as_deref());
                assert_eq!(read.body_offset, header_bytes.len());
                for end in 0..header_bytes.len() {
                    assert!(request_header(&header_bytes[..end], &Limits::default()).is_err());
                }
            }
        }
    }
}
