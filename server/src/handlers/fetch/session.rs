//! Incremental fetch sessions (KIP-227): a consumer names its partitions once, and later only what
//! changes; the answers hold only the partitions with news.
//!
//! The sessions of a connection's shard; a client that comes back on another shard is told
//! FETCH_SESSION_ID_NOT_FOUND and begins anew, as after an eviction.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::protocol::StrBytes;
use ringlog_engine::clock::Instant;
use uuid::Uuid;

use super::encode::PartitionAnswer;
use super::read::Found;
use crate::metadata::state::Image;

/// A session that was not used for so long may make room for another (Kafka's
/// `min.incremental.fetch.session.eviction.ms`).
const EVICTION: Duration = Duration::from_secs(120);
const EPOCH_INITIAL: i32 = 0;
const EPOCH_FINAL: i32 = -1;

/// A partition that a fetch asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Its topic; empty if the id is unknown.
    pub topic: StrBytes,
    /// The topic's id, from version 13 on.
    pub topic_id: Uuid,
    /// Its number.
    pub index: i32,
    /// The first offset wanted.
    pub fetch_offset: i64,
    /// The leader epoch that the client knows, -1 = none.
    pub leader_epoch: i32,
    /// Most bytes wanted.
    pub max_bytes: u32,
    /// Why it cannot be read at all.
    pub error: Option<ResponseError>,
    /// High watermark and log start offset of the last answer.
    told: Option<(i64, i64)>,
}

impl Wanted {
    fn is_same(&self, topic: &str, topic_id: Uuid, index: i32) -> bool {
        self.index == index
            && if topic_id.is_nil() {
                *self.topic == *topic
            } else {
                self.topic_id == topic_id
            }
    }
}

#[derive(Debug)]
struct Session {
    epoch: i32,
    partitions: Vec<Wanted>,
    used: Instant,
    /// Its partitions are out, in the [`Context`] of a fetch that is under way.
    busy: bool,
}

/// The sessions of a shard.
#[derive(Debug)]
pub struct Sessions {
    open: BTreeMap<i32, Session>,
    slots: usize,
    next_id: i32,
    step: i32,
}

/// What one fetch works on.
#[derive(Debug)]
pub struct Context {
    /// The partitions, in the order in which they are read.
    pub wanted: Vec<Wanted>,
    session: Option<i32>,
    /// Only partitions with news are answered.
    incremental: bool,
}

impl Context {
    /// Whether the partition belongs into the answer.
    pub fn is_news(&self, slot: usize, found: &Found) -> bool {
        !self.incremental
            || found.error.is_some()
            || found.slice.is_some()
            || self.wanted[slot].told != Some((found.high_watermark, found.log_start_offset))
    }
}

impl Sessions {
    /// The sessions of shard `shard` of `shards`, at most `slots`.
    pub fn new(shard: usize, shards: usize, slots: u32) -> Sessions {
        let id = |number: usize| i32::try_from(number).unwrap_or(1).max(1);
        Sessions {
            open: BTreeMap::new(),
            slots: slots as usize,
            next_id: id(shard + 1),
            step: id(shards),
        }
    }

    /// Finds or begins the session that the request names, with the request's changes.
    ///
    /// # Errors
    /// FETCH_SESSION_ID_NOT_FOUND, INVALID_FETCH_SESSION_EPOCH.
    pub fn open(
        &mut self,
        request: FetchRequest,
        version: i16,
        image: &Image,
        now: Instant,
    ) -> Result<Context, ResponseError> {
        let (id, epoch) = (request.session_id, request.session_epoch);
        if version < 7 || epoch == EPOCH_FINAL {
            if version >= 7 {
                self.open.remove(&id);
            }
            let wanted = wanted(&request, version, image);
            return Ok(Context {
                wanted,
                session: None,
                incremental: false,
            });
        }
        if epoch == EPOCH_INITIAL {
            self.open.remove(&id);
            let wanted = wanted(&request, version, image);
            let session = self.begin(now);
            return Ok(Context {
                wanted,
                session,
                incremental: false,
            });
        }
        let session = self
            .open
            .get_mut(&id)
            .ok_or(ResponseError::FetchSessionIdNotFound)?;
        if session.busy || session.epoch != epoch {
            return Err(ResponseError::InvalidFetchSessionEpoch);
        }
        session.epoch = if epoch == i32::MAX { 1 } else { epoch + 1 };
        session.used = now;
        session.busy = true;
        let mut partitions = std::mem::take(&mut session.partitions);
        update(&mut partitions, request, version, image);
        Ok(Context {
            wanted: partitions,
            session: Some(id),
            incremental: true,
        })
    }

