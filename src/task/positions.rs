//! The three numbers of every partition that a sink task has open: consumed >= durable >= committed. Pure; the sink
//! loop alone owns it (A2), and because a commit can only be taken from here, no committed offset exceeds the durable
//! position of its partition (A4).
//!
//! All three say "every offset below": consumed was put without error, durable was reported by the task's `flush`,
//! committed was accepted by the group's coordinator.

use std::collections::BTreeMap;
use std::fmt;

use lakeferry_api::{Batch, ConnectError, Positions, Result, TopicPartition};

/// The positions of the open partitions.
#[derive(Debug, Default)]
pub(super) struct PositionTable {
    by_partition: BTreeMap<TopicPartition, Position>,
}

#[derive(Debug, Clone, Copy)]
struct Position {
    consumed: i64,
    /// `None`: only the task knows, and has not said yet.
    durable: Option<i64>,
    /// `None`: what the group holds is not known to agree with anything here.
    committed: Option<i64>,
}

/// What is known of the records below the offset that a partition begins at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Below {
    /// Nothing is to be done for them, and the group holds this very offset or nothing worth replacing.
    Committed,
    /// Nothing is to be done for them; the group may hold another offset.
    Durable,
    /// The task keeps its own positions: its next `flush` says what is durable.
    TaskKnows,
}

/// A durable position that a task reported and that cannot be so.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    partition: TopicPartition,
    reported: i64,
    why: &'static str,
}

/// Positions as log lines show them.
pub(super) struct Shown<'a>(pub(super) &'a Positions);

impl PositionTable {
    /// A partition begins at `offset`.
    pub(super) fn begin(&mut self, partition: TopicPartition, offset: i64, below: Below) {
        let durable = (below != Below::TaskKnows).then_some(offset);
        let committed = (below == Below::Committed).then_some(offset);
        self.by_partition.insert(partition, Position { consumed: offset, durable, committed });
    }

    /// Forgets a partition; false where it was not known.
    pub(super) fn end(&mut self, partition: &TopicPartition) -> bool {
        self.by_partition.remove(partition).is_some()
    }

    /// The task wants to read from `offset` on, whatever was known before.
    pub(super) fn seek(&mut self, partition: &TopicPartition, offset: i64, below: Below) {
        if self.by_partition.contains_key(partition) {
            self.begin(partition.clone(), offset, below);
        }
    }

    /// The log lost the records from `divergence` on: that they were consumed, or durable, counts no more.
    pub(super) fn cut_back(&mut self, partition: &TopicPartition, divergence: i64) {
        if let Some(position) = self.by_partition.get_mut(partition) {
            position.consumed = position.consumed.min(divergence);
            position.durable = position.durable.map(|durable| durable.min(divergence));
        }
    }

    /// The next offset to put.
    pub(super) fn consumed(&self, partition: &TopicPartition) -> Option<i64> {
        self.by_partition.get(partition).map(|position| position.consumed)
    }

    /// The open partitions.
    pub(super) fn partitions(&self) -> Vec<TopicPartition> {
        self.by_partition.keys().cloned().collect()
    }

    /// The consumed positions of all open partitions.
    pub(super) fn all_consumed(&self) -> Positions {
        self.by_partition.iter().map(|(partition, position)| (partition.clone(), position.consumed)).collect()
    }

    /// Checks that `batches` continue what was put, each where the one before it ends.
    ///
    /// # Errors
    /// `Fatal` where offsets are skipped or repeated: the task would never learn of the records between.
    pub(super) fn check_continuity(&self, batches: &[Batch]) -> Result<()> {
        let mut next_by_partition: BTreeMap<&TopicPartition, i64> = BTreeMap::new();
        for batch in batches {
            let partition = batch.partition();
            let expected = next_by_partition.get(partition).copied().or_else(|| self.consumed(partition));
            if expected != Some(batch.base_offset()) {
                let position = expected.map_or("none".to_owned(), |offset| offset.to_string());
                return Err(ConnectError::fatal(format!(
                    "the consumer gave records of {partition} from offset {} on, but the position is {position}: \
                     records would be lost or repeated; restart the task",
                    batch.base_offset()
                )));
            }
            next_by_partition.insert(partition, batch.next_offset());
        }
        Ok(())
    }

