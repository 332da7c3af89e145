//! DescribeConfigs, AlterConfigs, IncrementalAlterConfigs: every version, and that a change acts at once.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::messages::alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use kafka_protocol::messages::incremental_alter_configs_request as incremental;
use kafka_protocol::messages::{
    AlterConfigsRequest, DescribeConfigsRequest, IncrementalAlterConfigsRequest, MetadataRequest,
};
use ringlog_tests::broker::{Broker, Options, unique, wait_for};
use ringlog_tests::call::{create_topic, produce, produce_values, text};
use ringlog_tests::records::Batch;
use ringlog_tests::wire::Client;

use crate::error;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const LOGGER: i8 = 8;
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;
const DESCRIBE_VERSIONS: std::ops::RangeInclusive<i16> = 0..=4;
/// Of `DescribeConfigsResponse.ConfigSource`.
const DYNAMIC_TOPIC: i8 = 1;
const DYNAMIC_BROKER: i8 = 2;
const DYNAMIC_DEFAULT_BROKER: i8 = 3;
const STATIC_BROKER: i8 = 4;
const DEFAULT: i8 = 5;

fn describe(client: &mut Client, version: i16, kind: i8, name: &str) -> DescribeConfigsResult {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configuration_keys(None);
    let mut request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    request.include_synonyms = version >= 1;
    request.include_documentation = version >= 3;
    let mut response = client.call(version, &request);
    assert_eq!(response.results.len(), 1, "{response:?}");
    let result = response.results.remove(0);
    assert_eq!(
        (result.resource_type, result.resource_name.as_str()),
        (kind, name)
    );
    result
}

fn entry(client: &mut Client, kind: i8, name: &str, key: &str) -> DescribeConfigsResourceResult {
    let result = describe(client, 4, kind, name);
    assert_eq!(result.error_code, 0, "{result:?}");
    let mut configs = result.configs.into_iter();
    let found = configs.find(|config| config.name.as_str() == key);
    found.unwrap_or_else(|| panic!("{key} of {kind} {name}"))
}

/// Value and source.
fn value(client: &mut Client, kind: i8, name: &str, key: &str) -> (String, i8) {
    let entry = entry(client, kind, name, key);
    (
        entry.value.unwrap_or_default().to_string(),
        entry.config_source,
    )
}

/// Checks a topic's value and source. Ours are in force when the change is answered; Apache Kafka's
/// controller answers before its brokers know.
fn expect(broker: &Broker, client: &mut Client, name: &str, key: &str, expected: (&str, i8)) {
    if !broker.is_own() {
        wait_for(key, Duration::from_secs(10), || {
            let (found, source) = value(client, TOPIC, name, key);
            ((found.as_str(), source) == expected).then_some(())
        });
    }
    let (found, source) = value(client, TOPIC, name, key);
    assert_eq!((found.as_str(), source), expected, "{key}");
}

fn resource(
    kind: i8,
    name: &str,
    configs: &[(&str, i8, Option<&str>)],
) -> incremental::AlterConfigsResource {
    let config = |(key, operation, value): &(&str, i8, Option<&str>)| {
        incremental::AlterableConfig::default()
            .with_name(text(key))
            .with_config_operation(*operation)
            .with_value(value.map(text))
    };
    incremental::AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configs(configs.iter().map(config).collect())
}

fn alter_all(
    client: &mut Client,
    version: i16,
    resources: Vec<incremental::AlterConfigsResource>,
    validate_only: bool,
) -> Vec<(i16, String)> {
    let request = IncrementalAlterConfigsRequest::default()
        .with_resources(resources)
        .with_validate_only(validate_only);
    let response = client.call(version, &request);
    let answer = response.responses.into_iter();
    answer
        .map(|one| {
            (
                one.error_code,
                one.error_message.unwrap_or_default().to_string(),
            )
        })
        .collect()
}

fn alter(
    client: &mut Client,
    kind: i8,
    name: &str,
    configs: &[(&str, i8, Option<&str>)],
) -> (i16, String) {
    alter_all(client, 1, vec![resource(kind, name, configs)], false).remove(0)
}

/// AlterConfigs: the whole set.
fn replace(
    client: &mut Client,
    version: i16,
    (kind, name): (i8, &str),
    configs: &[(&str, &str)],
    validate_only: bool,
) -> (i16, String) {
    let config = |(key, value): &(&str, &str)| {
        AlterableConfig::default()
            .with_name(text(key))
            .with_value(Some(text(value)))
    };
    let resource = AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configs(configs.iter().map(config).collect());
    let request = AlterConfigsRequest::default()
        .with_resources(vec![resource])
        .with_validate_only(validate_only);
    let mut response = client.call(version, &request);
    let answer = response.responses.remove(0);
    (
        answer.error_code,
        answer.error_message.unwrap_or_default().to_string(),
    )
}

