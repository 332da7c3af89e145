//! One measured run of producing or fetching against one broker: warm up, measure, verify.

use std::net::SocketAddr;
use std::time::Duration;

use crate::client::Client;
use crate::failure::Failure;
use crate::fetch::{FetchPlan, fetch_all};
use crate::phase::{Counted, Limit};
use crate::produce::Producers;
use crate::report::Summary;
use crate::resources::Meter;
use crate::schedule::Pace;
use crate::transport::Transport;
use crate::workload::Workload;

/// A broker, as runs see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Broker {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Its process, to measure it.
    pub(crate) pid: Option<u32>,
}

/// A summary and why it may mean nothing.
#[derive(Debug)]
pub(crate) struct Run {
    /// The numbers.
    pub(crate) summary: Summary,
    /// Empty if they are valid.
    pub(crate) reasons: Vec<String>,
}

/// Produces: `warm_up` first, then what is measured, then the check of the log.
pub(crate) async fn produce<T: Transport>(
    broker: Broker,
    workload: &Workload,
    warm_up: Duration,
    limit: Limit,
) -> Result<Run, Failure> {
    let mut client = Client::connect::<T>(broker.address).await?;
    let mut producers = Producers::<T>::connect(&mut client, broker.address, workload).await?;
    let mut warmed_up = None;
    if !warm_up.is_zero() {
        let limit = Limit {
            duration: Some(warm_up),
            requests: limit.requests,
        };
        warmed_up = Some(producers.phase(limit).await?);
    }
    let bytes_before = producers.bytes();
    let meter = Meter::start(broker.pid)?;
    let counted = match producers.phase(limit).await {
        Ok(counted) => counted,
        Err(failure) => {
            let measured = (meter, bytes_before);
            return Err(partial(&mut producers, workload, measured, failure));
        }
    };
    let resources = meter.stop()?;
    let amounts = (
        counted.requests * workload.records_per_batch as u64,
        producers.bytes() - bytes_before,
    );
    let open_loop = workload.pace != Pace::Closed;
    let mut summary = Summary::new(&counted, amounts, open_loop, resources);
    if let Some(warmed_up) = &warmed_up {
        summary = summary.with_warm_up(warmed_up);
    }
    if workload.verify {
        summary.verified_records = Some(producers.verify(&mut client).await?);
    }
    let reasons = summary.reasons(&counted);
    Ok(Run { summary, reasons })
}

/// A failure with what was counted before it, since the meter ran and `bytes_before` had been sent.
pub(crate) fn partial<T: Transport>(
    producers: &mut Producers<T>,
    workload: &Workload,
    (meter, bytes_before): (Meter, u64),
    failure: Failure,
) -> Failure {
    // The broker may be gone, so that only this side can still be read.
    let (Some(counted), Ok(resources)) = (producers.take_partial(), meter.without_broker().stop())
    else {
        return failure;
    };
    let records = counted.requests * workload.records_per_batch as u64;
    let share = counted.requests as f64 / counted.lag.len().max(1) as f64;
    let sent = producers.bytes() - bytes_before;
    let bytes = (sent as f64 * share.min(1.0)) as u64;
    let open_loop = workload.pace != Pace::Closed;
    let summary = Summary::new(&counted, (records, bytes), open_loop, resources);
    Failure::Partial {
        failure: Box::new(failure),
        summary: Box::new(summary),
    }
}

/// Fills a topic with `fill_bytes`, then reads it `passes` times while it is in the page cache.
pub(crate) async fn fetch<T: Transport>(
    broker: Broker,
    workload: &Workload,
    fill_bytes: u64,
    passes: usize,
) -> Result<Run, Failure> {
    let mut client = Client::connect::<T>(broker.address).await?;
    let filler = Workload {
        connections: workload.partitions,
        in_flight: 4,
        ..workload.clone()
    };
    let mut producers = Producers::<T>::connect(&mut client, broker.address, &filler).await?;
    let topic = &workload.topic;
    let begins = client.log_end_offsets(topic, workload.partitions).await?;
    let requests = fill_bytes.div_ceil(producers.batch_bytes().max(1) as u64);
    let limit = Limit {
        duration: None,
        requests: Some(requests),
    };
    producers.phase(limit).await?;
    // This reading is also the warm-up: it brings the broker's fetch path and the page cache up.
    let verified = if workload.verify {
        Some(producers.verify(&mut client).await?)
    } else {
        None
    };
    let ends = client.log_end_offsets(topic, workload.partitions).await?;
    let ranges: Vec<_> = begins.into_iter().zip(ends).collect();
    let plan = |passes| FetchPlan {
        topic: topic.clone(),
        ranges: ranges.clone(),
        connections: workload.connections,
        bytes_max: workload.fetch_bytes_max,
        passes,
        content: workload.verify.then(|| producers.content()),
        writers: filler.connections,
    };
    fetch_all::<T>(broker.address, plan(1)).await?;

    let expected = expected_records(&ranges, workload.connections, passes);
    let meter = Meter::start(broker.pid)?;
    let fetched = fetch_all::<T>(broker.address, plan(passes)).await?;
    let resources = meter.stop()?;
    if fetched.records != expected {
        let what = format!("{} of {expected} records were fetched", fetched.records);
        return Err(Failure::Protocol(what));
    }
    let amounts = (fetched.records, fetched.batch_bytes);
    let counted: &Counted = &fetched.counted;
    let mut summary = Summary::new(counted, amounts, false, resources);
    summary.verified_records = verified.map(|_| fetched.records);
    let reasons = summary.reasons(counted);
    Ok(Run { summary, reasons })
}

fn expected_records(ranges: &[(i64, i64)], connections: usize, passes: usize) -> u64 {
    let of = |connection: usize| {
        let (begin, end) = ranges[connection % ranges.len()];
        u64::try_from(end - begin).unwrap_or_default()
    };
    (0..connections).map(of).sum::<u64>() * passes as u64
}
