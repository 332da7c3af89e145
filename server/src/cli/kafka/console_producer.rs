//! `kafka-console-producer`: a record per line of standard input (Kafka: `ConsoleProducer`,
//! `LineMessageReader`).

use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use ringlog_engine::record::Compression;

use super::options::{Options, Spec, flag, one, optional};
use super::{Tool, bootstrap, load_properties, tell_plainly};
use crate::cli::Exit;
use crate::cli::tool::{ToolError, ToolResult, now_ms};
use crate::client::Client;
use crate::client::producer::{OutRecord, Producer, ProducerOptions};

/// `kafka-console-producer`.
pub const TOOL: Tool = Tool {
    name: "kafka-console-producer",
    about: "This tool helps to read data from standard input and publish it to Kafka.",
    options: OPTIONS,
    run,
    tell: tell_plainly,
};

/// Lines waiting for a batch; a full queue makes the reader of standard input wait.
const QUEUE_RECORDS_MAX: usize = 10_000;
const BATCH_RECORDS_MAX: usize = 2_000;

const OPTIONS: &[Spec] = &[
    one(
        "batch-size",
        "records or bytes",
        "Most records of a request with 0.10's tool, bytes of a batch since",
    ),
    one("bootstrap-server", "host:port", "The broker to talk to"),
    one(
        "broker-list",
        "host:port",
        "Older name of --bootstrap-server",
    ),
    one("command-config", "file", "Properties of the producer"),
    one(
        "command-property",
        "key=value",
        "A property of the producer",
    ),
    optional(
        "compression-codec",
        "codec",
        "none, gzip (without a value), snappy, lz4 or zstd",
    ),
    one("key-serializer", "class", "Accepted: lines are bytes"),
    one(
        "line-reader",
        "class",
        "Accepted: only the reader of lines is there",
    ),
    one(
        "max-block-ms",
        "ms",
        "How long a record may take to be delivered",
    ),
    one(
        "max-memory-bytes",
        "bytes",
        "Accepted: memory is bounded by the queue",
    ),
    one("max-partition-memory-bytes", "bytes", "Bytes of a batch"),
    one(
        "message-send-max-retries",
        "n",
        "Accepted: retries end with the delivery time",
    ),
    one("metadata-expiry-ms", "ms", "Accepted"),
    flag("old-producer", "Accepted: there is only one producer"),
    one(
        "producer-property",
        "key=value",
        "A property of the producer",
    ),
    one("producer.config", "file", "Properties of the producer"),
    one(
        "property",
        "key=value",
        "parse.key, key.separator, parse.headers, ignore.error, null.marker, ...",
    ),
    one("queue-enqueuetimeout-ms", "ms", "Accepted"),
    one("queue-size", "n", "Accepted"),
    one("reader-config", "file", "Properties of the line reader"),
    one("reader-property", "key=value", "As --property"),
    one("request-required-acks", "acks", "0, 1, or -1 (all)"),
    one("request-timeout-ms", "ms", "How long the broker may take"),
    one("retry-backoff-ms", "ms", "Accepted"),
    one("socket-buffer-size", "bytes", "Accepted"),
    flag("sync", "Wait for every record before the next"),
    one(
        "timeout",
        "ms",
        "How long a batch waits for more (the queue is sent at once)",
    ),
    one("topic", "name", "The topic"),
    one("value-serializer", "class", "Accepted: lines are bytes"),
];

fn run(options: &Options, _out: &mut dyn Write) -> ToolResult<Exit> {
    let Some(topic) = options.last("topic") else {
        return Err(ToolError::Usage(
            "Missing required argument \"[topic]\"".to_owned(),
        ));
    };
    let reader = LineReader::new(&reader_properties(options)?)?;
    let settings = producer_options(options)?;
    let is_sync = options.has("sync");
    let client = Client::connect(&bootstrap(options)?, "console-producer")?;
    let mut producer = Producer::new(client, topic, settings)?;
    let lines = read_lines(
        reader,
        io::stdin().is_terminal() && io::stdout().is_terminal(),
    );
    let mut exit = Exit::Ok;
    while let Ok(first) = lines.recv() {
        let mut batch = vec![first?];
        while !is_sync && batch.len() < BATCH_RECORDS_MAX {
            match lines.try_recv() {
                Ok(record) => batch.push(record?),
                Err(_) => break,
            }
        }
        if let Err(error) = producer.send(&batch, now_ms()) {
            // The stock tool logs the error per record and goes on.
            eprintln!(
                "ERROR Error when sending message to topic {topic} ({} records) with error: {error}",
                batch.len()
            );
            exit = Exit::Failure;
        }
    }
    Ok(exit)
}

