//! The format suite: what every row of [`FORMATS`] must do.

use bytes::BytesMut;
use lakeferry_api::batch::NO_TIMESTAMP;
use lakeferry_api::{BatchBuilder, TimestampType};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

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

/// A stored file.
#[derive(Debug, Clone)]
struct File {
    bytes: Bytes,
    tail: Tail,
}

impl File {
    fn block(&self, index: usize) -> Bytes {
        let block = &self.tail.blocks[index];
        self.bytes.slice(block.at as usize..(block.at + block.len) as usize)
    }

    fn decoder(&self, format: &FileFormat) -> Result<Box<dyn FileDecoder>> {
        let prelude = self.block(format.prelude(&self.tail.blocks));
        format.decoder(prelude, &self.tail.blocks, &partition())
    }

    fn batches(&self, format: &FileFormat) -> Result<Vec<Batch>> {
        let decoder = self.decoder(format)?;
        let mut batches = Vec::new();
        for index in 0..self.tail.blocks.len() {
            for batch in decoder.decode(index, self.block(index))? {
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
    File { bytes: bytes.freeze(), tail }
}

fn codecs() -> impl Iterator<Item = (&'static FileFormat, &'static str)> {
    FORMATS.iter().flat_map(|format| format.codecs.iter().map(move |codec| (format, codec.name)))
}

/// The laws of blocks, and that each hash is right.
fn check_blocks(file: &File) {
    let mut at = 0;
    for (index, block) in file.tail.blocks.iter().enumerate() {
        assert_eq!(block.at, at);
        assert!(block.len > 0);
        block.check(&file.block(index)).unwrap();
        at += block.len;
    }
    assert_eq!((at, file.bytes.len() as u64), (file.tail.stored_bytes, file.tail.stored_bytes));
    assert_eq!(file.tail.sha256, hex(&Sha256::digest(&file.bytes)));
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_record_comes_back_byte_for_byte(
        records in any_records(60),
        cuts in vec((any::<prop::sample::Index>(), any_step()), 0..5),
    ) {
        let batches = cut(&batch(&records), &cuts);
        for (format, codec) in codecs() {
            let file = encode(format, codec, &batches);
            check_blocks(&file);
            prop_assert_eq!(&file.records(format).unwrap(), &records, "{} {}", format.name, codec);
            let metadata = file.decoder(format).unwrap().metadata().clone();
            prop_assert_eq!(metadata.first_offset, records.first().map(|record| record.offset));
            let last_offset = records.last().map(|record| record.offset).filter(|_| format.name != "archive.avro");
            prop_assert_eq!(metadata.last_offset, last_offset);
            prop_assert_eq!((metadata.cluster_id, metadata.topic_id), (header().cluster_id, header().topic_id));
        }
    }
}
