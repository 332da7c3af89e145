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
use futures_util::future;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse};
use kafka_protocol::protocol::StrBytes;
use ringlog_engine::journal::Lsn;

use crate::dispatch::{Answer, Call, Handled, Refused};
use crate::metrics::trace::{Stage, Stamp, Trace, stamp};
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
    There(oneshot::Receiver<(Vec<Done>, Vec<Stamp>)>),
}

/// What holds for all appends of a request.
#[derive(Clone, Copy)]
struct Terms<'a> {
    acks: i16,
    version: i16,
    trace: Option<&'a Trace>,
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
        let terms = Terms {
            acks,
            version,
            trace: call.trace.as_deref(),
        };
        append_all(&call.shard, plan, terms).await
    } else {
        refuse_all(&mut response, ResponseError::InvalidRequiredAcks);
        Vec::new()
    };
    if acks == ACKS_NONE {
        return without_answer(parts, &mut response).await;
    }
    if let [Part::Here(_, None)] | [] = &parts[..] {
        fill(&call.shard, parts, &mut response, None).await;
        return call.ready(&response);
    }
    let (shard, trace) = (call.shard.clone(), call.trace.clone());
    if let Some(trace) = &trace {
        watch_journal(&shard, &parts, trace);
    }
    Ok(Answer::Later(Box::pin(async move {
        fill(&shard, parts, &mut response, trace.as_deref()).await;
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
    terms: Terms<'_>,
) -> Vec<Part> {
    let mut parts = Vec::with_capacity(plan.len());
    for (owner, work) in plan {
        if owner == shard.id {
            let (done, lsn) = append_here(shard, work, terms).await;
            stamp(terms.trace, Stage::Append, &shard.io);
            parts.push(Part::Here(done, lsn));
        } else {
            shard.count_hop(owner);
            stamp(terms.trace, Stage::Append, &shard.io);
            parts.push(Part::There(append_there(shard, owner, work, terms).await));
        }
    }
    parts
}

async fn append_there(
    shard: &Rc<Shard>,
    owner: usize,
    work: Vec<Work>,
    terms: Terms<'_>,
) -> oneshot::Receiver<(Vec<Done>, Vec<Stamp>)> {
    let Terms { acks, version, .. } = terms;
    let is_sampled = terms.trace.is_some();
    let job = move |shard: Rc<Shard>| async move {
        let trace = Trace::away(is_sampled, &shard.io);
        let terms = Terms {
            acks,
            version,
            trace: trace.as_ref(),
        };
        let (mut done, lsn) = append_together(&shard, work, terms).await;
        stamp(trace.as_ref(), Stage::Append, &shard.io);
        if lsn.is_some() {
            wait_durable(&shard, &mut done, lsn).await;
            stamp(trace.as_ref(), Stage::Journal, &shard.io);
        }
        (done, Trace::stamps(trace))
    };
    shard.post(owner, job).await
}

/// Notes when the appends of a sampled request are durable: its answer may ask later, behind others.
fn watch_journal(shard: &Rc<Shard>, parts: &[Part], trace: &Rc<Trace>) {
    for part in parts {
        if let Part::Here(_, Some(lsn)) = part {
            let (shard, trace, lsn) = (shard.clone(), trace.clone(), *lsn);
            shard.io.clone().spawn(async move {
                // That it is lost is the answer's to tell.
                let _ = shard.durable(lsn).await;
                trace.durable(shard.io.instant());
            });
        }
    }
}

/// The same as [`append_here`] where later requests of the connection come meanwhile: each append takes its
/// ticket at once, so that they overtake it at no partition.
async fn append_together(
    shard: &Rc<Shard>,
    work: Vec<Work>,
    terms: Terms<'_>,
) -> (Vec<Done>, Option<Lsn>) {
    if work.len() == 1 {
        return append_here(shard, work, terms).await;
    }
    let each = work
        .into_iter()
        .map(|one| append_here(shard, vec![one], terms));
    let each = future::join_all(each).await;
    let newest = each.iter().filter_map(|(_, lsn)| *lsn).max();
    (
        each.into_iter().flat_map(|(done, _)| done).collect(),
        newest,
    )
}

/// Appends on the shard that owns the partitions, one after the other. The position is what acks=all
/// waits for.
async fn append_here(
    shard: &Rc<Shard>,
    work: Vec<Work>,
    terms: Terms<'_>,
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
        let result = append_one(shard, &topic, index, records, terms).await;
        if let Ok((outcome, _)) = &result
            && terms.acks == ACKS_ALL
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
    terms: Terms<'_>,
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
    if terms.acks == ACKS_ALL && config.min_insync_replicas > 1 {
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
    let version = terms.version;
    let outcome = partition
        .append(shard, records, Origin::Client { version }, terms.trace)
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

async fn fill(
    shard: &Rc<Shard>,
    parts: Vec<Part>,
    response: &mut ProduceResponse,
    trace: Option<&Trace>,
) {
    for part in parts {
        let done = match part {
            Part::Here(mut done, lsn) => {
                wait_durable(shard, &mut done, lsn).await;
                if let (Some(trace), true) = (trace, lsn.is_some()) {
                    trace.durable(shard.io.instant());
                }
                done
            }
            // The shard has stopped: the client asks again, somewhere else or later.
            Part::There(result) => match come_back(shard, result, trace).await {
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

/// What another shard has done. Its way back counts if it was waited for: else earlier answers were.
async fn come_back(
    shard: &Rc<Shard>,
    mut result: oneshot::Receiver<(Vec<Done>, Vec<Stamp>)>,
    trace: Option<&Trace>,
) -> Result<Vec<Done>, oneshot::Canceled> {
    let Some(trace) = trace else {
        return result.await.map(|(done, _)| done);
    };
    let (done, stamps) = match result.try_recv()? {
        Some((done, stamps)) => {
            trace.back(stamps);
            return Ok(done);
        }
        None => result.await?,
    };
    trace.back(stamps);
    trace.stamp(Stage::Hop, shard.io.instant());
    Ok(done)
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
            Part::There(result) => result.await.unwrap_or_default().0,
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
