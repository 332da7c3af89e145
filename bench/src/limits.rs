//! How far one broker goes: partitions, restarts, connections, file handles. One table, each row with the
//! mark that the project set itself.
//!
//! Every part starts a broker of its own; nothing here compares with another broker. Memory is resident
//! memory (`VmRSS`), handles are the entries of `/proc/PID/fd`, both of the broker's process.

mod fetch;
mod node;
mod overload;
mod partitions;
mod requests;
mod restart;
mod tails;

use serde::Serialize;

pub(crate) use fetch::sendfile_loop;

use crate::cli::{LimitsArgs, Part};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::folder::Folder;
use crate::report::{Document, Spread, say};
use crate::table::{Cell, Table};
use crate::transport::Transport;

/// One line of the table.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    unit: &'static str,
    /// What it is to stay below.
    mark: Option<f64>,
    values: Vec<f64>,
}

impl Row {
    fn is_reached(&self) -> bool {
        let spread = Spread::of(&self.values);
        let is_below = |mark: f64| spread.is_some_and(|spread| spread.median <= mark);
        self.mark.is_none_or(is_below)
    }
}

/// The rows so far; a row that is added again gets one more value.
#[derive(Debug, Default)]
struct Rows {
    rows: Vec<Row>,
    /// Why they may mean nothing.
    reasons: Vec<String>,
}

impl Rows {
    /// The measurement `of` something means nothing.
    fn doubt(&mut self, of: &str, reason: &str) {
        let reason = format!("{of}: {reason}");
        say(&reason);
        self.reasons.push(reason);
    }

    fn add(&mut self, name: &str, unit: &'static str, mark: Option<f64>, value: f64) {
        say(&format!("{name}: {value:.3} {unit}"));
        match self.rows.iter_mut().find(|row| row.name == name) {
            Some(row) => row.values.push(value),
            None => self.rows.push(Row {
                name: name.to_owned(),
                unit,
                mark,
                values: vec![value],
            }),
        }
    }

    fn table(&self) -> Table {
        let row = |row: &Row| {
            let mark = row.mark.map(|mark| format!("<= {mark} {}", row.unit));
            let verdict = match (row.mark, row.is_reached()) {
                (None, _) => "",
                (Some(_), true) => "reached",
                (Some(_), false) => "NOT REACHED",
            };
            vec![
                Cell::Text(format!("{}, {}", row.name, row.unit)),
                Spread::of(&row.values).map_or(Cell::Nothing(()), Cell::Spread),
                mark.map_or(Cell::Nothing(()), Cell::Text),
                Cell::from(verdict),
            ]
        };
        Table {
            title: "Limits".to_owned(),
            columns: ["measure", "median [least, greatest]", "mark", ""]
                .map(str::to_owned)
                .to_vec(),
            rows: self.rows.iter().map(row).collect(),
            notes: NOTES.map(str::to_owned).to_vec(),
        }
    }
}

const NOTES: [&str; 8] = [
    "partitions: topics of 1000 empty partitions each, one more topic that is written to; memory of a \
     partition = growth of resident memory since before they were made / their number",
    "restart: from the spawn of the process to `answers` (its port is told), to the first acknowledged \
     record of a topic that was there before, and to the end offset of every partition; the page cache is \
     warm",
    "stalled connections: each announces 90 MB and sends 64 KiB of it; the load beside them is 4 \
     connections with one request of one record of 1 KiB under way each, durable",
    "create and delete: topics of one partition, in six rounds; handles are those of partitions' \
     files; memory is that of the last round over the first, which fills the allocator",
    "requests: closed loop, one record of 100 bytes a request, one under way on each connection, page-cache \
     mode; a connection keeps to one partition",
    "fetch: 4 connections, a partition of 64 MiB each, 1 MiB an answer, 16 times; the loop (poll, read, \
     sendfile) sends the same files to the same client, right after the broker; nothing is verified",
    "tails: 10,000 requests/s of one record of 1 KiB, open loop, 16 connections and partitions, durable; the \
     other work is made by small segments, a small journal, retention, compaction, or readers of a log that \
     the kernel was told to forget, 25 MB/s each; quiet and disturbed runs are of the same repetition",
    "broker pinned to CPU 0, generator to CPU 1; loopback; durable mode",
];

#[derive(Serialize)]
struct Body<'a> {
    io: &'static str,
    repetitions: usize,
    rows: &'a [Row],
}

