//! A connector that is paused and resumed: its tasks keep their partitions, publish what they have, and take nothing
//! more. Who begins meanwhile begins paused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use lakeferry::task::State;
use lakeferry_api::TopicPartition;
use serde_json::Value;

use super::World;
use crate::broker::Broker;

/// What there was when a worker's task said that it is paused.
struct Seen {
    /// The ids of all topics, those that were deleted too.
    ids: BTreeSet<String>,
    /// Where the logs ended, with their topics' ids.
    ends: BTreeMap<TopicPartition, (String, i64)>,
}

/// The workers whose tasks say that they are paused.
#[derive(Clone, Default)]
pub(super) struct Pauses(Arc<Mutex<BTreeMap<String, Seen>>>);

impl Pauses {
    /// The task of `worker` says that it is in `state`.
    pub(super) fn hear(&self, broker: &Broker, worker: &str, state: State) {
        let mut paused = self.0.lock().unwrap();
        if state != State::Paused {
            if paused.remove(worker).is_some() && state == State::Running {
                broker.diary.note(format!("{worker} goes on behind its pause"));
            }
            return;
        }
        let state = broker.lock();
        let end = |partition: TopicPartition| {
            let topic = &state.topics[&*partition.topic];
            let log = &topic.logs[partition.partition as usize];
            // An election may have taken back what it has read.
            let ever = log.ever.keys().next_back().map_or(0, |last| last + 1);
            (partition, (topic.id.clone(), log.end().max(ever)))
        };
        // It tells of its troubles meanwhile.
        paused.entry(worker.to_owned()).or_insert_with(|| Seen {
            ids: state.topics.values().map(|topic| &topic.id).chain(state.buried.keys()).cloned().collect(),
            ends: state.partitions().into_iter().map(end).collect(),
        });
    }

    /// What is wrong with an entry that `worker` sends now: it names records that came when its task was paused.
    pub(super) fn wrong(&self, worker: &str, partition: &TopicPartition, entry: &Value) -> Option<String> {
        let paused = self.0.lock().unwrap();
        let Seen { ids, ends } = paused.get(worker)?;
        let id = entry["source"]["topic_id"].as_str()?;
        let is_live = ends.values().any(|(known, _)| known == id);
        let end = match ends.get(partition) {
            Some((known, end)) if known == id => *end,
            // Of a topic that was deleted before, it may have read anything.
            _ if ids.contains(id) && !is_live => return None,
            _ => 0,
        };
        let last = entry["files"].as_array()?.iter().filter_map(|file| file["last_offset"].as_i64()).max()?;
        (last >= end).then(|| format!("is paused, and publishes offset {last} of {partition}, which came later"))
    }

    /// Another process begins, or none.
    pub(super) fn forget(&self, worker: &str) {
        self.0.lock().unwrap().remove(worker);
    }
}

impl World {
    /// Pauses the connector; it is resumed when the time has come.
    pub(super) fn pause(&mut self, for_ms: u64) {
        self.paused_until_ms = Some(self.clock.ms() + for_ms);
        self.steer(true);
    }

    /// Resumes the connector, if the time has come, or now.
    pub(super) fn resume(&mut self, now: bool) {
        if self.paused_until_ms.is_some_and(|until| now || self.clock.ms() >= until) {
            self.paused_until_ms = None;
            self.diary.note("the connector is resumed");
            self.steer(false);
        }
    }

    fn steer(&self, paused: bool) {
        for handle in self.workers.iter().filter_map(|worker| worker.handle.as_ref()) {
            if paused { handle.pause() } else { handle.resume() }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_is_paused_names_nothing_that_came_since() {
        let at = |number| TopicPartition::new("t", number);
        let ids = ["old", "now"].map(str::to_owned).into();
        let ends = BTreeMap::from([(at(0), ("now".to_owned(), 10))]);
        let paused = Pauses::default();
        paused.0.lock().unwrap().insert("w0".to_owned(), Seen { ids, ends });
        let wrong = |worker, number, id, last| {
            let entry = json!({"source": {"topic_id": id}, "files": [{"last_offset": 3}, {"last_offset": last}]});
            paused.wrong(worker, &at(number), &entry).is_some()
        };
        assert!(!wrong("w0", 0, "now", 9) && wrong("w0", 0, "now", 10), "read before, and came since");
        assert!(wrong("w0", 1, "now", 5), "a partition that was added since");
        assert!(wrong("w0", 0, "newer", 5), "a topic that was made since");
        assert!(!wrong("w0", 0, "old", 50), "a topic that was deleted before");
        assert!(!wrong("w1", 0, "now", 50), "who is not paused");
        paused.forget("w0");
        assert!(!wrong("w0", 0, "now", 50), "another process");
    }
}
