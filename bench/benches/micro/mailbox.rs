//! A job to another shard and its result back, as `server/src/shard.rs` sends them.
//!
//! Two threads, each pinned and with a driver of its own; a bounded `futures_channel::mpsc` carries
//! boxed closures there, a oneshot carries the result back. One at a time, both threads fall asleep
//! between the hops; many at a time share the wake-ups.

use std::hint::black_box;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use futures_channel::{mpsc, oneshot};
use futures_util::{SinkExt, StreamExt, future::join_all};
use ringlog_engine::io::probe::DriverKind;
use ringlog_engine::io::{Io, pin_to_core, usable_cores};

use crate::fixture::{drivers, on_shard};

type Job = Box<dyn FnOnce(&Io) + Send>;

/// As a shard's mailbox.
const MAILBOX_JOBS: usize = 1024;
/// Jobs that are sent before the first result is waited for.
const IN_FLIGHT: [u64; 2] = [1, 64];

/// The other shard; it ends with the last sender.
struct Peer {
    sender: mpsc::Sender<Job>,
    thread: JoinHandle<()>,
}

impl Peer {
    fn start(kind: DriverKind, core: Option<usize>) -> Self {
        let (sender, mut receiver) = mpsc::channel::<Job>(MAILBOX_JOBS);
        let thread = std::thread::spawn(move || {
            pin(core);
            on_shard(kind, |io| async move {
                while let Some(job) = receiver.next().await {
                    job(&io);
                }
            });
        });
        Self { sender, thread }
    }

    fn stop(self) {
        drop(self.sender);
        self.thread.join().expect("the peer has not panicked");
    }
}

/// A container may forbid it: then the scheduler places the threads.
fn pin(core: Option<usize>) {
    if let Some(core) = core {
        let _ = pin_to_core(core);
    }
}

async fn post(sender: &mpsc::Sender<Job>, value: u64) -> oneshot::Receiver<u64> {
    let (reply, result) = oneshot::channel();
    let job: Job = Box::new(move |io: &Io| {
        io.spawn(async move {
            let _ = reply.send(black_box(value) + 1);
        });
    });
    let sent = sender.clone().send(job).await;
    sent.expect("the peer runs until its senders are gone");
    result
}

/// The time of `count` rounds of `in_flight` jobs and their results.
async fn rounds(sender: mpsc::Sender<Job>, in_flight: u64, count: u64) -> Duration {
    let began = Instant::now();
    for _ in 0..count {
        let mut results = Vec::new();
        for value in 0..in_flight {
            results.push(post(&sender, value).await);
        }
        for (value, result) in (1..).zip(join_all(results).await) {
            assert_eq!(result, Ok(value));
        }
    }
    began.elapsed()
}

/// Hops between two cores, or on one if there is only one.
pub(crate) fn hops(criterion: &mut Criterion) {
    let cores = usable_cores();
    let mut group = criterion.benchmark_group("mailbox");
    for (driver, kind) in drivers() {
        for in_flight in IN_FLIGHT {
            group.throughput(Throughput::Elements(in_flight));
            group.bench_function(BenchmarkId::new(driver, in_flight), |bencher| {
                bencher.iter_custom(|count| {
                    let peer = Peer::start(kind, cores.get(1).or(cores.first()).copied());
                    let (sender, core) = (peer.sender.clone(), cores.first().copied());
                    // A thread of its own: criterion's stays free to run where it likes.
                    let asking = std::thread::spawn(move || {
                        pin(core);
                        on_shard(kind, |_| rounds(sender, in_flight, count))
                    });
                    let took = asking.join().expect("no hop has failed");
                    peer.stop();
                    took
                });
            });
        }
    }
    group.finish();
}