/// Changes one setting of a broker, which must succeed.
fn set_broker(client: &mut Client, name: &str, key: &str, value: Option<&str>) {
    let operation = if value.is_some() { SET } else { DELETE };
    let (code, message) = alter(client, BROKER, name, &[(key, operation, value)]);
    assert_eq!(code, 0, "{key}: {message}");
}

fn broker_id(client: &mut Client) -> String {
    let request = MetadataRequest::default().with_topics(Some(Vec::new()));
    client.call(12, &request).brokers[0].node_id.0.to_string()
}

#[test]
fn a_topic_is_described_in_every_version() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let name = unique("described");
    create_topic(&mut client, &name, 1, &[("retention.ms", "1234")]);
    for version in DESCRIBE_VERSIONS {
        let result = describe(&mut client, version, TOPIC, &name);
        assert_eq!(result.error_code, 0, "v{version}: {result:?}");
        let by_name: BTreeMap<&str, &DescribeConfigsResourceResult> = result
            .configs
            .iter()
            .map(|c| (c.name.as_str(), c))
            .collect();
        for key in [
            "retention.ms",
            "cleanup.policy",
            "segment.bytes",
            "min.insync.replicas",
        ] {
            let config = by_name[key];
            let is_set = key == "retention.ms";
            assert!(
                !config.read_only && !config.is_sensitive,
                "v{version}: {config:?}"
            );
            if is_set {
                assert_eq!(config.value, Some(text("1234")), "v{version}");
            }
            match version {
                0 if broker.is_own() => {
                    assert_eq!(config.is_default, !is_set, "v{version}: {config:?}");
                }
                0 => {}
                _ => {
                    let expected = if is_set { DYNAMIC_TOPIC } else { DEFAULT };
                    assert_eq!(config.config_source, expected, "v{version}: {config:?}");
                    assert_eq!(
                        config.synonyms[0].source, expected,
                        "v{version}: {config:?}"
                    );
                }
            }
            if version >= 3 {
                assert_ne!(config.config_type, 0, "v{version}: {config:?}");
                assert!(
                    config
                        .documentation
                        .as_ref()
                        .is_some_and(|doc| !doc.is_empty())
                );
            }
        }
    }
}

#[test]
fn only_the_keys_asked_for_are_answered_and_a_stranger_is_an_error() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let name = unique("keys");
    create_topic(&mut client, &name, 1, &[]);
    for version in DESCRIBE_VERSIONS {
        let keys = vec![
            text("retention.ms"),
            text("no.such.key"),
            text("segment.ms"),
        ];
        let resource = DescribeConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(text(&name))
            .with_configuration_keys(Some(keys));
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
        let response = client.call(version, &request);
        let mut names: Vec<_> = response.results[0]
            .configs
            .iter()
            .map(|c| c.name.as_str())
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["retention.ms", "segment.ms"], "v{version}");
        for (kind, name, expected) in [
            (TOPIC, unique("none"), error::UNKNOWN_TOPIC_OR_PARTITION),
            (TOPIC, "a/b".to_owned(), error::INVALID_TOPIC_EXCEPTION),
            (BROKER, "4711".to_owned(), error::INVALID_REQUEST),
            (BROKER, "x".to_owned(), error::INVALID_REQUEST),
            (LOGGER, String::new(), error::INVALID_REQUEST),
        ] {
            let result = describe(&mut client, version, kind, &name);
            assert_eq!(
                result.error_code, expected,
                "v{version} {kind} {name}: {result:?}"
            );
            assert!(result.configs.is_empty(), "v{version}");
        }
    }
}

