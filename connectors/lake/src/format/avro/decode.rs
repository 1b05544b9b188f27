//! The way back from `archive.avro`: runs of Avro blocks to batches.
//!
//! Invariant: nothing is believed. Lengths are compared with what is there before anything is read or allocated; every
//! row is held to the partition and to ascending offsets.

use bytes::Bytes;
use lakeferry_api::batch::NO_TIMESTAMP;
use lakeferry_api::{Batch, ConnectError, Result, TopicPartition};
use serde_json::Value;

use super::super::rows::{Gatherer, timestamp_type};
use super::super::{Batches, Block, Content, FileDecoder, FileMetadata};
use super::{CODEC_KEY, FORMAT, MAGIC, SCHEMA, SCHEMA_KEY, SYNC_BYTES, codec};

struct AvroDecoder {
    partition: TopicPartition,
    blocks: usize,
    metadata: FileMetadata,
    codec: &'static str,
    header: Bytes,
    most_bytes: u64,
}

/// A decoder of the file whose block 0 is `prelude`.
pub(super) fn decoder(
    prelude: Bytes,
    blocks: &[Block],
    partition: &TopicPartition,
    content: Content,
) -> Result<Box<dyn FileDecoder>> {
    let mut reader = Reader::new(&prelude);
    let pairs = reader.header()?;
    let header = prelude.slice(..prelude.len() - reader.rest.len());
    let value_of = |key: &str| {
        let pair = pairs.iter().find(|(name, _)| *name == key.as_bytes());
        pair.and_then(|(_, value)| std::str::from_utf8(value).ok())
    };
    let schema = value_of(SCHEMA_KEY).unwrap_or_default();
    if !same_schema(schema) {
        return Err(ConnectError::fatal("the Avro file does not have the schema of archive.avro"));
    }
    let name = value_of(CODEC_KEY).unwrap_or("null");
    let codec = FORMAT.codecs.iter().map(|codec| codec.name).find(|known| *known == name);
    let codec = codec.ok_or_else(|| ConnectError::fatal(format!("the Avro file has the unknown codec {name:?}")))?;
    let metadata = FileMetadata::read(value_of)?;
    let (partition, blocks, most_bytes) = (partition.clone(), blocks.len(), content.most_bytes());
    Ok(Box::new(AvroDecoder { partition, blocks, metadata, codec, header, most_bytes }))
}

impl FileDecoder for AvroDecoder {
    fn metadata(&self) -> &FileMetadata {
        &self.metadata
    }

    fn decode(&self, index: usize, bytes: Bytes) -> Result<Batches> {
        if index >= self.blocks {
            return Err(ConnectError::fatal(format!("a file of {} blocks has no block {index}", self.blocks)));
        }
        let stored = match index {
            0 if !bytes.starts_with(&self.header) => return Err(damaged("another header")),
            0 => bytes.slice(self.header.len()..),
            _ => bytes,
        };
        let mut sync = [0; SYNC_BYTES];
        sync.copy_from_slice(&self.header[self.header.len() - SYNC_BYTES..]);
        let gatherer = Gatherer::new(self.partition.clone());
        Ok(Box::new(Rows {
            stored,
            codec: self.codec,
            most_bytes: self.most_bytes,
            sync,
            raw: Bytes::new(),
            rows_left: 0,
            gatherer,
            ended: false,
        }))
    }
}

/// The rows of a run of Avro blocks, gathered into batches.
struct Rows {
    stored: Bytes,
    codec: &'static str,
    most_bytes: u64,
    sync: [u8; SYNC_BYTES],
    raw: Bytes,
    rows_left: u64,
    gatherer: Gatherer,
    ended: bool,
}

impl Rows {
    fn next_batch(&mut self) -> Result<Option<Batch>> {
        loop {
            let mut reader = Reader::new(&self.raw);
            while self.rows_left > 0 {
                self.rows_left -= 1;
                if let Some(batch) = reader.row(&mut self.gatherer)? {
                    self.raw = self.raw.slice(self.raw.len() - reader.rest.len()..);
                    return Ok(Some(batch));
                }
            }
            if !reader.rest.is_empty() {
                return Err(damaged("bytes after the last row of a block"));
            }
            self.raw = Bytes::new();
            if self.stored.is_empty() {
                return Ok(self.gatherer.finish());
            }
            self.next_block()?;
        }
    }

