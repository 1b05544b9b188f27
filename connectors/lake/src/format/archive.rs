//! `archive.parquet`: records as they left Kafka, byte for byte, in Parquet files that any lake engine reads. The
//! format table calls it; [`decode`] is the way back.
//!
//! Invariant: block `i` holds row group `i` and nothing else (block 0 the magic too), the last block holds the page
//! indexes and the footer. Statistics stand on `offset` and `timestamp` alone: those are what readers cut by.

mod arrays;
mod chunk;
mod claims;
mod columns;
mod compressor;
mod decode;
mod encodings;
mod headers;
mod pages;
mod repeats;
mod row_group;
mod schema;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use lakeferry_api::error::Context;
use lakeferry_api::{Batch, ConnectError, Kind, Result};
use parquet::arrow::arrow_writer::ArrowRowGroupWriterFactory;
use parquet::basic::{Compression as ParquetCodec, Encoding, GzipLevel, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;

use self::row_group::RowGroup;
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
/// What a row, and each header, costs a reader beyond its bytes.
const ROW_BYTES: u64 = 16;

struct ParquetEncoder {
    header: FileHeader,
    file: SerializedFileWriter<Output>,
    /// Makes the crate's own column writers.
    writers: ArrowRowGroupWriterFactory,
    group: RowGroup,
    group_raw_bytes: u64,
    order: RowOrder,
}

impl ParquetEncoder {
    fn new(header: FileHeader, compression: Compression) -> Result<Self> {
        let begin = || {
            let schema = schema::parquet()?;
            let properties = Arc::new(properties(compression)?);
            let file = SerializedFileWriter::new(Output::new(), schema.root_schema_ptr(), properties)?;
            let writers = ArrowRowGroupWriterFactory::new(&file, schema::arrow());
            Ok((RowGroup::new(file.schema_descr(), compression), file, writers))
        };
        let begun: Result<_, ParquetError> = begin();
        let (group, file, writers) =
            begun.context(Kind::Fatal, || format!("cannot begin a Parquet file of {}", header.partition))?;
        let order = RowOrder::new(header.partition.clone());
        Ok(Self { header, file, writers, group, group_raw_bytes: 0, order })
    }

    fn write(&mut self, batch: &Batch, rows: Range<usize>) -> Result<()> {
        let start = batch.row_range().start;
        let entries = batch.headers().entries(start + rows.start..start + rows.end).len();
        if entries as i64 > claims::MAX_VALUES / 2 {
            let message = format!("{entries} headers in {} rows of {}", rows.len(), self.header.partition);
            return Err(ConnectError::fatal(
                message + ": no reader is asked to hold so many; drop them before the sink",
            ));
        }
        self.group_raw_bytes += group_bytes(rows::raw_bytes(batch, rows.clone()), rows.len(), entries);
        self.group
            .write(batch, rows, &self.writers)
            .context(Kind::Fatal, || format!("cannot encode rows of {}", self.header.partition))
    }

    /// Writes the row group that was gathered.
    fn end_group(&mut self) -> Result<()> {
        if self.group.rows() == 0 {
            return Ok(());
        }
        self.group_raw_bytes = 0;
        let ended = self.group.end(&self.header.partition, &mut self.file).and_then(|()| Ok(self.file.flush()?));
        ended.context(Kind::Fatal, || format!("cannot end a row group of {}", self.header.partition))?;
        self.file.inner_mut().end_block();
        Ok(())
    }
}

/// What rows with so many headers add to their row group.
fn group_bytes(raw_bytes: usize, rows: usize, headers: usize) -> u64 {
    raw_bytes as u64 + ROW_BYTES * (rows + headers) as u64
}

impl FileEncoder for ParquetEncoder {
    fn append(&mut self, batch: &Batch) -> Result<()> {
        self.order.check(batch)?;
        for rows in rows::steps(batch, STEP_BYTES, STEP_ROWS) {
            self.write(batch, rows)?;
            if self.group_raw_bytes >= GROUP_BYTES {
                self.end_group()?;
            }
        }
        Ok(())
    }

    fn ends_block(&self, batch: &Batch) -> bool {
        let entries = batch.headers().entries(batch.row_range()).len();
        self.group_raw_bytes + group_bytes(batch.raw_bytes(), batch.len(), entries) >= GROUP_BYTES
    }

    fn end_block(&mut self) -> Result<()> {
        self.end_group()?;
        self.group.shrink();
        Ok(())
    }

    fn take_encoded(&mut self) -> Bytes {
        self.file.inner_mut().take()
    }

    fn stored_bytes(&self) -> u64 {
        (self.file.bytes_written() + self.group.stored_bytes()) as u64
    }

    fn memory_bytes(&self) -> u64 {
        self.group.memory_bytes() as u64 + self.file.inner().memory_bytes()
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
            self.file.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
        self.file
            .finish()
            .context(Kind::Fatal, || format!("cannot write the footer of a file of {}", self.header.partition))?;
        Ok(self.file.inner_mut().finish())
    }
}

/// How the crate writes the columns that are left to it: offsets, timestamps and headers.
fn properties(compression: Compression) -> Result<WriterProperties, ParquetError> {
    let mut properties = WriterProperties::builder()
        .set_compression(parquet_codec(compression)?)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_data_page_size_limit(columns::PAGE_BYTES)
        .set_data_page_row_count_limit(columns::PAGE_ROWS)
        .set_sorting_columns(Some(vec![SortingColumn { column_idx: 2, descending: false, nulls_first: false }]));
    for column in ["offset", "timestamp"] {
        properties = properties
            .set_column_encoding(column.into(), Encoding::DELTA_BINARY_PACKED)
            .set_column_statistics_enabled(column.into(), EnabledStatistics::Page);
    }
    // One step from row to row: a handful of bytes, which no codec makes smaller.
    properties = properties.set_column_compression("offset".into(), ParquetCodec::UNCOMPRESSED);
    let header_keys = ["headers", "list", "element", "key"].map(str::to_owned).to_vec();
    Ok(properties.set_column_dictionary_enabled(ColumnPath::new(header_keys), true).build())
}

fn parquet_codec(compression: Compression) -> Result<ParquetCodec, ParquetError> {
    let level = compression.level();
    Ok(match compression.codec() {
        "snappy" => ParquetCodec::SNAPPY,
        "gzip" => ParquetCodec::GZIP(GzipLevel::try_new(level.unsigned_abs())?),
        "lz4_raw" => ParquetCodec::LZ4_RAW,
        "zstd" => ParquetCodec::ZSTD(ZstdLevel::try_new(level)?),
        _ => ParquetCodec::UNCOMPRESSED,
    })
}
