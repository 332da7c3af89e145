//! The fetch answer, encoded by hand: its records are slices of files, which the message crate
//! cannot carry. Layout: Kafka's FetchResponse.json, versions 0-17.

use bytes::{BufMut, BytesMut};
use kafka_protocol::ResponseError;

use super::session::Wanted;
use crate::net::response::{Part, Response};

/// The answer for one partition.
#[derive(Debug)]
pub struct PartitionAnswer {
    /// Its place among the partitions of the fetch.
    pub slot: usize,
    /// Kafka's error, if any.
    pub error: Option<ResponseError>,
    /// -1 with an error.
    pub high_watermark: i64,
    /// -1 with an error.
    pub log_start_offset: i64,
    /// The records, if any.
    pub records: Option<Part>,
}

impl PartitionAnswer {
    /// Bytes of its records.
    pub(super) fn bytes(&self) -> usize {
        match &self.records {
            None => 0,
            Some(Part::Bytes(bytes)) => bytes.len(),
            Some(Part::File(slice)) => slice.length as usize,
        }
    }
}

/// First version with compact lengths and tagged fields.
const FLEXIBLE: i16 = 12;
const TOPIC_IDS: i16 = 13;

struct Encoder {
    version: i16,
    /// What was written since the last slice of a file; at first with room for the head.
    bytes: BytesMut,
    start: Option<BytesMut>,
    parts: Vec<Part>,
}

/// An answer that only says what is wrong with the session.
pub(super) fn encode_error(version: i16, error: ResponseError) -> Response {
    let mut encoder = Encoder::new(version);
    encoder.head(error.code(), 0);
    encoder.count(0);
    encoder.finish()
}

/// The answer of a fetch; neighbours of one topic share its head.
pub(super) fn encode(
    version: i16,
    session_id: i32,
    wanted: &[Wanted],
    answers: Vec<PartitionAnswer>,
) -> Response {
    let mut encoder = Encoder::new(version);
    encoder.head(0, session_id);
    let is_same_topic = |a: &PartitionAnswer, b: &PartitionAnswer| {
        let (a, b) = (&wanted[a.slot], &wanted[b.slot]);
        a.topic == b.topic && a.topic_id == b.topic_id
    };
    let topics: Vec<usize> = answers.chunk_by(is_same_topic).map(<[_]>::len).collect();
    encoder.count(topics.len());
    let mut answers = answers.into_iter();
    for partitions in topics {
        let mut of_topic = answers.by_ref().take(partitions).peekable();
        if let Some(first) = of_topic.peek() {
            encoder.topic(&wanted[first.slot]);
        }
        encoder.count(partitions);
        for answer in of_topic {
            let index = wanted[answer.slot].index;
            encoder.partition(index, answer);
        }
        encoder.tagged_fields();
    }
    encoder.finish()
}

impl Encoder {
    fn new(version: i16) -> Encoder {
        Encoder {
            version,
            bytes: Response::room(128),
            start: None,
            parts: Vec::new(),
        }
    }

    fn head(&mut self, error_code: i16, session_id: i32) {
        if self.version >= 1 {
            self.bytes.put_i32(0); // throttle_time_ms
        }
        if self.version >= 7 {
            self.bytes.put_i16(error_code);
            self.bytes.put_i32(session_id);
        }
    }

    fn topic(&mut self, wanted: &Wanted) {
        if self.version >= TOPIC_IDS {
            self.bytes.put_slice(wanted.topic_id.as_bytes());
            return;
        }
        let name = wanted.topic.as_bytes();
        if self.version >= FLEXIBLE {
            self.unsigned_varint(name.len() + 1);
        } else {
            self.bytes
                .put_i16(i16::try_from(name.len()).expect("came in with such a length"));
        }
        self.bytes.put_slice(name);
    }

