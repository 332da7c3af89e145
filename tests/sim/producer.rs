//! Producers: plain ones of every generation of clients, and idempotent ones that retry.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest, TransactionalId};
use ringlog_tests::call::produce_request;
use ringlog_tests::random::Random;
use ringlog_tests::records::{Batch, Codec, message_set};

use crate::connection::{Connection, Lost, Ticket};
use crate::ledger::Id;
use crate::scene::{Scene, one_in, pick, size, within};

const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
const DUPLICATE_SEQUENCE_NUMBER: i16 = 46;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const RECORD_LIST_TOO_LARGE: i16 = 18;
/// Batches of a partition that an idempotent producer keeps under way.
const IN_FLIGHT_MAX: usize = 3;
/// Batches of a partition that it has in hand.
const QUEUE_MAX: usize = 5;

/// Topic and partition.
pub(crate) type Target = (usize, i32);

/// How many records a batch has, and how large they are.
fn values(
    scene: &Scene,
    target: Target,
    lane: u64,
    may_retry: bool,
    random: &mut Random,
) -> (Vec<Id>, Vec<Vec<u8>>) {
    let (count, bytes) = match random.below(20) {
        0 => (1, 12_000),
        1 => (20, 100),
        2..=8 => (within(random, 1, 4), 3000),
        _ => (within(random, 1, 4), 200),
    };
    let mut ledger = scene.ledger.borrow_mut();
    (0..count)
        .map(|_| ledger.record(target, lane, size(random.below(bytes)), may_retry))
        .unzip()
}

/// A plain batch or, for old versions, a message set.
fn encode(
    scene: &Scene,
    version: i16,
    (ids, values): (&[Id], &[Vec<u8>]),
    random: &mut Random,
) -> Vec<u8> {
    let now = scene.crowd.world().wall_ms();
    let stamp = (version >= 2).then_some(now);
    scene.ledger.borrow_mut().stamped(ids, stamp);
    if version < 3 {
        let magic = if version < 2 { 0 } else { 1 };
        let codec = pick(
            random,
            &[Codec::None, Codec::None, Codec::Gzip, Codec::Snappy],
        );
        scene.ledger.borrow_mut().count("old message sets sent", 1);
        return message_set(magic, codec, now, values);
    }
    let codecs = [
        Codec::None,
        Codec::None,
        Codec::None,
        Codec::Lz4,
        Codec::Gzip,
    ];
    batch(scene, ids, values)
        .at(now)
        .compressed(pick(random, &codecs))
        .encode()
}

/// A batch with keys, if the topic is compacted.
fn batch(scene: &Scene, ids: &[Id], values: &[Vec<u8>]) -> Batch {
    match scene.ledger.borrow().keys(ids) {
        Some(keys) => {
            let records = keys.into_iter().zip(values.iter().map(Some));
            Batch::keyed(&records.collect::<Vec<_>>())
        }
        None => Batch::of(values),
    }
}

fn request(scene: &Scene, (topic, partition): Target, acks: i16, bytes: Vec<u8>) -> ProduceRequest {
    let name = scene.ledger.borrow().topic(topic).name.clone();
    produce_request(&name, partition, acks, bytes)
}

/// A request whose answer is awaited.
struct Pending {
    ticket: Ticket,
    ids: Vec<Id>,
    acks: i16,
    target: Target,
}

/// Sends to random ones of `targets` until the end, without retries.
pub(crate) async fn plain(scene: Rc<Scene>, targets: Vec<Target>, mut random: Random) {
    while scene.is_open().await {
        let Ok(mut connection) = scene.connect() else {
            scene.pause(within(&mut random, 1, 20)).await;
            continue;
        };
        let lane = scene.new_lane();
        for _ in 0..within(&mut random, 1, 40) {
            let targets: Vec<Target> = (0..within(&mut random, 1, 5))
                .map(|_| pick(&mut random, &targets))
                .collect();
            if round(&scene, &mut connection, lane, &targets, &mut random)
                .await
                .is_err()
            {
                break;
            }
            if !scene.is_open().await {
                break;
            }
            scene.pause(random.below(12)).await;
        }
        if one_in(&mut random, 2) {
            connection.reset();
        }
    }
}

