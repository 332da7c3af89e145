//! The simulated driver: a seeded world of disk, network and clock in memory.
//!
//! A [`World`] owns time, the disk and the network; shards ([`super::Io::simulated`]) live in it,
//! all in one thread, and the test drives them with [`World::run`]: the shards take turns until
//! none of them can go on, then time moves to the next event of the world or timer of a shard.
//! Every choice is drawn from the seed: the same seed and the same program give the same history
//! ([`World::trace_hash`]).
//!
//! Invariants:
//! - An operation takes effect between its start and its completion, most at their completion,
//!   some at once.
//! - Handles are numbers that are never used again: what a crashed shard still holds is void.
//! - Dropping a handle takes no lock of the world (an operation may be dropped inside of it): the
//!   number is noted and the object closed when the world is next entered.
//!
//! Not covered: the kernel itself, its flags, sendfile(2), a real file system.

mod chaos;
mod config;
mod disk;
mod execute;
mod file;
mod network;
mod rng;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::Io;
use super::op::{Completion, Handle, Listener, Op, Output, Socket, Token};
use crate::clock::Instant;
use chaos::Chaos;
use disk::Disk;
use execute::Flight;
use network::Network;

pub use config::{Chance, Config, DiskConfig, Fault, NetworkConfig};
pub use network::Client;

/// Monotonic time at the beginning of a world: no zero, as after a boot.
const START: Instant = Instant(1_000_000_000_000);
/// Wall clock at the beginning of a world.
const START_WALL_MS: i64 = 1_700_000_000_000;
/// Rounds of turns after which time moves although a shard is still busy.
const ROUNDS_MAX: usize = 200;
/// Simulated time after which [`World::block_on`] gives up.
const BLOCK_ON_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// An object of the simulated world: a file, a socket, a listener.
pub(crate) struct Object {
    id: u64,
    closed: Arc<Mutex<Vec<u64>>>,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "simulated object {}", self.id)
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        closed.push(self.id);
    }
}

fn id_of(handle: &Handle) -> u64 {
    match handle {
        Handle::Simulated(object) => object.id,
        Handle::System(fd) => panic!("{fd:?} handed to the simulator"),
    }
}

/// Who waits for an operation.
type Waiter = (usize, Token);

#[derive(Clone, Copy, Debug)]
enum Event {
    /// The operation of the waiter can go on, if it still is the one with this serial number.
    Step(Waiter, u64),
    /// A piece arrives at the server's or the client's end of a connection.
    Arrival(u64, network::Direction),
    /// A connection arrives at a listener.
    Knock(u64, u64),
}

struct Shard {
    is_alive: bool,
    completions: Vec<(Token, Completion)>,
}

struct State {
    seed: u64,
    chaos: Chaos,
    wall_offset_ms: i64,
    /// By time, then by a tie drawn from the seed, then by number.
    events: BTreeMap<(Instant, u64, u64), Event>,
    /// Number of the last event, object or operation.
    serial: u64,
    shards: Vec<Shard>,
    flights: BTreeMap<Waiter, Flight>,
    disk: Disk,
    network: Network,
    closed: Arc<Mutex<Vec<u64>>>,
}

impl State {
    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn object(&mut self) -> Object {
        Object {
            id: self.next_serial(),
            closed: self.closed.clone(),
        }
    }

    fn schedule(&mut self, time: Instant, event: Event) {
        let key = (time, self.chaos.rng.next(), self.next_serial());
        self.events.insert(key, event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Step(waiter, serial) => self.step(waiter, serial),
            Event::Arrival(connection, direction) => self.arrive(connection, direction),
            Event::Knock(listener, connection) => self.knock(listener, connection),
        }
    }

    /// Moves time to the next event or to `timer`, at most to `deadline`. Returns false if nothing
    /// happens until then.
    fn advance(&mut self, timer: Option<Instant>, deadline: Instant) -> bool {
        let event = self.events.first_key_value().map(|(key, _)| key.0);
        let next = match (event, timer) {
            (Some(event), Some(timer)) => event.min(timer),
            (Some(next), None) | (None, Some(next)) => next,
            (None, None) => deadline,
        };
        self.chaos.now = self.chaos.now.max(next.min(deadline));
        if next > deadline || (event.is_none() && timer.is_none()) {
            return false;
        }
        // A busy shard finds several completions at once: now and then time runs on a little.
        let mut count = 1;
        let mut horizon = self.chaos.now;
        if self.chaos.rng.one_in(4) {
            count = self.chaos.rng.within(1, 8);
            let slack = Duration::from_nanos(self.chaos.rng.below(200_000));
            horizon = (horizon + slack).min(deadline);
        }
        while count > 0
            && let Some(entry) = self.events.first_entry()
            && entry.key().0 <= horizon
        {
            self.chaos.now = self.chaos.now.max(entry.key().0);
            let event = entry.remove();
            self.happen(event);
            count -= 1;
        }
        true
    }

