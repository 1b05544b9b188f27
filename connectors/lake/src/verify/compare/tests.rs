use lakeferry_api::{BatchBuilder, TimestampType};
use proptest::prelude::*;

use super::*;

/// A record: offset and one letter that says everything else of it.
type Letters = Vec<(i64, u8)>;

fn batch(rows: &[(i64, u8)]) -> Batch {
    let mut builder = BatchBuilder::new(TopicPartition::new("t", 3), rows[0].0);
    for (offset, letter) in rows {
        builder.push(*offset, (1_000 + i64::from(*letter), Some(TimestampType::Create)), None, Some(&[*letter]));
    }
    builder.build(rows[rows.len() - 1].0 + 1)
}

fn compare(archived: &Letters, found: &Letters, alignment: Alignment, chunk: usize) -> Comparison {
    let mut comparison = Comparison::new(TopicPartition::new("t", 3), alignment, false, 1000);
    let mut chunks = archived.chunks(chunk + 1);
    for part in found.chunks(chunk) {
        comparison.found(batch(part));
        while comparison.wants_archive() {
            match chunks.next() {
                Some(part) => comparison.archived(batch(part)),
                None => comparison.archive_ended(),
            }
            comparison.run();
        }
    }
    for part in chunks {
        comparison.archived(batch(part));
    }
    comparison.finish();
    comparison
}

fn numbered(letters: &[u8]) -> Letters {
    (0..).zip(letters.iter().copied()).collect()
}

fn kinds(comparison: &Comparison) -> Vec<(&'static str, Option<i64>, Option<i64>)> {
    comparison.differences().iter().map(|found| (found.field, found.archived_offset, found.topic_offset)).collect()
}

proptest! {
    #[test]
    fn equal_sides_are_equal_and_others_are_not(
        one in proptest::collection::vec(b'a'..b'd', 0..30), other in proptest::collection::vec(b'a'..b'd', 0..30), chunk in 1..7usize,
    ) {
        let (one, other) = (numbered(&one), numbered(&other));
        for alignment in [Alignment::Order, Alignment::Offset] {
            let same = compare(&one, &one, alignment, chunk);
            prop_assert_eq!((same.equal(), same.different()), (one.len() as u64, 0));
            let comparison = compare(&one, &other, alignment, chunk);
            prop_assert_eq!(comparison.different() == 0, one == other);
        }
    }

    #[test]
    fn one_record_gone_is_one_difference(letters in proptest::collection::vec(any::<u8>(), 1..40), at in any::<prop::sample::Index>(), chunk in 1..7usize) {
        // All different, so that where the sides meet again is certain.
        let full: Letters = letters.iter().enumerate().map(|(at, _)| (at as i64, at as u8)).collect();
        let gone = at.index(full.len());
        let mut less: Letters = full.clone();
        less.remove(gone);
        let renumbered: Letters = (100..).zip(less.iter().map(|(_, letter)| *letter)).collect();

        prop_assert_eq!(kinds(&compare(&full, &renumbered, Alignment::Order, chunk)), [("missing", Some(gone as i64), None)]);
        prop_assert_eq!(kinds(&compare(&full, &less, Alignment::Offset, chunk)), [("missing", Some(gone as i64), None)]);
        prop_assert_eq!(kinds(&compare(&renumbered, &full, Alignment::Order, chunk)), [("extra", None, Some(gone as i64))]);
    }
}

