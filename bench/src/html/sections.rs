//! The parts of the page that are words and tables.

use super::svg::{count, escape, short, time};
use super::{costs, stages};
use crate::report::{Document, Latency, Measurement, Status, Summary};
use crate::resources::{Count, PERF};
use crate::table::{Table, digits};

/// Beyond this share of the machine in other hands the numbers are doubtful.
const FOREIGN_SHARE_MAX: f64 = 0.05;
const STEAL_SHARE_MAX: f64 = 0.01;

/// Verdict, key numbers, command.
pub(super) fn header(document: &Document, one_of_several: bool) -> String {
    let (class, word) = match (document.status, &document.imported_from) {
        (Status::Valid, Some(_)) => ("imported", "imported"),
        (Status::Valid, None) => ("valid", "valid"),
        (Status::Invalid, _) => ("invalid", "invalid"),
        (Status::Failed, _) => ("invalid", "failed"),
    };
    let mut html = format!(
        "<header class=\"card head\">\n<div class=\"verdict {class}\">{word}</div>\n\
         <p class=\"kind\">ringlog-bench {}</p>\n<h1>{}</h1>\n",
        escape(&document.kind),
        escape(&document.name)
    );
    let mut where_from = Vec::new();
    if let Some(environment) = &document.environment {
        where_from.push(environment.machine_line());
        where_from.push(format!("commit {}", environment.commit()));
        where_from.push(environment.started().to_owned());
    }
    where_from.extend(
        document
            .imported_from
            .iter()
            .map(|from| format!("imported from {from}")),
    );
    html.push_str(&format!(
        "<p class=\"where\">{}</p>\n",
        escape(&where_from.join(" \u{b7} "))
    ));
    if !document.reasons.is_empty() {
        html.push_str(&list("reasons", &document.reasons));
    }
    if let [measurement] = document.measurements.as_slice() {
        html.push_str(&tiles(&measurement.summary));
    }
    let cautions = cautions(document);
    if !cautions.is_empty() {
        html.push_str(&list("cautions", &cautions));
    }
    if let Some(environment) = &document.environment {
        html.push_str(&format!(
            "<div class=\"command\"><code>{}</code><button type=\"button\" data-copy hidden>copy</button></div>\n",
            escape(&environment.command())
        ));
    }
    if !one_of_several && let [measurement] = document.measurements.as_slice() {
        let target = escape(&measurement.target);
        let is_ours = measurement.summary.is_measured();
        let what = if is_ours { "broker" } else { "told by" };
        html.push_str(&format!(
            "<p class=\"where\">{what}: <code>{target}</code></p>\n"
        ));
    }
    html + "</header>\n"
}

fn list(class: &str, lines: &[String]) -> String {
    let items = lines
        .iter()
        .map(|line| format!("<li>{}</li>", escape(line)));
    format!("<ul class=\"{class}\">{}</ul>\n", items.collect::<String>())
}

fn tiles(summary: &Summary) -> String {
    let mut tiles = vec![
        (count(summary.records_per_s), "records/s"),
        (count(summary.megabytes_per_s), "MB/s"),
    ];
    let latency = &summary.latency;
    if latency.count > 0 {
        tiles.push((time(latency.p50_us), "p50"));
        tiles.push((time(latency.p99_us), "p99"));
        tiles.push((time(latency.p99_9_us), "p99.9"));
        tiles.push((time(latency.max_us), "max"));
    }
    let cpu = summary.broker_cpu_us_per_request;
    tiles.extend(cpu.map(|us| (time(us), "broker CPU a request")));
    let broker = summary.resources.broker;
    tiles.extend(broker.map(|broker| (mebibytes(broker.resident_bytes_max), "broker memory, max")));
    let tile = |(value, name): &(String, &str)| {
        format!(
            "<div class=\"tile\"><b>{}</b><span>{name}</span></div>",
            escape(value)
        )
    };
    format!(
        "<div class=\"tiles\">{}</div>\n",
        tiles.iter().map(tile).collect::<String>()
    )
}

