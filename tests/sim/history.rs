//! One history: generations of the broker on one disk, each of which ends as the seed wants it,
//! while the same clients go on; at the end everything is read back.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use ringlog::config::{BrokerConfig, Layers};
use ringlog::metadata::ensemble::SimulatedTree;
use ringlog_engine::clock::Instant;
use ringlog_engine::io::sim::World;
use ringlog_tests::random::Random;

use crate::admin;
use crate::consumer;
use crate::crowd::Crowd;
use crate::disk;
use crate::group;
use crate::ledger::{Ending, Ledger};
use crate::node::{LISTENER, Node, Phase};
use crate::producer::{self, Target};
use crate::rot;
use crate::scene::{STABLE_TOPICS, Scene, begin_story, hash_of_story, one_in, pick, size, within};
use crate::weather::Weather;

/// A start, a stop or the clients' end that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a history did.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Faults of the world, by kind.
    pub(crate) faults: BTreeMap<&'static str, u64>,
    /// Operations, by kind.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// Simulated time.
    pub(crate) duration: Duration,
    /// Equal for two runs of a seed.
    pub(crate) hash: u64,
}

/// How a generation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    PowerLoss,
    Kill,
    CleanStop,
}

struct History {
    world: World,
    scene: Rc<Scene>,
    config: BrokerConfig,
    zookeeper: Rc<RefCell<SimulatedTree>>,
    random: Random,
    /// The worst that has happened since the books were settled last.
    ending: Ending,
    /// Whether the disk has refused something in an earlier generation.
    was_troubled: bool,
}

/// Runs the history of a seed; panics if a promise is broken.
pub(crate) fn run(seed: u64, is_shown: bool) -> Report {
    begin_story(is_shown);
    let mut random = Random::from_seed(seed ^ 0x51D5_EED0);
    let world = World::new(seed);
    let config = configuration(&mut random);
    let is_durable = config.ringlog.durability == ringlog::config::Durability::Durable;
    let settings = &config.settings;
    // Longer than a jump of the clock that is believed at once.
    let long_ms = 10 * 60 * 60 * 1000;
    let keeps_all = settings.integer("log.retention.bytes") == Some(-1)
        && settings
            .integer("log.retention.ms")
            .is_some_and(|ms| ms == -1 || ms >= long_ms);
    let ledger = Ledger::new(is_durable, keeps_all);
    let scene = Scene::new(Crowd::new(&world), ledger, LISTENER);
    scene.tell(&format!(
        "seed {seed}: {:?}, {} shards, {} log directories, journal of {} KiB{}",
        config.ringlog.durability,
        config.ringlog.cores,
        config.log_dirs.len(),
        config.ringlog.journal_bytes / 1024,
        if settings.boolean("log.preallocate") {
            ", preallocated"
        } else {
            ""
        },
    ));
    let mut history = History {
        world: world.clone(),
        scene,
        config,
        zookeeper: Rc::new(RefCell::new(SimulatedTree::new(seed))),
        random,
        ending: Ending::Process,
        was_troubled: false,
    };
    history.invite();
    let generations = within(&mut history.random, 3, 7);
    for _ in 0..generations {
        let weather = Weather::draw(&mut history.random);
        let is_troubled = weather.is_troubled();
        history.generation(weather);
        history.was_troubled |= is_troubled;
    }
    history.finale();
    let mut counts = std::mem::take(&mut history.scene.ledger.borrow_mut().counts);
    *counts.entry("generations").or_default() += u64::from(history.scene.generation.get());
    Report {
        faults: world.faults(),
        counts,
        duration: world.now().since(Instant(1_000_000_000_000)),
        hash: world.trace_hash() ^ hash_of_story(),
    }
}

