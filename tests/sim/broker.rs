//! The simulated cluster: topics that are created, deleted and created again, logs to which everything happens that
//! can, and one consumer group with a real coordinator's rules. [`client`] is what a worker sees of it, through the
//! worker's own traits.

mod admin;
pub(crate) mod client;
pub(crate) mod group;
mod leaving;
pub(crate) mod log;
mod producer;
pub(crate) mod transactions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use lakeferry_api::{Positions, TopicPartition};
use tokio::sync::Notify;

use self::group::Group;
use self::log::{Log, Rec};
use self::transactions::Coordinator;
use crate::chance::{Diary, Dice};
use crate::clock::SimClock;
use crate::rare::Reset;
use crate::store::SimStore;

/// Who archives at first.
pub(crate) const FIRST_CONNECTOR: &str = "sink";
/// How far a broker lags behind the others at most.
const BEHIND_MS: u64 = 8_000;

/// See the module's documentation.
pub(crate) struct Broker {
    pub(crate) clock: Arc<SimClock>,
    pub(crate) dice: Arc<Dice>,
    pub(crate) diary: Diary,
    pub(crate) store: Arc<SimStore>,
    state: Mutex<State>,
    /// Told of everything that may concern a consumer.
    pub(crate) changed: Notify,
}

/// What the cluster is made of.
pub(crate) struct State {
    pub(crate) topics: BTreeMap<String, Topic>,
    /// Topics that are gone: their last state, by id.
    pub(crate) buried: BTreeMap<String, Topic>,
    /// Every group of consumers, by its name.
    pub(crate) groups: BTreeMap<String, Group>,
    /// The group of whoever archives now.
    current: String,
    /// Who was allowed by a user to go on with whose chains: the new owner and the old.
    pub(crate) takeovers: BTreeSet<(String, String)>,
    /// Every offset that a user asked to alter a partition to; `None` is a reset.
    pub(crate) altered: BTreeMap<TopicPartition, BTreeSet<Option<i64>>>,
    pub(crate) coordinator: Coordinator,
    next_topic: u64,
    next_transaction: u64,
    /// Per mille of requests that go wrong.
    pub(crate) faults: u64,
    pub(crate) away: bool,
    /// The next batch is there before the one before is taken.
    pub(crate) torrent: bool,
    /// Until when a broker that lags behind answers the first questions of whoever opens a partition, by topic.
    pub(crate) stale_until_ms: BTreeMap<String, (u64, Topic)>,
    /// Whose last question about a topic such a broker answered, by member and topic: it is asked the next one, too.
    pub(crate) misled: BTreeSet<(String, String)>,
    /// A broker lags behind the others.
    pub(crate) lags: bool,
    /// What that one knows of each topic, and since when.
    behind: BTreeMap<String, (u64, Topic)>,
    pub(crate) reset: Reset,
    /// What whoever asked about a partition was told of its end, by the topic's id.
    pub(crate) told_ends: BTreeMap<(TopicPartition, String), BTreeSet<i64>>,
    /// What a task had read of topics that were deleted and is to be archived: offsets, by the topic's id.
    pub(crate) owed: BTreeMap<(TopicPartition, String), BTreeSet<i64>>,
    /// Where reading began of what has no archive yet, by the topic's id: the group was told, and nobody has altered
    /// that since.
    pub(crate) begun: BTreeMap<(TopicPartition, String), i64>,
}

/// One incarnation of a topic.
#[derive(Clone)]
pub(crate) struct Topic {
    pub(crate) id: String,
    /// Topics are numbered in the order in which they are made.
    pub(crate) number: u64,
    pub(crate) logs: Vec<Log>,
    pub(crate) compacted: bool,
}

/// The group of consumers of `connector`.
pub(crate) fn group_of(connector: &str) -> String {
    format!("connect-{connector}")
}

