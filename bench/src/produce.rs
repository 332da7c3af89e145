//! The producing connections: pre-built frames out, answers in, every answer judged.
//!
//! Each connection has one task with a writer and a reader that share its window. A frame goes out
//! as it lies in the pool (large) or gathered with what else may go (small); nothing is encoded.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use crate::client::{Client, Inbox, accept};
use crate::failure::Failure;
use crate::fetch::{FETCH_BYTES_MAX, Reader};
use crate::frames::{self, parse_produce};
use crate::phase::{Counted, Limit, Pending, Phase, Window, wait_until};
use crate::schedule::Schedule;
use crate::transport::{Connection, Transport};
use crate::verify::{Catalog, Ledger, LogCheck};
use crate::workload::{self, Workload};

/// Frames up to here are gathered into one write; larger ones would only be copied.
const GATHER_FRAME_BYTES_MAX: usize = 4 << 10;
/// One write of gathered frames.
const GATHER_BYTES_MAX: usize = 64 << 10;

/// All producing connections of a run, and what they have sent so far.
pub(crate) struct Producers<T: Transport> {
    address: SocketAddr,
    workload: Rc<Workload>,
    catalog: Rc<Catalog>,
    ledgers: Rc<RefCell<Vec<Ledger>>>,
    /// Where the logs ended before the first request.
    begin_offsets: Vec<i64>,
    producers: Vec<Producer<T::Connection>>,
    phases: u64,
}

struct Producer<C> {
    number: usize,
    connection: C,
    inbox: Inbox,
    /// The pool, as whole requests.
    frames: Vec<Vec<u8>>,
    sent: u64,
}

impl<T: Transport> Producers<T> {
    /// Makes the topic, the batches and the connections.
    pub(crate) async fn connect(
        client: &mut Client<T::Connection>,
        address: SocketAddr,
        workload: &Workload,
    ) -> Result<Self, Failure> {
        workload.check()?;
        client
            .create_topic(&workload.topic, workload.partitions)
            .await?;
        let begin_offsets = client
            .log_end_offsets(&workload.topic, workload.partitions)
            .await?;
        let catalog = Catalog::new(workload::pools(workload)?).ok_or_else(|| {
            Failure::Usage(format!(
                "seed {} gives two equal CRCs, take another",
                workload.seed
            ))
        })?;
        let mut producers = Vec::new();
        for (number, pool) in catalog.pools().iter().enumerate() {
            let connection = T::connect(address).await;
            let partition = workload.partition_of(number);
            let partition = i32::try_from(partition).expect("checked against its limit");
            let frame = |batch: &Vec<u8>| {
                frames::produce_frame(&workload.topic, partition, workload.acks, batch)
            };
            producers.push(Producer {
                number,
                connection: connection
                    .map_err(Failure::system(format!("connecting to {address}")))?,
                inbox: Inbox::new(16 << 10),
                frames: pool.iter().map(frame).collect(),
                sent: 0,
            });
        }
        let ledgers = begin_offsets.iter().enumerate();
        Ok(Self {
            address,
            workload: Rc::new(workload.clone()),
            catalog: Rc::new(catalog),
            ledgers: Rc::new(RefCell::new(
                ledgers
                    .map(|(partition, end)| Ledger::new(partition, *end))
                    .collect(),
            )),
            begin_offsets,
            producers,
            phases: 0,
        })
    }

    /// Sends until `limit`, and waits for all answers.
    pub(crate) async fn phase(&mut self, limit: Limit) -> Result<Counted, Failure> {
        self.phases += 1;
        let phase = Phase::begin(limit);
        let mut tasks = Vec::new();
        for mut producer in self.producers.drain(..) {
            let (phase, workload) = (Rc::clone(&phase), Rc::clone(&self.workload));
            let ledgers = Rc::clone(&self.ledgers);
            let seed = workload.seed.wrapping_add(self.phases);
            tasks.push(tokio::task::spawn_local(async move {
                let schedule =
                    Schedule::new(workload.pace, producer.number, workload.connections, seed);
                let result = producer.run(&phase, &workload, &ledgers, schedule).await;
                if result.is_err() {
                    phase.stop();
                }
                result.map(|()| producer)
            }));
        }
        self.producers = phase.join(tasks).await?;
        Ok(phase.counted())
    }

