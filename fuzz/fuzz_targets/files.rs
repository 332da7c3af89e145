//! The small files of a data directory, and the nodes and records that hold what they would: whatever
//! a disk or another program has made of them.
//!
//! The first byte says which one. Fails on a panic, and where what was read is not what is read again
//! once it was written.
#![no_main]

use std::path::Path;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use ringlog::config::properties::Properties;
use ringlog::group::LoadedGroups;
use ringlog::metadata::znode::{self, TopicNode};
use ringlog::producer_state::ProducerState;
use ringlog_engine::io::Io;
use ringlog_engine::io::sim::World;
use ringlog_engine::log::checkpoint::{self, LEADER_EPOCH_FILE};
use ringlog_engine::log::directory::{
    MetaProperties, PARTITION_METADATA_FILE, PartitionDirectory, SegmentFileName,
    read_partition_metadata, write_partition_metadata,
};
use ringlog_engine::record::batch::crc32c;

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else {
        return;
    };
    match kind % 8 {
        0 => producer_snapshot(bytes),
        1 => meta_properties(bytes),
        2 => offset_checkpoint(bytes),
        3 => leader_epochs(bytes),
        4 => partition_metadata(bytes),
        5 => names(bytes),
        6 => group_record(bytes),
        _ => nodes(bytes),
    }
});

/// With its checksum put right, or nothing behind it would ever be reached.
fn producer_snapshot(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    if bytes.len() > 6 {
        let crc = crc32c(&bytes[6..]);
        bytes[2..6].copy_from_slice(&crc.to_be_bytes());
    }
    if let Some(state) = ProducerState::from_snapshot(&bytes) {
        let again = ProducerState::from_snapshot(&state.snapshot());
        assert_eq!(again, Some(state));
    }
}

fn meta_properties(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(properties) = MetaProperties::parse(text) {
        let again = MetaProperties::parse(&properties.encode());
        let again = again.expect("what was written can be read");
        assert_eq!(
            (again.version, again.node_id),
            (properties.version, properties.node_id)
        );
    }
    let _ = Properties::parse(bytes);
}

fn world(path: &str, bytes: &[u8]) -> (World, Io) {
    let world = World::new(1);
    let written = world.write_file(path, Bytes::copy_from_slice(bytes));
    written.expect("the world has room");
    let io = Io::simulated(&world);
    (world, io)
}

fn offset_checkpoint(bytes: &[u8]) {
    let (world, io) = world("/d/c", bytes);
    world.block_on(&[io.clone()], async move {
        let path = Path::new("/d/c");
        if let Ok(entries) = checkpoint::read_offsets(&io, path).await {
            let written = checkpoint::write_offsets(&io, path, &entries).await;
            written.expect("the world has room");
            let again = checkpoint::read_offsets(&io, path).await;
            assert_eq!(again.expect("just written"), entries);
        }
    });
}

fn leader_epochs(bytes: &[u8]) {
    let (world, io) = world(&format!("/d/{LEADER_EPOCH_FILE}"), bytes);
    world.block_on(&[io.clone()], async move {
        let path = Path::new("/d");
        if let Ok(entries) = checkpoint::read_epochs(&io, path).await {
            let written = checkpoint::write_epochs(&io, path, &entries).await;
            written.expect("the world has room");
            let again = checkpoint::read_epochs(&io, path).await;
            assert_eq!(again.expect("just written"), entries);
        }
    });
}

fn partition_metadata(bytes: &[u8]) {
    let (world, io) = world(&format!("/d/{PARTITION_METADATA_FILE}"), bytes);
    world.block_on(&[io.clone()], async move {
        let path = Path::new("/d");
        if let Ok(Some(id)) = read_partition_metadata(&io, path).await {
            let written = write_partition_metadata(&io, path, id).await;
            written.expect("the world has room");
            let again = read_partition_metadata(&io, path).await;
            assert_eq!(again.expect("just written"), Some(id));
        }
    });
}

fn names(bytes: &[u8]) {
    let Ok(name) = std::str::from_utf8(bytes) else {
        return;
    };
    let _ = PartitionDirectory::parse(name);
    if let Some(found) = SegmentFileName::parse(name) {
        assert!(name.starts_with(&format!("{:020}", found.offset)), "{name}");
    }
}

/// The first byte is the length of the key.
fn group_record(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first() else {
        return;
    };
    let (key, value) = rest.split_at(rest.len().min(usize::from(*length)));
    let mut groups = LoadedGroups::default();
    groups.record(key, Some(value));
    groups.record(key, None);
}

fn nodes(bytes: &[u8]) {
    let _ = TopicNode::decode(bytes).map(|node| node.partitions_of(1, |id| id == 2));
    let _ = znode::decode_wishes(bytes);
    let _ = znode::decode_config(bytes);
    let _ = znode::decode_config_change(bytes);
    let _ = znode::decode_cluster_id(bytes);
    let _ = znode::decode_producer_ids(bytes);
}
