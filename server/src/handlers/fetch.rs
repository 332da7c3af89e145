//! Fetch (1), versions 0-17: record batches from partitions, waiting for some if asked to.
//!
//! - 0-1: message sets of magic 0. 2-3: of magic 1; 3: `max_bytes`. 4: batches of magic 2,
//!   isolation level (KIP-98). 5: log start offset. 7: incremental sessions (KIP-227). 9: leader
//!   epochs (KIP-320). 11: rack (KIP-392). 12: flexible, diverging epochs (KIP-595). 13: topic ids
//!   (KIP-516). 15: replica state (KIP-903). 16: leader hints (KIP-951). 17: directory id.
//!
//! Records are not read: an answer carries slices of the segment files. Only the versions before 4
//! get them converted, in memory.

mod encode;
pub mod read;
pub mod session;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::FetchRequest;
use ringlog_engine::clock::Instant;
use ringlog_engine::record::conversion::{self, ConversionLimits};

use crate::dispatch::{Answer, Call, Handled, Refused};
use crate::metrics::trace::{Stage, Trace, stamp};
use crate::net::response::{Part, Response};
use crate::shard::Shard;
use encode::{PartitionAnswer, encode, encode_error};
use read::{Found, Read, read_here, wait_here};
use session::{Context, Wanted};

/// Most bytes that a compressed batch may unpack to on its way to an old client.
const DECOMPRESSED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What of the request outlives its decoding.
struct Terms {
    version: i16,
    max_bytes: u32,
    min_bytes: u64,
    deadline: Instant,
    /// The stamps of the request, if it is sampled.
    trace: Option<Rc<Trace>>,
}

pub(crate) fn handle(call: Call) -> Handled {
    Box::pin(async move { begin(&call) })
}

fn begin(call: &Call) -> Result<Answer, Refused> {
    let request: FetchRequest = call.decode()?;
    let version = call.request.version;
    let shard = call.shard.clone();
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let asked = if version >= 3 {
        request.max_bytes
    } else {
        i32::MAX
    };
    let terms = Terms {
        version,
        max_bytes: u32::try_from(asked)
            .unwrap_or(0)
            .min(shard.broker.config.network.fetch_bytes_max),
        min_bytes: u64::try_from(request.min_bytes).unwrap_or(0),
        deadline: shard.io.now() + wait,
        trace: call.trace.clone(),
    };
    let now = shard.io.now();
    let opened = shard
        .sessions
        .borrow_mut()
        .open(request, version, &shard.image(), now);
    let context = match opened {
        Ok(context) => context,
        Err(error) => return Ok(Answer::Ready(Some(encode_error(version, error)))),
    };
    stamp(terms.trace.as_deref(), Stage::Read, &shard.io);
    Ok(Answer::Later(Box::pin(async move {
        // Earlier answers of the connection went before.
        stamp(terms.trace.as_deref(), Stage::Reply, &shard.io);
        Some(fetch(&shard, context, &terms).await)
    })))
}

async fn fetch(shard: &Rc<Shard>, mut context: Context, terms: &Terms) -> Response {
    let found = loop {
        let found = read_all(shard, &context.wanted, terms).await;
        let bytes: u64 = found.iter().map(Found::bytes).sum();
        let failed = found.iter().any(|found| found.error.is_some());
        if failed
            || bytes >= terms.min_bytes
            || shard.io.now() >= terms.deadline
            || shard.is_stopping()
        {
            break found;
        }
        wait(shard, &context.wanted, &found, terms.deadline).await;
        stamp(terms.trace.as_deref(), Stage::Wait, &shard.io);
    };
    let mut answers = Vec::with_capacity(found.len());
    for (slot, found) in found.into_iter().enumerate() {
        if !context.is_news(slot, &found) {
            continue;
        }
        answers.push(answer(shard, slot, found, &context.wanted[slot], terms).await);
    }
    stamp(terms.trace.as_deref(), Stage::Read, &shard.io);
    let bytes: usize = answers.iter().map(PartitionAnswer::bytes).sum();
    let bytes_out = &shard.counters.bytes_out;
    bytes_out.set(bytes_out.get() + bytes as u64);
    let session_id = shard
        .sessions
        .borrow_mut()
        .close(&mut context, &answers, shard.io.now());
    encode(terms.version, session_id, &context.wanted, answers)
}

