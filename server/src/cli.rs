//! The command line: `ringlog`, `ringlog serve`, `ringlog config`, and the exit codes.
//!
//! Errors go to standard error as `error: what` with a line that says what to do; this is the only
//! place that turns an error into an exit code.

mod adopt;
pub mod holder;
pub mod kafka;
mod native;
pub mod port;
pub mod serve;
pub mod tool;
pub mod zookeeper;
pub mod zookeeper_brokers;
pub mod zookeeper_shell;
pub mod zookeeper_topics;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::problem::{Level, quoted};
use crate::config::{BrokerConfig, ConfigError, Layers, Loaded, keys, topic};
use crate::logging;
use crate::serve::ServeError;
use serve::{ServeArgs, ServeFlags};

/// How the process ends. Kafka's codes: 0, and 1 for any failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or stopped by a signal in good order.
    Ok = 0,
    /// Anything else; standard error says what.
    Failure = 1,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A Kafka-compatible log broker on io_uring, a thread per core.
///
/// Without a command it serves with defaults for development: 127.0.0.1:9092, data in ./data.
#[derive(Debug, Parser)]
#[command(name = "ringlog", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: ServeFlags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the broker
    Serve(Box<ServeArgs>),
    /// Run the ZooKeeper service alone
    Zookeeper(zookeeper::ZookeeperArgs),
    /// Explain keys and check files of configuration
    Config(ConfigArgs),
    #[command(flatten)]
    Native(native::Command),
}

#[derive(Debug, Args)]
struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say what a broker or topic key means, its default and what it does here
    Explain {
        /// The key, as in log.segment.bytes
        key: String,
    },
    /// Read a properties file as `serve` would; warnings fail only if they are about unknown keys
    Check {
        /// The properties file
        file: PathBuf,
    },
}

/// Runs the command line of this process. `serve` runs the broker.
pub fn run(serve: fn(BrokerConfig) -> Result<(), ServeError>) -> ExitCode {
    let environment = env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        Some((name, value.into_string().ok()?))
    });
    run_with(env::args_os(), environment.collect(), serve).into()
}

fn run_with(
    args: impl Iterator<Item = OsString>,
    environment: Vec<(String, String)>,
    serve: fn(BrokerConfig) -> Result<(), ServeError>,
) -> Exit {
    let args: Vec<OsString> = args.collect();
    if let Some(exit) = run_by_name(&args) {
        return exit;
    }
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                Exit::Failure
            } else {
                Exit::Ok
            };
        }
    };
    match cli.command {
        None => run_serve(cli.flags, None, environment, serve),
        Some(Command::Serve(args)) => run_serve(args.flags, args.config, environment, serve),
        Some(Command::Zookeeper(args)) => run_zookeeper(args, &environment),
        Some(Command::Config(args)) => match args.command {
            ConfigCommand::Explain { key } => explain(&key),
            ConfigCommand::Check { file } => check(&file),
        },
        Some(Command::Native(command)) => {
            native::run(command, <Cli as clap::CommandFactory>::command)
        }
    }
}

/// Kafka's own tools, by the name of the program (a link `kafka-topics.sh`) or the first argument
/// (`ringlog kafka-topics ..`, as the shims in `bin/` do): their flags are not clap's.
fn run_by_name(args: &[OsString]) -> Option<Exit> {
    let text = |index: usize| args.get(index)?.to_str();
    let (name, rest) = match text(0).filter(|name| is_tool(name)) {
        Some(name) => (name, 1),
        None => (text(1).filter(|name| is_tool(name))?, 2),
    };
    let rest = args.get(rest..).unwrap_or_default();
    let mut words = Vec::new();
    for word in rest {
        match word.to_str() {
            Some(word) => words.push(word.to_owned()),
            None => return Some(fail(&format!("{} is no UTF-8", word.to_string_lossy()))),
        }
    }
    match kafka::find(name) {
        Some(tool) => Some(kafka::run(tool, &words)),
        None => Some(zookeeper_shell::run(&words)),
    }
}

fn is_tool(name: &str) -> bool {
    kafka::find(name).is_some() || zookeeper_shell::is_name(name)
}

