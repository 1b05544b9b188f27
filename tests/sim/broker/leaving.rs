//! Partitions that a client loses: to another member, or with their topics. The client tells them apart as the real one
//! does, by asking any broker (`src/kafka/consumer/rebalance.rs`, `say_lost`), and what a task had read of a topic that
//! is deleted it owes to the archive.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lakeferry::kafka::Event;
use lakeferry_api::TopicPartition;

use super::client::SimConsumer;
use super::group::{Fetching, Reading};
use super::{Broker, State};
use crate::awaits::Stretch;

/// How long a task may take to publish what it holds of partitions that go.
const PATIENCE_MS: u64 = 60_000;
/// Of 1,000 such questions so many are answered by brokers that lag behind alone, where one does.
const ALL_LAG: u64 = 20;

/// It was noticed already.
const NEVER: u64 = u64::MAX;

/// What a client deals with that was told that partitions are gone.
#[derive(Default)]
pub(super) struct Loss {
    /// When it notices that a topic is not there any more.
    misses: BTreeMap<String, u64>,
    /// It asks whether these went with their topics, until then.
    asking: Option<(u64, BTreeMap<TopicPartition, Fetching>)>,
    /// The answer, before anything else that it has to tell.
    telling: Vec<Event>,
    /// What it told the loop to have gone, or to go, and whose topic is deleted; until the loop comes back it publishes
    /// what it has of it.
    kept: Vec<Kept>,
}

/// See [`Loss::kept`].
struct Kept {
    partition: TopicPartition,
    reading: Option<Reading>,
    told_ms: u64,
}

impl SimConsumer {
    /// The next of what the loop is to be told of partitions that are gone.
    pub(super) fn tell_loss(&mut self, state: &mut State) -> Option<Event> {
        if self.loss.telling.is_empty() {
            return None;
        }
        let event = self.loss.telling.remove(0);
        if let Event::Lost(lost) = &event {
            state.group_mut(&self.group).has_lost(self.member, lost);
        }
        Some(event)
    }

    /// True while the brokers are asked: the client tells of nothing else meanwhile. Gives up the partitions of topics
    /// that it misses.
    pub(super) fn is_asking(&mut self, state: &mut State, now: u64) -> bool {
        if self.loss.asking.is_none() {
            let broker = Arc::clone(&self.clients.broker);
            let lost = self.missing(state, &broker, now);
            if !lost.is_empty() {
                let names: Vec<_> = lost.keys().map(ToString::to_string).collect();
                broker.diary.note(format!("{} misses the topics of {}", self.clients.worker, names.join(" ")));
                self.loss.asking = Some((now + broker.dice.between(2, 800), lost));
                // Who leads the group joins again.
                if broker.dice.hits(250) {
                    state.rebalance(&broker);
                }
            }
        }
        self.loss.asking.is_some()
    }

    /// When the answer comes.
    pub(super) fn answered_ms(&self) -> u64 {
        self.loss.asking.as_ref().map_or(0, |(at, _)| *at)
    }

    /// What the client holds of topics that it has come to miss, and gives up. With eager rebalances everybody gives
    /// everything back in order instead.
    fn missing(&mut self, state: &mut State, broker: &Broker, now: u64) -> BTreeMap<TopicPartition, Fetching> {
        let is_eager = state.groups[&self.group].eager;
        let topics: BTreeSet<String> =
            state.groups[&self.group].members[&self.member].fetched.keys().map(|name| name.topic.to_string()).collect();
        // One that is back was never missed.
        self.loss.misses.retain(|topic, _| topics.contains(topic) && !state.topics.contains_key(topic));
        for topic in topics.into_iter().filter(|topic| !state.topics.contains_key(topic)) {
            let noticed = || now + broker.dice.below(if broker.dice.hits(800) { 1_000 } else { 6_000 });
            self.loss.misses.entry(topic).or_insert_with(noticed);
        }
        let due: BTreeSet<String> =
            self.loss.misses.iter().filter(|(_, at)| now >= **at).map(|(topic, _)| topic.clone()).collect();
        if due.is_empty() {
            return BTreeMap::new();
        }
        if is_eager {
            self.loss.misses.values_mut().filter(|at| now >= **at).for_each(|at| *at = NEVER);
            state.rebalance(broker);
            return BTreeMap::new();
        }
        state.group_mut(&self.group).let_go(self.member, |partition| due.contains(&*partition.topic))
    }

