//! Where the time of sampled requests went: the stages sum to the whole, and tell what was waited for.

use std::process::{Command, Stdio};
use std::time::Duration;

use kafka_protocol::messages::{FetchRequest, ProduceRequest};
use ringlog_tests::broker::{
    Broker, Directory, Options, binary, foreign, refused_start, serve, wait_for,
};
use ringlog_tests::call::{Fetch, create_topic, fetch_all, produce, produce_request};
use ringlog_tests::records::Batch;
use ringlog_tests::wire::{self, Client};

use super::metrics::ask;

const PRODUCE: [&str; 6] = ["receive", "queue", "hop", "append", "journal", "reply"];
const FETCH: [&str; 6] = ["receive", "queue", "hop", "wait", "read", "reply"];
const KEY: &str = "ringlog.trace.sample.every";

/// A broker that samples one of so many requests; `None` if another broker is tested.
fn sampling(every: u32, cores: &str, durability: &str) -> Option<Broker> {
    let mut options = Options::default().set(KEY, every);
    for argument in [
        "--http",
        "127.0.0.1:0",
        "--cores",
        cores,
        "--durability",
        durability,
    ] {
        options = options.argument(argument);
    }
    Broker::own(options)
}

/// What `/metrics` says of the stages of an API, in nanoseconds, over all shards.
#[derive(Debug)]
struct Times {
    page: String,
    request: &'static str,
}

impl Times {
    fn of(broker: &Broker, request: &'static str) -> Self {
        let page = ask(broker.http(), "GET /metrics");
        assert!(page.starts_with("HTTP/1.1 200"), "{page}");
        Self { page, request }
    }

    /// The samples of a family that have all these labels.
    fn sum(&self, family: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let request = format!("request=\"{}\"", self.request);
        let mut found = self.page.lines().filter_map(|line| {
            let (labelled, value) = line
                .strip_prefix(family)?
                .strip_prefix('{')?
                .split_once("} ")?;
            let has = |label: &str| labelled.split(',').any(|found| found == label);
            let mut labels = labels.iter();
            let is_meant =
                has(&request) && labels.all(|(name, of)| has(&format!("{name}=\"{of}\"")));
            is_meant.then(|| value.parse::<f64>().expect("a number"))
        });
        let first = found.next()?;
        Some(first + found.sum::<f64>())
    }

    fn samples(&self) -> u64 {
        let count = self.sum("ringlog_request_sampled_seconds_count", &[]);
        count.unwrap_or(0.0) as u64
    }

    fn whole(&self) -> u64 {
        nanos(self.sum("ringlog_request_sampled_seconds_sum", &[]))
    }

    fn stage(&self, stage: &str) -> u64 {
        let labels = [("stage", stage)];
        nanos(self.sum("ringlog_request_stage_seconds_sum", &labels))
    }

    /// The sum over the stages is the whole: of all samples together, and of each of the slowest.
    fn check(&self, stages: &[&str]) {
        let sum: u64 = stages.iter().map(|stage| self.stage(stage)).sum();
        assert_eq!(sum, self.whole(), "{self:?}");
        let slowest = "ringlog_request_slowest_seconds";
        let mut checked = 0;
        for (shard, rank) in (0..2).flat_map(|shard| (0..20).map(move |rank| (shard, rank))) {
            let (shard, rank) = (shard.to_string(), rank.to_string());
            let of = |stage| {
                let labels = [("shard", &*shard), ("rank", &*rank), ("stage", stage)];
                self.sum(slowest, &labels)
            };
            if let Some(whole) = of("whole") {
                let sum: u64 = stages.iter().map(|stage| nanos(of(stage))).sum();
                assert_eq!(sum, nanos(Some(whole)), "rank {rank}: {self:?}");
                checked += 1;
            }
        }
        assert!(checked > 0 && self.whole() > 0, "{self:?}");
    }
}

fn nanos(seconds: Option<f64>) -> u64 {
    (seconds.unwrap_or(0.0) * 1e9).round() as u64
}

fn produce_some(client: &mut Client, topic: &str, partition: i32) {
    for number in 0..5 {
        let batch = Batch::of(&[number.to_string()]).encode();
        let answer = produce(client, 9, topic, partition, batch);
        assert_eq!(answer.error_code, 0, "{answer:?}");
    }
}

#[test]
fn stages_sum_to_the_whole_and_those_that_a_request_does_not_have_take_no_time() {
    for durability in ["durable", "page-cache"] {
        for cores in ["1", "2"] {
            let Some(broker) = sampling(1, cores, durability) else {
                return;
            };
            let mut client = Client::connect(broker.address());
            create_topic(&mut client, "explained", 2, &[]);
            assert_eq!(Times::of(&broker, "Produce").samples(), 0);
            produce_some(&mut client, "explained", 0);
            let first = Times::of(&broker, "Produce");
            produce_some(&mut client, "explained", 1);
            let both = Times::of(&broker, "Produce");
            assert_eq!((first.samples(), both.samples()), (5, 10));
            first.check(&PRODUCE);
            both.check(&PRODUCE);
            // Neighbours live on neighbouring shards: with two of them one is where the connection is not.
            let hops = [first.stage("hop"), both.stage("hop") - first.stage("hop")];
            let travelled = hops.iter().filter(|hop| **hop > 0).count();
            assert_eq!(travelled, usize::from(cores == "2"), "{hops:?} {both:?}");
            let waited = both.stage("journal") > 0;
            assert_eq!(waited, durability == "durable", "{both:?}");
            for stage in ["queue", "append", "reply"] {
                assert!(both.stage(stage) > 0, "{stage}: {both:?}");
            }
            for partition in 0..2 {
                assert_eq!(fetch_all(&mut client, "explained", partition).len(), 5);
            }
            let fetched = Times::of(&broker, "Fetch");
            fetched.check(&FETCH);
            assert_eq!(fetched.stage("hop") > 0, cores == "2", "{fetched:?}");
            assert_eq!(fetched.stage("wait"), 0, "{fetched:?}");
            assert!(fetched.stage("read") > 0, "{fetched:?}");
        }
    }
}

