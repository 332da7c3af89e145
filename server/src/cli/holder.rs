//! Which process holds a file open: for the messages about locks.

use std::fs;
use std::path::Path;

/// Process id and name of a process, other than this one, that has the file open, as far as this
/// user may look.
#[must_use]
pub fn holder(path: &Path) -> Option<(u32, String)> {
    let path = fs::canonicalize(path).ok()?;
    let own = std::process::id();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let mut links = files
            .flatten()
            .filter_map(|file| fs::read_link(file.path()).ok());
        if pid != own && links.any(|link| link == path) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some((pid, name.trim().to_owned()));
        }
    }
    None
}

/// The holder of a lock in words.
#[must_use]
pub fn name_holder(path: &Path) -> String {
    match holder(path) {
        Some((pid, name)) => format!("{name}, pid {pid}"),
        None => "a process of another user".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_process_that_has_a_file_open_is_named() {
        let path = std::env::temp_dir().join(format!("ringlog-holder-{}", std::process::id()));
        let file = fs::File::create(&path).expect("a temporary file");
        assert_eq!(holder(&path), None, "this process does not count");
        let mut child = Command::new("cat")
            .stdin(Stdio::from(fs::File::open(&path).expect("it is there")))
            .stdout(Stdio::piped())
            .spawn()
            .expect("cat");
        drop(file);
        // It reads an empty file to its end at once: a pipe that nobody reads keeps nothing.
        let seen = holder(&path);
        child.wait().expect("cat ends");
        if let Some((pid, _)) = seen {
            assert_eq!(pid, child.id());
        }
        fs::remove_file(&path).expect("it is there");
    }
}
