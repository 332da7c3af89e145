//! What the simulated world promises to the tests that live in it: crashes that lose and tear no
//! more and no less than a disk would, faults that strike, and one history for one seed.
//!
//! A failing random test prints its seed; `RINGLOG_SEED` replays that one alone, and
//! `RINGLOG_HISTORIES` asks for more than the usual 1000.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_channel::oneshot;
use futures_util::future::join_all;
use ringlog_engine::io::sim::{Chance, Client, Config, Fault, World};
use ringlog_engine::io::{AlignedBuffer, File, Io, Listener, OpenMode};

const EIO: Option<i32> = Some(5);
const ENOSPC: Option<i32> = Some(28);
const SECTOR: u64 = 512;
const MS: Duration = Duration::from_millis(1);

/// Runs `test` with each seed, or with the one that is asked for, and names the one that fails.
fn each_seed(seeds: u64, test: impl Fn(u64) + std::panic::RefUnwindSafe) {
    let asked = std::env::var("RINGLOG_SEED").ok();
    let seeds = match asked {
        Some(seed) => {
            let seed = seed.parse().expect("RINGLOG_SEED is a number");
            seed..seed + 1
        }
        None => 0..seeds,
    };
    for seed in seeds {
        if let Err(panic) = std::panic::catch_unwind(|| test(seed)) {
            eprintln!("RINGLOG_SEED={seed} replays this");
            std::panic::resume_unwind(panic);
        }
    }
}

/// Random histories per run; RINGLOG_HISTORIES asks for more.
fn histories() -> u64 {
    let asked = std::env::var("RINGLOG_HISTORIES").ok();
    asked.map_or(1000, |count| {
        count.parse().expect("RINGLOG_HISTORIES is a number")
    })
}

/// Runs one shard's task to its end.
fn block_on<T: 'static, F: Future<Output = T> + 'static>(
    world: &World,
    task: impl FnOnce(Io) -> F,
) -> T {
    let io = Io::simulated(world);
    let result = world.block_on(std::slice::from_ref(&io), task(io.clone()));
    io.clear_tasks();
    result
}

async fn open(io: &Io, path: &str, mode: OpenMode) -> File {
    io.open(Path::new(path), mode).await.unwrap()
}

async fn write(io: &Io, file: &File, bytes: &'static [u8], position: u64) {
    let bytes = vec![Bytes::from_static(bytes)];
    io.write_at(file, bytes, position).await.unwrap();
}

fn aligned(length: usize, byte: u8) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::zeroed(length);
    buffer.fill(byte);
    buffer
}

// ---- crashes -----------------------------------------------------------------------------------

#[test]
fn a_crash_keeps_what_was_synced_and_some_of_the_rest() {
    let mut outcomes = BTreeMap::new();
    for seed in 0..400 {
        let world = World::new(seed);
        world.write_file("/log", vec![b'o'; 8192]).unwrap();
        block_on(&world, async |io| {
            let file = open(&io, "/log", OpenMode::Write).await;
            write(&io, &file, &[b's'; 4096], 0).await;
            io.sync_data(&file).await.unwrap();
            write(&io, &file, &[b'n'; 4096], 4096).await;
            write(&io, &file, &[b'n'; 4096], 8192).await;
        });
        world.crash();
        let bytes = world.read_file("/log").unwrap();
        assert!(bytes[..4096].iter().all(|byte| *byte == b's'), "{seed}");
        assert!((8192..=12_288).contains(&bytes.len()), "{seed}");
        let sectors: BTreeSet<u8> = bytes[4096..8192].iter().copied().collect();
        for sector in bytes[4096..8192].chunks(512) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "{seed}");
        }
        let outcome = match (sectors.len(), sectors.first()) {
            (2, _) => "torn",
            (_, Some(b'o')) => "lost",
            (_, Some(b'n')) => "kept",
            other => panic!("{seed}: {other:?}"),
        };
        *outcomes.entry(outcome).or_insert(0) += 1;
        let length = match bytes.len() {
            8192 => "old length",
            12_288 => "new length",
            _ => "length in between",
        };
        *outcomes.entry(length).or_insert(0) += 1;
    }
    assert_eq!(outcomes.len(), 6, "{outcomes:?}");
    assert!(outcomes.values().all(|count| *count > 5), "{outcomes:?}");
}

#[test]
fn a_name_is_lost_without_a_sync_of_its_directory() {
    let mut unsynced = BTreeSet::new();
    for seed in 0..200 {
        let world = World::new(seed);
        block_on(&world, async |io| {
            for name in ["/a", "/b"] {
                let file = open(&io, name, OpenMode::CreateNew).await;
                write(&io, &file, b"contents", 0).await;
                io.sync_data(&file).await.unwrap();
                if name == "/a" {
                    io.sync_directory(Path::new("/")).await.unwrap();
                }
            }
        });
        world.crash();
        assert_eq!(world.read_file("/a").unwrap(), b"contents", "{seed}");
        match world.read_file("/b") {
            Ok(bytes) => {
                assert_eq!(bytes, b"contents", "{seed}");
                unsynced.insert("kept");
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NotFound);
                unsynced.insert("lost");
            }
        }
    }
    assert_eq!(unsynced.len(), 2);
}