/// Pipelines one request for each of `targets`, then takes the answers.
pub(crate) async fn round(
    scene: &Scene,
    connection: &mut Connection,
    lane: u64,
    targets: &[Target],
    random: &mut Random,
) -> Result<(), Lost> {
    let mut pending = VecDeque::new();
    for target in targets {
        let acks = pick(random, &[-1, -1, -1, 1, 1, 0]);
        let mut version = pick(random, &[0, 1, 2, 3, 5, 7, 8, 9, 9]);
        if scene.ledger.borrow().topic(target.0).is_compacted {
            version = version.max(3);
        }
        let (ids, values) = values(scene, *target, lane, false, random);
        let bytes = encode(scene, version, (&ids, &values), random);
        scene.tell(&format!(
            "lane {lane} sends r{}..={} to {target:?}, acks {acks}, v{version}",
            ids[0],
            ids[ids.len() - 1]
        ));
        let ticket = connection.send(version, &request(scene, *target, acks, bytes));
        scene.ledger.borrow_mut().count("produce requests", 1);
        if acks == 0 {
            scene.ledger.borrow_mut().given_up(&ids);
        } else {
            pending.push_back(Pending {
                ticket,
                ids,
                acks,
                target: *target,
            });
        }
    }
    while let Some(first) = pending.pop_front() {
        match connection.receive::<ProduceRequest>(first.ticket).await {
            Ok(mut answer) => {
                let answer = answer.responses.remove(0).partition_responses.remove(0);
                judge(scene, lane, &first, &answer);
            }
            Err(Lost) => {
                scene.tell(&format!("lane {lane} has lost its connection"));
                let mut ledger = scene.ledger.borrow_mut();
                ledger.given_up(&first.ids);
                for later in pending {
                    ledger.given_up(&later.ids);
                }
                return Err(Lost);
            }
        }
    }
    Ok(())
}

fn judge(scene: &Scene, lane: u64, pending: &Pending, answer: &PartitionProduceResponse) {
    let (first, target) = (pending.ids[0], pending.target);
    let (code, offset) = (answer.error_code, answer.base_offset);
    scene.tell(&format!(
        "lane {lane}: r{first} of {target:?}: error {code}, offset {offset} {}",
        answer.error_message.as_deref().unwrap_or_default()
    ));
    let mut ledger = scene.ledger.borrow_mut();
    match code {
        0 => ledger.acknowledged(&pending.ids, offset, pending.acks),
        RECORD_LIST_TOO_LARGE => ledger.refused(&pending.ids),
        UNKNOWN_TOPIC_OR_PARTITION => {
            drop(ledger);
            scene.tolerate("produce", code);
            scene.ledger.borrow_mut().refused(&pending.ids);
        }
        code => {
            ledger.given_up(&pending.ids);
            drop(ledger);
            scene.tolerate("produce", code);
        }
    }
}

// ---- idempotent ------------------------------------------------------------------------------

struct Queued {
    ids: Vec<Id>,
    bytes: Vec<u8>,
}

/// The sequence numbers and open batches of one partition.
#[derive(Default)]
struct Lane {
    number: u64,
    next_sequence: i32,
    queue: VecDeque<Queued>,
}

/// An idempotent producer: each batch is sent until it is acknowledged.
struct Idempotent {
    scene: Rc<Scene>,
    producer_id: i64,
    lanes: BTreeMap<Target, Lane>,
    random: Random,
}

/// Sends to all of `targets` until the end; what is not acknowledged is sent again, also to the
/// next generations of the broker.
pub(crate) async fn idempotent(scene: Rc<Scene>, targets: Vec<Target>, random: Random) {
    let mut producer = Idempotent {
        scene: scene.clone(),
        producer_id: -1,
        lanes: BTreeMap::new(),
        random,
    };
    // At the end nothing may stay open.
    while scene.is_open().await || producer.has_open_batches() {
        let pause = within(&mut producer.random, 1, 20);
        if !scene.gate.get() {
            scene.pause(pause).await;
            continue;
        }
        let Ok(mut connection) = scene.connect() else {
            scene.pause(pause).await;
            continue;
        };
        let rounds = within(&mut producer.random, 1, 40);
        for _ in 0..rounds {
            if !scene.gate.get() || producer.round(&mut connection, &targets).await.is_err() {
                break;
            }
            if scene.quit.get() && !producer.has_open_batches() {
                break;
            }
            let pause = producer.random.below(8);
            scene.pause(pause).await;
        }
        if one_in(&mut producer.random, 2) {
            connection.reset();
        }
    }
}

impl Idempotent {
    fn has_open_batches(&self) -> bool {
        self.lanes.values().any(|lane| !lane.queue.is_empty())
    }

