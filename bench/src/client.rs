//! The control side of a Kafka client: one request at a time, structures by `kafka-protocol`.
//!
//! The hot path does not come here: see `frames`, `produce` and `fetch`. They share `Inbox`.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    ApiVersionsRequest, CreateTopicsRequest, DeleteTopicsRequest, InitProducerIdRequest,
    ListOffsetsRequest, MetadataRequest, RequestHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

use crate::failure::Failure;
use crate::frames::{self, CLIENT_ID};
use crate::transport::{Connection, Transport};

/// No answer is larger: the largest fetch is asked for with 1 MiB and a batch has at most 64.
const FRAME_BYTES_MAX: usize = 80 << 20;
/// What is not a broker may wait for more, as an HTTP server does.
const FIRST_ANSWER_PATIENCE: Duration = Duration::from_secs(10);
const TOPIC_ALREADY_EXISTS: i16 = 36;
/// What a broker may say while it makes a topic: unknown topic, leader not available, not leader.
const RETRIABLE: [i16; 3] = [3, 5, 6];

/// Cuts a stream into frames, in place.
#[derive(Debug)]
pub(crate) struct Inbox {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    /// With room for `bytes`; it grows for a frame that is larger.
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            buffer: vec![0; bytes],
            start: 0,
            end: 0,
        }
    }

    /// The next whole frame that is there, without its size.
    pub(crate) fn frame(&mut self) -> Result<Option<Range<usize>>, Failure> {
        let there = &self.buffer[self.start..self.end];
        let Some((prefix, rest)) = there.split_first_chunk() else {
            return Ok(None);
        };
        let size = usize::try_from(i32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
        if size > FRAME_BYTES_MAX {
            let what = format!("an answer begins with {prefix:02x?}, which is no length");
            return Err(Failure::Protocol(what));
        }
        if rest.len() >= size {
            let begin = self.start + 4;
            self.start = begin + size;
            return Ok(Some(begin..begin + size));
        }
        if self.start + 4 + size > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if 4 + size > self.buffer.len() {
                self.buffer.resize(4 + size, 0);
            }
        }
        Ok(None)
    }

    /// The bytes of a frame: good until the next [`fill`](Self::fill).
    pub(crate) fn bytes(&self, frame: Range<usize>) -> &[u8] {
        &self.buffer[frame]
    }

    /// Reads once; false if the broker closed the connection.
    pub(crate) async fn fill(&mut self, connection: &impl Connection) -> std::io::Result<bool> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let buffer = std::mem::take(&mut self.buffer);
        let (result, buffer) = connection.read(buffer, self.end).await;
        self.buffer = buffer;
        let read = result?;
        self.end += read;
        Ok(read > 0)
    }

    /// Waits for the next frame; `None` if the broker closed the connection.
    pub(crate) async fn next(
        &mut self,
        connection: &impl Connection,
    ) -> Result<Option<Range<usize>>, Failure> {
        loop {
            if let Some(frame) = self.frame()? {
                return Ok(Some(frame));
            }
            let more = self.fill(connection).await;
            if !more.map_err(Failure::system("reading from the broker"))? {
                return Ok(None);
            }
        }
    }
}

/// A connection for control requests.
#[derive(Debug)]
pub(crate) struct Client<C> {
    /// (API key, least version, greatest version)
    served: Vec<(i16, i16, i16)>,
    connection: C,
    inbox: Inbox,
    correlation_id: i32,
}

impl<C: Connection> Client<C> {
    /// Connects and checks that the broker serves the versions of the hot path.
    pub(crate) async fn connect<T: Transport<Connection = C>>(
        address: SocketAddr,
    ) -> Result<Self, Failure> {
        let connection = T::connect(address).await;
        let mut client = Self {
            served: Vec::new(),
            connection: connection.map_err(Failure::system(format!("connecting to {address}")))?,
            inbox: Inbox::new(64 << 10),
            correlation_id: 0,
        };
        client.check_versions().await?;
        Ok(client)
    }

