//! The herder's loop: one owner of every connector. It takes commands and outcomes of jobs, folds changes
//! (`state.rs`), asks what to do next (`plan.rs`) and starts the job that does it. It awaits nothing but the next of
//! these, so a connector that hangs hangs alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use lakeferry_api::{ConnectError, Result};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::command::{Altered, Command, Created, NewOffsets, Reply};
use super::job::{self, Finished, Outcome, Spawning, Started, StartedTask};
use super::plan::{self, Action, RunningTask};
use super::slot::{Instance, Job, LiveTask, Slot, Waiting};
use super::state::{Change, ConfigState, ConnectorConfig, TargetState};
use super::{Parts, offsets};
use crate::spawn::{spawn, within};
use crate::task::{State, TaskId};

/// Everything the loop owns.
pub(super) struct Loop {
    pub(super) parts: Arc<Parts>,
    pub(super) state: ConfigState,
    pub(super) slots: BTreeMap<String, Slot>,
    jobs: FuturesUnordered<BoxFuture<'static, Finished>>,
}

impl Loop {
    pub(super) fn new(parts: Arc<Parts>) -> Self {
        Self { parts, state: ConfigState::default(), slots: BTreeMap::new(), jobs: FuturesUnordered::new() }
    }

    /// Runs until `stop` is cancelled or nobody can ask any more; then stops every task and connector.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(finished) = self.jobs.next() => self.finish(finished),
                command = commands.recv() => match command {
                    Some(command) => self.handle(command),
                    None => break,
                },
            }
        }
        // Nobody may ask any more.
        drop(commands);
        self.shut_down().await;
    }

    /// Folds one change that concerns `name`.
    pub(super) fn apply(&mut self, name: &str, change: Change) {
        self.state.apply(change);
        if let Some(slot) = self.slots.get(name) {
            slot.give_up_unwanted_start(self.state.connector(name));
        }
    }

    /// Starts what is to be done next for `name`, or answers who waits for it to settle.
    pub(super) fn advance(&mut self, name: &str) {
        loop {
            let slot = self.slots.entry(name.to_owned()).or_default();
            if slot.job.is_some() {
                return;
            }
            let desired = self.state.connector(name);
            let Some(action) = plan::next(desired, &slot.running()) else {
                if self.settle(name) {
                    return;
                }
                continue;
            };
            tracing::debug!(connector = name, ?action, "next");
            if let Some(job) = carry_out(&self.parts, name, slot, desired, action) {
                self.start_job(name, job);
                return;
            }
        }
    }

    fn start_job(&mut self, name: &str, (job, outcome): (Job, BoxFuture<'static, Outcome>)) {
        let connector = name.to_owned();
        self.slots.entry(connector.clone()).or_default().job = Some(job);
        self.jobs.push(Box::pin(async move { Finished { connector, outcome: outcome.await } }));
    }

    fn finish(&mut self, finished: Finished) {
        let name = finished.connector;
        let slot = self.slots.entry(name.clone()).or_default();
        slot.job = None;
        match finished.outcome {
            Outcome::ConnectorStarted { revision, result } => self.connector_started(&name, revision, result),
            Outcome::ConnectorStopped => self.connector_stopped(&name),
            Outcome::TasksStopped(ids) => self.tasks_stopped(&name, &ids),
            Outcome::TasksStarted(tasks) => self.tasks_started(&name, tasks),
            Outcome::OffsetsAltered => {}
        }
        self.advance(&name);
    }

    fn connector_started(&mut self, name: &str, revision: u64, result: Option<Result<Started>>) {
        let statuses = &self.parts.statuses;
        let desired = self.state.connector(name);
        let version = desired.and_then(|desired| self.parts.version_of(&desired.config));
        let current = desired.filter(|it| it.revision == revision && it.target == TargetState::Started);
        let mut configs = None;
        let instance = match result {
            Some(Ok(started)) => {
                statuses.connector_changed(name, State::Running, None, version);
                configs = current.filter(|it| it.tasks_differ(&started.task_configs)).map(|_| started.task_configs);
                Instance::Live { revision, connector: started.connector }
            }
            Some(Err(error)) => {
                statuses.connector_changed(name, State::Failed, Some(error.trace()), version);
                Instance::Failed { revision, message: error.message().to_owned() }
            }
            None => {
                tracing::error!(connector = name, "did not start in time after it was no longer wanted; it is aborted");
                statuses.connector_changed(name, State::Unassigned, None, version);
                Instance::Absent
            }
        };
        self.slots.entry(name.to_owned()).or_default().instance = instance;
        if let Some(configs) = configs {
            self.apply(name, Change::Tasks { connector: name.to_owned(), configs });
        }
    }

    fn connector_stopped(&mut self, name: &str) {
        let restarting = self.parts.statuses.connector(name).is_some_and(|it| it.connector.state == State::Restarting);
        if !restarting {
            self.parts.statuses.connector_changed(name, State::Unassigned, None, None);
        }
    }

    fn tasks_stopped(&mut self, name: &str, ids: &[u32]) {
        let wanted = self.state.connector(name).map_or(0, |desired| desired.tasks.len());
        for &task in ids {
            let id = TaskId { connector: name.to_owned(), task };
            let restarting = self.parts.statuses.task(&id).is_some_and(|status| status.state == State::Restarting);
            if task as usize >= wanted {
                self.parts.statuses.remove_task(&id);
            } else if !restarting {
                self.parts.statuses.task_changed(&id, State::Unassigned, None);
            }
        }
    }

    fn tasks_started(&mut self, name: &str, tasks: Vec<StartedTask>) {
        let slot = self.slots.entry(name.to_owned()).or_default();
        for StartedTask { task, running, result } in tasks {
            if let Err(error) = &result {
                let id = TaskId { connector: name.to_owned(), task };
                self.parts.statuses.task_changed(&id, State::Failed, Some(error.trace()));
            }
            slot.tasks.insert(task, LiveTask { running, handle: result.ok() });
        }
    }

    /// Answers who waits for `name`; true where nobody does any more.
    fn settle(&mut self, name: &str) -> bool {
        let slot = self.slots.entry(name.to_owned()).or_default();
        let failure = match &slot.instance {
            Instance::Failed { message, .. } => Some(message.clone()),
            _ => None,
        };
        let Some(waiting) = slot.waiting.pop_front() else {
            if self.state.connector(name).is_none() {
                self.slots.remove(name);
                self.parts.statuses.remove_connector(name);
            }
            return true;
        };
        let started = || match failure {
            Some(message) => Err(not_started(name, &message)),
            None => Ok(()),
        };
        // An answer that nobody waits for any more is dropped.
        match waiting {
            Waiting::Put { created, reply } => {
                let answer = started().and_then(|()| Ok(Created { created, info: self.info(name)? }));
                drop(reply.send(answer));
            }
            Waiting::Restarted { reply } => drop(reply.send(started())),
            Waiting::Deleted { reply } | Waiting::Stopped { reply } | Waiting::TaskRestarted { reply } => {
                drop(reply.send(Ok(())));
            }
            Waiting::Alter { offsets, reply } => self.alter_offsets(name, offsets, reply),
        }
        false
    }

    fn alter_offsets(&mut self, name: &str, offsets: NewOffsets, reply: Reply<Altered>) {
        let config = match self.stopped(name) {
            Ok(desired) => desired.config.clone(),
            Err(error) => return drop(reply.send(Err(error))),
        };
        let (parts, connector) = (Arc::clone(&self.parts), name.to_owned());
        let mut alter =
            spawn("alter offsets", async move { offsets::alter(&parts, &connector, &config, offsets).await });
        let outcome = async move {
            drop(reply.send(alter.join().await.and_then(|result| result)));
            Outcome::OffsetsAltered
        };
        self.start_job(name, (Job::default(), Box::pin(outcome)));
    }

    /// Nothing is wanted any more: what runs stops as if it were deleted.
    async fn shut_down(mut self) {
        let deadline = self.parts.worker.task_shutdown_graceful_timeout;
        let clock = Arc::clone(&self.parts.clock);
        // Whoever waits for a connector to settle hears at once that it will not.
        self.slots.values_mut().for_each(|slot| slot.waiting.clear());
        let stop = async {
            for name in self.slots.keys().cloned().collect::<Vec<_>>() {
                self.apply(&name, Change::Removed { connector: name.clone() });
                self.advance(&name);
            }
            while let Some(finished) = self.jobs.next().await {
                self.finish(finished);
            }
        };
        if within(deadline, clock.as_ref(), stop).await.is_none() {
            tracing::error!(after_ms = deadline.as_millis(), "some connectors or tasks did not stop in time");
        }
    }
}

