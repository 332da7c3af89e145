//! Patched frames against what `kafka-protocol` reads and writes.

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::FetchPartition;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{
    FetchRequest, FetchResponse, ProduceRequest, ProduceResponse, RequestHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

use super::*;

fn opened(frame: &[u8], api_key: i16, api_version: i16, correlation_id: i32) -> Bytes {
    let mut bytes = Bytes::copy_from_slice(frame);
    assert_eq!(bytes.get_i32() as usize, frame.len() - 4);
    let header = RequestHeader::decode(&mut bytes, 1).unwrap();
    assert_eq!(header.request_api_key, api_key);
    assert_eq!(header.request_api_version, api_version);
    assert_eq!(header.correlation_id, correlation_id);
    assert_eq!(header.client_id.unwrap().as_str(), CLIENT_ID);
    bytes
}

fn name(text: &'static str) -> TopicName {
    TopicName(StrBytes::from_static_str(text))
}

#[test]
fn a_patched_produce_frame_is_what_kafka_protocol_reads() {
    let mut frame = produce_frame(PRODUCE_VERSION, ("marks", 3), -1, b"the batch");
    set_correlation_id(&mut frame, 77);
    let mut bytes = opened(&frame, 0, 7, 77);
    let request = ProduceRequest::decode(&mut bytes, PRODUCE_VERSION).unwrap();
    assert!(bytes.is_empty());
    assert_eq!(request.acks, -1);
    assert!(request.transactional_id.is_none());
    assert_eq!(request.topic_data.len(), 1);
    let topic = &request.topic_data[0];
    assert_eq!(topic.name, name("marks"));
    assert_eq!(topic.partition_data[0].index, 3);
    let records = topic.partition_data[0].records.as_ref().unwrap();
    assert_eq!(&records[..], b"the batch");
}

#[test]
fn a_patched_fetch_frame_is_what_kafka_protocol_reads() {
    let mut frame = FetchFrame::new("marks", 5, 1 << 20);
    let bytes = frame.take(9, 123_456_789_012);
    let mut body = opened(&bytes, 1, 11, 9);
    let request = FetchRequest::decode(&mut body, FETCH_VERSION).unwrap();
    assert!(body.is_empty());
    assert_eq!((request.session_epoch, request.max_bytes), (-1, 50 << 20));
    let partition = &request.topics[0].partitions[0];
    assert_eq!(partition.partition, 5);
    assert_eq!(partition.fetch_offset, 123_456_789_012);
    frame.restore(bytes);
    assert_eq!(frame.take(10, 1).len(), 4 + body_length(&request));
}

#[test]
fn partitions_take_turns_to_be_the_first() {
    for version in [FETCH_VERSION_OLD, FETCH_VERSION] {
        let mut frame = FetchFrame::of_partitions(version, "marks", &[4, 5, 9], 1 << 20);
        for turn in 0..7 {
            for (place, offset) in [400, 500, 900].into_iter().enumerate() {
                frame.set_offset(place, offset + turn);
            }
            let bytes = frame.take_as_set(9);
            let mut body = opened(&bytes, 1, version, 9);
            let request = FetchRequest::decode(&mut body, version).unwrap();
            assert!(body.is_empty());
            let of = |partition: &FetchPartition| (partition.partition, partition.fetch_offset);
            let asked: Vec<_> = request.topics[0].partitions.iter().map(of).collect();
            let mut expected = [(4, 400 + turn), (5, 500 + turn), (9, 900 + turn)];
            expected.rotate_left(usize::try_from(turn % 3).unwrap());
            assert_eq!(asked, expected, "turn {turn}");
            frame.restore(bytes);
            frame.rotate();
        }
    }
}

fn body_length(request: &FetchRequest) -> usize {
    let header = 2 + 2 + 4 + 2 + CLIENT_ID.len();
    header + request.compute_size(FETCH_VERSION).unwrap()
}

fn answer(message: &impl Encodable, version: i16) -> BytesMut {
    let mut bytes = BytesMut::new();
    bytes.extend_from_slice(&42i32.to_be_bytes());
    message.encode(&mut bytes, version).unwrap();
    bytes
}

#[test]
fn produce_answers_give_error_and_base_offset() {
    let partition = PartitionProduceResponse::default()
        .with_index(3)
        .with_error_code(19)
        .with_base_offset(1000);
    let topic = TopicProduceResponse::default()
        .with_name(name("marks"))
        .with_partition_responses(vec![partition]);
    let response = ProduceResponse::default().with_responses(vec![topic]);
    let bytes = answer(&response, PRODUCE_VERSION);
    let expected = ProduceAnswer {
        correlation_id: 42,
        error_code: 19,
        base_offset: 1000,
    };
    assert_eq!(parse_produce(&bytes).unwrap(), expected);
    for cut in 0..33 {
        assert!(parse_produce(&bytes[..cut]).is_err(), "{cut}");
    }
}

#[test]
fn fetch_answers_give_the_records_in_place() {
    let partition = PartitionData::default()
        .with_partition_index(5)
        .with_high_watermark(50)
        .with_records(Some(Bytes::from_static(b"batches")));
    let topic = FetchableTopicResponse::default()
        .with_topic(name("marks"))
        .with_partitions(vec![partition]);
    let response = FetchResponse::default().with_responses(vec![topic]);
    let bytes = answer(&response, FETCH_VERSION);
    let parsed = parse_fetch(&bytes).unwrap();
    assert_eq!((parsed.correlation_id, parsed.error_code), (42, 0));
    assert_eq!(
        (parsed.high_watermark, parsed.records),
        (50, &b"batches"[..])
    );
    assert!(parse_fetch(&bytes[..bytes.len() - 1]).is_err());

    let refused = answer(&FetchResponse::default().with_error_code(70), FETCH_VERSION);
    assert_eq!(parse_fetch(&refused).unwrap().error_code, 70);
}

#[test]
fn http_is_no_answer() {
    assert!(parse_produce(b"HTTP/1.1 400 Bad Request\r\n").is_err());
}
