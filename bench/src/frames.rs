//! The hot path's frames, by hand: built once, patched per request, answers read without decoding.
//!
//! ```text
//! request   0 size i32 | 4 api_key i16 | 6 api_version i16 | 8 correlation_id i32 | 12 client_id ..
//! answer    0 correlation_id i32 | body                    (its size prefix is taken off before)
//! ```
//! Produce v7 and Fetch v11 are versions without tagged fields that brokers from 2.3 to 4.x all serve;
//! Produce v7 is what allows zstd (KIP-110). Produce v0 to v8 and Fetch v2 are there for old formats. Only the correlation id and the fetch offset
//! are patched: neither lies under a batch's CRC. Tests hold the bytes against `kafka-protocol`.

use crate::failure::Failure;

/// Produce's API key.
pub(crate) const PRODUCE_KEY: i16 = 0;
/// What a load produces with unless it is told.
pub(crate) const PRODUCE_VERSION: i16 = 7;
/// The newest without tagged fields.
pub(crate) const PRODUCE_VERSION_MAX: i16 = 8;
/// Fetch's API key.
pub(crate) const FETCH_KEY: i16 = 1;
/// What records are read back with.
pub(crate) const FETCH_VERSION: i16 = 11;
/// The version of a client of 0.10.0.
pub(crate) const FETCH_VERSION_OLD: i16 = 2;
/// How the generator names itself.
pub(crate) const CLIENT_ID: &str = "ringlog-bench";

const CORRELATION_ID_AT: usize = 8;

/// A whole Produce request with one batch for one partition, size prefix included.
pub(crate) fn produce_frame(
    version: i16,
    (topic, partition): (&str, i32),
    acks: i16,
    batch: &[u8],
) -> Vec<u8> {
    let mut frame = request_header(PRODUCE_KEY, version, batch.len() + 128);
    if version >= 3 {
        put_i16(&mut frame, -1); // transactional_id: null
    }
    put_i16(&mut frame, acks);
    put_i32(&mut frame, 30_000); // timeout_ms
    put_i32(&mut frame, 1);
    put_string(&mut frame, topic);
    put_i32(&mut frame, 1);
    put_i32(&mut frame, partition);
    put_length(&mut frame, batch.len());
    frame.extend_from_slice(batch);
    seal(&mut frame);
    frame
}

/// Numbers a request.
pub(crate) fn set_correlation_id(frame: &mut [u8], correlation_id: i32) {
    frame[CORRELATION_ID_AT..CORRELATION_ID_AT + 4].copy_from_slice(&correlation_id.to_be_bytes());
}

/// `fetch.max.bytes` of Kafka's consumers: what all partitions of an answer may have together.
const FETCH_BYTES_IN_ALL: i32 = 50 << 20;

/// A Fetch request for partitions of one topic, without a session.
#[derive(Debug)]
pub(crate) struct FetchFrame {
    bytes: Vec<u8>,
    /// Where the offset of each partition stands.
    offsets_at: Vec<usize>,
    /// Where the partitions begin.
    partitions_at: usize,
    /// Which of them is asked for first.
    first: usize,
}

impl FetchFrame {
    /// A request for up to `bytes_max` bytes of the partition.
    pub(crate) fn new(topic: &str, partition: i32, bytes_max: i32) -> Self {
        Self::of_partitions(FETCH_VERSION, topic, &[partition], bytes_max)
    }

    /// A request of version 2 or 11 for up to `bytes_max` bytes of each partition.
    pub(crate) fn of_partitions(
        version: i16,
        topic: &str,
        partitions: &[i32],
        bytes_max: i32,
    ) -> Self {
        let is_new = version >= FETCH_VERSION;
        let mut frame = request_header(FETCH_KEY, version, 128 + 32 * partitions.len());
        put_i32(&mut frame, -1); // replica_id: a consumer
        put_i32(&mut frame, 500); // max_wait_ms
        put_i32(&mut frame, 1); // min_bytes
        if is_new {
            put_i32(&mut frame, FETCH_BYTES_IN_ALL.max(bytes_max));
            frame.push(0); // isolation_level: read_uncommitted
            put_i32(&mut frame, 0); // session_id
            put_i32(&mut frame, -1); // session_epoch: no session (KIP-227)
        }
        put_i32(&mut frame, 1);
        put_string(&mut frame, topic);
        put_length(&mut frame, partitions.len());
        let partitions_at = frame.len();
        let mut offsets_at = Vec::with_capacity(partitions.len());
        for partition in partitions {
            put_i32(&mut frame, *partition);
            if is_new {
                put_i32(&mut frame, -1); // current_leader_epoch
            }
            offsets_at.push(frame.len());
            put_i64(&mut frame, 0);
            if is_new {
                put_i64(&mut frame, -1); // log_start_offset
            }
            put_i32(&mut frame, bytes_max);
        }
        if is_new {
            put_i32(&mut frame, 0); // forgotten_topics_data
            put_string(&mut frame, ""); // rack_id
        }
        seal(&mut frame);
        Self {
            bytes: frame,
            offsets_at,
            partitions_at,
            first: 0,
        }
    }

