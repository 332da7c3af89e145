//! The report: one page with everything in it, drawn of one result or of several side by side.
//!
//! It needs no network and no scripts: the drawings are SVG made here, and the script in it only shows
//! values under a pointer and hides lines. The results themselves are embedded, whole.

mod chart;
mod costs;
mod curves;
mod figure;
mod heat;
mod percentiles;
mod sections;
mod stages;
mod svg;
mod timeline;

use hdrhistogram::Histogram;

use crate::report::{Document, Latency, Measurement};
pub(crate) use chart::picture;
use figure::Figure;
use percentiles::Line;
use svg::escape;

const STYLE: &str = include_str!("html/page.css");
const SCRIPT: &str = include_str!("html/page.js");
/// More lines than colours cannot be told apart.
const LINES_MAX: usize = 8;
/// Measurements whose own charts are drawn; a page of more would be megabytes of drawings.
const DETAILED_MAX: usize = 24;
/// So many or more are folded together.
const FOLDED_MIN: usize = 6;

/// The whole page.
pub(crate) fn page(documents: &[Document]) -> String {
    let title = documents.iter().map(|of| of.name.clone());
    let title = title.collect::<Vec<_>>().join(" | ");
    let mut body = String::new();
    for document in documents {
        body.push_str(&sections::header(document, documents.len() > 1));
    }
    for table in documents.iter().flat_map(|document| &document.tables) {
        body.push_str(&sections::table(table));
    }
    body.push_str(&overview(documents));
    body.push_str(&measurements(documents));
    body.extend(documents.iter().map(sections::more));
    body.push_str(&sections::environments(documents));
    body.push_str(&sections::raw(documents));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{}: ringlog-bench</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n\
         <div id=\"tip\" hidden></div>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        escape(&title)
    )
}

/// Everything of all documents, in order; labels say of which document if there are several.
fn all(documents: &[Document]) -> Vec<(String, &Measurement)> {
    let named = |document: &Document, measurement: &Measurement| {
        let own = match measurement.group.as_str() {
            "" => &measurement.label,
            group => group,
        };
        match documents.len() {
            0 | 1 => own.to_owned(),
            _ if document.measurements.len() == 1 => document.name.clone(),
            _ => format!("{}: {own}", document.name),
        }
    };
    let of = |document| move |measurement| (document, measurement);
    let pairs = documents
        .iter()
        .flat_map(|document| document.measurements.iter().map(of(document)));
    pairs
        .map(|(document, measurement)| (named(document, measurement), measurement))
        .collect()
}

/// What is drawn of all measurements together.
fn overview(documents: &[Document]) -> String {
    let all = all(documents);
    let mut figures: Vec<Figure> = Vec::new();
    for document in documents {
        figures.extend(curves::effects(&document.effects));
        figures.extend(document.charts.iter().filter_map(chart::figure));
        figures.extend(document.sweeps.iter().filter_map(curves::sweep));
    }
    if all.len() < 2 {
        return grid(&figures);
    }
    figures.extend(together(&all));
    grid(&figures) + &sections::summaries(&all)
}

fn grid(figures: &[Figure]) -> String {
    match figures.len() {
        0 => String::new(),
        _ => format!(
            "<div class=\"grid\">\n{}</div>\n",
            figures.iter().map(Figure::html).collect::<String>()
        ),
    }
}

/// One line for each group: histograms are added, percentiles never averaged.
fn together(all: &[(String, &Measurement)]) -> Option<Figure> {
    let mut groups: Vec<(&str, Vec<&Latency>)> = Vec::new();
    for (name, measurement) in all {
        let latency = &measurement.summary.latency;
        match groups.iter_mut().find(|(group, _)| group == name) {
            Some((_, latencies)) => latencies.push(latency),
            None => groups.push((name, vec![latency])),
        }
    }
    let left_out = groups.len().saturating_sub(LINES_MAX);
    groups.truncate(LINES_MAX);
    let lines = groups
        .iter()
        .enumerate()
        .filter_map(|(series, (name, latencies))| {
            let whole: Option<Vec<_>> = latencies
                .iter()
                .map(|latency| latency.histogram())
                .collect();
            match whole {
                Some(histograms) => Line::of(name, series, &sum(histograms)),
                None => Line::sparse(name, series, latencies.first()?),
            }
        });
    let mut note =
        "In an open loop from the intended send time, in a closed loop from the send: the two \
                    are not comparable."
            .to_owned();
    if left_out > 0 {
        note.push_str(&format!(" {left_out} more are in the table only."));
    }
    percentiles::chart(&lines.collect::<Vec<_>>(), &note)
}

fn sum(histograms: Vec<Histogram<u64>>) -> Histogram<u64> {
    let mut total = crate::phase::histogram();
    for histogram in histograms {
        // What does not fit is beyond two minutes: held at the end, as when it was recorded.
        for value in histogram.iter_recorded() {
            total.saturating_record_n(value.value_iterated_to(), value.count_at_value());
        }
    }
    total
}

/// The charts and tables of each measurement; of many, folded.
fn measurements(documents: &[Document]) -> String {
    let mut html = String::new();
    let count: usize = documents
        .iter()
        .map(|document| document.measurements.len())
        .sum();
    for document in documents {
        for measurement in &document.measurements {
            let figures = grid(&own(measurement));
            let tables = sections::details(measurement);
            if count == 1 {
                html.push_str(&figures);
                html.push_str(&tables);
                continue;
            }
            let name = match documents.len() {
                1 => measurement.label.clone(),
                _ => format!("{}: {}", document.name, measurement.label),
            };
            let figures = if count > DETAILED_MAX {
                ""
            } else {
                figures.as_str()
            };
            html.push_str(&fold(&name, &format!("{figures}{tables}")));
        }
    }
    match count {
        0 | 1 => html,
        count if count > FOLDED_MIN => fold(&format!("Each of the {count} measurements"), &html),
        _ => format!("<h2>Each measurement</h2>\n{html}"),
    }
}

fn fold(name: &str, html: &str) -> String {
    format!(
        "<details class=\"fold\"><summary>{}</summary>\n{html}</details>\n",
        escape(name)
    )
}

fn own(measurement: &Measurement) -> Vec<Figure> {
    let summary = &measurement.summary;
    let line = |name: &str, series, latency: &Latency| match latency.histogram() {
        Some(histogram) => Line::of(name, series, &histogram),
        None => Line::sparse(name, series, latency),
    };
    let mut lines = Vec::new();
    let note = if !summary.is_measured() {
        lines.extend(line("as it was told", 0, &summary.latency));
        "Imported: only the points are known, and they count from the send, not from the intended time."
    } else if summary.open_loop {
        lines.extend(line("from the intended send time", 0, &summary.latency));
        let service = line("service time, from the send", 1, &summary.service_time);
        lines.extend(service.map(|line| line.with_class("dashed")));
        "Open loop. What a user waits counts from the time at which a request was meant to leave; service \
         time leaves out the waiting before it was sent."
    } else {
        lines.extend(line("from the send", 0, &summary.latency));
        "Closed loop: a slow answer delays the requests behind it, so that these are not the latencies of a \
         load that does not wait."
    };
    if let Some(end_to_end) = &measurement.end_to_end {
        lines.extend(line("end to end, to a consumer's receipt", 2, end_to_end));
    }
    let figures = [
        percentiles::chart(&lines, note),
        timeline::load(summary),
        heat::map(summary),
        timeline::machine(summary),
        stages::bars(summary),
    ];
    figures.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests;
