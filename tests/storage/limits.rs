//! File handles: topics that come and go leave none behind, nor files; and when there are too few, clients
//! wait outside while logs are still opened.

use std::fs::{self, File};
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kafka_protocol::messages::DeleteTopicsRequest;
use ringlog_tests::broker::{Broker, Directory, Options, foreign, serve, wait_for};
use ringlog_tests::call::{create_topic, fetch_all, produce_values, topic_name};
use ringlog_tests::wire::Client;

const PATIENCE: Duration = Duration::from_secs(60);

fn handles(process_id: u32) -> usize {
    let entries = fs::read_dir(format!("/proc/{process_id}/fd"));
    entries.expect("the process runs").count()
}

/// The partitions' directories with their files.
fn files(logs: &Path) -> Vec<PathBuf> {
    // What is being deleted may go under our hands.
    let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    let directories = entries(logs).map(|entry| entry.path());
    let directories: Vec<_> = directories.filter(|path| path.is_dir()).collect();
    let inside = directories.iter().flat_map(|path| entries(path));
    let mut found: Vec<_> = inside.map(|entry| entry.path()).collect();
    found.extend(directories);
    found.sort();
    found
}

/// A table that grows while connections arrive makes them wait a second.
#[test]
fn the_table_of_handles_is_made_at_the_start() {
    let Some(broker) = Broker::own(Options::default()) else {
        return;
    };
    let number = |file: &str, name: &str, word: usize| {
        let process_id = broker.process_id().expect("ours");
        let text = fs::read_to_string(format!("/proc/{process_id}/{file}")).expect("it runs");
        let line = text.lines().find(|line| line.starts_with(name));
        let number = line.and_then(|line| line.split_whitespace().nth(word));
        let number: u64 = number.expect("proc(5)").parse().expect("a number");
        number
    };
    let limit = number("limits", "Max open files", 3);
    let table = number("status", "FDSize:", 1);
    assert!(table >= limit.min(65_536), "{table} of {limit}");
}

#[test]
fn topics_that_go_leave_no_handle_and_no_file() {
    let options = Options::default()
        .set("ringlog.disk.reserve.bytes", 0)
        .set("log.segment.delete.delay.ms", 1);
    let Some(broker) = Broker::own(options) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    create_topic(&mut client, "stays", 2, &[]);
    produce_values(&mut client, "stays", &["a"]);
    let process_id = broker.process_id().expect("ours");
    let before = files(&broker.logs());
    // The first round opens what stays open anyhow: the journal's files.
    let mut handles_after = Vec::new();
    for round in 0..3 {
        let names: Vec<_> = (0..40)
            .map(|number| format!("goes-{round}-{number}"))
            .collect();
        for name in &names {
            create_topic(&mut client, name, 2, &[("segment.bytes", "1100")]);
            produce_values(&mut client, name, &["x".repeat(1000)]);
            produce_values(&mut client, name, &["y".repeat(1000)]);
        }
        let names = names.iter().map(|name| topic_name(name)).collect();
        let request = DeleteTopicsRequest::default()
            .with_timeout_ms(30_000)
            .with_topic_names(names);
        for answer in client.call(5, &request).responses {
            assert_eq!(answer.error_code, 0, "{answer:?}");
        }
        wait_for("the files to go", PATIENCE, || {
            (files(&broker.logs()) == before).then_some(())
        });
        handles_after.push(handles(process_id));
    }
    assert!(
        handles_after[2] <= handles_after[0],
        "handles after each round: {handles_after:?}"
    );
    assert_eq!(fetch_all(&mut client, "stays", 0).len(), 1);
}

/// A broker that may have few handles.
struct Poor {
    child: Child,
    address: SocketAddr,
    directory: Directory,
}

const HANDLES: u64 = 200;

impl Poor {
    fn start() -> Poor {
        let directory = Directory::new();
        let port_file = directory.path().join("port");
        let options = Options::default().set("ringlog.cores", 1);
        let serve = serve("127.0.0.1:0", &directory.path().join("data"), &options);
        let log = File::create(directory.path().join("log")).expect("ours");
        let script = format!("ulimit -n {HANDLES}; exec \"$0\" \"$@\"");
        let child = Command::new("sh")
            .arg("-c")
            .arg(script)
            .arg(serve.get_program())
            .args(serve.get_args())
            .arg("--port-file")
            .arg(&port_file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a handle can be doubled"))
            .stderr(log)
            .spawn();
        let mut poor = Poor {
            child: child.expect("sh is there"),
            address: ([127, 0, 0, 1], 0).into(),
            directory,
        };
        poor.address = wait_for("the port file", PATIENCE, || {
            let ended = poor.child.try_wait().expect("our own child");
            assert!(ended.is_none(), "{ended:?}\n{}", poor.log());
            let text = fs::read_to_string(&port_file).ok()?;
            text.lines().next()?.rsplit("//").next()?.parse().ok()
        });
        poor
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Poor {
    fn drop(&mut self) {
        let _ = self.child.kill(); // by its own pid; it may have ended
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

#[test]
fn connections_beyond_the_handles_are_refused_and_running_ones_go_on() {
    if foreign().is_some() {
        return;
    }
    let poor = Poor::start();
    let mut client = Client::connect(poor.address);
    create_topic(&mut client, "before", 1, &[("segment.bytes", "1100")]);
    let mut others = Vec::new();
    for _ in 0..2 * HANDLES {
        others.extend(TcpStream::connect(poor.address));
    }
    wait_for("a refusal in the log", PATIENCE, || {
        poor.log().contains("Refused a connection").then_some(())
    });
    // Segments and topics need files that are not open yet.
    for number in 0..20 {
        let value = "x".repeat(1000);
        assert_eq!(produce_values(&mut client, "before", &[value]), number);
        create_topic(&mut client, &format!("late-{number}"), 1, &[]);
    }
    assert_eq!(fetch_all(&mut client, "before", 0).len(), 20);
    let log = poor.log();
    assert!(log.contains("ulimit -n"), "{log}");
    assert!(!log.contains(" ERROR "), "{log}");
    let is_refused = |connection: &mut TcpStream| {
        let set = connection.set_nonblocking(true);
        set.expect("a socket");
        // Closed or reset; who was admitted hears nothing yet.
        let read = connection.read(&mut [0]);
        !read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    let count = others.len();
    wait_for("the others to be refused", PATIENCE, || {
        let refused = others
            .iter_mut()
            .filter_map(|other| is_refused(other).then_some(()));
        (refused.count() > count / 4).then_some(())
    });
    drop(others);
    wait_for("a new connection", PATIENCE, || {
        let mut client = Client::try_connect(poor.address).ok()?;
        let request = kafka_protocol::messages::ApiVersionsRequest::default();
        client.try_call(0, &request).ok()
    });
}
