//! Verification: which batches of a .log file are good, and which stretches of bytes are none.
//!
//! A batch is good if its length, magic and CRC are right and its offsets follow those before it. The
//! base offset lies outside the CRC: where offsets jump, the next batch must not contradict. What is
//! damaged is stepped over: to the next batch by the length told, if one begins there; else to the
//! next position at which a good batch begins. (The partition leader epoch is not covered by any
//! checksum and is not checked.)
//!
//! Memory: one chunk, whatever lengths the bytes tell; only a check of the records inside reads
//! whole batches, up to a bound. Nothing is changed here.

use std::io;
use std::path::Path;

use super::directory::{SegmentFileKind, read_bytes, segment_path};
use super::error::{IoContext, LogError};
use super::index::Indexes;
use super::read::INDEX_FILE_BYTES_MAX;
use super::scan::{PIECE_BYTES, Scanner};
use crate::io::{Io, OpenMode};
use crate::record::batch::{HEADER_BYTES, LOG_OVERHEAD, MAGIC_PREFIX_BYTES};
use crate::record::{BatchError, BatchHeader, BatchReader, Compression};

/// Bytes of one read of a whole segment.
const CHUNK_BYTES: usize = 1 << 20;
/// Bytes after which other tasks have a turn.
const TURN_BYTES: u64 = 256 * 1024;
/// Largest batch whose records are looked at, and what they may unpack to.
const RECORDS_BYTES_MAX: usize = 64 << 20;
const DECOMPRESSED_BYTES_MAX: usize = 128 << 20;
/// Bytes of checksums that a search may spend on what is no batch, beside four times the file.
const SEARCH_BYTES: u64 = 64 << 20;

/// What is wrong with a stretch of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// The checksum of a batch is wrong.
    Crc,
    /// No batch can have the length that stands there.
    Length,
    /// The magic is none of 0, 1 and 2.
    Magic,
    /// Offsets do not follow those before, or contradict those after.
    OffsetOrder,
    /// The records inside are not those that the header announces.
    RecordCount,
    /// The file ends inside a batch, and nothing good follows.
    TornTail,
    /// Zeros up to the end of the file.
    Zeros,
}

impl DamageKind {
    /// In one word, as reports have it.
    pub fn name(self) -> &'static str {
        match self {
            DamageKind::Crc => "crc",
            DamageKind::Length => "length",
            DamageKind::Magic => "magic",
            DamageKind::OffsetOrder => "offset-order",
            DamageKind::RecordCount => "record-count",
            DamageKind::TornTail => "torn-tail",
            DamageKind::Zeros => "zeros",
        }
    }
}

/// Bytes of a segment that are no good batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where they begin in the .log file.
    pub position: u64,
    /// Where the next good batch begins, or the end of the file.
    pub end: u64,
    /// The first offset that may be lost.
    pub offset: i64,
    /// First offset of what follows, if anything does.
    pub next_offset: Option<i64>,
    /// What is wrong at `position`.
    pub kind: DamageKind,
    /// The same in words.
    pub reason: String,
}

impl Damage {
    /// Whether records of this offset may lie in the damaged bytes.
    pub fn covers(&self, offset: i64) -> bool {
        offset >= self.offset && self.next_offset.is_none_or(|next| offset < next)
    }
}

/// What is at a position.
#[derive(Debug)]
pub(crate) enum Step {
    Good(BatchHeader),
    Damaged(Damage),
}

/// Where a verification begins, and what is known of the surroundings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    /// Base offset of the segment.
    pub(crate) segment_base: i64,
    /// First byte to look at.
    pub(crate) position: u64,
    /// Offsets from there on are this or more.
    pub(crate) expected: i64,
    /// Offsets are less than this, if it is known.
    pub(crate) following: Option<i64>,
}

type Flaw = (DamageKind, String);

