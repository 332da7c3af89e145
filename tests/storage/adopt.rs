//! `ringlog serve --adopt`: a directory that another broker left is served, as a copy or in place.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{
    BrokerId, DescribeConfigsRequest, GroupId, MetadataRequest, OffsetFetchRequest,
    OffsetForLeaderEpochRequest,
};
use ringlog_tests::broker::{Broker, Directory, Options, binary, refused_start, serve, wait_for};
use ringlog_tests::call::{Fetch, fetch_all, produce_values, text, topic_id, topic_name};
use ringlog_tests::records::{Batch, Codec, message_set, patch, position};
use ringlog_tests::wire::Client;
use uuid::Uuid;

use crate::place::{BATCHES, RECORDS, TOPIC, contents, filled};

#[test]
fn a_directory_is_served_as_a_copy_or_in_place() {
    let Some(mut first) = filled(Options::default()) else {
        return;
    };
    first.stop();
    let logs = first.logs();
    // What a Kafka of old and one with KRaft would have, too.
    let old = logs.join("of-old-0");
    fs::create_dir(&old).expect("ours");
    let set = message_set(1, Codec::Gzip, 1000, &["a", "b", "c"]);
    fs::write(old.join("00000000000000000000.log"), set).expect("ours");
    fs::create_dir(logs.join("__cluster_metadata-0")).expect("ours");
    let properties = "version=1\nnode.id=7\ncluster.id=theirs\n";
    fs::write(logs.join("meta.properties"), properties).expect("ours");
    // A partition that was moved to another disk.
    let outside = Directory::new();
    let (linked, link) = (outside.path().join("linked-0"), logs.join("linked-0"));
    fs::create_dir(&linked).expect("ours");
    let set = message_set(1, Codec::None, 1000, &["d"]);
    fs::write(linked.join("00000000000000000000.log"), set).expect("ours");
    symlink(&linked, &link).expect("ours");
    let before = contents(&logs);
    let adopted = logs.display().to_string();
    let check = |broker: &Broker| {
        let mut client = Client::connect(broker.address());
        let count = usize::try_from(BATCHES * RECORDS).expect("small");
        assert_eq!(fetch_all(&mut client, TOPIC, 0).len(), count);
        assert_eq!(fetch_all(&mut client, "sound", 0).len(), 2);
        let texts: Vec<_> = fetch_all(&mut client, "of-old", 0)
            .iter()
            .map(|r| r.text())
            .collect();
        assert_eq!(texts, ["a", "b", "c"]);
    };
    let options = Options::default().argument("--adopt").argument(&adopted);
    let Some(copy) = Broker::own(options.clone()) else {
        return;
    };
    check(&copy);
    let mut client = Client::connect(copy.address());
    assert_eq!(fetch_all(&mut client, "linked", 0).len(), 1);
    assert!(!copy.logs().join("linked-0").is_symlink());
    assert!(!copy.logs().join("__cluster_metadata-0").exists());
    assert_eq!(contents(&logs), before, "the original is as it was");
    // A second time nothing is overwritten.
    let elsewhere = Directory::new();
    fs::create_dir_all(elsewhere.path().join("logs/x-0")).expect("ours");
    let (code, text) = refused_start(serve("127.0.0.1:0", elsewhere.path(), &options));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("is not empty"), "{text}");
    fs::remove_file(link).expect("ours");
    let in_place = options.argument("--in-place").set("broker.id", 7);
    if let Some(broker) = Broker::own(in_place) {
        check(&broker);
        let mut client = Client::connect(broker.address());
        let topic = topic_id(&mut client, "__cluster_metadata");
        assert_eq!(topic, None, "it is no topic");
        assert!(logs.join("__cluster_metadata-0").exists());
    }
}

/// A log directory of Kafka's, with a partition of one batch that was written in the leader epoch 5.
fn led_by_kafka(logs: &Path) {
    let partition = logs.join("led-0");
    fs::create_dir_all(&partition).expect("ours");
    fs::write(logs.join("meta.properties"), "version=0\nbroker.id=3\n").expect("ours");
    let batch = patch(
        Batch::of(&["a", "b"]).encode(),
        position::LEADER_EPOCH,
        &5_i32.to_be_bytes(),
    );
    fs::write(partition.join("00000000000000000000.log"), batch).expect("ours");
    let epochs = "0\n2\n5 0\n7 2\n";
    fs::write(partition.join("leader-epoch-checkpoint"), epochs).expect("ours");
}

