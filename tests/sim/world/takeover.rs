//! Connectors that take an archive over (`archive.takeover`): a user deletes the one that archives and makes another,
//! of another name and so with another group, for the same archive. Some workers of the old one are not reached: they
//! sleep and come back, or live on as if nothing had happened. Where the user has not said whose chains the new one may
//! go on with, it is refused, which its user reads and sets right; an old one that finds its chains taken fails, too.
//! Both must be true, and nobody writes an entry behind one of another owner without leave.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use lakeferry_api::simulation::host::Host as _;
use lakeferry_api::{Budget, TopicPartition};
use serde_json::Value;

use super::{Worker, World};
use crate::broker::group_of;
use crate::clock::SimClock;
use crate::store::SimStore;

/// Whose names connectors have.
const CONNECTORS: &[&str] = &["sink", "heir", "third"];

/// An archive is taken over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TakeOver {
    /// Which of the other names the new connector has.
    pub(crate) to: u64,
    /// `archive.takeover` is set from the beginning on.
    pub(crate) has_leave: bool,
    /// What becomes of each worker of the old one, two bits for each.
    pub(crate) fates: u64,
    /// How long one that sleeps does.
    pub(crate) for_ms: u64,
}

/// A connector as a worker knows it.
#[derive(Debug, Clone)]
pub(crate) struct Archivist {
    pub(crate) connector: &'static str,
    /// Whose chains it may go on with.
    pub(crate) takes: Vec<String>,
}

/// The connector of each worker there ever was, by the worker's name.
pub(super) type Archivists = Arc<Mutex<BTreeMap<String, Archivist>>>;

impl Archivist {
    pub(super) fn first() -> Self {
        Self { connector: crate::broker::FIRST_CONNECTOR, takes: Vec::new() }
    }

    /// As manifests call it.
    pub(crate) fn owner(&self) -> String {
        owner_of(&group_of(self.connector))
    }
}

/// A group as manifests call it.
pub(crate) fn owner_of(group: &str) -> String {
    format!("simulated/{group}")
}

/// The owner that `entry` names.
pub(crate) fn owner(entry: &Value) -> String {
    let text = |member: &str| entry["owner"][member].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text("cluster_id"), text("group"))
}

/// Why a task failed that may not write here.
#[derive(Debug, PartialEq)]
pub(super) struct Told {
    partition: TopicPartition,
    pub(super) owner: String,
    /// It was refused, and had not written here before.
    is_newcomer: bool,
}

/// What a task that failed with `trace` says of another owner; `None` where it failed for something else.
pub(super) fn told(trace: &str) -> Option<Told> {
    let of = |mark: (&str, &str), is_newcomer| {
        let (before, behind) = trace.split_once(mark.0)?;
        let (before, owner) = match is_newcomer {
            true => (before, behind.split_once(mark.1)?.0),
            false => before.rsplit_once(mark.1)?,
        };
        let (topic, number) = before.split_whitespace().next_back()?.rsplit_once('-')?;
        let partition = TopicPartition::new(topic, number.parse().ok()?);
        Some(Told { partition, owner: owner.to_owned(), is_newcomer })
    };
    of((" is archived here by ", " (cluster id/consumer group)"), true)
        .or_else(|| of((" took over this archive with epoch ", ": "), false))
}

impl Told {
    /// True where the chain ended with an entry of that owner lately, and nobody gave `archivist` leave to go on with
    /// it. Who has leave, and wrote here until another took over, fails all the same: its user decides.
    pub(super) fn is_true(&self, store: &SimStore, archivist: &Archivist) -> bool {
        let has_leave = self.is_newcomer && archivist.takes.contains(&self.owner);
        self.owner != archivist.owner() && !has_leave && store.was_lately_of(&self.partition, &self.owner)
    }
}

impl World {
    pub(super) async fn take_over(&mut self, step: TakeOver) {
        let others: Vec<_> = CONNECTORS.iter().filter(|name| **name != self.archivist.connector).collect();
        let next = *others[(step.to % others.len() as u64) as usize];
        for at in 0..self.workers.len() {
            match step.fates >> (2 * at) & 3 {
                0 => self.shut_down(at).await,
                1 => self.workers[at].process.crash(),
                2 => self.sleep(at, step.for_ms),
                _ => {}
            }
        }
        let old = self.archivist.owner();
        self.diary.note(format!("{} is deleted, {next} archives now", self.archivist.connector));
        self.archivist = Archivist { connector: next, takes: Vec::new() };
        self.broker.lock().archive_as(next);
        if step.has_leave {
            self.give_leave(old);
        }
        self.generation += 1;
        let now = self.clock.ms();
        for (at, worker) in self.workers.iter_mut().enumerate() {
            let heir = Worker {
                name: format!("w{at}-{}", self.generation),
                process: Arc::default(),
                budget: Budget::new(self.plan.settings.memory_bytes),
                handle: None,
                lives: worker.lives,
                up_at_ms: Some(now),
                gave_up: Arc::default(),
                refused: Arc::default(),
                disk: None,
            };
            self.former.push(std::mem::replace(worker, heir));
        }
    }

