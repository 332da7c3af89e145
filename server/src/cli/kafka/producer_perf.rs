//! `kafka-producer-perf-test`: produce as fast as it goes, or at a rate (Kafka:
//! `ProducerPerformance`).
//!
//! Up to five requests are under way per partition leader; a thread per connection takes the
//! answers' times, so that latency does not depend on when the sender looks. Latency counts from
//! when a record was handed to its batch, as in the stock tool. Without idempotence.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::messages::{
    ProduceRequest,
    produce_request::{PartitionProduceData, TopicProduceData},
};
use ringlog_engine::record::BatchBuilder;

use super::console_producer::parse_producer_properties;
use super::options::{Options, Spec, flag, many, one};
use super::{Tool, load_properties, tell_plainly};
use crate::cli::Exit;
use crate::cli::tool::{ToolError, ToolResult, now_ms};
use crate::client::connection::read_frame;
use crate::client::producer::ProducerOptions;
use crate::client::{Client, REQUEST_TIMEOUT, TopicPartition, check, topic_name};

/// `kafka-producer-perf-test`.
pub const TOOL: Tool = Tool {
    name: "kafka-producer-perf-test",
    about: "This tool is used to verify the producer performance.",
    options: OPTIONS,
    run,
    tell: tell_plainly,
};

const OPTIONS: &[Spec] = &[
    one("bootstrap-server", "host:port", "The broker to talk to"),
    one("command-config", "file", "Properties of the producer"),
    many("command-property", "k=v ...", "Properties of the producer"),
    one("num-records", "n", "Records to send"),
    one(
        "payload-delimiter",
        "text",
        "What separates payloads in --payload-file (a line end)",
    ),
    one("payload-file", "file", "Payloads to choose from"),
    flag(
        "payload-monotonic",
        "The number of the record is its payload",
    ),
    flag(
        "print-metrics",
        "Accepted: there are no metrics of a Java client",
    ),
    many(
        "producer-props",
        "k=v ...",
        "Properties of the producer: bootstrap.servers, acks, batch.size, linger.ms, ...",
    ),
    one("producer.config", "file", "Properties of the producer"),
    one("record-size", "bytes", "Size of a random payload"),
    one("reporting-interval", "ms", "Between two lines (5000)"),
    one("throughput", "n", "Records a second; -1 for all there is"),
    one("topic", "name", "The topic"),
    one("warmup-records", "n", "Records that do not count"),
];

const IN_FLIGHT_MAX: usize = 5;
const SAMPLES_MAX: u64 = 500_000;

fn run(options: &Options, out: &mut dyn Write) -> ToolResult<Exit> {
    let required = |name: &str| {
        options
            .last(name)
            .ok_or_else(|| ToolError::Usage(format!("argument --{name} is required")))
    };
    let topic = required("topic")?;
    required("num-records")?;
    required("throughput")?;
    let count: u64 = options.number("num-records")?.unwrap_or(0);
    let throughput: f64 = options.number("throughput")?.unwrap_or(-1.0);
    let interval: u64 = options.number("reporting-interval")?.unwrap_or(5000);
    let warmup: u64 = options.number("warmup-records")?.unwrap_or(0);
    let mut payloads = Payloads::from_options(options, out)?;
    let mut properties = Vec::new();
    for name in ["producer.config", "command-config"] {
        if let Some(path) = options.last(name) {
            properties.extend(load_properties(path)?);
        }
    }
    for name in ["producer-props", "command-property"] {
        properties.extend(options.pairs(name));
    }
    let property = |name: &str| {
        let mut found = properties.iter().rev().filter(|(key, _)| key == name);
        found.next().map(|(_, value)| value.clone())
    };
    let servers = options.last("bootstrap-server").map(str::to_owned);
    let servers = servers.or_else(|| property("bootstrap.servers")).ok_or_else(|| {
        ToolError::Usage(
            "name the broker with --bootstrap-server or --producer-props bootstrap.servers=host:port"
                .to_owned(),
        )
    })?;
    let linger = property("linger.ms")
        .and_then(|ms| ms.parse().ok())
        .unwrap_or(0);
    let settings = parse_producer_properties(&properties)?;
    let mut client = Client::connect(&servers, "perf-producer-client")?;
    let partitions = client
        .await_topic(topic, true, Duration::from_secs(60))?
        .partitions
        .len();
    let mut load = Load {
        stats: Stats::new(count, Duration::from_millis(interval), warmup),
        pipelines: BTreeMap::new(),
        linger: Duration::from_millis(linger),
        topic: topic.to_owned(),
        partitions: i32::try_from(partitions).unwrap_or(1),
        current: 0,
        settings,
    };
    let start = Instant::now();
    for number in 0..count {
        load.pace(start, number, throughput, out)?;
        load.append(&mut client, payloads.next(number), out)?;
    }
    load.finish(&mut client, out)?;
    load.stats.print_total(out)?;
    Ok(Exit::Ok)
}