/// Standard input is read on a thread of its own, so that a typed line is sent at once and a piped
/// file fills batches.
fn read_lines(mut reader: LineReader, has_prompt: bool) -> Receiver<ToolResult<OutRecord>> {
    let (sender, receiver) = sync_channel(QUEUE_RECORDS_MAX);
    thread::spawn(move || {
        let mut input = io::stdin().lock();
        let mut line = Vec::new();
        loop {
            if has_prompt {
                let mut out = io::stdout().lock();
                let _ = out.write_all(b">").and_then(|()| out.flush());
            }
            line.clear();
            match input.read_until(b'\n', &mut line) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    let _ = sender.send(Err(error.into()));
                    return;
                }
            }
            while matches!(line.last(), Some(b'\n' | b'\r')) {
                line.pop();
            }
            let record = reader.parse(&line);
            let is_bad = record.is_err();
            if sender.send(record).is_err() || is_bad {
                return;
            }
        }
    });
    receiver
}

fn reader_properties(options: &Options) -> ToolResult<Vec<(String, String)>> {
    let mut properties = match options.last("reader-config") {
        Some(path) => load_properties(path)?,
        None => Vec::new(),
    };
    properties.extend(options.pairs("property"));
    properties.extend(options.pairs("reader-property"));
    Ok(properties)
}

/// The producer's properties, those of the command line last.
fn producer_options(options: &Options) -> ToolResult<ProducerOptions> {
    let mut properties = Vec::new();
    for name in ["producer.config", "command-config"] {
        if let Some(path) = options.last(name) {
            properties.extend(load_properties(path)?);
        }
    }
    for name in ["producer-property", "command-property"] {
        properties.extend(options.pairs(name));
    }
    let flags = [
        ("request-required-acks", "acks"),
        ("request-timeout-ms", "request.timeout.ms"),
        ("max-partition-memory-bytes", "batch.size"),
    ];
    for (flag, key) in flags {
        let value = options.last(flag);
        properties.extend(value.map(|value| (key.to_owned(), value.to_owned())));
    }
    if options.has("compression-codec") {
        let codec = options.last("compression-codec").unwrap_or("gzip");
        properties.push(("compression.type".to_owned(), codec.to_owned()));
    }
    parse_producer_properties(&properties)
}

/// The properties that this producer knows; the others are the Java client's affair.
///
/// # Errors
/// If a value is none of the key's.
pub fn parse_producer_properties(properties: &[(String, String)]) -> ToolResult<ProducerOptions> {
    let mut settings = ProducerOptions::default();
    for (key, value) in properties {
        let value = value.trim();
        let bad = || ToolError::failed(format!("Invalid value {value} for configuration {key}"));
        let milliseconds = || value.parse().map(Duration::from_millis).map_err(|_| bad());
        match key.as_str() {
            "acks" => {
                settings.acks = match value {
                    "all" | "-1" => -1,
                    "0" => 0,
                    "1" => 1,
                    _ => return Err(bad()),
                };
            }
            "compression.type" => {
                settings.compression = Compression::from_name(value).ok_or_else(bad)?;
            }
            "batch.size" => settings.batch_bytes_max = value.parse().map_err(|_| bad())?,
            "request.timeout.ms" => settings.request_timeout = milliseconds()?,
            "delivery.timeout.ms" => settings.delivery_timeout = milliseconds()?,
            _ => {}
        }
    }
    Ok(settings)
}

/// Makes records of lines.
#[derive(Clone, Debug)]
pub struct LineReader {
    parse_key: bool,
    key_separator: String,
    parse_headers: bool,
    headers_delimiter: String,
    headers_separator: String,
    headers_key_separator: String,
    ignore_error: bool,
    null_marker: Option<String>,
    line_number: u64,
}

impl LineReader {
    /// A reader with Kafka's properties (`parse.key`, `key.separator`, ...).
    ///
    /// # Errors
    /// If two separators are the same.
    pub fn new(properties: &[(String, String)]) -> ToolResult<Self> {
        let find = |name: &str| {
            let mut found = properties.iter().rev().filter(|(key, _)| key == name);
            found.next().map(|(_, value)| value.clone())
        };
        let is_true =
            |name: &str| find(name).is_some_and(|v| v.trim().eq_ignore_ascii_case("true"));
        let or = |name: &str, default: &str| find(name).unwrap_or_else(|| default.to_owned());
        let reader = Self {
            parse_key: is_true("parse.key"),
            key_separator: or("key.separator", "\t"),
            parse_headers: is_true("parse.headers"),
            headers_delimiter: or("headers.delimiter", "\t"),
            headers_separator: or("headers.separator", ","),
            headers_key_separator: or("headers.key.separator", ":"),
            ignore_error: is_true("ignore.error"),
            null_marker: find("null.marker"),
            line_number: 0,
        };
        let clashes = [
            (
                "headers.delimiter",
                &reader.headers_delimiter,
                "headers.separator",
                &reader.headers_separator,
            ),
            (
                "headers.delimiter",
                &reader.headers_delimiter,
                "headers.key.separator",
                &reader.headers_key_separator,
            ),
            (
                "headers.separator",
                &reader.headers_separator,
                "headers.key.separator",
                &reader.headers_key_separator,
            ),
        ];
        for (one, one_value, other, other_value) in clashes {
            if one_value == other_value {
                return Err(ToolError::failed(format!(
                    "{one} and {other} may not be equal"
                )));
            }
        }
        let separators = [
            ("key.separator", &reader.key_separator),
            ("headers.separator", &reader.headers_separator),
            ("headers.delimiter", &reader.headers_delimiter),
            ("headers.key.separator", &reader.headers_key_separator),
        ];
        for (name, separator) in separators {
            if reader.null_marker.as_ref() == Some(separator) {
                return Err(ToolError::failed(format!(
                    "null.marker and {name} may not be equal"
                )));
            }
        }
        Ok(reader)
    }