#[test]
fn a_rename_is_old_or_new_after_a_crash() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let world = World::new(seed);
        world.write_file("/checkpoint", "old").unwrap();
        block_on(&world, async move |io| {
            let path = Path::new("/checkpoint");
            if seed % 2 == 0 {
                let new = Bytes::from_static(b"new");
                io.replace_file(path, new).await.unwrap();
            } else {
                let file = open(&io, "/beside", OpenMode::CreateNew).await;
                write(&io, &file, b"new", 0).await;
                io.sync_data(&file).await.unwrap();
                io.rename(Path::new("/beside"), path).await.unwrap();
            }
        });
        world.crash();
        let found = world.read_file("/checkpoint").unwrap();
        if seed % 2 == 0 {
            assert_eq!(found, b"new", "{seed}");
            assert_eq!(world.files().len(), 1, "{seed}");
        }
        outcomes.insert((seed % 2, found));
    }
    assert_eq!(outcomes.len(), 3, "{outcomes:?}");
}

#[test]
fn a_durable_write_is_durable_at_its_completion_and_torn_in_flight() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let world = World::new(seed);
        let io = Io::simulated(&world);
        let shards = [io.clone()];
        world.block_on(&shards, {
            let io = io.clone();
            async move {
                let file = open(&io, "/journal", OpenMode::CreateDirect).await;
                io.sync_directory(Path::new("/")).await.unwrap();
                io.write_durable(&file, vec![aligned(16384, 1)], 0)
                    .await
                    .unwrap();
                let task = io.clone();
                io.spawn(async move {
                    let buffers = vec![aligned(4096, 2), aligned(4096, 2)];
                    task.write_durable(&file, buffers, 4096).await.unwrap();
                });
                io.yield_now().await;
            }
        });
        world.crash();
        io.clear_tasks();
        let bytes = world.read_file("/journal").unwrap();
        assert_eq!(bytes.len(), 16384);
        for outside in [&bytes[..4096], &bytes[12288..]] {
            assert!(outside.iter().all(|byte| *byte == 1), "{seed}");
        }
        let written: BTreeSet<u8> = bytes[4096..12288].iter().copied().collect();
        for sector in bytes.chunks(512) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "{seed}");
        }
        outcomes.insert(written);
    }
    let expected = [vec![1], vec![1, 2], vec![2]];
    assert_eq!(outcomes, expected.map(BTreeSet::from_iter).into());
}

#[test]
fn a_failed_sync_forgets_that_pages_were_dirty() {
    let mut found = BTreeSet::new();
    for seed in 0..50 {
        let world = World::new(seed);
        world.write_file("/log", vec![b'o'; 100]).unwrap();
        world.fail_next(Fault::SyncError, "log");
        block_on(&world, async |io| {
            let file = open(&io, "/log", OpenMode::Write).await;
            write(&io, &file, &[b'n'; 100], 0).await;
            let error = io.sync_data(&file).await.unwrap_err();
            assert_eq!(error.raw_os_error(), EIO);
            io.sync_data(&file).await.unwrap();
            let seen = io.read_at(&file, BytesMut::new(), 0, 100).await.unwrap();
            assert_eq!(&seen[..], [b'n'; 100]);
        });
        assert_eq!(world.faults()["sync error"], 1);
        world.crash();
        found.insert(world.read_file("/log").unwrap()[0]);
    }
    assert_eq!(found, [b'n', b'o'].into());
}

#[test]
fn the_page_cache_survives_the_end_of_the_process() {
    for seed in 0..50 {
        let world = World::new(seed);
        block_on(&world, async |io| {
            let file = open(&io, "/log", OpenMode::CreateNew).await;
            write(&io, &file, b"written", 0).await;
        });
        world.kill();
        assert_eq!(world.read_file("/log").unwrap(), b"written");
    }
}

#[test]
fn a_truncation_is_durable_only_after_a_sync() {
    let mut lengths = BTreeSet::new();
    for seed in 0..100 {
        let world = World::new(seed);
        world.write_file("/log", vec![b'o'; 10_000]).unwrap();
        let is_synced = seed % 2 == 0;
        block_on(&world, async move |io| {
            let file = open(&io, "/log", OpenMode::Write).await;
            io.truncate(&file, 1000).await.unwrap();
            if is_synced {
                io.sync_data(&file).await.unwrap();
            }
        });
        world.crash();
        lengths.insert((is_synced, world.read_file("/log").unwrap().len()));
    }
    let expected = [(true, 1000), (false, 1000), (false, 10_000)];
    assert_eq!(lengths, expected.into());
}

