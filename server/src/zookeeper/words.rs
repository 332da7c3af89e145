//! Four-letter words: what is asked with four bytes on a fresh connection, answered in text.
//!
//! Formats are those of ZooKeeper's `server.command` package, as monitoring parses them.

use std::fmt::{self, Write as _};

use super::watch::WatchSummary;

/// The version that `srvr` and `mntr` tell: behaviour is that of 3.8, and clients parse the front.
pub const VERSION: &str = concat!(
    "3.8.4-ringlog-",
    env!("CARGO_PKG_VERSION"),
    ", built on Rust"
);

/// A word that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are ZooKeeper's")]
pub enum Word {
    Conf,
    Cons,
    Dump,
    Envi,
    Isro,
    Mntr,
    Ruok,
    Srvr,
    Stat,
    Wchs,
}

/// All words.
pub const WORDS: &[Word] = &[
    Word::Conf,
    Word::Cons,
    Word::Dump,
    Word::Envi,
    Word::Isro,
    Word::Mntr,
    Word::Ruok,
    Word::Srvr,
    Word::Stat,
    Word::Wchs,
];

impl Word {
    /// Its four letters.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Conf => "conf",
            Self::Cons => "cons",
            Self::Dump => "dump",
            Self::Envi => "envi",
            Self::Isro => "isro",
            Self::Mntr => "mntr",
            Self::Ruok => "ruok",
            Self::Srvr => "srvr",
            Self::Stat => "stat",
            Self::Wchs => "wchs",
        }
    }

    /// The word with these letters.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        WORDS.iter().copied().find(|word| word.name() == name)
    }
}

/// The words ZooKeeper knows and this server does not answer; it says so instead of hanging up.
pub const OTHER_WORDS: &[&str] = &[
    "crst", "dirs", "gtmk", "hash", "lead", "orst", "srst", "stmk", "wchc", "wchp",
];

/// Latencies in ms, and packets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Packets received.
    pub received: u64,
    /// Packets sent.
    pub sent: u64,
    /// Requests answered.
    pub answered: u64,
    /// Sum of their latencies.
    pub latency_ms: u64,
    /// Shortest.
    pub latency_ms_min: u64,
    /// Longest.
    pub latency_ms_max: u64,
}

impl Counts {
    /// Counts a request that was answered.
    pub fn answered(&mut self, latency_ms: u64) {
        self.latency_ms_min = if self.answered == 0 {
            latency_ms
        } else {
            self.latency_ms_min.min(latency_ms)
        };
        self.latency_ms_max = self.latency_ms_max.max(latency_ms);
        self.latency_ms += latency_ms;
        self.answered += 1;
    }

    fn average_ms(&self) -> f64 {
        let answered = u32::try_from(self.answered.max(1)).unwrap_or(u32::MAX);
        u32::try_from(self.latency_ms).map_or(f64::MAX, f64::from) / f64::from(answered)
    }
}

/// What is known of a connection.
#[derive(Clone, Debug, Default)]
pub struct ConnectionFacts {
    /// Address of the client, as `/127.0.0.1:50000`.
    pub address: String,
    /// Replies not sent yet.
    pub queued: usize,
    /// Its packets and latencies.
    pub counts: Counts,
    /// Session, if it has one: id and timeout in ms.
    pub session: Option<(i64, u32)>,
    /// Name of the last operation.
    pub last_operation: &'static str,
    /// The client's number of it.
    pub last_xid: i32,
    /// The transaction its reply carried.
    pub last_zxid: i64,
    /// When the connection came, wall time in ms.
    pub established_ms: i64,
    /// When it last got a reply, ms since the service's start.
    pub last_response_ms: u64,
    /// How long that took.
    pub last_latency_ms: u64,
}

