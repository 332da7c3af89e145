//! Looks at journals without changing anything: what a replay would find, for tools.

use std::path::Path;

use super::JournalError;
use super::inventory::Inventory;
use super::replay::{JournalReport, ReplayReport, check, torn_tail};
use crate::io::Io;

/// What the journals of a directory hold: groups that a start would replay, and damage. Nothing is
/// applied, so that no partition is named.
///
/// # Errors
/// A file that is not ours or of another version, or what the system answered.
pub async fn inspect(io: &Io, directory: &Path) -> Result<ReplayReport, JournalError> {
    let inventory = Inventory::take(io, directory).await?;
    let mut report = ReplayReport::default();
    for ((shard, _), journal) in &inventory.journals {
        let live = check(journal, &inventory.files, &mut report);
        report.journals.push(JournalReport {
            shard: *shard,
            groups: live.len() as u64,
            torn_tail_bytes: torn_tail(journal),
            ..JournalReport::default()
        });
    }
    Ok(report)
}
