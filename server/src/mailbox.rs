//! The mailboxes of the shards: bounded, one a shard, jobs of one sender in order.

use std::rc::Rc;

use futures_channel::mpsc;

use crate::shard::Shard;

/// How many jobs of other shards may wait at a shard; who sends more waits.
const MAILBOX_JOBS: usize = 1024;

/// A piece of work sent to another shard.
pub type Job = Box<dyn FnOnce(&Rc<Shard>) + Send>;

/// Both ends of the mailboxes of all shards.
pub struct Mesh {
    senders: Vec<mpsc::Sender<Job>>,
    receivers: Vec<Option<mpsc::Receiver<Job>>>,
}

impl Mesh {
    /// The mailboxes of `shards` shards.
    pub fn new(shards: usize) -> Mesh {
        let (senders, receivers) = (0..shards)
            .map(|_| {
                let (sender, receiver) = mpsc::channel(MAILBOX_JOBS);
                (sender, Some(receiver))
            })
            .unzip();
        Mesh { senders, receivers }
    }

    /// The part of one shard: senders to all, its own receiver.
    pub fn take(&mut self, shard: usize) -> Mailbox {
        let receiver = self.receivers[shard]
            .take()
            .expect("each shard takes its mailbox once");
        Mailbox {
            senders: self.senders.clone(),
            receiver,
        }
    }

    /// Senders to all shards, for the control plane.
    pub fn senders(&self) -> Vec<mpsc::Sender<Job>> {
        self.senders.clone()
    }
}

/// What a shard needs to be reached and to reach the others.
pub struct Mailbox {
    pub(crate) senders: Vec<mpsc::Sender<Job>>,
    pub(crate) receiver: mpsc::Receiver<Job>,
}
