//! Runs the coordinator on a shard: carries its actions out, keeps its timers.
//!
//! Time is the wall clock at the start of the shard plus the monotonic time since: a jump of the
//! wall clock ends no session.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_channel::oneshot;
use futures_util::future;
use kafka_protocol::ResponseError;
use kafka_protocol::protocol::StrBytes;
use ringlog_engine::clock::Instant;
use ringlog_engine::log::LogError;
use ringlog_engine::record::batch::iterate;
use ringlog_engine::record::builder::TransactionMarker;
use ringlog_engine::record::{BatchBuilder, BatchReader, Compression};

use super::{
    Action, AppendToken, Caller, Coordinator, GroupConfig, GroupRecord, GroupRequest,
    GroupResponse, LoadedGroups,
};
use crate::broker::Broker;
use crate::metadata::state::GROUP_TOPIC;
use crate::metrics::GroupOffset;
use crate::partition::{Origin, Partition};
use crate::shard::Shard;
use crate::watcher::Watcher;

/// Most bytes that one batch of `__consumer_offsets` may unpack to.
const BATCH_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Between two tries to read a partition of `__consumer_offsets` on a disk that answers errors.
const RELOAD_PAUSE_MIN: Duration = Duration::from_millis(50);
const RELOAD_PAUSE_MAX: Duration = Duration::from_secs(1);
/// After that what can be read has to do.
const RELOAD_PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of `__consumer_offsets` read at once.
const READ_BYTES: u32 = 1024 * 1024;

/// The groups of a shard.
pub struct Groups {
    coordinator: RefCell<Coordinator>,
    waiting: RefCell<BTreeMap<u64, oneshot::Sender<GroupResponse>>>,
    tickets: Cell<u64>,
    /// Deadlines may have changed.
    changed: Watcher,
    begin: (i64, Instant),
}

/// Who asks, as it crosses shards.
#[derive(Clone, Debug)]
pub struct Asker {
    /// Version of the request.
    pub version: i16,
    /// The client id.
    pub client_id: String,
    /// The client's address, as Java prints it.
    pub client_host: String,
}

impl Groups {
    /// No groups yet.
    pub fn new(broker: &Arc<Broker>, random: fastrand::Rng, begin: (i64, Instant)) -> Groups {
        let config = &broker.config;
        let mut random = random;
        let uuid_source = move || random.u128(..).to_be_bytes();
        let group_config = GroupConfig {
            group_min_session_timeout_ms: config.group.session_timeout_ms_min,
            group_max_session_timeout_ms: config.group.session_timeout_ms_max,
            group_max_size: config.group.members_max as usize,
            group_initial_rebalance_delay_ms: config.group.initial_rebalance_delay_ms,
            offset_metadata_max_bytes: config.offsets.metadata_max_bytes as usize,
            offsets_retention_ms: config.offsets.retention_ms,
            ..GroupConfig::default()
        };
        let partitions = config.offsets.topic_num_partitions;
        let coordinator = Coordinator::new(group_config, partitions, Box::new(uuid_source));
        Groups {
            coordinator: RefCell::new(coordinator),
            waiting: RefCell::default(),
            tickets: Cell::new(0),
            changed: Watcher::default(),
            begin,
        }
    }

    /// All committed offsets.
    pub fn committed(&self) -> Vec<GroupOffset> {
        self.coordinator.borrow().committed().collect()
    }

    fn now_ms(&self, shard: &Shard) -> i64 {
        let elapsed = shard.io.now().since(self.begin.1).as_millis();
        self.begin.0 + i64::try_from(elapsed).unwrap_or(i64::MAX)
    }

    fn instant(&self, ms: i64) -> Instant {
        self.begin.1 + Duration::from_millis(u64::try_from(ms - self.begin.0).unwrap_or(0))
    }
}

/// Keeps the timers of the shard's groups.
pub async fn keep_time(shard: Rc<Shard>) {
    let groups = &shard.groups;
    while !shard.is_stopping() {
        let deadline = groups.coordinator.borrow().next_deadline();
        match deadline {
            None => groups.changed.notified().await,
            Some(ms) => {
                let sleep = shard.io.sleep_until(groups.instant(ms));
                future::select(pin!(groups.changed.notified()), sleep).await;
            }
        }
        let now_ms = groups.now_ms(&shard);
        let actions = groups.coordinator.borrow_mut().tick(now_ms);
        carry_out(&shard, actions);
    }
}

