//! What to do next for one connector: the difference between what should be and what runs. Pure (A1).
//!
//! The loop carries out one action of a connector at a time and asks again when it is done, so a change that came
//! meanwhile is taken into account and nothing is remembered twice. Invariant: the plan ends; carrying out what it
//! says leads to `None` after finitely many actions, whatever ran before.

use std::collections::BTreeMap;

use super::state::{ConnectorConfig, TargetState};

/// What runs of one connector.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Running {
    /// The connector's own instance.
    pub(super) instance: Instance,
    /// Its tasks by number.
    pub(super) tasks: BTreeMap<u32, RunningTask>,
}

/// The state of a connector's instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Instance {
    /// There is none, and its status says nothing yet.
    #[default]
    Absent,
    /// It was started for this revision.
    Live { revision: u64 },
    /// There is none on purpose: paused or stopped.
    Parked { revision: u64, target: TargetState },
    /// It failed; only another revision or a stop changes that.
    Failed { revision: u64 },
}

/// A task that was spawned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RunningTask {
    /// The revision that it was spawned for.
    pub(super) revision: u64,
    /// True where it was last told to pause.
    pub(super) paused: bool,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Stop these tasks.
    StopTasks(Vec<u32>),
    /// Stop the instance.
    StopConnector,
    /// Make an instance, start it, and ask it for its tasks.
    StartConnector,
    /// There is to be no instance: only say so in the status.
    Park(TargetState),
    /// Spawn these tasks.
    StartTasks(Vec<u32>),
    /// Tell these tasks to pause.
    PauseTasks(Vec<u32>),
    /// Tell these tasks to go on.
    ResumeTasks(Vec<u32>),
}

/// The next action, or `None` where what runs is what should be. `desired` is `None` for a deleted connector.
pub(super) fn next(desired: Option<&ConnectorConfig>, running: &Running) -> Option<Action> {
    stale_tasks(desired, running)
        .or_else(|| instance(desired, running.instance))
        .or_else(|| desired.and_then(|desired| fresh_tasks(desired, running)))
}

fn stale_tasks(desired: Option<&ConnectorConfig>, running: &Running) -> Option<Action> {
    let wanted = |id: u32| desired.and_then(|desired| desired.tasks.get(id as usize)).map(|task| task.revision);
    some_of(&running.tasks, |id, task| wanted(id) != Some(task.revision)).map(Action::StopTasks)
}

fn instance(desired: Option<&ConnectorConfig>, instance: Instance) -> Option<Action> {
    let Some(desired) = desired else {
        return matches!(instance, Instance::Live { .. }).then_some(Action::StopConnector);
    };
    let reach = match desired.target {
        TargetState::Started => Action::StartConnector,
        target => Action::Park(target),
    };
    match instance {
        Instance::Live { revision } if revision == desired.revision && desired.target == TargetState::Started => None,
        Instance::Live { .. } => Some(Action::StopConnector),
        Instance::Parked { revision, target } if revision == desired.revision && target == desired.target => None,
        Instance::Failed { revision } if revision == desired.revision && desired.target != TargetState::Stopped => None,
        Instance::Absent | Instance::Parked { .. } | Instance::Failed { .. } => Some(reach),
    }
}

fn fresh_tasks(desired: &ConnectorConfig, running: &Running) -> Option<Action> {
    let missing: Vec<u32> =
        (0..).zip(&desired.tasks).map(|(id, _)| id).filter(|id| !running.tasks.contains_key(id)).collect();
    if !missing.is_empty() {
        return Some(Action::StartTasks(missing));
    }
    let pause = desired.target == TargetState::Paused;
    let differing = some_of(&running.tasks, |_, task| task.paused != pause)?;
    Some(if pause { Action::PauseTasks(differing) } else { Action::ResumeTasks(differing) })
}

fn some_of(tasks: &BTreeMap<u32, RunningTask>, wanted: impl Fn(u32, &RunningTask) -> bool) -> Option<Vec<u32>> {
    let ids: Vec<u32> = tasks.iter().filter(|(id, task)| wanted(**id, task)).map(|(id, _)| *id).collect();
    (!ids.is_empty()).then_some(ids)
}

#[cfg(test)]
mod tests;
