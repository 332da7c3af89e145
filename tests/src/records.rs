//! Record batches (magic 2) and message sets (magic 0 and 1), written and read independently of the
//! engine, so that a mistake there does not hide here.
//!
//! Layouts: `DefaultRecordBatch.java`, `DefaultRecord.java`, `LegacyRecord.java` of Kafka 3.9. Slow and
//! simple; the writer can be told to lie (see `patch` and `seal`).

use std::io::{Read, Write};

use bytes::{Buf, BufMut};

/// The compression of a batch, by its bits in the attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Plain.
    None,
    /// GZIP.
    Gzip,
    /// Snappy, one raw block as the C clients send it.
    Snappy,
    /// Snappy in the xerial framing of the Java clients.
    SnappyXerial,
    /// LZ4 frame with independent blocks.
    Lz4,
    /// LZ4 frame with the header checksum of KAFKA-3160 (magic 0 only).
    Lz4Broken,
    /// Zstandard.
    Zstd,
}

impl Codec {
    fn bits(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy | Self::SnappyXerial => 2,
            Self::Lz4 | Self::Lz4Broken => 3,
            Self::Zstd => 4,
        }
    }

    /// Compresses `plain`.
    pub fn compress(self, plain: &[u8]) -> Vec<u8> {
        match self {
            Self::None => plain.to_vec(),
            Self::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(plain).expect("a Vec takes all");
                encoder.finish().expect("a Vec takes all")
            }
            Self::Snappy => raw_snappy(plain),
            Self::SnappyXerial => {
                let mut bytes = XERIAL_HEADER.to_vec();
                for block in plain.chunks(32 * 1024) {
                    let block = raw_snappy(block);
                    bytes.put_u32(u32::try_from(block.len()).expect("a block is small"));
                    bytes.extend_from_slice(&block);
                }
                bytes
            }
            Self::Lz4 => lz4_frame(plain),
            Self::Lz4Broken => {
                let mut bytes = lz4_frame(plain);
                // Magic (4), FLG, BD, then the checksum: the bug took the magic into it.
                bytes[6] = xxh32_short(&bytes[..6]).to_be_bytes()[2];
                bytes
            }
            Self::Zstd => zstd::encode_all(plain, 3).expect("a slice can be read"),
        }
    }
}

/// Magic, version 1, compatible version 1 (`SnappyCodec.java` of snappy-java).
const XERIAL_HEADER: [u8; 16] = *b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01";

fn raw_snappy(plain: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new()
        .compress_vec(plain)
        .expect("a block is below 4 GiB")
}

fn lz4_frame(plain: &[u8]) -> Vec<u8> {
    let info =
        lz4_flex::frame::FrameInfo::new().block_mode(lz4_flex::frame::BlockMode::Independent);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(plain).expect("a Vec takes all");
    encoder.finish().expect("a Vec takes all")
}

/// XXH32 with seed 0 of fewer than 16 bytes (the xxHash specification, steps 1, 5 and 6).
fn xxh32_short(bytes: &[u8]) -> u32 {
    assert!(bytes.len() < 16, "longer input has another first step");
    const PRIMES: [u32; 5] = [
        0x9E37_79B1,
        0x85EB_CA77,
        0xC2B2_AE3D,
        0x27D4_EB2F,
        0x1656_67B1,
    ];
    let mut hash = PRIMES[4].wrapping_add(u32::try_from(bytes.len()).expect("short"));
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        let lane = word
            .iter()
            .rev()
            .fold(0_u32, |lane, byte| lane << 8 | u32::from(*byte));
        hash = hash
            .wrapping_add(lane.wrapping_mul(PRIMES[2]))
            .rotate_left(17);
        hash = hash.wrapping_mul(PRIMES[3]);
    }
    for byte in words.remainder() {
        hash = hash
            .wrapping_add(u32::from(*byte).wrapping_mul(PRIMES[4]))
            .rotate_left(11);
        hash = hash.wrapping_mul(PRIMES[0]);
    }
    hash = (hash ^ hash >> 15).wrapping_mul(PRIMES[1]);
    hash = (hash ^ hash >> 13).wrapping_mul(PRIMES[2]);
    hash ^ hash >> 16
}

