//! Runs the broker as a process: locks, listeners, ZooKeeper, one pinned thread per shard, signals.

mod listen;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use futures_util::SinkExt;
use ringlog_engine::io::probe::{self, Choice};
use ringlog_engine::io::{self, DriverKind, Io, Listener};
use ringlog_engine::log::checkpoint::{
    self, CLEANER_OFFSET_FILE, HIGH_WATERMARK_FILE, LOG_START_OFFSET_FILE, OffsetEntry,
    RECOVERY_POINT_FILE,
};
use ringlog_engine::log::directory::write_clean_shutdown;

use crate::boot::cluster::{self, Cluster};
use crate::boot::{self, Found, Looked};
use crate::broker::{self, BoundListener, Broker};
use crate::cli::holder::name_holder;
use crate::cli::port::write_port_file;
use crate::config::{BrokerConfig, Durability, HttpListen, IoMode};
use crate::control::{self, Identity};
use crate::life::{self, Beginning, End, Ends};
use crate::logging::{self, BannerFacts};
use crate::metadata::controller::Controller;
use crate::metadata::ensemble::{Ensemble, Session};
use crate::metadata::store::{Places, Store};
use crate::metadata::znode::RegisteredEndPoint;
use crate::metrics::http;
use crate::room::{self, Ballast};
use crate::shard::{Mesh, Shard};
use crate::zookeeper::config::ZookeeperConfig;
use crate::zookeeper::{self, Running, ZookeeperError};

/// Timeout of the session with a ZooKeeper service of this process. It ends when this process does, so
/// nobody learns anything sooner by a shorter one; a longer one needs fewer pings.
const OWN_SESSION: Duration = Duration::from_secs(60);

/// The table of file handles is made for so many at once: half a MiB of the kernel's memory.
const RESERVED_HANDLES_MAX: u64 = 65_536;

/// Why the broker could not start or had to stop: what, where, what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ServeError(String);

impl From<String> for ServeError {
    fn from(message: String) -> ServeError {
        ServeError(message)
    }
}

/// A running shard, seen from the main thread.
struct Thread {
    handle: JoinHandle<Result<Ends, String>>,
}

/// Serves until a signal asks to stop.
///
/// # Errors
/// What kept the broker from starting, or what stopped it.
pub fn serve(mut config: BrokerConfig) -> Result<(), ServeError> {
    let began = Instant::now();
    let handles = io::raise_open_file_limit();
    if let Err(error) = io::reserve_descriptors(handles.min(RESERVED_HANDLES_MAX)) {
        log::warn!(
            "the table of file handles grows while serving, which stalls for milliseconds: {error}"
        );
    }
    let driver = choose_driver(&config)?;
    let main_io = Io::new(driver.kind).map_err(|error| format!("I/O driver: {error}"))?;
    let (io, wanted) = (main_io.clone(), config.clone());
    let made = main_io.block_on(async move { boot::create_directories_of(&io, &wanted).await })?;
    let names = sync_names(&main_io, made);
    let locks = lock(&config)?;
    let (io, wanted) = (main_io.clone(), config.clone());
    main_io.block_on(async move { Ballast::new(&wanted).release(&io).await });
    let (listeners, bound) = listen::listen(&config)?;
    let (looked, service) = std::thread::scope(|scope| {
        let (io, wanted) = (main_io.clone(), config.clone());
        let service = scope.spawn(|| start_zookeeper(&mut config));
        let looked = main_io.block_on(async move { boot::look(&io, &wanted).await });
        (looked, service.join())
    });
    let looked = looked?;
    let mut service =
        service.map_err(|_| "the ZooKeeper service ended at its start".to_owned())??;
    let http = bind_http(&config)?;
    let http_address = http.as_ref().map(|bound| bound.address);
    let own_service = service.as_ref().map(Running::own_address);
    let identity = identity(&config, &bound, own_service);
    let control = control::start(identity, http)?;
    let found = find(&main_io, &config, &control.session, names, looked)?;
    if let Some(service) = &mut service {
        service.let_others_in();
    }
    let broker = Arc::new(Broker::new(config, found.cluster_id.clone(), bound));
    broker.share_handles(handles);
    let (io, looked) = (main_io.clone(), broker.clone());
    main_io.block_on(async move { room::look(&io, &looked).await });
    let (mesh, threads) = start_shards(&broker, found, listeners, driver.kind, &control.session)?;
    if let Some(service) = &mut service {
        let durable = service.wait_until_durable();
        durable.map_err(|error| error.to_string())?;
    }
    post_all(&main_io, &mesh, |shard| shard.go());
    control.attach(mesh.senders());
    let beside = Beside {
        zookeeper: service.as_ref().map(Running::address),
        http: http_address,
    };
    announce(&broker, &driver, &beside, began)?;
    wait_for_signal()?;
    log::info!(target: "kafka.server.KafkaServer", "[KafkaServer id={}] shutting down", broker.config.node_id);
    post_all(&main_io, &mesh, |shard| shard.ask_to_stop());
    stop(&main_io, &broker, threads)?;
    control.stop();
    if let Some(service) = service {
        service.stop().map_err(|error| error.to_string())?;
    }
    drop(locks);
    log::info!(target: "kafka.server.KafkaServer", "[KafkaServer id={}] shut down completed", broker.config.node_id);
    Ok(())
}

