//! The formats against bytes that Kafka 3.9.1's own generated classes wrote
//! (kafka-group-coordinator-3.9.1.jar, `MessageUtil.toVersionPrefixedBytes`).

use super::super::record_format::*;
use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

const OFFSET_KEYS: [&str; 2] = [
    "000000076772c3bc70706500066f726465727300000007",
    "000100076772c3bc70706500066f726465727300000007",
];
const GROUP_KEY: &str = "000200076772c3bc707065";
const OFFSET_VALUES: [&str; 5] = [
    "0000000000010000000100046d6574610000018bcfe5687b",
    "0001000000010000000100046d6574610000018bcfe5687b0000018bcfe6ee9f",
    "0002000000010000000100046d6574610000018bcfe5687b",
    "000300000001000000010000000500046d6574610000018bcfe5687b",
    "0004000000010000000100000005056d6574610000018bcfe5687b00",
];
const GROUP_VALUES: [&str; 5] = [
    "00000008636f6e73756d65720000002a000572616e676500036d2d310000000200036d2d310003636c69000a2f3132372e302e302e310000271000000003000102000000010900036d2d32000000092f31302e302e302e320000afc80000000000000000",
    "00010008636f6e73756d65720000002a000572616e676500036d2d310000000200036d2d310003636c69000a2f3132372e302e302e31000493e00000271000000003000102000000010900036d2d32000000092f31302e302e302e320000ea600000afc80000000000000000",
    "00020008636f6e73756d65720000002a000572616e676500036d2d310000018bcfe5687b0000000200036d2d310003636c69000a2f3132372e302e302e31000493e00000271000000003000102000000010900036d2d32000000092f31302e302e302e320000ea600000afc80000000000000000",
    "00030008636f6e73756d65720000002a000572616e676500036d2d310000018bcfe5687b0000000200036d2d310004696e73740003636c69000a2f3132372e302e302e31000493e00000271000000003000102000000010900036d2d32ffff000000092f31302e302e302e320000ea600000afc80000000000000000",
    "000409636f6e73756d65720000002a0672616e6765046d2d310000018bcfe5687b03046d2d3105696e737404636c690b2f3132372e302e302e31000493e00000271004000102020900046d2d3200010a2f31302e302e302e320000ea600000afc801010000",
];
const EMPTY_GROUP_VALUES: [&str; 2] = [
    "00030008636f6e73756d65720000002bffffffff0000018bcfe5687b00000000",
    "000409636f6e73756d65720000002b00000000018bcfe5687b0100",
];

fn offset_value(version: usize) -> OffsetAndMetadata {
    OffsetAndMetadata {
        offset: 4_294_967_297,
        leader_epoch: if version >= 3 { 5 } else { -1 },
        metadata: text("meta"),
        commit_timestamp_ms: 1_700_000_000_123,
        expire_timestamp_ms: (version == 1).then_some(1_700_000_099_999),
    }
}

fn group_value(version: usize) -> GroupMetadataValue {
    let member = |id: &str| MemberMetadataValue {
        member_id: text(id),
        group_instance_id: None,
        client_id: text(""),
        client_host: text("/10.0.0.2"),
        rebalance_timeout_ms: if version == 0 { 45_000 } else { 60_000 },
        session_timeout_ms: 45_000,
        subscription: Bytes::new(),
        assignment: Bytes::new(),
    };
    let first = MemberMetadataValue {
        group_instance_id: (version >= 3).then(|| text("inst")),
        client_id: text("cli"),
        client_host: text("/127.0.0.1"),
        rebalance_timeout_ms: if version == 0 { 10_000 } else { 300_000 },
        session_timeout_ms: 10_000,
        subscription: Bytes::from_static(&[0, 1, 2]),
        assignment: Bytes::from_static(&[9]),
        ..member("m-1")
    };
    GroupMetadataValue {
        protocol_type: text("consumer"),
        generation: 42,
        protocol: Some(text("range")),
        leader: Some(text("m-1")),
        current_state_timestamp_ms: if version >= 2 { 1_700_000_000_123 } else { -1 },
        members: vec![first, member("m-2")],
    }
}

