//! The bytes of a journal: where a position of the stream lies on disk, and the three headers.
//!
//! All integers are big-endian. A journal is one endless stream of bytes, cut into files:
//!
//! ```text
//! file      | header block 4096 B | data: file_bytes - 4096 B                         |
//! stream    file k holds the LSNs from k * (file_bytes - 4096) on
//! data      group, group, ... each starts at a multiple of 4096 and is padded to one with zeros;
//!           a group never crosses the end of its file, and files are filled to the last block
//! group     | group header 64 B | entry | entry | ... | zeros |
//! entry     | entry header 44 B | `length` bytes |
//!
//! file header                         group header                     entry header
//!  0  8 magic "RINGLOGJ"               0  8 magic "RINGLOGG"            0  1 kind
//!  8  2 version                        8  2 version                     1  3 zero
//! 10  2 zero                          10  2 zero                        4  4 partition, i32
//! 12  4 shard                         12  4 shard                       8 16 topic id
//! 16  8 incarnation                   16  8 incarnation                24  8 segment base offset, i64
//! 24  8 file sequence number k        24  8 group sequence number      32  8 position in the segment
//! 32  8 file_bytes                    32  8 LSN of this header         40  4 length of the bytes
//! 40  8 first LSN                     40  8 checkpoint LSN
//! 48  8 checkpoint LSN                48  4 payload bytes (entries)
//! 56  4 zero                          52  4 entries
//! 60  4 CRC-32C of bytes 0..60        56  4 CRC-32C of the payload
//!                                     60  4 CRC-32C of bytes 0..60
//! ```
//!
//! A header is shorter than a device sector (512 B), so it is old or new, never a mixture. Its own
//! checksum lets a scan step over 4 KiB blocks cheaply and tell a torn group (header good, payload
//! not) from a stale one. The incarnation (wall clock at the journal's start, ms) and the LSN tie a
//! group to its journal and its place: record bytes that look like a group are not one.
//!
//! Nothing here does I/O.

use crc_fast::CrcAlgorithm;
use uuid::Uuid;

use super::Lsn;
use crate::io::DIRECT_IO_ALIGNMENT;

/// Unit of all writes and of the places of groups.
pub(super) const BLOCK_BYTES: usize = DIRECT_IO_ALIGNMENT;
/// Length of a file header; the rest of its block is zero.
pub(super) const FILE_HEADER_BYTES: usize = 64;
/// Length of a group header.
pub(super) const GROUP_HEADER_BYTES: usize = 64;
/// Length of an entry header.
pub(super) const ENTRY_HEADER_BYTES: usize = 44;
/// The only version there is. Replay refuses all others by name.
pub(super) const VERSION: u16 = 1;

const FILE_MAGIC: &[u8; 8] = b"RINGLOGJ";
const GROUP_MAGIC: &[u8; 8] = b"RINGLOGG";
const CRC_AT: usize = 60;

const _: () = assert!(BLOCK_BYTES == 4096);
const _: () = assert!(FILE_HEADER_BYTES == CRC_AT + 4 && GROUP_HEADER_BYTES == CRC_AT + 4);
const _: () = assert!(FILE_HEADER_BYTES <= 512, "must fit into one sector");
const _: () = assert!(ENTRY_HEADER_BYTES == 1 + 3 + 4 + 16 + 8 + 8 + 4);
const _: () = assert!(GROUP_HEADER_BYTES + ENTRY_HEADER_BYTES < BLOCK_BYTES);

/// Rounds up to whole blocks.
pub(super) fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES as u64)
}

/// CRC-32C of `bytes`.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    crc_value(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes))
}

/// The 32 bits that crc-fast gives in a u64.
pub(super) fn crc_value(value: u64) -> u32 {
    u32::try_from(value).expect("CRC-32C has 32 bits")
}

/// How the stream is cut into files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) file_bytes: u64,
}

impl Geometry {
    /// Bytes of the stream in one file.
    pub(super) fn data_bytes(self) -> u64 {
        self.file_bytes - BLOCK_BYTES as u64
    }

    /// The file sequence number and the position in that file.
    pub(super) fn place(self, lsn: Lsn) -> (u64, u64) {
        let (file, rest) = (lsn.0 / self.data_bytes(), lsn.0 % self.data_bytes());
        (file, BLOCK_BYTES as u64 + rest)
    }

