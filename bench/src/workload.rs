//! What is sent: the shape of the load, and the batches that are built before the clock starts.

use ringlog_engine::record::{BatchBuilder, BatchError, Compression};
use serde::Serializer;

use crate::failure::Failure;
use crate::fetch::FETCH_BYTES_MAX;
use crate::frames::{PRODUCE_VERSION, PRODUCE_VERSION_MAX};
use crate::records::{BATCH_BYTES_MAX, Form, Keys, Recipe, Sent, TIMESTAMP_MS, Values};
use crate::schedule::Pace;

/// All batches of all pools together stay about this small: two copies are held, and a pool that
/// does not fit the cache would measure memory.
const POOL_BYTES_MAX: usize = 8 << 20;
/// A pool beyond is refused: it is held up to three times.
const POOL_BYTES_LIMIT: usize = 2 << 30;
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
    /// The least bytes of a record's value, if sizes are spread; `record_bytes` is the most.
    pub(crate) record_bytes_least: Option<usize>,
    /// The keys.
    pub(crate) keys: Keys,
    /// The values.
    pub(crate) values: Values,
    /// The codec.
    #[serde(serialize_with = "compression_name")]
    pub(crate) compression: Compression,
    /// Of Produce: message sets below 3.
    pub(crate) produce_version: i16,
    /// Whether batches have a producer id and a sequence.
    pub(crate) idempotent: bool,
    /// When batches are built.
    pub(crate) build: Build,
    /// Whether the first record of each batch says when it was meant to leave.
    pub(crate) stamped: bool,
    /// Batches in a round, instead of as many as stay in the cache.
    pub(crate) round: Option<usize>,
}

/// When batches are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Build {
    /// Before the load; what must change is patched.
    Once,
    /// Each when it is due, as clients do: encoding and compression are the generator's load.
    Each,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn compression_name<S: Serializer>(codec: &Compression, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(codec.name())
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
            record_bytes_least: None,
            keys: Keys::default(),
            values: Values::default(),
            compression: Compression::None,
            produce_version: PRODUCE_VERSION,
            idempotent: false,
            build: Build::Once,
            stamped: false,
            round: None,
        }
    }
}

impl Workload {
    /// The partition that `connection` writes to.
    pub(crate) fn partition_of(&self, connection: usize) -> usize {
        connection % self.partitions
    }

    /// The same, as requests name it.
    pub(crate) fn place_of(&self, connection: usize) -> i32 {
        i32::try_from(self.partition_of(connection)).expect("checked against its limit")
    }

