//! HdrHistograms as text (V2, deflated, base64: what the tools of that project read), and as a log.
//!
//! Everything recorded is nanoseconds. What is read back came from a file, so every step may fail.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::ZlibDecoder;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use hdrhistogram::{Counter, Histogram};
use std::io::Read as _;
use std::time::{Duration, UNIX_EPOCH};

/// A histogram that is told to have more counts than this is no histogram of ours: 120 s in
/// nanoseconds with three digits have 27 thousand.
const TEXT_BYTES_MAX: usize = 4 << 20;

/// The text form.
pub(crate) fn encode<C: Counter>(histogram: &Histogram<C>) -> String {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new()
        .serialize(histogram, &mut bytes)
        .expect("writing to memory does not fail, and counts of a run fit 63 bits");
    STANDARD.encode(bytes)
}

/// Reads the text form.
pub(crate) fn decode(text: &str) -> Result<Histogram<u64>, String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("a histogram of {} bytes", text.len()));
    }
    let bytes = STANDARD
        .decode(text.trim())
        .map_err(|error| format!("a histogram that is no base64: {error}"))?;
    let plain = inflated(&bytes)?;
    Deserializer::new()
        .deserialize(&mut plain.as_slice())
        .map_err(|error| format!("a histogram that cannot be read: {error}"))
}

/// The plain form (V2), with as many counts as it says: the library makes room for what it is told.
///
/// ```text
/// offset 0  cookie: u32 | 4 payload length: u32 | 8 .. 40 what the counts are of | 40 counts, big-endian
/// ```
fn inflated(bytes: &[u8]) -> Result<Vec<u8>, String> {
    const DEFLATED: [u8; 4] = [0x1c, 0x84, 0x93, 0x14];
    const HEAD_BYTES: usize = 40;
    let mut plain = Vec::new();
    match bytes.strip_prefix(&DEFLATED) {
        None => plain.extend_from_slice(bytes),
        Some(rest) => {
            let deflated = rest.get(4..).unwrap_or_default(); // behind its length
            let mut limited = ZlibDecoder::new(deflated).take(TEXT_BYTES_MAX as u64 + 1);
            limited
                .read_to_end(&mut plain)
                .map_err(|error| format!("a histogram that cannot be inflated: {error}"))?;
        }
    }
    let told = plain.get(4..).and_then(|rest| rest.first_chunk());
    let told = told.map(|told| u32::from_be_bytes(*told));
    let there = plain.len().checked_sub(HEAD_BYTES);
    if plain.len() > TEXT_BYTES_MAX || there.is_none() || there != told.and_then(as_size) {
        return Err(format!("a histogram of {} bytes that is cut", plain.len()));
    }
    Ok(plain)
}

fn as_size(told: u32) -> Option<usize> {
    usize::try_from(told).ok()
}

/// One line of an interval log.
#[derive(Debug)]
pub(crate) struct Entry {
    /// What it is of; commas and spaces become dashes.
    pub(crate) tag: String,
    /// Seconds since 1970.
    pub(crate) begin_s: f64,
    /// How long it lasted.
    pub(crate) duration_s: f64,
    /// What was counted.
    pub(crate) histogram: Histogram<u64>,
}

