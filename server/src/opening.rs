//! A shard's partitions that are still to be opened after the start: who waits for which, in whose turn, and
//! what is known of those that cannot be opened.
//!
//! Who waits for a partition goes on before who comes later: requests of one connection, which may come by a
//! hop as tasks of their own, must reach a partition in their order. So one goes on after the other, and the
//! partition counts as being opened until the last of them has.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

use futures_channel::oneshot;
use ringlog_engine::log::Opening;

use crate::life::{End, Ends};

/// Topic and number.
type Key = (String, i32);

/// One that is being opened, or that somebody still has to go on with.
#[derive(Default)]
struct Opened {
    is_open: bool,
    waiting: VecDeque<oneshot::Sender<()>>,
}

/// The partitions of a shard that are being opened.
#[derive(Default)]
pub struct Openings {
    opening: RefCell<BTreeMap<Key, Opened>>,
    /// Those of them that somebody waits for, the first first.
    wanted: RefCell<VecDeque<Key>>,
    /// How far those are durable that could not be opened.
    unopened: RefCell<Ends>,
}

/// Who waits for a partition. Once he goes on, or gives up with his turn come, it is the next one's.
struct Waiting<'a> {
    openings: &'a Openings,
    partition: &'a Key,
    turn: oneshot::Receiver<()>,
    has_come: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.has_come || matches!(self.turn.try_recv(), Ok(Some(()))) {
            self.openings.pass_on(self.partition);
        }
    }
}

impl Openings {
    /// These partitions are going to be opened.
    pub fn begin(&self, partitions: impl IntoIterator<Item = Key>) {
        let mut opening = self.opening.borrow_mut();
        opening.extend(partitions.into_iter().map(|key| (key, Opened::default())));
    }

    /// Whether there are none, and nobody has to go on.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.opening.borrow().is_empty()
    }

    /// A partition that somebody waits for.
    pub fn next_wanted(&self) -> Option<Key> {
        self.wanted.borrow_mut().pop_front()
    }

    /// This partition is open, or cannot be opened.
    pub fn end(&self, partition: &Key) {
        if let Some(opened) = self.opening.borrow_mut().get_mut(partition) {
            opened.is_open = true;
        }
        self.pass_on(partition);
    }

    /// Returns when the partition is not being opened, or not any more.
    pub async fn opened(&self, partition: &Key) {
        let turn = self.opening.borrow_mut().get_mut(partition).map(|opened| {
            let (waits, turn) = oneshot::channel();
            opened.waiting.push_back(waits);
            if !opened.is_open {
                self.wanted.borrow_mut().push_back(partition.clone());
            }
            turn
        });
        if let Some(turn) = turn {
            let mut waiting = Waiting {
                openings: self,
                partition,
                turn,
                has_come: false,
            };
            waiting.has_come = (&mut waiting.turn).await.is_ok();
        }
    }

    /// The next one of those who wait for a partition goes on, if it is open.
    fn pass_on(&self, partition: &Key) {
        let mut opening = self.opening.borrow_mut();
        while let Some(opened) = opening.get_mut(partition).filter(|opened| opened.is_open) {
            let Some(next) = opened.waiting.pop_front() else {
                opening.remove(partition);
                return;
            };
            // Who has given up has no turn.
            if next.send(()).is_ok() {
                return;
            }
        }
    }

    /// Returns when no partition of a topic is being opened any more.
    pub async fn topic_opened(&self, topic: &str) {
        while let Some(partition) = self.unready(|(name, _)| name == topic) {
            self.opened(&partition).await;
        }
    }

    /// Returns when no partition is being opened any more.
    pub async fn all_opened(&self) {
        while let Some(partition) = self.unready(|_| true) {
            self.opened(&partition).await;
        }
    }

    /// The first such partition that is not open yet.
    fn unready(&self, is_meant: impl Fn(&Key) -> bool) -> Option<Key> {
        let opening = self.opening.borrow();
        let mut unready = opening.iter().filter(|(_, opened)| !opened.is_open);
        let found = unready.find(|(partition, _)| is_meant(partition));
        found.map(|(partition, _)| partition.clone())
    }

    /// This one cannot be opened: what is known of its log stays so at the end of the shard.
    pub fn could_not_open(&self, partition: &Key, opening: Option<Opening>) {
        let end = opening.map(|opening| End {
            partition: partition.clone(),
            recovery_point: opening.recovery_point,
            log_start_offset: opening.log_start_offset.unwrap_or(0),
            is_clean: false,
        });
        self.unopened.borrow_mut().extend(end);
    }

    /// Its topic is deleted: what is known of its log must not be found by another of its name.
    pub fn forget_unopened(&self, topic: &str, index: i32) {
        let is_it = |end: &End| end.partition.0 == topic && end.partition.1 == index;
        self.unopened.borrow_mut().retain(|end| !is_it(end));
    }

    /// The ends of those that could not be opened.
    pub fn unopened(&self) -> Ends {
        self.unopened.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn who_waits_goes_on_one_after_the_other_and_nobody_overtakes() {
        let openings = Openings::default();
        let key = ("t".to_owned(), 0);
        openings.begin([key.clone()]);
        let mut first = Box::pin(openings.opened(&key));
        let mut given_up = Box::pin(openings.opened(&key));
        let mut second = Box::pin(openings.opened(&key));
        for waits in [&mut first, &mut given_up, &mut second] {
            assert!(waits.now_or_never().is_none());
        }
        openings.end(&key);
        // Who gives up before his turn hands out none.
        drop(given_up);
        let mut late = Box::pin(openings.opened(&key));
        assert!((&mut late).now_or_never().is_none());
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut first).now_or_never().is_some());
        assert!((&mut late).now_or_never().is_none());
        assert!((&mut second).now_or_never().is_some());
        // Who gives up with his turn come passes it on.
        drop(late);
        assert!(openings.is_empty());
        assert!(openings.all_opened().now_or_never().is_some());
    }
}
