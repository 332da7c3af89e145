//! Two brokers under the same load in one run, in turns (A B, B A, ..): what differs, and how surely.
//!
//! Started brokers are fresh in every run, so that none is judged on what the other left behind. Each side
//! may have arguments, a promise and a shell command of its own, which is how a setting of the machine is
//! tried: the same broker twice, and the setting before each of its runs. One measure decides the exit code; the others are told with it, and
//! deciding on the best of several would find differences that are not there.

use serde::Serialize;

use crate::cli::CompareArgs;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::phase::Limit;
use crate::report::{Document, Effect, Measurement, Spread, Summary, fields, say};
use crate::run::{self, Broker};
use crate::side::Side;
use crate::statistics::{PAIRS_MIN, Ratio, Verdict};
use crate::table::{Cell, Table};
use crate::transport::Transport;
use crate::workload::Workload;

/// What the exit code goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Measure {
    /// Broker CPU per request.
    Cpu,
    /// Records a second (closed loop).
    Throughput,
    /// The middle of the latencies.
    P50,
    /// The 99th percentile of the latencies.
    P99,
}

impl Measure {
    const ALL: [Self; 4] = [Self::Cpu, Self::Throughput, Self::P50, Self::P99];

    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "broker CPU per request, us",
            Self::Throughput => "records/s",
            Self::P50 => "latency p50, us",
            Self::P99 => "latency p99, us",
        }
    }

    fn less_is_better(self) -> bool {
        self != Self::Throughput
    }

    fn of(self, summary: &Summary) -> Option<f64> {
        match self {
            Self::Cpu => summary.broker_cpu_us_per_request,
            // At a rate that was asked for, both sides have that rate.
            Self::Throughput if summary.open_loop => None,
            Self::Throughput => Some(summary.records_per_s),
            Self::P50 => Some(summary.latency.p50_us()),
            Self::P99 => Some(summary.latency.p99_us()),
        }
    }
}

/// One run of one side.
#[derive(Debug)]
struct Run {
    side: char,
    pair: usize,
    command: String,
    reasons: Vec<String>,
    summary: Summary,
}

/// One line of the comparison.
#[derive(Debug, Serialize)]
struct Row {
    measure: &'static str,
    decides: bool,
    #[serde(skip)]
    less_is_better: bool,
    a: Spread,
    b: Spread,
    b_to_a: Option<Ratio>,
    verdict: Verdict,
}

#[derive(Debug, Serialize)]
struct Comparison {
    io: &'static str,
    a: String,
    b: String,
    pairs: usize,
    /// Fresh ones, or those that ran already.
    brokers: &'static str,
    margin: f64,
    rows: Vec<Row>,
    /// In the result they are its measurements.
    #[serde(skip)]
    runs: Vec<Run>,
}

impl Comparison {
    fn document(&self, args: &CompareArgs, document: Document, workload: &Workload) -> Document {
        let name = |side: char| if side == 'A' { &self.a } else { &self.b };
        let measurement = |run: &Run| {
            let label = format!("{} {}/{}", run.side, run.pair + 1, self.pairs);
            let group = format!("{} {}", run.side, name(run.side));
            let summary = run.summary.clone();
            Measurement::new(&label, &run.command, fields(workload), summary).in_group(&group)
        };
        document
            .with_measurements(self.runs.iter().map(measurement).collect())
            .with_effects(
                self.rows
                    .iter()
                    .filter_map(|row| row.effect(args))
                    .collect(),
            )
            .with_tables(vec![self.table()])
    }

    fn table(&self) -> Table {
        let columns = ["measure", "A", "B", "B / A", "detectable", "B is"];
        let row = |row: &Row| {
            let (ratio, detectable) = row.ratio_cells();
            let measure = row.measure_cell();
            vec![
                Cell::from(measure.as_str()),
                Cell::Spread(row.a),
                Cell::Spread(row.b),
                Cell::from(ratio.as_str()),
                Cell::from(detectable.as_str()),
                Cell::from(row.verdict.name()),
            ]
        };
        Table {
            title: format!("{} (A) and {} (B)", self.a, self.b),
            columns: columns.map(str::to_owned).to_vec(),
            rows: self.rows.iter().map(row).collect(),
            notes: vec![format!(
                "A and B: median [least, greatest] of {} runs each, in turns; B / A: geometric mean over the \
                 pairs [95 % interval, bootstrap-t]",
                self.pairs
            )],
        }
    }
}

