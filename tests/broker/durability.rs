//! Crashes: `kill -9` in the middle of concurrent acks=all produces; every acknowledged record is there
//! once, in order, at the offset it was acknowledged with. (A power cut is the simulator's subject.)

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest};
use ringlog_tests::broker::{Broker, Options, unique, wait_for};
use ringlog_tests::call::{create_topic, fetch_all, produce_request, topic_id};
use ringlog_tests::random::Random;
use ringlog_tests::records::Batch;
use ringlog_tests::wire::Client;

const PARTITIONS: i32 = 4;
const IN_FLIGHT: usize = 5;

/// What was acknowledged: partition -> base offset -> the batch's values.
type Acknowledged = Mutex<BTreeMap<i32, BTreeMap<i64, Vec<String>>>>;

/// Sends batches to one partition until the connection breaks; keeps what was acknowledged.
fn produce_until_the_crash(
    address: SocketAddr,
    topic: &str,
    name: &str,
    partition: i32,
    size: usize,
    shared: (&Acknowledged, &AtomicU64, &AtomicBool),
) {
    let (acknowledged, count, stop) = shared;
    let Ok(mut client) = Client::try_connect(address) else {
        return;
    };
    client.answer_within(Duration::from_secs(20));
    let padding = "x".repeat(size);
    let mut waiting = std::collections::VecDeque::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let values: Vec<_> = (0..3)
            .map(|part| format!("{name} {number}.{part} {padding}"))
            .collect();
        let request = produce_request(topic, partition, -1, Batch::of(&values).encode());
        let Ok(correlation_id) = client.send(9, &request) else {
            return;
        };
        waiting.push_back((correlation_id, values));
        if waiting.len() < IN_FLIGHT {
            continue;
        }
        let Some((correlation_id, values)) = waiting.pop_front() else {
            continue;
        };
        let Ok(frame) = client.receive_frame() else {
            return;
        };
        let answer = ringlog_tests::wire::decode::<ProduceRequest>(9, correlation_id, frame);
        let answer = &answer.responses[0].partition_responses[0];
        assert_eq!(answer.error_code, 0, "{answer:?}");
        let mut acknowledged = acknowledged
            .lock()
            .expect("no thread fails while it holds it");
        acknowledged
            .entry(partition)
            .or_default()
            .insert(answer.base_offset, values);
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn crash_while_producing(options: Options, seed_name: &str) {
    let Some(mut broker) = Broker::own(options) else {
        return;
    };
    let mut random = Random::seeded(seed_name);
    let topic = unique("durable");
    create_topic(
        &mut Client::connect(broker.address()),
        &topic,
        PARTITIONS,
        &[("segment.bytes", "1048576")],
    );
    let acknowledged = Acknowledged::default();
    for round in 0..5 {
        let (count, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let target = 50 + random.below(400);
        let sizes = [10, 300, 5000, 100_000];
        let address = broker.address();
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let name = format!("round {round} writer {writer}");
                let size = sizes[usize::try_from(random.below(4)).expect("small")];
                let (topic, shared) = (topic.as_str(), (&acknowledged, &count, &stop));
                scope.spawn(move || {
                    produce_until_the_crash(
                        address,
                        topic,
                        &name,
                        writer % PARTITIONS,
                        size,
                        shared,
                    );
                });
            }
            wait_for("acknowledged batches", Duration::from_secs(60), || {
                (count.load(Ordering::Relaxed) >= target).then_some(())
            });
            broker.kill();
            stop.store(true, Ordering::Relaxed);
        });
        broker.restart();
        verify(&broker, &topic, &acknowledged);
    }
    broker.stop();
    broker.restart();
    verify(&broker, &topic, &acknowledged);
}