/// The ZooKeeper service of this process, unless there is to be none, or its port has one already.
/// `config.zookeeper.connect` is where it is then.
fn start_zookeeper(config: &mut BrokerConfig) -> Result<Option<Running>, String> {
    let Some(port) = config.zookeeper.own_port else {
        return Ok(None);
    };
    let mut wanted = ZookeeperConfig {
        data_dir: config.ringlog.data_dir.join("zookeeper"),
        session_timeout_ms_max: u32::try_from(OWN_SESSION.as_millis()).unwrap_or(u32::MAX),
        ..ZookeeperConfig::default()
    };
    wanted.address.set_port(port);
    match zookeeper::start_held(wanted) {
        Ok(service) => {
            config.zookeeper.connect = service.address().to_string();
            Ok(Some(service))
        }
        Err(ZookeeperError::Bind { address, error })
            if error.kind() == std::io::ErrorKind::AddrInUse =>
        {
            log::info!("Something listens on {address} already: it is taken for the ZooKeeper");
            config.zookeeper.connect = address.to_string();
            Ok(None)
        }
        Err(error) => Err(error.to_string()),
    }
}

/// The port of metrics. One that nobody asked for and that is taken is gone without.
fn bind_http(config: &BrokerConfig) -> Result<Option<http::Bound>, String> {
    let HttpListen::At { address, is_asked } = &config.ringlog.http else {
        return Ok(None);
    };
    match http::Bound::bind(address) {
        Ok(bound) => Ok(Some(bound)),
        Err(error) if *is_asked => Err(format!(
            "cannot listen on {address} for HTTP: {error}\n   | give another address with --http \
             HOST:PORT or ringlog.http.listen, or --http none"
        )),
        Err(error) => {
            log::warn!("No /metrics, and nothing for `ringlog top`: {address}: {error}");
            Ok(None)
        }
    }
}

/// What ZooKeeper and clients are told of this broker.
fn identity(
    config: &BrokerConfig,
    bound: &[Vec<BoundListener>],
    own_service: Option<SocketAddr>,
) -> Identity {
    let end_point = |listener: &BoundListener| {
        let ip = listener.address.ip();
        let host = match &listener.advertised.host {
            Some(host) => host.clone(),
            None if ip.is_unspecified() => rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            None => ip.to_string(),
        };
        let port = match listener.advertised.port {
            0 => listener.address.port(),
            port => port,
        };
        let name = listener.name.clone();
        RegisteredEndPoint {
            name,
            host,
            port: port.into(),
        }
    };
    let patience = Duration::from_millis(config.zookeeper.session_timeout_ms.into());
    let longest = own_service.map_or(patience, |_| OWN_SESSION);
    Identity {
        connect: config.zookeeper.connect.clone(),
        own_service,
        session_timeout: patience.max(longest),
        patience,
        node_id: config.node_id,
        nodes: (bound.iter())
            .map(|bound| bound.iter().map(end_point).collect())
            .collect(),
        rack: broker::rack(config),
        session_file: config.ringlog.data_dir.join("zookeeper-session"),
        hint: "Start one: bin/zookeeper-server-start.sh config/zookeeper.properties; or leave \
               zookeeper.connect out, for one in this process.",
    }
}

