//! Produce (0), versions 0-11: appends records to partitions.
//!
//! - 0-1: message sets of magic 0 and 1. 2: message sets of magic 1, log append time in the answer
//!   (KIP-32). 3: one record batch of magic 2 per partition, transactional id (KIP-98).
//!   5: log start offset. 7: zstd (KIP-110). 8: record errors and message (KIP-467).
//!   9: flexible. 10: leader hints (KIP-951). 11: transactions, part 2 (KIP-890).
//!
//! First half, in the order of the connection: the appends. Second half, while later requests
//! go on: with acks=all the wait until they are durable.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use futures_channel::oneshot;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse};
use kafka_protocol::protocol::StrBytes;
use ringlog_engine::journal::Lsn;

use crate::dispatch::{Answer, Call, Handled, Refused};
use crate::net::response::Response;
use crate::partition::{AppendError, Origin, Outcome};
use crate::shard::Shard;

/// Of a request: only the leader, all replicas in sync, nobody.
const ACKS_LEADER: i16 = 1;
const ACKS_ALL: i16 = -1;
const ACKS_NONE: i16 = 0;

/// The records for one partition, and where its answer goes.
struct Work {
    topic_slot: usize,
    partition_slot: usize,
    topic: StrBytes,
    index: i32,
    records: Option<Bytes>,
}

struct Done {
    topic_slot: usize,
    partition_slot: usize,
    result: Result<(Outcome, i64), AppendError>,
}

/// The appends of one shard: done, or on their way.
enum Part {
    Here(Vec<Done>, Option<Lsn>),
    There(oneshot::Receiver<Vec<Done>>),
}

pub(crate) fn handle(call: Call) -> Handled {
    Box::pin(produce(call))
}

async fn produce(call: Call) -> Result<Answer, Refused> {
    let mut request: ProduceRequest = call.decode()?;
    let (acks, version) = (request.acks, call.request.version);
    let mut response = skeleton(&request);
    let parts = if matches!(acks, ACKS_ALL | ACKS_NONE | ACKS_LEADER) {
        let plan = plan(&call.shard, &mut request);
        append_all(&call.shard, plan, acks, version).await
    } else {
        refuse_all(&mut response, ResponseError::InvalidRequiredAcks);
        Vec::new()
    };
    if acks == ACKS_NONE {
        return without_answer(parts, &mut response).await;
    }
    if let [Part::Here(_, None)] | [] = &parts[..] {
        fill(&call.shard, parts, &mut response).await;
        return call.ready(&response);
    }
    let shard = call.shard.clone();
    Ok(Answer::Later(Box::pin(async move {
        fill(&shard, parts, &mut response).await;
        Response::encode(&response, version)
            .map_err(|error| log::error!("produce: {error}"))
            .ok()
    })))
}

/// The answer with its places, one for each partition asked.
fn skeleton(request: &ProduceRequest) -> ProduceResponse {
    let topics = request.topic_data.iter().map(|topic| {
        let partitions = topic.partition_data.iter().map(|partition| {
            PartitionProduceResponse::default()
                .with_index(partition.index)
                .with_base_offset(-1)
        });
        TopicProduceResponse::default()
            .with_name(topic.name.clone())
            .with_partition_responses(partitions.collect())
    });
    ProduceResponse::default().with_responses(topics.collect())
}

fn refuse_all(response: &mut ProduceResponse, error: ResponseError) {
    for topic in &mut response.responses {
        for partition in &mut topic.partition_responses {
            partition.error_code = error.code();
        }
    }
}

/// The work of each shard, in the order of the request.
fn plan(shard: &Shard, request: &mut ProduceRequest) -> BTreeMap<usize, Vec<Work>> {
    let mut plan: BTreeMap<usize, Vec<Work>> = BTreeMap::new();
    for (topic_slot, topic) in request.topic_data.iter_mut().enumerate() {
        for (partition_slot, partition) in topic.partition_data.iter_mut().enumerate() {
            let owner = shard.owner(&topic.name, partition.index);
            plan.entry(owner).or_default().push(Work {
                topic_slot,
                partition_slot,
                topic: topic.name.0.clone(),
                index: partition.index,
                records: partition.records.take(),
            });
        }
    }
    plan
}

async fn append_all(
    shard: &Rc<Shard>,
    plan: BTreeMap<usize, Vec<Work>>,
    acks: i16,
    version: i16,
) -> Vec<Part> {
    let mut parts = Vec::with_capacity(plan.len());
    for (owner, work) in plan {
        if owner == shard.id {
            let (done, lsn) = append_here(shard, work, acks, version).await;
            parts.push(Part::Here(done, lsn));
        } else {
            let job = move |shard: Rc<Shard>| async move {
                let (mut done, lsn) = append_here(&shard, work, acks, version).await;
                wait_durable(&shard, &mut done, lsn).await;
                done
            };
            shard.count_hop(owner);
            parts.push(Part::There(shard.post(owner, job).await));
        }
    }
    parts
}

