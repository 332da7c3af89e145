//! `zookeeper.properties`: the keys of a standalone server, their defaults and bounds.
//!
//! Names and defaults are those of ZooKeeper's `QuorumPeerConfig`. Keys of ensembles and of parts
//! that are not here (the admin server, the snapshot files) are taken without effect, so that a
//! stock file works; a key nobody knows is warned about. Invariant: a `ZookeeperConfig` is valid.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use crate::config::properties::{self, Entry, Properties};

use super::words::{WORDS, Word};

/// Longest packet a client may send, ZooKeeper's `jute.maxbuffer`.
pub const PACKET_BYTES_MAX: usize = 0xf_ffff;

/// How the service is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZookeeperConfig {
    /// `dataDir`: where the store is.
    pub data_dir: PathBuf,
    /// `clientPortAddress` and `clientPort`; port 0 lets the system choose.
    pub address: SocketAddr,
    /// `tickTime`: the unit of time, in ms.
    pub tick_ms: u32,
    /// `maxClientCnxns`: connections per client address, 0 for no limit.
    pub connections_per_address_max: u32,
    /// `maxCnxns`: connections in all, 0 for no limit.
    pub connections_max: u32,
    /// `minSessionTimeout`, in ms; two ticks if not set.
    pub session_timeout_ms_min: u32,
    /// `maxSessionTimeout`, in ms; twenty ticks if not set.
    pub session_timeout_ms_max: u32,
    /// `4lw.commands.whitelist`: the four-letter words that are answered; all if not set.
    pub words: Vec<Word>,
    /// `jute.maxbuffer`: longest packet a client may send.
    pub packet_bytes_max: usize,
    /// `ringlog.zookeeper.tree.bytes.max`: what all znodes may take in memory.
    pub tree_bytes_max: usize,
    /// Whether SIGINT and SIGTERM stop the service; for a process that runs nothing else.
    pub stops_on_signals: bool,
}

impl Default for ZookeeperConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("data/zookeeper"),
            address: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 2181),
            tick_ms: 2000,
            connections_per_address_max: 60,
            connections_max: 10_000,
            session_timeout_ms_min: 4000,
            session_timeout_ms_max: 40_000,
            words: WORDS.to_vec(),
            packet_bytes_max: PACKET_BYTES_MAX,
            tree_bytes_max: 1 << 30,
            stops_on_signals: false,
        }
    }
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}\n   | {hint}")]
pub struct ConfigError {
    place: String,
    what: String,
    hint: String,
}

/// A configuration, and what to warn about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The configuration.
    pub config: ZookeeperConfig,
    /// Warnings, each a line with its place.
    pub warnings: Vec<String>,
}

/// Keys of stock files that have no effect here.
const IGNORED: &[&str] = &[
    "admin.enableServer",
    "admin.serverAddress",
    "admin.serverPort",
    "admin.commandURL",
    "autopurge.purgeInterval",
    "autopurge.snapRetainCount",
    "clientPortListenBacklog",
    "dataLogDir",
    "electionAlg",
    "initLimit",
    "leaderServes",
    "localSessionsEnabled",
    "localSessionsUpgradingEnabled",
    "metricsProvider.className",
    "metricsProvider.exportJvmMetrics",
    "metricsProvider.httpPort",
    "peerType",
    "preAllocSize",
    "quorumListenOnAllIPs",
    "reconfigEnabled",
    "snapCount",
    "standaloneEnabled",
    "syncEnabled",
    "syncLimit",
    "globalOutstandingLimit",
    "forceSync",
    "extendedTypesEnabled",
    "fsync.warningthresholdms",
];

/// Keys whose neglect would open what the file's writer meant to close.
const REFUSED: &[(&str, &str)] = &[
    (
        "secureClientPort",
        "there is no TLS here; put the service behind a TLS proxy or leave the key out",
    ),
    (
        "secureClientPortAddress",
        "there is no TLS here; put the service behind a TLS proxy or leave the key out",
    ),
    (
        "requireClientAuthScheme",
        "clients cannot be made to authenticate; use access control lists",
    ),
    (
        "sessionRequireClientSASLAuth",
        "SASL is not offered; use digest authentication and access control lists",
    ),
    (
        "enforce.auth.enabled",
        "clients cannot be made to authenticate; use access control lists",
    ),
];

