//! The calls that most tests need, each at a given version of its API: the fields a version lacks are
//! left out, the ones it moved are found. They return error codes, they do not judge them.

use std::time::Duration;

use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, FetchRequest, FetchResponse, ListOffsetsRequest,
    MetadataRequest, ProduceRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::broker::wait_for;
use crate::records::{Batch, Contents, Record, read};
use crate::wire::Client;

/// A string of the codec.
pub fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

/// A topic name of the codec.
pub fn topic_name(value: &str) -> TopicName {
    TopicName(text(value))
}

/// Creates a topic with one replica and waits until it has leaders; gives its id.
pub fn create_topic(
    client: &mut Client,
    name: &str,
    partitions: i32,
    configs: &[(&str, &str)],
) -> Uuid {
    let configs = configs.iter().map(|(key, value)| {
        let config = CreatableTopicConfig::default().with_name(text(key));
        config.with_value(Some(text(value)))
    });
    let topic = CreatableTopic::default()
        .with_name(topic_name(name))
        .with_num_partitions(partitions)
        .with_replication_factor(1)
        .with_configs(configs.collect());
    let request = CreateTopicsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(30_000);
    let response = client.call(5, &request);
    assert_eq!(
        response.topics[0].error_code, 0,
        "CreateTopics {name}: {response:?}"
    );
    let patience = Duration::from_secs(30);
    let id = wait_for(&format!("leaders of {name}"), patience, || {
        topic_id(client, name)
    });
    // Apache Kafka's metadata may name a leader that does not know it yet (NOT_LEADER_OR_FOLLOWER).
    for partition in 0..partitions {
        wait_for(&format!("{name}-{partition}"), patience, || {
            (list_offset(client, 1, name, partition, -1).0 == 0).then_some(())
        });
    }
    id
}

/// The id of a topic whose partitions all have leaders; `None` as long as they have none.
pub fn topic_id(client: &mut Client, name: &str) -> Option<Uuid> {
    let topic = MetadataRequestTopic::default().with_name(Some(topic_name(name)));
    let request = MetadataRequest::default().with_topics(Some(vec![topic]));
    let response = client.call(12, &request.with_allow_auto_topic_creation(false));
    let topic = &response.topics[0];
    let led = topic
        .partitions
        .iter()
        .all(|partition| partition.error_code == 0);
    (topic.error_code == 0 && led && !topic.partitions.is_empty()).then_some(topic.topic_id)
}

/// A Produce request with one partition's records.
pub fn produce_request(topic: &str, partition: i32, acks: i16, records: Vec<u8>) -> ProduceRequest {
    let data = PartitionProduceData::default()
        .with_index(partition)
        .with_records(Some(records.into()));
    let topic = TopicProduceData::default()
        .with_name(topic_name(topic))
        .with_partition_data(vec![data]);
    ProduceRequest::default()
        .with_acks(acks)
        .with_timeout_ms(30_000)
        .with_topic_data(vec![topic])
}

/// Produces bytes to one partition with acks=all.
pub fn produce(
    client: &mut Client,
    version: i16,
    topic: &str,
    partition: i32,
    records: Vec<u8>,
) -> PartitionProduceResponse {
    let mut response = client.call(version, &produce_request(topic, partition, -1, records));
    response.responses.remove(0).partition_responses.remove(0)
}

/// Produces values as one plain batch to partition 0; gives the base offset.
pub fn produce_values<V: AsRef<[u8]>>(client: &mut Client, topic: &str, values: &[V]) -> i64 {
    let answer = produce(client, 9, topic, 0, Batch::of(values).encode());
    assert_eq!(answer.error_code, 0, "{answer:?}");
    answer.base_offset
}

/// What to fetch; the defaults never wait and never cut.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// The topic's name, used up to version 12.
    pub topic: String,
    /// The topic's id, used from version 13.
    pub topic_id: Uuid,
    /// The partition.
    pub partition: i32,
    /// The first offset wanted.
    pub offset: i64,
    /// The epoch the consumer knows, -1 for none.
    pub leader_epoch: i32,
    /// Longest wait.
    pub max_wait_ms: i32,
    /// The bytes worth an answer.
    pub min_bytes: i32,
    /// The limit of the answer (version 3 and later).
    pub max_bytes: i32,
    /// The limit of the partition.
    pub partition_max_bytes: i32,
    /// The fetch session, 0 for none (KIP-227).
    pub session_id: i32,
    /// Its epoch: 0 opens one, -1 closes it.
    pub session_epoch: i32,
}