    /// The first LSN of a file; saturates for sequence numbers that no journal reaches.
    pub(super) fn first_lsn(self, file_sequence: u64) -> Lsn {
        Lsn(file_sequence.saturating_mul(self.data_bytes()))
    }

    /// Bytes from `lsn` to the end of its file.
    pub(super) fn left_in_file(self, lsn: Lsn) -> u64 {
        self.data_bytes() - lsn.0 % self.data_bytes()
    }
}

/// The header block of a file, written together with the file's first group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileHeader {
    pub(super) shard: u32,
    pub(super) incarnation: u64,
    pub(super) sequence: u64,
    pub(super) geometry: Geometry,
    pub(super) checkpoint_lsn: Lsn,
}

/// What the first block of a file turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FirstBlock {
    Header(FileHeader),
    /// Zeros: prepared, never used.
    Unused,
    /// Ours, with a wrong checksum or impossible values.
    Damaged,
    /// Another version of this format.
    Version(u16),
    /// Not this format.
    Foreign,
}

impl FileHeader {
    pub(super) fn encode(&self, block: &mut [u8]) {
        let bytes = &mut block[..FILE_HEADER_BYTES];
        bytes.fill(0);
        put(bytes, 0, FILE_MAGIC);
        put(bytes, 8, &VERSION.to_be_bytes());
        put(bytes, 12, &self.shard.to_be_bytes());
        put(bytes, 16, &self.incarnation.to_be_bytes());
        put(bytes, 24, &self.sequence.to_be_bytes());
        put(bytes, 32, &self.geometry.file_bytes.to_be_bytes());
        let first = self.geometry.first_lsn(self.sequence);
        put(bytes, 40, &first.0.to_be_bytes());
        put(bytes, 48, &self.checkpoint_lsn.0.to_be_bytes());
        let crc = crc32c(&bytes[..CRC_AT]);
        put(bytes, CRC_AT, &crc.to_be_bytes());
    }

    /// Decodes the first block of a file, which may be shorter than a block.
    pub(super) fn decode(file: &[u8]) -> FirstBlock {
        let block = &file[..file.len().min(BLOCK_BYTES)];
        if block.iter().all(|byte| *byte == 0) {
            return FirstBlock::Unused;
        }
        if !FILE_MAGIC.starts_with(&block[..block.len().min(FILE_MAGIC.len())]) {
            return FirstBlock::Foreign;
        }
        // A crash in the first write to a new file may leave less of its length than a header.
        let Some(bytes) = block.first_chunk::<FILE_HEADER_BYTES>() else {
            return FirstBlock::Damaged;
        };
        let version = u16::from_be_bytes(array(bytes, 8));
        if version != VERSION {
            return FirstBlock::Version(version);
        }
        let file_bytes = u64::from_be_bytes(array(bytes, 32));
        let header = FileHeader {
            shard: u32::from_be_bytes(array(bytes, 12)),
            incarnation: u64::from_be_bytes(array(bytes, 16)),
            sequence: u64::from_be_bytes(array(bytes, 24)),
            geometry: Geometry { file_bytes },
            checkpoint_lsn: Lsn(u64::from_be_bytes(array(bytes, 48))),
        };
        let good = u32::from_be_bytes(array(bytes, CRC_AT)) == crc32c(&bytes[..CRC_AT])
            && is_file_bytes(file_bytes)
            && header.geometry.first_lsn(header.sequence).0 == u64::from_be_bytes(array(bytes, 40));
        if good {
            FirstBlock::Header(header)
        } else {
            FirstBlock::Damaged
        }
    }
}

/// Whether a file may have this length: a header block and at least one block of data, at most
/// 4 GiB.
pub(super) fn is_file_bytes(file_bytes: u64) -> bool {
    file_bytes.is_multiple_of(BLOCK_BYTES as u64)
        && (2 * BLOCK_BYTES as u64..=1 << 32).contains(&file_bytes)
}

/// The header of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupHeader {
    pub(super) shard: u32,
    pub(super) incarnation: u64,
    pub(super) sequence: u64,
    pub(super) lsn: Lsn,
    pub(super) checkpoint_lsn: Lsn,
    pub(super) payload_bytes: u32,
    pub(super) entries: u32,
    pub(super) payload_crc: u32,
}

