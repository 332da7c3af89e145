//! What happened over time: one interval a second with its own histogram, and samples of CPU use.
//!
//! Recording costs one more histogram entry a request. A long run has longer intervals: when there
//! are [`INTERVALS_MAX`] of them, neighbours are merged, so memory and the report stay bounded.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::hdr;

/// More are merged in pairs; ten minutes of seconds.
const INTERVALS_MAX: usize = 600;
/// Longer ones are held here, as the histogram of the whole phase holds them.
const LATENCY_NS_MAX: u64 = 120_000_000_000;
const INTERVAL: Duration = Duration::from_secs(1);

/// Counts requests and latencies of a phase by interval.
#[derive(Debug)]
pub(crate) struct Recorder {
    begin: Instant,
    length: Duration,
    ends: Instant,
    done: Vec<Recorded>,
    current: Recorded,
}

/// One interval, as it was recorded.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    /// Answers in it.
    pub(crate) requests: u64,
    /// From the intended time (open loop) or the send (closed loop), in nanoseconds.
    pub(crate) latency: Histogram<u32>,
}

impl Recorded {
    fn empty(highest: u64) -> Self {
        let mut latency = Histogram::new_with_bounds(1, highest.max(2), 3)
            .expect("three digits and a highest of at least two are valid");
        latency.auto(true);
        Self {
            requests: 0,
            latency,
        }
    }

    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.latency
            .add(&other.latency)
            .expect("a histogram that resizes takes any other");
    }
}

impl Recorder {
    /// From `begin`.
    pub(crate) fn new(begin: Instant) -> Self {
        Self {
            begin,
            length: INTERVAL,
            ends: begin + INTERVAL,
            done: Vec::new(),
            current: Recorded::empty(1 << 24),
        }
    }

    /// An answer at `now`; `None` with acks=0, which has no latency.
    pub(crate) fn answered(&mut self, now: Instant, latency_ns: Option<u64>) {
        while now >= self.ends {
            self.roll();
        }
        self.current.requests += 1;
        if let Some(latency_ns) = latency_ns {
            // Not `saturating_record`: it holds a value at the end instead of making room for it.
            let recorded = self.current.latency.record(latency_ns.min(LATENCY_NS_MAX));
            recorded.expect("a histogram that resizes takes any value");
        }
    }

    fn roll(&mut self) {
        let next = Recorded::empty(self.current.latency.high());
        self.done.push(std::mem::replace(&mut self.current, next));
        if self.done.len() >= INTERVALS_MAX {
            let mut merged = Vec::with_capacity(INTERVALS_MAX);
            for pair in self.done.chunks(2) {
                let mut first = pair[0].clone();
                pair[1..].iter().for_each(|second| first.add(second));
                merged.push(first);
            }
            self.done = merged;
            self.length *= 2;
        }
        let done = u32::try_from(self.done.len()).expect("below INTERVALS_MAX");
        self.ends = self.begin + self.length * (done + 1);
    }

    /// All intervals and their length; the last one is the shorter.
    pub(crate) fn finish(mut self) -> (Duration, Vec<Recorded>) {
        if self.current.requests > 0 {
            self.done.push(self.current);
        }
        (self.length, self.done)
    }
}

