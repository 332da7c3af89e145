//! The broker and ZooKeeper as two processes: who waits for whom, what tools write, what a crash of
//! either leaves. ZooKeeper is Ringlog's own service; `tests/clients/run` has Apache's.
#![forbid(unsafe_code)]

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ringlog_tests::broker::{Broker, Directory, Options, binary, refused_start, serve, wait_for};
use ringlog_tests::call::{create_topic, fetch_all, produce_values, topic_id};
use ringlog_tests::wire::Client;
use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(30);

/// A `ringlog zookeeper` on one port, with its data in a directory of its own.
struct Zookeeper {
    directory: Directory,
    address: SocketAddr,
    child: Option<Child>,
}

fn free_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("bound").port()
}

impl Zookeeper {
    /// Not running yet.
    fn new() -> Zookeeper {
        Zookeeper {
            directory: Directory::new(),
            address: SocketAddr::from(([127, 0, 0, 1], free_port())),
            child: None,
        }
    }

    fn started() -> Zookeeper {
        let mut zookeeper = Zookeeper::new();
        zookeeper.start();
        zookeeper
    }

    fn start(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join("log"))
            .expect("a log file");
        let child = Command::new(binary())
            .args(["zookeeper", "--port", &self.address.port().to_string()])
            .arg("--data")
            .arg(self.directory.path().join("data"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file handle can be doubled"))
            .stderr(log)
            .spawn()
            .expect("ringlog zookeeper starts");
        self.child = Some(child);
        wait_for("a ZooKeeper that answers", PATIENCE, || {
            std::net::TcpStream::connect(self.address).ok()
        });
    }

    fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("our own child");
        child.wait().expect("our own child");
    }

    fn connect(&self, chroot: &str) -> String {
        format!("{}{chroot}", self.address)
    }

    fn get(&self, path: &str) -> Option<String> {
        let output = Command::new(binary())
            .args(["zookeeper-shell", &self.address.to_string(), "get", path])
            .output()
            .expect("zookeeper-shell runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let is_data = |line: &&str| line.starts_with('{') || line.starts_with('[');
        text.lines().rfind(is_data).map(str::to_owned)
    }

    /// The children of a node, as the shell shows them.
    fn list(&self, path: &str) -> String {
        let output = Command::new(binary())
            .args(["zookeeper-shell", &self.address.to_string(), "ls", path])
            .output()
            .expect("zookeeper-shell runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let list = text.lines().rfind(|line| line.starts_with('['));
        list.unwrap_or_else(|| panic!("ls {path}: {text}"))
            .to_owned()
    }
}

impl Drop for Zookeeper {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.directory.path().join("log"));
            eprintln!("ZooKeeper's log:\n{}", log.unwrap_or_default());
        }
    }
}

/// A broker on that ZooKeeper.
fn options(zookeeper: &Zookeeper, chroot: &str) -> Options {
    Options::default().set("zookeeper.connect", zookeeper.connect(chroot))
}

