//! OffsetCommit, version 0 to 9, and OffsetDelete, version 0.
//!
//! | version | what changes |
//! |---|---|
//! | 0 | no group, no generation; Kafka writes to ZooKeeper, we store it like the others |
//! | 1 | generation and member id; a commit timestamp per partition |
//! | 2 to 4 | retention time of the whole request instead of the timestamp |
//! | 5 | no retention time: the broker's counts from when the group is empty (KIP-211) |
//! | 6 | leader epoch per partition (KIP-320) |
//! | 7 | group.instance.id (KIP-345) |
//! | 8 | flexible |
//! | 9 | as 8, for the KIP-848 protocol |
//!
//! Whether a topic exists and whether the client may read it is checked before (KafkaApis.scala).

use super::action::{GroupRecord, GroupResponse};
use super::context::{Context, PendingAppend, TopicPartition, own, store_offsets_error};
use super::group_state::{CONSUMER_PROTOCOL_TYPE, Group, GroupState};
use super::offsets::OffsetAndMetadata;
use super::record_format::{FormatError, encode_group_key, encode_offset_key, encode_offset_value};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestPartition;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
};

/// The answer with one error for every partition of the request.
pub(super) fn error_response(
    request: &OffsetCommitRequest,
    error: ResponseError,
) -> OffsetCommitResponse {
    commit_response(request, |_| error.code())
}

fn commit_response(
    request: &OffsetCommitRequest,
    mut code: impl FnMut(&OffsetCommitRequestPartition) -> i16,
) -> OffsetCommitResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(code(partition))
        });
        OffsetCommitResponseTopic::default()
            .with_name(own(&topic.name).into())
            .with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

/// The answer with one error for the group.
pub(super) fn delete_error_response(error: ResponseError) -> OffsetDeleteResponse {
    OffsetDeleteResponse::default().with_error_code(error.code())
}

impl Group {
    /// OffsetCommit: answered when the records are in the log.
    pub(super) fn commit(
        &mut self,
        context: &mut Context,
        ticket: u64,
        request: &OffsetCommitRequest,
    ) {
        if let Err(error) = self.validate_commit(request) {
            let response = error_response(request, error);
            return context.reply(ticket, |_| GroupResponse::OffsetCommit(response));
        }
        if self.state != GroupState::Empty {
            self.touch(context, &request.member_id);
        }
        let too_large = |partition: &OffsetCommitRequestPartition| {
            let max = context.config.offset_metadata_max_bytes;
            partition
                .committed_metadata
                .as_ref()
                .is_some_and(|metadata| {
                    metadata.len() > max && metadata.encode_utf16().count() > max
                })
        };
        let response = commit_response(request, |partition| match too_large(partition) {
            true => ResponseError::OffsetMetadataTooLarge.code(),
            false => 0,
        });
        let mut offsets: Vec<(TopicPartition, OffsetAndMetadata)> = Vec::new();
        for topic in &request.topics {
            let name = own(&topic.name);
            let fit = topic
                .partitions
                .iter()
                .filter(|partition| !too_large(partition));
            offsets.extend(fit.map(|partition| {
                let value = offset_to_store(partition, request.retention_time_ms, context.now_ms);
                ((name.clone(), partition.partition_index), value)
            }));
        }
        if offsets.is_empty() {
            return context.reply(ticket, |_| GroupResponse::OffsetCommit(response));
        }
        match self.offset_records(&offsets) {
            Ok(records) => {
                let partitions: Vec<TopicPartition> = offsets
                    .iter()
                    .map(|(partition, _)| partition.clone())
                    .collect();
                let group = self.key();
                let then = PendingAppend::OffsetCommit {
                    group,
                    ticket,
                    offsets,
                    response,
                };
                let token = context.append(self.partition, records, then);
                for partition in partitions {
                    self.offsets.begin_commit(partition, token.0);
                }
            }
            Err(_) => {
                let response = error_response(request, ResponseError::UnknownServerError);
                context.reply(ticket, |_| GroupResponse::OffsetCommit(response));
            }
        }
    }

    /// A commit without generation may only go into an empty group: from a consumer that assigns
    /// its partitions itself, or a tool. Otherwise only members of this generation commit.
    fn validate_commit(&self, request: &OffsetCommitRequest) -> Result<(), ResponseError> {
        let generation = request.generation_id_or_member_epoch;
        if generation < 0 && self.state == GroupState::Empty {
            return Ok(());
        }
        self.validate_member(&request.member_id, request.group_instance_id.as_ref())?;
        if generation != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        match self.state {
            // The member knows its generation, so it has to fetch its assignment first.
            GroupState::CompletingRebalance => Err(ResponseError::RebalanceInProgress),
            GroupState::Empty
            | GroupState::PreparingRebalance
            | GroupState::Stable
            | GroupState::Dead => Ok(()),
        }
    }