impl GroupHeader {
    pub(super) fn encode(&self, bytes: &mut [u8]) {
        let bytes = &mut bytes[..GROUP_HEADER_BYTES];
        bytes.fill(0);
        put(bytes, 0, GROUP_MAGIC);
        put(bytes, 8, &VERSION.to_be_bytes());
        put(bytes, 12, &self.shard.to_be_bytes());
        put(bytes, 16, &self.incarnation.to_be_bytes());
        put(bytes, 24, &self.sequence.to_be_bytes());
        put(bytes, 32, &self.lsn.0.to_be_bytes());
        put(bytes, 40, &self.checkpoint_lsn.0.to_be_bytes());
        put(bytes, 48, &self.payload_bytes.to_be_bytes());
        put(bytes, 52, &self.entries.to_be_bytes());
        put(bytes, 56, &self.payload_crc.to_be_bytes());
        let crc = crc32c(&bytes[..CRC_AT]);
        put(bytes, CRC_AT, &crc.to_be_bytes());
    }

    /// The header at the start of `bytes`, if there is one whose checksum holds. The payload is
    /// the caller's to check.
    pub(super) fn decode(bytes: &[u8]) -> Option<GroupHeader> {
        let bytes = bytes.first_chunk::<GROUP_HEADER_BYTES>()?;
        let good = &bytes[..8] == GROUP_MAGIC
            && u32::from_be_bytes(array(bytes, CRC_AT)) == crc32c(&bytes[..CRC_AT])
            && u16::from_be_bytes(array(bytes, 8)) == VERSION;
        good.then(|| GroupHeader {
            shard: u32::from_be_bytes(array(bytes, 12)),
            incarnation: u64::from_be_bytes(array(bytes, 16)),
            sequence: u64::from_be_bytes(array(bytes, 24)),
            lsn: Lsn(u64::from_be_bytes(array(bytes, 32))),
            checkpoint_lsn: Lsn(u64::from_be_bytes(array(bytes, 40))),
            payload_bytes: u32::from_be_bytes(array(bytes, 48)),
            entries: u32::from_be_bytes(array(bytes, 52)),
            payload_crc: u32::from_be_bytes(array(bytes, 56)),
        })
    }

    /// Bytes on disk, with the padding.
    pub(super) fn bytes_on_disk(&self) -> u64 {
        padded(GROUP_HEADER_BYTES as u64 + u64::from(self.payload_bytes))
    }

    /// The LSN of the group that follows.
    pub(super) fn end_lsn(&self) -> Lsn {
        Lsn(self.lsn.0.saturating_add(self.bytes_on_disk()))
    }
}

/// What an entry asks of the replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// Write the bytes at the position of the segment.
    Append = 1,
    /// Cut the segment at the position and remove the segments above it.
    Truncate = 2,
    /// Earlier entries for segments below the base are void.
    Forget = 3,
}

/// The header of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryHeader {
    pub(super) kind: EntryKind,
    pub(super) topic_id: Uuid,
    pub(super) partition: i32,
    pub(super) segment_base: i64,
    pub(super) position: u64,
    pub(super) length: u32,
}

impl EntryHeader {
    pub(super) fn encode(&self) -> [u8; ENTRY_HEADER_BYTES] {
        let mut bytes = [0; ENTRY_HEADER_BYTES];
        bytes[0] = self.kind as u8;
        put(&mut bytes, 4, &self.partition.to_be_bytes());
        put(&mut bytes, 8, self.topic_id.as_bytes());
        put(&mut bytes, 24, &self.segment_base.to_be_bytes());
        put(&mut bytes, 32, &self.position.to_be_bytes());
        put(&mut bytes, 40, &self.length.to_be_bytes());
        bytes
    }

