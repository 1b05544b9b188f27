//! I/O that goes on beside a task's loop: started in one call, looked at in later ones, aborted when dropped
//! (or left to clean up after itself, see [`Job::detach`]).
//!
//! The one place of this crate that spawns. Every job wakes the [`Notify`] it was given when it ends, so that whoever
//! must wait for it (a close) need not poll.

use std::future::Future;
use std::sync::Arc;

use futures::FutureExt;
use lakeferry_api::simulation::host::inherit;
use lakeferry_api::{ConnectError, Result};
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinHandle};

/// A spawned future and its result.
#[derive(Debug)]
pub(crate) struct Job<T> {
    handle: JoinHandle<Result<T>>,
    detached: bool,
}

impl<T: Send + 'static> Job<T> {
    /// Starts `work` on the current runtime.
    pub(crate) fn start(ended: &Arc<Notify>, work: impl Future<Output = Result<T>> + Send + 'static) -> Self {
        let wake = Wake(Arc::clone(ended));
        // Spawning is banned so that tasks are named, joined and their panics seen; this is where a job is.
        #[allow(clippy::disallowed_methods)]
        let handle = tokio::spawn(inherit(async move {
            let _wake = wake;
            work.await
        }));
        Self { handle, detached: false }
    }

    /// From now on it outlives this value: for work that knows when it is given up and has to clean up then.
    pub(crate) fn detach(&mut self) {
        self.detached = true;
    }

    /// The result, once there is one; then the job is used up.
    pub(crate) fn take_if_ended(&mut self) -> Option<Result<T>> {
        if !self.handle.is_finished() {
            return None;
        }
        (&mut self.handle).now_or_never().map(result_of)
    }

    /// The result, as soon as there is one; then the job is used up. Cancel-safe.
    pub(crate) async fn wait(&mut self) -> Result<T> {
        result_of((&mut self.handle).await)
    }
}

fn result_of<T>(joined: std::result::Result<Result<T>, JoinError>) -> Result<T> {
    joined.unwrap_or_else(|error| {
        Err(ConnectError::fatal("a job of the lake connector panicked; the log has its message").caused_by(error))
    })
}

/// Wakes the waiter however the job ends, by a panic too.
struct Wake(Arc<Notify>);

impl Drop for Wake {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        if !self.detached {
            self.handle.abort();
        }
    }
}
