//! Where the latencies of every moment lie: a column for each interval, darker where more are.
//!
//! Shades follow the logarithm of the count, so that a single slow request can be seen beside
//! thousands of fast ones. Columns are merged until there are few enough to be seen.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::figure::Figure;
use super::svg::{Axis, Drawing, count, time};
use super::timeline::{shade, span};
use crate::hdr;
use crate::report::Summary;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 340.0;
const PLOT: (f64, f64, f64, f64) = (66.0, 16.0, 532.0, 290.0);
const COLUMNS_MAX: usize = 120;
/// Rows of a factor of ten.
const ROWS_PER_DECADE: f64 = 10.0;
const SHADES: usize = 7;

struct Column {
    begin_s: f64,
    end_s: f64,
    /// Row to count.
    rows: BTreeMap<i32, u64>,
}

fn columns(summary: &Summary) -> Vec<Column> {
    let merged = summary.intervals.len().div_ceil(COLUMNS_MAX).max(1);
    let column = |intervals: &[crate::series::Interval]| {
        let (first, last) = (intervals.first()?, intervals.last()?);
        let mut rows = BTreeMap::new();
        for interval in intervals {
            let Ok(histogram) = hdr::decode(&interval.hdr_v2_deflate) else {
                continue;
            };
            for value in histogram.iter_recorded() {
                let us = value.value_iterated_to() as f64 / 1e3;
                let row = (us.max(1e-3).log10() * ROWS_PER_DECADE).floor() as i32;
                *rows.entry(row).or_default() += value.count_at_value();
            }
        }
        Some(Column {
            begin_s: first.begin_s,
            end_s: last.begin_s + last.duration_s,
            rows,
        })
    };
    summary
        .intervals
        .chunks(merged)
        .filter_map(column)
        .collect()
}

fn bound(row: i32) -> f64 {
    10f64.powf(f64::from(row) / ROWS_PER_DECADE)
}

/// The chart; `None` with fewer than two intervals or without latencies.
pub(super) fn map(summary: &Summary) -> Option<Figure> {
    let columns = columns(summary);
    let rows = || columns.iter().flat_map(|column| column.rows.iter());
    let (low, high) = (
        rows().map(|(row, _)| *row).min()?,
        rows().map(|(row, _)| *row).max()?,
    );
    let most = rows().map(|(_, count)| *count).max()?;
    if columns.len() < 2 {
        return None;
    }
    let (left, top, right, bottom) = PLOT;
    let x = span(summary);
    let mut y = Axis::log((1.0, 10.0), (bottom, top));
    (y.low, y.high) = (bound(low), bound(high + 1));
    let mut drawing = Drawing::new(WIDTH, HEIGHT, "latencies over time, as a heat map");
    shade(&mut drawing, &x, (top, bottom));
    let mut shades = vec![String::new(); SHADES];
    for column in &columns {
        let (from, to) = (x.at(column.begin_s), x.at(column.end_s));
        let mut told = Vec::new();
        for (row, number) in &column.rows {
            let share = (*number as f64).ln_1p() / (most as f64).ln_1p();
            let shade = ((share * SHADES as f64).ceil() as usize).clamp(1, SHADES) - 1;
            let (below, above) = (y.at(bound(*row)), y.at(bound(row + 1)));
            let (width, height) = ((to - from).max(0.6), below - above);
            write!(
                shades[shade],
                "M{from:.1} {above:.1}h{width:.1}v{height:.1}h-{width:.1}Z"
            )
            .expect("writing to a String does not fail");
            let name = format!("{} to {}", time(bound(*row)), time(bound(row + 1)));
            told.push((name, count(*number as f64)));
        }
        told.reverse();
        told.truncate(14);
        let heading = format!("{:.1} s to {:.1} s", column.begin_s, column.end_s);
        drawing.hint(f64::midpoint(from, to), heading, told);
    }
    for (shade, data) in shades
        .iter()
        .enumerate()
        .filter(|(_, data)| !data.is_empty())
    {
        drawing.raw(&format!(
            "<path d=\"{data}\" class=\"heat h{}\"/>",
            shade + 1
        ));
    }
    drawing.y_axis(&y, (left, right), time);
    drawing.x_axis(&x, (top, bottom), |s| {
        format!("{}\u{a0}s", super::svg::short(s))
    });
    scale(&mut drawing, most, (left, HEIGHT - 14.0));
    Some(Figure {
        title: "Where every latency lies".to_owned(),
        note: String::new(),
        legend: Vec::new(),
        svg: drawing.finish(),
        wide: false,
    })
}

fn scale(drawing: &mut Drawing, most: u64, (left, y): (f64, f64)) {
    drawing.text((left, y + 8.0), "start faint", "1 request");
    for shade in 1..=SHADES {
        let from = left + 62.0 + shade as f64 * 18.0;
        drawing.rect((from, y), (from + 17.0, y + 9.0), &format!("heat h{shade}"));
    }
    let last = left + 62.0 + (SHADES + 1) as f64 * 18.0 + 8.0;
    drawing.text((last, y + 8.0), "start faint", &count(most as f64));
}
