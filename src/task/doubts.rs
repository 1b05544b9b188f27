//! What speaks against the position of a partition: the broker did not take it, the log ends before it, or an election
//! took back what was read. The sink loop raises a doubt and has the partition opened anew; the context tells the task of
//! a parting. One doubt at most stands at a time, and what is learned later takes the place of what was known before.
//!
//! Pure but for its lock, which nobody holds across an await: a task asks its context while the loop waits for it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lakeferry_api::TopicPartition;

/// Why a partition is opened anew.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Doubt {
    /// The broker refused a position that the log does not end before. Asked once, whoever names it again is believed.
    Refused { position: i64 },
    /// The log ends before a position, or did when a broker that may lag behind was asked.
    BeyondEnd(Insisted),
    /// The log parted from what was read of it, `at` this offset: of this topic, if the broker told its id. A task may
    /// insist on a position behind it.
    Parted { at: i64, topic_id: Option<String>, insisted: Option<Insisted> },
}

/// A position that the log does not have, and since when the task wants to begin there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Insisted {
    pub(super) position: i64,
    pub(super) since: Duration,
}

impl Doubt {
    /// The task insists on a position, whatever was known before.
    pub(super) fn insisted(before: Option<Self>, insisted: Insisted) -> Self {
        match before {
            Some(Self::Parted { at, topic_id, .. }) => Self::Parted { at, topic_id, insisted: Some(insisted) },
            _ => Self::BeyondEnd(insisted),
        }
    }

    /// What the task insists on.
    fn position_insisted_on(&self) -> Option<Insisted> {
        match self {
            Self::Refused { .. } => None,
            Self::BeyondEnd(insisted) => Some(*insisted),
            Self::Parted { insisted, .. } => *insisted,
        }
    }
}

/// The doubt of each partition, and the topic that it was raised of.
#[derive(Debug, Default)]
pub(super) struct Doubts(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    doubt_by_partition: BTreeMap<TopicPartition, Doubt>,
    /// The topic id that the broker gave last.
    topic_id_by_partition: BTreeMap<TopicPartition, Option<String>>,
}

impl Doubts {
    pub(super) fn raise(&self, partition: &TopicPartition, doubt: Doubt) {
        self.known().doubt_by_partition.insert(partition.clone(), doubt);
    }

    pub(super) fn of(&self, partition: &TopicPartition) -> Option<Doubt> {
        self.known().doubt_by_partition.get(partition).cloned()
    }

    /// The log of `partition` parted at `at` from what was read of it.
    pub(super) fn part(&self, partition: &TopicPartition, at: i64) {
        let mut known = self.known();
        let topic_id = known.topic_id_by_partition.get(partition).cloned().flatten();
        let insisted = known.doubt_by_partition.get(partition).and_then(Doubt::position_insisted_on);
        known.doubt_by_partition.insert(partition.clone(), Doubt::Parted { at, topic_id, insisted });
    }

    /// Where the log of `partition` parted from what was read of it, until it is begun anew.
    pub(super) fn parted_at(&self, partition: &TopicPartition) -> Option<i64> {
        match self.known().doubt_by_partition.get(partition) {
            Some(Doubt::Parted { at, .. }) => Some(*at),
            _ => None,
        }
    }

    /// True where `partition` was opened anew because of just this position.
    pub(super) fn is_refused(&self, partition: &TopicPartition, position: i64) -> bool {
        self.known().doubt_by_partition.get(partition) == Some(&Doubt::Refused { position })
    }

    /// The position beyond the log because of which `partition` is opened anew.
    pub(super) fn insisted_on(&self, partition: &TopicPartition) -> Option<Insisted> {
        self.known().doubt_by_partition.get(partition)?.position_insisted_on()
    }

    /// The broker says which topic it is now: where a log parted says nothing of another.
    pub(super) fn topic_is(&self, partition: &TopicPartition, topic_id: Option<String>) {
        let mut known = self.known();
        if let Some(Doubt::Parted { topic_id: Some(read), insisted, .. }) = known.doubt_by_partition.get(partition)
            && topic_id.as_ref() != Some(read)
        {
            match insisted.map(Doubt::BeyondEnd) {
                Some(doubt) => known.doubt_by_partition.insert(partition.clone(), doubt),
                None => known.doubt_by_partition.remove(partition),
            };
        }
        known.topic_id_by_partition.insert(partition.clone(), topic_id);
    }

    /// `partition` begins where the log has something. A position that was refused may be so again.
    pub(super) fn settle(&self, partition: &TopicPartition) {
        let mut known = self.known();
        if !matches!(known.doubt_by_partition.get(partition), Some(Doubt::Refused { .. })) {
            known.doubt_by_partition.remove(partition);
        }
    }

    pub(super) fn forget(&self, partition: &TopicPartition) {
        self.known().doubt_by_partition.remove(partition);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSISTED: Insisted = Insisted { position: 9, since: Duration::from_secs(1) };

    fn orders() -> TopicPartition {
        TopicPartition::new("orders", 0)
    }

    #[test]
    fn who_insists_behind_a_parting_is_still_told_of_it() {
        let doubts = Doubts::default();
        doubts.topic_is(&orders(), Some("old".to_owned()));
        doubts.part(&orders(), 5);
        doubts.raise(&orders(), Doubt::insisted(doubts.of(&orders()), INSISTED));
        assert_eq!((doubts.parted_at(&orders()), doubts.insisted_on(&orders())), (Some(5), Some(INSISTED)));
        doubts.topic_is(&orders(), Some("old".to_owned()));
        assert_eq!(doubts.parted_at(&orders()), Some(5));
        doubts.topic_is(&orders(), Some("new".to_owned()));
        assert_eq!((doubts.parted_at(&orders()), doubts.insisted_on(&orders())), (None, Some(INSISTED)));
    }

    #[test]
    fn a_parting_of_a_topic_without_id_is_no_other_topics() {
        let doubts = Doubts::default();
        doubts.part(&orders(), 5);
        doubts.topic_is(&orders(), Some("new".to_owned()));
        assert_eq!(doubts.parted_at(&orders()), Some(5));
    }

    #[test]
    fn only_a_refusal_outlives_a_new_beginning() {
        let doubts = Doubts::default();
        doubts.raise(&orders(), Doubt::BeyondEnd(INSISTED));
        doubts.settle(&orders());
        assert_eq!(doubts.of(&orders()), None);
        doubts.raise(&orders(), Doubt::Refused { position: 9 });
        doubts.settle(&orders());
        assert!(doubts.is_refused(&orders(), 9) && !doubts.is_refused(&orders(), 8));
        doubts.forget(&orders());
        assert_eq!(doubts.of(&orders()), None);
    }
}
