//! The records of `__consumer_offsets`, byte for byte as Kafka's
//! `group-coordinator/src/main/resources/common/message/{OffsetCommitKey,OffsetCommitValue,
//! GroupMetadataKey,GroupMetadataValue}.json`. Everything is big-endian; `string` is an i16 length
//! and UTF-8, `bytes` an i32 length and bytes, -1 is null.
//!
//! ```text
//! key 0, 1   offset     i16 version | string group | string topic | i32 partition
//! key 2      group      i16 version | string group
//!
//! offset value, i16 version first:
//!   0   i64 offset | string metadata | i64 commit timestamp
//!   1   ..         | ..              | ..                   | i64 expire timestamp
//!   2   as 0
//!   3   i64 offset | i32 leader epoch | string metadata | i64 commit timestamp
//!   4   as 3, flexible (compact string, tagged fields)
//! group value, i16 version first:
//!   string protocol type | i32 generation | string? protocol | string? leader
//!   | 2+: i64 current state timestamp | i32 count, members:
//!   string member id | 3+: string? instance id | string client id | string client host
//!   | 1+: i32 rebalance timeout | i32 session timeout | bytes subscription | bytes assignment
//!   4 is flexible
//! ```
//!
//! Written, as by Kafka 3.9: key 1 and 2; offset value 3, or 1 if it has an expire timestamp; group
//! value 3. Read: all. Lengths are checked against the bytes present before anything is allocated,
//! and what is read is copied, so that it does not pin the buffer of the log.

use super::offsets::OffsetAndMetadata;
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;

/// Why a record cannot be read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormatError {
    /// The record ends before its fields do.
    Truncated,
    /// A length is negative where null is not allowed, or longer than a varint may be.
    BadLength,
    /// A string is not UTF-8.
    NotUtf8,
    /// A string does not fit into the i16 length of the format.
    TooLong,
    /// A value in a version that Kafka 3.9 does not know either.
    UnknownVersion(i16),
}

impl std::fmt::Display for FormatError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Truncated => formatter.write_str("the record ends before its fields do"),
            Self::BadLength => formatter.write_str("a field has an impossible length"),
            Self::NotUtf8 => formatter.write_str("a string is not UTF-8"),
            Self::TooLong => formatter.write_str("a string is longer than 32767 bytes"),
            Self::UnknownVersion(version) => write!(formatter, "unknown value version {version}"),
        }
    }
}

impl std::error::Error for FormatError {}

/// What a record is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordKey {
    /// A committed offset (key version 0 or 1).
    Offset {
        /// The group.
        group: StrBytes,
        /// The topic.
        topic: StrBytes,
        /// The partition.
        partition: i32,
    },
    /// The metadata of a group (key version 2).
    Group {
        /// The group.
        group: StrBytes,
    },
    /// Another key, such as those of KIP-848 (3 and more); Kafka's classic coordinator skips it too.
    Unknown {
        /// The version of the key.
        version: i16,
    },
}

/// The value of a group's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMetadataValue {
    /// `consumer` for consumers; may be empty.
    pub protocol_type: StrBytes,
    /// The generation.
    pub generation: i32,
    /// The protocol (assignor) of the generation, none if the group is empty.
    pub protocol: Option<StrBytes>,
    /// The leader's member id.
    pub leader: Option<StrBytes>,
    /// When the group entered its state; -1 before version 2.
    pub current_state_timestamp_ms: i64,
    /// The members.
    pub members: Vec<MemberMetadataValue>,
}

/// A member in the value of a group's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberMetadataValue {
    /// Its id.
    pub member_id: StrBytes,
    /// Its `group.instance.id` (KIP-345).
    pub group_instance_id: Option<StrBytes>,
    /// Its client id.
    pub client_id: StrBytes,
    /// Its address.
    pub client_host: StrBytes,
    /// Its rebalance timeout; the session timeout in version 0.
    pub rebalance_timeout_ms: i32,
    /// Its session timeout.
    pub session_timeout_ms: i32,
    /// What it said under the chosen protocol.
    pub subscription: Bytes,
    /// What the leader assigned to it.
    pub assignment: Bytes,
}

const OFFSET_KEY_VERSION: i16 = 1;
const GROUP_KEY_VERSION: i16 = 2;
const VALUE_VERSION_MAX: i16 = 4;
const VALUE_VERSION_FLEXIBLE: i16 = 4;

/// The key of a committed offset.
pub fn encode_offset_key(group: &str, topic: &str, partition: i32) -> Result<Bytes, FormatError> {
    let mut out = BytesMut::with_capacity(10 + group.len() + topic.len());
    out.put_i16(OFFSET_KEY_VERSION);
    put_string(&mut out, group)?;
    put_string(&mut out, topic)?;
    out.put_i32(partition);
    Ok(out.freeze())
}

