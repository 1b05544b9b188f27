//! Gives memory back to the system while much of it is in use. The system's allocator keeps what is freed between
//! pieces that are still held: with a thousand open files, whose pages come and go, as much again as all of them hold.
//!
//! Started by whoever makes a byte budget. With another allocator than glibc's there is nothing to do.

use std::sync::Arc;
use std::time::Duration;

use lakeferry_api::{Budget, Clock};

use crate::spawn::{Spawned, spawn};

/// So long what is free may stay at the most, while much is in use.
const EVERY: Duration = Duration::from_secs(1);
/// So often it is seen how much the process holds.
const LOOK: Duration = Duration::from_millis(100);
/// A process that holds so much, and half as much again as its budget, gives back what is free at once where it has
/// grown by [`GROWN_BYTES`] since: a thousand files that grow and end would double what they hold within a second.
/// Whoever holds less has room for what is free, and saves the time that it takes to give it back.
const AMPLE_BYTES: u64 = 32 << 20;
/// See [`AMPLE_BYTES`].
const GROWN_BYTES: u64 = 16 << 20;
/// With less in use there is little to give back.
const LEAST_BYTES: u64 = 32 << 20;

/// Gives back what is free, every second while `budget` is in use and sooner where the process holds much, until the
/// result is dropped.
pub fn give_back(budget: Budget, clock: Arc<dyn Clock>) -> Spawned<()> {
    spawn("memory", async move {
        let ample = budget.limit().saturating_add(budget.limit() / 2 + AMPLE_BYTES);
        loop {
            clock.sleep(EVERY).await;
            while budget.used() >= LEAST_BYTES {
                if tokio::task::spawn_blocking(trim).await.is_err() {
                    tracing::warn!("memory that is free stays with the process");
                }
                large_or_late(ample.max(resident_bytes() + GROWN_BYTES), &*clock).await;
            }
        }
    })
}

/// Waits until the process holds `bytes`, or [`EVERY`] is over.
async fn large_or_late(bytes: u64, clock: &dyn Clock) {
    for _ in 0..EVERY.as_millis() / LOOK.as_millis() {
        clock.sleep(LOOK).await;
        if resident_bytes() >= bytes {
            return;
        }
    }
}

/// Memory of this process in use, in bytes; 0 where the system does not tell.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.unwrap_or(0_u64) << 10
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "no safe call says it")]
fn trim() {
    // SAFETY: takes the allocator's own locks and touches nothing that is in use.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn trim() {}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use async_trait::async_trait;

    use super::*;

    /// Counts the looks at it, which take no time.
    #[derive(Default)]
    struct Looks(AtomicU32);

    #[async_trait]
    impl Clock for Looks {
        fn now_ms(&self) -> i64 {
            0
        }

        fn monotonic(&self) -> Duration {
            LOOK * self.0.load(Ordering::Relaxed)
        }

        async fn sleep(&self, duration: Duration) {
            assert_eq!(duration, LOOK);
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn a_process_that_holds_much_gives_back_before_a_second_is_over() {
        let clock = Looks::default();
        large_or_late(u64::MAX, &clock).await;
        assert_eq!(clock.monotonic(), EVERY);
        if cfg!(target_os = "linux") {
            let clock = Looks::default();
            large_or_late(1, &clock).await;
            assert_eq!(clock.monotonic(), LOOK);
        }
    }

    #[test]
    fn what_is_free_between_what_is_held_is_given_back() {
        // In a process of its own: other tests' memory comes and goes meanwhile.
        let program = std::env::current_exe().expect("this very program");
        let alone = ["--exact", "memory::tests::alone", "--ignored"];
        let ended = std::process::Command::new(program).args(alone).output().expect("it starts");
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(ended.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    #[ignore = "started by the test above"]
    fn alone() {
        const PIECE: u64 = 64 << 10;
        if cfg!(not(all(target_os = "linux", target_env = "gnu"))) {
            return;
        }
        let mut pieces: Vec<_> = (0..2_000).map(|_| Some(vec![1_u8; PIECE as usize])).collect();
        pieces.iter_mut().skip(1).step_by(2).for_each(|piece| *piece = None);
        let before = resident_bytes();
        trim();
        let after = resident_bytes();
        assert!(after + 500 * PIECE < before, "{before} bytes became {after}");
        assert_eq!(pieces.iter().flatten().count(), 1_000);
    }
}
