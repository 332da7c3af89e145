//! What the shards ask of ZooKeeper, in ZooKeeper's operations. Each request is asked again after a
//! lost connection or session, until it is answered or the patience is over.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future;
use tokio::sync::watch;
use tokio::time::Instant;
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error};

use super::RETRY;
use crate::metadata::ensemble::{Answer, EnsembleError, Request, Znode};

const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
const SEQUENTIAL: CreateOptions<'static> =
    CreateMode::PersistentSequential.with_acls(Acls::anyone_all());
/// Operations of one transaction, or reads in flight: bounded by ZooKeeper's longest packet.
const AT_ONCE: usize = 500;
/// Bytes of one transaction; ZooKeeper takes packets of up to 1 MiB.
const TRANSACTION_BYTES: usize = 512 * 1024;

/// An error and the node it is about.
struct At(String, Error);

/// Answers one request.
///
/// # Errors
/// ZooKeeper's refusal, or that nothing answered in time.
pub(super) async fn answer(
    mut clients: watch::Receiver<Option<Client>>,
    request: Request,
    patience: Duration,
) -> Result<Answer, EnsembleError> {
    let until = Instant::now() + patience;
    let mut reason = "no session".to_owned();
    loop {
        let current = tokio::time::timeout_at(until, clients.wait_for(Option::is_some)).await;
        let client = match current {
            Ok(Ok(client)) => client.clone(),
            Ok(Err(_)) => return Err(EnsembleError::Stopped),
            Err(_) => return Err(EnsembleError::Unanswered(reason)),
        };
        let Some(client) = client else { continue };
        let asked = tokio::time::timeout_at(until, ask(&client, &request)).await;
        match asked {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(At(_, error))) if is_passing(&error) => reason = error.to_string(),
            Ok(Err(At(path, error))) => {
                let why = error.to_string();
                return Err(EnsembleError::Refused { path, why });
            }
            Err(_) => return Err(EnsembleError::Unanswered(reason)),
        }
        tokio::time::sleep(RETRY / 4).await;
    }
}

/// Whether it is one of the connection or the session, not an answer of ZooKeeper. The client tells what
/// befell a connection (silence, what the system said) in errors of its own.
fn is_passing(error: &Error) -> bool {
    matches!(
        error,
        Error::Custom(_)
            | Error::ConnectionLoss
            | Error::SessionExpired
            | Error::SessionMoved
            | Error::ClientClosed
            | Error::Timeout
            | Error::Throttled
    )
}

async fn ask(client: &Client, request: &Request) -> Result<Answer, At> {
    match request {
        Request::Get(path) => get(client, path).await.map(Answer::Node),
        Request::Children(path) => children(client, path).await.map(Answer::Nodes),
        Request::Create(nodes) => create(client, nodes).await.map(Answer::Done),
        Request::CreateTogether(nodes) => create_together(client, nodes).await.map(Answer::Done),
        Request::CreateSequential(prefix, data) => {
            let created = client.create(prefix, data, &SEQUENTIAL).await;
            created.map_err(|error| At(prefix.clone(), error))?;
            Ok(Answer::Done(true))
        }
        Request::Put(path, data) => put(client, path, data).await,
        Request::Replace(path, data, version) => {
            match client.set_data(path, data, Some(*version)).await {
                Ok(_) => Ok(Answer::Done(true)),
                Err(Error::BadVersion | Error::NoNode) => Ok(Answer::Done(false)),
                Err(error) => Err(At(path.clone(), error)),
            }
        }
        Request::DeleteAll(path) => delete_all(client, path).await.map(Answer::Done),
    }
}

async fn get(client: &Client, path: &str) -> Result<Option<Znode>, At> {
    match client.get_data(path).await {
        Ok((data, stat)) => Ok(Some(Znode {
            data: Bytes::from(data),
            version: stat.version,
        })),
        Err(Error::NoNode) => Ok(None),
        Err(error) => Err(At(path.to_owned(), error)),
    }
}

