//! Simulated time: it stands still while anything can run and jumps to the next moment that somebody sleeps until when
//! nothing can. The runtime calls [`SimClock::step`] when it goes idle.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use lakeferry_api::Clock;

use crate::awaits::waits_here;

/// The wall clock's time when a run begins.
/// When a run begins.
pub(crate) const EPOCH_MS: i64 = 1_700_000_000_000;

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct SimClock {
    time: Mutex<Time>,
}

#[derive(Default)]
struct Time {
    now: Duration,
    sleepers: BTreeMap<(Duration, u64), Waker>,
    next: u64,
    held: bool,
}

impl SimClock {
    /// Wakes the next sleeper, at its time.
    pub(crate) fn step(&self) {
        let mut time = self.time.lock().unwrap();
        if time.held {
            return;
        }
        let Some(((until, _), waker)) = time.sleepers.pop_first() else { return };
        time.now = time.now.max(until);
        drop(time);
        waker.wake();
    }

    /// Time stands still although nothing can run: something outside of it is waited for.
    pub(crate) fn hold(&self, held: bool) {
        self.time.lock().unwrap().held = held;
    }

    /// Milliseconds since the run began.
    pub(crate) fn ms(&self) -> u64 {
        self.time.lock().unwrap().now.as_millis() as u64
    }

    /// Returns after `ms` milliseconds.
    pub(crate) fn wait(self: &Arc<Self>, ms: u64) -> Sleep {
        self.sleep_for(Duration::from_millis(ms))
    }

    fn sleep_for(self: &Arc<Self>, duration: Duration) -> Sleep {
        let mut time = self.time.lock().unwrap();
        time.next += 1;
        Sleep { clock: Arc::clone(self), until: time.now.saturating_add(duration), id: time.next }
    }
}

/// A clock that can be handed out.
#[derive(Clone)]
pub(crate) struct Shared(pub(crate) Arc<SimClock>);

#[async_trait]
impl Clock for Shared {
    fn now_ms(&self) -> i64 {
        EPOCH_MS + self.0.ms() as i64
    }

    fn monotonic(&self) -> Duration {
        self.0.time.lock().unwrap().now
    }

    async fn sleep(&self, duration: Duration) {
        self.0.sleep_for(duration).await;
    }
}

/// Waits for a moment.
pub(crate) struct Sleep {
    clock: Arc<SimClock>,
    until: Duration,
    id: u64,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut time = self.clock.time.lock().unwrap();
        if time.now >= self.until {
            return Poll::Ready(());
        }
        time.sleepers.insert((self.until, self.id), context.waker().clone());
        drop(time);
        waits_here();
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let mut time = self.clock.time.lock().unwrap();
        let (until, id) = (self.until, self.id);
        let waker = time.sleepers.remove(&(until, id));
        drop(time);
        drop(waker);
    }
}
