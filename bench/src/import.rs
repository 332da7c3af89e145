//! `import`: what other tools know, for the same chart.
//!
//! ```text
//! workload YAML of the OpenMessaging Benchmark    -> the command line here that is nearest to it
//! its result JSON                                 -> a result folder, marked as imported
//! output of kafka-producer-perf-test              -> the same
//! ```
//! What a tool does not tell is missing in the result (null), never guessed and never 0.

mod openmessaging;
mod perf_test;
mod workload;

use std::path::Path;

use crate::cli::ImportArgs;
use crate::failure::Failure;
use crate::redraw::read_text;
use crate::report::{Document, Measurement, say};
use crate::table::{Cell, Table};

/// What a file is.
#[derive(Debug)]
enum Imported {
    /// Words after `ringlog-bench`, and what they leave out.
    Workload(workload::Plan),
    /// Measurements, and why they are no whole result.
    Results(Vec<Measurement>, Vec<String>),
}

/// Reads all files; a workload is printed, results are put into one folder.
pub(crate) fn import(args: &ImportArgs) -> Result<(), Failure> {
    let folder = args.output.claim()?;
    let mut measurements = Vec::new();
    let mut reasons = Vec::new();
    for file in &args.files {
        let text = read_text(file)?;
        let read = read(file, &text)
            .map_err(|why| Failure::Usage(format!("{}: {why}", file.display())))?;
        match read {
            Imported::Workload(plan) => {
                for note in &plan.notes {
                    say(&format!("# {note}"));
                }
                say(&format!("ringlog-bench {}", plan.words.join(" ")));
            }
            Imported::Results(read, why) => {
                measurements.extend(read);
                reasons.extend(why.iter().map(|why| format!("{}: {why}", file.display())));
            }
        }
    }
    if measurements.is_empty() {
        return match folder {
            Some(_) => Err(Failure::Usage(
                "a workload is no result: run the command line that is printed".to_owned(),
            )),
            None => Ok(()),
        };
    }
    for line in table(&measurements).plain() {
        say(&line);
    }
    let files = args.files.iter().map(|file| file.display().to_string());
    let from = files.collect::<Vec<_>>().join(", ");
    match folder {
        Some(folder) => Document::imported(&from, reasons, measurements).write(&folder),
        None => {
            say(
                "not kept: --name NAME or -o DIR makes a result of it, for `report` to draw beside others",
            );
            Ok(())
        }
    }
}

fn table(measurements: &[Measurement]) -> Table {
    let columns = [
        "",
        "records/s",
        "MB/s",
        "p50 us",
        "p95 us",
        "p99 us",
        "p99.9 us",
        "max us",
    ];
    let number = |value: f64| Cell::of(value.is_finite().then_some(value));
    let row = |of: &Measurement| {
        let (summary, latency) = (&of.summary, &of.summary.latency);
        vec![
            Cell::from(of.label.as_str()),
            number(summary.records_per_s),
            number(summary.megabytes_per_s),
            number(latency.p50_us),
            number(latency.p95_us),
            number(latency.p99_us),
            number(latency.p99_9_us),
            number(latency.max_us),
        ]
    };
    Table {
        columns: columns.map(str::to_owned).to_vec(),
        rows: measurements.iter().map(row).collect(),
        ..Table::default()
    }
}

fn read(file: &Path, text: &str) -> Result<Imported, String> {
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    if text.trim_start().starts_with('{') {
        let measurements = openmessaging::read(&name, text)?;
        return Ok(Imported::Results(measurements, Vec::new()));
    }
    if text.contains("records sent, ") {
        let (measurement, reasons) = perf_test::read(&name, text)?;
        return Ok(Imported::Results(vec![measurement], reasons));
    }
    workload::read(text).map(Imported::Workload).map_err(|why| {
        format!(
            "{why}; what can be imported: an OpenMessaging workload (YAML, flat keys), its result \
             (JSON), the output of kafka-producer-perf-test"
        )
    })
}

#[cfg(test)]
mod tests;