/// The key of a group's metadata.
pub fn encode_group_key(group: &str) -> Result<Bytes, FormatError> {
    let mut out = BytesMut::with_capacity(4 + group.len());
    out.put_i16(GROUP_KEY_VERSION);
    put_string(&mut out, group)?;
    Ok(out.freeze())
}

/// The value of a committed offset: version 1 if it has its own expiry, else 3.
pub fn encode_offset_value(value: &OffsetAndMetadata) -> Result<Bytes, FormatError> {
    let mut out = BytesMut::with_capacity(28 + value.metadata.len());
    match value.expire_timestamp_ms {
        Some(expire_timestamp_ms) => {
            out.put_i16(1);
            out.put_i64(value.offset);
            put_string(&mut out, &value.metadata)?;
            out.put_i64(value.commit_timestamp_ms);
            out.put_i64(expire_timestamp_ms);
        }
        None => {
            out.put_i16(3);
            out.put_i64(value.offset);
            out.put_i32(value.leader_epoch);
            put_string(&mut out, &value.metadata)?;
            out.put_i64(value.commit_timestamp_ms);
        }
    }
    Ok(out.freeze())
}

/// The value of a group's metadata, version 3.
pub fn encode_group_value(value: &GroupMetadataValue) -> Result<Bytes, FormatError> {
    let mut out = BytesMut::new();
    out.put_i16(3);
    put_string(&mut out, &value.protocol_type)?;
    out.put_i32(value.generation);
    put_nullable_string(&mut out, value.protocol.as_ref())?;
    put_nullable_string(&mut out, value.leader.as_ref())?;
    out.put_i64(value.current_state_timestamp_ms);
    out.put_i32(i32::try_from(value.members.len()).map_err(|_| FormatError::TooLong)?);
    for member in &value.members {
        put_string(&mut out, &member.member_id)?;
        put_nullable_string(&mut out, member.group_instance_id.as_ref())?;
        put_string(&mut out, &member.client_id)?;
        put_string(&mut out, &member.client_host)?;
        out.put_i32(member.rebalance_timeout_ms);
        out.put_i32(member.session_timeout_ms);
        put_bytes(&mut out, &member.subscription)?;
        put_bytes(&mut out, &member.assignment)?;
    }
    Ok(out.freeze())
}

/// Reads a key.
pub fn decode_key(key: &[u8]) -> Result<RecordKey, FormatError> {
    let mut reader = Reader::new(key);
    match reader.i16()? {
        0 | OFFSET_KEY_VERSION => Ok(RecordKey::Offset {
            group: reader.string()?,
            topic: reader.string()?,
            partition: reader.i32()?,
        }),
        GROUP_KEY_VERSION => Ok(RecordKey::Group {
            group: reader.string()?,
        }),
        version => Ok(RecordKey::Unknown { version }),
    }
}

/// Reads the value of a committed offset.
pub fn decode_offset_value(value: &[u8]) -> Result<OffsetAndMetadata, FormatError> {
    let (mut reader, version) = Reader::of_value(value)?;
    let offset = reader.i64()?;
    let leader_epoch = if version >= 3 { reader.i32()? } else { -1 };
    let metadata = reader.string()?;
    let commit_timestamp_ms = reader.i64()?;
    let expire_timestamp_ms = if version == 1 { reader.i64()? } else { -1 };
    reader.tagged_fields()?;
    Ok(OffsetAndMetadata {
        offset,
        leader_epoch,
        metadata,
        commit_timestamp_ms,
        expire_timestamp_ms: (expire_timestamp_ms != -1).then_some(expire_timestamp_ms),
    })
}

/// Reads the value of a group's metadata.
pub fn decode_group_value(value: &[u8]) -> Result<GroupMetadataValue, FormatError> {
    let (mut reader, version) = Reader::of_value(value)?;
    let protocol_type = reader.string()?;
    let generation = reader.i32()?;
    let protocol = reader.nullable_string()?;
    let leader = reader.nullable_string()?;
    let current_state_timestamp_ms = if version >= 2 { reader.i64()? } else { -1 };
    let mut members = Vec::new();
    for _ in 0..reader.array_length()? {
        let member_id = reader.string()?;
        let group_instance_id = if version >= 3 {
            reader.nullable_string()?
        } else {
            None
        };
        let client_id = reader.string()?;
        let client_host = reader.string()?;
        let rebalance_timeout_ms = if version >= 1 {
            Some(reader.i32()?)
        } else {
            None
        };
        let session_timeout_ms = reader.i32()?;
        let subscription = reader.bytes()?;
        let assignment = reader.bytes()?;
        reader.tagged_fields()?;
        members.push(MemberMetadataValue {
            member_id,
            group_instance_id,
            client_id,
            client_host,
            rebalance_timeout_ms: rebalance_timeout_ms.unwrap_or(session_timeout_ms),
            session_timeout_ms,
            subscription,
            assignment,
        });
    }
    reader.tagged_fields()?;
    Ok(GroupMetadataValue {
        protocol_type,
        generation,
        protocol,
        leader,
        current_state_timestamp_ms,
        members,
    })
}

