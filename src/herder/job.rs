//! Work that takes time: connector code and the end of tasks. The loop starts a job and hears of its outcome; it never
//! waits for one. Connector code runs behind a panic border, and a stop that takes too long is given up (A10).

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use lakeferry_api::connector::Connector;
use lakeferry_api::{Config, ConnectError, Result};
use tokio_util::sync::CancellationToken;

use super::plan::RunningTask;
use super::slot::LiveTask;
use super::unknown::unknown_keys;
use super::{Parts, task_configs};
use crate::spawn::{spawn, within};
use crate::task::{Handle, TaskId, TaskSpec};

/// How long an instance may take to stop, or to start once nobody wants it any more.
const CONNECTOR_PATIENCE: Duration = Duration::from_secs(5);

/// A job of a connector that ended.
pub(super) struct Finished {
    pub(super) connector: String,
    pub(super) outcome: Outcome,
}

/// How it ended.
pub(super) enum Outcome {
    /// An instance for this revision was started, failed, or was given up.
    ConnectorStarted { revision: u64, result: Option<Result<Started>> },
    /// The instance is gone.
    ConnectorStopped,
    /// These tasks are gone.
    TasksStopped(Vec<u32>),
    /// These tasks run or could not be spawned.
    TasksStarted(Vec<StartedTask>),
    /// The offsets are altered, or not; whoever asked knows.
    OffsetsAltered,
}

/// A connector that was started.
pub(super) struct Started {
    pub(super) connector: Box<dyn Connector>,
    pub(super) task_configs: Vec<Config>,
}

/// A task that runs or could not be spawned.
pub(super) struct StartedTask {
    pub(super) task: u32,
    pub(super) running: RunningTask,
    pub(super) result: Result<Box<dyn Handle>>,
}

/// A task that is to be spawned.
pub(super) struct Spawning {
    pub(super) id: TaskId,
    pub(super) config: Config,
    pub(super) running: RunningTask,
}

/// Makes and starts an instance and asks it for its tasks; given up a while after `unwanted` is cancelled.
pub(super) fn start_connector(
    parts: &Arc<Parts>,
    config: Config,
    revision: u64,
    unwanted: CancellationToken,
) -> BoxFuture<'static, Outcome> {
    let (parts, clock) = (Arc::clone(parts), Arc::clone(&parts.clock));
    let mut start = spawn("connector start", async move { start_instance(&parts, &config).await });
    Box::pin(async move {
        let given_up = async {
            unwanted.cancelled().await;
            clock.sleep(CONNECTOR_PATIENCE).await;
        };
        let result = tokio::select! {
            biased;
            result = start.join() => Some(result.and_then(|result| result)),
            () = given_up => None,
        };
        Outcome::ConnectorStarted { revision, result }
    })
}

async fn start_instance(parts: &Parts, raw: &Config) -> Result<Started> {
    let config = parts.worker.providers.resolve(raw)?;
    let mut connector = parts.connector(&config)?;
    let unknown = unknown_keys(&parts.catalog, connector.as_ref(), &config);
    if !unknown.is_empty() {
        let (connector, keys) = (raw.get("name"), unknown.join(", "));
        tracing::warn!(connector, keys, "keys that nobody knows, so that they have no effect: are they misspelt?");
    }
    connector.start(&config).await?;
    match task_configs::generate(connector.as_ref(), raw, &config) {
        Ok(task_configs) => Ok(Started { connector, task_configs }),
        Err(error) => {
            connector.stop().await;
            Err(error)
        }
    }
}

/// Stops an instance; one that does not stop in time is left behind.
pub(super) fn stop_connector(
    parts: &Arc<Parts>,
    name: String,
    mut connector: Box<dyn Connector>,
) -> BoxFuture<'static, Outcome> {
    let clock = Arc::clone(&parts.clock);
    let mut stop = spawn("connector stop", async move { connector.stop().await });
    Box::pin(async move {
        match within(CONNECTOR_PATIENCE, clock.as_ref(), stop.join()).await {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::error!(connector = name, trace = error.trace(), "stop failed"),
            None => tracing::error!(connector = name, "did not stop in time; it is aborted"),
        }
        Outcome::ConnectorStopped
    })
}

/// Stops tasks, all at once and within one deadline.
pub(super) fn stop_tasks(tasks: Vec<(u32, LiveTask)>, deadline: Duration) -> BoxFuture<'static, Outcome> {
    let ids = tasks.iter().map(|(id, _)| *id).collect();
    let mut handles: Vec<_> = tasks.into_iter().filter_map(|(_, task)| task.handle).collect();
    handles.iter().for_each(|handle| handle.stop());
    Box::pin(async move {
        join_all(handles.iter_mut().map(|handle| handle.join(deadline))).await;
        Outcome::TasksStopped(ids)
    })
}

/// Spawns tasks of one connector.
pub(super) fn start_tasks(
    parts: &Arc<Parts>,
    connector_config: Config,
    tasks: Vec<Spawning>,
) -> BoxFuture<'static, Outcome> {
    let parts = Arc::clone(parts);
    let planned: Vec<_> = tasks.iter().map(|task| (task.id.task, task.running)).collect();
    let mut start = spawn("task start", async move {
        let connector_config = parts.worker.providers.resolve(&connector_config);
        tasks.into_iter().map(|task| start_task(&parts, &connector_config, task)).collect::<Vec<_>>()
    });
    Box::pin(async move {
        let results = start.join().await.unwrap_or_else(|panic| {
            planned.iter().map(|_| Err(ConnectError::new(panic.kind(), panic.trace()))).collect()
        });
        let started = planned.into_iter().zip(results);
        let started = started.map(|((task, running), result)| StartedTask { task, running, result });
        Outcome::TasksStarted(started.collect())
    })
}

fn start_task(parts: &Parts, connector_config: &Result<Config>, task: Spawning) -> Result<Box<dyn Handle>> {
    let connector_config = match connector_config {
        Ok(config) => config.clone(),
        Err(error) => return Err(ConnectError::new(error.kind(), error.trace())),
    };
    let task_config = parts.worker.providers.resolve(&task.config)?;
    let listener = parts.statuses.listener(&task.id, parts.version_of(&connector_config));
    let spec = TaskSpec { id: task.id, connector_config, task_config, paused: task.running.paused };
    parts.factory.spawn(spec, listener)
}
