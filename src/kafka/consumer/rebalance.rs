//! What the group gives and takes. Partitions that it gives stand paused until the loop says where they begin; those
//! that it takes stay assigned until the loop lets them go, is too slow, or they are lost anyway.
//!
//! Invariant: every rebalance that librdkafka tells of is answered exactly once, and the loop hears of it behind
//! everything that was fetched before.

use std::sync::Arc;
use std::time::Duration;

use lakeferry_api::TopicPartition;

use super::super::error::explain;
use super::Said;
use super::fetch::{Fetch, fetch_from};
use super::slot::Slot;

/// Where a partition stands, paused, until the loop says. It must be a real offset: for one that has to be asked of the
/// broker, librdkafka asks again after a seek has made the first answer stale, and then jumps there.
pub(super) const UNSTARTED: i64 = 0;

/// Partitions that the group takes away and the loop has not let go yet.
pub(super) struct Revocation {
    id: u64,
    pub(super) partitions: Vec<TopicPartition>,
    deadline: Duration,
}

impl Fetch {
    pub(super) fn take_assignment(&mut self, partitions: Vec<TopicPartition>) {
        let handle = Arc::clone(&self.spec.handle);
        let unstarted = |partition: &TopicPartition| fetch_from(partition, UNSTARTED.into());
        let rows: Vec<_> = partitions.iter().map(unstarted).collect();
        let paused = handle.pause(&partitions);
        let result = if handle.is_cooperative() {
            paused.and_then(|()| handle.incremental_assign(&rows))
        } else {
            self.slots_by_topic.clear();
            paused.and_then(|()| handle.assign(&rows))
        };
        if let Err(failure) = result {
            self.say(Said::Error(explain(&failure, "cannot take the assigned partitions")));
            return;
        }
        for partition in &partitions {
            let slots = self.slots_by_topic.entry(Arc::clone(&partition.topic)).or_default();
            slots.insert(partition.partition, Slot::new(partition.clone()));
        }
        self.tell_owned();
        if !partitions.is_empty() {
            self.say(Said::Assigned(partitions));
        }
    }

    pub(super) fn take_revocation(&mut self, partitions: Vec<TopicPartition>) {
        if self.spec.handle.is_assignment_lost() {
            self.let_go(&partitions);
            self.say(Said::Lost(partitions));
            return;
        }
        if partitions.is_empty() {
            self.let_go(&partitions);
            return;
        }
        self.revocations += 1;
        let id = self.revocations;
        self.say(Said::Revoked(id, partitions.clone()));
        for partition in &partitions {
            if let Some(slot) = self.slot(partition) {
                slot.revoking = true;
            }
        }
        let deadline = self.now + self.spec.release_within;
        self.revocation = Some(Revocation { id, partitions, deadline });
    }

    pub(super) fn settle_revocation(&mut self) {
        let Some(Revocation { id, partitions, deadline }) = self.revocation.take() else { return };
        let released = self.spec.orders.lock().released >= id;
        let lost = self.spec.handle.is_assignment_lost();
        let late = self.now >= deadline;
        if !(released || lost || late) {
            self.revocation = Some(Revocation { id, partitions, deadline });
            return;
        }
        self.let_go(&partitions);
        if !released {
            // Who hears of the loss warns of it.
            tracing::info!("{} partitions were taken away before they were released", partitions.len());
            self.say(Said::Lost(partitions));
        }
    }

    /// Answers the group: these partitions are not read any more.
    pub(super) fn let_go(&mut self, partitions: &[TopicPartition]) {
        let handle = Arc::clone(&self.spec.handle);
        let result = if handle.is_cooperative() { handle.incremental_unassign(partitions) } else { handle.unassign() };
        if let Err(failure) = result {
            tracing::warn!("cannot give {} partitions back: {}", partitions.len(), failure.text);
        }
        for partition in partitions {
            if let Some(slots) = self.slots_by_topic.get_mut(&partition.topic) {
                slots.remove(&partition.partition);
            }
        }
        self.slots_by_topic.retain(|_, slots| !slots.is_empty());
        self.tell_owned();
    }

    fn tell_owned(&mut self) {
        let owned = self.slots().map(|slot| slot.partition.clone()).collect();
        self.spec.orders.lock().owned = owned;
    }
}
