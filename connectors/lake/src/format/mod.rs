//! The bytes of a data object: how batches become a file and how a file becomes batches again. Called by the sink's
//! writer and the source's reader, on the encode pool (nothing here awaits, and a call may take milliseconds).
//!
//! Invariants: what an encoder took, its file's decoder gives back byte for byte (null is not empty; headers keep
//! order, duplicates and nulls); the blocks of a file touch and cover every byte of it; no Arrow or Avro type leaves
//! this folder (A3). A file knows nothing of object names, manifests or committed offsets.
//!
//! To add a format: a file beside this one with its [`FileFormat`] row, and the row in [`FORMATS`].

mod archive;
mod avro;
mod metadata;
mod output;
mod rows;

use bytes::Bytes;
use lakeferry_api::{Batch, ConnectError, Result, TopicPartition};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A stretch of a stored file that can be checked and decoded by itself. Block 0 begins at byte 0, each one begins
/// where the one before it ends, and the last one ends with the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Its first byte's place in the file.
    pub at: u64,
    /// Its length in bytes.
    pub len: u64,
    /// SHA-256 of its bytes, 64 lower-case hex digits.
    pub sha256: String,
}

/// How much a file holds, as its manifest says: what no reader of it allocates more for, whatever the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Its records.
    pub records: u64,
    /// Bytes of keys, values and headers in them.
    pub raw_bytes: u64,
}

impl Content {
    /// What a record takes at most beyond its bytes and its headers, in any format: the topic's name is the most of it.
    const RECORD_BYTES: u64 = 320;
    /// Room for what headers take beyond their bytes, which no manifest counts: more than 8 million in one block.
    const SPARE_BYTES: u64 = 64 << 20;
    /// No block holds more: a Kafka record is shorter than 2 GiB.
    const MOST_BYTES: u64 = i32::MAX as u64;

    /// The bytes that a column or a block of the file comes to at most, decompressed and written out.
    fn most_bytes(self) -> u64 {
        let records = self.records.saturating_mul(Self::RECORD_BYTES);
        self.raw_bytes.saturating_add(records).saturating_add(Self::SPARE_BYTES).min(Self::MOST_BYTES)
    }
}

/// What is known of a file before its first record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHeader {
    /// The partition that all its records belong to.
    pub partition: TopicPartition,
    /// The cluster they were read from, where it has an id.
    pub cluster_id: Option<String>,
    /// The topic's id, where the broker gives one.
    pub topic_id: Option<String>,
}

/// What a file says of itself, as key-value metadata that any reader of the format can show (`lakeferry.version`,
/// `lakeferry.cluster_id`, `lakeferry.topic_id`, `lakeferry.first_offset`, `lakeferry.last_offset`). The manifest is
/// the truth; this is for those who hold a file without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMetadata {
    /// The version of Lakeferry that wrote it.
    pub version: String,
    /// See [`FileHeader::cluster_id`].
    pub cluster_id: Option<String>,
    /// See [`FileHeader::topic_id`].
    pub topic_id: Option<String>,
    /// The offset of its first record; `None` in a file without records.
    pub first_offset: Option<i64>,
    /// The offset of its last record. An Avro file cannot say: its metadata stands before its records.
    pub last_offset: Option<i64>,
}

/// A finished file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// Its blocks in order.
    pub blocks: Vec<Block>,
    /// SHA-256 of the whole file, 64 lower-case hex digits.
    pub sha256: String,
    /// Its length.
    pub stored_bytes: u64,
}

/// Turns batches into the bytes of one file. After an error the file is lost: drop the encoder.
pub trait FileEncoder: Send {
    /// Adds the rows of `batch`, which belong to the header's partition and follow those added before.
    ///
    /// # Errors
    /// `Fatal` where the batch is of another partition, out of order or cannot be encoded.
    fn append(&mut self, batch: &Batch) -> Result<()>;

    /// True where adding `batch`, a small one, ends a block: all that was gathered is compressed and hashed then, which
    /// takes milliseconds.
    fn ends_block(&self, batch: &Batch) -> bool;

    /// Ends the block that is being encoded, so that its memory moves to [`FileEncoder::take_encoded`]. For a sink
    /// short of memory: small blocks make a worse file.
    ///
    /// # Errors
    /// As [`FileEncoder::append`].
    fn end_block(&mut self) -> Result<()>;

    /// The bytes that are ready to be stored and were not taken yet; they follow those taken before.
    fn take_encoded(&mut self) -> Bytes;

    /// How long the file would be if it ended now, near enough: bytes taken, ready, and still being encoded.
    fn stored_bytes(&self) -> u64;

    /// The memory it holds now, ready bytes included.
    fn memory_bytes(&self) -> u64;

    /// Ends the file. Take the last bytes afterwards; nothing can be appended any more.
    ///
    /// # Errors
    /// As [`FileEncoder::append`].
    fn finish(&mut self) -> Result<Tail>;
}

/// Batches of bounded size, decoded as they are asked for.
pub type Batches = Box<dyn Iterator<Item = Result<Batch>> + Send>;

/// Turns the blocks of one file into batches again. Blocks may be decoded in any order and several at once.
pub trait FileDecoder: Send {
    /// What the file says of itself.
    fn metadata(&self) -> &FileMetadata;

