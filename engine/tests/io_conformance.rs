//! The same cases on all three I/O drivers: what one promises, all keep.
//!
//! The `uring` cases are passed over, with a line that says so, where the kernel refuses a ring.
//! The `sim` cases run with several seeds; `RINGLOG_SEED` replays one.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_channel::oneshot;
use futures_util::future::{Either, join, join_all, join5, select};
use ringlog_engine::io::sim::{Client, World};
use ringlog_engine::io::{
    AlignedBuffer, DirectoryEntry, DriverKind, File, Io, Listener, OpenMode, Socket, probe,
};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const MIB: usize = 1024 * 1024;

/// A shard to test, and a directory for its files.
#[derive(Clone)]
struct Rig {
    io: Io,
    directory: PathBuf,
    world: Option<World>,
}

/// The far end of a connection.
enum Peer {
    Real { stream: TcpStream, has_ended: bool },
    Simulated(Client),
}

impl Rig {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn listen(&self) -> (Listener, SocketAddr) {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        self.io.listen(any, 128).unwrap()
    }

    fn connect(&self, address: SocketAddr) -> Peer {
        match &self.world {
            Some(world) => Peer::Simulated(world.connect(address).unwrap()),
            None => {
                let stream = TcpStream::connect(address).unwrap();
                stream.set_nonblocking(true).unwrap();
                Peer::Real {
                    stream,
                    has_ended: false,
                }
            }
        }
    }

    async fn pair(&self) -> (Socket, Peer) {
        let (listener, address) = self.listen();
        let peer = self.connect(address);
        let (socket, _) = self.io.accept(&listener).await.unwrap();
        (socket, peer)
    }

    async fn receive_exactly(&self, socket: &Socket, count: usize) -> BytesMut {
        let mut buffer = BytesMut::with_capacity(count);
        while buffer.len() < count {
            let rest = count - buffer.len();
            let (back, received) = self.io.receive(socket, buffer, rest).await.unwrap();
            assert!(received > 0, "the stream ends after {} bytes", back.len());
            buffer = back;
        }
        buffer
    }

    async fn peer_reads(&self, peer: &mut Peer, count: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < count {
            let piece = peer.read();
            if piece.is_empty() {
                assert!(!peer.is_closed(), "closed after {} bytes", all.len());
                self.io.sleep(MS / 10).await;
            }
            all.extend(piece);
        }
        assert_eq!(all.len(), count);
        all
    }

    async fn peer_sees_the_end(&self, peer: &mut Peer) {
        while !peer.is_closed() {
            assert_eq!(peer.read(), b"");
            self.io.sleep(MS).await;
        }
    }

    async fn peer_writes(&self, peer: &mut Peer, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let written = peer.write(bytes);
            bytes = &bytes[written..];
            if written == 0 {
                self.io.sleep(MS / 10).await;
            }
        }
    }

    async fn file(&self, name: &str, contents: &[u8]) -> File {
        let file = self
            .io
            .open(&self.path(name), OpenMode::Create)
            .await
            .unwrap();
        let contents = vec![Bytes::copy_from_slice(contents)];
        self.io.write_at(&file, contents, 0).await.unwrap();
        file
    }

    async fn contents(&self, name: &str) -> BytesMut {
        let path = self.path(name);
        self.io.read_file(&path, 64 * MIB).await.unwrap()
    }

    async fn names(&self, path: &Path) -> Vec<(String, bool)> {
        let entries = self.io.list_directory(path).await.unwrap();
        let tuple = |entry: DirectoryEntry| (entry.name, entry.is_directory);
        entries.into_iter().map(tuple).collect()
    }
}

