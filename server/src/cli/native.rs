//! The subcommands for a person: the same work as Kafka's tools, with flags that need no manual.

mod completions;
mod configs;
mod consume;
mod doctor;
mod dump;
mod fsck;
mod groups;
mod offsets;
mod produce;
mod top;
mod topics;

use clap::{Args, Subcommand};

use super::Exit;
use super::kafka;
use super::tool::{ToolResult, finish};
use crate::client::Client;

/// Subcommands beside `serve` and `config`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List, create, describe, grow and delete topics
    Topics(topics::TopicsArgs),
    /// Send lines of standard input, or one value, to a topic
    Produce(produce::ProduceArgs),
    /// Show records of a topic
    Consume(consume::ConsumeArgs),
    /// Follow a topic: new records as they come
    Tail(consume::ConsumeArgs),
    /// List consumer groups, show their lag
    Groups(groups::GroupsArgs),
    /// Show and change configs of topics and brokers
    Configs(configs::ConfigsArgs),
    /// First and next offset of every partition
    Offsets(offsets::OffsetsArgs),
    /// Delete the records before an offset
    DeleteRecords(offsets::DeleteArgs),
    /// Sizes of partitions on disk, as the brokers tell them
    LogDirs(ServerArgs),
    /// Show segment and index files, offline
    Dump(dump::DumpArgs),
    /// Check a data directory offline: every damaged batch by file, position, offset and reason
    Fsck(fsck::FsckArgs),
    /// Which requests every broker speaks
    ApiVersions(ServerArgs),
    /// Measure producing: as kafka-producer-perf-test
    PerfProduce(PerfArgs),
    /// Measure consuming: as kafka-consumer-perf-test
    PerfConsume(PerfArgs),
    /// Look whether this machine is fit: kernel, io_uring, limits, disk
    Doctor(doctor::DoctorArgs),
    /// Print what doctor would change, as a script: reasons, commands, and how to undo them
    Tune(doctor::TuneArgs),
    /// Show live what the shards of a broker do
    Top(top::TopArgs),
    /// Print completions for a shell
    Completions(completions::CompletionsArgs),
    /// Write the man pages
    Man(completions::ManArgs),
}

/// The broker, for commands that need no more.
#[derive(Clone, Debug, Args)]
pub(super) struct ServerArgs {
    /// Broker to talk to
    #[arg(
        short = 'b',
        long,
        alias = "broker-list",
        value_name = "HOST:PORT",
        default_value = "localhost:9092",
        global = true
    )]
    bootstrap_server: String,
}

impl ServerArgs {
    fn connect(&self) -> ToolResult<Client> {
        Ok(Client::connect(&self.bootstrap_server, "ringlog")?)
    }
}

/// Arguments that go to Kafka's tool as they are.
#[derive(Debug, Args)]
pub(super) struct PerfArgs {
    /// Flags of the stock tool; --help lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Runs one; `cli` is the whole command line, for completions and man pages.
pub(super) fn run(command: Command, cli: impl Fn() -> clap::Command) -> Exit {
    let by_name = |name: &str, args: &[String]| match kafka::find(name) {
        Some(tool) => kafka::run(tool, args),
        None => super::fail(&format!("{name} is no tool")),
    };
    let server = |args: &ServerArgs, more: &[&str]| {
        let mut words = vec![
            "--bootstrap-server".to_owned(),
            args.bootstrap_server.clone(),
        ];
        words.extend(more.iter().map(|word| (*word).to_owned()));
        words
    };
    match command {
        Command::Topics(args) => finish(topics::run(&args)),
        Command::Produce(args) => finish(produce::run(&args)),
        Command::Consume(args) => finish(consume::run(&args, false)),
        Command::Tail(args) => finish(consume::run(&args, true)),
        Command::Groups(args) => finish(groups::run(&args)),
        Command::Configs(args) => finish(configs::run(&args)),
        Command::Offsets(args) => finish(offsets::run(&args)),
        Command::DeleteRecords(args) => finish(offsets::run_delete(&args)),
        Command::LogDirs(args) => by_name("kafka-log-dirs", &server(&args, &["--describe"])),
        Command::Dump(args) => finish(dump::run(&args)),
        Command::Fsck(args) => fsck::run(&args),
        Command::ApiVersions(args) => by_name("kafka-broker-api-versions", &server(&args, &[])),
        Command::PerfProduce(args) => by_name("kafka-producer-perf-test", &args.args),
        Command::PerfConsume(args) => by_name("kafka-consumer-perf-test", &args.args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Tune(args) => doctor::tune(&args),
        Command::Top(args) => finish(top::run(&args)),
        Command::Completions(args) => finish(completions::run(&args, cli())),
        Command::Man(args) => finish(completions::run_man(&args, cli())),
    }
}
