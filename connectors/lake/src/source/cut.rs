//! Which records lie inside a time window, decided record by record or, where a file's summary allows, for a whole
//! file at once. Pure; the plan counts with it and the reader cuts with it.
//!
//! Invariant: what [`Cut::file`] decides is what [`Cut::row`] would have decided for every record of that file in
//! turn. A file is passed over by its smallest and largest timestamp, never by its first and last: timestamps are out
//! of order.
//!
//! A record without timestamp takes the side of the record before it; before the first record stands the side of the
//! past. The position in that walk is a [`Side`].

use lakeferry_api::batch::NO_TIMESTAMP;

/// The times to replay, in milliseconds since the epoch, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    /// `replay.from`; `None`: from the beginning.
    pub from: Option<i64>,
    /// `replay.until`; `None`: to the end.
    pub until: Option<i64>,
}

/// What a window means for a log whose timestamps are out of order: `replay.cut`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CutMode {
    /// Exactly the records whose timestamp lies inside.
    #[default]
    Record,
    /// One stretch of each partition's log: it begins at the first record of `from` or later and ends before the first
    /// record later than `until`.
    Log,
}

/// Where the walk along a partition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The last record was left out.
    Outside,
    /// The last record was taken.
    Inside,
    /// Nothing will be taken any more ([`CutMode::Log`] only).
    Past,
}

/// What a manifest says of the timestamps in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Smallest and largest timestamp of the records that have one; `None` where none has.
    pub bounds: Option<(i64, i64)>,
    /// True where some record has none.
    pub untimed: bool,
}

/// What is to be done with a file, and where the walk stands behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// No record of it is taken.
    Skip(Side),
    /// Every record of it is taken.
    Take(Side),
    /// Only its rows can tell.
    Look,
}

/// A window and what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cut {
    /// The times.
    pub window: Window,
    /// What they mean.
    pub mode: CutMode,
}

impl Window {
    fn contains(&self, timestamp: i64) -> bool {
        !self.precedes(timestamp) && !self.is_over_at(timestamp)
    }

    fn precedes(&self, timestamp: i64) -> bool {
        self.from.is_some_and(|from| timestamp < from)
    }

    fn is_over_at(&self, timestamp: i64) -> bool {
        self.until.is_some_and(|until| timestamp > until)
    }

    /// True where it holds every record.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }
}

impl Cut {
    /// Where the walk stands before the first record of a partition.
    pub fn start(&self) -> Side {
        if self.window.from.is_none() { Side::Inside } else { Side::Outside }
    }

    /// Where the walk stands behind a record; it is taken where that is [`Side::Inside`].
    pub fn row(&self, side: Side, timestamp: i64) -> Side {
        if timestamp == NO_TIMESTAMP {
            return side;
        }
        match self.mode {
            CutMode::Record if self.window.contains(timestamp) => Side::Inside,
            CutMode::Record => Side::Outside,
            CutMode::Log if side == Side::Past || self.window.is_over_at(timestamp) => Side::Past,
            CutMode::Log if self.window.precedes(timestamp) => side,
            CutMode::Log => Side::Inside,
        }
    }

    /// What becomes of a file, from its summary alone.
    pub fn file(&self, side: Side, times: Times) -> Verdict {
        let Some((min, max)) = times.bounds else { return whole(side) };
        let all_before = self.window.precedes(max);
        let all_over = self.window.is_over_at(min);
        let all_inside = self.window.contains(min) && self.window.contains(max);
        match self.mode {
            CutMode::Record if times.untimed && all_inside != (side == Side::Inside) => Verdict::Look,
            CutMode::Record if all_inside => Verdict::Take(Side::Inside),
            CutMode::Record if all_before || all_over => Verdict::Skip(Side::Outside),
            CutMode::Record => Verdict::Look,
            CutMode::Log => self.stretch(side, times, (min, max)),
        }
    }

    /// Where the walk stands behind a file that nobody looks into, where its summary tells.
    pub fn behind(&self, side: Side, times: Times) -> Option<Side> {
        match (self.file(side, times), times.bounds, self.mode) {
            (Verdict::Skip(side) | Verdict::Take(side), ..) => Some(side),
            (Verdict::Look, Some((_, max)), CutMode::Log) if self.window.is_over_at(max) => Some(Side::Past),
            (Verdict::Look, _, CutMode::Log) => Some(Side::Inside),
            (Verdict::Look, _, CutMode::Record) => None,
        }
    }

    /// True where the side before a file cannot matter for it and what follows it: its first record tells.
    pub fn is_fresh_at(&self, times: Times) -> bool {
        self.window.is_everything() || self.mode == CutMode::Record && !times.untimed
    }