    /// The record of a line, which is without its end.
    ///
    /// # Errors
    /// If a separator is missing and `ignore.error` is not set.
    pub fn parse(&mut self, line: &[u8]) -> ToolResult<OutRecord> {
        self.line_number += 1;
        let mut rest = line;
        let mut headers = None;
        if self.parse_headers {
            headers = self.cut(
                line,
                &mut rest,
                &self.headers_delimiter,
                "headers delimiter",
            )?;
        }
        let mut key = None;
        if self.parse_key {
            key = self.cut(line, &mut rest, &self.key_separator, "key separator")?;
        }
        let headers = match headers {
            Some(headers) if !self.is_null(headers) => self.split_headers(headers)?,
            _ => Vec::new(),
        };
        Ok(OutRecord {
            key: key.and_then(|key| self.or_null(key)),
            value: self.or_null(rest),
            headers,
            partition: None,
        })
    }

    fn is_null(&self, bytes: &[u8]) -> bool {
        self.null_marker
            .as_ref()
            .is_some_and(|marker| marker.as_bytes() == bytes)
    }

    fn or_null(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        (!self.is_null(bytes)).then(|| bytes.to_vec())
    }

    fn cut<'a>(
        &self,
        line: &[u8],
        rest: &mut &'a [u8],
        separator: &str,
        name: &str,
    ) -> ToolResult<Option<&'a [u8]>> {
        if let Some((before, after)) = split_once(rest, separator.as_bytes()) {
            *rest = after;
            return Ok(Some(before));
        }
        if self.ignore_error {
            return Ok(None);
        }
        Err(ToolError::failed(format!(
            "No {name} found on line number {}: '{}'",
            self.line_number,
            String::from_utf8_lossy(line)
        )))
    }

    fn split_headers(&self, headers: &[u8]) -> ToolResult<Vec<(String, Option<Vec<u8>>)>> {
        let text = String::from_utf8_lossy(headers);
        let mut found = Vec::new();
        for pair in text.split(&self.headers_separator) {
            match pair.split_once(&self.headers_key_separator) {
                Some((key, _)) if self.is_null(key.as_bytes()) => {
                    return Err(ToolError::failed(format!(
                        "Header keys should not be equal to the null marker '{key}' as they can't be null"
                    )));
                }
                Some((key, value)) => found.push((key.to_owned(), self.or_null(value.as_bytes()))),
                None if self.ignore_error => found.push((pair.to_owned(), None)),
                None => {
                    return Err(ToolError::failed(format!(
                        "No header key separator found in pair '{pair}' on line number {}",
                        self.line_number
                    )));
                }
            }
        }
        Ok(found)
    }
}

fn split_once<'a>(bytes: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let mut windows = bytes.windows(separator.len().max(1));
    let index = windows.position(|window| window == separator)?;
    let (before, after) = bytes.split_at(index);
    Some((before, after.get(separator.len()..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(properties: &[(&str, &str)]) -> ToolResult<LineReader> {
        let properties = properties.iter();
        let properties: Vec<_> = properties
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        LineReader::new(&properties)
    }

    #[test]
    fn a_line_is_a_value() {
        let record = reader(&[]).unwrap().parse(b"a\tb").unwrap();
        assert_eq!((record.key, record.value), (None, Some(b"a\tb".to_vec())));
    }

    #[test]
    fn keys_headers_and_nulls_are_parsed_as_kafka_does() {
        let properties = [
            ("parse.key", "true"),
            ("parse.headers", "true"),
            ("null.marker", "NULL"),
        ];
        let mut reader = reader(&properties).unwrap();
        let record = reader.parse(b"h1:v1,h2:NULL\tk\tNULL").unwrap();
        assert_eq!(record.headers[0], ("h1".to_owned(), Some(b"v1".to_vec())));
        assert_eq!(record.headers[1].1, None);
        assert_eq!((record.key, record.value), (Some(b"k".to_vec()), None));
    }

    #[test]
    fn a_missing_separator_names_the_line() {
        let mut strict = reader(&[("parse.key", "true"), ("key.separator", ":")]).unwrap();
        let error = strict.parse(b"abc").unwrap_err().to_string();
        assert_eq!(error, "No key separator found on line number 1: 'abc'");
        let mut lenient = reader(&[("parse.key", "true"), ("ignore.error", "true")]).unwrap();
        assert_eq!(lenient.parse(b"abc").unwrap().key, None);
        assert!(reader(&[("headers.separator", ":")]).is_err());
    }
}
