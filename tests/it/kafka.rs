//! The Kafka clients against a real broker: what librdkafka's embedded cluster cannot show (transactions, several
//! members, retention, configs, ids, logins, a broker that goes away).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lakeferry::clock::SystemClock;
use lakeferry::kafka::clients::KafkaClients;
use lakeferry::kafka::{Admin, Clients, Consumer, Event, Subscription, reader};
use lakeferry_api::source::NewTopic;
use lakeferry_api::{
    Batch, BatchBuilder, Budget, Clock, Config, Kind, Places, Positions, TimestampType, TopicPartition,
};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::kit::kafka::{SASL_PASSWORD, SASL_USER};
use crate::kit::{self, Kafka, KafkaOptions};

mod admin;
mod members;
mod producing;

const PATIENCE: Duration = Duration::from_secs(60);

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

fn clients() -> KafkaClients {
    KafkaClients::new(Budget::new(256 << 20), clock())
}

fn properties(bootstrap: &str, more: &[(&str, &str)]) -> Config {
    let all = [("bootstrap.servers", bootstrap)].into_iter().chain(more.iter().copied());
    all.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn member(bootstrap: &str, group: &str, topic: &str, more: &[(&str, &str)]) -> Box<dyn Consumer> {
    let mut properties = properties(bootstrap, more);
    properties.insert("group.id".to_owned(), group.to_owned());
    clients().consumer(&properties, &Subscription::Topics(vec![topic.to_owned()])).unwrap()
}

pub(crate) fn admin(bootstrap: &str) -> Arc<dyn Admin> {
    clients().admin(&properties(bootstrap, &[])).unwrap()
}

fn place(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

async fn next(consumer: &mut dyn Consumer) -> Event {
    tokio::time::timeout(PATIENCE, consumer.next()).await.expect("an event in time")
}

/// The next event that is no passing trouble.
async fn news(consumer: &mut dyn Consumer) -> Event {
    loop {
        match next(consumer).await {
            Event::Error(error) | Event::Missing(_, error) if error.is_retriable() => {}
            event => return event,
        }
    }
}

async fn assigned(consumer: &mut dyn Consumer) -> Vec<TopicPartition> {
    match news(consumer).await {
        Event::Assigned(partitions) => partitions,
        other => panic!("{other:?} before the assignment"),
    }
}

/// The batches of the one partition that is read, up to position `until`.
async fn read_until(consumer: &mut dyn Consumer, until: i64) -> Vec<Batch> {
    let mut read: Vec<Batch> = Vec::new();
    while read.last().is_none_or(|batch| batch.next_offset() < until) {
        match news(consumer).await {
            Event::Batches(batches) => read.extend(batches),
            other => panic!("{other:?} among the batches"),
        }
    }
    for pair in read.windows(2) {
        assert_eq!(pair[0].next_offset(), pair[1].base_offset(), "batches touch");
    }
    read
}

fn offsets(batches: &[Batch]) -> Vec<i64> {
    batches.iter().flat_map(|batch| batch.offsets().to_vec()).collect()
}

/// A topic whose records the broker keeps however old their timestamps are.
fn create(kafka: &Kafka, topic: &str, partitions: usize, configs: &[(&str, &str)]) {
    let configs: Vec<_> = [("retention.ms", "-1")].into_iter().chain(configs.iter().copied()).collect();
    kafka.create_topic(topic, partitions, &configs).unwrap();
}

async fn fill(bootstrap: &str, partition: &TopicPartition, offsets: std::ops::Range<i64>) {
    let mut builder = BatchBuilder::new(partition.clone(), offsets.start);
    for offset in offsets.clone() {
        builder.push(offset, (1_700_000_000_000 + offset, None), None, Some(offset.to_string().as_bytes()));
    }
    let producer = clients().producer(&properties(bootstrap, &[])).unwrap();
    producer.send_batch(&builder.build(offsets.end)).await.unwrap().await.unwrap();
}

async fn read_all(bootstrap: &str, partition: &TopicPartition, (from, to): (i64, i64)) -> Vec<Batch> {
    let stretches = reader::Stretches::from([(partition.clone(), (from, to))]);
    let mut reader = reader::open(&properties(bootstrap, &[]), stretches, clock()).unwrap();
    let mut read = Vec::new();
    while let Some(batch) = reader.next().await.unwrap() {
        read.push(batch);
    }
    read
}

type Shown = (Option<i64>, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>);

fn shown(batches: &[Batch]) -> Vec<Shown> {
    let row = |row: lakeferry_api::Row<'_>| {
        let headers = row.headers().map(|(key, value)| (key.to_owned(), value.map(<[u8]>::to_vec))).collect();
        (row.timestamp(), row.key().map(<[u8]>::to_vec), row.value().map(<[u8]>::to_vec), headers)
    };
    batches.iter().flat_map(|batch| batch.rows().map(row).collect::<Vec<_>>()).collect()
}

#[tokio::test]
async fn every_byte_survives_the_broker() {
    let kafka = kit::need!(kit::kafka());
    create(kafka, "k-bytes", 1, &[]);
    create(kafka, "k-appended", 1, &[("message.timestamp.type", "LogAppendTime")]);
    let large = vec![0x5a_u8; 1 << 20];
    for topic in ["k-bytes", "k-appended"] {
        let mut builder = BatchBuilder::new(place(topic, 0), 0);
        builder.push(0, (1_356_998_400_000, None), None, None);
        builder.push(1, (1, None), Some(b""), Some(b""));
        builder.header("dup", Some(b"1"));
        builder.header("dup", None);
        builder.header("dup", Some(b""));
        builder.header("", Some(&[0, 159]));
        builder.push(2, (253_402_300_799_999, None), Some(&[0, 255]), Some(&large[..900_000]));
        builder.header("large", Some(&large[..50_000]));
        let sent = builder.build(3);
        let producer = clients().producer(&properties(&kafka.bootstrap(), &[])).unwrap();
        if topic == "k-appended" {
            producer.send_batch(&sent.slice(0..2)).await.unwrap().await.unwrap();
            let came = read_all(&kafka.bootstrap(), &place(topic, 0), (0, 2)).await;
            assert!(came.iter().flat_map(Batch::rows).all(|row| row.timestamp_type() == Some(TimestampType::Append)));
            assert!(came.iter().flat_map(Batch::rows).all(|row| row.timestamp() > Some(1_700_000_000_000)));
            continue;
        }
        // A broker refuses timestamps that are far ahead of its clock by default.
        let error = producer.send_batch(&sent).await.unwrap().await.expect_err("refused");
        assert_eq!(error.kind(), Kind::Data, "{}", error.trace());
        let wide = BTreeMap::from([("message.timestamp.after.max.ms".to_owned(), Some(i64::MAX.to_string()))]);
        admin(&kafka.bootstrap()).alter_topic_configs(topic, &wide).await.unwrap();
        let before = kafka.offsets(topic, 0).unwrap().1;
        clients()
            .producer(&properties(&kafka.bootstrap(), &[]))
            .unwrap()
            .send_batch(&sent)
            .await
            .unwrap()
            .await
            .unwrap();
        let came = read_all(&kafka.bootstrap(), &place(topic, 0), (before, before + 3)).await;
        assert_eq!(shown(&came), shown(&[sent]));
        assert!(came.iter().flat_map(Batch::rows).all(|row| row.timestamp_type() == Some(TimestampType::Create)));
        assert!(came.iter().all(|batch| batch.leader_epoch().is_some()));
    }
}

#[tokio::test]
async fn records_of_eight_mebibytes_pass() {
    let kafka = kit::need!(kit::kafka());
    create(kafka, "k-large", 1, &[("max.message.bytes", "20000000")]);
    let values: Vec<Vec<u8>> =
        (0..4_u8).map(|n| (0..8 << 20).map(|at: u32| (at as u8).wrapping_mul(n)).collect()).collect();
    let mut builder = BatchBuilder::new(place("k-large", 0), 0);
    for (offset, value) in values.iter().enumerate() {
        builder.push(offset as i64, (1_700_000_000_000, None), None, Some(value));
    }
    let producer = clients().producer(&properties(&kafka.bootstrap(), &[])).unwrap();
    producer.send_batch(&builder.build(4)).await.unwrap().await.unwrap();
    let mut consumer = member(&kafka.bootstrap(), "k-large", "k-large", &[]);
    let partitions = assigned(&mut *consumer).await;
    consumer.start_at(&Places::from([(partitions[0].clone(), 0.into())]));
    let read = read_until(&mut *consumer, 4).await;
    let came: Vec<_> = read.iter().flat_map(Batch::rows).map(|row| row.value().unwrap().to_vec()).collect();
    assert_eq!(came.iter().map(Vec::len).collect::<Vec<_>>(), [8 << 20; 4]);
    assert!(came == values);
    consumer.close().await;

    create(kafka, "k-small", 1, &[("max.message.bytes", "1000")]);
    let mut builder = BatchBuilder::new(place("k-small", 0), 0);
    builder.push(0, (1, None), None, Some(&values[1][..100_000]));
    let error = producer.send_batch(&builder.build(1)).await.unwrap().await.expect_err("too large");
    assert_eq!(error.kind(), Kind::Data, "{}", error.trace());
    assert!(error.message().contains("max.message.bytes"), "{error}");
}

/// A client that looks for the log's end on assignment may jump there after the start was said.
#[tokio::test]
async fn a_start_is_kept_however_soon_it_is_said() {
    let kafka = kit::need!(kit::kafka());
    create(kafka, "k-start", 8, &[]);
    let bootstrap = kafka.bootstrap();
    let partitions: Vec<_> = (0..8).map(|partition| place("k-start", partition)).collect();
    for partition in &partitions {
        fill(&bootstrap, partition, 0..50).await;
    }
    for round in 0..8 {
        let mut consumer = member(&bootstrap, &format!("k-start-{round}"), "k-start", &[]);
        let mut got = assigned(&mut *consumer).await;
        got.sort();
        assert_eq!(got, partitions);
        consumer.start_at(&partitions.iter().map(|partition| (partition.clone(), 3.into())).collect());
        let mut positions: Positions = partitions.iter().map(|partition| (partition.clone(), 3)).collect();
        let until = tokio::time::Instant::now() + Duration::from_millis(1_200);
        // Longer than the half second after which the client would ask again.
        while tokio::time::Instant::now() < until || positions.values().any(|position| *position < 50) {
            let Ok(event) = tokio::time::timeout(Duration::from_millis(100), consumer.next()).await else { continue };
            let Event::Batches(batches) = event else { panic!("{event:?}") };
            for batch in batches {
                let position = positions.get_mut(batch.partition()).unwrap();
                assert_eq!(batch.base_offset(), *position);
                assert!(batch.offsets().iter().copied().eq(*position..batch.next_offset()), "{batch:?}");
                *position = batch.next_offset();
            }
        }
        consumer.close().await;
    }
}

/// Commits or aborts transactions of `records` each on one partition.
fn transactions(bootstrap: &str, topic: &str, plan: &[(usize, bool)]) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("transactional.id", format!("tx-{topic}"))
        .create()
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    for (records, commit) in plan {
        producer.begin_transaction().unwrap();
        for n in 0..*records {
            let value = format!("{commit} {n}");
            producer
                .send(BaseRecord::<(), _>::to(topic).partition(0).payload(&value))
                .map_err(|(error, _)| error)
                .unwrap();
        }
        producer.flush(PATIENCE).unwrap();
        if *commit { producer.commit_transaction(PATIENCE) } else { producer.abort_transaction(PATIENCE) }.unwrap();
    }
}