impl ZookeeperConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// The first thing wrong, with its place and what would be right.
    pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
        let failed = |what: String, hint: &str| ConfigError {
            place: path.display().to_string(),
            what,
            hint: hint.to_owned(),
        };
        let bytes = properties::read_file(path).map_err(|error| {
            failed(
                error.to_string(),
                "give the path of a zookeeper.properties file",
            )
        })?;
        Self::parse(&path.display().to_string(), &bytes)
    }

    /// Reads the bytes of the file that `name` names.
    ///
    /// # Errors
    /// As [`ZookeeperConfig::load`].
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Loaded, ConfigError> {
        let parsed = Properties::parse(bytes).map_err(|error| ConfigError {
            place: format!("{name}:{}:{}", error.span.line, error.span.column),
            what: error.what.to_owned(),
            hint: error.hint.to_owned(),
        })?;
        let mut loaded = Loaded {
            // A stock file's address, when it names none: all of them, as in ZooKeeper.
            config: Self {
                address: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
                ..Self::default()
            },
            warnings: Vec::new(),
        };
        let mut reading = Reading {
            name,
            port: None,
            host: None,
            timeouts: (None, None),
            has_data: false,
        };
        for entry in &parsed.entries {
            reading.key(entry, &mut loaded)?;
        }
        reading.finish(&mut loaded.config)?;
        Ok(loaded)
    }
}

/// What can be judged only at the end of the file.
struct Reading<'a> {
    name: &'a str,
    port: Option<u16>,
    host: Option<IpAddr>,
    timeouts: (Option<u32>, Option<u32>),
    has_data: bool,
}