    /// `None` for a kind or a place that no journal of this version contains: segments are shorter
    /// than 2 GiB (Kafka's `log.segment.bytes` is an i32).
    pub(super) fn decode(bytes: &[u8]) -> Option<EntryHeader> {
        let bytes = bytes.first_chunk::<ENTRY_HEADER_BYTES>()?;
        let kind = match bytes[0] {
            1 => EntryKind::Append,
            2 => EntryKind::Truncate,
            3 => EntryKind::Forget,
            _ => return None,
        };
        let header = EntryHeader {
            kind,
            topic_id: Uuid::from_bytes(array(bytes, 8)),
            partition: i32::from_be_bytes(array(bytes, 4)),
            segment_base: i64::from_be_bytes(array(bytes, 24)),
            position: u64::from_be_bytes(array(bytes, 32)),
            length: u32::from_be_bytes(array(bytes, 40)),
        };
        let end = header.position.checked_add(u64::from(header.length))?;
        (header.segment_base >= 0 && end <= SEGMENT_BYTES_MAX).then_some(header)
    }
}

/// No byte of a segment lies at or above this position.
pub(super) const SEGMENT_BYTES_MAX: u64 = i32::MAX as u64;

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..]
        .first_chunk()
        .expect("within a header of fixed length")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_header() -> FileHeader {
        FileHeader {
            shard: 3,
            incarnation: 0x0102_0304_0506_0708,
            sequence: 9,
            geometry: Geometry { file_bytes: 65536 },
            checkpoint_lsn: Lsn(77),
        }
    }

    #[test]
    fn headers_come_back_as_written_and_damage_is_seen() {
        let mut block = vec![0; BLOCK_BYTES];
        assert_eq!(FileHeader::decode(&block), FirstBlock::Unused);
        file_header().encode(&mut block);
        assert_eq!(
            FileHeader::decode(&block),
            FirstBlock::Header(file_header())
        );
        for length in 1..FILE_HEADER_BYTES {
            let cut = FileHeader::decode(&block[..length]);
            assert_eq!(cut, FirstBlock::Damaged, "{length}");
        }
        assert_eq!(FileHeader::decode(b"RINGX"), FirstBlock::Foreign);
        block[30] ^= 1;
        assert_eq!(FileHeader::decode(&block), FirstBlock::Damaged);
        block[9] = 2;
        assert_eq!(FileHeader::decode(&block), FirstBlock::Version(2));
        block[0] = b'X';
        assert_eq!(FileHeader::decode(&block), FirstBlock::Foreign);

        let group = GroupHeader {
            shard: 3,
            incarnation: 5,
            sequence: 6,
            lsn: Lsn(4096),
            checkpoint_lsn: Lsn(100),
            payload_bytes: 5000,
            entries: 2,
            payload_crc: 0xdead_beef,
        };
        group.encode(&mut block);
        assert_eq!(GroupHeader::decode(&block), Some(group));
        assert_eq!(group.end_lsn(), Lsn(4096 + 8192));
        for byte in 0..GROUP_HEADER_BYTES {
            block[byte] ^= 0x40;
            assert_eq!(GroupHeader::decode(&block), None, "byte {byte}");
            block[byte] ^= 0x40;
        }
    }

    #[test]
    fn the_drawing_is_the_code() {
        let entry = EntryHeader {
            kind: EntryKind::Append,
            topic_id: Uuid::from_u128(0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00),
            partition: 7,
            segment_base: 258,
            position: 4,
            length: 3,
        };
        let bytes = entry.encode();
        let expected = [
            &[1, 0, 0, 0, 0, 0, 0, 7][..],
            &[0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88],
            &[0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0],
            &[0, 0, 0, 0, 0, 0, 1, 2],
            &[0, 0, 0, 0, 0, 0, 0, 4],
            &[0, 0, 0, 3],
        ]
        .concat();
        assert_eq!(bytes.as_slice(), expected);
        assert_eq!(EntryHeader::decode(&bytes), Some(entry));
        let mut bad = bytes;
        bad[0] = 4;
        assert_eq!(EntryHeader::decode(&bad), None);
        bad = bytes;
        bad[32] = 0xff;
        assert_eq!(EntryHeader::decode(&bad), None);
    }

    #[test]
    fn the_stream_goes_on_in_the_next_file() {
        let geometry = Geometry { file_bytes: 16384 };
        assert_eq!(geometry.place(Lsn(0)), (0, 4096));
        assert_eq!(geometry.place(Lsn(12287)), (0, 16383));
        assert_eq!(geometry.place(Lsn(12288)), (1, 4096));
        assert_eq!(geometry.left_in_file(Lsn(8192)), 4096);
        assert_eq!(geometry.first_lsn(2), Lsn(24576));
    }
}
