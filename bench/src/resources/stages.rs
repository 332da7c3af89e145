//! Where the time of a Ringlog's sampled requests went, from what `/metrics` said before and after.
//!
//! The broker stamps some requests on their way; its stages are differences of stamps and sum to the whole.
//! It sees a request from its first byte in user space to the last byte that the kernel took of the answer:
//! less than a client waits for. Other brokers do not tell.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::metrics::Page;
use crate::series::number;
use crate::table::digits;

const WHOLE: &str = "ringlog_request_sampled_seconds";
const STAGE: &str = "ringlog_request_stage_seconds";
const SLOWEST: &str = "ringlog_request_slowest_seconds";
const SLOWEST_AGE: &str = "ringlog_request_slowest_age_seconds";
/// In the order in which a request goes through them; none has all.
const STAGES: [&str; 8] = [
    "receive", "queue", "hop", "append", "journal", "wait", "read", "reply",
];
const REQUESTS: [&str; 2] = ["Produce", "Fetch"];

/// Times of sampled requests in one stage, or in all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Times {
    /// `whole` for all.
    pub(crate) stage: String,
    /// The means of the stages sum to that of the whole.
    #[serde(deserialize_with = "number")]
    pub(crate) mean_us: f64,
    /// Interpolated between bounds that are a third to a half apart, as the next one.
    #[serde(deserialize_with = "number")]
    pub(crate) p50_us: f64,
    /// Of this stage alone: these do not sum.
    #[serde(deserialize_with = "number")]
    pub(crate) p99_us: f64,
    /// Of the slowest request; `None` if the broker has forgotten it.
    pub(crate) slowest_us: Option<f64>,
}

/// Where the time of one API's sampled requests went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Breakdown {
    /// The API.
    pub(crate) request: String,
    /// Sampled requests.
    pub(crate) samples: u64,
    /// Each stage in its order.
    pub(crate) stages: Vec<Times>,
    /// From the first byte to the last of the answer.
    pub(crate) whole: Times,
}

impl Breakdown {
    /// A stage's part of all the time, 0 to 1.
    pub(crate) fn share(&self, times: &Times) -> f64 {
        if self.whole.mean_us > 0.0 {
            times.mean_us / self.whole.mean_us
        } else {
            0.0
        }
    }

    /// The stages, the whole behind them.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Times> {
        self.stages.iter().chain([&self.whole])
    }

    /// A table for a terminal.
    pub(crate) fn lines(&self) -> Vec<String> {
        let heading = format!(
            "where the time of {} went, in the broker, us ({} requests were sampled)",
            self.request, self.samples
        );
        let columns = format!(
            "  {:<9}{:>10}{:>9}{:>10}{:>10}{:>10}",
            "stage", "mean", "share", "p50", "p99", "slowest"
        );
        let row = |times: &Times| {
            format!(
                "  {:<9}{:>10}{:>7.1} %{:>10}{:>10}{:>10}",
                times.stage,
                digits(times.mean_us),
                self.share(times) * 100.0,
                digits(times.p50_us),
                digits(times.p99_us),
                times.slowest_us.map_or("-".to_owned(), digits)
            )
        };
        let mut lines = vec![heading, columns];
        lines.extend(self.rows().map(row));
        lines
    }
}

/// The page before what is measured.
#[derive(Debug)]
pub(super) struct Watch {
    pid: u32,
    page: Page,
    begin: Instant,
}

impl Watch {
    /// Of a broker that has such a page.
    pub(super) fn start(pid: Option<u32>) -> Option<Self> {
        Some(Self {
            pid: pid?,
            page: Page::of(pid).ok()?,
            begin: Instant::now(),
        })
    }

    /// What came since then.
    pub(super) fn stop(self) -> Vec<Breakdown> {
        match Page::of(Some(self.pid)) {
            Ok(page) => breakdowns(&self.page, &page, self.begin.elapsed().as_secs_f64()),
            Err(_) => Vec::new(),
        }
    }
}

