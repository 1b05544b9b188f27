//! Where partitions begin: by a seek, and where the client takes none by assigning them once more.
//!
//! Invariant: a partition is [`Phase::Reading`] once the client has taken the very place that was ordered, and has
//! asked the broker about its mark, if it has one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lakeferry_api::{Place, TopicPartition};

use super::super::ffi::{Failure, FetchFrom};
use super::fetch::Fetch;
use super::rebalance::UNSTARTED;
use super::slot::{Phase, Slot};

const SEEK_WAIT: Duration = Duration::from_secs(1);
/// How long a start is refused by the client before the partition is assigned anew.
const RESTART_AFTER: Duration = Duration::from_millis(500);

impl Fetch {
    /// Begins what the loop has ordered, where it said.
    pub(super) fn begin_starts(&mut self) {
        let due = |slot: &mut Slot| match slot.phase {
            Phase::Starting { place, since } if !slot.revoking => Some((slot.partition.clone(), place, since)),
            _ => None,
        };
        let due: Vec<_> = self.slots().filter_map(due).collect();
        if due.is_empty() {
            return;
        }
        let rows: Vec<_> = due.iter().map(|(partition, place, _)| fetch_from(partition, *place)).collect();
        let refused: BTreeSet<_> = match self.spec.handle.seek(&rows, SEEK_WAIT) {
            Ok(entries) => {
                entries.into_iter().filter(|entry| entry.failure.is_some()).map(|entry| entry.partition).collect()
            }
            Err(_) => rows.into_iter().map(|row| row.partition).collect(),
        };
        let mut overdue = Vec::new();
        for (partition, place, since) in due {
            if !refused.contains(&partition) {
                self.started(&partition, place);
            } else if self.now.saturating_sub(since) >= RESTART_AFTER {
                overdue.push((partition, place));
            }
        }
        if overdue.is_empty() {
            return;
        }
        if self.spec.handle.is_cooperative() {
            for (partition, place) in overdue {
                if self.assign_anew(&partition, place) {
                    self.assigned(&partition, place);
                }
            }
        } else if self.assign_all_anew(&overdue) {
            // What the brokers were asked about those that go on is forgotten with their assignment.
            let marked = |slot: &mut Slot| {
                let asks = slot.is_reading() && slot.place().mark.is_some();
                asks.then(|| (slot.partition.clone(), slot.place()))
            };
            let marked: Vec<_> = self.slots().filter_map(marked).collect();
            for (partition, place) in overdue.iter().chain(&marked) {
                self.assigned(partition, *place);
            }
        }
    }

    fn started(&mut self, partition: &TopicPartition, place: Place) {
        if let Some(slot) = self.slot(partition) {
            slot.started(place);
        }
    }

    /// Assigning asks the broker nothing: where there is a mark to ask about, the seek is made again.
    fn assigned(&mut self, partition: &TopicPartition, place: Place) {
        let now = self.now;
        match self.slot(partition) {
            Some(slot) if place.mark.is_some() => slot.phase = Phase::Starting { place, since: now },
            Some(slot) => slot.started(place),
            None => {}
        }
    }

    /// A partition that the client has given up (out of range, its log cut) takes no seek: it is assigned once more.
    /// What was paused stays so.
    fn assign_anew(&mut self, partition: &TopicPartition, place: Place) -> bool {
        let handle = Arc::clone(&self.spec.handle);
        // It may be unassigned already, by a try that failed half way.
        let _ = handle.incremental_unassign(std::slice::from_ref(partition));
        is_assigned(handle.incremental_assign(&[fetch_from(partition, place)]), std::slice::from_ref(partition))
    }

    /// The same for a group that assigns all at once: whatever is not given up goes on where it is.
    fn assign_all_anew(&mut self, overdue: &[(TopicPartition, Place)]) -> bool {
        let row = |slot: &mut Slot| match slot.phase {
            Phase::Reading => fetch_from(&slot.partition, slot.place()),
            _ => overdue
                .iter()
                .find(|(partition, _)| *partition == slot.partition)
                .map_or_else(|| fetch_from(&slot.partition, UNSTARTED.into()), |(at, place)| fetch_from(at, *place)),
        };
        let rows: Vec<_> = self.slots().map(row).collect();
        let partitions: Vec<_> = overdue.iter().map(|(partition, _)| partition.clone()).collect();
        is_assigned(self.spec.handle.assign(&rows), &partitions)
    }
}

/// The client fetches from the mark on, so that the broker looks at the epoch where it is known, and a record between
/// the mark and the place is seen.
pub(super) fn fetch_from(partition: &TopicPartition, place: Place) -> FetchFrom {
    FetchFrom {
        partition: partition.clone(),
        offset: place.read_from(),
        leader_epoch: place.mark.map(|mark| mark.leader_epoch),
    }
}