/// What is known of the service.
#[derive(Clone, Debug, Default)]
pub struct ServiceFacts {
    /// Packets and latencies of all connections.
    pub counts: Counts,
    /// The connections.
    pub connections: Vec<ConnectionFacts>,
    /// Last transaction.
    pub zxid: i64,
    /// Nodes, the root included.
    pub nodes: usize,
    /// Ephemerals by session.
    pub ephemerals: Vec<(i64, Vec<String>)>,
    /// Sessions: id and timeout in ms.
    pub sessions: Vec<(i64, u32)>,
    /// Watches for `wchs`.
    pub watch_summary: WatchSummary,
    /// Watches of both sorts.
    pub watches: usize,
    /// Bytes of the tree, about.
    pub data_bytes: usize,
    /// Time since the start.
    pub uptime_ms: u64,
    /// Lines of `conf`.
    pub configuration: Vec<(&'static str, String)>,
}

/// The answer to a word.
#[must_use]
pub fn answer(word: Word, facts: &ServiceFacts) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_answer(&mut text, word, facts);
    text
}

fn write_answer(text: &mut String, word: Word, facts: &ServiceFacts) -> fmt::Result {
    match word {
        Word::Ruok => text.write_str("imok"),
        Word::Isro => text.write_str("rw"),
        Word::Conf => {
            for (key, value) in &facts.configuration {
                writeln!(text, "{key}={value}")?;
            }
            Ok(())
        }
        Word::Envi => {
            writeln!(text, "Environment:\nzookeeper.version={VERSION}")?;
            writeln!(
                text,
                "os.name={}\nos.arch={}",
                std::env::consts::OS,
                std::env::consts::ARCH
            )
        }
        Word::Cons => {
            for connection in &facts.connections {
                write_connection(text, connection, false)?;
            }
            writeln!(text)
        }
        Word::Srvr => write_server(text, facts, false),
        Word::Stat => write_server(text, facts, true),
        Word::Mntr => write_monitor(text, facts),
        Word::Wchs => {
            let WatchSummary {
                connections,
                paths,
                watches,
            } = facts.watch_summary;
            writeln!(
                text,
                "{connections} connections watching {paths} paths\nTotal watches:{watches}\n"
            )
        }
        Word::Dump => write_dump(text, facts),
    }
}

fn write_server(text: &mut String, facts: &ServiceFacts, has_clients: bool) -> fmt::Result {
    writeln!(text, "Zookeeper version: {VERSION}")?;
    if has_clients {
        writeln!(text, "Clients:")?;
        for connection in &facts.connections {
            write_connection(text, connection, true)?;
        }
        writeln!(text)?;
    }
    let counts = &facts.counts;
    let (min, average, max) = (
        counts.latency_ms_min,
        counts.average_ms(),
        counts.latency_ms_max,
    );
    writeln!(text, "Latency min/avg/max: {min}/{average:.1}/{max}")?;
    writeln!(text, "Received: {}\nSent: {}", counts.received, counts.sent)?;
    writeln!(
        text,
        "Connections: {}\nOutstanding: {}",
        facts.connections.len(),
        outstanding(facts)
    )?;
    writeln!(text, "Zxid: 0x{:x}\nMode: standalone", facts.zxid)?;
    writeln!(text, "Node count: {}", shown_nodes(facts))
}

/// ZooKeeper's map has the root twice (`DataTree`'s "" and "/"), and so its count.
fn shown_nodes(facts: &ServiceFacts) -> usize {
    facts.nodes + 1
}

fn outstanding(facts: &ServiceFacts) -> usize {
    facts
        .connections
        .iter()
        .map(|connection| connection.queued)
        .sum()
}

fn write_connection(text: &mut String, facts: &ConnectionFacts, is_brief: bool) -> fmt::Result {
    let counts = &facts.counts;
    write!(
        text,
        " {}[1](queued={},recved={},sent={}",
        facts.address, facts.queued, counts.received, counts.sent
    )?;
    if let Some((session, timeout_ms)) = facts.session.filter(|_| !is_brief) {
        write!(
            text,
            ",sid=0x{session:x},lop={},est={}",
            facts.last_operation, facts.established_ms
        )?;
        write!(text, ",to={timeout_ms},lcxid=0x{:x}", facts.last_xid)?;
        write!(
            text,
            ",lzxid=0x{:x},lresp={}",
            facts.last_zxid, facts.last_response_ms
        )?;
        let (min, average, max) = (
            counts.latency_ms_min,
            counts.average_ms(),
            counts.latency_ms_max,
        );
        write!(
            text,
            ",llat={},minlat={min},avglat={average:.0},maxlat={max}",
            facts.last_latency_ms
        )?;
    }
    writeln!(text, ")")
}