impl Peer {
    fn read(&mut self) -> Vec<u8> {
        match self {
            Peer::Simulated(client) => client.received(),
            Peer::Real { stream, has_ended } => {
                let mut piece = vec![0; 64 * 1024];
                match stream.read(&mut piece) {
                    Ok(0) => *has_ended = true,
                    Ok(count) => {
                        piece.truncate(count);
                        return piece;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => *has_ended = true,
                }
                Vec::new()
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        match self {
            Peer::Simulated(client) => {
                client.send(bytes);
                bytes.len()
            }
            Peer::Real { stream, .. } => match stream.write(bytes) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(error) => panic!("peer cannot write: {error}"),
            },
        }
    }

    fn is_closed(&mut self) -> bool {
        match self {
            Peer::Simulated(client) => client.is_closed(),
            Peer::Real { has_ended, .. } => *has_ended,
        }
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

// ---- how the cases run -------------------------------------------------------------------------

fn on_real<F: Future<Output = ()> + 'static>(kind: DriverKind, name: &str, case: fn(Rig) -> F) {
    if kind == DriverKind::Uring
        && let Err(why) = probe::choose(kind)
    {
        eprintln!("{name} not run on uring: {why}");
        return;
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("io-{}-{kind:?}-{name}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let io = Io::new(kind).unwrap();
    let rig = Rig {
        io: io.clone(),
        directory: directory.clone(),
        world: None,
    };
    let limit = io.clone();
    io.block_on(async move {
        let case = Box::pin(case(rig));
        let sleep = Box::pin(limit.sleep(60 * SECOND));
        if let Either::Right(_) = select(case, sleep).await {
            panic!("still not done after 60 s");
        }
    });
    io.clear_tasks();
    assert_eq!(io.task_count(), 0);
    std::fs::remove_dir_all(&directory).unwrap();
}

fn on_sim<F: Future<Output = ()> + 'static>(case: fn(Rig) -> F) {
    let seeds = match std::env::var("RINGLOG_SEED") {
        Ok(seed) => vec![seed.parse().expect("RINGLOG_SEED is a number")],
        Err(_) => (1..=16).collect(),
    };
    for seed in seeds {
        let run = move || {
            let world = World::new(seed);
            let io = Io::simulated(&world);
            let rig = Rig {
                io: io.clone(),
                directory: PathBuf::from("/data"),
                world: Some(world.clone()),
            };
            let directory = rig.directory.clone();
            let shards = [io.clone()];
            world.block_on(&shards, async move {
                rig.io.create_directory(&directory).await.unwrap();
                case(rig).await;
            });
            io.clear_tasks();
        };
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("RINGLOG_SEED={seed} replays this");
            std::panic::resume_unwind(panic);
        }
    }
}

macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        mod uring {
            $(#[test] fn $case() {
                super::on_real(super::DriverKind::Uring, stringify!($case), super::$case);
            })*
        }
        mod poll {
            $(#[test] fn $case() {
                super::on_real(super::DriverKind::Poll, stringify!($case), super::$case);
            })*
        }
        mod sim {
            $(#[test] fn $case() {
                super::on_sim(super::$case);
            })*
        }
    };
}

cases!(
    tasks_run_and_join,
    timers_fire_in_the_order_of_their_deadlines,
    a_dropped_sleep_is_forgotten,
    yield_now_lets_others_run,
    vectored_send_keeps_the_order,
    ten_mib_each_way_past_a_slow_reader,
    a_dropped_receive_makes_room_for_another,
    shutdown_ends_a_pending_receive,
    the_end_of_the_peer_is_zero_bytes,
    sending_to_a_closed_peer_is_an_error,
    dropping_a_socket_closes_it,
    many_connections_on_one_listener,
    send_file_sends_a_range,
    send_file_past_the_end_is_an_error,
    write_and_read_at_positions,
    reading_past_the_end_gives_less,
    large_writes_and_reads,
    durable_writes_of_any_number_of_buffers,
    open_modes_and_their_errors,
    names_come_and_go,
    lengths_change,
    replace_file_replaces,
    more_reads_at_once_than_a_ring_holds,
    operations_may_outlive_their_futures,
    an_idle_shard_does_not_turn,
);

// ---- tasks and time ----------------------------------------------------------------------------

async fn tasks_run_and_join(rig: Rig) {
    let receivers = (0..100).map(|number| {
        let (sender, receiver) = oneshot::channel();
        let io = rig.io.clone();
        rig.io.spawn(async move {
            io.sleep(MS * (100 - number) / 10).await;
            sender.send(number).unwrap();
        });
        receiver
    });
    let numbers: Vec<u32> = join_all(receivers)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    rig.io.yield_now().await;
    // What is left is the case itself.
    assert_eq!(rig.io.task_count(), 1);
}

