//! Records into and out of real topics, with the plain client: what a test produces and what it finds.

#![allow(dead_code, unreachable_pub, reason = "each area uses its own part")]

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};

const LIMIT: Duration = Duration::from_secs(60);

/// A record as it stands in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub timestamp: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    /// A record with this value, a key made from it, and a timestamp.
    pub fn new(timestamp: i64, value: &str) -> Record {
        let key = Some(format!("key of {value}").into_bytes());
        Record { timestamp: Some(timestamp), key, value: Some(value.as_bytes().to_vec()), headers: Vec::new() }
    }
}

/// `count` small records with one second of record time between them.
pub fn records(count: usize) -> Vec<Record> {
    (0..count).map(|n| Record::new(1_700_000_000_000 + n as i64 * 1_000, &format!("value {n}"))).collect()
}

/// Produces `records` to a partition, in order, and waits until all are acknowledged.
pub fn produce(bootstrap: &str, topic: &str, partition: i32, records: &[Record]) {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("message.max.bytes", "20000000")
        .set("message.timeout.ms", "60000")
        .create()
        .unwrap();
    for record in records {
        let mut headers = OwnedHeaders::new();
        for (key, value) in &record.headers {
            headers = headers.insert(Header { key, value: value.as_ref() });
        }
        let mut outgoing = BaseRecord::<[u8], [u8]>::to(topic).partition(partition).headers(headers);
        if let Some(timestamp) = record.timestamp {
            outgoing = outgoing.timestamp(timestamp);
        }
        if let Some(key) = &record.key {
            outgoing = outgoing.key(key);
        }
        if let Some(value) = &record.value {
            outgoing = outgoing.payload(value);
        }
        let mut waiting = Some(outgoing);
        while let Some(next) = waiting.take() {
            if let Err((error, back)) = producer.send(next) {
                let full = error.rdkafka_error_code() == Some(rdkafka::types::RDKafkaErrorCode::QueueFull);
                assert!(full, "{error}");
                producer.poll(Duration::from_millis(50));
                waiting = Some(back);
            }
        }
    }
    producer.flush(LIMIT).unwrap();
}

/// Every record of a partition, from its earliest to its end, as a `read_committed` client sees it.
pub fn consume(bootstrap: &str, topic: &str, partition: i32) -> Vec<Record> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", format!("check-{topic}"))
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("fetch.message.max.bytes", "20000000")
        // The end of a partition is told after a fetch that has waited in vain.
        .set("fetch.wait.max.ms", "10")
        .set("fetch.error.backoff.ms", "10")
        .create()
        .unwrap();
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    consumer.assign(&assignment).unwrap();
    let mut found = Vec::new();
    loop {
        match consumer.poll(LIMIT).expect("a record or the end of the partition") {
            Ok(message) => found.push(Record {
                timestamp: message.timestamp().to_millis(),
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().map(<[u8]>::to_vec),
                headers: message.headers().map(headers).unwrap_or_default(),
            }),
            Err(rdkafka::error::KafkaError::PartitionEOF(_)) => return found,
            Err(error) => panic!("{topic}-{partition}: {error}"),
        }
    }
}

fn headers(headers: &rdkafka::message::BorrowedHeaders) -> Vec<(String, Option<Vec<u8>>)> {
    headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
}
