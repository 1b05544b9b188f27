//! Serves a router on a socket, however many clients come and however slow they are. `mod` calls it for each listener.
//!
//! Invariants: a listener holds at most [`Limits::connections`] connections; one that waits for its client (for a head,
//! a body, an answer to be taken, the next request) longer than [`Limits::patience`] is closed; where a newcomer finds
//! no room, the connection that has waited for its client longest makes room. A request that is being answered is never
//! cut off for another client. What a body may cost stands in `body`. Deliberately absent: TLS, HTTP/2, limits by
//! address.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use lakeferry_api::Clock;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::spawn::{Spawned, spawn};

/// The largest head of a request, its URL included; a larger one, or one of more than 100 headers, is answered with
/// 431.
pub(super) const HEAD_BYTES: usize = 32 << 10;
/// Bodies larger than [`SMALL_BODY_BYTES`](super::body::SMALL_BODY_BYTES) that are held at a time.
const LARGE_BODIES: usize = 16;
/// After an error that another try does not mend at once (no file descriptors left).
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What a listener bears.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at a time.
    pub(super) connections: usize,
    /// How long a connection waits for its client.
    pub(super) patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 256, patience: Duration::from_secs(30) }
    }
}

/// Serves `router` on `socket` until `stop` is cancelled, then lets requests under way end.
pub(super) async fn serve(
    socket: TcpListener,
    router: Router,
    limits: Limits,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let large_bodies = Arc::new(Semaphore::new(LARGE_BODIES));
    let mut connections = Connections { open: Vec::new(), most: limits.connections, is_full: false };
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if connections.make_room() => {
                let client = Client::new(limits.patience, &clock, &large_bodies);
                let conversation = converse(stream, router.clone(), client.clone(), stop.clone());
                connections.open.push((client, spawn("rest", conversation)));
            }
            Ok(_) => {}
            Err(error) if is_of_client(error.kind()) => {}
            Err(error) => {
                tracing::warn!(%error, "a REST listener cannot take connections; tried again");
                clock.sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
    drop(socket);
    for (_, mut conversation) in connections.open {
        // Its panic is its client's affair, who got no answer.
        let _ = conversation.join().await;
    }
}

/// The client went away before it was served.
fn is_of_client(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionAborted | ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset)
}

struct Connections {
    open: Vec<(Client, Spawned<()>)>,
    most: usize,
    /// Somebody was turned away since there was room.
    is_full: bool,
}

impl Connections {
    /// Makes room for a newcomer; false where every connection is being served.
    fn make_room(&mut self) -> bool {
        self.open.retain(|(_, conversation)| !conversation.is_finished());
        if self.open.len() >= self.most {
            let waiting = self.open.iter().enumerate();
            let waiting = waiting.filter_map(|(index, (client, _))| Some((client.waited_for_since()?, index)));
            let Some((_, longest)) = waiting.min() else {
                if !self.is_full {
                    tracing::warn!("all {} REST connections are being served; new ones are turned away", self.most);
                }
                self.is_full = true;
                return false;
            };
            // Dropped is closed.
            self.open.swap_remove(longest);
        }
        self.is_full = false;
        true
    }
}

/// Whoever is at the other end of a connection. Every request carries it as an extension.
#[derive(Clone)]
pub(super) struct Client(Arc<Shared>);

struct Shared {
    waited_for_since: Mutex<Option<Duration>>,
    patience: Duration,
    clock: Arc<dyn Clock>,
    large_bodies: Arc<Semaphore>,
    /// For the body of the request that is being answered.
    leave: Mutex<Option<OwnedSemaphorePermit>>,
}

/// The connection waits for its client as long as this lives.
pub(super) struct Waiting<'a>(&'a Client);

impl Client {
    fn new(patience: Duration, clock: &Arc<dyn Clock>, large_bodies: &Arc<Semaphore>) -> Self {
        let shared = Shared {
            waited_for_since: Mutex::new(Some(clock.monotonic())),
            patience,
            clock: Arc::clone(clock),
            large_bodies: Arc::clone(large_bodies),
            leave: Mutex::new(None),
        };
        Self(Arc::new(shared))
    }

    /// The client has to send or to take something now.
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.is_waited_for(true);
        Waiting(self)
    }

    fn is_waited_for(&self, waited_for: bool) {
        *self.lock() = waited_for.then(|| self.0.clock.monotonic());
    }

    /// Leave to send a large body, if there is any left.
    pub(super) fn may_send_much(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.large_bodies).try_acquire_owned().ok()
    }

    /// What was made of the body is held until the request is answered, and so is `leave`.
    pub(super) fn keep_until_answered(&self, leave: OwnedSemaphorePermit) {
        self.keep(Some(leave));
    }

    fn keep(&self, leave: Option<OwnedSemaphorePermit>) {
        *self.0.leave.lock().unwrap_or_else(PoisonError::into_inner) = leave;
    }

    fn waited_for_since(&self) -> Option<Duration> {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Duration>> {
        self.0.waited_for_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the client has been waited for too long.
    async fn exhausts_patience(&self) {
        let Shared { patience, clock, .. } = &*self.0;
        loop {
            let waited = self.waited_for_since().map(|since| clock.monotonic().saturating_sub(since));
            match patience.checked_sub(waited.unwrap_or_default()).filter(|left| !left.is_zero()) {
                Some(left) => clock.sleep(left).await,
                None => return,
            }
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.is_waited_for(false);
    }
}

/// A request that is being answered: afterwards, or where its client goes away, nothing of its body is held.
struct Answering(Client);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.keep(None);
    }
}

async fn converse(stream: TcpStream, router: Router, client: Client, stop: CancellationToken) {
    let service = service_fn(|request: Request<Incoming>| answer(router.clone(), client.clone(), request));
    let connection = http1::Builder::new()
        .max_header_size(HEAD_BYTES)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut stopping = false;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a REST connection ended");
                }
                return;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = client.exhausts_patience() => {
                tracing::debug!("a REST connection is closed: its client is too slow");
                return;
            }
        }
    }
}

async fn answer(router: Router, client: Client, request: Request<Incoming>) -> Result<Response, Infallible> {
    client.is_waited_for(false);
    let _answering = Answering(client.clone());
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(client.clone());
    let response = router.oneshot(request).await;
    // To take the answer, and to send the next request.
    client.is_waited_for(true);
    response
}

#[cfg(test)]
mod tests;
