//! The clients against librdkafka's embedded cluster: what needs no real broker. What the embedded one cannot do
//! (transactions, two members, retention, configs) stands in the integration tests.

use std::time::Duration;

use bytes::Bytes;
use lakeferry_api::batch::NO_TIMESTAMP;
use lakeferry_api::{BatchBuilder, Budget, Clock, EpochMark, Kind};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::clients::KafkaClients;
use super::*;
use crate::clock::SystemClock;

mod producing;

const BUDGET_BYTES: u64 = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

/// An embedded cluster and clients for it.
struct Embedded {
    cluster: MockCluster<'static, DefaultProducerContext>,
    clients: KafkaClients,
    budget: Budget,
}

impl Embedded {
    fn start() -> Self {
        Self::with_budget(BUDGET_BYTES)
    }

    fn with_budget(bytes: u64) -> Self {
        let budget = Budget::new(bytes);
        let clients = KafkaClients::new(budget.clone(), clock());
        Self { cluster: MockCluster::new(1).unwrap(), clients, budget }
    }

    fn topic(&self, name: &str, partitions: i32) {
        self.cluster.create_topic(name, partitions, 1).unwrap();
    }

    fn properties(&self, more: &[(&str, &str)]) -> Config {
        let own = [("bootstrap.servers", self.cluster.bootstrap_servers())];
        let own = own.into_iter().map(|(key, value)| (key.to_owned(), value));
        own.chain(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))).collect()
    }

    fn producer(&self) -> Arc<dyn Producer> {
        self.clients.producer(&self.properties(&[])).unwrap()
    }

    fn consumer(&self, group: &str, subscription: Subscription) -> Box<dyn Consumer> {
        self.clients.consumer(&self.properties(&[("group.id", group)]), &subscription).unwrap()
    }

    async fn fill(&self, topic: &str, partition: i32, values: std::ops::Range<i32>) {
        let mut builder = BatchBuilder::new(TopicPartition::new(topic, partition), 0);
        for value in values {
            let stamp = (1_700_000_000_000 + i64::from(value), None);
            builder.push(i64::from(value), stamp, None, Some(value.to_string().as_bytes()));
        }
        let next = builder.last_offset().map_or(0, |last| last + 1);
        self.producer().send_batch(&builder.build(next)).await.unwrap().await.unwrap();
    }
}

fn topics(names: &[&str]) -> Subscription {
    Subscription::Topics(names.iter().map(|name| (*name).to_owned()).collect())
}

async fn next(consumer: &mut dyn Consumer) -> Event {
    tokio::time::timeout(PATIENCE, consumer.next()).await.expect("an event in time")
}

async fn assigned(consumer: &mut dyn Consumer) -> Vec<TopicPartition> {
    loop {
        match next(consumer).await {
            Event::Assigned(partitions) => return partitions,
            Event::Error(error) | Event::Missing(_, error) if error.is_retriable() => {}
            other => panic!("{other:?} before the assignment"),
        }
    }
}

/// The batches up to position `until` of one partition.
async fn read_until(consumer: &mut dyn Consumer, until: i64) -> Vec<Batch> {
    let mut read: Vec<Batch> = Vec::new();
    while read.last().is_none_or(|batch| batch.next_offset() < until) {
        match next(consumer).await {
            Event::Batches(batches) => read.extend(batches),
            Event::Error(error) | Event::Missing(_, error) if error.is_retriable() => {}
            other => panic!("{other:?} among the batches"),
        }
    }
    read
}

fn offsets(batches: &[Batch]) -> Vec<i64> {
    batches.iter().flat_map(|batch| batch.offsets().to_vec()).collect()
}

fn assert_touching(batches: &[Batch]) {
    for pair in batches.windows(2) {
        assert_eq!(pair[0].next_offset(), pair[1].base_offset(), "a batch begins where the one before it ends");
    }
}

