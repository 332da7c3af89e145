//! A shard of the broker: one pinned thread's partitions, groups and connections.
//!
//! Nothing in here is shared. Another shard's state is reached by sending it a job
//! ([`Shard::on`]), an async closure that runs there; jobs of one sender run in the order sent.
//!
//! Durability: an append goes to the partition's log and, in durable mode, into the shard's
//! journal. [`Shard::follow_journal`] moves the high watermarks when a journal group is durable,
//! and only then lets the answers go: what a consumer has seen, and what a producer was told, can
//! no longer be lost.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use futures_channel::{mpsc, oneshot};
use futures_util::{SinkExt, StreamExt};
use ringlog_engine::clock::Instant;
use ringlog_engine::io::Io;
use ringlog_engine::journal::{self, Journal, Lsn, Reservation};
use ringlog_engine::log::{Appended, LogPosition, SegmentFiles};

use crate::broker::Broker;
use crate::compaction;
use crate::group::driver::Groups;
use crate::handlers::fetch::session::Sessions;
pub use crate::mailbox::{Job, Mailbox, Mesh};
use crate::metadata::state::{Image, owner_shard};
use crate::metadata::store::Store;
use crate::metrics::{Counters, trace::Traces};
use crate::net::connection::Connections;
use crate::opening::Openings;
use crate::partition::Partition;
use crate::turnstile::Turnstile;
use crate::watcher::Watcher;

/// Bytes of indexes of old segments that a shard keeps in memory.
const INDEX_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// How a shard keeps its promise.
pub enum Durability {
    /// Apache Kafka's own: answered from the page cache.
    PageCache,
    /// Answered when the journal is durable.
    Journal(Journal),
}

/// An append whose journal group is not durable yet.
struct Undurable {
    lsn: Lsn,
    partition: Rc<Partition>,
    end: LogPosition,
}

/// The durable position that answers wait for.
#[derive(Default)]
struct Released {
    lsn: Lsn,
    failed: Option<String>,
    waiting: BTreeMap<(Lsn, u64), Waker>,
    tickets: u64,
}

/// The journal has failed: nothing that was not durable will be acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotDurable(pub String);

/// The other shard has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardGone;

/// State of one shard.
pub struct Shard {
    /// Number of this shard, from 0.
    pub id: usize,
    /// Its driver and executor.
    pub io: Io,
    /// What all shards know of the broker.
    pub broker: Arc<Broker>,
    /// The open files of its logs.
    pub files: SegmentFiles,
    /// The group coordinators of the `__consumer_offsets` partitions that live here.
    pub groups: Groups,
    /// Incremental fetch sessions of connections that live here.
    pub sessions: RefCell<Sessions>,
    /// The connections that live here.
    pub connections: Connections,
    /// What it counts.
    pub counters: Counters,
    /// When it started.
    pub started: Instant,
    /// Source of ids; seeded, so that a simulation repeats.
    pub random: RefCell<fastrand::Rng>,
    image: RefCell<Arc<Image>>,
    partitions: RefCell<BTreeMap<String, BTreeMap<i32, Rc<Partition>>>>,
    /// Partitions that are still to be opened after the start.
    pub openings: Openings,
    senders: RefCell<Vec<mpsc::Sender<Job>>>,
    durability: Durability,
    undurable: RefCell<VecDeque<Undurable>>,
    released: RefCell<Released>,
    store: RefCell<Option<Rc<Store>>>,
    /// How far logs are clean, on shard 0 and once it is read; written in turn.
    pub cleaner_checkpoints: RefCell<Option<compaction::Checkpoints>>,
    pub(crate) cleaner_turn: Turnstile,
    /// A topic has other settings: what is too old or too much may have changed.
    pub retention_changed: Watcher,
    /// On shard 0: the free space is to be looked at again and again.
    pub room_wanted: Watcher,
    go: Watcher,
    stop: Watcher,
    stopping: Cell<bool>,
}

