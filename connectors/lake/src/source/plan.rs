//! Which files of one partition are read, in which order, and which of their rows are taken. Pure: the reader walks
//! along a [`Walk`] and tells it the timestamps of the rows it was sent to look at; the plan of a restore is the same
//! walk, outlined from the manifests alone.
//!
//! Invariant: the rows that a walk takes are those that the whole log, read row by row, would give: files are passed
//! over only where their summary proves that nothing of them is wanted and that nothing behind them depends on them.
//! Nothing here knows how files are read.

use std::sync::Arc;

use lakeferry_api::{ConnectError, Result};

use super::cut::{Cut, Side, Times, Verdict};
use crate::manifest::model::{FileEntry, OffsetRange};

/// A file and the offsets of it that belong to the log: a lineage that was continued before its end keeps only a part.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// What the manifest says of the file.
    pub file: Arc<FileEntry>,
    /// Which of its rows are rows of the log.
    pub rows: OffsetRange,
}

/// Which rows of a partition are wanted.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Selection {
    /// By time.
    pub cut: Cut,
    /// By offset, sorted and disjoint; `None`: all.
    pub offsets: Option<Vec<OffsetRange>>,
}

/// A file to read now.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The file.
    pub segment: Segment,
    /// True where every row of the file is taken, so that its summary counts for it.
    pub whole: bool,
}

/// A way along the files of a partition, in offset order.
#[derive(Debug, Clone)]
pub struct Walk {
    stops: Vec<Stop>,
    selection: Selection,
    position: i64,
    at: usize,
    side: Side,
    judging: bool,
    /// False where a file was passed over that only its rows could have judged: `side` is a guess then.
    is_sure: bool,
    /// Where a walk would have to begin to come to the same as this one, and the side to begin with.
    needed: (usize, Side),
}

/// How much a walk will give, as far as manifests can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outline {
    /// Records in files that are taken whole.
    pub least_records: u64,
    /// Those and all records of files that only their rows can judge.
    pub most_records: u64,
    /// As [`Outline::most_records`], bytes of keys, values and headers.
    pub most_raw_bytes: u64,
    /// Files that may be read, and their sizes.
    pub files: u64,
    /// See [`Outline::files`].
    pub stored_bytes: u64,
    /// True where a file that may be read holds, or may hold, records with no timestamp or one of 0 or less.
    pub untimed: bool,
}

#[derive(Debug, Clone)]
struct Stop {
    segment: Segment,
    times: Times,
    /// Some of its rows are wanted, as far as offsets go.
    wanted: bool,
    /// What lies behind it depends on where it ends.
    decisive: bool,
}

impl Segment {
    /// The whole `file`.
    pub fn whole(file: Arc<FileEntry>) -> Self {
        Self { rows: file.offsets(), file }
    }

    fn is_cut(&self) -> bool {
        self.rows != self.file.offsets()
    }

    fn times(&self) -> Times {
        let bounds = self.file.min_timestamp.zip(self.file.max_timestamp);
        Times { bounds, untimed: self.file.untimed > 0 }
    }

    /// True where some of its rows cannot be produced with the timestamp they have, or may be such.
    pub fn may_be_untimed(&self) -> bool {
        self.file.untimed > 0 || self.file.min_timestamp.is_some_and(|min| min <= 0)
    }
}

impl Selection {
    /// True where `offset` is wanted, whatever its time.
    fn wants(&self, offset: i64) -> bool {
        let Some(ranges) = &self.offsets else { return true };
        let after = ranges.partition_point(|range| range.from <= offset);
        after.checked_sub(1).is_some_and(|at| offset <= ranges[at].to)
    }

    fn wants_some_of(&self, rows: OffsetRange) -> bool {
        let Some(ranges) = &self.offsets else { return true };
        let at = ranges.partition_point(|range| range.to < rows.from);
        ranges.get(at).is_some_and(|range| range.from <= rows.to)
    }

