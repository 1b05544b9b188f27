//! The machine's own limit: programs that do the least that any worker on librdkafka has to do. Each is this same
//! executable, started anew with a program's name, so that its CPU time is a process's.
//!
//! - `limit-count`: consumes a topic with librdkafka and counts. Flags: an 8 MB queue, `fetch.queue.backoff.ms=5` (with
//!   librdkafka's 1,000 it waits more than it works); the rest are librdkafka's defaults.
//! - `limit-zstd`: what zstd at level 1 takes, one context, for the same keys and the same values in pieces of 1 MiB,
//!   and what it takes to undo that; only the calls are counted.
//! - `limit-produce`: sends as many records from memory, idempotently, `linger.ms=20`, `batch.size` 1 MiB.
//!
//! Archiving cannot cost less than counting plus compressing, restoring not less than decompressing plus producing.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use crate::data::{self, Kind, Topic};
use crate::lines::{LIMIT_OF_ARCHIVING, Line};
use crate::measure::{self, Ended};

const COUNT: &str = "limit-count";
const ZSTD: &str = "limit-zstd";
const PRODUCE: &str = "limit-produce";
const PIECE_BYTES: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// What a limit program found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Found {
    records: u64,
    bytes: u64,
    compressed_bytes: u64,
    compress_s: f64,
    decompress_s: f64,
}

/// The limit of archiving a topic.
pub(crate) struct Limit {
    found: Found,
    counting: Ended,
}

impl Limit {
    /// Bytes of keys and values of the topic.
    pub(crate) fn bytes(&self) -> u64 {
        self.found.bytes
    }

    /// What zstd takes to give the same bytes back, in CPU seconds.
    pub(crate) fn decompress_s(&self) -> f64 {
        self.found.decompress_s
    }

    /// Counting alone, and counting with compressing.
    pub(crate) fn lines(&self, topic: &Topic) -> [Line; 2] {
        let line = |program: &str, cpu_s: f64, stored_bytes: u64| Line {
            bytes: self.found.bytes,
            wall_s: self.counting.wall_s,
            cpu_s,
            peak_rss_mb: self.counting.peak_rss_mb,
            stored_bytes,
            ..Line::new(program, topic)
        };
        let both = self.counting.cpu_s + self.found.compress_s;
        [line("count", self.counting.cpu_s, 0), line(LIMIT_OF_ARCHIVING, both, self.found.compressed_bytes)]
    }
}

/// Measures the limit of archiving `topic`.
pub(crate) fn of_archiving(bootstrap: &str, topic: &Topic) -> Result<Limit> {
    let records = topic.records().to_string();
    let counting = start(COUNT, &[bootstrap, &topic.name, &topic.partitions.to_string(), &records])?;
    let compressing = start(ZSTD, &[bootstrap, &topic.name, &topic.partitions.to_string(), &records])?;
    Ok(Limit { found: serde_json::from_str(&compressing.output)?, counting })
}

/// Measures sending `records` records of `kind` to an existing topic, compressed as `codec` says.
pub(crate) fn of_producing(bootstrap: &str, target: &str, topic: &Topic, codec: &str) -> Result<(Ended, u64)> {
    let kind = if topic.kind == Kind::Orders { "orders" } else { "events" };
    let (partitions, records) = (topic.partitions.to_string(), topic.records().to_string());
    let ended = start(PRODUCE, &[bootstrap, target, &partitions, &records, kind, codec])?;
    let found: Found = serde_json::from_str(&ended.output)?;
    Ok((ended, found.bytes))
}

/// Whether this is the name of a limit program.
pub(crate) fn is_program(name: &str) -> bool {
    [COUNT, ZSTD, PRODUCE].contains(&name)
}

/// Is one of the limit programs.
pub(crate) fn run(program: &str, arguments: &[String]) -> Result<()> {
    let [bootstrap, topic, partitions, records, rest @ ..] = arguments else {
        bail!("{program} BOOTSTRAP TOPIC PARTITIONS RECORDS [KIND CODEC]");
    };
    let (partitions, records) = (partitions.parse()?, records.parse()?);
    let found = match (program, rest) {
        (COUNT, []) => count(&consumer(bootstrap, topic, partitions)?, records)?,
        (ZSTD, []) => compress(&consumer(bootstrap, topic, partitions)?, partitions, records)?,
        (PRODUCE, [kind, codec]) => {
            let kind = if kind == "orders" { Kind::Orders } else { Kind::Events };
            produce(bootstrap, topic, (partitions, records), (kind, codec))?
        }
        _ => bail!("{program} does not take {rest:?}"),
    };
    println!("{}", serde_json::to_string(&found)?);
    Ok(())
}

