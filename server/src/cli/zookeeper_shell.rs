//! `zookeeper-shell host:port [command]`: look at and change znodes, as ZooKeeper's own shell
//! prints them (ZooKeeper: `ZooKeeperMain`, the classes of `org.apache.zookeeper.cli`).

use std::io::{self, BufRead, IsTerminal, Write};

use zookeeper_client::{Acl, Acls, Client, CreateMode, Error, Permission, Stat};

use super::Exit;
use super::tool::{ToolError, ToolResult, stdout};
use super::zookeeper_topics::with_zookeeper;

/// Whether a program or first argument of this name is the shell.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let name = name.rsplit('/').next().unwrap_or(name);
    matches!(name, "zookeeper-shell" | "zookeeper-shell.sh")
}

/// Runs one command, or those of standard input.
#[must_use]
pub fn run(args: &[String]) -> Exit {
    // ZooKeeperMain takes -server, Kafka's script the bare address.
    let args = match args {
        [flag, rest @ ..] if flag == "-server" => rest,
        all => all,
    };
    let Some((cluster, command)) = args.split_first() else {
        eprintln!(
            "USAGE: zookeeper-shell.sh zookeeper_host:port[/path] [-zk-tls-config-file file] [args...]"
        );
        return Exit::Failure;
    };
    let mut out = stdout();
    let result = with_zookeeper(cluster, async |client| {
        writeln!(out, "Connecting to {cluster}")?;
        if !command.is_empty() {
            writeln!(
                out,
                "\nWATCHER::\n\nWatchedEvent state:SyncConnected type:None path:null"
            )?;
            return execute(client, command, &mut out).await;
        }
        interact(client, cluster, &mut out).await
    });
    let _ = out.flush();
    match result {
        Ok(()) => Exit::Ok,
        Err(ToolError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
        Err(error) => {
            eprintln!("{error}");
            Exit::Failure
        }
    }
}

async fn interact(client: &Client, cluster: &str, out: &mut dyn Write) -> ToolResult {
    let has_prompt = io::stdin().is_terminal();
    writeln!(out, "Welcome to ZooKeeper!")?;
    if !has_prompt {
        writeln!(out, "JLine support is disabled")?;
    }
    let mut lines = io::stdin().lock().lines();
    for number in 0_u64.. {
        if has_prompt {
            write!(out, "[zk: {cluster}(CONNECTED) {number}] ")?;
        }
        out.flush()?;
        let Some(line) = lines.next() else { break };
        let words = split_words(&line?);
        match words.first().map(String::as_str) {
            None => {}
            Some("quit") => break,
            Some(_) => {
                if let Err(error) = execute(client, &words, out).await {
                    match error {
                        ToolError::Io(error) => return Err(error.into()),
                        other => writeln!(out, "{other}")?,
                    }
                }
            }
        }
    }
    Ok(())
}

/// Words with quotes around those that have spaces.
fn split_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while let Some(first) = rest.chars().next() {
        let (word, after) = if matches!(first, '"' | '\'') {
            let inner = rest.get(1..).unwrap_or_default();
            inner.split_once(first).unwrap_or((inner, ""))
        } else {
            rest.split_once(char::is_whitespace).unwrap_or((rest, ""))
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    words
}

/// The flags of a command (`-s`, `-R`, `-v 3`) and its words.
fn split_flags(words: &[String]) -> (Vec<&str>, Option<i32>, Vec<&str>) {
    let mut flags = Vec::new();
    let mut version = None;
    let mut rest = Vec::new();
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "-v" => version = words.next().and_then(|number| number.parse().ok()),
            "-b" | "-n" => {
                words.next();
            }
            _ if word.starts_with('-') && word.len() == 2 && rest.is_empty() => flags.push(word),
            _ => rest.push(word),
        }
    }
    (flags, version, rest)
}

/// ZooKeeper's message for an error, which names the path.
fn told(path: &str, error: &Error) -> ToolError {
    ToolError::failed(match error {
        Error::NoNode => format!("Node does not exist: {path}"),
        Error::NodeExists => format!("Node already exists: {path}"),
        Error::NotEmpty => format!("Node not empty: {path}"),
        Error::BadVersion => format!("version No is not valid : {path}"),
        Error::NoAuth => format!("Insufficient permission : {path}"),
        Error::NoChildrenForEphemerals => format!("Ephemerals cannot have children: {path}"),
        other => format!("{path}: {other}"),
    })
}