/// The end of [`sync_names`].
type Synced = oneshot::Receiver<Result<(), String>>;

/// Begins to make the names of new directories durable, beside what else a start does.
fn sync_names(io: &Io, made: boot::Names) -> Synced {
    let (done, synced) = oneshot::channel();
    let inner = io.clone();
    io.spawn(async move {
        // If nobody waits any more, the start has failed.
        let _ = done.send(made.sync(&inner).await);
    });
    synced
}

/// What there is, in ZooKeeper and in the log directories.
fn find(
    io: &Io,
    config: &BrokerConfig,
    session: &Session,
    names: Synced,
    looked: Looked,
) -> Result<Found, String> {
    let (inner, config) = (io.clone(), config.clone());
    let ensemble = Ensemble::Real(session.clone());
    io.block_on(async move {
        let cluster = Cluster::read(&ensemble).await?;
        // Before `meta.properties` is there: that says that the names are durable.
        let synced = names.await.map_err(|_| "the start was given up".to_owned());
        synced??;
        let mut random = fastrand::Rng::new();
        let found = boot::find(&inner, &config, looked, &cluster, &mut random).await?;
        cluster::refuse_lost(&ensemble, &found).await?;
        cluster::enroll(&ensemble, &config, &found).await?;
        Ok(found)
    })
}

/// One pinned thread for each shard; when it returns all of them have opened their partitions.
fn start_shards(
    broker: &Arc<Broker>,
    found: Found,
    mut listeners: Vec<Vec<Listener>>,
    kind: DriverKind,
    session: &Session,
) -> Result<(Mesh, Vec<Thread>), String> {
    let count = broker.config.ringlog.cores;
    let Found {
        image,
        places,
        partitions,
        ..
    } = found;
    let (image, partitions) = (Arc::new(image), Arc::new(partitions));
    let mut mesh = Mesh::new(count);
    let mut random = fastrand::Rng::new();
    let (ready, readiness) = mpsc::channel();
    let cores = io::usable_cores();
    let mut threads = Vec::with_capacity(count);
    for id in 0..count {
        let beginning = Beginning {
            id,
            broker: broker.clone(),
            mailbox: mesh.take(id),
            image: image.clone(),
            partitions: partitions.clone(),
            seed: random.u64(..),
        };
        let store = (id == 0).then(|| (session.clone(), places.clone()));
        // All shards accept from the sockets of the one node that there is, else each from its own.
        let listeners = match &mut listeners[..] {
            [all] => all.clone(),
            each => std::mem::take(&mut each[id]),
        };
        let ready = ready.clone();
        let core = cores[id % cores.len()];
        let handle = std::thread::Builder::new()
            .name(format!("ringlog-{id}"))
            .spawn(move || run_shard(beginning, store, listeners, kind, core, &ready))
            .map_err(|error| format!("cannot start the thread of shard {id}: {error}"))?;
        threads.push(Thread { handle });
    }
    drop(ready);
    for _ in 0..count {
        let opened = readiness
            .recv()
            .map_err(|_| "a shard ended at its start".to_owned())?;
        opened?;
    }
    Ok((mesh, threads))
}

fn choose_driver(config: &BrokerConfig) -> Result<Choice, String> {
    let wanted = match config.ringlog.io {
        IoMode::Auto => DriverKind::Auto,
        IoMode::Uring => DriverKind::Uring,
        IoMode::Poll => DriverKind::Poll,
    };
    let choice = probe::choose(wanted)?;
    if choice.is_fallback {
        log::warn!("{}", choice.line);
    } else {
        log::info!("{}", choice.line);
    }
    Ok(choice)
}