    /// What of the partition with this place in the list is wanted next.
    pub(crate) fn set_offset(&mut self, place: usize, fetch_offset: i64) {
        let count = self.offsets_at.len();
        let at = self.offsets_at[(place + count - self.first) % count];
        self.bytes[at..at + 8].copy_from_slice(&fetch_offset.to_be_bytes());
    }

    /// Asks for another partition first: a broker that fills an answer begins with the first.
    pub(crate) fn rotate(&mut self) {
        let count = self.offsets_at.len();
        if let [one, other, ..] = self.offsets_at[..] {
            let each = other - one;
            self.bytes[self.partitions_at..][..count * each].rotate_left(each);
            self.first = (self.first + 1) % count;
        }
    }

    /// The request for what begins at `fetch_offset`; give it back with [`restore`](Self::restore).
    pub(crate) fn take(&mut self, correlation_id: i32, fetch_offset: i64) -> Vec<u8> {
        self.set_offset(0, fetch_offset);
        self.take_as_set(correlation_id)
    }

    /// The request for the offsets that were set; give it back with [`restore`](Self::restore).
    pub(crate) fn take_as_set(&mut self, correlation_id: i32) -> Vec<u8> {
        set_correlation_id(&mut self.bytes, correlation_id);
        std::mem::take(&mut self.bytes)
    }

    /// After the write.
    pub(crate) fn restore(&mut self, bytes: Vec<u8>) {
        self.bytes = bytes;
    }
}

/// What matters of a Produce answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProduceAnswer {
    /// The request's.
    pub(crate) correlation_id: i32,
    /// 0, or Kafka's error.
    pub(crate) error_code: i16,
    /// Of the batch.
    pub(crate) base_offset: i64,
}

/// Reads a Produce v7 answer for one partition.
///
/// # Errors
/// `Protocol` for anything else.
pub(crate) fn parse_produce(frame: &[u8]) -> Result<ProduceAnswer, Failure> {
    let mut fields = Fields(frame);
    let mut parse = || {
        let correlation_id = fields.i32()?;
        fields.one()?;
        fields.string()?;
        fields.one()?;
        fields.i32()?; // index
        let error_code = fields.i16()?;
        let base_offset = fields.i64()?;
        Some(ProduceAnswer {
            correlation_id,
            error_code,
            base_offset,
        })
    };
    parse().ok_or_else(|| not_an_answer("Produce", frame))
}

/// What matters of a Fetch answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FetchAnswer<'a> {
    /// The request's.
    pub(crate) correlation_id: i32,
    /// 0, or Kafka's error: the request's or else the partition's.
    pub(crate) error_code: i16,
    /// Where consumers may read up to.
    pub(crate) high_watermark: i64,
    /// Whole batches, and perhaps a part of one more.
    pub(crate) records: &'a [u8],
}

