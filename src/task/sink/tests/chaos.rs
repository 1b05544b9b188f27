//! The sink loop against a modelled group and log, with faults by chance: rebalances, losses, retention, logs that are
//! cut back, pauses, seeks, failing opens, puts, flushes and commits. The ledger refuses whatever the contract forbids
//! while it runs; once the faults cease, every record that was not removed is durable, and exactly once where the task
//! keeps its position.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use lakeferry_api::connector::Task;
use lakeferry_api::{
    Batch, BatchBuilder, Closing, Config, ConnectError, EpochMark, Opened, PartitionView, Place, Places, Positions,
    RecordForm, Result, SinkContext, SinkTask, TopicPartition,
};
use proptest::prelude::*;
use tokio::sync::Notify;

use crate::kafka::{Admin, Clients, Consumer, Event, GroupMember, Producer, Subscription};
use crate::random::Random;
use crate::task::testing::fake::World;
use crate::task::testing::{partition, shown_batches};

mod ledger;

use ledger::Ledger;

const PARTITIONS: i32 = 4;

/// Partitions with an even number are the task's own to place; the others begin where the group says.
fn keeps_position(partition: &TopicPartition) -> bool {
    partition.partition % 2 == 0
}

#[derive(Clone)]
struct Model {
    shared: Arc<Mutex<Shared>>,
    woken: Arc<Notify>,
    random: Arc<Random>,
}

#[derive(Default)]
struct Shared {
    logs: BTreeMap<TopicPartition, Log>,
    owned: BTreeMap<TopicPartition, Owned>,
    revoked: BTreeSet<TopicPartition>,
    events: VecDeque<Event>,
    committed: Positions,
    open: BTreeMap<TopicPartition, Open>,
    durable: BTreeMap<TopicPartition, Durable>,
    refused: Option<String>,
    context: Option<Arc<dyn SinkContext>>,
    healed: bool,
}

#[derive(Default)]
struct Log {
    start: i64,
    end: i64,
    /// Where each leader epoch after the first begins; records from there on are others than before.
    epochs: Vec<(i32, i64)>,
    elections: i32,
    /// Removed before they were durable.
    removed: BTreeSet<i64>,
}

/// A record: the offset and the leader epoch that tell it from any other.
type Written = (i64, i32);

impl Log {
    fn epoch_at(&self, offset: i64) -> i32 {
        self.epochs.iter().rfind(|(_, from)| *from <= offset).map_or(0, |(epoch, _)| *epoch)
    }

    fn end_of(&self, epoch: i32) -> i64 {
        self.epochs.iter().find(|(later, _)| *later > epoch).map_or(self.end, |(_, from)| *from)
    }

    fn holds(&self, record: &Written) -> bool {
        record.0 < self.end && self.epoch_at(record.0) == record.1
    }

    fn cut(&mut self, to: i64) {
        self.elections += 1;
        self.epochs.retain(|(_, from)| *from < to);
        self.epochs.push((self.elections, to));
        self.end = to;
    }
}

#[derive(Default)]
struct Owned {
    position: Option<i64>,
    paused: bool,
}

struct Open {
    /// -1 before the first batch of a partition that the group places.
    next: i64,
    /// A seek was asked for and no batch came since.
    sought: bool,
    buffer: Vec<Written>,
}

#[derive(Default)]
struct Durable {
    upto: i64,
    records: Vec<Written>,
}

impl Durable {
    fn place(&self) -> Place {
        let mark = self.records.last().map(|&(offset, leader_epoch)| EpochMark { leader_epoch, upto: offset + 1 });
        Place { offset: self.upto, mark }
    }

    fn cut(&mut self, to: i64) {
        self.upto = self.upto.min(to);
        self.records.retain(|(offset, _)| *offset < to);
    }
}

