//! What pairs of runs say about a ratio: interval, smallest detectable effect, verdict. Pure, seeded.
//!
//! Runs of two sides come in pairs that lie close in time, so that what the machine does meanwhile
//! hits both. Each pair gives one logarithm of a ratio; their mean gets an interval by the bootstrap-t
//! (Efron and Tibshirani, An Introduction to the Bootstrap, 12.5), which unlike the percentile
//! bootstrap keeps its 95 % with as few as six pairs: the tests hold it to that.

use serde::Serialize;

use crate::schedule::SplitMix64;

/// Resamples: more move the ends of the interval by less than a hundredth of its width.
const RESAMPLES: usize = 4000;
/// An effect of this many half-widths is found eight times in ten: (1.96 + 0.84) / 1.96.
const DETECTABLE_HALF_WIDTHS: f64 = 1.43;
/// With fewer pairs a resample often has nearly no spread, and the interval has no end.
pub(crate) const PAIRS_MIN: usize = 6;

/// How the second side stands to the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// The whole interval lies within the margin.
    Same,
    /// The whole interval is on the better side.
    Faster,
    /// The whole interval is on the worse side.
    Slower,
    /// The interval has both.
    CannotTell,
}

impl Verdict {
    /// For a table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Faster => "faster",
            Self::Slower => "slower",
            Self::CannotTell => "cannot tell",
        }
    }
}

/// Second side divided by first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Ratio {
    /// Geometric mean over the pairs.
    pub(crate) ratio: f64,
    /// The lower end of its 95 % interval.
    pub(crate) low: f64,
    /// The upper end.
    pub(crate) high: f64,
    /// The smallest change, as a share, that these pairs would have found eight times in ten.
    pub(crate) detectable: f64,
    /// How many pairs.
    pub(crate) pairs: usize,
}

impl Ratio {
    /// Of pairs (first, second) of positive numbers; `None` with fewer than [`PAIRS_MIN`].
    pub(crate) fn of(pairs: &[(f64, f64)], seed: u64) -> Option<Self> {
        let logarithms: Vec<_> = pairs
            .iter()
            .map(|(first, second)| (second / first).ln())
            .collect();
        if pairs.len() < PAIRS_MIN || !logarithms.iter().all(|value| value.is_finite()) {
            return None;
        }
        let (mean, error) = mean_and_error(&logarithms);
        let (low, high) = interval(&logarithms, (mean, error), seed);
        Some(Self {
            ratio: mean.exp(),
            low: low.exp(),
            high: high.exp(),
            detectable: (f64::midpoint(high, -low) * DETECTABLE_HALF_WIDTHS).exp() - 1.0,
            pairs: pairs.len(),
        })
    }

    /// What it means, if changes below `margin` do not matter.
    pub(crate) fn verdict(&self, margin: f64, less_is_better: bool) -> Verdict {
        let bound = 1.0 + margin;
        if self.low > 1.0 / bound && self.high < bound {
            return Verdict::Same;
        }
        match (self.low > 1.0, self.high < 1.0) {
            (true, _) if less_is_better => Verdict::Slower,
            (_, true) if !less_is_better => Verdict::Slower,
            (false, false) => Verdict::CannotTell,
            _ => Verdict::Faster,
        }
    }
}

fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0) / count).sqrt())
}

