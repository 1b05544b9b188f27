//! What a worker sees of the simulated cluster, through the traits of the worker's `kafka` floor. Requests are delayed
//! and go wrong; a commit may happen although its answer is lost.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use lakeferry::kafka::{Admin, Clients, Consumer, Event, GroupMember, Producer, Subscription};
use lakeferry_api::batch::NO_TIMESTAMP;
use lakeferry_api::simulation::host::Host as _;
use lakeferry_api::{
    Batch, BatchBuilder, Config, ConnectError, Place, Places, Positions, Result, TimestampType, TopicPartition,
};
use tokio::sync::oneshot;

use super::admin::SimAdmin;
use super::group::{Fetching, MemberId, Notice, Reading};
use super::leaving::Loss;
use super::log::{Log, Stamp};
use super::producer::SimProducer;
use super::{Broker, State};
use crate::awaits::{Stage, Stretch, seen};
use crate::process::Process;
use crate::store::{chain_of, spawn};

/// Of 1,000 fetches so many go to a broker that lags behind, where one does.
const LAGGING_FETCHES: u64 = 20;

/// The clients of one process.
#[derive(Clone)]
pub(crate) struct SimClients {
    pub(crate) broker: Arc<Broker>,
    pub(crate) process: Arc<Process>,
    pub(crate) worker: String,
}

impl Clients for SimClients {
    fn consumer(&self, properties: &Config, _: &Subscription) -> Result<Box<dyn Consumer>> {
        let id = properties.get("client.id").cloned().unwrap_or_default();
        let name = format!("{}/{id}", self.worker);
        let mut state = self.broker.lock();
        let group = properties.get("group.id").cloned().unwrap_or_default();
        let member = state.group_mut(&group).join(name, Arc::clone(&self.process));
        state.rebalance(&self.broker);
        drop(state);
        self.broker.tell();
        let loss = Loss::default();
        Ok(Box::new(SimConsumer { clients: self.clone(), group, member, queue: VecDeque::new(), loss, closed: false }))
    }

    fn producer(&self, properties: &Config) -> Result<Arc<dyn Producer>> {
        let id = properties.get("transactional.id");
        let id = id.ok_or_else(|| ConnectError::fatal("only a restore has a producer, and that has transactions"))?;
        Ok(Arc::new(SimProducer::new(self.clone(), id)))
    }

    fn admin(&self, properties: &Config) -> Result<Arc<dyn Admin>> {
        let task = properties.get("client.id").cloned().unwrap_or_default();
        let member = task.replace("connector-adminclient-", "connector-consumer-");
        Ok(Arc::new(SimAdmin { clients: self.clone(), member: format!("{}/{member}", self.worker) }))
    }
}

impl SimClients {
    /// Sends a request: `effect` happens at the broker, whatever becomes of the sender meanwhile.
    pub(super) async fn request<T: Send + 'static>(
        &self,
        what: &str,
        effect: impl FnOnce(&mut State, &Broker) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let broker = Arc::clone(&self.broker);
        let asked = self.process.asks(what.to_owned());
        let comes_to = asked.reporter();
        let (there, back) = (broker.dice.between(1, 6), broker.dice.between(1, 4));
        let faults = broker.lock().faults;
        let (refused, lost) = (broker.dice.hits(faults), broker.dice.hits(faults));
        let (answer, answered) = oneshot::channel();
        comes_to(Stage::Sent);
        spawn(async move {
            broker.clock.wait(there).await;
            let outcome = {
                let mut state = broker.lock();
                if refused || state.away { Err(away()) } else { effect(&mut state, &broker) }
            };
            comes_to(Stage::Done);
            broker.tell();
            broker.clock.wait(back).await;
            let _ = answer.send(if lost { Err(away()) } else { outcome });
        });
        seen(answered).await.unwrap_or_else(|_| Err(away()))
    }
}

pub(super) fn away() -> ConnectError {
    ConnectError::retriable("the broker does not answer")
}

pub(super) struct SimConsumer {
    pub(super) clients: SimClients,
    pub(super) group: String,
    pub(super) member: MemberId,
    /// Fetched ahead of the loop, with the position it was fetched at.
    queue: VecDeque<Event>,
    pub(super) loss: Loss,
    closed: bool,
}

/// What [`SimConsumer::next`] does next.
enum Next {
    Say(Event),
    /// Nothing before this many milliseconds, unless something changes.
    Wait(u64),
}

