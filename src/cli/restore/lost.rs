//! Whether the targets still hold the first of what was restored to them. Brokers delete at the beginning of a log: by
//! retention, or because somebody asked them to (`DeleteRecords`), while a restore goes on and between two runs of it.
//!
//! Invariant: a target whose log begins behind the first record that was delivered to it is told, in the plan and at
//! the end; one that is another topic by then, or ends too early, is as well. What no retention of the target explains
//! is damage: whoever took it for whole would look no further. How many archived records it was nobody knows: the
//! offsets of a target count markers, too.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lakeferry_api::source::TargetTopic;
use lakeferry_api::{Clock, ConnectError, Kind, Result, TopicPartition};
use serde::Serialize;

use super::Damage;
use crate::kafka::Admin;
use crate::task::exact::Holding;

/// A broker that lags behind may not know yet of a topic that was just made.
const INSISTING: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(250);
/// A broker that is away may come back.
const AGAIN_LATER: Duration = Duration::from_secs(1);
/// What a signal at the end leaves undone, or brokers that stay away.
pub(super) const NOT_LOOKED: &str = "every record is restored, but nobody has looked whether all are still there";

/// Records of one partition that were restored and are gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Lost {
    /// The topic that they were restored to.
    pub(super) target: String,
    partition: i32,
    /// The first offset that was delivered.
    first: i64,
    /// Where the log begins now.
    log_start: i64,
    /// The configs of the target that let brokers delete by themselves.
    explained_by: Vec<String>,
}

impl Lost {
    fn is_explained(&self) -> bool {
        !self.explained_by.is_empty()
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, partition, first, log_start, .. } = self;
        let last = log_start - 1;
        write!(
            f,
            "offsets {first} to {last} of {target}-{partition} were restored, and the brokers have deleted them, "
        )?;
        match self.explained_by.as_slice() {
            [] => write!(f, "though no retention of the topic lets them"),
            configs => write!(f, "as its {} lets them", configs.join(" and ")),
        }
    }
}

/// Asks for the targets, which must hold `holdings`.
///
/// # Errors
/// `Conflict` where one was deleted, made anew, or cut back; otherwise as [`Admin::target_topic`].
pub(super) async fn look(
    admin: &dyn Admin,
    clock: &dyn Clock,
    holdings: &BTreeMap<TopicPartition, Holding>,
) -> Result<Vec<Lost>> {
    let mut by_topic: BTreeMap<Arc<str>, BTreeMap<i32, Holding>> = BTreeMap::new();
    for (place, holding) in holdings {
        by_topic.entry(Arc::clone(&place.topic)).or_default().insert(place.partition, holding.clone());
    }
    let mut lost = Vec::new();
    for (topic, held) in by_topic {
        let id = held.values().find_map(|holding| holding.topic_id.as_deref());
        let deadline = clock.monotonic() + INSISTING;
        let found = loop {
            match find(admin, &topic, id).await? {
                Some(found) => break found,
                None if clock.monotonic() < deadline => clock.sleep(AGAIN).await,
                None => return Err(replaced(&topic)),
            }
        };
        lost.extend(of_topic(&topic, &found, &held)?);
    }
    Ok(lost)
}

/// The same, at the end of a restore: brokers that are away are waited for up to `patience`.
///
/// # Errors
/// As [`look`].
pub(super) async fn look_patiently(
    admin: &dyn Admin,
    clock: &dyn Clock,
    holdings: &BTreeMap<TopicPartition, Holding>,
    patience: Duration,
) -> Result<Vec<Lost>> {
    let deadline = clock.monotonic() + patience;
    loop {
        match look(admin, clock, holdings).await {
            Err(error) if error.is_retriable() && clock.monotonic() < deadline => {
                tracing::warn!(error = error.trace(), "whether all is still there is asked again");
                clock.sleep(AGAIN_LATER).await;
            }
            Err(error) if error.is_retriable() => return Err(error.context(NOT_LOOKED)),
            outcome => return outcome,
        }
    }
}

/// The topic, where it is there and has that `id`.
async fn find(admin: &dyn Admin, topic: &str, id: Option<&str>) -> Result<Option<TargetTopic>> {
    let Some(found) = admin.target_topic(topic).await? else { return Ok(None) };
    let Some(id) = id else { return Ok(Some(found)) };
    match admin.topic(topic).await {
        Ok(view) if view.topic_id.as_deref().is_none_or(|now| now == id) => Ok(Some(found)),
        Err(error) if error.kind() != Kind::NotFound => Err(error),
        _ => Ok(None),
    }
}

fn replaced(topic: &str) -> ConnectError {
    ConnectError::conflict(format!(
        "topic {topic} was deleted meanwhile, and what was restored to it: delete what has its name now, and the same \
         command writes it anew"
    ))
}

fn of_topic(topic: &str, found: &TargetTopic, held: &BTreeMap<i32, Holding>) -> Result<Vec<Lost>> {
    if held.keys().any(|partition| usize::try_from(*partition).is_ok_and(|held| held >= found.offsets.len())) {
        return Err(replaced(topic));
    }
    let mut lost = Vec::new();
    for (partition, (log_start, end)) in (0..).zip(found.offsets.iter().copied()) {
        let Some(Holding { first, last, .. }) = held.get(&partition) else { continue };
        if end <= *last {
            return Err(ConnectError::conflict(format!(
                "{topic}-{partition} ends at offset {end}, but offset {last} was delivered to it: records were taken away; \
                 delete the topic, and the same command writes it anew"
            )));
        }
        if let Some(first) = first.filter(|first| *first < log_start) {
            let (target, explained_by) = (topic.to_owned(), retention(found));
            lost.push(Lost { target, partition, first, log_start, explained_by });
        }
    }
    Ok(lost)
}

