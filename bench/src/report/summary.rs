//! The numbers of one measured phase: throughput, latencies whole, what it cost, what happened when.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::LAG_P99_NS_MAX;
use crate::hdr;
use crate::phase::Counted;
use crate::resources::{Breakdown, Resources};
use crate::series::{Interval, PerRequest, number};
use crate::table::digits;

/// A distribution of times.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    #[serde(deserialize_with = "number")]
    pub(crate) mean_us: f64,
    #[serde(deserialize_with = "number")]
    pub(crate) stdev_us: f64,
    #[serde(deserialize_with = "number")]
    pub(crate) min_us: f64,
    #[serde(deserialize_with = "number")]
    pub(crate) p50_us: f64,
    #[serde(deserialize_with = "number")]
    pub(crate) p75_us: f64,
    #[serde(deserialize_with = "number")]
    pub(crate) p90_us: f64,
    #[serde(deserialize_with = "number")]
    pub(crate) p95_us: f64,
    #[serde(deserialize_with = "number")]
    pub(crate) p99_us: f64,
    #[serde(deserialize_with = "number")]
    pub(crate) p99_9_us: f64,
    #[serde(deserialize_with = "number")]
    pub(crate) p99_99_us: f64,
    #[serde(deserialize_with = "number")]
    pub(crate) max_us: f64,
    /// Everything, in nanoseconds: HdrHistogram V2, deflated, base64. Empty if there is none (imported).
    pub(crate) hdr_v2_deflate: String,
}

impl Latency {
    /// Of another tool, which does not tell what is left as it is here.
    pub(crate) fn unmeasured() -> Self {
        let unknown = f64::NAN;
        Self {
            count: 0,
            mean_us: unknown,
            stdev_us: unknown,
            min_us: unknown,
            p50_us: unknown,
            p75_us: unknown,
            p90_us: unknown,
            p95_us: unknown,
            p99_us: unknown,
            p99_9_us: unknown,
            p99_99_us: unknown,
            max_us: unknown,
            hdr_v2_deflate: String::new(),
        }
    }

    /// Of a histogram of nanoseconds.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::unmeasured(); // acks=0: nothing was answered
        }
        let us = |nanoseconds: u64| nanoseconds as f64 / 1e3;
        let at = |quantile| us(histogram.value_at_quantile(quantile));
        Self {
            count: histogram.len(),
            mean_us: histogram.mean() / 1e3,
            stdev_us: histogram.stdev() / 1e3,
            min_us: us(histogram.min()),
            p50_us: at(0.5),
            p75_us: at(0.75),
            p90_us: at(0.9),
            p95_us: at(0.95),
            p99_us: at(0.99),
            p99_9_us: at(0.999),
            p99_99_us: at(0.9999),
            max_us: us(histogram.max()),
            hdr_v2_deflate: hdr::encode(histogram),
        }
    }

    /// All of it, if it is there and readable.
    pub(crate) fn histogram(&self) -> Option<Histogram<u64>> {
        hdr::decode(&self.hdr_v2_deflate).ok()
    }

    /// Any quantile, 0 to 1; of an imported one nothing.
    pub(crate) fn at_us(&self, quantile: f64) -> Option<f64> {
        let histogram = self.histogram()?;
        Some(histogram.value_at_quantile(quantile) as f64 / 1e3)
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
        if self.count == 0 {
            return format!("{name:<12} none: nothing was answered (acks=0)");
        }
        format!(
            "{name:<12} min {:.0} us, p50 {:.0} us, p90 {:.0} us, p99 {:.0} us, p99.9 {:.0} us, max {:.0} us",
            self.min_us, self.p50_us, self.p90_us, self.p99_us, self.p99_9_us, self.max_us
        )
    }
}

/// A measured phase of producing or fetching.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Requests answered; 0 in what is imported from a tool that does not tell.
    pub(crate) requests: u64,
    /// Records in them.
    pub(crate) records: u64,
    /// Bytes of record batches, headers included: what "GB" counts.
    pub(crate) batch_bytes: u64,
    /// From the first request to the last answer.
    #[serde(deserialize_with = "number")]
    pub(crate) elapsed_s: f64,
    /// Throughput.
    #[serde(deserialize_with = "number")]
    pub(crate) records_per_s: f64,
    /// Throughput in 10^6 bytes of batches.
    #[serde(deserialize_with = "number")]
    pub(crate) megabytes_per_s: f64,
    /// Whether requests left by a schedule.
    pub(crate) open_loop: bool,
    /// From the intended time in an open loop, else from the send.
    pub(crate) latency: Latency,
    /// From the send.
    pub(crate) service_time: Latency,
    /// How late the generator was.
    pub(crate) generator_lag: Latency,
    /// Both sides; missing in what is imported.
    #[serde(
        default = "Resources::unmeasured",
        skip_serializing_if = "Resources::is_unmeasured"
    )]
    pub(crate) resources: Resources,
    /// Broker CPU per request.
    pub(crate) broker_cpu_us_per_request: Option<f64>,
    /// Broker CPU per 10^9 bytes of batches.
    pub(crate) broker_cpu_s_per_gigabyte: Option<f64>,
    /// Bytes handed to the block layer per byte of batches; write-back may come later.
    pub(crate) write_amplification: Option<f64>,
    /// Broker CPU per 10^6 records.
    pub(crate) broker_cpu_s_per_million_records: Option<f64>,
    /// Broker CPU per 10^6 requests.
    pub(crate) broker_cpu_s_per_million_requests: Option<f64>,
    /// Bytes that the data directory's device wrote, for whomever, per byte of batches.
    pub(crate) device_write_amplification: Option<f64>,
    /// Entries that the broker put into its rings, per record.
    pub(crate) ring_entries_per_record: Option<f64>,
    /// System calls of the broker per record, if they were counted.
    pub(crate) system_calls_per_record: Option<f64>,
    /// Records read back and compared; `None` without verification.
    pub(crate) verified_records: Option<u64>,
    /// When the measured phase began, in seconds since 1970.
    #[serde(deserialize_with = "number")]
    pub(crate) began_unix_s: f64,
    /// What happened when.
    pub(crate) intervals: Vec<Interval>,
}