impl Shard {
    /// A shard that serves its mailbox; connections come by [`crate::net::listener`].
    pub fn start(
        id: usize,
        io: &Io,
        broker: &Arc<Broker>,
        mailbox: Mailbox,
        durability: Durability,
        seed: u64,
    ) -> Rc<Shard> {
        let Mailbox {
            senders,
            mut receiver,
        } = mailbox;
        let config = &broker.config;
        let mut random = fastrand::Rng::with_seed(seed);
        // `ringlog.open.files.max` is for all shards.
        let files_max = (config.ringlog.open_files_max / senders.len()).max(1);
        let begin = (io.wall_ms(), io.now());
        let shard = Rc::new(Shard {
            id,
            io: io.clone(),
            broker: broker.clone(),
            files: SegmentFiles::new(io, files_max, INDEX_BYTES_MAX),
            groups: Groups::new(broker, random.fork(), begin),
            sessions: RefCell::new(Sessions::new(
                id,
                senders.len(),
                broker.config.network.fetch_sessions_max,
            )),
            connections: Connections::default(),
            counters: Counters::new(Traces::new(config.ringlog.trace_sample_every, seed)),
            started: io.now(),
            random: RefCell::new(random),
            image: RefCell::default(),
            partitions: RefCell::default(),
            openings: Openings::default(),
            senders: RefCell::new(senders),
            durability,
            undurable: RefCell::default(),
            released: RefCell::default(),
            store: RefCell::default(),
            cleaner_checkpoints: RefCell::default(),
            cleaner_turn: Turnstile::default(),
            retention_changed: Watcher::default(),
            room_wanted: Watcher::default(),
            go: Watcher::default(),
            stop: Watcher::default(),
            stopping: Cell::new(false),
        });
        let served = shard.clone();
        io.spawn(async move {
            while let Some(job) = receiver.next().await {
                job(&served);
            }
        });
        let follower = shard.clone();
        io.spawn(async move { follower.follow_journal().await });
        shard
    }

    /// Number of shards.
    pub fn shard_count(&self) -> usize {
        self.senders.borrow().len()
    }

    /// Runs `job` on shard `target` and gives its result; on this shard without a detour.
    ///
    /// # Errors
    /// [`ShardGone`] if the target has stopped.
    pub async fn on<R, F>(
        self: &Rc<Self>,
        target: usize,
        job: impl FnOnce(Rc<Shard>) -> F + Send + 'static,
    ) -> Result<R, ShardGone>
    where
        R: Send + 'static,
        F: Future<Output = R> + 'static,
    {
        if target == self.id {
            return Ok(job(self.clone()).await);
        }
        self.post(target, job).await.await.map_err(|_| ShardGone)
    }

    /// Sends `job` to shard `target` and returns as soon as it is in the mailbox; the receiver
    /// gives the result.
    pub async fn post<R, F>(
        self: &Rc<Self>,
        target: usize,
        job: impl FnOnce(Rc<Shard>) -> F + Send + 'static,
    ) -> oneshot::Receiver<R>
    where
        R: Send + 'static,
        F: Future<Output = R> + 'static,
    {
        let (reply, result) = oneshot::channel();
        let job: Job = Box::new(move |shard: &Rc<Shard>| {
            let future = job(shard.clone());
            shard.io.spawn(async move {
                // Nobody waits any more if the connection has gone.
                let _ = reply.send(future.await);
            });
        });
        let mut sender = self.senders.borrow()[target].clone();
        // A closed mailbox drops the job and with it `reply`: the receiver says so.
        let _ = sender.send(job).await;
        result
    }

    /// Tells shard 0 something; that shard itself at once.
    pub async fn tell_first(&self, message: fn(&Shard)) {
        if self.id == 0 {
            return message(self);
        }
        let mut sender = self.senders.borrow()[0].clone();
        // A shard that has ended needs no message.
        let _ = sender.send(Box::new(move |first| message(first))).await;
    }

    // ---- metadata and partitions -------------------------------------------------------------

    /// The metadata image that this shard answers from.
    pub fn image(&self) -> Arc<Image> {
        self.image.borrow().clone()
    }