/// Hands a request to the coordinator and waits for its answer; `None` if the broker stops.
pub async fn ask(shard: &Rc<Shard>, asker: &Asker, request: GroupRequest) -> Option<GroupResponse> {
    // After a start the groups are there once their partitions are.
    shard.openings.topic_opened(GROUP_TOPIC).await;
    let groups = &shard.groups;
    let ticket = groups.tickets.get() + 1;
    groups.tickets.set(ticket);
    let (sender, receiver) = oneshot::channel();
    groups.waiting.borrow_mut().insert(ticket, sender);
    let caller = Caller {
        ticket,
        version: asker.version,
        client_id: &asker.client_id,
        client_host: &asker.client_host,
    };
    let now_ms = groups.now_ms(shard);
    let actions = groups
        .coordinator
        .borrow_mut()
        .handle(now_ms, &caller, request);
    perform(shard, actions);
    receiver.await.ok()
}

/// Carries out what an event led to; it may also have moved the next deadline.
fn perform(shard: &Rc<Shard>, actions: Vec<Action>) {
    carry_out(shard, actions);
    shard.groups.changed.notify();
}

fn carry_out(shard: &Rc<Shard>, actions: Vec<Action>) {
    for action in actions {
        match action {
            Action::Reply { ticket, response } => {
                if let Some(sender) = shard.groups.waiting.borrow_mut().remove(&ticket) {
                    // The asker may have gone.
                    let _ = sender.send(response);
                }
            }
            Action::Append {
                partition,
                records,
                token,
            } => {
                let appender = shard.clone();
                shard
                    .io
                    .spawn(async move { append(appender, partition, records, token).await });
            }
        }
    }
}

async fn append(shard: Rc<Shard>, index: i32, records: Vec<GroupRecord>, token: AppendToken) {
    let result = match shard.partition(GROUP_TOPIC, index) {
        Some(partition) => append_durably(&shard, &partition, records).await,
        None => Err(ResponseError::NotCoordinator),
    };
    let now_ms = shard.groups.now_ms(&shard);
    let actions = shard
        .groups
        .coordinator
        .borrow_mut()
        .appended(now_ms, token, result);
    perform(&shard, actions);
}

async fn append_durably(
    shard: &Shard,
    partition: &Rc<Partition>,
    records: Vec<GroupRecord>,
) -> Result<(), ResponseError> {
    let mut builder = BatchBuilder::new(Compression::None);
    let now_ms = shard.io.wall_ms();
    for (key, value) in &records {
        builder
            .append(now_ms, Some(key), value.as_deref(), &[])
            .map_err(|_| ResponseError::MessageTooLarge)?;
    }
    let batch = builder
        .build()
        .map_err(|_| ResponseError::MessageTooLarge)?
        .freeze();
    let outcome = partition
        .append(shard, batch, Origin::Coordinator, None)
        .await
        .map_err(|refused| {
            log::error!(
                "Writing {GROUP_TOPIC}-{}: {}",
                partition.index,
                refused.message
            );
            refused.error
        })?;
    match outcome.lsn {
        None => Ok(()),
        Some(lsn) => shard
            .durable(lsn)
            .await
            .map_err(|_| ResponseError::KafkaStorageError),
    }
}

/// Takes a partition of `__consumer_offsets` over: reads its log into groups.
pub async fn load(shard: &Rc<Shard>, partition: &Rc<Partition>) {
    let groups = &shard.groups;
    let now_ms = groups.now_ms(shard);
    let count = partition.topic().partitions;
    groups.coordinator.borrow_mut().set_partition_count(count);
    let actions = groups
        .coordinator
        .borrow_mut()
        .begin_load(now_ms, partition.index);
    perform(shard, actions);
    let mut loaded = LoadedGroups::default();
    let mut bad_batches = 0u64;
    match read_groups(shard, partition, &mut loaded, &mut bad_batches).await {
        Err(error) if may_pass(&error) => {
            log::error!(
                "Loading {GROUP_TOPIC}-{}: {error}; its groups wait for up to {} s",
                partition.index,
                RELOAD_PATIENCE.as_secs()
            );
            shard.io.spawn(load_later(shard.clone(), partition.clone()));
            return;
        }
        Err(error) => log::error!("Loading {GROUP_TOPIC}-{}: {error}", partition.index),
        Ok(()) => {}
    }
    finish_load(shard, partition, loaded, bad_batches);
}

/// Offsets that cannot be read now are not offsets that are not there.
fn may_pass(error: &LogError) -> bool {
    use std::io::ErrorKind;
    match error {
        LogError::Io { source, .. } => !matches!(
            source.kind(),
            ErrorKind::NotFound | ErrorKind::UnexpectedEof
        ),
        _ => false,
    }
}

