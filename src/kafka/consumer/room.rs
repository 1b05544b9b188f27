//! Whether there is room for more, and what is fetched therefore.
//!
//! Where there is none nothing is polled for up to [`STALL_AFTER`]; then partitions are paused, which costs what was
//! prefetched, and polling goes on, so that the group is kept.

use std::sync::Arc;
use std::time::Duration;

use super::fetch::Fetch;

/// How long a poll waits while room in the channel or a release is waited for.
pub(super) const STALLED_WAIT: Duration = Duration::from_millis(50);
pub(super) const ROOM_WAIT: Duration = Duration::from_millis(5);
const STALL_AFTER: Duration = Duration::from_secs(1);
/// How many rounds in a row rouse the brokers' threads. One may come too soon: another thread of the client's resumes.
const ROUSES: u32 = 3;

/// What is known of it.
#[derive(Default)]
pub(super) struct Room {
    /// Since when there is none.
    blocked_since: Option<Duration>,
    /// All partitions are paused for it.
    stalled: bool,
    /// Rounds that are still to rouse the brokers' threads.
    rouses: u32,
}

impl Fetch {
    /// Pauses and resumes in the client what is to be.
    pub(super) fn set_fetching(&mut self) {
        let (mut pause, mut resume) = (Vec::new(), Vec::new());
        let stalled = self.room.stalled;
        for slot in self.slots() {
            let wanted = slot.wants_records() && !stalled;
            if slot.fetching != wanted {
                slot.fetching = wanted;
                if wanted { &mut resume } else { &mut pause }.push(slot.partition.clone());
            }
        }
        let paused = if pause.is_empty() { Ok(()) } else { self.spec.handle.pause(&pause) };
        if !resume.is_empty() {
            self.room.rouses = ROUSES;
        }
        let resumed = if resume.is_empty() { Ok(()) } else { self.spec.handle.resume(&resume) };
        if let Err(failure) = paused.and(resumed) {
            tracing::warn!("cannot pause or resume partitions: {}", failure.text);
        }
    }

    /// Sends what can be sent; true where there is room for more, and then what stalled goes on.
    pub(super) fn make_room(&mut self) -> bool {
        let exhausted = self.spec.queue.budget().is_exhausted();
        if exhausted {
            // Those who can free memory should have what there is.
            self.flush(|_| true);
            self.send();
        }
        let has_room = !exhausted && self.outbox.is_empty();
        if has_room {
            self.room.blocked_since = None;
            self.room.stalled = false;
            self.set_fetching();
        }
        has_room
    }

    pub(super) fn wait_for_room(&mut self) {
        let now = self.now;
        let since = *self.room.blocked_since.get_or_insert(now);
        if self.room.stalled {
            // Nothing is fetched, so what comes is about the group.
            if let Some(polled) = Arc::clone(&self.spec.handle).poll(STALLED_WAIT) {
                self.take(polled);
            }
        } else if now.saturating_sub(since) > STALL_AFTER {
            self.room.stalled = true;
        } else {
            std::thread::park_timeout(ROOM_WAIT);
        }
    }

    /// After partitions were resumed: lets the brokers' threads know. True where the next round has to as well.
    pub(super) fn rouse(&mut self) -> bool {
        if self.room.rouses > 0 {
            self.room.rouses -= 1;
            self.spec.handle.rouse();
        }
        self.room.rouses > 0
    }
}