impl Model {
    fn new(seed: u64) -> Self {
        let model = Self { shared: Arc::default(), woken: Arc::default(), random: Arc::new(Random::seeded(seed)) };
        for number in 0..PARTITIONS {
            model.lock().logs.insert(partition(number), Log::default());
            model.lock().durable.insert(partition(number), Durable::default());
        }
        model
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }

    /// True `percent` times in a hundred, and never once the faults have ceased.
    fn fails(&self, percent: u64) -> bool {
        !self.lock().healed && self.random.below(100) < percent
    }

    fn any_partition(&self) -> TopicPartition {
        partition(i32::try_from(self.random.below(PARTITIONS as u64)).unwrap())
    }

    /// Something happens to the cluster.
    fn shake(&self) {
        let chosen = self.any_partition();
        let dice = self.random.below(100);
        let amount = i64::try_from(self.random.below(30)).unwrap();
        let mut shared = self.lock();
        match dice {
            0..40 => shared.logs.get_mut(&chosen).unwrap().end += amount,
            40..60 => shared.assign(&chosen),
            60..70 if shared.owned.contains_key(&chosen) && !shared.revoked.contains(&chosen) => {
                shared.revoked.insert(chosen.clone());
                shared.events.push_back(Event::Revoked(vec![chosen]));
            }
            70..75 if shared.owned.contains_key(&chosen) && !shared.revoked.contains(&chosen) => {
                shared.owned.remove(&chosen);
                shared.events.push_back(Event::Lost(vec![chosen]));
            }
            75..78 => shared.retain(&chosen, amount),
            78..82 => {
                // The task wants to read again what it had only buffered, or what it has.
                let place = shared.durable[&chosen].place();
                let context = shared.context.clone();
                if let (Some(context), Some(open)) = (context, shared.open.get_mut(&chosen)) {
                    open.buffer.clear();
                    open.next = place.offset;
                    open.sought = true;
                    context.seek(&chosen, if keeps_position(&chosen) { place } else { place.offset.into() });
                }
            }
            85..90 if keeps_position(&chosen) => shared.cut(&chosen, amount),
            82..85 => shared.events.push_back(Event::Error(ConnectError::retriable("broker down"))),
            _ => {}
        }
        drop(shared);
        self.woken.notify_one();
    }
}

impl Shared {
    fn assign(&mut self, chosen: &TopicPartition) {
        if !self.owned.contains_key(chosen) {
            self.owned.insert(chosen.clone(), Owned::default());
            self.events.push_back(Event::Assigned(vec![chosen.clone()]));
        }
    }

    fn retain(&mut self, chosen: &TopicPartition, records: i64) {
        let durable = &self.durable[chosen];
        let log = self.logs.get_mut(chosen).unwrap();
        let replaced = durable.records.iter().find(|record| !log.holds(record)).map_or(i64::MAX, |record| record.0);
        let upto = durable.upto.min(replaced);
        let start = (log.start + records).min(log.end);
        log.removed.extend((log.start..start).filter(|offset| *offset >= upto));
        log.start = start;
    }

    /// An unclean election takes back some records; the client sees it where it has read them.
    fn cut(&mut self, chosen: &TopicPartition, records: i64) {
        let log = self.logs.get_mut(chosen).unwrap();
        log.cut((log.end - records).max(log.start));
        let to = log.end;
        let reading = self.owned.get_mut(chosen).filter(|_| !self.revoked.contains(chosen));
        if let Some(owned) = reading.filter(|owned| owned.position.is_some_and(|position| position > to)) {
            owned.position = None;
            self.events.push_back(Event::Truncated(chosen.clone(), to));
        }
    }

    /// The client begins at `place`, where the log still holds what it must.
    fn begin(&mut self, partition: &TopicPartition, place: Place) {
        let stale =
            |event: &Event| matches!(event, Event::Truncated(cut, _) | Event::OutOfRange(cut) if cut == partition);
        self.events.retain(|event| !stale(event));
        let Some(owned) = self.owned.get_mut(partition) else { return };
        let end = place.mark.map(|mark| (self.logs[partition].end_of(mark.leader_epoch), mark.upto));
        match end.filter(|(end, upto)| end < upto) {
            None => owned.position = Some(place.offset),
            Some((end, _)) => {
                owned.position = None;
                if !self.revoked.contains(partition) {
                    self.events.push_back(Event::Truncated(partition.clone(), end));
                }
            }
        }
    }

