//! One life of the restoring process: all tasks of all connectors of a restore, with clients, store and memory of their
//! own. A task whose transactional id was taken from it may fail and is begun again here; any other failure breaks a law.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lakeferry::backing::memory::MemoryOffsetLog;
use lakeferry::plugins;
use lakeferry::random::Random;
use lakeferry::task::{Handle, Parts, State, StatusListener, TaskFactory as _, TaskId, TaskSpec, Tasks};
use lakeferry_api::simulation::host::Host as _;
use lakeferry_api::{Budget, Config};
use lakeferry_lake::store::memory;

use super::{Job, Restore};
use crate::broker::Broker;
use crate::broker::client::SimClients;
use crate::chance::Diary;
use crate::clock::{self, SimClock};
use crate::process::Process;
use crate::store::spawn;
use crate::world::parts::{SlowExecutor, config, worker_config};

const CLASS: &str = "io.lakeferry.LakeSourceConnector";
const MEMORY_BYTES: u64 = 16 << 20;
/// After which a user has seen that a task failed.
const NOTICED_MS: u64 = 2_000;

/// See the module's documentation.
pub(super) struct Instance {
    pub(super) name: String,
    process: Arc<Process>,
    budget: Budget,
    url: String,
    tasks: Tasks,
    listener: Arc<Listener>,
    running: Mutex<Vec<(TaskSpec, Box<dyn Handle>)>>,
}

/// Hears what becomes of the tasks.
struct Listener {
    process: String,
    diary: Diary,
    target: Arc<Broker>,
    /// Which tasks are to be begun again, and when.
    fenced: Mutex<Vec<(TaskId, u64)>>,
}

impl Instance {
    /// The next life.
    pub(super) fn start(restore: &Restore<'_>) -> Self {
        let world = restore.world;
        let name = format!("r{}", restore.lives);
        restore.diary.note(format!("{name} starts"));
        let process = Arc::<Process>::default();
        let url = format!("memory:///run-{}-{name}", world.run);
        memory::place(&url, Some(world.store.client(&name, &process)));
        let clients =
            SimClients { broker: Arc::clone(&restore.target), process: Arc::clone(&process), worker: name.clone() };
        let budget = Budget::new(MEMORY_BYTES);
        let encode_ms = world.plan.settings.encode_ms.min(3);
        let tasks = Tasks::new(Parts {
            catalog: Arc::new(plugins::catalog()),
            worker: Arc::new(worker_config()),
            worker_id: format!("{name}:8083"),
            clients: Arc::new(clients),
            offsets: Arc::new(MemoryOffsetLog::default()),
            clock: Arc::new(clock::Shared(Arc::clone(&restore.clock))),
            executor: Arc::new(SlowExecutor {
                clock: Arc::clone(&restore.clock),
                process: Arc::clone(&process),
                ms: encode_ms,
            }),
            budget: budget.clone(),
            random: Arc::new(Random::seeded(world.plan.seed.wrapping_mul(31).wrapping_add(restore.lives))),
        });
        let listener = Arc::new(Listener {
            process: name.clone(),
            diary: restore.diary.clone(),
            target: Arc::clone(&restore.target),
            fenced: Mutex::default(),
        });
        let instance = Self { name, process, budget, url, tasks, listener, running: Mutex::default() };
        for job in &restore.jobs {
            instance.begin(restore, job);
        }
        instance
    }

    /// All tasks of a connector, as a herder begins them.
    fn begin(&self, restore: &Restore<'_>, job: &Job) {
        let config = connector_config(restore, job, &self.url);
        let mut connector = plugins::catalog().connector(CLASS).unwrap();
        futures::executor::block_on(connector.start(&config)).unwrap();
        for (task, task_config) in (0..).zip(connector.task_configs(restore.conditions.tasks).unwrap()) {
            let id = TaskId { connector: job.connector.to_owned(), task };
            self.spawn(TaskSpec { id, connector_config: config.clone(), task_config, paused: false });
        }
    }

