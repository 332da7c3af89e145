//! Compaction: of each key the last record stays, at its offset; offsets of groups stay; what is compacted
//! stays so over restarts and crashes.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{
    FindCoordinatorRequest, GroupId, OffsetCommitRequest, OffsetFetchRequest,
};
use ringlog_tests::broker::{Broker, Options, unique, wait_for};
use ringlog_tests::call::{
    Fetch, create_topic, fetch_all, fetch_to_end, log_end_offset, produce, text, topic_name,
};
use ringlog_tests::records::{Batch, Codec};
use ringlog_tests::wire::Client;
use uuid::Uuid;

use crate::error;

const PATIENCE: Duration = Duration::from_secs(60);
const KEYS: usize = 7;

/// Compacts whatever is dirty, all the time.
fn eager() -> Options {
    Options::default()
        .set("log.cleaner.backoff.ms", 20)
        .set("log.cleaner.min.cleanable.ratio", "0.01")
        .set("log.segment.delete.delay.ms", 0)
        .set("log.segment.bytes", 16_384)
}

/// What was produced: the last offset and value of each key, `None` for a tombstone.
type Model = BTreeMap<String, (i64, Option<String>)>;

/// Produces `count` batches with the keys in turn; some have several, one key in them twice.
fn fill(client: &mut Client, topic: &str, count: usize, model: &mut Model) {
    let codecs = [Codec::None, Codec::Lz4, Codec::Gzip];
    for number in 0..count {
        let end = log_end_offset(client, topic, 0);
        let record = |part: usize| {
            let key = format!("k{}", (number + part * 3) % KEYS);
            // The last key is a tombstone from time to time.
            let is_gone = number % 5 == 0 && part == 1;
            let value = (!is_gone).then(|| format!("{end}.{part} {}", "v".repeat(700)));
            (key, value)
        };
        let records: Vec<_> = (0..1 + number % 3).map(record).collect();
        let batch = Batch::keyed(&records).at_present();
        let batch = batch.compressed(codecs[number % codecs.len()]);
        let answer = produce(client, 9, topic, 0, batch.encode());
        assert_eq!((answer.error_code, answer.base_offset), (0, end));
        for (offset, (key, value)) in (end..).zip(records) {
            model.insert(key, (offset, value));
        }
    }
}

/// Everything that is there: increasing offsets; the last record of each key is the model's, but for
/// tombstones, which may be gone. Gives the number of records.
fn check(client: &mut Client, topic: &str, model: &Model) -> usize {
    let records = fetch_all(client, topic, 0);
    let mut last: BTreeMap<String, (i64, Option<String>)> = BTreeMap::new();
    let mut before = -1;
    for record in &records {
        assert!(record.offset > before, "{} after {before}", record.offset);
        before = record.offset;
        let bytes = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).expect("text");
        let key = record.key.as_ref().map(bytes).expect("all have keys");
        last.insert(key, (record.offset, record.value.as_ref().map(bytes)));
    }
    for (key, expected) in model {
        match last.get(key) {
            Some(found) => assert_eq!(found, expected, "{key}"),
            None => assert_eq!(expected.1, None, "{key} is gone"),
        }
    }
    assert!(last.keys().all(|key| model.contains_key(key)));
    // Any offset may be asked for, also one that is gone.
    for from in (0..log_end_offset(client, topic, 0)).step_by(17) {
        let found = fetch_to_end(client, 11, Fetch::of(topic, Uuid::nil(), from));
        // The cleaner may go on meanwhile: what is found was there before.
        let mut rest = records.iter().filter(|record| record.offset >= from);
        let was_there = found
            .iter()
            .all(|found| rest.any(|old| old.offset == found.offset));
        assert!(was_there, "from offset {from}: {found:?}");
    }
    records.len()
}

