//! The coordinator of the simulated cluster's transactions, by Kafka's rules: a transactional id belongs to whoever
//! took it over last; the end of a transaction is decided in one moment, and its markers reach the partitions and the
//! group's offsets one by one afterwards; one that stays open too long is taken back, and its writer out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lakeferry::kafka::{Commits, Pending, Written};
use lakeferry_api::{ConnectError, Result, TopicPartition};

use super::client::away;
use super::log::Rec;
use super::{Broker, State};
use crate::store::{Accident, spawn};

/// `transaction.timeout.ms`.
const TIMEOUT_MS: u64 = 60_000;

/// What a producer asks of the brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verb {
    Init,
    Produce,
    SendOffsets,
    Commit,
    Abort,
}

impl Verb {
    /// What it asks for.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Init => "takes a transactional id over",
            Self::Produce => "sends a batch",
            Self::SendOffsets => "sends offsets",
            Self::Commit => "commits a transaction",
            Self::Abort => "aborts a transaction",
        }
    }
}

/// When something happens to who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Moment {
    /// Before the request is sent.
    Before,
    /// When it has taken effect, and is not answered yet.
    After,
}

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Coordinator {
    ids: BTreeMap<String, Id>,
    commits: BTreeMap<String, Commits>,
    pub(super) accidents: BTreeMap<(Verb, Moment), Accident>,
    /// The epoch that a process was given of an id.
    given: BTreeMap<(String, String), u64>,
}

/// What is known of a transactional id.
#[derive(Default)]
struct Id {
    /// Counts who had it.
    epoch: u64,
    open: Option<Open>,
    /// The last transaction that is not open any more.
    over: u64,
    /// Markers of it that are not written yet.
    markers_due: usize,
    /// The group whose offsets wait for one of these.
    pending: Option<String>,
}

struct Open {
    number: u64,
    began_ms: u64,
    targets: BTreeSet<TopicPartition>,
    commits: Option<(String, Commits)>,
    /// What was written, by partition and sequence.
    landed: BTreeMap<(TopicPartition, u64), Written>,
}

/// A producer's own view of what it does.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    pub(super) id: String,
    pub(super) epoch: Option<u64>,
    /// Its transaction.
    pub(super) number: u64,
}

impl Coordinator {
    /// The next who asks this at this moment meets with `accident`.
    pub(crate) fn arrange(&mut self, verb: Verb, moment: Moment, accident: Accident) {
        self.accidents.insert((verb, moment), accident);
    }

    pub(crate) fn cancel_accidents(&mut self) {
        self.accidents.clear();
    }

    /// True where `process` had this transactional id, and has it no more: whatever it says of the targets since then.
    pub(crate) fn is_taken_from(&self, process: &str, id: &str) -> bool {
        let given = self.given.get(&(process.to_owned(), id.to_owned()));
        given.is_some_and(|given| self.ids.get(id).is_some_and(|id| id.epoch != *given))
    }

    /// The offsets of `group`; `None` while they are about to change and that is to be awaited.
    pub(super) fn commits(&self, group: &str, pending: Pending) -> Option<Commits> {
        let changes = |id: &Id| {
            let open = id.open.as_ref().and_then(|open| open.commits.as_ref());
            open.is_some_and(|(of, _)| of == group) || id.pending.as_deref() == Some(group)
        };
        if pending == Pending::Awaited && self.ids.values().any(changes) {
            return None;
        }
        Some(self.commits.get(group).cloned().unwrap_or_default())
    }

    /// The record of the writer's id, where the id is still its own.
    fn own(&mut self, writer: &Writer) -> Result<&mut Id> {
        let id = self.ids.entry(writer.id.clone()).or_default();
        if writer.epoch == Some(id.epoch) {
            return Ok(id);
        }
        Err(ConnectError::fenced(format!("another instance has taken {} over", writer.id)))
    }

    /// The writer's transaction, begun where it is none yet.
    fn open(&mut self, writer: &Writer, now_ms: u64) -> Result<&mut Open> {
        let id = self.own(writer)?;
        if id.markers_due > 0 {
            return Err(away());
        }
        if writer.number <= id.over {
            return Err(ConnectError::fatal("the transaction is over"));
        }
        Ok(id.open.get_or_insert_with(|| Open {
            number: writer.number,
            began_ms: now_ms,
            targets: BTreeSet::new(),
            commits: None,
            landed: BTreeMap::new(),
        }))
    }
}

