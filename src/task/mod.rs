//! Runs tasks: one task, one loop, one owner (A2). The herder spawns through [`TaskFactory`] and keeps a [`Handle`];
//! what happens to a task comes back through [`StatusListener`].
//!
//! Reading order: [`Tasks`] (the factory), `life` (start, loop, end, and the panic border), then `sink` or `source`
//! (the two loops), `exact` (a source's progress in one transaction with its records). Pure parts with the weight of
//! correctness: `positions`, `acks`, `sink::inbox`.

mod acks;
pub(crate) mod backoff;
mod clients;
mod context;
mod control;
mod dead_letters;
mod doubts;
pub(crate) mod exact;
mod life;
mod pipeline;
mod positions;
mod sink;
mod source;
pub mod state;
#[cfg(test)]
pub(crate) mod testing;
mod tolerance;
mod topics;
mod voice;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lakeferry_api::simulation::sabotage::{self, Fault};
use lakeferry_api::{Budget, Clock, Config, Executor, Result};

pub use state::{State, TaskId};

pub(crate) use self::clients::{source_group, transactional_producer};

use self::control::{Steering, control};
use self::voice::Voice;
use crate::backing::OffsetLog;
use crate::config::WorkerConfig;
use crate::config::catalog::Catalog;
use crate::kafka::Clients;
use crate::random::Random;
use crate::spawn::{Spawned, spawn};

/// Everything a task needs to start.
#[derive(Debug, Clone)]
pub struct TaskSpec {
    /// Which task.
    pub id: TaskId,
    /// The connector's config, references resolved: converters, error handling and client overrides come from it.
    pub connector_config: Config,
    /// The task's own config, references resolved.
    pub task_config: Config,
    /// True where the task must not begin before it is resumed.
    pub paused: bool,
}

/// Checks the `topic.creation.*` settings of a source connector, which otherwise every task of it would fail on.
///
/// # Errors
/// `Config` naming key and value.
pub fn check_topic_creation(connector_config: &Config) -> Result<()> {
    topics::TopicCreation::new(connector_config).map(drop)
}

/// Hears of every change of a task's state, in order. Must not block.
pub trait StatusListener: Send + Sync {
    /// `trace` says why it is `FAILED`, or what is wrong and retried while it goes on `RUNNING`; the same state comes
    /// again where only the trace changes.
    fn task_changed(&self, id: &TaskId, state: State, trace: Option<String>);
    /// The task wrote to or read from `topic`. Comes again and again.
    fn topic_used(&self, id: &TaskId, topic: &str);
}

/// Spawns tasks; the worker builds it, the herder only calls it.
pub trait TaskFactory: Send + Sync {
    /// Starts the task's loop. Failures after this point are told to `listener`.
    ///
    /// # Errors
    /// `Config` where the configs cannot be used at all.
    fn spawn(&self, spec: TaskSpec, listener: Arc<dyn StatusListener>) -> Result<Box<dyn Handle>>;
}

/// A running task as the herder sees it.
#[async_trait]
pub trait Handle: Send + Sync {
    /// Stops reading and writing but stays in its group.
    fn pause(&self);
    /// Goes on.
    fn resume(&self);
    /// Begins to stop; returns at once.
    fn stop(&self);
    /// Waits until it has stopped. After three quarters of `deadline` what still runs is aborted and logged (A10).
    async fn join(&mut self, deadline: Duration);
}

/// What the worker gives its tasks.
pub struct Parts {
    /// The plug-ins.
    pub catalog: Arc<Catalog>,
    /// The worker's settings.
    pub worker: Arc<WorkerConfig>,
    /// The worker's id, `host:port`.
    pub worker_id: String,
    /// Makes Kafka clients.
    pub clients: Arc<dyn Clients>,
    /// Where source offsets are stored.
    pub offsets: Arc<dyn OffsetLog>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where heavy work runs.
    pub executor: Arc<dyn Executor>,
    /// The byte budget.
    pub budget: Budget,
    /// Randomness.
    pub random: Arc<Random>,
}

/// Spawns tasks on the runtime it is called in.
pub struct Tasks {
    parts: Arc<Parts>,
}

impl Tasks {
    /// The factory of these parts.
    pub fn new(parts: Parts) -> Self {
        Self { parts: Arc::new(parts) }
    }
}

impl TaskFactory for Tasks {
    fn spawn(&self, spec: TaskSpec, listener: Arc<dyn StatusListener>) -> Result<Box<dyn Handle>> {
        let task = life::Task::new(Arc::clone(&self.parts), &spec)?;
        let voice = Arc::new(Voice::new(spec.id.clone(), listener));
        let (steering, control) = control(spec.paused);
        let name = format!("task {}", spec.id);
        let running = spawn(name, life::live(task, spec, Arc::clone(&voice), control));
        let clock = Arc::clone(&self.parts.clock);
        Ok(Box::new(Running { steering, voice, running, clock, joined: false }))
    }
}

/// A spawned task.
struct Running {
    steering: Steering,
    voice: Arc<Voice>,
    running: Spawned<()>,
    clock: Arc<dyn Clock>,
    joined: bool,
}

#[async_trait]
impl Handle for Running {
    fn pause(&self) {
        self.steering.pause(true);
    }

    fn resume(&self) {
        self.steering.pause(false);
    }

    fn stop(&self) {
        if !sabotage::is(Fault::StopUnheard) {
            self.steering.stop();
        }
    }

    async fn join(&mut self, deadline: Duration) {
        if self.joined {
            return;
        }
        let silence = || self.voice.silence();
        self.running.join_within(deadline, self.clock.as_ref(), silence).await;
        self.joined = true;
    }
}
