//! The append loop on each runtime, on one thread, with what that runtime has for files.
//!
//! | name | write | durable by |
//! |---|---|---|
//! | ringlog uring, poll | `Io::write_at`: pwritev(2) inline | `Io::sync_data`: fdatasync(2) |
//! | the same, journal | the same, and the journal | the journal's O_DIRECT write with RWF_DSYNC; the file is synced at its checkpoints |
//! | tokio-uring | `write_all_at`: an sqe | `sync_data`: an sqe |
//! | glommio | `DmaFile::write_at`: O_DIRECT, by blocks | `fdatasync`: an sqe |
//! | tokio | `tokio::fs`: write(2) on a thread of its pool | `sync_data` on a thread of its pool |
//!
//! O_DIRECT writes whole blocks: glommio's loop writes the last, partly filled block again with every
//! append, and cuts the file to its length in the end. Its writes have reached the device, and not
//! only the page cache, also where no durable answer is asked for.

use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use ringlog_engine::io::probe::{DriverKind, choose};
use ringlog_engine::io::{Io, OpenMode};
use ringlog_engine::journal::{Append, Journal, JournalOptions};
use tokio::io::AsyncWriteExt;

use crate::meter::{Cost, Meter};
use crate::scene::Scene;
use crate::told;

/// Why there is no cost.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The runtime cannot be had here.
    Unavailable(String),
    /// It could be had, and failed.
    Failed(String),
}

impl From<String> for Trouble {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

/// One way to append.
#[derive(Clone, Copy)]
pub(crate) struct Runtime {
    /// For the table.
    pub(crate) name: &'static str,
    /// Makes no sense without durable answers.
    pub(crate) is_durable_only: bool,
    /// Appends all of a scene to a new file.
    pub(crate) run: fn(&Scene, &Path) -> Result<Cost, Trouble>,
}

const fn runtime(name: &'static str, run: fn(&Scene, &Path) -> Result<Cost, Trouble>) -> Runtime {
    Runtime {
        name,
        is_durable_only: false,
        run,
    }
}

const fn journal(name: &'static str, run: fn(&Scene, &Path) -> Result<Cost, Trouble>) -> Runtime {
    Runtime {
        is_durable_only: true,
        ..runtime(name, run)
    }
}

/// All of them.
pub(crate) const RUNTIMES: [Runtime; 7] = [
    runtime("ringlog uring", |scene, path| {
        ringlog(DriverKind::Uring, scene, path)
    }),
    runtime("ringlog poll", |scene, path| {
        ringlog(DriverKind::Poll, scene, path)
    }),
    runtime("tokio-uring", tokio_uring),
    runtime("glommio", glommio),
    runtime("tokio", tokio),
    journal("ringlog uring, journal", |scene, path| {
        ringlog_journal(DriverKind::Uring, scene, path)
    }),
    journal("ringlog poll, journal", |scene, path| {
        ringlog_journal(DriverKind::Poll, scene, path)
    }),
];

/// Runs `work` on a shard of ours.
fn on_shard<F: Future<Output = Result<Cost, Trouble>> + 'static>(
    kind: DriverKind,
    work: impl FnOnce(Io) -> F,
) -> Result<Cost, Trouble> {
    choose(kind).map_err(Trouble::Unavailable)?;
    let io = Io::new(kind).map_err(|error| Trouble::Unavailable(error.to_string()))?;
    let cost = io.block_on(work(io.clone()));
    io.clear_tasks();
    cost
}

fn ringlog(kind: DriverKind, scene: &Scene, path: &Path) -> Result<Cost, Trouble> {
    let (scene, path) = (scene.clone(), path.to_owned());
    on_shard(kind, |io| async move {
        let failed = |error| told(&path, &error);
        let file = io.open(&path, OpenMode::CreateNew).await.map_err(failed)?;
        let frames = scene.frames();
        let mut position = 0;
        let meter = Meter::start();
        for number in 0..scene.appends {
            let frame = Bytes::from(frames.receive(number));
            let length = frame.len() as u64;
            let written = io.write_at(&file, vec![frame], position).await;
            written.map_err(failed)?;
            if scene.is_durable {
                io.sync_data(&file).await.map_err(failed)?;
            }
            position += length;
        }
        Ok(meter.stop())
    })
}

