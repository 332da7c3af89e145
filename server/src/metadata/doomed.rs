//! Topics on their way in or out: what of them must be gone after a crash in between.
//!
//! A change of several directories is not atomic. Before it begins, `.ringlog-doomed-topics` in the
//! first log directory names the topic's id and the first partition that is meant, durably; when it
//! is complete the line goes. A start removes what the file names: a creation that did not come to
//! its end was never acknowledged, a deletion that has begun is brought to its end.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use ringlog_engine::io::Io;
use ringlog_engine::log::directory;
use uuid::Uuid;

use super::controller::Refusal;
use super::store::{read_text, storage_error};

/// The file, in the first log directory.
pub const DOOMED_FILE: &str = ".ringlog-doomed-topics";

/// Partitions that a start has to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doomed {
    /// The topic's name.
    pub name: String,
    /// Its id: a later topic of the same name is not meant.
    pub id: Uuid,
    /// The first partition that is meant; those below it stay.
    pub first_partition: i32,
}

/// The lines of the file, as they are on disk.
#[derive(Debug, Default)]
pub struct DoomedTopics {
    lines: Vec<Doomed>,
}

impl DoomedTopics {
    /// Names a topic, durably.
    ///
    /// # Errors
    /// KAFKA_STORAGE_ERROR if that could not be written: nothing may be begun then.
    pub async fn add(&mut self, io: &Io, directory: &Path, doomed: Doomed) -> Result<(), Refusal> {
        self.lines.push(doomed);
        let written = write(io, directory, &self.lines).await;
        if written.is_err() {
            // It may stand there all the same; it names nothing then.
            self.lines.pop();
        }
        written
    }

    /// The change is complete: the topic is not named any more, durably.
    ///
    /// # Errors
    /// KAFKA_STORAGE_ERROR if that could not be written: the next start may remove the topic.
    pub async fn remove(&mut self, io: &Io, directory: &Path, id: Uuid) -> Result<(), Refusal> {
        self.lines.retain(|line| line.id != id);
        write(io, directory, &self.lines).await
    }
}

async fn write(io: &Io, directory: &Path, lines: &[Doomed]) -> Result<(), Refusal> {
    let line = |doomed: &Doomed| {
        let Doomed {
            name,
            id,
            first_partition,
        } = doomed;
        format!("{name} {id} {first_partition}\n")
    };
    let text: String = lines.iter().map(line).collect();
    let path = directory.join(DOOMED_FILE);
    let written = io.replace_file(&path, Bytes::from(text)).await;
    written.map_err(|error| storage_error(format!("{}: {error}", path.display())))
}

fn parse(text: &str) -> Result<Vec<Doomed>, String> {
    let line = |(number, line): (usize, &str)| {
        let mut fields = line.split(' ');
        let doomed = (|| {
            Some(Doomed {
                name: fields.next()?.to_owned(),
                id: fields.next()?.parse().ok()?,
                first_partition: fields.next()?.parse().ok()?,
            })
        })();
        doomed.ok_or_else(|| format!("line {}: '{line}' is not 'topic id partition'", number + 1))
    };
    text.lines().enumerate().map(line).collect()
}

/// What a start has to remove.
///
/// # Errors
/// The file, if it cannot be read or understood.
pub async fn read(io: &Io, first_directory: &Path) -> Result<Vec<Doomed>, String> {
    let path = first_directory.join(DOOMED_FILE);
    let text = read_text(io, &path).await?;
    parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Removes the doomed ones of the partitions found in a log directory, from the list, too.
///
/// # Errors
/// What cannot be read or removed.
pub async fn bury(
    io: &Io,
    doomed: &[Doomed],
    found: &mut Vec<((String, i32), PathBuf)>,
) -> Result<(), String> {
    let mut kept = Vec::with_capacity(found.len());
    for (key, directory) in found.drain(..) {
        if is_doomed(io, doomed, &key, &directory).await? {
            log::info!(
                "Removing {}: the creation or the deletion of its topic was cut short",
                directory.display()
            );
            directory::remove_directory_tree(io, &directory)
                .await
                .map_err(|error| error.to_string())?;
        } else {
            kept.push((key, directory));
        }
    }
    *found = kept;
    Ok(())
}

async fn is_doomed(
    io: &Io,
    doomed: &[Doomed],
    (name, index): &(String, i32),
    directory: &Path,
) -> Result<bool, String> {
    let is_meant = |line: &&Doomed| line.name == *name && line.first_partition <= *index;
    let mut lines = doomed.iter().filter(is_meant).peekable();
    if lines.peek().is_none() {
        return Ok(false);
    }
    let id = directory::read_partition_metadata(io, directory).await;
    let id = id.map_err(|error| error.to_string())?;
    // One without an id was just being made.
    Ok(lines.any(|line| id.is_none_or(|id| id == line.id)))
}

/// All of them are gone.
///
/// # Errors
/// The file, if it cannot be written.
pub async fn clear(io: &Io, first_directory: &Path) -> Result<(), String> {
    let written = write(io, first_directory, &[]).await;
    written.map_err(|refusal| refusal.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_back_and_garbage_is_named() {
        let id = Uuid::from_u128(7);
        let doomed = parse(&format!("a {id} 0\nb.c {id} 3\n")).unwrap();
        assert_eq!(
            (doomed[1].name.as_str(), doomed[1].first_partition),
            ("b.c", 3)
        );
        assert_eq!(
            parse("a b c\n").unwrap_err(),
            "line 1: 'a b c' is not 'topic id partition'"
        );
    }
}
