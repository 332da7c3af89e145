//! A broker process of a test: started in a directory of its own, awaited by its readiness line, ended
//! by SIGTERM or SIGKILL, restarted on the same directory and port.
//!
//! When a test fails, the command, the configuration, the log's end and the data directory's files are
//! printed and the directory is kept; when it passes, an ` ERROR ` line that it did not announce fails it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a start or a stop may take; both are milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` holds; fails with `what` after `patience`.
pub fn wait_for<T>(what: &str, patience: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(
            Instant::now() < deadline,
            "after {patience:?} still waiting for: {what}"
        );
        std::thread::sleep(Duration::from_millis(5)); // the poll's pause; nothing depends on it
    }
}

/// A directory removed at the end unless the test fails.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// Makes an empty directory.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringlog-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Default for Directory {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept: {}", self.0.display());
        } else {
            fs::remove_dir_all(&self.0).ok(); // best effort: a later test does not depend on it
        }
    }
}

/// How a broker is to be started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    overrides: Vec<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    expected_errors: Vec<String>,
}

impl Options {
    /// `--override key=value`.
    pub fn set(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        self.overrides.push(format!("{key}={value}"));
        self
    }

    /// One more argument of `serve`.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// An environment variable of the process.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// ` ERROR ` lines that contain `part` are part of the test.
    pub fn expect_error(mut self, part: &str) -> Self {
        self.expected_errors.push(part.to_owned());
        self
    }
}

/// A broker under test: a process of ours or one that `RINGLOG_TEST_BOOTSTRAP` names.
#[derive(Debug)]
pub struct Broker {
    address: SocketAddr,
    process: Option<Process>,
}

/// A `ringlog serve` of ours.
#[derive(Debug)]
struct Process {
    directory: Directory,
    options: Options,
    child: Option<Child>,
    command: String,
}

/// The broker that was there before the tests.
pub fn foreign() -> Option<SocketAddr> {
    let address = std::env::var("RINGLOG_TEST_BOOTSTRAP").ok()?;
    let mut addresses = address
        .to_socket_addrs()
        .unwrap_or_else(|error| panic!("{address}: {error}"));
    Some(
        addresses
            .find(SocketAddr::is_ipv4)
            .unwrap_or_else(|| panic!("{address}: no IPv4 address")),
    )
}

impl Broker {
    /// A broker with default settings, or the foreign one.
    pub fn start() -> Self {
        match foreign() {
            Some(address) => Self {
                address,
                process: None,
            },
            None => Self::start_own(Options::default()),
        }
    }

    /// A process of our own, for tests that configure, kill or restart; `None` with a foreign broker.
    pub fn own(options: Options) -> Option<Self> {
        if foreign().is_some() {
            eprintln!("not run: needs a process of its own, and RINGLOG_TEST_BOOTSTRAP is set");
            return None;
        }
        Some(Self::start_own(options))
    }