fn breakdowns(before: &Page, after: &Page, elapsed_s: f64) -> Vec<Breakdown> {
    let of = |request: &&str| breakdown(before, after, elapsed_s, request);
    REQUESTS.iter().filter_map(of).collect()
}

fn breakdown(before: &Page, after: &Page, elapsed_s: f64, request: &str) -> Option<Breakdown> {
    let mut whole = Sums::between(before, after, WHOLE, &[("request", request)]);
    if whole.count <= 0.0 {
        return None;
    }
    let slowest = slowest(after, elapsed_s, request);
    let slowest_us = |stage: &str| {
        let (_, labels) = slowest.as_ref()?;
        let labels: Vec<_> = labels
            .iter()
            .map(|(name, of)| (*name, of.as_str()))
            .collect();
        let labels = [labels.as_slice(), &[("stage", stage)]].concat();
        let found = after.series(SLOWEST).find(|series| series.has(&labels));
        found.map(|series| series.value * 1e6)
    };
    let stages = STAGES.iter().filter_map(|stage| {
        let labels = [("request", request), ("stage", stage)];
        let mut sums = Sums::between(before, after, STAGE, &labels);
        (sums.count > 0.0).then(|| sums.times(stage, slowest_us(stage)))
    });
    Some(Breakdown {
        request: request.to_owned(),
        samples: whole.count as u64,
        stages: stages.collect(),
        whole: whole.times("whole", slowest_us("whole")),
    })
}

