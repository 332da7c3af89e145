//! The project's marks, Ringlog and Apache Kafka in turns (A B, B A, ..), as one table.
//!
//! Every repetition starts a fresh broker for each promise (page-cache, durable) and takes all
//! measurements on it: start, idle memory and wake-ups, then the loads.

mod loads;

use serde::Serialize;
use serde_json::Map;

use crate::cli::MarksArgs;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::folder::Folder;
use crate::report::{Document, Latency, Measurement, Spread, Summary, say};
use crate::run::{Broker, Run};
use crate::startup::{self, Start};
use crate::table::{Cell, Table};
use crate::target::{Durability, Kind, Target};
use crate::transport::Transport;
use loads::{LOADS, Load, Loaded};

/// One fresh broker and all that was measured on it.
#[derive(Debug, Serialize)]
struct Round {
    target: Kind,
    durability: Durability,
    repetition: usize,
    command: String,
    start: Start,
    // These are the result's measurements.
    #[serde(skip)]
    loads: Vec<Loaded>,
}

impl Round {
    fn measurements(&self, repetitions: usize) -> Vec<Measurement> {
        let of = format!("{:?} {}", self.target, self.durability.name());
        let number = self.repetition + 1;
        let measured = self.loads.iter().map(|loaded| {
            let load = loaded.load.name();
            let label = format!("{of}, {load} {number}/{repetitions}");
            Measurement::new(&label, &self.command, Map::new(), loaded.summary.clone())
                .with_end_to_end(loaded.end_to_end.clone())
                .in_group(&format!("{of}, {load}"))
                .without_timeline()
        });
        measured.collect()
    }

    fn loaded(&self, load: Load) -> Option<&Loaded> {
        self.loads.iter().find(|loaded| loaded.load == load)
    }

    fn summary(&self, load: Load) -> Option<&Summary> {
        Some(&self.loaded(load)?.summary)
    }

    fn end_to_end(&self) -> Option<&Latency> {
        self.loaded(Load::EndToEnd)?.end_to_end.as_ref()
    }
}

/// What the project sets itself.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Mark {
    /// At most so much.
    AtMost(f64),
    /// Kafka's median is at least so many times ours.
    Times(f64),
}

impl Mark {
    fn text(self, unit: &str) -> String {
        match self {
            Mark::AtMost(most) => format!("<= {most} {unit}"),
            Mark::Times(times) => format!("Kafka >= {times}x"),
        }
    }

    fn is_reached(self, row: &Row) -> Option<bool> {
        match self {
            Mark::AtMost(most) => row.ringlog.map(|spread| spread.median <= most),
            Mark::Times(times) => row.kafka_to_ringlog.map(|ratio| ratio >= times),
        }
    }
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    unit: &'static str,
    durability: Durability,
    /// Less is better.
    mark: Option<Mark>,
    ringlog: Option<Spread>,
    kafka: Option<Spread>,
    /// Kafka's median divided by Ringlog's.
    kafka_to_ringlog: Option<f64>,
}

impl Row {
    /// The mark, and whether it is reached.
    fn mark_text(&self) -> Option<String> {
        let mark = self.mark?;
        let verdict = match mark.is_reached(self) {
            None => "",
            Some(true) => ": reached",
            Some(false) => ": NOT REACHED",
        };
        Some(mark.text(self.unit) + verdict)
    }
}

#[derive(Debug, Serialize)]
struct Marks {
    io: &'static str,
    repetitions: usize,
    warm_up_s: f64,
    duration_s: f64,
    seed: u64,
    table: Vec<Row>,
    rounds: Vec<Round>,
}

impl Marks {
    fn measurements(&self) -> Vec<Measurement> {
        let rounds = self.rounds.iter();
        let of = |round: &Round| round.measurements(self.repetitions);
        rounds.flat_map(of).collect()
    }

    fn report_table(&self) -> Table {
        let columns = [
            "measure",
            "promise",
            "mark",
            "Ringlog",
            "Apache Kafka",
            "Kafka / Ringlog",
        ];
        let spread = |spread: Option<Spread>| spread.map_or(Cell::Nothing(()), Cell::Spread);
        let row = |row: &Row| {
            let mark = row.mark_text();
            vec![
                Cell::Text(format!("{}, {}", row.name, row.unit)),
                Cell::from(row.durability.name()),
                mark.map_or(Cell::Nothing(()), Cell::Text),
                spread(row.ringlog),
                spread(row.kafka),
                Cell::of(row.kafka_to_ringlog),
            ]
        };
        Table {
            title: "Marks".to_owned(),
            columns: columns.map(str::to_owned).to_vec(),
            rows: self.table.iter().map(row).collect(),
            notes: cell_notes(),
        }
    }
}

