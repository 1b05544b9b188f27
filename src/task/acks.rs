//! Which source offsets may be stored: per source partition the longest prefix of batches whose records the broker has
//! all acknowledged. Pure; the source loop alone owns it (A2).
//!
//! Source partitions are independent of each other. A batch whose records were all dropped (filtered or tolerated) does
//! not move the offset, as in Connect; one that had no records to begin with does.

use std::collections::{BTreeMap, VecDeque};

use lakeferry_api::{SourceOffset, SourcePartition};

/// Names a batch that was submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ticket {
    partition: SourcePartition,
    number: u64,
}

/// What was submitted, what of it is acknowledged, and what waits to be stored.
#[derive(Debug, Default)]
pub(super) struct Acks {
    queue_by_partition: BTreeMap<SourcePartition, Queue>,
    unacknowledged: usize,
}

#[derive(Debug, Default)]
struct Queue {
    /// The number of the first entry of `entries`.
    first: u64,
    entries: VecDeque<Entry>,
    /// The offset of the acknowledged prefix, with the number of the batch that gave it, while it is not stored.
    ready: Option<(u64, SourceOffset)>,
}

#[derive(Debug)]
struct Entry {
    /// Records that are not acknowledged yet.
    open_records: usize,
    offset: Option<SourceOffset>,
}

/// Offsets to store, with the batches they stand for.
#[derive(Debug, Clone, Default)]
pub(super) struct Committable {
    numbers: Vec<u64>,
    offsets: Vec<(SourcePartition, SourceOffset)>,
}

impl Acks {
    /// A batch of `partition` with `records` records goes out; `offset` holds once all are acknowledged.
    pub(super) fn submit(
        &mut self,
        partition: &SourcePartition,
        offset: Option<SourceOffset>,
        records: usize,
    ) -> Ticket {
        let queue = self.queue_by_partition.entry(partition.clone()).or_default();
        let number = queue.push(Entry { open_records: records, offset });
        self.unacknowledged += records;
        Ticket { partition: partition.clone(), number }
    }

    /// One more record of this batch is acknowledged.
    pub(super) fn acknowledge(&mut self, ticket: &Ticket) {
        let Some(queue) = self.queue_by_partition.get_mut(&ticket.partition) else { return };
        let index = ticket.number.checked_sub(queue.first).and_then(|index| usize::try_from(index).ok());
        let entry = index.and_then(|index| queue.entries.get_mut(index)).filter(|entry| entry.open_records > 0);
        debug_assert!(entry.is_some(), "a record is acknowledged once");
        if let Some(entry) = entry {
            entry.open_records -= 1;
            self.unacknowledged -= 1;
            queue.settle();
        }
    }

    /// Records that were submitted and are not acknowledged.
    pub(super) fn unacknowledged(&self) -> usize {
        self.unacknowledged
    }

    /// The offsets that may be stored now and are not.
    pub(super) fn committable(&self) -> Committable {
        let mut committable = Committable::default();
        for (partition, queue) in &self.queue_by_partition {
            if let Some((number, offset)) = &queue.ready {
                committable.numbers.push(*number);
                committable.offsets.push((partition.clone(), offset.clone()));
            }
        }
        committable
    }

    /// These offsets are stored. Newer ones that were acknowledged meanwhile stay committable.
    pub(super) fn committed(&mut self, committed: &Committable) {
        for ((partition, _), number) in committed.offsets.iter().zip(&committed.numbers) {
            let Some(queue) = self.queue_by_partition.get_mut(partition) else { continue };
            if queue.ready.as_ref().is_some_and(|(ready, _)| ready == number) {
                queue.ready = None;
            }
            if queue.ready.is_none() && queue.entries.is_empty() {
                self.queue_by_partition.remove(partition);
            }
        }
    }
}

impl Queue {
    fn push(&mut self, entry: Entry) -> u64 {
        let number = self.first + self.entries.len() as u64;
        self.entries.push_back(entry);
        self.settle();
        number
    }

    /// Takes the acknowledged prefix off the queue.
    fn settle(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.open_records == 0) {
            let number = self.first;
            self.first += 1;
            if let Some(offset) = self.entries.pop_front().and_then(|entry| entry.offset) {
                self.ready = Some((number, offset));
            }
        }
    }
}