    fn start_own(options: Options) -> Self {
        let mut process = Process {
            directory: Directory::new(),
            options,
            child: None,
            command: String::new(),
        };
        let address = process.start("127.0.0.1:0");
        Self {
            address,
            process: Some(process),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it is a process of ours.
    pub fn is_own(&self) -> bool {
        self.process.is_some()
    }

    /// Its process id, if it is ours or `RINGLOG_TEST_BROKER_PID` tells it.
    pub fn process_id(&self) -> Option<u32> {
        match &self.process {
            Some(process) => process.child.as_ref().map(Child::id),
            None => std::env::var("RINGLOG_TEST_BROKER_PID").ok()?.parse().ok(),
        }
    }

    /// Resident memory in bytes (`VmRSS` of `/proc/PID/status`), if the process is known.
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process_id()?)).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib * 1024)
    }

    /// The data directory: `logs`, `journal`, `zookeeper`.
    pub fn data(&self) -> PathBuf {
        self.own_process().data()
    }

    /// The log directory.
    pub fn logs(&self) -> PathBuf {
        self.data().join("logs")
    }

    /// Where the ZooKeeper service in the broker's process listens.
    pub fn zookeeper(&self) -> SocketAddr {
        self.listens("ZOOKEEPER://")
    }

    /// Where its metrics are; with `--http` only.
    pub fn http(&self) -> SocketAddr {
        self.listens("HTTP://")
    }

    fn listens(&self, scheme: &str) -> SocketAddr {
        let text = fs::read_to_string(self.own_process().port_file()).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(scheme));
        let address = line.and_then(|address| address.trim().parse().ok());
        address.unwrap_or_else(|| panic!("no {scheme} in the port file: {text}"))
    }

    /// All that it logged.
    pub fn log(&self) -> String {
        self.own_process().log()
    }

    fn own_process(&self) -> &Process {
        self.process
            .as_ref()
            .expect("only asked of a broker of our own")
    }

    fn own_process_mut(&mut self) -> &mut Process {
        self.process
            .as_mut()
            .expect("only asked of a broker of our own")
    }

    /// SIGTERM; it must end with exit code 0.
    pub fn stop(&mut self) {
        let process = self.own_process_mut();
        let status = process.end(Signal::TERM);
        assert_eq!(
            status.code(),
            Some(0),
            "exit code after SIGTERM\n{}",
            process.report()
        );
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.own_process_mut().end(Signal::KILL);
    }

    /// `kill -9` or a clean stop.
    pub fn end(&mut self, crash: bool) {
        if crash {
            self.kill();
        } else {
            self.stop();
        }
    }

    /// Starts again on the same directory and port.
    pub fn restart(&mut self) {
        let address = self.address.to_string();
        let started = self.own_process_mut().start(&address);
        assert_eq!(started, self.address, "the port after a restart");
    }

    /// Starts again on the same directory, with other settings and on another port.
    pub fn restart_with(&mut self, options: Options) {
        let process = self.own_process_mut();
        process.options = options;
        self.address = process.start("127.0.0.1:0");
    }
}

impl Process {
    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn port_file(&self) -> PathBuf {
        self.directory.path().join("port")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn log(&self) -> String {
        let bytes = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Starts and waits for the readiness line and the port file.
    fn start(&mut self, listen: &str) -> SocketAddr {
        let port_file = self.port_file();
        fs::remove_file(&port_file).ok(); // absent at the first start
        let already_logged = self.log().len();
        let mut command = serve(listen, &self.data(), &self.options);
        command.arg("--port-file").arg(&port_file);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path());
        let log = log.unwrap_or_else(|error| panic!("{}: {error}", self.log_path().display()));
        let also_log = log.try_clone().expect("a file handle can be doubled");
        command.stdin(Stdio::null()).stdout(log).stderr(also_log);
        self.command = format!("{command:?}");
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.command));
        self.child = Some(child);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = self.log();
            let ready = log[already_logged..]
                .lines()
                .any(|line| line.contains("[KafkaServer id=") && line.contains("] started"));
            let port = fs::read_to_string(&port_file)
                .ok()
                .as_deref()
                .and_then(parse_port);
            if let (true, Some(port)) = (ready, port) {
                return SocketAddr::from(([127, 0, 0, 1], port));
            }
            let ended = self
                .child
                .as_mut()
                .and_then(|child| child.try_wait().ok().flatten());
            assert!(
                ended.is_none(),
                "ended before it was ready: {ended:?}\n{}",
                self.report()
            );
            assert!(
                Instant::now() < deadline,
                "not ready after {PATIENCE:?}\n{}",
                self.report()
            );
            std::thread::sleep(Duration::from_millis(2)); // the poll's pause
        }
    }

    fn end(&mut self, signal: Signal) -> ExitStatus {
        let mut child = self.child.take().expect("only a running broker is stopped");
        send_signal(&child, signal);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().expect("our own child can be waited for") {
                return status;
            }
            if Instant::now() > deadline {
                child.kill().ok(); // it may have ended just now
                panic!(
                    "still runs {PATIENCE:?} after {signal:?}\n{}",
                    self.report()
                );
            }
            std::thread::sleep(Duration::from_millis(2)); // the poll's pause
        }
    }

    /// What one needs to understand a failure.
    fn report(&self) -> String {
        let mut text = format!(
            "command: {}\nconfig: {:?}\n",
            self.command, self.options.overrides
        );
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let from = lines.len().saturating_sub(50);
        writeln!(
            text,
            "log (last {} of {} lines):",
            lines.len() - from,
            lines.len()
        )
        .ok();
        for line in &lines[from..] {
            writeln!(text, "  {line}").ok(); // a String takes all
        }
        writeln!(text, "files under {}:", self.data().display()).ok();
        list(&self.data(), &mut text);
        text
    }

    fn unexpected_error(&self) -> Option<String> {
        if !binary().ends_with("ringlog") {
            return None; // Apache Kafka logs clients' mistakes as errors
        }
        let log = self.log();
        let expected = |line: &str| {
            self.options
                .expected_errors
                .iter()
                .any(|part| line.contains(part))
        };
        log.lines()
            .find(|line| line.contains(" ERROR ") && !expected(line))
            .map(str::to_owned)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok(); // by its own pid; it may have ended
            child.wait().ok();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.report());
        } else if let Some(line) = self.unexpected_error() {
            panic!("the broker logged an error: {line}\n{}", self.report());
        }
    }
}

