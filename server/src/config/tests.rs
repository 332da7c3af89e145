//! Tests of the configuration as a whole: defaults, precedence, old spellings, exact error texts.

use super::*;
use std::sync::atomic::{AtomicU32, Ordering};

/// A properties file that goes when the test ends.
struct TempFile(PathBuf);

impl TempFile {
    fn new(bytes: &[u8]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringlog-config-{}-{number}.properties", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, bytes).expect("writes");
        Self(path)
    }

    fn layers(&self) -> Layers {
        Layers {
            file: Some(self.0.clone()),
            ..Layers::default()
        }
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn load(text: &str) -> Result<Loaded, ConfigError> {
    BrokerConfig::load(&TempFile::new(text.as_bytes()).layers())
}

fn overriding(pairs: &[&str]) -> Result<Loaded, ConfigError> {
    BrokerConfig::load(&Layers {
        overrides: pairs.iter().map(|pair| (*pair).to_owned()).collect(),
        ..Layers::default()
    })
}

/// The findings as a terminal shows them, with the path of the temporary file made stable.
fn shown(text: &str) -> String {
    let file = TempFile::new(text.as_bytes());
    let problems = match BrokerConfig::load(&file.layers()) {
        Ok(loaded) => loaded.notes,
        Err(error) => error.problems,
    };
    let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
    all.join("\n")
        .replace(&file.0.display().to_string(), "server.properties")
}

fn error_of(pairs: &[&str]) -> String {
    overriding(pairs).expect_err("an error").to_string()
}

#[test]
fn nothing_configured_serves_on_loopback_from_data() {
    let Loaded { config, notes } = BrokerConfig::load(&Layers::default()).expect("valid");
    assert_eq!(notes, []);
    assert_eq!(config.node_id, 0);
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(
        config.listeners[0].bind.to_string(),
        "PLAINTEXT://127.0.0.1:9092"
    );
    let host = Some("127.0.0.1".to_owned());
    assert_eq!(
        config.listeners[0].advertised,
        Advertised { host, port: 9092 }
    );
    assert_eq!(config.log_dirs, [PathBuf::from("./data/logs")]);
    assert_eq!(config.ringlog.journal_dir, PathBuf::from("./data/journal"));
    assert_eq!(config.zookeeper.own_port, Some(2181));
    assert_eq!(
        (config.num_partitions, config.default_replication_factor),
        (1, 1)
    );
    assert!(config.auto_create_topics_enable && config.delete_topic_enable);
    assert_eq!(config.offsets.retention_ms, 7 * 24 * 3_600_000);
    assert_eq!(
        (
            config.offsets.topic_num_partitions,
            config.offsets.topic_replication_factor
        ),
        (50, 1)
    );
    assert_eq!(config.group.initial_rebalance_delay_ms, 0);
    assert_eq!(config.network.request_bytes_max, 104_857_600);
    assert_eq!(config.network.send_buffer_bytes, Some(102_400));
    assert_eq!(config.ringlog.cores, machine::usable_cores());
    assert_eq!(
        (config.ringlog.io, config.ringlog.durability),
        (IoMode::Auto, Durability::Durable)
    );
    assert_eq!(
        (
            config.ringlog.journal_bytes,
            config.ringlog.journal_file_bytes
        ),
        (256 << 20, 16 << 20)
    );
    assert!(config.ringlog.open_files_max >= 16);
}

#[test]
fn file_without_directories_means_kafkas_default_directory() {
    let config = load("num.partitions=3\n").expect("valid").config;
    assert_eq!(config.log_dirs, [PathBuf::from("/tmp/kafka-logs")]);
    assert_eq!(config.num_partitions, 3);
    assert_eq!(config.listeners[0].bind.host, "127.0.0.1");
    let config = load("log.dir=/a\nlog.dirs=/b, /c,\n")
        .expect("valid")
        .config;
    assert_eq!(config.log_dirs, [PathBuf::from("/b"), PathBuf::from("/c")]);
    assert_eq!(config.ringlog.data_dir, PathBuf::from("/b.ringlog"));
    let config = load("ringlog.data.dir=/d\n").expect("valid").config;
    assert_eq!(config.log_dirs, [PathBuf::from("/d/logs")]);
}

#[test]
fn precedence_is_flag_env_override_file_default() {
    let file = TempFile::new(b"ringlog.cores=1\nlog.dirs=/file\n");
    let mut layers = file.layers();
    let cores = |layers: &Layers| {
        let settings = BrokerConfig::load(layers).expect("valid").config.settings;
        let setting = settings.set("ringlog.cores").expect("set").clone();
        (
            setting.text,
            matches!(setting.source, settings::Source::File(_)),
            setting.source,
        )
    };
    let (text, is_file, _) = cores(&layers);
    assert_eq!((text.as_str(), is_file), ("1", true));
    layers.overrides = vec!["ringlog.cores=2".to_owned(), "ringlog.cores = 3".to_owned()];
    let (text, _, source) = cores(&layers);
    assert_eq!((text.as_str(), source), ("3", settings::Source::Override));
    layers.env = vec![("RINGLOG_CORES".to_owned(), "4".to_owned())];
    let (text, _, source) = cores(&layers);
    assert_eq!(
        (text.as_str(), source),
        ("4", settings::Source::Env("RINGLOG_CORES"))
    );
    layers.flags = vec![("ringlog.cores", "5".to_owned())];
    let (text, _, source) = cores(&layers);
    assert_eq!(
        (text.as_str(), source),
        ("5", settings::Source::Flag("--cores"))
    );
    assert_eq!(
        BrokerConfig::load(&layers)
            .expect("valid")
            .config
            .ringlog
            .cores,
        5
    );
}

#[test]
fn listen_flag_takes_what_people_type() {
    let bound = |text: &str| {
        let flags = vec![("listeners", text.to_owned())];
        let layers = Layers {
            flags,
            ..Layers::default()
        };
        let config = BrokerConfig::load(&layers).expect("valid").config;
        config
            .listeners
            .iter()
            .map(|l| l.bind.to_string())
            .collect::<Vec<_>>()
            .join(",")
    };
    assert_eq!(bound("9192"), "PLAINTEXT://127.0.0.1:9192");
    assert_eq!(bound("0"), "PLAINTEXT://127.0.0.1:0");
    assert_eq!(bound("localhost:1"), "PLAINTEXT://localhost:1");
    assert_eq!(bound(":9092"), "PLAINTEXT://:9092");
    assert_eq!(bound("[::1]:7"), "PLAINTEXT://[::1]:7");
    assert_eq!(bound("PLAINTEXT://h:1"), "PLAINTEXT://h:1");
}

#[test]
fn tutorial_file_of_the_repository_has_no_errors() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/server.properties");
    let file = Some(PathBuf::from(path));
    let Loaded { config, notes } = BrokerConfig::load(&Layers {
        file,
        ..Layers::default()
    })
    .expect("valid");
    assert_eq!(config.node_id, 0);
    assert_eq!(
        config.listeners[0].bind.to_string(),
        "PLAINTEXT://127.0.0.1:9092"
    );
    assert_eq!(config.zookeeper.connect, "localhost:2181");
    assert_eq!(config.zookeeper.own_port, None);
    let texts: Vec<&str> = notes.iter().map(|note| note.what.as_str()).collect();
    assert_eq!(texts, [""; 0]);
}

#[test]
fn zookeeper_is_in_this_process_or_where_the_file_says() {
    let zookeeper = |text: &str| load(text).expect("valid").config.zookeeper;
    assert_eq!(zookeeper("").own_port, Some(2181));
    assert_eq!(zookeeper("listeners=PLAINTEXT://h:0\n").own_port, Some(0));
    let outside = zookeeper("zookeeper.connect=a:1,b:2/kafka\n");
    assert_eq!(
        (outside.connect.as_str(), outside.own_port),
        ("a:1,b:2/kafka", None)
    );
    let both = zookeeper("zookeeper.connect=a:1\nringlog.zookeeper.port=5\n");
    assert_eq!(both.own_port, Some(5));
    for bad in ["", "a:x", "a:1,,b:2", ":1", "a:1//x", "a:0"] {
        let error = load(&format!("zookeeper.connect={bad}\n")).expect_err(bad);
        assert!(error.to_string().contains("expected host:port"), "{error}");
    }
}

#[test]
fn old_spellings_translate_with_one_warning_each() {
    assert_eq!(
        shown(
            "port=9192\nhost.name=localhost\nadvertised.host.name=example.org\nadvertised.port=80\n"
        ),
        "warning: 'host.name' is a spelling of Kafka 0.10 in server.properties:2\n   \
           |   2 | host.name=localhost\n   \
           |                 ^^^^^^^^^ read as listeners=PLAINTEXT://localhost:9192; write that instead\n\
         warning: 'port' is a spelling of Kafka 0.10 in server.properties:1\n   \
           |   1 | port=9192\n   \
           |            ^^^^ read as listeners=PLAINTEXT://localhost:9192; write that instead\n\
         warning: 'advertised.host.name' is a spelling of Kafka 0.10 in server.properties:3\n   \
           |   3 | advertised.host.name=example.org\n   \
           |                            ^^^^^^^^^^^ read as advertised.listeners=PLAINTEXT://example.org:80; write that instead\n\
         warning: 'advertised.port' is a spelling of Kafka 0.10 in server.properties:4\n   \
           |   4 | advertised.port=80\n   \
           |                       ^^ read as advertised.listeners=PLAINTEXT://example.org:80; write that instead"
    );
    let config = overriding(&["port=9192", "advertised.host.name=h"])
        .expect("valid")
        .config;
    assert_eq!(
        config.listeners[0].bind.to_string(),
        "PLAINTEXT://127.0.0.1:9192"
    );
    let host = Some("h".to_owned());
    assert_eq!(
        config.listeners[0].advertised,
        Advertised { host, port: 9192 }
    );
    let loaded = overriding(&["port=1", "listeners=PLAINTEXT://localhost:2"]).expect("valid");
    assert_eq!(loaded.config.listeners[0].bind.port, 2);
    assert_eq!(
        loaded.notes[0].one_line(),
        "'port' has no effect (--override): 'listeners' is set and goes first"
    );
}

#[test]
fn unknown_key_is_a_warning_with_the_nearest_name() {
    assert_eq!(
        shown("# a comment\n\nlog.segment.byte=168\n"),
        "warning: unknown key 'log.segment.byte' in server.properties:3\n   \
           |   3 | log.segment.byte=168\n   \
           |       ^^^^^^^^^^^^^^^^ did you mean 'log.segment.bytes'?"
    );
    let notes = overriding(&["log.segment.byte=1"]).expect("valid").notes;
    assert_eq!(
        notes[0].one_line(),
        "unknown key 'log.segment.byte' (--override): did you mean 'log.segment.bytes'?"
    );
}

#[test]
fn malformed_value_is_an_error_with_its_place_and_what_is_right() {
    assert_eq!(
        shown("broker.id=0\n  num.partitions = 16x\n"),
        "error: invalid value '16x' for 'num.partitions' in server.properties:2\n   \
           |   2 |   num.partitions = 16x\n   \
           |                          ^^^ expected a whole number from 1 to 2147483647"
    );
    assert_eq!(
        error_of(&["ringlog.io=aio"]),
        "error: invalid value 'aio' for 'ringlog.io' (--override)\n   | expected one of auto, uring, poll"
    );
    assert_eq!(
        error_of(&["num.partitions"]),
        "error: --override 'num.partitions' has no '='\n   | write it as --override key=value"
    );
}

#[test]
fn shards_that_are_brokers_need_ports_and_node_ids_of_their_own() {
    let on = "ringlog.shards.as.brokers=true";
    let config = overriding(&[on, "ringlog.cores=3", "broker.id=7"]);
    let config = config.expect("enough of both").config;
    assert_eq!((config.node_count(), config.node_of(2)), (3, 9));
    assert!(config.is_own_node(9) && !config.is_own_node(10) && !config.is_own_node(6));
    let off = overriding(&["ringlog.cores=3"])
        .expect("the default")
        .config;
    assert_eq!(
        (off.node_count(), off.node_of(2), off.is_own_node(1)),
        (1, 0, false)
    );
    let refused = |listeners: &str, part: &str| {
        let listeners = format!("listeners={listeners}");
        let map = "listener.security.protocol.map=A:PLAINTEXT,B:PLAINTEXT";
        let inter = "inter.broker.listener.name=A";
        let error = overriding(&[on, "ringlog.cores=3", map, inter, &listeners]);
        let error = error.map(drop).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    };
    refused("A://:9092,B://:9094", "9094 need 3 ports each");
    refused("A://:65534", "65534");
}

#[test]
fn all_errors_are_told_at_once() {
    let error = overriding(&["num.partitions=0", "ringlog.cores=0", "fetch.max.bytes=1"]);
    let error = error.expect_err("three errors");
    assert_eq!(
        error
            .problems
            .iter()
            .filter(|p| p.level == Level::Error)
            .count(),
        3
    );
}

#[test]
fn missing_and_malformed_files_are_errors() {
    let file = Some(PathBuf::from("/no/such/file.properties"));
    let error = BrokerConfig::load(&Layers {
        file,
        ..Layers::default()
    })
    .expect_err("missing");
    assert_eq!(
        error.to_string(),
        "error: cannot read the configuration /no/such/file.properties: No such file or directory (os error 2)\n   \
           | give the path of a properties file, or none for the defaults"
    );
    assert!(shown("a=\\u12").contains("malformed \\uXXXX escape in server.properties:1"));
    let binary = TempFile::new(&[0, 159, 146, 150, b'=', 255, b'\n', 0]);
    assert!(BrokerConfig::load(&binary.layers()).is_err());
    assert!(
        BrokerConfig::load(&Layers {
            file: Some("/".into()),
            ..Layers::default()
        })
        .is_err()
    );
}

#[test]
fn key_set_twice_takes_the_last_and_says_so() {
    let loaded = load("num.partitions=2\nnum.partitions=3\n").expect("valid");
    assert_eq!(loaded.config.num_partitions, 3);
    assert_eq!(loaded.notes.len(), 1);
    assert_eq!(loaded.notes[0].hint, "line 2 holds; remove one");
}

#[test]
fn ignored_key_says_what_happens_instead() {
    assert_eq!(
        shown("num.io.threads=16"),
        "warning: 'num.io.threads' has no effect in server.properties:1\n   \
           |   1 | num.io.threads=16\n   \
           |                      ^^ ringlog.cores replaces it: one pinned thread per core does network and disk"
    );
    let notes = overriding(&["compression.type=zstd"]).expect("valid").notes;
    assert_eq!(
        notes[0].what,
        "'compression.type=zstd' is read as 'producer' (--override)"
    );
    let notes = overriding(&["offsets.topic.replication.factor=3"])
        .expect("valid")
        .notes;
    assert_eq!(notes[0].level, Level::Info);
    assert!(
        notes[0]
            .one_line()
            .starts_with("'offsets.topic.replication.factor=3' is read as 1")
    );
}

#[test]
fn listeners_are_checked() {
    assert_eq!(
        error_of(&["listeners=SSL://127.0.0.1:9093"]),
        "error: listener SSL://127.0.0.1:9093 asks for SSL (--override)\n   | this release speaks \
         PLAINTEXT only; use it on 127.0.0.1, or behind a proxy that does TLS"
    );
    for (pair, part) in [
        (
            "listeners=BROKER://localhost:1",
            "add listener.security.protocol.map=BROKER:PLAINTEXT",
        ),
        (
            "listeners=PLAINTEXT://a:1,PLAINTEXT://b:2",
            "two listeners are named PLAINTEXT",
        ),
        ("listeners=localhost:9092", "'localhost:9092' has no '://'"),
        ("listeners=", "no listener is set"),
        (
            "advertised.listeners=PLAINTEXT://0.0.0.0:1",
            "is no address to connect to",
        ),
        (
            "advertised.listeners=OTHER://h:1",
            "is not among the listeners",
        ),
        ("listener.security.protocol.map=X", "'X' has no ':'"),
        ("log.dirs=,", "no data directory is set"),
        ("log.retention.ms=0", "expected -1 (for ever) or at least 1"),
        (
            "group.min.session.timeout.ms=2000000",
            "no consumer could join",
        ),
        ("ringlog.journal.file.bytes=65537", "a multiple of 4096"),
        (
            "ringlog.journal.bytes=1048576",
            "a ring of at least two files",
        ),
    ] {
        let text = error_of(&[pair]);
        assert!(text.contains(part), "{pair}: {text}");
    }
    assert!(error_of(&["node.id=1", "broker.id=2"]).contains("keep one"));
}

/// The environment that testcontainers gives to the image apache/kafka.
#[test]
fn several_listeners_bind_and_advertise_their_own() {
    let loaded = overriding(&[
        "listeners=PLAINTEXT://:9092,BROKER://:9093,CONTROLLER://127.0.0.1:0",
        "advertised.listeners=PLAINTEXT://localhost:32768,BROKER://[fe80::1]:9093",
        "listener.security.protocol.map=BROKER:PLAINTEXT,PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name=BROKER",
        "process.roles=broker,controller",
        "node.id=7",
    ])
    .expect("valid");
    let advertised = |index: usize| {
        let Advertised { host, port } = &loaded.config.listeners[index].advertised;
        (host.as_deref(), *port)
    };
    assert_eq!(advertised(0), (Some("localhost"), 32768));
    assert_eq!(advertised(1), (Some("fe80::1"), 9093));
    assert_eq!(advertised(2), (Some("127.0.0.1"), 0));
    assert_eq!(loaded.config.node_id, 7);
    let open = |note: &&Problem| note.what.ends_with("is open to the network (--override)");
    assert_eq!(loaded.notes.iter().filter(open).count(), 2);
}

#[test]
fn wildcard_listener_advertises_the_address_the_client_came_in_on() {
    let loaded = overriding(&["listeners=PLAINTEXT://0.0.0.0:9092"]).expect("valid");
    assert_eq!(
        loaded.config.listeners[0].advertised,
        Advertised {
            host: None,
            port: 9092
        }
    );
}

#[test]
fn secrets_show_nowhere() {
    let text = "ssl.key.password=hunter2\nssl.keystore.pasword=hunter2\nx.secret=\\u1 hunter2\n";
    assert!(!shown(text).contains("hunter2"), "{}", shown(text));
    let text = "ssl.keystore.pasword=\\\n hunter2\nssl.key.password=\\\n hunter2\nport=hunter\n\
                listener.name.a.plain.sasl.jaas.config=x password=hunter2\n";
    assert!(!shown(text).contains("hunter2"), "{}", shown(text));
    let settings = overriding(&["ssl.key.password=hunter2"])
        .expect("valid")
        .config
        .settings;
    assert!(!format!("{:?}", settings.describe()).contains("hunter2"));
}

#[test]
fn describe_has_every_key_with_value_source_and_synonyms() {
    let settings = overriding(&["num.partitions=4"])
        .expect("valid")
        .config
        .settings;
    let all = settings.describe();
    assert_eq!(all.len(), keys::KEYS.len());
    let one = |name: &str| {
        all.iter()
            .find(|row| row.name == name)
            .expect("described")
            .clone()
    };
    let row = one("num.partitions");
    assert_eq!(
        (row.value.as_deref(), row.source),
        (Some("4"), settings::ConfigSource::StaticBroker)
    );
    let values: Vec<_> = row
        .synonyms
        .iter()
        .map(|s| (s.value.as_deref(), s.source))
        .collect();
    assert_eq!(
        values,
        [
            (Some("4"), settings::ConfigSource::StaticBroker),
            (Some("1"), settings::ConfigSource::Default)
        ]
    );
    assert_eq!(one("log.retention.ms").value, None);
    assert_eq!(
        one("inter.broker.protocol.version").value.as_deref(),
        Some("3.9-IV0")
    );
    assert_eq!(
        one("listeners").value.as_deref(),
        Some("PLAINTEXT://127.0.0.1:9092")
    );
}

/// Every key at every edge, by override: no panic, whatever the rest makes of it.
#[test]
fn no_value_of_any_key_panics() {
    let texts = [
        "",
        "0",
        "-1",
        "1",
        "2147483647",
        "-2147483648",
        "9223372036854775807",
        "-9223372036854775808",
        "x",
        "true",
        ",",
        "://",
        "a:b,c",
        "\u{0}\u{ffff}",
        "NaN",
    ];
    for key in keys::KEYS {
        for text in texts {
            if let Err(error) = overriding(&[&format!("{}={text}", key.name)]) {
                assert!(error.problems.iter().any(|p| p.level == Level::Error));
                assert!(!error.to_string().is_empty());
            }
        }
    }
}

#[test]
fn garbage_files_never_panic() {
    let mut state: u64 = 7;
    for _ in 0..200 {
        let bytes: Vec<u8> = (0..300)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                state.to_be_bytes()[0].max(1)
            })
            .collect();
        let file = TempFile::new(&bytes);
        match BrokerConfig::load(&file.layers()) {
            Ok(loaded) => loaded
                .notes
                .iter()
                .for_each(|note| assert!(!note.to_string().is_empty())),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}