/// Kafka's `.lock` of each log directory.
fn lock(config: &BrokerConfig) -> Result<Vec<OwnedFd>, String> {
    let lock_one = |directory: &std::path::PathBuf| {
        let path = directory.join(".lock");
        io::lock_file(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => format!(
                "data directory {} is in use by another broker ({} holds {})\n   | stop that \
                 broker, or give another directory with --data-dir DIR or log.dirs",
                directory.display(),
                name_holder(&path),
                path.display()
            ),
            _ => format!(
                "{}: {error}\n   | the data directory must be writable",
                path.display()
            ),
        })
    };
    let mut directories = config.log_dirs.clone();
    if !directories.contains(&config.ringlog.data_dir) {
        directories.push(config.ringlog.data_dir.clone());
    }
    directories.iter().map(lock_one).collect()
}

fn run_shard(
    beginning: Beginning,
    store: Option<(Session, Places)>,
    listeners: Vec<Listener>,
    kind: DriverKind,
    core: usize,
    ready: &mpsc::Sender<Result<(), String>>,
) -> Result<Ends, String> {
    if let Err(error) = io::pin_to_core(core) {
        log::warn!(
            "Shard {} is not pinned to core {core}: {error}",
            beginning.id
        );
    }
    let io = Io::new(kind).map_err(|error| format!("I/O driver: {error}"));
    let io = match io {
        Ok(io) => io,
        Err(error) => {
            let _ = ready.send(Err(error.clone()));
            return Err(error);
        }
    };
    let store = store.map(|(session, places)| {
        let directories = beginning.broker.config.log_dirs.clone();
        let controller = Controller::new(beginning.broker.clone(), beginning.image.clone());
        Store::new(Ensemble::Real(session), controller, directories, places)
    });
    let (opened_io, ready) = (io.clone(), ready.clone());
    let ends = io.block_on(async move {
        let shard = match life::open(&opened_io, beginning, store).await {
            Ok(shard) => shard,
            Err(error) => {
                let _ = ready.send(Err(error.clone()));
                return Err(error);
            }
        };
        // The main thread waits for this; it goes only if the process does.
        let _ = ready.send(Ok(()));
        shard.wait_for_go().await;
        life::serve(&shard, listeners);
        shard.wait_for_stop().await;
        life::stop(&shard).await
    });
    // The tasks hold the driver: without them it is taken down here, and the port is free when the
    // process has ended.
    io.clear_tasks();
    ends
}

fn post_all(io: &Io, mesh: &Mesh, job: fn(&Shard)) {
    let senders = mesh.senders();
    io.block_on(async move {
        for mut sender in senders {
            // A shard that has ended needs no message.
            let _ = sender.send(Box::new(move |shard| job(shard))).await;
        }
    });
}

/// What this process listens on beside Kafka's listeners.
struct Beside {
    zookeeper: Option<SocketAddr>,
    http: Option<SocketAddr>,
}

fn announce(
    broker: &Broker,
    driver: &Choice,
    beside: &Beside,
    began: Instant,
) -> Result<(), String> {
    let config = &broker.config;
    if let Some(path) = &config.port_file {
        let mut bound: Vec<(String, SocketAddr)> = (broker.nodes.iter().flatten())
            .map(|bound| (bound.name.clone(), bound.address))
            .collect();
        bound.extend(
            beside
                .zookeeper
                .map(|address| ("ZOOKEEPER".to_owned(), address)),
        );
        bound.extend(beside.http.map(|address| ("HTTP".to_owned(), address)));
        write_port_file(path, &bound)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    let durability = match config.ringlog.durability {
        Durability::Durable => "acks=all waits for stable storage (group commit)",
        Durability::PageCache => "acks=all waits for the page cache only, as in Apache Kafka",
    };
    log::info!("Durability: {durability}");
    logging::banner(&BannerFacts {
        cores: config.ringlog.cores,
        driver: driver.line.clone(),
        durability: durability.to_owned(),
        listeners: (broker.nodes.iter().flatten())
            .map(|bound| bound.address.to_string())
            .collect(),
        http: beside.http,
        zookeeper: match beside.zookeeper {
            Some(address) => format!("{address} (in this process)"),
            None => config.zookeeper.connect.clone(),
        },
        data: config
            .log_dirs
            .iter()
            .map(|directory| directory.display().to_string())
            .collect::<Vec<_>>()
            .join(", "),
        ready_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    });
    logging::broker_ready(config.node_id);
    if config.is_ephemeral {
        let kafka = broker.nodes[0][0].address.to_string();
        logging::ephemeral_ready(&kafka, &config.zookeeper.connect);
    }
    Ok(())
}

/// Returns at the first SIGTERM or SIGINT; a second one ends the process at once.
fn wait_for_signal() -> Result<(), String> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let failed = |error: std::io::Error| format!("signals: {error}");
    let again = Arc::new(std::sync::atomic::AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, again.clone())
            .map_err(failed)?;
    }
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
    signals.forever().next();
    again.store(true, std::sync::atomic::Ordering::SeqCst);
    Ok(())
}

