//! Charts of several runs: a dial against latency, and what a comparison found.

use super::figure::{Figure, Legend};
use super::svg::{Axis, Drawing, count, time};
use crate::report::{Effect, Latency};
use crate::table::{Point, Sweep};

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 340.0;
const PLOT: (f64, f64, f64, f64) = (66.0, 16.0, 532.0, 290.0);

type Value = fn(&Latency) -> f64;

/// Rate against latency: where a broker bends.
pub(super) fn sweep(sweep: &Sweep) -> Option<Figure> {
    let told = sweep
        .points
        .iter()
        .filter(|point| point.latency.p50_us > 0.0);
    let told: Vec<_> = told.collect();
    if told.is_empty() {
        return None;
    }
    let mut names: Vec<&str> = Vec::new();
    for point in &told {
        if !names.contains(&point.line.as_str()) {
            names.push(&point.line);
        }
    }
    let objective = sweep.objective.iter().map(|objective| objective.limit_us);
    let fold = |of: fn(f64, f64) -> f64, values: &mut dyn Iterator<Item = f64>| values.reduce(of);
    let low = fold(f64::min, &mut told.iter().map(|point| point.latency.p50_us))?;
    let tops = told
        .iter()
        .map(|point| point.latency.p99_us)
        .chain(objective);
    let high = fold(f64::max, &mut { tops })?;
    let first = fold(f64::min, &mut told.iter().map(|point| point.value))?;
    let last = fold(f64::max, &mut told.iter().map(|point| point.value))?;
    let (left, top, right, bottom) = PLOT;
    let is_wide = first > 0.0 && last / first > 20.0;
    let x = if is_wide {
        Axis::log((first, last), (left, right))
    } else {
        Axis::linear((first.min(0.0), last * 1.04), (left, right))
    };
    let y = Axis::log((low, high), (bottom, top));
    let mut drawing = Drawing::new(WIDTH, HEIGHT, &sweep.title);
    drawing.y_axis(&y, (left, right), time);
    drawing.x_axis(&x, (top, bottom), count);
    drawing.text(
        (f64::midpoint(left, right), HEIGHT - 8.0),
        "middle label",
        &sweep.variable,
    );
    if let Some(objective) = &sweep.objective {
        let at = y.at(objective.limit_us);
        drawing.line((left, at), (right, at), "limit");
        let text = format!(
            "{} \u{2264} {}",
            objective.percentile,
            time(objective.limit_us)
        );
        drawing.text((left + 6.0, at - 6.0), "start faint", &text);
    }
    let mut legend = Vec::new();
    for (series, name) in names.iter().enumerate() {
        let of = told.iter().filter(|point| point.line == **name);
        let mut of: Vec<_> = of.copied().collect();
        of.sort_by(|a, b| a.value.total_cmp(&b.value));
        draw_line(&mut drawing, &of, (series, name), (&x, &y));
        legend.push(Legend::new(&format!("{name} p99"), series, ""));
        legend.push(Legend::new(&format!("{name} p50"), series, "dashed"));
    }
    for point in &told {
        drawing.hint(x.at(point.value), heading(point), rows(point));
    }
    Some(Figure {
        title: sweep.title.clone(),
        note: "Hollow points mean nothing, and no line goes through them: the generator was late."
            .to_owned(),
        legend,
        svg: drawing.finish(),
        wide: false,
    })
}

fn draw_line(
    drawing: &mut Drawing,
    points: &[&Point],
    (series, name): (usize, &str),
    (x, y): (&Axis, &Axis),
) {
    let p99: Value = |latency| latency.p99_us;
    let p50: Value = |latency| latency.p50_us;
    for (class, value) in [("", p99), ("dashed", p50)] {
        let at = |point: &&Point| (x.at(point.value), y.at(value(&point.latency)));
        let valid = points.iter().filter(|point| point.reasons.is_empty());
        drawing.curve(&valid.map(at).collect::<Vec<_>>(), series, class);
        for point in points {
            let hollow = if point.reasons.is_empty() {
                ""
            } else {
                "hollow"
            };
            let what = format!("{name}: {}", heading(point));
            drawing.dot(at(point), series, (hollow, &what));
        }
    }
}

fn heading(point: &Point) -> String {
    format!("{} at {}", point.line, count(point.value))
}

fn rows(point: &Point) -> Vec<(String, String)> {
    let mut rows = vec![
        ("records/s".to_owned(), count(point.records_per_s)),
        ("MB/s".to_owned(), count(point.megabytes_per_s)),
        ("p50".to_owned(), time(point.latency.p50_us)),
        ("p99".to_owned(), time(point.latency.p99_us)),
        ("p99.9".to_owned(), time(point.latency.p99_9_us)),
    ];
    let cpu = point.broker_cpu_us_per_request;
    rows.extend(cpu.map(|us| ("broker CPU/request".to_owned(), time(us))));
    rows.extend(
        point
            .reasons
            .iter()
            .map(|reason| ("invalid".to_owned(), reason.clone())),
    );
    rows
}

