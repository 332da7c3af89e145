//! Whose doing it is that a request leaves late: the broker's, which held it up, or the generator's.
//!
//! The lag of a request is counted from when a punctual generator would have sent it: at the intended
//! time, or when the broker let it go (an answer made room in the window, or the socket took the bytes
//! before it). A stall of the generator makes a backlog, whose requests then find the window full: they
//! stay the generator's until it has caught up. No clock in here.

use std::time::{Duration, Instant};

/// From here on the generator has stalled; less is not carried over, or microseconds would add up.
pub(super) const STALL: Duration = Duration::from_millis(1);
/// Stalls that make a smaller part of a backlog are not what it comes from: the broker is too slow.
const PART_LEAST: u32 = 10;

/// What one connection's writer knows of it.
#[derive(Debug, Default)]
pub(super) struct Lateness {
    /// When the broker would have let a punctual generator go on.
    ready: Option<Instant>,
    /// How far the generator's stalls have set it back.
    behind: Duration,
    /// When the last request was meant to leave.
    intended: Option<Instant>,
}

impl Lateness {
    /// The broker held the writer up until `time`; the request was meant to leave at `intended`.
    pub(super) fn held_until(&mut self, time: Instant, intended: Instant) {
        let late = time.saturating_duration_since(intended);
        let behind = if self.behind * PART_LEAST >= late {
            self.behind
        } else {
            Duration::ZERO
        };
        self.ready = time.checked_sub(behind);
    }

    /// The broker held the last request's bytes up until `time`.
    pub(super) fn written_at(&mut self, time: Instant) {
        self.held_until(time, self.intended.unwrap_or(time));
    }

    /// When a punctual generator would have sent what leaves `now`.
    pub(super) fn due(&mut self, intended: Instant, now: Instant) -> Instant {
        let due = self.ready.map_or(intended, |ready| ready.max(intended));
        let lag = now.saturating_duration_since(due);
        self.behind = if lag >= STALL { lag } else { Duration::ZERO };
        self.intended = Some(intended);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const US: Duration = Duration::from_micros(1);

    /// Lags of requests that are meant to leave every millisecond, each held up by the one before it for
    /// `answer_us`; before request 10 the generator stalls for `stall`.
    fn lags(answer_us: u32, stall: Duration, requests: u32) -> Vec<Duration> {
        let began = Instant::now();
        let (mut lateness, mut now) = (Lateness::default(), began);
        let mut lags = Vec::new();
        let mut answered = began;
        for number in 0..requests {
            let intended = began + number * MS;
            now = now.max(intended);
            if number == 10 {
                now += stall;
            }
            if now < answered {
                now = answered;
                lateness.held_until(now, intended);
            }
            now += 3 * US; // the generator's own work
            lags.push(now.saturating_duration_since(lateness.due(intended, now)));
            answered = now + answer_us * US;
        }
        lags
    }

    #[test]
    fn a_backlog_that_a_stall_made_is_the_generators_until_it_is_gone() {
        let lags = lags(100, 500 * MS, 1000);
        let late = lags.iter().filter(|lag| **lag > MS).count();
        assert!((500..600).contains(&late), "{late}");
        assert!(lags[11] > 490 * MS && lags[11] < 501 * MS, "{:?}", lags[11]);
        assert!(lags[999] < 10 * US, "{:?}", lags[999]);
    }

    #[test]
    fn a_backlog_of_a_slow_broker_is_not_the_generators() {
        let lags = lags(2000, Duration::ZERO, 1000);
        assert!(
            lags.iter().all(|lag| *lag < 10 * US),
            "{:?}",
            lags.iter().max()
        );
    }

    #[test]
    fn a_short_stall_does_not_make_a_slow_brokers_whole_backlog_the_generators() {
        let lags = lags(3000, 5 * MS, 1000);
        let late = lags.iter().filter(|lag| **lag > MS).count();
        assert!(late < 50, "{late}");
    }

    #[test]
    fn what_has_room_after_the_broker_let_go_counts_from_there() {
        let began = Instant::now();
        let mut lateness = Lateness::default();
        let freed = began + 50 * MS;
        lateness.held_until(freed, began);
        for number in 0..5 {
            let now = freed + number * US;
            let due = lateness.due(began + number * MS, now);
            assert_eq!(due, freed, "{number}");
        }
    }

    #[test]
    fn a_generator_that_is_too_slow_lags_behind_its_schedule() {
        let began = Instant::now();
        let mut lateness = Lateness::default();
        let lag = |number| {
            let now = began + number * 2 * MS;
            now.saturating_duration_since(lateness.due(began + number * MS, now))
        };
        let lags: Vec<_> = (0..100).map(lag).collect();
        assert_eq!(lags[99], 99 * MS);
    }
}
