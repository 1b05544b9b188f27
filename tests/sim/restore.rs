//! After a run: the archive comes back into a cluster that is new, by the worker's own source connector and its loop of
//! transactions, or by the command `restore`, while its process is killed, stopped and taken for dead, and brokers and
//! store go wrong. In the end every target must hold exactly the records of the archive, in order, once.
//!
//! Liveness: when the faults have ceased that takes at most ten simulated minutes. No task may fail, but those
//! whose transactional id was taken from them; they are started again, as a user would.

mod instance;
pub(crate) mod setbacks;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lakeferry_api::TopicPartition;
use lakeferry_lake::store::memory;

use self::instance::Instance;
use self::setbacks::{Conditions, Setback};
use self::work::Peace;
use crate::awaits::{Stretch, Trap};
use crate::broker::Broker;
use crate::broker::log::{Rec, Stamp};
use crate::chance::{Diary, Dice};
use crate::checker::Archived;
use crate::clock::{EPOCH_MS, SimClock};
use crate::plan::Step;
use crate::store::{Point, spawn};
use crate::world::World;

/// How long a restore may take, once the faults have ceased.
const REST_MS: u64 = 600_000;
/// What comes twice comes within this time.
const AFTERMATH_MS: u64 = 4_000;

/// One connector or command: what is restored, and to where.
#[derive(Debug, Clone)]
struct Job {
    connector: &'static str,
    /// An incarnation that is not the newest; `None`: the newest of all topics.
    older: Option<Older>,
}

#[derive(Debug, Clone)]
struct Older {
    topic: String,
    id: String,
}

impl Older {
    /// What it is called in the target.
    fn target(&self) -> String {
        format!("older-{}", self.topic)
    }
}

/// A restore under way.
struct Restore<'w> {
    world: &'w World,
    clock: Arc<SimClock>,
    diary: Diary,
    dice: Arc<Dice>,
    conditions: Conditions,
    target: Arc<Broker>,
    jobs: Vec<Job>,
    /// Bytes a second of each of them.
    rate: Option<u64>,
    /// What each partition of the target has to hold in the end.
    due: BTreeMap<TopicPartition, Vec<Rec>>,
    begun_ms: u64,
    peace: Arc<Peace>,
    lives: u64,
    present: Option<Instance>,
    up_at_ms: u64,
    /// For how long a stopped process is waited for.
    patience_ms: u64,
    /// Those that somebody else took over from, and who do not know.
    strays: Vec<Instance>,
}

/// Restores what `world` has archived, and notes in its diary what went wrong. How many records it found to be back.
pub(crate) async fn run(world: &World, archived: &Archived) -> usize {
    let mut restore = Restore::new(world, archived);
    if restore.jobs.is_empty() {
        return 0;
    }
    let records = restore.live().await;
    for instance in restore.present.take().into_iter().chain(restore.strays.drain(..)) {
        instance.vanish();
    }
    memory::place(&restore.url(), None);
    records
}

impl<'w> Restore<'w> {
    /// Where the archive is, for all lives of a command: another place would be another restore.
    fn url(&self) -> String {
        format!("memory:///run-{}-back", self.world.run)
    }

    fn new(world: &'w World, archived: &Archived) -> Self {
        let dice = Arc::new(Dice::new(world.plan.seed ^ 0xbac4_5eed));
        let target = Broker::new(Arc::clone(&world.clock), Arc::clone(&dice), Arc::clone(&world.store), false);
        let conditions = world.plan.conditions.clone();
        let (jobs, due) = jobs(archived, conditions.older);
        let bytes: usize = due.values().flatten().map(Rec::bytes).sum();
        let rate = conditions.pace_s.map(|pace_s| (bytes as u64 / pace_s).max(1));
        Self {
            world,
            clock: Arc::clone(&world.clock),
            diary: world.diary.clone(),
            dice,
            conditions,
            target,
            jobs,
            rate,
            due,
            begun_ms: world.clock.ms(),
            peace: Arc::default(),
            lives: 0,
            present: None,
            up_at_ms: 0,
            patience_ms: 0,
            strays: Vec::new(),
        }
    }