/// As the broker does it in durable mode: the page cache and the journal, and checkpoints.
fn ringlog_journal(kind: DriverKind, scene: &Scene, path: &Path) -> Result<Cost, Trouble> {
    let (scene, path) = (scene.clone(), path.to_owned());
    on_shard(kind, |io| async move {
        let failed = |error| told(&path, &error);
        let of_journal = |error| told(&path, &error);
        let directory = path.with_extension("journal");
        io.create_directory(&directory).await.map_err(failed)?;
        // So small that the loop over 16 KiB passes checkpoints.
        let options = JournalOptions {
            file_bytes: 1 << 20,
            ring_bytes: 4 << 20,
            ..JournalOptions::new(directory, 0)
        };
        let journal = Journal::open(&io, options).await.map_err(of_journal)?;
        let file = io.open(&path, OpenMode::CreateNew).await.map_err(failed)?;
        let frames = scene.frames();
        let mut position = 0;
        let meter = Meter::start();
        for number in 0..scene.appends {
            let buffers = [Bytes::from(frames.receive(number))];
            let reserved = journal.reserve(frames.bytes()).await;
            let reservation = reserved.map_err(of_journal)?;
            let written = io.write_at(&file, buffers.to_vec(), position).await;
            written.map_err(failed)?;
            let append = Append {
                topic_id: uuid::Uuid::nil(),
                partition: 0,
                segment_base: 0,
                position,
                buffers: &buffers,
            };
            let lsn = journal.append(&append).map_err(of_journal)?;
            drop(reservation);
            journal.durable(lsn).await.map_err(of_journal)?;
            if journal.needs_checkpoint() {
                let lsn = journal.start_checkpoint();
                io.sync_data(&file).await.map_err(failed)?;
                journal.finish_checkpoint(lsn);
            }
            position += buffers[0].len() as u64;
        }
        let cost = meter.stop();
        io.sync_data(&file).await.map_err(failed)?;
        journal.finish_checkpoint(journal.start_checkpoint());
        journal.close().await.map_err(of_journal)?;
        Ok(cost)
    })
}

fn tokio_uring(scene: &Scene, path: &Path) -> Result<Cost, Trouble> {
    // Set up first, since it panics where no ring can be had, and a panic later is another matter.
    let available = std::panic::catch_unwind(|| tokio_uring::start(async {}));
    available.map_err(|panic| Trouble::Unavailable(message(&*panic)))?;
    let failed = |error| told(path, &error);
    tokio_uring::start(async {
        let file = tokio_uring::fs::File::create(path).await.map_err(failed)?;
        let frames = scene.frames();
        let mut position = 0;
        let meter = Meter::start();
        for number in 0..scene.appends {
            let (written, frame) = file.write_all_at(frames.receive(number), position).await;
            written.map_err(failed)?;
            if scene.is_durable {
                file.sync_data().await.map_err(failed)?;
            }
            position += frame.len() as u64;
        }
        let cost = meter.stop();
        file.close().await.map_err(failed)?;
        Ok(cost)
    })
}

/// What a panic said.
fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("it panicked: {}", text.unwrap_or("without a message"))
}

fn tokio(scene: &Scene, path: &Path) -> Result<Cost, Trouble> {
    let failed = |error| told(path, &error);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.map_err(failed)?.block_on(async {
        let mut file = tokio::fs::File::create(path).await.map_err(failed)?;
        let frames = scene.frames();
        let meter = Meter::start();
        for number in 0..scene.appends {
            let written = file.write_all(&frames.receive(number)).await;
            written.map_err(failed)?;
            // Its write returns before the thread of the pool has written.
            file.flush().await.map_err(failed)?;
            if scene.is_durable {
                file.sync_data().await.map_err(failed)?;
            }
        }
        Ok(meter.stop())
    })
}

/// Of a block of O_DIRECT here: what the engine uses too.
const BLOCK: usize = ringlog_engine::io::DIRECT_IO_ALIGNMENT;
/// Registered for O_DIRECT: less than the usual limit of locked memory, which is 8 MiB.
const GLOMMIO_BYTES: usize = 1 << 20;

fn glommio(scene: &Scene, path: &Path) -> Result<Cost, Trouble> {
    let builder = glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound);
    let made = builder.io_memory(GLOMMIO_BYTES).make();
    let executor = made.map_err(|error| {
        Trouble::Unavailable(format!("{error} (its ring needs 512 KiB of locked memory: `ulimit -l`, io_uring: `sysctl kernel.io_uring_disabled`)"))
    })?;
    let failed = |error: glommio::GlommioError<()>| told(path, &error);
    executor.run(async {
        let file = Rc::new(glommio::io::DmaFile::create(path).await.map_err(failed)?);
        let frames = scene.frames();
        // The bytes since the last whole block.
        let mut tail = Vec::with_capacity(BLOCK);
        let mut position = 0;
        let meter = Meter::start();
        for number in 0..scene.appends {
            let frame = frames.receive(number);
            let filled = tail.len() + frame.len();
            let mut buffer = file.alloc_dma_buffer(filled.next_multiple_of(BLOCK));
            let bytes = buffer.as_bytes_mut();
            bytes[..tail.len()].copy_from_slice(&tail);
            bytes[tail.len()..filled].copy_from_slice(&frame);
            bytes[filled..].fill(0);
            let whole = filled / BLOCK * BLOCK;
            tail.clear();
            tail.extend_from_slice(&bytes[whole..filled]);
            let length = bytes.len();
            let written = file.write_at(buffer, position).await.map_err(failed)?;
            if written != length {
                let short = format!("{written} of {length} bytes were written");
                return Err(Trouble::Failed(short));
            }
            if scene.is_durable {
                file.fdatasync().await.map_err(failed)?;
            }
            position += whole as u64;
        }
        let cost = meter.stop();
        let end = position + tail.len() as u64;
        file.truncate(end).await.map_err(failed)?;
        file.close_rc().await.map_err(failed)?;
        Ok(cost)
    })
}
