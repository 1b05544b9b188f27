//! A look at what the bytes claim before the parquet crate believes it: it allocates as many children as a schema
//! element counts and as many bytes as a page says it holds. Called by [`super::decode`].
//!
//! Invariant: afterwards there are as many row groups as the file has blocks for, no element has more children than the
//! schema has elements, no page claims more than its bytes can hold, its column says and the manifest counts, and no
//! column more values than [`MAX_VALUES`] (a run of any length takes a few bytes), so that damaged or foreign files
//! cannot make the reader fill the memory. What only a decompressed page shows is looked at by [`super::pages`].

use lakeferry_api::{ConnectError, Result};
use parquet::basic::Compression;
use parquet::file::metadata::ColumnChunkMetaData;

/// Field types of Thrift's compact protocol.
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I16: u8 = 4;
const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const STRUCT: u8 = 12;

/// Of Parquet's FileMetaData, a list of SchemaElement and one of RowGroup.
const SCHEMA: i16 = 2;
const ROW_GROUPS: i16 = 4;
/// Of Parquet's SchemaElement.
const NUM_CHILDREN: i16 = 5;
/// Of Parquet's PageHeader.
const UNCOMPRESSED_PAGE_SIZE: i16 = 2;
const COMPRESSED_PAGE_SIZE: i16 = 3;
const DATA_PAGE: i16 = 5;
const DICTIONARY_PAGE: i16 = 7;
const DATA_PAGE_V2: i16 = 8;
/// Of both headers of data pages.
const NUM_VALUES: i16 = 1;
/// Of a data page's header, of version 1 and of version 2.
const ENCODING: i16 = 2;
const ENCODING_V2: i16 = 4;
/// The encoding in which a value repeats the beginning of the one before it.
const DELTA_BYTE_ARRAY: i32 = 7;
/// Rows, or headers of all rows, of a row group: as many records have no room in the 16 MiB that one is written with.
pub(super) const MAX_VALUES: i64 = 1 << 24;
/// Elements of the schema: the archive's has twelve.
const MAX_ELEMENTS: u64 = 64;
/// Structs within structs; Parquet has five levels, and lists between them.
const DEPTH: usize = 12;

/// Checks the file metadata `footer` of a file of so many blocks: each is a row group, but for the last.
///
/// # Errors
/// `Fatal` where it is damaged or says that there are more or less.
pub(super) fn check_footer(footer: &[u8], blocks: usize) -> Result<()> {
    match (Thrift { rest: footer }).row_groups() {
        None => Err(ConnectError::fatal("the footer of the Parquet file is damaged")),
        Some(groups) if groups.checked_add(1) == Some(blocks as u64) => Ok(()),
        Some(groups) => Err(ConnectError::fatal(format!("the file has {groups} row groups, but {blocks} blocks"))),
    }
}

/// Checks the pages of `column`, whose bytes are `bytes`; they come to `most_bytes` at most. Gives the bytes that one
/// value comes to at most where pages repeat values; 0 where none does.
///
/// # Errors
/// `Fatal` where a page header is damaged or claims a size that it cannot have.
pub(super) fn check_pages(column: &ColumnChunkMetaData, bytes: &[u8], most_bytes: u64) -> Result<usize> {
    let mut reader = Thrift { rest: bytes };
    let mut claimed_left = column.uncompressed_size();
    let mut bytes_left = i64::try_from(most_bytes).unwrap_or(i64::MAX);
    let mut values_left = MAX_VALUES;
    let mut repeated = 0;
    while !reader.rest.is_empty() {
        let page = reader.page_header().and_then(|Page { uncompressed, compressed, values, repeats }| {
            reader.take(usize::try_from(compressed).ok()?)?;
            let possible = i64::from(compressed).checked_mul(max_ratio(column.compression()))?;
            let fits = values >= 0 && (0..=possible.checked_add(64)?).contains(&i64::from(uncompressed));
            repeated = if repeats { repeated.max(usize::try_from(uncompressed).ok()?) } else { repeated };
            fits.then_some((i64::from(uncompressed), i64::from(values)))
        });
        let path = column.column_path();
        let Some((uncompressed, values)) = page else {
            return Err(ConnectError::fatal(format!("a page header of column {path} is damaged")));
        };
        (claimed_left, values_left) = (claimed_left.saturating_sub(uncompressed), values_left - values);
        if claimed_left < 0 {
            return Err(ConnectError::fatal(format!("the pages of column {path} are larger than the column")));
        }
        bytes_left -= uncompressed;
        if bytes_left < 0 {
            return Err(ConnectError::fatal(format!(
                "the pages of column {path} come to more than {most_bytes} bytes, for which the manifest has too few \
                 records and raw bytes"
            )));
        }
        if values_left < 0 {
            return Err(ConnectError::fatal(format!("column {path} claims more than {MAX_VALUES} values")));
        }
    }
    Ok(repeated)
}

