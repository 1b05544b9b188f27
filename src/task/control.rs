//! How the herder steers a running task: whether it is to stop and whether it is paused. The latest word counts, so
//! neither side ever waits for the other.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The herder's end.
#[derive(Debug)]
pub(super) struct Steering {
    stop: CancellationToken,
    paused: watch::Sender<bool>,
}

/// The loop's end.
#[derive(Debug)]
pub(super) struct Control {
    stop: CancellationToken,
    paused: watch::Receiver<bool>,
}

/// What the herder wants of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Run,
    Pause,
    Stop,
}

/// Both ends.
pub(super) fn control(paused: bool) -> (Steering, Control) {
    let stop = CancellationToken::new();
    let (sender, receiver) = watch::channel(paused);
    (Steering { stop: stop.clone(), paused: sender }, Control { stop, paused: receiver })
}

impl Steering {
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    pub(super) fn pause(&self, paused: bool) {
        self.paused.send_if_modified(|known| std::mem::replace(known, paused) != paused);
    }
}

impl Control {
    /// Cancelled once the task is to stop.
    pub(super) fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// True while the task is to be paused.
    pub(super) fn is_paused(&self) -> bool {
        *self.paused.borrow()
    }

    /// The next change of what the herder wants. Cancel-safe.
    pub(super) async fn changed(&mut self) -> Wanted {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Wanted::Stop,
            // Where the herder dropped its end, it ends the task through the token or by aborting it.
            Ok(()) = self.paused.changed() => {
                if *self.paused.borrow_and_update() { Wanted::Pause } else { Wanted::Run }
            }
            else => std::future::pending().await,
        }
    }
}
