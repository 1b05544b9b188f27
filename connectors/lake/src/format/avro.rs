//! `archive.avro`: records as they left Kafka, byte for byte, in Avro object container files. The format table calls
//! it; [`decode`] is the way back.
//!
//! Invariant: a block of the file is a run of whole Avro blocks, block 0 with the file header before them. Rows are
//! written straight from the batch's arenas: a record of the avro crate would copy every field once more.
//!
//! The file's metadata stands before its rows, so it has no last offset. The sync marker is a hash of that header:
//! the same rows give the same bytes.

mod codec;
mod decode;

use std::io::{self, Write};

use bytes::Bytes;
use lakeferry_api::error::Context;
use lakeferry_api::{Batch, Kind, Result, Row, TimestampType};
use sha2::{Digest, Sha256};

use super::output::Output;
use super::rows::{APPEND, CREATE, RowOrder};
use super::{Codec, Compression, FileEncoder, FileFormat, FileHeader, FileMetadata, Tail};

/// The row of the format table.
pub(super) const FORMAT: FileFormat = FileFormat {
    name: "archive.avro",
    extension: "avro",
    codecs: &[
        Codec { name: "null", aliases: &["none", "uncompressed"], levels: None },
        Codec { name: "deflate", aliases: &["gzip"], levels: Some([0, 6, 9]) },
        Codec { name: "snappy", aliases: &[], levels: None },
        Codec { name: "zstandard", aliases: &["zstd"], levels: Some([1, 1, 22]) },
    ],
    encoder: |header, compression| Ok(Box::new(AvroEncoder::new(header, compression))),
    prelude: |_| 0,
    decoder: decode::decoder,
};

/// The archive's columns in Avro's terms.
const SCHEMA: &str = r#"{"type":"record","name":"Record","namespace":"io.lakeferry.archive","fields":[{"name":"topic","type":"string"},{"name":"partition","type":"int"},{"name":"offset","type":"long"},{"name":"timestamp","type":["null",{"type":"long","logicalType":"timestamp-millis"}]},{"name":"timestamp_type","type":["null","string"]},{"name":"key","type":["null","bytes"]},{"name":"value","type":["null","bytes"]},{"name":"headers","type":{"type":"array","items":{"type":"record","name":"Header","fields":[{"name":"key","type":"string"},{"name":"value","type":["null","bytes"]}]}}}]}"#;
const MAGIC: &[u8; 4] = b"Obj\x01";
const SCHEMA_KEY: &str = "avro.schema";
const CODEC_KEY: &str = "avro.codec";
const SYNC_BYTES: usize = 16;

/// Raw bytes of an Avro block: what a reader must hold to decode one, and an encoder until it is full. Codecs gain
/// nothing from more.
const AVRO_BLOCK_BYTES: usize = 64 << 10;
/// What a row without headers takes beyond its bytes and its start, at most.
const ROW_LENGTHS_BYTES: usize = 48;
/// Raw bytes of a block of the file.
const BLOCK_BYTES: u64 = 4 << 20;

struct AvroEncoder {
    header: FileHeader,
    compression: Compression,
    /// The topic and the partition, with which every row begins.
    row_start: Vec<u8>,
    sync: Option<[u8; SYNC_BYTES]>,
    order: RowOrder,
    rows: Vec<u8>,
    row_count: i64,
    block_raw_bytes: u64,
    output: Output,
}

impl AvroEncoder {
    fn new(header: FileHeader, compression: Compression) -> Self {
        let mut row_start = Vec::new();
        put_bytes(&mut row_start, header.partition.topic.as_bytes());
        put_long(&mut row_start, header.partition.partition.into());
        Self {
            order: RowOrder::new(header.partition.clone()),
            header,
            compression,
            row_start,
            sync: None,
            rows: Vec::new(),
            row_count: 0,
            block_raw_bytes: 0,
            output: Output::new(),
        }
    }

    /// Writes the file header, once.
    fn begin(&mut self) -> Result<[u8; SYNC_BYTES]> {
        if let Some(sync) = self.sync {
            return Ok(sync);
        }
        let metadata = FileMetadata { first_offset: self.order.first_offset(), ..FileMetadata::new(&self.header) };
        let mut pairs = vec![(SCHEMA_KEY, SCHEMA.to_owned()), (CODEC_KEY, self.compression.codec().to_owned())];
        pairs.extend(metadata.pairs());
        let mut header = MAGIC.to_vec();
        put_long(&mut header, pairs.len() as i64);
        for (key, value) in pairs {
            put_bytes(&mut header, key.as_bytes());
            put_bytes(&mut header, value.as_bytes());
        }
        put_long(&mut header, 0);
        let mut sync = [0; SYNC_BYTES];
        // The partition is not in the metadata, but no two files of a lake should share a marker.
        let hash = Sha256::new().chain_update(&self.row_start).chain_update(&header).finalize();
        sync.copy_from_slice(&hash[..SYNC_BYTES]);
        header.extend_from_slice(&sync);
        self.write(|output| output.write_all(&header))?;
        self.sync = Some(sync);
        Ok(sync)
    }