    /// The rows of block `index`, whose bytes are `bytes`, in batches of about 1 MiB or 8,192 rows; a batch's position
    /// is the offset after its last record. A block that holds no rows gives no batch.
    ///
    /// # Errors
    /// `Fatal` where the bytes are not what this format writes, or rows are of another partition: at once or
    /// from the iterator, which ends then. Check the bytes with [`Block::check`] first: only a hash finds every damage.
    fn decode(&self, index: usize, bytes: Bytes) -> Result<Batches>;
}

/// A way to compress that a format knows; see [`FileFormat::compression`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    codec: &'static Codec,
    level: i32,
}

/// One row of a format's table of codecs.
#[derive(Debug, PartialEq, Eq)]
pub struct Codec {
    /// The format's own name for it, as it stands in manifests.
    pub name: &'static str,
    /// Other names that users know it by.
    pub aliases: &'static [&'static str],
    /// Lowest, default and highest level; `None` where there is nothing to choose.
    pub levels: Option<[i32; 3]>,
}

/// A file format: one row of [`FORMATS`].
pub struct FileFormat {
    /// The value of `format` in the sink's settings and in manifests.
    pub name: &'static str,
    /// The extension of object names, without the dot.
    pub extension: &'static str,
    /// The codecs it knows.
    pub codecs: &'static [Codec],
    encoder: BeginFile,
    prelude: fn(&[Block]) -> usize,
    decoder: BeginDecoding,
}

type BeginFile = fn(FileHeader, Compression) -> Result<Box<dyn FileEncoder>>;
type BeginDecoding = fn(Bytes, &[Block], &TopicPartition, Content) -> Result<Box<dyn FileDecoder>>;

/// Every format that a sink can write and a source can read.
pub static FORMATS: &[FileFormat] = &[archive::FORMAT, avro::FORMAT];

/// The format called `name`.
///
/// # Errors
/// `Config` where there is none; the message names those that exist.
pub fn find(name: &str) -> Result<&'static FileFormat> {
    FORMATS.iter().find(|format| format.name == name).ok_or_else(|| {
        let known: Vec<_> = FORMATS.iter().map(|format| format.name).collect();
        ConnectError::config(format!("no file format is called {name:?}; use one of: {}", known.join(", ")))
    })
}

impl FileFormat {
    /// The codec called `name` at `level`, or at its default level.
    ///
    /// # Errors
    /// `Config` where this format does not know the codec or the codec does not have the level.
    pub fn compression(&self, name: &str, level: Option<i32>) -> Result<Compression> {
        let codec = self.codecs.iter().find(|codec| codec.name == name || codec.aliases.contains(&name));
        let codec = codec.ok_or_else(|| {
            let known: Vec<_> = self.codecs.iter().map(|codec| codec.name).collect();
            ConnectError::config(format!("{} has no codec {name:?}; use one of: {}", self.name, known.join(", ")))
        })?;
        match (codec.levels, level) {
            (None, None) => Ok(Compression { codec, level: 0 }),
            (None, Some(level)) => Err(ConnectError::config(format!(
                "codec {} has no levels, but codec.level is {level}; remove codec.level",
                codec.name
            ))),
            (Some([lowest, default, highest]), level) => match level.unwrap_or(default) {
                level if (lowest..=highest).contains(&level) => Ok(Compression { codec, level }),
                level => Err(ConnectError::config(format!(
                    "codec.level {level} is not a level of {}; use {lowest} to {highest}",
                    codec.name
                ))),
            },
        }
    }

    /// Begins a file.
    ///
    /// # Errors
    /// `Fatal` where the encoder cannot be set up.
    pub fn encoder(&self, header: FileHeader, compression: Compression) -> Result<Box<dyn FileEncoder>> {
        (self.encoder)(header, compression)
    }

    /// Which block a reader needs before any other: [`FileFormat::decoder`] takes its bytes.
    pub fn prelude(&self, blocks: &[Block]) -> usize {
        (self.prelude)(blocks)
    }

    /// A decoder of the file whose prelude is `prelude` and whose rows belong to `partition`. Blocks that hold clearly
    /// more than `content` are refused before they take memory; a little more or less is for the caller to count.
    ///
    /// # Errors
    /// `Fatal` where the prelude is damaged, of another format or does not fit `blocks`.
    pub fn decoder(
        &self,
        prelude: Bytes,
        blocks: &[Block],
        partition: &TopicPartition,
        content: Content,
    ) -> Result<Box<dyn FileDecoder>> {
        (self.decoder)(prelude, blocks, partition, content)
    }
}

impl Compression {
    /// Bytes as they are.
    const NONE: Self = Self { codec: &Codec { name: "none", aliases: &[], levels: None }, level: 0 };

    /// The codec's name, as manifests have it.
    pub fn codec(&self) -> &'static str {
        self.codec.name
    }

    /// The level; 0 where the codec has none.
    pub fn level(&self) -> i32 {
        self.level
    }
}

impl Block {
    /// Compares `bytes` with the length and the hash of this block.
    ///
    /// # Errors
    /// `Fatal` where they differ; the message says how.
    pub fn check(&self, bytes: &[u8]) -> Result<()> {
        let place = format!("block of {} bytes at {}", self.len, self.at);
        if bytes.len() as u64 != self.len {
            return Err(ConnectError::fatal(format!("{place}: {} bytes were read", bytes.len())));
        }
        let found = hex(&Sha256::digest(bytes));
        if found != self.sha256 {
            return Err(ConnectError::fatal(format!(
                "{place} is damaged: its SHA-256 is {found}, the manifest says {}",
                self.sha256
            )));
        }
        Ok(())
    }
}

fn hex(digest: &[u8]) -> String {
    use std::fmt::Write;
    digest.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
