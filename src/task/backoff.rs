//! Patience: waits that double, and log lines that do not flood. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

/// Waits between attempts: each twice the one before, up to a limit.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    limit: Duration,
    next: Duration,
}

/// Lets each message pass once a period and counts how often it did not.
#[derive(Debug)]
pub(super) struct Throttles {
    period: Duration,
    told: BTreeMap<String, Told>,
}

#[derive(Debug)]
struct Told {
    at: Duration,
    held_back: u64,
}

impl Backoff {
    pub(crate) fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, next: first }
    }

    /// The next wait.
    pub(crate) fn step(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.limit);
        wait
    }

    /// It worked: begin with the shortest wait again.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

impl Throttles {
    pub(super) fn new(period: Duration) -> Self {
        Self { period, told: BTreeMap::new() }
    }

    /// Whether `message` may be told at `now`; if so, how often it was not since the last time.
    pub(super) fn admit(&mut self, message: &str, now: Duration) -> Option<u64> {
        // How long the client tried makes no other message.
        let what = message.split(" (after ").next().unwrap_or(message);
        if let Some(told) = self.told.get_mut(what)
            && now < told.at + self.period
        {
            told.held_back += 1;
            return None;
        }
        let held_back = self.told.remove(what).map_or(0, |told| told.held_back);
        self.told.retain(|_, told| now < told.at + self.period);
        self.told.insert(what.to_owned(), Told { at: now, held_back: 0 });
        Some(held_back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_double_up_to_the_limit() {
        let mut backoff = Backoff::new(SECOND, SECOND * 5);
        let waits: Vec<_> = (0..5).map(|_| backoff.step().as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
        backoff.reset();
        assert_eq!(backoff.step(), SECOND);
    }

    #[test]
    fn a_message_passes_once_a_period() {
        let mut throttles = Throttles::new(SECOND * 10);
        let admitted: Vec<_> = [0, 1, 9, 10, 11, 30].map(|at| throttles.admit("away", SECOND * at)).into();
        assert_eq!(admitted, [Some(0), None, None, Some(2), None, Some(1)]);
        let others = ["no a", "no b", "no a", "refused (after 1 ms)", "refused (after 2 ms)"];
        let admitted = others.map(|message| throttles.admit(message, SECOND * 31));
        assert_eq!(admitted, [Some(0), Some(0), None, Some(0), None]);
        throttles.admit("away", SECOND * 60);
        assert_eq!(throttles.told.len(), 1, "what was long ago is forgotten");
    }
}