    /// The next event of the consumer, where there is one.
    fn next(&mut self, random: &Random) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        let fetched = |(partition, owned): (&TopicPartition, &mut Owned)| {
            let position = owned.position.filter(|_| !owned.paused)?;
            let log = &self.logs[partition];
            if self.revoked.contains(partition) || position >= log.end {
                return None;
            }
            if position < log.start {
                owned.position = None;
                return Some(Event::OutOfRange(partition.clone()));
            }
            let next = (position + 1 + i64::try_from(random.below(10)).unwrap()).min(log.end);
            owned.position = Some(next);
            let mut builder = BatchBuilder::new(partition.clone(), position);
            for offset in (position..next).filter(|offset| is_record(*offset)) {
                builder.push(offset, (1, None), None, Some(&log.epoch_at(offset).to_be_bytes()));
            }
            Some(Event::Batches(vec![builder.build(next)]))
        };
        self.owned.iter_mut().find_map(fetched)
    }

    fn refuse(&mut self, what: String) {
        self.refused.get_or_insert(what);
    }

    fn publish(&mut self, partition: &TopicPartition) {
        let Some(open) = self.open.get_mut(partition) else { return };
        let durable = self.durable.get_mut(partition).unwrap();
        durable.records.append(&mut open.buffer);
        durable.upto = durable.upto.max(open.next);
    }
}

/// Every seventh offset is a control record.
fn is_record(offset: i64) -> bool {
    offset % 7 != 6
}

struct ModelConsumer(Model);

#[async_trait]
impl Consumer for ModelConsumer {
    async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.0.lock().next(&self.0.random) {
                return event;
            }
            self.0.woken.notified().await;
        }
    }

    fn start_at(&mut self, places: &Places) {
        let mut shared = self.0.lock();
        for (partition, place) in places {
            if let Some(owned) = shared.owned.get_mut(partition) {
                owned.paused = false;
            }
            shared.begin(partition, *place);
        }
    }

    fn release(&mut self) {
        let mut shared = self.0.lock();
        for partition in std::mem::take(&mut shared.revoked) {
            shared.owned.remove(&partition);
        }
    }

    fn seek(&mut self, partition: &TopicPartition, place: Place) {
        self.0.lock().begin(partition, place);
    }

    fn pause(&mut self, partitions: &[TopicPartition]) {
        for (partition, owned) in &mut self.0.lock().owned {
            owned.paused |= partitions.contains(partition);
        }
    }

    fn resume(&mut self, partitions: &[TopicPartition]) {
        for (partition, owned) in &mut self.0.lock().owned {
            owned.paused &= !partitions.contains(partition);
        }
    }

    fn group(&self) -> Arc<dyn GroupMember> {
        Arc::new(self.0.clone())
    }

    async fn close(&mut self) {}
}

#[async_trait]
impl GroupMember for Model {
    async fn commit(&self, positions: &Positions) -> Result<()> {
        if self.fails(20) {
            return Err(ConnectError::retriable("no coordinator"));
        }
        let mut shared = self.lock();
        for (partition, offset) in positions {
            if !shared.owned.contains_key(partition) {
                return Err(ConnectError::fenced(format!("{partition} has another owner")));
            }
            // What was removed before it was read needs no durability.
            let durable = shared.durable[partition].upto.max(shared.logs[partition].start);
            if *offset > durable {
                shared.refuse(format!("{partition} committed at {offset}, durable only to {durable}"));
            }
            shared.committed.insert(partition.clone(), *offset);
        }
        Ok(())
    }