fn verify(broker: &Broker, topic: &str, acknowledged: &Acknowledged) {
    let mut client = Client::connect(broker.address());
    wait_for("leaders after the restart", Duration::from_secs(30), || {
        topic_id(&mut client, topic)
    });
    let acknowledged = acknowledged
        .lock()
        .expect("no thread fails while it holds it");
    for partition in 0..PARTITIONS {
        let records = fetch_all(&mut client, topic, partition);
        for (offset, record) in (0..).zip(&records) {
            assert_eq!(
                record.offset, offset,
                "partition {partition}: offsets have no gap and no double"
            );
        }
        let mut seen = std::collections::BTreeSet::new();
        for record in &records {
            let text = record.text();
            assert!(
                seen.insert(text),
                "partition {partition} offset {}: stored twice",
                record.offset
            );
        }
        for (base, values) in acknowledged.get(&partition).into_iter().flatten() {
            for (offset, value) in (*base..).zip(values) {
                let found = usize::try_from(offset)
                    .ok()
                    .and_then(|index| records.get(index));
                let found = found.unwrap_or_else(|| {
                    panic!("partition {partition} offset {offset}: acknowledged, now beyond the end {}", records.len())
                });
                assert!(
                    found.text() == *value,
                    "partition {partition} offset {offset}: another record"
                );
            }
        }
        // What one writer sent is there in the order it was sent, also what was not acknowledged.
        let mut last: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for record in &records {
            let text = record.text();
            let words: Vec<_> = text.split(' ').take(5).collect();
            let (number, part) = words[4].split_once('.').expect("our own format");
            let position = (
                number.parse().expect("a number"),
                part.parse().expect("a number"),
            );
            let before = last.insert(words[..4].join(" "), position);
            assert!(
                before < Some(position),
                "partition {partition} offset {}: order",
                record.offset
            );
        }
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    crash_while_producing(Options::default(), "what_was_acknowledged_survives_kill_9");
}

#[test]
fn what_was_acknowledged_survives_kill_9_with_two_shards() {
    let options = Options::default().argument("--cores").argument("2");
    crash_while_producing(
        options,
        "what_was_acknowledged_survives_kill_9_with_two_shards",
    );
}

#[test]
fn what_was_acknowledged_survives_kill_9_with_the_poll_driver() {
    let options = Options::default().environment("RINGLOG_IO", "poll");
    crash_while_producing(
        options,
        "what_was_acknowledged_survives_kill_9_with_the_poll_driver",
    );
}

#[test]
fn what_was_acknowledged_survives_kill_9_in_page_cache_mode() {
    let options = Options::default().set("ringlog.durability", "page-cache");
    crash_while_producing(
        options,
        "what_was_acknowledged_survives_kill_9_in_page_cache_mode",
    );
}

#[test]
fn an_idempotent_producer_that_repeats_after_a_crash_leaves_no_gap_and_no_double() {
    let Some(mut broker) = Broker::own(Options::default()) else {
        return;
    };
    let mut random = Random::seeded("an_idempotent_producer_that_repeats_after_a_crash");
    let mut client = Client::connect(broker.address());
    let topic = unique("repeat");
    create_topic(&mut client, &topic, 1, &[]);
    let request = InitProducerIdRequest::default().with_transactional_id(None);
    let producer = client.call(4, &request.with_transaction_timeout_ms(60_000));
    let request_of = |number: i32| {
        let batch = Batch::of(&[number.to_string()]).at_present().by_producer(
            producer.producer_id.0,
            producer.producer_epoch,
            number,
        );
        produce_request(&topic, 0, -1, batch.encode())
    };
    let mut next = 0;
    for _ in 0..10 {
        // Some answers are awaited, then some requests are sent whose answers the crash swallows.
        for _ in 0..random.below(30) {
            let answer = client.call(9, &request_of(next));
            let answer = &answer.responses[0].partition_responses[0];
            assert_eq!(
                (answer.error_code, answer.base_offset),
                (0, i64::from(next)),
                "{answer:?}"
            );
            next += 1;
        }
        let unanswered = i32::try_from(random.below(5)).expect("small");
        for number in next..next + unanswered {
            client.send(9, &request_of(number)).unwrap();
        }
        broker.kill();
        broker.restart();
        client = Client::connect(broker.address());
        wait_for("leaders after the restart", Duration::from_secs(30), || {
            topic_id(&mut client, &topic)
        });
        for number in next..next + unanswered {
            let answer = client.call(9, &request_of(number));
            let answer = &answer.responses[0].partition_responses[0];
            assert_eq!(
                (answer.error_code, answer.base_offset),
                (0, i64::from(number)),
                "repeated: {answer:?}"
            );
        }
        next += unanswered;
    }
    let texts: Vec<_> = fetch_all(&mut client, &topic, 0)
        .iter()
        .map(ringlog_tests::records::Record::text)
        .collect();
    assert_eq!(
        texts,
        (0..next)
            .map(|number| number.to_string())
            .collect::<Vec<_>>()
    );
}