/// How many bytes the codec can make of one at most.
fn max_ratio(compression: Compression) -> i64 {
    match compression {
        Compression::UNCOMPRESSED => 1,
        Compression::SNAPPY => 22,
        Compression::LZ4 | Compression::LZ4_RAW => 256,
        Compression::GZIP(_) => 1033,
        _ => 1 << 20,
    }
}

/// What the header of a page says.
struct Page {
    uncompressed: i32,
    compressed: i32,
    /// 0 where it is no page of data.
    values: i32,
    /// A dictionary, or values that share their beginnings.
    repeats: bool,
}

/// Reads Thrift's compact protocol; `None` where the bytes are not that.
struct Thrift<'a> {
    rest: &'a [u8],
}

impl<'a> Thrift<'a> {
    /// How many row groups the file metadata that this is has, if every list of it is as long as it says and no
    /// element of the schema has more children than there are elements.
    fn row_groups(&mut self) -> Option<u64> {
        let (mut id, mut groups, mut has_schema) = (0, None, false);
        while let Some(kind) = self.field(&mut id)? {
            match (kind, id) {
                (LIST, SCHEMA) if self.children_fit()? => has_schema = true,
                (LIST, ROW_GROUPS) if groups.is_none() => {
                    let mut list = Self { rest: self.rest };
                    groups = Some(list.list()?.0);
                    self.skip(kind, DEPTH)?;
                }
                (_, SCHEMA | ROW_GROUPS) => return None,
                _ => self.skip(kind, DEPTH)?,
            }
        }
        groups.filter(|_| has_schema)
    }

    fn children_fit(&mut self) -> Option<bool> {
        let (len, kind) = self.list()?;
        if kind != STRUCT || len > MAX_ELEMENTS {
            return Some(false);
        }
        for _ in 0..len {
            let mut id = 0;
            while let Some(kind) = self.field(&mut id)? {
                match (id, kind) {
                    (NUM_CHILDREN, I32) if u64::try_from(self.i32()?).ok()? > len => return Some(false),
                    (NUM_CHILDREN, I32) => {}
                    _ => self.skip(kind, DEPTH)?,
                }
            }
        }
        Some(true)
    }

    fn page_header(&mut self) -> Option<Page> {
        let (mut uncompressed, mut compressed, mut values, mut repeats) = (None, None, 0, false);
        let mut id = 0;
        while let Some(kind) = self.field(&mut id)? {
            match (id, kind) {
                (UNCOMPRESSED_PAGE_SIZE, I32) => uncompressed = Some(self.i32()?),
                (COMPRESSED_PAGE_SIZE, I32) => compressed = Some(self.i32()?),
                (DATA_PAGE | DATA_PAGE_V2, STRUCT) => {
                    let (own, encoding) = self.data_page(if id == DATA_PAGE { ENCODING } else { ENCODING_V2 })?;
                    // Of two headers nobody knows which one is believed.
                    values = if values < 0 || own < 0 { -1 } else { own.max(values) };
                    repeats |= encoding == DELTA_BYTE_ARRAY;
                }
                _ => {
                    repeats |= id == DICTIONARY_PAGE;
                    self.skip(kind, DEPTH)?;
                }
            }
        }
        Some(Page { uncompressed: uncompressed?, compressed: compressed?, values, repeats })
    }

    /// The number of values that the header of a data page says, and the encoding, which is its field `encoding`.
    fn data_page(&mut self, encoding: i16) -> Option<(i32, i32)> {
        let (mut values, mut encoded) = (None, 0);
        let mut id = 0;
        while let Some(kind) = self.field(&mut id)? {
            match (id, kind) {
                (NUM_VALUES, I32) => values = Some(self.i32()?),
                (id, I32) if id == encoding => encoded = self.i32()?,
                _ => self.skip(kind, DEPTH)?,
            }
        }
        Some((values?, encoded))
    }

