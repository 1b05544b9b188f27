//! Reads stretches of partitions to their ends, without a group: what `verify --bootstrap-server`, the demo and tests
//! need. Reads `read_committed`, commits nothing, and ends when every partition has reached its end.
//!
//! Deliberately absent: rebalances, seeks and the byte budget; a reader holds a few batches and waits for its caller.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lakeferry_api::{Batch, Clock, Config, ConnectError, Result, TopicPartition};
use tokio::sync::mpsc;

use super::consumer::{NotUtf8, Slot};
use super::error::{Membership, explain, explain_reading, kind, named};
use super::ffi::{Code, Failure, FetchFrom, Handle, Message, Polled, Role};
use super::security;

/// What is read of each partition: from an offset up to, but not including, another.
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
    let from = |(partition, (from, _)): (&TopicPartition, &(i64, i64))| FetchFrom {
        partition: partition.clone(),
        offset: *from,
        leader_epoch: None,
    };
    let rows: Vec<_> = open.iter().map(from).collect();
    handle.assign(&rows).map_err(|failure| explain(&failure, "cannot read the partitions"))?;
    let stretches = open.into_iter().map(|(partition, (from, to))| {
        let mut slot = Slot::new(partition.clone());
        slot.started(from.into());
        (partition, Stretch { slot, to })
    });
    let servers = properties.get("bootstrap.servers").cloned().unwrap_or_default();
    let (stretches, heard) = (stretches.collect(), clock.monotonic());
    let reading = Reading { handle, sender, stretches, heard, clock, servers, last: None };
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
    handle: Handle,
    sender: mpsc::Sender<Result<Batch>>,
    stretches: BTreeMap<TopicPartition, Stretch>,
    clock: Arc<dyn Clock>,
    heard: Duration,
    /// The brokers that were asked.
    servers: String,
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
        while !self.stretches.is_empty() && !self.sender.is_closed() {
            let Some(event) = self.poll()? else {
                self.flush();
                continue;
            };
            match event {
                Heard::Progress(partition) => self.settle(&partition),
                Heard::Failed(failure, partition) => self.fail(failure, partition)?,
                Heard::Nothing => {}
            }
        }
        Ok(())
    }

    /// Takes one event in; `None` where none came in time.
    fn poll(&mut self) -> Result<Option<Heard>> {
        let now = self.clock.monotonic();
        let Some(polled) = self.handle.poll(POLL_WAIT) else {
            if now.saturating_sub(self.heard) > SILENCE {
                let named = |failure| format!(": {}", named(failure, &self.servers, None).text);
                let why = self.last.take().map_or_else(String::new, named);
                return Err(ConnectError::retriable(format!("the brokers have given nothing for a minute{why}")));
            }
            return Ok(None);
        };
        Ok(Some(match polled {
            Polled::Message(message) => {
                self.heard = now;
                let place = TopicPartition::new(message.topic(), message.partition());
                match self.stretches.get_mut(&place) {
                    Some(stretch) => {
                        stretch.take(&message, now)?;
                        Heard::Progress(place)
                    }
                    None => Heard::Nothing,
                }
            }
            Polled::End(place, offset) => {
                self.heard = now;
                if let Some(stretch) = self.stretches.get_mut(&place) {
                    stretch.slot.advance(offset.min(stretch.to), now);
                }
                Heard::Progress(place)
            }
            Polled::Failed(failure, place) => Heard::Failed(failure, place.map(|place| place.partition)),
            Polled::Assign(_) | Polled::Revoke(_) | Polled::Nothing => Heard::Nothing,
        }))
    }

    /// Hands out what is large enough or whole, and forgets a stretch that was read to its end.
    fn settle(&mut self, partition: &TopicPartition) {
        let Some(stretch) = self.stretches.get_mut(partition) else { return };
        let done = stretch.slot.position() >= stretch.to;
        if (done || stretch.slot.is_full())
            && let Some(batch) = stretch.slot.take()
        {
            self.send(batch);
        }
        if done {
            self.stretches.remove(partition);
        }
    }

    fn flush(&mut self) {
        let batches: Vec<_> = self.stretches.values_mut().filter_map(|stretch| stretch.slot.take()).collect();
        batches.into_iter().for_each(|batch| self.send(batch));
    }

    fn send(&mut self, batch: Batch) {
        // Whoever reads may be gone; the loop looks.
        let _ = self.sender.blocking_send(Ok(batch));
        // However long the reader took, the brokers were not silent meanwhile: nobody listened.
        self.heard = self.clock.monotonic();
    }

    fn fail(&mut self, failure: Failure, partition: Option<TopicPartition>) -> Result<()> {
        let stretch = partition.as_ref().and_then(|partition| self.stretches.get(partition));
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
            let nobody = Membership { servers: self.servers.clone(), ..Membership::default() };
            return Err(explain_reading(&failure, partition.as_ref(), &nobody));
        }
        self.last = Some(failure);
        Ok(())
    }
}

enum Heard {
    Progress(TopicPartition),
    Failed(Failure, Option<TopicPartition>),
    Nothing,
}

impl Stretch {
    fn take(&mut self, message: &Message<'_>, now: Duration) -> Result<()> {
        if message.offset() >= self.to {
            self.slot.advance(self.to, now);
            return Ok(());
        }
        if message.offset() < self.slot.position() {
            return Ok(());
        }
        let pushed = self.slot.push(message, now);
        pushed.map(|_| ()).map_err(|NotUtf8| {
            ConnectError::data(format!(
                "the record at offset {} of {} has a header key that is not UTF-8",
                message.offset(),
                self.slot.partition
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;

    /// Stands still until it is set.
    struct SetClock(Mutex<Duration>);

    #[async_trait]
    impl Clock for SetClock {
        fn now_ms(&self) -> i64 {
            0
        }

        fn monotonic(&self) -> Duration {
            *self.0.lock().unwrap()
        }

        async fn sleep(&self, _: Duration) {
            std::future::pending().await
        }
    }

    #[test]
    fn a_caller_who_takes_his_time_is_no_silence_of_the_brokers() {
        let clock = Arc::new(SetClock(Mutex::default()));
        let properties = Config::from([("bootstrap.servers".to_owned(), "127.0.0.1:1".to_owned())]);
        let handle = Handle::open(Role::Consumer, &settings(&properties).unwrap()).unwrap();
        let orders = TopicPartition::new("orders", 0);
        let mut slot = Slot::new(orders.clone());
        slot.started(0.into());
        slot.advance(5, Duration::ZERO);
        let (sender, mut batches) = mpsc::channel(1);
        sender.try_send(Ok(Batch::position_only(orders.clone(), 0, 0))).unwrap();
        let stretches = BTreeMap::from([(orders.clone(), Stretch { slot, to: 5 })]);
        let heard = clock.monotonic();
        let reading =
            Reading { handle, sender, stretches, clock: clock.clone(), heard, servers: String::new(), last: None };
        let thread = std::thread::spawn(move || {
            let mut reading = reading;
            reading.settle(&orders);
            reading.heard
        });
        *clock.0.lock().unwrap() = 2 * SILENCE;
        for _ in 0..2 {
            batches.blocking_recv().unwrap().unwrap();
        }
        assert_eq!(thread.join().unwrap(), 2 * SILENCE);
    }
}