impl SimConsumer {
    fn look(&mut self) -> Next {
        let broker = Arc::clone(&self.clients.broker);
        let mut state = broker.lock();
        let now = broker.clock.ms();
        self.has_kept(&mut state);
        if let Some(event) = self.tell_loss(&mut state) {
            return Next::Say(event);
        }
        if let Some(mut lost) = state.group_mut(&self.group).hear_of_expulsion(self.member, &broker) {
            broker.diary.note(format!("{} hears that it was expelled", self.clients.worker));
            self.queue.clear();
            lost.extend(self.take_asking());
            self.lose(&mut state, lost);
            state.rebalance(&broker);
            let event = self.tell_loss(&mut state);
            drop(state);
            broker.tell();
            return event.map_or(Next::Wait(1), Next::Say);
        }
        if !state.groups[&self.group].members.contains_key(&self.member) {
            return Next::Wait(10_000);
        }
        let is_asking = self.is_asking(&mut state, now);
        let member = state.group_mut(&self.group).members.get_mut(&self.member).unwrap();
        if !is_asking && let Some(notice) = member.notices.pop_front() {
            return Next::Say(self.tell(notice, &mut state));
        }
        if now < member.busy_until_ms {
            return Next::Wait(member.busy_until_ms - now);
        }
        if is_asking && self.queue.is_empty() {
            // The loop hears of it behind everything that was fetched before.
            if now < self.answered_ms() {
                return Next::Wait(self.answered_ms() - now);
            }
            self.hear_answer(&mut state);
            return self.tell_loss(&mut state).map_or(Next::Wait(1), Next::Say);
        }
        if self.queue.is_empty() {
            self.fetch(&mut state, now);
        }
        let Some(event) = self.queue.pop_front() else {
            let missed_in = self.misses_next_ms().map_or(500, |at| at.saturating_sub(now).max(1));
            return Next::Wait(missed_in.min(500));
        };
        self.note_read(&event, &mut state);
        if !state.torrent {
            let member = state.group_mut(&self.group).members.get_mut(&self.member).unwrap();
            member.busy_until_ms = now + broker.dice.between(1, 20);
        }
        Next::Say(event)
    }

    /// The loop is given `event`.
    fn note_read(&mut self, event: &Event, state: &mut State) {
        let Event::Batches(batches) = event else { return };
        let member = state.group_mut(&self.group).members.get_mut(&self.member).unwrap();
        for batch in batches {
            let fetching = member.fetched.get_mut(batch.partition()).or_else(|| self.asked(batch.partition()));
            if let Some(read) = fetching.and_then(|fetching| fetching.read.as_mut()) {
                read.upto = batch.next_offset();
            }
        }
    }

    fn tell(&mut self, notice: Notice, state: &mut State) -> Event {
        let State { topics, groups, .. } = state;
        let member = groups.get_mut(&self.group).unwrap().members.get_mut(&self.member).unwrap();
        let mut gone = BTreeMap::new();
        match notice {
            Notice::Assigned(partitions) => {
                for partition in &partitions {
                    let stale_answers = self.clients.broker.dice.below(3) as u32;
                    member.fetched.insert(partition.clone(), Fetching { stale_answers, ..Fetching::default() });
                }
                Event::Assigned(partitions)
            }
            Notice::Revoked(partitions) => {
                self.clients.process.reach(Stretch::Release);
                for partition in &partitions {
                    forget(&mut self.queue, partition);
                    let fetching = member.fetched.remove(partition);
                    if !topics.contains_key(&*partition.topic) {
                        gone.extend(fetching.map(|fetching| (partition.clone(), fetching)));
                    }
                }
                self.keeps(gone);
                Event::Revoked(partitions)
            }
        }
    }

    /// Fetches ahead, a few batches of one partition.
    fn fetch(&mut self, state: &mut State, now: u64) {
        let broker = Arc::clone(&self.clients.broker);
        if state.away {
            if broker.dice.hits(100) {
                self.queue.push_back(Event::Error(away()));
            }
            return;
        }
        let names: Vec<TopicPartition> =
            state.groups[&self.group].members[&self.member].fetched.keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        let first = broker.dice.below(names.len() as u64) as usize;
        for at in 0..names.len() {
            let name = &names[(first + at) % names.len()];
            let mut fetching = state.groups[&self.group].members[&self.member].fetched[name].clone();
            let end_behind = state.behind(&broker, name, LAGGING_FETCHES).map(Log::end);
            if let Some(position) = fetching.position.filter(|at| end_behind.is_some_and(|end| end < *at)) {
                // The log that it has does not reach the position.
                broker.diary.note(format!("a broker behind the others refuses {position} of {name}"));
                fetching.position = None;
                self.queue.push_back(Event::OutOfRange(name.clone()));
                state
                    .group_mut(&self.group)
                    .members
                    .get_mut(&self.member)
                    .unwrap()
                    .fetched
                    .insert(name.clone(), fetching);
                return;
            }
            let mut batches = 1 + broker.dice.below(3);
            while batches > 0 {
                batches -= 1;
                match fetch_one(state.peek(name), name, &mut fetching, &broker, now) {
                    Some(event) => self.queue.push_back(event),
                    None => break,
                }
            }
            state.group_mut(&self.group).members.get_mut(&self.member).unwrap().fetched.insert(name.clone(), fetching);
            if !self.queue.is_empty() {
                return;
            }
        }
    }