/// One record as a consumer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its offset in the partition.
    pub offset: i64,
    /// Milliseconds since 1970, -1 for magic 0.
    pub timestamp: i64,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value.
    pub value: Option<Vec<u8>>,
    /// Names and values of its headers.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    /// The value as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.value.as_deref().unwrap_or_default()).into_owned()
    }
}

/// A record batch (magic 2) to be written.
#[derive(Clone, Debug)]
pub struct Batch {
    /// As many as values, or none.
    keys: Vec<Vec<u8>>,
    values: Vec<Option<Vec<u8>>>,
    timestamp: i64,
    codec: Codec,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
}

/// Where fields of a written record batch lie, for `patch`.
pub mod position {
    /// Base offset, i64.
    pub const BASE_OFFSET: usize = 0;
    /// Batch length after this field, i32.
    pub const LENGTH: usize = 8;
    /// Partition leader epoch, i32.
    pub const LEADER_EPOCH: usize = 12;
    /// Magic, i8.
    pub const MAGIC: usize = 16;
    /// CRC-32C of all that follows it, u32.
    pub const CRC: usize = 17;
    /// Attributes, i16.
    pub const ATTRIBUTES: usize = 21;
    /// Last offset delta, i32.
    pub const LAST_OFFSET_DELTA: usize = 23;
    /// Record count, i32.
    pub const COUNT: usize = 57;
    /// First byte of the records.
    pub const RECORDS: usize = 61;
}

impl Batch {
    /// Plain, one record per value, stamped 2024.
    pub fn of<V: AsRef<[u8]>>(values: &[V]) -> Self {
        Self {
            keys: Vec::new(),
            values: values
                .iter()
                .map(|value| Some(value.as_ref().to_vec()))
                .collect(),
            timestamp: 1_704_067_200_000,
            codec: Codec::None,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
        }
    }

    /// The same with a key for each record; a record without a value is a tombstone.
    pub fn keyed<K: AsRef<[u8]>, V: AsRef<[u8]>>(records: &[(K, Option<V>)]) -> Self {
        let key = |(key, _): &(K, Option<V>)| key.as_ref().to_vec();
        let value = |(_, value): &(K, Option<V>)| value.as_ref().map(|v| v.as_ref().to_vec());
        Self {
            keys: records.iter().map(key).collect(),
            values: records.iter().map(value).collect(),
            ..Self::of::<&[u8]>(&[])
        }
    }

    /// Sets the first record's timestamp; each further record is 1 ms later.
    pub fn at(mut self, timestamp: i64) -> Self {
        self.timestamp = timestamp;
        self
    }

    /// Sets the first record's timestamp to the clock's. Kafka expires producer state by the timestamps
    /// of its batches when it loads it (`ProducerStateManager.isProducerExpired`).
    pub fn at_present(self) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.expect("the clock is past 1970").as_millis();
        self.at(i64::try_from(now).expect("fits for 290 million years"))
    }

    /// Sets the compression.
    pub fn compressed(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Makes it a batch of an idempotent producer.
    pub fn by_producer(mut self, id: i64, epoch: i16, base_sequence: i32) -> Self {
        (self.producer_id, self.producer_epoch, self.base_sequence) = (id, epoch, base_sequence);
        self
    }

    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let count = i32::try_from(self.values.len()).expect("a test's batch is small");
        let mut plain = Vec::new();
        for (delta, value) in (0_i64..).zip(&self.values) {
            let mut record = vec![0]; // attributes
            put_varlong(&mut record, delta); // timestamp delta
            put_varlong(&mut record, delta); // offset delta
            let index = usize::try_from(delta).expect("counts values");
            for field in [self.keys.get(index), value.as_ref()] {
                let length = field.map_or(-1, |field| i64::try_from(field.len()).expect("fits"));
                put_varlong(&mut record, length);
                record.extend_from_slice(field.map_or(&[], Vec::as_slice));
            }
            put_varlong(&mut record, 0); // headers
            put_varlong(&mut plain, i64::try_from(record.len()).expect("fits"));
            plain.extend_from_slice(&record);
        }
        let mut bytes = Vec::new();
        bytes.put_i64(0);
        bytes.put_i32(0); // length: see seal
        bytes.put_i32(-1);
        bytes.put_i8(2);
        bytes.put_u32(0); // CRC: see seal
        bytes.put_i16(i16::from(self.codec.bits()));
        bytes.put_i32(count - 1);
        bytes.put_i64(self.timestamp);
        bytes.put_i64(self.timestamp + i64::from(count) - 1);
        bytes.put_i64(self.producer_id);
        bytes.put_i16(self.producer_epoch);
        bytes.put_i32(self.base_sequence);
        bytes.put_i32(count);
        bytes.extend_from_slice(&self.codec.compress(&plain));
        seal(bytes)
    }
}

