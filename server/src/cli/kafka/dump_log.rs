//! `kafka-dump-log`: what stands in segment and index files, offline (Kafka: `DumpLogSegments`).
//!
//! Files are read in pieces of a batch; a batch that is cut off or damaged ends the file with a line
//! that says where.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use ringlog_engine::record::batch::iterate;
use ringlog_engine::record::builder::TransactionMarker;
use ringlog_engine::record::{Batch, BatchReader, TimestampType};

use super::options::{Options, Spec, flag, one};
use super::{Tool, tell_plainly};
use crate::cli::Exit;
use crate::cli::tool::{ToolError, ToolResult};

/// `kafka-dump-log`.
pub const TOOL: Tool = Tool {
    name: "kafka-dump-log",
    about: "This tool helps to parse a log file and dump its contents to the console, useful for debugging a seemingly corrupt log segment.",
    options: OPTIONS,
    run,
    tell: tell_plainly,
};

/// Most bytes a compressed batch may take when opened.
const DECOMPRESSED_BYTES_MAX: usize = 256 << 20;
const BATCH_BYTES_MAX: usize = 256 << 20;
/// Base offset and length: what stands before the bytes that the length counts.
const PREFIX_BYTES: usize = 12;

const OPTIONS: &[Spec] = &[
    flag(
        "deep-iteration",
        "Show records, too (as --print-data-log, without their content)",
    ),
    one("files", "file,...", "Files to show"),
    flag("index-sanity-check", "Check index files only"),
    one(
        "key-decoder-class",
        "class",
        "Accepted: keys are printed as text",
    ),
    one("max-bytes", "n", "Most bytes of a .log file"),
    one("max-message-size", "n", "Accepted: sizes are in the files"),
    flag("print-data-log", "Show records with key and value"),
    flag(
        "skip-record-metadata",
        "With --print-data-log: only key and value",
    ),
    one(
        "value-decoder-class",
        "class",
        "Accepted: values are printed as text",
    ),
    flag(
        "verify-index-only",
        "Check index files without showing them",
    ),
];

/// What to show.
#[derive(Clone, Copy, Debug, Default)]
pub struct DumpOptions {
    /// Records, without content.
    pub deep: bool,
    /// Key and value.
    pub content: bool,
    /// No metadata of records.
    pub skip_metadata: bool,
    /// Only check indexes.
    pub quiet_index: bool,
    /// Most bytes of a log file.
    pub bytes_max: Option<u64>,
}

fn run(options: &Options, out: &mut dyn Write) -> ToolResult<Exit> {
    let Some(files) = options.last("files") else {
        return Err(ToolError::Usage(
            "Missing required argument \"[files]\"".to_owned(),
        ));
    };
    let content = options.has("print-data-log");
    let dump = DumpOptions {
        deep: content || options.has("deep-iteration"),
        content,
        skip_metadata: options.has("skip-record-metadata"),
        quiet_index: options.has("verify-index-only") || options.has("index-sanity-check"),
        bytes_max: options.number("max-bytes")?,
    };
    for file in files.split(',').filter(|file| !file.is_empty()) {
        dump_file(Path::new(file), dump, out)?;
    }
    Ok(Exit::Ok)
}

/// Shows one file, by its suffix.
///
/// # Errors
/// If it cannot be read.
pub fn dump_file(path: &Path, dump: DumpOptions, out: &mut dyn Write) -> ToolResult {
    writeln!(out, "Dumping {}", path.display())?;
    let suffix = path.extension().and_then(|suffix| suffix.to_str());
    let failed = |error| ToolError::failed(format!("{}: {error}", path.display()));
    match suffix {
        Some("log") => {
            let file = File::open(path).map_err(failed)?;
            writeln!(out, "Log starting offset: {}", base_offset(path))?;
            dump_log(BufReader::with_capacity(1 << 20, file), dump, out)
        }
        Some("index") => {
            let bytes = std::fs::read(path).map_err(failed)?;
            dump_index(path, &bytes, dump, out)
        }
        Some("timeindex") => {
            let bytes = std::fs::read(path).map_err(failed)?;
            dump_time_index(path, &bytes, dump, out)
        }
        Some("txnindex") => dump_transactions(&std::fs::read(path).map_err(failed)?, out),
        Some("snapshot") => dump_producers(&std::fs::read(path).map_err(failed)?, out),
        _ => {
            eprintln!("Ignoring unknown file {}", path.display());
            Ok(())
        }
    }
}

