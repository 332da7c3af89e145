//! The producing connections: frames out, answers in, every answer judged.
//!
//! Each connection has one task with a writer and a reader that share its window. A frame goes out
//! as it lies in the pool (large) or gathered with what else may go (small); nothing is encoded, but for
//! loads that ask for it (`Build::Each`). Sequences and times are patched in (`patch`).

mod check;
mod lateness;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Instant;

use crate::client::{Client, Inbox, accept};
use crate::failure::Failure;
use crate::frames::{self, parse_produce};
use crate::patch::Fields;
use crate::phase::{Counted, Limit, Pending, Phase, Window, wait_until};
use crate::progress;
use crate::records::{Form, Sent};
use crate::schedule::{Pace, Schedule};
use crate::transport::{Connection, Transport};
use crate::verify::{Catalog, Ledger};
use crate::workload::{self, Build, Workload};

pub(crate) use check::Verified;
use lateness::{Lateness, STALL};

/// Frames up to here are gathered into one write; larger ones would only be copied.
const GATHER_FRAME_BYTES_MAX: usize = 4 << 10;
/// One write of gathered frames.
const GATHER_BYTES_MAX: usize = 64 << 10;

/// The times at which a connection's requests were meant to leave, in order.
pub(crate) type Times = Rc<RefCell<Vec<Instant>>>;

/// All producing connections of a run, and what they have sent so far.
pub(crate) struct Producers<T: Transport> {
    address: SocketAddr,
    workload: Rc<Workload>,
    /// If brokers store the bytes as they are sent.
    catalog: Option<Rc<Catalog>>,
    records: Rc<Vec<Vec<Vec<Sent>>>>,
    ledgers: Rc<RefCell<Vec<Ledger>>>,
    /// Where the logs ended before the first request.
    begin_offsets: Vec<i64>,
    producers: Vec<Producer<T::Connection>>,
    phases: u64,
    /// Bytes of batches that were sent.
    bytes: Rc<Cell<u64>>,
    /// What stamps count from.
    epoch: Instant,
    /// The phase under way, or that failed or was given up.
    running: Option<Rc<Phase>>,
}

struct Producer<C> {
    number: usize,
    connection: C,
    inbox: Inbox,
    /// The pool, as whole requests; one slot if each is built when it is due.
    frames: Vec<Vec<u8>>,
    /// What is patched into them; empty if nothing is.
    fields: Vec<Rc<Fields>>,
    /// Where the batch begins in each.
    batch_at: usize,
    /// The mean.
    batch_bytes: usize,
    form: Form,
    sent: u64,
    answered: u64,
    times: Option<Times>,
}

impl<T: Transport> Producers<T> {
    /// Makes the topic, the batches and the connections.
    pub(crate) async fn connect(
        client: &mut Client<T::Connection>,
        address: SocketAddr,
        workload: &Workload,
    ) -> Result<Self, Failure> {
        workload.check()?;
        client.check_produce(workload.produce_version)?;
        client
            .create_topic(&workload.topic, workload.partitions)
            .await?;
        let begin_offsets = client
            .log_end_offsets(&workload.topic, workload.partitions)
            .await?;
        let records = workload.records();
        let mut forms = vec![workload.form(); workload.connections];
        if workload.idempotent {
            for form in &mut forms {
                let (id, epoch) = client.init_producer_id().await?;
                form.producer = Some((id, epoch, 0));
            }
        }
        let pools = workload::encode(&records, |connection| forms[connection])?;
        let catalog = workload.keeps_bytes().then(|| Catalog::new(&pools));
        // Two equal batches cannot be told apart by their bytes: then places are kept instead.
        let catalog = catalog.flatten().map(Rc::new);
        if catalog.is_none() && workload.verify && workload.acks == 0 {
            workload.check_sole_writers()?;
        }
        let mut producers = Vec::new();
        for ((number, pool), form) in pools.into_iter().enumerate().zip(forms) {
            let connection = T::connect(address).await;
            let connection =
                connection.map_err(Failure::system(format!("connecting to {address}")))?;
            producers.push(Producer::new(number, connection, workload, pool, form));
        }
        let keep_places = catalog.is_none() && workload.verify;
        let ledger = |(partition, end): (usize, &i64)| {
            let ledger = Ledger::new(partition, *end);
            if keep_places {
                ledger.keeping_places()
            } else {
                ledger
            }
        };
        Ok(Self {
            address,
            workload: Rc::new(workload.clone()),
            catalog,
            records: Rc::new(records),
            ledgers: Rc::new(RefCell::new(
                begin_offsets.iter().enumerate().map(ledger).collect(),
            )),
            begin_offsets,
            producers,
            phases: 0,
            bytes: Rc::default(),
            epoch: Instant::now(),
            running: None,
        })
    }

