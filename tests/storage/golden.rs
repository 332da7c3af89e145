//! Directories of this release and of three of Apache Kafka's, kept as they were left: every release of
//! Ringlog opens them. `golden/make` made them and wrote down what they hold; no Java is needed here.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use kafka_protocol::messages::{GroupId, OffsetFetchRequest};
use ringlog_tests::broker::{Broker, Directory, Options};
use ringlog_tests::call::{Fetch, fetch_to_end, list_offset, text};
use ringlog_tests::records::Record;
use ringlog_tests::wire::Client;
use serde_json::Value;
use uuid::Uuid;

/// Unpacks one; gives what it holds.
fn unpack(name: &str, to: &Path) -> Value {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("storage/golden");
    let archive = golden.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(&archive).arg("-C").arg(to);
    let status = tar.status().expect("tar is installed");
    assert!(status.success(), "{tar:?}: {status}");
    let contents = fs::read(to.join("contents.json")).expect("in the archive");
    serde_json::from_slice(&contents).expect("JSON")
}

/// Nothing expires, however old the directory is by now.
fn options() -> Options {
    Options::default()
        .set("broker.id", 1)
        .set("log.retention.ms", -1)
        .set("offsets.retention.minutes", i32::MAX)
}

/// Every record, offset and committed offset is served.
fn check(broker: &Broker, contents: &Value) {
    let mut client = Client::connect(broker.address());
    let mut records = 0;
    for (topic, partitions) in contents["topics"].as_object().expect("topics") {
        for (index, expected) in partitions.as_object().expect("partitions") {
            let index = index.parse().expect("a partition");
            for (end, timestamp) in [("start", -2), ("end", -1)] {
                let (error, _, offset) = list_offset(&mut client, 1, topic, index, timestamp);
                assert_eq!(error, 0, "{topic}-{index}");
                assert_eq!(offset, expected[end], "{end} of {topic}-{index}");
            }
            let start = expected["start"].as_i64().expect("an offset");
            let mut fetch = Fetch::of(topic, Uuid::nil(), start);
            fetch.partition = index;
            let found = fetch_to_end(&mut client, 11, fetch);
            let expected = expected["records"].as_array().expect("records");
            for (found, expected) in found.iter().zip(expected) {
                assert_eq!(&as_json(found), expected, "{topic}-{index}");
            }
            assert_eq!(found.len(), expected.len(), "records of {topic}-{index}");
            records += expected.len();
        }
    }
    let groups = contents["groups"].as_object().expect("groups");
    assert!(records > 300 && groups.len() > 1, "{records}, {groups:?}");
    for (group, expected) in groups {
        assert_eq!(&committed(&mut client, group), expected, "{group}");
    }
}

/// A record as the archive has it: offset, timestamp, key, value, headers.
fn as_json(record: &Record) -> Value {
    let text = |bytes: &Option<Vec<u8>>| {
        let bytes = bytes.as_ref()?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    };
    let headers = record.headers.iter();
    let headers: Vec<Value> = headers
        .map(|(name, value)| serde_json::json!([name, text(value)]))
        .collect();
    serde_json::json!([
        record.offset,
        record.timestamp,
        text(&record.key),
        text(&record.value),
        headers
    ])
}

/// The committed offsets of a group, by partition: offset, leader epoch, metadata.
fn committed(client: &mut Client, group: &str) -> Value {
    let request = OffsetFetchRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_topics(None);
    let answer = client.call(7, &request);
    assert_eq!(answer.error_code, 0, "{answer:?}");
    let mut found = BTreeMap::new();
    for topic in &answer.topics {
        for partition in &topic.partitions {
            let key = format!("{}-{}", topic.name.0, partition.partition_index);
            let value = serde_json::json!([
                partition.committed_offset,
                partition.committed_leader_epoch,
                partition.metadata.as_ref().map(|text| text.to_string())
            ]);
            found.insert(key, value);
        }
    }
    serde_json::to_value(found).expect("strings as keys")
}

#[test]
fn directories_of_apache_kafka_are_adopted_with_all_that_they_hold() {
    for name in ["kafka-2.8.2", "kafka-3.9.1", "kafka-4.3.1"] {
        let directory = Directory::new();
        let contents = unpack(name, directory.path());
        let logs = directory.path().join("logs").display().to_string();
        let options = options().argument("--adopt").argument(&logs);
        let Some(broker) = Broker::own(options) else {
            return;
        };
        check(&broker, &contents);
    }
}

#[test]
fn directories_of_ringlog_are_opened_with_all_that_they_hold() {
    for name in ["ringlog-0.1.0-stopped", "ringlog-0.1.0-killed"] {
        let Some(mut broker) = Broker::own(options()) else {
            return;
        };
        broker.stop();
        let data = broker.data();
        fs::remove_dir_all(&data).expect("ours");
        fs::create_dir(&data).expect("ours");
        let contents = unpack(name, &data);
        fs::remove_file(data.join("contents.json")).expect("ours");
        broker.restart();
        check(&broker, &contents);
    }
}