#[tokio::test]
async fn what_goes_in_comes_out_byte_for_byte() {
    let embedded = Embedded::start();
    embedded.topic("t", 2);
    let place = TopicPartition::new("t", 1);
    let mut builder = BatchBuilder::new(place.clone(), 0);
    builder.push(0, (1, None), None, None);
    builder.push(1, (2, None), Some(b""), Some(b""));
    builder.header("a", Some(b"1"));
    builder.header("a", None);
    builder.header("", Some(b""));
    builder.header("\u{e4}", Some(&[0, 255]));
    builder.push(2, (1_700_000_000_000, None), Some(&[0, 1, 255]), Some(&[0; 3]));
    let sent = builder.build(3);
    embedded.producer().send_batch(&sent).await.unwrap().await.unwrap();

    let mut consumer = embedded.consumer("g", topics(&["t"]));
    let partitions = assigned(&mut *consumer).await;
    assert_eq!(partitions.len(), 2);
    consumer.start_at(&Places::from([(place.clone(), 0.into())]));
    let read = read_until(&mut *consumer, 3).await;
    let shown = |row: lakeferry_api::Row<'_>| {
        let headers: Vec<_> = row.headers().map(|(key, value)| (key.to_owned(), value.map(<[u8]>::to_vec))).collect();
        (row.timestamp(), row.key().map(<[u8]>::to_vec), row.value().map(<[u8]>::to_vec), headers)
    };
    let came: Vec<_> = read.iter().flat_map(|batch| batch.rows().map(shown).collect::<Vec<_>>()).collect();
    assert_eq!(came, sent.rows().map(shown).collect::<Vec<_>>());
    assert!(read.iter().all(|batch| *batch.partition() == place));
    assert_touching(&read);
    consumer.close().await;
}

#[tokio::test]
async fn a_seek_leaves_nothing_of_the_old_place_behind() {
    let embedded = Embedded::start();
    embedded.topic("t", 1);
    embedded.fill("t", 0, 0..2_000).await;
    let place = TopicPartition::new("t", 0);
    let mut consumer = embedded.consumer("g", topics(&["t"]));
    assigned(&mut *consumer).await;
    consumer.start_at(&Places::from([(place.clone(), 100.into())]));
    for round in 0..20 {
        let first = read_until(&mut *consumer, 101).await;
        let wanted = if round == 0 { 100 } else { round * 7 };
        assert_eq!((first[0].base_offset(), first[0].offsets()[0]), (wanted, wanted), "round {round}");
        assert_touching(&first);
        let target = (round + 1) * 7;
        consumer.seek(&place, target.into());
    }
    let all = read_until(&mut *consumer, 2_000).await;
    assert_eq!(offsets(&all), (140..2_000).collect::<Vec<_>>());
    assert_touching(&all);
    consumer.close().await;
}

#[tokio::test]
async fn a_paused_partition_gives_nothing_and_goes_on_where_it_was() {
    let embedded = Embedded::start();
    embedded.topic("t", 1);
    embedded.fill("t", 0, 0..10).await;
    let place = TopicPartition::new("t", 0);
    let mut consumer = embedded.consumer("g", topics(&["t"]));
    assigned(&mut *consumer).await;
    consumer.start_at(&Places::from([(place.clone(), 0.into())]));
    assert_eq!(offsets(&read_until(&mut *consumer, 10).await).len(), 10);
    consumer.pause(std::slice::from_ref(&place));
    embedded.fill("t", 0, 10..20).await;
    // Whatever was under way when it was paused may come; after that it is quiet.
    let quiet = tokio::time::timeout(Duration::from_secs(2), consumer.next());
    let early = match quiet.await {
        Err(_) => Vec::new(),
        Ok(Event::Batches(batches)) => batches,
        Ok(other) => panic!("{other:?}"),
    };
    consumer.resume(std::slice::from_ref(&place));
    let mut all = early;
    if all.last().is_none_or(|batch| batch.next_offset() < 20) {
        all.extend(read_until(&mut *consumer, 20).await);
    }
    assert_eq!(offsets(&all), (10..20).collect::<Vec<_>>());
    consumer.close().await;
}

#[tokio::test]
async fn a_slow_loop_loses_nothing_and_the_budget_is_given_back() {
    let embedded = Embedded::with_budget(1 << 20);
    embedded.topic("t", 2);
    for partition in 0..2 {
        embedded.fill("t", partition, 0..20_000).await;
    }
    let mut consumer = embedded.consumer("g", topics(&["t"]));
    let partitions = assigned(&mut *consumer).await;
    consumer.start_at(&partitions.iter().map(|partition| (partition.clone(), 0.into())).collect());
    // Longer than the consumer waits before it pauses; holding what came keeps the budget taken.
    let mut held = vec![next(&mut *consumer).await];
    let all_of_it = embedded.budget.take(1 << 20);
    clock().sleep(Duration::from_secs(2)).await;
    drop(all_of_it);
    let mut seen: BTreeMap<TopicPartition, i64> = BTreeMap::new();
    while seen.len() < 2 || seen.values().any(|position| *position < 20_000) {
        let event = if held.is_empty() { next(&mut *consumer).await } else { held.remove(0) };
        let Event::Batches(batches) = event else { panic!("{event:?}") };
        for batch in batches {
            let position = seen.entry(batch.partition().clone()).or_insert(0);
            assert_eq!(batch.base_offset(), *position);
            assert!(batch.offsets().iter().copied().eq(*position..batch.next_offset()));
            *position = batch.next_offset();
        }
    }
    consumer.close().await;
    assert_eq!(embedded.budget.used(), 0);
}

