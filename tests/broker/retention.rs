//! Retention: old segments go by size, by age and below the log start offset, and by nothing else; who
//! reads meanwhile gets right bytes; what is gone stays gone over restarts and crashes.

use std::path::PathBuf;
use std::time::Duration;

use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::{FetchRequest, IncrementalAlterConfigsRequest};
use ringlog_tests::broker::{Broker, Options, unique, wait_for};
use ringlog_tests::call::{
    Fetch, create_topic, list_offset, log_end_offset, only_partition, produce, text,
};
use ringlog_tests::records::{Batch, Record, read};
use ringlog_tests::wire::{Client, decode};
use uuid::Uuid;

use crate::error;

const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of the value of each record: a segment of 16 KiB holds three.
const VALUE_BYTES: usize = 5000;
const SEGMENT_BYTES: u64 = 16_384;

/// Looks after the logs all the time; removes what is deleted `delay_ms` later.
fn eager(delay_ms: u64) -> Options {
    Options::default()
        .set("log.retention.check.interval.ms", 20)
        .set("log.segment.delete.delay.ms", delay_ms)
        .set("log.segment.bytes", SEGMENT_BYTES)
}

fn value(number: i64) -> String {
    format!("{number} {}", "v".repeat(VALUE_BYTES))
}

/// Produces records one by one, stamped now, the values numbered by offset.
fn fill(client: &mut Client, topic: &str, count: i64) {
    for _ in 0..count {
        let next = log_end_offset(client, topic, 0);
        let batch = Batch::of(&[value(next)]).at_present();
        let answer = produce(client, 9, topic, 0, batch.encode());
        assert_eq!((answer.error_code, answer.base_offset), (0, next));
    }
}

fn earliest(client: &mut Client, topic: &str) -> i64 {
    let (code, _, offset) = list_offset(client, 1, topic, 0, -2);
    assert_eq!(code, 0);
    offset
}

/// The log start offset and all records from there on, though retention goes on meanwhile.
fn read_rest(client: &mut Client, topic: &str) -> (i64, Vec<Record>) {
    'again: loop {
        let from = earliest(client, topic);
        let mut fetch = Fetch::of(topic, Uuid::nil(), from);
        let mut records: Vec<Record> = Vec::new();
        loop {
            let data = fetch.call(client, 11);
            if data.error_code == error::OFFSET_OUT_OF_RANGE {
                continue 'again;
            }
            assert_eq!(data.error_code, 0);
            let more = read(data.records.as_deref().unwrap_or_default()).records;
            let Some(last) = more.last() else {
                return (from, records);
            };
            fetch.offset = last.offset + 1;
            records.extend(more);
        }
    }
}

/// All records that there are: gapless from the earliest offset to the end, with their own values.
fn check_rest(client: &mut Client, topic: &str) -> usize {
    let (from, records) = read_rest(client, topic);
    for (offset, record) in (from..).zip(&records) {
        assert_eq!(record.offset, offset);
        assert_eq!(record.text(), value(offset));
    }
    let end = from + i64::try_from(records.len()).expect("few");
    assert_eq!(end, log_end_offset(client, topic, 0));
    records.len()
}

fn files(broker: &Broker, topic: &str, suffix: &str) -> Vec<PathBuf> {
    let directory = broker.logs().join(format!("{topic}-0"));
    let entries = std::fs::read_dir(&directory).expect("the partition is there");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let mut paths: Vec<PathBuf> = paths
        .filter(|path| path.to_string_lossy().ends_with(suffix))
        .collect();
    paths.sort();
    paths
}

fn set(client: &mut Client, topic: &str, key: &str, value: &str) {
    let config = AlterableConfig::default()
        .with_name(text(key))
        .with_value(Some(text(value)));
    let resource = AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text(topic))
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let answer = client.call(1, &request);
    assert_eq!(answer.responses[0].error_code, 0, "{answer:?}");
}

fn crashes_and_stops(mut test: impl FnMut(bool)) {
    for crash in [false, true] {
        test(crash);
    }
}