    /// Takes over a newer image; partitions get their topic's new settings.
    pub fn publish(&self, image: Arc<Image>) {
        for (name, partitions) in &*self.partitions.borrow() {
            if let Some(topic) = image.topic(name) {
                for partition in partitions.values() {
                    if partition.set_topic(topic.clone()) {
                        self.retention_changed.notify();
                    }
                }
            }
        }
        self.image.replace(image);
    }

    /// The shard that owns a partition.
    pub fn owner(&self, topic: &str, partition: i32) -> usize {
        owner_shard(topic, partition, self.shard_count())
    }

    /// The shards whose partitions and groups clients look for at the node of this one.
    pub fn shards_of_node(&self) -> std::ops::Range<usize> {
        if self.broker.config.ringlog.shards_as_brokers {
            self.id..self.id + 1
        } else {
            0..self.shard_count()
        }
    }

    /// A part of a request goes to its owner.
    pub fn count_hop(&self, owner: usize) {
        if owner != self.id {
            self.counters.hops.update(|hops| hops + 1);
        }
    }

    /// The partition, if it lives on this shard and is open.
    pub fn partition(&self, topic: &str, partition: i32) -> Option<Rc<Partition>> {
        self.partitions
            .borrow()
            .get(topic)?
            .get(&partition)
            .cloned()
    }

    /// The partition, if it lives on this shard; one that is being recovered is waited for.
    pub async fn partition_when_open(&self, topic: &str, partition: i32) -> Option<Rc<Partition>> {
        if !self.openings.is_empty() {
            self.openings.opened(&(topic.to_owned(), partition)).await;
        }
        self.partition(topic, partition)
    }

    /// Whether the partition is in service: it was not deleted, another one may have its name.
    pub fn has(&self, partition: &Rc<Partition>) -> bool {
        let present = self.partition(&partition.topic().name, partition.index);
        present.is_some_and(|present| Rc::ptr_eq(&present, partition))
    }

    /// All partitions of this shard that are open.
    pub fn partitions(&self) -> Vec<Rc<Partition>> {
        self.partitions
            .borrow()
            .values()
            .flat_map(BTreeMap::values)
            .cloned()
            .collect()
    }

    /// Takes an opened partition into service.
    pub fn add_partition(&self, partition: Rc<Partition>) {
        let name = partition.topic().name.clone();
        let mut partitions = self.partitions.borrow_mut();
        partitions
            .entry(name)
            .or_default()
            .insert(partition.index, partition);
    }

    /// Takes a partition out of service.
    pub fn remove_partition(&self, topic: &str, partition: i32) -> Option<Rc<Partition>> {
        let mut partitions = self.partitions.borrow_mut();
        let of_topic = partitions.get_mut(topic)?;
        let removed = of_topic.remove(&partition);
        if of_topic.is_empty() {
            partitions.remove(topic);
        }
        removed
    }

    // ---- durability --------------------------------------------------------------------------

    /// The journal, in durable mode.
    pub fn journal(&self) -> Option<&Journal> {
        match &self.durability {
            Durability::PageCache => None,
            Durability::Journal(journal) => Some(journal),
        }
    }

    /// Waits until the journal has room for `bytes`: the back-pressure before an append. The
    /// reservation is held until the bytes are in the journal.
    ///
    /// # Errors
    /// [`NotDurable`] if the journal has failed.
    pub async fn reserve(&self, bytes: usize) -> Result<Option<Reservation>, NotDurable> {
        let Durability::Journal(journal) = &self.durability else {
            return Ok(None);
        };
        let reserved = journal.reserve(bytes).await;
        reserved
            .map(Some)
            .map_err(|error| NotDurable(error.to_string()))
    }

