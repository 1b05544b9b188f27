//! The connector is stopped and its offsets are altered, as a user does it: by the worker's own herder, which asks the
//! connector, which writes to the archive, before the group's offsets change. The herder's process may crash at any
//! await of it, and a task may not have ended but sleep (a zombie) and come back amid it.

use std::pin::pin;
use std::sync::Arc;

use lakeferry::backing::memory::MemoryOffsetLog;
use lakeferry::herder::{self, Handle, NewOffsets, Statuses, TargetState};
use lakeferry::plugins;
use lakeferry::random::Random;
use lakeferry::task::{self, Tasks};
use lakeferry_api::simulation::host::Host as _;
use lakeferry_api::{Budget, ConnectError, Result, TopicPartition, executor};
use lakeferry_lake::store::memory;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::World;
use super::parts::{connector_config, worker_config};
use crate::awaits::{Blow, Stretch, Trap};
use crate::broker::client::SimClients;
use crate::clock;
use crate::process::Process;
use crate::rare::Reset;

/// How long a user waits for an answer.
const PATIENCE_MS: u64 = 90_000;

/// What a user asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Alteration {
    /// Which partition, or the first of those, modulo how many there are.
    pub(crate) partition: u64,
    /// How many of them.
    pub(crate) partitions: u64,
    pub(crate) to: To,
    /// The first attempt crashes at this await of this stretch.
    pub(crate) crash_at: Option<(Stretch, u64)>,
    /// The user asks again where it failed.
    pub(crate) insists: bool,
    /// This worker sleeps meanwhile, for so long, instead of being stopped.
    pub(crate) zombie: Option<(u64, u64)>,
}

/// Where to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum To {
    /// So far between offset 0 and the last stable one, whether or not there still are records.
    Offset { per_mille: u64 },
    /// Where the group or the reset policy say.
    Reset,
    /// All partitions.
    ResetAll,
}

impl World {
    pub(super) async fn alter(&mut self, alteration: Alteration) {
        let mut alteration = alteration;
        if self.plan.settings.rare.reset == Reset::None && !matches!(alteration.to, To::Offset { .. }) {
            // A reset would leave nothing that says where to begin.
            alteration.to = To::Offset { per_mille: 0 };
        }
        let zombie = alteration.zombie.map(|(worker, for_ms)| (self.slot(worker), for_ms));
        for at in 0..self.workers.len() {
            match zombie {
                Some((sleeper, for_ms)) if at == sleeper => self.sleep(at, for_ms),
                _ => self.shut_down(at).await,
            }
            self.workers[at].up_at_ms = None;
        }
        // Those who crashed and those who sleep leave the group when their session ends.
        self.clock.wait(13_000).await;
        let asked = self.offsets(&alteration);
        self.remember(&asked);
        let mut crash_at = alteration.crash_at;
        for _ in 0..if alteration.insists { 3 } else { 1 } {
            let request = match alteration.to {
                To::ResetAll => NewOffsets::ResetAll,
                _ => NewOffsets::Some(asked.iter().map(entry).collect()),
            };
            if self.ask_herder(request, crash_at.take()).await {
                if zombie.is_none() && !self.has_former() {
                    self.check_altered(&asked);
                }
                break;
            }
        }
        for worker in self.workers.iter_mut().filter(|worker| worker.handle.is_none()) {
            worker.up_at_ms = Some(self.clock.ms());
        }
    }

    /// What is asked for, by partition.
    fn offsets(&self, alteration: &Alteration) -> Vec<(TopicPartition, Option<i64>)> {
        let all: Vec<_> = self.broker.partitions().into_iter().collect();
        let state = self.broker.lock();
        let offset = |partition: &TopicPartition| match alteration.to {
            To::Offset { per_mille } => {
                let offset = state.peek(partition).map_or(0, |log| log.stable() * per_mille as i64 / 1_000);
                // Of what lies below an offset ahead of the archive nobody looks any more whether it was taken back.
                let archived = self.store.resume(partition).filter(|_| self.cut_back.contains(partition));
                Some(offset.min(archived.unwrap_or(i64::MAX)))
            }
            To::Reset | To::ResetAll => None,
        };
        let count = if alteration.to == To::ResetAll { all.len() as u64 } else { alteration.partitions };
        let first = alteration.partition;
        let chosen =
            (0..count.min(all.len() as u64)).map(|at| &all[(first.wrapping_add(at) % all.len() as u64) as usize]);
        chosen.map(|partition| (partition.clone(), offset(partition))).collect()
    }

    fn remember(&self, asked: &[(TopicPartition, Option<i64>)]) {
        let mut state = self.broker.lock();
        for (partition, offset) in asked {
            state.altered.entry(partition.clone()).or_default().insert(*offset);
        }
    }

    fn slot(&self, worker: u64) -> usize {
        (worker % self.workers.len() as u64) as usize
    }