    fn offset_records(
        &self,
        offsets: &[(TopicPartition, OffsetAndMetadata)],
    ) -> Result<Vec<GroupRecord>, FormatError> {
        offsets
            .iter()
            .map(|((topic, partition), value)| {
                let key = encode_offset_key(&self.id, topic, *partition)?;
                Ok((key, Some(encode_offset_value(value)?)))
            })
            .collect()
    }

    /// The commit's append ended: its offsets are visible, or dropped.
    pub(super) fn commit_stored(
        &mut self,
        order: u64,
        offsets: Vec<(TopicPartition, OffsetAndMetadata)>,
        appended: bool,
    ) {
        for (partition, value) in offsets {
            self.offsets
                .end_commit(&partition, order, appended.then_some(value));
        }
    }

    /// OffsetDelete: the partitions' errors, and the tombstones to write. In a live group only
    /// offsets of topics that no member is subscribed to go (KIP-496).
    pub(super) fn delete_offsets(
        &mut self,
        request: &OffsetDeleteRequest,
    ) -> Result<(OffsetDeleteResponse, Vec<GroupRecord>), ResponseError> {
        let is_empty = self.state == GroupState::Empty;
        let is_consumer = self
            .protocol_type
            .as_ref()
            .is_some_and(|name| name.as_str() == CONSUMER_PROTOCOL_TYPE);
        if !is_empty && !is_consumer {
            return Err(ResponseError::NonEmptyGroup);
        }
        let mut tombstones = Vec::new();
        let mut topics = Vec::new();
        for topic in &request.topics {
            let name = own(&topic.name);
            let subscribed = !is_empty && self.is_subscribed_to(&name);
            let code = if subscribed {
                ResponseError::GroupSubscribedToTopic.code()
            } else {
                0
            };
            let mut partitions = Vec::new();
            for partition in &topic.partitions {
                let index = partition.partition_index;
                let removed = !subscribed && self.offsets.remove(&(name.clone(), index));
                if removed && let Ok(key) = encode_offset_key(&self.id, &name, index) {
                    tombstones.push((key, None));
                }
                partitions.push(
                    OffsetDeleteResponsePartition::default()
                        .with_partition_index(index)
                        .with_error_code(code),
                );
            }
            let topic = OffsetDeleteResponseTopic::default().with_name(name.into());
            topics.push(topic.with_partitions(partitions));
        }
        Ok((
            OffsetDeleteResponse::default().with_topics(topics),
            tombstones,
        ))
    }

    /// The tombstones of all offsets, which are forgotten.
    pub(super) fn delete_all_offsets(&mut self) -> Vec<GroupRecord> {
        let removed = self.offsets.remove_all();
        self.offset_tombstones(removed)
    }

    /// The tombstones of these partitions. What is in the log has a key that fits the format.
    pub(super) fn offset_tombstones(
        &self,
        partitions: impl IntoIterator<Item = TopicPartition>,
    ) -> Vec<GroupRecord> {
        let keys = partitions
            .into_iter()
            .filter_map(|(topic, partition)| encode_offset_key(&self.id, &topic, partition).ok());
        keys.map(|key| (key, None)).collect()
    }

    /// The tombstone of the group itself, which only a group that had a generation has in the log.
    pub(super) fn group_tombstone(&self) -> Option<GroupRecord> {
        let key = encode_group_key(&self.id).ok()?;
        (self.generation > 0).then_some((key, None))
    }
}

/// The answer once the append ended: a partition that was refused before keeps its error.
pub(super) fn stored_response(
    mut response: OffsetCommitResponse,
    result: Result<(), ResponseError>,
) -> GroupResponse {
    if let Err(error) = result {
        let code = store_offsets_error(error).code();
        let partitions = response
            .topics
            .iter_mut()
            .flat_map(|topic| &mut topic.partitions);
        for partition in partitions.filter(|partition| partition.error_code == 0) {
            partition.error_code = code;
        }
    }
    GroupResponse::OffsetCommit(response)
}

fn offset_to_store(
    partition: &OffsetCommitRequestPartition,
    retention_time_ms: i64,
    now_ms: i64,
) -> OffsetAndMetadata {
    OffsetAndMetadata {
        offset: partition.committed_offset,
        leader_epoch: partition.committed_leader_epoch,
        metadata: own(partition.committed_metadata.as_deref().unwrap_or_default()),
        commit_timestamp_ms: match partition.commit_timestamp {
            -1 => now_ms,
            told_ms => told_ms,
        },
        expire_timestamp_ms: match retention_time_ms {
            -1 => None,
            retention_ms => Some(now_ms.saturating_add(retention_ms)),
        },
    }
}
