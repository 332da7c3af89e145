//! When a request is meant to leave. No clock in here: times are durations since the run began.
//!
//! Closed loop: as soon as the in-flight window has room; its latencies tell nothing about a load
//! that does not wait. Open loop: at fixed or Poisson times, and latency counts from the intended
//! time, however late the request left (wrk2's README names the error that this avoids).

use std::time::Duration;

/// How requests follow on each other.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Pace {
    /// As fast as the window lets them.
    Closed,
    /// At a rate, over all connections together.
    Open {
        /// Requests a second.
        #[serde(rename = "requests_per_s")]
        rate: f64,
        /// How they are spaced.
        arrival: Arrival,
    },
}

/// The spacing of an open loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Arrival {
    /// Every 1/rate.
    Fixed,
    /// Independent arrivals: exponential gaps.
    Poisson,
}

/// The intended times of one connection's requests.
#[derive(Debug)]
pub(crate) struct Schedule {
    pace: Pace,
    /// Seconds between two requests of this connection.
    gap_s: f64,
    /// Of the next request, in seconds.
    next_s: f64,
    random: SplitMix64,
}

impl Schedule {
    /// The schedule of `connection` of `connections`, which share the rate.
    pub(crate) fn new(pace: Pace, connection: usize, connections: usize, seed: u64) -> Self {
        let mut random = SplitMix64::new(seed ^ (connection as u64).wrapping_mul(0x9e37_79b9));
        let (gap_s, next_s) = match pace {
            Pace::Closed => (0.0, 0.0),
            Pace::Open { rate, arrival } => {
                let gap_s = connections as f64 / rate;
                let first = match arrival {
                    Arrival::Fixed => connection as f64 / rate,
                    Arrival::Poisson => random.exponential() * gap_s,
                };
                (gap_s, first)
            }
        };
        Self {
            pace,
            gap_s,
            next_s,
            random,
        }
    }

    /// When the next request is meant to leave; `None` means as soon as it may.
    pub(crate) fn intended(&self) -> Option<Duration> {
        match self.pace {
            Pace::Closed => None,
            Pace::Open { .. } => Some(Duration::from_secs_f64(self.next_s)),
        }
    }

    /// Moves on to the request after.
    pub(crate) fn advance(&mut self) {
        if let Pace::Open { arrival, .. } = self.pace {
            self.next_s += match arrival {
                Arrival::Fixed => self.gap_s,
                Arrival::Poisson => self.random.exponential() * self.gap_s,
            };
        }
    }
}

/// Steele, Lea, Flood: SplitMix64. Seeded, and the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct SplitMix64(u64);

impl SplitMix64 {
    /// A sequence of its own for each seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in 0..bound; the bias of the remainder is below bound / 2^64.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    /// Exponentially distributed with mean 1.
    fn exponential(&mut self) -> f64 {
        // 53 bits make a double in [0, 1); the logarithm needs (0, 1].
        let unit = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        -(1.0 - unit).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(mut schedule: Schedule, count: usize) -> Vec<f64> {
        let mut next = || {
            let time = schedule.intended().unwrap().as_secs_f64();
            schedule.advance();
            time
        };
        (0..count).map(|_| next()).collect()
    }

    fn open(arrival: Arrival) -> Pace {
        let rate = 1000.0;
        Pace::Open { rate, arrival }
    }

    #[test]
    fn fixed_arrivals_of_all_connections_interleave_to_the_whole_rate() {
        let mut all = Vec::new();
        for connection in 0..4 {
            let schedule = Schedule::new(open(Arrival::Fixed), connection, 4, 1);
            all.extend(times(schedule, 250));
        }
        all.sort_by(f64::total_cmp);
        for (number, time) in all.iter().enumerate() {
            assert!(
                (time - number as f64 / 1000.0).abs() < 1e-9,
                "{number}: {time}"
            );
        }
    }

    #[test]
    fn poisson_arrivals_keep_the_rate_and_have_exponential_gaps() {
        let times = times(Schedule::new(open(Arrival::Poisson), 0, 1, 42), 100_000);
        let mut gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean * 1000.0 - 1.0).abs() < 0.02, "mean {mean}");
        assert!(
            (variance.sqrt() / mean - 1.0).abs() < 0.02,
            "deviation {variance}"
        );
        gaps.sort_by(f64::total_cmp);
        let median = gaps[gaps.len() / 2];
        assert!(
            (median / (mean * 2f64.ln()) - 1.0).abs() < 0.02,
            "median {median}"
        );
    }

    #[test]
    fn a_seed_gives_the_same_times_and_another_seed_others() {
        let of = |seed| times(Schedule::new(open(Arrival::Poisson), 2, 4, seed), 50);
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    #[test]
    fn connections_do_not_share_their_arrivals() {
        let of = |connection| times(Schedule::new(open(Arrival::Poisson), connection, 4, 7), 50);
        assert_ne!(of(0), of(1));
    }

    #[test]
    fn a_closed_loop_has_no_intended_times() {
        let mut schedule = Schedule::new(Pace::Closed, 0, 1, 1);
        schedule.advance();
        assert_eq!(schedule.intended(), None);
    }
}
