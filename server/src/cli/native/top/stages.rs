//! Where the time of requests went between two looks: a line for each stage, and the slowest request.

use std::collections::BTreeMap;
use std::io::Write;

use super::Look;
use crate::cli::tool::{ToolResult, print_table};
use crate::metrics::exposition::stages::{SLOWEST, SLOWEST_AGE, STAGE, WHOLE};

/// The histograms of one stage, of all shards.
#[derive(Debug, Default)]
struct Times {
    sum_s: f64,
    count: f64,
    /// Bounds in nanoseconds, in order, and how many lay below each.
    below: BTreeMap<u64, f64>,
}

impl Times {
    fn mean_ms(&self) -> f64 {
        if self.count > 0.0 {
            self.sum_s / self.count * 1e3
        } else {
            0.0
        }
    }

    /// Between the bounds of its bucket as if times were spread evenly, as Prometheus does it.
    fn quantile_ms(&self, quantile: f64) -> f64 {
        let rank = self.count * quantile;
        let (mut from, mut before) = (0u64, 0.0);
        for (bound, below) in &self.below {
            if *below >= rank && *below > before {
                let share = (rank - before) / (below - before);
                return milliseconds(from) + (milliseconds(*bound) - milliseconds(from)) * share;
            }
            (from, before) = (*bound, *below);
        }
        milliseconds(from)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a bound of minutes at most, far below 2^53 ns"
)]
fn milliseconds(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

/// The value of a label; those asked for here need no escapes.
fn label<'a>(series: &'a str, label: &str) -> Option<&'a str> {
    let (_, labels) = series.split_once('{')?;
    let labels = labels.strip_suffix('}')?;
    let mut named = labels.split(',').filter_map(|one| one.split_once("=\""));
    let (_, value) = named.find(|(name, _)| *name == label)?;
    value.strip_suffix('"')
}

/// What was added since the look before.
fn times(before: &Look, now: &Look, family: &str, request: &str, stage: Option<&str>) -> Times {
    let mut times = Times::default();
    for (series, value) in now.family(family) {
        if label(series, "request") != Some(request) || label(series, "stage") != stage {
            continue;
        }
        let added = value - before.get(series);
        let kind = series.strip_prefix(family).unwrap_or_default();
        if kind.starts_with("_sum") {
            times.sum_s += added;
        } else if kind.starts_with("_count") {
            times.count += added;
        } else if let Some(bound) = label(series, "le").and_then(|bound| bound.parse::<f64>().ok())
            && bound.is_finite()
        {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a bound is some positive seconds"
            )]
            let nanos = (bound * 1e9).round() as u64;
            *times.below.entry(nanos).or_default() += added;
        }
    }
    times
}