    async fn live(&mut self) -> usize {
        self.diary.note(format!("restore of {} partitions: {:?}", self.due.len(), self.jobs));
        self.watch_transactions();
        self.set_faults(true);
        for (gap_ms, step) in self.world.plan.steps.clone() {
            let Step::Restore(setback) = step else { continue };
            self.pass(gap_ms).await;
            self.take(setback).await;
        }
        self.pass(1_000).await;
        self.heal();
        self.rest().await;
        if self.conditions.once_more {
            self.end_present().await;
        }
        self.pass(AFTERMATH_MS).await;
        if let Err(law) = self.compare() {
            self.diary.accuse(law);
        }
        self.end_present().await;
        self.compare().unwrap_or_else(|law| {
            self.diary.accuse(law);
            0
        })
    }

    /// Lets time go by; somebody is always at work, or will be.
    async fn pass(&mut self, ms: u64) {
        let until = self.clock.ms() + ms;
        while self.diary.broken().is_none() {
            self.look_after();
            let now = self.clock.ms();
            if now >= until {
                return;
            }
            self.clock.wait((until - now).min(100)).await;
        }
    }

    fn look_after(&mut self) {
        let now = self.clock.ms();
        if let Some(present) = self.present.take() {
            if present.is_dead() {
                present.vanish();
                self.up_at_ms = now + self.dice.between(20, 1_000);
            } else if present.stopped_at_ms().is_some_and(|since| now >= since + self.patience_ms) {
                self.diary.note(format!("{} is taken for dead", present.name));
                self.strays.push(present);
                self.up_at_ms = now;
            } else {
                present.begin_again(now);
                self.present = Some(present);
            }
        }
        if self.present.is_none() && now >= self.up_at_ms {
            self.lives += 1;
            self.patience_ms = *self.dice.pick(&[100, 300, 1_000, 3_000, 100_000]);
            self.present = Some(Instance::start(self));
        }
    }

    async fn take(&mut self, setback: Setback) {
        self.diary.note(format!("setback {setback:?}"));
        let now = self.clock.ms();
        let (clock, store) = (Arc::clone(&self.clock), Arc::clone(&self.world.store));
        match setback {
            Setback::Crash { down_ms } => {
                let Some(present) = self.present.take() else { return };
                present.vanish();
                self.up_at_ms = now + down_ms;
            }
            Setback::Stop { for_ms } => {
                let Some(present) = &self.present else { return };
                present.stop_for(&clock, for_ms);
            }
            Setback::Meet { verb, moment, accident } => {
                self.target.lock().coordinator.arrange(verb, moment, accident);
            }
            Setback::Read { accident } => {
                let Some(present) = &self.present else { return };
                store.arrange(&present.name, Point::BeforeRead, accident);
            }
            Setback::Trap { nth, blow } => {
                let Some(present) = &self.present else { return };
                present.set_trap(Trap::new(Stretch::Life, nth, blow));
            }
            Setback::ShutDown { down_ms } => {
                self.end_present().await;
                self.up_at_ms = self.clock.ms() + down_ms;
            }
            Setback::Pause { for_ms } => {
                let Some(present) = &self.present else { return };
                present.pause(true);
                self.pass(for_ms.min(5_000)).await;
                if let Some(present) = &self.present {
                    present.pause(false);
                }
            }
            Setback::StoreAway { for_ms } => {
                store.set_away(true);
                spawn(async move {
                    clock.wait(for_ms).await;
                    store.set_away(false);
                });
            }
            Setback::BrokerAway { for_ms } => {
                let target = Arc::clone(&self.target);
                target.lock().away = true;
                spawn(async move {
                    clock.wait(for_ms).await;
                    target.lock().away = false;
                });
            }
        }
    }

    fn set_faults(&self, on: bool) {
        self.world.store.set_faults(if on { self.conditions.store_faults } else { 0 });
        self.target.lock().faults = if on { self.conditions.broker_faults } else { 0 };
    }

    /// The faults cease. Who was taken for dead goes on, too.
    fn heal(&mut self) {
        self.diary.note("peace");
        self.peace.begin(&self.clock);
        self.set_faults(false);
        self.world.store.cancel_accidents();
        self.world.store.set_away(false);
        let mut state = self.target.lock();
        state.coordinator.cancel_accidents();
        state.away = false;
        drop(state);
        self.present.iter().chain(&self.strays).for_each(Instance::heal);
    }

