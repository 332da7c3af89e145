//! `ringlog-bench`: loads a Kafka broker from outside, checks what it kept, and tells what it cost.
//!
//! ```text
//! cli        flags -> workload     marks, startup   the project's own tables
//! gate       against the committed baseline, for CI
//! compare    two brokers in turns      statistics   ratios, intervals, verdicts
//! self_test  known stalls of a broker, measured and computed
//! target     starts the broker     run              warm up, measure, verify
//! workload   batches, pre-built    produce, fetch   the hot path, over frames and transport
//! schedule   when requests leave   phase            window, counters, limits
//! verify     count, order, bytes   resources        CPU, memory, both sides
//! client     control requests      report           what a result is: document, summary, lines
//! folder     of a result           environment      where it was measured
//! series     what happened when    hdr              histograms as text, and interval logs
//! html       one page of results   redraw, import   results that are there, or other tools'
//! ```
//! Invariants: nothing on the hot path encodes, allocates per record or asks the server's code; every
//! number comes with its verification; a failed or invalid run exits with a code that is not 0.
//! Exit codes: 0 valid, 1 failed or invalid, 2 usage (clap's); of `compare` also 3 slower, 4 cannot tell.
#![forbid(unsafe_code)]

mod cli;
mod client;
mod commands;
mod compare;
mod consume;
mod environment;
mod failure;
mod fetch;
mod folder;
mod frames;
mod gate;
mod group;
mod hdr;
mod html;
mod import;
mod limits;
mod live;
mod marks;
mod patch;
mod phase;
mod produce;
mod progress;
mod records;
mod redraw;
mod report;
mod resources;
mod run;
mod schedule;
mod self_test;
mod series;
mod side;
mod startup;
mod statistics;
mod sweep;
mod table;
mod target;
mod transport;
mod tutorial;
mod verify;
mod workload;

use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use cli::{Cli, Command, Io, StartupArgs, TargetArgs};
use environment::Environment;
use failure::Failure;
use report::{Document, Spread, say};
use startup::Start;
use target::Target;
use transport::{Epoll, Transport, Uring};

fn main() -> ExitCode {
    let words = match cli::preset::expand(std::env::args().collect()) {
        Ok(words) => words,
        Err(what) => {
            complain(&Failure::Usage(what));
            return ExitCode::from(2);
        }
    };
    let cli = Cli::parse_from(words);
    if cli.quiet {
        progress::be_quiet();
    }
    if cli.count_system_calls {
        resources::request_system_calls();
    }
    // What loads nothing needs no ring.
    let io = match cli.command {
        Command::Report(_)
        | Command::Import(_)
        | Command::Env(_)
        | Command::SendfileLoop { .. } => Io::Epoll,
        _ => cli.io,
    };
    let result = match io {
        Io::Uring => transport::run_uring(execute::<Uring>(cli.command)),
        Io::Epoll => transport::run_epoll(execute::<Epoll>(cli.command)),
    };
    match result.map_err(Failure::system("starting the generator")) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) | Err(failure) => {
            complain(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

#[expect(clippy::print_stderr, reason = "the one place where failures are told")]
fn complain(failure: &Failure) {
    eprintln!("ringlog-bench: {failure}");
}

/// A signal drops the command, and with it the broker that it started.
async fn execute<T: Transport>(command: Command) -> Result<(), Failure> {
    let signal = |kind| signal(kind).map_err(Failure::system("listening to signals"));
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = run_command::<T>(command) => result,
        _ = interrupt.recv() => Err(Failure::Interrupted),
        _ = terminate.recv() => Err(Failure::Interrupted),
    }
}

async fn run_command<T: Transport>(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(args) => commands::run::<T>(&args).await,
        Command::Tutorial(args) => {
            pin(args.spawn_args.no_pin)?;
            tutorial::tutorial::<T>(&args).await
        }
        Command::Produce(args) => commands::produce::<T>(&args).await,
        Command::Sweep(args) => sweep::sweep::<T>(&args).await,
        Command::Max(args) => sweep::max::<T>(&args).await,
        Command::Fetch(args) => commands::fetch::<T>(&args).await,
        Command::Startup(args) => startup::<T>(&args).await,
        Command::Marks(args) => {
            pin(args.spawn_args.no_pin)?;
            marks::marks::<T>(&args).await
        }
        Command::Limits(args) => {
            pin(args.spawn_args.no_pin)?;
            limits::limits::<T>(&args).await
        }
        Command::Compare(args) => {
            pin(args.load.target.spawn_args.no_pin)?;
            compare::compare::<T>(&args).await
        }
        Command::SelfTest(args) => {
            pin(args.spawn_args.no_pin)?;
            self_test::self_test::<T>(&args).await
        }
        Command::Gate(args) => {
            pin(args.spawn_args.no_pin)?;
            gate::gate::<T>(&args).await
        }
        Command::Report(args) => redraw::report(&args),
        Command::Import(args) => import::import(&args),
        Command::Env(args) => redraw::env(&args),
        Command::SendfileLoop { files } => limits::sendfile_loop(&files),
    }
}

