//! A result of the OpenMessaging Benchmark (TestResult.java): intervals of ten seconds, percentiles in
//! milliseconds, and over the whole run the quantiles of an HdrHistogram as a map.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::report::{Latency, Measurement, Summary};
use crate::series::Interval;

/// WorkloadGenerator.java waits so long between two readings.
const INTERVAL_S: f64 = 10.0;
const VALUES_MAX: usize = 1_000_000;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TestResult {
    workload: Option<String>,
    driver: Option<String>,
    #[serde(default)]
    message_size: u64,
    publish_rate: Vec<f64>,
    #[serde(default)]
    consume_rate: Vec<f64>,
    /// The percentiles, whose names are built.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Publish latencies, and end to end if the result has them.
pub(super) fn read(name: &str, text: &str) -> Result<Vec<Measurement>, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))?;
    if value
        .get("schema")
        .and_then(Value::as_str)
        .is_some_and(|it| it.starts_with("bench/"))
    {
        return Err("is a result of ringlog-bench: `ringlog-bench report` draws it".to_owned());
    }
    let result: TestResult = serde_json::from_value(value)
        .map_err(|error| format!("no result of the OpenMessaging Benchmark: {error}"))?;
    if result.publish_rate.is_empty() || result.publish_rate.len() > VALUES_MAX {
        let count = result.publish_rate.len();
        return Err(format!(
            "publishRate has {count} values: a result has one for each ten seconds"
        ));
    }
    let target = format!(
        "OpenMessaging Benchmark, workload {:?}, driver {:?}",
        result.workload.as_deref().unwrap_or("unknown"),
        result.driver.as_deref().unwrap_or("unknown")
    );
    let facts = [
        "messageSize",
        "topics",
        "partitions",
        "producersPerTopic",
        "consumersPerTopic",
    ];
    let mut workload = Map::new();
    workload.insert("messageSize".to_owned(), result.message_size.into());
    for fact in facts {
        workload.extend(
            result
                .rest
                .get(fact)
                .map(|value| (fact.to_owned(), value.clone())),
        );
    }
    let mut measurements = vec![Measurement::new(
        &format!("{name}: publish"),
        &target,
        workload.clone(),
        result.summary("PublishLatency", &result.publish_rate),
    )];
    let end_to_end = result.summary("EndToEndLatency", &result.consume_rate);
    if end_to_end.latency.max_us > 0.0 && !result.consume_rate.is_empty() {
        let label = format!("{name}: end to end");
        measurements.push(Measurement::new(&label, &target, workload, end_to_end));
    }
    Ok(measurements)
}

impl TestResult {
    /// Of `PublishLatency` or `EndToEndLatency`.
    fn summary(&self, what: &str, rates: &[f64]) -> Summary {
        let mut summary = Summary::unmeasured();
        let elapsed_s = rates.len() as f64 * INTERVAL_S;
        let mean = rates.iter().sum::<f64>() / rates.len().max(1) as f64;
        summary.elapsed_s = elapsed_s;
        summary.records = (mean * elapsed_s) as u64;
        summary.records_per_s = mean;
        summary.megabytes_per_s = mean * self.message_size as f64 / 1e6;
        summary.latency = self.latency(what, summary.records);
        let place = |(index, rate): (usize, &f64)| self.interval(what, index, *rate);
        summary.intervals = rates.iter().enumerate().map(place).collect();
        summary
    }

    fn latency(&self, what: &str, count: u64) -> Latency {
        let of = |suffix: &str| {
            let value = self.rest.get(&format!("aggregated{what}{suffix}"));
            value
                .and_then(Value::as_f64)
                .map_or(f64::NAN, |ms| ms * 1e3)
        };
        let quantiles = self.rest.get(&format!("aggregated{what}Quantiles"));
        let quantiles = quantiles.and_then(Value::as_object);
        // The map has every step of the histogram; the first at or above 90 % is the percentile.
        let at = |percent: f64| {
            let rows = quantiles?
                .iter()
                .filter_map(|(key, value)| Some((key.parse::<f64>().ok()?, value.as_f64()?)));
            let above = rows.filter(|(at, _)| *at >= percent);
            let (_, ms) = above.min_by(|one, other| one.0.total_cmp(&other.0))?;
            Some(ms * 1e3)
        };
        Latency {
            count,
            mean_us: of("Avg"),
            min_us: at(0.0).unwrap_or(f64::NAN),
            p50_us: of("50pct"),
            p75_us: of("75pct"),
            p90_us: at(90.0).unwrap_or(f64::NAN),
            p95_us: of("95pct"),
            p99_us: of("99pct"),
            p99_9_us: of("999pct"),
            p99_99_us: of("9999pct"),
            max_us: of("Max"),
            ..Latency::unmeasured()
        }
    }

    fn interval(&self, what: &str, index: usize, records_per_s: f64) -> Interval {
        let lower = what[..1].to_lowercase() + &what[1..];
        let of = |suffix: &str| {
            let values = self
                .rest
                .get(&format!("{lower}{suffix}"))
                .and_then(Value::as_array);
            let value = values.and_then(|values| values.get(index)?.as_f64());
            value.map_or(f64::NAN, |ms| ms * 1e3)
        };
        Interval {
            begin_s: index as f64 * INTERVAL_S,
            duration_s: INTERVAL_S,
            records_per_s,
            megabytes_per_s: records_per_s * self.message_size as f64 / 1e6,
            p50_us: of("50pct"),
            p99_us: of("99pct"),
            p99_9_us: of("999pct"),
            max_us: of("Max"),
            ..Interval::unmeasured()
        }
    }
}
