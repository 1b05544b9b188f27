//! The thread that polls the client: collects records into batches, hears of rebalances, and does what the loop orders.
//!
//! Invariants: it never blocks on its channel, so the client is polled and the group kept however slow the loop is;
//! what goes into the outbox comes out in that order; of a partition that was revoked or lost nothing follows. Two
//! waits are the rule: for room (see [`super::room`]), and for the loop's release of revoked partitions (polling goes
//! on).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use lakeferry_api::{Batch, Clock, ConnectError, Kind, Permit, TopicPartition};
use tokio::sync::mpsc;

use super::super::Event;
use super::super::error::{Membership, explain_reading, is_denied, kind, missing_topic};
use super::super::ffi::{Code, Entry, Failure, Handle, Message, Polled};
use super::pattern::Watch;
use super::rebalance::Revocation;
use super::room::{ROOM_WAIT, Room, STALLED_WAIT};
use super::slot::{Phase, Slot};
use super::truncation::{self, Cause};
use super::{Said, Shared};

const BATCH_AGE: Duration = Duration::from_millis(50);
/// All batches under way together.
const COLLECTED_BYTES: u64 = 4 << 20;
/// Events taken in one go before orders, ages and room are looked at again; no more than come to `COLLECTED_BYTES`.
const BURST: usize = 2_048;
/// How long a poll waits for an event; an order wakes it.
const IDLE_WAIT: Duration = Duration::from_millis(250);
/// The same error is told this often at most.
const REPEAT_AFTER: Duration = Duration::from_secs(10);
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

pub(super) struct FetchSpec {
    pub(super) handle: Arc<Handle>,
    pub(super) member: Membership,
    pub(super) sender: mpsc::Sender<Said>,
    pub(super) orders: Arc<Shared>,
    pub(super) clock: Arc<dyn Clock>,
    /// Whether the topics are subscribed to by their names.
    pub(super) by_name: bool,
    pub(super) queue: Permit,
    pub(super) release_within: Duration,
}

pub(super) struct Fetch {
    pub(super) spec: FetchSpec,
    pub(super) slots_by_topic: HashMap<Arc<str>, BTreeMap<i32, Slot>>,
    ready: Vec<(u64, Batch)>,
    pub(super) outbox: VecDeque<Said>,
    /// What the slots have collected.
    open: Permit,
    pub(super) revocation: Option<Revocation>,
    pub(super) revocations: u64,
    /// When what was told: by code and partition, and by topic where one is missing or denied, which comes once each.
    told_at: HashMap<(i32, Option<TopicPartition>, Option<String>), Duration>,
    pub(super) room: Room,
    pub(super) now: Duration,
}

/// What may still be taken in one go.
struct Burst {
    events: usize,
    bytes: u64,
}

impl Burst {
    fn spend(&mut self, bytes: u64) {
        self.events = self.events.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    fn is_over(&self) -> bool {
        self.events == 0 || self.bytes == 0
    }
}

impl Fetch {
    pub(super) fn new(spec: FetchSpec) -> Self {
        let open = spec.queue.budget().take(0);
        let now = spec.clock.monotonic();
        Self {
            now,
            spec,
            slots_by_topic: HashMap::new(),
            ready: Vec::new(),
            outbox: VecDeque::new(),
            open,
            revocation: None,
            revocations: 0,
            told_at: HashMap::new(),
            room: Room::default(),
        }
    }

    /// Polls until the loop closes the consumer, then leaves the group.
    pub(super) fn run(self, watch: Watch) {
        // The sender goes last: a closed channel tells the loop that nothing is left of the client and its buffers.
        let sender = self.spec.sender.clone();
        self.poll_until_closed();
        drop(watch);
        drop(sender);
    }

    fn poll_until_closed(mut self) {
        while !self.spec.orders.lock().closing && !self.spec.sender.is_closed() {
            self.round();
        }
        self.close();
    }

    /// Does what was ordered, sends what waits, and polls once.
    pub(super) fn round(&mut self) {
        self.look_at_clock();
        self.take_orders();
        self.begin_starts();
        self.settle_revocation();
        self.set_fetching();
        self.send();
        if self.make_room() {
            self.read();
        } else {
            self.wait_for_room();
        }
    }

