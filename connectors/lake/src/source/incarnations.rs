//! The incarnations of an archived topic: which of them is the newest, and what there is besides the one that is read.
//! An incarnation is all lineages of all partitions that have one topic id. [`choose`](super::choose) asks, and
//! [`inspect`](crate::inspect); nothing is read here.
//!
//! Invariant: an incarnation that holds nothing never hides one that does. A topic that is deleted by mistake is soon
//! made again, by some client, and empty; whoever restores it then wants the one that was lost.

use std::collections::{BTreeMap, BTreeSet};

use lakeferry_api::Result;
use lakeferry_api::text::iso_timestamp;
use serde::Serialize;

use crate::manifest::model::{Gap, Lineage};
use crate::manifest::offsets::OffsetRange;
use crate::manifest::read::{Chain, Piece};

/// An incarnation, summed up from manifests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Its topic id.
    pub topic_id: Option<String>,
    /// What `lineage` has to say for it: its topic id; where the broker gave none, the number of a lineage.
    pub lineage: String,
    /// When the archive first heard of it, in milliseconds since the Unix epoch.
    pub came_up_at: i64,
    /// How many records its log holds as it was last known: what a replay of it brings back.
    pub records: u64,
    /// False where the log was cut back, or set back, within a file: then it holds so many at most.
    pub is_exact: bool,
    /// How many more are in its files, and in its log no more.
    pub superseded: u64,
    /// True for the one that `lineage=latest` means.
    pub is_latest: bool,
}

/// An incarnation that is not read, and holds records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Other {
    /// What `lineage` has to say for it: its topic id; where the broker gave none, the number of a lineage.
    pub lineage: String,
    /// How many records it holds.
    pub records: u64,
    /// False where the log was cut back within a file: then it holds so many at most.
    pub is_exact: bool,
    /// When the archive first heard of it, in milliseconds since the Unix epoch.
    pub came_up_at: i64,
}

/// The newest incarnation where it is empty, and an older one is read for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PassedOver {
    /// Its topic id.
    pub topic_id: Option<String>,
    /// As [`Other::came_up_at`].
    pub came_up_at: i64,
}

/// A lineage of the incarnation that is read, whose log is not the one that is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftBehind {
    /// Its number.
    pub lineage: u32,
    /// How many records it holds at offsets that the log that is read does not reach.
    pub records: u64,
    /// False where they are so many at most.
    pub is_exact: bool,
}

/// The topic's id in an incarnation.
type Id<'a> = Option<&'a str>;

/// What the chains of a topic know of its incarnations.
pub(super) struct Incarnations<'a> {
    chains: &'a [Chain],
    came_up_at: BTreeMap<Id<'a>, i64>,
    /// Those that files were archived of.
    full: BTreeSet<Id<'a>>,
    /// Pairs, earlier and later: a chain has its last entry of the one before its last entry of the other. Not their
    /// first entries: a broker that lags behind may tell an old id late, and what is there now comes back after that.
    order: BTreeSet<(Id<'a>, Id<'a>)>,
}

/// All incarnations of the topic whose partitions `chains` are, in the order in which they came up.
///
/// # Errors
/// As [`Chain::pieces`].
pub fn summaries(chains: &[Chain]) -> Result<Vec<Summary>> {
    let known = Incarnations::of(chains);
    let latest = known.latest();
    let mut all = known.came_up_at.keys().map(|id| known.sum_up(*id, latest.as_deref())).collect::<Result<Vec<_>>>()?;
    all.sort_by_key(|summary| summary.came_up_at);
    Ok(all)
}

impl Other {
    /// A sentence of it, for users who set `lineage` by `option`.
    pub(super) fn tell(&self, option: &str) -> String {
        let Self { lineage, records, is_exact, came_up_at } = self;
        let (most, came_up) = (if *is_exact { "" } else { "up to " }, iso_timestamp(*came_up_at));
        format!(
            "another incarnation of the topic, {lineage}, came up at {came_up} and holds {most}{records} records: \
             {option}{lineage} takes it instead"
        )
    }
}

impl LeftBehind {
    /// A sentence of it, for users who set `lineage` by `option`.
    pub(super) fn tell(&self, option: &str) -> String {
        let Self { lineage, records, is_exact } = self;
        let most = if *is_exact { "" } else { "up to " };
        format!(
            "{most}{records} records are in lineage {lineage} alone, which a reset, an offset that was set back or an \
             unclean election left behind: {option}{lineage} takes that log instead"
        )
    }
}

impl PassedOver {
    /// A sentence of it, where `chosen` is read.
    pub(super) fn tell(&self, chosen: Option<&str>, option: &str) -> String {
        let (newest, came_up) = (self.topic_id.as_deref().unwrap_or("without id"), iso_timestamp(self.came_up_at));
        let chosen = chosen.unwrap_or("without id");
        let remedy = self.topic_id.as_ref().map(|id| format!("; {option}{id} takes the empty one"));
        format!(
            "the newest incarnation of the topic, {newest}, came up at {came_up} and is empty: the newest one that holds \
             records was chosen, {chosen}{}",
            remedy.unwrap_or_default()
        )
    }
}

