//! Reads stretches of partitions to their ends, without a group: what `verify --bootstrap-server`, the demo and tests
//! need. Reads `read_committed`, commits nothing, and ends when every partition has reached its end.
//!
//! Deliberately absent: rebalances, seeks and the byte budget; a reader holds a few batches and waits for its caller.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use lakeferry_api::{Batch, Clock, Config, ConnectError, Result, TopicPartition};
use tokio::sync::mpsc;

use super::consumer::{BATCH_BYTES, BATCH_RECORDS, NotUtf8, Slot};
use super::error::{explain, kind};
use super::ffi::{Code, Failure, Handle, Message, Polled, Role};
use super::security;

/// What is read of each partition: from an offset up to, but without, another.
pub type Stretches = BTreeMap<TopicPartition, (i64, i64)>;

/// See the module.
pub struct Reader {
    batches: mpsc::Receiver<Result<Batch>>,
}

impl Reader {
    /// The next batch; `None` when every stretch was read to its end. Batches of a partition touch, the first begins
    /// where its stretch begins and the last ends where it ends.
    ///
    /// # Errors
    /// `NotFound` where a stretch is not in the log (any more); `Data` where a record cannot be read; `Retriable` where
    /// the brokers have said nothing for a minute. Nothing follows an error.
    pub async fn next(&mut self) -> Result<Option<Batch>> {
        self.batches.recv().await.transpose()
    }
}

/// Begins to read.
///
/// # Errors
/// `Config` where the properties cannot be used.
pub fn open(properties: &Config, stretches: Stretches, clock: Arc<dyn Clock>) -> Result<Reader> {
    let (sender, batches) = mpsc::channel(CHANNEL_BATCHES);
    let handle = Handle::open(Role::Consumer, &settings(properties)?)
        .map_err(|failure| explain(&failure, "cannot create a reader"))?;
    let open: BTreeMap<_, _> = stretches.into_iter().filter(|(_, (from, to))| from < to).collect();
    let rows: Vec<_> = open.iter().map(|(partition, (from, _))| (partition.clone(), *from)).collect();
    handle.assign(&rows).map_err(|failure| explain(&failure, "cannot read the partitions"))?;
    let mut stretches_by_topic: HashMap<_, BTreeMap<_, _>> = HashMap::new();
    for (partition, (from, to)) in open {
        let mut slot = Slot::new(partition.clone());
        slot.started(from);
        stretches_by_topic.entry(partition.topic).or_default().insert(partition.partition, Stretch { slot, to });
    }
    let handle = Arc::new(handle);
    let reading = Reading { handle, sender, stretches_by_topic, heard: clock.monotonic(), clock, last: None };
    std::thread::Builder::new()
        .name("reader".to_owned())
        .spawn(move || reading.run())
        .map_err(|error| ConnectError::retriable("cannot start a reader thread").caused_by(error))?;
    Ok(Reader { batches })
}

const CHANNEL_BATCHES: usize = 8;
const POLL_WAIT: Duration = Duration::from_millis(100);
const SILENCE: Duration = Duration::from_secs(60);

fn settings(properties: &Config) -> Result<security::Settings> {
    let mut settings = security::client_config(properties, Role::Consumer)?;
    // librdkafka assigns nothing to a consumer without a group's name, though it asks no group for anything.
    settings.entry("group.id".to_owned()).or_insert_with(|| "lakeferry-reader".to_owned());
    let forced = [
        ("isolation.level", "read_committed"),
        ("enable.auto.commit", "false"),
        ("enable.partition.eof", "true"),
        ("auto.offset.reset", "error"),
        ("check.crcs", "true"),
        ("fetch.queue.backoff.ms", "5"),
        ("queued.max.messages.kbytes", "16384"),
        ("log.connection.close", "false"),
    ];
    settings.extend(forced.map(|(key, value)| (key.to_owned(), value.to_owned())));
    Ok(settings)
}

/// The thread's half.
struct Reading {
    handle: Arc<Handle>,
    sender: mpsc::Sender<Result<Batch>>,
    stretches_by_topic: HashMap<Arc<str>, BTreeMap<i32, Stretch>>,
    clock: Arc<dyn Clock>,
    heard: Duration,
    /// What the client said last, to explain a silence.
    last: Option<Failure>,
}

struct Stretch {
    slot: Slot,
    to: i64,
}

impl Reading {
    fn run(mut self) {
        if let Err(error) = self.read() {
            // Whoever reads may be gone.
            let _ = self.sender.blocking_send(Err(error));
        }
    }