/// A row of the table in the making.
struct Measure {
    name: &'static str,
    unit: &'static str,
    /// For page-cache and durable.
    marks: [Option<Mark>; 2],
    value: fn(&Round) -> Option<f64>,
}

const fn measure(
    name: &'static str,
    unit: &'static str,
    marks: [Option<Mark>; 2],
    value: fn(&Round) -> Option<f64>,
) -> Measure {
    Measure {
        name,
        unit,
        marks,
        value,
    }
}

const fn at_most(most: f64) -> Option<Mark> {
    Some(Mark::AtMost(most))
}

const fn times(times: f64) -> Option<Mark> {
    Some(Mark::Times(times))
}

/// The marks first, then what helps to read them.
const MEASURES: [Measure; 17] = [
    measure(
        "start to first acknowledged produce",
        "ms",
        [at_most(10.0); 2],
        |round| Some(round.start.first_produce_ms),
    ),
    measure("idle resident memory", "MiB", [at_most(15.0); 2], |round| {
        Some(round.start.idle_resident_mib)
    }),
    measure("idle wake-ups of all threads", "1/s", [None; 2], |round| {
        Some(round.start.idle_wake_ups_per_s)
    }),
    measure(
        "broker CPU per 1-record produce request, 16 connections",
        "us",
        [at_most(3.5), None],
        |round| round.summary(Load::OneRecord)?.broker_cpu_us_per_request,
    ),
    measure(
        "broker CPU to produce 1 KiB records in 16 KiB batches",
        "s/GB",
        [at_most(0.75), at_most(1.1)],
        |round| round.summary(Load::Batches16KiB)?.broker_cpu_s_per_gigabyte,
    ),
    measure(
        "broker CPU to produce 1 KiB records in 1 MB batches",
        "s/GB",
        [at_most(0.5), None],
        |round| round.summary(Load::Batches1MB)?.broker_cpu_s_per_gigabyte,
    ),
    measure(
        "broker CPU to produce a million 100-byte records in 16 KiB batches",
        "s",
        [times(8.0), None],
        |round| {
            round
                .summary(Load::SmallRecords)?
                .broker_cpu_s_per_million_records
        },
    ),
    measure("broker CPU to fetch hot data", "s/GB", [None; 2], |round| {
        round.summary(Load::HotFetch)?.broker_cpu_s_per_gigabyte
    }),
    measure(
        "broker CPU of a message from a producer to a waiting consumer, 10,000/s",
        "us",
        [times(5.0), None],
        |round| round.summary(Load::EndToEnd)?.broker_cpu_us_per_request,
    ),
    measure(
        "end to end at 10,000/s, p50",
        "ms",
        [None, at_most(0.4)],
        |round| Some(round.end_to_end()?.p50_us / 1e3),
    ),
    measure(
        "end to end at 10,000/s, p99",
        "ms",
        [None, at_most(3.0)],
        |round| Some(round.end_to_end()?.p99_us / 1e3),
    ),
    measure(
        "end to end at 10,000/s, p99.9",
        "ms",
        [None, at_most(8.0)],
        |round| Some(round.end_to_end()?.p99_9_us / 1e3),
    ),
    measure(
        "1-record requests (closed loop)",
        "1/s",
        [None; 2],
        |round| {
            let summary = round.summary(Load::OneRecord)?;
            Some(summary.requests as f64 / summary.elapsed_s)
        },
    ),
    measure("16 KiB batches (closed loop)", "MB/s", [None; 2], |round| {
        Some(round.summary(Load::Batches16KiB)?.megabytes_per_s)
    }),
    measure("1 MB batches (closed loop)", "MB/s", [None; 2], |round| {
        Some(round.summary(Load::Batches1MB)?.megabytes_per_s)
    }),
    measure(
        "100-byte records in 16 KiB batches (closed loop)",
        "1/s",
        [None; 2],
        |round| Some(round.summary(Load::SmallRecords)?.records_per_s),
    ),
    measure("hot fetch (closed loop)", "MB/s", [None; 2], |round| {
        Some(round.summary(Load::HotFetch)?.megabytes_per_s)
    }),
];

