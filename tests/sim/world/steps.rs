//! What each step of a plan does to the world: to its topics, its processes and its services.

use std::sync::Arc;

use bytes::Bytes;
use lakeferry_api::TopicPartition;

use super::{COMMIT_LAG_MS, LARGE_BYTES, RECREATED_AGAIN_MS, Worker, World, ahead};
use crate::awaits::{Blow, Hit, Striker, Trap};
use crate::broker::log::{Rec, Stamp};
use crate::clock::SimClock;
use crate::plan::Step;
use crate::process::Process;
use crate::rare::Reset;
use crate::store::{Accident, Point, spawn};

/// A topic that is made anew has so many at most.
const MOST_PARTITIONS: u64 = 4;

impl World {
    pub(super) async fn take(&mut self, step: Step) {
        self.diary.note(format!("step {step:?}"));
        match step {
            Step::Produce { partition, records, bytes, end } => {
                let Some(partition) = self.partition(partition) else { return };
                let records = (0..records).map(|_| self.record(&partition, bytes)).collect();
                self.broker.produce(&partition, records, end);
            }
            Step::EndTransactions { partition, commit } => {
                let Some(partition) = self.partition(partition) else { return };
                self.broker.end_transactions(&partition, commit);
            }
            Step::Elect { partition, lost } => {
                let Some(partition) = self.partition(partition) else { return };
                let end = self.broker.lock().peek(&partition).map_or(0, |log| log.end());
                // Of files ahead, and where no record was read yet, no manifest of version 1 remembers a leader epoch:
                // a log that is cut back below them and grows again before anybody looks cannot be told from the old
                // one.
                let lost = if self.store.is_unmarked(&partition) || self.is_unread(&partition) { 0 } else { lost };
                if lost > 0 {
                    self.diary.note(format!("{partition} loses what it had from {} on", (end - lost as i64).max(0)));
                    self.cut_back.insert(partition.clone());
                }
                self.broker.elect(&partition, (lost > 0).then(|| (end - lost as i64).max(0)));
            }
            Step::RemoveRecords { partition, per_mille } => {
                let Some(partition) = self.partition(partition) else { return };
                self.broker.change(&partition, "loses its oldest records", |log| {
                    let width = log.stable() - log.start();
                    log.remove_before(log.start() + (width * per_mille as i64 / 1000).min(width));
                });
            }
            Step::Compact { topic } => self.compact(topic),
            Step::Recreate { topic, after_ms } => self.recreate(topic, after_ms),
            Step::AddPartition { topic } => {
                if let Some(name) = self.topic(topic) {
                    self.broker.add_partition(&name);
                }
            }
            Step::Alter(alteration) => self.alter(alteration).await,
            Step::TakeOver(step) => self.take_over(step).await,
            Step::Sweep { partition } => self.sweep_beside(partition).await,
            Step::ForgetOffsets => self.forget_offsets(),
            Step::Rebalance => {
                self.broker.lock().rebalance(&self.broker);
                self.broker.tell();
            }
            Step::PublishAhead { partition, per_mille } => self.publish_ahead(partition, per_mille).await,
            Step::Pause { for_ms } => self.pause(for_ms),
            Step::Torrent { partition, for_ms } => self.torrent(partition, for_ms).await,
            step => self.disturb(step).await,
        }
    }

    /// What happens to processes and services.
    async fn disturb(&mut self, step: Step) {
        match step {
            Step::Crash { worker, down_ms } => {
                let up = self.clock.ms() + down_ms;
                let worker = self.worker(worker);
                worker.process.crash();
                worker.handle = None;
                worker.up_at_ms = Some(up);
            }
            Step::Meet { worker, point, accident } => {
                let name = self.worker(worker).name.clone();
                self.store.arrange(&name, point, accident);
            }
            // Where nobody is up, it waits in the last process for the next one.
            Step::Trap { worker, stretch, nth, blow } => {
                self.worker(worker).process.set_trap(Trap::new(stretch, nth, blow));
            }
            Step::Doubt { partition, for_ms } => self.doubt(partition, for_ms).await,
            Step::Race { partition } => self.race(partition).await,
            Step::Stop { worker, for_ms } => {
                let process = Arc::clone(&self.worker(worker).process);
                stop(&process, &self.clock, for_ms);
            }
            Step::ShutDown { worker, down_ms } => {
                let at = (worker % self.workers.len() as u64) as usize;
                self.shut_down(at).await;
                self.workers[at].up_at_ms = Some(self.clock.ms() + down_ms);
            }
            Step::StoreAway { for_ms } => {
                self.store.set_away(true);
                let (clock, store) = (Arc::clone(&self.clock), Arc::clone(&self.store));
                spawn(async move {
                    clock.wait(for_ms).await;
                    store.set_away(false);
                });
            }
            Step::BrokerAway { for_ms } => {
                self.broker.lock().away = true;
                let (clock, broker) = (Arc::clone(&self.clock), Arc::clone(&self.broker));
                spawn(async move {
                    clock.wait(for_ms).await;
                    broker.lock().away = false;
                    broker.tell();
                });
            }
            _ => {}
        }
    }

