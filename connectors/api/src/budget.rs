//! The worker's one byte budget (A7): everything that is buffered anywhere holds a [`Permit`] for its bytes.
//!
//! A permit is granted even beyond the limit, so that no loop can deadlock on memory it needs to free memory; those
//! who can wait (the consumer) ask [`Budget::is_exhausted`] first and stop fetching, and those who can free memory
//! (a sink with open files) do so when [`Budget::used`] nears [`Budget::limit`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A shared count of bytes in use against a limit. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit_bytes: u64,
    used_bytes: AtomicU64,
}

impl Budget {
    /// A budget of `limit_bytes`.
    pub fn new(limit_bytes: u64) -> Self {
        Self { shared: Arc::new(Shared { limit_bytes, used_bytes: AtomicU64::new(0) }) }
    }

    /// Takes `bytes` until the permit is dropped.
    pub fn take(&self, bytes: u64) -> Permit {
        self.shared.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        Permit { budget: self.clone(), bytes }
    }

    /// Bytes held by permits now.
    pub fn used(&self) -> u64 {
        self.shared.used_bytes.load(Ordering::Relaxed)
    }

    /// The limit in bytes.
    pub fn limit(&self) -> u64 {
        self.shared.limit_bytes
    }

    /// True while nobody should buffer anything new.
    pub fn is_exhausted(&self) -> bool {
        self.used() >= self.limit()
    }
}

/// Bytes taken from a [`Budget`]; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    budget: Budget,
    bytes: u64,
}

impl Permit {
    /// Changes how many bytes this permit holds.
    pub fn resize(&mut self, bytes: u64) {
        let used = &self.budget.shared.used_bytes;
        if bytes >= self.bytes {
            used.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else {
            used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
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
}