    fn wants_all_of(&self, rows: OffsetRange) -> bool {
        let Some(ranges) = &self.offsets else { return true };
        let at = ranges.partition_point(|range| range.to < rows.from);
        ranges.get(at).is_some_and(|range| range.from <= rows.from && rows.to <= range.to)
    }
}

impl Walk {
    /// The way along `segments`, in any order, for a reader that has read everything below `position`.
    ///
    /// # Errors
    /// `Fatal` where two segments overlap: their order could not be told.
    pub fn new(mut segments: Vec<Segment>, selection: Selection, position: i64) -> Result<Self> {
        segments.sort_by_key(|segment| segment.rows.from);
        for pair in segments.windows(2) {
            refuse_overlap(&pair[0], &pair[1])?;
        }
        let side = selection.cut.start();
        let (stops, needed) = (Vec::new(), (0, side));
        let mut walk = Self { stops, selection, position, at: 0, side, judging: false, is_sure: true, needed };
        walk.stops = segments.into_iter().map(|segment| walk.stop(segment)).collect();
        walk.mark_decisive();
        Ok(walk)
    }

    /// The same walk behind files that are not given to it any more, which left it at `side`: see [`Walk::rest`].
    pub fn beginning_at(self, side: Side) -> Self {
        Self { side, needed: (0, side), ..self }
    }

    /// The next file to read; its rows go through [`Walk::judge`] before the next call. `None` at the end.
    pub fn next_file(&mut self) -> Option<Reading> {
        while let Some(stop) = self.stops.get(self.at) {
            // What is before a fresh file does not matter for what is behind it.
            if self.is_sure || self.is_fresh(stop) {
                (self.is_sure, self.needed) = (true, (self.at, self.side));
            }
            self.at += 1;
            let verdict = self.verdict(stop, self.side);
            match verdict {
                Verdict::Skip(side) => self.side = side,
                Verdict::Take(side) if !stop.wanted => self.side = side,
                Verdict::Take(side) => {
                    self.side = side;
                    self.judging = false;
                    return Some(Reading { whole: self.is_whole(stop), segment: stop.segment.clone() });
                }
                Verdict::Look => match self.behind(stop) {
                    Some(side) if !stop.wanted => self.side = side,
                    None if !stop.wanted && !stop.decisive => self.is_sure = false,
                    _ => {
                        self.judging = true;
                        return Some(Reading { whole: false, segment: stop.segment.clone() });
                    }
                },
            }
        }
        None
    }

    /// Which rows of the file given last are taken: every row of the file is to be judged, in order.
    pub fn judge(&mut self, offsets: &[i64], timestamps: &[i64]) -> Vec<bool> {
        let Some(rows) = self.at.checked_sub(1).map(|at| self.stops[at].segment.rows) else { return Vec::new() };
        let of_log = |offset: i64| rows.from <= offset && offset <= rows.to;
        let mut keep = Vec::with_capacity(offsets.len());
        for (offset, timestamp) in offsets.iter().zip(timestamps) {
            if self.judging && of_log(*offset) {
                self.side = self.selection.cut.row(self.side, *timestamp);
            }
            let inside = !self.judging || self.side == Side::Inside;
            keep.push(inside && of_log(*offset) && *offset >= self.position && self.selection.wants(*offset));
        }
        keep
    }

    /// At the end: what a walk along files behind these must be given of them, and the side that it begins at. None,
    /// unless files were passed over by their offsets whose rows would tell whether what comes without a timestamp is
    /// wanted.
    pub fn rest(self) -> (Vec<Segment>, Side) {
        let behind = self.stops.last().map_or(self.position, |stop| stop.segment.rows.to);
        let is_over =
            self.selection.offsets.as_ref().is_some_and(|ranges| ranges.iter().all(|range| range.to <= behind));
        let (needed, side) = if self.is_sure || is_over { (self.at, self.side) } else { self.needed };
        (self.stops.into_iter().skip(needed).map(|stop| stop.segment).collect(), side)
    }

    /// The files that may be read from here on, in order: what is worth fetching ahead.
    pub fn ahead(&self) -> impl Iterator<Item = &Segment> {
        self.possible().map(|(stop, _)| &stop.segment)
    }

