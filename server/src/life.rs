//! The life of one shard: opened, serving, stopped. The same on the real drivers and in the
//! simulator.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, future, stream};
use ringlog_engine::io::{Io, Listener};
use ringlog_engine::journal::{self, Journal, JournalOptions};
use ringlog_engine::log::directory;
use uuid::Uuid;

use crate::boot::{self, FoundPartition, open_partitions};
use crate::broker::Broker;
use crate::compaction;
use crate::config::Durability;
use crate::group::driver;
use crate::metadata::state::Image;
use crate::metadata::store::Store;
use crate::metadata::{alter, checkpoints, reconcile};
use crate::net::{connection, listener};
use crate::partition::Partition;
use crate::retention;
use crate::room;
use crate::scrub;
use crate::shard::{self, Mailbox, Shard};

/// How often recovery points are written and producers expire (Kafka's
/// `log.flush.offset.checkpoint.interval.ms`).
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// How often `flush.ms` is looked at, where a topic sets it.
const FLUSH_CHECK: Duration = Duration::from_secs(1);

/// Partitions that are looked at before other tasks of the shard have a turn.
const LOOKED_AT_ONCE: usize = 64;
/// Logs that are closed at a time: a few syncs each, which a file system commits together.
const CLOSED_AT_ONCE: usize = 64;

/// What a shard begins with.
pub struct Beginning {
    /// Number of the shard.
    pub id: usize,
    /// The broker.
    pub broker: Arc<Broker>,
    /// Its ends of the mailboxes.
    pub mailbox: Mailbox,
    /// The topics found.
    pub image: Arc<Image>,
    /// The partitions found, of all shards.
    pub partitions: Arc<BTreeMap<(String, i32), FoundPartition>>,
    /// Seed of ids.
    pub seed: u64,
}

/// How far a log is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Topic and number.
    pub partition: (String, i32),
    /// Its records below this offset are on stable storage.
    pub recovery_point: i64,
    /// Where it starts.
    pub log_start_offset: i64,
    /// Whether that is all of it; not so of a log that could not be opened, which is still to be recovered.
    pub is_clean: bool,
}

/// Those of a shard, or of all.
pub type Ends = Vec<End>;

/// Opens a shard: its journal; its partitions follow, each as soon as it is recovered. It answers its
/// mailbox meanwhile.
///
/// # Errors
/// What cannot be opened, where, and what to do.
pub async fn open(
    io: &Io,
    beginning: Beginning,
    store: Option<Store>,
) -> Result<Rc<Shard>, String> {
    let Beginning {
        id,
        broker,
        mailbox,
        image,
        partitions,
        seed,
    } = beginning;
    let config = &broker.config;
    let durability = match config.ringlog.durability {
        Durability::PageCache => shard::Durability::PageCache,
        Durability::Durable => {
            let directory = config.ringlog.journal_dir.clone();
            let mut options = JournalOptions::new(directory, u32::try_from(id).unwrap_or(0));
            options.ring_bytes = config.ringlog.journal_bytes;
            options.file_bytes = config.ringlog.journal_file_bytes;
            let journal = Journal::open(io, options)
                .await
                .map_err(|error| error.to_string())?;
            shard::Durability::Journal(journal)
        }
    };
    let shard = Shard::start(id, io, &broker, mailbox, durability, seed);
    shard.publish(image);
    if let Some(store) = store {
        store.know_checkpoints(&partitions);
        shard.set_store(store);
        alter::limit_connections(&shard);
    }
    open_partitions(&shard, &partitions);
    Ok(shard)
}