/// Reads all partitions, shard by shard, within the budget of the request.
async fn read_all(shard: &Rc<Shard>, wanted: &[Wanted], terms: &Terms) -> Vec<Found> {
    let mut plan: BTreeMap<usize, Vec<Read>> = BTreeMap::new();
    let mut found: Vec<Found> = Vec::with_capacity(wanted.len());
    for (slot, wanted) in wanted.iter().enumerate() {
        found.push(Found::failed(
            wanted.error.unwrap_or(ResponseError::NotLeaderOrFollower),
        ));
        if wanted.error.is_none() {
            let owner = shard.owner(&wanted.topic, wanted.index);
            plan.entry(owner).or_default().push(Read::new(slot, wanted));
        }
    }
    let mut budget = terms.max_bytes;
    let mut at_least_one = true;
    for (owner, reads) in plan {
        stamp(terms.trace.as_deref(), Stage::Read, &shard.io);
        let results = if owner == shard.id {
            read_here(shard, &reads, budget, at_least_one).await
        } else {
            let is_sampled = terms.trace.is_some();
            let job = move |shard: Rc<Shard>| async move {
                let trace = Trace::away(is_sampled, &shard.io);
                let found = read_here(&shard, &reads, budget, at_least_one).await;
                stamp(trace.as_ref(), Stage::Read, &shard.io);
                (found, Trace::stamps(trace))
            };
            shard.count_hop(owner);
            let (found, stamps) = shard.on(owner, job).await.unwrap_or_default();
            if let Some(trace) = &terms.trace {
                trace.back(stamps);
                trace.stamp(Stage::Hop, shard.io.instant());
            }
            found
        };
        for (slot, result) in results {
            let bytes = result.slice.as_ref().map_or(0, |slice| slice.length);
            budget = budget.saturating_sub(bytes);
            at_least_one &= bytes == 0;
            found[slot] = result;
        }
    }
    found
}

/// Waits until a high watermark has moved past what was seen, or the deadline.
async fn wait(shard: &Rc<Shard>, wanted: &[Wanted], found: &[Found], deadline: Instant) {
    let mut plan: BTreeMap<usize, Vec<(String, i32, i64)>> = BTreeMap::new();
    for (wanted, found) in wanted.iter().zip(found) {
        let owner = shard.owner(&wanted.topic, wanted.index);
        let seen = (wanted.topic.to_string(), wanted.index, found.looked_to);
        plan.entry(owner).or_default().push(seen);
    }
    if plan.is_empty() {
        shard.io.sleep_until(deadline).await;
        return;
    }
    let waits = plan.into_iter().map(|(owner, seen)| {
        let job = move |shard: Rc<Shard>| async move { wait_here(&shard, &seen, deadline).await };
        Box::pin(shard.on(owner, job))
    });
    // The waits on other shards end by themselves, at the deadline at the latest.
    // A shard that has stopped wakes us, too: the next read says what is wrong.
    let _ = future::select_all(waits).await;
}

async fn answer(
    shard: &Shard,
    slot: usize,
    found: Found,
    wanted: &Wanted,
    terms: &Terms,
) -> PartitionAnswer {
    let Found {
        error,
        high_watermark,
        log_start_offset,
        slice,
        looked_to: _,
    } = found;
    let mut answer = PartitionAnswer {
        slot,
        error,
        high_watermark,
        log_start_offset,
        records: None,
    };
    let Some(slice) = slice else { return answer };
    if terms.version >= 4 {
        answer.records = Some(Part::File(slice));
        return answer;
    }
    let magic = if terms.version >= 2 { 1 } else { 0 };
    let length = slice.length as usize;
    let converted = match shard
        .io
        .read_at(&slice.file, BytesMut::new(), slice.position, length)
        .await
    {
        Ok(bytes) => {
            let limits = ConversionLimits {
                bytes_max: length.max(terms.max_bytes as usize).saturating_mul(4),
                decompressed_bytes_max: DECOMPRESSED_BYTES_MAX,
            };
            conversion::down_convert(&bytes, magic, wanted.fetch_offset, &limits)
                .map_err(|error| error.code())
        }
        Err(error) => {
            log::error!("Fetch of {}-{}: {error}", wanted.topic, wanted.index);
            Err(ResponseError::KafkaStorageError.code())
        }
    };
    match converted {
        Ok(converted) => answer.records = Some(Part::Bytes(converted.messages.freeze())),
        Err(code) => answer.error = ResponseError::try_from_code(code),
    }
    answer
}