impl State {
    /// Gives the transactional id to whoever asks, once nothing of it is under way: its new epoch.
    pub(super) fn take_over(&mut self, broker: &Arc<Broker>, process: &str, id: &str) -> Result<u64> {
        let known = self.coordinator.ids.entry(id.to_owned()).or_default();
        if known.open.is_some() {
            // From this moment on whoever had it is out; who asks waits for the markers.
            known.epoch += 1;
            self.end_open(broker, id, false);
        }
        let known = self.coordinator.ids.entry(id.to_owned()).or_default();
        if known.markers_due > 0 {
            return Err(away());
        }
        known.epoch += 1;
        let epoch = known.epoch;
        broker.diary.note(format!("{process} has epoch {epoch} of {id}"));
        self.coordinator.given.insert((process.to_owned(), id.to_owned()), epoch);
        Ok(epoch)
    }

    /// Appends `recs`, once for each sequence.
    pub(super) fn write(
        &mut self,
        (writer, now_ms): (&Writer, u64),
        (target, sequence): (&TopicPartition, u64),
        recs: &[Rec],
    ) -> Result<Written> {
        let open = self.coordinator.open(writer, now_ms)?;
        if let Some(written) = open.landed.get(&(target.clone(), sequence)) {
            return Ok(*written);
        }
        let number = open.number;
        let log = self.log(target).ok_or_else(|| ConnectError::not_found(target.to_string()))?;
        let first = log.end();
        for rec in recs {
            log.append(rec.clone(), Some(number));
        }
        let written = Written { first, last: log.end() - 1 };
        let open = self.coordinator.open(writer, now_ms)?;
        open.targets.insert(target.clone());
        open.landed.insert((target.clone(), sequence), written);
        Ok(written)
    }

    /// Adds the offsets of a group to the transaction.
    pub(super) fn add_offsets(
        &mut self,
        (writer, now_ms): (&Writer, u64),
        group: &str,
        commits: Commits,
    ) -> Result<()> {
        self.coordinator.open(writer, now_ms)?.commits = Some((group.to_owned(), commits));
        Ok(())
    }

    /// Ends the writer's transaction, unless that has happened.
    pub(super) fn end(&mut self, broker: &Arc<Broker>, writer: &Writer, commit: bool) -> Result<()> {
        let id = self.coordinator.own(writer)?;
        id.over = id.over.max(writer.number);
        self.end_open(broker, &writer.id, commit);
        Ok(())
    }

    /// The decision; markers follow.
    fn end_open(&mut self, broker: &Arc<Broker>, name: &str, commit: bool) {
        let id = self.coordinator.ids.entry(name.to_owned()).or_default();
        let Some(open) = id.open.take() else { return };
        broker.diary.note(format!("{name} ends transaction {}, commit {commit}", open.number));
        id.over = id.over.max(open.number);
        let offsets = open.commits.filter(|_| commit);
        id.markers_due = open.targets.len() + usize::from(offsets.is_some());
        id.pending = offsets.as_ref().map(|(group, _)| group.clone());
        for target in open.targets {
            let again = usize::from(broker.dice.hits(self.faults)) * broker.dice.between(1, 2) as usize;
            let number = open.number;
            later(broker, name, move |state| {
                let Some(log) = state.log(&target) else { return };
                log.end_transaction(number, commit);
                (0..again).for_each(|_| log.mark_again(number, commit));
            });
        }
        if let Some((group, commits)) = offsets {
            later(broker, name, move |state| {
                state.coordinator.commits.entry(group).or_default().extend(commits);
            });
        }
    }

    /// Takes back what is open for too long.
    pub(crate) fn expire(&mut self, broker: &Arc<Broker>) {
        let now_ms = broker.clock.ms();
        let is_old = |id: &Id| id.open.as_ref().is_some_and(|open| open.began_ms + TIMEOUT_MS <= now_ms);
        let old = self.coordinator.ids.iter().filter(|(_, id)| is_old(id)).map(|(name, _)| name.clone());
        for name in old.collect::<Vec<_>>() {
            broker.diary.note(format!("{name} has a transaction open for too long"));
            self.end_open(broker, &name, false);
            self.coordinator.ids.entry(name).or_default().epoch += 1;
        }
    }
}

/// A marker of the last transaction of `id` is written in a while.
fn later(broker: &Arc<Broker>, id: &str, write: impl FnOnce(&mut State) + Send + 'static) {
    let (broker, id) = (Arc::clone(broker), id.to_owned());
    spawn(async move {
        let slow = broker.dice.hits(50);
        broker.clock.wait(broker.dice.between(0, if slow { 2_000 } else { 15 })).await;
        let mut state = broker.lock();
        write(&mut state);
        let known = state.coordinator.ids.entry(id).or_default();
        known.markers_due -= 1;
        if known.markers_due == 0 {
            known.pending = None;
        }
        drop(state);
        broker.tell();
    });
}
