//! A member of a group at an embedded cluster that a test polls itself, a step at a time.

use std::sync::Arc;
use std::time::Duration;

use lakeferry_api::{BatchBuilder, Budget, Clock, Config, Kind, Place, TopicPartition};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use tokio::sync::mpsc;

use super::super::clients::KafkaClients;
use super::super::error::Membership;
use super::super::ffi::{Handle, Polled, Role};
use super::super::{Clients as _, Event, Producer};
use super::fetch::{Fetch, FetchSpec};
use super::rebalance::UNSTARTED;
use super::starts::fetch_from;
use super::{Said, Shared, StartOrder};
use crate::clock::SystemClock;

const PATIENCE: Duration = Duration::from_secs(30);
const BUDGET_BYTES: u64 = 64 << 20;

/// See the module.
pub(super) struct Polling {
    pub(super) fetch: Fetch,
    pub(super) said: mpsc::Receiver<Said>,
    pub(super) cluster: MockCluster<'static, DefaultProducerContext>,
    orders: Arc<Shared>,
    producer: Arc<dyn Producer>,
    generation: u64,
}

impl Polling {
    /// Joins by `strategy`, with `before` assigned already, to read topic `t` of one partition.
    pub(super) fn join(strategy: &str, before: &[TopicPartition]) -> Self {
        Self::join_many(strategy, before, 1)
    }

    /// The same, of so many partitions.
    pub(super) fn join_many(strategy: &str, before: &[TopicPartition], partitions: i32) -> Self {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", partitions, 1).unwrap();
        let config = [
            ("bootstrap.servers", cluster.bootstrap_servers()),
            ("group.id", "g".to_owned()),
            ("partition.assignment.strategy", strategy.to_owned()),
        ];
        let config: Config = config.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let settings = super::settings(&config, 1 << 20).unwrap();
        let handle = Arc::new(Handle::open(Role::Consumer, &settings).unwrap());
        if !before.is_empty() {
            let rows: Vec<_> = before.iter().map(|partition| fetch_from(partition, UNSTARTED.into())).collect();
            handle.incremental_assign(&rows).unwrap();
        }
        handle.subscribe(&["t".to_owned()]).unwrap();
        let (sender, said) = mpsc::channel(64);
        let orders = Arc::new(Shared::default());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let budget = Budget::new(BUDGET_BYTES);
        let spec = FetchSpec {
            handle,
            member: Membership { group: "g".to_owned(), ..Membership::default() },
            sender,
            orders: Arc::clone(&orders),
            by_name: true,
            clock: Arc::clone(&clock),
            queue: budget.take_standing(0),
            release_within: PATIENCE,
        };
        let servers = Config::from([("bootstrap.servers".to_owned(), cluster.bootstrap_servers())]);
        let producer = KafkaClients::new(budget, clock).producer(&servers).unwrap();
        Self { fetch: Fetch::new(spec), said, cluster, orders, producer, generation: 0 }
    }

    /// Writes so many records to a partition of `t`.
    pub(super) async fn fill(&self, partition: i32, records: i64) {
        let mut builder = BatchBuilder::new(TopicPartition::new("t", partition), 0);
        for offset in 0..records {
            builder.push(offset, (1 + offset, None), None, Some(b"v"));
        }
        self.producer.send_batch(&builder.build(records)).await.unwrap().await.unwrap();
    }

    /// Takes what the group gives, and answers.
    pub(super) fn take_given(&mut self) {
        let given = self.next(true);
        self.fetch.take_assignment(given);
    }

    /// Orders that partitions of `t` begin at these places.
    pub(super) fn order(&mut self, places: &[(i32, Place)]) {
        for (partition, place) in places {
            self.generation += 1;
            let order = StartOrder { place: *place, generation: self.generation };
            self.orders.lock().starts.insert(TopicPartition::new("t", *partition), order);
        }
    }

    /// What the thread says until `is_enough` of it.
    pub(super) fn hear(&mut self, mut is_enough: impl FnMut(&[Said]) -> bool) -> Vec<Said> {
        let deadline = self.deadline();
        let mut heard = Vec::new();
        while !is_enough(&heard) {
            if self.fetch.spec.clock.monotonic() > deadline {
                self.give_up("what was awaited was not said");
            }
            self.fetch.round();
            while let Ok(said) = self.said.try_recv() {
                heard.push(said);
            }
        }
        heard
    }

    fn deadline(&self) -> Duration {
        self.fetch.spec.clock.monotonic() + PATIENCE
    }

    /// What is given or taken next.
    pub(super) fn next(&self, is_given: bool) -> Vec<TopicPartition> {
        let deadline = self.deadline();
        loop {
            match self.fetch.spec.handle.poll(Duration::from_millis(100)) {
                Some(Polled::Assign(partitions)) if is_given => return partitions,
                Some(Polled::Revoke(partitions)) if !is_given => return partitions,
                _ if self.fetch.spec.clock.monotonic() < deadline => {}
                _ => self.give_up("nothing was given or taken"),
            }
        }
    }

    /// The one thing that was said is an error that ends the task.
    pub(super) fn assert_failed(&mut self, words: &str) {
        self.fetch.send();
        let Ok(Said::Told(Event::Error(error))) = self.said.try_recv() else { panic!("no error was said") };
        assert_eq!(error.kind(), Kind::Fatal, "{error}");
        assert!(error.message().contains(words), "{error}");
        assert!(error.message().contains("restart the task"), "{error}");
        assert!(self.said.try_recv().is_err(), "more than the error was said");
        assert!(self.orders.lock().owned.is_empty());
    }

    /// The client awaits no answer: with one outstanding it takes nothing away where what is wanted changes.
    pub(super) fn assert_answered(&self) {
        self.fetch.spec.handle.subscribe(&["u".to_owned()]).unwrap();
        assert_eq!(self.next(false), [TopicPartition::new("t", 0)]);
    }

    /// Nor does it here: with one outstanding it never closes.
    pub(super) fn assert_closes(&self) {
        let handle = &self.fetch.spec.handle;
        handle.begin_close().unwrap();
        let deadline = self.deadline();
        while !handle.is_closed() {
            handle.poll(Duration::from_millis(100));
            if self.fetch.spec.clock.monotonic() > deadline {
                self.give_up("the client does not close");
            }
        }
    }

    /// The client lives on: where it awaits an answer, its destruction does, too.
    pub(super) fn give_up(&self, why: &str) -> ! {
        std::mem::forget(Arc::clone(&self.fetch.spec.handle));
        panic!("{why}");
    }
}
