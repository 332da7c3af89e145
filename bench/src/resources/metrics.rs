//! What a Ringlog says of itself, its system calls among it: `/metrics`, whose address its port file has.
//!
//! It counts the calls of the shards' threads, at no cost to them; what helper threads do is not in it.
//! Asked before and after a measured phase, never in it. Other brokers have no such page.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::Count;

const FAMILY: &str = "ringlog_shard_system_calls_total";
const PATIENCE: Duration = Duration::from_secs(2);
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// What the page said at one time.
#[derive(Debug)]
pub(crate) struct Page {
    address: SocketAddr,
    text: String,
}

impl Page {
    /// Asks the broker with this process id.
    pub(crate) fn of(pid: Option<u32>) -> Result<Self, String> {
        let pid = pid.ok_or("the broker's process is not known (--pid)")?;
        let address = address(pid).ok_or(
            "the broker has no /metrics to tell them: --broker-arg=--http --broker-arg=127.0.0.1:0 gives a \
             Ringlog one, and --count-system-calls asks perf",
        )?;
        Self::at(address)
    }

    fn at(address: SocketAddr) -> Result<Self, String> {
        let text = ask(address).map_err(|error| format!("/metrics of {address}: {error}"))?;
        Ok(Self { address, text })
    }

    /// The samples of one name.
    pub(crate) fn series<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Series<'a>> {
        self.text.lines().filter_map(move |line| {
            let (labels, value) = line
                .strip_prefix(name)?
                .strip_prefix('{')?
                .split_once('}')?;
            let value = value.trim().parse().ok()?;
            Some(Series { labels, value })
        })
    }

    /// A page that nobody was asked for.
    #[cfg(test)]
    pub(super) fn told(text: &str) -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            text: text.to_owned(),
        }
    }

    /// The sum of a family's samples over all shards.
    pub(crate) fn sum(&self, family: &str) -> Result<u64, String> {
        let none = || format!("/metrics of {} has no {family}", self.address);
        sum(&self.text, family).ok_or_else(none)
    }
}

/// A sample of the page.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Series<'a> {
    labels: &'a str,
    /// Its value.
    pub(crate) value: f64,
}

impl<'a> Series<'a> {
    /// The value of a label; those that are asked for here hold no commas or quotes.
    pub(crate) fn label(&self, name: &str) -> Option<&'a str> {
        let mut labels = self
            .labels
            .split(',')
            .filter_map(|one| one.split_once("=\""));
        let (_, value) = labels.find(|(label, _)| *label == name)?;
        value.strip_suffix('"')
    }

    /// Whether it has all these labels.
    pub(crate) fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels
            .iter()
            .all(|(name, value)| self.label(name) == Some(value))
    }
}

/// The broker's system calls since the page was read first.
#[derive(Debug)]
pub(super) struct Scrape {
    address: SocketAddr,
    calls: u64,
}

impl Scrape {
    /// Asks the broker with this process id.
    pub(super) fn of(pid: Option<u32>) -> Result<Self, String> {
        let page = Page::of(pid)?;
        let calls = page.sum(FAMILY)?;
        let address = page.address;
        Ok(Self { address, calls })
    }

    /// Calls since then.
    pub(super) fn since(&self) -> Count {
        match Page::at(self.address).and_then(|page| page.sum(FAMILY)) {
            Ok(calls) => Count::Counted {
                count: calls.saturating_sub(self.calls),
                source: format!("{FAMILY}, the shards' threads"),
            },
            Err(reason) => Count::Unavailable(reason),
        }
    }
}

/// `HTTP://address:port` in the file that the process was given.
fn address(pid: u32) -> Option<SocketAddr> {
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<_> = cmdline
        .split(|byte| *byte == 0)
        .map(String::from_utf8_lossy)
        .collect();
    let flag = words.iter().position(|word| word == "--port-file")?;
    let ports = fs::read_to_string(words.get(flag + 1)?.as_ref()).ok()?;
    let line = ports
        .lines()
        .find_map(|line| line.strip_prefix("HTTP://"))?;
    line.parse().ok()
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The sum over all shards; `None` without one.
fn sum(text: &str, family: &str) -> Option<u64> {
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(family)?;
        let value = rest.strip_prefix('{')?.split_once('}')?.1;
        value.trim().parse::<f64>().ok()
    });
    let samples: Vec<_> = samples.collect();
    (!samples.is_empty()).then(|| samples.iter().sum::<f64>() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_of_all_shards_are_summed_and_none_is_not_zero() {
        let text = "HTTP/1.1 200 OK\r\n\r\n# HELP ringlog_shard_system_calls_total x\n\
                    ringlog_shard_system_calls_total{shard=\"0\"} 40\n\
                    ringlog_shard_system_calls_total{shard=\"1\"} 2\n";
        assert_eq!(sum(text, FAMILY), Some(42));
        assert_eq!(sum(text, "ringlog_shard_system"), None);
        assert_eq!(sum("HTTP/1.1 404 Not Found\r\n\r\n", FAMILY), None);
    }

    #[test]
    fn a_process_without_the_page_is_a_reason() {
        let reason = Scrape::of(Some(std::process::id())).unwrap_err();
        assert!(reason.contains("--count-system-calls"), "{reason}");
    }
}
