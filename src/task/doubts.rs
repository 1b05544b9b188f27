//! What speaks against the position of a partition: the broker did not take it, the log ends before it, or an election
//! took back what was read. The sink loop raises a doubt and has the partition opened anew; the context tells the task
//! of a parting. One doubt at most stands at a time, and what is learned later takes the place of what was known
//! before.
//!
//! Pure but for its lock, which nobody holds across an await: a task asks its context while the loop waits for it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lakeferry_api::{ConnectError, PartitionView, Result, TopicPartition};

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
    /// True where it speaks against beginning at `position`.
    pub(super) fn is_about(&self, position: i64) -> bool {
        match self {
            Self::Refused { .. } => false,
            Self::BeyondEnd(insisted) => insisted.position == position,
            Self::Parted { at, .. } => *at < position,
        }
    }

    /// What still speaks against `position`, which the task names again `now` that the log is as `view` says.
    pub(super) fn asked_again(self, position: i64, view: &PartitionView, now: Duration) -> Option<Self> {
        if !self.is_about(position) {
            return None;
        }
        let before = self.position_insisted_on().filter(|before| before.position == position);
        let insisted = before.unwrap_or(Insisted { position, since: now });
        match self {
            // Retention has overtaken the cut: nothing that was taken back could be read any more.
            Self::Parted { .. } if position <= view.log_start_offset => None,
            Self::Parted { at, topic_id, .. } => Some(Self::Parted { at, topic_id, insisted: Some(insisted) }),
            // The broker lagged behind, or the log was cut and has grown again: whoever asks now sees it as it is.
            _ if has_reached(position, view) => Some(Self::Refused { position }),
            _ => Some(Self::BeyondEnd(insisted)),
        }
    }

    /// What the task insists on.
    pub(super) fn position_insisted_on(&self) -> Option<Insisted> {
        match self {
            Self::Refused { .. } => None,
            Self::BeyondEnd(insisted) => Some(*insisted),
            Self::Parted { insisted, .. } => *insisted,
        }
    }
}

/// True where the log ends before `position`.
///
/// # Errors
/// `Retriable` where the broker does not tell the end: a stable offset below `position` proves nothing, for it falls
/// back while a transaction is open.
pub(super) fn ends_before(partition: &TopicPartition, position: i64, view: &PartitionView) -> Result<bool> {
    if view.end_offset.is_none() && !has_reached(position, view) {
        return Err(ConnectError::retriable(format!(
            "the broker does not tell where {partition} ends: it is not known whether offset {position} is in its log"
        )));
    }
    Ok(!has_reached(position, view))
}

/// True where the log is known to reach `position`.
fn has_reached(position: i64, view: &PartitionView) -> bool {
    position <= view.end_offset.unwrap_or(view.last_stable_offset)
}

/// The doubt of each partition, and what it was raised of.
#[derive(Debug, Default)]
pub(super) struct Doubts(Mutex<BTreeMap<TopicPartition, Known>>);

/// What is known of a partition.
#[derive(Debug, Default)]
struct Known {
    doubt: Option<Doubt>,
    /// The topic id that the broker gave last.
    topic_id: Option<String>,
    /// Where the log begins, as the broker said last.
    log_start: Option<i64>,
    /// What of that was known when the partition began last.
    log_start_believed: Option<i64>,
}

impl Doubts {
    pub(super) fn raise(&self, partition: &TopicPartition, doubt: Doubt) {
        self.lock().entry(partition.clone()).or_default().doubt = Some(doubt);
    }

    pub(super) fn of(&self, partition: &TopicPartition) -> Option<Doubt> {
        self.lock().get(partition)?.doubt.clone()
    }

    /// That the log of `partition`, as it was last told of, parted at `at` from what was read of it.
    pub(super) fn parting(&self, partition: &TopicPartition, at: i64) -> Doubt {
        let all = self.lock();
        let known = all.get(partition);
        Doubt::Parted {
            at,
            topic_id: known.and_then(|known| known.topic_id.clone()),
            insisted: known.and_then(|known| known.doubt.as_ref()?.position_insisted_on()),
        }
    }

