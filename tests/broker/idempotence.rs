//! Idempotent produce (KIP-98): duplicates, gaps, fences; its state survives a crash.

use kafka_protocol::messages::InitProducerIdRequest;
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use ringlog_tests::broker::{Broker, Options, unique, wait_for};
use ringlog_tests::call::{create_topic, fetch_all, log_end_offset, produce};
use ringlog_tests::records::{Batch, Record};
use ringlog_tests::wire::Client;

use crate::error;

fn producer_id(client: &mut Client, version: i16) -> (i64, i16) {
    wait_for("a producer id", std::time::Duration::from_secs(30), || {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000);
        let response = client.call(version, &request);
        // Apache Kafka may still be fetching its first block of ids.
        let later = [
            error::COORDINATOR_NOT_AVAILABLE,
            error::COORDINATOR_LOAD_IN_PROGRESS,
        ];
        if later.contains(&response.error_code) {
            return None;
        }
        assert_eq!(response.error_code, 0, "v{version}: {response:?}");
        Some((response.producer_id.0, response.producer_epoch))
    })
}

fn send(
    client: &mut Client,
    topic: &str,
    producer: (i64, i16),
    sequence: i32,
    values: &[&str],
) -> PartitionProduceResponse {
    let batch = Batch::of(values)
        .at_present()
        .by_producer(producer.0, producer.1, sequence);
    produce(client, 9, topic, 0, batch.encode())
}

fn setup() -> (Broker, Client, String) {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let topic = unique("idempotent");
    create_topic(&mut client, &topic, 1, &[]);
    (broker, client, topic)
}

#[test]
fn every_version_of_init_producer_id_gives_a_new_id_with_epoch_0() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let mut seen = Vec::new();
    for version in (0..=5).chain(0..=5) {
        let (id, epoch) = producer_id(&mut client, version);
        assert!(id >= 0 && epoch == 0, "v{version}: {id} {epoch}");
        assert!(
            !seen.contains(&id),
            "v{version}: {id} was given before: {seen:?}"
        );
        seen.push(id);
    }
}

#[test]
fn a_duplicate_is_answered_with_its_first_offset_and_not_appended() {
    let (_broker, mut client, topic) = setup();
    let producer = producer_id(&mut client, 5);
    for round in 0..5 {
        let answer = send(&mut client, &topic, producer, round * 2, &["a", "b"]);
        assert_eq!(
            (answer.error_code, answer.base_offset),
            (0, i64::from(round) * 2),
            "{answer:?}"
        );
    }
    // The last five batches are remembered, in any order.
    for round in [4, 0, 2, 1, 3] {
        let answer = send(&mut client, &topic, producer, round * 2, &["a", "b"]);
        assert_eq!(
            (answer.error_code, answer.base_offset),
            (0, i64::from(round) * 2),
            "round {round}: {answer:?}"
        );
    }
    assert_eq!(log_end_offset(&mut client, &topic, 0), 10);
}

#[test]
fn a_gap_in_the_sequence_is_refused_and_the_right_one_is_taken() {
    let (_broker, mut client, topic) = setup();
    let producer = producer_id(&mut client, 5);
    assert_eq!(
        send(&mut client, &topic, producer, 0, &["a", "b"]).error_code,
        0
    );
    for sequence in [3, 100, i32::MAX] {
        let answer = send(&mut client, &topic, producer, sequence, &["x"]);
        assert_eq!(
            answer.error_code,
            error::OUT_OF_ORDER_SEQUENCE_NUMBER,
            "{sequence}: {answer:?}"
        );
    }
    let answer = send(&mut client, &topic, producer, 1, &["overlap", "x"]);
    assert_eq!(
        answer.error_code,
        error::OUT_OF_ORDER_SEQUENCE_NUMBER,
        "half a duplicate: {answer:?}"
    );
    let answer = send(&mut client, &topic, producer, 2, &["c"]);
    assert_eq!(
        (answer.error_code, answer.base_offset),
        (0, 2),
        "{answer:?}"
    );
    let texts: Vec<_> = fetch_all(&mut client, &topic, 0)
        .iter()
        .map(Record::text)
        .collect();
    assert_eq!(texts, ["a", "b", "c"]);
}