    /// Everybody stops; then the archive is as if files had ended out of order, and the log may begin behind them.
    async fn publish_ahead(&mut self, partition: u64, per_mille: u64) {
        let is_calm = !self.has_former();
        let chosen = self.partition(partition).filter(|partition| is_calm && !self.cut_back.contains(partition));
        let Some(partition) = chosen else {
            return;
        };
        for at in 0..self.workers.len() {
            self.shut_down(at).await;
            self.workers[at].up_at_ms = Some(self.clock.ms() + 100);
        }
        // What is on its way lands.
        self.clock.wait(70_000).await;
        if let Some(resume) = ahead::publish_ahead(&self.store, &partition).await {
            self.diary.note(format!("{partition} has files ahead of {resume}"));
            let mut state = self.broker.lock();
            // What is published no more may have been all there was.
            state.owed.retain(|(owed, _), _| *owed != partition);
            state.each_committed(|committed| {
                if let Some(committed) = committed.get_mut(&partition) {
                    *committed = resume.min(*committed);
                }
            });
            drop(state);
            self.broker.change(&partition, "loses its oldest records", |log| {
                log.remove_before(resume + (log.stable() - resume) * per_mille.saturating_sub(500) as i64 / 1_000);
            });
        }
    }

    /// Records come faster than they are archived: what is due by the clock happens all the same.
    async fn torrent(&mut self, partition: u64, for_ms: u64) {
        let Some(partition) = self.partition(partition) else { return };
        let until = self.clock.ms() + for_ms;
        self.broker.lock().torrent = true;
        let mut durable = Vec::new();
        while self.clock.ms() < until {
            let records = (0..400).map(|_| self.record(&partition, 10)).collect();
            self.broker.produce(&partition, records, None);
            self.pass(200).await;
            durable.push((self.clock.ms(), self.store.resume(&partition).unwrap_or(0)));
        }
        self.broker.lock().torrent = false;
        let committed = self.broker.lock().committed().get(&partition).copied().unwrap_or(0);
        let due = durable.iter().rev().find(|(at, _)| at + COMMIT_LAG_MS < until).map_or(0, |(_, resume)| *resume);
        if committed < due {
            self.diary.accuse(format!("{partition} is committed at {committed}, was durable to {due} long ago"));
        }
    }

    /// Carries out what the traps of a worker's process do. The cluster and its store know the processes that they deal
    /// with: one that held the cluster in turn would keep the whole run.
    pub(super) fn striker(&self, worker: &str, process: &Arc<Process>) -> Striker {
        let (clock, broker, diary) = (Arc::clone(&self.clock), Arc::downgrade(&self.broker), self.diary.clone());
        let (worker, process, struck) = (worker.to_owned(), Arc::downgrade(process), Arc::clone(&self.struck));
        Arc::new(move |blow: Blow, hit: Hit| {
            let Some((process, broker)) = process.upgrade().zip(broker.upgrade()) else { return };
            diary.note(format!("{worker} meets {blow:?} at an await: {hit}"));
            struck.lock().unwrap().push((blow, hit));
            match blow {
                Blow::Crash => process.crash(),
                Blow::Stop { for_ms } => stop(&process, &clock, for_ms),
                Blow::Rebalance => {
                    broker.lock().rebalance(&broker);
                    broker.tell();
                }
            }
        })
    }

    /// True where nothing is archived, and no record stands where reading may have begun: what was passed there was
    /// aborted.
    fn is_unread(&self, partition: &TopicPartition) -> bool {
        let state = self.broker.lock();
        let from = state.committed().get(partition).copied().unwrap_or(0);
        let is_bare = state.peek(partition).is_none_or(|log| log.present().range(from..).next().is_none());
        self.store.end(partition).is_none() && is_bare
    }

    /// The group forgets what manifests know better. Brokers keep the offsets of a group that lives, and where nothing
    /// is archived, or a reset says nothing, they alone tell where a task began.
    fn forget_offsets(&self) {
        let mut state = self.broker.lock();
        let needs_them = state.reset != Reset::Earliest;
        state.each_committed(|all| all.retain(|name, _| needs_them && self.store.resume(name).is_none()));
        state.forget_begun(|_| true);
    }

    async fn doubt(&mut self, partition: u64, for_ms: u64) {
        let Some((partition, owner)) = self.owned(partition) else { return };
        self.store.arrange(&owner, Point::BeforeManifest, Accident::Late { for_ms });
        for _ in 0..6 {
            self.produce(&partition, self.plan.settings.flush_size + 1);
            self.clock.wait(35).await;
        }
    }

    async fn race(&mut self, partition: u64) {
        let Some((partition, owner)) = self.owned(partition) else { return };
        self.store.arrange(&owner, Point::BeforeManifest, Accident::Stop { for_ms: 15_000 });
        self.produce(&partition, self.plan.settings.flush_size + 1);
        self.pass(17_000).await;
        self.produce(&partition, self.plan.settings.flush_size + 1);
    }