/// Joins the shards and leaves the log directories as a clean stop of Kafka does.
fn stop(io: &Io, broker: &Broker, threads: Vec<Thread>) -> Result<(), ServeError> {
    let mut ends = Ends::new();
    for thread in threads {
        match thread.handle.join() {
            Ok(Ok(of_shard)) => ends.extend(of_shard),
            Ok(Err(error)) => return Err(ServeError(format!("the stop was not clean: {error}"))),
            Err(_) => return Err(ServeError("a shard has panicked".to_owned())),
        }
    }
    let log_dirs = broker.config.log_dirs.clone();
    let inner = io.clone();
    let written = io.block_on(async move {
        for directory in &log_dirs {
            write_end(&inner, directory, &ends).await?;
        }
        Ok::<(), ringlog_engine::log::LogError>(())
    });
    written.map_err(|error| ServeError(format!("the stop was not clean: {error}")))
}

/// Checkpoint files and the mark of a clean stop of one log directory.
///
/// # Errors
/// What could not be written; the next start recovers then.
pub async fn write_end(
    io: &Io,
    directory: &Path,
    ends: &Ends,
) -> Result<(), ringlog_engine::log::LogError> {
    let mut here = BTreeMap::new();
    for end in ends {
        let (topic, index) = &end.partition;
        let name = ringlog_engine::log::directory::partition_directory_name(topic, *index);
        if io.list_directory(&directory.join(name)).await.is_ok() {
            here.insert(&end.partition, end);
        }
    }
    let entries = |offset: fn(&End) -> i64| -> Vec<OffsetEntry> {
        let entry = |end: &&End| OffsetEntry {
            topic: end.partition.0.clone(),
            partition: end.partition.1,
            offset: offset(end),
        };
        here.values().map(entry).collect()
    };
    let mut points = entries(|end| end.recovery_point);
    // That nothing is known of a log must not look like something that is.
    points.retain(|entry| {
        let end = here[&(entry.topic.clone(), entry.partition)];
        end.is_clean || entry.offset > 0
    });
    let mut starts = entries(|end| end.log_start_offset);
    // Kafka names only partitions whose log does not begin with its first segment.
    starts.retain(|entry| entry.offset > 0);
    checkpoint::write_offsets(io, &directory.join(RECOVERY_POINT_FILE), &points).await?;
    checkpoint::write_offsets(io, &directory.join(LOG_START_OFFSET_FILE), &starts).await?;
    // Kafka has one in any case; the cleaner may have written it. A damaged one costs a round.
    let cleaner = directory.join(CLEANER_OFFSET_FILE);
    let known = checkpoint::read_offsets(io, &cleaner).await;
    if known.is_ok_and(|known| known.is_empty()) {
        checkpoint::write_offsets(io, &cleaner, &[]).await?;
    }
    // The mark is for all logs of the directory: without it one that is still to be recovered is.
    if here.values().all(|end| end.is_clean) {
        checkpoint::write_offsets(io, &directory.join(HIGH_WATERMARK_FILE), &points).await?;
        write_clean_shutdown(io, directory, 0).await?;
    }
    Ok(())
}
