//! The service on its thread: a listener, a task per connection, group commits, expiry.
//!
//! Invariant: nothing that was answered or told can be lost. Whatever the processor puts out while
//! there are changes not yet stored waits in `pending` until the commit that covers it; the commit
//! task runs behind the connections that were ready, so what arrived together shares one commit.
//! A commit blocks the thread: no request could be answered before it anyway, and nothing else
//! runs here. A failed commit ends the service; it must not go on with a tree that is ahead of its
//! disk.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use log::{info, warn};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::{LocalSet, yield_now};
use tokio::time::{sleep, timeout};

use super::config::ZookeeperConfig;
use super::connection::{self, Link};
use super::doors::{Doors, Held};
use super::processor::{ConnectError, Limits, Now, Output, Processor};
use super::session::Sessions;
use super::store::{Store, StoreError};
use super::tree::Tree;
use super::watch::{ConnectionId, WatchLimits};
use super::words::{ConnectionFacts, Counts, ServiceFacts};
use super::{ZookeeperError, store};

/// Most sessions. One takes some hundred bytes; clients that reconnect at full speed without
/// closing leave behind what their timeouts allow.
const SESSIONS_MAX: usize = 100_000;
/// Longest reply to a multiRead.
const MULTI_READ_BYTES_MAX: usize = 4 << 20;
/// Memory for watches.
const WATCH_LIMITS: WatchLimits = WatchLimits {
    connection_bytes_max: 64 << 20,
    bytes_max: 256 << 20,
};
/// Packets waiting for all clients together; above it, slow readers are disconnected sooner.
const QUEUED_BYTES_MAX: usize = 256 << 20;
/// How often empty containers are looked for (`znode.container.checkIntervalMs`).
const CONTAINER_INTERVAL: Duration = Duration::from_secs(60);
/// How long a stopping service lets its last packets leave.
const STOP_TIMEOUT: Duration = Duration::from_millis(500);
/// Between two log lines about refused connections.
const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// What all tasks share.
pub(super) struct Service {
    pub(super) config: ZookeeperConfig,
    state: RefCell<State>,
    /// There is something to commit.
    dirty: Notify,
    /// A session was opened, or has another timeout: it may be the next to expire.
    sessions_changed: Notify,
    /// Packets waiting for clients, in bytes.
    queued_bytes: Cell<usize>,
    start: Instant,
    last_refusal_log: Cell<Option<Instant>>,
}

struct State {
    processor: Processor,
    store: Store,
    links: BTreeMap<ConnectionId, Rc<Link>>,
    /// Waits for the next commit.
    pending: Vec<Output>,
    counts: Counts,
    next_connection: ConnectionId,
}

/// Opens the store and serves until told to stop. `ready` is given the public address, and that of the
/// process itself.
pub(super) async fn run(
    config: ZookeeperConfig,
    held: Option<Held>,
    ready: impl FnOnce(SocketAddr, SocketAddr),
    stop: watch::Receiver<bool>,
) -> Result<(), ZookeeperError> {
    let bind = |address| move |error| ZookeeperError::Bind { address, error };
    let service = Rc::new(Service::open(config.clone())?);
    let failed = bind(config.address);
    let public = TcpListener::bind(config.address).await.map_err(failed)?;
    let address = public.local_addr().map_err(failed)?;
    let (own, own_address) = match held {
        None => (None, address),
        Some(held) => {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let own = TcpListener::bind(any).await.map_err(bind(any))?;
            let address = own.local_addr().map_err(bind(any))?;
            (Some((own, held)), address)
        }
    };
    ready(address, own_address);
    let local = LocalSet::new();
    local
        .run_until(service.serve(Doors { public, own }, stop))
        .await
}

