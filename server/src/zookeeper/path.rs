//! Names of znodes: what is a valid path, its parent, its last name, and the limits on both.
//!
//! The rules are ZooKeeper's `PathUtils.validatePath`; the two limits are ours, since ZooKeeper
//! bounds a path only by the packet it came in.

use super::protocol::ErrorCode;

/// Longest path. Kafka's longest (a config of a user's client) stay below 1 KiB.
pub const PATH_BYTES_MAX: usize = 8 * 1024;
/// Most names in a path; Kafka uses at most seven, a chroot adds some.
pub const PATH_DEPTH_MAX: usize = 256;

/// The parent of a path, `/` for a path directly below the root; nothing if there is no slash.
#[must_use]
pub fn parent(path: &str) -> Option<&str> {
    match path.rfind('/')? {
        0 => Some("/"),
        slash => path.get(..slash),
    }
}

/// The last name of a path.
#[must_use]
pub fn name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// Paths the server owns: they cannot be deleted (`DataTree.isSpecialPath`).
#[must_use]
pub fn is_special(path: &str) -> bool {
    matches!(
        path,
        "/" | "/zookeeper" | "/zookeeper/quota" | "/zookeeper/config"
    )
}

/// Whether a path keeps the limits, valid or not.
pub fn check_limits(path: &str) -> Result<(), ErrorCode> {
    let depth = path.bytes().filter(|byte| *byte == b'/').count();
    if path.len() > PATH_BYTES_MAX || depth > PATH_DEPTH_MAX {
        return Err(ErrorCode::BadArguments);
    }
    Ok(())
}

/// Whether a node may have this path.
pub fn validate(path: &str) -> Result<(), ErrorCode> {
    check_limits(path)?;
    if path == "/" {
        return Ok(());
    }
    let names = path.strip_prefix('/').ok_or(ErrorCode::BadArguments)?;
    let is_valid = names
        .split('/')
        .all(|name| !matches!(name, "" | "." | "..") && name.chars().all(is_allowed));
    if is_valid {
        Ok(())
    } else {
        Err(ErrorCode::BadArguments)
    }
}

/// Java counts UTF-16 units, so what lies above U+FFFF is two surrogates there and refused too.
fn is_allowed(char: char) -> bool {
    !matches!(
        char,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..=char::MAX
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_judged_as_zookeeper_does() {
        for good in ["/", "/a", "/a/b", "/a.b/..c", "/grün", "/a/...", "/a b"] {
            assert_eq!(validate(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "a",
            "/a/",
            "//",
            "/a//b",
            "/.",
            "/a/..",
            "/a/./b",
            "/a\0",
            "/\u{7}",
            "/\u{e000}",
            "/\u{1f600}",
            "/\u{fff1}",
        ] {
            assert_eq!(validate(bad), Err(ErrorCode::BadArguments), "{bad:?}");
        }
    }

    #[test]
    fn absurd_paths_are_refused() {
        assert_eq!(
            validate(&format!("/{}", "x".repeat(PATH_BYTES_MAX))),
            Err(ErrorCode::BadArguments)
        );
        assert_eq!(
            validate(&"/x".repeat(PATH_DEPTH_MAX + 1)),
            Err(ErrorCode::BadArguments)
        );
        assert_eq!(validate(&"/x".repeat(PATH_DEPTH_MAX)), Ok(()));
    }

    #[test]
    fn parent_and_name() {
        assert_eq!((parent("/a/b"), name("/a/b")), (Some("/a"), "b"));
        assert_eq!((parent("/a"), name("/a")), (Some("/"), "a"));
        assert_eq!(parent("a"), None);
    }
}
