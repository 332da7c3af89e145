//! What happened when: throughput, percentiles of each interval, CPU and device; warm-up is shaded.

use super::figure::{Figure, Legend};
use super::svg::{Axis, Drawing, count, short, time};
use crate::report::Summary;
use crate::series::{Interval, Sample};

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 66.0;
const RIGHT: f64 = 532.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 290.0;

type Value = fn(&Interval) -> f64;
type Part = fn(&Sample) -> f64;

/// From the first interval, warm-up included, to the last.
pub(super) fn span(summary: &Summary) -> Axis {
    let first = summary.intervals.first().map_or(0.0, |first| first.begin_s);
    let last = summary.intervals.last();
    let last = last.map_or(summary.elapsed_s, |last| last.begin_s + last.duration_s);
    Axis::linear((first.min(0.0), last.max(1e-3)), (LEFT, RIGHT))
}

/// Shades the warm-up.
pub(super) fn shade(drawing: &mut Drawing, x: &Axis, (top, bottom): (f64, f64)) {
    if x.low < 0.0 {
        drawing.rect((x.at(x.low), top), (x.at(0.0), bottom), "warm");
        if x.at(0.0) - LEFT > 55.0 {
            drawing.text((LEFT + 6.0, bottom - 7.0), "start faint", "warm-up");
        }
    }
}

fn seconds(value: f64) -> String {
    format!("{}\u{a0}s", short(value))
}

/// Throughput above, percentiles below.
pub(super) fn load(summary: &Summary) -> Option<Figure> {
    let intervals = &summary.intervals;
    if intervals.len() < 2 {
        return None;
    }
    let x = span(summary);
    let mut drawing = Drawing::new(WIDTH, HEIGHT, "throughput and latency over time");
    let middle = 120.0;
    let most = intervals
        .iter()
        .map(|of| of.records_per_s)
        .fold(0.0, f64::max);
    let y = Axis::linear((0.0, most * 1.08), (middle, TOP + 14.0));
    shade(&mut drawing, &x, (TOP + 14.0, BOTTOM));
    drawing.y_axis(&y, (LEFT, RIGHT), count);
    drawing.text((LEFT, TOP + 5.0), "start label", "records/s");
    let steps = steps(intervals, &x, |of| y.at(of.records_per_s));
    let mut area = steps.clone();
    area.extend([(x.at(x.high), middle), (x.at(x.low), middle)]);
    let data = super::svg::path(&area);
    drawing.raw(&format!("<path d=\"{data}Z\" class=\"area c0\"/>"));
    drawing.curve(&steps, 0, "");

    let mut legend = vec![Legend::new("records/s", 0, "")];
    let with = || intervals.iter().filter(|of| of.max_us > 0.0);
    let least = |of: &Interval| of.p50_us.min(of.max_us);
    let low = with().map(least).fold(f64::MAX, f64::min);
    let high = with().map(|of| of.max_us).fold(0.0, f64::max);
    if high > 0.0 {
        let y = Axis::log((low, high), (BOTTOM, middle + 36.0));
        drawing.y_axis(&y, (LEFT, RIGHT), time);
        drawing.text((LEFT, middle + 26.0), "start label", "latency");
        let lines: [(&str, usize, Value); 3] = [
            ("max", 3, |of| of.max_us),
            ("p99", 1, |of| of.p99_us),
            ("p50", 2, |of| of.p50_us),
        ];
        for (name, series, value) in lines {
            let known = with().filter(|of| value(of).is_finite());
            let points = known.map(|of| {
                let at = of.begin_s + of.duration_s / 2.0;
                (x.at(at), y.at(value(of)))
            });
            let points: Vec<_> = points.collect();
            if !points.is_empty() {
                legend.push(Legend::new(name, series, ""));
            }
            drawing.curve(&points, series, "");
        }
    }
    drawing.x_axis(&x, (TOP + 14.0, BOTTOM), seconds);
    for of in intervals {
        let heading = format!(
            "{} to {}",
            seconds(of.begin_s),
            seconds(of.begin_s + of.duration_s)
        );
        let mut rows = vec![
            ("records/s".to_owned(), count(of.records_per_s)),
            ("MB/s".to_owned(), count(of.megabytes_per_s)),
        ];
        let latencies = [("max", of.max_us), ("p99", of.p99_us), ("p50", of.p50_us)];
        let latencies = latencies.into_iter().filter(|(_, us)| *us > 0.0);
        rows.extend(latencies.map(|(name, us)| (name.to_owned(), time(us))));
        drawing.hint(x.at(of.begin_s + of.duration_s / 2.0), heading, rows);
    }
    Some(Figure {
        title: "Throughput and latency over time".to_owned(),
        note: String::new(),
        legend,
        svg: drawing.finish(),
        wide: false,
    })
}

