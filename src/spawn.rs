//! The one way to start something on the runtime: it has a name, its panic becomes an error, it ends with whoever holds
//! it, and it stops in two steps (asked first, aborted at three quarters of the deadline; A10).

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use lakeferry_api::simulation::host::inherit;
use lakeferry_api::{Clock, ConnectError, Result};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

/// Something that runs; aborted when dropped.
#[derive(Debug)]
pub struct Spawned<T> {
    name: String,
    handle: AbortOnDropHandle<Result<T>>,
}

/// Starts `future` under `name`, which its log lines carry.
#[allow(clippy::disallowed_methods, reason = "this is the one place")]
pub fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    future: impl Future<Output = T> + Send + 'static,
) -> Spawned<T> {
    let name = name.into();
    // What it does is its own affair, not that of whoever started it.
    let span = tracing::info_span!(parent: None, "in", name);
    let handle = tokio::spawn(inherit(guard(future).instrument(span)));
    Spawned { name, handle: AbortOnDropHandle::new(handle) }
}

impl<T> Spawned<T> {
    /// Waits for its result. Cancel-safe; not to be called again after it returned.
    ///
    /// # Errors
    /// `Fatal` where it panicked or was aborted.
    pub async fn join(&mut self) -> Result<T> {
        match (&mut self.handle).await {
            Ok(result) => result,
            Err(error) if error.is_cancelled() => Err(ConnectError::fatal(format!("{} was aborted", self.name))),
            Err(error) => Err(ConnectError::fatal(format!("{} panicked", self.name)).caused_by(error)),
        }
    }

    /// Waits three quarters of `deadline` for what was asked to end, then calls `last_word`, aborts it, logs that, and
    /// waits for the rest. Returns its result where it ended by itself.
    pub async fn join_within(
        &mut self,
        deadline: Duration,
        clock: &dyn Clock,
        last_word: impl FnOnce(),
    ) -> Option<Result<T>> {
        let patience = deadline.mul_f64(0.75);
        let ended = within(patience, clock, self.join()).await;
        if ended.is_some() {
            return ended;
        }
        tracing::error!(name = self.name, after_ms = patience.as_millis(), "did not stop in time; it is aborted");
        last_word();
        self.handle.abort();
        if within(deadline.saturating_sub(patience), clock, self.join()).await.is_none() {
            tracing::error!(name = self.name, "is stuck in code that never yields; it is left behind");
        }
        None
    }

    /// True once it has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

/// `future`'s result where it comes within `patience`.
pub async fn within<T>(patience: Duration, clock: &dyn Clock, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        result = future => Some(result),
        () = clock.sleep(patience) => None,
    }
}

/// How long something may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// While nobody asks for a stop.
    pub usual: Duration,
    /// From when one is asked for.
    pub once_stopped: Duration,
}

/// The same, but once `stop` is cancelled `future` has no longer than `once_stopped`. When that began comes along.
pub async fn within_or_stop<T>(
    patience: Patience,
    clock: &dyn Clock,
    stop: &CancellationToken,
    future: impl Future<Output = T>,
) -> (Option<T>, Option<Duration>) {
    let mut stopped_at = None;
    let stopped = async {
        stop.cancelled().await;
        stopped_at = Some(clock.monotonic());
        clock.sleep(patience.once_stopped).await;
    };
    let result = tokio::select! {
        biased;
        result = future => Some(result),
        () = clock.sleep(patience.usual) => None,
        () = stopped => None,
    };
    (result, stopped_at)
}

/// Runs `future` behind a panic border.
///
/// # Errors
/// `Fatal` with the message of the panic. What the future worked on is in no known state then: drop it.
pub async fn guard<T>(future: impl Future<Output = T>) -> Result<T> {
    AssertUnwindSafe(future)
        .catch_unwind()
        .await
        .map_err(|panic| ConnectError::fatal(format!("panicked: {}", panic_message(panic.as_ref()))))
}

/// What a panic said.
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test]
    async fn a_panic_is_an_error_with_its_message() {
        let error = spawn("doomed", async { panic!("on purpose {}", 7) }).join().await.map(|()| 0).unwrap_err();
        assert_eq!(error.message(), "panicked: on purpose 7");
        assert_eq!(spawn("fine", async { 7 }).join().await.unwrap(), 7);
    }

    #[tokio::test]
    async fn what_does_not_stop_is_aborted_within_the_deadline() {
        let clock = SystemClock::new();
        let mut endless = spawn("endless", std::future::pending::<()>());
        assert!(endless.join_within(Duration::from_millis(40), &clock, || ()).await.is_none());
        assert!(endless.is_finished());
        assert!(clock.monotonic() >= Duration::from_millis(30));
        let mut quick = spawn("quick", async { 1 });
        assert_eq!(quick.join_within(Duration::from_secs(60), &clock, || ()).await.unwrap().unwrap(), 1);
    }
}
