//! A column chunk in the making: its finished pages, and what the footer will say of them. Called by
//! [`super::columns`].
//!
//! Invariant: pages touch, the dictionary comes first, and the sizes are those of the pages with their headers.

use std::collections::VecDeque;
use std::io::{self, Read};

use bytes::{Buf, Bytes};
use parquet::basic::{Encoding, PageType};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, OffsetIndexBuilder, PageEncodingStats};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::writer::SerializedRowGroupWriter;
use parquet::schema::types::ColumnDescPtr;

use super::super::Compression;
use super::super::output::Output;
use super::compressor::compressed;
use super::encodings::put_zigzag;
use super::parquet_codec;

/// Field types of Thrift's compact protocol.
const I32: u8 = 5;
const STRUCT: u8 = 12;
/// The fields of a PageHeader that hold what is particular to data and to a dictionary.
const DATA_PAGE_HEADER: u8 = 5;
const DICTIONARY_PAGE_HEADER: u8 = 7;
/// What the fields below take at most.
const HEADER_BYTES: usize = 48;
/// The last field before those.
const COMPRESSED_PAGE_SIZE: u8 = 3;

/// See the module.
pub(super) struct Chunk {
    column: ColumnDescPtr,
    compression: Compression,
    encoding: Encoding,
    pages: Pages,
    dictionary_bytes: Option<i64>,
    index: OffsetIndexBuilder,
    uncompressed_bytes: i64,
    data_pages: i32,
    rows: i64,
}

impl Chunk {
    /// A chunk of `column` without pages, whose values will be encoded as `encoding`.
    pub(super) fn new(column: ColumnDescPtr, compression: Compression, encoding: Encoding) -> Self {
        Self {
            column,
            compression,
            encoding,
            pages: Pages::default(),
            dictionary_bytes: None,
            index: OffsetIndexBuilder::new(),
            uncompressed_bytes: 0,
            data_pages: 0,
            rows: 0,
        }
    }

    /// Bytes of the finished pages, and their memory.
    pub(super) fn stored_bytes(&self) -> usize {
        self.pages.len
    }

    /// Adds the dictionary, before any page of data: `values` values, plainly encoded.
    ///
    /// # Errors
    /// See [`compressed`].
    pub(super) fn push_dictionary(&mut self, page: &[u8], values: i32) -> Result<(), ParquetError> {
        let fields = [values, Encoding::PLAIN as i32];
        self.push(page, PageType::DICTIONARY_PAGE, DICTIONARY_PAGE_HEADER, &fields)?;
        self.dictionary_bytes = Some(self.pages.len as i64);
        Ok(())
    }

    /// Adds a page of `rows` rows: their levels, if the column has any, and their values. `unencoded_bytes` is how long
    /// byte strings are by themselves.
    ///
    /// # Errors
    /// See [`compressed`].
    pub(super) fn push_data(
        &mut self,
        page: &[u8],
        rows: usize,
        unencoded_bytes: Option<i64>,
    ) -> Result<(), ParquetError> {
        let at = self.pages.len;
        let (rows, levels) = (rows as i32, Encoding::RLE as i32);
        let fields = [rows, self.encoding as i32, levels, levels];
        self.push(page, PageType::DATA_PAGE, DATA_PAGE_HEADER, &fields)?;
        self.index.append_offset_and_size(at as i64, (self.pages.len - at) as i32);
        self.index.append_row_count(rows.into());
        self.index.append_unencoded_byte_array_data_bytes(unencoded_bytes);
        self.data_pages += 1;
        self.rows += i64::from(rows);
        Ok(())
    }

    fn push(&mut self, page: &[u8], kind: PageType, field: u8, fields: &[i32]) -> Result<(), ParquetError> {
        let pages = &mut self.pages;
        let header_bytes = compressed(self.compression, page, |stored| {
            let mut header = Vec::with_capacity(HEADER_BYTES);
            put_header([kind as i32, page.len() as i32, stored.len() as i32], field, fields, &mut header);
            pages.push(&header, stored);
            header.len()
        })?;
        self.uncompressed_bytes += (header_bytes + page.len()) as i64;
        Ok(())
    }

    /// Makes the chunk the next column of `group`.
    ///
    /// # Errors
    /// Where it is not that column's turn.
    pub(super) fn append_to(self, group: &mut SerializedRowGroupWriter<'_, Output>) -> Result<(), ParquetError> {
        let stored_bytes = self.pages.len;
        let data =
            PageEncodingStats { page_type: PageType::DATA_PAGE, encoding: self.encoding, count: self.data_pages };
        let mut encodings = vec![Encoding::RLE, self.encoding];
        let mut stats = vec![data];
        if self.dictionary_bytes.is_some() {
            encodings.push(Encoding::PLAIN);
            let (page_type, encoding) = (PageType::DICTIONARY_PAGE, Encoding::PLAIN);
            stats.insert(0, PageEncodingStats { page_type, encoding, count: 1 });
        }
        let metadata = ColumnChunkMetaData::builder(self.column)
            .set_compression(parquet_codec(self.compression)?)
            .set_encodings(encodings)
            .set_page_encoding_stats(stats)
            .set_total_compressed_size(stored_bytes as i64)
            .set_total_uncompressed_size(self.uncompressed_bytes)
            .set_num_values(self.rows)
            .set_dictionary_page_offset(self.dictionary_bytes.map(|_| 0))
            .set_data_page_offset(self.dictionary_bytes.unwrap_or(0))
            .build()?;
        let close = ColumnCloseResult {
            bytes_written: stored_bytes as u64,
            rows_written: self.rows as u64,
            metadata,
            bloom_filter: None,
            column_index: None,
            offset_index: Some(self.index.build()),
        };
        group.append_column(&self.pages, close)
    }
}

/// Finished pages, each where it was compressed to: a vector of all of them would be copied as it grows.
#[derive(Default)]
struct Pages {
    pages: VecDeque<Bytes>,
    len: usize,
}

/// Reads pages one after the other.
struct PagesReader(VecDeque<Bytes>);

impl Pages {
    fn push(&mut self, header: &[u8], page: &[u8]) {
        let page = [header, page].concat();
        self.len += page.len();
        self.pages.push_back(page.into());
    }
}

impl Length for Pages {
    fn len(&self) -> u64 {
        self.len as u64
    }
}

impl ChunkReader for Pages {
    type T = PagesReader;

    fn get_read(&self, start: u64) -> Result<PagesReader, ParquetError> {
        let mut reader = PagesReader(self.pages.clone());
        io::copy(&mut reader.by_ref().take(start), &mut io::sink())?;
        Ok(reader)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let mut bytes = vec![0; length];
        self.get_read(start)?.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

impl Read for PagesReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(page) = self.0.front_mut() else { return Ok(0) };
        let len = page.len().min(into.len());
        page.copy_to_slice(&mut into[..len]);
        if page.is_empty() {
            self.0.pop_front();
        }
        Ok(len)
    }
}

/// Appends a PageHeader: `sizes` are its first fields, `fields` those of the struct in its field `particular`.
fn put_header(sizes: [i32; 3], particular: u8, fields: &[i32], out: &mut Vec<u8>) {
    let put_fields = |fields: &[i32], out: &mut Vec<u8>| {
        for field in fields {
            out.push(1 << 4 | I32);
            put_zigzag((*field).into(), out);
        }
    };
    put_fields(&sizes, out);
    out.push((particular - COMPRESSED_PAGE_SIZE) << 4 | STRUCT);
    put_fields(fields, out);
    // The ends of both structs.
    out.extend_from_slice(&[0, 0]);
}
