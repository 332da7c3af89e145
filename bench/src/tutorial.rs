//! The tutorial's loop, and what becomes of it when it grows: a thousand JSON messages, one a request, in
//! the formats of 0.10, then a consumer with a group that reads them all. One row a scale, target, driver.
//!
//! A row has two loops as they are written (produce all, then consume all; the first on a fresh broker)
//! and a live pass in which the group waits for the messages: end-to-end times come from that one. The
//! native driver repeats the thousand messages; literal clients (`drivers`) run beside it as they are.

mod drivers;
mod rows;

use std::rc::Rc;
use std::time::Instant;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cli::TutorialArgs;
use crate::client::Client;
use crate::consume::{self, Clock, Group, Plan};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::frames::{PRODUCE_KEY, PRODUCE_VERSION_MAX};
use crate::group::Age;
use crate::phase::{Counted, Limit, histogram};
use crate::produce::Producers;
use crate::progress::Progress;
use crate::records::{Keys, Values};
use crate::report::{Document, Latency, Summary, say};
use crate::resources::{Meter, Resources};
use crate::run::Broker;
use crate::side::Side;
use crate::transport::Transport;
use crate::verify::Content;
use crate::workload::Workload;

/// Of a client of 0.10.
const PRODUCE_VERSION: i16 = 2;
/// `max.in.flight.requests.per.connection` of Kafka's clients.
const IN_FLIGHT: usize = 5;
/// The broker's CPU time comes in ticks of 10 ms: less than ten of them are no number.
const CPU_S_MIN: f64 = 0.1;
/// Each has a topic of its own, which is there before its clock runs: for every driver.
const PASSES: [&str; 3] = ["first", "second", "live"];
/// Of a scale: a literal client keeps two times of each, and the native one every message.
const MESSAGES_MAX: u64 = 10_000_000;

/// Who runs the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Driver {
    /// This program.
    Native,
    /// kafka-python, as the tutorial has it.
    KafkaPython,
    /// Apache Kafka's own client.
    Java,
}

impl Driver {
    fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::KafkaPython => "kafka-python",
            Self::Java => "java",
        }
    }
}

/// The loop at a scale.
#[derive(Debug, Clone, Copy, Serialize)]
struct Shape {
    scale: u64,
    messages: u64,
    /// Each with one connection that produces, but for literal clients, which have one process.
    partitions: usize,
    /// Members of the group.
    consumers: usize,
}

impl Shape {
    fn new(scale: u64, loop_messages: u64) -> Self {
        let (partitions, consumers) = match scale {
            0..=1 => (1, 1),
            2..=10 => (4, 1),
            11..=100 => (8, 2),
            _ => (16, 4),
        };
        Self {
            scale,
            messages: scale * loop_messages,
            partitions,
            consumers,
        }
    }
}

/// A broker, and a name that no other row's topics and groups on it have.
struct Site {
    broker: Broker,
    name: String,
}

/// What one passage of the loop gave.
struct Pass {
    whole_s: f64,
    produce_s: f64,
    consume_s: f64,
    produce: Histogram<u64>,
    end_to_end: Histogram<u64>,
    /// What this program counted while it produced.
    counted: Option<(Counted, u64)>,
}

/// What a row tells.
#[derive(Debug, Serialize)]
struct Measured {
    /// Name and version of the client, and how it spoke.
    client: String,
    producers: usize,
    /// The whole loop on a fresh broker: connect, produce, join, read, commit, leave. The topic is there.
    first_loop_s: f64,
    /// Once more.
    second_loop_s: f64,
    /// Messages a second of the second loop, from the first send to the last acknowledgement.
    produced_per_s: f64,
    /// Messages a second of the second loop, from the consumer's connect to its leave.
    consumed_per_s: f64,
    /// Of the second loop: from the send to the acknowledgement, a closed loop.
    produce: Latency,
    /// Of the live pass: from the send to the receipt by the group.
    end_to_end: Latency,
    /// The broker's over the second loop, without the check; none below 0.1 s, which its clock cannot tell.
    broker_cpu_us_per_message: Option<f64>,
    /// Of the second loop; of a literal driver, the generator is its processes and this one.
    resources: Resources,
    /// All of them, in order, in every pass.
    verified: bool,
    /// What was produced in the second loop; only this program counts so much of itself.
    #[serde(skip)]
    produce_summary: Option<(Workload, Summary)>,
}

