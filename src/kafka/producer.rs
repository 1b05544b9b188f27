//! The producer on librdkafka: acknowledged by all replicas, idempotent unless told otherwise, in the order of the
//! calls. A thread of its own takes delivery reports; one [`Report`] answers for a record or for a whole batch, so a
//! batch costs no future per record.
//!
//! Invariant: no record goes out with another timestamp than it has. The client library would stamp one of 0 with the
//! present, and Kafka takes one below for none, so they are refused; only a single record that has no timestamp gets
//! the present, as from Java's producer. Deliberately absent: retries beyond the client's own.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::select;
use lakeferry_api::batch::NO_TIMESTAMP;
use lakeferry_api::record::RawRecord;
use lakeferry_api::{Batch, Budget, Clock, Config, ConnectError, Permit, Result};
use tokio::sync::{Notify, Semaphore, oneshot};

use super::error::{explain, explain_needing};
use super::ffi::{self, Code, Failure, Handle, Outgoing, Role, Token};
use super::security::{self, JAVA_PARTITIONER, Settings};
use super::transactions::Transactions;
use super::{BatchDelivery, Commits, Delivered, Delivery, Producer, Written};

/// Opens a producer, which pays from `budget` what waits in its queue.
///
/// # Errors
/// `Config` where the properties cannot be used.
pub fn open(properties: &Config, budget: Budget, clock: Arc<dyn Clock>) -> Result<Arc<dyn Producer>> {
    let settings = settings(properties)?;
    let queue_kbytes = settings.get("queue.buffering.max.kbytes").and_then(|text| text.parse::<u64>().ok());
    let queue_bytes = queue_kbytes.map_or(u64::MAX, |kbytes| kbytes.saturating_mul(1024));
    let max_block = properties.get("max.block.ms").and_then(|text| text.trim().parse().ok()).map(Duration::from_millis);
    let handle =
        Handle::open(Role::Producer, &settings).map_err(|failure| explain(&failure, "cannot create a producer"))?;
    let shared =
        Arc::new(Shared { client: ffi::Producer::new(handle), room: Notify::new(), closing: AtomicBool::new(false) });
    let polled = Arc::clone(&shared);
    std::thread::Builder::new()
        .name("producer".to_owned())
        .spawn(move || poll(&polled))
        .map_err(|error| ConnectError::retriable("cannot start a producer thread").caused_by(error))?;
    let transactions = Transactions::of(properties, Arc::clone(&shared));
    let turn = Semaphore::new(1);
    Ok(Arc::new(QueueProducer { shared, turn, queue_bytes, budget, clock, max_block, transactions }))
}

/// What a record takes in the client's queue beyond its bytes.
const MESSAGE_BYTES: u64 = 256;

