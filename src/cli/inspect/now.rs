//! How far archived logs reach in a cluster now: what `inspect` asks a broker, and how it tells it.
//!
//! That a transaction is open is told only where it is proven: the log had an end, and later its last stable offset was
//! still below that end. One answer alone does not say so, records may come between its two numbers.

use lakeferry_api::{Kind, PartitionView, Result, TopicPartition};
use lakeferry_lake::inspect::{LogNow, Now, TopicSummary};

use crate::kafka::Admin;

/// Puts what the cluster says beside each partition that is archived.
///
/// # Errors
/// Where no broker answers, or refuses to.
pub(super) async fn ask(admin: &dyn Admin, topics: &mut [TopicSummary]) -> Result<()> {
    for topic in topics {
        for partition in topic.partitions.iter_mut().filter(|partition| partition.log.is_some()) {
            let place = TopicPartition::new(topic.topic.as_str(), partition.partition);
            partition.now = Some(match look(admin, &place).await {
                Ok(log) => Now::Log(log),
                Err(error) if error.kind() == Kind::NotFound => Now::NoSuchPartition,
                Err(error) => return Err(error),
            });
        }
    }
    Ok(())
}

async fn look(admin: &dyn Admin, place: &TopicPartition) -> Result<LogNow> {
    let first = admin.partition(place).await?;
    let end = first.end_offset.filter(|end| *end > first.last_stable_offset);
    let Some(end) = end else { return Ok(log_now(first, 0)) };
    let second = admin.partition(place).await?;
    let held_back = match second.topic_id == first.topic_id {
        true => u64::try_from(end.saturating_sub(second.last_stable_offset)).unwrap_or(0),
        false => 0,
    };
    Ok(log_now(second, held_back))
}

fn log_now(view: PartitionView, held_back: u64) -> LogNow {
    let PartitionView { topic_id, log_start_offset, last_stable_offset, end_offset, .. } = view;
    LogNow { topic_id, log_start_offset, last_stable_offset, end_offset, held_back }
}

/// What the cluster says of a log that is archived, a line each. `topic_id` and `resume` are the archive's.
pub(super) fn in_words(now: &Now, (topic_id, resume): (Option<&str>, Option<i64>)) -> Vec<String> {
    let Now::Log(now) = now else { return vec!["in the cluster now: no such partition".to_owned()] };
    if let (Some(archived), Some(id)) = (topic_id, &now.topic_id)
        && archived != id
    {
        return vec![format!("in the cluster now: another topic of this name, with topic id {id}, not {archived}")];
    }
    let (start, stable) = (now.log_start_offset, now.last_stable_offset);
    let progress = match resume.map(|resume| (stable.saturating_sub(resume), start.saturating_sub(resume))) {
        None => "where archiving goes on was reset".to_owned(),
        Some((0, _)) => "all of it is archived".to_owned(),
        Some((behind @ 1.., ..=0)) => format!("the archive is {behind} offsets behind"),
        Some((behind @ 1.., gone)) => format!("the archive is {behind} offsets behind, {gone} of them gone from Kafka"),
        Some((beyond, _)) => format!("the archive reaches {} offsets further", beyond.unsigned_abs()),
    };
    let readers = "for readers of committed records";
    let mut lines = vec![format!("in the cluster now: offsets {start} to {stable} (next) {readers}; {progress}")];
    if now.held_back > 0 {
        lines.push(format!(
            "an open transaction holds back {} offsets, from {stable} on: they are archived once it has ended",
            now.held_back
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;

    fn view(last_stable_offset: i64, end: i64) -> PartitionView {
        PartitionView {
            topic_id: Some("Qm9".to_owned()),
            log_start_offset: 3,
            last_stable_offset,
            end_offset: Some(end),
            ..PartitionView::default()
        }
    }

    /// Answers in turn.
    struct Answers(Mutex<Vec<PartitionView>>);

    #[async_trait]
    impl Admin for Answers {
        async fn cluster_id(&self) -> Result<String> {
            Ok("c".to_owned())
        }

        async fn partition(&self, _: &TopicPartition) -> Result<PartitionView> {
            Ok(self.0.lock().unwrap().remove(0))
        }
    }

    async fn looked(answers: &[PartitionView]) -> LogNow {
        let admin = Answers(Mutex::new(answers.to_vec()));
        let now = look(&admin, &TopicPartition::new("orders", 0)).await.unwrap();
        assert!(admin.0.lock().unwrap().is_empty(), "asked as often as need be");
        now
    }

    #[tokio::test]
    async fn only_an_end_that_stays_unstable_proves_an_open_transaction() {
        assert_eq!(looked(&[view(7, 7)]).await.held_back, 0);
        assert_eq!(looked(&[view(7, 9), view(9, 12)]).await.held_back, 0, "records came between the two numbers");
        assert_eq!(looked(&[view(7, 9), view(8, 12)]).await.held_back, 1);
        let again = PartitionView { topic_id: Some("B".to_owned()), ..view(0, 4) };
        assert_eq!(looked(&[view(7, 9), again]).await.held_back, 0, "another log");
    }

    #[tokio::test]
    async fn the_words_say_what_is_archived_and_what_is_held_back() {
        let held = Now::Log(looked(&[view(7, 16), view(7, 16)]).await);
        let begin = "in the cluster now: offsets 3 to 7 (next) for readers of committed records; ";
        let behind = "an open transaction holds back 9 offsets, from 7 on: they are archived once it has ended";
        let cases = [
            (Some(7), "all of it is archived"),
            (Some(5), "the archive is 2 offsets behind"),
            (Some(1), "the archive is 6 offsets behind, 2 of them gone from Kafka"),
            (Some(10), "the archive reaches 3 offsets further"),
            (None, "where archiving goes on was reset"),
        ];
        for (resume, words) in cases {
            assert_eq!(in_words(&held, (Some("Qm9"), resume)), [format!("{begin}{words}"), behind.to_owned()]);
        }
        assert_eq!(in_words(&Now::Log(looked(&[view(7, 7)]).await), (None, Some(7))).len(), 1);
        assert_eq!(serde_json::to_string(&Now::NoSuchPartition).unwrap(), "null");
        assert_eq!(in_words(&Now::NoSuchPartition, (None, Some(7))), ["in the cluster now: no such partition"]);
        let other = in_words(&held, (Some("old"), Some(7)));
        assert_eq!(other, ["in the cluster now: another topic of this name, with topic id Qm9, not old"]);
    }
}