/// Does nothing to a machine with one CPU.
fn pin(no_pin: bool) -> Result<(), Failure> {
    if !no_pin {
        target::pin_generator()?;
    }
    Ok(())
}

async fn begin(args: &TargetArgs) -> Result<(Target, Environment), Failure> {
    pin(args.spawn_args.no_pin)?;
    let target = match &args.bootstrap {
        Some(bootstrap) => Target::foreign(bootstrap, args.pid)?,
        None => Target::spawn(args.spawn, args.durability, &args.spawn_args).await?,
    };
    Ok((target, Environment::capture(&args.spawn_args.work_dir())))
}

#[derive(Serialize)]
struct StartupBody {
    io: &'static str,
    target: String,
    first_produce_ms: Spread,
    idle_resident_mib: Spread,
    idle_wake_ups_per_s: Spread,
    starts: Vec<Start>,
}

async fn startup<T: Transport>(args: &StartupArgs) -> Result<(), Failure> {
    pin(args.spawn_args.no_pin)?;
    let folder = args.output.claim()?;
    let environment = Environment::capture(&args.spawn_args.work_dir());
    let mut starts = Vec::new();
    let mut command = String::new();
    for _ in 0..args.runs {
        let target = Target::spawn(args.spawn, args.durability, &args.spawn_args).await?;
        starts.push(startup::measure::<T>(&target).await?);
        command.clone_from(&target.command);
        target.stop()?;
    }
    let spread = |value: fn(&Start) -> f64| {
        let values: Vec<_> = starts.iter().map(value).collect();
        Spread::of(&values).ok_or_else(|| Failure::Usage("--runs must be at least 1".to_owned()))
    };
    let first_produce_ms = spread(|start| start.first_produce_ms)?;
    let idle_resident_mib = spread(|start| start.idle_resident_mib)?;
    let idle_wake_ups_per_s = spread(|start| start.idle_wake_ups_per_s)?;
    for (name, unit, spread) in [
        (
            "start to first acknowledged produce",
            "ms",
            first_produce_ms,
        ),
        ("idle resident memory", "MiB", idle_resident_mib),
        ("idle wake-ups", "1/s", idle_wake_ups_per_s),
    ] {
        say(&format!(
            "{name}: median {:.1} {unit}, min {:.1}, max {:.1}, {} runs",
            spread.median, spread.min, spread.max, spread.runs
        ));
    }
    if let Some(folder) = &folder {
        let body = StartupBody {
            io: T::NAME,
            target: command,
            first_produce_ms,
            idle_resident_mib,
            idle_wake_ups_per_s,
            starts,
        };
        Document::new("startup", environment, Vec::new(), body).write(folder)?;
    }
    Ok(())
}