    /// The first request: what does not answer it as Kafka does is told as such.
    async fn check_versions(&mut self) -> Result<(), Failure> {
        let request = ApiVersionsRequest::default();
        let answer = tokio::time::timeout(FIRST_ANSWER_PATIENCE, self.ask(&request, 0)).await;
        let answer = match answer {
            Err(_) => Err(Failure::Protocol(format!(
                "no answer to ApiVersions within {} s",
                FIRST_ANSWER_PATIENCE.as_secs()
            ))),
            Ok(Err(Failure::Closed { .. })) => Err(Failure::Hangup),
            Ok(answer) => answer,
        }?;
        self.served = served(&answer)?;
        if self.serves(frames::FETCH_KEY, frames::FETCH_VERSION) {
            return Ok(());
        }
        let what = format!(
            "the broker does not serve Fetch version {}",
            frames::FETCH_VERSION
        );
        Err(Failure::Target(what))
    }

    fn serves(&self, key: i16, version: i16) -> bool {
        let mut served = self.served.iter();
        let served = served.find(|(served, ..)| *served == key);
        served.is_some_and(|(_, least, most)| (*least..=*most).contains(&version))
    }

    /// `version`, or the oldest that the broker serves if it serves only newer ones.
    pub(crate) fn version_or_oldest(&self, key: i16, version: i16) -> i16 {
        let mut served = self.served.iter();
        let served = served.find(|(served, ..)| *served == key);
        let oldest = served.map_or(version, |(_, least, _)| version.max(*least));
        if key == frames::PRODUCE_KEY && self.produces_in_name_only() {
            return oldest.max(3);
        }
        oldest
    }

    /// Brokers from 4.0 name Produce v0 to v2 for librdkafka's sake and refuse them (KAFKA-18659); that
    /// they have dropped Fetch v3 as well (KIP-896) is what tells them.
    fn produces_in_name_only(&self) -> bool {
        !self.serves(frames::FETCH_KEY, 3)
    }

    /// Whether the broker takes this version of Produce.
    pub(crate) fn check_produce(&self, version: i16) -> Result<(), Failure> {
        let in_name_only = version < 3 && self.produces_in_name_only();
        if self.serves(frames::PRODUCE_KEY, version) && !in_name_only {
            return Ok(());
        }
        let oldest = self.version_or_oldest(frames::PRODUCE_KEY, 0);
        Err(Failure::Target(format!(
            "the broker does not serve Produce version {version}; its oldest is {oldest} (--produce-version)"
        )))
    }