async fn execute(client: &Client, words: &[String], out: &mut dyn Write) -> ToolResult {
    let Some((command, args)) = words.split_first() else {
        return Ok(());
    };
    let (flags, version, args) = split_flags(args);
    let path = args.first().copied().unwrap_or_default();
    let needs_path = !matches!(command.as_str(), "help" | "quit");
    if needs_path && path.is_empty() {
        return Err(ToolError::failed(usage(command)));
    }
    if needs_path && !path.starts_with('/') {
        return Err(ToolError::failed(format!(
            "Path must start with / character: {path}"
        )));
    }
    let has = |flag: &str| flags.contains(&flag);
    let failed = |error: Error| told(path, &error);
    match command.as_str() {
        "ls" | "ls2" if has("-R") => list_tree(client, path, out).await?,
        "ls" | "ls2" => {
            let (mut names, stat) = client.get_children(path).await.map_err(failed)?;
            names.sort();
            writeln!(out, "[{}]", names.join(", "))?;
            if has("-s") || command == "ls2" {
                print_stat(&stat, out)?;
            }
        }
        "get" => {
            let (data, stat) = client.get_data(path).await.map_err(failed)?;
            let data = if data.is_empty() {
                "null".into()
            } else {
                String::from_utf8_lossy(&data)
            };
            writeln!(out, "{data}")?;
            if has("-s") {
                print_stat(&stat, out)?;
            }
        }
        "stat" => match client.check_stat(path).await.map_err(failed)? {
            Some(stat) => print_stat(&stat, out)?,
            None => return Err(told(path, &Error::NoNode)),
        },
        "set" | "create" | "delete" | "deleteall" | "rmr" => {
            change(client, command, (&flags, version, &args), out).await?;
        }
        "getAcl" => print_acls(client, path, has("-s"), out).await?,
        "help" => writeln!(out, "{HELP}")?,
        "quit" => {}
        _ => {
            return Err(ToolError::failed(format!(
                "Command not found: Command not found {command}"
            )));
        }
    }
    Ok(())
}

/// The commands that write.
async fn change(
    client: &Client,
    command: &str,
    (flags, version, args): (&[&str], Option<i32>, &[&str]),
    out: &mut dyn Write,
) -> ToolResult {
    let path = args.first().copied().unwrap_or_default();
    let has = |flag: &str| flags.contains(&flag);
    let failed = |error: Error| told(path, &error);
    match command {
        "set" => {
            let data = args.get(1).copied().unwrap_or_default();
            let old = args.get(2).and_then(|number| number.parse().ok());
            let stat = client
                .set_data(path, data.as_bytes(), version.or(old))
                .await
                .map_err(failed)?;
            if has("-s") {
                print_stat(&stat, out)?;
            }
        }
        "create" => {
            let data = args.get(1).copied().unwrap_or_default();
            let mode = match (has("-e"), has("-s")) {
                (false, false) => CreateMode::Persistent,
                (false, true) => CreateMode::PersistentSequential,
                (true, false) => CreateMode::Ephemeral,
                (true, true) => CreateMode::EphemeralSequential,
            };
            let acls = parse_acls(args.get(2).copied())?;
            let options = mode.with_acls(Acls::new(&acls));
            let (_, sequence) = client
                .create(path, data.as_bytes(), &options)
                .await
                .map_err(failed)?;
            let suffix = if has("-s") {
                sequence.to_string()
            } else {
                String::new()
            };
            writeln!(out, "Created {path}{suffix}")?;
        }
        "delete" => client.delete(path, version).await.map_err(failed)?,
        _ => delete_tree(client, path).await?,
    }
    Ok(())
}

async fn print_acls(
    client: &Client,
    path: &str,
    with_stat: bool,
    out: &mut dyn Write,
) -> ToolResult {
    let (acls, stat) = client
        .get_acl(path)
        .await
        .map_err(|error| told(path, &error))?;
    for acl in acls {
        writeln!(out, "'{},'{}", acl.scheme(), acl.id())?;
        writeln!(out, ": {}", permission_text(acl.permission()))?;
    }
    if with_stat {
        print_stat(&stat, out)?;
    }
    Ok(())
}

const HELP: &str = "ZooKeeper -server host:port -client-configuration properties-file cmd args
\tcreate [-s] [-e] path [data] [acl]
\tdelete [-v version] path
\tdeleteall path
\tget [-s] path
\tgetAcl [-s] path
\tls [-s] [-R] path
\tquit
\tset [-s] [-v version] path data
\tstat path";

fn usage(command: &str) -> String {
    let lines = HELP.lines().map(str::trim);
    let line = lines
        .into_iter()
        .find(|line| line.split(' ').next() == Some(command));
    line.map_or_else(
        || format!("Command not found: Command not found {command}"),
        ToOwned::to_owned,
    )
}