    pub(super) fn produce(&mut self, partition: &TopicPartition, records: u64) {
        let records = (0..records).map(|_| self.record(partition, 10)).collect();
        self.broker.produce(partition, records, None);
    }

    /// A partition and the worker that has it.
    pub(super) fn owned(&self, partition: u64) -> Option<(TopicPartition, String)> {
        let partition = self.partition(partition)?;
        let state = self.broker.lock();
        let member = &state.group().members[state.group().owner.get(&partition)?];
        let worker = member.name.split('/').next()?.to_owned();
        Some((partition.clone(), worker))
    }

    fn compact(&mut self, topic: u64) {
        let Some(name) = self.topic(topic) else { return };
        let dice = Arc::clone(&self.dice);
        let mut state = self.broker.lock();
        if let Some(topic) = state.topics.get_mut(&name).filter(|topic| topic.compacted) {
            topic.logs.iter_mut().for_each(|log| log.compact(|| dice.hits(300)));
        }
    }

    /// Deletes a topic and creates it again. Not twice in a short time: what is read of a topic that is gone when its
    /// entry is due is published, for nobody could read it again, so an incarnation that came and went in between would
    /// be taken for the one before.
    fn recreate(&mut self, topic: u64, after_ms: u64) {
        let now = self.clock.ms();
        let rested = |name: &String| self.recreated.get(name).is_none_or(|at| now > at + RECREATED_AGAIN_MS);
        let Some(name) = self.topic(topic).filter(rested) else { return };
        self.recreated.insert(name.clone(), now);
        let (before, compacted) = {
            let state = self.broker.lock();
            let topic = &state.topics[&name];
            (topic.logs.len(), topic.compacted)
        };
        let partitions =
            if self.plan.settings.rare.resizes { self.dice.between(1, MOST_PARTITIONS) as usize } else { before };
        self.broker.delete_topic(&name);
        if partitions != before {
            let more = if partitions > before { "more" } else { "fewer" };
            self.diary.note(format!("topic {name} comes back with {more} partitions: {partitions}, not {before}"));
        }
        let (clock, broker) = (Arc::clone(&self.clock), Arc::clone(&self.broker));
        spawn(async move {
            clock.wait(after_ms).await;
            broker.create_topic(&name, partitions, compacted);
        });
    }

    /// A record that no other is equal to.
    pub(super) fn record(&mut self, partition: &TopicPartition, bytes: u64) -> Rec {
        self.written += 1;
        let text = format!("{partition} #{}", self.written);
        let mut value = text.clone().into_bytes();
        match bytes {
            LARGE_BYTES.. => value.extend(noise(self.written, bytes)),
            _ => value.resize(value.len() + bytes as usize, b'.'),
        }
        let timed = Some(1_600_000_000_000 + (self.written as i64 * 7_919) % 100_000);
        let stamped = if self.written.is_multiple_of(5) { Stamp::Append } else { Stamp::Create };
        let (timestamp, stamp) = match self.written / 4 % 13 {
            0 if self.plan.settings.untimed => (None, None),
            1 if self.plan.settings.untimed => (timed, None),
            2 if self.plan.settings.untimed => (Some(0), Some(stamped)),
            _ => (timed, Some(stamped)),
        };
        let headers = [("h".to_owned(), None), ("h".to_owned(), Some(Bytes::from(text.clone())))];
        Rec {
            key: (!self.written.is_multiple_of(3)).then(|| Bytes::from(text)),
            value: (!self.written.is_multiple_of(7)).then(|| Bytes::from(value)),
            headers: if self.written.is_multiple_of(4) { headers.to_vec() } else { Vec::new() },
            timestamp,
            stamp,
        }
    }

    fn partition(&self, number: u64) -> Option<TopicPartition> {
        let all: Vec<_> = self.broker.partitions().into_iter().collect();
        (!all.is_empty()).then(|| all[(number % all.len() as u64) as usize].clone())
    }

    fn topic(&self, number: u64) -> Option<String> {
        let names: Vec<String> = self.broker.lock().topics.keys().cloned().collect();
        (!names.is_empty()).then(|| names[(number % names.len() as u64) as usize].clone())
    }

    fn worker(&mut self, number: u64) -> &mut Worker {
        let at = (number % self.workers.len() as u64) as usize;
        &mut self.workers[at]
    }
}

/// Bytes that no codec makes smaller: a file of them goes to the store in parts.
fn noise(seed: u64, bytes: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut noise = Vec::with_capacity(bytes as usize + 8);
    while (noise.len() as u64) < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise
}

/// Stops a process for a while.
pub(crate) fn stop(process: &Arc<Process>, clock: &Arc<SimClock>, for_ms: u64) {
    process.stop(clock.ms());
    let (clock, process) = (Arc::clone(clock), Arc::clone(process));
    spawn(async move {
        clock.wait(for_ms).await;
        process.go_on();
    });
}