fn settings(properties: &Config) -> Result<Settings> {
    let mut settings = security::client_config(properties, Role::Producer)?;
    let is_transactional = settings.contains_key("transactional.id");
    if is_transactional {
        Transactions::demand(&mut settings)?;
    }
    // As Java's `buffer.memory`. What comes back from an archive has room whatever its size: its loop bounds itself
    // what is on its way.
    let queue_kbytes = if is_transactional { "131072" } else { "32768" };
    // While a request of a partition is under way librdkafka's thread does not sleep if records wait behind it that
    // have lingered longer than this. Nobody sees the records of a transaction before it ends: they may.
    let linger_ms = if is_transactional { "100" } else { "5" };
    let defaults = [
        ("acks", "all"),
        ("partitioner", JAVA_PARTITIONER),
        // Connect never gives a record up before its task is stopped.
        ("delivery.timeout.ms", "2147483647"),
        ("queue.buffering.max.kbytes", queue_kbytes),
        // The broker says what is too large.
        ("message.max.bytes", "104857600"),
        ("linger.ms", linger_ms),
        ("log.connection.close", "false"),
    ];
    for (key, value) in defaults {
        settings.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
    let is_all = matches!(settings["acks"].as_str(), "all" | "-1");
    if is_all {
        settings.entry("enable.idempotence".to_owned()).or_insert_with(|| "true".to_owned());
    }
    Ok(settings)
}

struct QueueProducer {
    shared: Arc<Shared>,
    /// One call at a time hands records over, first come first served: that keeps the order of the calls even where one
    /// of them has to wait for room.
    turn: Semaphore,
    /// A larger value finds no room even where nothing is queued.
    queue_bytes: u64,
    budget: Budget,
    clock: Arc<dyn Clock>,
    max_block: Option<Duration>,
    transactions: Transactions,
}

pub(super) struct Shared {
    pub(super) client: ffi::Producer<Report>,
    room: Notify,
    closing: AtomicBool,
}

/// Answers for one or many records: resolves with the last of them.
pub(super) struct Report {
    open: AtomicUsize,
    /// The smallest and the largest offset so far.
    first: AtomicI64,
    last: AtomicI64,
    outcome: Mutex<Outcome>,
    /// Pays for what the client's queue holds, but for what `_records` pays itself.
    _queued: Permit,
    /// A batch on its way, whose values the client reads where they are.
    _records: Option<Batch>,
}

struct Outcome {
    result: Result<Option<Delivered>>,
    tell: Option<oneshot::Sender<Result<Told>>>,
}

/// What is known once every record of a report is acknowledged.
struct Told {
    /// Of a single record.
    place: Option<Delivered>,
    written: Option<Written>,
}

impl QueueProducer {
    /// Pays for `records` records in the client's queue, and for `bytes` bytes of them.
    fn queued(&self, records: usize, bytes: usize) -> Permit {
        self.budget.take(bytes as u64 + MESSAGE_BYTES * records as u64)
    }

    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>> {
        self.turn.acquire().await.map_err(|error| ConnectError::fatal("the producer is closed").caused_by(error))
    }

    /// Queues a record, waiting for room as long as `max.block.ms` says.
    async fn queue<'h, H>(&self, record: Outgoing<'_>, headers: H, report: &Arc<Token<Report>>) -> Result<()>
    where
        H: ExactSizeIterator<Item = (&'h [u8], Option<&'h [u8]>)> + Clone,
    {
        let mut deadline = None;
        // Asking to be told of room costs as much as queueing does: that waits until there is none.
        let mut is_full = false;
        loop {
            let room = self.shared.room.notified();
            tokio::pin!(room);
            if is_full {
                room.as_mut().enable();
            }
            let failure = match self.shared.client.send(&record, headers.clone(), Arc::clone(report)) {
                Ok(()) => return Ok(()),
                Err(failure) if failure.code == Code::RD_KAFKA_RESP_ERR__QUEUE_FULL => failure,
                Err(failure) => return Err(self.refused(&failure, &record)),
            };
            let value_bytes = record.value.map_or(0, <[u8]>::len) as u64;
            if value_bytes > self.queue_bytes {
                return Err(ConnectError::data(format!(
                    "a value of {value_bytes} bytes for topic {} is larger than the producer's buffer.memory={}; raise it",
                    record.topic, self.queue_bytes
                )));
            }
            if !is_full {
                is_full = true;
                continue;
            }
            let Some(max_block) = self.max_block else {
                room.await;
                continue;
            };
            let now = self.clock.monotonic();
            let left = deadline.get_or_insert(now.saturating_add(max_block)).saturating_sub(now);
            if left.is_zero() {
                return Err(self.refused(&failure, &record));
            }
            // Whichever comes first: the record is tried again, and the deadline is looked at.
            select(room, self.clock.sleep(left)).await;
        }
    }

    fn refused(&self, failure: &Failure, record: &Outgoing<'_>) -> ConnectError {
        let fatal = self.shared.client.handle().fatal();
        let topic = record.topic;
        let (what, right) = (format!("cannot send to topic {topic}"), format!("WRITE on topic {topic}"));
        let error = explain_needing(fatal.as_ref().unwrap_or(failure), what, right);
        if fatal.is_some() { ConnectError::fatal(error.message()) } else { error }
    }
}

