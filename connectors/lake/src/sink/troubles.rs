//! What the partitions of a task wait for, as the connector's status shows it. One that is well again does not hide
//! that another is not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use lakeferry_api::{SinkContext, TopicPartition};

/// The troubles of a task, by partition.
pub(crate) struct Troubles {
    context: Arc<dyn SinkContext>,
    by_partition: Mutex<BTreeMap<TopicPartition, String>>,
}

/// See [`Troubles::forget_after`].
pub(crate) struct Forgetting<'a> {
    troubles: &'a Troubles,
    partitions: &'a [TopicPartition],
}

impl Drop for Forgetting<'_> {
    fn drop(&mut self) {
        self.partitions.iter().for_each(|partition| self.troubles.tell(partition, None));
    }
}

impl Troubles {
    /// None yet.
    pub(crate) fn new(context: Arc<dyn SinkContext>) -> Self {
        Self { context, by_partition: Mutex::default() }
    }

    /// Forgets what `partitions` wait for when the result is dropped: they leave, however that goes.
    pub(crate) fn forget_after<'a>(&'a self, partitions: &'a [TopicPartition]) -> Forgetting<'a> {
        Forgetting { troubles: self, partitions }
    }

    /// What `partition` waits for now; `None` where it is well.
    pub(crate) fn tell(&self, partition: &TopicPartition, what: Option<String>) {
        let mut troubles = self.by_partition.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = match what {
            Some(what) => troubles.insert(partition.clone(), what.clone()).as_ref() != Some(&what),
            None => troubles.remove(partition).is_some(),
        };
        if !changed {
            return;
        }
        let others = troubles.len().saturating_sub(1);
        let told = troubles.iter().next().map(|(partition, what)| match others {
            0 => format!("{partition}: {what}"),
            _ => format!("{partition}: {what} (and {others} more partitions)"),
        });
        self.context.trouble(told);
    }
}
