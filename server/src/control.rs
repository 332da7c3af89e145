//! The control plane's thread: the broker's session with ZooKeeper, for as long as the broker runs.
//!
//! It connects and keeps trying, registers the broker ([`registration`]), answers what the shards
//! ask ([`requests`]) and tells shard 0 what others have changed ([`changes`]). When a session has
//! expired, a new one begins from the top; meanwhile records are produced and fetched as before.
//! Nothing of the data plane waits for it.

mod changes;
mod registration;
mod requests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::sync::mpsc as std_mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use futures_channel::mpsc;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::task::LocalSet;
use zookeeper_client::{Client, SessionState};

use crate::metadata::ensemble::{Call, Session};
use crate::metadata::znode::RegisteredEndPoint;
use crate::metrics::http;
use crate::shard::Job;

/// How often an attempt to connect or to register is repeated, and how often that is said.
const RETRY: Duration = Duration::from_millis(200);
const SAY: Duration = Duration::from_secs(5);
/// How long the goodbye to ZooKeeper may take at a stop.
const GOODBYE: Duration = Duration::from_secs(2);

/// What the broker says of itself to ZooKeeper.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `zookeeper.connect`: servers with commas between, and a chroot.
    pub connect: String,
    /// Where a service of this process is reached before others reach it; then there is no chroot.
    pub own_service: Option<SocketAddr>,
    /// What ZooKeeper is asked for.
    pub session_timeout: Duration,
    /// `zookeeper.session.timeout.ms`: how long an answer is waited for.
    pub patience: Duration,
    /// `broker.id`.
    pub node_id: i32,
    /// The listeners that clients are told of, by node: this broker's, then those of shards that are
    /// brokers of their own.
    pub nodes: Vec<Vec<RegisteredEndPoint>>,
    /// Where all of them are.
    pub rack: Option<String>,
    /// Where the number of the session is noted, so that the next start knows its predecessor's.
    pub session_file: PathBuf,
    /// What to do if nothing answers.
    pub hint: &'static str,
}

/// The running thread. Dropping it ends the session.
#[derive(Debug)]
pub struct Control {
    /// The shards' way to ZooKeeper.
    pub session: Session,
    attach: watch::Sender<Option<Vec<mpsc::Sender<Job>>>>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// Connects and registers; when it returns the broker is known to the cluster.
///
/// # Errors
/// Why it cannot be registered. It waits for a ZooKeeper that does not answer, and says so.
pub fn start(identity: Identity, http: Option<http::Bound>) -> Result<Control, String> {
    let (calls, asked) = mpsc::unbounded();
    let session = Session {
        calls,
        controller_epoch: Arc::new(AtomicI32::new(0)),
    };
    let (attach, attached) = watch::channel(None);
    let (stop, told) = watch::channel(false);
    let (ready, readiness) = std_mpsc::channel();
    let life = Life {
        identity: Arc::new(identity),
        controller_epoch: session.controller_epoch.clone(),
        attached,
        http,
        told,
        ready,
        has_begun: false,
    };
    let body = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => LocalSet::new().block_on(&runtime, life.run(asked)),
            Err(error) => {
                // The receiver waits for exactly this.
                let _ = life.ready.send(Err(format!("control thread: {error}")));
            }
        }
    };
    let thread = thread::Builder::new()
        .name("control".to_owned())
        .spawn(body);
    let thread = thread.map_err(|error| format!("cannot start the control thread: {error}"))?;
    let control = Control {
        session,
        attach,
        stop,
        thread: Some(thread),
    };
    match readiness.recv() {
        Ok(registered) => registered.map(|()| control),
        Err(_) => Err("the control thread ended by a fault of the program".to_owned()),
    }
}

impl Control {
    /// From now on shard 0 is told what others change, first that it shall look at everything; and
    /// all shards are asked what HTTP is asked.
    pub fn attach(&self, shards: Vec<mpsc::Sender<Job>>) {
        self.attach.send_replace(Some(shards));
    }

