//! A set of offsets, as `ahead` is one: which offsets beyond the resume offset are in published files already. Pure;
//! the sink does its accounting with it.
//!
//! Backed by a bitmap, so its memory is bounded by the span (1 MiB for the 8 Mi offsets that a manifest allows),
//! whether the offsets lie dense or scattered. Offsets are never negative: a negative one is in no set.

use std::fmt;

use roaring::RoaringTreemap;

/// Offsets from `from` to `to`, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OffsetRange {
    /// The first.
    pub from: i64,
    /// The last.
    pub to: i64,
}

impl OffsetRange {
    /// From `from` to `to`, both inclusive.
    pub fn new(from: i64, to: i64) -> Self {
        Self { from, to }
    }

    /// How many offsets it holds; 0 where it ends before it begins.
    pub fn width(&self) -> u64 {
        if self.to < self.from { 0 } else { self.to.abs_diff(self.from).saturating_add(1) }
    }
}

/// A set of offsets.
#[derive(Clone, Default, PartialEq)]
pub struct OffsetSet {
    bits: RoaringTreemap,
}

impl OffsetSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `offset`; false where it was there.
    pub fn insert(&mut self, offset: i64) -> bool {
        u64::try_from(offset).is_ok_and(|offset| self.bits.insert(offset))
    }

    /// Adds `range`; the result is how many offsets of it were new.
    pub fn insert_range(&mut self, range: OffsetRange) -> u64 {
        match bits_of(range) {
            Some(bits) => self.bits.insert_range(bits),
            None => 0,
        }
    }

    /// True where `offset` is in the set.
    pub fn contains(&self, offset: i64) -> bool {
        u64::try_from(offset).is_ok_and(|offset| self.bits.contains(offset))
    }

    /// How many offsets are in it.
    pub fn len(&self) -> u64 {
        self.bits.len()
    }

    /// True where none is.
    pub fn is_empty(&self) -> bool {
        self.bits.is_empty()
    }

    /// How many offsets of `range` are in it.
    pub fn count_in(&self, range: OffsetRange) -> u64 {
        bits_of(range).map_or(0, |bits| self.bits.range_cardinality(bits))
    }

    /// The smallest offset.
    pub fn first(&self) -> Option<i64> {
        self.bits.min().and_then(|bit| i64::try_from(bit).ok())
    }

    /// The largest offset.
    pub fn last(&self) -> Option<i64> {
        self.bits.max().and_then(|bit| i64::try_from(bit).ok())
    }

    /// Removes every offset from `before` on: what a truncation at `before` took back.
    pub fn cut(&mut self, before: i64) {
        self.bits.remove_range(u64::try_from(before).unwrap_or(0)..);
    }

    /// Moves the resume offset to `resume` or, where the set goes on there without a hole, to the end of that run;
    /// removes what lies below the result, which it returns: the smallest offset at or above `resume` that is not in
    /// the set.
    pub fn advance(&mut self, resume: i64) -> i64 {
        let resume = resume.max(0);
        self.bits.remove_range(..u64::try_from(resume).unwrap_or(0));
        let reached = match self.ranges().next() {
            Some(run) if run.from == resume => run.to.saturating_add(1),
            _ => resume,
        };
        self.bits.remove_range(..u64::try_from(reached).unwrap_or(0));
        reached
    }

    /// The offsets of `range` that are not in the set, in order: a gap excludes what is archived already. However wide
    /// `range` is, this costs no more than the runs of the set.
    pub fn holes_in(&self, range: OffsetRange) -> Vec<OffsetRange> {
        let mut holes = Vec::new();
        let mut from = range.from.max(0);
        for run in self.ranges().skip_while(|run| run.to < range.from) {
            if run.from > range.to {
                break;
            }
            holes.push(OffsetRange::new(from, run.from.saturating_sub(1)));
            match run.to.checked_add(1) {
                Some(behind) => from = behind,
                None => return whole(holes),
            }
        }
        holes.push(OffsetRange::new(from, range.to));
        whole(holes)
    }

    /// The maximal runs of the set, in order: sorted, disjoint, and never touching.
    pub fn ranges(&self) -> impl Iterator<Item = OffsetRange> + '_ {
        let runs = self.bits.bitmaps().flat_map(|(high, bitmap)| {
            let mut iter = bitmap.iter();
            std::iter::from_fn(move || iter.next_range()).map(move |run| {
                let offset = |low: u32| (i64::from(high) << 32) | i64::from(low);
                OffsetRange::new(offset(*run.start()), offset(*run.end()))
            })
        });
        // Runs end where a bitmap of 2^32 offsets ends; those that touch are one.
        let mut runs = runs.peekable();
        std::iter::from_fn(move || {
            let mut run = runs.next()?;
            while let Some(next) = runs.next_if(|next| next.from == run.to + 1) {
                run.to = next.to;
            }
            Some(run)
        })
    }

    /// The number of runs, counted up to `limit`.
    pub(crate) fn count_ranges(&self, limit: usize) -> usize {
        self.ranges().take(limit).count()
    }
}

impl FromIterator<OffsetRange> for OffsetSet {
    fn from_iter<I: IntoIterator<Item = OffsetRange>>(ranges: I) -> Self {
        let mut set = Self::new();
        for range in ranges {
            set.insert_range(range);
        }
        set
    }
}