    pub(super) fn sleep(&self, at: usize, for_ms: u64) {
        let process = Arc::clone(&self.workers[at].process);
        super::steps::stop(&process, &self.clock, for_ms);
    }

    /// Asks a herder that knows the connector as stopped; true where it says that it is done.
    async fn ask_herder(&mut self, offsets: NewOffsets, crash_at: Option<(Stretch, u64)>) -> bool {
        self.herders += 1;
        let name = format!("herder{}", self.herders);
        let process = Arc::<Process>::default();
        process.set_striker(self.striker(&name, &process));
        self.diary.note(format!("{name} is asked for {offsets:?}"));
        let url = self.url(&name);
        memory::place(&url, Some(self.store.client(&name, &process)));
        let inside = process.enter();
        let (herder, running) = herder::start(self.herder_parts(&name, &process), CancellationToken::new());
        drop(inside);
        let config = connector_config(&self.plan.settings, &self.archivist, &url, self.plan.settings.rare.fails_on_gap);
        // It is checked in a thread of its own, which takes no simulated time.
        self.clock.hold(true);
        let created = herder.create(self.archivist.connector, config, TargetState::Stopped).await;
        self.clock.hold(false);
        if let Err(error) = created {
            self.diary.accuse(format!("no connector: {}", error.trace()));
            return false;
        }
        if let Some((stretch, nth)) = crash_at {
            process.set_trap(Trap::new(stretch, nth, Blow::Crash));
        }
        let answer = self.answer(&herder, offsets, &process).await;
        self.diary.note(match &answer {
            Some(answer) => format!("{name} says {:?}", answer.as_ref().map_err(ConnectError::trace)),
            None => format!("{name} does not answer"),
        });
        process.crash();
        drop(running);
        memory::place(&url, None);
        answer.is_some_and(|answer| answer.is_ok())
    }

    /// The herder's answer; `None` where it crashed, or takes too long.
    async fn answer(&self, herder: &Handle, offsets: NewOffsets, process: &Process) -> Option<Result<()>> {
        let deadline = self.clock.ms() + PATIENCE_MS;
        let mut answer = pin!(herder.alter_offsets(self.archivist.connector, offsets));
        while !process.is_dead() && self.clock.ms() < deadline {
            tokio::select! {
                biased;
                answer = &mut answer => return Some(answer.map(drop)),
                () = self.clock.wait(100) => {}
            }
        }
        None
    }

    fn herder_parts(&self, name: &str, process: &Arc<Process>) -> herder::Parts {
        let tasks = task::Parts {
            catalog: Arc::new(plugins::catalog()),
            worker: Arc::new(worker_config(None)),
            worker_id: format!("{name}:8083"),
            clients: Arc::new(SimClients {
                broker: Arc::clone(&self.broker),
                process: Arc::clone(process),
                worker: name.to_owned(),
            }),
            offsets: Arc::new(MemoryOffsetLog::default()),
            clock: Arc::new(clock::Shared(Arc::clone(&self.clock))),
            executor: Arc::new(executor::Inline),
            budget: Budget::new(self.plan.settings.memory_bytes),
            random: Arc::new(Random::seeded(self.plan.seed ^ self.herders << 32)),
        };
        herder::Parts {
            statuses: Arc::new(Statuses::new(tasks.worker_id.clone(), false)),
            catalog: Arc::clone(&tasks.catalog),
            worker: Arc::clone(&tasks.worker),
            worker_id: tasks.worker_id.clone(),
            clients: Arc::clone(&tasks.clients),
            offsets: Arc::clone(&tasks.offsets),
            clock: Arc::clone(&tasks.clock),
            executor: Arc::clone(&tasks.executor),
            budget: tasks.budget.clone(),
            random: Arc::clone(&tasks.random),
            factory: Arc::new(Tasks::new(tasks)),
        }
    }

    /// What the user was told is true: the archive and the group say so.
    fn check_altered(&self, asked: &[(TopicPartition, Option<i64>)]) {
        let state = self.broker.lock();
        // What another owner archives a reset of all passes over.
        let is_own = |partition: &TopicPartition| {
            self.store.owner(partition).is_none_or(|owner| owner == self.archivist.owner())
        };
        for (partition, offset) in asked.iter().filter(|(partition, _)| is_own(partition)) {
            let archived = self.store.end(partition);
            let committed = state.committed().get(partition).copied();
            if archived.as_ref().is_some_and(|(_, resume)| resume != offset) || committed != *offset {
                self.diary.accuse(format!(
                    "{partition} is altered to {offset:?}, but the archive says {archived:?} and the group {committed:?}"
                ));
            }
        }
    }
}

/// As the body of a request has it.
fn entry((partition, offset): &(TopicPartition, Option<i64>)) -> (Value, Value) {
    let name = json!({ "kafka_topic": &*partition.topic, "kafka_partition": partition.partition });
    (name, offset.map_or(Value::Null, |offset| json!({ "kafka_offset": offset })))
}
