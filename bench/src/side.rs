//! A side of a comparison, or a target of the tutorial: which broker, and what is its own.
//!
//! `ringlog`, `ringlog=FILE` (another build), `kafka`, `kafka=VERSION`, or `HOST:PORT` and `HOST:PORT@PID`
//! (one that runs).

use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;

use crate::failure::Failure;
use crate::startup;
use crate::target::{Durability, Kind, SpawnArgs, Target};
use crate::transport::Transport;

/// One side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Side {
    /// Our binary, or another build of it.
    Ringlog(Option<PathBuf>),
    /// Apache Kafka, of a version.
    Kafka(Option<String>),
    /// One that runs, and its process.
    Running(String, Option<u32>),
}

impl FromStr for Side {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        match (name, value) {
            ("ringlog", binary) => Ok(Self::Ringlog(binary.map(PathBuf::from))),
            ("kafka", version) => Ok(Self::Kafka(version.map(str::to_owned))),
            (address, None) if address.contains(':') => match address.split_once('@') {
                None => Ok(Self::Running(address.to_owned(), None)),
                Some((address, pid)) => match pid.parse() {
                    Ok(pid) => Ok(Self::Running(address.to_owned(), Some(pid))),
                    Err(_) => Err(format!("{pid:?} is no process id")),
                },
            },
            _ => Err("a side is ringlog[=FILE], kafka[=VERSION] or HOST:PORT[@PID]".to_owned()),
        }
    }
}

impl std::fmt::Display for Side {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ringlog(None) => out.write_str("ringlog"),
            Self::Ringlog(Some(binary)) => write!(out, "ringlog={}", binary.display()),
            Self::Kafka(None) => out.write_str("kafka"),
            Self::Kafka(Some(version)) => write!(out, "kafka={version}"),
            Self::Running(address, _) => out.write_str(address),
        }
    }
}

impl Side {
    /// A broker that answers.
    pub(crate) async fn start<T: Transport>(
        &self,
        durability: Durability,
        spawn_args: &SpawnArgs,
    ) -> Result<Target, Failure> {
        let mut spawn_args = spawn_args.clone();
        let kind = match self {
            Self::Running(address, pid) => return Target::foreign(address, *pid),
            Self::Ringlog(binary) => {
                spawn_args.ringlog = binary.clone().or(spawn_args.ringlog);
                Kind::Ringlog
            }
            Self::Kafka(version) => {
                if let Some(version) = version {
                    spawn_args.kafka_version.clone_from(version);
                }
                Kind::Kafka
            }
        };
        let target = Target::spawn(kind, durability, &spawn_args).await?;
        startup::first_answer::<T>(&target).await?;
        Ok(target)
    }
}

/// What one side has of its own.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    /// A shell command before each of its runs.
    pub(crate) setup: Option<String>,
    /// More arguments of its broker.
    pub(crate) arguments: Vec<String>,
    /// What acks=all is to mean, if not what it means for both.
    pub(crate) durability: Option<Durability>,
}

impl Settings {
    /// Runs the command.
    pub(crate) fn prepare(&self) -> Result<(), Failure> {
        let Some(setup) = &self.setup else {
            return Ok(());
        };
        let status = Command::new("sh").args(["-c", setup]).status();
        let status = status.map_err(Failure::system(format!("starting sh -c {setup:?}")))?;
        match status.success() {
            true => Ok(()),
            false => Err(Failure::Target(format!("`{setup}` ended with {status}"))),
        }
    }

    /// The common arguments and its own.
    pub(crate) fn spawn_args(&self, common: &SpawnArgs) -> SpawnArgs {
        let mut spawn_args = common.clone();
        spawn_args.broker_arg.extend(self.arguments.iter().cloned());
        spawn_args
    }

    /// The side as tables and results name it.
    pub(crate) fn named(&self, side: &Side) -> String {
        let mut name = side.to_string();
        for argument in &self.arguments {
            name.push_str(&format!(" {argument}"));
        }
        if let Some(durability) = self.durability {
            name.push_str(&format!(", {}", durability.name()));
        }
        if let Some(setup) = &self.setup {
            name.push_str(&format!(", after `{setup}`"));
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_read() {
        let side = |text: &str| text.parse::<Side>();
        assert_eq!(side("ringlog"), Ok(Side::Ringlog(None)));
        let build = PathBuf::from("/tmp/x/ringlog");
        assert_eq!(
            side("ringlog=/tmp/x/ringlog"),
            Ok(Side::Ringlog(Some(build)))
        );
        assert_eq!(
            side("kafka=4.1.0"),
            Ok(Side::Kafka(Some("4.1.0".to_owned())))
        );
        let running = |pid| Ok(Side::Running("127.0.0.1:9092".to_owned(), pid));
        assert_eq!(side("127.0.0.1:9092"), running(None));
        assert_eq!(side("127.0.0.1:9092@17"), running(Some(17)));
        assert!(side("127.0.0.1:9092@x").is_err());
        assert!(side("redpanda").is_err());
    }

    #[test]
    fn what_a_side_has_of_its_own_is_in_its_name_and_a_setup_that_fails_ends_it() {
        let settings = Settings {
            setup: Some("exit 3".to_owned()),
            arguments: vec!["--io=poll".to_owned()],
            durability: Some(Durability::Durable),
        };
        let name = settings.named(&Side::Ringlog(None));
        assert_eq!(name, "ringlog --io=poll, durable, after `exit 3`");
        let failure = settings.prepare().unwrap_err().to_string();
        assert!(failure.contains("exit 3"), "{failure}");
        assert!(Settings::default().prepare().is_ok());
    }
}