/// Walks a file batch by batch.
pub(crate) struct Verifier<'a> {
    scanner: &'a mut Scanner,
    segment_base: i64,
    position: u64,
    expected: i64,
    following: Option<i64>,
    checks_records: bool,
    turn_at: u64,
}

impl<'a> Verifier<'a> {
    pub(crate) fn new(scanner: &'a mut Scanner, start: Start) -> Verifier<'a> {
        Verifier {
            scanner,
            segment_base: start.segment_base,
            position: start.position,
            expected: start.expected,
            following: start.following,
            checks_records: false,
            turn_at: start.position + TURN_BYTES,
        }
    }

    /// Looks into the batches, too.
    pub(crate) fn with_records(mut self) -> Self {
        self.checks_records = true;
        self
    }

    /// Where the next step looks.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The offset that is due there, or more.
    pub(crate) fn expected(&self) -> i64 {
        self.expected
    }

    /// Whether a good batch begins at the position. Nothing is searched.
    pub(crate) async fn is_good(&mut self) -> io::Result<bool> {
        let at = self.position;
        if at >= self.scanner.end() {
            return Ok(false);
        }
        let Ok(header) = self.whole(at).await? else {
            return Ok(false);
        };
        let end = self.following.unwrap_or(i64::MAX);
        if header.base_offset < self.expected || header.next_offset() > end {
            return Ok(false);
        }
        let next_at = at + header.size_in_bytes() as u64;
        if header.next_offset() == end || next_at >= self.scanner.end() {
            return Ok(header.next_offset() == end);
        }
        // An entry of Kafka's may be for several batches: then the next one follows at once.
        let next = self.header(next_at).await?;
        Ok(next.is_ok_and(|next| (header.next_offset()..end).contains(&next.base_offset)))
    }

    /// What is at the position, which then is behind it; `None` at the end.
    pub(crate) async fn step(&mut self) -> io::Result<Option<Step>> {
        if self.position >= self.scanner.end() {
            return Ok(None);
        }
        if self.position >= self.turn_at {
            self.turn_at = self.position + TURN_BYTES;
            self.scanner.io().yield_now().await;
        }
        let at = self.position;
        let flaw = match self.whole(at).await? {
            Err(flaw) => flaw,
            Ok(header) => match self.flaw_of(at, &header).await? {
                Some(flaw) => flaw,
                None => {
                    self.position += header.size_in_bytes() as u64;
                    self.expected = header.next_offset();
                    return Ok(Some(Step::Good(header)));
                }
            },
        };
        self.damaged(flaw).await.map(Some)
    }

    // ---- one batch ---------------------------------------------------------------------------

    /// The header at a position, if the batch is there as it was sealed.
    async fn whole(&mut self, at: u64) -> io::Result<Result<BatchHeader, Flaw>> {
        let header = match self.header(at).await? {
            Ok(header) => header,
            Err(flaw) => return Ok(Err(flaw)),
        };
        let size = header.size_in_bytes();
        let computed = self.scanner.computed_crc(at, &header).await?;
        if computed == u64::from(header.crc) {
            return Ok(Ok(header));
        }
        let reason = format!(
            "batch at offset {}, {size} bytes: stored crc {:#010x}, computed crc {computed:#010x}",
            header.base_offset, header.crc
        );
        Ok(Err((DamageKind::Crc, reason)))
    }

    /// A header whose batch fits into the file.
    async fn header(&mut self, at: u64) -> io::Result<Result<BatchHeader, Flaw>> {
        let left = self.scanner.end() - at;
        let bytes = self.scanner.bytes(at, HEADER_BYTES).await?;
        if let Some(magic) = bytes
            .get(MAGIC_PREFIX_BYTES - 1)
            .filter(|magic| **magic > 2)
        {
            return Ok(Err((DamageKind::Magic, format!("unknown magic {magic}"))));
        }
        let header = match BatchHeader::parse(bytes) {
            Ok(header) => header,
            Err(error) => return Ok(Err((DamageKind::Length, error.to_string()))),
        };
        let size = header.size_in_bytes() as u64;
        if size > left {
            let reason = format!("a batch of {size} bytes, {left} are left of the file");
            return Ok(Err((DamageKind::Length, reason)));
        }
        Ok(Ok(header))
    }

    /// What is wrong with a batch beside its bytes.
    async fn flaw_of(&mut self, at: u64, header: &BatchHeader) -> io::Result<Option<Flaw>> {
        if let Some(reason) = self.order_flaw(at, header).await? {
            return Ok(Some((DamageKind::OffsetOrder, reason)));
        }
        if !self.checks_records || header.size_in_bytes() > RECORDS_BYTES_MAX {
            return Ok(None);
        }
        let bytes = self.scanner.bytes(at, header.size_in_bytes()).await?;
        let flaw = records_flaw(&bytes[..header.size_in_bytes()], header);
        Ok(flaw.map(|reason| (DamageKind::RecordCount, reason)))
    }

    async fn order_flaw(&mut self, at: u64, header: &BatchHeader) -> io::Result<Option<String>> {
        let offsets = format!("offsets {} to {}", header.base_offset, header.last_offset());
        let expected = self.expected;
        if !self.fits(header) {
            let reason = match self.following {
                Some(next) if header.base_offset >= expected => {
                    format!("{offsets} in the segment before {next}")
                }
                _ => format!("{offsets} where {expected} or more is due"),
            };
            return Ok(Some(reason));
        }
        let next = self.scanner.contradiction(at, header, expected).await?;
        Ok(next.map(|next| format!("{offsets}, but the next batch begins at {next}")))
    }

    /// Whether the offsets are possible here.
    fn fits(&self, header: &BatchHeader) -> bool {
        let relative = header.last_offset().checked_sub(self.segment_base);
        header.base_offset >= self.expected
            && relative.is_some_and(|relative| relative <= i64::from(i32::MAX))
            && self
                .following
                .is_none_or(|next| header.last_offset() < next)
    }

    // ---- damage ------------------------------------------------------------------------------

    async fn damaged(&mut self, (kind, reason): Flaw) -> io::Result<Step> {
        let position = self.position;
        let file_end = self.scanner.end();
        let (end, next) = self.next_good(position).await?;
        let kind = match kind {
            _ if end < file_end => kind,
            _ if self.scanner.is_zero(position).await? => DamageKind::Zeros,
            DamageKind::Length => DamageKind::TornTail,
            kind => kind,
        };
        self.position = end;
        self.turn_at = end + TURN_BYTES;
        Ok(Step::Damaged(Damage {
            position,
            end,
            offset: self.expected,
            next_offset: next.or(self.following),
            kind,
            reason,
        }))
    }

    /// Where the next good batch begins, and its base offset; else the end of the file.
    async fn next_good(&mut self, from: u64) -> io::Result<(u64, Option<i64>)> {
        let file_end = self.scanner.end();
        if let Ok(header) = self.header(from).await? {
            let end = from + header.size_in_bytes() as u64;
            if end == file_end {
                return Ok((file_end, None));
            }
            if let Ok(next) = self.whole(end).await?
                && self.fits(&next)
            {
                let first = self.first_offset(end, &next).await?;
                return Ok((end, Some(first)));
            }
        }
        // A walk to an offset reads little at a time.
        let chunk = self.scanner.read_ahead(PIECE_BYTES);
        let found = self.search(from).await;
        self.scanner.set_chunk(chunk);
        found
    }

    /// The same, byte by byte.
    async fn search(&mut self, from: u64) -> io::Result<(u64, Option<i64>)> {
        let file_end = self.scanner.end();
        let mut budget = SEARCH_BYTES + 4 * (file_end - from);
        let mut position = from + 1;
        while position < file_end {
            let (expected, base) = (self.expected, self.segment_base);
            let left = file_end - position;
            let bytes = self.scanner.bytes(position, MAGIC_PREFIX_BYTES).await?;
            let Some(skipped) = find_candidate(bytes, left, expected, base) else {
                let looked_at = bytes.len().saturating_sub(MAGIC_PREFIX_BYTES - 1).max(1);
                position += looked_at as u64;
                self.scanner.io().yield_now().await;
                continue;
            };
            position += skipped as u64;
            let size = match self.header(position).await? {
                Ok(header) => header.size_in_bytes() as u64,
                Err(_) => 0,
            };
            if size > 0
                && let Ok(header) = self.whole(position).await?
                && self.fits(&header)
            {
                let first = self.first_offset(position, &header).await?;
                return Ok((position, Some(first)));
            }
            let Some(rest) = budget.checked_sub(size) else {
                break;
            };
            budget = rest;
            position += 1;
        }
        Ok((file_end, None))
    }

    /// The offset of the first record in a good batch. The header of a wrapper (magic 0 or 1) has the
    /// last one: that of the first is inside.
    async fn first_offset(&mut self, at: u64, header: &BatchHeader) -> io::Result<i64> {
        let size = header.size_in_bytes();
        let is_wrapper = header.magic < 2 && header.compression().ok() != Some(Compression::None);
        if !is_wrapper || size > RECORDS_BYTES_MAX {
            return Ok(header.base_offset);
        }
        let bytes = self.scanner.bytes(at, size).await?;
        let reader = BatchReader::open(&bytes[..size], DECOMPRESSED_BYTES_MAX).ok();
        let first = reader.and_then(|reader| reader.records().next()?.ok().map(|r| r.offset));
        let possible = self.expected..=header.base_offset;
        Ok(first
            .filter(|first| possible.contains(first))
            .unwrap_or(header.base_offset))
    }
}

/// How many bytes before one that could begin a batch: by offset, length and magic.
fn find_candidate(bytes: &[u8], left: u64, expected: i64, segment_base: i64) -> Option<usize> {
    let last = segment_base.saturating_add(i64::from(i32::MAX));
    bytes
        .windows(MAGIC_PREFIX_BYTES)
        .enumerate()
        .position(|(at, window)| {
            if window[MAGIC_PREFIX_BYTES - 1] > 2 {
                return false;
            }
            let (Some(offset), Some(length)) =
                (window.first_chunk::<8>(), window[8..].first_chunk::<4>())
            else {
                return false;
            };
            let offset = i64::from_be_bytes(*offset);
            let length = u64::from(u32::from_be_bytes(*length));
            (expected..=last).contains(&offset)
                && length > 0
                && length + LOG_OVERHEAD as u64 + at as u64 <= left
        })
}

/// What of the records is not as the header says.
fn records_flaw(batch: &[u8], header: &BatchHeader) -> Option<String> {
    let announced = i64::from(header.last_offset_delta) + 1;
    if header.magic == 2 && i64::from(header.record_count) > announced {
        return Some(format!(
            "{} records, but last offset delta {}",
            header.record_count, header.last_offset_delta
        ));
    }
    let reader = match BatchReader::open(batch, DECOMPRESSED_BYTES_MAX) {
        Ok(reader) => reader,
        // Its bytes are as they were sealed; nothing was looked at that could be wrong.
        Err(BatchError::MessageTooLarge { .. }) => return None,
        Err(error) => return Some(error.to_string()),
    };
    // The reader holds offsets, and that nothing is left behind the last record, against the header.
    reader
        .records()
        .find_map(Result::err)
        .map(|error| error.to_string())
}

// ---- a whole segment, for tools ------------------------------------------------------------------

/// A segment to be checked, and what is known of its surroundings.
#[derive(Clone, Copy, Debug)]
pub struct SegmentCheck<'a> {
    /// The partition's directory.
    pub directory: &'a Path,
    /// Base offset of the segment.
    pub base_offset: i64,
    /// The segment before ends here.
    pub expected: i64,
    /// The next segment begins here, or the log is known to end.
    pub following: Option<i64>,
}