    fn is_alive(&self, shard: usize) -> bool {
        self.shards[shard].is_alive
    }

    fn complete(&mut self, waiter: Waiter, completion: Completion) {
        self.note_completion(waiter, &completion);
        let shard = &mut self.shards[waiter.0];
        if shard.is_alive {
            shard.completions.push((waiter.1, completion));
        }
    }

    fn note_completion(&mut self, waiter: Waiter, completion: &Completion) {
        let result = match completion {
            Ok(Output::Buffer(buffer, count)) => {
                let added = &buffer[buffer.len() - count..];
                u64::from(crc32c::crc32c(added)) << 32 | *count as u64
            }
            Ok(Output::Length(length)) => *length,
            Ok(Output::Entries(entries)) => entries.len() as u64,
            Ok(_) => 0,
            Err(error) => u64::MAX - u64::from(error.raw_os_error().unwrap_or(0).unsigned_abs()),
        };
        self.chaos
            .note(&[2, waiter.0 as u64, waiter.1 as u64, result]);
    }

    /// Every shard ends: nothing that it waits for comes any more.
    fn end_shards(&mut self) {
        for shard in &mut self.shards {
            shard.is_alive = false;
            shard.completions.clear();
        }
        self.flights.clear();
        self.events
            .retain(|_, event| !matches!(event, Event::Step(..)));
        self.break_connections();
    }

    fn close(&mut self, id: u64) {
        if !self.disk.close(id) {
            self.close_network_object(id);
        }
    }
}

/// The simulated world that shards live in. Clones are the same world.
#[derive(Clone)]
pub struct World {
    state: Arc<Mutex<State>>,
    closed: Arc<Mutex<Vec<u64>>>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "World(seed {})", self.seed())
    }
}

impl World {
    /// A world in which nothing fails but what a crash breaks ([`Config::default`]).
    pub fn new(seed: u64) -> World {
        Self::with_config(seed, Config::default())
    }

    /// A world that behaves as `config` says.
    pub fn with_config(seed: u64, config: Config) -> World {
        let closed = Arc::new(Mutex::new(Vec::new()));
        let state = State {
            seed,
            chaos: Chaos::new(seed, config, START),
            wall_offset_ms: 0,
            events: BTreeMap::new(),
            serial: 0,
            shards: Vec::new(),
            flights: BTreeMap::new(),
            disk: Disk::new(),
            network: Network::default(),
            closed: closed.clone(),
        };
        World {
            state: Arc::new(Mutex::new(state)),
            closed,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for id in self.take_closed() {
            state.close(id);
        }
        state
    }

    fn take_closed(&self) -> Vec<u64> {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *closed)
    }

    pub(crate) fn driver(&self) -> Driver {
        let mut state = self.lock();
        let shard = state.shards.len();
        state.shards.push(Shard {
            is_alive: true,
            completions: Vec::new(),
        });
        drop(state);
        Driver {
            world: self.clone(),
            shard,
        }
    }

    // ---- what is --------------------------------------------------------------------------

    /// The seed that everything is drawn from.
    pub fn seed(&self) -> u64 {
        self.lock().seed
    }

    /// The monotonic time.
    pub fn now(&self) -> Instant {
        self.lock().chaos.now
    }

    /// The wall clock in milliseconds since 1970.
    pub fn wall_ms(&self) -> i64 {
        let state = self.lock();
        let elapsed = state.chaos.now.since(START).as_millis();
        START_WALL_MS + state.wall_offset_ms + i64::try_from(elapsed).unwrap_or(i64::MAX / 2)
    }

    /// A number from the world's stream, for choices of the test that shall be replayed with it.
    pub fn random(&self) -> u64 {
        self.lock().chaos.rng.next()
    }