    /// Bytes of a connection's batches; all are equally long to a few bytes.
    pub(crate) fn batch_bytes(&self) -> usize {
        let pool = self.catalog.pools().first();
        pool.and_then(|pool| pool.first()).map_or(0, Vec::len)
    }

    /// What was sent, to recognise it in the log.
    pub(crate) fn catalog(&self) -> Rc<Catalog> {
        Rc::clone(&self.catalog)
    }

    /// Checks ends of logs, then reads them back whole. Gives the number of records compared.
    pub(crate) async fn verify(&self, client: &mut Client<T::Connection>) -> Result<u64, Failure> {
        let ends = self.settled_ends(client).await?;
        let topic = &self.workload.topic;
        let mut records = 0;
        for (partition, end) in ends.iter().enumerate() {
            let connections = self.producers.len();
            let mut check = LogCheck::new(partition, self.begin_offsets[partition], connections);
            let mut reader =
                Reader::<T>::connect(self.address, topic, partition, FETCH_BYTES_MAX).await?;
            reader
                .read_log(&mut check, *end, Some(&self.catalog), |_, _| {})
                .await?;
            let writes_here =
                |producer: &Producer<_>| self.workload.partition_of(producer.number) == partition;
            let sent = self.producers.iter();
            let sent = sent.map(|producer| {
                if writes_here(producer) {
                    producer.sent
                } else {
                    0
                }
            });
            check.finish(*end, &sent.collect::<Vec<_>>())?;
            records += check.records();
        }
        Ok(records)
    }

    /// Where the logs end; with acks=0 only waiting can tell that all is there.
    async fn settled_ends(&self, client: &mut Client<T::Connection>) -> Result<Vec<i64>, Failure> {
        let (topic, partitions) = (&self.workload.topic, self.workload.partitions);
        let mut ends = client.log_end_offsets(topic, partitions).await?;
        if self.workload.acks == 0 {
            let sent: u64 = self.producers.iter().map(|producer| producer.sent).sum();
            let records = sent * self.workload.records_per_batch as u64;
            let expected =
                self.begin_offsets.iter().sum::<i64>() + i64::try_from(records).unwrap_or(i64::MAX);
            for _ in 0..200 {
                if ends.iter().sum::<i64>() >= expected {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await; // a poll, at most 10 s
                ends = client.log_end_offsets(topic, partitions).await?;
            }
            return Ok(ends);
        }
        for (ledger, end) in self.ledgers.borrow().iter().zip(&ends) {
            let acknowledged = ledger.finish()?;
            if acknowledged != *end {
                let code = format!("acknowledged up to {acknowledged}, but the log ends at {end}");
                return Err(Failure::Violation(ledger.misfit(acknowledged < *end, code)));
            }
        }
        Ok(ends)
    }
}

impl<C: Connection> Producer<C> {
    async fn run(
        &mut self,
        phase: &Phase,
        workload: &Workload,
        ledgers: &RefCell<Vec<Ledger>>,
        schedule: Schedule,
    ) -> Result<(), Failure> {
        let window = Window::new(workload.in_flight);
        let writer = Writer {
            connection: &self.connection,
            frames: &mut self.frames,
            sent: &mut self.sent,
            phase,
            window: &window,
            answers: workload.acks != 0,
        };
        let reader = Answers {
            number: self.number,
            connection: &self.connection,
            inbox: &mut self.inbox,
            phase,
            window: &window,
        };
        tokio::try_join!(writer.write(schedule), reader.read(workload, ledgers))?;
        Ok(())
    }
}

struct Writer<'a, C> {
    connection: &'a C,
    frames: &'a mut Vec<Vec<u8>>,
    sent: &'a mut u64,
    phase: &'a Phase,
    window: &'a Window,
    answers: bool,
}

