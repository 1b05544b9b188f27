//! Which of a connector's parts a restart request concerns, seen from their statuses. Pure (A1).

use super::status::ConnectorStatus;
use crate::task::State;

/// What `POST /connectors/{c}/restart` asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RestartRequest {
    /// The tasks too.
    pub include_tasks: bool,
    /// Only what failed.
    pub only_failed: bool,
}

/// What is to be restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RestartPlan {
    /// The connector's instance.
    pub(super) connector: bool,
    /// These of its tasks.
    pub(super) tasks: Vec<u32>,
}

impl RestartPlan {
    pub(super) fn new(request: RestartRequest, status: &ConnectorStatus) -> Self {
        let concerned = |state| !request.only_failed || state == State::Failed;
        let tasks = status.tasks.iter().filter(|(_, task)| request.include_tasks && concerned(task.state));
        Self { connector: concerned(status.connector.state), tasks: tasks.map(|(id, _)| *id).collect() }
    }

    /// What the request is answered with: the statuses, with RESTARTING where something restarts.
    pub(super) fn answer(&self, mut status: ConnectorStatus) -> ConnectorStatus {
        if self.connector {
            status.connector.state = State::Restarting;
        }
        for id in &self.tasks {
            status.tasks.entry(*id).and_modify(|task| task.state = State::Restarting);
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::Status;
    use super::*;

    fn status(connector: State, tasks: &[State]) -> ConnectorStatus {
        let status = |state| Status { state, worker_id: "w:1".to_owned(), version: None, trace: None };
        ConnectorStatus {
            connector: status(connector),
            tasks: (0..).zip(tasks.iter().map(|state| status(*state))).collect(),
        }
    }

    #[test]
    fn restarts_what_was_asked_for() {
        let seen = status(State::Running, &[State::Running, State::Failed]);
        let failed = status(State::Failed, &[State::Failed, State::Paused]);
        let cases = [
            (&seen, false, false, true, vec![]),
            (&seen, false, true, false, vec![]),
            (&seen, true, false, true, vec![0, 1]),
            (&seen, true, true, false, vec![1]),
            (&failed, false, true, true, vec![]),
            (&failed, true, true, true, vec![0]),
        ];
        for (status, include_tasks, only_failed, connector, tasks) in cases {
            let request = RestartRequest { include_tasks, only_failed };
            assert_eq!(
                RestartPlan::new(request, status),
                RestartPlan { connector, tasks },
                "{request:?} of {status:?}"
            );
        }
    }

    #[test]
    fn the_answer_shows_what_restarts() {
        let seen = status(State::Running, &[State::Running, State::Failed]);
        let plan = RestartPlan { connector: false, tasks: vec![1] };
        assert_eq!(plan.answer(seen), status(State::Running, &[State::Running, State::Restarting]));
    }
}
