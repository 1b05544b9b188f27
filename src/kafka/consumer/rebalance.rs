//! What the group gives and takes. Partitions that it gives stand paused until the loop says where they begin; those
//! that it takes stay assigned until the loop lets them go, is too slow, or they are lost anyway.
//!
//! Invariant: every rebalance that librdkafka tells of is answered exactly once, and the loop hears of it behind
//! everything that was fetched before. Where the client refuses the answer, it gets an empty one, and the task fails.

use std::sync::Arc;
use std::time::Duration;

use lakeferry_api::{ConnectError, TopicPartition};

use super::super::Event;
use super::super::ffi::{Failure, FetchFrom};
use super::Said;
use super::fetch::Fetch;
use super::slot::Slot;
use super::starts::fetch_from;

/// Where a partition stands, paused, until the loop says. It must be a real offset: for one that has to be asked of the
/// broker, librdkafka asks again after a seek has made the first answer stale, and then jumps there.
pub(super) const UNSTARTED: i64 = 0;

/// How long the brokers have to say whether lost partitions went with their topics.
const ASKING: Duration = Duration::from_secs(1);
const QUESTIONS: usize = 4;
/// Between two questions: what one broker knows reaches the others in less.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Partitions that the group takes away and the loop has not let go yet.
pub(super) struct Revocation {
    id: u64,
    pub(super) partitions: Vec<TopicPartition>,
    deadline: Duration,
}

impl Fetch {
    pub(super) fn take_assignment(&mut self, partitions: Vec<TopicPartition>) {
        let handle = Arc::clone(&self.spec.handle);
        let is_cooperative = handle.is_cooperative();
        let assign = |rows: &[FetchFrom]| {
            if is_cooperative { handle.incremental_assign(rows) } else { handle.assign(rows) }
        };
        if !is_cooperative {
            self.slots_by_topic.clear();
        }
        let unstarted = |partition: &TopicPartition| fetch_from(partition, UNSTARTED.into());
        let rows: Vec<_> = partitions.iter().map(unstarted).collect();
        if let Err(failure) = handle.pause(&partitions).and_then(|()| assign(&rows)) {
            let _ = assign(&[]);
            let what =
                format!("does not take {} partitions that group {} gives", partitions.len(), self.spec.member.group);
            self.fail_rebalance(&what, &failure);
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
            self.flush(|_| true);
            self.let_go(&partitions);
            self.say_lost(partitions);
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

    /// The client calls lost what is another member's by now, and partitions of topics that were deleted.
    fn say_lost(&mut self, partitions: Vec<TopicPartition>) {
        let (mut deleted, mut lost) = (Vec::new(), partitions);
        // Any broker answers, and one that lags behind the one which told the client does not know it yet.
        for question in 0..QUESTIONS {
            if lost.is_empty() {
                break;
            }
            if question > 0 {
                std::thread::park_timeout(ASK_AGAIN);
            }
            match self.spec.handle.absent_topics(ASKING) {
                Ok(absent) => deleted.extend(lost.extract_if(.., |partition| absent.contains(&*partition.topic))),
                Err(failure) => {
                    tracing::info!("whether the topics of lost partitions are deleted nobody tells: {}", failure.text);
                    break;
                }
            }
        }
        for (partitions, said) in [(deleted, Said::Deleted as fn(_) -> _), (lost, Said::Lost)] {
            if !partitions.is_empty() {
                self.say(said(partitions));
            }
        }
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
        let is_cooperative = handle.is_cooperative();
        let result = if is_cooperative { handle.incremental_unassign(partitions) } else { handle.unassign() };
        let refused = result.err();
        if refused.is_some() && is_cooperative {
            let _ = handle.incremental_unassign(&[]);
        }
        for partition in partitions {
            if let Some(slots) = self.slots_by_topic.get_mut(&partition.topic) {
                slots.remove(&partition.partition);
            }
        }
        self.slots_by_topic.retain(|_, slots| !slots.is_empty());
        self.tell_owned();
        if let Some(failure) = refused {
            let what =
                format!("does not give {} partitions back to group {}", partitions.len(), self.spec.member.group);
            self.fail_rebalance(&what, &failure);
        }
    }

    /// The client refused the answer to a rebalance: what it has assigned is not what the group gave it. It has got an
    /// answer without partitions instead, or it would wait for one for ever and read nothing; and the task ends, or
    /// partitions would be this member's and nobody read them. A topic that is gone does not lead here: the client
    /// takes and gives back partitions of topics that it does not know.
    fn fail_rebalance(&mut self, what: &str, failure: &Failure) {
        self.tell_owned();
        self.say(Said::Told(Event::Error(ConnectError::fatal(format!(
            "the Kafka client {what}: {}; restart the task, and report this",
            failure.text
        )))));
    }

    fn tell_owned(&mut self) {
        let owned = self.slots().map(|slot| slot.partition.clone()).collect();
        self.spec.orders.lock().owned = owned;
    }
}

#[cfg(test)]
mod tests {
    use super::super::COOPERATIVE;
    use super::super::testing::Polling;
    use super::*;

    #[test]
    fn partitions_that_the_client_refuses_fail_the_task_and_the_group_is_answered() {
        // What is not to be: the client has the partition already.
        let mut polling = Polling::join(COOPERATIVE, &[TopicPartition::new("t", 0)]);
        let given = polling.next(true);
        polling.fetch.take_assignment(given);
        polling.assert_failed("does not take 1 partitions that group g gives: t [0] is already part of");
        polling.assert_answered();
    }

    #[test]
    fn so_do_partitions_that_a_client_refuses_that_takes_all_at_once() {
        let mut polling = Polling::join("range", &[]);
        let given = polling.next(true);
        polling.fetch.take_assignment([given.clone(), given].concat());
        polling.assert_failed("does not take 2 partitions that group g gives");
        polling.assert_answered();
    }

    #[test]
    fn partitions_that_the_client_does_not_give_back_fail_the_task_and_the_group_is_answered() {
        let mut polling = Polling::join(COOPERATIVE, &[]);
        let given = polling.next(true);
        polling.fetch.take_assignment(given.clone());
        polling.fetch.send();
        assert!(matches!(polling.said.try_recv(), Ok(Said::Assigned(partitions)) if partitions == given));
        // What is not to be: the client has lost the partition behind our back.
        polling.fetch.spec.handle.incremental_unassign(&given).unwrap();
        polling.fetch.spec.handle.subscribe(&["u".to_owned()]).unwrap();
        let taken = polling.next(false);
        assert_eq!(taken, given);
        polling.fetch.let_go(&taken);
        polling.assert_failed("does not give 1 partitions back to group g");
        polling.assert_closes();
    }
}