#[async_trait]
impl Producer for QueueProducer {
    async fn send(&self, record: RawRecord) -> Result<Delivery> {
        if let Some(timestamp) = record.timestamp.filter(|timestamp| *timestamp <= 0) {
            return Err(ConnectError::data(format!(
                "a record for topic {} has timestamp {timestamp}, which the Kafka client cannot write as it is; give it \
                 a later one, or none for the present",
                record.topic
            )));
        }
        let outgoing = Outgoing {
            topic: &record.topic,
            partition: record.partition,
            timestamp: record.timestamp.unwrap_or(PRESENT),
            key: record.key.as_deref(),
            value: record.value.as_deref(),
        };
        let headers = record.headers.iter().map(|(key, value)| (key.as_bytes(), value.as_deref()));
        let bytes = [&record.key, &record.value].into_iter().flatten().map(Bytes::len).sum::<usize>()
            + record.headers.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len)).sum::<usize>();
        let _turn = self.turn().await?;
        let (report, told) = Report::new(1, self.queued(1, bytes), None);
        self.queue(outgoing, headers, &report).await?;
        Ok(Box::pin(async move {
            let delivered = told.await.unwrap_or_else(|_| Err(closed()))?;
            delivered.place.ok_or_else(|| ConnectError::fatal("a delivery report without a place"))
        }))
    }

    async fn send_batch(&self, batch: &Batch) -> Result<BatchDelivery> {
        refuse_untimed(batch)?;
        let partition = batch.partition();
        let turn = self.turn().await?;
        // The report cannot resolve before the last record is queued: one more is open until then.
        let paid = if batch.is_paid() { batch.values().byte_len(batch.row_range()) } else { 0 };
        let queued = self.queued(batch.len(), batch.raw_bytes() - paid);
        let (report, told) = Report::new(batch.len() + 1, queued, Some(batch.clone()));
        for (row, sent) in batch.rows().zip(0..) {
            let outgoing = Outgoing {
                topic: &partition.topic,
                partition: Some(partition.partition),
                timestamp: row.timestamp().unwrap_or(NO_TIMESTAMP),
                key: row.key(),
                value: row.value(),
            };
            let headers: Vec<_> = row.headers().map(|(key, value)| (key.as_bytes(), value)).collect();
            if let Err(error) = self.queue(outgoing, headers.into_iter(), &report).await {
                report.answer.close(batch.len() + 1 - sent);
                return Err(error);
            }
        }
        drop(turn);
        report.answer.close(1);
        Ok(Box::pin(async move { told.await.unwrap_or_else(|_| Err(closed())).map(|told| told.written) }))
    }

    async fn init_transactions(&self) -> Result<()> {
        self.transactions.init().await
    }

    async fn begin_transaction(&self) -> Result<()> {
        self.transactions.begin().await
    }

    async fn flush(&self) -> Result<()> {
        self.transactions.flush().await
    }

    async fn send_offsets(&self, group: &str, commits: &Commits) -> Result<()> {
        self.transactions.send_offsets(group, commits).await
    }

    async fn commit_transaction(&self) -> Result<()> {
        self.transactions.commit().await
    }

    async fn abort_transaction(&self) -> Result<()> {
        self.transactions.abort().await
    }
}

impl Drop for QueueProducer {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        self.shared.client.handle().wake();
    }
}

/// librdkafka takes 0 for "now", and has no way to say "none".
const PRESENT: i64 = 0;

/// Refuses a batch with a record that would go out with another time than it has.
fn refuse_untimed(batch: &Batch) -> Result<()> {
    match batch.rows().find(|row| row.timestamp().is_none_or(|timestamp| timestamp <= 0)) {
        Some(row) => Err(ConnectError::data(format!(
            "the record at offset {} for {} has {}, which the Kafka client cannot write as it is; allow the present \
             time in its place (replay.untimed=now) or leave it out",
            row.offset(),
            batch.partition(),
            row.timestamp().map_or_else(|| "no timestamp".to_owned(), |timestamp| format!("timestamp {timestamp}"))
        ))),
        None => Ok(()),
    }
}