impl Committable {
    /// The offsets, at most one a source partition.
    pub(super) fn offsets(&self) -> &[(SourcePartition, SourceOffset)] {
        &self.offsets
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn partition(name: &str) -> SourcePartition {
        SourcePartition::new(json!({"file": name}).as_object().unwrap()).unwrap()
    }

    fn offset(position: u64) -> SourceOffset {
        SourceOffset::new(json!({"position": position}).as_object().unwrap().clone()).unwrap()
    }

    fn position(acks: &Acks, name: &str) -> Option<u64> {
        let committable = acks.committable();
        let found = committable.offsets().iter().find(|(known, _)| *known == partition(name));
        found.map(|(_, offset)| offset.as_map()["position"].as_u64().unwrap())
    }

    #[test]
    fn only_the_acknowledged_prefix_of_each_partition_counts() {
        let mut acks = Acks::default();
        let first = acks.submit(&partition("a"), Some(offset(1)), 2);
        let second = acks.submit(&partition("a"), Some(offset(2)), 1);
        let other = acks.submit(&partition("b"), Some(offset(9)), 1);
        acks.acknowledge(&second);
        acks.acknowledge(&other);
        acks.acknowledge(&first);
        assert_eq!((position(&acks, "a"), position(&acks, "b")), (None, Some(9)));
        acks.acknowledge(&first);
        assert_eq!((position(&acks, "a"), acks.unacknowledged()), (Some(2), 0));
    }

    #[test]
    fn a_batch_without_records_moves_on_and_one_without_offset_does_not() {
        let mut acks = Acks::default();
        let waiting = acks.submit(&partition("a"), Some(offset(1)), 1);
        acks.submit(&partition("a"), Some(offset(2)), 0);
        let silent = acks.submit(&partition("a"), None, 1);
        acks.acknowledge(&silent);
        assert_eq!(position(&acks, "a"), None);
        acks.acknowledge(&waiting);
        assert_eq!(position(&acks, "a"), Some(2));
    }

    #[test]
    fn what_is_acknowledged_during_a_commit_stays_committable() {
        let mut acks = Acks::default();
        let first = acks.submit(&partition("a"), Some(offset(1)), 1);
        let second = acks.submit(&partition("a"), Some(offset(2)), 1);
        acks.acknowledge(&first);
        let storing = acks.committable();
        acks.acknowledge(&second);
        acks.committed(&storing);
        assert_eq!(position(&acks, "a"), Some(2));
        acks.committed(&acks.committable());
        assert_eq!(position(&acks, "a"), None);
        assert!(acks.queue_by_partition.is_empty(), "finished source partitions cost no memory");
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_model(
            batches in proptest::collection::vec((0..3_usize, 0..4_usize, proptest::bool::weighted(0.8)), 1..30),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 0..120),
            commit_every in 1..10_usize,
        ) {
            let names = ["a", "b", "c"];
            let mut acks = Acks::default();
            let mut tickets = Vec::new();
            for (at, (name, records, has_offset)) in batches.iter().enumerate() {
                let told = has_offset.then(|| offset(at as u64));
                tickets.push(acks.submit(&partition(names[*name]), told, *records));
            }
            let mut open: Vec<usize> = batches.iter().map(|batch| batch.1).collect();
            let mut stored = [None; 3];
            for (step, index) in order.iter().enumerate() {
                let waiting: Vec<usize> = (0..open.len()).filter(|at| open[*at] > 0).collect();
                if waiting.is_empty() {
                    break;
                }
                let at = waiting[index.index(waiting.len())];
                open[at] -= 1;
                acks.acknowledge(&tickets[at]);
                if step % commit_every == 0 {
                    let committable = acks.committable();
                    for (at, name) in names.iter().enumerate() {
                        stored[at] = position(&acks, name).or(stored[at]);
                    }
                    acks.committed(&committable);
                }
            }
            for (at, name) in names.iter().enumerate() {
                let of_partition = (0..batches.len()).filter(|index| batches[*index].0 == at);
                let prefix = of_partition.take_while(|index| open[*index] == 0);
                let expected = prefix.filter(|index| batches[*index].2).last().map(|index| index as u64);
                prop_assert_eq!(position(&acks, name).or(stored[at]), expected);
            }
            prop_assert_eq!(acks.unacknowledged(), open.iter().sum::<usize>());
        }
    }
}
