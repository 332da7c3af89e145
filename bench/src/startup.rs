//! From the start of the process to the first acknowledged produce, and what it takes idle after it:
//! memory and wake-ups.

use std::time::{Duration, Instant};

use crate::client::Inbox;
use crate::client::{Client, accept, is_retriable};
use crate::failure::Failure;
use crate::frames::{PRODUCE_VERSION, parse_produce, produce_frame};
use crate::resources::{resident_bytes, sleeps};
use crate::target::{Target, pause};
use crate::transport::{Connection, Transport};
use crate::workload::{Workload, build_pools};

/// Until a broker that was started answers.
const PATIENCE: Duration = Duration::from_secs(60);
/// The idle second after the first produce.
const IDLE: Duration = Duration::from_secs(1);
/// After it, until what a start leaves behind is done, and how long wake-ups are counted then.
const REST: Duration = Duration::from_secs(2);
const COUNTED: Duration = Duration::from_secs(10);

/// One start.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Start {
    /// From the spawn to the acknowledgement of one record, acks=all, in a topic made for it.
    pub(crate) first_produce_ms: f64,
    /// One second later.
    pub(crate) idle_resident_mib: f64,
    /// Two seconds later, for ten seconds, of all threads.
    pub(crate) idle_wake_ups_per_s: f64,
}

/// Waits for the first acknowledged produce of a broker that was just spawned.
pub(crate) async fn measure<T: Transport>(target: &Target) -> Result<Start, Failure> {
    first_answer::<T>(target).await?;
    idle(target).await
}

/// Waits until a broker that was just spawned acknowledges a produce.
pub(crate) async fn first_answer<T: Transport>(target: &Target) -> Result<(), Failure> {
    loop {
        match first_produce::<T>(target).await {
            Ok(()) => return Ok(()),
            Err(error) if target.spawned.elapsed() > PATIENCE => return Err(error),
            // It does not listen yet, or its first topic has no leader yet.
            Err(Failure::System { .. } | Failure::Closed { .. }) => {}
            Err(Failure::Answer { code, .. }) if is_retriable(code) => {}
            Err(error) => return Err(error),
        }
        pause().await;
    }
}

async fn idle(target: &Target) -> Result<Start, Failure> {
    let first_produce_ms = Instant::now()
        .saturating_duration_since(target.spawned)
        .as_secs_f64()
        * 1e3;
    tokio::time::sleep(IDLE).await;
    let pid = target
        .pid
        .ok_or_else(|| Failure::Usage("--pid is needed".to_owned()))?;
    let idle_resident_mib = resident_bytes(pid)? as f64 / f64::from(1 << 20);
    tokio::time::sleep(REST).await;
    let (before, began) = (sleeps(pid)?, Instant::now());
    tokio::time::sleep(COUNTED).await;
    let (after, elapsed) = (sleeps(pid)?, began.elapsed());
    // A thread that ended meanwhile is not counted, one that began is, from its beginning.
    let of_thread =
        |(thread, count): (&String, &u64)| count - before.get(thread).copied().unwrap_or(0);
    let wake_ups: u64 = after.iter().map(of_thread).sum();
    Ok(Start {
        first_produce_ms,
        idle_resident_mib,
        idle_wake_ups_per_s: wake_ups as f64 / elapsed.as_secs_f64(),
    })
}

async fn first_produce<T: Transport>(target: &Target) -> Result<(), Failure> {
    const TOPIC: &str = "startup";
    let mut client = Client::connect::<T>(target.address).await?;
    client.create_topic(TOPIC, 1).await?;
    let workload = Workload {
        record_bytes: 100,
        ..Workload::default()
    };
    let pools = build_pools(&workload, 1)?;
    let frame = produce_frame(PRODUCE_VERSION, (TOPIC, 0), -1, &pools[0][0]);
    let connection = T::connect(target.address).await;
    let connection = connection.map_err(Failure::system("connecting"))?;
    let (written, _) = connection.write_all(frame).await;
    written.map_err(Failure::system("writing to the broker"))?;
    let mut inbox = Inbox::new(4096);
    let Some(answer) = inbox.next(&connection).await? else {
        return Err(Failure::Closed {
            connection: "startup".to_owned(),
            in_flight: 1,
        });
    };
    accept("Produce", parse_produce(inbox.bytes(answer))?.error_code)
}
