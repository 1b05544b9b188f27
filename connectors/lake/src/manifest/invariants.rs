//! The laws of a chain as named pure functions, each explained above the predicate. The sink asks [`check_entry`]
//! before it writes an entry, `verify` and every reader ask [`check_chain`] about what was written, and who follows a
//! chain asks [`ChainSoFar`] about what comes behind.
//!
//! Invariant: nothing here is shared with the sink's own accounting. Numbers are summed anew from what the entries say,
//! in integers wide enough for any document, so no law can panic or wrap. The laws of identity are in [`identity`],
//! those of one file in [`files`], those of offsets in [`accounting`].

mod accounting;
mod files;
mod identity;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::model::{Digest, Entry, EntryKind, OffsetRange};
use crate::layout::ObjectName;

/// A broken law.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The entry that breaks it.
    pub seq: u64,
    /// The law's name.
    pub law: &'static str,
    /// The member that is wrong, as `files[0].records`.
    pub field: String,
    /// What it says, and what it should.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {}, {}: {} (law of {})", self.seq, self.field, self.text, self.law)
    }
}

/// An entry of a chain and the SHA-256 of its bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// What it says.
    pub entry: Entry,
    /// The SHA-256 of its bytes.
    pub sha256: Digest,
}

/// What stands before an entry.
#[derive(Debug, Clone, Copy, Default)]
pub struct Before<'a> {
    /// The entry before it and the SHA-256 of its bytes; `None` for entry 0.
    pub previous: Option<(&'a Entry, Digest)>,
    /// The last entry of its own lineage; `None` where it begins one.
    pub lineage: Option<&'a Entry>,
    /// The last entry of the lineage that its own continues; asked for only where it begins a lineage.
    pub continued: Option<&'a Entry>,
}

/// What of a chain's entries is asked for by the laws of those that follow them: for readers who do not keep the chain.
///
/// It does not grow with the chain, but for file names that are none of Lakeferry's. It refuses every entry that
/// [`check_chain`] refuses, though maybe by another law: a native name that comes a second time is told as such while
/// its first offset is not below the resume offset. Further on other laws refuse it: it repeats an epoch, which must be
/// the last one (of names), so its entry has the same lineage, and it repeats a first offset, which is published there
/// (of touching spans, of routed files).
#[derive(Debug, Clone, Default)]
pub struct ChainSoFar {
    /// The lineage and the SHA-256 of the last entry.
    end: Option<(u32, Digest)>,
    /// The last entry of each lineage, without its files.
    last_by_lineage: BTreeMap<u32, Entry>,
    /// The native names of the last epoch that no other law holds off: path and first offset.
    native: BTreeMap<String, i64>,
    /// The paths of all files with other names.
    others: BTreeSet<String>,
}

impl<'a> Before<'a> {
    /// What stands before `entry` where nothing but the entry just before it matters: always, unless `entry` goes back
    /// to an older lineage, or continues another one than that of the entry before it.
    pub fn following(previous: &'a Entry, sha256: Digest, entry: &Entry) -> Self {
        let of = |lineage: u32| (previous.source.lineage == lineage).then_some(previous);
        Self {
            previous: Some((previous, sha256)),
            lineage: of(entry.source.lineage),
            continued: entry.source.continues.and_then(|continues| of(continues.lineage)),
        }
    }
}

/// Every law that `entry` breaks, given what stands before it.
pub fn check_entry(entry: &Entry, before: &Before<'_>) -> Vec<Violation> {
    let case = Case { entry, before: *before, base: Base::of(entry, before) };
    let mut violations = Vec::new();
    for (law, check) in identity::LAWS.iter().chain(files::LAWS).chain(accounting::LAWS) {
        let mut findings = Findings(Vec::new());
        check(&case, &mut findings);
        let found = findings.0.into_iter();
        violations.extend(found.map(|(field, text)| Violation { seq: entry.seq, law, field, text }));
    }
    violations
}

/// Every law that a whole chain breaks, in its order. The chain must begin at entry 0.
pub fn check_chain(chain: &[Link]) -> Vec<Violation> {
    ChainSoFar::default().check(chain)
}

impl ChainSoFar {
    /// What `chain`, which begins at entry 0, leaves to be known of it.
    pub fn of(chain: &[Link]) -> Self {
        let mut so_far = Self::default();
        so_far.extend(chain);
        so_far
    }

