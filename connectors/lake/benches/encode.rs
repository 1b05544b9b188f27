//! Megabytes of key, value and headers that one core encodes and decodes in a second, per format, codec and record
//! size: `cargo bench -p lakeferry-lake --bench encode [-- FORMAT [CODEC]]`. Time is the thread's own CPU time, so that
//! a busy machine does not show; hashing is included, reading from Kafka and storing are not.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use lakeferry_api::{Batch, BatchBuilder, TimestampType, TopicPartition};
use lakeferry_lake::format::{Content, FORMATS, FileFormat, FileHeader, Tail};

const RAW_BYTES: usize = 192 << 20;
const BATCH_BYTES: usize = 1 << 20;
const BATCH_ROWS: usize = 8192;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    let (only, only_codec) = (arguments.next(), arguments.next());
    println!("{:<16} {:<10} {:>22} {:>10} {:>10} {:>8}", "format", "codec", "records", "encode", "decode", "ratio");
    for (name, record) in [("orders of 1 KB", order as fn(&mut Dice) -> Vec<u8>), ("events of 100 B", event)] {
        let batches = batches(record);
        for format in FORMATS.iter().filter(|format| only.as_ref().is_none_or(|only| only == format.name)) {
            for codec in format.codecs.iter().filter(|codec| only_codec.as_ref().is_none_or(|only| only == codec.name))
            {
                measure(format, codec.name, name, &batches);
            }
        }
    }
}

fn measure(format: &FileFormat, codec: &str, name: &str, batches: &[Batch]) {
    let raw_bytes: usize = batches.iter().map(Batch::raw_bytes).sum();
    let ((tail, file), encode_s) = timed(|| encode(format, codec, batches));
    let records = batches.iter().map(Batch::len).sum::<usize>();
    let content = Content { records: records as u64, raw_bytes: raw_bytes as u64 };
    let (rows, decode_s) = timed(|| decode(format, (&tail, content), &file));
    assert_eq!(rows, records);
    let mb = raw_bytes as f64 / 1e6;
    let ratio = raw_bytes as f64 / tail.stored_bytes as f64;
    let (encode, decode) = (mb / encode_s, mb / decode_s);
    println!("{:<16} {codec:<10} {name:>22} {encode:>7.0} MB {decode:>7.0} MB {ratio:>8.2}", format.name);
}

fn encode(format: &FileFormat, codec: &str, batches: &[Batch]) -> (Tail, Bytes) {
    let header = FileHeader { partition: partition(), cluster_id: None, topic_id: None };
    let mut encoder = format.encoder(header, format.compression(codec, None).unwrap()).unwrap();
    let mut file = BytesMut::new();
    for batch in batches {
        encoder.append(batch).unwrap();
        file.extend_from_slice(&encoder.take_encoded());
    }
    let tail = encoder.finish().unwrap();
    file.extend_from_slice(&encoder.take_encoded());
    (tail, file.freeze())
}

fn decode(format: &FileFormat, (tail, content): (&Tail, Content), file: &Bytes) -> usize {
    let bytes = |index: usize| {
        let block = &tail.blocks[index];
        file.slice(block.at as usize..(block.at + block.len) as usize)
    };
    let decoder = format.decoder(bytes(format.prelude(&tail.blocks)), &tail.blocks, &partition(), content).unwrap();
    let blocks = 0..tail.blocks.len();
    blocks
        .flat_map(|block| decoder.decode(block, bytes(block)).unwrap())
        .map(|batch| black_box(batch.unwrap()).len())
        .sum()
}

fn partition() -> TopicPartition {
    TopicPartition::new("bench.orders", 3)
}

fn batches(record: impl Fn(&mut Dice) -> Vec<u8>) -> Vec<Batch> {
    let mut dice = Dice(42);
    let mut batches = Vec::new();
    let mut offset = 0;
    let mut raw_bytes = 0;
    while raw_bytes < RAW_BYTES {
        let mut builder = BatchBuilder::new(partition(), offset);
        while builder.len() < BATCH_ROWS && builder.raw_bytes() < BATCH_BYTES {
            let timestamp = 1_763_712_000_000 + offset / 3 + dice.roll(20) as i64;
            let key = format!("customer-{}", dice.roll(50_000));
            let stamp = (timestamp, Some(TimestampType::Create));
            builder.push(offset, stamp, Some(key.as_bytes()), Some(&record(&mut dice)));
            offset += 1;
        }
        raw_bytes += builder.raw_bytes();
        batches.push(builder.build(offset));
    }
    batches
}

fn order(dice: &mut Dice) -> Vec<u8> {
    let mut order = format!(
        r#"{{"order_id":{},"customer":"customer-{}","status":"{}","items":["#,
        dice.roll(1 << 40),
        dice.roll(50_000),
        ["NEW", "PAID", "SHIPPED", "RETURNED"][dice.roll(4) as usize]
    );
    while order.len() < 900 {
        order.push_str(&format!(
            r#"{{"sku":"SKU-{:06}","quantity":{},"price":{}.{:02},"note":"{:016x}"}},"#,
            dice.roll(20_000),
            1 + dice.roll(9),
            dice.roll(500),
            dice.roll(100),
            dice.roll(u64::MAX)
        ));
    }
    order.push_str("null]}");
    order.into_bytes()
}

fn event(dice: &mut Dice) -> Vec<u8> {
    let action = ["view", "click", "buy"][dice.roll(3) as usize];
    format!(r#"{{"user":{},"page":"/p/{}","action":"{action}"}}"#, dice.roll(1 << 30), dice.roll(4000)).into_bytes()
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

fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let before = cpu_ns();
    let done = work();
    (done, (cpu_ns() - before) as f64 / 1e9)
}

/// CPU time of this thread, as Linux counts it.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("this benchmark needs Linux");
    stat.split(' ').next().unwrap().parse().unwrap()
}
