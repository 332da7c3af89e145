//! Sends record batches to the leaders of their partitions.
//!
//! One request at a time and broker, so order needs no thought. With acks=all the producer is
//! idempotent (KIP-98) where the broker can: a retry after a lost answer appends nothing twice.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use kafka_protocol::messages::{
    InitProducerIdRequest, ProduceRequest,
    produce_request::{PartitionProduceData, TopicProduceData},
};
use ringlog_engine::record::{BatchBuilder, Compression, Header};

use super::partitioner::partition_of_key;
use super::{Client, ClientError, TopicPartition, check, code, topic_name};

const RETRY_PAUSE: Duration = Duration::from_millis(100);
const AUTO_CREATE_PATIENCE: Duration = Duration::from_secs(60);

/// How to produce.
#[derive(Clone, Debug)]
pub struct ProducerOptions {
    /// 0, 1, or -1 for all.
    pub acks: i16,
    /// Codec of the batches.
    pub compression: Compression,
    /// Longest batch before compression; a single record may exceed it.
    pub batch_bytes_max: usize,
    /// How long a batch may take with its retries.
    pub delivery_timeout: Duration,
    /// What the broker may take to answer.
    pub request_timeout: Duration,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            acks: -1,
            compression: Compression::None,
            batch_bytes_max: 16 * 1024,
            delivery_timeout: Duration::from_secs(120),
            request_timeout: Duration::from_secs(30),
        }
    }
}

/// A record on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutRecord {
    /// Key; decides the partition unless that is given.
    pub key: Option<Vec<u8>>,
    /// Value; none is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Headers.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// The partition, if the user chose one.
    pub partition: Option<i32>,
}

/// A producer of one topic.
#[derive(Debug)]
pub struct Producer {
    client: Client,
    topic: String,
    partitions: i32,
    options: ProducerOptions,
    /// The id, its epoch, and the next sequence number per partition.
    producer: Option<(i64, i16)>,
    sequences: BTreeMap<i32, i32>,
    /// Keyless records fill one batch, then go to the next partition (KIP-480).
    sticky: i32,
}

impl Producer {
    /// Waits for the topic (creating it, if the broker does that) and gets a producer id.
    ///
    /// # Errors
    /// If the topic cannot be had.
    pub fn new(
        mut client: Client,
        topic: &str,
        options: ProducerOptions,
    ) -> Result<Self, ClientError> {
        let found = client.await_topic(topic, true, AUTO_CREATE_PATIENCE)?;
        let mut producer = None;
        if options.acks == -1 && client.any()?.supports::<InitProducerIdRequest>() {
            let request = InitProducerIdRequest::default()
                .with_transactional_id(None)
                .with_transaction_timeout_ms(60_000)
                .with_producer_id((-1).into())
                .with_producer_epoch(-1);
            producer = init_producer_id(&mut client, &request)?;
        }
        Ok(Self {
            client,
            topic: topic.to_owned(),
            partitions: i32::try_from(found.partitions.len()).unwrap_or(i32::MAX),
            options,
            producer,
            sequences: BTreeMap::new(),
            sticky: 0,
        })
    }

    /// Sends the records, in order per partition; returns when all are acknowledged as `acks` asks.
    /// Answers where the last one went: partition and offset (-1 with acks=0).
    ///
    /// # Errors
    /// If a batch could not be delivered in time, or was refused.
    pub fn send(
        &mut self,
        records: &[OutRecord],
        now_ms: i64,
    ) -> Result<Vec<(i32, i64)>, ClientError> {
        let mut groups: BTreeMap<i32, Vec<&OutRecord>> = BTreeMap::new();
        for record in records {
            let partition = match (&record.partition, &record.key) {
                (Some(partition), _) => *partition,
                (None, Some(key)) => partition_of_key(key, self.partitions),
                (None, None) => self.sticky,
            };
            groups.entry(partition).or_default().push(record);
        }
        self.sticky = (self.sticky + 1).checked_rem(self.partitions).unwrap_or(0);
        let mut sent = Vec::new();
        for (partition, records) in groups {
            let mut rest = records.as_slice();
            while !rest.is_empty() {
                let mut builder = self.builder(partition);
                let mut count = 0;
                for record in rest {
                    let headers: Vec<_> = record.headers.iter().map(header).collect();
                    let (key, value) = (record.key.as_deref(), record.value.as_deref());
                    builder.append(now_ms, key, value, &headers)?;
                    count += 1;
                    if builder.size_in_bytes() >= self.options.batch_bytes_max {
                        break;
                    }
                }
                let offset = self.deliver(partition, count, builder)?;
                sent.push((partition, offset));
                rest = rest.get(count..).unwrap_or_default();
            }
        }
        Ok(sent)
    }

