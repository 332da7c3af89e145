//! What a broker is loaded with under the gate: one scene for each hot path that a whole broker has.
//!
//! | row of the reach | scene |
//! |---|---|
//! | requests of one record | `produce 1 record`, both promises |
//! | batches of 16 KiB, of 256 KiB and of 1 MiB | `produce 16 KiB`, `256 KiB`, `1 MiB` |
//! | many partitions and connections | `produce 1 record on 64 connections`, and on 1000, each to a partition |
//! | checkpoints under load | `produce 16 KiB, durable, with checkpoints` |
//! | hot fetches, small ones, wake-ups | `fetch 64 KiB`, `fetch 1 record` (in `broker`), `wake a fetch` |
//! | 1 to 2 shards | `produce 1 record, a hop for every other` |
//!
//! Requests are counted, not timed, and there is one in flight on each connection.

use std::time::Duration;

use super::broker::broker;
use crate::client::{Client, Inbox, accept};
use crate::failure::Failure;
use crate::frames::set_correlation_id;
use crate::frames::{FetchFrame, PRODUCE_VERSION, parse_fetch, parse_produce, produce_frame};
use crate::phase::Limit;
use crate::run;
use crate::target::{Durability, SpawnArgs, Target};
use crate::transport::{Connection, Transport};
use crate::workload::{Workload, build_pools, records_that_fit};

/// Every entry of a broker begins with it.
pub(super) const NAME_PREFIX: &str = "broker: ";

/// How a broker is loaded.
#[derive(Clone, Copy)]
enum Load {
    /// So many connections, each to a partition of its own.
    Produce(usize),
    /// One connection, to two partitions in turn: one of them lives on the other of two shards.
    Hop,
    /// A fetch that waits at the end of a log, and an append that ends its waiting.
    WakeUp,
}

/// What is sent so often.
#[derive(Clone, Copy)]
pub(super) struct Scene {
    /// As it stands in the baseline.
    pub(super) name: &'static str,
    /// The broker's promise.
    pub(super) durability: Durability,
    /// Settings of the broker.
    settings: &'static [&'static str],
    record_bytes: usize,
    batch_bytes: usize,
    load: Load,
    /// Requests of the shorter run; the longer one has three times as many.
    pub(super) requests: u64,
    /// How far its instructions may go, as a share: several times what repeats differ by.
    pub(super) limit: f64,
    /// Whether what it asks of the kernel repeats: not where it goes by how many bytes or connections a
    /// turn finds, or by whether a shard sleeps.
    pub(super) asks_the_same: bool,
}

/// Records of 100 bytes, one to a batch.
const fn of_one_record(name: &'static str, load: Load, requests: u64) -> Scene {
    Scene {
        name,
        durability: Durability::PageCache,
        settings: &[],
        record_bytes: 100,
        batch_bytes: 1,
        load,
        requests,
        limit: 0.03,
        asks_the_same: matches!(load, Load::Produce(1) | Load::WakeUp),
    }
}

/// Records of 1 KiB in batches.
const fn of_batches(name: &'static str, durability: Durability, batch_bytes: usize) -> Scene {
    Scene {
        name,
        durability,
        settings: &[],
        record_bytes: 1024,
        batch_bytes,
        load: Load::Produce(1),
        requests: if batch_bytes > 16 << 10 { 100 } else { 500 },
        // Larger ones come in as many pieces as the socket happens to hold.
        limit: if batch_bytes > 16 << 10 { 0.05 } else { 0.03 },
        asks_the_same: batch_bytes <= 16 << 10,
    }
}

/// One record a request.
pub(super) const ONE_RECORD: Scene = of_one_record(
    "broker: produce 1 record, page-cache",
    Load::Produce(1),
    1000,
);
/// Batches of 16 KiB.
pub(super) const BATCHES: Scene = of_batches(
    "broker: produce 16 KiB, page-cache",
    Durability::PageCache,
    16 << 10,
);

