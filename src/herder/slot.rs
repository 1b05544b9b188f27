//! What the loop holds of one connector: its instance, its tasks, the job that works on it, and who waits for it to
//! settle. The pure view of it ([`Slot::running`]) is what `plan.rs` compares with what should be.

use std::collections::{BTreeMap, VecDeque};

use lakeferry_api::connector::Connector;
use tokio_util::sync::CancellationToken;

use super::command::{Altered, Created, NewOffsets, Reply};
use super::plan::{self, RunningTask};
use super::state::{ConnectorConfig, TargetState};
use crate::task;

/// One connector of this worker.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) instance: Instance,
    pub(super) tasks: BTreeMap<u32, LiveTask>,
    /// At most one at a time; while there is one, nothing else changes here.
    pub(super) job: Option<Job>,
    pub(super) waiting: VecDeque<Waiting>,
}

/// A connector's instance: [`plan::Instance`] with what it stands for.
#[derive(Default)]
pub(super) enum Instance {
    #[default]
    Absent,
    Live {
        revision: u64,
        connector: Box<dyn Connector>,
    },
    Parked {
        revision: u64,
        target: TargetState,
    },
    Failed {
        revision: u64,
        message: String,
    },
}

/// A task that was spawned; without handle where that failed.
pub(super) struct LiveTask {
    pub(super) running: RunningTask,
    pub(super) handle: Option<Box<dyn task::Handle>>,
}

/// Work on this connector that is under way.
#[derive(Default)]
pub(super) struct Job {
    /// Set for the start of an instance: cancelled when nobody wants that revision any more.
    pub(super) start: Option<(u64, CancellationToken)>,
}

/// Who waits until the connector is as it should be.
pub(super) enum Waiting {
    Put { created: bool, reply: Reply<Created> },
    Deleted { reply: Reply<()> },
    Stopped { reply: Reply<()> },
    Restarted { reply: Reply<()> },
    TaskRestarted { reply: Reply<()> },
    Alter { offsets: NewOffsets, reply: Reply<Altered> },
}

impl Slot {
    pub(super) fn running(&self) -> plan::Running {
        let instance = match &self.instance {
            Instance::Absent => plan::Instance::Absent,
            Instance::Live { revision, .. } => plan::Instance::Live { revision: *revision },
            Instance::Parked { revision, target } => plan::Instance::Parked { revision: *revision, target: *target },
            Instance::Failed { revision, .. } => plan::Instance::Failed { revision: *revision },
        };
        plan::Running { instance, tasks: self.tasks.iter().map(|(id, task)| (*id, task.running)).collect() }
    }

    /// Tells a start that is under way where nobody wants it any more.
    pub(super) fn give_up_unwanted_start(&self, desired: Option<&ConnectorConfig>) {
        let Some((revision, unwanted)) = self.job.as_ref().and_then(|job| job.start.as_ref()) else { return };
        let wanted = desired.is_some_and(|it| it.revision == *revision && it.target == TargetState::Started);
        if !wanted {
            unwanted.cancel();
        }
    }
}
