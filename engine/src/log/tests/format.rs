//! Names and bytes against Kafka's, written out by hand.

use super::super::checkpoint::{self, EpochEntry, HIGH_WATERMARK_FILE, OffsetEntry};
use super::super::directory::*;
use super::*;
use std::time::Duration;

#[test]
fn a_closed_log_has_kafkas_files() {
    let place = Place::new();
    let path = place.partition();
    run(move |files| async move {
        let config = LogConfig {
            index_interval_bytes: 100,
            ..small()
        };
        let log = Log::create(&files, &path, TOPIC_ID, config).await.unwrap();
        for i in 0..4 {
            append(&log, &[100 + i, 200 - i], 20).await;
        }
        log.close().await.unwrap();
    });
    let name = "00000000000000000000";
    assert_eq!(
        place.names(),
        [
            format!("{name}.index"),
            format!("{name}.log"),
            format!("{name}.timeindex"),
            "partition.metadata".to_owned()
        ]
    );
    let read = |file: &str| std::fs::read(place.partition().join(file)).unwrap();
    assert_eq!(
        read("partition.metadata"),
        b"version: 0\ntopic_id: AQIDBAUGBwgJCgsMDQ4PEA"
    );
    let log = read(&format!("{name}.log"));
    let size = u32::try_from(log.len() / 4).unwrap();
    assert!(size > 100 && log.len() == size as usize * 4);
    let mut index = Vec::new();
    for i in 1..4u32 {
        index.extend_from_slice(&(2 * i + 1).to_be_bytes());
        index.extend_from_slice(&(size * i).to_be_bytes());
    }
    assert_eq!(read(&format!("{name}.index")), index);
    let mut times = 200i64.to_be_bytes().to_vec();
    times.extend_from_slice(&1u32.to_be_bytes());
    assert_eq!(read(&format!("{name}.timeindex")), times);
}

#[test]
fn names_are_kafkas() {
    let parse = |name: &str| SegmentFileName::parse(name);
    let name = parse("00000000000000000042.timeindex.deleted").unwrap();
    assert_eq!(name.offset, 42);
    assert_eq!(name.kind, SegmentFileKind::TimeIndex);
    assert_eq!(name.pending, Some(PendingSuffix::Deleted));
    assert_eq!(parse("42.log"), None);
    assert_eq!(parse("00000000000000000042.logx"), None);
    assert_eq!(parse("+0000000000000000042.log"), None);
    let directory = |name: &str| PartitionDirectory::parse(name);
    let plain = directory("my-topic-12").unwrap();
    assert_eq!((plain.topic.as_str(), plain.partition), ("my-topic", 12));
    assert_eq!(plain.suffix, None);
    let unique = Uuid::from_u128(0xabc);
    let deleted = delete_directory_name("my-topic-12", unique);
    assert_eq!(
        deleted,
        "my-topic-12.00000000000000000000000000000abc-delete"
    );
    let parsed = directory(&deleted).unwrap();
    assert_eq!(parsed.topic, "my-topic");
    assert_eq!(parsed.suffix, Some(DELETE_DIRECTORY_SUFFIX));
    let long = delete_directory_name(&format!("{}-3", "t".repeat(249)), unique);
    assert_eq!(long.len(), 255);
    assert_eq!(directory(&long).unwrap().partition, 3);
    for bad in [
        "",
        "x",
        "-1",
        "x-",
        "x-y",
        "x-99999999999",
        "a-0-delete",
        "a-0.-delete",
        "a-0.old-delete",
    ] {
        assert_eq!(directory(bad), None, "{bad}");
    }
}

#[test]
fn ids_are_kafkas_base64() {
    // Uuid.METADATA_TOPIC_ID and ONE_UUID of Kafka.
    assert_eq!(encode_uuid(Uuid::from_u128(1)), "AAAAAAAAAAAAAAAAAAAAAQ");
    assert_eq!(
        encode_uuid(Uuid::from_u128(u128::MAX)),
        "_____________________w"
    );
    let mut random = Random(seed());
    for _ in 0..100 {
        let id = Uuid::from_u64_pair(random.next(), random.next());
        assert_eq!(decode_uuid(&encode_uuid(id)), Some(id));
    }
    assert_eq!(decode_uuid("short"), None);
    assert_eq!(decode_uuid("AAAAAAAAAAAAAAAAAAAA*Q"), None);
}