fn run_serve(
    mut flags: ServeFlags,
    file: Option<PathBuf>,
    environment: Vec<(String, String)>,
    serve: fn(BrokerConfig) -> Result<(), ServeError>,
) -> Exit {
    if let Err(message) = begin_log(&environment) {
        return fail(&message);
    }
    let port_file = flags.port_file.clone();
    if let Some(adopted) = flags.adopt.as_ref().filter(|_| flags.in_place) {
        flags
            .overrides
            .push(format!("log.dirs={}", adopted.display()));
        flags.adopt = None;
    }
    let ephemeral = match flags.ephemeral.then(temporary_directory).transpose() {
        Ok(directory) => directory,
        Err(error) => return fail(&format!("no temporary directory: {error}")),
    };
    if let Some(directory) = &ephemeral {
        logging::use_stderr();
        flags.data_dir = Some(directory.display().to_string());
        flags.listen = Some("127.0.0.1:0".to_owned());
        flags.zookeeper_port = Some("0".to_owned());
    }
    let exit = load_and_serve(flags, file, environment, port_file, serve);
    if let Some(directory) = ephemeral {
        // What is left is in the system's temporary directory.
        let _ = std::fs::remove_dir_all(directory);
    }
    exit
}

fn temporary_directory() -> io::Result<PathBuf> {
    let name = format!("ringlog-{}-{:08x}", std::process::id(), fastrand::u32(..));
    let path = env::temp_dir().join(name);
    std::fs::create_dir(&path)?;
    Ok(path)
}

fn load_and_serve(
    flags: ServeFlags,
    file: Option<PathBuf>,
    environment: Vec<(String, String)>,
    port_file: Option<PathBuf>,
    serve: fn(BrokerConfig) -> Result<(), ServeError>,
) -> Exit {
    let is_ephemeral = flags.ephemeral;
    let adopted = flags.adopt.clone();
    match BrokerConfig::load(&flags.into_layers(file, environment)) {
        Ok(Loaded { mut config, notes }) => {
            for note in &notes {
                note.log();
            }
            config.port_file = port_file;
            config.is_ephemeral = is_ephemeral;
            if let Some(from) = adopted
                && let Err(message) = adopt::adopt(&from, &config.log_dirs[0], config.node_id)
            {
                return fail(&message);
            }
            match serve(config) {
                Ok(()) => Exit::Ok,
                Err(error) => fail(&error.to_string()),
            }
        }
        Err(error) => fail_config(&error),
    }
}

fn begin_log(environment: &[(String, String)]) -> Result<(), String> {
    let level = environment
        .iter()
        .find(|(name, _)| name == logging::LEVEL_ENV);
    logging::init(level.map(|(_, value)| value.as_str()))
}

fn run_zookeeper(args: zookeeper::ZookeeperArgs, environment: &[(String, String)]) -> Exit {
    match begin_log(environment).and_then(|()| zookeeper::run(args)) {
        Ok(()) => Exit::Ok,
        Err(message) => fail(&message),
    }
}

fn explain(name: &str) -> Exit {
    let name = name.trim();
    let mut text = keys::find(name)
        .map(ToString::to_string)
        .unwrap_or_default();
    if let Some(key) = topic::find(name) {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&key.to_string());
    }
    if !text.is_empty() {
        return print(&text);
    }
    let hint = match keys::nearest(name).or_else(|| topic::nearest(name)) {
        Some(nearest) => format!("did you mean '{nearest}'?"),
        None => "Kafka 3.9 has no such key, nor does ringlog".to_owned(),
    };
    fail(&format!("unknown key '{}'\n   | {hint}", quoted(name)))
}

fn check(file: &Path) -> Exit {
    let layers = Layers {
        file: Some(file.to_owned()),
        ..Layers::default()
    };
    match BrokerConfig::load(&layers) {
        Ok(Loaded { notes, .. }) => {
            // Whoever asks for a check wants to hear of a slip before the broker shrugs it off.
            let has_unknown = notes.iter().any(|note| note.is_unknown_key);
            for mut note in notes {
                if note.is_unknown_key {
                    note.level = Level::Error;
                }
                eprintln!("{note}");
            }
            if has_unknown {
                return Exit::Failure;
            }
            print(&format!("{}: ok\n", file.display()))
        }
        Err(error) => fail_config(&error),
    }
}

fn print(text: &str) -> Exit {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Exit::Ok,
        Err(_) => Exit::Failure,
    }
}

fn fail(message: &str) -> Exit {
    eprintln!("error: {message}");
    Exit::Failure
}

/// The findings carry their own labels.
fn fail_config(error: &ConfigError) -> Exit {
    eprintln!("{error}");
    Exit::Failure
}

#[cfg(test)]
mod tests;