fn empty_group_value() -> GroupMetadataValue {
    GroupMetadataValue {
        generation: 43,
        protocol: None,
        leader: None,
        members: Vec::new(),
        ..group_value(3)
    }
}

#[test]
fn keys_are_kafkas() {
    let group = text("gr\u{fc}ppe");
    assert_eq!(
        encode_offset_key(&group, "orders", 7).unwrap(),
        bytes(OFFSET_KEYS[1])
    );
    assert_eq!(encode_group_key(&group).unwrap(), bytes(GROUP_KEY));
    for key in OFFSET_KEYS {
        let expected = RecordKey::Offset {
            group: group.clone(),
            topic: text("orders"),
            partition: 7,
        };
        assert_eq!(decode_key(&bytes(key)), Ok(expected));
    }
    assert_eq!(
        decode_key(&bytes(GROUP_KEY)),
        Ok(RecordKey::Group { group })
    );
    assert_eq!(
        decode_key(&bytes("00030001")),
        Ok(RecordKey::Unknown { version: 3 })
    );
}

#[test]
fn offset_values_are_kafkas() {
    assert_eq!(
        encode_offset_value(&offset_value(1)).unwrap(),
        bytes(OFFSET_VALUES[1])
    );
    assert_eq!(
        encode_offset_value(&offset_value(3)).unwrap(),
        bytes(OFFSET_VALUES[3])
    );
    for (version, value) in OFFSET_VALUES.iter().enumerate() {
        assert_eq!(
            decode_offset_value(&bytes(value)),
            Ok(offset_value(version)),
            "{version}"
        );
    }
    assert_eq!(
        decode_offset_value(&bytes("0005")),
        Err(FormatError::UnknownVersion(5))
    );
}

#[test]
fn group_values_are_kafkas() {
    assert_eq!(
        encode_group_value(&group_value(3)).unwrap(),
        bytes(GROUP_VALUES[3])
    );
    assert_eq!(
        encode_group_value(&empty_group_value()).unwrap(),
        bytes(EMPTY_GROUP_VALUES[0])
    );
    for (version, value) in GROUP_VALUES.iter().enumerate() {
        assert_eq!(
            decode_group_value(&bytes(value)),
            Ok(group_value(version)),
            "{version}"
        );
    }
    for value in EMPTY_GROUP_VALUES {
        assert_eq!(decode_group_value(&bytes(value)), Ok(empty_group_value()));
    }
}

#[test]
fn every_cut_and_every_flipped_bit_is_an_error_or_a_value() {
    type Read = fn(&[u8]) -> bool;
    let key: Read = |bytes| decode_key(bytes).is_ok();
    let offset: Read = |bytes| decode_offset_value(bytes).is_ok();
    let group: Read = |bytes| decode_group_value(bytes).is_ok();
    let keys = OFFSET_KEYS.iter().chain([&GROUP_KEY]).map(|hex| (key, hex));
    let offsets = OFFSET_VALUES.iter().map(|hex| (offset, hex));
    let groups = GROUP_VALUES
        .iter()
        .chain(&EMPTY_GROUP_VALUES)
        .map(|hex| (group, hex));
    for (reads, hex) in keys.chain(offsets).chain(groups) {
        let whole = bytes(hex);
        assert!(reads(&whole), "{hex}");
        for cut in 0..whole.len() {
            assert!(!reads(&whole[..cut]), "{hex} cut at {cut}");
        }
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // Error or value, but no panic, from any reader.
            let _ = (key(&flipped), offset(&flipped), group(&flipped));
        }
    }
}

#[test]
fn a_count_that_was_only_told_is_truncated() {
    // 2^31-1 members, none of them there.
    let value = bytes(
        "000300000000002a ffff ffff ffffffffffffffff 7fffffff"
            .replace(' ', "")
            .as_str(),
    );
    assert_eq!(decode_group_value(&value), Err(FormatError::Truncated));
}

#[test]
fn what_does_not_fit_an_i16_is_refused() {
    let long = "x".repeat(32_768);
    assert_eq!(encode_group_key(&long), Err(FormatError::TooLong));
    assert_eq!(encode_offset_key("g", &long, 0), Err(FormatError::TooLong));
    assert!(encode_group_key(&long[1..]).is_ok());
}
