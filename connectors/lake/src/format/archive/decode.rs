//! The way back from `archive.parquet`: row groups to batches.
//!
//! Invariant: nothing is believed. The footer is compared with the schema that is written and with the file's blocks,
//! so that the reader below never looks outside the block it was given; every row is held to the partition and to
//! ascending offsets. What the parquet crate panics at in damaged pages becomes an error here.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use lakeferry_api::{Batch, BatchBuilder, ConnectError, Result, TopicPartition};
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use parquet::arrow::{FieldLevels, ProjectionMask, parquet_to_arrow_field_levels};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, Length};

use super::super::rows::{Offsets, STEP_BYTES, STEP_ROWS, steps};
use super::super::{Batches, Block, Content, FileDecoder, FileMetadata};
use super::pages::Group;
use super::{arrays, claims, schema};

const MAGIC: &[u8] = b"PAR1";
/// What is decoded at once is given as it is up to here, though it is somewhat more than a step.
const WHOLE_BYTES: usize = STEP_BYTES + STEP_BYTES / 4;

/// Where pages repeat values, so many bytes come of one step at most, or one row.
const REPEATED_BYTES: usize = 16 << 20;

struct ParquetDecoder {
    partition: TopicPartition,
    blocks: Vec<Block>,
    content: Content,
    footer: Arc<ParquetMetaData>,
    levels: FieldLevels,
    metadata: FileMetadata,
}

/// A decoder of the file whose last block is `prelude`.
pub(super) fn decoder(
    prelude: Bytes,
    blocks: &[Block],
    partition: &TopicPartition,
    content: Content,
) -> Result<Box<dyn FileDecoder>> {
    let footer = footer(&prelude, blocks)?;
    let pairs = footer.file_metadata().key_value_metadata();
    let metadata = FileMetadata::read(|key| {
        let pair = pairs.into_iter().flatten().find(|pair| pair.key == key);
        pair.and_then(|pair| pair.value.as_deref())
    })?;
    let (columns, wanted) = (footer.file_metadata().schema_descr(), arrays::schema());
    let levels = guarded(|| parquet_to_arrow_field_levels(columns, ProjectionMask::all(), Some(wanted.fields())))?;
    let (partition, blocks, footer) = (partition.clone(), blocks.to_vec(), Arc::new(footer));
    Ok(Box::new(ParquetDecoder { partition, blocks, content, footer, levels, metadata }))
}

impl FileDecoder for ParquetDecoder {
    fn metadata(&self) -> &FileMetadata {
        &self.metadata
    }

    fn decode(&self, index: usize, bytes: Bytes) -> Result<Batches> {
        let groups = self.footer.num_row_groups();
        if index == groups && index + 1 == self.blocks.len() {
            return Ok(Box::new(std::iter::empty()));
        }
        let Some(block) = self.blocks.get(index).filter(|_| index < groups) else {
            return Err(ConnectError::fatal(format!("a file of {} blocks has no block {index}", self.blocks.len())));
        };
        let group = self.footer.row_group(index);
        let source = Arc::new(BlockSource { at: block.at, bytes });
        let mut most_rows = rows_at_once(group);
        for column in group.columns() {
            let (start, len) = column.byte_range();
            let column_bytes = guarded(|| source.get_bytes(start, usize::try_from(len)?))?;
            let repeated = claims::check_pages(column, &column_bytes, self.content.most_bytes())?;
            if column.column_descr().max_rep_level() == 0 {
                most_rows = most_rows.min(REPEATED_BYTES / repeated.max(1)).max(1);
            }
        }
        let group = Group { source, metadata: Arc::clone(&self.footer), index, content: self.content };
        let rows =
            guarded(|| ParquetRecordBatchReader::try_new_with_row_groups(&self.levels, &group, most_rows, None))?;
        let (partition, offsets) = (self.partition.clone(), Offsets::default());
        Ok(Box::new(Rows { rows, partition, offsets, decoded: None, ended: false }))
    }
}

/// The rows of one row group, in batches.
struct Rows {
    rows: ParquetRecordBatchReader,
    partition: TopicPartition,
    offsets: Offsets,
    /// What was decoded and not given yet, with the first row that was not.
    decoded: Option<(Batch, usize)>,
    ended: bool,
}

impl Rows {
    fn next_batch(&mut self) -> Result<Option<Batch>> {
        loop {
            if let Some((batch, from)) = self.decoded.take() {
                return Ok(Some(self.give(batch, from)));
            }
            let Some(arrays) = guarded(|| self.rows.next().transpose())? else { return Ok(None) };
            self.decoded = arrays::batch(&arrays, &self.partition, &mut self.offsets)?.map(|batch| (batch, 0));
        }
    }