#[test]
fn the_last_record_of_each_key_stays() {
    for crash in [false, true] {
        let Some(mut broker) = Broker::own(eager()) else {
            return;
        };
        let mut client = Client::connect(broker.address());
        let topic = unique("compacted");
        create_topic(&mut client, &topic, 1, &[("cleanup.policy", "compact")]);
        let mut model = Model::new();
        fill(&mut client, &topic, 60, &mut model);
        let wait = |client: &mut Client| {
            wait_for("old records to go", PATIENCE, || {
                // What the active segment has, and one of each key, are fewer.
                let all = usize::try_from(log_end_offset(client, &topic, 0)).expect("few");
                (fetch_all(client, &topic, 0).len() < all - 40).then_some(())
            });
        };
        wait(&mut client);
        let kept = check(&mut client, &topic, &model);
        assert!(kept >= KEYS);
        let checkpoint = broker.logs().join("cleaner-offset-checkpoint");
        wait_for("the checkpoint", PATIENCE, || {
            let text = std::fs::read_to_string(&checkpoint).ok()?;
            text.contains(&format!("{topic} 0 ")).then_some(())
        });
        broker.end(crash);
        broker.restart();
        let mut client = Client::connect(broker.address());
        check(&mut client, &topic, &model);
        fill(&mut client, &topic, 60, &mut model);
        wait(&mut client);
        check(&mut client, &topic, &model);
        let data = broker.logs().join(format!("{topic}-0"));
        wait_for("left-overs to go", PATIENCE, || {
            let names = std::fs::read_dir(&data).expect("the partition is there");
            let names = names.map(|entry| entry.expect("readable").file_name());
            let is_pending = |name: String| {
                [".deleted", ".cleaned", ".swap"]
                    .iter()
                    .any(|suffix| name.ends_with(suffix))
            };
            let mut names = names.map(|name| name.to_string_lossy().into_owned());
            (!names.any(is_pending)).then_some(())
        });
    }
}

#[test]
fn a_record_without_a_key_is_refused() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let topic = unique("keyless");
    create_topic(&mut client, &topic, 1, &[("cleanup.policy", "compact")]);
    let answer = produce(&mut client, 9, &topic, 0, Batch::of(&["v"]).encode());
    assert_eq!(answer.error_code, error::INVALID_RECORD, "{answer:?}");
    let batch = Batch::keyed(&[("k", Some("v"))]).encode();
    assert_eq!(produce(&mut client, 9, &topic, 0, batch).error_code, 0);
}

fn commit(client: &mut Client, group: &str, topic: &str, offset: i64) {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(0)
        .with_committed_offset(offset)
        .with_committed_metadata(Some(text(&"m".repeat(100))));
    let topic = OffsetCommitRequestTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    let answer = client.call(6, &request);
    assert_eq!(answer.topics[0].partitions[0].error_code, 0, "{answer:?}");
}

fn committed(client: &mut Client, group: &str, topic: &str) -> i64 {
    let topic = OffsetFetchRequestTopic::default()
        .with_name(topic_name(topic))
        .with_partition_indexes(vec![0]);
    let request = OffsetFetchRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_topics(Some(vec![topic]));
    let answer = client.call(5, &request);
    // While the group is being loaded there is an error and nothing else.
    let topic = answer.topics.first();
    topic.map_or(-1, |topic| topic.partitions[0].committed_offset)
}

#[test]
fn offsets_of_groups_stay_when_their_topic_is_compacted() {
    let options = eager()
        .set("offsets.topic.num.partitions", 1)
        .set("offsets.topic.segment.bytes", 4096);
    let Some(mut broker) = Broker::own(options) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    let topic = unique("committed");
    create_topic(&mut client, &topic, 1, &[]);
    wait_for("the coordinator", PATIENCE, || {
        let request = FindCoordinatorRequest::default().with_key(text("one"));
        (client.call(2, &request).error_code == 0).then_some(())
    });
    commit(&mut client, "other", &topic, 7);
    let count = 150;
    for offset in 0..count {
        commit(&mut client, "one", &topic, offset);
    }
    let data = broker.logs().join("__consumer_offsets-0");
    let bytes = || -> u64 {
        let files = std::fs::read_dir(&data).expect("the partition is there");
        let files = files.map(|entry| entry.expect("readable"));
        let logs = files.filter(|file| file.file_name().to_string_lossy().ends_with(".log"));
        // One that is replaced meanwhile has no length.
        logs.map(|file| file.metadata().map_or(0, |data| data.len()))
            .sum()
    };
    // 150 commits of 200 bytes and more.
    wait_for("old commits to go", PATIENCE, || {
        (bytes() < 15_000).then_some(())
    });
    for crash in [true, false] {
        broker.end(crash);
        broker.restart();
        let mut client = Client::connect(broker.address());
        wait_for("the group to be loaded", PATIENCE, || {
            (committed(&mut client, "one", &topic) == count - 1).then_some(())
        });
        assert_eq!(committed(&mut client, "other", &topic), 7);
    }
}
