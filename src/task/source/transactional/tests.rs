//! The loop beside others that write to its targets, on a modelled cluster with transactions and faults by chance: the
//! source stops before anything of its own is visible behind their records, and instances whom no transactional id
//! sets apart write no record twice. A source that is alone with its targets lives in the simulator (`tests/sim`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use lakeferry_api::connector::Task;
use lakeferry_api::record::RawRecord;
use lakeferry_api::source::TargetTopic;
use lakeferry_api::{
    Batch, BatchBuilder, Config, ConnectError, PartitionView, RecordForm, Result, Routes, SourceBatch, SourceContext,
    SourceOffset, SourcePartition, SourceRecords, SourceTask, TimestampType, TopicPartition,
};
use proptest::prelude::*;
use serde_json::json;

use crate::kafka::{
    Admin, BatchDelivery, Clients, Commits, Consumer, Delivery, Pending, Producer, Stretches, Subscription, Written,
};
use crate::random::Random;
use crate::task::Handle;
use crate::task::testing::fake::{ROUTES, World};
use crate::task::testing::partition;

const PARTITIONS: i32 = 3;
const RECORDS: i64 = 60;
const FOREIGN: i64 = -1;

/// What stands in a target, at its offset.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Slot {
    /// A record with this number, of a transaction that is open.
    Open(i64, u64),
    /// A record that everybody sees.
    Visible(i64),
    /// What nobody sees: a marker, or a record that was taken back.
    Hidden,
}

#[derive(Clone)]
struct Model {
    shared: Arc<Mutex<Shared>>,
    random: Arc<Random>,
}

#[derive(Default)]
struct Shared {
    logs: BTreeMap<TopicPartition, Vec<Slot>>,
    /// How often each transactional id was taken over.
    epoch_by_id: BTreeMap<String, u64>,
    open_by_id: BTreeMap<String, Transaction>,
    commits: Commits,
    transactions: u64,
    healed: bool,
    /// Markers that each end of a transaction leaves beyond the first.
    markers_again: usize,
    /// The brokers do not answer who ends a transaction well.
    commits_hang: bool,
    /// How many producers there were, where each has an id of its own.
    ids: Option<u64>,
    foreign: BTreeSet<TopicPartition>,
}

#[derive(Default)]
struct Transaction {
    number: u64,
    written: BTreeSet<TopicPartition>,
    commits: Commits,
}

/// A producer of one instance.
struct Writer {
    model: Model,
    id: String,
    epoch: Mutex<Option<u64>>,
}

impl Model {
    fn new(seed: u64) -> Self {
        let logs = (0..PARTITIONS).map(|number| (partition(number), Vec::new())).collect();
        let shared = Shared { logs, ..Shared::default() };
        Self { shared: Arc::new(Mutex::new(shared)), random: Arc::new(Random::seeded(seed)) }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }

    /// True now and then, one time in so many, while faults go on.
    fn fails(&self, one_in: u64) -> bool {
        !self.lock().healed && self.random.below(one_in) == 0
    }

    /// A place where an instance may be killed.
    async fn dawdle(&self) {
        for _ in 0..self.random.below(4) {
            tokio::task::yield_now().await;
        }
    }

    fn fault(&self, one_in: u64) -> Result<()> {
        if self.fails(one_in) { Err(ConnectError::retriable("a fault")) } else { Ok(()) }
    }

    fn write_foreign(&self) {
        let at = partition(i32::try_from(self.random.below(PARTITIONS as u64)).unwrap());
        let mut shared = self.lock();
        shared.logs.get_mut(&at).unwrap().push(Slot::Visible(FOREIGN));
        shared.foreign.insert(at);
    }
}

impl Shared {
    /// Ends the transaction that is open under `id`.
    fn end(&mut self, id: &str, well: bool) {
        let Some(transaction) = self.open_by_id.remove(id) else { return };
        for target in &transaction.written {
            let log = self.logs.get_mut(target).unwrap();
            for slot in log.iter_mut() {
                if let Slot::Open(record, number) = *slot
                    && number == transaction.number
                {
                    *slot = if well { Slot::Visible(record) } else { Slot::Hidden };
                }
            }
            log.push(Slot::Hidden);
            // A coordinator that fails over writes its markers again.
            log.extend(std::iter::repeat_n(Slot::Hidden, self.markers_again));
        }
        if well {
            self.commits.extend(transaction.commits);
        }
    }