#[test]
fn a_broker_is_described_in_every_version() {
    let Some(broker) = Broker::own(Options::default().set("num.partitions", 3)) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    let id = broker_id(&mut client);
    for version in DESCRIBE_VERSIONS {
        let result = describe(&mut client, version, BROKER, &id);
        assert_eq!(result.error_code, 0, "v{version}: {result:?}");
        let find = |key: &str| {
            let mut configs = result.configs.iter();
            configs
                .find(|c| c.name.as_str() == key)
                .unwrap_or_else(|| panic!("v{version}: {key}"))
        };
        let set = find("num.partitions");
        assert_eq!(set.value, Some(text("3")), "v{version}");
        assert!(set.read_only, "v{version}: {set:?}");
        assert!(!find("message.max.bytes").read_only, "v{version}");
        let secret = find("ssl.keystore.password");
        assert!(
            secret.is_sensitive && secret.value.is_none(),
            "v{version}: {secret:?}"
        );
        if version == 0 {
            assert!(
                !set.is_default && find("message.max.bytes").is_default,
                "v{version}"
            );
        } else {
            assert_eq!(set.config_source, STATIC_BROKER, "v{version}");
            let sources: Vec<_> = set.synonyms.iter().map(|s| s.source).collect();
            assert_eq!(sources, [STATIC_BROKER, DEFAULT], "v{version}");
        }
        let all = describe(&mut client, version, BROKER, "");
        assert_eq!(
            (all.error_code, all.configs.len()),
            (0, 0),
            "v{version}: {all:?}"
        );
    }
}

#[test]
fn topic_settings_are_changed_by_every_version() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let name = unique("replaced");
    create_topic(&mut client, &name, 1, &[("segment.ms", "99999")]);
    let (unset_retention, unset_segment) = (("604800000", DEFAULT), ("604800000", DEFAULT));
    let target = (TOPIC, name.as_str());
    for version in 0..=2 {
        let (code, message) = replace(
            &mut client,
            version,
            target,
            &[("retention.ms", "77")],
            false,
        );
        assert_eq!(code, 0, "v{version}: {message}");
        let set = ("77", DYNAMIC_TOPIC);
        expect(&broker, &mut client, &name, "retention.ms", set);
        // Replaced as a whole.
        expect(&broker, &mut client, &name, "segment.ms", unset_segment);
        let validated = replace(
            &mut client,
            version,
            target,
            &[("segment.ms", "5000")],
            true,
        );
        assert_eq!(validated.0, 0, "v{version}");
        expect(&broker, &mut client, &name, "retention.ms", set);
        assert_eq!(replace(&mut client, version, target, &[], false).0, 0);
        expect(&broker, &mut client, &name, "retention.ms", unset_retention);
    }
}

#[test]
fn each_operation_changes_a_topics_setting() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let name = unique("operations");
    create_topic(&mut client, &name, 1, &[]);
    let policy = "cleanup.policy";
    type Step<'a> = (&'a [(&'a str, i8, Option<&'a str>)], (&'a str, i8));
    let steps: [Step<'_>; 5] = [
        (
            &[
                ("retention.ms", SET, Some("5")),
                (policy, APPEND, Some("compact")),
            ],
            ("delete,compact", DYNAMIC_TOPIC),
        ),
        (
            &[(policy, APPEND, Some("compact"))],
            ("delete,compact", DYNAMIC_TOPIC),
        ),
        (
            &[(policy, SUBTRACT, Some("delete"))],
            ("compact", DYNAMIC_TOPIC),
        ),
        (&[(policy, SET, Some("delete"))], ("delete", DYNAMIC_TOPIC)),
        (
            &[(policy, DELETE, None), ("retention.ms", DELETE, None)],
            ("delete", DEFAULT),
        ),
    ];
    for version in 0..=1 {
        for (configs, expected) in &steps {
            let asked = vec![resource(TOPIC, &name, configs)];
            let answer = alter_all(&mut client, version, asked, false);
            assert_eq!(answer[0].0, 0, "v{version} {configs:?}: {answer:?}");
            expect(&broker, &mut client, &name, policy, *expected);
        }
        let unset = ("604800000", DEFAULT);
        expect(&broker, &mut client, &name, "retention.ms", unset);
        let asked = vec![resource(TOPIC, &name, &[("retention.ms", SET, Some("5"))])];
        assert_eq!(alter_all(&mut client, version, asked, true)[0].0, 0);
        expect(&broker, &mut client, &name, "retention.ms", unset);
    }
}

