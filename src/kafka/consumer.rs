//! The consumer of a sink task: a member of a group on librdkafka. Two halves: a thread of its own that polls the
//! client and hears of rebalances (`fetch`), and [`GroupConsumer`], which the task's loop holds. Between them stand a
//! bounded channel of events and [`Orders`], what the loop wants, folded so that it never grows beyond the partitions.
//! Beside them stands what spawned work asks of the group ([`Member`]).
//!
//! Invariants: what was fetched before a seek, or of a partition that went away, never comes out (every start has a
//! generation, and [`GroupConsumer::next`] lets pass what is of the present one); the thread never blocks on its
//! channel. Deliberately absent: where partitions begin and what is committed; the task's loop says both.

mod failed;
mod fetch;
mod member;
mod pattern;
mod rebalance;
mod room;
mod slot;
mod starts;
#[cfg(test)]
mod testing;
mod truncation;

pub(super) use slot::{NotUtf8, Slot};

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use async_trait::async_trait;
use lakeferry_api::{Batch, Budget, Clock, Config, ConnectError, Place, Places, Result, TopicPartition};
use tokio::sync::mpsc;

use super::error::{Membership, explain};
use super::ffi::{Failure, Handle, Role};
use super::security::{self, COOPERATIVE, Settings};
use super::{Consumer, Event, GroupMember, Subscription};
use member::Member;