/// Tries again, until it can be read, or to do without what cannot.
async fn load_later(shard: Rc<Shard>, partition: Rc<Partition>) {
    let end = shard.io.now() + RELOAD_PATIENCE;
    let mut pause = RELOAD_PAUSE_MIN;
    loop {
        shard.io.sleep(pause).await;
        pause = (pause * 2).min(RELOAD_PAUSE_MAX);
        let mut loaded = LoadedGroups::default();
        let mut bad_batches = 0u64;
        let read = read_groups(&shard, &partition, &mut loaded, &mut bad_batches).await;
        if shard.is_stopping() || !shard.has(&partition) {
            return;
        }
        if let Err(error) = read {
            if may_pass(&error) && shard.io.now() < end {
                continue;
            }
            log::error!("Loading {GROUP_TOPIC}-{}: {error}", partition.index);
        }
        finish_load(&shard, &partition, loaded, bad_batches);
        return;
    }
}

/// The groups of a partition are known.
fn finish_load(shard: &Rc<Shard>, partition: &Partition, loaded: LoadedGroups, bad_batches: u64) {
    let groups = &shard.groups;
    let now_ms = groups.now_ms(shard);
    let (actions, report) =
        groups
            .coordinator
            .borrow_mut()
            .finish_load(now_ms, partition.index, loaded);
    if report.records_bad > 0 || bad_batches > 0 {
        log::error!(
            "{GROUP_TOPIC}-{}: {} records and {bad_batches} batches could not be read ({:?}); \
             their groups may lack offsets",
            partition.index,
            report.records_bad,
            report.first_error
        );
    } else if report.groups > 0 || report.offsets > 0 {
        log::info!(
            "Loaded {} groups and {} offsets from {GROUP_TOPIC}-{}",
            report.groups,
            report.offsets,
            partition.index
        );
    }
    perform(shard, actions);
}

async fn read_groups(
    shard: &Shard,
    partition: &Partition,
    loaded: &mut LoadedGroups,
    bad_batches: &mut u64,
) -> Result<(), LogError> {
    let log = &partition.log;
    let end = log.end_position();
    let mut next = log.log_start_offset();
    while next < end.offset {
        let slice = match log.read(next, READ_BYTES, end, true).await {
            // What stood there is lost, what is behind it is not.
            Err(LogError::Corrupt { .. }) if log.offset_behind_damage(next).is_some() => {
                *bad_batches += 1;
                next = log.offset_behind_damage(next).unwrap_or(end.offset);
                continue;
            }
            other => other?,
        };
        let Some(slice) = slice else { break };
        let (position, length) = (slice.position, slice.length as usize);
        let bytes = shard
            .io
            .read_at(&slice.file, BytesMut::new(), position, length)
            .await;
        let bytes = bytes.map_err(|source| LogError::Io {
            operation: "read",
            path: log.directory(),
            source,
        })?;
        let before = next;
        // A batch that the slice cuts is read whole with the next one.
        for batch in iterate(&bytes).map_while(Result::ok) {
            next = next.max(batch.header.next_offset());
            if read_batch(batch.bytes, loaded).is_err() {
                *bad_batches += 1;
            }
        }
        if next == before {
            return Err(LogError::Corrupt {
                path: log.directory(),
                position,
                reason: format!("no batch at offset {next}"),
                remedy: "its groups lack the offsets behind it: `ringlog fsck` tells what is there",
            });
        }
    }
    Ok(())
}

fn read_batch(
    batch: &[u8],
    loaded: &mut LoadedGroups,
) -> Result<(), ringlog_engine::record::BatchError> {
    let reader = BatchReader::open(batch, BATCH_BYTES_MAX)?;
    let header = *reader.header();
    for record in reader.records() {
        let record = record?;
        let Some(key) = record.key else { continue };
        if header.is_control() {
            if let Some(marker) = TransactionMarker::from_key(key) {
                loaded.end_transaction(header.producer_id, marker);
            }
        } else if header.is_transactional() {
            loaded.transactional_record(header.producer_id, key, record.value);
        } else {
            loaded.record(key, record.value);
        }
    }
    Ok(())
}

/// Gives a partition of `__consumer_offsets` up, as when the topic is deleted.
pub fn unload(shard: &Rc<Shard>, index: i32) {
    let now_ms = shard.groups.now_ms(shard);
    let actions = shard.groups.coordinator.borrow_mut().unload(now_ms, index);
    perform(shard, actions);
}

/// Committed offsets of deleted partitions go, too.
pub fn partitions_deleted(shard: &Rc<Shard>, topic: &str, partitions: i32) {
    let now_ms = shard.groups.now_ms(shard);
    let name = StrBytes::from_string(topic.to_owned());
    let deleted: Vec<(StrBytes, i32)> =
        (0..partitions).map(|index| (name.clone(), index)).collect();
    let actions = shard
        .groups
        .coordinator
        .borrow_mut()
        .partitions_deleted(now_ms, &deleted);
    perform(shard, actions);
}