/// Java consumers whose group has committed with the epoch of a record waited forever for a leader of
/// at least that epoch.
#[test]
fn partitions_are_led_in_the_epoch_in_which_kafka_has_led_them() {
    let directory = Directory::new();
    let logs = directory.path().join("kafka");
    led_by_kafka(&logs);
    let options = Options::default().argument("--adopt");
    let options = options.argument(&logs.display().to_string());
    let Some(mut broker) = Broker::own(options) else {
        return;
    };
    let check = |broker: &Broker, epochs: &[i32]| {
        let mut client = Client::connect(broker.address());
        let topic = MetadataRequestTopic::default().with_name(Some(topic_name("led")));
        let request = MetadataRequest::default().with_topics(Some(vec![topic]));
        let told = client.call(12, &request);
        assert_eq!(told.topics[0].partitions[0].leader_epoch, 7);
        let mut fetch = Fetch::of("led", Uuid::nil(), 0);
        fetch.leader_epoch = 7;
        assert_eq!(fetch.contents(&mut client, 11).leader_epochs, epochs);
        fetch.leader_epoch = 0;
        let error = fetch.call(&mut client, 11).error_code;
        assert_eq!(error, ResponseError::FencedLeaderEpoch.code());
        for (asked, end) in [(5, 2), (7, i64::try_from(epochs.len()).expect("few") + 1)] {
            let (error, _, offset) = epoch_end(&mut client, "led", asked);
            assert_eq!((error, offset), (0, end), "the end of epoch {asked}");
        }
    };
    check(&broker, &[5]);
    produce_values(&mut Client::connect(broker.address()), "led", &["c"]);
    check(&broker, &[5, 7]);
    // The copy is its own now; the state of the partition in ZooKeeper has the epoch, too.
    let state = "/brokers/topics/led/partitions/0/state";
    wait_for("the state in ZooKeeper", Duration::from_secs(30), || {
        let state = znode(&broker, state);
        state.contains("\"leader_epoch\":7").then_some(())
    });
    broker.stop();
    let data = broker.data();
    let Some(mut again) = Broker::own(Options::default()) else {
        return;
    };
    again.stop();
    fs::remove_dir_all(again.data()).expect("ours");
    fs::rename(&data, again.data()).expect("ours");
    again.restart();
    check(&again, &[5, 7]);
}

/// The settings of the topics are not in the directory: retention.ms may have been -1, and the topic of
/// the committed offsets is compacted.
#[test]
fn nothing_of_an_adopted_topic_is_deleted_by_default() {
    let directory = Directory::new();
    let logs = directory.path().join("kafka");
    led_by_kafka(&logs);
    fs::create_dir(logs.join("__consumer_offsets-0")).expect("ours");
    for (hours, expected) in [(None, "-1"), (Some(5), "18000000")] {
        let options = Options::default().argument("--adopt");
        let mut options = options.argument(&logs.display().to_string());
        if let Some(hours) = hours {
            options = options.set("log.retention.hours", hours);
        }
        let Some(broker) = Broker::own(options) else {
            return;
        };
        let mut client = Client::connect(broker.address());
        let mut setting = |topic, key| setting(&mut client, topic, key);
        assert_eq!(setting("led", "retention.ms"), expected);
        assert_eq!(setting("led", "cleanup.policy"), "delete");
        assert_eq!(setting("__consumer_offsets", "cleanup.policy"), "compact");
        assert_eq!(setting("__consumer_offsets", "segment.bytes"), "104857600");
        // It has one partition, a new one would have 50.
        for group in ["a", "b", "c", "d"] {
            let request = OffsetFetchRequest::default()
                .with_group_id(GroupId(text(group)))
                .with_topics(None);
            let answer = client.call(7, &request);
            assert_eq!(answer.error_code, 0, "coordinator of {group}");
        }
    }
}

/// Which topics of a killed Kafka are compacted, its log directory does not tell: a log with a gap was
/// taken for one that had lost the end of a segment, and what came behind it was cut off.
#[test]
fn gaps_that_compaction_has_left_are_no_loss() {
    let directory = Directory::new();
    let logs = directory.path().join("kafka");
    led_by_kafka(&logs);
    let batch = Batch::of(&["x", "y"]).encode();
    let batch = patch(batch, position::BASE_OFFSET, &10_i64.to_be_bytes());
    fs::write(logs.join("led-0/00000000000000000010.log"), batch).expect("ours");
    let options = Options::default().argument("--adopt");
    let options = options.argument(&logs.display().to_string());
    let Some(broker) = Broker::own(options) else {
        return;
    };
    let found = fetch_all(&mut Client::connect(broker.address()), "led", 0);
    let offsets: Vec<i64> = found.iter().map(|record| record.offset).collect();
    assert_eq!(offsets, [0, 1, 10, 11]);
}