#[test]
fn checkpoints_are_kafkas() {
    let place = Place::new();
    let directory = place.0.clone();
    run(move |files| async move {
        let io = files.io();
        let path = directory.join(checkpoint::RECOVERY_POINT_FILE);
        assert_eq!(checkpoint::read_offsets(io, &path).await.unwrap(), []);
        let entries = vec![OffsetEntry {
            topic: "t".to_owned(),
            partition: 0,
            offset: 17,
        }];
        checkpoint::write_offsets(io, &path, &entries)
            .await
            .unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"0\n1\nt 0 17\n");
        assert_eq!(checkpoint::read_offsets(io, &path).await.unwrap(), entries);
        std::fs::write(&path, b"").unwrap();
        assert_eq!(checkpoint::read_offsets(io, &path).await.unwrap(), []);
        let bad: [&[u8]; 7] = [
            b"1\n0\n",
            b"0\nx\n",
            b"0\n2\nt 0 1\n",
            b"0\n1\nt 0\n",
            b"0\n1\nt 0 1 2\n",
            b"\xff",
            b"0\n1\nt -1 2\n",
        ];
        for bad in bad {
            std::fs::write(&path, bad).unwrap();
            let error = checkpoint::read_offsets(io, &path).await.err().unwrap();
            assert!(matches!(error, LogError::Corrupt { .. }), "{error}");
        }
        let epochs = vec![EpochEntry {
            epoch: 3,
            start_offset: 40,
        }];
        checkpoint::write_epochs(io, &directory, &epochs)
            .await
            .unwrap();
        let text = std::fs::read(directory.join(checkpoint::LEADER_EPOCH_FILE)).unwrap();
        assert_eq!(text, b"0\n1\n3 40\n");
        assert_eq!(
            checkpoint::read_epochs(io, &directory).await.unwrap(),
            epochs
        );
    });
}

#[test]
fn meta_properties_of_both_versions_are_read_and_written() {
    let v0 = "#\n#Thu Jan 01 00:00:00 UTC 2026\ncluster.id=abc\\=def\nversion=0\nbroker.id=3\n";
    let parsed = MetaProperties::parse(v0).unwrap();
    assert_eq!((parsed.version, parsed.node_id), (0, Some(3)));
    assert_eq!(parsed.cluster_id.as_deref(), Some("abc=def"));
    let v1 = "node.id=1\ndirectory.id=AQIDBAUGBwgJCgsMDQ4PEA\nversion=1\ncluster.id=x\nextra=1\n";
    let parsed = MetaProperties::parse(v1).unwrap();
    assert_eq!(parsed.directory_id, Some(TOPIC_ID));
    assert_eq!(MetaProperties::parse(&parsed.encode()).unwrap(), parsed);
    assert!(parsed.encode().contains("node.id=1\n"));
    for bad in [
        "version=1\nnode.id=1",
        "version=1\ncluster.id=x",
        "version=2",
        "nonsense",
        "broker.id=x",
    ] {
        assert!(MetaProperties::parse(bad).is_err(), "{bad}");
    }
    let place = Place::new();
    let directory = place.0.clone();
    run(move |files| async move {
        let io = files.io();
        assert_eq!(read_meta_properties(io, &directory).await.unwrap(), None);
        write_meta_properties(io, &directory, &parsed)
            .await
            .unwrap();
        assert_eq!(
            read_meta_properties(io, &directory).await.unwrap(),
            Some(parsed)
        );
        assert!(!take_clean_shutdown(io, &directory).await.unwrap());
        write_clean_shutdown(io, &directory, 6).await.unwrap();
        let text = std::fs::read(directory.join(CLEAN_SHUTDOWN_FILE)).unwrap();
        assert_eq!(text, b"{\"version\":0,\"brokerEpoch\":6}");
        assert!(!ran_last(io, &directory).await.unwrap());
        assert!(take_clean_shutdown(io, &directory).await.unwrap());
        assert!(ran_last(io, &directory).await.unwrap());
        assert!(!take_clean_shutdown(io, &directory).await.unwrap());
        write_clean_shutdown(io, &directory, 6).await.unwrap();
        assert!(!ran_last(io, &directory).await.unwrap());
        // Kafka has run since: until Ringlog has recovered all that it has left.
        mark_ran_last(io, &directory).await.unwrap();
        assert!(ran_last(io, &directory).await.unwrap());
        let later = std::time::SystemTime::now() - Duration::from_secs(5);
        let marked = later - Duration::from_secs(5);
        for (name, time) in [(RAN_LAST_FILE, marked), (HIGH_WATERMARK_FILE, later)] {
            let file = std::fs::File::create(directory.join(name)).unwrap();
            file.set_modified(time).unwrap();
        }
        assert!(!ran_last(io, &directory).await.unwrap());
        mark_ran_last(io, &directory).await.unwrap();
        assert!(ran_last(io, &directory).await.unwrap());
        std::fs::write(directory.join(PARTITION_METADATA_FILE), b"version: x").unwrap();
        let error = read_partition_metadata(io, &directory).await.err().unwrap();
        assert!(matches!(error, LogError::Corrupt { .. }), "{error}");
    });
}
