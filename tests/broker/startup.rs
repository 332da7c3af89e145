//! Starts that must be refused: exit code 1 and a message that names the cause.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use ringlog_tests::broker::{Broker, Directory, Options, foreign, refused_start, serve};
use ringlog_tests::call::{create_topic, produce_values};
use ringlog_tests::wire::Client;

/// Runs a start that must fail with exit code 1 and name each of `parts`.
fn refused(listen: &str, data: &std::path::Path, options: &Options, parts: &[&str]) {
    let (code, text) = refused_start(serve(listen, data, options));
    assert_eq!(code, Some(1), "exit code\n{text}");
    for part in parts {
        assert!(
            text.to_lowercase().contains(&part.to_lowercase()),
            "{part:?} is not said in:\n{text}"
        );
    }
    assert!(
        !text.contains("panicked"),
        "a panic is no error message:\n{text}"
    );
}

fn is_foreign() -> bool {
    foreign().is_some()
}

#[test]
fn a_taken_port_is_refused_and_its_holder_named() {
    if is_foreign() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let directory = Directory::new();
    let pid = std::process::id().to_string();
    refused(
        &address.to_string(),
        &directory.path().join("data"),
        &Options::default(),
        &[&address.port().to_string(), &pid],
    );
}

#[test]
fn an_unwritable_data_directory_is_refused_and_named() {
    if is_foreign() {
        return;
    }
    let directory = Directory::new();
    let data = directory.path().join("a-file");
    fs::write(&data, "not a directory").unwrap();
    refused("127.0.0.1:0", &data, &Options::default(), &["a-file"]);
    let locked = directory.path().join("read-only");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    // Root may write everywhere; the case is only real for another user.
    if fs::write(locked.join("probe"), "").is_err() {
        refused(
            "127.0.0.1:0",
            &locked,
            &Options::default(),
            &["read-only", "permission"],
        );
    }
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o755)).unwrap();
    refused(
        "127.0.0.1:0",
        std::path::Path::new("/proc/ringlog"),
        &Options::default(),
        &["/proc/ringlog"],
    );
}

#[test]
fn a_data_directory_in_use_is_refused_and_the_running_broker_is_not_disturbed() {
    let Some(broker) = Broker::own(Options::default()) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    create_topic(&mut client, "kept", 1, &[]);
    assert_eq!(produce_values(&mut client, "kept", &["before"]), 0);
    refused(
        "127.0.0.1:0",
        &broker.data(),
        &Options::default(),
        &["lock"],
    );
    assert_eq!(produce_values(&mut client, "kept", &["after"]), 1);
}

#[test]
fn a_directory_with_somebody_elses_files_is_refused_and_left_as_it_was() {
    if is_foreign() {
        return;
    }
    let directory = Directory::new();
    let data = directory.path().join("data");
    fs::create_dir_all(data.join("photos")).unwrap();
    fs::write(data.join("photos/1.jpg"), "a picture").unwrap();
    fs::write(data.join("letter.txt"), "dear").unwrap();
    refused(
        "127.0.0.1:0",
        &data,
        &Options::default(),
        &[&data.display().to_string()],
    );
    assert_eq!(
        fs::read_to_string(data.join("photos/1.jpg")).unwrap(),
        "a picture"
    );
    let mut names: Vec<_> = fs::read_dir(&data)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["letter.txt", "photos"]);
}

#[test]
fn a_data_directory_of_another_broker_id_or_cluster_is_refused() {
    let Some(mut broker) = Broker::own(Options::default().set("broker.id", 3)) else {
        return;
    };
    let data = broker.data();
    broker.stop();
    refused(
        "127.0.0.1:0",
        &data,
        &Options::default().set("broker.id", 4),
        &["3", "4", "meta.properties"],
    );
    broker.restart();
    assert!(
        broker.log().contains("[KafkaServer id=3] started"),
        "the id is in the readiness line"
    );
}

#[test]
fn malformed_values_are_refused_with_their_key() {
    if is_foreign() {
        return;
    }
    for (key, value) in [
        ("num.partitions", "many"),
        ("num.partitions", "0"),
        ("num.partitions", "-3"),
        ("num.partitions", "99999999999999999999"),
        ("broker.id", "one"),
        ("log.segment.bytes", "12"),
        ("auto.create.topics.enable", "perhaps"),
        ("message.max.bytes", "-1"),
        ("socket.request.max.bytes", "0"),
        ("ringlog.durability", "maybe"),
        ("advertised.listeners", "nonsense"),
        ("log.cleanup.policy", "burn"),
    ] {
        let directory = Directory::new();
        refused(
            "127.0.0.1:0",
            &directory.path().join("data"),
            &Options::default().set(key, value),
            &[key],
        );
    }
}

#[test]
fn a_broken_properties_file_is_refused_with_file_and_line() {
    if is_foreign() {
        return;
    }
    let directory = Directory::new();
    let file = directory.path().join("server.properties");
    fs::write(&file, "# a comment\nbroker.id=1\nnum.partitions=many\n").unwrap();
    let options = Options::default().argument(&file.display().to_string());
    let place = "server.properties:3";
    refused(
        "127.0.0.1:0",
        &directory.path().join("data"),
        &options,
        &[place, "num.partitions", "many"],
    );
    let options = Options::default().argument("/nonexistent/server.properties");
    refused(
        "127.0.0.1:0",
        &directory.path().join("data"),
        &options,
        &["/nonexistent/server.properties"],
    );
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_known_one() {
    // As Apache Kafka does, an unknown key only warns: a server.properties may hold keys of plugins.
    let Some(broker) = Broker::own(Options::default().set("log.retention.hour", 168)) else {
        return;
    };
    let log = broker.log();
    let warning = log
        .lines()
        .find(|line| line.contains("WARN") && line.contains("log.retention.hour"));
    let warning = warning.unwrap_or_else(|| panic!("no warning in:\n{log}"));
    assert!(
        warning.contains("log.retention.hours"),
        "the nearest key: {warning}"
    );
}

#[test]
fn unknown_flags_are_refused() {
    if is_foreign() {
        return;
    }
    let directory = Directory::new();
    let options = Options::default().argument("--no-such-flag");
    let (code, text) = refused_start(serve(
        "127.0.0.1:0",
        &directory.path().join("data"),
        &options,
    ));
    assert!(matches!(code, Some(1 | 2)), "exit code {code:?}\n{text}");
    assert!(text.contains("--no-such-flag"), "{text}");
}

#[test]
fn a_clean_stop_leaves_a_directory_that_starts_without_recovery() {
    let Some(mut broker) = Broker::own(Options::default()) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    create_topic(&mut client, "kept", 1, &[]);
    assert_eq!(produce_values(&mut client, "kept", &["one", "two"]), 0);
    for end in [2, 3, 4] {
        broker.stop();
        broker.restart();
        let mut client = Client::connect(broker.address());
        assert_eq!(produce_values(&mut client, "kept", &["again"]), end);
    }
}