impl Service {
    fn open(config: ZookeeperConfig) -> Result<Self, StoreError> {
        let mut first = Tree::new(config.tree_bytes_max);
        let (store, stored) = Store::open(&config.data_dir, &mut first)?;
        let damaged = |what: String| StoreError::Damaged {
            path: store.path().to_owned(),
            what,
        };
        // Its limit is for clients; what was stored once is served.
        let tree = Tree::from_nodes(stored.nodes, config.tree_bytes_max)
            .map_err(|error| damaged(error.to_string()))?;
        let mut sessions = Sessions::new(config.tick_ms, wall_ms());
        for (id, password, timeout_ms) in stored.sessions {
            sessions.restore(id, password, timeout_ms, 0);
        }
        for (owner, _) in tree.owners() {
            if sessions.get(owner).is_none() {
                return Err(damaged(format!(
                    "session 0x{owner:x} has ephemerals but is missing"
                )));
            }
        }
        let (nodes, known, zxid) = (tree.len(), sessions.len(), stored.zxid);
        info!(
            "ZooKeeper data in {}: {nodes} nodes, {known} sessions, zxid 0x{zxid:x}",
            store.path().display()
        );
        let limits = Limits {
            timeout_ms_min: config.session_timeout_ms_min,
            timeout_ms_max: config.session_timeout_ms_max,
            sessions_max: SESSIONS_MAX,
            multi_read_bytes_max: MULTI_READ_BYTES_MAX,
            watches: WATCH_LIMITS,
        };
        let state = State {
            processor: Processor::new(tree, sessions, zxid, limits),
            store,
            links: BTreeMap::new(),
            pending: Vec::new(),
            counts: Counts::default(),
            next_connection: 1,
        };
        Ok(Self {
            config,
            state: RefCell::new(state),
            dirty: Notify::new(),
            sessions_changed: Notify::new(),
            queued_bytes: Cell::new(0),
            start: Instant::now(),
            last_refusal_log: Cell::new(None),
        })
    }