    async fn committed(&self, partitions: &[TopicPartition]) -> Result<Positions> {
        if self.fails(20) {
            return Err(ConnectError::retriable("no coordinator"));
        }
        let mut committed = self.lock().committed.clone();
        committed.retain(|partition, _| partitions.contains(partition));
        Ok(committed)
    }
}

impl Clients for Model {
    fn consumer(&self, _: &Config, _: &Subscription) -> Result<Box<dyn Consumer>> {
        Ok(Box::new(ModelConsumer(self.clone())))
    }

    fn producer(&self, _: &Config) -> Result<Arc<dyn Producer>> {
        Err(ConnectError::fatal("a sink has no producer"))
    }

    fn admin(&self, _: &Config) -> Result<Arc<dyn Admin>> {
        Ok(Arc::new(self.clone()))
    }
}

#[async_trait]
impl Admin for Model {
    async fn cluster_id(&self) -> Result<String> {
        Ok("model".to_owned())
    }

    async fn partition(&self, partition: &TopicPartition) -> Result<PartitionView> {
        if self.fails(20) {
            return Err(ConnectError::retriable("no broker"));
        }
        let shared = self.lock();
        let Log { start, end, .. } = shared.logs[partition];
        let view = PartitionView { log_start_offset: start, last_stable_offset: end, ..PartitionView::default() };
        Ok(PartitionView { end_offset: Some(end), ..view })
    }
}

async fn live(seed: u64, steps: u64) -> std::result::Result<(), String> {
    let model = Model::new(seed);
    let world = World::of(&[("offset.flush.interval.ms", "1000")], Arc::new(model.clone()));
    let ledger = Task::Sink(Box::new(Ledger { model: model.clone(), failed: None }));
    let mut handle = world.spawn((ledger, RecordForm::Bytes), &[("topics", "t")], false).unwrap();
    for _ in 0..steps {
        model.shake();
        match model.random.below(20) {
            0 => handle.pause(),
            1..4 => handle.resume(),
            _ => {}
        }
        world.advance_ms(model.random.below(300)).await;
    }
    model.lock().healed = true;
    handle.resume();
    world.advance_ms(30_000).await;
    for number in 0..PARTITIONS {
        model.lock().assign(&partition(number));
    }
    model.woken.notify_one();
    world.advance_ms(30_000).await;
    world.stop(&mut handle).await;
    verify(&model)
}

fn verify(model: &Model) -> std::result::Result<(), String> {
    let shared = model.lock();
    if let Some(refused) = &shared.refused {
        return Err(refused.clone());
    }
    for (partition, log) in &shared.logs {
        let Durable { upto, records } = &shared.durable[partition];
        let expected = (0..log.end).filter(|offset| is_record(*offset) && !log.removed.contains(offset));
        let expected: BTreeSet<Written> = expected.map(|offset| (offset, log.epoch_at(offset))).collect();
        let found: BTreeSet<Written> = records.iter().copied().collect();
        if let Some((lost, epoch)) = expected.difference(&found).next() {
            return Err(format!(
                "offset {lost} of {partition} and epoch {epoch} was lost ({upto} durable, log {}..{})",
                log.start, log.end
            ));
        }
        if let Some(gone) = found.iter().find(|record| !log.holds(record)) {
            return Err(format!("{gone:?} of {partition} was taken back and is durable all the same"));
        }
        if keeps_position(partition) && !records.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(format!("{partition} has records twice or out of order: {records:?}"));
        }
        // The group may lag behind only where nothing it could skip or repeat is left in the log.
        let committed = shared.committed.get(partition).copied().unwrap_or(0);
        if committed > *upto.max(&log.start) || (committed < *upto && log.start < *upto) {
            return Err(format!("{partition} is durable to {upto} and committed at {committed}"));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_or_doubled_whatever_happens(seed in any::<u64>(), steps in 1..150_u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        prop_assert_eq!(runtime.block_on(live(seed, steps)), Ok(()));
    }
}