    /// Where the log of `partition` parted from what was read of it, until it is begun anew.
    pub(super) fn parted_at(&self, partition: &TopicPartition) -> Option<i64> {
        match self.lock().get(partition)?.doubt {
            Some(Doubt::Parted { at, .. }) => Some(at),
            _ => None,
        }
    }

    /// True where `partition` was opened anew because of just this position.
    pub(super) fn is_refused(&self, partition: &TopicPartition, position: i64) -> bool {
        self.lock().get(partition).is_some_and(|known| known.doubt == Some(Doubt::Refused { position }))
    }

    /// The position beyond the log because of which `partition` is opened anew.
    pub(super) fn insisted_on(&self, partition: &TopicPartition) -> Option<Insisted> {
        self.lock().get(partition)?.doubt.as_ref()?.position_insisted_on()
    }

    /// The broker says which topic it is now: where a log parted says nothing of another. One that tells no id says
    /// nothing either.
    pub(super) fn topic_is(&self, partition: &TopicPartition, topic_id: Option<String>) {
        let mut all = self.lock();
        let known = all.entry(partition.clone()).or_default();
        if let Some(Doubt::Parted { topic_id: Some(read), insisted, .. }) = &known.doubt
            && topic_id.as_ref().is_some_and(|now| now != read)
        {
            known.doubt = insisted.map(Doubt::BeyondEnd);
        }
        known.topic_id = topic_id;
    }

    /// The broker says where the log of `partition` begins.
    pub(super) fn log_starts_at(&self, partition: &TopicPartition, log_start: i64) {
        self.lock().entry(partition.clone()).or_default().log_start = Some(log_start);
    }

    /// True where `partition` began at `position` because a broker said that the log has it: one that lagged behind, if
    /// the log begins later.
    pub(super) fn is_misled(&self, partition: &TopicPartition, position: i64) -> bool {
        let all = self.lock();
        all.get(partition).and_then(|known| known.log_start_believed).is_some_and(|log_start| log_start <= position)
    }

    /// `partition` begins at `begin`, where the log has something. If just that was refused it may be so again; another
    /// position that was is reached by reading, and may be refused for another reason then.
    pub(super) fn settle(&self, partition: &TopicPartition, begin: i64) {
        if let Some(known) = self.lock().get_mut(partition) {
            known.log_start_believed = known.log_start;
            known.doubt.take_if(|doubt| *doubt != Doubt::Refused { position: begin });
        }
    }

    /// The task reads on from where it likes: that a position was refused before says nothing of this one, even if it
    /// is the same.
    pub(super) fn sought(&self, partition: &TopicPartition) {
        if let Some(known) = self.lock().get_mut(partition) {
            known.doubt = None;
        }
    }

