//! Every kind of file of a data directory, hurt in every way: the broker serves every acknowledged
//! record, or says what it cannot serve, where and what to do. It never panics, never starts empty over
//! data and never deletes what it does not understand.
//!
//! The cases are data ([`DIRECTORY`], [`PARTITION`]). Those of a whole directory need a start each;
//! those of one partition share one start, each with a partition of its own. "Unreadable" is a directory
//! in the file's place, which root, too, cannot read; [`files_of_another_user_are_named`] adds the real
//! thing, a broker that runs as another user, where the test may change users.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kafka_protocol::ResponseError::{
    CorruptMessage, KafkaStorageError, NotLeaderOrFollower, UnknownTopicOrPartition,
};
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{DeleteRecordsRequest, ProduceRequest};
use ringlog_tests::broker::{Broker, Directory, Options, refused_start, serve, wait_for};
use ringlog_tests::call::{Fetch, create_topic, produce, topic_name};
use ringlog_tests::random::Random;
use ringlog_tests::records::{Batch, read};
use ringlog_tests::wire::Client;
use uuid::Uuid;

use crate::place::hurt;

// ---- the tables ----------------------------------------------------------------------------------

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hurt {
    Empty,
    Truncated,
    Garbled,
    /// Sixteen bytes in the middle are others.
    Scratched,
    Missing,
    /// From a later release: where the version stands, and what it is then.
    Newer(&'static [u8], &'static [u8]),
    Unreadable,
    /// A file that was not there.
    Planted(&'static [u8]),
    /// A directory that was not there, with a file in it.
    PlantedDirectory,
}
use Hurt::{
    Empty, Garbled, Missing, Newer, Planted, PlantedDirectory, Scratched, Truncated, Unreadable,
};

/// What must come of it.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// Every record is served, and the log says this (nothing, if nobody needs to know).
    Serves(&'static str),
    /// The broker does not start, and names the path and this remedy.
    Refuses(&'static str),
}
use Then::{Refuses, Serves};

/// How the broker ended before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stop,
    Kill,
}
use End::{Kill, Stop};

type Case = (End, &'static str, &'static [(Hurt, Then)]);

const TOPIC: &str = "many";

/// Files of which there is one in a directory.
const DIRECTORY: &[Case] = &[
    (
        Stop,
        "logs/meta.properties",
        &[
            (
                Empty,
                Serves("meta.properties was empty: a new one is written"),
            ),
            (Truncated, Refuses("")),
            (Garbled, Refuses("restore the file, or remove it")),
            (
                Missing,
                Serves("meta.properties was missing: a new one is written"),
            ),
            (
                Newer(b"version=0", b"version=2"),
                Refuses("use the release that wrote it"),
            ),
            (Unreadable, Refuses("move this one away")),
        ],
    ),
    (
        Stop,
        "logs/recovery-point-offset-checkpoint",
        &[
            (Empty, Serves("")),
            (Truncated, Refuses("restore it, or remove it")),
            (Garbled, Refuses("restore the file, or remove it")),
            (Missing, Serves("")),
            (Newer(b"0\n", b"1\n"), Refuses("restore it, or remove it")),
            (Unreadable, Refuses("move this one away")),
        ],
    ),
    (
        Stop,
        "logs/log-start-offset-checkpoint",
        &[
            (Empty, Serves("")),
            (Truncated, Refuses("restore it, or remove it")),
            (Garbled, Refuses("restore the file, or remove it")),
            (Missing, Serves("")),
            (Newer(b"0\n", b"1\n"), Refuses("restore it, or remove it")),
            (Unreadable, Refuses("move this one away")),
        ],
    ),
    // Nothing of ours depends on these two.
    (
        Stop,
        "logs/replication-offset-checkpoint",
        &[
            (Empty, Serves("")),
            (Truncated, Serves("")),
            (Garbled, Serves("")),
            (Missing, Serves("")),
            (Newer(b"0\n", b"1\n"), Serves("")),
            (Unreadable, Refuses("move this one away")),
        ],
    ),
    (
        Stop,
        "logs/cleaner-offset-checkpoint",
        &[
            (Empty, Serves("")),
            (Truncated, Serves("")),
            (Garbled, Serves("compaction begins anew")),
            (Missing, Serves("")),
            (Newer(b"0\n", b"1\n"), Serves("compaction begins anew")),
            (Unreadable, Refuses("move this one away")),
        ],
    ),
    // That it is there is all that it says.
    (
        Stop,
        "logs/.kafka_cleanshutdown",
        &[
            (Empty, Serves("")),
            (Truncated, Serves("")),
            (Garbled, Serves("")),
            (Missing, Serves("")),
            (Newer(b"\"version\":0", b"\"version\":9"), Serves("")),
            (Unreadable, Refuses("move this one away")),
        ],
    ),
    (
        Stop,
        "logs/.lock",
        &[
            (Missing, Serves("")),
            (Planted(b"what is in it does not matter"), Serves("")),
            (Unreadable, Refuses("move this one away")),
        ],
    ),
    (
        Stop,
        ".lock",
        &[
            (Missing, Serves("")),
            (Unreadable, Refuses("must be writable")),
        ],
    ),
    (
        Stop,
        ".ringlog-ballast",
        &[
            (Empty, Serves("")),
            (Truncated, Serves("")),
            (Garbled, Serves("")),
            (Missing, Serves("")),
            (Unreadable, Serves("")),
        ],
    ),
    (
        Kill,
        "journal/.ringlog-journal-0-000000",
        &[
            (Empty, Serves("may have been acknowledged are lost")),
            (Truncated, Serves("it ends at byte 131072")),
            (Garbled, Refuses("move")),
            (Scratched, Serves("may have been acknowledged are lost")),
            (Missing, Serves("may have been acknowledged are lost")),
            (Newer(b"\x00\x01", b"\x00\x09"), Refuses("release")),
            (Unreadable, Refuses("move")),
        ],
    ),
    (
        Stop,
        "journal",
        &[
            (Missing, Serves("")),
            (Planted(b"a file in its place"), Refuses("--data-dir")),
        ],
    ),
    (
        Stop,
        "zookeeper/ringlog-zookeeper.redb",
        &[
            (Empty, Refuses("restore the file from a backup")),
            (Truncated, Refuses("restore the file from a backup")),
            (Garbled, Refuses("restore the file from a backup")),
            (
                Missing,
                Serves("Topic many of the log directories is entered in ZooKeeper"),
            ),
            (Unreadable, Refuses("dataDir")),
        ],
    ),
    (
        Kill,
        "zookeeper/ringlog-zookeeper.redb",
        &[
            (Truncated, Refuses("restore the file from a backup")),
            (Garbled, Refuses("restore the file from a backup")),
            (
                Missing,
                Serves("Topic many of the log directories is entered in ZooKeeper"),
            ),
        ],
    ),
    (
        Stop,
        "zookeeper-session",
        &[
            (Empty, Serves("")),
            (Garbled, Serves("")),
            (Missing, Serves("")),
            (Unreadable, Refuses("must be writable")),
        ],
    ),
    // A disk that is not mounted, or a directory that was lost.
    (Stop, "logs", &[(Missing, Refuses("is not mounted"))]),
    (Kill, "logs", &[(Missing, Refuses("is not mounted"))]),
    (
        Stop,
        "logs/many-0",
        &[
            (Missing, Refuses("make it an empty directory")),
            (Planted(b"a file in its place"), Refuses("is no directory")),
        ],
    ),
    // What is no business of ours.
    (
        Stop,
        "logs/photos",
        &[(PlantedDirectory, Refuses("move this one away"))],
    ),
    (
        Stop,
        "logs/many-0.old-delete",
        &[(PlantedDirectory, Refuses("move this one away"))],
    ),
    (
        Stop,
        "logs/many-0.0123456789abcdef0123456789abcdef-future",
        &[(PlantedDirectory, Serves("it is not in use"))],
    ),
    (
        Stop,
        "logs/many-0.0123456789abcdef0123456789abcdef-stray",
        &[(PlantedDirectory, Serves("it is not in use"))],
    ),
    (Stop, "logs/notes.txt", &[(Planted(b"mine"), Serves(""))]),
    (Stop, "journal/notes.txt", &[(Planted(b"mine"), Serves(""))]),
    (
        Stop,
        "zookeeper/notes.txt",
        &[(Planted(b"mine"), Serves(""))],
    ),
    (
        Stop,
        "logs/many-0/notes.txt",
        &[(Planted(b"mine"), Serves(""))],
    ),
    (Stop, "logs/many-0/inner", &[(PlantedDirectory, Serves(""))]),
    (
        Kill,
        "logs/many-0/partition.metadata",
        &[
            (Missing, Serves("")),
            (Empty, Serves("what it was is kept")),
            (Unreadable, Refuses("readable")),
        ],
    ),
];

/// Files of a partition.
#[derive(Clone, Copy, Debug)]
enum Told {
    /// Every record is served, and the log says this.
    All(&'static str),
    /// What is hurt gets an error, or all of the partition does, and the log names the file.
    Some,
}
use Told::{All, Some as Rest};

/// Files of one partition after a clean stop. `first`, `middle` and `last` are its segments.
const PARTITION: &[(&str, &[(Hurt, Told)])] = &[
    (
        "first.log",
        &[
            (Empty, Rest),
            (Truncated, Rest),
            (Garbled, Rest),
            (Scratched, Rest),
            (Missing, Rest),
            (Unreadable, Rest),
        ],
    ),
    (
        "middle.log",
        &[
            (Empty, Rest),
            (Truncated, Rest),
            (Garbled, Rest),
            (Scratched, Rest),
            (Missing, Rest),
            (Unreadable, Rest),
        ],
    ),
    (
        "last.log",
        &[
            (Empty, Rest),
            (Truncated, Rest),
            (Garbled, Rest),
            (Scratched, Rest),
            (Missing, Rest),
            (Unreadable, Rest),
        ],
    ),
    (
        "first.index",
        &[
            (Empty, All("")),
            (Truncated, All("")),
            (Garbled, All("")),
            (Missing, All("")),
            (Unreadable, Rest),
        ],
    ),
    (
        "last.index",
        &[
            (Empty, All("")),
            (Truncated, All("")),
            (Garbled, All("")),
            (Missing, All("")),
            (Unreadable, Rest),
        ],
    ),
    (
        "first.timeindex",
        &[
            (Empty, All("")),
            (Truncated, All("")),
            (Garbled, All("")),
            (Missing, All("")),
            (Unreadable, Rest),
        ],
    ),
    (
        "last.timeindex",
        &[
            (Empty, All("")),
            (Truncated, All("")),
            (Garbled, All("")),
            (Missing, All("")),
            (Unreadable, Rest),
        ],
    ),
    (
        "first.txnindex",
        &[(Planted(b"nonsense"), All("")), (PlantedDirectory, All(""))],
    ),
    (
        "end.snapshot",
        &[
            (Empty, All("")),
            (Truncated, All("")),
            (Garbled, All("")),
            (Scratched, All("")),
            (Missing, All("")),
            (Newer(b"\x00\x01", b"\x00\x09"), All("")),
            (Unreadable, All("")),
        ],
    ),
    (
        "leader-epoch-checkpoint",
        &[
            (Planted(b""), All("")),
            (Planted(b"0\n2\n0 0\n"), All("")),
            (Planted(b"\xff\xfe nonsense"), All("")),
            (Planted(b"7\n1\n0 0\n"), All("")),
            (PlantedDirectory, All("")),
        ],
    ),
    (
        "partition.metadata",
        &[
            (Empty, All("partition.metadata")),
            (Truncated, All("partition.metadata")),
            (Garbled, All("partition.metadata")),
            (Missing, All("")),
            (Newer(b"version: 0", b"version: 7"), All("")),
        ],
    ),
    (
        "00000000000000000007.log",
        &[(Planted(b"no segment of this log"), Rest)],
    ),
    ("7.log", &[(Planted(b"no segment of this log"), Rest)]),
];

// ---- the directory -------------------------------------------------------------------------------

const BATCHES: i64 = 24;
const RECORDS: i64 = 2;
const END: i64 = BATCHES * RECORDS;
/// The records below are deleted in the topic `cut`.
const CUT_AT: i64 = 3;
const UUID: Uuid = Uuid::nil();

fn options() -> Options {
    Options::default()
        .set("ringlog.cores", 1)
        .set("ringlog.journal.bytes", 1 << 20)
        .set("ringlog.journal.file.bytes", 1 << 18)
        .set("ringlog.disk.reserve.bytes", 1 << 20)
        .set("ringlog.scrub.bytes.per.second", 0)
        .set("log.cleaner.backoff.ms", 10)
        .expect_error("") // each case says what must be said
}

fn value(partition: i32, offset: i64) -> String {
    format!("{partition}/{offset} {}", "x".repeat(1000))
}

/// A batch of the producer of its partition.
fn batch(partition: i32, number: i64) -> Batch {
    let offsets = number * RECORDS..(number + 1) * RECORDS;
    let values: Vec<_> = offsets.map(|offset| value(partition, offset)).collect();
    let sequence = i32::try_from(number * RECORDS).expect("small");
    let producer = 1000 + i64::from(partition);
    Batch::of(&values)
        .at_present()
        .by_producer(producer, 0, sequence)
}

/// A broker with [`TOPIC`] of so many partitions, and one whose first records were deleted.
fn filled(partitions: i32) -> Option<Broker> {
    let broker = Broker::own(options())?;
    let mut client = Client::connect(broker.address());
    let configs = [("segment.bytes", "16384"), ("index.interval.bytes", "1024")];
    create_topic(&mut client, TOPIC, partitions, &configs);
    create_topic(&mut client, "cut", 1, &[]);
    for number in 0..BATCHES {
        let data = (0..partitions).map(|partition| {
            let records = batch(partition, number).encode();
            PartitionProduceData::default()
                .with_index(partition)
                .with_records(Some(records.into()))
        });
        let topic = TopicProduceData::default()
            .with_name(topic_name(TOPIC))
            .with_partition_data(data.collect());
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(30_000)
            .with_topic_data(vec![topic]);
        for answer in &client.call(9, &request).responses[0].partition_responses {
            assert_eq!(answer.error_code, 0, "{answer:?}");
        }
        let answer = produce(&mut client, 9, "cut", 0, batch(0, number).encode());
        assert_eq!(answer.error_code, 0, "{answer:?}");
    }
    let partition = DeleteRecordsPartition::default()
        .with_partition_index(0)
        .with_offset(CUT_AT);
    let topic = DeleteRecordsTopic::default()
        .with_name(topic_name("cut"))
        .with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default()
        .with_timeout_ms(30_000)
        .with_topics(vec![topic]);
    let answer = client.call(1, &request);
    assert_eq!(answer.topics[0].partitions[0].error_code, 0, "{answer:?}");
    Some(broker)
}

/// What a consumer meets that reads a partition batch by batch.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Batches that got an error.
    refused: i64,
    /// What must never be: records left out, or others in their place.
    wrong: Vec<String>,
}

fn see(client: &mut Client, topic: &str, partition: i32, from: i64) -> Seen {
    let mut seen = Seen::default();
    let mut offset = from;
    while offset < END {
        let mut fetch = Fetch::of(topic, UUID, offset);
        fetch.partition = partition;
        let answer = fetch.call(client, 11);
        let allowed = [
            CorruptMessage,
            KafkaStorageError,
            NotLeaderOrFollower,
            UnknownTopicOrPartition,
        ];
        if answer.error_code != 0 {
            if !allowed
                .iter()
                .any(|error| error.code() == answer.error_code)
            {
                let wrong = format!("error {} at {offset}", answer.error_code);
                seen.wrong.push(wrong);
            }
            seen.refused += 1;
            offset = (offset / RECORDS + 1) * RECORDS;
            continue;
        }
        let records = read(answer.records.as_deref().unwrap_or_default()).records;
        let mut served = 0;
        let from = offset;
        for record in records.iter().filter(|record| record.offset >= from) {
            if record.offset != offset || record.text() != value(partition, offset) {
                let wrong = format!("offset {} in place of {offset}", record.offset);
                seen.wrong.push(wrong);
            }
            offset = record.offset + 1;
            served += 1;
        }
        if served == 0 {
            seen.wrong.push(format!("nothing at {offset}"));
            offset += 1;
        }
    }
    seen
}

/// All records are there, the producers are known, and more can be written.
fn is_whole(client: &mut Client, topic: &str, partition: i32, from: i64) {
    let seen = see(client, topic, partition, from);
    assert_eq!(seen, Seen::default(), "{topic}-{partition}");
    let again = batch(partition, BATCHES - 1).encode();
    let answer = produce(client, 9, topic, partition, again);
    let base_offset = (BATCHES - 1) * RECORDS;
    assert_eq!(
        (answer.error_code, answer.base_offset),
        (0, base_offset),
        "a retry of the last batch of {topic}-{partition}"
    );
}

// ---- how it is hurt ------------------------------------------------------------------------------

fn harm(path: &Path, harm: Hurt, random: &mut Random) {
    match harm {
        Empty => hurt(path, Vec::clear),
        Truncated => hurt(path, |bytes| bytes.truncate(bytes.len() / 2)),
        Garbled => hurt(path, |bytes| *bytes = random.bytes(bytes.len().max(64))),
        Scratched => hurt(path, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle..middle + 16].copy_from_slice(&random.bytes(16));
        }),
        Missing if path.is_dir() => fs::remove_dir_all(path).expect("ours"),
        Missing => fs::remove_file(path).expect("ours"),
        Newer(from, to) => hurt(path, |bytes| {
            let at = bytes.windows(from.len()).position(|part| part == from);
            let at = at.unwrap_or_else(|| panic!("{}: no version", path.display()));
            bytes[at..at + to.len()].copy_from_slice(to);
        }),
        Unreadable => {
            fs::remove_file(path).expect("ours");
            fs::create_dir(path).expect("ours");
        }
        Planted(bytes) => {
            if path.is_dir() {
                fs::remove_dir_all(path).expect("ours");
            }
            fs::write(path, bytes).expect("ours");
        }
        PlantedDirectory => {
            fs::create_dir(path).expect("ours");
            fs::write(path.join("mine.jpg"), "a picture").expect("ours");
        }
    }
}