/// An interval log (format 1.3): times in nanoseconds, the greatest of each interval in milliseconds.
pub(crate) fn interval_log(
    comments: &[String],
    start_s: f64,
    entries: &[Entry],
) -> Result<Vec<u8>, String> {
    let mut log = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    builder.add_comment("[Histogram log format version 1.3]");
    for comment in comments {
        builder.add_comment(&comment.replace(['\n', '\r'], " "));
    }
    let start = UNIX_EPOCH + Duration::try_from_secs_f64(start_s.max(0.0)).unwrap_or_default();
    let mut writer = builder
        .with_start_time(start)
        .with_max_value_divisor(1e6)
        .begin_log_with(&mut log, &mut serializer)
        .map_err(|error| format!("an interval log: {error}"))?;
    for entry in entries {
        let seconds = |value: f64| Duration::try_from_secs_f64(value.max(0.0)).unwrap_or_default();
        let tag = entry.tag.replace([',', ' ', '\n', '\r'], "-");
        writer
            .write_histogram(
                &entry.histogram,
                seconds(entry.begin_s),
                seconds(entry.duration_s),
                Tag::new(&tag),
            )
            .map_err(|error| format!("an interval log: {error:?}"))?;
    }
    Ok(log)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    fn histogram(values: &[u64]) -> Histogram<u64> {
        let mut histogram = crate::phase::histogram();
        for value in values {
            histogram.record(*value).unwrap();
        }
        histogram
    }

    #[test]
    fn what_is_written_is_read_back() {
        let before = histogram(&[40_000, 41_000, 5_000_000_000]);
        let after = decode(&encode(&before)).unwrap();
        assert_eq!(before, after);
    }

    #[test]
    fn what_is_no_histogram_is_an_error() {
        for text in ["", "%%%", "AAAA", "HISTFAAAAA=="] {
            assert!(decode(text).is_err(), "{text:?}");
        }
        assert!(decode(&"A".repeat(TEXT_BYTES_MAX + 1)).is_err());
        let mut text = encode(&histogram(&[1, 2, 3]));
        text.truncate(text.len() / 2 / 4 * 4);
        assert!(decode(&text).is_err(), "{text}");
    }

    #[test]
    fn a_length_that_is_told_makes_no_room() {
        use flate2::Compression;
        use flate2::read::ZlibEncoder;
        let bytes = STANDARD.decode(encode(&histogram(&[1, 2, 3]))).unwrap();
        let text = |plain: &[u8]| {
            let mut deflated = bytes[..4].to_vec();
            let mut body = Vec::new();
            let mut encoder = ZlibEncoder::new(plain, Compression::fast());
            encoder.read_to_end(&mut body).unwrap();
            deflated.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
            deflated.extend(body);
            STANDARD.encode(deflated)
        };
        let plain = inflated(&bytes).unwrap();
        assert_eq!(decode(&text(&plain)).unwrap().len(), 3);
        let mut told = plain.clone();
        told[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
        let refused = decode(&text(&told)).unwrap_err();
        assert!(refused.contains("that is cut"), "{refused}");
        // Zeros deflate to a thousandth.
        let refused = decode(&text(&vec![0; 64 << 20])).unwrap_err();
        assert!(refused.contains("that is cut"), "{refused}");
    }

    #[test]
    fn an_interval_log_has_its_intervals_in_order_with_tags() {
        let entry = |tag: &str, begin_s, values: &[u64]| Entry {
            tag: tag.to_owned(),
            begin_s,
            duration_s: 1.0,
            histogram: histogram(values),
        };
        let entries = [
            entry("latency", 1e9, &[50_000, 70_000]),
            entry("a, b", 1e9 + 1.0, &[90_000]),
        ];
        let log = interval_log(&["a\nb".to_owned()], 1e9, &entries).unwrap();
        let text = String::from_utf8(log.clone()).unwrap();
        assert!(
            text.contains("[Histogram log format version 1.3]"),
            "{text}"
        );
        let read: Vec<_> = IntervalLogIterator::new(&log).map(Result::unwrap).collect();
        let intervals: Vec<_> = read
            .iter()
            .filter_map(|entry| match entry {
                LogEntry::Interval(interval) => Some(interval),
                LogEntry::StartTime(_) | LogEntry::BaseTime(_) => None,
            })
            .collect();
        assert_eq!(intervals.len(), 2, "{text}");
        assert_eq!(intervals[1].tag().unwrap().as_str(), "a--b");
        assert!((intervals[0].max() - 0.07).abs() < 0.001, "{text}");
        assert_eq!(decode(intervals[0].encoded_histogram()).unwrap().len(), 2);
    }
}