/// One interval of a result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Interval {
    /// From the begin of the measured phase; negative in the warm-up.
    pub(crate) begin_s: f64,
    /// How long it was.
    pub(crate) duration_s: f64,
    /// Whether it is not part of the result.
    pub(crate) warm_up: bool,
    /// Requests answered; 0 in what is imported from a tool that does not tell.
    pub(crate) requests: u64,
    /// Answers a second.
    #[serde(deserialize_with = "number")]
    pub(crate) requests_per_s: f64,
    /// Records a second.
    #[serde(deserialize_with = "number")]
    pub(crate) records_per_s: f64,
    /// 10^6 bytes of batches a second.
    #[serde(deserialize_with = "number")]
    pub(crate) megabytes_per_s: f64,
    /// The middle.
    #[serde(deserialize_with = "number")]
    pub(crate) p50_us: f64,
    /// The 90th percentile.
    #[serde(deserialize_with = "number")]
    pub(crate) p90_us: f64,
    /// The 99th.
    #[serde(deserialize_with = "number")]
    pub(crate) p99_us: f64,
    /// The 99.9th.
    #[serde(deserialize_with = "number")]
    pub(crate) p99_9_us: f64,
    /// The greatest.
    #[serde(deserialize_with = "number")]
    pub(crate) max_us: f64,
    /// Nanoseconds: HdrHistogram V2, deflated, base64; empty without latencies.
    pub(crate) hdr_v2_deflate: String,
}

/// A number, or null for one that nobody measured: in memory that is not a number.
pub(crate) fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// What is constant over a phase.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PerRequest {
    /// Mean records of an answer.
    pub(crate) records: f64,
    /// Mean bytes of batches.
    pub(crate) batch_bytes: f64,
}

impl Interval {
    /// Of another tool, which does not tell what is left as it is here.
    pub(crate) fn unmeasured() -> Self {
        Self {
            begin_s: 0.0,
            duration_s: 0.0,
            warm_up: false,
            requests: 0,
            requests_per_s: f64::NAN,
            records_per_s: f64::NAN,
            megabytes_per_s: f64::NAN,
            p50_us: f64::NAN,
            p90_us: f64::NAN,
            p99_us: f64::NAN,
            p99_9_us: f64::NAN,
            max_us: f64::NAN,
            hdr_v2_deflate: String::new(),
        }
    }

    /// Of a whole phase of `elapsed`, beginning at `begin_s`.
    pub(crate) fn all(
        (length, recorded): &(Duration, Vec<Recorded>),
        elapsed: Duration,
        (begin_s, warm_up): (f64, bool),
        per_request: PerRequest,
    ) -> Vec<Self> {
        let (length_s, elapsed_s) = (length.as_secs_f64(), elapsed.as_secs_f64());
        let mut recorded = recorded.clone();
        // The rates of a last interval of milliseconds would be noise: it joins the one before.
        let rest_s = elapsed_s - recorded.len().saturating_sub(1) as f64 * length_s;
        if recorded.len() > 1
            && rest_s < length_s / 4.0
            && let Some(rest) = recorded.pop()
            && let Some(last) = recorded.last_mut()
        {
            last.add(&rest);
        }
        let count = recorded.len();
        let number = |(index, of): (usize, &Recorded)| {
            let from_s = index as f64 * length_s;
            let duration_s = if index + 1 == count {
                (elapsed_s - from_s).max(1e-9)
            } else {
                length_s
            };
            let begin = (begin_s + from_s, duration_s, warm_up);
            Self::of(of, begin, per_request)
        };
        recorded.iter().enumerate().map(number).collect()
    }

    fn of(
        of: &Recorded,
        (begin_s, duration_s, warm_up): (f64, f64, bool),
        per: PerRequest,
    ) -> Self {
        let rate = of.requests as f64 / duration_s;
        let us = |quantile| of.latency.value_at_quantile(quantile) as f64 / 1e3;
        let hdr_v2_deflate = match of.latency.len() {
            0 => String::new(),
            _ => hdr::encode(&of.latency),
        };
        Self {
            begin_s,
            duration_s,
            warm_up,
            requests: of.requests,
            requests_per_s: rate,
            records_per_s: rate * per.records,
            megabytes_per_s: rate * per.batch_bytes / 1e6,
            p50_us: us(0.5),
            p90_us: us(0.9),
            p99_us: us(0.99),
            p99_9_us: us(0.999),
            max_us: us(1.0),
            hdr_v2_deflate,
        }
    }
}