fn interval(values: &[f64], (mean, error): (f64, f64), seed: u64) -> (f64, f64) {
    let mut random = SplitMix64::new(seed);
    let mut sample = vec![0.0; values.len()];
    let mut scores = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        for drawn in &mut sample {
            *drawn = values[random.below(values.len())];
        }
        let (sampled, sampled_error) = mean_and_error(&sample);
        // A sample of one value drawn again and again has no error and says nothing.
        if sampled_error > f64::EPSILON {
            scores.push((sampled - mean) / sampled_error);
        }
    }
    if scores.is_empty() {
        return (mean, mean);
    }
    scores.sort_by(f64::total_cmp);
    let quantile = |share: f64| scores[(share * (scores.len() - 1) as f64).round() as usize];
    (
        mean - quantile(0.975) * error,
        mean - quantile(0.025) * error,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Normal, by the sum of twelve uniform numbers.
    fn normal(random: &mut SplitMix64) -> f64 {
        let uniform = |random: &mut SplitMix64| random.below(1 << 30) as f64 / f64::from(1 << 30);
        (0..12).map(|_| uniform(random)).sum::<f64>() - 6.0
    }

    /// Pairs whose true ratio is `ratio`, with `noise` in each run and a drift that both share.
    fn pairs(random: &mut SplitMix64, count: usize, ratio: f64, noise: f64) -> Vec<(f64, f64)> {
        let mut pair = |number| {
            let drift = 1.0 + f64::from(number) * 0.1;
            let first = drift * (normal(random) * noise).exp();
            (first, drift * ratio * (normal(random) * noise).exp())
        };
        (0..u32::try_from(count).unwrap()).map(&mut pair).collect()
    }

    /// In how many of 400 trials `seen` holds.
    fn share(count: usize, ratio: f64, noise: f64, seen: impl Fn(&Ratio) -> bool) -> f64 {
        let mut random = SplitMix64::new(7);
        let trials: u32 = 400;
        let hits = (0..trials).filter(|trial| {
            let pairs = pairs(&mut random, count, ratio, noise);
            seen(&Ratio::of(&pairs, u64::from(*trial)).unwrap())
        });
        hits.count() as f64 / f64::from(trials)
    }

    #[test]
    fn the_interval_holds_the_truth_in_19_of_20_trials() {
        for count in [6, 10, 20] {
            let covered = share(count, 1.07, 0.03, |ratio| {
                ratio.low <= 1.07 && 1.07 <= ratio.high
            });
            assert!((0.92..=0.985).contains(&covered), "{count}: {covered}");
        }
    }

    #[test]
    fn a_false_alarm_is_rare_and_a_large_effect_is_found() {
        let slower = |ratio: &Ratio| ratio.verdict(0.02, true) == Verdict::Slower;
        let alarms = share(10, 1.0, 0.03, slower);
        assert!(alarms <= 0.05, "{alarms}");
        let found = share(10, 1.1, 0.03, slower);
        assert!(found >= 0.95, "{found}");
    }

    #[test]
    fn the_detectable_effect_is_found_about_eight_times_in_ten() {
        let mut random = SplitMix64::new(3);
        let ratio = Ratio::of(&pairs(&mut random, 200, 1.0, 0.1), 1).unwrap();
        let found = share(200, 1.0 + ratio.detectable, 0.1, |ratio| ratio.low > 1.0);
        assert!((0.7..=0.92).contains(&found), "{found} at {ratio:?}");
    }

    #[test]
    fn verdicts_know_which_side_is_better() {
        let ratio = |low, high| Ratio {
            ratio: f64::midpoint(low, high),
            low,
            high,
            detectable: 0.0,
            pairs: 10,
        };
        assert_eq!(ratio(0.99, 1.01).verdict(0.02, true), Verdict::Same);
        assert_eq!(ratio(1.01, 1.05).verdict(0.02, true), Verdict::Slower);
        assert_eq!(ratio(1.01, 1.05).verdict(0.02, false), Verdict::Faster);
        assert_eq!(ratio(0.9, 0.97).verdict(0.02, true), Verdict::Faster);
        assert_eq!(ratio(0.9, 0.97).verdict(0.02, false), Verdict::Slower);
        assert_eq!(ratio(0.9, 1.1).verdict(0.02, true), Verdict::CannotTell);
    }

    #[test]
    fn equal_pairs_are_the_same_and_few_or_senseless_ones_say_nothing() {
        let ratio = Ratio::of(&[(2.0, 2.0); 6], 1).unwrap();
        assert_eq!((ratio.low, ratio.high), (1.0, 1.0));
        assert_eq!(ratio.verdict(0.01, true), Verdict::Same);
        assert_eq!(Ratio::of(&[(1.0, 1.0); 5], 1), None);
        assert_eq!(Ratio::of(&[(0.0, 1.0); 6], 1), None);
    }
}
