use super::*;

#[test]
fn deltas_are_those_of_the_formats_document() {
    let mut out = Vec::new();
    // Its first example: deltas of one take no bits at all.
    put_deltas(&[1, 2, 3, 4, 5], &mut out);
    assert_eq!(out, [128, 1, 4, 5, 2, 2, 0, 0, 0, 0]);
    out.clear();
    // Its second: deltas -2 -2 -2 1 1 1 1 above the least one are 0 0 0 3 3 3 3, two bits each.
    put_deltas(&[7, 5, 3, 1, 2, 3, 4, 5], &mut out);
    assert_eq!(out[..10], [128, 1, 4, 8, 14, 3, 2, 0, 0, 0]);
    assert_eq!(out[10..], [0b1100_0000, 0b0011_1111, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn no_length_at_all_is_a_header_alone() {
    let mut out = Vec::new();
    put_deltas(&[], &mut out);
    assert_eq!(out, [128, 1, 4, 0, 0]);
}

#[test]
fn the_widest_deltas_take_32_bits_a_value() {
    let mut out = Vec::new();
    put_deltas(&[0, i32::MAX, 0], &mut out);
    let (header, least, widths) = (5, 5, 4);
    assert_eq!(out[header + least..][..widths], [32, 0, 0, 0]);
    assert_eq!(out.len(), header + least + widths + 4 * MINIBLOCK);
}

#[test]
fn bits_are_a_run_where_they_are_all_the_same() {
    let put = |bits: &[bool]| {
        let mut out = Vec::new();
        put_bits(&BooleanBuffer::from(bits.to_vec()), &mut out);
        out
    };
    assert_eq!(put(&[true; 100]), [200, 1, 1]);
    assert_eq!(put(&[false; 3]), [6, 0]);
    assert_eq!(put(&[true, false, true, true, false, false, false, false, true]), [5, 0b0000_1101, 1]);
    let mut levels = vec![9];
    put_levels(&BooleanBuffer::from(vec![true; 4]), &mut levels);
    assert_eq!(levels, [9, 2, 0, 0, 0, 8, 1]);
}
