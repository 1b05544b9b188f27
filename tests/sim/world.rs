//! One run: the cluster, the store and the workers of a plan, its steps, and then peace. When the faults have ceased,
//! every partition must be archived to its last stable offset within ten simulated minutes, with no restart and no FAILED
//! task; then the checker reads the store.

mod ahead;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lakeferry::backing::memory::MemoryOffsetLog;
use lakeferry::config::WorkerConfig;
use lakeferry::plugins;
use lakeferry::random::Random;
use lakeferry::task::{Handle, Parts, State, StatusListener, TaskFactory as _, TaskId, TaskSpec, Tasks};
use lakeferry_api::simulation::host::Host as _;
use lakeferry_api::{Budget, Config, Executor, TopicPartition};
use lakeferry_lake::store::memory;

use crate::broker::Broker;
use crate::broker::client::SimClients;
use crate::broker::log::Rec;
use crate::chance::{Diary, Dice};
use crate::clock::{self, SimClock};
use crate::plan::{Plan, Settings, Step};
use crate::process::Process;
use crate::store::{Accident, Point, SimStore, spawn};

/// How long everything may take to come to rest, once the faults have ceased.
const REST_MS: u64 = 600_000;
/// How far the group's offset may lag behind the archive: the flush interval and then some.
const COMMIT_LAG_MS: u64 = 8_000;
/// A topic lives at least this long.
const RECREATED_AGAIN_MS: u64 = 60_000;
const CONNECTOR: &str = "sink";

/// See the module's documentation.
pub(crate) struct World {
    pub(crate) clock: Arc<SimClock>,
    pub(crate) dice: Arc<Dice>,
    pub(crate) diary: Diary,
    pub(crate) store: Arc<SimStore>,
    pub(crate) broker: Arc<Broker>,
    plan: Plan,
    /// Tells the stores of this run from those of others in this process.
    run: u64,
    workers: Vec<Worker>,
    written: u64,
    /// The partitions of which an election took records back.
    cut_back: BTreeSet<TopicPartition>,
    /// When topics were deleted last.
    recreated: BTreeMap<String, u64>,
}

