//! What a task says of itself: its state, what is wrong while it goes on, and which topics it touches. The loop, the
//! contexts and the spawned work of one task share one voice; a listener hears changes only, in order, and nothing any
//! more once the task was aborted (a late word of an old owner must not hide the state of the new one).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{State, StatusListener, TaskId};

/// Who has trouble. One line each stands in the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trouble {
    /// The consumer cannot reach its brokers.
    Consumer,
    /// Topics are not there.
    Topics,
    /// Partitions cannot be opened yet.
    Open,
    /// Records cannot be put yet.
    Put,
    /// A source cannot be read now.
    Poll,
    /// Records cannot be sent now.
    Send,
    /// Offsets cannot be stored now.
    Commit,
    /// What the task itself says.
    Task,
}

/// The voice of one task.
pub(super) struct Voice {
    id: TaskId,
    listener: Arc<dyn StatusListener>,
    said: Mutex<Said>,
}

#[derive(Default)]
struct Said {
    state: Option<State>,
    troubles: BTreeMap<Trouble, String>,
    trace: Option<String>,
    silent: bool,
}

impl Voice {
    pub(super) fn new(id: TaskId, listener: Arc<dyn StatusListener>) -> Self {
        Self { id, listener, said: Mutex::default() }
    }

    pub(super) fn id(&self) -> &TaskId {
        &self.id
    }

    /// The task's state changed.
    pub(super) fn state(&self, state: State) {
        let mut said = self.lock();
        said.state = Some(state);
        self.tell(&mut said, true);
    }

    /// The task is at its end.
    pub(super) fn failed(&self, trace: String) {
        let mut said = self.lock();
        if !said.silent {
            said.state = Some(State::Failed);
            self.listener.task_changed(&self.id, State::Failed, Some(trace));
        }
    }

    /// Something is wrong and retried, or (`None`) is well again.
    pub(super) fn trouble(&self, trouble: Trouble, what: Option<String>) {
        let mut said = self.lock();
        match what {
            Some(what) => said.troubles.insert(trouble, what),
            None => said.troubles.remove(&trouble),
        };
        self.tell(&mut said, false);
    }

    pub(super) fn topic_used(&self, topic: &str) {
        if !self.lock().silent {
            self.listener.topic_used(&self.id, topic);
        }
    }

    /// Nothing is said from now on.
    pub(super) fn silence(&self) {
        self.lock().silent = true;
    }

    fn tell(&self, said: &mut Said, changed: bool) {
        // A task that cannot start yet, because a store or broker is away, is nobody's in the meantime.
        let starting = said.state.is_none() && !(said.troubles.is_empty() && said.trace.is_none());
        let state = if starting { Some(State::Unassigned) } else { said.state };
        let Some(state) = state.filter(|_| !said.silent) else { return };
        let troubles: Vec<&str> = said.troubles.values().map(String::as_str).collect();
        let goes_on = matches!(state, State::Running | State::Unassigned);
        let trace = (goes_on && !troubles.is_empty()).then(|| troubles.join("\n"));
        if changed || trace != said.trace {
            self.listener.task_changed(&self.id, state, trace.clone());
            said.trace = trace;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::testing::Journal;

    #[test]
    fn tells_troubles_once_and_only_while_running() {
        let journal = Journal::default();
        let voice = Voice::new(TaskId { connector: "c".to_owned(), task: 0 }, journal.listener());
        voice.trouble(Trouble::Open, Some("no store".to_owned()));
        voice.state(State::Running);
        voice.trouble(Trouble::Open, Some("no store".to_owned()));
        voice.trouble(Trouble::Consumer, Some("no broker".to_owned()));
        voice.state(State::Paused);
        voice.trouble(Trouble::Open, None);
        voice.state(State::Running);
        voice.trouble(Trouble::Consumer, None);
        voice.silence();
        voice.failed("too late".to_owned());
        voice.topic_used("t");
        assert_eq!(
            journal.take(),
            [
                "UNASSIGNED (no store)",
                "RUNNING (no store)",
                "RUNNING (no broker\nno store)",
                "PAUSED",
                "RUNNING (no broker)",
                "RUNNING",
            ]
        );
    }
}
