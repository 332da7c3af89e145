//! Reads batches of a .log file one after the other, by position.
//!
//! Never reads past the given end, and never allocates more than one chunk or one batch that is
//! really there.

use std::io;

use bytes::BytesMut;
use crc_fast::{CrcAlgorithm, Digest};

use super::segment::{BatchPlace, Segment};
use crate::io::{File, Io};
use crate::record::batch::{HEADER_BYTES, LOG_OVERHEAD};
use crate::record::{BatchError, BatchHeader};

/// Bytes of one read of a large batch.
pub(crate) const PIECE_BYTES: usize = 256 * 1024;
/// Where the bytes begin that the CRC covers, in batches of magic 2 and in message set entries.
const CRC_FROM_V2: u64 = 21;
const CRC_FROM_OLD: u64 = 16;

/// A visitor of batches: the header, and the bytes of the batch where they were read whole.
pub(crate) type Visitor<'a> = dyn FnMut(&BatchHeader, &[u8]) + 'a;

/// Why there is no batch at a position.
#[derive(Debug)]
pub(crate) enum ScanError {
    Io(io::Error),
    Batch(BatchError),
}

impl From<BatchError> for ScanError {
    fn from(error: BatchError) -> ScanError {
        ScanError::Batch(error)
    }
}

/// A window on a file.
pub(crate) struct Scanner {
    io: Io,
    file: File,
    end: u64,
    chunk: usize,
    buffer: BytesMut,
    start: u64,
}

impl Scanner {
    /// Reads `file` up to `end`, `chunk` bytes at a time.
    pub(crate) fn new(io: &Io, file: &File, end: u64, chunk: usize) -> Scanner {
        Scanner {
            io: io.clone(),
            file: file.clone(),
            end,
            chunk,
            buffer: BytesMut::new(),
            start: 0,
        }
    }

    /// What it reads through.
    pub(crate) fn io(&self) -> &Io {
        &self.io
    }

    /// Reads at least `chunk` bytes at a time from here on; gives how many it were.
    pub(crate) fn read_ahead(&mut self, chunk: usize) -> usize {
        let larger = self.chunk.max(chunk);
        std::mem::replace(&mut self.chunk, larger)
    }

    /// Reads `chunk` bytes at a time from here on.
    pub(crate) fn set_chunk(&mut self, chunk: usize) {
        self.chunk = chunk;
    }