/// What a consumer is made of.
pub struct ConsumerSpec {
    /// Kafka client properties under Java's names, overrides merged.
    pub properties: Config,
    /// What it reads.
    pub subscription: Subscription,
    /// Where its buffers are paid from.
    pub budget: Budget,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// Joins the group and begins to poll.
///
/// # Errors
/// `Config` where the properties cannot be used.
pub fn open(spec: ConsumerSpec) -> Result<Box<dyn Consumer>> {
    let settings = settings(&spec.properties, queue_bytes(&spec.budget))?;
    let group = settings.get("group.id").cloned().unwrap_or_default();
    let number = |key: &str| settings.get(key).and_then(|text| text.parse::<u64>().ok());
    let max_poll_interval = number("max.poll.interval.ms").map_or(DEFAULT_MAX_POLL_INTERVAL, Duration::from_millis);
    let refresh = number("topic.metadata.refresh.interval.ms").map_or(METADATA_REFRESH, Duration::from_millis);
    let queue_bytes = number("queued.max.messages.kbytes").unwrap_or_default() * 1024;
    let refused = |failure: Failure| explain(&failure, format!("cannot create the consumer of group {group}"));
    let handle = Arc::new(Handle::open(Role::Consumer, &settings).map_err(refused)?);
    let orders = Arc::new(Shared::default());
    let membership = Membership {
        group: group.clone(),
        instance: settings.get("group.instance.id").cloned().unwrap_or_default(),
        servers: spec.properties.get("bootstrap.servers").cloned().unwrap_or_default(),
    };
    let member = Arc::new(Member {
        membership: membership.clone(),
        handle: Arc::downgrade(&handle),
        orders: Arc::clone(&orders),
    });
    let (sender, events) = mpsc::channel(CHANNEL_EVENTS);
    let watch = pattern::subscribe(&handle, &spec.subscription, refresh)
        .map_err(|error| error.context(format!("cannot subscribe the consumer of group {group}")))?;
    let budget = spec.budget.clone();
    let fetch = fetch::Fetch::new(fetch::FetchSpec {
        handle: Arc::clone(&handle),
        member: membership,
        sender,
        orders: Arc::clone(&orders),
        clock: spec.clock,
        by_name: matches!(spec.subscription, Subscription::Topics(_)),
        // The client's own queue is paid for as long as the consumer lives.
        queue: spec.budget.take_standing(queue_bytes),
        release_within: max_poll_interval / 2,
    });
    let thread = std::thread::Builder::new()
        .name(format!("consumer {group}"))
        .spawn(move || fetch.run(watch))
        .map_err(|error| ConnectError::retriable("cannot start a consumer thread").caused_by(error))?;
    orders.lock().thread = Some(thread.thread().clone());
    tell_of_crowding(&budget);
    Ok(Box::new(GroupConsumer {
        events,
        orders,
        member,
        generations: HashMap::new(),
        last: 0,
        revoked: 0,
        ended: false,
    }))
}

/// A batch is whole at that many bytes or records.
pub(super) const BATCH_BYTES: u64 = 1 << 20;
pub(super) const BATCH_RECORDS: usize = 8_192;
/// Enough to keep the loop busy. What waits here is cold by the time it is encoded, and costs memory.
const CHANNEL_EVENTS: usize = 2;
const DEFAULT_MAX_POLL_INTERVAL: Duration = Duration::from_secs(300);
const METADATA_REFRESH: Duration = Duration::from_secs(30);

/// How much of the budget the client's own queue may take: many consumers together take little more than half of it.
fn queue_bytes(budget: &Budget) -> u64 {
    const LEAST: u64 = 256 << 10;
    const MOST: u64 = 8 << 20;
    let left = (budget.limit() / 2).saturating_sub(budget.standing());
    (left / 16).clamp(LEAST, MOST)
}

/// Beyond half of the budget nobody makes room for queues: the worker takes more memory than it was given.
fn tell_of_crowding(budget: &Budget) {
    let (limit, standing) = (budget.limit(), budget.standing());
    if standing > limit / 2 {
        tracing::warn!(
            "the queues of the Kafka clients alone take {standing} of lakeferry.memory.bytes={limit}, and up to half of \
             that is used besides: raise it, or lower tasks.max or the consumers' queued.max.messages.kbytes"
        );
    }
}

fn settings(properties: &Config, queue_bytes: u64) -> Result<Settings> {
    let mut settings = security::client_config(properties, Role::Consumer)?;
    if !settings.contains_key("group.id") {
        return Err(ConnectError::config("a consumer needs group.id"));
    }
    let queue_kbytes = (queue_bytes / 1024).to_string();
    let fetch_bytes = queue_bytes.max(1 << 20).to_string();
    // With the newer protocol the broker assigns, cooperatively, and the client must not say how.
    if settings.get("group.protocol").is_none_or(|protocol| protocol.eq_ignore_ascii_case("classic")) {
        settings.entry("partition.assignment.strategy".to_owned()).or_insert_with(|| COOPERATIVE.to_owned());
    }
    let defaults = [
        ("topic.metadata.refresh.interval.ms", "30000"),
        // A whole second of nothing, by librdkafka's default, each time the queue was full.
        ("fetch.queue.backoff.ms", "5"),
        ("fetch.max.bytes", &fetch_bytes),
        // What a partition gives at once is decompressed as a whole: more of it leaves the caches before it is read.
        // Where the broker is far away (a request at a time), more is better: it is the user's to set.
        ("fetch.message.max.bytes", "262144"),
        ("queued.max.messages.kbytes", &queue_kbytes),
        // By librdkafka's default twice as many: small ones cost several times their bytes while they wait.
        ("queued.min.messages", "50000"),
        ("check.crcs", "true"),
        ("log.connection.close", "false"),
    ];
    for (key, value) in defaults {
        settings.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
    let forced = [
        ("isolation.level", "read_committed"),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        // The position at the end of a partition, control records counted.
        ("enable.partition.eof", "true"),
        // Where a partition begins is never left to the client: it would jump without a word.
        ("auto.offset.reset", "error"),
    ];
    for (key, value) in forced {
        let before = settings.insert(key.to_owned(), value.to_owned());
        if let Some(before) = before.filter(|before| before != value) {
            tracing::warn!("the consumer property {key}={before} is replaced: the worker needs {value}");
        }
    }
    Ok(settings)
}

/// What the thread sends. Batches and what concerns one partition carry the generation of its start.
enum Said {
    Assigned(Vec<TopicPartition>),
    Revoked(u64, Vec<TopicPartition>),
    Lost(Vec<TopicPartition>),
    Deleted(Vec<TopicPartition>),
    Batches(Vec<(u64, Batch)>),
    OutOfRange(u64, TopicPartition),
    Truncated(u64, TopicPartition, i64),
    Told(Event),
}

/// What the loop wants, folded: a later order about a partition replaces an earlier one. And the one thing that the
/// thread tells past the channel: what the group gives this member now.
#[derive(Default)]
struct Orders {
    starts: BTreeMap<TopicPartition, StartOrder>,
    held: BTreeMap<TopicPartition, bool>,
    released: u64,
    closing: bool,
    thread: Option<Thread>,
    owned: HashSet<TopicPartition>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StartOrder {
    place: Place,
    generation: u64,
}

#[derive(Default)]
struct Shared(Mutex<Orders>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct GroupConsumer {
    events: mpsc::Receiver<Said>,
    orders: Arc<Shared>,
    member: Arc<Member>,
    generations: HashMap<TopicPartition, u64>,
    last: u64,
    revoked: u64,
    ended: bool,
}

impl GroupConsumer {
    fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.orders.lock());
        if let Some(handle) = self.member.handle.upgrade() {
            handle.wake();
        }
        self.tell_of_room();
    }

    /// The thread may be waiting for room in the channel.
    fn tell_of_room(&self) {
        if let Some(thread) = &self.orders.lock().thread {
            thread.unpark();
        }
    }

    fn begin(&mut self, places: &Places, release: bool) {
        let mut starts = BTreeMap::new();
        for (partition, place) in places {
            self.last += 1;
            self.generations.insert(partition.clone(), self.last);
            starts.insert(partition.clone(), StartOrder { place: *place, generation: self.last });
        }
        self.order(|orders| {
            if release {
                orders.held.extend(starts.keys().map(|partition| (partition.clone(), false)));
            }
            orders.starts.extend(starts);
        });
    }

    fn hold(&self, partitions: &[TopicPartition], held: bool) {
        self.order(|orders| orders.held.extend(partitions.iter().map(|partition| (partition.clone(), held))));
    }

    fn forget(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.generations.remove(partition);
        }
    }

    /// The event as the loop may see it; `None` where nothing is left of it.
    fn admit(&mut self, said: Said) -> Option<Event> {
        match said {
            Said::Assigned(partitions) => {
                self.forget(&partitions);
                Some(Event::Assigned(partitions))
            }
            Said::Revoked(id, partitions) => {
                self.revoked = id;
                self.forget(&partitions);
                Some(Event::Revoked(partitions))
            }
            Said::Lost(partitions) => {
                self.forget(&partitions);
                Some(Event::Lost(partitions))
            }
            Said::Deleted(partitions) => {
                self.forget(&partitions);
                Some(Event::Deleted(partitions))
            }
            Said::Batches(batches) => {
                let present = |(generation, batch): &(u64, Batch)| self.is_present(*generation, batch.partition());
                let batches: Vec<Batch> = batches.into_iter().filter(present).map(|(_, batch)| batch).collect();
                (!batches.is_empty()).then_some(Event::Batches(batches))
            }
            Said::OutOfRange(generation, partition) => {
                self.is_present(generation, &partition).then_some(Event::OutOfRange(partition))
            }
            Said::Truncated(generation, partition, divergence) => {
                self.is_present(generation, &partition).then_some(Event::Truncated(partition, divergence))
            }
            Said::Told(event) => Some(event),
        }
    }

    fn is_present(&self, generation: u64, partition: &TopicPartition) -> bool {
        self.generations.get(partition) == Some(&generation)
    }
}

#[async_trait]
impl Consumer for GroupConsumer {
    async fn next(&mut self) -> Event {
        loop {
            if self.ended {
                std::future::pending::<()>().await;
            }
            let said = self.events.recv().await;
            self.tell_of_room();
            match said.map(|said| self.admit(said)) {
                Some(Some(event)) => return event,
                Some(None) => {}
                None => {
                    self.ended = true;
                    return Event::Error(ConnectError::fatal("the consumer's thread has ended"));
                }
            }
        }
    }

