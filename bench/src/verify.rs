//! Whether what was acknowledged is there: once, in order, at its offset, byte for byte.
//!
//! `Ledger` judges the answers to produce requests as they come; `LogCheck` judges what fetch brings.
//! A batch is recognised by its CRC and then compared whole, but for base offset and leader epoch,
//! which are the broker's. Each connection writes its pool of batches round and round, so that a lost,
//! doubled or swapped batch breaks the round; the counts catch the loss of a whole round. Where brokers
//! store other bytes than were sent, records are compared (`records`).

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use ringlog_engine::record::{Batch, batch};

mod records;
pub(crate) use records::{Order, Placed, Records};

/// What went wrong with which batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    /// Records are missing.
    #[error("lost in partition {partition}: {what}")]
    Lost {
        /// The partition.
        partition: usize,
        /// Where, and how it shows.
        what: String,
    },
    /// Records are there twice, or an offset was given twice.
    #[error("duplicated in partition {partition}: {what}")]
    Duplicated {
        /// The partition.
        partition: usize,
        /// Where, and how it shows.
        what: String,
    },
    /// Records of one connection are not in the order in which it sent them.
    #[error("reordered in partition {partition}: {what}")]
    Reordered {
        /// The partition.
        partition: usize,
        /// Where, and how it shows.
        what: String,
    },
    /// Bytes that nobody sent.
    #[error("changed in partition {partition}: {what}")]
    Changed {
        /// The partition.
        partition: usize,
        /// Where, and how it shows.
        what: String,
    },
}

/// The answers for one partition: offsets must follow on each other without gap or overlap.
#[derive(Debug)]
pub(crate) struct Ledger {
    partition: usize,
    /// All offsets below are acknowledged.
    next_offset: i64,
    /// Acknowledged above a gap that another connection's answer is to fill: base offset, count.
    ahead: BTreeMap<i64, i64>,
    /// The newest base offset of each connection.
    newest: BTreeMap<usize, i64>,
    /// Every acknowledged batch, if records are to be compared.
    placed: Option<Vec<Placed>>,
}

impl Ledger {
    /// For a partition whose log ends at `log_end_offset`.
    pub(crate) fn new(partition: usize, log_end_offset: i64) -> Self {
        Self {
            partition,
            next_offset: log_end_offset,
            ahead: BTreeMap::new(),
            newest: BTreeMap::new(),
            placed: None,
        }
    }

    /// Also keeps which batch went where: 24 bytes for each.
    pub(crate) fn keeping_places(mut self) -> Self {
        self.placed = Some(Vec::new());
        self
    }

    /// The `number`-th batch of `connection` was acknowledged at `base_offset`.
    pub(crate) fn place(&mut self, connection: usize, number: u64, base_offset: i64) {
        if let Some(placed) = &mut self.placed {
            placed.push(Placed {
                base_offset,
                connection,
                number,
            });
        }
    }

    /// All places so far, in the order of offsets.
    pub(crate) fn order(&self) -> Order {
        let mut placed = self.placed.clone().unwrap_or_default();
        placed.sort_unstable_by_key(|placed| placed.base_offset);
        Order::Acknowledged(placed)
    }

    /// Takes an answer: `count` records of `connection` at `base_offset`.
    pub(crate) fn acknowledge(
        &mut self,
        connection: usize,
        base_offset: i64,
        count: i64,
    ) -> Result<(), Violation> {
        let partition = self.partition;
        let newest = self.newest.insert(connection, base_offset);
        if let Some(newest) = newest.filter(|newest| *newest > base_offset) {
            let what = format!("connection {connection} got offset {base_offset} after {newest}");
            return Err(Violation::Reordered { partition, what });
        }
        let above = self.ahead.range(base_offset..).next();
        let below = self.ahead.range(..base_offset).next_back();
        let overlaps = base_offset < self.next_offset
            || above.is_some_and(|(base, _)| base_offset + count > *base)
            || below.is_some_and(|(base, length)| base + length > base_offset);
        if overlaps {
            let what = format!("offset {base_offset} of connection {connection} was given before");
            return Err(Violation::Duplicated { partition, what });
        }
        self.ahead.insert(base_offset, count);
        while let Some(entry) = self.ahead.first_entry() {
            if *entry.key() != self.next_offset {
                break;
            }
            self.next_offset += entry.remove();
        }
        Ok(())
    }

