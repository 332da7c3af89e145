//! Values in human units: sizes, counts, durations, shares, rates, ranges.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::cli::Rate;
use crate::records::Keys;

/// `64`, `10k`, `16KiB`, `1M`, `2GB`: k, M, G are decimal, Ki, Mi, Gi binary.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim_end_matches('B');
    let units = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("k", 1_000),
        ("K", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("", 1),
    ];
    for (unit, factor) in units {
        if let Some(number) = text.strip_suffix(unit) {
            let number: u64 = number
                .parse()
                .map_err(|_| "not a number with an optional unit like k, M, KiB, MiB".to_owned())?;
            return number
                .checked_mul(factor)
                .ok_or_else(|| "too large".to_owned());
        }
    }
    Err("empty".to_owned())
}

/// `1000`, `10k`, `1M`.
pub(super) fn count(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        0 => Err("must be at least 1".to_owned()),
        count => Ok(count),
    }
}

/// `500ms`, `5s`, `2m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    for (unit, factor) in [("ms", 1e-3), ("s", 1.0), ("m", 60.0)] {
        if let Some(number) = text.strip_suffix(unit) {
            let number: f64 = number
                .parse()
                .map_err(|_| "not a number before the unit".to_owned())?;
            return Duration::try_from_secs_f64(number * factor).map_err(|error| error.to_string());
        }
    }
    Err("needs a unit: ms, s or m".to_owned())
}

/// `5%` or `0.05`.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let (number, unit) = match text.strip_suffix('%') {
        Some(number) => (number, 100.0),
        None => (text, 1.0),
    };
    let share = number.parse::<f64>().map(|number| number / unit);
    let share = share.ok().filter(|share| (0.0..=10.0).contains(share));
    share.ok_or_else(|| "must be a share such as 5% or 0.05".to_owned())
}

pub(super) fn acks(text: &str) -> Result<i16, String> {
    match text {
        "all" | "-1" => Ok(-1),
        "0" => Ok(0),
        "1" => Ok(1),
        _ => Err("must be 0, 1 or all".to_owned()),
    }
}

pub(super) fn rate(text: &str) -> Result<Rate, String> {
    match text {
        "max" => Ok(Rate::Max),
        number => Ok(Rate::PerSecond(count(number)? as f64)),
    }
}

/// `100` or `100..1000`, with units.
pub(super) fn sizes(text: &str) -> Result<RangeInclusive<u64>, String> {
    match text.split_once("..") {
        None => bytes(text).map(|size| size..=size),
        Some((least, most)) => {
            let (least, most) = (bytes(least)?, bytes(most)?);
            if least > most {
                return Err("must go from the least to the most".to_owned());
            }
            Ok(least..=most)
        }
    }
}

/// `batch`, `none`, `seq`, `random:1000`.
pub(super) fn keys(text: &str) -> Result<Keys, String> {
    match text.split_once(':') {
        None if text == "batch" => Ok(Keys::Batch),
        None if text == "none" => Ok(Keys::None),
        None if text == "seq" => Ok(Keys::Sequence),
        None if text == "random" => Ok(Keys::Random(u64::MAX)),
        Some(("random", number)) => count(number).map(Keys::Random),
        _ => Err("must be batch, none, seq or random[:HOW-MANY]".to_owned()),
    }
}

/// `none`, `gzip`, `snappy`, `lz4`, `zstd`.
pub(super) fn compression(text: &str) -> Result<ringlog_engine::record::Compression, String> {
    let codec = ringlog_engine::record::Compression::from_name(text);
    codec.ok_or_else(|| "must be none, gzip, snappy, lz4 or zstd".to_owned())
}

/// `1,2,5` or `1k..100k:x2` (each twice the one before) or `1k..5k:+500`.
pub(super) fn grid(text: &str) -> Result<Grid, String> {
    points(text).map(Grid)
}

/// A requests-a-second.
pub(super) fn rate_number(text: &str) -> Result<f64, String> {
    count(text).map(|number| number as f64)
}

/// A share that a search can end at.
pub(super) fn precision(text: &str) -> Result<f64, String> {
    let precision = share(text)?;
    if (0.005..=0.5).contains(&precision) {
        Ok(precision)
    } else {
        Err("must be 0.5% to 50%".to_owned())
    }
}

/// Rates; a type of its own, because clap takes a bare vector for a repeated flag.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Grid(pub(crate) Vec<f64>);

fn points(text: &str) -> Result<Vec<f64>, String> {
    const POINTS_MAX: usize = 200;
    let Some((least, rest)) = text.split_once("..") else {
        let points = text
            .split(',')
            .map(|number| count(number).map(|n| n as f64));
        return points.collect();
    };
    let (most, step) = rest
        .split_once(':')
        .ok_or_else(|| "a range needs a step: 1k..100k:x2 or 1k..5k:+500".to_owned())?;
    let (least, most) = (count(least)? as f64, count(most)? as f64);
    let next: Box<dyn Fn(f64) -> f64> = match (step.strip_prefix('x'), step.strip_prefix('+')) {
        (Some(factor), _) => {
            let factor = factor.parse().ok().filter(|factor: &f64| *factor > 1.0);
            let factor = factor.ok_or_else(|| "a factor must be above 1".to_owned())?;
            Box::new(move |rate| rate * factor)
        }
        (_, Some(more)) => {
            let more = count(more)? as f64;
            Box::new(move |rate| rate + more)
        }
        _ => return Err("a step begins with x or +".to_owned()),
    };
    let points: Vec<_> = std::iter::successors(Some(least), |rate| Some(next(*rate)))
        .take_while(|rate| *rate <= most * 1.000_001)
        .take(POINTS_MAX + 1)
        .collect();
    match points.len() {
        0 => Err("must go from the least to the most".to_owned()),
        count if count > POINTS_MAX => Err(format!("more than {POINTS_MAX} points")),
        _ => Ok(points),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("16KiB"), Ok(16 << 10));
        assert_eq!(bytes("10k"), Ok(10_000));
        assert_eq!(bytes("2GB"), Ok(2_000_000_000));
        assert_eq!(bytes("7"), Ok(7));
        assert!(bytes("KiB").is_err() && bytes("-1").is_err() && bytes("99999999999G").is_err());
        assert!(count("0").is_err());
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("5").is_err() && duration("-5s").is_err() && duration("xs").is_err());
    }

    #[test]
    fn grids_have_points() {
        assert_eq!(points("1k..9k:x2"), Ok(vec![1e3, 2e3, 4e3, 8e3]));
        assert_eq!(points("1k..2k:+500"), Ok(vec![1e3, 1.5e3, 2e3]));
        assert_eq!(points("5,10k"), Ok(vec![5.0, 1e4]));
        for wrong in ["", "1k..9k", "9k..1k:x2", "1..9:x1", "1..9:2", "1..1M:+1"] {
            assert!(points(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_and_spread_sizes_are_read() {
        assert_eq!(keys("random:10"), Ok(Keys::Random(10)));
        assert_eq!(keys("seq"), Ok(Keys::Sequence));
        assert!(keys("random:0").is_err() && keys("some").is_err());
        assert_eq!(sizes("100..1k"), Ok(100..=1000));
        assert_eq!(sizes("7"), Ok(7..=7));
        assert!(sizes("9..7").is_err());
    }
}