    fn is_done(&self) -> bool {
        let whole = |target| self.visible(target).len() as i64 >= RECORDS;
        self.logs.keys().all(|target| self.foreign.contains(target) || whole(target))
    }

    /// Time is over for whoever has a transaction open: the brokers take it back, and him out.
    fn expire(&mut self) {
        let ids: Vec<_> = self.open_by_id.keys().cloned().collect();
        for id in ids {
            self.end(&id, false);
            *self.epoch_by_id.entry(id).or_default() += 1;
        }
    }

    fn visible(&self, target: &TopicPartition) -> Vec<i64> {
        let record = |slot: &Slot| if let Slot::Visible(record) = slot { Some(*record) } else { None };
        self.logs[target].iter().filter_map(record).collect()
    }
}

impl Writer {
    fn transaction<T>(&self, act: impl FnOnce(&mut Shared) -> T) -> Result<T> {
        let mut shared = self.model.lock();
        if *self.epoch.lock().unwrap() != shared.epoch_by_id.get(&self.id).copied() {
            return Err(ConnectError::fenced("another instance has taken it over"));
        }
        Ok(act(&mut shared))
    }

    /// A call that may fail before or after it took effect, or be the last that is heard of the instance.
    async fn call<T>(&self, act: impl FnOnce(&mut Shared) -> T) -> Result<T> {
        self.model.dawdle().await;
        self.model.fault(30)?;
        let done = self.transaction(act)?;
        self.model.dawdle().await;
        Ok(done)
    }
}

#[async_trait]
impl Producer for Writer {
    async fn send(&self, _: RawRecord) -> Result<Delivery> {
        Err(ConnectError::fatal("only batches are sent"))
    }

    async fn send_batch(&self, batch: &Batch) -> Result<BatchDelivery> {
        let records: Vec<i64> = batch.offsets().to_vec();
        let target = batch.partition().clone();
        let written = self
            .call(|shared| {
                let transaction = shared.open_by_id.get_mut(&self.id).expect("a transaction is open");
                transaction.written.insert(target.clone());
                let number = transaction.number;
                let log = shared.logs.get_mut(&target).unwrap();
                let first = log.len() as i64;
                log.extend(records.iter().map(|record| Slot::Open(*record, number)));
                Written { first, last: log.len() as i64 - 1 }
            })
            .await?;
        let model = self.model.clone();
        Ok(Box::pin(async move {
            model.dawdle().await;
            model.fault(40).map(|()| Some(written))
        }))
    }

    async fn init_transactions(&self) -> Result<()> {
        self.model.dawdle().await;
        self.model.fault(10)?;
        {
            let mut shared = self.model.lock();
            shared.end(&self.id, false);
            let epoch = shared.epoch_by_id.entry(self.id.clone()).or_default();
            *epoch += 1;
            *self.epoch.lock().unwrap() = Some(*epoch);
        }
        self.model.dawdle().await;
        Ok(())
    }

    async fn begin_transaction(&self) -> Result<()> {
        self.transaction(|shared| {
            shared.transactions += 1;
            let transaction = Transaction { number: shared.transactions, ..Transaction::default() };
            assert!(shared.open_by_id.insert(self.id.clone(), transaction).is_none(), "one at a time");
        })
    }

    async fn send_offsets(&self, _: &str, commits: &Commits) -> Result<()> {
        self.call(|shared| {
            shared.open_by_id.get_mut(&self.id).expect("a transaction is open").commits = commits.clone();
        })
        .await
    }

    async fn commit_transaction(&self) -> Result<()> {
        if self.model.lock().commits_hang {
            std::future::pending::<()>().await;
        }
        self.call(|shared| shared.end(&self.id, true)).await
    }

    async fn abort_transaction(&self) -> Result<()> {
        self.model.dawdle().await;
        self.transaction(|shared| shared.end(&self.id, false))
    }
}

impl Clients for Model {
    fn consumer(&self, _: &Config, _: &Subscription) -> Result<Box<dyn Consumer>> {
        Err(ConnectError::fatal("a source has no consumer"))
    }