fn start(program: &str, arguments: &[&str]) -> Result<Ended> {
    let executable: PathBuf = std::env::current_exe()?;
    measure::run(Command::new(executable).arg(program).args(arguments)).with_context(|| program.to_owned())
}

fn consumer(bootstrap: &str, topic: &str, partitions: usize) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "limit")
        .set("enable.auto.commit", "false")
        .set("queued.max.messages.kbytes", "8192")
        .set("fetch.queue.backoff.ms", "5")
        .create()?;
    let mut all = TopicPartitionList::new();
    for partition in 0..partitions {
        all.add_partition_offset(topic, partition as i32, Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    Ok(consumer)
}

fn count(consumer: &BaseConsumer, records: u64) -> Result<Found> {
    let mut found = Found::default();
    while found.records < records {
        let message = consumer.poll(PATIENCE).context("no record comes")??;
        found.records += 1;
        found.bytes += (message.key_len() + message.payload_len()) as u64;
    }
    Ok(found)
}

fn compress(consumer: &BaseConsumer, partitions: usize, records: u64) -> Result<Found> {
    let mut found = Found::default();
    let mut zstd = Zstd::new()?;
    let mut columns: Vec<[Vec<u8>; 2]> = vec![Default::default(); partitions];
    while found.records < records {
        let message = consumer.poll(PATIENCE).context("no record comes")??;
        found.records += 1;
        let columns = &mut columns[message.partition() as usize];
        for (column, bytes) in columns.iter_mut().zip([message.key(), message.payload()]) {
            column.extend_from_slice(bytes.unwrap_or_default());
            if column.len() >= PIECE_BYTES {
                zstd.take(column, &mut found)?;
            }
        }
    }
    for column in columns.iter_mut().flatten() {
        zstd.take(column, &mut found)?;
    }
    Ok(found)
}

fn produce(bootstrap: &str, topic: &str, (partitions, records): (usize, u64), data: (Kind, &str)) -> Result<Found> {
    let (kind, codec) = data;
    let (producer, pool) = (data::producer(bootstrap, codec)?, data::pool(kind));
    let mut found = Found::default();
    for (number, (key, value)) in (0..records).zip(pool.iter().cycle()) {
        let partition = number / 512 % partitions as u64;
        let record = BaseRecord::to(topic).partition(partition as i32).key(&key[..]).payload(&value[..]);
        data::send(&producer, record)?;
        found.records += 1;
        found.bytes += (key.len() + value.len()) as u64;
    }
    producer.flush(PATIENCE)?;
    Ok(found)
}

struct Zstd {
    compressor: zstd::bulk::Compressor<'static>,
    decompressor: zstd::bulk::Decompressor<'static>,
    compressed: Vec<u8>,
    again: Vec<u8>,
}

impl Zstd {
    fn new() -> Result<Zstd> {
        Ok(Zstd {
            compressor: zstd::bulk::Compressor::new(1)?,
            decompressor: zstd::bulk::Decompressor::new()?,
            compressed: vec![0; 4 * PIECE_BYTES],
            again: vec![0; 4 * PIECE_BYTES],
        })
    }

    fn take(&mut self, piece: &mut Vec<u8>, found: &mut Found) -> Result<()> {
        let before = measure::thread_cpu_s();
        let len = self.compressor.compress_to_buffer(piece, &mut self.compressed[..])?;
        let between = measure::thread_cpu_s();
        let again = self.decompressor.decompress_to_buffer(&self.compressed[..len], &mut self.again[..])?;
        let after = measure::thread_cpu_s();
        if self.again[..again] != piece[..] {
            bail!("zstd does not give back what it was given");
        }
        found.bytes += piece.len() as u64;
        found.compressed_bytes += len as u64;
        found.compress_s += between - before;
        found.decompress_s += after - between;
        piece.clear();
        Ok(())
    }
}
