use std::collections::BTreeSet;

use lakeferry_api::batch::NO_TIMESTAMP;
use proptest::prelude::*;

use super::super::cut::{CutMode, Window};
use super::*;
use crate::testing::file_entry;

/// Rows of a log: offset and timestamp.
type Rows = Vec<(i64, i64)>;

/// A log cut into files; the last rows of some files belong to a lineage that was cut back.
#[derive(Debug, Clone)]
struct Archive {
    files: Vec<Rows>,
    befores: Vec<Option<i64>>,
}

impl Archive {
    fn log(&self) -> Rows {
        let part = |(rows, before): (&Rows, &Option<i64>)| {
            let before = before.unwrap_or(i64::MAX);
            rows.iter().copied().filter(|(offset, _)| *offset < before).collect::<Rows>()
        };
        self.files.iter().zip(&self.befores).flat_map(part).collect()
    }

    fn segments(&self) -> Vec<Segment> {
        let segment = |(rows, before): (&Rows, &Option<i64>)| {
            let mut segment = Segment::whole(Arc::new(file(rows)));
            segment.rows.to = segment.rows.to.min(before.map_or(i64::MAX, |before| before - 1));
            (segment.rows.from <= segment.rows.to).then_some(segment)
        };
        self.files.iter().zip(&self.befores).filter_map(segment).collect()
    }
}

fn file(rows: &[(i64, i64)]) -> FileEntry {
    let timed = || rows.iter().map(|(_, timestamp)| *timestamp).filter(|timestamp| *timestamp != NO_TIMESTAMP);
    let (first, last) = (rows[0].0, rows[rows.len() - 1].0);
    FileEntry {
        path: format!("t/partition=0/{first}"),
        span_from: Some(first),
        span_to: Some(last),
        first_offset: first,
        last_offset: last,
        records: rows.len() as u64,
        min_timestamp: timed().min(),
        max_timestamp: timed().max(),
        untimed: rows.len() as u64 - timed().count() as u64,
        raw_bytes: 10 * rows.len() as u64,
        ..file_entry()
    }
}

fn archive() -> impl Strategy<Value = Archive> {
    let timestamp = prop_oneof![1 => Just(NO_TIMESTAMP), 8 => 0..10i64];
    let rows = proptest::collection::vec((1..4i64, timestamp, 0..4u8, 0..9u8), 0..40);
    rows.prop_map(|steps| {
        let mut archive = Archive { files: Vec::new(), befores: Vec::new() };
        let mut offset = 0;
        for (step, timestamp, border, cut) in steps {
            offset += step;
            match archive.files.last_mut() {
                Some(rows) if border > 0 => rows.push((offset, timestamp)),
                _ => {
                    archive.files.push(vec![(offset, timestamp)]);
                    archive.befores.push((cut == 0).then_some(offset + 2));
                }
            }
        }
        archive
    })
}

fn selection() -> impl Strategy<Value = Selection> {
    let bound = || proptest::option::of(-1..11i64);
    let ranges = proptest::option::of(proptest::collection::vec((0..9i64, 0..30i64), 0..3));
    (bound(), bound(), any::<bool>(), ranges).prop_map(|(from, until, log, ranges)| {
        let mode = if log { CutMode::Log } else { CutMode::Record };
        let offsets = ranges.map(|ranges| {
            let mut end = 0;
            ranges
                .into_iter()
                .map(|(skip, width)| {
                    let range = OffsetRange::new(end + skip, end + skip + width);
                    end = range.to + 1;
                    range
                })
                .collect()
        });
        Selection { cut: Cut { window: Window { from, until }, mode }, offsets }
    })
}

/// What the log read row by row gives.
fn model(log: &Rows, selection: &Selection, position: i64) -> Vec<i64> {
    let mut side = selection.cut.start();
    let mut taken = Vec::new();
    for (offset, timestamp) in log {
        side = selection.cut.row(side, *timestamp);
        let wanted = selection
            .offsets
            .as_ref()
            .is_none_or(|ranges| ranges.iter().any(|range| range.from <= *offset && *offset <= range.to));
        if side == Side::Inside && wanted && *offset >= position {
            taken.push(*offset);
        }
    }
    taken
}

/// What the walk gives, and which files it read.
fn walk(mut walk: Walk, archive: &Archive) -> (Vec<i64>, Vec<Reading>) {
    walk_to_the_end(&mut walk, archive)
}

