//! The indexes of a segment: in memory, from disk, or built anew from the batches.

use std::path::Path;
use std::rc::Rc;

use super::Log;
use super::directory::{SegmentFileKind, read_bytes, segment_path};
use super::error::{IoContext, LogError};
use super::index::Indexes;
use super::read::{INDEX_FILE_BYTES_MAX, VISIT_CHUNK_BYTES};
use super::scan::{ScanRequest, scan_on, scan_segment};
use super::segment::Segment;
use super::verify::{Start, Step, Verifier};
use crate::io::Io;

impl Log {
    /// Looks something up in the indexes of a segment, which are in memory or are loaded.
    pub(super) async fn with_indexes<T>(
        &self,
        base_offset: i64,
        look_up: impl Fn(&Indexes) -> T,
    ) -> Result<T, LogError> {
        let in_memory = |segment: &Segment| segment.indexes.as_ref().map(&look_up);
        let found = self.state.borrow().segment(base_offset).and_then(in_memory);
        if let Some(found) = found {
            return Ok(found);
        }
        let key = (self.number, base_offset);
        if let Some(indexes) = self.files.indexes(key) {
            return Ok(look_up(&indexes));
        }
        let generation = self.generation.get();
        if let Some(indexes) = self.load_indexes(base_offset).await? {
            let indexes = Rc::new(indexes);
            // Of a segment that has gone meanwhile they must not stay.
            if self.generation.get() == generation {
                self.files.keep_indexes(key, &indexes);
            }
            return Ok(look_up(&indexes));
        }
        let indexes = self.rebuild_indexes(base_offset).await?;
        Ok(look_up(&indexes))
    }

    /// The indexes of a segment as a copy of one's own.
    pub(super) async fn load_or_rebuild(&self, base_offset: i64) -> Result<Indexes, LogError> {
        self.with_indexes(base_offset, Indexes::clone).await
    }

    async fn load_indexes(&self, base_offset: i64) -> Result<Option<Indexes>, LogError> {
        let size = self.segment_size(base_offset);
        let directory = self.directory();
        read_indexes(self.io(), &directory, base_offset, size).await
    }

    /// Reads all headers of a segment again. The next flush writes the index files.
    pub(super) async fn rebuild_indexes(&self, base_offset: i64) -> Result<Rc<Indexes>, LogError> {
        let generation = self.generation.get();
        let file = self.file(base_offset).await?;
        let (size, following) = self.extent(base_offset);
        let request = ScanRequest {
            base_offset,
            index_interval_bytes: self.config.borrow().index_interval_bytes,
            check_crc: false,
            end_max: None,
            whole_to: None,
        };
        let mut scanner = self.scanner(&file, size, VISIT_CHUNK_BYTES);
        let path = self.path(base_offset, SegmentFileKind::Log);
        let mut scan = scan_segment(&mut scanner, &request, &mut |_, _| {})
            .await
            .at("read", &path)?;
        while scan.bad.is_some() {
            // Entries for what is good around it: who reads the damage itself is told.
            let start = Start {
                segment_base: base_offset,
                position: scan.segment.size.into(),
                expected: scan.next_offset,
                following: Some(following),
            };
            let mut verifier = Verifier::new(&mut scanner, start);
            match verifier.step().await.at("read", &path)? {
                Some(Step::Damaged(damage)) => scan.step_over(damage.end),
                Some(Step::Good(_)) | None => {
                    let reason = scan.bad.unwrap_or_default();
                    return Err(self.damaged(base_offset, start.position, reason));
                }
            }
            scan_on(&mut scanner, &request, &mut scan, &mut |_, _| {})
                .await
                .at("read", &path)?;
        }
        let mut rebuilt = scan.segment;
        rebuilt.finish_indexes();
        let indexes = Rc::new(rebuilt.indexes.clone().unwrap_or_default());
        if let Some(segment) = self.state.borrow_mut().segment_mut(base_offset)
            && segment.size == size
            && self.generation.get() == generation
        {
            segment.largest = rebuilt.largest;
            segment.bytes_since_index = rebuilt.bytes_since_index;
            segment.indexes = rebuilt.indexes;
            segment.are_indexes_written = false;
        }
        Ok(indexes)
    }
}

/// Reads both index files of a segment; `None` if one is missing or impossible.
pub(super) async fn read_indexes(
    io: &Io,
    directory: &Path,
    base_offset: i64,
    size: u32,
) -> Result<Option<Indexes>, LogError> {
    let offsets = segment_path(directory, base_offset, SegmentFileKind::Index);
    let times = segment_path(directory, base_offset, SegmentFileKind::TimeIndex);
    let Some(offsets) = read_bytes(io, &offsets, INDEX_FILE_BYTES_MAX).await? else {
        return Ok(None);
    };
    let Some(times) = read_bytes(io, &times, INDEX_FILE_BYTES_MAX).await? else {
        return Ok(None);
    };
    Ok(Indexes::decode(base_offset, &offsets, &times, size))
}
