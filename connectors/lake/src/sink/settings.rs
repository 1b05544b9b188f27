//! What the archive tells of the topics' settings, as far as this task knows, and whether they are others by now.
//!
//! Settings are told when an epoch opens, and none need open while a writer is at work. So a partition that asks
//! whether its topic is still the same ([`check`](super::check)) looks at the topic's settings as well: one of a task's
//! partitions for all of a topic, for they have them in common. Nobody knows here what was told before the task began;
//! what it sees first is taken for that.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lakeferry_api::{SinkContext, TopicView};

/// The settings of each topic that was looked at.
#[derive(Default)]
pub(crate) struct KnownSettings(Mutex<BTreeMap<String, Look>>);

#[derive(Default)]
struct Look {
    /// No other partition looks before.
    next: Duration,
    told: Option<TopicView>,
}

impl KnownSettings {
    /// The archive tells `view` now.
    pub(super) fn tell(&self, topic: &str, view: TopicView) {
        self.of(topic, |look| look.told = Some(view));
    }

    /// The settings of `topic`, where they are not those that were told of this incarnation of it; once in `pause` at
    /// most. Where no broker answers the next look is as good.
    pub(super) async fn others(
        &self,
        context: &dyn SinkContext,
        topic: &str,
        topic_id: Option<&str>,
        pause: Duration,
    ) -> Option<TopicView> {
        let now = context.clock().monotonic();
        let is_due = self.of(topic, |look| {
            let is_due = now >= look.next;
            look.next = if is_due { now.saturating_add(pause) } else { look.next };
            is_due
        });
        if !is_due {
            return None;
        }
        let view = context.topic(topic).await.ok().filter(|view| view.topic_id.as_deref() == topic_id)?;
        self.of(topic, |look| match &look.told {
            Some(told) if told.topic_id == view.topic_id => (*told != view).then_some(view),
            _ => {
                look.told = Some(view);
                None
            }
        })
    }

    fn of<T>(&self, topic: &str, act: impl FnOnce(&mut Look) -> T) -> T {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        act(looks.entry(topic.to_owned()).or_default())
    }
}
