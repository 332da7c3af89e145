//! Whether what the producers sent is there: the ends of the logs, then all of them, read back.

use std::rc::Rc;
use std::time::Duration;

use super::Producers;
use crate::client::Client;
use crate::failure::Failure;
use crate::fetch::{FETCH_BYTES_MAX, Reader};
use crate::transport::Transport;
use crate::verify::{Content, LogCheck, Order, Records};

/// What a check of all logs found.
#[derive(Debug)]
pub(crate) struct Verified {
    /// Compared.
    pub(crate) records: u64,
    /// Of each partition's log.
    pub(crate) ends: Vec<i64>,
    /// Of each partition's log, see [`LogCheck::digest`].
    pub(crate) digests: Vec<u64>,
}

impl<T: Transport> Producers<T> {
    /// What was sent, to recognise it in the log.
    pub(crate) fn content(&self) -> Content {
        match &self.catalog {
            Some(catalog) => Content::Bytes(Rc::clone(catalog)),
            None => Content::Records(self.sent_records()),
        }
    }

    /// The records that were sent, and where they are; in a partition with one writer also those that
    /// will be.
    pub(crate) fn sent_records(&self) -> Records {
        let (writers, partitions) = (self.workload.connections, self.workload.partitions);
        let ledgers = self.ledgers.borrow();
        let order = |(partition, begin): (usize, &i64)| {
            // With fewer connections than partitions some have no writer, and no records.
            if partition < writers && writers <= partitions {
                Order::Sole {
                    connection: partition,
                    begin: *begin,
                }
            } else {
                ledgers[partition].order()
            }
        };
        let orders = self.begin_offsets.iter().enumerate().map(order);
        Records {
            sent: Rc::clone(&self.records),
            orders: Rc::new(orders.collect()),
            stamped: self.workload.stamped,
        }
    }

    /// Checks ends of logs, then reads them back whole. Gives the number of records compared.
    pub(crate) async fn verify(&self, client: &mut Client<T::Connection>) -> Result<u64, Failure> {
        Ok(self.verify_logs(client).await?.records)
    }

    /// As [`verify`](Self::verify), and what other readings of the logs must agree with.
    pub(crate) async fn verify_logs(
        &self,
        client: &mut Client<T::Connection>,
    ) -> Result<Verified, Failure> {
        let ends = self.settled_ends(client).await?;
        let topic = &self.workload.topic;
        let content = self.content();
        let (mut records, mut digests) = (0, Vec::new());
        for (partition, end) in ends.iter().enumerate() {
            let connections = self.producers.len();
            let mut check = LogCheck::new(partition, self.begin_offsets[partition], connections);
            let mut reader =
                Reader::<T>::connect(self.address, topic, partition, FETCH_BYTES_MAX).await?;
            reader
                .read_log(&mut check, *end, Some(&content), |_, _| {})
                .await?;
            let writes_here = |producer: &super::Producer<_>| {
                self.workload.partition_of(producer.number) == partition
            };
            let sent = self.producers.iter();
            let sent = sent.map(|producer| {
                if writes_here(producer) {
                    producer.sent
                } else {
                    0
                }
            });
            check.finish(*end, &sent.collect::<Vec<_>>())?;
            records += check.records();
            digests.push(check.digest());
        }
        Ok(Verified {
            records,
            ends,
            digests,
        })
    }

    /// Where the logs end. What is not acknowledged (acks=0), or only by the leader (acks=1), may still
    /// be on its way to where consumers see it: that is waited for.
    pub(crate) async fn settled_ends(
        &self,
        client: &mut Client<T::Connection>,
    ) -> Result<Vec<i64>, Failure> {
        let (topic, partitions) = (&self.workload.topic, self.workload.partitions);
        let mut ends = client.log_end_offsets(topic, partitions).await?;
        if self.workload.acks != -1 {
            let records = self.batches() * self.workload.records_per_batch as u64;
            let begin = self.begin_offsets.iter().sum::<i64>();
            let expected = begin + i64::try_from(records).unwrap_or(i64::MAX);
            for _ in 0..2000 {
                if ends.iter().sum::<i64>() >= expected {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await; // a poll, at most 10 s
                ends = client.log_end_offsets(topic, partitions).await?;
            }
        }
        if self.workload.acks == 0 {
            return Ok(ends);
        }
        for (ledger, end) in self.ledgers.borrow().iter().zip(&ends) {
            let acknowledged = ledger.finish()?;
            if acknowledged != *end {
                let code = format!("acknowledged up to {acknowledged}, but the log ends at {end}");
                return Err(Failure::Violation(ledger.misfit(acknowledged < *end, code)));
            }
        }
        Ok(ends)
    }
}