fn is_assigned(result: Result<(), Failure>, partitions: &[TopicPartition]) -> bool {
    if let Err(failure) = &result {
        let names: Vec<_> = partitions.iter().map(ToString::to_string).collect();
        tracing::warn!("{} cannot begin yet: {}", names.join(", "), failure.text);
    }
    result.is_ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lakeferry_api::{Batch, EpochMark};

    use super::super::testing::Polling;
    use super::super::{COOPERATIVE, Said};
    use super::*;

    const PARTITIONS: i32 = 16;

    fn batches(heard: &[Said]) -> impl Iterator<Item = &Batch> {
        heard
            .iter()
            .flat_map(|said| match said {
                Said::Batches(batches) => batches.as_slice(),
                _ => &[],
            })
            .map(|(_, batch)| batch)
    }

    fn offsets(heard: &[Said]) -> BTreeMap<i32, Vec<i64>> {
        let mut offsets: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
        for batch in batches(heard) {
            offsets.entry(batch.partition().partition).or_default().extend(batch.offsets());
        }
        offsets
    }

    fn marked(offset: i64, leader_epoch: i32, upto: i64) -> Place {
        Place { offset, mark: Some(EpochMark { leader_epoch, upto }) }
    }

    /// Three partitions are out of range at once and begin anew, one by its mark; a fourth goes on where it was.
    async fn begin_anew_together(strategy: &str) {
        let mut polling = Polling::join_many(strategy, &[], 4);
        for partition in 0..4 {
            polling.fill(partition, 10).await;
        }
        polling.take_given();
        polling.order(&[(0, 500.into()), (1, 600.into()), (2, 700.into()), (3, 1.into())]);
        let heard = polling.hear(|heard| {
            let lost = heard.iter().filter(|said| matches!(said, Said::OutOfRange(..))).count();
            lost == 3 && offsets(heard).get(&3).is_some_and(|offsets| offsets.len() == 9)
        });
        assert_eq!(offsets(&heard), BTreeMap::from([(3, (1..10).collect())]));
        polling.order(&[(0, 4.into()), (1, marked(7, 0, 7)), (2, 8.into())]);
        polling.fill(3, 5).await;
        let heard = polling.hear(|heard| offsets(heard).values().map(Vec::len).sum::<usize>() >= 6 + 3 + 2 + 5);
        let wanted: [Vec<i64>; 4] = [4..10, 7..10, 8..10, 10..15].map(Iterator::collect);
        assert_eq!(offsets(&heard), (0..).zip(wanted).collect());
    }

    #[tokio::test]
    async fn partitions_of_a_group_that_assigns_all_at_once_begin_anew_each_at_its_place() {
        begin_anew_together("range").await;
    }

    #[tokio::test]
    async fn so_do_those_of_a_group_that_moves_them_one_by_one() {
        begin_anew_together(COOPERATIVE).await;
    }

    #[tokio::test]
    async fn where_all_are_assigned_anew_the_brokers_are_asked_again_about_those_that_go_on() {
        let mut polling = Polling::join_many("range", &[], 2);
        polling.fill(0, 10).await;
        polling.fill(1, 10).await;
        polling.take_given();
        polling.order(&[(0, 500.into()), (1, 1.into())]);
        polling.hear(|heard| {
            let is_lost = heard.iter().any(|said| matches!(said, Said::OutOfRange(..)));
            is_lost && offsets(heard).get(&1).is_some_and(|offsets| offsets.len() == 9)
        });
        polling.order(&[(0, 4.into())]);
        polling.fetch.take_orders();
        polling.fetch.begin_starts();
        let slot = polling.fetch.slot(&TopicPartition::new("t", 1)).unwrap();
        assert!(matches!(slot.phase, Phase::Starting { place, .. } if place == marked(10, 0, 10)), "{:?}", slot.phase);
        polling.fill(1, 5).await;
        let heard = polling.hear(|heard| offsets(heard).values().map(Vec::len).sum::<usize>() >= 6 + 5);
        assert_eq!(offsets(&heard), BTreeMap::from([(0, (4..10).collect()), (1, (10..15).collect())]));
    }

    #[tokio::test]
    async fn all_partitions_can_be_assigned_anew_again_and_again() {
        let mut polling = Polling::join_many("range", &[], PARTITIONS);
        for partition in 0..PARTITIONS {
            polling.fill(partition, 10).await;
        }
        let given = polling.next(true);
        for _ in 0..3 {
            polling.fetch.take_assignment(given.clone());
            let places: Vec<_> = (0..PARTITIONS).map(|partition| (partition, marked(4, 0, 4))).collect();
            polling.order(&places);
            polling.hear(|heard| offsets(heard).len() == given.len());
            let overdue: Vec<_> = given.iter().map(|partition| (partition.clone(), marked(4, 0, 4))).collect();
            for _ in 0..20 {
                assert!(polling.fetch.assign_all_anew(&overdue));
            }
            polling.fetch.let_go(&given);
        }
    }

    #[tokio::test]
    async fn the_answer_about_an_earlier_place_does_not_cut_the_log_at_a_later_one() {
        let mut polling = Polling::join(COOPERATIVE, &[]);
        polling.fill(0, 10).await;
        polling.cluster.partition_leader("t", 0, Some(1)).unwrap();
        polling.fill(0, 10).await;
        polling.take_given();
        // The first start is under way, the broker asked, but slow to answer, when the second comes.
        polling.order(&[(0, 1.into())]);
        polling.hear(|heard| batches(heard).count() > 0);
        polling.cluster.broker_round_trip_time(1, Duration::from_secs(1)).unwrap();
        polling.order(&[(0, marked(5, 0, 5))]);
        polling.fetch.take_orders();
        polling.fetch.begin_starts();
        polling.order(&[(0, marked(15, 1, 15))]);
        polling.fetch.take_orders();
        polling.fetch.begin_starts();
        let heard = polling.hear(|heard| {
            heard.iter().any(|said| matches!(said, Said::Truncated(..))) || offsets(heard).contains_key(&0)
        });
        let truncated = heard.iter().find_map(|said| match said {
            Said::Truncated(_, _, divergence) => Some(*divergence),
            _ => None,
        });
        assert_eq!(truncated, None, "nothing was taken back");
        assert_eq!(batches(&heard).next().map(Batch::base_offset), Some(15));
    }
}
