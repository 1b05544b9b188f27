//! How far archived logs reach in a cluster now: what `inspect` asks a broker, and how it tells it.
//!
//! That a transaction is open is told only where it is proven: the log had an end, and later its last stable offset was
//! still below that end. One answer alone does not say so, records may come between its two numbers.

use std::collections::BTreeMap;

use lakeferry_api::{Kind, PartitionView, Positions, Result, TopicPartition};
use lakeferry_lake::inspect::{GroupOffset, LogNow, LogSummary, Now, TopicSummary};
use lakeferry_lake::manifest::model::Owner;

use crate::kafka::Admin;

/// Puts what the cluster says beside each partition that is archived.
///
/// # Errors
/// Where no broker answers, or refuses to.
pub(super) async fn ask(admin: &dyn Admin, topics: &mut [TopicSummary]) -> Result<()> {
    let mut groups = Groups { admin, cluster_id: admin.cluster_id().await?, known: BTreeMap::new() };
    for topic in topics {
        for partition in &mut topic.partitions {
            let Some(log) = &partition.log else { continue };
            let place = TopicPartition::new(topic.topic.as_str(), partition.partition);
            partition.now = Some(match look(admin, &place).await {
                Ok(now) => Now::Log(LogNow { group_offset: groups.offset(&log.owner, &place).await?, ..now }),
                Err(error) if error.kind() == Kind::NotFound => Now::NoSuchPartition,
                Err(error) => return Err(error),
            });
        }
    }
    Ok(())
}

/// What groups of one cluster have committed, each asked once.
struct Groups<'a> {
    admin: &'a dyn Admin,
    cluster_id: String,
    /// `None` of a group that this user may not ask about.
    known: BTreeMap<String, Option<Positions>>,
}

impl Groups<'_> {
    /// `None` where `owner` is of another cluster, whose groups are not told here, or where the right is missing: it is
    /// not needed to archive, to restore or to compare, and what is asked about is a copy of what the manifests say.
    async fn offset(&mut self, owner: &Owner, place: &TopicPartition) -> Result<Option<GroupOffset>> {
        if owner.cluster_id != self.cluster_id {
            return Ok(None);
        }
        if !self.known.contains_key(&owner.group) {
            let offsets = match self.admin.group_offsets(&owner.group).await {
                Ok(offsets) => Some(offsets),
                Err(error) if error.kind() == Kind::Config => None,
                Err(error) => return Err(error),
            };
            self.known.insert(owner.group.clone(), offsets);
        }
        let of_group = self.known.get(&owner.group).and_then(Option::as_ref);
        let offset =
            |offsets: &Positions| offsets.get(place).map_or(GroupOffset::None, |it| GroupOffset::Committed(*it));
        Ok(of_group.map(offset))
    }
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
    LogNow { topic_id, log_start_offset, last_stable_offset, end_offset, held_back, group_offset: None }
}

/// What the cluster says of a log that is archived, a line each.
pub(super) fn in_words(now: &Now, log: &LogSummary) -> Vec<String> {
    let line = log.lineages.iter().find(|line| line.lineage.lineage == log.lineage);
    let topic_id = line.and_then(|line| line.lineage.topic_id.as_deref());
    told(now, (topic_id, log.resume_offset), &log.owner.group)
}

