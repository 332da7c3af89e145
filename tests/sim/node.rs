//! One generation of the broker on simulated shards: booted, serving, stopped or dead.
//!
//! Wires the same pieces together as the real process does (`server/src/serve.rs`), with simulated
//! shards in place of threads.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use futures_channel::mpsc;
use futures_util::SinkExt;
use ringlog::boot;
use ringlog::boot::cluster::{self, Cluster};
use ringlog::broker::{BoundListener, Broker};
use ringlog::config::{Advertised, BrokerConfig};
use ringlog::life::{self, Beginning, Ends};
use ringlog::metadata::controller::Controller;
use ringlog::metadata::ensemble::{Ensemble, SimulatedTree};
use ringlog::metadata::reconcile::{self, Change};
use ringlog::metadata::store::Store;
use ringlog::room::{self, Ballast};
use ringlog::serve::write_end;
use ringlog::shard::{Job, Mesh};
use ringlog_engine::io::sim::World;
use ringlog_engine::io::{Io, Listener};

/// Where the broker listens.
pub(crate) const LISTENER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9092);

/// How far a generation has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Looking through its directories, recovering.
    Booting,
    /// Listening and answering.
    Serving,
    /// The stop was asked for.
    Stopping,
    /// The stop was clean, the process has ended.
    Stopped,
    /// It could not start or not stop cleanly: the message for the operator.
    Failed(String),
}

/// A generation of the broker.
pub(crate) struct Node {
    world: World,
    ios: Vec<Io>,
    shared: Rc<Shared>,
}

struct Shared {
    phase: RefCell<Phase>,
    opened: Cell<usize>,
    ended: Cell<usize>,
    ends: RefCell<Ends>,
    config: BrokerConfig,
    senders: RefCell<Vec<mpsc::Sender<Job>>>,
}

impl Shared {
    fn fail(&self, message: String) {
        let mut phase = self.phase.borrow_mut();
        if !matches!(*phase, Phase::Failed(_)) {
            *phase = Phase::Failed(message);
        }
    }
}

impl Node {
    /// Starts a generation that will listen on [`LISTENER`]. ZooKeeper outlives it.
    pub(crate) fn start(
        world: &World,
        config: &BrokerConfig,
        zookeeper: &Rc<RefCell<SimulatedTree>>,
        seed: u64,
    ) -> Node {
        let shards = config.ringlog.cores;
        let ios: Vec<Io> = (0..=shards).map(|_| Io::simulated(world)).collect();
        let shared = Rc::new(Shared {
            phase: RefCell::new(Phase::Booting),
            opened: Cell::new(0),
            ended: Cell::new(0),
            ends: RefCell::default(),
            config: config.clone(),
            senders: RefCell::default(),
        });
        let (main, booted) = (ios.clone(), shared.clone());
        let zookeeper = zookeeper.clone();
        ios[0].spawn(async move {
            if let Err(error) = run(&main, &booted, &zookeeper, seed).await {
                booted.fail(error);
            }
        });
        Node {
            world: world.clone(),
            ios,
            shared,
        }
    }

    /// Its shards, to be run by the world.
    pub(crate) fn ios(&self) -> &[Io] {
        &self.ios
    }

    /// How far it has come.
    pub(crate) fn phase(&self) -> Phase {
        self.shared.phase.borrow().clone()
    }

    /// Asks for a clean stop, as SIGTERM does.
    pub(crate) fn ask_to_stop(&self) {
        *self.shared.phase.borrow_mut() = Phase::Stopping;
        let senders = self.shared.senders.borrow().clone();
        self.ios[0].spawn(async move {
            for mut sender in senders {
                let job: Job = Box::new(|shard| shard.ask_to_stop());
                // A shard that has ended needs no message.
                let _ = sender.send(job).await;
            }
        });
    }

    /// The process ends at once; the page cache survives.
    pub(crate) fn kill(self) {
        self.world.kill();
        self.bury();
    }

    /// The power fails.
    pub(crate) fn lose_power(self) {
        self.world.crash();
        self.bury();
    }

    fn bury(self) {
        for io in &self.ios {
            io.clear_tasks();
        }
    }
}

fn bound(address: SocketAddr) -> BoundListener {
    BoundListener {
        name: "PLAINTEXT".to_owned(),
        address,
        advertised: Advertised {
            host: None,
            port: 0,
        },
    }
}