    fn begin(&mut self, partition: &TopicPartition, place: Place, release: bool) {
        forget(&mut self.queue, partition);
        let since_ms = self.clients.broker.clock.ms();
        let mut state = self.clients.broker.lock();
        let id = state.topics.get(&*partition.topic).map(|topic| topic.id.clone());
        let read = id.map(|id| Reading { from: place.offset, upto: place.offset, id, since_ms });
        let Some(member) = state.group_mut(&self.group).members.get_mut(&self.member) else { return };
        if let Some(fetching) = member.fetched.get_mut(partition) {
            let paused = fetching.paused && !release;
            let stale_answers = fetching.stale_answers;
            *fetching = Fetching {
                position: Some(place.offset),
                paused,
                mark: place.mark,
                epoch: place.mark.map(|mark| (mark.leader_epoch, mark.upto)),
                bare_from: place.mark.map(|_| place.read_from()),
                stale_answers,
                read,
                ..Fetching::default()
            };
        }
    }

    fn hold(&mut self, partitions: &[TopicPartition], paused: bool) {
        let mut state = self.clients.broker.lock();
        let Some(member) = state.group_mut(&self.group).members.get_mut(&self.member) else { return };
        for partition in partitions {
            if let Some(fetching) = member.fetched.get_mut(partition) {
                fetching.paused = paused;
            }
        }
    }
}

/// The next event of one partition.
fn fetch_one(
    log: Option<&super::log::Log>,
    name: &TopicPartition,
    fetching: &mut Fetching,
    broker: &Broker,
    now: u64,
) -> Option<Event> {
    let (log, position) = (log?, fetching.position?);
    if fetching.paused {
        return None;
    }
    if fetching.validate_at_ms == Some(0) {
        fetching.validate_at_ms = Some(now + broker.dice.below(2_000));
    }
    if fetching.validate_at_ms.is_some_and(|at| now < at) {
        return None;
    }
    let asks_again = fetching.validate_at_ms.take().and(fetching.epoch);
    let of_mark = fetching.mark.take().map(|mark| (mark.leader_epoch, mark.upto));
    for (epoch, upto) in [of_mark, asks_again].into_iter().flatten() {
        let end = log.end_of_epoch(epoch);
        if end < upto {
            fetching.position = None;
            return Some(Event::Truncated(name.clone(), end));
        }
    }
    // The client reads from the mark on, and sees a record where there was none.
    let bare_from = fetching.bare_from.filter(|from| *from >= log.start() && *from < position);
    let there = bare_from.and_then(|from| log.fetch(from, position - from));
    if let Some((offset, _)) = there.and_then(|fetched| fetched.records.into_iter().next()) {
        fetching.position = None;
        return Some(Event::Truncated(name.clone(), offset));
    }
    if position < log.start() || position > log.end() {
        fetching.position = None;
        return Some(Event::OutOfRange(name.clone()));
    }
    // A transaction that is open below the position keeps it waiting there: its records may stand where none were.
    if bare_from.is_some() && log.stable() < position {
        return None;
    }
    fetching.bare_from = None;
    let fetched = log.fetch(position, 1 + broker.dice.below(12) as i64)?;
    fetching.position = Some(fetched.next);
    fetching.epoch = Some((fetched.epoch, fetched.next));
    let mut builder = BatchBuilder::new(name.clone(), position);
    for (offset, rec) in fetched.records {
        let kind = rec.stamp.map(|stamp| match stamp {
            Stamp::Create => TimestampType::Create,
            Stamp::Append => TimestampType::Append,
        });
        let stamp = (rec.timestamp.unwrap_or(NO_TIMESTAMP), kind);
        builder.push(offset, stamp, rec.key.as_deref(), rec.value.as_deref());
        rec.headers.iter().for_each(|(key, value)| builder.header(key, value.as_deref()));
        builder.leader_epoch(Some(fetched.epoch));
    }
    Some(Event::Batches(vec![builder.build(fetched.next)]))
}