    async fn serve(
        self: &Rc<Self>,
        doors: Doors,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), ZookeeperError> {
        let ended = tokio::select! {
            error = self.commit_always() => Err(error.into()),
            error = self.open_doors(doors) => Err(error.into()),
            () = self.expire_always() => Ok(()),
            () = stopped(&mut stop, self.config.stops_on_signals) => Ok(()),
        };
        let links: Vec<_> = self.state.borrow().links.values().cloned().collect();
        if ended.is_ok() {
            self.commit()?;
            links.iter().for_each(|link| link.close());
        } else {
            links.iter().for_each(|link| link.cut());
        }
        let _ = timeout(STOP_TIMEOUT, async {
            while !self.state.borrow().links.is_empty() {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        ended
    }

    pub(super) fn settle(&self) -> Result<(), StoreError> {
        self.commit()?;
        self.state.borrow_mut().store.settle()
    }

    pub(super) async fn accept_always(self: &Rc<Self>, listener: &TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, address)) => self.admit(stream, address),
                // Out of descriptors, most often; connections that end give some back.
                Err(error) => {
                    self.log_refusal(format_args!("a connection could not be accepted: {error}"));
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn admit(self: &Rc<Self>, stream: TcpStream, address: SocketAddr) {
        let ip = address.ip().to_canonical();
        let (per_address, in_all) = (
            self.config.connections_per_address_max,
            self.config.connections_max,
        );
        let (own, all) = self.connections(ip);
        if per_address > 0 && own >= per_address {
            self.log_refusal(format_args!(
                "too many connections from {ip}: {own}, maxClientCnxns is {per_address}"
            ));
            return;
        }
        if in_all > 0 && all >= in_all {
            self.log_refusal(format_args!(
                "too many connections: {all}, maxCnxns is {in_all}"
            ));
            return;
        }
        let link = {
            let mut state = self.state.borrow_mut();
            let id = state.next_connection;
            state.next_connection += 1;
            let link = Rc::new(Link::new(
                id,
                SocketAddr::new(ip, address.port()),
                wall_ms(),
            ));
            state.links.insert(id, Rc::clone(&link));
            link
        };
        tokio::task::spawn_local(connection::serve(Rc::clone(self), stream, link));
    }

    /// Connections of an address, and in all.
    fn connections(&self, ip: IpAddr) -> (u32, u32) {
        let state = self.state.borrow();
        let own = state
            .links
            .values()
            .filter(|link| link.address.ip() == ip)
            .count();
        let count = |number| u32::try_from(number).unwrap_or(u32::MAX);
        (count(own), count(state.links.len()))
    }

    /// At most one line a second: whoever is refused comes back at once.
    fn log_refusal(&self, what: std::fmt::Arguments<'_>) {
        let now = Instant::now();
        let last = self.last_refusal_log.get();
        if last.is_none_or(|last| now - last >= REFUSAL_LOG_INTERVAL) {
            self.last_refusal_log.set(Some(now));
            warn!("{what}");
        }
    }

    async fn commit_always(&self) -> StoreError {
        loop {
            self.dirty.notified().await;
            yield_now().await;
            if let Err(error) = self.commit() {
                return error;
            }
        }
    }

    fn commit(&self) -> Result<(), StoreError> {
        let mut state = self.state.borrow_mut();
        let State {
            processor, store, ..
        } = &mut *state;
        if processor.is_dirty() {
            let (zxid, tree, sessions) = processor.take_changed();
            store.save(zxid, tree, sessions)?;
        }
        let pending = std::mem::take(&mut state.pending);
        self.deliver(&mut state, pending);
        Ok(())
    }

    /// Sleeps until something can be due: no tick while nothing is.
    async fn expire_always(&self) {
        let tick = Duration::from_millis(u64::from(self.config.tick_ms));
        let mut containers = Instant::now();
        loop {
            let before = Instant::now();
            let pause = self.until_due(tick, containers);
            tokio::select! {
                () = sleep(pause) => {}
                () = self.sessions_changed.notified() => continue,
            }
            let mut state = self.state.borrow_mut();
            let late = before.elapsed().saturating_sub(pause);
            if late > tick {
                warn!(
                    "the ZooKeeper service slept {} ms too long; its sessions get their timeouts anew",
                    late.as_millis()
                );
                state.processor.touch_all(self.now());
                continue;
            }
            for (session, timeout_ms) in state.processor.expire(self.now()) {
                info!("Expiring session 0x{session:x}, timeout of {timeout_ms}ms exceeded");
            }
            if containers.elapsed() >= CONTAINER_INTERVAL {
                containers = Instant::now();
                state.processor.delete_empty_containers();
            }
            self.release(&mut state);
        }
    }

    /// How long nothing is due. A session's last tick is awaited by itself: that the process did not run
    /// meanwhile, and so could not hear its clients, shows only in a sleep that ends too late.
    fn until_due(&self, tick: Duration, containers: Instant) -> Duration {
        let state = self.state.borrow();
        let processor = &state.processor;
        let now_ms = self.now().monotonic_ms;
        let deadline_ms = processor.sessions().next_deadline_ms();
        let expiry = deadline_ms.map(|deadline| {
            let left = Duration::from_millis(deadline.saturating_sub(now_ms));
            if left > tick { left - tick } else { left }
        });
        let has_containers = processor.tree().has_containers();
        let look = has_containers.then(|| CONTAINER_INTERVAL.saturating_sub(containers.elapsed()));
        let due = expiry.into_iter().chain(look).min();
        due.unwrap_or(CONTAINER_INTERVAL)
    }

    /// A connection's first packet. Tells whether it may go on.
    pub(super) fn connect(&self, link: &Link, packet: &[u8]) -> Result<(), ConnectError> {
        let mut state = self.state.borrow_mut();
        state.counts.received += 1;
        link.facts.borrow_mut().counts.received += 1;
        let password = uuid::Uuid::new_v4().into_bytes();
        let ip = link.address.ip();
        state
            .processor
            .connect(link.id, ip, packet, password, self.now())?;
        self.sessions_changed.notify_one();
        self.release(&mut state);
        Ok(())
    }

    /// Any later packet.
    pub(super) fn receive(&self, link: &Link, packet: &[u8]) {
        let mut state = self.state.borrow_mut();
        let now = self.now();
        state.counts.received += 1;
        link.waiting.borrow_mut().push_back(now.monotonic_ms);
        let done = state.processor.request(link.id, packet, now);
        if let Some(done) = done {
            let mut facts = link.facts.borrow_mut();
            facts.counts.received += 1;
            facts.last_operation = super::protocol::Request::name(done.number);
            facts.last_xid = done.xid;
        }
        self.release(&mut state);
    }

    /// A four-letter word was received.
    pub(super) fn count_word(&self) {
        self.state.borrow_mut().counts.received += 1;
    }

    /// A connection has ended.
    pub(super) fn gone(&self, link: &Link) {
        let mut state = self.state.borrow_mut();
        state.processor.disconnect(link.id);
        state.links.remove(&link.id);
        self.unqueue(link, link.queued_bytes.get());
    }

    /// Bytes left for the client, or are given up.
    pub(super) fn unqueue(&self, link: &Link, bytes: usize) {
        link.queued_bytes
            .set(link.queued_bytes.get().saturating_sub(bytes));
        self.queued_bytes
            .set(self.queued_bytes.get().saturating_sub(bytes));
    }

    /// Sends what the processor put out, or keeps it for the commit.
    fn release(&self, state: &mut State) {
        let outputs = state.processor.take_outputs();
        for output in &outputs {
            if let Output::Reply(connection, packet) | Output::Event(connection, packet) = output
                && let Some(link) = state.links.get(connection)
            {
                link.queued_bytes
                    .set(link.queued_bytes.get() + packet.len());
                self.queued_bytes
                    .set(self.queued_bytes.get() + packet.len());
            }
        }
        if state.processor.is_dirty() || !state.pending.is_empty() {
            state.pending.extend(outputs);
            self.dirty.notify_one();
        } else {
            self.deliver(state, outputs);
        }
    }

    fn deliver(&self, state: &mut State, outputs: Vec<Output>) {
        let now_ms = self.now().monotonic_ms;
        let zxid = state.processor.last_zxid();
        for output in outputs {
            match output {
                Output::Reply(connection, packet) => {
                    let Some(link) = state.links.get(&connection) else {
                        continue;
                    };
                    let came_ms = link.waiting.borrow_mut().pop_front();
                    let mut facts = link.facts.borrow_mut();
                    if let Some(came_ms) = came_ms {
                        let latency_ms = now_ms.saturating_sub(came_ms);
                        facts.counts.answered(latency_ms);
                        state.counts.answered(latency_ms);
                        facts.last_latency_ms = latency_ms;
                    }
                    facts.last_response_ms = now_ms;
                    facts.last_zxid = zxid;
                    facts.counts.sent += 1;
                    state.counts.sent += 1;
                    self.push(link, packet);
                }
                Output::Event(connection, packet) => {
                    let Some(link) = state.links.get(&connection) else {
                        continue;
                    };
                    link.facts.borrow_mut().counts.sent += 1;
                    state.counts.sent += 1;
                    self.push(link, packet);
                }
                Output::Close(connection) => {
                    if let Some(link) = state.links.get(&connection) {
                        link.close();
                    }
                }
            }
        }
    }

    fn push(&self, link: &Link, packet: Bytes) {
        let is_crowded = self.queued_bytes.get() > QUEUED_BYTES_MAX;
        if !link.push(packet, is_crowded) {
            self.log_refusal(format_args!(
                "{}: disconnected, it does not read its replies and events: {} bytes wait",
                link.address,
                link.queued_bytes.get()
            ));
        }
    }

    /// Everything the four-letter words tell.
    pub(super) fn facts(&self) -> ServiceFacts {
        let state = self.state.borrow();
        let processor = &state.processor;
        let tree = processor.tree();
        let timeouts = processor
            .sessions()
            .iter()
            .map(|(id, session)| (id, session.timeout_ms));
        let ephemerals = tree
            .owners()
            .map(|(session, paths)| (session, paths.iter().map(ToString::to_string).collect()));
        let connections = state.links.values().map(|link| {
            let session = processor.session_of(link.id);
            let session =
                session.and_then(|id| Some((id, processor.sessions().get(id)?.timeout_ms)));
            let queued = link.waiting.borrow().len();
            ConnectionFacts {
                session,
                queued,
                ..link.facts.borrow().clone()
            }
        });
        ServiceFacts {
            counts: state.counts,
            connections: connections.collect(),
            zxid: processor.last_zxid(),
            nodes: tree.len(),
            ephemerals: ephemerals.collect(),
            sessions: timeouts.collect(),
            watch_summary: processor.watches().summary(),
            watches: processor.watches().len(),
            data_bytes: tree.bytes(),
            uptime_ms: self.now().monotonic_ms,
            configuration: self.configuration(),
        }
    }

    fn configuration(&self) -> Vec<(&'static str, String)> {
        let config = &self.config;
        let directory = config.data_dir.display().to_string();
        vec![
            ("clientPort", config.address.port().to_string()),
            ("dataDir", directory.clone()),
            ("dataLogDir", directory),
            ("dataFile", store::STORE_FILE.to_owned()),
            ("tickTime", config.tick_ms.to_string()),
            (
                "maxClientCnxns",
                config.connections_per_address_max.to_string(),
            ),
            (
                "minSessionTimeout",
                config.session_timeout_ms_min.to_string(),
            ),
            (
                "maxSessionTimeout",
                config.session_timeout_ms_max.to_string(),
            ),
            ("serverId", "0".to_owned()),
        ]
    }

    fn now(&self) -> Now {
        let elapsed = self.start.elapsed().as_millis();
        Now {
            monotonic_ms: u64::try_from(elapsed).unwrap_or(u64::MAX),
            wall_ms: wall_ms(),
        }
    }
}

/// Ends when the service is told to stop, or its owner is gone.
async fn stopped(stop: &mut watch::Receiver<bool>, has_signals: bool) {
    let told = async {
        let _ = stop.wait_for(|is_told| *is_told).await;
    };
    if !has_signals {
        return told.await;
    }
    tokio::select! {
        () = told => {}
        result = signalled() => if let Err(error) = result {
            warn!("signals cannot be waited for: {error}");
            std::future::pending::<()>().await;
        }
    }
}

async fn signalled() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

fn wall_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