    /// Up to where it reads.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Bytes from `position` on: at least `needed`, or all up to the end.
    pub(crate) async fn bytes(&mut self, position: u64, needed: usize) -> io::Result<&[u8]> {
        let left = usize::try_from(self.end.saturating_sub(position)).unwrap_or(usize::MAX);
        let needed = needed.min(left);
        let have = |start: u64, length: usize| {
            position >= start && position + needed as u64 <= start + length as u64
        };
        if !have(self.start, self.buffer.len()) {
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.clear();
            let length = self.chunk.max(needed).min(left);
            self.buffer = self
                .io
                .read_at(&self.file, buffer, position, length)
                .await?;
            self.start = position;
            if self.buffer.len() < needed {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let from = usize::try_from(position - self.start).unwrap_or(usize::MAX);
        Ok(&self.buffer[from..])
    }

    /// The header of the batch at `position`, which is whole as far as the length goes.
    pub(crate) async fn header(&mut self, position: u64) -> Result<BatchHeader, ScanError> {
        let left = self.end.saturating_sub(position);
        let bytes = self
            .bytes(position, HEADER_BYTES)
            .await
            .map_err(ScanError::Io)?;
        let header = BatchHeader::parse(bytes)?;
        let size = header.size_in_bytes();
        if size as u64 > left {
            return Err(ScanError::Batch(BatchError::Truncated {
                needed: size,
                available: usize::try_from(left).unwrap_or(usize::MAX),
            }));
        }
        Ok(header)
    }

    /// All bytes of the batch whose header was read at `position`.
    pub(crate) async fn batch(
        &mut self,
        position: u64,
        header: &BatchHeader,
    ) -> Result<&[u8], ScanError> {
        let size = header.size_in_bytes();
        let bytes = self.bytes(position, size).await.map_err(ScanError::Io)?;
        bytes
            .get(..size)
            .ok_or(ScanError::Batch(BatchError::Truncated {
                needed: size,
                available: bytes.len(),
            }))
    }

    /// The checksum of the batch whose header was read at `position`, as its bytes are.
    pub(crate) async fn computed_crc(
        &mut self,
        position: u64,
        header: &BatchHeader,
    ) -> io::Result<u64> {
        let (from, algorithm) = if header.magic == 2 {
            (CRC_FROM_V2, CrcAlgorithm::Crc32Iscsi)
        } else {
            (CRC_FROM_OLD, CrcAlgorithm::Crc32IsoHdlc)
        };
        let mut digest = Digest::new(algorithm);
        let end = position + header.size_in_bytes() as u64;
        let mut position = position + from;
        while position < end {
            let left = usize::try_from(end - position).unwrap_or(usize::MAX);
            // Of what is in the buffer already nothing is read again.
            let bytes = self.bytes(position, left.min(PIECE_BYTES)).await?;
            let bytes = &bytes[..bytes.len().min(left)];
            digest.update(bytes);
            position += bytes.len() as u64;
        }
        Ok(digest.finalize())
    }

    /// No checksum covers a base offset. If there is a gap before the batch at `position`, and a good one
    /// behind it that would lie before its end, the batch was moved: gives the offset of that one.
    pub(crate) async fn contradiction(
        &mut self,
        position: u64,
        header: &BatchHeader,
        expected: i64,
    ) -> io::Result<Option<i64>> {
        let next_at = position + header.size_in_bytes() as u64;
        if header.base_offset <= expected || next_at >= self.end {
            return Ok(None);
        }
        let next = match self.header(next_at).await {
            Ok(next) => next,
            Err(ScanError::Batch(_)) => return Ok(None),
            Err(ScanError::Io(error)) => return Err(error),
        };
        let is_before = (expected..header.next_offset()).contains(&next.base_offset);
        let is_good = is_before && self.computed_crc(next_at, &next).await? == u64::from(next.crc);
        Ok(is_good.then_some(next.base_offset))
    }

    /// Whether everything from `position` to the end is zero, as in a preallocated file.
    pub(crate) async fn is_zero(&mut self, mut position: u64) -> io::Result<bool> {
        while position < self.end {
            let bytes = self.bytes(position, LOG_OVERHEAD).await?;
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            position += bytes.len() as u64;
        }
        Ok(true)
    }
}

pub(crate) struct ScanRequest {
    pub(crate) base_offset: i64,
    pub(crate) index_interval_bytes: u32,
    pub(crate) check_crc: bool,
    /// After a gap no offset may be this or more: where the log is known to end.
    pub(crate) end_max: Option<i64>,
    /// No batch reaches over it from behind a gap: the recovery point of a log that was never compacted.
    pub(crate) whole_to: Option<i64>,
}

/// What a segment holds, up to the first bad batch.
pub(crate) struct Scan {
    /// With new indexes; `size` = bytes of good batches.
    pub(crate) segment: Segment,
    pub(crate) next_offset: i64,
    pub(crate) batches: u64,
    /// Why it ended before the end of the file.
    pub(crate) bad: Option<String>,
}

/// Reads a segment batch by batch up to the scanner's end.
pub(crate) async fn scan_segment(
    scanner: &mut Scanner,
    request: &ScanRequest,
    visitor: &mut Visitor<'_>,
) -> io::Result<Scan> {
    let mut scan = Scan {
        segment: Segment::empty(request.base_offset),
        next_offset: request.base_offset,
        batches: 0,
        bad: None,
    };
    scan_on(scanner, request, &mut scan, visitor).await?;
    Ok(scan)
}

/// Goes on where a scan has ended.
pub(crate) async fn scan_on(
    scanner: &mut Scanner,
    request: &ScanRequest,
    scan: &mut Scan,
    visitor: &mut Visitor<'_>,
) -> io::Result<()> {
    scan.bad = None;
    while u64::from(scan.segment.size) < scanner.end() {
        match scan_batch(scanner, request, scan, visitor).await {
            Ok(()) => {}
            Err(ScanError::Io(error)) => return Err(error),
            Err(ScanError::Batch(error)) => {
                scan.bad = Some(error.to_string());
                break;
            }
        }
    }
    Ok(())
}

impl Scan {
    /// Steps over bytes that are no batch: the scan goes on at `end`.
    pub(crate) fn step_over(&mut self, end: u64) {
        let end = u32::try_from(end).unwrap_or(u32::MAX);
        let skipped = end - self.segment.size;
        self.segment.size = end;
        self.segment.bytes_since_index = self.segment.bytes_since_index.saturating_add(skipped);
    }
}

async fn scan_batch(
    scanner: &mut Scanner,
    request: &ScanRequest,
    scan: &mut Scan,
    visitor: &mut Visitor<'_>,
) -> Result<(), ScanError> {
    let position = scan.segment.size;
    let header = scanner.header(position.into()).await?;
    let relative = header.last_offset().checked_sub(request.base_offset);
    let fits = relative.is_some_and(|relative| relative <= i64::from(i32::MAX));
    let reaches = |end: i64| header.last_offset() >= end;
    let is_late = header.base_offset > scan.next_offset
        && (request.end_max.is_some_and(reaches)
            || request
                .whole_to
                .is_some_and(|end| scan.next_offset < end && reaches(end)));
    let contradiction = scanner.contradiction(position.into(), &header, scan.next_offset);
    let is_moved = contradiction.await.map_err(ScanError::Io)?.is_some();
    if header.base_offset < scan.next_offset || !fits || is_late || is_moved {
        let reason = format!(
            "offsets {} to {} where {} or more is due",
            header.base_offset,
            header.last_offset(),
            scan.next_offset
        );
        return Err(BatchError::CorruptMessage(reason).into());
    }
    if request.check_crc {
        let bytes = scanner.batch(position.into(), &header).await?;
        header.check_crc(bytes)?;
        visitor(&header, bytes);
    }
    let place = BatchPlace {
        base_offset: header.base_offset,
        last_offset: header.last_offset(),
        max_timestamp: header.max_timestamp,
        position,
        // No larger than the file, whose length was checked.
        size: u32::try_from(header.size_in_bytes()).unwrap_or(u32::MAX),
    };
    scan.segment
        .note_batch(&place, request.index_interval_bytes);
    scan.next_offset = header.next_offset();
    scan.batches += 1;
    Ok(())
}