/// Where payloads come from.
#[derive(Debug)]
enum Payloads {
    Random(Vec<u8>, fastrand::Rng),
    Chosen(Vec<Vec<u8>>, fastrand::Rng),
    Monotonic(Vec<u8>),
}

impl Payloads {
    fn from_options(options: &Options, out: &mut dyn Write) -> ToolResult<Self> {
        let size: Option<usize> = options.number("record-size")?;
        let random = fastrand::Rng::with_seed(0);
        match (
            size,
            options.last("payload-file"),
            options.has("payload-monotonic"),
        ) {
            (Some(size), None, false) if size > 0 => Ok(Self::Random(vec![0; size], random)),
            (Some(_), None, false) => Err(ToolError::failed(
                "--record-size should be greater than zero.",
            )),
            (None, Some(path), false) => {
                writeln!(out, "Reading payloads from: {path}")?;
                let text = std::fs::read_to_string(path).unwrap_or_default();
                if text.is_empty() {
                    return Err(ToolError::failed(
                        "File does not exist or empty file provided.",
                    ));
                }
                let delimiter = options
                    .last("payload-delimiter")
                    .unwrap_or("\\n")
                    .replace("\\n", "\n");
                let payloads: Vec<_> = text
                    .trim_end_matches(delimiter.as_str())
                    .split(delimiter.as_str())
                    .map(|payload| payload.as_bytes().to_vec())
                    .collect();
                writeln!(out, "Number of messages read: {}", payloads.len())?;
                Ok(Self::Chosen(payloads, random))
            }
            (None, None, true) => Ok(Self::Monotonic(Vec::new())),
            _ => Err(ToolError::Usage(
                "exactly one of --record-size, --payload-file and --payload-monotonic is required"
                    .to_owned(),
            )),
        }
    }

    fn next(&mut self, number: u64) -> &[u8] {
        match self {
            Self::Random(payload, random) => {
                payload.fill_with(|| random.u8(b'A'..=b'Z'));
                payload
            }
            Self::Chosen(payloads, random) => {
                let index = random.usize(..payloads.len());
                payloads.get(index).map_or(&[], Vec::as_slice)
            }
            Self::Monotonic(payload) => {
                *payload = number.to_string().into_bytes();
                payload
            }
        }
    }
}

/// The batch that fills.
#[derive(Debug)]
struct Open {
    builder: BatchBuilder,
    since: Instant,
    records: Vec<(Instant, usize)>,
}

/// A connection with requests under way.
#[derive(Debug)]
struct Pipeline {
    in_flight: VecDeque<Vec<(Instant, usize)>>,
    answers: Receiver<std::io::Result<(Instant, Bytes)>>,
}

#[derive(Debug)]
struct Load {
    topic: String,
    partitions: i32,
    current: i32,
    settings: ProducerOptions,
    linger: Duration,
    pipelines: BTreeMap<i32, (Pipeline, Option<Open>)>,
    stats: Stats,
}