    fn builder(&self, partition: i32) -> BatchBuilder {
        let builder = BatchBuilder::new(self.options.compression);
        match self.producer {
            Some((id, epoch)) => {
                let sequence = self.sequences.get(&partition).copied().unwrap_or(0);
                builder.producer(id, epoch, sequence)
            }
            None => builder,
        }
    }

    /// Delivers one batch, trying again while the broker says that this may help.
    fn deliver(
        &mut self,
        partition: i32,
        count: usize,
        builder: BatchBuilder,
    ) -> Result<i64, ClientError> {
        let batch = builder.build()?.freeze();
        let target = TopicPartition::new(&self.topic, partition);
        let deadline = Instant::now() + self.options.delivery_timeout;
        let data = PartitionProduceData::default()
            .with_index(partition)
            .with_records(Some(batch));
        let topic = TopicProduceData::default()
            .with_name(topic_name(&self.topic))
            .with_partition_data(vec![data]);
        let timeout_ms = i32::try_from(self.options.request_timeout.as_millis());
        let request = ProduceRequest::default()
            .with_transactional_id(None)
            .with_acks(self.options.acks)
            .with_timeout_ms(timeout_ms.unwrap_or(i32::MAX))
            .with_topic_data(vec![topic]);
        loop {
            let result = self.try_deliver(&target, &request);
            let error = match result {
                Ok(offset) => {
                    if self.producer.is_some() {
                        let count = i32::try_from(count).unwrap_or(i32::MAX);
                        let next = self.sequences.entry(partition).or_insert(0);
                        // Sequences wrap to 0 (Kafka: DefaultRecordBatch.incrementSequence).
                        *next = next.wrapping_add(count) & i32::MAX;
                    }
                    return Ok(offset);
                }
                Err(error) => error,
            };
            let is_worth_a_retry = match &error {
                ClientError::Connection { .. } => self.options.acks != 0,
                ClientError::Kafka { code, .. } => is_retriable(*code),
                _ => false,
            };
            if !is_worth_a_retry || Instant::now() >= deadline {
                return Err(error);
            }
            self.client.invalidate();
            thread::sleep(RETRY_PAUSE);
        }
    }

    fn try_deliver(
        &mut self,
        target: &TopicPartition,
        request: &ProduceRequest,
    ) -> Result<i64, ClientError> {
        let leader = self.client.leader(target)?;
        if self.options.acks == 0 {
            let connection = self.client.node(leader)?;
            let version = connection.version::<ProduceRequest>()?;
            connection.send(request, version)?;
            return Ok(-1);
        }
        let answer = self.client.call_node(leader, request)?;
        let mut results = answer.responses.iter().flat_map(|r| &r.partition_responses);
        let Some(result) = results.next() else {
            return Err(ClientError::kafka(-1, Some("an empty answer to Produce")));
        };
        if result.error_code == code::DUPLICATE_SEQUENCE_NUMBER {
            return Ok(result.base_offset);
        }
        check(result.error_code, result.error_message.as_ref())?;
        Ok(result.base_offset)
    }
}

fn init_producer_id(
    client: &mut Client,
    request: &InitProducerIdRequest,
) -> Result<Option<(i64, i16)>, ClientError> {
    let deadline = Instant::now() + super::REQUEST_TIMEOUT;
    loop {
        let answer = client.call(request)?;
        match answer.error_code {
            0 => return Ok(Some((answer.producer_id.0, answer.producer_epoch))),
            code::COORDINATOR_LOAD_IN_PROGRESS | code::COORDINATOR_NOT_AVAILABLE
                if Instant::now() < deadline =>
            {
                thread::sleep(RETRY_PAUSE);
            }
            // Not allowed or not there: without idempotence, as clients before 3.0.
            _ => return Ok(None),
        }
    }
}

fn header(header: &(String, Option<Vec<u8>>)) -> Header<'_> {
    Header {
        key: header.0.as_bytes(),
        value: header.1.as_deref(),
    }
}

fn is_retriable(code: i16) -> bool {
    kafka_protocol::error::ResponseError::try_from_code(code)
        .is_some_and(|error| error.is_retriable())
}