/// The life of the process' main thread.
async fn run(
    ios: &[Io],
    shared: &Rc<Shared>,
    zookeeper: &Rc<RefCell<SimulatedTree>>,
    seed: u64,
) -> Result<(), String> {
    let io = &ios[0];
    let config = &shared.config;
    let mut random = fastrand::Rng::with_seed(seed);
    let names = boot::create_directories_of(io, config).await?;
    names.sync(io).await?;
    Ballast::new(config).release(io).await;
    let (listener, address) = io.listen(LISTENER, 50).map_err(|error| error.to_string())?;
    let ensemble = Ensemble::Simulated(zookeeper.clone(), io.clone());
    let cluster = Cluster::read(&ensemble).await?;
    let looked = boot::look(io, config).await?;
    let found = boot::find(io, config, looked, &cluster, &mut random.fork()).await?;
    cluster::enroll(&ensemble, config, &found).await?;
    let (image, partitions) = (Arc::new(found.image), Arc::new(found.partitions));
    let broker = Arc::new(Broker::new(
        config.clone(),
        found.cluster_id,
        vec![vec![bound(address)]],
    ));
    room::look(io, &broker).await;
    let mut mesh = Mesh::new(config.ringlog.cores);
    for (id, shard_io) in ios[1..].iter().enumerate() {
        let beginning = Beginning {
            id,
            broker: broker.clone(),
            mailbox: mesh.take(id),
            image: image.clone(),
            partitions: partitions.clone(),
            seed: random.u64(..),
        };
        let store = (id == 0).then(|| {
            let controller = Controller::new(broker.clone(), image.clone());
            let places = found.places.clone();
            let directories = config.log_dirs.clone();
            let ensemble = Ensemble::Simulated(zookeeper.clone(), shard_io.clone());
            Store::new(ensemble, controller, directories, places)
        });
        let listeners = vec![listener.clone()];
        let (io, shared) = (shard_io.clone(), shared.clone());
        shard_io.spawn(async move {
            match run_shard(&io, beginning, store, listeners, &shared).await {
                Ok(ends) => shared.ends.borrow_mut().extend(ends),
                Err(error) => shared.fail(error),
            }
            shared.ended.set(shared.ended.get() + 1);
        });
    }
    *shared.senders.borrow_mut() = mesh.senders();
    // The main io looks on; in the real process it sleeps on a channel.
    while shared.opened.get() < config.ringlog.cores {
        if matches!(*shared.phase.borrow(), Phase::Failed(_)) {
            return Ok(());
        }
        io.sleep(std::time::Duration::from_micros(200)).await;
    }
    for mut sender in mesh.senders() {
        let job: Job = Box::new(|shard| shard.go());
        let _ = sender.send(job).await;
    }
    let mut first = mesh.senders().swap_remove(0);
    let job: Job = Box::new(|shard| reconcile::tell(shard, Change::Everything));
    let _ = first.send(job).await;
    shared.phase.replace(Phase::Serving);
    pass_events_on(io, shared, zookeeper, first, random).await;
    if matches!(*shared.phase.borrow(), Phase::Failed(_)) {
        return Ok(());
    }
    let ends = shared.ends.borrow().clone();
    for directory in &config.log_dirs {
        write_end(io, directory, &ends)
            .await
            .map_err(|error| format!("the stop was not clean: {error}"))?;
    }
    shared.phase.replace(Phase::Stopped);
    Ok(())
}

/// Events of ZooKeeper reach shard 0 after a while: after the change that they tell of or in the midst of
/// the next. Ends with the shards.
async fn pass_events_on(
    io: &Io,
    shared: &Rc<Shared>,
    zookeeper: &Rc<RefCell<SimulatedTree>>,
    mut shard: mpsc::Sender<Job>,
    mut random: fastrand::Rng,
) {
    while shared.ended.get() < shared.config.ringlog.cores {
        io.sleep(std::time::Duration::from_micros(random.u64(20..1500)))
            .await;
        let events = zookeeper.borrow_mut().take_events();
        let changes = events
            .iter()
            .filter_map(|event| Change::of(event.change, &event.path));
        for change in changes {
            let job: Job = Box::new(|shard| reconcile::tell(shard, change));
            let _ = shard.send(job).await;
        }
    }
}

async fn run_shard(
    io: &Io,
    beginning: Beginning,
    store: Option<Store>,
    listeners: Vec<Listener>,
    shared: &Rc<Shared>,
) -> Result<Ends, String> {
    let shard = life::open(io, beginning, store).await?;
    shared.opened.set(shared.opened.get() + 1);
    shard.wait_for_go().await;
    life::serve(&shard, listeners);
    shard.wait_for_stop().await;
    let ends = life::stop(&shard).await;
    ends.map_err(|error| format!("the stop was not clean: {error}"))
}
