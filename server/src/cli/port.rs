//! Ports for people: who holds one that is taken, and a file that tells which were bound.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;

/// State of a listening socket in `/proc/net/tcp` (`TCP_LISTEN`, linux/include/net/tcp_states.h).
const LISTEN_STATE: &str = "0A";

/// One line for the error of a port that is taken: who holds it, and what to do.
#[must_use]
pub fn explain_port_taken(port: u16) -> String {
    let other = port.checked_add(100).unwrap_or(port - 100);
    let do_this = format!("Stop it, or: --listen {other}");
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .collect();
    match inodes.iter().find_map(|inode| owner(inode)) {
        Some((pid, name)) => format!("port {port} is used by {name} (pid {pid}). {do_this}"),
        None if inodes.is_empty() => {
            format!(
                "port {port} is in use, though nothing listens on it now. Wait a moment, or: --listen {other}"
            )
        }
        None => format!(
            "port {port} is used by a process of another user (sudo ss -ltnp shows it). {do_this}"
        ),
    }
}

/// Whether a living process that we may look at, or one of another user, holds the port. A broker
/// that was just ended may still hold it for a moment: the kernel takes its rings down afterwards.
#[must_use]
pub fn is_held(port: u16) -> bool {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let read = tables
        .into_iter()
        .filter_map(|path| fs::read_to_string(path).ok());
    let inodes: Vec<String> = read
        .flat_map(|table| listening_inodes(&table, port))
        .collect();
    inodes.iter().any(|inode| owner(inode).is_some())
}

/// Inodes of the sockets of a `/proc/net/tcp` table that listen on a port.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let is_port = u16::from_str_radix(local_port, 16) == Ok(port);
        let is_listening = fields.get(3) == Some(&LISTEN_STATE);
        fields
            .get(9)
            .filter(|_| is_port && is_listening)
            .map(|inode| (*inode).to_owned())
    };
    table.lines().skip(1).filter_map(inode).collect()
}

/// The process that has the socket open, if this user may look.
fn owner(inode: &str) -> Option<(u32, String)> {
    let socket = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let is_socket = |link: std::path::PathBuf| link.as_os_str() == socket.as_str();
        let mut links = files
            .flatten()
            .filter_map(|file| fs::read_link(file.path()).ok());
        if links.any(is_socket) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some((pid, name.trim().to_owned()));
        }
    }
    None
}

/// Writes `NAME://address:port`, a line a listener, for `--port-file`. The file appears whole or
/// not at all, for a test polls for it.
///
/// # Errors
/// The system's, with the path.
pub fn write_port_file(path: &Path, bound: &[(String, SocketAddr)]) -> io::Result<()> {
    let lines = bound
        .iter()
        .map(|(name, address)| format!("{name}://{address}\n"));
    let text: String = lines.collect();
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let write = || {
        fs::File::create(&temporary)?.write_all(text.as_bytes())?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error: io::Error| {
        let what = format!("cannot write the port file {}: {error}", path.display());
        io::Error::new(error.kind(), what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn holder_of_a_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let text = explain_port_taken(port);
        let pid = std::process::id();
        assert!(
            text.starts_with(&format!("port {port} is used by ")),
            "{text}"
        );
        assert!(
            text.contains(&format!("(pid {pid}). Stop it, or: --listen ")),
            "{text}"
        );
    }

    #[test]
    fn port_without_a_listener_and_the_last_port_have_an_answer() {
        assert!(explain_port_taken(65535).contains("--listen 65435"));
    }

    #[test]
    fn table_is_read_by_port_and_state() {
        let table = "  sl  local_address rem_address   st tx rx tr tm retr uid timeout inode\n   \
                     0: 0100007F:2384 00000000:0000 0A 0:0 00:0 0 1000 0 4242 1\n   \
                     1: 0100007F:2384 0100007F:9999 01 0:0 00:0 0 1000 0 4243 1\n  garbage\n";
        assert_eq!(listening_inodes(table, 9092), ["4242"]);
        assert!(listening_inodes(table, 9093).is_empty());
    }

    #[test]
    fn port_file_has_a_line_a_listener() {
        let path = std::env::temp_dir().join(format!("ringlog-port-{}", std::process::id()));
        let bound = [
            (
                "PLAINTEXT".to_owned(),
                "127.0.0.1:4711".parse().expect("address"),
            ),
            ("BROKER".to_owned(), "[::1]:4712".parse().expect("address")),
        ];
        write_port_file(&path, &bound).expect("writes");
        let text = fs::read_to_string(&path).expect("reads");
        fs::remove_file(&path).expect("removes");
        assert_eq!(text, "PLAINTEXT://127.0.0.1:4711\nBROKER://[::1]:4712\n");
        assert!(write_port_file(Path::new("/no/such/dir/x"), &bound).is_err());
    }
}