    async fn round(&mut self, connection: &mut Connection, targets: &[Target]) -> Result<(), Lost> {
        if self.producer_id < 0 {
            self.init(connection).await?;
            if self.producer_id < 0 {
                self.scene.pause(5).await;
                return Ok(());
            }
        }
        let mut sent: Vec<(Target, Id, Ticket)> = Vec::new();
        for target in targets {
            self.fill(*target);
            let lane = self.lanes.entry(*target).or_default();
            let count = size(within(&mut self.random, 1, IN_FLIGHT_MAX as u64));
            for queued in lane.queue.iter().take(count) {
                let bytes = queued.bytes.clone();
                let ticket = connection.send(9, &request(&self.scene, *target, -1, bytes));
                sent.push((*target, queued.ids[0], ticket));
            }
        }
        self.scene
            .ledger
            .borrow_mut()
            .count("idempotent produce requests", sent.len());
        let mut failed = BTreeMap::new();
        for (target, first, ticket) in sent {
            let mut answer = connection.receive::<ProduceRequest>(ticket).await?;
            let answer = answer.responses.remove(0).partition_responses.remove(0);
            self.judge(target, first, &answer, &mut failed);
        }
        Ok(())
    }

    async fn init(&mut self, connection: &mut Connection) -> Result<(), Lost> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None::<TransactionalId>)
            .with_transaction_timeout_ms(60_000);
        let answer = connection.call(4, &request).await?;
        if answer.error_code == 0 {
            self.producer_id = answer.producer_id.0;
            self.scene
                .ledger
                .borrow_mut()
                .new_producer(answer.producer_id.0);
            self.scene
                .tell(&format!("producer id {}", self.producer_id));
        } else {
            self.scene.tolerate("InitProducerId", answer.error_code);
        }
        Ok(())
    }

    /// New batches for the queue of a partition.
    fn fill(&mut self, target: Target) {
        let scene = self.scene.clone();
        let lane = self.lanes.entry(target).or_default();
        if lane.number == 0 {
            lane.number = scene.new_lane();
        }
        let wanted = if scene.quit.get() {
            0
        } else {
            self.random.below(3)
        };
        for _ in 0..wanted {
            if lane.queue.len() >= QUEUE_MAX {
                return;
            }
            let (ids, values) = values(&scene, target, lane.number, true, &mut self.random);
            let now = scene.crowd.world().wall_ms();
            scene.ledger.borrow_mut().stamped(&ids, Some(now));
            let batch = batch(&scene, &ids, &values).at(now);
            let bytes = batch
                .by_producer(self.producer_id, 0, lane.next_sequence)
                .encode();
            scene.tell(&format!(
                "producer {} will send r{}..={} to {target:?}, sequence {}",
                self.producer_id,
                ids[0],
                ids[ids.len() - 1],
                lane.next_sequence
            ));
            lane.next_sequence += i32::try_from(ids.len()).expect("few");
            lane.queue.push_back(Queued { ids, bytes });
        }
    }

    fn judge(
        &mut self,
        target: Target,
        first: Id,
        answer: &PartitionProduceResponse,
        failed: &mut BTreeMap<Target, ()>,
    ) {
        let (code, offset) = (answer.error_code, answer.base_offset);
        let scene = self.scene.clone();
        scene.tell(&format!(
            "producer {}: r{first} of {target:?}: error {code}, offset {offset}",
            self.producer_id
        ));
        // After a reset of the producer nobody waits for the answers to come.
        let Some(lane) = self.lanes.get_mut(&target) else {
            return;
        };
        let Some(index) = lane.queue.iter().position(|queued| queued.ids[0] == first) else {
            return;
        };
        match code {
            0 | DUPLICATE_SEQUENCE_NUMBER => {
                let queued = lane.queue.remove(index).expect("found above");
                let mut ledger = scene.ledger.borrow_mut();
                if code == 0 {
                    ledger.acknowledged(&queued.ids, offset, -1);
                } else {
                    ledger.count("duplicates without offset", 1);
                    ledger.acknowledged_somewhere(&queued.ids);
                }
            }
            OUT_OF_ORDER_SEQUENCE_NUMBER if index == 0 && !failed.contains_key(&target) => {
                let ledger = scene.ledger.borrow();
                assert!(
                    !ledger.is_durable,
                    "r{first} is out of order: the broker has forgotten the batch before it"
                );
                drop(ledger);
                self.start_anew();
            }
            OUT_OF_ORDER_SEQUENCE_NUMBER => {}
            code => {
                scene.tolerate("idempotent produce", code);
                failed.insert(target, ());
            }
        }
    }

    /// The broker has lost what it acknowledged, as it may without a journal: as the Java producer,
    /// go on with a new producer id, and give up what was open.
    fn start_anew(&mut self) {
        self.producer_id = -1;
        for lane in std::mem::take(&mut self.lanes).into_values() {
            let mut ledger = self.scene.ledger.borrow_mut();
            ledger.count("producers started anew", 1);
            for queued in lane.queue {
                ledger.given_up(&queued.ids);
            }
        }
    }
}
