//! A disk that is full: a small tmpfs in a mount namespace of its own, below an overlayfs, since a broker
//! makes no ballast of memory.
//!
//! The test runs itself again under `unshare -rm`, where it may mount; where that is not permitted it
//! says so and passes.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kafka_protocol::ResponseError;
use ringlog_tests::broker::{Directory, binary, foreign, wait_for};
use ringlog_tests::call::{create_topic, fetch_all, list_offset, produce, topic_id};
use ringlog_tests::records::Batch;
use ringlog_tests::wire::Client;

/// Set where the tmpfs is mounted.
const MOUNTED: &str = "RINGLOG_TEST_SMALL_DISK";
const TEST: &str = "full_disk::records_are_refused_and_everything_else_goes_on";
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker on the small disk; its log is elsewhere.
struct Small {
    child: Child,
    log: PathBuf,
    address: std::net::SocketAddr,
}

impl Small {
    fn start(disk: &Path, output: &Path, retention_check_ms: u32) -> Small {
        let port_file = output.join("port");
        let _ = fs::remove_file(&port_file);
        let log = output.join("log");
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("ours");
        let mut command = Command::new(binary());
        command
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--zookeeper-port",
                "0",
                "--cores",
                "1",
            ])
            .args([
                "--journal-bytes",
                "4194304",
                "--journal-file-bytes",
                "1048576",
            ])
            .args(["--override", "ringlog.disk.reserve.bytes=8388608"])
            .arg("--override")
            .arg(format!(
                "log.retention.check.interval.ms={retention_check_ms}"
            ))
            .arg("--data-dir")
            .arg(disk.join("data"))
            .arg("--port-file")
            .arg(&port_file)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a handle can be doubled"))
            .stderr(file);
        let child = command.spawn().expect("the binary is there");
        let mut small = Small {
            child,
            log,
            address: ([127, 0, 0, 1], 0).into(),
        };
        small.address = wait_for("the port file", PATIENCE, || {
            let ended = small.child.try_wait().expect("our own child");
            assert!(ended.is_none(), "{ended:?}\n{}", small.log());
            let text = fs::read_to_string(&port_file).ok()?;
            text.lines().next()?.rsplit("//").next()?.parse().ok()
        });
        small
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// Waits until the shard has slept for longer than it pauses between two looks at the disk.
    fn wait_for_rest(&self) {
        let mut last = (0, Instant::now());
        wait_for("a shard at rest", PATIENCE, || {
            let turns = self.turns();
            if turns != last.0 {
                last = (turns, Instant::now());
            }
            (last.1.elapsed() > Duration::from_secs(3)).then_some(())
        });
    }

    /// How often the shard's thread has gone to sleep.
    fn turns(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        let is_shard = |task: &PathBuf| {
            fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "ringlog-0")
        };
        let shard = tasks.flatten().map(|task| task.path()).find(is_shard);
        let status = fs::read_to_string(shard.expect("it runs").join("status"));
        let status = status.expect("it runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let count = line.and_then(|count| count.trim().parse().ok());
        count.expect("a count")
    }

    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        let status = wait_for("the end", PATIENCE, || {
            self.child.try_wait().expect("our own child")
        });
        assert_eq!(status.code(), Some(0), "{}", self.log());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// Takes all the room that there is.
fn fill(disk: &Path) -> PathBuf {
    let path = disk.join("filler");
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .expect("ours");
    while file.write(&[7; 65536]).is_ok() {}
    while file.write(&[7; 512]).is_ok() {}
    path
}

fn batch() -> Vec<u8> {
    Batch::of(&["x".repeat(60_000)]).at_present().encode()
}

fn send(client: &mut Client, topic: &str) -> i16 {
    produce(client, 9, topic, 0, batch()).error_code
}

fn wait_until_taken(client: &mut Client, topic: &str) {
    wait_for("records are taken", PATIENCE, || {
        (send(client, topic) == 0).then_some(())
    });
}