/// Puts bytes over a written batch at one of the `position`s.
pub fn patch(mut batch: Vec<u8>, position: usize, bytes: &[u8]) -> Vec<u8> {
    batch[position..position + bytes.len()].copy_from_slice(bytes);
    batch
}

/// Sets length and CRC of a record batch (magic 2) to what they should be.
pub fn seal(mut batch: Vec<u8>) -> Vec<u8> {
    let length = i32::try_from(batch.len() - position::LEADER_EPOCH).expect("below 2 GiB");
    batch = patch(batch, position::LENGTH, &length.to_be_bytes());
    let crc = crc32c::crc32c(&batch[position::ATTRIBUTES..]);
    patch(batch, position::CRC, &crc.to_be_bytes())
}

/// A message set of magic 0 or 1: one message per value; compressed, they lie in one wrapper.
pub fn message_set<V: AsRef<[u8]>>(
    magic: u8,
    codec: Codec,
    timestamp: i64,
    values: &[V],
) -> Vec<u8> {
    let mut plain = Vec::new();
    for (offset, value) in (0_i64..).zip(values) {
        plain.extend_from_slice(&message(
            magic,
            0,
            offset,
            timestamp + offset,
            value.as_ref(),
        ));
    }
    if codec == Codec::None {
        return plain;
    }
    let last = i64::try_from(values.len()).expect("fits") - 1;
    message(
        magic,
        codec.bits(),
        last,
        timestamp + last,
        &codec.compress(&plain),
    )
}

/// One message of magic 0 or 1 without key; its attributes may name a compression.
pub fn message(magic: u8, attributes: u8, offset: i64, timestamp: i64, value: &[u8]) -> Vec<u8> {
    let mut body = vec![magic, attributes];
    if magic > 0 {
        body.put_i64(timestamp);
    }
    body.put_i32(-1);
    body.put_i32(i32::try_from(value.len()).expect("below 2 GiB"));
    body.extend_from_slice(value);
    let mut crc = flate2::Crc::new();
    crc.update(&body);
    let mut bytes = Vec::with_capacity(16 + body.len());
    bytes.put_i64(offset);
    bytes.put_i32(i32::try_from(body.len() + 4).expect("below 2 GiB"));
    bytes.put_u32(crc.sum());
    bytes.extend_from_slice(&body);
    bytes
}

/// The checksum of a message of magic 0 or 1: CRC-32 of all from its magic byte on.
pub fn crc32(body: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(body);
    crc.sum()
}

/// What a fetch answer holds: its records, and the magic of each outer entry.
#[derive(Debug, Default)]
pub struct Contents {
    /// All records of the complete entries.
    pub records: Vec<Record>,
    /// The magic of each complete outer entry.
    pub magics: Vec<u8>,
    /// The leader epoch of each complete record batch (magic 2).
    pub leader_epochs: Vec<i32>,
    /// Whether an incomplete entry ended it.
    pub partial: bool,
    /// The offset behind the last complete entry, which may be behind its last record after a compaction.
    pub next_offset: Option<i64>,
}

