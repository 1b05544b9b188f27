//! Tasks that are to fail where records are lost before they are archived (`errors.on.gap=fail`): what they say is lost
//! must be, and nothing that is lost may be passed over. A user who reads of it starts the worker again, for one life
//! that records the gap and goes on.

use lakeferry_api::TopicPartition;
use serde_json::Value;

use crate::broker::log::Log;
use crate::broker::{Broker, Topic};

/// What the settings demand, as the error of a task has it.
const FAILS: &str = "errors.on.gap=fail stops here";

/// What a task says is lost.
#[derive(Debug, PartialEq)]
pub(super) struct Told {
    partition: TopicPartition,
    from: i64,
    to: i64,
}

/// What a task that failed with `trace` says is lost; `None` where it failed for something else.
pub(super) fn told(trace: &str) -> Option<Told> {
    let line = trace.lines().find(|line| line.contains(FAILS))?;
    let (before, behind) = line.split_once(": offsets ")?;
    let (topic, number) = before.split_whitespace().next_back()?.rsplit_once('-')?;
    let (from, to) = behind.split_once(' ')?.0.split_once("..=")?;
    let partition = TopicPartition::new(topic, number.parse().ok()?);
    Some(Told { partition, from: from.parse().ok()?, to: to.parse().ok()? })
}

impl Told {
    /// True where all of it is gone from a log and was never archived: the log that is there now, or the one that the
    /// chain archives, if that topic was deleted a moment ago.
    pub(super) fn is_true(&self, broker: &Broker) -> bool {
        let state = broker.lock();
        let number = usize::try_from(self.partition.partition).unwrap();
        let is_gone = |topic: Option<&Topic>| {
            topic.and_then(|topic| topic.logs.get(number)).is_some_and(|log| self.to < log.start())
        };
        let now = state.topics.get(&*self.partition.topic);
        // A chain that was reset says nothing of what is archived.
        let Some((Some(id), Some(resume))) = broker.store.end(&self.partition) else { return is_gone(now) };
        let archived = state.incarnation(&self.partition.topic, &id);
        // Where the archive stood, if the task slept while a user altered that.
        let mut resumes = vec![resume];
        if state.altered.contains_key(&self.partition) {
            resumes.extend(broker.store.resumes(&self.partition));
        }
        // What an election put in the place of archived records may be gone, too; and a task that slept may tell of
        // what another one has recorded meanwhile.
        let is_lost = |log: &Log, at| log.has_removed(at) || broker.store.says_lost(&self.partition, &id, at);
        let is_behind = |log: &Log, resume| (self.from..=self.to).all(|at| resume <= at || is_lost(log, at));
        let is_unarchived = |log: &Log| resumes.iter().any(|resume| is_behind(log, *resume));
        let is_unarchived = archived.and_then(|topic| topic.logs.get(number)).is_some_and(is_unarchived);
        is_gone(archived) && is_unarchived || is_gone(now.filter(|topic| topic.id != id))
    }
}

/// What of `entry` was lost before it could be archived.
pub(super) fn recorded(entry: &Value) -> Option<String> {
    let gap = entry["gaps"].as_array()?.iter().find(|gap| gap["reason"] == "log_start_moved");
    gap.map(ToString::to_string)
}

/// What is wrong with where `entry` says that the log begins. A log's start only rises: no answer that a writer had,
/// however late it writes, may be beyond where it is now.
pub(super) fn wrong_start(broker: &Broker, partition: &TopicPartition, entry: &Value) -> Option<String> {
    // Who alters offsets repeats what the entry before says, of another incarnation maybe.
    if entry["kind"] == "lineage" {
        return None;
    }
    let (said, id) = (entry["log"]["start_offset"].as_i64()?, entry["source"]["topic_id"].as_str()?);
    let state = broker.lock();
    let log = state.incarnation(&partition.topic, id)?.logs.get(usize::try_from(partition.partition).ok()?)?;
    let start = log.start();
    (start < said).then(|| format!("says that {partition} of {id} begins at {said}, and it begins at {start}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_task_says_is_lost_is_read() {
        let trace = "fatal: Exiting WorkerSinkTask due to unrecoverable exception.: t0-1: offsets 5..=9 are gone from Kafka \
                     (log_start_moved) and were never archived; errors.on.gap=fail stops here: set errors.on.gap=continue";
        assert_eq!(told(trace), Some(Told { partition: TopicPartition::new("t0", 1), from: 5, to: 9 }));
        assert_eq!(told("t0-1: offsets 5..=9 are gone"), None);
    }
}
