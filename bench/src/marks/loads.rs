//! The loads of the project's marks, each on both brokers alike.

use crate::cli::MarksArgs;
use crate::failure::Failure;
use crate::fetch::FETCH_BYTES_MAX;
use crate::live::{self, Readers};
use crate::phase::Limit;
use crate::report::{Latency, Summary};
use crate::run::{self, Broker, Run};
use crate::schedule::{Arrival, Pace};
use crate::target::{Durability, Kind};
use crate::transport::Transport;
use crate::workload::{Workload, records_that_fit};

/// What is measured on a broker, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    OneRecord,
    Batches16KiB,
    Batches1MB,
    SmallRecords,
    EndToEnd,
    HotFetch,
}

/// All of them.
pub(super) const LOADS: [Load; 6] = [
    Load::OneRecord,
    Load::Batches16KiB,
    Load::Batches1MB,
    Load::SmallRecords,
    Load::EndToEnd,
    Load::HotFetch,
];

impl Load {
    /// As it stands in tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Load::OneRecord => "1-record requests",
            Load::Batches16KiB => "16 KiB batches",
            Load::Batches1MB => "1 MB batches",
            Load::SmallRecords => "100-byte records in 16 KiB batches",
            Load::EndToEnd => "10,000 messages/s, end to end",
            Load::HotFetch => "hot fetch",
        }
    }

    /// What is hot does not depend on the promise, and 10,000 messages a second are beyond a Kafka that
    /// flushes each.
    pub(super) fn fits(self, kind: Kind, durability: Durability) -> bool {
        match self {
            Load::HotFetch => durability == Durability::PageCache,
            Load::EndToEnd => kind == Kind::Ringlog || durability == Durability::PageCache,
            _ => true,
        }
    }

    fn workload(self, args: &MarksArgs) -> Result<Workload, Failure> {
        // 8 connections, each with 5 batches under way: what the spikes of `measured-io.md` had.
        let batches = Workload {
            partitions: 8,
            connections: 8,
            in_flight: 5,
            seed: args.seed,
            ..Workload::default()
        };
        Ok(match self {
            Load::OneRecord => Workload {
                topic: "marks-one-record".to_owned(),
                partitions: 16,
                connections: 16,
                record_bytes: 100,
                seed: args.seed,
                ..Workload::default()
            },
            Load::Batches16KiB => Workload {
                topic: "marks-batches".to_owned(),
                records_per_batch: records_that_fit(1024, 16 << 10)?,
                ..batches
            },
            Load::Batches1MB => Workload {
                topic: "marks-large-batches".to_owned(),
                partitions: 4,
                connections: 4,
                in_flight: 2,
                records_per_batch: records_that_fit(1024, 1_000_000)?,
                ..batches
            },
            Load::SmallRecords => Workload {
                topic: "marks-small-records".to_owned(),
                record_bytes: 100,
                records_per_batch: records_that_fit(100, 16 << 10)?,
                ..batches
            },
            Load::EndToEnd => Workload {
                topic: "marks-end-to-end".to_owned(),
                partitions: 10,
                connections: 10,
                pace: Pace::Open {
                    rate: 10_000.0,
                    arrival: Arrival::Fixed,
                },
                stamped: true,
                ..batches
            },
            Load::HotFetch => Workload {
                topic: "marks-fetch".to_owned(),
                partitions: 4,
                connections: 4,
                records_per_batch: records_that_fit(1024, 16 << 10)?,
                ..batches
            },
        })
    }

    /// Loads a broker; of the one with a consumer, the end-to-end times as well.
    pub(super) async fn run<T: Transport>(
        self,
        args: &MarksArgs,
        broker: Broker,
    ) -> Result<(Run, Option<Latency>), Failure> {
        let workload = self.workload(args)?;
        let batch_bytes = (workload.records_per_batch * workload.record_bytes) as u64;
        // What is written stays in the page cache.
        let limit = Limit {
            duration: Some(args.duration),
            requests: Some((args.produce_bytes_max / batch_bytes).max(1)),
        };
        match self {
            Load::HotFetch => {
                let run = run::fetch::<T>(broker, &workload, args.fetch_fill, args.fetch_passes);
                Ok((run.await?, None))
            }
            Load::EndToEnd => {
                let readers = Readers {
                    groups: 1,
                    consumers: 1,
                    fetch_bytes_max: FETCH_BYTES_MAX,
                };
                let live = live::live::<T>(broker, &workload, readers, args.warm_up, limit);
                let (run, consumed) = live.await?;
                Ok((run, consumed.end_to_end))
            }
            _ => {
                let run = run::produce::<T>(broker, &workload, args.warm_up, limit);
                Ok((run.await?, None))
            }
        }
    }
}

/// One load on one broker.
#[derive(Debug)]
pub(super) struct Loaded {
    /// Which.
    pub(super) load: Load,
    /// What it cost.
    pub(super) summary: Summary,
    /// From the intended send to the receipt by a consumer.
    pub(super) end_to_end: Option<Latency>,
}