/// Begins `action`; what takes time is a job.
fn carry_out(
    parts: &Arc<Parts>,
    name: &str,
    slot: &mut Slot,
    desired: Option<&ConnectorConfig>,
    action: Action,
) -> Option<(Job, BoxFuture<'static, Outcome>)> {
    match action {
        Action::StopTasks(ids) => {
            let ids = ids.into_iter().filter_map(|id| slot.tasks.remove_entry(&id));
            let tasks: Vec<_> = ids.inspect(|(task, _)| parts.silence(name, *task)).collect();
            Some((Job::default(), job::stop_tasks(tasks, parts.worker.task_shutdown_graceful_timeout)))
        }
        Action::StopConnector => match std::mem::take(&mut slot.instance) {
            Instance::Live { connector, .. } => {
                Some((Job::default(), job::stop_connector(parts, name.to_owned(), connector)))
            }
            _ => None,
        },
        Action::StartConnector => {
            let desired = desired?;
            let unwanted = CancellationToken::new();
            let start = job::start_connector(parts, desired.config.clone(), desired.revision, unwanted.clone());
            Some((Job { start: Some((desired.revision, unwanted)) }, start))
        }
        Action::Park(target) => {
            let desired = desired?;
            slot.instance = Instance::Parked { revision: desired.revision, target };
            parts.statuses.connector_changed(name, target.state(), None, parts.version_of(&desired.config));
            None
        }
        Action::StartTasks(ids) => {
            let desired = desired?;
            let tasks = ids.into_iter().filter_map(|id| spawning(name, desired, id)).collect();
            Some((Job::default(), job::start_tasks(parts, desired.config.clone(), tasks)))
        }
        Action::PauseTasks(ids) => set_paused(slot, &ids, true),
        Action::ResumeTasks(ids) => set_paused(slot, &ids, false),
    }
}

fn spawning(name: &str, desired: &ConnectorConfig, task: u32) -> Option<Spawning> {
    let config = desired.tasks.get(task as usize)?;
    let running = RunningTask { revision: config.revision, paused: desired.target == TargetState::Paused };
    Some(Spawning { id: TaskId { connector: name.to_owned(), task }, config: config.config.clone(), running })
}

fn set_paused<T>(slot: &mut Slot, ids: &[u32], paused: bool) -> Option<T> {
    for (_, task) in slot.tasks.iter_mut().filter(|(id, _)| ids.contains(id)) {
        task.running.paused = paused;
        match &task.handle {
            Some(handle) if paused => handle.pause(),
            Some(handle) => handle.resume(),
            None => {}
        }
    }
    None
}

fn not_started(name: &str, message: &str) -> ConnectError {
    ConnectError::fatal(format!("Failed to transition connector {name} to state STARTED: {message}"))
}
