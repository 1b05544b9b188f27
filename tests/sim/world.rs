//! One run: the cluster, the store and the workers of a plan, its steps, and then peace. When the faults have ceased,
//! every partition must be archived to its last stable offset within ten simulated minutes, with no restart and no
//! FAILED task; then the checker reads the store.

mod ahead;
pub(crate) mod alter;
mod gap;
pub(crate) mod parts;
mod pause;
mod steps;
mod sweep;
pub(crate) mod takeover;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use lakeferry::backing::memory::MemoryOffsetLog;
use lakeferry::plugins;
use lakeferry::random::Random;
use lakeferry::task::{Handle, Parts, TaskFactory as _, TaskId, TaskSpec, Tasks};
use lakeferry_api::simulation::host::Host as _;
use lakeferry_api::{Budget, TopicPartition};
use lakeferry_lake::store::memory;

pub(crate) use self::steps::stop;

use self::parts::{Disk, Listener, SlowExecutor, connector_config, join, worker_config};
use self::pause::Pauses;
use self::takeover::{Archivist, Archivists};
use crate::awaits::{Blow, Hit, Stretch, Trap};
use crate::broker::Broker;
use crate::broker::client::SimClients;
use crate::chance::{Diary, Dice};
use crate::clock::{self, SimClock};
use crate::plan::{Plan, Step};
use crate::process::Process;
use crate::rare::Reset;
use crate::store::{SimStore, spawn};

/// How long everything may take to come to rest, once the faults have ceased.
const REST_MS: u64 = 600_000;
/// How far the group's offset may lag behind the archive: the flush interval and then some.
const COMMIT_LAG_MS: u64 = 8_000;
/// A topic lives at least this long.
const RECREATED_AGAIN_MS: u64 = 60_000;
/// A record of so many bytes is large: a few of them make a file that is stored in parts.
pub(crate) const LARGE_BYTES: u64 = 1 << 20;
/// The size of a record of which half a dozen are encoded on the pool, beside the loop.
pub(crate) const POOLED_BYTES: u64 = 3_000;
/// Where reading begins at the end there are so many records that nobody archives.
const BEFORE_ANYBODY: u64 = 7;

/// See the module's documentation.
pub(crate) struct World {
    pub(crate) clock: Arc<SimClock>,
    pub(crate) dice: Arc<Dice>,
    pub(crate) diary: Diary,
    pub(crate) store: Arc<SimStore>,
    pub(crate) broker: Arc<Broker>,
    pub(crate) plan: Plan,
    /// Tells the stores of this run from those of others in this process.
    pub(crate) run: u64,
    /// The folder of everybody's disk.
    disks: PathBuf,
    workers: Vec<Worker>,
    /// Those of connectors that were deleted, whether or not they know.
    former: Vec<Worker>,
    /// The connector that archives now.
    archivist: Archivist,
    archivists: Archivists,
    /// How often the archive was taken over.
    generation: u64,
    written: u64,
    /// How many herders there were.
    herders: u64,
    /// The partitions of which an election took records back.
    cut_back: BTreeSet<TopicPartition>,
    /// The workers whose tasks are to fail where records are lost.
    failing_on_gap: Arc<Mutex<BTreeSet<String>>>,
    paused: Pauses,
    /// Until when the connector is paused, while it is.
    paused_until_ms: Option<u64>,
    /// What traps have struck.
    pub(crate) struck: Arc<Mutex<Vec<(Blow, Hit)>>>,
    /// The faults have ceased.
    peace: bool,
    /// When topics were deleted last.
    recreated: BTreeMap<String, u64>,
}

impl Drop for World {
    fn drop(&mut self) {
        // Else the stores of all runs are kept until the last has ended: by their names, and by their judges, who know
        // the cluster, which knows its store.
        self.store.dismiss_judge();
        let _ = std::fs::remove_dir_all(&self.disks);
        for worker in self.workers.iter().chain(&self.former) {
            memory::place(&self.url(&worker.name), None);
        }
    }
}

/// A worker, or where one will be again.
struct Worker {
    name: String,
    process: Arc<Process>,
    budget: Budget,
    handle: Option<Box<dyn Handle>>,
    lives: u64,
    up_at_ms: Option<u64>,
    /// Its task has failed for a gap.
    gave_up: Arc<AtomicBool>,
    /// Its task has failed because this owner archives here.
    refused: Arc<Mutex<Option<String>>>,
    /// The folder of its disk in this life, if it has one.
    disk: Option<PathBuf>,
}