impl Summary {
    /// Of another tool, which does not tell what is left as it is here.
    pub(crate) fn unmeasured() -> Self {
        Self {
            requests: 0,
            records: 0,
            batch_bytes: 0,
            elapsed_s: f64::NAN,
            records_per_s: f64::NAN,
            megabytes_per_s: f64::NAN,
            open_loop: false,
            latency: Latency::unmeasured(),
            service_time: Latency::unmeasured(),
            generator_lag: Latency::unmeasured(),
            resources: Resources::unmeasured(),
            broker_cpu_us_per_request: None,
            broker_cpu_s_per_gigabyte: None,
            write_amplification: None,
            broker_cpu_s_per_million_records: None,
            broker_cpu_s_per_million_requests: None,
            device_write_amplification: None,
            ring_entries_per_record: None,
            system_calls_per_record: None,
            verified_records: None,
            began_unix_s: f64::NAN,
            intervals: Vec::new(),
        }
    }

    /// Whether this harness measured it.
    pub(crate) fn is_measured(&self) -> bool {
        !self.resources.is_unmeasured()
    }

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
        let per_record = |count: u64| per(count as f64, records as f64);
        let requests = counted.requests as f64;
        let per_request = PerRequest {
            records: per(records as f64, requests),
            batch_bytes: per(batch_bytes as f64, requests),
        };
        let ring_entries = resources.broker_ring_entries.count();
        let system_calls = resources.broker_system_calls.count();
        let device_bytes = resources.device.as_ref().map(|device| device.write_bytes);
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
            broker_cpu_us_per_request: cpu_s.map(|cpu| per(cpu * 1e6, requests)),
            broker_cpu_s_per_gigabyte: cpu_s.map(|cpu| per(cpu, gigabytes)),
            write_amplification: broker
                .map(|broker| per(broker.write_bytes as f64, batch_bytes as f64)),
            broker_cpu_s_per_million_records: cpu_s.map(|cpu| per(cpu * 1e6, records as f64)),
            broker_cpu_s_per_million_requests: cpu_s.map(|cpu| per(cpu * 1e6, requests)),
            device_write_amplification: device_bytes
                .map(|bytes| per(bytes as f64, batch_bytes as f64)),
            ring_entries_per_record: ring_entries.map(per_record),
            system_calls_per_record: system_calls.map(per_record),
            verified_records: None,
            began_unix_s: counted.began_unix_s,
            intervals: Interval::all(
                &counted.intervals,
                counted.elapsed,
                (0.0, false),
                per_request,
            ),
            resources,
        }
    }

    /// Puts the warm-up before what was measured.
    pub(crate) fn with_warm_up(mut self, warm_up: &Counted) -> Self {
        let elapsed_s = warm_up.elapsed.as_secs_f64();
        let begin_s = (warm_up.began_unix_s - self.began_unix_s).min(-elapsed_s);
        let per = |value: u64| value as f64 / self.requests.max(1) as f64;
        let per_request = PerRequest {
            records: per(self.records),
            batch_bytes: per(self.batch_bytes),
        };
        let mut intervals = Interval::all(
            &warm_up.intervals,
            warm_up.elapsed,
            (begin_s, true),
            per_request,
        );
        intervals.append(&mut self.intervals);
        self.intervals = intervals;
        self
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
        if !self.is_measured() {
            let latency = &self.latency;
            return vec![
                format!(
                    "{} records, {} records/s, {} MB/s",
                    digits(self.records as f64),
                    digits(self.records_per_s),
                    digits(self.megabytes_per_s)
                ),
                format!(
                    "latency      p50 {} us, p95 {} us, p99 {} us, p99.9 {} us, max {} us (as it was told)",
                    digits(latency.p50_us),
                    digits(latency.p95_us),
                    digits(latency.p99_us),
                    digits(latency.p99_9_us),
                    digits(latency.max_us)
                ),
            ];
        }
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
                format!(
                    "verified     {records} records: count, order, offsets, and all bytes (keys, values and \
                     headers, where the stored bytes are not those that were sent)"
                )
            }
            None => "verified     nothing (--no-verify)".to_owned(),
        });
        let stages = self.resources.broker_stages.iter();
        lines.extend(stages.flat_map(Breakdown::lines));
        lines
    }
}