/// What was fetched of `partition` does not come any more.
fn forget(queue: &mut VecDeque<Event>, partition: &TopicPartition) {
    for event in queue.iter_mut() {
        if let Event::Batches(batches) = event {
            batches.retain(|batch: &Batch| batch.partition() != partition);
        }
    }
    queue.retain(|event| match event {
        Event::Batches(batches) => !batches.is_empty(),
        Event::OutOfRange(of) | Event::Truncated(of, _) => of != partition,
        _ => true,
    });
}

#[async_trait]
impl Consumer for SimConsumer {
    async fn next(&mut self) -> Event {
        loop {
            let broker = Arc::clone(&self.clients.broker);
            let changed = broker.changed.notified();
            match self.look() {
                Next::Say(event) => {
                    if matches!(event, Event::Truncated(..)) {
                        self.clients.process.reach(Stretch::Cut);
                    }
                    return event;
                }
                Next::Wait(ms) => {
                    tokio::select! {
                        biased;
                        () = changed => {}
                        () = broker.clock.wait(ms.max(1)) => {}
                    }
                }
            }
        }
    }

    fn start_at(&mut self, places: &Places) {
        for (partition, place) in places {
            self.begin(partition, *place, true);
        }
        self.clients.broker.tell();
    }

    fn release(&mut self) {
        let broker = Arc::clone(&self.clients.broker);
        broker.lock().group_mut(&self.group).release(self.member, &broker);
        broker.tell();
    }

    fn seek(&mut self, partition: &TopicPartition, place: Place) {
        self.begin(partition, place, false);
        self.clients.broker.tell();
    }

    fn pause(&mut self, partitions: &[TopicPartition]) {
        self.hold(partitions, true);
    }

    fn resume(&mut self, partitions: &[TopicPartition]) {
        self.hold(partitions, false);
        self.clients.broker.tell();
    }

    fn group(&self) -> Arc<dyn GroupMember> {
        Arc::new(Membership { clients: self.clients.clone(), group: self.group.clone(), member: self.member })
    }

    async fn close(&mut self) {
        self.leave();
    }
}

impl SimConsumer {
    fn leave(&mut self) {
        if self.closed || self.clients.process.is_dead() {
            return;
        }
        self.closed = true;
        let broker = Arc::clone(&self.clients.broker);
        let mut state = broker.lock();
        state.group_mut(&self.group).leave(self.member);
        state.rebalance(&broker);
        drop(state);
        broker.tell();
    }
}

impl Drop for SimConsumer {
    fn drop(&mut self) {
        self.leave();
    }
}

struct Membership {
    clients: SimClients,
    group: String,
    member: MemberId,
}

#[async_trait]
impl GroupMember for Membership {
    async fn commit(&self, positions: &Positions) -> Result<()> {
        let (member, positions, worker) = (self.member, positions.clone(), self.clients.worker.clone());
        let group = self.group.clone();
        // Whoever asks with an offset at which the chain ends asks whose the partition is.
        if let Some((partition, offset)) = positions.first_key_value().filter(|_| positions.len() == 1)
            && self.clients.broker.store.resume(partition) == Some(*offset)
        {
            self.clients.process.claims(&chain_of(partition));
        }
        let membership = self.clients.broker.lock().groups[&self.group].membership(member);
        self.clients
            .request("commits offsets", move |state, broker| {
                if state.groups[&group].membership(member) != membership {
                    return Err(ConnectError::fenced("the membership is over"));
                }
                let stranger = positions.keys().find(|partition| !state.groups[&group].owns(member, partition));
                if let Some(partition) = stranger {
                    return Err(ConnectError::fenced(format!("{partition} has another owner")));
                }
                if state.groups[&group].is_rebalancing() && broker.dice.hits(300) {
                    return Err(ConnectError::fenced("the group is rebalancing"));
                }
                for (partition, offset) in positions {
                    state.check_commit(broker, &group, (&partition, offset));
                    broker.diary.note(format!("{worker} commits {partition}@{offset}"));
                    state.group_mut(&group).committed.insert(partition, offset);
                }
                Ok(())
            })
            .await
    }

    async fn committed(&self, partitions: &[TopicPartition]) -> Result<Positions> {
        let (partitions, group) = (partitions.to_vec(), self.group.clone());
        self.clients
            .request("asks for committed offsets", move |state, _| {
                let known = |partition| {
                    Some((TopicPartition::clone(partition), *state.groups[&group].committed.get(partition)?))
                };
                Ok(partitions.iter().filter_map(known).collect())
            })
            .await
    }
}