async fn list(client: &Client, path: &str) -> Result<Vec<String>, At> {
    match client.list_children(path).await {
        Ok(names) => Ok(names),
        Err(Error::NoNode) => Ok(Vec::new()),
        Err(error) => Err(At(path.to_owned(), error)),
    }
}

async fn children(client: &Client, path: &str) -> Result<BTreeMap<String, Znode>, At> {
    let names = list(client, path).await?;
    let mut nodes = BTreeMap::new();
    for chunk in names.chunks(AT_ONCE) {
        let reads = chunk.iter().map(async |name| {
            let node = get(client, &format!("{path}/{name}")).await?;
            Ok::<_, At>(node.map(|node| (name.clone(), node)))
        });
        for read in future::join_all(reads).await {
            nodes.extend(read?);
        }
    }
    Ok(nodes)
}

/// Many in one transaction if none of them is there, else each by itself: a session's requests are carried
/// out in their order, parents first.
async fn create(client: &Client, nodes: &[(String, Bytes)]) -> Result<bool, At> {
    let mut are_new = true;
    let mut rest = nodes;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |(path, data): &&(String, Bytes)| {
            bytes += path.len() + data.len() + 64;
            bytes <= TRANSACTION_BYTES
        };
        let count = rest.iter().take(AT_ONCE).take_while(fits).count().max(1);
        let (chunk, later) = rest.split_at(count);
        rest = later;
        if create_together(client, chunk).await? {
            continue;
        }
        let creations = chunk
            .iter()
            .map(|(path, data)| client.create(path, data, &PERSISTENT));
        for ((path, _), created) in chunk.iter().zip(future::join_all(creations).await) {
            match created {
                Ok(_) => {}
                Err(Error::NodeExists) => are_new = false,
                Err(error) => return Err(At(path.clone(), error)),
            }
        }
    }
    Ok(are_new)
}

async fn create_together(client: &Client, nodes: &[(String, Bytes)]) -> Result<bool, At> {
    let at = |error| At(nodes[0].0.clone(), error);
    let mut writer = client.new_multi_writer();
    for (path, data) in nodes {
        let added = writer.add_create(path, data, &PERSISTENT);
        added.map_err(at)?;
    }
    match writer.commit().await.map_err(Error::from) {
        Ok(_) => Ok(true),
        Err(Error::NodeExists) => Ok(false),
        Err(error) => Err(at(error)),
    }
}

async fn put(client: &Client, path: &str, data: &Bytes) -> Result<Answer, At> {
    loop {
        match client.set_data(path, data, None).await {
            Ok(_) => return Ok(Answer::Done(true)),
            Err(Error::NoNode) => {}
            Err(error) => return Err(At(path.to_owned(), error)),
        }
        match client.create(path, data, &PERSISTENT).await {
            Ok(_) => return Ok(Answer::Done(true)),
            Err(Error::NodeExists) => {}
            Err(error) => return Err(At(path.to_owned(), error)),
        }
    }
}

/// The deepest first. Somebody may create children meanwhile: then it begins again.
async fn delete_all(client: &Client, path: &str) -> Result<bool, At> {
    loop {
        let mut paths = vec![path.to_owned()];
        let mut begun = 0;
        while begun < paths.len() {
            let end = paths.len().min(begun + AT_ONCE);
            let parents = paths[begun..end].to_vec();
            let lists = parents.iter().map(|parent| list(client, parent));
            for (parent, names) in parents.iter().zip(future::join_all(lists).await) {
                paths.extend(names?.into_iter().map(|name| format!("{parent}/{name}")));
            }
            begun = end;
        }
        let mut has_grown = false;
        let mut was_there = true;
        paths.reverse();
        for chunk in paths.chunks(AT_ONCE) {
            let deletions = chunk.iter().map(|path| client.delete(path, None));
            let deleted = future::join_all(deletions).await;
            for (path, deleted) in chunk.iter().zip(deleted) {
                match deleted {
                    Ok(()) => {}
                    Err(Error::NoNode) => was_there = false,
                    Err(Error::NotEmpty) => has_grown = true,
                    Err(error) => return Err(At(path.clone(), error)),
                }
            }
        }
        if !has_grown {
            return Ok(was_there);
        }
    }
}
