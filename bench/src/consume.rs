//! Consumer groups under load: members that fetch, check and commit, and how late what they get is.
//!
//! All members of a group have joined before the load begins, so that no rebalance is measured. Every
//! batch is checked when it comes (offsets without a gap, CRC, and the records themselves where these are
//! known in advance); at the end each group must have read exactly what the logs hold.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ringlog_engine::record::{Batch, BatchReader};

use crate::client::{Client, Inbox, accept};
use crate::failure::Failure;
use crate::frames::{
    FETCH_KEY, FETCH_VERSION, FETCH_VERSION_OLD, FetchFrame, parse_fetch_partitions,
};
use crate::group::{Age, Member};
use crate::phase::histogram;
use crate::produce::{Times, Verified};
use crate::records::{BATCH_BYTES_MAX, STAMP_KEY};
use crate::transport::{Connection, Transport};
use crate::verify::{Content, LogCheck, Violation};

/// `heartbeat.interval.ms` of Kafka's clients.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(3);
/// `auto.commit.interval.ms` of Kafka's clients.
const COMMIT_EVERY: Duration = Duration::from_secs(5);
/// A group that gets nothing for so long, although there is more, has lost it.
const PATIENCE: Duration = Duration::from_secs(30);

/// What groups read.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The topic.
    pub(crate) topic: String,
    /// Where its partitions began.
    pub(crate) begin_offsets: Vec<i64>,
    /// The group's name.
    pub(crate) group: String,
    /// Members.
    pub(crate) consumers: usize,
    /// The versions they speak.
    pub(crate) age: Age,
    /// Bytes that one answer may have.
    pub(crate) fetch_bytes_max: i32,
    /// What the records must be, where it is known before they are sent.
    pub(crate) content: Option<Content>,
    /// Where end-to-end times come from.
    pub(crate) clock: Clock,
    /// Connections that write.
    pub(crate) writers: usize,
}

/// How a consumer knows when what it got was meant to leave.
#[derive(Debug, Clone)]
pub(crate) enum Clock {
    /// Not at all.
    None,
    /// The first record of a batch says it, counted from here.
    Stamps(Instant),
    /// The writers note it: record `i` of a partition is the `i`-th request of its only connection.
    Noted(Vec<Times>),
}

/// What the members of a group share.
#[derive(Debug)]
pub(crate) struct Group {
    plan: Plan,
    checks: RefCell<Vec<LogCheck>>,
    end_to_end: RefCell<Histogram<u64>>,
    /// How many members the leader saw in which generation.
    settled: Cell<(i32, usize)>,
    generations: RefCell<Vec<i32>>,
    received: Cell<u64>,
    /// Records and bytes before the restart.
    before: Cell<(u64, u64)>,
    /// Where each partition is to be read up to, once that is known.
    ends: RefCell<Option<Vec<i64>>>,
    began: Cell<Instant>,
    last: Cell<Option<Instant>>,
    failed: Cell<bool>,
    /// Members that have read and committed all that is theirs.
    done: Cell<usize>,
}

impl Group {
    /// A group that has not joined yet.
    pub(crate) fn new(plan: Plan) -> Rc<Self> {
        let check =
            |(partition, begin): (usize, &i64)| LogCheck::new(partition, *begin, plan.writers);
        let checks = plan.begin_offsets.iter().enumerate().map(check).collect();
        Rc::new(Self {
            checks: RefCell::new(checks),
            end_to_end: RefCell::new(histogram()),
            settled: Cell::new((-1, 0)),
            generations: RefCell::new(vec![-1; plan.consumers]),
            received: Cell::new(0),
            before: Cell::new((0, 0)),
            ends: RefCell::new(None),
            began: Cell::new(Instant::now()),
            last: Cell::new(None),
            failed: Cell::new(false),
            done: Cell::new(0),
            plan,
        })
    }

    /// Everything up to these offsets, and then the members leave.
    pub(crate) fn finish_at(&self, ends: Vec<i64>) {
        *self.ends.borrow_mut() = Some(ends);
    }

    /// After an error elsewhere the members end.
    pub(crate) fn stop(&self) {
        self.failed.set(true);
    }

