//! Where the time of one sampled request went: stamps taken on its way, and what shards keep of them.
//!
//! Every so many requests (`ringlog.trace.sample.every`) one carries a [`Trace`]. A stamp ends a stage, so
//! that the stages are the differences of consecutive stamps and sum to the whole. The others carry
//! nothing: a count is taken from, no clock is read and nothing allocated.
//!
//! What ran on another shard comes back as stamps, too, for all shards read one clock. Stamps that lie
//! before the newest one are of what ran beside it, and take no time: of several shards that work at the
//! same time the slowest one shows.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use kafka_protocol::messages::ApiKey;
use ringlog_engine::clock::Instant;
use ringlog_engine::io::Io;

use super::Histogram;

/// A slow sample is no longer recent after this.
const RECENT: Duration = Duration::from_secs(600);
/// Slow samples that are kept of an API.
const SLOWEST_MAX: usize = 12;

/// Where a request can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From its first byte to its last one.
    Receive,
    /// Whole, behind requests of its connection and of others that the shard has to do.
    Queue,
    /// On its way to the shard of the partition and back, mailboxes included.
    Hop,
    /// Produce: decoded, validated and written to the log, behind other appends to the partition.
    Append,
    /// Produce: waits for room in the journal, and for its group to be durable.
    Journal,
    /// Fetch: parked until there are records.
    Wait,
    /// Fetch: decoded, looked up, and what is not in the page cache read from the disk.
    Read,
    /// Answered, behind earlier answers of its connection, encoded and sent.
    Reply,
}

/// Number of stages.
const STAGES: usize = 8;

impl Stage {
    /// Those of an API, in the order in which a request goes through them.
    #[must_use]
    pub fn of(api: ApiKey) -> &'static [Stage] {
        use Stage::{Append, Hop, Journal, Queue, Read, Receive, Reply, Wait};
        match api {
            ApiKey::Produce => &[Receive, Queue, Hop, Append, Journal, Reply],
            _ => &[Receive, Queue, Hop, Wait, Read, Reply],
        }
    }

    /// Its name as a label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stage::Receive => "receive",
            Stage::Queue => "queue",
            Stage::Hop => "hop",
            Stage::Append => "append",
            Stage::Journal => "journal",
            Stage::Wait => "wait",
            Stage::Read => "read",
            Stage::Reply => "reply",
        }
    }
}

/// A stage has ended.
pub type Stamp = (Stage, Instant);

/// The stamps of one sampled request.
#[derive(Debug)]
pub struct Trace {
    api: usize,
    begin: Instant,
    stamps: RefCell<Vec<Stamp>>,
    is_durable: Cell<bool>,
}

impl Trace {
    fn new(api: usize, begin: Instant) -> Trace {
        Trace {
            api,
            begin,
            stamps: RefCell::default(),
            is_durable: Cell::new(false),
        }
    }

    /// `stage` ended at `now`.
    pub fn stamp(&self, stage: Stage, now: Instant) {
        let mut stamps = self.stamps.borrow_mut();
        match stamps.last_mut() {
            // A request of many partitions would have as many.
            Some((last, at)) if *last == stage => *at = now.max(*at),
            _ => stamps.push((stage, now)),
        }
    }

    /// Of what follows the newest stamp, `time` was spent in `stage`.
    pub fn longer(&self, stage: Stage, time: Duration) {
        let newest = self.stamps.borrow().iter().map(|(_, at)| *at).max();
        if !time.is_zero() {
            self.stamp(stage, newest.unwrap_or(self.begin) + time);
        }
    }

    /// The journal is behind its append. Only the first to say so is believed: an answer that waits for
    /// earlier ones asks late.
    pub fn durable(&self, now: Instant) {
        if !self.is_durable.replace(true) {
            self.stamp(Stage::Journal, now);
        }
    }