    /// Makes an append to the log durable: straight away in page-cache mode (the high watermark
    /// moves), else through the journal. Gives the position to wait for with
    /// [`Self::durable`], if there is one.
    pub fn appended(
        &self,
        partition: &Rc<Partition>,
        appended: &Appended,
    ) -> Result<Option<Lsn>, NotDurable> {
        let Durability::Journal(journal) = &self.durability else {
            partition.advance_high_watermark(appended.end);
            return Ok(None);
        };
        let entry = journal::Append {
            topic_id: partition.topic().id,
            partition: partition.index,
            segment_base: appended.segment_base,
            position: u64::from(appended.position),
            buffers: &appended.buffers,
        };
        let lsn = journal
            .append(&entry)
            .map_err(|error| NotDurable(error.to_string()))?;
        let (partition, end) = (partition.clone(), appended.end);
        self.undurable.borrow_mut().push_back(Undurable {
            lsn,
            partition,
            end,
        });
        Ok(Some(lsn))
    }

    /// What the newest append that is not durable yet waits for.
    pub fn newest_undurable(&self) -> Option<Lsn> {
        self.undurable.borrow().back().map(|last| last.lsn)
    }

    /// Waits until everything up to `lsn` is on stable storage and visible to consumers.
    ///
    /// # Errors
    /// [`NotDurable`] if the journal has failed before.
    pub async fn durable(&self, lsn: Lsn) -> Result<(), NotDurable> {
        let mut key = None;
        std::future::poll_fn(|context| {
            let mut released = self.released.borrow_mut();
            if let Some(key) = key.take() {
                released.waiting.remove(&key);
            }
            if released.lsn >= lsn {
                return Poll::Ready(Ok(()));
            }
            if let Some(reason) = &released.failed {
                return Poll::Ready(Err(NotDurable(reason.clone())));
            }
            released.tickets += 1;
            let ticket = (lsn, released.tickets);
            released.waiting.insert(ticket, context.waker().clone());
            key = Some(ticket);
            Poll::Pending
        })
        .await
    }

    async fn follow_journal(self: Rc<Self>) {
        let Durability::Journal(journal) = &self.durability else {
            return;
        };
        let mut durable = journal.durable_lsn();
        loop {
            match journal.next_durable(durable).await {
                Ok(lsn) => durable = lsn,
                Err(error) => {
                    let mut released = self.released.borrow_mut();
                    released.failed = Some(error.to_string());
                    for (_, waker) in std::mem::take(&mut released.waiting) {
                        waker.wake();
                    }
                    return;
                }
            }
            self.release(durable);
        }
    }

    /// High watermarks first, answers second: who was answered must be able to read it.
    fn release(&self, durable: Lsn) {
        loop {
            let mut undurable = self.undurable.borrow_mut();
            match undurable.front() {
                Some(first) if first.lsn <= durable => {}
                _ => break,
            }
            let first = undurable.pop_front().expect("looked at above");
            drop(undurable);
            first.partition.advance_high_watermark(first.end);
        }
        let mut released = self.released.borrow_mut();
        released.lsn = durable;
        let later = released.waiting.split_off(&(Lsn(durable.0 + 1), 0));
        for (_, waker) in std::mem::replace(&mut released.waiting, later) {
            waker.wake();
        }
    }

    // ---- controller --------------------------------------------------------------------------

    /// The controller's edge, on shard 0 only.
    pub fn store(&self) -> Rc<Store> {
        self.store
            .borrow()
            .clone()
            .expect("jobs of the store are sent to shard 0")
    }

    /// Makes this shard the one of the controller.
    pub fn set_store(&self, store: Store) {
        self.store.replace(Some(Rc::new(store)));
    }

    // ---- beginning and end -------------------------------------------------------------------

    /// All shards are open: connections may come.
    pub fn go(&self) {
        self.go.notify();
    }

    /// Waits for [`Self::go`].
    pub async fn wait_for_go(&self) {
        self.go.notified().await;
    }

    /// Asks for the end.
    pub fn ask_to_stop(&self) {
        self.stop.notify();
    }

    /// Waits for [`Self::ask_to_stop`].
    pub async fn wait_for_stop(&self) {
        self.stop.notified().await;
    }

    /// Whether the broker is stopping: no new appends, connections end.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Begins the end.
    pub fn begin_stop(&self) {
        self.stopping.set(true);
        self.connections.close_all(&self.io);
    }
}