    /// Whether a member has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// Whether all up to these offsets was read.
    pub(crate) fn has_read(&self, ends: &[i64]) -> bool {
        let checks = self.checks.borrow();
        let mut pairs = checks.iter().zip(ends);
        pairs.all(|(check, end)| check.next_offset() >= *end)
    }

    /// Reading begins, or the warm-up is over: what was counted until now is not told.
    pub(crate) fn restart(&self) {
        self.end_to_end.replace(histogram());
        self.before.set((self.received.get(), self.checked_bytes()));
        self.began.set(Instant::now());
        self.last.set(None);
    }

    fn checked_bytes(&self) -> u64 {
        self.checks.borrow().iter().map(LogCheck::bytes).sum()
    }

    /// Records since the restart.
    pub(crate) fn received(&self) -> u64 {
        self.received.get() - self.before.get().0
    }

    /// Bytes of whole batches since the restart.
    pub(crate) fn bytes(&self) -> u64 {
        self.checked_bytes() - self.before.get().1
    }

    /// When it began to read, or was restarted.
    pub(crate) fn began(&self) -> Instant {
        self.began.get()
    }

    /// When the last records came.
    pub(crate) fn last(&self) -> Option<Instant> {
        self.last.get()
    }

    /// From the intended send to the receipt, by request; empties it.
    pub(crate) fn take_end_to_end(&self) -> Histogram<u64> {
        self.end_to_end.replace(histogram())
    }

    fn is_settled(&self) -> bool {
        let (generation, members) = self.settled.get();
        let together = |it: &i32| *it == generation;
        members == self.plan.consumers && self.generations.borrow().iter().all(together)
    }

    fn is_done(&self, partitions: &[i32]) -> bool {
        let (ends, checks) = (self.ends.borrow(), self.checks.borrow());
        let done = |partition: &i32| {
            let place = place_of(*partition);
            ends.as_ref()
                .is_some_and(|ends| checks[place].next_offset() >= ends[place])
        };
        partitions.iter().all(done) && ends.is_some()
    }

    /// Whether the group read what the check of the logs read.
    pub(crate) fn agrees(&self, verified: &Verified) -> Result<(), Violation> {
        let checks = self.checks.borrow();
        for (partition, check) in checks.iter().enumerate() {
            let (end, read) = (verified.ends[partition], check.next_offset());
            let group = &self.plan.group;
            if read != end {
                let what = format!("group {group} read to offset {read}, not to {end}");
                return Err(Violation::Lost { partition, what });
            }
            // Of converted messages the CRCs are others; their records were compared as they came.
            let comparable = self.plan.age == Age::New;
            if comparable && check.digest() != verified.digests[partition] {
                let what = format!("group {group} read other batches than lie in the log");
                return Err(Violation::Changed { partition, what });
            }
        }
        Ok(())
    }

    /// Takes the records of one answer.
    fn take(&self, partition: i32, records: &[u8], now: Instant) -> Result<(), Failure> {
        let place = place_of(partition);
        let mut checks = self.checks.borrow_mut();
        let Some(check) = checks.get_mut(place) else {
            return Err(Failure::Protocol(format!(
                "records of partition {partition}"
            )));
        };
        let before = check.records();
        let mut damaged = None;
        let known = self.plan.content.is_some();
        let read = check.read(records, self.plan.content.as_ref(), |stored| {
            self.note_times(place, stored, now);
            if !known && damaged.is_none() {
                damaged = stored.header.check_crc(stored.bytes).err();
            }
        })?;
        if let Some(error) = damaged {
            let what = format!("near offset {}: {error}", check.next_offset());
            let partition = place;
            return Err(Violation::Changed { partition, what }.into());
        }
        if read > 0 {
            self.last.set(Some(now));
        }
        self.received
            .set(self.received.get() + check.records() - before);
        Ok(())
    }

