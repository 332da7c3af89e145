//! The codecs of Kafka's record formats, each bounded by a limit.
//!
//! Decompression writes into a buffer that grows by what is really produced and stops with an error
//! at the limit; no length that a stream announces is believed beyond what its bytes could hold. Used
//! only where bytes must be opened: conversion, compaction, internal topics, tools. Broker data is
//! never recompressed on the way in or out.
//!
//! Framings, as Kafka's Java client writes them:
//! - snappy: snappy-java's stream ("xerial"): 8 bytes of magic, two big-endian versions, then chunks
//!   of a big-endian length and a raw block. Raw blocks alone are read too, as snappy-java does.
//! - LZ4: the frame format with independent blocks of 64 KiB and no checksums. With magic 0, Kafka
//!   before 0.10 hashed the frame's magic bytes into the header checksum (KAFKA-3160); both are read.

use std::io::{Read, Write};

use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use lz4_flex::block::{self as lz4_block, DecompressError};
use twox_hash::XxHash32;

use super::BatchError;
use super::cursor::Cursor;

/// A codec; the id is that of the attributes' low three bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// 0
    None,
    /// 1
    Gzip,
    /// 2
    Snappy,
    /// 3
    Lz4,
    /// 4, magic 2 only
    Zstd,
}

impl Compression {
    /// All codecs, by id.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec with this id.
    #[must_use]
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.get(usize::from(id)).copied()
    }

    /// The codec that Kafka's `compression.type` calls so.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name() == name)
    }

    /// The id in the attributes.
    #[must_use]
    pub fn id(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The name in Kafka's configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Whether a stream of this codec can begin like `bytes`: a look at its magic, nothing more.
    #[must_use]
    pub fn may_begin(self, bytes: &[u8]) -> bool {
        match self {
            Self::None => true,
            Self::Gzip => bytes.starts_with(&GZIP_MAGIC),
            Self::Snappy => !bytes.is_empty(),
            Self::Lz4 => bytes.starts_with(&LZ4_MAGIC),
            Self::Zstd => bytes.starts_with(&ZSTD_MAGIC),
        }
    }
}

/// Which header checksum an LZ4 frame is written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lz4HeaderChecksum {
    /// As the LZ4 frame format says.
    Standard,
    /// Over the frame's magic too, as consumers of magic 0 expect it.
    Magic0,
}

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
/// libzstd's own limit, and zstd-jni's; level 22 of a Java producer announces as much. It bounds the
/// window that libzstd reserves, of which only what is produced is touched.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

const XERIAL_MAGIC: [u8; 8] = *b"\x82SNAPPY\0";
const XERIAL_VERSIONS: [u8; 8] = [0, 0, 0, 1, 0, 0, 0, 1];
const XERIAL_CHUNK_BYTES: usize = 32 * 1024;
/// A snappy copy element of three bytes yields at most 64.
const SNAPPY_RATIO_MAX: usize = 22;

const LZ4_MAGIC: [u8; 4] = 0x184d_2204_u32.to_le_bytes();
const LZ4_BLOCK_BYTES: usize = 64 * 1024;
const LZ4_STORED_BIT: u32 = 0x8000_0000;
/// Version 1, independent blocks, no checksums.
const LZ4_FLAGS: u8 = 0x60;
/// Blocks of at most 64 KiB.
const LZ4_BLOCK_DESCRIPTOR: u8 = 0x40;
/// A byte of an LZ4 block yields at most 255.
const LZ4_RATIO_MAX: usize = 255;
const LZ4_WINDOW_BYTES: usize = 64 * 1024;