#[test]
fn a_changed_record_is_told_by_its_fields() {
    let found = kinds(&compare(&numbered(b"abc"), &vec![(7, b'a'), (8, b'x'), (9, b'c')], Alignment::Order, 2));
    assert_eq!(found, [("timestamp", Some(1), Some(8)), ("value", Some(1), Some(8))]);

    let row = |headers: &[(&str, Option<&[u8]>)], key: Option<&[u8]>| {
        let mut builder = BatchBuilder::new(TopicPartition::new("t", 3), 5);
        builder.push(5, (1, None), key, None);
        for (key, value) in headers {
            builder.header(key, *value);
        }
        builder.build(6)
    };
    let cases: [(Batch, Batch, &str, &str, &str); 4] = [
        (row(&[], None), row(&[], Some(b"")), "key", "null", "\"\""),
        (row(&[("h", None)], None), row(&[("h", Some(b""))], None), "headers", "[h=null]", "[h=\"\"]"),
        (
            row(&[("a", None), ("b", None)], None),
            row(&[("b", None), ("a", None)], None),
            "headers",
            "[a=null, b=null]",
            "[b=null, a=null]",
        ),
        (row(&[("a", None), ("a", None)], None), row(&[("a", None)], None), "headers", "[a=null, a=null]", "[a=null]"),
    ];
    for (archived, found, field, one, other) in cases {
        let mut comparison = Comparison::new(TopicPartition::new("t", 3), Alignment::Order, false, 10);
        comparison.archived(archived);
        comparison.found(found);
        comparison.finish();
        let difference = &comparison.differences()[0];
        assert_eq!((comparison.different(), difference.field), (1, field));
        assert_eq!((difference.archived.as_deref(), difference.found.as_deref()), (Some(one), Some(other)));
        assert_eq!((difference.topic.as_str(), difference.partition), ("t", 3));
    }
}

#[test]
fn only_what_could_not_be_produced_may_be_stamped_anew() {
    let at = |timestamp: i64| {
        let mut builder = BatchBuilder::new(TopicPartition::new("t", 3), 5);
        builder.push(5, (timestamp, None), None, None);
        builder.build(6)
    };
    for (archived, stamped, same) in [(0, true, true), (-1, true, true), (5, true, false), (0, false, false)] {
        let mut comparison = Comparison::new(TopicPartition::new("t", 3), Alignment::Order, stamped, 10);
        comparison.archived(at(archived));
        comparison.found(at(77));
        comparison.finish();
        assert_eq!(comparison.different() == 0, same, "{archived} {stamped}");
    }
}

#[test]
fn only_so_many_differences_are_kept() {
    let mut comparison = Comparison::new(TopicPartition::new("t", 3), Alignment::Order, false, 2);
    comparison.found(batch(&numbered(b"abcdef")));
    comparison.finish();
    assert_eq!((comparison.different(), comparison.differences().len()), (6, 2));
}

#[test]
fn no_more_than_so_many_bytes_wait_for_the_other_side() {
    const VALUE: usize = 20;
    let row = |offset: i64, letter: u8| {
        let mut builder = BatchBuilder::new(TopicPartition::new("t", 3), offset);
        builder.push(offset, (1, None), None, Some(&[letter; VALUE]));
        builder.build(offset + 1)
    };
    let (rows, mut taken) = (300_i64, 0);
    let mut comparison = Comparison::new(TopicPartition::new("t", 3), Alignment::Order, false, 10);
    for offset in 0..rows {
        comparison.found(row(offset, b'x'));
        while comparison.wants_archive() {
            if taken == rows {
                comparison.archive_ended();
            } else {
                // The first is missing, and the rest is there, but for one: no meeting again is within reach of it.
                comparison.archived(row(taken, if taken == 0 || taken == 200 { b'a' } else { b'x' }));
                taken += 1;
            }
            comparison.run();
        }
        for side in [&comparison.archived, &comparison.found] {
            assert!(side.bytes == side.rows.len() * VALUE && side.bytes < LOOK_AHEAD_BYTES + VALUE, "{}", side.bytes);
        }
    }
    comparison.finish();
    assert_eq!((comparison.archived.bytes, comparison.found.bytes), (0, 0));
    assert_eq!(comparison.equal() + comparison.different(), rows as u64);
    let fields: Vec<_> = comparison.differences().iter().map(|difference| difference.field).collect();
    assert_eq!(fields, ["value", "value"]);
}
