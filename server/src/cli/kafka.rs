//! The tools of Kafka's `bin/`, by their own names, flags, texts and exit codes: what the shims in
//! `bin/` call as `ringlog kafka-topics ARGS...`, and what a link named `kafka-topics.sh` runs.
//!
//! Flags of 0.10 up to 4.x are all taken. What the stock tools print to standard output is printed
//! byte for byte; usage texts are our own words.

pub mod broker_api_versions;
pub mod configs;
pub mod console_consumer;
pub mod console_producer;
pub mod consumer_groups;
pub mod consumer_perf;
pub mod delete_groups;
pub mod delete_records;
pub mod dump_log;
pub mod get_offsets;
pub mod log_dirs;
pub mod message_formatter;
pub mod options;
pub mod producer_perf;
pub mod reset_offsets;
pub mod topics;

use std::io::{self, Write};

use super::Exit;
use super::tool::{ToolError, ToolResult, stdout};
use options::{Options, Spec};

/// What one tool is.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// Kafka's name without `.sh`.
    pub name: &'static str,
    /// One line on what it does.
    pub about: &'static str,
    /// Its flags.
    pub options: &'static [Spec],
    /// Runs it.
    pub run: fn(&Options, &mut dyn Write) -> ToolResult<Exit>,
    /// Turns an error into what Kafka's tool prints.
    pub tell: fn(&Options, &ToolError, &mut dyn Write, &mut dyn Write) -> io::Result<()>,
}

/// All of them.
pub const TOOLS: &[Tool] = &[
    topics::TOOL,
    console_producer::TOOL,
    console_consumer::TOOL,
    consumer_groups::TOOL,
    configs::TOOL,
    get_offsets::TOOL,
    delete_records::TOOL,
    log_dirs::TOOL,
    dump_log::TOOL,
    broker_api_versions::TOOL,
    producer_perf::TOOL,
    consumer_perf::TOOL,
];

/// The tool of a program name or first argument: `/x/kafka-topics.sh` or `kafka-topics`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Tool> {
    let name = name.rsplit('/').next().unwrap_or(name);
    let name = name.strip_suffix(".sh").unwrap_or(name);
    TOOLS.iter().find(|tool| tool.name == name)
}

/// Runs a tool with its arguments.
#[must_use]
pub fn run(tool: &Tool, args: &[String]) -> Exit {
    let mut out = stdout();
    let exit = run_with(tool, args, &mut out, &mut io::stderr());
    // A closed pipe is how `| head` ends a tool.
    let _ = out.flush();
    exit
}

/// [`run`] with other outputs, for tests.
pub fn run_with(tool: &Tool, args: &[String], out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    if args.is_empty() || args.iter().any(|arg| arg == "--help") {
        let _ = usage(tool, tool.about, err);
        return Exit::Failure;
    }
    if args.iter().any(|arg| arg == "--version") {
        let _ = writeln!(out, "{} (ringlog)", env!("CARGO_PKG_VERSION"));
        return Exit::Ok;
    }
    let options = match Options::parse(tool.options, args) {
        Ok(options) => options,
        Err(message) => {
            let _ = usage(tool, &message, err);
            return Exit::Failure;
        }
    };
    match (tool.run)(&options, out) {
        Ok(exit) => exit,
        Err(ToolError::Usage(message)) => {
            let _ = usage(tool, &message, err);
            Exit::Failure
        }
        Err(ToolError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
        Err(error) => {
            let _ = (tool.tell)(&options, &error, out, err);
            Exit::Failure
        }
    }
}

/// The message first, as Kafka has it, then the flags.
fn usage(tool: &Tool, message: &str, err: &mut dyn Write) -> io::Result<()> {
    writeln!(err, "{message}")?;
    writeln!(err, "{:<40} Description", "Option")?;
    writeln!(err, "{:<40} -----------", "------")?;
    for spec in tool.options {
        let flag = match spec.value {
            "" => format!("--{}", spec.name),
            value => format!("--{} <{value}>", spec.name),
        };
        writeln!(err, "{flag:<40} {}", spec.help)?;
    }
    Ok(())
}

/// An error on standard error as it is, for tools that do no more.
///
/// # Errors
/// If standard error is closed.
pub fn tell_plainly(
    _options: &Options,
    error: &ToolError,
    _out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<()> {
    writeln!(err, "{error}")
}

/// `key=value` lines of a properties file, for `--command-config` and the like.
///
/// # Errors
/// If it cannot be read or parsed.
pub fn load_properties(path: &str) -> ToolResult<Vec<(String, String)>> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ToolError::failed(format!("cannot read {path}: {error}")))?;
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with(['#', '!']));
    let pairs = lines.filter_map(|line| line.split_once('='));
    Ok(pairs
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .collect())
}

/// The broker list: the flag, under any of its names, or the config file's `bootstrap.servers`.
///
/// # Errors
/// A usage error if there is none, or the file cannot be read.
pub fn bootstrap(options: &Options) -> ToolResult<String> {
    for name in ["bootstrap-server", "broker-list"] {
        if let Some(list) = options.last(name) {
            return Ok(list.to_owned());
        }
    }
    if let Some(path) = options.last("command-config") {
        let found = load_properties(path)?;
        let server = found
            .into_iter()
            .find(|(key, _)| key == "bootstrap.servers");
        if let Some((_, server)) = server {
            return Ok(server);
        }
    }
    Err(ToolError::Usage(
        "Missing required argument \"[bootstrap-server]\"".to_owned(),
    ))
}
