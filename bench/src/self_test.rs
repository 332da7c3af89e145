//! Whether this generator tells the truth: a broker is stopped for known times (SIGSTOP, SIGCONT) while
//! it is loaded by a schedule, and the percentiles that were measured are held against computed ones.
//!
//! A request that is due during the stop waits until its end, and nothing else is slow; so with the
//! times of the stop the whole distribution is known. A closed loop under the same stops is shown
//! beside it: it sends nothing while it waits, so that a stop of a second is one slow request to it.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use crate::cli::SelfTestArgs;
use crate::client::Client;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::phase::{Counted, Limit, histogram};
use crate::produce::Producers;
use crate::report::{Document, LAG_P99_NS_MAX, say};
use crate::schedule::{Arrival, Pace, Schedule};
use crate::startup;
use crate::table::{Cell, Table};
use crate::target::{Durability, Kind, Target};
use crate::transport::Transport;
use crate::workload::Workload;

/// What is compared.
const QUANTILES: [f64; 6] = [0.5, 0.9, 0.95, 0.99, 0.999, 1.0];
/// A measured percentile may differ by this share of the computed one,
const ERROR_SHARE: f64 = 0.02;
/// or by this much.
const ERROR_NS: u64 = 100_000;
/// Stops of the broker, one each second of load.
const STOPS_MS: [u64; 3] = [100, 200, 400];
const LOAD: Duration = Duration::from_secs(4);
/// Low enough that what is sent during a stop fits into the socket: a full one would delay the sends.
const RATE: f64 = 200.0;

/// A stop of the broker, from the begin of the load.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stop {
    from: Duration,
    to: Duration,
}

/// One percentile.
#[derive(Debug, Clone, Copy, Serialize)]
struct Row {
    quantile: f64,
    computed_us: f64,
    measured_us: f64,
    closed_loop_us: f64,
    within: bool,
}

#[derive(Debug, Serialize)]
struct Body {
    io: &'static str,
    target: String,
    rate: f64,
    stops_ms: Vec<(f64, f64)>,
    undisturbed_p50_us: f64,
    rows: Vec<Row>,
}

