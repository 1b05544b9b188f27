//! The herder's answers: each command folded into changes, and who waits for what. One command a method; the words of
//! the refusals are Connect's, because clients match them.

use lakeferry_api::{Config, ConnectError, Result};

use super::command::{Command, ConnectorInfo, Put, Reply};
use super::restart::{RestartPlan, RestartRequest};
use super::run::Loop;
use super::slot::Waiting;
use super::state::{Change, ConnectorConfig, TargetState};
use super::status::ConnectorStatus;
use crate::task::{State, TaskId};

impl Loop {
    pub(super) fn handle(&mut self, command: Command) {
        // A reply that nobody waits for any more is dropped.
        match command {
            Command::Ping { reply } => drop(reply.send(Ok(()))),
            Command::Connectors { reply } => drop(reply.send(Ok(self.infos()))),
            Command::Connector { name, reply } => drop(reply.send(self.info(&name))),
            Command::Tasks { name, reply } => drop(reply.send(self.tasks(&name))),
            Command::Put { name, config, put, reply } => match self.put(&name, config, put) {
                Ok(created) => self.wait(&name, Waiting::Put { created, reply }),
                Err(error) => drop(reply.send(Err(error))),
            },
            Command::Delete { name, reply } => {
                let removed = self.existing(&name).map(|_| vec![Change::Removed { connector: name.clone() }]);
                self.change(&name, removed, reply, |reply| Waiting::Deleted { reply });
            }
            Command::Target { name, target, reply } => self.target(&name, target, reply),
            Command::RestartConnector { name, reply } => {
                let restart = self.existing(&name).map(|_| vec![Change::RestartConnector { connector: name.clone() }]);
                self.change(&name, restart, reply, |reply| Waiting::Restarted { reply });
            }
            Command::Restart { name, request, reply } => drop(reply.send(self.restart(&name, request))),
            Command::RestartTask { id, reply } => {
                let restart = self.existing_task(&id).map(|()| vec![restart_task(&id.connector, id.task)]);
                self.change(&id.connector, restart, reply, |reply| Waiting::TaskRestarted { reply });
            }
            Command::AlterOffsets { name, offsets, reply } => match self.stopped(&name) {
                Ok(_) => self.wait(&name, Waiting::Alter { offsets, reply }),
                Err(error) => drop(reply.send(Err(error))),
            },
        }
    }

    /// A connector as answers show it.
    pub(super) fn info(&self, name: &str) -> Result<ConnectorInfo> {
        self.existing(name).map(|connector| self.info_of(name, connector))
    }

    /// A connector whose offsets may be altered.
    pub(super) fn stopped(&self, name: &str) -> Result<&ConnectorConfig> {
        let connector = self.existing(name)?;
        if connector.target == TargetState::Stopped && connector.tasks.is_empty() {
            return Ok(connector);
        }
        Err(ConnectError::config(format!(
            "Connectors must be in the STOPPED state before their offsets can be modified. This can be done for the \
             specified connector by issuing a 'PUT' request to the '/connectors/{name}/stop' endpoint"
        )))
    }

    fn info_of(&self, name: &str, connector: &ConnectorConfig) -> ConnectorInfo {
        let task = |(task, _)| TaskId { connector: name.to_owned(), task };
        ConnectorInfo {
            name: name.to_owned(),
            config: connector.config.clone(),
            tasks: (0..).zip(&connector.tasks).map(task).collect(),
            kind: self.parts.kind_of(&connector.config),
        }
    }

    fn infos(&self) -> Vec<ConnectorInfo> {
        self.state.connectors().iter().map(|(name, connector)| self.info_of(name, connector)).collect()
    }

    fn tasks(&self, name: &str) -> Result<Vec<(TaskId, Config)>> {
        let task = |(task, config): (u32, Config)| (TaskId { connector: name.to_owned(), task }, config);
        let configs = self.existing(name)?.tasks.iter().map(|task| task.config.clone());
        Ok((0..).zip(configs).map(task).collect())
    }

