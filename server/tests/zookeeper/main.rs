//! The ZooKeeper service over its socket: an independent client (crate `zookeeper-client`), bare
//! packets, hostile ones, and `kill -9` of the process.

mod client;
mod durability;
mod hostile;
mod wire;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use ringlog::zookeeper::config::ZookeeperConfig;
use ringlog::zookeeper::{self, Running};

/// A service in this process with a directory of its own; both go with the test.
struct Service {
    running: Option<Running>,
    directory: PathBuf,
    config: ZookeeperConfig,
}

/// A directory that no other test has.
fn fresh_directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("ringlog-zookeeper-test-{}-{number}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    let _ = fs::remove_dir_all(&directory);
    directory
}

impl Service {
    fn start() -> Self {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut ZookeeperConfig)) -> Self {
        let directory = fresh_directory();
        let mut config = ZookeeperConfig {
            data_dir: directory.clone(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            tick_ms: 100,
            session_timeout_ms_min: 200,
            ..ZookeeperConfig::default()
        };
        change(&mut config);
        let running = zookeeper::start(config.clone()).expect("the service starts");
        Self {
            running: Some(running),
            directory,
            config,
        }
    }

    fn address(&self) -> SocketAddr {
        self.running.as_ref().expect("it runs").address()
    }

    /// Stops it and starts it again on the same data, at the same address.
    fn restart(&mut self) {
        self.config.address = self.address();
        let running = self.running.take().expect("it runs");
        running.stop().expect("it stops in good order");
        self.running = Some(zookeeper::start(self.config.clone()).expect("it starts again"));
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.running.take());
        let _ = fs::remove_dir_all(&self.directory);
    }
}