#[tokio::test]
async fn positions_pass_control_records_and_aborted_data() {
    let kafka = kit::need!(kit::kafka());
    create(kafka, "k-tx", 1, &[]);
    let bootstrap = kafka.bootstrap();
    let produce = bootstrap.clone();
    let plan = [(3, true), (2, false), (2, true), (4, false)];
    tokio::task::spawn_blocking(move || transactions(&produce, "k-tx", &plan)).await.unwrap();
    // 3 + marker, 2 aborted + marker, 2 + marker, 4 aborted + marker.
    let view = admin(&bootstrap).partition(&place("k-tx", 0)).await.unwrap();
    assert_eq!((view.log_start_offset, view.last_stable_offset, view.end_offset), (0, 15, Some(15)));
    let mut consumer = member(&bootstrap, "k-tx", "k-tx", &[]);
    assigned(&mut *consumer).await;
    consumer.start_at(&Places::from([(place("k-tx", 0), 0.into())]));
    let read = read_until(&mut *consumer, 15).await;
    assert_eq!(offsets(&read), [0, 1, 2, 7, 8]);
    assert_eq!(read[0].base_offset(), 0);
    assert_eq!(read.last().unwrap().next_offset(), 15);
    // A transaction that is open holds the position back.
    let open: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &bootstrap)
        .set("transactional.id", "tx-k-tx-open")
        .create()
        .unwrap();
    open.init_transactions(PATIENCE).unwrap();
    open.begin_transaction().unwrap();
    open.send(BaseRecord::<(), _>::to("k-tx").partition(0).payload("open")).map_err(|(error, _)| error).unwrap();
    open.flush(PATIENCE).unwrap();
    let view = admin(&bootstrap).partition(&place("k-tx", 0)).await.unwrap();
    assert_eq!((view.last_stable_offset, view.end_offset), (15, Some(16)));
    open.commit_transaction(PATIENCE).unwrap();
    let rest = read_until(&mut *consumer, 17).await;
    assert_eq!((rest[0].base_offset(), offsets(&rest)), (15, vec![15]));
    consumer.close().await;
}