    /// Sends until `limit`, and waits for all answers.
    pub(crate) async fn phase(&mut self, limit: Limit) -> Result<Counted, Failure> {
        self.phases += 1;
        let phase = Phase::begin(limit);
        progress::follow(&phase);
        self.running = Some(Rc::clone(&phase));
        let mut tasks = Vec::new();
        for mut producer in self.producers.drain(..) {
            let shared = Shared {
                phase: Rc::clone(&phase),
                workload: Rc::clone(&self.workload),
                records: Rc::clone(&self.records),
                ledgers: Rc::clone(&self.ledgers),
                bytes: Rc::clone(&self.bytes),
                epoch: self.epoch,
            };
            let seed = self.workload.seed.wrapping_add(self.phases);
            tasks.push(tokio::task::spawn_local(async move {
                let workload = &shared.workload;
                let schedule =
                    Schedule::new(workload.pace, producer.number, workload.connections, seed);
                let result = producer.run(&shared, schedule).await;
                if result.is_err() {
                    shared.phase.stop();
                }
                result.map(|()| producer)
            }));
        }
        self.producers = phase.join(tasks).await?;
        self.running = None;
        Ok(phase.counted())
    }

    /// Bytes of all batches that were sent so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Bytes of a batch, as the mean over the first connection's round.
    pub(crate) fn batch_bytes(&self) -> usize {
        let first = self.producers.first();
        first.map_or(0, |producer| producer.batch_bytes)
    }

    /// What was counted by the phase that failed, or was given up, once.
    pub(crate) fn take_partial(&mut self) -> Option<Counted> {
        let phase = self.running.take()?;
        phase.stop();
        Some(phase.counted())
    }

    /// What stamps count from.
    pub(crate) fn epoch(&self) -> Instant {
        self.epoch
    }

    /// Where the logs ended before the first request.
    pub(crate) fn begin_offsets(&self) -> &[i64] {
        &self.begin_offsets
    }

    /// Batches that were sent so far.
    pub(crate) fn batches(&self) -> u64 {
        self.producers.iter().map(|producer| producer.sent).sum()
    }

    /// From now on each connection notes when its requests were meant to leave.
    pub(crate) fn note_times(&mut self) -> Vec<Times> {
        let note = |producer: &mut Producer<_>| {
            let times = Times::default();
            producer.times = Some(Rc::clone(&times));
            times
        };
        self.producers.iter_mut().map(note).collect()
    }
}

/// What the connections of a phase share.
struct Shared {
    phase: Rc<Phase>,
    workload: Rc<Workload>,
    records: Rc<Vec<Vec<Vec<Sent>>>>,
    ledgers: Rc<RefCell<Vec<Ledger>>>,
    bytes: Rc<Cell<u64>>,
    epoch: Instant,
}

