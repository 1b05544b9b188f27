//! Time as a seam: the worker passes the system's clock, the simulator one that it moves itself (A8).

use std::time::Duration;

use async_trait::async_trait;

/// Where time comes from. Nothing else may read a clock or sleep.
#[async_trait]
pub trait Clock: Send + Sync {
    /// Wall-clock time in milliseconds since the epoch.
    fn now_ms(&self) -> i64;

    /// Time since some fixed moment; never goes back.
    fn monotonic(&self) -> Duration;

    /// Returns after `duration`.
    async fn sleep(&self, duration: Duration);
}