impl<'a> Incarnations<'a> {
    pub(super) fn of(chains: &'a [Chain]) -> Self {
        let (came_up_at, full, order) = Default::default();
        let mut all = Self { chains, came_up_at, full, order };
        for chain in chains {
            let mut last_by_id = BTreeMap::new();
            for entry in chain.links.iter().map(|link| &link.entry) {
                let id = entry.source.topic_id.as_deref();
                let came_up_at = all.came_up_at.entry(id).or_insert(entry.written_at);
                *came_up_at = entry.written_at.min(*came_up_at);
                if !entry.files.is_empty() {
                    all.full.insert(id);
                }
                last_by_id.insert(id, entry.seq);
            }
            for (later, seq) in &last_by_id {
                let earlier = last_by_id.iter().filter(|(_, last)| *last < seq);
                all.order.extend(earlier.map(|(id, _)| (*id, *later)));
            }
        }
        all
    }

    /// The newest that holds anything; where none does, the newest that a chain ends with.
    pub(super) fn latest(&self) -> Option<String> {
        let ends = || self.chains.iter().map(|chain| chain.end().source.topic_id.as_deref()).collect();
        let latest = self.newest(&self.full).or_else(|| self.newest(&ends()));
        latest.flatten().map(str::to_owned)
    }

    /// The newest of all, where it is empty and `chosen` is not.
    pub(super) fn passed_over(&self, chosen: Id<'_>) -> Option<PassedOver> {
        let newest = self.newest(&self.came_up_at.keys().copied().collect())?;
        let is_passed_over = newest != chosen && self.full.contains(&chosen) && !self.full.contains(&newest);
        let topic_id = newest.map(str::to_owned);
        is_passed_over.then(|| PassedOver { topic_id, came_up_at: self.came_up_at[&newest] })
    }

    /// Those that hold records and are none of `chosen`, in the order in which they came up.
    ///
    /// # Errors
    /// As [`Chain::pieces`].
    pub(super) fn others(&self, chosen: &BTreeSet<Option<String>>) -> Result<Vec<Other>> {
        let mut others = Vec::new();
        for id in self.full.iter().filter(|id| !chosen.contains(&id.map(str::to_owned))) {
            let Summary { lineage, records, is_exact, came_up_at, .. } = self.sum_up(*id, None)?;
            others.extend((records > 0).then_some(Other { lineage, records, is_exact, came_up_at }));
        }
        others.sort_by_key(|other| other.came_up_at);
        Ok(others)
    }

    fn sum_up(&self, id: Id<'_>, latest: Id<'_>) -> Result<Summary> {
        let mut summary = Summary {
            topic_id: id.map(str::to_owned),
            lineage: String::new(),
            came_up_at: self.came_up_at.get(&id).copied().unwrap_or_default(),
            records: 0,
            is_exact: true,
            superseded: 0,
            is_latest: id == latest,
        };
        for chain in self.chains {
            let Some(lineage) = newest_lineage(&chain.end().lineages, id) else { continue };
            summary.lineage = id.map_or_else(|| lineage.to_string(), str::to_owned);
            let count = Count::of(chain, lineage)?;
            summary.records = summary.records.saturating_add(count.records);
            summary.is_exact &= count.is_exact;
            summary.superseded = summary.superseded.saturating_add(count.superseded);
        }
        Ok(summary)
    }

    /// Of `ids` the one that no other is known to follow. Where that is not known of two, or chains contradict each
    /// other, the one that came up last: not that whose entry was written last, since a writer that slept while the
    /// topic was created anew may put one more entry behind the old incarnation of a partition.
    fn newest(&self, ids: &BTreeSet<Id<'a>>) -> Option<Id<'a>> {
        let follows = |later: &Id<'a>, earlier: &Id<'a>| {
            self.order.contains(&(*earlier, *later)) && !self.order.contains(&(*later, *earlier))
        };
        let last: Vec<_> = ids.iter().filter(|id| !ids.iter().any(|other| follows(other, id))).collect();
        // In a circle all of them are followed.
        let last = if last.is_empty() { ids.iter().collect() } else { last };
        last.into_iter().max_by_key(|id| self.came_up_at[*id]).copied()
    }
}

/// The records of one partition in one incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    /// As [`Summary::records`].
    pub(crate) records: u64,
    /// As [`Summary::is_exact`].
    pub(crate) is_exact: bool,
    /// As [`Summary::superseded`].
    pub(crate) superseded: u64,
}