    /// Read once a round: records are too many to ask for each.
    fn look_at_clock(&mut self) {
        self.now = self.spec.clock.monotonic();
    }

    pub(super) fn slots(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots_by_topic.values_mut().flat_map(BTreeMap::values_mut)
    }

    pub(super) fn slot(&mut self, partition: &TopicPartition) -> Option<&mut Slot> {
        self.slots_by_topic.get_mut(&partition.topic)?.get_mut(&partition.partition)
    }

    pub(super) fn take_orders(&mut self) {
        let (starts, held) = {
            let mut orders = self.spec.orders.lock();
            (std::mem::take(&mut orders.starts), std::mem::take(&mut orders.held))
        };
        let now = self.now;
        for (partition, held) in held {
            if let Some(slot) = self.slot(&partition) {
                slot.held = held;
            }
        }
        for (partition, start) in starts {
            if let Some(slot) = self.slot(&partition).filter(|slot| !slot.revoking) {
                slot.start(start, now);
            }
        }
    }

    pub(super) fn send(&mut self) {
        while let Some(said) = self.outbox.pop_front() {
            match self.spec.sender.try_send(said) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(said)) => {
                    self.outbox.push_front(said);
                    return;
                }
                // The loop is gone; `run` sees it.
                Err(mpsc::error::TrySendError::Closed(_)) => return,
            }
        }
    }

    fn read(&mut self) {
        let handle = Arc::clone(&self.spec.handle);
        let now = self.now;
        let age = |slot: &mut Slot| slot.collected().map(|(_, _, since)| now.saturating_sub(since));
        let oldest = self.slots().filter_map(age).max();
        let is_starting = self.slots().any(|slot| matches!(slot.phase, Phase::Starting { .. }));
        let waits = self.revocation.as_ref().map_or(IDLE_WAIT, |_| STALLED_WAIT);
        let is_rousing = self.rouse();
        let most = if is_starting || is_rousing { ROOM_WAIT } else { waits };
        let wait = oldest.map_or(most, |age| BATCH_AGE.saturating_sub(age).min(most));
        let mut polled = handle.poll(wait);
        self.look_at_clock();
        let mut burst = Burst { events: BURST, bytes: COLLECTED_BYTES };
        while let Some(event) = polled {
            polled = match event {
                Polled::Message(message) => self.take_run(message, &handle, &mut burst),
                event => {
                    self.take(event);
                    burst.spend(0);
                    None
                }
            };
            if polled.is_none() && !burst.is_over() {
                polled = handle.poll(Duration::ZERO);
            }
        }
        self.flush_due();
    }

    fn flush_due(&mut self) {
        let now = self.now;
        let all = self.open_bytes() >= COLLECTED_BYTES;
        self.flush(|slot| slot.collected().is_some_and(|(_, _, since)| all || now.saturating_sub(since) >= BATCH_AGE));
    }

    fn open_bytes(&mut self) -> u64 {
        self.slots().filter_map(|slot| slot.collected()).map(|(_, bytes, _)| bytes).sum()
    }

    /// Puts what the chosen partitions collected, and what was ready before, into the outbox. A batch pays for itself
    /// from then on; what the others collected is paid here.
    pub(super) fn flush(&mut self, chosen: impl Fn(&Slot) -> bool) {
        let mut taken = Vec::new();
        for slot in self.slots().filter(|slot| chosen(slot)) {
            taken.extend(slot.take().map(|batch| (slot.generation, batch)));
        }
        for (generation, batch) in taken {
            self.make_ready(generation, batch);
        }
        if !self.ready.is_empty() {
            self.outbox.push_back(Said::Batches(std::mem::take(&mut self.ready)));
        }
        let open_bytes = self.open_bytes();
        self.open.resize(open_bytes);
    }

    fn make_ready(&mut self, generation: u64, batch: Batch) {
        let permit = self.spec.queue.budget().take(batch.memory_bytes());
        self.ready.push((generation, batch.holding(permit)));
    }

    pub(super) fn take(&mut self, polled: Polled<'_>) {
        match polled {
            Polled::Message(message) => {
                let handle = Arc::clone(&self.spec.handle);
                self.take_run(message, &handle, &mut Burst { events: 1, bytes: 0 });
            }
            Polled::End(partition, offset) => {
                let now = self.now;
                if let Some(slot) = self.slot(&partition).filter(|slot| slot.is_reading()) {
                    slot.advance(offset, now);
                }
            }
            Polled::Assign(partitions) => self.take_assignment(partitions),
            Polled::Revoke(partitions) => self.take_revocation(partitions),
            Polled::Failed(failure, place) => self.take_failure(&failure, place),
            Polled::Nothing => {}
        }
    }

    /// Takes `message` and those that follow it of the same partition, which is looked for only once, as far as `burst`
    /// goes. Gives what came behind them, if it was polled: that is to be taken, too.
    fn take_run<'h>(&mut self, mut message: Message<'h>, handle: &'h Handle, burst: &mut Burst) -> Option<Polled<'h>> {
        let now = self.now;
        let slots = self.slots_by_topic.get_mut(message.topic());
        let slot = slots.and_then(|slots| slots.get_mut(&message.partition()))?;
        while slot.is_next(message.offset()) {
            let Ok(bytes) = slot.push(&message, now) else {
                let (generation, batch) = (slot.generation, slot.stop(false));
                let (partition, offset) = (slot.partition.clone(), message.offset());
                let error = ConnectError::data(format!(
                    "the record at offset {offset} of {partition} has a header key that is not UTF-8"
                ));
                batch.into_iter().for_each(|batch| self.make_ready(generation, batch));
                self.say(Said::Told(Event::Unreadable(partition, offset, error)));
                return None;
            };
            burst.spend(bytes);
            if slot.is_full() {
                let (generation, batch) = (slot.generation, slot.take());
                batch.into_iter().for_each(|batch| self.make_ready(generation, batch));
                return None;
            }
            if burst.is_over() {
                return None;
            }
            match handle.poll(Duration::ZERO) {
                Some(Polled::Message(next)) if next.is_of_partition(&message) => message = next,
                polled => return polled,
            }
        }
        // Behind the position: the end of the partition told of control records, and a pause fetched them again.
        if slot.is_reading() && slot.proves_parting(message.offset(), message.leader_epoch()) {
            let (partition, offset) = (slot.partition.clone(), message.offset());
            self.stop_parted(&partition, offset);
        }
        None
    }

    /// Puts an event behind everything that was fetched before it.
    pub(super) fn say(&mut self, said: Said) {
        self.flush(|_| true);
        self.outbox.push_back(said);
    }

    fn take_failure(&mut self, failure: &Failure, place: Option<Entry>) {
        use Code::*;
        let partition = place.as_ref().map(|place| place.partition.clone());
        match (failure.code, partition) {
            (RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET | RD_KAFKA_RESP_ERR__LOG_TRUNCATION, Some(partition)) => {
                self.stop_without_record(&partition, failure);
            }
            // The loss itself comes as a rebalance.
            (RD_KAFKA_RESP_ERR__MAX_POLL_EXCEEDED, _) => tracing::warn!("{}", failure.text),
            (
                RD_KAFKA_RESP_ERR__BAD_MSG
                | RD_KAFKA_RESP_ERR__BAD_COMPRESSION
                | RD_KAFKA_RESP_ERR__NOT_IMPLEMENTED
                | RD_KAFKA_RESP_ERR_INVALID_MSG,
                Some(partition),
            ) => self.stop_unreadable(&partition, failure),
            (_, partition) => self.tell(failure, partition),
        }
    }

    /// The client has stopped fetching where it is.
    fn stop_without_record(&mut self, partition: &TopicPartition, failure: &Failure) {
        let Some(slot) = self.slot(partition).filter(|slot| slot.is_reading()) else { return };
        let cause = truncation::cause(failure);
        // librdkafka has one question under way, and takes the answer to one about an earlier place (its epoch ended
        // where it did) for that about the present one. What it says twice is about this.
        if cause != Cause::OutOfRange && slot.ask_again() {
            tracing::info!("{partition}: whether its log was cut back is asked once more: {}", failure.text);
            return;
        }
        let (generation, batch) = (slot.generation, slot.stop(true));
        batch.into_iter().for_each(|batch| self.make_ready(generation, batch));
        self.say(match cause {
            Cause::OutOfRange => Said::OutOfRange(generation, partition.clone()),
            Cause::EpochUnknown => {
                tracing::warn!("{partition}: the broker cannot tell whether its log was cut back: {}", failure.text);
                Said::OutOfRange(generation, partition.clone())
            }
            Cause::Truncated(divergence) => Said::Truncated(generation, partition.clone(), divergence),
            Cause::Unreadable => Said::Told(Event::Error(ConnectError::fatal(format!(
                "the log of {partition} was cut back by an unclean election, but where is not said: {}; restart the \
                 task, and report this",
                failure.text
            )))),
        });
    }

    /// A record came where the log had none: an election took back what stood there, transaction markers for example,
    /// and the broker, asked for the epoch of the last record, could not tell.
    fn stop_parted(&mut self, partition: &TopicPartition, divergence: i64) {
        let Some(slot) = self.slot(partition) else { return };
        let (generation, position, batch) = (slot.generation, slot.position(), slot.stop(false));
        tracing::warn!(%partition, divergence, position, "the log has a record where it had none when it was read");
        batch.into_iter().for_each(|batch| self.make_ready(generation, batch));
        self.say(Said::Truncated(generation, partition.clone(), divergence));
    }

    /// The client would skip what it cannot read; an archive must not.
    fn stop_unreadable(&mut self, partition: &TopicPartition, failure: &Failure) {
        let Some(slot) = self.slot(partition).filter(|slot| slot.is_reading()) else { return };
        let (generation, position, batch) = (slot.generation, slot.position(), slot.stop(false));
        batch.into_iter().for_each(|batch| self.make_ready(generation, batch));
        self.say(Said::Told(Event::Error(ConnectError::data(format!(
            "{partition} cannot be read from offset {position} on: {}",
            failure.text
        )))));
    }

    /// What made the client unusable comes with a code of its own, as what passes does: the client is asked.
    fn tell(&mut self, failure: &Failure, partition: Option<TopicPartition>) {
        let fatal = self.spec.handle.fatal();
        let is_of_topic = partition.is_none() && (kind(failure) == Kind::NotFound || is_denied(failure.code));
        let passing = (failure.code as i32, partition.clone(), is_of_topic.then(|| failure.text.clone()));
        let key = fatal.as_ref().map_or(passing, |_| (Code::RD_KAFKA_RESP_ERR__FATAL as i32, None, None));
        let failure = fatal.as_ref().unwrap_or(failure);
        let now = self.now;
        if self.told_at.get(&key).is_some_and(|at| now.saturating_sub(*at) < REPEAT_AFTER) {
            return;
        }
        self.told_at.retain(|_, at| now.saturating_sub(*at) < REPEAT_AFTER);
        self.told_at.insert(key, now);
        let error = explain_reading(failure, partition.as_ref(), &self.spec.member);
        let error = match error.kind() {
            _ if fatal.is_some() => ConnectError::fatal(error.message()),
            // A topic that is not there may come; a record is not meant by any error that ends up here.
            Kind::NotFound | Kind::Data | Kind::Fenced | Kind::Conflict => ConnectError::retriable(error.message()),
            _ => error,
        };
        let missing = missing_topic(failure, partition.as_ref());
        // One that a pattern matched is missed by nobody.
        self.say(Said::Told(match missing.filter(|_| self.spec.by_name && error.is_retriable()) {
            Some(topic) => Event::Missing(topic, error),
            None => Event::Error(error),
        }));
    }

    /// Leaves the group. What is still in the outbox nobody waits for.
    fn close(&mut self) {
        let handle = Arc::clone(&self.spec.handle);
        if let Some(revocation) = self.revocation.take() {
            self.let_go(&revocation.partitions);
        }
        if let Err(failure) = handle.begin_close() {
            tracing::warn!("cannot leave the group: {}", failure.text);
            return;
        }
        let deadline = self.now + CLOSE_WITHIN;
        while !handle.is_closed() && self.now < deadline {
            self.look_at_clock();
            match handle.poll(IDLE_WAIT) {
                // The group gave something at the last moment; before that is answered it takes nothing back.
                Some(Polled::Assign(partitions)) => self.take_assignment(partitions),
                Some(Polled::Revoke(partitions)) => self.let_go(&partitions),
                _ => {}
            }
        }
    }
}
