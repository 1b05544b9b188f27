//! Gives memory back to the system while much of it is in use. The system's allocator keeps what is freed between
//! pieces that are still held: with a thousand open files, whose pages come and go, as much again as all of them hold.
//!
//! Started by whoever makes a byte budget. With another allocator than glibc's there is nothing to do.

use std::sync::Arc;
use std::time::Duration;

use lakeferry_api::{Budget, Clock};

use crate::spawn::{Spawned, spawn};

const EVERY: Duration = Duration::from_secs(1);
/// With less in use there is little to give back.
const LEAST_BYTES: u64 = 32 << 20;

/// Gives back what is free, every second while `budget` is in use, until the result is dropped.
pub fn give_back(budget: Budget, clock: Arc<dyn Clock>) -> Spawned<()> {
    spawn("memory", async move {
        loop {
            clock.sleep(EVERY).await;
            if budget.used() >= LEAST_BYTES && tokio::task::spawn_blocking(trim).await.is_err() {
                tracing::warn!("memory that is free stays with the process");
            }
        }
    })
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
    use super::trim;

    /// Memory of this process in use, in bytes.
    fn resident() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux tells");
        let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
        pages.expect("a number of pages") * 4096
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
        const PIECE: usize = 64 << 10;
        if cfg!(not(all(target_os = "linux", target_env = "gnu"))) {
            return;
        }
        let mut pieces: Vec<_> = (0..2_000).map(|_| Some(vec![1_u8; PIECE])).collect();
        pieces.iter_mut().skip(1).step_by(2).for_each(|piece| *piece = None);
        let before = resident();
        trim();
        let after = resident();
        assert!(after + 500 * PIECE < before, "{before} bytes became {after}");
        assert_eq!(pieces.iter().flatten().count(), 1_000);
    }
}
