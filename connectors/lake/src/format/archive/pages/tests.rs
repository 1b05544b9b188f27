use std::sync::Arc;

use bytes::Bytes;
use lakeferry_api::measure::peak_of;
use lakeferry_api::{Kind, TopicPartition};
use parquet::file::metadata::KeyValue;
use parquet::file::writer::SerializedFileWriter;

use super::super::chunk::Chunk;
use super::super::columns::{LabelColumn, append_integers};
use super::super::encodings::{put_deltas, put_varint, put_zigzag};
use super::super::row_group::plain;
use super::super::{decode, properties, schema};
use super::*;
use crate::format::output::Output;
use crate::format::{Block, Compression, FORMATS, FileHeader, FileMetadata};

const VALUE: usize = 6;
const HEADER_KEY: usize = 7;
const MIB: usize = 1 << 20;
/// What decoding holds whatever it decodes.
const SMALL: usize = MIB;
/// Of a manifest that says nothing of use.
const MUCH: Content = Content { records: u64::MAX, raw_bytes: u64::MAX };

/// A column that somebody else wrote: what follows the levels of its only page, and the dictionary before it.
struct Foreign {
    encoding: Encoding,
    dictionary: Option<(Vec<u8>, i32)>,
    values: Vec<u8>,
}

impl Foreign {
    fn of(encoding: Encoding, values: Vec<u8>) -> Self {
        Self { encoding, dictionary: None, values }
    }

    /// One value, named again and again.
    fn repeating(value: &[u8], rows: usize) -> Self {
        let page = [&(value.len() as u32).to_le_bytes(), value].concat();
        let mut values = vec![1];
        put_varint((rows as u64) << 1, &mut values);
        values.push(0);
        Self { encoding: Encoding::RLE_DICTIONARY, dictionary: Some((page, 1)), values }
    }

    /// One value, and others that share all of it with the one before them.
    fn sharing(value: &[u8], rows: usize) -> Self {
        let (mut shared, mut own) = (vec![value.len() as i32; rows], vec![0; rows]);
        (shared[0], own[0]) = (0, value.len() as i32);
        let mut values = Vec::new();
        put_deltas(&shared, &mut values);
        put_deltas(&own, &mut values);
        values.extend_from_slice(value);
        Self::of(Encoding::DELTA_BYTE_ARRAY, values)
    }

    fn chunk(&self, place: usize, levels: &[u8], rows: usize, codec: Compression) -> Chunk {
        let mut chunk = Chunk::new(schema::parquet().unwrap().column(place), codec, self.encoding);
        if let Some((page, values)) = &self.dictionary {
            chunk.push_dictionary(page, *values).unwrap();
        }
        chunk.push_data(&[levels, &self.values].concat(), rows, None).unwrap();
        chunk
    }
}

/// Levels that are the same for all rows.
fn levels(level: u8, rows: usize) -> Vec<u8> {
    let mut run = Vec::new();
    put_varint((rows as u64) << 1, &mut run);
    run.push(level);
    [&(run.len() as u32).to_le_bytes()[..], &run].concat()
}

fn partition() -> TopicPartition {
    TopicPartition::new("orders", 7)
}

/// A file of `rows` rows with `foreign` as its column at `place`; a header without value in each row, if those are it.
fn file(place: usize, foreign: &Foreign, rows: usize, codec: &str) -> (Bytes, Vec<Block>) {
    let codec = FORMATS[0].compression(codec, None).unwrap();
    let schema = schema::parquet().unwrap();
    let properties = Arc::new(properties(codec).unwrap());
    let mut file = SerializedFileWriter::new(Output::new(), schema.root_schema_ptr(), properties).unwrap();
    let mut group = file.next_row_group().unwrap();
    let label = |place: usize| {
        let mut label = LabelColumn::new(schema.column(place));
        label.extend_first(rows);
        label
    };
    label(0).append_to([&plain("orders"), &[]], &mut group).unwrap();
    label(1).append_to([&7_i32.to_le_bytes(), &[]], &mut group).unwrap();
    let numbers: Vec<i64> = (0..rows as i64).collect();
    append_integers(&numbers, None, &mut group).unwrap();
    append_integers(&numbers, Some(&vec![1; rows]), &mut group).unwrap();
    label(4).append_to([&plain("create"), &[]], &mut group).unwrap();
    let empty = Foreign::of(Encoding::PLAIN, Vec::new());
    let (has_value, has_headers) = (u8::from(place == VALUE), u8::from(place == HEADER_KEY));
    let lists = [levels(0, rows), levels(has_headers, rows)].concat();
    for (here, levels) in
        [(5, &levels(0, rows)), (VALUE, &levels(has_value, rows)), (HEADER_KEY, &lists), (HEADER_KEY + 1, &lists)]
    {
        let column = if here == place { foreign } else { &empty };
        column.chunk(here, levels, rows, codec).append_to(&mut group).unwrap();
    }
    group.close().unwrap();
    file.flush().unwrap();
    file.inner_mut().end_block();
    let header = FileHeader { partition: partition(), cluster_id: None, topic_id: None };
    for (key, value) in FileMetadata::new(&header).pairs() {
        file.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
    }
    file.finish().unwrap();
    let blocks = file.inner_mut().finish().blocks;
    (file.inner_mut().take(), blocks)
}