    fn note_times(&self, partition: usize, stored: &Batch<'_>, now: Instant) {
        let note = |intended: Option<Instant>| {
            if let Some(intended) = intended {
                let since = now.saturating_duration_since(intended).as_nanos();
                let nanoseconds = u64::try_from(since).unwrap_or(u64::MAX).max(1);
                self.end_to_end.borrow_mut().saturating_record(nanoseconds);
            }
        };
        match &self.plan.clock {
            Clock::None => {}
            Clock::Stamps(epoch) => note(stamp(stored).map(|stamp| *epoch + stamp)),
            Clock::Noted(times) => {
                let begin = self.plan.begin_offsets[partition];
                let times = times.get(partition).map(|times| times.borrow());
                for offset in stored.header.base_offset..stored.header.next_offset() {
                    let number = usize::try_from(offset - begin).unwrap_or(usize::MAX);
                    note(times.as_ref().and_then(|times| times.get(number).copied()));
                }
            }
        }
    }
}

/// When the batch was meant to leave.
fn stamp(stored: &Batch<'_>) -> Option<Duration> {
    let reader = BatchReader::open(stored.bytes, BATCH_BYTES_MAX).ok()?;
    let first = reader.records().next()?.ok()?;
    let header = first
        .headers
        .iter()
        .find(|header| header.key == STAMP_KEY)?;
    let raw = header.value?.try_into().ok()?;
    Some(Duration::from_nanos(u64::from_be_bytes(raw)))
}

fn place_of(partition: i32) -> usize {
    usize::try_from(partition).unwrap_or(usize::MAX)
}

/// A member and the connection that it fetches over.
pub(crate) struct Consumer<T: Transport> {
    number: usize,
    group: Rc<Group>,
    member: Member<T::Connection>,
    connection: T::Connection,
    inbox: Inbox,
    frame: FetchFrame,
    version: i16,
    partitions: Vec<i32>,
    correlation_id: i32,
    commit_due: Instant,
    heartbeat_due: Instant,
}

/// Joins all members; they are ready to fetch when this returns.
pub(crate) async fn join<T: Transport>(
    address: SocketAddr,
    group: &Rc<Group>,
) -> Result<Vec<Consumer<T>>, Failure> {
    let mut tasks = Vec::new();
    for number in 0..group.plan.consumers {
        let group = Rc::clone(group);
        tasks.push(tokio::task::spawn_local(async move {
            let joined = Consumer::<T>::join(address, number, Rc::clone(&group)).await;
            joined.inspect_err(|_| group.stop())
        }));
    }
    let mut consumers = Vec::new();
    let mut first = None;
    for task in tasks {
        match task.await.expect("a task of the generator does not panic") {
            Ok(consumer) => consumers.push(consumer),
            Err(failure) => first = first.or(Some(failure)),
        }
    }
    first.map_or(Ok(consumers), Err)
}

/// Reads with all members until [`Group::finish_at`]'s offsets, commits and leaves.
pub(crate) async fn read<T: Transport>(consumers: Vec<Consumer<T>>) -> Result<(), Failure> {
    let mut tasks = Vec::new();
    for mut consumer in consumers {
        tasks.push(tokio::task::spawn_local(async move {
            let read = consumer.read().await;
            read.inspect_err(|_| consumer.group.stop())
        }));
    }
    let mut first = None;
    for task in tasks {
        let read = task.await.expect("a task of the generator does not panic");
        first = first.or(read.err());
    }
    first.map_or(Ok(()), Err)
}

impl<T: Transport> Consumer<T> {
    async fn join(address: SocketAddr, number: usize, group: Rc<Group>) -> Result<Self, Failure> {
        let plan = &group.plan;
        let client = Client::connect::<T>(address).await?;
        let version = if plan.age == Age::Old {
            match client.version_or_oldest(FETCH_KEY, FETCH_VERSION_OLD) {
                FETCH_VERSION_OLD => FETCH_VERSION_OLD,
                _ => FETCH_VERSION,
            }
        } else {
            FETCH_VERSION
        };
        let place = (&plan.topic[..], plan.begin_offsets.len());
        let mut member = Member::new(client, &plan.group, place, plan.age).await?;
        let partitions = settle(&mut member, &group, number).await?;
        let committed = member.committed(&partitions).await?;
        let connection = T::connect(address).await;
        let connection = connection.map_err(Failure::system(format!("connecting to {address}")))?;
        let frame =
            FetchFrame::of_partitions(version, &plan.topic, &partitions, plan.fetch_bytes_max);
        for (partition, offset) in partitions.iter().zip(committed) {
            let begin = plan.begin_offsets[place_of(*partition)];
            if offset.is_some_and(|offset| offset != begin) {
                let what = format!("the group {} has offsets already: take another", plan.group);
                return Err(Failure::Usage(what));
            }
        }
        let now = Instant::now();
        Ok(Self {
            number,
            member,
            connection,
            inbox: Inbox::new(2 << 20),
            frame,
            version,
            partitions,
            correlation_id: 0,
            commit_due: now + COMMIT_EVERY,
            heartbeat_due: now + HEARTBEAT_EVERY,
            group,
        })
    }

