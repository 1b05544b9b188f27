//! What decoded rows hold: whoever buffers a batch pays for the bytes of its rows.

use super::*;

#[test]
fn a_batch_of_uneven_rows_holds_its_own_bytes_and_no_others() {
    let mut written: Vec<_> = (0..1000).map(|offset| plain(offset, noise(100))).collect();
    written.extend((1000..1005).map(|offset| plain(offset * 2, noise(2 << 20))));
    written[1001].headers = vec![("h".to_owned(), Some(noise(300)))];
    for format in FORMATS {
        let file = encode(format, format.codecs[0].name, &[(batch(&written), Step::Go)]);
        let batches = file.batches(format).unwrap();
        assert_eq!(batches.iter().flat_map(records).collect::<Vec<_>>(), written, "{}", format.name);
        for pair in batches.windows(2) {
            assert!(pair[0].next_offset() == pair[1].base_offset() || pair[1].base_offset() == pair[1].offsets()[0]);
        }
        for batch in &batches {
            let headers = batch.headers();
            let columns = [batch.keys(), batch.values(), headers.keys(), headers.values()];
            let held: usize = columns.iter().map(|column| column.bytes().len()).sum();
            let (own, rows) = (batch.raw_bytes(), batch.len());
            assert!(held <= own + own / 4, "{}: {rows} rows of {own} bytes hold {held}", format.name);
        }
    }
}