/// Measures everything and writes the result's folder.
pub(crate) async fn marks<T: Transport>(args: &MarksArgs) -> Result<(), Failure> {
    if args.repetitions == 0 || args.targets.is_empty() {
        return Err(Failure::Usage(
            "marks needs a repetition and a target".to_owned(),
        ));
    }
    let environment = Environment::capture(&args.spawn_args.work_dir());
    let machine = args
        .machine
        .clone()
        .unwrap_or_else(|| environment.machine());
    let name = format!("{}-{machine}-marks", environment.date());
    let folder = Folder::claim(&args.results.join(&name), Some(name))?;
    let mut rounds = Vec::new();
    let mut reasons = Vec::new();
    let result = measure_all::<T>(args, &mut rounds, &mut reasons).await;

    let body = Marks {
        io: T::NAME,
        repetitions: args.repetitions,
        warm_up_s: args.warm_up.as_secs_f64(),
        duration_s: args.duration.as_secs_f64(),
        seed: args.seed,
        table: table(&rounds),
        rounds,
    };
    if let Err(error) = result {
        let document = Document::failed("marks", environment, error.to_string(), &body);
        document
            .with_measurements(body.measurements())
            .write(&folder)?;
        return Err(error);
    }
    write_result(&folder, environment, reasons, body)
}

fn write_result(
    folder: &Folder,
    environment: Environment,
    reasons: Vec<String>,
    body: Marks,
) -> Result<(), Failure> {
    let readme = readme(&environment, &reasons, &body);
    for line in readme.lines() {
        say(line);
    }
    Document::new("marks", environment, reasons.clone(), &body)
        .with_measurements(body.measurements())
        .with_tables(vec![body.report_table()])
        .with_readme(readme)
        .write(folder)?;
    if reasons.is_empty() {
        Ok(())
    } else {
        Err(Failure::Target(format!("invalid: {}", reasons.join("; "))))
    }
}

async fn measure_all<T: Transport>(
    args: &MarksArgs,
    rounds: &mut Vec<Round>,
    reasons: &mut Vec<String>,
) -> Result<(), Failure> {
    for repetition in 0..args.repetitions {
        for durability in [Durability::PageCache, Durability::Durable] {
            let mut targets = args.targets.clone();
            if repetition % 2 == 1 {
                targets.reverse();
            }
            for kind in targets {
                let target = Target::spawn(kind, durability, &args.spawn_args).await?;
                let round =
                    measure_one::<T>(args, &target, (kind, durability, repetition), reasons);
                match round.await {
                    Ok(round) => rounds.push(round),
                    Err(error) => {
                        say(&target.log_tail());
                        return Err(error);
                    }
                }
                target.stop()?;
            }
        }
    }
    Ok(())
}

async fn measure_one<T: Transport>(
    args: &MarksArgs,
    target: &Target,
    (kind, durability, repetition): (Kind, Durability, usize),
    reasons: &mut Vec<String>,
) -> Result<Round, Failure> {
    let of = format!(
        "{kind:?} {} {}/{}",
        durability.name(),
        repetition + 1,
        args.repetitions
    );
    let start = startup::measure::<T>(target).await?;
    say(&format!(
        "{of}: first produce after {:.1} ms, idle {:.1} MiB and {:.1} wake-ups/s",
        start.first_produce_ms, start.idle_resident_mib, start.idle_wake_ups_per_s
    ));
    let broker = Broker {
        address: target.address,
        pid: target.pid,
    };
    let mut keep = |what: &str, run: Run| {
        say(&format!("{of}: {what}"));
        for line in run.summary.lines() {
            say(&format!("  {line}"));
        }
        reasons.extend(
            run.reasons
                .iter()
                .map(|reason| format!("{of}: {what}: {reason}")),
        );
        run.summary
    };
    let mut loads = Vec::new();
    for load in LOADS {
        if load.fits(kind, durability) {
            let (run, end_to_end) = load.run::<T>(args, broker).await?;
            let summary = keep(load.name(), run);
            if let Some(latency) = &end_to_end {
                say(&format!("  {}", latency.line("end to end")));
            }
            loads.push(Loaded {
                load,
                summary,
                end_to_end,
            });
        }
    }
    Ok(Round {
        target: kind,
        durability,
        repetition,
        command: target.command.clone(),
        start,
        loads,
    })
}

fn table(rounds: &[Round]) -> Vec<Row> {
    let mut rows = Vec::new();
    for measure in MEASURES {
        for (durability, mark) in [Durability::PageCache, Durability::Durable]
            .into_iter()
            .zip(measure.marks)
        {
            let of = |kind: Kind| {
                let these = rounds
                    .iter()
                    .filter(|round| round.target == kind && round.durability == durability);
                Spread::of(&these.filter_map(measure.value).collect::<Vec<_>>())
            };
            let (ringlog, kafka) = (of(Kind::Ringlog), of(Kind::Kafka));
            if ringlog.is_none() && kafka.is_none() {
                continue;
            }
            rows.push(Row {
                name: measure.name,
                unit: measure.unit,
                durability,
                mark,
                ringlog,
                kafka,
                kafka_to_ringlog: ringlog
                    .zip(kafka)
                    .map(|(ringlog, kafka)| kafka.median / ringlog.median),
            });
        }
    }
    rows
}