impl Worker {
    /// Ends its task as a user does, and then its process.
    async fn end(&mut self, (clock, diary): (&Arc<SimClock>, &Diary), peace: bool) {
        let Some(mut handle) = self.handle.take() else { return };
        if let Some(bytes) = self.disk.as_deref().map(bytes_on_disk).filter(|bytes| *bytes > 0) {
            diary.note(format!("{} had up to {bytes} bytes on disk", self.name));
        }
        if self.process.is_dead() {
            return;
        }
        self.process.go_on();
        self.process.reach(Stretch::Release);
        handle.stop();
        let ended = join(handle.as_mut(), clock).await;
        if peace && !ended && !self.process.is_dead() {
            diary.accuse(format!("liveness: {} does not stop when it is asked to", self.name));
        }
        drop(handle);
        // What was given up beside the task may take a moment.
        let deadline = clock.ms() + 120_000;
        while self.budget.used() > 0 && clock.ms() < deadline && !self.process.is_dead() {
            clock.wait(200).await;
        }
        if self.budget.used() > 0 && !self.process.is_dead() {
            diary.accuse(format!("A7: {} ends with {} bytes of its budget unpaid", self.name, self.budget.used()));
        }
        self.process.crash();
    }
}

impl World {
    pub(crate) fn new(plan: &Plan, clock: &Arc<SimClock>, run: u64) -> Self {
        let dice = Arc::new(Dice::new(plan.seed ^ 0x5eed));
        let diary = Diary::new(Arc::clone(clock));
        let store = SimStore::new(Arc::clone(clock), Arc::clone(&dice), diary.clone());
        let broker = Broker::new(Arc::clone(clock), Arc::clone(&dice), Arc::clone(&store), plan.settings.eager);
        let workers = (0..plan.settings.workers).map(|at| Worker {
            name: format!("w{at}"),
            process: Arc::default(),
            budget: Budget::new(plan.settings.memory_bytes),
            handle: None,
            lives: 0,
            up_at_ms: Some(0),
            gave_up: Arc::default(),
            refused: Arc::default(),
            disk: None,
        });
        Self {
            clock: Arc::clone(clock),
            dice,
            diary,
            store,
            broker,
            plan: plan.clone(),
            run,
            disks: std::env::temp_dir().join(format!("lakeferry-sim-{}-{run}", std::process::id())),
            workers: workers.collect(),
            former: Vec::new(),
            archivist: Archivist::first(),
            archivists: Arc::default(),
            generation: 0,
            written: 0,
            herders: 0,
            cut_back: BTreeSet::new(),
            failing_on_gap: Arc::default(),
            paused: Pauses::default(),
            paused_until_ms: None,
            struck: Arc::default(),
            peace: false,
            recreated: BTreeMap::new(),
        }
    }

    /// Where the archive is, for one process.
    fn url(&self, name: &str) -> String {
        format!("memory:///run-{}-{name}", self.run)
    }

    /// Lives the plan to its end. What went wrong stands in the diary.
    pub(crate) async fn live(&mut self) {
        self.watch_writers();
        self.watch_group();
        self.broker.lock().reset = self.plan.settings.rare.reset;
        for (name, partitions, compacted) in self.plan.settings.topics.clone() {
            self.broker.create_topic(&name, partitions, compacted);
        }
        if self.plan.settings.rare.reset == Reset::Latest {
            for partition in self.broker.partitions() {
                self.produce(&partition, BEFORE_ANYBODY);
            }
        }
        self.set_faults(true);
        let is_of_restore = |(_, step): &(u64, Step)| matches!(step, Step::Restore(_));
        for (gap_ms, step) in self.plan.steps.clone().into_iter().filter(|step| !is_of_restore(step)) {
            self.pass(gap_ms).await;
            self.take(step).await;
            if self.diary.broken().is_some() {
                return;
            }
        }
        self.pass(2_000).await;
        self.heal().await;
        self.rest().await;
        self.stop().await;
        self.tidy_up().await;
    }

    /// Lets time go by; who is down comes up again.
    async fn pass(&mut self, ms: u64) {
        let until = self.clock.ms() + ms;
        loop {
            self.raise();
            let now = self.clock.ms();
            if now >= until {
                return;
            }
            self.clock.wait((until - now).min(250)).await;
        }
    }

    fn raise(&mut self) {
        self.hear_refusals();
        self.resume(false);
        let now = self.clock.ms();
        for at in 0..self.workers.len() {
            let worker = &mut self.workers[at];
            if worker.handle.is_some() && worker.gave_up.load(Ordering::Relaxed) {
                // Its user has seen it.
                worker.process.crash();
            }
            if worker.handle.is_some() && worker.process.is_dead() {
                worker.handle = None;
                let down_ms = self.dice.between(100, 15_000);
                worker.up_at_ms = Some(now + down_ms);
            }
            if worker.up_at_ms.is_some_and(|at| now >= at) {
                self.start(at);
            }
        }
    }

