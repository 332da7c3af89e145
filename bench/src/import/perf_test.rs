//! The output of `kafka-producer-perf-test` (ProducerPerformance.java of Apache Kafka 2 to 4).
//!
//! Every five seconds a line with rate, mean and greatest; at the end one with percentiles, in whole
//! milliseconds, counted from the call of send(). Its MB are MiB. Other lines (logs) are passed over.

use crate::report::{Latency, Measurement, Summary};
use crate::series::Interval;

const MEBI: f64 = 1.048_576;

#[derive(Debug, Default, PartialEq)]
struct Line {
    records: f64,
    records_per_s: f64,
    megabytes_per_s: f64,
    mean_ms: f64,
    max_ms: f64,
    /// p50, p95, p99, p99.9 of a last line.
    percentiles_ms: Option<[f64; 4]>,
    steady: bool,
}

/// The measurement and why it is not whole.
pub(super) fn read(name: &str, text: &str) -> Result<(Measurement, Vec<String>), String> {
    let mut windows = Vec::new();
    let mut totals = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if !line.contains(" records sent, ") {
            continue;
        }
        let line = parse(line).ok_or_else(|| {
            format!(
                "line {number} is not as kafka-producer-perf-test prints it (decimal commas? run it with \
                 LC_ALL=C)"
            )
        })?;
        if line.percentiles_ms.is_some() {
            totals.push(line);
        } else {
            windows.push(line);
        }
    }
    // With --warmup-records there are two last lines, and the one of the steady state counts.
    let steady = totals.iter().position(|line| line.steady);
    let total = match steady {
        Some(at) => Some(totals.swap_remove(at)),
        None => totals.pop(),
    };
    let mut reasons = Vec::new();
    let total = total.unwrap_or_else(|| {
        reasons
            .push("the last line, with the percentiles, is not there: it ended early".to_owned());
        sum(&windows)
    });
    let mut summary = Summary::unmeasured();
    summary.records = total.records as u64;
    summary.elapsed_s = total.records / total.records_per_s;
    summary.records_per_s = total.records_per_s;
    summary.megabytes_per_s = total.megabytes_per_s * MEBI;
    summary.latency = latency(&total);
    summary.intervals = intervals(&windows);
    let target = "kafka-producer-perf-test: in whole milliseconds, from send()";
    Ok((
        Measurement::new(name, target, serde_json::Map::new(), summary),
        reasons,
    ))
}

fn latency(total: &Line) -> Latency {
    let us = |ms: f64| ms * 1e3;
    let [p50, p95, p99, p99_9] = total.percentiles_ms.unwrap_or([f64::NAN; 4]).map(us);
    Latency {
        count: total.records as u64,
        mean_us: us(total.mean_ms),
        p50_us: p50,
        p95_us: p95,
        p99_us: p99,
        p99_9_us: p99_9,
        max_us: us(total.max_ms),
        ..Latency::unmeasured()
    }
}

fn sum(windows: &[Line]) -> Line {
    let records: f64 = windows.iter().map(|line| line.records).sum();
    let elapsed: f64 = windows
        .iter()
        .map(|line| line.records / line.records_per_s)
        .sum();
    let weighted = |of: fn(&Line) -> f64| {
        windows
            .iter()
            .map(|line| of(line) * line.records)
            .sum::<f64>()
            / records
    };
    Line {
        records,
        records_per_s: records / elapsed,
        megabytes_per_s: weighted(|line| line.megabytes_per_s),
        mean_ms: weighted(|line| line.mean_ms),
        max_ms: windows.iter().map(|line| line.max_ms).fold(0.0, f64::max),
        ..Line::default()
    }
}

fn intervals(windows: &[Line]) -> Vec<Interval> {
    let mut begin_s = 0.0;
    let mut interval = |line: &Line| {
        let duration_s = line.records / line.records_per_s;
        begin_s += duration_s;
        Interval {
            begin_s: begin_s - duration_s,
            duration_s,
            requests_per_s: f64::NAN,
            records_per_s: line.records_per_s,
            megabytes_per_s: line.megabytes_per_s * MEBI,
            max_us: line.max_ms * 1e3,
            ..Interval::unmeasured()
        }
    };
    windows.iter().map(&mut interval).collect()
}

/// `N records sent, X records/sec (Y MB/sec), A ms avg latency, B ms max latency[, C ms 50th, ..].`
fn parse(line: &str) -> Option<Line> {
    let (_, line) = line.split_at(line.find(|letter: char| letter.is_ascii_digit())?);
    let mut parts = line.trim().trim_end_matches('.').split(", ");
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| *number >= 0.0);
    let sent = parts.next()?;
    let steady = sent.contains("steady state");
    let records = number(sent.split(' ').next()?)?;
    let (rate, bytes) = parts.next()?.split_once(" records/sec (")?;
    let mut ms = |unit: &str| number(parts.next()?.strip_suffix(unit)?);
    let (mean_ms, max_ms) = (ms(" ms avg latency")?, ms(" ms max latency")?);
    let mut told = Vec::new();
    for unit in [" ms 50th", " ms 95th", " ms 99th", " ms 99.9th"] {
        told.extend(ms(unit));
    }
    let line = Line {
        records,
        records_per_s: number(rate)?,
        megabytes_per_s: number(bytes.strip_suffix(" MB/sec)")?)?,
        mean_ms,
        max_ms,
        percentiles_ms: told.try_into().ok(),
        steady,
    };
    (line.records > 0.0 && line.records_per_s > 0.0).then_some(line)
}