/// Small everything, so that segments roll, journals wrap and files are closed in each history.
fn configuration(random: &mut Random) -> BrokerConfig {
    let directories = pick(random, &["/data/a", "/data/a,/data/b"]);
    let durability = pick(random, &["durable", "durable", "durable", "page-cache"]);
    let overrides = [
        format!("ringlog.cores={}", within(random, 1, 2)),
        format!("ringlog.durability={durability}"),
        format!("log.dirs={directories}"),
        "ringlog.data.dir=/data/ringlog".to_owned(),
        "ringlog.journal.file.bytes=65536".to_owned(),
        "ringlog.journal.bytes=1048576".to_owned(),
        format!("ringlog.open.files.max={}", within(random, 16, 64)),
        format!(
            "log.segment.bytes={}",
            pick(random, &[16_384, 16_384, 65_536])
        ),
        format!("log.index.interval.bytes={}", pick(random, &[512, 4096])),
        "offsets.topic.num.partitions=2".to_owned(),
        format!(
            "offsets.topic.segment.bytes={}",
            pick(random, &[1024, 4096, 65_536])
        ),
        format!(
            "ringlog.scrub.bytes.per.second={}",
            pick(random, &[0, 4096, 1 << 20])
        ),
        "group.min.session.timeout.ms=100".to_owned(),
        "auto.create.topics.enable=false".to_owned(),
        format!(
            "log.retention.check.interval.ms={}",
            pick(random, &[5, 40, 200])
        ),
        format!("log.segment.delete.delay.ms={}", pick(random, &[0, 50])),
        format!(
            "log.retention.bytes={}",
            pick(random, &[-1, -1, 0, 20_000, 100_000])
        ),
        // What is not used of a segment is cut off when it is rolled or closed.
        format!("log.preallocate={}", pick(random, &[true, false, false])),
        format!("log.cleaner.enable={}", pick(random, &[true, true, false])),
        format!("log.cleaner.backoff.ms={}", pick(random, &[1, 20, 200])),
        format!(
            "log.cleaner.min.cleanable.ratio={}",
            pick(random, &["0.01", "0.5"])
        ),
        format!(
            "log.cleaner.dedupe.buffer.size={}",
            pick(random, &[20_000, 1_000_000])
        ),
        // Records are stamped now: 1 ms lets all of them go as soon as they may.
        format!(
            "log.retention.ms={}",
            pick(random, &[-1, -1, 36_000_000, 1, 100])
        ),
        format!(
            "ringlog.disk.reserve.bytes={}",
            pick(random, &[0, 300_000, 1_500_000])
        ),
    ];
    let layers = Layers {
        overrides: overrides.to_vec(),
        ..Layers::default()
    };
    let loaded = BrokerConfig::load(&layers).unwrap_or_else(|error| panic!("{error}"));
    let mut config = loaded.config;
    // Smaller than the key allows: more wraps.
    config.ringlog.journal_bytes = 65_536 * within(random, 3, 8);
    config
}

impl History {
    /// Adds the clients.
    fn invite(&mut self) {
        let mut targets: Vec<Target> = Vec::new();
        for (name, partitions) in STABLE_TOPICS {
            let topic = self.scene.ledger.borrow_mut().want_topic(name, partitions);
            targets.extend((0..partitions).map(|partition| (topic, partition)));
        }
        let scene = &self.scene;
        let fork = |random: &mut Random| Random::from_seed(random.number());
        let random = &mut self.random;
        scene
            .crowd
            .spawn(admin::administrate(scene.clone(), fork(random)));
        for _ in 0..within(random, 1, 2) {
            let task = producer::plain(scene.clone(), targets.clone(), fork(random));
            scene.crowd.spawn(task);
        }
        for _ in 0..within(random, 1, 2) {
            let some: Vec<Target> = targets
                .iter()
                .copied()
                .filter(|_| one_in(random, 2))
                .collect();
            let some = if some.is_empty() {
                targets.clone()
            } else {
                some
            };
            scene
                .crowd
                .spawn(producer::idempotent(scene.clone(), some, fork(random)));
        }
        for _ in 0..within(random, 1, 2) {
            let task = consumer::consume(scene.clone(), targets.clone(), fork(random));
            scene.crowd.spawn(task);
        }
        scene
            .crowd
            .spawn(group::simple(scene.clone(), fork(random)));
        for _ in 0..2 {
            scene
                .crowd
                .spawn(group::member(scene.clone(), fork(random)));
        }
    }

