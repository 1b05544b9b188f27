//! Patience: waits that double, and log lines that do not flood. Pure.

use std::time::Duration;

/// Waits between attempts: each twice the one before, up to a limit.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    limit: Duration,
    next: Duration,
}

/// Lets one event a period pass and counts the others.
#[derive(Debug)]
pub(super) struct Throttle {
    period: Duration,
    last: Option<Duration>,
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

impl Throttle {
    pub(super) fn new(period: Duration) -> Self {
        Self { period, last: None, held_back: 0 }
    }

    /// Whether an event at `now` may be told; if so, how many before it were not.
    pub(super) fn admit(&mut self, now: Duration) -> Option<u64> {
        if self.last.is_some_and(|last| now < last + self.period) {
            self.held_back += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held_back))
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
    fn one_event_a_period_passes() {
        let mut throttle = Throttle::new(SECOND * 10);
        let admitted: Vec<_> = [0, 1, 9, 10, 11, 30].map(|at| throttle.admit(SECOND * at)).into();
        assert_eq!(admitted, [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
