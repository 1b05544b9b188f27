//! Runs tasks: one task, one loop, one owner (A2). The herder spawns through [`TaskFactory`] and keeps a [`Handle`];
//! what happens to a task comes back through [`StatusListener`].

pub mod state;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lakeferry_api::{Config, Result};

pub use state::{State, TaskId};

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

/// Hears of every change of a task's state, in order. Must not block.
pub trait StatusListener: Send + Sync {
    /// `trace` says why it is `FAILED`, or what is wrong and retried while it goes on `RUNNING`; the same state comes
    /// again where only the trace changes.
    fn task_changed(&self, id: &TaskId, state: State, trace: Option<String>);
    /// The task wrote to or read from `topic`.
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
