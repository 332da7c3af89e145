//! Where the time of sampled requests went: histograms of each stage, and the slowest recent requests.
//!
//! The slowest have no time in their labels, which would be a new series for each: they are ranked, and a
//! series beside them tells their age. Each is slower than all younger ones, so that the first that is
//! young enough was the slowest of any time up to now.

use kafka_protocol::messages::ApiKey;
use ringlog_engine::clock::Instant;

use super::{Text, number};
use crate::metrics::trace::{Stage, Traced};
use crate::metrics::{Histogram, Report};

/// From the first byte of a request to the last of its answer.
pub(crate) const WHOLE: &str = "ringlog_request_sampled_seconds";
/// The same by stage.
pub(crate) const STAGE: &str = "ringlog_request_stage_seconds";
/// The slowest recent ones, by rank and stage; the stage `whole` is all of it.
pub(crate) const SLOWEST: &str = "ringlog_request_slowest_seconds";
/// How long ago they were answered.
pub(crate) const SLOWEST_AGE: &str = "ringlog_request_slowest_age_seconds";

/// An API of a shard.
struct Of<'a> {
    api: ApiKey,
    labels: [(&'static str, String); 2],
    traced: &'a Traced,
    now: Instant,
}

/// The series of all shards.
pub(super) fn write(text: &mut Text, reports: &[Report]) {
    let all = reports.iter().flat_map(|report| {
        report.traced.iter().map(|(api, traced)| Of {
            api: *api,
            labels: [
                ("request", format!("{api:?}")),
                ("shard", report.shard.to_string()),
            ],
            traced,
            now: report.now,
        })
    });
    let all: Vec<_> = all.collect();
    let help = "From the first byte of a sampled request to the last byte of its answer";
    text.family(WHOLE, "histogram", help);
    for of in &all {
        histogram(text, WHOLE, &labels(of, &[]), &of.traced.whole);
    }
    let help = "Time of a sampled request in one stage; the stages sum to the whole";
    text.family(STAGE, "histogram", help);
    for of in &all {
        for stage in Stage::of(of.api) {
            let labels = labels(of, &[("stage", stage.name())]);
            histogram(text, STAGE, &labels, of.traced.stage(*stage));
        }
    }
    slowest(text, &all);
}

fn labels<'a>(of: &'a Of<'_>, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let own = of
        .labels
        .iter()
        .map(|(name, value)| (*name, value.as_str()));
    own.chain(more.iter().copied()).collect()
}

fn histogram(text: &mut Text, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
    let bucket = format!("{name}_bucket");
    let mut below = |bound: &str, count| {
        let bound = [labels, &[("le", bound)]].concat();
        text.sample(&bucket, &bound, count);
    };
    for (bound, count) in histogram.below() {
        below(&bound.as_secs_f64().to_string(), number(count));
    }
    let count = number(histogram.count());
    below("+Inf", count);
    let sum = histogram.sum.as_secs_f64();
    text.sample(&format!("{name}_sum"), labels, sum);
    text.sample(&format!("{name}_count"), labels, count);
}

fn slowest(text: &mut Text, all: &[Of<'_>]) {
    text.family(
        SLOWEST,
        "gauge",
        "The slowest sampled requests of the last ten minutes, each slower than all later ones",
    );
    for of in all {
        for (rank, sample) in of.traced.slowest.iter().enumerate() {
            let rank = rank.to_string();
            let whole = labels(of, &[("rank", &rank), ("stage", "whole")]);
            text.sample(SLOWEST, &whole, sample.whole.as_secs_f64());
            for stage in Stage::of(of.api) {
                let labels = labels(of, &[("rank", &rank), ("stage", stage.name())]);
                text.sample(SLOWEST, &labels, sample.stage(*stage).as_secs_f64());
            }
        }
    }
    text.family(SLOWEST_AGE, "gauge", "How long ago they were answered");
    for of in all {
        for (rank, sample) in of.traced.slowest.iter().enumerate() {
            let rank = rank.to_string();
            let age = sample.age(of.now).as_secs_f64();
            text.sample(SLOWEST_AGE, &labels(of, &[("rank", &rank)]), age);
        }
    }
}
