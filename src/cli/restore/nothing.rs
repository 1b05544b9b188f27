//! Why there is nothing to restore: of a topic, and of all that was asked for.
//!
//! The plan says so before anything happens, the account at the end: whoever mistyped a time must not take an empty
//! topic for what was archived. Invariant: what was restored before is not said to lie outside.

use lakeferry_api::Result;
use lakeferry_lake::source::choose::ChosenTopic;
use lakeferry_lake::source::prepare::Prepared;
use lakeferry_lake::source::read::{LogPlan, survey};

use crate::cli::inspect::instant;

/// Why nothing is left to restore of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Nothing {
    /// So many records of it were restored before.
    Done(u64),
    /// None of its records lies in the range; the timestamps of its first and its last one, where manifests tell.
    Outside(Option<(i64, i64)>),
    /// No record of it is archived.
    Empty,
    /// None is in the log that was chosen; others hold some.
    Elsewhere,
}

impl Nothing {
    /// Counts what was restored before of a `topic` of which nothing is left.
    ///
    /// # Errors
    /// As [`survey`].
    pub(super) async fn of(prepared: &Prepared, topic: &ChosenTopic) -> Result<Self> {
        let mut done = 0;
        for log in topic.logs.iter().filter(|log| log.plan.position > 0) {
            let whole = LogPlan { position: 0, ..log.plan.clone() };
            done += survey(prepared.access(), &whole).await?.records;
        }
        if done > 0 {
            return Ok(Self::Done(done));
        }
        let files = || topic.logs.iter().flat_map(|log| &log.plan.segments).map(|segment| &segment.file);
        // Partitions that no range of offsets names are not looked at.
        let is_left_aside = topic.logs.is_empty() && prepared.settings.offsets.is_some();
        if !is_left_aside && files().all(|file| file.records == 0) {
            return Ok(if topic.left_behind.is_empty() { Self::Empty } else { Self::Elsewhere });
        }
        let oldest = files().filter_map(|file| file.min_timestamp).min();
        Ok(Self::Outside(oldest.zip(files().filter_map(|file| file.max_timestamp).max())))
    }

    /// What the plan says of the topic.
    pub(super) fn tell(&self) -> String {
        match self {
            Self::Done(records) => format!("all {records} records of it were restored before"),
            Self::Outside(None) => "nothing of it lies in the range that is asked for".to_owned(),
            Self::Outside(Some((oldest, newest))) => format!(
                "nothing of it lies in the range that is asked for: the timestamps of its archived records are {} to {}",
                instant(*oldest),
                instant(*newest)
            ),
            Self::Empty => "no record of it is archived".to_owned(),
            Self::Elsewhere => "the log that was chosen holds no record of it, and another one does".to_owned(),
        }
    }

    /// What the account says where there is nothing to restore of any topic.
    pub(super) fn sum_up(all: &[&Self]) -> String {
        let done = |nothing: &&Self| if let Self::Done(records) = nothing { *records } else { 0 };
        let done: u64 = all.iter().map(done).sum();
        if done > 0 {
            format!("all {done} records that are asked for were restored before")
        } else if all.iter().any(|nothing| matches!(nothing, Self::Elsewhere)) {
            "the logs that were chosen hold no record, and others do: see --lineage above".to_owned()
        } else if all.iter().any(|nothing| matches!(nothing, Self::Outside(_))) {
            "no archived record lies in the range that is asked for".to_owned()
        } else {
            "no record is archived of what is asked for".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_without_records_is_told_with_those_there_are() {
        let outside = Nothing::Outside(Some((1_372_636_799_999, 1_372_636_800_000)));
        let words = outside.tell();
        assert!(
            words.contains("lies in the range") && words.contains("2013-06-30T23:59:59.999Z to 2013-07-01"),
            "{words}"
        );
        assert!(Nothing::sum_up(&[&outside, &Nothing::Empty]).contains("no archived record lies in the range"));
        assert!(Nothing::sum_up(&[&Nothing::Empty]).contains("no record is archived"));
        assert!(Nothing::sum_up(&[&Nothing::Empty, &Nothing::Elsewhere]).contains("see --lineage"));
    }

    #[test]
    fn what_was_restored_before_is_counted_over_all_topics() {
        let all = [&Nothing::Done(30), &Nothing::Outside(None), &Nothing::Done(50)];
        assert_eq!(all[0].tell(), "all 30 records of it were restored before");
        assert_eq!(Nothing::sum_up(&all), "all 80 records that are asked for were restored before");
    }
}
