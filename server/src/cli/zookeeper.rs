//! `ringlog zookeeper`: the ZooKeeper service alone, as `bin/zookeeper-server-start.sh` runs it.

use std::path::PathBuf;

use clap::Args;
use log::warn;

use crate::zookeeper::config::{Loaded, ZookeeperConfig};
use crate::zookeeper::{self, ZookeeperError};

/// `ringlog zookeeper`.
#[derive(Debug, Args)]
pub struct ZookeeperArgs {
    /// A zookeeper.properties file; without it 127.0.0.1:2181, data in ./data/zookeeper
    pub config: Option<PathBuf>,
    /// Port to serve on; 0 lets the system choose [clientPort]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Data directory [dataDir]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// Serves until a signal asks to stop. The log must have been set up.
///
/// # Errors
/// The message to show.
pub fn run(args: ZookeeperArgs) -> Result<(), String> {
    let loaded = match &args.config {
        Some(path) => ZookeeperConfig::load(path).map_err(|error| error.to_string())?,
        None => Loaded {
            config: ZookeeperConfig::default(),
            warnings: Vec::new(),
        },
    };
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let mut config = ZookeeperConfig {
        stops_on_signals: true,
        ..loaded.config
    };
    if let Some(port) = args.port {
        config.address.set_port(port);
    }
    if let Some(data) = args.data {
        config.data_dir = data;
    }
    let serve = || -> Result<(), ZookeeperError> { zookeeper::start(config)?.wait() };
    serve().map_err(|error| error.to_string())
}
