//! What connectors and tasks said of themselves last, and which topics they used. In memory: a standalone worker
//! forgets them when it ends.
//!
//! Written by the herder's loop and by the tasks' own loops through a [`StatusListener`] that is theirs alone; read by
//! anybody. Invariant: a task that was told to stop writes no more; only the listener of the newest incarnation counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::task::{State, StatusListener, TaskId};

/// What is known of a connector or a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its state.
    pub state: State,
    /// The worker that said so.
    pub worker_id: String,
    /// The plug-in's version; `None` where it never started.
    pub version: Option<String>,
    /// Why it failed, or what it is struggling with.
    pub trace: Option<String>,
}

/// What is known of a connector and its tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectorStatus {
    /// The connector's own.
    pub connector: Status,
    /// Its tasks' by number.
    pub tasks: BTreeMap<u32, Status>,
}

/// Every status of this worker. Locks are held for a look-up, never across an await.
#[derive(Debug)]
pub struct Statuses {
    worker_id: String,
    track_topics: bool,
    board: Mutex<Board>,
}

#[derive(Debug, Default)]
struct Board {
    connectors: BTreeMap<String, Status>,
    tasks: BTreeMap<TaskId, Status>,
    incarnations: BTreeMap<TaskId, u64>,
    last_incarnation: u64,
    topics: BTreeMap<String, BTreeSet<String>>,
}

/// Hears one incarnation of one task.
struct Listener {
    statuses: Arc<Statuses>,
    incarnation: u64,
    version: Option<String>,
}

impl Statuses {
    /// No status yet.
    pub fn new(worker_id: String, track_topics: bool) -> Self {
        Self { worker_id, track_topics, board: Mutex::default() }
    }

    /// The status of a connector and its tasks.
    pub fn connector(&self, name: &str) -> Option<ConnectorStatus> {
        let board = self.board();
        let connector = board.connectors.get(name)?.clone();
        let of_connector = board.tasks.iter().filter(|(id, _)| id.connector == name);
        let tasks = of_connector.map(|(id, status)| (id.task, status.clone())).collect();
        Some(ConnectorStatus { connector, tasks })
    }

    /// The status of a task.
    pub fn task(&self, id: &TaskId) -> Option<Status> {
        self.board().tasks.get(id).cloned()
    }

    /// The topics that a connector used since they were reset.
    pub fn topics(&self, connector: &str) -> BTreeSet<String> {
        self.board().topics.get(connector).cloned().unwrap_or_default()
    }

    /// Forgets which topics a connector used.
    pub fn reset_topics(&self, connector: &str) {
        self.board().topics.remove(connector);
    }

    /// A connector is in this state now; its version stays as it is where none is given.
    pub(super) fn connector_changed(&self, name: &str, state: State, trace: Option<String>, version: Option<String>) {
        tracing::info!(connector = name, state = state.name(), trace, "connector status");
        let mut board = self.board();
        let version = version.or_else(|| board.connectors.get(name).and_then(|known| known.version.clone()));
        board.connectors.insert(name.to_owned(), self.status(state, trace, version));
    }

    /// The herder says this of a task that has no loop now.
    pub(super) fn task_changed(&self, id: &TaskId, state: State, trace: Option<String>) {
        let mut board = self.board();
        let version = board.tasks.get(id).and_then(|known| known.version.clone());
        board.tasks.insert(id.clone(), self.status(state, trace, version));
    }

    /// A task or connector is gone for good.
    pub(super) fn remove_task(&self, id: &TaskId) {
        let mut board = self.board();
        board.tasks.remove(id);
        board.incarnations.remove(id);
    }

    /// See [`Statuses::remove_task`].
    pub(super) fn remove_connector(&self, name: &str) {
        self.board().connectors.remove(name);
    }

