//! The format suite: what every row of [`FORMATS`] must do.

use bytes::BytesMut;
use lakeferry_api::batch::NO_TIMESTAMP;
use lakeferry_api::measure::peak_of;
use lakeferry_api::{BatchBuilder, Kind, TimestampType};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

mod codecs;
mod golden;
mod held;
mod hostile;

/// A record with everything that a file must give back.
#[derive(Debug, Clone, PartialEq)]
struct Record {
    offset: i64,
    timestamp: i64,
    timestamp_type: Option<TimestampType>,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

/// A number as both Avro and Thrift write it: zigzag, seven bits a byte, the lowest first.
pub(super) fn varint(number: impl Into<i64>) -> Vec<u8> {
    let number = number.into();
    let mut rest = ((number << 1) ^ (number >> 63)) as u64;
    let mut bytes = Vec::new();
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

fn partition() -> TopicPartition {
    TopicPartition::new("orders", 7)
}

fn header() -> FileHeader {
    FileHeader {
        partition: partition(),
        cluster_id: Some("AAAAAAAAQACAAAAAAAAAAQ".to_owned()),
        topic_id: Some("Qm9".to_owned()),
    }
}

fn batch(records: &[Record]) -> Batch {
    let mut builder = BatchBuilder::new(partition(), records.first().map_or(0, |record| record.offset));
    for record in records {
        let timestamp = (record.timestamp, record.timestamp_type);
        builder.push(record.offset, timestamp, record.key.as_deref(), record.value.as_deref());
        for (key, value) in &record.headers {
            builder.header(key, value.as_deref());
        }
    }
    builder.build(records.last().map_or(0, |record| record.offset + 1))
}

fn records(batch: &Batch) -> Vec<Record> {
    let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    let rows = batch.rows().map(|row| Record {
        offset: row.offset(),
        timestamp: row.timestamp().unwrap_or(NO_TIMESTAMP),
        timestamp_type: row.timestamp_type(),
        key: owned(row.key()),
        value: owned(row.value()),
        headers: row.headers().map(|(key, value)| (key.to_owned(), owned(value))).collect(),
    });
    rows.collect()
}

/// Of a manifest that says nothing of use.
const MUCH: Content = Content { records: u64::MAX, raw_bytes: u64::MAX };

/// A stored file, as the blocks that a reader gets.
#[derive(Debug, Clone)]
struct File {
    blocks: Vec<Bytes>,
    tail: Tail,
    content: Content,
}

impl File {
    fn decoder(&self, format: &FileFormat) -> Result<Box<dyn FileDecoder>> {
        let prelude = self.blocks[format.prelude(&self.tail.blocks)].clone();
        format.decoder(prelude, &self.tail.blocks, &partition(), self.content)
    }

    fn batches(&self, format: &FileFormat) -> Result<Vec<Batch>> {
        let decoder = self.decoder(format)?;
        let mut batches = Vec::new();
        for (index, block) in self.blocks.iter().enumerate() {
            for batch in decoder.decode(index, block.clone())? {
                batches.push(batch?);
            }
        }
        Ok(batches)
    }

    fn records(&self, format: &FileFormat) -> Result<Vec<Record>> {
        Ok(self.batches(format)?.iter().flat_map(records).collect())
    }
}

/// What a writer does between two batches.
#[derive(Debug, Clone, Copy)]
enum Step {
    Go,
    Take,
    EndBlock,
}

fn encode(format: &FileFormat, codec: &str, batches: &[(Batch, Step)]) -> File {
    let mut encoder = format.encoder(header(), format.compression(codec, None).unwrap()).unwrap();
    let mut bytes = BytesMut::new();
    for (batch, step) in batches {
        encoder.append(batch).unwrap();
        match step {
            Step::Go => {}
            Step::Take => bytes.extend_from_slice(&encoder.take_encoded()),
            Step::EndBlock => encoder.end_block().unwrap(),
        }
    }
    let tail = encoder.finish().unwrap();
    bytes.extend_from_slice(&encoder.take_encoded());
    assert_eq!(encoder.stored_bytes(), tail.stored_bytes);
    let blocks = check_blocks(&tail, &bytes.freeze());
    let sum = |count: fn(&Batch) -> usize| batches.iter().map(|(batch, _)| count(batch) as u64).sum();
    File { blocks, tail, content: Content { records: sum(Batch::len), raw_bytes: sum(Batch::raw_bytes) } }
}

fn codecs() -> impl Iterator<Item = (&'static FileFormat, &'static str)> {
    FORMATS.iter().flat_map(|format| format.codecs.iter().map(move |codec| (format, codec.name)))
}

/// Cuts a file into its blocks, which must touch, cover it and have the hashes of their bytes.
fn check_blocks(tail: &Tail, file: &Bytes) -> Vec<Bytes> {
    let mut at = 0;
    let mut blocks = Vec::new();
    for block in &tail.blocks {
        assert_eq!(block.at, at);
        assert!(block.len > 0);
        at += block.len;
        let bytes = file.slice(block.at as usize..at as usize);
        block.check(&bytes).unwrap();
        blocks.push(bytes);
    }
    assert_eq!((at, file.len() as u64), (tail.stored_bytes, tail.stored_bytes));
    assert_eq!(tail.sha256, hex(&Sha256::digest(file)));
    blocks
}

fn any_bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![
        2 => Just(None),
        1 => Just(Some(Vec::new())),
        6 => vec(any::<u8>(), 0..40).prop_map(Some),
        1 => vec(any::<u8>(), 0..3000).prop_map(Some),
    ]
}

fn any_record() -> impl Strategy<Value = Record> {
    let timestamp = prop_oneof![
        1 => Just((NO_TIMESTAMP, None)),
        1 => Just((0, Some(TimestampType::Create))),
        1 => (any::<i64>().prop_filter("no timestamp", |stamp| *stamp != NO_TIMESTAMP), Just(Some(TimestampType::Append))),
        6 => (1_763_712_000_000..1_763_712_999_999_i64, Just(Some(TimestampType::Create))),
        1 => (1_763_712_000_000..1_763_712_999_999_i64, Just(None)),
    ];
    let key = prop_oneof![3 => Just("trace".to_owned()), 1 => Just(String::new()), 1 => "[a-zé€𝄞]{0,12}"];
    let headers = prop_oneof![2 => Just(Vec::new()), 1 => vec((key, any_bytes()), 0..6)];
    (1..4_i64, timestamp, any_bytes(), any_bytes(), headers).prop_map(
        |(offset, (timestamp, timestamp_type), key, value, headers)| Record {
            offset,
            timestamp,
            timestamp_type,
            key,
            value,
            headers,
        },
    )
}

/// Records with ascending offsets.
fn any_records(most: usize) -> impl Strategy<Value = Vec<Record>> {
    (vec(any_record(), 0..most), 0..1_000_000_000_000_i64).prop_map(|(mut records, mut offset)| {
        for record in &mut records {
            offset += record.offset;
            record.offset = offset;
        }
        records
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![2 => Just(Step::Go), 1 => Just(Step::Take), 1 => Just(Step::EndBlock)]
}

/// Cuts one batch into slices that share its arenas, with a step behind each.
fn cut(batch: &Batch, cuts: &[(prop::sample::Index, Step)]) -> Vec<(Batch, Step)> {
    let mut ends: Vec<_> = cuts.iter().map(|(end, step)| (end.index(batch.len() + 1), *step)).collect();
    ends.sort_by_key(|(end, _)| *end);
    ends.push((batch.len(), Step::Go));
    let mut start = 0;
    let slices = ends.into_iter().map(|(end, step)| (batch.slice(std::mem::replace(&mut start, end)..end), step));
    slices.collect()
}

/// Something that happens to a block on its way.
#[derive(Debug, Clone)]
enum Damage {
    Flip(u8),
    Fill(u8, usize),
    Truncate,
    Insert(Vec<u8>),
    Replace(prop::sample::Index),
}

impl Damage {
    fn apply(&self, file: &mut File, (block, at): (prop::sample::Index, prop::sample::Index)) {
        let block = block.index(file.blocks.len());
        let mut bytes = file.blocks[block].to_vec();
        if bytes.is_empty() {
            return;
        }
        let at = at.index(bytes.len());
        match self {
            Self::Flip(bits) => bytes[at] ^= bits,
            Self::Fill(byte, len) => bytes[at..].iter_mut().take(*len).for_each(|target| *target = *byte),
            Self::Truncate => bytes.truncate(at),
            Self::Insert(extra) => drop(bytes.splice(at..at, extra.iter().copied())),
            Self::Replace(other) => bytes = file.blocks[other.index(file.blocks.len())].to_vec(),
        }
        file.blocks[block] = bytes.into();
    }
}

fn any_damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (1..=u8::MAX).prop_map(Damage::Flip),
        2 => (prop_oneof![Just(0), Just(0xff), any::<u8>()], 1..12_usize).prop_map(|(byte, len)| Damage::Fill(byte, len)),
        1 => Just(Damage::Truncate),
        1 => vec(any::<u8>(), 1..8).prop_map(Damage::Insert),
        1 => any::<prop::sample::Index>().prop_map(Damage::Replace),
    ]
}

proptest! {

    #[test]
    fn every_record_comes_back_byte_for_byte(
        records in any_records(60),
        cuts in vec((any::<prop::sample::Index>(), any_step()), 0..5),
    ) {
        let batches = cut(&batch(&records), &cuts);
        for (format, codec) in codecs() {
            let file = encode(format, codec, &batches);
            prop_assert_eq!(&file.records(format).unwrap(), &records, "{} {}", format.name, codec);
            let metadata = file.decoder(format).unwrap().metadata().clone();
            prop_assert_eq!(metadata.first_offset, records.first().map(|record| record.offset));
            let last_offset = records.last().map(|record| record.offset).filter(|_| format.name != "archive.avro");
            prop_assert_eq!(metadata.last_offset, last_offset);
            prop_assert_eq!((metadata.cluster_id, metadata.topic_id), (header().cluster_id, header().topic_id));
        }
    }

    /// Hashes find every damage. Without them a reader may be lied to, but neither panics nor fills the memory.
    #[test]
    fn damage_is_found_and_never_panics(
        records in any_records(30),
        cuts in vec((any::<prop::sample::Index>(), any_step()), 0..3),
        damages in vec((any::<(prop::sample::Index, prop::sample::Index)>(), any_damage()), 1..4),
    ) {
        let batches = cut(&batch(&records), &cuts);
        for (format, codec) in codecs() {
            let whole = encode(format, codec, &batches);
            let mut file = whole.clone();
            for (place, damage) in &damages {
                damage.apply(&mut file, *place);
            }
            for (block, (found, written)) in whole.tail.blocks.iter().zip(file.blocks.iter().zip(&whole.blocks)) {
                prop_assert_eq!(block.check(found).is_ok(), found == written);
            }
            let (held, read) = peak_of(|| file.records(format).map(drop));
            let len: usize = file.blocks.iter().map(Bytes::len).sum();
            prop_assert!(held < (16 << 20) + 64 * len, "{} {}: {} bytes of {}", format.name, codec, held, len);
            if let Err(error) = read {
                prop_assert_eq!(error.kind(), Kind::Fatal);
            }
        }
    }
}

fn plain(offset: i64, value: Vec<u8>) -> Record {
    let (timestamp, timestamp_type) = (1_763_712_000_000 + offset, Some(TimestampType::Create));
    Record { offset, timestamp, timestamp_type, key: None, value: Some(value), headers: Vec::new() }
}

/// Bytes that no codec makes much smaller.
fn noise(len: usize) -> Vec<u8> {
    let mut state = len as u64 | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn large_records_come_back_in_batches_and_blocks_of_bounded_size() {
    let sizes = [3, 8 << 20, 0, 5, 700 << 10, 700 << 10, 1 << 20, 8 << 20, 1, 1, 3 << 20];
    let mut written: Vec<_> = sizes.iter().zip(10..).map(|(size, offset)| plain(offset, noise(*size))).collect();
    written[4].headers = vec![("large".to_owned(), Some(noise(1 << 20))), ("large".to_owned(), None)];
    written[9].key = Some(noise(2 << 20));
    for (format, codec) in codecs() {
        let file = encode(format, codec, &[(batch(&written), Step::Go)]);
        let batches = file.batches(format).unwrap();
        assert_eq!(batches.iter().flat_map(records).collect::<Vec<_>>(), written, "{} {codec}", format.name);
        for batch in &batches {
            // A batch is full before the row that does not fit; the headers of its last row may still come.
            assert!(
                batch.len() == 1 || batch.raw_bytes() <= 3 << 20,
                "{} rows of {} bytes",
                batch.len(),
                batch.raw_bytes()
            );
        }
        assert!(file.blocks.len() > 1);
        assert!(file.blocks.iter().all(|block| block.len() < 26 << 20));
    }
}

#[test]
fn many_small_records_come_back_in_batches_of_bounded_size() {
    let written: Vec<_> = (0..50_000).map(|offset| plain(offset * 2, b"x".to_vec())).collect();
    for format in FORMATS {
        let file = encode(format, format.codecs[0].name, &[(batch(&written), Step::Go)]);
        let batches = file.batches(format).unwrap();
        assert_eq!(batches.iter().flat_map(records).collect::<Vec<_>>(), written);
        assert!(batches.iter().all(|batch| batch.len() <= 8192));
        for (before, after) in batches.iter().zip(&batches[1..]) {
            assert_eq!(before.next_offset(), before.offsets()[before.len() - 1] + 1);
            assert_eq!(after.base_offset(), before.next_offset());
        }
    }
}

#[test]
fn an_encoder_knows_which_small_batch_ends_a_block() {
    let value = noise(8 << 10);
    for format in FORMATS {
        let codec = format.codecs[0].name;
        let mut encoder = format.encoder(header(), format.compression(codec, None).unwrap()).unwrap();
        let (mut told, mut ended) = (0, 0);
        for offset in 0..3_000 {
            let batch = batch(&[plain(offset, value.clone())]);
            encoder.take_encoded();
            let tells = encoder.ends_block(&batch);
            encoder.append(&batch).unwrap();
            let ends = !encoder.take_encoded().is_empty();
            assert!(tells || !ends, "{} {codec}: offset {offset} ended a block", format.name);
            told += usize::from(tells);
            ended += usize::from(ends);
        }
        assert!((1..=ended).contains(&told), "{} {codec}: {ended} blocks ended, {told} were told", format.name);
    }
}

#[test]
fn an_encoder_holds_no_more_than_a_row_group_whose_bytes_are_taken() {
    let megabyte =
        batch(&(0..1024).map(|offset| plain(offset, noise(1000 + offset as usize % 50))).collect::<Vec<_>>());
    for (format, codec) in codecs() {
        let mut encoder = format.encoder(header(), format.compression(codec, None).unwrap()).unwrap();
        let (mut most, mut taken) = (0, 0);
        for offset in 0..40 {
            let mut builder = BatchBuilder::new(partition(), offset * 1024);
            for row in megabyte.rows() {
                builder.push(offset * 1024 + row.offset(), (0, None), None, row.value());
            }
            encoder.append(&builder.build(offset * 1024 + 1024)).unwrap();
            most = most.max(encoder.memory_bytes());
            let stored = encoder.stored_bytes();
            taken += encoder.take_encoded().len() as u64;
            assert!(taken <= stored && stored < (offset as u64 + 2) << 20, "{} {codec}: {stored} stored", format.name);
        }
        assert!((64 << 10..24 << 20).contains(&most), "{} {codec} held {most} bytes", format.name);
        encoder.end_block().unwrap();
        taken += encoder.take_encoded().len() as u64;
        assert!(encoder.memory_bytes() < 768 << 10, "{} {codec} holds {} bytes", format.name, encoder.memory_bytes());
        let tail = encoder.finish().unwrap();
        assert_eq!(taken + encoder.take_encoded().len() as u64, tail.stored_bytes);
    }
}

/// They have no bytes, and each is a value that a reader counts: more than it takes of one block.
#[test]
fn records_of_nothing_but_empty_headers_come_back() {
    const ROWS: i64 = 8192;
    const BATCHES: i64 = 16;
    const HEADERS: usize = 136;
    let batch = |number: i64| {
        let mut builder = BatchBuilder::new(partition(), number * ROWS);
        for offset in number * ROWS..(number + 1) * ROWS {
            builder.push(offset, (0, Some(TimestampType::Create)), None, None);
            (0..HEADERS).for_each(|_| builder.header("", None));
        }
        (builder.build((number + 1) * ROWS), Step::Go)
    };
    let format = FORMATS.iter().find(|format| format.name == "archive.parquet").unwrap();
    let file = encode(format, "none", &(0..BATCHES).map(batch).collect::<Vec<_>>());
    let headers = |batch: &Batch| batch.headers().entries(batch.row_range()).len();
    let read: usize = file.batches(format).unwrap().iter().map(headers).sum();
    assert_eq!(read, (BATCHES * ROWS) as usize * HEADERS);
}

#[test]
fn a_file_without_records_is_whole() {
    for (format, codec) in codecs() {
        let empty = Batch::position_only(partition(), 3, 9);
        let file = encode(format, codec, &[(empty, Step::EndBlock)]);
        assert_eq!(file.blocks.len(), 1);
        assert_eq!(file.records(format).unwrap(), []);
        assert_eq!(file.decoder(format).unwrap().metadata().first_offset, None);
    }
}

#[test]
fn rows_of_another_partition_or_out_of_order_are_refused() {
    for format in FORMATS {
        let mut encoder = format.encoder(header(), format.compression("snappy", None).unwrap()).unwrap();
        encoder.append(&batch(&[plain(5, vec![]), plain(6, vec![])])).unwrap();
        let error = encoder.append(&batch(&[plain(6, vec![])])).unwrap_err();
        assert_eq!(
            (error.kind(), error.message()),
            (Kind::Fatal, "offset 6 of orders-7 after offset 6 of the same file")
        );
        let mut other = BatchBuilder::new(TopicPartition::new("orders", 8), 9);
        other.push(9, (0, None), None, None);
        let error = encoder.append(&other.build(10)).unwrap_err();
        assert_eq!(error.message(), "rows of orders-8 for a file of orders-7");
        encoder.finish().unwrap();
        assert_eq!(encoder.append(&batch(&[plain(9, vec![])])).unwrap_err().kind(), Kind::Fatal);
    }
}

#[test]
fn a_file_is_read_only_as_the_partition_and_the_format_that_it_is() {
    for format in FORMATS {
        let file = encode(format, "snappy", &[(batch(&[plain(5, vec![])]), Step::Go)]);
        let (prelude, blocks) = (format.prelude(&file.tail.blocks), &file.tail.blocks);
        let decoder =
            format.decoder(file.blocks[prelude].clone(), blocks, &TopicPartition::new("orders", 6), MUCH).unwrap();
        let error = decoder.decode(0, file.blocks[0].clone()).unwrap().next().unwrap().unwrap_err();
        assert_eq!(error.message(), "the file holds rows of orders-7, but orders-6 is read");
        assert!(decoder.decode(blocks.len(), Bytes::new()).is_err());
        for other in FORMATS.iter().filter(|other| other.name != format.name) {
            assert!(file.decoder(other).is_err());
        }
        if format.name == "archive.parquet" {
            let footer_only = format.decoder(file.blocks[1].clone(), &blocks[1..], &partition(), MUCH);
            assert_eq!(footer_only.err().unwrap().message(), "the file has 1 row groups, but 1 blocks");
        }
    }
}