impl Reading<'_> {
    fn key(&mut self, entry: &Entry, loaded: &mut Loaded) -> Result<(), ConfigError> {
        let config = &mut loaded.config;
        // -D of a start script and the file name the same setting in two ways.
        let key = entry.key.strip_prefix("zookeeper.").unwrap_or(&entry.key);
        let value = entry.value.trim();
        match key {
            "dataDir" if value.is_empty() => return Err(self.wrong(entry, "a directory")),
            "dataDir" => {
                config.data_dir = PathBuf::from(value);
                self.has_data = true;
            }
            "clientPort" => self.port = Some(self.number(entry, 0, u32::from(u16::MAX))? as u16),
            "clientPortAddress" => self.host = Some(self.host(entry)?),
            "tickTime" => config.tick_ms = self.number(entry, 1, 3_600_000)?,
            "maxClientCnxns" => {
                config.connections_per_address_max = self.number(entry, 0, u32::MAX)?;
            }
            "maxCnxns" => config.connections_max = self.number(entry, 0, u32::MAX)?,
            // -1 stands for the default there.
            "minSessionTimeout" | "maxSessionTimeout" if value == "-1" => {}
            "minSessionTimeout" => {
                self.timeouts.0 = Some(self.number(entry, 1, i32::MAX as u32)?);
            }
            "maxSessionTimeout" => {
                self.timeouts.1 = Some(self.number(entry, 1, i32::MAX as u32)?);
            }
            "4lw.commands.whitelist" => config.words = self.words(entry, &mut loaded.warnings),
            "jute.maxbuffer" => {
                config.packet_bytes_max = self.number(entry, 1024, 1 << 26)? as usize;
            }
            "ringlog.zookeeper.tree.bytes.max" => {
                config.tree_bytes_max = self.number(entry, 1 << 20, u32::MAX)? as usize;
            }
            _ => return self.other_key(key, entry, &mut loaded.warnings),
        }
        Ok(())
    }

    fn other_key(
        &self,
        key: &str,
        entry: &Entry,
        warnings: &mut Vec<String>,
    ) -> Result<(), ConfigError> {
        let value = entry.value.trim();
        if let Some((_, hint)) = REFUSED.iter().find(|(refused, _)| *refused == key)
            && !matches!(value, "" | "false")
        {
            return Err(self.error(entry, format!("{key} is not offered"), (*hint).to_owned()));
        }
        if key.starts_with("server.") {
            let hint = "this service is one node; run Apache ZooKeeper for an ensemble, and name it in \
                        zookeeper.connect";
            return Err(self.error(
                entry,
                format!("{key} describes an ensemble"),
                hint.to_owned(),
            ));
        }
        let is_known = IGNORED.contains(&key) || REFUSED.iter().any(|(refused, _)| *refused == key);
        if !is_known {
            let place = self.place(entry);
            warnings.push(format!(
                "{place}: unknown key '{}' has no effect",
                entry.key.escape_default()
            ));
        }
        Ok(())
    }

    fn finish(self, config: &mut ZookeeperConfig) -> Result<(), ConfigError> {
        let missing = |key: &str, example: &str| ConfigError {
            place: self.name.to_owned(),
            what: format!("{key} is not set"),
            hint: format!("add a line as {key}={example}"),
        };
        if !self.has_data {
            return Err(missing("dataDir", "/tmp/zookeeper"));
        }
        let port = self.port.ok_or_else(|| missing("clientPort", "2181"))?;
        config.address = SocketAddr::new(self.host.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), port);
        config.session_timeout_ms_min = self.timeouts.0.unwrap_or(config.tick_ms.saturating_mul(2));
        config.session_timeout_ms_max =
            self.timeouts.1.unwrap_or(config.tick_ms.saturating_mul(20));
        if config.session_timeout_ms_min > config.session_timeout_ms_max {
            let (min, max) = (config.session_timeout_ms_min, config.session_timeout_ms_max);
            return Err(ConfigError {
                place: self.name.to_owned(),
                what: format!("minSessionTimeout {min} is above maxSessionTimeout {max}"),
                hint: "their defaults are 2 and 20 times tickTime".to_owned(),
            });
        }
        Ok(())
    }

    fn place(&self, entry: &Entry) -> String {
        format!(
            "{}:{}:{}",
            self.name, entry.key_span.line, entry.key_span.column
        )
    }

    fn error(&self, entry: &Entry, what: String, hint: String) -> ConfigError {
        ConfigError {
            place: self.place(entry),
            what,
            hint,
        }
    }

    fn wrong(&self, entry: &Entry, expected: &str) -> ConfigError {
        let what = format!("{}={} is invalid", entry.key, entry.value.escape_default());
        self.error(entry, what, format!("expected {expected}"))
    }

    fn number(&self, entry: &Entry, min: u32, max: u32) -> Result<u32, ConfigError> {
        let number = entry.value.trim().parse().ok();
        let number = number.filter(|number| (min..=max).contains(number));
        number.ok_or_else(|| self.wrong(entry, &format!("a number from {min} to {max}")))
    }

    fn host(&self, entry: &Entry) -> Result<IpAddr, ConfigError> {
        let found = (entry.value.trim(), 0).to_socket_addrs().ok();
        let first = found.and_then(|mut addresses| addresses.next());
        let first = first.map(|address| address.ip());
        first.ok_or_else(|| self.wrong(entry, "an address or name of this machine"))
    }

    fn words(&self, entry: &Entry, warnings: &mut Vec<String>) -> Vec<Word> {
        let mut words = Vec::new();
        for name in entry
            .value
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
        {
            match Word::from_name(name) {
                _ if name == "*" => words = WORDS.to_vec(),
                Some(word) => words.push(word),
                None => {
                    let place = self.place(entry);
                    let name = name.escape_default();
                    warnings.push(format!("{place}: four-letter word '{name}' is not offered"));
                }
            }
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Loaded, ConfigError> {
        ZookeeperConfig::parse("z.properties", text.as_bytes())
    }

    #[test]
    fn the_stock_file_works_without_a_warning() {
        let stock = "# the directory\ndataDir=/tmp/zookeeper\nclientPort=2181\nmaxClientCnxns=0\n\
                     admin.enableServer=false\n# admin.serverPort=8080\n";
        let loaded = parse(stock).unwrap();
        assert_eq!(loaded.warnings, Vec::<String>::new());
        let config = loaded.config;
        assert_eq!(config.data_dir, Path::new("/tmp/zookeeper"));
        assert_eq!(config.address.to_string(), "0.0.0.0:2181");
        assert_eq!(config.connections_per_address_max, 0);
        assert_eq!(
            (config.session_timeout_ms_min, config.session_timeout_ms_max),
            (4000, 40_000)
        );
    }

    #[test]
    fn timeouts_follow_the_tick_unless_set() {
        let base = "dataDir=d\nclientPort=0\nclientPortAddress=127.0.0.1\n";
        let config = parse(&format!(
            "{base}tickTime=100\nminSessionTimeout=-1\nmaxSessionTimeout=9000"
        ))
        .unwrap()
        .config;
        assert_eq!(
            (config.session_timeout_ms_min, config.session_timeout_ms_max),
            (200, 9000)
        );
        assert_eq!(config.address.to_string(), "127.0.0.1:0");
        assert!(parse(&format!("{base}minSessionTimeout=50000")).is_err());
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        let loaded =
            parse("dataDir=d\nclientPort=1\nclientprot=2\n4lw.commands.whitelist=ruok, nope")
                .unwrap();
        assert_eq!(loaded.warnings.len(), 2);
        assert!(loaded.warnings[0].starts_with("z.properties:3:1: unknown key 'clientprot'"));
        assert_eq!(loaded.config.words.len(), 1);
        let text = parse("dataDir=d\nclientPort=70000")
            .unwrap_err()
            .to_string();
        assert!(
            text.starts_with("z.properties:2:1: clientPort=70000 is invalid"),
            "{text}"
        );
        for bad in [
            "clientPort=1",
            "dataDir=d",
            "dataDir=\nclientPort=1",
            "dataDir=d\nclientPort=1\nserver.1=h:1:2",
            "dataDir=d\nclientPort=1\nsecureClientPort=2281",
            "dataDir=d\nclientPort=1\ntickTime=0",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