impl Count {
    /// Those of the incarnation that `lineage` of `chain` belongs to, as that lineage has it.
    ///
    /// # Errors
    /// As [`Chain::pieces`].
    pub(crate) fn of(chain: &Chain, lineage: u32) -> Result<Self> {
        let mut count = Self { records: 0, is_exact: true, superseded: 0 };
        for (records, is_exact) in chain.pieces(lineage)?.iter().map(Piece::records) {
            count.records = count.records.saturating_add(records);
            count.is_exact &= is_exact;
        }
        let line = chain.end().lineages.iter().find(|line| line.lineage == lineage);
        let id = line.and_then(|line| line.topic_id.as_deref());
        let entries = chain.links.iter().map(|link| &link.entry);
        let of_it = entries.filter(|entry| entry.source.topic_id.as_deref() == id).flat_map(|entry| &entry.files);
        let all = of_it.fold(0_u64, |sum, file| sum.saturating_add(file.records));
        count.superseded = all.saturating_sub(count.records);
        Ok(count)
    }
}

/// What the chains of `chosen` hold in other lineages than the one that is read of each, where that does not reach.
/// Once the log was archived again from a place, what was archived before is no loss; until then, or where retention
/// took the records meanwhile, it is all there is of them.
///
/// # Errors
/// As [`Chain::pieces`].
pub(super) fn left_behind<'a>(chosen: impl Iterator<Item = (&'a Chain, u32)>) -> Result<Vec<LeftBehind>> {
    let mut by_number: BTreeMap<u32, LeftBehind> = BTreeMap::new();
    for (chain, lineage) in chosen {
        let reached = reach(chain, lineage)?;
        let id = |number: u32| chain.end().lineages.iter().find(|line| line.lineage == number)?.topic_id.as_deref();
        let others = chain.end().lineages.iter().map(|line| line.lineage).filter(|number| *number != lineage);
        for number in others.filter(|number| id(*number) == id(lineage)) {
            for piece in chain.pieces(number)?.iter().filter(|piece| piece.lineage == number) {
                let left = piece.offsets.width() - reached.iter().map(|part| common(piece.offsets, *part)).sum::<u64>();
                if left == 0 {
                    continue;
                }
                let (records, is_exact) = piece.records();
                let left_behind =
                    by_number.entry(number).or_insert(LeftBehind { lineage: number, records: 0, is_exact: true });
                left_behind.records = left_behind.records.saturating_add(records.min(left));
                left_behind.is_exact &= is_exact && (left == piece.offsets.width() || records == piece.offsets.width());
            }
        }
    }
    Ok(by_number.into_values().collect())
}

/// Those of the `gaps` of `lineage`, by their first offsets, of which another lineage of the same incarnation holds
/// records, with the newest that does: what is missing there is not lost.
///
/// # Errors
/// As [`Chain::pieces`].
pub(crate) fn held_elsewhere(chain: &Chain, lineage: u32, gaps: &[Gap]) -> Result<BTreeMap<i64, u32>> {
    let mut held = BTreeMap::new();
    if gaps.is_empty() {
        return Ok(held);
    }
    let lines = &chain.end().lineages;
    let id = lines.iter().find(|line| line.lineage == lineage).and_then(|line| line.topic_id.as_deref());
    let of_it = lines.iter().filter(|line| line.lineage != lineage && line.topic_id.as_deref() == id);
    // The newest last, whose word stays.
    for number in of_it.map(|line| line.lineage) {
        let pieces = chain.pieces(number)?;
        let has = |gap: &&Gap| pieces.iter().any(|piece| common(piece.offsets, gap.range()) > 0);
        held.extend(gaps.iter().filter(has).map(|gap| (gap.from, number)));
    }
    Ok(held)
}

/// The offsets that the log of `lineage` accounts for: from its first record to its end, gaps left out.
fn reach(chain: &Chain, lineage: u32) -> Result<Vec<OffsetRange>> {
    let pieces = chain.pieces(lineage)?;
    let (Some(first), Some(last)) = (pieces.first(), pieces.iter().map(|piece| piece.offsets.to).max()) else {
        return Ok(Vec::new());
    };
    let end = chain.end().resume_offset.filter(|_| lineage == chain.latest_lineage());
    let (mut from, to) = (first.offsets.from, end.map_or(last, |end| last.max(end.saturating_sub(1))));
    let mut reached = Vec::new();
    for gap in chain.gaps(lineage)? {
        reached.push(OffsetRange::new(from, to.min(gap.from.saturating_sub(1))));
        from = from.max(gap.to.saturating_add(1));
    }
    reached.push(OffsetRange::new(from, to));
    reached.retain(|range| range.width() > 0);
    Ok(reached)
}

fn common(one: OffsetRange, other: OffsetRange) -> u64 {
    OffsetRange::new(one.from.max(other.from), one.to.min(other.to)).width()
}

/// The newest of a chain's `lineages` with this topic id: the log of that incarnation as it was last known.
pub(super) fn newest_lineage(lineages: &[Lineage], id: Id<'_>) -> Option<u32> {
    lineages.iter().rev().find(|line| line.topic_id.as_deref() == id).map(|line| line.lineage)
}

#[cfg(test)]
mod tests;
