//! Reads records from assigned partitions, one fetch per leader at a time.
//!
//! Positions move only past records that were handed out, so a caller that stops in the middle of
//! an answer knows exactly what it has seen. Control batches and (with read_committed) aborted
//! transactions are passed over.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::{
    FetchRequest,
    fetch_request::{FetchPartition, FetchTopic},
    fetch_response::PartitionData,
};
use ringlog_engine::record::batch::iterate;
use ringlog_engine::record::builder::TransactionMarker;
use ringlog_engine::record::{BatchReader, TimestampType};

use super::{
    Client, ClientError, EARLIEST, FRAME_BYTES_MAX, LATEST, REQUEST_TIMEOUT, TopicPartition, check,
    code, topic_name,
};

/// How to fetch.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// How long the broker may hold a fetch that finds nothing.
    pub max_wait: Duration,
    /// Least bytes the broker answers before that.
    pub min_bytes: i32,
    /// Most bytes of an answer.
    pub max_bytes: i32,
    /// Most bytes of a partition in it.
    pub partition_bytes: i32,
    /// Pass over what is not committed.
    pub read_committed: bool,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            max_wait: Duration::from_millis(250),
            min_bytes: 1,
            max_bytes: 50 << 20,
            partition_bytes: 1 << 20,
            read_committed: false,
        }
    }
}

/// A record read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InRecord {
    /// Where it stands.
    pub partition: TopicPartition,
    /// Its offset.
    pub offset: i64,
    /// Its time in milliseconds.
    pub timestamp: i64,
    /// Who stamped it; none in message sets of magic 0.
    pub timestamp_type: Option<TimestampType>,
    /// Leader epoch of its batch.
    pub leader_epoch: i32,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its headers.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// A consumer of assigned partitions.
#[derive(Debug)]
pub struct Consumer {
    options: FetchOptions,
    positions: BTreeMap<TopicPartition, i64>,
    /// Where to go when a position is out of range: [`EARLIEST`] or [`LATEST`].
    reset: i64,
    ready: VecDeque<InRecord>,
    high_watermarks: BTreeMap<TopicPartition, i64>,
    /// Leaders are asked in turn, so that a quiet one does not starve the rest.
    turn: usize,
}

impl Consumer {
    /// A consumer without partitions.
    #[must_use]
    pub fn new(options: FetchOptions, reset: i64) -> Self {
        Self {
            options,
            positions: BTreeMap::new(),
            reset,
            ready: VecDeque::new(),
            high_watermarks: BTreeMap::new(),
            turn: 0,
        }
    }

    /// Replaces the assignment; records not handed out are dropped.
    pub fn assign(&mut self, positions: BTreeMap<TopicPartition, i64>) {
        self.positions = positions;
        self.ready.clear();
        self.high_watermarks.clear();
    }

    /// The next offset of every partition, behind what was handed out.
    #[must_use]
    pub fn positions(&self) -> &BTreeMap<TopicPartition, i64> {
        &self.positions
    }