    /// The listener of a new incarnation of a task: what older ones say does not count any more.
    pub(super) fn listener(self: &Arc<Self>, id: &TaskId, version: Option<String>) -> Arc<dyn StatusListener> {
        let mut board = self.board();
        board.last_incarnation += 1;
        let incarnation = board.last_incarnation;
        board.incarnations.insert(id.clone(), incarnation);
        Arc::new(Listener { statuses: Arc::clone(self), incarnation, version })
    }

    /// From now on nothing counts that this task's loop says.
    pub(super) fn silence(&self, id: &TaskId) {
        self.board().incarnations.remove(id);
    }

    fn status(&self, state: State, trace: Option<String>, version: Option<String>) -> Status {
        Status { state, worker_id: self.worker_id.clone(), version, trace }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StatusListener for Listener {
    fn task_changed(&self, id: &TaskId, state: State, trace: Option<String>) {
        let mut board = self.statuses.board();
        if board.incarnations.get(id) != Some(&self.incarnation) {
            return;
        }
        tracing::info!(task = %id, state = state.name(), trace, "task status");
        let status = self.statuses.status(state, trace, self.version.clone());
        board.tasks.insert(id.clone(), status);
    }

    fn topic_used(&self, id: &TaskId, topic: &str) {
        if !self.statuses.track_topics {
            return;
        }
        let mut board = self.statuses.board();
        match board.topics.get_mut(&id.connector) {
            Some(topics) if topics.contains(topic) => {}
            Some(topics) => drop(topics.insert(topic.to_owned())),
            None => drop(board.topics.insert(id.connector.clone(), BTreeSet::from([topic.to_owned()]))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statuses(track_topics: bool) -> Arc<Statuses> {
        Arc::new(Statuses::new("127.0.0.1:8083".to_owned(), track_topics))
    }

    fn id(task: u32) -> TaskId {
        TaskId { connector: "c".to_owned(), task }
    }

    #[test]
    fn only_the_newest_incarnation_of_a_task_is_heard() {
        let statuses = statuses(true);
        let old = statuses.listener(&id(0), Some("1".to_owned()));
        old.task_changed(&id(0), State::Running, None);
        let new = statuses.listener(&id(0), Some("2".to_owned()));
        old.task_changed(&id(0), State::Unassigned, None);
        assert_eq!(statuses.task(&id(0)).unwrap().state, State::Running);
        new.task_changed(&id(0), State::Failed, Some("why".to_owned()));
        let failed = statuses.task(&id(0)).unwrap();
        assert_eq!(
            (failed.state, failed.trace.as_deref(), failed.version.as_deref()),
            (State::Failed, Some("why"), Some("2"))
        );
        statuses.silence(&id(0));
        new.task_changed(&id(0), State::Running, None);
        assert_eq!(statuses.task(&id(0)).unwrap(), failed);
    }

    #[test]
    fn a_connector_keeps_its_version_and_sees_its_own_tasks_only() {
        let statuses = statuses(true);
        statuses.connector_changed("c", State::Running, None, Some("1".to_owned()));
        statuses.connector_changed("c", State::Failed, Some("why".to_owned()), None);
        statuses.listener(&id(1), None).task_changed(&id(1), State::Running, None);
        let other = TaskId { connector: "cc".to_owned(), task: 0 };
        statuses.listener(&other, None).task_changed(&other, State::Running, None);
        let status = statuses.connector("c").unwrap();
        assert_eq!(status.connector.version.as_deref(), Some("1"));
        assert_eq!(status.tasks.keys().copied().collect::<Vec<_>>(), [1]);
        statuses.remove_connector("c");
        assert_eq!(statuses.connector("c"), None);
    }

    #[test]
    fn topics_are_tracked_only_where_that_is_on() {
        for (on, expected) in [(true, 2), (false, 0)] {
            let statuses = statuses(on);
            let listener = statuses.listener(&id(0), None);
            ["a", "b", "a"].iter().for_each(|topic| listener.topic_used(&id(0), topic));
            assert_eq!(statuses.topics("c").len(), expected);
            statuses.reset_topics("c");
            assert!(statuses.topics("c").is_empty());
        }
    }
}
