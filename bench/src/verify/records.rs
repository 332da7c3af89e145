//! Logs whose bytes are the broker's: converted from message sets, numbered, stamped, built on the fly.
//!
//! Such batches are not recognised but expected: an acknowledgement says which batch of which connection
//! lies at which offset, and each record is held against what that batch was made of. Where a partition
//! has one writer, its order alone says so, without acknowledgements.

use std::rc::Rc;

use ringlog_engine::record::{Batch, BatchReader, Header};

use super::Violation;
use crate::records::{BATCH_BYTES_MAX, STAMP_KEY, Sent};

/// A batch that was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    /// Where it begins.
    pub(crate) base_offset: i64,
    /// Who sent it.
    pub(crate) connection: usize,
    /// Which of the connection's batches it is.
    pub(crate) number: u64,
}

/// Whose batch lies where in a partition.
#[derive(Debug, Clone)]
pub(crate) enum Order {
    /// In the order of base offsets.
    Acknowledged(Vec<Placed>),
    /// One connection wrote all of it, from this offset on.
    Sole {
        /// The connection.
        connection: usize,
        /// Where its first batch begins.
        begin: i64,
    },
}

/// All records that were sent, and where they must be.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    /// By connection, by place in its round.
    pub(crate) sent: Rc<Vec<Vec<Vec<Sent>>>>,
    /// By partition.
    pub(crate) orders: Rc<Vec<Order>>,
    /// The first record of each batch has the time at which it was to leave as its only header; no other
    /// record has one.
    pub(crate) stamped: bool,
}

/// What must lie at an offset.
struct Expected<'a> {
    connection: usize,
    record: &'a Sent,
    begins_batch: bool,
    ends_batch: bool,
}

impl Records {
    fn expected(&self, partition: usize, offset: i64) -> Option<Expected<'_>> {
        let (connection, number, index) = match self.orders.get(partition)? {
            Order::Sole { connection, begin } => {
                let count = self.sent.get(*connection)?.first()?.len() as u64;
                let since = u64::try_from(offset - begin).ok()?;
                (*connection, since / count, since % count)
            }
            Order::Acknowledged(placed) => {
                let after = placed.partition_point(|placed| placed.base_offset <= offset);
                let found = placed.get(after.checked_sub(1)?)?;
                let index = u64::try_from(offset - found.base_offset).ok()?;
                (found.connection, found.number, index)
            }
        };
        let round = self.sent.get(connection)?;
        let batch = &round[usize::try_from(number % round.len() as u64).ok()?];
        let index = usize::try_from(index).ok()?;
        Some(Expected {
            connection,
            record: batch.get(index)?,
            begins_batch: index == 0,
            ends_batch: index + 1 == batch.len(),
        })
    }

    fn has_headers(&self, headers: &[Header<'_>], begins_batch: bool) -> bool {
        match headers {
            [] => !(self.stamped && begins_batch),
            [only] => {
                let is_stamp =
                    only.key == STAMP_KEY && only.value.is_some_and(|raw| raw.len() == 8);
                self.stamped && begins_batch && is_stamp
            }
            _ => false,
        }
    }

    /// Holds the records of a stored batch from `next_offset` on against what was sent; `seen` counts
    /// whole batches of each connection.
    pub(super) fn compare(
        &self,
        partition: usize,
        stored: &Batch<'_>,
        next_offset: i64,
        seen: &mut [u64],
    ) -> Result<u64, Violation> {
        let changed = |offset: i64, what: &str| Violation::Changed {
            partition,
            what: format!("at offset {offset}: {what}"),
        };
        let base = stored.header.base_offset;
        let header = &stored.header;
        let crc = header.check_crc(stored.bytes);
        crc.map_err(|error| changed(base, &error.to_string()))?;
        let reader = BatchReader::open(stored.bytes, BATCH_BYTES_MAX);
        let reader = reader.map_err(|error| changed(base, &error.to_string()))?;
        let mut due = next_offset;
        for record in reader.records() {
            let record = record.map_err(|error| changed(due, &error.to_string()))?;
            if record.offset < next_offset {
                continue; // a compressed message set comes whole
            }
            if record.offset != due {
                let what = format!("offset {} where {due} is expected", record.offset);
                return Err(Violation::Lost { partition, what });
            }
            let Some(expected) = self.expected(partition, due) else {
                return Err(Violation::Duplicated {
                    partition,
                    what: format!("at offset {due} is a record that nobody sent"),
                });
            };
            let key = expected.record.key.as_ref().map(|key| &key[..]);
            let headers = self.has_headers(&record.headers, expected.begins_batch);
            if record.key != key || record.value != Some(&expected.record.value[..]) || !headers {
                let what = format!(
                    "not the record that connection {} sent",
                    expected.connection
                );
                return Err(changed(due, &what));
            }
            if expected.ends_batch {
                seen[expected.connection] += 1;
            }
            due += 1;
        }
        u64::try_from(due - next_offset).map_err(|_| changed(base, "no records"))
    }
}
