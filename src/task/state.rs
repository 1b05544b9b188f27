//! The life cycle of a task, and its name. Pure.

use std::fmt;

/// One task of a connector.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId {
    /// The connector's name.
    pub connector: String,
    /// The task's number.
    pub task: u32,
}

/// The states that status answers show. Connectors have `Stopped` too; tasks never do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Owned by nobody now.
    Unassigned,
    /// Runs.
    Running,
    /// Paused on request.
    Paused,
    /// Stopped on request.
    Stopped,
    /// Failed; does not restart by itself.
    Failed,
    /// A restart was requested.
    Restarting,
}

impl State {
    /// Its name in status answers and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unassigned => "UNASSIGNED",
            Self::Running => "RUNNING",
            Self::Paused => "PAUSED",
            Self::Stopped => "STOPPED",
            Self::Failed => "FAILED",
            Self::Restarting => "RESTARTING",
        }
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.connector, self.task)
    }
}