async fn timers_fire_in_the_order_of_their_deadlines(rig: Rig) {
    let fired = Rc::new(RefCell::new(Vec::new()));
    let start = rig.io.now();
    // Each in a task of its own: the order is that of the wake-ups, also where several are late at once.
    let sleeps = [30, 10, 20, 0, 10].into_iter().enumerate().map(|(n, ms)| {
        let (fired, io) = (fired.clone(), rig.io.clone());
        let (sender, receiver) = oneshot::channel();
        rig.io.spawn(async move {
            io.sleep_until(start + MS * ms).await;
            assert!(io.now() >= start + MS * ms);
            fired.borrow_mut().push((ms, n));
            sender.send(()).unwrap();
        });
        receiver
    });
    join_all(sleeps).await;
    let expected = vec![(0, 3), (10, 1), (10, 4), (20, 2), (30, 0)];
    assert_eq!(*fired.borrow(), expected);
    assert!(rig.io.now().since(start) < 10 * SECOND);
}

async fn a_dropped_sleep_is_forgotten(rig: Rig) {
    // Lets the time limit of the case start its own sleep.
    rig.io.yield_now().await;
    let before = rig.io.next_deadline();
    let mut long = Box::pin(rig.io.sleep(MS));
    let short = Box::pin(rig.io.sleep(Duration::ZERO));
    assert!(matches!(select(short, &mut long).await, Either::Left(_)));
    drop(long);
    let sleep = Box::pin(rig.io.sleep(1000 * SECOND));
    let short = Box::pin(rig.io.sleep(MS * 2));
    assert!(matches!(select(short, sleep).await, Either::Left(_)));
    assert_eq!(rig.io.next_deadline(), before);
}

async fn yield_now_lets_others_run(rig: Rig) {
    let ran = Rc::new(Cell::new(false));
    let flag = ran.clone();
    rig.io.spawn(async move { flag.set(true) });
    assert!(!ran.get());
    rig.io.yield_now().await;
    assert!(ran.get());
}

// ---- sockets -----------------------------------------------------------------------------------

async fn vectored_send_keeps_the_order(rig: Rig) {
    let (socket, mut peer) = rig.pair().await;
    let bytes = pattern(100 * 37);
    let mut buffers: Vec<Bytes> = bytes.chunks(37).map(Bytes::copy_from_slice).collect();
    buffers.insert(0, Bytes::new());
    buffers.insert(70, Bytes::new());
    buffers.push(Bytes::new());
    rig.io.send(&socket, buffers).await.unwrap();
    rig.io.send(&socket, Vec::new()).await.unwrap();
    rig.io.send(&socket, vec![Bytes::new()]).await.unwrap();
    assert!(rig.peer_reads(&mut peer, bytes.len()).await == bytes);
    rig.peer_writes(&mut peer, &bytes).await;
    assert!(rig.receive_exactly(&socket, bytes.len()).await == bytes);
    // A receive appends, and takes no more than it was told.
    rig.peer_writes(&mut peer, b"abcdef").await;
    let mut buffer = BytesMut::with_capacity(64);
    buffer.extend_from_slice(b"xy");
    let (buffer, count) = rig.io.receive(&socket, buffer, 3).await.unwrap();
    assert!((1..=3).contains(&count));
    assert_eq!(&buffer[..], &b"xyabc"[..2 + count]);
}

async fn ten_mib_each_way_past_a_slow_reader(rig: Rig) {
    let bytes = Bytes::from(pattern(10 * MIB));
    let (socket, mut peer) = rig.pair().await;
    // To the peer, which does not read at first: the send must wait.
    let is_sent = Rc::new(Cell::new(false));
    let (io, flag, copy) = (rig.io.clone(), is_sent.clone(), bytes.clone());
    let to_send = socket.clone();
    rig.io.spawn(async move {
        let (head, tail) = (copy.slice(..1000), copy.slice(1000..));
        io.send(&to_send, vec![head, tail]).await.unwrap();
        flag.set(true);
    });
    rig.io.sleep(MS * 20).await;
    assert!(!is_sent.get(), "10 MiB went to a peer that does not read");
    assert!(rig.peer_reads(&mut peer, bytes.len()).await == bytes);
    while !is_sent.get() {
        rig.io.sleep(MS).await;
    }
    // And back, in the same way.
    let (io, copy, receiver) = (rig.io.clone(), bytes.clone(), rig.clone());
    let (sender, received) = oneshot::channel();
    rig.io.spawn(async move {
        io.sleep(MS * 20).await;
        let got = receiver.receive_exactly(&socket, copy.len()).await;
        sender.send(got == copy).unwrap();
    });
    rig.peer_writes(&mut peer, &bytes).await;
    assert!(received.await.unwrap());
}