#[tokio::test]
async fn a_transaction_that_the_broker_ended_for_its_age_is_not_only_laid_to_another() {
    let kafka = kit::need!(kit::kafka());
    create(kafka, "k-tx-old", 1, &[]);
    let bootstrap = kafka.bootstrap();
    let settings = properties(&bootstrap, &[("transactional.id", "tx-k-old"), ("transaction.timeout.ms", "4000")]);
    let open = async || {
        let producer = clients().producer(&settings).unwrap();
        producer.init_transactions().await.unwrap();
        producer.begin_transaction().await.unwrap();
        let mut builder = BatchBuilder::new(place("k-tx-old", 0), 0);
        builder.push(0, (1_700_000_000_000, None), None, Some(b"old"));
        producer.send_batch(&builder.build(1)).await.unwrap().await.unwrap();
        producer
    };
    let old = open().await;
    // The record, and the marker of the broker.
    let ended = || (kafka.offsets("k-tx-old", 0).unwrap().1 == 2).then_some(());
    kit::poll_until(PATIENCE, ended).expect("the broker ends it");
    let error = old.commit_transaction().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Fenced);
    for words in ["stood still for longer than transaction.timeout.ms=4000", "another instance has taken it over"] {
        assert!(error.message().contains(words), "{error}");
    }
    // Whoever begins anew is well.
    open().await.commit_transaction().await.unwrap();
    assert_eq!(offsets(&read_all(&bootstrap, &place("k-tx-old", 0), (0, 4)).await), [2]);
}

