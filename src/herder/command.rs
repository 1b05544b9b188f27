//! What can be asked of the herder's loop, and its answers. Every command carries where its answer goes; an answer
//! that nobody waits for any more is dropped.

use lakeferry_api::connector::ConnectorType;
use lakeferry_api::{Config, Result, SourceOffset, SourcePartition, TopicPartition};
use tokio::sync::oneshot;

use super::restart::RestartRequest;
use super::state::TargetState;
use super::status::ConnectorStatus;
use crate::task::TaskId;

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T>>;

/// One request.
pub(super) enum Command {
    /// Nothing: does the loop answer?
    Ping { reply: Reply<()> },
    /// Every connector.
    Connectors { reply: Reply<Vec<ConnectorInfo>> },
    /// One connector.
    Connector { name: String, reply: Reply<ConnectorInfo> },
    /// The task configs of one connector.
    Tasks { name: String, reply: Reply<Vec<(TaskId, Config)>> },
    /// Creates or replaces; the config is valid.
    Put { name: String, config: Config, put: Put, reply: Reply<Created> },
    /// Removes.
    Delete { name: String, reply: Reply<()> },
    /// Pauses or resumes, or stops.
    Target { name: String, target: TargetState, reply: Reply<()> },
    /// Makes the instance anew.
    RestartConnector { name: String, reply: Reply<()> },
    /// Makes anew what the request says.
    Restart { name: String, request: RestartRequest, reply: Reply<ConnectorStatus> },
    /// Makes one task anew.
    RestartTask { id: TaskId, reply: Reply<()> },
    /// Changes the offsets of a stopped connector.
    AlterOffsets { name: String, offsets: NewOffsets, reply: Reply<Altered> },
}

/// What a put may find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Put {
    /// Nothing; it starts with this target state.
    Create { target: TargetState },
    /// Nothing or a connector.
    CreateOrReplace,
    /// A connector with this config, which the new one was derived from.
    Replace { config: Config },
}

/// A connector as the REST API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectorInfo {
    /// Its name.
    pub name: String,
    /// Its config as the user gave it.
    pub config: Config,
    /// Its tasks.
    pub tasks: Vec<TaskId>,
    /// What it is; `None` where its class is not known here.
    pub kind: Option<ConnectorType>,
}

/// A connector that was created or replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// False where it existed.
    pub created: bool,
    /// As it is now.
    pub info: ConnectorInfo,
}

/// Offsets to set; `None` resets that partition. All of them: every partition that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewOffsets {
    /// These.
    Some(Vec<(serde_json::Value, serde_json::Value)>),
    /// Reset all.
    ResetAll,
}

/// Offsets were altered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Altered {
    /// True where the connector says that it keeps no others elsewhere.
    pub completely: bool,
}

/// Offsets of a connector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offsets {
    /// Of a source: in its own terms.
    Source(Vec<(SourcePartition, SourceOffset)>),
    /// Of a sink: committed by its consumer group.
    Sink(Vec<(TopicPartition, i64)>),
}