    /// The part of a request that has come to another shard, if the request is sampled.
    pub fn away(is_sampled: bool, io: &Io) -> Option<Trace> {
        is_sampled.then(|| {
            let now = io.instant();
            let trace = Trace::new(0, now);
            trace.stamp(Stage::Hop, now);
            trace
        })
    }

    /// What it takes back with it.
    pub fn stamps(trace: Option<Trace>) -> Vec<Stamp> {
        trace.map_or_else(Vec::new, |trace| trace.stamps.into_inner())
    }

    /// The stamps of another shard.
    pub fn back(&self, stamps: Vec<Stamp>) {
        for (stage, at) in stamps {
            self.stamp(stage, at);
        }
    }

    /// The sum of its stages, if the last one, [`Stage::Reply`], ends at `end`.
    fn sample(&self, end: Instant) -> Sample {
        let mut stages = [Duration::ZERO; STAGES];
        let mut last = self.begin;
        let stamps = self.stamps.borrow();
        for (stage, at) in stamps.iter().chain(&[(Stage::Reply, end)]) {
            stages[*stage as usize] += at.since(last);
            last = last.max(*at);
        }
        Sample {
            end,
            whole: end.since(self.begin),
            stages,
        }
    }
}

/// Ends a stage of a request now, if it is sampled.
pub fn stamp(trace: Option<&Trace>, stage: Stage, io: &Io) {
    if let Some(trace) = trace {
        trace.stamp(stage, io.instant());
    }
}

/// A sampled request that was answered.
#[derive(Clone, Debug)]
pub struct Sample {
    end: Instant,
    /// From its first byte to the last of its answer.
    pub whole: Duration,
    stages: [Duration; STAGES],
}

impl Sample {
    /// Its time in one stage.
    #[must_use]
    pub fn stage(&self, stage: Stage) -> Duration {
        self.stages[stage as usize]
    }

    /// How long ago it was.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        now.since(self.end)
    }
}

/// The sampled requests of one API.
#[derive(Clone, Debug, Default)]
pub struct Traced {
    /// From the first byte of a request to the last of its answer.
    pub whole: Histogram,
    stages: [Histogram; STAGES],
    /// Each slower than all that came later: whatever stretch of time up to now is asked for, the first of
    /// them that lies in it was its slowest.
    pub slowest: VecDeque<Sample>,
}

impl Traced {
    /// The times in one stage.
    #[must_use]
    pub fn stage(&self, stage: Stage) -> &Histogram {
        &self.stages[stage as usize]
    }

    fn add(&mut self, sample: Sample) {
        self.whole.record(sample.whole);
        for (histogram, time) in self.stages.iter_mut().zip(&sample.stages) {
            histogram.record(*time);
        }
        while self
            .slowest
            .back()
            .is_some_and(|last| last.whole <= sample.whole)
        {
            self.slowest.pop_back();
        }
        self.slowest.push_back(sample);
        if self.slowest.len() > SLOWEST_MAX {
            self.thin_out();
        }
    }

    /// Leaves out the sample whose place the next one takes best.
    fn thin_out(&mut self) {
        let gap = |place: &usize| self.slowest[*place].whole - self.slowest[place + 1].whole;
        if let Some(place) = (0..self.slowest.len() - 1).min_by_key(gap) {
            self.slowest.remove(place);
        }
    }
}

/// The APIs whose requests are sampled, at the places of their numbers.
const APIS: [ApiKey; 2] = [ApiKey::Produce, ApiKey::Fetch];

/// Which requests of a shard are sampled, and what came of it.
#[derive(Debug)]
pub struct Traces {
    /// Of so many requests one, on the average.
    every: u32,
    /// How many requests of an API come up to the next sample, with it; 0 if there is none.
    left: [Cell<u32>; APIS.len()],
    random: RefCell<fastrand::Rng>,
    traced: RefCell<[Option<Box<Traced>>; APIS.len()]>,
}