    fn partition(&mut self, index: i32, answer: PartitionAnswer) {
        self.bytes.put_i32(index);
        self.bytes
            .put_i16(answer.error.map_or(0, |error| error.code()));
        self.bytes.put_i64(answer.high_watermark);
        if self.version >= 4 {
            self.bytes.put_i64(answer.high_watermark); // last_stable_offset
        }
        if self.version >= 5 {
            self.bytes.put_i64(answer.log_start_offset);
        }
        if self.version >= FLEXIBLE {
            self.bytes.put_u8(0); // aborted_transactions: null
        } else if self.version >= 4 {
            self.bytes.put_i32(-1);
        }
        if self.version >= 11 {
            self.bytes.put_i32(-1); // preferred_read_replica
        }
        let length = answer.bytes();
        if self.version >= FLEXIBLE {
            self.unsigned_varint(length + 1);
        } else {
            self.bytes
                .put_i32(i32::try_from(length).expect("limited by fetch.max.bytes"));
        }
        if let Some(records) = answer.records {
            self.end_bytes();
            self.parts.push(records);
        }
        self.tagged_fields();
    }

    fn count(&mut self, count: usize) {
        if self.version >= FLEXIBLE {
            self.unsigned_varint(count + 1);
        } else {
            self.bytes
                .put_i32(i32::try_from(count).expect("limited by the request"));
        }
    }

    fn unsigned_varint(&mut self, mut value: usize) {
        while value >= 0x80 {
            self.bytes.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.put_u8(value as u8);
    }

    fn tagged_fields(&mut self) {
        if self.version >= FLEXIBLE {
            self.bytes.put_u8(0);
        }
    }

    /// What was written so far goes before what follows.
    fn end_bytes(&mut self) {
        let bytes = self.bytes.split();
        if self.start.is_none() {
            self.start = Some(bytes);
        } else if !bytes.is_empty() {
            self.parts.push(Part::Bytes(bytes.freeze()));
        }
    }

    fn finish(mut self) -> Response {
        self.tagged_fields();
        self.end_bytes();
        Response {
            start: self.start.unwrap_or_default(),
            parts: self.parts,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Buf, Bytes};
    use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
    use kafka_protocol::messages::{FetchRequest, FetchResponse};
    use kafka_protocol::protocol::{Decodable, StrBytes};
    use ringlog_engine::clock::Instant;

    use super::*;
    use crate::handlers::fetch::session::Sessions;
    use crate::metadata::state::Image;

    fn request() -> FetchRequest {
        let partition = |index| FetchPartition::default().with_partition(index);
        let topic = FetchTopic::default()
            .with_topic(StrBytes::from_static_str("first").into())
            .with_partitions(vec![partition(0), partition(7)]);
        FetchRequest::default()
            .with_topics(vec![topic])
            .with_session_epoch(-1)
    }

    #[test]
    fn the_message_crate_reads_every_version() {
        for version in 0..=17 {
            let mut sessions = Sessions::new(0, 1, 10);
            let image = Image::default();
            let context = sessions
                .open(request(), version, &image, Instant(0))
                .unwrap();
            let records = Some(Part::Bytes(Bytes::from_static(b"records")));
            let answers = vec![
                PartitionAnswer {
                    slot: 0,
                    error: None,
                    high_watermark: 5,
                    log_start_offset: 1,
                    records,
                },
                PartitionAnswer {
                    slot: 1,
                    error: Some(ResponseError::OffsetOutOfRange),
                    high_watermark: -1,
                    log_start_offset: -1,
                    records: None,
                },
            ];
            let flexible = version >= FLEXIBLE;
            let answer = encode(version, 3, &context.wanted, answers);
            let (start, parts) = answer.into_frame(77, flexible);
            let mut bytes = BytesMut::from(start);
            for part in parts {
                match part {
                    Part::Bytes(part) => bytes.put_slice(&part),
                    Part::File(slice) => panic!("{slice:?}"),
                }
            }
            assert_eq!(bytes.get_i32() as usize, bytes.len());
            assert_eq!(bytes.get_i32(), 77);
            if flexible {
                assert_eq!(bytes.get_u8(), 0);
            }
            let mut bytes = bytes.freeze();
            let decoded = FetchResponse::decode(&mut bytes, version).unwrap();
            assert!(
                bytes.is_empty(),
                "version {version}: {} bytes left",
                bytes.len()
            );
            let partitions = &decoded.responses[0].partitions;
            assert_eq!(
                partitions[0].records.as_deref(),
                Some(&b"records"[..]),
                "{version}"
            );
            assert_eq!(partitions[0].high_watermark, 5);
            assert_eq!(
                (partitions[1].partition_index, partitions[1].error_code),
                (7, 1)
            );
            assert_eq!(decoded.session_id, if version >= 7 { 3 } else { 0 });
        }
    }
}