/// A killed Kafka leaves indexes of 10 MiB, nearly all of it holes.
#[test]
fn holes_of_files_stay_holes_in_the_copy() {
    let directory = Directory::new();
    let logs = directory.path().join("kafka");
    led_by_kafka(&logs);
    let name = Path::new("led-0/sparse");
    let file = File::create(logs.join(name)).expect("ours");
    file.set_len(64 << 20).expect("ours");
    file.write_all_at(b"in the middle", 32 << 20).expect("ours");
    let options = Options::default().argument("--adopt");
    let options = options.argument(&logs.display().to_string());
    let Some(broker) = Broker::own(options) else {
        return;
    };
    let copy = broker.logs().join(name);
    let same = fs::read(&copy).expect("copied") == fs::read(logs.join(name)).expect("ours");
    assert!(same, "the copy has other bytes");
    let bytes = fs::metadata(&copy).expect("copied").blocks() * 512;
    assert!(bytes < 1 << 20, "{bytes} bytes of disk");
}

fn setting(client: &mut Client, topic: &str, key: &str) -> String {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text(topic))
        .with_configuration_keys(Some(vec![text(key)]));
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let answer = client.call(4, &request);
    let config = &answer.results[0].configs[0];
    assert_eq!(config.name, text(key), "{answer:?}");
    config.value.as_ref().expect("it has a value").to_string()
}

fn epoch_end(client: &mut Client, topic: &str, epoch: i32) -> (i16, i32, i64) {
    let partition = OffsetForLeaderPartition::default()
        .with_partition(0)
        .with_current_leader_epoch(-1)
        .with_leader_epoch(epoch);
    let topic = OffsetForLeaderTopic::default()
        .with_topic(topic_name(topic))
        .with_partitions(vec![partition]);
    let request = OffsetForLeaderEpochRequest::default()
        .with_replica_id(BrokerId(-2))
        .with_topics(vec![topic]);
    let answer = client.call(4, &request);
    let partition = &answer.topics[0].partitions[0];
    (
        partition.error_code,
        partition.leader_epoch,
        partition.end_offset,
    )
}

/// The data of a node, by the shell of the tools.
fn znode(broker: &Broker, path: &str) -> String {
    let mut shell = Command::new(binary());
    let address = broker.zookeeper().to_string();
    shell.args(["zookeeper-shell", &address, "get", path]);
    let output = shell.output().expect("the binary is there");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn what_cannot_be_adopted_is_refused_by_name() {
    let Some(running) = filled(Options::default()) else {
        return;
    };
    let directory = Directory::new();
    let empty = directory.path().join("empty");
    fs::create_dir(&empty).expect("ours");
    let pid = running.process_id().expect("ours").to_string();
    for (from, parts) in [
        (running.logs(), [".lock", pid.as_str()]),
        (empty, ["meta.properties", "log.dirs"]),
        (
            directory.path().join("nowhere"),
            ["nowhere", "No such file"],
        ),
    ] {
        let options = Options::default();
        let options = options
            .argument("--adopt")
            .argument(&from.display().to_string());
        let data = directory.path().join("data");
        let (code, text) = refused_start(serve("127.0.0.1:0", &data, &options));
        assert_eq!(code, Some(1), "{text}");
        for part in parts {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        assert!(!data.join("logs").exists(), "nothing was begun");
    }
}

#[test]
fn the_copy_is_never_made_over_the_original() {
    let directory = Directory::new();
    let data = directory.path().join("data");
    let original = data.join("logs.adopting");
    let inner = original.join("inner");
    fs::create_dir_all(&inner).expect("ours");
    for place in [&data, &original, &inner] {
        fs::write(place.join("meta.properties"), "version=0\n").expect("ours");
    }
    let before = contents(&data);
    let link = directory.path().join("link");
    symlink(&original, &link).expect("ours");
    for from in [data.clone(), original, inner, link] {
        let from = from.display().to_string();
        let options = Options::default().argument("--adopt").argument(&from);
        let (code, text) = refused_start(serve("127.0.0.1:0", &data, &options));
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("not apart from it"), "{from}: {text}");
        let mut after = contents(&data);
        after.retain(|(path, _)| before.iter().any(|(known, _)| known == path));
        assert_eq!(after, before, "{from}");
    }
}