impl Load {
    /// Waits for the record's turn, taking answers meanwhile.
    fn pace(&mut self, start: Instant, number: u64, rate: f64, out: &mut dyn Write) -> ToolResult {
        if rate <= 0.0 {
            return Ok(());
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "a number of records, for a time"
        )]
        let due = start + Duration::from_secs_f64(number as f64 / rate);
        loop {
            let now = Instant::now();
            if now >= due {
                return Ok(());
            }
            self.take_answers(out)?;
            thread::sleep((due - now).min(Duration::from_millis(1)));
        }
    }

    fn append(&mut self, client: &mut Client, payload: &[u8], out: &mut dyn Write) -> ToolResult {
        let leader = client.leader(&TopicPartition::new(&self.topic, self.current))?;
        let compression = self.settings.compression;
        let (pipeline, open) = match self.pipelines.entry(leader) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(place) => place.insert((open_pipeline(client, leader)?, None)),
        };
        let now = Instant::now();
        let batch = open.get_or_insert_with(|| Open {
            builder: BatchBuilder::new(compression),
            since: now,
            records: Vec::new(),
        });
        batch.builder.append(now_ms(), None, Some(payload), &[])?;
        batch.records.push((now, payload.len()));
        let is_full = batch.builder.size_in_bytes() >= self.settings.batch_bytes_max;
        let is_due =
            batch.since.elapsed() >= self.linger && pipeline.in_flight.len() < IN_FLIGHT_MAX;
        if is_full || is_due {
            self.send(client, leader, out)?;
        }
        Ok(())
    }

    /// Sends the open batch of a leader, when one of the five places is free.
    fn send(&mut self, client: &mut Client, leader: i32, out: &mut dyn Write) -> ToolResult {
        self.take_answers(out)?;
        let Some((pipeline, open)) = self.pipelines.get_mut(&leader) else {
            return Ok(());
        };
        while pipeline.in_flight.len() >= IN_FLIGHT_MAX {
            take_answer(client, leader, pipeline, &mut self.stats, out)?;
        }
        let Some(batch) = open.take() else {
            return Ok(());
        };
        let data = PartitionProduceData::default()
            .with_index(self.current)
            .with_records(Some(batch.builder.build()?.freeze()));
        let topic = TopicProduceData::default()
            .with_name(topic_name(&self.topic))
            .with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_transactional_id(None)
            .with_acks(self.settings.acks)
            .with_timeout_ms(30_000)
            .with_topic_data(vec![topic]);
        let connection = client.node(leader)?;
        let version = connection.version::<ProduceRequest>()?;
        connection.send(&request, version)?;
        if self.settings.acks == 0 {
            self.stats.record_all(&batch.records, Instant::now(), out)?;
        } else {
            pipeline.in_flight.push_back(batch.records);
        }
        self.current = (self.current + 1).checked_rem(self.partitions).unwrap_or(0);
        Ok(())
    }

    /// Takes the answers that are there.
    fn take_answers(&mut self, out: &mut dyn Write) -> ToolResult {
        for (pipeline, _) in self.pipelines.values_mut() {
            while let Ok(answer) = pipeline.answers.try_recv() {
                let (time, frame) = answer?;
                pipeline.settle(time, frame, &mut self.stats, out)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, client: &mut Client, out: &mut dyn Write) -> ToolResult {
        let leaders: Vec<_> = self.pipelines.keys().copied().collect();
        for leader in leaders {
            self.send(client, leader, out)?;
            if let Some((pipeline, _)) = self.pipelines.get_mut(&leader) {
                while !pipeline.in_flight.is_empty() {
                    take_answer(client, leader, pipeline, &mut self.stats, out)?;
                }
            }
        }
        Ok(())
    }
}

impl Pipeline {
    fn settle(
        &mut self,
        time: Instant,
        frame: Bytes,
        stats: &mut Stats,
        out: &mut dyn Write,
    ) -> ToolResult {
        let error = answer_error(&frame);
        check(error, None)?;
        if let Some(records) = self.in_flight.pop_front() {
            stats.record_all(&records, time, out)?;
        }
        Ok(())
    }
}

/// The error code of an answer with one partition, at every version: it stands behind the topic's
/// name and the partition's number. Reading just that keeps the tool's own cost out of the figure.
fn answer_error(frame: &Bytes) -> i16 {
    // Version 9 is the first flexible one; `open_pipeline` keeps to version 8 or older:
    // correlation id, topics, name, partitions, number, error.
    let name = frame
        .get(8..10)
        .map_or(0, |b| usize::from(u16::from_be_bytes([b[0], b[1]])));
    let at = 10 + name + 4 + 4;
    frame
        .get(at..at + 2)
        .map_or(-1, |b| i16::from_be_bytes([b[0], b[1]]))
}

fn open_pipeline(client: &mut Client, leader: i32) -> ToolResult<Pipeline> {
    let connection = client.node(leader)?;
    connection.cap_version::<ProduceRequest>(8);
    let mut reader = connection.reader()?;
    let (sender, answers) = channel();
    thread::spawn(move || {
        loop {
            let frame = read_frame(&mut reader);
            let is_end = frame.is_err();
            if sender
                .send(frame.map(|frame| (Instant::now(), frame)))
                .is_err()
                || is_end
            {
                return;
            }
        }
    });
    Ok(Pipeline {
        in_flight: VecDeque::new(),
        answers,
    })
}

fn take_answer(
    client: &mut Client,
    leader: i32,
    pipeline: &mut Pipeline,
    stats: &mut Stats,
    out: &mut dyn Write,
) -> ToolResult {
    match pipeline.answers.recv_timeout(REQUEST_TIMEOUT) {
        Ok(Ok((time, frame))) => pipeline.settle(time, frame, stats, out),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => {
            let address = client.node(leader)?.address().to_owned();
            Err(ToolError::failed(format!(
                "{address}: no answer to Produce in time"
            )))
        }
    }
}

/// Kafka's figures.
#[derive(Debug)]
struct Stats {
    start: Instant,
    interval: Duration,
    sampling: u64,
    latencies: Vec<u32>,
    warmup: u64,
    seen: u64,
    total: Window,
    window: Window,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    start: Instant,
    count: u64,
    bytes: u64,
    latency_sum: u64,
    latency_max: u64,
}

impl Window {
    fn new(start: Instant) -> Self {
        Self {
            start,
            count: 0,
            bytes: 0,
            latency_sum: 0,
            latency_max: 0,
        }
    }

    fn add(&mut self, latency_ms: u64, bytes: usize) {
        self.count += 1;
        self.bytes += u64::try_from(bytes).unwrap_or(0);
        self.latency_sum += latency_ms;
        self.latency_max = self.latency_max.max(latency_ms);
    }

    /// Records and MiB a second, mean latency.
    #[expect(clippy::cast_precision_loss, reason = "figures for a person")]
    fn rates(&self, now: Instant) -> (f64, f64, f64) {
        let seconds = (now - self.start).as_secs_f64().max(0.001);
        let mean = self.latency_sum as f64 / self.count.max(1) as f64;
        (
            self.count as f64 / seconds,
            self.bytes as f64 / seconds / (1024.0 * 1024.0),
            mean,
        )
    }
}

impl Stats {
    fn new(count: u64, interval: Duration, warmup: u64) -> Self {
        let now = Instant::now();
        Self {
            start: now,
            interval,
            sampling: (count / count.clamp(1, SAMPLES_MAX)).max(1),
            latencies: Vec::new(),
            warmup,
            seen: 0,
            total: Window::new(now),
            window: Window::new(now),
        }
    }

    fn record_all(
        &mut self,
        records: &[(Instant, usize)],
        done: Instant,
        out: &mut dyn Write,
    ) -> ToolResult {
        for (sent, bytes) in records {
            self.seen += 1;
            if self.seen == self.warmup + 1 && self.warmup > 0 {
                self.start = done;
                self.total = Window::new(done);
                self.window = Window::new(done);
            }
            if self.seen <= self.warmup {
                continue;
            }
            let latency = u64::try_from((done.saturating_duration_since(*sent)).as_millis());
            let latency = latency.unwrap_or(u64::MAX);
            self.total.add(latency, *bytes);
            self.window.add(latency, *bytes);
            if self.seen.is_multiple_of(self.sampling) {
                self.latencies
                    .push(u32::try_from(latency).unwrap_or(u32::MAX));
            }
        }
        if done.saturating_duration_since(self.window.start) >= self.interval {
            let (records, mib, mean) = self.window.rates(done);
            writeln!(
                out,
                "{} records sent, {records:.1} records/sec ({mib:.2} MB/sec), {mean:.1} ms avg latency, {:.1} ms max latency.",
                self.window.count,
                millis(self.window.latency_max)
            )?;
            out.flush()?;
            self.window = Window::new(done);
        }
        Ok(())
    }

    fn print_total(&mut self, out: &mut dyn Write) -> ToolResult {
        let (records, mib, mean) = self.total.rates(Instant::now());
        self.latencies.sort_unstable();
        let percentile = |per_mille: usize| {
            let index = self.latencies.len() * per_mille / 1000;
            self.latencies
                .get(index)
                .or(self.latencies.last())
                .copied()
                .unwrap_or(0)
        };
        writeln!(
            out,
            "{} records sent, {records:.1} records/sec ({mib:.2} MB/sec), {mean:.2} ms avg latency, {:.2} ms max latency, {} ms 50th, {} ms 95th, {} ms 99th, {} ms 99.9th.",
            self.total.count,
            millis(self.total.latency_max),
            percentile(500),
            percentile(950),
            percentile(990),
            percentile(999),
        )?;
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for a person")]
fn millis(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_has_kafkas_form() {
        let mut stats = Stats::new(2, Duration::from_secs(5), 0);
        let sent = Instant::now();
        let done = sent + Duration::from_millis(10);
        let mut out = Vec::new();
        stats
            .record_all(&[(sent, 100), (sent, 100)], done, &mut out)
            .unwrap();
        stats.print_total(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("2 records sent, "), "{text}");
        assert!(
            text.ends_with("10.00 ms avg latency, 10.00 ms max latency, 10 ms 50th, 10 ms 95th, 10 ms 99th, 10 ms 99.9th.\n"),
            "{text}"
        );
    }

    #[test]
    fn the_error_of_an_answer_is_found() {
        let mut frame = vec![0, 0, 0, 1, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 0];
        frame.extend_from_slice(&[0, 6, 0, 0]);
        assert_eq!(answer_error(&Bytes::from(frame)), 6);
        assert_eq!(answer_error(&Bytes::new()), -1);
    }
}
