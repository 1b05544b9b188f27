//! The machine's own limit: programs that do the least that any worker on librdkafka has to do. Each is this same
//! executable, started anew with a program's name, so that its CPU time is a process's.
//!
//! - `limit-count`: consumes a topic with librdkafka and counts. Flags: an 8 MB queue, `fetch.queue.backoff.ms=5` (with
//!   librdkafka's 1,000 it waits more than it works); the rest are librdkafka's defaults.
//! - `limit-zstd`: what zstd at level 1 takes, one context, for the same keys and the same values in pieces of 1 MiB,
//!   and what it takes to undo that; only the calls are counted.
//! - `limit-both`: counts the topic and at the same time, in a second thread, compresses as many bytes in pieces of its
//!   beginning. It shows what the machine takes for keeping both cores busy: work costs more CPU time beside other
//!   work.
//! - `limit-produce`: sends as many records from memory, idempotently, `linger.ms=20`, `batch.size` 1 MiB.
//!
//! Archiving cannot cost less than counting plus compressing, restoring not less than decompressing plus producing.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use crate::data::{self, Kind, Topic};
use crate::kit::Kafka;
use crate::lines::{LIMIT_AT_ONCE, LIMIT_OF_ARCHIVING, Line};
use crate::measure::{self, Ended, Meanwhile};

const COUNT: &str = "limit-count";
const ZSTD: &str = "limit-zstd";
const BOTH: &str = "limit-both";
const PRODUCE: &str = "limit-produce";
const PIECE_BYTES: usize = 1 << 20;
/// Pieces that `limit-both` compresses again and again: more than any cache holds.
const SAMPLE_PIECES: usize = 64;
const PATIENCE: Duration = Duration::from_secs(60);

/// What a limit program found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Found {
    records: u64,
    bytes: u64,
    compressed_bytes: u64,
    compress_s: f64,
    decompress_s: f64,
    /// CPU time of all that `limit-both` does, but for gathering its pieces.
    both_s: f64,
    /// The same by the wall clock.
    both_wall_s: f64,
}

/// The limit of archiving a topic.
pub(crate) struct Limit {
    found: Found,
    counting: Ended,
    at_once: (Found, Ended),
}

impl Limit {
    /// What zstd takes to give the same bytes back, in CPU seconds.
    pub(crate) fn decompress_s(&self) -> f64 {
        self.found.decompress_s
    }

    /// Counting alone, counting with compressing, and the two at once. The second has no wall clock: its parts ran one
    /// after the other. What the broker did is known of the first, which did nothing else.
    pub(crate) fn lines(&self, topic: &Topic) -> [Line; 3] {
        let (counting, (at_once, ended)) = (&self.counting, &self.at_once);
        let line = |program: &str, (ended, cpu_s): (&Ended, f64), stored_bytes: u64| Line {
            cpu_s,
            peak_rss_mb: ended.peak_rss_mb,
            stored_bytes,
            ..Line::new(program, topic)
        };
        let Meanwhile { wall_s, busy, broker_cores } = counting.meanwhile;
        let both_s = counting.cpu_s + self.found.compress_s;
        let count = line("count", (counting, counting.cpu_s), 0);
        let both = line(LIMIT_AT_ONCE, (ended, at_once.both_s), at_once.compressed_bytes);
        [
            Line { wall_s: Some(wall_s), busy: Some(busy), broker_cores, ..count },
            line(LIMIT_OF_ARCHIVING, (counting, both_s), self.found.compressed_bytes),
            Line { wall_s: Some(at_once.both_wall_s), ..both },
        ]
    }
}

/// Measures the limit of archiving `topic`.
pub(crate) fn of_archiving(kafka: &Kafka, topic: &Topic) -> Result<Limit> {
    let (partitions, records) = (topic.partitions.to_string(), topic.records().to_string());
    let start = |program| start(kafka, program, &[&topic.name, &partitions, &records]);
    let (counting, compressing, at_once) = (start(COUNT)?, start(ZSTD)?, start(BOTH)?);
    let found: Found = serde_json::from_str(&compressing.output)?;
    ensure!(found.bytes == topic.bytes, "{} of {} bytes of {} came", found.bytes, topic.bytes, topic.name);
    Ok(Limit { found, counting, at_once: (serde_json::from_str(&at_once.output)?, at_once) })
}