impl Row {
    fn effect(&self, args: &CompareArgs) -> Option<Effect> {
        let ratio = self.b_to_a?;
        Some(Effect {
            measure: self.measure.to_owned(),
            decides: self.decides,
            less_is_better: self.less_is_better,
            ratio: ratio.ratio,
            low: ratio.low,
            high: ratio.high,
            detectable_share: ratio.detectable,
            margin_share: args.margin,
            verdict: self.verdict.name().to_owned(),
        })
    }

    fn measure_cell(&self) -> String {
        let decides = if self.decides { " (decides)" } else { "" };
        format!("{}{decides}", self.measure)
    }

    /// The ratio with its interval, and the smallest change that would have been found.
    fn ratio_cells(&self) -> (String, String) {
        let Some(ratio) = self.b_to_a else {
            return ("-".to_owned(), "-".to_owned());
        };
        let detectable = match ratio.detectable {
            share if share < 10.0 => format!("{:.1} %", share * 100.0),
            _ => "> x10".to_owned(),
        };
        let interval = format!("{:.3} [{:.3}, {:.3}]", ratio.ratio, ratio.low, ratio.high);
        (interval, detectable)
    }
}

/// Runs both sides in turns and tells what differs.
pub(crate) async fn compare<T: Transport>(args: &CompareArgs) -> Result<(), Failure> {
    if args.pairs < PAIRS_MIN {
        return Err(Failure::Usage(format!(
            "--pairs must be at least {PAIRS_MIN}: fewer give no interval"
        )));
    }
    let (workload, limit) = args.load.plan()?;
    let folder = args.load.target.output.claim()?;
    let environment = Environment::capture(&args.load.target.spawn_args.work_dir());
    let mut runs = Vec::new();
    let result = run_all::<T>(args, &workload, limit, &mut runs).await;
    let rows = rows(&runs, args);
    let reasons: Vec<_> = runs.iter().flat_map(|run| run.reasons.clone()).collect();
    let body = Comparison {
        io: T::NAME,
        a: args.named('A'),
        b: args.named('B'),
        pairs: args.pairs,
        brokers: brokers(&args.a, &args.b),
        margin: args.margin,
        rows,
        runs,
    };
    if let Err(failure) = result {
        if let Some(folder) = &folder {
            let what = failure.to_string();
            let document = Document::failed("compare", environment, what, &body);
            body.document(args, document, &workload).write(folder)?;
        }
        return Err(failure);
    }
    let text = readme(&environment, &body, &reasons);
    for line in text.lines() {
        say(line);
    }
    let decided = body.rows.iter().find(|row| row.decides);
    let verdict = decided.map(|row| (row.verdict, row.measure));
    if let Some(folder) = &folder {
        let document = Document::new("compare", environment, reasons.clone(), &body);
        let document = body.document(args, document, &workload);
        document.with_readme(text).write(folder)?;
    }
    if !reasons.is_empty() {
        return Err(Failure::Target(format!("INVALID: {}", reasons.join("; "))));
    }
    match verdict {
        Some((Verdict::Same | Verdict::Faster, _)) => Ok(()),
        Some((Verdict::Slower, measure)) => Err(Failure::Slower(measure)),
        Some((Verdict::CannotTell, measure)) => Err(Failure::CannotTell(measure)),
        None => Err(Failure::Usage(
            "the measure to decide on was not measured: a running broker needs @PID for its CPU, \
             and --rate leaves no throughput to compare"
                .to_owned(),
        )),
    }
}

/// What the runs were on.
fn brokers(a: &Side, b: &Side) -> &'static str {
    let runs = |side: &Side| matches!(side, Side::Running(..));
    match (runs(a), runs(b)) {
        (false, false) => "fresh brokers",
        (true, true) => "running brokers, a fresh topic for each run",
        (true, false) => "A a running broker with a fresh topic for each run, B fresh brokers",
        (false, true) => "A fresh brokers, B a running broker with a fresh topic for each run",
    }
}