    fn read(&mut self) -> Result<()> {
        let handle = Arc::clone(&self.handle);
        while !self.stretches_by_topic.is_empty() && !self.sender.is_closed() {
            let now = self.clock.monotonic();
            let Some(polled) = handle.poll(POLL_WAIT) else {
                self.bear_silence(now)?;
                self.flush();
                continue;
            };
            match polled {
                Polled::Message(message) => {
                    self.heard = now;
                    let stretches = self.stretches_by_topic.get_mut(message.topic());
                    let Some(stretch) = stretches.and_then(|all| all.get_mut(&message.partition())) else { continue };
                    stretch.take(&message, now)?;
                    let due = stretch.is_due().then(|| stretch.slot.partition.clone());
                    due.iter().for_each(|partition| self.hand_out(partition));
                }
                Polled::End(place, offset) => {
                    self.heard = now;
                    let Some(stretch) = self.stretch(&place) else { continue };
                    stretch.slot.advance(offset.min(stretch.to), now);
                    let due = stretch.is_due().then(|| stretch.slot.partition.clone());
                    due.iter().for_each(|partition| self.hand_out(partition));
                }
                Polled::Failed(failure, place) => self.fail(failure, place.map(|place| place.partition))?,
                Polled::Assign(_) | Polled::Revoke(_) | Polled::Nothing => {}
            }
        }
        Ok(())
    }

    fn stretch(&mut self, partition: &TopicPartition) -> Option<&mut Stretch> {
        self.stretches_by_topic.get_mut(&partition.topic)?.get_mut(&partition.partition)
    }

    fn bear_silence(&self, now: Duration) -> Result<()> {
        if now.saturating_sub(self.heard) <= SILENCE {
            return Ok(());
        }
        let why = self.last.as_ref().map_or_else(String::new, |failure| format!(": {}", failure.text));
        Err(ConnectError::retriable(format!("the brokers have given nothing for a minute{why}")))
    }

    /// Hands out what a stretch has collected, and forgets one that was read to its end.
    fn hand_out(&mut self, partition: &TopicPartition) {
        let Some(stretch) = self.stretch(partition) else { return };
        let (batch, done) = (stretch.slot.take(), stretch.is_done());
        if let Some(batch) = batch {
            // Whoever reads may be gone; the loop looks.
            let _ = self.sender.blocking_send(Ok(batch));
        }
        if done {
            if let Some(stretches) = self.stretches_by_topic.get_mut(&partition.topic) {
                stretches.remove(&partition.partition);
            }
            self.stretches_by_topic.retain(|_, stretches| !stretches.is_empty());
        }
    }

    fn flush(&mut self) {
        for batch in
            self.stretches_by_topic.values_mut().flat_map(BTreeMap::values_mut).filter_map(|one| one.slot.take())
        {
            let _ = self.sender.blocking_send(Ok(batch));
        }
    }

    fn fail(&mut self, failure: Failure, partition: Option<TopicPartition>) -> Result<()> {
        let stretch = partition.as_ref().and_then(|partition| self.stretch(partition));
        match (failure.code, stretch, &partition) {
            (Code::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET, Some(stretch), Some(partition)) => {
                return Err(ConnectError::not_found(format!(
                    "offset {} is not in the log of {partition}: {}",
                    stretch.slot.position(),
                    failure.text
                )));
            }
            (
                Code::RD_KAFKA_RESP_ERR__BAD_MSG
                | Code::RD_KAFKA_RESP_ERR__BAD_COMPRESSION
                | Code::RD_KAFKA_RESP_ERR__NOT_IMPLEMENTED
                | Code::RD_KAFKA_RESP_ERR_INVALID_MSG
                | Code::RD_KAFKA_RESP_ERR__FATAL,
                ..,
            ) => return Err(ConnectError::data(format!("reading from Kafka: {}", failure.text))),
            _ => {}
        }
        // Refused logins and missing rights do not mend themselves; a group's rights are not needed here.
        let of_group = failure.code == Code::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED;
        if kind(&failure) == lakeferry_api::Kind::Config && !of_group {
            return Err(explain(&failure, "reading from Kafka"));
        }
        self.last = Some(failure);
        Ok(())
    }
}

impl Stretch {
    fn is_done(&self) -> bool {
        self.slot.position() >= self.to
    }

    /// True where what it collected is whole.
    fn is_due(&self) -> bool {
        let full = |(records, bytes, _)| records >= BATCH_RECORDS || bytes >= BATCH_BYTES;
        self.is_done() || self.slot.collected().is_some_and(full)
    }

    fn take(&mut self, message: &Message<'_>, now: Duration) -> Result<()> {
        if message.offset() >= self.to {
            self.slot.advance(self.to, now);
            return Ok(());
        }
        if message.offset() < self.slot.position() {
            return Ok(());
        }
        self.slot.push(message, now).map_err(|NotUtf8| {
            ConnectError::data(format!(
                "the record at offset {} of {} has a header key that is not UTF-8",
                message.offset(),
                self.slot.partition
            ))
        })
    }
}