    /// The hash of the history so far: equal for two runs of one seed, if the program is
    /// deterministic.
    pub fn trace_hash(&self) -> u64 {
        self.lock().chaos.trace_hash()
    }

    /// How often each kind of fault has struck.
    pub fn faults(&self) -> BTreeMap<&'static str, u64> {
        self.lock().chaos.faults.clone()
    }

    // ---- what happens ---------------------------------------------------------------------

    /// Lets the shards run until `done` says true or `limit` of simulated time is over; returns
    /// what `done` said last. Shards that have ended ([`Self::crash`], [`Self::kill`]) are passed
    /// over; one that is left out stands still, as a stopped process does.
    pub fn run(&self, shards: &[Io], limit: Duration, mut done: impl FnMut() -> bool) -> bool {
        let deadline = self.now() + limit;
        loop {
            self.settle(shards);
            if done() {
                return true;
            }
            // What `done` did may have made a shard ready; it must not wait for time to move.
            self.settle(shards);
            let timers = shards.iter().filter(|io| io.is_powered());
            let timer = timers.filter_map(Io::next_deadline).min();
            if !self.lock().advance(timer, deadline) {
                self.settle(shards);
                return done();
            }
        }
    }

    /// Lets the shards run for `duration` of simulated time.
    pub fn run_for(&self, shards: &[Io], duration: Duration) {
        self.run(shards, duration, || false);
    }

    /// Runs `future` as a task of the first of `shards` until it is ready.
    ///
    /// # Panics
    /// If it is not ready within a day of simulated time.
    pub fn block_on<T: 'static>(
        &self,
        shards: &[Io],
        future: impl Future<Output = T> + 'static,
    ) -> T {
        let result = Rc::new(std::cell::RefCell::new(None));
        let slot = result.clone();
        shards[0].spawn(async move {
            let value = future.await;
            slot.replace(Some(value));
        });
        self.run(shards, BLOCK_ON_LIMIT, || result.borrow().is_some());
        let value = result.take();
        value.unwrap_or_else(|| panic!("still waiting after a day, in the {self:?}"))
    }

    fn settle(&self, shards: &[Io]) {
        let mut order: Vec<&Io> = shards.iter().collect();
        for _ in 0..ROUNDS_MAX {
            let mut progress = false;
            if order.len() > 1 {
                let mut state = self.lock();
                for last in (1..order.len()).rev() {
                    order.swap(last, state.chaos.rng.index(last + 1));
                }
            }
            for io in &order {
                if io.is_powered() {
                    progress |= io.turn(false);
                }
            }
            if !progress {
                return;
            }
        }
        // A shard that yields again and again: let a little time pass for it.
        let mut state = self.lock();
        state.chaos.now = state.chaos.now + Duration::from_micros(10);
    }

    /// Lets the wall clock jump; the monotonic time does not.
    pub fn jump_wall(&self, milliseconds: i64) {
        self.lock().wall_offset_ms += milliseconds;
    }

    /// Changes how the world behaves from now on.
    pub fn configure(&self, change: impl FnOnce(&mut Config)) {
        change(&mut self.lock().chaos.config);
    }

    /// Lets the next operation fail that can, on a path that contains `path`.
    pub fn fail_next(&self, fault: Fault, path: &str) {
        self.lock().chaos.planned.push((fault, path.to_owned()));
    }

    /// Takes back the faults of [`Self::fail_next`] that have not struck.
    pub fn fail_no_more(&self) {
        self.lock().chaos.planned.clear();
    }

    /// The disk answers nothing for `duration`; what is asked meanwhile is done after it.
    pub fn stall_disk(&self, duration: Duration) {
        let mut state = self.lock();
        state.chaos.disk_stalled_until = state.chaos.now + duration;
        state.chaos.count("stall");
    }

    /// The power fails: all shards end, all connections break, and of what was not durable on the
    /// disk each part is kept, lost or torn. Drop the tasks of the old shards
    /// ([`Io::clear_tasks`]) and start new ones.
    pub fn crash(&self) {
        let mut state = self.lock();
        state.chaos.count("crash");
        state.chaos.note(&[3]);
        state.lose_power();
        state.end_shards();
    }

    /// The process ends at once: all shards end and all connections break. The page cache
    /// survives; operations in flight are done or not.
    pub fn kill(&self) {
        let mut state = self.lock();
        state.chaos.count("kill");
        state.chaos.note(&[4]);
        state.die();
        state.end_shards();
    }

    // ---- the network ----------------------------------------------------------------------

    /// Connects to a listener of a shard.
    ///
    /// # Errors
    /// `ConnectionRefused` if nobody listens there.
    pub fn connect(&self, address: SocketAddr) -> io::Result<Client> {
        let id = self.lock().connect(address)?;
        Ok(Client::new(self.clone(), id))
    }

    // ---- the disk -------------------------------------------------------------------------

    /// The visible bytes of a file.
    ///
    /// # Errors
    /// As open(2).
    pub fn read_file(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        Ok(self.lock().disk.peek(path.as_ref())?.to_vec())
    }

    /// Creates or replaces a file, with the directories it lies in, all of it durable.
    ///
    /// # Errors
    /// As open(2).
    pub fn write_file(&self, path: impl AsRef<Path>, bytes: impl Into<Bytes>) -> io::Result<()> {
        let state = &mut *self.lock();
        Ok(state
            .disk
            .plant(path.as_ref(), bytes.into(), &mut state.chaos)?)
    }

    /// Whether some file was shortened and the truncation is not durable yet: a moment for a crash
    /// that chance rarely finds.
    pub fn has_unsynced_cut(&self) -> bool {
        self.lock().disk.has_unsynced_cut()
    }

    /// Flips one bit of a file's durable data, and of the page cache if the page is clean.
    ///
    /// # Errors
    /// As open(2); EINVAL if the byte is not durable.
    pub fn flip_bit(&self, path: impl AsRef<Path>, byte: u64, bit: u32) -> io::Result<()> {
        let mut state = self.lock();
        state.disk.flip_bit(path.as_ref(), byte, bit)?;
        state.chaos.count("flipped bit");
        Ok(())
    }

    /// All files with their visible lengths, sorted by path.
    pub fn files(&self) -> Vec<(String, u64)> {
        self.lock().disk.files()
    }
}