/// Reads a Fetch v11 answer for one partition.
///
/// # Errors
/// `Protocol` for anything else.
pub(crate) fn parse_fetch(frame: &[u8]) -> Result<FetchAnswer<'_>, Failure> {
    let mut fields = Fields(frame);
    let mut parse = || {
        let correlation_id = fields.i32()?;
        fields.i32()?; // throttle_time_ms
        let request_error = fields.i16()?;
        fields.i32()?; // session_id
        if request_error != 0 {
            return Some(FetchAnswer {
                correlation_id,
                error_code: request_error,
                high_watermark: -1,
                records: &[],
            });
        }
        fields.one()?;
        fields.string()?;
        fields.one()?;
        fields.i32()?; // partition_index
        let error_code = fields.i16()?;
        let high_watermark = fields.i64()?;
        fields.i64()?; // last_stable_offset
        fields.i64()?; // log_start_offset
        for _ in 0..fields.i32()?.max(0) {
            fields.take(16)?; // aborted_transactions: producer_id, first_offset
        }
        fields.i32()?; // preferred_read_replica
        let length = fields.i32()?.max(0); // null is -1
        let records = fields.take(usize::try_from(length).ok()?)?;
        Some(FetchAnswer {
            correlation_id,
            error_code,
            high_watermark,
            records,
        })
    };
    parse().ok_or_else(|| not_an_answer("Fetch", frame))
}

/// Reads a Fetch answer of version 2 or 11 for partitions of one topic; `each` gets the partition and
/// its error code and records. Gives the correlation id.
///
/// # Errors
/// `Protocol` for anything else, and the error of `each`.
pub(crate) fn parse_fetch_partitions<'a>(
    version: i16,
    frame: &'a [u8],
    mut each: impl FnMut(i32, i16, &'a [u8]) -> Result<(), Failure>,
) -> Result<i32, Failure> {
    let mut fields = Fields(frame);
    let damaged = || not_an_answer("Fetch", frame);
    let is_new = version >= FETCH_VERSION;
    let mut head = || {
        let correlation_id = fields.i32()?;
        fields.i32()?; // throttle_time_ms
        let mut error_code = 0;
        if is_new {
            error_code = fields.i16()?;
            fields.i32()?; // session_id
        }
        let topics = fields.i32()?;
        if topics > 0 {
            fields.string()?;
        }
        let partitions = if topics > 0 { fields.i32()? } else { 0 };
        (topics <= 1).then_some((correlation_id, error_code, partitions))
    };
    let (correlation_id, error_code, partitions) = head().ok_or_else(damaged)?;
    crate::client::accept("Fetch", error_code)?;
    for _ in 0..partitions {
        let mut one = || {
            let partition = fields.i32()?;
            let error_code = fields.i16()?;
            fields.i64()?; // high_watermark
            if is_new {
                fields.take(16)?; // last_stable_offset, log_start_offset
                for _ in 0..fields.i32()?.max(0) {
                    fields.take(16)?; // aborted_transactions
                }
                fields.i32()?; // preferred_read_replica
            }
            let length = fields.i32()?.max(0); // null is -1
            let records = fields.take(usize::try_from(length).ok()?)?;
            Some((partition, error_code, records))
        };
        let (partition, error_code, records) = one().ok_or_else(damaged)?;
        each(partition, error_code, records)?;
    }
    Ok(correlation_id)
}

/// A request's header of version 1, behind room for the size.
fn request_header(api_key: i16, api_version: i16, room: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(room);
    put_i32(&mut frame, 0);
    put_i16(&mut frame, api_key);
    put_i16(&mut frame, api_version);
    put_i32(&mut frame, 0);
    put_string(&mut frame, CLIENT_ID);
    frame
}

/// Writes the size prefix of a finished frame.
pub(crate) fn seal(frame: &mut [u8]) {
    let size = i32::try_from(frame.len() - 4).expect("frames are built from batches below 2 GiB");
    frame[..4].copy_from_slice(&size.to_be_bytes());
}

fn put_i16(out: &mut Vec<u8>, value: i16) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_i32(out: &mut Vec<u8>, value: i32) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    put_i32(out, i32::try_from(length).expect("a batch is below 2 GiB"));
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    put_i16(out, i16::try_from(text.len()).expect("names are short"));
    out.extend_from_slice(text.as_bytes());
}

fn not_an_answer(api: &str, frame: &[u8]) -> Failure {
    Failure::Protocol(format!("{} bytes that are no {api} answer", frame.len()))
}

/// Reads big-endian fields; `None` where the bytes end.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn i16(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    /// The length of an array that must hold one element.
    fn one(&mut self) -> Option<()> {
        (self.i32()? == 1).then_some(())
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.i16()?;
        self.take(usize::try_from(length).ok()?)
    }
}

#[cfg(test)]
mod tests;