    /// The user lets the connector go on with the chains of `owner`.
    pub(super) fn give_leave(&mut self, owner: String) {
        self.diary.note(format!("{} has archive.takeover={owner}", self.archivist.connector));
        self.broker.lock().takeovers.insert((self.archivist.owner(), owner.clone()));
        if !self.archivist.takes.contains(&owner) {
            self.archivist.takes.push(owner);
        }
    }

    /// The users of those who were refused read why.
    pub(super) fn hear_refusals(&mut self) {
        for at in 0..self.workers.len() {
            let worker = &self.workers[at];
            let refused = worker.refused.lock().unwrap().take();
            if let Some(owner) = refused.filter(|_| worker.handle.is_some()) {
                worker.process.crash();
                self.give_leave(owner);
            }
        }
    }

    /// True while workers of a connector that was deleted live on.
    pub(super) fn has_former(&self) -> bool {
        self.former.iter().any(|worker| worker.handle.is_some() && !worker.process.is_dead())
    }

    /// Whoever was not reached is stopped for good.
    pub(super) async fn stop_former(&mut self) {
        for mut worker in std::mem::take(&mut self.former) {
            worker.process.take_traps();
            // One that is amid a hand-over with a broker that was away a moment ago may be aborted.
            worker.end((&self.clock, &self.diary), false).await;
            self.former.push(worker);
        }
    }

    /// Nobody writes behind an entry of another owner without leave.
    pub(super) fn judge_owner(store: &SimStore, archivists: &Archivists, worker: &str, entry: &Value) {
        let (Some(topic), Some(number), Some(seq)) =
            (entry["source"]["topic"].as_str(), entry["source"]["partition"].as_i64(), entry["seq"].as_u64())
        else {
            return;
        };
        let partition = TopicPartition::new(topic, number as i32);
        let Some(archivist) = archivists.lock().unwrap().get(worker).cloned() else { return };
        let owner = owner(entry);
        if owner != archivist.owner() {
            store.diary.accuse(format!("{worker} of {} writes as {owner}", archivist.owner()));
        }
        let Some(before) = store.owner_before(&partition, seq).filter(|before| *before != owner) else { return };
        if entry["kind"] == "open" && archivist.takes.contains(&before) {
            store.diary.note(format!("{worker} takes {partition} over from {before}"));
        } else {
            store.diary.accuse(format!("{worker} writes entry {seq} of {partition} behind one of {before}"));
        }
    }
}

/// Since when each owner's entries stood at a chain's end: what is kept of one chain.
#[derive(Default)]
pub(crate) struct Owners(Vec<(u64, u64, String)>);

/// How old the word of a task may be that ended in between.
const LATELY_MS: u64 = 60_000;

impl Owners {
    /// `owner` writes entry `seq`, now.
    pub(crate) fn note(&mut self, clock: &SimClock, seq: u64, owner: String) {
        self.0.retain(|(_, known, _)| *known < seq);
        self.0.push((clock.ms(), seq, owner));
    }

    pub(crate) fn before(&self, seq: u64) -> Option<String> {
        self.0.iter().rfind(|(_, known, _)| *known < seq).map(|(.., owner)| owner.clone())
    }

    pub(crate) fn was_lately(&self, clock: &SimClock, owner: &str) -> bool {
        let since = clock.ms().saturating_sub(LATELY_MS);
        let replaced = |at: usize| self.0.get(at + 1).map_or(u64::MAX, |(ms, ..)| *ms);
        self.0.iter().enumerate().any(|(at, (.., known))| known == owner && replaced(at) >= since)
    }

    pub(crate) fn last(&self) -> Option<&str> {
        self.0.last().map(|(.., owner)| owner.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_task_says_of_another_owner_is_read() {
        let told = |trace: &str| told(trace).map(|told| (told.partition.to_string(), told.owner, told.is_newcomer));
        let refused = "config: t0-1 is archived here by simulated/connect-sink (cluster id/consumer group), this connector \
                       is simulated/connect-heir: give it another store.url";
        assert_eq!(told(refused), Some(("t0-1".to_owned(), "simulated/connect-sink".to_owned(), true)));
        let lost = "config: t1-0: simulated/connect-heir took over this archive with epoch 7; this connector stops";
        assert_eq!(told(lost), Some(("t1-0".to_owned(), "simulated/connect-heir".to_owned(), false)));
        assert_eq!(told("t0-1: offsets 5..=9 are gone"), None);
    }
}