#[derive(Debug, Serialize)]
struct Row {
    target: String,
    driver: Driver,
    #[serde(flatten)]
    shape: Shape,
    command: String,
    failed: Option<String>,
    #[serde(flatten)]
    measured: Option<Measured>,
}

#[derive(Debug, Serialize)]
struct Body {
    io: &'static str,
    loop_messages: u64,
    seed: u64,
    rows: Vec<Row>,
}

/// Runs the loop at every scale, on every target, with every driver.
pub(crate) async fn tutorial<T: Transport>(args: &TutorialArgs) -> Result<(), Failure> {
    check_amounts(&args.scale, args.messages)?;
    let folder = args.output.claim()?;
    let environment = Environment::capture(&args.spawn_args.work_dir());
    let mut body = Body {
        io: T::NAME,
        loop_messages: args.messages,
        seed: args.seed,
        rows: Vec::new(),
    };
    say(&rows::head());
    for scale in &args.scale {
        for target in &args.target {
            for driver in &args.driver {
                let name = format!("{}-{}", std::process::id(), body.rows.len());
                let row = row::<T>(args, (target, *driver), *scale, name).await?;
                say(&rows::line(&row));
                body.rows.push(row);
            }
        }
    }
    let failed = body.rows.iter().filter_map(|row| {
        let reason = row.failed.as_ref()?;
        let (driver, target) = (row.driver.name(), &row.target);
        Some(format!(
            "x{} {driver} on {target}: {reason}",
            row.shape.scale
        ))
    });
    let failed: Vec<_> = failed.collect();
    if let Some(folder) = &folder {
        let text = rows::readme(&environment, &body, &failed);
        let (measurements, curves, table) = (body.measurements(), body.curves(), body.table());
        let charts = body.charts();
        let document = match &failed[..] {
            [] => Document::new("tutorial", environment, Vec::new(), body),
            failed => Document::failed("tutorial", environment, failed.join("; "), body),
        };
        let document = document.with_measurements(measurements).with_sweeps(curves);
        let document = document.with_tables(vec![table]).with_charts(charts);
        document.with_readme(text).write(folder)?;
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::Target(format!(
        "not measured: {}",
        failed.join("; ")
    )))
}

fn check_amounts(scales: &[u64], messages: u64) -> Result<(), Failure> {
    if scales.iter().any(|scale| !(1..=10_000).contains(scale)) {
        return Err(Failure::Usage("--scale must be 1 to 10000".to_owned()));
    }
    let largest = scales.iter().copied().max().unwrap_or(1);
    if messages == 0 || largest.saturating_mul(messages) > MESSAGES_MAX {
        return Err(Failure::Usage(format!(
            "--messages must be 1 to {} at scale {largest}: at most {MESSAGES_MAX} in all",
            MESSAGES_MAX / largest
        )));
    }
    Ok(())
}

/// A fresh broker and the loop on it. What fails is the row's, not the table's.
async fn row<T: Transport>(
    args: &TutorialArgs,
    (target, driver): (&Side, Driver),
    scale: u64,
    name: String,
) -> Result<Row, Failure> {
    let shape = Shape::new(scale, args.messages);
    let mut row = Row {
        target: target.to_string(),
        driver,
        shape,
        command: String::new(),
        failed: None,
        measured: None,
    };
    let started = target.start::<T>(args.durability, &args.spawn_args).await;
    let started = match started {
        Ok(started) => started,
        Err(failure) => {
            row.failed = Some(failure.to_string());
            return Ok(row);
        }
    };
    row.command.clone_from(&started.command);
    let broker = Broker {
        address: started.address,
        pid: started.pid,
    };
    let site = Site { broker, name };
    let progress = Progress::begin(driver.name());
    let measured = match driver {
        Driver::Native => native::<T>(args, &site, shape).await,
        literal => drivers::run::<T>(args, &site, literal, shape).await,
    };
    drop(progress);
    match measured {
        Ok(measured) => {
            row.measured = Some(measured);
            // What was measured is kept, but a broker that did not end well is told.
            row.failed = started.stop().err().map(|failure| failure.to_string());
        }
        Err(failure) => {
            let tail = started.log_tail();
            let errors = tail.lines().filter(|line| line.contains(" ERROR "));
            errors.for_each(say);
            row.failed = Some(failure.to_string());
        }
    }
    Ok(row)
}