    /// Compresses and writes the rows gathered so far as one Avro block.
    fn end_avro_block(&mut self) -> Result<()> {
        let sync = self.begin()?;
        if self.row_count == 0 {
            return Ok(());
        }
        let stored = codec::compress(self.compression, &self.rows);
        let stored = stored.context(Kind::Fatal, || format!("cannot compress rows of {}", self.header.partition))?;
        let mut lengths = Vec::with_capacity(20);
        put_long(&mut lengths, self.row_count);
        put_long(&mut lengths, stored.len() as i64);
        self.write(|output| {
            output.write_all(&lengths)?;
            output.write_all(&stored)?;
            output.write_all(&sync)
        })?;
        self.block_raw_bytes += self.rows.len() as u64;
        self.row_count = 0;
        self.rows.clear();
        // One large record must not be paid for until the end of the file.
        self.rows.shrink_to(2 * AVRO_BLOCK_BYTES);
        Ok(())
    }

    fn write(&mut self, parts: impl FnOnce(&mut Output) -> io::Result<()>) -> Result<()> {
        parts(&mut self.output).context(Kind::Fatal, || format!("cannot encode rows of {}", self.header.partition))
    }
}

impl FileEncoder for AvroEncoder {
    fn append(&mut self, batch: &Batch) -> Result<()> {
        self.order.check(batch)?;
        for row in batch.rows() {
            put_row(&mut self.rows, &self.row_start, &row);
            self.row_count += 1;
            if self.rows.len() >= AVRO_BLOCK_BYTES {
                self.end_avro_block()?;
                if self.block_raw_bytes >= BLOCK_BYTES {
                    self.end_block()?;
                }
            }
        }
        Ok(())
    }

    fn ends_block(&self, batch: &Batch) -> bool {
        let lengths = ROW_LENGTHS_BYTES + self.row_start.len();
        self.rows.len() + batch.raw_bytes() + lengths * batch.len() >= AVRO_BLOCK_BYTES
    }

    fn end_block(&mut self) -> Result<()> {
        if self.row_count > 0 {
            self.end_avro_block()?;
        }
        self.rows = Vec::new();
        if self.block_raw_bytes > 0 {
            self.output.end_block();
            self.block_raw_bytes = 0;
        }
        Ok(())
    }

    fn take_encoded(&mut self) -> Bytes {
        self.output.take()
    }

    fn stored_bytes(&self) -> u64 {
        self.output.written() + self.rows.len() as u64
    }

    fn memory_bytes(&self) -> u64 {
        self.output.memory_bytes() + self.rows.capacity() as u64
    }

    fn finish(&mut self) -> Result<Tail> {
        self.end_avro_block()?;
        self.order.finish();
        Ok(self.output.finish())
    }
}

fn put_row(rows: &mut Vec<u8>, row_start: &[u8], row: &Row<'_>) {
    rows.extend_from_slice(row_start);
    put_long(rows, row.offset());
    let stamped = row.timestamp();
    match stamped {
        Some(timestamp) => {
            rows.push(PRESENT);
            put_long(rows, timestamp);
        }
        None => rows.push(NULL),
    }
    let timestamp_type = row.timestamp_type().filter(|_| stamped.is_some()).map(|stamp| match stamp {
        TimestampType::Create => CREATE.as_bytes(),
        TimestampType::Append => APPEND.as_bytes(),
    });
    put_optional(rows, timestamp_type);
    put_optional(rows, row.key());
    put_optional(rows, row.value());
    let headers = row.headers();
    if headers.len() > 0 {
        put_long(rows, headers.len() as i64);
        for (key, value) in headers {
            put_bytes(rows, key.as_bytes());
            put_optional(rows, value);
        }
    }
    put_long(rows, 0);
}

/// The branches of a `["null", ...]` union, as they are written.
const NULL: u8 = 0;
const PRESENT: u8 = 2;

fn put_optional(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        Some(value) => {
            out.push(PRESENT);
            put_bytes(out, value);
        }
        None => out.push(NULL),
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_long(out, bytes.len() as i64);
    out.extend_from_slice(bytes);
}

/// Zig-zag, then seven bits a byte, least significant first.
fn put_long(out: &mut Vec<u8>, number: i64) {
    let mut rest = ((number << 1) ^ (number >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