#[test]
fn records_are_refused_and_everything_else_goes_on() {
    if foreign().is_some() {
        return;
    }
    let Some(disk) = std::env::var_os(MOUNTED) else {
        let Some(output) = in_namespace() else { return };
        let text =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        return;
    };
    let disk = PathBuf::from(disk);
    let output = Directory::new();
    let small = Small::start(&disk, output.path(), 100);
    let mut client = small.connect();
    create_topic(&mut client, "kept", 1, &[]);
    create_topic(&mut client, "going", 1, &[("segment.bytes", "1048576")]);
    create_topic(&mut client, "goes", 1, &[]);
    assert_eq!(send(&mut client, "kept"), 0);
    for _ in 0..100 {
        assert_eq!(send(&mut client, "goes"), 0);
    }
    // By our own records: the reserve is left, and nothing has failed.
    let refused = wait_for("a refusal", PATIENCE, || {
        let code = send(&mut client, "kept");
        (code != 0).then_some(code)
    });
    assert_eq!(refused, ResponseError::KafkaStorageError.code());
    let free = rustix::fs::statvfs(&disk).expect("mounted");
    let free = free.f_bavail * free.f_frsize;
    assert!(free > 4 << 20, "{free} bytes are left");
    let count = fetch_all(&mut client, "kept", 0).len();
    assert!(count > 100, "{count} records before the refusal");
    // A topic goes, and writing goes on by itself.
    delete_topic(&mut client, "goes");
    wait_until_taken(&mut client, "kept");
    // By somebody else, to the last byte.
    let filler = fill(&disk);
    wait_for("a refusal", PATIENCE, || {
        (send(&mut client, "going") != 0).then_some(())
    });
    // It may have blocks ahead, until the broker has looked.
    let refused = wait_for("a refusal", PATIENCE, || {
        let code = send(&mut client, "kept");
        (code != 0).then_some(code)
    });
    assert_eq!(refused, ResponseError::KafkaStorageError.code());
    assert!(fetch_all(&mut client, "kept", 0).len() > count);
    fs::remove_file(&filler).expect("ours");
    wait_until_taken(&mut client, "kept");
    // Retention makes room on a full disk.
    for _ in 0..30 {
        wait_until_taken(&mut client, "going");
    }
    set_retention(&mut client, "going", "3000");
    let filler = fill(&disk);
    wait_for("retention", PATIENCE, || {
        let error = list_offset(&mut client, 1, "going", 0, -2).0;
        assert_eq!(error, 0);
        (list_offset(&mut client, 1, "going", 0, -2).2 > 0).then_some(())
    });
    fs::remove_file(&filler).expect("ours");
    // It starts on a disk that others have filled meanwhile: that is what the ballast is for.
    delete_topic(&mut client, "kept");
    let ballast = disk.join("data/.ringlog-ballast");
    wait_for("the ballast", PATIENCE, || ballast.exists().then_some(()));
    create_topic(&mut client, "late", 1, &[]);
    wait_until_taken(&mut client, "late");
    small.stop();
    let filler = fill(&disk);
    let small = Small::start(&disk, output.path(), 300_000);
    let mut client = small.connect();
    wait_for("the topic", PATIENCE, || topic_id(&mut client, "late"));
    assert_eq!(
        send(&mut client, "late"),
        ResponseError::KafkaStorageError.code()
    );
    assert_eq!(fetch_all(&mut client, "late", 0).len(), 1);
    fs::remove_file(&filler).expect("ours");
    wait_until_taken(&mut client, "late");
    first_append_looks_itself(&small, &mut client, &disk);
    assert!(!small.log().contains("panicked"), "{}", small.log());
}

/// The disk is filled while nobody looks.
fn first_append_looks_itself(small: &Small, client: &mut Client, disk: &Path) {
    small.wait_for_rest();
    let filler = fill(disk);
    assert_eq!(
        send(client, "late"),
        ResponseError::KafkaStorageError.code()
    );
    fs::remove_file(&filler).expect("ours");
    wait_until_taken(client, "late");
}

/// Runs this test again with a small disk; `None` where that is not permitted.
fn in_namespace() -> Option<std::process::Output> {
    let disk = Directory::new();
    let script = "mount -t tmpfs -o size=64m tmpfs \"$1\" && cd \"$1\" && mkdir lower upper work disk \
                  && mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay disk \
                  || exit 77; exec \"$2\" --exact \"$3\" --nocapture";
    let test = std::env::current_exe().expect("a test knows its own path");
    let mut command = Command::new("unshare");
    command
        .args(["-rm", "sh", "-c", script, "sh"])
        .arg(disk.path())
        .arg(test)
        .arg(TEST)
        .env("RINGLOG_TEST_BINARY", binary())
        .env(MOUNTED, disk.path().join("disk"));
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("not run: unshare: {error}");
            return None;
        }
    };
    let error = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(77) || error.starts_with("unshare:") {
        eprintln!("not run: no mount namespace here: {}", error.trim());
        return None;
    }
    Some(output)
}

fn delete_topic(client: &mut Client, name: &str) {
    use kafka_protocol::messages::DeleteTopicsRequest;
    let request = DeleteTopicsRequest::default()
        .with_topic_names(vec![ringlog_tests::call::topic_name(name)])
        .with_timeout_ms(30_000);
    let answer = client.call(3, &request);
    assert_eq!(answer.responses[0].error_code, 0, "{answer:?}");
}

fn set_retention(client: &mut Client, topic: &str, milliseconds: &str) {
    use kafka_protocol::messages::IncrementalAlterConfigsRequest;
    use kafka_protocol::messages::incremental_alter_configs_request::{
        AlterConfigsResource, AlterableConfig,
    };
    use ringlog_tests::call::text;
    let config = AlterableConfig::default()
        .with_name(text("retention.ms"))
        .with_config_operation(0)
        .with_value(Some(text(milliseconds)));
    let resource = AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text(topic))
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let answer = client.call(0, &request);
    assert_eq!(answer.responses[0].error_code, 0, "{answer:?}");
}
