//! Results as JSON (units in the names, schema with a version) and as plain lines.

use std::fs;
use std::path::Path;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::environment::Environment;
use crate::failure::Failure;
use crate::phase::Counted;
use crate::resources::Resources;

/// Of every `result.json`; a change of meaning gets a new number.
pub(crate) const SCHEMA: &str = "bench/1";
/// A generator later than this at the 99th percentile measured itself.
pub(crate) const LAG_P99_NS_MAX: u64 = 1_000_000;

/// A `result.json`.
#[derive(Debug, Serialize)]
pub(crate) struct Document<T> {
    schema: &'static str,
    kind: &'static str,
    status: &'static str,
    reasons: Vec<String>,
    environment: Environment,
    #[serde(flatten)]
    body: T,
}

impl<T: Serialize> Document<T> {
    /// A result: `valid` without reasons, else `invalid`.
    pub(crate) fn new(
        kind: &'static str,
        environment: Environment,
        reasons: Vec<String>,
        body: T,
    ) -> Self {
        let status = if reasons.is_empty() {
            "valid"
        } else {
            "invalid"
        };
        Self {
            schema: SCHEMA,
            kind,
            status,
            reasons,
            environment,
            body,
        }
    }

    /// What is there of a run that failed.
    pub(crate) fn failed(
        kind: &'static str,
        environment: Environment,
        reason: String,
        body: T,
    ) -> Self {
        Self {
            status: "failed",
            ..Self::new(kind, environment, vec![reason], body)
        }
    }

    /// Writes `directory/result.json`.
    pub(crate) fn write(&self, directory: &Path) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| Failure::Target(format!("writing JSON: {error}")))?;
        write_file(directory, "result.json", &(text + "\n"))
    }
}

/// Writes a file of a result.
pub(crate) fn write_file(directory: &Path, name: &str, text: &str) -> Result<(), Failure> {
    let path = directory.join(name);
    let write = || {
        fs::create_dir_all(directory)?;
        fs::write(&path, text)
    };
    write().map_err(Failure::system(format!("writing {}", path.display())))
}

/// Prints a line of a result.
#[expect(clippy::print_stdout, reason = "results are this program's output")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

/// A distribution of times.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Latency {
    count: u64,
    mean_us: f64,
    min_us: f64,
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    p99_9_us: f64,
    max_us: f64,
    #[serde(skip)]
    histogram: Histogram<u64>,
}

impl Latency {
    /// Of a histogram of nanoseconds.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let us = |nanoseconds: u64| nanoseconds as f64 / 1e3;
        Self {
            count: histogram.len(),
            mean_us: histogram.mean() / 1e3,
            min_us: us(histogram.min()),
            p50_us: us(histogram.value_at_quantile(0.5)),
            p90_us: us(histogram.value_at_quantile(0.9)),
            p99_us: us(histogram.value_at_quantile(0.99)),
            p99_9_us: us(histogram.value_at_quantile(0.999)),
            max_us: us(histogram.max()),
            histogram: histogram.clone(),
        }
    }

    /// Any quantile, 0 to 1.
    pub(crate) fn at_us(&self, quantile: f64) -> f64 {
        self.histogram.value_at_quantile(quantile) as f64 / 1e3
    }

    /// The middle.
    pub(crate) fn p50_us(&self) -> f64 {
        self.p50_us
    }

    /// The 99th percentile.
    pub(crate) fn p99_us(&self) -> f64 {
        self.p99_us
    }

    /// For a person.
    pub(crate) fn line(&self, name: &str) -> String {
        format!(
            "{name:<12} min {:.0} us, p50 {:.0} us, p90 {:.0} us, p99 {:.0} us, p99.9 {:.0} us, max {:.0} us",
            self.min_us, self.p50_us, self.p90_us, self.p99_us, self.p99_9_us, self.max_us
        )
    }
}

/// A measured phase of producing or fetching.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Summary {
    /// Requests answered.
    pub(crate) requests: u64,
    /// Records in them.
    pub(crate) records: u64,
    /// Bytes of record batches, headers included: what "GB" counts.
    pub(crate) batch_bytes: u64,
    /// From the first request to the last answer.
    pub(crate) elapsed_s: f64,
    /// Throughput.
    pub(crate) records_per_s: f64,
    /// Throughput in 10^6 bytes of batches.
    pub(crate) megabytes_per_s: f64,
    /// Whether requests left by a schedule.
    pub(crate) open_loop: bool,
    /// From the intended time in an open loop, else from the send.
    pub(crate) latency: Latency,
    /// From the send.
    pub(crate) service_time: Latency,
    /// How late the generator was.
    pub(crate) generator_lag: Latency,
    /// Both sides.
    pub(crate) resources: Resources,
    /// Broker CPU per request.
    pub(crate) broker_cpu_us_per_request: Option<f64>,
    /// Broker CPU per 10^9 bytes of batches.
    pub(crate) broker_cpu_s_per_gigabyte: Option<f64>,
    /// Bytes handed to the block layer per byte of batches; write-back may come later.
    pub(crate) write_amplification: Option<f64>,
    /// Records read back and compared; `None` without verification.
    pub(crate) verified_records: Option<u64>,
}