/// All of them.
pub(super) const SCENES: [Scene; 11] = [
    ONE_RECORD,
    Scene {
        durability: Durability::Durable,
        ..of_one_record("broker: produce 1 record, durable", Load::Produce(1), 300)
    },
    BATCHES,
    Scene {
        requests: 200,
        limit: 0.05,
        ..of_batches(
            "broker: produce 16 KiB, durable",
            Durability::Durable,
            16 << 10,
        )
    },
    of_batches(
        "broker: produce 256 KiB, durable",
        Durability::Durable,
        256 << 10,
    ),
    Scene {
        requests: 40,
        // As much as a batch may have by default.
        ..of_batches(
            "broker: produce 1 MiB, page-cache",
            Durability::PageCache,
            1_000_000,
        )
    },
    Scene {
        // A turn finds now more of them, now fewer.
        limit: 0.05,
        ..of_one_record(
            "broker: produce 1 record on 64 connections, page-cache",
            Load::Produce(64),
            640,
        )
    },
    Scene {
        // What goes by the number of partitions or connections would show. A turn finds now more, now fewer.
        limit: 0.1,
        ..of_one_record(
            "broker: produce 1 record on 1000 connections, page-cache",
            Load::Produce(1000),
            2000,
        )
    },
    Scene {
        // A ring of 1 MiB is half full every 32 requests.
        settings: &[
            "ringlog.journal.bytes=1048576",
            "ringlog.journal.file.bytes=65536",
        ],
        requests: 200,
        limit: 0.1,
        asks_the_same: false,
        ..of_batches(
            "broker: produce 16 KiB, durable, with checkpoints",
            Durability::Durable,
            16 << 10,
        )
    },
    Scene {
        // A shard sleeps now more often, now less.
        limit: 0.05,
        ..of_one_record(
            "broker: produce 1 record, a hop for every other, page-cache",
            Load::Hop,
            200,
        )
    },
    Scene {
        // The append is found now with the fetch, now a turn later.
        limit: 0.05,
        ..of_one_record(
            "broker: wake a fetch by 1 record, page-cache",
            Load::WakeUp,
            200,
        )
    },
];

impl Scene {
    /// Its name without [`NAME_PREFIX`].
    pub(super) fn load(self) -> &'static str {
        self.name.trim_start_matches(NAME_PREFIX)
    }

    /// As many shards as its load needs.
    pub(super) fn arrange(self, args: &mut SpawnArgs) {
        let cores = if matches!(self.load, Load::Hop) {
            // The broker's one CPU is given by a flag of its own.
            args.no_pin = true;
            "2"
        } else {
            "1"
        };
        if args.no_pin {
            let words = ["--cores", cores].map(str::to_owned);
            args.broker_arg.splice(0..0, words);
        }
        let flags = self.settings.iter().flat_map(|it| ["--override", *it]);
        args.broker_arg.extend(flags.map(str::to_owned));
    }

    /// Its batches.
    pub(super) fn workload(self) -> Result<Workload, Failure> {
        let connections = match self.load {
            Load::Produce(connections) => connections,
            Load::Hop | Load::WakeUp => 1,
        };
        Ok(Workload {
            record_bytes: self.record_bytes,
            records_per_batch: records_that_fit(self.record_bytes, self.batch_bytes)?,
            connections,
            partitions: connections,
            verify: false,
            ..Workload::default()
        })
    }

    /// Loads a broker with so many requests.
    pub(super) async fn run<T: Transport>(
        self,
        target: &Target,
        requests: u64,
    ) -> Result<(), Failure> {
        let limit = Limit {
            duration: None,
            requests: Some(requests),
        };
        let workload = self.workload()?;
        match self.load {
            Load::Produce(_) => {
                run::produce::<T>(broker(target), &workload, Duration::ZERO, limit).await?;
                Ok(())
            }
            Load::Hop => hop::<T>(target, &workload, requests).await,
            Load::WakeUp => wake_up::<T>(target, &workload, requests).await,
        }
    }
}

