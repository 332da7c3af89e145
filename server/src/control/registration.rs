//! The broker's place in the cluster: `/brokers/ids/<id>`, and `/controller` with its epoch
//! (Kafka 3.9: `KafkaZkClient.registerBroker`, `registerControllerAndIncrementControllerEpoch`).
//!
//! Both nodes are ephemeral: they stay for a while after a broker was killed. Apache Kafka cannot
//! start in that time. Here the number of the session is noted in the data directory, whose lock
//! says that its owner is dead: what that session left is removed.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error, Stat};

use super::{Identity, RETRY};
use crate::metadata::znode::{self, RegisteredEndPoint};

const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
/// Sessions of this broker that are noted: more starts in a row are not killed before they have ended.
const SESSIONS_NOTED: usize = 32;
const EPHEMERAL: CreateOptions<'static> = CreateMode::Ephemeral.with_acls(Acls::anyone_all());

/// The client, below the chroot, which is made if it is missing.
///
/// # Errors
/// ZooKeeper's.
pub(super) async fn enter_chroot(client: Client, chroot: &str) -> Result<Client, Error> {
    let chroot = chroot.trim_end_matches('/');
    if chroot.is_empty() {
        return Ok(client);
    }
    client.mkdir(chroot, &PERSISTENT).await?;
    client
        .chroot(chroot.to_owned())
        .map_err(|_| Error::BadArguments(&"the chroot is no path"))
}

/// Makes the persistent nodes, registers the broker and makes it the controller; gives the
/// controller's epoch.
///
/// # Errors
/// Who has its place, or what ZooKeeper says, and what to do.
pub(super) async fn register(client: &Client, identity: &Identity) -> Result<i32, String> {
    let failed = |error: Error| {
        format!(
            "ZooKeeper at {} does not take the broker: {error}\n   | look into ZooKeeper's log",
            identity.connect
        )
    };
    make_persistent(client).await.map_err(failed)?;
    remove_predecessor(client, identity).await.map_err(failed)?;
    note_session(client, identity)?;
    refuse_others(client, identity).await?;
    let nodes = identity.nodes.iter().zip(identity.node_id..);
    for (end_points, id) in nodes {
        let path = format!("{}/{id}", znode::BROKER_IDS);
        claim(client, identity, &Place::Node(path, end_points)).await?;
    }
    claim(client, identity, &Place::Controller).await
}

/// All at once: a session's requests are carried out in their order, parents first, and what
/// arrives together costs ZooKeeper one commit.
async fn make_persistent(client: &Client) -> Result<(), Error> {
    let stats = znode::PERSISTENT.map(|path| client.check_stat(path));
    let mut missing = Vec::new();
    for (path, stat) in znode::PERSISTENT.iter().zip(join_all(stats).await) {
        if stat?.is_none() {
            missing.push(create_if_missing(client, path));
        }
    }
    join_all(missing).await.into_iter().collect()
}

