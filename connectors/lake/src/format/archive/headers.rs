//! The headers of a row group: two columns below a list, which the parquet crate writes. Called by
//! [`super::row_group`].
//!
//! Invariant: a group of records without headers, the common case, costs nothing until it ends.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, ListArray, StringArray, StructArray};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::ArrowError;
use lakeferry_api::batch::{Column, Headers};
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::data_type::ByteArrayType;
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedRowGroupWriter;

use super::super::output::Output;
use super::schema;

/// Where the two columns stand in the schema; they are the last.
const HEADER_KEY: usize = 7;
/// What a column writer holds before it holds a page.
const WRITER_BYTES: usize = 6 << 10;

/// See the module.
#[derive(Default)]
pub(super) struct HeadersColumn {
    /// Rows before the first that has headers.
    bare_rows: usize,
    writers: Vec<ArrowColumnWriter>,
}

impl HeadersColumn {
    /// Adds the headers of `rows`.
    ///
    /// # Errors
    /// The crate's.
    pub(super) fn write(
        &mut self,
        headers: &Headers,
        rows: Range<usize>,
        writers: &ArrowRowGroupWriterFactory,
    ) -> Result<(), ParquetError> {
        if self.writers.is_empty() {
            if headers.entries(rows.clone()).is_empty() {
                self.bare_rows += rows.len();
                return Ok(());
            }
            self.writers = writers.create_column_writers(0)?.split_off(HEADER_KEY);
            self.write_lists(lists(&Headers::default(), OffsetBuffer::new_zeroed(self.bare_rows), 0..0)?)?;
        }
        let entries = headers.entries(rows.clone());
        let first = entries.start as i32;
        let ends = headers.row_ends()[rows.start..=rows.end].iter().map(|end| end - first);
        self.write_lists(lists(headers, OffsetBuffer::new(ends.collect()), entries)?)
    }

    fn write_lists(&mut self, lists: ListArray) -> Result<(), ParquetError> {
        let lists: ArrayRef = Arc::new(lists);
        for (writer, leaf) in self.writers.iter_mut().zip(compute_leaves(&schema::headers(), &lists)?) {
            writer.write(&leaf)?;
        }
        Ok(())
    }

    /// How long the columns would be if they ended now, near enough.
    pub(super) fn stored_bytes(&self) -> usize {
        self.writers.iter().map(ArrowColumnWriter::get_estimated_total_bytes).sum()
    }

    /// The memory they hold.
    pub(super) fn memory_bytes(&self) -> usize {
        self.writers.iter().map(|writer| WRITER_BYTES + writer.memory_size()).sum()
    }

    /// True once a record had headers.
    pub(super) fn has_any(&self) -> bool {
        !self.writers.is_empty()
    }

    /// Makes both columns, which have `rows` rows, the next ones of `group`.
    ///
    /// # Errors
    /// The crate's.
    pub(super) fn append_to(
        self,
        rows: usize,
        group: &mut SerializedRowGroupWriter<'_, Output>,
    ) -> Result<(), ParquetError> {
        if self.has_any() {
            return self.writers.into_iter().try_for_each(|writer| writer.close()?.append_to_row_group(group));
        }
        // An empty list: no level is reached and nothing is repeated.
        let levels = vec![0; rows];
        while let Some(mut column) = group.next_column()? {
            column.typed::<ByteArrayType>().write_batch(&[], Some(&levels), Some(&levels))?;
            column.close()?;
        }
        Ok(())
    }
}

fn lists(headers: &Headers, row_ends: OffsetBuffer<i32>, entries: Range<usize>) -> Result<ListArray, ArrowError> {
    let keys = headers.keys();
    let keys = StringArray::try_new(ends_of(keys, entries.clone()), Buffer::from(keys.bytes().clone()), None)?;
    let values = binary(headers.values(), entries)?;
    let entries = StructArray::try_new(schema::entry_fields(), vec![Arc::new(keys), Arc::new(values)], None)?;
    ListArray::try_new(schema::entry(), row_ends, Arc::new(entries), None)
}

fn binary(column: &Column, rows: Range<usize>) -> Result<BinaryArray, ArrowError> {
    let nulls = (column.nulls() > 0)
        .then(|| NullBuffer::new(BooleanBuffer::from_bits(column.validity(), rows.start, rows.len())));
    BinaryArray::try_new(ends_of(column, rows), Buffer::from(column.bytes().clone()), nulls)
}

fn ends_of(column: &Column, rows: Range<usize>) -> OffsetBuffer<i32> {
    match column.ends().get(rows.start..=rows.end) {
        Some(ends) => OffsetBuffer::new(ScalarBuffer::from(ends.to_vec())),
        None => OffsetBuffer::new_empty(),
    }
}
