//! The producer of a restoring process, with the rules of Kafka's clients: what is not answered is asked again, a
//! batch that was sent twice counts once, batches of a partition keep their order, and a transaction of which a batch
//! failed can only be aborted. Requests are delayed and lost; a batch may be given up although it arrived.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use lakeferry::kafka::{BatchDelivery, Commits, Delivery, Producer, Written};
use lakeferry_api::record::RawRecord;
use lakeferry_api::simulation::host::inherit;
use lakeferry_api::{Batch, ConnectError, Result, TimestampType, TopicPartition};
use tokio::sync::oneshot;

use super::client::SimClients;
use super::log::{Rec, Stamp};
use super::transactions::{Moment, Verb, Writer};
use super::{Broker, State};
use crate::process::Process;
use crate::store::{Accident, spawn};

/// Until when a batch is tried again (`delivery.timeout.ms`, which is not beyond `transaction.timeout.ms`).
const DELIVERY_MS: u64 = 60_000;
/// How long taking over is tried before its caller hears of it.
const INIT_MS: u64 = 30_000;
const RETRY_MS: u64 = 100;

/// See the module's documentation.
pub(super) struct SimProducer {
    clients: SimClients,
    session: Mutex<Session>,
}

struct Session {
    writer: Writer,
    /// True between the beginning and the end of a transaction.
    inside: bool,
    /// Batches of it that are not acknowledged, under way or given up.
    unsettled: Arc<AtomicU64>,
    sequence: u64,
    /// How the last batch of each partition ends.
    last: BTreeMap<TopicPartition, oneshot::Receiver<bool>>,
}

/// One batch on its way.
struct Parcel {
    clients: SimClients,
    writer: Writer,
    target: TopicPartition,
    sequence: u64,
    recs: Vec<Rec>,
}

impl SimProducer {
    pub(super) fn new(clients: SimClients, id: &str) -> Self {
        let writer = Writer { id: id.to_owned(), epoch: None, number: 0 };
        let session = Session { writer, inside: false, unsettled: Arc::default(), sequence: 0, last: BTreeMap::new() };
        Self { clients, session: Mutex::new(session) }
    }

    fn writer(&self) -> Writer {
        self.session.lock().unwrap().writer.clone()
    }

    fn inside(&self) -> Result<Writer> {
        let session = self.session.lock().unwrap();
        if session.inside { Ok(session.writer.clone()) } else { Err(ConnectError::fatal("no transaction was begun")) }
    }

    /// Asks again and again, until there is an answer.
    async fn until_answered(
        &self,
        verb: Verb,
        effect: impl Fn(&mut State, &Arc<Broker>) -> Result<()> + Clone + Send + 'static,
    ) -> Result<()> {
        loop {
            match ask(&self.clients, verb, effect.clone()).await {
                Err(error) if error.is_retriable() => self.clients.broker.clock.wait(RETRY_MS).await,
                answer => return answer,
            }
        }
    }

    /// Now and then the brokers say that a transaction can only be aborted.
    fn poisoned(&self) -> Result<()> {
        let broker = &self.clients.broker;
        let faults = broker.lock().faults;
        if broker.dice.hits(faults / 4) {
            Err(ConnectError::retriable("the transaction is to be aborted"))
        } else {
            Ok(())
        }
    }
}

/// One request of a producer; the accident that is arranged for it happens to who sends it.
async fn ask<T: Send + 'static>(
    clients: &SimClients,
    verb: Verb,
    effect: impl FnOnce(&mut State, &Arc<Broker>) -> Result<T> + Send + 'static,
) -> Result<T> {
    let broker = Arc::clone(&clients.broker);
    let before = broker.lock().coordinator.accidents.remove(&(verb, Moment::Before));
    meet(&broker, &clients.process, (verb, before));
    // Who is stopped or killed here sends it when it goes on, or never.
    broker.clock.wait(1).await;
    let process = Arc::clone(&clients.process);
    clients
        .request(verb.name(), move |state, _| {
            let outcome = effect(state, &broker);
            let after = state.coordinator.accidents.remove(&(verb, Moment::After));
            meet(&broker, &process, (verb, after));
            outcome
        })
        .await
}

fn meet(broker: &Arc<Broker>, process: &Arc<Process>, (verb, accident): (Verb, Option<Accident>)) {
    match accident {
        Some(Accident::Crash) => {
            broker.diary.note(format!("the restoring process is killed at {verb:?}"));
            process.crash();
        }
        Some(Accident::Stop { for_ms }) => {
            broker.diary.note(format!("the restoring process is stopped at {verb:?} for {for_ms} ms"));
            process.stop(broker.clock.ms());
            let (clock, process) = (Arc::clone(&broker.clock), Arc::clone(process));
            spawn(async move {
                clock.wait(for_ms).await;
                process.go_on();
            });
        }
        Some(Accident::Late { .. } | Accident::Refuse) | None => {}
    }
}