async fn native<T: Transport>(
    args: &TutorialArgs,
    site: &Site,
    shape: Shape,
) -> Result<Measured, Failure> {
    let broker = site.broker;
    let mut control = Client::connect::<T>(broker.address).await?;
    let produce_version = control.version_or_oldest(PRODUCE_KEY, PRODUCE_VERSION);
    let produce_version = produce_version.min(PRODUCE_VERSION_MAX);
    let round = usize::try_from(args.messages).unwrap_or(usize::MAX);
    let workload = |name: &str| Workload {
        topic: format!("{name}-{}", site.name),
        partitions: shape.partitions,
        connections: shape.partitions,
        in_flight: IN_FLIGHT,
        acks: 1,
        values: Values::Json,
        keys: Keys::None,
        produce_version,
        round: Some(round.div_ceil(shape.partitions).max(2)),
        seed: args.seed,
        verify: !args.no_verify,
        ..Workload::default()
    };
    for name in PASSES {
        let topic = workload(name).topic;
        control.create_topic(&topic, shape.partitions).await?;
    }
    let (first, _) = loop_once::<T>(broker, &workload("first"), shape).await?;
    let (second, resources) = loop_once::<T>(broker, &workload("second"), shape).await?;
    let live = live::<T>(broker, &workload("live"), shape).await?;
    let client = format!(
        "native, Produce v{produce_version}, acks=1, one message a request, at most {IN_FLIGHT} in flight a \
         connection, connections: {}",
        shape.partitions
    );
    let summary = second.counted.as_ref().map(|(counted, bytes)| {
        let amounts = (shape.messages, *bytes);
        let mut summary = Summary::new(counted, amounts, false, resources.clone());
        summary.verified_records = (!args.no_verify).then_some(shape.messages);
        (workload("second"), summary)
    });
    let mut measured = measured(client, shape, (&first, &second, &live), resources);
    measured.produce_summary = summary;
    measured.producers = shape.partitions;
    measured.verified = !args.no_verify;
    Ok(measured)
}

fn measured(
    client: String,
    shape: Shape,
    (first, second, live): (&Pass, &Pass, &Pass),
    resources: Resources,
) -> Measured {
    let cpu_s = resources.broker.map(|broker| broker.cpu_s());
    let cpu_s = cpu_s.filter(|cpu_s| *cpu_s >= CPU_S_MIN);
    let messages = shape.messages as f64;
    Measured {
        client,
        producers: 1,
        first_loop_s: first.whole_s,
        second_loop_s: second.whole_s,
        produced_per_s: messages / second.produce_s,
        consumed_per_s: messages / second.consume_s,
        produce: Latency::of(&second.produce),
        end_to_end: Latency::of(&live.end_to_end),
        broker_cpu_us_per_message: cpu_s.map(|cpu_s| cpu_s * 1e6 / messages),
        resources,
        verified: true,
        produce_summary: None,
    }
}

fn limit(shape: Shape) -> Limit {
    Limit {
        duration: None,
        requests: Some(shape.messages),
    }
}

fn group<T: Transport>(
    producers: &Producers<T>,
    workload: &Workload,
    shape: Shape,
    clock: Clock,
) -> Rc<Group> {
    Group::new(Plan {
        topic: workload.topic.clone(),
        begin_offsets: producers.begin_offsets().to_vec(),
        group: format!("mine-{}", workload.topic),
        consumers: shape.consumers,
        age: Age::Old,
        fetch_bytes_max: workload.fetch_bytes_max,
        content: Some(Content::Records(producers.sent_records())),
        clock,
        writers: workload.connections,
    })
}

