//! What is sent: the shape of the load, and the batches that are built before the clock starts.

use ringlog_engine::record::{BatchBuilder, Compression};

use crate::failure::Failure;
use crate::fetch::FETCH_BYTES_MAX;
use crate::schedule::{Pace, SplitMix64};

/// All batches of all pools together stay about this small: two copies are held, and a pool that
/// does not fit the cache would measure memory.
const POOL_BYTES_MAX: usize = 8 << 20;
/// More batches in a round make no check sharper.
const POOL_BATCHES_MAX: usize = 64;
/// A round of one could hide a doubled batch.
const POOL_BATCHES_MIN: usize = 3;

/// The shape of a load.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Workload {
    /// The topic; made if it is not there.
    pub(crate) topic: String,
    /// Its partitions; connection `i` writes to partition `i % partitions`.
    pub(crate) partitions: usize,
    /// Connections, each with its own window.
    pub(crate) connections: usize,
    /// Requests in flight on a connection.
    pub(crate) in_flight: usize,
    /// 0, 1, or -1 for all.
    pub(crate) acks: i16,
    /// Bytes of a record's value.
    pub(crate) record_bytes: usize,
    /// Records in a batch; a request carries one batch.
    pub(crate) records_per_batch: usize,
    /// When requests leave.
    pub(crate) pace: Pace,
    /// Of payloads and arrivals.
    pub(crate) seed: u64,
    /// Bytes that a consumer asks for at once.
    pub(crate) fetch_bytes_max: i32,
    /// Whether the log is read back and compared.
    pub(crate) verify: bool,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            topic: "bench".to_owned(),
            partitions: 1,
            connections: 1,
            in_flight: 1,
            acks: -1,
            record_bytes: 1024,
            records_per_batch: 1,
            pace: Pace::Closed,
            seed: 42,
            fetch_bytes_max: FETCH_BYTES_MAX,
            verify: true,
        }
    }
}

impl Workload {
    /// The partition that `connection` writes to.
    pub(crate) fn partition_of(&self, connection: usize) -> usize {
        connection % self.partitions
    }

    /// Refuses what cannot be meant.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let counts = [
            ("--connections", self.connections, 10_000),
            ("--partitions", self.partitions, 10_000),
            ("--in-flight", self.in_flight, 10_000),
            ("records per batch", self.records_per_batch, 1_000_000),
        ];
        for (name, value, limit) in counts {
            if value == 0 || value > limit {
                return Err(Failure::Usage(format!(
                    "{name} must be 1 to {limit}, not {value}"
                )));
            }
        }
        if self.record_bytes * self.records_per_batch > 64 << 20 {
            return Err(Failure::Usage("a batch may have at most 64 MiB".to_owned()));
        }
        if !(-1..=1).contains(&self.acks) {
            return Err(Failure::Usage(format!(
                "--acks must be 0, 1 or all, not {}",
                self.acks
            )));
        }
        match self.pace {
            Pace::Open { rate, .. } if !(rate.is_finite() && rate > 0.0) => Err(Failure::Usage(
                format!("--rate must be positive, not {rate}"),
            )),
            _ => Ok(()),
        }
    }
}

/// How many records of `record_bytes` fill a batch of at most `batch_bytes`, and at least one.
pub(crate) fn records_that_fit(record_bytes: usize, batch_bytes: usize) -> Result<usize, Failure> {
    let value = vec![0; record_bytes];
    let mut builder = BatchBuilder::new(Compression::None);
    let mut records = 0;
    while records < 1_000_000 {
        builder
            .append(TIMESTAMP_MS, Some(&[0; 8]), Some(&value), &[])
            .map_err(|error| Failure::Usage(error.to_string()))?;
        if builder.size_in_bytes() > batch_bytes {
            break;
        }
        records += 1;
    }
    Ok(records.max(1))
}

/// One create time for all records: a time that moves would be part of the CRC.
const TIMESTAMP_MS: i64 = 1_700_000_000_000;

/// The pool of each connection, sized to stay in the cache.
pub(crate) fn pools(workload: &Workload) -> Result<Vec<Vec<Vec<u8>>>, Failure> {
    let batch_bytes = workload.record_bytes * workload.records_per_batch;
    let room = POOL_BYTES_MAX / (workload.connections * (batch_bytes + 64));
    build_pools(workload, room.clamp(POOL_BATCHES_MIN, POOL_BATCHES_MAX))
}

/// A pool of `batches` batches for each connection, no two alike.
pub(crate) fn build_pools(
    workload: &Workload,
    batches: usize,
) -> Result<Vec<Vec<Vec<u8>>>, Failure> {
    let mut random = SplitMix64::new(workload.seed);
    let mut value = vec![0; workload.record_bytes];
    let mut build = |connection: usize, place: usize| {
        let mut builder = BatchBuilder::new(Compression::None);
        for _ in 0..workload.records_per_batch {
            for chunk in value.chunks_mut(8) {
                chunk.copy_from_slice(&random.next().to_be_bytes()[..chunk.len()]);
            }
            // The key tells batches apart however short the values are.
            let key = ((connection as u64) << 32 | place as u64).to_be_bytes();
            builder.append(TIMESTAMP_MS, Some(&key), Some(&value), &[])?;
        }
        builder.build()
    };
    let mut pool = |connection| {
        (0..batches)
            .map(|place| Ok(build(connection, place)?.to_vec()))
            .collect::<Result<Vec<_>, ringlog_engine::record::BatchError>>()
    };
    (0..workload.connections)
        .map(|connection| pool(connection).map_err(|error| Failure::Usage(error.to_string())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringlog_engine::record::BatchReader;
    use std::collections::BTreeSet;

    #[test]
    fn a_16_kib_batch_holds_15_records_of_1_kib() {
        assert_eq!(records_that_fit(1024, 16 << 10).unwrap(), 15);
        assert_eq!(records_that_fit(1024, 1).unwrap(), 1);
    }

    #[test]
    fn batches_are_valid_and_no_two_are_alike() {
        let workload = Workload {
            connections: 3,
            record_bytes: 1,
            ..Workload::default()
        };
        let pools = build_pools(&workload, 64).unwrap();
        let mut distinct = BTreeSet::new();
        for batch in pools.iter().flatten() {
            let reader = BatchReader::open(batch, 1 << 20).unwrap();
            reader.header().check_crc(batch).unwrap();
            assert_eq!(reader.records().count(), 1);
            distinct.insert(batch.clone());
        }
        assert_eq!(distinct.len(), 3 * 64);
    }

    #[test]
    fn impossible_shapes_are_refused() {
        let refused = |workload: Workload| workload.check().unwrap_err().to_string();
        let none = Workload {
            connections: 0,
            ..Workload::default()
        };
        assert!(refused(none).contains("--connections"));
        let acks = Workload {
            acks: 2,
            ..Workload::default()
        };
        assert!(refused(acks).contains("--acks"));
        assert!(Workload::default().check().is_ok());
    }
}
