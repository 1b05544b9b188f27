//! What a partition asks from time to time: whether its topic is still the one that is archived, with the settings that
//! the archive tells, and, while it is idle, whether its chain still ends where it believes. A writer with something to
//! write finds most of that out by writing; one without would stay deaf to a topic that was created again, to an offset
//! that was set behind its back, and to a new owner.
//!
//! Called by [`Partition`](super::partition::Partition) in every step. It asks seldom: an answer takes some requests.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use lakeferry_api::{Result, TopicPartition, TopicView};

use super::commit;
use super::partition::Shared;
use crate::job::Job;

/// The least time between two questions about a partition.
const LEAST: Duration = Duration::from_secs(60);

/// When to ask again, or the question under way.
pub(super) struct Check {
    next: Duration,
    asked: Option<(Belief, Job<Option<TopicView>>)>,
    /// The topic's settings, where they were found to be others than the archive tells.
    others: Option<TopicView>,
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
        Self { next: now.saturating_add(half).saturating_add(later), asked: None, others: None }
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

    /// Takes note of what came of a question; true where all is as `belief` says. An error that is about what is
    /// believed no more is of no account.
    ///
    /// # Errors
    /// `Retriable` where something is not as it was believed to be; `Fenced` where the partition is another's; `Config`
    /// where the archive is.
    pub(super) fn answer(&mut self, belief: &Belief) -> Result<bool> {
        let Some(answer) = self.asked.as_mut().and_then(|(_, job)| job.take_if_ended()) else { return Ok(false) };
        let is_about = self.asked.take().is_some_and(|(asked, _)| asked == *belief);
        match answer {
            // Until they are told: another partition that has looked since says nothing of them here.
            Ok(Some(others)) if others.topic_id == belief.topic_id => self.others = Some(others),
            Err(error) if is_about => return Err(error),
            Err(_) => return Ok(false),
            Ok(_) => {}
        }
        Ok(is_about)
    }

    /// The topic's settings, where an answer said that they are others than the archive tells.
    pub(super) fn other_settings(&self) -> Option<&TopicView> {
        self.others.as_ref()
    }

    /// Forgets a question about what is believed no more, and what came of the one before.
    pub(super) fn forget(&mut self) {
        (self.asked, self.others) = (None, None);
    }
}

fn interval(shared: &Shared) -> Duration {
    shared.settings.rotation.age().max(LEAST)
}

async fn ask(shared: Arc<Shared>, belief: Belief) -> Result<Option<TopicView>> {
    let Belief { name, topic_id, next_seq } = belief;
    if let Some(seq) = next_seq
        && shared.manifests.read(&name, seq).await?.is_some()
    {
        return Err(commit::whose_it_is(&shared, &name).await?.into_error(&name));
    }
    commit::fresh_view(&shared, &name, topic_id.as_deref()).await?;
    if next_seq == Some(0) {
        return Ok(None);
    }
    // By half: partitions ask a little later each time.
    let pause = interval(&shared) / 2;
    Ok(shared.told.others(shared.context.as_ref(), &name.topic, topic_id.as_deref(), pause).await)
}
