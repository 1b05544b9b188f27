//! How many bytes come of values that a page repeats: the encodings that make much of few bytes, read only as far as
//! that takes. Called by [`super::pages`]. Pure.
//!
//! Sources: "Encodings.md" of the Parquet format, DELTA_BINARY_PACKED and the hybrid of runs and bit-packed values.
//! Nothing here allocates.

/// Integers as DELTA_BINARY_PACKED, whose header was read.
pub(super) struct Deltas<'a> {
    /// How many there are, as the header says.
    pub(super) count: u64,
    miniblocks: usize,
    miniblock_values: usize,
    first: i32,
    rest: &'a [u8],
}

/// What [`Deltas::read_all`] found.
pub(super) struct Summed<'a> {
    /// The sum of those that are above 0.
    pub(super) sum: u64,
    /// The bytes behind them.
    pub(super) rest: &'a [u8],
}

impl<'a> Deltas<'a> {
    /// Reads the header; `None` where there is none.
    pub(super) fn begin(mut bytes: &'a [u8]) -> Option<Self> {
        let rest = &mut bytes;
        let block_values = usize::try_from(varint(rest)?).ok()?;
        let miniblocks = usize::try_from(varint(rest)?).ok()?;
        let count = varint(rest)?;
        let first = i32::try_from(zigzag(rest)?).ok()?;
        let miniblock_values = block_values.checked_div(miniblocks)?;
        let is_whole = miniblock_values > 0 && miniblock_values.is_multiple_of(32);
        is_whole.then_some(Self { count, miniblocks, miniblock_values, first, rest: bytes })
    }

    /// Reads them all; `None` where they end too early.
    pub(super) fn read_all(self) -> Option<Summed<'a>> {
        let Self { count, miniblocks, miniblock_values, first, mut rest } = self;
        let positive = |value: i32| u64::try_from(value).unwrap_or(0);
        let (mut left, mut last) = (count.saturating_sub(1), first);
        let mut sum = if count > 0 { positive(first) } else { 0_u64 };
        while left > 0 {
            let least = i32::try_from(zigzag(&mut rest)?).ok()?;
            for width in take(&mut rest, miniblocks)? {
                let here = left.min(miniblock_values as u64);
                if here == 0 {
                    break;
                }
                let width = u32::from(*width);
                let packed = take(&mut rest, (miniblock_values / 8).checked_mul(usize::try_from(width).ok()?)?)?;
                for above in unpacked(packed, width)?.take(usize::try_from(here).ok()?) {
                    last = last.wrapping_add(least).wrapping_add(above as i32);
                    sum = sum.saturating_add(positive(last));
                }
                left -= here;
            }
        }
        Some(Summed { sum, rest })
    }
}

/// How many bytes `count` values are at most that `bytes` name by their numbers in a dictionary of values so long;
/// `None` where it has no such value. Nulls are not named: then the bytes end before the count.
pub(super) fn indexed_bytes(mut bytes: &[u8], count: u32, lengths: &[u32]) -> Option<u64> {
    let rest = &mut bytes;
    let (mut sum, mut left) = (0_u64, u64::from(count));
    let Some(width) = take(rest, 1) else { return Some(0) };
    let width = u32::from(width[0]);
    let length = |index: u64| lengths.get(usize::try_from(index).ok()?).map(|length| u64::from(*length));
    while left > 0 && !rest.is_empty() {
        let header = varint(rest)?;
        if header & 1 == 0 {
            let run = left.min(header >> 1);
            let stored = take(rest, usize::try_from(width.div_ceil(8)).ok()?)?;
            let index = stored
                .iter()
                .rev()
                .try_fold(0_u64, |index, byte| index.checked_mul(256).map(|index| index | u64::from(*byte)))?;
            sum = sum.saturating_add(run.saturating_mul(if run > 0 { length(index)? } else { 0 }));
            left -= run;
        } else {
            let len = usize::try_from((header >> 1).checked_mul(width.into())?).ok()?.min(rest.len());
            let here = left.min((header >> 1).saturating_mul(8));
            let whole = if width == 0 { here } else { here.min(len as u64 * 8 / u64::from(width)) };
            for index in unpacked(take(rest, len)?, width)?.take(usize::try_from(whole).ok()?) {
                sum = sum.saturating_add(length(index)?);
            }
            left -= here;
        }
    }
    Some(sum)
}

/// Integers of `width` bits, least significant first; `None` where no integer is so wide.
fn unpacked(bytes: &[u8], width: u32) -> Option<impl Iterator<Item = u64> + '_> {
    let mask = 1_u64.checked_shl(width).filter(|_| width <= 32)? - 1;
    let (mut bytes, mut bits, mut held) = (bytes.iter(), 0_u64, 0);
    Some(std::iter::from_fn(move || {
        while held < width {
            bits |= u64::from(*bytes.next()?) << held;
            held += 8;
        }
        let value = bits & mask;
        bits >>= width;
        held -= width;
        Some(value)
    }))
}

fn zigzag(bytes: &mut &[u8]) -> Option<i64> {
    varint(bytes).map(|number| (number >> 1) as i64 ^ -((number & 1) as i64))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use arrow_buffer::BooleanBuffer;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::encodings::{put_bits, put_deltas};
    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_summed(lengths in vec(prop_oneof![0..9, 0..i32::MAX], 0..400), behind in vec(any::<u8>(), 0..9)) {
            let mut bytes = Vec::new();
            put_deltas(&lengths, &mut bytes);
            bytes.extend(&behind);
            let deltas = Deltas::begin(&bytes).unwrap();
            prop_assert_eq!(deltas.count, lengths.len() as u64);
            let summed = deltas.read_all().unwrap();
            prop_assert_eq!(summed.sum, lengths.iter().map(|length| *length as u64).sum::<u64>());
            prop_assert_eq!(summed.rest, behind);
        }

        #[test]
        fn what_is_named_is_as_long_as_what_it_names(names in vec(any::<bool>(), 1..400), lengths in any::<[u32; 2]>()) {
            let mut bytes = vec![1];
            put_bits(&BooleanBuffer::from(names.clone()), &mut bytes);
            let expected = names.iter().map(|name| u64::from(lengths[usize::from(*name)])).sum();
            prop_assert_eq!(indexed_bytes(&bytes, names.len() as u32, &lengths), Some(expected));
            if names.contains(&true) {
                prop_assert_eq!(indexed_bytes(&bytes, names.len() as u32, &lengths[..1]), None);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..100), lengths in vec(any::<u32>(), 0..4)) {
            let _ = indexed_bytes(&bytes, u32::MAX, &lengths);
            let _ = Deltas::begin(&bytes).filter(|deltas| deltas.count < 1 << 20).map(Deltas::read_all);
        }
    }
}