    /// Every law that `links`, which follow it, break, in their order.
    pub fn check(&self, links: &[Link]) -> Vec<Violation> {
        let mut violations = Vec::new();
        let mut last_by_lineage: BTreeMap<u32, &Entry> = BTreeMap::new();
        let mut paths: BTreeSet<&str> = BTreeSet::new();
        let known = self.end.and_then(|(lineage, sha256)| Some((self.last_by_lineage.get(&lineage)?, sha256)));
        let mut previous: Option<(&Entry, Digest)> = known;
        for Link { entry, sha256 } in links {
            let last = |lineage| last_by_lineage.get(&lineage).copied().or_else(|| self.last_by_lineage.get(&lineage));
            let before = Before {
                previous,
                lineage: last(entry.source.lineage),
                continued: entry.source.continues.and_then(|continues| last(continues.lineage)),
            };
            violations.extend(check_entry(entry, &before));
            for (at, file) in entry.files.iter().enumerate() {
                let is_known = self.native.contains_key(&file.path) || self.others.contains(&file.path);
                if is_known || !paths.insert(&file.path) {
                    violations.push(Violation {
                        seq: entry.seq,
                        law: "unique names",
                        field: format!("files[{at}].path"),
                        text: format!("{} is named a second time; a name is used once", file.path),
                    });
                }
            }
            last_by_lineage.insert(entry.source.lineage, entry);
            previous = Some((entry, *sha256));
        }
        violations
    }

    /// Comes past `links`, which follow it.
    pub fn extend(&mut self, links: &[Link]) {
        let mut last_by_lineage: BTreeMap<u32, &Entry> = BTreeMap::new();
        for Link { entry, sha256 } in links {
            self.end = Some((entry.source.lineage, *sha256));
            last_by_lineage.insert(entry.source.lineage, entry);
            self.name(entry);
        }
        // No law asks for the files of an entry that stands before another.
        let bare = |entry: &Entry| Entry { files: Vec::new(), ..entry.clone() };
        self.last_by_lineage.extend(last_by_lineage.into_iter().map(|(lineage, entry)| (lineage, bare(entry))));
    }

    fn name(&mut self, entry: &Entry) {
        if entry.kind != EntryKind::Commit {
            self.native.clear();
        }
        for file in &entry.files {
            if native_name(&file.path).is_some() {
                self.native.insert(file.path.clone(), file.first_offset);
            } else {
                self.others.insert(file.path.clone());
            }
        }
        let resume = entry.resume_offset.unwrap_or(i64::MAX);
        self.native.retain(|_, first_offset| *first_offset >= resume);
    }
}

/// What the name of the object at `path` says, where it is one of Lakeferry's.
fn native_name(path: &str) -> Option<ObjectName> {
    path.rsplit('/').next()?.parse().ok()
}

/// A law: reports what breaks it.
type Law = (&'static str, fn(&Case<'_>, &mut Findings));

/// What a law looks at.
struct Case<'a> {
    entry: &'a Entry,
    before: Before<'a>,
    base: Base,
}

/// Where the accounting of an entry begins: what was published before it, as far as its lineage can see.
struct Base {
    /// The smallest offset not yet published; `None` where the lineage has not begun (a reset).
    resume: Option<i64>,
    /// The offsets beyond it that are published all the same.
    ahead: Vec<OffsetRange>,
}

impl Base {
    fn of(entry: &Entry, before: &Before<'_>) -> Self {
        if let Some(last) = before.lineage {
            // After a reset the next opening says where the lineage begins.
            return match last.resume_offset {
                Some(resume) => Self { resume: Some(resume), ahead: last.ahead.ranges().collect() },
                None => Self { resume: entry.source.first, ahead: Vec::new() },
            };
        }
        // A lineage that continues another inherits what that one had published ahead, below the border.
        let border = entry.source.continues.map(|continues| continues.before.saturating_sub(1));
        let inherited = before.continued.zip(border).map(|(continued, border)| {
            let clipped = continued.ahead.ranges().map(|run| OffsetRange::new(run.from, run.to.min(border)));
            clipped.filter(|run| run.from <= run.to).collect()
        });
        Self { resume: entry.source.first, ahead: inherited.unwrap_or_default() }
    }
}

/// Collects what a law finds: member and explanation.
struct Findings(Vec<(String, String)>);

impl Findings {
    fn add(&mut self, field: impl Into<String>, text: impl Into<String>) {
        self.0.push((field.into(), text.into()));
    }

    /// Unless `holds`, `field` is wrong as `text` says.
    fn expect(&mut self, holds: bool, field: impl Into<String>, text: impl FnOnce() -> String) {
        if !holds {
            self.add(field, text());
        }
    }
}

/// The number of offsets in `range`.
fn width(range: OffsetRange) -> i128 {
    (i128::from(range.to) - i128::from(range.from) + 1).max(0)
}

/// How many offsets of `range` are in `runs`, which are sorted and disjoint.
fn overlap(runs: &[OffsetRange], range: OffsetRange) -> i128 {
    let first = runs.partition_point(|run| run.to < range.from);
    let touching = runs[first..].iter().take_while(|run| run.from <= range.to);
    touching.map(|run| width(OffsetRange::new(run.from.max(range.from), run.to.min(range.to)))).sum()
}

/// The sum of counts of any size.
fn sum<'a>(counts: impl IntoIterator<Item = &'a u64>) -> i128 {
    counts.into_iter().map(|count| i128::from(*count)).sum()
}

#[cfg(test)]
pub(crate) mod tests;