fn write_monitor(text: &mut String, facts: &ServiceFacts) -> fmt::Result {
    let counts = &facts.counts;
    let ephemerals: usize = facts.ephemerals.iter().map(|(_, paths)| paths.len()).sum();
    writeln!(text, "zk_version\t{VERSION}\nzk_server_state\tstandalone")?;
    writeln!(text, "zk_avg_latency\t{:.1}", counts.average_ms())?;
    writeln!(text, "zk_ephemerals_count\t{ephemerals}")?;
    let numbers = [
        ("max_latency", counts.latency_ms_max),
        ("min_latency", counts.latency_ms_min),
        ("packets_received", counts.received),
        ("packets_sent", counts.sent),
        ("uptime", facts.uptime_ms),
    ];
    for (key, value) in numbers {
        writeln!(text, "zk_{key}\t{value}")?;
    }
    let sizes = [
        ("num_alive_connections", facts.connections.len()),
        ("outstanding_requests", outstanding(facts)),
        ("znode_count", shown_nodes(facts)),
        ("watch_count", facts.watches),
        ("approximate_data_size", facts.data_bytes),
        ("global_sessions", facts.sessions.len()),
    ];
    for (key, value) in sizes {
        writeln!(text, "zk_{key}\t{value}")?;
    }
    Ok(())
}

fn write_dump(text: &mut String, facts: &ServiceFacts) -> fmt::Result {
    writeln!(
        text,
        "SessionTracker dump:\nGlobal Sessions({}):",
        facts.sessions.len()
    )?;
    for (session, timeout_ms) in &facts.sessions {
        writeln!(text, "0x{session:x}\t{timeout_ms}ms")?;
    }
    writeln!(
        text,
        "ephemeral nodes dump:\nSessions with Ephemerals ({}):",
        facts.ephemerals.len()
    )?;
    for (session, paths) in &facts.ephemerals {
        writeln!(text, "0x{session:x}:")?;
        paths
            .iter()
            .try_for_each(|path| writeln!(text, "\t{path}"))?;
    }
    writeln!(
        text,
        "Connections dump:\nConnections({}):",
        facts.connections.len()
    )?;
    for connection in &facts.connections {
        write_connection(text, connection, true)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_zookeepers_form() {
        let mut facts = ServiceFacts {
            zxid: 0x1f,
            nodes: 4,
            ..ServiceFacts::default()
        };
        facts.counts.answered(4);
        facts.counts.answered(1);
        facts.connections.push(ConnectionFacts {
            address: "/127.0.0.1:5000".to_owned(),
            session: Some((0x10, 6000)),
            last_operation: "GETD",
            ..ConnectionFacts::default()
        });
        let stat = answer(Word::Stat, &facts);
        assert!(
            stat.starts_with("Zookeeper version: 3.8.4-ringlog-"),
            "{stat}"
        );
        for line in [
            "Clients:",
            " /127.0.0.1:5000[1](queued=0,recved=0,sent=0)",
            "Latency min/avg/max: 1/2.5/4",
            "Connections: 1",
            "Zxid: 0x1f",
            "Mode: standalone",
            "Node count: 5",
        ] {
            assert!(stat.lines().any(|one| one == line), "{line} in {stat}");
        }
        assert!(!answer(Word::Srvr, &facts).contains("Clients"));
        assert!(answer(Word::Cons, &facts).contains(",sid=0x10,lop=GETD,est=0,to=6000,lcxid=0x0"));
        assert!(answer(Word::Mntr, &facts).contains("zk_znode_count\t5\n"));
        assert_eq!(answer(Word::Ruok, &facts), "imok");
        assert_eq!(answer(Word::Isro, &facts), "rw");
    }

    #[test]
    fn every_word_is_found_by_its_name() {
        for word in WORDS {
            assert_eq!(Word::from_name(word.name()), Some(*word));
            assert!(!OTHER_WORDS.contains(&word.name()));
        }
        assert_eq!(Word::from_name("GET "), None);
    }
}