    fn start_at(&mut self, places: &Places) {
        self.begin(places, true);
    }

    fn release(&mut self) {
        let revoked = self.revoked;
        self.order(|orders| orders.released = revoked);
    }

    fn seek(&mut self, partition: &TopicPartition, place: Place) {
        self.begin(&Places::from([(partition.clone(), place)]), false);
    }

    fn pause(&mut self, partitions: &[TopicPartition]) {
        self.hold(partitions, true);
    }

    fn resume(&mut self, partitions: &[TopicPartition]) {
        self.hold(partitions, false);
    }

    fn group(&self) -> Arc<dyn GroupMember> {
        Arc::clone(&self.member) as Arc<dyn GroupMember>
    }

    async fn close(&mut self) {
        self.order(|orders| orders.closing = true);
        // The sender goes when the client is gone.
        while self.events.recv().await.is_some() {}
        self.ended = true;
    }
}

impl Drop for GroupConsumer {
    fn drop(&mut self) {
        self.order(|orders| orders.closing = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_consumers_leave_memory_for_records() {
        let budget = Budget::new(256 << 20);
        let queues: Vec<_> = (0..200).map(|_| budget.take_standing(queue_bytes(&budget))).collect();
        let (first, last) = (queues[0].bytes(), queues[199].bytes());
        assert_eq!((first, last), (8 << 20, 256 << 10));
        assert!(budget.used() < budget.limit() / 3 * 2, "{} bytes of queues", budget.used());
    }
}