    /// Whether every partition has been read to the high watermark last seen.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.ready.is_empty()
            && self.positions.iter().all(|(partition, position)| {
                let end = self.high_watermarks.get(partition);
                end.is_some_and(|end| position >= end)
            })
    }

    /// A record already fetched, if there is one.
    pub fn next_ready(&mut self) -> Option<InRecord> {
        let record = self.ready.pop_front()?;
        if let Some(position) = self.positions.get_mut(&record.partition) {
            *position = record.offset + 1;
        }
        Some(record)
    }

    /// Fetches once from the next leader in turn; afterwards records may be ready.
    ///
    /// # Errors
    /// If a broker cannot be reached or answers an error that a retry does not mend.
    pub fn poll(&mut self, client: &mut Client) -> Result<(), ClientError> {
        let mut by_leader: BTreeMap<i32, Vec<TopicPartition>> = BTreeMap::new();
        for partition in self.positions.keys() {
            let leader = client.leader(partition)?;
            by_leader.entry(leader).or_default().push(partition.clone());
        }
        if by_leader.is_empty() {
            return Ok(());
        }
        self.turn = self.turn.wrapping_add(1);
        let index = self.turn.checked_rem(by_leader.len()).unwrap_or(0);
        let Some((leader, partitions)) = by_leader.into_iter().nth(index) else {
            return Ok(());
        };
        let request = self.request(client, leader, &partitions)?;
        let timeout = REQUEST_TIMEOUT + self.options.max_wait;
        let answer = match client.node(leader)?.call(&request, timeout) {
            Ok(answer) => answer,
            Err(error) => {
                client.forget_broken();
                client.invalidate();
                return Err(error);
            }
        };
        check(answer.error_code, None)?;
        for topic in answer.responses {
            let name = if topic.topic.0.is_empty() {
                let mut known = partitions.iter();
                let found = known.find(|p| client.known_topic_id(&p.topic) == topic.topic_id);
                found.map(|p| p.topic.clone()).unwrap_or_default()
            } else {
                topic.topic.to_string()
            };
            for data in topic.partitions {
                let partition = TopicPartition::new(&name, data.partition_index);
                self.take(client, &partition, data)?;
            }
        }
        Ok(())
    }

    fn request(
        &self,
        client: &mut Client,
        leader: i32,
        partitions: &[TopicPartition],
    ) -> Result<FetchRequest, ClientError> {
        let connection = client.node(leader)?;
        let names_ids = connection.version::<FetchRequest>()? >= 13;
        let mut topics: Vec<FetchTopic> = Vec::new();
        for partition in partitions {
            let position = self.positions.get(partition).copied().unwrap_or(0);
            let wanted = FetchPartition::default()
                .with_partition(partition.partition)
                .with_current_leader_epoch(-1)
                .with_fetch_offset(position)
                .with_last_fetched_epoch(-1)
                .with_log_start_offset(-1)
                .with_partition_max_bytes(self.options.partition_bytes);
            let name = topic_name(&partition.topic);
            match topics.last_mut().filter(|topic| topic.topic == name) {
                Some(topic) => topic.partitions.push(wanted),
                None => {
                    let mut topic = FetchTopic::default().with_topic(name);
                    if names_ids {
                        topic.topic_id = client.known_topic_id(&partition.topic);
                    }
                    topics.push(topic.with_partitions(vec![wanted]));
                }
            }
        }
        let max_wait_ms = i32::try_from(self.options.max_wait.as_millis()).unwrap_or(i32::MAX);
        Ok(FetchRequest::default()
            .with_replica_id((-1).into())
            .with_max_wait_ms(max_wait_ms)
            .with_min_bytes(self.options.min_bytes)
            .with_max_bytes(self.options.max_bytes)
            .with_isolation_level(i8::from(self.options.read_committed))
            .with_session_epoch(-1)
            .with_topics(topics))
    }

    fn take(
        &mut self,
        client: &mut Client,
        partition: &TopicPartition,
        data: PartitionData,
    ) -> Result<(), ClientError> {
        match data.error_code {
            0 => {}
            code::OFFSET_OUT_OF_RANGE => {
                let one = [partition.clone()];
                let mut found = client.list_offsets(&one, self.reset)?;
                if let Some(offset) = found.remove(partition) {
                    self.positions.insert(partition.clone(), offset?.max(0));
                }
                return Ok(());
            }
            // The leader moved, or the topic is younger than the metadata of this broker.
            3 | 5 | 6 | 9 | 74 | 75 | 76 | 100 | 103 => {
                client.invalidate();
                std::thread::sleep(Duration::from_millis(50));
                return Ok(());
            }
            other => return check(other, None),
        }
        let end = if self.options.read_committed && data.last_stable_offset >= 0 {
            data.last_stable_offset
        } else {
            data.high_watermark
        };
        self.high_watermarks.insert(partition.clone(), end);
        let mut aborted: Vec<_> = data.aborted_transactions.unwrap_or_default();
        aborted.sort_by_key(|transaction| transaction.first_offset);
        let aborted = aborted.iter().map(|a| (a.first_offset, a.producer_id.0));
        self.read(
            partition,
            &data.records.unwrap_or_default(),
            aborted.collect(),
        )
    }

    /// Reads the batches of an answer; the last one may be cut off, and the first may begin before
    /// the position.
    fn read(
        &mut self,
        partition: &TopicPartition,
        records: &Bytes,
        mut aborted: VecDeque<(i64, i64)>,
    ) -> Result<(), ClientError> {
        let position = self.positions.get(partition).copied().unwrap_or(0);
        let mut aborting: Vec<i64> = Vec::new();
        let mut next = position;
        let count_before = self.ready.len();
        for batch in iterate(records) {
            let Ok(batch) = batch else { break };
            let header = &batch.header;
            while aborted
                .front()
                .is_some_and(|(first, _)| *first <= header.last_offset())
            {
                aborting.extend(aborted.pop_front().map(|(_, producer)| producer));
            }
            next = next.max(header.next_offset());
            let reader = BatchReader::open(batch.bytes, FRAME_BYTES_MAX)?;
            if header.is_control() {
                let marker = reader.records().next().and_then(Result::ok);
                let kind = marker.and_then(|record| TransactionMarker::from_key(record.key?));
                if kind == Some(TransactionMarker::Abort) {
                    aborting.retain(|producer| *producer != header.producer_id);
                }
                continue;
            }
            let is_aborted = header.is_transactional() && aborting.contains(&header.producer_id);
            if self.options.read_committed && is_aborted {
                continue;
            }
            for record in reader.records() {
                let record = record?;
                if record.offset < position {
                    continue;
                }
                let headers = record.headers.iter().map(|header| {
                    let key = String::from_utf8_lossy(header.key).into_owned();
                    (key, header.value.map(<[u8]>::to_vec))
                });
                self.ready.push_back(InRecord {
                    partition: partition.clone(),
                    offset: record.offset,
                    timestamp: record.timestamp,
                    timestamp_type: (header.magic > 0).then(|| header.timestamp_type()),
                    leader_epoch: header.partition_leader_epoch,
                    key: record.key.map(<[u8]>::to_vec),
                    value: record.value.map(<[u8]>::to_vec),
                    headers: headers.collect(),
                });
            }
        }
        // Nothing to hand out (control batches, compaction): go on behind it.
        if self.ready.len() == count_before {
            self.positions.insert(partition.clone(), next);
        }
        Ok(())
    }
}

/// The reset policy of a name.
#[must_use]
pub fn reset_of(from_beginning: bool) -> i64 {
    if from_beginning { EARLIEST } else { LATEST }
}