    fn producer(&self, properties: &Config) -> Result<Arc<dyn Producer>> {
        let mut id = properties["transactional.id"].clone();
        if let Some(ids) = &mut self.lock().ids {
            *ids += 1;
            id = format!("{id}-{ids}");
        }
        Ok(Arc::new(Writer { model: self.clone(), id, epoch: Mutex::default() }))
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
        self.dawdle().await;
        self.fault(20)?;
        let shared = self.lock();
        let log = &shared.logs[partition];
        let stable = log.iter().position(|slot| matches!(slot, Slot::Open(..))).unwrap_or(log.len());
        let (last_stable_offset, end_offset) = (stable as i64, Some(log.len() as i64));
        Ok(PartitionView { last_stable_offset, end_offset, ..PartitionView::default() })
    }

    async fn target_topic(&self, _: &str) -> Result<Option<TargetTopic>> {
        Ok(None)
    }

    async fn group_commits(&self, _: &str, pending: Pending) -> Result<Commits> {
        assert_eq!(pending, Pending::Awaited);
        self.dawdle().await;
        self.fault(20)?;
        Ok(self.lock().commits.clone())
    }

    async fn first_visible(&self, stretches: &Stretches) -> Result<Option<(TopicPartition, i64)>> {
        self.dawdle().await;
        self.fault(20)?;
        let shared = self.lock();
        for (target, (from, to)) in stretches {
            for at in *from..*to {
                match shared.logs[target][at as usize] {
                    Slot::Visible(_) => return Ok(Some((target.clone(), at))),
                    // A reader waits there until it loses patience: what is open may become visible yet.
                    Slot::Open(..) => return Err(ConnectError::retriable(format!("{target} is not stable at {at}"))),
                    Slot::Hidden => {}
                }
            }
        }
        Ok(None)
    }
}

/// Each source partition `n` goes to `t-n`.
struct Straight;

fn source(number: i32) -> SourcePartition {
    SourcePartition::new(json!({ "from": number }).as_object().unwrap()).unwrap()
}

impl Routes for Straight {
    fn target(&self, source: &SourcePartition) -> Result<TopicPartition> {
        Ok(partition(source.to_map()["from"].as_i64().unwrap() as i32))
    }

    fn source(&self, target: &TopicPartition) -> Option<SourcePartition> {
        Some(source(target.partition))
    }
}

/// Gives the numbers from 0 to [`RECORDS`] of every partition, from the stored offsets on.
struct Numbers {
    model: Model,
    context: Option<Arc<dyn SourceContext>>,
    next: Option<Vec<i64>>,
}

#[async_trait]
impl SourceTask for Numbers {
    async fn start(&mut self, context: Arc<dyn SourceContext>, _: &Config) -> Result<()> {
        self.context = Some(context);
        Ok(())
    }

    async fn poll(&mut self) -> Result<Vec<SourceBatch>> {
        let context = self.context.clone().unwrap();
        if self.next.is_none() {
            let sources: Vec<_> = (0..PARTITIONS).map(source).collect();
            let stored = context.offsets(&sources).await?;
            let next = |stored: Option<SourceOffset>| stored.map_or(0, |at| at.as_map()["offset"].as_i64().unwrap());
            self.next = Some(stored.into_iter().map(next).collect());
        }
        self.model.dawdle().await;
        self.model.fault(30)?;
        let next = self.next.as_mut().unwrap();
        let mut batches = Vec::new();
        for (number, next) in (0..).zip(next) {
            let upto = (*next + self.model.random.below(6) as i64).min(RECORDS);
            if *next < upto {
                batches.push(numbers(number, *next, upto));
                *next = upto;
            }
        }
        if batches.is_empty() {
            context.clock().sleep(std::time::Duration::from_millis(50)).await;
        }
        Ok(batches)
    }

    async fn rewind(&mut self) -> Result<()> {
        self.next = None;
        Ok(())
    }
}

fn numbers(number: i32, base: i64, next: i64) -> SourceBatch {
    let mut builder = BatchBuilder::new(partition(number), base);
    (base..next).for_each(|offset| builder.push(offset, (1, Some(TimestampType::Create)), None, None));
    let offset = json!({ "offset": next }).as_object().unwrap().clone();
    SourceBatch {
        partition: source(number),
        offset: Some(SourceOffset::new(offset).unwrap()),
        records: SourceRecords::Bytes(builder.build(next)),
    }
}