/// Below a directory: every log file and what was planted, which nobody may touch.
fn precious(data: &Path, planted: Option<&Path>) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut directories = vec![data.to_owned()];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for path in entries.map(|entry| entry.expect("readable").path()) {
            let is_planted = planted.is_some_and(|planted| path.starts_with(planted));
            if path.is_dir() {
                directories.push(path);
            } else if is_planted || path.extension().is_some_and(|suffix| suffix == "log") {
                found.push((path.clone(), fs::read(&path).expect("readable")));
            }
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).expect("ours");
    }
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.expect("cp is there").success());
}

// ---- the tests -----------------------------------------------------------------------------------

/// The cases of one part of the table, each on a fresh copy of the directory.
fn run_directory_cases(part: usize, parts: usize) {
    let Some(mut broker) = filled(2) else {
        return;
    };
    let mut random = Random::seeded("bad_directory");
    let (images, data) = (Directory::new(), broker.data());
    broker.kill();
    copy(&data, &images.path().join("Kill"));
    broker.restart();
    broker.stop();
    copy(&data, &images.path().join("Stop"));
    let cases = DIRECTORY
        .iter()
        .flat_map(|(end, file, hurts)| hurts.iter().map(move |hurt| (*end, *file, *hurt)));
    for (end, file, (hurt, then)) in cases.skip(part).step_by(parts) {
        eprintln!("{end:?} {file} {hurt:?} {then:?}");
        copy(&images.path().join(format!("{end:?}")), &data);
        let path = data.join(file);
        harm(&path, hurt, &mut random);
        let planted = matches!(hurt, Planted(_) | PlantedDirectory).then_some(&*path);
        let before = precious(&data, planted);
        match then {
            Refuses(remedy) => {
                let (code, text) = refused_start(serve("127.0.0.1:0", &data, &options()));
                assert_eq!(code, Some(1), "{text}");
                assert!(!text.contains("panicked"), "{text}");
                for part in [&path.display().to_string(), remedy] {
                    assert!(text.contains(part), "{part:?} is not said in:\n{text}");
                }
                assert_eq!(precious(&data, planted), before);
            }
            Serves(line) => {
                let logged = broker.log().len();
                broker.restart();
                let mut client = Client::connect(broker.address());
                for partition in 0..2 {
                    is_whole(&mut client, TOPIC, partition, 0);
                }
                is_whole(&mut client, "cut", 0, CUT_AT);
                wait_for(line, Duration::from_secs(20), || {
                    broker.log()[logged..].contains(line).then_some(())
                });
                assert!(!broker.log()[logged..].contains("panicked"));
                let is_planted = |(path, _): &&(PathBuf, Vec<u8>)| {
                    planted.is_some_and(|planted| path.starts_with(planted))
                };
                for (path, bytes) in before.iter().filter(is_planted) {
                    let kept = fs::read(path).ok();
                    assert_eq!(kept.as_ref(), Some(bytes), "{}", path.display());
                }
                broker.kill();
            }
        }
    }
    copy(&images.path().join("Stop"), &data);
    broker.restart(); // its end must find a running broker
}