/// Appends the compressed `input` to `out`.
///
/// # Errors
/// None that this module knows a cause of: the codecs only fail for want of memory or by a bug.
pub fn compress(codec: Compression, input: &[u8], out: &mut Vec<u8>) -> Result<(), BatchError> {
    match codec {
        Compression::None => out.extend_from_slice(input),
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(out, flate2::Compression::default());
            encoder
                .write_all(input)
                .and_then(|()| encoder.try_finish())
                .map_err(|error| corrupt("gzip", error))?;
        }
        Compression::Snappy => compress_xerial(input, out)?,
        Compression::Lz4 => compress_lz4(input, Lz4HeaderChecksum::Standard, out)?,
        Compression::Zstd => {
            zstd::stream::copy_encode(input, out, zstd::DEFAULT_COMPRESSION_LEVEL)
                .map_err(|error| corrupt("zstd", error))?;
        }
    }
    Ok(())
}

/// Decompresses all of `input`, to at most `bytes_max` bytes.
///
/// # Errors
/// `CorruptMessage` if the stream is damaged or cut off, `MessageTooLarge` at the limit.
pub fn decompress(
    codec: Compression,
    input: &[u8],
    bytes_max: usize,
) -> Result<Vec<u8>, BatchError> {
    match codec {
        Compression::None => {
            check_limit(input.len(), bytes_max)?;
            Ok(input.to_vec())
        }
        Compression::Gzip => read_bounded("gzip", MultiGzDecoder::new(input), bytes_max),
        Compression::Snappy => decompress_snappy(input, bytes_max),
        Compression::Lz4 => decompress_lz4(input, bytes_max),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)
                .map_err(|error| corrupt("zstd", error))?;
            decoder
                .window_log_max(ZSTD_WINDOW_LOG_MAX)
                .map_err(|error| corrupt("zstd", error))?;
            read_bounded("zstd", decoder, bytes_max)
        }
    }
}

fn corrupt(codec: &str, error: impl std::fmt::Display) -> BatchError {
    BatchError::CorruptMessage(format!("{codec} data: {error}"))
}

fn check_limit(size: usize, bytes_max: usize) -> Result<(), BatchError> {
    if size > bytes_max {
        return Err(BatchError::MessageTooLarge {
            what: "decompressed batch",
            size,
            limit: bytes_max,
        });
    }
    Ok(())
}

fn read_bounded(codec: &str, reader: impl Read, bytes_max: usize) -> Result<Vec<u8>, BatchError> {
    let mut out = Vec::new();
    let stop = u64::try_from(bytes_max)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    reader
        .take(stop)
        .read_to_end(&mut out)
        .map_err(|error| corrupt(codec, error))?;
    check_limit(out.len(), bytes_max)?;
    Ok(out)
}

fn compress_xerial(input: &[u8], out: &mut Vec<u8>) -> Result<(), BatchError> {
    out.extend_from_slice(&XERIAL_MAGIC);
    out.extend_from_slice(&XERIAL_VERSIONS);
    let mut encoder = snap::raw::Encoder::new();
    for chunk in input.chunks(XERIAL_CHUNK_BYTES) {
        let block = encoder
            .compress_vec(chunk)
            .map_err(|error| corrupt("snappy", error))?;
        let length = u32::try_from(block.len()).map_err(|error| corrupt("snappy", error))?;
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&block);
    }
    Ok(())
}

fn decompress_snappy(input: &[u8], bytes_max: usize) -> Result<Vec<u8>, BatchError> {
    let mut out = Vec::new();
    if !input.starts_with(&XERIAL_MAGIC) {
        decompress_snappy_block(input, bytes_max, &mut out)?;
        return Ok(out);
    }
    let mut cursor = Cursor::new(input);
    while !cursor.is_empty() {
        // Concatenated streams repeat the header, and snappy-java reads over it.
        if cursor.rest().starts_with(&XERIAL_MAGIC) {
            cursor
                .take(XERIAL_MAGIC.len().saturating_add(XERIAL_VERSIONS.len()))
                .ok_or_else(|| corrupt("snappy", "stream header is cut off"))?;
            continue;
        }
        let chunk = cursor
            .i32_bytes()
            .flatten()
            .ok_or_else(|| corrupt("snappy", "chunk is cut off or has a negative length"))?;
        decompress_snappy_block(chunk, bytes_max, &mut out)?;
    }
    Ok(out)
}