#[tokio::test]
async fn what_was_handed_on_takes_no_memory_though_nothing_more_is_read() {
    // Less than what one look at the client collects: the budget is exhausted each time until the batches are gone.
    let embedded = Embedded::with_budget(1 << 16);
    embedded.topic("t", 1);
    embedded.fill("t", 0, 0..20_000).await;
    let mut consumer = embedded.consumer("g", topics(&["t"]));
    let partitions = assigned(&mut *consumer).await;
    consumer.start_at(&Places::from([(partitions[0].clone(), 0.into())]));
    let mut position = 0;
    while position < 20_000 {
        let Event::Batches(batches) = next(&mut *consumer).await else { continue };
        position = batches.last().map_or(position, Batch::next_offset);
    }
    consumer.close().await;
    assert_eq!(embedded.budget.used(), 0);
}

#[tokio::test]
async fn offsets_are_committed_and_found_again() {
    let embedded = Embedded::start();
    embedded.topic("t", 2);
    let mut consumer = embedded.consumer("g", topics(&["t"]));
    let partitions = assigned(&mut *consumer).await;
    let group = consumer.group();
    assert_eq!(group.committed(&partitions).await.unwrap(), Positions::new());
    let positions = Positions::from([(partitions[0].clone(), 7)]);
    group.commit(&positions).await.unwrap();
    assert_eq!(group.committed(&partitions).await.unwrap(), positions);
    let error = group.commit(&Positions::from([(TopicPartition::new("other", 0), 1)])).await.expect_err("not ours");
    assert_eq!(error.kind(), Kind::Fenced);
    consumer.close().await;
    let error = group.commit(&positions).await.expect_err("closed");
    assert_eq!(error.kind(), Kind::Fenced);
}

#[tokio::test]
async fn a_position_that_the_log_does_not_have_is_told_and_can_be_left() {
    let embedded = Embedded::start();
    embedded.topic("t", 1);
    embedded.fill("t", 0, 0..10).await;
    let place = TopicPartition::new("t", 0);
    let mut consumer = embedded.consumer("g", topics(&["t"]));
    assigned(&mut *consumer).await;
    consumer.start_at(&Places::from([(place.clone(), 500.into())]));
    loop {
        match next(&mut *consumer).await {
            Event::OutOfRange(partition) => break assert_eq!(partition, place),
            Event::Error(error) | Event::Missing(_, error) if error.is_retriable() => {}
            other => panic!("{other:?}"),
        }
    }
    consumer.start_at(&Places::from([(place.clone(), 4.into())]));
    assert_eq!(offsets(&read_until(&mut *consumer, 10).await), (4..10).collect::<Vec<_>>());
    consumer.close().await;
}

#[tokio::test]
async fn a_log_whose_epoch_ends_below_the_mark_is_told_with_the_divergence() {
    let embedded = Embedded::start();
    embedded.topic("t", 1);
    embedded.fill("t", 0, 0..10).await;
    let place = TopicPartition::new("t", 0);
    let mut consumer = embedded.consumer("g", topics(&["t"]));
    assigned(&mut *consumer).await;
    let at = |offset, upto| {
        Places::from([(place.clone(), Place { offset, mark: Some(EpochMark { leader_epoch: 0, upto }) })])
    };
    // Twice: the client gives the partition up, and what begins it anew must ask the broker once more.
    for _ in 0..2 {
        consumer.start_at(&at(15, 12));
        loop {
            match next(&mut *consumer).await {
                Event::Truncated(partition, divergence) => {
                    break assert_eq!((partition, divergence), (place.clone(), 10));
                }
                Event::Error(error) if error.is_retriable() => {}
                other => panic!("{other:?}"),
            }
        }
    }
    // A mark that holds is read on from.
    consumer.start_at(&at(8, 8));
    assert_eq!(offsets(&read_until(&mut *consumer, 10).await), (8..10).collect::<Vec<_>>());
    consumer.close().await;
}