    /// A broker's life, from its start to the end that the seed wants.
    fn generation(&mut self, weather: Weather) {
        let end = pick(
            &mut self.random,
            &[End::PowerLoss, End::PowerLoss, End::Kill, End::CleanStop],
        );
        let node = self.start(weather);
        // An early end strikes the start itself, at any moment or while a recovery has cut a log.
        let is_early = one_in(&mut self.random, 4);
        let is_aimed = is_early && one_in(&mut self.random, 2);
        let steps = if is_early && !is_aimed {
            self.steps(9)
        } else {
            u64::MAX
        };
        let (scene, world) = (self.scene.clone(), self.world.clone());
        // A disk that fails may never let it get ready.
        let patience = if weather.is_troubled() {
            Duration::from_secs(3)
        } else {
            PATIENCE
        };
        let is_over = || scene.gate.get() || (is_aimed && world.has_unsynced_cut());
        self.drive(&node, patience, steps, is_over);
        if !is_early {
            let is_failed = matches!(node.phase(), Phase::Failed(_));
            assert!(
                scene.gate.get() || is_failed || weather.is_troubled(),
                "the broker does not get ready: {:?}",
                node.phase()
            );
            let duration = Duration::from_millis(within(&mut self.random, 5, 700));
            let steps = if one_in(&mut self.random, 2) {
                self.steps(14)
            } else {
                u64::MAX
            };
            self.drive(&node, duration, steps, || false);
        }
        match end {
            End::CleanStop if node.phase() == Phase::Serving => {
                let steps = if one_in(&mut self.random, 3) {
                    self.steps(9)
                } else {
                    u64::MAX
                };
                self.stop(node, steps, weather);
            }
            End::Kill | End::CleanStop => self.kill(node),
            End::PowerLoss => self.lose_power(node),
        }
    }

    /// A number of steps, small ones as likely as large ones, up to 2^`bits`.
    fn steps(&mut self, bits: u64) -> u64 {
        let bits = within(&mut self.random, 1, bits);
        within(&mut self.random, 1, 1 << bits)
    }

    fn start(&mut self, weather: Weather) -> Node {
        let scene = &self.scene;
        scene.generation.set(scene.generation.get() + 1);
        scene.gate.set(false);
        scene.pause.set(Duration::ZERO);
        scene.set_wall(0);
        scene.is_troubled.set(weather.is_troubled());
        scene.tell(&format!(
            "generation {}: {weather:?}",
            scene.generation.get()
        ));
        weather.begin(&self.world, &mut self.random);
        let random = Random::from_seed(self.random.number());
        scene.crowd.spawn(weather.accidents(scene.clone(), random));
        scene.crowd.spawn(admin::settle(scene.clone(), self.ending));
        let node = Node::start(
            &self.world,
            &self.config,
            &self.zookeeper,
            self.random.number(),
        );
        scene.ledger.borrow_mut().count("starts", 1);
        node
    }

    /// Runs broker and clients until `done`, for `limit` of simulated time or a number of steps, or
    /// until the broker fails.
    fn drive(&mut self, node: &Node, limit: Duration, mut steps: u64, done: impl Fn() -> bool) {
        let scene = self.scene.clone();
        let end = self.world.now() + limit;
        let mut wake = self.world.now();
        let is_over = || done() || matches!(node.phase(), Phase::Failed(_));
        loop {
            let pause = scene.pause.take();
            if pause > Duration::ZERO {
                scene.tell(&format!("the process stands still for {pause:?}"));
                scene.ledger.borrow_mut().count("pauses", 1);
                self.world.run_for(&[], pause);
            }
            let limit = wake.since(self.world.now());
            self.world.run(node.ios(), limit, || {
                let deadline = scene.crowd.poll();
                let is_sooner = deadline.is_some_and(|deadline| deadline < wake);
                wake = deadline.map_or(end, |deadline| deadline.min(end));
                steps = steps.saturating_sub(1);
                steps == 0 || is_over() || is_sooner
            });
            if steps == 0 || is_over() || self.world.now() >= end {
                return;
            }
        }
    }

    fn stop(&mut self, node: Node, steps: u64, weather: Weather) {
        let scene = self.scene.clone();
        scene.tell("a clean stop is asked for");
        let was_open = scene.gate.replace(false);
        scene.is_troubled.set(true);
        node.ask_to_stop();
        let ended = || !matches!(node.phase(), Phase::Stopping);
        self.drive(&node, PATIENCE, steps, ended);
        let phase = node.phase();
        scene.tell(&format!("the stop: {phase:?}"));
        match phase {
            Phase::Stopped => {
                scene.ledger.borrow_mut().count("clean stops", 1);
                // A partition that could not be opened is not synced either: what a killed process had
                // left of it in the page cache stays there.
                let is_durable = self.scene.ledger.borrow().is_durable;
                let is_synced = is_durable || !weather.is_troubled();
                let power_fails = one_in(&mut self.random, 2) && self.may_lose_power();
                if power_fails && is_synced {
                    // All was synced: nothing may be lost, so `ending` stays as it is if the books
                    // were settled before.
                    scene.tell("the power fails after the clean stop");
                    self.world.crash();
                }
                if was_open {
                    self.ending = Ending::Process;
                }
                node.kill();
            }
            Phase::Failed(message) => {
                assert!(
                    weather.is_troubled(),
                    "the stop failed, though nothing was wrong with the disk: {message}"
                );
                self.kill(node);
            }
            _ => {
                assert!(steps < u64::MAX, "the broker does not stop");
                if one_in(&mut self.random, 2) {
                    self.lose_power(node);
                } else {
                    self.kill(node);
                }
            }
        }
    }

