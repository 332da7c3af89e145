//! Our command line tools beside the stock ones of Apache Kafka 3.9, on one Apache Kafka broker:
//! the same command has to print the same to standard output and to end with the same code.
//!
//! Without Java (or Maven, on the first run) the comparison says so and passes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ringlog_tests::broker::binary;

struct Oracle {
    dir: PathBuf,
    bootstrap: String,
}

impl Oracle {
    /// Starts the broker, or says why there is none.
    fn start() -> Option<Self> {
        for program in ["java", "mvn"] {
            let found = Command::new(program).arg("-version").output();
            if found.is_err() {
                eprintln!("skipped: {program} is not installed");
                return None;
            }
        }
        let port = {
            let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            socket.local_addr().expect("bound").port()
        };
        let dir = std::env::temp_dir().join(format!("ringlog-tools-{}", std::process::id()));
        let started = Command::new(oracle("kafka"))
            .args(["start", "--port", &port.to_string(), "--dir"])
            .arg(&dir)
            .env("KAFKA_HEAP_OPTS", "-Xmx512m")
            .status()
            .expect("tests/oracle/kafka runs");
        assert!(started.success(), "the oracle did not start");
        Some(Self {
            dir,
            bootstrap: format!("127.0.0.1:{port}"),
        })
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let _ = Command::new(oracle("kafka"))
            .args(["stop", "--dir"])
            .arg(&self.dir)
            .status();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn oracle(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("oracle")
        .join(name)
}

/// Standard output and exit code.
fn run(mut command: Command, tool: &str, args: &[&str], input: &str) -> (String, Option<i32>) {
    command.arg(tool).args(args);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("piped");
    // A tool that does not read may be gone already.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    eprintln!(
        "{tool} {args:?}: {:?}\n{text}{errors}",
        output.status.code()
    );
    (text, output.status.code())
}

fn ours(tool: &str, args: &[&str], input: &str) -> (String, Option<i32>) {
    run(Command::new(binary()), tool, args, input)
}

fn stock(tool: &str, args: &[&str], input: &str) -> (String, Option<i32>) {
    run(Command::new(oracle("tool")), tool, args, input)
}

/// What differs from run to run: ids of topics, names of topics that each side has for itself.
fn normal(text: &str, name: &str) -> Vec<String> {
    let lines = text.replace(name, "TOPIC");
    let mut lines: Vec<_> = lines
        .lines()
        .map(|line| match line.split_once("\tTopicId: ") {
            Some((before, after)) => {
                let rest = after.split_once('\t').map_or("", |(_, rest)| rest);
                format!("{before}\t{rest}")
            }
            None => line.to_owned(),
        })
        .collect();
    lines.sort();
    lines
}

/// Runs the command with both tools, each on a topic of its own, and compares.
fn compare(tool: &str, args: &[&str], input: &str) {
    let with =
        |name: &str| -> Vec<String> { args.iter().map(|arg| arg.replace("TOPIC", name)).collect() };
    // Of one length, as the tables are as wide as the names.
    let (our_args, stock_args) = (with("aaaa"), with("bbbb"));
    let as_str = |args: &[String]| {
        args.iter()
            .map(String::as_str)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let (our_args, stock_args) = (as_str(&our_args), as_str(&stock_args));
    let our_args: Vec<_> = our_args.iter().map(String::as_str).collect();
    let stock_args: Vec<_> = stock_args.iter().map(String::as_str).collect();
    let (our_text, our_code) = ours(tool, &our_args, input);
    let (stock_text, stock_code) = stock(tool, &stock_args, input);
    assert_eq!(our_code, stock_code, "exit code of {tool} {args:?}");
    assert_eq!(
        normal(&our_text, "aaaa"),
        normal(&stock_text, "bbbb"),
        "{tool} {args:?}"
    );
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one scene after the other, on one broker"
)]
fn our_tools_print_what_the_stock_tools_print() {
    let Some(oracle) = Oracle::start() else {
        return;
    };
    let server = oracle.bootstrap.as_str();
    let topics = |args: &[&str]| {
        compare(
            "kafka-topics",
            &[&["--bootstrap-server", server], args].concat(),
            "",
        );
    };
    topics(&[
        "--create",
        "--topic",
        "TOPIC",
        "--partitions",
        "2",
        "--config",
        "retention.ms=86400000",
    ]);
    topics(&["--create", "--topic", "TOPIC"]);
    topics(&["--create", "--topic", "TOPIC", "--if-not-exists"]);
    topics(&[
        "--create",
        "--topic",
        "TOPIC.x",
        "--replication-factor",
        "3",
    ]);
    topics(&["--describe", "--topic", "TOPIC"]);
    topics(&["--describe", "--topic", "none"]);
    topics(&["--describe", "--under-replicated-partitions"]);
    topics(&["--list", "--topic", "TOPIC"]);
    topics(&["--alter", "--topic", "TOPIC", "--partitions", "3"]);
    topics(&["--alter", "--topic", "TOPIC", "--partitions", "1"]);

    let produce = [
        "--bootstrap-server",
        server,
        "--topic",
        "TOPIC",
        "--property",
        "parse.key=true",
    ];
    compare(
        "kafka-console-producer",
        &produce,
        "a\t1\nb\t2\nc\t3\nd\t4\n",
    );
    let consume = [
        "--bootstrap-server",
        server,
        "--topic",
        "TOPIC",
        "--from-beginning",
        "--group",
        "TOPIC",
        "--max-messages",
        "4",
        "--property",
        "print.key=true",
        "--property",
        "print.partition=true",
        "--property",
        "print.offset=true",
        "--property",
        "print.headers=true",
    ];
    compare("kafka-console-consumer", &consume, "");
    for time in ["latest", "earliest", "-1", "5"] {
        let offsets = [
            "--bootstrap-server",
            server,
            "--topic",
            "TOPIC",
            "--time",
            time,
        ];
        compare("kafka-get-offsets", &offsets, "");
    }
    compare(
        "kafka-get-offsets",
        &["--bootstrap-server", server, "--topic", "none"],
        "",
    );
    let groups = |args: &[&str]| {
        compare(
            "kafka-consumer-groups",
            &[&["--bootstrap-server", server], args].concat(),
            "",
        );
    };
    groups(&["--describe", "--group", "TOPIC"]);
    groups(&["--describe", "--group", "TOPIC", "--members"]);
    groups(&["--describe", "--group", "TOPIC", "--state"]);
    groups(&["--describe", "--group", "none"]);
    groups(&[
        "--reset-offsets",
        "--group",
        "TOPIC",
        "--topic",
        "TOPIC",
        "--to-earliest",
        "--dry-run",
        "--export",
    ]);
    groups(&["--delete", "--group", "none"]);
    groups(&["--delete", "--group", "TOPIC"]);

    let file = oracle.dir.join("records.json");
    let path = file.to_str().expect("a temporary directory is UTF-8");
    for name in ["aaaa", "bbbb"] {
        let json = format!(
            r#"{{"partitions":[{{"topic":"{name}","partition":0,"offset":0}}],"version":1}}"#
        );
        std::fs::write(path.replace("records", name), json).expect("written");
    }
    let template = path.replace("records", "TOPIC");
    let delete = [
        "--bootstrap-server",
        server,
        "--offset-json-file",
        template.as_str(),
    ];
    compare("kafka-delete-records", &delete, "");
    let configs = |args: &[&str]| {
        compare(
            "kafka-configs",
            &[&["--bootstrap-server", server], args].concat(),
            "",
        );
    };
    configs(&[
        "--alter",
        "--entity-type",
        "topics",
        "--entity-name",
        "TOPIC",
        "--add-config",
        "retention.ms=9000,cleanup.policy=[compact,delete]",
    ]);
    configs(&[
        "--describe",
        "--entity-type",
        "topics",
        "--entity-name",
        "TOPIC",
    ]);
    configs(&[
        "--describe",
        "--entity-type",
        "topics",
        "--entity-name",
        "TOPIC",
        "--all",
    ]);
    configs(&[
        "--alter",
        "--entity-type",
        "topics",
        "--entity-name",
        "TOPIC",
        "--delete-config",
        "nothing",
    ]);
    topics(&["--delete", "--topic", "TOPIC"]);
    topics(&["--delete", "--topic", "none"]);
}