#[test]
fn impossible_changes_are_refused_and_change_nothing() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let name = unique("refused");
    create_topic(&mut client, &name, 1, &[]);
    let id = broker_id(&mut client);
    let key = "retention.ms";
    let size = "message.max.bytes";
    for (kind, resource_name, config, expected) in [
        (
            TOPIC,
            name.as_str(),
            ("no.such.config", SET, Some("1")),
            error::INVALID_CONFIG,
        ),
        (
            TOPIC,
            &name,
            (key, SET, Some("soon")),
            error::INVALID_CONFIG,
        ),
        (
            TOPIC,
            &name,
            (key, APPEND, Some("1")),
            error::INVALID_CONFIG,
        ),
        (TOPIC, &name, (key, SET, None), error::INVALID_REQUEST),
        (TOPIC, "", (key, SET, Some("1")), error::INVALID_REQUEST),
        (
            TOPIC,
            "no-such-topic",
            (key, SET, Some("1")),
            error::UNKNOWN_TOPIC_OR_PARTITION,
        ),
        (
            BROKER,
            "4711",
            (size, SET, Some("1")),
            error::INVALID_REQUEST,
        ),
        (BROKER, "x", (size, SET, Some("1")), error::INVALID_REQUEST),
        (
            BROKER,
            &id,
            ("log.dirs", SET, Some("/tmp")),
            error::INVALID_REQUEST,
        ),
        (
            BROKER,
            &id,
            (size, SET, Some("many")),
            error::INVALID_REQUEST,
        ),
        (
            BROKER,
            "",
            ("listeners", SET, Some("PLAINTEXT://:1")),
            error::INVALID_REQUEST,
        ),
        (1, "x", ("a", SET, Some("1")), error::INVALID_REQUEST),
    ] {
        for version in 0..=1 {
            let asked = vec![resource(kind, resource_name, &[config])];
            let (code, message) = alter_all(&mut client, version, asked, false).remove(0);
            let what = format!("v{version} {kind} {resource_name} {config:?}: {message}");
            assert_eq!(code, expected, "{what}");
            assert!(!message.is_empty(), "{what}");
        }
    }
}

#[test]
fn a_key_or_a_resource_twice_and_a_bad_whole_set_are_refused() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.address());
    let name = unique("twice");
    create_topic(&mut client, &name, 1, &[]);
    let key = "retention.ms";
    let twice = [(key, SET, Some("1")), (key, DELETE, None)];
    assert_eq!(
        alter(&mut client, TOPIC, &name, &twice).0,
        error::INVALID_REQUEST
    );
    let one = || resource(TOPIC, &name, &[("retention.ms", SET, Some("1"))]);
    for (code, _) in alter_all(&mut client, 1, vec![one(), one()], false) {
        assert_eq!(code, error::INVALID_REQUEST, "a resource twice");
    }
    assert_eq!(value(&mut client, TOPIC, &name, "retention.ms").1, DEFAULT);
    for version in 0..=2 {
        let (code, _) = replace(
            &mut client,
            version,
            (TOPIC, &name),
            &[("retention.ms", "x")],
            false,
        );
        assert_eq!(code, error::INVALID_CONFIG, "v{version}");
    }
}

#[test]
fn a_topics_settings_act_at_once_and_are_kept() {
    let Some(mut broker) = Broker::own(Options::default()) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    let name = unique("acts");
    create_topic(&mut client, &name, 4, &[]);
    let big = || Batch::of(&["x".repeat(2000)]).encode();
    for partition in 0..4 {
        assert_eq!(
            produce(&mut client, 9, &name, partition, big()).error_code,
            0
        );
    }
    let small: &[_] = &[
        ("max.message.bytes", SET, Some("1000")),
        ("segment.bytes", SET, Some("4096")),
    ];
    assert_eq!(alter(&mut client, TOPIC, &name, small).0, 0);
    for partition in 0..4 {
        let answer = produce(&mut client, 9, &name, partition, big());
        assert_eq!(answer.error_code, error::MESSAGE_TOO_LARGE, "{answer:?}");
    }
    // The log rolls at the new size.
    for _ in 0..20 {
        produce_values(&mut client, &name, &["y".repeat(700)]);
    }
    let segments = std::fs::read_dir(broker.logs().join(format!("{name}-0")))
        .expect("the partition's directory");
    let segments = segments.filter_map(Result::ok);
    let logs = segments
        .filter(|file| file.path().extension().is_some_and(|ext| ext == "log"))
        .count();
    assert!(logs >= 3, "{logs} segments of 4096 bytes");
    for crash in [true, false] {
        broker.end(crash);
        broker.restart();
        let mut client = Client::connect(broker.address());
        assert_eq!(
            value(&mut client, TOPIC, &name, "max.message.bytes"),
            ("1000".to_owned(), DYNAMIC_TOPIC)
        );
        let answer = produce(&mut client, 9, &name, 1, big());
        assert_eq!(
            answer.error_code,
            error::MESSAGE_TOO_LARGE,
            "crash={crash}: {answer:?}"
        );
    }
}