#[test]
fn a_fetch_that_was_parked_waited_and_a_frame_in_pieces_was_received() {
    let Some(broker) = sampling(1, "1", "durable") else {
        return;
    };
    let mut client = Client::connect(broker.address());
    let id = create_topic(&mut client, "slow", 1, &[]);
    let mut fetch = Fetch::of("slow", id, 0);
    (fetch.max_wait_ms, fetch.min_bytes) = (20, 1);
    fetch.call(&mut client, 12);
    let fetched = Times::of(&broker, "Fetch");
    fetched.check(&FETCH);
    assert!(fetched.stage("wait") > 0, "{fetched:?}");

    produce_some(&mut client, "slow", 0);
    let whole = Times::of(&broker, "Produce");
    assert_eq!(whole.stage("receive"), 0, "{whole:?}");
    let request = produce_request("slow", 0, -1, Batch::of(&["in pieces"]).encode());
    let correlation_id = client.correlation_id();
    let frame = wire::frame(correlation_id, 9, &request);
    let (begin, end) = frame.split_at(frame.len() / 2);
    client.write(begin).unwrap();
    // Another client's answers come from later turns of the shard.
    let mut other = Client::connect(broker.address());
    for _ in 0..3 {
        fetch_all(&mut other, "slow", 0);
    }
    client.write(end).unwrap();
    client.receive::<ProduceRequest>(9, correlation_id);
    let pieces = Times::of(&broker, "Produce");
    pieces.check(&PRODUCE);
    assert!(pieces.stage("receive") > 0, "{pieces:?}");
}

#[test]
fn an_answer_behind_a_long_poll_waits_in_its_reply_not_for_the_journal() {
    let Some(broker) = sampling(1, "1", "durable") else {
        return;
    };
    let mut client = Client::connect(broker.address());
    let id = create_topic(&mut client, "behind", 2, &[]);
    let mut fetch = Fetch::of("behind", id, 0);
    (fetch.max_wait_ms, fetch.min_bytes) = (300, 1);
    // Again if a group of the journal took that long.
    wait_for(
        "a reply longer than a group",
        Duration::from_secs(60),
        || {
            let before = Times::of(&broker, "Produce");
            let (poll, append) = (client.correlation_id(), client.correlation_id());
            let request = produce_request("behind", 1, -1, Batch::of(&["x"]).encode());
            let mut bytes = wire::frame(poll, 12, &fetch.request(12));
            bytes.extend(wire::frame(append, 9, &request));
            client.write(&bytes).unwrap();
            client.receive::<FetchRequest>(12, poll);
            client.receive::<ProduceRequest>(9, append);
            let after = Times::of(&broker, "Produce");
            after.check(&PRODUCE);
            let took = |stage: &str| after.stage(stage) - before.stage(stage);
            (took("reply") > took("journal")).then_some(())
        },
    );
}

#[test]
fn nothing_is_sampled_if_it_is_off_and_some_are_by_default() {
    let Some(broker) = sampling(0, "1", "page-cache") else {
        return;
    };
    let mut client = Client::connect(broker.address());
    create_topic(&mut client, "unseen", 1, &[]);
    produce_some(&mut client, "unseen", 0);
    let times = Times::of(&broker, "Produce");
    assert!(!times.page.contains("ringlog_request_stage_seconds_sum{"));
    let options = Options::default()
        .argument("--http")
        .argument("127.0.0.1:0");
    let Some(broker) = Broker::own(options.argument("--cores").argument("1")) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    create_topic(&mut client, "seen", 1, &[]);
    for _ in 0..120 {
        produce_some(&mut client, "seen", 0);
    }
    let times = Times::of(&broker, "Produce");
    // No two samples are further apart than twice the average.
    assert!((2..60).contains(&times.samples()), "{times:?}");
    times.check(&PRODUCE);
}

#[test]
fn top_shows_the_stages_and_the_slowest_request() {
    let Some(broker) = sampling(1, "1", "durable") else {
        return;
    };
    let mut client = Client::connect(broker.address());
    create_topic(&mut client, "shown", 1, &[]);
    let mut top = Command::new(binary())
        .args(["top", &broker.http().to_string()])
        .args(["-n", "1", "--interval", "0.5"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("ringlog top runs");
    while top.try_wait().expect("a child").is_none() {
        produce_some(&mut client, "shown", 0);
    }
    let output = top.wait_with_output().expect("it has ended");
    let text = String::from_utf8_lossy(&output.stdout);
    for part in PRODUCE
        .iter()
        .chain(&["STAGE", "whole", "100.0 %", "slowest since"])
    {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
}

#[test]
fn a_count_that_is_none_is_refused_at_the_start() {
    if foreign().is_some() {
        return;
    }
    for value in ["-1", "often", "4294967296"] {
        let home = Directory::new();
        let options = Options::default().set(KEY, value);
        let command = serve("127.0.0.1:0", &home.path().join("data"), &options);
        let (code, text) = refused_start(command);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(KEY) && text.contains(value), "{text}");
    }
}
