//! The encodings of Parquet that the archive's own columns are written in, appended to a page in the making. Called by
//! [`super::columns`] and [`super::chunk`].
//!
//! Sources: "Encodings.md" of the Parquet format: DELTA_BINARY_PACKED for lengths, the hybrid of runs and bit-packed
//! values for levels and dictionary indices (here of one bit at most); and Thrift's compact protocol for page headers.

use arrow_buffer::BooleanBuffer;

/// Values of a block of deltas, which has a least delta of its own.
const BLOCK: usize = 128;
/// Values of a miniblock, which has a bit width of its own.
const MINIBLOCK: usize = 32;

/// Appends `value`, seven bits a byte, least significant first.
pub(super) fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends `value` so that small ones of either sign take few bytes.
pub(super) fn put_zigzag(value: i64, out: &mut Vec<u8>) {
    put_varint((value << 1 ^ value >> 63) as u64, out);
}

/// Appends `lengths`, none of them negative, as DELTA_BINARY_PACKED.
pub(super) fn put_deltas(lengths: &[i32], out: &mut Vec<u8>) {
    put_varint(BLOCK as u64, out);
    put_varint((BLOCK / MINIBLOCK) as u64, out);
    put_varint(lengths.len() as u64, out);
    let first = lengths.first().copied().unwrap_or(0);
    put_zigzag(first.into(), out);
    let mut before = first;
    for block in lengths.get(1..).unwrap_or_default().chunks(BLOCK) {
        let mut deltas = [0; BLOCK];
        for (delta, length) in deltas.iter_mut().zip(block) {
            *delta = length - before;
            before = *length;
        }
        put_block(&deltas[..block.len()], out);
    }
}

fn put_block(deltas: &[i32], out: &mut Vec<u8>) {
    let least = deltas.iter().copied().min().unwrap_or(0);
    put_zigzag(least.into(), out);
    let widths_at = out.len();
    out.extend_from_slice(&[0; BLOCK / MINIBLOCK]);
    for (index, miniblock) in deltas.chunks(MINIBLOCK).enumerate() {
        // What is missing of the last one stands as zeros.
        let mut above = [0; MINIBLOCK];
        for (above, delta) in above.iter_mut().zip(miniblock) {
            *above = delta.wrapping_sub(least) as u32;
        }
        let width = 32 - above.iter().fold(0, |all, above| all | above).leading_zeros();
        out[widths_at + index] = width as u8;
        put_packed(&above, width, out);
    }
}

/// Appends the low `width` bits of each value, least significant first.
fn put_packed(values: &[u32; MINIBLOCK], width: u32, out: &mut Vec<u8>) {
    let (mut bits, mut count) = (0_u64, 0);
    for value in values {
        bits |= u64::from(*value) << count;
        count += width;
        if count >= 32 {
            out.extend_from_slice(&(bits as u32).to_le_bytes());
            bits >>= 32;
            count -= 32;
        }
    }
}

/// Appends one-bit values: as one run where all are the same, else as they are packed already.
pub(super) fn put_bits(bits: &BooleanBuffer, out: &mut Vec<u8>) {
    let (len, ones) = (bits.len(), bits.count_set_bits());
    if ones == 0 || ones == len {
        put_varint((len as u64) << 1, out);
        out.push(u8::from(ones > 0));
    } else {
        put_varint((len.div_ceil(8) as u64) << 1 | 1, out);
        out.extend(bits.bit_chunks().iter_padded().flat_map(u64::to_le_bytes).take(len.div_ceil(8)));
    }
}

/// Appends definition levels of a column whose values are there or not.
pub(super) fn put_levels(present: &BooleanBuffer, out: &mut Vec<u8>) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    put_bits(present, out);
    let len = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
}

#[cfg(test)]
mod tests;
