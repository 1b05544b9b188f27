//! The codecs of Avro object container files. The avro crate has them too, but its decoders allocate what the input
//! claims; these stop at a limit.

use std::io::{self, Read, Write};

use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;

use super::super::Compression;

/// Snappy's longest copy makes 64 bytes of 3.
const SNAPPY_MAX_RATIO: usize = 22;

/// `raw` as it is stored.
pub(super) fn compress(compression: Compression, raw: &[u8]) -> io::Result<Vec<u8>> {
    match compression.codec() {
        "deflate" => {
            let level = flate2::Compression::new(compression.level().unsigned_abs());
            let mut encoder = DeflateEncoder::new(Vec::with_capacity(raw.len() / 2), level);
            encoder.write_all(raw)?;
            encoder.finish()
        }
        "snappy" => {
            let mut stored = snap::raw::Encoder::new().compress_vec(raw)?;
            stored.extend_from_slice(&crc32fast::hash(raw).to_be_bytes());
            Ok(stored)
        }
        "zstandard" => zstd::bulk::compress(raw, compression.level()),
        _ => Ok(raw.to_vec()),
    }
}

/// What `codec` made `stored` of, which has `most_bytes` at most; `None` where it is stored as it is.
///
/// # Errors
/// The codec's own, and where it has more.
pub(super) fn decompress(codec: &str, stored: &[u8], most_bytes: u64) -> io::Result<Option<Vec<u8>>> {
    match codec {
        "null" => Ok(None),
        "deflate" => limited(DeflateDecoder::new(stored), most_bytes).map(Some),
        "snappy" => snappy(stored, most_bytes).map(Some),
        "zstandard" => limited(zstd::Decoder::with_buffer(stored)?, most_bytes).map(Some),
        other => Err(invalid(format!("codec {other:?} is unknown"))),
    }
}

fn limited(decoder: impl Read, most_bytes: u64) -> io::Result<Vec<u8>> {
    let mut raw = Vec::new();
    decoder.take(most_bytes + 1).read_to_end(&mut raw)?;
    if raw.len() as u64 > most_bytes { Err(too_long(most_bytes)) } else { Ok(raw) }
}

fn too_long(most_bytes: u64) -> io::Error {
    let why = "for which the manifest has too few records and raw bytes";
    invalid(format!("a block comes to more than {most_bytes} bytes, {why}"))
}

fn snappy(stored: &[u8], most_bytes: u64) -> io::Result<Vec<u8>> {
    let (stored, checksum) = stored.split_last_chunk::<4>().ok_or_else(|| invalid("no checksum"))?;
    let claimed = snap::raw::decompress_len(stored)?;
    if claimed > SNAPPY_MAX_RATIO * stored.len() {
        return Err(invalid(format!("{} bytes cannot hold {claimed}", stored.len())));
    }
    if claimed as u64 > most_bytes {
        return Err(too_long(most_bytes));
    }
    let raw = snap::raw::Decoder::new().decompress_vec(stored)?;
    if crc32fast::hash(&raw) != u32::from_be_bytes(*checksum) {
        return Err(invalid("the checksum differs"));
    }
    Ok(raw)
}

fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}