/// Measures sending `records` records of `kind` to an existing topic, compressed as `codec` says.
pub(crate) fn of_producing(kafka: &Kafka, target: &str, topic: &Topic, codec: &str) -> Result<(Ended, u64)> {
    let kind = if topic.kind == Kind::Orders { "orders" } else { "events" };
    let (partitions, records) = (topic.partitions.to_string(), topic.records().to_string());
    let ended = start(kafka, PRODUCE, &[target, &partitions, &records, kind, codec])?;
    let found: Found = serde_json::from_str(&ended.output)?;
    Ok((ended, found.bytes))
}

/// Whether this is the name of a limit program.
pub(crate) fn is_program(name: &str) -> bool {
    [COUNT, ZSTD, BOTH, PRODUCE].contains(&name)
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
        (BOTH, []) => at_once(bootstrap, topic, partitions, records)?,
        (PRODUCE, [kind, codec]) => {
            let kind = if kind == "orders" { Kind::Orders } else { Kind::Events };
            produce(bootstrap, topic, (partitions, records), (kind, codec))?
        }
        _ => bail!("{program} does not take {rest:?}"),
    };
    println!("{}", serde_json::to_string(&found)?);
    Ok(())
}

fn start(kafka: &Kafka, program: &str, arguments: &[&str]) -> Result<Ended> {
    let executable: PathBuf = std::env::current_exe()?;
    let mut command = Command::new(executable);
    command.args([program, &kafka.bootstrap()]).args(arguments);
    measure::run(&mut command, kafka.pids()).with_context(|| program.to_owned())
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

fn at_once(bootstrap: &str, topic: &str, partitions: usize, records: u64) -> Result<Found> {
    let sample = Sample::gather(&consumer(bootstrap, topic, partitions)?, partitions, records)?;
    let consumer = consumer(bootstrap, topic, partitions)?;
    let (begin, before_s) = (Instant::now(), measure::cpu_s(std::process::id())?);
    let (counted, compressed_bytes) = std::thread::scope(|scope| {
        let compressing = scope.spawn(|| sample.compress(records));
        let counted = count(&consumer, records)?;
        Ok::<_, Error>((counted, compressing.join().map_err(|_| anyhow!("the compressing thread panicked"))??))
    })?;
    let both_s = measure::cpu_s(std::process::id())? - before_s;
    Ok(Found { both_s, both_wall_s: begin.elapsed().as_secs_f64(), compressed_bytes, ..counted })
}

/// The beginning of a topic, in pieces.
struct Sample {
    pieces: Vec<Vec<u8>>,
    records: u64,
    bytes: u64,
}

impl Sample {
    fn gather(consumer: &BaseConsumer, partitions: usize, records: u64) -> Result<Sample> {
        let mut sample = Sample { pieces: Vec::new(), records: 0, bytes: 0 };
        let mut columns: Vec<[Vec<u8>; 2]> = vec![Default::default(); partitions];
        while sample.records < records && sample.pieces.len() < SAMPLE_PIECES {
            let message = consumer.poll(PATIENCE).context("no record comes")??;
            sample.records += 1;
            sample.bytes += (message.key_len() + message.payload_len()) as u64;
            let columns = &mut columns[message.partition() as usize];
            for (column, bytes) in columns.iter_mut().zip([message.key(), message.payload()]) {
                column.extend_from_slice(bytes.unwrap_or_default());
                if column.len() >= PIECE_BYTES {
                    sample.pieces.push(std::mem::take(column));
                }
            }
        }
        sample.pieces.extend(columns.into_iter().flatten().filter(|column| !column.is_empty()));
        Ok(sample)
    }

    /// Compresses as many bytes as `records` such records have; what they come to.
    fn compress(&self, records: u64) -> Result<u64> {
        let mut left = (self.bytes as f64 / self.records as f64 * records as f64) as usize;
        let (mut compressor, mut into) = (zstd::bulk::Compressor::new(1)?, vec![0; 4 * PIECE_BYTES]);
        let mut compressed = 0;
        for piece in self.pieces.iter().cycle() {
            let piece = &piece[..piece.len().min(left)];
            compressed += compressor.compress_to_buffer(piece, &mut into[..])? as u64;
            left -= piece.len();
            if left == 0 {
                break;
            }
        }
        Ok(compressed)
    }
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
