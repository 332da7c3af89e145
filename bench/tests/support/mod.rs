//! What the tests of the generator share: the generator, a broker of ours, a directory that goes.
#![expect(dead_code, reason = "each test program uses a part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What the generator did.
pub(crate) struct Done {
    /// Its exit code.
    pub(crate) code: Option<i32>,
    /// Standard output, then standard error.
    pub(crate) text: String,
}

impl Done {
    fn of(output: &Output) -> Self {
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Self {
            code: output.status.code(),
            text,
        }
    }

    /// Succeeded, or was late on a busy machine: which of them it is, is the machine's business.
    pub(crate) fn is_through(&self) -> bool {
        let was_late = ["generator lagged", "the generator was late"];
        let late = || was_late.iter().any(|what| self.text.contains(what));
        self.code == Some(0) || (self.code == Some(1) && self.text.contains("INVALID: ") && late())
    }

    /// Holds all of it.
    pub(crate) fn says(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.text.contains(part), "no {part:?} in\n{}", self.text);
        }
    }
}

fn command(words: &str) -> Command {
    command_of(&words.split_whitespace().collect::<Vec<_>>())
}

fn command_of(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringlog-bench"));
    command.args(["--io", "epoll", "--quiet"]);
    command.args(words);
    command
}

/// Runs the generator to its end.
pub(crate) fn bench(words: &str) -> Done {
    let output = command(words).output().expect("the generator was built");
    Done::of(&output)
}

/// In a directory, with words that may hold spaces.
pub(crate) fn bench_in(directory: &Path, words: &[&str]) -> Done {
    let output = command_of(words).current_dir(directory).output();
    Done::of(&output.expect("the generator was built"))
}

/// Starts it, for what happens meanwhile.
pub(crate) fn start_bench(words: &str) -> Child {
    let mut command = command(words);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the generator was built")
}

/// The end of what was started.
pub(crate) fn end(child: Child) -> Done {
    Done::of(&child.wait_with_output().expect("it was started here"))
}

/// The broker of `.ci/run`, or the one beside the generator.
pub(crate) fn ringlog() -> PathBuf {
    let beside = Path::new(env!("CARGO_BIN_EXE_ringlog-bench")).with_file_name("ringlog");
    let binary = std::env::var_os("RINGLOG_TEST_BINARY").map_or(beside, PathBuf::from);
    assert!(
        binary.exists(),
        "no {}: cargo build -p ringlog",
        binary.display()
    );
    binary
}

/// Waits until `found` finds it.
pub(crate) fn wait_for<R>(what: &str, mut found: impl FnMut() -> Option<R>) -> R {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "after 60 s still no {what}");
        std::thread::sleep(Duration::from_millis(5)); // the poll's pause
    }
}

/// An empty directory that goes with the test.
pub(crate) struct Directory(PathBuf);

impl Directory {
    /// Makes it.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringlog-load-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("the temporary directory can be written");
        Self(path)
    }

    /// A path in it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok(); // best effort: nothing depends on it
    }
}

/// A `ringlog serve` that is killed at the end.
pub(crate) struct Broker {
    child: Child,
    /// Where it keeps everything.
    pub(crate) directory: Directory,
}

impl Broker {
    /// On free ports, in a directory of its own.
    pub(crate) fn start() -> Self {
        let directory = Directory::new();
        let data = directory.join("data").display().to_string();
        Self::start_by(directory, Command::new(ringlog()), &data)
    }

    /// By `command`, which is to become `ringlog`, with its data in `data`.
    pub(crate) fn start_by(directory: Directory, mut command: Command, data: &str) -> Self {
        let log = fs::File::create(directory.join("log")).expect("the directory was made");
        let errors = log.try_clone().expect("a file can be shared");
        command
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--zookeeper-port",
                "0",
                "--data-dir",
            ])
            .arg(data)
            .args(["--durability", "page-cache", "--port-file"])
            .arg(directory.join("port"))
            .stdout(log)
            .stderr(errors);
        let child = command.spawn().expect("the broker was built");
        let broker = Self { child, directory };
        wait_for("port file", || {
            fs::read_to_string(broker.directory.join("port"))
                .ok()
                .filter(|text| text.contains("//"))
        });
        broker
    }

    /// `HOST:PORT` of a listener: `PLAINTEXT` or `ZOOKEEPER`.
    pub(crate) fn port(&self, listener: &str) -> String {
        let text = fs::read_to_string(self.directory.join("port")).expect("it was there");
        let prefix = format!("{listener}://");
        let mut lines = text.lines();
        let found = lines.find_map(|line| line.strip_prefix(&prefix));
        found
            .unwrap_or_else(|| panic!("no {listener} in {text}"))
            .to_owned()
    }

    /// Where clients connect.
    pub(crate) fn bootstrap(&self) -> String {
        self.port("PLAINTEXT")
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it was started here");
        self.child.wait().expect("it was started here");
    }

    /// Waits until the log of the topic's first partition has `bytes`.
    pub(crate) fn wait_for_log(&self, topic: &str, bytes: u64) {
        let log = format!("data/logs/{topic}-0/00000000000000000000.log");
        let log = self.directory.join(&log);
        wait_for(&format!("{bytes} bytes in {}", log.display()), || {
            fs::metadata(&log).ok().filter(|log| log.len() >= bytes)
        });
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.child.kill().ok(); // a test may have killed it
        self.child.wait().ok();
    }
}