async fn run_all<T: Transport>(
    args: &CompareArgs,
    workload: &Workload,
    limit: Limit,
    runs: &mut Vec<Run>,
) -> Result<(), Failure> {
    for pair in 0..args.pairs {
        let order = if pair % 2 == 0 {
            ['A', 'B']
        } else {
            ['B', 'A']
        };
        for side in order {
            let (spec, settings) = args.side(side);
            let on = &args.load.target;
            settings.prepare()?;
            let spawn_args = settings.spawn_args(&on.spawn_args);
            let durability = settings.durability.unwrap_or(on.durability);
            let target = spec.start::<T>(durability, &spawn_args).await?;
            let broker = Broker {
                address: target.address,
                pid: target.pid,
            };
            let mut workload = workload.clone();
            if matches!(spec, Side::Running(..)) {
                // Its log must begin empty: both sides may be one broker, and an earlier run's.
                let own = std::process::id();
                workload.topic = format!("{}-{own}-{side}-{pair}", workload.topic);
            }
            let done = run::produce::<T>(broker, &workload, args.load.pace.warm_up, limit).await;
            let done = done.inspect_err(|_| say(&target.log_tail()))?;
            let of = format!("{side} {}/{}", pair + 1, args.pairs);
            let summary = done.summary;
            let line = summary.lines().into_iter().next().unwrap_or_default();
            say(&format!("{of}: {line}"));
            let reasons = done.reasons.iter().map(|reason| format!("{of}: {reason}"));
            runs.push(Run {
                side,
                pair,
                command: target.command.clone(),
                reasons: reasons.collect(),
                summary,
            });
            target.stop()?;
        }
    }
    Ok(())
}

fn rows(runs: &[Run], args: &CompareArgs) -> Vec<Row> {
    let mut rows = Vec::new();
    for measure in Measure::ALL {
        let values = |side: char| {
            let these = runs.iter().filter(move |run| run.side == side);
            these.filter_map(move |run| Some((run.pair, measure.of(&run.summary)?)))
        };
        let only = |side| Spread::of(&values(side).map(|(_, value)| value).collect::<Vec<_>>());
        let (Some(a), Some(b)) = (only('A'), only('B')) else {
            continue;
        };
        let pairs = values('A').filter_map(|(pair, a)| {
            let (_, b) = values('B').find(|(of, _)| *of == pair)?;
            Some((a, b))
        });
        let ratio = Ratio::of(&pairs.collect::<Vec<_>>(), args.load.load.seed);
        let verdict = ratio.map_or(Verdict::CannotTell, |ratio| {
            ratio.verdict(args.margin, measure.less_is_better())
        });
        rows.push(Row {
            measure: measure.name(),
            decides: measure == args.measure,
            less_is_better: measure.less_is_better(),
            a,
            b,
            b_to_a: ratio,
            verdict,
        });
    }
    rows
}

fn readme(environment: &Environment, body: &Comparison, reasons: &[String]) -> String {
    let mut lines = vec![
        format!("# {} (A) and {} (B) under the same load", body.a, body.b),
        String::new(),
    ];
    lines.push(match reasons {
        [] => "- valid: every run is verified as its flags say".to_owned(),
        reasons => format!("- INVALID: {}", reasons.join("; ")),
    });
    let told = environment.lines().into_iter();
    lines.extend(told.map(|line| format!("- {line}")));
    lines.push(format!(
        "- runs: {} pairs in turns (A B, B A, ..), {}, generator on {}",
        body.pairs, body.brokers, body.io
    ));
    lines.push(format!(
        "- B / A: geometric mean over the pairs [95 % interval, bootstrap-t]; `same` = the interval lies \
         within {:.1} %; detectable = the smallest change that these pairs find 8 times in 10",
        body.margin * 100.0
    ));
    let foreign = |run: &Run| run.summary.resources.machine.foreign_share() * 100.0;
    let foreign = Spread::of(&body.runs.iter().map(foreign).collect::<Vec<_>>());
    lines.extend(foreign.map(|share| {
        format!(
            "- others used {:.0} % [{:.0}, {:.0}] of the machine's CPU time meanwhile",
            share.median, share.min, share.max
        )
    }));
    lines.push(String::new());
    lines.push(
        "| measure | A, median [least, greatest] | B | B / A | detectable | B is |".to_owned(),
    );
    lines.push("|---|---|---|---|---|---|".to_owned());
    for row in &body.rows {
        let cell = |spread: Spread| {
            format!(
                "{:.2} [{:.2}, {:.2}]",
                spread.median, spread.min, spread.max
            )
        };
        let (ratio, detectable) = row.ratio_cells();
        lines.push(format!(
            "| {} | {} | {} | {ratio} | {detectable} | {} |",
            row.measure_cell(),
            cell(row.a),
            cell(row.b),
            row.verdict.name()
        ));
    }
    lines.push(String::new());
    lines.push("Started as:".to_owned());
    for side in ['A', 'B'] {
        let first = body.runs.iter().find(|run| run.side == side);
        lines.extend(first.map(|run| format!("- {side}: `{}`", run.command)));
    }
    lines.join("\n") + "\n"
}