impl Summary {
    /// Puts a phase and what it used together.
    pub(crate) fn new(
        counted: &Counted,
        (records, batch_bytes): (u64, u64),
        open_loop: bool,
        resources: Resources,
    ) -> Self {
        let elapsed_s = counted.elapsed.as_secs_f64();
        let per = |value: f64, unit: f64| if unit > 0.0 { value / unit } else { 0.0 };
        let gigabytes = batch_bytes as f64 / 1e9;
        let broker = resources.broker;
        let cpu_s = broker.map(|broker| broker.cpu_s());
        Self {
            requests: counted.requests,
            records,
            batch_bytes,
            elapsed_s,
            records_per_s: per(records as f64, elapsed_s),
            megabytes_per_s: per(gigabytes * 1e3, elapsed_s),
            open_loop,
            latency: Latency::of(&counted.latency),
            service_time: Latency::of(&counted.service),
            generator_lag: Latency::of(&counted.lag),
            resources,
            broker_cpu_us_per_request: cpu_s.map(|cpu| per(cpu * 1e6, counted.requests as f64)),
            broker_cpu_s_per_gigabyte: cpu_s.map(|cpu| per(cpu, gigabytes)),
            write_amplification: broker
                .map(|broker| per(broker.write_bytes as f64, batch_bytes as f64)),
            verified_records: None,
        }
    }

    /// Why the numbers mean nothing, if they do not.
    pub(crate) fn reasons(&self, counted: &Counted) -> Vec<String> {
        let lag = counted.lag.value_at_quantile(0.99);
        let mut reasons = Vec::new();
        if self.open_loop && lag > LAG_P99_NS_MAX {
            reasons.push(format!(
                "generator lagged {:.1} ms at p99, the budget is 1 ms",
                lag as f64 / 1e6
            ));
        }
        if self.requests == 0 {
            reasons.push("no request was answered".to_owned());
        }
        reasons
    }

    /// Plain lines for a person.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{} requests, {} records, {:.1} MB in {:.2} s: {:.0} records/s, {:.1} MB/s",
            self.requests,
            self.records,
            self.batch_bytes as f64 / 1e6,
            self.elapsed_s,
            self.records_per_s,
            self.megabytes_per_s
        )];
        if self.open_loop {
            lines.push(self.latency.line("latency") + " (from the intended time)");
            lines.push(self.service_time.line("service"));
            lines.push(self.generator_lag.line("lag") + " (the generator's own)");
        } else {
            lines.push(self.latency.line("latency") + " (closed loop: not comparable)");
        }
        let cpu = self
            .broker_cpu_us_per_request
            .zip(self.broker_cpu_s_per_gigabyte);
        if let Some(((per_request, per_gigabyte), broker)) = cpu.zip(self.resources.broker) {
            lines.push(format!(
                "broker       {per_request:.2} us CPU/request, {per_gigabyte:.3} s CPU/GB ({:.2} s user, \
                 {:.2} s system), {} context switches, RSS {:.1} MiB",
                broker.cpu_user_s,
                broker.cpu_system_s,
                broker.context_switches,
                broker.resident_bytes as f64 / f64::from(1 << 20)
            ));
        }
        lines.push(format!(
            "generator    {:.2} s CPU; others {:.2} s, stolen {:.2} s of {:.2} s",
            self.resources.generator.cpu_s(),
            self.resources.machine.foreign_cpu_s,
            self.resources.machine.steal_s,
            self.resources.machine.elapsed_s
        ));
        lines.push(match self.verified_records {
            Some(records) => {
                format!("verified     {records} records: count, order, offsets, bytes")
            }
            None => "verified     nothing (--no-verify)".to_owned(),
        });
        lines
    }
}

/// Median, least and greatest of some numbers.
#[derive(Debug, Clone, Copy, Serialize, PartialEq)]
pub(crate) struct Spread {
    /// The middle one, or the mean of the two middle ones.
    pub(crate) median: f64,
    /// The least.
    pub(crate) min: f64,
    /// The greatest.
    pub(crate) max: f64,
    /// How many.
    pub(crate) runs: usize,
}

impl Spread {
    /// Of at least one number.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Self {
            median,
            min,
            max,
            runs: sorted.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_median_of_even_and_odd_counts() {
        let median = |values: &[f64]| Spread::of(values).unwrap().median;
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn latencies_are_told_in_microseconds() {
        let mut histogram = crate::phase::histogram();
        for microseconds in 1..=1000 {
            histogram.record(microseconds * 1000).unwrap();
        }
        let latency = Latency::of(&histogram);
        assert!((latency.p50_us - 500.0).abs() < 1.0, "{latency:?}");
        assert!((latency.p99_us - 990.0).abs() < 1.0, "{latency:?}");
        assert_eq!(latency.count, 1000);
    }
}
