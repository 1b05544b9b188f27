//! The data sets: JSON orders of 1 KB and JSON events of 100 B, keyed, the same in every run. Records of each partition
//! are counted exactly, so that a sink which ends its files by count has no remainder to wait for.

use std::time::Duration;

use anyhow::Result;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;

use crate::kit::Kafka;

/// What the records are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// About 940 bytes with their keys.
    Orders,
    /// About 88 bytes with their keys.
    Events,
}

/// A topic of records.
#[derive(Debug, Clone)]
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) partitions: usize,
    /// `compression.type` of whoever produced it.
    pub(crate) codec: &'static str,
    /// Records of each partition.
    pub(crate) records_each: u64,
    /// Bytes of all keys and values; until it is filled, near enough.
    pub(crate) bytes: u64,
}

/// When the first record was made, in epoch milliseconds.
const FIRST_TIMESTAMP_MS: i64 = 1_763_712_000_000;
/// How many records in a row go to one partition, as a producer with a sticky partitioner sends them.
const RUN_RECORDS: u64 = 512;
/// Records that are made in advance and then repeated by whoever measures producing alone.
const POOL_RECORDS: usize = 8_192;

impl Kind {
    /// What a record has on average.
    pub(crate) fn record_bytes(self) -> u64 {
        match self {
            Kind::Orders => 937,
            Kind::Events => 88,
        }
    }

    /// In words.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Kind::Orders => "1 KB",
            Kind::Events => "100 B",
        }
    }

    fn key(self, dice: &mut Dice) -> String {
        match self {
            Kind::Orders => format!("customer-{}", dice.roll(50_000)),
            Kind::Events => format!("{:08x}", dice.roll(1 << 24)),
        }
    }

    fn value(self, dice: &mut Dice, value: &mut String) {
        value.clear();
        match self {
            Kind::Orders => order(dice, value),
            Kind::Events => event(dice, value),
        }
    }
}

impl Topic {
    /// A topic of `bytes` bytes, near enough.
    pub(crate) fn new(kind: Kind, partitions: usize, codec: &'static str, bytes: u64) -> Topic {
        let records = bytes / kind.record_bytes() / partitions as u64;
        let records_each = records.next_multiple_of(RUN_RECORDS);
        let kind_name = if kind == Kind::Orders { "orders" } else { "events" };
        Topic {
            name: format!("{kind_name}-{partitions}-{codec}"),
            kind,
            partitions,
            codec,
            records_each,
            bytes: records_each * partitions as u64 * kind.record_bytes(),
        }
    }

    /// Records of all partitions.
    pub(crate) fn records(&self) -> u64 {
        self.records_each * self.partitions as u64
    }

    /// In words.
    pub(crate) fn label(&self) -> String {
        format!("{} x{} {}", self.kind.label(), self.partitions, self.codec)
    }

    /// Creates and fills it, and counts its bytes.
    pub(crate) fn make(self, kafka: &Kafka) -> Result<Topic> {
        kafka.create_topic(&self.name, self.partitions, &[("retention.ms", "-1")])?;
        let producer = producer(&kafka.bootstrap(), self.codec)?;
        let (mut dice, mut value, mut bytes) = (Dice(42), String::new(), 0);
        for number in 0..self.records() {
            let key = self.kind.key(&mut dice);
            self.kind.value(&mut dice, &mut value);
            bytes += (key.len() + value.len()) as u64;
            let partition = number / RUN_RECORDS % self.partitions as u64;
            let record = BaseRecord::to(&self.name)
                .partition(partition as i32)
                .timestamp(FIRST_TIMESTAMP_MS + number as i64 / 3)
                .key(key.as_bytes())
                .payload(value.as_bytes());
            send(&producer, record)?;
        }
        producer.flush(Duration::from_secs(300))?;
        Ok(Topic { bytes, ..self })
    }
}

/// Records in memory, to be sent again and again.
pub(crate) fn pool(kind: Kind) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (mut dice, mut value) = (Dice(42), String::new());
    let mut record = || {
        let key = kind.key(&mut dice).into_bytes();
        kind.value(&mut dice, &mut value);
        (key, value.clone().into_bytes())
    };
    (0..POOL_RECORDS).map(|_| record()).collect()
}

/// An idempotent producer.
pub(crate) fn producer(bootstrap: &str, codec: &str) -> Result<ThreadedProducer<DefaultProducerContext>> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "20")
        .set("batch.size", "1048576")
        .set("message.max.bytes", "2000000")
        .set("queue.buffering.max.kbytes", "65536")
        .set("compression.type", codec)
        .create()?)
}

/// Queues a record, waiting for room.
pub(crate) fn send(
    producer: &ThreadedProducer<DefaultProducerContext>,
    record: BaseRecord<'_, [u8], [u8]>,
) -> Result<()> {
    let mut waiting = Some(record);
    while let Some(record) = waiting.take() {
        match producer.send(record) {
            Ok(()) => {}
            Err((error, back)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => {
                std::thread::sleep(Duration::from_millis(2));
                waiting = Some(back);
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
    Ok(())
}

fn order(dice: &mut Dice, order: &mut String) {
    use std::fmt::Write as _;
    let status = ["NEW", "PAID", "SHIPPED", "RETURNED"][dice.roll(4) as usize];
    let (id, customer) = (dice.roll(1 << 40), dice.roll(50_000));
    let _ = write!(order, r#"{{"order_id":{id},"customer":"customer-{customer}","status":"{status}","items":["#);
    while order.len() < 900 {
        let (sku, quantity, note) = (dice.roll(20_000), 1 + dice.roll(9), dice.roll(u64::MAX));
        let (whole, cents) = (dice.roll(500), dice.roll(100));
        let _ = write!(
            order,
            r#"{{"sku":"SKU-{sku:06}","quantity":{quantity},"price":{whole}.{cents:02},"note":"{note:016x}"}},"#
        );
    }
    order.push_str("null]}");
}

fn event(dice: &mut Dice, event: &mut String) {
    use std::fmt::Write as _;
    let action = ["view", "click", "buy"][dice.roll(3) as usize];
    let (user, page, session) = (dice.roll(1 << 30), dice.roll(4_000), dice.roll(u64::MAX));
    let _ = write!(event, r#"{{"user":{user},"page":"/p/{page}","action":"{action}","session":"{session:016x}"}}"#);
}

/// A xorshift generator: the same records in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}