    /// Nothing is known of `partition` any more, not even which topic it was: it may be another when it comes back.
    pub(super) fn forget(&self, partition: &TopicPartition) {
        self.lock().remove(partition);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, Known>> {
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
        doubts.raise(&orders(), doubts.parting(&orders(), 5));
        let view = PartitionView { end_offset: Some(20), ..PartitionView::default() };
        let doubt = doubts.of(&orders()).unwrap().asked_again(9, &view, INSISTED.since);
        doubts.raise(&orders(), doubt.unwrap());
        assert_eq!((doubts.parted_at(&orders()), doubts.insisted_on(&orders())), (Some(5), Some(INSISTED)));
        doubts.topic_is(&orders(), Some("old".to_owned()));
        assert_eq!(doubts.parted_at(&orders()), Some(5));
        doubts.topic_is(&orders(), Some("new".to_owned()));
        assert_eq!((doubts.parted_at(&orders()), doubts.insisted_on(&orders())), (None, Some(INSISTED)));
    }

    #[test]
    fn a_broker_that_tells_no_topic_id_speaks_of_no_other_topic() {
        let doubts = Doubts::default();
        doubts.topic_is(&orders(), Some("read".to_owned()));
        doubts.raise(&orders(), doubts.parting(&orders(), 5));
        doubts.topic_is(&orders(), None);
        assert_eq!(doubts.parted_at(&orders()), Some(5));
    }

    #[test]
    fn a_partition_that_comes_back_may_be_one_of_another_topic() {
        let doubts = Doubts::default();
        doubts.topic_is(&orders(), Some("gone".to_owned()));
        doubts.forget(&orders());
        doubts.raise(&orders(), doubts.parting(&orders(), 5));
        doubts.topic_is(&orders(), Some("here".to_owned()));
        assert_eq!(doubts.parted_at(&orders()), Some(5));
    }

    #[test]
    fn a_parting_of_a_topic_without_id_is_no_other_topics() {
        let doubts = Doubts::default();
        doubts.raise(&orders(), doubts.parting(&orders(), 5));
        doubts.topic_is(&orders(), Some("new".to_owned()));
        assert_eq!(doubts.parted_at(&orders()), Some(5));
    }

    #[test]
    fn a_position_that_the_log_has_reached_is_no_longer_beyond_its_end() {
        let now = INSISTED.since + Duration::from_secs(1);
        let asked = |position, end_offset, last_stable_offset| {
            let view = PartitionView { end_offset, last_stable_offset, ..PartitionView::default() };
            Doubt::BeyondEnd(INSISTED).asked_again(position, &view, now)
        };
        assert_eq!(asked(9, Some(8), 8), Some(Doubt::BeyondEnd(INSISTED)), "since when stands");
        assert_eq!(asked(9, Some(9), 8), Some(Doubt::Refused { position: 9 }));
        assert_eq!(asked(9, None, 8), Some(Doubt::BeyondEnd(INSISTED)), "nobody knows");
        assert_eq!(asked(9, None, 9), Some(Doubt::Refused { position: 9 }), "no log ends before what is stable of it");
        assert_eq!(asked(7, Some(5), 5), None, "of another position nothing is known");
    }

    #[test]
    fn where_a_log_parted_speaks_against_what_lies_behind_until_retention_passes_it() {
        let parted = |insisted| Doubt::Parted { at: 5, topic_id: None, insisted };
        let view =
            |log_start_offset| PartitionView { log_start_offset, end_offset: Some(99), ..PartitionView::default() };
        assert_eq!(parted(None).asked_again(5, &view(0), INSISTED.since), None);
        assert_eq!(parted(None).asked_again(9, &view(0), INSISTED.since), Some(parted(Some(INSISTED))));
        assert_eq!(parted(Some(INSISTED)).asked_again(9, &view(0), Duration::MAX), Some(parted(Some(INSISTED))));
        assert_eq!(parted(Some(INSISTED)).asked_again(9, &view(9), Duration::MAX), None);
    }

    #[test]
    fn where_a_log_ends_is_not_guessed() {
        let ends = |end_offset, last_stable_offset| {
            let view = PartitionView { end_offset, last_stable_offset, ..PartitionView::default() };
            ends_before(&orders(), 9, &view).map_err(|error| error.kind())
        };
        assert_eq!((ends(Some(8), 5), ends(Some(9), 5)), (Ok(true), Ok(false)));
        assert_eq!((ends(None, 8), ends(None, 9)), (Err(lakeferry_api::Kind::Retriable), Ok(false)));
    }

    #[test]
    fn only_a_refusal_of_that_very_place_outlives_a_new_beginning() {
        let doubts = Doubts::default();
        doubts.raise(&orders(), Doubt::BeyondEnd(INSISTED));
        doubts.settle(&orders(), 9);
        assert_eq!(doubts.of(&orders()), None);
        doubts.raise(&orders(), Doubt::Refused { position: 9 });
        doubts.settle(&orders(), 8);
        assert_eq!(doubts.of(&orders()), None);
        doubts.raise(&orders(), Doubt::Refused { position: 9 });
        doubts.settle(&orders(), 9);
        assert!(doubts.is_refused(&orders(), 9) && !doubts.is_refused(&orders(), 8));
        doubts.forget(&orders());
        assert_eq!(doubts.of(&orders()), None);
    }
}
