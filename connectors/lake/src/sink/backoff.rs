//! How long the sink waits before it sends a request again, or begins a partition again. Pure.

use std::time::Duration;

/// The first wait after a failure; it doubles up to [`MAX_BACKOFF_MS`].
const FIRST_BACKOFF_MS: u64 = 250;
const MAX_BACKOFF_MS: u64 = 30_000;

/// How long to wait before the same request is sent again for the `attempt`-th time, from 0.
pub(crate) fn backoff(attempt: u32) -> Duration {
    Duration::from_millis((FIRST_BACKOFF_MS << attempt.min(16)).min(MAX_BACKOFF_MS))
}
