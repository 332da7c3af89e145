//! Tests of topic keys: the table, defaults from the broker, and Kafka's messages.

use super::*;
use crate::config::{BrokerConfig, Layers};

fn broker(pairs: &[&str]) -> Settings {
    let overrides = pairs.iter().map(|pair| (*pair).to_owned()).collect();
    let layers = Layers {
        overrides,
        ..Layers::default()
    };
    BrokerConfig::load(&layers).expect("valid").config.settings
}

fn overrides(pairs: &[(&str, &str)]) -> Overrides {
    let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
    pairs.iter().map(owned).collect()
}

fn message(pairs: &[(&str, &str)]) -> String {
    validate(&broker(&[]), &overrides(pairs))
        .expect_err("invalid")
        .to_string()
}

#[test]
fn names_are_sorted_defaults_valid_and_synonyms_known() {
    assert!(KEYS.windows(2).all(|pair| pair[0].name < pair[1].name));
    for key in KEYS {
        assert!(key.parse(key.default).is_ok(), "{}", key.name);
        for (synonym, _) in key.synonyms {
            assert!(keys::find(synonym).is_some(), "{synonym}");
        }
    }
}

/// Without a setting the broker's defaults and the topic's own are the same, as in Kafka.
#[test]
fn defaults_agree_with_the_brokers() {
    let broker = broker(&[]);
    for key in KEYS {
        assert_eq!(
            key.broker_default(&broker),
            (key.default.to_owned(), ConfigSource::Default),
            "{}",
            key.name
        );
    }
}

#[test]
fn broker_keys_give_the_defaults_in_their_units_and_order() {
    let none = Overrides::new();
    let of = |pairs: &[&str]| validate(&broker(pairs), &none).expect("valid");
    assert_eq!(of(&[]).retention_ms, Some(604_800_000));
    assert_eq!(of(&["log.retention.hours=1"]).retention_ms, Some(3_600_000));
    assert_eq!(
        of(&["log.retention.hours=1", "log.retention.minutes=2"]).retention_ms,
        Some(120_000)
    );
    assert_eq!(
        of(&["log.retention.minutes=2", "log.retention.ms=3"]).retention_ms,
        Some(3)
    );
    assert_eq!(of(&["log.retention.hours=-1"]).retention_ms, None);
    assert_eq!(of(&["log.retention.bytes=7"]).retention_bytes, Some(7));
    assert_eq!(of(&["log.roll.hours=2"]).segment_ms, 7_200_000);
    assert_eq!(of(&["log.flush.scheduler.interval.ms=9"]).flush_ms, 9);
    assert_eq!(of(&["message.max.bytes=5"]).max_message_bytes, 5);
    assert_eq!(of(&["log.index.size.max.bytes=8"]).segment_index_bytes, 8);
}

#[test]
fn overrides_go_before_the_broker() {
    let config = validate(
        &broker(&["log.segment.bytes=1000", "log.retention.hours=1"]),
        &overrides(&[
            ("segment.bytes", " 2000 "),
            ("retention.ms", "-1"),
            ("cleanup.policy", "compact,delete"),
            ("compression.type", "zstd"),
            ("message.timestamp.type", "LogAppendTime"),
        ]),
    )
    .expect("valid");
    assert_eq!((config.segment_bytes, config.retention_ms), (2000, None));
    assert_eq!(
        config.cleanup_policy,
        CleanupPolicy {
            delete: true,
            compact: true
        }
    );
    assert_eq!(config.compression_type, CompressionType::Zstd);
    assert_eq!(config.message_timestamp_type, TimestampType::LogAppendTime);
}

#[test]
fn invalid_config_has_kafkas_message() {
    assert_eq!(
        message(&[("retention.s", "1")]),
        "Unknown topic config name: retention.s"
    );
    assert_eq!(
        message(&[("segment.bytes", "x")]),
        "Invalid value x for configuration segment.bytes: Not a number of type INT"
    );
    assert_eq!(
        message(&[("segment.bytes", "13")]),
        "Invalid value 13 for configuration segment.bytes: Value must be at least 14"
    );
    assert_eq!(
        message(&[("cleanup.policy", "shrink")]),
        "Invalid value shrink for configuration cleanup.policy: String must be one of: compact, delete"
    );
    assert_eq!(
        message(&[("min.cleanable.dirty.ratio", "1.5")]),
        "Invalid value 1.5 for configuration min.cleanable.dirty.ratio: Value must be no more than 1"
    );
    assert_eq!(
        message(&[("preallocate", "maybe")]),
        "Invalid value maybe for configuration preallocate: Expected value to be either true or false"
    );
    assert_eq!(
        message(&[
            ("min.compaction.lag.ms", "9"),
            ("max.compaction.lag.ms", "8")
        ]),
        "conflict topic config setting min.compaction.lag.ms (9) > max.compaction.lag.ms (8)"
    );
    assert!(
        message(&[("remote.storage.enable", "true")])
            .starts_with("Tiered Storage functionality is disabled")
    );
}

#[test]
fn store_of_a_newer_release_resolves() {
    let config = TopicConfig::resolve(
        &broker(&[]),
        &overrides(&[("new.key", "1"), ("segment.ms", "5")]),
    );
    assert_eq!(config.expect("valid").segment_ms, 5);
}

#[test]
fn describe_lists_override_broker_and_default() {
    let rows = describe(
        &broker(&["log.retention.hours=1"]),
        &overrides(&[("retention.ms", "7")]),
    );
    assert_eq!(rows.len(), KEYS.len());
    let row = rows
        .iter()
        .find(|row| row.name == "retention.ms")
        .expect("described");
    assert_eq!(
        (row.value.as_deref(), row.source),
        (Some("7"), ConfigSource::DynamicTopic)
    );
    let synonyms: Vec<_> = row
        .synonyms
        .iter()
        .map(|s| (s.name, s.value.as_deref(), s.source))
        .collect();
    assert_eq!(
        synonyms,
        [("retention.ms", Some("7"), ConfigSource::DynamicTopic)],
        "Kafka shows no synonyms where log.retention.ms is null"
    );
    let rows = describe(&broker(&["log.retention.hours=1"]), &Overrides::new());
    let row = rows
        .iter()
        .find(|row| row.name == "retention.ms")
        .expect("described");
    assert_eq!(
        (row.value.as_deref(), row.source),
        (Some("3600000"), ConfigSource::StaticBroker)
    );
}
