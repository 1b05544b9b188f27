//! What a partition asks while it is idle: whether its topic is still the one that is archived, and whether its chain
//! still ends where it believes. A writer with something to write finds out by writing; one without would stay deaf to
//! a topic that was created again, to an offset that was set behind its back, and to a new owner.
//!
//! Called by [`Partition`](super::partition::Partition) in every step. Seldom asks: an answer takes several requests.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use lakeferry_api::{Result, TopicPartition};

use super::commit;
use super::partition::Shared;
use crate::job::Job;

/// The least time between two questions about a partition.
const LEAST: Duration = Duration::from_secs(60);

/// When to ask again, or the question under way.
pub(super) struct Check {
    next: Duration,
    asked: Option<(Belief, Job<()>)>,
}

/// What a partition believes.
#[derive(Clone, PartialEq)]
pub(super) struct Belief {
    pub(super) name: TopicPartition,
    pub(super) topic_id: Option<String>,
    /// The number of the next entry; `None` while one may be on its way.
    pub(super) next_seq: Option<u64>,
}

impl Check {
    /// Asks for the first time in the second half of an interval from now, each partition at a moment of its own:
    /// those of a task are opened together, and would ask together for ever.
    pub(super) fn new(shared: &Shared, name: &TopicPartition) -> Self {
        let half = interval(shared) / 2;
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let later = half.mul_f64(f64::from(hasher.finish() as u32) / f64::from(u32::MAX));
        let now = shared.context.clock().monotonic();
        Self { next: now.saturating_add(half).saturating_add(later), asked: None }
    }

    /// True where it is time to ask.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.asked.is_none() && now >= self.next
    }

    /// Asks whether `belief` is true.
    pub(super) fn ask(&mut self, shared: &Arc<Shared>, belief: Belief) {
        let job = Job::start(&shared.ended, ask(Arc::clone(shared), belief.clone()));
        self.asked = Some((belief, job));
        self.next = shared.context.clock().monotonic().saturating_add(interval(shared));
    }

    /// What came of a question, once, and what it was about: an answer about what is believed no more is of no account.
    /// `Retriable` where something is not as it was believed to be; `Fenced` where the partition is another's; `Config`
    /// where the archive is.
    pub(super) fn answer(&mut self) -> Option<(Belief, Result<()>)> {
        let answer = self.asked.as_mut().and_then(|(_, job)| job.take_if_ended())?;
        self.asked.take().map(|(belief, _)| (belief, answer))
    }

    /// Forgets a question about what is believed no more.
    pub(super) fn forget(&mut self) {
        self.asked = None;
    }
}

fn interval(shared: &Shared) -> Duration {
    shared.settings.rotation.age().max(LEAST)
}

async fn ask(shared: Arc<Shared>, belief: Belief) -> Result<()> {
    let Belief { name, topic_id, next_seq } = belief;
    if let Some(seq) = next_seq
        && shared.manifests.read(&name, seq).await?.is_some()
    {
        return Err(commit::fenced(&shared, &name).await?);
    }
    commit::fresh_view(&shared, &name, topic_id.as_deref()).await.map(drop)
}
