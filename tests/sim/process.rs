//! One simulated operating-system process: it crashes between two awaits, or is stopped and goes on later (a zombie).
//! Requests that it has sent are no part of it: they reach their server all the same.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::task::Waker;

use lakeferry_api::TopicPartition;
use lakeferry_api::simulation::host::{Host, Leave, enter};

use crate::awaits::{Hit, Stage, Stretch, Striker, Trap, watch};

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
    traps: Vec<Trap>,
    striker: Option<Striker>,
    /// What it asked for and has no answer to, in that order.
    asked: Vec<(u64, String, Stage)>,
    next: u64,
    /// Where it lost a number that was to publish something, by chain folder, and how often it asked whose that is.
    lost: BTreeMap<String, u64>,
    /// When it heard last that a request to the store went wrong, or was too late, by what it asked for.
    troubled_at_ms: BTreeMap<String, u64>,
}

/// A request on its way, until it is dropped.
pub(crate) struct Asked {
    process: Arc<Process>,
    id: u64,
}

impl Asked {
    /// For whoever knows how far the request is, and need not know whether anybody still waits for it.
    pub(crate) fn reporter(&self) -> impl Fn(Stage) + Send + 'static {
        let (process, id) = (Arc::clone(&self.process), self.id);
        move |stage| process.comes_to(id, stage)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.process.life.lock().unwrap().asked.retain(|(id, ..)| *id != self.id);
    }
}

impl Process {
    /// Kills it, as SIGKILL does.
    pub(crate) fn crash(&self) {
        let mut life = self.life.lock().unwrap();
        life.dead = true;
        let waiting = std::mem::take(&mut life.waiting);
        drop(life);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Stops it, as SIGSTOP does.
    pub(crate) fn stop(&self, now_ms: u64) {
        self.life.lock().unwrap().stopped_at_ms.get_or_insert(now_ms);
    }

    /// Lets it go on, as SIGCONT does.
    pub(crate) fn go_on(&self) {
        let mut life = self.life.lock().unwrap();
        life.stopped_at_ms = None;
        let waiting = std::mem::take(&mut life.waiting);
        drop(life);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Since when it is stopped.
    pub(crate) fn stopped_at_ms(&self) -> Option<u64> {
        self.life.lock().unwrap().stopped_at_ms
    }

    /// What is spawned until the result is dropped belongs to it.
    pub(crate) fn enter(self: &Arc<Self>) -> Leave {
        enter(Arc::clone(self) as Arc<dyn Host>)
    }

    /// What its traps do is done by `striker`.
    pub(crate) fn set_striker(&self, striker: Striker) {
        self.life.lock().unwrap().striker = Some(striker);
    }

    /// Sets one more trap.
    pub(crate) fn set_trap(&self, trap: Trap) {
        self.life.lock().unwrap().traps.push(trap);
    }

    /// Takes its traps away.
    pub(crate) fn take_traps(&self) -> Vec<Trap> {
        std::mem::take(&mut self.life.lock().unwrap().traps)
    }

    /// The store did not do what it asked for.
    pub(crate) fn is_troubled(&self, what: String, now_ms: u64) {
        self.life.lock().unwrap().troubled_at_ms.insert(what, now_ms);
    }

    /// True where the store has not done something about `partition` since.
    pub(crate) fn was_troubled_since(&self, ms: u64, partition: &TopicPartition) -> bool {
        let (topic, folder) = (format!("/{}/", partition.topic), format!("/partition={}/", partition.partition));
        let is_of_it = |what: &str| what.contains(&topic) && what.contains(&folder);
        self.life.lock().unwrap().troubled_at_ms.iter().any(|(what, at)| *at >= ms && is_of_it(what))
    }

    /// Its last entry in `chain` did not get its number.
    pub(crate) fn loses(&self, chain: &str) {
        self.life.lock().unwrap().lost.insert(chain.to_owned(), 0);
        self.reach(Stretch::Taken);
    }

    /// Its last entry in `chain` got its number.
    pub(crate) fn wins(&self, chain: &str) {
        self.life.lock().unwrap().lost.remove(chain);
    }

    /// It asks whose `chain` is, where it lost a number of it.
    pub(crate) fn claims(&self, chain: &str) {
        let mut life = self.life.lock().unwrap();
        let Some(asked) = life.lost.get_mut(chain) else { return };
        *asked += 1;
        let stretch = if *asked == 1 { Stretch::Claims } else { Stretch::Reclaims };
        life.traps.iter_mut().for_each(|trap| trap.reach(&stretch));
    }

    /// It comes to a stretch of the commit path.
    pub(crate) fn reach(&self, stretch: Stretch) {
        self.life.lock().unwrap().traps.iter_mut().for_each(|trap| trap.reach(&stretch));
    }

    /// It asks for `what`.
    pub(crate) fn asks(self: &Arc<Self>, what: String) -> Asked {
        let mut life = self.life.lock().unwrap();
        life.traps.iter_mut().for_each(|trap| trap.asks(&what));
        life.next += 1;
        let id = life.next;
        life.asked.push((id, what, Stage::Unsent));
        Asked { process: Arc::clone(self), id }
    }

    fn comes_to(&self, id: u64, stage: Stage) {
        if let Some(asked) = self.life.lock().unwrap().asked.iter_mut().find(|(known, ..)| *known == id) {
            asked.2 = stage;
        }
    }
}

impl Host for Process {
    fn runs(&self, waker: &Waker) -> bool {
        let mut life = self.life.lock().unwrap();
        if life.stopped_at_ms.is_some() {
            life.waiting.push(waker.clone());
            return false;
        }
        watch(life.traps.iter().any(Trap::is_due));
        true
    }

    fn is_dead(&self) -> bool {
        self.life.lock().unwrap().dead
    }

    fn waits(&self) {
        let mut life = self.life.lock().unwrap();
        let struck = life.traps.iter_mut().position(Trap::count).map(|at| life.traps.remove(at));
        let Some((trap, striker)) = struck.zip(life.striker.clone()) else { return };
        let hit = Hit::now(life.asked.last().map(|(_, what, stage)| (what.clone(), *stage)));
        drop(life);
        striker(trap.blow, hit);
    }
}