#[test]
fn a_brokers_settings_are_the_topics_defaults_at_once_and_are_kept() {
    let Some(mut broker) = Broker::own(Options::default().set("message.max.bytes", 5000)) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    let name = unique("inherits");
    create_topic(&mut client, &name, 2, &[]);
    let id = broker_id(&mut client);
    let sized = |bytes: usize| Batch::of(&["x".repeat(bytes)]).encode();
    let code = |client: &mut Client, bytes| produce(client, 9, &name, 1, sized(bytes)).error_code;
    assert_eq!(code(&mut client, 4000), 0);
    // For all brokers, then for this one, which goes first.
    set_broker(&mut client, "", "message.max.bytes", Some("3000"));
    assert_eq!(code(&mut client, 4000), error::MESSAGE_TOO_LARGE);
    assert_eq!(
        value(&mut client, BROKER, "", "message.max.bytes"),
        ("3000".to_owned(), DYNAMIC_DEFAULT_BROKER)
    );
    set_broker(&mut client, &id, "message.max.bytes", Some("1000"));
    assert_eq!(code(&mut client, 2000), error::MESSAGE_TOO_LARGE);
    let of_topic = entry(&mut client, TOPIC, &name, "max.message.bytes");
    let sources: Vec<_> = of_topic.synonyms.iter().map(|s| s.source).collect();
    assert_eq!(
        sources,
        [
            DYNAMIC_BROKER,
            DYNAMIC_DEFAULT_BROKER,
            STATIC_BROKER,
            DEFAULT
        ],
        "{of_topic:?}"
    );
    for crash in [true, false] {
        broker.end(crash);
        broker.restart();
        let mut client = Client::connect(broker.address());
        assert_eq!(
            value(&mut client, BROKER, &id, "message.max.bytes"),
            ("1000".to_owned(), DYNAMIC_BROKER)
        );
        assert_eq!(
            code(&mut client, 2000),
            error::MESSAGE_TOO_LARGE,
            "crash={crash}"
        );
    }
    let mut client = Client::connect(broker.address());
    for resource in [id.as_str(), ""] {
        set_broker(&mut client, resource, "message.max.bytes", None);
    }
    assert_eq!(
        value(&mut client, BROKER, &id, "message.max.bytes"),
        ("5000".to_owned(), STATIC_BROKER)
    );
    assert_eq!(code(&mut client, 4000), 0);
}

#[test]
fn settings_of_brokers_that_do_not_fit_together_are_refused_as_a_whole() {
    let Some(broker) = Broker::own(Options::default()) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    create_topic(&mut client, &unique("inherits"), 1, &[]);
    let lag = [
        ("log.cleaner.min.compaction.lag.ms", SET, Some("9")),
        ("log.cleaner.max.compaction.lag.ms", SET, Some("5")),
    ];
    assert_eq!(
        alter(&mut client, BROKER, "", &lag).0,
        error::INVALID_REQUEST
    );
    assert_eq!(describe(&mut client, 4, BROKER, "").configs.len(), 0);
}

#[test]
fn the_limit_of_connections_is_changed_while_the_broker_runs() {
    let Some(broker) = Broker::own(Options::default()) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    let id = broker_id(&mut client);
    set_broker(&mut client, &id, "max.connections.per.ip", Some("1"));
    let mut refused = Client::connect(broker.address());
    assert!(refused.is_closed_within(Duration::from_secs(10)));
    set_broker(&mut client, &id, "max.connections.per.ip", None);
    broker_id(&mut Client::connect(broker.address()));
}

#[test]
fn the_log_level_is_changed_while_the_broker_runs() {
    let Some(broker) = Broker::own(Options::default()) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    let id = broker_id(&mut client);
    for level in ["DEBUG", "WARN"] {
        assert_eq!(
            alter(&mut client, LOGGER, &id, &[("root", SET, Some(level))]).0,
            0
        );
        assert_eq!(value(&mut client, LOGGER, &id, "root").0, level);
    }
    assert_eq!(
        alter(&mut client, LOGGER, &id, &[("root", SET, Some("LOUD"))]).0,
        error::INVALID_CONFIG
    );
    assert_eq!(
        alter(&mut client, LOGGER, &id, &[("root", DELETE, None)]).0,
        error::INVALID_REQUEST
    );
    assert_eq!(
        replace(&mut client, 2, (LOGGER, &id), &[("root", "INFO")], false).0,
        error::INVALID_REQUEST
    );
}