async fn a_dropped_receive_makes_room_for_another(rig: Rig) {
    let (socket, mut peer) = rig.pair().await;
    for round in 0..20u8 {
        let receive = rig.io.receive(&socket, BytesMut::with_capacity(16), 16);
        let sleep = Box::pin(rig.io.sleep(MS));
        match select(Box::pin(receive), sleep).await {
            Either::Left(_) => panic!("received what nobody sent"),
            Either::Right(_) => {}
        }
        rig.peer_writes(&mut peer, &[round; 3]).await;
        assert_eq!(&rig.receive_exactly(&socket, 3).await[..], &[round; 3]);
    }
}

async fn shutdown_ends_a_pending_receive(rig: Rig) {
    let (socket, mut peer) = rig.pair().await;
    let (io, other) = (rig.io.clone(), socket.clone());
    rig.io.spawn(async move {
        io.sleep(MS).await;
        io.shutdown(&other);
    });
    let buffer = BytesMut::with_capacity(16);
    let (buffer, count) = rig.io.receive(&socket, buffer, 16).await.unwrap();
    assert_eq!((buffer.len(), count), (0, 0));
    rig.io.shutdown(&socket);
    let error = rig.io.send(&socket, vec![Bytes::from_static(b"x")]).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::BrokenPipe);
    rig.peer_sees_the_end(&mut peer).await;
}

async fn the_end_of_the_peer_is_zero_bytes(rig: Rig) {
    let (socket, mut peer) = rig.pair().await;
    rig.peer_writes(&mut peer, b"last words").await;
    drop(peer);
    assert_eq!(&rig.receive_exactly(&socket, 10).await[..], b"last words");
    for _ in 0..2 {
        let buffer = BytesMut::with_capacity(16);
        let (_, count) = rig.io.receive(&socket, buffer, 16).await.unwrap();
        assert_eq!(count, 0);
    }
}

async fn sending_to_a_closed_peer_is_an_error(rig: Rig) {
    let (socket, peer) = rig.pair().await;
    drop(peer);
    let file = rig.file("answer", b"0123456789").await;
    for round in 0.. {
        assert!(round < 1000, "sends to a closed peer go on and on");
        rig.io.sleep(MS).await;
        let result = if round % 2 == 0 {
            let bytes = vec![Bytes::from_static(b"answer")];
            rig.io.send(&socket, bytes).await
        } else {
            rig.io.send_file(&socket, &file, 0, 10).await.map(drop)
        };
        if let Err(error) = result {
            let kinds = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
            assert!(kinds.contains(&error.kind()), "{error}");
            return;
        }
    }
}

async fn dropping_a_socket_closes_it(rig: Rig) {
    let (socket, mut peer) = rig.pair().await;
    let clone = socket.clone();
    drop(socket);
    rig.io
        .send(&clone, vec![Bytes::from_static(b"bye")])
        .await
        .unwrap();
    drop(clone);
    assert_eq!(rig.peer_reads(&mut peer, 3).await, b"bye");
    rig.peer_sees_the_end(&mut peer).await;
}

async fn many_connections_on_one_listener(rig: Rig) {
    let (listener, address) = rig.listen();
    assert_ne!(address.port(), 0);
    let taken = rig.io.listen(address, 1).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    let (io, server) = (rig.io.clone(), rig.clone());
    rig.io.spawn(async move {
        loop {
            let (socket, peer) = io.accept(&listener).await.unwrap();
            assert!(peer.ip().is_loopback());
            let (io, server) = (io.clone(), server.clone());
            server.io.clone().spawn(async move {
                let question = server.receive_exactly(&socket, 8).await;
                io.send(&socket, vec![question.freeze()]).await.unwrap();
            });
        }
    });
    let answers = (0..100u64).map(|number| {
        let rig = rig.clone();
        async move {
            let mut peer = rig.connect(address);
            rig.peer_writes(&mut peer, &number.to_be_bytes()).await;
            let answer = rig.peer_reads(&mut peer, 8).await;
            assert_eq!(answer, number.to_be_bytes());
        }
    });
    join_all(answers).await;
}