#[test]
fn a_newer_epoch_starts_at_sequence_0_and_fences_the_older() {
    let (_broker, mut client, topic) = setup();
    let (id, _) = producer_id(&mut client, 5);
    assert_eq!(
        send(&mut client, &topic, (id, 0), 0, &["old"]).error_code,
        0
    );
    let answer = send(&mut client, &topic, (id, 1), 5, &["x"]);
    assert_eq!(
        answer.error_code,
        error::OUT_OF_ORDER_SEQUENCE_NUMBER,
        "{answer:?}"
    );
    let answer = send(&mut client, &topic, (id, 1), 0, &["new"]);
    assert_eq!(
        (answer.error_code, answer.base_offset),
        (0, 1),
        "{answer:?}"
    );
    let answer = send(&mut client, &topic, (id, 0), 1, &["x"]);
    let fenced = [error::INVALID_PRODUCER_EPOCH, error::PRODUCER_FENCED];
    assert!(fenced.contains(&answer.error_code), "{answer:?}");
    assert_eq!(log_end_offset(&mut client, &topic, 0), 2);
}

#[test]
fn an_unknown_producer_may_begin_at_any_sequence_and_producers_do_not_mix() {
    let (_broker, mut client, topic) = setup();
    let (one, two) = (producer_id(&mut client, 5), producer_id(&mut client, 5));
    assert_eq!(send(&mut client, &topic, one, 41, &["one"]).base_offset, 0);
    assert_eq!(send(&mut client, &topic, two, 0, &["two"]).base_offset, 1);
    assert_eq!(send(&mut client, &topic, one, 42, &["one"]).base_offset, 2);
    assert_eq!(send(&mut client, &topic, two, 1, &["two"]).base_offset, 3);
    let answer = send(&mut client, &topic, one, 41, &["one"]);
    assert_eq!(
        (answer.error_code, answer.base_offset),
        (0, 0),
        "{answer:?}"
    );
}

#[test]
fn the_sequence_wraps_from_the_largest_to_0() {
    let (_broker, mut client, topic) = setup();
    let producer = producer_id(&mut client, 5);
    assert_eq!(
        send(&mut client, &topic, producer, i32::MAX - 1, &["a", "b"]).error_code,
        0
    );
    let answer = send(&mut client, &topic, producer, 0, &["c"]);
    assert_eq!(
        (answer.error_code, answer.base_offset),
        (0, 2),
        "{answer:?}"
    );
}

#[test]
fn producer_ids_and_sequences_survive_a_crash_and_a_clean_restart() {
    let Some(mut broker) = Broker::own(Options::default()) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    let topic = unique("idempotent");
    create_topic(&mut client, &topic, 1, &[]);
    let producer = producer_id(&mut client, 5);
    let mut ids = vec![producer.0];
    for round in 0..3_i32 {
        let base = i64::from(round) * 2;
        assert_eq!(
            send(&mut client, &topic, producer, round * 2, &["a", "b"]).base_offset,
            base
        );
        broker.end(round != 1);
        broker.restart();
        client = Client::connect(broker.address());
        let answer = wait_for(
            "the partition after a restart",
            std::time::Duration::from_secs(30),
            || {
                let answer = send(&mut client, &topic, producer, round * 2, &["a", "b"]);
                (answer.error_code == 0).then_some(answer)
            },
        );
        assert_eq!(
            answer.base_offset, base,
            "a duplicate after restart {round}: {answer:?}"
        );
        let answer = send(&mut client, &topic, producer, round * 2 + 5, &["x"]);
        assert_eq!(
            answer.error_code,
            error::OUT_OF_ORDER_SEQUENCE_NUMBER,
            "restart {round}: {answer:?}"
        );
        let (id, _) = producer_id(&mut client, 4);
        assert!(
            !ids.contains(&id),
            "{id} was given before restart {round}: {ids:?}"
        );
        ids.push(id);
    }
    assert_eq!(log_end_offset(&mut client, &topic, 0), 6);
}
