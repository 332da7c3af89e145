//! The ledger: what was sent, acknowledged and seen, and what may therefore never be otherwise.
//!
//! Each record carries an id in its value, so that a record that is read back is judged alone:
//! - it was sent, to this partition, with these bytes, and stands at one offset only;
//! - an offset that was acknowledged or read keeps its record as long as the promise lasts, or until
//!   the log start offset has passed it;
//! - records of one lane (a connection, or an idempotent producer) stand in the order sent.
//!
//! - of a compacted topic only the last record of each key must stay, and none may move.
//!
//! Promises end: what only the page cache had may be lost with the power ([`Promise::Process`]),
//! what was acknowledged durable never is ([`Promise::Power`]). [`Ledger::reconcile`] settles the
//! accounts after each start of the broker, before clients may go on.

use std::collections::{BTreeMap, BTreeSet};

use ringlog_tests::records::Record;
use uuid::Uuid;

use crate::consumer::Contents;
use crate::scene::COMPACTED_TOPIC;

/// Names a record.
pub(crate) type Id = u64;

/// How much a record survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Promise {
    /// Nothing is promised: acks=0, or no answer.
    None,
    /// The end of the process.
    Process,
    /// The loss of power.
    Power,
}

/// What became of the process since the last start that was reconciled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ending {
    /// The page cache is still there, or all was synced.
    Process,
    /// What was not durable may be lost.
    Power,
}

struct Sent {
    topic: usize,
    partition: i32,
    lane: u64,
    key: Option<Vec<u8>>,
    value: Vec<u8>,
    /// -1 for none, once it was encoded.
    timestamp: Option<i64>,
    offset: Option<i64>,
    promise: Promise,
    /// It may not appear: it was refused, or lost with the broker that had it.
    is_gone: bool,
    /// Its producer may send it again after a crash.
    may_retry: bool,
}

/// Keys of a compacted topic.
const KEYS: u64 = 12;

fn is_within(offsets: &[i64], start: i64, end: i64) -> bool {
    offsets.is_sorted_by(|a, b| a < b) && offsets.iter().all(|offset| (start..end).contains(offset))
}

/// What is known of a partition.
#[derive(Default)]
struct Partition {
    /// Who stands where.
    seen: BTreeMap<i64, Id>,
    sent: BTreeSet<Id>,
    /// The highest high watermark that the running generation has shown.
    high_watermark: i64,
    /// The highest log start offset that was ever shown: it is durable before, and never goes back.
    log_start: i64,
    /// Records up to here were asked to be deleted.
    unwanted: i64,
}

/// How sure it is that a topic exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existence {
    /// Its creation was asked for.
    Wanted,
    /// Its creation was acknowledged.
    Sure,
    /// Its deletion was asked for.
    Doubtful,
    /// It does not, and may not come back.
    Gone,
}

/// A topic, from its creation to its deletion; a new one of the same name is another one.
pub(crate) struct Topic {
    /// Its name.
    pub(crate) name: String,
    /// Its id, as soon as the broker has told it.
    pub(crate) id: Option<Uuid>,
    /// Whether it exists.
    pub(crate) existence: Existence,
    /// Only the last record of each key must stay.
    pub(crate) is_compacted: bool,
    /// A deletion was tried once: its records may be lost.
    is_doomed: bool,
    partitions: Vec<Partition>,
}

/// What was committed for one partition of one group.
#[derive(Default)]
struct Commits {
    /// Attempts that the next look may find.
    attempts: Vec<Attempt>,
    /// All that were ever made, by metadata.
    ever: BTreeMap<String, i64>,
}

struct Attempt {
    token: u64,
    offset: i64,
    /// The tick of the answer.
    answered: Option<u64>,
    sent: u64,
    promise: Promise,
}

/// Group, topic, partition.
type CommitKey = (String, String, i32);