/// What a check has found beside the damage that it told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentReport {
    /// Base offset of the first good batch.
    pub first_offset: Option<i64>,
    /// Offset after the last good batch.
    pub next_offset: i64,
    /// Good batches.
    pub batches: u64,
    /// Length of the file.
    pub bytes: u64,
    /// What of the index files does not agree with the batches.
    pub index_flaw: Option<String>,
}

/// Reads a segment whole, records and indexes included, and tells of damage in the order of the file.
///
/// # Errors
/// What reading answered.
pub async fn check_segment(
    io: &Io,
    check: &SegmentCheck<'_>,
    tell: &mut dyn FnMut(Damage),
) -> Result<SegmentReport, LogError> {
    let path = segment_path(check.directory, check.base_offset, SegmentFileKind::Log);
    let file = io.open(&path, OpenMode::Read).await.at("open", &path)?;
    let length = io.length(&file).await.at("stat", &path)?;
    let mut index = IndexWalk::load(io, check, length).await?;
    let mut scanner = Scanner::new(io, &file, length, CHUNK_BYTES);
    let start = Start {
        segment_base: check.base_offset,
        position: 0,
        expected: check.expected.max(check.base_offset),
        following: check.following,
    };
    let mut report = SegmentReport {
        bytes: length,
        ..SegmentReport::default()
    };
    let mut verifier = Verifier::new(&mut scanner, start).with_records();
    loop {
        let at = verifier.position();
        match verifier.step().await.at("read", &path)? {
            None => break,
            Some(Step::Good(header)) => {
                report.first_offset.get_or_insert(header.base_offset);
                report.batches += 1;
                index.batch(at, &header);
            }
            Some(Step::Damaged(damage)) => {
                index.skip(damage.end);
                tell(damage);
            }
        }
    }
    report.next_offset = verifier.expected();
    report.index_flaw = index.flaw;
    Ok(report)
}

