//! Gaps in compacted logs. Apache Kafka compacts above its recovery point: after its crash what its
//! compaction has left are no losses, at no start that follows. After ours they are: what stands behind
//! one was never promised to stay, and would hide it.

use std::fs;
use std::time::Duration;

use ringlog_engine::record::BatchHeader;
use ringlog_tests::broker::{Broker, Options, wait_for};
use ringlog_tests::call::{create_topic, fetch_all, log_end_offset, produce, produce_values};
use ringlog_tests::records::Batch;
use ringlog_tests::wire::Client;

use crate::place::segments;

const TOPIC: &str = crate::place::TOPIC;

#[test]
fn gaps_of_a_crashed_kafka_outlast_a_crash_of_ours() {
    let options = || Options::default().set("log.cleaner.enable", false);
    let Some(mut broker) = Broker::own(options()) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    let configs = [("cleanup.policy", "compact"), ("segment.bytes", "2000")];
    create_topic(&mut client, TOPIC, 1, &configs);
    for number in 0..12 {
        let value = format!("{number} {}", "x".repeat(900));
        let batch = Batch::keyed(&[("key", Some(value.as_str()))]);
        let answer = produce(&mut client, 9, TOPIC, 0, batch.encode());
        assert_eq!(answer.error_code, 0, "{answer:?}");
    }
    broker.stop();

    // As Kafka's cleaner leaves it: a segment in the middle is empty of records, and gone.
    let logs = segments(&broker.logs());
    assert!(logs.len() > 4, "{logs:?}");
    let bytes = fs::read(&logs[2]).expect("a segment");
    let first = BatchHeader::parse(&bytes).expect("a batch").base_offset;
    for suffix in ["log", "index", "timeindex", "snapshot"] {
        fs::remove_file(logs[2].with_extension(suffix)).ok(); // not each segment has all of them
    }
    // As a crash leaves it: no mark of a clean stop, and a checkpoint of long ago.
    fs::remove_file(broker.logs().join(".kafka_cleanshutdown")).expect("a clean stop");
    let checkpoint = broker.logs().join("recovery-point-offset-checkpoint");
    let text = fs::read_to_string(&checkpoint).expect("a checkpoint");
    let lines = text.lines().map(|line| match line.starts_with(TOPIC) {
        true => format!("{TOPIC} 0 1"),
        false => line.to_owned(),
    });
    let lines: Vec<_> = lines.collect();
    fs::write(&checkpoint, lines.join("\n") + "\n").expect("writable");

    broker.restart();
    let mut client = Client::connect(broker.address());
    let end = log_end_offset(&mut client, TOPIC, 0);
    let records = fetch_all(&mut client, TOPIC, 0);
    assert_eq!(end, 12, "{}", broker.log());
    let has_first = records.iter().any(|record| record.offset == first);
    assert!(
        !has_first && records.len() < 12,
        "{} records",
        records.len()
    );
    // Now Ringlog ran last.
    create_topic(&mut client, "other", 1, &[]);
    produce_values(&mut client, "other", &["a"]);
    let mark = broker.logs().join(".ringlog-ran-last");
    wait_for("the mark", Duration::from_secs(30), || {
        mark.exists().then_some(())
    });
    broker.kill();
    broker.restart();
    let mut client = Client::connect(broker.address());
    assert_eq!(
        log_end_offset(&mut client, TOPIC, 0),
        end,
        "{}",
        broker.log()
    );
    assert_eq!(fetch_all(&mut client, TOPIC, 0).len(), records.len());
}

#[test]
fn a_hole_that_our_own_crash_has_left_is_the_end() {
    let options = || {
        let options = Options::default().set("log.cleaner.enable", false);
        // Without a journal, which would fill it again.
        options.set("ringlog.durability", "page-cache")
    };
    for was_stopped in [false, true] {
        let Some(mut broker) = Broker::own(options()) else {
            return;
        };
        if was_stopped {
            broker.stop();
            broker.restart();
        }
        let mut client = Client::connect(broker.address());
        let configs = [("cleanup.policy", "compact"), ("segment.bytes", "2000")];
        create_topic(&mut client, TOPIC, 1, &configs);
        for _ in 0..12 {
            let value = "x".repeat(900);
            let batch = Batch::keyed(&[("key", Some(value.as_str()))]);
            let answer = produce(&mut client, 9, TOPIC, 0, batch.encode());
            assert_eq!(answer.error_code, 0, "{answer:?}");
        }
        broker.kill();
        // As a power failure leaves it: the end of a segment did not reach the disk, what is behind it did.
        let logs = segments(&broker.logs());
        assert!(logs.len() > 4, "{logs:?}");
        let bytes = fs::read(&logs[2]).expect("a segment");
        let first = BatchHeader::parse(&bytes).expect("a batch");
        fs::write(&logs[2], &bytes[..first.size_in_bytes()]).expect("writable");

        broker.restart();
        let mut client = Client::connect(broker.address());
        let end = log_end_offset(&mut client, TOPIC, 0);
        assert_eq!(
            end,
            first.base_offset + 1,
            "was_stopped {was_stopped}: {}",
            broker.log()
        );
    }
}
