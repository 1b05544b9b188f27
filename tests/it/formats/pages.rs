//! The page indexes of Parquet files in the hands of a reader that goes by them. pyarrow and DuckDB read the files
//! whole or cut by row group, and never look where a page lies; the `parquet` crate jumps to the pages of a selection
//! by the offset index alone. Its reader shares nothing with our page writer.
//!
//! What a selection brings is compared with the rows of the file read from one end to the other, which other readers
//! have judged. Every column is read by itself as well: each has pages of its own.

use std::fs;

use bytes::Bytes;
use lakeferry_api::Batch;
use lakeferry_lake::format::FORMATS;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::{FIRST_BLOCK, ROWS, batch, write};
use crate::kit;

const SELECTIONS: u64 = 12;
/// The columns that readers cut by.
const OFFSET: usize = 2;
const TIMESTAMP: usize = 3;

#[test]
fn a_reader_that_jumps_by_the_page_index_finds_the_rows() {
    let folder = kit::run_dir().unwrap().join("pages");
    fs::create_dir_all(&folder).unwrap();
    let batch = batch();
    let format = FORMATS.iter().find(|format| format.name == "archive.parquet").unwrap();
    for codec in format.codecs {
        let path = folder.join(codec.name);
        write(&path, format, codec.name, &batch);
        let file = Bytes::from(fs::read(&path).unwrap());
        let metadata = builder(&file, PageIndexPolicy::Required).metadata().as_ref().clone();
        check_places(&metadata, codec.name);
        check_bounds(&metadata, &batch);
        check_selections(&file, codec.name);
    }
}

fn builder(file: &Bytes, index: PageIndexPolicy) -> ParquetRecordBatchReaderBuilder<Bytes> {
    let options = ArrowReaderOptions::new().with_page_index_policy(index);
    ParquetRecordBatchReaderBuilder::try_new_with_options(file.clone(), options).unwrap().with_batch_size(ROWS)
}

/// The pages of every column touch, lie in its chunk, and begin at rows that grow from 0.
fn check_places(metadata: &ParquetMetaData, codec: &str) {
    for (at, group) in metadata.row_groups().iter().enumerate() {
        let index = metadata.page_index_for_row_group(at);
        for (column, chunk) in group.columns().iter().enumerate() {
            let (from, len) = chunk.byte_range();
            let mut pages = index.page_locations(column).unwrap().iter().peekable();
            let first = pages.peek().unwrap();
            let name = format!("{codec}: {}", chunk.column_path());
            assert_eq!((first.first_row_index, first.offset), (0, chunk.data_page_offset()), "{name}");
            while let Some(page) = pages.next() {
                let end = page.offset + i64::from(page.compressed_page_size);
                match pages.peek() {
                    Some(next) => assert!(next.offset == end && next.first_row_index > page.first_row_index, "{name}"),
                    None => assert!(end == (from + len) as i64 && page.first_row_index < group.num_rows(), "{name}"),
                }
            }
        }
    }
}

/// What the column index says of each page is true of the rows that the offset index gives it.
fn check_bounds(metadata: &ParquetMetaData, batch: &Batch) {
    let rows: Vec<_> = batch.rows().map(|row| [Some(row.offset()), row.timestamp()]).collect();
    let mut pages = 0;
    for (at, rows) in [&rows[..FIRST_BLOCK], &rows[FIRST_BLOCK..]].into_iter().enumerate() {
        let index = metadata.page_index_for_row_group(at);
        for (column, of) in [(OFFSET, 0), (TIMESTAMP, 1)] {
            let places = index.page_locations(column).unwrap();
            let Some(ColumnIndexMetaData::INT64(bounds)) = index.column_index(column) else {
                panic!("no bounds of column {column}");
            };
            assert_eq!(bounds.num_pages() as usize, places.len());
            for (page, place) in places.iter().enumerate() {
                let end = places.get(page + 1).map_or(rows.len(), |next| next.first_row_index as usize);
                let values: Vec<_> = rows[place.first_row_index as usize..end].iter().map(|row| row[of]).collect();
                let known = || values.iter().flatten();
                assert_eq!((bounds.min_value(page), bounds.max_value(page)), (known().min(), known().max()));
                assert_eq!(bounds.null_count(page), Some((values.len() - known().count()) as i64));
                pages += 1;
            }
        }
    }
    assert!(pages > 4, "the rows take more than one page a column");
}

/// Rows chosen anywhere are the rows that stand there.
fn check_selections(file: &Bytes, codec: &str) {
    let whole: Vec<_> = builder(file, PageIndexPolicy::Skip).build().unwrap().map(Result::unwrap).collect();
    let [whole] = &whole[..] else { panic!("{} batches", whole.len()) };
    assert_eq!(whole.num_rows(), ROWS);
    let mut dice = StdRng::seed_from_u64(7);
    for column in (0..whole.num_columns()).map(Some).chain([None]) {
        let columns: Vec<usize> = column.map_or((0..whole.num_columns()).collect(), |column| vec![column]);
        let due = whole.project(&columns).unwrap();
        for _ in 0..SELECTIONS {
            let chosen = selection(&mut dice);
            let reader = builder(file, PageIndexPolicy::Required);
            let mask = ProjectionMask::roots(reader.parquet_schema(), columns.iter().copied());
            let reader = reader.with_projection(mask).with_row_selection(RowSelection::from(chosen.clone()));
            let mut found = reader.build().unwrap().map(Result::unwrap);
            let found = found.next().unwrap();
            let (mut row, mut read) = (0, 0);
            for selector in &chosen {
                if !selector.skip {
                    let (is, should) = (found.slice(read, selector.row_count), due.slice(row, selector.row_count));
                    assert!(is == should, "{codec}, columns {columns:?}: rows {row} and after differ");
                    read += selector.row_count;
                }
                row += selector.row_count;
            }
            assert_eq!(found.num_rows(), read);
        }
    }
}

/// Some rows of a few places, everything between them left out.
fn selection(dice: &mut StdRng) -> Vec<RowSelector> {
    let mut selectors = Vec::new();
    let mut row = 0;
    while row < ROWS {
        let (skipped, read) = (dice.random_range(1..9_000), dice.random_range(1..300));
        let skipped = skipped.min(ROWS - row - 1);
        let read = read.min(ROWS - row - skipped);
        selectors.extend([RowSelector::skip(skipped), RowSelector::select(read)]);
        row += skipped + read;
    }
    selectors.retain(|selector| selector.row_count > 0);
    selectors
}