/// Bytes as MiB.
pub(super) fn mebibytes(bytes: u64) -> String {
    format!("{}\u{a0}MiB", short(bytes as f64 / f64::from(1 << 20)))
}

/// What a careful reader asks first.
fn cautions(document: &Document) -> Vec<String> {
    let mut cautions = Vec::new();
    if let Some(environment) = &document.environment {
        if environment.profile() != "release" {
            let profile = environment.profile();
            cautions.push(format!(
                "the generator is a {profile} build: its own CPU time is not a release's"
            ));
        }
        if environment.commit().ends_with("-dirty") {
            cautions.push("the work tree had changes that no commit has".to_owned());
        }
    }
    let summaries = document.measurements.iter().map(|of| &of.summary);
    let counts_calls = |of: &Summary| {
        let counted = &of.resources.broker_system_calls;
        matches!(counted, Count::Counted { source, .. } if source.starts_with(PERF))
    };
    if summaries.clone().any(counts_calls) {
        cautions.push(
            "system calls were counted by perf (--count-system-calls), which slows every one of them: not \
             for latencies or CPU times"
                .to_owned(),
        );
    }
    let summaries: Vec<_> = summaries
        .filter(|of| of.resources.machine.elapsed_s > 0.0)
        .collect();
    let share = |of: &Summary, seconds: f64| {
        let machine = &of.resources.machine;
        seconds / (machine.elapsed_s * machine.cpus as f64)
    };
    let worst =
        |value: &dyn Fn(&Summary) -> f64| summaries.iter().map(|of| value(of)).fold(0.0, f64::max);
    let foreign = worst(&|of| share(of, of.resources.machine.foreign_cpu_s));
    if foreign > FOREIGN_SHARE_MAX {
        cautions.push(format!(
            "others used up to {:.0} % of the machine's CPU time meanwhile: CPU times hold, rates and \
             latencies may not",
            foreign * 100.0
        ));
    }
    let steal = worst(&|of| share(of, of.resources.machine.steal_s));
    if steal > STEAL_SHARE_MAX {
        let per_cent = steal * 100.0;
        cautions.push(format!(
            "the hypervisor took up to {per_cent:.1} % of the machine's CPU time"
        ));
    }
    if summaries.iter().any(|of| of.verified_records.is_none()) {
        cautions.push("not everything was read back and compared (--no-verify)".to_owned());
    }
    cautions
}

/// One row for each measurement of all results.
pub(super) fn summaries(all: &[(String, &Measurement)]) -> String {
    const COLUMNS: [&str; 13] = [
        "",
        "records/s",
        "MB/s",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "max",
        "CPU/request",
        "CPU s/GB",
        "ring entries / record",
        "device bytes / byte",
        "memory, max",
    ];
    let grouped = all.iter().any(|(_, of)| !of.group.is_empty());
    let rows = all.iter().map(|(name, of)| {
        let summary = &of.summary;
        let latency = &summary.latency;
        let us = |value: f64| {
            if latency.count > 0 {
                time(value)
            } else {
                "-".to_owned()
            }
        };
        let number = |value: Option<f64>| value.map_or("-".to_owned(), digits);
        let broker = summary.resources.broker;
        let name = if grouped { &of.label } else { name };
        vec![
            name.clone(),
            digits(summary.records_per_s),
            digits(summary.megabytes_per_s),
            us(latency.p50_us),
            us(latency.p90_us),
            us(latency.p99_us),
            us(latency.p99_9_us),
            us(latency.max_us),
            summary
                .broker_cpu_us_per_request
                .map_or("-".to_owned(), time),
            number(summary.broker_cpu_s_per_gigabyte),
            number(summary.ring_entries_per_record),
            number(summary.device_write_amplification),
            broker.map_or("-".to_owned(), |of| mebibytes(of.resident_bytes_max)),
        ]
    });
    format!(
        "<h2>Measurements</h2>\n{}",
        grid(&COLUMNS, &rows.collect::<Vec<_>>())
    )
}

