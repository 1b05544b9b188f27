//! The worker's one byte budget (A7): everything that is buffered anywhere holds a [`Permit`] for its bytes.
//!
//! A permit is granted even beyond the limit, so that no loop can deadlock on memory it needs to free memory; those
//! who can wait (the consumer) ask [`Budget::is_exhausted`] first and stop fetching, and those who can free memory
//! (a sink with open files) do so when [`Budget::moving`] nears [`Budget::room`].
//!
//! Some of it stands: what a client takes for as long as it lives, and nobody can free. However much that is, half of
//! the limit is left to what moves, or a worker with many clients would wait for ever for memory that never comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A shared count of bytes in use against a limit. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    limit_bytes: u64,
    used_bytes: AtomicU64,
    standing_bytes: AtomicU64,
}

impl Budget {
    /// A budget of `limit_bytes`.
    pub fn new(limit_bytes: u64) -> Self {
        Self { shared: Arc::new(Shared { limit_bytes, ..Shared::default() }) }
    }

    /// Takes `bytes` until the permit is dropped.
    pub fn take(&self, bytes: u64) -> Permit {
        let mut permit = Permit { budget: self.clone(), bytes: 0, stands: false };
        permit.resize(bytes);
        permit
    }

    /// Takes `bytes` that stay taken for as long as a client lives.
    pub fn take_standing(&self, bytes: u64) -> Permit {
        let mut permit = Permit { budget: self.clone(), bytes: 0, stands: true };
        permit.resize(bytes);
        permit
    }

    /// Bytes held by permits now.
    pub fn used(&self) -> u64 {
        self.shared.used_bytes.load(Ordering::Relaxed)
    }

    /// The limit in bytes.
    pub fn limit(&self) -> u64 {
        self.shared.limit_bytes
    }

    /// Bytes that stand.
    pub fn standing(&self) -> u64 {
        self.shared.standing_bytes.load(Ordering::Relaxed)
    }

    /// Bytes held by permits now that come back by themselves, or when somebody frees them.
    pub fn moving(&self) -> u64 {
        self.used().saturating_sub(self.standing())
    }

    /// How many bytes there are for what moves: what stands leaves, and half of the limit at least.
    pub fn room(&self) -> u64 {
        self.limit() - self.standing().min(self.limit() / 2)
    }

    /// True while nobody should buffer anything new.
    pub fn is_exhausted(&self) -> bool {
        self.moving() >= self.room()
    }
}

/// Bytes taken from a [`Budget`]; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    budget: Budget,
    bytes: u64,
    stands: bool,
}

impl Permit {
    /// Changes how many bytes this permit holds.
    pub fn resize(&mut self, bytes: u64) {
        let shared = &self.budget.shared;
        for count in [Some(&shared.used_bytes), self.stands.then_some(&shared.standing_bytes)].into_iter().flatten() {
            if bytes >= self.bytes {
                count.fetch_add(bytes - self.bytes, Ordering::Relaxed);
            } else {
                count.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
            }
        }
        self.bytes = bytes;
    }

    /// The budget it was taken from.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_give_back_exactly_what_they_hold() {
        let budget = Budget::new(100);
        let mut first = budget.take(60);
        let second = budget.take(50);
        assert!(budget.is_exhausted());
        first.resize(10);
        assert_eq!(budget.used(), 60);
        drop(second);
        drop(first);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_stands_leaves_half_of_the_limit_to_what_moves() {
        let budget = Budget::new(100);
        let few = budget.take_standing(30);
        assert_eq!((budget.used(), budget.moving(), budget.room()), (30, 0, 70));
        let moving = budget.take(70);
        assert!(budget.is_exhausted());
        drop(moving);
        let many = budget.take_standing(80);
        assert_eq!((budget.used(), budget.moving(), budget.room()), (110, 0, 50));
        assert!(!budget.is_exhausted(), "nobody could free anything");
        drop((few, many));
        assert_eq!((budget.used(), budget.standing(), budget.room()), (0, 0, 100));
    }
}