/// One connection with one request in flight.
struct Wire<T: Transport> {
    connection: T::Connection,
    inbox: Inbox,
}

impl<T: Transport> Wire<T> {
    async fn connect(target: &Target) -> Result<Self, Failure> {
        let address = target.address;
        let connection = T::connect(address).await;
        Ok(Self {
            connection: connection.map_err(Failure::system(format!("connecting to {address}")))?,
            inbox: Inbox::new(64 << 10),
        })
    }

    /// Sends a request, and gives it back.
    async fn send(&self, request: Vec<u8>) -> Result<Vec<u8>, Failure> {
        let (written, request) = self.connection.write_all(request).await;
        written.map_err(Failure::system("writing to the broker"))?;
        Ok(request)
    }

    async fn answer(&mut self) -> Result<&[u8], Failure> {
        let closed = || Failure::Closed {
            connection: "of the gate".to_owned(),
            in_flight: 1,
        };
        let frame = self.inbox.next(&self.connection).await?;
        Ok(self.inbox.bytes(frame.ok_or_else(closed)?))
    }

    async fn produced(&mut self) -> Result<(), Failure> {
        let answer = parse_produce(self.answer().await?)?;
        accept("Produce", answer.error_code)
    }
}

/// A batch, and the ends of the logs of a topic with two partitions.
async fn prepare<T: Transport>(
    target: &Target,
    workload: &Workload,
) -> Result<(Vec<u8>, Vec<i64>), Failure> {
    let mut client = Client::connect::<T>(target.address).await?;
    client.create_topic(&workload.topic, 2).await?;
    let ends = client.log_end_offsets(&workload.topic, 2).await?;
    let pools = build_pools(workload, 1)?;
    let batch = pools.into_iter().flatten().next();
    let none = || Failure::Usage("a round of no batches".to_owned());
    Ok((batch.ok_or_else(none)?, ends))
}

fn produce_to(workload: &Workload, partition: i32, batch: &[u8]) -> Vec<u8> {
    let place = (workload.topic.as_str(), partition);
    produce_frame(PRODUCE_VERSION, place, workload.acks, batch)
}

/// Neighbouring partitions live on neighbouring shards: wherever the connection is, every other request
/// goes to the other shard.
async fn hop<T: Transport>(
    target: &Target,
    workload: &Workload,
    requests: u64,
) -> Result<(), Failure> {
    let (batch, _) = prepare::<T>(target, workload).await?;
    let mut wire = Wire::<T>::connect(target).await?;
    let mut frames = [0, 1].map(|partition| produce_to(workload, partition, &batch));
    for number in 0..requests {
        let turn = (number % 2) as usize;
        set_correlation_id(&mut frames[turn], number as i32);
        frames[turn] = wire.send(std::mem::take(&mut frames[turn])).await?;
        wire.produced().await?;
    }
    Ok(())
}

/// The fetch is sent first, so that the broker finds it first and parks it.
async fn wake_up<T: Transport>(
    target: &Target,
    workload: &Workload,
    requests: u64,
) -> Result<(), Failure> {
    let (batch, ends) = prepare::<T>(target, workload).await?;
    let (mut reader, mut writer) = (
        Wire::<T>::connect(target).await?,
        Wire::<T>::connect(target).await?,
    );
    let mut append = produce_to(workload, 0, &batch);
    let mut fetch = FetchFrame::new(&workload.topic, 0, 1 << 20);
    let end = ends.first().copied().unwrap_or_default();
    for number in 0..requests {
        let offset = end + (number * workload.records_per_batch as u64) as i64;
        let request = fetch.take(number as i32, offset);
        fetch.restore(reader.send(request).await?);
        append = writer.send(append).await?;
        writer.produced().await?;
        let answer = parse_fetch(reader.answer().await?)?;
        accept("Fetch", answer.error_code)?;
        if answer.records.len() != batch.len() {
            let what = format!("{} bytes of records woke a fetch", answer.records.len());
            return Err(Failure::Protocol(what));
        }
    }
    Ok(())
}