    fn stretch(&self, side: Side, times: Times, (min, max): (i64, i64)) -> Verdict {
        let over = self.window.is_over_at(max);
        match side {
            Side::Past => Verdict::Skip(Side::Past),
            Side::Inside if !over => Verdict::Take(Side::Inside),
            Side::Inside if self.window.is_over_at(min) && !times.untimed => Verdict::Skip(Side::Past),
            Side::Inside => Verdict::Look,
            Side::Outside if self.window.is_over_at(min) => Verdict::Skip(Side::Past),
            Side::Outside if over => Verdict::Look,
            Side::Outside if self.window.precedes(max) => Verdict::Skip(Side::Outside),
            Side::Outside if !self.window.precedes(min) && !times.untimed => Verdict::Take(Side::Inside),
            Side::Outside => Verdict::Look,
        }
    }
}

fn whole(side: Side) -> Verdict {
    if side == Side::Inside { Verdict::Take(side) } else { Verdict::Skip(side) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn timestamp() -> impl Strategy<Value = i64> {
        prop_oneof![1 => Just(NO_TIMESTAMP), 6 => 0..8i64]
    }

    fn cut() -> impl Strategy<Value = Cut> {
        let bound = || proptest::option::of(-1..9i64);
        (bound(), bound(), any::<bool>()).prop_map(|(from, until, log)| Cut {
            window: Window { from, until },
            mode: if log { CutMode::Log } else { CutMode::Record },
        })
    }

    fn times(rows: &[i64]) -> Times {
        let timed = || rows.iter().copied().filter(|timestamp| *timestamp != NO_TIMESTAMP);
        Times { bounds: timed().min().zip(timed().max()), untimed: rows.contains(&NO_TIMESTAMP) }
    }

    /// The specification in words, over the whole log at once.
    fn model(cut: Cut, log: &[i64]) -> Vec<bool> {
        let inside = |timestamp: i64| {
            cut.window.from.is_none_or(|from| from <= timestamp)
                && cut.window.until.is_none_or(|until| timestamp <= until)
        };
        let timed = |at: usize| log[at] != NO_TIMESTAMP;
        match cut.mode {
            CutMode::Record => (0..log.len())
                .map(|at| match (0..=at).rev().find(|before| timed(*before)) {
                    Some(decisive) => inside(log[decisive]),
                    None => cut.window.from.is_none(),
                })
                .collect(),
            CutMode::Log => {
                let later = |at: &usize| timed(*at) && cut.window.until.is_some_and(|until| log[*at] > until);
                let end = (0..log.len()).find(later).unwrap_or(log.len());
                let begins = |at: &usize| timed(*at) && cut.window.from.is_some_and(|from| log[*at] >= from);
                let begin =
                    if cut.window.from.is_none() { 0 } else { (0..log.len()).find(begins).unwrap_or(log.len()) };
                (0..log.len()).map(|at| begin <= at && at < end).collect()
            }
        }
    }

    proptest! {
        #[test]
        fn rows_are_taken_as_the_specification_says(cut in cut(), log in proptest::collection::vec(timestamp(), 0..24)) {
            let mut side = cut.start();
            let taken: Vec<bool> = log
                .iter()
                .map(|timestamp| {
                    side = cut.row(side, *timestamp);
                    side == Side::Inside
                })
                .collect();
            prop_assert_eq!(taken, model(cut, &log));
        }

        #[test]
        fn a_file_is_judged_as_its_rows_are(
            cut in cut(), before in proptest::collection::vec(timestamp(), 0..4),
            file in proptest::collection::vec(timestamp(), 1..6),
        ) {
            let side = before.iter().fold(cut.start(), |side, timestamp| cut.row(side, *timestamp));
            let mut after = side;
            let taken: Vec<bool> = file.iter().map(|timestamp| {
                after = cut.row(after, *timestamp);
                after == Side::Inside
            }).collect();
            match cut.file(side, times(&file)) {
                Verdict::Take(end) => prop_assert!(taken.iter().all(|taken| *taken) && end == after),
                Verdict::Skip(end) => prop_assert!(!taken.contains(&true) && end == after, "{:?}", after),
                Verdict::Look => {
                    // Looking costs a read: with every record timed it is owed only by a file that a border crosses.
                    let ends = [cut.window.from, cut.window.until.map(|until| until + 1)];
                    let crossed = |border: &i64| {
                        times(&file).bounds.is_some_and(|(min, max)| min < *border && *border <= max)
                    };
                    prop_assert!(times(&file).untimed || ends.iter().flatten().any(crossed));
                }
            }
            if let Some(behind) = cut.behind(side, times(&file)) {
                prop_assert_eq!(behind, after);
            }
            if cut.is_fresh_at(times(&file)) {
                for other in [Side::Inside, Side::Outside] {
                    prop_assert!(cut.window.is_everything() || cut.file(other, times(&file)) == cut.file(side, times(&file)));
                }
            }
        }
    }

    #[test]
    fn both_bounds_are_inclusive_to_the_millisecond() {
        let window = Window { from: Some(1_000), until: Some(2_000) };
        let taken: Vec<i64> =
            [999, 1_000, 2_000, 2_001].into_iter().filter(|timestamp| window.contains(*timestamp)).collect();
        assert_eq!(taken, [1_000, 2_000]);
    }
}