fn decompress_snappy_block(
    block: &[u8],
    bytes_max: usize,
    out: &mut Vec<u8>,
) -> Result<(), BatchError> {
    let announced = snap::raw::decompress_len(block).map_err(|error| corrupt("snappy", error))?;
    if announced > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
        let length = block.len();
        return Err(corrupt(
            "snappy",
            format_args!("{length} bytes cannot hold the announced {announced}"),
        ));
    }
    let start = out.len();
    let end = start.saturating_add(announced);
    check_limit(end, bytes_max)?;
    out.resize(end, 0);
    let target = out.get_mut(start..).unwrap_or_default();
    let written = snap::raw::Decoder::new()
        .decompress(block, target)
        .map_err(|error| corrupt("snappy", error))?;
    out.truncate(start.saturating_add(written));
    Ok(())
}

/// Appends `input` as one LZ4 frame.
pub(super) fn compress_lz4(
    input: &[u8],
    header_checksum: Lz4HeaderChecksum,
    out: &mut Vec<u8>,
) -> Result<(), BatchError> {
    let descriptor = [LZ4_FLAGS, LZ4_BLOCK_DESCRIPTOR];
    out.extend_from_slice(&LZ4_MAGIC);
    out.extend_from_slice(&descriptor);
    out.push(match header_checksum {
        Lz4HeaderChecksum::Standard => lz4_header_checksum(&descriptor),
        Lz4HeaderChecksum::Magic0 => lz4_magic0_header_checksum(&descriptor),
    });
    let mut block = vec![0; lz4_block::get_maximum_output_size(LZ4_BLOCK_BYTES)];
    for chunk in input.chunks(LZ4_BLOCK_BYTES) {
        let length =
            lz4_block::compress_into(chunk, &mut block).map_err(|error| corrupt("lz4", error))?;
        let (bytes, stored) = match block.get(..length) {
            Some(compressed) if length < chunk.len() => (compressed, 0),
            _ => (chunk, LZ4_STORED_BIT),
        };
        let size = u32::try_from(bytes.len()).map_err(|error| corrupt("lz4", error))?;
        out.extend_from_slice(&(size | stored).to_le_bytes());
        out.extend_from_slice(bytes);
    }
    out.extend_from_slice(&0u32.to_le_bytes());
    Ok(())
}

/// Second byte of the hash of the frame descriptor.
fn lz4_header_checksum(descriptor: &[u8]) -> u8 {
    let [_, _, checksum, _] = XxHash32::oneshot(0, descriptor).to_be_bytes();
    checksum
}

fn lz4_magic0_header_checksum(descriptor: &[u8]) -> u8 {
    lz4_header_checksum(&[&LZ4_MAGIC, descriptor].concat())
}

/// Decodes one LZ4 frame and ignores what follows it, as Kafka's `Lz4BlockInputStream.java` does.
///
/// Not `lz4_flex::frame`: that takes a frame without its end mark for whole, and reserves the block
/// size that the header announces, up to 16 MiB for a frame of 11 bytes. Linked blocks are read too,
/// though Kafka refuses them.
fn decompress_lz4(input: &[u8], bytes_max: usize) -> Result<Vec<u8>, BatchError> {
    let mut cursor = Cursor::new(input);
    let frame = Lz4Frame::parse(&mut cursor)?;
    let mut out = Vec::new();
    loop {
        let word = cursor
            .u32_le()
            .ok_or_else(|| corrupt("lz4", "no end mark"))?;
        if word == 0 {
            break;
        }
        let length = usize::try_from(word & !LZ4_STORED_BIT).unwrap_or(usize::MAX);
        if length > frame.block_bytes_max {
            let block_bytes_max = frame.block_bytes_max;
            return Err(corrupt(
                "lz4",
                format_args!("block of {length} bytes, maximum {block_bytes_max}"),
            ));
        }
        let block = cursor
            .take(length)
            .ok_or_else(|| corrupt("lz4", "block is cut off"))?;
        if frame.has_block_checksums && cursor.u32_le() != Some(XxHash32::oneshot(0, block)) {
            return Err(corrupt("lz4", "block checksum is wrong"));
        }
        if word & LZ4_STORED_BIT == 0 {
            frame.decompress_block(block, bytes_max, &mut out)?;
        } else {
            check_limit(out.len().saturating_add(length), bytes_max)?;
            out.extend_from_slice(block);
        }
    }
    if frame.has_content_checksum && cursor.u32_le() != Some(XxHash32::oneshot(0, &out)) {
        return Err(corrupt("lz4", "content checksum is wrong"));
    }
    Ok(out)
}