    /// How much is to come.
    pub fn outline(&self) -> Outline {
        let mut outline = Outline::default();
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        for (stop, sure) in self.possible().filter(|(stop, _)| stop.wanted) {
            let file = &stop.segment.file;
            if sure && self.is_whole(stop) {
                add(&mut outline.least_records, file.records);
            }
            add(&mut outline.most_records, file.records);
            add(&mut outline.most_raw_bytes, file.raw_bytes);
            outline.files += 1;
            add(&mut outline.stored_bytes, file.stored_bytes);
            outline.untimed |= stop.segment.may_be_untimed();
        }
        outline
    }

    /// The stops that may be read, from every side that is possible there; true where one is taken from every side.
    fn possible(&self) -> impl Iterator<Item = (&Stop, bool)> {
        let mut sides = vec![self.side];
        self.stops[self.at..].iter().filter_map(move |stop| {
            let verdicts: Vec<_> = sides.iter().map(|side| self.verdict(stop, *side)).collect();
            let mut behind = Vec::new();
            for verdict in &verdicts {
                match verdict {
                    Verdict::Skip(side) | Verdict::Take(side) => behind.push(*side),
                    Verdict::Look => behind.extend([Side::Inside, Side::Outside, Side::Past]),
                }
            }
            sides =
                [Side::Inside, Side::Outside, Side::Past].into_iter().filter(|side| behind.contains(side)).collect();
            let sure = verdicts.iter().all(|verdict| matches!(verdict, Verdict::Take(_)));
            let looked_at = verdicts.contains(&Verdict::Look) && stop.decisive;
            let taken = verdicts.iter().any(|verdict| !matches!(verdict, Verdict::Skip(_))) && stop.wanted;
            (taken || looked_at).then_some((stop, sure))
        })
    }

    fn verdict(&self, stop: &Stop, side: Side) -> Verdict {
        // The summary speaks of the whole file: of a part of it only its rows tell.
        let unknown = stop.segment.is_cut() && !self.selection.cut.window.is_everything() && side != Side::Past;
        if unknown { Verdict::Look } else { self.selection.cut.file(side, stop.times) }
    }

    /// Where the walk stands behind a file that nobody looked into, where its summary tells.
    fn behind(&self, stop: &Stop) -> Option<Side> {
        if stop.segment.is_cut() { None } else { self.selection.cut.behind(self.side, stop.times) }
    }

    fn is_whole(&self, stop: &Stop) -> bool {
        let rows = stop.segment.rows;
        !stop.segment.is_cut() && self.position <= rows.from && self.selection.wants_all_of(rows)
    }

    fn stop(&self, segment: Segment) -> Stop {
        let rows = OffsetRange::new(segment.rows.from.max(self.position), segment.rows.to);
        let wanted = rows.from <= rows.to && self.selection.wants_some_of(rows);
        Stop { times: segment.times(), wanted, decisive: false, segment }
    }

    /// True where what is before `stop` does not matter for it and what is behind it.
    fn is_fresh(&self, stop: &Stop) -> bool {
        !stop.segment.is_cut() && self.selection.cut.is_fresh_at(stop.times)
    }

    fn mark_decisive(&mut self) {
        let mut decisive = false;
        for at in (0..self.stops.len()).rev() {
            self.stops[at].decisive = decisive;
            decisive = !self.is_fresh(&self.stops[at]) && (self.stops[at].wanted || decisive);
        }
    }
}

fn refuse_overlap(one: &Segment, next: &Segment) -> Result<()> {
    if one.rows.to < next.rows.from {
        return Ok(());
    }
    Err(ConnectError::fatal(format!(
        "{} (offsets {} to {}) and {} (offsets {} to {}) overlap, so their records have no order; run lakeferry verify",
        one.file.path, one.rows.from, one.rows.to, next.file.path, next.rows.from, next.rows.to
    )))
}

#[cfg(test)]
mod tests;