fn spawn(world: &World, model: &Model) -> Box<dyn Handle> {
    ROUTES.with(|routes| *routes.borrow_mut() = Some(Arc::new(Straight)));
    let task = Numbers { model: model.clone(), context: None, next: None };
    world.spawn((Task::Source(Box::new(task)), RecordForm::Bytes), &[], false).unwrap()
}

/// Who writes to the targets.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Writers {
    /// Instances of the source, and somebody else.
    Others,
    /// Instances whom no transactional id sets apart.
    Rivals,
}

async fn live(seed: u64, lives: u64, writers: Writers) -> std::result::Result<(), String> {
    let model = Model::new(seed);
    let others = writers == Writers::Others;
    model.lock().ids = (writers == Writers::Rivals).then_some(0);
    let world = World::of(&[("offset.flush.interval.ms", "60")], Arc::new(model.clone()));
    let mut zombies = Vec::new();
    for _ in 0..lives {
        let mut handle = spawn(&world, &model);
        model.lock().markers_again = model.random.below(3) as usize / 2;
        world.advance_ms(model.random.below(150)).await;
        if others && model.random.below(3) == 0 {
            model.write_foreign();
        }
        world.advance_ms(model.random.below(100)).await;
        if writers == Writers::Rivals && model.random.below(2) == 0 {
            model.lock().expire();
        }
        match model.random.below(4) {
            // It lives on beside its successor.
            0 => zombies.push(handle),
            1 => drop(world.stop(&mut handle).await),
            _ => world.clock.drive(handle.join(std::time::Duration::ZERO)).await,
        }
        if others && model.random.below(3) == 0 {
            model.write_foreign();
        }
    }
    let mut handle = spawn(&world, &model);
    world.advance_ms(model.random.below(250)).await;
    model.lock().healed = true;
    // In small steps: where nobody sleeps, time would pass at once.
    for _ in 0..(if writers == Writers::Rivals { 40 } else { 1_000 }) {
        if model.lock().is_done() {
            break;
        }
        world.advance_ms(50).await;
    }
    world.stop(&mut handle).await;
    verify(&model, writers)
}

fn verify(model: &Model, writers: Writers) -> std::result::Result<(), String> {
    let shared = model.lock();
    for target in shared.logs.keys() {
        let found = shared.visible(target);
        let ours: Vec<i64> = found.iter().copied().filter(|record| *record != FOREIGN).collect();
        let may_stop = writers == Writers::Rivals || !shared.foreign.is_empty();
        let whole = if may_stop { ours.len() as i64 } else { RECORDS };
        if ours != (0..whole).collect::<Vec<_>>() {
            return Err(format!("{target} holds {found:?}"));
        }
        let behind = found.iter().skip_while(|record| **record != FOREIGN).any(|record| *record != FOREIGN);
        if behind {
            return Err(format!("records follow those of others in {target}: {found:?}"));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rivals_write_no_record_twice(seed in any::<u64>(), lives in 2..10_u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        prop_assert_eq!(runtime.block_on(live(seed, lives, Writers::Rivals)), Ok(()));
    }

    #[test]
    fn nothing_is_written_behind_the_records_of_others(seed in any::<u64>(), lives in 1..8_u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        prop_assert_eq!(runtime.block_on(live(seed, lives, Writers::Others)), Ok(()));
    }
}

#[tokio::test]
async fn a_task_that_is_to_stop_while_no_broker_ends_its_transaction_ends_by_itself() {
    let model = Model::new(1);
    (model.lock().healed, model.lock().commits_hang) = (true, true);
    let world = World::of(&[], Arc::new(model.clone()));
    let mut handle = spawn(&world, &model);
    world.advance_ms(10_000).await;
    assert!(!model.lock().open_by_id.is_empty(), "it waits for its commit");
    let said = world.stop(&mut handle).await;
    assert!(said.iter().any(|line| line == "UNASSIGNED"), "it was aborted: {said:?}");
    assert!(model.lock().open_by_id.is_empty(), "what was open is taken back");
}

/// Of two rivals the later one's transaction is committed first, while the other's is open before it.
#[test]
fn a_rival_whose_transaction_is_open_is_waited_for() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(live(5_764_003_671_459_023_056, 2, Writers::Rivals)), Ok(()));
}