    /// The type of the next field, whose number `id` becomes; `None` within where the struct ends.
    fn field(&mut self, id: &mut i16) -> Option<Option<u8>> {
        let byte = self.take(1)?[0];
        if byte == 0 {
            return Some(None);
        }
        *id = match byte >> 4 {
            0 => i16::try_from(self.i32()?).ok()?,
            delta => id.checked_add(i16::from(delta))?,
        };
        Some(Some(byte & 0x0f))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            TRUE | FALSE => {}
            BYTE => drop(self.take(1)?),
            I16 | I32 | I64 => drop(self.varint()?),
            DOUBLE => drop(self.take(8)?),
            BINARY => {
                let len = usize::try_from(self.varint()?).ok()?;
                self.take(len)?;
            }
            LIST | SET => {
                let (len, kind) = self.list()?;
                for _ in 0..len {
                    match kind {
                        // As an element a boolean takes a byte.
                        TRUE | FALSE => drop(self.take(1)?),
                        kind => self.skip(kind, depth)?,
                    }
                }
            }
            STRUCT => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, depth)?;
                }
            }
            // Maps and what is unknown: no page header has them.
            _ => return None,
        }
        Some(())
    }

    /// The number of elements of the list that begins here, and their type.
    fn list(&mut self) -> Option<(u64, u8)> {
        let byte = self.take(1)?[0];
        let len = if byte >> 4 == 15 { self.varint()? } else { u64::from(byte >> 4) };
        Some((len, byte & 0x0f))
    }

    fn i32(&mut self) -> Option<i32> {
        let number = self.varint()?;
        i32::try_from((number >> 1) as i64 ^ -((number & 1) as i64)).ok()
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::archive::schema;
    use crate::format::tests::varint;

    /// A page header and `stored` bytes behind it.
    fn page(uncompressed: i32, compressed: i32, stored: usize) -> Vec<u8> {
        let sizes = [vec![0x15, 0, 0x15], varint(uncompressed), vec![0x15], varint(compressed)].concat();
        // A checksum, and the data page's own header.
        [sizes, vec![0x15], varint(7), vec![0x1c, 0x15], varint(3), vec![0, 0], vec![0; stored]].concat()
    }

    /// The header of a data page without bytes, of version 1 or 2, and how many values it claims.
    fn values(version: u8, values: i32) -> Vec<u8> {
        let id = if version == 1 { 0x2c } else { 0x5c };
        [vec![0x15, 0, 0x15, 0, 0x15, 0, id, 0x15], varint(values), vec![0, 0]].concat()
    }

    fn check(codec: Compression, uncompressed_column: i64, pages: &[u8]) -> Result<()> {
        let value = schema::parquet().unwrap().column(6);
        let column = ColumnChunkMetaData::builder(value)
            .set_compression(codec)
            .set_total_uncompressed_size(uncompressed_column)
            .build()
            .unwrap();
        check_pages(&column, pages, i64::MAX as u64).map(drop)
    }

    #[test]
    fn a_page_holds_no_more_than_its_bytes_can() {
        let pages = [page(2200, 100, 100), page(0, 0, 0), page(40, 30, 30)].concat();
        check(Compression::SNAPPY, 2300, &pages).unwrap();
        assert!(check(Compression::LZ4_RAW, 2239, &pages).is_err());
        assert!(check(Compression::UNCOMPRESSED, 2300, &pages).is_err());
        assert!(check(Compression::SNAPPY, i64::MAX, &page(1 << 30, 100, 100)).is_err());
        assert!(check(Compression::SNAPPY, 2300, &page(-1, 100, 100)).is_err());
        assert!(check(Compression::SNAPPY, 2300, &page(100, -1, 100)).is_err());
        assert!(check(Compression::SNAPPY, 2300, &page(100, 101, 100)).is_err());
        assert!(check(Compression::SNAPPY, 2300, &pages[..pages.len() - 1]).is_err());
    }

    #[test]
    fn a_run_of_any_length_takes_few_bytes_and_is_bounded() {
        let most = MAX_VALUES as i32;
        for version in [1, 2] {
            check(Compression::SNAPPY, 0, &values(version, most)).unwrap();
            let error = check(Compression::SNAPPY, 0, &values(version, most + 1)).unwrap_err();
            assert!(error.message().contains("16777216 values"), "{error}");
            let twice = [values(version, most), values(3 - version, 1)].concat();
            assert!(check(Compression::SNAPPY, 0, &twice).is_err());
            assert!(check(Compression::SNAPPY, 0, &values(version, -1)).is_err());
        }
    }

    #[test]
    fn a_schema_element_has_no_more_children_than_there_are_elements() {
        let footer = |children| [vec![0x15, 2, 0x19, 0x1c, 0x55], varint(children), vec![0, 0x29, 0x0c, 0]].concat();
        let check_footer = |footer: &[u8]| check_footer(footer, 1);
        check_footer(&footer(1)).unwrap();
        assert!(check_footer(&footer(2)).is_err());
        assert!(check_footer(&footer(67_000_000)).is_err());
        assert!(check_footer(&footer(-1)).is_err());
        assert!(check_footer(&footer(1)[..6]).is_err());
        assert!(check_footer(&[0]).is_err());
    }
}
