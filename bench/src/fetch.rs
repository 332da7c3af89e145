//! The fetching connections: one request in flight each, every batch walked and compared in place.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use crate::client::{Inbox, accept};
use crate::failure::Failure;
use crate::frames::{FetchFrame, parse_fetch};
use crate::phase::{Counted, Limit, Phase};
use crate::transport::{Connection, Transport};
use crate::verify::{Content, LogCheck, Violation};

/// What consumers ask for by default (`max.partition.fetch.bytes`).
pub(crate) const FETCH_BYTES_MAX: i32 = 1 << 20;
/// Larger answers would not fit the generator's largest frame.
pub(crate) const FETCH_BYTES_LIMIT: i32 = 64 << 20;
/// Empty answers in a row, each after up to 500 ms, before the rest of a log counts as lost.
const EMPTY_ANSWERS_MAX: u32 = 40;

/// Reads one partition.
pub(crate) struct Reader<T: Transport> {
    connection: T::Connection,
    inbox: Inbox,
    frame: FetchFrame,
    partition: usize,
    correlation_id: i32,
}

impl<T: Transport> Reader<T> {
    /// A connection for `partition` of `topic`.
    pub(crate) async fn connect(
        address: SocketAddr,
        topic: &str,
        partition: usize,
        bytes_max: i32,
    ) -> Result<Self, Failure> {
        let connection = T::connect(address).await;
        let index = i32::try_from(partition).expect("checked against its limit");
        Ok(Self {
            connection: connection.map_err(Failure::system(format!("connecting to {address}")))?,
            inbox: Inbox::new(2 << 20),
            frame: FetchFrame::new(topic, index, bytes_max),
            partition,
            correlation_id: 0,
        })
    }

    /// Reads on until offset `end`; `observe` gets the times of each request and its answer.
    pub(crate) async fn read_log(
        &mut self,
        check: &mut LogCheck,
        end: i64,
        content: Option<&Content>,
        mut observe: impl FnMut(Instant, bool),
    ) -> Result<(), Failure> {
        let mut empty_answers = 0;
        while check.next_offset() < end {
            self.correlation_id = self.correlation_id.wrapping_add(1) & i32::MAX;
            let request = self.frame.take(self.correlation_id, check.next_offset());
            let sent = Instant::now();
            observe(sent, false);
            let (written, request) = self.connection.write_all(request).await;
            self.frame.restore(request);
            written.map_err(Failure::system("writing to the broker"))?;
            let Some(frame) = self.inbox.next(&self.connection).await? else {
                return Err(Failure::Closed {
                    connection: format!("of partition {}", self.partition),
                    in_flight: 1,
                });
            };
            observe(sent, true);
            let answer = parse_fetch(self.inbox.bytes(frame))?;
            if answer.correlation_id != self.correlation_id {
                let what = format!(
                    "an answer to request {}, out of turn",
                    answer.correlation_id
                );
                return Err(Failure::Protocol(what));
            }
            accept("Fetch", answer.error_code)?;
            let batches = check.read(answer.records, content, |_| {})?;
            if batches == 0 && !answer.records.is_empty() {
                let what = format!(
                    "{} bytes of records without the batch at offset {}",
                    answer.records.len(),
                    check.next_offset()
                );
                return Err(Failure::Protocol(what));
            }
            empty_answers = if batches == 0 { empty_answers + 1 } else { 0 };
            if empty_answers > EMPTY_ANSWERS_MAX {
                return Err(Failure::Violation(Violation::Lost {
                    partition: self.partition,
                    what: format!(
                        "nothing to fetch from offset {} to {end}; the high watermark is {}",
                        check.next_offset(),
                        answer.high_watermark
                    ),
                }));
            }
        }
        Ok(())
    }
}

/// What a hot fetch reads.
#[derive(Debug)]
pub(crate) struct FetchPlan {
    /// The topic, filled before.
    pub(crate) topic: String,
    /// Where the log of each partition begins and ends.
    pub(crate) ranges: Vec<(i64, i64)>,
    /// Connection `i` reads partition `i % partitions`.
    pub(crate) connections: usize,
    /// Bytes that one answer may have.
    pub(crate) bytes_max: i32,
    /// How often each connection reads its partition.
    pub(crate) passes: usize,
    /// What the batches must be; `None` only checks offsets.
    pub(crate) content: Option<Content>,
    /// Connections that wrote the topic.
    pub(crate) writers: usize,
}

/// What a hot fetch counted.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// Requests and times.
    pub(crate) counted: Counted,
    /// Records in whole batches.
    pub(crate) records: u64,
    /// Bytes of whole batches.
    pub(crate) batch_bytes: u64,
}

/// Reads everything `passes` times over all connections at once.
pub(crate) async fn fetch_all<T: Transport>(
    address: SocketAddr,
    plan: FetchPlan,
) -> Result<Fetched, Failure> {
    let mut readers = Vec::new();
    for connection in 0..plan.connections {
        let partition = connection % plan.ranges.len();
        readers.push(Reader::<T>::connect(address, &plan.topic, partition, plan.bytes_max).await?);
    }
    let plan = Rc::new(plan);
    let phase = Phase::begin(Limit {
        duration: None,
        requests: None,
    });
    let mut tasks = Vec::new();
    for reader in readers {
        let (phase, plan) = (Rc::clone(&phase), Rc::clone(&plan));
        tasks.push(tokio::task::spawn_local(async move {
            let result = read_passes(reader, &plan, &phase).await;
            if result.is_err() {
                phase.stop();
            }
            result
        }));
    }
    let read = phase.join(tasks).await?;
    Ok(Fetched {
        counted: phase.counted(),
        records: read.iter().map(|(records, _)| records).sum(),
        batch_bytes: read.iter().map(|(_, bytes)| bytes).sum(),
    })
}

async fn read_passes<T: Transport>(
    mut reader: Reader<T>,
    plan: &FetchPlan,
    phase: &Phase,
) -> Result<(u64, u64), Failure> {
    let (begin, end) = plan.ranges[reader.partition];
    let (mut records, mut bytes) = (0, 0);
    for _ in 0..plan.passes {
        let mut check = LogCheck::new(reader.partition, begin, plan.writers);
        let observe = |sent, answered| {
            if answered {
                phase.answered(Some((sent, sent)));
            } else {
                phase.sent(sent, sent);
            }
        };
        reader
            .read_log(&mut check, end, plan.content.as_ref(), observe)
            .await?;
        records += check.records();
        bytes += check.bytes();
    }
    Ok((records, bytes))
}
