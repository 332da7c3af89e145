//! What a shard has done, counted: requests and where their time went, bytes, journal, ring.
//!
//! A shard counts in cells of its own; nothing is shared. Who wants to know sends it a job
//! ([`report`]), as for everything else. Times are those of turns: a request lives from the turn in
//! which it was whole to the turn in which its answer was ready to be sent. Sampled requests are looked at
//! more closely ([`trace`]).

pub(crate) mod exposition;
pub mod http;
pub mod trace;

use std::cell::{Cell, RefCell};
use std::time::Duration;

use kafka_protocol::messages::ApiKey;
use ringlog_engine::clock::Instant;
use ringlog_engine::io::IoCounters;
use ringlog_engine::journal::JournalStats;

use crate::shard::Shard;
use trace::{Traced, Traces};

/// A shard with more partitions than this tells of them in sums only: each has four series.
const PARTITION_SERIES_MAX: usize = 5000;

/// Buckets of a histogram: four to each doubling, up to 2^26 us, and one for all above.
const BUCKETS: usize = 106;

/// Durations in buckets that are at most 25 % wide.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Box<[u64; BUCKETS]>,
    /// Sum of all durations.
    pub sum: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            buckets: Box::new([0; BUCKETS]),
            sum: Duration::ZERO,
        }
    }
}

impl Histogram {
    /// One more duration.
    pub fn record(&mut self, duration: Duration) {
        self.buckets[bucket(duration)] += 1;
        self.sum += duration;
    }

    /// Adds all of another one.
    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&*other.buckets) {
            *mine += theirs;
        }
        self.sum += other.sum;
    }

    /// Number of durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// For each bound how many durations lay below it: a Prometheus histogram, two bounds to each doubling.
    pub fn below(&self) -> impl Iterator<Item = (Duration, u64)> {
        let mut below = 0;
        let counted = self.buckets.iter().enumerate().map(move |(index, count)| {
            below += count;
            (index, below)
        });
        // The last one has no bound.
        let bounds = counted.take(BUCKETS - 1);
        bounds
            .filter(|(index, _)| *index < 4 || index % 2 == 1)
            .map(|(index, below)| (Duration::from_micros(upper_end(index) + 1), below))
    }

    /// The upper end of the bucket in which the quantile lies; zero if there is nothing.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Duration {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank among as many as were counted"
        )]
        let rank = (self.count() as f64 * quantile).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank && seen > 0 {
                return Duration::from_micros(upper_end(index));
            }
        }
        Duration::ZERO
    }
}

/// Microseconds 0 to 3 have a bucket each; then four for each power of two.
fn bucket(duration: Duration) -> usize {
    // Without as_micros, which divides 128 bits.
    let micros = duration.as_secs().saturating_mul(1_000_000) + u64::from(duration.subsec_micros());
    if micros < 4 {
        return micros as usize;
    }
    let power = micros.ilog2();
    let quarter = (micros >> (power - 2)) & 3;
    (((power - 1) as usize) * 4 + quarter as usize).min(BUCKETS - 1)
}

fn upper_end(bucket: usize) -> u64 {
    if bucket < 4 {
        return bucket as u64;
    }
    let (power, quarter) = (bucket / 4 + 1, (bucket % 4) as u64);
    ((5 + quarter) << (power - 2)) - 1
}

/// The requests of one API.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    /// From a whole request to its answer.
    pub total: Histogram,
    /// The first half of it, up to the append or the look into memory, other shards included.
    pub local: Histogram,
    /// The second half: the journal, or the wait for data.
    pub remote: Histogram,
}

/// When a request was whole, and when its handler was done with the first half.
#[derive(Clone, Copy, Debug)]
pub struct Halves {
    /// The request was whole.
    pub received: Instant,
    /// Its handler gave an answer, or a future of one.
    pub handled: Instant,
}

/// What the connections of a shard count.
pub struct Counters {
    requests: RefCell<Vec<Option<Box<Requests>>>>,
    /// Where the time of sampled requests went.
    pub traces: Traces,
    /// Bytes of records in answers to fetch requests.
    pub bytes_out: Cell<u64>,
    /// Records, and bytes of records, that were appended.
    pub appended: Cell<(u64, u64)>,
    /// Parts of requests that went to another shard, which has their partitions or their group.
    pub hops: Cell<u64>,
}

impl Counters {
    /// Nothing yet, and which requests to sample.
    #[must_use]
    pub fn new(traces: Traces) -> Counters {
        Counters {
            requests: RefCell::default(),
            traces,
            bytes_out: Cell::default(),
            appended: Cell::default(),
        }
    }

    /// A request has its answer.
    pub fn answered(&self, api_key: i16, halves: Halves, now: Instant) {
        let mut requests = self.requests.borrow_mut();
        let index = usize::from(api_key.unsigned_abs());
        if requests.len() <= index {
            requests.resize_with(index + 1, || None);
        }
        let of_api = requests[index].get_or_insert_default();
        of_api.total.record(now.since(halves.received));
        of_api.local.record(halves.handled.since(halves.received));
        of_api.remote.record(now.since(halves.handled));
    }
}