/// Appends on the shard that owns the partitions. The position is what acks=all waits for.
async fn append_here(
    shard: &Rc<Shard>,
    work: Vec<Work>,
    acks: i16,
    version: i16,
) -> (Vec<Done>, Option<Lsn>) {
    let mut done = Vec::with_capacity(work.len());
    let mut newest = None;
    for Work {
        topic_slot,
        partition_slot,
        topic,
        index,
        records,
    } in work
    {
        let result = append_one(shard, &topic, index, records, acks, version).await;
        if let Ok((outcome, _)) = &result
            && acks == ACKS_ALL
        {
            newest = newest.max(outcome.lsn);
        }
        done.push(Done {
            topic_slot,
            partition_slot,
            result,
        });
    }
    (done, newest)
}

async fn append_one(
    shard: &Rc<Shard>,
    topic: &str,
    index: i32,
    records: Option<Bytes>,
    acks: i16,
    version: i16,
) -> Result<(Outcome, i64), AppendError> {
    let Some(partition) = shard.partition_when_open(topic, index).await else {
        let known = shard
            .image()
            .topic(topic)
            .is_some_and(|topic| index < topic.partitions);
        let error = if known && index >= 0 {
            ResponseError::NotLeaderOrFollower
        } else {
            ResponseError::UnknownTopicOrPartition
        };
        return Err(AppendError {
            error,
            message: error.to_string(),
        });
    };
    let config = partition.topic().config.clone();
    if acks == ACKS_ALL && config.min_insync_replicas > 1 {
        let message = format!(
            "min.insync.replicas is {}, but there is one replica",
            config.min_insync_replicas
        );
        return Err(AppendError {
            error: ResponseError::NotEnoughReplicas,
            message,
        });
    }
    let records = records.unwrap_or_default();
    let outcome = partition
        .append(shard, records, Origin::Client { version })
        .await?;
    Ok((outcome, partition.log.log_start_offset()))
}

async fn wait_durable(shard: &Shard, done: &mut [Done], lsn: Option<Lsn>) {
    let Some(lsn) = lsn else { return };
    if let Err(reason) = shard.durable(lsn).await {
        for one in done.iter_mut().filter(|one| one.result.is_ok()) {
            let message = reason.0.clone();
            one.result = Err(AppendError {
                error: ResponseError::KafkaStorageError,
                message,
            });
        }
    }
}

async fn fill(shard: &Rc<Shard>, parts: Vec<Part>, response: &mut ProduceResponse) {
    for part in parts {
        let done = match part {
            Part::Here(mut done, lsn) => {
                wait_durable(shard, &mut done, lsn).await;
                done
            }
            // The shard has stopped: the client asks again, somewhere else or later.
            Part::There(result) => match result.await {
                Ok(done) => done,
                Err(_) => return refuse_all(response, ResponseError::NotLeaderOrFollower),
            },
        };
        for Done {
            topic_slot,
            partition_slot,
            result,
        } in done
        {
            let place = &mut response.responses[topic_slot].partition_responses[partition_slot];
            match result {
                Ok((outcome, log_start_offset)) => {
                    place.base_offset = outcome.base_offset;
                    place.log_append_time_ms = outcome.log_append_time;
                    place.log_start_offset = log_start_offset;
                }
                Err(AppendError { error, message }) => {
                    place.error_code = error.code();
                    place.log_append_time_ms = -1;
                    place.log_start_offset = -1;
                    place.error_message = Some(StrBytes::from_string(message));
                }
            }
        }
    }
}

/// acks=0 has no answer; as in Kafka, an error closes the connection, so that the producer looks
/// for newer metadata.
async fn without_answer(
    parts: Vec<Part>,
    response: &mut ProduceResponse,
) -> Result<Answer, Refused> {
    for part in parts {
        let done = match part {
            Part::Here(done, _) => done,
            Part::There(result) => result.await.unwrap_or_default(),
        };
        for Done {
            topic_slot,
            partition_slot,
            result,
        } in done
        {
            if let Err(AppendError { error, message }) = result {
                let topic = &response.responses[topic_slot];
                let index = topic.partition_responses[partition_slot].index;
                let name = topic.name.as_str();
                return Err(Refused(format!(
                    "produce with acks=0 to {name}-{index} failed: {error} ({message})"
                )));
            }
        }
    }
    Ok(Answer::None)
}