impl Broker {
    pub(crate) fn new(clock: Arc<SimClock>, dice: Arc<Dice>, store: Arc<SimStore>, eager: bool) -> Arc<Self> {
        let diary = store.diary.clone();
        let state = State {
            topics: BTreeMap::new(),
            buried: BTreeMap::new(),
            groups: BTreeMap::from([(group_of(FIRST_CONNECTOR), Group::new(eager))]),
            current: group_of(FIRST_CONNECTOR),
            takeovers: BTreeSet::new(),
            altered: BTreeMap::new(),
            coordinator: Coordinator::default(),
            next_topic: 0,
            next_transaction: 0,
            faults: 0,
            away: false,
            torrent: false,
            stale_until_ms: BTreeMap::new(),
            misled: BTreeSet::new(),
            lags: false,
            behind: BTreeMap::new(),
            reset: Reset::Earliest,
            told_ends: BTreeMap::new(),
            owed: BTreeMap::new(),
            begun: BTreeMap::new(),
        };
        Arc::new(Self { clock, dice, diary, store, state: Mutex::new(state), changed: Notify::new() })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Something changed that consumers may want to know.
    pub(crate) fn tell(&self) {
        self.changed.notify_waiters();
    }

    pub(crate) fn create_topic(&self, name: &str, partitions: usize, compacted: bool) {
        self.lock().create_topic(self, name, partitions, compacted);
        self.tell();
    }

    pub(crate) fn delete_topic(&self, name: &str) {
        let mut state = self.lock();
        let Some(topic) = state.topics.remove(name) else { return };
        self.diary.note(format!("topic {name} is deleted"));
        let until = self.clock.ms() + 20_000;
        state.stale_until_ms.insert(name.to_owned(), (until, topic.clone()));
        state.buried.insert(topic.id.clone(), topic);
        let of_topic = |partition: &TopicPartition| *partition.topic == *name;
        if state.reset == Reset::None {
            // Its user says at once that what comes under this name is to be read from the beginning.
            let all = state.groups.values_mut().flat_map(|group| group.committed.iter_mut());
            all.filter(|(partition, _)| of_topic(partition)).for_each(|(_, offset)| *offset = 0);
        } else {
            state.each_committed(|committed| committed.retain(|partition, _| !of_topic(partition)));
        }
        drop(state);
        self.tell();
    }

    pub(crate) fn add_partition(&self, name: &str) {
        let mut state = self.lock();
        if let Some(topic) = state.topics.get_mut(name) {
            topic.logs.push(Log::new());
            self.diary.note(format!("{name} has {} partitions", topic.logs.len()));
            state.begin_at_0(name);
            state.rebalance(self);
        }
        drop(state);
        self.tell();
    }

    /// Writes `records` as one transaction, or as none. `end` is whether it is committed, or left open.
    pub(crate) fn produce(&self, partition: &TopicPartition, records: Vec<Rec>, end: Option<Option<bool>>) {
        let mut state = self.lock();
        let id = state.next_transaction();
        let Some(log) = state.log(partition) else { return };
        for rec in records {
            log.append(rec, end.map(|_| id));
        }
        if let Some(Some(commit)) = end {
            log.end_transaction(id, commit);
        }
        let (end, stable) = (log.end(), log.stable());
        drop(state);
        self.diary.note(format!("{partition} grows to {end} (stable {stable})"));
        self.tell();
    }

    /// Ends every open transaction of a partition.
    pub(crate) fn end_transactions(&self, partition: &TopicPartition, commit: bool) {
        let mut state = self.lock();
        let Some(log) = state.log(partition) else { return };
        for id in log.open_transactions() {
            log.end_transaction(id, commit);
        }
        drop(state);
        self.tell();
    }

    /// Changes the log of `partition`, where there is one.
    pub(crate) fn change(&self, partition: &TopicPartition, what: &str, change: impl FnOnce(&mut Log)) {
        let mut state = self.lock();
        let Some(log) = state.log(partition) else { return };
        change(log);
        self.diary.note(format!("{partition} {what}: now {}..{} (stable {})", log.start(), log.end(), log.stable()));
        drop(state);
        self.tell();
    }

    /// An election; every consumer that reads `partition` has to validate its position.
    pub(crate) fn elect(&self, partition: &TopicPartition, lost_from: Option<i64>) {
        self.change(partition, "has a new leader", |log| log.elect(lost_from));
        self.lock().groups.values_mut().for_each(|group| group.validate(partition));
        self.tell();
    }

    /// All partitions of all topics.
    pub(crate) fn partitions(&self) -> BTreeSet<TopicPartition> {
        self.lock().partitions()
    }
}

impl State {
    /// The group of whoever archives now.
    pub(crate) fn group(&self) -> &Group {
        &self.groups[&self.current]
    }

    /// What that group has committed.
    pub(crate) fn committed(&self) -> &Positions {
        &self.group().committed
    }

    /// Changes what every group has committed.
    pub(crate) fn each_committed(&mut self, change: impl FnMut(&mut Positions)) {
        self.groups.values_mut().map(|group| &mut group.committed).for_each(change);
    }

    /// The group that is called `name`.
    fn group_mut(&mut self, name: &str) -> &mut Group {
        self.groups.get_mut(name).unwrap()
    }

    /// `connector` archives from now on, in a group of its own. Where no policy says where to begin, its user takes the
    /// offsets along.
    pub(crate) fn archive_as(&mut self, connector: &str) {
        let (before, eager) = (self.committed().clone(), self.group().eager);
        self.current = group_of(connector);
        let group = self.groups.entry(self.current.clone()).or_insert_with(|| Group::new(eager));
        if self.reset == Reset::None {
            group.committed = before;
        }
    }

    fn next_transaction(&mut self) -> u64 {
        self.next_transaction += 1;
        self.next_transaction
    }

    pub(crate) fn log(&mut self, partition: &TopicPartition) -> Option<&mut Log> {
        self.topics.get_mut(&*partition.topic)?.logs.get_mut(usize::try_from(partition.partition).ok()?)
    }

