//! What a stop has cut short in a partition's directory: deletions and compactions that were under way
//! are finished or taken back before the log is opened (Kafka: LogLoader.java).

use super::directory::{
    PendingSuffix, SegmentFileKind, SegmentFileName, remove_file_if_there, segment_path,
};
use super::error::{IoContext, LogError};
use super::recovery::{Opener, TAIL_CHUNK_BYTES};
use super::scan::{Scanner, scan_segment};
use crate::io::OpenMode;

impl Opener<'_> {
    pub(super) async fn list(&self) -> Result<Vec<(String, SegmentFileName)>, LogError> {
        let entries = self.io().list_directory(self.directory).await;
        let mut files = Vec::new();
        for entry in entries.at("list", self.directory)? {
            match SegmentFileName::parse(&entry.name) {
                Some(name) if !entry.is_directory => files.push((entry.name, name)),
                _ if entry.name.ends_with(SegmentFileKind::Log.suffix()) => {
                    let reason = match entry.is_directory {
                        true => "not a segment file: it is a directory",
                        false => "not a segment file: its name is not 20 digits and .log",
                    };
                    return Err(LogError::Foreign {
                        path: self.directory.join(&entry.name),
                        reason: reason.to_owned(),
                        remedy: "move it out of the partition's directory",
                    });
                }
                _ => {}
            }
        }
        Ok(files)
    }

    /// Ends deletions and compactions that were under way; returns the base offsets that stay.
    pub(super) async fn tidy(&mut self) -> Result<Vec<i64>, LogError> {
        let files = self.list().await?;
        let lost = Self::lost_segments(&files);
        self.finish_deletions(&files).await?;
        let cleaned = |name: &SegmentFileName| name.pending == Some(PendingSuffix::Cleaned);
        let offsets = files.iter().filter(|(_, name)| cleaned(name));
        let min_cleaned = offsets.map(|(_, name)| name.offset).min();
        let mut swaps = Vec::new();
        for (file, name) in &files {
            match name.pending {
                None => {}
                // A .swap at or above a .cleaned belongs to a split that was not finished (KAFKA-6264).
                Some(PendingSuffix::Swap) if min_cleaned.is_none_or(|min| name.offset < min) => {
                    swaps.push((file.clone(), *name));
                }
                Some(_) => self.remove(file).await?,
            }
        }
        self.finish_swaps(&files, &swaps).await?;
        let files = self.list().await?;
        let is_log =
            |name: &SegmentFileName| name.kind == SegmentFileKind::Log && name.pending.is_none();
        let logs = files.iter().filter(|(_, name)| is_log(name));
        let mut bases: Vec<i64> = logs.map(|(_, name)| name.offset).collect();
        // What lies wholly below the log start offset was being deleted: it may have holes already,
        // and a journal has not brought it back.
        let start = self.opening.log_start_offset.unwrap_or(0);
        let following = bases.iter().skip(1);
        let gone = following.take_while(|next| **next <= start).count();
        for base_offset in bases.drain(..gone) {
            self.remove(&format!(
                "{base_offset:020}{}",
                SegmentFileKind::Log.suffix()
            ))
            .await?;
        }
        self.refuse_lost_segment(&lost, &bases)?;
        for (file, name) in &files {
            let is_orphan = name.pending.is_none() && bases.binary_search(&name.offset).is_err();
            if is_orphan && is_index(name.kind) {
                self.remove(file).await?;
            }
        }
        if !self.recovery.changed_files.is_empty() {
            let synced = self.io().sync_directory(self.directory).await;
            synced.at("sync", self.directory)?;
        }
        Ok(bases)
    }

    /// The segments that are not there and were not being deleted, though their indexes are.
    fn lost_segments(files: &[(String, SegmentFileName)]) -> Vec<i64> {
        let of = |kind: SegmentFileKind| move |name: &&SegmentFileName| name.kind == kind;
        let names = || files.iter().map(|(_, name)| name);
        let logs = names().filter(of(SegmentFileKind::Log));
        let mut segments: Vec<i64> = logs.map(|name| name.offset).collect();
        segments.sort_unstable();
        let indexes = names().filter(of(SegmentFileKind::Index));
        let plain = indexes.filter(|name| name.pending.is_none());
        let is_lost = |offset: &i64| segments.binary_search(offset).is_err();
        plain.map(|name| name.offset).filter(is_lost).collect()
    }

    /// Whoever removed such a segment, it was no broker. Behind the last segment its index may be the
    /// rest of a cut; compaction leaves such, too. Of what no flush had ended on a loss of power may keep
    /// the name of an index and not that of its segment: recovery cuts the log before it.
    fn refuse_lost_segment(&self, lost: &[i64], bases: &[i64]) -> Result<(), LogError> {
        if self.config.is_compacted || self.opening.accept_loss {
            return Ok(());
        }
        let start = self.opening.log_start_offset.unwrap_or(0);
        let has_records = |offset: &&i64| {
            let following = bases.iter().find(|base| *base > *offset);
            following.is_some_and(|following| *following > start)
        };
        // Without a segment before it the log would begin later, and nobody be told.
        let is_cut = |offset: i64| {
            let was_flushed = self.opening.clean || offset < self.opening.recovery_point;
            !was_flushed && bases.iter().any(|base| *base < offset)
        };
        let mut missing = lost.iter().filter(|offset| !is_cut(**offset));
        let Some(offset) = missing.find(has_records) else {
            return Ok(());
        };
        Err(LogError::Foreign {
            path: segment_path(self.directory, *offset, SegmentFileKind::Log),
            reason: "the segment is not there, but its index is".to_owned(),
            remedy: "restore the segment; or remove its index, then what it held is lost",
        })
    }

    /// The indexes of segments that were being deleted go before these: none is left without a trace of
    /// why.
    async fn finish_deletions(
        &mut self,
        files: &[(String, SegmentFileName)],
    ) -> Result<(), LogError> {
        let deleted = |(_, name): &&(String, SegmentFileName)| {
            name.kind == SegmentFileKind::Log && name.pending == Some(PendingSuffix::Deleted)
        };
        let mut has_gone = false;
        for (_, segment) in files.iter().filter(deleted) {
            let is_there =
                |name: &SegmentFileName| name.offset == segment.offset && name.pending.is_none();
            let of_it: Vec<_> = files.iter().filter(|(_, name)| is_there(name)).collect();
            if of_it
                .iter()
                .any(|(_, name)| name.kind == SegmentFileKind::Log)
            {
                continue;
            }
            for (file, _) in of_it.iter().filter(|(_, name)| is_index(name.kind)) {
                self.remove(file).await?;
                has_gone = true;
            }
        }
        if has_gone {
            let synced = self.io().sync_directory(self.directory).await;
            synced.at("sync", self.directory)?;
        }
        Ok(())
    }

    /// Removes the segments that the .swap files replace, then renames these.
    async fn finish_swaps(
        &mut self,
        files: &[(String, SegmentFileName)],
        swaps: &[(String, SegmentFileName)],
    ) -> Result<(), LogError> {
        let mut replaced: Option<(i64, i64)> = None;
        for (file, name) in swaps {
            if name.kind != SegmentFileKind::Log {
                continue;
            }
            // One that is empty replaces the segment of its name, too.
            let end = self.end_of_swap(file, name.offset).await?;
            let end = end.max(name.offset + 1);
            let (start, previous) = replaced.unwrap_or((name.offset, end));
            replaced = Some((start.min(name.offset), previous.max(end)));
        }
        if let Some((start, end)) = replaced {
            for (file, name) in files {
                if name.pending.is_none() && (start..end).contains(&name.offset) {
                    self.remove(file).await?;
                }
            }
            // Once a .swap has its final name, nobody knows any more what it replaces.
            let synced = self.io().sync_directory(self.directory).await;
            synced.at("sync", self.directory)?;
        }
        for (file, _) in swaps {
            let path = self.directory.join(file);
            let plain = file.trim_end_matches(PendingSuffix::Swap.suffix());
            let renamed = self.io().rename(&path, &self.directory.join(plain)).await;
            renamed.at("rename", &path)?;
            self.recovery.changed_files.push(file.clone());
        }
        Ok(())
    }

    /// The offset after the last batch of a .swap file.
    async fn end_of_swap(&self, file: &str, base_offset: i64) -> Result<i64, LogError> {
        let path = self.directory.join(file);
        let opened = self.io().open(&path, OpenMode::Read).await;
        let opened = opened.at("open", &path)?;
        let end = self.io().length(&opened).await.at("stat", &path)?;
        let mut scanner = Scanner::new(self.io(), &opened, end, TAIL_CHUNK_BYTES);
        let request = self.request(base_offset, false);
        let scan = scan_segment(&mut scanner, &request, &mut |_, _| {}).await;
        let scan = scan.at("read", &path)?;
        match scan.bad {
            None => Ok(scan.next_offset),
            Some(reason) => Err(LogError::Corrupt {
                path,
                position: scan.segment.size.into(),
                reason,
                remedy: "remove the .swap files: the segments that they replace are still there",
            }),
        }
    }

    pub(super) async fn remove(&mut self, file: &str) -> Result<(), LogError> {
        remove_file_if_there(self.io(), &self.directory.join(file)).await?;
        self.recovery.changed_files.push(file.to_owned());
        Ok(())
    }
}

fn is_index(kind: SegmentFileKind) -> bool {
    matches!(
        kind,
        SegmentFileKind::Index | SegmentFileKind::TimeIndex | SegmentFileKind::TransactionIndex
    )
}