    fn put(&mut self, name: &str, config: Config, put: Put) -> Result<bool> {
        let known = self.state.connector(name);
        let exists = known.is_some();
        match &put {
            Put::Create { .. } if exists => {
                return Err(ConnectError::conflict(format!("Connector {name} already exists")));
            }
            Put::Replace { config: seen } => match known {
                Some(known) if known.config == *seen => {}
                Some(_) => return Err(ConnectError::conflict(changed_meanwhile(name))),
                None => return Err(not_found(name)),
            },
            Put::Create { .. } | Put::CreateOrReplace => {}
        }
        self.apply(name, Change::Put { connector: name.to_owned(), config });
        if let Put::Create { target } = put {
            self.apply(name, Change::Target { connector: name.to_owned(), target });
        }
        Ok(!exists)
    }

    fn target(&mut self, name: &str, target: TargetState, reply: Reply<()>) {
        let connector = name.to_owned();
        if target == TargetState::Stopped {
            let no_tasks = Change::Tasks { connector: connector.clone(), configs: Vec::new() };
            let stop = self.existing(name).map(|_| vec![no_tasks, Change::Target { connector, target }]);
            return self.change(name, stop, reply, |reply| Waiting::Stopped { reply });
        }
        let answer = match self.state.connector(name) {
            Some(_) => Ok(()),
            None => Err(ConnectError::not_found(format!("Unknown connector {name}"))),
        };
        if answer.is_ok() {
            self.apply(name, Change::Target { connector, target });
        }
        // Pausing and resuming are accepted, not awaited; the status tells when they are done.
        drop(reply.send(answer));
        self.advance(name);
    }

    fn restart(&mut self, name: &str, request: RestartRequest) -> Result<ConnectorStatus> {
        if self.state.connector(name).is_none() {
            return Err(ConnectError::not_found(format!("Unknown connector: {name}")));
        }
        let status = self.parts.statuses.connector(name);
        let status = status.ok_or_else(|| ConnectError::not_found(format!("Status for connector {name} not found")))?;
        let plan = RestartPlan::new(request, &status);
        tracing::info!(connector = name, ?plan, "restart");
        for &task in &plan.tasks {
            let id = TaskId { connector: name.to_owned(), task };
            self.parts.statuses.silence(&id);
            self.parts.statuses.task_changed(&id, State::Restarting, None);
            self.apply(name, restart_task(name, task));
        }
        if plan.connector {
            self.parts.statuses.connector_changed(name, State::Restarting, None, None);
            self.apply(name, Change::RestartConnector { connector: name.to_owned() });
        }
        self.advance(name);
        Ok(plan.answer(status))
    }

    /// Folds `changes` and lets `reply` wait until they are carried out.
    fn change<T>(
        &mut self,
        name: &str,
        changes: Result<Vec<Change>>,
        reply: Reply<T>,
        waiting: impl FnOnce(Reply<T>) -> Waiting,
    ) {
        match changes {
            Ok(changes) => {
                changes.into_iter().for_each(|change| self.apply(name, change));
                self.wait(name, waiting(reply));
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn wait(&mut self, name: &str, waiting: Waiting) {
        self.slots.entry(name.to_owned()).or_default().waiting.push_back(waiting);
        self.advance(name);
    }

    fn existing(&self, name: &str) -> Result<&ConnectorConfig> {
        self.state.connector(name).ok_or_else(|| not_found(name))
    }

    fn existing_task(&self, id: &TaskId) -> Result<()> {
        match self.existing(&id.connector)?.tasks.get(id.task as usize) {
            Some(_) => Ok(()),
            None => Err(ConnectError::not_found(format!("Task {id} not found"))),
        }
    }
}

fn not_found(name: &str) -> ConnectError {
    ConnectError::not_found(format!("Connector {name} not found"))
}

fn changed_meanwhile(name: &str) -> String {
    format!("The config of connector {name} was changed by another request; try again")
}

fn restart_task(connector: &str, task: u32) -> Change {
    Change::RestartTask { connector: connector.to_owned(), task }
}