#[tokio::test]
async fn a_start_that_retention_overtook_is_out_of_range() {
    let kafka = kit::need!(kit::kafka());
    create(kafka, "k-range", 2, &[]);
    let bootstrap = kafka.bootstrap();
    for partition in 0..2 {
        fill(&bootstrap, &place("k-range", partition), 0..100).await;
    }
    kafka.delete_records("k-range", 0, 40).unwrap();
    for more in [&[][..], &[("partition.assignment.strategy", "range")]] {
        let group = format!("k-range-{}", more.len());
        let mut consumer = member(&bootstrap, &group, "k-range", more);
        assigned(&mut *consumer).await;
        consumer.start_at(&Places::from([(place("k-range", 0), 7.into()), (place("k-range", 1), 30.into())]));
        let (mut out, mut other) = (false, 30);
        while !out || other < 100 {
            match news(&mut *consumer).await {
                Event::OutOfRange(partition) => {
                    assert_eq!(partition, place("k-range", 0));
                    out = true;
                }
                Event::Batches(batches) => {
                    for batch in batches {
                        assert_eq!((batch.partition(), batch.base_offset()), (&place("k-range", 1), other));
                        other = batch.next_offset();
                    }
                }
                event => panic!("{event:?}"),
            }
        }
        let view = admin(&bootstrap).partition(&place("k-range", 0)).await.unwrap();
        assert_eq!((view.log_start_offset, view.end_offset), (40, Some(100)));
        consumer.start_at(&Places::from([(place("k-range", 0), view.log_start_offset.into())]));
        assert_eq!(offsets(&read_until(&mut *consumer, 100).await), (40..100).collect::<Vec<_>>());
        // The other partition goes on where it was.
        let end = kafka.offsets("k-range", 1).unwrap().1;
        fill(&bootstrap, &place("k-range", 1), 0..5).await;
        let rest = read_until(&mut *consumer, end + 5).await;
        assert_eq!((rest[0].base_offset(), offsets(&rest).len()), (100.max(other), offsets(&rest).len()));
        consumer.close().await;
        kafka.delete_records("k-range", 1, 0).unwrap();
    }
}