impl Fetch {
    /// From `offset` of partition 0.
    pub fn of(topic: &str, topic_id: Uuid, offset: i64) -> Self {
        Self {
            topic: topic.to_owned(),
            topic_id,
            partition: 0,
            offset,
            leader_epoch: -1,
            max_wait_ms: 0,
            min_bytes: 0,
            max_bytes: 50 << 20,
            partition_max_bytes: 50 << 20,
            session_id: 0,
            session_epoch: -1,
        }
    }

    /// The request at a version.
    pub fn request(&self, version: i16) -> FetchRequest {
        let mut partition = FetchPartition::default()
            .with_partition(self.partition)
            .with_fetch_offset(self.offset)
            .with_partition_max_bytes(self.partition_max_bytes);
        if version >= 9 {
            partition = partition.with_current_leader_epoch(self.leader_epoch);
        }
        let mut topic = FetchTopic::default().with_partitions(vec![partition]);
        if version >= 13 {
            topic = topic.with_topic_id(self.topic_id);
        } else {
            topic = topic.with_topic(topic_name(&self.topic));
        }
        self.session_request(version).with_topics(vec![topic])
    }

    /// The request without any topic: an incremental fetch of a session.
    pub fn session_request(&self, version: i16) -> FetchRequest {
        let mut request = FetchRequest::default()
            .with_max_wait_ms(self.max_wait_ms)
            .with_min_bytes(self.min_bytes);
        if version >= 3 {
            request = request.with_max_bytes(self.max_bytes);
        }
        if version >= 7 {
            request = request
                .with_session_id(self.session_id)
                .with_session_epoch(self.session_epoch);
        }
        if version < 15 {
            request = request.with_replica_id(BrokerId(-1));
        }
        request
    }

    /// The answer of its one partition.
    pub fn call(&self, client: &mut Client, version: i16) -> PartitionData {
        only_partition(client.call(version, &self.request(version)))
    }

    /// The records; any error fails the test.
    pub fn contents(&self, client: &mut Client, version: i16) -> Contents {
        let data = self.call(client, version);
        assert_eq!(data.error_code, 0, "Fetch v{version}: {data:?}");
        read(data.records.as_deref().unwrap_or_default())
    }
}

/// The one partition of a fetch answer.
pub fn only_partition(mut response: FetchResponse) -> PartitionData {
    assert_eq!(response.error_code, 0, "{response:?}");
    assert_eq!(response.responses.len(), 1, "topics of {response:?}");
    let mut topic = response.responses.remove(0);
    assert_eq!(topic.partitions.len(), 1, "partitions of {topic:?}");
    topic.partitions.remove(0)
}

/// All records of a partition, fetched in as many answers as it takes.
pub fn fetch_all(client: &mut Client, topic: &str, partition: i32) -> Vec<Record> {
    let mut fetch = Fetch::of(topic, Uuid::nil(), 0);
    fetch.partition = partition;
    fetch_to_end(client, 11, fetch)
}

/// The records from the fetch's offset to the end, in as many answers as it takes.
pub fn fetch_to_end(client: &mut Client, version: i16, mut fetch: Fetch) -> Vec<Record> {
    let mut records = Vec::new();
    loop {
        let contents = fetch.contents(client, version);
        let Some(last) = contents.records.last() else {
            return records;
        };
        let next = last.offset + 1;
        // A batch may begin before the offset asked for.
        records.extend(
            contents
                .records
                .into_iter()
                .filter(|record| record.offset >= fetch.offset),
        );
        fetch.offset = next;
    }
}

/// ListOffsets of one partition: (error code, timestamp, offset); version 0 has no timestamp.
pub fn list_offset(
    client: &mut Client,
    version: i16,
    topic: &str,
    partition: i32,
    timestamp: i64,
) -> (i16, i64, i64) {
    let partition = ListOffsetsPartition::default()
        .with_partition_index(partition)
        .with_timestamp(timestamp);
    let topic = ListOffsetsTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(vec![partition]);
    let request = ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_topics(vec![topic]);
    let response = client.call(version, &request);
    let partition = &response.topics[0].partitions[0];
    if version == 0 {
        let offset = partition.old_style_offsets.first().copied().unwrap_or(-1);
        return (partition.error_code, -1, offset);
    }
    (partition.error_code, partition.timestamp, partition.offset)
}

/// The log end offset of a partition.
pub fn log_end_offset(client: &mut Client, topic: &str, partition: i32) -> i64 {
    let (error_code, _, offset) = list_offset(client, 1, topic, partition, -1);
    assert_eq!(error_code, 0, "ListOffsets of {topic}-{partition}");
    offset
}