async fn send_file_sends_a_range(rig: Rig) {
    let bytes = pattern(3 * MIB);
    let file = rig.file("segment", &bytes).await;
    let (socket, mut peer) = rig.pair().await;
    for (position, length) in [(0, 1), (5, 5000), (4095, MIB), (0, 3 * MIB), (7, 0)] {
        rig.io.sync_data(&file).await.unwrap();
        if rig.world.is_none() {
            make_cold(&rig.path("segment"));
        }
        let (sender, sent) = oneshot::channel();
        let (io, socket, file) = (rig.io.clone(), socket.clone(), file.clone());
        rig.io.spawn(async move {
            let result = io
                .send_file(&socket, &file, position as u64, length as u64)
                .await;
            sender.send(result).unwrap();
        });
        let read = rig.peer_reads(&mut peer, length).await;
        assert!(read == bytes[position..position + length]);
        sent.await.unwrap().unwrap();
    }
}

/// Drops the file's pages from the page cache (posix_fadvise(2), POSIX_FADV_DONTNEED).
fn make_cold(path: &Path) {
    let file = std::fs::File::open(path).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

async fn send_file_past_the_end_is_an_error(rig: Rig) {
    let file = rig.file("short", b"0123456789").await;
    let (socket, mut peer) = rig.pair().await;
    let error = rig.io.send_file(&socket, &file, 4, 100).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert_eq!(rig.peer_reads(&mut peer, 6).await, b"456789");
}

// ---- files -------------------------------------------------------------------------------------

async fn write_and_read_at_positions(rig: Rig) {
    let file = rig.file("file", b"0123456789").await;
    let buffers: Vec<Bytes> = (0..200u8).map(|i| Bytes::from(vec![i; 3])).collect();
    rig.io.write_at(&file, buffers, 5).await.unwrap();
    rig.io
        .write_at(&file, vec![Bytes::from_static(b"far")], 10_000)
        .await
        .unwrap();
    rig.io.write_at(&file, Vec::new(), 20_000).await.unwrap();
    assert_eq!(rig.io.length(&file).await.unwrap(), 10_003);
    let mut expected = b"01234".to_vec();
    expected.extend((0..200u8).flat_map(|i| [i; 3]));
    expected.resize(10_000, 0);
    expected.extend(b"far");
    assert!(rig.contents("file").await == expected);
    // A read appends to what the buffer has.
    let buffer = BytesMut::from(&b"had"[..]);
    let buffer = rig.io.read_at(&file, buffer, 3, 2).await.unwrap();
    assert_eq!(&buffer[..], b"had34");
    rig.io.sync_range(&file, 0, 4096).await.unwrap();
    rig.io.sync_range(&file, 0, 0).await.unwrap();
    rig.io.sync_range(&file, 0, 1 << 40).await.unwrap();
    rig.io.sync_data(&file).await.unwrap();
}

async fn reading_past_the_end_gives_less(rig: Rig) {
    let file = rig.file("file", b"0123456789").await;
    for (position, length, expected) in [
        (0, 10, &b"0123456789"[..]),
        (8, 100, b"89"),
        (10, 1, b""),
        (1 << 40, 1, b""),
        (3, 0, b""),
    ] {
        let read = rig.io.read_at(&file, BytesMut::new(), position, length);
        assert_eq!(&read.await.unwrap()[..], expected);
    }
    let error = rig.io.read_file(&rig.path("file"), 9).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
}

async fn large_writes_and_reads(rig: Rig) {
    let bytes = pattern(3 * MIB + 17);
    let file = rig.file("large", &bytes[..MIB + 1]).await;
    let rest: Vec<Bytes> = bytes[MIB + 1..]
        .chunks(100_003)
        .map(Bytes::copy_from_slice)
        .collect();
    rig.io.write_at(&file, rest, MIB as u64 + 1).await.unwrap();
    assert!(rig.contents("large").await == bytes);
    let read = rig.io.read_at(&file, BytesMut::new(), 1, 2 * MIB).await;
    assert!(read.unwrap() == bytes[1..2 * MIB + 1]);
}

async fn durable_writes_of_any_number_of_buffers(rig: Rig) {
    let path = rig.path("journal");
    let file = rig.io.open(&path, OpenMode::CreateDirect).await.unwrap();
    let mut position = 0;
    let mut expected = Vec::new();
    let mut pool: Vec<AlignedBuffer> = Vec::new();
    for count in [1, 2, 3, 64, 65, 70, 7, 0] {
        while pool.len() < count {
            pool.push(AlignedBuffer::zeroed(4096 * (1 + pool.len() % 3)));
        }
        let mut buffers: Vec<AlignedBuffer> = pool.drain(..count).collect();
        for (index, buffer) in buffers.iter_mut().enumerate() {
            let byte = (index + count) as u8;
            buffer.fill(byte);
            expected.extend_from_slice(buffer);
        }
        let total: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        let back = rig
            .io
            .write_durable(&file, buffers, position)
            .await
            .unwrap();
        assert_eq!(back.len(), count);
        pool.extend(back);
        position += total as u64;
    }
    assert!(rig.contents("journal").await == expected);
    // Again over what is there, from the middle, on a file opened anew.
    let file = rig.io.open(&path, OpenMode::CreateDirect).await.unwrap();
    let mut buffer = AlignedBuffer::zeroed(8192);
    buffer.fill(255);
    rig.io
        .write_durable(&file, vec![buffer], 4096)
        .await
        .unwrap();
    expected[4096..3 * 4096].fill(255);
    assert!(rig.contents("journal").await == expected);
    let buffer = AlignedBuffer::zeroed(4096);
    let error = rig.io.write_durable(&file, vec![buffer], 100).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidInput);
}