    fn start(&mut self, at: usize) {
        let settings = self.plan.settings.clone();
        let worker = &mut self.workers[at];
        worker.lives += 1;
        worker.up_at_ms = None;
        let process = Arc::<Process>::default();
        // What the one before did not come to waits for this one.
        worker.process.take_traps().into_iter().filter(Trap::is_idle).for_each(|trap| process.set_trap(trap));
        worker.process = process;
        worker.budget = Budget::new(settings.memory_bytes);
        let (name, process) = (worker.name.clone(), Arc::clone(&worker.process));
        let (budget, lives) = (worker.budget.clone(), worker.lives);
        // Whoever sees a task that has failed for a gap lets one life of it record the gap.
        let gave_up = std::mem::take(&mut worker.gave_up).load(Ordering::Relaxed);
        let fails_on_gap = settings.rare.fails_on_gap && !gave_up;
        let (hears, refused) = (Arc::clone(&worker.gave_up), Arc::default());
        worker.refused = Arc::clone(&refused);
        let archivist = self.archivist.clone();
        self.archivists.lock().unwrap().insert(name.clone(), archivist.clone());
        self.fail_on_gap(&name, fails_on_gap);
        self.paused.forget(&name);
        self.diary.note(format!("{name} starts"));
        let disk = self.disk(&name, lives);
        self.workers[at].disk = disk.as_ref().map(|(folder, _)| folder.clone());
        process.set_striker(self.striker(&name, &process));
        let url = self.url(&name);
        memory::place(&url, Some(self.store.client(&name, &process)));
        let clients =
            SimClients { broker: Arc::clone(&self.broker), process: Arc::clone(&process), worker: name.clone() };
        let seed = self.plan.seed.wrapping_mul(31).wrapping_add(at as u64 * 1_000 + lives);
        let parts = Parts {
            catalog: Arc::new(plugins::catalog()),
            worker: Arc::new(worker_config(disk)),
            worker_id: format!("{name}:8083"),
            clients: Arc::new(clients),
            offsets: Arc::new(MemoryOffsetLog::default()),
            clock: Arc::new(clock::Shared(Arc::clone(&self.clock))),
            executor: Arc::new(SlowExecutor {
                clock: Arc::clone(&self.clock),
                process: Arc::clone(&process),
                ms: settings.encode_ms,
            }),
            budget,
            random: Arc::new(Random::seeded(seed)),
        };
        let config = connector_config(&settings, &archivist, &url, fails_on_gap);
        let spec = TaskSpec {
            id: TaskId { connector: archivist.connector.to_owned(), task: at as u32 },
            connector_config: config.clone(),
            task_config: config,
            paused: self.paused_until_ms.is_some(),
        };
        let _inside = process.enter();
        let (broker, diary) = (Arc::clone(&self.broker), self.diary.clone());
        let (paused, process) = (self.paused.clone(), Arc::downgrade(&process));
        let (worker, gave_up) = (name, hears);
        let listener = Arc::new(Listener { broker, diary, worker, gave_up, archivist, refused, paused, process });
        self.workers[at].handle = Some(Tasks::new(parts).spawn(spec, listener).unwrap());
    }

    /// Where a worker may put what its open files hold, in one of its lives: nobody finds what the one before left.
    fn disk(&self, worker: &str, lives: u64) -> Disk {
        let mib = self.plan.settings.rare.spill_mib?;
        let folder = self.disks.join(format!("{worker}.{lives}"));
        std::fs::create_dir_all(&folder).unwrap();
        Some((folder, mib << 20))
    }

    fn fail_on_gap(&self, worker: &str, fails: bool) {
        let mut failing = self.failing_on_gap.lock().unwrap();
        if fails {
            failing.insert(worker.to_owned())
        } else {
            failing.remove(worker)
        };
    }

    fn set_faults(&self, on: bool) {
        let settings = &self.plan.settings;
        self.store.set_faults(if on { settings.store_faults } else { 0 });
        let mut state = self.broker.lock();
        state.faults = if on { settings.broker_faults } else { 0 };
        state.lags = on && settings.rare.lags;
    }

    /// The faults cease: everybody is there and answers, and no transaction stays open.
    async fn heal(&mut self) {
        self.diary.note("peace");
        self.peace = true;
        self.resume(true);
        self.set_faults(false);
        self.store.cancel_accidents();
        self.store.set_away(false);
        self.broker.lock().away = false;
        self.broker.tell();
        for worker in &mut self.workers {
            worker.process.go_on();
            worker.process.take_traps();
            if let Some(at) = &mut worker.up_at_ms {
                *at = 0;
            }
        }
        // Topics that are to come back, come.
        self.stop_former().await;
        self.pass(8_000).await;
        for partition in self.broker.partitions() {
            self.broker.end_transactions(&partition, true);
        }
    }