    fn kill(&mut self, node: Node) {
        self.scene.tell(&format!("killed, was {:?}", node.phase()));
        self.judge_failure(&node);
        self.note_ending(Ending::Process);
        node.kill();
    }

    fn lose_power(&mut self, node: Node) {
        if !self.may_lose_power() {
            return self.kill(node);
        }
        self.scene
            .tell(&format!("the power fails, was {:?}", node.phase()));
        self.judge_failure(&node);
        self.note_ending(Ending::Power);
        node.lose_power();
    }

    /// A failed fsync leaves its pages clean: without a journal the next process believes what it finds in
    /// the page cache, as Apache Kafka does, and a later power loss may take what counts as durable.
    fn may_lose_power(&self) -> bool {
        self.scene.ledger.borrow().is_durable || !self.was_troubled
    }

    fn judge_failure(&self, node: &Node) {
        if let Phase::Failed(message) = node.phase() {
            self.scene
                .ledger
                .borrow_mut()
                .count("failed starts and stops", 1);
            assert!(
                self.scene.is_troubled.get(),
                "the broker failed, though nothing was wrong with the disk: {message}"
            );
        }
    }

    fn note_ending(&mut self, ending: Ending) {
        let settled = self.scene.gate.replace(false);
        self.ending = if settled {
            ending
        } else {
            self.ending.max(ending)
        };
    }

    /// Fair weather: the broker must start, the clients come to an end, and all is there.
    fn finale(&mut self) {
        let scene = self.scene.clone();
        scene.tell("finale");
        let node = self.start_fair();
        self.drive(&node, Duration::from_millis(300), u64::MAX, || false);
        scene.quit.set(true);
        self.drive(&node, PATIENCE, u64::MAX, || scene.crowd.is_empty());
        assert!(scene.crowd.is_empty(), "a client still waits for an answer");
        if one_in(&mut self.random, 2) {
            self.lose_power(node);
        } else {
            self.kill(node);
        }
        let node = self.start_fair();
        self.stop(node, u64::MAX, Weather::FAIR);
        let bytes = disk::check(&self.world, &self.config, &scene.ledger.borrow());
        scene
            .ledger
            .borrow_mut()
            .count("bytes of logs read from the disk", size(bytes));
        if one_in(&mut self.random, 2) {
            let node = self.start_fair();
            self.kill(node);
        }
        self.rot();
    }

    /// A bit is flipped, and everything that is not damaged is read back.
    fn rot(&mut self) {
        let Some(path) = rot::flip(&self.world, &mut self.random) else {
            return;
        };
        let scene = self.scene.clone();
        scene.generation.set(scene.generation.get() + 1);
        Weather::FAIR.begin(&self.world, &mut self.random);
        let seed = self.random.number();
        let node = Node::start(&self.world, &self.config, &self.zookeeper, seed);
        let is_done = Rc::new(Cell::new(false));
        let reader = rot::read_around(scene.clone(), path, is_done.clone());
        scene.crowd.spawn(reader);
        self.drive(&node, PATIENCE, u64::MAX, || is_done.get());
        assert!(
            is_done.get(),
            "with a flipped bit the broker does not serve: {:?}",
            node.phase()
        );
        node.kill();
    }

    fn start_fair(&mut self) -> Node {
        let node = self.start(Weather::FAIR);
        let scene = self.scene.clone();
        self.drive(&node, PATIENCE, u64::MAX, || scene.gate.get());
        assert!(
            scene.gate.get(),
            "the broker does not get ready in fair weather: {:?}",
            node.phase()
        );
        node
    }
}
