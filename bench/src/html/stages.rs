//! Where the time of the broker's sampled requests went: a bar of all its stages, and the numbers.

use super::figure::{Figure, Legend};
use super::sections::grid;
use super::svg::{Drawing, escape, time};
use crate::report::Summary;
use crate::resources::{Breakdown, StageTimes};

const WIDTH: f64 = 560.0;
const BAR: f64 = 26.0;
const ROW: f64 = 46.0;
/// Left and right end of a bar.
const ENDS: (f64, f64) = (12.0, 470.0);

/// Name, value and colour of each stage of a bar.
type Pieces<'a> = Vec<(&'a str, f64, usize)>;

/// A bar for the mean of each API, and one for its slowest request; `None` if nothing was sampled.
pub(super) fn bars(summary: &Summary) -> Option<Figure> {
    let all = &summary.resources.broker_stages;
    let mut names: Vec<&str> = Vec::new();
    let mut rows: Vec<(String, f64, Pieces<'_>)> = Vec::new();
    for of in all {
        for times in &of.stages {
            if !names.contains(&times.stage.as_str()) {
                names.push(&times.stage);
            }
        }
        let row = |what: &str, value: fn(&StageTimes) -> Option<f64>| {
            let series = |stage: &str| names.iter().position(|name| *name == stage).unwrap_or(0);
            let pieces = of.stages.iter().map(|times| {
                let us = value(times).unwrap_or(0.0);
                (times.stage.as_str(), us, series(&times.stage))
            });
            let whole = value(&of.whole).filter(|whole| *whole > 0.0)?;
            Some((format!("{}, {what}", of.request), whole, pieces.collect()))
        };
        rows.extend(row("mean", |times| Some(times.mean_us)));
        rows.extend(row("slowest", |times| times.slowest_us));
    }
    if rows.is_empty() {
        return None;
    }
    let height = rows.len() as f64 * ROW + 8.0;
    let mut drawing = Drawing::new(WIDTH, height, "where the time of sampled requests went");
    for (number, (name, whole, pieces)) in rows.iter().enumerate() {
        bar(
            &mut drawing,
            number as f64 * ROW + 16.0,
            (name, *whole),
            pieces,
        );
    }
    let legend = |(series, name): (usize, &&str)| Legend::new(name, series, "block");
    Some(Figure {
        title: "Where the time went in the broker".to_owned(),
        note: "Of sampled requests, from the first byte that the broker saw to the last that the kernel took \
               of the answer. Each bar is a whole of its own length."
            .to_owned(),
        legend: names.iter().enumerate().map(legend).collect(),
        svg: drawing.finish(),
        wide: false,
    })
}

fn bar(drawing: &mut Drawing, top: f64, (name, whole): (&str, f64), pieces: &Pieces<'_>) {
    let (left, right) = ENDS;
    drawing.text((left, top - 3.0), "start", name);
    drawing.text(
        (right + 8.0, top + BAR / 2.0 + 4.0),
        "start strong",
        &time(whole),
    );
    let mut from = left;
    for (stage, us, series) in pieces {
        let width = (right - left) * us / whole;
        if width >= 0.05 {
            let title = escape(&format!("{stage} {}", time(*us)));
            drawing.raw(&format!(
                r#"<rect x="{from:.1}" y="{top:.1}" width="{width:.1}" height="{BAR:.1}" class="bar c{series}" data-s="{series}"><title>{title}</title></rect>"#
            ));
        }
        from += width;
    }
}

/// A table for each API; empty if nothing was sampled.
pub(super) fn tables(summary: &Summary) -> String {
    let mut html = String::new();
    for of in &summary.resources.broker_stages {
        html.push_str(&table(of));
    }
    match html.as_str() {
        "" => html,
        html => format!("<h2>Where the time went</h2>\n{html}"),
    }
}

fn table(of: &Breakdown) -> String {
    let name = format!("{}, {} sampled", of.request, of.samples);
    let columns = [
        name.as_str(),
        "mean",
        "share",
        "p50",
        "p99",
        "in the slowest",
    ];
    let rows = of.rows().map(|times| {
        vec![
            times.stage.clone(),
            time(times.mean_us),
            format!("{:.1} %", of.share(times) * 100.0),
            time(times.p50_us),
            time(times.p99_us),
            times.slowest_us.map_or("-".to_owned(), time),
        ]
    });
    grid(&columns, &rows.collect::<Vec<_>>())
}