    /// Ends the session, so that the registration goes at once.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A panic has been told already.
            let _ = thread.join();
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the thread lives with.
struct Life {
    identity: Arc<Identity>,
    controller_epoch: Arc<AtomicI32>,
    attached: http::Shards,
    http: Option<http::Bound>,
    told: watch::Receiver<bool>,
    ready: std_mpsc::Sender<Result<(), String>>,
    has_begun: bool,
}

impl Life {
    async fn run(mut self, mut asked: mpsc::UnboundedReceiver<Call>) {
        let (clients, client) = watch::channel(None);
        let patience = self.identity.patience;
        let answering = tokio::task::spawn_local(async move {
            while let Some((request, answer)) = asked.next().await {
                let client = client.clone();
                tokio::task::spawn_local(async move {
                    // Who asked may have gone.
                    let _ = answer.send(requests::answer(client, request, patience).await);
                });
            }
        });
        if let Some(bound) = self.http.take() {
            tokio::task::spawn_local(http::serve(bound, self.attached.clone()));
        }
        let mut told = self.told.clone();
        tokio::select! {
            () = self.keep_session(&clients) => {}
            _ = told.wait_for(|stop| *stop) => {}
        }
        answering.abort();
        if let Some(client) = clients.send_replace(None) {
            say_goodbye(client).await;
        }
    }

    async fn keep_session(&mut self, clients: &watch::Sender<Option<Client>>) {
        loop {
            let client = connect(&self.identity).await;
            match self.begin(&client).await {
                Ok(()) => {}
                Err(error) if !self.has_begun => {
                    say_goodbye(client).await;
                    // The receiver waits for exactly this.
                    let _ = self.ready.send(Err(error));
                    return;
                }
                Err(error) => {
                    log::error!("{error}");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
            let mut state = client.state_watcher();
            clients.send_replace(Some(client.clone()));
            if !self.has_begun {
                self.has_begun = true;
                let _ = self.ready.send(Ok(()));
            }
            let reason = tokio::select! {
                // It ends with the session, or where the server cannot watch.
                () = changes::follow(&client, self.attached.clone()) => state.peek_state(),
                state = terminated(&mut state) => state,
            };
            clients.send_replace(None);
            log::warn!(
                "The ZooKeeper session {} has ended ({reason}); a new one begins, clients are served",
                client.session_id()
            );
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn begin(&mut self, client: &Client) -> Result<(), String> {
        let epoch = registration::register(client, &self.identity).await?;
        self.controller_epoch
            .store(epoch, std::sync::atomic::Ordering::SeqCst);
        Ok(())
    }
}

async fn terminated(states: &mut zookeeper_client::StateWatcher) -> SessionState {
    loop {
        match states.changed().await {
            state if state.is_terminated() => return state,
            SessionState::Disconnected => {
                log::warn!("The connection to ZooKeeper is lost; it is tried again");
            }
            state => log::info!("ZooKeeper session: {state}"),
        }
    }
}

/// Tries until a server answers; says what it waits for.
async fn connect(identity: &Identity) -> Client {
    let (servers, chroot) = match identity.connect.find('/') {
        Some(at) => identity.connect.split_at(at),
        None => (identity.connect.as_str(), ""),
    };
    let own = identity.own_service.map(|address| address.to_string());
    let servers = own.as_deref().unwrap_or(servers);
    let mut said: Option<tokio::time::Instant> = None;
    loop {
        let connector = Client::connector()
            .with_session_timeout(identity.session_timeout)
            .with_connection_timeout(connection_timeout(identity.session_timeout, servers))
            .with_fail_eagerly();
        let connecting = connector.connect(servers);
        let reason = match tokio::time::timeout(identity.patience, connecting).await {
            Ok(Ok(client)) => match registration::enter_chroot(client, chroot).await {
                Ok(client) => return client,
                Err(error) => error.to_string(),
            },
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        if said.is_none_or(|at| at.elapsed() >= SAY) {
            said = Some(tokio::time::Instant::now());
            log::warn!(
                "Nothing answers at zookeeper.connect={} ({reason}); trying again. {}",
                identity.connect,
                identity.hint
            );
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// How long a server may be silent. The client looks eight times in that time whether it was, so it is
/// as long as the client takes; with several servers short enough for a second and a third one to be
/// tried before the session is over (0: two fifths of its timeout).
fn connection_timeout(session_timeout: Duration, servers: &str) -> Duration {
    if servers.contains(',') {
        Duration::ZERO
    } else {
        session_timeout * 3 / 5
    }
}

/// The last clone of a client takes the session with it; this waits until the server knows.
async fn say_goodbye(client: Client) {
    let mut states = client.state_watcher();
    drop(client);
    let closed = async { while !states.changed().await.is_terminated() {} };
    // If it does not, the session expires.
    let _ = tokio::time::timeout(GOODBYE, closed).await;
}