/// Reads the records of a fetch answer; checksums are verified, a cut last entry is allowed.
pub fn read(mut bytes: &[u8]) -> Contents {
    let mut contents = Contents::default();
    while !bytes.is_empty() {
        let length = if bytes.len() < 17 {
            usize::MAX
        } else {
            12 + be_i32(&bytes[8..])
        };
        if length > bytes.len() {
            contents.partial = true;
            break;
        }
        assert!(length > position::MAGIC, "an entry of {length} bytes");
        let (entry, rest) = bytes.split_at(length);
        let magic = entry[position::MAGIC];
        contents.magics.push(magic);
        let mut next_offset = (&entry[position::BASE_OFFSET..]).get_i64() + 1;
        if magic == 2 {
            next_offset += i64::from((&entry[position::LAST_OFFSET_DELTA..]).get_i32());
        }
        contents.next_offset = Some(next_offset);
        if magic == 2 {
            read_batch(entry, &mut contents);
        } else {
            read_message(entry, &mut contents.records);
        }
        bytes = rest;
    }
    contents
}

fn be_i32(mut bytes: &[u8]) -> usize {
    usize::try_from(bytes.get_i32()).expect("the broker sent a negative length")
}

fn read_batch(entry: &[u8], contents: &mut Contents) {
    let crc = (&entry[position::CRC..]).get_u32();
    assert_eq!(
        crc,
        crc32c::crc32c(&entry[position::ATTRIBUTES..]),
        "CRC-32C of a fetched batch"
    );
    let base_offset = (&entry[position::BASE_OFFSET..]).get_i64();
    contents
        .leader_epochs
        .push((&entry[position::LEADER_EPOCH..]).get_i32());
    let attributes = (&entry[position::ATTRIBUTES..]).get_i16();
    let base_timestamp = (&entry[position::LAST_OFFSET_DELTA + 4..]).get_i64();
    let max_timestamp = (&entry[position::LAST_OFFSET_DELTA + 12..]).get_i64();
    let last_delta = (&entry[position::LAST_OFFSET_DELTA..]).get_i32();
    let count = be_i32(&entry[position::COUNT..]);
    let plain = decompress(attributes.to_be_bytes()[1] & 7, &entry[position::RECORDS..]);
    let mut bytes = plain.as_slice();
    let before = contents.records.len();
    // What a consumer does not hand out: the ends of transactions.
    let is_control = attributes & 0x20 != 0;
    for _ in 0..count * usize::from(!is_control) {
        let length = usize::try_from(get_varlong(&mut bytes)).expect("a record has a length");
        let (mut record, rest) = bytes.split_at(length);
        record.advance(1);
        let delta = get_varlong(&mut record);
        let offset = base_offset + get_varlong(&mut record);
        let key = get_nullable(&mut record);
        let value = get_nullable(&mut record);
        let headers = get_headers(&mut record);
        let log_append_time = attributes & 8 != 0;
        let timestamp = if log_append_time {
            max_timestamp
        } else {
            base_timestamp + delta
        };
        contents.records.push(Record {
            offset,
            timestamp,
            key,
            value,
            headers,
        });
        bytes = rest;
    }
    assert!(
        bytes.is_empty() || is_control,
        "bytes after the last record of a fetched batch"
    );
    let last = contents.records[before..]
        .last()
        .map(|record| record.offset);
    // Compaction takes records and leaves the batch its last offset.
    let end = base_offset + i64::from(last_delta);
    assert!(last.is_none_or(|last| last <= end), "last offset delta");
}

fn read_message(entry: &[u8], records: &mut Vec<Record>) {
    let offset = (&entry[0..]).get_i64();
    let mut crc = flate2::Crc::new();
    crc.update(&entry[16..]);
    assert_eq!(
        (&entry[12..]).get_u32(),
        crc.sum(),
        "CRC-32 of a fetched message"
    );
    let (magic, attributes) = (entry[16], entry[17]);
    let mut rest = &entry[18..];
    let timestamp = if magic > 0 { rest.get_i64() } else { -1 };
    let mut field = || {
        let length = usize::try_from(rest.get_i32()).ok()?;
        let (bytes, after) = rest.split_at(length);
        rest = after;
        Some(bytes.to_vec())
    };
    let (key, value) = (field(), field());
    if attributes & 7 == 0 {
        records.push(Record {
            offset,
            timestamp,
            key,
            value,
            headers: Vec::new(),
        });
        return;
    }
    let inner = read(&decompress(
        attributes & 7,
        &value.expect("a wrapper has a value"),
    ))
    .records;
    // Magic 1 numbers the inner messages from 0, the wrapper has the last one's offset (KIP-31).
    let shift = match (magic, inner.last()) {
        (1, Some(last)) => offset - last.offset,
        _ => 0,
    };
    records.extend(inner.into_iter().map(|record| Record {
        offset: record.offset + shift,
        ..record
    }));
}