#[test]
fn handles_and_operations_of_a_crashed_shard_are_void() {
    let world = World::new(1);
    let old = Io::simulated(&world);
    let shards = [old.clone()];
    let task = old.clone();
    let file = world.block_on(&shards, async move {
        let file = open(&task, "/log", OpenMode::Create).await;
        task.sync_directory(Path::new("/")).await.unwrap();
        file
    });
    let (task, kept) = (old.clone(), file.clone());
    let is_done = Rc::new(Cell::new(false));
    let flag = is_done.clone();
    old.spawn(async move {
        let _ = task.sync_data(&kept).await;
        flag.set(true);
    });
    world.run_for(&shards, Duration::ZERO);
    world.crash();
    world.run_for(&shards, MS * 1000);
    assert!(!is_done.get());
    old.clear_tasks();
    let error = block_on(&world, async move |io| {
        io.length(&file).await.unwrap_err().raw_os_error()
    });
    assert_eq!(error, Some(9), "EBADF");
    assert_eq!(world.files(), [("/log".to_owned(), 0)]);
}

// ---- faults ------------------------------------------------------------------------------------

#[test]
fn each_fault_of_the_disk_strikes_and_is_counted() {
    let world = World::new(3);
    block_on(&world, {
        let world = world.clone();
        async move |io: Io| {
            let file = open(&io, "/log", OpenMode::Create).await;
            let bytes = || vec![Bytes::from(vec![1; 10_000])];
            let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
            world.fail_next(Fault::WriteError, "log");
            assert_eq!(errno(io.write_at(&file, bytes(), 0).await), EIO);
            assert_eq!(io.length(&file).await.unwrap(), 0);
            world.fail_next(Fault::NoSpace, "log");
            assert_eq!(errno(io.write_at(&file, bytes(), 0).await), ENOSPC);
            world.fail_next(Fault::ShortWrite, "log");
            assert_eq!(errno(io.write_at(&file, bytes(), 0).await), EIO);
            assert!(io.length(&file).await.unwrap() < 10_000);
            world.fail_next(Fault::ReadError, "other");
            io.read_at(&file, BytesMut::new(), 0, 10).await.unwrap();
            world.fail_next(Fault::ReadError, "log");
            let read = io.read_at(&file, BytesMut::new(), 0, 10).await;
            assert_eq!(errno(read.map(|_| ())), EIO);
            world.fail_next(Fault::SyncError, "/");
            assert_eq!(errno(io.sync_directory(Path::new("/")).await), EIO);
            let start = io.now();
            world.stall_disk(MS * 700);
            io.sync_data(&file).await.unwrap();
            assert!(io.now().since(start) >= MS * 700);
        }
    });
    let faults = world.faults();
    for fault in ["write error", "no space", "short write", "read error"] {
        assert_eq!(faults[fault], 1, "{fault}");
    }
}

#[test]
fn a_full_disk_takes_what_fits_and_has_room_again() {
    let mut config = Config::default();
    config.disk.capacity_bytes = 10 * 4096;
    let world = World::with_config(1, config);
    block_on(&world, async |io| {
        let file = open(&io, "/a", OpenMode::Create).await;
        let other = open(&io, "/b", OpenMode::Create).await;
        io.allocate(&other, 4 * 4096).await.unwrap();
        let bytes = || vec![Bytes::from(vec![1; 8 * 4096])];
        let error = io.write_at(&file, bytes(), 0).await.unwrap_err();
        assert_eq!(error.raw_os_error(), ENOSPC);
        assert_eq!(io.length(&file).await.unwrap(), 6 * 4096);
        // What is reserved can be written.
        let reserved = vec![Bytes::from(vec![1; 4 * 4096])];
        io.write_at(&other, reserved, 0).await.unwrap();
        let error = io.allocate(&file, 7 * 4096).await.unwrap_err();
        assert_eq!(error.raw_os_error(), ENOSPC);
        io.remove_file(Path::new("/b")).await.unwrap();
        let error = io.write_at(&file, bytes(), 0).await.unwrap_err();
        assert_eq!(error.raw_os_error(), ENOSPC, "the file is still open");
        drop(other);
        io.write_at(&file, bytes(), 0).await.unwrap();
        io.truncate(&file, 0).await.unwrap();
        let file = open(&io, "/c", OpenMode::CreateDirect).await;
        let nine = vec![aligned(9 * 4096, 1)];
        io.write_durable(&file, nine, 0).await.unwrap();
        let two = vec![aligned(2 * 4096, 1)];
        let error = io.write_durable(&file, two, 9 * 4096).await.unwrap_err();
        assert_eq!(error.raw_os_error(), ENOSPC);
    });
}

#[test]
fn a_flipped_bit_is_read_back() {
    let world = World::new(1);
    world.write_file("/dir/log", vec![0; 10_000]).unwrap();
    world.flip_bit("/dir/log", 9000, 3).unwrap();
    let bytes = world.read_file("/dir/log").unwrap();
    let flipped: Vec<usize> = (0..10_000).filter(|at| bytes[*at] != 0).collect();
    assert_eq!((flipped, bytes[9000]), (vec![9000], 8));
    assert!(world.flip_bit("/dir/log", 10_000, 0).is_err());
}