/// Begins to serve on the listeners, and starts the shard's own tasks.
pub fn serve(shard: &Rc<Shard>, listeners: Vec<Listener>) {
    for (index, accepting) in listeners.into_iter().enumerate() {
        shard
            .io
            .spawn(listener::run(shard.clone(), accepting, index));
    }
    shard.io.spawn(connection::close_idle(shard.clone()));
    shard.io.spawn(driver::keep_time(shard.clone()));
    shard.io.spawn(housekeeping(shard.clone()));
    shard.io.spawn(flush_by_time(shard.clone()));
    if shard.id == 0 {
        shard.io.spawn(room::run(shard.clone()));
        shard.io.spawn(reconcile::run(shard.clone()));
        shard.io.spawn(run_last(shard.clone()));
    }
    shard.io.spawn(retention::run(shard.clone()));
    shard.io.spawn(compaction::run(shard.clone()));
    shard.io.spawn(scrub::run(shard.clone()));
    if let Some(journal) = shard.journal() {
        let (journal, shard) = (journal.clone(), shard.clone());
        let io = shard.io.clone();
        io.spawn(async move {
            let flushed = shard.clone();
            let run = journal::run_checkpoints(journal, async || checkpoint(&flushed).await);
            if let Err(error) = run.await {
                log::error!("Shard {}: {error}", shard.id);
            }
        });
    }
}

/// Syncs all logs of the shard, so that the journal behind them can be reused.
async fn checkpoint(shard: &Rc<Shard>) -> std::io::Result<()> {
    for (count, partition) in shard.partitions().into_iter().enumerate() {
        if count % LOOKED_AT_ONCE == LOOKED_AT_ONCE - 1 {
            shard.io.yield_now().await;
        }
        if !partition.log.is_dirty() {
            continue;
        }
        if let Err(error) = partition.log.flush().await {
            // The log of a deleted partition refuses, nobody misses it; so does one that was closed
            // meanwhile, which has synced everything itself.
            if shard.has(&partition) && partition.log.is_dirty() {
                return Err(std::io::Error::other(error.to_string()));
            }
        }
    }
    checkpoints::record_recovery_points(shard, recovery_points(shard)).await;
    Ok(())
}

/// Of the partitions that have records: 0 is what a recovery begins with anyhow.
fn recovery_points(shard: &Shard) -> Vec<((String, i32), Uuid, i64)> {
    let point = |partition: &Rc<Partition>| {
        let key = (partition.topic().name.clone(), partition.index);
        (key, partition.topic().id, partition.log.recovery_point())
    };
    let partitions = shard.partitions();
    let durable = partitions
        .iter()
        .filter(|partition| partition.log.recovery_point() > 0);
    durable.map(point).collect()
}

/// Ringlog was not the last in a log directory, or did not know all its logs: it is once all are recovered
/// and the recovery points are above the gaps that another broker's compaction has left in them.
async fn run_last(shard: Rc<Shard>) {
    let mut others = Vec::new();
    for log_directory in &shard.broker.config.log_dirs {
        if !matches!(
            directory::ran_last(&shard.io, log_directory).await,
            Ok(true)
        ) {
            others.push(log_directory.clone());
        }
    }
    if others.is_empty() {
        return;
    }
    let recoveries = (0..shard.shard_count()).map(|target| {
        shard.on(target, async |shard: Rc<Shard>| {
            shard.openings.all_opened().await;
            shard.openings.unopened().is_empty()
                && checkpoints::record_recovery_points(&shard, recovery_points(&shard)).await
        })
    });
    let recovered = future::join_all(recoveries).await;
    let are_all = recovered
        .into_iter()
        .all(|is_recovered| is_recovered == Ok(true));
    for log_directory in others {
        if !are_all || shard.is_stopping() {
            return;
        }
        // If not, a hole in a compacted log may be taken for its compaction's after the next crash, as in
        // Apache Kafka.
        if let Err(error) = directory::mark_ran_last(&shard.io, &log_directory).await {
            log::warn!("{error}");
        }
    }
}