impl<C: Connection> Producer<C> {
    fn new(
        number: usize,
        connection: C,
        workload: &Workload,
        pool: Vec<Vec<u8>>,
        form: Form,
    ) -> Self {
        let place = workload.place_of(number);
        let frame = |batch: &Vec<u8>| {
            let version = workload.produce_version;
            frames::produce_frame(version, (&workload.topic, place), workload.acks, batch)
        };
        let mut frames: Vec<_> = pool.iter().map(frame).collect();
        let batch_at = frames.first().map_or(0, Vec::len) - pool.first().map_or(0, Vec::len);
        let mut fields: Vec<Rc<Fields>> = Vec::new();
        if workload.build == Build::Each {
            frames.truncate(1);
        } else if workload.idempotent || workload.stamped {
            let mut shapes: Vec<Rc<Fields>> = Vec::new();
            for batch in &pool {
                let known = shapes.iter().find(|fields| fields.fit(batch)).cloned();
                fields.push(known.unwrap_or_else(|| {
                    let fields = Fields::of(batch, workload.idempotent, workload.stamped);
                    let fields = Rc::new(fields);
                    shapes.push(Rc::clone(&fields));
                    fields
                }));
            }
        }
        Self {
            number,
            connection,
            inbox: Inbox::new(16 << 10),
            frames,
            fields,
            batch_at,
            batch_bytes: pool.iter().map(Vec::len).sum::<usize>() / pool.len().max(1),
            form,
            sent: 0,
            answered: 0,
            times: None,
        }
    }

    async fn run(&mut self, shared: &Shared, schedule: Schedule) -> Result<(), Failure> {
        let workload = &shared.workload;
        let window = Window::new(workload.in_flight);
        let writer = Writer {
            number: self.number,
            connection: &self.connection,
            frames: &mut self.frames,
            fields: &self.fields,
            batch_at: self.batch_at,
            form: self.form,
            sent: &mut self.sent,
            times: self.times.as_ref(),
            shared,
            window: &window,
            answers: workload.acks != 0,
        };
        let reader = Answers {
            number: self.number,
            connection: &self.connection,
            inbox: &mut self.inbox,
            answered: &mut self.answered,
            phase: &shared.phase,
            window: &window,
        };
        // What was answered already makes room before the writer looks for some.
        tokio::try_join!(
            biased;
            reader.read(workload, &shared.ledgers),
            writer.write(schedule)
        )?;
        Ok(())
    }
}

struct Writer<'a, C> {
    number: usize,
    connection: &'a C,
    frames: &'a mut Vec<Vec<u8>>,
    fields: &'a [Rc<Fields>],
    batch_at: usize,
    form: Form,
    sent: &'a mut u64,
    times: Option<&'a Times>,
    shared: &'a Shared,
    window: &'a Window,
    answers: bool,
}