fn tool(name: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(binary())
        .arg(name)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

fn topics(zookeeper: &str, arguments: &[&str]) -> String {
    let (code, text) = tool(
        "kafka-topics",
        &[&["--zookeeper", zookeeper], arguments].concat(),
    );
    assert_eq!(code, Some(0), "{arguments:?}: {text}");
    text
}

fn values(client: &mut Client, topic: &str) -> Vec<String> {
    let records = fetch_all(client, topic, 0).into_iter();
    let value = |record: ringlog_tests::records::Record| {
        String::from_utf8(record.value.expect("a value")).expect("UTF-8")
    };
    records.map(value).collect()
}

#[test]
fn a_topic_that_a_tool_writes_into_zookeeper_can_be_produced_to_when_the_tool_returns() {
    let Some(broker) = Broker::own(Options::default()) else {
        return;
    };
    let zookeeper = broker.zookeeper().to_string();
    let mut client = Client::connect(broker.address());
    let said = topics(
        &zookeeper,
        &["--create", "--replication-factor", "1", "--topic", "first"],
    );
    assert!(said.contains("Created topic"), "{said}");
    assert_eq!(produce_values(&mut client, "first", &["a"]), 0);
    assert_eq!(topics(&zookeeper, &["--list"]).trim(), "first");
    topics(
        &zookeeper,
        &["--alter", "--topic", "first", "--partitions", "3"],
    );
    wait_for("three partitions in Metadata", PATIENCE, || {
        let address = broker.address().to_string();
        let arguments = [
            "--bootstrap-server",
            &address,
            "--describe",
            "--topic",
            "first",
        ];
        let (_, text) = tool("kafka-topics", &arguments);
        text.contains("PartitionCount: 3").then_some(())
    });
    let described = topics(&zookeeper, &["--describe", "--topic", "first"]);
    assert_eq!(described.matches("Leader: 0").count(), 3, "{described}");
    topics(&zookeeper, &["--delete", "--topic", "first"]);
    wait_for("the topic's end", PATIENCE, || {
        let is_gone = topic_id(&mut client, "first").is_none();
        let is_gone = is_gone && topics(&zookeeper, &["--list"]).trim().is_empty();
        is_gone.then_some(())
    });
}

#[test]
fn settings_that_a_tool_writes_into_zookeeper_act_and_those_of_the_broker_stand_there() {
    let mut zookeeper = Zookeeper::started();
    let Some(mut broker) = Broker::own(options(&zookeeper, "")) else {
        return;
    };
    let address = broker.address().to_string();
    let mut client = Client::connect(broker.address());
    create_topic(&mut client, "set", 1, &[]);
    let altered = tool(
        "kafka-configs",
        &[
            "--bootstrap-server",
            &address,
            "--alter",
            "--entity-type",
            "topics",
            "--entity-name",
            "set",
            "--add-config",
            "retention.ms=5000",
        ],
    );
    assert_eq!(altered.0, Some(0), "{}", altered.1);
    let node = zookeeper
        .get("/config/topics/set")
        .expect("the settings' node");
    assert!(node.contains(r#""retention.ms":"5000""#), "{node}");
    let changed = zookeeper.get("/config/changes/config_change_0000000000");
    assert!(changed.is_some_and(|node| node.contains("topics/set")));
    // What a tool up to Kafka 2.8 does: the node, then the notification.
    let shell = |arguments: &[&str]| {
        let place = zookeeper.connect("");
        let (code, text) = tool("zookeeper-shell", &[&[place.as_str()], arguments].concat());
        assert_eq!(code, Some(0), "{arguments:?}: {text}");
    };
    shell(&[
        "set",
        "/config/topics/set",
        r#"{"version":1,"config":{"retention.ms":"7000"}}"#,
    ]);
    let notification = r#"{"version":2,"entity_path":"topics/set"}"#;
    shell(&[
        "create",
        "-s",
        "/config/changes/config_change_",
        notification,
    ]);
    let describe = || {
        let entity = ["--entity-type", "topics", "--entity-name", "set"];
        let arguments = [&["--bootstrap-server", &address, "--describe"], &entity[..]].concat();
        tool("kafka-configs", &arguments).1
    };
    wait_for("the changed setting", PATIENCE, || {
        describe().contains("retention.ms=7000").then_some(())
    });
    // Both survive the end of both.
    broker.kill();
    zookeeper.kill();
    zookeeper.start();
    broker.restart();
    assert!(describe().contains("retention.ms=7000"), "{}", describe());
}

#[test]
fn wishes_that_partitions_move_are_taken_off_zookeeper_and_what_cannot_be_is_told() {
    let options = Options::default()
        .expect_error("/admin/reassign_partitions")
        .expect_error("/admin/preferred_replica_election");
    let Some(broker) = Broker::own(options) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    create_topic(&mut client, "here", 1, &[]);
    let zookeeper = broker.zookeeper().to_string();
    let shell = |arguments: &[&str]| {
        tool(
            "zookeeper-shell",
            &[&[zookeeper.as_str()], arguments].concat(),
        )
    };
    let here = r#"{"version":1,"partitions":[{"topic":"here","partition":0,"replicas":[0]}]}"#;
    let away = r#"{"version":1,"partitions":[{"topic":"here","partition":0,"replicas":[7]}]}"#;
    let led = r#"{"version":1,"partitions":[{"topic":"gone","partition":4}]}"#;
    let moves = "/admin/reassign_partitions";
    let leaders = "/admin/preferred_replica_election";
    for (path, data, complaint) in [
        (moves, here, None),
        (
            moves,
            away,
            Some("here-0 stays: it is to be on the brokers [7]"),
        ),
        (leaders, led, Some("gone-4 stays: there is no such topic")),
        (leaders, "nonsense", Some("is dropped: it is no JSON")),
    ] {
        let (code, text) = shell(&["create", path, data]);
        assert_eq!(code, Some(0), "{text}");
        wait_for("the wish is taken off", PATIENCE, || {
            let (_, listed) = shell(&["ls", "/admin"]);
            let name = path.rsplit('/').next().expect("a path");
            (!listed.contains(name)).then_some(())
        });
        if let Some(complaint) = complaint {
            assert!(broker.log().contains(complaint), "{}", broker.log());
        }
    }
    assert!(!broker.log().contains("here-0 stays: there"));
    assert_eq!(produce_values(&mut client, "here", &["a"]), 0);
}

#[test]
fn a_broker_waits_for_its_zookeeper_says_so_and_serves_then() {
    let mut zookeeper = Zookeeper::new();
    let home = Directory::new();
    let port_file = home.path().join("port");
    let log = home.path().join("log");
    let file = File::create(&log).expect("a log file");
    let mut command = serve(
        "127.0.0.1:0",
        &home.path().join("data"),
        &options(&zookeeper, ""),
    );
    let mut child = command
        .arg("--port-file")
        .arg(&port_file)
        .stdin(Stdio::null())
        .stdout(file)
        .spawn()
        .expect("the broker starts");
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    let message = format!("Nothing answers at zookeeper.connect={}", zookeeper.address);
    wait_for("the message", PATIENCE, || {
        said().contains(&message).then_some(())
    });
    assert!(
        said().contains("bin/zookeeper-server-start.sh"),
        "{}",
        said()
    );
    zookeeper.start();
    let text = wait_for("the port file", PATIENCE, || {
        std::fs::read_to_string(&port_file)
            .ok()
            .filter(|text| !text.is_empty())
    });
    let address = text
        .trim()
        .strip_prefix("PLAINTEXT://")
        .expect("an address");
    let mut client = Client::connect(address.parse().expect("an address"));
    create_topic(&mut client, "late", 1, &[]);
    assert_eq!(produce_values(&mut client, "late", &["x"]), 0);
    child.kill().expect("our own child");
    child.wait().expect("our own child");
}

#[test]
fn records_flow_while_zookeeper_is_away_and_topics_are_made_when_it_is_back() {
    let mut zookeeper = Zookeeper::started();
    let Some(broker) = Broker::own(options(&zookeeper, "/a/chroot")) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    create_topic(&mut client, "flow", 1, &[]);
    produce_values(&mut client, "flow", &["before"]);
    zookeeper.kill();
    produce_values(&mut client, "flow", &["without"]);
    assert_eq!(values(&mut client, "flow"), ["before", "without"]);
    zookeeper.start();
    create_topic(&mut client, "after", 1, &[]);
    produce_values(&mut client, "after", &["after"]);
    assert!(zookeeper.get("/a/chroot/brokers/topics/after").is_some());
}

#[test]
fn a_killed_broker_comes_back_at_once_though_its_registration_is_still_there() {
    let zookeeper = Zookeeper::started();
    let Some(mut broker) = Broker::own(options(&zookeeper, "")) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    create_topic(&mut client, "kept", 2, &[]);
    produce_values(&mut client, "kept", &["before"]);
    let id = topic_id(&mut client, "kept");
    for _ in 0..3 {
        broker.kill();
        assert!(
            zookeeper.get("/brokers/ids/0").is_some(),
            "an ephemeral outlives a kill"
        );
        broker.restart();
        assert!(
            !broker.log().contains("waiting until it expires"),
            "{}",
            broker.log()
        );
    }
    let mut client = Client::connect(broker.address());
    assert_eq!(values(&mut client, "kept"), ["before"]);
    assert_eq!(topic_id(&mut client, "kept"), id);
    broker.stop();
    assert!(
        zookeeper.get("/brokers/ids/0").is_none(),
        "a clean stop takes its registration along"
    );
    assert!(zookeeper.get("/controller").is_none());
}

#[test]
fn a_wish_to_delete_is_dropped_where_topics_may_not_be_deleted() {
    let zookeeper = Zookeeper::started();
    let options = options(&zookeeper, "").set("delete.topic.enable", false);
    let options = options.expect_error("Topic deletion is disabled");
    let Some(mut broker) = Broker::own(options) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    create_topic(&mut client, "kept", 1, &[]);
    assert_eq!(produce_values(&mut client, "kept", &["a"]), 0);
    let wishes = || zookeeper.list("/admin/delete_topics");
    let delete = ["--delete", "--topic", "kept"];
    topics(&zookeeper.connect(""), &delete);
    wait_for("the end of the wish", PATIENCE, || {
        (wishes() == "[]").then_some(())
    });
    // One that is made while nobody is there to drop it.
    broker.stop();
    topics(&zookeeper.connect(""), &delete);
    assert_eq!(wishes(), "[kept]");
    broker.restart();
    wait_for("the end of the wish", PATIENCE, || {
        (wishes() == "[]").then_some(())
    });
    let mut client = Client::connect(broker.address());
    assert_eq!(values(&mut client, "kept"), ["a"]);
}

#[test]
fn a_session_that_expired_is_followed_by_a_new_registration() {
    let zookeeper = Zookeeper::started();
    let options = options(&zookeeper, "").set("zookeeper.session.timeout.ms", 4000);
    let Some(broker) = Broker::own(options) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    create_topic(&mut client, "awake", 1, &[]);
    let pid = broker
        .process_id()
        .and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let pid = pid.expect("a broker of our own");
    kill_process(pid, Signal::STOP).expect("our own child");
    wait_for("the session's end", PATIENCE, || {
        zookeeper.get("/brokers/ids/0").is_none().then_some(())
    });
    kill_process(pid, Signal::CONT).expect("our own child");
    wait_for("the registration", PATIENCE, || {
        zookeeper.get("/brokers/ids/0")
    });
    wait_for("the controller", PATIENCE, || zookeeper.get("/controller"));
    create_topic(&mut client, "again", 1, &[]);
    assert_eq!(produce_values(&mut client, "again", &["x"]), 0);
    topics(
        &zookeeper.connect(""),
        &[
            "--create",
            "--topic",
            "tool",
            "--partitions",
            "1",
            "--replication-factor",
            "1",
        ],
    );
    assert_eq!(produce_values(&mut client, "tool", &["x"]), 0);
}

#[test]
fn a_second_broker_is_refused_whether_it_has_the_same_id_or_another() {
    let zookeeper = Zookeeper::started();
    let Some(broker) = Broker::own(options(&zookeeper, "")) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    create_topic(&mut client, "alone", 1, &[]);
    for (id, part) in [
        (0, "broker 0 is registered already"),
        (1, "one broker per cluster"),
    ] {
        let home = Directory::new();
        let options = options(&zookeeper, "").set("broker.id", id);
        let command = serve("127.0.0.1:0", &home.path().join("data"), &options);
        let (code, text) = refused_start(command);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(produce_values(&mut client, "alone", &["x"]), 0);
}

#[test]
fn a_data_directory_of_another_cluster_is_refused_and_a_new_zookeeper_learns_its_topics() {
    let (zookeeper, other) = (Zookeeper::started(), Zookeeper::started());
    let Some(mut broker) = Broker::own(options(&zookeeper, "")) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    create_topic(&mut client, "moved", 2, &[]);
    produce_values(&mut client, "moved", &["kept"]);
    let id = topic_id(&mut client, "moved");
    broker.kill();
    // Another cluster lives below this chroot.
    let Some(mut stranger) = Broker::own(options(&other, "/stranger")) else {
        return;
    };
    stranger.stop();
    let command = serve("127.0.0.1:0", &broker.data(), &options(&other, "/stranger"));
    let (code, text) = refused_start(command);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("cluster") && text.contains("belong together"),
        "{text}"
    );
    // Below the other's root there is none yet: as after the loss of ZooKeeper's data.
    let mut moved = Served::start(&broker.data(), &options(&other, ""));
    let mut client = Client::connect(moved.address);
    assert_eq!(values(&mut client, "moved"), ["kept"]);
    assert_eq!(topic_id(&mut client, "moved"), id);
    let node = other
        .get("/brokers/topics/moved")
        .expect("the topic's node");
    assert!(node.contains("topic_id"), "{node}");
    moved.kill();
}

/// A broker on a data directory that belongs to somebody else's test scene.
struct Served {
    child: Child,
    address: SocketAddr,
    _home: Directory,
}

impl Served {
    fn start(data: &Path, options: &Options) -> Served {
        let home = Directory::new();
        let port_file = home.path().join("port");
        let child = serve("127.0.0.1:0", data, options)
            .arg("--port-file")
            .arg(&port_file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("the broker starts");
        let address = wait_for("the port file", PATIENCE, || {
            let text = std::fs::read_to_string(&port_file).ok()?;
            text.lines()
                .next()?
                .strip_prefix("PLAINTEXT://")?
                .parse()
                .ok()
        });
        Served {
            child,
            address,
            _home: home,
        }
    }

    fn kill(&mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
    }
}

#[test]
fn an_ephemeral_broker_tells_where_it_is_and_leaves_nothing() {
    if ringlog_tests::broker::foreign().is_some() {
        return;
    }
    let temporary = Directory::new();
    let mut child = Command::new(binary())
        .args(["serve", "--ephemeral", "--cores", "1"])
        .env("TMPDIR", temporary.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the broker starts");
    let mut line = String::new();
    let out = child.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("a line");
    let told: serde_json::Value =
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"));
    assert_eq!(told["pid"], child.id());
    let kafka = told["kafka"].as_str().expect("an address");
    let mut client = Client::connect(kafka.parse().expect("an address"));
    create_topic(&mut client, "short", 1, &[]);
    assert_eq!(produce_values(&mut client, "short", &["x"]), 0);
    let zookeeper = told["zookeeper"].as_str().expect("an address");
    assert_eq!(topics(zookeeper, &["--list"]).trim(), "short");
    let pid = Pid::from_raw(child.id().cast_signed()).expect("a pid");
    kill_process(pid, Signal::TERM).expect("our own child");
    assert_eq!(child.wait().expect("our own child").code(), Some(0));
    let left = std::fs::read_dir(temporary.path())
        .expect("the directory")
        .count();
    assert_eq!(left, 0);
}