/// One shard's side of the world.
pub(crate) struct Driver {
    world: World,
    shard: usize,
}

impl Driver {
    /// Starts an operation; `Some` if it completed at once.
    pub(crate) fn start(&mut self, token: Token, op: Op) -> Option<Completion> {
        let mut state = self.world.lock();
        if !state.is_alive(self.shard) {
            return None;
        }
        let completion = state.start((self.shard, token), op)?;
        state.note_completion((self.shard, token), &completion);
        Some(completion)
    }

    /// The future of the operation was dropped. Returns whether it will never complete; if not, it
    /// completes later into nothing.
    pub(crate) fn cancel(&mut self, token: Token) -> bool {
        let mut state = self.world.lock();
        !state.is_alive(self.shard) || state.cancel((self.shard, token))
    }

    /// Moves the completions that have happened for this shard to `completions`.
    pub(crate) fn take(&mut self, completions: &mut Vec<(Token, Completion)>) {
        let mut state = self.world.lock();
        completions.append(&mut state.shards[self.shard].completions);
    }

    /// Monotonic time and wall clock in milliseconds.
    pub(crate) fn clock(&self) -> (Instant, i64) {
        (self.world.now(), self.world.wall_ms())
    }

    /// Whether neither a crash nor a kill has ended this shard.
    pub(crate) fn is_alive(&self) -> bool {
        self.world.lock().is_alive(self.shard)
    }

    pub(crate) fn listen(&mut self, address: SocketAddr) -> io::Result<(Listener, SocketAddr)> {
        let mut state = self.world.lock();
        if !state.is_alive(self.shard) {
            return Err(io::ErrorKind::NetworkDown.into());
        }
        let (object, address) = state.listen(address)?;
        Ok((Listener(Arc::new(Handle::Simulated(object))), address))
    }

    pub(crate) fn local_address(&self, socket: &Socket) -> io::Result<SocketAddr> {
        self.world.lock().local_address(id_of(&socket.0))
    }

    pub(crate) fn shutdown(&mut self, socket: &Socket) {
        self.world.lock().shutdown(id_of(&socket.0));
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let mut state = self.world.lock();
        let shard = &mut state.shards[self.shard];
        shard.is_alive = false;
        let lost = std::mem::take(&mut shard.completions);
        drop(state);
        drop(lost);
    }
}