    async fn read(&mut self) -> Result<(), Failure> {
        let mut fed = Instant::now();
        let mut received = self.group.received();
        while !self.group.is_done(&self.partitions) && !self.group.failed.get() {
            if self.partitions.is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await; // the poll's pause: nothing is its
            } else {
                self.fetch().await?;
            }
            self.keep_alive().await?;
            if self.group.received() != received || self.group.ends.borrow().is_none() {
                received = self.group.received();
                fed = Instant::now();
            }
            if fed.elapsed() > PATIENCE {
                return Err(self.starved());
            }
        }
        if self.group.failed.get() {
            return Ok(()); // what failed elsewhere is told there
        }
        self.commit().await?;
        // Who leaves makes the others join again: nobody goes before all have committed.
        self.group.done.set(self.group.done.get() + 1);
        while self.group.done.get() < self.group.plan.consumers && !self.group.failed.get() {
            tokio::time::sleep(Duration::from_millis(2)).await; // the poll's pause
            self.keep_alive().await?;
        }
        self.member.leave().await
    }

    fn starved(&self) -> Failure {
        let partition = self
            .partitions
            .first()
            .map_or(0, |partition| place_of(*partition));
        let group = &self.group.plan.group;
        let what = format!(
            "group {group} got nothing for {} s, at offset {}",
            PATIENCE.as_secs(),
            self.group.checks.borrow()[partition].next_offset()
        );
        Violation::Lost { partition, what }.into()
    }

    async fn fetch(&mut self) -> Result<(), Failure> {
        self.correlation_id = self.correlation_id.wrapping_add(1) & i32::MAX;
        {
            let checks = self.group.checks.borrow();
            for (place, partition) in self.partitions.iter().enumerate() {
                let next = checks[place_of(*partition)].next_offset();
                self.frame.set_offset(place, next);
            }
        }
        self.frame.rotate();
        let request = self.frame.take_as_set(self.correlation_id);
        let (written, request) = self.connection.write_all(request).await;
        self.frame.restore(request);
        written.map_err(Failure::system("writing to the broker"))?;
        let answer = tokio::time::timeout(PATIENCE, self.inbox.next(&self.connection)).await;
        let answer = answer.unwrap_or(Err(Failure::Stalled {
            seconds: PATIENCE.as_secs(),
            in_flight: 1,
        }))?;
        let Some(frame) = answer else {
            return Err(Failure::Closed {
                connection: format!("of consumer {}", self.number),
                in_flight: 1,
            });
        };
        let now = Instant::now();
        let bytes = self.inbox.bytes(frame);
        let of = parse_fetch_partitions(self.version, bytes, |partition, error_code, records| {
            accept("Fetch", error_code)?;
            self.group.take(partition, records, now)
        })?;
        if of != self.correlation_id {
            let what = format!("an answer to request {of}, out of turn");
            return Err(Failure::Protocol(what));
        }
        Ok(())
    }

    async fn keep_alive(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        if now >= self.heartbeat_due {
            self.heartbeat_due = now + HEARTBEAT_EVERY;
            let is_leaving = self.group.done.get() == self.group.plan.consumers;
            if !self.member.heartbeat().await? && !is_leaving {
                let what = format!("the group {} rebalanced under load", self.group.plan.group);
                return Err(Failure::Target(what));
            }
        }
        if now >= self.commit_due && self.group.ends.borrow().is_none() {
            self.commit_due = now + COMMIT_EVERY;
            self.commit().await?;
        }
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), Failure> {
        let offsets: Vec<_> = {
            let checks = self.group.checks.borrow();
            let next = |partition: &i32| (*partition, checks[place_of(*partition)].next_offset());
            self.partitions.iter().map(next).collect()
        };
        if offsets.is_empty() {
            return Ok(());
        }
        self.member.commit(&offsets).await
    }
}

