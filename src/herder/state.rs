//! What should be: the fold of every config change so far. Pure (A1): the loop applies changes, `plan.rs` compares the
//! result with what runs.
//!
//! Invariant: a revision is never used twice, so "runs at revision r" says exactly which config and which restart
//! request something runs for, even after a connector was deleted and created anew.

use std::collections::BTreeMap;

use lakeferry_api::Config;

/// What the user wants of a connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetState {
    /// Connector and tasks run.
    Started,
    /// Tasks keep what they have but neither read nor write.
    Paused,
    /// There are no tasks; offsets may be altered.
    Stopped,
}

/// One change, in the order in which it was accepted.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    /// A connector has this config now.
    Put { connector: String, config: Config },
    /// A connector exists no more.
    Removed { connector: String },
    /// The user wants this of it.
    Target { connector: String, target: TargetState },
    /// Its tasks are these, all of them.
    Tasks { connector: String, configs: Vec<Config> },
    /// The instance is to be made anew.
    RestartConnector { connector: String },
    /// One task is to be made anew.
    RestartTask { connector: String, task: u32 },
}

/// Every connector that should exist.
#[derive(Debug, Clone, Default)]
pub(super) struct ConfigState {
    connectors: BTreeMap<String, ConnectorConfig>,
    last_revision: u64,
}

/// A connector that should exist.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ConnectorConfig {
    /// As the user gave it: references to config providers are not resolved.
    pub(super) config: Config,
    /// What is wanted of it.
    pub(super) target: TargetState,
    /// Changes with every config and every restart of the instance.
    pub(super) revision: u64,
    /// Its tasks by number.
    pub(super) tasks: Vec<TaskConfig>,
    /// The connector's config when the tasks were last committed.
    applied: Option<Config>,
}

/// A task that should exist.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TaskConfig {
    /// With references to config providers put back.
    pub(super) config: Config,
    /// Changes with every commit of the tasks and every restart of this one.
    pub(super) revision: u64,
}

impl TargetState {
    /// The one that an `initial_state` names, in any case.
    pub fn from_initial_state(name: &str) -> Option<Self> {
        match name.to_uppercase().as_str() {
            "RUNNING" => Some(Self::Started),
            "PAUSED" => Some(Self::Paused),
            "STOPPED" => Some(Self::Stopped),
            _ => None,
        }
    }

    /// The status of a connector that has reached it.
    pub(super) fn state(self) -> crate::task::State {
        match self {
            Self::Started => crate::task::State::Running,
            Self::Paused => crate::task::State::Paused,
            Self::Stopped => crate::task::State::Stopped,
        }
    }
}

impl ConfigState {
    /// The connector of this name.
    pub(super) fn connector(&self, name: &str) -> Option<&ConnectorConfig> {
        self.connectors.get(name)
    }

    /// Every connector by name.
    pub(super) fn connectors(&self) -> &BTreeMap<String, ConnectorConfig> {
        &self.connectors
    }

    /// Takes one change. A change of a connector that does not exist has no effect, as for a record that compaction
    /// left behind.
    pub(super) fn apply(&mut self, change: Change) {
        self.last_revision += 1;
        let revision = self.last_revision;
        match change {
            Change::Put { connector, config } => match self.connectors.get_mut(&connector) {
                Some(known) => {
                    known.config = config;
                    known.revision = revision;
                }
                None => drop(self.connectors.insert(connector, ConnectorConfig::new(config, revision))),
            },
            Change::Removed { connector } => drop(self.connectors.remove(&connector)),
            Change::Target { connector, target } => self.with(&connector, |known| known.target = target),
            Change::Tasks { connector, configs } => self.with(&connector, |known| known.commit(configs, revision)),
            Change::RestartConnector { connector } => self.with(&connector, |known| known.revision = revision),
            Change::RestartTask { connector, task } => self.with(&connector, |known| {
                if let Some(task) = known.tasks.get_mut(task as usize) {
                    task.revision = revision;
                }
            }),
        }
    }

    fn with(&mut self, connector: &str, change: impl FnOnce(&mut ConnectorConfig)) {
        if let Some(known) = self.connectors.get_mut(connector) {
            change(known);
        }
    }
}

impl ConnectorConfig {
    fn new(config: Config, revision: u64) -> Self {
        Self { config, target: TargetState::Started, revision, tasks: Vec::new(), applied: None }
    }

    /// True where a commit of these task configs would change anything: the tasks themselves, or the connector's
    /// config since the last commit (tasks read converters and error handling from it, so they must restart).
    pub(super) fn tasks_differ(&self, configs: &[Config]) -> bool {
        self.applied.as_ref() != Some(&self.config)
            || self.tasks.len() != configs.len()
            || self.tasks.iter().zip(configs).any(|(known, new)| known.config != *new)
    }

    fn commit(&mut self, configs: Vec<Config>, revision: u64) {
        self.applied = Some(self.config.clone());
        self.tasks = configs.into_iter().map(|config| TaskConfig { config, revision }).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(value: &str) -> Config {
        Config::from([("key".to_owned(), value.to_owned())])
    }

    fn put(value: &str) -> Change {
        Change::Put { connector: "c".to_owned(), config: config(value) }
    }

    fn tasks(values: &[&str]) -> Change {
        Change::Tasks { connector: "c".to_owned(), configs: values.iter().map(|value| config(value)).collect() }
    }

    fn state(changes: impl IntoIterator<Item = Change>) -> ConfigState {
        let mut state = ConfigState::default();
        changes.into_iter().for_each(|change| state.apply(change));
        state
    }

    #[test]
    fn a_new_config_keeps_target_and_tasks_but_asks_for_a_commit() {
        let target = Change::Target { connector: "c".to_owned(), target: TargetState::Paused };
        let before = state([put("1"), tasks(&["a"]), target]);
        assert!(!before.connector("c").unwrap().tasks_differ(&[config("a")]));
        assert!(before.connector("c").unwrap().tasks_differ(&[config("b")]));
        assert!(before.connector("c").unwrap().tasks_differ(&[]));

        let mut after = before.clone();
        after.apply(put("2"));
        let connector = after.connector("c").unwrap();
        assert_eq!((connector.target, connector.tasks.len()), (TargetState::Paused, 1));
        assert_ne!(connector.revision, before.connector("c").unwrap().revision);
        assert!(connector.tasks_differ(&[config("a")]));
    }

    #[test]
    fn a_restart_changes_one_revision_only() {
        let before = state([put("1"), tasks(&["a", "b"])]);
        let mut after = before.clone();
        after.apply(Change::RestartTask { connector: "c".to_owned(), task: 1 });
        after.apply(Change::RestartTask { connector: "c".to_owned(), task: 7 });
        let (old, new) = (before.connector("c").unwrap(), after.connector("c").unwrap());
        assert_eq!(old.revision, new.revision);
        assert_eq!(old.tasks[0], new.tasks[0]);
        assert_ne!(old.tasks[1].revision, new.tasks[1].revision);
    }

    #[test]
    fn what_is_created_again_never_shares_a_revision_with_what_was_deleted() {
        let first = state([put("1")]);
        let again = state([put("1"), Change::Removed { connector: "c".to_owned() }, put("1")]);
        assert_ne!(first.connector("c").unwrap().revision, again.connector("c").unwrap().revision);
    }

    #[test]
    fn changes_of_what_does_not_exist_have_no_effect() {
        let target = Change::Target { connector: "c".to_owned(), target: TargetState::Paused };
        assert!(state([tasks(&["a"]), target]).connectors().is_empty());
    }
}
