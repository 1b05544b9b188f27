//! What the consumer gave and the task has not taken yet. Pure. Batches are tried together until they are taken: while
//! they are retried nothing is added to them, so the task sees the identical batches again; what arrives meanwhile
//! waits behind. Bounded by what the consumer may have buffered when it was paused, which the byte budget pays.

use std::time::Duration;

use lakeferry_api::{Batch, TopicPartition};

use crate::task::backoff::Backoff;

#[derive(Debug)]
pub(super) struct Inbox {
    trying: Vec<Batch>,
    waiting: Vec<Batch>,
    retry_at: Option<Duration>,
    backoff: Backoff,
}

impl Inbox {
    pub(super) fn new(backoff: Backoff) -> Self {
        Self { trying: Vec::new(), waiting: Vec::new(), retry_at: None, backoff }
    }

    pub(super) fn push(&mut self, batches: impl IntoIterator<Item = Batch>) {
        self.waiting.extend(batches);
    }

    /// The batches of the next attempt: the same as in the last one until they are taken.
    pub(super) fn attempt(&mut self) -> &[Batch] {
        if self.trying.is_empty() {
            self.trying.append(&mut self.waiting);
        }
        &self.trying
    }

    /// The task has taken what [`Inbox::attempt`] gave; true where that ends a series of retries.
    pub(super) fn taken(&mut self) -> (Vec<Batch>, bool) {
        self.backoff.reset();
        (std::mem::take(&mut self.trying), self.retry_at.take().is_some())
    }

    /// The attempt failed and is made again later; true for the first failure of a series.
    pub(super) fn retry(&mut self, now: Duration) -> bool {
        self.retry_at.replace(now + self.backoff.step()).is_none()
    }

    pub(super) fn is_retrying(&self) -> bool {
        self.retry_at.is_some()
    }

    /// When the next attempt is due; `None` while there is nothing to put.
    pub(super) fn due(&self) -> Option<Duration> {
        let idle = self.trying.is_empty() && self.waiting.is_empty();
        (!idle).then(|| self.retry_at.unwrap_or(Duration::ZERO))
    }

    /// Throws away what `partitions` have here; true where that ends a series of retries.
    pub(super) fn discard(&mut self, partitions: &[TopicPartition]) -> bool {
        let keep = |batch: &Batch| !partitions.contains(batch.partition());
        self.trying.retain(keep);
        self.waiting.retain(keep);
        if self.trying.is_empty() && self.retry_at.take().is_some() {
            self.backoff.reset();
            return true;
        }
        false
    }

    /// The position behind the last batch of `partition` here.
    pub(super) fn next_offset(&self, partition: &TopicPartition) -> Option<i64> {
        let mut newest_first = self.waiting.iter().rev().chain(self.trying.iter().rev());
        newest_first.find(|batch| batch.partition() == partition).map(Batch::next_offset)
    }
}

#[cfg(test)]
mod tests {
    use lakeferry_api::BatchBuilder;

    use super::*;

    fn batch(partition: i32, base: i64) -> Batch {
        BatchBuilder::new(TopicPartition::new("t", partition), base).build(base + 10)
    }

    fn bases(batches: &[Batch]) -> Vec<(i32, i64)> {
        batches.iter().map(|batch| (batch.partition().partition, batch.base_offset())).collect()
    }

    fn inbox() -> Inbox {
        Inbox::new(Backoff::new(Duration::from_secs(1), Duration::from_secs(8)))
    }

    #[test]
    fn retries_are_identical_whatever_arrives() {
        let mut inbox = inbox();
        assert_eq!(inbox.due(), None);
        inbox.push([batch(0, 0), batch(1, 0)]);
        assert_eq!(inbox.due(), Some(Duration::ZERO));
        assert_eq!(bases(inbox.attempt()), [(0, 0), (1, 0)]);
        assert!(inbox.retry(Duration::from_secs(5)));
        inbox.push([batch(0, 10)]);
        assert_eq!(inbox.due(), Some(Duration::from_secs(6)));
        assert_eq!(inbox.next_offset(&TopicPartition::new("t", 0)), Some(20));
        assert_eq!(bases(inbox.attempt()), [(0, 0), (1, 0)]);
        assert!(!inbox.retry(Duration::from_secs(6)));
        assert_eq!(inbox.due(), Some(Duration::from_secs(8)));
        let (taken, ends_retries) = inbox.taken();
        assert_eq!((taken.len(), ends_retries), (2, true));
        assert_eq!(bases(inbox.attempt()), [(0, 10)]);
    }

    #[test]
    fn a_partition_that_goes_takes_its_batches_along() {
        let mut inbox = inbox();
        inbox.push([batch(0, 0), batch(1, 0)]);
        inbox.attempt();
        inbox.retry(Duration::ZERO);
        inbox.push([batch(0, 10), batch(1, 10)]);
        assert!(!inbox.discard(&[TopicPartition::new("t", 0)]));
        assert_eq!(bases(inbox.attempt()), [(1, 0)]);
        assert!(!inbox.discard(&[TopicPartition::new("t", 9)]));
        assert!(inbox.discard(&[TopicPartition::new("t", 1)]));
        assert!(!inbox.is_retrying() && inbox.due().is_none());
    }
}
