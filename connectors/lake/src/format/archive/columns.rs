//! The columns of a row group that are written straight from a batch's arenas: byte strings, labels and integers.
//! Called by [`super::row_group`]. What headers need goes through the parquet crate's own writer.
//!
//! Invariant: a column copies a byte of a key or value once, behind the room that levels and lengths will take, and
//! what it copies to is used again from page to page.

use std::ops::Range;

use arrow_buffer::BooleanBufferBuilder;
use lakeferry_api::batch::Column;
use parquet::basic::Encoding;
use parquet::data_type::Int64Type;
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedRowGroupWriter;
use parquet::schema::types::ColumnDescPtr;

use super::super::Compression;
use super::super::output::Output;
use super::chunk::Chunk;
use super::encodings::{put_bits, put_deltas, put_levels, put_varint};

/// A page ends with the row that fills it. Below 256 KiB zstd works with tables that fit the fast caches, and a
/// thousand open files hold less; larger pages make files 1 % smaller.
pub(super) const PAGE_BYTES: usize = 240 << 10;
pub(super) const PAGE_ROWS: usize = 20_000;

/// Byte strings that may be null, as DELTA_LENGTH_BYTE_ARRAY: levels, lengths, then the bytes of one page together.
pub(super) struct BytesColumn {
    column: ColumnDescPtr,
    compression: Compression,
    chunk: Chunk,
    page: BytesPage,
}

/// A page in the making.
struct BytesPage {
    /// `room` bytes for levels and lengths, then the values.
    bytes: Vec<u8>,
    room: usize,
    lengths: Vec<i32>,
    present: BooleanBufferBuilder,
}

impl BytesColumn {
    /// A column without rows.
    pub(super) fn new(column: ColumnDescPtr, compression: Compression) -> Self {
        let chunk = Chunk::new(column.clone(), compression, Encoding::DELTA_LENGTH_BYTE_ARRAY);
        Self { column, compression, chunk, page: BytesPage::new() }
    }

    /// Adds `rows` of `column`.
    ///
    /// # Errors
    /// The codec's.
    pub(super) fn write(&mut self, column: &Column, mut rows: Range<usize>) -> Result<(), ParquetError> {
        while !rows.is_empty() {
            let fitting = self.page.fitting(column, rows.clone());
            self.page.extend(column, rows.start..fitting);
            rows.start = fitting;
            if self.page.is_full() {
                self.page.end(&mut self.chunk)?;
            }
        }
        Ok(())
    }

    /// How long the chunk would be if it ended now, near enough.
    pub(super) fn stored_bytes(&self) -> usize {
        self.chunk.stored_bytes() + self.page.bytes.len() - self.page.room
    }

    /// Memory of pages, finished or not.
    pub(super) fn memory_bytes(&self) -> usize {
        self.chunk.stored_bytes() + self.page.bytes.capacity() + 4 * self.page.lengths.capacity()
    }

    /// Ends the chunk and makes it the next column of `group`. The column is empty then and keeps its memory.
    ///
    /// # Errors
    /// The codec's, and those of [`Chunk::append_to`].
    pub(super) fn append_to(&mut self, group: &mut SerializedRowGroupWriter<'_, Output>) -> Result<(), ParquetError> {
        if !self.page.present.is_empty() {
            self.page.end(&mut self.chunk)?;
        }
        let next = Chunk::new(self.column.clone(), self.compression, Encoding::DELTA_LENGTH_BYTE_ARRAY);
        std::mem::replace(&mut self.chunk, next).append_to(group)
    }

    /// Gives back the memory that it keeps for pages to come.
    pub(super) fn shrink(&mut self) {
        if self.page.present.is_empty() {
            self.page = BytesPage::new();
        }
    }
}

impl BytesPage {
    fn new() -> Self {
        let present = BooleanBufferBuilder::new(0);
        Self { bytes: Vec::new(), room: 0, lengths: Vec::new(), present }
    }

    /// The end of those of `rows` that this page takes: at least one.
    fn fitting(&self, column: &Column, rows: Range<usize>) -> usize {
        let longest = rows.end.min(rows.start + PAGE_ROWS - self.present.len());
        let left = PAGE_BYTES.saturating_sub(self.bytes.len() - self.room);
        let ends = &column.ends()[rows.start..=longest];
        let filling = ends[1..].partition_point(|end| ((end - ends[0]) as usize) < left);
        longest.min(rows.start + filling + 1)
    }

