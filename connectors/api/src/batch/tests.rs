use super::*;

fn sample() -> Batch {
    let mut builder = BatchBuilder::new(TopicPartition::new("orders", 2), 3);
    builder.push(5, (1_000, Some(TimestampType::Create)), Some(b"k"), Some(b"first"));
    builder.header("a", Some(b"1"));
    builder.header("a", None);
    builder.push(7, (NO_TIMESTAMP, None), None, Some(b""));
    builder.push(9, (0, Some(TimestampType::Append)), Some(b""), None);
    builder.header("b", Some(b""));
    builder.build(12)
}

#[test]
fn null_is_not_empty_and_headers_keep_order_duplicates_and_nulls() {
    let batch = sample();
    let rows: Vec<_> = batch.rows().collect();
    assert_eq!(rows[0].headers().collect::<Vec<_>>(), [("a", Some(&b"1"[..])), ("a", None)]);
    assert_eq!((rows[1].key(), rows[1].value()), (None, Some(&b""[..])));
    assert_eq!((rows[2].key(), rows[2].value()), (Some(&b""[..]), None));
    assert_eq!(rows[1].headers().len(), 0);
    assert_eq!((rows[1].timestamp(), rows[2].timestamp()), (None, Some(0)));
}

#[test]
fn what_lies_below_an_offset_ends_there_and_not_at_the_next_record() {
    let mut builder = BatchBuilder::new(TopicPartition::new("t", 0), 3);
    for offset in [4, 5, 9] {
        builder.push(offset, (0, None), None, None);
    }
    let batch = builder.build(12);
    let ends = |offset: i64| (batch.until(offset).len(), batch.until(offset).next_offset());
    assert_eq!([ends(7), ends(9), ends(10), ends(99)], [(2, 7), (2, 9), (3, 10), (3, 12)]);
    assert_eq!([ends(3), ends(1)], [(0, 3), (0, 3)], "it never ends before it begins");
}

#[test]
fn a_slice_knows_its_rows_bytes_and_position() {
    let batch = sample();
    let (head, tail) = (batch.slice(0..1), batch.slice(1..3));
    assert_eq!((head.base_offset(), head.next_offset()), (3, 7));
    assert_eq!((tail.base_offset(), tail.next_offset()), (7, 12));
    assert_eq!(tail.offsets(), [7, 9]);
    assert_eq!(head.raw_bytes() + tail.raw_bytes(), batch.raw_bytes());
    assert_eq!(tail.row(1).headers().collect::<Vec<_>>(), [("b", Some(&b""[..]))]);
    assert!(batch.slice(3..3).is_empty());
}

#[test]
fn a_selection_keeps_rows_whole_and_positions() {
    let batch = sample();
    for mask in 0..8u8 {
        let keep = [mask & 1 != 0, mask & 2 != 0, mask & 4 != 0];
        let selected = batch.select(&keep);
        let wanted: Vec<_> = batch.rows().zip(keep).filter(|(_, keep)| *keep).map(|(row, _)| shown(&row)).collect();
        assert_eq!(selected.rows().map(|row| shown(&row)).collect::<Vec<_>>(), wanted, "{keep:?}");
        assert_eq!((selected.base_offset(), selected.next_offset()), (3, 12), "{keep:?}");
    }
    let tail = batch.slice(1..3);
    assert_eq!(tail.select(&[false, true]).offsets(), [9]);
    assert_eq!(tail.select(&[true, false]).offsets(), [7]);
}

#[test]
fn a_retargeted_batch_differs_in_its_partition_alone() {
    let batch = sample();
    let moved = batch.clone().retarget(TopicPartition::new("copy", 2));
    assert_eq!(moved.partition().to_string(), "copy-2");
    assert_eq!(moved.slice(0..1).select(&[true]).partition().to_string(), "copy-2");
    assert_eq!(batch.partition().to_string(), "orders-2");
    assert!(moved.rows().map(|row| shown(&row)).eq(batch.rows().map(|row| shown(&row))));
}

#[test]
fn the_permit_lives_as_long_as_the_last_piece() {
    let budget = crate::budget::Budget::new(100);
    let batch = sample().holding(budget.take(40));
    let pieces = [batch.slice(0..1), batch.select(&[true, false, true])];
    drop(batch);
    assert_eq!(budget.used(), 40);
    drop(pieces);
    assert_eq!(budget.used(), 0);
}

#[test]
fn rows_cost_memory_even_where_they_have_no_bytes() {
    let mut tombstones = BatchBuilder::new(TopicPartition::new("t", 0), 0);
    for offset in 0..1_000 {
        tombstones.push(offset, (1, None), None, None);
    }
    assert_eq!((tombstones.raw_bytes(), tombstones.memory_bytes()), (0, 48_000));
    let batch = tombstones.build(1_000);
    assert_eq!((batch.raw_bytes(), batch.memory_bytes()), (0, 48_000));
    assert_eq!(batch.slice(0..10).memory_bytes(), 480);
}

#[test]
fn columns_become_a_batch_where_they_fit_each_other() {
    let sample = sample();
    let arena = &sample.arena;
    let columns = |offsets: [i64; 3], keys: Column, headers: Headers| Columns {
        offsets: offsets.into(),
        timestamps: arena.timestamps.clone(),
        timestamp_types: arena.timestamp_types.clone(),
        keys,
        values: arena.values.clone(),
        headers,
    };
    let made = |offsets, keys: Column, headers, (base, next)| {
        columns(offsets, keys, headers).into_batch(sample.partition.clone(), base, next)
    };
    let whole = |offsets, positions| made(offsets, arena.keys.clone(), arena.headers.clone(), positions);
    let batch = whole([5, 7, 9], (3, 12)).unwrap();
    assert!(batch.rows().map(|row| shown(&row)).eq(sample.rows().map(|row| shown(&row))));
    assert_eq!((batch.base_offset(), batch.next_offset(), batch.raw_bytes()), (3, 12, sample.raw_bytes()));
    for (offsets, positions) in [([5, 5, 9], (3, 12)), ([5, 7, 9], (6, 12)), ([5, 7, 9], (3, 9))] {
        assert!(whole(offsets, positions).is_err(), "{offsets:?} {positions:?}");
    }
    let short = Column::new(vec![0, 1, 1], Bytes::from_static(b"k"), vec![3], 0).unwrap();
    assert!(made([5, 7, 9], short.clone(), arena.headers.clone(), (3, 12)).is_err());
    let headers = |row_ends: &[i32]| Headers::new(row_ends.into(), short.clone(), short.clone());
    assert!(made([5, 7, 9], arena.keys.clone(), headers(&[0, 2]).unwrap(), (3, 12)).is_err());
    assert!(headers(&[0, 3]).is_err(), "an entry that is not there");
    assert!(Headers::new(vec![0, 2], short.clone(), Column::default()).is_err());
    for (ends, bits) in [(&[][..], 1), (&[0, 2][..], 1), (&[1, 0][..], 1), (&[-1, 1][..], 1), (&[0, 1][..], 0)] {
        assert!(Column::new(ends.into(), Bytes::from_static(b"k"), vec![1; bits], 0).is_err(), "{ends:?} {bits}");
    }
}

fn shown(row: &Row<'_>) -> String {
    let headers: Vec<_> = row.headers().collect();
    let stamp = (row.timestamp(), row.timestamp_type());
    format!("{} {stamp:?} {:?} {:?} {headers:?}", row.offset(), row.key(), row.value())
}