#[tokio::test]
async fn a_record_between_the_mark_and_the_place_tells_where_the_log_parted() {
    let embedded = Embedded::start();
    embedded.topic("t", 1);
    embedded.fill("t", 0, 0..10).await;
    let place = TopicPartition::new("t", 0);
    let mut consumer = embedded.consumer("g", topics(&["t"]));
    assigned(&mut *consumer).await;
    let at = |upto| Place { offset: 6, mark: Some(EpochMark { leader_epoch: 0, upto }) };
    for upto in [4, 5] {
        consumer.seek(&place, at(upto));
        loop {
            match next(&mut *consumer).await {
                Event::Truncated(partition, divergence) => {
                    break assert_eq!((partition, divergence), (place.clone(), upto));
                }
                Event::Error(error) if error.is_retriable() => {}
                other => panic!("{other:?}"),
            }
        }
    }
    consumer.seek(&place, at(6));
    assert_eq!(offsets(&read_until(&mut *consumer, 10).await), (6..10).collect::<Vec<_>>());
    consumer.close().await;
}

#[tokio::test]
async fn a_pattern_subscribes_to_what_matches() {
    let embedded = Embedded::start();
    embedded.topic("orders-1", 1);
    embedded.topic("reorders-1", 1);
    let mut consumer = embedded.consumer("g", Subscription::Pattern(r"orders-\d+".to_owned()));
    assert_eq!(assigned(&mut *consumer).await, [TopicPartition::new("orders-1", 0)]);
    consumer.close().await;
}

#[tokio::test]
async fn an_unreachable_broker_is_retriable_and_is_named() {
    let clients = KafkaClients::new(Budget::new(BUDGET_BYTES), clock());
    let properties = Config::from([
        ("bootstrap.servers".to_owned(), "127.0.0.1:1".to_owned()),
        ("group.id".to_owned(), "g".to_owned()),
        ("default.api.timeout.ms".to_owned(), "3000".to_owned()),
    ]);
    let mut consumer = clients.consumer(&properties, &topics(&["t"])).unwrap();
    let Event::Error(error) = next(&mut *consumer).await else { panic!("no error") };
    assert!(error.is_retriable(), "{}", error.trace());
    assert!(error.message().contains("127.0.0.1:1") || error.message().contains("brokers are down"), "{error}");
    consumer.close().await;
    let admin = clients.admin(&properties).unwrap();
    let partition = TopicPartition::new("t", 0);
    let (id, view, offsets, removed) = tokio::join!(
        admin.cluster_id(),
        admin.partition(&partition),
        admin.group_offsets("g"),
        admin.delete_group("g")
    );
    let errors = [id.err(), admin.topics().await.err(), view.err(), offsets.err(), removed.err()];
    for error in errors.map(|error| error.expect("no broker")) {
        assert!(error.is_retriable(), "{}", error.trace());
        assert!(error.message().contains("bootstrap.servers=127.0.0.1:1 ("), "{error}");
        assert!(error.message().contains("refused"), "{error}");
    }
}

#[tokio::test]
async fn a_host_that_has_no_address_is_named() {
    let clients = KafkaClients::new(Budget::new(BUDGET_BYTES), clock());
    let host = "kafka.invalid:9092";
    let properties = [("bootstrap.servers", host), ("default.api.timeout.ms", "1000")];
    let properties = properties.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let error = clients.admin(&Config::from(properties)).unwrap().cluster_id().await.expect_err("no broker");
    assert!(error.is_retriable() && error.message().contains(&format!("bootstrap.servers={host}")), "{error}");
}

#[tokio::test]
async fn an_embedded_cluster_answers_what_it_can() {
    let embedded = Embedded::start();
    embedded.topic("t", 3);
    embedded.fill("t", 1, 0..5).await;
    let admin = embedded.clients.admin(&embedded.properties(&[])).unwrap();
    assert!(!admin.cluster_id().await.unwrap().is_empty());
    assert_eq!(admin.topics().await.unwrap(), ["t"]);
    let view = admin.partition(&TopicPartition::new("t", 1)).await.unwrap();
    assert_eq!((view.log_start_offset, view.last_stable_offset, view.end_offset), (0, 5, Some(5)));
    assert_eq!(admin.topic("t").await.unwrap().partitions, 3);
    let target = admin.target_topic("t").await.unwrap().expect("exists");
    assert_eq!((target.partitions, target.offsets), (3, vec![(0, 0), (0, 5), (0, 0)]));
}