    /// The log ends elsewhere than the answers say.
    pub(crate) fn misfit(&self, too_much: bool, what: String) -> Violation {
        let partition = self.partition;
        if too_much {
            Violation::Duplicated { partition, what }
        } else {
            Violation::Lost { partition, what }
        }
    }

    /// When all answers are in: where the log must end.
    pub(crate) fn finish(&self) -> Result<i64, Violation> {
        match self.ahead.first_key_value() {
            None => Ok(self.next_offset),
            Some((base, _)) => Err(Violation::Lost {
                partition: self.partition,
                what: format!(
                    "offsets {} to {} belong to nobody",
                    self.next_offset,
                    base - 1
                ),
            }),
        }
    }
}

/// All batches that connections send, to recognise them in a log.
#[derive(Debug)]
pub(crate) struct Catalog {
    /// By connection, then by place in its pool.
    pools: Vec<Vec<Vec<u8>>>,
    by_crc: HashMap<u32, (usize, usize)>,
}

/// Where the CRC of a batch stands (record format v2).
const CRC_AT: usize = 17;
/// The batch length stands here; before it is the base offset, behind it the leader epoch.
const LENGTH: std::ops::Range<usize> = 8..12;
/// From the magic on nothing is the broker's to change.
const MAGIC_AT: usize = 16;

fn crc_of(batch: &[u8]) -> u32 {
    let field = batch.get(CRC_AT..).and_then(|rest| rest.first_chunk());
    u32::from_be_bytes(*field.expect("a parsed batch has a header of 61 bytes"))
}

/// Steele, Lea, Flood's mixer: a batch elsewhere, changed, or in another order gives another digest.
fn mixed(digest: u64, base_offset: i64, crc: u32) -> u64 {
    let mut mixed = digest ^ base_offset.cast_unsigned().rotate_left(32) ^ u64::from(crc);
    mixed = mixed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Catalog {
    /// Knows the batches of `pools`, which must differ; `None` if two have the same CRC.
    pub(crate) fn new(pools: &[Vec<Vec<u8>>]) -> Option<Self> {
        let mut by_crc = HashMap::new();
        for (connection, pool) in pools.iter().enumerate() {
            for (place, batch) in pool.iter().enumerate() {
                if by_crc.insert(crc_of(batch), (connection, place)).is_some() {
                    return None;
                }
            }
        }
        let pools = pools.to_vec();
        Some(Self { pools, by_crc })
    }

    /// The pools, by connection.
    #[cfg(test)]
    pub(crate) fn pools(&self) -> &[Vec<Vec<u8>>] {
        &self.pools
    }

    fn recognise(&self, stored: &[u8]) -> Option<(usize, usize)> {
        let (connection, place) = *self.by_crc.get(&crc_of(stored))?;
        let sent = &self.pools[connection][place];
        let same = sent.len() == stored.len()
            && sent[LENGTH] == stored[LENGTH]
            && sent[MAGIC_AT..] == stored[MAGIC_AT..];
        same.then_some((connection, place))
    }
}

/// What a log must hold.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// These batches, byte for byte.
    Bytes(Rc<Catalog>),
    /// These records, in whatever batches.
    Records(Records),
}

/// One reading of one partition's log from its start.
#[derive(Debug)]
pub(crate) struct LogCheck {
    partition: usize,
    next_offset: i64,
    /// Batches seen of each connection.
    seen: Vec<u64>,
    records: u64,
    bytes: u64,
    digest: u64,
}

impl LogCheck {
    /// A reading from `offset` on, where the round of every connection begins.
    pub(crate) fn new(partition: usize, offset: i64, connections: usize) -> Self {
        Self {
            partition,
            next_offset: offset,
            seen: vec![0; connections],
            records: 0,
            bytes: 0,
            digest: 0,
        }
    }