/// The topics of a consumer's subscription, which every version of Kafka's ConsumerProtocol begins
/// with (`clients/src/main/resources/common/message/ConsumerProtocolSubscription.json`):
/// `i16 version | i32 count, string topic ..`.
pub(super) fn decode_subscribed_topics(metadata: &[u8]) -> Result<Vec<StrBytes>, FormatError> {
    let mut reader = Reader::new(metadata);
    if reader.i16()? < 0 {
        return Err(FormatError::BadLength);
    }
    let mut topics = Vec::new();
    for _ in 0..reader.array_length()? {
        topics.push(reader.string()?);
    }
    Ok(topics)
}

fn put_string(out: &mut BytesMut, text: &str) -> Result<(), FormatError> {
    out.put_i16(i16::try_from(text.len()).map_err(|_| FormatError::TooLong)?);
    out.put_slice(text.as_bytes());
    Ok(())
}

fn put_nullable_string(out: &mut BytesMut, text: Option<&StrBytes>) -> Result<(), FormatError> {
    match text {
        Some(text) => put_string(out, text),
        None => {
            out.put_i16(-1);
            Ok(())
        }
    }
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) -> Result<(), FormatError> {
    out.put_i32(i32::try_from(bytes.len()).map_err(|_| FormatError::TooLong)?);
    out.put_slice(bytes);
    Ok(())
}

/// Reads fields from the front of what is left, in the plain or the flexible encoding.
struct Reader<'a> {
    left: &'a [u8],
    flexible: bool,
}

impl<'a> Reader<'a> {
    fn new(left: &'a [u8]) -> Self {
        Self {
            left,
            flexible: false,
        }
    }

    /// A value whose version lies in 0..=4.
    fn of_value(value: &'a [u8]) -> Result<(Self, i16), FormatError> {
        let mut reader = Self::new(value);
        let version = reader.i16()?;
        if !(0..=VALUE_VERSION_MAX).contains(&version) {
            return Err(FormatError::UnknownVersion(version));
        }
        reader.flexible = version >= VALUE_VERSION_FLEXIBLE;
        Ok((reader, version))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], FormatError> {
        let (taken, left) = self
            .left
            .split_at_checked(length)
            .ok_or(FormatError::Truncated)?;
        self.left = left;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (taken, left) = self
            .left
            .split_first_chunk()
            .ok_or(FormatError::Truncated)?;
        self.left = left;
        Ok(*taken)
    }

    fn i16(&mut self) -> Result<i16, FormatError> {
        self.array().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, FormatError> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, FormatError> {
        self.array().map(i64::from_be_bytes)
    }

    fn unsigned_varint(&mut self) -> Result<u32, FormatError> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(FormatError::BadLength)
    }

    /// The length of a flexible field: one more than told, 0 is null.
    fn compact_length(&mut self) -> Result<Option<usize>, FormatError> {
        let told = self.unsigned_varint()?;
        Ok(told.checked_sub(1).map(|length| length as usize))
    }

    fn nullable_string(&mut self) -> Result<Option<StrBytes>, FormatError> {
        let length = if self.flexible {
            self.compact_length()?
        } else {
            match self.i16()? {
                -1 => None,
                length => Some(usize::try_from(length).map_err(|_| FormatError::BadLength)?),
            }
        };
        let Some(length) = length else {
            return Ok(None);
        };
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| FormatError::NotUtf8)?;
        Ok(Some(super::context::own(text)))
    }

    fn string(&mut self) -> Result<StrBytes, FormatError> {
        self.nullable_string()?.ok_or(FormatError::BadLength)
    }

    fn bytes(&mut self) -> Result<Bytes, FormatError> {
        let length = if self.flexible {
            self.compact_length()?.ok_or(FormatError::BadLength)?
        } else {
            usize::try_from(self.i32()?).map_err(|_| FormatError::BadLength)?
        };
        Ok(Bytes::copy_from_slice(self.take(length)?))
    }

    /// A count of elements; nothing is allocated by it.
    fn array_length(&mut self) -> Result<usize, FormatError> {
        if self.flexible {
            self.compact_length()?.ok_or(FormatError::BadLength)
        } else {
            usize::try_from(self.i32()?).map_err(|_| FormatError::BadLength)
        }
    }

    /// Skips tagged fields (KIP-482), which only the flexible encoding has.
    fn tagged_fields(&mut self) -> Result<(), FormatError> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.unsigned_varint()? {
            self.unsigned_varint()?;
            let length = self.unsigned_varint()?;
            self.take(length as usize)?;
        }
        Ok(())
    }
}