    /// The task has taken these batches.
    pub(super) fn consume(&mut self, batches: &[Batch]) {
        for batch in batches {
            if let Some(position) = self.by_partition.get_mut(batch.partition()) {
                position.consumed = position.consumed.max(batch.next_offset());
            }
        }
    }

    /// The task reported these durable positions. Those that cannot be so are left out and returned.
    pub(super) fn report_durable(&mut self, reported: &Positions) -> Vec<Refused> {
        let mut refused = Vec::new();
        for (partition, &offset) in reported {
            let why = match self.by_partition.get_mut(partition) {
                None => "the partition is not open",
                Some(position) if offset > position.consumed => "it was not consumed that far",
                Some(position) if position.durable.is_some_and(|durable| offset < durable) => "more was durable before",
                Some(position) => {
                    position.durable = Some(offset);
                    continue;
                }
            };
            refused.push(Refused { partition: partition.clone(), reported: offset, why });
        }
        refused
    }

    /// The durable positions of all open partitions.
    pub(super) fn all_durable(&self) -> Positions {
        let durable =
            |(partition, position): (&TopicPartition, &Position)| Some((partition.clone(), position.durable?));
        self.by_partition.iter().filter_map(durable).collect()
    }

    /// What is durable and not yet committed.
    pub(super) fn to_commit(&self) -> Positions {
        let mut durable = self.all_durable();
        durable.retain(|partition, durable| self.by_partition[partition].committed != Some(*durable));
        durable
    }

    /// The coordinator accepted `committed`, taken from [`PositionTable::to_commit`] earlier.
    pub(super) fn committed(&mut self, committed: &Positions) {
        for (partition, &offset) in committed {
            // A seek in between may have moved durable below it; then it stays unknown and is committed anew.
            let position = self.by_partition.get_mut(partition);
            if let Some(position) = position.filter(|position| Some(offset) <= position.durable) {
                position.committed = Some(offset);
            }
        }
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (partition, offset) in self.0 {
            write!(f, "{separator}{partition}@{offset}")?;
            separator = " ";
        }
        Ok(())
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}: {}", self.partition, self.reported, self.why)
    }
}

#[cfg(test)]
mod tests {
    use lakeferry_api::BatchBuilder;
    use proptest::prelude::*;

    use super::*;

    fn orders() -> TopicPartition {
        TopicPartition::new("orders", 0)
    }

    fn batch(base: i64, next: i64) -> Batch {
        BatchBuilder::new(orders(), base).build(next)
    }

    fn at(offset: i64) -> Positions {
        Positions::from([(orders(), offset)])
    }

    #[test]
    fn commits_what_is_durable_and_only_once() {
        let mut table = PositionTable::default();
        table.begin(orders(), 10, Below::Committed);
        table.consume(&[batch(10, 20)]);
        assert!(table.to_commit().is_empty());
        assert!(table.report_durable(&at(15)).is_empty());
        assert_eq!(table.to_commit(), at(15));
        assert_eq!(table.to_commit(), at(15), "until the coordinator accepts it");
        table.committed(&at(15));
        assert!(table.to_commit().is_empty());
    }

    #[test]
    fn refuses_what_cannot_be_durable() {
        let mut table = PositionTable::default();
        table.begin(orders(), 10, Below::Committed);
        table.consume(&[batch(10, 20)]);
        table.report_durable(&at(18));
        let other = TopicPartition::new("orders", 1);
        let refused = table.report_durable(&Positions::from([(orders(), 21), (other, 5)]));
        assert_eq!(refused.len(), 2);
        assert_eq!(table.report_durable(&at(17))[0].to_string(), "orders-0 at 17: more was durable before");
        assert_eq!(table.to_commit(), at(18));
    }