fn list(directory: &Path, text: &mut String) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let length = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        writeln!(text, "  {length:>12} {}", path.display()).ok(); // a String takes all
        list(&path, text);
    }
}

/// The first line of the port file ends with the port of the first listener.
fn parse_port(text: &str) -> Option<u16> {
    text.lines().next()?.trim().rsplit(':').next()?.parse().ok()
}

fn send_signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .expect("a child has a pid");
    kill_process(pid, signal)
        .unwrap_or_else(|error| panic!("signal {signal:?} to {pid:?}: {error}"));
}

/// The command of a broker with its data under `data`; nothing is started.
pub fn serve(listen: &str, data: &Path, options: &Options) -> Command {
    let mut command = Command::new(binary());
    command
        .args(["serve", "--listen", listen])
        .arg("--data-dir")
        .arg(data);
    // A ZooKeeper of its own on any port, unless the test says otherwise.
    let is_zookeeper = |text: &String| text.contains("zookeeper");
    if !options
        .overrides
        .iter()
        .chain(&options.arguments)
        .any(is_zookeeper)
    {
        command.args(["--zookeeper-port", "0"]);
    }
    for pair in &options.overrides {
        command.args(["--override", pair]);
    }
    command.args(&options.arguments);
    command.envs(
        options
            .environment
            .iter()
            .map(|(name, value)| (name, value)),
    );
    command
}

/// Runs a broker that is expected to refuse its start; gives its exit code and all that it printed.
pub fn refused_start(mut command: Command) -> (Option<i32>, String) {
    let output = Directory::new();
    let path = output.path().join("output");
    let file = File::create(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let also = file.try_clone().expect("a file handle can be doubled");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(also)
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("our own child can be waited for") {
            break Some(status);
        }
        if Instant::now() > deadline {
            child.kill().ok(); // it may have ended just now
            child.wait().ok();
            break None;
        }
        std::thread::sleep(Duration::from_millis(2)); // the poll's pause
    };
    let text = fs::read_to_string(&path).unwrap_or_default();
    let Some(status) = status else {
        panic!("started although it should refuse: {command:?}\n{text}");
    };
    (status.code(), text)
}

/// The `ringlog` binary of this build profile, built once; `RINGLOG_TEST_BINARY` names another.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(named) = std::env::var_os("RINGLOG_TEST_BINARY") {
            return fs::canonicalize(&named).unwrap_or_else(|error| panic!("{named:?}: {error}"));
        }
        let test = std::env::current_exe().expect("a test knows its own path");
        let deps = test
            .parent()
            .expect("a test lies in <target>/<profile>/deps");
        let profile = deps
            .parent()
            .expect("a test lies in <target>/<profile>/deps");
        let target = profile
            .parent()
            .expect("a test lies in <target>/<profile>/deps");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build
            .args([
                "build",
                "--quiet",
                "-p",
                "ringlog",
                "--bin",
                "ringlog",
                "--target-dir",
            ])
            .arg(target);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        let status = build.current_dir(env!("CARGO_MANIFEST_DIR")).status();
        let status = status.unwrap_or_else(|error| panic!("{build:?}: {error}"));
        assert!(status.success(), "{build:?} failed");
        profile.join("ringlog")
    })
}

/// A topic or group name that no other test uses, also on a foreign broker that keeps its topics.
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{name}-{}-{number}", std::process::id())
}