/// Holds the entries of an offset index against the batches as they come.
struct IndexWalk {
    entries: std::vec::IntoIter<(i64, u32)>,
    next: Option<(i64, u32)>,
    flaw: Option<String>,
}

impl IndexWalk {
    async fn load(io: &Io, check: &SegmentCheck<'_>, length: u64) -> Result<IndexWalk, LogError> {
        let read = async |kind| {
            let path = segment_path(check.directory, check.base_offset, kind);
            read_bytes(io, &path, INDEX_FILE_BYTES_MAX).await
        };
        let (offsets, times) = (
            read(SegmentFileKind::Index).await?.unwrap_or_default(),
            read(SegmentFileKind::TimeIndex).await?.unwrap_or_default(),
        );
        let size = u32::try_from(length).unwrap_or(u32::MAX);
        let indexes = Indexes::decode(check.base_offset, &offsets, &times, size);
        let flaw = indexes
            .is_none()
            .then(|| "entries are not in order, or lie beyond the .log file".to_owned());
        let entries: Vec<(i64, u32)> = indexes.unwrap_or_default().entries().collect();
        let mut entries = entries.into_iter();
        Ok(IndexWalk {
            next: entries.next(),
            entries,
            flaw,
        })
    }

    fn batch(&mut self, at: u64, header: &BatchHeader) {
        while let Some((offset, position)) = self.next.filter(|(_, p)| u64::from(*p) <= at) {
            // Kafka notes the last offset of an append, which may be more than one batch.
            if u64::from(position) < at || offset < header.base_offset {
                let reason = format!("offset {offset} at byte {position}, where no batch has it");
                self.flaw.get_or_insert(reason);
            }
            self.next = self.entries.next();
        }
    }

    /// Entries below the position are not looked at.
    fn skip(&mut self, end: u64) {
        while self.next.is_some_and(|(_, p)| u64::from(p) < end) {
            self.next = self.entries.next();
        }
    }
}