/// The loop as it is written, and what it used: the check afterwards is not the loop's.
async fn loop_once<T: Transport>(
    broker: Broker,
    workload: &Workload,
    shape: Shape,
) -> Result<(Pass, Resources), Failure> {
    let meter = Meter::start(broker.pid)?;
    let mut client = Client::connect::<T>(broker.address).await?;
    let mut producers = Producers::<T>::connect(&mut client, broker.address, workload).await?;
    let produced = producers.phase(limit(shape)).await?;
    let ends = producers.settled_ends(&mut client).await?;
    let consuming = Instant::now();
    let group = group(&producers, workload, shape, Clock::None);
    group.finish_at(ends);
    let consumers = consume::join::<T>(broker.address, &group).await?;
    consume::read(consumers).await?;
    let consume_s = consuming.elapsed().as_secs_f64();
    let resources = meter.stop()?;
    check(&mut client, &producers, workload, &group, shape).await?;
    let pass = Pass {
        whole_s: resources.machine.elapsed_s,
        produce_s: produced.elapsed.as_secs_f64(),
        consume_s,
        produce: produced.latency.clone(),
        end_to_end: histogram(),
        counted: Some((produced, producers.bytes())),
    };
    Ok((pass, resources))
}

/// The group waits for the messages while they are sent.
async fn live<T: Transport>(
    broker: Broker,
    workload: &Workload,
    shape: Shape,
) -> Result<Pass, Failure> {
    let began = Instant::now();
    let mut client = Client::connect::<T>(broker.address).await?;
    let mut producers = Producers::<T>::connect(&mut client, broker.address, workload).await?;
    let times = producers.note_times();
    let group = group(&producers, workload, shape, Clock::Noted(times));
    let consumers = consume::join::<T>(broker.address, &group).await?;
    let reading = tokio::task::spawn_local(consume::read(consumers));
    let produced = producers.phase(limit(shape)).await;
    let produced = produced.inspect_err(|_| group.stop())?;
    group.finish_at(producers.settled_ends(&mut client).await?);
    reading
        .await
        .expect("a task of the generator does not panic")?;
    let whole_s = began.elapsed().as_secs_f64();
    check(&mut client, &producers, workload, &group, shape).await?;
    Ok(Pass {
        whole_s,
        produce_s: produced.elapsed.as_secs_f64(),
        consume_s: whole_s,
        produce: produced.latency.clone(),
        end_to_end: group.take_end_to_end(),
        counted: Some((produced, producers.bytes())),
    })
}

/// The log and the group hold all that was sent, in order.
async fn check<T: Transport>(
    client: &mut Client<T::Connection>,
    producers: &Producers<T>,
    workload: &Workload,
    group: &Group,
    shape: Shape,
) -> Result<(), Failure> {
    if workload.verify {
        let verified = producers.verify_logs(client).await?;
        group.agrees(&verified)?;
        if (verified.records, group.received()) != (shape.messages, shape.messages) {
            let what = format!(
                "{} of {} messages are in the log, {} came",
                verified.records,
                shape.messages,
                group.received()
            );
            return Err(Failure::Protocol(what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_that_do_not_fit_are_refused_before_they_are_multiplied() {
        for (scales, messages) in [
            (&[1][..], 1 << 30),
            (&[1, 10_000], u64::MAX / 2),
            (&[10_000], 1001),
            (&[1], 0),
            (&[0], 1),
        ] {
            let refused = check_amounts(scales, messages).unwrap_err();
            assert_eq!(refused.exit_code(), 2, "{scales:?} {messages}: {refused}");
        }
        check_amounts(&[1, 10_000], 1000).unwrap();
    }

    #[test]
    fn a_scale_multiplies_messages_and_spreads_them() {
        let of = |scale| {
            let shape = Shape::new(scale, 1000);
            (shape.messages, shape.partitions, shape.consumers)
        };
        assert_eq!(of(1), (1000, 1, 1));
        assert_eq!(of(10), (10_000, 4, 1));
        assert_eq!(of(1000), (1_000_000, 16, 4));
    }
}
