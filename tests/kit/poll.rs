//! Waiting for the outside world: ask, pause briefly, ask again, until a deadline.
//!
//! The only place of the kit that sleeps. Tests use it as well for what they can only observe from outside.

use std::thread;
use std::time::{Duration, Instant};

use super::{Error, Result};

const PAUSE: Duration = Duration::from_millis(20);

/// The first `Some` that `ask` gives within `limit`, or `None`. Asks at least once.
pub fn poll_until<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(PAUSE);
    }
}

/// Waits until `holds` is true; `what` completes "not within 30s: ...".
pub fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Result<()> {
    poll_until(limit, || holds().then_some(())).ok_or_else(|| Error::failed(format!("not within {limit:?}: {what}")))
}
