//! Compresses pages, with a context and a buffer that each thread of the encode pool keeps: a file that is open and
//! idle holds neither. Called by [`super::chunk`].
//!
//! Invariant: what [`compressed`] lends is a page as Parquet's codec of that name has it; nothing outlives the call.

use std::cell::RefCell;
use std::io::{self, Write};

use flate2::write::GzEncoder;

use super::super::Compression;

/// What a thread keeps beyond a page, if it is not in use.
const KEPT_BYTES: usize = 4 << 20;

thread_local! {
    static KEPT: RefCell<Option<Compressor>> = const { RefCell::new(None) };
}

struct Compressor {
    compression: Compression,
    codec: Codec,
    out: Vec<u8>,
}

enum Codec {
    Snappy(Box<snap::raw::Encoder>),
    Gzip(flate2::Compression),
    Lz4,
    Zstd(zstd::bulk::Compressor<'static>),
}

/// Lends `page` as `compression` makes it to `take`.
///
/// # Errors
/// The codec's own, which only a page of gigabytes or a lack of memory brings about.
pub(super) fn compressed<T>(compression: Compression, page: &[u8], take: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
    if compression.codec() == Compression::NONE.codec() {
        return Ok(take(page));
    }
    KEPT.with_borrow_mut(|kept| {
        let fits = kept.take().filter(|kept| kept.compression == compression);
        let mut compressor = fits.map_or_else(|| Compressor::new(compression), Ok)?;
        let taken = take(compressor.compress(page)?);
        if compressor.out.capacity() <= KEPT_BYTES {
            *kept = Some(compressor);
        }
        Ok(taken)
    })
}

impl Compressor {
    fn new(compression: Compression) -> io::Result<Self> {
        let codec = match compression.codec() {
            "snappy" => Codec::Snappy(Box::new(snap::raw::Encoder::new())),
            "gzip" => Codec::Gzip(flate2::Compression::new(compression.level().unsigned_abs())),
            "lz4_raw" => Codec::Lz4,
            "zstd" => Codec::Zstd(zstd::bulk::Compressor::new(compression.level())?),
            other => return Err(io::Error::other(format!("no codec is called {other}"))),
        };
        Ok(Self { compression, codec, out: Vec::new() })
    }

    fn compress<'a>(&'a mut self, page: &'a [u8]) -> io::Result<&'a [u8]> {
        let out = &mut self.out;
        let len = match &mut self.codec {
            Codec::Snappy(encoder) => {
                make_room(out, snap::raw::max_compress_len(page.len()));
                encoder.compress(page, out)?
            }
            Codec::Gzip(level) => {
                out.clear();
                let mut encoder = GzEncoder::new(&mut *out, *level);
                encoder.write_all(page)?;
                encoder.finish()?.len()
            }
            Codec::Lz4 => {
                make_room(out, lz4_flex::block::get_maximum_output_size(page.len()));
                lz4_flex::block::compress_into(page, out).map_err(io::Error::other)?
            }
            Codec::Zstd(compressor) => {
                make_room(out, zstd::zstd_safe::compress_bound(page.len()));
                compressor.compress_to_buffer(page, &mut out[..])?
            }
        };
        Ok(&out[..len])
    }
}

/// Bytes once written stay: to write them again each time would cost as much as copying a page.
fn make_room(out: &mut Vec<u8>, len: usize) {
    if out.len() < len {
        out.resize(len, 0);
    }
}