fn readme(environment: &Environment, reasons: &[String], marks: &Marks) -> String {
    let mut lines = vec![
        "# Marks: Ringlog and Apache Kafka, interleaved".to_owned(),
        String::new(),
    ];
    let status = if reasons.is_empty() {
        "valid: every message was read back, in order, byte for byte".to_owned()
    } else {
        format!("INVALID: {}", reasons.join("; "))
    };
    lines.push(format!("- {status}"));
    lines.extend(
        environment
            .lines()
            .into_iter()
            .map(|line| format!("- {line}")),
    );
    lines.push(format!(
        "- runs: {} repetitions, order reversed in every second; warm-up {} s and measurement {} s each; \
         seed {}; generator on {}",
        marks.repetitions, marks.warm_up_s, marks.duration_s, marks.seed, marks.io
    ));
    lines.extend(cell_notes());
    let foreign = Spread::of(
        &marks
            .rounds
            .iter()
            .flat_map(foreign_shares)
            .collect::<Vec<_>>(),
    );
    if let Some(foreign) = foreign {
        lines.push(format!(
            "- other processes used {:.0} % of the machine's CPU time during the measurements (median; least \
             {:.0} %, greatest {:.0} %): above a few per cent the rates are not comparable, CPU times less so",
            foreign.median, foreign.min, foreign.max
        ));
    }
    lines.push(String::new());
    lines
        .push("| measure | promise | mark | Ringlog | Apache Kafka | Kafka / Ringlog |".to_owned());
    lines.push("|---|---|---|---|---|---|".to_owned());
    for row in &marks.table {
        let ratio = row
            .kafka_to_ringlog
            .map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        let mark = row.mark_text().unwrap_or_else(|| "-".to_owned());
        lines.push(format!(
            "| {} | {} | {mark} | {} | {} | {ratio} |",
            row.name,
            row.durability.name(),
            cell(row.ringlog, row.unit),
            cell(row.kafka, row.unit)
        ));
    }
    lines.push(String::new());
    lines.push("Started as:".to_owned());
    let mut commands: Vec<_> = marks.rounds.iter().map(|round| &round.command).collect();
    commands.truncate(4);
    lines.extend(commands.iter().map(|command| format!("- `{command}`")));
    lines.join("\n") + "\n"
}

/// The share of the machine that others used during each measurement, in per cent.
fn foreign_shares(round: &Round) -> Vec<f64> {
    let share = |loaded: &Loaded| loaded.summary.resources.machine.foreign_share() * 100.0;
    round.loads.iter().map(share).collect()
}

/// What the numbers mean.
fn cell_notes() -> Vec<String> {
    [
        "cells: median [least, greatest]; GB = 10^9 bytes of record batches; broker CPU = user and system \
         time of its process with all its threads, write-back by the kernel's own threads not included",
        "broker pinned to CPU 0, generator to CPU 1; loopback; acks=all; `durable` for Kafka is \
         log.flush.interval.messages=1",
        "1-record requests: 16 connections x 1 in flight, 16 partitions, values of 100 bytes; batches: 8 x 5 \
         in flight, 8 partitions; 1 MB batches: 4 x 2, 4 partitions; hot fetch: 4 connections, 4 partitions, \
         1 MiB at most an answer",
        "10,000/s: 1 KiB records, one a request, 10 connections and partitions, open loop; one consumer; end to \
         end counts from the intended send to the receipt. Kafka only in page-cache mode: with a flush for \
         each it does not get there",
        "start: from the spawn of the process to the answer for one record in a topic made for it; Kafka's \
         directory is formatted before, and its start is known to 100 ms (its script polls)",
        "idle wake-ups: voluntary context switches of all threads, for 10 s from the 3rd second after the first \
         produce, no client connected; the mark is 0 beyond timers that are due",
    ]
    .map(|note| format!("- {note}"))
    .to_vec()
}

fn cell(spread: Option<Spread>, unit: &str) -> String {
    let digits = |value: f64| match value {
        value if value >= 1000.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.3}"),
    };
    spread.map_or("-".to_owned(), |spread| {
        let (median, min, max) = (
            digits(spread.median),
            digits(spread.min),
            digits(spread.max),
        );
        format!("{median} {unit} [{min}, {max}]")
    })
}