impl Parcel {
    /// Sends it until it is acknowledged or given up.
    async fn deliver(&self) -> Result<Option<Written>> {
        let broker = &self.clients.broker;
        let until = broker.clock.ms() + DELIVERY_MS;
        let mut again = false;
        loop {
            let (writer, target, sequence) = (self.writer.clone(), self.target.clone(), self.sequence);
            let recs = self.recs.clone();
            let sent = ask(&self.clients, Verb::Produce, move |state, broker| {
                state.write((&writer, broker.clock.ms()), (&target, sequence), &recs)
            });
            let error = match sent.await {
                // Of a batch that it knows already a broker may not tell where it stands.
                Ok(_) if again && broker.dice.hits(200) => return Ok(None),
                Ok(written) => return Ok(Some(written)),
                Err(error) => error,
            };
            let faulty = broker.lock().faults > 0;
            let gives_up = faulty && broker.dice.hits(150);
            if !error.is_retriable() || gives_up || broker.clock.ms() >= until {
                return Err(error);
            }
            again |= faulty;
            broker.clock.wait(RETRY_MS).await;
        }
    }
}

#[async_trait]
impl Producer for SimProducer {
    async fn send(&self, _: RawRecord) -> Result<Delivery> {
        Err(ConnectError::fatal("a restore sends batches"))
    }

    async fn send_batch(&self, batch: &Batch) -> Result<BatchDelivery> {
        let broker = &self.clients.broker;
        if broker.dice.hits(100) {
            // The client's queue is full for a while.
            broker.clock.wait(broker.dice.between(1, 300)).await;
        }
        let writer = self.inside()?;
        let target = batch.partition().clone();
        let (ended, end) = oneshot::channel();
        let (sequence, before, unsettled) = {
            let mut session = self.session.lock().unwrap();
            session.sequence += 1;
            session.unsettled.fetch_add(1, Ordering::Relaxed);
            (session.sequence, session.last.insert(target.clone(), end), Arc::clone(&session.unsettled))
        };
        let parcel = Parcel { clients: self.clients.clone(), writer, target, sequence, recs: records(batch) };
        let (report, reported) = oneshot::channel();
        // It is the client's own affair, which goes with its process.
        spawn(inherit(async move {
            let in_order = match before {
                Some(before) => before.await.unwrap_or(false),
                None => true,
            };
            let outcome = match in_order {
                true => parcel.deliver().await,
                false => Err(ConnectError::retriable("a batch before it was lost")),
            };
            unsettled.fetch_sub(u64::from(outcome.is_ok()), Ordering::Relaxed);
            let _ = ended.send(outcome.is_ok());
            let _ = report.send(outcome);
        }));
        Ok(Box::pin(async move { reported.await.unwrap_or_else(|_| Err(ConnectError::retriable("lost"))) }))
    }

    async fn init_transactions(&self) -> Result<()> {
        let (broker, id) = (&self.clients.broker, self.writer().id);
        let until = broker.clock.ms() + INIT_MS;
        loop {
            let (process, id) = (self.clients.worker.clone(), id.clone());
            let asked = ask(&self.clients, Verb::Init, move |state, broker| state.take_over(broker, &process, &id));
            match asked.await {
                Ok(epoch) => {
                    self.session.lock().unwrap().writer.epoch = Some(epoch);
                    return Ok(());
                }
                Err(error) if error.is_retriable() && broker.clock.ms() < until => broker.clock.wait(RETRY_MS).await,
                Err(error) => return Err(error),
            }
        }
    }

    async fn begin_transaction(&self) -> Result<()> {
        let number = self.clients.broker.lock().next_transaction();
        let mut session = self.session.lock().unwrap();
        if std::mem::replace(&mut session.inside, true) {
            return Err(ConnectError::fatal("a transaction is open already"));
        }
        session.writer.number = number;
        session.last.clear();
        session.unsettled = Arc::default();
        Ok(())
    }

    async fn send_offsets(&self, group: &str, commits: &Commits) -> Result<()> {
        let writer = self.inside()?;
        self.poisoned()?;
        let (group, commits) = (group.to_owned(), commits.clone());
        self.until_answered(Verb::SendOffsets, move |state, broker| {
            state.add_offsets((&writer, broker.clock.ms()), &group, commits.clone())
        })
        .await
    }

    async fn commit_transaction(&self) -> Result<()> {
        let writer = self.inside()?;
        let unsettled = self.session.lock().unwrap().unsettled.load(Ordering::Relaxed);
        if unsettled > 0 {
            let diary = &self.clients.broker.diary;
            diary.accuse(format!("{} commits while {unsettled} batches are not delivered", self.clients.worker));
        }
        self.poisoned()?;
        self.until_answered(Verb::Commit, move |state, broker| state.end(broker, &writer, true)).await?;
        // The contract knows no doubt about a commit, but the loop would bear it.
        self.poisoned()?;
        self.session.lock().unwrap().inside = false;
        Ok(())
    }

    async fn abort_transaction(&self) -> Result<()> {
        let writer = self.inside()?;
        self.until_answered(Verb::Abort, move |state, broker| state.end(broker, &writer, false)).await?;
        self.session.lock().unwrap().inside = false;
        Ok(())
    }
}

fn records(batch: &Batch) -> Vec<Rec> {
    let header = |(key, value): (&str, Option<&[u8]>)| (key.to_owned(), value.map(Bytes::copy_from_slice));
    let record = |row: lakeferry_api::Row<'_>| Rec {
        key: row.key().map(Bytes::copy_from_slice),
        value: row.value().map(Bytes::copy_from_slice),
        headers: row.headers().map(header).collect(),
        timestamp: row.timestamp(),
        // A producer cannot say it; what the archive says of it has come so far.
        stamp: row.timestamp_type().map(|kind| match kind {
            TimestampType::Create => Stamp::Create,
            TimestampType::Append => Stamp::Append,
        }),
    };
    batch.rows().map(record).collect()
}