async fn children(client: &Client, path: &str) -> ToolResult<Vec<String>> {
    let mut names = client
        .list_children(path)
        .await
        .map_err(|error| told(path, &error))?;
    names.sort();
    let parent = path.trim_end_matches('/');
    Ok(names
        .into_iter()
        .map(|name| format!("{parent}/{name}"))
        .collect())
}

async fn list_tree(client: &Client, root: &str, out: &mut dyn Write) -> ToolResult {
    let mut stack = vec![root.to_owned()];
    while let Some(path) = stack.pop() {
        writeln!(out, "{path}")?;
        stack.extend(children(client, &path).await?.into_iter().rev());
    }
    Ok(())
}

/// Deepest first.
async fn delete_tree(client: &Client, root: &str) -> ToolResult {
    let mut all = vec![root.to_owned()];
    let mut next = 0;
    while let Some(path) = all.get(next).cloned() {
        all.extend(children(client, &path).await?);
        next += 1;
    }
    for path in all.iter().rev() {
        match client.delete(path, None).await {
            Ok(()) | Err(Error::NoNode) => {}
            Err(error) => return Err(told(path, &error)),
        }
    }
    Ok(())
}

/// `scheme:id:perms` with commas, as in `world:anyone:cdrwa`; anyone and everything if not given.
fn parse_acls(text: Option<&str>) -> ToolResult<Vec<Acl>> {
    let mut acls = Vec::new();
    for part in text.unwrap_or("world:anyone:cdrwa").split(',') {
        let parsed = part.split_once(':').and_then(|(scheme, rest)| {
            let (id, letters) = rest.rsplit_once(':')?;
            Some((scheme, id, letters))
        });
        let Some((scheme, id, letters)) = parsed else {
            return Err(ToolError::failed(format!(
                "{part} does not have the form scheme:id:perm"
            )));
        };
        let permission = letters.chars().fold(Permission::NONE, |all, letter| {
            let one = LETTERS.iter().find(|(known, _)| *known == letter);
            one.map_or(all, |(_, permission)| all | *permission)
        });
        let id = zookeeper_client::AuthId::new(scheme, id);
        acls.push(Acl::new(permission, id));
    }
    Ok(acls)
}

/// In the order in which ZooKeeper prints them.
const LETTERS: [(char, Permission); 5] = [
    ('c', Permission::CREATE),
    ('d', Permission::DELETE),
    ('r', Permission::READ),
    ('w', Permission::WRITE),
    ('a', Permission::ADMIN),
];

fn permission_text(permission: Permission) -> String {
    let letters = LETTERS.iter().filter(|(_, one)| permission.has(*one));
    letters.map(|(letter, _)| *letter).collect()
}

fn print_stat(stat: &Stat, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "cZxid = 0x{:x}", stat.czxid)?;
    writeln!(out, "ctime = {}", date_text(stat.ctime))?;
    writeln!(out, "mZxid = 0x{:x}", stat.mzxid)?;
    writeln!(out, "mtime = {}", date_text(stat.mtime))?;
    writeln!(out, "pZxid = 0x{:x}", stat.pzxid)?;
    writeln!(out, "cversion = {}", stat.cversion)?;
    writeln!(out, "dataVersion = {}", stat.version)?;
    writeln!(out, "aclVersion = {}", stat.aversion)?;
    writeln!(out, "ephemeralOwner = 0x{:x}", stat.ephemeral_owner)?;
    writeln!(out, "dataLength = {}", stat.data_length)?;
    writeln!(out, "numChildren = {}", stat.num_children)
}

/// Java's `Date.toString`: `Sun Nov 22 20:27:01 UTC 2026`.
fn date_text(milliseconds: i64) -> String {
    let timestamp = jiff::Timestamp::from_millisecond(milliseconds);
    timestamp.map_or_else(
        |_| milliseconds.to_string(),
        |timestamp| {
            let zoned = timestamp.to_zoned(jiff::tz::TimeZone::system());
            zoned.strftime("%a %b %d %H:%M:%S %Z %Y").to_string()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_may_be_quoted() {
        assert_eq!(split_words("set /a 'x y' \"z\""), ["set", "/a", "x y", "z"]);
    }

    #[test]
    fn flags_stand_before_the_path() {
        let words: Vec<_> = ["-s", "-v", "3", "/a", "-d"].map(str::to_owned).to_vec();
        assert_eq!(split_flags(&words), (vec!["-s"], Some(3), vec!["/a", "-d"]));
    }

    #[test]
    fn acls_are_read_and_printed() {
        let acls = parse_acls(Some("world:anyone:rw")).unwrap();
        assert_eq!(permission_text(acls[0].permission()), "rw");
        assert!(parse_acls(Some("x")).is_err());
    }
}
