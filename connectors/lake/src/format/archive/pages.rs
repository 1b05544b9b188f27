//! The pages of one row group on their way to the parquet crate, which allocates as many lengths as a page says that
//! it holds, and writes a value out as often as a page repeats it. Called by [`super::decode`].
//!
//! Invariant: a page of byte strings goes on only if its values are no more than it has room or levels for, and if
//! those of its column so far, written out, are no more bytes than the limit that [`Content`](crate::format::Content)
//! sets. Pages of numbers go on as they are. What pages look like before they are decompressed is looked at by
//! [`super::claims`].

use std::sync::Arc;

use parquet::arrow::arrow_reader::RowGroups;
use parquet::basic::{Encoding, Type};
use parquet::column::page::{Page, PageIterator, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::schema::types::ColumnDescPtr;

use super::super::Content;
use super::decode::BlockSource;
use super::repeats::{Deltas, indexed_bytes};

/// See the module.
pub(super) struct Group {
    /// The block.
    pub(super) source: Arc<BlockSource>,
    /// The file's.
    pub(super) metadata: Arc<ParquetMetaData>,
    /// Which row group of the file.
    pub(super) index: usize,
    /// What the manifest says of the file.
    pub(super) content: Content,
}

impl Group {
    fn rows(&self) -> &RowGroupMetaData {
        self.metadata.row_group(self.index)
    }
}

impl RowGroups for Group {
    fn num_rows(&self) -> usize {
        usize::try_from(self.rows().num_rows()).unwrap_or(0)
    }

    fn column_chunks(&self, place: usize) -> Result<Box<dyn PageIterator>> {
        let column = self.rows().column(place);
        let pages = SerializedPageReader::new(Arc::clone(&self.source), column, self.num_rows(), None)?;
        Ok(Box::new(OneChunk(Some(Pages {
            pages,
            column: column.column_descr_ptr(),
            content: self.content,
            bytes_left: self.content.most_bytes(),
            dictionary: Vec::new(),
        }))))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(std::iter::once(self.rows()))
    }

    fn metadata(&self) -> &ParquetMetaData {
        &self.metadata
    }
}

struct OneChunk(Option<Pages>);

impl Iterator for OneChunk {
    type Item = Result<Box<dyn PageReader>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(|pages| Ok(Box::new(pages) as Box<dyn PageReader>))
    }
}

impl PageIterator for OneChunk {}

/// The pages of one column.
struct Pages {
    pages: SerializedPageReader<BlockSource>,
    column: ColumnDescPtr,
    content: Content,
    bytes_left: u64,
    /// The lengths of the byte strings that pages name by their number.
    dictionary: Vec<u32>,
}

impl Pages {
    fn check(&mut self, page: Page) -> Result<Page> {
        if self.column.physical_type() != Type::BYTE_ARRAY {
            return Ok(page);
        }
        match &page {
            Page::DictionaryPage { buf, num_values, .. } => self.dictionary = self.lengths(buf, *num_values)?,
            Page::DataPage { buf, num_values, encoding, def_level_encoding, rep_level_encoding, .. } => {
                let levels = [
                    (self.column.max_rep_level(), *rep_level_encoding),
                    (self.column.max_def_level(), *def_level_encoding),
                ];
                let mut values = buf.as_ref();
                for (max_level, encoding) in levels {
                    values = behind_levels(values, max_level, encoding, *num_values)
                        .ok_or_else(|| self.damaged("has no room for its levels"))?;
                }
                self.check_values(values, *num_values, *encoding)?;
            }
            Page::DataPageV2 { buf, num_values, encoding, def_levels_byte_len, rep_levels_byte_len, .. } => {
                let levels = u64::from(*def_levels_byte_len) + u64::from(*rep_levels_byte_len);
                let values = usize::try_from(levels).ok().and_then(|levels| buf.get(levels..));
                let values = values.ok_or_else(|| self.damaged("has no room for its levels"))?;
                self.check_values(values, *num_values, *encoding)?;
            }
        }
        Ok(page)
    }

    /// The lengths of a dictionary's byte strings.
    fn lengths(&self, mut page: &[u8], count: u32) -> Result<Vec<u32>> {
        if count as usize > page.len() / 4 {
            return Err(self.damaged(&format!("says that it holds {count} values, but has {} bytes", page.len())));
        }
        let mut lengths = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let next = page.split_first_chunk::<4>().and_then(|(len, rest)| {
                let len = u32::from_le_bytes(*len);
                Some((len, rest.get(usize::try_from(len).ok()?..)?))
            });
            let (len, rest) = next.ok_or_else(|| self.damaged("ends within its dictionary"))?;
            lengths.push(len);
            page = rest;
        }
        Ok(lengths)
    }

    /// Looks at the `values` of a page that has so many levels, nulls among them.
    fn check_values(&mut self, values: &[u8], count: u32, encoding: Encoding) -> Result<()> {
        let own = values.len() as u64;
        let written_out = match encoding {
            Encoding::DELTA_LENGTH_BYTE_ARRAY => self.said(values, count).map(|_| own)?,
            Encoding::DELTA_BYTE_ARRAY => {
                let shared = self.said(values, count)?.read_all().ok_or_else(|| self.damaged("has wrong lengths"))?;
                self.said(shared.rest, count)?;
                own.saturating_add(shared.sum)
            }
            Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY => indexed_bytes(values, count, &self.dictionary)
                .ok_or_else(|| self.damaged("names values that its dictionary does not have"))?,
            _ => own,
        };
        self.bytes_left = self.bytes_left.checked_sub(written_out).ok_or_else(|| {
            let Content { records, raw_bytes } = self.content;
            let path = self.column.path();
            ParquetError::General(format!(
                "the values of column {path} take more than {} bytes, but the manifest says that the file holds \
                 {records} records of {raw_bytes} bytes in all",
                self.content.most_bytes()
            ))
        })?;
        Ok(())
    }

    /// The integers that `values` begin with, if they are not more than the page's own count.
    fn said<'a>(&self, values: &'a [u8], count: u32) -> Result<Deltas<'a>> {
        let deltas = Deltas::begin(values).ok_or_else(|| self.damaged("has no room for its lengths"))?;
        if deltas.count > u64::from(count) {
            return Err(self.damaged(&format!("says that {} lengths follow, but has {count} values", deltas.count)));
        }
        Ok(deltas)
    }

    fn damaged(&self, how: &str) -> ParquetError {
        ParquetError::General(format!("a page of column {} {how}", self.column.path()))
    }
}

/// What follows the levels with which a page of version 1 begins.
fn behind_levels(page: &[u8], max_level: i16, encoding: Encoding, count: u32) -> Option<&[u8]> {
    #[expect(deprecated, reason = "a foreign page may have them so")]
    let packed = Encoding::BIT_PACKED;
    if max_level == 0 {
        return Some(page);
    }
    if encoding == packed {
        let bits = u64::from(count) * u64::from(i16::BITS - max_level.leading_zeros());
        return page.get(usize::try_from(bits.div_ceil(8)).ok()?..);
    }
    let (len, rest) = page.split_first_chunk::<4>()?;
    rest.get(usize::try_from(u32::from_le_bytes(*len)).ok()?..)
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        self.pages.get_next_page()?.map(|page| self.check(page)).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.pages.at_record_boundary()
    }
}

#[cfg(test)]
mod tests;