#[test]
fn files_of_a_directory_one_by_one() {
    run_directory_cases(0, 2);
}

#[test]
fn files_of_a_directory_one_by_one_the_others() {
    run_directory_cases(1, 2);
}

/// The file of a case: `first.log` is the one of the first segment.
fn file_of(directory: &Path, name: &str) -> PathBuf {
    let entries = fs::read_dir(directory).expect("the partition is there");
    let names = entries.map(|entry| entry.expect("readable").file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    let with = |suffix: &str| {
        let mut names: Vec<_> = names.filter(|name| name.ends_with(suffix)).collect();
        names.sort();
        names
    };
    let (which, suffix) = name.split_once('.').unwrap_or((name, ""));
    let bases = match which {
        "end" => with(&format!(".{suffix}")),
        "first" | "middle" | "last" => with(".log"),
        _ => return directory.join(name),
    };
    let base = match which {
        "first" => &bases[0],
        "middle" => &bases[1],
        _ => &bases[bases.len() - 1],
    };
    directory.join(format!("{}.{suffix}", &base[..20]))
}

#[test]
fn files_of_a_partition() {
    let cases: Vec<_> = PARTITION
        .iter()
        .flat_map(|(file, hurts)| hurts.iter().map(move |(hurt, told)| (*file, *hurt, *told)))
        .collect();
    let count = i32::try_from(cases.len()).expect("small");
    let Some(mut broker) = filled(count + 1) else {
        return;
    };
    broker.stop();
    let mut random = Random::seeded("bad_directory");
    for (partition, (file, hurt, _)) in cases.iter().enumerate() {
        let directory = broker.logs().join(format!("{TOPIC}-{partition}"));
        harm(&file_of(&directory, file), *hurt, &mut random);
    }
    let mut failures = Vec::new();
    for start in 1..=2 {
        let logged = broker.log().len();
        broker.restart();
        let mut client = Client::connect(broker.address());
        for (partition, (file, hurt, told)) in (0..).zip(&cases) {
            let mut fails = |what: String| {
                failures.push(format!("start {start}: {file} {hurt:?} {told:?}: {what}"));
            };
            let seen = see(&mut client, TOPIC, partition, 0);
            let log = broker.log()[logged..].to_owned();
            let name = format!("{TOPIC}-{partition}");
            let of_it = [format!("/{name}/"), format!("/{name} ")];
            let is_told = |part: &str| {
                log.lines().any(|line| {
                    (line.contains(" WARN ") || line.contains(" ERROR "))
                        && of_it.iter().any(|path| line.contains(path))
                        && line.contains(part)
                })
            };
            if !seen.wrong.is_empty() {
                fails(format!("{:?}", &seen.wrong[..seen.wrong.len().min(3)]));
            }
            match told {
                All(part) => {
                    if seen.refused > 0 {
                        fails(format!("{} batches are refused", seen.refused));
                    }
                    if start == 1 && !part.is_empty() && !is_told(part) {
                        fails(format!("{part:?} is not told"));
                    }
                    let again = batch(partition, BATCHES - 1).encode();
                    let answer = produce(&mut client, 9, TOPIC, partition, again);
                    let expected = (0, (BATCHES - 1) * RECORDS);
                    if (answer.error_code, answer.base_offset) != expected {
                        fails(format!("a retry of the last batch got {answer:?}"));
                    }
                }
                Rest => {
                    // What was built anew meanwhile hurts nobody any more.
                    if (start == 1 || seen.refused > 0) && !is_told("") {
                        fails("it is not told".to_owned());
                    }
                    let answer = produce(&mut client, 9, TOPIC, partition, more());
                    if answer.error_code == 0 && answer.base_offset < END {
                        fails(format!("offset {} is given again", answer.base_offset));
                    }
                }
            }
        }
        is_whole(&mut client, TOPIC, count, 0);
        assert!(!broker.log().contains("panicked"));
        broker.kill();
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn more() -> Vec<u8> {
    Batch::of(&["more"]).at_present().encode()
}

/// Somebody without privileges; the number needs no entry in `/etc/passwd`.
const NOBODY: u32 = 65_534;

#[test]
fn files_of_another_user_are_named() {
    let Some(mut broker) = filled(1) else {
        return;
    };
    if !rustix::process::getuid().is_root() {
        eprintln!("not run: only root may run a broker as another user");
        return;
    }
    let data = broker.data();
    broker.stop();
    let image = Directory::new();
    fs::set_permissions(image.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    let image = image.path().join("data");
    for file in [
        "logs/meta.properties",
        "logs/recovery-point-offset-checkpoint",
        "logs/log-start-offset-checkpoint",
        "logs/.lock",
        "zookeeper/ringlog-zookeeper.redb",
        "logs",
        "logs/many-0",
        "journal",
    ] {
        copy(&data, &image);
        give(&image, NOBODY);
        let path = image.join(file);
        chown(&path, Some(0), Some(0)).expect("root may");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("root may");
        let mut command = serve("127.0.0.1:0", &image, &options());
        command.uid(NOBODY).gid(NOBODY);
        let (code, text) = refused_start(command);
        eprintln!("{file}: {text}");
        assert_eq!(code, Some(1), "{file}\n{text}");
        for part in [&path.display().to_string(), "ermission denied", "   | "] {
            assert!(text.contains(part), "{part:?} is not said in:\n{text}");
        }
        assert!(!text.contains("panicked"), "{text}");
    }
    broker.restart();
}

fn give(path: &Path, user: u32) {
    chown(path, Some(user), Some(user)).expect("root may");
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("readable") {
            give(&entry.expect("readable").path(), user);
        }
    }
}