    fn begin(&mut self, now: Instant) -> Option<i32> {
        if self.open.len() >= self.slots {
            let oldest = self.open.iter().min_by_key(|(_, session)| session.used)?;
            if now.since(oldest.1.used) < EVICTION {
                return None;
            }
            let oldest = *oldest.0;
            self.open.remove(&oldest);
        }
        let id = self.next_id;
        self.next_id = self.next_id.checked_add(self.step).unwrap_or(self.step);
        let session = Session {
            epoch: 1,
            partitions: Vec::new(),
            used: now,
            busy: true,
        };
        self.open.insert(id, session);
        Some(id)
    }

    /// Puts the partitions back, those that got records last, so that all get their turn. Gives
    /// the session id for the answer, 0 if there is none.
    pub fn close(
        &mut self,
        context: &mut Context,
        answers: &[PartitionAnswer],
        now: Instant,
    ) -> i32 {
        let Some((id, session)) = context
            .session
            .and_then(|id| Some((id, self.open.get_mut(&id)?)))
        else {
            return 0;
        };
        for answer in answers {
            let told = (answer.high_watermark, answer.log_start_offset);
            context.wanted[answer.slot].told = answer.error.is_none().then_some(told);
        }
        let mut served = vec![false; context.wanted.len()];
        for answer in answers.iter().filter(|answer| answer.records.is_some()) {
            served[answer.slot] = true;
        }
        let order = |wanted: bool| {
            let served = &served;
            context
                .wanted
                .iter()
                .enumerate()
                .filter(move |(slot, _)| served[*slot] == wanted)
        };
        session.partitions = order(false)
            .chain(order(true))
            .map(|(_, wanted)| wanted.clone())
            .collect();
        session.used = now;
        session.busy = false;
        id
    }
}

fn wanted(request: &FetchRequest, version: i16, image: &Image) -> Vec<Wanted> {
    let mut all = Vec::new();
    for topic in &request.topics {
        let (name, error) = if version < 13 {
            (topic.topic.0.clone(), None)
        } else {
            match image.topic_by_id(topic.topic_id) {
                Some(found) => (StrBytes::from_string(found.name.clone()), None),
                None => (StrBytes::default(), Some(ResponseError::UnknownTopicId)),
            }
        };
        for partition in &topic.partitions {
            all.push(Wanted {
                topic: name.clone(),
                topic_id: if version < 13 {
                    Uuid::nil()
                } else {
                    topic.topic_id
                },
                index: partition.partition,
                fetch_offset: partition.fetch_offset,
                leader_epoch: if version >= 9 {
                    partition.current_leader_epoch
                } else {
                    -1
                },
                max_bytes: u32::try_from(partition.partition_max_bytes).unwrap_or(0),
                error,
                told: None,
            });
        }
    }
    all
}

/// Takes over what an incremental request adds, changes and forgets.
fn update(partitions: &mut Vec<Wanted>, request: FetchRequest, version: i16, image: &Image) {
    for forgotten in &request.forgotten_topics_data {
        let id = if version < 13 {
            Uuid::nil()
        } else {
            forgotten.topic_id
        };
        partitions.retain(|kept| {
            !forgotten
                .partitions
                .iter()
                .any(|index| kept.is_same(&forgotten.topic, id, *index))
        });
    }
    for changed in wanted(&request, version, image) {
        let same =
            |kept: &&mut Wanted| kept.is_same(&changed.topic, changed.topic_id, changed.index);
        match partitions.iter_mut().find(same) {
            Some(kept) => {
                *kept = Wanted {
                    told: kept.told,
                    ..changed
                }
            }
            None => partitions.push(changed),
        }
    }
    // A topic may have been created meanwhile.
    for kept in partitions.iter_mut().filter(|kept| kept.error.is_some()) {
        if let Some(topic) = image.topic_by_id(kept.topic_id) {
            kept.topic = StrBytes::from_string(topic.name.clone());
            kept.error = None;
        }
    }
}