impl Report {
    fn new(open: usize, queued: Permit, records: Option<Batch>) -> (Arc<Token<Self>>, oneshot::Receiver<Result<Told>>) {
        let (tell, told) = oneshot::channel();
        let outcome = Mutex::new(Outcome { result: Ok(None), tell: Some(tell) });
        let (first, last) = (AtomicI64::new(i64::MAX), AtomicI64::new(i64::MIN));
        let values = records.as_ref().map_or_else(Bytes::new, |records| records.values().bytes().clone());
        let open = AtomicUsize::new(open);
        let report = Self { open, first, last, outcome, _queued: queued, _records: records };
        (Arc::new(Token::keeping(values, report)), told)
    }

    /// Between which offsets the records stand.
    fn written(&self) -> Option<Written> {
        let (first, last) = (self.first.load(Ordering::Relaxed), self.last.load(Ordering::Relaxed));
        (0 <= first && first <= last).then_some(Written { first, last })
    }

    fn take(&self, delivered: Result<(i32, i64), Failure>) {
        if let Ok((_, offset)) = delivered {
            // One thread writes them, and whoever reads them has waited for the last report.
            self.first.fetch_min(offset, Ordering::Relaxed);
            self.last.fetch_max(offset, Ordering::Relaxed);
        }
        let result = delivered
            .map(|(partition, offset)| Some(Delivered { partition, offset }))
            .map_err(|failure| explain_needing(&failure, "a record was not acknowledged", "WRITE on its topic"));
        // The place is told of a single record only; in a batch the first error stands for all.
        if result.is_err() || self.open.load(Ordering::Acquire) == 1 {
            let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
            if outcome.result.is_ok() {
                outcome.result = result;
            }
        }
        self.close(1);
    }

    /// That many records need no further answer.
    fn close(&self, records: usize) {
        if self.open.fetch_sub(records, Ordering::AcqRel) != records {
            return;
        }
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let result = std::mem::replace(&mut outcome.result, Ok(None));
        if let Some(tell) = outcome.tell.take() {
            // Nobody waits any more: fine.
            let _ = tell.send(result.map(|place| Told { place, written: self.written() }));
        }
    }
}

fn closed() -> ConnectError {
    ConnectError::retriable("the producer was closed before the record was acknowledged")
}

fn poll(shared: &Shared) {
    const WAIT: Duration = Duration::from_millis(100);
    let step = |wait| {
        let failed = |failure: Failure| tracing::warn!("producer: {}", failure.text);
        if shared.client.poll(wait, |report, delivered| report.answer.take(delivered), failed) {
            shared.room.notify_waiters();
        }
    };
    while !shared.closing.load(Ordering::Relaxed) {
        step(WAIT);
    }
    // Nobody can ask for these any more; their reports free the tokens.
    shared.client.purge();
    for _ in 0..CLOSE_STEPS {
        if shared.client.outstanding() == 0 {
            break;
        }
        step(WAIT);
    }
}

const CLOSE_STEPS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(given: &[(&str, &str)]) -> Result<(String, Option<String>)> {
        let properties = given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let settings = settings(&properties)?;
        Ok((settings["acks"].clone(), settings.get("enable.idempotence").cloned()))
    }

    /// Without idempotence a record whose acknowledgement was lost is written twice.
    #[test]
    fn a_producer_is_idempotent_unless_it_is_told_otherwise_and_always_in_transactions() {
        let both = ("all".to_owned(), Some("true".to_owned()));
        assert_eq!(settled(&[]).unwrap(), both);
        assert_eq!(settled(&[("acks", "1")]).unwrap(), ("1".to_owned(), None), "that excludes it");
        let id = ("transactional.id", "t");
        assert_eq!(settled(&[id]).unwrap(), both);
        assert_eq!(settled(&[id, ("acks", "-1"), ("enable.idempotence", "true")]).unwrap(), both);
        for (key, value) in [("enable.idempotence", "false"), ("acks", "1"), ("acks", "0")] {
            let error = settled(&[id, (key, value)]).unwrap_err();
            assert_eq!(error.kind(), lakeferry_api::Kind::Config);
            assert!(error.message().contains(&format!("Invalid value {value} for configuration {key}")), "{error}");
        }
    }
}
