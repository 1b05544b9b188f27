//! The rows of one row group until it is written. Called by the encoder in [`super`], which ends a group when it holds
//! enough.
//!
//! Invariant: all columns hold the same rows. Keys and values are encoded and compressed page by page as they come;
//! what takes a few bytes a row waits until the group ends; headers cost nothing until a record has some.

use std::ops::Range;

use lakeferry_api::batch::NO_TIMESTAMP;
use lakeferry_api::{Batch, TimestampType, TopicPartition};
use parquet::arrow::arrow_writer::ArrowRowGroupWriterFactory;
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::SchemaDescriptor;

use super::super::Compression;
use super::super::output::Output;
use super::super::rows::{APPEND, CREATE};
use super::columns::{BytesColumn, LabelColumn, append_integers};
use super::headers::HeadersColumn;

/// Places in the schema.
const TOPIC: usize = 0;
const PARTITION: usize = 1;
const TIMESTAMP_TYPE: usize = 4;
const KEY: usize = 5;
const VALUE: usize = 6;
/// What a row takes in a file beyond key, value and headers, near enough: timestamps vary a little.
const STORED_ROW_BYTES: usize = 2;

/// See the module.
pub(super) struct RowGroup {
    topic: LabelColumn,
    partition: LabelColumn,
    offsets: Vec<i64>,
    timestamps: Vec<i64>,
    timestamp_types: LabelColumn,
    keys: BytesColumn,
    values: BytesColumn,
    headers: HeadersColumn,
}

impl RowGroup {
    /// A group without rows.
    pub(super) fn new(schema: &SchemaDescriptor, compression: Compression) -> Self {
        let column = |place| schema.column(place);
        Self {
            topic: LabelColumn::new(column(TOPIC)),
            partition: LabelColumn::new(column(PARTITION)),
            offsets: Vec::new(),
            timestamps: Vec::new(),
            timestamp_types: LabelColumn::new(column(TIMESTAMP_TYPE)),
            keys: BytesColumn::new(column(KEY), compression),
            values: BytesColumn::new(column(VALUE), compression),
            headers: HeadersColumn::default(),
        }
    }

    /// How many rows it holds.
    pub(super) fn rows(&self) -> usize {
        self.offsets.len()
    }

    /// How long it would be if it ended now, near enough.
    pub(super) fn stored_bytes(&self) -> usize {
        let bytes = self.keys.stored_bytes() + self.values.stored_bytes() + self.headers.stored_bytes();
        bytes + STORED_ROW_BYTES * self.rows()
    }

    /// The memory it holds.
    pub(super) fn memory_bytes(&self) -> usize {
        let integers = 8 * (self.offsets.capacity() + self.timestamps.capacity());
        self.keys.memory_bytes() + self.values.memory_bytes() + self.headers.memory_bytes() + integers
    }

    /// Adds `rows` of `batch`.
    ///
    /// # Errors
    /// The codec's or the parquet crate's.
    pub(super) fn write(
        &mut self,
        batch: &Batch,
        rows: Range<usize>,
        writers: &ArrowRowGroupWriterFactory,
    ) -> Result<(), ParquetError> {
        let start = batch.row_range().start;
        let arena_rows = start + rows.start..start + rows.end;
        self.topic.extend_first(rows.len());
        self.partition.extend_first(rows.len());
        self.offsets.extend_from_slice(&batch.offsets()[rows.clone()]);
        let timestamps = &batch.timestamps()[rows.clone()];
        self.timestamps.extend_from_slice(timestamps);
        self.write_timestamp_types(&batch.timestamp_types()[rows], timestamps);
        self.keys.write(batch.keys(), arena_rows.clone())?;
        self.values.write(batch.values(), arena_rows.clone())?;
        self.headers.write(batch.headers(), arena_rows, writers)
    }

    /// A record without timestamp has no type of one.
    fn write_timestamp_types(&mut self, types: &[Option<TimestampType>], timestamps: &[i64]) {
        let is_plain =
            |(stamped, timestamp): (&_, &_)| *stamped == Some(TimestampType::Create) && *timestamp != NO_TIMESTAMP;
        if types.iter().zip(timestamps).all(is_plain) {
            return self.timestamp_types.extend_first(types.len());
        }
        for (stamped, timestamp) in types.iter().zip(timestamps) {
            let stamped = stamped.filter(|_| *timestamp != NO_TIMESTAMP);
            self.timestamp_types.push(stamped.map(|stamped| stamped == TimestampType::Append));
        }
    }

    /// Writes the group, whose rows are of `partition`, to `file`. It is empty then; memory for pages to come stays.
    ///
    /// # Errors
    /// The codec's or the parquet crate's.
    pub(super) fn end(
        &mut self,
        partition: &TopicPartition,
        file: &mut SerializedFileWriter<Output>,
    ) -> Result<(), ParquetError> {
        let stored_bytes = self.stored_bytes();
        file.inner_mut().reserve(stored_bytes);
        let mut group = file.next_row_group()?;
        self.topic.append_to([&plain(&partition.topic), &[]], &mut group)?;
        self.partition.append_to([&partition.partition.to_le_bytes(), &[]], &mut group)?;
        append_integers(&self.offsets, None, &mut group)?;
        let present: Vec<_> = self.timestamps.iter().map(|timestamp| i16::from(*timestamp != NO_TIMESTAMP)).collect();
        self.timestamps.retain(|timestamp| *timestamp != NO_TIMESTAMP);
        append_integers(&self.timestamps, Some(&present), &mut group)?;
        self.timestamp_types.append_to([&plain(CREATE), &plain(APPEND)], &mut group)?;
        self.keys.append_to(&mut group)?;
        self.values.append_to(&mut group)?;
        std::mem::take(&mut self.headers).append_to(self.offsets.len(), &mut group)?;
        self.offsets.clear();
        self.timestamps.clear();
        group.close()?;
        Ok(())
    }

    /// Gives back memory that it keeps for pages to come.
    pub(super) fn shrink(&mut self) {
        self.keys.shrink();
        self.values.shrink();
        self.offsets.shrink_to_fit();
        self.timestamps.shrink_to_fit();
    }
}

/// A string as a dictionary has it.
pub(super) fn plain(text: &str) -> Vec<u8> {
    let len = (text.len() as u32).to_le_bytes();
    [&len, text.as_bytes()].concat()
}