    /// The next step of `batch`, from its row `from` on. Where rows are uneven and it takes several, each is a copy:
    /// whoever buffers it pays for its own bytes, and slices would hold those of all.
    fn give(&mut self, batch: Batch, from: usize) -> Batch {
        let rest = batch.slice(from..batch.len());
        let end = steps(&rest, STEP_BYTES, STEP_ROWS).next().map_or(batch.len(), |rows| from + rows.end);
        if from == 0 && (end == batch.len() || batch.raw_bytes() <= WHOLE_BYTES) {
            return batch;
        }
        let step = copy(&batch.slice(from..end));
        self.decoded = (end < batch.len()).then_some((batch, end));
        step
    }
}

impl Iterator for Rows {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let batch = self.next_batch().transpose();
        self.ended = !matches!(batch, Some(Ok(_)));
        batch
    }
}

/// `batch` with arenas of its own, which hold no other rows.
fn copy(batch: &Batch) -> Batch {
    let mut builder = BatchBuilder::new(batch.partition().clone(), batch.base_offset());
    builder.reserve(batch.len(), batch.values().byte_len(batch.row_range()));
    batch.rows().for_each(|row| builder.push_row(&row));
    builder.leader_epoch(batch.leader_epoch());
    builder.build(batch.next_offset())
}

/// A block's bytes at their place in the file.
pub(super) struct BlockSource {
    at: u64,
    bytes: Bytes,
}

impl BlockSource {
    fn slice(&self, start: u64, len: Option<usize>) -> Result<Bytes, ParquetError> {
        let from = start.checked_sub(self.at).and_then(|from| usize::try_from(from).ok());
        let from = from.filter(|from| *from <= self.bytes.len());
        let to = from.and_then(|from| len.map_or(Some(self.bytes.len()), |len| from.checked_add(len)));
        match (from, to) {
            (Some(from), Some(to)) if to <= self.bytes.len() => Ok(self.bytes.slice(from..to)),
            _ => Err(ParquetError::EOF(format!("{len:?} bytes at {start} are outside the block at {}", self.at))),
        }
    }
}

impl Length for BlockSource {
    fn len(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }
}

impl ChunkReader for BlockSource {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(self.slice(start, None)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.slice(start, Some(length))
    }
}

/// The footer, which fits the blocks of the file and the archive's columns.
fn footer(last: &Bytes, blocks: &[Block]) -> Result<ParquetMetaData> {
    let footer = last
        .strip_suffix(MAGIC)
        .and_then(|rest| rest.split_last_chunk::<4>())
        .and_then(|(rest, len)| rest.len().checked_sub(u32::from_le_bytes(*len) as usize).map(|from| &rest[from..]));
    let footer = footer.ok_or_else(|| ConnectError::fatal("the file does not end as a Parquet file does"))?;
    claims::check_footer(footer, blocks.len())?;
    let footer = guarded(|| ParquetMetaDataReader::decode_metadata(footer))?;
    let columns = footer.file_metadata().schema_descr();
    let expected = guarded(schema::parquet)?;
    if columns.root_schema().get_fields() != expected.root_schema().get_fields() {
        return Err(ConnectError::fatal("the Parquet file does not have the columns of archive.parquet"));
    }
    for (group, block) in footer.row_groups().iter().zip(blocks) {
        check_group(group, block)?;
    }
    Ok(footer)
}

/// Holds every column of `group` to the bytes of `block` and to numbers that fit them.
fn check_group(group: &RowGroupMetaData, block: &Block) -> Result<()> {
    let end = block.at.saturating_add(block.len);
    for column in group.columns() {
        let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
        let inside = u64::try_from(start).is_ok_and(|start| start >= block.at)
            && u64::try_from(column.compressed_size())
                .is_ok_and(|len| (start as u64).checked_add(len).is_some_and(|column_end| column_end <= end));
        if !inside {
            let path = column.column_path();
            return Err(ConnectError::fatal(format!("column {path} lies outside its block at {}", block.at)));
        }
    }
    if group.num_rows() < 0 || group.total_byte_size() < 0 {
        return Err(ConnectError::fatal(format!("the row group at {} has a negative size", block.at)));
    }
    Ok(())
}

/// How many rows of `group` are about [`STEP_BYTES`]: no more than it has.
fn rows_at_once(group: &RowGroupMetaData) -> usize {
    let rows = group.num_rows().max(1);
    let row_bytes = group.total_byte_size() / rows;
    (STEP_BYTES / (row_bytes as usize).max(1)).clamp(1, STEP_ROWS).min(rows as usize)
}

/// Runs a step of the parquet crate. What it was working on is dropped after an error, so nothing half done is seen.
fn guarded<T, E: Into<Box<dyn Error + Send + Sync>>>(step: impl FnOnce() -> Result<T, E>) -> Result<T> {
    let message = "the Parquet file is damaged, or Lakeferry did not write it";
    match catch_unwind(AssertUnwindSafe(step)) {
        Ok(done) => done.map_err(|error| {
            let error: Box<dyn Error + Send + Sync> = error.into();
            ConnectError::fatal(format!("{message}: {error}")).caused_by(error)
        }),
        Err(_) => Err(ConnectError::fatal(format!("{message}: the reader panicked, see the log"))),
    }
}