    /// Waits until everything is archived.
    async fn rest(&mut self) {
        let until = self.clock.ms() + REST_MS;
        loop {
            self.pass(500).await;
            if self.diary.broken().is_some() {
                return;
            }
            let unfinished = self.unfinished();
            match unfinished.first() {
                None => return,
                Some(first) if self.clock.ms() >= until => {
                    return self.diary.accuse(format!("liveness: after ten minutes of peace {first}"));
                }
                Some(_) => {}
            }
        }
    }

    /// What is not archived to its last stable offset, or whose chain does not end with the incarnation of now.
    fn unfinished(&self) -> Vec<String> {
        let state = self.broker.lock();
        let begins_at = |partition: &TopicPartition, stable| {
            state.reset == Reset::Latest && state.committed().get(partition) == Some(&stable)
        };
        let behind = |partition: TopicPartition| {
            let topic = &state.topics[&*partition.topic];
            let log = &topic.logs[partition.partition as usize];
            let stable = log.stable();
            match self.store.end(&partition) {
                // Nothing is to be archived, or a user said so.
                None if stable == 0 || log.start() == stable => None,
                None if state.committed().get(&partition) == Some(&stable) => None,
                Some((id, None)) if id.as_deref() == Some(&topic.id) && log.start() == stable => None,
                Some((id, None)) if id.as_deref() == Some(&topic.id) && begins_at(&partition, stable) => None,
                Some((id, Some(resume))) if id.as_deref() == Some(&topic.id) && resume == stable => None,
                end => Some(format!("{partition} ({}) stands at {end:?}, stable is {stable}", topic.id)),
            }
        };
        state.partitions().into_iter().filter_map(behind).collect()
    }

    async fn stop(&mut self) {
        if self.diary.broken().is_some() {
            return;
        }
        // Who is given a partition while the others leave would have no time to find out that a broker lagged behind.
        self.broker.lock().stale_until_ms.clear();
        for at in 0..self.workers.len() {
            self.shut_down(at).await;
        }
    }

    async fn shut_down(&mut self, at: usize) {
        let (clock, diary) = (Arc::clone(&self.clock), self.diary.clone());
        self.workers[at].end((&clock, &diary), self.peace).await;
    }
    /// Whoever handed a partition over publishes nothing of it any more.
    fn watch_writers(&self) {
        let (broker, failing) = (Arc::clone(&self.broker), Arc::clone(&self.failing_on_gap));
        let (archivists, paused) = (Arc::clone(&self.archivists), self.paused.clone());
        self.store.set_judge(Arc::new(move |worker, entry| {
            Self::judge_owner(&broker.store, &archivists, worker, entry);
            let (Some(topic), Some(number)) =
                (entry["source"]["topic"].as_str(), entry["source"]["partition"].as_i64())
            else {
                return;
            };
            let partition = TopicPartition::new(topic, number as i32);
            let (why, first) = (&entry["source"]["started_by"], &entry["source"]["first"]);
            if entry["kind"] == "open" && (*why == "latest" || broker.lock().reset == Reset::None) {
                broker.diary.note(format!("{worker} opens {partition}, begun at {first} by {why}"));
            }
            let (connector, task) =
                (entry["writer"]["connector"].as_str().unwrap_or_default(), &entry["writer"]["task"]);
            let member = format!("{worker}/connector-consumer-{connector}-{task}");
            if let Some(wrong) = gap::wrong_start(&broker, &partition, entry) {
                broker.diary.accuse(format!("{worker} {wrong}"));
            }
            if let Some(gap) = gap::recorded(entry).filter(|_| failing.lock().unwrap().contains(worker)) {
                broker.diary.accuse(format!("{worker} passes over {gap} of {partition} with errors.on.gap=fail"));
            }
            if let Some(wrong) = paused.wrong(worker, &partition, entry) {
                broker.diary.accuse(format!("{worker} {wrong}"));
            }
            if broker.lock().groups.values().any(|group| group.has_handed_over(&member, &partition)) {
                broker.diary.accuse(format!("{member} writes an entry of {partition} after it handed it over"));
            }
        }));
    }

    /// The coordinator looks after its members.
    fn watch_group(&self) {
        let broker = Arc::clone(&self.broker);
        spawn(async move {
            loop {
                broker.clock.wait(500).await;
                let mut state = broker.lock();
                let changed: Vec<bool> = state.groups.values_mut().map(|group| group.expel(&broker)).collect();
                let changed = changed.contains(&true);
                if changed {
                    state.rebalance(&broker);
                }
                drop(state);
                if changed {
                    broker.tell();
                }
            }
        });
    }
}

/// The most that this process had in the files of a folder at once: they have no name, but it holds them open.
fn bytes_on_disk(folder: &Path) -> u64 {
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten().map(|entry| entry.path());
    let ours = open.filter(|fd| std::fs::read_link(fd).is_ok_and(|file| file.starts_with(folder)));
    ours.filter_map(|fd| std::fs::metadata(fd).ok()).map(|file| file.len()).sum()
}