fn base_offset(path: &Path) -> i64 {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    stem.and_then(|stem| stem.split('.').next()?.parse().ok())
        .unwrap_or(0)
}

fn dump_log(mut file: impl Read, dump: DumpOptions, out: &mut dyn Write) -> ToolResult {
    let mut position = 0_u64;
    let mut last_offset = None;
    loop {
        if dump.bytes_max.is_some_and(|max| position >= max) {
            return Ok(());
        }
        let mut bytes = Vec::new();
        file.by_ref()
            .take(PREFIX_BYTES as u64)
            .read_to_end(&mut bytes)?;
        if bytes.iter().all(|byte| *byte == 0) {
            // The end, or space that was allocated ahead.
            return Ok(());
        }
        let length = bytes
            .get(8..12)
            .map_or([0; 4], |b| [b[0], b[1], b[2], b[3]]);
        let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length <= BATCH_BYTES_MAX {
            let limit = u64::try_from(length).unwrap_or(0);
            file.by_ref().take(limit).read_to_end(&mut bytes)?;
        }
        let batch = match iterate(&bytes).next() {
            Some(Ok(batch)) => batch,
            Some(Err(error)) => {
                let size = bytes.len();
                writeln!(
                    out,
                    "Found {size} invalid bytes at position {position}: {error}"
                )?;
                return Ok(());
            }
            None => return Ok(()),
        };
        print_batch(&batch, position, out)?;
        if dump.deep {
            print_records(&batch, dump, &mut last_offset, out)?;
        }
        position += u64::try_from(bytes.len()).unwrap_or(0);
    }
}

fn type_name(kind: TimestampType) -> &'static str {
    match kind {
        TimestampType::CreateTime => "CreateTime",
        TimestampType::LogAppendTime => "LogAppendTime",
    }
}

fn print_batch(batch: &Batch<'_>, position: u64, out: &mut dyn Write) -> ToolResult {
    let header = &batch.header;
    if header.magic >= 2 {
        let horizon = header
            .delete_horizon_ms()
            .map_or("OptionalLong.empty".to_owned(), |ms| {
                format!("OptionalLong[{ms}]")
            });
        write!(
            out,
            "baseOffset: {} lastOffset: {} count: {} baseSequence: {} lastSequence: {} producerId: {} \
             producerEpoch: {} partitionLeaderEpoch: {} isTransactional: {} isControl: {} deleteHorizonMs: {horizon}",
            header.base_offset,
            header.last_offset(),
            header.record_count,
            header.base_sequence,
            header.last_sequence(),
            header.producer_id,
            header.producer_epoch,
            header.partition_leader_epoch,
            header.is_transactional(),
            header.is_control(),
        )?;
    } else {
        write!(out, "offset: {}", header.last_offset())?;
    }
    let codec = header.compression().map_or("unknown", |codec| codec.name());
    writeln!(
        out,
        " position: {position} {}: {} size: {} magic: {} compresscodec: {codec} crc: {} isvalid: {}",
        type_name(header.timestamp_type()),
        header.max_timestamp,
        batch.bytes.len(),
        header.magic,
        header.crc,
        header.check_crc(batch.bytes).is_ok(),
    )?;
    Ok(())
}

