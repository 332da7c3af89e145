//! Tests of the key table: it is sorted, every default is a value of its own key, and values are
//! read as Kafka reads them.

use super::*;

#[test]
fn names_are_sorted_and_unique_so_that_find_works() {
    for pair in KEYS.windows(2) {
        assert!(
            pair[0].name < pair[1].name,
            "{} {}",
            pair[0].name,
            pair[1].name
        );
    }
    for key in KEYS {
        assert_eq!(find(key.name).map(|k| k.name), Some(key.name));
    }
}

#[test]
fn every_default_is_a_value_of_its_own_key() {
    for key in KEYS {
        if let Some(default) = key.default {
            let parsed = key.parse(default);
            assert!(parsed.is_ok(), "{}={default}: {parsed:?}", key.name);
        }
    }
}

#[test]
fn every_documentation_is_one_sentence_line() {
    for key in KEYS {
        let doc = key.documentation;
        assert!(
            doc.ends_with('.') && !doc.contains('\n'),
            "{}: {doc}",
            key.name
        );
    }
}

#[test]
fn defaults_are_kafkas_where_the_reference_lists_them() {
    let default = |name| find(name).and_then(|key| key.default);
    assert_eq!(default("broker.id"), Some("-1"));
    assert_eq!(default("log.dirs"), None);
    assert_eq!(default("log.dir"), Some("/tmp/kafka-logs"));
    assert_eq!(default("message.max.bytes"), Some("1048588"));
    assert_eq!(default("log.segment.bytes"), Some("1073741824"));
    assert_eq!(default("offsets.retention.minutes"), Some("10080"));
    assert_eq!(default("compression.type"), Some("producer"));
    assert_eq!(default("fetch.max.bytes"), Some("57671680"));
    assert_eq!(default("inter.broker.protocol.version"), Some("3.9-IV0"));
}

#[test]
fn values_are_read_as_kafka_reads_them() {
    let read = |name: &str, text: &str| find(name).expect("known key").parse(text);
    assert_eq!(
        read("delete.topic.enable", " TRUE "),
        Ok(Value::Boolean(true))
    );
    assert_eq!(read("num.partitions", "+3"), Ok(Value::Integer(3)));
    assert_eq!(read("process.roles", ""), Ok(Value::List(vec![])));
    assert_eq!(
        read("process.roles", "broker , controller"),
        Ok(Value::List(vec![
            "broker".to_owned(),
            "controller".to_owned()
        ]))
    );
    let reason = |name: &str, text: &str| read(name, text).expect_err("malformed").kafka_reason;
    assert_eq!(reason("num.partitions", "x"), "Not a number of type INT");
    assert_eq!(
        reason("num.partitions", "2147483648"),
        "Not a number of type INT"
    );
    assert_eq!(reason("num.partitions", "0"), "Value must be at least 1");
    assert_eq!(
        reason("compression.lz4.level", "18"),
        "Value must be no more than 17"
    );
    assert_eq!(
        reason("delete.topic.enable", "yes"),
        "Expected value to be either true or false"
    );
    assert_eq!(
        reason("log.message.timestamp.type", "x"),
        "String must be one of: CreateTime, LogAppendTime"
    );
    assert_eq!(
        reason("log.cleaner.min.cleanable.ratio", "NaN"),
        "Value must be at least 0"
    );
}

#[test]
fn nearest_finds_a_slip_and_not_a_stranger() {
    assert_eq!(nearest("log.retention.hour"), Some("log.retention.hours"));
    assert_eq!(nearest("NUM.PARTITION"), Some("num.partitions"));
    assert_eq!(nearest("confluent.metrics.topic.replicas"), None);
    assert_eq!(nearest(&"x".repeat(100_000)), None);
}

#[test]
fn explain_says_type_value_default_effect_flag_and_env() {
    let text = find("ringlog.cores").expect("known key").to_string();
    assert_eq!(
        text,
        "ringlog.cores\n  Shards, each one a pinned thread with its own ring, partitions and connections; \
         null means all usable cores.\n  type     int\n  value    a whole number from 1 to 256\n  \
         default  null\n  effect   acts\n  flag     --cores\n  env      RINGLOG_CORES\n"
    );
    let text = find("num.io.threads").expect("known key").to_string();
    assert!(text.contains("accepted and ignored: "), "{text}");
}