    /// Waits until everything is there.
    async fn rest(&mut self) {
        let until = self.clock.ms() + REST_MS;
        loop {
            self.pass(250).await;
            let missing = self.due.iter().find(|(partition, recs)| self.visible(partition).len() < recs.len());
            let Some((partition, recs)) = missing.filter(|_| self.diary.broken().is_none()) else { return };
            if self.clock.ms() >= until {
                let (found, due) = (self.visible(partition).len(), recs.len());
                let law = format!("liveness: after ten minutes of peace {partition} has {found} of {due} records back");
                return self.diary.accuse(law);
            }
        }
    }

    async fn end_present(&mut self) {
        if let Some(present) = self.present.take() {
            self.up_at_ms = 0;
            present.end(&self.clock, &self.diary).await;
        }
    }

    /// What readers of the target find, in order.
    fn visible(&self, partition: &TopicPartition) -> Vec<Arc<Rec>> {
        let state = self.target.lock();
        state.peek(partition).map(|log| log.present().into_values().collect()).unwrap_or_default()
    }

    /// Every partition of the target holds what is due, and nothing else: so many records.
    fn compare(&self) -> Result<usize, String> {
        let nothing = Vec::new();
        let partitions: BTreeSet<_> = self.target.partitions().into_iter().chain(self.due.keys().cloned()).collect();
        for partition in partitions {
            let (found, due) = (self.visible(&partition), self.due.get(&partition).unwrap_or(&nothing));
            let same = |at: &usize| match (found.get(*at), due.get(*at)) {
                (Some(found), Some(due)) => self.is_back(found, due),
                _ => false,
            };
            let differing = (0..found.len().max(due.len())).find(|at| !same(at));
            if let Some(at) = differing {
                return Err(format!(
                    "{partition} comes back with {} records, not {}; record {at} is {:?}, not {:?}",
                    found.len(),
                    due.len(),
                    found.get(at),
                    due.get(at),
                ));
            }
        }
        Ok(self.due.values().map(Vec::len).sum())
    }

    /// True where `found` is what `due` has to come back as: what has no timestamp, or one of 0, is stamped meanwhile.
    fn is_back(&self, found: &Rec, due: &Rec) -> bool {
        if due.timestamp.is_some_and(|timestamp| timestamp > 0) {
            return found == due;
        }
        let now = EPOCH_MS + self.clock.ms() as i64;
        let stamped = found.timestamp.is_some_and(|at| (EPOCH_MS + self.begun_ms as i64..=now).contains(&at));
        let as_due = Rec { timestamp: found.timestamp, stamp: Some(Stamp::Create), ..due.clone() };
        stamped && *found == as_due
    }

    /// The coordinator takes back what is open for too long.
    fn watch_transactions(&self) {
        let target = Arc::clone(&self.target);
        spawn(async move {
            loop {
                target.clock.wait(1_000).await;
                target.lock().expire(&target);
            }
        });
    }
}

/// The newest of every topic under its own name, and one older incarnation, if there is any, under another.
fn jobs(archived: &Archived, older: u64) -> (Vec<Job>, BTreeMap<TopicPartition, Vec<Rec>>) {
    let mut due = BTreeMap::new();
    let mut others = BTreeSet::new();
    for (partition, rows_by_id) in &archived.rows {
        for (id, rows) in rows_by_id {
            if archived.newest.get(&*partition.topic) == Some(id) {
                due.insert(partition.clone(), rows.values().cloned().collect());
            } else {
                others.insert((partition.topic.to_string(), id.clone()));
            }
        }
    }
    let mut jobs = Vec::new();
    if !archived.newest.is_empty() {
        jobs.push(Job { connector: "back", older: None });
    }
    let others: Vec<_> = others.into_iter().collect();
    if let Some((topic, id)) = others.get((older % others.len().max(1) as u64) as usize).cloned() {
        let older = Older { topic, id };
        for (partition, rows_by_id) in archived.rows.iter().filter(|(partition, _)| *partition.topic == *older.topic) {
            let rows = rows_by_id.get(&older.id).into_iter().flat_map(BTreeMap::values);
            due.insert(TopicPartition::new(older.target(), partition.partition), rows.cloned().collect());
        }
        jobs.push(Job { connector: "older", older: Some(older) });
    }
    (jobs, due)
}
