//! Where clients come in: by one door, or, while the process that has the service starts, by a door of its
//! own. Others wait at the public one till then, so that what a start writes is made durable once, together,
//! and nobody has been told anything before.

use std::rc::Rc;
use std::sync::mpsc;

use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::server::Service;
use super::store::StoreError;

/// Where clients come in.
pub(super) struct Doors {
    /// For everybody, once the store is settled.
    pub(super) public: TcpListener,
    /// For the process itself, at once, if it makes others wait.
    pub(super) own: Option<(TcpListener, Held)>,
}

/// Everybody but this process waits until it says so: what it does till then is made durable together.
pub(super) struct Held {
    /// It says so, or has gone.
    pub(super) release: oneshot::Receiver<()>,
    /// It has been made durable.
    pub(super) settled: mpsc::Sender<()>,
}

impl Service {
    /// Settles the store when it is time, and lets clients in.
    pub(super) async fn open_doors(self: &Rc<Self>, doors: Doors) -> StoreError {
        let Doors { public, own } = doors;
        let own = match own {
            None => {
                if let Err(error) = self.settle() {
                    return error;
                }
                None
            }
            Some((listener, held)) => {
                tokio::select! {
                    () = self.accept_always(&listener) => {}
                    _ = held.release => {}
                }
                if let Err(error) = self.settle() {
                    return error;
                }
                // It may have gone.
                let _ = held.settled.send(());
                Some(listener)
            }
        };
        let own_clients = async {
            if let Some(listener) = own {
                self.accept_always(&listener).await;
            }
        };
        tokio::join!(self.accept_always(&public), own_clients);
        std::future::pending().await
    }
}
