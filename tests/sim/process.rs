//! One simulated operating-system process: it crashes between two awaits, or is stopped and goes on later (a zombie).
//! Requests that it has sent are no part of it: they reach their server all the same.

use std::sync::{Arc, Mutex};
use std::task::Waker;

use lakeferry_api::simulation::host::{Host, Leave, enter};

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Process {
    life: Mutex<Life>,
}

#[derive(Default)]
struct Life {
    dead: bool,
    stopped_at_ms: Option<u64>,
    waiting: Vec<Waker>,
}

impl Process {
    /// Kills it, as SIGKILL does.
    pub(crate) fn crash(&self) {
        let mut life = self.life.lock().unwrap();
        life.dead = true;
        life.waiting.drain(..).for_each(Waker::wake);
    }

    /// Stops it, as SIGSTOP does.
    pub(crate) fn stop(&self, now_ms: u64) {
        self.life.lock().unwrap().stopped_at_ms.get_or_insert(now_ms);
    }

    /// Lets it go on, as SIGCONT does.
    pub(crate) fn go_on(&self) {
        let mut life = self.life.lock().unwrap();
        life.stopped_at_ms = None;
        life.waiting.drain(..).for_each(Waker::wake);
    }

    /// Since when it is stopped.
    pub(crate) fn stopped_at_ms(&self) -> Option<u64> {
        self.life.lock().unwrap().stopped_at_ms
    }

    /// What is spawned until the result is dropped belongs to it.
    pub(crate) fn enter(self: &Arc<Self>) -> Leave {
        enter(Arc::clone(self) as Arc<dyn Host>)
    }
}

impl Host for Process {
    fn runs(&self, waker: &Waker) -> bool {
        let mut life = self.life.lock().unwrap();
        if life.stopped_at_ms.is_some() {
            life.waiting.push(waker.clone());
        }
        life.stopped_at_ms.is_none()
    }

    fn is_dead(&self) -> bool {
        self.life.lock().unwrap().dead
    }
}