async fn housekeeping(shard: Rc<Shard>) {
    let mut segments: BTreeMap<(String, i32), usize> = BTreeMap::new();
    let is_page_cache = shard.journal().is_none();
    while !shard.is_stopping() {
        shard.io.sleep(HOUSEKEEPING).await;
        let expiration_ms = alter::producer_id_expiration_ms(&shard);
        let mut any = false;
        for (count, partition) in shard.partitions().into_iter().enumerate() {
            if count % LOOKED_AT_ONCE == LOOKED_AT_ONCE - 1 {
                shard.io.yield_now().await;
            }
            partition
                .producers()
                .borrow_mut()
                .expire(shard.io.wall_ms(), expiration_ms);
            partition.log.rest();
            if !is_page_cache {
                continue;
            }
            let key = (partition.topic().name.clone(), partition.index);
            let count = partition.log.segment_count();
            let before = segments.insert(key, count).unwrap_or(count);
            // As Kafka does in page-cache mode: what was rolled is synced.
            if count != before && partition.log.is_dirty() {
                flush(&partition).await;
                any = true;
            }
        }
        if any {
            checkpoints::record_recovery_points(&shard, recovery_points(&shard)).await;
        }
    }
}

async fn flush(partition: &Partition) {
    if let Err(error) = partition.log.flush().await {
        log::error!(
            "Syncing {}-{}: {error}",
            partition.topic().name,
            partition.index
        );
    }
}

/// `flush.ms` of page-cache mode; in durable mode everything is durable sooner.
async fn flush_by_time(shard: Rc<Shard>) {
    if shard.journal().is_some() {
        return;
    }
    let mut dirty_since: BTreeMap<(String, i32), i64> = BTreeMap::new();
    while !shard.is_stopping() {
        let partitions = shard.partitions();
        let timed: Vec<_> = partitions
            .into_iter()
            .filter(|partition| partition.topic().config.flush_ms < i64::MAX)
            .collect();
        let pause = if timed.is_empty() {
            HOUSEKEEPING
        } else {
            FLUSH_CHECK
        };
        shard.io.sleep(pause).await;
        for partition in timed {
            let key = (partition.topic().name.clone(), partition.index);
            if !partition.log.is_dirty() {
                dirty_since.remove(&key);
                continue;
            }
            let now_ms = shard.io.wall_ms();
            let since = *dirty_since.entry(key.clone()).or_insert(now_ms);
            if now_ms - since >= partition.topic().config.flush_ms {
                flush(&partition).await;
                dirty_since.remove(&key);
            }
        }
    }
}

/// Closes one log; `None` if it is being deleted: nobody misses it.
async fn close(shard: &Rc<Shard>, partition: &Rc<Partition>) -> Result<Option<End>, String> {
    let log = &partition.log;
    let point = match log.close().await {
        Ok(point) => point,
        Err(_) if !shard.has(partition) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    // A log without records had no producers, and there may be very many of them.
    if log.log_end_offset() > 0
        && let Err(error) = boot::write_snapshot(shard, partition).await
    {
        log::warn!("No producer snapshot: {error}");
    }
    Ok(Some(End {
        partition: (partition.topic().name.clone(), partition.index),
        recovery_point: point,
        log_start_offset: log.log_start_offset(),
        is_clean: true,
    }))
}

/// Ends the shard cleanly: connections closed, logs synced and closed, the journal empty.
///
/// # Errors
/// What could not be made durable; the next start recovers it then.
pub async fn stop(shard: &Rc<Shard>) -> Result<Ends, String> {
    shard.begin_stop();
    shard.openings.all_opened().await;
    // Of a topic that was created anew meanwhile the new partition's end counts, which comes later.
    let mut ends = shard.openings.unopened();
    let mut first_error = None;
    let partitions = shard.partitions();
    let closing = partitions.iter().map(|partition| close(shard, partition));
    let mut closed = stream::iter(closing).buffer_unordered(CLOSED_AT_ONCE);
    while let Some(closed) = closed.next().await {
        match closed {
            Ok(end) => ends.extend(end),
            Err(error) => {
                first_error.get_or_insert(error);
            }
        }
    }
    if shard.id == 0 {
        shard.store().end_checkpoints().await;
    }
    if let Some(error) = first_error {
        return Err(error);
    }
    if let Some(journal) = shard.journal() {
        journal.close().await.map_err(|error| error.to_string())?;
    }
    Ok(ends)
}