impl<C: Connection> Writer<'_, C> {
    async fn write(mut self, mut schedule: Schedule) -> Result<(), Failure> {
        let mut gathered = Vec::new();
        loop {
            let intended = schedule.intended().map(|time| self.phase.began() + time);
            if let Some(intended) = intended {
                wait_until(self.connection, intended).await;
            }
            let had_room = self.window.has_room();
            self.window.room().await;
            let now = Instant::now();
            if !self.phase.may_send(intended.unwrap_or(now)) {
                break;
            }
            // Only a request that had to wait for room is late by the broker's doing.
            let due = if had_room {
                intended.unwrap_or(now)
            } else {
                now
            };
            schedule.advance();
            let place = self.number_frame(intended, due, now);

            if self.frames[place].len() <= GATHER_FRAME_BYTES_MAX {
                gathered.extend_from_slice(&self.frames[place]);
                let next = schedule.intended().map(|time| self.phase.began() + time);
                let more = next.is_none_or(|next| next <= now) && self.window.has_room();
                if more && self.answers && gathered.len() < GATHER_BYTES_MAX {
                    continue;
                }
                gathered = self.send(gathered).await?;
                gathered.clear();
            } else {
                let frame = std::mem::take(&mut self.frames[place]);
                self.frames[place] = self.send(frame).await?;
            }
            if !self.answers {
                self.phase.answered(None);
            }
        }
        if !gathered.is_empty() {
            self.send(gathered).await?;
        }
        self.window.close();
        Ok(())
    }

    /// Patches the frame whose turn it is, and notes it as under way.
    fn number_frame(&mut self, intended: Option<Instant>, due: Instant, now: Instant) -> usize {
        let round = self.frames.len() as u64;
        let place = usize::try_from(*self.sent % round).expect("below the pool's length");
        let correlation_id = i32::try_from(*self.sent % (1 << 31)).expect("below 2^31");
        frames::set_correlation_id(&mut self.frames[place], correlation_id);
        *self.sent += 1;
        self.phase.sent(due, now);
        if self.answers {
            self.window.push(Pending {
                correlation_id,
                intended: intended.unwrap_or(now),
                sent: now,
            });
        }
        place
    }

    async fn send(&self, bytes: Vec<u8>) -> Result<Vec<u8>, Failure> {
        let (written, bytes) = self.connection.write_all(bytes).await;
        written.map_err(Failure::system("writing to the broker"))?;
        Ok(bytes)
    }
}

struct Answers<'a, C> {
    number: usize,
    connection: &'a C,
    inbox: &'a mut Inbox,
    phase: &'a Phase,
    window: &'a Window,
}

impl<C: Connection> Answers<'_, C> {
    async fn read(
        self,
        workload: &Workload,
        ledgers: &RefCell<Vec<Ledger>>,
    ) -> Result<(), Failure> {
        let partition = workload.partition_of(self.number);
        let count = i64::try_from(workload.records_per_batch).expect("checked against its limit");
        while self.window.owed().await {
            let Some(frame) = self.inbox.next(self.connection).await? else {
                return Err(Failure::Closed {
                    connection: self.number.to_string(),
                    in_flight: self.window.len(),
                });
            };
            let answer = parse_produce(self.inbox.bytes(frame))?;
            let pending = self.window.pop();
            let Some(pending) = pending.filter(|it| it.correlation_id == answer.correlation_id)
            else {
                let what = format!(
                    "an answer to request {}, out of turn",
                    answer.correlation_id
                );
                return Err(Failure::Protocol(what));
            };
            accept("Produce", answer.error_code)?;
            ledgers.borrow_mut()[partition].acknowledge(self.number, answer.base_offset, count)?;
            self.phase.answered(Some((pending.intended, pending.sent)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