    fn extend(&mut self, column: &Column, rows: Range<usize>) {
        let ends = &column.ends()[rows.start..=rows.end];
        self.bytes.extend_from_slice(&column.bytes()[ends[0] as usize..ends[rows.len()] as usize]);
        let lengths = ends.windows(2).map(|ends| ends[1] - ends[0]);
        if column.nulls() == 0 {
            self.lengths.extend(lengths);
            self.present.append_n(rows.len(), true);
        } else {
            let is_present = |row: usize| column.validity()[row / 8] >> (row % 8) & 1 == 1;
            self.lengths
                .extend(lengths.zip(rows.clone()).filter(|(_, row)| is_present(*row)).map(|(length, _)| length));
            self.present.append_packed_range(rows, column.validity());
        }
    }

    fn is_full(&self) -> bool {
        self.present.len() >= PAGE_ROWS || self.bytes.len() - self.room >= PAGE_BYTES
    }

    fn end(&mut self, chunk: &mut Chunk) -> Result<(), ParquetError> {
        let unencoded_bytes = self.bytes.len() - self.room;
        let mut prefix = Vec::with_capacity(self.room.max(64));
        let present = self.present.finish();
        put_levels(&present, &mut prefix);
        put_deltas(&self.lengths, &mut prefix);
        let page = match self.room.checked_sub(prefix.len()) {
            Some(start) => {
                self.bytes[start..self.room].copy_from_slice(&prefix);
                &self.bytes[start..]
            }
            None => {
                self.bytes.splice(..self.room, prefix.iter().copied());
                &self.bytes[..]
            }
        };
        chunk.push_data(page, present.len(), Some(unencoded_bytes as i64))?;
        self.bytes.clear();
        // What one long record took is not kept for all that follow.
        self.bytes.shrink_to(2 * PAGE_BYTES);
        self.lengths.clear();
        // The next page will need about as much.
        self.room = prefix.len() + prefix.len() / 4;
        self.bytes.resize(self.room, 0);
        Ok(())
    }
}

/// Strings of which there are two at most, or none: a dictionary and a bit a row.
pub(super) struct LabelColumn {
    column: ColumnDescPtr,
    present: BooleanBufferBuilder,
    /// A bit for each row that has a label: set for the second.
    seconds: BooleanBufferBuilder,
}

impl LabelColumn {
    /// A column without rows.
    pub(super) fn new(column: ColumnDescPtr) -> Self {
        Self { column, present: BooleanBufferBuilder::new(0), seconds: BooleanBufferBuilder::new(0) }
    }

    /// Adds `rows` rows with the first label.
    pub(super) fn extend_first(&mut self, rows: usize) {
        self.present.append_n(rows, true);
        self.seconds.append_n(rows, false);
    }

    /// Adds a row with the second label, with the first or without one.
    pub(super) fn push(&mut self, is_second: Option<bool>) {
        self.present.append(is_second.is_some());
        if let Some(is_second) = is_second {
            self.seconds.append(is_second);
        }
    }

    /// Makes the chunk the next column of `group`; `labels` are plainly encoded. The column is empty then.
    ///
    /// # Errors
    /// Those of [`Chunk::append_to`].
    pub(super) fn append_to(
        &mut self,
        labels: [&[u8]; 2],
        group: &mut SerializedRowGroupWriter<'_, Output>,
    ) -> Result<(), ParquetError> {
        let (present, seconds) = (self.present.finish(), self.seconds.finish());
        let second_rows = seconds.count_set_bits();
        let used = [second_rows < seconds.len(), second_rows > 0];
        let dictionary: Vec<_> =
            labels.into_iter().zip(used).filter(|(_, used)| *used).map(|(label, _)| label).collect();
        let mut chunk = Chunk::new(self.column.clone(), Compression::NONE, Encoding::RLE_DICTIONARY);
        chunk.push_dictionary(&dictionary.concat(), dictionary.len() as i32)?;
        let mut page = Vec::new();
        if self.column.max_def_level() > 0 {
            put_levels(&present, &mut page);
        }
        // The width of an index, which has no bits where there is one label only.
        if dictionary.len() == 2 {
            page.push(1);
            put_bits(&seconds, &mut page);
        } else {
            page.push(0);
            put_varint((seconds.len() as u64) << 1, &mut page);
        }
        chunk.push_data(&page, present.len(), None)?;
        chunk.append_to(group)
    }
}

/// Writes integers as the next column of `group`, by the crate's own writer; `present` holds a level a row where some
/// may be null.
///
/// # Errors
/// The crate's.
pub(super) fn append_integers(
    values: &[i64],
    present: Option<&[i16]>,
    group: &mut SerializedRowGroupWriter<'_, Output>,
) -> Result<(), ParquetError> {
    let Some(mut column) = group.next_column()? else {
        return Err(ParquetError::General("a row group has more columns than its schema".to_owned()));
    };
    column.typed::<Int64Type>().write_batch(values, present, None)?;
    column.close()
}