    /// A producer id and its epoch.
    pub(crate) async fn init_producer_id(&mut self) -> Result<(i64, i16), Failure> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000);
        let mut attempts_left = 1000;
        loop {
            let answer = self.call(&request, 1).await?;
            // A broker that has just started may still be looking for its coordinator.
            if matches!(answer.error_code, 14..=16) && attempts_left > 0 {
                attempts_left -= 1;
                tokio::time::sleep(Duration::from_millis(10)).await; // the poll's pause, at most 10 s
                continue;
            }
            accept("InitProducerId", answer.error_code)?;
            return Ok((answer.producer_id.0, answer.producer_epoch));
        }
    }

    /// Deletes a topic, so that its log does not fill the disk.
    pub(crate) async fn delete_topic(&mut self, topic: &str) -> Result<(), Failure> {
        let request = DeleteTopicsRequest::default()
            .with_topic_names(vec![topic_name(topic)])
            .with_timeout_ms(20_000);
        let answer = self.call(&request, 1).await?;
        for deleted in answer.responses {
            accept(&format!("DeleteTopics {topic}"), deleted.error_code)?;
        }
        Ok(())
    }

    /// Sends one request and waits for its answer, at most 30 s.
    pub(crate) async fn call<R>(
        &mut self,
        request: &R,
        version: i16,
    ) -> Result<R::Response, Failure>
    where
        R: Request,
    {
        const PATIENCE: Duration = Duration::from_secs(30);
        let answer = tokio::time::timeout(PATIENCE, self.exchange(request, version)).await;
        answer.unwrap_or(Err(Failure::Stalled {
            seconds: PATIENCE.as_secs(),
            in_flight: 1,
        }))
    }

    async fn exchange<R: Request>(
        &mut self,
        request: &R,
        version: i16,
    ) -> Result<R::Response, Failure> {
        let mut answer = self.ask(request, version).await?;
        R::Response::decode(&mut answer, version)
            .map_err(|error| damaged(R::KEY, &error.to_string()))
    }

    /// Sends a request and gives its answer behind the header.
    async fn ask<R: Request>(&mut self, request: &R, version: i16) -> Result<Bytes, Failure> {
        self.correlation_id += 1;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(StrBytes::from_static_str(CLIENT_ID)));
        let mut frame = BytesMut::zeroed(4);
        header
            .encode(&mut frame, R::header_version(version))
            .and_then(|()| request.encode(&mut frame, version))
            .map_err(|error| Failure::Protocol(format!("encoding request {}: {error}", R::KEY)))?;
        frames::seal(&mut frame);
        let (written, _) = self.connection.write_all(frame.to_vec()).await;
        written.map_err(Failure::system("writing to the broker"))?;

        let Some(answer) = self.inbox.next(&self.connection).await? else {
            return Err(Failure::Closed {
                connection: "control".to_owned(),
                in_flight: 1,
            });
        };
        let mut answer = Bytes::copy_from_slice(self.inbox.bytes(answer));
        let header_version = R::Response::header_version(version);
        let header = kafka_protocol::messages::ResponseHeader::decode(&mut answer, header_version)
            .map_err(|error| damaged(R::KEY, &error.to_string()))?;
        if header.correlation_id != self.correlation_id {
            return Err(damaged(R::KEY, "a foreign correlation id"));
        }
        Ok(answer)
    }

    /// Makes the topic unless it is there, and waits until all its partitions have a leader. True if it
    /// was made.
    pub(crate) async fn create_topic(
        &mut self,
        topic: &str,
        partitions: usize,
    ) -> Result<bool, Failure> {
        let count = i32::try_from(partitions).expect("checked against its limit");
        // The records are stamped with a fixed time: no broker may take them for old ones.
        let keep = CreatableTopicConfig::default()
            .with_name(StrBytes::from_static_str("retention.ms"))
            .with_value(Some(StrBytes::from_static_str("-1")));
        let creatable = CreatableTopic::default()
            .with_name(topic_name(topic))
            .with_num_partitions(count)
            .with_replication_factor(1)
            .with_configs(vec![keep]);
        let request = CreateTopicsRequest::default()
            .with_topics(vec![creatable])
            .with_timeout_ms(20_000);
        let answer = self.call(&request, 2).await?;
        let mut is_new = true;
        for made in answer.topics {
            is_new &= made.error_code == 0;
            if made.error_code != TOPIC_ALREADY_EXISTS {
                accept(&format!("CreateTopics {topic}"), made.error_code)?;
            }
        }
        for _ in 0..2000 {
            if self.led_partitions(topic).await? >= partitions {
                return Ok(is_new);
            }
            tokio::time::sleep(Duration::from_millis(5)).await; // the poll's pause, at most 10 s
        }
        let what = format!("topic {topic} has no {partitions} partitions with a leader after 10 s");
        Err(Failure::Target(what))
    }

    async fn led_partitions(&mut self, topic: &str) -> Result<usize, Failure> {
        let wanted = MetadataRequestTopic::default().with_name(Some(topic_name(topic)));
        let request = MetadataRequest::default().with_topics(Some(vec![wanted]));
        let answer = self.call(&request, 4).await?;
        let Some(found) = answer.topics.first() else {
            return Ok(0);
        };
        if !RETRIABLE.contains(&found.error_code) {
            accept(&format!("Metadata {topic}"), found.error_code)?;
        }
        let led = |partition: &&kafka_protocol::messages::metadata_response::MetadataResponsePartition| {
            partition.error_code == 0 && partition.leader_id.0 >= 0
        };
        Ok(found.partitions.iter().filter(led).count())
    }

    /// Where the log of each partition ends. A broker may still be taking up the leadership that its
    /// Metadata answer told already: that is waited for.
    pub(crate) async fn log_end_offsets(
        &mut self,
        topic: &str,
        partitions: usize,
    ) -> Result<Vec<i64>, Failure> {
        let mut attempts_left = 1000;
        loop {
            match self.list_offsets(topic, partitions).await {
                Err(Failure::Answer { code, .. }) if is_retriable(code) && attempts_left > 0 => {
                    attempts_left -= 1;
                    tokio::time::sleep(Duration::from_millis(10)).await; // the poll's pause, at most 10 s
                }
                result => return result,
            }
        }
    }

    async fn list_offsets(&mut self, topic: &str, partitions: usize) -> Result<Vec<i64>, Failure> {
        const LATEST: i64 = -1;
        let count = i32::try_from(partitions).expect("checked against its limit");
        let wanted = |index| {
            ListOffsetsPartition::default()
                .with_partition_index(index)
                .with_timestamp(LATEST)
        };
        let listed = ListOffsetsTopic::default()
            .with_name(topic_name(topic))
            .with_partitions((0..count).map(wanted).collect());
        let request = ListOffsetsRequest::default()
            .with_replica_id((-1).into())
            .with_topics(vec![listed]);
        let answer = self.call(&request, 2).await?;
        let mut offsets = vec![0; partitions];
        let found = answer.topics.into_iter().flat_map(|topic| topic.partitions);
        for partition in found {
            accept(&format!("ListOffsets {topic}"), partition.error_code)?;
            let index = usize::try_from(partition.partition_index).unwrap_or(usize::MAX);
            if let Some(offset) = offsets.get_mut(index) {
                *offset = partition.offset;
            }
        }
        Ok(offsets)
    }
}