/// What both sides and the machine used between the sample before and this one.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Its end, from the begin of the measurement.
    pub(crate) at_s: f64,
    /// CPUs that the broker used: 1 is one CPU all the time.
    pub(crate) broker_cpus: Option<f64>,
    /// CPUs that the generator used.
    pub(crate) generator_cpus: f64,
    /// CPUs that others used.
    pub(crate) foreign_cpus: f64,
    /// CPUs that the hypervisor took.
    pub(crate) steal_cpus: f64,
    /// Resident memory of the broker.
    pub(crate) broker_resident_bytes: Option<u64>,
    /// 10^6 bytes a second that the data directory's device wrote, for all its users.
    pub(crate) device_write_megabytes_per_s: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_lies_in_its_interval_and_silence_is_an_interval_too() {
        let begin = Instant::now();
        let mut recorder = Recorder::new(begin);
        for ms in [0, 500, 999, 1000, 3500] {
            recorder.answered(begin + Duration::from_millis(ms), Some(ms * 1000 + 1));
        }
        let recorded = recorder.finish();
        let counts: Vec<_> = recorded.1.iter().map(|of| of.requests).collect();
        assert_eq!(counts, [3, 1, 0, 1]);
        let per_request = PerRequest {
            records: 10.0,
            batch_bytes: 1e6,
        };
        let elapsed = Duration::from_millis(3500);
        let intervals = Interval::all(&recorded, elapsed, (0.0, false), per_request);
        assert_eq!(intervals[3].duration_s, 0.5);
        assert_eq!(intervals[3].records_per_s, 20.0);
        assert_eq!(intervals[0].megabytes_per_s, 3.0);
        assert_eq!(intervals[2].hdr_v2_deflate, "");
        let read = hdr::decode(&intervals[0].hdr_v2_deflate).unwrap();
        assert_eq!(read.len(), 3);
    }

    #[test]
    fn a_latency_beyond_the_first_room_is_kept_whole() {
        let begin = Instant::now();
        let mut recorder = Recorder::new(begin);
        let ns = [40_000, 963_117_000, 119_000_000_000];
        for ns in ns {
            recorder.answered(begin, Some(ns));
        }
        let (_, recorded) = recorder.finish();
        let latency = &recorded[0].latency;
        assert_eq!(latency.len(), 3);
        for (quantile, ns) in [(0.1, ns[0]), (0.6, ns[1]), (1.0, ns[2])] {
            let told = latency.value_at_quantile(quantile);
            assert!(told.abs_diff(ns) <= ns / 1000, "{told} for {ns}");
        }
    }

    #[test]
    fn a_rest_of_milliseconds_joins_the_last_whole_interval() {
        let begin = Instant::now();
        let mut recorder = Recorder::new(begin);
        for ms in [0, 500, 1003] {
            recorder.answered(begin + Duration::from_millis(ms), Some(1000));
        }
        let per_request = PerRequest {
            records: 1.0,
            batch_bytes: 1.0,
        };
        let elapsed = Duration::from_millis(1003);
        let intervals = Interval::all(&recorder.finish(), elapsed, (-5.0, true), per_request);
        assert_eq!(intervals.len(), 1);
        assert_eq!((intervals[0].requests, intervals[0].duration_s), (3, 1.003));
    }

    #[test]
    fn a_long_run_has_longer_intervals_and_loses_no_answer() {
        let begin = Instant::now();
        let mut recorder = Recorder::new(begin);
        let seconds = INTERVALS_MAX as u64 * 3;
        for second in 0..seconds {
            recorder.answered(
                begin + Duration::from_secs(second),
                Some(1 << (second % 30)),
            );
        }
        let (length, recorded) = recorder.finish();
        assert_eq!(length, INTERVAL * 4);
        assert!(recorded.len() <= INTERVALS_MAX, "{}", recorded.len());
        assert_eq!(recorded.iter().map(|of| of.requests).sum::<u64>(), seconds);
        assert_eq!(
            recorded.iter().map(|of| of.latency.len()).sum::<u64>(),
            seconds
        );
    }
}
