//! ZooKeeper, as the shards see it: the few things they ask of it, and their answers.
//!
//! The session itself lives on the control thread (`crate::control`); a request goes there by a
//! channel and is asked again until it is answered or the patience is over. Every request may be
//! asked twice without harm, since an answer that was lost does not say whether it took effect. In
//! the simulator the tree of the ZooKeeper service itself answers, after a while.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_channel::{mpsc, oneshot};
use ringlog_engine::clock::Instant;
use ringlog_engine::io::Io;

use crate::zookeeper::acl::{self, Acl};
use crate::zookeeper::protocol::ErrorCode;
use crate::zookeeper::transaction::{Context, Event, Lifetime, Operation, Outcome};
use crate::zookeeper::tree::Tree;

/// A znode's data and version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Znode {
    /// Its data.
    pub data: Bytes,
    /// The version of its data.
    pub version: i32,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A node, if it is there.
    Get(String),
    /// The children of a node, with their data; none if the node is not there.
    Children(String),
    /// Nodes that shall exist, parents first; those that do stay as they are. Answered by whether
    /// all of them were new.
    Create(Vec<(String, Bytes)>),
    /// New nodes, parents first: all of them, or none if any is there already. Answered by which.
    CreateTogether(Vec<(String, Bytes)>),
    /// A node of the next number.
    CreateSequential(String, Bytes),
    /// A node's data, whether it is there or not.
    Put(String, Bytes),
    /// A node's data if it has this version; answered by whether it had.
    Replace(String, Bytes, i32),
    /// A node and all below it go.
    DeleteAll(String),
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Request::Get`].
    Node(Option<Znode>),
    /// To [`Request::Children`].
    Nodes(BTreeMap<String, Znode>),
    /// To all others; see there.
    Done(bool),
}

/// Why there is no answer, or a refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnsembleError {
    /// Nothing answered for as long as the session lasts.
    #[error("ZooKeeper does not answer ({0})")]
    Unanswered(String),
    /// ZooKeeper refuses.
    #[error("ZooKeeper refuses {path}: {why}")]
    Refused {
        /// The node.
        path: String,
        /// Its reason.
        why: String,
    },
    /// The broker stops.
    #[error("the broker is stopping")]
    Stopped,
}

/// A request on its way to the control thread.
pub type Call = (Request, oneshot::Sender<Result<Answer, EnsembleError>>);

/// The way to the control thread, for any thread.
#[derive(Clone, Debug)]
pub struct Session {
    /// Where requests go.
    pub calls: mpsc::UnboundedSender<Call>,
    /// The epoch of this broker's time as the controller.
    pub controller_epoch: Arc<AtomicI32>,
}

/// A tree that outlives the simulated broker, as ZooKeeper does a real one.
#[derive(Debug)]
pub struct SimulatedTree {
    tree: Tree,
    zxid: i64,
    /// What no watcher has been told of yet.
    events: Vec<Event>,
    random: fastrand::Rng,
    /// When the newest request takes effect, and when it is answered.
    newest: (Instant, Instant),
}

/// ZooKeeper.
#[derive(Clone)]
pub enum Ensemble {
    /// By the session of the control thread.
    Real(Session),
    /// By a tree in memory, and a driver that knows the time.
    Simulated(Rc<RefCell<SimulatedTree>>, Io),
}

/// How long the simulated ZooKeeper takes at most until a request takes effect, and then to answer, in
/// microseconds.
const SIMULATED_DELAY_US: u64 = 300;

impl Ensemble {
    /// The epoch of the controller.
    #[must_use]
    pub fn controller_epoch(&self) -> i32 {
        match self {
            Self::Real(session) => session.controller_epoch.load(Ordering::SeqCst),
            Self::Simulated(..) => 1,
        }
    }

    async fn ask(&self, request: Request) -> Result<Answer, EnsembleError> {
        match self {
            Self::Real(session) => {
                let (answer, answered) = oneshot::channel();
                let sent = session.calls.unbounded_send((request, answer));
                sent.map_err(|_| EnsembleError::Stopped)?;
                answered.await.unwrap_or(Err(EnsembleError::Stopped))
            }
            Self::Simulated(tree, io) => {
                let (effect, answered) = tree.borrow_mut().schedule(io.now());
                io.sleep(effect.since(io.now())).await;
                let answer = tree.borrow_mut().answer(request);
                io.sleep(answered.since(io.now())).await;
                answer
            }
        }
    }

    async fn ask_done(&self, request: Request) -> Result<bool, EnsembleError> {
        match self.ask(request).await? {
            Answer::Done(is_done) => Ok(is_done),
            Answer::Node(_) | Answer::Nodes(_) => Err(EnsembleError::Stopped),
        }
    }

    /// A node, if it is there.
    ///
    /// # Errors
    /// ZooKeeper's silence or refusal, as with all of these.
    pub async fn get(&self, path: &str) -> Result<Option<Znode>, EnsembleError> {
        match self.ask(Request::Get(path.to_owned())).await? {
            Answer::Node(node) => Ok(node),
            Answer::Nodes(_) | Answer::Done(_) => Err(EnsembleError::Stopped),
        }
    }

    /// The children of a node, by name; none if the node is not there.
    ///
    /// # Errors
    /// See [`Ensemble::get`].
    pub async fn children(&self, path: &str) -> Result<BTreeMap<String, Znode>, EnsembleError> {
        match self.ask(Request::Children(path.to_owned())).await? {
            Answer::Nodes(nodes) => Ok(nodes),
            Answer::Node(_) | Answer::Done(_) => Err(EnsembleError::Stopped),
        }
    }

    /// Creates the nodes that are missing, parents first; whether all of them were.
    ///
    /// # Errors
    /// See [`Ensemble::get`].
    pub async fn create(&self, nodes: Vec<(String, Bytes)>) -> Result<bool, EnsembleError> {
        self.ask_done(Request::Create(nodes)).await
    }

    /// Creates all of these nodes, parents first, in one transaction; none if any is there. Whether it did:
    /// it may have, and its answer was lost, if not.
    ///
    /// # Errors
    /// See [`Ensemble::get`].
    pub async fn create_together(
        &self,
        nodes: Vec<(String, Bytes)>,
    ) -> Result<bool, EnsembleError> {
        self.ask_done(Request::CreateTogether(nodes)).await
    }

    /// Creates a node of the next number behind `prefix`.
    ///
    /// # Errors
    /// See [`Ensemble::get`].
    pub async fn create_sequential(&self, prefix: &str, data: Bytes) -> Result<(), EnsembleError> {
        let request = Request::CreateSequential(prefix.to_owned(), data);
        self.ask_done(request).await.map(drop)
    }

    /// Sets a node, whether it is there or not.
    ///
    /// # Errors
    /// See [`Ensemble::get`].
    pub async fn put(&self, path: &str, data: Bytes) -> Result<(), EnsembleError> {
        let request = Request::Put(path.to_owned(), data);
        self.ask_done(request).await.map(drop)
    }

    /// Sets a node if it has this version; whether it had.
    ///
    /// # Errors
    /// See [`Ensemble::get`].
    pub async fn replace(
        &self,
        path: &str,
        data: Bytes,
        version: i32,
    ) -> Result<bool, EnsembleError> {
        let request = Request::Replace(path.to_owned(), data, version);
        self.ask_done(request).await
    }

    /// Deletes a node and all below it, if it is there.
    ///
    /// # Errors
    /// See [`Ensemble::get`].
    pub async fn delete_all(&self, path: &str) -> Result<(), EnsembleError> {
        let request = Request::DeleteAll(path.to_owned());
        self.ask_done(request).await.map(drop)
    }
}

impl SimulatedTree {
    /// An empty tree; the seed says how long each answer takes.
    #[must_use]
    pub fn new(seed: u64) -> SimulatedTree {
        SimulatedTree {
            tree: Tree::new(1 << 30),
            zxid: 0,
            events: Vec::new(),
            random: fastrand::Rng::with_seed(seed),
            newest: (Instant(0), Instant(0)),
        }
    }

    /// When a request takes effect and when it is answered: a session's in their order.
    fn schedule(&mut self, now: Instant) -> (Instant, Instant) {
        let mut pause = || Duration::from_micros(self.random.u64(1..SIMULATED_DELAY_US));
        let (effect, answer) = (now + pause(), pause());
        let effect = effect.max(self.newest.0 + Duration::from_nanos(1));
        let answered = (effect + answer).max(self.newest.1 + Duration::from_nanos(1));
        self.newest = (effect, answered);
        self.newest
    }

    /// What has changed since this was asked last: the events of watches on everything.
    pub fn take_events(&mut self) -> Vec<Event> {
        mem::take(&mut self.events)
    }

    fn node(&self, path: &str) -> Option<Znode> {
        let node = self.tree.get(path)?;
        Some(Znode {
            data: node.data.clone().unwrap_or_default(),
            version: node.stat.version,
        })
    }

    fn answer(&mut self, request: Request) -> Result<Answer, EnsembleError> {
        match request {
            Request::Get(path) => Ok(Answer::Node(self.node(&path))),
            Request::Children(path) => {
                let names = self.tree.get(&path).map(|node| node.children.clone());
                let names = names.unwrap_or_default().into_iter();
                let child =
                    |name: Rc<str>| Some((name.to_string(), self.node(&format!("{path}/{name}"))?));
                Ok(Answer::Nodes(names.filter_map(child).collect()))
            }
            Request::Create(nodes) => {
                let mut are_new = true;
                for (path, data) in nodes {
                    if self.tree.get(&path).is_some() {
                        are_new = false;
                    } else {
                        self.apply(create(path, data, false))?;
                    }
                }
                Ok(Answer::Done(are_new))
            }
            Request::CreateTogether(nodes) => {
                if nodes.iter().any(|(path, _)| self.tree.get(path).is_some()) {
                    return Ok(Answer::Done(false));
                }
                for (path, data) in nodes {
                    self.apply(create(path, data, false))?;
                }
                Ok(Answer::Done(true))
            }
            Request::CreateSequential(prefix, data) => self.apply(create(prefix, data, true)),
            Request::Put(path, data) if self.tree.get(&path).is_none() => {
                self.apply(create(path, data, false))
            }
            Request::Put(path, data) => self.apply(set(path, data, -1)),
            Request::Replace(path, data, version) => {
                let has_version = |node: Znode| node.version == version;
                if !self.node(&path).is_some_and(has_version) {
                    return Ok(Answer::Done(false));
                }
                self.apply(set(path, data, version))
            }
            Request::DeleteAll(path) => {
                let names = self.tree.get(&path).map(|node| node.children.clone());
                for name in names.iter().flatten() {
                    self.answer(Request::DeleteAll(format!("{path}/{name}")))?;
                }
                match names {
                    Some(_) => self.apply(Operation::Delete { path, version: -1 }),
                    None => Ok(Answer::Done(false)),
                }
            }
        }
    }

    fn apply(&mut self, operation: Operation) -> Result<Answer, EnsembleError> {
        self.zxid += 1;
        let context = Context {
            session: 1,
            ids: &[],
            zxid: self.zxid,
            time_ms: 0,
        };
        let refused = |code: ErrorCode| EnsembleError::Refused {
            path: format!("{operation:?}"),
            why: format!("{code:?}"),
        };
        let applied = self.tree.apply(context, std::slice::from_ref(&operation));
        let applied = applied.map_err(|error| refused(error.code))?;
        self.events.extend(applied.events);
        let is_done = |outcome: &Outcome| !matches!(outcome, Outcome::Checked);
        Ok(Answer::Done(applied.outcomes.iter().all(is_done)))
    }
}

fn create(path: String, data: Bytes, is_sequential: bool) -> Operation {
    Operation::Create {
        path,
        data: Some(data),
        acl: Acl::anyone(acl::ALL),
        lifetime: Lifetime::Persistent,
        is_sequential,
    }
}

fn set(path: String, data: Bytes, version: i32) -> Operation {
    let data = Some(data);
    Operation::SetData {
        path,
        data,
        version,
    }
}