#[tokio::test]
async fn a_wrong_password_is_a_config_error_everywhere() {
    let kafka = kit::need!(Kafka::start(KafkaOptions { sasl: true, ..KafkaOptions::default() }));
    create(&kafka, "k-sasl", 1, &[]);
    let login = |password: &str| {
        let jaas = format!(
            "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"{SASL_USER}\" \
             password=\"{password}\";"
        );
        let more = [
            ("security.protocol", "SASL_PLAINTEXT"),
            ("sasl.mechanism", "PLAIN"),
            ("sasl.jaas.config", jaas.as_str()),
            ("group.id", "k-sasl"),
        ];
        properties(&kafka.sasl_bootstrap(), &more)
    };
    let topics = Subscription::Topics(vec!["k-sasl".to_owned()]);
    let mut consumer = clients().consumer(&login(SASL_PASSWORD), &topics).unwrap();
    assert_eq!(assigned(&mut *consumer).await, [place("k-sasl", 0)]);
    consumer.close().await;
    let mut consumer = clients().consumer(&login("wrong"), &topics).unwrap();
    let Event::Error(error) = news(&mut *consumer).await else { panic!("no error") };
    assert_eq!(error.kind(), Kind::Config, "{}", error.trace());
    assert!(error.message().contains("sasl.jaas.config"), "{error}");
    consumer.close().await;
    let error = clients().admin(&login("wrong")).unwrap().topic("k-sasl").await.expect_err("refused");
    assert_eq!(error.kind(), Kind::Config, "{}", error.trace());
}

#[tokio::test]
async fn a_topic_that_comes_late_is_waited_for_by_name() {
    let kafka = kit::need!(kit::kafka());
    let quick = [("metadata.max.age.ms", "500")];
    let mut consumer = member(&kafka.bootstrap(), "k-later", "k-later", &quick);
    let Event::Missing(topic, error) = next(&mut *consumer).await else { panic!("it is not missed") };
    assert_eq!(topic, "k-later");
    assert!(error.is_retriable() && error.message().contains("k-later"), "{}", error.trace());
    create(kafka, "k-later", 1, &[]);
    assert_eq!(assigned(&mut *consumer).await, [place("k-later", 0)]);
    consumer.close().await;

    let pattern = Subscription::Pattern(r"k-pattern-\d".to_owned());
    let mut all = properties(&kafka.bootstrap(), &quick);
    all.insert("group.id".to_owned(), "k-pattern".to_owned());
    create(kafka, "k-pattern-1", 1, &[]);
    let mut consumer = clients().consumer(&all, &pattern).unwrap();
    assert_eq!(assigned(&mut *consumer).await, [place("k-pattern-1", 0)]);
    create(kafka, "k-pattern-2", 1, &[]);
    assert_eq!(assigned(&mut *consumer).await, [place("k-pattern-2", 0)]);
    consumer.close().await;
}

#[tokio::test]
async fn a_broker_that_goes_and_comes_costs_nothing() {
    let mut kafka = kit::need!(Kafka::start(KafkaOptions::default()));
    create(&kafka, "k-down", 1, &[]);
    let bootstrap = kafka.bootstrap();
    fill(&bootstrap, &place("k-down", 0), 0..1_000).await;
    let mut consumer = member(&bootstrap, "k-down", "k-down", &[("session.timeout.ms", "45000")]);
    assigned(&mut *consumer).await;
    consumer.start_at(&Places::from([(place("k-down", 0), 0.into())]));
    let read = read_until(&mut *consumer, 1_000).await;
    assert_eq!(offsets(&read).len(), 1_000);
    let producer = clients().producer(&properties(&bootstrap, &[])).unwrap();
    let batch = {
        let mut builder = BatchBuilder::new(place("k-down", 0), 0);
        (0..1_000).for_each(|offset| builder.push(offset, (1 + offset, None), None, None));
        builder.build(1_000)
    };
    producer.send_batch(&batch.slice(0..1)).await.unwrap().await.unwrap();
    kafka.kill();
    let sent = producer.send_batch(&batch.slice(1..1_000)).await.unwrap();
    let error = loop {
        match next(&mut *consumer).await {
            Event::Error(error) => break error,
            Event::Batches(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(error.is_retriable(), "{}", error.trace());
    kafka.restart().unwrap();
    tokio::time::timeout(PATIENCE, sent).await.expect("acknowledged in time").unwrap();
    let mut position = read.last().unwrap().next_offset();
    while position < 2_000 {
        match news(&mut *consumer).await {
            Event::Batches(batches) => position = batches.last().map_or(position, Batch::next_offset),
            // The coordinator may have forgotten the member.
            Event::Lost(_) | Event::Revoked(_) => {
                consumer.release();
                assigned(&mut *consumer).await;
                consumer.start_at(&Places::from([(place("k-down", 0), position.into())]));
            }
            other => panic!("{other:?}"),
        }
    }
    consumer.close().await;
    let all = read_all(&bootstrap, &place("k-down", 0), (1_000, 2_000)).await;
    let stamps: Vec<i64> = all.iter().flat_map(|batch| batch.timestamps().to_vec()).collect();
    assert_eq!(stamps, (1..=1_000).collect::<Vec<_>>(), "each record once, in order");
}