/// The table and the slowest request of the time between.
pub(super) fn show(out: &mut dyn Write, before: &Look, now: &Look) -> ToolResult {
    let mut rows = Vec::new();
    for request in ["Produce", "Fetch"] {
        let whole = times(before, now, WHOLE, request, None);
        if whole.count <= 0.0 {
            continue;
        }
        let row = |stage: &str, times: &Times| {
            let share = times.sum_s / whole.sum_s.max(f64::MIN_POSITIVE) * 100.0;
            vec![
                request.to_owned(),
                stage.to_owned(),
                format!("{:.3} ms", times.mean_ms()),
                format!("{:.3} ms", times.quantile_ms(0.99)),
                format!("{share:.1} %"),
            ]
        };
        for stage in stages(now, request) {
            let times = times(before, now, STAGE, request, Some(stage));
            rows.push(row(stage, &times));
        }
        rows.push(row("whole", &whole));
    }
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    print_table(out, &["SAMPLED", "STAGE", "MEAN", "P99", "SHARE"], &rows)?;
    if let Some(line) = slowest(before, now) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// The stages of an API, in the order in which the page tells them.
fn stages<'a>(now: &'a Look, request: &'a str) -> Vec<&'a str> {
    let order = [
        "receive", "queue", "hop", "append", "journal", "wait", "read", "reply",
    ];
    let is_told = |stage: &&str| {
        let mut told = now.family(STAGE);
        told.any(|(series, _)| {
            label(series, "stage") == Some(*stage) && label(series, "request") == Some(request)
        })
    };
    order.into_iter().filter(is_told).collect()
}

/// The slowest sampled request that was answered since the look before.
fn slowest(before: &Look, now: &Look) -> Option<String> {
    let seconds = now.at.duration_since(before.at).as_secs_f64();
    let mut found: Option<(f64, String)> = None;
    for (series, age) in now.family(SLOWEST_AGE) {
        let labels = series.strip_prefix(SLOWEST_AGE)?.strip_suffix('}')?;
        let name = |stage: &str| format!("{SLOWEST}{labels},stage=\"{stage}\"}}");
        let whole = now.get(&name("whole"));
        if age > seconds || found.as_ref().is_some_and(|(most, _)| *most >= whole) {
            continue;
        }
        let (request, shard) = (label(series, "request")?, label(series, "shard")?);
        let parts = stages(now, request).into_iter().map(|stage| {
            let milliseconds = now.get(&name(stage)) * 1e3;
            format!("{stage} {milliseconds:.3}")
        });
        let parts = parts.collect::<Vec<_>>().join(" + ");
        let line = format!(
            "slowest since the last look: {request} on a connection of shard {shard}, {:.3} ms = {parts}",
            whole * 1e3
        );
        found = Some((whole, line));
    }
    found.map(|(_, line)| line)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    const LABELS: &str = "request=\"Produce\",shard";

    /// Two shards; what they have counted is scaled.
    fn page(times: u32) -> String {
        let mut page = String::new();
        for shard in 0..2 {
            for (family, stage, sum) in [
                (WHOLE, "", 0.004),
                (STAGE, ",stage=\"append\"", 0.001),
                (STAGE, ",stage=\"journal\"", 0.003),
            ] {
                let labels = format!("{LABELS}=\"{shard}\"{stage}");
                let half = times / 2;
                page += &format!("{family}_bucket{{{labels},le=\"0.001\"}} {half}\n");
                page += &format!("{family}_bucket{{{labels},le=\"0.002\"}} {times}\n");
                page += &format!("{family}_bucket{{{labels},le=\"+Inf\"}} {times}\n");
                page += &format!("{family}_sum{{{labels}}} {}\n", sum * f64::from(times));
                page += &format!("{family}_count{{{labels}}} {times}\n");
            }
        }
        page
    }

    fn look(text: &str, at: Instant) -> Look {
        super::super::tests::of(text, at)
    }

    #[test]
    fn the_table_tells_of_the_time_between_and_the_slowest_request_is_of_it() {
        let start = Instant::now();
        let before = look(&page(10), start);
        let mut text = page(30);
        // On shard 0 the slower one was before the last look.
        for (shard, rank, age, whole) in [(0, 0, 9.0, 0.09), (0, 1, 1.0, 0.04), (1, 0, 0.5, 0.05)] {
            let labels = format!("{LABELS}=\"{shard}\",rank=\"{rank}\"");
            text += &format!("{SLOWEST_AGE}{{{labels}}} {age}\n");
            text += &format!("{SLOWEST}{{{labels},stage=\"whole\"}} {whole}\n");
            text += &format!(
                "{SLOWEST}{{{labels},stage=\"journal\"}} {}\n",
                whole - 0.001
            );
            text += &format!("{SLOWEST}{{{labels},stage=\"append\"}} 0.001\n");
        }
        let now = look(&text, start + Duration::from_secs(2));
        let mut out = Vec::new();
        show(&mut out, &before, &now).unwrap();
        let out = String::from_utf8(out).unwrap();
        let rows: Vec<Vec<&str>> = out
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        for row in [
            "Produce append 1.000 ms 1.980 ms 25.0 %",
            "Produce journal 3.000 ms 1.980 ms 75.0 %",
            "Produce whole 4.000 ms 1.980 ms 100.0 %",
        ] {
            assert!(rows.iter().any(|found| found.join(" ") == row), "{out}");
        }
        assert!(
            out.contains("shard 1, 50.000 ms = append 1.000 + journal 49.000\n"),
            "{out}"
        );
    }

    #[test]
    fn without_samples_since_then_nothing_is_told() {
        let start = Instant::now();
        let page = page(10);
        let (before, now) = (look(&page, start), look(&page, start));
        let mut out = Vec::new();
        show(&mut out, &before, &now).unwrap();
        assert!(out.is_empty());
    }
}