/// A worker, or where one will be again.
struct Worker {
    name: String,
    process: Arc<Process>,
    budget: Budget,
    handle: Option<Box<dyn Handle>>,
    lives: u64,
    up_at_ms: Option<u64>,
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
        });
        Self {
            clock: Arc::clone(clock),
            dice,
            diary,
            store,
            broker,
            plan: plan.clone(),
            run,
            workers: workers.collect(),
            written: 0,
            cut_back: BTreeSet::new(),
            recreated: BTreeMap::new(),
        }
    }

    /// Lives the plan to its end. What went wrong stands in the diary.
    pub(crate) async fn live(&mut self) {
        self.watch_writers();
        self.watch_group();
        for (name, partitions, compacted) in self.plan.settings.topics.clone() {
            self.broker.create_topic(&name, partitions, compacted);
        }
        self.set_faults(true);
        for (gap_ms, step) in self.plan.steps.clone() {
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
        let now = self.clock.ms();
        for at in 0..self.workers.len() {
            let worker = &mut self.workers[at];
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
        worker.process = Arc::default();
        worker.budget = Budget::new(settings.memory_bytes);
        let (name, process) = (worker.name.clone(), Arc::clone(&worker.process));
        self.diary.note(format!("{name} starts"));
        let url = format!("memory:///run-{}-{name}", self.run);
        memory::place(&url, Some(self.store.client(&name, &process)));
        let clients =
            SimClients { broker: Arc::clone(&self.broker), process: Arc::clone(&process), worker: name.clone() };
        let seed = self.plan.seed.wrapping_mul(31).wrapping_add(at as u64 * 1_000 + worker.lives);
        let parts = Parts {
            catalog: Arc::new(plugins::catalog()),
            worker: Arc::new(worker_config()),
            worker_id: format!("{name}:8083"),
            clients: Arc::new(clients),
            offsets: Arc::new(MemoryOffsetLog::default()),
            clock: Arc::new(clock::Shared(Arc::clone(&self.clock))),
            executor: Arc::new(SlowExecutor { clock: Arc::clone(&self.clock), ms: settings.encode_ms }),
            budget: worker.budget.clone(),
            random: Arc::new(Random::seeded(seed)),
        };
        let config = connector_config(&settings, &url);
        let spec = TaskSpec {
            id: TaskId { connector: CONNECTOR.to_owned(), task: at as u32 },
            connector_config: config.clone(),
            task_config: config,
            paused: false,
        };
        let _inside = process.enter();
        let listener = Arc::new(Listener { diary: self.diary.clone(), worker: name });
        worker.handle = Some(Tasks::new(parts).spawn(spec, listener).unwrap());
    }

    async fn take(&mut self, step: Step) {
        self.diary.note(format!("step {step:?}"));
        match step {
            Step::Produce { partition, records, bytes, end } => {
                let Some(partition) = self.partition(partition) else { return };
                let records = (0..records).map(|_| self.record(&partition, bytes)).collect();
                self.broker.produce(&partition, records, end);
            }
            Step::EndTransactions { partition, commit } => {
                let Some(partition) = self.partition(partition) else { return };
                self.broker.end_transactions(&partition, commit);
            }
            Step::Elect { partition, lost } => {
                let Some(partition) = self.partition(partition) else { return };
                let end = self.broker.lock().peek(&partition).map_or(0, |log| log.end());
                // Of files ahead, and where no record was read yet, no manifest of version 1 remembers a leader epoch: a log
                // that is cut back below them and grows again before anybody looks cannot be told from the old one.
                let lost = if self.store.is_unmarked(&partition) { 0 } else { lost };
                if lost > 0 {
                    self.cut_back.insert(partition.clone());
                }
                self.broker.elect(&partition, (lost > 0).then(|| (end - lost as i64).max(0)));
            }
            Step::RemoveRecords { partition, per_mille } => {
                let Some(partition) = self.partition(partition) else { return };
                self.broker.change(&partition, "loses its oldest records", |log| {
                    let width = log.stable() - log.start();
                    log.remove_before(log.start() + (width * per_mille as i64 / 1000).min(width));
                });
            }
            Step::Compact { topic } => self.compact(topic),
            Step::Recreate { topic, after_ms } => self.recreate(topic, after_ms),
            Step::AddPartition { topic } => {
                if let Some(name) = self.topic(topic) {
                    self.broker.add_partition(&name);
                }
            }
            Step::ForgetOffsets => self.broker.lock().committed.clear(),
            Step::Rebalance => {
                self.broker.lock().rebalance(&self.broker);
                self.broker.tell();
            }
            Step::PublishAhead { partition, per_mille } => self.publish_ahead(partition, per_mille).await,
            Step::Torrent { partition, for_ms } => self.torrent(partition, for_ms).await,
            step => self.disturb(step).await,
        }
    }

    /// What happens to processes and services.
    async fn disturb(&mut self, step: Step) {
        match step {
            Step::Crash { worker, down_ms } => {
                let up = self.clock.ms() + down_ms;
                let worker = self.worker(worker);
                worker.process.crash();
                worker.handle = None;
                worker.up_at_ms = Some(up);
            }
            Step::Meet { worker, point, accident } => {
                let name = self.worker(worker).name.clone();
                self.store.arrange(&name, point, accident);
            }
            Step::Doubt { partition, for_ms } => self.doubt(partition, for_ms).await,
            Step::Race { partition } => self.race(partition).await,
            Step::Stop { worker, for_ms } => {
                let now = self.clock.ms();
                let process = Arc::clone(&self.worker(worker).process);
                process.stop(now);
                let clock = Arc::clone(&self.clock);
                spawn(async move {
                    clock.wait(for_ms).await;
                    process.go_on();
                });
            }
            Step::ShutDown { worker, down_ms } => {
                let at = (worker % self.workers.len() as u64) as usize;
                self.shut_down(at).await;
                self.workers[at].up_at_ms = Some(self.clock.ms() + down_ms);
            }
            Step::StoreAway { for_ms } => {
                self.store.set_away(true);
                let (clock, store) = (Arc::clone(&self.clock), Arc::clone(&self.store));
                spawn(async move {
                    clock.wait(for_ms).await;
                    store.set_away(false);
                });
            }
            Step::BrokerAway { for_ms } => {
                self.broker.lock().away = true;
                let (clock, broker) = (Arc::clone(&self.clock), Arc::clone(&self.broker));
                spawn(async move {
                    clock.wait(for_ms).await;
                    broker.lock().away = false;
                    broker.tell();
                });
            }
            _ => {}
        }
    }

    /// Everybody stops; then the archive is as if files had ended out of order, and the log may begin behind them.
    async fn publish_ahead(&mut self, partition: u64, per_mille: u64) {
        let Some(partition) = self.partition(partition).filter(|partition| !self.cut_back.contains(partition)) else {
            return;
        };
        for at in 0..self.workers.len() {
            self.shut_down(at).await;
            self.workers[at].up_at_ms = Some(self.clock.ms() + 100);
        }
        // What is on its way lands.
        self.clock.wait(70_000).await;
        if let Some(resume) = ahead::publish_ahead(&self.store, &partition).await {
            self.diary.note(format!("{partition} has files ahead of {resume}"));
            let mut state = self.broker.lock();
            if let Some(committed) = state.committed.get_mut(&partition) {
                *committed = resume.min(*committed);
            }
            drop(state);
            self.broker.change(&partition, "loses its oldest records", |log| {
                log.remove_before(resume + (log.stable() - resume) * per_mille.saturating_sub(500) as i64 / 1_000);
            });
        }
    }

    /// Records come faster than they are archived: what is due by the clock happens all the same.
    async fn torrent(&mut self, partition: u64, for_ms: u64) {
        let Some(partition) = self.partition(partition) else { return };
        let until = self.clock.ms() + for_ms;
        self.broker.lock().torrent = true;
        let mut durable = Vec::new();
        while self.clock.ms() < until {
            let records = (0..400).map(|_| self.record(&partition, 10)).collect();
            self.broker.produce(&partition, records, None);
            self.pass(200).await;
            durable.push((self.clock.ms(), self.store.resume(&partition).unwrap_or(0)));
        }
        self.broker.lock().torrent = false;
        let committed = self.broker.lock().committed.get(&partition).copied().unwrap_or(0);
        let due = durable.iter().rev().find(|(at, _)| at + COMMIT_LAG_MS < until).map_or(0, |(_, resume)| *resume);
        if committed < due {
            self.diary.accuse(format!("{partition} is committed at {committed}, was durable to {due} long ago"));
        }
    }

    async fn doubt(&mut self, partition: u64, for_ms: u64) {
        let Some((partition, owner)) = self.owned(partition) else { return };
        self.store.arrange(&owner, Point::BeforeManifest, Accident::Late { for_ms });
        for _ in 0..6 {
            self.produce(&partition, self.plan.settings.flush_size + 1);
            self.clock.wait(35).await;
        }
    }

    async fn race(&mut self, partition: u64) {
        let Some((partition, owner)) = self.owned(partition) else { return };
        self.store.arrange(&owner, Point::BeforeManifest, Accident::Stop { for_ms: 15_000 });
        self.produce(&partition, self.plan.settings.flush_size + 1);
        self.pass(17_000).await;
        self.produce(&partition, self.plan.settings.flush_size + 1);
    }

    fn produce(&mut self, partition: &TopicPartition, records: u64) {
        let records = (0..records).map(|_| self.record(partition, 10)).collect();
        self.broker.produce(partition, records, None);
    }

    /// A partition and the worker that has it.
    fn owned(&self, partition: u64) -> Option<(TopicPartition, String)> {
        let partition = self.partition(partition)?;
        let state = self.broker.lock();
        let member = &state.group.members[state.group.owner.get(&partition)?];
        let worker = member.name.split('/').next()?.to_owned();
        Some((partition.clone(), worker))
    }

    fn compact(&mut self, topic: u64) {
        let Some(name) = self.topic(topic) else { return };
        let dice = Arc::clone(&self.dice);
        let mut state = self.broker.lock();
        if let Some(topic) = state.topics.get_mut(&name).filter(|topic| topic.compacted) {
            topic.logs.iter_mut().for_each(|log| log.compact(|| dice.hits(300)));
        }
    }

    /// Deletes a topic and creates it again. Not twice in a short time: what is read of a topic that is gone when its entry
    /// is due is published, for nobody could read it again, so an incarnation that came and went in between would be
    /// taken for the one before.
    fn recreate(&mut self, topic: u64, after_ms: u64) {
        let now = self.clock.ms();
        let rested = |name: &String| self.recreated.get(name).is_none_or(|at| now > at + RECREATED_AGAIN_MS);
        let Some(name) = self.topic(topic).filter(rested) else { return };
        self.recreated.insert(name.clone(), now);
        let (partitions, compacted) = {
            let state = self.broker.lock();
            let topic = &state.topics[&name];
            (topic.logs.len(), topic.compacted)
        };
        self.broker.delete_topic(&name);
        let (clock, broker) = (Arc::clone(&self.clock), Arc::clone(&self.broker));
        spawn(async move {
            clock.wait(after_ms).await;
            broker.create_topic(&name, partitions, compacted);
        });
    }

    /// A record that no other is equal to.
    fn record(&mut self, partition: &TopicPartition, bytes: u64) -> Rec {
        self.written += 1;
        let text = format!("{partition} #{}", self.written);
        let mut value = text.clone().into_bytes();
        value.resize(value.len() + bytes as usize, b'.');
        let headers = [("h".to_owned(), None), ("h".to_owned(), Some(Bytes::from(text.clone())))];
        Rec {
            key: (!self.written.is_multiple_of(3)).then(|| Bytes::from(text)),
            value: (!self.written.is_multiple_of(7)).then(|| Bytes::from(value)),
            headers: if self.written.is_multiple_of(4) { headers.to_vec() } else { Vec::new() },
            timestamp: 1_600_000_000_000 + (self.written as i64 * 7_919) % 100_000,
        }
    }

    fn partition(&self, number: u64) -> Option<TopicPartition> {
        let all: Vec<_> = self.broker.partitions().into_iter().collect();
        (!all.is_empty()).then(|| all[(number % all.len() as u64) as usize].clone())
    }

    fn topic(&self, number: u64) -> Option<String> {
        let names: Vec<String> = self.broker.lock().topics.keys().cloned().collect();
        (!names.is_empty()).then(|| names[(number % names.len() as u64) as usize].clone())
    }

    fn worker(&mut self, number: u64) -> &mut Worker {
        let at = (number % self.workers.len() as u64) as usize;
        &mut self.workers[at]
    }

    fn set_faults(&self, on: bool) {
        let settings = &self.plan.settings;
        self.store.set_faults(if on { settings.store_faults } else { 0 });
        self.broker.lock().faults = if on { settings.broker_faults } else { 0 };
    }

    /// The faults cease: everybody is there and answers, and no transaction stays open.
    async fn heal(&mut self) {
        self.diary.note("peace");
        self.set_faults(false);
        self.store.cancel_accidents();
        self.store.set_away(false);
        self.broker.lock().away = false;
        self.broker.tell();
        for worker in &mut self.workers {
            worker.process.go_on();
            if let Some(at) = &mut worker.up_at_ms {
                *at = 0;
            }
        }
        // Topics that are to come back, come.
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

    /// What is not archived to its last stable offset.
    fn unfinished(&self) -> Vec<String> {
        let state = self.broker.lock();
        let behind = |partition: TopicPartition| {
            let topic = &state.topics[&*partition.topic];
            let log = &topic.logs[partition.partition as usize];
            let stable = log.stable();
            match self.store.end(&partition) {
                None if stable == 0 || log.start() == stable => None,
                Some((id, Some(resume))) if id.as_deref() == Some(&topic.id) && resume == stable => None,
                Some((id, _)) if id.as_deref() != Some(&topic.id) && log.start() == stable => None,
                end => Some(format!("{partition} ({}) stands at {end:?}, stable is {stable}", topic.id)),
            }
        };
        state.partitions().into_iter().filter_map(behind).collect()
    }

    async fn stop(&mut self) {
        if self.diary.broken().is_some() {
            return;
        }
        for at in 0..self.workers.len() {
            self.shut_down(at).await;
        }
    }

    async fn shut_down(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        let Some(mut handle) = worker.handle.take() else { return };
        if worker.process.is_dead() {
            return;
        }
        worker.process.go_on();
        handle.stop();
        handle.join(Duration::from_secs(30)).await;
        drop(handle);
        // What was given up beside the task may take a moment.
        let deadline = self.clock.ms() + 120_000;
        while worker.budget.used() > 0 && self.clock.ms() < deadline && !worker.process.is_dead() {
            self.clock.wait(200).await;
        }
        if worker.budget.used() > 0 && !worker.process.is_dead() {
            self.diary.accuse(format!(
                "A7: {} ends with {} bytes of its budget unpaid",
                worker.name,
                worker.budget.used()
            ));
        }
        worker.process.crash();
    }

    /// Whoever handed a partition over publishes nothing of it any more.
    fn watch_writers(&self) {
        let broker = Arc::clone(&self.broker);
        self.store.set_judge(Arc::new(move |worker, entry| {
            let (Some(topic), Some(number)) =
                (entry["source"]["topic"].as_str(), entry["source"]["partition"].as_i64())
            else {
                return;
            };
            let partition = TopicPartition::new(topic, number as i32);
            let member = format!("{worker}/connector-consumer-{CONNECTOR}-{}", entry["writer"]["task"]);
            if broker.lock().group.has_handed_over(&member, &partition) {
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
                let changed = state.group.expel(&broker);
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

fn worker_config() -> WorkerConfig {
    let settings = [
        ("bootstrap.servers", "sim:9092"),
        ("key.converter", "org.apache.kafka.connect.converters.ByteArrayConverter"),
        ("value.converter", "org.apache.kafka.connect.converters.ByteArrayConverter"),
        ("offset.storage.file.filename", "unused"),
        ("offset.flush.interval.ms", "3000"),
        ("task.shutdown.graceful.timeout.ms", "20000"),
        ("lakeferry.spill.dir", ""),
    ];
    WorkerConfig::standalone(&config(&settings)).unwrap()
}

fn connector_config(settings: &Settings, url: &str) -> Config {
    let mut connector = config(&[
        ("name", CONNECTOR),
        ("connector.class", "io.lakeferry.LakeSinkConnector"),
        ("topics.regex", "t.*"),
        ("store.url", url),
        ("lakeferry.part.bytes", "5242880"),
        ("codec", "none"),
    ]);
    let format = if settings.avro { "archive.avro" } else { "archive.parquet" };
    connector.insert("format".to_owned(), format.to_owned());
    connector.insert("flush.size".to_owned(), settings.flush_size.to_string());
    connector.insert("rotate.age.ms".to_owned(), settings.age_ms.to_string());
    connector
}

fn config(pairs: &[(&str, &str)]) -> Config {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>()
}

/// An encode pool whose jobs take a while.
struct SlowExecutor {
    clock: Arc<SimClock>,
    ms: u64,
}

impl Executor for SlowExecutor {
    fn execute(&self, job: Box<dyn FnOnce() + Send>) {
        if self.ms == 0 {
            return job();
        }
        let pause = self.clock.wait(self.ms);
        spawn(async move {
            pause.await;
            job();
        });
    }
}

struct Listener {
    diary: Diary,
    worker: String,
}

impl StatusListener for Listener {
    fn task_changed(&self, id: &TaskId, state: State, trace: Option<String>) {
        let trace = trace.unwrap_or_default();
        self.diary.note(format!("{} {id} is {} {trace}", self.worker, state.name()));
        if state == State::Failed {
            self.diary.accuse(format!("{} {id} FAILED: {trace}", self.worker));
        }
    }

    fn topic_used(&self, _: &TaskId, _: &str) {}
}
