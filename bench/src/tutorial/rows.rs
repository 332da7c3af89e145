//! The table of the tutorial's loop: as it comes on a terminal, and as a result keeps it.

use super::{Body, Driver, Measured, Row};
use crate::environment::Environment;
use crate::report::{Latency, Measurement, fields};
use crate::table::{Cell, Chart, Line, Point, Sweep, Table};

const HEAD: [&str; 11] = [
    "scale",
    "messages",
    "target",
    "driver",
    "1st loop s",
    "2nd loop s",
    "produce/s",
    "consume/s",
    "produce p50/p99 us",
    "e2e p50/p99 us",
    "broker CPU us",
];

const NOTES: [&str; 3] = [
    "loop: JSON messages, acks=1; then a group reads them, commits and leaves. Native: one message a request, \
     at most 5 in flight a connection, one connection a partition (1, 4, 8 or 16), the formats of 0.10 or \
     the oldest that the broker serves. Literal clients: one process that produces, then one that consumes; \
     they put what waits into batches (the settings of each stand with its client), so that their broker \
     gets fewer requests than messages",
    "1st loop: on a fresh broker, the topic is there. 2nd: once more. Of literal clients the start of the \
     processes is in them",
    "produce: from send to acknowledgement in a closed loop, so not comparable between clients that keep \
     more or less in flight. e2e: from send to receipt, in a pass where the group waits. broker CPU: us a \
     message of the 2nd loop without the check of the log, `-` where it used less than 0.1 s",
];

/// The head of the table on a terminal.
pub(super) fn head() -> String {
    laid_out(&HEAD.map(str::to_owned))
}

/// A row of it.
pub(super) fn line(row: &Row) -> String {
    laid_out(&row.cells())
}

fn laid_out(cells: &[String]) -> String {
    const WIDTHS: [usize; 11] = [6, 9, 14, 13, 11, 11, 10, 10, 20, 18, 14];
    let padded = cells.iter().zip(WIDTHS);
    let padded: String = padded
        .map(|(cell, width)| format!("{cell:<width$} "))
        .collect();
    padded.trim_end().to_owned()
}

impl Row {
    /// Which curve it is a point of.
    fn line(&self) -> String {
        format!("{} on {}", self.driver.name(), self.target)
    }

    fn point(&self, latency: fn(&Measured) -> &Latency) -> Option<Point> {
        let measured = self.measured.as_ref()?;
        Some(Point {
            line: self.line(),
            value: self.shape.scale as f64,
            requests_per_s: measured.produced_per_s,
            records_per_s: measured.produced_per_s,
            megabytes_per_s: 0.0,
            latency: latency(measured).clone(),
            broker_cpu_us_per_request: measured.broker_cpu_us_per_message,
            reasons: self.failed.iter().cloned().collect(),
        })
    }

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![
            format!("x{}", self.shape.scale),
            self.shape.messages.to_string(),
            self.target.clone(),
            self.driver.name().to_owned(),
        ];
        let Some(measured) = &self.measured else {
            let reason = self.failed.as_deref().unwrap_or("not run");
            cells.push(format!("FAILED: {}", reason.replace('\n', " ")));
            return cells;
        };
        let pair = |latency: &Latency| format!("{:.0}/{:.0}", latency.p50_us(), latency.p99_us());
        let cpu = measured.broker_cpu_us_per_message;
        cells.extend([
            format!("{:.3}", measured.first_loop_s),
            format!("{:.3}", measured.second_loop_s),
            format!("{:.0}", measured.produced_per_s),
            format!("{:.0}", measured.consumed_per_s),
            pair(&measured.produce),
            pair(&measured.end_to_end),
            cpu.map_or("-".to_owned(), |cpu| format!("{cpu:.2}")),
        ]);
        cells
    }
}