fn decompress(codec: u8, bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    match codec {
        0 => plain.extend_from_slice(bytes),
        1 => {
            flate2::read::MultiGzDecoder::new(bytes)
                .read_to_end(&mut plain)
                .expect("GZIP");
        }
        2 => plain = decompress_snappy(bytes),
        3 => {
            let mut bytes = bytes.to_vec();
            // Undo the header checksum of KAFKA-3160 if it is there.
            bytes[6] = xxh32_short(&bytes[4..6]).to_be_bytes()[2];
            let mut decoder = lz4_flex::frame::FrameDecoder::new(bytes.as_slice());
            decoder.read_to_end(&mut plain).expect("LZ4");
        }
        4 => plain = zstd::decode_all(bytes).expect("Zstandard"),
        other => panic!("the broker sent codec {other}"),
    }
    plain
}

fn decompress_snappy(bytes: &[u8]) -> Vec<u8> {
    let block = |bytes: &[u8]| {
        snap::raw::Decoder::new()
            .decompress_vec(bytes)
            .expect("Snappy")
    };
    let Some(mut blocks) = bytes.strip_prefix(&XERIAL_HEADER) else {
        return block(bytes);
    };
    let mut plain = Vec::new();
    while !blocks.is_empty() {
        let length = be_i32(blocks);
        plain.extend(block(&blocks[4..4 + length]));
        blocks = &blocks[4 + length..];
    }
    plain
}

/// Writes a zigzag varint.
pub fn put_varlong(bytes: &mut Vec<u8>, value: i64) {
    let mut rest = (value << 1 ^ value >> 63).cast_unsigned();
    while rest >= 0x80 {
        bytes.push(rest.to_be_bytes()[7] | 0x80);
        rest >>= 7;
    }
    bytes.push(rest.to_be_bytes()[7]);
}

fn get_varlong(bytes: &mut &[u8]) -> i64 {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = bytes.get_u8();
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

fn get_headers(bytes: &mut &[u8]) -> Vec<(String, Option<Vec<u8>>)> {
    let mut headers = Vec::new();
    for _ in 0..get_varlong(bytes) {
        let name = get_nullable(bytes).expect("a header has a name");
        let name = String::from_utf8(name).expect("in UTF-8");
        headers.push((name, get_nullable(bytes)));
    }
    headers
}

fn get_nullable(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let length = usize::try_from(get_varlong(bytes)).ok()?;
    let (field, rest) = bytes.split_at(length);
    *bytes = rest;
    Some(field.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_with_every_codec() {
        let values = ["a", "", "a longer value a longer value a longer value"];
        for codec in [
            Codec::None,
            Codec::Gzip,
            Codec::Snappy,
            Codec::SnappyXerial,
            Codec::Lz4,
            Codec::Zstd,
        ] {
            let contents = read(&Batch::of(&values).at(7).compressed(codec).encode());
            let texts: Vec<_> = contents.records.iter().map(Record::text).collect();
            assert_eq!(texts, values, "{codec:?}");
            assert_eq!(contents.records[2].timestamp, 9);
        }
        for (magic, codec) in [
            (0, Codec::Lz4Broken),
            (0, Codec::Gzip),
            (1, Codec::SnappyXerial),
            (1, Codec::None),
        ] {
            let contents = read(&message_set(magic, codec, 7, &values));
            let texts: Vec<_> = contents.records.iter().map(Record::text).collect();
            assert_eq!(texts, values, "magic {magic} {codec:?}");
        }
    }

    #[test]
    fn xxh32_agrees_with_the_frame_encoder() {
        let frame = lz4_frame(b"x");
        assert_eq!(xxh32_short(&frame[4..6]).to_be_bytes()[2], frame[6]);
    }
}
