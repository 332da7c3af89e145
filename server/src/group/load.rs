//! The log of a partition of `__consumer_offsets`, replayed into groups after a restart
//! (GroupMetadataManager.doLoadGroupsAndOffsets). Later records replace earlier ones of the same
//! key, tombstones remove them; keys that are not ours and records that cannot be read are counted
//! and skipped, so that one bad record does not take all groups away. Offsets that Apache Kafka has
//! committed within transactions (KIP-98) count once the transaction is: those of aborted ones and of
//! ones that are still open at the end of the log do not.

use super::context::{Context, TopicPartition};
use super::group_state::{Group, GroupState};
use super::member::Member;
use super::offsets::OffsetAndMetadata;
use super::record_format::{
    FormatError, GroupMetadataValue, MemberMetadataValue, RecordKey, decode_group_value,
    decode_key, decode_offset_value,
};
use kafka_protocol::protocol::StrBytes;
use ringlog_engine::record::builder::TransactionMarker;
use std::collections::BTreeMap;

/// What came out of a load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Groups with or without members.
    pub groups: usize,
    /// Committed offsets.
    pub offsets: usize,
    /// Records with a key that is not of the classic protocol.
    pub records_unknown: usize,
    /// Records that could not be read.
    pub records_bad: usize,
    /// Why the first of them could not.
    pub first_error: Option<FormatError>,
}

/// The offsets of a group; each with the place of its record in the order of the log.
type Offsets = BTreeMap<TopicPartition, (u64, OffsetAndMetadata)>;

/// Gathers the records of one partition in the order of the log; then
/// [`super::Coordinator::finish_load`] takes it.
#[derive(Debug, Default)]
pub struct LoadedGroups {
    groups: BTreeMap<StrBytes, GroupMetadataValue>,
    offsets: BTreeMap<StrBytes, Offsets>,
    /// Of transactions whose end has not come yet, by producer id.
    pending: BTreeMap<i64, BTreeMap<StrBytes, Offsets>>,
    /// Records so far.
    order: u64,
    report: LoadReport,
}

impl LoadedGroups {
    /// The next record of a batch that belongs to no transaction.
    pub fn record(&mut self, key: &[u8], value: Option<&[u8]>) {
        self.take(None, key, value);
    }

    /// The next record of a transaction of this producer: its offset counts once that is committed.
    pub fn transactional_record(&mut self, producer_id: i64, key: &[u8], value: Option<&[u8]>) {
        self.take(Some(producer_id), key, value);
    }

    /// A transaction has ended, as the next control record says. Of what was committed, offsets that
    /// were committed meanwhile by records behind it are not replaced.
    pub fn end_transaction(&mut self, producer_id: i64, marker: TransactionMarker) {
        let pending = self.pending.remove(&producer_id).unwrap_or_default();
        if marker == TransactionMarker::Abort {
            return;
        }
        for (group, offsets) in pending {
            let known = self.offsets.entry(group).or_default();
            for (partition, value) in offsets {
                if known.get(&partition).is_none_or(|old| old.0 < value.0) {
                    known.insert(partition, value);
                }
            }
        }
    }

    fn take(&mut self, transaction: Option<i64>, key: &[u8], value: Option<&[u8]>) {
        self.order += 1;
        if let Err(error) = self.apply(transaction, key, value) {
            self.report.records_bad += 1;
            self.report.first_error.get_or_insert(error);
        }
    }

    fn apply(
        &mut self,
        transaction: Option<i64>,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), FormatError> {
        match (decode_key(key)?, value) {
            (
                RecordKey::Offset {
                    group,
                    topic,
                    partition,
                },
                value,
            ) => {
                let value = value.map(decode_offset_value).transpose()?;
                let all = match transaction {
                    None => &mut self.offsets,
                    Some(producer_id) => self.pending.entry(producer_id).or_default(),
                };
                let offsets = all.entry(group.clone()).or_default();
                match value {
                    Some(value) => {
                        offsets.insert((topic, partition), (self.order, value));
                    }
                    None => {
                        offsets.remove(&(topic, partition));
                    }
                }
                if offsets.is_empty() {
                    all.remove(&group);
                }
            }
            (RecordKey::Group { group }, Some(value)) => {
                self.groups.insert(group, decode_group_value(value)?);
            }
            (RecordKey::Group { group }, None) => {
                self.groups.remove(&group);
            }
            (RecordKey::Unknown { .. }, _) => self.report.records_unknown += 1,
        }
        Ok(())
    }

    /// The groups, each with its offsets, and the report.
    pub(super) fn into_groups(
        mut self,
        context: &mut Context,
        partition: i32,
    ) -> (Vec<Group>, LoadReport) {
        let mut groups = Vec::new();
        for (id, value) in self.groups {
            let mut group = Group::new(context, &id, partition);
            group.restore_metadata(value);
            groups.push((group, self.offsets.remove(&id).unwrap_or_default()));
        }
        for (id, offsets) in self.offsets {
            groups.push((Group::new(context, &id, partition), offsets));
        }
        let mut report = self.report;
        let groups: Vec<Group> = groups
            .into_iter()
            .map(|(mut group, offsets)| {
                report.offsets += offsets.len();
                for (partition, (_, value)) in offsets {
                    group.offsets.restore(partition, value);
                }
                group
            })
            .collect();
        report.groups = groups.len();
        (groups, report)
    }
}

impl Group {
    /// The state in the log: Stable with members, Empty without.
    fn restore_metadata(&mut self, value: GroupMetadataValue) {
        let protocol = value.protocol.clone().unwrap_or_default();
        for member in value.members {
            // Two members of one id or one instance id cannot be written; the first one counts.
            let twice = self.members.contains_key(&member.member_id)
                || member
                    .group_instance_id
                    .as_ref()
                    .is_some_and(|id| self.static_members.contains_key(id));
            if !twice {
                self.add(&value.protocol_type, restored_member(member, &protocol));
            }
        }
        self.state = match self.members.is_empty() {
            true => GroupState::Empty,
            false => GroupState::Stable,
        };
        self.state_since_ms =
            (value.current_state_timestamp_ms != -1).then_some(value.current_state_timestamp_ms);
        self.generation = value.generation;
        self.protocol_type = Some(value.protocol_type).filter(|name| !name.is_empty());
        self.protocol_name = match self.members.is_empty() {
            true => value.protocol,
            false => Some(protocol),
        };
        if let Some(leader) = value
            .leader
            .filter(|leader| self.members.contains_key(leader))
        {
            self.leader = Some(leader);
        }
        self.subscribed_topics = self.compute_subscribed_topics();
    }
}

fn restored_member(value: MemberMetadataValue, protocol: &StrBytes) -> Member {
    Member {
        id: value.member_id,
        instance_id: value.group_instance_id,
        client_id: value.client_id,
        client_host: value.client_host,
        rebalance_timeout_ms: value.rebalance_timeout_ms,
        session_timeout_ms: value.session_timeout_ms,
        protocols: vec![(protocol.clone(), value.subscription)],
        assignment: value.assignment,
        awaiting_join: None,
        awaiting_sync: None,
        is_new: false,
        can_return: true,
    }
}