impl Traces {
    /// Of `every` requests one is sampled; of 0 none.
    #[must_use]
    pub fn new(every: u32, seed: u64) -> Traces {
        let traces = Traces {
            every,
            left: [Cell::new(0), Cell::new(0)],
            random: RefCell::new(fastrand::Rng::with_seed(seed)),
            traced: RefCell::default(),
        };
        if every > 0 {
            for left in &traces.left {
                left.set(traces.draw());
            }
        }
        traces
    }

    /// Not every n-th: clients in lockstep, as many as n, would show always the same one of them.
    fn draw(&self) -> u32 {
        let most = self.every.saturating_mul(2) - 1;
        self.random.borrow_mut().u32(1..=most)
    }

    /// Whether this request is a sample.
    pub fn is_due(&self, api_key: i16) -> bool {
        let Some(left) = self.left.get(usize::from(api_key.unsigned_abs())) else {
            return false;
        };
        match left.get() {
            0 => false,
            1 => {
                left.set(self.draw());
                true
            }
            more => {
                left.set(more - 1);
                false
            }
        }
    }

    /// A sample: when its first byte and its last byte came, and when it was handled.
    pub fn begin(&self, api_key: i16, begun: Instant, whole: Instant, now: Instant) -> Rc<Trace> {
        let trace = Trace::new(usize::from(api_key.unsigned_abs()), begun);
        trace.stamp(Stage::Receive, whole);
        trace.stamp(Stage::Queue, now);
        Rc::new(trace)
    }

    /// The last byte of its answer was sent.
    pub fn end(&self, trace: &Trace, now: Instant) {
        if let Some(traced) = self.traced.borrow_mut().get_mut(trace.api) {
            traced.get_or_insert_default().add(trace.sample(now));
        }
    }