    pub(crate) fn peek(&self, partition: &TopicPartition) -> Option<&Log> {
        self.topics.get(&*partition.topic)?.logs.get(usize::try_from(partition.partition).ok()?)
    }

    /// The topic of this name that has this id, or had it.
    pub(crate) fn incarnation(&self, name: &str, id: &str) -> Option<&Topic> {
        self.topics.get(name).filter(|topic| topic.id == id).or_else(|| self.buried.get(id))
    }

    fn create_topic(&mut self, broker: &Broker, name: &str, partitions: usize, compacted: bool) {
        self.next_topic += 1;
        let id = format!("id-{:04}", self.next_topic);
        broker.diary.note(format!("topic {name} is created with {partitions} partitions, {id}"));
        let topic = Topic { id, number: self.next_topic, logs: vec![Log::new(); partitions], compacted };
        self.topics.insert(name.to_owned(), topic);
        self.begin_at_0(name);
        self.rebalance(broker);
    }

    /// The log of `partition` as a broker that lags behind knows it, if such a one is asked: of the topic that is there
    /// now, up to [`BEHIND_MS`] ago.
    pub(crate) fn behind(&mut self, broker: &Broker, partition: &TopicPartition, per_mille: u64) -> Option<&Log> {
        if !self.lags {
            return None;
        }
        let (now, topic) = (broker.clock.ms(), self.topics.get(&*partition.topic)?);
        let known = self.behind.entry(partition.topic.to_string()).or_insert_with(|| (now, topic.clone()));
        if known.1.id != topic.id || now >= known.0 + BEHIND_MS {
            *known = (now, topic.clone());
        }
        let log = known.1.logs.get(usize::try_from(partition.partition).ok()?)?;
        broker.dice.hits(per_mille).then_some(log)
    }

    /// Without a reset policy a user says where new partitions begin.
    fn begin_at_0(&mut self, name: &str) {
        if self.reset == Reset::None {
            let count = self.topics.get(name).map_or(0, |topic| topic.logs.len());
            self.each_committed(|committed| {
                for number in 0..count {
                    committed.entry(TopicPartition::new(name, number as i32)).or_insert(0);
                }
            });
        }
    }

    /// The offsets of `partitions` are altered or forgotten by somebody: what was begun counts no more.
    pub(crate) fn forget_begun(&mut self, is_altered: impl Fn(&TopicPartition) -> bool) {
        self.begun.retain(|(partition, _), _| !is_altered(partition));
    }

    /// The greatest end of `partition` that anybody was told, of the topic with `id` or of any.
    pub(crate) fn told_end(&self, partition: &TopicPartition, id: Option<&str>) -> Option<i64> {
        let of_it = |(known, of): &(TopicPartition, String)| known == partition && id.is_none_or(|id| id == of);
        self.told_ends.iter().filter(|(key, _)| of_it(key)).filter_map(|(_, ends)| ends.last().copied()).max()
    }

    /// Where reading begins, if the group is told so before there is an archive.
    fn note_begun(&mut self, partition: &TopicPartition, offset: i64) {
        let Some(topic) = self.topics.get(&*partition.topic) else { return };
        let begun = self.begun.entry((partition.clone(), topic.id.clone())).or_insert(offset);
        *begun = offset.min(*begun);
    }

    pub(crate) fn partitions(&self) -> BTreeSet<TopicPartition> {
        let of = |(name, topic): (&String, &Topic)| {
            (0..topic.logs.len()).map(|number| TopicPartition::new(name.as_str(), number as i32)).collect::<Vec<_>>()
        };
        self.topics.iter().flat_map(of).collect()
    }

    /// A4: what is committed is in the archive, or was never to be.
    fn check_commit(&mut self, broker: &Broker, group: &str, (partition, offset): (&TopicPartition, i64)) {
        if self.reset == Reset::Latest && broker.store.resume(partition).is_none() {
            let end = self.told_end(partition, None);
            if broker.store.end(partition).is_none() {
                self.note_begun(partition, offset);
            }
            if end.is_some_and(|end| offset <= end) {
                return;
            }
        }
        let durable = match broker.store.resume_lately(partition) {
            Some(resume) if broker.store.resume(partition).is_some() => resume,
            // Without a chain, or reset: what is not in the log is not there to be archived.
            resume => self
                .peek(partition)
                .map_or(0, Log::start)
                .max(self.groups[group].committed.get(partition).copied().unwrap_or(0))
                .max(resume.unwrap_or(0)),
        };
        if offset > durable {
            broker.diary.accuse(format!("A4: {partition} is committed at {offset}, durable to {durable}"));
        }
    }

    /// Gives every partition an owner among those who are there.
    pub(crate) fn rebalance(&mut self, broker: &Broker) {
        let partitions = self.partitions();
        self.groups.values_mut().for_each(|group| group.rebalance(&partitions, broker));
    }
}