/// Runs the load twice, by schedule and in a closed loop, under the same stops.
pub(crate) async fn self_test<T: Transport>(args: &SelfTestArgs) -> Result<(), Failure> {
    let folder = args.output.claim()?;
    let environment = Environment::capture(&args.spawn_args.work_dir());
    let target = Target::spawn(Kind::Ringlog, Durability::PageCache, &args.spawn_args).await?;
    startup::first_answer::<T>(&target).await?;
    let schedule = Pace::Open {
        rate: RATE,
        arrival: Arrival::Fixed,
    };
    let (open, stops, undisturbed) = load::<T>(&target, schedule).await?;
    let (closed, ..) = load::<T>(&target, Pace::Closed).await?;
    let command = target.command.clone();
    target.stop()?;

    let base_ns = undisturbed.latency.value_at_quantile(0.5);
    let computed = computed(&stops, schedule, open.requests, base_ns);
    let rows = QUANTILES.map(|quantile| {
        let at = |histogram: &Histogram<u64>| histogram.value_at_quantile(quantile);
        row(
            quantile,
            at(&computed),
            at(&open.latency),
            at(&closed.latency),
        )
    });
    let us = |nanoseconds: u64| nanoseconds as f64 / 1e3;
    let lag = open.lag.value_at_quantile(0.99);
    let mut reasons = Vec::new();
    if lag > LAG_P99_NS_MAX {
        reasons.push(format!(
            "the generator itself lagged {:.0} us at p99",
            us(lag)
        ));
    }
    let wrong = rows.iter().filter(|row| !row.within).count();
    if wrong > 0 {
        reasons.push(format!(
            "{wrong} of {} percentiles differ by more than 2 % and 100 us",
            rows.len()
        ));
    }
    let body = Body {
        io: T::NAME,
        target: command,
        rate: RATE,
        stops_ms: stops
            .iter()
            .map(|stop| (ms(stop.from), ms(stop.to)))
            .collect(),
        undisturbed_p50_us: us(base_ns),
        rows: rows.to_vec(),
    };
    tell(&body);
    if let Some(folder) = &folder {
        let table = table(&body);
        Document::new("self-test", environment, reasons.clone(), body)
            .with_tables(vec![table])
            .write(folder)?;
    }
    if reasons.is_empty() {
        say("self-test passed: what was measured is what was done");
        return Ok(());
    }
    Err(Failure::Target(format!(
        "self-test failed: {} (on a busy machine: chrt -r 5)",
        reasons.join("; ")
    )))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn table(body: &Body) -> Table {
    let columns = [
        "quantile",
        "computed, us",
        "measured, us",
        "error, %",
        "a closed loop says, us",
        "verdict",
    ];
    let row = |row: &Row| {
        vec![
            Cell::from(row.quantile.to_string().as_str()),
            Cell::from(row.computed_us),
            Cell::from(row.measured_us),
            Cell::from((row.measured_us / row.computed_us - 1.0) * 100.0),
            Cell::from(row.closed_loop_us),
            Cell::from(if row.within { "right" } else { "WRONG" }),
        ]
    };
    Table {
        title: "What was done and what was measured".to_owned(),
        columns: columns.map(str::to_owned).to_vec(),
        rows: body.rows.iter().map(row).collect(),
        notes: vec![
            "right: within 2 % or 100 us of what the times of the stops make it".to_owned(),
        ],
    }
}

fn tell(body: &Body) {
    let stops = body.stops_ms.iter();
    let stops: Vec<_> = stops
        .map(|(from, to)| format!("{:.1} ms", to - from))
        .collect();
    say(&format!(
        "{} requests/s for {} s; the broker was stopped for {}; undisturbed p50 {:.0} us",
        body.rate,
        LOAD.as_secs(),
        stops.join(", "),
        body.undisturbed_p50_us
    ));
    say("quantile    computed us    measured us      error     a closed loop says us");
    for row in &body.rows {
        say(&format!(
            "{:>8} {:>14.0} {:>14.0} {:>+9.2} % {:>25.0}  {}",
            row.quantile,
            row.computed_us,
            row.measured_us,
            (row.measured_us / row.computed_us - 1.0) * 100.0,
            row.closed_loop_us,
            if row.within { "" } else { "WRONG" }
        ));
    }
}

fn row(quantile: f64, computed: u64, measured: u64, closed_loop: u64) -> Row {
    let allowed = ERROR_NS.max((computed as f64 * ERROR_SHARE) as u64);
    Row {
        quantile,
        computed_us: computed as f64 / 1e3,
        measured_us: measured as f64 / 1e3,
        closed_loop_us: closed_loop as f64 / 1e3,
        within: computed.abs_diff(measured) <= allowed,
    }
}

/// An undisturbed second, then the load with the stops.
async fn load<T: Transport>(
    target: &Target,
    pace: Pace,
) -> Result<(Counted, Vec<Stop>, Counted), Failure> {
    let mut client = Client::connect::<T>(target.address).await?;
    let workload = Workload {
        topic: match pace {
            Pace::Open { .. } => "self-test-open".to_owned(),
            Pace::Closed => "self-test-closed".to_owned(),
        },
        // By a schedule nothing may wait for room; a closed loop is one request at a time.
        in_flight: if pace == Pace::Closed { 1 } else { 5000 },
        record_bytes: 100,
        pace,
        ..Workload::default()
    };
    let mut producers = Producers::<T>::connect(&mut client, target.address, &workload).await?;
    let limit = |duration| Limit {
        duration: Some(duration),
        requests: None,
    };
    let undisturbed = producers.phase(limit(Duration::from_secs(1))).await?;
    let begin = Instant::now();
    let phase = producers.phase(limit(LOAD));
    let (counted, stops) = tokio::join!(phase, stop_and_go(target, begin));
    let (counted, stops) = (counted?, stops?);
    producers.verify(&mut client).await?;
    Ok((counted, stops, undisturbed))
}

async fn stop_and_go(target: &Target, begin: Instant) -> Result<Vec<Stop>, Failure> {
    let pid = target.pid.and_then(|pid| i32::try_from(pid).ok());
    let pid = pid.and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Failure::Target("the broker has no process".to_owned()))?;
    let signal = |signal| {
        let sent = kill_process(pid, signal);
        sent.map_err(|error| Failure::system("stopping the broker")(error.into()))?;
        Ok::<_, Failure>(begin.elapsed())
    };
    let mut stops = Vec::new();
    for (number, stop_ms) in (0..).zip(STOPS_MS) {
        let due = begin + Duration::from_millis(300 + 1000 * number);
        tokio::time::sleep(due.saturating_duration_since(Instant::now())).await;
        let from = signal(Signal::STOP)?;
        tokio::time::sleep(Duration::from_millis(stop_ms)).await;
        let to = signal(Signal::CONT)?;
        stops.push(Stop { from, to });
    }
    Ok(stops)
}

/// The latencies of `requests` due by the schedule: those that are due in a stop wait for its end.
fn computed(stops: &[Stop], pace: Pace, requests: u64, base_ns: u64) -> Histogram<u64> {
    let mut schedule = Schedule::new(pace, 0, 1, 0);
    let mut latencies = histogram();
    for _ in 0..requests {
        let due = schedule.intended().unwrap_or_default();
        schedule.advance();
        let stop = stops.iter().find(|stop| stop.from <= due && due < stop.to);
        let waits = stop.map_or(Duration::ZERO, |stop| stop.to - due);
        let waits_ns = u64::try_from(waits.as_nanos()).unwrap_or(u64::MAX);
        latencies.saturating_record(waits_ns.saturating_add(base_ns));
    }
    latencies
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace::Open {
        rate: 1000.0,
        arrival: Arrival::Fixed,
    };

    #[test]
    fn a_stop_of_a_tenth_of_the_time_is_the_upper_tenth_of_the_latencies() {
        let stop = Stop {
            from: Duration::from_millis(300),
            to: Duration::from_millis(400),
        };
        let latencies = computed(&[stop], PACE, 1000, 50_000);
        let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e6;
        assert!((at(0.89) - 0.05).abs() < 0.001, "{}", at(0.89));
        assert!((at(0.95) - 50.05).abs() < 1.1, "{}", at(0.95));
        assert!((at(1.0) - 100.05).abs() < 0.2, "{}", at(1.0));
    }

    #[test]
    fn an_error_of_more_than_2_per_cent_and_100_us_is_wrong() {
        let within = |computed, measured| row(0.5, computed, measured, 0).within;
        assert!(within(50_000, 149_000) && !within(50_000, 151_000));
        assert!(within(100_000_000, 101_900_000) && !within(100_000_000, 102_100_000));
        assert!(!within(100_000_000, 97_900_000));
    }
}