/// A table.
pub(super) fn grid(columns: &[&str], rows: &[Vec<String>]) -> String {
    let head = columns
        .iter()
        .map(|name| format!("<th>{}</th>", escape(name)));
    let row = |cells: &Vec<String>| {
        let cells = cells
            .iter()
            .map(|cell| format!("<td>{}</td>", escape(cell)));
        format!("<tr>{}</tr>\n", cells.collect::<String>())
    };
    format!(
        "<div class=\"scroll card\"><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{}</tbody></table></div>\n",
        head.collect::<String>(),
        rows.iter().map(row).collect::<String>()
    )
}

/// A table of the result itself.
pub(super) fn table(table: &Table) -> String {
    let columns: Vec<_> = table.columns.iter().map(String::as_str).collect();
    let rows: Vec<Vec<_>> = table
        .rows
        .iter()
        .map(|row| row.iter().map(crate::table::Cell::text).collect())
        .collect();
    let notes = match table.notes.len() {
        0 => String::new(),
        _ => list("notes", &table.notes),
    };
    format!(
        "<h2>{}</h2>\n{}{notes}",
        escape(&table.title),
        grid(&columns, &rows)
    )
}

/// Latencies, resources and workload of one measurement.
pub(super) fn details(measurement: &Measurement) -> String {
    let summary = &measurement.summary;
    let names = match summary.open_loop {
        true => [
            "latency, from the intended time",
            "service time, from the send",
        ],
        false => ["latency, from the send", "service time, from the send"],
    };
    let mut rows = vec![latencies(names[0], &summary.latency)];
    if summary.open_loop {
        rows.push(latencies(names[1], &summary.service_time));
        rows.push(latencies("the generator's own lag", &summary.generator_lag));
    }
    if let Some(end_to_end) = &measurement.end_to_end {
        let names = [
            "end to end, from the send",
            "end to end, from the intended time",
        ];
        rows.push(latencies(names[usize::from(summary.open_loop)], end_to_end));
    }
    let columns = [
        "", "requests", "min", "mean", "p50", "p75", "p90", "p95", "p99", "p99.9", "p99.99", "max",
    ];
    let mut html = String::new();
    if summary.latency.count > 0 {
        html.push_str(&format!("<h2>Latency</h2>\n{}", grid(&columns, &rows)));
    }
    if summary.is_measured() {
        html.push_str(&stages::tables(summary));
        html.push_str(&format!("<h2>What it cost</h2>\n{}", costs::table(summary)));
    }
    let workload = measurement.workload.iter().map(|(name, value)| {
        let text = match value {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        vec![name.replace('_', " "), text]
    });
    let workload: Vec<_> = workload.collect();
    if !workload.is_empty() {
        html.push_str("<h2>Workload</h2>\n");
        html.push_str(&pairs(&workload));
    }
    html
}

fn latencies(name: &str, latency: &Latency) -> Vec<String> {
    let mut row = vec![name.to_owned(), digits(latency.count as f64)];
    let told = [
        latency.min_us,
        latency.mean_us,
        latency.p50_us,
        latency.p75_us,
        latency.p90_us,
        latency.p95_us,
        latency.p99_us,
        latency.p99_9_us,
        latency.p99_99_us,
        latency.max_us,
    ];
    row.extend(told.map(time));
    row
}

fn pairs(rows: &[Vec<String>]) -> String {
    let row = |cells: &Vec<String>| {
        let cell = |place: usize| escape(cells.get(place).map_or("", String::as_str));
        format!("<div><dt>{}</dt><dd>{}</dd></div>\n", cell(0), cell(1))
    };
    format!(
        "<dl class=\"card\">\n{}</dl>\n",
        rows.iter().map(row).collect::<String>()
    )
}

/// What only this kind of result has.
pub(super) fn more(document: &Document) -> String {
    let mut rows = Vec::new();
    for (name, value) in &document.details {
        crate::environment::flatten(name, value, &mut rows);
    }
    // Whole histograms and lists of numbers are for programs.
    rows.retain(|(_, text)| text.len() < 300);
    let rows = rows
        .into_iter()
        .map(|(name, value)| vec![name.replace('_', " "), value]);
    let rows: Vec<_> = rows.collect();
    match rows.len() {
        0 => String::new(),
        _ => format!(
            "<details class=\"fold\"><summary>More of {}</summary>\n{}</details>\n",
            escape(&document.name),
            pairs(&rows)
        ),
    }
}

/// Where it was measured; of several results first what differs.
pub(super) fn environments(documents: &[Document]) -> String {
    let with = documents
        .iter()
        .filter_map(|document| Some((document, document.environment.as_ref()?)));
    let with: Vec<_> = with.collect();
    if with.is_empty() {
        return String::new();
    }
    let mut html = String::new();
    if with.len() > 1 {
        html.push_str(&differences(&with));
    }
    for (document, environment) in &with {
        let rows = environment
            .flat()
            .into_iter()
            .map(|(name, value)| vec![name, value]);
        let name = if with.len() > 1 {
            format!(" of {}", document.name)
        } else {
            String::new()
        };
        html.push_str(&format!(
            "<details class=\"fold\"><summary>Environment{}</summary>\n{}</details>\n",
            escape(&name),
            pairs(&rows.collect::<Vec<_>>())
        ));
    }
    format!("<h2>Environment</h2>\n{html}")
}

/// Differ in every run and mean nothing.
const ALWAYS_DIFFERENT: [&str; 4] = [
    "started_utc",
    "load_average",
    "storage.free_bytes",
    "cpu.megahertz",
];

fn differences(with: &[(&Document, &crate::environment::Environment)]) -> String {
    let flat: Vec<_> = with
        .iter()
        .map(|(_, environment)| environment.flat())
        .collect();
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in flat.iter().flatten() {
        if !names.contains(&name) && !ALWAYS_DIFFERENT.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let mut rows = Vec::new();
    for name in names {
        let value = |rows: &Vec<(String, String)>| {
            let found = rows.iter().find(|(key, _)| key == name);
            found.map_or("-".to_owned(), |(_, value)| value.clone())
        };
        let values: Vec<_> = flat.iter().map(value).collect();
        if values.windows(2).any(|pair| pair[0] != pair[1]) {
            rows.push([vec![name.clone()], values].concat());
        }
    }
    if rows.is_empty() {
        return "<p class=\"note\">The environments are the same in everything that is recorded.</p>\n".to_owned();
    }
    let mut columns = vec!["differs in"];
    columns.extend(with.iter().map(|(document, _)| document.name.as_str()));
    grid(&columns, &rows).replacen("scroll card", "scroll card words", 1)
}

/// The results, whole.
pub(super) fn raw(documents: &[Document]) -> String {
    let mut html = String::new();
    for (index, document) in documents.iter().enumerate() {
        let json = serde_json::to_string(document).unwrap_or_default();
        // In a script element only `</` could end it, and only `<!--` could hide its end.
        let json = json.replace('<', "\\u003c");
        html.push_str(&format!(
            "<script type=\"application/json\" id=\"result-{index}\">{json}</script>\n"
        ));
    }
    let buttons = documents.iter().enumerate().map(|(index, document)| {
        format!(
            "<button type=\"button\" data-save=\"result-{index}\" data-name=\"{0}.json\" hidden>save {0}.json</button> ",
            escape(&document.name)
        )
    });
    format!(
        "{html}<footer><p>The whole results are in this page: every histogram can be read from it again \
         (HdrHistogram V2, base64). {}</p></footer>\n",
        buttons.collect::<String>()
    )
}