async fn create_if_missing(client: &Client, path: &str) -> Result<(), Error> {
    match client.create(path, b"", &PERSISTENT).await {
        Ok(_) | Err(Error::NodeExists) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn remove_predecessor(client: &Client, identity: &Identity) -> Result<(), Error> {
    let predecessors = noted_sessions(identity);
    if predecessors.is_empty() {
        return Ok(());
    }
    // It may have been more nodes than this start makes.
    let ids = client.list_children(znode::BROKER_IDS).await?;
    let registrations = ids.iter().map(|id| format!("{}/{id}", znode::BROKER_IDS));
    for path in registrations.chain([znode::CONTROLLER.to_owned()]) {
        let stat = client.check_stat(&path).await?;
        if stat.is_some_and(|stat| predecessors.contains(&stat.ephemeral_owner)) {
            match client.delete(&path, None).await {
                Ok(()) | Err(Error::NoNode) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// The sessions of earlier runs, the newest first.
fn noted_sessions(identity: &Identity) -> Vec<i64> {
    let noted = std::fs::read_to_string(&identity.session_file).unwrap_or_default();
    noted
        .lines()
        .map_while(|line| line.trim().parse().ok())
        .collect()
}

/// Before the first ephemeral: otherwise a crash in between would leave one without an owner's note. Earlier
/// ones stay noted: that theirs were removed may be forgotten by a ZooKeeper in this process that is killed
/// before its start has ended. Durable a little later, off the path of the start: without the note a start
/// after a power loss waits until the old session is over.
fn note_session(client: &Client, identity: &Identity) -> Result<(), String> {
    let path = &identity.session_file;
    let mut sessions = vec![client.session_id().0];
    sessions.extend(noted_sessions(identity));
    sessions.truncate(SESSIONS_NOTED);
    let text: String = sessions.iter().map(|id| format!("{id}\n")).collect();
    let beside = path.with_extension("tmp");
    let written = std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|error| {
        format!(
            "cannot write {}: {error}\n   | the data directory must be writable",
            path.display()
        )
    })?;
    let path = path.clone();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = sync(&path) {
            log::warn!("{} may not survive a power loss: {error}", path.display());
        }
    });
    Ok(())
}

/// A file, and its name.
fn sync(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()?;
    path.parent()
        .map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

/// There is no replication between brokers yet, and a controller that does not know of the others
/// would take their partitions for its own.
async fn refuse_others(client: &Client, identity: &Identity) -> Result<(), String> {
    let ids = client.list_children(znode::BROKER_IDS).await;
    let ids = ids.map_err(|error| format!("{}: {error}", znode::BROKER_IDS))?;
    let nodes = i32::try_from(identity.nodes.len()).unwrap_or(i32::MAX);
    let own = identity.node_id..identity.node_id.saturating_add(nodes);
    let is_own = |id: &String| id.parse().is_ok_and(|id: i32| own.contains(&id));
    let Some(other) = ids.iter().find(|id| !is_own(id)) else {
        return Ok(());
    };
    let connect = &identity.connect;
    Err(format!(
        "broker {other} is registered at zookeeper.connect={connect}, and this release runs one \
         broker per cluster\n   | stop that broker, or give this one a cluster of its own: a chroot \
         (zookeeper.connect={}/NAME), or another ZooKeeper (--zookeeper-port PORT)",
        connect.split('/').next().unwrap_or_default()
    ))
}

/// Creates one of the two ephemeral nodes; waits for one that a dead session of this very broker
/// has left, until it must have expired. Gives the controller's epoch, if that is what it is about.
async fn claim(client: &Client, identity: &Identity, place: &Place<'_>) -> Result<i32, String> {
    let path = place.path();
    let until = Instant::now() + identity.session_timeout * 2;
    let mut is_said = false;
    loop {
        let created = match place {
            Place::Controller => elect(client, identity).await,
            Place::Node(path, end_points) => register_id(client, identity, path, end_points).await,
        };
        match created {
            Ok(epoch) => return Ok(epoch),
            Err(Error::NodeExists | Error::BadVersion) => {}
            Err(error) => return Err(format!("ZooKeeper refuses {path}: {error}")),
        }
        let found = client.get_data(path).await;
        let (data, stat): (Vec<u8>, Stat) = match found {
            Ok(found) => found,
            Err(Error::NoNode) => continue,
            Err(error) => return Err(format!("ZooKeeper refuses {path}: {error}")),
        };
        if stat.ephemeral_owner == client.session_id().0 && path != znode::CONTROLLER {
            return Ok(0);
        }
        let text = String::from_utf8_lossy(&data).into_owned();
        if !place.is_own(&text, identity) || Instant::now() > until {
            return Err(format!(
                "broker {} is registered already, by session {:#x}: {path} is {text}\n   | stop the \
                 other broker, or give this one another broker.id",
                identity.node_id, stat.ephemeral_owner
            ));
        }
        if !is_said {
            is_said = true;
            log::warn!(
                "{path} belongs to session {:#x} of an earlier run of this broker; waiting until it \
                 expires",
                stat.ephemeral_owner
            );
        }
        sleep(RETRY.min(Duration::from_millis(50))).await;
    }
}

/// One of the ephemeral nodes.
enum Place<'a> {
    /// `/brokers/ids/<id>`, with its end points.
    Node(String, &'a [RegisteredEndPoint]),
    /// `/controller`.
    Controller,
}

impl Place<'_> {
    fn path(&self) -> &str {
        match self {
            Place::Node(path, _) => path,
            Place::Controller => znode::CONTROLLER,
        }
    }

    /// Whether the node speaks of this broker: the same end points, which are bound by this process.
    fn is_own(&self, text: &str, identity: &Identity) -> bool {
        let node: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        match self {
            Place::Controller => node["brokerid"] == identity.node_id,
            Place::Node(_, end_points) => {
                let ours = znode::broker(end_points, None, 0);
                let ours: serde_json::Value = serde_json::from_slice(&ours).unwrap_or_default();
                node["endpoints"] == ours["endpoints"]
            }
        }
    }
}

async fn register_id(
    client: &Client,
    identity: &Identity,
    path: &str,
    end_points: &[RegisteredEndPoint],
) -> Result<i32, Error> {
    let data = znode::broker(end_points, identity.rack.as_deref(), wall_ms());
    client.create(path, &data, &EPHEMERAL).await?;
    Ok(0)
}

/// `/controller` and its epoch change together or not at all.
async fn elect(client: &Client, identity: &Identity) -> Result<i32, Error> {
    let path = znode::CONTROLLER_EPOCH;
    let (data, stat) = match client.get_data(path).await {
        Ok(found) => found,
        Err(Error::NoNode) => {
            match client.create(path, b"0", &PERSISTENT).await {
                Ok(_) | Err(Error::NodeExists) => {}
                Err(error) => return Err(error),
            }
            client.get_data(path).await?
        }
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&data);
    let epoch = text.trim().parse::<i32>().unwrap_or(0) + 1;
    let mut writer = client.new_multi_writer();
    let controller = znode::controller(identity.node_id, wall_ms());
    writer.add_create(znode::CONTROLLER, &controller, &EPHEMERAL)?;
    writer.add_set_data(path, epoch.to_string().as_bytes(), Some(stat.version))?;
    writer.commit().await.map_err(Error::from)?;
    Ok(epoch)
}

fn wall_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}