/// Changes of round shares, the two largest that fit, and none.
fn ticks(reach: f64) -> Vec<f64> {
    let shares = [
        0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 3.0, 9.0,
    ];
    let fitting = shares
        .iter()
        .map(|share: &f64| share.ln_1p())
        .filter(|tick| *tick <= reach * 0.97);
    let fitting: Vec<_> = fitting.collect();
    let largest = &fitting[fitting.len().saturating_sub(2)..];
    let below = largest.iter().rev().map(|tick| -tick);
    below.chain([0.0]).chain(largest.iter().copied()).collect()
}

/// The logarithm of a ratio as a change.
fn change(logarithm: f64) -> String {
    if logarithm.abs() > 10f64.ln() {
        return if logarithm > 0.0 { "> x10" } else { "< /10" }.to_owned();
    }
    let change = (logarithm.exp() - 1.0) * 100.0;
    let sign = if change > 0.0 { "+" } else { "" };
    format!("{sign}{}\u{a0}%", super::svg::short(change))
}

fn bar(drawing: &mut Drawing, of: &Effect, (left, y): (f64, f64), x: &Axis) {
    let series = match of.verdict.as_str() {
        "faster" => 2,
        "slower" => 3,
        "same" => 0,
        _ => 7,
    };
    let decides = if of.decides { " (decides)" } else { "" };
    let measure = format!("{}{decides}", of.measure);
    drawing.text((left, y - 33.0), "start strong", &measure);
    let told = format!(
        "{} [{}, {}]: {}",
        change(of.ratio.ln()),
        change(of.low.ln()),
        change(of.high.ln()),
        of.verdict
    );
    drawing.text((left, y - 15.0), "start", &told);
    let detectable = of.detectable_share.ln_1p();
    for side in [-1.0, 1.0] {
        let at = x.at(side * detectable);
        drawing.line((at, y - 8.0), (at, y + 8.0), "detectable");
    }
    let (low, high) = (x.at(of.low.ln()), x.at(of.high.ln()));
    let class = format!("interval c{series}");
    drawing.rect((low, y - 4.0), (high.max(low + 1.0), y + 4.0), &class);
    drawing.dot((x.at(of.ratio.ln()), y), series, ("", &told));
}

/// One bar for each measure: the ratio, its interval, and what could have been found.
pub(super) fn effects(effects: &[Effect]) -> Option<Figure> {
    let edges = effects.iter().flat_map(|of| [of.low, of.high, of.ratio]);
    let edges = edges.filter(|value| value.is_finite() && *value > 0.0);
    let widest = edges.map(|value| value.ln().abs()).fold(0.0, f64::max);
    if effects.is_empty() {
        return None;
    }
    let margin = effects.first().map_or(0.0, |of| of.margin_share);
    let reach = (widest * 1.15)
        .max((1.0 + margin).ln() * 3.0)
        .max(0.01)
        .min(10f64.ln());
    let row = 72.0;
    let (left, right, top) = (24.0, 536.0, 18.0);
    let bottom = top + row * effects.len() as f64;
    let x = Axis::linear((-reach, reach), (left, right));
    let mut drawing = Drawing::new(WIDTH, bottom + 46.0, "B divided by A");
    let bounds = ((1.0 + margin).ln(), -(1.0 + margin).ln());
    drawing.rect((x.at(bounds.1), top), (x.at(bounds.0), bottom), "margin");
    for tick in ticks(reach) {
        drawing.line((x.at(tick), top), (x.at(tick), bottom), "grid");
        drawing.text((x.at(tick), bottom + 18.0), "middle", &change(tick));
    }
    drawing.line((x.at(0.0), top), (x.at(0.0), bottom), "axis");
    for (index, of) in effects.iter().enumerate() {
        bar(
            &mut drawing,
            of,
            (left, top + row * (index as f64 + 0.8)),
            &x,
        );
    }
    let legend = "B / A: dot = mean, bar = 95 % interval, band = margin, ticks = detectable";
    drawing.text(
        (f64::midpoint(left, right), bottom + 38.0),
        "middle label",
        legend,
    );
    Some(Figure {
        title: "What differs, and how surely".to_owned(),
        note: "Detectable is the smallest change that these pairs would have found eight times in ten: \
               a smaller one may be there and unseen."
            .to_owned(),
        legend: Vec::new(),
        svg: drawing.finish(),
        wide: false,
    })
}