#[tokio::test]
async fn a_reader_reads_its_stretches_and_ends() {
    let embedded = Embedded::start();
    embedded.topic("t", 3);
    embedded.fill("t", 0, 0..5_000).await;
    embedded.fill("t", 1, 0..10).await;
    let place = |partition| TopicPartition::new("t", partition);
    let stretches = reader::Stretches::from([(place(0), (100, 4_000)), (place(1), (0, 10)), (place(2), (0, 0))]);
    let mut reader = reader::open(&embedded.properties(&[]), stretches, clock()).unwrap();
    let mut read: BTreeMap<i32, Vec<Batch>> = BTreeMap::new();
    while let Some(batch) = reader.next().await.unwrap() {
        read.entry(batch.partition().partition).or_default().push(batch);
    }
    assert_eq!(offsets(&read[&0]), (100..4_000).collect::<Vec<_>>());
    assert_eq!(offsets(&read[&1]), (0..10).collect::<Vec<_>>());
    assert_eq!(read.len(), 2);
    for (partition, end) in [(0, 4_000), (1, 10)] {
        assert_touching(&read[&partition]);
        assert_eq!(read[&partition].last().map(Batch::next_offset), Some(end));
    }
    let beyond = reader::Stretches::from([(place(1), (50, 60))]);
    let error = reader::open(&embedded.properties(&[]), beyond, clock()).unwrap().next().await.expect_err("not there");
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.message().contains("50") && error.message().contains("t-1"), "{error}");
}

#[tokio::test]
async fn every_missing_topic_is_named_once() {
    let embedded = Embedded::start();
    embedded.topic("t", 1);
    let mut consumer = embedded.consumer("g", topics(&["no-a", "no-b", "t"]));
    let mut missing = std::collections::BTreeSet::from(["no-a", "no-b"]);
    while !missing.is_empty() {
        match next(&mut *consumer).await {
            Event::Missing(topic, error) if error.message().contains(&topic) => drop(missing.remove(&*topic)),
            Event::Error(error) if error.is_retriable() => {}
            Event::Assigned(_) => {}
            other => panic!("{other:?} while {missing:?} are not named"),
        }
    }
    consumer.close().await;
}

#[tokio::test]
async fn a_header_key_that_is_not_utf8_is_an_error_that_names_the_record() {
    let embedded = Embedded::start();
    embedded.topic("t", 1);
    embedded.fill("t", 0, 0..3).await;
    let settings = security::client_config(&embedded.properties(&[]), ffi::Role::Producer).unwrap();
    let raw = ffi::Producer::<()>::new(ffi::Handle::open(ffi::Role::Producer, &settings).unwrap());
    let record = ffi::Outgoing { topic: "t", partition: Some(0), timestamp: 1, key: None, value: None };
    let headers: [(&[u8], Option<&[u8]>); 2] = [(b"good", None), (&[0xff, b'x'], Some(b"v"))];
    raw.send(&record, headers.into_iter(), Arc::new(ffi::Token::keeping(Bytes::new(), ()))).unwrap();
    let mut delivered = None;
    while delivered.is_none() {
        raw.poll(PATIENCE, |_, result| delivered = Some(result), |_| {});
    }
    assert_eq!(delivered, Some(Ok((0, 3))));
    embedded.fill("t", 0, 4..6).await;

    let place = TopicPartition::new("t", 0);
    let mut consumer = embedded.consumer("g", topics(&["t"]));
    assigned(&mut *consumer).await;
    consumer.start_at(&Places::from([(place.clone(), 0.into())]));
    assert_eq!(offsets(&read_until(&mut *consumer, 3).await), [0, 1, 2]);
    let Event::Unreadable(unread, 3, error) = next(&mut *consumer).await else { panic!("it is not told") };
    assert_eq!((&unread, error.kind()), (&place, Kind::Data));
    assert!(error.message().contains("offset 3 of t-0"), "{error}");
    // Nothing behind it comes until somebody says how to go on.
    consumer.start_at(&Places::from([(place, 4.into())]));
    assert_eq!(offsets(&read_until(&mut *consumer, 6).await), [4, 5]);
    consumer.close().await;
}

#[tokio::test]
async fn records_without_bytes_are_paid_all_the_same() {
    let embedded = Embedded::start();
    embedded.topic("t", 1);
    let mut builder = BatchBuilder::new(TopicPartition::new("t", 0), 0);
    for offset in 0..2_000 {
        builder.push(offset, (1 + offset, None), None, None);
    }
    embedded.producer().send_batch(&builder.build(2_000)).await.unwrap().await.unwrap();
    let mut consumer = embedded.consumer("g", topics(&["t"]));
    let places = assigned(&mut *consumer).await.into_iter().map(|partition| (partition, 0.into()));
    consumer.start_at(&places.collect());
    let before = embedded.budget.used();
    let tombstones = read_until(&mut *consumer, 2_000).await;
    assert!(embedded.budget.used() >= before + 48 * 2_000, "{} and {before}", embedded.budget.used());
    consumer.close().await;
    drop((tombstones, consumer));
    assert_eq!(embedded.budget.used(), 0);
}