fn damaged(key: i16, what: &str) -> Failure {
    Failure::Protocol(format!("answer to request {key}: {what}"))
}

/// ApiVersions v0 by hand: it is the first answer of what may be no broker at all, and `kafka-protocol`
/// makes room for as many entries as it is told.
///
/// ```text
/// offset 0  error_code: i16 | count: i32 | count times (api_key: i16, min: i16, max: i16), big-endian
/// ```
fn served(answer: &[u8]) -> Result<Vec<(i16, i16, i16)>, Failure> {
    let too_short = || damaged(ApiVersionsRequest::KEY, "it ends within a field");
    let (code, rest) = answer.split_first_chunk().ok_or_else(too_short)?;
    accept("ApiVersions", i16::from_be_bytes(*code))?;
    let (count, entries) = rest.split_first_chunk().ok_or_else(too_short)?;
    let (entries, _) = entries.as_chunks::<6>();
    let count = i32::from_be_bytes(*count);
    if usize::try_from(count) != Ok(entries.len()) {
        let what = format!("{count} entries are told, {} are there", entries.len());
        return Err(damaged(ApiVersionsRequest::KEY, &what));
    }
    let entry = |[key_0, key_1, least_0, least_1, most_0, most_1]: &[u8; 6]| {
        (
            i16::from_be_bytes([*key_0, *key_1]),
            i16::from_be_bytes([*least_0, *least_1]),
            i16::from_be_bytes([*most_0, *most_1]),
        )
    };
    Ok(entries.iter().map(entry).collect())
}

/// Whether the request may be sent again.
pub(crate) fn is_retriable(code: i16) -> bool {
    RETRIABLE.contains(&code)
}

/// Makes Kafka's error code an error.
pub(crate) fn accept(what: &str, code: i16) -> Result<(), Failure> {
    match code {
        0 => Ok(()),
        code => Err(Failure::Answer {
            what: what.to_owned(),
            code,
        }),
    }
}

/// A name, as requests have it.
pub(crate) fn topic_name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

#[cfg(test)]
mod tests;