fn walk_to_the_end(walk: &mut Walk, archive: &Archive) -> (Vec<i64>, Vec<Reading>) {
    let (mut taken, mut readings) = (Vec::new(), Vec::new());
    while let Some(reading) = walk.next_file() {
        let first = reading.segment.file.first_offset;
        let rows = archive.files.iter().find(|rows| rows[0].0 == first).unwrap();
        for chunk in rows.chunks(2) {
            let (offsets, timestamps): (Vec<_>, Vec<_>) = chunk.iter().copied().unzip();
            let keep = walk.judge(&offsets, &timestamps);
            taken.extend(offsets.into_iter().zip(keep).filter(|(_, keep)| *keep).map(|(offset, _)| offset));
        }
        readings.push(reading);
    }
    (taken, readings)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_walk_takes_what_the_whole_log_gives(archive in archive(), selection in selection(), position in 0..60i64) {
        let expected = model(&archive.log(), &selection, position);
        let mut segments = archive.segments();
        segments.reverse();
        let planned = Walk::new(segments, selection.clone(), position).unwrap();
        let outline = planned.outline();
        let ahead: BTreeSet<_> = planned.ahead().map(|segment| segment.file.path.clone()).collect();
        let (taken, readings) = walk(planned, &archive);
        prop_assert_eq!(&taken, &expected);

        let count = taken.len() as u64;
        prop_assert!(outline.least_records <= count && count <= outline.most_records, "{:?} {}", outline, count);
        for reading in &readings {
            let file = &reading.segment.file;
            let of_file = |offset: &&i64| file.offsets().from <= **offset && **offset <= file.offsets().to;
            let from_it = taken.iter().filter(of_file).count() as u64;
            prop_assert!(ahead.contains(&file.path), "{} was not foreseen", file.path);
            prop_assert!(!reading.whole || from_it == file.records);
        }
    }

    #[test]
    fn a_walk_behind_files_that_are_not_kept_takes_the_same(
        archive in archive(), selection in selection(), position in 0..60i64, parts in 1..5usize,
    ) {
        let (mut kept, mut side, mut taken, mut reached) = (Vec::new(), selection.cut.start(), Vec::new(), position);
        for part in archive.segments().chunks(parts) {
            let kept_before = kept.clone();
            kept.extend(part.to_vec());
            let mut planned = Walk::new(kept, selection.clone(), reached).unwrap().beginning_at(side);
            let (got, readings) = walk_to_the_end(&mut planned, &archive);
            taken.extend(got);
            reached = reached.max(part.last().unwrap().rows.to + 1);
            (kept, side) = planned.rest();
            // What is kept was passed over: by its offsets nothing of it is wanted.
            for segment in kept.iter().filter(|segment| !kept_before.contains(segment)) {
                prop_assert!(readings.iter().all(|reading| reading.segment != *segment));
                prop_assert!(segment.rows.to < position || selection.offsets.is_some());
            }
            prop_assert!(kept.is_empty() || !selection.cut.window.is_everything());
        }
        prop_assert_eq!(taken, model(&archive.log(), &selection, position));
    }

    #[test]
    fn nothing_is_read_in_vain(archive in archive(), selection in selection(), position in 0..60i64) {
        let mut archive = archive;
        archive.befores.fill(None);
        for (_, timestamp) in archive.files.iter_mut().flatten() {
            *timestamp = (*timestamp).max(0);
        }
        let (_, readings) = walk(Walk::new(archive.segments(), selection.clone(), position).unwrap(), &archive);
        for reading in readings {
            let file = &reading.segment.file;
            prop_assert!(file.last_offset >= position);
            let border = |bound: Option<i64>| bound.is_some_and(|bound| file.min_timestamp.unwrap() < bound && bound <= file.max_timestamp.unwrap());
            let Window { from, until } = selection.cut.window;
            let crossed = border(from) || border(until.map(|until| until + 1));
            let all: Rows = archive.files.iter().find(|rows| rows[0].0 == file.first_offset).unwrap().clone();
            let in_time: BTreeSet<_> = model(&archive.log(), &Selection { offsets: None, ..selection.clone() }, 0).into_iter().collect();
            prop_assert!(crossed || all.iter().all(|(offset, _)| in_time.contains(offset)), "{:?}", file.path);
        }
    }
}

#[test]
fn files_that_overlap_are_refused_by_name() {
    let segments = [[(0, 1), (5, 1)], [(3, 1), (9, 1)]].map(|rows| Segment::whole(Arc::new(file(&rows))));
    let error = Walk::new(segments.to_vec(), Selection::default(), 0).unwrap_err();
    assert!(error.message().contains("t/partition=0/0") && error.message().contains("t/partition=0/3"), "{error}");
}

#[test]
fn a_file_is_not_passed_over_by_its_first_and_last_timestamp() {
    // First and last record lie outside, one in the middle inside.
    let rows = vec![(0, 100), (1, 50), (2, 200)];
    let archive = Archive { files: vec![rows], befores: vec![None] };
    let cut = Cut { window: Window { from: Some(10), until: Some(60) }, mode: CutMode::Record };
    let selection = Selection { cut, offsets: None };
    assert_eq!(walk(Walk::new(archive.segments(), selection, 0).unwrap(), &archive).0, [1]);
}