    /// What is known of each API, recent slow samples only.
    #[must_use]
    pub fn report(&self, now: Instant) -> Vec<(ApiKey, Traced)> {
        let mut all = self.traced.borrow_mut();
        let named = APIS.iter().zip(all.iter_mut());
        let told = named.filter_map(|(api, traced)| {
            let traced = traced.as_mut()?;
            traced.slowest.retain(|sample| sample.age(now) <= RECENT);
            Some((*api, (**traced).clone()))
        });
        told.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(nanos: u64) -> Duration {
        Duration::from_nanos(nanos)
    }

    /// A sample that took `whole` and ended at `end`.
    fn sample(end: u64, whole: u64) -> Sample {
        Trace::new(0, Instant(end - whole)).sample(Instant(end))
    }

    #[test]
    fn stages_are_differences_of_stamps_and_sum_to_the_whole_whatever_ran_beside() {
        let trace = Trace::new(0, Instant(100));
        trace.stamp(Stage::Receive, Instant(110));
        trace.stamp(Stage::Queue, Instant(130));
        trace.stamp(Stage::Append, Instant(160));
        // Two other shards at once: the second was done before the first.
        trace.back(vec![
            (Stage::Hop, Instant(170)),
            (Stage::Append, Instant(200)),
            (Stage::Journal, Instant(300)),
        ]);
        trace.back(vec![
            (Stage::Hop, Instant(165)),
            (Stage::Append, Instant(180)),
            (Stage::Journal, Instant(290)),
        ]);
        trace.stamp(Stage::Hop, Instant(305));
        let sample = trace.sample(Instant(325));
        let of = |stage| sample.stage(stage);
        assert_eq!((of(Stage::Receive), of(Stage::Queue)), (ns(10), ns(20)));
        assert_eq!((of(Stage::Append), of(Stage::Journal)), (ns(60), ns(100)));
        assert_eq!((of(Stage::Hop), of(Stage::Reply)), (ns(15), ns(20)));
        assert_eq!(sample.stages.iter().sum::<Duration>(), sample.whole);
        assert_eq!(sample.whole, ns(225));
    }

    #[test]
    fn the_first_word_about_the_journal_holds() {
        let trace = Trace::new(0, Instant(0));
        trace.durable(Instant(10));
        // The answer was asked for it only behind an earlier one.
        trace.durable(Instant(500));
        let sample = trace.sample(Instant(600));
        assert_eq!(sample.stage(Stage::Journal), ns(10));
        assert_eq!(sample.stage(Stage::Reply), ns(590));
    }

    #[test]
    fn a_cold_read_while_the_answer_is_sent_is_told_apart() {
        let trace = Trace::new(1, Instant(0));
        trace.stamp(Stage::Reply, Instant(10));
        trace.longer(Stage::Read, ns(0));
        trace.longer(Stage::Read, ns(25));
        let sample = trace.sample(Instant(50));
        let of = |stage| sample.stage(stage);
        assert_eq!((of(Stage::Read), of(Stage::Reply)), (ns(25), ns(25)));
    }

    #[test]
    fn every_nth_request_is_sampled_on_the_average_and_never_in_step() {
        for every in [1, 2, 128] {
            let traces = Traces::new(every, 7);
            let mut found = Vec::new();
            for number in 0..every * 1000 {
                if traces.is_due(ApiKey::Produce as i16) {
                    found.push(number);
                }
            }
            let count = f64::from(u32::try_from(found.len()).unwrap());
            assert!((800.0..1200.0).contains(&count), "{every}: {count}");
            let in_step = found.windows(2).all(|pair| pair[1] - pair[0] == every);
            assert_eq!(in_step, every == 1, "{every}");
        }
    }

    #[test]
    fn none_is_sampled_of_other_apis_or_if_it_is_off() {
        let (off, all) = (Traces::new(0, 7), Traces::new(1, 7));
        for _ in 0..1000 {
            assert!(!off.is_due(ApiKey::Produce as i16));
            assert!(!all.is_due(ApiKey::Metadata as i16));
        }
        assert!(all.is_due(ApiKey::Fetch as i16));
        // The most that a configuration can ask for.
        Traces::new(u32::MAX, 7).is_due(0);
    }

    #[test]
    fn the_slowest_of_any_time_up_to_now_is_kept() {
        let mut random = fastrand::Rng::with_seed(11);
        let mut traced = Traced::default();
        let times: Vec<(u64, u64)> = (1..=500)
            .map(|number| (number * 1_000_000, random.u64(1..900_000)))
            .collect();
        for (end, whole) in &times {
            traced.add(sample(*end, *whole));
        }
        assert!(traced.slowest.len() <= SLOWEST_MAX);
        for since in [1, 2, 10, 100, 500] {
            let begin = Instant((501 - since) * 1_000_000);
            let slowest = traced.slowest.iter().find(|sample| sample.end >= begin);
            let expected = times.iter().filter(|(end, _)| *end >= begin.0);
            let expected = expected.map(|(_, whole)| ns(*whole)).max();
            assert_eq!(slowest.map(|sample| sample.whole), expected, "{since}");
        }
    }

    #[test]
    fn too_many_slow_ones_lose_those_that_others_stand_for_and_old_ones_go() {
        let traces = Traces::new(1, 7);
        // Each a little faster than the one before: none takes another's place.
        for number in 0..50u64 {
            let whole = if number < 25 { 9_000_000 } else { 1_000_000 } - number;
            let end = (number + 1) * 10_000_000;
            let trace = Trace::new(0, Instant(end - whole));
            traces.end(&trace, Instant(end));
        }
        let report = traces.report(Instant(500_000_000));
        let slowest = &report[0].1.slowest;
        assert_eq!((report.len(), slowest.len()), (1, SLOWEST_MAX));
        assert!(slowest.iter().any(|sample| sample.whole > ns(8_000_000)));
        assert_eq!(slowest.back().unwrap().end, Instant(500_000_000));
        let later = traces.report(Instant(500_000_000) + RECENT + ns(1));
        assert!(later[0].1.slowest.is_empty());
        assert_eq!(later[0].1.whole.count(), 50);
    }
}