#[test]
fn the_wall_clock_jumps_and_the_monotonic_one_does_not() {
    let world = World::new(1);
    let (now, wall) = (world.now(), world.wall_ms());
    world.jump_wall(-3_600_000);
    block_on(&world, async |io: Io| io.sleep(MS * 250).await);
    assert_eq!(world.now().since(now), MS * 250);
    assert_eq!(world.wall_ms(), wall - 3_600_000 + 250);
}

// ---- the network -------------------------------------------------------------------------------

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9092))
}

/// Sends back whatever comes, on every connection.
fn echo(io: &Io) {
    let (listener, _) = io.listen(address(), 100).unwrap();
    let shard = io.clone();
    io.spawn(async move {
        while let Ok((socket, _)) = shard.accept(&listener).await {
            let io = shard.clone();
            shard.spawn(async move {
                loop {
                    let buffer = BytesMut::with_capacity(8192);
                    let Ok((bytes, count)) = io.receive(&socket, buffer, 8192).await else {
                        return;
                    };
                    let bytes = vec![bytes.freeze()];
                    if count == 0 || io.send(&socket, bytes).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
}

#[test]
fn a_client_that_does_not_read_stops_the_server_and_then_itself() {
    let world = World::new(5);
    let io = Io::simulated(&world);
    let shards = [io.clone()];
    echo(&io);
    let client = world.connect(address()).unwrap();
    let bytes: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    client.send(&bytes);
    world.run_for(&shards, MS * 1000);
    // Two windows and what the server holds: the rest waits at the client.
    assert!(client.unsent() > 1_000_000 - 3 * 64 * 1024);
    let mut back = Vec::new();
    assert!(world.run(&shards, MS * 1000, || {
        back.extend(client.received());
        back.len() == bytes.len()
    }));
    assert!(back == bytes);
    io.clear_tasks();
    assert!(world.run(&shards, MS, || client.is_closed()));
    let refused = world.connect(address()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn connections_are_reset_by_chance_and_by_a_crash() {
    let mut config = Config::default();
    config.network.reset = Chance::one_in(50);
    config.network.delay = Chance::one_in(10);
    let world = World::with_config(9, config);
    let io = Io::simulated(&world);
    let shards = [io.clone()];
    echo(&io);
    for _ in 0..20 {
        let client = world.connect(address()).unwrap();
        let mut count = 0;
        world.run(&shards, MS * 60_000, || {
            client.send(b"ping");
            count += client.received().len();
            client.is_closed() || count > 10_000
        });
    }
    let faults = world.faults();
    assert!(faults["connection reset"] >= 5, "{faults:?}");
    assert!(faults["delayed delivery"] >= 5, "{faults:?}");
    world.configure(|config| config.network.reset = Chance::NEVER);
    let client = world.connect(address()).unwrap();
    client.send(b"ping");
    let mut got = Vec::new();
    assert!(world.run(&shards, MS * 10_000, || {
        got.extend(client.received());
        got == b"ping"
    }));
    world.crash();
    assert!(client.is_closed());
    io.clear_tasks();
    assert!(world.connect(address()).is_err());
    // The next incarnation can listen there.
    let next = Io::simulated(&world);
    echo(&next);
    let client = world.connect(address()).unwrap();
    client.send(b"again");
    let mut got = Vec::new();
    assert!(world.run(std::slice::from_ref(&next), MS * 10_000, || {
        got.extend(client.received());
        got == b"again"
    }));
    client.reset();
    world.run_for(std::slice::from_ref(&next), MS * 100);
    next.clear_tasks();
}

#[test]
fn several_shards_accept_from_one_listener() {
    let world = World::new(2);
    let shards: Vec<Io> = (0..3).map(|_| Io::simulated(&world)).collect();
    let (listener, address): (Listener, _) = shards[0].listen(address(), 100).unwrap();
    let served = Rc::new(RefCell::new(vec![0; 3]));
    for (number, io) in shards.iter().enumerate() {
        let (task, listener, served) = (io.clone(), listener.clone(), served.clone());
        io.spawn(async move {
            loop {
                let (socket, _) = task.accept(&listener).await.unwrap();
                served.borrow_mut()[number] += 1;
                let hello = vec![Bytes::from_static(b"hello")];
                task.send(&socket, hello).await.unwrap();
            }
        });
    }
    let clients: Vec<Client> = (0..90).map(|_| world.connect(address).unwrap()).collect();
    let mut greeted = 0;
    assert!(world.run(&shards, MS * 1000, || {
        let hellos = clients.iter().map(|client| client.received().len());
        greeted += hellos.sum::<usize>();
        greeted == 90 * 5
    }));
    assert!(served.borrow().iter().all(|count| *count > 5), "{served:?}");
    for io in &shards {
        io.clear_tasks();
    }
}

#[test]
fn a_shard_that_is_left_out_stands_still() {
    let world = World::new(2);
    let (first, second) = (Io::simulated(&world), Io::simulated(&world));
    let (sender, receiver) = oneshot::channel();
    let task = second.clone();
    second.spawn(async move {
        task.sleep(MS).await;
        sender.send(task.now()).unwrap();
    });
    world.run_for(std::slice::from_ref(&first), MS * 500);
    let start = world.now();
    let woken = world.block_on(&[first.clone(), second.clone()], receiver);
    assert!(woken.unwrap() >= start);
}

// ---- determinism -------------------------------------------------------------------------------

/// A busy program: clients, files, timers, a crash. Returns the hash of its history.
fn busy_history(seed: u64, salt: u64) -> (u64, BTreeMap<&'static str, u64>) {
    let world = World::with_config(seed, Config::drawn(seed));
    for _ in 0..2 {
        let shards: Vec<Io> = (0..2).map(|_| Io::simulated(&world)).collect();
        echo(&shards[0]);
        for (number, io) in shards.iter().enumerate() {
            let task = io.clone();
            io.spawn(async move {
                let path = format!("/file-{number}");
                let Ok(file) = task.open(Path::new(&path), OpenMode::Create).await else {
                    return;
                };
                for round in salt.. {
                    let bytes = Bytes::copy_from_slice(&round.to_be_bytes());
                    let _ = task.write_at(&file, vec![bytes], round * 100).await;
                    if round % 10 == 0 {
                        let _ = task.sync_data(&file).await;
                        task.sleep(MS * 3).await;
                    }
                }
            });
        }
        let clients: Vec<Client> = (0..5).map(|_| world.connect(address()).unwrap()).collect();
        let mut missing = vec![0; clients.len()];
        world.run(&shards, MS * 300, || {
            for (client, missing) in clients.iter().zip(&mut missing) {
                *missing -= client.received().len();
                if *missing == 0 {
                    client.send(b"some bytes");
                    *missing = 10;
                }
            }
            false
        });
        world.crash();
        shards.iter().for_each(Io::clear_tasks);
    }
    (world.trace_hash(), world.faults())
}

#[test]
fn one_seed_has_one_history() {
    let mut hashes = BTreeSet::new();
    let mut kinds = BTreeSet::new();
    for seed in 0..20 {
        let first = busy_history(seed, 0);
        kinds.extend(first.1.keys().copied());
        assert_eq!(first, busy_history(seed, 0), "seed {seed}");
        assert_ne!(first.0, busy_history(seed, 1).0, "another program");
        hashes.insert(first.0);
    }
    assert_eq!(hashes.len(), 20);
    for kind in [
        "connection reset",
        "crash",
        "crash: lost change of names",
        "crash: lost page",
        "crash: torn page",
        "delayed delivery",
        "short write",
        "stall",
        "sync error",
        "write error",
    ] {
        assert!(kinds.contains(kind), "no {kind} in {kinds:?}");
    }
}

// ---- random histories against a model ----------------------------------------------------------

const SECTORS: u64 = 64;

/// One sector of the model: every version that was ever asked for (0 is zeros), which of them was
/// the newest that was written, and the oldest that may be found.
#[derive(Clone, Default)]
struct Versions {
    asked: Vec<u64>,
    written: usize,
    floor: usize,
}

/// What may be found of a file after a crash.
struct Model {
    sectors: Vec<Versions>,
    /// The shortest and the longest that the file may be after each step, in sectors.
    lengths: Vec<(u64, u64)>,
    /// Steps before this one are settled.
    lengths_floor: usize,
    /// A sync has failed: later ones promise nothing.
    is_poisoned: bool,
}

struct Promise {
    sectors: Vec<usize>,
    lengths: usize,
}

impl Model {
    fn new() -> Rc<RefCell<Model>> {
        let untouched = Versions {
            asked: vec![0],
            ..Versions::default()
        };
        Rc::new(RefCell::new(Model {
            sectors: vec![untouched; SECTORS as usize],
            lengths: vec![(0, 0)],
            lengths_floor: 0,
            is_poisoned: false,
        }))
    }

    fn length(&self) -> (u64, u64) {
        *self.lengths.last().unwrap()
    }

    fn range(&mut self, first: u64, count: u64) -> &mut [Versions] {
        &mut self.sectors[first as usize..(first + count) as usize]
    }

    fn asked_to_write(&mut self, first: u64, count: u64, version: u64) {
        for sector in self.range(first, count) {
            sector.asked.push(version);
        }
        let (low, high) = self.length();
        self.lengths.push((low, high.max(first + count)));
    }

    fn wrote(&mut self, first: u64, count: u64) {
        for sector in self.range(first, count) {
            sector.written = sector.asked.len() - 1;
        }
        let (low, high) = self.length();
        self.lengths.push((low.max(first + count), high));
    }

    fn wrote_durably(&mut self, first: u64, count: u64) {
        self.wrote(first, count);
        for sector in self.range(first, count) {
            sector.floor = sector.written;
        }
        self.lengths_floor = self.lengths.len() - 1;
    }

    fn asked_to_truncate(&mut self, length: u64) {
        for sector in self.range(length, SECTORS - length) {
            sector.asked.push(0);
        }
        let (low, high) = self.length();
        self.lengths.push((low.min(length), high.max(length)));
    }

    fn truncated(&mut self, length: u64) {
        for sector in self.range(length, SECTORS - length) {
            sector.written = sector.asked.len() - 1;
        }
        self.lengths.push((length, length));
    }

    /// What a sync that starts now will promise.
    fn promise(&self) -> Promise {
        Promise {
            sectors: self.sectors.iter().map(|sector| sector.written).collect(),
            lengths: self.lengths.len() - 1,
        }
    }

    fn synced(&mut self, promise: &Promise) {
        if !self.is_poisoned {
            for (sector, written) in self.sectors.iter_mut().zip(&promise.sectors) {
                sector.floor = sector.floor.max(*written);
            }
            self.lengths_floor = self.lengths_floor.max(promise.lengths);
        }
    }

    /// Checks what was found, which then is all there is.
    fn check_and_adopt(&mut self, name: &str, bytes: &[u8]) {
        let lengths = &self.lengths[self.lengths_floor..];
        let low = lengths.iter().map(|length| length.0).min().unwrap() * SECTOR;
        let high = lengths.iter().map(|length| length.1).max().unwrap() * SECTOR;
        let length = bytes.len() as u64;
        assert!(
            (low..=high).contains(&length),
            "{name}: {length} bytes, allowed {low} to {high}"
        );
        for (number, sector) in self.sectors.iter_mut().enumerate() {
            let start = bytes.len().min(number * 512);
            let found = &bytes[start..bytes.len().min(start + 512)];
            let version = match found.len() {
                0..8 => 0,
                _ => u64::from_be_bytes(found[..8].try_into().unwrap()),
            };
            let whole = stamp(number as u64, version);
            assert!(
                *found == whole[..found.len()] || found.len() < 8,
                "{name}: sector {number} is torn"
            );
            // The file may end before or within the sector.
            let allowed = &sector.asked[sector.floor..];
            assert!(
                found.len() < 512 || allowed.contains(&version),
                "{name}: sector {number} has version {version}, allowed {allowed:?}"
            );
            let is_whole = found.len() == 512;
            *sector = Versions {
                asked: vec![if is_whole { version } else { 0 }],
                ..Versions::default()
            };
        }
        self.lengths = vec![(length / SECTOR, length / SECTOR)];
        self.lengths_floor = 0;
        self.is_poisoned = false;
    }
}

/// A sector of a version.
fn stamp(sector: u64, version: u64) -> [u8; 512] {
    let mut bytes = [0; 512];
    if version > 0 {
        for (at, chunk) in bytes.chunks_mut(8).enumerate() {
            let number = version ^ (sector << 32) ^ ((at as u64) << 40);
            let number = if at == 0 { version } else { number };
            chunk.copy_from_slice(&number.to_be_bytes());
        }
    }
    bytes
}

fn stamps(first: u64, count: u64, version: u64) -> Vec<u8> {
    let sectors = (first..first + count).map(|sector| stamp(sector, version));
    sectors.flatten().collect()
}

/// Where a broken program differs from a right one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// Says that it has synced, and has not.
    SkippedSync,
    /// Takes a later sync for the repair of one that failed.
    RetriedSync,
    /// Takes what was written during a sync for synced.
    LatePromise,
    /// Takes a write through the page cache for durable.
    AckBeforeSync,
}

#[derive(Clone)]
struct Scribbler {
    io: Io,
    world: World,
    path: &'static str,
    model: Rc<RefCell<Model>>,
    bug: Bug,
}

impl Scribbler {
    fn below(&self, bound: u64) -> u64 {
        self.world.random() % bound
    }

    /// Writes, truncates and syncs a file until the power fails.
    async fn run_cached(self) {
        let path = Path::new(self.path);
        let file = self.io.open(path, OpenMode::Write).await.unwrap();
        self.io.spawn(self.clone().sync_often(file.clone()));
        loop {
            let first = self.below(SECTORS);
            let count = 1 + self.below(SECTORS - first).min(self.below(20));
            match self.below(20) {
                0 => {
                    self.model.borrow_mut().asked_to_truncate(first);
                    if self.io.truncate(&file, first * SECTOR).await.is_ok() {
                        self.model.borrow_mut().truncated(first);
                    }
                }
                1 => {
                    let (position, length) = (first * SECTOR, count * SECTOR);
                    let _ = self.io.sync_range(&file, position, length).await;
                }
                2 => self.io.sleep(MS).await,
                _ => {
                    let version = self.world.random() | 1;
                    let bytes = vec![stamps(first, count, version).into()];
                    self.model
                        .borrow_mut()
                        .asked_to_write(first, count, version);
                    let result = self.io.write_at(&file, bytes, first * SECTOR).await;
                    let mut model = self.model.borrow_mut();
                    match result {
                        Ok(()) if self.bug == Bug::AckBeforeSync => {
                            model.wrote_durably(first, count);
                        }
                        Ok(()) => model.wrote(first, count),
                        Err(_) => {}
                    }
                }
            }
        }
    }

    async fn sync_often(self, file: File) {
        loop {
            let pause = u32::try_from(self.below(30)).unwrap();
            self.io.sleep(MS / 10 * pause).await;
            let mut promise = self.model.borrow().promise();
            let result = match self.bug {
                Bug::SkippedSync => Ok(()),
                _ => self.io.sync_data(&file).await,
            };
            let mut model = self.model.borrow_mut();
            if self.bug == Bug::LatePromise {
                promise = model.promise();
            }
            match result {
                Ok(()) => model.synced(&promise),
                Err(_) => model.is_poisoned = self.bug != Bug::RetriedSync,
            }
        }
    }

    /// Writes a file past the page cache until the power fails.
    async fn run_direct(self) {
        let path = Path::new(self.path);
        let file = self.io.open(path, OpenMode::CreateDirect).await.unwrap();
        loop {
            let first = self.below(SECTORS / 8) * 8;
            let pages = 1 + self.below((SECTORS - first) / 8);
            let version = self.world.random() | 1;
            let bytes = stamps(first, pages * 8, version);
            let pages = bytes.chunks(4096).map(|page| {
                let mut buffer = AlignedBuffer::zeroed(4096);
                buffer.copy_from_slice(page);
                buffer
            });
            let pages: Vec<AlignedBuffer> = pages.collect();
            let count = pages.len() as u64 * 8;
            self.model
                .borrow_mut()
                .asked_to_write(first, count, version);
            let result = self.io.write_durable(&file, pages, first * SECTOR).await;
            if result.is_ok() {
                self.model.borrow_mut().wrote_durably(first, count);
            }
        }
    }

    /// Reads the file after a crash, checks it, and leaves it whole and durable.
    async fn recover(self) {
        let path = Path::new(self.path);
        let bytes = self.io.read_file(path, 1 << 20).await.unwrap();
        self.model.borrow_mut().check_and_adopt(self.path, &bytes);
        let file = self.io.open(path, OpenMode::Write).await.unwrap();
        let whole = bytes.len() as u64 / SECTOR * SECTOR;
        self.io.truncate(&file, whole).await.unwrap();
        // If only the process was killed, and a sync had failed before, the page cache has pages
        // that are neither on the disk nor dirty: only writing them again makes them durable.
        self.io
            .write_at(&file, vec![bytes.freeze()], 0)
            .await
            .unwrap();
        self.io.truncate(&file, whole).await.unwrap();
        self.io.sync_data(&file).await.unwrap();
    }
}

/// A few lives of a shard that writes three files, each ended by a crash or a kill.
fn file_history(seed: u64, bug: Bug) {
    let paths = ["/cached-1", "/cached-2", "/direct"];
    let world = World::new(seed);
    for path in paths {
        world.write_file(path, "").unwrap();
    }
    let models = paths.map(|_| Model::new());
    for _ in 0..3 {
        let io = Io::simulated(&world);
        let scribblers = paths.iter().zip(&models).map(|(path, model)| Scribbler {
            io: io.clone(),
            world: world.clone(),
            path,
            model: model.clone(),
            bug,
        });
        let scribblers: Vec<Scribbler> = scribblers.collect();
        let shards = [io.clone()];
        world.configure(|config| *config = Config::default());
        let recoveries = scribblers.clone().into_iter().map(Scribbler::recover);
        world.block_on(&shards, join_all(recoveries));
        world.configure(|config| {
            config.disk.write_error = Chance::one_in(50);
            config.disk.sync_error = Chance::one_in(10);
            config.disk.stall = Chance::one_in(50);
            config.disk.stall_max = MS * 20;
        });
        for scribbler in scribblers {
            if scribbler.path == "/direct" {
                io.spawn(scribbler.run_direct());
            } else {
                io.spawn(scribbler.run_cached());
            }
        }
        world.run_for(&shards, Duration::from_micros(world.random() % 30_000));
        if world.random().is_multiple_of(4) {
            world.kill();
        } else {
            world.crash();
        }
        io.clear_tasks();
    }
    for (path, model) in paths.iter().zip(&models) {
        let bytes = world.read_file(path).unwrap();
        model.borrow_mut().check_and_adopt(path, &bytes);
    }
}

#[test]
fn after_a_crash_each_sector_holds_its_last_durable_version_or_a_later_one() {
    let start = Instant::now();
    each_seed(histories(), |seed| file_history(seed, Bug::None));
    eprintln!("the histories of files took {:?}", start.elapsed());
}

#[test]
fn the_model_finds_planted_bugs() {
    let mut found = Vec::new();
    let bugs = [
        Bug::SkippedSync,
        Bug::RetriedSync,
        Bug::LatePromise,
        Bug::AckBeforeSync,
    ];
    for bug in bugs {
        let fails = |seed: &u64| std::panic::catch_unwind(|| file_history(*seed, bug)).is_err();
        found.push((0..300).find(fails));
    }
    eprintln!("first seeds that find the planted bugs: {found:?}");
    assert!(found.iter().all(Option::is_some), "{found:?}");
}

// ---- random histories of names -----------------------------------------------------------------

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// What each name may mean after a crash: numbers of files, 0 for none.
#[derive(Default)]
struct NameModel {
    now: BTreeMap<&'static str, u64>,
    possible: BTreeMap<&'static str, BTreeSet<u64>>,
}

impl NameModel {
    fn set(&mut self, name: &'static str, file: u64) {
        self.now.insert(name, file);
        self.possible.entry(name).or_default().insert(file);
    }

    fn settle(&mut self) {
        for name in NAMES {
            let now = *self.now.entry(name).or_default();
            self.possible.insert(name, [now].into());
        }
    }
}

async fn juggle_names(io: Io, world: World, model: Rc<RefCell<NameModel>>) {
    let path = |name: &str| Path::new("/dir").join(name);
    // Before a call, what it may do is possible; after it, it is so.
    let may_become = |name: &'static str, file| {
        let mut model = model.borrow_mut();
        model.possible.entry(name).or_default().insert(file);
    };
    loop {
        let from = NAMES[(world.random() % 6) as usize];
        let to = NAMES[(world.random() % 6) as usize];
        let file = model.borrow().now.get(from).copied().unwrap_or(0);
        match world.random() % 8 {
            0 => {
                io.sync_directory(Path::new("/dir")).await.unwrap();
                model.borrow_mut().settle();
            }
            1 | 2 if file > 0 => {
                may_become(from, 0);
                io.remove_file(&path(from)).await.unwrap();
                model.borrow_mut().set(from, 0);
            }
            3..6 if file > 0 && from != to => {
                may_become(from, 0);
                may_become(to, file);
                io.rename(&path(from), &path(to)).await.unwrap();
                model.borrow_mut().set(from, 0);
                model.borrow_mut().set(to, file);
            }
            _ if file == 0 => {
                let new = world.random() | 1;
                may_become(from, new);
                let file = io.open(&path(from), OpenMode::CreateNew).await.unwrap();
                model.borrow_mut().set(from, new);
                let bytes = vec![Bytes::copy_from_slice(&new.to_be_bytes())];
                io.write_at(&file, bytes, 0).await.unwrap();
                io.sync_data(&file).await.unwrap();
            }
            _ => {}
        }
    }
}

fn name_history(seed: u64) {
    let world = World::new(seed);
    world
        .write_file("/dir/a", 1u64.to_be_bytes().to_vec())
        .unwrap();
    let model = Rc::new(RefCell::new(NameModel::default()));
    model.borrow_mut().set("a", 1);
    model.borrow_mut().settle();
    for _ in 0..3 {
        let io = Io::simulated(&world);
        io.spawn(juggle_names(io.clone(), world.clone(), model.clone()));
        let time = Duration::from_micros(world.random() % 10_000);
        world.run_for(std::slice::from_ref(&io), time);
        world.crash();
        io.clear_tasks();
        let mut found: BTreeMap<&str, u64> = NAMES.map(|name| (name, 0)).into();
        for (path, length) in world.files() {
            let bytes = world.read_file(&path).unwrap();
            let name = path.strip_prefix("/dir/").unwrap();
            let name = NAMES.iter().find(|known| **known == name).unwrap();
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(&bytes);
            // A file may be found before its first sync: then it may be empty or in part.
            let number = u64::from_be_bytes(whole);
            let possible = &model.borrow().possible[name];
            let number = if length == 8 && number > 0 && possible.contains(&number) {
                number
            } else {
                u64::MAX
            };
            found.insert(name, number);
        }
        let mut seen = BTreeSet::new();
        let mut next = NameModel::default();
        for (name, number) in found {
            let possible = model.borrow().possible[name].clone();
            if number == u64::MAX {
                assert!(possible.iter().any(|n| *n > 0), "{name} from nowhere");
            } else {
                assert!(
                    possible.contains(&number),
                    "{name}: {number} of {possible:?}"
                );
            }
            let is_new = number == 0 || number == u64::MAX || seen.insert(number);
            assert!(is_new, "{number} has two names");
            next.set(name, number);
        }
        next.settle();
        // Unsynced files have no number to be told by: give all of them a new start.
        for (name, number) in next.now.clone() {
            if number == u64::MAX {
                let bytes = number.to_be_bytes().to_vec();
                world.write_file(format!("/dir/{name}"), bytes).unwrap();
            }
        }
        *model.borrow_mut() = next;
    }
}

#[test]
fn after_a_crash_each_name_means_what_was_synced_or_what_came_later() {
    let start = Instant::now();
    each_seed(histories(), name_history);
    eprintln!("the histories of names took {:?}", start.elapsed());
}
