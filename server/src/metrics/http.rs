//! HTTP for people and for Prometheus: `/metrics`, `/healthz`, and a page that names them.
//!
//! Runs on the control thread, reads only, and asks the shards by jobs: one that does not answer
//! makes the health check fail, never a client of Kafka wait. Limits: connections at a time, the
//! time of a request's head (hyper's own limits hold for its size).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_channel::{mpsc, oneshot};
use futures_util::SinkExt;
use futures_util::future::join_all;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::{Report, exposition, report};
use crate::shard::Job;

/// Connections at a time; who comes then waits.
const CONNECTIONS_MAX: usize = 32;
/// How long a request's head may take.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long a shard may take to answer.
const SHARD_PATIENCE: Duration = Duration::from_secs(2);

/// The mailboxes of all shards, once they run.
pub(crate) type Shards = watch::Receiver<Option<Vec<mpsc::Sender<Job>>>>;

/// A bound socket, not yet served.
#[derive(Debug)]
pub struct Bound {
    listener: std::net::TcpListener,
    /// Where it is.
    pub address: SocketAddr,
}

impl Bound {
    /// Binds; the address is `[HOST:]PORT`.
    ///
    /// # Errors
    /// What bind(2) answered.
    pub fn bind(address: &str) -> std::io::Result<Bound> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Bound { listener, address })
    }
}

/// Serves until its thread ends.
pub(crate) async fn serve(bound: Bound, shards: Shards) {
    let listener = match TcpListener::from_std(bound.listener) {
        Ok(listener) => listener,
        Err(error) => {
            log::error!("HTTP on {}: {error}", bound.address);
            return;
        }
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::warn!("HTTP on {}: {error}", bound.address);
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let shards = shards.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| answer(request, shards.clone()));
            let mut connection = http1::Builder::new();
            connection
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_PATIENCE)
                .keep_alive(false);
            // A client that breaks off is no news.
            let _ = connection
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(place);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    shards: Shards,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(plain(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is answered here\n",
        ));
    }
    Ok(match request.uri().path() {
        "/metrics" => match reports(shards).await {
            Ok(reports) => {
                let mut response = plain(StatusCode::OK, exposition::text(&reports));
                let kind = header::HeaderValue::from_static(exposition::CONTENT_TYPE);
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            Err(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, reason),
        },
        "/healthz" => match reports(shards).await {
            Ok(_) => plain(StatusCode::OK, "ok\n"),
            Err(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, reason),
        },
        "/" => plain(
            StatusCode::OK,
            "ringlog\n/metrics  for Prometheus; `ringlog top` shows it live\n\
             /healthz  200 if every shard answers\n",
        ),
        _ => plain(
            StatusCode::NOT_FOUND,
            "there are /metrics and /healthz here\n",
        ),
    })
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response
}

/// What all shards say of themselves.
async fn reports(shards: Shards) -> Result<Vec<Report>, String> {
    let Some(shards) = shards.borrow().clone() else {
        return Err("the broker is starting\n".to_owned());
    };
    let asked = shards.into_iter().enumerate().map(async |(id, mut shard)| {
        let (reply, replied) = oneshot::channel();
        let job: Job = Box::new(move |shard| {
            // Who asked may have gone.
            let _ = reply.send(report(shard));
        });
        let asking = async {
            shard.send(job).await.ok()?;
            replied.await.ok()
        };
        match tokio::time::timeout(SHARD_PATIENCE, asking).await {
            Ok(Some(report)) => Ok(report),
            Ok(None) => Err(format!("shard {id} has stopped\n")),
            Err(_) => Err(format!("shard {id} does not answer\n")),
        }
    });
    join_all(asked).await.into_iter().collect()
}