/// Measures all parts and writes the result's folder.
pub(crate) async fn limits<T: Transport>(args: &LimitsArgs) -> Result<(), Failure> {
    if args.repetitions == 0 {
        return Err(Failure::Usage("limits needs a repetition".to_owned()));
    }
    node::raise_handles()?;
    let environment = Environment::capture(&args.spawn_args.work_dir());
    let machine = args
        .machine
        .clone()
        .unwrap_or_else(|| environment.machine());
    let name = format!("{}-{machine}-limits", environment.date());
    let folder = Folder::claim(&args.results.join(&name), Some(name))?;
    let mut rows = Rows::default();
    let measured = measure::<T>(args, &mut rows).await;
    let body = Body {
        io: T::NAME,
        repetitions: args.repetitions,
        rows: &rows.rows,
    };
    let failed = measured.as_ref().err().map(ToString::to_string);
    let readme = readme(&environment, &rows, failed.as_deref());
    for line in readme.lines() {
        say(line);
    }
    let document = match &measured {
        Ok(()) => Document::new("limits", environment, rows.reasons.clone(), &body),
        Err(failure) => Document::failed("limits", environment, failure.to_string(), &body),
    };
    document
        .with_tables(vec![rows.table()])
        .with_readme(readme)
        .write(&folder)?;
    measured?;
    match rows.reasons.as_slice() {
        [] => Ok(()),
        reasons => Err(Failure::Target(format!("invalid: {}", reasons.join("; ")))),
    }
}

async fn measure<T: Transport>(args: &LimitsArgs, rows: &mut Rows) -> Result<(), Failure> {
    let wants = |part| args.only.is_empty() || args.only.contains(&part);
    if wants(Part::Overload) {
        for _ in 0..args.repetitions {
            overload::idle_connections::<T>(args, rows).await?;
            overload::stalled_connections::<T>(args, rows).await?;
            overload::few_handles::<T>(args, rows).await?;
        }
    }
    if wants(Part::Topics) {
        partitions::create_and_delete::<T>(args, rows).await?;
    }
    if wants(Part::Segments) {
        for _ in 0..args.repetitions {
            restart::of_segments::<T>(args, rows).await?;
        }
    }
    if wants(Part::Recovery) {
        for bytes in &args.recovery_bytes {
            for _ in 0..args.repetitions {
                restart::of_bytes::<T>(args, *bytes, rows).await?;
            }
        }
    }
    if wants(Part::Partitions) {
        for count in &args.partitions {
            partitions::at_scale::<T>(args, *count, rows).await?;
        }
    }
    if wants(Part::Requests) {
        for _ in 0..args.repetitions {
            requests::at_scale::<T>(args, rows).await?;
        }
    }
    if wants(Part::Fetch) {
        for _ in 0..args.repetitions {
            fetch::beside_sendfile::<T>(args, rows).await?;
        }
    }
    if wants(Part::Tails) {
        for _ in 0..args.repetitions {
            tails::beside_other_work::<T>(args, rows).await?;
        }
    }
    Ok(())
}

fn readme(environment: &Environment, rows: &Rows, failed: Option<&str>) -> String {
    let missed = rows.rows.iter().filter(|row| !row.is_reached());
    let missed: Vec<_> = missed.map(|row| row.name.as_str()).collect();
    let mut lines = vec!["# Limits of one broker".to_owned(), String::new()];
    if !rows.reasons.is_empty() {
        lines.push(format!("- INVALID: {}", rows.reasons.join("; ")));
    }
    let facts = environment.lines();
    lines.extend(facts.into_iter().map(|line| format!("- {line}")));
    lines.push(String::new());
    lines.extend(rows.table().markdown());
    lines.push(String::new());
    if let Some(failed) = failed {
        lines.push(format!("FAILED, this is a part of the measures: {failed}"));
    }
    if missed.is_empty() && failed.is_none() && rows.reasons.is_empty() {
        lines.push("All marks are reached.".to_owned());
    } else if !missed.is_empty() {
        lines.push(format!(
            "Marks that are not reached: {}.",
            missed.join("; ")
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_failed_reaches_no_marks() {
        let environment = Environment::capture(&std::env::temp_dir());
        let of = |failed| readme(&environment, &Rows::default(), failed);
        assert!(of(None).contains("All marks are reached"));
        let failed = of(Some("no broker"));
        assert!(
            failed.contains("FAILED") && failed.contains("no broker"),
            "{failed}"
        );
        assert!(!failed.contains("reached"), "{failed}");
        let mut doubtful = Rows::default();
        doubtful.doubt("16 connections", "the generator was late");
        let told = readme(&environment, &doubtful, None);
        assert!(
            told.contains("INVALID: 16 connections: the generator was late"),
            "{told}"
        );
        assert!(!told.contains("reached"), "{told}");
    }
}