/// The configs that let brokers delete records of `topic` by themselves.
fn retention(topic: &TargetTopic) -> Vec<String> {
    let value = |config: &str| topic.configs.get(config).map(String::as_str);
    if !value("cleanup.policy").is_none_or(|policy| policy.contains("delete")) {
        return Vec::new();
    }
    let limits = ["retention.ms", "retention.bytes"].into_iter().filter_map(|config| Some((config, value(config)?)));
    let limits = limits.filter(|(_, value)| value.parse::<i64>().is_ok_and(|limit| limit >= 0));
    limits.map(|(config, value)| format!("{config}={value}")).collect()
}

/// Refuses targets that lost what nothing explains, unless a user says with `force` that it is meant.
///
/// # Errors
/// Damage, with what is gone, and the way out.
pub(super) fn refuse_unexplained(lost: &[Lost], force: bool) -> anyhow::Result<()> {
    const LISTED: usize = 10;
    let unexplained: Vec<_> = lost.iter().filter(|lost| !lost.is_explained()).collect();
    if unexplained.is_empty() || force {
        return Ok(());
    }
    let mut list: Vec<_> = unexplained.iter().take(LISTED).map(ToString::to_string).collect();
    if unexplained.len() > LISTED {
        list.push(format!("and so in {} more partitions", unexplained.len() - LISTED));
    }
    let targets: BTreeSet<_> = unexplained.iter().map(|lost| lost.target.as_str()).collect();
    let error = ConnectError::config(format!(
        "{}; nothing that goes on behind them brings them back: delete {}, and the same command restores what it held \
         from the beginning, or restore under another name with --rename; --force takes the target as it is",
        list.join("; "),
        targets.into_iter().collect::<Vec<_>>().join(", ")
    ));
    Err(Damage(error).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(configs: &[(&str, &str)], log_starts: &[i64]) -> TargetTopic {
        let configs = configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let offsets = log_starts.iter().map(|start| (*start, 100)).collect();
        TargetTopic { partitions: log_starts.len() as u32, configs, offsets }
    }

    fn lost(configs: &[(&str, &str)], log_starts: &[i64]) -> Vec<Lost> {
        let held = [0, 1].map(|partition| (partition, Holding { first: Some(4), last: 99, topic_id: None }));
        of_topic("t", &topic(configs, log_starts), &held.into()).unwrap()
    }

    #[test]
    fn a_log_that_begins_behind_what_was_delivered_first_has_lost_something() {
        let forever = [("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "-1")];
        assert_eq!(lost(&forever, &[0, 4, 50]), [], "of partition 2 nothing is known");
        let told: Vec<_> = lost(&forever, &[5, 0]).iter().map(ToString::to_string).collect();
        let words = "offsets 4 to 4 of t-0 were restored, and the brokers have deleted them, though no retention";
        assert!(told.len() == 1 && told[0].starts_with(words), "{told:?}");
        let error = refuse_unexplained(&lost(&forever, &[5, 7]), false).unwrap_err().to_string();
        assert!(error.contains("4 to 6 of t-1") && error.contains("delete t, and"), "{error}");
        refuse_unexplained(&lost(&forever, &[5, 7]), true).unwrap();
    }

    #[test]
    fn only_a_limit_that_holds_explains_it() {
        for (configs, explained) in [
            (&[("retention.ms", "1000")][..], true),
            (&[("cleanup.policy", "compact,delete"), ("retention.ms", "-1"), ("retention.bytes", "9")], true),
            (&[("cleanup.policy", "compact"), ("retention.ms", "1000")], false),
            (&[], false),
        ] {
            let lost = lost(configs, &[9, 0]);
            assert_eq!(refuse_unexplained(&lost, false).is_ok(), explained, "{lost:?}");
            assert_eq!(lost[0].to_string().contains("as its retention."), explained, "{}", lost[0]);
        }
    }

    #[test]
    fn a_log_that_ends_before_what_was_delivered_is_none_of_ours() {
        let held = BTreeMap::from([(0, Holding { first: None, last: 100, topic_id: None })]);
        let error = of_topic("t", &topic(&[], &[0]), &held).unwrap_err();
        assert!(error.message().contains("t-0 ends at offset 100, but offset 100 was delivered"), "{error}");
    }

    #[test]
    fn a_topic_that_lacks_a_partition_is_another() {
        let held = BTreeMap::from([(1, Holding { first: None, last: 0, topic_id: None })]);
        let error = of_topic("t", &topic(&[], &[0]), &held).unwrap_err();
        assert!(error.message().contains("topic t was deleted meanwhile"), "{error}");
    }

    #[test]
    fn of_many_partitions_some_are_named() {
        let one =
            |partition| Lost { target: "t".to_owned(), partition, first: 0, log_start: 7, explained_by: Vec::new() };
        let error = refuse_unexplained(&(0..13).map(one).collect::<Vec<_>>(), false).unwrap_err().to_string();
        assert!(error.contains("t-9") && !error.contains("t-10"), "{error}");
        assert!(error.contains("and so in 3 more partitions"), "{error}");
    }
}