    /// When the client misses a topic next.
    pub(super) fn misses_next_ms(&self) -> Option<u64> {
        self.loss.misses.values().min().copied()
    }

    /// The brokers tell what became of what the client was asking about.
    pub(super) fn hear_answer(&mut self, state: &mut State) {
        let lost = self.take_asking();
        let (diary, worker) = (&self.clients.broker.diary, &self.clients.worker);
        if lost.keys().any(|partition| state.topics.contains_key(&*partition.topic)) {
            diary.note(format!("{worker} asks too late: a topic that it missed has come back"));
        }
        self.lose(state, lost);
    }

    /// What is known of a partition that the client asks about.
    pub(super) fn asked(&mut self, partition: &TopicPartition) -> Option<&mut Fetching> {
        self.loss.asking.as_mut()?.1.get_mut(partition)
    }

    /// What the client was asking about.
    pub(super) fn take_asking(&mut self) -> BTreeMap<TopicPartition, Fetching> {
        self.loss.asking.take().map(|(_, lost)| lost).unwrap_or_default()
    }

    /// The loop is told which of these went with their topics. Where nobody says so, they are another's.
    pub(super) fn lose(&mut self, state: &mut State, lost: BTreeMap<TopicPartition, Fetching>) {
        let broker = Arc::clone(&self.clients.broker);
        let is_untold = state.away || broker.dice.hits(state.faults) || state.lags && broker.dice.hits(ALL_LAG);
        let is_gone = |partition: &TopicPartition| !is_untold && !state.topics.contains_key(&*partition.topic);
        let (deleted, lost): (BTreeMap<_, _>, BTreeMap<_, _>) =
            lost.into_iter().partition(|(partition, _)| is_gone(partition));
        let names = |of: &BTreeMap<TopicPartition, Fetching>| of.keys().cloned().collect::<Vec<_>>();
        if !deleted.is_empty() {
            let (worker, told) = (&self.clients.worker, names(&deleted));
            let list: Vec<_> = told.iter().map(ToString::to_string).collect();
            broker.diary.note(format!("{worker} hears that {} went with their topics", list.join(" ")));
            self.clients.process.reach(Stretch::Release);
            self.clients.process.reach(Stretch::Deleted);
            self.loss.telling.push(Event::Deleted(told));
        }
        if !lost.is_empty() {
            self.loss.telling.push(Event::Lost(names(&lost)));
        }
        self.keeps(deleted);
    }

    /// The loop is told that these go, whose topics are gone: it publishes what it has of them.
    pub(super) fn keeps(&mut self, gone: BTreeMap<TopicPartition, Fetching>) {
        let told_ms = self.clients.broker.clock.ms();
        let kept = |(partition, fetching): (_, Fetching)| Kept { partition, reading: fetching.reading(), told_ms };
        self.loss.kept.extend(gone.into_iter().map(kept));
    }

    /// The loop asks for more: from now on it publishes nothing of what it was told to be gone. What it had read of it
    /// is to be in the archive, where that was open, the store took everything, and the topic has not come back.
    pub(super) fn has_kept(&mut self, state: &mut State) {
        let broker = Arc::clone(&self.clients.broker);
        for Kept { partition, reading, told_ms } in std::mem::take(&mut self.loss.kept) {
            state.group_mut(&self.group).has_lost(self.member, std::slice::from_ref(&partition));
            let Some(Reading { from, upto, id, since_ms }) = reading else { continue };
            let process = &self.clients.process;
            let is_open = broker.store.is_open_by(&partition, process, (&id, since_ms));
            let in_time = broker.clock.ms() < told_ms + PATIENCE_MS;
            let topic = &*partition.topic;
            let was_it = state.stale_until_ms.get(topic).is_some_and(|(_, deleted)| deleted.id == id);
            let is_gone = was_it && !state.topics.contains_key(topic);
            if !(is_open && in_time && is_gone) || process.was_troubled_since(since_ms, &partition) {
                continue;
            }
            let log = state.buried.get(&id).and_then(|topic| topic.logs.get(partition.partition as usize));
            let read: BTreeSet<i64> = log
                .into_iter()
                .flat_map(|log| log.present().into_keys())
                .filter(|at| (from..upto).contains(at))
                .collect();
            if !read.is_empty() {
                let (worker, count) = (&self.clients.worker, read.len());
                broker.diary.note(format!("{worker} owes the archive {count} records of {partition}, {id}"));
                state.owed.entry((partition, id)).or_default().extend(read);
            }
        }
    }
}