/// What decoding `file` holds at its peak, and how many rows and bytes come of it.
fn read((bytes, blocks): &(Bytes, Vec<Block>), content: Content) -> (usize, lakeferry_api::Result<(usize, usize)>) {
    let block = |index: usize| bytes.slice(blocks[index].at as usize..(blocks[index].at + blocks[index].len) as usize);
    peak_of(|| {
        let decoder = decode::decoder(block(1), blocks, &partition(), content)?;
        let (mut rows, mut raw_bytes) = (0, 0);
        for batch in decoder.decode(0, block(0))? {
            let batch = batch?;
            rows += batch.len();
            raw_bytes += batch.raw_bytes();
        }
        Ok((rows, raw_bytes))
    })
}

#[track_caller]
fn refused(file: &(Bytes, Vec<Block>), content: Content, most_held: usize, why: &str) {
    let (held, read) = read(file, content);
    let error = read.unwrap_err();
    assert_eq!(error.kind(), Kind::Fatal);
    assert!(error.message().contains(why), "{error}");
    assert!(held < most_held, "{held} bytes were held: {error}");
}

/// A header of integers without the integers.
fn deltas(count: u64) -> Vec<u8> {
    let mut header = Vec::new();
    put_varint(128, &mut header);
    put_varint(4, &mut header);
    put_varint(count, &mut header);
    put_zigzag(0, &mut header);
    header
}

#[test]
fn lengths_are_not_made_room_for_because_a_page_says_so() {
    for count in [9, 1 << 24, 1 << 31, 1 << 40, u64::MAX] {
        let why = format!("a page of column \"value\" says that {count} lengths follow, but has 8 values");
        for encoding in [Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::DELTA_BYTE_ARRAY] {
            refused(&file(VALUE, &Foreign::of(encoding, deltas(count)), 8, "none"), MUCH, SMALL, &why);
        }
        let mut second = Vec::new();
        put_deltas(&[0; 8], &mut second);
        second.extend(deltas(count));
        refused(&file(VALUE, &Foreign::of(Encoding::DELTA_BYTE_ARRAY, second), 8, "none"), MUCH, SMALL, &why);
    }
}

#[test]
fn a_dictionary_has_no_more_values_than_it_has_room_for() {
    for count in [2, 1 << 24, i32::MAX] {
        let mut foreign = Foreign::repeating(b"x", 8);
        foreign.dictionary = foreign.dictionary.map(|(page, _)| (page, count));
        let why = format!("says that it holds {count} values, but has 5 bytes");
        refused(&file(VALUE, &foreign, 8, "none"), MUCH, SMALL, &why);
    }
    let mut beyond = Foreign::repeating(b"x", 8);
    beyond.values[2] = 1;
    refused(&file(VALUE, &beyond, 8, "none"), MUCH, SMALL, "names values that its dictionary does not have");
}

/// Each comes to 8 GiB of 1 MiB, which is what there is of it.
#[test]
fn a_value_is_not_written_out_more_often_than_the_manifest_counts() {
    let (value, rows) = (vec![b'x'; MIB], 8192);
    for foreign in [Foreign::repeating(&value, rows), Foreign::sharing(&value, rows)] {
        for place in [VALUE, HEADER_KEY] {
            let file = file(place, &foreign, rows, "snappy");
            let honest = Content { records: rows as u64, raw_bytes: 40 };
            let why = "take more than 69730344 bytes, but the manifest says that the file holds 8192 records of 40 \
                       bytes in all";
            refused(&file, honest, 8 * MIB, why);
            refused(&file, MUCH, 8 * MIB, "take more than 2147483647 bytes");
        }
    }
}

#[test]
fn what_others_write_with_repeats_is_read_a_few_rows_at_a_time() {
    let (value, rows) = (vec![b'x'; MIB], 400);
    let content = Content { records: rows as u64, raw_bytes: (rows * MIB) as u64 };
    for foreign in [Foreign::repeating(&value, rows), Foreign::sharing(&value, rows)] {
        let (held, read) = read(&file(VALUE, &foreign, rows, "zstd"), content);
        assert_eq!(read.unwrap(), (rows, rows * MIB));
        assert!(held < 80 * MIB, "{held} bytes were held");
    }
    let rows = 20_000;
    let content = Content { records: rows as u64, raw_bytes: 0 };
    for foreign in [Foreign::repeating(b"header", rows), Foreign::sharing(b"header", rows)] {
        let (held, read) = read(&file(HEADER_KEY, &foreign, rows, "none"), content);
        assert_eq!(read.unwrap(), (rows, 6 * rows));
        assert!(held < 8 * MIB, "{held} bytes were held");
    }
}

/// 96 MiB of nothing take a few thousand bytes.
#[test]
fn a_page_is_not_decompressed_beyond_what_the_manifest_counts() {
    for codec in ["snappy", "gzip", "lz4_raw", "zstd"] {
        let len = (96 * MIB as u32).to_le_bytes();
        let bomb = Foreign::of(Encoding::PLAIN, [&len[..], &vec![0; 96 * MIB]].concat());
        let file = file(VALUE, &bomb, 1, codec);
        let why = "the pages of column \"value\" come to more than 67109284 bytes";
        refused(&file, Content { records: 1, raw_bytes: 100 }, SMALL, why);
        let (held, read) = read(&file, Content { records: 1, raw_bytes: 96 << 20 });
        assert_eq!(read.unwrap(), (1, 96 * MIB));
        assert!(held < 3 * 96 * MIB, "{held} bytes were held");
    }
}
