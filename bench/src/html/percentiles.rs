//! Latency by percentile, as HdrHistogram's plots show it: every further nine is as wide as the one
//! before. A line goes as far as its count carries it: a percentile beyond has no measurement.

use hdrhistogram::Histogram;

use super::figure::{Figure, Legend};
use super::svg::{Axis, Drawing, time};
use crate::report::Latency;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 340.0;
const PLOT: (f64, f64, f64, f64) = (66.0, 16.0, 532.0, 290.0);
/// The nines of the median.
const MEDIAN: f64 = std::f64::consts::LOG10_2;
/// Points of a line: more are not seen.
const STEPS: usize = 160;

/// One line.
#[derive(Debug)]
pub(super) struct Line {
    /// Its legend.
    pub(super) name: String,
    /// Its colour.
    pub(super) series: usize,
    /// `dashed` or nothing.
    pub(super) class: &'static str,
    /// Nines and microseconds.
    points: Vec<(f64, f64)>,
    /// Whether the points are all that is known.
    sparse: bool,
}

impl Line {
    /// Of a whole histogram of nanoseconds; `None` if it is empty.
    pub(super) fn of(name: &str, series: usize, histogram: &Histogram<u64>) -> Option<Self> {
        if histogram.is_empty() {
            return None;
        }
        let nines_max = (histogram.len() as f64).log10().max(1.0);
        let point = |step: usize| {
            let nines = nines_max * step as f64 / STEPS as f64;
            let quantile = 1.0 - 10f64.powf(-nines);
            (nines, histogram.value_at_quantile(quantile) as f64 / 1e3)
        };
        let mut points: Vec<_> = (0..STEPS).map(point).collect();
        points.push((nines_max, histogram.max() as f64 / 1e3));
        Some(Self {
            name: name.to_owned(),
            series,
            class: "",
            points,
            sparse: false,
        })
    }

    /// Of an imported result: only the percentiles that it tells.
    pub(super) fn sparse(name: &str, series: usize, latency: &Latency) -> Option<Self> {
        let told = [
            (0.0, latency.min_us),
            (0.5, latency.p50_us),
            (0.75, latency.p75_us),
            (0.9, latency.p90_us),
            (0.95, latency.p95_us),
            (0.99, latency.p99_us),
            (0.999, latency.p99_9_us),
            (0.9999, latency.p99_99_us),
        ];
        let told = told.into_iter().filter(|(_, us)| *us > 0.0);
        let points: Vec<_> = told
            .map(|(q, us): (f64, f64)| (-(1.0 - q).log10(), us))
            .collect();
        (points.len() > 1).then(|| Self {
            name: name.to_owned(),
            series,
            class: "",
            points,
            sparse: true,
        })
    }

    /// As another kind of line.
    pub(super) fn with_class(mut self, class: &'static str) -> Self {
        self.class = class;
        self
    }

    fn at(&self, nines: f64) -> Option<f64> {
        let after = self.points.iter().position(|(at, _)| *at >= nines - 1e-9)?;
        let (to, high) = self.points[after];
        let (from, low) = self.points[after.saturating_sub(1)];
        let share = if to > from {
            (nines - from) / (to - from)
        } else {
            1.0
        };
        Some(low + (high - low) * share)
    }
}

/// `99.9` for three nines.
fn percent(nines: f64) -> String {
    let percent = 100.0 - 10f64.powf(2.0 - nines);
    let decimals = (nines - 2.0).ceil().clamp(0.0, 6.0) as usize;
    format!("{percent:.decimals$}\u{a0}%")
}

/// The chart; `None` without lines.
pub(super) fn chart(lines: &[Line], note: &str) -> Option<Figure> {
    let all = || lines.iter().flat_map(|line| line.points.iter());
    let nines_max = all().map(|(nines, _)| *nines).fold(0.0, f64::max);
    if nines_max == 0.0 {
        return None;
    }
    let low = all().map(|(_, us)| *us).fold(f64::MAX, f64::min);
    let high = all().map(|(_, us)| *us).fold(0.0, f64::max);
    let (left, top, right, bottom) = PLOT;
    let x = Axis::linear((0.0, nines_max), (left, right));
    let y = Axis::log((low, high), (bottom, top));
    let mut drawing = Drawing::new(WIDTH, HEIGHT, "latency by percentile");
    drawing.y_axis(&y, (left, right), time);
    let ticks = [0.0, MEDIAN, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
    for nines in ticks.into_iter().filter(|nines| *nines <= nines_max + 1e-6) {
        drawing.line((x.at(nines), top), (x.at(nines), bottom), "grid");
        // The median stands too near to zero for a label of its own on a long axis.
        if nines != MEDIAN || x.at(nines) - left > 45.0 {
            drawing.text((x.at(nines), bottom + 18.0), "middle", &percent(nines));
        }
    }
    drawing.text(
        (f64::midpoint(left, right), HEIGHT - 8.0),
        "middle label",
        "percentile",
    );
    for line in lines {
        let points = line
            .points
            .iter()
            .map(|(nines, us)| (x.at(*nines), y.at(*us)));
        let points: Vec<_> = points.collect();
        drawing.curve(&points, line.series, line.class);
        if line.sparse {
            for ((nines, us), at) in line.points.iter().zip(&points) {
                let what = format!("{}, {}: {}", line.name, percent(*nines), time(*us));
                drawing.dot(*at, line.series, ("", &what));
            }
        }
    }
    for step in 0..=STEPS {
        let nines = nines_max * step as f64 / STEPS as f64;
        let rows = lines
            .iter()
            .filter_map(|line| Some((line.name.clone(), time(line.at(nines)?))));
        drawing.hint(x.at(nines), percent(nines), rows.collect());
    }
    let legend = lines
        .iter()
        .map(|line| Legend::new(&line.name, line.series, line.class));
    Some(Figure {
        title: "Latency by percentile".to_owned(),
        note: note.to_owned(),
        legend: legend.collect(),
        svg: drawing.finish(),
        wide: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_at_its_greatest_and_not_beyond_what_was_counted() {
        let mut histogram = crate::phase::histogram();
        for us in 1..=1000u64 {
            histogram.record(us * 1000).unwrap();
        }
        let line = Line::of("x", 0, &histogram).unwrap();
        let (nines, us) = *line.points.last().unwrap();
        assert!(
            (nines - 3.0).abs() < 1e-9 && (us - 1000.0).abs() < 1.0,
            "{nines} {us}"
        );
        assert_eq!(line.at(4.0), None);
        let median = line.at(MEDIAN).unwrap();
        assert!((median - 500.0).abs() < 15.0, "{median}");
    }

    #[test]
    fn percentiles_have_as_many_nines_as_they_need() {
        assert_eq!(percent(0.0), "0\u{a0}%");
        assert_eq!(percent(2.0), "99\u{a0}%");
        assert_eq!(percent(3.0), "99.9\u{a0}%");
        assert_eq!(percent(5.0), "99.999\u{a0}%");
    }
}