/// The same, by what counts of the archive: the topic's id, the next offset and the owner's group.
fn told(now: &Now, (topic_id, resume): (Option<&str>, Option<i64>), group: &str) -> Vec<String> {
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
    if now.group_offset == Some(GroupOffset::None) {
        let place = match resume {
            Some(resume) => format!("the manifests count, the worker goes on at {resume}"),
            None => "auto.offset.reset says where the worker goes on".to_owned(),
        };
        lines.push(format!("no offset of it is committed in group {group}: {place}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use lakeferry_api::ConnectError;

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
            assert_eq!(told(&held, (Some("Qm9"), resume), "g"), [format!("{begin}{words}"), behind.to_owned()]);
        }
        assert_eq!(told(&Now::Log(looked(&[view(7, 7)]).await), (None, Some(7)), "g").len(), 1);
        assert_eq!(serde_json::to_string(&Now::NoSuchPartition).unwrap(), "null");
        assert_eq!(told(&Now::NoSuchPartition, (None, Some(7)), "g"), ["in the cluster now: no such partition"]);
        let other = told(&held, (Some("old"), Some(7)), "g");
        assert_eq!(other, ["in the cluster now: another topic of this name, with topic id Qm9, not old"]);
    }

    #[tokio::test]
    async fn a_group_that_has_committed_nothing_is_told_with_what_counts_instead() {
        let now = looked(&[view(7, 7)]).await;
        let with = |group_offset| Now::Log(LogNow { group_offset, ..now.clone() });
        let second = |group_offset, resume| told(&with(group_offset), (None, resume), "connect-a").get(1).cloned();
        let none = "no offset of it is committed in group connect-a: ";
        let cases = [
            (Some(7), "the manifests count, the worker goes on at 7"),
            (None, "auto.offset.reset says where the worker goes on"),
        ];
        for (resume, words) in cases {
            assert_eq!(second(Some(GroupOffset::None), resume), Some(format!("{none}{words}")));
            assert_eq!((second(Some(GroupOffset::Committed(7)), resume), second(None, resume)), (None, None));
        }
        let json = |group_offset| serde_json::to_value(with(group_offset)).unwrap();
        assert_eq!(json(Some(GroupOffset::Committed(7)))["group_offset"], 7);
        assert!(json(Some(GroupOffset::None))["group_offset"].is_null());
        assert!(json(Some(GroupOffset::None)).as_object().unwrap().contains_key("group_offset"));
        assert!(!json(None).as_object().unwrap().contains_key("group_offset"), "nobody knows");
    }

    /// A group that has committed 7 of orders-0, one that has nothing, and one that this user may not ask about.
    #[derive(Default)]
    struct Coordinator(Mutex<Vec<String>>);

    #[async_trait]
    impl Admin for Coordinator {
        async fn cluster_id(&self) -> Result<String> {
            Ok("c".to_owned())
        }

        async fn partition(&self, _: &TopicPartition) -> Result<PartitionView> {
            Ok(view(7, 7))
        }

        async fn group_offsets(&self, group: &str) -> Result<Positions> {
            self.0.lock().unwrap().push(group.to_owned());
            match group {
                "known" => Ok(Positions::from([(TopicPartition::new("orders", 0), 7)])),
                "away" => Err(ConnectError::retriable("no answer")),
                "denied" => Err(ConnectError::config("grant this user READ on group denied")),
                _ => Ok(Positions::new()),
            }
        }
    }

    #[tokio::test]
    async fn each_group_of_this_cluster_is_asked_once_and_a_right_that_is_missing_is_no_failure() {
        let admin = Coordinator::default();
        let mut groups = Groups { admin: &admin, cluster_id: "c".to_owned(), known: BTreeMap::new() };
        let owner =
            |cluster_id: &str, group: &str| Owner { cluster_id: cluster_id.to_owned(), group: group.to_owned() };
        let place = |partition| TopicPartition::new("orders", partition);
        let cases = [
            (owner("c", "known"), 0, Some(GroupOffset::Committed(7))),
            (owner("c", "known"), 1, Some(GroupOffset::None)),
            (owner("c", "new"), 0, Some(GroupOffset::None)),
            (owner("c", "denied"), 0, None),
            (owner("c", "denied"), 1, None),
            (owner("other", "known"), 0, None),
            (owner("other", "elsewhere"), 0, None),
        ];
        for (owner, partition, told) in cases {
            assert_eq!(groups.offset(&owner, &place(partition)).await.unwrap(), told, "{owner} {partition}");
        }
        assert!(groups.offset(&owner("c", "away"), &place(0)).await.unwrap_err().is_retriable());
        assert_eq!(*admin.0.lock().unwrap(), ["known", "new", "denied", "away"]);
    }
}