/// Joins until all members of the group are in one generation.
async fn settle<C: Connection>(
    member: &mut Member<C>,
    group: &Group,
    number: usize,
) -> Result<Vec<i32>, Failure> {
    let began = Instant::now();
    loop {
        let joined = member.join().await?;
        group.generations.borrow_mut()[number] = joined.generation;
        if let Some(members) = joined.members {
            group.settled.set((joined.generation, members));
        }
        loop {
            if group.is_settled() {
                return Ok(joined.partitions);
            }
            if group.failed.get() || began.elapsed() > 2 * PATIENCE {
                let what = format!("the group {} did not settle", group.plan.group);
                return Err(Failure::Target(what));
            }
            tokio::time::sleep(Duration::from_millis(2)).await; // the poll's pause
            if !member.heartbeat().await? {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Form, Keys, Recipe, Values};
    use ringlog_engine::record::{Compression, batch};

    fn group() -> Rc<Group> {
        Group::new(Plan {
            topic: "t".to_owned(),
            begin_offsets: vec![0],
            group: "g".to_owned(),
            consumers: 1,
            age: Age::New,
            fetch_bytes_max: 1,
            content: None,
            clock: Clock::Stamps(Instant::now()),
            writers: 1,
        })
    }

    /// Batches of two records each, at these offsets.
    fn log(base_offsets: &[i64]) -> Vec<u8> {
        let recipe = Recipe {
            keys: Keys::Batch,
            values: Values::Json,
            sizes: 0..=0,
            seed: 1,
        };
        let form = Form {
            compression: Compression::None,
            produce_version: 7,
            producer: None,
            stamp: Some(1),
        };
        let records = recipe.records(1, 1, 2);
        let mut log = Vec::new();
        for base_offset in base_offsets {
            let mut stored = form.encode(&records[0][0]).unwrap();
            batch::patch(&mut stored, *base_offset, 0);
            log.extend_from_slice(&stored);
        }
        log
    }

    fn verified(end: i64, digest: u64) -> Verified {
        Verified {
            records: 0,
            ends: vec![end],
            digests: vec![digest],
        }
    }

    #[test]
    fn a_group_that_read_the_log_agrees_with_it_and_no_other_does() {
        let group = group();
        let now = Instant::now();
        group.take(0, &log(&[0, 2]), now).unwrap();
        group.take(0, &log(&[2, 4]), now).unwrap(); // the broker begins with what is known
        assert_eq!((group.received(), group.take_end_to_end().len()), (6, 3));
        let digest = group.checks.borrow()[0].digest();
        assert_eq!(group.agrees(&verified(6, digest)), Ok(()));
        let lost = group.agrees(&verified(8, digest)).unwrap_err();
        assert!(matches!(lost, Violation::Lost { .. }), "{lost}");
        let changed = group.agrees(&verified(6, digest ^ 1)).unwrap_err();
        assert!(matches!(changed, Violation::Changed { .. }), "{changed}");
    }

    #[test]
    fn the_time_of_the_first_answer_counts_as_its_records_do() {
        let group = group();
        let began = group.began();
        let wait = Duration::from_secs(3);
        group.take(0, &log(&[0, 2]), began + wait).unwrap();
        assert_eq!((group.received(), group.began()), (4, began));
        assert_eq!(group.last(), Some(began + wait));
        group.restart();
        assert_eq!((group.received(), group.last()), (0, None));
        assert!(group.began() >= began);
    }

    #[test]
    fn a_gap_and_a_changed_byte_are_found_when_they_come() {
        let now = Instant::now();
        let gap = group().take(0, &log(&[0, 3]), now).unwrap_err();
        assert!(gap.to_string().contains("lost"), "{gap}");
        let mut damaged = log(&[0]);
        *damaged.last_mut().unwrap() ^= 1;
        let damaged = group().take(0, &damaged, now).unwrap_err();
        assert!(damaged.to_string().contains("changed"), "{damaged}");
    }
}
