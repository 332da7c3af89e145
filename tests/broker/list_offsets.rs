//! ListOffsets: every version; earliest, latest, the record of the largest timestamp, by timestamp.

use ringlog_tests::broker::{Broker, unique};
use ringlog_tests::call::{create_topic, list_offset, produce};
use ringlog_tests::records::{Batch, Codec};
use ringlog_tests::wire::Client;

use crate::error;

const VERSIONS: std::ops::RangeInclusive<i16> = 0..=9;
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;

#[test]
fn earliest_and_latest_in_every_version() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let topic = unique("bounds");
    create_topic(&mut client, &topic, 1, &[]);
    for version in VERSIONS {
        assert_eq!(
            list_offset(&mut client, version, &topic, 0, EARLIEST),
            (0, -1, 0),
            "v{version}, empty"
        );
        assert_eq!(
            list_offset(&mut client, version, &topic, 0, LATEST),
            (0, -1, 0),
            "v{version}, empty"
        );
    }
    let answer = produce(
        &mut client,
        9,
        &topic,
        0,
        Batch::of(&["a", "b", "c"]).encode(),
    );
    assert_eq!(answer.error_code, 0);
    for version in VERSIONS {
        assert_eq!(
            list_offset(&mut client, version, &topic, 0, EARLIEST),
            (0, -1, 0),
            "v{version}"
        );
        assert_eq!(
            list_offset(&mut client, version, &topic, 0, LATEST),
            (0, -1, 3),
            "v{version}"
        );
    }
}

#[test]
fn a_timestamp_finds_the_first_record_at_or_after_it() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    for codec in [Codec::None, Codec::Gzip, Codec::Zstd] {
        let topic = unique("timestamp");
        create_topic(&mut client, &topic, 1, &[]);
        for start in [1000, 2000, 3000] {
            let batch = Batch::of(&["a", "b", "c"]).at(start).compressed(codec); // stamped start, +1, +2
            assert_eq!(
                produce(&mut client, 9, &topic, 0, batch.encode()).error_code,
                0
            );
        }
        for version in VERSIONS.skip(1) {
            for (wanted, found) in [
                (0, (0, 1000, 0)),
                (1000, (0, 1000, 0)),
                (1001, (0, 1001, 1)),
                (1003, (0, 2000, 3)),
                (2002, (0, 2002, 5)),
                (3002, (0, 3002, 8)),
                (3003, (0, -1, -1)),
            ] {
                let answer = list_offset(&mut client, version, &topic, 0, wanted);
                assert_eq!(answer, found, "v{version} {codec:?} timestamp {wanted}");
            }
        }
    }
}

#[test]
fn max_timestamp_finds_the_record_stamped_last_even_if_it_is_not_the_last_kip_734() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let topic = unique("max-timestamp");
    create_topic(&mut client, &topic, 1, &[]);
    for version in 7..=9 {
        let answer = list_offset(&mut client, version, &topic, 0, MAX_TIMESTAMP);
        assert_eq!(answer, (0, -1, -1), "v{version}, empty");
    }
    for start in [1000, 5000, 3000] {
        let batch = Batch::of(&["a", "b"]).at(start);
        assert_eq!(
            produce(&mut client, 9, &topic, 0, batch.encode()).error_code,
            0
        );
    }
    for version in 7..=9 {
        let answer = list_offset(&mut client, version, &topic, 0, MAX_TIMESTAMP);
        assert_eq!(answer, (0, 5001, 3), "v{version}");
    }
}

#[test]
fn unknown_topics_and_partitions_say_so_in_every_version() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let topic = unique("known");
    create_topic(&mut client, &topic, 1, &[]);
    let absent = unique("absent");
    for version in VERSIONS {
        for (name, partition) in [(&absent, 0), (&topic, 1), (&topic, -1)] {
            let (error_code, _, offset) =
                list_offset(&mut client, version, name, partition, LATEST);
            assert_eq!(
                (error_code, offset),
                (error::UNKNOWN_TOPIC_OR_PARTITION, -1),
                "v{version} {name}-{partition}"
            );
        }
    }
}