#[test]
fn a_log_is_bounded_by_size() {
    crashes_and_stops(|crash| {
        let Some(mut broker) = Broker::own(eager(0)) else {
            return;
        };
        let mut client = Client::connect(broker.address());
        let topic = unique("sized");
        let bound = 3 * SEGMENT_BYTES;
        let limit = [("retention.bytes", &*bound.to_string())];
        create_topic(&mut client, &topic, 1, &limit);
        fill(&mut client, &topic, 60);
        let log_bytes = |broker: &Broker| -> u64 {
            let logs = files(broker, &topic, ".log").into_iter();
            let length = |path| std::fs::metadata(path).map_or(0, |data| data.len());
            logs.map(length).sum()
        };
        // As Kafka: the oldest go while the rest is at least as large as the bound.
        wait_for("the log to shrink", PATIENCE, || {
            (log_bytes(&broker) < bound + SEGMENT_BYTES).then_some(())
        });
        assert!(log_bytes(&broker) >= bound, "more was deleted than is due");
        let start = earliest(&mut client, &topic);
        assert!(start > 0);
        let data = Fetch::of(&topic, Uuid::nil(), start - 1).call(&mut client, 11);
        assert_eq!(data.error_code, error::OFFSET_OUT_OF_RANGE);
        let kept = check_rest(&mut client, &topic);
        broker.end(crash);
        broker.restart();
        let mut client = Client::connect(broker.address());
        assert_eq!(earliest(&mut client, &topic), start);
        assert_eq!(check_rest(&mut client, &topic), kept);
        fill(&mut client, &topic, 20);
        check_rest(&mut client, &topic);
    });
}

#[test]
fn what_is_too_old_goes_the_active_segment_too() {
    crashes_and_stops(|crash| {
        let Some(mut broker) = Broker::own(eager(0)) else {
            return;
        };
        let mut client = Client::connect(broker.address());
        let (aged, kept) = (unique("aged"), unique("kept"));
        let hour = [("retention.ms", "3600000")];
        create_topic(&mut client, &aged, 1, &hour);
        create_topic(&mut client, &kept, 1, &[("retention.ms", "-1")]);
        for topic in [&kept, &aged] {
            for number in 0..10 {
                // Stamped 2024.
                let batch = Batch::of(&[value(number)]).encode();
                assert_eq!(produce(&mut client, 9, topic, 0, batch).error_code, 0);
            }
        }
        wait_for("all to be deleted", PATIENCE, || {
            (earliest(&mut client, &aged) == 10).then_some(())
        });
        assert_eq!(log_end_offset(&mut client, &aged, 0), 10);
        assert_eq!(check_rest(&mut client, &aged), 0);
        assert_eq!(check_rest(&mut client, &kept), 10);
        broker.end(crash);
        broker.restart();
        let mut client = Client::connect(broker.address());
        assert_eq!(earliest(&mut client, &aged), 10);
        // What is new enough stays, and offsets go on.
        fill(&mut client, &aged, 7);
        assert_eq!(check_rest(&mut client, &aged), 7);
        assert_eq!(check_rest(&mut client, &kept), 10);
    });
}

#[test]
fn a_compacted_topic_loses_nothing_to_retention() {
    let Some(broker) = Broker::own(eager(0)) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    let (other, topic) = (unique("deleted"), unique("policy"));
    let configs = [("retention.ms", "1"), ("retention.bytes", "1")];
    create_topic(&mut client, &other, 1, &configs);
    create_topic(&mut client, &topic, 1, &configs);
    set(&mut client, &topic, "retention.ms", "-1");
    set(&mut client, &topic, "retention.bytes", "-1");
    fill(&mut client, &topic, 10);
    set(&mut client, &topic, "cleanup.policy", "compact");
    set(&mut client, &topic, "retention.ms", "1");
    set(&mut client, &topic, "retention.bytes", "1");
    for number in 0..10 {
        let batch = Batch::of(&[value(number)]).encode();
        assert_eq!(produce(&mut client, 9, &other, 0, batch).error_code, 0);
    }
    // A look that takes the other's records has seen this topic, too.
    wait_for("the other topic's records to go", PATIENCE, || {
        (earliest(&mut client, &other) == 10).then_some(())
    });
    assert_eq!(earliest(&mut client, &topic), 0);
}

