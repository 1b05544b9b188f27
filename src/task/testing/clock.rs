//! Time that tests move: nothing passes but what they let pass, from one awaited moment to the next.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use lakeferry_api::Clock;
use tokio::sync::watch;

use super::Journal;

/// Time that a test moves, from one awaited moment to the next.
pub(crate) struct ManualClock {
    now: watch::Sender<Duration>,
    /// The moments that somebody sleeps until, with how many do.
    awaited: Mutex<BTreeMap<Duration, usize>>,
}

const PATIENCE: Duration = Duration::from_secs(3600);

impl ManualClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { now: watch::Sender::new(Duration::ZERO), awaited: Mutex::default() })
    }

    pub(crate) fn monotonic_ms(&self) -> u128 {
        self.monotonic().as_millis()
    }

    pub(crate) async fn advance(&self, by: Duration) {
        let end = self.monotonic() + by;
        settle().await;
        while self.monotonic() < end {
            self.step(end);
            settle().await;
        }
    }

    /// Moves time until `done`, or gives up.
    pub(crate) async fn until(&self, journal: &Journal, what: &str, mut done: impl FnMut() -> bool) {
        let end = self.monotonic() + PATIENCE;
        settle().await;
        while !done() {
            assert!(self.monotonic() < end, "'{what}' never happened, but: {:#?}", journal.take());
            self.step(end);
            settle().await;
        }
    }

    /// Moves time until `future` is ready, or gives up.
    pub(crate) async fn drive<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let end = self.monotonic() + PATIENCE;
        loop {
            tokio::select! {
                biased;
                value = &mut future => return value,
                () = settle() => {}
            }
            assert!(self.monotonic() < end, "the future never got ready");
            self.step(end);
        }
    }

    /// Moves to the next moment that somebody sleeps until, at most to `end`.
    fn step(&self, end: Duration) {
        let now = self.monotonic();
        let next = self.awaited.lock().unwrap().keys().copied().find(|moment| *moment > now);
        self.now.send_replace(next.unwrap_or(end).min(end));
    }
}

/// Lets everything that is ready run until nothing is.
async fn settle() {
    for _ in 0..40 {
        tokio::task::yield_now().await;
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        1_700_000_000_000 + i64::try_from(self.monotonic().as_millis()).unwrap()
    }

    fn monotonic(&self) -> Duration {
        *self.now.borrow()
    }

    async fn sleep(&self, duration: Duration) {
        let end = self.monotonic() + duration;
        let _awaited = Awaited::new(&self.awaited, end);
        // The sender lives as long as the clock.
        let _ = self.now.subscribe().wait_for(|now| *now >= end).await;
    }
}

/// Counts as a sleeper while it lives.
struct Awaited<'a> {
    moments: &'a Mutex<BTreeMap<Duration, usize>>,
    moment: Duration,
}

impl<'a> Awaited<'a> {
    fn new(moments: &'a Mutex<BTreeMap<Duration, usize>>, moment: Duration) -> Self {
        *moments.lock().unwrap().entry(moment).or_default() += 1;
        Self { moments, moment }
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let mut moments = self.moments.lock().unwrap();
        if let Some(sleepers) = moments.get_mut(&self.moment) {
            *sleepers -= 1;
            if *sleepers == 0 {
                moments.remove(&self.moment);
            }
        }
    }
}