    /// Refuses a load that nobody acknowledges and that several connections mix in one partition.
    pub(crate) fn check_sole_writers(&self) -> Result<(), Failure> {
        if self.connections <= self.partitions {
            return Ok(());
        }
        Err(Failure::Usage(
            "with --acks 0 nothing tells whose converted, numbered or equal batches lie where: take no \
             more --connections than --partitions, or --no-verify"
                .to_owned(),
        ))
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
        if self.record_bytes_least > Some(self.record_bytes) {
            let what = "the sizes of --record-bytes must go from the least to the most";
            return Err(Failure::Usage(what.to_owned()));
        }
        self.check_form()?;
        let longest = self.recipe().value_bytes_max(self.records_per_batch);
        if longest * self.records_per_batch > BATCH_BYTES_MAX {
            return Err(Failure::Usage("a batch may have at most 64 MiB".to_owned()));
        }
        if self.pool_bytes() > POOL_BYTES_LIMIT {
            let what = "the batches of all connections would take more than 2 GiB: take fewer connections, \
                        smaller batches, a smaller payload file or fewer messages";
            return Err(Failure::Usage(what.to_owned()));
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

impl Workload {
    fn check_form(&self) -> Result<(), Failure> {
        let version = self.produce_version;
        let refused = |what: &str| Err(Failure::Usage(what.to_owned()));
        if !(0..=PRODUCE_VERSION_MAX).contains(&version) {
            let what = format!("--produce-version must be 0 to {PRODUCE_VERSION_MAX}");
            return Err(Failure::Usage(what));
        }
        if self.keys == Keys::Random(0) {
            return refused("--keys random needs at least one key");
        }
        if version < 3 && (self.idempotent || self.stamped) {
            return refused(
                "message sets (--produce-version below 3) have neither sequences nor headers: no \
                 --idempotent and no end-to-end times with them",
            );
        }
        if version < 7 && self.compression == Compression::Zstd {
            return refused("--compression zstd needs --produce-version 7 (KIP-110)");
        }
        if self.idempotent && self.acks != -1 {
            return refused("--idempotent needs --acks all");
        }
        if self.build == Build::Once
            && self.compression != Compression::None
            && (self.idempotent || self.stamped)
        {
            return refused(
                "what is compressed before the load cannot be stamped or numbered: add --build each",
            );
        }
        Ok(())
    }

    /// How its records are made.
    pub(crate) fn recipe(&self) -> Recipe {
        Recipe {
            keys: self.keys,
            values: self.values.clone(),
            sizes: self.record_bytes_least.unwrap_or(self.record_bytes)..=self.record_bytes,
            seed: self.seed,
        }
    }

    /// The form of its batches, before sequences and times.
    pub(crate) fn form(&self) -> Form {
        Form {
            compression: self.compression,
            produce_version: self.produce_version,
            producer: None,
            stamp: self.stamped.then_some(0),
        }
    }

    /// Whether a broker stores the batches as they were built, so that bytes can be compared.
    pub(crate) fn keeps_bytes(&self) -> bool {
        let changes = self.idempotent || self.stamped || self.build == Build::Each;
        self.produce_version >= 3 && !changes
    }

    /// Batches of each connection's round, so many that all stay in the cache.
    fn round(&self) -> usize {
        let recipe = self.recipe();
        let batch_bytes = recipe.value_bytes_max(self.records_per_batch) * self.records_per_batch;
        let room = POOL_BYTES_MAX / (self.connections * (batch_bytes + 64));
        let mut round = room.clamp(POOL_BATCHES_MIN, POOL_BATCHES_MAX);
        if let Values::Lines(lines) = &self.values {
            // Every line is sent.
            round = round.max(lines.len().div_ceil(self.records_per_batch));
        }
        self.round.unwrap_or(round)
    }

    /// What the records of all rounds take, headers of memory included.
    fn pool_bytes(&self) -> usize {
        const RECORD_BYTES: usize = 64;
        let records = self.round().saturating_mul(self.records_per_batch);
        let value_bytes = match &self.values {
            Values::Lines(lines) => {
                let bytes = lines.iter().map(Vec::len).sum::<usize>();
                records.div_ceil(lines.len().max(1)).saturating_mul(bytes)
            }
            Values::Random | Values::Json => {
                let most = self.recipe().value_bytes_max(self.records_per_batch);
                records.saturating_mul(most)
            }
        };
        value_bytes
            .saturating_add(records.saturating_mul(RECORD_BYTES))
            .saturating_mul(self.connections)
    }

    /// The records of each connection's round.
    pub(crate) fn records(&self) -> Vec<Vec<Vec<Sent>>> {
        self.recipe()
            .records(self.connections, self.round(), self.records_per_batch)
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

/// The batches of each connection's round, in `form`.
pub(crate) fn encode(
    records: &[Vec<Vec<Sent>>],
    form: impl Fn(usize) -> Form,
) -> Result<Vec<Vec<Vec<u8>>>, Failure> {
    let pool = |(connection, batches): (usize, &Vec<Vec<Sent>>)| {
        let form = form(connection);
        let batches = batches.iter().map(|records| form.encode(records));
        batches.collect::<Result<Vec<_>, BatchError>>()
    };
    let pools = records.iter().enumerate().map(pool);
    let pools: Result<Vec<_>, _> = pools.collect();
    pools.map_err(|error| Failure::Usage(error.to_string()))
}

/// A pool of `batches` plain batches for each connection, no two alike.
pub(crate) fn build_pools(
    workload: &Workload,
    batches: usize,
) -> Result<Vec<Vec<Vec<u8>>>, Failure> {
    let recipe = workload.recipe();
    let records = recipe.records(workload.connections, batches, workload.records_per_batch);
    encode(&records, |_| workload.form())
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
        let lines = vec![vec![0; 1 << 10]; 64 << 10];
        let copied = |connections| Workload {
            connections,
            values: Values::Lines(std::rc::Rc::new(lines.clone())),
            ..Workload::default()
        };
        assert!(refused(copied(64)).contains("2 GiB"));
        assert!(copied(4).check().is_ok());
        let many = Workload {
            round: Some(1_000_000_000),
            ..Workload::default()
        };
        assert!(refused(many).contains("2 GiB"));
        assert!(Workload::default().check().is_ok());
    }
}