async fn open_modes_and_their_errors(rig: Rig) {
    let io = &rig.io;
    let (path, missing) = (rig.path("file"), rig.path("missing"));
    rig.file("file", b"contents").await;
    let kind = async |path: &Path, mode| match io.open(path, mode).await {
        Ok(_) => None,
        Err(error) => Some((error.kind(), error.raw_os_error().is_some())),
    };
    let not_found = Some((ErrorKind::NotFound, true));
    assert_eq!(kind(&missing, OpenMode::Read).await, not_found);
    assert_eq!(kind(&missing, OpenMode::Write).await, not_found);
    let nowhere = rig.path("no/where");
    assert_eq!(kind(&nowhere, OpenMode::Create).await, not_found);
    let exists = Some((ErrorKind::AlreadyExists, true));
    assert_eq!(kind(&path, OpenMode::CreateNew).await, exists);
    let below = rig.path("file/below");
    let not_a_directory = Some((ErrorKind::NotADirectory, true));
    assert_eq!(kind(&below, OpenMode::Create).await, not_a_directory);
    let is_directory = Some((ErrorKind::IsADirectory, true));
    assert_eq!(kind(&rig.directory, OpenMode::Write).await, is_directory);
    for (name, mode) in [
        ("file", OpenMode::Read),
        ("file", OpenMode::Write),
        ("file", OpenMode::Create),
        ("new", OpenMode::CreateNew),
        ("direct", OpenMode::CreateDirect),
        ("direct", OpenMode::CreateDirect),
    ] {
        assert_eq!(kind(&rig.path(name), mode).await, None, "{name} {mode:?}");
    }
    // None of them truncates, and a reader cannot write.
    let file = io.open(&path, OpenMode::Read).await.unwrap();
    assert_eq!(io.length(&file).await.unwrap(), 8);
    let bytes = vec![Bytes::from_static(b"x")];
    let error = io.write_at(&file, bytes, 0).await.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(9), "EBADF");
    let error = io.truncate(&file, 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

async fn names_come_and_go(rig: Rig) {
    let io = &rig.io;
    let directory = rig.path("topic-0");
    io.create_directory(&directory).await.unwrap();
    let kind = |result: std::io::Result<()>| result.unwrap_err().kind();
    let again = io.create_directory(&directory).await;
    assert_eq!(kind(again), ErrorKind::AlreadyExists);
    for name in ["topic-0/b", "topic-0/a", "topic-0/c"] {
        rig.file(name, name.as_bytes()).await;
    }
    io.create_directory(&rig.path("topic-0/d")).await.unwrap();
    let listed = rig.names(&directory).await;
    let expected = [("a", false), ("b", false), ("c", false), ("d", true)];
    assert_eq!(listed, expected.map(|(name, is)| (name.to_owned(), is)));
    io.sync_directory(&directory).await.unwrap();
    // Over a file that is there, and to a name that is not.
    let (a, b, e) = (
        rig.path("topic-0/a"),
        rig.path("topic-0/b"),
        rig.path("topic-0/e"),
    );
    io.rename(&a, &b).await.unwrap();
    io.rename(&b, &e).await.unwrap();
    assert_eq!(&rig.contents("topic-0/e").await[..], b"topic-0/a");
    assert_eq!(kind(io.rename(&a, &b).await), ErrorKind::NotFound);
    assert_eq!(kind(io.remove_file(&a).await), ErrorKind::NotFound);
    let not_empty = io.remove_directory(&directory).await;
    assert_eq!(kind(not_empty), ErrorKind::DirectoryNotEmpty);
    // An open file outlives its name.
    let open = io.open(&e, OpenMode::Read).await.unwrap();
    io.remove_file(&e).await.unwrap();
    let read = io.read_at(&open, BytesMut::new(), 0, 100).await.unwrap();
    assert_eq!(&read[..], b"topic-0/a");
    io.remove_file(&rig.path("topic-0/c")).await.unwrap();
    io.remove_directory(&rig.path("topic-0/d")).await.unwrap();
    // A directory moves with what is in it.
    rig.file("topic-0/f", b"f").await;
    let moved = rig.path("topic-0-delete");
    io.rename(&directory, &moved).await.unwrap();
    assert_eq!(&rig.contents("topic-0-delete/f").await[..], b"f");
    io.sync_directory(&rig.directory).await.unwrap();
    io.remove_file(&moved.join("f")).await.unwrap();
    io.remove_directory(&moved).await.unwrap();
    assert_eq!(rig.names(&rig.directory).await, []);
    assert_eq!(kind(io.remove_directory(&moved).await), ErrorKind::NotFound);
    assert_eq!(kind(io.sync_directory(&moved).await), ErrorKind::NotFound);
    let listed = io.list_directory(&moved).await.unwrap_err();
    assert_eq!(listed.kind(), ErrorKind::NotFound);
}

async fn lengths_change(rig: Rig) {
    let io = &rig.io;
    let file = rig.file("file", &pattern(10_000)).await;
    io.truncate(&file, 5000).await.unwrap();
    assert_eq!(io.length(&file).await.unwrap(), 5000);
    io.truncate(&file, 9000).await.unwrap();
    let mut expected = pattern(5000);
    expected.resize(9000, 0);
    assert!(rig.contents("file").await == expected);
    io.allocate(&file, 20_000).await.unwrap();
    assert_eq!(io.length(&file).await.unwrap(), 20_000);
    io.allocate(&file, 1000).await.unwrap();
    assert_eq!(io.length(&file).await.unwrap(), 20_000);
    expected.resize(20_000, 0);
    assert!(rig.contents("file").await == expected);
    let error = io.allocate(&file, 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    io.reserve(&file, 20_000, 1 << 20).await.unwrap();
    assert_eq!(io.length(&file).await.unwrap(), 20_000);
    assert!(rig.contents("file").await == expected);
    io.truncate(&file, 20_000).await.unwrap();
    assert!(rig.contents("file").await == expected);
    let error = io.reserve(&file, 20_000, 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

async fn replace_file_replaces(rig: Rig) {
    let path = rig.path("checkpoint");
    for contents in [&b"the first and longer one"[..], b"the second", b""] {
        let contents = Bytes::from_static(contents);
        rig.io.replace_file(&path, contents.clone()).await.unwrap();
        assert!(rig.contents("checkpoint").await == contents);
    }
    let left = rig.names(&rig.directory).await;
    assert_eq!(left, [("checkpoint".to_owned(), false)]);
}

async fn more_reads_at_once_than_a_ring_holds(rig: Rig) {
    let bytes = pattern(MIB);
    let file = rig.file("file", &bytes).await;
    let reads = (0..6000usize).map(|n| {
        let position = n * 997 % (MIB - 512);
        let read = rig.io.read_at(&file, BytesMut::new(), position as u64, 512);
        let bytes = &bytes;
        async move { assert!(read.await.unwrap() == bytes[position..position + 512]) }
    });
    join_all(reads).await;
}

async fn operations_may_outlive_their_futures(rig: Rig) {
    let file = rig.file("file", &pattern(MIB)).await;
    let (socket, _peer) = rig.pair().await;
    let (listener, _) = rig.listen();
    // All of it in flight, then dropped while the shard goes on.
    for _ in 0..50 {
        let read = rig.io.read_at(&file, BytesMut::new(), 0, MIB);
        let sync = rig.io.sync_data(&file);
        let list = rig.io.list_directory(&rig.directory);
        let receive = rig.io.receive(&socket, BytesMut::with_capacity(10), 10);
        let accept = rig.io.accept(&listener);
        let all = Box::pin(join5(read, sync, list, receive, accept));
        let yielded = Box::pin(rig.io.yield_now());
        assert!(matches!(select(yielded, all).await, Either::Left(_)));
    }
    rig.io.sleep(MS).await;
    // And some that are in flight when the case, and with it the shard, ends.
    let (io, file) = (rig.io.clone(), file.clone());
    let other = rig.clone();
    rig.io.spawn(async move {
        let read = io.read_at(&file, BytesMut::new(), 0, MIB);
        let receive = io.receive(&socket, BytesMut::with_capacity(10), 10);
        let accept = io.accept(&listener);
        let send = io.send(&socket, vec![Bytes::from(vec![0; 64 * MIB])]);
        let list = other.io.list_directory(&other.directory);
        let _ = join5(read, receive, accept, send, list).await;
    });
    rig.io.yield_now().await;
}

async fn an_idle_shard_does_not_turn(rig: Rig) {
    let (listener, _) = rig.listen();
    let (socket, _peer) = rig.pair().await;
    let io = rig.io.clone();
    rig.io.spawn(async move {
        let receive = io.receive(&socket, BytesMut::with_capacity(10), 10);
        let _ = join(io.accept(&listener), receive).await;
    });
    rig.io.sleep(MS * 10).await;
    let turns = rig.io.counters().turns;
    rig.io.sleep(MS * 200).await;
    let turns = rig.io.counters().turns - turns;
    assert!(turns <= 4, "{turns} turns while nothing happened");
}

// ---- real drivers only -------------------------------------------------------------------------

fn each_real_driver(test: impl Fn(DriverKind)) {
    test(DriverKind::Poll);
    match probe::choose(DriverKind::Uring) {
        Ok(_) => test(DriverKind::Uring),
        Err(why) => eprintln!("not run on uring: {why}"),
    }
}

#[test]
fn a_wake_from_another_thread_ends_the_sleep() {
    each_real_driver(|kind| {
        let io = Io::new(kind).unwrap();
        for round in 0..200u64 {
            let (sender, receiver) = oneshot::channel();
            let thread = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_micros(round % 50 * 10));
                sender.send(round).unwrap();
            });
            assert_eq!(io.block_on(receiver), Ok(round), "{kind:?}");
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_shard_that_ends_leaves_no_descriptors() {
    // Other tests of this process open descriptors meanwhile, so only a trend tells.
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    each_real_driver(|kind| {
        let before = count();
        for _ in 0..200 {
            let io = Io::new(kind).unwrap();
            let (listener, address) = io.listen(SocketAddr::from(([127, 0, 0, 1], 0)), 1).unwrap();
            let _client = TcpStream::connect(address).unwrap();
            let inner = io.clone();
            let (socket, _) = io.block_on(async move { inner.accept(&listener).await.unwrap() });
            let inner = io.clone();
            io.spawn(async move {
                let buffer = BytesMut::with_capacity(10);
                let _ = inner.receive(&socket, buffer, 10).await;
            });
            io.turn(false);
            io.clear_tasks();
        }
        // The kernel closes a dropped ring's descriptors in its own time.
        let deadline = Instant::now() + Duration::from_secs(30);
        while count() >= before + 400 {
            assert!(
                Instant::now() < deadline,
                "{kind:?}: {before} -> {}",
                count()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}