    fn spawn(&self, spec: TaskSpec) {
        let _inside = self.process.enter();
        let listener = Arc::clone(&self.listener) as Arc<dyn StatusListener>;
        let handle = self.tasks.spawn(spec.clone(), listener).unwrap();
        self.running.lock().unwrap().push((spec, handle));
    }

    /// Begins fenced tasks again, once somebody has seen that they failed.
    pub(super) fn begin_again(&self, now_ms: u64) {
        let mut fenced = self.listener.fenced.lock().unwrap();
        let (due, later) = fenced.drain(..).partition(|(_, at)| *at <= now_ms);
        *fenced = later;
        drop(fenced);
        for (id, _) in due {
            let mut running = self.running.lock().unwrap();
            let Some(at) = running.iter().position(|(spec, _)| spec.id == id) else { continue };
            let (spec, _ended) = running.remove(at);
            drop(running);
            self.listener.diary.note(format!("{} begins {id} again", self.name));
            self.spawn(spec);
        }
    }

    pub(super) fn is_dead(&self) -> bool {
        self.process.is_dead()
    }

    pub(super) fn stopped_at_ms(&self) -> Option<u64> {
        self.process.stopped_at_ms()
    }

    pub(super) fn stop_for(&self, clock: &Arc<SimClock>, for_ms: u64) {
        self.process.stop(clock.ms());
        let (clock, process) = (Arc::clone(clock), Arc::clone(&self.process));
        spawn(async move {
            clock.wait(for_ms).await;
            process.go_on();
        });
    }

    pub(super) fn go_on(&self) {
        self.process.go_on();
    }

    pub(super) fn pause(&self, paused: bool) {
        for (_, handle) in &*self.running.lock().unwrap() {
            if paused { handle.pause() } else { handle.resume() }
        }
    }

    /// It is killed, if it is not dead yet; nothing of it remains.
    pub(super) fn vanish(self) {
        self.process.crash();
        memory::place(&self.url, None);
    }

    /// Its tasks end in order, and give back their memory.
    pub(super) async fn end(self, clock: &Arc<SimClock>, diary: &Diary) {
        self.process.go_on();
        let running = std::mem::take(&mut *self.running.lock().unwrap());
        running.iter().for_each(|(_, handle)| handle.stop());
        for (_, mut handle) in running {
            handle.join(Duration::from_secs(30)).await;
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

fn connector_config(restore: &Restore<'_>, job: &Job, url: &str) -> Config {
    let conditions = &restore.conditions;
    let (tasks, transaction_ms) = (conditions.tasks.to_string(), conditions.transaction_ms.to_string());
    let mut connector = config(&[
        ("name", job.connector),
        ("connector.class", CLASS),
        ("tasks.max", &tasks),
        ("store.url", url),
        ("replay.order", if conditions.by_time { "time" } else { "partition" }),
        ("transaction.boundary", "interval"),
        ("transaction.boundary.interval.ms", &transaction_ms),
    ]);
    connector.extend(restore.rate.map(|rate| ("replay.rate.bytes".to_owned(), rate.to_string())));
    connector.extend(job.more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    connector
}

impl StatusListener for Listener {
    fn task_changed(&self, id: &TaskId, state: State, trace: Option<String>) {
        let trace = trace.unwrap_or_default();
        self.diary.note(format!("{} {id} is {} {trace}", self.process, state.name()));
        if state != State::Failed {
            return;
        }
        let transactional_id = format!("lakeferry-source-{id}");
        if self.target.lock().coordinator.is_taken_from(&self.process, &transactional_id) {
            let at = self.target.clock.ms() + NOTICED_MS;
            self.fenced.lock().unwrap().push((id.clone(), at));
        } else {
            self.diary.accuse(format!("{} {id} FAILED: {trace}", self.process));
        }
    }

    fn topic_used(&self, _: &TaskId, _: &str) {}
}