impl FromIterator<i64> for OffsetSet {
    fn from_iter<I: IntoIterator<Item = i64>>(offsets: I) -> Self {
        let mut set = Self::new();
        for offset in offsets {
            set.insert(offset);
        }
        set
    }
}

impl fmt::Debug for OffsetSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ranges().map(|range| (range.from, range.to))).finish()
    }
}

/// Those of `ranges` that do not end before they begin.
fn whole(mut ranges: Vec<OffsetRange>) -> Vec<OffsetRange> {
    ranges.retain(|range| range.from <= range.to);
    ranges
}

fn bits_of(range: OffsetRange) -> Option<std::ops::RangeInclusive<u64>> {
    let to = u64::try_from(range.to).ok()?;
    let from = u64::try_from(range.from).unwrap_or(0);
    (from <= to).then_some(from..=to)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Offsets around the border of two bitmaps, so that runs cross it.
    const BASE: i64 = (1 << 32) - 40;

    #[derive(Debug, Clone)]
    enum Step {
        Insert(i64),
        Range(i64, i64),
        Cut(i64),
        Advance(i64),
    }

    fn offset() -> impl Strategy<Value = i64> {
        (0..80i64).prop_map(|small| BASE + small)
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => offset().prop_map(Step::Insert),
            4 => (offset(), -2..9i64).prop_map(|(from, width)| Step::Range(from, from + width)),
            1 => offset().prop_map(Step::Cut),
            1 => offset().prop_map(Step::Advance),
        ]
    }

    fn runs(model: &BTreeSet<i64>) -> Vec<OffsetRange> {
        let mut runs: Vec<OffsetRange> = Vec::new();
        for &offset in model {
            match runs.last_mut() {
                Some(run) if run.to + 1 == offset => run.to = offset,
                _ => runs.push(OffsetRange::new(offset, offset)),
            }
        }
        runs
    }

    proptest! {
        #[test]
        fn it_is_a_set_of_offsets(steps in proptest::collection::vec(step(), 0..40), probe in (offset(), -3..70i64)) {
            let mut set = OffsetSet::new();
            let mut model = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Insert(offset) => prop_assert_eq!(set.insert(offset), model.insert(offset)),
                    Step::Range(from, to) => {
                        let new = (from..=to).filter(|offset| model.insert(*offset)).count();
                        prop_assert_eq!(set.insert_range(OffsetRange::new(from, to)), new as u64);
                    }
                    Step::Cut(before) => {
                        set.cut(before);
                        model.retain(|offset| *offset < before);
                    }
                    Step::Advance(resume) => {
                        let mut reached = resume;
                        while model.contains(&reached) {
                            reached += 1;
                        }
                        prop_assert_eq!(set.advance(resume), reached);
                        model.retain(|offset| *offset > reached);
                    }
                }
                prop_assert_eq!(set.ranges().collect::<Vec<_>>(), runs(&model));
                prop_assert_eq!(set.len(), model.len() as u64);
                prop_assert_eq!((set.first(), set.last()), (model.first().copied(), model.last().copied()));
            }
            let (from, to) = (probe.0, probe.0 + probe.1);
            let window = OffsetRange::new(from, to);
            prop_assert_eq!(set.contains(from), model.contains(&from));
            prop_assert_eq!(set.count_in(window), (from..=to).filter(|offset| model.contains(offset)).count() as u64);
            let holes: BTreeSet<i64> = (from..=to).filter(|offset| !model.contains(offset)).collect();
            prop_assert_eq!(set.holes_in(window), runs(&holes));
        }
    }

    #[test]
    fn negative_and_backward_ranges_hold_nothing() {
        let mut set = OffsetSet::new();
        assert!(!set.insert(-1));
        assert_eq!(set.insert_range(OffsetRange::new(-5, 1)), 2);
        assert_eq!(set.insert_range(OffsetRange::new(9, 3)), 0);
        assert_eq!(OffsetRange::new(9, 3).width(), 0);
        assert_eq!(OffsetRange::new(3, 3).width(), 1);
        assert_eq!(set.count_in(OffsetRange::new(i64::MIN, i64::MAX)), 2);
        assert_eq!(set.advance(-7), 2);
        set.cut(-7);
        assert!(set.is_empty());
    }

    #[test]
    fn holes_of_any_width_are_found_without_a_set_of_them() {
        let all = OffsetRange::new(0, i64::MAX);
        assert_eq!(OffsetSet::new().holes_in(OffsetRange::new(i64::MIN, i64::MAX)), [all]);
        assert_eq!(OffsetSet::new().holes_in(OffsetRange::new(9, 8)), []);
        let set = OffsetSet::from_iter([0, 7, 8, i64::MAX]);
        assert_eq!(set.holes_in(all), [OffsetRange::new(1, 6), OffsetRange::new(9, i64::MAX - 1)]);
    }

    #[test]
    fn the_widest_allowed_span_stays_small() {
        let scattered: OffsetSet = (0..(8i64 << 20)).step_by(2).collect();
        assert_eq!(scattered.len(), 4 << 20);
        assert!(scattered.bits.serialized_size() < (1 << 20) + 4096, "{}", scattered.bits.serialized_size());
    }
}
