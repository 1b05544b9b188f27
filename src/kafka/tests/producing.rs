//! What the producer takes, refuses and answers for, and which partition a record goes to.

use super::*;

/// A record of nothing but a place and a time.
fn record(topic: &str, timestamp: Option<i64>) -> RawRecord {
    RawRecord { topic: topic.into(), partition: Some(0), timestamp, key: None, value: None, headers: Vec::new() }
}

#[tokio::test]
async fn records_that_the_client_would_stamp_are_refused_before_any_is_sent() {
    let embedded = Embedded::start();
    embedded.topic("t", 1);
    for stamp in [0, NO_TIMESTAMP] {
        let mut builder = BatchBuilder::new(TopicPartition::new("t", 0), 0);
        builder.push(0, (5, None), None, Some(b"good"));
        builder.push(1, (stamp, None), None, Some(b"untimed"));
        let error = embedded.producer().send_batch(&builder.build(2)).await.err().expect("refused");
        assert_eq!(error.kind(), Kind::Data);
        assert!(error.message().contains("offset 1"), "{error}");
    }
    for stamp in [0, NO_TIMESTAMP, -5] {
        let error = embedded.producer().send(record("t", Some(stamp))).await.err().expect("refused");
        assert_eq!(error.kind(), Kind::Data);
        assert!(error.message().contains(&format!("timestamp {stamp}")), "{error}");
    }
    let admin = embedded.clients.admin(&embedded.properties(&[])).unwrap();
    let view = admin.partition(&TopicPartition::new("t", 0)).await.unwrap();
    assert_eq!(view.end_offset, Some(0), "nothing was sent");
    assert!(
        embedded.producer().send(record("t", None)).await.unwrap().await.is_ok(),
        "the present is what it asks for"
    );
}

#[tokio::test]
async fn records_go_to_more_topics_in_turn_than_the_client_keeps() {
    let embedded = Embedded::start();
    let names: Vec<_> = (0..=ffi::KEPT_TOPICS).map(|number| format!("t{number}")).collect();
    names.iter().for_each(|name| embedded.topic(name, 1));
    let producer = embedded.producer();
    let mut deliveries = Vec::new();
    for name in names.iter().chain(&names) {
        deliveries.push(producer.send(record(name, Some(5))).await.unwrap());
    }
    for (at, delivery) in deliveries.into_iter().enumerate() {
        let delivered = delivery.await.unwrap();
        assert_eq!(delivered.offset, (at / names.len()) as i64, "{}", names[at % names.len()]);
    }
    let error = producer.send(record(&"t".repeat(600), Some(5))).await.err().expect("too long");
    assert_eq!(error.kind(), Kind::Config, "{error}");
}

#[tokio::test]
async fn a_record_without_partition_goes_where_javas_clients_put_it() {
    let embedded = Embedded::start();
    embedded.topic("t", 7);
    let producer = embedded.producer();
    for key in ["21", "foobar", "a-little-bit-long-string", "abc"] {
        let record = RawRecord {
            topic: "t".into(),
            partition: None,
            timestamp: None,
            key: Some(Bytes::from_static(key.as_bytes())),
            value: None,
            headers: Vec::new(),
        };
        let delivered = producer.send(record).await.unwrap().await.unwrap();
        assert_eq!((key, delivered.partition), (key, java_partition(key.as_bytes(), 7)));
    }
}

/// Kafka's default partitioner, written from its specification.
fn java_partition(key: &[u8], partitions: i32) -> i32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c_u32 ^ key.len() as u32;
    let mut chunks = key.chunks_exact(4);
    for chunk in chunks.by_ref() {
        let mut k = u32::from_le_bytes(chunk.try_into().unwrap()).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = chunks.remainder();
    for (at, byte) in rest.iter().enumerate() {
        hash ^= u32::from(*byte) << (8 * at);
    }
    if !rest.is_empty() {
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^= hash >> 15;
    (hash & 0x7fff_ffff) as i32 % partitions
}

#[tokio::test]
async fn a_full_queue_makes_the_caller_wait_and_keeps_the_order() {
    let embedded = Embedded::start();
    embedded.topic("t", 1);
    let producer = embedded.clients.producer(&embedded.properties(&[("buffer.memory", "65536")])).unwrap();
    let place = TopicPartition::new("t", 0);
    let batch = |first: i64| {
        let mut builder = BatchBuilder::new(place.clone(), first);
        for offset in first..first + 200 {
            builder.push(offset, (1 + offset, None), None, Some(&[7; 2_000]));
        }
        builder.build(first + 200)
    };
    let (one, two) = (batch(0), batch(200));
    let (first, second) = tokio::join!(producer.send_batch(&one), producer.send_batch(&two));
    first.unwrap().await.unwrap();
    second.unwrap().await.unwrap();
    let stretches = reader::Stretches::from([(place, (0, 400))]);
    let mut reader = reader::open(&embedded.properties(&[]), stretches, clock()).unwrap();
    let mut stamps = Vec::new();
    while let Some(batch) = reader.next().await.unwrap() {
        stamps.extend_from_slice(batch.timestamps());
    }
    assert_eq!(stamps, (1..=400).collect::<Vec<_>>());
    let limited = [("buffer.memory", "65536"), ("max.block.ms", "300"), ("bootstrap.servers", "127.0.0.1:1")];
    let stuck = embedded.clients.producer(&embedded.properties(&limited)).unwrap();
    let used = embedded.budget.used();
    let error = stuck.send_batch(&one).await.err().expect("no room");
    assert!(embedded.budget.used() >= used + 64_000, "what waits in the client's queue is paid");
    assert!(error.is_retriable() && error.message().contains('t'), "{error}");
}

#[tokio::test]
async fn a_batch_lives_until_its_records_are_reported() {
    let embedded = Embedded::start();
    let nowhere = embedded.properties(&[("bootstrap.servers", "127.0.0.1:1")]);
    let producer = embedded.clients.producer(&nowhere).unwrap();
    let mut builder = BatchBuilder::new(TopicPartition::new("t", 0), 0);
    builder.push(0, (1, None), None, Some(&[7; 2_000]));
    let batch = builder.build(1).holding(embedded.budget.take(50_000));
    let delivery = producer.send_batch(&batch).await.unwrap();
    drop(batch);
    assert!((50_000..52_000).contains(&embedded.budget.used()), "its value is read where it is, and paid once");
    drop(producer);
    assert!(delivery.await.is_err());
    let deadline = clock().monotonic() + PATIENCE;
    while embedded.budget.used() > 0 && clock().monotonic() < deadline {
        tokio::task::yield_now().await;
    }
    assert_eq!(embedded.budget.used(), 0);
}

#[tokio::test]
async fn a_value_that_no_queue_takes_is_an_error_and_not_a_wait() {
    let embedded = Embedded::start();
    embedded.topic("t", 1);
    let producer = embedded.clients.producer(&embedded.properties(&[("buffer.memory", "65536")])).unwrap();
    let batch = |bytes: usize| {
        let mut builder = BatchBuilder::new(TopicPartition::new("t", 0), 0);
        builder.push(0, (1, None), None, Some(&vec![7; bytes]));
        builder.build(1)
    };
    let error = producer.send_batch(&batch(100_000)).await.err().expect("no room for it, ever");
    assert!(error.kind() == Kind::Data && error.message().contains("buffer.memory=65536"), "{error}");
    producer.send_batch(&batch(10_000)).await.unwrap().await.unwrap();
}