/// What the folder's README says.
pub(super) fn readme(environment: &Environment, body: &Body, failed: &[String]) -> String {
    let mut lines = vec![
        "# The tutorial's loop, and what becomes of it".to_owned(),
        String::new(),
    ];
    let mut measured = body.rows.iter().filter_map(|row| row.measured.as_ref());
    let all_verified = measured.all(|measured| measured.verified);
    lines.push(match failed {
        [] if all_verified => {
            "- valid: every message of every pass was there, once, in order".to_owned()
        }
        [] => {
            "- valid, but the logs of the native loops were not read back (--no-verify)".to_owned()
        }
        failed => format!("- FAILED: {}", failed.join("; ")),
    });
    lines.extend(
        environment
            .lines()
            .into_iter()
            .map(|line| format!("- {line}")),
    );
    lines.push(format!(
        "- generator of the native loop on {}; {} messages a scale",
        body.io, body.loop_messages
    ));
    lines.push(String::new());
    lines.extend(body.table().markdown());
    lines.push(String::new());
    lines.push("Clients and brokers:".to_owned());
    for row in &body.rows {
        let client = row
            .measured
            .as_ref()
            .map_or("-", |measured| &measured.client);
        lines.push(format!(
            "- x{} {client}: `{}`",
            row.shape.scale, row.command
        ));
    }
    lines.join("\n") + "\n"
}

impl Body {
    /// What the charts are drawn of.
    pub(super) fn measurements(&self) -> Vec<Measurement> {
        let of = |row: &Row| {
            let (workload, summary) = row.measured.as_ref()?.produce_summary.as_ref()?;
            let label = format!("x{} {}", row.shape.scale, row.line());
            let workload = fields(workload);
            Some(Measurement::new(
                &label,
                &row.command,
                workload,
                summary.clone(),
            ))
        };
        self.rows.iter().filter_map(of).collect()
    }

    /// What a person reads first.
    pub(super) fn table(&self) -> Table {
        let row = |row: &Row| {
            let number =
                |text: &String| text.parse().map_or(Cell::Text(text.clone()), Cell::Number);
            let mut cells: Vec<_> = row.cells().iter().map(number).collect();
            cells.resize(HEAD.len(), Cell::of(None));
            cells
        };
        Table {
            title: "The loop, by scale".to_owned(),
            columns: HEAD.map(str::to_owned).to_vec(),
            rows: self.rows.iter().map(row).collect(),
            notes: NOTES.map(str::to_owned).to_vec(),
        }
    }

    /// Over the messages: how long the loop takes, and what a message costs the broker.
    pub(super) fn charts(&self) -> Vec<Chart> {
        let is_native = self.rows.iter().all(|row| row.driver == Driver::Native);
        let chart = |title: &str, y: &str, value: fn(&Measured) -> Option<f64>| {
            let mut lines: Vec<Line> = Vec::new();
            for row in &self.rows {
                let Some(y) = row.measured.as_ref().and_then(value) else {
                    continue;
                };
                let point = (row.shape.messages as f64, y);
                let name = match is_native {
                    true => row.target.clone(),
                    false => row.line(),
                };
                match lines.iter_mut().find(|line| line.name == name) {
                    Some(line) => line.points.push(point),
                    None => lines.push(Line {
                        name,
                        points: vec![point],
                    }),
                }
            }
            for line in &mut lines {
                line.points.sort_by(|(a, _), (b, _)| a.total_cmp(b));
            }
            Chart {
                title: title.to_owned(),
                x: "messages".to_owned(),
                y: y.to_owned(),
                lines,
            }
        };
        vec![
            chart(
                "The tutorial's loop: seconds to produce and consume all messages",
                "s",
                |measured| Some(measured.second_loop_s),
            ),
            chart("Broker CPU per message", "us", |measured| {
                measured.broker_cpu_us_per_message
            }),
        ]
    }

    /// Over the scale: what is produced, and how late it comes.
    pub(super) fn curves(&self) -> Vec<Sweep> {
        let curve = |title: &str, latency: fn(&Measured) -> &Latency| Sweep {
            title: title.to_owned(),
            variable: "scale".to_owned(),
            points: self
                .rows
                .iter()
                .filter_map(|row| row.point(latency))
                .collect(),
            objective: None,
        };
        vec![
            curve("Produce, by scale", |measured| &measured.produce),
            curve("End to end, by scale", |measured| &measured.end_to_end),
        ]
    }
}