fn steps(intervals: &[Interval], x: &Axis, y: impl Fn(&Interval) -> f64) -> Vec<(f64, f64)> {
    let step = |of: &Interval| {
        let (from, to) = (x.at(of.begin_s), x.at(of.begin_s + of.duration_s));
        [(from, y(of)), (to, y(of))]
    };
    intervals.iter().flat_map(step).collect()
}

/// CPUs in use, stacked, and below what the device wrote.
pub(super) fn machine(summary: &Summary) -> Option<Figure> {
    let samples = &summary.resources.samples;
    if samples.len() < 2 {
        return None;
    }
    let x = span(summary);
    let cpus = summary.resources.machine.cpus.max(1) as f64;
    let has_device = samples
        .iter()
        .any(|of| of.device_write_megabytes_per_s.is_some());
    let bottom = if has_device { 190.0 } else { BOTTOM };
    let mut drawing = Drawing::new(WIDTH, HEIGHT, "CPU over time");
    shade(&mut drawing, &x, (TOP + 14.0, BOTTOM));
    let y = Axis::linear((0.0, cpus), (bottom, TOP + 14.0));
    drawing.y_axis(&y, (LEFT, RIGHT), short);
    let title = format!("CPUs in use, of {cpus}");
    drawing.text((LEFT, TOP + 5.0), "start label", &title);
    let parts: [(usize, Part); 4] = [
        (0, |of| of.broker_cpus.unwrap_or_default()),
        (5, |of| of.generator_cpus),
        (7, |of| of.foreign_cpus),
        (3, |of| of.steal_cpus),
    ];
    let mut from_s = 0.0;
    for of in samples {
        let mut below = 0.0;
        for (series, part) in parts {
            let above = below + part(of);
            if above > below {
                let class = format!("bar c{series}");
                let right = (x.at(of.at_s) - 0.8).max(x.at(from_s) + 0.5);
                drawing.rect((x.at(from_s), y.at(below)), (right, y.at(above)), &class);
            }
            below = above;
        }
        drawing.hint(
            x.at(f64::midpoint(from_s, of.at_s)),
            seconds(of.at_s),
            hints(of),
        );
        from_s = of.at_s;
    }
    if has_device {
        device(&mut drawing, samples, &x, (bottom + 36.0, BOTTOM));
    }
    drawing.x_axis(&x, (TOP + 14.0, BOTTOM), seconds);
    let mut legend = vec![
        Legend::new("broker", 0, "block"),
        Legend::new("generator", 5, "block"),
        Legend::new("others", 7, "block"),
        Legend::new("stolen", 3, "block"),
    ];
    if has_device {
        legend.push(Legend::new("device writes", 4, ""));
    }
    Some(Figure {
        title: "CPU and device over time".to_owned(),
        note: "The generator spins between requests, so that it is in time; others are everything else \
               on the machine, the kernel's own threads included."
            .to_owned(),
        legend,
        svg: drawing.finish(),
        wide: false,
    })
}

fn device(drawing: &mut Drawing, samples: &[Sample], x: &Axis, (top, bottom): (f64, f64)) {
    let written = |of: &Sample| of.device_write_megabytes_per_s.unwrap_or_default();
    let most = samples.iter().map(written).fold(0.0, f64::max);
    let y = Axis::linear((0.0, (most * 1.1).max(1e-3)), (bottom, top));
    drawing.y_axis(&y, (LEFT, RIGHT), count);
    drawing.text((LEFT, top - 9.0), "start label", "device writes, MB/s");
    let mut points = Vec::new();
    let mut from_s = 0.0;
    for of in samples {
        points.extend([
            (x.at(from_s), y.at(written(of))),
            (x.at(of.at_s), y.at(written(of))),
        ]);
        from_s = of.at_s;
    }
    drawing.curve(&points, 4, "");
}

fn hints(of: &Sample) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: Option<String>| {
        rows.extend(value.map(|value| (name.to_owned(), value)));
    };
    let cpus = |value: f64| format!("{value:.2} CPUs");
    row("broker", of.broker_cpus.map(cpus));
    row("generator", Some(cpus(of.generator_cpus)));
    row("others", Some(cpus(of.foreign_cpus)));
    row("stolen", Some(cpus(of.steal_cpus)));
    let mebibytes = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    row("broker memory", of.broker_resident_bytes.map(mebibytes));
    let device = of.device_write_megabytes_per_s;
    row(
        "device writes",
        device.map(|rate| format!("{} MB/s", count(rate))),
    );
    rows
}