    fn next_block(&mut self) -> Result<()> {
        let mut reader = Reader::new(&self.stored);
        self.rows_left = u64::try_from(reader.long()?).map_err(|_| damaged("a negative number of rows"))?;
        let block = reader.bytes()?;
        if reader.take(SYNC_BYTES)? != self.sync {
            return Err(damaged("no sync marker behind a block"));
        }
        let raw = codec::decompress(self.codec, block, self.most_bytes)
            .map_err(|error| ConnectError::fatal(format!("{MESSAGE}: {error}")).caused_by(error))?;
        self.raw = raw.map_or_else(|| self.stored.slice_ref(block), Bytes::from);
        self.stored = self.stored.slice(self.stored.len() - reader.rest.len()..);
        Ok(())
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

/// Reads Avro's binary encoding.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The file header: its metadata; the sync marker ends it.
    fn header(&mut self) -> Result<Vec<(&'a [u8], &'a [u8])>> {
        if self.take(MAGIC.len())? != MAGIC {
            return Err(damaged("no Avro file header"));
        }
        let mut pairs = Vec::new();
        self.each_item(|reader| {
            pairs.push((reader.bytes()?, reader.bytes()?));
            Ok(())
        })?;
        self.take(SYNC_BYTES)?;
        Ok(pairs)
    }

    fn row(&mut self, gatherer: &mut Gatherer) -> Result<Option<Batch>> {
        let (topic, partition) = (self.bytes()?, self.long()?);
        let expected = gatherer.partition();
        if topic != expected.topic.as_bytes() || partition != i64::from(expected.partition) {
            let topic = String::from_utf8_lossy(topic);
            let message = format!("the file holds rows of {topic}-{partition}, but {expected} is read");
            return Err(ConnectError::fatal(message));
        }
        let offset = self.long()?;
        let timestamp = if self.is_present()? { self.long()? } else { NO_TIMESTAMP };
        let stamped = timestamp_type(self.optional()?)?;
        let (key, value) = (self.optional()?, self.optional()?);
        let full = gatherer.push(offset, (timestamp, stamped), key, value)?;
        self.each_item(|reader| {
            let key = std::str::from_utf8(reader.bytes()?).map_err(|_| damaged("a header key that is not UTF-8"))?;
            gatherer.header(key, reader.optional()?);
            Ok(())
        })?;
        Ok(full)
    }

    /// Reads an array or a map: runs of items, each with its length before it, up to an empty run.
    fn each_item(&mut self, mut item: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        loop {
            let count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                // The length in bytes, for those who skip.
                self.long()?;
            }
            for _ in 0..count.unsigned_abs() {
                item(self)?;
            }
        }
    }

    fn optional(&mut self) -> Result<Option<&'a [u8]>> {
        if self.is_present()? { self.bytes().map(Some) } else { Ok(None) }
    }

    fn is_present(&mut self) -> Result<bool> {
        match self.long()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(damaged("an unknown branch of a union")),
        }
    }

    fn bytes(&mut self) -> Result<&'a [u8]> {
        let len = usize::try_from(self.long()?).map_err(|_| damaged("a negative length"))?;
        self.take(len)
    }

    fn long(&mut self) -> Result<i64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((number >> 1) as i64 ^ -((number & 1) as i64));
            }
        }
        Err(damaged("a number of more than 64 bits"))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(|| damaged("less than it should hold"))?;
        self.rest = rest;
        Ok(taken)
    }
}

/// True where `text` is the archive's schema, however it is written.
fn same_schema(text: &str) -> bool {
    let (Ok(found), Ok(expected)) = (serde_json::from_str::<Value>(text), serde_json::from_str::<Value>(SCHEMA)) else {
        return false;
    };
    found == expected
}

const MESSAGE: &str = "the Avro file is damaged, or Lakeferry did not write it";

fn damaged(what: &str) -> ConnectError {
    ConnectError::fatal(format!("{MESSAGE}: {what}"))
}
