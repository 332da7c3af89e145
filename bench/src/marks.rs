//! The project's marks, Ringlog and Apache Kafka in turns (A B, B A, ..), as one table.
//!
//! Every repetition starts a fresh broker for each promise (page-cache, durable) and takes all
//! measurements on it: start, idle memory and wake-ups, one-record requests, 16 KiB batches, hot fetch.

use serde::Serialize;
use serde_json::Map;

use crate::cli::MarksArgs;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::folder::Folder;
use crate::phase::Limit;
use crate::report::{Document, Measurement, Spread, Summary, say};
use crate::run::{self, Broker, Run};
use crate::startup::{self, Start};
use crate::table::{Cell, Table};
use crate::target::{Durability, Kind, Target};
use crate::transport::Transport;
use crate::workload::{Workload, records_that_fit};

/// One fresh broker and all that was measured on it.
#[derive(Debug, Serialize)]
struct Round {
    target: Kind,
    durability: Durability,
    repetition: usize,
    command: String,
    start: Start,
    // These three are the result's measurements.
    #[serde(skip)]
    one_record: Summary,
    #[serde(skip)]
    batches_16_kib: Summary,
    /// Only in page-cache mode: what is hot does not depend on the promise.
    #[serde(skip)]
    hot_fetch: Option<Summary>,
}

impl Round {
    fn measurements(&self, repetitions: usize) -> Vec<Measurement> {
        let loads = [
            ("1-record requests", Some(&self.one_record)),
            ("16 KiB batches", Some(&self.batches_16_kib)),
            ("hot fetch", self.hot_fetch.as_ref()),
        ];
        let of = format!("{:?} {}", self.target, self.durability.name());
        let number = self.repetition + 1;
        let measured = loads.into_iter().filter_map(|(load, summary)| {
            let label = format!("{of}, {load} {number}/{repetitions}");
            let measurement = Measurement::new(&label, &self.command, Map::new(), summary?.clone());
            Some(measurement.in_group(&format!("{of}, {load}")))
        });
        measured.collect()
    }
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    unit: &'static str,
    durability: Durability,
    /// The mark that the project sets itself; less is better.
    mark: Option<f64>,
    ringlog: Option<Spread>,
    kafka: Option<Spread>,
    /// Kafka's median divided by Ringlog's.
    kafka_to_ringlog: Option<f64>,
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
            let mark = row.mark.map(|mark| format!("< {mark} {}", row.unit));
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

/// A column of the table in the making.
struct Measure {
    name: &'static str,
    unit: &'static str,
    /// For page-cache and durable.
    marks: [Option<f64>; 2],
    value: fn(&Round) -> Option<f64>,
}

/// The marks of issue 3 first, then what helps to read them.
const MEASURES: [Measure; 9] = [
    Measure {
        name: "start to first acknowledged produce",
        unit: "ms",
        marks: [Some(50.0), Some(50.0)],
        value: |round| Some(round.start.first_produce_ms),
    },
    Measure {
        name: "idle resident memory",
        unit: "MiB",
        marks: [Some(20.0), Some(20.0)],
        value: |round| Some(round.start.idle_resident_mib),
    },
    Measure {
        name: "idle wake-ups of all threads",
        unit: "1/s",
        marks: [None, None],
        value: |round| Some(round.start.idle_wake_ups_per_s),
    },
    Measure {
        name: "broker CPU per 1-record produce request, 16 connections",
        unit: "us",
        marks: [Some(6.0), None],
        value: |round| round.one_record.broker_cpu_us_per_request,
    },
    Measure {
        name: "broker CPU to produce 1 KiB records in 16 KiB batches",
        unit: "s/GB",
        marks: [Some(1.2), None],
        value: |round| round.batches_16_kib.broker_cpu_s_per_gigabyte,
    },
    Measure {
        name: "broker CPU to fetch hot data",
        unit: "s/GB",
        marks: [Some(0.2), None],
        value: |round| round.hot_fetch.as_ref()?.broker_cpu_s_per_gigabyte,
    },
    Measure {
        name: "1-record requests (closed loop)",
        unit: "1/s",
        marks: [None, None],
        value: |round| Some(round.one_record.requests as f64 / round.one_record.elapsed_s),
    },
    Measure {
        name: "16 KiB batches (closed loop)",
        unit: "MB/s",
        marks: [None, None],
        value: |round| Some(round.batches_16_kib.megabytes_per_s),
    },
    Measure {
        name: "hot fetch (closed loop)",
        unit: "MB/s",
        marks: [None, None],
        value: |round| Some(round.hot_fetch.as_ref()?.megabytes_per_s),
    },
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
    let one_record = one_record(args);
    let limit = Limit {
        duration: Some(args.duration),
        requests: None,
    };
    let run = run::produce::<T>(broker, &one_record, args.warm_up, limit).await?;
    let one_record = keep("1-record requests", run);

    let batches = batches_16_kib(args)?;
    let batch_bytes = (batches.records_per_batch * batches.record_bytes) as u64;
    let limit = Limit {
        requests: Some(args.produce_bytes_max / batch_bytes),
        ..limit
    };
    let run = run::produce::<T>(broker, &batches, args.warm_up, limit).await?;
    let batches_16_kib = keep("16 KiB batches", run);

    let hot_fetch = if durability == Durability::PageCache {
        let load = Workload {
            topic: "marks-fetch".to_owned(),
            partitions: 4,
            connections: 4,
            ..batches
        };
        let run = run::fetch::<T>(broker, &load, args.fetch_fill, args.fetch_passes).await?;
        Some(keep("hot fetch", run))
    } else {
        None
    };
    Ok(Round {
        target: kind,
        durability,
        repetition,
        command: target.command.clone(),
        start,
        one_record,
        batches_16_kib,
        hot_fetch,
    })
}

/// 16 connections, each with one request of one record of 100 bytes under way.
fn one_record(args: &MarksArgs) -> Workload {
    Workload {
        topic: "marks-one-record".to_owned(),
        partitions: 16,
        connections: 16,
        record_bytes: 100,
        seed: args.seed,
        ..Workload::default()
    }
}

/// 8 connections, each with 5 batches under way: what the spikes of `measured-io.md` had.
fn batches_16_kib(args: &MarksArgs) -> Result<Workload, Failure> {
    Ok(Workload {
        topic: "marks-batches".to_owned(),
        partitions: 8,
        connections: 8,
        in_flight: 5,
        record_bytes: 1024,
        records_per_batch: records_that_fit(1024, 16 << 10)?,
        seed: args.seed,
        ..Workload::default()
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
        let mark = row
            .mark
            .map_or("-".to_owned(), |mark| format!("< {mark} {}", row.unit));
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
    let summaries = [
        Some(&round.one_record),
        Some(&round.batches_16_kib),
        round.hot_fetch.as_ref(),
    ];
    let share = |summary: &Summary| summary.resources.machine.foreign_share() * 100.0;
    summaries.into_iter().flatten().map(share).collect()
}

/// What the numbers mean.
fn cell_notes() -> Vec<String> {
    [
        "cells: median [least, greatest]; GB = 10^9 bytes of record batches; broker CPU = user and system \
         time of its process with all its threads, write-back by the kernel's own threads not included",
        "broker pinned to CPU 0, generator to CPU 1; loopback; acks=all; `durable` for Kafka is \
         log.flush.interval.messages=1",
        "1-record requests: 16 connections x 1 in flight, 16 partitions, values of 100 bytes; batches: 8 x 5 \
         in flight, 8 partitions; hot fetch: 4 connections, 4 partitions, 1 MiB at most an answer",
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