type Labels = Vec<(&'static str, String)>;

/// Time and labels of the slowest request of the last so many seconds, over all shards: each shard keeps
/// those that are slower than all that came later.
fn slowest(page: &Page, elapsed_s: f64, request: &str) -> Option<(f64, Labels)> {
    let recent = page
        .series(SLOWEST_AGE)
        .filter(|age| age.value <= elapsed_s && age.has(&[("request", request)]));
    let timed = recent.filter_map(|age| {
        let label = |name: &'static str| Some((name, age.label(name)?.to_owned()));
        let labels = vec![label("request")?, label("shard")?, label("rank")?];
        let mut wanted: Vec<_> = labels
            .iter()
            .map(|(name, of)| (*name, of.as_str()))
            .collect();
        wanted.push(("stage", "whole"));
        let whole = page.series(SLOWEST).find(|series| series.has(&wanted))?;
        Some((whole.value, labels))
    });
    timed.max_by(|a, b| a.0.total_cmp(&b.0))
}

/// A histogram of Prometheus, over all shards.
#[derive(Debug, Default)]
struct Sums {
    sum_s: f64,
    count: f64,
    /// Bounds in nanoseconds, and how many lay below each.
    below: BTreeMap<u64, f64>,
}

impl Sums {
    fn between(before: &Page, after: &Page, family: &str, labels: &[(&str, &str)]) -> Self {
        let mut sums = Self::default();
        sums.add(after, family, labels, 1.0);
        sums.add(before, family, labels, -1.0);
        sums
    }

    fn add(&mut self, page: &Page, family: &str, labels: &[(&str, &str)], sign: f64) {
        let of = |end: &str| format!("{family}{end}");
        for series in page.series(&of("_sum")).filter(|one| one.has(labels)) {
            self.sum_s += sign * series.value;
        }
        for series in page.series(&of("_count")).filter(|one| one.has(labels)) {
            self.count += sign * series.value;
        }
        for series in page.series(&of("_bucket")).filter(|one| one.has(labels)) {
            let bound = series
                .label("le")
                .and_then(|bound| bound.parse::<f64>().ok());
            if let Some(bound) = bound.filter(|bound| bound.is_finite()) {
                *self.below.entry((bound * 1e9).round() as u64).or_default() += sign * series.value;
            }
        }
    }

    fn times(&mut self, stage: &str, slowest_us: Option<f64>) -> Times {
        Times {
            stage: stage.to_owned(),
            mean_us: self.sum_s / self.count * 1e6,
            p50_us: self.quantile_us(0.5),
            p99_us: self.quantile_us(0.99),
            slowest_us,
        }
    }

    /// As if times were spread evenly between the bounds.
    fn quantile_us(&self, quantile: f64) -> f64 {
        let rank = self.count * quantile;
        let (mut from, mut before) = (0.0, 0.0);
        for (bound, below) in &self.below {
            let bound = *bound as f64 / 1e3;
            if *below >= rank && *below > before {
                return from + (bound - from) * (rank - before) / (below - before);
            }
            (from, before) = (bound, *below);
        }
        from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(times: u32, slowest: &str) -> Page {
        let mut text = slowest.to_owned();
        for shard in 0..2 {
            for (family, stage, sum) in [
                (WHOLE, "", 0.004),
                (STAGE, ",stage=\"journal\"", 0.003),
                (STAGE, ",stage=\"append\"", 0.001),
            ] {
                let labels = format!("request=\"Produce\",shard=\"{shard}\"{stage}");
                text += &format!("{family}_bucket{{{labels},le=\"0.001\"}} {}\n", times / 2);
                text += &format!("{family}_bucket{{{labels},le=\"0.002\"}} {times}\n");
                text += &format!("{family}_bucket{{{labels},le=\"+Inf\"}} {times}\n");
                text += &format!("{family}_sum{{{labels}}} {}\n", sum * f64::from(times));
                text += &format!("{family}_count{{{labels}}} {times}\n");
            }
        }
        Page::told(&text)
    }

    #[test]
    fn stages_sum_to_the_whole_and_the_slowest_is_of_the_time_between() {
        let mut slowest = String::new();
        for (shard, rank, age, whole) in [(0, 0, 9.0, 0.09), (0, 1, 1.0, 0.04), (1, 0, 0.5, 0.05)] {
            let labels = format!("request=\"Produce\",shard=\"{shard}\",rank=\"{rank}\"");
            slowest += &format!("{SLOWEST_AGE}{{{labels}}} {age}\n");
            slowest += &format!("{SLOWEST}{{{labels},stage=\"whole\"}} {whole}\n");
            slowest += &format!(
                "{SLOWEST}{{{labels},stage=\"journal\"}} {}\n",
                whole - 0.001
            );
            slowest += &format!("{SLOWEST}{{{labels},stage=\"append\"}} 0.001\n");
        }
        let found = breakdowns(&page(10, ""), &page(30, &slowest), 2.0);
        let [found] = found.as_slice() else {
            panic!("{found:?}")
        };
        let near = |a: f64, b: f64| (a - b).abs() < 1e-6;
        let names: Vec<_> = found.rows().map(|times| times.stage.as_str()).collect();
        assert_eq!(names, ["append", "journal", "whole"]);
        assert_eq!(found.samples, 40);
        let sum: f64 = found.stages.iter().map(|times| times.mean_us).sum();
        assert!(
            near(sum, 4000.0) && near(found.whole.mean_us, sum),
            "{found:?}"
        );
        assert!(near(found.whole.p50_us, 1000.0) && near(found.whole.p99_us, 1980.0));
        assert!(near(found.whole.slowest_us.unwrap(), 50_000.0), "{found:?}");
        assert!(
            near(found.stages[1].slowest_us.unwrap(), 49_000.0),
            "{found:?}"
        );
        let lines = found.lines();
        assert!(
            lines[0].contains("Produce") && lines[0].contains("40 requests"),
            "{lines:?}"
        );
        assert!(
            lines[2].contains("append") && lines[2].contains("25.0 %"),
            "{lines:?}"
        );
    }

    #[test]
    fn a_broker_that_sampled_nothing_has_no_table() {
        assert!(breakdowns(&page(10, ""), &page(10, ""), 2.0).is_empty());
        assert!(breakdowns(&Page::told(""), &Page::told("x 1\n"), 2.0).is_empty());
        assert!(Watch::start(None).is_none() && Watch::start(Some(std::process::id())).is_none());
    }
}