#[test]
fn a_changed_setting_acts_at_once() {
    // The next look by the clock is a day away.
    let options = eager(0).set("log.retention.check.interval.ms", 86_400_000);
    let Some(broker) = Broker::own(options) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    let topic = unique("changed");
    create_topic(&mut client, &topic, 1, &[]);
    fill(&mut client, &topic, 30);
    set(&mut client, &topic, "retention.bytes", "20000");
    wait_for("the log to shrink", PATIENCE, || {
        (earliest(&mut client, &topic) > 0).then_some(())
    });
    check_rest(&mut client, &topic);
}

#[test]
fn deleted_files_wait_and_are_removed_by_the_next_start() {
    crashes_and_stops(|crash| {
        let Some(mut broker) = Broker::own(eager(3_600_000)) else {
            return;
        };
        let mut client = Client::connect(broker.address());
        let topic = unique("delayed");
        create_topic(&mut client, &topic, 1, &[("retention.bytes", "20000")]);
        fill(&mut client, &topic, 30);
        wait_for("segments to be renamed", PATIENCE, || {
            (files(&broker, &topic, ".log.deleted").len() > 3).then_some(())
        });
        let start = earliest(&mut client, &topic);
        broker.end(crash);
        broker.restart();
        let mut client = Client::connect(broker.address());
        // Answered when the partition has been opened.
        assert!(earliest(&mut client, &topic) >= start);
        assert_eq!(files(&broker, &topic, ".deleted"), Vec::<PathBuf>::new());
        check_rest(&mut client, &topic);
    });
}

/// A consumer that takes its time: its answer is far larger than the sockets' buffers, and the segment
/// goes, file and all, while it is being sent.
#[test]
fn a_segment_that_goes_is_still_sent_whole() {
    for driver in ["uring", "poll"] {
        // 16 MiB and more in one segment.
        let options = eager(0).set("log.segment.bytes", 1 << 26);
        let Some(broker) = Broker::own(options.set("ringlog.io", driver)) else {
            return;
        };
        let mut client = Client::connect(broker.address());
        let topic = unique("slow");
        create_topic(&mut client, &topic, 1, &[]);
        let chunk = "c".repeat(400_000);
        for number in 0..50 {
            let batch = Batch::of(&[format!("{number} {chunk}")]).at_present();
            let answer = produce(&mut client, 9, &topic, 0, batch.encode());
            assert_eq!(answer.error_code, 0);
        }
        let mut slow = Client::connect(broker.address());
        let fetch = Fetch::of(&topic, Uuid::nil(), 0);
        let ticket = slow.send(11, &fetch.request(11)).expect("it is sent");
        // Answered in the order of arrival: when this one is, that one is on its way.
        let mut probe = Client::connect(broker.address());
        assert_eq!(fetch.call(&mut probe, 11).error_code, 0);
        set(&mut client, &topic, "retention.bytes", "0");
        wait_for("the files to go", PATIENCE, || {
            let old = files(&broker, &topic, "00000000000000000000.log");
            let renamed = files(&broker, &topic, ".deleted");
            (old.is_empty() && renamed.is_empty()).then_some(())
        });
        let frame = slow.receive_frame().expect("the answer comes whole");
        let data = only_partition(decode::<FetchRequest>(11, ticket, frame));
        if data.error_code == error::OFFSET_OUT_OF_RANGE {
            panic!(
                "the segment was deleted before the fetch was read: the test has proven nothing"
            );
        }
        assert_eq!(data.error_code, 0);
        // `read` checks each batch's CRC.
        let contents = read(data.records.as_deref().unwrap_or_default());
        assert_eq!(contents.records.len(), 50);
        for (number, record) in contents.records.iter().enumerate() {
            assert!(record.text().starts_with(&format!("{number} c")));
        }
        let data = Fetch::of(&topic, Uuid::nil(), 0).call(&mut client, 11);
        assert_eq!(data.error_code, error::OFFSET_OUT_OF_RANGE);
    }
}