/// A partition, for its series.
#[derive(Clone, Debug)]
pub struct PartitionReport {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub index: i32,
    /// Offsets of the log's start and of its end for consumers.
    pub offsets: (i64, i64),
    /// Bytes on disk, without indexes.
    pub size_bytes: u64,
    /// Segments.
    pub segments: usize,
}

/// The offset that a group has committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupOffset {
    /// The group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Next offset to read.
    pub offset: i64,
}

/// What a shard says of itself.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its number.
    pub shard: usize,
    /// Since its start.
    pub uptime: Duration,
    /// The kernel's part.
    pub io: IoCounters,
    /// Its journal, in durable mode.
    pub journal: Option<JournalStats>,
    /// Open connections.
    pub connections: usize,
    /// Parts of requests that it sent to other shards.
    pub hops: u64,
    /// By the name of the API.
    pub requests: Vec<(ApiKey, Requests)>,
    /// Records appended, their bytes, bytes fetched.
    pub traffic: (u64, u64, u64),
    /// Number of its partitions.
    pub partition_count: usize,
    /// Its partitions, unless they are too many.
    pub partitions: Vec<PartitionReport>,
    /// Its groups' committed offsets.
    pub groups: Vec<GroupOffset>,
    /// Topics of the broker, as this shard knows them.
    pub topics: usize,
    /// When it said so.
    pub now: Instant,
    /// Where the time of sampled requests went.
    pub traced: Vec<(ApiKey, Traced)>,
}

/// What this shard says of itself. Costs time by the number of its partitions, up to a limit.
pub fn report(shard: &Shard) -> Report {
    let counters = &shard.counters;
    let requests = counters.requests.borrow();
    let named = requests.iter().enumerate().filter_map(|(key, requests)| {
        let key = ApiKey::try_from(i16::try_from(key).ok()?).ok()?;
        Some((key, (**requests.as_ref()?).clone()))
    });
    let (records, bytes) = counters.appended.get();
    let partitions = shard.partitions();
    let partition_count = partitions.len();
    let told = if partition_count > PARTITION_SERIES_MAX {
        Vec::new()
    } else {
        partitions
    };
    let partition = |partition: &std::rc::Rc<crate::partition::Partition>| PartitionReport {
        topic: partition.topic().name.clone(),
        index: partition.index,
        offsets: (
            partition.log.log_start_offset(),
            partition.high_watermark().offset,
        ),
        size_bytes: partition.log.size_bytes(),
        segments: partition.log.segment_count(),
    };
    Report {
        shard: shard.id,
        uptime: shard.io.now().since(shard.started),
        io: shard.io.counters(),
        journal: shard.journal().map(|journal| journal.stats()),
        hops: counters.hops.get(),
        connections: shard.connections.len(),
        requests: named.collect(),
        traffic: (records, bytes, counters.bytes_out.get()),
        partition_count,
        partitions: told.iter().map(partition).collect(),
        groups: shard.groups.committed(),
        topics: shard.image().topics().count(),
        now: shard.io.now(),
        traced: counters.traces.report(shard.io.now()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_at_most_a_quarter_above_what_was_recorded() {
        for micros in [0, 1, 3, 4, 5, 7, 8, 100, 1023, 1024, 999_999, 60_000_000] {
            let mut histogram = Histogram::default();
            histogram.record(Duration::from_micros(micros));
            let found = u64::try_from(histogram.quantile(0.5).as_micros()).unwrap();
            assert!(
                found >= micros && found <= micros + micros / 4,
                "{micros}: {found}"
            );
            assert_eq!(
                bucket(Duration::from_micros(found)),
                bucket(Duration::from_micros(micros))
            );
        }
    }

    #[test]
    fn as_many_lie_below_a_bound_as_were_shorter() {
        let durations = [
            0,
            900,
            1000,
            2999,
            3000,
            5999,
            6000,
            95_999,
            96_000,
            1 << 40,
        ];
        let mut histogram = Histogram::default();
        for nanos in durations {
            histogram.record(Duration::from_nanos(nanos));
        }
        let below: Vec<_> = histogram.below().collect();
        assert!(below.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(below.len() < 60 && below.last().unwrap().0 > Duration::from_secs(60));
        for (bound, count) in below {
            let shorter = durations
                .iter()
                .filter(|nanos| Duration::from_nanos(**nanos) < bound);
            assert_eq!(count, shorter.count() as u64, "{bound:?}");
        }
    }

    #[test]
    fn quantiles_of_many_and_of_none() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.99), Duration::ZERO);
        for _ in 0..99 {
            histogram.record(Duration::from_micros(2));
        }
        histogram.record(Duration::from_secs(1));
        let mut twice = histogram.clone();
        twice.merge(&histogram);
        assert_eq!(twice.count(), 200);
        assert_eq!(twice.quantile(0.99), Duration::from_micros(2));
        assert!(twice.quantile(0.999) >= Duration::from_secs(1));
        assert_eq!(twice.sum, histogram.sum * 2);
        let mut endless = Histogram::default();
        endless.record(Duration::from_secs(1_000_000));
        assert_eq!(endless.count(), 1);
    }
}