fn print_records(
    batch: &Batch<'_>,
    dump: DumpOptions,
    last_offset: &mut Option<i64>,
    out: &mut dyn Write,
) -> ToolResult {
    let header = &batch.header;
    let reader = match BatchReader::open(batch.bytes, DECOMPRESSED_BYTES_MAX) {
        Ok(reader) => reader,
        Err(error) => {
            writeln!(out, "| cannot be opened: {error}")?;
            return Ok(());
        }
    };
    for (record, index) in reader.records().zip(0..) {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                writeln!(out, "| {error}")?;
                return Ok(());
            }
        };
        if let Some(last) = last_offset.replace(record.offset)
            && record.offset != last + 1
        {
            eprintln!(
                "Non-consecutive offsets: {last} is followed by {}",
                record.offset
            );
        }
        let mut prefix = "| ";
        let size = |bytes: Option<&[u8]>| {
            bytes.map_or(-1, |bytes| i64::try_from(bytes.len()).unwrap_or(i64::MAX))
        };
        if !dump.skip_metadata {
            write!(
                out,
                "{prefix}offset: {} {}: {} keySize: {} valueSize: {}",
                record.offset,
                type_name(header.timestamp_type()),
                record.timestamp,
                size(record.key),
                size(record.value)
            )?;
            prefix = " ";
            if header.magic >= 2 {
                let sequence = match header.base_sequence {
                    -1 => -1,
                    base => base.wrapping_add(index) & i32::MAX,
                };
                let keys = record
                    .headers
                    .iter()
                    .map(|h| String::from_utf8_lossy(h.key));
                let keys: Vec<_> = keys.collect();
                write!(
                    out,
                    " sequence: {sequence} headerKeys: [{}]",
                    keys.join(",")
                )?;
            }
            if header.is_control() {
                let marker = match record.key.and_then(TransactionMarker::from_key) {
                    Some(TransactionMarker::Commit) => "COMMIT",
                    Some(TransactionMarker::Abort) => "ABORT",
                    None => "UNKNOWN",
                };
                let epoch = record.value.and_then(|v| v.get(2..6));
                let epoch = epoch.map_or(-1, |e| i32::from_be_bytes([e[0], e[1], e[2], e[3]]));
                write!(out, " endTxnMarker: {marker} coordinatorEpoch: {epoch}")?;
            }
        }
        if dump.content && !header.is_control() {
            if let Some(key) = record.key {
                write!(out, "{prefix}key: {}", String::from_utf8_lossy(key))?;
                prefix = " ";
            }
            if let Some(value) = record.value {
                write!(out, "{prefix}payload: {}", String::from_utf8_lossy(value))?;
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

/// 8 bytes an entry: u32 offset from the base, u32 position (Kafka: `OffsetIndex.java`).
fn dump_index(path: &Path, bytes: &[u8], dump: DumpOptions, out: &mut dyn Write) -> ToolResult {
    let base = base_offset(path);
    let entries = bytes.chunks_exact(8);
    if entries.len() == 0 {
        writeln!(out, "{} is empty.", path.display())?;
        return Ok(());
    }
    let mut previous = (-1_i64, -1_i64);
    for (index, entry) in entries.enumerate() {
        let relative = i64::from(u32_at(entry, 0));
        let position = i64::from(u32_at(entry, 4));
        // Space allocated ahead is zero.
        if relative == 0 && index > 0 {
            break;
        }
        if relative <= previous.0 || position < previous.1 {
            eprintln!(
                "Mismatches in :{}\n  entry {index} is not behind the one before",
                path.display()
            );
        }
        previous = (relative, position);
        if !dump.quiet_index {
            writeln!(out, "offset: {} position: {position}", base + relative)?;
        }
    }
    if dump.quiet_index {
        writeln!(out, "{} passed sanity check.", path.display())?;
    }
    Ok(())
}

/// 12 bytes an entry: i64 timestamp, u32 offset from the base (Kafka: `TimeIndex.java`).
fn dump_time_index(
    path: &Path,
    bytes: &[u8],
    dump: DumpOptions,
    out: &mut dyn Write,
) -> ToolResult {
    let base = base_offset(path);
    for (index, entry) in bytes.chunks_exact(12).enumerate() {
        let timestamp = i64_at(entry, 0);
        let relative = i64::from(u32_at(entry, 8));
        if relative == 0 && index > 0 {
            break;
        }
        if !dump.quiet_index {
            writeln!(out, "timestamp: {timestamp} offset: {}", base + relative)?;
        }
    }
    if dump.quiet_index {
        writeln!(out, "{} passed sanity check.", path.display())?;
    }
    Ok(())
}

/// 34 bytes an entry (Kafka: `AbortedTxn.java`).
fn dump_transactions(bytes: &[u8], out: &mut dyn Write) -> ToolResult {
    for entry in bytes.chunks_exact(34) {
        writeln!(
            out,
            "version: {} producerId: {} firstOffset: {} lastOffset: {} lastStableOffset: {}",
            i16_at(entry, 0),
            i64_at(entry, 2),
            i64_at(entry, 10),
            i64_at(entry, 18),
            i64_at(entry, 26)
        )?;
    }
    Ok(())
}

/// Version 1: i16 version, u32 CRC, count, then 46 bytes a producer (Kafka:
/// `ProducerStateManager.java`).
fn dump_producers(bytes: &[u8], out: &mut dyn Write) -> ToolResult {
    let version = i16_at(bytes, 0);
    if version != 1 {
        return Err(ToolError::failed(format!(
            "Snapshot contained an unknown file version {version}"
        )));
    }
    for entry in bytes.get(10..).unwrap_or_default().chunks_exact(46) {
        let last_sequence = i32_at(entry, 10);
        let last_offset = i64_at(entry, 14);
        let delta = i32_at(entry, 22);
        let timestamp = i64_at(entry, 26);
        let first_offset = match i64_at(entry, 38) {
            -1 => "OptionalLong.empty".to_owned(),
            offset => format!("OptionalLong[{offset}]"),
        };
        let first_sequence = last_sequence.wrapping_sub(delta) & i32::MAX;
        writeln!(
            out,
            "producerId: {} producerEpoch: {} coordinatorEpoch: {} currentTxnFirstOffset: {first_offset} \
             lastTimestamp: {timestamp} firstSequence: {first_sequence} lastSequence: {last_sequence} \
             lastOffset: {last_offset} offsetDelta: {delta} timestamp: {timestamp}",
            i64_at(entry, 0),
            i16_at(entry, 8),
            i32_at(entry, 34),
        )?;
    }
    Ok(())
}

/// Big-endian at a place; 0 if it is not there.
fn fixed<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let slice = bytes.get(at..).and_then(|rest| rest.first_chunk::<N>());
    slice.copied().unwrap_or([0; N])
}

fn i16_at(bytes: &[u8], at: usize) -> i16 {
    i16::from_be_bytes(fixed(bytes, at))
}

fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(fixed(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(fixed(bytes, at))
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_be_bytes(fixed(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringlog_engine::record::{BatchBuilder, Compression};

    #[test]
    fn a_segment_is_shown_as_kafka_shows_it() {
        let mut builder = BatchBuilder::new(Compression::None).partition_leader_epoch(0);
        builder.append(5, Some(b"k"), Some(b"v"), &[]).unwrap();
        let mut bytes = builder.build().unwrap().to_vec();
        bytes.extend_from_slice(&[0; 64]);
        let mut out = Vec::new();
        let dump = DumpOptions {
            deep: true,
            content: true,
            ..DumpOptions::default()
        };
        dump_log(bytes.as_slice(), dump, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let crc = text
            .split("crc: ")
            .nth(1)
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .to_owned();
        let expected = format!(
            "baseOffset: 0 lastOffset: 0 count: 1 baseSequence: -1 lastSequence: -1 producerId: -1 \
             producerEpoch: -1 partitionLeaderEpoch: 0 isTransactional: false isControl: false \
             deleteHorizonMs: OptionalLong.empty position: 0 CreateTime: 5 size: 70 magic: 2 \
             compresscodec: none crc: {crc} isvalid: true\n\
             | offset: 0 CreateTime: 5 keySize: 1 valueSize: 1 sequence: -1 headerKeys: [] key: k payload: v\n"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn damage_ends_the_file_with_a_line_that_says_where() {
        let mut out = Vec::new();
        dump_log([7_u8; 40].as_slice(), DumpOptions::default(), &mut out).unwrap();
        assert!(
            String::from_utf8(out)
                .unwrap()
                .contains("invalid bytes at position 0")
        );
    }

    #[test]
    fn indexes_end_at_the_space_allocated_ahead() {
        let mut bytes = vec![0, 0, 0, 5, 0, 0, 0, 70];
        bytes.extend_from_slice(&[0; 16]);
        let mut out = Vec::new();
        let path = Path::new("00000000000000000100.index");
        dump_index(path, &bytes, DumpOptions::default(), &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "offset: 105 position: 70\n"
        );
    }
}