    #[test]
    fn a_start_that_the_group_does_not_hold_is_committed() {
        let mut table = PositionTable::default();
        table.begin(orders(), 10, Below::Durable);
        assert_eq!(table.to_commit(), at(10));
    }

    #[test]
    fn where_the_task_knows_nothing_is_committed_before_it_says_so() {
        let mut table = PositionTable::default();
        table.begin(orders(), 10, Below::TaskKnows);
        assert!(table.to_commit().is_empty() && table.all_durable().is_empty());
        // Offsets below 10 may be lost and not be published as lost yet.
        assert!(table.report_durable(&at(7)).is_empty());
        assert_eq!(table.to_commit(), at(7));
        table.seek(&orders(), 20, Below::TaskKnows);
        assert!(table.to_commit().is_empty());
    }

    #[test]
    fn what_the_log_lost_is_taken_back_from_the_group() {
        let mut table = PositionTable::default();
        table.begin(orders(), 10, Below::Committed);
        table.consume(&[batch(10, 20)]);
        table.report_durable(&at(18));
        table.cut_back(&orders(), 19);
        assert_eq!(table.to_commit(), at(18), "what lies below stands");
        table.committed(&at(18));
        table.cut_back(&orders(), 15);
        assert_eq!((table.consumed(&orders()), table.to_commit()), (Some(15), at(15)));
    }

    #[test]
    fn a_gap_and_a_repetition_are_fatal() {
        let mut table = PositionTable::default();
        table.begin(orders(), 10, Below::Committed);
        assert!(table.check_continuity(&[batch(10, 12), batch(12, 20)]).is_ok());
        for batches in [[batch(11, 12), batch(12, 20)], [batch(10, 12), batch(11, 20)]] {
            assert!(table.check_continuity(&batches).is_err());
        }
        table.end(&orders());
        assert!(table.check_continuity(&[batch(10, 12)]).is_err());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Consume(i64),
        Report(i64),
        BeginCommit,
        CommitDone,
        Seek(i64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..20_i64).prop_map(Step::Consume),
            (-20..120_i64).prop_map(Step::Report),
            Just(Step::BeginCommit),
            Just(Step::CommitDone),
            (0..100_i64).prop_map(Step::Seek),
        ];
        proptest::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn committed_never_exceeds_durable_nor_durable_consumed(start in 0..100_i64, steps in steps()) {
            let mut table = PositionTable::default();
            table.begin(orders(), start, Below::Committed);
            let mut in_flight = None;
            // What a perfect task has made durable, and what the group holds.
            let (mut vouched, mut broker) = (start, start);
            for step in steps {
                match step {
                    Step::Consume(records) => {
                        let from = table.consumed(&orders()).unwrap();
                        table.consume(&[batch(from, from + records)]);
                    }
                    Step::Report(offset) => {
                        if table.report_durable(&at(offset)).is_empty() {
                            vouched = offset;
                        }
                    }
                    Step::BeginCommit => in_flight = Some(table.to_commit()),
                    Step::CommitDone => {
                        for done in in_flight.take().into_iter() {
                            broker = done.get(&orders()).copied().unwrap_or(broker);
                            table.committed(&done);
                        }
                    }
                    Step::Seek(offset) => {
                        table.seek(&orders(), offset, Below::Durable);
                        vouched = offset;
                    }
                }
                let position = table.by_partition[&orders()];
                let durable = position.durable.unwrap();
                prop_assert!(position.consumed >= durable);
                prop_assert!(position.committed.is_none_or(|committed| committed <= durable));
                prop_assert_eq!(durable, vouched);
                prop_assert!(table.to_commit().values().all(|offset| *offset == vouched));
                if table.to_commit().is_empty() {
                    prop_assert_eq!(broker, vouched, "nothing is left to commit only where the group holds it");
                }
            }
        }
    }
}