    /// Of the offsets and CRCs of all batches, in order: two readings of a log have the same.
    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    /// The offset to fetch next.
    pub(crate) fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// Records seen.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// Bytes of whole batches seen.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Walks the whole batches of an answer and shows each to `observe`; compares them if there is a
    /// content. The number of whole batches is told: none at all in a full answer is the caller's to judge.
    pub(crate) fn read(
        &mut self,
        records: &[u8],
        content: Option<&Content>,
        mut observe: impl FnMut(&Batch<'_>),
    ) -> Result<u64, Violation> {
        let mut batches = 0;
        for stored in batch::iterate(records) {
            let stored = match stored {
                Ok(stored) => stored,
                Err(ringlog_engine::record::BatchError::Truncated { .. }) => break,
                Err(error) => return Err(self.changed(&error.to_string())),
            };
            let header = &stored.header;
            if header.next_offset() <= self.next_offset && batches == 0 {
                continue; // a broker may begin with the batch before the offset that was asked for
            }
            self.records += match content {
                Some(Content::Records(expected)) => {
                    expected.compare(self.partition, &stored, self.next_offset, &mut self.seen)?
                }
                Some(Content::Bytes(catalog)) => {
                    self.check_offset(header.base_offset)?;
                    self.compare(stored.bytes, catalog)?
                }
                None => {
                    self.check_offset(header.base_offset)?;
                    u64::try_from(header.record_count).unwrap_or_default()
                }
            };
            self.next_offset = header.next_offset();
            self.bytes += stored.bytes.len() as u64;
            self.digest = mixed(self.digest, header.base_offset, header.crc);
            batches += 1;
            observe(&stored);
        }
        Ok(batches)
    }

    fn check_offset(&self, base_offset: i64) -> Result<(), Violation> {
        let partition = self.partition;
        let expected = self.next_offset;
        let what = format!("offset {base_offset} in the log where {expected} is expected");
        match base_offset.cmp(&expected) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => Err(Violation::Lost { partition, what }),
            std::cmp::Ordering::Less => Err(Violation::Duplicated { partition, what }),
        }
    }

    fn compare(&mut self, stored: &[u8], catalog: &Catalog) -> Result<u64, Violation> {
        let Some((connection, place)) = catalog.recognise(stored) else {
            return Err(self.changed("a batch that nobody sent"));
        };
        let round = catalog.pools[connection].len();
        let seen = &mut self.seen[connection];
        let expected = usize::try_from(*seen % round as u64).expect("below the pool's length");
        *seen += 1;
        if place == expected {
            let count = batch::BatchHeader::parse(stored).map(|header| header.record_count);
            return Ok(u64::try_from(count.unwrap_or_default()).unwrap_or_default());
        }
        let partition = self.partition;
        let what = format!(
            "batch {place} of connection {connection} at offset {} where its batch {expected} is due \
             (of {round} in turn)",
            self.next_offset
        );
        Err(if (place + 1) % round == expected {
            Violation::Duplicated { partition, what }
        } else if place == (expected + 1) % round {
            Violation::Lost { partition, what }
        } else {
            Violation::Reordered { partition, what }
        })
    }

    fn changed(&self, what: &str) -> Violation {
        Violation::Changed {
            partition: self.partition,
            what: format!("at offset {}: {what}", self.next_offset),
        }
    }

    /// At the log's end: `sent` batches of each connection must have been seen, no fewer, no more.
    pub(crate) fn finish(&self, log_end_offset: i64, sent: &[u64]) -> Result<(), Violation> {
        let partition = self.partition;
        if self.next_offset != log_end_offset {
            let what = format!("read to {}, not to {log_end_offset}", self.next_offset);
            return Err(Violation::Lost { partition, what });
        }
        for (connection, (seen, sent)) in self.seen.iter().zip(sent).enumerate() {
            let what = format!("{seen} of {sent} batches of connection {connection} are there");
            match seen.cmp(sent) {
                std::cmp::Ordering::Equal => {}
                std::cmp::Ordering::Less => return Err(Violation::Lost { partition, what }),
                std::cmp::Ordering::Greater => {
                    return Err(Violation::Duplicated { partition, what });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
