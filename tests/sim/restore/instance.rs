//! One life of the restoring process: all its work, with clients, store and memory of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use lakeferry::backing::memory::MemoryOffsetLog;
use lakeferry::cli::Surroundings;
use lakeferry::kafka::Clients;
use lakeferry::plugins;
use lakeferry::random::Random;
use lakeferry::task::{Handle, Parts, Tasks};
use lakeferry_api::simulation::host::Host as _;
use lakeferry_api::{Budget, Clock, Executor};
use lakeferry_lake::store::memory;

use super::Restore;
use super::work::{Listener, Work};
use crate::awaits::{Blow, Striker, Trap};
use crate::broker::client::SimClients;
use crate::chance::Diary;
use crate::clock::{self, SimClock};
use crate::process::Process;
use crate::world::parts::{SlowExecutor, join, worker_config};
use crate::world::stop;

const MEMORY_BYTES: u64 = 16 << 20;

/// See the module's documentation.
pub(super) struct Instance {
    pub(super) name: String,
    process: Arc<Process>,
    clients: Arc<dyn Clients>,
    clock: Arc<dyn Clock>,
    executor: Arc<dyn Executor>,
    budget: Budget,
    /// Its own place of the archive, where it has one.
    url: Option<String>,
    tasks: Tasks,
    listener: Arc<Listener>,
    running: Mutex<Vec<(Work, Box<dyn Handle>)>>,
}

impl Instance {
    /// The next life.
    pub(super) fn start(restore: &Restore<'_>) -> Self {
        let (world, name) = (restore.world, format!("r{}", restore.lives));
        restore.diary.note(format!("{name} starts"));
        let process = Arc::<Process>::default();
        process.set_striker(striker(restore, &name, &process));
        let own = (!restore.conditions.by_command).then(|| format!("memory:///run-{}-{name}", world.run));
        let url = own.clone().unwrap_or_else(|| restore.url());
        memory::place(&url, Some(world.store.client(&name, &process)));
        let clients: Arc<dyn Clients> = Arc::new(SimClients {
            broker: Arc::clone(&restore.target),
            process: Arc::clone(&process),
            worker: name.clone(),
        });
        let clock: Arc<dyn Clock> = Arc::new(clock::Shared(Arc::clone(&restore.clock)));
        let executor: Arc<dyn Executor> = Arc::new(SlowExecutor {
            clock: Arc::clone(&restore.clock),
            process: Arc::clone(&process),
            ms: world.plan.settings.encode_ms.min(3),
        });
        let budget = Budget::new(MEMORY_BYTES);
        let tasks = Tasks::new(Parts {
            catalog: Arc::new(plugins::catalog()),
            worker: Arc::new(worker_config(None)),
            worker_id: format!("{name}:8083"),
            clients: Arc::clone(&clients),
            offsets: Arc::new(MemoryOffsetLog::default()),
            clock: Arc::clone(&clock),
            executor: Arc::clone(&executor),
            budget: budget.clone(),
            random: Arc::new(Random::seeded(world.plan.seed.wrapping_mul(31).wrapping_add(restore.lives))),
        });
        let listener = Arc::new(Listener {
            process: name.clone(),
            diary: restore.diary.clone(),
            target: Arc::clone(&restore.target),
            peace: Arc::clone(&restore.peace),
            stopping: AtomicBool::new(false),
            again: Mutex::default(),
        });
        let running = Mutex::default();
        let instance = Self { name, process, clients, clock, executor, budget, url: own, tasks, listener, running };
        for work in restore.jobs.iter().flat_map(|job| Work::of(restore, job, &url)) {
            instance.begin(work);
        }
        instance
    }

    fn begin(&self, work: Work) {
        let _inside = self.process.enter();
        let around = Surroundings {
            clients: Arc::clone(&self.clients),
            clock: Arc::clone(&self.clock),
            executor: Arc::clone(&self.executor),
            budget: self.budget.clone(),
            is_watched: false,
        };
        let handle = work.begin(&self.tasks, around, &self.listener);
        self.running.lock().unwrap().push((work, handle));
    }

    /// Begins again what ended and may, once somebody has seen it.
    pub(super) fn begin_again(&self, now_ms: u64) {
        let mut again = self.listener.again.lock().unwrap();
        let (due, later) = again.drain(..).partition(|(_, at)| *at <= now_ms);
        *again = later;
        drop(again);
        for (name, _) in due {
            let mut running = self.running.lock().unwrap();
            let Some(at) = running.iter().position(|(work, _)| work.name() == name) else { continue };
            let (work, _ended) = running.remove(at);
            drop(running);
            self.listener.diary.note(format!("{} begins {name} again", self.name));
            self.begin(work);
        }
    }

    pub(super) fn is_dead(&self) -> bool {
        self.process.is_dead()
    }

    pub(super) fn stopped_at_ms(&self) -> Option<u64> {
        self.process.stopped_at_ms()
    }

    pub(super) fn stop_for(&self, clock: &Arc<SimClock>, for_ms: u64) {
        stop(&self.process, clock, for_ms);
    }

    /// It meets with no accident any more, and goes on.
    pub(super) fn heal(&self) {
        self.process.take_traps();
        self.process.go_on();
    }

    pub(super) fn set_trap(&self, trap: Trap) {
        self.process.set_trap(trap);
    }

    pub(super) fn pause(&self, paused: bool) {
        for (_, handle) in &*self.running.lock().unwrap() {
            if paused { handle.pause() } else { handle.resume() }
        }
    }

    /// It is killed, if it is not dead yet; nothing of it remains.
    pub(super) fn vanish(self) {
        self.process.crash();
        if let Some(url) = &self.url {
            memory::place(url, None);
        }
    }

    /// Its work ends in order, and gives back its memory.
    pub(super) async fn end(self, clock: &Arc<SimClock>, diary: &Diary) {
        self.process.go_on();
        let running = std::mem::take(&mut *self.running.lock().unwrap());
        self.listener.stopping.store(true, Ordering::Relaxed);
        running.iter().for_each(|(_, handle)| handle.stop());
        let peace = self.listener.peace.lasts(clock);
        for (work, mut handle) in running {
            let ended = join(handle.as_mut(), clock).await;
            if peace && !ended && !self.is_dead() {
                diary.accuse(format!("liveness: {} {} does not stop when it is asked to", self.name, work.name()));
            }
        }
        let until = clock.ms() + 120_000;
        while self.budget.used() > 0 && clock.ms() < until && !self.is_dead() {
            clock.wait(200).await;
        }
        if self.budget.used() > 0 && !self.is_dead() {
            let (name, used) = (&self.name, self.budget.used());
            diary.accuse(format!("A7: {name} ends with {used} bytes of its budget unpaid"));
        }
        self.vanish();
    }
}

/// Carries out what the traps of a restoring process do.
fn striker(restore: &Restore<'_>, name: &str, process: &Arc<Process>) -> Striker {
    let (clock, diary) = (Arc::clone(&restore.clock), restore.diary.clone());
    let (name, process) = (name.to_owned(), Arc::downgrade(process));
    Arc::new(move |blow, hit| {
        let Some(process) = process.upgrade() else { return };
        diary.note(format!("{name} meets {blow:?} at an await: {hit}"));
        match blow {
            Blow::Crash => process.crash(),
            Blow::Stop { for_ms } => stop(&process, &clock, for_ms),
            Blow::Rebalance => {}
        }
    })
}
