//! Many requests on one connection: answered in their order; frames that arrive in pieces.

use kafka_protocol::messages::{
    ApiVersionsRequest, FetchRequest, ListOffsetsRequest, MetadataRequest, ProduceRequest,
};
use ringlog_tests::broker::{Broker, unique};
use ringlog_tests::call::{Fetch, create_topic, fetch_all, produce_request};
use ringlog_tests::random::Random;
use ringlog_tests::records::{Batch, Record};
use ringlog_tests::wire::{self, Client};

#[test]
fn two_hundred_requests_in_one_write_are_answered_in_order() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let topic = unique("pipelined");
    let id = create_topic(&mut client, &topic, 4, &[]);
    let mut bytes = Vec::new();
    let mut ids = Vec::new();
    for number in 0..200 {
        let correlation_id = client.correlation_id();
        ids.push(correlation_id);
        // Partitions of several shards, a long poll between short answers, and requests without either.
        bytes.extend(match number % 5 {
            0 | 1 => {
                let batch = Batch::of(&[number.to_string()]).encode();
                wire::frame(
                    correlation_id,
                    9,
                    &produce_request(&topic, number % 4, -1, batch),
                )
            }
            2 => wire::frame(correlation_id, 2, &ApiVersionsRequest::default()),
            3 => {
                let mut fetch = Fetch::of(&topic, id, 1_000_000 * i64::from(number % 2));
                (fetch.max_wait_ms, fetch.min_bytes, fetch.partition) = (20, 1 << 20, number % 4);
                wire::frame(correlation_id, 12, &fetch.request(12))
            }
            _ => wire::frame(
                correlation_id,
                9,
                &MetadataRequest::default().with_topics(Some(Vec::new())),
            ),
        });
    }
    client.write(&bytes).unwrap();
    for (number, correlation_id) in (0..).zip(ids) {
        match number % 5 {
            0 | 1 => {
                let answer = client.receive::<ProduceRequest>(9, correlation_id);
                assert_eq!(
                    answer.responses[0].partition_responses[0].error_code, 0,
                    "{number}: {answer:?}"
                );
            }
            2 => assert_eq!(
                client
                    .receive::<ApiVersionsRequest>(2, correlation_id)
                    .error_code,
                0
            ),
            3 => assert_eq!(
                client
                    .receive::<FetchRequest>(12, correlation_id)
                    .error_code,
                0
            ),
            _ => assert_eq!(
                client
                    .receive::<MetadataRequest>(9, correlation_id)
                    .brokers
                    .len(),
                1
            ),
        }
    }
    for partition in 0..4 {
        let found: Vec<_> = fetch_all(&mut client, &topic, partition)
            .iter()
            .map(Record::text)
            .collect();
        let sent = (0..200).filter(|number| number % 5 < 2 && number % 4 == partition);
        assert_eq!(
            found,
            sent.map(|number| number.to_string()).collect::<Vec<_>>(),
            "partition {partition}"
        );
    }
}

#[test]
fn frames_in_small_pieces_are_put_together() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let topic = unique("pieces");
    create_topic(&mut client, &topic, 1, &[]);
    let mut random = Random::seeded("frames_in_small_pieces_are_put_together");
    for round in 0..30_i64 {
        let value = random.bytes(300);
        let correlation_id = client.correlation_id();
        let request = produce_request(&topic, 0, -1, Batch::of(&[&value]).encode());
        let frame = wire::frame(correlation_id, 9, &request);
        let mut rest = frame.as_slice();
        while !rest.is_empty() {
            let most = if round % 2 == 0 { 1 } else { 40 };
            let length = usize::try_from(1 + random.below(most))
                .unwrap()
                .min(rest.len());
            client.write(&rest[..length]).unwrap();
            rest = &rest[length..];
        }
        let answer = client.receive::<ProduceRequest>(9, correlation_id);
        let partition = &answer.responses[0].partition_responses[0];
        assert_eq!(
            (partition.error_code, partition.base_offset),
            (0, round),
            "{answer:?}"
        );
    }
}

#[test]
fn a_half_sent_frame_keeps_no_other_client_waiting() {
    let broker = Broker::start();
    let mut healthy = Client::connect(broker.address());
    let topic = unique("half-sent");
    create_topic(&mut healthy, &topic, 1, &[]);
    let request = produce_request(&topic, 0, -1, Batch::of(&["half"]).encode());
    let mut waiting = Vec::new();
    for number in 0..50 {
        let mut client = Client::connect(broker.address());
        let correlation_id = client.correlation_id();
        let frame = wire::frame(correlation_id, 9, &request);
        let half = number * frame.len() / 50;
        client.write(&frame[..half]).unwrap();
        waiting.push((client, correlation_id, frame[half..].to_vec()));
    }
    for _ in 0..20 {
        assert_eq!(
            healthy.call(2, &ApiVersionsRequest::default()).error_code,
            0
        );
        let listed = ListOffsetsRequest::default().with_replica_id((-1).into());
        assert!(healthy.call(5, &listed).topics.is_empty());
    }
    for (base, (mut client, correlation_id, rest)) in (0..).zip(waiting) {
        client.write(&rest).unwrap();
        let answer = client.receive::<ProduceRequest>(9, correlation_id);
        let partition = &answer.responses[0].partition_responses[0];
        assert_eq!(
            (partition.error_code, partition.base_offset),
            (0, base),
            "{answer:?}"
        );
    }
}

#[test]
fn a_client_that_reads_nothing_does_not_stop_the_others() {
    let broker = Broker::start();
    let mut healthy = Client::connect(broker.address());
    let topic = unique("slow-reader");
    let id = create_topic(&mut healthy, &topic, 1, &[]);
    let value = vec![b'x'; 500_000];
    for _ in 0..4 {
        ringlog_tests::call::produce_values(&mut healthy, &topic, std::slice::from_ref(&value));
    }
    // 40 answers of 2 MB each lie unread; the broker must neither block nor buffer without bound.
    let before = broker.resident_bytes();
    let mut slow = Client::connect(broker.address());
    let ids: Vec<_> = (0..40)
        .map(|_| {
            slow.send(12, &Fetch::of(&topic, id, 0).request(12))
                .unwrap()
        })
        .collect();
    for _ in 0..50 {
        assert_eq!(
            healthy.call(2, &ApiVersionsRequest::default()).error_code,
            0
        );
        let contents = Fetch::of(&topic, id, 3).contents(&mut healthy, 12);
        assert_eq!(contents.records.len(), 1);
    }
    if let (Some(before), Some(after), true) = (before, broker.resident_bytes(), broker.is_own()) {
        assert!(
            after < before + (64 << 20),
            "resident bytes grew from {before} to {after}"
        );
    }
    for correlation_id in ids {
        let answer = slow.receive::<FetchRequest>(12, correlation_id);
        let data = ringlog_tests::call::only_partition(answer);
        assert_eq!(
            ringlog_tests::records::read(&data.records.unwrap_or_default())
                .records
                .len(),
            4
        );
    }
}