/// What the descriptor of an LZ4 frame says.
struct Lz4Frame {
    block_bytes_max: usize,
    has_linked_blocks: bool,
    has_block_checksums: bool,
    has_content_checksum: bool,
}

impl Lz4Frame {
    fn parse(cursor: &mut Cursor<'_>) -> Result<Self, BatchError> {
        let cut_off = || corrupt("lz4", "frame header is cut off");
        if cursor.array::<4>().ok_or_else(cut_off)? != LZ4_MAGIC {
            return Err(corrupt("lz4", "frame magic is wrong"));
        }
        let from_flags = cursor.rest();
        let [flags, block_descriptor] = cursor.array().ok_or_else(cut_off)?;
        if flags & 0xc3 != 0x40 {
            return Err(corrupt("lz4", format_args!("frame flags {flags:#04x}")));
        }
        let content_size_bytes = if flags & 0x08 == 0 { 0 } else { 8 };
        cursor.take(content_size_bytes).ok_or_else(cut_off)?;
        let descriptor = from_flags
            .get(..content_size_bytes.saturating_add(2))
            .unwrap_or_default();
        let checksum = cursor.u8().ok_or_else(cut_off)?;
        if checksum != lz4_header_checksum(descriptor)
            && checksum != lz4_magic0_header_checksum(descriptor)
        {
            return Err(corrupt("lz4", "frame header checksum is wrong"));
        }
        let block_bytes_max = match block_descriptor {
            0x40 => 64 * 1024,
            0x50 => 256 * 1024,
            0x60 => 1024 * 1024,
            0x70 => 4 * 1024 * 1024,
            _ => {
                return Err(corrupt(
                    "lz4",
                    format_args!("block size {block_descriptor:#04x}"),
                ));
            }
        };
        Ok(Self {
            block_bytes_max,
            has_linked_blocks: flags & 0x20 == 0,
            has_block_checksums: flags & 0x10 != 0,
            has_content_checksum: flags & 0x04 != 0,
        })
    }

    fn decompress_block(
        &self,
        block: &[u8],
        bytes_max: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), BatchError> {
        let start = out.len();
        let could_hold = block
            .len()
            .saturating_mul(LZ4_RATIO_MAX)
            .min(self.block_bytes_max);
        let room = could_hold.min(bytes_max.saturating_sub(start));
        out.resize(start.saturating_add(room), 0);
        let (before, target) = out.split_at_mut_checked(start).unwrap_or_default();
        let dictionary = if self.has_linked_blocks {
            before
                .get(start.saturating_sub(LZ4_WINDOW_BYTES)..)
                .unwrap_or_default()
        } else {
            &[]
        };
        match lz4_block::decompress_into_with_dict(block, target, dictionary) {
            Ok(written) => {
                out.truncate(start.saturating_add(written));
                Ok(())
            }
            Err(DecompressError::OutputTooSmall { .. }) if room < could_hold => {
                check_limit(start.saturating_add(could_hold), bytes_max)
            }
            Err(error) => Err(corrupt("lz4", error)),
        }
    }
}
