//! `archive.parquet`: records as they left Kafka, byte for byte, in Parquet files that any lake engine reads. The format
//! table calls it; [`decode`] is the way back.
//!
//! Invariant: block `i` holds row group `i` and nothing else (block 0 the magic too), the last block holds the page
//! indexes and the footer. Statistics stand on `offset` and `timestamp` alone: those are what readers cut by.

mod claims;
mod decode;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use lakeferry_api::error::Context;
use lakeferry_api::{Batch, Kind, Result, TopicPartition};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::{Compression as ParquetCodec, Encoding, GzipLevel, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::{ColumnPath, SchemaDescriptor};

use super::arrow_schema::Columns;
use super::output::Output;
use super::rows::{self, RowOrder, STEP_BYTES, STEP_ROWS};
use super::{Codec, Compression, FileEncoder, FileFormat, FileHeader, FileMetadata, Tail};

/// The row of the format table.
pub(super) const FORMAT: FileFormat = FileFormat {
    name: "archive.parquet",
    extension: "parquet",
    codecs: &[
        Codec { name: "none", aliases: &["null", "uncompressed"], levels: None },
        Codec { name: "snappy", aliases: &[], levels: None },
        Codec { name: "gzip", aliases: &["deflate"], levels: Some([0, 6, 9]) },
        Codec { name: "lz4_raw", aliases: &["lz4"], levels: None },
        Codec { name: "zstd", aliases: &["zstandard"], levels: Some([1, 1, 22]) },
    ],
    encoder: |header, compression| Ok(Box::new(ParquetEncoder::new(header, compression)?)),
    prelude: |blocks| blocks.len().saturating_sub(1),
    decoder: decode::decoder,
};

/// Raw bytes of a row group, near enough: what a reader holds while it decodes one, and what is encoded but cannot be
/// stored yet.
const GROUP_BYTES: u64 = 16 << 20;
const SCHEMA_ROOT: &str = "record";
const PAGE_BYTES: usize = 1 << 20;
/// Rows of a page at most; the crate's own default, which [`ParquetEncoder::compressor_bytes`] counts with.
const PAGE_ROWS: usize = 20_000;
/// What the column writers of a row group hold before they hold a page.
const WRITERS_BYTES: u64 = 48 << 10;
/// What a row costs a reader beyond its key, value and headers.
const ROW_BYTES: u64 = 16;

struct ParquetEncoder {
    header: FileHeader,
    compression: Compression,
    columns: Columns,
    writer: ArrowWriter<Output>,
    order: RowOrder,
    group_raw_bytes: u64,
}

impl ParquetEncoder {
    fn new(header: FileHeader, compression: Compression) -> Result<Self> {
        let columns = Columns::new(&header.partition);
        let cannot_begin = || format!("cannot begin a Parquet file of {}", header.partition);
        let options = ArrowWriterOptions::new()
            .with_properties(properties(compression).context(Kind::Fatal, cannot_begin)?)
            // The embedded Arrow schema would make readers see our dictionaries as their types.
            .with_skip_arrow_metadata(true)
            .with_schema_root(SCHEMA_ROOT.to_owned());
        let writer = ArrowWriter::try_new_with_options(Output::new(), Arc::clone(columns.schema()), options)
            .context(Kind::Fatal, cannot_begin)?;
        let order = RowOrder::new(header.partition.clone());
        Ok(Self { header, compression, columns, writer, order, group_raw_bytes: 0 })
    }

    fn write(&mut self, batch: &Batch, rows: Range<usize>) -> Result<()> {
        self.group_raw_bytes += group_bytes(rows::raw_bytes(batch, rows.clone()), rows.len());
        let arrays = self.columns.arrays(batch, rows).map_err(ParquetError::from);
        arrays
            .and_then(|arrays| self.writer.write(&arrays))
            .context(Kind::Fatal, || format!("cannot encode rows of {}", self.header.partition))
    }

    /// What zstd keeps from page to page: a context for each column that has ended one.
    fn compressor_bytes(&self) -> u64 {
        let columns = match self.group_raw_bytes {
            _ if self.writer.in_progress_rows() >= PAGE_ROWS => 5,
            raw_bytes if raw_bytes >= PAGE_BYTES as u64 => 1,
            _ => 0,
        };
        columns * if self.compression.codec() == "zstd" { zstd_context_bytes(self.compression.level()) } else { 0 }
    }
}

/// What rows add to their row group.
fn group_bytes(raw_bytes: usize, rows: usize) -> u64 {
    raw_bytes as u64 + ROW_BYTES * rows as u64
}

/// Measured for pages of 1 MiB.
fn zstd_context_bytes(level: i32) -> u64 {
    let kilobytes = match level {
        ..=1 => 569,
        2 => 761,
        3 => 1273,
        4 => 2553,
        5..=6 => 3065,
        7..=8 => 5625,
        9..=12 => 10_745,
        _ => 17_664,
    };
    kilobytes << 10
}

impl FileEncoder for ParquetEncoder {
    fn append(&mut self, batch: &Batch) -> Result<()> {
        self.order.check(batch)?;
        for rows in rows::steps(batch, STEP_BYTES, STEP_ROWS) {
            self.write(batch, rows)?;
            if self.group_raw_bytes >= GROUP_BYTES {
                self.end_block()?;
            }
        }
        Ok(())
    }

    fn ends_block(&self, batch: &Batch) -> bool {
        self.group_raw_bytes + group_bytes(batch.raw_bytes(), batch.len()) >= GROUP_BYTES
    }

    fn end_block(&mut self) -> Result<()> {
        if self.writer.in_progress_rows() == 0 {
            return Ok(());
        }
        self.group_raw_bytes = 0;
        let flushed = self.writer.flush().and_then(|()| Ok(self.writer.sync()?));
        flushed.context(Kind::Fatal, || format!("cannot end a row group of {}", self.header.partition))?;
        self.writer.inner_mut().end_block();
        Ok(())
    }

    fn take_encoded(&mut self) -> Bytes {
        self.writer.inner_mut().take()
    }

    fn stored_bytes(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    fn memory_bytes(&self) -> u64 {
        let writers = if self.writer.in_progress_rows() == 0 { 0 } else { WRITERS_BYTES + self.compressor_bytes() };
        self.writer.memory_size() as u64 + writers + self.writer.inner().memory_bytes()
    }

    fn finish(&mut self) -> Result<Tail> {
        self.end_block()?;
        self.order.finish();
        let metadata = FileMetadata {
            first_offset: self.order.first_offset(),
            last_offset: self.order.last_offset(),
            ..FileMetadata::new(&self.header)
        };
        for (key, value) in metadata.pairs() {
            self.writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
        self.writer
            .finish()
            .context(Kind::Fatal, || format!("cannot write the footer of a file of {}", self.header.partition))?;
        Ok(self.writer.inner_mut().finish())
    }
}

fn properties(compression: Compression) -> Result<WriterProperties, ParquetError> {
    let mut properties = WriterProperties::builder()
        .set_compression(codec(compression)?)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_data_page_size_limit(PAGE_BYTES)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_max_row_group_row_count(None)
        .set_sorting_columns(Some(vec![SortingColumn { column_idx: 2, descending: false, nulls_first: false }]));
    for column in ["offset", "timestamp"] {
        properties = properties
            .set_column_encoding(column.into(), Encoding::DELTA_BINARY_PACKED)
            .set_column_statistics_enabled(column.into(), EnabledStatistics::Page);
    }
    for column in ["topic", "partition", "timestamp_type"] {
        properties = properties.set_column_dictionary_enabled(column.into(), true);
    }
    // One value for all rows, or one step from row to row: a handful of bytes, which no codec makes smaller.
    for column in ["topic", "partition", "offset", "timestamp_type"] {
        properties = properties.set_column_compression(column.into(), ParquetCodec::UNCOMPRESSED);
    }
    let header_keys = ["headers", "list", "element", "key"].map(str::to_owned).to_vec();
    Ok(properties.set_column_dictionary_enabled(ColumnPath::new(header_keys), true).build())
}

fn codec(compression: Compression) -> Result<ParquetCodec, ParquetError> {
    let level = compression.level();
    Ok(match compression.codec() {
        "snappy" => ParquetCodec::SNAPPY,
        "gzip" => ParquetCodec::GZIP(GzipLevel::try_new(level.unsigned_abs())?),
        "lz4_raw" => ParquetCodec::LZ4_RAW,
        "zstd" => ParquetCodec::ZSTD(ZstdLevel::try_new(level)?),
        _ => ParquetCodec::UNCOMPRESSED,
    })
}

/// The archive's columns in Parquet's terms.
fn parquet_schema() -> Result<SchemaDescriptor, ParquetError> {
    let columns = Columns::new(&TopicPartition::new("", 0));
    ArrowSchemaConverter::new().schema_root(SCHEMA_ROOT).convert(columns.schema())
}