/// The books of one history.
pub(crate) struct Ledger {
    /// Whether acks=all means stable storage.
    pub(crate) is_durable: bool,
    /// Whether nothing is old or much enough to be deleted without being asked for.
    pub(crate) keeps_all: bool,
    records: BTreeMap<Id, Sent>,
    topics: Vec<Topic>,
    commits: BTreeMap<CommitKey, Commits>,
    producer_ids: BTreeSet<i64>,
    next_id: Id,
    tick: u64,
    /// What was counted, by name.
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl Ledger {
    /// Empty books.
    pub(crate) fn new(is_durable: bool, keeps_all: bool) -> Ledger {
        Ledger {
            is_durable,
            keeps_all,
            records: BTreeMap::new(),
            topics: Vec::new(),
            commits: BTreeMap::new(),
            producer_ids: BTreeSet::new(),
            next_id: 0,
            tick: 0,
            counts: BTreeMap::new(),
        }
    }

    /// Counts an operation.
    pub(crate) fn count(&mut self, what: &'static str, times: usize) {
        *self.counts.entry(what).or_default() += times as u64;
    }

    /// A number that orders events.
    pub(crate) fn tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    /// A producer id was given.
    pub(crate) fn new_producer(&mut self, id: i64) {
        assert!(
            self.producer_ids.insert(id),
            "producer id {id} was given twice"
        );
    }

    // ---- topics ----------------------------------------------------------------------------

    /// A topic will be asked for; gives its number.
    pub(crate) fn want_topic(&mut self, name: &str, partitions: i32) -> usize {
        self.topics.push(Topic {
            name: name.to_owned(),
            id: None,
            existence: Existence::Wanted,
            is_compacted: name == COMPACTED_TOPIC,
            is_doomed: false,
            partitions: (0..partitions).map(|_| Partition::default()).collect(),
        });
        self.topics.len() - 1
    }

    /// A topic.
    pub(crate) fn topic(&self, topic: usize) -> &Topic {
        &self.topics[topic]
    }

    /// Numbers of all topics.
    pub(crate) fn topics(&self) -> std::ops::Range<usize> {
        0..self.topics.len()
    }

    /// Number of partitions.
    pub(crate) fn partitions(&self, topic: usize) -> i32 {
        i32::try_from(self.topics[topic].partitions.len()).expect("few")
    }

    /// Its creation was acknowledged, or it was found.
    pub(crate) fn topic_exists(&mut self, topic: usize, id: Uuid) {
        let topic = &mut self.topics[topic];
        assert!(!id.is_nil(), "topic {} has no id", topic.name);
        let known = *topic.id.get_or_insert(id);
        assert_eq!(known, id, "the id of topic {} has changed", topic.name);
        assert_ne!(
            topic.existence,
            Existence::Gone,
            "topic {} came back",
            topic.name
        );
        topic.existence = Existence::Sure;
    }

    /// Its deletion is asked for.
    pub(crate) fn doubt_topic(&mut self, topic: usize) {
        self.topics[topic].existence = Existence::Doubtful;
        self.topics[topic].is_doomed = true;
    }

    /// It was deleted.
    pub(crate) fn topic_gone(&mut self, topic: usize) {
        self.topics[topic].existence = Existence::Gone;
        for record in self.records.values_mut() {
            record.is_gone |= record.topic == topic;
        }
    }

    /// Settles what a freshly started broker says about the topics of a name: gives the number of
    /// the one that exists.
    pub(crate) fn reconcile_topic(
        &mut self,
        name: &str,
        found: Option<(Uuid, i32)>,
    ) -> Option<usize> {
        let of_name: Vec<usize> = self
            .topics()
            .filter(|topic| self.topics[*topic].name == name)
            .collect();
        let Some((id, partitions)) = found else {
            for topic in of_name {
                assert_ne!(
                    self.topics[topic].existence,
                    Existence::Sure,
                    "topic {name}, whose creation was acknowledged, is gone"
                );
                // One that was only wanted will be asked for again.
                if self.topics[topic].existence == Existence::Doubtful {
                    self.topic_gone(topic);
                }
            }
            return None;
        };
        let of_id = |topic: &&usize| self.topics[**topic].id == Some(id);
        let wanted = |topic: &&usize| {
            self.topics[**topic].id.is_none() && self.topics[**topic].existence != Existence::Gone
        };
        let topic = of_name
            .iter()
            .find(of_id)
            .or_else(|| of_name.iter().find(wanted));
        let topic = *topic.unwrap_or_else(|| panic!("topic {name} of id {id} was never created"));
        let was_sure = self.topics[topic].existence == Existence::Sure;
        let expected = self.partitions(topic);
        assert!(
            partitions == expected || !was_sure && partitions < expected,
            "topic {name} has {partitions} partitions, not {expected}"
        );
        self.topic_exists(topic, id);
        for other in of_name {
            if other != topic {
                assert_ne!(
                    self.topics[other].existence,
                    Existence::Sure,
                    "topic {name} is another one than the one acknowledged"
                );
                self.topic_gone(other);
            }
        }
        Some(topic)
    }

    // ---- records ---------------------------------------------------------------------------

    /// A record of about `bytes` bytes to be sent; gives its id and value.
    pub(crate) fn record(
        &mut self,
        (topic, partition): (usize, i32),
        lane: u64,
        bytes: usize,
        may_retry: bool,
    ) -> (Id, Vec<u8>) {
        let id = self.next_id;
        self.next_id += 1;
        let mut value = format!("r{id} to {}-{partition} ", self.topics[topic].name).into_bytes();
        let mut filler = id;
        while value.len() < bytes {
            filler = filler.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
            value.extend_from_slice(&filler.to_be_bytes());
        }
        let is_keyed = self.topics[topic].is_compacted;
        let sent = Sent {
            topic,
            partition,
            lane,
            key: is_keyed.then(|| format!("key {}", filler.rotate_left(9) % KEYS).into_bytes()),
            value: value.clone(),
            timestamp: None,
            offset: None,
            promise: Promise::None,
            is_gone: false,
            may_retry,
        };
        self.records.insert(id, sent);
        self.partition_mut(topic, partition).sent.insert(id);
        self.count("records sent", 1);
        (id, value)
    }

    /// Whether records may be missing in the middle without a trace: without a journal the loss of power
    /// may take any segment that was not synced, and a gap in a compacted log may be the compaction's.
    pub(crate) fn may_have_holes(&self, topic: usize) -> bool {
        self.topics[topic].is_compacted && !self.is_durable
    }

    /// The keys of records of a compacted topic.
    pub(crate) fn keys(&self, ids: &[Id]) -> Option<Vec<Vec<u8>>> {
        ids.iter().map(|id| self.records[id].key.clone()).collect()
    }

    /// The records were stamped, 1 ms apart from `first` on, or not at all.
    pub(crate) fn stamped(&mut self, ids: &[Id], first: Option<i64>) {
        for (delta, id) in (0..).zip(ids) {
            let record = self.records.get_mut(id).expect("sent");
            record.timestamp = Some(first.map_or(-1, |first| first + delta));
        }
    }

    fn partition_mut(&mut self, topic: usize, partition: i32) -> &mut Partition {
        let index = usize::try_from(partition).expect("partitions count from 0");
        &mut self.topics[topic].partitions[index]
    }

    fn partition(&self, topic: usize, partition: i32) -> &Partition {
        let index = usize::try_from(partition).expect("partitions count from 0");
        &self.topics[topic].partitions[index]
    }

    /// The promise of an answer to `acks`.
    fn promise_of(&self, acks: i16) -> Promise {
        match acks {
            0 => Promise::None,
            -1 if self.is_durable => Promise::Power,
            _ => Promise::Process,
        }
    }

    /// The records of a batch were acknowledged, the first one at `base_offset`.
    pub(crate) fn acknowledged(&mut self, ids: &[Id], base_offset: i64, acks: i16) {
        assert!(base_offset >= 0, "acknowledged at offset {base_offset}");
        let promise = self.promise_of(acks);
        self.count("records acknowledged", ids.len());
        for (offset, id) in (base_offset..).zip(ids) {
            self.stands(*id, offset, promise);
            if acks == -1 {
                let (topic, partition) = (self.records[id].topic, self.records[id].partition);
                let partition = self.partition_mut(topic, partition);
                partition.high_watermark = partition.high_watermark.max(offset + 1);
            }
        }
    }

    /// The broker says that it has them already, but not where.
    pub(crate) fn acknowledged_somewhere(&mut self, ids: &[Id]) {
        let promise = self.promise_of(-1);
        for id in ids {
            let record = self.records.get_mut(id).expect("sent");
            record.promise = record.promise.max(promise);
        }
    }

    /// They were not appended, for sure.
    pub(crate) fn refused(&mut self, ids: &[Id]) {
        self.count("records refused", ids.len());
        for id in ids {
            let record = self.records.get_mut(id).expect("sent");
            assert!(
                record.offset.is_none(),
                "r{id} was refused, but stands at offset {:?}",
                record.offset
            );
            record.is_gone = true;
        }
    }

    /// Their producer gives them up.
    pub(crate) fn given_up(&mut self, ids: &[Id]) {
        self.count("records with unknown outcome", ids.len());
        for id in ids {
            self.records.get_mut(id).expect("sent").may_retry = false;
        }
    }

    /// Record `id` stands at `offset`.
    fn stands(&mut self, id: Id, offset: i64, promise: Promise) {
        let record = self.records.get_mut(&id).expect("sent");
        let (topic, partition) = (record.topic, record.partition);
        assert!(
            !record.is_gone,
            "r{id} appears at offset {offset}: it was gone for good"
        );
        let place = *record.offset.get_or_insert(offset);
        assert_eq!(place, offset, "r{id} stands at two offsets");
        record.promise = record.promise.max(promise);
        let partition = self.partition_mut(topic, partition);
        let there = *partition.seen.entry(offset).or_insert(id);
        assert_eq!(
            there, id,
            "offset {offset} holds r{id}, and held r{there} before"
        );
    }

    /// The high watermark that a request that is sent now must find at least.
    pub(crate) fn high_watermark(&self, topic: usize, partition: i32) -> i64 {
        self.partition(topic, partition).high_watermark
    }

    /// A high watermark was shown to a request that was sent when it was at least `before`.
    pub(crate) fn show_high_watermark(
        &mut self,
        topic: usize,
        partition: i32,
        shown: i64,
        before: i64,
    ) {
        let name = self.topics[topic].name.clone();
        assert!(
            shown >= before,
            "the high watermark of {name}-{partition} went back from {before} to {shown}"
        );
        let partition = self.partition_mut(topic, partition);
        partition.high_watermark = partition.high_watermark.max(shown);
    }

    /// The log start offset that a request that is sent now must find at least.
    pub(crate) fn log_start(&self, topic: usize, partition: i32) -> i64 {
        self.partition(topic, partition).log_start
    }

    /// A log start offset was shown to a request that was sent when it was at least `before`.
    pub(crate) fn show_log_start(&mut self, topic: usize, partition: i32, shown: i64, before: i64) {
        let name = self.topics[topic].name.clone();
        assert!(
            shown >= before,
            "the log start offset of {name}-{partition} went back from {before} to {shown}"
        );
        let keeps_all = self.keeps_all || self.topics[topic].is_compacted;
        let partition = self.partition_mut(topic, partition);
        if shown > partition.log_start {
            assert!(
                !keeps_all || shown <= partition.unwanted,
                "the log start offset of {name} is {shown}: records were deleted that nobody wanted to \
                 be deleted, but for those below {}",
                partition.unwanted
            );
            partition.log_start = shown;
            self.count("log start offsets raised", 1);
        }
    }

    /// The records below `offset` are asked to be deleted.
    pub(crate) fn unwanted(&mut self, topic: usize, partition: i32, offset: i64) {
        let partition = self.partition_mut(topic, partition);
        partition.unwanted = partition.unwanted.max(offset);
    }

    // ---- times -----------------------------------------------------------------------------

    /// The timestamp of a record that is known to stand somewhere.
    pub(crate) fn some_timestamp(&self, topic: usize, partition: i32, number: u64) -> Option<i64> {
        let seen = &self.partition(topic, partition).seen;
        let index = number.checked_rem(seen.len() as u64)?;
        let id = seen.values().nth(usize::try_from(index).ok()?)?;
        self.records[id]
            .timestamp
            .filter(|timestamp| *timestamp >= 0)
    }

    /// The first offset from `start` to `end` that is known to have a timestamp of at least `timestamp`.
    pub(crate) fn first_since(
        &self,
        (topic, partition): (usize, i32),
        timestamp: i64,
        (start, end): (i64, i64),
    ) -> Option<i64> {
        let seen = &self.partition(topic, partition).seen;
        let mut later = seen.range(start.min(end)..end).filter(|(_, id)| {
            let found = self.records[*id].timestamp;
            found.is_some_and(|found| found >= timestamp)
        });
        later.next().map(|(offset, _)| *offset)
    }

    /// The timestamp of the record at an offset, if it is known.
    pub(crate) fn timestamp_at(&self, topic: usize, partition: i32, offset: i64) -> Option<i64> {
        let id = self.partition(topic, partition).seen.get(&offset)?;
        self.records[id].timestamp
    }

    /// Records were fetched below the high watermark.
    pub(crate) fn fetched(&mut self, topic: usize, partition: i32, records: &[Record], limit: i64) {
        let promise = self.promise_of(-1);
        self.count("records fetched", records.len());
        let (is_compacted, start) = (
            self.topics[topic].is_compacted,
            self.log_start(topic, partition),
        );
        let mut expected = None;
        for record in records {
            let offset = record.offset;
            let due = *expected.get_or_insert(offset);
            assert!(
                offset == due || is_compacted && offset > due,
                "offset {offset} where {due} is due"
            );
            expected = Some(offset + 1);
            assert!(
                offset < limit,
                "offset {offset} was fetched above the high watermark {limit}"
            );
            let id = self.identify(topic, partition, record);
            // What lies before the log start offset in the same batch is no longer anybody's business.
            if offset >= start {
                self.stands(id, offset, promise);
            }
        }
    }

    fn identify(&self, topic: usize, partition: i32, record: &Record) -> Id {
        let value = record.value.as_deref().unwrap_or_default();
        let id = value.strip_prefix(b"r").and_then(|rest| {
            let digits = rest.split(|byte| *byte == b' ').next()?;
            std::str::from_utf8(digits).ok()?.parse::<Id>().ok()
        });
        let sent = id.and_then(|id| Some((id, self.records.get(&id)?)));
        let offset = record.offset;
        let (id, sent) = sent.unwrap_or_else(|| {
            let head = String::from_utf8_lossy(&value[..value.len().min(60)]);
            panic!("foreign bytes at offset {offset}: {head:?}")
        });
        assert_eq!(
            (sent.topic, sent.partition),
            (topic, partition),
            "r{id} at offset {offset} belongs to another partition"
        );
        assert!(
            sent.value == value && sent.key == record.key,
            "r{id} at offset {offset} has other bytes"
        );
        let (stamped, found) = (sent.timestamp.unwrap_or(record.timestamp), record.timestamp);
        assert_eq!(stamped, found, "the timestamp of r{id} at offset {offset}");
        id
    }

    /// Settles a partition after a start: `records` is all of it, `end` its high watermark.
    pub(crate) fn reconcile(
        &mut self,
        (topic, partition): (usize, i32),
        contents: &Contents,
        ending: Ending,
    ) {
        let Contents {
            start,
            records,
            end,
        } = contents;
        let (start, end) = (*start, *end);
        let before = self.log_start(topic, partition);
        self.show_log_start(topic, partition, start, before);
        let name = format!("{}-{partition}", self.topics[topic].name);
        let offsets: Vec<i64> = records.iter().map(|record| record.offset).collect();
        let is_compacted = self.topics[topic].is_compacted;
        assert!(
            offsets.iter().copied().eq(start..end)
                || is_compacted && is_within(&offsets, start, end),
            "{name} has a gap: offsets {offsets:?} of {start} to {end}"
        );
        let found: BTreeMap<Id, i64> = records
            .iter()
            .map(|record| (self.identify(topic, partition, record), record.offset))
            .collect();
        let superseded = self.judge_missing((topic, partition), contents, &found, ending);
        let promise_now = self.promise_of(-1);
        self.partition_mut(topic, partition)
            .seen
            .retain(|offset, id| {
                *offset < start || found.contains_key(id) || superseded.contains(id)
            });
        self.count("records compacted away", superseded.len());
        self.check_order(&name, records, (topic, partition));
        for (id, offset) in found {
            self.stands(id, offset, promise_now);
        }
        self.partition_mut(topic, partition).high_watermark = end;
        self.count("partitions reconciled", 1);
    }

    /// Of what was sent and is not found, what compaction may have taken; the rest must not have been
    /// promised.
    fn judge_missing(
        &mut self,
        (topic, partition): (usize, i32),
        contents: &Contents,
        found: &BTreeMap<Id, i64>,
        ending: Ending,
    ) -> BTreeSet<Id> {
        let (start, end) = (contents.start, contents.end);
        let name = format!("{}-{partition}", self.topics[topic].name);
        let is_doomed = self.topics[topic].is_doomed;
        let kept = |promise: Promise| match ending {
            Ending::Process => promise >= Promise::Process,
            Ending::Power => promise >= Promise::Power,
        };
        let keyed = contents.records.iter();
        let newest_of_keys: BTreeMap<&[u8], i64> = keyed
            .filter_map(|record| Some((record.key.as_deref()?, record.offset)))
            .collect();
        let sent = self.partition(topic, partition).sent.clone();
        let (mut lost, mut superseded) = (0, BTreeSet::new());
        for id in sent.difference(&found.keys().copied().collect()) {
            let record = self.records.get_mut(id).expect("sent");
            // Compaction may take what a later record of the same key has replaced; what was
            // acknowledged as a duplicate stands nobody knows where.
            let key = record.key.as_deref();
            let newest = key.and_then(|key| newest_of_keys.get(key));
            let is_superseded = newest.is_some_and(|newest| match record.offset {
                Some(offset) => *newest > offset,
                None => record.promise > Promise::None,
            });
            if is_superseded {
                superseded.insert(*id);
                continue;
            }
            // The same of retention, which takes what stands below the log start offset.
            let is_retained = record.offset.map_or(start == 0, |offset| offset >= start);
            if !is_retained && record.promise > Promise::None && kept(record.promise) {
                continue;
            }
            assert!(
                !kept(record.promise) || is_doomed,
                "{name}: r{id} is missing: it was promised ({:?}) at offset {:?}, the log ends at \
                 {end} after the loss of the {ending:?}",
                record.promise,
                record.offset
            );
            lost += usize::from(record.offset.take().is_some());
            record.promise = Promise::None;
            record.is_gone |= !record.may_retry;
        }
        self.count("records lost as allowed", lost);
        superseded
    }

    fn check_order(&self, name: &str, records: &[Record], (topic, partition): (usize, i32)) {
        let mut last: BTreeMap<u64, Id> = BTreeMap::new();
        for record in records {
            let id = self.identify(topic, partition, record);
            let lane = self.records[&id].lane;
            if let Some(before) = last.insert(lane, id) {
                assert!(
                    before < id,
                    "{name}: r{id} of lane {lane} stands behind r{before}"
                );
            }
        }
    }

    // ---- group offsets ---------------------------------------------------------------------

    /// A commit is sent; gives its token, which goes into the metadata.
    pub(crate) fn commit(&mut self, group: &str, topic: &str, partition: i32, offset: i64) -> u64 {
        let token = self.tick();
        let key = (group.to_owned(), topic.to_owned(), partition);
        let commits = self.commits.entry(key).or_default();
        commits.ever.insert(format!("c{token}"), offset);
        commits.attempts.push(Attempt {
            token,
            offset,
            answered: None,
            sent: token,
            promise: Promise::None,
        });
        self.count("offset commits sent", 1);
        token
    }

    /// A commit was acknowledged: what was answered before it was sent counts no more.
    pub(crate) fn committed(&mut self, group: &str, topic: &str, partition: i32, token: u64) {
        let now = self.tick();
        let promise = self.promise_of(-1);
        let key = (group.to_owned(), topic.to_owned(), partition);
        let commits = self.commits.get_mut(&key).expect("sent before");
        let attempt = commits.attempts.iter_mut().find(|a| a.token == token);
        let attempt = attempt.expect("only what was answered earlier is forgotten");
        attempt.answered = Some(now);
        attempt.promise = promise;
        let sent = attempt.sent;
        if promise == Promise::Power {
            commits
                .attempts
                .retain(|a| a.token == token || a.answered.is_none_or(|at| at > sent));
        }
        self.count("offset commits acknowledged", 1);
    }

    /// A commit was refused for sure.
    pub(crate) fn commit_refused(&mut self, group: &str, topic: &str, partition: i32, token: u64) {
        let key = (group.to_owned(), topic.to_owned(), partition);
        let commits = self.commits.get_mut(&key).expect("sent before");
        commits.attempts.retain(|a| a.token != token);
    }

    /// Groups and partitions with commits.
    pub(crate) fn commit_keys(&self) -> Vec<CommitKey> {
        self.commits.keys().cloned().collect()
    }

    /// Settles a group's offset after a start: `found` is (offset, metadata), offset -1 for none.
    pub(crate) fn reconcile_commit(&mut self, key: &CommitKey, found: (i64, &str), ending: Ending) {
        let is_durable = self.is_durable;
        let commits = self.commits.get_mut(key).expect("has commits");
        let must = match ending {
            Ending::Process => Promise::Process,
            Ending::Power => Promise::Power,
        };
        // The newest one that was surely kept, and whatever may have come after it.
        let kept = commits.attempts.iter().filter(|a| a.promise >= must);
        let floor = kept.map(|a| a.sent).max();
        let candidates = commits
            .attempts
            .iter()
            .filter(|a| match (floor, a.answered) {
                (Some(floor), Some(answered)) => answered >= floor,
                _ => true,
            });
        let candidates: Vec<(i64, String)> = candidates
            .map(|a| (a.offset, format!("c{}", a.token)))
            .collect();
        let (offset, metadata) = found;
        let is_none = offset == -1 && floor.is_none();
        // Without a journal the group's log may be cut anywhere.
        let is_free = !is_durable && ending == Ending::Power;
        let is_free = is_free && (offset == -1 || commits.ever.get(metadata) == Some(&offset));
        assert!(
            is_none
                || is_free
                || candidates
                    .iter()
                    .any(|(o, m)| *o == offset && m == metadata),
            "committed offset of {key:?}: found {offset} {metadata:?}, could be {candidates:?}{}",
            if floor.is_none() { " or none" } else { "" }
        );
        let now = if is_durable {
            Promise::Power
        } else {
            Promise::Process
        };
        commits.attempts.retain_mut(|attempt| {
            attempt.answered = Some(attempt.sent);
            attempt.promise = now;
            format!("c{}", attempt.token) == metadata
        });
        let token = metadata
            .strip_prefix('c')
            .and_then(|token| token.parse().ok());
        if let Some(token) = token.filter(|_| commits.attempts.is_empty()) {
            // One of before, which a cut has brought back: it is what must stay now.
            commits.attempts.push(Attempt {
                token,
                offset,
                answered: Some(0),
                sent: 0,
                promise: now,
            });
        }
        self.count("committed offsets reconciled", 1);
    }
}