impl<C: Connection> Writer<'_, C> {
    async fn write(mut self, mut schedule: Schedule) -> Result<(), Failure> {
        let mut gathered = Vec::new();
        let mut lateness = Lateness::default();
        let phase = Rc::clone(&self.shared.phase);
        loop {
            let intended = schedule.intended().map(|time| phase.began() + time);
            let now = self.may_leave(intended, &mut lateness).await;
            if !phase.may_send(intended.unwrap_or(now)) {
                break;
            }
            let due = intended.map_or(now, |intended| lateness.due(intended, now));
            schedule.advance();
            let place = self.number_frame(intended, due, now)?;

            if self.frames[place].len() <= GATHER_FRAME_BYTES_MAX {
                gathered.extend_from_slice(&self.frames[place]);
                let next = schedule.intended().map(|time| phase.began() + time);
                let more = next.is_none_or(|next| next <= now) && self.window.has_room();
                if more && self.answers && gathered.len() < GATHER_BYTES_MAX {
                    continue;
                }
                gathered = self.send(gathered, &mut lateness).await?;
                gathered.clear();
            } else {
                let frame = std::mem::take(&mut self.frames[place]);
                self.frames[place] = self.send(frame, &mut lateness).await?;
            }
            if !self.answers {
                phase.answered(None);
            }
        }
        if !gathered.is_empty() {
            self.send(gathered, &mut lateness).await?;
        }
        self.window.close();
        Ok(())
    }

    /// Waits until the next request is due and has room.
    async fn may_leave(&self, intended: Option<Instant>, lateness: &mut Lateness) -> Instant {
        if let Some(intended) = intended {
            let waits = Instant::now() < intended;
            wait_until(self.connection, intended).await;
            // Who slept too long has not seen the answers that came meanwhile.
            if waits && !self.window.has_room() && intended.elapsed() > STALL {
                self.connection.turn().await;
            }
        }
        let had_room = self.window.has_room();
        self.window.room().await;
        let now = Instant::now();
        if !had_room {
            lateness.held_until(now, intended.unwrap_or(now));
        }
        now
    }

    /// Makes the frame whose turn it is ready, and notes it as under way.
    fn number_frame(
        &mut self,
        intended: Option<Instant>,
        due: Instant,
        now: Instant,
    ) -> Result<usize, Failure> {
        let number = *self.sent;
        let intended = intended.unwrap_or(now);
        let place = if self.shared.workload.build == Build::Each {
            self.build(number, intended)?;
            0
        } else {
            let round = self.frames.len() as u64;
            let place = usize::try_from(number % round).expect("below the pool's length");
            if let Some(fields) = self.fields.get(place) {
                let (sequence, stamp) = (self.sequence(number), self.stamp(intended));
                let batch = &mut self.frames[place][self.batch_at..];
                fields.set_sequence(batch, sequence);
                fields.set_stamp(batch, stamp);
            }
            place
        };
        let correlation_id = i32::try_from(number % (1 << 31)).expect("below 2^31");
        frames::set_correlation_id(&mut self.frames[place], correlation_id);
        *self.sent += 1;
        let bytes = &self.shared.bytes;
        bytes.set(bytes.get() + (self.frames[place].len() - self.batch_at) as u64);
        if let Some(times) = self.times {
            times.borrow_mut().push(intended);
        }
        self.shared.phase.sent(due, now);
        if self.answers {
            self.window.push(Pending {
                correlation_id,
                intended,
                sent: now,
            });
        }
        Ok(place)
    }

    /// Builds the frame as a client does, when it is due.
    fn build(&mut self, number: u64, intended: Instant) -> Result<(), Failure> {
        let shared = self.shared;
        let workload = &shared.workload;
        let round = &shared.records[self.number];
        let place = usize::try_from(number % round.len() as u64).expect("below the round's length");
        let mut form = self.form;
        form.stamp = form.stamp.map(|_| self.stamp(intended));
        form.producer = form
            .producer
            .map(|(id, epoch, _)| (id, epoch, self.sequence(number)));
        let batch = form.encode(&round[place]);
        let batch = batch.map_err(|error| Failure::Usage(error.to_string()))?;
        let to = (&workload.topic[..], workload.place_of(self.number));
        self.frames[0] = frames::produce_frame(form.produce_version, to, workload.acks, &batch);
        Ok(())
    }

    /// Of the first record of a batch: sequences wrap from `i32::MAX` to 0.
    fn sequence(&self, number: u64) -> i32 {
        let records = number * self.shared.workload.records_per_batch as u64;
        i32::try_from(records % (1 << 31)).expect("below 2^31")
    }

    fn stamp(&self, intended: Instant) -> u64 {
        let since = intended.saturating_duration_since(self.shared.epoch);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Writes; if the socket had no room for it, what is due meanwhile is late by the broker's doing.
    async fn send(&self, bytes: Vec<u8>, lateness: &mut Lateness) -> Result<Vec<u8>, Failure> {
        let is_paced = self.shared.workload.pace != Pace::Closed;
        let mut write = pin!(self.connection.write_all(bytes));
        // A write that the kernel takes at once ends with this turn at the latest.
        let at_once = tokio::select! {
            biased;
            written = &mut write => Some(written),
            () = self.connection.turn(), if is_paced => None,
        };
        let (written, bytes) = match at_once {
            Some(written) => written,
            None => {
                let written = write.await;
                lateness.written_at(Instant::now());
                written
            }
        };
        written.map_err(Failure::system("writing to the broker"))?;
        Ok(bytes)
    }
}

struct Answers<'a, C> {
    number: usize,
    connection: &'a C,
    inbox: &'a mut Inbox,
    answered: &'a mut u64,
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
            let base_offset = answer.base_offset;
            {
                let ledger = &mut ledgers.borrow_mut()[partition];
                ledger.acknowledge(self.number, base_offset, count)?;
                ledger.place(self.number, *self.answered, base_offset);
            }
            *self.answered += 1;
            self.phase.answered(Some((pending.intended, pending.sent)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
